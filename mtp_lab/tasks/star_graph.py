"""Path-star graphs (Bachmann & Nagarajan 2024)."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from data_gen import Batch
from data_gen.star_graph import StarGraphs
from mtp_lab.tasks.base import GeneratorTask, answers_correct, mean


@dataclass(frozen=True)
class StarGraphTask(GeneratorTask):
    """Path-star graphs: find the path from the start to the goal.

    Measures, each token given the correct ones before it; the teacherless variant predicts all in one forward pass:
        choice  accuracy on the first step, where the path branches
        path    share of graphs whose whole path is correct

    Example:
        >>> task = StarGraphTask()
        >>> batch = task.held_out("test", rows=2)
        >>> int(batch.labels["choice"].sum()) > 0  # the first step of each path
        True
    """

    stream: StarGraphs = field(default_factory=StarGraphs)
    seq: int = 136
    """Tokens a row; whole graphs, packed."""

    name: ClassVar[str] = "star_graph"

    def measures(self, batch: Batch, predicted: np.ndarray, nll: np.ndarray) -> dict[str, float]:
        """The measures above; see `GeneratorTask` for the arguments."""
        correct = predicted == batch.target_tokens
        paths_correct, _ = answers_correct(batch, predicted)
        return {"choice": mean(correct[batch.labels["choice"]]), "path": mean(paths_correct)}
