"""The star-graph study's measures: whether a model plans the one step that has to be planned, and by looking where.

Outcomes are bistable: a model guesses among the arms, or goes the right way nearly always. A cell of trainings is
summed up by how many of its seeds succeed (induction.share, with an exact interval), not by a mean. Success is judged
on test graphs, and when it came about on validation graphs.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from data_gen import Batch
from data_gen.star_graph import StarGraphs
from mtp_lab.config import TrainConfig
from mtp_lab.evaluation import statistics
from mtp_lab.experiments import measures
from mtp_lab.interp.pairs.star_graphs import on_edge
from mtp_lab.interp.patching import attentive
from mtp_lab.model.predictions import next_token_predictions, target_tokens, tensors
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.training.runs import Run

CONDITION = ["n", "heads", "variant", "stopped", "trunk"]
"""Columns that tell cells of trainings apart; see `star_presets.StarCondition`."""
SUCCESS = 0.9
"""Share of first steps right from which a model is said to plan; guessing is right once in `degree` times."""


def condition_of(config: TrainConfig) -> dict[str, object]:
    """The cell and the seed that a training belongs to."""
    model = config.model
    return {
        "n": model.n_future,
        "heads": model.head_kind,
        "variant": config.task.stream.variant,
        "stopped": bool(model.stop_gradient),
        "trunk": model.trunk_depth,
        "seed": config.seed,
    }


def labels(conditions: pd.DataFrame) -> pd.Series:
    """Cells in words, for rows of `condition_of`; what is as in the first row, or as usual, is not said."""

    def words(condition: pd.Series) -> str:
        said = [f"n = {condition.n}"]
        said += [condition.heads] if condition.heads != "parallel" else []
        said += ["heads stopped"] if condition.stopped else []
        said += [f"trunk of {condition.trunk}"] if condition.trunk != conditions.trunk.iloc[0] else []
        return ", ".join(said + ([condition.variant] if condition.variant != "forward" else []))

    return conditions.apply(words, axis=1)


measure_runs = partial(measures.measure_runs, condition_of)
"""`cells.measure_runs` with this study's columns."""


def planned(config: TrainConfig) -> str:
    """The measure by which success is judged: the first step, or the whole path where no step is a guess (reversed)."""
    return "path" if config.task.stream.variant == "reversed" else "choice"


def curve(run: Run) -> pd.DataFrame:
    """What was measured on validation graphs during training: step, tokens, value (`planned`), path, loss (nats)."""
    measure = planned(run.config)
    rows = [row for row in run.log() if "measures" in row]
    told = [(r["step"], r["tokens"], r["measures"][measure], r["measures"]["path"], r["validation"][0]) for r in rows]
    return pd.DataFrame(told, columns=["step", "tokens", "value", "path", "loss"])


def reached(run: Run, threshold: float = SUCCESS) -> pd.DataFrame:
    """When a training first got there on validation graphs: one row, step, tokens, reached (`cells.first_reached`)."""
    return pd.DataFrame([statistics.first_reached(curve(run), "value", threshold)])[["step", "tokens", "reached"]]


def final(run: Run, rows: int) -> pd.DataFrame:
    """The next-token head on test graphs, each token of the answer given the ones before it (teacherless: none).

    Returns:
        of, value: "planned" (see there), "path" (all of it), and "node 0", "node 1", ... of the answer, in its order.
    """
    batch = _graphs(run, rows)
    stream, (predicted, _) = run.config.task.stream, next_token_predictions(run.model(), batch)
    right = (predicted == batch.target_tokens)[:, stream.answer_start :]  # (rows, length)
    table = [("planned", right.all(axis=1).mean() if stream.variant == "reversed" else right[:, 1].mean())]
    table += [("path", right.all(axis=1).mean())]
    table += [(f"node {k}", right[:, k].mean()) for k in range(stream.length)]
    return pd.DataFrame(table, columns=["of", "value"])


@torch.no_grad()
def known(run: Run, rows: int) -> pd.DataFrame:
    """How often each head is right about each node of the answer, on test graphs.

    Returns:
        asked ("goal", "=", "node 0", ...: the token behind which it is asked), horizon, node (the place in the answer
        of the token it is asked for), value.
    """
    batch, model, stream = _graphs(run, rows), run.model(), run.config.task.stream
    tokens, documents = tensors(batch)
    said = target_tokens(batch)  # (rows, seq)
    predicted = torch.stack([logits.argmax(-1) for logits in model.all_logits(tokens, documents)])  # (n, rows, seq)
    places = {"goal": stream.answer_start - 2, "=": stream.answer_start - 1}
    places |= {f"node {k}": stream.answer_start + k for k in range(stream.length - 1)}
    table = []
    for asked, at in places.items():
        for i, heads in enumerate(predicted, start=1):
            node = at + i - stream.answer_start
            if 0 <= node < stream.length:
                table.append((asked, i, node, (heads[:, at] == said[:, at + i]).double().mean().item()))
    return pd.DataFrame(table, columns=["asked", "horizon", "node", "value"])


def looks(run: Run, rows: int) -> pd.DataFrame:
    """What each attention head looks at, from the answer's first token, when the first step is to be said.

    Returns:
        layer, head, at, value (mean attention): at is the "edge to node k" of the path (parent and child), "other
        edges", "goal", "=", or "itself"; what is missing to 1 goes to separators and to the start.
    """
    batch, stream = _graphs(run, rows), run.config.task.stream
    groups, table = _groups(stream, batch), []
    patterns = _patterns(run.model(), batch, stream.answer_start)
    for layer, pattern in patterns.items():  # (rows, heads, keys)
        for at, where in groups.items():
            means = (pattern * torch.from_numpy(where)[:, None]).sum(dim=-1).mean(dim=0)
            table += [(layer, head, at, value) for head, value in enumerate(means.tolist())]
    return pd.DataFrame(table, columns=["layer", "head", "at", "value"])


def _graphs(run: Run, rows: int) -> Batch:
    """Test graphs, one a row."""
    task = run.config.task
    return replace(task, seq=task.stream.seq).held_out("test", rows)


def _groups(stream: StarGraphs, batch: Batch) -> dict[str, np.ndarray]:
    """(rows, seq) bool each: the parts of a graph that a token can stand in, for documents one a row."""
    place, start = np.arange(batch.seq), stream.answer_start
    path = batch.target_tokens[:, start:]  # (rows, length)
    steps = range(1, stream.length)
    groups = {f"edge to node {k}": on_edge(stream, batch.tokens, path[:, k]) for k in steps}
    mine = np.logical_or.reduce(list(groups.values()))
    groups["other edges"] = (place < 3 * stream.n_edges) & (place % 3 < 2) & ~mine
    for name, at in (("goal", start - 2), ("=", start - 1), ("itself", start)):
        groups[name] = np.tile(place == at, (batch.rows, 1))
    return groups


@torch.no_grad()
def _patterns(model: MTPTransformer, batch: Batch, at: int) -> dict[str, torch.Tensor]:
    """Attention from one position, (rows, heads, keys), by layer, on the path of the next-token head."""
    tokens, documents = tensors(batch)
    _, cache = model.run_with_cache(tokens, documents, names_filter=lambda name: name.endswith("hook_pattern"))
    return {site: cache[f"{site}.attn.hook_pattern"][:, :, at] for site in attentive(model, 1)}
