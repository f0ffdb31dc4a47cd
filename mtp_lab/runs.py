"""Runs by content: the same config is trained once, whoever asks, and found again by its hash.

    runs/<task>/<name>-<hash>/   config.json, metrics.jsonl, checkpoints/, weights.safetensors, done.json (last)

`get` returns a finished run, resumes a broken one or trains a new one; processes that ask for the same run wait for the
one that holds its lock.
"""

import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from tqdm import tqdm

from mtp_lab.config import Refused, TrainConfig
from mtp_lab.files import remove_fragments, whole_lines, write_atomic
from mtp_lab.serialization import from_mapping, to_mapping
from mtp_lab.tasks import Split


class Held(Refused):
    """Another process is training this run."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: Path
    config: TrainConfig

    def metrics(self) -> pd.DataFrame:
        """The log as one tidy table: split (train / validation), step, tokens, horizon, loss (nats), n, seed, run."""
        rows = [
            {"split": split, "step": row["step"], "tokens": row["tokens"], "horizon": i, "loss": loss}
            for row in self.log()
            for split in ("train", "validation")
            for i, loss in enumerate(row.get(split, ()), start=1)
        ]
        return self._tidy(rows)

    def measures(self) -> pd.DataFrame:
        """What the task measured on validation rows, as a tidy table: step, tokens, measure, value, n, seed, run."""
        rows = [
            {"step": row["step"], "tokens": row["tokens"], "measure": measure, "value": value}
            for row in self.log()
            for measure, value in row.get("measures", {}).items()
        ]
        return self._tidy(rows or {column: [] for column in ("step", "tokens", "measure", "value")})

    def log(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, as they were written."""
        return logged(self.path)

    def _tidy(self, rows: Any) -> pd.DataFrame:
        return pd.DataFrame(rows).assign(n=self.config.model.n_future, seed=self.config.seed, run=self.path.name)

    def final_losses(self, split: Split, rows: int) -> pd.DataFrame:
        """Nats of the trained model on held-out rows: run, n, depth (of the next-token path), seed, horizon, loss."""
        from mtp_lab.model.predictions import loss_per_horizon

        model = self.config.model
        losses = loss_per_horizon(self.model(), self.config.task.held_out(split, rows))
        table = pd.DataFrame({"horizon": range(1, model.n_future + 1), "loss": losses})
        return table.assign(run=self.path.name, n=model.n_future, depth=model.path_depth, seed=self.config.seed)

    def snapshots(self) -> list[int]:
        """Steps whose weights were kept, ascending: 0, every `snapshot_every`, and the last; empty for none."""
        from mtp_lab.checkpoint import saved_weights

        return list(saved_weights(self.path / "snapshots"))

    def model(self, step: int | None = None) -> "MTPTransformer":  # noqa: F821 - torch is imported on first use
        """The trained model, or the one of a snapshot, in evaluation mode.

        Raises:
            ValueError: for a step that is not a snapshot's.
            DamagedFile: if the weights are not what was written.
        """
        from mtp_lab.checkpoint import load_weights_of, saved_weights
        from mtp_lab.model.transformer import MTPTransformer
        from mtp_lab.train import load_weights

        if step is None:
            weights = load_weights(self.path)
        else:
            kept = saved_weights(self.path / "snapshots")
            if step not in kept:
                steps = ", ".join(map(str, kept)) or "none; train with snapshot_every"
                raise ValueError(f"step={step} is not one of the snapshots of {self.path.name}: {steps}")
            weights = load_weights_of(kept[step])
        model = MTPTransformer(self.config.model)
        model.load_state_dict(weights)
        return model.eval()


def get(config: TrainConfig, runs_dir: str | Path = "runs", wait: bool = True) -> Run:
    """The run of `config`: loaded if finished, else resumed or trained.

    Args:
        wait: wait for another process that is training it; otherwise raise Held.

    Raises:
        Held: see wait.
        ValueError: if `config.init_from` names no finished run, or one that does not fit.
        OSError: if the folder cannot be written.
    """
    path = Path(runs_dir) / config.folder
    if not (path / "done.json").exists():
        follower = int(os.environ.get("RANK", 0)) > 0  # torchrun: the lead process holds the lock for all
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / ".lock", timeout=-1 if wait else 0)
        try:
            if not follower:
                lock.acquire()
        except Timeout:
            raise Held(f"{path} is being trained by another process; wait for it, or ask with wait=True") from None
        try:
            if not (path / "done.json").exists():
                _train(config, path, Path(runs_dir), lead=not follower)
        finally:
            lock.release()
    return Run(path, config)


def get_all(
    configs: Sequence[TrainConfig], runs_dir: str | Path = "runs", workers: int = 1, threads: int | None = None
) -> list[Run]:
    """Runs in the order of the configs, those that are missing trained `workers` at a time.

    A training that goes on from another of these (`init_from`) comes after it.

    Args:
        workers: training processes; each uses `threads` threads (default: the cores shared out evenly).

    Raises:
        Refused: if a training process was killed; finished runs and checkpoints are kept.
        Exception: the first training's own error, after the others have ended; their runs are kept.
    """
    missing = [config for config in configs if not (Path(runs_dir) / config.folder / "done.json").exists()]
    while missing:
        folders = {config.folder for config in missing}
        ready = [config for config in missing if config.init_from not in folders]
        _train_all(ready, runs_dir, workers, threads)
        missing = [config for config in missing if config.init_from in folders]
    return [get(config, runs_dir) for config in configs]


def _train_all(configs: Sequence[TrainConfig], runs_dir: str | Path, workers: int, threads: int | None) -> None:
    """Trainings of which none waits for another."""
    workers = max(1, min(workers, len(configs)))
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    longest_first = sorted(configs, key=lambda c: -c.steps * c.batch_size * c.task.seq * c.model.n_layers)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_the_caller) as pool:
        jobs = [pool.submit(_worker, config, str(runs_dir), threads) for config in longest_first]
        # a bar in a terminal or JupyterLab; batches set TQDM_DISABLE
        for _ in tqdm(as_completed(jobs), total=len(jobs), desc="runs"):
            pass
    try:
        for job in jobs:
            job.result()
    except BrokenProcessPool as error:
        why = "a training process was killed (out of memory?); what is done is kept, and the same call goes on from it"
        raise Refused(why) from error


def open_run(path: str | Path) -> Run:
    """The finished run in a folder.

    Raises:
        ValueError: if there is none.
    """
    path = Path(path)
    if not (path / "done.json").exists():
        raise ValueError(f"{path} holds no finished run; `mtp-lab runs` lists those there are")
    return Run(path, from_mapping(TrainConfig, json.loads((path / "config.json").read_text())))


def list_runs(runs_dir: str | Path = "runs") -> pd.DataFrame:
    """One row a run: run, steps, done, next-token validation loss (nats) and size on disk (MB)."""
    rows = []
    for folder in _folders(runs_dir):
        log = logged(folder)
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


def logged(folder: Path) -> list[dict[str, Any]]:
    """The rows of the log of a run, finished or not; none before its first step."""
    return [json.loads(line) for line in whole_lines(folder / "metrics.jsonl")]


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


def _train(config: TrainConfig, path: Path, runs_dir: Path, lead: bool) -> None:
    from mtp_lab.train import train

    source = open_run(runs_dir / config.init_from).path if config.init_from else None
    if lead:
        remove_fragments(path)
        write_atomic(path / "config.json", json.dumps(to_mapping(config), indent=1, sort_keys=True))
    train(config, path, source)


def _end_with_the_caller() -> None:
    """Ends this worker when the process that asked for the runs does: it would wait for the next one for ever."""
    caller = multiprocessing.parent_process()
    threading.Thread(target=lambda: (caller.join(), os._exit(1)), daemon=True).start()


def _worker(config: TrainConfig, runs_dir: str, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    get(config, runs_dir)
