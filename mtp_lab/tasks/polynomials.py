"""Polynomial arithmetic (the paper's section 4.2)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from data_gen import Batch
from data_gen.batch import stack
from data_gen.polynomials.stream import Polynomials
from mtp_lab.serialization import LATER
from mtp_lab.tasks.base import GeneratorTask, Split, answers_correct, mean


@dataclass(frozen=True)
class PolynomialsTask(GeneratorTask):
    """Expressions over F_p[X]/(X^d) and their values; held-out splits are fixed sets for each number of operations.

    Measures:
        exact_1, exact_2, ...  share of documents of m operations whose whole answer is predicted correctly. Each token
                               is predicted from the correct ones before it; if all are correct, greedy decoding gives
                               this answer (section 4.2)

    Example:
        >>> task = PolynomialsTask()
        >>> batch = task.held_out("test", rows=5)
        >>> batch.tokens.shape, int(batch.labels["m"].max())
        ((5, 128), 5)
    """

    stream: Polynomials = field(default_factory=Polynomials)
    seq: int = 128
    """Tokens a row; whole documents, packed."""
    tight: bool = field(default=False, metadata=LATER)
    """Pack training rows tightly, for less padding (`data_gen.packing`). Held-out rows are never packed tightly."""

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
        """Text of each token: a polynomial is printed at its first token, and its other tokens are empty."""
        return self.stream.pieces(list(tokens))

    def measures(self, batch: Batch, predicted: np.ndarray, nll: np.ndarray) -> dict[str, float]:
        """The measures above; see `GeneratorTask` for the arguments."""
        exact, starts = answers_correct(batch, predicted)
        m = batch.labels["m"].ravel()[starts]  # (answers,) operations of each document
        return {f"exact_{number:.0f}": mean(exact[m == number]) for number in np.unique(m)}
