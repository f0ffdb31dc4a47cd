"""Measures of the induction study: when a run learns induction, and how well the trained model does it.

All selection uses validation names. `final` measures on test names, which are used once. Runs either learn induction or
do not, so a condition is summarised by how many of its seeds learn it and when, not by a mean. Instruments that look
into a model are in mtp_lab.interp.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from data_gen.stories.generator import of_characters
from mtp_lab.config import TrainConfig
from mtp_lab.evaluation.flops import flops_per_token
from mtp_lab.evaluation.statistics import first_reached
from mtp_lab.model.predictions import next_token_predictions
from mtp_lab.tasks import Split
from mtp_lab.training.runs import Run

CONDITION_COLUMNS = [
    "previous_token", "n", "trunk", "stop_gradient", "names", "scattered", "width", "learning_rate", "horizon_weight"
]  # fmt: skip
"""Columns that identify a condition, as in `conditions.InductionCondition`. Width is d_model."""

PREVIOUS_TOKEN_LABELS = {"smeared": "smeared keys", "relative": "relative bias", "rotary": "RoPE"}
"""Labels of the ways in which a model finds the previous token (`conditions.PREVIOUS_TOKEN`)."""


def condition_of(config: TrainConfig) -> dict[str, object]:
    """The columns of a run's condition, and its seed."""
    model = config.model
    return {
        "previous_token": "smeared" if model.smeared_keys else model.position,
        "n": model.n_future,
        "trunk": model.trunk_depth,
        "stop_gradient": bool(model.stop_gradient),
        "names": config.task.stream.names.names,
        "scattered": config.task.stream.names.scattered,
        "width": model.d_model,
        "learning_rate": config.optimizer.learning_rate,
        "horizon_weight": config.horizon_weights[-1],
        "seed": config.seed,
    }


def label(condition: Any, reference: Any) -> str:
    """Label of a condition's model, such as "n = 2, trunk of 3, stop-gradient heads".

    Width, learning rate and horizon weight are left out where they are the reference's.

    Args:
        condition, reference: rows with the columns of `condition_of` as attributes.
    """
    words = [f"n = {condition.n}, trunk of {condition.trunk}"]
    if condition.stop_gradient:
        words.append("stop-gradient heads")
    if condition.width != reference.width:
        words.append(f"{condition.width} wide")
    if condition.learning_rate != reference.learning_rate:
        words.append(f"learning rate {condition.learning_rate:g}")
    if condition.horizon_weight != reference.horizon_weight:
        words.append(f"horizon-2 weight {condition.horizon_weight:g}")
    return ", ".join(words)


def curves(trained: Sequence[Run]) -> pd.DataFrame:
    """The measures on validation names during training.

    Returns:
        One row for each run and evaluation: the columns of `condition_of`, step, tokens, flops, seconds, the measures
        of `StoriesTask`, and `loss` (nats a token, next-token head).
    """
    rows = []
    for run in trained:
        config = run.config
        flops = flops_per_token(config.model, config.task.seq)
        for row in run.log():
            if "measures" in row:
                time = {"step": row["step"], "tokens": row["tokens"], "flops": flops * row["tokens"]}
                outcome = {"seconds": row["seconds"], "loss": row["validation"][0], **row["measures"]}
                rows.append(condition_of(config) | time | outcome)
    return pd.DataFrame(rows)


def reached(table: pd.DataFrame, threshold: float = 0.5, measure: str = "induction") -> pd.DataFrame:
    """When each run first reached a threshold: the columns of `condition_of`, step, tokens, flops, seconds, reached.

    A run that never does is censored: reached is False, and its row holds the end of its training.

    Args:
        table: as returned by `curves`.
    """
    columns = [*CONDITION_COLUMNS, "seed", "step", "tokens", "flops", "seconds", "reached"]
    runs = table.groupby([*CONDITION_COLUMNS, "seed"], sort=False)
    return pd.DataFrame([first_reached(run, measure, threshold) for _, run in runs])[columns]


def final(run: Run, split: Split, rows: int) -> dict[str, float]:
    """Measures of a trained model on the names of a split: those of `StoriesTask`, and

    probability    mean probability of the correct second piece, where an earlier mention has shown it
    nll            mean cross-entropy of these second pieces, in nats
    loss           mean cross-entropy of all tokens, in nats
    """
    batch = run.config.task.held_out(split, rows)
    predicted, nll = next_token_predictions(run.model(), batch)
    repeated = of_characters(batch, "induction")  # (rows, seq)
    return {
        **run.config.task.measures(batch, predicted, nll),
        "probability": float(np.exp(-nll[repeated]).mean()),
        "nll": float(nll[repeated].mean()),
        "loss": float(np.nanmean(nll)),
    }
