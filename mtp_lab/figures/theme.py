"""The look that all figures share: colours, fonts, captions, panels, and the traces that most figures draw.

Figures only draw. Intervals come computed, as columns `mean`, `low` and `high` beside the values of each seed, so that
no figure hides a choice of statistics; only curves without intervals take the mean over seeds themselves. Losses come
in nats. Saving and showing are in rendering.py.
"""

import math
from collections.abc import Collection, Sequence
from textwrap import wrap
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import plotly
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

SANS = "Lato, Helvetica Neue, Arial, sans-serif"  # Lato and DejaVu come with kaleido: the same PNG on any machine
MONO = "DejaVu Sans Mono, Menlo, Consolas, monospace"
INK, GREY, RULE, WRONG = "#222222", "#666666", "#e8e8e8", "#d55e00"
# After Okabe and Ito: the first five differ by 18 or more in CIELAB under each colour blindness, all by their symbols.
MODELS = {
    1: ("#3a3a3a", "circle"), 2: ("#c98200", "square"), 4: ("#0072b2", "diamond"), 8: ("#b03a7e", "triangle-up"),
    16: ("#00a87a", "pentagon"), 3: ("#56b4e9", "cross"), 6: ("#9a4a00", "x"),
}  # fmt: skip
COLORS, SYMBOLS = zip(*MODELS.values(), strict=True)
CATEGORIES = ("#0072b2", "#c98200", "#b03a7e", "#56b4e9", "#00a87a", "#d55e00", "#8a8a8a")
BLUES = [[0.0, "#f6f9fc"], [0.5, "#b3d1ea"], [1.0, "#5798d3"]]  # dark text reads on all of it
CAST, THING = ("#f9cf8b", "#a9d6f0", "#ecbcd9", "#a5dfc6"), "#e4e4e4"  # grounds: INK reads on all of them
WIDTH = 1000  # px, of a figure in a README
SEEDS = "Dots: seeds. Bars and bands: 95 % interval of the mean over seeds."

_axis = dict(gridcolor=RULE, linecolor="#b5b5b5", showline=True, ticks="outside", tickcolor="#b5b5b5", ticklen=4,
             zeroline=False, automargin=True, title=dict(standoff=10, font=dict(size=14)))  # fmt: skip
plotly.io.templates["mtp"] = go.layout.Template(layout=dict(
    font=dict(family=SANS, size=13, color=INK), paper_bgcolor="white", plot_bgcolor="white", xaxis=_axis, yaxis=_axis,
    colorway=list(COLORS), hoverlabel=dict(bgcolor="white", font=dict(family=SANS)),
    legend=dict(orientation="h", xref="container", xanchor="left", yref="container", yanchor="top", font=dict(size=13)),
    title=dict(x=0, xref="container", xanchor="left", yref="container", yanchor="top", pad_l=20, font_size=19),
))  # fmt: skip


def horizon_color(i: int, n: int) -> str:
    """The colour of horizon i of n: a truncated Viridis, horizon 1 darkest, the same up to n = 4."""
    if not 1 <= i <= n:
        raise ValueError(f"horizon i={i} must be from 1 to n={n}")
    steps = max(n - 1, 3)
    place = ((i - 1) / steps) ** min(1.0, math.log(5) / math.log(steps))  # horizon 2 is a fifth of the way or more
    return sample_colorscale("Viridis", 0.8 * place)[0]


def model_color(n: int) -> str:
    """The colour of the model of n future tokens, the same in every figure; ValueError for an n without one."""
    if n not in MODELS:
        raise ValueError(f"n={n} has no colour; known: {', '.join(map(str, sorted(MODELS)))}")
    return MODELS[n][0]


class Look(NamedTuple):
    """How a label is drawn: its colour, the symbol of its points (None: a line alone), and the dash of its line."""

    color: str
    symbol: str | None = None
    dash: str | None = None


def model_look(n: int) -> Look:
    """The colour and symbol of the model of n future tokens; ValueError for an n without one."""
    return Look(model_color(n), MODELS[n][1])


def looks_of(
    labels: Collection[str], colors: Sequence[str] = COLORS, symbols: Sequence[str | None] = SYMBOLS
) -> dict[str, Look]:
    """A look for each distinct label, in their order; colours repeat with the symbols shifted by one."""
    count = len(colors)
    looks = [Look(colors[k % count], symbols[(k + k // count) % len(symbols)]) for k in range(len(set(labels)))]
    return dict(zip(dict.fromkeys(labels), looks, strict=True))


def framed(
    figure: go.Figure, title: str, caption: str, height: int, width: int | None = None, margin=(75, 35, 60)
) -> go.Figure:
    """Adds theme, title, caption and legend above `height` px of panels; margin: left, right, bottom."""
    left, right, bottom = margin
    room = (width or WIDTH) - 40
    title_lines, caption_lines = wrap(title, int(room / 10)), wrap(caption, int(room / 6.2))
    names = [trace.name for trace in figure.data if trace.showlegend]
    legend_rows = -(-sum(50 + 7 * len(name) for name in names) // room)
    below_caption = 20 + 25 * len(title_lines + caption_lines)
    panel_titles = any(note.yref == "paper" for note in figure.layout.annotations)
    top = below_caption + 28 * legend_rows + (32 if panel_titles else 10)
    small = [f'<span style="font-size:13px;color:{GREY}">{text}</span>' for text in caption_lines]
    text = "<br>".join([f"<b>{'<br>'.join(title_lines)}</b>", *small])
    total, baseline = top + height + bottom, 30 if "<br>" in text else 17  # SVG shifts a single line down by itself
    figure.update_annotations(selector=dict(yref="paper"), font=dict(size=14, family=SANS, color=INK))
    return figure.update_layout(
        template="mtp",
        height=total,
        width=width,
        margin=dict(l=left, r=right, t=top, b=bottom),
        title=dict(text=text, y=1 - baseline / total),
        legend=dict(y=1 - below_caption / total, x=20 / (room + 40)),
    )


def panels(titles: Sequence[str], per_row: int = 5, **options) -> tuple[go.Figure, list[dict[str, int]], int]:
    """Small multiples: the figure, each panel's row and column, and the number of rows."""
    rows = -(-len(titles) // per_row)
    columns = -(-len(titles) // rows)  # rows of one length, if they can be
    options = {"horizontal_spacing": 0.025, "vertical_spacing": 0.18 / rows, **options}
    figure = make_subplots(rows, columns, subplot_titles=[f"<b>{title}</b>" for title in titles], **options)
    return figure, [dict(row=k // columns + 1, col=k % columns + 1) for k in range(len(titles))], rows


def checked(table: pd.DataFrame, *columns: str, unit: str = "nats", losses: Sequence[str] = ()) -> pd.DataFrame:
    """The table with its `losses` converted from nats to `unit` ("bits per byte", "nats per token", ...).

    Raises:
        ValueError: if the table is empty or lacks one of the columns, or if the unit is neither bits nor nats.
    """
    missing = [column for column in (*columns, *losses) if column not in table]
    if missing or table.empty:
        raise ValueError(f"the table has {len(table)} rows and columns {list(table.columns)}; missing {missing}")
    if unit.split()[:1] not in (["bits"], ["nats"]):
        raise ValueError(f"unit={unit!r} must start with 'bits' or 'nats'")
    return table.assign(**{c: table[c] / (math.log(2) if unit.startswith("bits") else 1.0) for c in losses})


def line(x, y, color: str, name: str, width: float = 2, **options) -> go.Scatter:
    """A trace with plain lists in it, so that the saved JSON can be read and compared."""
    options = {"mode": "lines", "line": dict(color=color, width=width), "showlegend": False, **options}
    return go.Scatter(x=list(x), y=list(y), name=name, **options)


def dots(x, y, seeds, color: str, name: str, value: Literal["x", "y"]) -> go.Scatter:
    """One small dot for each seed."""
    style = dict(mode="markers", opacity=0.5, marker=dict(color=color, size=5))
    hover = f"seed %{{customdata}}: %{{{value}:.4f}}"
    return line(x, y, color, f"seeds, {name}", customdata=list(seeds), hovertemplate=hover, **style)


def bars(mean, low, high) -> dict:
    """Error bars from low to high."""
    up, down = np.subtract(high, mean).tolist(), np.subtract(mean, low).tolist()
    return dict(array=up, arrayminus=down, symmetric=False, thickness=2, width=5)
