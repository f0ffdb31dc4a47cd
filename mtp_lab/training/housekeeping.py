"""What the runs on disk are, how much room they take, and what of them can go.

Nothing here trains or opens a run (`mtp_lab.training.runs`)."""

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
    """One row a run: run, steps, done, next-token validation loss (nats) and size on disk (MB)."""
    rows = []
    for folder in _folders(runs_dir):
        log = read_log(folder)
        evaluated = [row["validation"][0] for row in log if "validation" in row]
        rows.append(
            {
                "run": f"{folder.parent.name}/{folder.name}",
                "n": _heads(folder),
                "step": log[-1]["step"] if log else 0,
                "done": (folder / "done.json").exists(),
                "loss": evaluated[-1] if evaluated else float("nan"),
                "MB": megabytes(folder),
            }
        )
    return pd.DataFrame(rows, columns=["run", "n", "step", "done", "loss", "MB"])


def megabytes(folder: str | Path) -> float:
    """Size of the files in a folder, 10^6 bytes."""
    return sum(file.st_size for file in _files(folder)) / 1e6


def held(folder: Path) -> bool:
    """Whether a process is training the run in a folder, as far as one can tell: not where one may only read."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


@dataclass(frozen=True)
class Waste:
    """Files of one run that can go."""

    run: str
    what: str
    """unfinished, checkpoints or snapshots; or that this version cannot read the config."""
    folder: Path | None
    """Goes as a whole; None: nothing goes, since there are trained weights."""
    MB: float
    days: float
    """Since the last of them was written."""


def prune(runs_dir: str | Path, days: float, unfinished: bool, snapshots: bool, delete: bool) -> list[Waste]:
    """What of the runs can go; deleted as well, if asked for.

    Checkpoints that finished runs have left, and, if nothing was written there for so many `days`: unfinished runs
    whose config this version cannot read; on request also other unfinished runs, and the snapshots of finished ones.
    Nothing of a run that is being trained, and never the weights of a finished one, readable or not.

    Raises:
        ValueError: for days below 0.
    """
    if not days >= 0:
        raise ValueError(f"days={days} must not be negative; 0 takes runs and snapshots of any age")
    found = []
    for folder in _folders(runs_dir):
        with suppress(Timeout), FileLock(folder / ".lock", timeout=0):  # held while it looks and deletes
            waste = list(_waste(folder, days, unfinished, snapshots))
            for part in waste:
                if delete and part.folder:
                    shutil.rmtree(part.folder)
            found += waste
    return found


def _waste(folder: Path, days: float, unfinished: bool, snapshots: bool) -> Iterator[Waste]:
    def part(what: str, path: Path) -> Waste:
        age = time.time() - max((file.st_mtime for file in _files(path)), default=0.0)
        return Waste(f"{folder.parent.name}/{folder.name}", what, path, megabytes(path), age / 86400)

    unreadable = "" if _readable(folder) else "this version cannot read its config"
    if (folder / "done.json").exists():
        parts = [part(what, folder / what) for what in ("checkpoints", "snapshots")]
        yield from (p for p in parts if p.MB and (p.what == "checkpoints" or snapshots and p.days >= days))
        if unreadable:
            yield replace(part(f"{unreadable}; done, so its weights are kept", folder), folder=None, MB=0.0)
    elif not (folder / "weights.safetensors").exists():  # written before done.json
        whole = part(unreadable or "unfinished", folder)
        if whole.days >= days and (unfinished or unreadable):
            yield whole


def _heads(folder: Path) -> Any:
    """n_future of a run, or none in a config of another version."""
    try:
        return json.loads((folder / "config.json").read_text())["model"]["n_future"]
    except (ValueError, TypeError, KeyError):
        return pd.NA


def _readable(folder: Path) -> bool:
    try:
        return bool(from_mapping(TrainConfig, json.loads((folder / "config.json").read_text())))
    except ValueError:
        return False


def _folders(runs_dir: str | Path) -> list[Path]:
    return sorted(path.parent for path in Path(runs_dir).glob("*/*/config.json"))


def _files(folder: str | Path) -> Iterator[os.stat_result]:
    """Size and times of every file in a folder but locks, which are touched by looking; a training may take some away
    in the meantime."""
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                if name != ".lock":
                    yield os.stat(os.path.join(root, name))
