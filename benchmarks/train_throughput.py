"""Training steps per second against nanoGPT and Hugging Face Llama, with the same shape, batch, optimizer and machine.

Every contestant trains in a fresh process. The contestants take turns in several rounds, so that a slow moment of the
machine affects all of them; the median step of the fastest round counts. Peers run as shipped (fp32) and at their own
best (SDPA or eager attention, bf16 autocast where the processor has instructions for it). They run once more with our
settings of the memory allocator ("thresholds"), which any program could use.

A second measurement compares a step at n = 4 with one at n = 1, at equal parameters. It also gives the ratio of
floating-point operations in matrix products, which an exact loss cannot avoid.

nanoGPT is not installable: --nanogpt names its model.py, and without the option it is left out.

Example: python benchmarks/train_throughput.py --nanogpt ../nanoGPT/model.py
"""

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import existing_file, fresh_process, save

from mtp_lab.training.hardware import bf16_is_fast

SHAPES = ((32, 128), (8, 512))
LAYERS, WIDTH, HEADS, VOCAB = 6, 128, 4, 2048
AS_SHIPPED = (
    {"who": "nanoGPT", "precision": "fp32", "shipped": True},
    {"who": "HF Llama sdpa", "precision": "fp32", "shipped": True},
)
TARGETS = {128: 1.5, 512: 1.3}  # by length: speed relative to the best peer at its own best
SHIPPED_TARGET = 2.0  # relative to the best peer as shipped


def nanogpt(task: dict[str, Any], tokens: torch.Tensor) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    specification = importlib.util.spec_from_file_location("nanogpt_model", task["nanogpt"])
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    shape = dict(block_size=task["seq"], vocab_size=task["vocab"], n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH)
    model = module.GPT(module.GPTConfig(**shape, dropout=0.0, bias=False))
    inputs, targets = tokens, tokens.roll(-1, dims=1).contiguous()
    return model, lambda: model(inputs, targets)[1]


def llama(task: dict[str, Any], tokens: torch.Tensor) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=task["vocab"],
            hidden_size=WIDTH,
            intermediate_size=352,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=task["seq"],
            attn_implementation=task["who"].split()[-1],
            use_cache=False,
        )
    )
    return model, lambda: model(input_ids=tokens, labels=tokens).loss


def ours(task: dict[str, Any], tokens: torch.Tensor) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    from mtp_lab import ModelConfig, MTPTransformer, mtp_loss

    config = ModelConfig(
        vocab_size=task["vocab"],
        d_model=WIDTH,
        n_layers=LAYERS,
        n_attention_heads=HEADS,
        n_future=task.get("n", 1),
        max_seq=task["seq"],
    )
    model = MTPTransformer(config)
    return model, lambda: mtp_loss(model, tokens).total


def worker(task: dict[str, Any]) -> dict[str, float]:
    """Median seconds of a step."""
    if task.get("thresholds"):
        from mtp_lab.training.hardware import keep_memory

        keep_memory()
    torch.manual_seed(0)
    tokens = torch.randint(0, task["vocab"], (task["batch"], task["seq"]))
    make = {"nanoGPT": nanogpt, "HF": llama, "mtp-lab": ours}[task["who"].split()[0]]
    model, loss = make(task, tokens)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    seconds = []
    for _ in range(3 + task["steps"]):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=task["precision"] == "bf16"):
            total = loss()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    parameters = sum(p.numel() for p in model.parameters())
    return {"seconds": statistics.median(seconds[3:]), "parameters": parameters}


def contestants(best: str) -> list[dict[str, Any]]:
    """All contestants, ours last; `best` is the faster precision on this machine."""
    tuned = [{"who": who, "precision": best} for who in ("nanoGPT", "HF Llama sdpa", "HF Llama eager")]
    shipped = {(task["who"], task["precision"]) for task in AS_SHIPPED}
    own_best = [task for task in tuned if (task["who"], task["precision"]) not in shipped]
    with_thresholds = [task | {"thresholds": True} for task in tuned]
    return [*AS_SHIPPED, *own_best, *with_thresholds, ours_at(best)]


def ours_at(best: str) -> dict[str, Any]:
    return {"who": "mtp-lab", "precision": best, "thresholds": True}


def label(task: dict[str, Any]) -> str:
    return f"{task['who']} {task['precision']}" + (" + thresholds" if task.get("thresholds") else "")


def in_rounds(tasks: list[dict[str, Any]], rounds: int) -> list[dict[str, Any]]:
    """Runs every task once per round, and adds the seconds of its fastest round."""
    results = [[fresh_process(__file__, task) for task in tasks] for _ in range(rounds)]
    best = [min(tries, key=lambda r: r["seconds"]) for tries in zip(*results, strict=True)]
    return [task | r for task, r in zip(tasks, best, strict=True)]


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our tokens per second relative to the best peer: a row with its target for each length and kind of peer."""
    ratios = []
    for seq in dict.fromkeys(row["seq"] for row in rows):
        same = [row for row in rows if row["seq"] == seq]
        own_speed = next(row["tokens_per_second"] for row in same if row["who"] == "mtp-lab")
        peers = [row for row in same if row["who"] != "mtp-lab"]
        kinds = {
            "the best peer at its own best": ([row for row in peers if not row.get("thresholds")], TARGETS.get(seq)),
            "the best as shipped": ([row for row in peers if row.get("shipped")], SHIPPED_TARGET),
            "the best with our thresholds": ([row for row in peers if row.get("thresholds")], None),
        }
        for kind, (rows_of_kind, target) in kinds.items():
            ratio = own_speed / max(row["tokens_per_second"] for row in rows_of_kind)
            ratios.append({"seq": seq, "to": kind, "ratio": ratio, "target": target})
    return ratios


def against_peers(nanogpt: str | None, best: str, rounds: int, steps: int) -> list[dict[str, Any]]:
    rows = []
    for batch, seq in SHAPES:
        shape = {"batch": batch, "seq": seq, "vocab": VOCAB, "steps": steps}
        tasks = [{**task, **shape} for task in contestants(best) if nanogpt or task["who"] != "nanoGPT"]
        done = in_rounds([task | {"nanogpt": nanogpt} for task in tasks], rounds)
        print(f"\nbatch {batch}, length {seq}: tokens/s")
        for row in done:
            row["tokens_per_second"] = batch * seq / row["seconds"]
            row.pop("nanogpt")
            print(f"  {label(row):36s} {row['tokens_per_second']:8.0f}")
        for ratio in ratios(done):
            target = f" (target {ratio['target']})" if ratio["target"] else ""
            print(f"  ours: x{ratio['ratio']:.2f} of {ratio['to']}{target}")
        rows += done
    return rows


def cost_of_heads(vocabularies: list[int], best: str, rounds: int, steps: int) -> list[dict[str, Any]]:
    """The time of a step at n = 4 relative to n = 1, at equal parameters."""
    print("\nn = 4 relative to n = 1, equal parameters, batch 32, length 128")
    rows = []
    for vocab in vocabularies:
        shape = {"batch": 32, "seq": 128, "vocab": vocab, "steps": steps}
        one, four = in_rounds([{**ours_at(best), **shape, "n": n} for n in (1, 4)], rounds)
        layers = one["parameters"] - 2 * vocab * WIDTH
        flops = (layers + 4 * vocab * WIDTH) / (layers + vocab * WIDTH)
        ratio = four["seconds"] / one["seconds"]
        print(f"  V={vocab:6d}: time of a step x{ratio:.2f}; floating-point operations x{flops:.2f}")
        rows.append({"vocab": vocab, "ratio": ratio, "operations": flops, "seconds": [one["seconds"], four["seconds"]]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=existing_file, help="path of nanoGPT's model.py")
    parser.add_argument("--rounds", type=int, default=2, help="rounds; in each, every contestant runs once")
    parser.add_argument("--steps", type=int, default=5, help="steps timed per round")
    parser.add_argument("--vocabularies", type=int, nargs="*", default=[1024, 4096, 32768], help="for the cost of n")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(json.loads(options.worker))))
        return
    if options.rounds < 1 or options.steps < 1:
        parser.error(f"--rounds {options.rounds} and --steps {options.steps} must be at least 1")
    best = "bf16" if bf16_is_fast("cpu") else "fp32"
    peers = against_peers(options.nanogpt, best, options.rounds, options.steps)
    heads = cost_of_heads(options.vocabularies, best, options.rounds, options.steps)
    shape = f"{LAYERS} layers, d={WIDTH}, {HEADS} attention heads, V={VOCAB}, AdamW"
    save("train_throughput", {"shape": shape, "peers": peers, "cost_of_four_heads": heads})


if __name__ == "__main__":
    main()
