"""Drawings of the idea itself: the model, its targets, the order of its backward pass, and a line it predicted.

They are Plotly figures like those of figures.py, so they are themed, saved and shown in the same way; what a box
holds (parameters, shapes) is in its hover text. Sizes are in px: a drawing has a fixed width.
"""

from collections.abc import Sequence
from functools import partial
from html import escape as html

import numpy as np
import plotly.graph_objects as go

from mtp_lab.config import ModelConfig, check_positive
from mtp_lab.figures.theme import BLUES, GREY, INK, MONO, WIDTH, WRONG, framed, horizon_color, line, panels

escaped = partial(html, quote=False)  # Plotly knows &amp; &lt; &gt; and no &quot;
SEPARATOR = 256  # data_gen.bytes: opens each document
HALF = 22  # px: half the height of a head
FEWEST = 24  # columns a text is given room for, so that a short one is not stretched
TRUNK, SHARED, PAPER, NONE = "#dfe7f0", "#f4ecd8", "#ffffff", "#ececec"


# --- shapes ------------------------------------------------------------------------------------------------


def box(x: float, y: float, width: float, height: float, name: str, hover: str = "", fill: str = PAPER,
        border: str = GREY, radius: float = 6) -> go.Scatter:
    """A rounded rectangle around (x, y); its hover text opens anywhere inside."""
    turns = np.linspace(0, np.pi / 2, 5) + np.arange(4)[:, None] * np.pi / 2  # (corner, point)
    right, up = np.array([[1, -1, -1, 1], [1, 1, -1, -1]])[..., None]
    xs = x + right * (width / 2 - radius) + radius * np.cos(turns)
    ys = y + up * (height / 2 - radius) + radius * np.sin(turns)
    start = (x + width / 2, y)  # in the middle of a side, so that all corners are joined
    outline = [[first, *points.ravel().round(2).tolist(), first] for first, points in zip(start, (xs, ys), strict=True)]
    pen = dict(color=border, width=1.2, simplify=False)
    return line(*outline, border, name, line=pen, fill="toself", fillcolor=fill, hoveron="fills", text=hover or name,
                hoverinfo="text")


def arrow(points: Sequence[tuple[float, float]], name: str, color: str = GREY, dash: str = "solid") -> go.Scatter:
    """A line through the points with a head at the last one."""
    sizes = [0] * (len(points) - 1) + [12]
    marker = dict(symbol="arrow", angleref="previous", size=sizes, color=color, opacity=1, line=dict(width=0))
    return line(*zip(*points, strict=True), color, name, mode="lines+markers", marker=marker, hoverinfo="skip",
                line=dict(color=color, width=1.5, dash=dash, simplify=False))


def ink_on(color: str) -> str:
    """Black or white, whichever reads better on an "rgb(r, g, b)" colour."""
    red, green, blue = (int(part) for part in color[4:-1].split(","))
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


def label(figure: go.Figure, x: float, y: float, text: str, color: str = INK, size: int = 14, **options) -> None:
    """Text around (x, y)."""
    figure.add_annotation(x=x, y=y, text=text, showarrow=False, font=dict(color=color, size=size), **options)


def canvas(figure: go.Figure, title: str, caption: str, height: int) -> go.Figure:
    """Coordinates are px: x from 0 to WIDTH, y from 0 (bottom) to height."""
    hidden = dict(visible=False, fixedrange=True)
    framed(figure, title, caption, height, WIDTH, margin=(0, 0, 10))
    return figure.update_layout(xaxis={**hidden, "range": [0, WIDTH]}, yaxis={**hidden, "range": [0, height]})


# --- the model (the paper's Figure 1) ------------------------------------------------------------------------


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """Parameters of the embedding (and of the unembedding), of a layer, of a head and of a sequential head's join."""
    width, heads = config.d_model, config.n_attention_heads
    biases = heads * config.relative_offsets * (config.position == "relative") + heads * config.smeared_keys
    layer = 4 * width**2 + biases + (0 if config.attention_only else 3 * width * config.mlp_width)
    return {"embedding": config.vocab_size * width, "layer": layer, "join": 2 * width**2,
            "head": width**2 if config.head_kind == "linear" else layer}


def head_places(config: ModelConfig, left: float, column: float) -> tuple[dict[int, float], dict[int, float]]:
    """x and y of the centre of each head: a column a horizon, one level above the head (or trunk) it stands on."""
    level, step = {0: 0}, 74 if config.n_future <= 4 else 62
    while len(level) <= config.n_future:
        level.update({i: level[parent] + 1 for i, parent in config.parents.items() if parent in level})
    x = {i: left + (i - 0.5) * column for i in config.parents}
    return x, {i: 205 + step * (level[i] - 1) for i in config.parents}


def draw_head(figure: go.Figure, config: ModelConfig, i: int, x: dict, y: dict, wide: float, shared: float) -> None:
    """Head i, what it reads, and its way through the unembedding at height `shared` to its output."""
    parent, counts, color = config.parents[i], parameter_counts(config), horizon_color(i, config.n_future)
    matrix, bottom, foot = "1 matrix" if config.head_kind == "linear" else "1 layer", y[i] - HALF, x[i]
    if config.head_kind == "sequential" and parent:  # an embedding comes in on the right, the parent on the left
        foot, side, low = x[i] - 16, x[i] + 16, y[parent] - 30
        hover = f"join of head {i}: {counts['join']:,} parameters"
        figure.add_trace(box(side, low, 52, 26, f"token of head {i}", hover))
        figure.add_trace(arrow([(side, low + 13), (side, bottom)], f"token to head {i}"))
        label(figure, side, low, f"x<sub>t+{i - 1}</sub>", size=12)
    path, stopped = [(foot, 145), (foot, bottom)], i in config.stop_gradient
    if parent:
        edge = x[parent] + np.sign(x[i] - x[parent]) * wide / 2
        path = [(edge, y[parent]), (foot, y[parent]), (foot, bottom)]
    figure.add_trace(arrow(path, f"{parent or 'trunk'} to head {i}", dash="dot" if stopped else "solid"))
    hover = f"head {i}: {matrix}, {counts['head']:,} parameters{'; what it reads is detached' if stopped else ''}"
    figure.add_trace(box(x[i], y[i], wide, 2 * HALF, f"head {i}", hover, color, color))
    label(figure, x[i], y[i], f'<b>head {i}</b><br><span style="font-size:11px">{matrix}</span>', ink_on(color))
    figure.add_trace(arrow([(x[i], y[i] + HALF), (x[i], shared - 20)], f"head {i} to unembedding"))
    figure.add_trace(arrow([(x[i], shared + 20), (x[i], shared + 55)], f"unembedding to output {i}"))
    figure.add_trace(box(x[i], shared + 70, 66, 30, f"output {i}", f"P(x_t+{i} | x_1..x_t)", border=color))
    label(figure, x[i], shared + 70, f"x<sub>t+{i}</sub>")


def architecture(config: ModelConfig, title: str | None = None) -> go.Figure:
    """The paper's Figure 1 for this very config: tokens, trunk, heads as they stand on each other, unembedding."""
    n, kind, depth, counts = config.n_future, config.head_kind, config.trunk_depth, parameter_counts(config)
    layers = "1 layer" if depth == 1 else f"{depth} layers"
    left, right = 150, WIDTH - 30
    middle, column = (left + right) / 2, (right - left) / n
    x, y = head_places(config, left, column)
    figure, shared, broad = go.Figure(), max(y.values()) + 80, right - left - 20 if n > 3 else 620
    embedding = f"embedding: {config.vocab_size:,} x {config.d_model} = {counts['embedding']:,} parameters"
    for k, token in enumerate(("x<sub>1</sub>", "x<sub>2</sub>", "…", "x<sub>t-1</sub>", "x<sub>t</sub>")):
        at = middle + (k - 2) * 120
        if token != "…":
            figure.add_trace(box(at, 25, 66, 30, "token", embedding))
            figure.add_trace(arrow([(at, 40), (at, 85)], "token to trunk"))
        label(figure, at, 25, token)
    hover = f"trunk: {layers} x {counts['layer']:,} = {depth * counts['layer']:,} parameters"
    figure.add_trace(box(middle, 115, broad, 60, "trunk", hover, TRUNK))
    label(figure, middle, 115, f"<b>shared trunk f<sub>s</sub></b><br>{layers}")
    for i in config.parents:
        draw_head(figure, config, i, x, y, min(150.0, column - 20), shared)
    hover = f"unembedding: {counts['embedding']:,} parameters, once for all heads"
    figure.add_trace(box(middle, shared, broad, 40, "unembedding", hover, SHARED))
    label(figure, middle, shared, "<b>shared unembedding f<sub>u</sub></b>")
    heads = (sum(y.values()) / n, f"{kind} heads" if n > 1 else "head")
    for at, text in ((25, "tokens"), (115, "trunk"), heads, (shared, "logits"), (shared + 70, "predicts")):
        label(figure, 20, at, text, GREY, 13, xanchor="left")
    joins = (n - 1) * counts["join"] if kind == "sequential" else 0
    total = 2 * counts["embedding"] + depth * counts["layer"] + n * counts["head"] + joins
    caption = f"Width {config.d_model}, vocabulary {config.vocab_size:,}, {total:,} parameters in all."
    caption += " Dotted: no gradient flows back." if config.stop_gradient else ""
    ahead = f"{n} {kind} heads predict {n} tokens ahead" if n > 1 else "one head predicts the next token"
    return canvas(figure, title or f"From one trunk of {layers}, {ahead}", caption, int(shared + 95))


# --- text in columns ---------------------------------------------------------------------------------------------


def printable(token: str | int) -> str:
    """One visible sign for each character: space "·", newline "↵", tab "→", others as "x9f"; an int is a byte."""
    if isinstance(token, int | np.integer):
        token = "␞" if token == SEPARATOR else chr(token) if token < 128 else f"x{token:02x}"
    highlights = {" ": "·", "\n": "↵", "\t": "→"}
    return "".join(highlights.get(c) or (c if c.isprintable() else f"x{ord(c):02x}") for c in token)


def letters(cells: Sequence[tuple[int, int, str]], room: float, color: str, name: str, bold: bool = False,
            legend: bool = False) -> go.Scatter:
    """Signs (column, row, text) in a monospaced font small enough for columns of `room` px."""
    sizes = [round(min(15.0, 0.95 * room / (0.62 * max(1, len(text)))), 1) for *_, text in cells]
    signs = [f"<b>{escaped(text)}</b>" if bold else escaped(text) for *_, text in cells]
    return line([c[0] for c in cells], [c[1] for c in cells], INK, name, mode="text", text=signs, hoverinfo="skip",
                textfont=dict(family=MONO, size=sizes, color=color), showlegend=legend)


def grid(figure: go.Figure, rows: Sequence[str], columns: int, title: str, caption: str, width: int, right: int,
         cell: int) -> go.Figure:
    """Axes of a table of signs: row names at the left, the first row on top."""
    framed(figure, title, caption, cell * len(rows), width, margin=(95, right, 30))
    plain = dict(showgrid=False, ticks="", showline=False, fixedrange=True, ticklabelstandoff=4)
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=list(rows), range=[len(rows) - 0.5, -0.5], **plain)
    return figure.update_xaxes(range=[-0.5, max(columns, FEWEST) - 0.5], **plain)


def targets(text: str, n: int, documents: Sequence[int] | None = None, title: str | None = None) -> go.Figure:
    """What each head must predict at each position: row i is the text, i columns to the left.

    Args:
        text: one character a position.
        n: number of horizons.
        documents: the document of each position, -1 for padding; None if the text is one document.

    Raises:
        ValueError: if documents and text differ in length.
    """
    check_positive(n=n, length=len(text))
    documents = [0] * len(text) if documents is None else list(documents)
    if len(documents) != len(text):
        raise ValueError(f"{len(documents)} documents must be as many as the {len(text)} characters")
    valid = [[t + i < len(text) and documents[t] == documents[t + i] >= 0 for t in range(len(text))]
             for i in range(1, n + 1)]
    names = ["<b>x<sub>t</sub></b>", *(f"head {i}: x<sub>t+{i}</sub>" for i in range(1, n + 1))]
    tints = [NONE] + [f"rgba{horizon_color(i, n)[3:-1]}, 0.22)" for i in range(1, n + 1)]
    hover = [[f"at t = {t + 1}, head {i}: {escaped(printable(text[t + i])) if there else 'no target, ignored'}"
              for t, there in enumerate(row)] for i, row in enumerate(valid, 1)]
    figure = go.Figure(go.Heatmap(
        x=list(range(len(text))), y=list(range(1, n + 1)), z=[[i * v for v in row] for i, row in enumerate(valid, 1)],
        zmin=0, zmax=n, colorscale=[[k / n, tint] for k, tint in enumerate(tints)], showscale=False, xgap=2, ygap=2,
        text=hover, hoverinfo="text", name="targets"))
    room = (WIDTH - 115) / max(len(text), FEWEST)
    figure.add_trace(letters([(t, 0, printable(c)) for t, c in enumerate(text)], room, INK, "text", bold=True))
    shown = [(t, i, printable(text[t + i])) for i in range(1, n + 1) for t in range(len(text)) if valid[i - 1][t]]
    figure.add_trace(letters(shown, room, INK, "to predict"))
    for t in range(1, len(text)):
        if documents[t] != documents[t - 1]:
            figure.add_vline(t - 0.5, line=dict(color=INK, width=2))
    caption = "Grey: no target, ignored by the loss" + (
        ", at the end and where the next document (black line) begins." if len(set(documents)) > 1 else ".")
    what = f"{n} heads predict the next {n} characters" if n > 1 else "one head predicts the next character"
    grid(figure, names, len(text), title or f"At every position t, {what}", caption, WIDTH, 20, 32)
    ticks = [t for t in range(len(text)) if t == 0 or t % 5 == 4]
    return figure.update_xaxes(tickvals=ticks, ticktext=[f"{'' if t else 't = '}{t + 1}" for t in ticks])


def line_predictions(
    text: Sequence[str | int], predictions: Sequence[Sequence[str | int]], probability: np.ndarray, correct: np.ndarray,
    title: str, caption: str = "Under each true token, what head i predicted for it, i tokens ahead.", width: int = 1200
) -> go.Figure:
    """A line of real text, and below it, aligned, what each head had predicted for each of its tokens.

    Args:
        text: the true tokens, as strings or byte ids (see `printable`).
        predictions: (n, seq); [i - 1][t] is head i's first choice for token t, made i tokens earlier; its value is
            not read where t < i, as no prediction exists there.
        probability: (n, seq) given to the true token by then.
        correct: (n, seq) bool.

    Raises:
        ValueError: if the shapes differ.
    """
    n, seq = len(predictions), len(text)
    probability, correct = np.asarray(probability, float), np.asarray(correct, bool)
    if not n * seq or any(len(row) != seq for row in predictions) or not probability.shape == correct.shape == (n, seq):
        raise ValueError(f"predictions {[len(row) for row in predictions]}, probability {probability.shape} and "
                         f"correct {correct.shape} must all be (n, {seq})")
    cells = [(t, i, printable(predictions[i - 1][t])) for i in range(1, n + 1) for t in range(i, seq)]
    z: list[list[float | None]] = [[None] * seq for _ in range(n)]
    hover = [[""] * seq for _ in range(n)]
    for t, i, sign in cells:
        z[i - 1][t] = p = float(probability[i - 1, t])
        hover[i - 1][t] = f"head {i}: {escaped(sign)}; in truth {escaped(printable(text[t]))}, probability {p:.3f}"
    bar = dict(title=dict(text="P(true token)", side="right"), thickness=10, tickvals=[0, 0.5, 1], outlinewidth=0)
    figure = go.Figure(go.Heatmap(x=list(range(seq)), y=list(range(1, n + 1)), z=z, zmin=0, zmax=1, colorscale=BLUES,
                                  colorbar=bar, xgap=1, ygap=1, text=hover, hoverinfo="text", name="probability"))
    room = (width - 185) / max(seq, FEWEST)
    figure.add_trace(letters([(t, 0, printable(token)) for t, token in enumerate(text)], room, INK, "text", bold=True))
    right = [cell for cell in cells if correct[cell[1] - 1, cell[0]]]
    wrong = [cell for cell in cells if not correct[cell[1] - 1, cell[0]]]
    figure.add_trace(letters(right, room, INK, "first choice right", legend=True))
    figure.add_trace(letters(wrong, room, WRONG, "first choice wrong", bold=True, legend=True))
    grid(figure, ["<b>text</b>", *(f"head {i}" for i in range(1, n + 1))], seq, title, caption, width, 90, 30)
    return figure.update_xaxes(showticklabels=False)


# --- the backward pass (the paper's Figure 2) ------------------------------------------------------------------


def backward_order(n: int, title: str | None = None) -> go.Figure:
    """Two timelines of one training step: all heads at once, and head after head. Heights are schematic."""
    check_positive(n=n)
    heads = range(1, n + 1)
    at_once = [("F", i) for i in heads] + [("B", i) for i in reversed(heads)]
    orders = {("All at once: every head's logits wait for the backward pass", n): at_once,
              ("Head after head: one head's logits exist at a time", 1): [(f, i) for i in heads for f in "FB"]}
    spans = [[-1.05, peak + 0.4] for _, peak in orders]
    height = 30 * round(sum(high - low for low, high in spans)) + 60  # of which 60 between the two timelines
    figure, places, _ = panels([name for name, _ in orders], 1, row_heights=[high - low for low, high in spans],
                               vertical_spacing=60 / height)
    for place, span, ((_, peak), order) in zip(places, spans, orders.items(), strict=True):
        steps = [("F", 0), *order, ("B", 0)]
        times = np.cumsum([0] + [2 if i == 0 else 1 for _, i in steps]).tolist()

        def bar(start: float, end: float, low: float, high: float, text: str, name: str, i: int, place=place) -> None:
            color, x, y = horizon_color(i, n) if i else TRUNK, (start + end) / 2, (low + high) / 2
            figure.add_trace(box(x, y, end - start - 0.06, high - low - 0.05, name, "", color, color, 0), **place)
            label(figure, x, y, text, ink_on(color) if i else INK, 12, **place)

        for (f, i), start, end in zip(steps, times, times[1:], strict=False):
            what = f"{'forward' if f == 'F' else 'backward'} of " + (f"head {i}" if i else "the trunk")
            bar(start, end, -1, -0.15, f"{f}<sub>{i}</sub>" if i else f"trunk {f}", what, i)
            if f == "F":
                freed, low = times[steps.index(("B", i)) + 1], 0.35 + (i - 1 if peak > 1 else 0)
                logits = (low, low + 1, f"logits {i}", f"logits of head {i}")
                bar(start, freed, *(logits if i else (0, 0.35, "", "output of the trunk")), i)
        figure.add_annotation(x=times[-1], y=0.35 + peak, text=f"<b>peak: {peak} × logits</b>", showarrow=False,
                              xanchor="right", yanchor="top", **place)
        figure.update_yaxes(range=span, visible=False, **place)
        figure.update_xaxes(range=[0, times[-1]], visible=False, **place)
    caption = ("One training step, left to right. F: forward, B: backward; the pale bar is the trunk's output, "
               "on which the heads' gradients are summed.")
    title = title or (f"Why {n} heads need the memory of one" if n > 1 else "With one head both orders are the same")
    return framed(figure, title, caption, height, WIDTH, (20, 20, 15))
