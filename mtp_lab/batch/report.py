"""Batches in words: what a batch would run and how long that takes, and the outcome of each notebook.

Not here: running notebooks (`mtp_lab.batch.execution`), and deciding which are stale (`mtp_lab.batch.plan`).
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mtp_lab.experiments.registry import trainings

if TYPE_CHECKING:
    from mtp_lab.batch.plan import Task


@dataclass(frozen=True)
class Outcome:
    """The outcome of one notebook; as text, the line that the batch prints."""

    notebook: str
    status: Literal["done", "already done", "failed", "not run"]
    seconds: float = 0.0
    """Wall-clock time of all attempts together."""
    error: str = ""
    """The error in one line."""
    cell: int | None = None
    """The n of the In [n] that failed."""
    path: Path | None = None
    """The executed notebook; if it failed, as far as it got."""
    traceback: str = ""
    """The last lines of the traceback of the failed cell, or of the process."""

    @property
    def failed(self) -> bool:
        return self.status == "failed"

    def __str__(self) -> str:
        if not self.failed:
            return f"{self.notebook}: {self.status}" + (f" in {self.seconds:.0f} s" if self.status == "done" else "")
        where = f" in cell [{self.cell}]" if self.cell else ""
        see = f"; see {os.path.relpath(self.path)}" if self.path else ""
        return f"{self.notebook}: FAILED{where} after {self.seconds:.0f} s: {self.error}{see}"


def tail(text: str) -> str:
    """The last lines of a traceback without colours: usually the last frame and the error."""
    lines = [line[:200] for line in re.sub(r"\x1b\[[\d;]*m", "", text).splitlines() if line.strip()]
    return "\n".join(lines[-8:])


def plan_lines(tasks: Sequence["Task"], preset: str, seeds: int, runs_dir: str | Path) -> list[str]:
    """What a batch would run and why, the trainings that are missing, and the minutes of earlier executions."""
    stale = [task for task in tasks if task.why]
    missing = {task.name: missing_trainings(task.name, preset, seeds, runs_dir) for task in stale}
    lines = [f"preset {preset}, {seeds or 'its own number of'} seeds"]
    for task in tasks:
        minutes = "unknown" if task.seconds is None else f"{task.seconds / 60:.1f} min"
        details = f"{task.why}; trainings missing: {missing.get(task.name)}; last time: {minutes}"
        lines.append(f"{task.name}: {details if task.why else 'already done'}")
    if not stale:
        return [*lines, "nothing to do"]
    seconds = [task.seconds for task in stale if task.seconds is not None]
    n_trainings, n_unknown = sum(missing.values()), len(stale) - len(seconds)
    unknown = f", unknown for {n_unknown} of them" if n_unknown else ""
    estimate = f"{sum(seconds) / 60:.1f} minutes one after the other{unknown}" if seconds else "unknown"
    lines.append(f"to run: {len(stale)} of {len(tasks)} notebooks; trainings missing: {n_trainings}")
    lines.append(f"estimated: {estimate}")
    if n_trainings and seconds:
        lines.append("earlier executions may have reused finished trainings; missing trainings then take more time")
    return lines


def missing_trainings(notebook: str, preset: str, seeds: int, runs_dir: str | Path) -> int:
    """How many runs a notebook would have to train, or to continue."""
    return sum(not (Path(runs_dir) / run / "done.json").exists() for run in trainings(notebook, preset, seeds))


def closing_lines(outcomes: Sequence[Outcome], runs_dir: str | Path) -> list[str]:
    """The last lines of a batch: its failures, each with the end of its traceback, and the size of the runs on disk."""
    from mtp_lab.training.housekeeping import megabytes

    failures = [outcome for outcome in outcomes if outcome.failed]
    lines = [f"{len(failures)} of {len(outcomes)} notebooks failed:"] if failures else []
    for outcome in failures:
        lines += [f"  {outcome}", *(f"    {line}" for line in outcome.traceback.splitlines())]
    return [*lines, f"runs: {megabytes(runs_dir):.0f} MB in {runs_dir}"]
