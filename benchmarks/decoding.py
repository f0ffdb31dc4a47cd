"""Decoding against Hugging Face on the same weights: tokens per second, and the time of a forward pass by context.

A run of a byte model is exported and read back as a LlamaForCausalLM. By default this is notebook 03's model of n = 8
on code at preset quick, and a smaller model of n = 1 is the assistant. They are trained first if they are not in runs/,
which takes a minute or two.

All contestants continue the same held-out text greedily in fp32: Hugging Face's generate, a bare loop around its model
and cache, its two kinds of speculation (prompt lookup and a small assistant, both for one row at a time), and our
generate with k heads. Peers use sdpa or eager attention; a first measurement of generate decides which is faster.

A round is a fresh process in which every contestant runs once, in an order that rotates. The fastest round counts, and
the slowest is stored beside it. All tokens are compared with those of Hugging Face's generate on single rows. A
difference is stored with its position and the distance of the two logits.

Example: python benchmarks/decoding.py --run runs/bytes/full-library-n8-ca0103e5c9 --new 128 --rounds 3
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from common import RESULTS, fresh_process, save
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, DynamicCache, LlamaForCausalLM

from mtp_lab import figures
from mtp_lab.config import ModelConfig, TrainConfig
from mtp_lab.decoding.decoder import Decoder
from mtp_lab.decoding.generation import generate
from mtp_lab.evaluation.acceptance import real_prompts
from mtp_lab.experiments.self_speculation.conditions import speculation_configs
from mtp_lab.figures.comparisons import decoding_speed
from mtp_lab.model.llama import export
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.training import runs
from mtp_lab.training.runs import Run, open_run

BATCHES = (1, 8, 32)
GENERATE, LOOP, OURS = "HF generate", "HF bare loop", "mtp-lab"
LOOKUPS, ASSISTED = (3, 10), (5, 20)  # tokens proposed at once: few, and those of HF's documentation and defaults
TARGETS = {"k = best to k = 1": 3.5, "k = 1 to HF generate": 1.5, "k = 1 to HF bare loop": 1.0}
LONGEST, TRIES = 2048, 3  # for growth: tokens in the cache at its end, and repetitions
TIMEOUT = 3600  # seconds
RUNS = Path(__file__).parents[1] / "runs"
SMALL = dict(d_model=32, n_attention_heads=2, n_layers=2)  # the assistant by default

Contestant = Callable[[Tensor], tuple[Tensor, list[int]]]
"""(rows, length) prompts -> (rows, new) tokens, and the number of forward passes of each row."""


# --- The contestants ------------------------------------------------------------------------------------------------


def llama(folder: str, attention: str) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32).eval()


def by_generate(model: LlamaForCausalLM, new: int, **options: Any) -> Contestant:
    def run(prompts: Tensor) -> tuple[Tensor, list[int]]:
        forward_passes: list[None] = []
        handle = model.register_forward_hook(lambda *_: forward_passes.append(None))
        settings = dict(attention_mask=torch.ones_like(prompts), max_new_tokens=new, do_sample=False, use_cache=True)
        tokens = model.generate(prompts, **settings, **options)[:, prompts.shape[1] :]
        handle.remove()
        return tokens, [len(forward_passes)] * len(prompts)

    return run


def assisted(model: LlamaForCausalLM, assistant: LlamaForCausalLM, drafts: int, new: int) -> Contestant:
    def run(prompts: Tensor) -> tuple[Tensor, list[int]]:
        assistant.generation_config.num_assistant_tokens = drafts
        return by_generate(model, new, assistant_model=assistant)(prompts)

    return run


def bare_loop(model: LlamaForCausalLM, new: int) -> Contestant:
    @torch.inference_mode()
    def run(prompts: Tensor) -> tuple[Tensor, list[int]]:
        cache, tokens, inputs = DynamicCache(config=model.config), [], prompts
        for _ in range(new):
            logits = model(inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            inputs = logits[:, -1].argmax(dim=-1, keepdim=True)  # (rows, 1)
            tokens.append(inputs)
        return torch.cat(tokens, dim=1), [new] * len(prompts)

    return run


def ours(decoder: Decoder, new: int) -> Contestant:
    def run(prompts: Tensor) -> tuple[Tensor, list[int]]:
        generation = generate(decoder, prompts, new)
        return generation.tokens, generation.forward_passes.tolist()

    return run


def drafts_of(n: int) -> list[int]:
    """1, 2, 4, ... and n."""
    return sorted({n, *(2**i for i in range(n.bit_length()) if 2**i < n)})


def contestants(task: dict[str, Any], peer: LlamaForCausalLM, model: MTPTransformer, batch: int) -> dict[str, Any]:
    """All contestants that can decode `batch` rows, by name."""
    new, by_name = task["new"], {}
    by_name[GENERATE] = by_generate(peer, new)
    by_name[LOOP] = bare_loop(peer, new)
    if batch == 1:
        for drafts in LOOKUPS:
            by_name[f"HF prompt lookup, {drafts}"] = by_generate(peer, new, prompt_lookup_num_tokens=drafts)
        if task["assistant"]:
            assistant = llama(task["assistant"], peer.config._attn_implementation)
            for drafts in ASSISTED:
                by_name[f"HF assistant, {drafts}"] = assisted(peer, assistant, drafts, new)
    for k in drafts_of(model.config.n_future):
        by_name[f"{OURS}, k = {k}"] = ours(Decoder(model, k), new)
    return by_name


# --- The measurements of a process -----------------------------------------------------------------------------------


def worker(task: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(task["threads"])
    return {"attention": attention, "round": one_round, "growth": growth}[task["measure"]](task)


def attention(task: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Seconds of generate by batch and kind of attention: the fastest of TRIES, in turns."""
    prompts, models = torch.tensor(task["prompts"]), {kind: llama(task["llama"], kind) for kind in ("sdpa", "eager")}
    seconds: dict[str, dict[str, float]] = {}
    for batch in task["batches"]:
        tries: dict[str, list[float]] = {kind: [] for kind in models}
        for _ in range(TRIES):
            for kind, model in models.items():
                started = time.perf_counter()
                by_generate(model, task["new"])(prompts[:batch])
                tries[kind].append(time.perf_counter() - started)
        seconds[str(batch)] = {kind: min(times) for kind, times in tries.items()}
    return seconds


def one_round(task: dict[str, Any]) -> dict[str, Any]:
    """Every contestant at every batch size, once."""
    prompts, model = torch.tensor(task["prompts"]), open_run(task["run"]).model()
    rows, texts = [], {}
    for batch in task["batches"]:
        kind = task["attention"][str(batch)]
        by_name = list(contestants(task, llama(task["llama"], kind), model, batch).items())
        start = task["round"] % len(by_name)
        for name, run in by_name[start:] + by_name[:start]:
            run(prompts[:batch])  # warm up
            started = time.perf_counter()
            results = [run(group) for group in prompts.split(batch)]
            seconds = time.perf_counter() - started
            texts[name, batch] = torch.cat([tokens for tokens, _ in results])  # (rows, new)
            forward_passes = [count for _, counts in results for count in counts]
            rows.append(
                {
                    "contestant": name,
                    "batch": batch,
                    "threads": task["threads"],
                    "tokens_per_second": len(prompts) * task["new"] / seconds,
                    "tokens_per_forward_pass": statistics.median(task["new"] / count for count in forward_passes),
                    "attention": None if name.startswith(OURS) else kind,
                }
            )
    judge = llama(task["llama"], task["attention"]["1"])
    expected = texts[GENERATE, 1]
    differing = [
        {"contestant": name, "batch": batch, "threads": task["threads"], "round": task["round"], **difference}
        for (name, batch), tokens in texts.items()
        for difference in differences(judge, prompts, expected, tokens)
    ]
    return {"rows": rows, "differences": differing}


@torch.inference_mode()
def differences(judge: LlamaForCausalLM, prompts: Tensor, expected: Tensor, tokens: Tensor) -> list[dict[str, Any]]:
    """For every row that differs: its first differing position, the two tokens, and Hugging Face's logits of them."""
    differing = []
    for row in torch.nonzero((tokens != expected).any(dim=1)).flatten().tolist():
        at = int(torch.nonzero(tokens[row] != expected[row])[0])
        logits = judge(torch.cat((prompts[row], expected[row, :at]))[None]).logits[0, -1]  # (vocab,)
        pair = [int(expected[row, at]), int(tokens[row, at])]
        gap = float(logits[pair[0]] - logits[pair[1]])
        differing.append({"row": row, "position": at, "tokens": pair, "logits": logits[pair].tolist(), "gap": gap})
    return differing


def growth(task: dict[str, Any]) -> dict[str, Any]:
    """Seconds of our forward pass at k = 1 on one row, by the number of tokens in its cache; the fastest of TRIES.

    The model has the weights of the run, but more positions than it was trained for: only the time matters here.
    """
    trained = open_run(task["run"]).model()
    model = MTPTransformer(replace(trained.config, max_seq=LONGEST))
    model.load_state_dict(trained.state_dict())
    decoder, prompt = Decoder(model, 1), task["prompts"][0]
    tries, caches = [], set()
    for attempt in range(TRIES):
        times: list[float] = []

        def note(row: int, tokens: list[int], times: list[float] = times, attempt: int = attempt) -> None:
            caches.add((attempt, decoder.rows.text.data_ptr(), *(layer.cache.data_ptr() for layer in decoder.layers)))
            times.append(time.perf_counter())

        generate(decoder, [prompt], LONGEST - len(prompt), stream=note)
        tries.append(np.diff(times))
    seconds = np.min(tries, axis=0)  # (LONGEST - prompt - 1,)
    context = len(prompt) + 1 + np.arange(len(seconds))  # keys that the forward pass attended to
    parts = np.array_split(np.arange(len(seconds)), 16)
    context, seconds = (np.array([np.median(values[part]) for part in parts]) for values in (context, seconds))
    slope, fixed = np.polyfit(context, seconds, 1)
    return {
        "context": context.tolist(),
        "seconds": seconds.tolist(),
        "fixed_seconds": float(fixed),
        "seconds_per_token_of_context": float(slope),
        "correlation": float(np.corrcoef(context, seconds)[0, 1]),
        "forward_passes": len(tries[0]),
        "sets_of_caches_in_a_generation": len(caches) / TRIES,
    }


# --- The models ------------------------------------------------------------------------------------------------------


def default_configs() -> tuple[TrainConfig, TrainConfig]:
    """The configs of the decoded model and of the assistant."""
    quick = speculation_configs("quick", seeds=1)
    model = next(c for c in quick if c.task.source == "library" and c.model.n_future == 8)
    small = ModelConfig(**SMALL, max_seq=model.model.max_seq)
    return model, replace(model, model=small, horizon_weights=(), name="bench-assistant")


def models(run: str | None, assistant: str | None) -> tuple[Run, Run | None]:
    """The named runs; by default those of `default_configs`, which are trained if necessary.

    Raises:
        ValueError: for a folder without a finished run.
    """
    if run is None:
        model, small = (runs.get_run(config, RUNS) for config in default_configs())
        return model, open_run(assistant) if assistant else small
    return open_run(run), open_run(assistant) if assistant else None


# --- The benchmark ---------------------------------------------------------------------------------------------------


def measured(task: dict[str, Any], threads: list[int], rounds: int) -> dict[str, Any]:
    """Runs all processes one after the other; returns the best of the rounds, and all differences."""
    script, rows, differing, kinds = __file__, [], [], {}
    with tqdm(total=len(threads) * (1 + rounds) + 1, desc="decoding", unit="process") as bar:

        def process(task: dict[str, Any]) -> dict[str, Any]:
            result = fresh_process(script, task, TIMEOUT)
            bar.update()
            return result

        for count in threads:
            task = task | {"threads": count}
            kinds[str(count)] = process(task | {"measure": "attention"})
            chosen = {batch: min(times, key=times.get) for batch, times in kinds[str(count)].items()}
            for number in range(rounds):
                result = process(task | {"measure": "round", "round": number, "attention": chosen})
                rows += result["rows"]
                differing += result["differences"]
        by_context = process(task | {"measure": "growth", "threads": threads[0]})
    return {"rows": best(rows), "differences": differing, "attention_seconds": kinds, "growth": by_context}


def best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per contestant, batch size and number of threads, with its fastest round, its slowest, and all rounds."""
    together: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["threads"], row["batch"])):
        together.setdefault((row["threads"], row["batch"], row["contestant"]), []).append(row)
    merged = []
    for same in together.values():
        speeds = [row["tokens_per_second"] for row in same]
        merged.append(same[0] | {"tokens_per_second": max(speeds), "slowest": min(speeds), "rounds": speeds})
    return merged


def ratios(rows: list[dict[str, Any]], threads: int) -> dict[str, Any]:
    """The ratios that have a target, at batch 1."""
    speed = {r["contestant"]: r["tokens_per_second"] for r in rows if (r["threads"], r["batch"]) == (threads, 1)}
    plain, fastest = speed[f"{OURS}, k = 1"], max((name for name in speed if name.startswith(OURS)), key=speed.get)
    values = (speed[fastest] / plain, plain / speed[GENERATE], plain / speed[LOOP])
    return {"threads": threads, "best": fastest} | dict(zip(TARGETS, values, strict=True))


def speeds(content: dict[str, Any]) -> pd.DataFrame:
    """The rows as a table for decoding_speed."""
    table = pd.DataFrame(content["rows"]).drop(columns="rounds")
    return table.assign(ours=table.contestant.str.startswith(OURS))


def picture(content: dict[str, Any]) -> go.Figure:
    """Tokens per second of all contestants."""
    rounds = len(content["rows"][0]["rounds"])
    caption = (
        f"Greedy, fp32, {content['prompts']} prompts of {content['prompt']} bytes of code, each continued by "
        f"{content['new']} bytes. Bars: fastest of {rounds} rounds; whiskers end at the slowest. k: heads used."
    )
    return decoding_speed(speeds(content), "Decoding on the same weights: Hugging Face and mtp-lab", caption)


def threads_text(count: int) -> str:
    return f"{count} thread" + "s" * (count > 1)


def report(content: dict[str, Any]) -> None:
    """Prints the results as tables and sentences."""
    table = pd.DataFrame(content["rows"])
    table["shown"] = [
        f"{r.tokens_per_second:.0f} ({r.slowest:.0f}) {r.tokens_per_forward_pass:.2f}" for r in table.itertuples()
    ]
    for threads, part in table.groupby("threads"):
        print(f"\n{threads_text(threads)}: tokens/s in the fastest round (the slowest), median tokens per forward pass")
        order = [name for name in dict.fromkeys(table.contestant) if name in set(part.contestant)]
        print(part.pivot(index="contestant", columns="batch", values="shown").loc[order].fillna("-").to_string())
    growth = content["growth"]
    print(
        f"\na forward pass at k = 1: {1e3 * growth['fixed_seconds']:.3f} ms + "
        f"{1e9 * growth['seconds_per_token_of_context']:.1f} ns for each token in the cache (correlation "
        f"{growth['correlation']:.2f}); {growth['sets_of_caches_in_a_generation']:.0f} set of caches in a generation "
        f"of {growth['forward_passes']} forward passes"
    )
    for difference in content["differences"]:
        print(
            "DIFFERS: {contestant}, batch {batch}, {threads} thread(s), round {round}, row {row}: token {position} is "
            "{tokens[1]} instead of {tokens[0]}, difference of the logits {gap:.2e}".format(**difference)
        )
    if not content["differences"]:
        print("all contestants produced the same tokens")
    for ratio in content["ratios"]:
        parts = [f"{name} x{ratio[name]:.2f} (target {target})" for name, target in TARGETS.items()]
        print(f"{threads_text(ratio['threads'])}, batch 1, best is {ratio['best']}: " + ", ".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="folder of a finished run of a byte model; by default a small one, trained first")
    parser.add_argument("--assistant", help="folder of a finished run of a smaller byte model, for assisted generation")
    parser.add_argument("--prompt", type=int, default=64, help="bytes of a prompt")
    parser.add_argument("--new", type=int, default=48, help="bytes to generate after it")
    parser.add_argument("--rows", type=int, default=32, help="prompts; a multiple of every batch size it allows")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads, in this order")
    parser.add_argument("--rounds", type=int, default=2, help="rounds; in each, every contestant runs once")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(json.loads(options.worker))))
        return
    if options.rounds < 1 or options.rows < 1 or min(options.threads) < 1:
        parser.error(f"--rounds {options.rounds}, --rows {options.rows}, --threads {options.threads}: all at least 1")
    try:
        run, assistant = models(options.run, options.assistant)
    except ValueError as error:
        parser.error(str(error))
    for named in filter(None, (run, assistant)):
        if named.config.task.name != "bytes":
            parser.error(f"{named.path} is a run of {named.config.task.name}; name a run of bytes")
        if options.prompt + options.new > named.config.model.max_seq:
            limit = f"max_seq={named.config.model.max_seq} of {named.path.name}"
            parser.error(f"--prompt {options.prompt} + --new {options.new} exceed {limit}")
    batches = [batch for batch in BATCHES if options.rows % batch == 0]
    prompts = real_prompts(run.config.task, options.rows, options.prompt)
    with tempfile.TemporaryDirectory() as folder:
        task = {"run": str(run.path), "llama": str(Path(folder, "llama")), "assistant": None}
        export(run.model(), task["llama"], byte_tokenizer=True)
        if assistant:
            task["assistant"] = str(Path(folder, "assistant"))
            export(assistant.model(), task["assistant"], byte_tokenizer=True)
        task |= {"prompts": prompts, "new": options.new, "batches": batches}
        content = measured(task, options.threads, options.rounds)
    content["ratios"] = [ratios(content["rows"], threads) for threads in options.threads]
    setting = {"run": run.path.name, "assistant": assistant and assistant.path.name, "new": options.new}
    content = setting | {"prompt": options.prompt, "prompts": options.rows} | content
    save("decoding", content)
    figures.save(picture(content), RESULTS, "decoding_speed", speeds(content))
    report(content)


if __name__ == "__main__":
    main()
