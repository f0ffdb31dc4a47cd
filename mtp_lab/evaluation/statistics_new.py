"""x"""

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
    nats: np.ndarray, counts: np.ndarray, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of a mean loss over the rows of a test set.

    Args:
        nats, counts: (rows,) sums and numbers of targets, as `losses` gives them for one horizon.
    """
    rows = np.random.default_rng(seed).integers(0, len(nats), size=(resamples, len(nats)))
    means = nats[rows].sum(1) / counts[rows].sum(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(nats.sum() / counts.sum()), float(low), float(high))


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
