"""Runs by content: the same config is trained once, and found again by its hash.

    runs/<task>/<name>-<hash>/   config.json, metrics.jsonl, checkpoints/, weights.safetensors, done.json (last)

`get_run` returns a finished run, resumes an interrupted one or trains a new one. Processes that ask for the same run
wait for the one that holds its lock. Runs by a short name are in `mtp_lab.training.named_runs`.
"""

import json
import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from filelock import FileLock, Timeout
from tqdm import tqdm

from mtp_lab.config import RunError, TrainConfig
from mtp_lab.files import complete_lines, remove_temporary_files, write_atomic
from mtp_lab.serialization import from_mapping, to_mapping
from mtp_lab.tasks import Split

if TYPE_CHECKING:  # torch is imported on first use
    from torch import Tensor

    from mtp_lab.model.transformer import MTPTransformer


class RunLocked(RunError):
    """Another process is training this run."""


@dataclass(frozen=True)
class Run:
    """A finished run: its config, its log, its weights.

    Example:
        >>> run = load("stars/n2-seed0")
        >>> run.config.model.n_future, run.config.steps
        (2, 300)
        >>> run.model().config == run.config.model
        True
    """

    path: Path
    """The run's folder."""
    config: TrainConfig
    """What was trained, and how."""

    @property
    def name(self) -> str:
        """Name and hash, the last part of the run's folder."""
        return self.path.name

    def log(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, in order."""
        return read_log(self.path)

    def facts(self) -> dict[str, Any]:
        """The content of done.json: steps, seconds, precision, threads, torch, machine."""
        return json.loads((self.path / "done.json").read_text())

    def snapshots(self) -> list[int]:
        """Steps with kept weights, ascending: 0, every `snapshot_every`, and the last; empty if there are none."""
        from mtp_lab.training.checkpoints import files_by_step

        return list(files_by_step(self.path / "snapshots"))

    def weights(self, step: int | None = None) -> "dict[str, Tensor]":
        """Weights by name at the end of training, or at a snapshot.

        Raises:
            ValueError: if there is no snapshot of that step.
            DamagedFile: if the file is not what was written.
        """
        from mtp_lab.training.checkpoints import files_by_step, load_tensors
        from mtp_lab.training.loop import load_weights

        if step is None:
            return load_weights(self.path)
        self.check_snapshot(step)
        return load_tensors(files_by_step(self.path / "snapshots")[step])

    def check_snapshot(self, step: int) -> None:
        """Raise ValueError unless there is a snapshot of that step."""
        if step not in (kept := self.snapshots()):
            steps = ", ".join(map(str, kept)) or "none; train with snapshot_every"
            raise ValueError(f"step={step} is not one of the snapshots of {self.name}: {steps}")

    def model(self, step: int | None = None) -> "MTPTransformer":
        """The trained model, or the one of a snapshot, in evaluation mode. Raises as `weights`."""
        from mtp_lab.model.transformer import MTPTransformer

        model = MTPTransformer(self.config.model)
        model.load_state_dict(self.weights(step))
        return model.eval()

    def metrics(self) -> pd.DataFrame:
        """Losses of the log: split (train or validation), step, tokens, horizon, loss (nats), n, seed, run."""
        rows = [
            {"split": split, "step": row["step"], "tokens": row["tokens"], "horizon": i, "loss": loss}
            for row in self.log()
            for split in ("train", "validation")
            for i, loss in enumerate(row.get(split, ()), start=1)
        ]
        return self._tidy(rows)

    def measures(self) -> pd.DataFrame:
        """The task's measures on validation rows as a tidy table: step, tokens, measure, value, n, seed, run."""
        rows = [
            {"step": row["step"], "tokens": row["tokens"], "measure": measure, "value": value}
            for row in self.log()
            for measure, value in row.get("measures", {}).items()
        ]
        return self._tidy(rows or {column: [] for column in ("step", "tokens", "measure", "value")})

    def final_losses(self, split: Split, rows: int) -> pd.DataFrame:
        """Losses of the trained model on held-out rows, in nats.

        Returns:
            horizon, loss, run, n, depth (layers on the next-token path), seed.
        """
        from mtp_lab.model.predictions import loss_per_horizon

        model = self.config.model
        losses = loss_per_horizon(self.model(), self.config.task.held_out(split, rows))
        table = pd.DataFrame({"horizon": range(1, model.n_future + 1), "loss": losses})
        return table.assign(run=self.name, n=model.n_future, depth=model.path_depth, seed=self.config.seed)

    def _tidy(self, rows: Any) -> pd.DataFrame:
        return pd.DataFrame(rows).assign(n=self.config.model.n_future, seed=self.config.seed, run=self.name)


def get_run(config: TrainConfig, runs_dir: str | Path = "runs", wait: bool = True) -> Run:
    """The run of `config`: loaded if finished, else resumed or trained.

    Args:
        wait: wait for another process that is training it; otherwise raise RunLocked.

    Raises:
        RunLocked: see wait.
        ValueError: if `config.init_from` names no finished run, or one that does not fit.
        OSError: if the folder cannot be written.

    Example:
        >>> task = StarGraphTask()
        >>> config = TrainConfig(task=task, model=ModelConfig(vocab_size=task.vocab_size), steps=2)
        >>> run = get_run(config, "runs")  # trained now, and found again the next time
        >>> run.log()[-1]["step"]
        2
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
            raise RunLocked(f"{path} is being trained by another process; wait for it, or ask with wait=True") from None
        try:
            if not (path / "done.json").exists():
                _train(config, path, Path(runs_dir), lead=not follower)
        finally:
            lock.release()
    return Run(path, config)


def get_runs(
    configs: Sequence[TrainConfig], runs_dir: str | Path = "runs", workers: int = 1, threads: int | None = None
) -> list[Run]:
    """Runs in the order of the configs, those that are missing trained `workers` at a time.

    A training that goes on from another of these (`init_from`) comes after it.

    Args:
        workers: training processes; each uses `threads` threads (default: the cores shared out evenly).

    Raises:
        RunError: if a training process was killed; finished runs and checkpoints are kept.
        Exception: the first training's own error, after the others have ended; their runs are kept.

    Example:
        >>> task = StarGraphTask()
        >>> base = TrainConfig(task=task, model=ModelConfig(vocab_size=task.vocab_size), steps=2)
        >>> [run.config.seed for run in get_runs([base], "runs")]
        [0]
    """
    missing = [config for config in configs if not (Path(runs_dir) / config.folder / "done.json").exists()]
    while missing:
        folders = {config.folder for config in missing}
        ready = [config for config in missing if config.init_from not in folders]
        _train_all(ready, runs_dir, workers, threads)
        missing = [config for config in missing if config.init_from in folders]
    return [get_run(config, runs_dir) for config in configs]


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
        raise RunError(why) from error


def open_run(path: str | Path) -> Run:
    """The finished run in a folder.

    Raises:
        ValueError: if there is none.
    """
    path = Path(path)
    if not (path / "done.json").exists():
        raise ValueError(f"{path} holds no finished run; `mtp-lab runs` lists those there are")
    return Run(path, from_mapping(TrainConfig, json.loads((path / "config.json").read_text())))


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of the log of a run, finished or not; none before its first step."""
    return [json.loads(line) for line in complete_lines(folder / "metrics.jsonl")]


def _train(config: TrainConfig, path: Path, runs_dir: Path, lead: bool) -> None:
    from mtp_lab.training.loop import train

    source = open_run(runs_dir / config.init_from).path if config.init_from else None
    if lead:
        remove_temporary_files(path)
        write_atomic(path / "config.json", json.dumps(to_mapping(config), indent=1, sort_keys=True))
    train(config, path, source)


def _end_with_the_caller() -> None:
    """Ends this worker when its parent process ends. Otherwise the worker would wait for work forever."""
    caller = multiprocessing.parent_process()
    threading.Thread(target=lambda: (caller.join(), os._exit(1)), daemon=True).start()


def _worker(config: TrainConfig, runs_dir: str, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    get_run(config, runs_dir)
