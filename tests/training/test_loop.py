"""The training loop: the same config gives the same bits after any interruption, and failures say why."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from data_gen.polynomials.stream import Polynomials
from data_gen.star_graph import DUMMY, StarGraphs
from mtp_lab.cli import main
from mtp_lab.config import ModelConfig, OptimizerConfig, Precision, TrainConfig
from mtp_lab.model.predictions import loss_per_horizon, tensors
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.tasks import BytesTask, ChoiceProcessTask, PolynomialsTask, StarGraphTask
from mtp_lab.training import runs
from mtp_lab.training.checkpoints import digest, files_by_step, load_tensors, save_weights
from mtp_lab.training.hardware import bf16_is_fast
from mtp_lab.training.loop import Diverged, load_weights, start_from
from mtp_lab.training.runs import Run

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["mtp_lab.training.loop", "torch._dynamo"])  # imported once for all children


def tiny(corpus: str, **changes) -> TrainConfig:
    fields = dict(
        task=BytesTask(paths=(corpus,), seq=32),
        model=ModelConfig(d_model=16, n_attention_heads=2, n_layers=3, n_future=2, max_seq=32, d_mlp=32),
        optimizer=OptimizerConfig(warmup=5),
        steps=30,
        batch_size=4,
        log_every=5,
        evaluate_every=10,
        evaluate_rows=4,
        checkpoint_every=10,
    )
    return TrainConfig(**{**fields, **changes})


VARIANTS = {
    "adamw, bf16": dict(precision="bf16"),
    "muon": dict(optimizer=OptimizerConfig(kind="muon", warmup=5)),
    "accumulate": dict(accumulate=2, precision="fp32"),
    "curriculum": dict(curriculum="forward", precision="fp32"),
}


def train_until_killed(config: TrainConfig, runs_dir: Path, step: int) -> None:
    """Trains in this process, which the kernel kills when the batch of `step` is drawn."""

    class Deadly(BytesTask):  # the same fields, so the same hash and folder
        def batch(self, rows: int, at: int, seed: int):
            if at == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().batch(rows, at, seed)

    torch.set_num_threads(1)
    runs.get_run(replace(config, task=Deadly(**asdict(config.task))), runs_dir)


def killed(config: TrainConfig, runs_dir: Path, step: int) -> Path:
    """Folder of a run that died of SIGKILL at `step`."""
    child = CHILDREN.Process(target=train_until_killed, args=(config, runs_dir, step))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    folder = runs_dir / config.folder
    assert not (folder / "done.json").exists()
    return folder


def rows(folder: Path) -> list[dict]:
    """The rows of metrics.jsonl without the times they took."""
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in logged]


def same(one: Run, other: Run) -> bool:
    """Weights equal byte for byte, and metrics row for row."""
    files = [run.path / "weights.safetensors" for run in (one, other)]
    return files[0].read_bytes() == files[1].read_bytes() and rows(one.path) == rows(other.path)


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("step-*.safetensors"))


def overwrite_weights(run: Run, **changes: torch.Tensor) -> None:
    """Other weights for a finished run, written as the library would have."""
    content = save({**load_weights(run.path), **changes})
    (run.path / "weights.safetensors").write_bytes(content)
    done = json.loads((run.path / "done.json").read_text())
    (run.path / "done.json").write_text(json.dumps({**done, "weights": digest(content)}))


def options(config: TrainConfig) -> list[str]:
    """The command line that asks for this config: an option for every field that is not at its default."""

    def differing(fields: dict, defaults: dict, prefix: str) -> list[str]:
        words = []
        for name, value in fields.items():
            if isinstance(value, dict):
                words += differing(value, defaults[name], f"{prefix}{name}.")
            elif value != defaults[name] and name != "corpus_hash":
                values = value if isinstance(value, tuple) else (value,)
                words += [f"--{prefix}{name}".replace("_", "-"), *map(str, values)]
        return words

    return differing(asdict(config), asdict(TrainConfig()), "")


# --- The same bits -------------------------------------------------------------------------------------------------


def test_one_seed_gives_one_set_of_weights(corpus, finished, tmp_path):
    """The same config gives the same bits, whatever random numbers were drawn before; another seed gives others.
    Catches: weights or batches drawn from a global generator, and a seed that nothing depends on."""
    config = tiny(corpus)
    first = runs.get_run(config, finished)
    torch.rand(3), np.random.rand(3)
    assert same(first, runs.get_run(config, tmp_path))
    assert not same(first, runs.get_run(replace(config, seed=1), tmp_path))


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_and_resumed_gives_the_bits_of_an_uninterrupted_run(variant, corpus, finished, tmp_path):
    """Killed in the middle of a step, twice, the run ends in the same weights and the same log.
    Catches: an optimizer's state that is not (or half) restored, the schedule, curriculum or data starting over, rows
    logged after the last checkpoint that stay and come twice, and a fragment that a killed write left."""
    config = tiny(corpus, **VARIANTS[variant])
    folder = killed(config, tmp_path, step=17)
    assert [row["step"] for row in rows(folder)] == [1, 5, 10, 15]
    assert len(checkpoints(folder)) == 1
    (folder / "checkpoints" / ".step-00000020-0123456789abcdef.safetensors.x1y2").write_bytes(b"half of a checkp")
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 20, "tok')  # as when the disk was full
    killed(config, tmp_path, step=28)
    assert [path.name[:13] for path in checkpoints(folder)] == ["step-00000010", "step-00000020"]
    resumed = runs.get_run(config, tmp_path)
    assert same(runs.get_run(config, finished), resumed)
    assert list((folder / "checkpoints").iterdir()) == []


def test_a_killed_command_goes_on_where_it_stopped(corpus, finished, tmp_path):
    """SIGKILL to `mtp-lab train` from outside, and the same run asked for from Python: bits and log as uninterrupted.
    Catches: options that make another config (and so another folder) than the fields they are named after, a
    checkpoint that is visible before it is whole, a lock that outlives its holder."""
    config = tiny(corpus, steps=90, precision="fp32")
    folder = tmp_path / config.folder
    command = [sys.executable, "-m", "mtp_lab.cli", "train", "--runs-dir", str(tmp_path), "--threads", "1"]
    process = subprocess.Popen([*command, *options(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240  # imports alone take a minute on a busy machine
        while not checkpoints(folder) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL and checkpoints(folder)
    assert same(runs.get_run(config, finished), runs.get_run(config, tmp_path))


def test_accumulated_parts_give_the_step_of_the_whole_batch(corpus, finished):
    """accumulate=2 trains as accumulate=1 does, up to rounding, though the parts hold different numbers of targets.
    Catches: means of the parts' means, gradients added without sharing out, a clip or step after every part."""
    config = tiny(corpus, precision="fp32", steps=10, log_every=1)
    whole, parts = (runs.get_run(replace(config, accumulate=k), finished) for k in (1, 2))
    counts = [[len(set(row)) for row in config.task.batch(4, step, 0).documents] for step in range(10)]
    assert len({sum(row[:2]) - sum(row[2:]) for row in counts}) > 1  # the halves differ
    for one, other in zip(rows(whole.path), rows(parts.path), strict=True):
        assert one["train"] == pytest.approx(other["train"], rel=1e-5)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)
    weights, others = load_weights(whole.path), load_weights(parts.path)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=0, atol=1e-5)


def test_torchrun_with_two_processes_trains_as_one_does(corpus, finished, tmp_path):
    """Two processes, each with half of the rows in two parts: losses and weights of one process.
    Catches: both processes reading the same rows, gradients averaged where Eq. 2 sums, means over a process's own
    targets, two processes writing the log."""
    quick = OptimizerConfig(warmup=2)
    config = tiny(corpus, precision="fp32", steps=12, log_every=1, evaluate_every=6, optimizer=quick)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    launcher += ["--master-port", str(port), "-m", "mtp_lab.cli", "train", "--runs-dir", str(tmp_path)]
    shared = replace(config, accumulate=2)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *options(shared)], env=environment, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    alone, together = runs.get_run(config, finished), tmp_path / shared.folder
    assert [row["step"] for row in rows(together)] == list(range(1, 13))
    for one, two in zip(rows(alone.path), rows(together), strict=True):
        assert one.keys() == two.keys()
        for key in ("train", "validation", "gradient_norm"):
            assert one.get(key) == (two.get(key) and pytest.approx(two[key], rel=1e-4))
    for name, weight in load_weights(alone.path).items():
        torch.testing.assert_close(weight, load_weights(together)[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", get_args(Precision))
def test_the_precision_of_a_run_is_that_of_its_config(precision, corpus, finished):
    """done.json says in which precision a run was trained; auto is bf16 where that is fast, and gives the same bits.
    Catches: bf16 training for precision="fp32", auto that uses another precision than it reports."""
    config = tiny(corpus, precision=precision, steps=5)
    run = runs.get_run(config, finished)
    meant = precision if precision != "auto" else "bf16" if bf16_is_fast("cpu") else "fp32"
    assert json.loads((run.path / "done.json").read_text())["precision"] == meant
    assert same(run, runs.get_run(replace(config, precision=meant), finished))
    other = {"bf16": "fp32", "fp32": "bf16"}[meant]
    assert not same(run, runs.get_run(replace(config, precision=other), finished))


# --- What is trained -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "curriculum, opened", [("constant", [3] * 6), ("forward", [1, 1, 2, 2, 3, 3]), ("reverse", [3, 3, 2, 2, 1, 1])]
)
def test_the_log_holds_the_weights_of_the_curriculum(curriculum, opened, corpus, finished):
    """Each row holds the weights its step was trained with; losses are logged unweighted, for all horizons.
    Catches: the curriculum's direction or pace mixed up, the weights of the next step logged, base weights dropped."""
    base = (1.0, 0.5, 0.25)
    config = tiny(
        corpus, model=replace(tiny(corpus).model, n_future=3, n_layers=4), horizon_weights=base, curriculum=curriculum
    )
    log = rows(runs.get_run(replace(config, steps=6, log_every=1), finished).path)
    assert [row["weights"] for row in log] == [[*base[:k], *[0.0] * (3 - k)] for k in opened]
    assert all(len(row["train"]) == 3 and min(row["train"]) > 1 for row in log)


def test_a_horizon_of_weight_zero_has_no_effect(corpus, finished):
    """The head of a horizon with weight 0 keeps its first weights, and head 1 trains as if alone.
    Catches: weights that are logged but not applied."""
    still = OptimizerConfig(weight_decay=0.0, warmup=0)
    config = tiny(corpus, horizon_weights=(1.0, 0.0), optimizer=still, steps=3)
    trained = load_weights(runs.get_run(config, finished).path)
    torch.manual_seed(config.seed)
    for name, first in MTPTransformer(config.model).state_dict().items():
        assert torch.equal(trained[name], first) == name.startswith("heads.2"), name


def test_tokens_of_weight_zero_have_no_effect(finished):
    """With weight on answers alone, a model must learn as it would if the questions' targets did not exist."""
    task = PolynomialsTask(stream=Polynomials(p=2, d=2, max_operations=1), seq=16)
    model = ModelConfig(vocab_size=task.vocab_size, d_model=16, n_attention_heads=2, n_layers=3, n_future=2, max_seq=16)
    config = tiny("", task=task, model=model, steps=1, label_weights=(("answer", 2), ("rest", 0)), precision="fp32")
    batch = task.batch(config.batch_size, 0, config.seed)
    torch.manual_seed(config.seed)
    expected, losses = MTPTransformer(model), []
    logits = expected.all_logits(*tensors(batch))  # (n_future, rows, seq, vocab)
    for i in (1, 2):
        answer = torch.from_numpy(batch.labels["answer"][:, i:])  # always of the document that predicts it
        targets = torch.from_numpy(batch.tokens[:, i:]).long()
        losses.append(torch.nn.functional.cross_entropy(logits[i - 1, :, :-i][answer], targets[answer]))
    sum(losses).backward()
    norm = torch.nn.utils.clip_grad_norm_(expected.parameters(), 1e9)
    row = runs.get_run(config, finished).log()[-1]
    assert row["train"] == pytest.approx([float(loss.detach()) for loss in losses], rel=1e-5)
    assert row["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_teacherless_answers_are_learned_without_being_read(finished, accumulate):
    """Every horizon has the path as its targets in place of dummies, which are never targets; also in several parts.
    Catches: dummies as targets, targets one place off, horizons beyond the first that take the stream's own tokens."""
    stream = StarGraphs(degree=2, length=3, nodes=6, variant="teacherless")
    task = StarGraphTask(stream=stream, seq=2 * stream.seq)
    model = ModelConfig(
        vocab_size=task.vocab_size, d_model=16, n_attention_heads=2, n_layers=3, n_future=2, max_seq=task.seq
    )
    config = tiny("", task=task, model=model, steps=1, precision="fp32", accumulate=accumulate)
    batch = task.batch(config.batch_size, 0, config.seed)
    solved = batch.tokens.copy()  # the same graphs with their paths, computed independently
    for row in range(batch.rows):
        for start in (0, stream.seq):
            document = slice(start, start + stream.seq)
            solved[row, start + stream.answer_start : document.stop] = stream.solve(batch.tokens[row, document])
    assert (solved < stream.nodes)[batch.labels["answer"]].all() and not (solved == stream.nodes + DUMMY).any()
    torch.manual_seed(config.seed)
    logits, losses = MTPTransformer(model).all_logits(*tensors(batch)), []  # (n_future, rows, seq, vocab)
    for i in (1, 2):
        inside = torch.from_numpy(batch.documents[:, i:] == batch.documents[:, :-i])
        targets = torch.from_numpy(solved[:, i:]).long()
        losses.append(torch.nn.functional.cross_entropy(logits[i - 1, :, :-i][inside], targets[inside]))
    row = runs.get_run(config, finished).log()[-1]
    assert row["train"] == pytest.approx([float(loss.detach()) for loss in losses], rel=1e-5)


def test_targets_of_unread_causes_have_no_effect(finished):
    """Horizons learn as if what a choice forces had no targets before the choice, however a step is cut into parts."""
    task = ChoiceProcessTask(seq=16)
    model = ModelConfig(vocab_size=task.vocab_size, d_model=16, n_attention_heads=2, n_layers=4, n_future=3, max_seq=16)
    config = tiny("", task=task, model=model, steps=1, mask_unread_causes=True, accumulate=2, precision="fp32")
    batch = task.batch(config.batch_size, 0, config.seed)
    torch.manual_seed(config.seed)
    expected, losses = MTPTransformer(model), []
    logits = expected.all_logits(*tensors(batch))  # (n_future, rows, seq, vocab)
    place = torch.arange(16) % 4  # a choice at 1, and the tokens that it forces at 2, 3 and 0
    since = torch.tensor([3, 16, 1, 2])[place]  # tokens since the cause
    for i in (1, 2, 3):
        known = (since >= i)[i:].expand(batch.rows, -1)
        targets = torch.from_numpy(batch.tokens[:, i:]).long()
        losses.append(torch.nn.functional.cross_entropy(logits[i - 1, :, :-i][known], targets[known]))
    sum(losses).backward()
    norm = torch.nn.utils.clip_grad_norm_(expected.parameters(), 1e9)
    row = runs.get_run(config, finished).log()[-1]
    assert row["train"] == pytest.approx([float(loss.detach()) for loss in losses], rel=1e-5)
    assert row["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)


def test_training_learns(corpus, finished):
    """After 30 steps the losses of train and validation are well below those at the start, at both horizons.
    Catches: a step that is taken against the gradient, or not at all."""
    config = tiny(corpus, optimizer=OptimizerConfig(learning_rate=1e-2, warmup=5))
    log = rows(runs.get_run(config, finished).path)
    for i in range(2):
        assert log[-1]["train"][i] < log[0]["train"][i] - 1
        assert log[-1]["validation"][i] < log[0]["train"][i] - 1


# --- Starting from another run -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four_heads(corpus, finished) -> Run:
    return runs.get_run(tiny(corpus, model=heads(4), steps=3, precision="fp32"), finished)


def heads(n: int, **changes) -> ModelConfig:
    """n heads on the same trunk of 2 layers."""
    fields = dict(d_model=16, n_attention_heads=2, max_seq=32, d_mlp=32, trunk_layers=2, n_future=n)
    return ModelConfig(**{**fields, **changes})


@pytest.mark.parametrize("n", [1, 4])
def test_init_from_starts_at_the_weights_of_the_source(n, four_heads, corpus, finished):
    """With as many heads as the source or fewer, the model computes at step 0 what the source does (section 3.6).
    Catches: heads or unembedding left at their random start, heads shifted by one, a run that ignores init_from."""
    source, model = four_heads.model(), MTPTransformer(heads(n))
    start_from(model, four_heads.path)
    tokens = torch.arange(64).view(2, 32)
    assert torch.equal(model.all_logits(tokens), source.all_logits(tokens)[:n])

    name = four_heads.path.relative_to(finished).as_posix()
    config = tiny(corpus, model=heads(n), init_from=name, steps=1, precision="fp32", seed=7)
    first = rows(runs.get_run(config, finished).path)[0]["train"]
    assert first == pytest.approx(loss_per_horizon(source, config.task.batch(4, 0, 7))[:n].tolist(), rel=1e-5)


def test_init_from_refuses_a_source_that_lacks_heads(corpus, finished):
    """n = 1 cannot start n = 2, nor one width another; the message names weights that are missing, and nothing trains.
    Catches: a head silently left at its random start."""
    source = runs.get_run(tiny(corpus, model=heads(1), steps=1), finished)
    name = source.path.relative_to(finished).as_posix()
    with pytest.raises(ValueError, match=rf"init_from={source.path.name} does not fit: it lacks heads\.2\.\S+"):
        runs.get_run(tiny(corpus, model=heads(2), init_from=name), finished)
    with pytest.raises(ValueError, match="it lacks embed.weight"):
        runs.get_run(tiny(corpus, model=heads(1, d_model=32), init_from=name), finished)
    with pytest.raises(ValueError, match="none holds no finished run"):
        runs.get_run(tiny(corpus, init_from="bytes/none"), finished)


# --- When it cannot go on ------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_stops_the_run(corpus, tmp_path):
    """NaN weights stop the training at its first step; the message names run, step and seed, and the run is not done.
    Catches: training on NaN to the end and calling that a run."""
    source = runs.get_run(tiny(corpus, model=heads(1), steps=1), tmp_path)
    overwrite_weights(source, **{"embed.weight": torch.full((257, 16), torch.nan)})
    config = tiny(corpus, model=heads(1), init_from=source.path.relative_to(tmp_path).as_posix(), seed=3)
    with pytest.raises(Diverged, match=rf"{Path(config.folder).name}: the loss is nan, .* at step 0 \(seed 3\)"):
        runs.get_run(config, tmp_path)
    assert not (tmp_path / config.folder / "done.json").exists()


def test_a_gradient_that_is_not_a_number_leaves_the_last_good_checkpoint(corpus, tmp_path):
    """Where the loss is still finite but its gradient is not, the run stops before the step is taken: every checkpoint
    that is left holds finite numbers, and asking again stops at the same step.
    Catches: the broken step being taken, its NaN weights saved as the newest checkpoint - or, at the last step, as the
    result."""
    exploding = dict(horizon_weights=(1.0, 1e38), curriculum="forward", precision="fp32")
    config = tiny(corpus, steps=20, checkpoint_every=1, seed=3, **exploding)
    for _ in range(2):
        with pytest.raises(Diverged, match=r"at step 10 \(seed 3\)"):
            runs.get_run(config, tmp_path)
        kept = checkpoints(tmp_path / config.folder)
        assert [path.name[:13] for path in kept] == ["step-00000009", "step-00000010"]
        assert all(tensor.isfinite().all() for path in kept for tensor in load_file(path).values())
    with pytest.raises(Diverged, match="at step 1 "):
        runs.get_run(tiny(corpus, steps=2, **exploding), tmp_path)


@pytest.fixture(scope="module")
def half_done(corpus, tmp_path_factory) -> Path:
    """A runs directory whose one run was killed with checkpoints of 10 and 20 of 30 steps."""
    folder = tmp_path_factory.mktemp("half done")
    killed(tiny(corpus), folder, step=27)
    return folder


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_checkpoint_is_named_and_passed_over(damage, damaged, half_done, corpus, finished, tmp_path, capfd):
    """With the newest checkpoint damaged the run goes on from the one before, with both damaged from the start; it
    names them, and ends in the same bits.
    Catches: weights with a flipped bit trained on, a crash in the reader, rows of the log that do not match."""
    config = tiny(corpus)
    shutil.copytree(half_done, tmp_path, dirs_exist_ok=True)
    newest_first = checkpoints(tmp_path / config.folder)[::-1]
    for path in newest_first[:damaged]:
        damage(path)
    resumed = runs.get_run(config, tmp_path)
    output = "".join(capfd.readouterr())
    assert [f"passed over: {path} is damaged" in output for path in newest_first] == [True, damaged == 2]
    assert json.loads((resumed.path / "done.json").read_text())["steps_in_seconds"] == {1: 20, 2: 30}[damaged]
    assert same(runs.get_run(config, finished), resumed)


@contextmanager
def largest_file(size: int):
    """No file may grow beyond `size` bytes: a write fails in the middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores SIGXFSZ, so that writes give EFBIG
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_only_the_steps_since_the_last_checkpoint(half_done, corpus, finished, tmp_path, capsys):
    """A checkpoint that does not fit ends the command with one line and code 2, and leaves the checkpoint before it as
    it was, and no fragment; with room again, the run ends in the same bits.
    Catches: the old checkpoint removed before the new one is whole, fragments that fill the disk further."""
    config = tiny(corpus)
    shutil.copytree(half_done, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / config.folder
    checkpoints(folder)[-1].unlink()  # step 20 is to be written again
    before = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    with largest_file(100_000):
        assert main(["train", "--runs-dir", str(tmp_path), *options(config)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1, message
    assert f"cannot write {folder / 'checkpoints'}" in message and "File too large; free some space" in message
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == before and len(before) == 1
    assert same(runs.get_run(config, finished), runs.get_run(config, tmp_path))


def test_a_step_that_is_done_again_has_one_file(tmp_path):
    """After a resume with other threads its weights are others. Catches: the file of the training that was killed taken
    for a snapshot of the one that went on, by chance of the digits in its name."""
    model = torch.nn.Linear(1, 1, bias=False)
    for value in range(8):
        model.weight.data.fill_(value)
        save_weights(tmp_path, 3, model)
        save_weights(tmp_path, 30, model)
        kept = files_by_step(tmp_path)
        assert list(kept) == [3, 30] and len(list(tmp_path.iterdir())) == 2
        assert all(load_tensors(path)["weight"].item() == value for path in kept.values())
