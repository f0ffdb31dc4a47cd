"""How fast token streams are made on one core, and which share of a training step that takes.

There are three rates: documents drawn and labelled, many at once, which has a target for most streams; the same packed
into many rows; and packed into the few rows of a training step. Each rate is measured in a fresh process with one
thread. It counts processor time, which other programs do not affect, and the fastest of several rounds.

The share comes from the log of a short training of a small model (seconds_for_data by seconds), between two rows after
its start and before its validation. So do the tokens per second that it trains on, without padding. They have a target
for polynomials, with the default settings and with notebook 05's ring, tight packing and more rows per step.

Example: python benchmarks/data_rates.py --rounds 3 --seconds 1 --steps 30
"""

import argparse
import json
import os
import tempfile
import time
from typing import Any

import numpy as np
from common import fresh_process, save

from data_gen.polynomials.stream import Polynomials
from mtp_lab.tasks import TASKS, ChoiceProcessTask, PolynomialsTask, StarGraphTask, StoriesTask, Task

# name -> task, its fields, what is counted, and the target per second on one core (0: none)
STREAMS: dict[str, tuple[type, dict[str, Any], str, int]] = {
    "polynomials F7[X]/(X^5)": (PolynomialsTask, {"stream": Polynomials(p=7, d=5)}, "documents", 300_000),
    "polynomials F2[X]/(X^4)": (PolynomialsTask, {"stream": Polynomials(p=2, d=4)}, "documents", 800_000),
    "stories": (StoriesTask, {}, "documents", 20_000),
    "star graphs G(5, 5)": (StarGraphTask, {}, "documents", 100_000),
    "choice process": (ChoiceProcessTask, {}, "tokens", 0),
}
DOCUMENTS, BATCH = 20_000, 32
CALLS = {"drawn": DOCUMENTS, "packed": 4096, "packed, training step": BATCH}  # documents, or rows
SHARE = 0.05  # of a step, the upper limit
WIDTH, LAYERS = 64, 6
# name -> task, its fields, rows per step, and the target in real tokens per second on one core (0: none)
TRAININGS: dict[str, tuple[type, dict[str, Any], int, int]] = {
    **{name: (kind, {}, BATCH, 0) for name, kind in TASKS.items()},
    "polynomials": (PolynomialsTask, {}, BATCH, 25_000),
    "polynomials F2[X]/(X^4), tight, 96 x 64": (
        PolynomialsTask,
        {"stream": Polynomials(p=2, d=4), "seq": 64, "tight": True},
        96,
        25_000,
    ),
}
TIMEOUT = 3600  # seconds for one process, on a machine that other programs also use


def worker(job: dict[str, Any]) -> dict[str, float]:
    """Runs a job in this process: the measurement of a rate, or a training."""
    return share(job) if "steps" in job else rate(job)


def rate(job: dict[str, Any]) -> dict[str, float]:
    """Documents or tokens per second, in the fastest round."""
    kind, fields, unit, _ = STREAMS[job["stream"]]
    task: Task = kind(**fields)
    make = drawn if job["call"] == "drawn" else packed
    make(task, job["size"], 0, unit)  # warm up: some code is compiled at the first call
    rates = []
    for seed in range(1, 1 + job["rounds"]):
        started, made = time.process_time(), 0
        while (passed := time.process_time() - started) < job["seconds"]:
            made += make(task, job["size"], seed, unit)
        rates.append(made / passed)
    return {"per_second": max(rates)}


def drawn(task: Task, documents: int, seed: int, unit: str) -> int:
    """Draws documents, and returns their number or that of their tokens."""
    length = (task.seq,) if isinstance(task, ChoiceProcessTask) else ()
    made = task.stream.documents(documents, *length, np.random.default_rng(seed))
    return len(made.tokens) if unit == "tokens" else len(made)


def packed(task: Task, rows: int, seed: int, unit: str) -> int:
    """Makes a batch, and returns the number of its documents or tokens."""
    batch = task.batch(rows, 0, seed)
    return batch.real_tokens if unit == "tokens" else int(batch.documents.max()) + 1


def share(job: dict[str, Any]) -> dict[str, float]:
    """The share of a step that a training waits for its batch, the seconds of a step, and real tokens per second."""
    import torch

    from mtp_lab.config import ModelConfig, TrainConfig
    from mtp_lab.training import runs

    torch.set_num_threads(1)
    kind, fields, rows, _ = TRAININGS[job["task"]]
    task, steps = kind(**fields), job["steps"]
    model = ModelConfig(vocab_size=task.vocab_size, d_model=WIDTH, n_layers=LAYERS)
    logged = dict(log_every=max(1, steps // 4), evaluate_every=steps, evaluate_rows=2, checkpoint_every=steps)
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(task=task, model=model, steps=steps, batch_size=rows, **logged)
        log = runs.get_run(config, folder).log()
    first, last = log[1], log[-2]
    data, seconds = (last[key] - first[key] for key in ("seconds_for_data", "seconds"))
    timed = range(first["step"], last["step"])
    real = sum(task.batch(rows, step, config.seed).real_tokens for step in timed)
    return {"share": data / seconds, "seconds_per_step": seconds / len(timed), "tokens_per_second": real / seconds}


def rates(rounds: int, seconds: float) -> list[dict[str, Any]]:
    rows = []
    for name, (_, _, unit, target_drawn) in STREAMS.items():
        for call, size in CALLS.items():
            job = {"stream": name, "call": call, "size": size}
            done = fresh_process(__file__, job | {"rounds": rounds, "seconds": seconds}, TIMEOUT)
            target = target_drawn if call == "drawn" else 0
            rows.append(job | {"unit": unit, "target": target} | done)
            verdict = f"target {target:9,d}" + "  NOT REACHED" * (done["per_second"] < target) if target else ""
            print(f"{name:26s} {call:22s} {done['per_second']:12,.0f} {unit}/s  {verdict}", flush=True)
    return rows


def shares(steps: int) -> list[dict[str, Any]]:
    rows = []
    for name, (*_, target) in TRAININGS.items():
        done = fresh_process(__file__, {"task": name, "steps": steps}, TIMEOUT)
        rows.append({"task": name, "target": SHARE, "target_tokens": target} | done)
        waiting, speed = done["share"], done["tokens_per_second"]
        verdict = f"target below {SHARE:.0%}" + "  NOT REACHED" * (waiting >= SHARE)
        print(f"{name:40s} data: {waiting:6.2%} of {done['seconds_per_step']:.3f} s a step  {verdict}")
        verdict = f"target {target:9,d}" + "  NOT REACHED" * (speed < target) if target else ""
        print(f"{'':40s} trained {speed:8,.0f} real tokens/s  {verdict}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each rate; the fastest counts")
    parser.add_argument("--seconds", type=float, default=0.5, help="duration of a round in seconds, above 0")
    parser.add_argument("--steps", type=int, default=20, help="steps of each training")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(json.loads(options.worker))))
        return
    if options.rounds < 1 or not options.seconds > 0 or options.steps < 8:
        parser.error(
            f"rounds={options.rounds} must be at least 1, seconds={options.seconds} above 0, "
            f"steps={options.steps} at least 8"
        )
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # for the workers, before they load NumPy
    content = {"rates": rates(options.rounds, options.seconds), "shares": shares(options.steps)}
    shape = f"d={WIDTH}, {LAYERS} layers, batch {BATCH} unless named, one thread"
    save("data_rates", {"one_core": True, "training": shape, **content})


if __name__ == "__main__":
    main()
