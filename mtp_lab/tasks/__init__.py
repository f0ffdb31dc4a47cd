"""The tasks that models are trained on: one frozen dataclass for each, part of a run's config.

Start with `base`, which defines what every task offers: training rows of any step, fixed held-out rows, and measures.
Each task has its own file, and `rendering` prints documents in a terminal. Not here: the generators (`data_gen`).
"""

from typing import Literal, get_args

from mtp_lab.tasks.base import SPLITS, Split
from mtp_lab.tasks.bytes import BytesTask
from mtp_lab.tasks.choice_process import ChoiceProcessTask
from mtp_lab.tasks.polynomials import PolynomialsTask
from mtp_lab.tasks.star_graph import StarGraphTask
from mtp_lab.tasks.stories import StoriesTask

Task = BytesTask | StoriesTask | PolynomialsTask | StarGraphTask | ChoiceProcessTask
TASKS: dict[str, type] = {task.name: task for task in get_args(Task)}
TaskName = Literal[tuple(TASKS)]

__all__ = [
    "SPLITS",
    "TASKS",
    "BytesTask",
    "ChoiceProcessTask",
    "PolynomialsTask",
    "Split",
    "StarGraphTask",
    "StoriesTask",
    "Task",
    "TaskName",
]
