"""Implicit weights: counts against a count by hand, exact weights against all documents of small processes.

Sums alone would miss weight that is given to a neighbour, so the positions of weights are tested separately.
"""

from collections import defaultdict
from itertools import product
from math import log

import numpy as np
import pytest
import torch

from data_gen.batch import Batch, pack
from data_gen.choice_process import ChoiceProcess
from mtp_lab.model.predictions import token_nll
from mtp_lab.model.targets import IGNORE, future_targets, target_weights, token_weights
from mtp_lab.theory import implicit_weights

N = 4
SMALL = {
    "copied": (ChoiceProcess(n_choices=3, forced=3, relevance=(3,)), 13),
    "in turn": (ChoiceProcess(n_choices=2, probabilities=(0.8, 0.2), forced=2, relevance=(5, 0)), 12),
    "overlap": (ChoiceProcess(n_choices=3, probabilities=(0.5, 0.3, 0.2), forced=1, relevance=(4, 1, 9)), 9),
    "choices only": (ChoiceProcess(n_choices=2, probabilities=(0.7, 0.3), forced=0), 6),
    "shorter than the horizons": (ChoiceProcess(n_choices=2, forced=1, relevance=(1,)), 3),
}
each_small = pytest.mark.parametrize("process, seq", SMALL.values(), ids=SMALL)


def entropy(documents: np.ndarray, mass: np.ndarray, positions: list[int]) -> float:
    """Joint entropy of the tokens at these positions, by adding up documents."""
    total = defaultdict(float)
    for tokens, probability in zip(documents[:, positions].tolist(), mass, strict=True):
        total[tuple(tokens)] += probability
    return -sum(p * log(p) for p in total.values())


def all_documents(process: ChoiceProcess, seq: int) -> tuple[np.ndarray, np.ndarray]:
    """(documents, seq) tokens and (documents,) probabilities."""
    opening = 2 * process.n_choices
    futures, mass = process.joint(np.array([opening]), seq - 1)
    return np.column_stack([np.full(len(futures), opening), futures]), mass


def packed(seed: int, documents: int = 9, seq: int = 12) -> Batch:
    """Documents of 1 to 9 tokens, several a row, with padding."""
    rng = np.random.default_rng(seed)
    return pack([rng.integers(0, 5, rng.integers(1, 10)) for _ in range(documents)], seq)


def has_target(batch: Batch, n: int) -> np.ndarray:
    """(n, rows, seq) bool: whether each horizon has the token as its target."""
    targets = future_targets(torch.from_numpy(batch.tokens).long(), n, torch.from_numpy(batch.documents).long())
    aligned = np.zeros(targets.shape, bool)
    for i in range(1, n + 1):
        aligned[i - 1, :, i:] = (targets[i - 1] != IGNORE)[:, :-i].numpy()
    return aligned


# --- counting


@pytest.mark.parametrize("seed", range(3))
def test_a_term_belongs_to_its_cause_until_that_is_read(seed):
    """Term by term, as in Figure 9; counts are of these terms, over all horizons up to n."""
    cause = np.random.default_rng(seed).integers(-1, np.arange(1, 16))
    owners = implicit_weights.owners(cause, 5)
    assert (owners == -1).sum(axis=1).tolist() == [1, 2, 3, 4, 5]
    for i in range(1, 6):
        for target in range(i, 15):
            decided_at = target - cause[target] if cause[target] > 0 else target
            assert owners[i - 1, target] == (decided_at if decided_at > target - i else target)
    counted = np.cumsum([np.bincount(row[row >= 0], minlength=15) for row in owners], axis=0)
    assert (counted == implicit_weights.loss_terms(cause, 5)).all()


def test_figure_9_by_hand():
    """The figure's sequence 1 2 3 4 5 A B C D with n = 3: 5 -> A and its correlates 3 -> A to 5 -> C are six terms."""
    cause = np.array([0, 0, 0, 0, 0, 0, 1, 2, 3])
    terms = implicit_weights.loss_terms(cause, 3)
    # B and C keep one and two terms, from positions that have read A; D is out of A's reach; 2 and 3 lack horizons
    assert terms[2].tolist() == [0, 1, 2, 3, 3, 6, 1, 2, 3]
    assert terms[0].tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1]


def test_the_table_is_the_papers():
    """n(n + 1)/2 against n, and the relative weight (n + 1)/2."""
    table = implicit_weights.term_counts(8)
    n = np.arange(1, 9)
    assert table.n.tolist() == n.tolist()
    assert table.choice_point.tolist() == (n * (n + 1) // 2).tolist()
    assert table.inconsequential.tolist() == n.tolist()
    assert table.relative.tolist() == ((n + 1) / 2).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_every_term_is_counted_once(seed):
    """Whatever the causes: n - 1 terms fewer at the end for the n-th horizon, none twice."""
    seq = 20
    cause = np.random.default_rng(seed).integers(-1, np.arange(1, seq + 1))
    expected = np.cumsum([seq - i for i in range(1, 6)])
    assert implicit_weights.loss_terms(cause, 5).sum(axis=1).tolist() == expected.tolist()


def test_counts_are_the_exact_weights_in_units_of_a_choice():
    """Where each forced token copies one choice, counting is exact, at the ends of a document too."""
    process, seq = ChoiceProcess(n_choices=4, forced=5, relevance=(5, 0, 2)), 40
    labels = process.documents(1, seq, np.random.default_rng(0)).labels
    terms = implicit_weights.loss_terms(labels["cause"], 6)
    weights = implicit_weights.implicit_weights(implicit_weights.exact_nll(process, 6, seq))[:, 0]
    choice = labels["choice"]
    assert weights[:, choice] == pytest.approx(terms[:, choice] * log(4), abs=1e-12)
    assert weights[:, ~choice][:, 1:] == pytest.approx(0, abs=1e-12)  # the first: the opening token, nan


# --- exact weights


@each_small
def test_weights_follow_the_definition(process, seq):
    """All pairs of a token read and a target, one by one, with information from the enumerated joint distribution."""
    documents, mass = all_documents(process, seq)
    weights = implicit_weights.implicit_weights(implicit_weights.exact_nll(process, N, seq))
    gains = implicit_weights.reading_gains(implicit_weights.exact_nll(process, N, seq))
    assert weights.shape == gains.shape == (N, 1, seq)
    assert np.isnan(weights[:, 0, 0]).all() and not np.isnan(weights[:, 0, 1:]).any()
    shares = np.zeros((N, seq))
    for s, u in product(range(1, seq), range(1, seq)):
        if not 0 <= u - s < N:
            continue
        past = list(range(s))
        parts = [entropy(documents, mass, [*past, *what]) for what in ([u], [s], [s, u], [])]
        information = parts[0] + parts[1] - parts[2] - parts[3]
        assert gains[u - s, 0, s] == pytest.approx(information, abs=1e-12)
        for t in range(max(0, u - N), s):  # a horizon u - t that has not read s
            shares[u - t - 1, s] += information
    assert weights[:, 0, 1:] == pytest.approx(shares.cumsum(axis=0)[:, 1:], abs=1e-12)


@each_small
def test_tokens_sum_to_the_entropies_of_the_horizons(process, seq):
    weights = implicit_weights.implicit_weights(implicit_weights.exact_nll(process, N, seq))
    losses = np.nansum(process.horizon_entropy(N, seq), axis=1).cumsum()
    assert np.nansum(weights, axis=(1, 2)) == pytest.approx(losses, abs=1e-9)


def test_gains_are_the_closed_form_of_information():
    """A second closed form of the process, on documents too long to list."""
    process, seq = ChoiceProcess(n_choices=4, probabilities=(0.7, 0.1, 0.1, 0.1), forced=3, relevance=(7, 2)), 64
    nll = implicit_weights.exact_nll(process, 8, seq)
    gains = implicit_weights.reading_gains(nll)
    closed = process.mutual_information(8, seq)[:, :-1]
    np.testing.assert_allclose(gains[:, 0, 1:], closed, atol=1e-12)  # nan in the same places
    assert np.isnan(gains[:, 0, 0]).all()
    inside, weights = implicit_weights.interior(nll), implicit_weights.implicit_weights(nll)
    by_formula = implicit_weights.information_weights(gains)[:, inside]
    assert inside.sum() == seq - 15 and by_formula == pytest.approx(weights[:, inside], abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_ideal_case_is_n_terms_of_choices_and_of_the_rest(n):
    """A choice that the next n - 1 tokens copy weighs n(n + 1)/2 entropies, one of no consequence n."""
    process, seq = (
        ChoiceProcess(n_choices=3, probabilities=(0.6, 0.3, 0.1), forced=n - 1, relevance=(n - 1, 0)),
        8 * n + 9,
    )
    nll = implicit_weights.exact_nll(process, n, seq)
    weights = implicit_weights.implicit_weights(nll)[n - 1, 0]
    inside = implicit_weights.interior(nll)[0]
    assert np.flatnonzero(inside).tolist() == list(range(n, seq - n + 1))
    choices = np.arange(1, seq, n)
    for positions, terms in ((choices[::2], n * (n + 1) / 2), (choices[1::2], n)):
        positions = positions[inside[positions]]
        assert len(positions) > 1
        entropy_of_choice = -sum(p * log(p) for p in process.probabilities)
        assert weights[positions] == pytest.approx(terms * entropy_of_choice, abs=1e-12)


@each_small
def test_relative_weight_lies_between_1_and_theory(process, seq):
    """n H <= W_n <= n(n + 1)/2 H for all tokens away from the ends, forced ones included."""
    for n in range(1, N + 1):
        nll = implicit_weights.exact_nll(process, n, seq)
        weights, inside = implicit_weights.implicit_weights(nll), implicit_weights.interior(nll)
        low, high = n * weights[0][inside], n * (n + 1) / 2 * weights[0][inside]
        assert (low - 1e-12 <= weights[-1][inside]).all() and (weights[-1][inside] <= high + 1e-12).all()


# --- any losses


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [1, 3, 6])
def test_sums_are_exact_on_packed_documents(seed, n):
    """Any numbers, documents shorter than the horizons, padding: nothing is lost, and nothing crosses a boundary."""
    batch = packed(seed)
    nll = np.where(has_target(batch, n), np.random.default_rng(seed).exponential(size=(n, *batch.tokens.shape)), np.nan)
    weights = implicit_weights.implicit_weights(nll)
    for document in range(batch.documents.max() + 1):
        own = batch.documents == document
        losses = np.nansum(nll[:, own], axis=1).cumsum()
        assert np.nansum(weights[:, own], axis=1) == pytest.approx(losses, abs=1e-12)
    first = np.diff(batch.documents, axis=1, prepend=-2) != 0
    assert (np.isnan(weights) == (first | (batch.documents < 0))).all()


def test_a_trained_models_losses_fit(three_heads):
    """`token_nll` returns the layout that `implicit_weights` needs."""
    batch = packed(5)
    nll = token_nll(three_heads, batch)
    weights = implicit_weights.implicit_weights(nll)
    losses = np.nansum(nll, axis=(1, 2)).cumsum()
    assert np.nansum(weights, axis=(1, 2)) == pytest.approx(losses, rel=1e-9)
    assert weights[0] == pytest.approx(nll[0], nan_ok=True)


def test_interior_tokens_have_all_their_terms():
    """One row of two documents and padding, n = 2: two tokens before and one after, in the same document."""
    batch = pack([np.arange(5), np.arange(4)], 10)
    nll = np.where(has_target(batch, 2), 1.0, np.nan)
    assert np.flatnonzero(implicit_weights.interior(nll)[0]).tolist() == [2, 3, 7]
    assert not implicit_weights.interior(np.full((4, 1, 3), np.nan)).any()


# --- classes and training weights


def test_relative_weights_of_classes_read_as_theory():
    """(n + 1)/2, 1 and nothing, whatever the entropy; without `interior` the ends would lower the first."""
    process, seq = ChoiceProcess(n_choices=5, forced=3, relevance=(3, 0)), 64
    labels = process.documents(1, seq, np.random.default_rng(0)).labels
    nll = implicit_weights.exact_nll(process, N, seq)
    inside = implicit_weights.interior(nll)
    choice, consequential = labels["choice"][None], labels["consequential"][None]
    classes = {"consequential": consequential, "other choices": choice & ~consequential, "forced": ~choice}
    weights = implicit_weights.implicit_weights(nll)
    table = implicit_weights.by_class(weights, {name: members & inside for name, members in classes.items()})
    table = table.pivot(index="n", columns="class")
    assert table.relative.consequential.tolist() == pytest.approx([1, 1.5, 2, 2.5])
    assert table.relative["other choices"].tolist() == pytest.approx([1, 1, 1, 1])
    assert table.relative.forced.isna().all()
    assert table.weight.consequential[2] == pytest.approx(3 * log(5))
    assert table.tokens.consequential[1] == (consequential & inside).sum()
    everywhere = implicit_weights.by_class(weights, classes).set_index(["class", "n"]).relative
    assert everywhere["consequential", 4] < 2.49


def test_training_weights_are_on_the_label():
    """In the form that training takes, and with the counted value."""
    process = ChoiceProcess(n_choices=2, forced=3, relevance=(3, 0))
    batch = process.sample(2, 20, np.random.default_rng(0))
    for n, relative in implicit_weights.term_counts(5)[["n", "relative"]].itertuples(index=False):
        weights = token_weights(batch, implicit_weights.theoretical_weights(int(n), "consequential")).numpy()
        assert (weights == np.where(batch.labels["consequential"], relative, 1)).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_targets_whose_causes_are_read_belong_to_themselves(n):
    """What training leaves out (`mask_unread_causes`) is what the paper counts for the choice beyond its own n terms.

    Then all tokens before the consequences have n terms, the choice too: its relative weight is 1.
    """
    cause = np.concatenate([np.zeros(9, int), np.arange(9)])  # Figure 9's: a choice, and eight tokens that it decides
    seq = len(cause)
    targets = future_targets(torch.zeros(1, seq, dtype=torch.long), n)
    left = target_weights(targets, causes=torch.from_numpy(cause)[None])[:, 0].numpy()  # (n, seq) by the last read
    terms = sum(np.concatenate([np.zeros(i), left[i - 1, :-i]]) for i in range(1, n + 1))  # (seq,) by the target
    owners = implicit_weights.owners(cause, n)
    assert (terms == (owners == np.arange(seq)).sum(axis=0)).all()
    assert (terms[n:10] == n).all() and (terms[10:] == np.minimum(np.arange(1, 9), n)).all()
    assert implicit_weights.loss_terms(cause, n)[-1, 9] == n * (n + 1) / 2


# --- errors


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: implicit_weights.loss_terms(np.array([0, 2]), 2), "cause=2 of token 1"),
        (lambda: implicit_weights.loss_terms(np.zeros(3), 0), "n=0"),
        (lambda: implicit_weights.term_counts(0), "n=0"),
        (lambda: implicit_weights.theoretical_weights(0, "choice"), "n=0"),
        (lambda: implicit_weights.reading_gains(np.zeros((2, 5))), r"shape \(2, 5\)"),
        (lambda: implicit_weights.interior(np.zeros((0, 1, 5))), r"shape \(0, 1, 5\)"),
        (lambda: implicit_weights.implicit_weights(np.array([[[0, np.nan]], [[0, 1.0]]])), "horizon 2 .* position 1"),
        (lambda: implicit_weights.by_class(np.ones((1, 1, 2)), {"a": np.ones((1, 3), bool)}), r"'a' .*\(1, 3\)"),
        (lambda: implicit_weights.by_class(np.ones((1, 1, 2)), {"a": np.ones((1, 2))}), "'a' .*float64"),
        (lambda: implicit_weights.by_class(np.ones((1, 1, 2)), {"a": np.zeros((1, 2), bool)}), "'a' has no token"),
    ],
)
def test_errors_name_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
