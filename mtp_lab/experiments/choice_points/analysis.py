"""Measures of the choice-point study: how losses weigh tokens, in theory and in models, and whether models derail.

Exact numbers are those of an ideal predictor of the choice process. Trained models are measured on test rows, which are
not used for any selection, and by sampling: a continuation derails when a forced token does not follow from the choices
that the model itself has made.
"""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from data_gen.choice_process import ChoiceProcess
from mtp_lab.config import TrainConfig
from mtp_lab.decoding.generation import generate
from mtp_lab.experiments import measures
from mtp_lab.experiments.choice_points.conditions import CHOICE, ChoiceCondition
from mtp_lab.interp.gradients import class_shares, target_norms
from mtp_lab.model.predictions import next_token_predictions, tensors, token_nll
from mtp_lab.theory.implicit_weights import by_class, exact_nll, implicit_weights, interior, owners
from mtp_lab.training.runs import Run

CONDITION_COLUMNS = ["n", "choice_weight", "masked"]
"""Columns that identify a condition; see `conditions.ChoiceCondition`."""


def condition_of(config: TrainConfig) -> dict[str, object]:
    """The columns of a run's condition, its label, and its seed."""
    condition = ChoiceCondition(
        n=config.model.n_future,
        choice_weight=dict(config.label_weights).get(CHOICE, 1.0),
        masked=config.mask_unread_causes,
    )
    return {**vars(condition), "label": label(condition), "seed": config.seed}


def label(condition: Any) -> str:
    """Label of a condition, such as "n = 2, masked targets"; fields with default values are left out.

    Args:
        condition: a `ChoiceCondition`, or a row with its fields as attributes.
    """
    words = [f"n = {condition.n}"]
    if condition.choice_weight != 1:
        words.append(f"choices ×{condition.choice_weight:g}")
    if condition.masked:
        words.append("masked targets")
    return ", ".join(words)


def _columns(config: TrainConfig) -> dict[str, object]:
    """`condition_of` with n as n_future, because tables of implicit weights have their own n: the loss's."""
    condition = condition_of(config)
    return {"n_future": condition.pop("n"), **condition}


measure_runs = partial(measures.measure_runs, _columns)
"""`measures.measure_runs` with the columns of this study."""


# --- implicit weights, exactly


def classes_of(labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Masks of tokens by class, (rows, seq) bool each: consequential and inconsequential choices, forced tokens."""
    return {
        "consequential": labels[CHOICE],
        "inconsequential": labels["choice"] & ~labels[CHOICE],
        "forced": labels["forced"],
    }


def exact_weights(process: ChoiceProcess, n: int, seq: int) -> pd.DataFrame:
    """`implicit_weights.by_class` of an ideal predictor: losses of 1..n tokens, classes that the process has."""
    nll = exact_nll(process, n, seq)  # (n, 1, seq)
    return _by_class(nll, process.sample(1, seq, np.random.default_rng(0)).labels)


def emphasis(process: ChoiceProcess, n: int, choice_weight: float, masked: bool = False, seq: int = 128) -> float:
    """The weight of consequential choices relative to inconsequential ones in an n-token loss, for an ideal predictor.

    Args:
        choice_weight: weight of consequential choices as targets, at every horizon; other targets have weight 1.
        masked: whether targets are masked whose cause the head has not read.

    Returns:
        Implicit weight of a consequential choice over n times its entropy: at most choice_weight + (n - 1)/2, so at
        most (n + 1)/2 for a choice_weight of 1. With masked targets it is the choice_weight.
    """
    nll = exact_nll(process, n, seq)  # (n, 1, seq)
    labels = process.sample(1, seq, np.random.default_rng(0)).labels
    target_weights = np.where(labels[CHOICE], choice_weight, 1.0)  # (1, seq)
    if masked:
        target_weights = target_weights * (owners(labels["cause"][0], n)[:, None] == np.arange(seq))  # (n, 1, seq)
    choices = labels[CHOICE] & interior(nll)
    return float(implicit_weights(nll * target_weights)[-1, choices].mean() / (n * nll[0, choices].mean()))


def by_phase(values: np.ndarray, process: ChoiceProcess) -> np.ndarray:
    """Means of (rows, seq) values by phase in the process's cycle: (cycle,). Phase 0 is its first kind of choice.

    The cycle is the period times the number of relevances. NaN values are ignored.
    """
    cycle = process.period * len(process.relevance)
    phase = (np.arange(values.shape[1]) - 1) % cycle  # (seq,)
    return np.array([np.nanmean(values[:, phase == k]) for k in range(cycle)])


# --- implicit weights of trained models


def trained_weights(run: Run, rows: int) -> pd.DataFrame:
    """`implicit_weights.by_class` of a model's own losses on test rows: class, n, tokens, weight, relative."""
    batch = run.config.task.held_out("test", rows)
    return _by_class(token_nll(run.model(), batch), batch.labels)


def gradient_shares(run: Run, rows: int) -> pd.DataFrame:
    """Shares of the squared gradient at the trunk's output by class, on test rows; see `gradients.class_shares`."""
    batch = run.config.task.held_out("test", rows)
    return class_shares(target_norms(run.model(), *tensors(batch)), classes_of(batch.labels))


def _by_class(nll: np.ndarray, labels: dict[str, np.ndarray]) -> pd.DataFrame:
    inside = interior(nll)
    masks = {name: mask & inside for name, mask in classes_of(labels).items()}
    return by_class(implicit_weights(nll), {name: mask for name, mask in masks.items() if mask.any()})


# --- outcomes of trained models


def scores(run: Run, rows: int) -> pd.DataFrame:
    """Measures of the next-token head on test rows.

    Returns:
        measure, subset, value. The measures and their subsets:
        "excess"    loss above the optimum, in nats: "consequential" and "inconsequential" choices
        "accuracy"  "forced" tokens, forced tokens "after a choice", and each distance to their latest cause ("1", ...)
    """
    batch = run.config.task.held_out("test", rows)
    predicted, nll = next_token_predictions(run.model(), batch)  # (rows, seq) each
    labels, correct = batch.labels, predicted == batch.tokens
    excess = nll + np.log(labels["probability"])
    masks = classes_of(labels)
    forced, cause = masks["forced"], labels["cause"]
    after_choice = forced & np.roll(labels["choice"], 1, axis=1)  # no row starts with a forced token
    table = [("excess", name, excess[masks[name]].mean()) for name in ("consequential", "inconsequential")]
    table += [
        ("accuracy", "forced", correct[forced].mean()),
        ("accuracy", "after a choice", correct[after_choice].mean()),
    ]
    distances = np.unique(cause[forced & (cause > 0)]).astype(int)
    table += [("accuracy", str(distance), correct[forced & (cause == distance)].mean()) for distance in distances]
    return pd.DataFrame(table, columns=["measure", "subset", "value"])


def follows(tokens: np.ndarray, process: ChoiceProcess) -> np.ndarray:
    """Which tokens of documents obey the process, for documents of any source.

    The first token must be the opening token. Where a choice is due, any choice is correct. A forced token must be the
    sum of the choices that are relevant to it *in this document*. If one of these is not a choice, no forced token is
    correct.

    Args:
        tokens: (rows, seq) documents from their first token on.

    Returns:
        (rows, seq) bool.

    Raises:
        ValueError: for tokens that are not two-dimensional.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 2:
        raise ValueError(f"tokens must be (rows, seq), got shape {tokens.shape}; for one document use tokens[None]")
    n_choices, position = process.n_choices, np.arange(tokens.shape[1])
    choice_positions = position[1 :: process.period]  # (choices,)
    distance = position - choice_positions[:, None]  # (choices, seq)
    reach = np.resize(process.relevance, len(choice_positions))[:, None]  # (choices, 1)
    is_forced = distance % process.period > 0
    relevant = ((distance > 0) & (distance <= reach) & is_forced).astype(int)
    choices = tokens[:, choice_positions]  # (rows, choices)
    valid = (choices >= 0) & (choices < n_choices)
    expected = n_choices + choices @ relevant % n_choices  # (rows, seq) forced tokens
    obeys = (tokens == expected) & (~valid @ relevant == 0)
    obeys[:, choice_positions] = valid
    obeys[:, :1] = tokens[:, :1] == 2 * n_choices
    return obeys


def continuations(run: Run, prompts: int, temperature: float = 1.0) -> pd.DataFrame:
    """Samples continuations of test rows with the next-token head, and checks which tokens obey the process.

    The prompt is a quarter of a row, in whole cycles. The continuation has whole cycles, too.

    Args:
        prompts: number of test rows.

    Returns:
        One row for each position after the prompt: ahead (1, 2, ...), forced (bool: whether a forced token is due),
        follows (share of continuations whose token obeys the process), unbroken (share without an error so far).
    """
    process, seq = run.config.task.stream, run.config.task.seq
    cycle = process.period * len(process.relevance)
    start = 1 + max(1, seq // 4 // cycle) * cycle
    new = (seq - start) // cycle * cycle
    batch = run.config.task.held_out("test", prompts)
    generator = torch.Generator().manual_seed(run.config.seed)
    prompt = batch.tokens[:, :start]
    sampled = generate(run.model(), prompt.tolist(), new, draft=1, temperature=temperature, generator=generator).tokens
    obeys = follows(np.concatenate([prompt, sampled.numpy()], axis=1), process)[:, start:]  # (prompts, new)
    return pd.DataFrame(
        {
            "ahead": np.arange(1, new + 1),
            "forced": batch.labels["forced"][0, start : start + new],
            "follows": obeys.mean(axis=0),
            "unbroken": np.logical_and.accumulate(obeys, axis=1).mean(axis=0),
        }
    )
