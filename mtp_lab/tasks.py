"""What a model is trained on: one frozen dataclass a task, part of a run's config.

A task hands out the training batch of any step (a pure function of seed and step, so a resumed run sees what an
uninterrupted one would have), the fixed batches of its validation and test splits, and what to measure on them beside
the loss. How a model's predictions are got is mtp_lab.model.predictions's business.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Literal, get_args

import numpy as np

from data_gen import Batch
from data_gen.batch import stack
from data_gen.bytes import SEPARATOR, SEPARATOR_TEXT, VOCABULARY, ByteStream, Corpus, local_files, standard_library
from data_gen.choice_process import ChoiceProcess
from data_gen.polynomials.stream import Polynomials
from data_gen.prose import docstrings, told_stories
from data_gen.star_graph import StarGraphs
from data_gen.stories.generator import Stories, of_characters
from mtp_lab.serialization import LATER

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Source = Literal["library", "docstrings", "stories"]
LONGEST_ROW = 2**16
REST = "rest"  # where weights go by marks: tokens with none of those that are named
CAUSE = "cause"  # a mark of numbers: how far before a token the latest one that decides it stands; 0 or less: none
PRINTED = {byte: chr(byte) for byte in (*b"\t\n", *range(32, 127))}  # bytes that a terminal can show as they are


@dataclass(frozen=True)
class BytesTask:
    """Next bytes of real files: windows of `seq` bytes, split into train / validation / test by file.

    Raises:
        ValueError: if the files are not those of `corpus_hash`, or there are none.
    """

    paths: tuple[str, ...] = ()
    """Files or folders to learn from; empty: `source`."""
    source: Source = "library"
    """Without paths: library (the source of Python's standard library), docstrings (its prose), or stories."""
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

    def measures(self, batch: Batch, predicted: np.ndarray, nats: np.ndarray) -> dict[str, float]:
        """`accuracy` of the next byte.

        Args:
            predicted: (rows, seq) the token thought most likely at each position; -1 where none was asked for.
            nats: (rows, seq) what the token there cost; nan where none was asked for.
        """
        return {"accuracy": _mean((predicted == batch.tokens)[predicted >= 0])}

    def words(self, tokens: Iterable[int]) -> list[str]:
        """Each byte as a character; control characters and what is no ASCII are written as in Python."""
        return [SEPARATOR_TEXT if t == SEPARATOR else PRINTED.get(t) or ascii(chr(t))[1:-1] for t in tokens]

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """Text for each token, which joined is the whole text."""
        return self.words(tokens)


@dataclass(frozen=True)
class _Sampled:
    """A task on a generator of data_gen: training rows are drawn anew at every step, held-out rows once for all."""

    stream: Stories | Polynomials | StarGraphs | ChoiceProcess
    seq: int

    def __post_init__(self) -> None:
        if self.seq > LONGEST_ROW:
            raise ValueError(f"seq={self.seq} must be at most {LONGEST_ROW} tokens a row")
        self.batch(1, 0, 0)  # a row too short for a document raises here, not in the middle of a training

    @property
    def vocab_size(self) -> int:
        return self.stream.vocab_size

    def batch(self, rows: int, step: int, seed: int) -> Batch:
        """The training batch of a step."""
        return self._training_rows(rows, np.random.default_rng([seed, step]))

    def _training_rows(self, rows: int, rng: np.random.Generator) -> Batch:
        return self.stream.sample(rows, self.seq, rng)

    def held_out(self, split: Split, rows: int) -> Batch:
        """`rows` rows of a split, the same at every call; of "train": of the distribution that training draws from."""
        return self.stream.sample(rows, self.seq, _held_out_rng(split))

    def words(self, tokens: Iterable[int]) -> list[str]:
        """What each token stands for."""
        return [self.stream.token_names[token] for token in tokens]

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """Text for each token, with the space before it, which joined is the whole text."""
        return [" " * (i > 0) + word for i, word in enumerate(self.words(tokens))]


@dataclass(frozen=True)
class StoriesTask(_Sampled):
    """Children's stories with renamed characters; held-out splits tell stories of pairings that training never shows.

    Measures of the next-token head (Gloeckle et al. 2024, section 4.1):
        induction      accuracy on the second piece of a name after an earlier mention
        induction_any  how often it says, there, a second piece of the story so far: the right one or another
        first_piece    accuracy on the first piece of a name after an earlier mention
        excess         nats a token above what a reader pays who knows the grammar and the pool of names
    """

    stream: Stories = field(default_factory=Stories)
    seq: int = 200
    """Tokens a row: no story is longer."""

    name: ClassVar[str] = "stories"

    def held_out(self, split: Split, rows: int) -> Batch:
        """`rows` rows of stories with the names of a split, the same at every call."""
        return self.stream.of(split).sample(rows, self.seq, _held_out_rng(split))

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """As told: names joined, sentences capitalised."""
        return self.stream.pieces(tokens)

    def measures(self, batch: Batch, predicted: np.ndarray, nats: np.ndarray) -> dict[str, float]:
        right, marks = predicted == batch.tokens, batch.marks
        asked = of_characters(batch, "induction")
        again = of_characters(batch, "first_piece") & (marks["mention"] > 1)
        row, at = np.nonzero(asked)
        before = np.arange(batch.seq) < at[:, None]  # (asked, seq)
        here = (batch.documents[row] == batch.documents[row, at][:, None]) & of_characters(batch, "second_piece")[row]
        known = (batch.tokens[row] == predicted[row, at][:, None]) & here & before
        return {
            "induction": _mean(right[asked]),
            "induction_any": _mean(known.any(axis=1)),
            "first_piece": _mean(right[again]),
            "excess": _excess(batch, nats),
        }


@dataclass(frozen=True)
class PolynomialsTask(_Sampled):
    """Expressions over F_p[X]/(X^d) and their values; held-out splits are the fixed sets of each number of operations.

    Measures: `exact_1`, `exact_2`, ...: share of documents of m operations whose whole answer is predicted right, each
    token given the ones before it, which is when greedy decoding gives it (section 4.2).
    """

    stream: Polynomials = field(default_factory=Polynomials)
    seq: int = 128
    """Tokens a row; whole documents, packed."""
    tight: bool = field(default=False, metadata=LATER)
    """Training rows are packed tightly, for less padding (`data_gen.packing`); held-out rows never are."""

    name: ClassVar[str] = "polynomials"

    def _training_rows(self, rows: int, rng: np.random.Generator) -> Batch:
        return self.stream.sample(rows, self.seq, rng, self.tight)

    def held_out(self, split: Split, rows: int) -> Batch:
        """`rows` rows, shared out evenly over the numbers of operations m; the same at every call."""
        if split == "train":
            return super().held_out(split, rows)
        numbers = range(self.stream.min_operations, self.stream.max_operations + 1)
        packed = [self.stream.held_out(split, m).pack(self.seq) for m in numbers]
        return stack([part[: -(-(rows - i) // len(numbers))] for i, part in enumerate(packed) if rows > i])

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """A polynomial stands at its first token, and nothing at its others."""
        return self.stream.pieces(list(tokens))

    def measures(self, batch: Batch, predicted: np.ndarray, nats: np.ndarray) -> dict[str, float]:
        exact, first = _all_right(batch, predicted)
        m = batch.marks["m"].ravel()[first]
        return {f"exact_{number:.0f}": _mean(exact[m == number]) for number in np.unique(m)}


@dataclass(frozen=True)
class StarGraphTask(_Sampled):
    """Path-star graphs. Measures: `choice`, accuracy on the first step, and `path`, on whole answers: each token given
    the ones before it; in the teacherless variant all said in one forward."""

    stream: StarGraphs = field(default_factory=StarGraphs)
    seq: int = 136
    """Tokens a row; whole graphs, packed."""

    name: ClassVar[str] = "star_graph"

    def measures(self, batch: Batch, predicted: np.ndarray, nats: np.ndarray) -> dict[str, float]:
        right = predicted == batch.wanted
        return {"choice": _mean(right[batch.marks["choice"]]), "path": _mean(_all_right(batch, predicted)[0])}


@dataclass(frozen=True)
class ChoiceProcessTask(_Sampled):
    """Choices and what they force. Measures: `forced`, accuracy on forced tokens; `excess`, nats above the optimum."""

    stream: ChoiceProcess = field(default_factory=ChoiceProcess)
    seq: int = 128
    """Tokens a row, one document."""

    name: ClassVar[str] = "choice_process"

    def measures(self, batch: Batch, predicted: np.ndarray, nats: np.ndarray) -> dict[str, float]:
        right = predicted == batch.tokens
        return {"forced": _mean(right[batch.marks["forced"]]), "excess": _excess(batch, nats)}


Task = BytesTask | StoriesTask | PolynomialsTask | StarGraphTask | ChoiceProcessTask
TASKS: dict[str, type] = {task.name: task for task in get_args(Task)}
TaskName = Literal[tuple(TASKS)]


def _held_out_rng(split: Split) -> np.random.Generator:
    """One generator a split. No step of training has its seed: that is three words at most, zeros behind them."""
    return np.random.default_rng([0x48454C44, SPLITS.index(split), 0, 1])


def _mean(values: np.ndarray) -> float:
    """nan for none, without a warning."""
    return float(values.mean()) if values.size else float("nan")


def _excess(batch: Batch, nats: np.ndarray) -> float:
    """Mean nats above the surprise of a reader who knows the stream, over all tokens that were predicted."""
    told = ~np.isnan(nats)
    return _mean(nats[told] + np.log(batch.marks["probability"][told]))


def _all_right(batch: Batch, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(answers,) whether each document's whole answer is predicted right, and where in the flat batch it begins."""
    answer = np.flatnonzero(batch.marks["answer"])
    wrong = (predicted != batch.wanted).ravel()[answer]
    # documents are numbered in the order of the rows, and an answer lies within one
    begins = np.flatnonzero(np.diff(batch.documents.ravel()[answer], prepend=-1))
    return np.add.reduceat(wrong.astype(int), begins) == 0 if len(begins) else wrong, answer[begins]


@lru_cache(maxsize=4)
def _files(paths: tuple[str, ...], pattern: str) -> Corpus:
    return local_files(list(paths), pattern)


def _corpus(task: BytesTask) -> Corpus:
    if task.paths:
        return _files(task.paths, task.pattern)
    return {"library": standard_library, "docstrings": docstrings, "stories": told_stories}[task.source]()


@lru_cache(maxsize=8)
def _stream(task: BytesTask, split: Split) -> ByteStream:
    return ByteStream(task.corpus().split(split))
