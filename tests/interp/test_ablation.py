"""Ablations on the circuit written down by hand, and against models with attention heads cut out of their weights."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from mtp_lab.interp.ablation import (
    _partners,
    ablated_metric,
    ablation_hooks,
    dose_response,
    intact_patterns,
    replacement_outputs,
    single_ablations,
)
from mtp_lab.interp.handmade import DUPLICATE, INDUCTION, PREVIOUS, SECOND_PREVIOUS, repeated_tokens
from mtp_lab.interp.hooks import attention_heads
from mtp_lab.model.transformer import MTPTransformer

HALF = 12
KINDS = ("zero", "mean", "resample")
BEFORE, SECOND_BEFORE, COPIES = ("blocks.0", PREVIOUS), ("blocks.0", SECOND_PREVIOUS), ("blocks.0", DUPLICATE)


@pytest.fixture(scope="module")
def tokens(handmade) -> Tensor:
    return repeated_tokens(handmade, 8, HALF, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def packed() -> tuple[Tensor, Tensor]:
    """Rows of bytes with two documents each and padding after them."""
    tokens = torch.randint(97, 100, (4, 16), generator=torch.Generator().manual_seed(1))
    documents = (torch.arange(16) > 6).long().expand(4, 16) + 2 * torch.arange(4)[:, None]
    return tokens, documents.where(torch.arange(16) < 13, -1)


def continues(tokens: Tensor, horizon: int) -> Callable[[Tensor], float]:
    """How often head i continues the second half."""
    queries = slice(HALF + 1, -horizon)
    targets = tokens[:, HALF + 1 + horizon :]
    return lambda logits: float((logits[horizon - 1][:, queries].argmax(-1) == targets).float().mean())


def ablated(model: MTPTransformer, tokens: Tensor, documents: Tensor | None, heads: list, kind: str) -> Tensor:
    outputs = replacement_outputs(model, tokens, documents, kind, torch.Generator().manual_seed(0))
    edits = ablation_hooks(model, heads, outputs)
    return model.run_with_hooks(tokens, documents, all_heads=True, fwd_hooks=edits)


def ran(model: MTPTransformer, tokens: Tensor, documents: Tensor, edits: list) -> dict[str, Tensor]:
    """All activations of a run with edits."""
    with model.hooks(fwd_hooks=edits):  # before those that keep the activations
        return model.run_with_cache(tokens, documents, all_heads=True)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_each_head_loses_its_own_previous_token_head(handmade, tokens, kind):
    """Head i needs the attention head that looks i back, and does without the other one.
    Catches: hooks on another layer or attention head, replacements that are the intact outputs."""
    for broken, lost, kept in ((BEFORE, 1, 2), (SECOND_BEFORE, 2, 1)):
        assert ablated_metric(handmade, tokens, None, [], continues(tokens, lost), kind) == 1
        assert ablated_metric(handmade, tokens, None, [broken], continues(tokens, lost), kind) < 0.2
        assert ablated_metric(handmade, tokens, None, [broken], continues(tokens, kept), kind) == 1
    in_head = [("heads.1", INDUCTION)]
    assert ablated_metric(handmade, tokens, None, in_head, continues(tokens, 1), kind) < 0.2
    assert ablated_metric(handmade, tokens, None, in_head, continues(tokens, 2), kind) == 1


def test_a_head_that_writes_nothing_can_be_ablated(handmade, tokens):
    """The attention head that finds duplicates, and looks at them only: the same logits to the bit, for every kind."""
    intact = handmade.all_logits(tokens)
    for kind in KINDS:
        assert torch.equal(ablated(handmade, tokens, None, [COPIES], kind), intact)
    assert not torch.equal(ablated(handmade, tokens, None, [COPIES, BEFORE], "zero"), intact)


@pytest.mark.parametrize("kind", KINDS)
def test_with_patterns_kept_the_previous_token_head_is_not_missed(handmade, tokens, kind):
    """Its output only says where head 1 looks. The induction head's own output is missed in either case.
    Catches: patterns of the ablated run, frozen patterns that undo the ablation itself."""
    for heads, after in (([BEFORE], 1.0), ([("heads.1", INDUCTION)], 0.0)):
        found = ablated_metric(handmade, tokens, None, heads, continues(tokens, 1), kind, preserve_patterns=True)
        assert found == pytest.approx(after, abs=0.2)
    assert ablated_metric(handmade, tokens, None, [BEFORE], continues(tokens, 1), kind) < 0.2


@torch.no_grad()
@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_zero_and_mean_are_a_cut_in_the_weights(three_heads, packed, kind):
    """Against a model without the columns of attn.out that read the attention heads, and a constant in their place.
    Catches: a mean over one row or over padding, or over attention heads."""
    tokens, documents = packed
    heads = [("blocks.0", 1), ("heads.2", 0)]
    _, cache = three_heads.run_with_cache(tokens, documents, all_heads=True)
    cut, constants = deepcopy(three_heads), []
    for layer, head in heads:
        z = cache[f"{layer}.attn.hook_z"]  # (batch, seq, heads, d_head)
        outputs = [z[r, t, head] for r in range(4) for t in range(16) if documents[r, t] >= 0]
        mean = sum(outputs) / len(outputs) if kind == "mean" else torch.zeros(z.shape[-1])
        columns = cut.get_submodule(f"{layer}.attn.out").weight[:, 8 * head : 8 * head + 8]
        constants.append((f"{layer}.hook_attn_out", lambda x, hook, constant=columns @ mean: x + constant))
        columns.copy_(torch.zeros(16, 8))
    expected = cut.run_with_hooks(tokens, documents, all_heads=True, fwd_hooks=constants)
    found = ablated(three_heads, tokens, documents, heads, kind)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - three_heads.all_logits(tokens, documents)).abs().max() > 1e-2


@torch.no_grad()
def test_resampling_deals_out_the_outputs_of_other_rows(three_heads, packed):
    """Every row has the intact outputs of one other row, each row's are used once, and all layers agree on which.
    Catches: a row that keeps its own, outputs of the ablated run, an order for each layer."""
    tokens, documents = packed
    heads = [("blocks.0", 0), ("heads.3", 1)]
    _, cache = three_heads.run_with_cache(tokens, documents, all_heads=True)
    for seed in range(5):
        outputs = replacement_outputs(three_heads, tokens, documents, "resample", torch.Generator().manual_seed(seed))
        kept = ran(three_heads, tokens, documents, ablation_hooks(three_heads, heads, outputs))
        orders = []
        for layer, head in heads:
            name = f"{layer}.attn.hook_z"
            same = [[torch.equal(kept[name][r, :, head], cache[name][s, :, head]) for s in range(4)] for r in range(4)]
            orders.append([row.index(True) for row in same])
        assert orders[0] == orders[1] and sorted(orders[0]) == [0, 1, 2, 3]
        assert all(r != s for r, s in enumerate(orders[0]))
        torch.testing.assert_close(kept["blocks.0.attn.hook_z"][:, :, 1], cache["blocks.0.attn.hook_z"][:, :, 1])


@torch.no_grad()
def test_patterns_kept_are_those_of_the_intact_run(three_heads, packed):
    """After the ablated layer, in every head. Catches: one layer left out, or the attention heads mixed up."""
    tokens, documents = packed
    patterns = intact_patterns(three_heads, tokens, documents)
    assert list(patterns) == ["blocks.0", "heads.1", "heads.2", "heads.3"]
    outputs = replacement_outputs(three_heads, tokens, documents, "zero", torch.Generator())
    for keep, close in ((patterns, True), (None, False)):
        kept = ran(three_heads, tokens, documents, ablation_hooks(three_heads, [("blocks.0", 0)], outputs, keep))
        z = torch.einsum("bhqk,bkhd->bqhd", patterns["heads.3"], kept["heads.3.attn.hook_v"])
        assert torch.allclose(kept["heads.3.attn.hook_z"], z, atol=1e-5) == close
        assert kept["blocks.0.attn.hook_z"][:, :, 0].abs().max() == 0


def test_single_ablations_cover_each_attention_head(handmade, tokens):
    """One row an attention head, trunk first; only the two on the path of head 1 change its accuracy."""
    table = single_ablations(handmade, tokens, None, continues(tokens, 1), "zero")
    assert list(zip(table["layer"], table["head"], strict=True)) == attention_heads(handmade)
    assert len(table) == 12
    hurt = table[table.difference < -0.5]
    assert set(zip(hurt["layer"], hurt["head"], strict=True)) == {BEFORE, ("heads.1", INDUCTION)}
    others = table.drop(hurt.index)
    assert (others.difference == 0).all() and (others.value == 1).all()


def test_dose_response_falls_for_the_ranked_and_not_for_others(handmade, tokens):
    """Intact at k = 0; ranked attention heads below every draw of as many others.
    Catches: off by one in k, random sets that hold ranked attention heads."""
    ranking = [("heads.1", INDUCTION), BEFORE]
    table = dose_response(handmade, tokens, None, ranking, continues(tokens, 1), "mean", draws=4)
    assert all(list(curve) == [0, 1, 2] for _, curve in table.groupby(["set", "draw"]).k)
    assert table.groupby("set").draw.nunique().to_dict() == {"random": 4, "ranked": 1}
    assert (table[table.k == 0].value == 1).all()
    assert table[(table.set == "ranked") & (table.k > 0)].value.max() < 0.2
    assert table[table.set == "random"].value.min() == 1
    one = ablated_metric(handmade, tokens, None, ranking[:1], continues(tokens, 1))
    assert table[(table.set == "ranked") & (table.k == 1)].value.item() == one


def test_partners_are_others_of_the_same_layer(handmade):
    """Of another layer only where its own has none left, and never those that another ranked one of its layer needs."""
    every = attention_heads(handmade)
    ranking = [("blocks.0", 0), ("blocks.0", 1), ("blocks.0", 3), ("heads.1", 1), ("heads.1", 2), ("heads.2", 0)]
    found = {tuple(_partners(ranking, every, torch.Generator().manual_seed(seed))) for seed in range(20)}
    assert len(found) > 10
    for partners in found:
        assert set(partners) == set(every) - set(ranking)
        assert partners[0] == ("blocks.0", 2)
        assert [layer for layer, _ in partners[3:]] == ["heads.1", "heads.1", "heads.2"]


def test_errors_name_what_is_wrong(handmade, tokens):
    """Attention heads and kinds that are not there; ablations that have nothing to compare with."""
    metric = continues(tokens, 1)
    for head in (("blocks.1", 0), ("heads.1", 4), ("heads.1", -1)):
        with pytest.raises(ValueError, match="no attention head .* layers are blocks.0, heads.1, heads.2"):
            ablated_metric(handmade, tokens, None, [head], metric)
    with pytest.raises(ValueError, match="kind='noise' is not known"):
        ablated_metric(handmade, tokens, None, [BEFORE], metric, "noise")
    with pytest.raises(ValueError, match="the batch has 1"):
        ablated_metric(handmade, tokens[:1], None, [BEFORE], metric, "resample")
    with pytest.raises(ValueError, match="7 of 12 attention heads are ranked"):
        dose_response(handmade, tokens, None, attention_heads(handmade)[:7], metric)
    with pytest.raises(ValueError, match="second place"):
        dose_response(handmade, tokens, None, [BEFORE, BEFORE], metric)
