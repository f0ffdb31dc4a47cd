"""Partial results are those of an evaluator of our own, where they stand; every test names the bug it would catch."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_gen.polynomials.partial_results import partial_results, with_partial_results
from data_gen.polynomials.stream import Polynomials
from mtp_lab.model.targets import future_targets

STREAMS = [
    Polynomials(),
    Polynomials(tagged=False, high_first=True, pause=2, max_operations=8),
    Polynomials(p=2, d=4, split="chain", tagged=False, pause=1),
    Polynomials(p=2, d=4, high_first=True),
    Polynomials(p=13, d=1, max_operations=3),
]
OPERATIONS = {"-": lambda a: -a, "+": lambda a, b: a + b, "*": lambda a, b: a * b, "o": lambda a, b: a(b)}


def value(tree: tuple, p: int, d: int) -> tuple[int, ...]:
    """By NumPy's polynomials over the integers, cut off and reduced after every operation."""
    if isinstance(tree[0], int):
        return tree
    result = OPERATIONS[tree[0]](*(np.poly1d(value(branch, p, d)[::-1]) for branch in tree[1:]))
    low = result.coeffs[::-1][:d].tolist()
    return tuple(coefficient % p for coefficient in low + [0] * (d - len(low)))


def subtrees(tree: tuple) -> Iterator[tuple]:
    """As postfix completes them."""
    if isinstance(tree[0], str):
        for branch in tree[1:]:
            yield from subtrees(branch)
    yield tree


@pytest.mark.parametrize("stream", STREAMS)
def test_every_subexpression_has_its_value_where_it_is_complete(stream):
    """Catches: left and right exchanged, a value of another document or step, degrees the wrong way round, coefficients
    that keep their tags, a place off by one, values on answers and pauses."""
    documents = stream.documents(40, np.random.default_rng(0))
    results = partial_results(stream, documents)
    assert results.shape == (len(documents.tokens), stream.d) and np.issubdtype(results.dtype, np.integer)
    split = (np.split(array, documents.ends[:-1]) for array in (documents.tokens, results))
    for tokens, values in zip(*split, strict=True):
        expected, at = np.full_like(values, -1), -1
        for tree in subtrees(stream.parse(tokens)):
            at += stream.d if isinstance(tree[0], int) else 1
            expected[at] = value(tree, stream.p, stream.d)
        assert (values == expected).all(), stream.text(tokens)


@pytest.mark.parametrize("stream", STREAMS)
def test_the_last_operator_has_the_answer(stream):
    """Catches: documents of different lengths that run into each other."""
    documents = stream.held_out("validation", stream.max_operations, 500)
    answers = documents.tokens[documents.labels["answer"]].reshape(-1, stream.d) % stream.p
    last = np.flatnonzero(documents.labels["equals"]) - stream.pause - 1
    assert (partial_results(stream, documents)[last] == answers[:, :: -1 if stream.high_first else 1]).all()


def test_values_come_from_the_question():
    """Catches: values that were read off the answer, which an edited question no longer has."""
    stream = Polynomials(p=5, d=2).of(1)
    documents = stream.documents(50, np.random.default_rng(0))
    wrong = np.where(documents.labels["answer"], 0, documents.tokens)
    assert (partial_results(stream, replace(documents, tokens=wrong)) == partial_results(stream, documents)).all()


@pytest.mark.parametrize("stream", STREAMS)
def test_labels_of_a_probe_stand_on_the_token_itself(stream):
    """The docstring's recipe. Catches: labels that packing loses, labels one token off, and values that a roll moves
    from a row's end to its beginning."""
    documents = stream.documents(60, np.random.default_rng(0))
    batch = with_partial_results(stream, documents).pack(2 * stream.longest)
    assert {"operand", "root"} <= set(batch.labels)
    for degree in range(stream.d):
        label = torch.from_numpy(batch.labels[f"value_{degree}"]).long()
        targets = future_targets(label.roll(1, dims=1), 1, torch.from_numpy(batch.documents))[0]
        assert torch.equal(targets >= 0, label >= 0) and torch.equal(targets[label >= 0], label[label >= 0])
        flat = partial_results(stream, documents)[:, degree]
        assert batch.labels[f"value_{degree}"][batch.documents >= 0].tolist() == flat.tolist()


def test_infix_is_refused():
    stream = Polynomials(notation="infix")
    with pytest.raises(ValueError, match="notation='infix': partial results need postfix"):
        partial_results(stream, stream.documents(1, np.random.default_rng(0)))
