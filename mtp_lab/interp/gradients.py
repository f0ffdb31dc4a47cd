"""How the loss of each horizon changes the trunk: gradients at its output and at its parameters.

Concept: g_i is the gradient of the mean loss of horizon i (its term of Eq. 2, weight 1) at the trunk's output z.
Training sends the sum over horizons into the trunk. g_i flows through all layers between: in a causal chain g_3 passes
heads 2 and 1, and attention in the heads carries it to earlier positions.

Intuition: a cosine near 1 between g_1 and g_2 means that both losses improve with the same change of the trunk. Near 0
they need different features, and below 0 they compete. `class_shares` shows which targets the gradient comes from: if
names are 5 % of the targets and 60 % of the squared norm, training mostly changes how the trunk predicts names.

Left out: gradients above the trunk.
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
        (n_future, batch, seq, d_model); zeros for a stop-gradient head and for a horizon without a target.
    """
    targets = future_targets(tokens, model.config.n_future, documents)  # (n_future, batch, seq)
    counts = target_weights(targets).sum(dim=(1, 2)).clamp(min=1)  # (n_future,)
    gradients: dict[int, list[Tensor]] = {i: [] for i in model.config.parents}
    for rows in _row_slices(tokens):
        trunk, latents = _heads_on_leaf(model, tokens[rows], None if documents is None else documents[rows])
        for i in model.config.parents:
            at_latent = _at_latent(model, latents[i], targets[i - 1, rows]) / counts[i - 1]
            gradients[i].append(_at_trunk(latents[i], trunk, at_latent))
    return torch.stack([torch.cat(parts) for parts in gradients.values()])


@torch.enable_grad()
def parameter_gradients(model: MTPTransformer, tokens: Tensor, documents: Tensor | None = None) -> dict[str, Tensor]:
    """Gradients of the same losses at the trunk's parameters, by layer: "embed", "blocks.0", ...

    They are g_i, back-propagated through the trunk. Sequential heads also read the embedding directly; that path is
    left out.

    Returns:
        (n_future, parameters of the layer) for each layer.
    """
    n, at_trunk = model.config.n_future, trunk_gradients(model, tokens, documents)
    layers = {"embed": model.embed} | {f"blocks.{i}": block for i, block in enumerate(model.blocks)}
    parameters = [p for layer in layers.values() for p in layer.parameters()]
    sums = [[torch.zeros_like(p) for p in parameters] for _ in range(n)]
    for rows in _row_slices(tokens):
        context = model.context(tokens[rows], None if documents is None else documents[rows])
        trunk = model.trunk(tokens[rows], context)
        for i in range(n):
            gradients = torch.autograd.grad(trunk, parameters, at_trunk[i, rows], retain_graph=i < n - 1)
            sums[i] = [total + gradient for total, gradient in zip(sums[i], gradients, strict=True)]
    flat = [torch.cat([total.flatten() for total in totals]) for totals in sums]
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers.values()]
    return dict(zip(layers, torch.stack(flat).split(sizes, dim=1), strict=True))


def gradients_by_horizon(
    model: MTPTransformer, tokens: Tensor, documents: Tensor | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Norms of each horizon's gradient, and cosines between horizons.

    Returns:
        Two tables.
        Norms: layer, horizon, norm.
        Cosines: layer, horizon, other (horizon), cosine (of the flattened gradients), position_cosine (mean of the
        cosines at single positions where neither gradient is zero; NaN for parameters).
        `layer` is "output" (the trunk's output), "trunk" (all its parameters), "embed", "blocks.0", ... A cosine with
        a gradient that is zero is NaN.

    Example:
        >>> from mtp_lab.config import ModelConfig
        >>> config = ModelConfig(vocab_size=11, d_model=8, n_attention_heads=2, n_layers=3, n_future=2, max_seq=16)
        >>> norms, cosines = gradients_by_horizon(MTPTransformer(config), torch.randint(11, (4, 16)))
        >>> norms.layer.unique().tolist()
        ['output', 'trunk', 'embed', 'blocks.0']
        >>> cosines.query("layer == 'trunk'")[["horizon", "other"]].to_numpy().tolist()
        [[1, 2]]
    """
    output, layers = trunk_gradients(model, tokens, documents), parameter_gradients(model, tokens, documents)
    gradients = {"output": output.flatten(1), "trunk": torch.cat(list(layers.values()), dim=1)} | layers
    norms = [
        {"layer": layer, "horizon": i, "norm": float(gradient.norm())}
        for layer, by_horizon in gradients.items()
        for i, gradient in enumerate(by_horizon, start=1)
    ]
    cosines = [
        {"layer": layer, "horizon": i, "other": j, "cosine": float(cosine(by_horizon[i - 1], by_horizon[j - 1]))}
        | {"position_cosine": float(cosine(output[i - 1], output[j - 1]).nanmean()) if layer == "output" else np.nan}
        for layer, by_horizon in gradients.items()
        for i, j in combinations(model.config.parents, 2)
    ]
    columns = ["layer", "horizon", "other", "cosine", "position_cosine"]
    return pd.DataFrame(norms), pd.DataFrame(cosines, columns=columns)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines over the last dimension: (..., d), (..., d) -> (...); NaN where either is zero."""
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


@torch.enable_grad()
def target_norms(model: MTPTransformer, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
    """The squared norm of the gradient that each single target sends into the trunk.

    The gradient is that of -log P(x_{t+i} | x_{<=t}) at the trunk's states, over all positions that it flows to. It is
    exact and takes one backward pass through the heads for each position and horizon: about 10 s on one core for 8 rows
    of 200 tokens, four heads and d_model=64.

    Returns:
        (n_future, batch, seq): the value of horizon i is at the target's position, t + i; NaN where there is no target.
    """
    targets = future_targets(tokens, model.config.n_future, documents)  # (n_future, batch, seq)
    norms = torch.full(targets.shape, torch.nan, dtype=model.unembed.weight.dtype, device=tokens.device)
    for rows in _row_slices(tokens):
        trunk, latents = _heads_on_leaf(model, tokens[rows], None if documents is None else documents[rows])
        for i in model.config.parents:
            valid = targets[i - 1, rows] != IGNORE  # (rows, seq)
            at_latent = _at_latent(model, latents[i], targets[i - 1, rows])
            for t in valid.any(dim=0).nonzero().flatten().tolist():
                only_t = torch.zeros_like(at_latent)
                only_t[:, t] = at_latent[:, t]  # rows do not see each other, so one backward pass serves them all
                squared = _at_trunk(latents[i], trunk, only_t).square().sum(dim=(1, 2))  # (rows,)
                norms[i - 1, rows, t + i] = squared.where(valid[:, t], torch.nan)
    return norms


def class_shares(norms: Tensor, classes: Mapping[str, Tensor | np.ndarray]) -> pd.DataFrame:
    """Which targets the trunk's gradient comes from: the share of each class in the squared norm of a horizon.

    Squared norms of single targets are added up, so the shares ignore whether different targets agree or cancel.

    Args:
        norms: (n_future, batch, seq), the result of `target_norms`.
        classes: name -> (batch, seq) bool, true where the *target's* token is of the class, e.g. a batch's labels.

    Returns:
        horizon, token_class, share (NaN for a stop-gradient head), target_share (of the number of targets), targets.

    Raises:
        ValueError: for a mask that is not bool or has another shape.
    """
    rows = []
    for name, mask in classes.items():
        mask = torch.as_tensor(mask, device=norms.device)
        if mask.dtype != torch.bool or mask.shape != norms.shape[1:]:
            raise ValueError(f"{name}: {mask.dtype} of {tuple(mask.shape)} must be bool of {tuple(norms.shape[1:])}")
        for i, of_horizon in enumerate(norms, start=1):
            is_target = ~of_horizon.isnan()
            in_class = is_target & mask
            targets = int(in_class.sum())
            share = of_horizon[in_class].sum() / of_horizon[is_target].sum()
            rows.append((i, name, float(share), targets / max(1, int(is_target.sum())), targets))
    return pd.DataFrame(rows, columns=["horizon", "token_class", "share", "target_share", "targets"])


def _row_slices(tokens: Tensor) -> list[slice]:
    return [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(tokens), ROWS_AT_ONCE)]


def _heads_on_leaf(model: MTPTransformer, tokens: Tensor, documents: Tensor | None) -> tuple[Tensor, dict[int, Tensor]]:
    """The trunk's output, detached from the trunk, and the latents of all heads on it."""
    context = model.context(tokens, documents)
    with torch.no_grad():
        trunk = model.trunk(tokens, context)
    trunk = trunk.detach().requires_grad_()
    return trunk, model.run_heads(trunk, tokens, context)


def _at_latent(model: MTPTransformer, latent: Tensor, targets: Tensor) -> Tensor:
    """Gradient of each position's own loss at its head's latent: (batch, seq, d_model), (batch, seq) -> like latent."""
    gradients = []
    for chunk, chunk_targets in chunks(model, latent.detach(), targets):
        leaf = chunk.detach().requires_grad_()
        gradients += torch.autograd.grad(token_losses(model, leaf, chunk_targets).sum(), leaf)
    return torch.cat(gradients).view_as(latent)


def _at_trunk(latent: Tensor, trunk: Tensor, gradient: Tensor) -> Tensor:
    """A gradient at a head's latent, back-propagated to the trunk's output: zeros for a stop-gradient head."""
    if not latent.requires_grad:
        return torch.zeros_like(trunk)
    (at_trunk,) = torch.autograd.grad(latent, trunk, gradient, retain_graph=True, allow_unused=True)
    return torch.zeros_like(trunk) if at_trunk is None else at_trunk
