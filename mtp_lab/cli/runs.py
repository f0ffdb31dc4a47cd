"""The commands `mtp-lab runs list | show | train | prune`."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from mtp_lab.batch.plan import read_stamp
from mtp_lab.config import check_positive
from mtp_lab.experiments.registry import TRAININGS, trainings

RunName = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]


def list_runs(runs_dir: str = "runs") -> None:
    """List all runs: steps, whether they are done, next-token validation loss in nats, size.

    Example: mtp-lab runs list --runs-dir runs

    Args:
        runs_dir: Folder of all runs.
    """
    from mtp_lab.training.housekeeping import list_runs

    table = list_runs(runs_dir)
    print(table.to_string(index=False, float_format="%.3f") if len(table) else f"no runs in {Path(runs_dir).resolve()}")


def show_run(run: RunName, runs_dir: str = "runs") -> None:
    """Show a run, finished or not: how its config differs from the defaults, losses, seconds per step, size.

    Example: mtp-lab runs show bytes/n4-0123456789

    Args:
        run: Name of the run as `mtp-lab runs list` prints it, or its folder.
        runs_dir: Folder of all runs.
    """
    folders = [folder for folder in (Path(run), Path(runs_dir) / run) if (folder / "config.json").exists()]
    if not folders:
        raise ValueError(f"there is no run {run!r}, nor in {runs_dir}; `mtp-lab runs list` lists all runs")
    print("\n".join(run_lines(folders[0])))


def train_run(run: RunName, preset: str = "quick", seeds: int = 0, runs_dir: str = "runs", threads: int = 1) -> None:
    """Train one run of the study, or continue it; for batches in which every training is a job.

    Example: mtp-lab runs train bytes/smoke-n1-3layers-0123456789 --preset smoke

    Args:
        run: Its folder in runs_dir, which depends on its config.
        preset: Preset of the study.
        seeds: Number of seeds of the study; 0 takes the preset's number.
        runs_dir: Folder of all runs.
        threads: Threads of one process.
    """
    check_positive(threads=threads)
    # A generator: the configs of some notebooks take seconds, since they check their corpora.
    matches = (configs[run] for notebook in TRAININGS if run in (configs := trainings(notebook, preset, seeds)))
    if not (config := next(matches, None)):
        raise ValueError(f"run={run!r} is no run of the study with preset={preset!r} and seeds={seeds}")
    import torch

    from mtp_lab.training.runs import get_run

    torch.set_num_threads(threads)
    print(f"{get_run(config, runs_dir).path}: done")


def prune_runs(
    runs_dir: str = "runs", days: float = 7.0, unfinished: bool = False, snapshots: bool = False, yes: bool = False
) -> None:
    """List files that can be deleted, and delete them with --yes; finished weights and running trainings stay.

    Example: mtp-lab runs prune --unfinished --days 30

    By default: checkpoints of finished runs, and unfinished runs whose config this version cannot read.

    Args:
        runs_dir: Folder of all runs.
        days: Keep unfinished runs and snapshots that were written to within this number of days.
        unfinished: Also unfinished runs; their trainings would start again.
        snapshots: Also snapshots of finished runs, which some notebooks need.
        yes: Delete the listed files.
    """
    from mtp_lab.training.housekeeping import prune

    found = prune(runs_dir, days, unfinished, snapshots, delete=yes)
    for waste in found:
        print(f"{waste.run}: {waste.what}; {waste.MB:.1f} MB, last written {waste.days:.1f} days ago")
    freed = f"{sum(waste.MB for waste in found):.1f} MB"
    print(f"deleted: {freed} freed" if yes else f"{freed} could be freed; nothing is deleted without --yes")


def run_lines(folder: Path) -> list[str]:
    """A description of a run, finished or not."""
    from mtp_lab.training.checkpoints import files_by_step
    from mtp_lab.training.housekeeping import is_locked, megabytes
    from mtp_lab.training.runs import read_log

    config, rows = json.loads((folder / "config.json").read_text()), read_log(folder)
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'config.json'} is not a config of this version of mtp-lab")
    state = "done" if (folder / "done.json").exists() else "being trained" if is_locked(folder) else "unfinished"
    lines = [f"{folder.parent.name}/{folder.name}: {state}"]
    if zoo := read_stamp(folder / "done.json").get("zoo"):
        lines.append(f"weights: {zoo}")
    lines += ["config, where it differs from the defaults:"]
    lines += _tree(_differing(config, _defaults(config)))
    lines.append(f"steps: {rows[-1]['step'] if rows else 0} of {config.get('steps', 'an unknown number')}")
    if evaluated := [row for row in rows if "validation" in row]:
        losses = ", ".join(f"{loss:.3f}" for loss in evaluated[-1]["validation"])
        lines.append(f"validation loss at step {evaluated[-1]['step']}: {losses} nats at horizons 1, 2, ...")
    if (seconds := _seconds_per_step(rows)) is not None:
        lines.append(f"seconds per step, evaluations included: {seconds:.3g}")
    snapshots, parts = folder / "snapshots", ("snapshots", "checkpoints")
    sizes = ", ".join(f"{part} {megabytes(folder / part):.1f} MB" for part in parts)
    lines.append(f"on disk: {megabytes(folder):.1f} MB ({sizes})")
    return [*lines, f"snapshots at steps: {', '.join(map(str, files_by_step(snapshots))) or 'none'}"]


def _seconds_per_step(rows: Sequence[dict[str, Any]]) -> float | None:
    """Seconds per step since the training was last resumed: a resumed training counts its seconds from zero."""
    resumed = [i for i in range(1, len(rows)) if rows[i]["seconds"] < rows[i - 1]["seconds"]]
    stretch = rows[resumed[-1] if resumed else 0 :]
    if len(stretch) < 2:
        return None
    first, last = stretch[0], stretch[-1]
    return (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])


def _defaults(config: dict[str, Any]) -> dict[str, Any]:
    """The default mapping of a config with the same kind of task; an unknown kind has no defaults."""
    from mtp_lab.config import TrainConfig
    from mtp_lab.serialization import canonical_json
    from mtp_lab.tasks import TASKS

    defaults = json.loads(canonical_json(TrainConfig()))
    task, model = (config[part] if isinstance(config.get(part), dict) else {} for part in ("task", "model"))
    kind, horizons = TASKS.get(task.get("kind")), model.get("n_future", 1)
    return defaults | {"task": json.loads(canonical_json(kind())) if kind else {}, "horizon_weights": [1.0] * horizons}


def _differing(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The values that differ from the defaults, also inside nested mappings."""
    changed = {}
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            value, default = _differing(value, default), {}
        if value != default or name not in defaults:
            changed[name] = value
    return changed


def _tree(values: dict[str, Any], indent: str = "  ") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{name}"
            yield from _tree(value, indent + "  ")
        else:
            yield f"{indent}{name}: {json.dumps(value)}"
