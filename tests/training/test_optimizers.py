"""Schedules at the points one can check by hand, and which optimizer gets which parameter."""

import math
from collections import Counter

import pytest
import torch

from mtp_lab.config import ModelConfig, OptimizerConfig
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.training.hardware import bf16_is_fast
from mtp_lab.training.optimizers import Muon, horizon_weights, learning_rate, make_optimizers, orthogonal

HEAD_KINDS = ["parallel", "causal", "anticausal", "linear", "sequential"]


def model_of(**changes) -> MTPTransformer:
    fields = dict(vocab_size=17, d_model=16, n_attention_heads=2, n_layers=4, n_future=2, max_seq=8, d_mlp=32)
    return MTPTransformer(ModelConfig(**{**fields, **changes}))


# --- Schedules -----------------------------------------------------------------------------------------------------


def test_learning_rate_warms_up_peaks_and_ends():
    """A tenth of the peak at the first of 10 warm-up steps, the peak at the last, half-way (plus the final share)
    half-way through the cosine, the final share at the end.
    Catches: a first step of learning rate 0, a jump after the warm-up, a cosine over the wrong number of steps."""
    config = OptimizerConfig(learning_rate=0.01, warmup=10, final=0.1)
    values = [learning_rate(config, step, 110) for step in range(111)]
    assert values[0] == pytest.approx(0.001) and values[4] == pytest.approx(0.005)
    assert values[9] == pytest.approx(0.01) and values[10] == pytest.approx(0.01)
    assert values[60] == pytest.approx(0.01 * (0.1 + 0.9 / 2))
    assert values[110] == pytest.approx(0.001)
    assert values[:10] == sorted(values[:10]) and values[10:] == sorted(values[10:], reverse=True)
    assert max(values) == pytest.approx(0.01) and min(values) > 0


def test_learning_rate_at_the_edges():
    """No warm-up starts at the peak; a warm-up as long as the training, or longer, never leaves the line.
    Catches: a division by zero, a negative learning rate."""
    at_once = OptimizerConfig(learning_rate=0.01, warmup=0, final=0.0)
    assert learning_rate(at_once, 0, 1) == 0.01 and learning_rate(at_once, 4, 4) == pytest.approx(0)
    long = OptimizerConfig(learning_rate=0.01, warmup=50)
    assert [learning_rate(long, step, 20) for step in (0, 19)] == pytest.approx([0.0002, 0.004])
    assert learning_rate(long, 50, 50) == 0.01
    flat = OptimizerConfig(learning_rate=0.01, warmup=0, final=1.0)
    assert {learning_rate(flat, step, 7) for step in range(8)} == {0.01}


@pytest.mark.parametrize(
    "curriculum, opened",
    [
        ("constant", [3, 3, 3, 3, 3, 3, 3]),
        ("forward", [1, 1, 1, 2, 2, 3, 3]),
        ("reverse", [3, 3, 3, 2, 2, 1, 1]),
    ],
)
def test_curriculum_opens_or_closes_horizons_in_equal_parts(curriculum, opened):
    """Over 7 steps, the parts of 3 horizons change at 7/3 and 14/3; what is open keeps its base weight.
    Catches: the reverse that begins with next-token alone, a part too many at the end, base weights reset to 1."""
    base = (1.0, 0.5, 0.25)
    got = [horizon_weights(base, curriculum, step, 7) for step in range(7)]
    assert got == [[*base[:k], *[0.0] * (3 - k)] for k in opened]


@pytest.mark.parametrize("curriculum", ["constant", "forward", "reverse"])
def test_curriculum_at_the_edges(curriculum):
    """One horizon is always open; with fewer steps than horizons the next token still is; beyond the last step the
    last part goes on.
    Catches: a step that trains nothing, an index beyond the horizons."""
    assert all(horizon_weights((2.0,), curriculum, step, 5) == [2.0] for step in range(7))
    for step in range(4):
        weights = horizon_weights((1.0,) * 8, curriculum, step, 2)
        assert len(weights) == 8 and weights[0] == 1.0 and weights == sorted(weights, reverse=True)


# --- Parameters ----------------------------------------------------------------------------------------------------


def groups_of(model: MTPTransformer, config: OptimizerConfig) -> list[tuple[str, str, dict]]:
    """Name of the parameter, class of its optimizer, and its group, for every parameter that is in a group."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [
        (names[parameter], type(optimizer).__name__, group)
        for optimizer in make_optimizers(model, config)
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("head_kind", HEAD_KINDS)
@pytest.mark.parametrize("extras", [{}, dict(position="relative", smeared_keys=True)], ids=["plain", "extras"])
def test_every_parameter_is_in_one_group_and_matrices_alone_decay(kind, head_kind, extras):
    """Nothing is left untrained or stepped twice; weight decay holds for every weight and for no bias or smear.
    Catches: a new kind of parameter that no filter takes, decay of the learned attention biases."""
    model = model_of(head_kind=head_kind, **extras)
    found = groups_of(model, OptimizerConfig(kind=kind, weight_decay=0.2))
    assert Counter(name for name, _, _ in found) == Counter(name for name, _ in model.named_parameters())
    for name, _, group in found:
        assert group["weight_decay"] == (0.2 if name.endswith(".weight") else 0.0), name


@pytest.mark.parametrize("head_kind", HEAD_KINDS)
def test_muon_takes_the_matrices_of_the_layers(head_kind):
    """Trunk, heads and what joins them go to Muon; embedding, unembedding, biases and smears to AdamW.
    Catches: an orthogonalised embedding, a head of a kind that Muon forgets, a bias that Muon cannot take."""
    model = model_of(head_kind=head_kind, position="relative", smeared_keys=True)
    config = OptimizerConfig(kind="muon", learning_rate=0.01, betas=(0.8, 0.9))
    for name, optimizer, group in groups_of(model, config):
        inner = name.startswith(("blocks.", "heads.", "joins.")) and name.endswith(".weight")
        assert optimizer == ("Muon" if inner else "AdamW"), name
        assert group["lr"] == 0.01 and group.get("betas", (0.8, 0.9)) == (0.8, 0.9)
    for _, optimizer, group in groups_of(model, OptimizerConfig(betas=(0.8, 0.9))):
        assert optimizer == "AdamW" and group["betas"] == (0.8, 0.9)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_without_a_gradient_a_step_only_decays(kind):
    """With gradients of 0 a step shrinks weights by learning rate x decay, and leaves biases and smears alone.
    Catches: decay that is not decoupled, or scaled by something else."""
    model = model_of(position="relative", smeared_keys=True)
    before = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    model.load_state_dict(before)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in make_optimizers(model, OptimizerConfig(kind=kind, learning_rate=0.1, weight_decay=0.5)):
        optimizer.step()
    for name, parameter in model.named_parameters():
        share = 0.95 if name.endswith(".weight") else 1.0
        torch.testing.assert_close(parameter.detach(), share * before[name])


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_step_is_as_large_as_the_learning_rate(kind):
    """The first update of a matrix has a root mean square near learning rate (AdamW: 1, Muon: .2 x that of AdamW, as
    adjusted in Liu et al. 2025), whatever the scale of the gradient.
    Catches: Muon with its own, much larger, unit of learning rate."""
    model = model_of(d_model=64)
    torch.manual_seed(0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = 1e3 * torch.randn_like(parameter)
    for optimizer in make_optimizers(model, OptimizerConfig(kind=kind, learning_rate=0.01, weight_decay=0.0)):
        optimizer.step()
    for name, parameter in model.named_parameters():
        update = (parameter.detach() - before[name]).square().mean().sqrt().item()
        inner = kind == "muon" and name.startswith(("blocks", "heads"))
        assert update == pytest.approx(0.002 if inner else 0.01, rel=0.3), name


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_muon_updates_as_pytorchs_own_does(kind):
    """Five steps with weight decay and changing gradients end where torch.optim.Muon ends, up to the rounding of bf16,
    in which PyTorch's always orthogonalises. Matrices wider than high, higher than wide, and square.
    Catches: momentum or Nesterov left out, updates of one matrix given to another of its shape, another size of step,
    weight decay after the step, a matrix without a gradient that decays."""
    torch.manual_seed(0)
    ours, theirs = (model_of(head_kind=kind) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    setting = dict(lr=0.02, weight_decay=0.1)
    matrices = [[p for name, p in m.named_parameters() if p.ndim == 2 and "embed" not in name] for m in (ours, theirs)]
    assert len({(p.shape[0] > p.shape[1]) - (p.shape[0] < p.shape[1]) for p in matrices[0]}) == 3
    start = [p.detach().clone() for p in matrices[0]]
    mine = Muon(matrices[0], **setting)
    reference = torch.optim.Muon(matrices[1], adjust_lr_fn="match_rms_adamw", **setting)
    for step in range(5):
        for one, other in zip(*matrices, strict=True):
            one.grad = torch.randn_like(one) * 10.0 ** (step - 2)
            other.grad = one.grad.clone()
        mine.step(), reference.step()
    for first, one, other in zip(start, *matrices, strict=True):
        moved = (other - first).norm()
        assert (one - other).norm() < 0.04 * moved and moved > 0.2 * first.norm()
    matrices[0][0].grad, kept = None, matrices[0][0].detach().clone()
    mine.step()
    assert torch.equal(matrices[0][0], kept)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 16), (2, 16, 5), (1, 1, 7)])
def test_orthogonal_keeps_singular_vectors_and_makes_singular_values_similar(shape):
    """U f(S) V^T for the matrix U S V^T, with f the quintic, five times, on the values over their norm; values end up
    between .68 and 1.14. Each matrix by itself, whatever its scale.
    Catches: the transposed polynomial for high matrices, one norm for all matrices, a coefficient at another power."""
    a, b, c = coefficients = (3.4445, -4.7750, 2.0315)
    torch.manual_seed(1)
    matrices = (
        torch.randn(shape, dtype=torch.float64) * torch.logspace(-3, 3, shape[0], dtype=torch.float64)[:, None, None]
    )
    u, values, vt = torch.linalg.svd(matrices, full_matrices=False)
    s = values / values.norm(dim=-1, keepdim=True)
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    expected = u @ torch.diag_embed(s) @ vt
    found = orthogonal(matrices.float(), coefficients, steps=5)
    assert found.dtype == torch.float32 and found.shape == matrices.shape
    tolerance = 0.05 if bf16_is_fast("cpu") else 1e-4
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
    well = s[values > 0.02 * values.norm(dim=-1, keepdim=True)]
    assert well.min() > 0.68 and well.max() < 1.14


def test_orthogonal_of_nothing_is_nothing():
    """Catches: 0 / 0 where a head of weight 0 has no gradient."""
    assert torch.equal(orthogonal(torch.zeros(2, 3, 4), (3.4445, -4.7750, 2.0315), 5), torch.zeros(2, 3, 4))


# --- Configs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(kind="sgd"), "kind='sgd' is not known; use one of 'adamw', 'muon'"),
        (dict(learning_rate=0.0), "learning_rate=0.0 must be above 0 and below 1"),
        (dict(learning_rate=1), "learning_rate=1.0 must be above 0 and below 1"),
        (dict(learning_rate=math.nan), "learning_rate=nan must be above 0 and below 1"),
        (dict(betas=(0.9,)), r"betas=\(0.9,\) must be two numbers from 0 to below 1"),
        (dict(betas=(0.9, 1.0)), r"betas=\(0.9, 1.0\) must be two numbers from 0 to below 1"),
        (dict(weight_decay=-0.1), "weight_decay=-0.1 .* must not be negative"),
        (dict(weight_decay=math.nan), "weight_decay=nan .* must not be negative"),
        (dict(clip=0), "clip=0.0 must be above 0"),
        (dict(clip=math.nan), "clip=nan must be above 0"),
        (dict(warmup=-1), "warmup=-1 must not be negative"),
        (dict(final=1.5), "final=1.5 from 0 to 1"),
        (dict(final=math.nan), "final=nan from 0 to 1"),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_an_invalid_config_names_field_value_and_what_is_allowed(fields, message):
    """Refused at construction. Catches: nan, which no comparison with < refuses, and a bound on the wrong side."""
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**fields)
