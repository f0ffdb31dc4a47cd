"""Cells of trainings that differ in their seed alone: measured alike, and compared seed by seed.

Which columns tell the cells of a study apart is the study's own business (`cell_of`).
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import torch

from mtp_lab.config import TrainConfig
from mtp_lab.evaluation.statistics_new import Interval, seed_interval
from mtp_lab.training.runs import Run


def of_all(
    cell_of: Callable[[TrainConfig], Mapping[str, object]],
    trained: Sequence[Run],
    measure: Callable[..., pd.DataFrame],
    workers: int = 1,
    **options: object,
) -> pd.DataFrame:
    """`measure(run, **options)` of every run, below each other with the columns of `cell_of`.

    Args:
        workers: runs at a time, on a thread each: small models do not keep two cores busy together.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, "measure", torch.set_num_threads, (max(1, threads // workers),)) as pool:
            tables = list(pool.map(lambda run: measure(run, **options), trained))
    finally:
        torch.set_num_threads(threads)
    told = [table.assign(**cell_of(run.config)) for run, table in zip(trained, tables, strict=True)]
    return pd.concat(told, ignore_index=True)


def paired(one: pd.DataFrame, other: pd.DataFrame, value: str = "value") -> Interval:
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


def differences(table: pd.DataFrame, reference: str) -> pd.DataFrame:
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
            gain = paired(part, other)
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
