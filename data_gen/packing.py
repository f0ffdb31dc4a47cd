"""The row in which each whole document goes, from the documents' lengths alone.

`next_fit` keeps the order in which documents are drawn. `tight_fit` leaves a third of its padding, but is used only
where a config asks for it, because all older runs were trained on the rows of `next_fit`. Left out: tokens and labels
(data_gen.batch).
"""

from bisect import bisect_left, insort

import numpy as np


def ranks(values: np.ndarray) -> np.ndarray:
    """(n,) the place of each value in sorted order, from 0; equal values keep their order.

    The first argsort gives the value at each place. The second inverts this permutation.
    """
    return np.argsort(np.argsort(values, kind="stable"))


def next_fit(lengths: np.ndarray, seq: int) -> np.ndarray:
    """(n_documents,) the row of each document: the current row, or the next one if the document does not fit.

    Every length must be 1..seq: the loop below would not end for a longer document.
    """
    ends = np.cumsum(lengths)
    # if document i opens a row, document next_opening[i] opens the following row
    next_opening = np.searchsorted(ends, ends - lengths + seq, side="right").tolist()
    opening, document = [], 0  # the document that opens each row: the only step that goes row by row
    while document < len(next_opening):
        opening.append(document)
        document = next_opening[document]
    return np.repeat(np.arange(len(opening)), np.diff([*opening, len(lengths)]))


def tight_fit(lengths: np.ndarray, rows: int, seq: int) -> np.ndarray:
    """(n_packed,) the row of each document of the longest prefix that best-fit decreasing packs into `rows` rows.

    The packed documents are a prefix of the stream, so short documents are not preferred. Only the document that ends
    the prefix is longer than the average, as for any packing that stops. Rows are numbered in the order of their first
    documents, so that the longest documents are not always in the first rows.

    Every length must be 1..seq. Time grows with the square of `rows`: use it for hundreds of rows, not thousands.
    """
    n_packed = int(np.searchsorted(np.cumsum(lengths), rows * seq, side="right"))  # more tokens than this cannot fit
    while (row := _best_fit_decreasing(lengths[:n_packed], rows, seq)) is None:
        n_packed -= 1
    _, first_document, row = np.unique(row, return_index=True, return_inverse=True)
    return ranks(first_document)[row]


def _best_fit_decreasing(lengths: np.ndarray, rows: int, seq: int) -> list[int] | None:
    """The row of each document, or None if one does not fit: longest first, each in the row where it leaves least room.

    Of equally long documents the earlier one goes first. Of rows with equal room, the one with the lowest number wins.
    """
    row_of = [0] * len(lengths)
    rooms = [seq * rows + row for row in range(rows)]  # room * rows + row, in rising order
    longest_first = np.argsort(-lengths, kind="stable")
    for document, length in zip(longest_first.tolist(), lengths[longest_first].tolist(), strict=True):
        tightest = bisect_left(rooms, length * rows)
        if tightest == rows:
            return None
        room = rooms.pop(tightest)
        row_of[document] = room % rows
        insort(rooms, room - length * rows)
    return row_of


def starts_in_rows(row_of: np.ndarray, lengths: np.ndarray, seq: int) -> np.ndarray:
    """(n_documents,) flat position, row * seq + column, of each document's first token.

    Documents of one row lie side by side, in the order in which they are given.
    """
    order = np.argsort(row_of, kind="stable")  # (n_documents,) row after row
    rows = row_of[order]
    before = np.cumsum(lengths[order]) - lengths[order]  # tokens of all documents earlier in this order
    opening = np.searchsorted(rows, rows)  # the document that opens the same row
    starts = np.empty(len(lengths), np.int64)
    starts[order] = rows * seq + before - before[opening]
    return starts
