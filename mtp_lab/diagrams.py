"""Drawings of the idea itself: the model, its targets, the order of its backward pass, and a line it predicted.

They are Plotly figures like those of figures.py, so they are themed, saved and shown in the same way; what a box
holds (parameters, shapes) is in its hover text. Sizes are in px: a drawing has a fixed width.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from mtp_lab.config import ModelConfig, check_positive
from mtp_lab.figures import BLUES, GREY, INK, MONO, WIDTH, WRONG, framed, horizon_color, line, panels

SEPARATOR = 256  # data_gen.text: opens each document
TRUNK, SHARED, PAPER, NONE = "#dfe7f0", "#f4ecd8", "#ffffff", "#ececec"


# --- shapes ------------------------------------------------------------------------------------------------


def box(x: float, y: float, width: float, height: float, name: str, hover: str = "", fill: str = PAPER,
        border: str = GREY, radius: float = 6) -> go.Scatter:
    """A rounded rectangle around (x, y); its hover text opens anywhere inside."""
    turns = np.linspace(0, np.pi / 2, 5) + np.arange(4)[:, None] * np.pi / 2  # (corner, point)
    right, up = np.array([[1, -1, -1, 1], [1, 1, -1, -1]])[..., None]
    xs = x + right * (width / 2 - radius) + radius * np.cos(turns)
    ys = y + up * (height / 2 - radius) + radius * np.sin(turns)
    outline = [[*p.ravel().round(2).tolist(), float(p[0, 0].round(2))] for p in (xs, ys)]
    return line(*outline, border, name, 1.2, fill="toself", fillcolor=fill, hoveron="fills", text=hover or name,
                hoverinfo="text")


def arrow(points: Sequence[tuple[float, float]], name: str, color: str = GREY, dash: str = "solid") -> go.Scatter:
    """A line through the points with a head at the last one."""
    sizes = [0] * (len(points) - 1) + [9]
    return line(*zip(*points, strict=True), color, name, mode="lines+markers", line=dict(color=color, width=1.5, dash=dash),
                marker=dict(symbol="arrow", angleref="previous", size=sizes, color=color), hoverinfo="skip")


def ink_on(color: str) -> str:
    """Black or white, whichever reads better on an "rgb(r, g, b)" colour."""
    red, green, blue = (int(part) for part in color[4:-1].split(","))
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


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


def architecture(config: ModelConfig, title: str | None = None) -> go.Figure:
    """The paper's Figure 1 for this very config: tokens, trunk, heads as they stand on each other, unembedding."""
    n, parents, counts = config.n_future, config.parents, parameter_counts(config)
    layers = "1 layer" if config.trunk_depth == 1 else f"{config.trunk_depth} layers"
    kind, matrix = config.head_kind, "1 matrix" if config.head_kind == "linear" else "1 layer"
    level = {0: 0}
    while len(level) <= n:  # a head stands one level above its parent
        level.update({i: level[parent] + 1 for i, parent in parents.items() if parent in level})
    left, step, half = 150, 74 if n <= 4 else 62, 22
    column = (WIDTH - 30 - left) / n
    middle, wide = (left + WIDTH - 30) / 2, min(150.0, column - 20)
    x = {i: left + (i - 0.5) * column for i in parents}
    y = {i: 205 + step * (level[i] - 1) for i in parents}
    shared = max(y.values()) + 80
    figure = go.Figure()

    def label(x: float, y: float, text: str, color: str = INK, size: int = 14, **options) -> None:
        figure.add_annotation(x=x, y=y, text=text, showarrow=False, font=dict(color=color, size=size), **options)

    hover = f"embedding: {config.vocab_size:,} x {config.d_model} = {counts['embedding']:,} parameters"
    for k, token in enumerate(("x<sub>1</sub>", "x<sub>2</sub>", "…", "x<sub>t-1</sub>", "x<sub>t</sub>")):
        at = middle + (k - 2) * 120
        if token != "…":
            figure.add_trace(box(at, 25, 66, 30, "token", hover))
            figure.add_trace(arrow([(at, 40), (at, 84)], "token to trunk"))
        label(at, 25, token)
    trunk = f"trunk: {layers} x {counts['layer']:,} = {config.trunk_depth * counts['layer']:,} parameters"
    figure.add_trace(box(middle, 115, n * column - 20 if n > 3 else 620, 60, "trunk", trunk, TRUNK))
    label(middle, 115, f"<b>shared trunk f<sub>s</sub></b><br>{layers}")
    for i, parent in parents.items():
        color, dash = horizon_color(i, n), "dot" if i in config.stop_gradient else "solid"
        joined, foot = kind == "sequential" and i > 1, x[i]
        if joined:  # the embedding comes in on the right, the parent on the left
            foot, side, low = x[i] - 16, x[i] + 16, y[parent] - 30 if parent else 130
            figure.add_trace(box(side, low, 52, 26, f"token of head {i}",
                                 f"join of head {i}: {counts['join']:,} parameters; {hover}"))
            figure.add_trace(arrow([(side, low + 13), (side, y[i] - half)], f"token to head {i}"))
            label(side, low, f"x<sub>t+{i - 1}</sub>", size=12)
        turn = np.sign(x[i] - x[parent]) * wide / 2 if parent else 0
        path = [(x[parent] + turn, y[parent]), (foot, y[parent])] if parent else [(foot, 145)]
        figure.add_trace(arrow([*path, (foot, y[i] - half)], f"{parent or 'trunk'} to head {i}", dash=dash))
        stopped = "; no gradient reaches what it reads" if i in config.stop_gradient else ""
        figure.add_trace(box(x[i], y[i], wide, 2 * half, f"head {i}",
                             f"head {i}: {matrix}, {counts['head']:,} parameters{stopped}", color, color))
        label(x[i], y[i], f'<b>head {i}</b><br><span style="font-size:11px">{matrix}</span>', ink_on(color))
        figure.add_trace(arrow([(x[i], y[i] + half), (x[i], shared - 22)], f"head {i} to unembedding"))
        figure.add_trace(arrow([(x[i], shared + 20), (x[i], shared + 53)], f"unembedding to output {i}"))
        figure.add_trace(box(x[i], shared + 70, 66, 30, f"output {i}",
                             f"P(x_t+{i} | x_1..x_t), at every position t", border=color))
        label(x[i], shared + 70, f"x<sub>t+{i}</sub>")
    figure.add_trace(box(middle, shared, n * column - 20 if n > 3 else 620, 40, "unembedding",
                         f"unembedding: {counts['embedding']:,} parameters, once for all heads", SHARED))
    label(middle, shared, "<b>shared unembedding f<sub>u</sub></b>")
    heads = sum(y.values()) / n
    for at, text in ((25, "tokens"), (115, "trunk"), (heads, f"{kind} heads"), (shared, "logits"), (shared + 70, "predicts")):
        label(20, at, text, GREY, 13, xanchor="left")
    total = (2 * counts["embedding"] + config.trunk_depth * counts["layer"] + n * counts["head"]
             + (n - 1) * counts["join"] * (kind == "sequential"))
    caption = f"Width {config.d_model}, vocabulary {config.vocab_size:,}, {total:,} parameters in all."
    caption += " Dotted: no gradient flows back." if config.stop_gradient else ""
    ahead = f"{n} {kind} heads predict {n} tokens ahead" if n > 1 else "one head predicts the next token"
    return canvas(figure, title or f"From one trunk of {layers}, {ahead}", caption, int(shared + 95))


# --- text in columns ---------------------------------------------------------------------------------------------


def printable(token: str | int) -> str:
    """One visible sign for each character: space "·", newline "↵", tab "→", others as "x9f"; an int is a byte."""
    if isinstance(token, int | np.integer):
        token = "␞" if token == SEPARATOR else chr(token) if token < 128 else f"x{token:02x}"
    marks = {" ": "·", "\n": "↵", "\t": "→"}
    return "".join(marks.get(c) or (c if c.isprintable() else f"x{ord(c):02x}") for c in token)


def letters(cells: Sequence[tuple[int, int, str]], room: float, color: str | list[str], name: str, bold: bool = False,
            legend: bool = False) -> go.Scatter:
    """Signs (column, row, text) in a monospaced font small enough for columns of `room` px."""
    def escaped(text: str) -> str:
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return f"<b>{text}</b>" if bold and text else text

    sizes = [round(min(15.0, 0.95 * room / (0.62 * max(1, len(text)))), 1) for *_, text in cells]
    return line([c[0] for c in cells], [c[1] for c in cells], INK, name, mode="text", text=[escaped(c[2]) for c in cells],
                textfont=dict(family=MONO, size=sizes, color=color), hoverinfo="skip", showlegend=legend)


def grid(figure: go.Figure, rows: Sequence[str], columns: int, title: str, caption: str, width: int, right: int, cell: int):
    """Axes of a table of signs: row names at the left, the first row on top."""
    framed(figure, title, caption, cell * len(rows), width, margin=(95, right, 45))
    plain = dict(showgrid=False, ticks="", showline=False, fixedrange=True)
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=list(rows), range=[len(rows) - 0.5, -0.5], **plain)
    return figure.update_xaxes(range=[-0.5, columns - 0.5], **plain)


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
    hover = [[f"at t = {t + 1}, head {i}: " + (printable(text[t + i]) if valid[i - 1][t] else "no target, ignored by the loss")
              for t in range(len(text))] for i in range(1, n + 1)]
    figure = go.Figure(go.Heatmap(
        x=list(range(len(text))), y=list(range(1, n + 1)), z=[[i * v for v in row] for i, row in enumerate(valid, 1)],
        zmin=0, zmax=n, colorscale=[[k / n, tint] for k, tint in enumerate(tints)], showscale=False, xgap=2, ygap=2,
        text=hover, hoverinfo="text", name="targets"))
    room = (WIDTH - 115) / len(text)
    figure.add_trace(letters([(t, 0, printable(c)) for t, c in enumerate(text)], room, INK, "text", bold=True))
    shown = [(t, i, printable(text[t + i])) for i in range(1, n + 1) for t in range(len(text)) if valid[i - 1][t]]
    figure.add_trace(letters(shown, room, INK, "to predict"))
    for t in range(1, len(text)):
        if documents[t] != documents[t - 1]:
            figure.add_vline(t - 0.5, line=dict(color=INK, width=2))
    caption = "Grey: no target, ignored by the loss" + (
        ", at the end and where the next document (black line) begins." if len(set(documents)) > 1 else ".")
    grid(figure, names, len(text), title or f"At every position t, {n} heads predict the next {n} characters" * (n > 1)
         or "At every position t, the next character", caption, WIDTH, 20, 32)
    return figure.update_xaxes(title_text="position t", tickvals=list(range(0, len(text), 5)),
                               ticktext=[str(t + 1) for t in range(0, len(text), 5)])


def line_predictions(
    text: Sequence[str | int], predictions: Sequence[Sequence[str | int]], probability: np.ndarray, correct: np.ndarray,
    title: str, caption: str = "Each cell: what the head predicted for the character above it, that many tokens earlier.",
    width: int = 1200,
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
    if not n or any(len(row) != seq for row in predictions) or not probability.shape == correct.shape == (n, seq):
        raise ValueError(f"predictions {[len(row) for row in predictions]}, probability {probability.shape} and "
                         f"correct {correct.shape} must all be (n, {seq})")
    cells = [(t, i, printable(predictions[i - 1][t])) for i in range(1, n + 1) for t in range(i, seq)]
    z = [[float(probability[i - 1, t]) if t >= i else None for t in range(seq)] for i in range(1, n + 1)]
    hover = [[f"head {i} for {printable(text[t])!r}: {printable(predictions[i - 1][t])!r}, true token {z[i - 1][t]:.3f}"
              if t >= i else "" for t in range(seq)] for i in range(1, n + 1)]
    bar = dict(title=dict(text="P(true token)", side="right"), thickness=10, tickvals=[0, 0.5, 1], outlinewidth=0, len=1)
    figure = go.Figure(go.Heatmap(x=list(range(seq)), y=list(range(1, n + 1)), z=z, zmin=0, zmax=1, colorscale=BLUES,
                                  colorbar=bar, xgap=1, ygap=1, text=hover, hoverinfo="text", name="probability"))
    room = (width - 185) / seq
    figure.add_trace(letters([(t, 0, printable(token)) for t, token in enumerate(text)], room, INK, "text", bold=True))
    right = [cell for cell in cells if correct[cell[1] - 1, cell[0]]]
    inks = ["#ffffff" if z[i - 1][t] > 0.6 else INK for t, i, _ in right]
    wrong = [cell for cell in cells if not correct[cell[1] - 1, cell[0]]]
    figure.add_trace(letters(right, room, inks, "first choice right", legend=True))
    figure.add_trace(letters(wrong, room, WRONG, "first choice wrong", bold=True, legend=True))
    grid(figure, ["<b>text</b>", *(f"head {i}" for i in range(1, n + 1))], seq, title, caption, width, 90, 30)
    return figure.update_xaxes(showticklabels=False)


# --- the backward pass (the paper's Figure 2) ------------------------------------------------------------------


def backward_order(n: int, title: str | None = None) -> go.Figure:
    """Two timelines of one training step: all heads at once, and head after head. Heights are schematic."""
    check_positive(n=n)
    heads = list(range(1, n + 1))
    orders = {"All at once: every head's logits wait for the backward pass": [(f, i) for f, hs in (
                  ("F", heads), ("B", heads[::-1])) for i in hs],
              "Head after head: one head's logits exist at a time": [(f, i) for i in heads for f in "FB"]}
    figure, places, _ = panels(list(orders), 1, shared_xaxes=True, row_heights=[n + 2.2, 3.2], vertical_spacing=0.14)
    for place, (name, order) in zip(places, orders.items(), strict=True):
        steps = [("F", 0), *order, ("B", 0)]
        starts = np.cumsum([0] + [2 if i == 0 else 1 for _, i in steps]).tolist()
        peak = n if name.startswith("All") else 1
        for (f, i), start, end in zip(steps, starts, starts[1:], strict=False):
            color, ink = (horizon_color(i, n), ink_on(horizon_color(i, n))) if i else (TRUNK, INK)
            what = f"{'forward' if f == 'F' else 'backward'} of " + (f"head {i}" if i else "the trunk")
            figure.add_trace(box((start + end) / 2, -0.6, end - start - 0.06, 0.8, what, fill=color, border=color, radius=0),
                             **place)
            figure.add_annotation(x=(start + end) / 2, y=-0.6, text=f"{f}<sub>{i}</sub>" if i else f"trunk {f}",
                                  showarrow=False, font=dict(color=ink, size=12), **place)
            if f == "F":
                freed = starts[steps.index(("B", i)) + 1]
                low, high = (0.35 + (i - 1 if peak > 1 else 0), 0.95) if i else (0, 0.3)
                held = f"logits of head {i}, held until B{i}" if i else "output of the trunk, held to the end"
                figure.add_trace(box((start + freed) / 2, low + high / 2, freed - start - 0.06, high, held, fill=color,
                                     border=color, radius=0), **place)
                if i and (peak > 1 or n < 9):
                    figure.add_annotation(x=(start + freed) / 2, y=low + high / 2, text=f"logits {i}", showarrow=False,
                                          font=dict(color=ink, size=12), **place)
        figure.add_annotation(x=starts[-1], y=0.35 + peak, text=f"<b>peak: {peak} x logits</b>", showarrow=False, xanchor="right",
                              yanchor="top", **place)
    framed(figure, title or f"Why {n} heads need the memory of one", "One training step, left to right. F: forward, B: backward; "
           "the pale bar is the trunk's output, on which the heads' gradients are summed.", 30 * (n + 5) + 60, WIDTH, (30, 30, 20))
    figure.update_xaxes(visible=False)
    return figure.update_yaxes(visible=False)
