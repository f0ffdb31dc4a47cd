"""What a model is trained on: one frozen dataclass a task, part of a run's config.

A task hands out the training batch of any step (a pure function of seed and step, so a resumed run sees what an
uninterrupted one would have), the fixed batches of its validation and test splits, and what to measure on them beside
the loss. How a model's predictions are got is mtp_lab.model.predictions's business.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from data_gen import Batch
from data_gen.choice_process import ChoiceProcess
from data_gen.polynomials.stream import Polynomials
from data_gen.star_graph import StarGraphs
from data_gen.stories.generator import Stories

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
LONGEST_ROW = 2**16
REST = "rest"  # where weights go by marks: tokens with none of those that are named
CAUSE = "cause"  # a mark of numbers: how far before a token the latest one that decides it stands; 0 or less: none


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


def _held_out_rng(split: Split) -> np.random.Generator:
    """One generator a split. No step of training has its seed: that is three words at most, zeros behind them."""
    return np.random.default_rng([0x48454C44, SPLITS.index(split), 0, 1])


def _mean(values: np.ndarray) -> float:
    """nan for none, without a warning."""
    return float(values.mean()) if values.size else float("nan")


def _excess(batch: Batch, nll: np.ndarray) -> float:
    """Mean nats above the surprise of a reader who knows the stream, over all tokens that were predicted."""
    told = ~np.isnan(nll)
    return _mean(nll[told] + np.log(batch.labels["probability"][told]))


def _all_right(batch: Batch, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(answers,) whether each document's whole answer is predicted right, and where in the flat batch it begins."""
    answer = np.flatnonzero(batch.labels["answer"])
    wrong = (predicted != batch.target_tokens).ravel()[answer]
    # documents are numbered in the order of the rows, and an answer lies within one
    begins = np.flatnonzero(np.diff(batch.documents.ravel()[answer], prepend=-1))
    return np.add.reduceat(wrong.astype(int), begins) == 0 if len(begins) else wrong, answer[begins]
