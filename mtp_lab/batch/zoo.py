"""The zoo: what the notebooks of a preset train, in few bytes, so that a course opens every notebook without training.

    zoo/<task>/<name>-<hash>-<digits>.safetensors    one run; the digits are the first of the file's SHA-256

A file holds the weights in 8 bits, some snapshots alike, and config, log and facts of the run as compressed text.
`pack` makes the files from trained runs, `unpack` makes finished runs of them: `runs.get` finds these as it finds any.

Why 8 bits: intervals over seeds take two seeds at least, and a notebook that is opened asks for the preset's own
number. At `quick` these are 85 MB of weights in fp32 and 43 MB in bf16, snapshots not counted; 30 MB is the limit.
So a matrix is stored in steps of 1/127 of the largest value of each row (symmetric, round to nearest; Dettmers et al.
2022, LLM.int8(), section 2.1). What that does to the validation loss is measured while packing, and stays with the run.
"""

import json
import platform
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from mtp_lab.config import TrainConfig
from mtp_lab.experiments.registry import TRAININGS, trainings
from mtp_lab.files import write_atomic

if TYPE_CHECKING:  # torch is imported on first use
    from torch import Tensor

    from mtp_lab.training.runs import Run

LIMIT_MB = 30.0
TOLERANCE = 0.01
"""Nats of next-token validation loss that 8 bits may cost or save; a model further off is not the one trained."""
SNAPSHOTS = 4
"""Kept of a run that has more, evenly spread, the first and the last among them."""
TEXTS = ("config.json", "metrics.jsonl")
FILE = re.compile(r"(?P<run>.+-[0-9a-f]{10})-(?P<digits>[0-9a-f]{16})\.safetensors")


def unpack(
    preset: str = "quick", seeds: int = 0, runs_dir: str = "runs", zoo: str = "zoo", only: tuple[str, ...] = ()
) -> None:
    """Put the zoo's models where the notebooks look for them, so that they train nothing; says what is left to train.

    Example: mtp-lab zoo unpack --only 07_star_graph

    Runs that are there stay as they are. A run appears whole or not at all.

    Args:
        preset: Of the study; the committed zoo holds quick.
        seeds: Of the study; 0 takes the preset's number.
        runs_dir: Where runs are kept.
        zoo: Folder of the zoo.
        only: Notebooks whose models are unpacked, by name; by default all.
    """
    packed = files_of(zoo)
    if not packed:
        raise ValueError(f"there is no model in {zoo!r}; run in the root of the repository, or say --zoo FOLDER")
    made, here = made_with(next(iter(packed.values()))), platform.python_version()
    to_train = 0
    Path(runs_dir).mkdir(parents=True, exist_ok=True)
    with FileLock(Path(runs_dir) / ".zoo.lock"):
        for notebook, configs in _wanted(preset, seeds, only).items():
            told = Counter(_unpack_run(folder, packed.get(folder), Path(runs_dir)) for folder in configs)
            print(f"{notebook}: {', '.join(f'{number} {what}' for what, number in told.items())}")
            to_train += told[ABSENT] + told[UNFINISHED]
            if told[ABSENT] and made != here and any(config.task.name == "bytes" for config in configs.values()):
                print(f"  (the zoo's models of bytes read the library of Python {made}; this is Python {here})")
            if told[UNFINISHED]:
                print(f"  (to have the zoo's instead: mtp-lab runs prune --unfinished --days 0 --runs-dir {runs_dir})")
    print(f"left to train: {to_train} runs" if to_train else "nothing is left to train")


def pack(
    preset: str = "quick", seeds: int = 0, runs_dir: str = "runs", zoo: str = "zoo", only: tuple[str, ...] = ()
) -> None:
    """Make the zoo of what the notebooks have trained: weights of 8 bits, 30 MB at most; what it held before goes.

    Example: mtp-lab zoo pack --preset quick

    Args:
        preset: Of the study.
        seeds: Of the study; 0 takes the preset's number.
        runs_dir: Where the trained runs are.
        zoo: Folder of the zoo.
        only: Notebooks whose models it holds, by name; by default all.
    """
    wanted = _wanted(preset, seeds, only)
    missing = {n: [f for f in c if not (Path(runs_dir) / f / "done.json").exists()] for n, c in wanted.items()}
    if lacking := [folder for folders in missing.values() for folder in folders]:
        command = f"mtp-lab study --preset {preset} --seeds {seeds} --runs-dir {runs_dir} --only"
        raise ValueError(
            f"{len(lacking)} runs are not in {runs_dir!r}: {', '.join(lacking[:3])}{' ...' if lacking[3:] else ''}; "
            f"train them: {command} {' '.join(notebook for notebook, folders in missing.items() if folders)}"
        )
    files: dict[str, bytes] = {}
    for notebook, configs in wanted.items():
        packed = {folder: _packed(config, runs_dir) for folder, config in configs.items()}
        size, change = sum(len(content) for content, _ in packed.values()), max(abs(c) for _, c in packed.values())
        print(f"{notebook}: {len(packed)} runs, {size / 1e6:.2f} MB; validation loss off by {change:.4f} nats at most")
        files |= {folder: content for folder, (content, _) in packed.items()}
    total = sum(map(len, files.values())) / 1e6
    if total > LIMIT_MB:
        raise ValueError(f"{total:.1f} MB are more than a zoo may have ({LIMIT_MB:.0f}); fewer --seeds, or --only some")
    _replace(Path(zoo), files)
    print(f"{zoo}: {len(files)} runs, {total:.2f} MB")


def quantize(weights: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Rows in units of 1/127 of their largest value.

    Args:
        weights: (rows, columns).

    Returns:
        int8 numbers of units (rows, columns), and the units (rows, 1) in bf16, which has the range of fp32.
    """
    import torch

    unit = (weights.abs().amax(-1, keepdim=True) / 127).bfloat16()  # (rows, 1)
    whole = torch.where(unit > 0, weights / unit.float(), 0).round()  # a row of zeros has no unit
    return whole.clamp(-127, 127).to(torch.int8), unit


def dequantize(whole: "Tensor", unit: "Tensor") -> "Tensor":
    """(rows, columns) weights in fp32 of what `quantize` returned."""
    return whole.float() * unit.float()


def _wanted(preset: str, seeds: int, only: Sequence[str]) -> dict[str, dict[str, TrainConfig]]:
    """The runs of each notebook that trains any."""
    if unknown := [name for name in only if name not in TRAININGS]:
        raise ValueError(f"{', '.join(unknown)}: no notebook that trains models; use {', '.join(TRAININGS)}")
    return {notebook: trainings(notebook, preset, seeds) for notebook in only or TRAININGS}


def files_of(zoo: str | Path) -> dict[str, Path]:
    """Folder of a run below the runs directory -> its file."""
    paths = ((path, FILE.fullmatch(path.name)) for path in sorted(Path(zoo).glob("*/*")))
    return {f"{path.parent.name}/{match['run']}": path for path, match in paths if match}


def made_with(file: Path) -> str:
    """The release of Python that packed a file of a zoo: its models of bytes have read that one's library."""
    return _text(_read(file))["python"]


# --- A run to a file -----------------------------------------------------------------------------------------------


def _packed(config: TrainConfig, runs_dir: str) -> tuple[bytes, float]:
    """The file of a finished run, and by how many nats its weights' rounding changes the next-token validation loss.

    Raises:
        ValueError: if the run is the zoo's own, lacks its snapshots, or needs more than 8 bits.
        DamagedFile: if its weights are not what was written.
    """
    import torch
    from safetensors.torch import save

    from mtp_lab.model.predictions import loss_per_horizon
    from mtp_lab.training.runs import get_run

    run = get_run(config, runs_dir)
    done = json.loads((run.path / "done.json").read_text())
    if "zoo" in done:
        raise ValueError(f"{run.path} came out of a zoo; rounded weights are not packed again: train it")
    if config.snapshot_every and not run.snapshots():
        raise ValueError(f"{run.path} has lost its snapshots, which a notebook looks at; delete it and train it again")
    model = run.model()
    held_out = config.task.held_out("validation", config.evaluate_rows)
    before = loss_per_horizon(model, held_out)[0]
    tensors = _stored(run)
    model.load_state_dict(_states(tensors)[config.steps])
    change = float(loss_per_horizon(model, held_out)[0] - before)
    if not abs(change) <= TOLERANCE:
        raise ValueError(f"{run.path}: 8 bits change the validation loss by {change:+.4f} nats, more than {TOLERANCE}")
    done["zoo"] = f"8 bits a weight, out of the zoo; that changed the next-token validation loss by {change:+.5f} nats"
    text = {"python": platform.python_version(), "done": done} | {n: (run.path / n).read_text() for n in TEXTS}
    compressed = zlib.compress(json.dumps(text).encode(), 9)
    return save(tensors | {"text": torch.frombuffer(bytearray(compressed), dtype=torch.uint8)}), change


def _stored(run: "Run") -> dict[str, "Tensor"]:
    """Tensors of a zoo file, named step/weight: of the last step and of some snapshots before it."""
    before = run.snapshots()[:-1]  # the last one is the model
    some = {before[i * len(before) // (SNAPSHOTS - 1)] for i in range(SNAPSHOTS - 1)} if before else set()
    models = {step: run.model(step) for step in sorted(some)} | {run.config.steps: run.model()}
    tensors = {}
    for step, model in models.items():
        for name, value in model.state_dict().items():
            key = f"{step}/{name}"
            if value.dim() < 2:  # gains of norms and the like: few, and much hangs on each
                tensors[key] = value
            else:
                tensors[key], tensors[f"{key}/unit"] = quantize(value)
    return tensors


def _replace(zoo: Path, files: dict[str, bytes]) -> None:
    """Makes these runs the content of a zoo."""
    from mtp_lab.training.checkpoints import digest

    paths = {zoo / f"{folder}-{digest(content)}.safetensors": content for folder, content in files.items()}
    for path, content in paths.items():
        write_atomic(path, content)
    for path in zoo.glob("*/*"):
        if FILE.fullmatch(path.name) and path not in paths:
            path.unlink()


# --- A file to a run -----------------------------------------------------------------------------------------------

UNPACKED, THERE = "unpacked", "already there"
UNFINISHED, ABSENT = "begun by a training and left to it", "not in the zoo and left to train"


def _unpack_run(folder: str, file: Path | None, runs_dir: Path) -> str:
    """Makes a finished run of a zoo file, unless there is one; says what came of it.

    Raises:
        DamagedFile: naming the file, if it is not what was packed.
    """
    path = runs_dir / folder
    if path.exists():
        return THERE if (path / "done.json").exists() else UNFINISHED
    if file is None:
        return ABSENT
    building = runs_dir / f".zoo-{path.name}"  # where nobody looks for runs
    shutil.rmtree(building, ignore_errors=True)  # of an unpacking that was killed
    try:
        _write_run(building, _read(file))
        path.parent.mkdir(exist_ok=True)
        building.rename(path)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return UNPACKED


def _write_run(folder: Path, tensors: dict[str, "Tensor"]) -> None:
    from safetensors.torch import save

    from mtp_lab.training.checkpoints import digest, save_tensors

    text, states = _text(tensors), _states(tensors)
    content = save(states[text["done"]["steps"]])
    write_atomic(folder / "weights.safetensors", content)
    for step, weights in states.items() if len(states) > 1 else ():
        save_tensors(folder / "snapshots", step, weights)
    for name in TEXTS:
        write_atomic(folder / name, text[name])
    write_atomic(folder / "done.json", json.dumps(text["done"] | {"weights": digest(content)}, indent=1))


def _read(file: Path) -> dict[str, "Tensor"]:
    """Tensors of a zoo file. Raises DamagedFile, naming it, if it is not what was packed."""
    from mtp_lab.training.checkpoints import read_tensors

    return read_tensors(file, FILE.fullmatch(file.name)["digits"])


def _states(tensors: dict[str, "Tensor"]) -> dict[int, dict[str, "Tensor"]]:
    """Training step -> weights in fp32."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        match key.split("/"):
            case [step, name]:
                unit = tensors.get(f"{key}/unit")
                states.setdefault(int(step), {})[name] = value if unit is None else dequantize(value, unit)
    return states


def _text(tensors: dict[str, "Tensor"]) -> dict[str, Any]:
    """What a zoo file says of its run: the contents of TEXTS, and of done.json; python, which packed it."""
    return json.loads(zlib.decompress(tensors["text"].numpy()))
