"""Measures of the polynomial study: the accuracy of answers by number of operations, and what the loss is about.

All selection uses validation questions. Test questions are used once, for trained models. Answers are teacher-forced,
which gives the exact match of greedy decoding (mtp_lab.evaluation.answers). Runs of one seed see the same data in the
same order, so conditions are compared seed by seed (mtp_lab.evaluation.statistics).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

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

CONDITION_COLUMNS = ["n", "trunk", "loss_on", "stop_gradient", "pause", "horizon_decay"]
"""Columns that identify a condition; see `conditions.PolynomialCondition`."""
TEST_OPERATIONS = range(1, MOST_OPERATIONS + 1)
BASELINE_SAMPLES = 20_000  # training questions from which the majority baseline is computed


def condition_of(config: TrainConfig) -> dict[str, object]:
    """The columns of a run's condition, and its seed."""
    model = config.model
    return {
        "n": model.n_future,
        "trunk": model.trunk_depth,
        "loss_on": next(name for name, weights in LABEL_WEIGHTS.items() if weights == config.label_weights),
        "stop_gradient": bool(model.stop_gradient),
        "pause": config.task.stream.pause,
        "horizon_decay": config.horizon_weights[-1] ** (1 / max(1, model.n_future - 1)),
        "seed": config.seed,
    }


def label(condition: Any) -> str:
    """Label of a condition, such as "n = 2, trunk 4, answers only"; fields with default values are left out.

    Args:
        condition: a `PolynomialCondition`, or a row with its fields as attributes.
    """
    words = [f"n = {condition.n}, trunk {condition.trunk}"]
    if condition.loss_on != "all tokens":
        words.append("answers only" if condition.loss_on == "answers" else condition.loss_on.replace("x", "×"))
    if condition.stop_gradient:
        words.append("stop-gradient heads")
    if condition.pause:
        words.append(f"{condition.pause} pauses")
    if condition.horizon_decay != 1:
        words.append(f"horizon weights ×{condition.horizon_decay:g}")
    return ", ".join(words)


measure_runs = partial(measures.measure_runs, condition_of)
"""`measures.measure_runs` with the columns of this study."""


def scores(
    run: Run, split: HeldOut = "test", items: int = 2000, operations: Sequence[int] = TEST_OPERATIONS
) -> pd.DataFrame:
    """Accuracy on the fixed questions of a split, as shares. These questions are dense for every training stream.

    Returns:
        m, group, subset, value, items. The groups and their subsets:
        "all"          exact match of all questions (subset "")
        "root"         exact match by the operation that is done last
        "degree"       accuracy of each coefficient of the answer ("X^0", ...), given the ones before it
        "degree of *"  the same, of questions in which * is done last; likewise for the other operations
    """
    stream, model, rows = replace(run.config.task.stream, zeros=0.0), run.model(), []
    for m in operations:
        documents = stream.held_out(split, m)[:items]
        forced = teacher_forced(model, documents)
        degrees = [f"X^{k}" for k in range(stream.d)[:: -1 if stream.high_first else 1]]
        root = documents.labels["root"][documents.ends - 1]
        rows.append((m, "all", "", forced.exact.mean(), len(forced.exact)))
        for number in np.unique(root).astype(int):
            operation, of_root = OPERATIONS[number], root == number
            rows.append((m, "root", operation, forced.exact[of_root].mean(), of_root.sum()))
            accuracy = forced.correct[of_root].mean(axis=0)
            rows += [
                (m, f"degree of {operation}", name, value, of_root.sum())
                for name, value in zip(degrees, accuracy, strict=True)
            ]
        accuracy = forced.correct.mean(axis=0)
        rows += [(m, "degree", name, value, len(documents)) for name, value in zip(degrees, accuracy, strict=True)]
    return pd.DataFrame(rows, columns=["m", "group", "subset", "value", "items"])


def baselines(
    stream: Polynomials, split: HeldOut, items: int, operations: Sequence[int] = TEST_OPERATIONS
) -> pd.DataFrame:
    """Accuracy of the majority baseline: m, value. It gives the most frequent training answer of m operations."""
    rng, rows = np.random.default_rng(0), []
    for m in operations:
        answer = majority_baseline(stream.of(m).documents(BASELINE_SAMPLES, rng))
        rows.append((m, exact_match(answer, questions(stream.held_out(split, m)[:items])[1]).mean()))
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
        probabilities = answer_probability(model, stream.held_out(split, m)[:items], temperatures)
        for temperature, p in zip(temperatures, probabilities, strict=True):  # p: (items,)
            rows += [(m, temperature, k, expected_pass_at_k(p, k).mean()) for k in ks]
    return pd.DataFrame(rows, columns=["m", "temperature", "k", "value"])


def loss_shares(run: Run, rows: int = 120) -> pd.DataFrame:
    """Shares of the training loss by class of token, at the end of training, on validation questions.

    Returns:
        horizon, token ("answer", "operand", "operator", "the rest"), value (mean loss of a target, in nats), targets
        (share of the horizon's targets), share (of the whole training loss, over all horizons, with the weights of
        training).
    """
    batch = run.config.task.held_out("validation", rows)
    return _shares(run.config, batch, token_nll(run.model(), batch), power=1)


def gradient_shares(run: Run, rows: int = 12) -> pd.DataFrame:
    """As `loss_shares`, but shares of the squared gradients of single targets at the trunk's output.

    Unpredictable tokens have gradients, too, but these cancel over a training; see `gradients.target_norms`.
    """
    batch = run.config.task.held_out("validation", rows)
    return _shares(run.config, batch, target_norms(run.model(), *tensors(batch)).numpy(), power=2)


def _shares(config: TrainConfig, batch: Batch, values: np.ndarray, power: int) -> pd.DataFrame:
    """Shares of `values` of targets, (n_future, rows, seq), by class of token. Weights enter with the given power."""
    classes = {name: batch.labels[name] for name in ("answer", "operand", "operator")}
    classes["the rest"] = ~np.logical_or.reduce(list(classes.values()))
    weights, rows = token_weights(batch, config.label_weights).numpy(), []  # (rows, seq)
    for horizon, (of_targets, horizon_weight) in enumerate(zip(values, config.horizon_weights, strict=True), start=1):
        has_target = ~np.isnan(of_targets)
        weighted = (horizon_weight * weights / weights[has_target].sum()) ** power * of_targets
        for name, in_class in classes.items():
            chosen = has_target & in_class
            share_of_targets = chosen.sum() / has_target.sum()
            rows.append((horizon, name, of_targets[chosen].mean(), share_of_targets, weighted[chosen].sum()))
    table = pd.DataFrame(rows, columns=["horizon", "token", "value", "targets", "share"])
    return table.assign(share=table.share / table.share.sum())
