"""The command line: `mtp-lab data | train | evaluate | generate | export | runs | study | zoo`.

Options are the fields of the config dataclasses, documented there; those of a task follow from its name
(mtp_lab.cli.parsing). A bad value gives one line on stderr and exit code 2.
"""

import contextlib
import functools
import inspect
import io
import itertools
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
    """Show documents that a task is made of, with what is known of their tokens: coloured, or in signs without colours.

    Example: mtp-lab data --task stories --show 3 --split validation

    Every task has options of its own: mtp-lab data --task polynomials --help

    Args:
        task: Whose documents; its fields and those of its stream are options, too.
        show: Documents shown.
        split: Drawn as in training, or from the fixed validation or test rows.
        seed: Which ones.
    """
    from mtp_lab.tasks.rendering import documents, lines

    print("\n".join(lines(config, documents(config, split, show, seed), _coloured())))


def train(
    config: Annotated[TrainConfig, parsing.ROOT],
    task: TaskName = "bytes",
    runs_dir: str = "runs",
    threads: int = 0,
) -> None:
    """Train a model, or go on where a killed training stopped; a run that is done is not trained again.

    Example: mtp-lab train --name n4 --steps 400 --model.n-future 4 --model.max-seq 256

    Every task has options of its own: mtp-lab train --task stories --help

    Several processes: torchrun --nproc-per-node 2 -m mtp_lab.cli train --model.n-future 4

    Args:
        task: What to train on; its own options begin with --task., and the model gets its vocabulary.
        runs_dir: Where runs are kept.
        threads: Threads of one process; 0 leaves the choice to torch.
    """
    from mtp_lab.training import runs

    if threads < 0:
        raise ValueError(f"threads={threads} must not be negative; 0 leaves the choice to torch")
    if threads:
        import torch

        torch.set_num_threads(threads)
    run = runs.get_run(config, runs_dir, wait=False)
    if int(os.environ.get("RANK", 0)):  # torchrun: the lead process speaks
        return
    last = run.metrics().query("split == 'validation'").groupby("horizon")["loss"].last()
    said = f"validation loss {', '.join(f'{loss:.3f}' for loss in last)} nats at horizons 1, 2, ..."
    measured = run.measures().query("step == step.max()")
    each = [f"; {name} {value:.3f}" for name, value in zip(measured["measure"], measured["value"], strict=True)]
    print(f"{run.path}: {said}{''.join(each)}")


def evaluate(run: str, split: Split = "test", rows: int = 256, as_json: bool = False) -> None:
    """Loss of a trained model at every horizon, on held-out rows of its task, with a bootstrap interval over rows.

    Example: mtp-lab evaluate --run runs/bytes/n4-0123456789 --split validation

    Args:
        run: Folder of a finished run.
        split: Which rows: train, validation or test.
        rows: How many of them.
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
    """Continue a prompt with a trained model: the text as it comes, coloured by the head that proposed each token.

    Example: mtp-lab generate --run runs/bytes/n4-0123456789 --prompt "def " --draft 4 --compare

    Args:
        run: Folder of a finished run.
        prompt: A text for models of bytes; tokens with spaces between them for others.
        new: Tokens to generate, at most.
        draft: Heads used, head 1 included; 1 is plain decoding, 0 takes all.
        temperature: 0 for the most likely token, otherwise exact speculative sampling.
        top_p: Fewest tokens that hold this much of the probability.
        top_k: So many most likely tokens; 0 takes all.
        seed: Of the sampling.
        compare: Decode once more without drafts, and compare.
    """
    import torch

    from mtp_lab.decoding.decoder import Decoder
    from mtp_lab.decoding.generation import Generation
    from mtp_lab.decoding.generation import generate as decoded
    from mtp_lab.decoding.token_stream import TokenStream, summary, tokens_of
    from mtp_lab.training.runs import open_run

    opened = open_run(run)
    model, tokens = opened.model(), tokens_of(opened.config.task, prompt)
    live = TokenStream(opened.config.task.pieces, tokens, _coloured())

    def told(k: int, stream: TokenStream | None) -> Generation:
        randomness = torch.Generator().manual_seed(seed)
        options_ = dict(temperature=temperature, top_p=top_p, top_k=top_k, generator=randomness, stream=stream)
        return decoded(Decoder(model, k), [tokens], new, **options_)

    drafted = told(draft or model.config.n_future, live)
    print(f"\n\n{live.legend(draft or model.config.n_future)}")
    print("\n".join(summary(drafted, told(1, None) if compare else None)))


def export(run: str, out: str) -> None:
    """Write trunk and head 1 of a trained model as a Hugging Face Llama, for AutoModelForCausalLM.from_pretrained.

    Example: mtp-lab export --run runs/bytes/n4-0123456789 --out exported/n4

    Args:
        run: Folder of a finished run.
        out: New folder for config.json, model.safetensors and, for models of bytes, a tokenizer.
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
    """Run the notebooks as a batch: only what is missing or stale is run, and nothing that is done is lost.

    Example: mtp-lab study --preset quick --only 02_real_bytes --dry-run

    Args:
        preset: smoke (seconds, for tests), quick (minutes), full (the committed results) or paper (for GPUs).
        out: Folder for executed notebooks and figures; by default results/<preset>.
        only: Notebooks to run, by name; by default all.
        seeds: Seeds of every experiment; 0 takes the preset's number.
        runs_dir: Where trained runs are kept.
        jobs: Notebooks at a time; each trains with the cores shared out evenly.
        keep_going: Run the others when a notebook fails.
        dry_run: Only say what would run and why, which trainings are missing, and how long it took last time.
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


def _coloured() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


RULE = re.compile(r"[─-]{3,}")  # across one of tyro's boxes; hyphens where the output is not "utf-8" in that spelling
RUNS = {"list": list_runs, "show": show_run, "train": train_run, "prune": prune_runs}
ZOO = {"unpack": unpack, "pack": pack}
GROUPS = {"runs": (RUNS, "List, show, train, prune runs."), "zoo": (ZOO, "Unpack or pack the models of the notebooks.")}
"""Commands below a word, which by itself is the first of them."""
COMMANDS = {f.__name__: f for f in (data, train, evaluate, generate, export, study)}
COMMANDS |= {word: next(iter(commands.values())) for word, (commands, _) in GROUPS.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 when a notebook failed, 2 for what cannot be done as asked."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            command = _parsed(words)
    except SystemExit as stop:  # --help, or a value that does not parse
        return _refuse(_sentence(complaint.getvalue())) if stop.code else 0
    except (ValueError, OSError, MemoryError) as error:  # a value that parses, but that a config refuses
        return _refuse(str(error))
    try:
        return command() or 0
    except (ValueError, OSError, MemoryError, RunError) as error:
        return _refuse(str(error) or "out of memory")
    except KeyboardInterrupt:
        return _refuse("stopped; the last checkpoint is kept, the same command goes on from it", code=130)


def _parsed(words: Sequence[str]) -> Callable[[], int | None]:
    """The call that the words ask for."""
    commands, prog, purpose = COMMANDS, "mtp-lab", __doc__.splitlines()[0]
    narrowed = _narrowed(words)
    if words and words[0] in GROUPS:
        (commands, purpose), prog = GROUPS[words[0]], f"mtp-lab {words[0]}"
        bare = len(words) == 1 or words[1].startswith("-") and words[1] not in ("-h", "--help")
        words = [next(iter(commands))] * bare + list(words[1:])
        purpose += f"\n\nExample: {prog} {list(commands)[-1]}"
    calls = {name: _deferred(f, narrowed.get(name, {})) for name, f in commands.items()}
    return tyro.extras.subcommand_cli_from_dict(calls, prog=prog, description=purpose, args=words)


def _narrowed(words: Sequence[str]) -> dict[str, dict[str, type]]:
    """Command -> parameter -> what to parse it into, where its annotation does not say, or the task's name decides."""
    match words:
        case ["data", *rest]:
            return {"data": {"config": Annotated[parsing.sampling(rest, data.__annotations__), parsing.ROOT]}}
        case ["train", *rest]:
            return {"train": {"config": Annotated[parsing.training(rest), parsing.ROOT]}}
        case ["runs", *_]:
            run = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
            return {"show": {"run": run}, "train": {"run": run}}
    return {}


def _deferred(
    function: Callable[..., int | None], narrowed: dict[str, type]
) -> Callable[..., Callable[[], int | None]]:
    """Parses like `function`, but leaves the call for later, so that parsing errors can be told from the work's own."""

    @functools.wraps(function)
    def prepared(*args: Any, **kwargs: Any) -> Callable[[], int | None]:
        return functools.partial(function, *args, **kwargs)

    del prepared.__wrapped__  # or else tyro would read the annotations of `function`
    prepared.__signature__ = inspect.signature(function)
    prepared.__annotations__ = {**function.__annotations__, **narrowed}
    return prepared


def _sentence(box: str) -> str:
    """The message in one of tyro's framed boxes, without the frame and the help that follows it."""
    lines = itertools.dropwhile(lambda line: not RULE.search(line), (line.strip("│╭╮╰╯ ") for line in box.splitlines()))
    inside = list(lines)[1:]  # below the box's title
    message = list(itertools.takewhile(lambda line: not RULE.fullmatch(line), inside))
    guess = next((line for line in inside[len(message) :] if re.match(r"--\w", line)), "")
    hint = f" (did you mean {guess.split()[0]}?)" if "nrecognized" in box and guess else ""
    return re.sub(r"Error parsing __tyro\S+: ", "", " ".join(message)) + hint or box.strip()


def _refuse(message: str, code: int = 2) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code
