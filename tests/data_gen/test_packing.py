"""Tight packing: every test states a property and the bug it would catch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen import Batch
from data_gen.batch import Documents, fill_tightly


def best_fit_decreasing(lengths: list[int], rows: int, seq: int) -> list[list[int]] | None:
    """The documents of every row, by the definition; None if one does not fit."""
    packed: list[list[int]] = [[] for _ in range(rows)]
    for document in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        left = [seq - sum(lengths[packed_before] for packed_before in row) - lengths[document] for row in packed]
        possible = [(room, row) for row, room in enumerate(left) if room >= 0]
        if not possible:
            return None
        packed[min(possible)[1]].append(document)
    return packed


def slow_reference(lengths: list[int], rows: int, seq: int) -> list[list[int]]:
    """The longest prefix that packs, found by trying all; rows by their first document, which empty ones lack."""
    tried = (best_fit_decreasing(lengths[:n], rows, seq) for n in range(len(lengths), 0, -1))
    packed = next(rows for rows in tried if rows is not None)
    return sorted((sorted(row) for row in packed), key=lambda row: min(row, default=len(lengths)))


def numbered(lengths: list[int], start: int = 0) -> Documents:
    """Documents whose tokens are their numbers in the order of drawing, with a label on their first tokens."""
    tokens = np.repeat(np.arange(start, start + len(lengths), dtype=np.int32), lengths)
    labels = {"first": np.diff(tokens, prepend=-1) > 0, "half": tokens.astype(np.float32) / 2}
    return Documents(tokens, np.array(lengths), labels)


def documents_by_row(batch: Batch) -> list[list[int]]:
    """As numbered when drawn, row by row; all that holds of every packing is checked on the way."""
    real, ids = batch.documents != -1, []
    for row, owner in zip(batch.tokens, batch.documents, strict=True):
        assert (np.diff((owner == -1).astype(int)) >= 0).all(), "padding comes after the documents"
        changes = np.flatnonzero(np.diff(owner, prepend=-2))
        ids.append([int(row[i]) for i in changes if owner[i] != -1])
    assert (np.diff(batch.documents[real]) >= 0).all(), "documents are numbered in the order of the rows"
    flat = [document for row in ids for document in row]
    assert sorted(set(batch.documents[real].tolist())) == list(range(len(flat))), "a number twice, or left out"
    assert batch.tokens[real].tolist() == [flat[number] for number in batch.documents[real]]
    assert batch.labels["first"].sum() == len(flat) and not batch.labels["first"][~real].any()
    assert (batch.labels["half"] == np.where(real, batch.tokens / 2, -1)).all()
    return ids


@st.composite
def lengths_rows_and_seq(draw) -> tuple[list[int], int, int]:
    seq = draw(st.integers(1, 14))
    lengths = draw(st.lists(st.integers(1, seq), min_size=1, max_size=40))
    return lengths, draw(st.integers(1, 8)), seq


@given(lengths_rows_and_seq())
@settings(max_examples=300, deadline=None)
def test_rows_are_those_of_a_slow_search(case):
    """The longest prefix that best-fit decreasing packs, whole documents, each once, also where all fit and rows stay
    empty. Catches: a search that starts too low or stops early, a wrong row of equal ones, a document torn or shifted,
    labels of a neighbour, numbers in the order of drawing."""
    lengths, rows, seq = case
    batch = numbered(lengths).pack_tightly(rows, seq)
    assert batch.tokens.shape == (rows, seq)
    ids = documents_by_row(batch)
    assert ids == slow_reference(lengths, rows, seq)
    packed = sorted(document for row in ids for document in row)
    assert packed == list(range(len(packed))), "a prefix"
    assert batch.real_tokens == sum(lengths[: len(packed)])


def test_by_hand():
    """5 and 3 fill a row, 4 and 4 the next: in the order of drawing they would need three rows. 1 does not fit."""
    batch = numbered([4, 5, 4, 3, 1]).pack_tightly(2, 8)
    assert batch.tokens.tolist() == [[0] * 4 + [2] * 4, [1] * 5 + [3] * 3]
    assert batch.documents.tolist() == [[0] * 4 + [1] * 4, [2] * 5 + [3] * 3]
    assert documents_by_row(numbered([2, 1]).pack_tightly(3, 2)) == [[0], [1], []]


@given(st.integers(1, 9), st.integers(4, 12), st.floats(0.3, 30), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_filled_rows_are_a_prefix_of_what_was_drawn(rows, seq, mean_length, seed):
    """Also where the mean length is far off, so that documents are drawn several times: packed are the same as if all
    had been drawn at once. Catches: rows that end because the drawing did, a second drawing numbered as the first."""
    rng, drawn = np.random.default_rng(seed), []

    def draw(n: int) -> Documents:
        lengths = rng.integers(1, 5, n).tolist()
        drawn.extend(lengths)
        return numbered(lengths, len(drawn) - n)

    batch = fill_tightly(draw, rows, seq, mean_length)
    assert batch.tokens.shape == (rows, seq) and sum(drawn) >= rows * seq
    assert documents_by_row(batch) == slow_reference(drawn, rows, seq)


def test_requests_that_cannot_be_met_are_named():
    with pytest.raises(ValueError, match="document 1 has 5 tokens, a row only seq = 4"):
        numbered([1, 5]).pack_tightly(2, 4)
    with pytest.raises(ValueError, match="seq must be >= 1, got 0"):
        numbered([1]).pack_tightly(2, 0)
    with pytest.raises(ValueError, match="rows must be >= 1, got 0"):
        numbered([1]).pack_tightly(0, 4)
    with pytest.raises(ValueError, match="rows must be >= 1, got -1"):
        fill_tightly(lambda n: numbered([1] * n), -1, 4, 1.0)
