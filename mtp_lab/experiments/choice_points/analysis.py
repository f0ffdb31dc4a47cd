"""The choice-point study's measures: what a loss weighs, exactly and in trained models, and whether models derail.

Exact numbers are those of an ideal predictor of the choice process. Models are asked on test rows, on which nothing is
chosen, and by sampling: whether forced tokens of a continuation follow from the choices that the model made itself.
"""

from functools import partial

import numpy as np
import pandas as pd
import torch

from data_gen.choice_process import ChoiceProcess
from mtp_lab.config import TrainConfig
from mtp_lab.decoding.generation import generate
from mtp_lab.experiments import measures
from mtp_lab.experiments.choice_points.conditions import CHOICE
from mtp_lab.interp.gradients import class_shares, target_norms
from mtp_lab.model.predictions import next_token_predictions, tensors, token_nll
from mtp_lab.theory.implicit_weights import by_class, exact_nll, implicit_weights, owners, whole
from mtp_lab.training.runs import Run

CONDITION = ["n", "weight", "cancelled"]
"""Columns that tell cells of trainings apart; see `choice_presets.ChoiceCondition`."""


def condition_of(config: TrainConfig) -> dict[str, object]:
    """The cell and the seed that a training belongs to, and the cell in words (label)."""
    n, weight = config.model.n_future, dict(config.label_weights).get(CHOICE, 1.0)
    label = f"n = {n}" + (f", choices ×{weight:g}" if weight != 1 else "") + ", cancelled" * config.mask_unread_causes
    return {"n": n, "weight": weight, "cancelled": config.mask_unread_causes, "label": label, "seed": config.seed}


def _columns(config: TrainConfig) -> dict[str, object]:
    """`condition_of` with n as n_future: measures have an n of their own, that of the loss whose weights they tell."""
    condition = condition_of(config)
    return {"n_future": condition.pop("n"), **condition}


measure_runs = partial(measures.measure_runs, _columns)
"""`cells.measure_runs` with this study's columns."""


# --- what losses weigh, exactly


def classes_of(labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The process' tokens by class, (rows, seq) bool each: consequential and inconsequential choices, forced tokens."""
    choice = labels["choice"]
    return {
        "consequential": labels[CHOICE],
        "inconsequential": choice & ~labels[CHOICE],
        "forced": labels["forced"],
    }


def exact_weights(process: ChoiceProcess, n: int, seq: int) -> pd.DataFrame:
    """`choice_points.by_class` of an ideal predictor, losses of 1..n tokens, for the classes that the process has."""
    nll = exact_nll(process, n, seq)  # (n, 1, seq)
    return _by_class(nll, process.sample(1, seq, np.random.default_rng(0)).labels)


def emphasis(process: ChoiceProcess, n: int, weight: float, cancelled: bool = False, seq: int = 128) -> float:
    """How much more an n-token loss weighs consequential choices than inconsequential ones, for an ideal predictor.

    Args:
        weight: of consequential choices as targets, at every horizon; other targets count 1.
        cancelled: whether targets are left out where their cause has not been read.

    Returns:
        Implicit weight of a consequential choice over n times its entropy: weight + (n - 1)/2 at most, so (n + 1)/2 at
        most for weight 1; cancelled, it is the weight.
    """
    nll = exact_nll(process, n, seq)  # (n, 1, seq)
    labels = process.sample(1, seq, np.random.default_rng(0)).labels
    of_target = np.where(labels[CHOICE], weight, 1.0)  # (1, seq)
    if cancelled:
        of_target = of_target * (owners(labels["cause"][0], n)[:, None] == np.arange(seq))  # (n, 1, seq)
    mine = labels[CHOICE] & whole(nll)
    return float(implicit_weights(nll * of_target)[-1, mine].mean() / (n * nll[0, mine].mean()))


def by_phase(values: np.ndarray, process: ChoiceProcess) -> np.ndarray:
    """(cycle,) means of (rows, seq) values by place in the process' cycle; place 0: its first kind of choice.

    The cycle is the period times the number of relevances. What is nan is left out.
    """
    cycle = process.period * len(process.relevance)
    place = (np.arange(values.shape[1]) - 1) % cycle  # (seq,)
    return np.array([np.nanmean(values[:, place == k]) for k in range(cycle)])


# --- what trained models weigh


def trained_weights(run: Run, rows: int) -> pd.DataFrame:
    """`choice_points.by_class` of a model's own nats on test rows: class, n, tokens, weight, relative."""
    batch = run.config.task.held_out("test", rows)
    return _by_class(token_nll(run.model(), batch), batch.labels)


def pulls(run: Run, rows: int) -> pd.DataFrame:
    """Shares of the squared gradient at the trunk's output by class: see `gradients.class_shares`."""
    batch = run.config.task.held_out("test", rows)
    return class_shares(target_norms(run.model(), *tensors(batch)), classes_of(batch.labels))


def _by_class(nll: np.ndarray, labels: dict[str, np.ndarray]) -> pd.DataFrame:
    inside = whole(nll)
    members = {name: mask & inside for name, mask in classes_of(labels).items()}
    return by_class(implicit_weights(nll), {name: mask for name, mask in members.items() if mask.any()})


# --- how good models are


def scores(run: Run, rows: int) -> pd.DataFrame:
    """The next-token head on test rows.

    Returns:
        measure, of, value: "excess" (nats above the optimum) of "consequential" and "inconsequential" choices; "right"
        (accuracy) of "forced" tokens, of those "after a choice", and of each distance to their latest cause, as text.
    """
    batch = run.config.task.held_out("test", rows)
    predicted, nll = next_token_predictions(run.model(), batch)  # (rows, seq) twice
    labels, right = batch.labels, predicted == batch.tokens
    above = nll + np.log(labels["probability"])
    groups = classes_of(labels)
    forced = groups["forced"]
    table = [("excess", name, above[groups[name]].mean()) for name in ("consequential", "inconsequential")]
    after = forced & np.roll(labels["choice"], 1, axis=1)  # the first token is no choice, so nothing wraps around
    table += [("right", "forced", right[forced].mean()), ("right", "after a choice", right[after].mean())]
    cause = labels["cause"]
    distances = np.unique(cause[forced & (cause > 0)]).astype(int)
    table += [("right", str(d), right[forced & (cause == d)].mean()) for d in distances]
    return pd.DataFrame(table, columns=["measure", "of", "value"])


def follows(tokens: np.ndarray, process: ChoiceProcess) -> np.ndarray:
    """Which tokens of documents obey the process, whoever wrote them.

    The first must be the opening token; where a choice is due, any choice does; a forced token must be the sum of the
    choices relevant to it *that stand in this document*. Where one of these is no choice, nothing follows from it.

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
    k, at = process.n_choices, np.arange(tokens.shape[1])
    places = at[1 :: process.period]  # (choices,) where a choice is due
    after = at - places[:, None]  # (choices, seq)
    reach = np.resize(process.relevance, len(places))[:, None]  # (choices, 1)
    relevant = ((after > 0) & (after <= reach) & (after % process.period > 0)).astype(int)
    made = tokens[:, places]  # (rows, choices)
    is_choice = (made >= 0) & (made < k)
    obeys = (tokens == k + made @ relevant % k) & (~is_choice @ relevant == 0)  # (rows, seq) as forced tokens
    obeys[:, places] = is_choice
    obeys[:, :1] = tokens[:, :1] == 2 * k
    return obeys


def continuations(run: Run, prompts: int, temperature: float = 1.0) -> pd.DataFrame:
    """Samples a continuation of each of the first test rows, with the next-token head, and holds it to the rule.

    A quarter of a row is read, in whole cycles; what follows, in whole cycles, too, is the model's.

    Returns:
        A row for each place behind the prompt: ahead (1, 2, ...), forced (bool: a forced token is due), follows (share
        of continuations whose token there obeys the process), unbroken (share without an error so far).
    """
    process, seq = run.config.task.stream, run.config.task.seq
    cycle = process.period * len(process.relevance)
    start = 1 + max(1, seq // 4 // cycle) * cycle
    new = (seq - start) // cycle * cycle
    batch = run.config.task.held_out("test", prompts)
    generator = torch.Generator().manual_seed(run.config.seed)
    prompt = batch.tokens[:, :start]
    made = generate(run.model(), prompt.tolist(), new, draft=1, temperature=temperature, generator=generator).tokens
    obeys = follows(np.concatenate([prompt, made.numpy()], axis=1), process)[:, start:]  # (prompts, new)
    return pd.DataFrame(
        {
            "ahead": np.arange(1, new + 1),
            "forced": batch.labels["forced"][0, start : start + new],
            "follows": obeys.mean(axis=0),
            "unbroken": np.logical_and.accumulate(obeys, axis=1).mean(axis=0),
        }
    )
