"""Optimizers, learning-rate schedule and horizon curriculum: pure functions of config and step."""

import math

import torch
from torch import nn

from mtp_lab.config import Curriculum, OptimizerConfig


def make_optimizers(model: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """One optimizer (AdamW), or two (Muon for the layers' matrices, AdamW for the rest)."""
    named = list(model.named_parameters())
    inner = [name for name, _ in named if name.startswith(("blocks", "heads", "joins")) and name.endswith("weight")]
    matrices = [p for name, p in named if name in inner]
    rest = [(name, p) for name, p in named if config.kind == "adamw" or name not in inner]
    groups = [
        {"params": [p for name, p in rest if name.endswith("weight")], "weight_decay": config.weight_decay},
        {"params": [p for name, p in rest if not name.endswith("weight")], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, betas=config.betas, fused=True)
    ]
    if config.kind == "muon":
        optimizers.append(
            torch.optim.Muon(
                matrices,
                lr=config.learning_rate,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimizers


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to `final` of the peak."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, steps - config.warmup)
    return config.learning_rate * (config.final + (1 - config.final) * (1 + math.cos(math.pi * progress)) / 2)


def horizon_weights(base: tuple[float, ...], curriculum: Curriculum, step: int, steps: int) -> list[float]:
    """Weights w_i of a step: all of `base`, or as many of the nearest horizons as the curriculum has opened.

    forward: from the next token alone to all n, in n equal parts of the training; reverse: from all n back to one
    (Aynetdinov & Akbik 2025, arXiv 2505.22757).
    """
    if curriculum == "constant":
        return list(base)
    part = min(len(base) - 1, step * len(base) // steps)
    opened = part + 1 if curriculum == "forward" else len(base) - part
    return [weight if i < opened else 0.0 for i, weight in enumerate(base)]
