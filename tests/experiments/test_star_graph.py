"""The star-graph study: measures agree with a slow count. Every test names the bug that it would catch."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from data_gen.star_graph import StarGraphs
from mtp_lab.config import ModelConfig, TrainConfig
from mtp_lab.experiments.star_graph import analysis
from mtp_lab.experiments.star_graph.analysis import CONDITION_COLUMNS
from mtp_lab.experiments.star_graph.conditions import STARS, star_configs
from mtp_lab.model.predictions import tensors
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.tasks import StarGraphTask

ROWS = 20


def fake(variant: str = "forward", n: int = 2) -> SimpleNamespace:
    """A run whose model is untrained."""
    stream = StarGraphs(degree=3, length=4, nodes=12, variant=variant)
    task = StarGraphTask(stream, stream.seq)
    size = dict(d_model=16, n_attention_heads=2, n_layers=1 + n, n_future=n, max_seq=task.seq)
    config = TrainConfig(task=task, model=ModelConfig(vocab_size=task.vocab_size, **size))
    torch.manual_seed(0)
    model = MTPTransformer(config.model).eval()
    return SimpleNamespace(config=config, model=lambda: model)


@pytest.mark.parametrize("preset", STARS)
def test_conditions_differ_only_as_their_labels_say(preset):
    """Trunk, data order and optimizer are shared, labels are unique, the first condition is next-token prediction.
    Catches: a deeper path without a label, seeds that differ between conditions, two conditions of one label."""
    configs = star_configs(preset)
    conditions = pd.DataFrame([analysis.condition_of(config) for config in configs])
    conditions["label"] = [analysis.label(row, conditions.loc[0]) for row in conditions.itertuples()]
    assert (
        len(conditions.drop_duplicates(["label", "seed"]))
        == len(configs)
        == len(conditions.drop_duplicates(CONDITION_COLUMNS + ["seed"]))
    )
    assert conditions.label[0] == "n = 1" and set(conditions.seed) == set(range(STARS[preset].seeds))
    deeper = conditions.trunk != conditions.trunk[0]
    assert deeper.equals(conditions.label.str.contains("trunk")) and set(conditions.n[deeper]) <= {1}
    plain = {replace(c.task, stream=replace(c.task.stream, variant="forward")) for c in configs}
    assert len(plain) == 1 and len({(c.optimizer, c.steps, c.batch_size, c.label_weights) for c in configs}) == 1
    assert len(star_configs(preset, 1)) * STARS[preset].seeds == len(configs)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="preset='big' is not known; use one of smoke, quick, full, paper"):
        star_configs("big")


@pytest.mark.parametrize("variant", ["forward", "reversed", "teacherless"])
def test_final_measures_the_tokens_of_the_answer(variant, monkeypatch):
    """Predictions are correct but for the first step in half of the graphs. Catches: dummies taken for answers, the
    first node taken for the first step, a path with one wrong node that counts as correct."""
    run = fake(variant)
    batch = run.config.task.held_out("test", ROWS)
    start = run.config.task.stream.answer_start
    predicted = batch.target_tokens.copy()
    predicted[: ROWS // 2, start + 1] += 1
    monkeypatch.setattr(analysis, "next_token_predictions", lambda model, batch: (predicted, None))
    measured = analysis.final(run, ROWS).set_index("measure").value
    assert measured["path"] == measured["node 1"] == measured["planned"] == 0.5
    assert measured["node 0"] == measured["node 2"] == measured["node 3"] == 1


def test_a_task_of_several_graphs_a_row_is_measured_on_one(monkeypatch):
    """All predictions are correct. Catches: the next graph's question counted as part of the path."""
    run = fake()
    run.config = replace(
        run.config,
        task=replace(run.config.task, seq=2 * run.config.task.seq),
        model=replace(run.config.model, max_seq=2 * run.config.task.seq),
    )
    monkeypatch.setattr(analysis, "next_token_predictions", lambda model, batch: (batch.tokens, None))
    assert set(analysis.final(run, ROWS).value) == {1.0}
    assert len(analysis.attention_from_answer(run, ROWS))


@pytest.mark.parametrize("variant", ["forward", "teacherless"])
def test_node_accuracy_of_each_head_is_that_of_its_own_target(variant):
    """Against a count token by token. Catches: a head that is compared with another head's node, dummies as targets."""
    run = fake(variant)
    batch, stream = run.config.task.held_out("test", ROWS), run.config.task.stream
    logits = run.model().all_logits(*tensors(batch))
    paths = [stream.solve(tokens) for tokens in batch.tokens]
    table = analysis.node_accuracy(run, ROWS)
    for row in table.itertuples():
        at = {"goal": -2, "=": -1}.get(row.query, int(row.query[-1]) if row.query[0] == "n" else None)
        guesses = logits[row.horizon - 1, :, stream.answer_start + at].argmax(-1).tolist()
        assert row.node == at + row.horizon
        assert row.value == np.mean([guess == path[row.node] for guess, path in zip(guesses, paths, strict=True)])
    queries = {(row.query, row.horizon) for row in table.itertuples()}
    early = {(f"node {k}", i) for k in (0, 1) for i in (1, 2)}
    assert queries == {("goal", 2), ("=", 1), ("=", 2), ("node 2", 1)} | early


def test_even_attention_is_shared_by_the_number_of_tokens():
    """A model with equal queries attends to all tokens equally. Catches: attention from another token, edges of other
    arms counted as the path's, separators counted as nodes."""
    run = fake()
    for name, weight in run.model().named_parameters():
        if "qkv" in name:
            weight.data.zero_()
    stream = run.config.task.stream
    table = analysis.attention_from_answer(run, ROWS)
    keys = stream.answer_start + 1
    sizes = {f"edge to node {k}": 2 for k in (1, 2, 3)} | {"other edges": 12, "goal": 1, "=": 1, "itself": 1}
    assert table.groupby("attends_to").value.mean().to_dict() == pytest.approx(
        {name: n / keys for name, n in sizes.items()}
    )
    assert set(table.layer) == {"blocks.0", "heads.1"} and set(table["head"]) == {0, 1}


def test_the_groups_of_a_graph_do_not_overlap():
    """They leave out separators and the start only. Catches: an edge that is found by its parent, which several edges
    can share."""
    run = fake("teacherless")
    batch, stream = run.config.task.held_out("test", ROWS), run.config.task.stream
    groups = analysis._groups(stream, batch)
    total = np.sum(list(groups.values()), axis=0)
    assert total.max() == 1 and (total.sum(axis=1) == 2 * stream.n_edges + 3).all()
    for row, tokens in enumerate(batch.tokens):
        path = stream.solve(tokens)
        for k in (1, 2, 3):
            assert tokens[groups[f"edge to node {k}"][row]].tolist() == path[k - 1 : k + 1]


def test_success_is_when_the_threshold_is_first_reached():
    """With the success measure of each variant. Catches: the accuracy of whole paths for teacherless models, and a run
    that never succeeds counted as one that succeeds at its last step."""
    rows = [{"step": 10 * k, "tokens": k, "validation": [1.0], "measures": {"choice": v, "path": v / 2}} for k, v in
            enumerate((0.3, 0.95, 0.92))]  # fmt: skip
    run = SimpleNamespace(config=fake().config, log=lambda: [*rows, {"step": 25}])
    first = analysis.reached(run).iloc[0]
    assert first.step == 10 and first.reached
    reversed_ = SimpleNamespace(config=fake("reversed").config, log=run.log)
    first = analysis.reached(reversed_).iloc[0]
    assert first.step == 20 and not first.reached
    assert analysis.curve(reversed_).value.tolist() == [0.15, 0.475, 0.46]
