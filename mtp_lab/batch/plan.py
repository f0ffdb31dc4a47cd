"""The notebooks of a batch, and why each is to run.

A notebook is done when its verdict, its executed .ipynb and a stamp exist, and the stamp holds the key of what would
run now: the notebook's source, the preset, the seeds, and every .py file of mtp_lab and data_gen. Editing the library
therefore runs every notebook again. Their training runs come from runs_dir, so that this costs little. The stamp also
holds the parts of the key, so that a batch can say what has changed.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from mtp_lab.config import check_choice

Preset = Literal["smoke", "quick", "full", "paper"]

NOTEBOOKS = (
    "00_token_streams",
    "01_lookahead_training",
    "02_real_bytes",
    "03_self_speculation",
    "04_induction_heads",
    "05_polynomials",
    "06_choice_points",
    "07_star_graph",
)
PRESETS: tuple[str, ...] = get_args(Preset)
PARAMETERS = ("preset", "seeds", "runs_dir", "figures_dir", "workers")
"""What the cell tagged `parameters` of every notebook declares; seeds=0 is the preset's own number of seeds."""
HOME = Path(__file__).resolve().parents[2]
"""Holds the two packages."""


def plan(
    preset: str, out: str | Path | None, only: Sequence[str], seeds: int, notebooks_dir: str | Path = "notebooks"
) -> list["Task"]:
    """The notebooks of a batch in its order, and why each is to run; nothing is started or written. Raises as `run`."""
    check_choice("preset", preset, Preset)
    if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 0:
        raise ValueError(f"seeds={seeds!r} must be an integer of at least 0; 0 is the preset's own number")
    for name in only:
        if name not in NOTEBOOKS:
            raise ValueError(f"notebook {name!r} is not known; use {', '.join(map(repr, NOTEBOOKS))}")
    sources, out = Path(notebooks_dir).resolve(), Path(out or Path("results") / preset).resolve()
    code = code_digest()
    names = [name for name in NOTEBOOKS if not only or name in only]
    tasks = [Task(sources / f"{name}.py", out, preset, seeds, code) for name in names]
    for task in tasks:
        if task.why:
            task.convert()
    return tasks


def code_digest(home: Path = HOME) -> str:
    """The SHA-256 of the `code_files` in `home`, names included."""
    files = {path.relative_to(home).as_posix(): path.read_bytes() for path in code_files(home)}
    lines = [f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in files.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def code_files(home: Path = HOME) -> list[Path]:
    """Every .py file of the packages mtp_lab and data_gen in `home`."""
    return sorted(path for package in ("mtp_lab", "data_gen") for path in (home / package).rglob("*.py"))


class Task:
    """One notebook of a batch: its source, the places of its results, why it is to run (empty: they are current), and
    the seconds of its last execution with this preset (None: there is none)."""

    def __init__(self, source: Path, out: Path, preset: str, seeds: int, code: str):
        if not source.is_file():
            raise FileNotFoundError(f"{source} does not exist; run in the root of the repository, or say where it is")
        self.source, self.out, self.name = source, out, source.stem
        self.text = source.read_text(encoding="utf-8")
        self.key = hashlib.sha256(f"{preset} {seeds} {code}\n{self.text}".encode()).hexdigest()
        own = hashlib.sha256(self.text.encode()).hexdigest()
        self.parts = {"preset": preset, "seeds": seeds, "source": own, "code": code}
        self.executed = out / "notebooks" / f"{self.name}.ipynb"
        self.partial = out / "notebooks" / f"{self.name}.failed.ipynb"
        self.verdict = out / "figures" / self.name / "verdict.json"
        self.stamp = out / "figures" / self.name / "stamp.json"
        stamp = read_stamp(self.stamp)
        self.why = why(self, stamp)
        self.seconds: float | None = stamp.get("seconds") if stamp.get("preset") == preset else None

    def convert(self) -> None:
        """Makes the notebook of the source. papermill would only warn of a parameter that it cannot set."""
        import jupytext  # two seconds that a batch with nothing to do can spare

        self.notebook = jupytext.reads(self.text, fmt="py:percent")
        cells = [cell.source for cell in self.notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        if len(cells) != 1:
            raise ValueError(f'{self.source} must have one cell # %% tags=["parameters"], not {len(cells)}')
        declared = re.findall(r"^(\w+)\s*[:=](?!=)", cells[0], re.MULTILINE)
        if missing := [name for name in PARAMETERS if name not in declared]:
            raise ValueError(f"{self.source}: the cell tagged parameters must also declare {', '.join(missing)}")

    def verdict_version(self) -> tuple[int, int] | None:
        """Differs after each writing of the verdict, even if the same is written again."""
        return (self.verdict.stat().st_ino, self.verdict.stat().st_mtime_ns) if self.verdict.exists() else None


def read_stamp(path: Path) -> dict[str, Any]:
    """What a notebook's results were made from, or the facts of a finished run; empty if nobody can tell."""
    try:
        stamp = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def why(task: "Task", stamp: dict[str, Any]) -> str:
    """Why a notebook is to run, in words; empty: its results, which have this stamp, are current."""
    if not task.stamp.exists() and task.partial.exists():
        return "failed last time"
    lacking = [path.name for path in (task.executed, task.verdict, task.stamp) if not path.exists()]
    if lacking:
        return "missing" if len(lacking) == 3 else f"missing: {', '.join(lacking)}"
    if stamp.get("key") == task.key:
        return ""
    words = {"source": "source changed", "code": "library changed"}
    changed = [part for part in task.parts if part in stamp and stamp[part] != task.parts[part]]
    told = [words.get(part, f"parameters changed ({part} was {stamp[part]})") for part in changed]
    return ", ".join(told) or "changed"  # a stamp from before it held the parts
