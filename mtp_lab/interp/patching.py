"""Activation patching: which activations of the clean run restore its answer in the corrupted run.

Concept: the model runs on two inputs that differ in a few tokens and therefore in their answers (`pairs`). Then it runs
on the corrupted input again, with one activation replaced by that of the clean run. The logit difference between the
two answers shows how far the output returns to the clean answer.

Intuition: a recovery of 1 at some place means that it holds all of the information in which the two inputs differ. If
an earlier mention of a name holds it after layer 1, and the last token after layer 2, then attention in layer 2 moves
it. A recovery of 0 means that the information is elsewhere, or that the model does not use it.

All patches lie on the path of one horizon: the trunk's layers, then those of its prediction heads. `pairs.swapped()`
gives the reverse, corrupted activations in the clean run. Left out: patching with means or noise, and MLPs alone.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from mtp_lab.interp.hooks import Hook, attention_layers, head_masks, layer_names, replace_activation, residual_hooks
from mtp_lab.interp.pairs.base import Pairs, logit_difference
from mtp_lab.model.transformer import MTPTransformer

PAIRS_AT_ONCE = 32  # pairs in a forward pass: the activations at all hooks are in memory at once
Activations = Mapping[str, Tensor]  # by hook name
Patch = tuple[dict[str, str | int], list[Hook]]  # columns of its rows in the table, and what it replaces


def residual_patching(model: MTPTransformer, pairs: Pairs, horizon: int = 1) -> pd.DataFrame:
    """Patches the residual stream after one layer at a time, at all positions of one role at a time.

    "embed" is the embedding; the other layers are those on the path ("blocks.0", ..., "heads.1"). A sequential head
    also reads the embedding of later tokens, which a patch at "embed" does not change.

    Args:
        pairs: as drawn, for the next-token head.
        horizon: the prediction head whose logits count; `Pairs.for_horizon` moves the query.

    Returns:
        layer, role, pair, and the logit differences of the three runs in nats: clean, corrupted, patched.

    Raises:
        ValueError: for a horizon that the model or the pairs do not have.

    Example:
        >>> from mtp_lab.interp.handmade import induction_model, induction_pairs
        >>> table = recovery(residual_patching(induction_model(), induction_pairs()), ["layer", "role"])
        >>> table.pivot(index="layer", columns="role", values="recovery").abs().round(2)[["first", "second", "query"]]
        role      first  second  query
        layer
        blocks.0    0.0     1.0    0.0
        embed       1.0     0.0    0.0
        heads.1     0.0     0.0    1.0
    """
    hooks = residual_hooks(layer_names(model, horizon))

    def patches(batch: Pairs, clean: Activations, _: Activations) -> Iterator[Patch]:
        for layer, hook in hooks.items():
            for number, role in enumerate(batch.role_names):
                where = (batch.roles == number)[:, :, None]  # (pairs, seq, 1)
                yield (
                    {"layer": layer, "role": role},
                    [(hook, partial(replace_activation, value=clean[hook], where=where))],
                )

    return patched_runs(model, pairs, horizon, hooks.values(), patches)


def head_patching(model: MTPTransformer, pairs: Pairs, horizon: int = 1) -> pd.DataFrame:
    """Patches the output (`hook_z`) of one attention head at a time, at all positions and at the query alone.

    Returns:
        layer, head, positions ("all" or "query"), pair, and the logit differences clean, corrupted, patched.

    Raises:
        ValueError: as `residual_patching`, and for a path without attention.

    Example:
        >>> from mtp_lab.interp.handmade import induction_model, induction_pairs
        >>> table = recovery(head_patching(induction_model(), induction_pairs()), ["layer", "head", "positions"])
        >>> print(table[table.recovery > 0.99].round(2).to_string(index=False))
           layer  head positions  recovery
        blocks.0     0       all       1.0
         heads.1     0       all       1.0
         heads.1     0     query       1.0
    """
    layers, n_heads = attention_layers(model, horizon), model.config.n_attention_heads

    def patches(batch: Pairs, clean: Activations, _: Activations) -> Iterator[Patch]:
        query = (batch.roles == batch.role_names.index("query"))[:, :, None, None]  # (pairs, seq, 1, 1)
        for layer in layers:
            hook = f"{layer}.attn.hook_z"
            for head in range(n_heads):
                mask = head_masks(model, [(layer, head)], layers)[layer]  # (heads, 1)
                for positions, where in (("all", mask), ("query", query & mask)):
                    columns = {"layer": layer, "head": head, "positions": positions}
                    yield columns, [(hook, partial(replace_activation, value=clean[hook], where=where))]

    return patched_runs(model, pairs, horizon, [f"{layer}.attn.hook_z" for layer in layers], patches)


def recovery(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The share of the logit difference that each patch restores: (patched - corrupted) / (clean - corrupted).

    0 restores nothing, 1 all of it. Numerator and denominator are means over the pairs of a group, because the share of
    a single pair is meaningless where its two runs hardly differ. With "pair" in `by`, each pair has its own share.

    Args:
        table: from one of the functions above or from `path_patching`, or several tables of one kind, concatenated.
        by: the columns that distinguish patches, such as ["layer", "role"].

    Returns:
        The columns `by`, in the order of `table`, and recovery.
    """
    means = table.groupby(list(by), sort=False)[["clean", "corrupted", "patched"]].mean()
    shares = (means.patched - means.corrupted) / (means.clean - means.corrupted)
    return shares.rename("recovery").reset_index()


def patched_runs(
    model: MTPTransformer,
    pairs: Pairs,
    horizon: int,
    hooks: Collection[str],
    patches: Callable[[Pairs, Activations, Activations], Iterable[Patch]],
) -> pd.DataFrame:
    """Runs the model clean, corrupted, and corrupted with each patch, a few pairs at a time.

    Args:
        hooks: the activations that `patches` needs.
        patches: makes the patches for some pairs from their activations in the clean and in the corrupted run.

    Returns:
        The columns of the patches, pair, and the logit differences clean, corrupted, patched.
    """
    pairs, tables = pairs.for_horizon(horizon).to(model.embed.weight.device), []
    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        batch = pairs[first : first + PAIRS_AT_ONCE]
        clean_difference, clean = run_pairs(model, batch.clean, batch, horizon, keep=hooks)
        corrupted_difference, corrupted = run_pairs(model, batch.corrupted, batch, horizon, keep=hooks)
        for columns, edits in patches(batch, clean, corrupted):
            patched_difference, _ = run_pairs(model, batch.corrupted, batch, horizon, edits)
            differences = {
                "clean": clean_difference,
                "corrupted": corrupted_difference,
                "patched": patched_difference,
            }  # (pairs,) each
            differences = {name: values.double().cpu().numpy() for name, values in differences.items()}
            tables.append(pd.DataFrame({**columns, "pair": range(first, first + len(batch)), **differences}))
    return pd.concat(tables, ignore_index=True)


@torch.no_grad()
def run_pairs(
    model: MTPTransformer,
    tokens: Tensor,
    pairs: Pairs,
    horizon: int,
    edits: Iterable[Hook] = (),
    keep: Iterable[str] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logit differences (pairs,) of a run with some activations edited, and the activations to keep, as edited."""
    kept: dict[str, Tensor] = {}

    def keep_activation(x: Tensor, hook: HookPoint) -> None:
        kept[hook.name] = x

    with model.hooks(fwd_hooks=[*edits, *((name, keep_activation) for name in keep)]):
        context = model.context(tokens, pairs.documents)
        latent = model.trunk(tokens, context)  # (pairs, seq, d_model)
        for i in model.config.path(horizon):
            latent = model.head(i, latent, tokens, context)
    rows = torch.arange(len(pairs), device=latent.device)
    at_query = latent[rows, pairs.query_position]  # (pairs, d_model)
    return logit_difference(model.unembedded(at_query), pairs), kept
