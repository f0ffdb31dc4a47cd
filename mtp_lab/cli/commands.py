"""The command line: `mtp-lab data | train | evaluate | generate | export | runs | study | zoo`.

Options are the fields of the config dataclasses, and are documented there. The options of a task depend on its name
(`mtp_lab.cli.parsing`). A bad value prints one line on stderr and gives exit code 2.
"""

import contextlib
import functools
import inspect
import io
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from mtp_lab.batch.zoo import pack, unpack
from mtp_lab.cli import parsing
from mtp_lab.cli.runs import list_runs, prune_runs, show_run, train_run
from mtp_lab.config import RunError, TrainConfig
from mtp_lab.tasks import Split, Task, TaskName


def data(
    config: Annotated[Task, parsing.ROOT],
    task: TaskName = "bytes",
    show: int = 3,
    split: Split = "train",
    seed: int = 0,
) -> None:
    """Show documents of a task with the labels of their tokens, as colours or, without a terminal, as signs.

    Example: mtp-lab data --task stories --show 3 --split validation

    Every task has its own options: mtp-lab data --task polynomials --help

    Args:
        task: The task; its fields and those of its stream are options, too.
        show: Number of documents shown.
        split: Documents drawn as in training, or from the fixed validation or test rows.
        seed: Chooses the documents.
    """
    from mtp_lab.tasks.rendering import documents, lines

    print("\n".join(lines(config, documents(config, split, show, seed), _use_colours())))


def train(
    config: Annotated[TrainConfig, parsing.ROOT],
    task: TaskName = "bytes",
    runs_dir: str = "runs",
    threads: int = 0,
) -> None:
    """Train a model, or continue a training that was stopped; a finished run is not trained again.

    Example: mtp-lab train --name n4 --steps 400 --model.n-future 4 --model.max-seq 256

    Every task has its own options: mtp-lab train --task stories --help

    Several processes: torchrun --nproc-per-node 2 -m mtp_lab.cli train --model.n-future 4

    Args:
        task: The task to train on; its options begin with --task., and the model gets its vocabulary.
        runs_dir: Folder of all runs.
        threads: Threads of one process; with 0, torch chooses.
    """
    from mtp_lab.training import runs

    if threads < 0:
        raise ValueError(f"threads={threads} must not be negative; with 0, torch chooses")
    if threads:
        import torch

        torch.set_num_threads(threads)
    run = runs.get_run(config, runs_dir, wait=False)
    if int(os.environ.get("RANK", 0)):  # torchrun: only the lead process prints
        return
    last = run.metrics().query("split == 'validation'").groupby("horizon")["loss"].last()
    losses = ", ".join(f"{loss:.3f}" for loss in last)
    measured = run.measures().query("step == step.max()")
    measures = [f"; {name} {value:.3f}" for name, value in zip(measured["measure"], measured["value"], strict=True)]
    print(f"{run.path}: validation loss {losses} nats at horizons 1, 2, ...{''.join(measures)}")


def evaluate(run: str, split: Split = "test", rows: int = 256, as_json: bool = False) -> None:
    """Print the loss of a trained model at every horizon on held-out rows, with a bootstrap interval over rows.

    Example: mtp-lab evaluate --run runs/bytes/n4-0123456789 --split validation

    Args:
        run: Folder of a finished run.
        split: Split of the rows: train, validation or test.
        rows: Number of rows.
        as_json: Print JSON instead of a table.
    """
    from mtp_lab.evaluation.losses import BITS_PER_NAT
    from mtp_lab.evaluation.statistics import bootstrap_interval
    from mtp_lab.model.predictions import row_losses
    from mtp_lab.training.runs import open_run

    if rows < 1:
        raise ValueError(f"rows={rows} must be at least 1")
    opened = open_run(run)
    nll, counts = row_losses(opened.model(), opened.config.task.held_out(split, rows))
    intervals = [bootstrap_interval(*pair) for pair in zip(nll, counts, strict=True)]
    if as_json:
        bits = [{k: v * BITS_PER_NAT for k, v in vars(interval).items()} for interval in intervals]
        print(json.dumps({"run": run, "split": split, "unit": "bits per token", "horizons": bits}))
        return
    print(f"{run}, {split}, {nll.shape[1]} rows\nhorizon  bits per token  [95 % interval]    targets")
    for i, (interval, count) in enumerate(zip(intervals, counts.sum(1), strict=True), start=1):
        mean, low, high = (value * BITS_PER_NAT for value in (interval.mean, interval.low, interval.high))
        print(f"{i:7d}  {mean:14.4f}  [{low:.4f}, {high:.4f}]  {count:9d}")


def generate(
    run: str,
    prompt: str = "",
    new: int = 120,
    draft: int = 0,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    compare: bool = False,
) -> None:
    """Continue a prompt with a trained model; each token has the colour of the head that proposed it.

    Example: mtp-lab generate --run runs/bytes/n4-0123456789 --prompt "def " --draft 4 --compare

    Args:
        run: Folder of a finished run.
        prompt: A text for models of bytes; for other models, tokens separated by spaces.
        new: Largest number of tokens to generate.
        draft: Number of heads used, head 1 included; 1 is plain decoding, 0 uses all heads.
        temperature: 0 takes the most likely token; a higher value is exact speculative sampling.
        top_p: Sample from the fewest tokens that hold this share of the probability.
        top_k: Sample from this many most likely tokens; 0 uses all tokens.
        seed: Seed of the sampling.
        compare: Decode once more without drafts, and compare.
    """
    import torch

    from mtp_lab.decoding.decoder import Decoder
    from mtp_lab.decoding.generation import Generation
    from mtp_lab.decoding.generation import generate as decoded
    from mtp_lab.decoding.token_stream import TokenStream, summary, tokens_of
    from mtp_lab.training.runs import open_run

    opened = open_run(run)
    model, prompt_tokens = opened.model(), tokens_of(opened.config.task, prompt)
    draft = draft or model.config.n_future
    terminal = TokenStream(opened.config.task.pieces, prompt_tokens, _use_colours())

    def decode(k: int, stream: TokenStream | None) -> Generation:
        generator = torch.Generator().manual_seed(seed)
        sampling = dict(temperature=temperature, top_p=top_p, top_k=top_k, generator=generator)
        return decoded(Decoder(model, k), [prompt_tokens], new, **sampling, stream=stream)

    drafted = decode(draft, terminal)
    print(f"\n\n{terminal.legend(draft)}")
    print("\n".join(summary(drafted, decode(1, None) if compare else None)))


def export(run: str, out: str) -> None:
    """Write trunk and head 1 of a trained model as a Hugging Face Llama, for AutoModelForCausalLM.from_pretrained.

    Example: mtp-lab export --run runs/bytes/n4-0123456789 --out exported/n4

    Args:
        run: Folder of a finished run.
        out: New folder for config.json, model.safetensors and, if the model is of bytes, a tokenizer.
    """
    from mtp_lab.model.llama import export as write
    from mtp_lab.training.runs import open_run

    opened = open_run(run)
    write(opened.model(), out, byte_tokenizer=opened.config.task.name == "bytes")
    print(f"written: {out}")


def study(
    preset: str = "quick",
    out: str = "",
    only: tuple[str, ...] = (),
    seeds: int = 0,
    runs_dir: str = "runs",
    jobs: int = 1,
    keep_going: bool = True,
    dry_run: bool = False,
) -> int:
    """Run the notebooks as a batch: only missing or stale notebooks run, and finished trainings are reused.

    Example: mtp-lab study --preset quick --only 02_real_bytes --dry-run

    Args:
        preset: smoke (seconds, for tests), quick (minutes), full (the committed results) or paper (for GPUs).
        out: Folder for executed notebooks and figures; by default results/<preset>.
        only: Names of the notebooks to run; by default all.
        seeds: Number of seeds of every experiment; 0 takes the preset's number.
        runs_dir: Folder of all runs.
        jobs: Notebooks that run at the same time; they share the cores evenly.
        keep_going: Run the other notebooks if one fails.
        dry_run: Only print what would run and why, how many trainings are missing, and the time of the last execution.
    """
    from mtp_lab.batch.execution import run
    from mtp_lab.batch.plan import plan
    from mtp_lab.batch.report import closing_lines, plan_lines
    from mtp_lab.experiments.verdicts import results_page
    from mtp_lab.files import write_atomic

    if dry_run:
        print("\n".join(plan_lines(plan(preset, out or None, only, seeds), preset, seeds, runs_dir)))
        return 0
    outcomes = run(preset, out or None, only, seeds, runs_dir, jobs, keep_going=keep_going)
    if out and (Path(out) / "docs").is_dir():  # --out . renews the committed results, and the page that shows them
        write_atomic(Path(out) / "docs" / "results.md", results_page(Path(out) / "figures"))
    print("\n".join(closing_lines(outcomes, runs_dir)))
    return int(any(outcome.failed for outcome in outcomes))


def _use_colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


RULE = r"[─-]{3,}"  # across one of tyro's boxes; hyphens where the output is not "utf-8" in that spelling
RUNS = {"list": list_runs, "show": show_run, "train": train_run, "prune": prune_runs}
ZOO = {"unpack": unpack, "pack": pack}
GROUPS = {"runs": (RUNS, "List, show, train, prune runs."), "zoo": (ZOO, "Unpack or pack the models of the notebooks.")}
"""Commands below a word; the word alone is the first of them."""
COMMANDS = {f.__name__: f for f in (data, train, evaluate, generate, export, study)}
COMMANDS |= {word: next(iter(commands.values())) for word, (commands, _) in GROUPS.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 if a notebook failed, 2 for a refusal, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            call = _parsed(words)
        return call() or 0
    except SystemExit as stop:  # --help, or a word that does not parse
        return _refuse(_message(complaint.getvalue())) if stop.code else 0
    except (ValueError, OSError, MemoryError, RunError) as error:  # of a config, or of the command itself
        return _refuse(str(error) or "out of memory")
    except KeyboardInterrupt:
        return _refuse("stopped; the last checkpoint is kept, the same command continues from it", code=130)


def _parsed(words: Sequence[str]) -> Callable[[], int | None]:
    """The call of a command, with its arguments."""
    commands, prog, purpose = COMMANDS, "mtp-lab", __doc__.splitlines()[0]
    word, rest = (words[0], words[1:]) if words else ("", [])
    if word in GROUPS:
        (commands, purpose), prog = GROUPS[word], f"mtp-lab {word}"
        names_none = not rest or rest[0].startswith("-") and rest[0] not in ("-h", "--help")
        words = [next(iter(commands)), *rest] if names_none else rest
        purpose += f"\n\nExample: {prog} {list(commands)[-1]}"
    calls = {name: _deferred(command) for name, command in commands.items()}
    if word == "data":
        calls[word].__annotations__["config"] = parsing.sampling(rest, data.__annotations__)
    if word == "train":
        calls[word].__annotations__["config"] = parsing.training(rest)
    return tyro.extras.subcommand_cli_from_dict(calls, prog=prog, description=purpose, args=words)


def _deferred(command: Callable[..., int | None]) -> Callable[..., Callable[[], int | None]]:
    """A function with the signature of `command` that returns its call. The output of the parser can thus be captured
    without that of the command."""

    @functools.wraps(command)
    def prepared(*args: Any, **kwargs: Any) -> Callable[[], int | None]:
        return functools.partial(command, *args, **kwargs)

    del prepared.__wrapped__  # otherwise tyro would read the annotations of `command`, which `_parsed` must not change
    prepared.__signature__ = inspect.signature(command)
    prepared.__annotations__ = dict(command.__annotations__)
    return prepared


def _message(box: str) -> str:
    """The message in one of tyro's framed boxes, without the frame and the help below it."""
    text = "\n".join(line.strip("│╭╮╰╯ ") for line in box.splitlines())
    inside = re.split(f"^.*{RULE}.*$", text, maxsplit=1, flags=re.M)[-1]  # below the title
    message, *help_below = re.split(f"^{RULE}$", inside, flags=re.M)
    similar = re.search(r"^--\w[\w.-]*", "\n".join(help_below), re.M)
    hint = f" (did you mean {similar[0]}?)" if similar and "nrecognized" in box else ""
    return re.sub(r"Error parsing __tyro\S+: ", "", " ".join(message.split())) + hint or text


def _refuse(message: str, code: int = 2) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code
