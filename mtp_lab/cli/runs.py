"""The commands `mtp-lab runs list | show | train | prune`."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mtp_lab.batch.plan import read_stamp
from mtp_lab.config import check_positive
from mtp_lab.experiments.registry import TRAININGS, trainings


def list_runs(runs_dir: str = "runs") -> None:
    """List the runs there are: steps, whether they are done, next-token validation loss in nats, size.

    Example: mtp-lab runs list --runs-dir runs

    Args:
        runs_dir: Where runs are kept.
    """
    from mtp_lab.training.housekeeping import list_runs

    table = list_runs(runs_dir)
    print(table.to_string(index=False, float_format="%.3f") if len(table) else f"no runs in {Path(runs_dir).resolve()}")


def show_run(run: str, runs_dir: str = "runs") -> None:
    """Show a run, finished or not: where its config differs from the defaults, losses, seconds a step, size.

    Example: mtp-lab runs show bytes/n4-0123456789

    Args:
        run: Name of the run, as it is listed, or its folder.
        runs_dir: Where runs are kept.
    """
    folders = [folder for folder in (Path(run), Path(runs_dir) / run) if (folder / "config.json").exists()]
    if not folders:
        raise ValueError(f"there is no run {run!r}, nor in {runs_dir}; `mtp-lab runs list` lists those there are")
    print("\n".join(run_lines(folders[0])))


def train_run(run: str, preset: str = "quick", seeds: int = 0, runs_dir: str = "runs", threads: int = 1) -> None:
    """Train one run of the study, or go on with it: a job of a batch whose trainings are jobs of their own.

    Example: mtp-lab runs train bytes/smoke-n1-3layers-0123456789 --preset smoke

    Args:
        run: Its folder below runs_dir, which follows from its config.
        preset: Of the study.
        seeds: Of the study; 0 takes the preset's number.
        runs_dir: Where runs are kept.
        threads: Threads of one process.
    """
    check_positive(threads=threads)
    # Notebook after notebook until it is found: the configs of some take seconds, since they check their corpora.
    found = (configs[run] for notebook in TRAININGS if run in (configs := trainings(notebook, preset, seeds)))
    if not (config := next(found, None)):
        raise ValueError(f"run={run!r} is none that the study trains with preset={preset!r} and seeds={seeds}")
    import torch

    from mtp_lab.training.runs import get_run

    torch.set_num_threads(threads)
    print(f"{get_run(config, runs_dir).path}: done")


def prune_runs(
    runs_dir: str = "runs", days: float = 7.0, unfinished: bool = False, snapshots: bool = False, yes: bool = False
) -> None:
    """List what can go, and with --yes delete it: never the weights of a finished run, nor a run that is being trained.

    Example: mtp-lab runs prune --unfinished --days 30

    By default checkpoints that finished runs have left, and unfinished runs whose config this version cannot read.

    Args:
        runs_dir: Where runs are kept.
        days: Leave alone unfinished runs and snapshots to which something was written in so many days.
        unfinished: Also unfinished runs; they would start anew.
        snapshots: Also snapshots of finished runs; notebooks that look into a training then lack them.
        yes: Delete what is listed.
    """
    from mtp_lab.training.housekeeping import prune

    found = prune(runs_dir, days, unfinished, snapshots, delete=yes)
    for waste in found:
        print(f"{waste.run}: {waste.what}; {waste.MB:.1f} MB, last written {waste.days:.1f} days ago")
    freed = f"{sum(waste.MB for waste in found):.1f} MB"
    print(f"deleted: {freed} freed" if yes else f"{freed} could be freed; nothing is deleted without --yes")


def run_lines(folder: Path) -> list[str]:
    """A run, finished or not, in words."""
    from mtp_lab.training.checkpoints import saved_weights
    from mtp_lab.training.housekeeping import held, megabytes
    from mtp_lab.training.runs import read_log

    config, rows = json.loads((folder / "config.json").read_text()), read_log(folder)
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'config.json'} is not a config of this version of mtp-lab")
    state = "done" if (folder / "done.json").exists() else "being trained" if held(folder) else "unfinished"
    lines = [f"{folder.parent.name}/{folder.name}: {state}"]
    if zoo := read_stamp(folder / "done.json").get("zoo"):
        lines.append(f"weights: {zoo}")
    lines += ["config, where it differs from the defaults:"]
    lines += _tree(_differing(config, _defaults(config)))
    lines.append(f"steps: {rows[-1]['step'] if rows else 0} of {config.get('steps', 'an unknown number')}")
    if evaluated := [row for row in rows if "validation" in row]:
        losses = ", ".join(f"{loss:.3f}" for loss in evaluated[-1]["validation"])
        lines.append(f"validation loss at step {evaluated[-1]['step']}: {losses} nats at horizons 1, 2, ...")
    if (seconds := _seconds_a_step(rows)) is not None:
        lines.append(f"seconds a step, evaluations included: {seconds:.3g}")
    snapshots, parts = folder / "snapshots", ("snapshots", "checkpoints")
    sizes = ", ".join(f"{part} {megabytes(folder / part):.1f} MB" for part in parts)
    lines.append(f"on disk: {megabytes(folder):.1f} MB ({sizes})")
    return [*lines, f"snapshots at steps: {', '.join(map(str, saved_weights(snapshots))) or 'none'}"]


def _seconds_a_step(rows: Sequence[dict[str, Any]]) -> float | None:
    """Of the last stretch: a training that was resumed counts its seconds anew."""
    resumed = [i for i in range(1, len(rows)) if rows[i]["seconds"] < rows[i - 1]["seconds"]]
    stretch = rows[resumed[-1] if resumed else 0 :]
    if len(stretch) < 2:
        return None
    first, last = stretch[0], stretch[-1]
    return (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])


def _defaults(config: dict[str, Any]) -> dict[str, Any]:
    """The mapping of a config that says nothing, but for its kind of task; a kind that is not known has no defaults."""
    from mtp_lab.config import TrainConfig
    from mtp_lab.serialization import canonical_json
    from mtp_lab.tasks import TASKS

    defaults = json.loads(canonical_json(TrainConfig()))
    task, model = (config[part] if isinstance(config.get(part), dict) else {} for part in ("task", "model"))
    kind, horizons = TASKS.get(task.get("kind")), model.get("n_future", 1)
    return defaults | {"task": json.loads(canonical_json(kind())) if kind else {}, "horizon_weights": [1.0] * horizons}


def _differing(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The values that are not the defaults, mappings inside mappings likewise."""
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
