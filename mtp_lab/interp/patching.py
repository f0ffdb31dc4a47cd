"""Activation patching: which activations of the clean run are enough to restore its answer in the corrupt one.

Every function returns a long table, one row a pair and place, with the logit difference of the clean, the corrupt and
the patched run; `recovered` makes shares of it. What is patched lies on the path of one horizon: the trunk's layers,
then those of its head. `pairs.swapped()` gives the reverse, corrupt activations in the clean run. Paths between
attention heads are in path_patching.py. Left out: patching with means or noise, and MLPs one at a time.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from mtp_lab.interp.attention import attention_layers
from mtp_lab.interp.hook_names import residual_hooks
from mtp_lab.interp.pairs.base import Pairs, logit_difference
from mtp_lab.model.transformer import MTPTransformer

PAIRS = 32  # pairs a forward: their activations at all sites are alive at once
Hook = tuple[str, Callable[[Tensor, HookPoint], Tensor | None]]
Place = tuple[dict[str, str | int], str, Tensor]  # labels, hook name, where in its activation


def residual_patching(model: MTPTransformer, pairs: Pairs, horizon: int = 1) -> pd.DataFrame:
    """Patches the residual stream at one site, at all positions of one role at a time.

    Sites are the embedding ("embed") and what each layer on the path leaves behind ("blocks.0", ..., "heads.1").
    A sequential head also reads the embedding of later tokens, which "embed" leaves as it is.

    Args:
        pairs: as drawn, for the next-token head.
        horizon: the head that is asked; see `Pairs.asked_by` for where.

    Returns:
        A table with columns layer, role, pair, clean, corrupt, patched: logit differences in nats.

    Raises:
        ValueError: for a horizon that the model or the pairs do not have.

    Example:
        >>> recovered(residual_patching(model, pairs), ["layer", "role"]).pivot(index="layer", columns="role")
    """
    names = residual_hooks(_layers(model, horizon))

    def places(part: Pairs) -> Iterator[Place]:
        for layer, name in names.items():
            for i, role in enumerate(part.names):
                yield {"layer": layer, "role": role}, name, (part.roles == i)[:, :, None]

    return _one_at_a_time(model, pairs, horizon, names.values(), places)


def head_patching(model: MTPTransformer, pairs: Pairs, horizon: int = 1) -> pd.DataFrame:
    """Patches what one attention head at a time has read (z), at all positions and at the query alone.

    Returns:
        A table with columns layer, head, positions ("all" or "query"), pair, clean, corrupt, patched.

    Raises:
        ValueError: as `residual_patching`, and for a path without attention.
    """
    names, n_heads = (
        {layer: f"{layer}.attn.hook_z" for layer in attentive(model, horizon)},
        model.config.n_attention_heads,
    )

    def places(part: Pairs) -> Iterator[Place]:
        query = part.roles == part.names.index("query")  # (pairs, seq)
        for layer, name in names.items():
            for head in range(n_heads):
                one = (torch.arange(n_heads, device=query.device) == head)[:, None]  # (heads, 1)
                yield {"layer": layer, "head": head, "positions": "all"}, name, one
                yield {"layer": layer, "head": head, "positions": "query"}, name, query[:, :, None, None] & one

    return _one_at_a_time(model, pairs, horizon, names.values(), places)


def recovered(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The share of the answer that each patch restores: (patched - corrupt) / (clean - corrupt), 0 none, 1 all of it.

    Numerator and denominator are means over the pairs of a group, because a pair whose two runs hardly differ has no
    share of its own; with "pair" in `by`, each pair's own comes out all the same.

    Args:
        table: from one of the functions above, or several of one kind below each other.
        by: the columns that tell places apart, such as ["layer", "role"].

    Returns:
        A table with the columns `by`, in the order of `table`, and recovery.
    """
    means = table.groupby(list(by), sort=False)[["clean", "corrupt", "patched"]].mean()
    shares = (means.patched - means.corrupt) / (means.clean - means.corrupt)
    return shares.rename("recovery").reset_index()


def _one_at_a_time(
    model: MTPTransformer,
    pairs: Pairs,
    horizon: int,
    names: Collection[str],
    places: Callable[[Pairs], Iterator[Place]],
) -> pd.DataFrame:
    tables = []
    for part, first in in_parts(model, pairs, horizon):
        clean, activations = run(model, part.clean, part, horizon, keep=names)
        corrupt, _ = run(model, part.corrupt, part, horizon)
        for labels, name, where in places(part):
            edit = partial(put, value=activations[name], where=where)
            patched, _ = run(model, part.corrupt, part, horizon, [(name, edit)])
            tables.append(differences(first, clean, corrupt, patched, **labels))
    return pd.concat(tables, ignore_index=True)


def in_parts(model: MTPTransformer, pairs: Pairs, horizon: int) -> Iterator[tuple[Pairs, int]]:
    """A few pairs at a time, asked by the horizon, on the model's device; and the number of the first."""
    asked = pairs.asked_by(horizon).to(model.embed.weight.device)
    for first in range(0, len(asked), PAIRS):
        yield asked[first : first + PAIRS], first


@torch.no_grad()
def run(
    model: MTPTransformer,
    tokens: Tensor,
    pairs: Pairs,
    horizon: int,
    edits: Iterable[Hook] = (),
    keep: Iterable[str] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logit differences (pairs,) of a run with some activations edited, and the activations to keep, as edited."""
    kept: dict[str, Tensor] = {}

    def note(x: Tensor, hook: HookPoint) -> None:
        kept[hook.name] = x

    with model.hooks(fwd_hooks=[*edits, *((name, note) for name in keep)]):
        context = model.context(tokens, pairs.documents)
        latent = model.trunk(tokens, context)  # (pairs, seq, d_model)
        for i in model.config.path(horizon):
            latent = model.head(i, latent, tokens, context)
    queries = latent[torch.arange(len(pairs), device=latent.device), pairs.at]  # (pairs, d_model)
    return logit_difference(model.unembedded(queries), pairs), kept


def put(x: Tensor, hook: HookPoint, value: Tensor, where: Tensor | None = None) -> Tensor:
    """A hook that puts `value` in the activation's place, or only `where` that is true."""
    return value if where is None else torch.where(where, value, x)


def differences(first: int, clean: Tensor, corrupt: Tensor, patched: Tensor, **labels: str | int) -> pd.DataFrame:
    """A row for each of the pairs from number `first` on."""
    ends = {"clean": clean, "corrupt": corrupt, "patched": patched}
    columns = {name: values.double().cpu().numpy() for name, values in ends.items()}
    return pd.DataFrame({**labels, "pair": range(first, first + len(clean)), **columns})


def _layers(model: MTPTransformer, horizon: int) -> list[str]:
    """The layers on the path to a horizon, in the order they run."""
    heads = model.config.path(horizon)
    return [*(f"blocks.{i}" for i in range(len(model.blocks))), *(f"heads.{i}" for i in heads)]


def attentive(model: MTPTransformer, horizon: int) -> list[str]:
    """Those of them that have attention heads."""
    with_attention = attention_layers(model)
    layers = [layer for layer in _layers(model, horizon) if layer in with_attention]
    if not layers:
        raise ValueError(
            f"no layer on the path to horizon={horizon} has attention: its head is linear, the trunk empty"
        )
    return layers
