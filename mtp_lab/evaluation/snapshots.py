"""Measurements over a training: any function of a model, on each snapshot of a run, as one tidy table.

A run keeps snapshots if it was trained with `TrainConfig.snapshot_every`. The functions of this package and of
mtp_lab.interp are such instruments once their other arguments are bound.
"""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from tqdm import tqdm

from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.training.runs import Run

Instrument = Callable[[MTPTransformer], pd.DataFrame | float]


def progress(run: Run, instruments: Mapping[str, Instrument], steps: Sequence[int] | None = None) -> pd.DataFrame:
    """Every instrument on every snapshot.

    Args:
        instruments: by name; a function of the model that returns a number, or a table with a column `value`.
        steps: steps of the snapshots to measure; all by default.

    Returns:
        run, n, seed, step, tokens, instrument, value, and the other columns of the instruments' tables.

    Raises:
        ValueError: if the run has no snapshots or not those of `steps`, or if a table has no column `value`.

    Example:
        >>> progress(run, {"loss": lambda model: float(loss_per_horizon(model, batch)[0])})
    """
    config, tables = run.config, []
    snapshots = run.snapshots()
    if not snapshots:
        raise ValueError(f"{run.path.name} has no snapshots; train it with snapshot_every")
    for step in tqdm(snapshots if steps is None else steps, desc=run.path.name, leave=False):
        model = run.model(step)
        for name, instrument in instruments.items():
            result = instrument(model)
            table = result if isinstance(result, pd.DataFrame) else pd.DataFrame([{"value": float(result)}])
            if "value" not in table:
                raise ValueError(f"instrument {name!r} gives a table of {list(table.columns)}; it needs 'value'")
            tables.append(table.assign(instrument=name, step=step))
    tokens = config.batch_size * config.task.seq  # for each step
    table = pd.concat(tables, ignore_index=True)
    return table.assign(run=run.path.name, n=config.model.n_future, seed=config.seed, tokens=table.step * tokens)
