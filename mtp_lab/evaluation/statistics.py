"""Cells of trainings that differ in their seed alone: measured alike, and compared seed by seed.

Which columns tell the cells of a study apart is the study's own business (`condition_of`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

FIELDS = ("mean", "low", "high")


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def seed_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t interval of a mean over seeds.

    Raises:
        ValueError: for fewer than two values: one seed has no interval.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} value(s) give no interval over seeds; train at least 2 seeds")
    mean, error = float(np.mean(values)), float(stats.sem(values))
    half = error * float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    return Interval(mean, mean - half, mean + half)


def bootstrap_interval(
    nll: np.ndarray, counts: np.ndarray, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of a mean loss over the rows of a test set.

    Args:
        nats, counts: (rows,) sums and numbers of targets, as `losses` gives them for one horizon.
    """
    rows = np.random.default_rng(seed).integers(0, len(nll), size=(resamples, len(nll)))
    means = nll[rows].sum(1) / counts[rows].sum(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(nll.sum() / counts.sum()), float(low), float(high))


def over_seeds(table: pd.DataFrame, by: Sequence[str], value: str, names: Sequence[str]) -> pd.DataFrame:
    """Adds the mean of `value` over the seeds of each group and its 95 % interval to every row.

    Args:
        by: columns that tell the groups apart.
        names: the three new columns: mean, low, high.
    """
    intervals = table.groupby(list(by))[value].apply(seed_interval)
    table = table.join(intervals.rename("interval"), on=list(by))
    columns = {name: [getattr(i, part) for i in table.interval] for name, part in zip(names, FIELDS, strict=True)}
    return table.assign(**columns).drop(columns="interval")


def paired_difference(one: pd.DataFrame, other: pd.DataFrame, value: str = "value") -> Interval:
    """Mean difference of two cells over the seeds they share, with its 95 % interval (paired t).

    Args:
        one, other: a row a seed, with the columns seed and `value`.

    Raises:
        ValueError: for fewer than two seeds in common, or several rows of a seed.
    """
    both = one[["seed", value]].merge(other[["seed", value]], on="seed")
    if both.seed.duplicated().any():
        raise ValueError("a seed has several rows; average them first")
    return seed_interval((both[f"{value}_x"] - both[f"{value}_y"]).tolist())


def paired_differences(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Every label against one of them, seed by seed, for `answer_figures.differences`.

    Args:
        table: panel, label, seed, value; a row a seed.

    Returns:
        panel, label, seed, value (the difference), mean, low, high (paired t); labels of no shared seeds are an error.
    """
    rows = []
    for (panel, label), part in table.groupby(["panel", "label"], sort=False):
        other = table[(table.panel == panel) & (table.label == reference)]
        if label != reference:
            gain = paired_difference(part, other)
            joined = part.merge(other[["seed", "value"]], on="seed", suffixes=("", "_reference"))
            joined["value"] -= joined.pop("value_reference")
            rows.append(joined.assign(mean=gain.mean, low=gain.low, high=gain.high))
    return pd.concat(rows, ignore_index=True)[["panel", "label", "seed", "value", "mean", "low", "high"]]


def first_reached(curve: pd.DataFrame, measure: str, threshold: float) -> dict[str, object]:
    """When one training first measured `threshold`: that row of its curve, and reached.

    A training that never does is censored: reached is False, and the row is its last.

    Args:
        curve: step and the column of `measure`, a row an evaluation.
    """
    curve = curve.sort_values("step")
    above = curve[curve[measure] >= threshold]
    return {**(above.iloc[0] if len(above) else curve.iloc[-1]), "reached": bool(len(above))}


def success_rate(successes: int, seeds: int) -> Interval:
    """A success rate with its exact 95 % interval (Clopper & Pearson 1934).

    Raises:
        ValueError: for no seeds, or more successes than seeds.
    """
    if not 0 <= successes <= seeds or seeds < 1:
        raise ValueError(f"successes={successes} must be from 0 to seeds={seeds}, and seeds at least 1")
    bounds = stats.binomtest(successes, seeds).proportion_ci(method="exact")
    return Interval(successes / seeds, bounds.low, bounds.high)


def compare_times(one: pd.DataFrame, other: pd.DataFrame, by: str = "step") -> tuple[float, float]:
    """Whether the seeds of one cell get there earlier than another's: difference of mean ranks, and its p-value.

    Negative: `one` is earlier. Seeds that never get there share the last rank; so do those that get there only after
    another's training has ended without it, which might have got there as late. The p-value is two-sided and exact, by
    permutation of the seeds.

    Args:
        one, other: rows of `reached`.
    """
    end = min(
        condition[by].where(~condition.reached, np.inf).min() for condition in (one, other)
    )  # up to there all are watched
    times = [
        np.where(condition.reached & (condition[by] <= end), condition[by].astype(float), np.inf)
        for condition in (one, other)
    ]
    ranks = stats.rankdata(np.concatenate(times))
    groups = ranks[: len(times[0])], ranks[len(times[0]) :]
    if len(set(ranks)) == 1:
        return 0.0, 1.0
    test = stats.permutation_test(groups, lambda a, b: a.mean() - b.mean(), n_resamples=np.inf)
    return float(test.statistic), float(test.pvalue)


def bootstrap_difference(one: Sequence[float], other: Sequence[float], resamples: int = 5000) -> Interval:
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
