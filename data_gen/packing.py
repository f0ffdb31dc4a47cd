"""Where whole documents go in rows of equal length, by their lengths alone.

Next-fit keeps the order in which they were drawn, and leaves what the next one is too long for. Tight packing leaves a
third of that; it is a choice of its own because every stored training has seen the rows of next-fit. Left out: tokens
and marks (data_gen.batch).
"""

from bisect import bisect_left, insort

import numpy as np


def next_fit(lengths: np.ndarray, seq: int) -> tuple[int, np.ndarray]:
    """Number of rows, and (n_documents,) the flat position, row * seq + column, of each document's start.

    Every length must be 1..seq: a longer document would open rows without end.
    """
    ends = np.cumsum(lengths)
    before = ends - lengths
    following = np.searchsorted(ends, before + seq, side="right").tolist()  # the row after one that i opens
    opening, document = [], 0  # the document that opens each row: the one step that has to be taken row by row
    while document < len(following):
        opening.append(document)
        document = following[document]
    rows = np.repeat(np.arange(len(opening)), np.diff([*opening, len(lengths)]))  # (n_documents,)
    return len(opening), rows * seq + before - before[opening][rows]


def tight_fit(lengths: np.ndarray, rows: int, seq: int) -> np.ndarray:
    """(n_packed,) the flat position of each document's start: of the longest prefix that fits into `rows` rows.

    A prefix fits if best-fit decreasing packs it. Because it is a prefix of the stream, no length is preferred beyond
    what any packing that stops does: the document at which it ends is longer than others on average. Rows come in the
    order of their first documents, documents within a row as they were drawn, so that no place is one for long ones.

    Every length must be 1..seq. Time grows as the square of `rows`: meant for hundreds, not thousands.
    """
    n = int(np.searchsorted(np.cumsum(lengths), rows * seq, side="right"))  # by their tokens alone, no more can fit
    while (found := _best_fit_decreasing(lengths[:n], rows, seq)) is None:
        n -= 1
    _, opening, row = np.unique(found, return_index=True, return_inverse=True)
    row = np.argsort(np.argsort(opening))[row]  # (n_packed,)
    order = np.argsort(row, kind="stable")
    ends = np.cumsum(lengths[order])
    first = np.empty(n, np.int64)
    first[order] = ends - lengths[order]  # as if every row before were full to the last token of its documents
    return row * seq + first - first[np.sort(opening)][row]


def _best_fit_decreasing(lengths: np.ndarray, rows: int, seq: int) -> list[int] | None:
    """The row of each document: the longest first, each in the row where it leaves least room. None: one has no room.

    Among equal documents the one drawn first goes first, among equal rows into the one with the lowest number.
    """
    found = [0] * len(lengths)
    rooms = [seq * rows + row for row in range(rows)]  # room * rows + row, in rising order
    order = np.argsort(-lengths, kind="stable")
    for document, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        tightest = bisect_left(rooms, length * rows)
        if tightest == rows:
            return None
        room = rooms.pop(tightest)
        found[document] = room % rows
        insort(rooms, room - length * rows)
    return found
