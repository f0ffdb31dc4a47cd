"""Statistics over training seeds: intervals of means, success rates, paired and unpaired differences, and times.

The conditions of a study differ in a setting, and the runs of one condition in their seed only. Runs of the same seed
share data and order, so conditions are compared seed by seed where possible (paired t). Outcomes that a run reaches or
not are summarised by success rates (exact binomial interval) and by the time at which they are first reached
(permutation test). `bootstrap_interval` resamples the rows of a test set instead of seeds. Each study defines the
columns that identify a condition (`condition_of`).
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

    The bounds are those of `scipy.stats.ttest_1samp(values, 0).confidence_interval(confidence)`, but if all values are
    equal, the interval has length 0 instead of NaN as bounds.

    Raises:
        ValueError: for fewer than two values, because one seed has no interval.
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

    `scipy.stats.bootstrap` computes the same interval with other random draws. This one keeps recorded results.

    Args:
        nll, counts: (rows,) sums of cross-entropies and numbers of targets, as `row_losses` returns for one horizon.
    """
    rows = np.random.default_rng(seed).integers(0, len(nll), size=(resamples, len(nll)))
    means = nll[rows].sum(1) / counts[rows].sum(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(nll.sum() / counts.sum()), float(low), float(high))


def over_seeds(table: pd.DataFrame, by: Sequence[str], value: str, names: Sequence[str]) -> pd.DataFrame:
    """Adds three columns to every row: the mean of `value` over the seeds of its group, and the 95 % interval.

    Args:
        by: columns that identify a group.
        names: the three new columns: mean, low, high.
    """
    intervals = table.groupby(list(by))[value].apply(seed_interval)
    table = table.join(intervals.rename("interval"), on=list(by))
    columns = {name: [getattr(i, field) for i in table.interval] for name, field in zip(names, FIELDS, strict=True)}
    return table.assign(**columns).drop(columns="interval")


def paired_difference(condition: pd.DataFrame, reference: pd.DataFrame, value: str = "value") -> Interval:
    """Mean of condition minus reference over the seeds that they share, with its 95 % interval (paired t).

    Args:
        condition, reference: one row a seed, with the columns seed and `value`.

    Raises:
        ValueError: for fewer than two seeds in common, or several rows of a seed.
    """
    pairs = condition[["seed", value]].merge(reference[["seed", value]], on="seed")
    if pairs.seed.duplicated().any():
        raise ValueError("a seed has several rows; average them first")
    return seed_interval((pairs[f"{value}_x"] - pairs[f"{value}_y"]).tolist())


def paired_differences(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Differences of every label to the label `reference`, seed by seed, as `mtp_lab.figures.differences` draws them.

    Args:
        table: panel, label, seed, value; one row a seed.

    Returns:
        panel, label, seed, value (the difference), mean, low, high (paired t).

    Raises:
        ValueError: for labels that share fewer than two seeds with the reference, or several rows of a seed.
    """
    differences = []
    for (panel, label), rows in table.groupby(["panel", "label"], sort=False):
        if label == reference:
            continue
        reference_rows = table[(table.panel == panel) & (table.label == reference)]
        interval = paired_difference(rows, reference_rows)
        pairs = rows.merge(reference_rows[["seed", "value"]], on="seed", suffixes=("", "_reference"))
        pairs["value"] -= pairs.pop("value_reference")
        differences.append(pairs.assign(mean=interval.mean, low=interval.low, high=interval.high))
    return pd.concat(differences, ignore_index=True)[["panel", "label", "seed", "value", "mean", "low", "high"]]


def first_reached(curve: pd.DataFrame, measure: str, threshold: float) -> dict[str, object]:
    """The first row of one run's curve whose `measure` is at least `threshold`, with reached=True.

    A run that never reaches it is censored: its last row is returned, with reached=False.

    Args:
        curve: one row an evaluation, with the columns step and `measure`.
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


def compare_times(condition: pd.DataFrame, reference: pd.DataFrame, by: str = "step") -> tuple[float, float]:
    """Whether the runs of a condition succeed earlier than those of a reference: difference of mean ranks, p-value.

    A negative difference means that the condition is earlier. Runs that never succeed share the last rank. So do runs
    that succeed after a run of the other group has ended without success, because that run might have succeeded at the
    same time. The p-value is two-sided and exact, by permutation of the seeds.

    Args:
        condition, reference: rows of `first_reached`, one a seed.
        by: the column of times.
    """
    groups = (condition, reference)
    all_observed_until = min(group[by].where(~group.reached, np.inf).min() for group in groups)
    times = [
        np.where(group.reached & (group[by] <= all_observed_until), group[by].astype(float), np.inf) for group in groups
    ]
    ranks = stats.rankdata(np.concatenate(times))
    if len(set(ranks)) == 1:
        return 0.0, 1.0
    samples = ranks[: len(condition)], ranks[len(condition) :]
    test = stats.permutation_test(samples, lambda a, b: a.mean() - b.mean(), n_resamples=np.inf)
    return float(test.statistic), float(test.pvalue)


def bootstrap_difference(values: Sequence[float], reference: Sequence[float], resamples: int = 5000) -> Interval:
    """Difference of two means over seeds with its 95 % bootstrap interval; seeds are resampled in each group.

    `scipy.stats.bootstrap` computes the same interval with other random draws. This one keeps recorded results.

    Raises:
        ValueError: for fewer than two seeds in a group.
    """
    groups = [np.asarray(group, float) for group in (values, reference)]
    if (fewest := min(map(len, groups))) < 2:
        raise ValueError(f"{fewest} seed(s) in a group give no interval; train at least 2")
    rng = np.random.default_rng(0)
    means = [group[rng.integers(0, len(group), (resamples, len(group)))].mean(1) for group in groups]
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return Interval(float(groups[0].mean() - groups[1].mean()), float(low), float(high))
