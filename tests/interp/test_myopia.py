"""The gap between plain and myopic models, and the gradient that flows through other positions.

Every test states a property and the bug it would catch.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from data_gen.batch import Batch
from mtp_lab.config import ModelConfig
from mtp_lab.interp.myopia import myopia_gap, precaching
from mtp_lab.model.predictions import loss_per_horizon, tensors
from mtp_lab.model.targets import future_targets
from mtp_lab.model.transformer import MTPTransformer

CONFIG = ModelConfig(
    vocab_size=11, d_model=8, n_attention_heads=2, n_future=2, trunk_layers=2, d_mlp=12, max_seq=16, position="relative"
)
DOCUMENTS = torch.tensor([[0, 0, 0, 0, 1, 1, 1, -1], [2, 2, 2, 2, 2, 2, 2, 2]])


def a_model(seed: int = 0, **changes) -> MTPTransformer:
    torch.manual_seed(seed)
    model = MTPTransformer(replace(CONFIG, **changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model.eval()


def some_tokens(rows: int = 2) -> Tensor:
    return torch.randint(0, 11, (rows, 8), generator=torch.Generator().manual_seed(1))


def a_batch(rows: int = 12) -> Batch:
    tokens = some_tokens(rows).numpy().astype(np.int32)
    return Batch(tokens, np.repeat(np.arange(rows, dtype=np.int32)[:, None], 8, axis=1))


def test_positions_that_see_only_themselves_have_nothing_to_prepare():
    """Attention wholly on the own position: no gradient flows through others. Catches: own position's keys and values
    counted as others, layers' gradients compared with another layer's."""
    model = a_model()
    for layer in (*model.blocks, *model.heads.values()):
        with torch.no_grad():
            layer.attn.bias[:, 0] = 1e4
    table = precaching(model, some_tokens(), DOCUMENTS)
    assert (table.norm > 1e-3).all()
    assert table.other.max() < 1e-12 and table.share.abs().max() < 1e-12
    assert table.cosine.min() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", ["parallel", "causal", "linear"])
@pytest.mark.parametrize("position", ["relative", "rotary"])
def test_own_and_other_equal_one_backward_a_position(kind, position):
    """Loss by loss: earlier positions' keys and values detached by hooks in the plain model, then added up. Catches:
    full and own swapped, trunk detached but heads not, a share of another norm, documents ignored."""
    model, tokens = a_model(head_kind=kind, position=position), some_tokens()
    layers = {"embed": model.embed, "blocks.0": model.blocks[0], "blocks.1": model.blocks[1]}
    parameters = [p for layer in layers.values() for p in layer.parameters()]
    targets = future_targets(tokens, 2, DOCUMENTS)

    def gradient(i: int, detach: bool) -> Tensor:
        total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
        for row, t in (targets[i] >= 0).nonzero().tolist():

            def cut(x: Tensor, hook, t: int = t) -> Tensor:  # (batch, seq, heads, d_head)
                return torch.where((torch.arange(8) == t)[:, None, None], x, x.detach()) if detach else x

            names = [name for name in model.hook_dict if name.endswith(("hook_k", "hook_v"))]
            with model.hooks(fwd_hooks=[(name, cut) for name in names]):
                log_p = model.all_logits(tokens, DOCUMENTS)[i, row, t].log_softmax(-1)
            parts = torch.autograd.grad(-log_p[targets[i, row, t]], parameters)
            total += torch.cat([part.flatten() for part in parts])
        return total / int((targets[i] >= 0).sum())

    table = precaching(model, tokens, DOCUMENTS)
    assert table.layer.unique().tolist() == ["trunk", "embed", "blocks.0", "blocks.1"]
    for i in range(2):
        full, own = gradient(i, detach=False), gradient(i, detach=True)
        (row,) = table[(table.layer == "trunk") & (table.horizon == i + 1)].to_dict("records")
        rest = full - own
        assert row["norm"] == pytest.approx(float(full.norm()))
        assert row["own"] == pytest.approx(float(own.norm()))
        assert row["other"] == pytest.approx(float(rest.norm())) and row["other"] > 0.01 * row["norm"]
        assert row["share"] == pytest.approx(float(rest @ full / (full @ full)))
        assert row["cosine"] == pytest.approx(float(full @ own / full.norm() / own.norm()))


def test_precaching_depends_on_weights_alone():
    """A myopic model's table is that of the plain one with its weights. Catches: a myopic model compared with itself;
    global random state moved."""
    plain, tokens = a_model(), some_tokens()
    before = torch.random.get_rng_state()
    expected = precaching(plain, tokens)
    assert torch.equal(torch.random.get_rng_state(), before)
    found = precaching(a_model(myopic=True), tokens)
    assert found.equals(expected) and (expected.other > 0).all()
    with pytest.raises(ValueError, match="smeared"):
        precaching(a_model(smeared_keys=True), tokens)


def test_the_gap_of_equal_weights_is_zero():
    """Myopia changes gradients, not values. Catches: unpaired resampling, which would leave an interval around 0."""
    gap = myopia_gap(a_model(), a_model(myopic=True), a_batch())
    assert gap.horizon.tolist() == [1, 2]
    assert gap[["gap", "low", "high"]].abs().max().max() < 1e-12


def test_the_gap_is_the_difference_of_the_losses():
    """With a paired interval around it. Catches: the sign, horizons swapped, losses of one model twice."""
    plain, myopic, batch = a_model(0), a_model(1, myopic=True), a_batch()
    gap = myopia_gap(plain, myopic, batch)
    expected = loss_per_horizon(myopic, batch) - loss_per_horizon(plain, batch)
    assert gap.gap.tolist() == pytest.approx(expected.tolist()) and (gap.gap.abs() > 1e-3).all()
    assert gap.plain.tolist() == pytest.approx(loss_per_horizon(plain, batch).tolist())
    assert (gap.myopic - gap.plain).tolist() == pytest.approx(gap.gap.tolist())
    assert ((gap.low < gap.gap) & (gap.gap < gap.high)).all()
    tokens, documents = tensors(batch)
    log_p = plain.all_logits(tokens, documents)[1, :, :-2].log_softmax(-1)
    assert gap.plain[1] == pytest.approx(-log_p.gather(-1, tokens[:, 2:, None]).mean().item())


def test_models_in_the_wrong_place_are_refused():
    """Catches: a gap of the wrong sign for swapped arguments, or of two models of different heads."""
    with pytest.raises(ValueError, match="give the plain model, then the myopic"):
        myopia_gap(a_model(myopic=True), a_model(), a_batch())
    with pytest.raises(ValueError, match="n_future=2 and 1 must be equal"):
        myopia_gap(a_model(), a_model(myopic=True, n_future=1), a_batch())
