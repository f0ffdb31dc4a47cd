"""Faults of a batch of notebooks: killed in the middle, two at once, kernels without memory, sources that do not parse.

Kernels take seconds to start, so each test checks all results of one or two batches. Tested elsewhere
(test_execution.py): a failing cell, a kernel or its process that dies once, and a missing verdict.
"""

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from mtp_lab.batch import plan

FIRST, SECOND, THIRD, FOURTH = plan.NOTEBOOKS[:4]
PARAMETERS = """\
# %% tags=["parameters"]
preset: str = "quick"
seeds: int = 0
runs_dir: str = "../runs"
figures_dir = "../figures"
workers: int = 1

# %%
with open("executed", "a") as file:
    file.write("{name}\\n")
"""
RECORD = """
# %%
from mtp_lab.experiments.verdicts import Verdict, record
record(figures_dir, "{name}", preset, [Verdict("claim", "1", "2", "", 1, "mixed")], "mtp-lab study")
"""
# Trains a run, all of whose batches are noted in the file `batches`.
TRAIN = """
# %%
from dataclasses import asdict, replace
from mtp_lab.training import runs
from mtp_lab.config import ModelConfig, TrainConfig
from mtp_lab.tasks import BytesTask

class NotedTask(BytesTask):
    def batch(self, rows, step, seed):
        with open("batches", "a") as file:
            file.write(f"{{step}}\\n")
        return super().batch(rows, step, seed)

model = ModelConfig(d_model=16, n_attention_heads=2, n_layers=2, max_seq=32, d_mlp=32)
run = runs.get_run(
    TrainConfig(NotedTask(paths=({corpus!r},), seq=32), model, steps=10, batch_size=4, evaluate_rows=4), runs_dir
)
"""
HANG_ONCE = """
# %%
import pathlib, time
if not (mark := pathlib.Path("hung")).exists():
    mark.touch()
    time.sleep(600)
"""


class Repository:
    """A folder with notebooks, for which batches run as commands of their own."""

    def __init__(self, root: Path):
        self.root = root
        (root / "notebooks").mkdir()

    def write(self, name: str, *cells: str) -> None:
        text = PARAMETERS.format(name=name) + "".join(cells) + RECORD.format(name=name)
        (self.root / "notebooks" / f"{name}.py").write_text(text)

    def batch(self, only: Sequence[str], out: str = "results", jobs: int = 1) -> subprocess.Popen:
        command = [sys.executable, "-m", "mtp_lab.cli", "study", "--preset", "smoke", "--out", out, "--jobs", str(jobs)]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return subprocess.Popen([*command, "--only", *only], cwd=self.root, **pipes)

    def executed(self) -> Counter[str]:
        """How often each notebook was started."""
        return Counter((self.root / "executed").read_text().split())

    def files(self, out: str = "results") -> dict[str, tuple[str, int]]:
        """Content and time of last change of all files that a batch has written."""
        paths = [path for path in (self.root / out).rglob("*") if path.is_file()]
        return {p.relative_to(self.root / out).as_posix(): (p.read_text(), p.stat().st_mtime_ns) for p in paths}


def test_a_batch_that_is_killed_loses_nothing_and_does_nothing_twice(corpus, tmp_path, survived):
    """SIGKILL while the second of three notebooks hangs after its training: no process of the batch is left. The same
    command then leaves alone what was done, trains nothing that is trained, and runs the other two.
    Catches: kernels that outlive their batch, a stamp before its results, a batch that starts from the beginning."""
    repository = Repository(tmp_path)
    repository.write(FIRST)
    repository.write(SECOND, TRAIN.format(corpus=corpus), HANG_ONCE)
    repository.write(THIRD)
    batch = repository.batch((FIRST, SECOND, THIRD))
    deadline = time.monotonic() + 300
    while not (tmp_path / "hung").exists() and batch.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    processes = psutil.Process(batch.pid).children(recursive=True)
    batch.kill()
    output = batch.communicate()
    assert (tmp_path / "hung").exists(), output
    assert len(processes) >= 2  # the child that runs the notebook, and its kernel
    assert not psutil.wait_procs(processes, timeout=60)[1]
    assert repository.executed() == {FIRST: 1, SECOND: 1}
    before = repository.files()
    assert {f"notebooks/{FIRST}.ipynb", f"figures/{FIRST}/stamp.json"} < before.keys()
    assert not any(SECOND in name for name in before)

    batch = repository.batch((FIRST, SECOND, THIRD))
    out, err = batch.communicate(timeout=300)
    assert batch.returncode == 0, err
    assert re.findall(r"^(\S+): (already done|done in)", out, re.M) == [
        (FIRST, "already done"),
        (SECOND, "done in"),
        (THIRD, "done in"),
    ]
    assert repository.executed() == {FIRST: 1, SECOND: 2, THIRD: 1}
    after = repository.files()
    assert {name: after[name] for name in before} == before
    assert [entry["notebook"] for entry in json.loads(after["figures/verdicts.json"][0])] == [FIRST, SECOND, THIRD]
    assert Counter((tmp_path / "batches").read_text().split()) == {str(step): 1 for step in range(10)}
    survived(1, "SIGKILL of a batch of notebooks: no process left, nothing done twice")


def test_two_batches_at_once_share_their_trainings(corpus, tmp_path, survived):
    """Two commands with different results and one runs directory: both end well, and the run was trained by one.
    Catches: two kernels that train the same run side by side, a batch that fails because a run is taken."""
    repository = Repository(tmp_path)
    repository.write(FIRST, TRAIN.format(corpus=corpus))
    batches = [repository.batch((FIRST,), out) for out in ("one", "other")]
    outputs = [batch.communicate(timeout=300) for batch in batches]
    assert [batch.returncode for batch in batches] == [0, 0], outputs
    assert repository.executed() == {FIRST: 2}
    assert Counter((tmp_path / "batches").read_text().split()) == {str(step): 1 for step in range(10)}
    verdicts = [repository.files(out)[f"figures/{FIRST}/verdict.json"][0] for out in ("one", "other")]
    assert verdicts[0] == verdicts[1]
    survived(1, "two batches of notebooks at once on one runs directory: the run trained once")


SYNTAX_ERROR = """
# %%
value = 3

# %%
for step in range(3) print(step)
"""
OUT_OF_MEMORY = """
# %%
import resource
from pathlib import Path
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 2**28
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

# %%
held = [bytearray(2**20)]
while True:  # more than there is, in one piece: what is left is enough for the traceback
    held.append(bytearray(2**28))
"""
KILLED_FOR_MEMORY = """
# %%
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not report the size of a process")
def test_notebooks_that_cannot_go_on_are_reported_with_their_cell(tmp_path, survived):
    """A cell that does not parse, one that exhausts the memory of its kernel, a kernel that the system kills for memory
    (twice: it gets a second attempt), and a good notebook between them. Cells count the parameters' two and the first.
    Catches: a batch that ends at a syntax error, a MemoryError that is tried again, a killed kernel taken for done."""
    repository = Repository(tmp_path)
    names = (FIRST, SECOND, THIRD, FOURTH)
    for name, cell in zip(names, (SYNTAX_ERROR, OUT_OF_MEMORY, "", KILLED_FOR_MEMORY), strict=True):
        repository.write(name, cell)
    batch = repository.batch(names, jobs=2)
    out, err = batch.communicate(timeout=300)
    assert batch.returncode == 1, err
    assert repository.executed() == {FIRST: 1, SECOND: 1, THIRD: 1, FOURTH: 2}
    assert f"{FOURTH}: Kernel died; starting it again" in err and err.count("starting it again") == 1
    assert "3 of 4 notebooks failed:" in out and re.search(rf"^{THIRD}: done in", out, re.M)
    failed = re.findall(r"^(\S+): FAILED in cell \[(\d+)\] after \d+ s: (.*); see (.*)$", out, re.M)
    reported = {name: (cell, error, path) for name, cell, error, path in failed}
    assert [reported[name][0] for name in (FIRST, SECOND, FOURTH)] == ["5", "5", "4"]
    assert reported[FIRST][1].startswith("SyntaxError: ") and reported[SECOND][1].startswith("MemoryError")
    assert reported[FOURTH][1] == "Kernel died"
    closing = out.partition("notebooks failed:")[2]
    assert "for step in range(3) print(step)" in closing and "held.append(bytearray(2**28))" in closing  # tracebacks
    files = repository.files()
    assert f"notebooks/{THIRD}.ipynb" in files and f"figures/{THIRD}/stamp.json" in files
    for name in (FIRST, SECOND, FOURTH):
        assert (
            reported[name][2] == f"results/notebooks/{name}.failed.ipynb" and f"notebooks/{name}.failed.ipynb" in files
        )
        assert f"notebooks/{name}.ipynb" not in files and f"figures/{name}/stamp.json" not in files
    survived(1, "notebook with a syntax error: cell and traceback reported, the others run")
    survived(1, "kernel out of memory, MemoryError: cell and traceback reported, the others run")
    survived(2, "kernel killed for memory: started once more, then reported with its cell")
