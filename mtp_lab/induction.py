"""The induction study's measures: when a training finds induction, and how well its model does it at the end.

Everything that is chosen is chosen on validation pairings; `final` opens the test pairings, once. Outcomes are
bistable, so a cell of trainings is summed up by how many of its seeds get there and when, not by a mean. Instruments
for the inside of a model are in mtp_lab.interp.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from data_gen.stories.generator import of_characters
from mtp_lab.cells import first_reached
from mtp_lab.config import ModelConfig, TrainConfig
from mtp_lab.evaluation.statistics_new import Interval
from mtp_lab.model.predictions import next_token
from mtp_lab.tasks import Split
from mtp_lab.training.runs import Run

CELL = ["given", "n", "trunk", "stopped", "names", "scattered", "width", "rate", "weight"]
"""Columns that tell cells of trainings apart; see `induction_presets.InductionCell`. Width is d_model, rate the peak
learning rate."""


def cell_of(config: TrainConfig) -> dict[str, object]:
    """The cell and the seed that a training belongs to."""
    model = config.model
    return {
        "given": "smeared" if model.smeared_keys else model.position,
        "n": model.n_future,
        "trunk": model.trunk_depth,
        "stopped": bool(model.stop_gradient),
        "names": config.task.stream.names.names,
        "scattered": config.task.stream.names.scattered,
        "width": model.d_model,
        "rate": config.optimizer.learning_rate,
        "weight": config.horizon_weights[-1],
        "seed": config.seed,
    }


def flops_per_token(model: ModelConfig, seq: int) -> int:
    """Operations of one training step a token: 6 for each weight it is multiplied with, and attention over the row.

    Forward 2, backward 4 (Kaplan et al. 2020, section 2.1); the embedding is a look-up and counts nothing; the n
    unembeddings count each. Attention's products cost 12 x d_model x seq a layer, half of it masked but computed.
    """
    layer = 4 * model.d_model**2 + 3 * model.d_model * model.mlp_width * (not model.attention_only)
    layers = model.trunk_depth + (0 if model.head_kind == "linear" else model.n_future)
    heads = model.n_future * model.d_model**2 * (model.head_kind == "linear")
    joins = 2 * model.d_model**2 * (model.n_future - 1) * (model.head_kind == "sequential")
    unembedding = model.n_future * model.d_model * model.vocab_size
    return 6 * (layers * layer + heads + joins + unembedding) + 12 * layers * model.d_model * seq


def curves(trained: Sequence[Run]) -> pd.DataFrame:
    """What was measured on validation pairings during training.

    Returns:
        One row a run and evaluation: the cell's columns, seed, step, tokens, flops, seconds, the measures of
        `StoriesTask`, and `loss` (nats a token, next-token head).
    """
    rows = []
    for run in trained:
        config = run.config
        cost = flops_per_token(config.model, config.task.seq)
        for row in run.log():
            if "measures" in row:
                at = {"step": row["step"], "tokens": row["tokens"], "flops": cost * row["tokens"]}
                told = {"seconds": row["seconds"], "loss": row["validation"][0], **row["measures"]}
                rows.append(cell_of(config) | at | told)
    return pd.DataFrame(rows)


def reached(table: pd.DataFrame, threshold: float = 0.5, measure: str = "induction") -> pd.DataFrame:
    """When each run first measured `threshold`: the cell's columns, seed, step, tokens, flops, seconds, reached.

    A run that never does is censored: reached is False, and its row holds the end of its training.

    Args:
        table: as `curves` gives it.
    """
    kept = [*CELL, "seed", "step", "tokens", "flops", "seconds", "reached"]
    runs = table.groupby([*CELL, "seed"], sort=False)
    return pd.DataFrame([first_reached(run, measure, threshold) for _, run in runs])[kept]


def final(run: Run, split: Split, rows: int) -> dict[str, float]:
    """A trained model on pairings of a split: `StoriesTask`'s measures, and on the second pieces that they ask for

    probability    mean probability of the right one
    nats           mean cross-entropy
    loss           nats a token of all text
    """
    batch = run.config.task.held_out(split, rows)
    predicted, nats = next_token(run.model(), batch)
    asked = of_characters(batch, "induction")
    return {
        **run.config.task.measures(batch, predicted, nats),
        "probability": float(np.exp(-nats[asked]).mean()),
        "nats": float(nats[asked].mean()),
        "loss": float(np.nanmean(nats)),
    }


def share(successes: int, seeds: int) -> Interval:
    """A success rate with its exact 95 % interval (Clopper & Pearson 1934).

    Raises:
        ValueError: for no seeds, or more successes than seeds.
    """
    if not 0 <= successes <= seeds or seeds < 1:
        raise ValueError(f"successes={successes} must be from 0 to seeds={seeds}, and seeds at least 1")
    bounds = stats.binomtest(successes, seeds).proportion_ci(method="exact")
    return Interval(successes / seeds, bounds.low, bounds.high)


def earlier(one: pd.DataFrame, other: pd.DataFrame, by: str = "step") -> tuple[float, float]:
    """Whether the seeds of one cell get there earlier than another's: difference of mean ranks, and its p-value.

    Negative: `one` is earlier. Seeds that never get there share the last rank; so do those that get there only after
    another's training has ended without it, which might have got there as late. The p-value is two-sided and exact, by
    permutation of the seeds.

    Args:
        one, other: rows of `reached`.
    """
    end = min(cell[by].where(~cell.reached, np.inf).min() for cell in (one, other))  # up to there all are watched
    times = [np.where(cell.reached & (cell[by] <= end), cell[by].astype(float), np.inf) for cell in (one, other)]
    ranks = stats.rankdata(np.concatenate(times))
    groups = ranks[: len(times[0])], ranks[len(times[0]) :]
    if len(set(ranks)) == 1:
        return 0.0, 1.0
    test = stats.permutation_test(groups, lambda a, b: a.mean() - b.mean(), n_resamples=np.inf)
    return float(test.statistic), float(test.pvalue)


def difference(one: Sequence[float], other: Sequence[float], resamples: int = 5000) -> Interval:
    """Difference of two means over seeds with its 95 % bootstrap interval, seeds resampled in each group.

    Raises:
        ValueError: for fewer than two seeds in a group.
    """
    groups = [np.asarray(values, float) for values in (one, other)]
    if min(map(len, groups)) < 2:
        raise ValueError(f"{min(map(len, groups))} seed(s) in a group give no interval; train at least 2")
    rng = np.random.default_rng(0)
    means = [values[rng.integers(0, len(values), (resamples, len(values)))].mean(1) for values in groups]
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return Interval(float(groups[0].mean() - groups[1].mean()), float(low), float(high))
