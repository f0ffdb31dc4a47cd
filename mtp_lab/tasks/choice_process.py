"""Choices and what they force (the paper's section 5.1)."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from data_gen import Batch
from data_gen.choice_process import ChoiceProcess
from mtp_lab.tasks.base import _excess, _mean, _Sampled


@dataclass(frozen=True)
class ChoiceProcessTask(_Sampled):
    """Choices and what they force. Measures: `forced`, accuracy on forced tokens; `excess`, nats above the optimum."""

    stream: ChoiceProcess = field(default_factory=ChoiceProcess)
    seq: int = 128
    """Tokens a row, one document."""

    name: ClassVar[str] = "choice_process"

    def measures(self, batch: Batch, predicted: np.ndarray, nll: np.ndarray) -> dict[str, float]:
        right = predicted == batch.tokens
        return {"forced": _mean(right[batch.labels["forced"]]), "excess": _excess(batch, nll)}
