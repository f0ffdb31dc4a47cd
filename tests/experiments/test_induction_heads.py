"""The induction study's measures, on logs and answers that are known."""

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
    """The smoke preset's trainings."""
    return [runs.get_run(config, tmp_path_factory.mktemp("runs")) for config in induction_configs("smoke")]


def test_cells_of_the_preset_are_told_apart():
    """Two cells with one description would be averaged; a config of another cell would be trained twice."""
    for preset, seeds in (("quick", 2), ("full", 5)):
        configs = induction_configs(preset)
        conditions = pd.DataFrame([analysis.condition_of(config) for config in configs])
        assert len({config.folder for config in configs}) == len(configs)
        assert len(conditions.drop_duplicates(analysis.CONDITION)) == len(INDUCTION[preset].conditions)
        trained = conditions.groupby(analysis.CONDITION, sort=False).seed.nunique().tolist()
        assert trained == [seeds + condition.more_seeds for condition in INDUCTION[preset].conditions]
    chosen = INDUCTION["full"]
    first = [config for config in induction_configs("full", 1) if config.seed == 0]
    for config, condition in zip(first, chosen.conditions, strict=True):
        found = analysis.condition_of(config)
        assert all(
            found[name] == getattr(condition, name) for name in analysis.CONDITION if name not in ("width", "rate")
        )
        assert found["width"] == chosen.size["d_model"] * condition.wider
        assert found["rate"] == config.optimizer.learning_rate == chosen.optimizer.learning_rate * condition.rate
        assert config.horizon_weights == (1.0,) + (condition.weight,) * (condition.n - 1)
        assert config.model.d_head == chosen.size["d_model"] // chosen.size["n_attention_heads"]
        assert config.steps == chosen.steps * condition.longer


@pytest.mark.parametrize("kind", ["parallel", "linear", "sequential"])
@pytest.mark.parametrize("attention_only", [False, True])
def test_operations_are_counted_from_the_weights(kind, attention_only):
    """6 a weight that multiplies every token, the shared unembedding once a head; attention beside it."""
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
    last = table[(table.given == "rotary") & (table.seed == 1)].iloc[-1]
    run = next(run for run in trained if run.config.model.n_future == 2 and run.config.seed == 1)
    assert last.loss == run.log()[-1]["validation"][0] and last.step == run.config.steps
    assert last.flops == last.tokens * flops.flops_per_token(run.config.model, run.config.task.seq)


def test_final_measures_are_those_of_the_right_tokens(trained):
    """Against a count token by token on the test pairings: probability and loss of repeated second pieces of names."""
    run = trained[-1]
    batch = run.config.task.held_out("test", 6)
    tokens, documents = tensors(batch)
    with torch.no_grad():
        told = run.model()(tokens, documents).log_softmax(-1)
    nll = [
        -told[row, t - 1, tokens[row, t]].item()
        for row, t in np.argwhere(batch.labels["induction"])
        if 0 <= batch.labels["entity"][row, t] < 4
    ]
    found = analysis.final(run, "test", 6)
    assert len(nll) > 20 and found["nll"] == pytest.approx(np.mean(nll), rel=1e-5)
    assert found["probability"] == pytest.approx(np.mean(np.exp(-np.array(nll))), rel=1e-5)
    sums, counts = row_losses(run.model(), batch)
    assert found["loss"] == pytest.approx(sums[0].sum() / counts[0].sum(), rel=1e-5)
    assert {"induction", "induction_any", "first_piece", "excess"} <= set(found)


def a_cell(times: list[float], end: int = 800) -> pd.DataFrame:
    got = np.isfinite(times)
    return pd.DataFrame({"step": np.where(got, times, end), "reached": got})


def test_the_first_time_counts_and_the_end_is_not_a_time(trained):
    """A run that rises, falls and rises reached it when it first rose; one that never does is censored at its end."""
    log = analysis.curves(trained[:2])
    log = pd.concat([run.iloc[[0]].loc[run.index[[0]].repeat(4)] for _, run in log.groupby("seed")])
    log = log.assign(step=[1, 2, 3, 4] * 2, induction=[0.1, 0.6, 0.2, 0.9, 0.1, 0.2, 0.49, 0.3])
    table = analysis.reached(log.sample(frac=1, random_state=0)).sort_values("seed")
    assert table.step.tolist() == [2, 4] and table.reached.tolist() == [True, False]


def test_earlier_is_the_exact_permutation_test():
    """Against all ways of dealing the seeds out; censored runs share the last rank, however long they were trained."""
    one, other = a_cell([100, 150, 200, np.inf]), a_cell([300, 120, np.inf, np.inf], end=1600)
    times = [100, 150, 200, np.inf, 300, 120, np.inf, np.inf]
    rank = pd.Series(times).rank().to_numpy()
    seen = rank[:4].mean() - rank[4:].mean()
    dealt = [rank[list(c)].mean() - rank[[i for i in range(8) if i not in c]].mean() for c in combinations(range(8), 4)]
    two_sided = 2 * min(np.mean(np.array(dealt) <= seen + 1e-9), np.mean(np.array(dealt) >= seen - 1e-9))
    assert statistics.compare_times(one, other) == pytest.approx((seen, min(1, two_sided)))
    assert statistics.compare_times(a_cell([1, 2, 3, 4, 5]), a_cell([6, 7, 8, 9, 10])) == pytest.approx((-5, 2 / 252))
    assert statistics.compare_times(a_cell([np.inf] * 3), a_cell([np.inf] * 3)) == (0, 1)


def test_earlier_compares_as_long_as_both_were_trained():
    """Seeds that were given up at 800 may get there at 900, as the others do, so nothing is known of a difference.
    Catches: a cell that comes last because it was trained for less long; times that count although all got there."""
    late = a_cell([900, 950, 1000, 1050, 1100], end=3200)
    assert statistics.compare_times(late, a_cell([np.inf] * 5)) == (0, 1)
    assert (
        statistics.compare_times(a_cell([700, *late.step[1:]]), a_cell([np.inf] * 5))[1] == 1
    )  # one alone proves nothing
    assert statistics.compare_times(a_cell([100, 200, 300, 400, 500]), late) == pytest.approx((-5, 2 / 252))
    mixed = statistics.compare_times(a_cell([100, np.inf, np.inf, np.inf, np.inf]), late)
    assert mixed == statistics.compare_times(a_cell([100] + [np.inf] * 4), a_cell([np.inf] * 5))


def test_shares_and_differences_have_honest_intervals():
    """5 of 5 seeds do not prove certainty; a difference of 0 has 0 in its interval; one seed has none."""
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
    """And those that there are."""
    with pytest.raises(ValueError, match="preset='huge' is not known; use one of smoke, quick, full, paper"):
        induction_configs("huge")
