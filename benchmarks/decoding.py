"""Decoding against Hugging Face on the same weights: tokens a second, and what a forward costs as the context grows.

A run of a byte model is exported and read back as a LlamaForCausalLM: by default notebook 03's of n = 8 on code at
preset quick, with a smaller one of n = 1 as the assistant; they are trained first where they are not in runs/ (a minute
or two). Then everyone continues the same held-out text greedily in fp32: Hugging Face's generate, a bare loop around
its model and cache, its two ways of speculating (prompt lookup, a small assistant; one row at a time is all they do),
and our generate with k heads. Peers use sdpa or eager attention, whichever a first measurement of generate finds
faster. A round is a fresh process in which all take turns, in an order that rotates; the fastest round counts, the
slowest is kept beside it. Whoever writes other tokens than Hugging Face's generate on single rows is named, with the
place and the distance of the two logits.

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
LOOKUPS, ASSISTED = (3, 10), (5, 20)  # tokens proposed at once: few, and what HF's documentation and defaults say
BARS = {"k = best to k = 1": 3.5, "k = 1 to HF generate": 1.5, "k = 1 to HF bare loop": 1.0}
LONGEST, TRIES = 2048, 3  # tokens in the cache at the end of the measurement of growth, and how often it is made
HOUR = 3600
RUNS = Path(__file__).parents[1] / "runs"
SMALL = dict(d_model=32, n_attention_heads=2, n_layers=2)  # the assistant by default

Contestant = Callable[[Tensor], tuple[Tensor, list[int]]]
"""(rows, length) prompts -> (rows, new) tokens, and the forwards that each row took."""


# --- The contestants ------------------------------------------------------------------------------------------------


def llama(folder: str, attention: str) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32).eval()


def by_generate(model: LlamaForCausalLM, new: int, **options: Any) -> Contestant:
    def run(prompts: Tensor) -> tuple[Tensor, list[int]]:
        forward_passes: list[None] = []
        handle = model.register_forward_hook(lambda *_: forward_passes.append(None))
        mask = torch.ones_like(prompts)
        options_ = dict(attention_mask=mask, max_new_tokens=new, do_sample=False, use_cache=True, **options)
        tokens = model.generate(prompts, **options_)[:, prompts.shape[1] :]
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
        cache, tokens, read = DynamicCache(config=model.config), [], prompts
        for _ in range(new):
            logits = model(read, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            read = logits[:, -1].argmax(dim=-1, keepdim=True)  # (rows, 1)
            tokens.append(read)
        return torch.cat(tokens, dim=1), [new] * len(prompts)

    return run


def ours(decoder: Decoder, new: int) -> Contestant:
    def run(prompts: Tensor) -> tuple[Tensor, list[int]]:
        found = generate(decoder, prompts, new)
        return found.tokens, found.forward_passes.tolist()

    return run


def drafts_of(n: int) -> list[int]:
    """1, 2, 4, ... and n."""
    return sorted({n, *(2**i for i in range(n.bit_length()) if 2**i < n)})


def contestants(task: dict[str, Any], peer: LlamaForCausalLM, model: MTPTransformer, batch: int) -> dict[str, Any]:
    """Everyone who can decode `batch` rows, by name."""
    new, found = task["new"], {}
    found[GENERATE] = by_generate(peer, new)
    found[LOOP] = bare_loop(peer, new)
    if batch == 1:
        for drafts in LOOKUPS:
            found[f"HF prompt lookup, {drafts}"] = by_generate(peer, new, prompt_lookup_num_tokens=drafts)
        if task["assistant"]:
            assistant = llama(task["assistant"], peer.config._attn_implementation)
            for drafts in ASSISTED:
                found[f"HF assistant, {drafts}"] = assisted(peer, assistant, drafts, new)
    for k in drafts_of(model.config.n_future):
        found[f"{OURS}, k = {k}"] = ours(Decoder(model, k), new)
    return found


# --- What a process measures ----------------------------------------------------------------------------------------


def worker(task: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(task["threads"])
    return {"attention": attention, "round": one_round, "growth": growth}[task["measure"]](task)


def attention(task: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Seconds of generate by batch and kind of attention; the fastest of three, taken in turns."""
    prompts, models = torch.tensor(task["prompts"]), {kind: llama(task["llama"], kind) for kind in ("sdpa", "eager")}
    seconds: dict[str, dict[str, float]] = {}
    for batch in task["batches"]:
        tries: dict[str, list[float]] = {kind: [] for kind in models}
        for _ in range(TRIES):
            for kind, model in models.items():
                started = time.perf_counter()
                by_generate(model, task["new"])(prompts[:batch])
                tries[kind].append(time.perf_counter() - started)
        seconds[str(batch)] = {kind: min(found) for kind, found in tries.items()}
    return seconds


def one_round(task: dict[str, Any]) -> dict[str, Any]:
    """Every contestant at every batch size, once."""
    prompts, model = torch.tensor(task["prompts"]), open_run(task["run"]).model()
    rows, texts = [], {}
    for batch in task["batches"]:
        kind = task["attention"][str(batch)]
        everyone = list(contestants(task, llama(task["llama"], kind), model, batch).items())
        start = task["round"] % len(everyone)
        for name, run in everyone[start:] + everyone[:start]:
            run(prompts[:batch])  # what is made at the first call is made
            started = time.perf_counter()
            found = [run(group) for group in prompts.split(batch)]
            seconds = time.perf_counter() - started
            texts[name, batch] = torch.cat([tokens for tokens, _ in found])  # (rows, new)
            forward_passes = [count for _, counts in found for count in counts]
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
    found = [
        {"contestant": name, "batch": batch, "threads": task["threads"], "round": task["round"], **difference}
        for (name, batch), tokens in texts.items()
        for difference in differences(judge, prompts, expected, tokens)
    ]
    return {"rows": rows, "differences": found}


@torch.inference_mode()
def differences(judge: LlamaForCausalLM, prompts: Tensor, expected: Tensor, found: Tensor) -> list[dict[str, Any]]:
    """Of every row that differs: the first place, the two tokens, and the logits that Hugging Face gives them there."""
    differing = []
    for row in torch.nonzero((found != expected).any(dim=1)).flatten().tolist():
        at = int(torch.nonzero(found[row] != expected[row])[0])
        logits = judge(torch.cat((prompts[row], expected[row, :at]))[None]).logits[0, -1]  # (vocab,)
        tokens = [int(expected[row, at]), int(found[row, at])]
        apart = float(logits[tokens[0]] - logits[tokens[1]])
        differing.append(
            {"row": row, "position": at, "tokens": tokens, "logits": logits[tokens].tolist(), "gap": apart}
        )
    return differing


def growth(task: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a forward of ours at k = 1, one row, against the tokens in its cache; the fastest of TRIES.

    The weights are the run's, with room for more positions than it was trained for: only the time matters here.
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
    context = len(prompt) + 1 + np.arange(len(seconds))  # keys that the forward attended to
    parts = np.array_split(np.arange(len(seconds)), 16)
    context, seconds = (np.array([np.median(found[part]) for part in parts]) for found in (context, seconds))
    slope, fixed = np.polyfit(context, seconds, 1)
    return {
        "context": context.tolist(),
        "seconds": seconds.tolist(),
        "fixed_seconds": float(fixed),
        "seconds_per_token_of_context": float(slope),
        "correlation": float(np.corrcoef(context, seconds)[0, 1]),
        "forwards": len(tries[0]),
        "sets_of_caches_in_a_generation": len(caches) / TRIES,
    }


# --- The models ------------------------------------------------------------------------------------------------------


def default_configs() -> tuple[TrainConfig, TrainConfig]:
    """Of the model that is decoded, and of the assistant."""
    quick = speculation_configs("quick", seeds=1)
    model = next(c for c in quick if c.task.source == "library" and c.model.n_future == 8)
    small = ModelConfig(**SMALL, max_seq=model.model.max_seq)
    return model, replace(model, model=small, horizon_weights=(), name="bench-assistant")


def models(run: str | None, assistant: str | None) -> tuple[Run, Run | None]:
    """The runs that were named, otherwise those of default_configs, found or trained.

    Raises:
        ValueError: for a folder without a finished run.
    """
    if run is None:
        model, small = (runs.get_run(config, RUNS) for config in default_configs())
        return model, open_run(assistant) if assistant else small
    return open_run(run), open_run(assistant) if assistant else None


# --- The whole ------------------------------------------------------------------------------------------------------


def measured(task: dict[str, Any], threads: list[int], rounds: int) -> dict[str, Any]:
    """All processes, one after the other, and what they found: the best of the rounds, and all that differed."""
    script, rows, differing, kinds = __file__, [], [], {}
    with tqdm(total=len(threads) * (1 + rounds) + 1, desc="decoding", unit="process") as bar:

        def process(task: dict[str, Any]) -> dict[str, Any]:
            found = fresh_process(script, task, HOUR)
            bar.update()
            return found

        for count in threads:
            task = task | {"threads": count}
            kinds[str(count)] = process(task | {"measure": "attention"})
            chosen = {batch: min(found, key=found.get) for batch, found in kinds[str(count)].items()}
            for number in range(rounds):
                found = process(task | {"measure": "round", "round": number, "attention": chosen})
                rows += found["rows"]
                differing += found["differences"]
        grown = process(task | {"measure": "growth", "threads": threads[0]})
    return {"rows": best(rows), "differences": differing, "attention_seconds": kinds, "growth": grown}


def best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a contestant, batch size and number of threads: its fastest round, the slowest, and all."""
    together: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["threads"], row["batch"])):
        together.setdefault((row["threads"], row["batch"], row["contestant"]), []).append(row)
    found = []
    for same in together.values():
        speeds = [row["tokens_per_second"] for row in same]
        found.append(same[0] | {"tokens_per_second": max(speeds), "slowest": min(speeds), "rounds": speeds})
    return found


def ratios(rows: list[dict[str, Any]], threads: int) -> dict[str, Any]:
    """What the project has bars for, at batch 1."""
    speed = {r["contestant"]: r["tokens_per_second"] for r in rows if (r["threads"], r["batch"]) == (threads, 1)}
    plain, fastest = speed[f"{OURS}, k = 1"], max((name for name in speed if name.startswith(OURS)), key=speed.get)
    values = (speed[fastest] / plain, plain / speed[GENERATE], plain / speed[LOOP])
    return {"threads": threads, "best": fastest} | dict(zip(BARS, values, strict=True))


def speeds(content: dict[str, Any]) -> pd.DataFrame:
    """The rows as a table for decoding_speed."""
    table = pd.DataFrame(content["rows"]).drop(columns="rounds")
    return table.assign(ours=table.contestant.str.startswith(OURS))


def picture(content: dict[str, Any]) -> go.Figure:
    """Tokens a second of everyone."""
    rounds = len(content["rows"][0]["rounds"])
    caption = (
        f"Greedy, fp32, {content['prompts']} prompts of {content['prompt']} bytes of code, {content['new']} more "
        f"written behind each. Bars: fastest of {rounds} rounds; whiskers reach to the slowest. k: heads used."
    )
    return decoding_speed(speeds(content), "Decoding on the same weights: Hugging Face and mtp-lab", caption)


def report(content: dict[str, Any]) -> None:
    """The tables and sentences that people read."""
    table = pd.DataFrame(content["rows"])
    table["shown"] = [
        f"{r.tokens_per_second:.0f} ({r.slowest:.0f}) {r.tokens_per_forward_pass:.2f}" for r in table.itertuples()
    ]
    names = {threads: f"{threads} thread" + "s" * (threads > 1) for threads in table.threads.unique().tolist()}
    for threads, part in table.groupby("threads"):
        print(f"\n{names[threads]}: tokens/s in the fastest round (the slowest), median tokens a forward")
        order = [name for name in dict.fromkeys(table.contestant) if name in set(part.contestant)]
        print(part.pivot(index="contestant", columns="batch", values="shown").loc[order].fillna("-").to_string())
    grown = content["growth"]
    print(
        f"\na forward at k = 1: {1e3 * grown['fixed_seconds']:.3f} ms + "
        f"{1e9 * grown['seconds_per_token_of_context']:.1f} ns for each token in the cache (correlation "
        f"{grown['correlation']:.2f}); {grown['sets_of_caches_in_a_generation']:.0f} set of caches in a generation of "
        f"{grown['forwards']} forwards"
    )
    for one in content["differences"]:
        print(
            "DIFFERS: {contestant}, batch {batch}, {threads} thread(s), round {round}, row {row}: token {position} is "
            "{tokens[1]} instead of {tokens[0]}, logits {gap:.2e} apart".format(**one)
        )
    if not content["differences"]:
        print("all wrote the same tokens")
    for found in content["ratios"]:
        parts = [f"{name} x{found[name]:.2f} (bar {bar})" for name, bar in BARS.items()]
        print(f"{names[found['threads']]}, batch 1, best is {found['best']}: " + ", ".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="folder of a finished run of a byte model; by default a small one, trained first")
    parser.add_argument("--assistant", help="folder of a finished run of a smaller byte model, for assisted generation")
    parser.add_argument("--prompt", type=int, default=64, help="bytes of a prompt")
    parser.add_argument("--new", type=int, default=48, help="bytes to write behind it")
    parser.add_argument("--rows", type=int, default=32, help="prompts; a multiple of every batch size it allows")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads, in turn")
    parser.add_argument("--rounds", type=int, default=2, help="rounds in which the contestants take turns")
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
    for each in filter(None, (run, assistant)):
        if each.config.task.name != "bytes":
            parser.error(f"{each.path} is a run of {each.config.task.name}; give one of bytes")
        if options.prompt + options.new > each.config.model.max_seq:
            limit = f"max_seq={each.config.model.max_seq} of {each.path.name}"
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
    told = {"run": run.path.name, "assistant": assistant and assistant.path.name, "new": options.new}
    content = told | {"prompt": options.prompt, "prompts": options.rows} | content
    save("decoding", content)
    figures.save(picture(content), RESULTS, "decoding_speed", speeds(content))
    report(content)


if __name__ == "__main__":
    main()
