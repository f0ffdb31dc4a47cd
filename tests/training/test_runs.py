"""Runs by content: one config, one folder, trained once, whoever asks; what is wrong with a folder is said by name."""

import json
import multiprocessing
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from mtp_lab.config import ModelConfig, TrainConfig
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.serialization import to_mapping
from mtp_lab.tasks import BytesTask
from mtp_lab.training import housekeeping, runs
from mtp_lab.training.checkpoints import DamagedFile
from mtp_lab.training.runs import RunLocked

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["mtp_lab.training.loop", "torch._dynamo"])  # imported once for all children


def write_corpus(folder: Path, seed: int = 0) -> Path:
    """40 short files with names that fall into all three splits."""
    folder.mkdir(exist_ok=True)
    words = np.random.default_rng(seed).choice(["the ", "bird ", "sang. ", "a ", "cat ", "and "], size=(40, 24))
    for i, row in enumerate(words):
        (folder / f"{i:02d}.txt").write_text("".join(row))
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    return str(write_corpus(tmp_path_factory.mktemp("corpus")))


def tiny(corpus: str, **changes) -> TrainConfig:
    fields = dict(
        task=BytesTask(paths=(corpus,), seq=32),
        model=ModelConfig(d_model=16, n_attention_heads=2, n_layers=2, n_future=2, max_seq=32, d_mlp=32),
        steps=4,
        batch_size=4,
        log_every=1,
        evaluate_every=2,
        evaluate_rows=4,
        precision="fp32",
    )
    return TrainConfig(**{**fields, **changes})


@pytest.fixture
def copied(corpus, finished, tmp_path) -> Path:
    """Folder of a finished run that a test may damage."""
    return Path(shutil.copytree(runs.get_run(tiny(corpus), finished).path, tmp_path / "bytes" / "copy"))


class Stop(Exception):
    pass


class StoppingTask(BytesTask):
    """Stops its training at step 3; has the fields, so the hash and folder, of the task it stands for."""

    def batch(self, rows: int, step: int, seed: int):
        if step == 3:
            raise Stop
        return super().batch(rows, step, seed)


def unfinished(config: TrainConfig, runs_dir: Path) -> Path:
    """Folder of a run that stopped after 3 steps."""
    with pytest.raises(Stop):
        runs.get_run(replace(config, task=StoppingTask(**asdict(config.task))), runs_dir)
    return runs_dir / config.folder


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Identity and time of last change of every file."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def weights(run: runs.Run) -> bytes:
    return (run.path / "weights.safetensors").read_bytes()


# --- One config, one run -------------------------------------------------------------------------------------------


def test_a_run_is_trained_once(corpus, tmp_path):
    """Asking again gives the same run and touches no file of it; any other config gets another folder.
    Catches: training over a finished run, and a field left out of a run's identity."""
    config = tiny(corpus, name="once")
    first = runs.get_run(config, tmp_path)
    before = files(first.path)
    assert {"config.json", "metrics.jsonl", "weights.safetensors", "done.json"} <= before.keys()
    again = runs.get_run(config, str(tmp_path), wait=False)
    assert files(first.path) == before and again == first
    changes = [dict(seed=1), dict(steps=5), dict(name="twice"), dict(model=replace(config.model, smeared_keys=True))]
    assert len({replace(config, **change).folder for change in changes} | {config.folder}) == 5


def test_a_run_opens_as_the_config_it_was_asked_for(corpus, finished):
    """config.json gives back an equal config with the same folder, and the model in it predicts.
    Catches: tuples that come back as lists, a config that another default changes later."""
    run = runs.get_run(tiny(corpus), finished)
    opened = runs.open_run(str(run.path))
    assert opened == run and opened.config.folder == tiny(corpus).folder
    model = opened.model()
    assert not model.training
    assert model.all_logits(torch.zeros(1, 8, dtype=torch.long)).shape == (2, 1, 8, 257)


def test_metrics_are_one_tidy_table(corpus, finished):
    """One row a split, step and horizon, with the values of the log.
    Catches: horizons counted from 0, train and validation swapped, rows without validation filled up."""
    run = runs.get_run(tiny(corpus), finished)
    table = run.metrics()
    logged = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged] == [1, 2, 3, 4]
    assert len(table) == 4 * 2 + 2 * 2
    for split, steps in (("train", [1, 2, 3, 4]), ("validation", [2, 4])):
        for horizon in (1, 2):
            part = table[(table["split"] == split) & (table["horizon"] == horizon)]
            assert part["step"].tolist() == steps
            assert part["loss"].tolist() == [row[split][horizon - 1] for row in logged if row["step"] in steps]
            assert part["tokens"].tolist() == [step * 4 * 32 for step in steps]
    assert set(table["n"]) == {2} and set(table["seed"]) == {0} and set(table["run"]) == {run.path.name}


def test_measures_are_one_tidy_table(corpus, finished, copied):
    """One row a measure and step that was evaluated, with the values of the log; none for a log that has no measures.
    Catches: rows without measures filled up, a run of before that can no longer be read."""
    run = runs.get_run(tiny(corpus), finished)
    table = run.measures()
    logged = [row for row in run.log() if "measures" in row]
    assert table["step"].tolist() == [row["step"] for row in logged] == [2, 4]
    assert table["value"].tolist() == [row["measures"]["accuracy"] for row in logged]
    assert table["tokens"].tolist() == [2 * 4 * 32, 4 * 4 * 32] and set(table["measure"]) == {"accuracy"}
    assert set(table["n"]) == {2} and set(table["seed"]) == {0} and set(table["run"]) == {run.path.name}
    rows = [{key: value for key, value in row.items() if key != "measures"} for row in run.log()]
    (copied / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    before = runs.open_run(copied)
    assert before.measures().empty and list(before.measures().columns) == list(table.columns)
    assert len(before.metrics()) == len(run.metrics())


# --- Several processes ---------------------------------------------------------------------------------------------


def get_together(config: TrainConfig, runs_dir: Path, log: Path, start) -> None:
    """Asks for the run when all others do; notes each training batch in `log`."""

    class NotedTask(BytesTask):  # the same fields, so the same hash and folder
        def batch(self, rows: int, step: int, seed: int):
            with log.open("a") as file:
                file.write(f"{os.getpid()} {step}\n")
            return super().batch(rows, step, seed)

    torch.set_num_threads(1)
    start.wait(60)
    assert runs.get_run(replace(config, task=NotedTask(**asdict(config.task))), runs_dir).model() is not None


def test_two_processes_that_ask_at_once_train_the_run_once(corpus, tmp_path):
    """Every batch is seen once, by one process, and both processes get the finished run.
    Catches: no lock, a lock on the wrong folder, the one that waited training the run again."""
    config, log, start = tiny(corpus, steps=20), tmp_path / "batches", CHILDREN.Barrier(2)
    children = [CHILDREN.Process(target=get_together, args=(config, tmp_path, log, start)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    seen = [line.split() for line in log.read_text().splitlines()]
    assert [int(step) for _, step in seen] == list(range(20)) and len({process for process, _ in seen}) == 1


def hold(lock: Path, held) -> None:
    """Holds the lock until it is killed."""
    with FileLock(lock):
        held.set()
        time.sleep(60)


def test_a_run_that_another_process_trains_is_held(corpus, tmp_path):
    """wait=False raises at once and names the folder; the lock of a process that was killed is free.
    Catches: waiting for ever, and a lock file that outlives its process."""
    config = tiny(corpus)
    path, held = tmp_path / config.folder, CHILDREN.Event()
    path.mkdir(parents=True)
    child = CHILDREN.Process(target=hold, args=(path / ".lock", held))
    child.start()
    try:
        assert held.wait(60)
        with pytest.raises(RunLocked, match=f"^{path} is being trained by another process"):
            runs.get_run(config, tmp_path, wait=False)
        assert not (path / "config.json").exists()
    finally:
        child.kill()
        child.join()
    assert (runs.get_run(config, tmp_path, wait=False).path / "done.json").exists()


def test_get_all_trains_what_serial_calls_would(corpus, finished, tmp_path):
    """Two workers give the bits of one; results come in the order asked for, also for a config named twice.
    Catches: runs in the order of training or of completion, workers that share random state or use other numbers of
    threads."""
    configs = [tiny(corpus), tiny(corpus, steps=12, seed=1), tiny(corpus)]
    parallel = runs.get_runs(configs, tmp_path, workers=2, threads=1)
    assert [run.config for run in parallel] == configs
    assert [weights(run) for run in parallel] == [weights(runs.get_run(config, finished)) for config in configs]


def test_a_run_that_goes_on_from_another_waits_for_it(corpus, tmp_path):
    """Catches: a second stage that a free worker takes before the first is done, and then has nothing to start from."""
    first = tiny(corpus)
    second = tiny(corpus, steps=3, init_from=first.folder)
    third = tiny(corpus, steps=2, init_from=second.folder)
    found = runs.get_runs([third, second, first], tmp_path, workers=2, threads=1)
    assert [run.config for run in found] == [third, second, first]


def test_a_run_that_fails_does_not_take_the_others_with_it(corpus, tmp_path):
    """The error is raised after the other runs are done, and these are kept.
    Catches: a pool that is shut down, or an exception that cannot travel between processes."""
    failing, others = tiny(corpus, steps=9, init_from="bytes/none"), [tiny(corpus), tiny(corpus, seed=1)]
    with pytest.raises(ValueError, match="none holds no finished run"):
        runs.get_runs([others[0], failing, others[1]], tmp_path, threads=1)
    assert not (tmp_path / failing.folder / "done.json").exists()
    assert all((tmp_path / other.folder / "done.json").exists() for other in others)


# --- What can go -----------------------------------------------------------------------------------------------------


OLD = time.time() - 30 * 86400


def kept(folder: Path, *names: str, unreadable: bool = False, age: float = OLD) -> Path:
    """A run's folder with a config, and files of 1,000 bytes last written at `age`, by the names given."""
    config = to_mapping(TrainConfig(task=BytesTask(corpus_hash="0" * 64))) | ({"later": 1} if unreadable else {})
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(bytes(1000))
    for path in folder.rglob("*"):
        os.utime(path, (age, age))
    return folder


DONE = ("metrics.jsonl", "weights.safetensors", "done.json")
PARTS = ("checkpoints/step-1", "checkpoints/step-2", "snapshots/step-0")


@pytest.fixture
def kept_runs(tmp_path) -> Path:
    """Finished, unfinished, recent and unreadable runs; those named held have to be locked by the test."""
    kept(tmp_path / "a/done", *DONE, *PARTS)
    kept(tmp_path / "a/done-clean", *DONE)
    kept(tmp_path / "a/stopped", "metrics.jsonl", *PARTS)
    kept(tmp_path / "b/just-written", "weights.safetensors")
    kept(tmp_path / "b/recent", "metrics.jsonl", *PARTS, age=time.time() - 60)
    kept(tmp_path / "b/unreadable", *PARTS, unreadable=True)
    kept(tmp_path / "b/unreadable-done", *DONE, *PARTS, unreadable=True)
    kept(tmp_path / "b/held", *PARTS)
    kept(tmp_path / "b/held-done", *DONE, *PARTS)
    return tmp_path


def paths(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name != ".lock"}


ALWAYS = {"a/done/checkpoints", "b/unreadable", "b/unreadable-done/checkpoints"}
UNFINISHED = {"a/stopped"}
SNAPSHOTS = {"a/done/snapshots", "b/unreadable-done/snapshots"}


@pytest.mark.parametrize(
    "unfinished, snapshots, days, expected",
    [
        (False, False, 7, ALWAYS),
        (True, False, 7, ALWAYS | UNFINISHED),
        (False, True, 7, ALWAYS | SNAPSHOTS),
        (True, True, 7, ALWAYS | UNFINISHED | SNAPSHOTS),
        (True, True, 0, ALWAYS | UNFINISHED | SNAPSHOTS | {"b/recent"}),
        (True, True, 31, ALWAYS - {"b/unreadable"}),
    ],
)
def test_prune_deletes_what_it_listed_and_nothing_else(kept_runs, unfinished, snapshots, days, expected):
    """Listing deletes nothing; deleting takes the folders that were listed, and leaves every other file: finished
    weights with their config and log, readable or not, weights that were written just now, and runs that are held.
    Catches: a run deleted under its training, results of days lost to a flag, snapshots that go without being asked."""
    before = paths(kept_runs)
    with FileLock(kept_runs / "b/held" / ".lock"), FileLock(kept_runs / "b/held-done" / ".lock"):
        found = housekeeping.prune(kept_runs, days, unfinished, snapshots, delete=False)
        listed = {waste.folder.relative_to(kept_runs).as_posix() for waste in found if waste.folder}
        assert listed == expected and paths(kept_runs) == before
        assert [w.folder for w in housekeeping.prune(kept_runs, days, unfinished, snapshots, True)] == [
            w.folder for w in found
        ]
        gone = {path for path in before if any(f"{path}/".startswith(f"{folder}/") for folder in expected)}
        assert paths(kept_runs) == before - gone
    (sparing,) = [waste for waste in found if not waste.folder]
    assert sparing.run == "b/unreadable-done" and "its weights are kept" in sparing.what and sparing.MB == 0
    sizes = {waste.folder.name: waste.MB for waste in found if waste.folder}
    assert sizes["checkpoints"] == 0.002 and all(waste.days > 29 for waste in found if waste.run != "b/recent")


def test_prune_refuses_an_age_that_is_none(tmp_path):
    """Catches: -1 or nan days that take what was written a minute ago."""
    for days in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"days={days} must not be negative"):
            housekeeping.prune(tmp_path, days, True, True, delete=True)


def test_a_run_whose_snapshots_went_is_still_a_result(corpus, tmp_path):
    """Catches: a prune that takes something without which a finished run cannot be opened."""
    run = runs.get_run(tiny(corpus, steps=2, snapshot_every=1), tmp_path)
    assert housekeeping.prune(tmp_path, 0, True, True, delete=True) and run.snapshots() == []
    assert runs.get_run(run.config, tmp_path, wait=False).model() is not None and len(run.metrics())


# --- What there is, and what is wrong with it ----------------------------------------------------------------------


def test_list_runs_tells_of_every_run(corpus, tmp_path):
    """A row for each run, the unfinished too, even while a row of its log is half written; none for an empty folder.
    Catches: one broken run hiding all others."""
    assert housekeeping.list_runs(tmp_path).empty
    whole, stopped = tiny(corpus, name="a"), tiny(corpus, name="b", seed=1)
    run = runs.get_run(whole, tmp_path)
    with (unfinished(stopped, tmp_path) / "metrics.jsonl").open("a") as log:
        log.write('{"step": 4, "tok')
    (tmp_path / "c" / "foreign").mkdir(parents=True)
    (tmp_path / "c" / "foreign" / "config.json").write_text("{}")
    table = housekeeping.list_runs(str(tmp_path))
    assert table["run"].tolist() == [whole.folder, stopped.folder, "c/foreign"]
    assert table["done"].tolist() == [True, False, False]
    assert table["step"].tolist() == [4, 3, 0] and table["n"].tolist()[:2] == [2, 2]
    assert table["loss"][0] == run.metrics().query("split == 'validation' and horizon == 1")["loss"].iloc[-1]
    assert table["MB"][0] == pytest.approx(sum(file.stat().st_size for file in run.path.iterdir()) / 1e6)


@pytest.mark.parametrize("left", ['{"step": 4, "tok', '{"step": 4, "measures": {"accuracy": 0.5}'])
def test_half_a_row_of_the_log_is_none(corpus, finished, tmp_path, left):
    """A full disk leaves it; a training goes on from there, as if it were not.
    Catches: what ends in a bracket taken for a row, after which the run can neither be listed nor resumed."""
    folder = unfinished(tiny(corpus), tmp_path)
    with (folder / "metrics.jsonl").open("a") as log:
        log.write(left)
    assert housekeeping.list_runs(tmp_path)["step"].tolist() == [3]
    assert weights(runs.get_run(tiny(corpus), tmp_path)) == weights(runs.get_run(tiny(corpus), finished))


def test_open_run_refuses_what_is_no_finished_run(corpus, copied, tmp_path):
    """Nothing there, an unfinished run, a config of a later version or with a part missing: a ValueError tells which.
    Catches: unfinished weights taken for a result, a field silently ignored, a TypeError of the constructor."""
    for folder in (tmp_path / "nowhere", unfinished(tiny(corpus), tmp_path)):
        with pytest.raises(ValueError, match=f"{folder} holds no finished run; `mtp-lab runs` lists"):
            runs.open_run(folder)
    config = json.loads((copied / "config.json").read_text())
    for later in ({**config, "momentum": 1}, {**config, "model": {**config["model"], "momentum": 1}}):
        (copied / "config.json").write_text(json.dumps(later))
        with pytest.raises(ValueError, match="not a config of this version of mtp-lab: .*'momentum'"):
            runs.open_run(copied)
    (copied / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "model"}))
    with pytest.raises(ValueError, match="not a config of this version of mtp-lab: 'model'"):
        runs.open_run(copied)


def test_damaged_weights_are_named(copied):
    """Weights cut short, or with one bit flipped, are not used; the message names the file.
    Catches: numbers computed with weights that nobody trained."""
    path = copied / "weights.safetensors"
    content = path.read_bytes()
    for damaged in (content[:-1], content[:-40] + bytes([content[-40] ^ 1]) + content[-39:], b""):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFile, match=rf"{path} is damaged \({len(damaged)} bytes, not what was written"):
            runs.open_run(copied).model()
    path.write_bytes(content)
    runs.open_run(copied).model()


def read_held_out(path: Path) -> None:
    runs.open_run(path).config.task.held_out("test", 4)


def test_a_corpus_that_changed_under_a_run_is_noticed(tmp_path):
    """Evaluating a run on other files than it was trained beside is refused, with both hashes.
    Catches: a test split that holds what was trained on."""
    folder = write_corpus(tmp_path / "corpus")
    run = runs.get_run(tiny(str(folder), steps=1), tmp_path / "runs")
    write_corpus(folder, seed=1)
    changed = replace(run.config.task, paths=(str(write_corpus(tmp_path / "elsewhere", seed=1)),), corpus_hash="")
    with ProcessPoolExecutor(1, CHILDREN) as another_process, pytest.raises(ValueError) as caught:
        another_process.submit(read_held_out, run.path).result(60)
    assert run.config.task.corpus_hash[:10] in str(caught.value) and changed.corpus_hash[:10] in str(caught.value)


def test_a_file_where_the_runs_should_go_is_named(corpus, tmp_path):
    """A file in place of the runs directory: an OSError with the path, before anything is trained.
    Catches: training for an hour before the first write fails."""
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        runs.get_run(tiny(corpus), tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_named(corpus, tmp_path):
    """The same for a folder that may only be read."""
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OSError, match=str(tmp_path / "locked")):
        runs.get_run(tiny(corpus), tmp_path / "locked")


def test_snapshots_are_the_models_on_the_way(corpus, tmp_path):
    """Kept at step 0, on the way and at the end; the last is the trained model, the first the initial one.
    Catches: weights saved before the step, snapshots removed with the checkpoints."""
    config = tiny(corpus, steps=5, snapshot_every=2)
    run = runs.get_run(config, tmp_path)
    assert run.snapshots() == [0, 2, 4, 5]
    last, final = run.model(5).state_dict(), run.model().state_dict()
    assert all(torch.equal(last[name], final[name]) for name in final)
    torch.manual_seed(config.seed)
    first = MTPTransformer(config.model).state_dict()
    assert all(torch.equal(run.model(0).state_dict()[name], first[name]) for name in first)
    assert not torch.equal(run.model(2).state_dict()["embed.weight"], run.model(4).state_dict()["embed.weight"])
    with pytest.raises(ValueError, match="step=3 is not one of the snapshots of .*: 0, 2, 4, 5"):
        run.model(3)
    damaged = next((run.path / "snapshots").glob("step-00000002-*"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match="damaged"):
        run.model(2)
