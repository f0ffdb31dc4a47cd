"""What every task offers: training rows of any step, fixed held-out rows, and measures of a model's predictions.

A task is a frozen dataclass and part of a run's config. `batch` is a pure function of step and seed, so a resumed run
trains on the same rows as an uninterrupted one. `GeneratorTask` implements all but the measures for the generators of
data_gen. Left out: how predictions are computed (mtp_lab.model.predictions).
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
REST = "rest"  # in label weights: tokens without any of the labels that are named
CAUSE = "cause"  # numeric token label: distance back to the latest token that determines this one; 0 or less: none


@dataclass(frozen=True)
class GeneratorTask:
    """A task on a generator of data_gen: each step draws new training rows, and held-out rows are always the same.

    A subclass adds its `name` and `measures(batch, predicted, nll) -> dict[str, float]`, whose arguments are:
        predicted  (rows, seq) the most likely token at each position, -1 where there is no target
        nll        (rows, seq) cross-entropy of the target in nats, NaN where there is no target
    A measure is NaN if there is no token to take it on.

    Raises:
        ValueError: for a row that is too long, or too short for a document of the stream.
    """

    stream: Stories | Polynomials | StarGraphs | ChoiceProcess
    seq: int

    def __post_init__(self) -> None:
        if self.seq > LONGEST_ROW:
            raise ValueError(f"seq={self.seq} must be at most {LONGEST_ROW} tokens a row")
        self.batch(1, 0, 0)  # a row that is too short for a document fails here, not in the middle of a training

    @property
    def vocab_size(self) -> int:
        return self.stream.vocab_size

    def batch(self, rows: int, step: int, seed: int) -> Batch:
        """The training batch of a step."""
        return self._training_rows(rows, np.random.default_rng([seed, step]))

    def _training_rows(self, rows: int, rng: np.random.Generator) -> Batch:
        return self.stream.sample(rows, self.seq, rng)

    def held_out(self, split: Split, rows: int) -> Batch:
        """`rows` rows of a split, the same at every call. Those of "train" follow the training distribution."""
        return self.stream.sample(rows, self.seq, held_out_rng(split))

    def words(self, tokens: Iterable[int]) -> list[str]:
        """The name of each token."""
        return [self.stream.token_names[token] for token in tokens]

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """Text of each token, with the space before it. Joined, the pieces are the whole text."""
        return [" " * (i > 0) + word for i, word in enumerate(self.words(tokens))]


def held_out_rng(split: Split) -> np.random.Generator:
    """The generator of a split's rows. Training never has its seed, which has more words than [seed, step]."""
    return np.random.default_rng([0x48454C44, SPLITS.index(split), 0, 1])


def mean(values: np.ndarray) -> float:
    """The mean; NaN for an empty array, without a warning."""
    return float(values.mean()) if values.size else float("nan")


def excess_loss(batch: Batch, nll: np.ndarray) -> float:
    """Mean loss above the surprisal under the stream's true distribution, in nats, over all tokens with a loss."""
    has_target = ~np.isnan(nll)
    return mean(nll[has_target] + np.log(batch.labels["probability"][has_target]))


def answers_correct(batch: Batch, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each document's whole answer is predicted correctly, and the flat position where the answer starts.

    Returns:
        (answers,) bool and (answers,) int. Documents without an answer are left out.
    """
    positions = np.flatnonzero(batch.labels["answer"])  # (answer tokens,) in the flat batch
    correct = (predicted == batch.target_tokens).ravel()[positions]
    # documents are numbered in the order of the rows, and an answer lies within one document
    starts = np.flatnonzero(np.diff(batch.documents.ravel()[positions], prepend=-1))
    return np.logical_and.reduceat(correct, starts), positions[starts]
