"""The zoo: what the notebooks of a preset train, in few bytes, so that a course opens every notebook without training.

`pack` makes packed files (`mtp_lab.training.zoo_files`) of trained runs. `unpack` makes finished runs of them, which
`get_run` then finds as if they had been trained here. `mtp_lab.load` opens a packed file without unpacking.

Intervals over seeds need two seeds at least, and a notebook that is opened asks for the preset's own number. At `quick`
that is 85 MB of weights in fp32, and 43 MB in bf16, snapshots not counted. The limit is 30 MB, hence 8 bits a weight.
"""

import json
import platform
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from mtp_lab.config import TrainConfig
from mtp_lab.experiments.registry import TRAININGS, trainings
from mtp_lab.files import write_atomic
from mtp_lab.training.named_runs import short_name
from mtp_lab.training.runs import get_run
from mtp_lab.training.zoo_files import FILE, TEXTS, pack_run, packed_files, read, read_texts, states

LIMIT_MB = 30.0
UNPACKED, PRESENT = "unpacked", "already there"
UNFINISHED, ABSENT = "started by a training and left to it", "not in the zoo and left to train"


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
    packed = packed_files(zoo)
    if not packed:
        raise ValueError(f"there is no model in {zoo!r}; run in the root of the repository, or say --zoo FOLDER")
    made, here = read_texts(next(iter(packed.values())))["python"], platform.python_version()
    to_train = 0
    Path(runs_dir).mkdir(parents=True, exist_ok=True)
    with FileLock(Path(runs_dir) / ".zoo.lock"):
        for notebook, configs in _trainings_of(preset, seeds, only).items():
            results = Counter(_unpack_run(folder, packed.get(folder), Path(runs_dir)) for folder in configs)
            print(f"{notebook}: {', '.join(f'{number} {what}' for what, number in results.items())}")
            to_train += results[ABSENT] + results[UNFINISHED]
            if results[ABSENT] and made != here and any(config.task.name == "bytes" for config in configs.values()):
                print(f"  (the zoo's models of bytes read the library of Python {made}; this is Python {here})")
            if results[UNFINISHED]:
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
    notebooks = _trainings_of(preset, seeds, only)
    missing = {n: [f for f in c if not (Path(runs_dir) / f / "done.json").exists()] for n, c in notebooks.items()}
    if lacking := [folder for folders in missing.values() for folder in folders]:
        command = f"mtp-lab study --preset {preset} --seeds {seeds} --runs-dir {runs_dir} --only"
        raise ValueError(
            f"{len(lacking)} runs are not in {runs_dir!r}: {', '.join(lacking[:3])}{' ...' if lacking[3:] else ''}; "
            f"train them: {command} {' '.join(notebook for notebook, folders in missing.items() if folders)}"
        )
    files: dict[str, bytes] = {}
    for notebook, configs in notebooks.items():
        packed = {folder: pack_run(get_run(config, runs_dir)) for folder, config in configs.items()}
        size, change = sum(len(content) for content, _ in packed.values()), max(abs(c) for _, c in packed.values())
        print(f"{notebook}: {len(packed)} runs, {size / 1e6:.2f} MB; validation loss off by {change:.4f} nats at most")
        files |= {folder: content for folder, (content, _) in packed.items()}
    _check_names([config for configs in notebooks.values() for config in configs.values()])
    total = sum(map(len, files.values())) / 1e6
    if total > LIMIT_MB:
        raise ValueError(f"{total:.1f} MB are more than a zoo may have ({LIMIT_MB:.0f}); fewer --seeds, or --only some")
    _replace(Path(zoo), files)
    print(f"{zoo}: {len(files)} runs, {total:.2f} MB")


def _trainings_of(preset: str, seeds: int, only: Sequence[str]) -> dict[str, dict[str, TrainConfig]]:
    """The runs of each notebook that trains any."""
    if unknown := [name for name in only if name not in TRAININGS]:
        raise ValueError(f"{', '.join(unknown)}: no notebook that trains models; use {', '.join(TRAININGS)}")
    return {notebook: trainings(notebook, preset, seeds) for notebook in only or TRAININGS}


def _check_names(configs: Sequence[TrainConfig]) -> None:
    """Raise ValueError unless every run of a zoo has a short name of its own."""
    counts = Counter(map(short_name, configs))
    if shared := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"several runs are called {', '.join(shared[:3])}; give them names that differ")


def _replace(zoo: Path, files: dict[str, bytes]) -> None:
    """Makes these runs the content of a zoo."""
    from mtp_lab.training.checkpoints import digest

    paths = {zoo / f"{folder}-{digest(content)}.safetensors": content for folder, content in files.items()}
    for path, content in paths.items():
        write_atomic(path, content)
    for path in zoo.glob("*/*"):
        if FILE.fullmatch(path.name) and path not in paths:
            path.unlink()


# --- Unpacking -----------------------------------------------------------------------------------------------------


def _unpack_run(folder: str, file: Path | None, runs_dir: Path) -> str:
    """Makes a finished run of a packed file, unless the run is there already; returns what was done.

    Raises:
        DamagedFile: naming the file, if it is not what was packed.
    """
    path = runs_dir / folder
    if path.exists():
        return PRESENT if (path / "done.json").exists() else UNFINISHED
    if file is None:
        return ABSENT
    building = runs_dir / f".zoo-{path.name}"  # a name that is not taken for a run
    shutil.rmtree(building, ignore_errors=True)  # left by an unpacking that was killed
    try:
        _write_run(building, file)
        path.parent.mkdir(exist_ok=True)
        building.rename(path)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return UNPACKED


def _write_run(folder: Path, file: Path) -> None:
    from safetensors.torch import save

    from mtp_lab.training.checkpoints import digest, save_tensors

    weights_of, texts = states(read(file)), read_texts(file)
    content = save(weights_of[texts["done"]["steps"]])
    write_atomic(folder / "weights.safetensors", content)
    for step, weights in weights_of.items() if len(weights_of) > 1 else ():
        save_tensors(folder / "snapshots", step, weights)
    for name in TEXTS:
        write_atomic(folder / name, texts[name])
    write_atomic(folder / "done.json", json.dumps(texts["done"] | {"weights": digest(content)}, indent=1))
