"""What is lost without some attention heads, in the trunk and in the model's heads alike.

An attention head's output `hook_z` is replaced by zeros, by its mean, or by what it says on another row; then either
everything behind it is computed anew, or all attention patterns stay those of the intact run and only values change
(pattern-preserving ablation, Olsson et al. 2022, arXiv 2209.11895, "Argument 3"). Left out: which attention heads to
suspect (attention.py), ablating MLPs, and paths between attention heads (path_patching.py).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from mtp_lab.config import check_choice
from mtp_lab.interp.attention import attention_layers
from mtp_lab.interp.patching import put
from mtp_lab.interp.path_patching import Head
from mtp_lab.model.transformer import MTPTransformer

Kind = Literal["zero", "mean", "resample"]
Metric = Callable[[Tensor], float]  # of the logits of every horizon, (n_future, batch, seq, vocab)
Hook = tuple[str, Callable[..., Tensor]]  # name of a hook point, and what to do there


def attention_heads(model: MTPTransformer) -> list[Head]:
    """Every attention head, (layer, head): the trunk's, then those of the model's heads."""
    return [(layer, head) for layer in attention_layers(model) for head in range(model.config.n_attention_heads)]


@torch.no_grad()
def replacements(
    model: MTPTransformer, tokens: Tensor, documents: Tensor | None, kind: Kind, generator: torch.Generator
) -> dict[str, Tensor]:
    """What stands in for each layer's `hook_z` when its attention heads are ablated, by layer.

    Args:
        tokens, documents: (batch, seq) the reference batch; documents -1 is padding.
        kind: zero; mean, over all positions of the reference batch that are no padding: (heads, d_head); resample:
            (batch, seq, heads, d_head), each row having what the intact model says at the same position of another.
        generator: deals out the rows.

    Raises:
        ValueError: for a kind that is not known; or resample of a batch of one row.
    """
    check_choice("kind", kind, Kind)
    if kind == "zero":
        return {layer: model.unembed.weight.new_zeros(()) for layer in attention_layers(model)}
    outputs = _intact(model, tokens, documents, "hook_z")  # each (batch, seq, heads, d_head)
    if kind == "mean":
        real = torch.ones_like(tokens, dtype=torch.bool) if documents is None else documents >= 0
        return {layer: z[real].mean(dim=0) for layer, z in outputs.items()}
    if len(tokens) < 2:
        raise ValueError("kind='resample' takes the outputs of other rows, and the batch has 1; give at least 2")
    order = torch.randperm(len(tokens), generator=generator).to(tokens.device)
    other = torch.empty_like(order).scatter_(0, order, order.roll(1))  # (batch,) another row for each: one long cycle
    return {layer: z[other] for layer, z in outputs.items()}


def patterns(model: MTPTransformer, tokens: Tensor, documents: Tensor | None) -> dict[str, Tensor]:
    """The attention patterns of the intact model, by layer: (batch, heads, seq, keys)."""
    return _intact(model, tokens, documents, "hook_pattern")


def hooks(
    model: MTPTransformer,
    heads: Collection[Head],
    outputs: Mapping[str, Tensor],
    frozen: Mapping[str, Tensor] | None = None,
) -> list[Hook]:
    """Hooks for `model.run_with_hooks` that ablate these attention heads; none for no attention heads.

    Args:
        outputs: as `replacements` gives them.
        frozen: as `patterns` gives them for the batch that the hooks run on: pattern-preserving ablation.

    Raises:
        ValueError: for an attention head that the model does not have.

    Example:
        >>> outputs = replacements(model, tokens, documents, "mean", torch.Generator().manual_seed(0))
        >>> edits = hooks(model, [("blocks.0", 2)], outputs)
        >>> model.run_with_hooks(tokens, documents, all_heads=True, fwd_hooks=edits)
    """
    layers, n_heads = list(attention_layers(model)), model.config.n_attention_heads
    by_layer: dict[str, Tensor] = {}  # (heads, 1) each: which
    for layer, head in heads:
        if layer not in layers or not 0 <= head < n_heads:
            raise ValueError(
                f"no attention head ({layer!r}, {head}); layers are {', '.join(layers)}, each with attention heads "
                f"0 to {n_heads - 1}"
            )
        none = torch.zeros(n_heads, 1, dtype=torch.bool, device=outputs[layer].device)
        by_layer.setdefault(layer, none)[int(head)] = True
    edits = [
        (f"{layer}.attn.hook_z", partial(put, value=outputs[layer], where=where)) for layer, where in by_layer.items()
    ]
    kept = frozen if frozen and edits else {}
    return edits + [(f"{layer}.attn.hook_pattern", partial(put, value=pattern)) for layer, pattern in kept.items()]


def measure(
    model: MTPTransformer,
    tokens: Tensor,
    documents: Tensor | None,
    heads: Collection[Head],
    metric: Metric,
    kind: Kind = "mean",
    preserve: bool = False,
    seed: int = 0,
) -> float:
    """A metric of the model without these attention heads; the intact model's for none.

    Args:
        tokens, documents: (batch, seq); all rows in one forward. They are the reference batch, too.
        metric: of the logits of every horizon, (n_future, batch, seq, vocab).
        preserve: keep all attention patterns as in the intact model.
        seed: of the rows that resample deals out.

    Raises:
        ValueError: for a kind or an attention head that is not known; or resample of a batch of one row.

    Example:
        >>> targets = future_targets(tokens, 1)[0, :, 100:-1]
        >>> right = lambda logits: float((logits[0, :, 100:-1].argmax(-1) == targets).float().mean())
        >>> measure(model, tokens, None, [("heads.1", 0)], right)
    """
    return next(_measured(model, tokens, documents, [heads], metric, kind, preserve, seed))


def single(
    model: MTPTransformer,
    tokens: Tensor,
    documents: Tensor | None,
    metric: Metric,
    kind: Kind = "mean",
    preserve: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """The metric without each attention head by itself; arguments and errors as `measure`'s.

    Returns:
        layer, head, value, difference (to the intact model's: negative where the metric falls).
    """
    every = attention_heads(model)
    sets = [[], *([head] for head in every)]
    intact, *values = _measured(model, tokens, documents, sets, metric, kind, preserve, seed)
    rows = [(*head, value, value - intact) for head, value in zip(every, values, strict=True)]
    return pd.DataFrame(rows, columns=["layer", "head", "value", "difference"])


def dose_response(
    model: MTPTransformer,
    tokens: Tensor,
    documents: Tensor | None,
    ranking: Sequence[Head],
    metric: Metric,
    kind: Kind = "mean",
    preserve: bool = False,
    draws: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """The metric without the first k attention heads of a ranking, and without k others of the same layers.

    Each draw gives every ranked attention head a partner that is not ranked: of its own layer, and where all of that
    are ranked or taken, of any other. Other arguments and errors are `measure`'s.

    Args:
        ranking: attention heads, the most suspected first; k goes from 0 to their number.
        draws: of partners.

    Returns:
        k, set ("ranked" or "random"), draw (0 for ranked), value.

    Raises:
        ValueError: if an attention head is ranked twice, or more than half of all are ranked.
    """
    ranking = [(layer, int(head)) for layer, head in ranking]
    every, generator = attention_heads(model), torch.Generator().manual_seed(seed)
    if len(set(ranking)) < len(ranking):
        raise ValueError(f"ranking={ranking} must name an attention head once; leave out its second place")
    if 2 * len(ranking) > len(every):
        raise ValueError(
            f"{len(ranking)} of {len(every)} attention heads are ranked: too few are left to compare with; "
            f"cut the ranking to {len(every) // 2}"
        )
    curves = [("ranked", 0, ranking), *(("random", d, _partners(ranking, every, generator)) for d in range(draws))]
    rows = [(k, name, draw, heads[:k]) for name, draw, heads in curves for k in range(len(ranking) + 1)]
    values = _measured(model, tokens, documents, [row[-1] for row in rows], metric, kind, preserve, seed)
    table = [(*row[:-1], value) for row, value in zip(rows, values, strict=True)]
    return pd.DataFrame(table, columns=["k", "set", "draw", "value"])


def _partners(ranking: Sequence[Head], every: Sequence[Head], generator: torch.Generator) -> list[Head]:
    """Another attention head for each of the ranking, at random, of the same layer where one is left."""
    order = torch.randperm(len(every), generator=generator).tolist()
    free, found = [every[i] for i in order if every[i] not in ranking], [None] * len(ranking)
    for borrowed in (False, True):  # own layers first: what is borrowed from a layer must not be missing there
        for place, (layer, _) in enumerate(ranking):
            partner = next((head for head in free if borrowed or head[0] == layer), None)
            if found[place] is None and partner is not None:
                found[place] = partner
                free.remove(partner)
    return found


@torch.no_grad()
def _measured(
    model: MTPTransformer,
    tokens: Tensor,
    documents: Tensor | None,
    sets: Iterable[Collection[Head]],
    metric: Metric,
    kind: Kind,
    preserve: bool,
    seed: int,
) -> Iterator[float]:
    """The metric without each of these sets of attention heads."""
    outputs = replacements(model, tokens, documents, kind, torch.Generator().manual_seed(seed))
    frozen = patterns(model, tokens, documents) if preserve else None
    for heads in sets:
        edits = hooks(model, heads, outputs, frozen)
        yield float(metric(model.run_with_hooks(tokens, documents, all_heads=True, fwd_hooks=edits)))


@torch.no_grad()
def _intact(model: MTPTransformer, tokens: Tensor, documents: Tensor | None, hook: str) -> dict[str, Tensor]:
    """One activation of every layer with attention, by layer."""
    names = {layer: f"{layer}.attn.{hook}" for layer in attention_layers(model)}
    _, kept = model.run_with_cache(tokens, documents, all_heads=True, names_filter=list(names.values()))
    return {layer: kept[name] for layer, name in names.items()}
