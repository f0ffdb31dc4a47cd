"""Eq. 2: the sequential pass against the reference, and the reference against a loop over positions.

Every test states a property and the bug it would catch.
"""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mtp_lab.config import ModelConfig
from mtp_lab.model.loss import FEWEST_ROWS, Loss, mtp_loss
from mtp_lab.model.targets import make_targets
from mtp_lab.model.transformer import MTPTransformer

KINDS = ["parallel", "causal", "anticausal", "linear", "sequential"]
METHODS = ["sequential", "reference"]
VOCAB = 19
kinds = pytest.mark.parametrize("kind", KINDS)
methods = pytest.mark.parametrize("method", METHODS)

# Two documents and padding in the first row; horizon 3 has targets in the second row only.
DOCUMENTS = torch.tensor([[4, 4, 4, 5, 5, 5, -1, -1], [6, 6, 6, 6, 6, 6, 6, 6]])
SHORT = torch.tensor([[0, 0, 1, 1, 2, 2, -1, -1], [3, 3, 4, 5, 5, 6, 6, 6]])  # no target at horizon 3
EMPTY = torch.full((2, 8), -1)  # no target at all
WEIGHTS = torch.tensor([[3, 0, 1, 0.5, 2, 0, 9, 9], [1, 1, 4, 0, 0, 2, 0.25, 1]], dtype=torch.float64)
CAUSES = torch.tensor([[0, 0, 2, -1, 1, 2, -1, -1], [-1, 1, 2, 3, -1, 1, 2, 0]])

CASES = {
    "plain": (dict(), dict()),
    "weights": (dict(), dict(weights=(0.5, 2.0, 0.1))),
    "a weight of 0": (dict(), dict(weights=(1.0, 0.0, 3.0))),
    "documents": (dict(), dict(documents=DOCUMENTS)),
    "a horizon without targets": (dict(), dict(documents=SHORT)),
    "no target at all": (dict(), dict(documents=EMPTY)),
    "denominators of a larger batch": (dict(), dict(documents=DOCUMENTS, denominators=torch.tensor([100, 50, 7]))),
    "token weights": (dict(), dict(documents=DOCUMENTS, token_weights=WEIGHTS)),
    "causes": (dict(), dict(documents=DOCUMENTS, token_weights=WEIGHTS, causes=CAUSES)),
    "only some tokens": (dict(), dict(weights=(0.5, 2.0, 0.1), token_weights=(WEIGHTS > 1).double())),
    "stopped 2": (dict(stop_gradient=(2,)), dict()),
    "stopped 1 and 3": (dict(stop_gradient=(1, 3)), dict(weights=(0.5, 2.0, 0.1))),
    "relative, smeared": (dict(position="relative", smeared_keys=True), dict(documents=DOCUMENTS)),
    "attention only": (dict(attention_only=True), dict()),
    "one horizon": (dict(n_future=1), dict()),
    "no trunk": (dict(trunk_layers=0), dict()),
}


def a_model(kind: str = "parallel", dtype: torch.dtype = torch.float64, **changes) -> MTPTransformer:
    """Three horizons on a trunk of two layers, with weights so large that every path matters."""
    sizes = dict(vocab_size=VOCAB, d_model=16, n_attention_heads=2, n_layers=5, n_future=3, trunk_layers=2)
    torch.manual_seed(0)
    model = MTPTransformer(ModelConfig(**{**sizes, "max_seq": 1024, "head_kind": kind, **changes})).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def some_tokens(rows: int = 2, seq: int = 8, seed: int = 1, vocab: int = VOCAB) -> Tensor:
    return torch.randint(0, vocab, (rows, seq), generator=torch.Generator().manual_seed(seed))


def taken(model: MTPTransformer) -> dict[str, Tensor]:
    """The gradients the model has gathered, by name (zeros where there is none), and clears them."""
    found = {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in model.named_parameters()}
    model.zero_grad()
    return found


def gradients(
    model: MTPTransformer,
    tokens: Tensor,
    method: str,
    documents: Tensor | None = None,
    token_weights: Tensor | None = None,
    causes: Tensor | None = None,
    denominators: Tensor | None = None,
    **options,
) -> tuple[Loss, dict[str, Tensor]]:
    model.zero_grad()
    if token_weights is not None or denominators is not None:
        targets = make_targets(tokens, model.config.n_future, documents, token_weights, causes)
        options["targets"] = targets if denominators is None else replace(targets, denominators=denominators)
    loss = mtp_loss(model, tokens, documents, method=method, **options)
    loss.total.backward()
    return loss, taken(model)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """The gradient of every parameter, relative to the largest of all gradients, since some are zero."""
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        error = float((found[name] - gradient).abs().max())
        assert error <= tolerance * largest, f"{name}: {error:.1e} of {largest:.1e}"


# --- Equal to the reference, and the reference to the equation


@pytest.mark.parametrize("case", CASES)
@kinds
def test_sequential_equals_reference(kind, case):
    """A head left out, counted twice, visited before its children, or weighted wrongly has wrong gradients."""
    changes, options = CASES[case]
    changes = {k: v for k, v in changes.items() if not (kind == "linear" and k == "trunk_layers")}
    model, tokens = a_model(kind, **changes), some_tokens()
    if model.config.n_future == 1:
        options = dict(weights=(0.7,))
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        model = model.to(dtype)
        loss, found = gradients(model, tokens, "sequential", **options)
        expected_loss, expected = gradients(model, tokens, "reference", **options)
        torch.testing.assert_close(loss.total, expected_loss.total, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(loss.per_horizon, expected_loss.per_horizon, rtol=tolerance, atol=tolerance)
        assert loss.total.dtype == loss.per_horizon.dtype == dtype and not loss.per_horizon.requires_grad
        assert all(bool(g.isfinite().all()) for g in found.values())
        if case == "no target at all":
            assert loss.total == 0 and all((g == 0).all() for g in found.values())
        else:
            assert_equal(found, expected, tolerance)
            assert sum(bool((g != 0).any()) for g in expected.values()) > len(expected) / 2


@kinds
@methods
def test_the_loss_is_equation_2(kind, method):
    """Position by position from the logits. A mean over positions or horizons together is another loss."""
    model, tokens, weights = a_model(kind), some_tokens(), (0.5, 2.0, 0.1)
    logits = model.all_logits(tokens, DOCUMENTS)
    total, means = torch.zeros((), dtype=torch.float64), []
    for i in (1, 2, 3):
        nll = []
        for row in range(2):
            for t in range(8 - i):
                document = int(DOCUMENTS[row, t])
                if document >= 0 and int(DOCUMENTS[row, t + i]) == document:
                    scores = logits[i - 1, row, t]
                    nll.append(scores.exp().sum().log() - scores[tokens[row, t + i]])
        means.append(sum(nll) / len(nll))
        total = total + weights[i - 1] * means[-1]
    total.backward()
    expected = taken(model)
    loss, found = gradients(model, tokens, method, documents=DOCUMENTS, weights=weights)
    torch.testing.assert_close(loss.total, total.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(loss.per_horizon, torch.stack(means).detach(), rtol=0, atol=1e-10)
    assert_equal(found, expected, 1e-10)


@methods
def test_a_horizon_without_targets_is_0_and_not_nan(method):
    """0/0 would turn the whole loss into NaN on the first batch of short documents."""
    model = a_model()
    loss, found = gradients(model, some_tokens(), method, documents=SHORT)
    assert make_targets(some_tokens(), 3, SHORT).denominators.tolist() == [7, 1, 0]
    assert loss.per_horizon[2] == 0 and (loss.per_horizon[:2] > 0).all()
    assert all((g == 0).all() for name, g in found.items() if name.startswith("heads.3."))
    loss, _ = gradients(model, some_tokens(seq=2), method)  # a row shorter than n
    assert loss.per_horizon[0] > 0 and loss.per_horizon[1:].tolist() == [0, 0]


@kinds
def test_more_positions_than_a_chunk(kind, monkeypatch):
    """Chunks of positions must add up: the last, shorter one is easily dropped or counted twice."""
    monkeypatch.setattr("mtp_lab.model.loss.CHUNK_LOGITS", 1)
    model, tokens = a_model(kind, n_layers=3, trunk_layers=0), some_tokens(3, 220)
    assert tokens.numel() > FEWEST_ROWS and tokens.numel() % FEWEST_ROWS
    documents = torch.arange(660).view(3, 220) // 50
    loss, found = gradients(model, tokens, "sequential", documents=documents)
    expected_loss, expected = gradients(model, tokens, "reference", documents=documents)
    torch.testing.assert_close(loss.per_horizon, expected_loss.per_horizon, rtol=0, atol=1e-10)
    assert_equal(found, expected, 1e-10)


# --- Like any other loss


@kinds
@methods
def test_gradient_accumulation_is_one_batch(kind, method):
    """Parts have different numbers of targets: in a mean of their means, tokens of small parts would count more."""
    model, tokens = a_model(kind), some_tokens()
    targets = make_targets(tokens, 3, DOCUMENTS)
    whole_loss, whole = gradients(model, tokens, method, documents=DOCUMENTS)
    totals = []
    for part in (slice(0, 1), slice(1, 2)):
        loss = mtp_loss(model, tokens[part], DOCUMENTS[part], method=method, targets=targets[part])
        loss.total.backward()
        totals.append(loss.total.detach())
    torch.testing.assert_close(sum(totals), whole_loss.total.detach(), rtol=0, atol=1e-12)
    assert_equal(taken(model), whole, 1e-12)


@kinds
@methods
@pytest.mark.parametrize("silent", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_values_are_the_same(kind, method, silent):
    """Evaluation must give the numbers of training, keep no graph, and leave no gradients."""
    model, tokens = a_model(kind), some_tokens()
    expected = mtp_loss(model, tokens, DOCUMENTS, method=method)
    with silent():
        loss = mtp_loss(model, tokens, DOCUMENTS, method=method)
    assert expected.total.requires_grad and not loss.total.requires_grad and loss.total.grad_fn is None
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(loss.total.clone(), expected.total.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(loss.per_horizon.clone(), expected.per_horizon, rtol=0, atol=1e-12)


@methods
def test_gradients_arrive_with_backward_and_not_before(method):
    """The sequential pass computes gradients in its forward pass. Without backward() they must not reach .grad."""
    model, tokens = a_model(), some_tokens()
    mtp_loss(model, tokens, method=method)
    assert all(p.grad is None for p in model.parameters())


@kinds
@methods
def test_a_scaled_loss_has_scaled_gradients(kind, method):
    """Gradients computed in the forward pass must still depend on later operations: loss scaling, sums, means."""
    model, tokens = a_model(kind), some_tokens()
    _, once = gradients(model, tokens, method)
    (mtp_loss(model, tokens, method=method).total * 3 + 1).backward()
    assert_equal(taken(model), {name: 3 * g for name, g in once.items()}, 1e-12)


@methods
def test_two_losses_in_one_graph_add_up(method):
    """Each call keeps its own gradients: shared between calls, the second call would overwrite those of the first."""
    model, one, other = a_model(), some_tokens(seed=1), some_tokens(seed=2)
    apart = [gradients(model, tokens, method)[1] for tokens in (one, other)]
    (mtp_loss(model, one, method=method).total + mtp_loss(model, other, method=method).total).backward()
    assert_equal(taken(model), {name: apart[0][name] + apart[1][name] for name in apart[0]}, 1e-12)


FROZEN = {
    "trunk": ("embed", "blocks"),
    "unembedding": ("unembed",),
    "embedding": ("embed",),
    "heads": ("heads", "joins"),
    "all but the trunk": ("heads", "joins", "unembed"),
    "all but head 2": ("embed", "blocks", "heads.1", "heads.3", "joins.3", "unembed"),
    "stopped head": ("heads.2", "joins.2"),
    "everything": ("",),
}


@kinds
@pytest.mark.parametrize("frozen", FROZEN)
def test_frozen_parts_get_no_gradient_and_the_others_theirs(kind, frozen):
    """Heads trained on a finished trunk, or a probe: the pass must not fail, nor skip parameters that still train."""
    model, tokens = a_model(kind, stop_gradient=(2,) if frozen == "stopped head" else ()), some_tokens()
    _, free = gradients(model, tokens, "reference")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN[frozen]))
    loss = mtp_loss(model, tokens)
    torch.testing.assert_close(loss.total, mtp_loss(model, tokens, method="reference").total, rtol=0, atol=1e-10)
    if frozen == "everything":
        assert not any(p.requires_grad for p in model.parameters())
        return
    loss.total.backward()
    frozen_names = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen_names and all(p.grad is None for name, p in model.named_parameters() if name in frozen_names)
    found = taken(model)
    assert_equal({**found, **{name: free[name] for name in frozen_names}}, free, 1e-10)


# --- bf16


def low(enabled: bool = True):
    return torch.autocast("cpu", torch.bfloat16) if enabled else nullcontext()


def relative(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    return {name: float((found[name] - g).norm() / g.norm()) for name, g in expected.items()}


@pytest.fixture(scope="module")
def wide() -> tuple[MTPTransformer, Tensor]:
    """Ordinary initial weights, and more positions than three chunks."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=65, d_model=32, n_attention_heads=2, n_layers=3, n_future=2, max_seq=512)
    return MTPTransformer(config), some_tokens(5, 401, vocab=65)


@methods
def test_bf16_stays_close_to_fp32(wide, method):
    """Sums in bf16 have eight bits: the logged loss would be wrong by 1 %, and every w_i/count by up to 0.4 %."""
    model, tokens = wide
    weights = (0.9804, 0.9779)  # over 2000 and 1995 targets: half-way between two numbers of bf16
    exact, expected = gradients(model, tokens, "reference", weights=weights)
    with low():
        loss = mtp_loss(model, tokens, method=method, weights=weights)
    loss.total.backward()
    found = taken(model)
    assert loss.total.dtype == loss.per_horizon.dtype == torch.float32
    torch.testing.assert_close(loss.per_horizon, exact.per_horizon, rtol=1e-3, atol=0)
    assert max(relative(found, expected).values()) < 0.02
    for name, gradient in expected.items():  # rounding errors differ in sign; a wrong scale does not
        scale = float((found[name] * gradient).sum() / gradient.square().sum())
        assert abs(scale - 1) < 2e-3, name


@kinds
def test_bf16_gradients_of_both_methods_agree(kind):
    """The sequential pass casts by hand where autocast has no rule. Without one of them, dtypes clash or differ."""
    torch.manual_seed(0)
    config = dict(vocab_size=65, d_model=32, n_attention_heads=2, n_layers=5, n_future=3, max_seq=64)
    model, tokens = MTPTransformer(ModelConfig(**config, head_kind=kind)), some_tokens(4, 50, vocab=65)
    found = {}
    for method in METHODS:
        with low():
            loss = mtp_loss(model, tokens, method=method)
        loss.total.backward()
        found[method] = taken(model)
        assert all(g.dtype == torch.float32 for g in found[method].values())
    assert max(relative(found["sequential"], found["reference"]).values()) < 0.02


@methods
@pytest.mark.parametrize("evaluated_first", [False, True])
def test_two_losses_in_one_autocast_context_add_up(method, evaluated_first):
    """Autocast keeps its casts of the weights for a whole context.

    A cast from the first call must not send the gradients of the second into a graph that is freed. A cast from an
    evaluation without gradients must not drop them.
    """
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=65, d_model=32, n_attention_heads=2, n_layers=3, n_future=2, max_seq=64)
    model, one, other = MTPTransformer(config), some_tokens(4, 50, 1, 65), some_tokens(4, 50, 2, 65)
    apart = []
    for tokens in (one, other):
        with low():
            loss = mtp_loss(model, tokens, method=method)
        loss.total.backward()
        apart.append(taken(model))
    together = {name: apart[0][name] + apart[1][name] for name in apart[0]}
    with low():
        if evaluated_first:
            with torch.no_grad():
                mtp_loss(model, other, method=method)
        for tokens in (one, other):
            mtp_loss(model, tokens, method=method).total.backward()
    assert max(relative(taken(model), together).values()) < 1e-5
    with low():
        total = mtp_loss(model, one, method=method).total + mtp_loss(model, other, method=method).total
    total.backward()
    assert max(relative(taken(model), together).values()) < 0.01  # the two meet in bf16, at the shared casts


# --- Memory


def peak_bytes(model: MTPTransformer, tokens: Tensor, method: str) -> int:
    """Peak of the bytes allocated in a forward and backward pass; gradients exist before.

    The profiler records every allocation. Hooks on saved tensors miss those inside of custom operators.
    """
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        mtp_loss(model, tokens, method=method).total.backward()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    assert len(events) > 100 and peak > 0
    return peak


def narrow(n: int, vocab: int, kind: str = "parallel", n_layers: int = 9) -> MTPTransformer:
    config = dict(d_model=16, n_attention_heads=2, n_layers=n_layers, max_seq=64)
    return MTPTransformer(ModelConfig(vocab_size=vocab, n_future=n, head_kind=kind, **config))


@pytest.mark.parametrize("vocab", [4096, 32768])
def test_memory_does_not_grow_with_n(vocab):
    """Figure 2: the logits of only one head exist at a time. A graph over two heads would contradict the paper.

    128 positions are one chunk of logits, so one chunk holds the logits of one head. The memory of the reference must
    grow, or the test would measure nothing.
    """
    tokens = some_tokens(2, 64, vocab=vocab)
    one, *more = (peak_bytes(narrow(n, vocab), tokens, "sequential") for n in (1, 2, 4, 8))
    assert all(peak <= 1.1 * one for peak in more), (one, more)
    logits = 4 * tokens.numel() * vocab  # bytes of one head's
    assert one < 4.5 * logits  # logits, their log-softmax, and the gradients of both
    first, *rest = (peak_bytes(narrow(n, vocab), tokens, "reference") for n in (1, 2, 4))
    growth = [(peak - first) / (n - 1) / logits for n, peak in zip((2, 4), rest, strict=True)]
    assert all(2.5 < heads < 3.5 for heads in growth), growth  # scores, their logarithms, and gradients


@pytest.mark.parametrize("kind", KINDS[1:])
def test_memory_of_the_other_arrangements(kind):
    """On a path of heads, all heads run before the loss of the first is computed. Their logits must not exist yet."""
    tokens = some_tokens(2, 64, vocab=8192)
    one, eight = (peak_bytes(narrow(n, 8192, kind), tokens, "sequential") for n in (1, 8))
    embedding = 4 * 8192 * 16 if kind == "sequential" else 0  # bytes of a gradient that the first head does not have:
    assert eight <= 1.1 * one + 2 * embedding  # the sum so far, and that of the current head
    assert peak_bytes(narrow(8, 8192, kind), tokens, "reference") > 5 * eight


def test_only_chunks_of_logits_are_alive():
    """Above one chunk, only activations grow with the rows. All logits would need four times as much for four times."""
    vocab = 8192
    chunk = 4 * FEWEST_ROWS * vocab  # bytes
    model = narrow(2, vocab, n_layers=3)
    one, four = (peak_bytes(model, some_tokens(rows, 64, vocab=vocab), "sequential") for rows in (4, 16))
    assert one < 4.5 * chunk
    assert four - one < chunk  # activations; the logits of the whole head would be three chunks more


# --- Errors


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(weights=(1.0, 1.0)), r"weights=\[1.0, 1.0\] must be n_future=3 numbers, none of them negative"),
        (dict(weights=(1.0, -0.5, 1.0)), r"weights=\[1.0, -0.5, 1.0\] must be .* none of them negative"),
        (dict(weights=(1.0, float("nan"), 1.0)), "must be n_future=3 numbers"),
        (dict(weights=2.0), "weights=2.0 must be n_future=3 numbers"),
        (dict(weights=torch.ones(3, 1)), "must be n_future=3 numbers"),
        (dict(method="fast"), "method='fast' is not known; use one of 'sequential', 'reference'"),
        (dict(documents=torch.zeros(2, 7)), "documents"),
        (
            dict(targets=make_targets(some_tokens(), 2)),
            r"targets \(2, 2, 8\) must be .* n_future=3",
        ),
        (dict(targets=make_targets(some_tokens(), 3)[:1]), r"targets \(3, 1, 8\) must be .* tokens \(2, 8\)"),
    ],
)
def test_invalid_options_raise(options, message):
    """Two weights for three horizons would broadcast or drop one. A negative weight would train wrong predictions."""
    with pytest.raises(ValueError, match=message):
        mtp_loss(a_model(), some_tokens(), **options)
