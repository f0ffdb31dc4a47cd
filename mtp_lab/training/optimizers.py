"""Optimizers, and the schedules of learning rate and horizon weights as pure functions of config and step."""

import math
from collections import defaultdict

import torch
from torch import Tensor, nn

from mtp_lab.config import Curriculum, OptimizerConfig
from mtp_lab.training.hardware import bf16_is_fast


class Muon(torch.optim.Muon):
    """PyTorch's Muon (Jordan et al. 2024), with matrices of one shape orthogonalised together.

    PyTorch's own step handles matrices one by one and always in bf16, which is many times slower without bf16 support.
    """

    @torch.no_grad()
    def step(self) -> None:
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for shape, matrices in shapes.items():
                gradients = [matrix.grad for matrix in matrices]
                averages = [self._average(matrix) for matrix in matrices]
                torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
                directions = torch.stack(torch._foreach_lerp(gradients, averages, group["momentum"]))  # Nesterov
                updates = orthogonal(directions, group["ns_coefficients"], group["ns_steps"])
                step_size = group["lr"] * 0.2 * math.sqrt(max(shape))  # as large as AdamW's updates (Liu et al. 2025)
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, list(updates.unbind()), alpha=-step_size)

    def _average(self, matrix: nn.Parameter) -> Tensor:
        if "momentum_buffer" not in self.state[matrix]:
            self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        return self.state[matrix]["momentum_buffer"]


def orthogonal(matrices: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """Approximately the nearest orthogonal matrices, by the quintic Newton-Schulz iteration (Jordan et al. 2024).

    Args:
        matrices: (count, rows, columns).

    Returns:
        Matrices of the same shape and precision, with singular values between 0.7 and 1.2.
    """
    a, b, c = coefficients
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x.bfloat16() if bf16_is_fast(str(x.device)) else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).to(matrices.dtype)


def make_optimizers(model: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """One optimizer (AdamW), or two (AdamW and Muon for the layers' matrices). AdamW decays matrices only."""
    by_muon, by_adamw = {}, {}
    for name, parameter in model.named_parameters():
        in_a_layer = name.startswith(("blocks", "heads", "joins")) and name.endswith("weight")
        (by_muon if config.kind == "muon" and in_a_layer else by_adamw)[name] = parameter
    groups = [
        {"params": [p for name, p in by_adamw.items() if name.endswith("weight")], "weight_decay": config.weight_decay},
        {"params": [p for name, p in by_adamw.items() if not name.endswith("weight")], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, betas=config.betas, fused=True)
    ]
    if config.kind == "muon":
        optimizers.append(Muon(list(by_muon.values()), lr=config.learning_rate, weight_decay=config.weight_decay))
    return optimizers


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine down to `final` times the peak."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, steps - config.warmup)
    return config.learning_rate * (config.final + (1 - config.final) * (1 + math.cos(math.pi * progress)) / 2)


def horizon_weights(base: tuple[float, ...], curriculum: Curriculum, step: int, steps: int) -> list[float]:
    """Weights w_i of the horizons in a step: all of `base`, or those of the nearest horizons and 0 for the others.

    forward: from the next token only to all n horizons, in n equal parts of the training. reverse: from all n horizons
    to one (Aynetdinov & Akbik 2025, arXiv 2505.22757).
    """
    if curriculum == "constant":
        return list(base)
    part = min(len(base) - 1, step * len(base) // steps)
    n_horizons = part + 1 if curriculum == "forward" else len(base) - part
    return [weight if i < n_horizons else 0.0 for i, weight in enumerate(base)]
