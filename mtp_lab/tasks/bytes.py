"""Next bytes of real files, of docstrings or of generated stories."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, get_args

import numpy as np

from data_gen import Batch
from data_gen.bytes import SEPARATOR, SEPARATOR_TEXT, VOCABULARY, ByteStream, Corpus, local_files, standard_library
from data_gen.prose import docstrings, story_texts
from mtp_lab.tasks.base import Split, mean

Source = Literal["library", "docstrings", "stories"]
PRINTED = {byte: chr(byte) for byte in (*b"\t\n", *range(32, 127))}  # bytes that a terminal shows as they are


@dataclass(frozen=True)
class BytesTask:
    """Next bytes of real files: windows of `seq` bytes, split into train / validation / test by file.

    Measures:
        accuracy  of the next byte

    Raises:
        ValueError: if the files are not those of `corpus_hash`, or if there are no files.

    Example:
        >>> task = BytesTask(source="stories", seq=64)
        >>> task.batch(rows=2, step=0, seed=0).tokens.shape
        (2, 64)
    """

    paths: tuple[str, ...] = ()
    """Files or folders to train on; empty: `source`."""
    source: Source = "library"
    """Corpus without paths: library (the code of Python's standard library), docstrings (its prose) or stories."""
    pattern: str = "*"
    """Glob pattern of the files to read in a folder."""
    seq: int = 256
    """Bytes a row."""
    corpus_hash: str = ""
    """SHA-256 of the corpus; computed if empty, else checked."""

    name: ClassVar[str] = "bytes"
    vocab_size: ClassVar[int] = VOCABULARY

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", tuple(self.paths))
        if self.source not in get_args(Source):
            raise ValueError(f"source={self.source!r} is not known; use one of {', '.join(get_args(Source))}")
        if self.seq < 2:
            raise ValueError(f"seq={self.seq} must be at least 2: a row needs a token and its successor")
        if not self.corpus_hash:
            object.__setattr__(self, "corpus_hash", _corpus(self).hash)

    def corpus(self) -> Corpus:
        """The whole corpus, checked against `corpus_hash`."""
        corpus = _corpus(self)
        if corpus.hash != self.corpus_hash:
            raise ValueError(
                f"the corpus here has hash {corpus.hash[:10]}, but this config needs {self.corpus_hash[:10]}: "
                "the files or the Python version differ; leave corpus_hash out to train on the corpus here"
            )
        return corpus

    def batch(self, rows: int, step: int, seed: int) -> Batch:
        """The training batch of a step."""
        return _stream(self, "train").sample(rows, self.seq, np.random.default_rng([seed, step]))

    def held_out(self, split: Split, rows: int) -> Batch:
        """At most `rows` windows, evenly spread over a split, the same at every call."""
        return _stream(self, split).windows(self.seq, limit=rows)

    def measures(self, batch: Batch, predicted: np.ndarray, nll: np.ndarray) -> dict[str, float]:
        """The measure above.

        Args:
            predicted: (rows, seq) the most likely token at each position; -1 where there is no target.
            nll: (rows, seq) cross-entropy of the target in nats; NaN where there is no target. Not used.
        """
        return {"accuracy": mean((predicted == batch.tokens)[predicted >= 0])}

    def words(self, tokens: Iterable[int]) -> list[str]:
        """Each byte as a character. Control characters and bytes beyond ASCII are escaped as in Python."""
        return [SEPARATOR_TEXT if t == SEPARATOR else PRINTED.get(t) or ascii(chr(t))[1:-1] for t in tokens]

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """Text of each token. Joined, the pieces are the whole text."""
        return self.words(tokens)


@lru_cache(maxsize=4)
def _files(paths: tuple[str, ...], pattern: str) -> Corpus:
    return local_files(list(paths), pattern)


def _corpus(task: BytesTask) -> Corpus:
    if task.paths:
        return _files(task.paths, task.pattern)
    return {"library": standard_library, "docstrings": docstrings, "stories": story_texts}[task.source]()


@lru_cache(maxsize=8)
def _stream(task: BytesTask, split: Split) -> ByteStream:
    return ByteStream(task.corpus().split(split))
