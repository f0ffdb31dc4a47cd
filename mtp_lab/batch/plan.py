"""The notebooks of a batch, and the reasons why each of them must run.

A notebook is current when its verdict, its executed .ipynb and a stamp exist, and the stamp holds the key of what
would run now. The key covers the notebook's source, the preset, the seeds, and every .py file of mtp_lab and data_gen.
Editing the library therefore makes every notebook stale, but their training runs are reused from runs_dir. The stamp
also holds the parts of the key, so that a plan can name what has changed. Not here: execution.
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
"""What the cell tagged `parameters` of every notebook must declare; seeds=0 takes the preset's number of seeds."""
HOME = Path(__file__).resolve().parents[2]
"""The folder that holds the packages mtp_lab and data_gen."""


def plan(
    preset: str, out: str | Path | None, only: Sequence[str], seeds: int, notebooks_dir: str | Path = "notebooks"
) -> list["Task"]:
    """The notebooks of a batch in order, each with the reason why it must run. Starts and writes nothing.

    Raises:
        ValueError, OSError: as mtp_lab.batch.execution.run.
    """
    check_choice("preset", preset, Preset)
    if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 0:
        raise ValueError(f"seeds={seeds!r} must be an integer of at least 0; 0 takes the preset's number")
    for name in only:
        if name not in NOTEBOOKS:
            raise ValueError(f"notebook {name!r} is not known; use {', '.join(map(repr, NOTEBOOKS))}")
    sources, out = Path(notebooks_dir).resolve(), Path(out or Path("results") / preset).resolve()
    code = code_digest()
    tasks = [Task(sources / f"{name}.py", out, preset, seeds, code) for name in NOTEBOOKS if not only or name in only]
    for task in tasks:
        if task.why:
            task.convert()
    return tasks


def code_digest(home: Path = HOME) -> str:
    """The SHA-256 of all `code_files` in `home`, file names included."""
    files = {path.relative_to(home).as_posix(): path.read_bytes() for path in code_files(home)}
    lines = [f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in files.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def code_files(home: Path = HOME) -> list[Path]:
    """Every .py file of the packages mtp_lab and data_gen in `home`."""
    return sorted(path for package in ("mtp_lab", "data_gen") for path in (home / package).rglob("*.py"))


class Task:
    """One notebook of a batch: its source, the paths of its results, and `why` it must run.

    `why` is empty if the results are current. `seconds` is the duration of the last execution with this preset, or
    None. `notebook` exists after `convert`.
    """

    def __init__(self, source: Path, out: Path, preset: str, seeds: int, code: str):
        if not source.is_file():
            raise FileNotFoundError(f"{source} does not exist; run in the root of the repository, or name its folder")
        self.source, self.out, self.name = source, out, source.stem
        self.text = source.read_text(encoding="utf-8")
        self.key = hashlib.sha256(f"{preset} {seeds} {code}\n{self.text}".encode()).hexdigest()
        source_digest = hashlib.sha256(self.text.encode()).hexdigest()
        self.parts = {"preset": preset, "seeds": seeds, "source": source_digest, "code": code}
        self.executed = out / "notebooks" / f"{self.name}.ipynb"
        self.partial = out / "notebooks" / f"{self.name}.failed.ipynb"
        self.verdict = out / "figures" / self.name / "verdict.json"
        self.stamp = out / "figures" / self.name / "stamp.json"
        stamp = read_stamp(self.stamp)
        self.why = self._why(stamp)
        self.seconds: float | None = stamp.get("seconds") if stamp.get("preset") == preset else None

    def _why(self, stamp: dict[str, Any]) -> str:
        """The reason why the notebook must run, given the stamp of its results; empty if they are current."""
        if not self.stamp.exists() and self.partial.exists():
            return "failed last time"
        missing = [path.name for path in (self.executed, self.verdict, self.stamp) if not path.exists()]
        if missing:
            return "missing" if len(missing) == 3 else f"missing: {', '.join(missing)}"
        if stamp.get("key") == self.key:
            return ""
        changed = {part: stamp[part] for part in self.parts if part in stamp and stamp[part] != self.parts[part]}
        reasons = {"source": "source changed", "code": "library changed"}
        listed = [reasons.get(part, f"parameters changed ({part} was {old})") for part, old in changed.items()]
        return ", ".join(listed) or "changed"  # older stamps do not hold the parts of their key

    def convert(self) -> None:
        """Makes `notebook` from the source, and checks its parameters: papermill only warns if one is not declared.

        Raises:
            ValueError: if there is not exactly one cell tagged `parameters`, or one of PARAMETERS is not declared.
        """
        import jupytext  # takes two seconds, and a batch with nothing to do does not need it

        self.notebook = jupytext.reads(self.text, fmt="py:percent")
        cells = [cell.source for cell in self.notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        if len(cells) != 1:
            raise ValueError(f'{self.source} must have one cell # %% tags=["parameters"], not {len(cells)}')
        declared = re.findall(r"^(\w+)\s*[:=](?!=)", cells[0], re.MULTILINE)
        if missing := [name for name in PARAMETERS if name not in declared]:
            raise ValueError(f"{self.source}: the cell tagged parameters must also declare {', '.join(missing)}")

    def verdict_version(self) -> tuple[int, int] | None:
        """Changes with every write of the verdict, even if the content stays the same."""
        return (self.verdict.stat().st_ino, self.verdict.stat().st_mtime_ns) if self.verdict.exists() else None


def read_stamp(path: Path) -> dict[str, Any]:
    """The content of a stamp.json or done.json; empty if the file is missing or damaged."""
    try:
        stamp = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}
