"""Finished runs by a short name: from `runs/`, or else directly from the zoo of packed runs.

A short name has three parts: a collection, the words of the run's name without its preset and the usual words, and the
seed: `stars/n2-seed0`, `induction/n1-seed1`, `bytes/docstrings-n8-seed0`. What it does not tell apart, the full name
does: `star_graph/quick-forward-n2-33b382bfa9`. Runs by their config are in `mtp_lab.training.runs`.
"""

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mtp_lab.config import TrainConfig
from mtp_lab.serialization import to_mapping
from mtp_lab.training.runs import Run, open_run
from mtp_lab.training.zoo_files import open_packed, packed_files, read_texts

COLLECTIONS = {
    "bytes": "bytes",
    "stories": "induction",
    "polynomials": "polynomials",
    "choice_process": "choices",
    "star_graph": "stars",
}
"""Task -> what its runs are called together."""
USUAL_WORDS = {"smoke", "quick", "course", "full", "paper", "library", "smeared", "F2X4", "choices", "forward"}
"""Words of run names that short names leave out: presets, and the most frequent setting of each experiment."""
HOME_ZOO = Path(__file__).resolve().parents[2] / "zoo"
"""The repository's zoo, for a process that works in another folder."""


def short_name(config: TrainConfig) -> str:
    """The short name of a run.

    Example:
        >>> short_name(TrainConfig(name="n4", seed=1))
        'bytes/n4-seed1'
    """
    return _short_name(to_mapping(config))


def _short_name(config: dict[str, Any]) -> str:
    """`short_name` of a config as it is stored: validating the configs of a whole zoo would take seconds."""
    task = config["task"]["kind"]
    words = [word for word in config["name"].split("-") if word not in USUAL_WORDS]
    if task != "star_graph":  # whose trainings are all on answers alone
        words += [f"{label}{weight:g}" for label, weight in config.get("mark_weights", ()) if weight]
    words += ["masked"] * config.get("causes_read", False)
    words.append(f"seed{config['seed']}")
    return f"{COLLECTIONS[task]}/{'-'.join(words)}"


def load(name: str, runs_dir: str | Path = "runs", zoo: str | Path | None = None) -> Run:
    """Opens a finished run by its short or full name, from `runs_dir` or, if it is not there, from the zoo.

    Args:
        name: such as "stars/n2-seed0", or "star_graph/quick-forward-n2-33b382bfa9".
        runs_dir: where trained runs are kept.
        zoo: a folder of packed runs; by default ./zoo, or else the repository's.

    Raises:
        ValueError: if no run has that name, or several have; the message lists names.

    Example:
        >>> load("stars/n2-seed0").config.model.n_future
        2
    """
    if zoo is None:
        zoo = Path("zoo") if Path("zoo").is_dir() else HOME_ZOO
    if (Path(runs_dir) / name / "done.json").exists():
        return open_run(Path(runs_dir) / name)
    packed = packed_files(zoo)
    trained = {
        f"{path.parent.parent.name}/{path.parent.name}": path.parent for path in Path(runs_dir).glob("*/*/done.json")
    }
    known: set[str] = set(packed)
    for runs, name_of, opened in ((trained, _name_of_folder, open_run), (packed, _name_of_file, open_packed)):
        names = {full: name_of(path) for full, path in runs.items()}
        matches = [full for full, short in names.items() if name in (full, short)]
        if len(matches) > 1:
            raise ValueError(f"{len(matches)} runs are called {name!r}; use one of {', '.join(matches)}")
        if matches:
            return opened(runs[matches[0]])
        known |= set(names.values())
    similar = get_close_matches(name, known, n=5, cutoff=0.3) or sorted(known)[:5]
    raise ValueError(f"there is no run {name!r} in {runs_dir} or {zoo}; similar names: {', '.join(similar) or 'none'}")


def _name_of_folder(folder: Path) -> str:
    """The folder's own name where its config cannot be read: one damaged run must not hide all others."""
    try:
        return _short_name(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, TypeError, KeyError):
        return folder.name


def _name_of_file(file: Path) -> str:
    """Raises DamagedFile, naming the file, if it is not what was packed."""
    return _short_name(json.loads(read_texts(file)["config.json"]))
