"""The polynomial study's measures: how often a model's answers are right, by number of operations, and why.

What is chosen is chosen on validation questions; the test questions are asked once, of trained models. Answers are
judged in one pass, which is what greedy decoding says (mtp_lab.evaluation.answers). Trainings of one seed see the same
data in the same order, so that cells can be compared seed by seed (mtp_lab.evaluation.statistics).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from data_gen import Batch
from data_gen.polynomials.expressions import OPERATIONS
from data_gen.polynomials.stream import HeldOut, Polynomials
from mtp_lab.config import TrainConfig
from mtp_lab.evaluation.answers import (
    answer_probability,
    exact_match,
    expected_pass_at_k,
    majority_baseline,
    questions,
    teacher_forced,
)
from mtp_lab.experiments import measures
from mtp_lab.experiments.polynomials.conditions import LABEL_WEIGHTS, MOST_OPERATIONS
from mtp_lab.interp.gradients import target_norms
from mtp_lab.model.predictions import tensors, token_nll
from mtp_lab.model.targets import token_weights
from mtp_lab.training.runs import Run

CONDITION = ["n", "trunk", "learns", "stopped", "pause", "fading"]
"""Columns that tell cells of trainings apart; see `polynomial_presets.PolynomialCondition`."""
ASKED = range(1, MOST_OPERATIONS + 1)
MODAL_SAMPLES = 20_000  # training questions behind the modal answer


def condition_of(config: TrainConfig) -> dict[str, object]:
    """The cell and the seed that a training belongs to."""
    model = config.model
    return {
        "n": model.n_future,
        "trunk": model.trunk_depth,
        "learns": next(name for name, weights in LABEL_WEIGHTS.items() if weights == config.label_weights),
        "stopped": bool(model.stop_gradient),
        "pause": config.task.stream.pause,
        "fading": config.horizon_weights[-1] ** (1 / max(1, model.n_future - 1)),
        "seed": config.seed,
    }


measure_runs = partial(measures.measure_runs, condition_of)
"""`cells.measure_runs` with this study's columns."""


def scores(run: Run, split: HeldOut = "test", items: int = 2000, operations: Sequence[int] = ASKED) -> pd.DataFrame:
    """Exact match on the fixed questions of a split, in percent of 1; dense ones, whatever the model has trained on.

    Returns:
        m, group, of, value, items: group "all" (of: ""); "root" (of: the operation that is done last); "degree" (of: a
        coefficient of the answer, given the ones before it), and "degree of *" where * is done last, or another.
    """
    stream, model, rows = replace(run.config.task.stream, zeros=0.0), run.model(), []
    for m in operations:
        documents = stream.held_out(split, m)[:items]
        judged = teacher_forced(model, documents)
        degrees = [f"X^{k}" for k in range(stream.d)[:: -1 if stream.high_first else 1]]
        root = documents.labels["root"][documents.ends - 1]
        rows.append((m, "all", "", judged.exact.mean(), len(judged.exact)))
        for number in np.unique(root).astype(int):
            mine = root == number
            rows.append((m, "root", OPERATIONS[number], judged.exact[mine].mean(), mine.sum()))
            group, right = f"degree of {OPERATIONS[number]}", judged.correct[mine].mean(axis=0)
            rows += [(m, group, name, share, mine.sum()) for name, share in zip(degrees, right, strict=True)]
        right = judged.correct.mean(axis=0)
        rows += [(m, "degree", name, share, len(documents)) for name, share in zip(degrees, right, strict=True)]
    return pd.DataFrame(rows, columns=["m", "group", "of", "value", "items"])


def baselines(stream: Polynomials, split: HeldOut, items: int, operations: Sequence[int] = ASKED) -> pd.DataFrame:
    """What needs no reading: m, value: how often the most frequent answer of m operations is right."""
    rng, rows = np.random.default_rng(0), []
    for m in operations:
        said = majority_baseline(stream.of(m).documents(MODAL_SAMPLES, rng))
        rows.append((m, exact_match(said, questions(stream.held_out(split, m)[:items])[1]).mean()))
    return pd.DataFrame(rows, columns=["m", "value"])


def samples(
    run: Run,
    temperatures: Sequence[float],
    ks: Sequence[int],
    operations: Sequence[int],
    split: HeldOut = "test",
    items: int = 500,
) -> pd.DataFrame:
    """Expected pass@k at each temperature, exact: m, temperature, k, value."""
    stream, model, rows = run.config.task.stream, run.model(), []
    for m in operations:
        chances = answer_probability(model, stream.held_out(split, m)[:items], temperatures)  # (temperatures, items)
        for temperature, p in zip(temperatures, chances, strict=True):
            rows += [(m, temperature, k, expected_pass_at_k(p, k).mean()) for k in ks]
    return pd.DataFrame(rows, columns=["m", "temperature", "k", "value"])


def loss_shares(run: Run, rows: int = 120) -> pd.DataFrame:
    """Which tokens the training loss is about, at the end of training, on validation questions.

    Returns:
        horizon, token ("answer", "operand", "operator", "the rest"), value (nats a target), targets (their share of the
        horizon's), share (of the whole training loss, over all horizons, with the weights it was trained with).
    """
    batch = run.config.task.held_out("validation", rows)
    return _shares(run.config, batch, token_nll(run.model(), batch), power=1)


def gradient_shares(run: Run, rows: int = 12) -> pd.DataFrame:
    """Which tokens pull at the trunk: as `loss_shares`, of the squared gradients of single targets at its output.

    Tokens that nothing predicts pull, too, in directions that cancel over a training; see `gradients.target_norms`.
    """
    batch = run.config.task.held_out("validation", rows)
    return _shares(run.config, batch, target_norms(run.model(), *tensors(batch)).numpy(), power=2)


def _shares(config: TrainConfig, batch: Batch, values: np.ndarray, power: int) -> pd.DataFrame:
    """Values of targets, (n_future, rows, seq), by class; weights count to a power."""
    labels = {name: batch.labels[name] for name in ("answer", "operand", "operator")}
    labels["the rest"] = ~np.logical_or.reduce(list(labels.values()))
    weights, table = token_weights(batch, config.label_weights).numpy(), []  # (rows, seq)
    for i, (each, horizon_weight) in enumerate(zip(values, config.horizon_weights, strict=True), start=1):
        told = ~np.isnan(each)
        parts = (horizon_weight * weights / weights[told].sum()) ** power * each
        for name, label in labels.items():
            mine = told & label
            table.append((i, name, each[mine].mean(), mine.sum() / told.sum(), parts[mine].sum()))
    table = pd.DataFrame(table, columns=["horizon", "token", "value", "targets", "share"])
    return table.assign(share=table.share / table.share.sum())
