"""The choice-point study: its trainings, and measures that agree with the process and with a count by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from data_gen.choice_process import ChoiceProcess
from mtp_lab.experiments.choice_points import analysis
from mtp_lab.experiments.choice_points.conditions import (
    CHOICE,
    CHOICES,
    PROCESS,
    ChoiceCondition,
    choice_configs,
    story_config,
)
from mtp_lab.model.predictions import next_token_predictions
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.theory import implicit_weights
from mtp_lab.training import runs

PROCESSES = {
    "the study's": PROCESS,
    "copies": ChoiceProcess(n_choices=3, forced=4, relevance=(2,)),
    "in turn": ChoiceProcess(n_choices=5, forced=2, relevance=(7, 0, 4)),
}
each_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


class Untrained(runs.Run):
    """A run whose model is not trained: measures must be right for any weights."""

    def model(self, step: int | None = None) -> MTPTransformer:
        torch.manual_seed(self.config.seed)
        return MTPTransformer(self.config.model).eval()


@pytest.fixture(scope="module")
def trained() -> list[runs.Run]:
    """One seed of the smoke preset's n = 1 and n = 2."""
    configs = choice_configs("smoke", seeds=1)
    plain = [config for config in configs if not (config.label_weights or config.mask_unread_causes)]
    return [Untrained(Path(config.folder), config) for config in plain]


# --- presets


@pytest.mark.parametrize("preset", CHOICES)
def test_every_condition_is_trained_once_a_seed(preset):
    """Catches: two conditions with one config, and two conditions that tables cannot distinguish."""
    configs, chosen = choice_configs(preset), CHOICES[preset]
    conditions = pd.DataFrame([analysis.condition_of(config) for config in configs])
    assert len({config.folder for config in configs}) == len(configs) and not conditions.duplicated().any()
    assert (conditions.groupby(analysis.CONDITION_COLUMNS).seed.nunique() == chosen.seeds).all() and chosen.seeds >= 2
    assert conditions.label.nunique() == len(chosen.conditions) and conditions.label.iloc[0] == "n = 1"
    assert {config.model.trunk_depth for config in configs} == {chosen.trunk}  # the same path for head 1
    assert len(choice_configs(preset, seeds=3)) == 3 * len(chosen.conditions)
    assert story_config(preset).model.n_future == 8


@pytest.mark.parametrize("preset", CHOICES)
def test_every_n_has_the_conditions_that_separate_weighting_and_heads(preset):
    """Neither, the weighting alone, both, and the heads alone: a conclusion needs all four."""
    conditions = CHOICES[preset].conditions
    expected = {ChoiceCondition()}
    for n in {condition.n for condition in conditions} - {1}:
        ((_, alone),) = implicit_weights.theoretical_weights(n, CHOICE)
        expected |= {ChoiceCondition(choice_weight=alone), ChoiceCondition(n=n), ChoiceCondition(n=n, masked=True)}
        assert analysis.emphasis(PROCESS, 1, alone) == pytest.approx(analysis.emphasis(PROCESS, n, 1))
    assert set(conditions) == expected and len(expected) > 1


def test_labels_name_the_config_of_their_condition():
    """Catches: a label on the wrong condition, and conditions that are trained in the same way."""
    by_label = {analysis.condition_of(config)["label"]: config for config in choice_configs("full", seeds=1)}
    assert {label for label, config in by_label.items() if config.mask_unread_causes} == {
        "n = 2, masked targets",
        "n = 4, masked targets",
    }
    weights = {label: config.label_weights for label, config in by_label.items() if config.label_weights}
    assert weights == {f"n = 1, choices ×{w}": ((CHOICE, w),) for w in (1.5, 2.5)}


def test_unknown_presets_are_named():
    for make in (choice_configs, story_config):
        with pytest.raises(ValueError, match="preset='huge' is not known; use one of smoke, quick, full, paper"):
            make("huge")


# --- exact weights


def test_emphasis_is_weight_and_consequences():
    """w + (n - 1)/2 up to the length of a block of forced tokens; less beyond."""
    for n, weight, expected in ((1, 1, 1), (1, 1.5, 1.5), (2, 1, 1.5), (2, 0.5, 1), (3, 1, 2), (3, 0, 1), (4, 1, 2.5)):
        assert analysis.emphasis(PROCESS, n, weight) == pytest.approx(expected)
    # 8 + 7 + 6 + 5, none for the choice between, 3 + 2 + 1
    assert analysis.emphasis(PROCESS, 8, 1) == pytest.approx(32 / 8)


@each_process
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_masked_targets_remove_the_emphasis(process, n):
    """In nats, and where counting terms fails: consequences that overlap, or are longer than a block."""
    assert analysis.emphasis(process, n, 1.0, masked=True) == pytest.approx(1)
    assert analysis.emphasis(process, n, 3.0, masked=True) == pytest.approx(3)


def test_exact_weights_have_the_classes_of_the_process():
    table = analysis.exact_weights(PROCESS, 4, 64).set_index(["class", "n"]).relative
    assert table["consequential"].tolist() == pytest.approx([1, 1.5, 2, 2.5])
    assert table["inconsequential"].tolist() == pytest.approx([1] * 4) and table["forced"].isna().all()
    copies = analysis.exact_weights(ChoiceProcess(n_choices=2, forced=3, relevance=(3,)), 2, 20)
    assert set(copies["class"]) == {"consequential", "forced"}


def test_phases_begin_at_the_first_choice():
    """The opening token has the last phase of a cycle that started before it."""
    process = ChoiceProcess(n_choices=2, forced=1, relevance=(1, 0))  # a cycle of four
    values = np.array([[9.0, 1, 2, 3, 4, 1, 2, np.nan, 4], [9, 3, 4, 5, 6, 3, 4, 5, 6]])
    assert analysis.by_phase(values, process) == pytest.approx([2, 3, 13 / 3, 38 / 6])


# --- following the rule


@each_process
def test_documents_of_the_process_follow_it(process):
    documents = process.sample(20, 40, np.random.default_rng(0))
    assert analysis.follows(documents.tokens, process).all()


@each_process
def test_every_forced_token_has_one_right_value(process):
    """Any other token in its place breaks the rule there, and nowhere else: forced tokens decide nothing."""
    documents = process.sample(1, 30, np.random.default_rng(1))
    for at in np.flatnonzero(documents.labels["forced"][0]):
        for token in range(process.vocab_size):
            tokens = documents.tokens.copy()
            tokens[0, at] = token
            broken = np.flatnonzero(~analysis.follows(tokens, process)[0])
            assert broken.tolist() == ([] if token == documents.tokens[0, at] else [at])


@each_process
def test_another_choice_breaks_what_depends_on_it(process):
    """Exactly the forced tokens that it is relevant to; and itself, too, if it is no choice at all."""
    documents = process.sample(1, 30, np.random.default_rng(2))
    labels = documents.labels
    for at in np.flatnonzero(labels["choice"][0]):
        reach = np.resize(process.relevance, (at - 1) // process.period + 1)[-1]
        depends = [k for k in range(at + 1, min(30, at + reach + 1)) if labels["forced"][0, k]]
        other, none = documents.tokens.copy(), documents.tokens.copy()
        other[0, at] = (other[0, at] + 1) % process.n_choices
        none[0, at] = process.n_choices
        assert np.flatnonzero(~analysis.follows(other, process)[0]).tolist() == depends
        assert np.flatnonzero(~analysis.follows(none, process)[0]).tolist() == [at, *depends]


def test_a_document_must_be_opened_and_have_rows():
    assert analysis.follows(np.array([[0]]), PROCESS).tolist() == [[False]]
    with pytest.raises(ValueError, match=r"got shape \(3,\); for one document use tokens\[None\]"):
        analysis.follows(np.array([8, 0, 4]), PROCESS)


# --- models


def test_scores_are_means_over_the_tokens_that_they_name(trained):
    """Against a count of the head's predictions, token by token."""
    run = trained[0]
    table = analysis.scores(run, 4).set_index(["measure", "subset"]).value
    batch = run.config.task.held_out("test", 4)
    predicted, nll = next_token_predictions(run.model(), batch)
    groups: dict[tuple[str, str], list[float]] = {}
    for row, at in zip(*np.nonzero(np.ones(batch.tokens.shape)), strict=True):
        labels = {name: label[row, at] for name, label in batch.labels.items()}
        if labels["choice"]:
            name = "consequential" if labels[CHOICE] else "inconsequential"
            groups.setdefault(("excess", name), []).append(nll[row, at] - np.log(4))
        elif labels["forced"]:
            names = ["forced", f"{labels['cause']:.0f}"] + ["after a choice"] * bool(
                batch.labels["choice"][row, at - 1]
            )
            for name in names:
                groups.setdefault(("accuracy", name), []).append(predicted[row, at] == batch.tokens[row, at])
    assert table.to_dict() == pytest.approx({name: np.mean(each) for name, each in groups.items()})
    assert [subset for _, subset in table.index if subset.isdigit()] == ["1", "2", "3", "5", "6", "7"]


def test_trained_weights_start_with_the_models_own_loss(trained):
    """W_1 of a class is the loss of the next-token head, and the relative weight of every class at n = 1 is 1."""
    run = trained[-1]
    table = analysis.trained_weights(run, 4)
    assert set(table.n) == {1, 2} and (table[table.n == 1].relative == 1).all()
    batch = run.config.task.held_out("test", 4)
    _, nll = next_token_predictions(run.model(), batch)
    inside = np.arange(batch.seq) >= 2  # two tokens before it, one after it
    inside[-1] = False
    own = nll[batch.labels["choice"] & ~batch.labels[CHOICE] & inside].mean()
    assert table.set_index(["class", "n"]).weight["inconsequential", 1] == pytest.approx(own, rel=1e-5)


def test_gradient_shares_add_up_to_one(trained):
    table = analysis.gradient_shares(trained[-1], 1)
    whole = table.groupby("horizon")[["share", "target_share"]].sum()
    assert len(whole) == 2 and whole.to_numpy() == pytest.approx(1, abs=1e-5)


def test_continuations_are_checked_after_the_prompt(trained, monkeypatch):
    """A model that continues as the test rows do makes no error; after an error a continuation is broken."""
    run = trained[0]
    batch = run.config.task.held_out("test", 6)
    arguments = {}

    def copied(model, prompts, new, draft, temperature, generator):
        assert isinstance(model, MTPTransformer) and draft == 1 and temperature == 1.0
        arguments.update(start=len(prompts[0]), new=new)
        tokens = torch.from_numpy(batch.tokens[:, len(prompts[0]) : len(prompts[0]) + new]).long()
        tokens[0, 3] = (tokens[0, 3] + 1) % PROCESS.vocab_size
        return type("Made", (), {"tokens": tokens})

    monkeypatch.setattr(analysis, "generate", copied)
    table = analysis.continuations(run, 6).set_index("ahead")
    assert arguments == {"start": 17, "new": 40} and table.index.tolist() == list(range(1, 41))
    assert table.forced[:8].tolist() == [False, True, True, True] * 2
    assert table.follows.drop(4).tolist() == [1.0] * 39 and table.follows[4] == pytest.approx(5 / 6)
    assert table.unbroken.tolist() == pytest.approx([1.0] * 3 + [5 / 6] * 37)


def test_models_continue_their_prompts(trained):
    """The same continuations each time; at random weights some token is soon wrong."""
    first, second = (analysis.continuations(trained[0], 8) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert first.unbroken.iloc[-1] < 0.5 and first.follows.between(0, 1).all()


def test_measures_carry_the_label_of_their_run(trained):
    table = analysis.measure_runs(trained, analysis.scores, rows=2)
    assert list(dict.fromkeys(table.label)) == ["n = 1", "n = 2"]
    assert table.groupby("label").n_future.unique().map(list).to_dict()["n = 2"] == [2]
    widest = analysis.measure_runs(trained[-1:], analysis.trained_weights, rows=2)
    assert set(widest.n) == {1, 2} and set(widest.n_future) == {2}
