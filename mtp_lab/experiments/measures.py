"""Measures of many runs, as one table with the columns that tell conditions apart."""

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
    """`measure(run, **options)` of every run, below each other with the columns of `condition_of`.

    Args:
        workers: runs at a time, on a thread each: small models do not keep two cores busy together.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, "measure", torch.set_num_threads, (max(1, threads // workers),)) as pool:
            tables = list(pool.map(lambda run: measure(run, **options), trained))
    finally:
        torch.set_num_threads(threads)
    told = [table.assign(**condition_of(run.config)) for run, table in zip(trained, tables, strict=True)]
    return pd.concat(told, ignore_index=True)
