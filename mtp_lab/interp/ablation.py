"""Ablation: how much a model's result depends on some of its attention heads.

Concept: the output of an attention head (`hook_z`) is replaced by zeros, by its mean, or by its output on another row.
Then the rest of the model runs, and a metric of the logits is compared with that of the intact model. With
`preserve_patterns` all attention patterns stay those of the intact run, so that only values change (pattern-preserving
ablation; Olsson et al. 2022, arXiv 2209.11895, "Argument 3").

Intuition: a large drop means that later layers use what the attention head writes. If accuracy falls from 1.0 to 0.1
without one attention head, the task runs through it. No drop means that it is not needed, or that another one replaces
it. A drop that disappears with preserved patterns belongs to an attention head that only decides where later ones look.

Left out: which attention heads to ablate (`attention`), MLPs, and paths between attention heads (`path_patching`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from mtp_lab.config import check_choice
from mtp_lab.interp.hooks import (
    AttentionHead,
    Hook,
    attention_heads,
    attention_layers,
    head_masks,
    replace_activation,
)
from mtp_lab.model.transformer import MTPTransformer

Kind = Literal["zero", "mean", "resample"]
Metric = Callable[[Tensor], float]  # of the logits of every horizon, (n_future, batch, seq, vocab)


@torch.no_grad()
def replacement_outputs(
    model: MTPTransformer, tokens: Tensor, documents: Tensor | None, kind: Kind, generator: torch.Generator
) -> dict[str, Tensor]:
    """What replaces the output `hook_z` of ablated attention heads, for every layer with attention.

    Args:
        tokens, documents: (batch, seq) the reference batch; documents -1 is padding.
        kind: "zero"; "mean" over all positions of the reference batch that are not padding, (heads, d_head);
            "resample", (batch, seq, heads, d_head): each row gets the intact output of another row.
        generator: chooses the other rows.

    Raises:
        ValueError: for an unknown kind, and for "resample" with a batch of one row.
    """
    check_choice("kind", kind, Kind)
    if kind == "zero":
        return {layer: model.unembed.weight.new_zeros(()) for layer in attention_layers(model)}
    outputs = _intact_activations(model, tokens, documents, "hook_z")  # each (batch, seq, heads, d_head)
    if kind == "mean":
        real = torch.ones_like(tokens, dtype=torch.bool) if documents is None else documents >= 0
        return {layer: z[real].mean(dim=0) for layer, z in outputs.items()}
    if len(tokens) < 2:
        raise ValueError("kind='resample' takes the outputs of other rows, and the batch has 1; give at least 2")
    cycle = torch.randperm(len(tokens), generator=generator).to(tokens.device)
    source = torch.empty_like(cycle).scatter_(0, cycle, cycle.roll(1))  # (batch,) another row for each row
    return {layer: z[source] for layer, z in outputs.items()}


def intact_patterns(model: MTPTransformer, tokens: Tensor, documents: Tensor | None) -> dict[str, Tensor]:
    """The attention patterns of the intact model, by layer: (batch, heads, seq, keys)."""
    return _intact_activations(model, tokens, documents, "hook_pattern")


def ablation_hooks(
    model: MTPTransformer,
    heads: Collection[AttentionHead],
    outputs: Mapping[str, Tensor],
    patterns: Mapping[str, Tensor] | None = None,
) -> list[Hook]:
    """Hooks for `model.run_with_hooks` that ablate these attention heads; an empty list for no attention heads.

    Args:
        outputs: the result of `replacement_outputs`.
        patterns: the result of `intact_patterns` on the batch that the hooks run on, for pattern-preserving ablation.

    Raises:
        ValueError: for an attention head that the model does not have.

    Example:
        >>> from mtp_lab.interp.handmade import induction_model, repeated_tokens
        >>> model = induction_model()
        >>> tokens = repeated_tokens(model, rows=2, half=12, generator=torch.Generator().manual_seed(0))
        >>> outputs = replacement_outputs(model, tokens, None, "mean", torch.Generator().manual_seed(0))
        >>> hooks = ablation_hooks(model, [("heads.1", 0)], outputs)
        >>> model.run_with_hooks(tokens, all_heads=True, fwd_hooks=hooks).shape
        torch.Size([2, 2, 25, 24])
    """
    masks = head_masks(model, heads, attention_layers(model))
    hooks = [
        (f"{layer}.attn.hook_z", partial(replace_activation, value=outputs[layer], where=mask))
        for layer, mask in masks.items()
    ]
    if patterns and hooks:
        hooks += [(f"{name}.attn.hook_pattern", partial(replace_activation, value=p)) for name, p in patterns.items()]
    return hooks


def ablated_metric(
    model: MTPTransformer,
    tokens: Tensor,
    documents: Tensor | None,
    heads: Collection[AttentionHead],
    metric: Metric,
    kind: Kind = "mean",
    preserve_patterns: bool = False,
    seed: int = 0,
) -> float:
    """A metric of the model without these attention heads; for an empty list, of the intact model.

    Args:
        tokens, documents: (batch, seq); all rows run in one forward pass. They are the reference batch, too.
        metric: of the logits of every horizon, (n_future, batch, seq, vocab).
        preserve_patterns: keep all attention patterns as in the intact model.
        seed: of the choice of rows for "resample".

    Raises:
        ValueError: for an unknown kind or attention head, and for "resample" with a batch of one row.

    Example:
        >>> from mtp_lab.interp.handmade import induction_model, repeated_tokens
        >>> model = induction_model()
        >>> tokens = repeated_tokens(model, rows=4, half=12, generator=torch.Generator().manual_seed(0))
        >>> repeats = tokens[:, 14:]  # the second half, without its first token
        >>> accuracy = lambda logits: float((logits[0, :, 13:-1].argmax(-1) == repeats).float().mean())
        >>> ablated_metric(model, tokens, None, [], accuracy)
        1.0
        >>> ablated_metric(model, tokens, None, [("heads.1", 0)], accuracy) < 0.2
        True
    """
    return next(_metrics_without(model, tokens, documents, [heads], metric, kind, preserve_patterns, seed))


def single_ablations(
    model: MTPTransformer,
    tokens: Tensor,
    documents: Tensor | None,
    metric: Metric,
    kind: Kind = "mean",
    preserve_patterns: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """The metric without each single attention head; arguments and errors are those of `ablated_metric`.

    Returns:
        layer, head, value, difference (value minus that of the intact model: negative where the metric falls).
    """
    heads = attention_heads(model)
    ablations = [[], *([head] for head in heads)]
    intact, *values = _metrics_without(model, tokens, documents, ablations, metric, kind, preserve_patterns, seed)
    rows = [(*head, value, value - intact) for head, value in zip(heads, values, strict=True)]
    return pd.DataFrame(rows, columns=["layer", "head", "value", "difference"])


def dose_response(
    model: MTPTransformer,
    tokens: Tensor,
    documents: Tensor | None,
    ranking: Sequence[AttentionHead],
    metric: Metric,
    kind: Kind = "mean",
    preserve_patterns: bool = False,
    draws: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """The metric without the k highest-ranked attention heads, and without k random ones of the same layers.

    Each draw gives every ranked attention head a partner that is not ranked. The partner comes from the same layer, or
    from any other layer if the same one has none left. Other arguments and errors are those of `ablated_metric`.

    Args:
        ranking: attention heads in descending rank; k runs from 0 to their number.
        draws: number of random sets of partners.

    Returns:
        k, set ("ranked" or "random"), draw (0 for ranked), value.

    Raises:
        ValueError: if an attention head is ranked twice, or more than half of the model's attention heads are ranked.
    """
    ranking = [(layer, int(head)) for layer, head in ranking]
    heads, generator = attention_heads(model), torch.Generator().manual_seed(seed)
    if len(set(ranking)) < len(ranking):
        raise ValueError(f"ranking={ranking} must name an attention head once; leave out its second place")
    if 2 * len(ranking) > len(heads):
        raise ValueError(
            f"{len(ranking)} of {len(heads)} attention heads are ranked: too few are left to compare with; "
            f"cut the ranking to {len(heads) // 2}"
        )
    curves = [("ranked", 0, ranking)]
    curves += [("random", draw, _partners(ranking, heads, generator)) for draw in range(draws)]
    rows = [(k, name, draw) for name, draw, _ in curves for k in range(len(ranking) + 1)]
    ablations = [curve[:k] for _, _, curve in curves for k in range(len(ranking) + 1)]
    values = _metrics_without(model, tokens, documents, ablations, metric, kind, preserve_patterns, seed)
    table = [(*row, value) for row, value in zip(rows, values, strict=True)]
    return pd.DataFrame(table, columns=["k", "set", "draw", "value"])


def _partners(
    ranking: Sequence[AttentionHead], heads: Sequence[AttentionHead], generator: torch.Generator
) -> list[AttentionHead]:
    """A random attention head outside the ranking for each ranked one, of the same layer where one is left."""
    order = torch.randperm(len(heads), generator=generator).tolist()
    free, partners = [heads[i] for i in order if heads[i] not in ranking], [None] * len(ranking)
    for any_layer in (False, True):  # partners of the same layer first, so that no other layer takes them
        for place, (layer, _) in enumerate(ranking):
            partner = next((head for head in free if any_layer or head[0] == layer), None)
            if partners[place] is None and partner is not None:
                partners[place] = partner
                free.remove(partner)
    return partners


@torch.no_grad()
def _metrics_without(
    model: MTPTransformer,
    tokens: Tensor,
    documents: Tensor | None,
    ablations: Iterable[Collection[AttentionHead]],
    metric: Metric,
    kind: Kind,
    preserve_patterns: bool,
    seed: int,
) -> Iterator[float]:
    """The metric without each of these sets of attention heads."""
    outputs = replacement_outputs(model, tokens, documents, kind, torch.Generator().manual_seed(seed))
    patterns = intact_patterns(model, tokens, documents) if preserve_patterns else None
    for heads in ablations:
        hooks = ablation_hooks(model, heads, outputs, patterns)
        yield float(metric(model.run_with_hooks(tokens, documents, all_heads=True, fwd_hooks=hooks)))


@torch.no_grad()
def _intact_activations(
    model: MTPTransformer, tokens: Tensor, documents: Tensor | None, hook: str
) -> dict[str, Tensor]:
    """One activation of every layer with attention, by layer."""
    names = {layer: f"{layer}.attn.{hook}" for layer in attention_layers(model)}
    _, cache = model.run_with_cache(tokens, documents, all_heads=True, names_filter=list(names.values()))
    return {layer: cache[name] for layer, name in names.items()}
