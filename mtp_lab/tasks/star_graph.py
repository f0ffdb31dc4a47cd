"""Path-star graphs (Bachmann & Nagarajan 2024)."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from data_gen import Batch
from data_gen.star_graph import StarGraphs
from mtp_lab.tasks.base import _all_right, _mean, _Sampled


@dataclass(frozen=True)
class StarGraphTask(_Sampled):
    """Path-star graphs. Measures: `choice`, accuracy on the first step, and `path`, on whole answers: each token given
    the ones before it; in the teacherless variant all said in one forward."""

    stream: StarGraphs = field(default_factory=StarGraphs)
    seq: int = 136
    """Tokens a row; whole graphs, packed."""

    name: ClassVar[str] = "star_graph"

    def measures(self, batch: Batch, predicted: np.ndarray, nll: np.ndarray) -> dict[str, float]:
        right = predicted == batch.target_tokens
        return {"choice": _mean(right[batch.labels["choice"]]), "path": _mean(_all_right(batch, predicted)[0])}
