"""Information: parts against SciPy's entropies, the estimate against the exact choice process.

Expectations are sums over all possible documents, so no test depends on chance.
"""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from data_gen.batch import pack
from data_gen.choice_process import ChoiceProcess
from mtp_lab.model.predictions import token_nll
from mtp_lab.model.targets import IGNORE, future_targets
from mtp_lab.theory.information import decompose, total_correlation


def joint(seed: int, shape: tuple[int, int] = (4, 6), zeros: bool = False) -> np.ndarray:
    """A random joint distribution, with `zeros` with some impossible outcomes."""
    rng = np.random.default_rng(seed)
    p = rng.exponential(size=shape) ** 2
    if zeros:
        p[rng.random(shape) < 0.3] = 0
        p[1] = 0  # a value of x that never comes
    return p / p.sum()


def cross(p: np.ndarray, q: np.ndarray) -> float:
    """H(p, q) of two distributions of one token."""
    return entropy(p) + entropy(p, q)


def cross_given_y(p: np.ndarray, q: np.ndarray) -> float:
    """H(p_{X|Y}, q_{X|Y}): the expectation over y, column by column."""
    columns = [y for y in range(p.shape[1]) if p[:, y].sum()]
    return sum(p[:, y].sum() * cross(p[:, y] / p[:, y].sum(), q[:, y] / q[:, y].sum()) for y in columns)


# --- a distribution and a model of it


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_entropies_of_a_joint_distribution(seed, zeros):
    """All five, each from its own definition, and section 5.2's identity."""
    p = joint(seed, zeros=zeros)
    x, y = p.sum(axis=1), p.sum(axis=0)
    parts = decompose(p)
    assert parts.x == pytest.approx(entropy(x), abs=1e-12)
    assert parts.y == pytest.approx(entropy(y), abs=1e-12)
    assert parts.x_given_y == pytest.approx(entropy(p.ravel()) - entropy(y), abs=1e-12)
    assert parts.y_given_x == pytest.approx(entropy(p.ravel()) - entropy(x), abs=1e-12)
    assert parts.shared == pytest.approx(entropy(p.ravel(), np.outer(x, y).ravel()), abs=1e-12)
    assert parts.x + parts.y == pytest.approx(parts.x_given_y + 2 * parts.shared + parts.y_given_x, abs=1e-12)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_lemma_L3(seed, zeros):
    """H(p_X, q_X) = H(p_{X|Y}, q_{X|Y}) + I_{p||q}, and the same for Y; information from two divergences."""
    p, q = joint(seed, zeros=zeros), joint(seed + 100)
    parts = decompose(p, q)
    product = np.outer(q.sum(axis=1), q.sum(axis=0))
    assert parts.shared == pytest.approx(entropy(p.ravel(), product.ravel()) - entropy(p.ravel(), q.ravel()), abs=1e-12)
    assert parts.x == pytest.approx(cross(p.sum(axis=1), q.sum(axis=1)), abs=1e-12)
    assert parts.y == pytest.approx(cross(p.sum(axis=0), q.sum(axis=0)), abs=1e-12)
    assert parts.x_given_y == pytest.approx(cross_given_y(p, q), abs=1e-12)
    assert parts.y_given_x == pytest.approx(cross_given_y(p.T, q.T), abs=1e-12)
    assert parts.x == pytest.approx(parts.x_given_y + parts.shared, abs=1e-12)
    assert parts.y == pytest.approx(parts.y_given_x + parts.shared, abs=1e-12)


def test_independent_heads_share_nothing():
    """q = q_X x q_Y: zero, however much the data share; a q that is wrong about the dependence: negative."""
    p = np.diag([0.5, 0.3, 0.2])
    q = joint(7, (3, 3))
    assert decompose(p, np.outer(q.sum(axis=1), q.sum(axis=0))).shared == pytest.approx(0, abs=1e-12)
    assert decompose(p).shared == pytest.approx(entropy([0.5, 0.3, 0.2]), abs=1e-12)
    assert decompose(p, np.array([[1, 9, 9], [9, 1, 9], [9, 9, 1]]) / 57).shared < -0.5


def test_the_choice_process_has_the_parts_of_its_joint_distribution():
    """The next two tokens after a past, at a choice that is copied, one that is not, and amid forced tokens."""
    process, seq = ChoiceProcess(n_choices=3, probabilities=(0.6, 0.3, 0.1), forced=2, relevance=(2, 0)), 12
    document = process.documents(1, seq, np.random.default_rng(0)).tokens
    horizon, information = process.horizon_entropy(2, seq), process.total_correlation(2, seq)
    for t in range(seq - 2):
        tokens, mass = process.joint(document[: t + 1], 2)
        p = np.zeros((process.vocab_size, process.vocab_size))
        p[tuple(tokens.T)] = mass
        parts = decompose(p)
        assert (parts.x, parts.y) == pytest.approx(tuple(horizon[:, t]), abs=1e-12)
        assert parts.shared == pytest.approx(information[t], abs=1e-12)
        assert parts.y_given_x == pytest.approx(horizon[0, t + 1], abs=1e-12)


# --- an estimate from losses


def exact_document_losses(process: ChoiceProcess, n: int, seq: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, documents, seq) losses of an ideal predictor on all possible documents, and (documents,) probabilities."""
    opening = 2 * process.n_choices
    futures, mass = process.joint(np.array([opening]), seq - 1)
    documents = np.column_stack([np.full(len(futures), opening), futures])
    nll = np.full((n, *documents.shape), np.nan)
    for t in range(seq - 1):
        for past in np.unique(documents[:, : t + 1], axis=0):
            rows = (documents[:, : t + 1] == past).all(axis=1)
            for i in range(1, min(n, seq - 1 - t) + 1):
                came = documents[rows, t + i]
                same = came[:, None] == came  # (rows, rows)
                nll[i - 1, rows, t + i] = -np.log(same @ mass[rows] / mass[rows].sum())
    return nll, mass


@pytest.mark.parametrize(
    "process, seq",
    [
        (ChoiceProcess(n_choices=2, probabilities=(0.8, 0.2), forced=2, relevance=(5, 0)), 12),
        (ChoiceProcess(n_choices=3, probabilities=(0.5, 0.3, 0.2), forced=1, relevance=(4, 1, 9)), 9),
    ],
    ids=["in turn", "overlap"],
)
def test_the_expectation_is_exact(process, seq):
    """Over all documents, at every position: the process' total correlation, for two tokens mutual information."""
    nll, mass = exact_document_losses(process, 4, seq)
    for n in range(1, 5):
        expected = process.total_correlation(n, seq)
        found = mass @ total_correlation(nll[:n])
        np.testing.assert_allclose(found, expected, atol=1e-12)  # nan in the same places
    np.testing.assert_allclose(mass @ total_correlation(nll[:2]), process.mutual_information(2, seq)[1], atol=1e-12)


def test_it_is_defined_inside_documents_only(three_heads):
    """On a model: the two sums by the definition, and nan exactly where the last of the tokens is no target."""
    rng = np.random.default_rng(0)
    batch = pack([rng.integers(0, 200, length) for length in (3, 7, 2, 4, 6)], 12)
    nll = token_nll(three_heads, batch)
    found = total_correlation(nll)
    targets = future_targets(torch.from_numpy(batch.tokens).long(), 3, torch.from_numpy(batch.documents).long())
    assert (np.isnan(found) == (targets[-1] == IGNORE).numpy()).all()
    for row, t in np.argwhere(~np.isnan(found)):
        heads = nll[0, row, t + 1] + nll[1, row, t + 2] + nll[2, row, t + 3]
        assert found[row, t] == pytest.approx(heads - nll[0, row, t + 1 : t + 4].sum(), abs=1e-9)


def test_rows_shorter_than_the_horizons_have_none():
    assert np.isnan(total_correlation(np.zeros((3, 2, 3)))).all()


# --- errors


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: decompose(np.ones(3) / 3), r"p .* shape \(3,\)"),
        (lambda: decompose(np.ones((2, 2))), "p .* sum 4"),
        (lambda: decompose(np.array([[1.5, -0.5]])), "p .* -0.5"),
        (lambda: decompose(np.array([[np.nan, 1.0]])), "p must not be negative"),
        (lambda: decompose(np.eye(2) / 2, np.ones((2, 2))), "q .* sum 4"),
        (lambda: decompose(np.eye(2) / 2, np.ones((2, 3)) / 6), r"q has shape \(2, 3\)"),
        (lambda: decompose(np.eye(2) / 2, np.array([[0.5, 0.5], [0, 0]])), r"q\[1, 1\] is 0"),
        (lambda: total_correlation(np.zeros((2, 5))), r"shape \(2, 5\)"),
    ],
)
def test_errors_name_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
