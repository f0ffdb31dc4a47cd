"""What a model is trained on: one frozen dataclass a task, part of a run's config.

A task hands out the training batch of any step (a pure function of seed and step, so a resumed run sees what an
uninterrupted one would have) and the fixed batches of its validation and test splits.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np

from data_gen import Batch
from data_gen.text import VOCABULARY, ByteStream, Corpus, local_files, standard_library

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class BytesTask:
    """Next bytes of real files: windows of `seq` bytes, split into train / validation / test by file.

    Raises:
        ValueError: if the files are not those of `corpus_hash`, or there are none.
    """

    paths: tuple[str, ...] = ()
    """Files or folders to learn from; empty: the source of Python's standard library."""
    pattern: str = "*"
    """Which files of a folder count, as a glob pattern."""
    seq: int = 256
    """Bytes a row."""
    corpus_hash: str = ""
    """SHA-256 of the corpus; filled in by itself, and checked where it is given."""

    name: ClassVar[str] = "bytes"
    vocab_size: ClassVar[int] = VOCABULARY

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", tuple(self.paths))
        if self.seq < 2:
            raise ValueError(f"seq={self.seq} must be at least 2: a row needs a token and its successor")
        if not self.corpus_hash:
            object.__setattr__(self, "corpus_hash", _corpus(self.paths, self.pattern).hash)

    def corpus(self) -> Corpus:
        """The whole corpus, checked against `corpus_hash`."""
        corpus = _corpus(self.paths, self.pattern)
        if corpus.hash != self.corpus_hash:
            raise ValueError(
                f"the corpus here has hash {corpus.hash[:10]}, this config wants {self.corpus_hash[:10]}: "
                "other files, or another Python; leave corpus_hash out to train on what is here"
            )
        return corpus

    def batch(self, rows: int, step: int, seed: int) -> Batch:
        """The training batch of a step."""
        return _stream(self, "train").sample(rows, self.seq, np.random.default_rng([seed, step]))

    def held_out(self, split: Split, rows: int) -> Batch:
        """At most `rows` windows, evenly spread over a split; the same at every call."""
        return _stream(self, split).windows(self.seq, limit=rows)


@lru_cache(maxsize=4)
def _corpus(paths: tuple[str, ...], pattern: str) -> Corpus:
    return local_files(list(paths), pattern) if paths else standard_library()


@lru_cache(maxsize=8)
def _stream(task: BytesTask, split: Split) -> ByteStream:
    return ByteStream(task.corpus().split(split))
