"""Faults of runs directories: two callers at once, a caller that is killed, no right to write, configs of another
version. What is covered elsewhere: two processes that ask for one run, and a lock that outlives nobody (test_runs.py).
"""

import contextlib
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from mtp_lab.cli import main
from mtp_lab.config import ModelConfig, TrainConfig
from mtp_lab.tasks import BytesTask
from mtp_lab.training import runs
from mtp_lab.training.runs import Run

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["mtp_lab.training.loop", "torch._dynamo"])  # imported once for all children
BATCHES = "BATCHES_OF_A_TEST"  # the environment variable that names the file of NotedTask


class NotedTask(BytesTask):
    """Notes each batch; has the fields, so the hash and folder, of the task it stands for."""

    def batch(self, rows: int, step: int, seed: int):
        with open(os.environ[BATCHES], "a") as file:
            file.write(f"{seed} {step}\n")
        return super().batch(rows, step, seed)


def tiny(corpus: str, **changes) -> TrainConfig:
    fields = dict(
        task=BytesTask(paths=(corpus,), seq=32),
        model=ModelConfig(d_model=16, n_attention_heads=2, n_layers=2, n_future=2, max_seq=32, d_mlp=32),
        steps=4,
        batch_size=4,
        log_every=1,
        evaluate_every=2,
        evaluate_rows=4,
        checkpoint_every=20,
        precision="fp32",
    )
    return TrainConfig(**{**fields, **changes})


def weights(run: Run) -> bytes:
    return (run.path / "weights.safetensors").read_bytes()


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Identity and time of last change of every file."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


# --- Two callers, and one that is killed -----------------------------------------------------------------------------


def get_noted(configs: Sequence[TrainConfig], runs_dir: Path, workers: int, batches: Path) -> None:
    """Gets all runs in this process; every batch is noted in `batches`."""
    os.environ[BATCHES] = str(batches)
    noted = [replace(config, task=NotedTask(**asdict(config.task))) for config in configs]
    for run, config in zip(runs.get_runs(noted, runs_dir, workers, threads=1), configs, strict=True):
        assert run.path == runs_dir / config.folder and len(run.log()) == config.steps
        assert run.model() is not None


def noted(batches: Path) -> Counter[tuple[int, int]]:
    """How often each batch was drawn, by seed and step."""
    return Counter(tuple(map(int, line.split())) for line in batches.read_text().splitlines())


def test_two_batches_at_once_train_every_run_once(corpus, finished, tmp_path, survived):
    """Both ask for the same runs, in opposite orders, and get all of them; every batch of every training is drawn once.
    Catches: a training that both do, one that waits for the other while that waits for it, a run that is read before
    it is whole."""
    configs = [tiny(corpus, steps=20, seed=seed) for seed in range(3)]
    callers = [
        CHILDREN.Process(target=get_noted, args=(order, tmp_path / "runs", 1, tmp_path / "batches"))
        for order in (configs, configs[::-1])
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(300)
    assert [caller.exitcode for caller in callers] == [0, 0]
    assert noted(tmp_path / "batches") == {(seed, step): 1 for seed in range(3) for step in range(20)}
    for config in configs:
        assert weights(runs.get_run(config, tmp_path / "runs")) == weights(runs.get_run(config, finished))
    survived(1, "two batches at once on one runs directory: each run trained once")


def test_a_batch_of_trainings_that_is_killed_leaves_no_worker_and_loses_no_run(
    corpus, finished, tmp_path, monkeypatch, survived
):
    """SIGKILL to the process that asked, while one of its workers trains and the other waits: both end. The next call
    leaves alone what was done, and goes on from the checkpoint of what was not.
    Catches: workers that wait for their dead caller for ever, each with torch in its memory; a training that goes on
    beside the next batch; finished runs trained again."""
    quick, long = [tiny(corpus, seed=seed) for seed in (0, 1)], tiny(corpus, steps=400, seed=2)
    batches = tmp_path / "batches"
    caller = CHILDREN.Process(target=get_noted, args=([*quick, long], tmp_path, 2, batches))
    caller.start()
    deadline, kept = time.monotonic() + 300, tmp_path / long.folder / "checkpoints"
    done = [tmp_path / config.folder / "done.json" for config in quick]
    while not (all(path.exists() for path in done) and any(kept.glob("step-*"))) and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = psutil.Process(caller.pid).children(recursive=True)
    caller.kill()
    caller.join()
    assert caller.exitcode == -signal.SIGKILL and not (tmp_path / long.folder / "done.json").exists()
    assert len(workers) >= 2 and not psutil.wait_procs(workers, timeout=60)[1]

    before, drawn = [files(tmp_path / config.folder) for config in quick], noted(batches)
    reached = max(step for seed, step in drawn if seed == 2)
    (*_, newest) = sorted(kept.glob("step-*"))
    monkeypatch.setenv(BATCHES, "")  # to be as before after the test
    get_noted([*quick, long], tmp_path, 1, batches)
    assert [files(tmp_path / config.folder) for config in quick] == before
    again = noted(batches) - drawn
    resumed = int(newest.name.split("-")[1])
    assert 0 < resumed <= reached + 1 < long.steps
    assert again == {(2, step): 1 for step in range(resumed, long.steps)}
    assert weights(runs.get_run(long, tmp_path)) == weights(runs.get_run(long, finished))
    survived(1, "SIGKILL of a batch of trainings: no worker left, no run trained again")


# --- A directory that may only be read -------------------------------------------------------------------------------


@contextmanager
def without_rights() -> Iterator[None]:
    """As an ordinary user: root may write anywhere."""
    if os.geteuid():
        yield
        return
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("root that may not become another user may write anywhere")
    try:
        yield
    finally:
        os.seteuid(0)


def outcome(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def read_only(corpus, finished, tmp_path, monkeypatch) -> Iterator[TrainConfig]:
    """The config of a finished run in ./runs, beside which lies an unfinished one; nothing below ./runs may be written.
    Paths are relative to the test's folder, since those above it cannot be entered without rights."""
    config = tiny(corpus)
    shutil.copytree(runs.get_run(config, finished).path, tmp_path / "runs" / config.folder)
    unfinished = tmp_path / "runs" / tiny(corpus, seed=1).folder
    unfinished.mkdir()
    shutil.copy(tmp_path / "runs" / config.folder / "config.json", unfinished)
    folders = [tmp_path / "runs", *(path for path in (tmp_path / "runs").rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    yield config
    for folder in folders:
        folder.chmod(0o755)


def test_runs_that_may_only_be_read_are_read(read_only, survived):
    """A finished run is got, evaluated and listed, an unfinished one shown, as where one may write.
    Catches: a lock that is taken to look at what is done."""
    path, unfinished = f"runs/{read_only.folder}", replace(read_only, seed=1).folder

    def results() -> list[tuple[int, str, str]]:
        assert weights(runs.get_run(read_only)) == weights(runs.get_runs([read_only] * 2)[1])
        assert runs.open_run(path).model() is not None
        commands = [["runs"], ["runs", "show", path], ["runs", "show", unfinished], ["evaluate", "--run", path]]
        return [outcome(*command) for command in commands]

    with_rights = results()  # which also imports all that it takes: Python may lie where one may not look without
    (Path("runs") / unfinished / ".lock").unlink(missing_ok=True)
    with without_rights():
        assert os.access("runs", os.R_OK, effective_ids=True) and not os.access("runs", os.W_OK, effective_ids=True)
        assert results() == with_rights
    assert [(code, err) for code, _, err in with_rights] == [(0, "")] * 4
    assert f"{read_only.folder}: done" in with_rights[1][1] and f"{unfinished}: unfinished" in with_rights[2][1]
    survived(1, "read-only runs directory: finished runs are read")


def test_what_would_be_written_there_is_refused(read_only, survived):
    """A run that is missing, and one that is unfinished: refused at once, with the folder.
    Catches: a training of hours that fails at its first checkpoint."""
    missing, unfinished = replace(read_only, name="new"), replace(read_only, seed=1)
    with without_rights():
        for config in (missing, unfinished):
            with pytest.raises(OSError, match=f"Permission denied: '.*runs/{config.folder}"):
                runs.get_run(config)
    survived(2, "read-only runs directory: training refused, the folder named")


@pytest.mark.skipif(not os.access("/sys/kernel", os.X_OK), reason="no file system here that even root may not write to")
def test_a_file_system_that_nobody_may_write_to_is_named(corpus, survived):
    """The same in /sys, where root may not write either; on the command line in one line.
    Catches: a traceback where the folder cannot be made."""
    config = tiny(corpus)
    with pytest.raises(OSError, match="/sys/kernel/runs"):
        runs.get_run(config, "/sys/kernel/runs")
    code, out, err = outcome("train", "--task.paths", corpus, "--runs-dir", "/sys/kernel/runs", "--steps", "1")
    assert (code, out) == (2, "") and re.fullmatch(r"error: [^\n]*/sys/kernel/runs[^\n]*\n", err)
    survived(2, "read-only runs directory: training refused, the folder named")


# --- Configs of another version --------------------------------------------------------------------------------------


LATER = {  # what changed in config.json: the change, and the error message
    "a new field": (lambda config: {**config, "momentum": 0.9}, "'momentum'"),
    "a new group of fields": (lambda config: {**config, "data": {"shuffle": True}}, "data={'shuffle': True}"),
    "a new field of the model": (lambda config: {**config, "model": {**config["model"], "experts": 8}}, "'experts'"),
    "an unknown task": (lambda config: {**config, "task": {"kind": "images", "seq": 64}}, "kind 'images' is none of"),
    "an unknown kind of heads": (
        lambda config: {**config, "model": {**config["model"], "head_kind": "tree"}},
        "head_kind='tree' is not known",
    ),
    "a model by its name": (lambda config: {**config, "model": "7B"}, "model='7B'"),
    "a task by its name": (lambda config: {**config, "task": "bytes"}, "task='bytes'"),
    "an optimizer by its name": (lambda config: {**config, "optimizer": "lion"}, "optimizer='lion'"),
    "a number as a group": (lambda config: {**config, "steps": {"warmup": 10}}, "steps={'warmup': 10}"),
    "another layout": (lambda config: {"version": 2, "stages": [config]}, "'task'"),
    "a list": (lambda config: [config], "'task'"),
}


@pytest.mark.parametrize("case", LATER)
def test_a_config_of_a_later_version_is_named_and_hides_no_other_run(case, corpus, finished, tmp_path, survived):
    """Opening it says what this version does not know; beside it runs are listed, opened and trained as ever, and it
    can be shown. Pruning it is offered where it is unfinished; its weights are spared.
    Catches: an AttributeError of a config in another form, one foreign run for which nothing can be listed any more."""
    change, message = LATER[case]
    config, folder = tiny(corpus), tmp_path / "next" / "run-0123456789"
    shutil.copytree(runs.get_run(config, finished).path, folder)
    shutil.copytree(runs.get_run(config, finished).path, tmp_path / config.folder)
    (folder / "config.json").write_text(json.dumps(change(json.loads((folder / "config.json").read_text()))))
    with pytest.raises(ValueError, match=re.escape(message)):
        runs.open_run(folder)
    for command in (["evaluate", "--run", str(folder)], ["generate", "--run", str(folder), "--prompt", "a"]):
        code, out, err = outcome(*command)
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1

    code, listed, err = outcome("runs", "list", "--runs-dir", str(tmp_path))
    assert (code, err) == (0, "") and config.folder in listed and "next/run-0123456789" in listed
    code, shown, err = outcome("runs", "show", str(folder))
    assert code == 0 and shown.startswith("next/run-0123456789: done\n") or case == "a list" and "not a config" in err
    assert weights(runs.get_run(config, tmp_path)) == weights(runs.open_run(tmp_path / config.folder))

    prune = ["runs", "prune", "--runs-dir", str(tmp_path), "--days", "0", "--yes"]
    assert "cannot read its config; done, so its weights are kept" in outcome(*prune)[1]
    (folder / "done.json").unlink()
    (folder / "weights.safetensors").unlink()
    assert "run-0123456789: this version cannot read its config;" in outcome(*prune)[1]
    assert not folder.exists() and (tmp_path / config.folder / "done.json").exists()
    survived(1, "config of a later version: named, other runs untouched")
