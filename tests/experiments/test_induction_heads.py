"""Measures of the induction study, on logs and answers that are known."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch

from mtp_lab.config import ModelConfig
from mtp_lab.evaluation import flops, statistics
from mtp_lab.experiments.induction_heads import analysis
from mtp_lab.experiments.induction_heads.conditions import INDUCTION, induction_configs
from mtp_lab.model.predictions import row_losses, tensors
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.training import runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> list[runs.Run]:
    """The runs of the smoke preset."""
    return [runs.get_run(config, tmp_path_factory.mktemp("runs")) for config in induction_configs("smoke")]


def test_conditions_of_a_preset_have_their_own_columns_and_configs():
    """Catches: two conditions with equal columns, which would be averaged, and configs that are trained twice."""
    for preset, seeds in (("quick", 2), ("full", 5)):
        configs = induction_configs(preset)
        conditions = pd.DataFrame([analysis.condition_of(config) for config in configs])
        assert len({config.folder for config in configs}) == len(configs)
        assert len(conditions.drop_duplicates(analysis.CONDITION_COLUMNS)) == len(INDUCTION[preset].conditions)
        trained = conditions.groupby(analysis.CONDITION_COLUMNS, sort=False).seed.nunique().tolist()
        assert trained == [seeds + condition.extra_seeds for condition in INDUCTION[preset].conditions]
    chosen = INDUCTION["full"]
    first = [config for config in induction_configs("full", 1) if config.seed == 0]
    for config, condition in zip(first, chosen.conditions, strict=True):
        columns = analysis.condition_of(config)
        assert all(
            columns[name] == getattr(condition, name)
            for name in analysis.CONDITION_COLUMNS
            if name not in ("width", "learning_rate")
        )
        assert columns["width"] == chosen.size["d_model"] * condition.width_factor
        expected_rate = chosen.optimizer.learning_rate * condition.learning_rate_factor
        assert columns["learning_rate"] == config.optimizer.learning_rate == expected_rate
        assert config.horizon_weights == (1.0,) + (condition.horizon_weight,) * (condition.n - 1)
        assert config.model.d_head == chosen.size["d_model"] // chosen.size["n_attention_heads"]
        assert config.steps == chosen.steps * condition.steps_factor


@pytest.mark.parametrize("kind", ["parallel", "linear", "sequential"])
@pytest.mark.parametrize("attention_only", [False, True])
def test_operations_are_counted_from_the_weights(kind, attention_only):
    """6 for each weight and token, the shared unembedding once for each head; attention is added."""
    config = ModelConfig(d_model=32, n_attention_heads=2, n_layers=5, n_future=3, head_kind=kind, trunk_layers=2,
                         attention_only=attention_only)  # fmt: skip
    model = MTPTransformer(config)
    weights = sum(p.numel() for name, p in model.named_parameters() if not name.startswith(("embed", "unembed")))
    layers = sum(name.endswith("attn.out.weight") for name, _ in model.named_parameters())
    expected = 6 * (weights + 3 * model.unembed.weight.numel()) + 12 * layers * 32 * 100
    assert flops.flops_per_token(config, 100) == expected


def test_curves_are_the_log(trained):
    """One row an evaluation, with the next-token head's loss.
    Catches: the loss of all horizons, rows of steps without an evaluation."""
    table = analysis.curves(trained)
    assert len(table) == sum("measures" in row for run in trained for row in run.log())
    last = table[(table.previous_token == "rotary") & (table.seed == 1)].iloc[-1]
    run = next(run for run in trained if run.config.model.n_future == 2 and run.config.seed == 1)
    assert last.loss == run.log()[-1]["validation"][0] and last.step == run.config.steps
    assert last.flops == last.tokens * flops.flops_per_token(run.config.model, run.config.task.seq)


def test_final_measures_are_those_of_the_right_tokens(trained):
    """Against a count token by token on the test pairings: probability and loss of repeated second pieces of names."""
    run = trained[-1]
    batch = run.config.task.held_out("test", 6)
    tokens, documents = tensors(batch)
    with torch.no_grad():
        log_probability = run.model()(tokens, documents).log_softmax(-1)
    nll = [
        -log_probability[row, t - 1, tokens[row, t]].item()
        for row, t in np.argwhere(batch.labels["induction"])
        if 0 <= batch.labels["entity"][row, t] < 4
    ]
    measured = analysis.final(run, "test", 6)
    assert len(nll) > 20 and measured["nll"] == pytest.approx(np.mean(nll), rel=1e-5)
    assert measured["probability"] == pytest.approx(np.mean(np.exp(-np.array(nll))), rel=1e-5)
    sums, counts = row_losses(run.model(), batch)
    assert measured["loss"] == pytest.approx(sums[0].sum() / counts[0].sum(), rel=1e-5)
    assert {"induction", "induction_any", "first_piece", "excess"} <= set(measured)


def reached_at(times: list[float], end: int = 800) -> pd.DataFrame:
    """Rows of a condition whose runs succeed at these steps; an infinite one ends at `end` without success."""
    reached = np.isfinite(times)
    return pd.DataFrame({"step": np.where(reached, times, end), "reached": reached})


def test_the_first_time_counts_and_the_end_is_not_a_time(trained):
    """The first time above the threshold counts; a run that is never above it is censored at its end."""
    log = analysis.curves(trained[:2])
    log = pd.concat([run.iloc[[0]].loc[run.index[[0]].repeat(4)] for _, run in log.groupby("seed")])
    log = log.assign(step=[1, 2, 3, 4] * 2, induction=[0.1, 0.6, 0.2, 0.9, 0.1, 0.2, 0.49, 0.3])
    table = analysis.reached(log.sample(frac=1, random_state=0)).sort_values("seed")
    assert table.step.tolist() == [2, 4] and table.reached.tolist() == [True, False]


def test_earlier_is_the_exact_permutation_test():
    """Against all permutations of the seeds; censored runs share the last rank, however long they were trained."""
    condition, reference = reached_at([100, 150, 200, np.inf]), reached_at([300, 120, np.inf, np.inf], end=1600)
    times = [100, 150, 200, np.inf, 300, 120, np.inf, np.inf]
    rank = pd.Series(times).rank().to_numpy()
    observed = rank[:4].mean() - rank[4:].mean()
    permuted = [
        rank[list(c)].mean() - rank[[i for i in range(8) if i not in c]].mean() for c in combinations(range(8), 4)
    ]
    two_sided = 2 * min(np.mean(np.array(permuted) <= observed + 1e-9), np.mean(np.array(permuted) >= observed - 1e-9))
    assert statistics.compare_times(condition, reference) == pytest.approx((observed, min(1, two_sided)))
    assert statistics.compare_times(reached_at([1, 2, 3, 4, 5]), reached_at([6, 7, 8, 9, 10])) == pytest.approx(
        (-5, 2 / 252)
    )
    assert statistics.compare_times(reached_at([np.inf] * 3), reached_at([np.inf] * 3)) == (0, 1)


def test_earlier_compares_as_long_as_both_were_trained():
    """Runs that end at 800 might succeed at 900, as the others do, so the difference is unknown.
    Catches: a condition that ranks last because its runs are shorter, and times after the end of the shorter runs."""
    late = reached_at([900, 950, 1000, 1050, 1100], end=3200)
    assert statistics.compare_times(late, reached_at([np.inf] * 5)) == (0, 1)
    assert (
        statistics.compare_times(reached_at([700, *late.step[1:]]), reached_at([np.inf] * 5))[1] == 1
    )  # a single seed proves nothing
    assert statistics.compare_times(reached_at([100, 200, 300, 400, 500]), late) == pytest.approx((-5, 2 / 252))
    mixed = statistics.compare_times(reached_at([100, np.inf, np.inf, np.inf, np.inf]), late)
    assert mixed == statistics.compare_times(reached_at([100] + [np.inf] * 4), reached_at([np.inf] * 5))


def test_intervals_of_rates_and_differences():
    """5 of 5 seeds do not prove certainty; a difference of 0 has 0 in its interval; one seed has no interval."""
    assert (
        statistics.success_rate(5, 5).low == pytest.approx(0.4782, abs=1e-3) and statistics.success_rate(5, 5).high == 1
    )
    assert statistics.success_rate(0, 4).low == 0
    with pytest.raises(ValueError, match="successes=6 must be from 0 to seeds=5"):
        statistics.success_rate(6, 5)
    same = statistics.bootstrap_difference([0.1, 0.5, 0.9], [0.9, 0.1, 0.5])
    assert same.low < 0 < same.high and same.mean == pytest.approx(0)
    apart = statistics.bootstrap_difference([1.0, 1.1, 1.2], [0.0, 0.1, 0.2])
    assert 0.7 < apart.low < apart.mean == pytest.approx(1.0) and apart.high < 1.3
    with pytest.raises(ValueError, match="train at least 2"):
        statistics.bootstrap_difference([1.0], [1.0, 2.0])


def test_an_unknown_preset_is_named():
    """The message lists the known ones."""
    with pytest.raises(ValueError, match="preset='huge' is not known; use one of smoke, quick, full, paper"):
        induction_configs("huge")
