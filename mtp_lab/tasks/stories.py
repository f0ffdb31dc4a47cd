"""Children's stories with renamed characters (the paper's section 4.1)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from data_gen import Batch
from data_gen.stories.generator import Stories, of_characters
from mtp_lab.tasks.base import GeneratorTask, Split, excess_loss, held_out_rng, mean


@dataclass(frozen=True)
class StoriesTask(GeneratorTask):
    """Children's stories with renamed characters; held-out splits use names (pairs of pieces) that training never has.

    Measures of the next-token head (Gloeckle et al. 2024, section 4.1):
        induction      accuracy on the second piece of a name after an earlier mention
        induction_any  share of these positions whose prediction is any second piece of the story so far
        first_piece    accuracy on the first piece of a name after an earlier mention
        excess         mean loss above that of a reader who knows the grammar and the pool of names, in nats a token

    Example:
        >>> batch = StoriesTask().held_out("validation", rows=4)
        >>> bool(batch.labels["induction"].any())  # second pieces that an earlier mention has shown
        True
    """

    stream: Stories = field(default_factory=Stories)
    seq: int = 200
    """Tokens a row: no story is longer."""

    name: ClassVar[str] = "stories"

    def held_out(self, split: Split, rows: int) -> Batch:
        """`rows` rows of stories with the names of a split, the same at every call."""
        return self.stream.of(split).sample(rows, self.seq, held_out_rng(split))

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """Text of each token as in the printed story: names joined, sentences capitalised."""
        return self.stream.pieces(tokens)

    def measures(self, batch: Batch, predicted: np.ndarray, nll: np.ndarray) -> dict[str, float]:
        """The measures above; see `GeneratorTask` for the arguments."""
        correct, labels = predicted == batch.tokens, batch.labels
        second_pieces = of_characters(batch, "induction")  # (rows, seq) of names that were mentioned before
        first_pieces = of_characters(batch, "first_piece") & (labels["mention"] > 1)
        return {
            "induction": mean(correct[second_pieces]),
            "induction_any": mean(_predicts_an_earlier_second_piece(batch, predicted, second_pieces)),
            "first_piece": mean(correct[first_pieces]),
            "excess": excess_loss(batch, nll),
        }


def _predicts_an_earlier_second_piece(batch: Batch, predicted: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(positions,) bool, at each position of the mask `where`: its prediction is a second piece of its story so far."""
    row, position = np.nonzero(where)
    earlier = np.arange(batch.seq) < position[:, None]  # (positions, seq)
    same_story = batch.documents[row] == batch.documents[row, position][:, None]
    predicted_token = batch.tokens[row] == predicted[row, position][:, None]
    return (predicted_token & same_story & of_characters(batch, "second_piece")[row] & earlier).any(axis=1)
