"""Pictures of answers: right by number of operations, differences between trainings, pass@k, shares of the loss."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from mtp_lab.figures.theme import GREY, INK, MODELS, RULE, SEEDS, bars, checked, dots, framed, line, panels

COLORS, SYMBOLS = zip(*MODELS.values(), strict=True)


def by_operations(
    table: pd.DataFrame,
    baseline: pd.DataFrame,
    trained: int,
    title: str,
    caption: str,
    name: str = "most frequent answer",
) -> go.Figure:
    """Shares of right answers against the number of operations m: a panel for each setting, a line for each label.

    Args:
        table: panel, label, m, seed, value and, the same in all rows of (panel, label, m), mean, low, high.
        baseline: m, value: what needs no reading, drawn dotted in every panel.
        trained: the largest m of training; what lies beyond it is shaded.
    """
    figure, rows = curves(table, "m", baseline, name, "m = %{x:.0f}: %{y:.1%}", apart=0.09)
    last = int(table.m.max())
    if last > trained:
        figure.add_vrect(trained + 0.5, last + 0.5, fillcolor=RULE, opacity=0.6, line_width=0, layer="below")
    figure.update_xaxes(title_text="operations m; shaded: more than in training", dtick=1, range=[0.5, last + 0.5])
    figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%")
    figure.update_yaxes(title_text="answers right", col=1)
    return framed(figure, title, caption, 320 * rows)


def curves(
    table: pd.DataFrame, x: str, baseline: pd.DataFrame, name: str, hover: str, apart: float = 0.0
) -> tuple[go.Figure, int]:
    """Means with seeds and intervals against a number: a panel for each setting, a line for each label.

    Args:
        table: panel, label, seed, value, the column of `x` and, the same in all rows of (panel, label, x), mean, low,
            high. One seed has no dots: its numbers are exact.
        baseline: value and the column of `x`, drawn dotted in every panel under its `name`.
        hover: what is said of a mean under the pointer.
        apart: between the lines of two labels along x, so that those that lie on one another stay visible.

    Returns:
        The figure, without titles of its axes, and its rows of panels.
    """
    checked(table, "bits", "panel", "label", x, "seed", "value", "mean", "low", "high")
    titles, labels = list(dict.fromkeys(table.panel)), list(dict.fromkeys(table.label))
    figure, places, rows = panels(titles, 3, shared_yaxes="all", horizontal_spacing=0.03)
    told = set()
    for title_of, place in zip(titles, places, strict=True):
        style = dict(line=dict(color=GREY, width=2, dash="dot"), legendgroup=name, showlegend=not told, legendrank=2000)
        figure.add_trace(line(baseline[x], baseline.value, GREY, name, hovertemplate=hover, **style), **place)
        for k, label in enumerate(labels):
            part = table[(table.panel == title_of) & (table.label == label)]
            if part.empty:
                continue
            color, ends = COLORS[k % len(COLORS)], part.drop_duplicates(x).sort_values(x)
            shift = apart * (k - (len(labels) - 1) / 2)
            if part.seed.nunique() > 1:
                figure.add_trace(dots(part[x] + shift, part.value, part.seed, color, label, "y"), **place)
            style = dict(marker=dict(color=color, size=8, symbol=SYMBOLS[k % len(SYMBOLS)]), legendgroup=label)
            style |= dict(error_y=bars(ends["mean"], ends.low, ends.high), hovertemplate=hover)
            style |= dict(mode="lines+markers", showlegend=label not in told)
            figure.add_trace(line(ends[x] + shift, ends["mean"], color, label, **style), **place)
            told.add(label)
    return figure, rows


def differences(table: pd.DataFrame, title: str, caption: str, unit: str = "points") -> go.Figure:
    """Differences with seeds and intervals: a panel for each measure, a row for each label, in the table's order.

    Args:
        table: panel, label, seed, value and, the same in all rows of (panel, label), mean, low, high; shares, drawn in
            points of a hundred.
    """
    checked(table, "bits", "panel", "label", "seed", "value", "mean", "low", "high")
    titles, labels = list(dict.fromkeys(table.panel)), list(dict.fromkeys(table.label))
    figure, places, _ = panels(titles, len(titles), shared_yaxes=True, horizontal_spacing=0.05)
    for name, place in zip(titles, places, strict=True):
        for y, label in enumerate(labels):
            part = table[(table.panel == name) & (table.label == label)]
            if part.empty:
                continue
            color, (mean, low, high) = COLORS[y % len(COLORS)], (100 * part.iloc[0][["mean", "low", "high"]]).tolist()
            figure.add_trace(dots(100 * part.value, [y + 0.25] * len(part), part.seed, color, label, "x"), **place)
            style = dict(mode="markers", marker=dict(color=color, size=10), error_x=bars([mean], [low], [high]))
            style["hovertemplate"] = "%{x:.1f} " + unit
            figure.add_trace(line([mean], [y], color, label, **style), **place)
    figure.add_vline(0, line=dict(color=INK, width=1))  # after the traces: plotly leaves empty panels out
    rows = dict(tickvals=list(range(len(labels))), ticktext=labels, range=[len(labels) - 0.5, -0.5], ticks="")
    figure.update_yaxes(**rows, showgrid=False)
    figure.update_xaxes(title_text=f"difference ({unit}); above 0 is better")
    return framed(figure, title, caption, 40 + 36 * len(labels))


def against(
    table: pd.DataFrame, x: str, titles: tuple[str, str], title: str, caption: str = SEEDS, log: bool = False,
    ticks: Sequence[float] | None = None,
) -> go.Figure:  # fmt: skip
    """Shares of right answers against another number: a panel for each setting, a line for each label.

    Args:
        table: panel, label, value and the column of `x`, a row a point; other columns are not drawn.
        titles: of the axes.
        log: whether x is drawn on a logarithmic axis.
        ticks: values of x that are named on the axis.
    """
    checked(table, "bits", "panel", "label", "value", x)
    names, labels = list(dict.fromkeys(table.panel)), list(dict.fromkeys(table.label))
    figure, places, rows = panels(names, 4, shared_yaxes="all", horizontal_spacing=0.03)
    told = set()
    for name, place in zip(names, places, strict=True):
        for k, label in enumerate(labels):
            part = table[(table.panel == name) & (table.label == label)]
            if part.empty:
                continue
            color, symbol = COLORS[k % len(COLORS)], SYMBOLS[(k + k // len(COLORS)) % len(SYMBOLS)]  # no pair twice
            style = dict(mode="lines+markers", legendgroup=label, showlegend=label not in told)
            style |= dict(marker=dict(color=color, size=8, symbol=symbol))
            figure.add_trace(line(part[x], part.value, color, label, hovertemplate="%{y:.1%}", **style), **place)
            told.add(label)
    figure.update_xaxes(title_text=titles[0], type="log" if log else "linear")
    if ticks is not None:
        figure.update_xaxes(tickvals=list(ticks), ticktext=[f"{tick:g}" for tick in ticks])
    figure.update_yaxes(tickformat=".0%")
    figure.update_yaxes(title_text=titles[1], col=1)
    return framed(figure, title, caption, 300 * rows)
