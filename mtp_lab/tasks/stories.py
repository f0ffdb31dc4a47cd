"""Children's stories with renamed characters (the paper's section 4.1)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from data_gen import Batch
from data_gen.stories.generator import Stories, of_characters
from mtp_lab.tasks.base import Split, _excess, _held_out_rng, _mean, _Sampled


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

    def measures(self, batch: Batch, predicted: np.ndarray, nll: np.ndarray) -> dict[str, float]:
        right, labels = predicted == batch.tokens, batch.labels
        asked = of_characters(batch, "induction")
        again = of_characters(batch, "first_piece") & (labels["mention"] > 1)
        row, at = np.nonzero(asked)
        before = np.arange(batch.seq) < at[:, None]  # (asked, seq)
        here = (batch.documents[row] == batch.documents[row, at][:, None]) & of_characters(batch, "second_piece")[row]
        known = (batch.tokens[row] == predicted[row, at][:, None]) & here & before
        return {
            "induction": _mean(right[asked]),
            "induction_any": _mean(known.any(axis=1)),
            "first_piece": _mean(right[again]),
            "excess": _excess(batch, nll),
        }
