"""The induction study's measures: when a training finds induction, and how well its model does it at the end.

Everything that is chosen is chosen on validation pairings; `final` opens the test pairings, once. Outcomes are
bistable, so a cell of trainings is summed up by how many of its seeds get there and when, not by a mean. Instruments
for the inside of a model are in mtp_lab.interp.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from data_gen.stories.generator import of_characters
from mtp_lab.config import TrainConfig
from mtp_lab.evaluation.flops import flops_per_token
from mtp_lab.evaluation.statistics import first_reached
from mtp_lab.model.predictions import next_token_predictions
from mtp_lab.tasks import Split
from mtp_lab.training.runs import Run

CONDITION = ["given", "n", "trunk", "stopped", "names", "scattered", "width", "rate", "weight"]
"""Columns that tell cells of trainings apart; see `induction_presets.InductionCondition`. Width is d_model, rate the peak
learning rate."""


def condition_of(config: TrainConfig) -> dict[str, object]:
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
                rows.append(condition_of(config) | at | told)
    return pd.DataFrame(rows)


def reached(table: pd.DataFrame, threshold: float = 0.5, measure: str = "induction") -> pd.DataFrame:
    """When each run first measured `threshold`: the cell's columns, seed, step, tokens, flops, seconds, reached.

    A run that never does is censored: reached is False, and its row holds the end of its training.

    Args:
        table: as `curves` gives it.
    """
    kept = [*CONDITION, "seed", "step", "tokens", "flops", "seconds", "reached"]
    runs = table.groupby([*CONDITION, "seed"], sort=False)
    return pd.DataFrame([first_reached(run, measure, threshold) for _, run in runs])[kept]


def final(run: Run, split: Split, rows: int) -> dict[str, float]:
    """A trained model on pairings of a split: `StoriesTask`'s measures, and on the second pieces that they ask for

    probability    mean probability of the right one
    nats           mean cross-entropy
    loss           nats a token of all text
    """
    batch = run.config.task.held_out(split, rows)
    predicted, nll = next_token_predictions(run.model(), batch)
    asked = of_characters(batch, "induction")
    return {
        **run.config.task.measures(batch, predicted, nll),
        "probability": float(np.exp(-nll[asked]).mean()),
        "nll": float(nll[asked].mean()),
        "loss": float(np.nanmean(nll)),
    }
