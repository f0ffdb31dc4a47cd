"""Rows of tokens that know which document every token belongs to, and the packing of documents into rows.

Every sampler of data_gen returns a `Batch`, so that targets can stop at document boundaries and metrics can
select tokens by name ("answer", "choice point") without parsing the text again. Left out: targets and shifts
(they depend on the horizon: mtp_lab.model.targets), vocabularies (each task owns its own), and devices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from data_gen.packing import next_fit, tight_fit

PADDING = -1  # in `documents`: a position that belongs to no document
NO_VALUE = -1  # in marks that are numbers: a token they say nothing about, and padding
TARGET = "target"  # a mark of numbers: the token to be said behind this place instead of the next one; see Batch.target_tokens
LARGEST_TOKEN = np.iinfo(np.int32).max


@dataclass(frozen=True, eq=False)  # == on arrays has no single truth value; compare the fields you mean
class Batch:
    """Rows of tokens, with the document and the marks of every token.

    tokens     (rows, seq) int32, never negative
    documents  (rows, seq) int32, the document of each token; -1 = padding
    marks      name -> (rows, seq) bool or float32, e.g. {"answer": ...}; where a token has no value: False, -1

    Raises ValueError, naming the field, what it got and what is needed, when an array does not fit.
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
            _check(f"marks[{name!r}]", label, (np.bool_, np.float32), self.tokens.shape)

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
        """(rows, seq) the token to be said in each place: the one that stands there, unless the mark `target` of the
        place before names another (teacherless training: an answer is read as dummies, and still has to be said)."""
        if TARGET not in self.labels:
            return self.tokens
        wanted, named = self.tokens.copy(), self.labels[TARGET][:, :-1]
        np.copyto(wanted[:, 1:], named.astype(np.int32), where=named != NO_VALUE)
        return wanted

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> "Batch":
        """The rows that `index` selects: a slice, a 1-D array of row numbers, or a (rows,) bool array.

        Raises TypeError for anything that would not leave whole rows, such as batch[0] or batch[:, :5].
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
    """Packs whole documents into rows of `seq` tokens, in order; one that does not fit opens the next row.

    sequences  one 1-D int array a document; document i of the batch is sequences[i]
    marks      name -> one 1-D array a document, as long as it; bool stays bool, floats become float32
    pad        the token under the padding (documents == -1) that fills each row

    Next-fit, not best-fit: the order stays the one the sampler drew. Raises ValueError for no documents, an
    empty or too long document, and marks that do not match.
    """
    documents = [np.asarray(document) for document in sequences]
    lengths = _lengths(documents)  # (n_documents,)
    flat = np.concatenate(documents, dtype=np.int64)  # (n_tokens,) wide: int32 would wrap a token too large
    if flat.min() < 0 or flat.max() > LARGEST_TOKEN:
        raise ValueError(f"tokens must be 0 to {LARGEST_TOKEN}, got {flat.min()} to {flat.max()}")
    flat_marks = {name: _flat_mark(name, label, lengths) for name, label in (labels or {}).items()}
    return Documents(flat.astype(np.int32), lengths, flat_marks).pack(seq, pad)


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents one after the other, as a sampler draws them, before they are laid out in rows.

    tokens   (n_tokens,) int32
    lengths  (n_documents,) int, tokens of each document, at least 1; they add up to n_tokens
    marks    name -> (n_tokens,) bool or float32
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
        """Rows of `seq` tokens, filled in order; a document that does not fit opens the next row (next-fit).

        Raises ValueError, naming the document, for one longer than a row.
        """
        self._check_fit(seq, pad)
        return self._placed(*next_fit(self.lengths, seq), seq, pad)

    def pack_tightly(self, rows: int, seq: int) -> Batch:
        """`rows` rows of `seq` tokens, of as many documents from the first on as fit (`packing.tight_fit`).

        Documents are numbered in the order of the rows, not as they stand here. Raises ValueError like `pack`.
        """
        _check_rows(rows)
        self._check_fit(seq)
        first = tight_fit(self.lengths, rows, seq)
        return self[: len(first)]._placed(rows, first, seq)

    def _check_fit(self, seq: int, pad: int = 0) -> None:
        if seq < 1:
            raise ValueError(f"seq must be >= 1, got {seq}")
        if not 0 <= pad <= LARGEST_TOKEN:
            raise ValueError(f"pad must be 0 to {LARGEST_TOKEN}, got {pad}; padding is told by documents == -1")
        if self.lengths.max() > seq:
            i = int(np.argmax(self.lengths > seq))
            raise ValueError(
                f"document {i} has {self.lengths[i]} tokens, a row only seq = {seq}, and no document is split; "
                f"raise seq (max_seq) to {self.lengths.max()} or more, or cut the document"
            )

    def _placed(self, n_rows: int, first: np.ndarray, seq: int, pad: int = 0) -> Batch:
        """The documents in rows, each from its flat position in `first` (n_documents,) on."""
        shift = np.repeat(first - (self.ends - self.lengths), self.lengths)  # (n_tokens,)
        place = shift + np.arange(len(self.tokens))  # (n_tokens,) flat position
        numbers = np.argsort(np.argsort(first)).astype(np.int32)  # (n_documents,) in the order of the rows
        owner = np.repeat(numbers, self.lengths)  # (n_tokens,)

        def rows_of(values: np.ndarray, fill: int) -> np.ndarray:
            rows = np.full(n_rows * seq, fill, dtype=values.dtype)
            rows[place] = values
            return rows.reshape(n_rows, seq)  # (rows, seq)

        labels = {
            name: rows_of(label, False if label.dtype == np.bool_ else NO_VALUE) for name, label in self.labels.items()
        }
        return Batch(rows_of(self.tokens, pad), rows_of(owner, PADDING), labels)


def fill(draw: Callable[[int], Documents], rows: int, seq: int, mean_length: float, pad: int = 0) -> Batch:
    """Exactly `rows` rows of `seq` tokens, packed from as many documents as it takes.

    draw         n -> n further documents, drawn independently; asked for more until the rows are full
    mean_length  tokens of an average document: how many to ask for

    Raises ValueError like `Documents.pack`, and for rows < 1.
    """
    _check_rows(rows)
    batches, missing, spare = [], rows, 8
    while missing > 0:
        batch = draw(int(missing * seq / mean_length) + spare).pack(seq, pad)
        # the last row is left out: it ends because the drawing did, not because the next document was too long
        batches.append(batch[: min(missing, batch.rows - 1)])
        missing -= batches[-1].rows
        spare *= 2  # ends the loop also where documents are shorter than they were said to be
    return batches[0] if len(batches) == 1 else stack(batches)


def fill_tightly(draw: Callable[[int], Documents], rows: int, seq: int, mean_length: float) -> Batch:
    """As `fill`, by `Documents.pack_tightly`: fewer positions are padding, and the documents are a prefix all the same.

    All are drawn before any is packed, so that `draw` is asked the same whatever fits.
    """
    _check_rows(rows)
    drawn, missing = [], rows * seq
    while missing > 0:  # rows must end because documents do not fit, not because the drawing did
        drawn.append(draw(int(missing / mean_length) + 8))
        missing -= len(drawn[-1].tokens)
    labels = {name: np.concatenate([part.labels[name] for part in drawn]) for name in drawn[0].labels}
    tokens, lengths = (np.concatenate([getattr(part, name) for part in drawn]) for name in ("tokens", "lengths"))
    return Documents(tokens, lengths, labels).pack_tightly(rows, seq)


def stack(batches: list[Batch]) -> Batch:
    """Batches one below the other; each one's documents are numbered after those of the one before."""
    first = np.cumsum([0] + [int(batch.documents.max(initial=PADDING)) + 1 for batch in batches[:-1]])
    documents = [
        np.where(batch.documents == PADDING, PADDING, batch.documents + np.int32(n))
        for batch, n in zip(batches, first, strict=True)
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
    """(n_documents,) lengths; ValueError for no documents, or one that is empty or no 1-D ints."""
    if not documents:
        raise ValueError("nothing to pack: sequences is empty; give at least one document")
    for i, document in enumerate(documents):
        if document.size == 0:
            raise ValueError(f"document {i} is empty; leave it out, or give it a token that opens documents")
        if document.ndim != 1 or document.dtype.kind not in "iu":
            got = f"{document.dtype} of shape {document.shape}"
            raise ValueError(f"document {i} must be a 1-D int array, got {got}")
    return np.fromiter(map(len, documents), np.int64, len(documents))


def _flat_mark(name: str, label: Sequence[np.ndarray], lengths: np.ndarray) -> np.ndarray:
    """(n_tokens,) bool or float32: the mark, document after document; ValueError where it does not match."""
    pieces = [np.asarray(piece) for piece in label]
    if len(pieces) != len(lengths):
        raise ValueError(f"marks[{name!r}] has {len(pieces)} arrays for {len(lengths)} documents: one each")
    for i, (piece, length) in enumerate(zip(pieces, lengths, strict=True)):
        if piece.shape != (length,) or piece.dtype.kind not in "bf":
            raise ValueError(
                f"marks[{name!r}][{i}] must be bool or float, one value for each of the {length} tokens of "
                f"document {i}, got {piece.dtype} of shape {piece.shape}"
            )
    flat = np.concatenate(pieces)
    return flat if flat.dtype == np.bool_ else flat.astype(np.float32)
