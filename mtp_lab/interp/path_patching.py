"""Path patching: whether one set of attention heads acts through the queries, keys or values of another.

The question of an induction circuit: do the trunk's previous-token heads make the keys that the attention heads behind
them, in the trunk or in one of the model's heads, match? Runs, pairs and tables are those of patching.py. Left out:
paths that end at the logits or start at an MLP, and searching all pairs of attention heads.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import pandas as pd
import torch
from torch import Tensor

from mtp_lab.interp.pairs.base import Pairs
from mtp_lab.interp.patching import attentive, differences, in_parts, put, run
from mtp_lab.model.transformer import MTPTransformer

Head = tuple[str, int]  # layer, attention head
Through = Literal["q", "k", "v"]


def path_patching(
    model: MTPTransformer,
    pairs: Pairs,
    senders: Sequence[Head],
    receivers: Sequence[Head],
    through: Through = "k",
    horizon: int = 1,
) -> pd.DataFrame:
    """Patches the direct paths from some attention heads to the queries, keys or values of others.

    Two passes over the corrupt run (Wang et al. 2022, arXiv 2211.00593). In the first the senders have
    read what they read in the clean run, and every other attention head and every MLP keeps what it had written, so
    that only the senders' writing in the residual stream reaches the receivers; the inputs that these then have are
    kept. The second pass puts them into the receivers and computes all else anew. In Wang et al. MLPs are computed anew
    in the first pass, too; here they are not, so that a path is direct (Goldowsky-Dill et al. 2023, arXiv 2304.05969).

    Args:
        senders, receivers: (layer, attention head) each, such as ("blocks.0", 1) and ("heads.1", 0).
        through: which input of the receivers: q, k or v, at all positions.

    Returns:
        A table with columns through, pair, clean, corrupt, patched.

    Raises:
        ValueError: for an attention head that the path does not have, a receiver that no sender comes before, a sender
            that comes before no receiver, or an unknown `through`; as `head_patching`.

    Example:
        >>> recovered(path_patching(model, pairs, [("blocks.0", 0)], [("heads.1", 0)], "k"), ["through"])
    """
    layers = attentive(model, horizon)
    _check_path(layers, model.config.n_attention_heads, senders, receivers, through)
    sent, received = (_by_layer(heads, model) for heads in (senders, receivers))
    read = {layer: f"{layer}.attn.hook_z" for layer in layers}
    written = [] if model.config.attention_only else [f"{layer}.hook_mlp_out" for layer in layers]
    inputs = {layer: f"{layer}.attn.hook_{through}" for layer in received}
    tables = []
    for part, first in in_parts(model, pairs, horizon):
        clean_end, clean = run(model, part.clean, part, horizon, keep=read.values())
        corrupt_end, own = run(model, part.corrupt, part, horizon, keep=[*read.values(), *written])
        kept = own | {
            read[layer]: torch.where(one, clean[read[layer]], own[read[layer]]) for layer, one in sent.items()
        }
        edits = [(name, partial(put, value=value)) for name, value in kept.items()]
        _, reached = run(model, part.corrupt, part, horizon, edits, keep=inputs.values())
        edits = [
            (inputs[layer], partial(put, value=reached[inputs[layer]], where=one)) for layer, one in received.items()
        ]
        patched, _ = run(model, part.corrupt, part, horizon, edits)
        tables.append(differences(first, clean_end, corrupt_end, patched, through=through))
    return pd.concat(tables, ignore_index=True)


def _by_layer(heads: Sequence[Head], model: MTPTransformer) -> dict[str, Tensor]:
    """(attention heads, 1) for each layer with some of the attention heads: which."""
    chosen: dict[str, Tensor] = {}
    for layer, head in heads:
        none = torch.zeros(model.config.n_attention_heads, 1, dtype=torch.bool, device=model.embed.weight.device)
        chosen.setdefault(layer, none)[head] = True
    return chosen


def _check_path(
    layers: Sequence[str], n_heads: int, senders: Sequence[Head], receivers: Sequence[Head], through: Through
) -> None:
    if through not in get_args(Through):
        raise ValueError(f"through={through!r} is not known; use one of {', '.join(get_args(Through))}")
    for name, heads in (("senders", senders), ("receivers", receivers)):
        if not heads:
            raise ValueError(f"{name} is empty; name at least one (layer, attention head)")
        for layer, head in heads:
            if layer not in layers or not 0 <= head < n_heads:
                raise ValueError(
                    f"{name}: no attention head ({layer!r}, {head}) on this path; its layers are {', '.join(layers)}, "
                    f"each with attention heads 0 to {n_heads - 1}"
                )
    sending, receiving = ({layers.index(layer) for layer, _ in heads} for heads in (senders, receivers))
    if min(receiving) <= min(sending) or max(receiving) <= max(sending):
        raise ValueError(
            f"senders {list(senders)} and receivers {list(receivers)}: every receiver needs a sender in a layer before "
            f"its own, and every sender a receiver behind it; the layers run {', '.join(layers)}"
        )
