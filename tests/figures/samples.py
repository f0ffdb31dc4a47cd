"""Tables and figures that several tests draw. Their numbers name their own row, so that a mix-up shows."""

import math
import re
from itertools import product

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from data_gen.star_graph import StarGraphs
from mtp_lab import figures
from mtp_lab.config import ModelConfig
from mtp_lab.figures import Highlight

PIECES = ["Once", " upon", " Bo", "ra", ".", "\n", " <b>", "\nEnd"]
KINDS = ("name", "word", "turn", "choice", "pronoun", "scenery", "forced")  # as many as there are colours
STAR = StarGraphs(degree=3, length=4, nodes=12)
CONTESTANTS = ["peer", "peer, one row only", "mtp-lab, k = 1", "mtp-lab, k = 2"]


def metrics(models=(1, 2), seeds=(0, 1)) -> pd.DataFrame:
    """Losses (nats) that name their own n, horizon, seed and step: n + horizon / 10 + seed / 100 + step / 1e5."""
    rows = [
        (n, s, h, step, 100 * step, n + h / 10 + s / 100 + step / 1e5)
        for n in models
        for s in seeds
        for h in range(1, n + 1)
        for step in (10, 20, 30)
    ]
    return pd.DataFrame(rows, columns=["n", "seed", "horizon", "step", "tokens", "loss"])


def ends(models=(1, 2, 4)) -> pd.DataFrame:
    table = metrics(models).query("step == 30").drop(columns=["step", "tokens"])
    mean = table.groupby(["n", "horizon"]).loss.transform("mean")
    return table.assign(mean=mean, low=mean - 0.1, high=mean + 0.2)


def controls() -> pd.DataFrame:
    models = [("n = 1", 1, 6, "compute-matched"), ("n = 4", 4, 3, "compute-matched"), ("n = 1", 1, 3, "depth-matched")]
    table = pd.DataFrame(
        [(*model, seed, k + seed / 10) for k, model in enumerate(models) for seed in range(3)],
        columns=["label", "n", "depth", "matching", "seed", "loss"],
    )
    mean = table.groupby(["label", "depth"]).loss.transform("mean")
    difference = (mean - mean.min()).replace(0, np.nan)
    return table.assign(
        mean=mean,
        low=mean - 0.1,
        high=mean + 0.1,
        difference=difference,
        difference_low=difference - 0.2,
        difference_high=difference + 0.3,
    )


def peaks() -> pd.DataFrame:
    rows = [
        (n, v, m, 2**20 * v // 256 * (n if m == "reference" else 1))
        for n, v, m in product((1, 2, 4), (256, 2**19), ("reference", "sequential"))
    ]
    table = pd.DataFrame(rows, columns=["n", "vocab", "method", "bytes"])
    return table[(table.method == "sequential") | (table.vocab == 256)]  # the reference ran out of memory


def predicted_line(n=3, text="if x < 1:\n\t&\x9f") -> dict:
    rng = np.random.default_rng(0)
    probability, correct = rng.random((n, len(text))), rng.random((n, len(text))) < 0.5
    wrong = [[c if right else "?" for c, right in zip(text, row, strict=True)] for row in correct]
    return dict(text=text, predictions=wrong, probability=probability, correct=correct, title="Which?")


def success_curves() -> pd.DataFrame:
    rows = [
        dict(panel=panel, label=label, seed=seed, step=step, value=step / 100 + seed / 10)
        for panel in ("smeared keys", "RoPE")
        for label in ("n = 1", "n = 2")
        for seed in (0, 1)
        for step in ((10, 20, 30) if seed == 0 else (10, 20))
    ]
    return pd.DataFrame(rows)


def answer_shares() -> pd.DataFrame:
    rows = [
        dict(panel=panel, label=label, m=m, seed=seed, value=base / m + seed / 10, mean=base / m + 0.05)
        for panel in ("equal parameters", "equal depth")
        for label, base in (("n = 1", 0.5), ("n = 2", 0.8))
        for m in (1, 2, 3)
        for seed in (0, 1)
        if (panel, label) != ("equal depth", "n = 1")
    ]
    return pd.DataFrame(rows).eval("low = mean - 0.1").eval("high = mean + 0.2")


def measured() -> pd.DataFrame:
    rows = [(panel, label, seed, 10 * k + panel_k + seed / 10) for panel_k, panel in enumerate(("share", "loss"))
            for k, label in enumerate("zab") for seed in (0, 1)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["panel", "label", "seed", "value"])
    mean = table.groupby(["panel", "label"]).value.transform("mean")
    return table.assign(mean=mean, low=mean - 0.5, high=mean + 1)


def ring_shares() -> pd.DataFrame:
    rows = [
        (panel, ring, m, 1 / m / k)
        for panel in ("majority baseline", "in training")
        for k, ring in ((1, "F2"), (2, "F7"))
        for m in (1, 2, 3)
    ]
    return pd.DataFrame(rows, columns=["panel", "ring", "m", "share"])


def entropies() -> dict[str, np.ndarray]:
    return {"one": np.arange(6.0).reshape(2, 3) * math.log(2), "other": np.ones((2, 3)) * math.log(2)}


def speeds() -> pd.DataFrame:
    """Speeds that name their contestant, batch and threads; the slowest round is a tenth slower."""
    rows = [
        (name, name.startswith("mtp"), batch, threads, 1000 * batch + 100 * k + threads)
        for threads in (1, 2)
        for batch in (1, 8)
        for k, name in enumerate(CONTESTANTS)
        if batch == 1 or "one row" not in name
    ]
    table = pd.DataFrame(rows, columns=["contestant", "ours", "batch", "threads", "tokens_per_second"])
    return table.assign(slowest=0.9 * table.tokens_per_second)


def where(*tokens: int) -> np.ndarray:
    return np.isin(np.arange(len(PIECES)), tokens)


def highlighted(*highlights: Highlight) -> go.Figure:
    return figures.highlighted_text(PIECES, highlights, "A title", "A caption.")


def along(tokens: int = 100) -> pd.DataFrame:
    """Tokens that name their place; every third has an entropy, and a surprisal twice as large."""
    t = np.arange(tokens)
    entropy = np.where(t % 3 == 0, (t + 1) / 50, 0.0)
    kind = [KINDS[i % 6] if e else "forced" for i, e in zip(t, entropy, strict=True)]
    return pd.DataFrame({"token": [f"w{i}" for i in t], "kind": kind, "entropy": entropy, "surprisal": 2 * entropy})


def tree() -> go.Figure:
    expression = ("*", ("-", (1, 2, 0, 0, 3)), (4, 0, 0, 0, 0))
    values = {expression: (3, 6, 0, 0, 2), expression[1]: (6, 5, 0, 0, 4)}
    return figures.expression_tree(expression, values, PIECES, [], "A title", "A caption.")


def star(seed: int = 0) -> tuple[np.ndarray, go.Figure]:
    tokens = STAR.documents(1, np.random.default_rng(seed)).tokens
    pieces = [f" {STAR.token_names[token]}" for token in tokens]
    arms, goal = STAR.arms(tokens), STAR.solve(tokens)[-1]
    return tokens, figures.star_graph(arms, goal, pieces, [], "A title", "A caption.")


EVERY = {  # the name -> draws the figure
    "training_curves": lambda: figures.training_curves(metrics(), "A title"),
    "training_curves by horizon": lambda: figures.training_curves(metrics(), "A title", by="horizon", log_tokens=False),
    "loss_by_horizon": lambda: figures.loss_by_horizon(ends(), "A title"),
    "next_token_loss": lambda: figures.next_token_loss(controls(), "A title"),
    "memory": lambda: figures.memory(peaks(), "A title"),
    "memory, log": lambda: figures.memory(peaks(), "A title", log=True),
    "line_predictions": lambda: figures.line_predictions(**predicted_line()),
    "architecture": lambda: figures.architecture(ModelConfig(n_future=3, head_kind="sequential", stop_gradient=(2,))),
    "targets": lambda: figures.targets("ab\ncd", 2, [0, 0, 0, 1, 1]),
    "backward_order": lambda: figures.backward_order(3),
    "highlighted_text": lambda: highlighted(
        Highlight("name", where(2, 3), "#a9d6f0"), Highlight("choice", where(1), "#d55e00", "dots")
    ),
    "surprisal_along": lambda: figures.surprisal_along(along(), KINDS, "A title", "A caption."),
    "interval_bars": lambda: figures.interval_bars(measured(), "A title", "A caption.", ".3s"),
    "rings": lambda: figures.rings(ring_shares(), 2, "A title", "A caption."),
    "horizon_entropy": lambda: figures.horizon_entropy(entropies(), "cff", "A title", "A caption."),
    "expression_tree": tree,
    "star_graph": lambda: star()[1],
}


def trace(figure: go.Figure, name: str) -> go.Scatter:
    (only,) = [candidate for candidate in figure.data if candidate.name == name]
    return only


def texts(figure: go.Figure) -> list[str]:
    """Annotations without their tags."""
    return [re.sub(r"<[^>]*>", " ", note.text).strip() for note in figure.layout.annotations]


def notes(figure: go.Figure) -> list[str]:
    """Annotations without their tags."""
    return [re.sub(r"<[^>]*>", "", note.text) for note in figure.layout.annotations]
