"""Rows of tokens with the document and the labels of every token, and the packing of documents into rows.

Every sampler of data_gen returns a `Batch`. Targets can therefore stop at document boundaries, and metrics can select
tokens by name ("answer", "choice") without parsing the text again. Left out: targets and shifts, which depend on the
horizon (mtp_lab.model.targets), vocabularies (each task has its own), and devices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from data_gen.packing import next_fit, ranks, starts_in_rows, tight_fit

PADDING = -1  # in `documents`: a position that belongs to no document
NO_VALUE = -1  # in a float label: the label does not apply to this token, or the position is padding
TARGET = "target"  # float label: the token to predict at this position, where it is not the next token of the row
LARGEST_TOKEN = np.iinfo(np.int32).max


@dataclass(frozen=True, eq=False)  # == on arrays has no single truth value; compare the fields you mean
class Batch:
    """Rows of tokens, with the document and the labels of every token.

    tokens     (rows, seq) int32, never negative
    documents  (rows, seq) int32, the document of each token; -1 = padding
    labels     name -> (rows, seq) bool or float32, e.g. {"answer": ...}; False or -1 where a label does not apply

    Raises ValueError if an array does not fit. The message has the field, what it is and what it must be.

    Example:
        >>> import numpy as np
        >>> batch = Batch(tokens=np.array([[5, 6, 7]], np.int32), documents=np.array([[0, 0, -1]], np.int32))
        >>> batch.rows, batch.seq, batch.real_tokens
        (1, 3, 2)
    """

    tokens: np.ndarray
    documents: np.ndarray
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        _check("tokens", self.tokens, (np.int32,))
        if self.tokens.ndim != 2:
            raise ValueError(
                f"tokens must be 2-D, (rows, seq), got shape {self.tokens.shape}; for a single row use tokens[None]"
            )
        _check("documents", self.documents, (np.int32,), self.tokens.shape)
        if (self.tokens < 0).any():
            raise ValueError(
                f"tokens must be >= 0, got {self.tokens.min()}; "
                "padding is documents == -1, under any valid token (0 will do)"
            )
        if (self.documents < PADDING).any():
            raise ValueError(f"documents must be >= 0, or -1 for padding, got {self.documents.min()}")
        if not isinstance(self.labels, Mapping):
            raise ValueError(
                f"labels must map names to arrays, got {type(self.labels).__name__}; use {{'name': array}}"
            )
        for name, label in self.labels.items():
            _check(f"labels[{name!r}]", label, (np.bool_, np.float32), self.tokens.shape)

    @property
    def rows(self) -> int:
        return self.tokens.shape[0]

    @property
    def seq(self) -> int:
        return self.tokens.shape[1]

    @property
    def real_tokens(self) -> int:
        """Number of positions that are not padding."""
        return int(np.count_nonzero(self.documents != PADDING))

    @property
    def target_tokens(self) -> np.ndarray:
        """(rows, seq) int32, the correct token at each position: the row's own token, or the token that replaces it.

        The label `target` at position t replaces the token at t + 1. Teacherless training needs this: the model reads
        dummy tokens in place of an answer, and has to predict the answer.
        """
        if TARGET not in self.labels:
            return self.tokens
        targets, replacements = self.tokens.copy(), self.labels[TARGET][:, :-1]
        np.copyto(targets[:, 1:], replacements.astype(np.int32), where=replacements != NO_VALUE)
        return targets

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> "Batch":
        """The rows that `index` selects: a slice, a 1-D array of row numbers, or a (rows,) bool array.

        Raises TypeError for an index that does not select whole rows, such as batch[0] or batch[:, :5].
        """
        if not isinstance(index, slice):
            rows = np.asarray(index)
            if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iub"):
                raise TypeError(
                    f"a Batch is indexed by rows, got {index!r}; "
                    "use a slice (batch[3:4] for one row) or a 1-D array of row numbers"
                )
            index = rows if rows.size else slice(0, 0)  # np.asarray([]) is float, and no index to NumPy
        labels = {name: label[index] for name, label in self.labels.items()}
        return Batch(self.tokens[index], self.documents[index], labels)


def pack(
    sequences: Sequence[np.ndarray],
    seq: int,
    labels: Mapping[str, Sequence[np.ndarray]] | None = None,
    pad: int = 0,
) -> Batch:
    """Packs whole documents into rows of `seq` tokens, in order; a document that does not fit opens the next row.

    sequences  one 1-D int array per document; document i of the batch is sequences[i]
    labels     name -> one 1-D array per document, of the same length; bool stays bool, floats become float32
    pad        the token at padding positions (documents == -1)

    Packing is next-fit, so documents keep the order in which they are drawn. Raises ValueError for no documents, an
    empty or too long document, and labels that do not match.
    """
    documents = [np.asarray(document) for document in sequences]
    lengths = _lengths(documents)  # (n_documents,)
    flat = np.concatenate(documents, dtype=np.int64)  # (n_tokens,) wide: int32 would wrap a token too large
    if flat.min() < 0 or flat.max() > LARGEST_TOKEN:
        raise ValueError(f"tokens must be 0 to {LARGEST_TOKEN}, got {flat.min()} to {flat.max()}")
    flat_labels = {name: _flat_label(name, label, lengths) for name, label in (labels or {}).items()}
    return Documents(flat.astype(np.int32), lengths, flat_labels).pack(seq, pad)


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents one after the other, as a sampler draws them, before they are packed into rows.

    tokens   (n_tokens,) int32
    lengths  (n_documents,) int, tokens of each document, at least 1; they add up to n_tokens
    labels   name -> (n_tokens,) bool or float32
    """

    tokens: np.ndarray
    lengths: np.ndarray
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def ends(self) -> np.ndarray:
        """(n_documents,) the position after each document's last token."""
        return np.cumsum(self.lengths)

    def __getitem__(self, index: slice) -> "Documents":
        """Consecutive documents: documents[:10]. Raises TypeError for anything but a slice without a step."""
        if not isinstance(index, slice) or index.step not in (None, 1):
            raise TypeError(f"Documents are cut by slices without a step, got {index!r}; use documents[3:4] for one")
        first, last, _ = index.indices(len(self))
        before = np.concatenate([[0], self.ends])
        tokens = slice(before[first], before[max(first, last)])
        labels = {name: label[tokens] for name, label in self.labels.items()}
        return Documents(self.tokens[tokens], self.lengths[index], labels)

    def pack(self, seq: int, pad: int = 0) -> Batch:
        """Rows of `seq` tokens, filled in order (`packing.next_fit`): a document that does not fit opens the next row.

        Raises ValueError, with the document's number, for a document longer than a row.
        """
        self._check_fit(seq, pad)
        row_of = next_fit(self.lengths, seq)
        return self._in_rows(row_of, int(row_of[-1]) + 1, seq, pad)

    def pack_tightly(self, rows: int, seq: int) -> Batch:
        """`rows` rows of `seq` tokens with the longest prefix of the documents that fits (`packing.tight_fit`).

        The batch numbers its documents row after row, not in the order given here. Raises ValueError like `pack`.
        """
        _check_rows(rows)
        self._check_fit(seq)
        row_of = tight_fit(self.lengths, rows, seq)
        return self[: len(row_of)]._in_rows(row_of, rows, seq)

    def _check_fit(self, seq: int, pad: int = 0) -> None:
        if seq < 1:
            raise ValueError(f"seq must be >= 1, got {seq}")
        if not 0 <= pad <= LARGEST_TOKEN:
            raise ValueError(f"pad must be 0 to {LARGEST_TOKEN}, got {pad}; documents == -1 identifies padding")
        if self.lengths.max() > seq:
            i = int(np.argmax(self.lengths > seq))
            raise ValueError(
                f"document {i} has {self.lengths[i]} tokens, a row only seq = {seq}, and no document is split; "
                f"raise seq (max_seq) to {self.lengths.max()} or more, or cut the document"
            )

    def _in_rows(self, row_of: np.ndarray, rows: int, seq: int, pad: int = 0) -> Batch:
        """All documents in rows; row_of (n_documents,) is the row of each."""
        first_position = starts_in_rows(row_of, self.lengths, seq)  # (n_documents,) row * seq + column
        first_token = self.ends - self.lengths  # (n_documents,)
        position = np.repeat(first_position - first_token, self.lengths) + np.arange(len(self.tokens))  # (n_tokens,)
        document = np.repeat(ranks(row_of).astype(np.int32), self.lengths)  # (n_tokens,) numbered row after row

        def in_rows(values: np.ndarray, empty: int) -> np.ndarray:
            flat = np.full(rows * seq, empty, dtype=values.dtype)
            flat[position] = values
            return flat.reshape(rows, seq)

        labels = {
            name: in_rows(label, False if label.dtype == np.bool_ else NO_VALUE) for name, label in self.labels.items()
        }
        return Batch(in_rows(self.tokens, pad), in_rows(document, PADDING), labels)


def fill(draw: Callable[[int], Documents], rows: int, seq: int, mean_length: float) -> Batch:
    """Exactly `rows` rows of `seq` tokens, packed in order (`Documents.pack`) from as many documents as are needed.

    draw         n -> n more documents, drawn independently; called until the rows are full
    mean_length  mean tokens of a document, from which the number of documents to draw is estimated

    Raises ValueError like `Documents.pack`, and for rows < 1.
    """
    _check_rows(rows)
    batches, missing_rows, spare_documents = [], rows, 8
    while missing_rows > 0:
        batch = draw(int(missing_rows * seq / mean_length) + spare_documents).pack(seq)
        # the last row is dropped: it ends because no document is left, not because the next one does not fit
        batches.append(batch[: min(missing_rows, batch.rows - 1)])
        missing_rows -= batches[-1].rows
        spare_documents *= 2  # the loop ends even if documents are much shorter than mean_length
    return batches[0] if len(batches) == 1 else stack(batches)


def fill_tightly(draw: Callable[[int], Documents], rows: int, seq: int, mean_length: float) -> Batch:
    """Like `fill`, but with less padding (`Documents.pack_tightly`). The documents are a prefix of the drawn ones, too.

    Documents with at least rows * seq tokens are drawn before packing starts, so every row ends because no further
    document fits. What is drawn does not depend on how documents fit.
    """
    _check_rows(rows)
    drawn, missing_tokens = [], rows * seq
    while missing_tokens > 0:
        drawn.append(draw(int(missing_tokens / mean_length) + 8))
        missing_tokens -= len(drawn[-1].tokens)
    documents = Documents(
        np.concatenate([part.tokens for part in drawn]),
        np.concatenate([part.lengths for part in drawn]),
        {name: np.concatenate([part.labels[name] for part in drawn]) for name in drawn[0].labels},
    )
    return documents.pack_tightly(rows, seq)


def stack(batches: list[Batch]) -> Batch:
    """All rows of the batches in one batch. The documents of each batch are numbered after those of the one before."""
    n_documents = [int(batch.documents.max(initial=PADDING)) + 1 for batch in batches]
    first_numbers = np.cumsum([0, *n_documents[:-1]])
    documents = [
        np.where(batch.documents == PADDING, PADDING, batch.documents + np.int32(first_number))
        for batch, first_number in zip(batches, first_numbers, strict=True)
    ]
    labels = {name: np.concatenate([batch.labels[name] for batch in batches]) for name in batches[0].labels}
    return Batch(np.concatenate([batch.tokens for batch in batches]), np.concatenate(documents), labels)


def _check_rows(rows: int) -> None:
    if rows < 1:
        raise ValueError(f"rows must be >= 1, got {rows}")


def _check(name: str, array: np.ndarray, dtypes: tuple, shape: tuple[int, ...] | None = None) -> None:
    """Raises ValueError unless `array` is an ndarray of one of the dtypes (and of `shape`, where given)."""
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} must be a NumPy array, got {type(array).__name__}; use np.asarray")
    if array.dtype not in dtypes:
        needed = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        fix = f".astype(np.{np.dtype(dtypes[-1]).name})"
        raise ValueError(f"{name} must be {needed}, got {array.dtype}; use {fix}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} must have the shape of tokens, {shape}, got {array.shape}")


def _lengths(documents: list[np.ndarray]) -> np.ndarray:
    """(n_documents,) lengths. ValueError for no documents, an empty one, and one that is not a 1-D int array."""
    if not documents:
        raise ValueError("nothing to pack: sequences is empty; give at least one document")
    for i, document in enumerate(documents):
        if document.size == 0:
            raise ValueError(f"document {i} is empty; leave it out, or add a token that opens every document")
        if document.ndim != 1 or document.dtype.kind not in "iu":
            got = f"{document.dtype} of shape {document.shape}"
            raise ValueError(f"document {i} must be a 1-D int array, got {got}")
    return np.fromiter(map(len, documents), np.int64, len(documents))


def _flat_label(name: str, label: Sequence[np.ndarray], lengths: np.ndarray) -> np.ndarray:
    """(n_tokens,) bool or float32: the label, document after document. ValueError if it does not match them."""
    pieces = [np.asarray(piece) for piece in label]
    if len(pieces) != len(lengths):
        raise ValueError(
            f"labels[{name!r}] has {len(pieces)} arrays for {len(lengths)} documents; give one array per document"
        )
    for i, (piece, length) in enumerate(zip(pieces, lengths, strict=True)):
        if piece.shape != (length,) or piece.dtype.kind not in "bf":
            raise ValueError(
                f"labels[{name!r}][{i}] must be bool or float, one value for each of the {length} tokens of "
                f"document {i}, got {piece.dtype} of shape {piece.shape}"
            )
    flat = np.concatenate(pieces)
    return flat if flat.dtype == np.bool_ else flat.astype(np.float32)
