"""What the presets of all experiments share.

smoke: every cell of a notebook runs, in seconds. quick: a learner's minutes on two cores. full: the committed results.
paper: the paper's own sizes and hyperparameters, for GPUs. Hyperparameters were chosen on validation loss at n = 1
(LAB_LOG.md). What each experiment trains stands in its own folder.
"""

from mtp_lab.config import OptimizerConfig

MUON = OptimizerConfig(kind="muon", learning_rate=1e-2, warmup=30)
"""For byte models of 64 to 128 dimensions."""


def milestones(steps: int) -> dict[str, int]:
    """How often a byte model of this many steps is logged, evaluated and saved."""
    return dict(log_every=max(1, steps // 50), evaluate_every=max(1, steps // 10), checkpoint_every=max(1, steps // 8))
