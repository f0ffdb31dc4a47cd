"""The study: its notebooks, run with papermill in batches that do only what is missing or stale.

A notebook is done when its verdict, its executed .ipynb and a stamp exist, and the stamp holds the key of what would
run now: the notebook's source, the preset, the seeds, and every .py file of mtp_lab and data_gen. Editing the library
therefore runs every notebook again; their training runs come from runs_dir, so that costs little. Each notebook runs
in a process of its own, which lives no longer than the batch.

Left out: what a notebook computes (its own business, threads included), and locks (two batches into one folder at the
same time do the same work twice, and the last writes).
"""

import ast
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mtp_lab import verdicts
from mtp_lab.config import check_choice, check_positive
from mtp_lab.files import write_atomic

Preset = Literal["smoke", "quick", "full", "paper"]

NOTEBOOKS = ("01_lookahead_training", "02_real_bytes")
PRESETS: tuple[str, ...] = get_args(Preset)
PARAMETERS = ("preset", "seeds", "runs_dir", "figures_dir", "workers")
"""What the cell tagged `parameters` of every notebook declares; seeds=0 is the preset's own number of seeds."""

ATTEMPTS = 2
"""How often a notebook is started while its kernel dies; an error in a cell is final at once."""
ABANDONED = 130
"""Exit status of a child whose batch is gone."""


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook; as text, the line that the batch prints."""

    notebook: str
    status: Literal["done", "already done", "failed", "not run"]
    seconds: float = 0.0
    """Wall clock, all attempts together."""
    error: str = ""
    """What went wrong, in one line."""
    cell: int | None = None
    """The n of the In [n] that failed."""
    path: Path | None = None
    """The executed notebook; of a failed one, as far as it got."""

    @property
    def failed(self) -> bool:
        return self.status == "failed"

    def __str__(self) -> str:
        if self.status == "done":
            return f"{self.notebook}: done in {self.seconds:.0f} s"
        if not self.failed:
            return f"{self.notebook}: {self.status}"
        where = f" in cell [{self.cell}]" if self.cell else ""
        see = f"; see {os.path.relpath(self.path)}" if self.path else ""
        return f"{self.notebook}: FAILED{where} after {self.seconds:.0f} s: {self.error}{see}"


def run(
    preset: str = "quick",
    out: str | Path | None = None,
    only: Sequence[str] = (),
    seeds: int = 0,
    runs_dir: str | Path = "runs",
    jobs: int = 1,
    notebooks_dir: str | Path = "notebooks",
    keep_going: bool = True,
) -> list[Outcome]:
    """Runs the notebooks that are missing or stale, `jobs` at a time, and merges the verdicts of all.

    Writes out/notebooks/<name>.ipynb, out/figures/<name>/ and out/figures/verdicts.json; `out` is results/<preset>
    unless given. The kernels work in the parent folder of notebooks_dir, the root of the repository.

    Raises:
        ValueError: before anything runs, if an argument is not allowed or a notebook does not declare PARAMETERS.
        FileNotFoundError: before anything runs, if a notebook has no source.
    """
    check_choice("preset", preset, Preset)
    check_positive(jobs=jobs)
    if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 0:
        raise ValueError(f"seeds={seeds!r} must be an integer of at least 0; 0 is the preset's own number")
    for name in only:
        if name not in NOTEBOOKS:
            raise ValueError(f"notebook {name!r} is not known; use {', '.join(map(repr, NOTEBOOKS))}")
    out = Path(out or Path("results") / preset).resolve()
    root = Path(notebooks_dir).resolve().parent
    identity = f"{preset} {seeds} {code_digest()}"
    tasks = [_Task(name, Path(notebooks_dir), out, identity) for name in NOTEBOOKS if not only or name in only]
    stale = [task for task in tasks if not task.is_done()]
    jobs = min(jobs, max(1, len(stale)))
    parameters = {
        "preset": preset,
        "seeds": seeds,
        # Relative to the kernel's folder: a notebook shows its parameters, and must not show whose machine it ran on.
        "runs_dir": Path(os.path.relpath(Path(runs_dir).resolve(), root)).as_posix(),
        "figures_dir": Path(os.path.relpath(out / "figures", root)).as_posix(),
        "workers": max(1, _cpus() // jobs),
    }
    for task in stale:
        task.convert()
    skipped = {task.name: Outcome(task.name, "already done", path=task.executed) for task in tasks if task not in stale}
    for outcome in skipped.values():
        print(outcome, flush=True)
    ran = _run_all(stale, jobs, keep_going, lambda task, lifeline: _run_one(task, root, parameters, lifeline))
    if not stale:
        print("nothing to do")
    verdicts.collect(out / "figures")
    return [ran.get(task.name) or skipped[task.name] for task in tasks]


def code_digest(home: Path = Path(__file__).resolve().parents[1]) -> str:
    """The SHA-256 of every .py file of the packages mtp_lab and data_gen in `home`, names included."""
    files = sorted(path for package in ("mtp_lab", "data_gen") for path in (home / package).rglob("*.py"))
    lines = [f"{path.relative_to(home).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class _Task:
    """One notebook of the batch: where it is, where its results go, and the key that says whether they are current."""

    def __init__(self, name: str, notebooks_dir: Path, out: Path, identity: str):
        self.name = name
        self.source = notebooks_dir / f"{name}.py"
        if not self.source.is_file():
            raise FileNotFoundError(f"{self.source} does not exist; run in the root of the repository")
        self.text = self.source.read_text(encoding="utf-8")
        self.key = hashlib.sha256(f"{identity}\n{self.text}".encode()).hexdigest()
        self.executed = out / "notebooks" / f"{name}.ipynb"
        self.partial = out / "notebooks" / f"{name}.failed.ipynb"
        self.verdict = out / "figures" / name / "verdict.json"
        self.stamp = out / "figures" / name / "stamp.json"

    def is_done(self) -> bool:
        try:
            current = json.loads(self.stamp.read_text())["key"] == self.key
        except (OSError, ValueError, TypeError, KeyError):
            return False
        return current and self.verdict.exists() and self.executed.exists()

    def convert(self) -> None:
        """Makes the notebook of the source. papermill would only warn of a parameter it cannot set."""
        import jupytext  # two seconds that a batch with nothing to do can spare

        self.notebook = jupytext.reads(self.text, fmt="py:percent")
        cells = [cell for cell in self.notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        if len(cells) != 1:
            raise ValueError(
                f'{self.source} must have one cell tagged parameters (# %% tags=["parameters"]), not {len(cells)}'
            )
        try:
            tree = ast.parse(cells[0].source)
        except SyntaxError as error:
            raise ValueError(f"{self.source}: the cell tagged parameters is not Python: {error.msg}") from error
        declared = {
            node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        if missing := [name for name in PARAMETERS if name not in declared]:
            raise ValueError(f"{self.source}: the cell tagged parameters must also declare {', '.join(missing)}")

    def verdict_version(self) -> tuple[int, int] | None:
        """Differs after each time that the verdict is written, even if the same is written again."""
        if not self.verdict.exists():
            return None
        stat = self.verdict.stat()
        return stat.st_ino, stat.st_mtime_ns


def _run_all(
    tasks: list[_Task], jobs: int, keep_going: bool, run_one: Callable[[_Task, int], Outcome]
) -> dict[str, Outcome]:
    """Calls run_one(task, lifeline) on `jobs` threads. `lifeline` is the reading end of a pipe whose writing end only
    this process holds: the children read from it, and see its end however this process ends (Ctrl-C, SIGKILL)."""
    lifeline, held = os.pipe()
    stop = threading.Event()

    def guarded(task: _Task) -> Outcome:
        if stop.is_set():
            return Outcome(task.name, "not run")
        try:
            outcome = run_one(task, lifeline)
        except OSError as error:  # say, a full disk: the other notebooks may still fit
            outcome = Outcome(task.name, "failed", error=f"{type(error).__name__}: {error}")
        if outcome.failed and not keep_going:
            stop.set()
        print(outcome, flush=True)
        return outcome

    pool = ThreadPoolExecutor(jobs)
    try:
        return {task.name: outcome for task, outcome in zip(tasks, pool.map(guarded, tasks), strict=True)}
    finally:
        stop.set()
        os.close(held)
        pool.shutdown()
        os.close(lifeline)


def _run_one(task: _Task, root: Path, parameters: dict[str, Any], lifeline: int) -> Outcome:
    """Executes one notebook and stores what came of it; the stamp comes last."""
    print(f"{task.name}: running, {parameters['preset']} ...", file=sys.stderr, flush=True)
    started, verdict_before = time.monotonic(), task.verdict_version()
    task.stamp.unlink(missing_ok=True)
    for attempt in range(1, ATTEMPTS + 1):
        report = _execute(task, root, parameters, lifeline)
        if not report["died"] or attempt == ATTEMPTS:
            break
        print(f"{task.name}: {report['error']}; starting it again", file=sys.stderr, flush=True)
    seconds = time.monotonic() - started
    error, ipynb = report["error"], report["ipynb"]
    if error is None and task.verdict_version() == verdict_before:
        error = "it recorded no verdict: its last cell must call mtp_lab.verdicts.record"
    if report["abandoned"]:
        return Outcome(task.name, "not run", seconds)
    if error is not None:
        if ipynb:
            write_atomic(task.partial, ipynb)
        return Outcome(task.name, "failed", seconds, error, report["cell"], task.partial if ipynb else None)
    write_atomic(task.executed, ipynb)
    task.partial.unlink(missing_ok=True)
    stamp = {
        "key": task.key,
        "preset": parameters["preset"],
        "seeds": parameters["seeds"],
        "seconds": round(seconds, 1),
    }
    write_atomic(task.stamp, json.dumps(stamp, indent=2) + "\n")
    return Outcome(task.name, "done", seconds, path=task.executed)


def _execute(task: _Task, root: Path, parameters: dict[str, Any], lifeline: int) -> dict[str, Any]:
    """One attempt, in a child process. Returns error (None: it ran through), cell, died (its kernel or the child did,
    so that another attempt may help), abandoned, and ipynb: the notebook as JSON, None if there is none."""
    import nbformat

    with tempfile.TemporaryDirectory(prefix="mtp-lab-study-") as temporary:
        folder = Path(temporary)
        nbformat.write(task.notebook, folder / "in.ipynb")
        (folder / "parameters.json").write_text(json.dumps(parameters))
        with open(folder / "log", "wb") as log:
            command = [sys.executable, "-m", "mtp_lab.study", temporary]
            # A session of its own: Ctrl-C reaches the batch, which ends its children in order.
            child = subprocess.Popen(command, cwd=root, stdin=lifeline, stdout=log, stderr=log, start_new_session=True)
            status = child.wait()
        report = {"error": None, "cell": None, "died": False, "abandoned": status == ABANDONED, "ipynb": None}
        if status < 0:
            report |= {"died": True, "error": f"its process was killed ({signal.Signals(-status).name})"}
        elif status:
            report["error"] = _one_line((folder / "log").read_text(errors="replace"), line=-1)
        else:
            report |= json.loads((folder / "report.json").read_text())
        try:
            notebook = nbformat.read(folder / "out.ipynb", as_version=4)
        except (OSError, ValueError):  # it died before the first cell, or while it saved
            return report
    if report["died"]:
        report["cell"] = _last_started(notebook)
    _strip(notebook)
    return report | {"ipynb": nbformat.writes(notebook) + "\n"}


def _last_started(notebook: Any) -> int | None:
    """The n of the In [n] that ran when the kernel died; papermill marks it, and all after it, completed."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    return sum(bool(cell.metadata.papermill["start_time"]) for cell in code) or None


def _strip(notebook: Any) -> None:
    """Takes out what differs between two equal runs, or names this machine: timings, papermill's paths, random ids."""
    notebook.metadata.pop("papermill", None)
    for number, cell in enumerate(notebook.cells, 1):
        cell["id"] = f"cell-{number}"
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]


def _one_line(text: str, line: int = 0) -> str:
    lines = [stripped for stripped in map(str.strip, text.splitlines()) if stripped]
    return lines[line][:300] if lines else "no message"


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _child(folder: Path) -> None:
    """The child process of one attempt: in.ipynb + parameters.json -> out.ipynb + report.json, all in `folder`."""

    def follow_batch() -> None:
        while os.read(0, 1):
            pass
        os._exit(ABANDONED)  # the kernel notices the loss of its parent within a second, and ends too

    threading.Thread(target=follow_batch, daemon=True).start()
    import papermill
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from papermill.exceptions import PapermillExecutionError
    from traitlets import default

    class ThisPython(AsyncKernelManager):
        """Looks into no folder of kernelspecs, which leaves the interpreter that runs this; a python3 that the user
        once installed from another environment would come first otherwise."""

        @default("kernel_spec_manager")
        def _only_the_native_kernel(self) -> KernelSpecManager:
            return KernelSpecManager(kernel_dirs=[])

    report = {"error": None, "cell": None, "died": False}
    try:
        papermill.execute_notebook(
            folder / "in.ipynb",
            folder / "out.ipynb",
            json.loads((folder / "parameters.json").read_text()),
            kernel_name="python3",
            language="python",
            progress_bar=False,
            cwd=Path.cwd(),
            kernel_manager_class=ThisPython,
            record_timing=False,
        )
    except PapermillExecutionError as error:
        report |= {"error": _one_line(f"{error.ename}: {error.evalue}"), "cell": error.exec_count}
    except RuntimeError as error:  # nbclient's DeadKernelError, and jupyter_client's for one that never came up
        report |= {"error": _one_line(str(error)), "died": True}
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
