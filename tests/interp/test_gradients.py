"""Gradients by horizon against autograd's of the whole loss, and against one target at a time.

Every test states a property and the bug it would catch.
"""

import pytest
import torch
from torch import Tensor

from mtp_lab.config import ModelConfig
from mtp_lab.interp.gradients import (
    ROWS_AT_ONCE,
    class_shares,
    gradients_by_horizon,
    parameter_gradients,
    target_norms,
    trunk_gradients,
)
from mtp_lab.interp.handmade import repeated_tokens
from mtp_lab.model.loss import mtp_loss
from mtp_lab.model.targets import future_targets
from mtp_lab.model.transformer import MTPTransformer

kinds = pytest.mark.parametrize("kind", ["parallel", "causal", "anticausal", "linear", "sequential"])
VOCAB = 11
DOCUMENTS = torch.tensor([[4, 4, 4, 5, 5, 5, -1, -1], [6, 6, 6, 6, 6, 6, 6, 6]])


def a_model(kind: str = "parallel", **changes) -> MTPTransformer:
    """fp64, three horizons on a trunk of two layers, with weights so large that every path matters."""
    sizes = dict(vocab_size=VOCAB, d_model=8, n_attention_heads=2, n_future=3, trunk_layers=2, d_mlp=12, max_seq=16)
    torch.manual_seed(0)
    model = MTPTransformer(ModelConfig(**{**sizes, "head_kind": kind, **changes})).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model.eval()


def some_tokens(rows: int = 2, seq: int = 8) -> Tensor:
    return torch.randint(0, VOCAB, (rows, seq), generator=torch.Generator().manual_seed(1))


@kinds
def test_the_horizons_add_up_to_the_gradient_of_the_whole_loss(kind):
    """At the trunk's output and at its parameters, over more rows than are run at once. Catches: means over parts of
    the batch, targets across documents, a chain cut between heads, a part of the rows dropped or swapped."""
    model, documents = a_model(kind), DOCUMENTS.repeat(ROWS_AT_ONCE // 2 + 1, 1)
    tokens, kept = some_tokens(len(documents)), []

    def keep(x: Tensor, hook) -> None:
        x.retain_grad()
        kept.append(x)

    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", keep)]):
        mtp_loss(model, tokens, documents, method="reference").total.backward()
    found = trunk_gradients(model, tokens, documents)
    assert found.shape == (3, *tokens.shape, 8)
    torch.testing.assert_close(found.sum(0), kept[0].grad, rtol=0, atol=1e-14)
    assert (found.flatten(1).norm(dim=1) > 1e-3).all()

    layers = parameter_gradients(model, tokens, documents)
    assert list(layers) == ["embed", "blocks.0", "blocks.1"]
    for name, gradients in layers.items():
        if name != "embed" or kind != "sequential":  # whose heads read the embedding past the trunk
            expected = torch.cat([p.grad.flatten() for p in model.get_submodule(name).parameters()])
            torch.testing.assert_close(gradients.sum(0), expected, rtol=0, atol=1e-13)


@kinds
def test_norms_of_single_targets_equal_one_backward_each(kind):
    """One target, one forward, one backward from its own -log P; the value stands at the target. Catches: values
    aligned at the position that predicts, flow through attention or through the chain of heads left out, rows mixed."""
    model, tokens = a_model(kind), some_tokens()
    found = target_norms(model, tokens, DOCUMENTS)
    targets = future_targets(tokens, 3, DOCUMENTS)
    expected = torch.full(targets.shape, torch.nan, dtype=torch.float64)
    for i, row, t in (targets >= 0).nonzero().tolist():
        kept = []

        def keep(x: Tensor, hook, kept: list = kept) -> None:
            x.retain_grad()
            kept.append(x)

        with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", keep)]):
            log_p = model.all_logits(tokens, DOCUMENTS)[i, row, t].log_softmax(-1)
        (-log_p[tokens[row, t + i + 1]]).backward()
        expected[i, row, t + i + 1] = kept[0].grad.square().sum()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14, equal_nan=True)


def test_class_shares_partition():
    """Shares of classes that cover all targets, without overlap, add up to 1, and so do counts. Catches: masks read at
    the position that predicts, targets that do not exist counted."""
    tokens = some_tokens()
    norms = target_norms(a_model(), tokens, DOCUMENTS)
    kind = tokens % 3
    shares = class_shares(norms, {str(k): (kind == k).numpy() for k in range(3)})
    total = shares.groupby("horizon")[["share", "target_share", "targets"]].sum()
    assert total["share"].tolist() == pytest.approx([1, 1, 1]) and total["target_share"].tolist() == pytest.approx(
        [1] * 3
    )
    assert total["targets"].tolist() == [2 + 2 + 7, 1 + 1 + 6, 5]
    assert (shares.share > 0).all()


def test_certain_targets_have_no_gradient(handmade):
    """In the second half of a repeated sequence the handmade model is certain, so those targets have no gradient.
    Catches: masks off by a horizon, shares of counts instead of norms."""
    tokens = repeated_tokens(handmade, 4, 12, torch.Generator().manual_seed(0))
    known = (torch.arange(25) >= 15).expand_as(tokens)  # x_{t+1} from 14 on, x_{t+2} from 15 on
    shares = class_shares(target_norms(handmade, tokens), {"known": known})
    assert (shares.share < 0.01).all() and (shares.target_share > 0.4).all()


def test_masks_must_fit():
    """Catches: a float mask broadcast or used as an index."""
    with pytest.raises(ValueError, match=r"entity: torch.float32 of \(2, 8\) must be bool of \(2, 8\)"):
        class_shares(torch.zeros(3, 2, 8), {"entity": torch.zeros(2, 8)})
    with pytest.raises(ValueError, match=r"short: torch.bool of \(8,\) must be bool"):
        class_shares(torch.zeros(3, 2, 8), {"short": torch.zeros(8, dtype=torch.bool)})


@pytest.mark.parametrize(
    "kind, silent", [("parallel", {2}), ("causal", {2, 3}), ("anticausal", {1, 2}), ("linear", {2})]
)
def test_stop_gradient_heads_give_zeros_and_their_cosines_nan(kind, silent):
    """A stop-gradient head, and every head that reads it, sends no gradient into the trunk. Catches: a crash
    for want of a graph, cosine 0 or 1 with a zero gradient."""
    model, tokens = a_model(kind, stop_gradient=(2,)), some_tokens()
    for parameter in model.heads["2"].parameters():
        parameter.requires_grad_(False)  # a frozen head on a detached input has no graph at all
    norms, cosines = gradients_by_horizon(model, tokens, DOCUMENTS)
    assert set(norms.horizon[norms.norm == 0]) == silent
    assert (norms[~norms.horizon.isin(silent)].norm > 0).all()
    touched = cosines.horizon.isin(silent) | cosines.other.isin(silent)
    assert cosines.cosine[touched].isna().all() and cosines.cosine[~touched].notna().all()
    shares = class_shares(target_norms(model, tokens, DOCUMENTS), {"all": torch.ones_like(tokens, dtype=torch.bool)})
    assert set(shares.horizon[shares.share.isna()]) == silent


def test_identical_heads_with_equal_targets_agree():
    """Two equal heads on a text of one token want the same of every position where both have a target. Catches:
    cosines of the wrong pair or over the wrong dimension, positions without a target counted as 0."""
    model, tokens = a_model("linear", n_future=2), torch.full((2, 8), 5)
    model.heads["2"].load_state_dict(model.heads["1"].state_dict())
    tokens[1] = 3
    norms, cosines = gradients_by_horizon(model, tokens)
    (output,) = cosines[cosines.layer == "output"].to_dict("records")
    assert (output["horizon"], output["other"]) == (1, 2)
    assert output["position_cosine"] == pytest.approx(1, abs=1e-12)
    one, two = trunk_gradients(model, tokens).flatten(1)
    assert output["cosine"] == pytest.approx(float(torch.nn.functional.cosine_similarity(one, two, dim=0)))
    assert 0.8 < output["cosine"] < 0.999  # horizon 1 has a target more
    assert cosines.position_cosine[cosines.layer != "output"].isna().all()


def test_tables():
    """Every layer and pair once; the norm of the trunk is that of its layers together. Catches: layers doubled."""
    norms, cosines = gradients_by_horizon(a_model(), some_tokens())
    layers = ["output", "trunk", "embed", "blocks.0", "blocks.1"]
    assert norms.layer.unique().tolist() == layers and len(norms) == 15
    assert len(cosines) == 15 and cosines.cosine.abs().max() <= 1
    wide = norms.pivot(index="horizon", columns="layer", values="norm")
    parts = (wide[["embed", "blocks.0", "blocks.1"]] ** 2).sum(axis=1) ** 0.5
    assert wide["trunk"].tolist() == pytest.approx(parts.tolist())
    one, empty = gradients_by_horizon(a_model(n_future=1), some_tokens())
    assert len(one) == 5 and len(empty) == 0 and "cosine" in empty


def test_callers_gradients_are_left_alone():
    """Instruments run under no_grad as well and leave .grad as it was. Catches: backward() in place of grad()."""
    model, tokens = a_model(), some_tokens()
    with torch.no_grad():
        gradients_by_horizon(model, tokens)
        target_norms(model, tokens)
    assert all(parameter.grad is None for parameter in model.parameters())
