"""Batches of notebooks: every test states a property and the bug it would catch.

Kernels take seconds to start. So one short history of batches (the fixture `history`) runs once, and the tests check
the results of each of its steps.
"""

import contextlib
import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
import torch

from mtp_lab.batch import execution, plan, report
from mtp_lab.experiments import registry
from mtp_lab.experiments.induction_heads.conditions import induction_configs
from mtp_lab.experiments.verdicts import Verdict, record
from mtp_lab.model.transformer import MTPTransformer

FIRST, SECOND = plan.NOTEBOOKS[:2]
PARAMETERS = """\
# %% tags=["parameters"]
preset: str = "quick"
seeds: int = 0
runs_dir: str = "../runs"
figures_dir = "../figures"
workers: int = 1
"""
# Leaves a file the first time, and then dies as `line` says; lives from the second time on, but not with 4 seeds.
DIE_ONCE = """
# %%
import os, pathlib, signal, time
if not (mark := pathlib.Path("{mark}")).exists() or seeds == 4:
    mark.touch()
    {line}
"""
RECORD = """
# %%
from mtp_lab.experiments.verdicts import Verdict, record
record(figures_dir, "{name}", preset, [Verdict("{claim}", "1", "2", "", 1, "mixed")], "mtp-lab study")
"""
SETTING = """
# %%
import json, os, pathlib, sys
setting = dict(python=sys.executable, preset=preset, seeds=seeds, workers=workers, here=os.getcwd())
pathlib.Path(runs_dir).mkdir(exist_ok=True)
(pathlib.Path(runs_dir) / "setting.json").write_text(json.dumps(setting))
print("what the cell says")
"""


class Repository:
    """A folder with two notebooks, and `batch`, which runs them and records the output and the files."""

    def __init__(self, root: Path):
        self.root, self.out = root, root / "results"
        (root / "notebooks").mkdir()

    def write(self, name: str, *cells: str) -> None:
        text = f"# %% [markdown]\n# # A question\n\n{PARAMETERS}{''.join(cells)}"
        (self.root / "notebooks" / f"{name}.py").write_text(text)

    def run(self, **arguments) -> list[execution.Outcome]:
        defaults = dict(
            preset="smoke", only=(FIRST, SECOND), runs_dir=self.root / "runs", notebooks_dir=self.root / "notebooks"
        )
        return execution.run(out=self.out, **{**defaults, **arguments})

    def batch(self, **arguments) -> "Step":
        printed, progress = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(progress):
            outcomes = self.run(**arguments)
        files = {p.relative_to(self.out).as_posix(): p.read_text() for p in self.out.rglob("*") if p.is_file()}
        return Step(outcomes, printed.getvalue(), progress.getvalue(), files)


class Step:
    def __init__(self, outcomes, printed, progress, files):
        self.outcomes = {outcome.notebook: outcome for outcome in outcomes}
        self.statuses = [outcome.status for outcome in outcomes]
        self.printed, self.progress, self.files = printed, progress, files

    def claims(self) -> dict[str, str]:
        entries = json.loads(self.files["figures/verdicts.json"])
        return {entry["notebook"]: entry["verdicts"][0]["claim"] for entry in entries}


class History(NamedTuple):
    root: Path
    first: Step
    mended: Step
    idle: Step
    edited: Step
    reseeded: Step


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """The steps:
    first     a good and a failing notebook
    mended    the failing notebook is mended, and its process is killed once
    idle      nothing has changed
    edited    the kernel of the first notebook dies once, and the second notebook records no verdict
    reseeded  with more seeds, the kernel of the first notebook dies each time, with keep_going=False
    """
    root = tmp_path_factory.mktemp("repository")
    foreign = root / "jupyter" / "kernels" / "python3"  # a python3 kernel of another environment, long gone
    foreign.mkdir(parents=True)
    spec = {"argv": ["/nonexistent/python", "-f", "{connection_file}"], "display_name": "P", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(spec))
    repository = Repository(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(root / "jupyter"))
        repository.write(FIRST, SETTING, RECORD.format(name=FIRST, claim="one"))
        repository.write(SECOND, "\n# %%\nvalue = 3\n", '\n# %%\nraise ValueError("no such value\\nin detail")\n')
        first = repository.batch(jobs=2, seeds=3)
        kill = "os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)"
        repository.write(SECOND, DIE_ONCE.format(mark="killed", line=kill), RECORD.format(name=SECOND, claim="mended"))
        mended = repository.batch(seeds=3)
        idle = repository.batch(seeds=3)
        repository.write(
            FIRST, DIE_ONCE.format(mark="died", line="os._exit(1)"), RECORD.format(name=FIRST, claim="two")
        )
        repository.write(SECOND, "\n# %%\nvalue = 3\n")
        edited = repository.batch(jobs=2, seeds=3)
        reseeded = repository.batch(seeds=4, keep_going=False)
    return History(root, first, mended, idle, edited, reseeded)


def test_a_good_notebook_leaves_ipynb_verdict_and_stamp(history):
    """Catches: results in the wrong place, and a notebook stored without its outputs."""
    first = history.first
    assert first.outcomes[FIRST].status == "done" and first.outcomes[FIRST].seconds > 0
    assert first.claims() == {FIRST: "one"}
    assert json.loads(first.files[f"figures/{FIRST}/stamp.json"])["preset"] == "smoke"
    notebook = nbformat.reads(first.files[f"notebooks/{FIRST}.ipynb"], as_version=4)
    nbformat.validate(notebook)
    outputs = [output.get("text") for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs == ["what the cell says\n"]
    assert f"{FIRST}: running, smoke ..." in first.progress and f"{FIRST}: done in" in first.printed


def test_the_notebook_gets_its_parameters_and_this_interpreter_in_the_root(history):
    """Catches: a user's python3 kernelspec that starts another environment, parameters that are dropped, and relative
    paths that lead out of notebooks/ instead of the root."""
    root = history.root
    setting = json.loads((root / "runs" / "setting.json").read_text())
    assert setting.pop("workers") >= 1
    assert setting == {"python": sys.executable, "preset": "smoke", "seeds": 3, "here": str(root)}


def test_an_executed_notebook_shows_its_parameters_and_no_path_of_this_machine(history):
    """Catches: papermill's input_path and output_path, or absolute parameters, in a committed notebook."""
    root, first = history.root, history.first
    text = first.files[f"notebooks/{FIRST}.ipynb"]
    assert 'runs_dir = \\"runs\\"' in text and 'figures_dir = \\"results/figures\\"' in text
    for place in (root, tempfile.gettempdir(), sys.prefix, Path.home()):
        assert f"{place}/" not in text
    cells = nbformat.reads(text, as_version=4).cells
    assert all("papermill" not in cell.metadata for cell in cells)
    assert [cell.id for cell in cells] == [f"cell-{n}" for n in range(1, len(cells) + 1)]


def test_a_failing_cell_is_named_and_leaves_the_other_results(history):
    """Catches: a batch that stops at the first failure or swallows it, and a cell number that is not the In [n] of the
    notebook it points to. The parameters make In [1] and In [2]."""
    first = history.first
    outcome = first.outcomes[SECOND]
    assert (outcome.failed, outcome.cell, outcome.error) == (True, 4, "ValueError: no such value")
    assert f"{SECOND}: FAILED in cell [4] after" in first.printed
    assert outcome.path.name == f"{SECOND}.failed.ipynb"
    assert "no such value; starting it again" not in first.progress  # only a dead kernel gets a second attempt
    cells = nbformat.reads(first.files[f"notebooks/{SECOND}.failed.ipynb"], as_version=4).cells
    assert "raise ValueError" in outcome.traceback and outcome.traceback.endswith("no such value\nin detail")
    assert "\x1b" not in outcome.traceback and len(outcome.traceback.splitlines()) <= 8
    (failed,) = [cell for cell in cells if cell.get("execution_count") == 4]
    assert failed.outputs[0].ename == "ValueError"
    assert f"notebooks/{SECOND}.ipynb" not in first.files and f"figures/{SECOND}/stamp.json" not in first.files


def test_the_next_batch_runs_only_what_failed(history):
    """Catches: a batch that starts from the beginning, and a .failed.ipynb that outlives the failure."""
    first, mended = history.first, history.mended
    assert mended.statuses == ["already done", "done"]
    assert mended.claims() == {FIRST: "one", SECOND: "mended"}
    assert mended.files[f"notebooks/{FIRST}.ipynb"] == first.files[f"notebooks/{FIRST}.ipynb"]
    assert f"notebooks/{SECOND}.failed.ipynb" not in mended.files


def test_a_killed_process_is_started_again(history):
    """Catches: a SIGKILL (the kernel's out-of-memory killer) that takes the batch down or counts as a result."""
    root, mended = history.root, history.mended
    assert (root / "killed").exists()
    assert f"{SECOND}: its process was killed (SIGKILL); starting it again" in mended.progress


def test_a_batch_with_nothing_to_do_says_so_and_writes_nothing_new(history):
    """Catches: a key that changes from call to call, so that every batch runs everything."""
    mended, idle = history.mended, history.idle
    assert idle.statuses == ["already done", "already done"]
    assert idle.printed.splitlines() == [f"{FIRST}: already done", f"{SECOND}: already done", "nothing to do"]
    assert idle.progress == "" and idle.files == mended.files


def test_an_edited_notebook_runs_again_and_a_dead_kernel_gets_a_second_try(history):
    """Catches: results of an old source served as current, and a kernel's death counted as success: papermill marks
    the cell in which it died completed."""
    root, edited = history.root, history.edited
    assert edited.outcomes[FIRST].status == "done" and edited.claims()[FIRST] == "two"
    assert (root / "died").exists() and f"{FIRST}: Kernel died; starting it again" in edited.progress


def test_a_notebook_that_records_no_verdict_has_failed(history):
    """Catches: the verdict of an earlier execution that counts for this one."""
    idle, edited = history.idle, history.edited
    outcome = edited.outcomes[SECOND]
    assert outcome.failed and "recorded no verdict" in outcome.error
    assert f"figures/{SECOND}/stamp.json" not in edited.files
    # the older results stay, marked stale by the missing stamp
    assert edited.files[f"notebooks/{SECOND}.ipynb"] == idle.files[f"notebooks/{SECOND}.ipynb"]


def test_other_seeds_run_again_and_a_kernel_that_keeps_dying_is_given_up(history):
    """The kernel dies in cell [3], after the two cells of parameters.
    Catches: results of three seeds reported as four, a batch that restarts a dying kernel for ever or deletes its
    results, and keep_going=False that continues."""
    reseeded, edited = history.reseeded, history.edited
    assert reseeded.statuses == ["failed", "not run"]
    outcome = reseeded.outcomes[FIRST]
    assert (outcome.error, outcome.cell) == ("Kernel died", 3)
    assert reseeded.progress.count("starting it again") == 1
    assert reseeded.files[f"notebooks/{FIRST}.ipynb"] == edited.files[f"notebooks/{FIRST}.ipynb"]
    assert reseeded.claims() == edited.claims()


@pytest.mark.parametrize("lost", [f"figures/{FIRST}/verdict.json", f"notebooks/{FIRST}.ipynb"])
def test_a_stamp_does_not_stand_for_a_result_that_is_gone(history, tmp_path, lost):
    """Catches: a batch with nothing to do after a verdict or a notebook was deleted so that it is made again."""
    for name, text in history.idle.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    source = tmp_path / f"{FIRST}.py"
    source.write_text("x")
    stamp = tmp_path / "figures" / FIRST / "stamp.json"
    stamp.write_text(json.dumps({"key": plan.Task(source, tmp_path, "smoke", 3, "code").key}))
    assert plan.Task(source, tmp_path, "smoke", 3, "code").why == ""
    (tmp_path / lost).unlink()
    assert plan.Task(source, tmp_path, "smoke", 3, "code").why == f"missing: {Path(lost).name}"


def test_the_code_digest_sees_every_module_of_both_packages(tmp_path):
    """Catches: notebooks that stay "done" after the library has changed, or that run again for a cache file."""
    for package in ("data_gen", "mtp_lab/interp"):
        (tmp_path / package).mkdir(parents=True)
    digests = [plan.code_digest(tmp_path)]
    for name, text in [("data_gen/a.py", ""), ("mtp_lab/interp/b.py", ""), ("mtp_lab/interp/b.py", "x")]:
        (tmp_path / name).write_text(text)
        digests.append(plan.code_digest(tmp_path))
    (tmp_path / "data_gen/a.py").rename(tmp_path / "data_gen/c.py")
    digests.append(plan.code_digest(tmp_path))
    assert len(set(digests)) == len(digests)
    (tmp_path / "mtp_lab" / "b.pyc").write_bytes(b"x")
    assert plan.code_digest(tmp_path) == digests[-1]
    assert plan.code_digest() != plan.code_digest(tmp_path)


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"preset": "ful"}, "preset='ful' is not known; use one of 'smoke', 'quick', 'full', 'paper'"),
        ({"only": ("99_none",)}, f"notebook '99_none' is not known; use '{FIRST}'"),
        ({"seeds": -1}, "seeds=-1 must be an integer of at least 0"),
        ({"seeds": "3"}, "seeds='3' must be an integer of at least 0"),
        ({"jobs": 0}, "jobs=0 must be an integer of at least 1"),
        ({"jobs": True}, "jobs=True must be an integer of at least 1"),
    ],
)
def test_a_wrong_argument_is_refused_by_name_before_anything_runs(tmp_path, arguments, complaint):
    """Catches: a misspelt preset that fails only after the first notebook's hour."""
    repository = Repository(tmp_path)
    with pytest.raises(ValueError) as error:
        repository.run(**arguments)
    assert str(error.value).startswith(complaint)
    assert not repository.out.exists()


@pytest.mark.parametrize(
    "old, new, complaint",
    [
        ("workers: int = 1\n", "", "must also declare workers"),
        ("seeds: int = 0", "# seeds: int = 0", "must also declare seeds"),
        (' tags=["parameters"]', "", r"must have one cell # %% tags=\[\"parameters\"\], not 0"),
    ],
)
def test_an_undeclared_parameter_is_refused_before_anything_runs(tmp_path, old, new, complaint):
    """The first notebook is sound, and must not have run.
    Catches: papermill's mere warning, after which the notebook runs with its own default."""
    repository = Repository(tmp_path)
    repository.write(FIRST, RECORD.format(name=FIRST, claim="one"))
    repository.write(SECOND, RECORD.format(name=SECOND, claim="two"))
    source = tmp_path / "notebooks" / f"{SECOND}.py"
    source.write_text(source.read_text().replace(old, new))
    with pytest.raises(ValueError, match=rf"{SECOND}\.py.* {complaint}"):
        repository.run()
    assert not repository.out.exists()


def test_a_missing_source_is_refused_before_anything_runs(tmp_path):
    """Catches: a traceback of open() when the batch is started outside the repository."""
    with pytest.raises(FileNotFoundError, match=f"{FIRST}.py does not exist; run in the root"):
        Repository(tmp_path).run()


def test_a_file_for_a_folder_is_refused_before_anything_runs(tmp_path):
    """Catches: a night's batch whose every training fails at its first write."""
    repository = Repository(tmp_path)
    repository.write(FIRST)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file is a file; name a folder"):
        repository.run(only=(FIRST,), runs_dir=tmp_path / "file")
    assert not repository.out.exists()


# --- Without kernels ------------------------------------------------------------------------------------------------


def records(task: plan.Task, parameters: dict, lifeline: int) -> execution.Attempt:
    """Stands for the execution of a notebook that runs to its end."""
    verdict = Verdict("claim", "1", "2", "", 1, "mixed")
    record(task.out / "figures", task.name, parameters["preset"], [verdict], "mtp-lab study")
    return execution.Attempt(ipynb="{}")


@pytest.fixture
def finished(tmp_path, monkeypatch) -> Repository:
    """One notebook, executed with three seeds, by a library whose digest is "code"."""
    monkeypatch.setattr(execution, "_execute", records)
    monkeypatch.setattr(plan, "code_digest", lambda: "code")
    repository = Repository(tmp_path)
    repository.write(FIRST)
    assert [outcome.status for outcome in repository.run(only=(FIRST,), seeds=3)] == ["done"]
    return repository


def edit_source(repository: Repository) -> None:
    repository.write(FIRST, "\n# %%\nvalue = 3\n")


def edit_stamp(repository: Repository, edit) -> None:
    path = repository.out / "figures" / FIRST / "stamp.json"
    path.write_text(edit(path.read_text()))


def without_parts(stamp: str) -> str:
    """A stamp as it was before it held the parts of its key."""
    old = {name: value for name, value in json.loads(stamp).items() if name in ("key", "seconds", "preset")}
    return json.dumps({**old, "key": "another"})


def lose(repository: Repository, *names: str) -> None:
    for name in names:
        (repository.out / name).unlink()


RESULTS = (f"notebooks/{FIRST}.ipynb", f"figures/{FIRST}/verdict.json", f"figures/{FIRST}/stamp.json")
REASONS = {
    "nothing": (lambda repository: None, {}, ""),
    "no results": (lambda repository: lose(repository, *RESULTS), {}, "missing"),
    "no verdict": (lambda repository: lose(repository, RESULTS[1]), {}, "missing: verdict.json"),
    "the source": (edit_source, {}, "source changed"),
    "the seeds": (lambda repository: None, {"seeds": 4}, "parameters changed (seeds was 3)"),
    "the preset": (lambda repository: None, {"preset": "quick"}, "parameters changed (preset was smoke)"),
    "the library": (lambda repository: None, {"code": "new"}, "library changed"),
    "source and library": (edit_source, {"code": "new"}, "source changed, library changed"),
    "an old stamp": (lambda repository: edit_stamp(repository, without_parts), {}, "changed"),
    "a damaged stamp": (lambda repository: edit_stamp(repository, lambda text: text[:9]), {}, "changed"),
    "a stamp of another kind": (lambda repository: edit_stamp(repository, lambda text: "[]"), {}, "changed"),
}


@pytest.mark.parametrize("case", REASONS)
def test_a_plan_says_why_a_notebook_is_to_run(finished, monkeypatch, case):
    """For everything that makes results stale, and for older stamps; nothing is written.
    Catches: a batch of hours without a reason, an old stamp that ends the plan in a KeyError."""
    edit, changed, why = REASONS[case]
    edit(finished)
    monkeypatch.setattr(plan, "code_digest", lambda: changed.get("code", "code"))
    before = {path: path.stat().st_mtime_ns for path in finished.root.rglob("*")}
    preset, seeds = changed.get("preset", "smoke"), changed.get("seeds", 3)
    (task,) = plan.plan(preset, finished.out, (FIRST,), seeds, finished.root / "notebooks")
    assert task.why == why
    assert {path: path.stat().st_mtime_ns for path in finished.root.rglob("*")} == before


def test_the_parts_of_a_key_are_stamped_beside_it_and_leave_it_as_it_was(finished):
    """Catches: committed results that turn stale because the key is computed in another way."""
    stamp = json.loads((finished.out / "figures" / FIRST / "stamp.json").read_text())
    source = (finished.root / "notebooks" / f"{FIRST}.py").read_text()
    assert stamp.pop("seconds") >= 0
    assert stamp == {
        "key": hashlib.sha256(f"smoke 3 code\n{source}".encode()).hexdigest(),
        "preset": "smoke",
        "seeds": 3,
        "source": hashlib.sha256(source.encode()).hexdigest(),
        "code": "code",
    }


def test_a_failure_is_the_reason_of_the_next_plan_and_no_other_notebooks_end(tmp_path, monkeypatch):
    """An unexpected error is the failure of one notebook, with its traceback; the other notebook is done.
    Catches: a batch that ends in the middle of the night because of a damaged notebook file or a full disk."""

    def execute(task, parameters, lifeline):
        if task.name == FIRST:
            raise KeyError("start_time")
        return records(task, parameters, lifeline)

    repository = Repository(tmp_path)
    repository.write(FIRST)
    repository.write(SECOND)
    monkeypatch.setattr(execution, "_execute", execute)
    failed, done = repository.run()
    assert (failed.status, done.status) == ("failed", "done") and failed.error == "KeyError: 'start_time'"
    assert 'raise KeyError("start_time")' in failed.traceback

    def fail(task, parameters, lifeline):
        return execution.Attempt("no", "the\nlast", cell=3, ipynb="{}")

    monkeypatch.setattr(execution, "_execute", fail)
    (failed,) = repository.run(only=(FIRST,))
    assert (failed.error, failed.cell, failed.traceback) == ("no", 3, "the\nlast")
    tasks = plan.plan("smoke", repository.out, (FIRST, SECOND), 0, tmp_path / "notebooks")
    assert [task.why for task in tasks] == ["failed last time", ""]


def lines_of(repository: Repository, preset: str, seeds: int, *only: str) -> list[str]:
    tasks = plan.plan(preset, repository.out, only, seeds, repository.root / "notebooks")
    return report.plan_lines(tasks, preset, seeds, repository.root / "runs")


def test_a_plan_counts_missing_trainings_and_minutes_of_earlier_executions(finished):
    """Finished runs are not missing; minutes are those of the same preset, and unknown where there are none.
    Catches: a training counted that exists, a smoke test's seconds promised for a night."""
    finished.write("04_induction_heads")
    edit_source(finished)
    edit_stamp(finished, lambda text: json.dumps({**json.loads(text), "seconds": 90}))
    done = finished.root / "runs" / induction_configs("smoke", 3)[0].folder / "done.json"
    done.parent.mkdir(parents=True)
    done.write_text("{}")
    assert lines_of(finished, "smoke", 3, FIRST, "04_induction_heads") == [
        "preset smoke, 3 seeds",
        f"{FIRST}: source changed; trainings missing: 0; last time: 1.5 min",
        "04_induction_heads: missing; trainings missing: 5; last time: unknown",
        "to run: 2 of 2 notebooks; trainings missing: 5",
        "estimated: 1.5 minutes one after the other, unknown for 1 of them",
        "earlier executions may have reused finished trainings; missing trainings then take more time",
    ]
    other = lines_of(finished, "quick", 0, FIRST)
    assert other[0] == "preset quick, its own number of seeds" and other[-1] == "estimated: unknown"
    finished.run(only=(FIRST, "04_induction_heads"), seeds=3)
    done = [f"{FIRST}: already done", "04_induction_heads: already done", "nothing to do"]
    assert lines_of(finished, "smoke", 3, FIRST, "04_induction_heads")[1:] == done


def test_the_trainings_of_every_notebook_are_known():
    """Catches: a new notebook whose trainings a plan does not count."""
    called = {}
    for name in plan.NOTEBOOKS:
        source = (plan.HOME / "notebooks" / f"{name}.py").read_text()
        if found := set(re.findall(r"(\w+_configs)\(preset, seeds", source)):
            called[name] = min(found) if len(found) == 1 else "all_configs"  # which holds them all
        assert ("get_runs(" in source) == bool(found), name
    assert called == {name: function.rpartition(".")[2] for name, function in registry.TRAININGS.items()}
    assert report.missing_trainings(plan.NOTEBOOKS[-1], "smoke", 1, "/no/runs") > 0


def test_a_batch_ends_with_its_failures_and_the_size_of_its_runs(tmp_path):
    """Catches: a failure that has scrolled away, a folder of runs that fills the disk unnoticed."""
    (tmp_path / "a").write_bytes(bytes(3_000_000))
    outcomes = [
        execution.Outcome("a", "done"),
        execution.Outcome("b", "failed", 61.4, "ValueError: no", 4, None, "x\ny"),
    ]
    assert report.closing_lines(outcomes, tmp_path) == [
        "1 of 2 notebooks failed:",
        "  b: FAILED in cell [4] after 61 s: ValueError: no",
        "    x",
        "    y",
        f"runs: 3 MB in {tmp_path}",
    ]
    assert report.closing_lines(outcomes[:1], tmp_path / "none") == [f"runs: 0 MB in {tmp_path / 'none'}"]


def test_an_outcome_is_one_line():
    """Catches: a report that a terminal or a log splits, or a failure that does not say where to look."""
    failed = execution.Outcome("a", "failed", 61.4, "ValueError: no", 4, Path("a.failed.ipynb").resolve())
    assert str(failed) == "a: FAILED in cell [4] after 61 s: ValueError: no; see a.failed.ipynb"
    assert str(execution.Outcome("a", "failed", 0.2, "OSError: full")) == "a: FAILED after 0 s: OSError: full"
    assert str(execution.Outcome("a", "not run")) == "a: not run"


def test_the_study_is_imported_without_torch_and_papermill():
    """Catches: `mtp-lab --help` that waits seconds for libraries that only the children need."""
    check = "import sys, mtp_lab.batch.execution; sys.exit(bool({'torch', 'papermill', 'jupytext'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_a_learners_runs_fit_200_megabytes():
    """All weights and snapshots of preset quick, in fp32; logs, figures and notebooks are a tenth of the bound.
    Catches: conditions, seeds or snapshots added to quick that take too much of a learner's disk."""
    weights = 0
    for notebook in plan.NOTEBOOKS:
        for config in registry.trainings(notebook, "quick", 0).values():
            with torch.device("meta"):
                model = MTPTransformer(config.model)
            copies = 1 + (2 + config.steps // config.snapshot_every if config.snapshot_every else 0)
            weights += copies * sum(parameter.numel() for parameter in model.parameters())
    assert 4 * weights / 1e6 < 180
