"""Path patching: whether some attention heads act through the queries, keys or values of others.

Concept: the corrupted run is repeated with one connection replaced by that of the clean run, namely what some attention
heads (senders) write directly into the inputs of later ones (receivers). Everything else in the receivers' input stays
as in the corrupted run. The logit difference shows how much of the clean answer this connection restores.

Intuition: an induction circuit needs a previous-token head whose output becomes part of the keys of an induction head.
If this path is used, patching it through "k" recovers most of the clean answer, and through "q" or "v" almost nothing.
Low values for all three mean that the senders act by another route, such as a third attention head between them.

The pairs and tables are those of `patching`. Left out: paths that end at the logits or start at an MLP, and a search
over all pairs of attention heads.
"""

from collections.abc import Collection, Iterator
from functools import partial
from typing import Literal

import pandas as pd
import torch

from mtp_lab.config import check_choice
from mtp_lab.interp.hooks import AttentionHead, attention_layers, head_masks, replace_activation
from mtp_lab.interp.pairs.base import Pairs
from mtp_lab.interp.patching import Activations, Patch, patched_runs, run_pairs
from mtp_lab.model.transformer import MTPTransformer

Through = Literal["q", "k", "v"]


def path_patching(
    model: MTPTransformer,
    pairs: Pairs,
    senders: Collection[AttentionHead],
    receivers: Collection[AttentionHead],
    through: Through = "k",
    horizon: int = 1,
) -> pd.DataFrame:
    """Patches the direct paths from some attention heads to the queries, keys or values of others.

    Two passes over the corrupted input (Wang et al. 2022, arXiv 2211.00593). In the first, the senders have their
    outputs of the clean run, and all other attention heads and all MLPs keep theirs of the corrupted run. Only the
    senders' output therefore changes what the receivers read, and their new inputs are kept. The second pass gives
    these inputs to the receivers and computes everything else anew. Wang et al. also recompute the MLPs in the first
    pass. Here they are fixed, so that a path is direct (Goldowsky-Dill et al. 2023, arXiv 2304.05969).

    Args:
        senders, receivers: attention heads, such as ("blocks.0", 1) and ("heads.1", 0).
        through: which input of the receivers is patched, at all positions: q, k or v.

    Returns:
        through, pair, and the logit differences clean, corrupted, patched.

    Raises:
        ValueError: for an attention head outside the path, a receiver without an earlier sender, a sender without a
            later receiver, or an unknown `through`; as `head_patching`.

    Example:
        >>> from mtp_lab.interp.handmade import INDUCTION, PREVIOUS, induction_model, induction_pairs
        >>> from mtp_lab.interp.patching import recovery
        >>> circuit = [("blocks.0", PREVIOUS)], [("heads.1", INDUCTION)]
        >>> tables = [path_patching(induction_model(), induction_pairs(), *circuit, through) for through in "qkv"]
        >>> recovery(pd.concat(tables), ["through"]).round(2)
          through  recovery
        0       q       0.0
        1       k       1.0
        2       v       0.0
    """
    layers = list(attention_layers(model, horizon))
    sent, received = _check_path(model, layers, senders, receivers, through)
    outputs = {layer: f"{layer}.attn.hook_z" for layer in layers}
    mlps = [] if model.config.attention_only else [f"{layer}.hook_mlp_out" for layer in layers]
    inputs = {layer: f"{layer}.attn.hook_{through}" for layer in received}

    def patches(batch: Pairs, clean: Activations, corrupted: Activations) -> Iterator[Patch]:
        fixed = dict(corrupted)
        for layer, mask in sent.items():
            fixed[outputs[layer]] = torch.where(mask, clean[outputs[layer]], corrupted[outputs[layer]])
        first_pass = [(hook, partial(replace_activation, value=value)) for hook, value in fixed.items()]
        _, reached = run_pairs(model, batch.corrupted, batch, horizon, first_pass, keep=inputs.values())
        second_pass = [
            (inputs[layer], partial(replace_activation, value=reached[inputs[layer]], where=mask))
            for layer, mask in received.items()
        ]
        yield {"through": through}, second_pass

    return patched_runs(model, pairs, horizon, [*outputs.values(), *mlps], patches)


def _check_path(
    model: MTPTransformer,
    layers: list[str],
    senders: Collection[AttentionHead],
    receivers: Collection[AttentionHead],
    through: Through,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The masks of senders and receivers by layer; see `head_masks`."""
    check_choice("through", through, Through)
    for name, heads in (("senders", senders), ("receivers", receivers)):
        if not heads:
            raise ValueError(f"{name} is empty; name at least one (layer, attention head)")
    sent, received = head_masks(model, senders, layers, "senders"), head_masks(model, receivers, layers, "receivers")
    sending, receiving = (sorted(layers.index(layer) for layer in masks) for masks in (sent, received))
    if receiving[0] <= sending[0] or receiving[-1] <= sending[-1]:
        raise ValueError(
            f"senders {list(senders)} and receivers {list(receivers)}: every receiver needs a sender in an earlier "
            f"layer, and every sender a receiver in a later one; the layers run {', '.join(layers)}"
        )
    return sent, received
