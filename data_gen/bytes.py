"""Real text and code as bytes: the Python standard library that is already on the machine, and local files.

A byte is a token (0..255), and one more token opens each document. So no tokenizer has to be trained or downloaded, and
every file can be decoded exactly. Files are split into train, validation and test by their *names*, so adding or
editing a file moves no other file. Left out: subword tokenizers (data_gen.renaming accepts any) and downloads.
"""

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np

from data_gen.batch import PADDING, Batch

SEPARATOR = 256  # opens each document
VOCABULARY = 257  # 256 bytes and the separator
SEPARATOR_TEXT = "\u241e"  # how `decode` shows the separator: the symbol for "record separator"

Split = Literal["train", "validation", "test"]
SPLITS = {"train": range(0, 90), "validation": range(90, 95), "test": range(95, 100)}  # percent of the names


@dataclass(frozen=True)
class Document:
    """One file: a name that is unique in its corpus (a posix path), and its bytes."""

    name: str
    data: bytes = field(repr=False)

    def __post_init__(self):
        if not isinstance(self.data, bytes):
            raise ValueError(
                f"document {self.name!r} must hold bytes, got {type(self.data).__name__}; use text.encode('utf-8')"
            )


@dataclass(frozen=True)
class Corpus:
    """Documents sorted by name, in whatever order they were given.

    Raises ValueError for a corpus without a byte, and for two documents of one name.
    """

    name: str
    documents: tuple[Document, ...] = field(repr=False)

    def __post_init__(self):
        documents = tuple(sorted(self.documents, key=lambda document: document.name))
        object.__setattr__(self, "documents", documents)
        if not self.n_bytes:
            raise ValueError(
                f"empty corpus {self.name!r}: {len(documents)} documents, 0 bytes; "
                "give at least one file that is not empty"
            )
        for one, next_one in zip(documents, documents[1:], strict=False):
            if one.name == next_one.name:
                raise ValueError(
                    f"corpus {self.name!r} has two documents named {one.name!r}; "
                    "names must be unique: name files relative to a folder that holds them all"
                )

    @property
    def n_bytes(self) -> int:
        return sum(len(document.data) for document in self.documents)

    @cached_property
    def hash(self) -> str:
        """sha256 (hex) of all names, lengths and bytes: equal wherever the files are equal."""
        digest = sha256()
        for document in self.documents:
            for part in (_name_bytes(document.name), document.data):
                digest.update(len(part).to_bytes(8, "big"))  # so that bytes cannot wander between files
                digest.update(part)
        return digest.hexdigest()

    def split(self, which: Split) -> "Corpus":
        """The documents of one split: sha256 of the name mod 100; < 90 train, < 95 validation, else test.

        Raises ValueError for another `which`, and for a split without documents.
        """
        if which not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {which!r}")
        percent = SPLITS[which]
        documents = tuple(document for document in self.documents if _percentile(document.name) in percent)
        if not any(document.data for document in documents):
            raise ValueError(
                f"the {which} split of corpus {self.name!r} is empty: it contains {len(percent)} % of files, by their "
                f"names, but none with text of these {len(self.documents)} documents; "
                "add more files (with 100 or more, every split almost surely has one)"
            )
        return Corpus(f"{self.name}/{which}", documents)


@dataclass(frozen=True, eq=False)
class ByteStream:
    """A corpus as one sequence of tokens: each document is the separator and then its bytes.

    corpus  its documents; document ids are indices into corpus.documents
    tokens  (n,) uint16, enough for 257 values; batches are int32
    starts  (n_documents,) position of each document's separator
    """

    corpus: Corpus
    tokens: np.ndarray = field(init=False, repr=False)
    starts: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        data = b"".join(b"\0" + document.data for document in self.corpus.documents)  # \0 becomes SEPARATOR
        tokens = np.frombuffer(data, np.uint8).astype(np.uint16)
        lengths = np.array([1 + len(document.data) for document in self.corpus.documents])
        starts = np.cumsum(lengths) - lengths
        tokens[starts] = SEPARATOR
        tokens.setflags(write=False)
        starts.setflags(write=False)
        object.__setattr__(self, "tokens", tokens)
        object.__setattr__(self, "starts", starts)

    def __len__(self) -> int:
        return len(self.tokens)

    def sample(self, rows: int, seq: int, generator: np.random.Generator) -> Batch:
        """`rows` windows of `seq` tokens, each starting anywhere in the stream with equal probability.

        Raises ValueError for rows < 1, seq < 2, and a seq longer than the stream.
        """
        if rows < 1:
            raise ValueError(f"rows must be >= 1, got {rows}")
        _check_seq(seq)
        if seq > len(self):
            raise ValueError(
                f"seq {seq} is longer than the stream of corpus {self.corpus.name!r}, {len(self)} tokens; "
                "lower seq or add files"
            )
        return self._read(generator.integers(0, len(self) - seq + 1, size=rows), seq)

    def windows(self, seq: int, limit: int | None = None) -> Batch:
        """Windows that do not overlap, in the order of the stream, the same on every call.

        Together they cover the stream; the last one is padded (documents -1, token 0). With a smaller `limit`, that
        many windows are spread evenly over the stream, so a small evaluation covers the whole corpus.
        Raises ValueError for seq < 2 and limit < 1.
        """
        _check_seq(seq)
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be >= 1, or None for all windows, got {limit}")
        n = -(-len(self) // seq)
        limit = n if limit is None else min(limit, n)
        chosen = (2 * np.arange(limit) + 1) * n // (2 * limit)  # (limit,) the middles of `limit` equal parts
        return self._read(chosen * seq, seq)

    def _read(self, first_positions: np.ndarray, seq: int) -> Batch:
        """The windows from `first_positions` (rows,) on, padded after the end of the stream."""
        positions = first_positions[:, None] + np.arange(seq)  # (rows, seq)
        tokens = self.tokens.take(positions, mode="clip").astype(np.int32)  # (rows, seq)
        # One search per row is enough: every further separator in the row opens the next document.
        opens = tokens == SEPARATOR
        opens[:, 0] = False
        first = np.searchsorted(self.starts, first_positions, side="right") - 1  # (rows,)
        documents = first.astype(np.int32)[:, None] + np.cumsum(opens, axis=1, dtype=np.int32)  # (rows, seq)
        past = positions >= len(self)
        tokens[past], documents[past] = 0, PADDING
        return Batch(tokens, documents)


def decode(tokens: np.ndarray) -> str:
    """The text of one row of tokens (n,), for reading: separators as SEPARATOR_TEXT, invalid UTF-8 as U+FFFD.

    Padding is token 0 and appears as "\\0"; remove it first with row[documents >= 0]. Raises ValueError for
    anything but one row of tokens 0..256.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 1:
        raise ValueError(f"decode takes one row of tokens, (n,), got shape {tokens.shape}; decode row by row")
    if not tokens.size:
        return ""
    if tokens.dtype.kind not in "iu":
        raise ValueError(f"tokens must be ints, got {tokens.dtype}")
    if tokens.min() < 0 or tokens.max() >= VOCABULARY:
        raise ValueError(f"tokens must be 0 to {SEPARATOR}, got {tokens.min()} to {tokens.max()}")
    pieces = np.split(tokens, np.flatnonzero(tokens == SEPARATOR))  # a separator opens all but the first
    texts = (piece[piece != SEPARATOR].astype(np.uint8).tobytes() for piece in pieces)
    return SEPARATOR_TEXT.join(text.decode("utf-8", errors="replace") for text in texts)


# Files that `standard_library` leaves out, as patterns for any part of a path:
_LEFT_OUT_PARTS = (
    *("site-packages", "dist-packages", "__pycache__"),  # not the standard library
    *("test", "tests", "idle_test", "__phello__"),  # 19 MB besides 8 MB, and often missing from images of Python
    # written by the build or the distribution, for one machine:
    *("_sysconfigdata*", "config-*", "sitecustomize.py", "_distutils_system_mod.py"),
)
# ... and for a whole path:
_LEFT_OUT_PATHS = (
    # tables, mostly generated: code points, entities, locale aliases, pydoc's help as one string
    *("encodings/*", "pydoc_data/*", "html/entities.py", "locale.py", "re/_casefix.py", "stringprep.py"),
    # separate packages in some distributions, so machines with the same Python may lack them
    *("idlelib/*", "tkinter/*", "turtledemo/*", "distutils/*", "lib2to3/*", "ensurepip/*"),
    "ctypes/macholib/*",
)


@lru_cache(maxsize=1)
def standard_library() -> Corpus:
    """The code of the running Python's standard library, without tests, tables and files that differ between machines.

    It changes with every release of Python, including patch releases (see the corpus's name), so record the hash.
    """
    root = Path(sysconfig.get_path("stdlib"))
    documents = tuple(_read_file(path, root) for path in _library_files(root))
    return Corpus(f"python-{sys.version.split()[0]}", documents)


def local_files(paths: str | Path | Iterable[str | Path], pattern: str = "*") -> Corpus:
    """Files, and all files below folders that match the glob `pattern`, named relative to their folder.

    Hidden files and folders (.git, .venv) and __pycache__ below a folder are left out. Raises OSError for a
    path that is missing or cannot be read. Raises ValueError for a folder without a match and for two files with the
    same relative name.
    """
    roots = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    documents = [document for root in roots for document in _read_root(root, pattern)]
    return Corpus("+".join(root.resolve().name for root in roots), tuple(documents))


def _library_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        # Folders are pruned before they are read: site-packages alone can have 100,000 files.
        folders[:] = [name for name in folders if not _matches(name, _LEFT_OUT_PARTS)]
        for name in files:
            path = Path(folder, name)
            left_out = _matches(name, _LEFT_OUT_PARTS) or _matches(path.relative_to(root).as_posix(), _LEFT_OUT_PATHS)
            if path.suffix == ".py" and not left_out:
                yield path


def _read_root(root: Path, pattern: str) -> list[Document]:
    if not root.exists():
        raise FileNotFoundError(f"no file or folder {str(root)!r}, seen from {Path.cwd()}; check the path")
    if root.is_file():
        return [_read_file(root, root.parent)]
    if not root.is_dir():
        raise OSError(f"{str(root)!r} is neither a file nor a folder; give regular files")
    files = [path for path in root.rglob(pattern) if path.is_file() and not _hidden(path.relative_to(root))]
    if not files:
        raise ValueError(f"no file below {str(root)!r} matches {pattern!r}; check the folder and the pattern")
    return [_read_file(path, root) for path in files]


def _read_file(path: Path, root: Path) -> Document:
    try:
        return Document(path.relative_to(root).as_posix(), path.read_bytes())
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"cannot read {str(path)!r}: {reason}; make it readable or leave it out") from error


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _name_bytes(name: str) -> bytes:
    return name.encode("utf-8", errors="surrogateescape")  # a file name need not be valid UTF-8


def _percentile(name: str) -> int:
    """0..99, from the name alone. Python's own hash() differs between processes."""
    return int.from_bytes(sha256(_name_bytes(name)).digest(), "big") % 100


def _check_seq(seq: int) -> None:
    if seq < 2:
        raise ValueError(f"seq must be >= 2, a token and its target, got {seq}")
