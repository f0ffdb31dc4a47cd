"""Batches and packing: every test states a property and the bug it would catch."""

import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen import Batch
from data_gen.batch import Documents, fill, pack, stack


def small_batch() -> Batch:
    """Four rows of three; the last position of every row is padding."""
    tokens = np.arange(12, dtype=np.int32).reshape(4, 3)
    documents = np.array([[0, 0, -1], [1, 1, -1], [2, 2, -1], [3, 3, -1]], np.int32)
    return Batch(tokens, documents, {"even": tokens % 2 == 0, "weight": tokens.astype(np.float32)})


def next_fit_reference(documents: list[np.ndarray], seq: int) -> list[list[int]]:
    """The documents of every row, by the definition: stay while there is room, else open the next row."""
    rows, room = [[]], seq
    for i, document in enumerate(documents):
        if len(document) > room:
            rows.append([])
            room = seq
        rows[-1].append(i)
        room -= len(document)
    return rows


@st.composite
def documents_and_seq(draw) -> tuple[list[np.ndarray], int]:
    seq = draw(st.integers(1, 12))
    lengths = draw(st.lists(st.integers(1, seq), min_size=1, max_size=30))
    dtype = draw(st.sampled_from([np.int32, np.int64, np.uint8, np.uint16]))
    ends = np.cumsum(lengths)
    return [np.arange(end - n, end).astype(dtype) for end, n in zip(ends, lengths, strict=True)], seq


# --- Batch


def test_sizes_and_real_tokens():
    """`real_tokens` must count document positions, not all positions: a loss per token would be too small."""
    batch = small_batch()
    assert (batch.rows, batch.seq, len(batch), batch.real_tokens) == (4, 3, 4, 8)


@pytest.mark.parametrize(
    "index, rows",
    [
        (slice(1, 3), [1, 2]),
        (slice(None, None, -1), [3, 2, 1, 0]),
        (slice(4, 9), []),
        (np.array([3, 0, 3]), [3, 0, 3]),
        ([2], [2]),
        ([], []),
        (np.array([True, False, False, True]), [0, 3]),
    ],
)
def test_rows_keep_their_documents_and_labels(index, rows):
    """Selecting rows selects them in every array: a label of all rows would belong to other tokens."""
    batch, part = small_batch(), small_batch()[index]
    assert part.tokens.tolist() == [batch.tokens[row].tolist() for row in rows]
    assert part.documents.tolist() == [batch.documents[row].tolist() for row in rows]
    assert part.labels.keys() == batch.labels.keys()
    for name, label in part.labels.items():
        assert label.dtype == batch.labels[name].dtype
        assert label.tolist() == [batch.labels[name][row].tolist() for row in rows]


def test_a_target_is_the_token_itself_or_the_replacement_at_the_position_before():
    """Catches: a replacement one position too early, or one in the next row, -1 taken for a token."""
    tokens, owners = np.array([[1, 2, 3], [4, 5, 6]], np.int32), np.zeros((2, 3), np.int32)
    assert (Batch(tokens, owners).target_tokens == tokens).all()
    replacements = np.array([[7, -1, 9], [-1, 0, -1]], np.float32)
    batch = Batch(tokens, owners, {"target": replacements})
    assert batch.target_tokens.tolist() == [[1, 7, 3], [4, 5, 0]] and batch.target_tokens.dtype == np.int32
    assert batch.tokens.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("index", [0, np.int64(1), (slice(None), slice(0, 2)), np.array([0.5]), "even", [[0], [1]]])
def test_an_index_that_leaves_no_whole_rows_is_refused(index):
    """batch[0] would be one-dimensional arrays under the name of a batch."""
    with pytest.raises(TypeError, match=r"indexed by rows, got .*batch\[3:4\]"):
        small_batch()[index]


def test_a_batch_is_frozen_and_has_its_own_labels():
    """A default dict shared by all batches would give the labels of one to the next."""
    zeros = np.zeros((1, 2), np.int32)
    first, second = Batch(zeros, zeros), Batch(zeros, zeros)
    assert first.labels == {} and first.labels is not second.labels
    with pytest.raises(FrozenInstanceError):
        first.tokens = zeros


ZEROS = np.zeros((2, 3), np.int32)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([[0]], ZEROS), "tokens must be a NumPy array, got list; use np.asarray"),
        ((ZEROS.astype(np.int64), ZEROS), "tokens must be int32, got int64; use .astype(np.int32)"),
        (
            (ZEROS[0], ZEROS[0]),
            "tokens must be 2-D, (rows, seq), got shape (3,); for a single row use tokens[None]",
        ),
        ((ZEROS - 1, ZEROS), "tokens must be >= 0, got -1; padding is documents == -1"),
        ((ZEROS, ZEROS.astype(float)), "documents must be int32, got float64"),
        ((ZEROS, ZEROS[:, :2]), "documents must have the shape of tokens, (2, 3), got (2, 2)"),
        ((ZEROS, ZEROS - 2), "documents must be >= 0, or -1 for padding, got -2"),
        ((ZEROS, ZEROS, [ZEROS]), "labels must map names to arrays, got list; use {'name': array}"),
        (
            (ZEROS, ZEROS, {"answer": ZEROS}),
            "labels['answer'] must be bool or float32, got int32; use .astype",
        ),
        (
            (ZEROS, ZEROS, {"answer": ZEROS[0] > 0}),
            "labels['answer'] must have the shape of tokens, (2, 3), got (3,)",
        ),
        ((ZEROS, ZEROS, {"answer": [True]}), "labels['answer'] must be a NumPy array, got list"),
    ],
)
def test_an_array_that_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Batch(*arguments)


# --- pack


@given(documents_and_seq(), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_every_document_lies_whole_in_one_row(case, pad):
    """Each token of each document appears once, in order, side by side in one row; all else is padding."""
    documents, seq = case
    batch = pack(documents, seq, pad=pad)
    assert batch.seq == seq
    assert batch.real_tokens == sum(map(len, documents))  # with the loop below: nothing twice, nothing lost
    for i, document in enumerate(documents):
        row, column = np.nonzero(batch.documents == i)
        assert len(set(row)) == 1, "split over rows"
        assert column.tolist() == list(range(column[0], column[0] + len(document))), "torn apart"
        assert batch.tokens[row, column].tolist() == document.tolist()
    assert (batch.tokens[batch.documents == -1] == pad).all()


@given(documents_and_seq())
@settings(max_examples=150, deadline=None)
def test_packing_is_next_fit(case):
    """Same rows as the definition: a document moved too early wastes a row, one too late overflows it."""
    documents, seq = case
    batch = pack(documents, seq)
    rows = [list(dict.fromkeys(row[row >= 0].tolist())) for row in batch.documents]
    assert rows == next_fit_reference(documents, seq)
    for row in batch.documents:
        assert (np.diff((row == -1).astype(int)) >= 0).all(), "padding comes after the documents"


@given(documents_and_seq())
@settings(max_examples=100, deadline=None)
def test_labels_stay_with_their_tokens(case):
    """A label computed from a token still belongs to that token after packing: no shift, no neighbour's label."""
    documents, seq = case
    labels = {"odd": [d % 2 == 1 for d in documents], "value": [d.astype(np.float64) / 2 for d in documents]}
    batch = pack(documents, seq, labels, pad=1)
    real = batch.documents != -1
    assert batch.labels["odd"].dtype == np.bool_ and batch.labels["value"].dtype == np.float32
    assert (batch.labels["odd"] == ((batch.tokens % 2 == 1) & real)).all()  # pad is odd, and must not be labelled
    assert (batch.labels["value"] == np.where(real, batch.tokens / 2, -1)).all()


def test_a_full_row_is_filled_to_the_last_token():
    """Off by one in the room left: 3 + 2 tokens fit a row of 5."""
    batch = pack([[1, 2, 3], [4, 5], [6]], seq=5)
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 5], [6, 0, 0, 0, 0]]
    assert batch.documents.tolist() == [[0, 0, 0, 1, 1], [2, -1, -1, -1, -1]]


def test_a_two_dimensional_array_is_one_document_a_row():
    """Samplers of equal lengths can hand over their array as it is; a generator of documents will do too."""
    array = np.arange(6).reshape(3, 2)
    assert pack(array, 4).tokens.tolist() == [[0, 1, 2, 3], [4, 5, 0, 0]]
    assert pack((row for row in array), 2).tokens.tolist() == array.tolist()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([], 4), "nothing to pack: sequences is empty; give at least one document"),
        (([[1], []], 4), "document 1 is empty; leave it out"),
        (
            ([[1], [1, 2, 3, 4, 5]], 4),
            "document 1 has 5 tokens, a row only seq = 4, and no document is split; "
            "raise seq (max_seq) to 5 or more, or cut the document",
        ),
        (([[1.0]], 4), "document 0 must be a 1-D int array, got float64 of shape (1,)"),
        (([[[1]]], 4), "document 0 must be a 1-D int array, got int64 of shape (1, 1)"),
        (([5], 4), "document 0 must be a 1-D int array, got int64 of shape ()"),
        (([[1, -1]], 4), "tokens must be 0 to 2147483647, got -1 to 1"),
        (([[2**31]], 4), "tokens must be 0 to 2147483647, got 2147483648 to 2147483648"),
        (([[1]], 0), "seq must be >= 1, got 0"),
        (([[1]], 4, None, -1), "pad must be 0 to 2147483647, got -1; documents == -1 identifies padding"),
        (([[1]], 4, {"m": []}), "labels['m'] has 0 arrays for 1 documents; give one array per document"),
        (
            ([[1], [2, 3]], 4, {"m": [[True], [True]]}),
            "labels['m'][1] must be bool or float, one value for each of the 2 tokens of document 1, "
            "got bool of shape (1,)",
        ),
        (([[1]], 4, {"m": [[1]]}), "labels['m'][0] must be bool or float"),
    ],
)
def test_what_cannot_be_packed_is_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        pack(*arguments)


# --- fill


@given(st.integers(1, 9), st.integers(4, 12), st.floats(0.3, 30), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_filled_rows_are_exactly_as_many_and_hold_whole_documents(rows, seq, mean_length, seed):
    """Also where the mean length is far off: no endless loop, no row too many, no document torn or seen twice."""
    rng, drawn = np.random.default_rng(seed), []

    def draw(n: int) -> Documents:
        lengths = rng.integers(1, 5, n)
        start = sum(map(len, drawn))
        drawn.extend(np.full(length, start + i, np.int32) for i, length in enumerate(lengths))
        tokens = np.repeat(np.arange(start, start + n, dtype=np.int32), lengths)
        return Documents(tokens, lengths, {"first": np.diff(tokens, prepend=-1) > 0})

    batch = fill(draw, rows, seq, mean_length)
    assert batch.tokens.shape == (rows, seq)
    real = batch.documents != -1
    ids = batch.tokens[real]
    assert (np.diff(ids) >= 0).all(), "the order is the one drawn"
    for document in np.unique(batch.documents[real]):
        (token,) = set(batch.tokens[batch.documents == document])
        assert (ids == token).sum() == (batch.documents == document).sum()
    assert batch.labels["first"].sum() == len(np.unique(batch.documents[real]))
    assert ((seq - real.sum(axis=1)) < 4).all(), "a row ends because the next document did not fit"


def test_a_slice_of_documents_is_those_documents():
    documents = Documents(np.arange(6, dtype=np.int32), np.array([1, 2, 3]), {"m": np.arange(6) > 2})
    middle = documents[1:2]
    assert (middle.tokens.tolist(), middle.lengths.tolist(), middle.labels["m"].tolist()) == ([1, 2], [2], [False] * 2)
    assert documents[2:].pack(4).tokens.tolist() == [[3, 4, 5, 0]]
    assert len(documents[3:]) == 0
    with pytest.raises(TypeError, match="use documents"):
        documents[1]


# --- stack


@given(st.lists(documents_and_seq(), min_size=1, max_size=4), st.integers(6, 12))
@settings(max_examples=50, deadline=None)
def test_stacked_batches_keep_their_rows_and_number_their_documents_on(cases, seq):
    """Rows one below the other, as they were; a document has a number of its own, in the order of the batches.
    Catches: documents of two batches under one number, which attention would join; padding that gets a number."""
    batches = [
        pack([document[:seq] for document in documents], seq, {"odd": [d[:seq] % 2 == 1 for d in documents]})
        for documents, _ in cases
    ]
    whole, row, number = stack(batches), 0, 0
    assert whole.rows == sum(batch.rows for batch in batches) and whole.labels.keys() == {"odd"}
    for batch in batches:
        part = whole[row : row + batch.rows]
        assert (part.tokens == batch.tokens).all() and (part.labels["odd"] == batch.labels["odd"]).all()
        real = batch.documents != -1
        assert ((part.documents != -1) == real).all()
        assert (part.documents[real] == batch.documents[real] + number).all()
        row, number = row + batch.rows, number + len(np.unique(batch.documents[real]))


def test_a_batch_of_padding_alone_takes_no_number():
    """Catches: documents numbered on from -1, so that the first one becomes padding."""
    empty = Batch(np.zeros((1, 3), np.int32), np.full((1, 3), -1, np.int32))
    one = pack([[1, 2], [3]], 3)
    assert stack([empty, one, empty, one]).documents.tolist() == [[-1] * 3, [0, 0, 1], [-1] * 3, [2, 2, 3]]
    assert stack([one]).documents.tolist() == one.documents.tolist()
