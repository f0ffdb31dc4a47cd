"""Pictures of the inside of models and of how it forms: curves over training, survival, grids of numbers, ablation."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mtp_lab.figures.theme import BLUES, GREY, INK, MODELS, WIDTH, WRONG, checked, framed, line, panels

COLORS = [color for color, _ in MODELS.values()]


def formation(
    table: pd.DataFrame, title: str, caption: str, x: str = "step", percent: bool = True, dashed: Sequence[str] = ()
) -> go.Figure:
    """A measure against training, a panel for each setting: seeds thin, their mean thick.

    Args:
        table: panel, label, seed, value, and the column of `x`; panels and labels in the table's order. The mean
            covers the steps that all seeds of a label have.
        dashed: labels that are drawn dashed, such as baselines.
    """
    checked(table, "bits", "panel", "label", "seed", "value", x)
    figure, lines, rows = _lines(table, x)
    for label, part, color, place, legend in lines:
        dash = "dot" if label in dashed else "solid"
        for seed, run in part.sort_values(x).groupby("seed"):
            style = dict(line=dict(color=color, width=1, dash=dash), opacity=0.45, hoverinfo="skip", legendgroup=label)
            figure.add_trace(line(run[x], run.value, color, f"{label}, seed {seed}", **style), **place)
        mean = part.groupby(x).value.agg(["mean", "size"])
        mean = mean[mean["size"] == part.seed.nunique()]["mean"]
        style = dict(line=dict(color=color, width=3, dash=dash), legendgroup=label, showlegend=legend)
        style["hovertemplate"] = "%{y:.1%} at %{x:.3s}" if percent else "%{y:.3f} at %{x:.3s}"
        figure.add_trace(line(mean.index, mean, color, label, **style), **place)
    if percent:
        figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%")
    return framed(figure, title, caption, 300 * rows)


def survival(table: pd.DataFrame, x: str, title: str, caption: str) -> go.Figure:
    """The share of seeds that have not got there yet, against training; a panel a setting, a line a label.

    Seeds that never do stay to the end of their training, where their line ends in a cross (Kaplan & Meier 1958, with
    all censoring at the end).

    Args:
        table: panel, label, seed, reached (bool) and the column of `x`: when, or the end of training.
    """
    checked(table, "bits", "panel", "label", "seed", "reached", x)
    labels = list(dict.fromkeys(table.label))
    figure, lines, rows = _lines(table, x)
    for label, part, color, place, legend in lines:
        times, last = np.sort(part[part.reached][x].to_numpy(float)), float(part[x].max())
        left = 1 - np.arange(len(times) + 1) / len(part)
        end = [last] if len(times) < len(part) else []
        shift = 0.012 * (labels.index(label) - (len(labels) - 1) / 2)  # lines that lie on one another stay visible
        y = [*left, *left[-1:]] if end else list(left)
        style = dict(line=dict(color=color, width=3, shape="hv"), legendgroup=label, showlegend=legend)
        style["hovertemplate"] = "%{y:.0%} left at %{x:.3s}"
        figure.add_trace(line([0, *times, *end], np.array(y) + shift, color, label, **style), **place)
        if end:
            style = dict(mode="markers", marker=dict(symbol="x", size=10, color=color), hoverinfo="skip")
            figure.add_trace(line(end, [left[-1] + shift], color, "not reached", **style), **place)
    figure.update_yaxes(range=[-0.05, 1.05], tickformat=".0%")
    figure.update_yaxes(title_text="seeds left", col=1)
    return framed(figure, title, caption, 260 * rows)


def _lines(table: pd.DataFrame, x: str) -> tuple[go.Figure, list[tuple[str, pd.DataFrame, str, dict, bool]], int]:
    """A panel for each setting, over training.

    Returns:
        The figure; for each label of each panel its name, rows, colour, place, and whether it is new to the legend; the
        number of rows of panels.
    """
    titles, labels = list(dict.fromkeys(table.panel)), list(dict.fromkeys(table.label))
    figure, places, rows = panels(titles, 4, shared_yaxes="all", horizontal_spacing=0.03)
    figure.update_xaxes(tickformat="~s", nticks=6)
    columns = max(place["col"] for place in places)
    for place in places[-columns:]:  # the lowest of each column: other titles would lie on the panel below
        figure.update_xaxes(title_text=f"training {x}s" if x == "step" else f"training {x}", **place)
    lines, told = [], set()
    for name, place in zip(titles, places, strict=True):
        for k, label in enumerate(labels):
            part = table[(table.panel == name) & (table.label == label)]
            if len(part):
                lines.append((label, part, COLORS[k % len(COLORS)], place, label not in told))
                told.add(label)
    return figure, lines, rows


def grid(
    table: pd.DataFrame, title: str, caption: str, rows: str = "layer", columns: str = "head", unit: str = "",
    limit: float | None = None,
) -> go.Figure:  # fmt: skip
    """Numbers in cells, a panel each: attention heads by layer, positions by layer, settings by settings.

    Args:
        table: panel, value, the columns named by `rows` and `columns`, all in the table's order, and optionally text,
            what is written in a cell (by default the value with two digits).
        unit: title of the columns' axis.
        limit: the value of the darkest blue; by default the largest. Values below 0 stay white.
    """
    checked(table, "bits", "panel", "value", rows, columns)
    titles = list(dict.fromkeys(table.panel))
    down, across = (list(dict.fromkeys(table[column])) for column in (rows, columns))
    figure, places, lines = panels(titles, 4, shared_yaxes="all", horizontal_spacing=0.03)
    most = max(float(table.value.max()), 1e-9) if limit is None else limit
    for name, place in zip(titles, places, strict=True):
        part = table[table.panel == name].set_index([rows, columns])
        cells = part.value.unstack().reindex(index=down, columns=across)
        text = part.text.unstack().reindex(index=down, columns=across) if "text" in part else cells.map("{:.2f}".format)
        figure.add_trace(
            go.Heatmap(
                z=cells.to_numpy().tolist(), x=list(map(str, across)), y=list(map(str, down)), xgap=2, ygap=2,
                text=text.where(cells.notna(), "").to_numpy().tolist(), texttemplate="%{text}", colorscale=BLUES,
                zmin=0, zmax=most, showscale=False, hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>",
                textfont=dict(color=INK, size=12),
            ),
            **place,
        )  # fmt: skip
    figure.update_xaxes(type="category", showgrid=False, ticks="", showline=False)
    figure.update_xaxes(title_text=unit, row=lines)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, ticks="", showline=False)
    return framed(figure, title, caption, (60 + 34 * len(down)) * lines, WIDTH)


def dose_response(table: pd.DataFrame, title: str, caption: str) -> go.Figure:
    """A measure without the k most suspected attention heads, beside k others: a panel a model, seeds thin.

    Args:
        table: panel, seed, k, set ("ranked" or "random"), draw, value (a share).
    """
    checked(table, "bits", "panel", "seed", "k", "set", "draw", "value")
    titles = list(dict.fromkeys(table.panel))
    figure, places, rows = panels(titles, 4, shared_yaxes="all", horizontal_spacing=0.03)
    looks = {"ranked": (WRONG, "the k most suspected"), "random": (GREY, "k others, the same layers where they can be")}
    for name, place in zip(titles, places, strict=True):
        for kind, (color, label) in looks.items():
            part = table[(table.panel == name) & (table["set"] == kind)]
            for (seed, draw), one in part.sort_values("k").groupby(["seed", "draw"]):
                style = dict(line=dict(color=color, width=1), opacity=0.3, hoverinfo="skip")
                figure.add_trace(line(one.k, one.value, color, f"seed {seed}, draw {draw}", **style), **place)
            mean = part.groupby("k").value.mean()
            style = dict(mode="lines+markers", line=dict(color=color, width=3), marker=dict(color=color, size=8))
            style |= dict(showlegend=name == titles[0], legendgroup=kind, hovertemplate="k = %{x}: %{y:.1%}")
            figure.add_trace(line(mean.index, mean, color, label, **style), **place)
    figure.update_xaxes(title_text="attention heads ablated, k", dtick=1)
    figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%")
    return framed(figure, title, caption, 280 * rows)
