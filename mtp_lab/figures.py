"""Plotly figures: one theme, one way to save and show them, one function a figure.

Functions here draw and nothing else. Means and intervals come computed, as columns `mean`, `low`, `high` beside the
raw values of each seed, so that a figure never hides a choice of statistics. Losses come in nats and are drawn in the
unit asked for. Drawings of the model itself are in diagrams.py.
"""

import json
import math
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from textwrap import wrap
from typing import Literal
from warnings import warn

import numpy as np
import pandas as pd
import plotly
import plotly.graph_objects as go
import plotly.io as pio
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from mtp_lab.files import write_atomic

SANS = "Lato, Helvetica Neue, Arial, sans-serif"  # Lato and DejaVu come with kaleido: the same PNG on any machine
MONO = "DejaVu Sans Mono, Menlo, Consolas, monospace"
INK, GREY, RULE, WRONG = "#222222", "#666666", "#e8e8e8", "#d55e00"
# After Okabe and Ito; any two differ by at least 18 in CIELAB under each colour blindness, and so do the symbols.
MODELS = {1: ("#3a3a3a", "circle"), 2: ("#c98200", "square"), 4: ("#0072b2", "diamond"),
          8: ("#b03a7e", "triangle-up"), 16: ("#00a87a", "pentagon"), 3: ("#56b4e9", "cross"), 6: ("#9a4a00", "x")}
METHODS = ("#d55e00", "#0072b2", "#3a3a3a", "#b03a7e")
BLUES = [[0.0, "#f4f8fc"], [0.5, "#8fbcdf"], [1.0, "#0b4a8a"]]
WIDTH = 1000  # px, of a figure in a README

_axis = dict(gridcolor=RULE, linecolor="#b5b5b5", showline=True, ticks="outside", tickcolor="#b5b5b5", ticklen=4,
             zeroline=False, automargin=True, title=dict(standoff=10, font=dict(size=14)))
pio.templates["mtp"] = go.layout.Template(layout=dict(
    font=dict(family=SANS, size=13, color=INK), paper_bgcolor="white", plot_bgcolor="white", xaxis=_axis, yaxis=_axis,
    colorway=[color for color, _ in MODELS.values()], hoverlabel=dict(bgcolor="white", font=dict(family=SANS)),
    legend=dict(orientation="h", x=0, xanchor="left", yref="container", yanchor="top", font=dict(size=13)),
    title=dict(x=0, xref="container", xanchor="left", yref="container", yanchor="top", pad=dict(l=20),
               font=dict(size=19)),
))


def horizon_color(i: int, n: int) -> str:
    """The colour of horizon i of n: a truncated Viridis, horizon 1 darkest, the same up to n = 4."""
    if not 1 <= i <= n:
        raise ValueError(f"horizon i={i} must be from 1 to n={n}")
    steps = max(n - 1, 3)
    place = ((i - 1) / steps) ** min(1.0, math.log(5) / math.log(steps))  # horizon 2 is a fifth of the way or more
    return sample_colorscale("Viridis", 0.8 * place)[0]


def model_color(n: int) -> str:
    """The colour of the model of n future tokens, the same in every figure.

    Raises:
        ValueError: if n has no colour.
    """
    if n not in MODELS:
        raise ValueError(f"n={n} has no colour; known: {', '.join(map(str, sorted(MODELS)))}")
    return MODELS[n][0]


# --- saving and showing ------------------------------------------------------------------------------------------------


@cache
def _scope(process: int):
    """The renderer of this process: kaleido's own browser, which ends with the process. Imported when first used."""
    from kaleido.scopes.plotly import PlotlyScope  # direct: plotly >= 7 refuses to call kaleido 0.2.1 itself

    return PlotlyScope(plotlyjs=str(Path(plotly.__file__).parent / "package_data" / "plotly.min.js"))


def as_json(figure: go.Figure) -> str:
    """Canonical Plotly JSON: equal figures give equal text."""
    return json.dumps(json.loads(figure.to_json()), sort_keys=True, separators=(",", ":")) + "\n"


def png(figure: go.Figure, width: int | None = None, height: int | None = None, scale: float = 2) -> bytes:
    """The figure as a PNG of `scale` times width x height pixels; by default the figure's own size, or 1000 x 500.

    Raises:
        RuntimeError: if the renderer cannot start or refuses the figure.
    """
    width, height = width or figure.layout.width or WIDTH, height or figure.layout.height or WIDTH // 2
    try:
        return _scope(os.getpid()).transform(json.loads(figure.to_json()), "png", width, height, scale)
    except (ImportError, OSError, ValueError) as error:
        raise RuntimeError(f"cannot render a PNG: {str(error).strip()}; kaleido must be 0.2.1, which carries its own "
                           "browser, installed at a path without spaces") from error


def save(figure: go.Figure, folder: Path | str, name: str, data: pd.DataFrame | None = None) -> Path:
    """Writes name.json (Plotly), name.png and name.csv (the data behind it); returns the path of the PNG.

    Without data, a CSV of an earlier figure of this name is removed. If rendering fails nothing is written.

    Raises:
        ValueError: if the name is not a plain file name.
        RuntimeError: as `png`.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"name={name!r} must be made of letters, digits, '.', '_' and '-', and start with none of the last two")
    picture, stem = png(figure), Path(folder) / name
    write_atomic(stem.with_name(f"{name}.json"), as_json(figure))
    if data is None:
        stem.with_name(f"{name}.csv").unlink(missing_ok=True)
    else:
        write_atomic(stem.with_name(f"{name}.csv"), data.to_csv(index=False, lineterminator="\n"))
    write_atomic(stem.with_name(f"{name}.png"), picture)
    return stem.with_name(f"{name}.png")


def show(figure: go.Figure) -> None:
    """One notebook output with two faces: JupyterLab draws it interactive, a code host's viewer shows the picture."""
    from IPython.display import display

    bundle: dict[str, object] = {"application/vnd.plotly.v1+json": {**json.loads(figure.to_json()), "config": {}}}
    try:
        bundle["image/png"] = png(figure)
    except RuntimeError as error:
        warn(f"shown without a picture: {error}", stacklevel=2)
    display(bundle, raw=True)


# --- what the figures share --------------------------------------------------------------------------------


def framed(figure: go.Figure, title: str, caption: str, height: int, width: int | None = None,
           margin: tuple[int, int, int] = (75, 35, 60)) -> go.Figure:
    """Gives the figure the theme, title, caption and legend above `height` px of panels (margin: left, right, bottom)."""
    left, right, bottom = margin
    room = (width or WIDTH) - 40
    head, small = wrap(title, int(room / 10)), wrap(caption, int(room / 6.2))
    names = [trace.name for trace in figure.data if trace.showlegend]
    legend = -(-sum(50 + 7 * len(name) for name in names) // (room - 70))  # rows
    titled = any(note.yref == "paper" for note in figure.layout.annotations)
    top = 20 + 25 * (len(head) + len(small))
    above = top + 24 * legend + (32 if titled else 10)
    text = [f"<b>{'<br>'.join(head)}</b>", *(f'<span style="font-size:13px;color:{GREY}">{each}</span>' for each in small)]
    total = above + height + bottom
    figure.update_annotations(selector=dict(yref="paper"), font=dict(size=14, family=SANS, color=INK))
    return figure.update_layout(
        template="mtp", height=total, width=width, margin=dict(l=left, r=right, t=above, b=bottom),
        title=dict(text="<br>".join(text), y=1 - (30 if len(text) > 1 or len(head) > 1 else 17) / total),  # SVG's baseline
        legend=dict(y=1 - top / total, x=(20 - left) / (room + 40 - left - right)))


def checked(table: pd.DataFrame, unit: str | None, *columns: str, losses: Sequence[str] = ()) -> pd.DataFrame:
    """The table, with the columns of losses turned from nats into `unit` ("bits per byte", "nats per token", ...).

    Raises:
        ValueError: if the table is empty or lacks a column, or if the unit is neither bits nor nats.
    """
    missing = [column for column in (*columns, *losses) if column not in table.columns]
    if missing or table.empty:
        raise ValueError(f"the table has {len(table)} rows and columns {list(table.columns)}; missing {missing}")
    if unit is not None and unit.split()[:1] not in (["bits"], ["nats"]):
        raise ValueError(f"unit={unit!r} must start with 'bits' or 'nats'")
    nats = math.log(2) if unit is not None and unit.startswith("bits") else 1.0
    return table.assign(**{column: table[column] / nats for column in losses})


def panels(titles: Sequence[str], per_row: int = 5, **options) -> tuple[go.Figure, list[dict[str, int]], int]:
    """Small multiples: the figure, each panel's row and column, and the number of rows."""
    columns = min(per_row, len(titles))
    rows = -(-len(titles) // columns)
    options = {"horizontal_spacing": 0.025, "vertical_spacing": 0.18 / rows, **options}
    figure = make_subplots(rows, columns, subplot_titles=[f"<b>{title}</b>" for title in titles], **options)
    return figure, [dict(row=k // columns + 1, col=k % columns + 1) for k in range(len(titles))], rows


def line(x, y, color: str, name: str, width: float = 2, **options) -> go.Scatter:
    """A trace with plain lists in it, so that the saved JSON can be read and compared."""
    options = {"mode": "lines", "line": dict(color=color, width=width), "showlegend": False, **options}
    return go.Scatter(x=list(x), y=list(y), name=name, **options)


def bars(mean, low, high, width: float = 2) -> dict:
    """Error bars from low to high."""
    above, below = np.subtract(high, mean).tolist(), np.subtract(mean, low).tolist()
    return dict(array=above, arrayminus=below, symmetric=False, thickness=width, width=5)


# --- the figures --------------------------------------------------------------------------------------------


def training_curves(
    metrics: pd.DataFrame, title: str, caption: str = "Thin: one seed. Thick: mean over seeds.",
    unit: str = "bits per byte", by: Literal["n", "horizon"] = "n", log_tokens: bool = True,
) -> go.Figure:
    """Loss against training tokens: a panel for each n, a line for each horizon, or (by="horizon") the reverse.

    Args:
        metrics: n, seed, horizon, step, tokens, loss (nats). The mean covers the steps that all seeds have.
    """
    metrics = checked(metrics, unit, "n", "seed", "horizon", "step", "tokens", losses=["loss"]).sort_values("step")
    if by not in ("n", "horizon"):
        raise ValueError(f"by={by!r} must be 'n' or 'horizon'")
    label, key = {"n": "n = {}", "horizon": "horizon {}"}, "horizon" if by == "n" else "n"
    values, furthest, legend = sorted(metrics[by].unique().tolist()), int(metrics.horizon.max()), set()
    figure, places, rows = panels([label[by].format(v) for v in values], 5 if by == "n" else 4,
                                  shared_yaxes="all", shared_xaxes="all")
    for value, place in zip(values, places, strict=True):
        for k, group in metrics[metrics[by] == value].groupby(key):
            color, name = horizon_color(k, furthest) if key == "horizon" else model_color(k), label[key].format(k)
            for seed, run in group.groupby("seed"):
                figure.add_trace(line(run.tokens, run.loss, color, f"{name}, seed {seed}", 1, opacity=0.4,
                                      legendgroup=name, hoverinfo="skip"), **place)
            mean = group.groupby("step").agg(tokens=("tokens", "first"), loss=("loss", "mean"), seeds=("seed", "nunique"))
            mean = mean[mean.seeds == group.seed.nunique()]
            figure.add_trace(line(mean.tokens, mean.loss, color, name, legendgroup=name, showlegend=name not in legend,
                                  hovertemplate="%{y:.3f} " + unit + " at %{x:.3s} tokens"), **place)
            legend.add(name)
    figure.update_xaxes(type="log" if log_tokens else "linear", tickformat="~s", nticks=5,
                        tickfont=dict(size=11 if len(values) > 4 else 13))
    figure.update_xaxes(title_text="training tokens", row=rows)
    figure.update_yaxes(title_text=f"loss ({unit})", col=1)
    return framed(figure, title, caption, 300 if rows == 1 else 235 * rows)


def loss_by_horizon(
    table: pd.DataFrame, title: str, caption: str = "Dots: seeds. Band or bar: 95 % interval of the mean over seeds.",
    unit: str = "bits per byte",
) -> go.Figure:
    """Loss at the end of training against the horizon, a line for each n.

    Args:
        table: n, seed, horizon, loss and, the same in every row of (n, horizon), mean, low, high; all in nats.
    """
    table = checked(table, unit, "n", "seed", "horizon", losses=["loss", "mean", "low", "high"])
    figure, models, last = go.Figure(), sorted(table.n.unique().tolist()), int(table.horizon.max())
    for k, n in enumerate(models):
        seeds, color, name = table[table.n == n], model_color(n), f"n = {n}"
        ends = seeds.drop_duplicates("horizon").sort_values("horizon")
        shift = 0.04 * (k - (len(models) - 1) / 2)  # models side by side
        x, symbol = ends.horizon + shift, MODELS[n][1]
        if len(ends) > 1:
            figure.add_trace(line([*x, *x[::-1]], [*ends.low, *ends.high[::-1]], color, f"interval, {name}", 0,
                                  fill="toself", fillcolor=color, opacity=0.15, hoverinfo="skip"))
        figure.add_trace(line(seeds.horizon + shift, seeds.loss, color, f"seeds, {name}", mode="markers", opacity=0.5,
                              marker=dict(color=color, size=5), customdata=list(seeds.seed),
                              hovertemplate="seed %{customdata}: %{y:.3f}"))
        figure.add_trace(line(x, ends["mean"], color, name, mode="lines+markers", hovertemplate="%{y:.3f} " + unit,
                              error_y=bars(ends["mean"], ends.low, ends.high) if len(ends) == 1 else None,
                              marker=dict(color=color, size=8, symbol=symbol)))
        figure.add_annotation(x=x.iloc[-1], y=ends["mean"].iloc[-1], text=f"<b>{name}</b>", font=dict(color=color, size=14),
                              showarrow=False, xanchor="left", xshift=10, yshift=0 if ends.horizon.max() == last else -14)
    figure.update_xaxes(title_text="horizon i: x<sub>t+i</sub> is predicted at position t", range=[0.7, 1.08 * last + 0.3],
                        tickvals=list(range(1, last + 1)))
    figure.update_yaxes(title_text=f"loss ({unit})")
    return framed(figure, title, caption, 360)


def next_token_loss(
    table: pd.DataFrame, title: str, caption: str = "Dots: seeds. Bars: 95 % interval of the mean over seeds.",
    unit: str = "bits per byte",
) -> go.Figure:
    """The next-token loss of each model and its control, and beside it the difference to n = 1.

    Args:
        table: label, n, depth (layers on the next-token path), matching ("compute-matched" or "depth-matched"), seed,
            loss and, the same in all rows of a model, mean, low, high, difference, difference_low, difference_high
            (NaN for the reference itself); losses in nats. Models are drawn in the table's order.
    """
    parts = ("mean", "low", "high", "difference", "difference_low", "difference_high")
    table = checked(table, unit, "label", "n", "depth", "matching", "seed", losses=["loss", *parts])
    figure, places, _ = panels(["next-token loss", "difference to n = 1"], shared_yaxes=True, horizontal_spacing=0.04)
    ticks = []
    for y, (key, seeds) in enumerate(table.groupby(["label", "matching", "depth"], sort=False)):
        model, color, name = seeds.iloc[0], model_color(seeds.n.iloc[0]), "{}, {}, depth {}".format(*key)
        ticks.append(f'{key[0]}<br><span style="font-size:11px;color:{GREY}">{key[1]}, depth {key[2]}</span>')
        symbol = MODELS[model.n][1] + ("-open" if key[1] == "depth-matched" else "")
        figure.add_trace(line(seeds.loss, [y + 0.22] * len(seeds), color, f"seeds, {name}", mode="markers", opacity=0.5,
                              marker=dict(color=color, size=5), customdata=list(seeds.seed),
                              hovertemplate="seed %{customdata}: %{x:.4f}"), **places[0])
        for place, what in zip(places, (parts[:3], parts[3:]), strict=True):
            mean, low, high = ([model[column]] for column in what)
            if not np.isnan(mean[0]):
                figure.add_trace(line(mean, [y], color, f"{what[0]}, {name}", mode="markers", error_x=bars(mean, low, high),
                                      marker=dict(color=color, size=11, symbol=symbol, line=dict(color=color, width=2)),
                                      hovertemplate="%{x:.4f} " + unit), **place)
    figure.update_yaxes(tickvals=list(range(len(ticks))), range=[len(ticks) - 0.5, -0.5], showgrid=False, ticklen=0)
    figure.update_yaxes(ticktext=ticks, col=1)
    figure.update_xaxes(title_text=f"loss ({unit})", col=1)
    figure.update_xaxes(title_text=f"difference ({unit}); below 0 is better", col=2, rangemode="tozero")
    figure.add_vline(0, line=dict(color=INK, width=1), col=2)
    return framed(figure, title, caption, 30 + 52 * len(ticks))


def memory(
    table: pd.DataFrame, title: str, caption: str = "Peak of what is kept for the backward pass.", log: bool = False,
) -> go.Figure:
    """Peak memory against n: a panel for each vocabulary with an axis of its own (one for all if log), a line a method.

    Args:
        table: n, vocab, method ("reference", "sequential", ...), bytes.
    """
    checked(table, None, "n", "vocab", "method", "bytes")
    vocabularies, methods = sorted(table.vocab.unique().tolist()), sorted(table.method.unique().tolist())
    figure, places, rows = panels([f"vocabulary {v:,}" for v in vocabularies], 3, shared_yaxes="all" if log else False,
                                  horizontal_spacing=0.03 if log else 0.1)
    for vocab, place in zip(vocabularies, places, strict=True):
        shown = table if log else table[table.vocab == vocab]
        power = max(0, min(3, int(math.log(shown.bytes.max(), 1024))))
        for color, method in zip(METHODS, methods, strict=False):
            part = table[(table.vocab == vocab) & (table.method == method)].sort_values("n")
            y = part.bytes / 1024**power
            figure.add_trace(line(part.n, y, color, method, mode="lines+markers", marker=dict(color=color, size=8),
                                  hovertemplate="n = %{x}: %{y:.3~g}"), **place)
            figure.add_annotation(x=part.n.iloc[-1], y=math.log10(y.iloc[-1]) if log else y.iloc[-1], yshift=12,
                                  text=f"<b>{method}</b>", xanchor="right", showarrow=False, font=dict(color=color), **place)
        if not log or place["col"] == 1:
            figure.update_yaxes(title_text=f"peak memory ({('bytes', 'KiB', 'MiB', 'GiB')[power]})", **place)
    figure.update_xaxes(title_text="future tokens n", tickvals=sorted(table.n.unique().tolist()))
    figure.update_yaxes(type="log" if log else "linear", rangemode="tozero", tickformat="~g" if log else None)
    return framed(figure, title, caption, 300 * rows)
