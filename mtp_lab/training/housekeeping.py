"""Housekeeping of a runs directory: lists runs and their sizes, and removes files that are no longer needed.

Left out: training a run and opening it (mtp_lab.training.runs).
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from mtp_lab.config import TrainConfig
from mtp_lab.serialization import from_mapping
from mtp_lab.training.runs import read_log


def list_runs(runs_dir: str | Path = "runs") -> pd.DataFrame:
    """One row for each run: run, n, step, done, loss (next token, validation, nats) and MB (size on disk)."""
    rows = []
    for folder in _folders(runs_dir):
        log = read_log(folder)
        evaluated = [row["validation"][0] for row in log if "validation" in row]
        rows.append(
            {
                "run": f"{folder.parent.name}/{folder.name}",
                "n": _n_future(folder),
                "step": log[-1]["step"] if log else 0,
                "done": (folder / "done.json").exists(),
                "loss": evaluated[-1] if evaluated else float("nan"),
                "MB": megabytes(folder),
            }
        )
    return pd.DataFrame(rows, columns=["run", "n", "step", "done", "loss", "MB"])


def megabytes(folder: str | Path) -> float:
    """Size of the files in a folder and below it, in 10^6 bytes."""
    return sum(file.st_size for file in _file_stats(folder)) / 1e6


def is_locked(folder: Path) -> bool:
    """Whether a process is training the run in a folder; False if the folder is read-only and one cannot know."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


@dataclass(frozen=True)
class Removable:
    """Files of one run that can be removed."""

    run: str
    what: str
    """checkpoints, snapshots or unfinished; or that this version cannot read the config."""
    folder: Path | None
    """The folder to remove; None if nothing is removed, since it holds trained weights."""
    MB: float
    days: float
    """Time since the newest of the files was written."""


def prune(runs_dir: str | Path, days: float, unfinished: bool, snapshots: bool, delete: bool) -> list[Removable]:
    """Files of runs that can be removed, and removes them if `delete`.

    Always: the checkpoints of finished runs; unfinished runs whose config this version cannot read, if nothing was
    written there for `days`. With `unfinished` also other unfinished runs, and with `snapshots` the snapshots of
    finished runs, both if nothing was written there for `days`. Never: the weights of a finished run, whether this
    version can read its config or not, and any file of a run that is being trained.

    Raises:
        ValueError: for days below 0.
    """
    if not days >= 0:
        raise ValueError(f"days={days} must not be negative; 0 takes runs and snapshots of any age")
    removable = []
    for folder in _folders(runs_dir):
        with suppress(Timeout), FileLock(folder / ".lock", timeout=0):  # so that no training starts in the meantime
            parts = list(_removable(folder, days, unfinished, snapshots))
            for part in parts:
                if delete and part.folder:
                    shutil.rmtree(part.folder)
            removable += parts
    return removable


def _removable(folder: Path, days: float, unfinished: bool, snapshots: bool) -> Iterator[Removable]:
    def part(what: str, path: Path) -> Removable:
        age = time.time() - max((file.st_mtime for file in _file_stats(path)), default=0.0)
        return Removable(f"{folder.parent.name}/{folder.name}", what, path, megabytes(path), age / 86400)

    unreadable = "" if _is_readable(folder) else "this version cannot read its config"
    if (folder / "done.json").exists():
        if (checkpoints := part("checkpoints", folder / "checkpoints")).MB:
            yield checkpoints
        if snapshots and (kept := part("snapshots", folder / "snapshots")).MB and kept.days >= days:
            yield kept
        if unreadable:
            yield replace(part(f"{unreadable}; done, so its weights are kept", folder), folder=None, MB=0.0)
    elif not (folder / "weights.safetensors").exists():  # a finished training writes it before done.json
        run = part(unreadable or "unfinished", folder)
        if (unfinished or unreadable) and run.days >= days:
            yield run


def _n_future(folder: Path) -> Any:
    """n_future of a run, or NA for a config of another version."""
    try:
        return json.loads((folder / "config.json").read_text())["model"]["n_future"]
    except (ValueError, TypeError, KeyError):
        return pd.NA


def _is_readable(folder: Path) -> bool:
    try:
        return bool(from_mapping(TrainConfig, json.loads((folder / "config.json").read_text())))
    except ValueError:
        return False


def _folders(runs_dir: str | Path) -> list[Path]:
    return sorted(path.parent for path in Path(runs_dir).glob("*/*/config.json"))


def _file_stats(folder: str | Path) -> Iterator[os.stat_result]:
    """Size and times of every file in a folder, except locks, whose times change when they are tested.

    A training may remove files in the meantime.
    """
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                if name != ".lock":
                    yield os.stat(os.path.join(root, name))
