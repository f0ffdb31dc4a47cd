"""Choices and the tokens that they determine (the paper's section 5.1)."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from data_gen import Batch
from data_gen.choice_process import ChoiceProcess
from mtp_lab.tasks.base import GeneratorTask, excess_loss, mean


@dataclass(frozen=True)
class ChoiceProcessTask(GeneratorTask):
    """Choices and the forced tokens that they determine.

    Measures:
        forced  accuracy on forced tokens
        excess  mean loss above the optimum, in nats a token

    Example:
        >>> task = ChoiceProcessTask(seq=13)
        >>> task.words(task.batch(rows=1, step=0, seed=0).tokens[0])
        [...]
    """

    stream: ChoiceProcess = field(default_factory=ChoiceProcess)
    seq: int = 128
    """Tokens a row, one document."""

    name: ClassVar[str] = "choice_process"

    def measures(self, batch: Batch, predicted: np.ndarray, nll: np.ndarray) -> dict[str, float]:
        """The measures above; see `GeneratorTask` for the arguments."""
        correct = predicted == batch.tokens
        return {"forced": mean(correct[batch.labels["forced"]]), "excess": excess_loss(batch, nll)}
