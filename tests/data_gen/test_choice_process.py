"""Choices and forced tokens: every test states a property and the bug it would catch.

The closed forms are compared with `enumerate_documents`: all documents of a small process, each with
its probability, written out token by token from the definition.
"""

import re
from collections import defaultdict
from hashlib import sha256
from itertools import product
from math import log, prod

import numpy as np
import pytest
from scipy.stats import chisquare

from data_gen.batch import Documents
from data_gen.choice_process import ChoiceProcess

SMALL = {
    "plain": (ChoiceProcess(n_choices=2, forced=2, relevance=(2,)), 11),
    "skewed": (ChoiceProcess(n_choices=2, probabilities=(0.9, 0.1), forced=2, relevance=(2,)), 11),
    "inconsequential": (ChoiceProcess(n_choices=3, forced=2, relevance=(0,)), 9),
    "in turn": (ChoiceProcess(n_choices=2, forced=2, relevance=(5, 0)), 12),
    "three overlap": (ChoiceProcess(n_choices=2, probabilities=(0.7, 0.3), forced=1, relevance=(5,)), 11),
    "uneven overlap": (ChoiceProcess(n_choices=3, probabilities=(0.5, 0.3, 0.2), forced=1, relevance=(4, 1, 9)), 9),
    "choices only": (ChoiceProcess(n_choices=3, probabilities=(0.5, 0.3, 0.2), forced=0, relevance=(2,)), 6),
}
each_small = pytest.mark.parametrize("process, seq", SMALL.values(), ids=SMALL)
HORIZONS = 4


def document_of(process: ChoiceProcess, choices: list[int], seq: int) -> list[int]:
    """The document that these choices make, token by token."""
    k, tokens, relevant_until = process.n_choices, [2 * process.n_choices], {}
    for position in range(1, seq):
        number, phase = divmod(position - 1, process.forced + 1)
        if phase == 0:
            relevant_until[number] = position + process.relevance[number % len(process.relevance)]
            tokens.append(choices[number])
        else:
            tokens.append(k + sum(choices[i] for i, last in relevant_until.items() if position <= last) % k)
    return tokens


def enumerate_documents(process: ChoiceProcess, seq: int) -> dict[tuple[int, ...], float]:
    """Every possible document and its probability."""
    chances = process.probabilities or [1 / process.n_choices] * process.n_choices
    n_choices = len(range(1, seq, process.forced + 1))
    return {
        tuple(document_of(process, choices, seq)): prod(chances[value] for value in choices)
        for choices in product(range(process.n_choices), repeat=n_choices)
    }


def entropy_given(documents: dict[tuple[int, ...], float], what: list[int], past: int) -> float:
    """H(tokens at positions `what` | the first `past` tokens), nats, by counting documents."""
    together, alone = defaultdict(float), defaultdict(float)
    for tokens, probability in documents.items():
        together[tokens[:past], tuple(tokens[i] for i in what)] += probability
        alone[tokens[:past]] += probability
    return -sum(p * log(p) for p in together.values()) + sum(p * log(p) for p in alone.values())


def draw(process: ChoiceProcess, seq: int, n: int = 100, seed: int = 0) -> Documents:
    return process.documents(n, seq, np.random.default_rng(seed))


# --- what is drawn


@each_small
def test_documents_occur_as_often_as_they_should(process, seq):
    """Not one impossible document, and the frequencies of all possible ones within chance (fixed seed)."""
    expected = enumerate_documents(process, seq)
    counts = dict.fromkeys(expected, 0)
    n = 20_000
    for tokens in draw(process, seq, n).tokens.reshape(n, seq).tolist():
        counts[tuple(tokens)] += 1  # KeyError: an impossible document
    frequent = [tokens for tokens, probability in expected.items() if n * probability >= 5]
    observed = np.array([counts[tokens] for tokens in frequent] + [n - sum(counts[t] for t in frequent)])
    ideal = n * np.array([expected[tokens] for tokens in frequent])
    ideal = np.append(ideal, n - ideal.sum())
    kept = ideal > 1e-6  # the rest is empty where every document is frequent
    assert observed[~kept].sum() == 0
    assert chisquare(observed[kept], ideal[kept]).pvalue > 1e-3


@pytest.mark.parametrize(
    "process",
    [ChoiceProcess(), ChoiceProcess(n_choices=7, forced=4, relevance=(12, 0, 3)), ChoiceProcess(forced=0)],
    ids=str,
)
def test_long_documents_follow_from_their_choices(process):
    """The same rule far from the start, where many choices have come and gone."""
    seq = 200
    for tokens in draw(process, seq, 20).tokens.reshape(20, seq).tolist():
        assert tokens == document_of(process, tokens[1 :: process.period], seq)


def test_relevance_is_what_its_name_says():
    """Two examples by hand: a copied choice, and one that outlives the next, inconsequential one."""
    copied = ChoiceProcess(n_choices=3, forced=2, relevance=(2,))
    assert "c2 f2 f2 c1 f1 f1" in {copied.text(future) for future in copied.joint(np.array([6]), 6)[0]}
    longer = ChoiceProcess(n_choices=3, forced=3, relevance=(6, 0))
    assert "c2 f2 f2 f2 c1 f2 f2 f0" in {longer.text(future) for future in longer.joint(np.array([6]), 8)[0]}


# --- exact quantities


@each_small
def test_entropies_are_those_of_the_enumeration(process, seq):
    """Every position and horizon, the first and last ones too: nan exactly where the document has no such token."""
    documents = enumerate_documents(process, seq)
    horizon, joint = process.horizon_entropy(HORIZONS, seq), process.joint_entropy(HORIZONS, seq)
    assert horizon.shape == (HORIZONS, seq) and joint.shape == (seq,)
    for t in range(seq):
        for i in range(1, HORIZONS + 1):
            expected = entropy_given(documents, [t + i], t + 1) if t + i < seq else np.nan
            assert horizon[i - 1, t] == pytest.approx(expected, abs=1e-12, nan_ok=True)
        inside = t + HORIZONS < seq
        expected = entropy_given(documents, list(range(t + 1, t + HORIZONS + 1)), t + 1) if inside else np.nan
        assert joint[t] == pytest.approx(expected, abs=1e-12, nan_ok=True)


@each_small
def test_information_is_that_of_the_enumeration(process, seq):
    """Both by their definitions, entropies of parts less that of the whole, which the module never forms."""
    documents = enumerate_documents(process, seq)
    mutual = process.mutual_information(HORIZONS, seq)
    shared = [process.total_correlation(n, seq) for n in range(1, HORIZONS + 1)]
    for t in range(seq - 1):
        for n in range(1, HORIZONS + 1):
            if t + n >= seq:
                assert np.isnan(mutual[n - 1, t]) and np.isnan(shared[n - 1][t])
                continue
            alone = [entropy_given(documents, [t + i], t + 1) for i in range(1, n + 1)]
            pair = entropy_given(documents, [t + 1, t + n], t + 1)
            whole = entropy_given(documents, list(range(t + 1, t + n + 1)), t + 1)
            assert mutual[n - 1, t] == pytest.approx(alone[0] + alone[-1] - pair, abs=1e-12)
            assert shared[n - 1][t] == pytest.approx(sum(alone) - whole, abs=1e-12)


@each_small
def test_the_joint_distribution_is_that_of_the_enumeration(process, seq):
    """After every possible past: no future missing, twice, or with the probability of another."""
    documents = enumerate_documents(process, seq)
    for t in range(seq - HORIZONS):
        expected = defaultdict(lambda: defaultdict(float))
        for tokens, probability in documents.items():
            expected[tokens[: t + 1]][tokens[t + 1 : t + 1 + HORIZONS]] += probability
        for past, futures in expected.items():
            tokens, probability = process.joint(np.array(past), HORIZONS)
            enumerated = dict(zip(map(tuple, tokens.tolist()), probability.tolist(), strict=True))
            assert len(enumerated) == len(tokens)
            assert enumerated == pytest.approx({tokens: p / sum(futures.values()) for tokens, p in futures.items()})


def test_the_papers_decomposition_holds():
    """Section 5.2: H(X) + H(Y) = H(X | Y) + 2 I(X; Y) + H(Y | X), X and Y the next two tokens after the same past."""
    process, seq = ChoiceProcess(n_choices=3, probabilities=(0.6, 0.3, 0.1), forced=2, relevance=(2, 0)), 20
    horizon, information = process.horizon_entropy(2, seq), process.total_correlation(2, seq)
    for t in range(seq - 2):
        past = np.array(document_of(process, [1] * 7, t + 1))
        tokens, probability = process.joint(past, 2)
        joint = np.zeros((process.vocab_size, process.vocab_size))
        joint[tuple(tokens.T)] = probability
        x, y = joint.sum(axis=1), joint.sum(axis=0)
        x_given_y = -sum(joint[i, j] * log(joint[i, j] / y[j]) for i, j in np.argwhere(joint))
        y_given_x = -sum(joint[i, j] * log(joint[i, j] / x[i]) for i, j in np.argwhere(joint))
        assert horizon[:, t].sum() == pytest.approx(x_given_y + 2 * information[t] + y_given_x, abs=1e-12)


def test_relevance_decides_what_the_next_two_tokens_share():
    """The one number that the process is built around: log K just before a consequential choice, else nothing."""
    process = ChoiceProcess(n_choices=4, forced=3, relevance=(3, 0))
    information = process.total_correlation(2, 17)
    assert information[:-2] == pytest.approx(np.where(np.arange(15) % 8 == 0, log(4), 0), abs=1e-12)
    assert process.total_correlation(4, 17)[[0, 4]] == pytest.approx([3 * log(4), 0], abs=1e-12)


# --- labels


@each_small
def test_probability_entropy_and_n_choices_are_those_of_the_next_token(process, seq):
    """Held against the enumeration, token by token: a value that is one position off scores a model wrongly."""
    documents = enumerate_documents(process, seq)
    mass = defaultdict(float)
    for tokens, probability in documents.items():
        for t in range(seq + 1):
            mass[tokens[:t]] += probability
    drawn = draw(process, seq, 50)
    labels = {name: label.reshape(50, seq) for name, label in drawn.labels.items()}
    for row, tokens in enumerate(map(tuple, drawn.tokens.reshape(50, seq).tolist())):
        for t in range(seq):
            possible = {document[t] for document in documents if document[:t] == tokens[:t]}
            chances = [mass[*tokens[:t], token] / mass[tokens[:t]] for token in possible]
            assert labels["n_choices"][row, t] == len(possible)
            assert labels["probability"][row, t] == pytest.approx(mass[tokens[: t + 1]] / mass[tokens[:t]])
            assert labels["entropy"][row, t] == pytest.approx(-sum(p * log(p) for p in chances), abs=1e-6)
    assert {label.dtype for label in labels.values()} == {np.dtype(bool), np.dtype(np.float32)}


@each_small
def test_a_choice_is_consequential_if_another_one_would_change_a_forced_token(process, seq):
    """By trying it out. The last choice of a document has nothing left to change, whatever its relevance."""
    drawn = draw(process, seq, 1)
    choices = drawn.tokens[1 :: process.period].tolist()
    expected = np.zeros(seq, bool)
    for i, position in enumerate(range(1, seq, process.period)):
        changed_choices = [*choices[:i], (choices[i] + 1) % process.n_choices, *choices[i + 1 :]]
        changed = np.array(document_of(process, changed_choices, seq)) != drawn.tokens
        expected[position] = changed[drawn.labels["forced"]].any()
    assert drawn.labels["consequential"].tolist() == expected.tolist()
    assert drawn.labels["choice"].tolist() == [t > 0 and (t - 1) % process.period == 0 for t in range(seq)]
    assert (drawn.labels["forced"] == ~drawn.labels["choice"]).tolist() == [False] + [True] * (seq - 1)


@each_small
def test_a_forced_token_is_certain_up_to_the_horizon_of_its_cause(process, seq):
    """At horizons up to `cause` its entropy is 0, one further it is not; without a cause it always is."""
    labels = draw(process, seq, 1).labels
    entropy = process.horizon_entropy(seq - 1, seq)
    for t in np.flatnonzero(labels["forced"]):
        uncertain = [i for i in range(1, t + 1) if entropy[i - 1, t - i] > 1e-12]
        assert labels["cause"][t] == (min(uncertain) - 1 if uncertain else -1)
    assert (labels["cause"][~labels["forced"]] == -1).all()


# --- rows, reproducibility, errors


def test_a_row_is_a_document():
    batch = ChoiceProcess().sample(5, 30, np.random.default_rng(0))
    assert batch.tokens.shape == (5, 30) and (batch.documents == np.arange(5)[:, None]).all()
    assert (batch.tokens[:, 0] == 8).all() and batch.tokens[:, 1:].max() == 7
    assert (batch.labels["choice"] == (batch.tokens < 4)).all()


def test_names_cover_the_vocabulary():
    process = ChoiceProcess(n_choices=2)
    assert process.token_names == ("c0", "c1", "f0", "f1", "<s>") and process.vocab_size == 5


def test_the_stream_of_a_seed_is_pinned():
    """A change of the recipe would make every cached run look like one on other data."""
    process = ChoiceProcess(n_choices=3, probabilities=(0.5, 0.3, 0.2), forced=2, relevance=(7, 0))
    digest = sha256(draw(process, 100, 200, seed=7).tokens.astype("<i4").tobytes()).hexdigest()
    assert digest[:16] == "5a2db6e4c2f85bdc"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"n_choices": 1}, "n_choices=1 must be at least 2: a single value is not a choice"),
        ({"forced": -1}, "forced=-1 must be at least 0 tokens between choices"),
        ({"relevance": ()}, "relevance=() must be one or more numbers of tokens >= 0, such as (3,)"),
        ({"relevance": (3, -1)}, "relevance=(3, -1) must be one or more numbers of tokens >= 0"),
        (
            {"probabilities": (0.5, 0.5)},
            "probabilities=(0.5, 0.5) must be one for each of n_choices=4; use n_choices=2, or no probabilities",
        ),
        ({"n_choices": 2, "probabilities": (0.5, 0.4)}, "probabilities=(0.5, 0.4) must be positive and sum to 1"),
        ({"n_choices": 2, "probabilities": (1.0, 0.0)}, "probabilities=(1.0, 0.0) must be positive and sum to 1"),
        ({"n_choices": 2, "probabilities": (0.5, float("nan"))}, "probabilities=(0.5, nan) must be positive"),
    ],
)
def test_a_process_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ChoiceProcess(**arguments)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda p: p.documents(3, 1, np.random.default_rng(0)),
            "seq=1 must be at least 2, the opening token and a choice",
        ),
        (lambda p: p.documents(0, 9, np.random.default_rng(0)), "n=0 must be at least 1"),
        (lambda p: p.sample(0, 9, np.random.default_rng(0)), "rows=0 must be at least 1"),
        (lambda p: p.sample(1, 0, np.random.default_rng(0)), "seq=0 must be at least 2"),
        (lambda p: p.horizon_entropy(0, 9), "n=0 must be at least 1"),
        (lambda p: p.joint_entropy(1, 1), "seq=1 must be at least 2"),
        (lambda p: p.joint(np.array([8]), 0), "n=0 must be at least 1"),
        (lambda p: p.joint(np.array([8]), 40), "n=40 tokens have 4^10 futures, too many to list; use a smaller n"),
        (
            lambda p: p.joint(np.array([8, 1, 6]), 2),
            "past=[8, 1, 6] cannot be the beginning of a document",
        ),  # f2 after c1
        (lambda p: p.joint(np.array([8, 5]), 2), "past=[8, 5] cannot be the beginning of a document"),  # no choice
        (lambda p: p.joint(np.array([], int), 2), "past=[] cannot be the beginning of a document"),
    ],
)
def test_a_question_without_an_answer_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(ChoiceProcess())
