"""Measures of the star-graph study: whether a model plans the first step, and which tokens it attends to.

A model either guesses among the arms, or takes the correct one nearly always. So a condition is summarised by the share
of its seeds that succeed, with an exact interval (statistics.success_rate), not by a mean. Success is measured on test
graphs, and the step at which it is reached on validation graphs.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from data_gen import Batch
from data_gen.star_graph import StarGraphs
from mtp_lab.config import TrainConfig
from mtp_lab.evaluation import statistics
from mtp_lab.experiments import measures
from mtp_lab.interp.hooks import attention_layers
from mtp_lab.interp.pairs.star_graphs import on_edge
from mtp_lab.model.predictions import next_token_predictions, target_tokens, tensors
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.training.runs import Run

CONDITION_COLUMNS = ["n", "head_kind", "variant", "stop_gradient", "trunk"]
"""Columns that identify a condition; see `conditions.StarCondition`. Trunk is the number of its layers."""
SUCCESS = 0.9
"""Accuracy of the first step from which a run counts as a success. Guessing has an accuracy of 1 / degree."""


def condition_of(config: TrainConfig) -> dict[str, object]:
    """The columns of a run's condition, and its seed."""
    model = config.model
    return {
        "n": model.n_future,
        "head_kind": model.head_kind,
        "variant": config.task.stream.variant,
        "stop_gradient": bool(model.stop_gradient),
        "trunk": model.trunk_depth,
        "seed": config.seed,
    }


def label(condition: Any, reference: Any) -> str:
    """Label of a condition, such as "n = 2, causal"; default values and the reference's trunk are left out.

    Args:
        condition, reference: rows with the columns of `condition_of` as attributes.
    """
    words = [f"n = {condition.n}"]
    if condition.head_kind != "parallel":
        words.append(condition.head_kind)
    if condition.stop_gradient:
        words.append("stop-gradient heads")
    if condition.trunk != reference.trunk:
        words.append(f"trunk of {condition.trunk}")
    if condition.variant != "forward":
        words.append(condition.variant)
    return ", ".join(words)


measure_runs = partial(measures.measure_runs, condition_of)
"""`measures.measure_runs` with the columns of this study."""


def success_measure(config: TrainConfig) -> str:
    """The logged measure of success: "choice", the first step, or the whole "path" if the answer is reversed."""
    return "path" if config.task.stream.variant == "reversed" else "choice"


def curve(run: Run) -> pd.DataFrame:
    """Measures on validation graphs during training: step, tokens, value (`success_measure`), path, loss (nats)."""
    measure = success_measure(run.config)
    rows = [
        (row["step"], row["tokens"], row["measures"][measure], row["measures"]["path"], row["validation"][0])
        for row in run.log()
        if "measures" in row
    ]
    return pd.DataFrame(rows, columns=["step", "tokens", "value", "path", "loss"])


def reached(run: Run, threshold: float = SUCCESS) -> pd.DataFrame:
    """When a run first reached the threshold on validation graphs: one row, step, tokens, reached (`first_reached`)."""
    return pd.DataFrame([statistics.first_reached(curve(run), "value", threshold)])[["step", "tokens", "reached"]]


def final(run: Run, rows: int) -> pd.DataFrame:
    """Accuracy of the next-token head on test graphs, teacher-forced (teacherless: without the answer as input).

    Returns:
        measure, value: "planned" (`success_measure`), "path" (the whole answer), and "node 0", "node 1", ... of the
        answer, in its order.
    """
    batch = _graphs(run, rows)
    stream, (predicted, _) = run.config.task.stream, next_token_predictions(run.model(), batch)
    correct = (predicted == batch.target_tokens)[:, stream.answer_start :]  # (rows, length)
    whole_path = correct.all(axis=1).mean()
    table = [("planned", whole_path if stream.variant == "reversed" else correct[:, 1].mean()), ("path", whole_path)]
    table += [(f"node {k}", correct[:, k].mean()) for k in range(stream.length)]
    return pd.DataFrame(table, columns=["measure", "value"])


@torch.no_grad()
def node_accuracy(run: Run, rows: int) -> pd.DataFrame:
    """Accuracy of each prediction head for each node of the answer, on test graphs.

    Returns:
        query ("goal", "=", "node 0", ...: the token after which the head predicts), horizon, node (the place in the
        answer of the token that it predicts), value.
    """
    batch, model, stream = _graphs(run, rows), run.model(), run.config.task.stream
    tokens, documents = tensors(batch)
    targets = target_tokens(batch)  # (rows, seq)
    predicted = torch.stack([logits.argmax(-1) for logits in model.all_logits(tokens, documents)])  # (n, rows, seq)
    queries = {"goal": stream.answer_start - 2, "=": stream.answer_start - 1}
    queries |= {f"node {k}": stream.answer_start + k for k in range(stream.length - 1)}
    table = []
    for query, position in queries.items():
        for horizon, predictions in enumerate(predicted, start=1):
            node = position + horizon - stream.answer_start
            if 0 <= node < stream.length:
                correct = predictions[:, position] == targets[:, position + horizon]
                table.append((query, horizon, node, correct.double().mean().item()))
    return pd.DataFrame(table, columns=["query", "horizon", "node", "value"])


def attention_from_answer(run: Run, rows: int) -> pd.DataFrame:
    """Where each attention head attends to from the answer's first token, which is the query of the first step.

    Returns:
        layer, head, attends_to, value (mean attention). attends_to is the "edge to node k" of the path (parent and
        child), "other edges", "goal", "=", or "itself". The remaining attention is on separators and on the start.
    """
    batch, stream = _graphs(run, rows), run.config.task.stream
    groups, table = _groups(stream, batch), []
    patterns = _patterns(run.model(), batch, stream.answer_start)
    for layer, pattern in patterns.items():  # (rows, heads, keys)
        for name, mask in groups.items():
            means = (pattern * torch.from_numpy(mask)[:, None]).sum(dim=-1).mean(dim=0)
            table += [(layer, head, name, value) for head, value in enumerate(means.tolist())]
    return pd.DataFrame(table, columns=["layer", "head", "attends_to", "value"])


def _graphs(run: Run, rows: int) -> Batch:
    """Test graphs, one a row."""
    task = run.config.task
    return replace(task, seq=task.stream.seq).held_out("test", rows)


def _groups(stream: StarGraphs, batch: Batch) -> dict[str, np.ndarray]:
    """Masks of the parts of a graph, (rows, seq) bool each, for documents that fill a row."""
    position, start = np.arange(batch.seq), stream.answer_start
    path = batch.target_tokens[:, start:]  # (rows, length)
    groups = {f"edge to node {k}": on_edge(stream, batch.tokens, path[:, k]) for k in range(1, stream.length)}
    on_path = np.logical_or.reduce(list(groups.values()))
    groups["other edges"] = (position < 3 * stream.n_edges) & (position % 3 < 2) & ~on_path
    for name, at in (("goal", start - 2), ("=", start - 1), ("itself", start)):
        groups[name] = np.tile(position == at, (batch.rows, 1))
    return groups


@torch.no_grad()
def _patterns(model: MTPTransformer, batch: Batch, query: int) -> dict[str, torch.Tensor]:
    """Attention from one position, (rows, heads, keys), by layer, on the path of the next-token head."""
    tokens, documents = tensors(batch)
    _, cache = model.run_with_cache(tokens, documents, names_filter=lambda name: name.endswith("hook_pattern"))
    return {layer: cache[f"{layer}.attn.hook_pattern"][:, :, query] for layer in attention_layers(model, 1)}
