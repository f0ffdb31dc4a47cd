"""Tasks: batches depend on rows, step and seed only, splits are disjoint, and measures equal a slow count."""

import json
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest

from data_gen import Batch
from data_gen.bytes import SEPARATOR
from data_gen.choice_process import ChoiceProcess
from data_gen.polynomials.stream import Polynomials
from data_gen.star_graph import StarGraphs
from data_gen.stories.generator import Stories
from data_gen.stories.names import NamePools
from mtp_lab.config import ModelConfig, TrainConfig
from mtp_lab.model.predictions import next_token_predictions
from mtp_lab.serialization import canonical_json, config_hash, from_mapping, to_mapping
from mtp_lab.tasks import (
    SPLITS,
    TASKS,
    BytesTask,
    ChoiceProcessTask,
    PolynomialsTask,
    StarGraphTask,
    StoriesTask,
    Task,
    TaskName,
)
from mtp_lab.training import runs

POOL = NamePools(names=8, first_pieces=8, second_pieces=8, held_out=8)  # names that wrong guesses may hit


@pytest.fixture(scope="module")
def tasks(corpus) -> dict[str, Task]:
    """One of each kind, none with the default settings."""
    return {
        "bytes": BytesTask(paths=(corpus,), pattern="*.txt", seq=64),
        "stories": StoriesTask(Stories(POOL, scenery=0.3, repeat_spans=False), seq=220),
        "polynomials": PolynomialsTask(
            Polynomials(p=2, d=4, max_operations=3, notation="infix", pause=1, operations=("-", "+", "o")),
            80,
            tight=True,
        ),
        "star_graph": StarGraphTask(StarGraphs(degree=3, length=4, nodes=12), seq=80),
        "choice_process": ChoiceProcessTask(ChoiceProcess(2, (0.75, 0.25), forced=2, relevance=(5, 0)), seq=23),
    }


def content(batch: Batch) -> tuple[bytes, ...]:
    return tuple(array.tobytes() for array in (batch.tokens, batch.documents, *batch.labels.values()))


def documents_of(batch: Batch):
    """Row and columns of every document."""
    for row, documents in enumerate(batch.documents):
        for document in sorted(set(documents.tolist()) - {-1}):
            yield row, np.flatnonzero(documents == document)


def test_every_task_goes_by_its_name(tasks):
    """Catches: a task that the command line does not know, or by another name than its runs."""
    assert list(TASKS) == list(tasks) == list(TaskName.__args__)
    assert all(type(task) is TASKS[name] and task.name == name for name, task in tasks.items())


# --- Batches and splits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_depends_on_rows_step_and_seed_alone(name, tasks):
    """The batch of a step is the same whatever was drawn before; another step or seed gives another.
    Catches: a resumed run that trains on other rows than an uninterrupted one, a seed that is ignored."""
    task = tasks[name]
    first = task.batch(5, 3, 1)
    assert first.tokens.shape == (5, task.seq) and first.tokens.max() < task.vocab_size
    task.batch(2, 0, 0), task.held_out("train", 2), np.random.rand(3)
    assert content(replace(task).batch(5, 3, 1)) == content(first)
    assert len({content(task.batch(5, step, seed)) for step in (0, 1, 3) for seed in (0, 1, 3)}) == 9


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("split", SPLITS)
def test_held_out_rows_are_the_same_at_every_call(name, split, tasks):
    """Also after training has drawn; and no split is another, or a batch of training.
    Catches: validation losses that wander because the rows do, one generator for two splits."""
    task = tasks[name]
    rows = task.held_out(split, 6)
    assert rows.seq == task.seq and 0 < rows.rows <= 6
    task.batch(3, 1, 0)
    assert content(replace(task).held_out(split, 6)) == content(rows)
    others = [task.held_out(other, 6) for other in SPLITS if other != split]
    own = 0x48454C44  # the first word of the seeds of held-out rows
    others += [task.batch(6, step, seed) for step in range(3) for seed in (0, own, own + 2**32, own + 2**33)]
    assert content(rows) not in map(content, others)


def test_stories_of_a_split_have_names_that_no_other_split_has(tasks):
    """A name is a pairing of two pieces: the names that induction predicts never occur in training.
    Catches: held-out rows with names of the training pool, which measure memory."""
    task, names = tasks["stories"], {}
    batches = {split: task.held_out(split, 40) for split in SPLITS} | {"steps": task.batch(40, 0, 0)}
    for split, batch in batches.items():
        row, at = np.nonzero(batch.labels["first_piece"] & (batch.labels["entity"] < 4))
        names[split] = set(zip(batch.tokens[row, at].tolist(), batch.tokens[row, at + 1].tolist(), strict=True))
        assert len(names[split]) == 8
    assert names["train"] == names["steps"]
    assert len(names["train"] | names["validation"] | names["test"]) == 24


def test_polynomials_hold_out_as_many_rows_of_every_number_of_operations(tasks):
    """Held-out rows are those of the stream's fixed sets, the first rows of each m, shared out evenly.
    Catches: rows that are all of m = 1, sets that depend on the number of rows, one set for both splits."""
    task = tasks["polynomials"]
    for split in ("validation", "test"):
        for n in (1, 2, 7, 30):
            batch = task.held_out(split, n)
            m = batch.labels["m"][:, 0]
            assert batch.rows == n and np.ptp([(m == number).sum() for number in (1, 2, 3)][: min(n, 3)]) <= 1
            for number in set(m):
                own = task.stream.held_out(split, int(number)).pack(task.seq)
                mine = batch[m == number]
                assert (mine.tokens == own.tokens[: mine.rows]).all()
        assert len(set(batch.documents.ravel().tolist())) == len(list(documents_of(batch))) + 1  # padding
    in_training = task.held_out("train", 30).labels["m"]
    assert {len(set(row.tolist()) - {-1}) for row in in_training} > {1}, "training mixes them in a row"


def test_tight_packing_is_of_training_rows_alone():
    """Fewer positions of training rows are padding, and held-out rows are what they were, so that losses compare.
    Catches: an option that does nothing, or that changes what models are judged by; measures that need documents to
    be numbered as they were drawn."""
    plain, tight = (PolynomialsTask(Polynomials(p=2, d=4), seq=64, tight=tight) for tight in (False, True))
    batch = tight.batch(32, 0, 0)
    assert batch.real_tokens > 1.08 * plain.batch(32, 0, 0).real_tokens
    for split in SPLITS:
        assert content(tight.held_out(split, 12)) == content(plain.held_out(split, 12))
    predicted, nll = answers(tight, batch, "mixed"), np.zeros(batch.tokens.shape)
    assert tight.measures(batch, predicted, nll) == pytest.approx(slowly("polynomials", batch, predicted, nll))


def test_bytes_are_split_by_file(tasks):
    """What a window shows of a file stands in a file of its split, and in none of another.
    Catches: windows of training files in a test."""
    task = tasks["bytes"]
    files = {split: [document.data for document in task.corpus().split(split).documents] for split in SPLITS}
    for split in SPLITS:
        batch = task.held_out(split, 20)
        for row, columns in documents_of(batch):
            part = bytes(token for token in batch.tokens[row, columns] if token != SEPARATOR)
            holders = {other for other in SPLITS for file in files[other] if part in file}
            assert split in holders and (len(part) < 40 or holders == {split})


def test_bytes_come_from_the_source_that_is_named(corpus):
    """library, docstrings and stories are three corpora with hashes of their own; paths win over a source.
    Catches: the source left out of the identity of a run, two sources that read the same."""
    by_source = {source: BytesTask(source=source) for source in ("library", "docstrings", "stories")}
    assert by_source["library"] == BytesTask() and len({task.corpus_hash for task in by_source.values()}) == 3
    names = {source: task.corpus().name.split("-")[0] for source, task in by_source.items()}
    assert names == {"library": "python", "docstrings": "python", "stories": "stories"}
    assert all(task.held_out("test", 2).tokens.max() <= SEPARATOR for task in by_source.values())
    assert BytesTask(paths=(corpus,), source="stories").corpus_hash == BytesTask(paths=(corpus,)).corpus_hash
    with pytest.raises(ValueError, match="source='books' is not known; use one of library, docstrings, stories"):
        BytesTask(source="books")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: BytesTask(seq=1), "seq=1 must be at least 2"),
        (lambda: StoriesTask(seq=196), "seq=196 must be at least 197, the longest story's tokens"),
        (lambda: PolynomialsTask(seq=41), "seq=41 must be at least 42, the longest document's tokens"),
        (lambda: StarGraphTask(seq=67), "68 tokens, a row only seq = 67"),
        (lambda: ChoiceProcessTask(seq=1), "seq=1 must be at least 2, the opening token and a choice"),
        (lambda: StarGraphTask(seq=2**16 + 1), "seq=65537 must be at most 65536 tokens a row"),
    ],
)
def test_a_task_that_cannot_be_trained_is_refused_at_construction(make, message):
    """With what is wrong and what to do. Catches: a training that stops at step 1,000, at the first long document."""
    with pytest.raises(ValueError, match=message):
        make()


# --- Measures ------------------------------------------------------------------------------------------------------


def is_target(batch: Batch) -> np.ndarray:
    """(rows, seq) bool, the targets of the next-token head: all tokens but padding and the first of each document."""
    where = np.zeros(batch.tokens.shape, bool)
    for row, columns in documents_of(batch):
        where[row, columns[1:]] = True
    return where


def answers(task: Task, batch: Batch, how: str) -> np.ndarray:
    """(rows, seq) predictions: all right, all wrong, or some of them other tokens of the row."""
    rng = np.random.default_rng(0)
    wrong = (batch.tokens + 1) % task.vocab_size
    copied = np.take_along_axis(batch.tokens, rng.integers(0, batch.seq, batch.tokens.shape), axis=1)
    mixed = np.where(rng.random(batch.tokens.shape) < 1 / 5, copied, batch.tokens)
    return np.where(is_target(batch), {"right": batch.tokens, "wrong": wrong, "mixed": mixed}[how], -1)


def share(values: list) -> float:
    return sum(values) / len(values) if values else float("nan")


def slowly(name: str, batch: Batch, predicted: np.ndarray, nll: np.ndarray) -> dict[str, float]:
    """The measures by their definitions: one document, one token at a time."""
    counts: dict[str, list] = {}

    def count(measure: str, value: float) -> None:
        counts.setdefault(measure, []).append(value)

    for row, columns in documents_of(batch):
        tokens, guesses = batch.tokens[row], predicted[row]
        labels = SimpleNamespace(**{label: values[row] for label, values in batch.labels.items()})
        if name in ("stories", "choice_process"):
            for t in columns[1:]:
                count("excess", nll[row, t] + np.log(labels.probability[t]))
        if name in ("polynomials", "star_graph"):
            whole = all(guesses[t] == tokens[t] for t in columns if labels.answer[t])
            count(f"exact_{labels.m[columns[0]]:.0f}" if name == "polynomials" else "path", whole)
        for t in columns:
            right = guesses[t] == tokens[t]
            if name == "bytes" and t > columns[0]:
                count("accuracy", right)
            if name == "star_graph" and labels.choice[t]:
                count("choice", right)
            if name == "choice_process" and labels.forced[t]:
                count("forced", right)
            if name == "stories" and 0 <= labels.entity[t] < 4 and labels.mention[t] > 1:
                if labels.first_piece[t]:
                    count("first_piece", right)
                else:
                    seconds = [s for s in columns[columns < t] if labels.second_piece[s] and 0 <= labels.entity[s] < 4]
                    count("induction", right)
                    count("induction_any", guesses[t] in tokens[seconds])
    return {measure: share(values) for measure, values in counts.items()}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("how", ["right", "wrong", "mixed"])
def test_measures_are_those_of_a_slow_count(name, how, tasks):
    """On predictions that are right, wrong, and both. Catches: a label shifted against the predictions, tokens
    without a target, answers judged by one token, documents of one row joined, the names of another document."""
    task = tasks[name]
    batch = task.held_out("validation", 30)
    nll = np.where(is_target(batch), np.random.default_rng(1).gamma(2, 1, batch.tokens.shape), np.nan)
    predicted = answers(task, batch, how)
    measured = task.measures(batch, predicted, nll)
    assert measured == pytest.approx(slowly(name, batch, predicted, nll))
    accuracies = {measure: value for measure, value in measured.items() if measure != "excess"}
    assert accuracies and all(type(value) is float for value in measured.values())
    if how == "mixed":
        assert all(0 < value < 1 for value in accuracies.values())
    elif how == "right" or name != "stories":
        assert set(accuracies.values()) == {float(how == "right")}


def test_a_second_piece_of_another_name_counts_as_copied_but_not_as_induction(tasks):
    """Predicting the second piece of another name of the story gives induction 0 and induction_any 1.
    Catches: copying that counts as induction, and pieces of the previous story in the same row."""
    task = tasks["stories"]
    batch = task.held_out("test", 20)
    predicted = np.where(is_target(batch), batch.tokens, -1)
    elsewhere = predicted.copy()
    for row, columns in documents_of(batch):
        named = (batch.labels["entity"][row] >= 0) & (batch.labels["entity"][row] < 4)
        seconds = columns[(batch.labels["second_piece"][row] & named)[columns]]
        for t in seconds[batch.labels["induction"][row, seconds]]:
            others = [s for s in batch.tokens[row, seconds[seconds < t]] if s != batch.tokens[row, t]]
            predicted[row, t] = others[0] if others else batch.tokens[row, t]
            own = set(batch.tokens[row, seconds].tolist())
            later = [
                s for s in batch.tokens[row, batch.documents[row] > batch.documents[row, t]] if s not in own
            ]
            elsewhere[row, t] = later[-1] if later else 0
    measured = task.measures(batch, predicted, np.full(batch.tokens.shape, np.nan))
    assert measured["induction_any"] == 1 and measured["induction"] < 0.3 and measured["first_piece"] == 1
    measured = task.measures(batch, elsewhere, np.full(batch.tokens.shape, np.nan))
    assert measured["induction_any"] == measured["induction"] == 0


@pytest.mark.parametrize("name", ["stories", "choice_process"])
def test_excess_is_zero_for_the_true_probabilities(name, tasks):
    """-log p of the stream has an excess loss of 0, and the entropies have it on average.
    Catches: an excess in bits, over other tokens than those predicted, with its sign turned."""
    task = tasks[name]
    batch = task.held_out("test", 60)
    where = is_target(batch)
    surprisal = np.where(where, -np.log(np.where(where, batch.labels["probability"], 1)), np.nan)
    predicted = np.where(where, batch.tokens, -1)
    assert task.measures(batch, predicted, surprisal)["excess"] == pytest.approx(0, abs=1e-6)
    assert task.measures(batch, predicted, surprisal + 0.5)["excess"] == pytest.approx(0.5)
    expected = np.where(where, batch.labels["entropy"], np.nan)
    spread = np.std((expected - surprisal)[where]) / np.sqrt(where.sum())
    assert abs(task.measures(batch, predicted, expected)["excess"]) < 4 * spread


def test_a_measure_without_tokens_is_nan(tasks):
    """NaN for a measure without a token to take it on, and no warning of an empty mean.
    Catches: 0 for nothing, which looks like a model that fails."""
    reversed_ = StarGraphTask(StarGraphs(variant="reversed"))
    batch = reversed_.held_out("test", 4)
    measured = reversed_.measures(batch, batch.tokens, np.zeros(batch.tokens.shape))
    assert measured["path"] == 1 and np.isnan(measured["choice"])
    batch = tasks["polynomials"].held_out("test", 1)
    cut = Batch(batch.tokens, batch.documents, batch.labels | {"answer": np.zeros(batch.tokens.shape, bool)})
    assert tasks["polynomials"].measures(cut, batch.tokens, np.zeros(batch.tokens.shape)) == {}


# --- Words and text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, tokens, words, text",
    [
        ("bytes", [256, 97, 10, 27, 233], ["\u241e", "a", "\n", "\\x1b", "\\xe9"], "\u241ea\n\\x1b\\xe9"),
        ("polynomials", [1, 2, 5, 6, 9, 15], ["1", "0X", "1X^2", "0X^3", "+", "="], "(1+X^2) + ="),
        ("star_graph", [3, 11, 12, 13], ["3", "11", "|", "="], "3 11 | ="),
        ("choice_process", [4, 0, 2, 3], ["<s>", "c0", "f0", "f1"], "<s> c0 f0 f1"),
    ],
)
def test_words_and_text_of_tokens(name, tokens, words, text, tasks):
    """What each token stands for, and the text that they add up to: a piece a token.
    Catches: names of another stream's tokens, a text whose pieces do not correspond to the tokens."""
    task = tasks[name]
    assert task.words(tokens) == words
    assert "".join(task.pieces(tokens)) == text and len(task.pieces(np.array(tokens))) == len(tokens)


def test_words_and_text_of_a_story(tasks):
    """The words are the tokens' names, the text is the printed story, with a piece for each token.
    Catches: pieces that do not add up to the text, which would colour the wrong ones."""
    task = tasks["stories"]
    batch = task.batch(1, 0, 0)
    tokens = batch.tokens[batch.documents == 0].tolist()
    pieces, text = task.pieces(tokens), task.stream.render(tokens)
    assert task.words(tokens)[0] == "<story>" and len(pieces) == len(tokens) == len(task.words(tokens))
    for i in range(len(tokens) + 1):
        assert "".join(pieces[:i]) == task.stream.render(tokens[:i])
    assert all(
        piece.strip().lower() == word.lower() for piece, word in zip(pieces[1:], task.words(tokens)[1:], strict=True)
    )
    assert text[0].isupper() and "".join(task.pieces(tokens * 2)) == f"{text}\n\n{text}"


# --- Mappings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_a_task_survives_json(name, tasks):
    """From JSON comes an equal task with an equal hash, alone and inside a training, and its kind stands in it.
    Catches: a stream that comes back as a mapping, tuples that come back as lists, a task of another kind."""
    task = tasks[name]
    mapping = json.loads(canonical_json(task))
    assert mapping["kind"] == name and mapping.keys() == {"kind", *(field.name for field in fields(task))}
    for kind in (Task, type(task)):
        back = from_mapping(kind, mapping)
        assert back == task and hash(back) == hash(task) and config_hash(back) == config_hash(task)
    config = TrainConfig(task=task, model=ModelConfig(vocab_size=task.vocab_size))
    again = from_mapping(TrainConfig, json.loads(canonical_json(config)))
    assert again == config and again.folder == config.folder and config.folder.startswith(f"{name}/run-")


def test_the_hash_of_a_training_sees_the_stream(tasks):
    """Catches: two streams that share a run, because only the outermost fields are hashed."""
    base = tasks["stories"]
    pools = [replace(base, stream=replace(base.stream, names=replace(POOL, seed=seed))) for seed in (0, 1)]
    assert base == pools[0] and len({config_hash(task) for task in pools}) == 2
    same = dict(seq=136)
    assert config_hash(StarGraphTask(**same)) != config_hash(StarGraphTask(StarGraphs(variant="reversed"), **same))
    assert to_mapping(base)["stream"]["names"]["seed"] == 0 and "kind" not in to_mapping(base)["stream"]


def test_choices_that_came_later_leave_the_hash_of_polynomials_alone():
    """The hash of before there were any; each makes another, whatever the order that operations are named in.
    Catches: stored trainings that are no longer found, or found for another stream."""
    plain = PolynomialsTask()
    assert config_hash(plain) == "dfd71a5275"
    assert config_hash(PolynomialsTask(Polynomials(p=2, d=4), seq=64)) == "b45fa1e160"
    assert plain == PolynomialsTask(Polynomials(operations=("o", "*", "+", "-")))
    some = [PolynomialsTask(Polynomials(operations=chosen)) for chosen in (("*", "-"), ("-", "*"), ("*",))]
    assert some[0] == some[1] and len({config_hash(task) for task in (plain, replace(plain, tight=True), *some)}) == 4
    assert all(from_mapping(Task, json.loads(canonical_json(task))) == task for task in (plain, *some))


def test_a_mapping_of_no_known_task_is_refused(tasks):
    """Catches: a run of a later version opened as something else, a KeyError in a reader's face."""
    mapping = to_mapping(tasks["choice_process"])
    with pytest.raises(ValueError, match="kind 'songs' is none of bytes, stories, polynomials, star_graph, choice_pro"):
        from_mapping(Task, mapping | {"kind": "songs"})
    with pytest.raises(ValueError, match="kind 'choice_process' is none of stories"):
        from_mapping(StoriesTask, mapping)
    without = {key: value for key, value in mapping.items() if key != "kind"}
    with pytest.raises(ValueError, match="not a config of this version of mtp-lab: 'kind'"):
        from_mapping(Task, without)
    incomplete = {key: value for key, value in mapping.items() if key != "seq"}
    with pytest.raises(ValueError, match="not a config of this version of mtp-lab: 'seq'"):
        from_mapping(Task, incomplete)
    with pytest.raises(ValueError, match="not a config of this version of mtp-lab: .*'tempo'"):
        from_mapping(Task, mapping | {"stream": mapping["stream"] | {"tempo": 3}})


# --- Training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_every_task_can_be_trained(name, tasks, tmp_path):
    """A few steps: the loss falls, measures and the time for data stand in the log and in the run's table, and the run
    is found again.
    Catches: a stream that the loop cannot read, measures that are not logged, or not where validation is."""
    task = tasks[name]
    config = TrainConfig(
        task=task,
        model=ModelConfig(
            vocab_size=task.vocab_size,
            d_model=16,
            n_attention_heads=2,
            n_layers=3,
            n_future=2,
            max_seq=task.seq,
            d_mlp=32,
        ),
        steps=4,
        batch_size=4,
        log_every=1,
        evaluate_every=2,
        evaluate_rows=6,
        precision="fp32",
    )
    run = runs.get_run(config, tmp_path)
    assert runs.open_run(run.path) == run
    log = run.log()
    assert [("measures" in row, "validation" in row) for row in log] == [(False,) * 2, (True,) * 2] * 2
    waited = [row["seconds_for_data"] for row in log]
    assert waited == sorted(waited) and all(0 < row["seconds_for_data"] < row["seconds"] for row in log)
    assert log[-1]["validation"][0] < np.log(task.vocab_size) + 0.5

    table = run.measures()
    assert list(table.columns) == ["step", "tokens", "measure", "value", "n", "seed", "run"]
    assert set(table["step"]) == {2, 4} and set(table["tokens"]) == {2 * 4 * task.seq, 4 * 4 * task.seq}
    last = table[table["step"] == 4].set_index("measure")["value"].to_dict()
    assert last == pytest.approx(log[-1]["measures"], nan_ok=True)

    rows = task.held_out("validation", 6)
    assert last == pytest.approx(task.measures(rows, *next_token_predictions(run.model(), rows)), nan_ok=True, abs=1e-5)
