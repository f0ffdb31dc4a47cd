"""Batches in words: what a batch would run and how long that takes, and what became of each notebook.

Nothing here runs a notebook (`mtp_lab.batch.execution`) or decides what is stale (`mtp_lab.batch.plan`).
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
    """What became of one notebook; as text, the line that the batch prints."""

    notebook: str
    status: Literal["done", "already done", "failed", "not run"]
    seconds: float = 0.0
    """Wall clock, all attempts together."""
    error: str = ""
    """What went wrong, in one line."""
    cell: int | None = None
    """The n of the In [n] that failed."""
    path: Path | None = None
    """The executed notebook; of a failed one, as far as it got."""
    traceback: str = ""
    """The last lines of what the failed cell, or the process, left behind."""

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
    """The end of a traceback: the last frame and the error, in most cases; without colours."""
    lines = [line[:200] for line in re.sub(r"\x1b\[[\d;]*m", "", text).splitlines() if line.strip()]
    return "\n".join(lines[-8:])


def plan_lines(due: Sequence["Task"], preset: str, seeds: int, runs_dir: str | Path) -> list[str]:
    """What a batch would run and why, the trainings that are missing, and the minutes of earlier executions."""
    to_run = [one for one in due if one.why]
    missing = {one.name: missing_trainings(one.name, preset, seeds, runs_dir) for one in to_run}
    lines = [f"preset {preset}, {seeds or 'its own number of'} seeds"]
    for one in due:
        if one.why:
            minutes = "unknown" if one.seconds is None else f"{one.seconds / 60:.1f} min"
            lines.append(f"{one.name}: {one.why}; trainings missing: {missing[one.name]}; last time: {minutes}")
        else:
            lines.append(f"{one.name}: already done")
    if not to_run:
        return [*lines, "nothing to do"]
    trainings, known = sum(missing.values()), [one.seconds for one in to_run if one.seconds is not None]
    unknown = f", unknown for {len(to_run) - len(known)} of them" if len(known) < len(to_run) else ""
    lines.append(f"to run: {len(to_run)} of {len(due)} notebooks; trainings missing: {trainings}")
    lines.append(f"estimated: {f'{sum(known) / 60:.1f} minutes one after the other{unknown}' if known else 'unknown'}")
    if trainings and known:
        lines.append("an earlier execution may have found its trainings done; the missing ones then come on top")
    return lines


def missing_trainings(notebook: str, preset: str, seeds: int, runs_dir: str | Path) -> int:
    """How many runs a notebook would have to train, or go on training."""
    return sum(not (Path(runs_dir) / run / "done.json").exists() for run in trainings(notebook, preset, seeds))


def closing_lines(outcomes: Sequence[Outcome], runs_dir: str | Path) -> list[str]:
    """What a batch ends with: its failures, each with the end of the traceback, and what the runs take on disk."""
    from mtp_lab.training.housekeeping import megabytes

    failures = [outcome for outcome in outcomes if outcome.failed]
    lines = [f"{len(failures)} of {len(outcomes)} notebooks failed:"] if failures else []
    for outcome in failures:
        lines += [f"  {outcome}", *(f"    {line}" for line in outcome.traceback.splitlines())]
    return [*lines, f"runs: {megabytes(runs_dir):.0f} MB in {runs_dir}"]
