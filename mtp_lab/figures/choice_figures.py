"""Pictures of choice points: whose each loss term is, weights by n, and a text coloured by what its tokens weigh."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mtp_lab.figures.answer_figures import curves
from mtp_lab.figures.diagrams import canvas, label
from mtp_lab.figures.stream_figures import CAST, LEFT, THING, Highlight, text_height, write
from mtp_lab.figures.theme import SEEDS, framed, line

CHOICE, ALONE, READ = "the choice point's", "of tokens on which nothing depends", "of tokens whose cause has been read"
TERMS = {CHOICE: CAST[0], ALONE: CAST[1], READ: THING}
MOST = "(n + 1)/2, the most that can be"
SHADES = ((1, "#e3eef8"), (2, "#c3daee"), (4, "#8fbbe0"), (8, "#5798d3"))
"""From how many times the mean on, and the ground; INK reads on all of them. Lighter tokens stay white."""


def terms(names: Sequence[str], cause: np.ndarray, owners: np.ndarray, title: str, caption: str) -> go.Figure:
    """Every loss term as a square, at its target and horizon, coloured by whose it is (the paper's Figure 9).

    Args:
        names: (seq,) of the tokens.
        cause: (seq,) distance back to the choice that determines a token; 0 or less: none.
        owners: (n, seq) the token that each term belongs to; -1: no term (`choice_points.owners`).
    """
    cause, position = np.asarray(cause), np.arange(len(names))
    decides = np.isin(position, (position - cause)[cause > 0])  # (seq,)
    kind = np.where(decides, 0, np.where(cause > 0, 2, 1))[owners]  # (n, seq)
    figure = go.Figure()
    for k, (name, color) in enumerate(TERMS.items()):
        row, at = np.nonzero((owners >= 0) & (kind == k))
        if len(at):
            marker = dict(symbol="square", size=30, color=color, opacity=1, line=dict(width=0))
            style = dict(mode="markers", marker=marker, showlegend=True, hoverinfo="text")
            style["text"] = [f"{names[u - i]} → {names[u]}, horizon {i}" for u, i in zip(at, row + 1, strict=True)]
            figure.add_trace(line(at.tolist(), (row + 1).tolist(), color, f"{name}: {len(at)}", **style))
    ticks = dict(tickvals=position.tolist(), ticktext=list(names), range=[-0.6, len(names) - 0.4])
    figure.update_xaxes(title_text="token that is predicted", showgrid=False, **ticks)
    figure.update_yaxes(title_text="horizon i", dtick=1, range=[len(owners) + 0.6, 0.4], showgrid=False)
    return framed(figure, title, caption, 40 * (len(owners) + 1))


def weights_by_n(table: pd.DataFrame, title: str, caption: str = SEEDS) -> go.Figure:
    """Weights relative to next-token prediction against n: a panel for each setting, a line for each label.

    Args:
        table: panel, label, n, seed, value and, the same in all rows of (panel, label, n), mean, low, high. Exact
            numbers are those of one seed.
    """
    n = sorted(table.n.unique().tolist())
    most = pd.DataFrame({"n": n, "value": [(k + 1) / 2 for k in n]})
    figure, rows = curves(table, "n", most, MOST, "n = %{x}: %{y:.2f}")
    figure.update_xaxes(title_text="future tokens n in the loss", tickvals=n)
    figure.update_yaxes(title_text="weight, relative", col=1)
    return framed(figure, title, caption, 300 * rows)


def weighted_text(pieces: Sequence[str], weights: Mapping[str, np.ndarray], title: str, caption: str) -> go.Figure:
    """The same text once for each loss, its tokens shaded by their weight; see SHADES.

    Args:
        weights: name of a loss -> (tokens,) weights in multiples of that loss's mean; nan: none known.
    """
    rise, figure = text_height(pieces) + 28, go.Figure()
    height = rise * len(weights)
    edges, colors = zip(*SHADES, strict=True)
    names = [f"{low:g} to {high:g} times the mean" for low, high in zip(edges, edges[1:], strict=False)]
    names.append(f"{edges[-1]:g} times and more")
    for k, (name, weight) in enumerate(weights.items()):
        top, shade = height - k * rise, np.digitize(np.nan_to_num(weight), edges)  # (tokens,) 0: white
        label(figure, LEFT, top - 12, f"<b>{name}</b>", xanchor="left")
        highlights = [Highlight(each, shade == i, color) for i, (each, color) in enumerate(zip(names, colors, strict=True), 1)]
        write(
            figure,
            pieces,
            highlights,
            top - 24,
            [f"{piece.strip()}: {w:.2f}" for piece, w in zip(pieces, weight, strict=True)],
        )
    told = set()
    for trace in figure.data:
        if trace.showlegend:
            trace.update(showlegend=trace.name not in told, legendrank=1000 + names.index(trace.name))
            told.add(trace.name)
    return canvas(figure, title, caption, height)
