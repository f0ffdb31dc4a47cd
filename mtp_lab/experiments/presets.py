"""What the presets of all experiments share: sizes, optimizers, and how often a run is logged.

smoke: every cell of a notebook runs, in seconds. quick: minutes on two cores. full: the committed results. paper: the
paper's own sizes and hyperparameters, for GPUs. All other hyperparameters were chosen by the validation loss at n = 1
(LAB_LOG.md). The trainings of each experiment are listed in its own folder.
"""

from collections.abc import Mapping
from typing import TypeVar

from mtp_lab.config import OptimizerConfig

Entry = TypeVar("Entry")

SMOKE_SIZE = dict(d_model=16, n_attention_heads=2)
SMALL_SIZE = dict(d_model=64, n_attention_heads=4)
PAPER_SIZE = dict(d_model=512, n_attention_heads=8)
"""Width of the paper's model of 30M parameters."""

SMOKE_OPTIMIZER = OptimizerConfig(warmup=2)
MUON = OptimizerConfig(kind="muon", learning_rate=1e-2, warmup=30)
"""For byte models of 64 to 128 dimensions."""
PAPER_OPTIMIZER = OptimizerConfig(learning_rate=1e-4, warmup=2000)
"""Gloeckle et al. 2024, section 4: Adam for 100k steps of 0.25M tokens."""


def milestones(steps: int, *, logs: int = 50, evaluations: int = 10, checkpoints: int = 4) -> dict[str, int]:
    """Fields of a TrainConfig that spread so many logs, evaluations and checkpoints over a run of `steps`."""
    return dict(
        log_every=max(1, steps // logs),
        evaluate_every=max(1, steps // evaluations),
        checkpoint_every=max(1, steps // checkpoints),
    )


def look_up(kind: str, name: str, entries: Mapping[str, Entry]) -> Entry:
    """`entries[name]`, for example of a table of presets.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if name not in entries:
        raise ValueError(f"{kind}={name!r} is not known; use one of {', '.join(entries)}")
    return entries[name]
