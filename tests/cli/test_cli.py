"""The command line: valid commands do their work, and all others end in one line on stderr and exit code 2."""

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

from data_gen.polynomials.stream import Polynomials
from mtp_lab.batch import execution, plan
from mtp_lab.cli import main
from mtp_lab.cli.commands import COMMANDS, RUNS
from mtp_lab.config import ModelConfig, TrainConfig
from mtp_lab.serialization import from_mapping
from mtp_lab.tasks import TASKS, BytesTask, PolynomialsTask

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["mtp_lab.training.loop", "torch._dynamo"])  # imported once for all children

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
    "no command": ("", "Expected one of {data, train, evaluate, generate, export, study, runs, zoo}"),
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
    "an unknown task": ("train --task storis", "task='storis' is not known; use one of bytes, stories, polynomials"),
    "a task without its name": ("train --task", "Missing value for argument '--task'"),
    "an option of another task": ("train --task bytes --task.stream.p 2", "--task.stream.p, 2"),
    "a task's word for a number": ("train --task polynomials --task.stream.p x", "--task.stream.p: invalid literal"),
    "a vocabulary of another stream": (
        "train --task polynomials --task.stream.p 2 --model.vocab-size 44",
        "model.vocab_size=44 must be the task's 19 token ids",
    ),
    "rows too short for a document": ("train --task star_graph --task.seq 67", "tokens, a row only seq = 67"),
    "documents of no task": ("data --task storis --p 2", "task='storis' is not known; use one of bytes, stories"),
    "no documents": ("data --show 0", "show=0 must be from 1 to 1000 documents"),
    "too many documents": ("data --show 1001", "show=1001 must be from 1 to 1000 documents"),
    "a seed below zero": ("data --seed -1", "seed=-1 must not be negative"),
    "no prime": ("data --task polynomials --p 4", "p=4 must be a prime, such as 2, 3, 5 or 7"),
    "more names than pairings": ("data --task stories --names.names 5000", "names=5000 and twice held_out=64 are more"),
    "more nodes than labels": ("data --task star_graph --degree 20 --nodes 10", "nodes=10 are too few node labels"),
    "one option to choose from": ("data --task choice_process --n-choices 1", "n_choices=1 must be at least 2"),
    "an unknown source": ("data --source books", "'books' for argument '--source'"),
    "no run": ("evaluate", "--run"),
    "a run that is not there": ("evaluate --run /no/such/run", "/no/such/run holds no finished run"),
    "an unknown split": ("evaluate --run x --split all", "'all' for argument '--split'"),
    "no rows": ("evaluate --run x --rows 0", "rows=0 must be at least 1"),
    "a run to continue that is not there": ("generate --run /no/such/run", "/no/such/run holds no finished run"),
    "a run to export that is not there": ("export --run /no/such/run --out x", "/no/such/run holds no finished run"),
    "an unknown preset": ("study --preset quik", "preset='quik' is not known; use one of 'smoke', 'quick'"),
    "a batch's misspelt option": ("study --jbos 2", "--jbos, 2 (did you mean --jobs?)"),
    "a batch's word for a number": ("study --seeds many", "--seeds: invalid literal for int() with base 10: 'many'"),
    "no notebooks at a time": ("study --jobs 0", "jobs=0 must be an integer of at least 1"),
    "a run to show that is not there": ("runs show bytes/no", "there is no run 'bytes/no', nor in runs; `mtp-lab runs"),
    "no run to show": ("runs show", "Missing from mtp-lab runs show: RUN"),
    "an unknown command about runs": ("runs shw", "shw"),
    "days below zero": ("runs prune --days -1", "days=-1.0 must not be negative"),
    "an unknown notebook": ("study --preset smoke --only 99_none", "notebook '99_none' is not known; use '00_"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_in_one_line(case, tmp_path, monkeypatch):
    """Exit code 2 and one line that names the option, the value and the allowed values.
    Catches: a traceback, a framed box of help, a message that is cut at the width of the terminal."""
    command, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)  # for the commands that make ./runs
    assert message in refusal(*command.split())


@pytest.mark.parametrize("width", ["30", "200"])
@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "ascii"])
def test_the_line_does_not_depend_on_the_terminal(width, encoding, monkeypatch):
    """The line depends neither on the width of the terminal nor on the spelling of its encoding.
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


def test_documents_that_a_split_does_not_have_are_refused(corpus):
    """A split of few short files has fewer documents than requested; the message names their number.
    Catches: a traceback of the sampler, fewer documents shown without a message."""
    command = ["data", "--paths", corpus, "--split", "test", "--show", "50"]
    assert re.search(r"show=50 is more than the [1-9] documents of the test split", refusal(*command))


def test_a_run_that_another_process_trains_is_refused(corpus, tmp_path):
    """`train` does not wait for the process that holds the lock, and names the folder of the run.
    Catches: a command that hangs without a message."""
    command = ["train", *TINY, "--task.paths", corpus, "--runs-dir", str(tmp_path), "--name", "held"]
    assert outcome(*command)[0] == 0
    (folder,) = (tmp_path / "bytes").iterdir()
    (folder / "done.json").unlink()
    with FileLock(folder / ".lock"):
        assert f"{folder} is being trained by another process" in refusal(*command)


def test_refusals_in_a_process_of_its_own(tmp_path):
    """The same through `python -m mtp_lab.cli`, before torch is imported: an empty stdout, one line, code 2.
    Catches: an exit code that is lost, output that only a test's captured streams hide."""
    for arguments in (["train", "--steps", "0"], ["evaluate", "--run", "\udcff"], []):
        command = [sys.executable, "-m", "mtp_lab.cli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60)
        assert done.returncode == 2 and done.stdout == b""
        assert re.fullmatch(rb"error: [^\n]+\n", done.stderr), done.stderr


OPTIONS = ["--steps", "--model.n-future", "--name", "--run", "--rows", "--split", "--only", "--preset", "--task.paths"]
OPTIONS += ["--model.smeared-keys", "--optimizer.betas", "--horizon-weights", "--as-json", "--", "-", "=", "---", "-1"]
OPTIONS += ["--task", "--task=", "polynomials", "star_graph", "--task.stream.p", "--task.seq", "--p", "--show", "--seq"]
WORDS = st.one_of(st.sampled_from(OPTIONS), st.integers().map(str), st.text(max_size=8))


@given(
    st.one_of(st.sampled_from(["data", "train", "evaluate", "study"]), st.text(max_size=5)), st.lists(WORDS, max_size=5)
)
@example("evaluate", ["--run", "\0"])
@example("train", ["--task.paths", "\0"])
@example("train", ["--horizon-weights", "inf"])
@example("data", ["--task", "polynomials", "--p"])
@settings(max_examples=30, deadline=None, database=None)
def test_junk_is_refused_or_helped_never_a_traceback(command, words):
    """For any words, main returns a code: 2 with one line, or 0 for a --help among them.
    Catches: exceptions of the parser, of a config or of the file system that do not become a message."""
    never = {"study": ["--preset", "none"], "evaluate": ["--rows", "0"], "data": ["--show", "0"]}
    words = [command, *words, *never.get(command, ["--steps", "0"])]
    code, _, err = outcome(*words)
    assert code == 2 and re.fullmatch("error: [^\n]+\n", err) or {"-h", "--help"} & set(words), (code, err)


# --- Help ----------------------------------------------------------------------------------------------------------


def words_of(help_text: str) -> str:
    """Help without frames and line breaks."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", help_text).split())


def described(config: type, prefix: str = "--", **prefixes: str) -> dict[str, str]:
    """Every option that the fields of a config make, with the docstring below the field.

    Args:
        prefixes: those of fields that are configs, where it is not their name.
    """
    (tree,) = ast.parse(inspect.getsource(config)).body
    below = {
        line.target.id: " ".join(text.value.value.split())
        for line, text in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(line, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    found = {}
    for field in fields(config):
        if is_dataclass(field.default_factory):
            found |= described(field.default_factory, prefixes.get(field.name, f"{prefix}{field.name}."), **prefixes)
        else:
            found[prefix + field.name.replace("_", "-")] = below[field.name]
    return found


def assert_described(options: dict[str, str], help_text: str) -> None:
    text = words_of(help_text)
    for option, description in options.items():
        assert re.search(rf" {re.escape(option)}(,| [A-Z{{\[]).*?{re.escape(description)}", text), option


@pytest.mark.parametrize("task", TASKS)
def test_help_of_train_describes_every_field_of_the_config(task):
    """Each option appears with the docstring of its field, also those of the named task.
    Catches: a field without a docstring, one that the command line cannot set, the options of another task."""
    code, out, err = outcome("train", "--help", "--task", task)
    assert (code, err) == (0, "")
    options = described(TrainConfig)
    assert len(options) > 35
    options = {option: text for option, text in options.items() if not option.startswith("--task.")}
    assert_described(options | described(TASKS[task], "--task."), out)


@pytest.mark.parametrize("task", TASKS)
def test_help_of_data_describes_every_field_of_the_task(task):
    """Each option appears with the docstring of its field; those of the stream have no prefix.
    Catches: a field without a docstring, a stream's --split in place of the command's, options that are missing."""
    code, out, err = outcome("data", f"--task={task}", "--help")
    assert (code, err) == (0, "")
    options = described(TASKS[task], stream="--", names="--names.")
    shadowed = {option: options.pop(option) for option in ("--split",) if option in options}
    own = {"--show": "Number of documents shown.", "--seed": "Chooses the documents."}
    own["--split"] = "Documents drawn as in training, or from the fixed"
    assert_described(options | own | {f"--stream.{option[2:]}": text for option, text in shadowed.items()}, out)


@pytest.mark.parametrize("command", [*COMMANDS, *(f"runs {name}" for name in RUNS)])
def test_help_of_every_command_has_an_example_that_parses(command):
    """--help exits 0, and the options of its example exist.
    Catches: an example that still uses the old name of an option."""
    code, out, err = outcome(*command.split(), "--help")
    assert (code, err) == (0, "")
    example = re.search(rf"^ *Example: mtp-lab {command}(.*)$", out, re.M)
    assert example, out
    for option in re.findall(r"--\S+", example[1]):
        assert re.search(rf"^. {re.escape(option)}[ ,]", out, re.M), option


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_may_follow_an_option_of_the_task(word):
    """The task's options are read before all others, and ignore a request for help.
    Catches: "unrecognized options: -h"."""
    for arguments in (["train", "--task.seq", "300", word], ["data", "--task", "star_graph", "--degree", "3", word]):
        code, out, err = outcome(*arguments)
        assert (code, err) == (0, "") and "show this help message" in out


def test_help_lists_the_commands():
    """`mtp-lab --help` names each command and its purpose.
    Catches: a command that is missing in the list."""
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
    losses = r"validation loss (\d\.\d+), (\d\.\d+) nats at horizons 1, 2, \.\.\.; accuracy \d\.\d+"
    trained = re.fullmatch(rf"{only_run}: {losses}\n", out)
    assert trained, out

    code, out, _ = outcome("runs", "--runs-dir", str(runs_dir))
    header, line = out.splitlines()
    assert code == 0 and header.split() == ["run", "n", "step", "done", "loss", "MB"]
    assert line.split()[:5] == [f"bytes/{Path(only_run).name}", "2", "4", "True", trained[1]]
    assert outcome("runs", "list", "--runs-dir", str(runs_dir)) == (0, out, "")

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


def test_generate_writes_the_text_and_compares(only_run):
    """The text of plain decoding, by forward passes; --compare adds a table of both ways with the same tokens.
    Catches: a prompt that is lost, a comparison of two different prompts."""
    generate = ["generate", "--run", only_run, "--prompt", "the bird", "--new", "12"]
    code, out, _ = outcome(*generate, "--compare")
    text, table = out.split("\n\neach | ends a forward pass\n")
    assert code == 0 and text.startswith("the bird") and 6 <= text.count("|") <= 12
    lines = table.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["2", "12"], ["1", "12"]] and "the same tokens" in lines[3]
    plain = outcome(*generate, "--draft", "1")[1].split("\n\neach")[0]
    assert plain.replace("|", "") == text.replace("|", "") and plain.count("|") == 12
    sampled = [outcome(*generate, "--temperature", "1", "--seed", seed)[1] for seed in ("1", "1", "2")]
    texts = [output.split("\n\neach")[0] for output in sampled]
    assert texts[0] == texts[1] != texts[2]


def test_what_cannot_be_generated_is_refused(only_run):
    """Nothing is printed before the refusal, not even the prompt."""
    command = ["generate", "--run", only_run, "--prompt"]
    assert "draft=9 must be an integer from 1 to the model's n_future=2" in refusal(*command, "a", "--draft", "9")
    assert "do not fit the model's max_seq=32" in refusal(*command, "a", "--new", "32")
    assert "temperature=-1.0 must be 0" in refusal(*command, "a", "--temperature", "-1")


def test_export_writes_a_llama(only_run, tmp_path):
    """A folder that transformers reads, with the byte tokenizer; a second export into it is refused."""
    out = tmp_path / "llama"
    assert outcome("export", "--run", only_run, "--out", str(out))[0] == 0
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "llama" and config["vocab_size"] == 257 and (out / "tokenizer.json").exists()
    assert "is not empty" in refusal("export", "--run", only_run, "--out", str(out))


def test_no_runs_are_no_error(tmp_path):
    """The message names an empty or missing folder.
    Catches: an empty table, or a traceback of the table's printer."""
    code, out, _ = outcome("runs", "--runs-dir", str(tmp_path / "none"))
    assert code == 0 and out == f"no runs in {tmp_path / 'none'}\n"


# --- Batches and runs ------------------------------------------------------------------------------------------------


def test_show_describes_a_finished_run(runs_dir, only_run):
    """By its folder or by its listed name: the options that differ from the defaults, as a tree, and the results.
    Catches: options that are missing, defaults among them, a run that is listed and not found."""
    code, out, err = outcome("runs", "show", only_run)
    name = f"bytes/{Path(only_run).name}"
    assert (code, err) == (0, "") and outcome("runs", "show", name, "--runs-dir", str(runs_dir)) == (code, out, err)
    head, _, *lines = out.splitlines()
    assert head == f"{name}: done"
    assert {"  steps: 4", "  model", "    d_model: 16", "    n_future: 2", '  name: "n2"', "    seq: 32"} <= set(lines)
    assert not re.search("head_kind|seed|optimizer|horizon_weights", out)
    assert re.search(
        r"steps: 4 of 4\nvalidation loss at step 4: \d\.\d{3}, \d\.\d{3} nats at horizons 1, 2, \.\.\.\n"
        r"seconds per step, evaluations included: \d.*\non disk: 0\.\d MB \(snapshots 0\.0 MB, checkpoints 0\.0 MB\)\n"
        r"snapshots at steps: none\n$",
        out,
    ), out


def test_show_describes_an_unfinished_run(only_run, tmp_path):
    """A run in training, resumed once, with an unknown task: only the seconds since it was resumed count.
    Catches: a training shown as stopped, negative seconds where it was resumed."""
    folder = tmp_path / "next" / "run"
    (folder / "snapshots").mkdir(parents=True)
    config = json.loads((Path(only_run) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "task": {"kind": "later", "seq": 256}}))
    assert "steps: 0 of 4\non disk" in outcome("runs", "show", str(folder))[1]
    seconds = {1: 9, 2: 90, 3: 4, 5: 5}
    rows = [json.dumps({"step": step, "seconds": s, "train": [1.0]}) for step, s in seconds.items()]
    (folder / "metrics.jsonl").write_text("\n".join(rows) + '\n{"step": 6, "sec')
    (folder / "snapshots" / f"step-00000002-{'0' * 16}.safetensors").write_bytes(b"x")
    with FileLock(folder / ".lock"):
        code, out, _ = outcome("runs", "show", str(folder))
    assert code == 0 and out.startswith("next/run: being trained\n") and "steps: 5 of 4" in out
    assert "included: 0.5\n" in out and "snapshots at steps: 2\n" in out and "validation" not in out
    assert '  task\n    kind: "later"\n    seq: 256\n' in out
    assert outcome("runs", "show", str(folder))[1].startswith("next/run: unfinished\n")


def test_prune_deletes_only_with_yes(only_run, tmp_path):
    """Catches: a listing that deletes, a flag that is parsed and dropped, freed megabytes that are still in use."""
    folder = tmp_path / "bytes" / "stopped"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text((Path(only_run) / "config.json").read_text())
    (folder / "metrics.jsonl").write_bytes(bytes(2_000_000))
    prune = ["runs", "prune", "--runs-dir", str(tmp_path)]
    assert outcome(*prune, "--yes") == (0, "deleted: 0.0 MB freed\n", "") and folder.exists()
    code, out, _ = outcome(*prune, "--unfinished", "--days", "0")
    what = "bytes/stopped: unfinished; 2.0 MB, last written 0.0 days ago\n"
    assert (code, out) == (0, f"{what}2.0 MB could be freed; nothing is deleted without --yes\n") and folder.exists()
    code, out, _ = outcome(*prune, "--unfinished", "--days", "0", "--yes")
    assert (code, out) == (0, f"{what}deleted: 2.0 MB freed\n") and not folder.exists()


@pytest.mark.parametrize("status, code", [("done", 0), ("already done", 0), ("failed", 1)])
def test_a_batch_ends_with_its_exit_code_and_its_failures(status, code, tmp_path, monkeypatch):
    """Options reach the batch; failures are printed at the end, and give exit code 1.
    Catches: a nightly job that reports success for a notebook that failed."""
    received = {}

    def run(*arguments, **more):
        received.update(inspect.signature(real).bind(*arguments, **more).arguments)
        return [execution.Outcome("00_a", status, 2.0, "ValueError: no", 4, None, "the last\nlines")]

    real = execution.run
    monkeypatch.setattr(execution, "run", run)
    options = "--preset smoke --only 00_token_streams --seeds 2 --jobs 3 --no-keep-going --runs-dir"
    returned, out, _ = outcome("study", *options.split(), str(tmp_path))
    assert returned == code and ("1 of 1 notebooks failed:\n" in out) == ("    lines\n" in out) == (code == 1)
    assert out.endswith(f"runs: 0 MB in {tmp_path}\n")
    expected = dict(preset="smoke", out=None, only=("00_token_streams",), seeds=2, jobs=3, keep_going=False)
    assert received == {**expected, "runs_dir": str(tmp_path)}


def test_a_dry_run_starts_nothing(tmp_path, monkeypatch):
    """It prints what would run and returns 0; a notebook that cannot run is refused as in a real batch.
    Catches: a dry run that executes notebooks, and one that accepts what the batch refuses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execution, "_execute", None)
    (tmp_path / "notebooks").mkdir()
    notebook = tmp_path / "notebooks" / "00_token_streams.py"
    notebook.write_text('# %% tags=["parameters"]\n' + "".join(f"{name} = 0\n" for name in plan.PARAMETERS))
    dry = ["study", "--preset", "smoke", "--only", "00_token_streams", "--dry-run"]
    code, out, err = outcome(*dry)
    assert (code, err) == (0, "") and "00_token_streams: missing; trainings missing: 0; last time: unknown" in out
    assert out.endswith("estimated: unknown\n")
    assert [path.name for path in tmp_path.rglob("*")] == ["notebooks", "00_token_streams.py"]
    notebook.write_text(notebook.read_text().replace("workers", "threads"))
    assert "must also declare workers" in refusal(*dry)
    assert "preset='quik' is not known" in refusal("study", "--preset", "quik", "--dry-run")


def test_options_of_a_run_are_its_config(only_run):
    """The options of the command line are in config.json.
    Catches: an option that is parsed and dropped."""
    config = json.loads((Path(only_run) / "config.json").read_text())
    assert config["name"] == "n2" and config["model"]["n_future"] == 2 and config["model"]["d_mlp"] == 32
    assert config["steps"] == 4 and config["precision"] == "fp32" and config["task"]["seq"] == 32


# --- Any task ------------------------------------------------------------------------------------------------------

LINES = r"\n\d+: \d+ tokens(?:, m = \d)?\n"  # above every document


class Terminal(io.StringIO):
    """A stdout that is a terminal."""

    def isatty(self) -> bool:
        return True


def in_a_terminal(*arguments: str) -> str:
    with contextlib.redirect_stdout(Terminal()) as out:
        assert main(list(arguments)) == 0
    return out.getvalue()


@pytest.mark.parametrize("task", TASKS)
def test_data_shows_documents_in_colours_or_in_signs(task, monkeypatch):
    """The requested number of documents, below a legend; colours only in a terminal, and not if NO_COLOR is set.
    Catches: escape codes in a file, colours despite NO_COLOR, labels that are lost without colours."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    command = ["data", "--task", task, "--show", "2", "--seed", "3"]
    code, piped, err = outcome(*command)
    assert (code, err) == (0, "") and piped.startswith(f"{task}, ") and "highlighted: " in piped.splitlines()[0]
    assert len(re.findall(LINES, piped)) == 2 and "\033" not in piped
    coloured = in_a_terminal(*command)
    assert ("\033[" in coloured) == ("\033[39m" in coloured) == (task != "bytes")
    assert re.findall(LINES, coloured) == re.findall(LINES, piped)
    monkeypatch.setenv("NO_COLOR", "1")
    assert in_a_terminal(*command) == piped
    monkeypatch.setenv("NO_COLOR", "")  # as if it were not there: no-color.org
    assert in_a_terminal(*command) == coloured


def test_examples_of_data_in_readme_and_help_run():
    """The commands that users copy.
    Catches: an example that still uses the old name of an option, or an old default."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    commands = re.findall(r"^mtp-lab (data [^#\n]*)", readme, re.M)
    commands += re.findall(r"Example: mtp-lab (data [^\n│]*)", outcome("data", "--help")[1])
    assert len(commands) == 3
    for command in commands:
        code, out, err = outcome(*command.split())
        assert (code, err) == (0, "") and out


def test_options_of_data_reach_the_stream():
    """--p and --d are the stream's, --seq the task's; --stream.split is the stream's, since --split is the command's.
    Catches: options that are parsed and dropped."""
    options = """
        --p 2 --d 4 --min-operations 4 --max-operations 4 --notation infix --stream.split chain
        --seq 40 --show 4 --split validation"""
    code, out, err = outcome("data", "--task", "polynomials", *options.split())
    assert (code, err) == (0, "")
    assert out.startswith("polynomials, 17 kinds of tokens") and re.findall(r"m = \d", out) == ["m = 4"] * 4
    assert "((" in out.replace(" ", "").replace("<", "") and not re.search("[2-9]X", out)


def test_another_seed_shows_other_documents_of_the_same_set():
    """Held-out documents are fixed: a seed chooses among them. Training's are drawn anew.
    Catches: a seed that is ignored, held-out documents that are drawn by the seed."""
    task = PolynomialsTask(Polynomials(p=2, d=2))
    command = ["data", "--task", "polynomials", "--p", "2", "--d", "2", "--show", "20", "--split", "test"]
    one, other = (outcome(*command, "--seed", seed)[1] for seed in "01")
    assert one != other and one == outcome(*command)[1]
    held_out = task.held_out("test", 64)
    known = {
        task.stream.text(row[documents == i].tolist())
        for row, documents in zip(held_out.tokens, held_out.documents, strict=True)
        for i in set(documents[documents >= 0].tolist())
    }
    shown = re.split(LINES, one + other.partition("\n")[2])[1:]
    assert len(shown) == 40 and {re.sub("[<>{}\n]", "", text) for text in shown} <= known


def test_train_on_another_task_needs_no_vocabulary(tmp_path):
    """The model has the vocabulary of the task with its options, and takes its rows; all else is as in Python.
    Catches: options of the task that come after the vocabulary was read, a max_seq that is too small, another hash."""
    options = """
        --model.d-model 16 --model.n-layers 2 --batch-size 2 --steps 2 --evaluate-rows 2 --seed 5
        --task=polynomials --task.stream.p 3 --task.stream.max-operations 1 --task.seq 600"""
    code, out, _ = outcome("train", *options.split(), "--runs-dir", str(tmp_path))
    assert code == 0
    task = PolynomialsTask(Polynomials(p=3, max_operations=1), seq=600)
    model = ModelConfig(vocab_size=3 * 5 + 9, d_model=16, n_layers=2, max_seq=600)
    config = TrainConfig(task=task, model=model, batch_size=2, steps=2, evaluate_rows=2, seed=5)
    (path,) = tmp_path.glob("polynomials/*/config.json")
    assert path.parent == tmp_path / config.folder
    assert from_mapping(TrainConfig, json.loads(path.read_text())) == config
    assert re.search(r"nats at horizons 1, 2, \.\.\.; exact_1 \d\.\d{3}\n$", out)


def test_train_on_bytes_is_what_it_was(corpus, only_run):
    """Without --task the config is TrainConfig's own, except for the given options: earlier runs are found again.
    Catches: a vocabulary or longest row that comes from the task instead of the default."""
    config = from_mapping(TrainConfig, json.loads((Path(only_run) / "config.json").read_text()))
    model = ModelConfig(d_model=16, n_attention_heads=2, n_layers=3, n_future=2, max_seq=32, d_mlp=32)
    given_options = dict(name="n2", batch_size=4, steps=4, evaluate_rows=4, precision="fp32")
    assert config == TrainConfig(task=BytesTask(paths=(corpus,), seq=32), model=model, **given_options)


def run_command(arguments: list[str], err: str) -> None:
    """Runs the command in this process, which ends with its exit code; stderr goes to a file. Ctrl-C works as in a
    terminal: a process that a script starts in the background, such as this suite, would ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(err, "w") as file, contextlib.redirect_stderr(file):
        code = main(["train", "--threads", "1", *arguments])
    sys.exit(code)


def test_ctrl_c_keeps_the_last_checkpoint(corpus, tmp_path):
    """SIGINT ends a training with code 130 and one line; the checkpoint stays.
    Catches: a traceback of 40 lines, exit code 0 for a training that was stopped."""
    steps = ["--steps", "100000", "--checkpoint-every", "5"]
    command = [*TINY, "--task.paths", corpus, "--runs-dir", str(tmp_path), *steps]
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
    assert message == "error: stopped; the last checkpoint is kept, the same command continues from it\n"
    assert list(tmp_path.glob("bytes/*/checkpoints/step-*"))
