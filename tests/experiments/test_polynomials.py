"""The polynomial study: its trainings, and measures that agree with a count by hand."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from data_gen.polynomials.expressions import OPERATIONS
from mtp_lab.evaluation.answers import teacher_forced
from mtp_lab.experiments.polynomials import analysis
from mtp_lab.experiments.polynomials.conditions import (
    POLYNOMIALS,
    RINGS,
    all_configs,
    papers_ring_configs,
    polynomial_configs,
)
from mtp_lab.interp.probes import most_frequent
from mtp_lab.model.loss import mtp_loss
from mtp_lab.model.predictions import next_token_predictions
from mtp_lab.model.targets import make_targets, token_weights
from mtp_lab.training import runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> list[runs.Run]:
    """The runs of the smoke preset."""
    return [runs.get_run(config, tmp_path_factory.mktemp("runs")) for config in polynomial_configs("smoke")]


@pytest.mark.parametrize("preset", POLYNOMIALS)
def test_every_condition_is_trained_once_a_seed(preset):
    """Catches: two conditions with one config, and two conditions that tables cannot distinguish."""
    configs, chosen = polynomial_configs(preset), POLYNOMIALS[preset]
    conditions = pd.DataFrame([analysis.condition_of(config) for config in configs])
    assert len({config.folder for config in configs}) == len(configs) and not conditions.duplicated().any()
    main = conditions.head(len(chosen.main) * chosen.seeds)
    assert (main.groupby(analysis.CONDITION_COLUMNS).seed.nunique() == chosen.seeds).all()
    assert set(conditions.seed[len(main) :]) <= set(main.seed)  # a control is compared seed by seed
    assert len(polynomial_configs(preset, seeds=3)) == 3 * (len(chosen.main) + len(chosen.controls))


def test_the_full_table_holds_the_parameters_fixed():
    """The paper's comparison: n heads of one layer each take n layers from the trunk."""
    main = POLYNOMIALS["full"].main
    assert [condition.n for condition in main] == [1, 2, 3, 4] and {condition.layers for condition in main} == {6}
    assert POLYNOMIALS["full"].seeds >= 5


@pytest.mark.parametrize("preset", POLYNOMIALS)
def test_all_configs_include_those_of_the_papers_ring(preset):
    """A batch trains `all_configs` in advance: the notebook itself would train a config that is missing there."""
    papers_ring = all_configs(preset)[len(polynomial_configs(preset)) :]
    assert {config.task.stream.p**config.task.stream.d for config in papers_ring} <= {7**5}
    assert bool(papers_ring) == (preset in ("smoke", "full"))
    for config in papers_ring:
        assert config.task.stream.of(analysis.TEST_OPERATIONS[-1]).longest <= config.model.max_seq


def test_stages_on_the_papers_ring_continue_each_other():
    """Catches: a stage that starts from scratch, or from another seed or n."""
    kinds = papers_ring_configs("full", 2)
    for n, seed in product((1, 2), (0, 1)):
        own = f"n = {n}, "
        stages = {kind.removeprefix(own): configs[seed] for kind, configs in kinds.items() if kind.startswith(own)}
        assert {config.seed for config in stages.values()} == {seed}
        assert {config.model.n_future for config in stages.values()} == {n}
        after = dict.fromkeys(("then all", "sparse products"), "one operation")
        after["then one operation"] = "sparse products"
        folders = {kind: stages[kind].folder for kind in after.values()}
        assert {kind: config.init_from for kind, config in stages.items() if config.init_from} == {
            kind: folders[before] for kind, before in after.items()
        }
        dense = replace(stages["sparse products"].task.stream, zeros=0.0, operations=OPERATIONS)
        assert dense == stages["one operation"].task.stream == stages["then one operation"].task.stream
        assert stages["all at once"].steps == stages["one operation"].steps + stages["then all"].steps


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("preset", POLYNOMIALS)
def test_the_longest_test_question_fits_into_a_row(ring, preset):
    """All models are tested on ten operations; a row that is too short would fail only after training."""
    for config in polynomial_configs(preset, 1, ring):
        assert config.task.stream.of(analysis.TEST_OPERATIONS[-1]).longest <= config.model.max_seq


def test_unknown_presets_and_rings_are_named():
    with pytest.raises(ValueError, match="preset='huge' is not known; use one of smoke, quick, full, paper"):
        polynomial_configs("huge")
    with pytest.raises(ValueError, match="ring='F5' is not known; use one of F2X4, F2X5, F3X3, F7X5"):
        polynomial_configs("quick", ring="F5")


def test_scores_are_accuracies(trained):
    """Against predictions token by token, grouped in plain Python."""
    run = trained[0]
    table = analysis.scores(run, "validation", 40, [2]).set_index(["group", "subset"])
    stream = run.config.task.stream
    documents = stream.held_out("validation", 2)[:40]
    exact, by_root, by_degree = [], {}, {f"X^{k}": [] for k in range(stream.d)}
    by_both = {symbol: {name: [] for name in by_degree} for symbol in "-+*o"}
    for i in range(40):
        document = documents[i : i + 1]
        batch = document.pack(len(document.tokens))
        right = (next_token_predictions(run.model(), batch)[0] == batch.tokens)[0]
        answer = np.flatnonzero(batch.labels["answer"][0])
        exact.append(right[answer].all())
        by_root.setdefault("-+*o"[int(batch.labels["root"][0, 0])], []).append(exact[-1])
        for k, at in enumerate(answer):
            by_degree[f"X^{k}"].append(right[at])
            by_both["-+*o"[int(batch.labels["root"][0, 0])]][f"X^{k}"].append(right[at])
    assert table.value["all", ""] == np.mean(exact) and table["items"]["all", ""] == 40
    of_roots = ((f"degree of {symbol}", expected) for symbol, expected in by_both.items())
    for group, expected in (("root", by_root), ("degree", by_degree), *of_roots):
        measured = table.loc[group]
        assert measured.value.to_dict() == pytest.approx({name: np.mean(each) for name, each in expected.items()})
        assert measured["items"].to_dict() == {name: len(each) for name, each in expected.items()}


def test_the_baseline_is_the_most_frequent_answer():
    """Of training questions: the most frequent answer of test questions would be selected on the test set."""
    stream = RINGS["F2X4"]
    table = analysis.baselines(stream, "test", 200, [1, 6]).set_index("m").value
    for m in (1, 6):
        answers = [
            str(d.tokens[d.labels["answer"]]) for d in (stream.held_out("test", m)[i : i + 1] for i in range(200))
        ]
        seen = stream.of(m).documents(3000, np.random.default_rng(1))
        drawn = seen.tokens[seen.labels["answer"]].reshape(-1, stream.d)
        common = most_frequent(np.zeros(len(drawn)), np.array([str(each) for each in drawn])).iloc[0]
        assert table[m] == np.mean([answer == common for answer in answers])


def test_shares_of_the_loss_add_up_to_the_training_loss(trained):
    """With the weights of horizons and tokens that training has, on one batch: the classes add up to the loss."""
    two_tokens = trained[2]  # n = 2
    config = replace(two_tokens.config, horizon_weights=(1.0, 0.5), label_weights=(("answer", 3.0), ("operand", 0.5)))
    run = runs.Run(two_tokens.path, config)
    assert config.model.n_future == 2
    batch = config.task.held_out("validation", 12)
    table = analysis.loss_shares(run, 12)
    tokens, documents = torch.from_numpy(batch.tokens).long(), torch.from_numpy(batch.documents).long()
    labels, weights = batch.labels, token_weights(batch, config.label_weights)
    targets = make_targets(tokens, 2, documents, weights)
    whole = float(mtp_loss(run.model(), tokens, documents, weights=(1.0, 0.5), targets=targets).total.detach())
    only = weights * torch.from_numpy(labels["answer"])
    counts = torch.stack([weights[:, i:][documents[:, i:] == documents[:, :-i]].sum() for i in (1, 2)])
    padding = torch.tensor([(weights[:, i:] * (documents[:, i:] < 0) * (documents[:, :-i] < 0)).sum() for i in (1, 2)])
    targets = replace(make_targets(tokens, 2, documents, only), denominators=counts - padding)
    part = mtp_loss(run.model(), tokens, documents, weights=(1.0, 0.5), targets=targets).total
    assert table.share.sum() == pytest.approx(1)
    assert table[table.token == "answer"].share.sum() == pytest.approx(float(part.detach()) / whole, rel=1e-5)
    assert table.groupby("horizon").targets.sum().to_list() == pytest.approx([1, 1])


def test_gradient_shares_are_of_squared_weights(trained):
    """A target of weight w has w times the gradient, so w^2 times the square; at weight 0 a class has no share."""
    run = trained[0]
    plain = analysis.gradient_shares(run, 4).set_index("token").share
    for weight in (0.0, 3.0):
        weighted = runs.Run(run.path, replace(run.config, label_weights=(("answer", weight),)))
        table = analysis.gradient_shares(weighted, 4).set_index("token").share
        ratio = weight**2 * plain.answer / (1 - plain.answer)
        assert table.sum() == pytest.approx(1) and table.answer == pytest.approx(ratio / (1 + ratio), rel=1e-6)


def test_expected_pass_at_k(trained):
    """Near temperature 0 pass@1 is that of greedy decoding, and pass@k grows with k."""
    table = analysis.samples(trained[0], [0.001, 1.0], [1, 10], [1], items=50)
    value = table.set_index(["temperature", "k"]).value
    greedy = teacher_forced(trained[0].model(), trained[0].config.task.stream.held_out("test", 1)[:50]).exact.mean()
    assert value[0.001, 1] == pytest.approx(greedy, abs=0.02) and value[1.0, 10] > value[1.0, 1] > 0


def test_any_number_of_workers_gives_the_same_table(trained):
    """Rows carry the condition of their own run, whichever thread measured it."""
    options, threads = dict(split="validation", items=10, operations=[1]), torch.get_num_threads()
    serial = analysis.measure_runs(trained, analysis.scores, **options)
    parallel = analysis.measure_runs(trained, analysis.scores, workers=2, **options)
    pd.testing.assert_frame_equal(serial, parallel)
    assert torch.get_num_threads() == threads
    assert serial.groupby(["n", "loss_on"]).seed.unique().map(sorted).to_list() == [[0, 1]] * 3
