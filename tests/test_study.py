"""Batches of notebooks: every test states a property and the bug it would catch.

Kernels take seconds to start, so one short history of batches (the fixture `history`) runs once, and the tests look
at what each of its steps left behind.
"""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

from mtp_lab import study

FIRST, SECOND = study.NOTEBOOKS[:2]
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
from mtp_lab.verdicts import Verdict, record
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
    """A folder with two notebooks, and `batch`, which runs them and keeps what was printed and written."""

    def __init__(self, root: Path):
        self.root, self.out = root, root / "results"
        (root / "notebooks").mkdir()

    def write(self, name: str, *cells: str) -> None:
        text = f"# %% [markdown]\n# # A question\n\n{PARAMETERS}{''.join(cells)}"
        (self.root / "notebooks" / f"{name}.py").write_text(text)

    def run(self, **arguments) -> list[study.Outcome]:
        defaults = dict(
            preset="smoke", only=(FIRST, SECOND), runs_dir=self.root / "runs", notebooks_dir=self.root / "notebooks"
        )
        return study.run(out=self.out, **{**defaults, **arguments})

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
    """The steps: a good and a failing notebook; the failing one mended, whose process is killed once; nothing new;
    the good one edited, whose kernel dies once, and the other one edited so that it records no verdict; more seeds,
    with which the first one's kernel dies each time, and the batch is told to stop."""
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
    """Catches: papermill's input_path and output_path, or absolute parameters, in a notebook that is committed."""
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
    assert "starting it again" not in first.progress
    cells = nbformat.reads(first.files[f"notebooks/{SECOND}.failed.ipynb"], as_version=4).cells
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
    """Catches: the verdict of an earlier execution taken for one of this."""
    idle, edited = history.idle, history.edited
    outcome = edited.outcomes[SECOND]
    assert outcome.failed and "recorded no verdict" in outcome.error
    assert f"figures/{SECOND}/stamp.json" not in edited.files
    # the older results stay, marked stale by the missing stamp
    assert edited.files[f"notebooks/{SECOND}.ipynb"] == idle.files[f"notebooks/{SECOND}.ipynb"]


def test_other_seeds_run_again_and_a_kernel_that_keeps_dying_is_given_up(history):
    """Catches: three seeds passed off as four, a batch that restarts a hopeless kernel for ever, its results taken
    away, and keep_going=False that goes on. What killed it stands in cell [3], after the parameters' two."""
    reseeded, edited = history.reseeded, history.edited
    assert reseeded.statuses == ["failed", "not run"]
    outcome = reseeded.outcomes[FIRST]
    assert (outcome.error, outcome.cell) == ("Kernel died", 3)
    assert reseeded.progress.count("starting it again") == 1
    assert reseeded.files[f"notebooks/{FIRST}.ipynb"] == edited.files[f"notebooks/{FIRST}.ipynb"]
    assert reseeded.claims() == edited.claims()


@pytest.mark.parametrize("lost", [f"figures/{FIRST}/verdict.json", f"notebooks/{FIRST}.ipynb"])
def test_a_stamp_does_not_stand_for_a_result_that_is_gone(history, tmp_path, lost):
    """Catches: a batch with nothing to do where someone deleted a verdict or a notebook to have it made again."""
    for name, text in history.idle.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    source = tmp_path / f"{FIRST}.py"
    source.write_text("x")
    stamp = tmp_path / "figures" / FIRST / "stamp.json"
    stamp.write_text(json.dumps({"key": study._Task(source, tmp_path, "smoke 3 code").key}))
    assert study._Task(source, tmp_path, "smoke 3 code").done
    (tmp_path / lost).unlink()
    assert not study._Task(source, tmp_path, "smoke 3 code").done


def test_the_code_digest_sees_every_module_of_both_packages(tmp_path):
    """Catches: notebooks that stay "done" after the library under them changed, or that run again for a cache file."""
    for package in ("data_gen", "mtp_lab/interp"):
        (tmp_path / package).mkdir(parents=True)
    digests = [study.code_digest(tmp_path)]
    for name, text in [("data_gen/a.py", ""), ("mtp_lab/interp/b.py", ""), ("mtp_lab/interp/b.py", "x")]:
        (tmp_path / name).write_text(text)
        digests.append(study.code_digest(tmp_path))
    (tmp_path / "data_gen/a.py").rename(tmp_path / "data_gen/c.py")
    digests.append(study.code_digest(tmp_path))
    assert len(set(digests)) == len(digests)
    (tmp_path / "mtp_lab" / "b.pyc").write_bytes(b"x")
    assert study.code_digest(tmp_path) == digests[-1]
    assert study.code_digest() != study.code_digest(tmp_path)


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"preset": "ful"}, "preset='ful' is not known; use one of 'smoke', 'quick', 'full', 'paper'"),
        ({"only": ("99_none",)}, f"notebook '99_none' is not known; use '{FIRST}'"),
        ({"seeds": -1}, "seeds=-1 must be an integer of at least 0"),
        ({"jobs": 0}, "jobs=0 must be an integer of at least 1"),
    ],
)
def test_a_wrong_argument_is_refused_by_name_before_anything_runs(tmp_path, arguments, complaint):
    """Catches: a misspelt preset that costs the first notebook's hour before it fails."""
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
    """Catches: papermill's mere warning, after which the notebook runs with its own default. The first notebook is
    sound, and must not have run."""
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


def test_an_outcome_is_one_line():
    """Catches: a report that a terminal or a log splits, or a failure that does not say where to look."""
    failed = study.Outcome("a", "failed", 61.4, "ValueError: no", 4, Path("a.failed.ipynb").resolve())
    assert str(failed) == "a: FAILED in cell [4] after 61 s: ValueError: no; see a.failed.ipynb"
    assert str(study.Outcome("a", "failed", 0.2, "OSError: full")) == "a: FAILED after 0 s: OSError: full"
    assert str(study.Outcome("a", "not run")) == "a: not run"


def test_the_study_is_imported_without_torch_and_papermill():
    """Catches: `mtp-lab --help` that waits seconds for libraries that only the children need."""
    check = "import sys, mtp_lab.study; sys.exit(bool({'torch', 'papermill', 'jupytext'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
