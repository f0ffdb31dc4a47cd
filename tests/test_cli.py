"""The command line: what can be done is done, and what cannot ends in one line on stderr and exit code 2."""

import ast
import contextlib
import inspect
import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mtp_lab.cli import COMMANDS, main
from mtp_lab.config import TrainConfig

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["mtp_lab.train", "torch._dynamo"])  # imported once for all children

OPTIONS_OF_TINY = """
    --task.seq 32 --model.max-seq 32 --model.d-model 16 --model.n-attention-heads 2 --model.n-layers 3 --model.d-mlp 32
    --model.n-future 2 --batch-size 4 --steps 4 --evaluate-rows 4 --precision fp32"""
TINY = OPTIONS_OF_TINY.split()


@pytest.fixture(scope="module")
def runs_dir(corpus, tmp_path_factory) -> Path:
    """A runs directory with one finished run."""
    folder = tmp_path_factory.mktemp("runs")
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["train", *TINY, "--task.paths", corpus, "--runs-dir", str(folder), "--name", "n2"]) == 0
    return folder


@pytest.fixture
def only_run(runs_dir) -> str:
    (folder,) = (runs_dir / "bytes").iterdir()
    return str(folder)


def outcome(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return code, out.getvalue(), err.getvalue()


def refusal(*arguments: str) -> str:
    """The one line that a command is refused with."""
    code, out, err = outcome(*arguments)
    assert code == 2, (code, err)
    assert out == "" and re.fullmatch("error: [^\n]+\n", err) and "Traceback" not in err, (out, err)
    return err


# --- What is refused -----------------------------------------------------------------------------------------------

REFUSED = {
    "no command": ("", "Expected one of {train, evaluate, runs, study}"),
    "unknown command": ("trein", "trein"),
    "a word for a number": ("train --steps many", "--steps: invalid literal for int() with base 10: 'many'"),
    "an unknown option": ("train --step 3", "--step, 3 (did you mean --steps?)"),
    "an option without value": ("train --name", "Missing value for argument '--name'"),
    "an unknown head kind": ("train --model.head-kind paralel", "'paralel' for argument '--model.head-kind'"),
    "more heads than layers": (
        "train --model.n-layers 2 --model.n-future 4",
        "n_layers=2 is less than n_future=4: each head takes one layer of the budget; raise n_layers",
    ),
    "no steps": ("train --steps 0", "steps=0 must be an integer of at least 1"),
    "threads below zero": ("train --threads -1", "threads=-1 must not be negative"),
    "a seed that torch cannot take": (f"train --seed {2**63}", f"seed={2**63} must not be negative, and below 2**63"),
    "nan as a clip": ("train --optimizer.clip nan", "clip=nan must be above 0"),
    "nan as a weight": ("train --horizon-weights nan", "horizon_weights=(nan,) must be n_future=1 numbers"),
    "no such files": ("train --task.paths /no/such/folder", "no file or folder '/no/such/folder'"),
    "a vocabulary of another task": (
        "train --model.vocab-size 50257",
        "model.vocab_size=50257 must be the task's 257 token ids",
    ),
    "a name that is no folder": ("train --name a/b", "name='a/b' must be letters, digits"),
    "a run to start from that is not there": ("train --steps 1 --init-from bytes/no", "bytes/no holds no finished run"),
    "no run": ("evaluate", "--run"),
    "a run that is not there": ("evaluate --run /no/such/run", "/no/such/run holds no finished run"),
    "an unknown split": ("evaluate --run x --split all", "'all' for argument '--split'"),
    "no rows": ("evaluate --run x --rows 0", "rows=0 must be at least 1"),
    "an unknown preset": ("study --preset quik", "preset='quik' is not known; use one of 'smoke', 'quick'"),
    "an unknown notebook": ("study --preset smoke --only 99_none", "notebook '99_none' is not known; use '01_"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_in_one_line(case, tmp_path, monkeypatch):
    """Exit code 2 and one line that names option, value and what is allowed.
    Catches: a traceback, a framed box of help, a message that is cut at the width of the terminal."""
    command, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)  # for the commands that make ./runs
    assert message in refusal(*command.split())


@pytest.mark.parametrize("width", ["30", "200"])
@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "ascii"])
def test_the_line_does_not_depend_on_the_terminal(width, encoding, monkeypatch):
    """The same line whatever the width of the terminal and the spelling of its encoding.
    Catches: the frame and the help below it joined into the message, where tyro draws its frames with hyphens."""
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        assert main(["train", "--stepz", "3"]) == 2
        assert main(["evaluate"]) == 2
    assert err.getvalue() == (
        "error: Unrecognized options: --stepz, 3 (did you mean --steps?)\n"
        "error: Missing from mtp-lab evaluate: --run STR Folder of a finished run. (required)\n"
    )


def test_a_run_in_the_hands_of_another_process_is_refused(corpus, tmp_path):
    """`train` does not wait for the one who holds the run, and names its folder.
    Catches: a command that hangs without a word."""
    command = ["train", *TINY, "--task.paths", corpus, "--runs-dir", str(tmp_path), "--name", "held"]
    assert outcome(*command)[0] == 0
    (folder,) = (tmp_path / "bytes").iterdir()
    (folder / "done.json").unlink()
    with FileLock(folder / ".lock"):
        assert f"{folder} is being trained by another process" in refusal(*command)


def test_refusals_in_a_process_of_its_own(tmp_path):
    """The same through `python -m mtp_lab.cli`, before torch is imported: nothing on stdout, one line, code 2.
    Catches: an exit code that is lost, output that only a test's captured streams hide."""
    for arguments in (["train", "--steps", "0"], ["evaluate", "--run", "\udcff"], []):
        command = [sys.executable, "-m", "mtp_lab.cli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60)
        assert done.returncode == 2 and done.stdout == b""
        assert re.fullmatch(rb"error: [^\n]+\n", done.stderr), done.stderr


OPTIONS = ["--steps", "--model.n-future", "--name", "--run", "--rows", "--split", "--only", "--preset", "--task.paths"]
OPTIONS += ["--model.smeared-keys", "--optimizer.betas", "--horizon-weights", "--as-json", "--", "-", "=", "---", "-1"]
WORDS = st.one_of(st.sampled_from(OPTIONS), st.integers().map(str), st.text(max_size=8))


@given(st.one_of(st.sampled_from(["train", "evaluate", "study"]), st.text(max_size=5)), st.lists(WORDS, max_size=5))
@example("evaluate", ["--run", "\0"])
@example("train", ["--task.paths", "\0"])
@example("train", ["--horizon-weights", "inf"])
@settings(max_examples=30, deadline=None, database=None)
def test_junk_is_refused_or_helped_never_a_traceback(command, words):
    """Whatever the words, main returns a code: 2 with one line, or 0 for a --help among them.
    Catches: exceptions of the parser, of a config or of the file system that nobody turns into a message."""
    never = {"train": ["--steps", "0"], "study": ["--preset", "none"], "evaluate": ["--rows", "0"]}
    words = [command, *words, *never.get(command, ["--steps", "0"])]
    code, _, err = outcome(*words)
    assert code == 2 and re.fullmatch("error: [^\n]+\n", err) or {"-h", "--help"} & set(words), (code, err)


# --- Help ----------------------------------------------------------------------------------------------------------


def words_of(help_text: str) -> str:
    """Help without frames and line breaks."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", help_text).split())


def described(config: type, prefix: str = "--") -> dict[str, str]:
    """Every option that the fields of a config make, with the docstring below the field."""
    (tree,) = ast.parse(inspect.getsource(config)).body
    below = {
        line.target.id: " ".join(text.value.value.split())
        for line, text in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(line, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    found = {}
    for field in fields(config):
        if is_dataclass(field.default_factory):
            found |= described(field.default_factory, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name.replace("_", "-")] = below[field.name]
    return found


def test_help_of_train_describes_every_field_of_the_config():
    """Each option stands there with the docstring of its field.
    Catches: a field without a docstring, one that the command line cannot set."""
    code, out, err = outcome("train", "--help")
    assert (code, err) == (0, "")
    options, text = described(TrainConfig), words_of(out)
    assert len(options) > 35
    for option, description in options.items():
        assert re.search(rf"{option}(,| [A-Z{{\[]).*?{re.escape(description)}", text), option


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example_that_parses(command):
    """--help exits 0, and the options of its example are options that there are.
    Catches: an example that an option's new name has outlived."""
    code, out, err = outcome(command, "--help")
    assert (code, err) == (0, "")
    example = re.search(rf"^ *Example: mtp-lab {command}(.*)$", out, re.M)
    assert example, out
    for option in re.findall(r"--\S+", example[1]):
        assert re.search(rf"^. {re.escape(option)}[ ,]", out, re.M), option


def test_help_lists_the_commands():
    """`mtp-lab --help` names each command and what it is for.
    Catches: a command that nobody finds."""
    code, out, _ = outcome("--help")
    assert code == 0
    for name, function in COMMANDS.items():
        assert f"{name} {' '.join(function.__doc__.split()[:3])}" in words_of(out)


# --- From training to numbers --------------------------------------------------------------------------------------


def test_train_evaluate_and_runs(corpus, runs_dir, only_run):
    """A model is trained once, listed, and evaluated: as a table and as JSON, with the same numbers in bits.
    Catches: nats printed as bits, horizons in another order, the interval not around the mean."""
    train = ["train", *TINY, "--task.paths", corpus, "--runs-dir", str(runs_dir), "--name", "n2"]
    done = (Path(only_run) / "done.json").stat()
    code, out, _ = outcome(*train)
    assert code == 0 and (Path(only_run) / "done.json").stat() == done  # not trained again
    trained = re.fullmatch(rf"{only_run}: validation loss (\d\.\d+), (\d\.\d+) nats at horizons 1, 2, \.\.\.\n", out)
    assert trained, out

    code, out, _ = outcome("runs", "--runs-dir", str(runs_dir))
    header, line = out.splitlines()
    assert code == 0 and header.split() == ["run", "n", "step", "done", "loss", "MB"]
    assert line.split()[:5] == [f"bytes/{Path(only_run).name}", "2", "4", "True", trained[1]]

    evaluate = ["evaluate", "--run", only_run, "--split", "validation", "--rows", "4"]
    code, out, _ = outcome(*evaluate, "--as-json")
    report = json.loads(out)
    assert code == 0 and report["run"] == only_run and report["split"] == "validation"
    assert report["unit"] == "bits per token" and len(report["horizons"]) == 2
    code, table, _ = outcome(*evaluate)
    lines = table.splitlines()
    assert code == 0 and lines[0] == f"{only_run}, validation, 4 rows"
    for i, (interval, line) in enumerate(zip(report["horizons"], lines[2:], strict=True), start=1):
        assert interval["low"] < interval["mean"] < interval["high"]
        assert line.split()[:2] == [str(i), f"{interval['mean']:.4f}"]
        assert interval["mean"] * np.log(2) == pytest.approx(float(trained[i]), abs=6e-4)


def test_no_runs_are_no_error(tmp_path):
    """An empty folder, or none at all, is told as such.
    Catches: an empty table, or a traceback of the table's printer."""
    code, out, _ = outcome("runs", "--runs-dir", str(tmp_path / "none"))
    assert code == 0 and out == f"no runs in {tmp_path / 'none'}\n"


def test_options_of_a_run_are_its_config(only_run):
    """What was asked for on the command line stands in config.json.
    Catches: an option that is parsed and dropped."""
    config = json.loads((Path(only_run) / "config.json").read_text())
    assert config["name"] == "n2" and config["model"]["n_future"] == 2 and config["model"]["d_mlp"] == 32
    assert config["steps"] == 4 and config["precision"] == "fp32" and config["task"]["seq"] == 32


def run_command(arguments: list[str], err: str) -> None:
    """The command in this process, which ends with its exit code; stderr goes to a file."""
    with open(err, "w") as file, contextlib.redirect_stderr(file):
        code = main(["train", "--threads", "1", *arguments])
    sys.exit(code)


def test_ctrl_c_keeps_the_last_checkpoint(corpus, tmp_path):
    """SIGINT ends a training with code 130 and one line; the checkpoint stays.
    Catches: a traceback of 40 lines, exit code 0 for a training that was stopped."""
    command = [*TINY, "--task.paths", corpus, "--runs-dir", str(tmp_path), "--steps", "3000", "--checkpoint-every", "5"]
    child = CHILDREN.Process(target=run_command, args=(command, str(tmp_path / "err")))
    child.start()
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("bytes/*/checkpoints/step-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGINT)
        child.join(60)
    finally:
        child.kill()
    assert child.exitcode == 130
    message = (tmp_path / "err").read_text()
    assert message == "error: stopped; the last checkpoint is kept, the same command goes on from it\n"
    assert list(tmp_path.glob("bytes/*/checkpoints/step-*"))
