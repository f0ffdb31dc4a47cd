"""Targets against a loop over positions: every test states a property and the bug it would catch."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.batch import pack
from mtp_lab.model.targets import IGNORE, future_targets, make_targets, target_weights, token_weights


def slow_targets(tokens: list[list[int]], n: int, documents: list[list[int]] | None) -> list:
    """The definition: x_{t+i} if it exists and belongs to the same document. Padding (-1) belongs to none."""
    targets = []
    for i in range(1, n + 1):
        rows = []
        for b, row in enumerate(tokens):
            row_targets = []
            for t in range(len(row)):
                owners = None if documents is None or t + i >= len(row) else (documents[b][t], documents[b][t + i])
                inside = t + i < len(row) and (owners is None or (owners[0] == owners[1] and owners[1] != -1))
                row_targets.append(row[t + i] if inside else IGNORE)
            rows.append(row_targets)
        targets.append(rows)
    return targets


@st.composite
def batches(draw) -> tuple[list[list[int]], int, list[list[int]] | None]:
    """Tokens, n (also above the row's length) and documents: none, arbitrary ids, or runs as packing makes them."""
    rows, seq, n = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 12))

    def grid(values):
        return draw(st.lists(st.lists(values, min_size=seq, max_size=seq), min_size=rows, max_size=rows))

    tokens, kind = grid(st.integers(0, 300)), draw(st.sampled_from(["none", "any", "runs"]))
    documents = None if kind == "none" else grid(st.integers(-1, 2))
    if kind == "runs":
        documents = [sorted(row, key=lambda d: (d < 0, d)) for row in documents]  # padding last
    return tokens, n, documents


@given(batches())
@settings(max_examples=300, deadline=None)
def test_targets_are_the_definition(batch):
    """A shift by one too many, a target across a boundary, or padding as a target would train on the wrong token."""
    tokens, n, documents = batch
    found = future_targets(torch.tensor(tokens), n, None if documents is None else torch.tensor(documents))
    assert found.shape == (n, len(tokens), len(tokens[0])) and found.dtype == torch.long
    expected = slow_targets(tokens, n, documents)
    assert found.tolist() == expected
    counts = [sum(x != IGNORE for row in of_horizon for x in row) for of_horizon in expected]
    assert target_weights(found).sum(dim=(1, 2)).tolist() == counts


def test_the_example_of_the_documentation():
    """The example in the docstring must be correct."""
    assert future_targets(torch.tensor([[5, 6, 7]]), 2).tolist() == [[[6, 7, -100]], [[7, -100, -100]]]


def test_two_documents_and_padding():
    """The last token of a document, and all of padding, has no target at any horizon."""
    tokens = torch.tensor([[1, 2, 3, 4, 5, 0, 0]])
    documents = torch.tensor([[7, 7, 7, 8, 8, -1, -1]])
    _ = IGNORE
    assert future_targets(tokens, 3, documents).tolist() == [
        [[2, 3, _, 5, _, _, _]],
        [[3, _, _, _, _, _, _]],
        [[_, _, _, _, _, _, _]],
    ]


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_targets_are_int64_whatever_the_tokens_are(dtype):
    """uint8 tokens (bytes) cannot hold -100: a target of 156 would be trained on in place of being ignored."""
    targets = future_targets(torch.tensor([[200, 201]], dtype=dtype), 1)
    assert targets.dtype == torch.long and targets.tolist() == [[[201, IGNORE]]]


def test_the_tokens_are_left_alone():
    """Targets are written in place. Written into a view of the tokens, they would change the model's input."""
    tokens, documents = torch.arange(6).view(1, 6), torch.tensor([[0, 0, 1, 1, -1, -1]])
    future_targets(tokens, 3, documents)
    assert tokens.tolist() == [[0, 1, 2, 3, 4, 5]] and documents.tolist() == [[0, 0, 1, 1, -1, -1]]


@given(batches(), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_a_target_has_the_weight_of_the_predicted_token(batch, seed):
    """With the weights of the predicting positions instead, the loss would train on the question, not on the answer."""
    tokens, n, documents = batch
    targets = future_targets(torch.tensor(tokens), n, None if documents is None else torch.tensor(documents))
    weights = torch.rand(targets.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = target_weights(targets, weights)
    for i in range(1, n + 1):
        for t in range(targets.shape[2]):
            is_target = targets[i - 1, :, t] != IGNORE
            expected = weights[:, t + i] if t + i < targets.shape[2] else torch.zeros(len(tokens))
            assert torch.equal(found[i - 1, :, t], torch.where(is_target, expected, 0.0).to(found))


@given(batches(), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_a_target_has_weight_0_where_its_cause_is_unread(batch, seed):
    """Before its cause is read, a target has weight 0 (section 5.1); from the cause on it keeps its weight."""
    tokens, n, documents = batch
    targets = future_targets(torch.tensor(tokens), n, None if documents is None else torch.tensor(documents))
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(targets.shape[1:], generator=generator, dtype=torch.float64)
    causes = torch.randint(-1, 6, weights.shape, generator=generator).float()
    found, without = target_weights(targets, weights, causes), target_weights(targets, weights)
    for i in range(1, n + 1):
        for b, t in product(range(targets.shape[1]), range(targets.shape[2] - i)):
            distance = causes[b, t + i]
            unread = distance > 0 and t + i - distance > t
            assert found[i - 1, b, t] == (0 if unread else without[i - 1, b, t])
    assert torch.equal(target_weights(targets, weights, torch.zeros(weights.shape)), without)


def test_the_first_label_that_fits_gives_the_weight():
    """Weights of overlapping labels must not multiply, and tokens without a label must have the weight of the rest."""
    labels = {"a": [[True, True, False, False]], "b": [[False, True, True, False]]}
    batch = pack([[1, 2, 3, 4]], 5, {name: [label[0]] for name, label in labels.items()})
    assert token_weights(batch, [("a", 3), ("b", 2), ("rest", 0.5)]).tolist() == [[3, 3, 2, 0.5, 0.5]]
    assert token_weights(batch, [("rest", 0.5), ("b", 2), ("a", 3)]).tolist() == [[3, 2, 2, 0.5, 0.5]]
    assert token_weights(batch, [("b", 0)]).tolist() == [[1, 0, 0, 1, 1]]
    assert token_weights(batch, []).tolist() == [[1] * 5]


@given(batches(), st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_a_slice_of_targets_keeps_the_denominators_of_the_batch(batch, row):
    """With denominators of their own, the losses of slices would not add up to the loss of the batch."""
    tokens, n, documents = batch
    documents = None if documents is None else torch.tensor(documents)
    weights = torch.rand(len(tokens), len(tokens[0]), generator=torch.Generator().manual_seed(0))
    targets = make_targets(torch.tensor(tokens), n, documents, weights)
    part = targets[row : row + 1]
    assert torch.equal(targets.tokens, future_targets(torch.tensor(tokens), n, documents))
    assert torch.equal(targets.weights, target_weights(targets.tokens, weights))
    assert torch.equal(part.denominators, targets.weights.sum(dim=(1, 2)))
    assert torch.equal(part.tokens, targets.tokens[:, row : row + 1])
    assert torch.equal(part.weights, targets.weights[:, row : row + 1])
