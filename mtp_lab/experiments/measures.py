"""Measures of many runs in one table, with columns that name the condition of each run."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import torch

from mtp_lab.config import TrainConfig
from mtp_lab.training.runs import Run


def measure_runs(
    condition_of: Callable[[TrainConfig], Mapping[str, object]],
    trained: Sequence[Run],
    measure: Callable[..., pd.DataFrame],
    workers: int = 1,
    **options: object,
) -> pd.DataFrame:
    """Concatenates `measure(run, **options)` of every run, and adds the columns of `condition_of(run.config)`.

    Args:
        workers: number of runs that are measured at a time, each on its own thread. One small model does not keep two
            cores busy.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, "measure", torch.set_num_threads, (max(1, threads // workers),)) as pool:
            tables = list(pool.map(lambda run: measure(run, **options), trained))
    finally:
        torch.set_num_threads(threads)
    labelled = [table.assign(**condition_of(run.config)) for run, table in zip(trained, tables, strict=True)]
    return pd.concat(labelled, ignore_index=True)
