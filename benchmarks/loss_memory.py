"""Peak memory of a training step by how Eq. 2 is computed: resident set of fresh processes.

There are four methods:
    naive       the logits of all heads at once
    chunked     all heads at once, with their logits in the chunks of PyTorch's linear_cross_entropy
    sequential  one head after the other, with all logits of a head at once
    both        one head after the other, in chunks, as mtp_loss does

Example: python benchmarks/loss_memory.py --vocabularies 4096 32768
"""

import argparse
import json
import resource

import torch
import torch.nn.functional as F
from common import fresh_process, save

from mtp_lab import ModelConfig, MTPTransformer, mtp_loss
from mtp_lab.model import loss
from mtp_lab.model.targets import future_targets

METHODS = ("naive", "chunked", "sequential", "both")
TARGET = 1.1  # upper limit of the peak of "both" at the largest n, relative to n = 1


def step(model: MTPTransformer, tokens: torch.Tensor, method: str) -> None:
    """Forward and backward of one step."""
    if method == "chunked":
        context = model.context(tokens)
        latents = model.run_heads(model.trunk(tokens, context), tokens, context)
        targets = future_targets(tokens, model.config.n_future)
        losses, library = [], torch.nn.LinearCrossEntropyOptions()
        for i, targets_i in zip(model.config.parents, targets, strict=True):
            inputs = model.norm(latents[i]).flatten(0, 1)
            losses.append(F.linear_cross_entropy(inputs, model.unembed.weight, targets_i.flatten(), options=library))
        torch.stack(losses).sum().backward()
        return
    if method == "sequential":  # one head at a time, all of its logits at once
        loss.CHUNK_LOGITS = 2**62
    mtp_loss(model, tokens, method="reference" if method == "naive" else "sequential").total.backward()


def worker(task: dict) -> dict:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=task["vocab"], d_model=128, n_layers=9, n_future=task["n"], max_seq=128)
    model = MTPTransformer(config)
    for parameter in model.parameters():  # every method needs gradients; they do not count as memory of the loss
        parameter.grad = torch.zeros_like(parameter)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(model, torch.randint(0, task["vocab"], (16, 128)), task["method"])
    return {"megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32768], help="vocabulary sizes")
    parser.add_argument("--futures", type=int, nargs="+", default=[1, 2, 4, 8], help="values of n")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(json.loads(options.worker))))
        return
    rows = []
    for vocab in options.vocabularies:
        for method in METHODS:
            peaks = []
            for n in options.futures:
                task = {"vocab": vocab, "n": n, "method": method}
                rows.append(task | fresh_process(__file__, task))
                peaks.append(rows[-1]["megabytes"])
            print(
                f"V={vocab:6d} {method:10s}",
                *(f"n={n}: {mb:7.0f} MB" for n, mb in zip(options.futures, peaks, strict=True)),
            )
    save("loss_memory", {"shape": "16 x 128 tokens, d=128, 9 layers, fp32", "rows": rows})


if __name__ == "__main__":
    main()
