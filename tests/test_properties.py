"""Properties over inputs drawn at random: documents in any layout, any model that decodes, any words on the command
line. Each states what must hold for all of them, and the bug it would catch.

What single modules promise stands in their own tests; here it is what they do together.
"""

import contextlib
import io
import json
import re
import string
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen import Batch
from data_gen.batch import pack
from mtp_lab.batch import plan
from mtp_lab.cli import main
from mtp_lab.config import ModelConfig, TrainConfig
from mtp_lab.decoding.generation import generate
from mtp_lab.model.loss import mtp_loss
from mtp_lab.model.predictions import tensors
from mtp_lab.model.targets import IGNORE, future_targets, target_weights
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.tasks import TASKS, BytesTask
from mtp_lab.training import runs

KINDS = ("parallel", "causal", "anticausal", "linear", "sequential")
VARIANTS = (
    {},
    dict(position="relative", relative_offsets=3),
    dict(smeared_keys=True),
    dict(attention_only=True),
    dict(rope_base=50.0, d_mlp=17),
    dict(trunk_layers=0),
)
VOCAB = 7


def examples(n: int) -> settings:
    """The same n examples at every run, however long one takes."""
    return settings(max_examples=n, deadline=None, derandomize=True, database=None)


@lru_cache(maxsize=64)
def a_model(kind: str, n: int, variant: int = 0, seed: int = 0, std: float = 0.3) -> MTPTransformer:
    """Random weights, large enough for heads to agree by chance, often and not always."""
    torch.manual_seed(seed)
    sizes = dict(vocab_size=VOCAB, d_model=16, n_attention_heads=2, trunk_layers=1, d_mlp=32, max_seq=48)
    model = MTPTransformer(ModelConfig(head_kind=kind, n_future=n, **{**sizes, **VARIANTS[variant]}))
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=1.0 if name.endswith(("bias", "smear")) else std)
    return model.eval()


# --- Batches, targets, documents -----------------------------------------------------------------------------------


@st.composite
def layouts(draw) -> tuple[list[list[int]], Batch]:
    """Documents of any lengths, and rows they are packed in."""
    seq = draw(st.integers(1, 10))
    document = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=seq)
    documents = draw(st.lists(document, min_size=1, max_size=6))
    return documents, pack(documents, seq)


def alone(documents: list[list[int]]) -> list[torch.Tensor]:
    return [torch.tensor([document]) for document in documents]


@given(layouts(), st.integers(1, 12))
@examples(150)
def test_each_document_gives_its_own_targets_and_no_others(layout, n):
    """A target is the token i places on in the same document, and a document of length L has L - i of horizon i.
    Catches: targets across a boundary that only some layout has, targets lost at the end of a row."""
    documents, batch = layout
    tokens, owner = tensors(batch)
    targets = future_targets(tokens, n, owner)
    for horizon, row, t in torch.nonzero(targets != IGNORE).tolist():
        there = t + horizon + 1
        assert targets[horizon, row, t] == tokens[row, there]
        assert owner[row, t] == owner[row, there] >= 0
    counts = [sum(max(0, len(document) - i) for document in documents) for i in range(1, n + 1)]
    assert (targets != IGNORE).sum(dim=(1, 2)).tolist() == counts
    assert target_weights(targets).sum(dim=(1, 2)).tolist() == counts


@given(layouts(), st.sampled_from(KINDS), st.integers(1, 4), st.integers(0, len(VARIANTS) - 1))
@examples(60)
@torch.no_grad()
def test_a_packed_document_is_read_as_if_alone(layout, kind, n, variant):
    """Logits at every position that has a target, for every horizon, to 1e-5 of the largest.
    Catches: attention, smeared keys, positions or a sequential head that see the document before or behind."""
    documents, batch = layout
    model, (tokens, owner) = a_model(kind, n, variant), tensors(batch)
    together = model.all_logits(tokens, owner)
    for number, document in enumerate(alone(documents)):
        row, column = torch.nonzero(owner == number, as_tuple=True)
        expected = model.all_logits(document)[:, 0]  # (n, length, vocab)
        for i in range(1, n + 1):
            valid = len(column) - i if kind == "sequential" else len(column)
            if valid > 0:
                found, wanted = together[i - 1, row[0], column[:valid]], expected[i - 1, :valid]
                assert (found - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))


@given(layouts(), st.sampled_from(KINDS), st.lists(st.floats(0, 4), min_size=1, max_size=4), st.integers(0, 2))
@examples(50)
def test_the_loss_of_a_batch_is_that_of_its_documents(layout, kind, weights, variant):
    """Horizon by horizon the mean over all targets of all documents, each run by itself; the total weighs them; both
    ways to compute it agree. Catches: means of rows' means, a loss that depends on how documents were packed."""
    documents, batch = layout
    model, n = a_model(kind, len(weights), variant), len(weights)
    found, reference = (
        mtp_loss(model, *tensors(batch), weights=weights, method=method) for method in ("sequential", "reference")
    )
    counts = torch.tensor([sum(max(0, len(d) - i) for d in documents) for i in range(1, n + 1)])
    nll = torch.zeros(n)
    for document in alone(documents):
        own = (future_targets(document, n) != IGNORE).sum(dim=(1, 2))
        nll += mtp_loss(model, document, method="reference").per_horizon * own
    expected = nll / counts.clamp(min=1)
    for loss in (found, reference):
        torch.testing.assert_close(loss.per_horizon, expected, rtol=1e-5, atol=1e-5)
        total = (expected * torch.tensor(weights)).sum()
        torch.testing.assert_close(loss.total.detach(), total, rtol=1e-5, atol=1e-5)


# --- Decoding ------------------------------------------------------------------------------------------------------


@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 5),
    variant=st.integers(0, len(VARIANTS) - 1),
    seed=st.integers(0, 3),
    prompts=st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=14), min_size=1, max_size=5),
    new=st.integers(1, 24),
    stop=st.sets(st.integers(0, VOCAB - 1), max_size=2),
    data=st.data(),
)
@examples(60)
def test_drafts_change_nothing_but_the_number_of_forwards(kind, n, variant, seed, prompts, new, stop, data):
    """Any model, ragged prompts in any batch, any number of drafts: the tokens of plain greedy decoding, -1 behind a
    row's end, and counts that agree with one another.
    Catches: drafts kept against head 1, rows that are mixed up as others end, forwards and heads counted wrongly."""
    model, k = a_model(kind, n, variant, seed, std=0.2 + 0.1 * seed), data.draw(st.integers(1, n))
    plain = generate(model, prompts, new, draft=1, stop=stop)
    found = generate(model, prompts, new, draft=k, stop=stop)
    assert torch.equal(found.tokens, plain.tokens) and torch.equal(found.lengths, plain.lengths)
    assert torch.equal(plain.forward_passes, plain.lengths) and (found.forward_passes <= plain.forward_passes).all()
    behind = torch.arange(new) >= found.lengths[:, None]  # (batch, new)
    assert ((found.tokens == -1) == behind).all() and ((found.heads == -1) == behind).all()
    assert (found.heads[~behind] >= 1).all() and (found.heads <= k).all() and (found.heads[:, 0] == 1).all()
    for row, length in zip(found.tokens.tolist(), found.lengths.tolist(), strict=True):
        ended = row[length - 1] in stop
        assert (ended or length == new) and not stop.intersection(row[: length - 1])
    shares, forward_passes = (
        found.accepted_by_head,
        int(found.forward_passes.sum()) - len(prompts),
    )  # behind the prompts'
    if forward_passes == 0:
        assert shares.isnan().all()
    else:
        assert shares[0] == 1 and (shares.diff() <= 0).all()
        cut = (
            len(prompts) + float(shares.sum()) * forward_passes - int(found.lengths.sum())
        )  # by stop and max_new_tokens
        assert -1e-3 < cut < (k - 1) * len(prompts) + 1e-3
        if len(prompts) == 1:
            heads = found.heads[0, : found.lengths[0]]
            committed = torch.stack([(heads == i).sum() for i in range(1, k + 1)])
            assert (committed <= (shares * forward_passes).round() + (torch.arange(k) == 0)).all()


# --- The command line ----------------------------------------------------------------------------------------------


def outcome(words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return code, out.getvalue(), err.getvalue()


def assert_done_or_refused(words: list[str]) -> int:
    """Exit code 0 and nothing on stderr, or 2 and one line there; never an exception."""
    code, out, err = outcome(words)
    refused = code == 2 and re.fullmatch("error: [^\n]+\n", err)
    assert refused or code == 0 and err == "" and out, (words, code, err)
    return code


SMALL = st.integers(-2, 40).map(str)
NUMBERS = st.one_of(SMALL, st.floats(-2, 2).map(str), st.sampled_from(["nan", "inf", "-inf", "1e400", str(2**70)]))
# Neither a slash nor two dots: what is named lies in the test's own folder.
JUNK = st.one_of(
    st.sampled_from(["", "None", "True", "()", "\0", "\udcff", "Ω", "a b", "-", "--"]),
    st.text(string.ascii_letters + string.digits + " _-=,:\n", max_size=6),
)
VALUES = st.one_of(NUMBERS, JUNK)


def leaves(config: type, prefix: str = "--") -> list[str]:
    """Every option that the fields of a config make."""
    found = []
    for field in fields(config):
        nested = is_dataclass(field.default_factory)
        found += leaves(field.default_factory, f"{prefix}{field.name}.") if nested else [prefix + field.name]
    return [option.replace("_", "-") for option in found]


def options(names: list[str], plausible: dict[str, list[str]], most: int = 4):
    """Up to `most` options, each with a value it might have (if there is one) or with any, sometimes with none."""

    def valued(name: str):
        fitting = st.sampled_from(plausible[name]) if name in plausible else SMALL
        value = st.one_of(fitting.map(lambda text: [text]), VALUES.map(lambda text: [text]), st.just([]))
        return value.map(lambda text: [name, *text])

    each = st.sampled_from(names).flatmap(valued)
    return st.lists(each, max_size=most).map(lambda parts: [word for part in parts for word in part])


@pytest.fixture(scope="module")
def workplace(corpus, tmp_path_factory) -> Iterator[Path]:
    """Where commands work: a finished run, an unfinished one, one of a later version, notebooks that must not run."""
    root = tmp_path_factory.mktemp("workplace")
    model = ModelConfig(d_model=16, n_attention_heads=2, n_layers=2, n_future=2, max_seq=32, d_mlp=32)
    config = TrainConfig(BytesTask(paths=(corpus,), seq=32), model, name="done", steps=2, batch_size=4, evaluate_rows=4)
    done = runs.get_run(config, root / "runs").path
    done.rename(root / "runs" / "bytes" / "done")
    for name, change in (("stopped", {}), ("later", {"momentum": 1})):
        (root / "runs" / "bytes" / name).mkdir()
        text = json.loads((root / "runs" / "bytes" / "done" / "config.json").read_text()) | change
        (root / "runs" / "bytes" / name / "config.json").write_text(json.dumps(text))
    (root / "notebooks").mkdir()
    declared = "".join(f"{name} = 0\n" for name in plan.PARAMETERS)
    for name in plan.NOTEBOOKS:
        (root / "notebooks" / f"{name}.py").write_text(f'# %% tags=["parameters"]\n{declared}')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield root


RUN = ["--run", "runs/bytes/done"]
RUNS = ["runs", "runs/bytes", "none", "notebooks/00_token_streams.py"]


@given(st.sampled_from([*TASKS, "none"]), st.data())
@examples(40)
def test_train_takes_or_refuses_any_options(workplace, task, data):
    """Fields of any config with any values. All of them start from a run that is not there, so that none trains.
    Catches: a value that parses and that no config refuses by name, a TypeError out of a stream."""
    plausible = {
        "--model.head-kind": list(KINDS),
        "--optimizer.kind": ["adamw", "muon"],
        "--curriculum": ["forward", "reverse"],
        "--horizon-weights": ["1", "0"],
        "--task.source": ["docstrings", "library"],
        "--precision": ["bf16", "fp32"],
    }
    own = [option for option in leaves(TrainConfig) if not option.startswith(("--task.", "--init-from"))]
    own += [option for option in leaves(TASKS.get(task, BytesTask), "--task.") if option != "--task.paths"]
    words = data.draw(options(own, plausible))
    words = ["train", "--task", task, *words, "--init-from", "bytes/none", "--runs-dir", "trained"]
    assert assert_done_or_refused(words) == 2


@given(
    options(
        ["--prompt", "--new", "--draft", "--temperature", "--top-p", "--top-k", "--seed", "--run"],
        {"--prompt": ["a", "the bird", "é"], "--temperature": ["0", "1", "0.5"], "--top-p": ["0.9"], "--run": RUNS},
    ),
    st.sampled_from([[], ["--compare"]]),
)
@examples(60)
def test_generate_continues_or_refuses_any_request(workplace, words, compare):
    """Catches: a seed that torch cannot take, a prompt that is no text, numbers that are none."""
    assert_done_or_refused(["generate", *RUN, "--new", "5", *words, *compare])


@given(
    options(["--rows", "--split", "--run"], {"--split": ["train", "test"], "--rows": ["1", "8"], "--run": RUNS}),
    st.sampled_from([[], ["--as-json"]]),
)
@examples(30)
def test_evaluate_measures_or_refuses_any_request(workplace, words, as_json):
    """Catches: rows beyond what a split has, a folder that is no run."""
    assert_done_or_refused(["evaluate", *RUN, "--rows", "2", *words, *as_json])


@given(
    options(
        ["--preset", "--only", "--seeds", "--jobs", "--out", "--runs-dir", "--keep-going"],
        {"--preset": list(plan.PRESETS), "--only": list(plan.NOTEBOOKS), "--seeds": list("0123"), "--runs-dir": RUNS},
    )
)
@examples(40)
def test_a_dry_run_plans_or_refuses_any_batch(workplace, words):
    """Catches: a plan that asks for what is not there, anything that is run or written."""
    before = sorted(workplace.rglob("*"))
    assert_done_or_refused(["study", "--preset", "smoke", *words, "--dry-run"])
    assert sorted(workplace.rglob("*")) == before


@given(
    st.sampled_from([["runs"], ["runs", "list"], ["runs", "show"], ["runs", "prune"]]),
    options(["--days", "--runs-dir", "bytes/done", "bytes/later", "bytes/stopped"], {"--runs-dir": RUNS}),
    st.sets(st.sampled_from(["--unfinished", "--snapshots"])),
)
@examples(50)
def test_runs_are_listed_shown_or_refused_and_none_goes(workplace, command, words, flags):
    """Without --yes nothing is deleted, whatever else is said. Catches: nan days, a folder that is a file."""
    before = sorted(path for path in workplace.rglob("*") if path.name != ".lock")
    assert_done_or_refused([*command, *words, *(flags if command[-1] == "prune" else ())])
    assert sorted(path for path in workplace.rglob("*") if path.name != ".lock") == before


@given(st.sampled_from([*TASKS, "none"]), st.data())
@examples(40)
def test_documents_are_shown_or_refused(workplace, task, data):
    """Catches: a stream's value that parses and then fails somewhere in its sampling."""
    kind = TASKS.get(task, BytesTask)
    own = [re.sub(r"^--stream\.(?!split)", "--", option) for option in leaves(kind) if option != "--paths"]
    plausible = {"--source": ["docstrings", "stories"], "--split": ["train", "test"], "--stream.split": ["chain"]}
    words = data.draw(options([*own, "--show", "--seed", "--split"], plausible))
    assert_done_or_refused(["data", "--task", task, "--show", "2", *words])
