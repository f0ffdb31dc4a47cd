"""What each horizon asks of the trunk: gradients at its output and at its parameters, one horizon at a time.

g_i is the gradient of the mean loss of horizon i (its term of Eq. 2, weight 1) at the trunk's output z; the sum over
horizons is what training sends into the trunk. It flows through whatever stands between: in a causal chain g_3 passes
heads 2 and 1, and attention in the heads carries it to earlier positions. Gradients above the trunk are left out.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mtp_lab.model.loss import chunks, token_losses
from mtp_lab.model.targets import IGNORE, future_targets, target_weights
from mtp_lab.model.transformer import MTPTransformer

ROWS_AT_ONCE = 16


@torch.enable_grad()
def trunk_gradients(model: MTPTransformer, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
    """g_i at the trunk's output, of losses that are means over the batch's valid targets, in nats.

    Args:
        tokens, documents: (batch, seq), as for the model.

    Returns:
        (n_future, batch, seq, d_model); zeros for a horizon that is stopped or has no target.
    """
    targets = future_targets(tokens, model.config.n_future, documents)  # (n_future, batch, seq)
    counts, found = target_weights(targets).sum(dim=(1, 2)).clamp(min=1), []
    for rows in _parts(tokens):
        trunk, latents = _heads_on_leaf(model, tokens[rows], None if documents is None else documents[rows])
        for i in model.config.parents:
            at_latent = _at_latent(model, latents[i], targets[i - 1, rows]) / counts[i - 1]
            found.append(_down(latents[i], trunk, at_latent))
    n = model.config.n_future
    return torch.stack([torch.cat(found[i::n]) for i in range(n)])


@torch.enable_grad()
def parameter_gradients(model: MTPTransformer, tokens: Tensor, documents: Tensor | None = None) -> dict[str, Tensor]:
    """The same losses' gradients at the trunk's parameters, by layer: "embed", "blocks.0", ...

    They are g_i sent down through the trunk. Sequential heads also read the embedding directly; that path is left out.

    Returns:
        (n_future, parameters of the layer) each.
    """
    n, at_trunk = model.config.n_future, trunk_gradients(model, tokens, documents)
    layers = {"embed": model.embed} | {f"blocks.{i}": block for i, block in enumerate(model.blocks)}
    parameters = [p for layer in layers.values() for p in layer.parameters()]
    sums = [[torch.zeros_like(p) for p in parameters] for _ in range(n)]
    for rows in _parts(tokens):
        context = model.context(tokens[rows], None if documents is None else documents[rows])
        trunk = model.trunk(tokens[rows], context)
        for i in range(n):
            parts = torch.autograd.grad(trunk, parameters, at_trunk[i, rows], retain_graph=i < n - 1)
            sums[i] = [total + part for total, part in zip(sums[i], parts, strict=True)]
    flat = [torch.cat([part.flatten() for part in each]) for each in sums]
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers.values()]
    return dict(zip(layers, torch.stack(flat).split(sizes, dim=1), strict=True))


def gradients_by_horizon(
    model: MTPTransformer, tokens: Tensor, documents: Tensor | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Norms of each horizon's gradient, and cosines between horizons.

    Returns:
        layer, horizon, norm.
        layer, horizon, other, cosine (of the whole gradients, flattened), position_cosine (mean of the cosines at
        single positions where neither gradient is zero; nan for parameters).
        `layer` is "output" (the trunk's output), "trunk" (all its parameters), "embed", "blocks.0", ... A cosine with
        a gradient that is zero is nan.

    Example:
        >>> norms, cosines = gradients_by_horizon(model, *tensors(task.held_out("validation", 32)))
        >>> cosines.query("layer == 'trunk'").pivot(index="horizon", columns="other", values="cosine")
    """
    output, layers = trunk_gradients(model, tokens, documents), parameter_gradients(model, tokens, documents)
    whole = {"output": output.flatten(1), "trunk": torch.cat(list(layers.values()), dim=1)} | layers
    norms = [
        {"layer": layer, "horizon": i, "norm": float(g.norm())}
        for layer, each in whole.items()
        for i, g in enumerate(each, start=1)
    ]
    cosines = [
        {"layer": layer, "horizon": i, "other": j, "cosine": float(cosine(each[i - 1], each[j - 1]))}
        | {"position_cosine": float(cosine(output[i - 1], output[j - 1]).nanmean()) if layer == "output" else np.nan}
        for layer, each in whole.items()
        for i, j in combinations(model.config.parents, 2)
    ]
    columns = ["layer", "horizon", "other", "cosine", "position_cosine"]
    return pd.DataFrame(norms), pd.DataFrame(cosines, columns=columns)


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosines over the last dimension: (..., d), (..., d) -> (...); nan where either is zero."""
    return (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1))


@torch.enable_grad()
def target_norms(model: MTPTransformer, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
    """How hard each single target pulls at the trunk: the squared norm of its own gradient.

    The gradient is that of -log P(x_{t+i} | x_{<=t}) at the trunk's states, taken over all positions that it flows to.
    Exact, hence one backward pass through the heads for each position and horizon: about 10 s on one core
    for 8 rows of 200 tokens, four heads and d_model=64.

    Returns:
        (n_future, batch, seq), the value of horizon i standing at the target's token, t + i; nan where there is none.
    """
    targets = future_targets(tokens, model.config.n_future, documents)  # (n_future, batch, seq)
    norms = torch.full(targets.shape, torch.nan, dtype=model.unembed.weight.dtype, device=tokens.device)
    for rows in _parts(tokens):
        trunk, latents = _heads_on_leaf(model, tokens[rows], None if documents is None else documents[rows])
        for i in model.config.parents:
            valid = targets[i - 1, rows] != IGNORE  # (rows, seq)
            at_latent = _at_latent(model, latents[i], targets[i - 1, rows])
            for t in valid.any(dim=0).nonzero().flatten().tolist():
                alone = torch.zeros_like(at_latent)
                alone[:, t] = at_latent[:, t]  # rows do not see each other, so one pass serves them all
                squared = _down(latents[i], trunk, alone).square().sum(dim=(1, 2))  # (rows,)
                norms[i - 1, rows, t + i] = squared.where(valid[:, t], torch.nan)
    return norms


def class_shares(norms: Tensor, classes: Mapping[str, Tensor | np.ndarray]) -> pd.DataFrame:
    """Which tokens pull at the trunk: each class's share of the squared norm of a horizon.

    Squared norms of single targets are added up: what different targets share or cancel is not in it.

    Args:
        norms: (n_future, batch, seq), of `target_norms`.
        classes: name -> (batch, seq) bool, true where the *target's* token is of the class, e.g. a batch's marks.

    Returns:
        horizon, token_class, share (nan for a stopped horizon), target_share (of the number of targets), targets.

    Raises:
        ValueError: for a mask that is not bool or has another shape.
    """
    rows = []
    for name, mask in classes.items():
        mask = torch.as_tensor(mask, device=norms.device)
        if mask.dtype != torch.bool or mask.shape != norms.shape[1:]:
            raise ValueError(f"{name}: {mask.dtype} of {tuple(mask.shape)} must be bool of {tuple(norms.shape[1:])}")
        for i, each in enumerate(norms, start=1):
            asked = ~each.isnan()
            targets = int((asked & mask).sum())
            share, target_share = each[asked & mask].sum() / each[asked].sum(), targets / max(1, int(asked.sum()))
            rows.append((i, name, float(share), target_share, targets))
    return pd.DataFrame(rows, columns=["horizon", "token_class", "share", "target_share", "targets"])


def _parts(tokens: Tensor) -> list[slice]:
    return [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(tokens), ROWS_AT_ONCE)]


def _heads_on_leaf(model: MTPTransformer, tokens: Tensor, documents: Tensor | None) -> tuple[Tensor, dict[int, Tensor]]:
    """The trunk's output, cut off from what made it, and the latents of all heads on it."""
    context = model.context(tokens, documents)
    with torch.no_grad():
        trunk = model.trunk(tokens, context)
    trunk = trunk.detach().requires_grad_()
    return trunk, model.run_heads(trunk, tokens, context)


def _at_latent(model: MTPTransformer, latent: Tensor, targets: Tensor) -> Tensor:
    """Gradient of each position's own nats at its head's latent: (batch, seq, d_model), (batch, seq) -> like latent."""
    parts = []
    for rows, wanted in chunks(model, latent.detach(), targets):
        leaf = rows.detach().requires_grad_()
        parts += torch.autograd.grad(token_losses(model, leaf, wanted).sum(), leaf)
    return torch.cat(parts).view_as(latent)


def _down(latent: Tensor, trunk: Tensor, gradient: Tensor) -> Tensor:
    """From a head's latent down to the trunk's output, which a stopped head does not reach."""
    if not latent.requires_grad:
        return torch.zeros_like(trunk)
    (found,) = torch.autograd.grad(latent, trunk, gradient, retain_graph=True, allow_unused=True)
    return torch.zeros_like(trunk) if found is None else found
