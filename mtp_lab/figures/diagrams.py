"""Diagrams of the method: the model (the paper's Figure 1) and the order of its backward pass (its Figure 2).

They are Plotly figures, saved and shown like the others; the parameters of a box are in its hover text. Sizes are in
px: a diagram has a fixed width. The shapes and the canvas here also serve text.py and structures.py.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape as html

import numpy as np
import plotly.graph_objects as go

from mtp_lab.config import ModelConfig, check_positive
from mtp_lab.figures.theme import GREY, INK, WIDTH, framed, horizon_color, line, panels

escaped = partial(html, quote=False)  # Plotly knows &amp; &lt; &gt; and no &quot;
HALF = 22  # px: half the height of a head
TRUNK, SHARED, PAPER = "#dfe7f0", "#f4ecd8", "#ffffff"


def box(
    figure: go.Figure, x: float, y: float, width: float, height: float, name: str, text: str, hover: str = "",
    fill: str = PAPER, border: str = GREY, radius: float = 6, color: str | None = None, size: int = 14,
    place: Mapping[str, int] | None = None, **font,
) -> None:  # fmt: skip
    """A rounded rectangle around (x, y) with a text in it; its hover text opens anywhere inside.

    Args:
        name: of the trace, and its hover text unless `hover` is given.
        color, size, font: of the text; by default black or white, whichever reads better.
        place: row and column of the panel, if there are several.
    """
    turns = np.linspace(0, np.pi / 2, 5) + np.arange(4)[:, None] * np.pi / 2  # (corner, point)
    right, up = np.array([[1, -1, -1, 1], [1, 1, -1, -1]])[..., None]
    xs = x + right * (width / 2 - radius) + radius * np.cos(turns)
    ys = y + up * (height / 2 - radius) + radius * np.sin(turns)
    start = (x + width / 2, y)  # in the middle of a side, so that all corners are joined
    outline = [[first, *points.ravel().round(2).tolist(), first] for first, points in zip(start, (xs, ys), strict=True)]
    style = dict(line=dict(color=border, width=1.2, simplify=False), fill="toself", fillcolor=fill, hoveron="fills")
    figure.add_trace(line(*outline, border, name, text=hover or name, hoverinfo="text", **style), **(place or {}))
    label(figure, x, y, text, color or ink_on(fill), size, **font, **(place or {}))


def arrow(figure: go.Figure, points: Sequence[tuple[float, float]], name: str, dash: str = "solid") -> None:
    """A line through the points with an arrowhead at the last one."""
    sizes = [0] * (len(points) - 1) + [12]
    marker = dict(symbol="arrow", angleref="previous", size=sizes, color=GREY, opacity=1, line=dict(width=0))
    style = dict(mode="lines+markers", marker=marker, line=dict(color=GREY, width=1.5, dash=dash, simplify=False))
    figure.add_trace(line(*zip(*points, strict=True), GREY, name, hoverinfo="skip", **style))


def ink_on(color: str) -> str:
    """Black or white, whichever reads better on an "rgb(r, g, b)" colour; black on the others, which are all pale."""
    if not color.startswith("rgb("):
        return INK
    red, green, blue = (int(channel) for channel in color[4:-1].split(","))
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


def label(figure: go.Figure, x: float, y: float, text: str, color: str = INK, size: int = 14, **options) -> None:
    """Text around (x, y)."""
    figure.add_annotation(x=x, y=y, text=text, showarrow=False, font=dict(color=color, size=size), **options)


def canvas(figure: go.Figure, title: str, caption: str, height: int) -> go.Figure:
    """Coordinates are px: x from 0 to WIDTH, y from 0 (bottom) to height."""
    hidden = dict(visible=False, fixedrange=True)
    framed(figure, title, caption, height, WIDTH, margin=(0, 0, 10))
    return figure.update_layout(xaxis={**hidden, "range": [0, WIDTH]}, yaxis={**hidden, "range": [0, height]})


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """Parameters of the embedding (and of the unembedding), of a layer, of a head and of a sequential head's join."""
    width, heads = config.d_model, config.n_attention_heads
    biases = heads * config.relative_offsets * (config.position == "relative") + heads * config.smeared_keys
    layer = 4 * width**2 + biases + (0 if config.attention_only else 3 * width * config.mlp_width)
    head = width**2 if config.head_kind == "linear" else layer
    return {"embedding": config.vocab_size * width, "layer": layer, "head": head, "join": 2 * width**2}


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
        box(figure, side, low, 52, 26, f"token of head {i}", f"x<sub>t+{i - 1}</sub>", hover, size=12)
        arrow(figure, [(side, low + 13), (side, bottom)], f"token to head {i}")
    path, stopped = [(foot, 145), (foot, bottom)], i in config.stop_gradient
    if parent:
        edge = x[parent] + np.sign(x[i] - x[parent]) * wide / 2
        path = [(edge, y[parent]), (foot, y[parent]), (foot, bottom)]
    arrow(figure, path, f"{parent or 'trunk'} to head {i}", "dot" if stopped else "solid")
    hover = f"head {i}: {matrix}, {counts['head']:,} parameters{'; what it reads is detached' if stopped else ''}"
    text = f'<b>head {i}</b><br><span style="font-size:11px">{matrix}</span>'
    box(figure, x[i], y[i], wide, 2 * HALF, f"head {i}", text, hover, color, color)
    arrow(figure, [(x[i], y[i] + HALF), (x[i], shared - 20)], f"head {i} to unembedding")
    arrow(figure, [(x[i], shared + 20), (x[i], shared + 55)], f"unembedding to output {i}")
    hover = f"P(x_t+{i} | x_1..x_t)"
    box(figure, x[i], shared + 70, 66, 30, f"output {i}", f"x<sub>t+{i}</sub>", hover, border=color)


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
        token_x = middle + (k - 2) * 120
        if token == "…":
            label(figure, token_x, 25, token)
        else:
            box(figure, token_x, 25, 66, 30, "token", token, embedding)
            arrow(figure, [(token_x, 40), (token_x, 85)], "token to trunk")
    hover = f"trunk: {layers} x {counts['layer']:,} = {depth * counts['layer']:,} parameters"
    box(figure, middle, 115, broad, 60, "trunk", f"<b>shared trunk f<sub>s</sub></b><br>{layers}", hover, TRUNK)
    for i in config.parents:
        draw_head(figure, config, i, x, y, min(150.0, column - 20), shared)
    hover = f"unembedding: {counts['embedding']:,} parameters, once for all heads"
    box(figure, middle, shared, broad, 40, "unembedding", "<b>shared unembedding f<sub>u</sub></b>", hover, SHARED)
    heads = (sum(y.values()) / n, f"{kind} heads" if n > 1 else "head")
    for row_y, text in ((25, "tokens"), (115, "trunk"), heads, (shared, "logits"), (shared + 70, "predicts")):
        label(figure, 20, row_y, text, GREY, 13, xanchor="left")
    joins = (n - 1) * counts["join"] if kind == "sequential" else 0
    total = 2 * counts["embedding"] + depth * counts["layer"] + n * counts["head"] + joins
    caption = f"Width {config.d_model}, vocabulary {config.vocab_size:,}, {total:,} parameters in all."
    caption += " Dotted: no gradient flows back." if config.stop_gradient else ""
    ahead = f"{n} {kind} heads predict {n} tokens ahead" if n > 1 else "one head predicts the next token"
    return canvas(figure, title or f"From one trunk of {layers}, {ahead}", caption, int(shared + 95))


def backward_order(n: int, title: str | None = None) -> go.Figure:
    """Two timelines of one training step: all heads at once, and head after head. Heights are schematic."""
    check_positive(n=n)
    heads = range(1, n + 1)
    orders = {
        "All at once: every head's logits wait for the backward pass": (
            n, [*(("F", i) for i in heads), *(("B", i) for i in reversed(heads))],
        ),
        "Head after head: one head's logits exist at a time": (1, [(kind, i) for i in heads for kind in "FB"]),
    }  # fmt: skip
    heights = [peak + 1.45 for peak, _ in orders.values()]
    total = 30 * round(sum(heights)) + 60  # px, of which 60 between the two timelines
    figure, places, _ = panels(list(orders), 1, row_heights=heights, vertical_spacing=60 / total)
    for place, (peak, order) in zip(places, orders.values(), strict=True):
        end = _timeline(figure, place, n, order, peak)
        note = dict(text=f"<b>peak: {peak} × logits</b>", showarrow=False, xanchor="right", yanchor="top")
        figure.add_annotation(x=end, y=0.35 + peak, **note, **place)
        figure.update_yaxes(range=[-1.05, peak + 0.4], visible=False, **place)
        figure.update_xaxes(range=[0, end], visible=False, **place)
    caption = "One training step, left to right. F: forward, B: backward; the pale bar is the trunk's output, "
    caption += "on which the heads' gradients are summed."
    title = title or (f"Why {n} heads need the memory of one" if n > 1 else "With one head both orders are the same")
    return framed(figure, title, caption, total, WIDTH, (20, 20, 15))


def _timeline(figure: go.Figure, place: Mapping[str, int], n: int, order: list[tuple[str, int]], peak: int) -> int:
    """A bar for each forward (F) and backward (B) pass of head i, and one above it as long as its output is kept.

    Returns:
        When the step ends. The trunk's passes take two units of time, a head's one.
    """
    steps = [("F", 0), *order, ("B", 0)]  # 0: the trunk
    ends = np.cumsum([1 if i else 2 for _, i in steps]).tolist()
    for (kind, i), start, end in zip(steps, [0, *ends], ends, strict=False):
        color, source = (horizon_color(i, n), f"head {i}") if i else (TRUNK, "the trunk")
        name = f"{'forward' if kind == 'F' else 'backward'} of {source}"
        bars = [(end, -1, -0.15, name, f"{kind}<sub>{i}</sub>" if i else f"trunk {kind}")]
        freed, low = ends[steps.index(("B", i))], 0.35 + (i - 1 if peak > 1 else 0)
        if kind == "F":
            logits = (freed, low, low + 1, f"logits of head {i}", f"logits {i}")
            bars.append(logits if i else (freed, 0, 0.35, "output of the trunk", ""))
        for stop, bottom, top, name, text in bars:
            middle, size = ((start + stop) / 2, (bottom + top) / 2), (stop - start - 0.06, top - bottom - 0.05)
            box(figure, *middle, *size, name, text, fill=color, border=color, radius=0, size=12, place=place)
    return ends[-1]
