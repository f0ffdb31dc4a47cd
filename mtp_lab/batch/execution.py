"""Executes notebooks with papermill, in batches that run only what is missing or stale.

Each notebook runs in a child process, which lives no longer than the batch. `mtp_lab.batch.plan` decides which
notebooks are stale. Not here: what a notebook computes, and locks. Two batches that write into one folder at the same
time do the same work twice, and the last one to finish overwrites the results.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtp_lab.batch.plan import Task, plan
from mtp_lab.batch.report import Outcome, tail
from mtp_lab.config import check_positive
from mtp_lab.experiments import verdicts
from mtp_lab.files import write_atomic

ATTEMPTS = 2
"""How often a notebook is started if its kernel or child process dies; an error in a cell is final."""


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
    """Runs the notebooks that are missing or stale, `jobs` at a time, and merges the verdicts of all notebooks.

    Writes out/notebooks/<name>.ipynb, out/figures/<name>/ and out/figures/verdicts.json; `out` is results/<preset>
    by default. The kernels work in the parent folder of notebooks_dir, the root of the repository.

    Raises:
        ValueError: before anything runs, if an argument is not allowed or a notebook does not declare PARAMETERS.
        OSError: before anything runs, if a notebook has no source, or a folder is a file.
    """
    check_positive(jobs=jobs)
    tasks = plan(preset, out, only, seeds, notebooks_dir)
    root, out = tasks[0].source.parent.parent, tasks[0].out
    for folder in (Path(runs_dir), out):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file; name a folder, or a path that does not exist yet")
    n_stale = sum(bool(task.why) for task in tasks)
    jobs = max(1, min(jobs, n_stale))
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parameters = {
        "preset": preset,
        "seeds": seeds,
        # Relative to the kernel's folder: an executed notebook shows its parameters, and must not name this machine.
        "runs_dir": Path(os.path.relpath(Path(runs_dir).resolve(), root)).as_posix(),
        "figures_dir": Path(os.path.relpath(out / "figures", root)).as_posix(),
        "workers": max(1, cpus // jobs),
    }
    outcomes = _run_all(tasks, parameters, jobs, keep_going)
    if not n_stale:
        print("nothing to do")
    verdicts.collect(out / "figures")
    return outcomes


def _run_all(tasks: list[Task], parameters: dict[str, Any], jobs: int, keep_going: bool) -> list[Outcome]:
    """Runs the tasks on `jobs` threads.

    The child processes read from `lifeline`, a pipe whose writing end only this process holds. They see its end
    however this process ends (Ctrl-C, SIGKILL), and then end, too.
    """
    lifeline, writing_end = os.pipe()
    stop = threading.Event()

    def outcome_of(task: Task) -> Outcome:
        try:
            if not task.why:
                outcome = Outcome(task.name, "already done", path=task.executed)
            elif stop.is_set():
                outcome = Outcome(task.name, "not run")
            else:
                outcome = _run_one(task, parameters, lifeline)
        except Exception as error:  # for example a full disk: the other notebooks of the batch still run
            message = _first_line(f"{type(error).__name__}: {error}")
            outcome = Outcome(task.name, "failed", error=message, traceback=tail(traceback.format_exc()))
        if outcome.failed and not keep_going:
            stop.set()
        print(outcome, flush=True)
        return outcome

    threads = ThreadPoolExecutor(jobs)
    try:
        return list(threads.map(outcome_of, tasks))
    finally:
        stop.set()
        os.close(writing_end)
        threads.shutdown()
        os.close(lifeline)


def _run_one(task: Task, parameters: dict[str, Any], lifeline: int) -> Outcome:
    """Executes one notebook and stores its results; the stamp is written last."""
    print(f"{task.name}: running, {parameters['preset']} ...", file=sys.stderr, flush=True)
    started, verdict_before = time.monotonic(), task.verdict_version()
    task.stamp.unlink(missing_ok=True)
    for attempts_left in reversed(range(ATTEMPTS)):
        attempt = _execute(task, parameters, lifeline)
        if not (attempt.died and attempts_left):
            break
        print(f"{task.name}: {attempt.error}; starting it again", file=sys.stderr, flush=True)
    seconds = time.monotonic() - started
    if not attempt.error and task.verdict_version() == verdict_before:
        attempt.error = "it recorded no verdict: its last cell must call mtp_lab.experiments.verdicts.record"
    if attempt.error:
        if attempt.ipynb:
            write_atomic(task.partial, attempt.ipynb)
        path = task.partial if attempt.ipynb else None
        return Outcome(task.name, "failed", seconds, attempt.error, attempt.cell, path, attempt.traceback)
    write_atomic(task.executed, attempt.ipynb)
    task.partial.unlink(missing_ok=True)
    stamp = {"key": task.key, "seconds": round(seconds, 1), **task.parts}
    write_atomic(task.stamp, json.dumps(stamp, indent=2) + "\n")
    return Outcome(task.name, "done", seconds, path=task.executed)


@dataclass
class Attempt:
    """What one execution of a notebook leaves behind."""

    error: str = ""  # in one line; empty if the notebook ran to its end
    traceback: str = ""  # its last lines
    died: bool = False  # the kernel or the child process died, so another attempt may succeed
    cell: int | None = None  # the n of the In [n] that failed
    ipynb: str = ""  # the executed notebook, as far as it got; empty if no cell was started


def _execute(task: Task, parameters: dict[str, Any], lifeline: int) -> Attempt:
    """Executes a notebook once, in a child process. The two exchange files in a temporary folder."""
    import nbformat

    with tempfile.TemporaryDirectory(prefix="mtp-lab-study-") as temporary:
        folder = Path(temporary)
        nbformat.write(task.notebook, folder / "in.ipynb")
        command = [sys.executable, "-m", "mtp_lab.batch.execution", temporary, json.dumps(parameters)]
        root, environment = task.source.parent.parent, {**os.environ, "TQDM_DISABLE": "1"}  # no progress bars
        with open(folder / "log", "wb") as log:  # in a session of its own: Ctrl-C reaches the batch, which ends it
            streams = dict(stdin=lifeline, stdout=log, stderr=log)
            status = subprocess.call(command, cwd=root, env=environment, **streams, start_new_session=True)
        if status < 0:
            attempt = Attempt(f"its process was killed ({signal.Signals(-status).name})", died=True)
        elif status > 0:
            log_tail = tail((folder / "log").read_text(errors="replace"))
            attempt = Attempt(log_tail.rpartition("\n")[2] or "no message", log_tail)
        else:
            attempt = Attempt(**json.loads((folder / "report.json").read_text()))
        try:
            notebook = nbformat.read(folder / "out.ipynb", as_version=4)
        except (OSError, ValueError):  # the child died before the first cell, or while it saved the notebook
            return attempt
    if attempt.error:
        code_cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
        attempt.cell = sum(bool(cell.metadata.papermill["start_time"]) for cell in code_cells) or None
    _strip(notebook)
    attempt.ipynb = nbformat.writes(notebook) + "\n"
    return attempt


def _strip(notebook: Any) -> None:
    """Removes what differs between two equal runs, or names this machine: timings, papermill's paths, random ids."""
    notebook.metadata.pop("papermill", None)
    for number, cell in enumerate(notebook.cells, 1):
        cell["id"] = f"cell-{number}"
        cell.metadata.pop("papermill", None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)  # papermill adds an empty list to each cell


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:300]


def _child(folder: Path, parameters: dict[str, Any]) -> None:
    """The child process: executes in.ipynb in `folder`, writes out.ipynb, and fields of Attempt to report.json."""
    threading.Thread(target=_end_with_the_batch, daemon=True).start()
    import papermill
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from papermill.exceptions import PapermillExecutionError
    from traitlets import Instance

    class ThisPython(AsyncKernelManager):
        """Starts the interpreter that runs this, even if the user has installed another environment's python3 kernel:
        it reads no folder of kernelspecs."""

        kernel_spec_manager = Instance(KernelSpecManager, kw={"kernel_dirs": []})

    report: dict[str, Any] = {}
    options = dict(kernel_name="python3", language="python", kernel_manager_class=ThisPython, record_timing=False)
    try:
        papermill.execute_notebook(folder / "in.ipynb", folder / "out.ipynb", parameters, progress_bar=False, **options)
    except PapermillExecutionError as error:
        report = {"error": _first_line(f"{error.ename}: {error.evalue}"), "traceback": tail("\n".join(error.traceback))}
    except RuntimeError as error:  # nbclient's DeadKernelError, or jupyter_client's if the kernel never started
        report = {"error": _first_line(str(error)), "died": True}
    (folder / "report.json").write_text(json.dumps(report))


def _end_with_the_batch() -> None:
    """Ends the child when its batch ends; the kernel notices within a second that its parent is gone, and ends, too."""
    os.read(0, 1)
    print("the batch was stopped", file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    _child(Path(sys.argv[1]), json.loads(sys.argv[2]))
