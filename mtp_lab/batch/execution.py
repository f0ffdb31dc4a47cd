"""Executes notebooks with papermill, in batches that run only what is missing or stale.

Each notebook runs in a process of its own, which lives no longer than the batch. Which notebooks are stale is decided
in `mtp_lab.batch.plan`. Not here: what a notebook computes, and locks. Two batches into one folder at the same time do
the same work twice, and the last one writes.
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
from pathlib import Path
from typing import Any

from mtp_lab.batch.plan import Task, plan
from mtp_lab.batch.report import Outcome, tail
from mtp_lab.config import check_positive
from mtp_lab.experiments import verdicts
from mtp_lab.files import write_atomic

ATTEMPTS = 2
"""How often a notebook is started while its kernel dies; an error in a cell is final at once."""


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
        OSError: before anything runs, if a notebook has no source, or a folder is a file.
    """
    check_positive(jobs=jobs)
    tasks = plan(preset, out, only, seeds, notebooks_dir)
    stale = [task for task in tasks if task.why]
    sources, out = tasks[0].source.parent, tasks[0].out
    for folder in (Path(runs_dir), out):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file; name a folder, or one that is not there yet")
    jobs = max(1, min(jobs, len(stale)))
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parameters = {
        "preset": preset,
        "seeds": seeds,
        # Relative to the kernel's folder: a notebook shows its parameters, and must not show whose machine it ran on.
        "runs_dir": Path(os.path.relpath(Path(runs_dir).resolve(), sources.parent)).as_posix(),
        "figures_dir": Path(os.path.relpath(out / "figures", sources.parent)).as_posix(),
        "workers": max(1, cpus // jobs),
    }
    outcomes = _run_all(tasks, parameters, jobs, keep_going)
    if not stale:
        print("nothing to do")
    verdicts.collect(out / "figures")
    return outcomes


def _run_all(tasks: list[Task], parameters: dict[str, Any], jobs: int, keep_going: bool) -> list[Outcome]:
    """Runs the tasks on `jobs` threads. `lifeline` is the reading end of a pipe whose writing end only this process
    holds: the children read from it, and see its end however this process ends (Ctrl-C, SIGKILL)."""
    lifeline, held = os.pipe()
    stop = threading.Event()

    def guarded(task: Task) -> Outcome:
        try:
            if not task.why:
                outcome = Outcome(task.name, "already done", path=task.executed)
            elif stop.is_set():
                outcome = Outcome(task.name, "not run")
            else:
                outcome = _run_one(task, parameters, lifeline)
        except Exception as error:  # say, a full disk: a night's other notebooks must not end with this one
            told = tail(traceback.format_exc())
            outcome = Outcome(task.name, "failed", error=_one_line(f"{type(error).__name__}: {error}"), traceback=told)
        if outcome.failed and not keep_going:
            stop.set()
        print(outcome, flush=True)
        return outcome

    pool = ThreadPoolExecutor(jobs)
    try:
        return list(pool.map(guarded, tasks))
    finally:
        stop.set()
        os.close(held)
        pool.shutdown()
        os.close(lifeline)


def _run_one(task: Task, parameters: dict[str, Any], lifeline: int) -> Outcome:
    """Executes one notebook and stores what came of it; the stamp comes last."""
    print(f"{task.name}: running, {parameters['preset']} ...", file=sys.stderr, flush=True)
    started, verdict_before = time.monotonic(), task.verdict_version()
    task.stamp.unlink(missing_ok=True)
    for attempts_left in reversed(range(ATTEMPTS)):
        report = _execute(task, parameters, lifeline)
        if not (report["died"] and attempts_left):
            break
        print(f"{task.name}: {report['error']}; starting it again", file=sys.stderr, flush=True)
    seconds = time.monotonic() - started
    error, ipynb = report["error"], report["ipynb"]
    if not error and task.verdict_version() == verdict_before:
        error = "it recorded no verdict: its last cell must call mtp_lab.experiments.verdicts.record"
    if error:
        if ipynb:
            write_atomic(task.partial, ipynb)
        path = task.partial if ipynb else None
        return Outcome(task.name, "failed", seconds, error, report["cell"], path, report["traceback"])
    write_atomic(task.executed, ipynb)
    task.partial.unlink(missing_ok=True)
    stamp = {"key": task.key, "seconds": round(seconds, 1), **task.parts}
    write_atomic(task.stamp, json.dumps(stamp, indent=2) + "\n")
    return Outcome(task.name, "done", seconds, path=task.executed)


def _execute(task: Task, parameters: dict[str, Any], lifeline: int) -> dict[str, Any]:
    """One attempt, in a child process. Returns error (empty: it ran through), the end of its traceback, cell, died (its
    kernel or the child did, so another attempt may help) and ipynb: the executed notebook as JSON, as far as it got."""
    import nbformat

    report = {"error": "", "traceback": "", "cell": None, "died": False, "ipynb": None}
    with tempfile.TemporaryDirectory(prefix="mtp-lab-study-") as temporary:
        folder = Path(temporary)
        nbformat.write(task.notebook, folder / "in.ipynb")
        (folder / "parameters.json").write_text(json.dumps(parameters))
        root, command = task.source.parent.parent, [sys.executable, "-m", "mtp_lab.batch.execution", temporary]
        with open(folder / "log", "wb") as log:  # in a session of its own: Ctrl-C is for the batch, which ends it
            quiet = {**os.environ, "TQDM_DISABLE": "1"}  # tqdm's own: no bars in a notebook nobody watches
            status = subprocess.call(
                command, cwd=root, env=quiet, stdin=lifeline, stdout=log, stderr=log, start_new_session=True
            )
        if status < 0:
            report |= {"error": f"its process was killed ({signal.Signals(-status).name})", "died": True}
        elif status > 0:
            report["traceback"] = tail((folder / "log").read_text(errors="replace"))
            report["error"] = report["traceback"].rpartition("\n")[2] or "no message"
        else:
            report |= json.loads((folder / "report.json").read_text())
        try:
            notebook = nbformat.read(folder / "out.ipynb", as_version=4)
        except (OSError, ValueError):  # it died before the first cell, or while it saved
            return report
    if report["error"] and not report["cell"]:
        code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
        report["cell"] = sum(bool(cell.metadata.papermill["start_time"]) for cell in code) or None
    _strip(notebook)
    return report | {"ipynb": nbformat.writes(notebook) + "\n"}


def _strip(notebook: Any) -> None:
    """Takes out what differs between two equal runs, or names this machine: timings, papermill's paths, random ids."""
    notebook.metadata.pop("papermill", None)
    for number, cell in enumerate(notebook.cells, 1):
        cell["id"] = f"cell-{number}"
        cell.metadata.pop("papermill", None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)  # papermill gives an empty list to each cell


def _one_line(text: str) -> str:
    return text.strip().partition("\n")[0][:300]


def _child(folder: Path) -> None:
    """The child process of one attempt: in.ipynb + parameters.json -> out.ipynb + report.json, all in `folder`."""
    threading.Thread(target=_end_with_the_batch, daemon=True).start()
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

    report: dict[str, Any] = {}
    parameters = json.loads((folder / "parameters.json").read_text())
    options = dict(kernel_name="python3", language="python", kernel_manager_class=ThisPython, record_timing=False)
    try:
        papermill.execute_notebook(folder / "in.ipynb", folder / "out.ipynb", parameters, progress_bar=False, **options)
    except PapermillExecutionError as error:
        report = {"error": _one_line(f"{error.ename}: {error.evalue}"), "cell": error.exec_count}
        report["traceback"] = tail("\n".join(error.traceback))
    except RuntimeError as error:  # nbclient's DeadKernelError, and jupyter_client's for one that never came up
        report = {"error": _one_line(str(error)), "died": True}
    (folder / "report.json").write_text(json.dumps(report))


def _end_with_the_batch() -> None:
    """Ends the child when its batch does; the kernel notices within a second that it has no parent, and ends too."""
    os.read(0, 1)
    print("the batch was stopped", file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
