"""Faults of one training: killed at any moment, on a full disk, with damaged or hostile files in its folder.

After any fault, a training that is started again ends with the weights, the log and the files of an undisturbed one.
Covered elsewhere: kills at chosen steps, of the command, and under every optimizer (test_loop.py), and files that are
written atomically (test_files.py).
"""

import json
import multiprocessing
import os
import pickle
import random
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mtp_lab.cli import main
from mtp_lab.config import ModelConfig, OptimizerConfig, TrainConfig
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.tasks import BytesTask
from mtp_lab.training import housekeeping, runs
from mtp_lab.training.checkpoints import DamagedFile, digest, load_checkpoint
from mtp_lab.training.optimizers import make_optimizers
from mtp_lab.training.runs import Run

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["mtp_lab.training.loop", "torch._dynamo"])  # imported once for all children
KILLS = 20


def tiny(corpus: str, **changes) -> TrainConfig:
    fields = dict(
        task=BytesTask(paths=(corpus,), seq=32),
        model=ModelConfig(d_model=16, n_attention_heads=2, n_layers=2, n_future=2, max_seq=32, d_mlp=32),
        optimizer=OptimizerConfig(warmup=3),
        steps=12,
        batch_size=4,
        log_every=1,
        evaluate_every=6,
        evaluate_rows=4,
        checkpoint_every=4,
        precision="fp32",
    )
    return TrainConfig(**{**fields, **changes})


def rows(folder: Path) -> list[dict]:
    """The rows of metrics.jsonl without the times they took."""
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in runs.read_log(folder)]


def names(folder: Path) -> set[str]:
    """Everything in a folder, hidden files too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def assert_undisturbed(run: Run, whole: Run) -> None:
    """Weights byte for byte, the log row for row, and the same files."""
    weights, expected = ((r.path / "weights.safetensors").read_bytes() for r in (run, whole))
    assert weights == expected
    assert rows(run.path) == rows(whole.path)
    assert [row["step"] for row in rows(run.path)] == list(range(1, run.config.steps + 1))
    assert names(run.path) == names(whole.path)


def assert_ends_undisturbed(config: TrainConfig, place: Path, whole: Run) -> None:
    """As assert_undisturbed, of the run in `place` once it is trained again. A kill just after done.json leaves the
    checkpoints that were about to be removed: those, and only of a run that was done, `mtp-lab runs prune` takes."""
    was_done = (place / config.folder / "done.json").exists()
    run = runs.get_run(config, place)
    pruned = housekeeping.prune(place, 0, unfinished=False, snapshots=False, delete=True)
    assert not pruned or was_done
    if pruned:
        (run.path / "checkpoints").mkdir()  # prune takes the folder with its files
    assert_undisturbed(run, whole)


# --- SIGKILL -------------------------------------------------------------------------------------------------------


def train_and_report(config: TrainConfig, runs_dir: Path, sender: Connection) -> None:
    """Trains in this process, which sends the number of each step when it draws its batch."""

    class Reporting(BytesTask):  # the same fields, so the same hash and folder
        def batch(self, rows: int, step: int, seed: int):
            sender.send(step)
            return super().batch(rows, step, seed)

    torch.set_num_threads(1)
    runs.get_run(replace(config, task=Reporting(**asdict(config.task))), runs_dir)


def killed_at(moment: float, seconds_a_step: float, config: TrainConfig, runs_dir: Path) -> bool:
    """Whether SIGKILL came in time for a training that goes on in a process of its own: `moment` steps from its
    beginning, about, fractions of a step included."""
    receiver, sender = CHILDREN.Pipe(duplex=False)
    child = CHILDREN.Process(target=train_and_report, args=(config, runs_dir, sender))
    child.start()
    sender.close()
    try:
        while receiver.recv() < int(moment):
            pass
        time.sleep(moment % 1 * seconds_a_step)
    except EOFError:  # it is done
        pass
    child.kill()
    child.join(300)
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode == -signal.SIGKILL


def test_twenty_kills_at_random_moments_change_nothing(corpus, finished, tmp_path, survived):
    """One training is killed over and over, from its first step to its last, and goes on each time; every second step
    ends in a checkpoint, so that many kills hit one that is being written. Where a kill comes too late, another moment
    is drawn for another training. Catches: a checkpoint that is read before it is whole, rows of the log that are
    missing or come twice, fragments of files that pile up with every kill."""
    config = tiny(corpus, steps=60, checkpoint_every=2, snapshot_every=15)
    whole = runs.get_run(config, finished)
    seconds = 2 * runs.read_log(whole.path)[-1]["seconds"] / config.steps  # evaluations and checkpoints need more
    rng = random.Random(0)
    places, kills = [tmp_path / "0"], 0
    moments = sorted(rng.uniform(0, config.steps) for _ in range(KILLS))
    while moments:
        if killed_at(moments.pop(0), seconds, config, places[-1]):
            kills += 1
        else:
            places.append(tmp_path / str(len(places)))
            moments = sorted([*moments, rng.uniform(0, config.steps)])
    assert kills == KILLS
    for place in places:
        assert_ends_undisturbed(config, place, whole)
    survived(kills, "SIGKILL of a training at a random moment: weights and log as undisturbed")


OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove")


def train_until_operation(last: int, config: TrainConfig, runs_dir: Path, count: Path) -> None:
    """Trains in this process, which is killed as it is about to do operation `last` on a file below runs_dir; leaves
    the number of operations if it comes to its end."""
    torch.set_num_threads(1)
    done = 0

    def note(event: str, arguments: tuple) -> None:
        nonlocal done
        if event in OPERATIONS and str(arguments[0]).startswith(str(runs_dir)):
            if done == last:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1

    sys.addaudithook(note)  # cannot be removed, but this process is about to end
    runs.get_run(config, runs_dir)
    count.write_text(str(done))


def test_a_kill_before_any_operation_on_files_changes_nothing(corpus, finished, tmp_path, survived):
    """From the making of the folder to the removal of the last checkpoint, before every third operation on a file.
    Catches: an order of writing in which a kill leaves done.json without weights, or a log ahead of its checkpoint."""
    config = tiny(corpus, steps=4, evaluate_every=2, checkpoint_every=2, snapshot_every=2)
    whole = runs.get_run(config, finished)

    def train(last: int, place: Path) -> int | None:
        child = CHILDREN.Process(target=train_until_operation, args=(last, config, place, tmp_path / "count"))
        child.start()
        child.join(300)
        return child.exitcode

    assert train(-1, tmp_path / "whole") == 0
    operations = int((tmp_path / "count").read_text())
    assert operations > 30
    kills = range(0, operations, 3)
    for last in kills:
        place = tmp_path / str(last)
        assert train(last, place) == -signal.SIGKILL
        assert_ends_undisturbed(config, place, whole)
    survived(len(kills), "SIGKILL of a training before an operation on a file")


# --- Damaged and hostile files -------------------------------------------------------------------------------------


class Stop(Exception):
    pass


class StoppingTask(BytesTask):
    """Stops its training at step 11; has the fields, so the hash and folder, of the task it stands for."""

    def batch(self, rows: int, step: int, seed: int):
        if step == 11:
            raise Stop
        return super().batch(rows, step, seed)


@pytest.fixture(scope="module")
def half_done(corpus, tmp_path_factory) -> Path:
    """A runs directory whose one run stopped after 11 of 12 steps, with checkpoints of 4 and 8."""
    folder, config = tmp_path_factory.mktemp("half done"), tiny(corpus)
    with pytest.raises(Stop):
        runs.get_run(replace(config, task=StoppingTask(**asdict(config.task))), folder)
    return folder


@pytest.fixture
def stopped(half_done, corpus, tmp_path) -> Path:
    """Folder of such a run that a test may damage."""
    shutil.copytree(half_done, tmp_path, dirs_exist_ok=True)
    return tmp_path / tiny(corpus).folder


def checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted((folder / "checkpoints").glob("step-*.safetensors"))


def restored(config: TrainConfig, folder: Path) -> tuple[int, list[str], dict[str, Tensor]]:
    """Steps done, messages about damaged files, and the state from which a training would continue."""
    model = MTPTransformer(config.model)
    optimizers = make_optimizers(model, config.optimizer)
    step, messages = load_checkpoint(folder / "checkpoints", model, optimizers)
    moments = {
        f"{k}.{index}.{name}": torch.as_tensor(value)
        for k, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    return step, messages, model.state_dict() | moments


def truncated(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def with_one_bit_flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("damage", [truncated, with_one_bit_flipped])
def test_damage_anywhere_in_a_checkpoint_is_noticed(damage, stopped, corpus, finished, capfd, survived):
    """At 50 random places the newest checkpoint is named and passed over, and all that the one before holds, bit for
    bit, is what the training goes on from; three times it is trained to its end.
    Catches: a check of the header alone, of the length alone, of every block but the last."""
    config, rng = tiny(corpus), random.Random(1)
    older, newest = checkpoints(stopped)
    content = newest.read_bytes()
    newest.unlink()
    step, messages, expected = restored(config, stopped)
    assert (step, messages) == (4, []) and len(expected) > 20
    for place in range(50):
        newest.write_bytes(damage(content, rng))
        step, messages, found = restored(config, stopped)
        assert step == 4 and len(messages) == 1 and messages[0].startswith(f"{newest} is damaged ("), messages
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
        if place % 20 == 0:
            copy = stopped.parents[1] / f"copy-{place}"
            shutil.copytree(stopped, copy / config.folder)
            assert_undisturbed(runs.get_run(config, copy), runs.get_run(config, finished))
            assert f"passed over: {copy / newest.relative_to(stopped.parents[1])}" in capfd.readouterr().err
    newest.write_bytes(content)
    assert restored(config, stopped)[0] == 8
    survived(50, f"checkpoint {damage.__name__.replace('_', ' ')}: named, the one before used")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, label: Path):
        self.label = label

    def __reduce__(self):
        return Path.touch, (self.label,)


def pickled(label: Path, place: Path) -> bytes:
    return pickle.dumps(Bomb(label))


def saved_by_torch(label: Path, place: Path) -> bytes:
    torch.save({"embed.weight": Bomb(label)}, place)
    return place.read_bytes()


@pytest.mark.parametrize("hostile", [pickled, saved_by_torch])
def test_a_pickle_in_place_of_weights_is_refused(hostile, stopped, corpus, finished, tmp_path, capfd, survived):
    """With digits that are those of its content, as a checkpoint: named and passed over; as snapshot and as weights:
    refused by name, on the command line in one line. Nothing in it is run.
    Catches: torch.load, pickle as a fallback, a traceback of the reader where the digits are right."""
    label, config = tmp_path / "label", tiny(corpus)
    content = hostile(label, tmp_path / "saved")
    (stopped / "checkpoints" / f"step-00000010-{digest(content)}.safetensors").write_bytes(content)
    run = runs.get_run(config, tmp_path)
    assert re.search(rf"passed over: \S+step-00000010-{digest(content)}\.safetensors holds no", capfd.readouterr().err)
    assert_undisturbed(run, runs.get_run(config, finished))

    (run.path / "weights.safetensors").write_bytes(content)
    done = json.loads((run.path / "done.json").read_text())
    (run.path / "done.json").write_text(json.dumps({**done, "weights": digest(content)}))
    (run.path / "snapshots").mkdir()
    (run.path / "snapshots" / f"step-00000003-{digest(content)}.safetensors").write_bytes(content)
    with pytest.raises(DamagedFile, match=f"{run.path / 'weights.safetensors'} holds no tensors"):
        run.model()
    with pytest.raises(DamagedFile, match=r"step-00000003-\w+\.safetensors holds no tensors"):
        run.model(3)
    assert main(["evaluate", "--run", str(run.path)]) == 2
    assert re.fullmatch(r"error: \S+ holds no tensors [^\n]+\n", capfd.readouterr().err)
    assert not label.exists()
    torch.load(tmp_path / "saved", weights_only=False) if hostile is saved_by_torch else pickle.loads(content)
    assert label.exists()  # it was armed
    survived(3, "malicious pickle as checkpoint, snapshot or weights: refused, not run")


# --- A full disk ---------------------------------------------------------------------------------------------------


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: a write fails in the middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores SIGXFSZ, so that writes give EFBIG
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


FILLED = {  # the file that does not fit: the size that files may have, and what makes it the first that is larger
    "config.json": (100, {}),
    "metrics.jsonl": (2_000, dict(checkpoint_every=100)),
    "snapshots/step-00000000": (10_000, dict(snapshot_every=3)),
    "checkpoints/step-00000004": (10_000, {}),
    "weights.safetensors": (10_000, dict(checkpoint_every=100)),
}


@pytest.mark.parametrize("file", FILLED)
def test_a_full_disk_is_reported_with_the_name_of_the_file(file, corpus, finished, tmp_path, survived):
    """An OSError names the file and a way out, nothing of it is left; with room again, all is as undisturbed.
    Catches: "No space left on device" and nothing more, half a row of the log taken for a row."""
    size, changes = FILLED[file]
    config = tiny(corpus, **changes)
    path = tmp_path / config.folder / file
    with largest_file(size), pytest.raises(OSError, match=f"cannot write {path}.*: File too large; free some space"):
        runs.get_run(config, tmp_path)
    left = {name for name in names(path.parent) if name.startswith((".", path.name))} - {".lock"}
    assert left == ({"metrics.jsonl"} if file == "metrics.jsonl" else set())  # half a row in it
    assert_undisturbed(runs.get_run(config, tmp_path), runs.get_run(config, finished))
    survived(1, "full disk in the middle of a file: named, nothing lost")
