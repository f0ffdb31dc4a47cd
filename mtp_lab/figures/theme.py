"""Plotly figures: one theme, one way to save and show them, one function a figure.

Functions here only draw. Means and intervals come computed, as columns `mean`, `low`, `high` beside the values of each
seed, so that no figure hides a choice of statistics. Losses come in nats. Drawings of the model are in diagrams.py.
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
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from mtp_lab.files import write_atomic

SANS = "Lato, Helvetica Neue, Arial, sans-serif"  # Lato and DejaVu come with kaleido: the same PNG on any machine
MONO = "DejaVu Sans Mono, Menlo, Consolas, monospace"
INK, GREY, RULE, WRONG = "#222222", "#666666", "#e8e8e8", "#d55e00"
# After Okabe and Ito: the first five differ by 18 or more in CIELAB under each colour blindness, all by their symbols.
MODELS = {1: ("#3a3a3a", "circle"), 2: ("#c98200", "square"), 4: ("#0072b2", "diamond"),
          8: ("#b03a7e", "triangle-up"), 16: ("#00a87a", "pentagon"), 3: ("#56b4e9", "cross"), 6: ("#9a4a00", "x")}
METHODS = ("#d55e00", "#0072b2", "#3a3a3a", "#b03a7e")
BLUES = [[0.0, "#f6f9fc"], [0.5, "#b3d1ea"], [1.0, "#5798d3"]]  # dark text reads on all of it
WIDTH = 1000  # px, of a figure in a README
SEEDS = "Dots: seeds. Bars and bands: 95 % interval of the mean over seeds."

_axis = dict(gridcolor=RULE, linecolor="#b5b5b5", showline=True, ticks="outside", tickcolor="#b5b5b5", ticklen=4,
             zeroline=False, automargin=True, title=dict(standoff=10, font=dict(size=14)))
plotly.io.templates["mtp"] = go.layout.Template(layout=dict(
    font=dict(family=SANS, size=13, color=INK), paper_bgcolor="white", plot_bgcolor="white", xaxis=_axis, yaxis=_axis,
    colorway=[color for color, _ in MODELS.values()], hoverlabel=dict(bgcolor="white", font=dict(family=SANS)),
    legend=dict(orientation="h", xref="container", xanchor="left", yref="container", yanchor="top", font=dict(size=13)),
    title=dict(x=0, xref="container", xanchor="left", yref="container", yanchor="top", pad_l=20, font_size=19),
))


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


# --- saving and showing ------------------------------------------------------------------------------------


@cache
def _scope(process: int):
    """The renderer of this process: kaleido's own browser, which ends with the process. Imported when first used."""
    from kaleido.scopes.plotly import PlotlyScope  # direct: plotly >= 7 refuses to call kaleido 0.2.1 itself

    return PlotlyScope(plotlyjs=str(Path(plotly.__file__).parent / "package_data" / "plotly.min.js"))


def png(figure: go.Figure, width: int | None = None, height: int | None = None, scale: float = 2) -> bytes:
    """A PNG of scale times (width, height) px, by default the figure's own; RuntimeError if it cannot be made."""
    width, height = width or figure.layout.width or WIDTH, height or figure.layout.height or WIDTH // 2
    try:
        return _scope(os.getpid()).transform(json.loads(figure.to_json()), "png", width, height, scale)
    except (ImportError, OSError, ValueError) as error:
        advice = "kaleido must be 0.2.1, installed at a path without spaces"
        raise RuntimeError(f"cannot render a PNG: {str(error).strip()}; {advice}") from error


def save(figure: go.Figure, folder: Path | str, name: str, data: pd.DataFrame | None = None) -> Path:
    """Writes name.json (Plotly), name.png and name.csv (the data behind it); returns the path of the PNG.

    Without data, the CSV of an earlier figure of this name is removed. Nothing is written if the PNG cannot be made.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"name={name!r} must be letters, digits, '.', '_' and '-', and begin with a letter or digit")
    files = {"png": png(figure), "json": json.dumps(json.loads(figure.to_json()), sort_keys=True) + "\n"}
    if data is None:
        (Path(folder) / f"{name}.csv").unlink(missing_ok=True)
    else:
        files["csv"] = data.to_csv(index=False, lineterminator="\n")
    for suffix, content in files.items():
        write_atomic(Path(folder) / f"{name}.{suffix}", content)
    return Path(folder) / f"{name}.png"


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


def framed(
    figure: go.Figure, title: str, caption: str, height: int, width: int | None = None, margin=(75, 35, 60),
) -> go.Figure:
    """Adds theme, title, caption and legend above `height` px of panels; margin: left, right, bottom."""
    left, right, bottom = margin
    room = (width or WIDTH) - 40
    head, small = wrap(title, int(room / 10)), wrap(caption, int(room / 6.2))
    names = [trace.name for trace in figure.data if trace.showlegend]
    legend = -(-sum(50 + 7 * len(name) for name in names) // room)  # rows
    top = 20 + 25 * len(head + small)
    above = top + 28 * legend + (32 if any(note.yref == "paper" for note in figure.layout.annotations) else 10)
    text = "<br>".join([f"<b>{'<br>'.join(head)}</b>"]
                       + [f'<span style="font-size:13px;color:{GREY}">{each}</span>' for each in small])
    total, baseline = above + height + bottom, 30 if "<br>" in text else 17  # SVG shifts a single line down by itself
    figure.update_annotations(selector=dict(yref="paper"), font=dict(size=14, family=SANS, color=INK))
    return figure.update_layout(
        template="mtp", height=total, width=width, margin=dict(l=left, r=right, t=above, b=bottom),
        title=dict(text=text, y=1 - baseline / total),
        legend=dict(y=1 - top / total, x=20 / (room + 40)))


def checked(table: pd.DataFrame, unit: str, *columns: str, losses: Sequence[str] = ()) -> pd.DataFrame:
    """The table, which must have these columns, with its losses turned from nats into `unit` ("bits per byte", ...)."""
    missing = [column for column in (*columns, *losses) if column not in table]
    if missing or table.empty:
        raise ValueError(f"the table has {len(table)} rows and columns {list(table.columns)}; missing {missing}")
    if unit.split()[:1] not in (["bits"], ["nats"]):
        raise ValueError(f"unit={unit!r} must start with 'bits' or 'nats'")
    return table.assign(**{c: table[c] / (math.log(2) if unit.startswith("bits") else 1.0) for c in losses})


def panels(titles: Sequence[str], per_row: int = 5, **options) -> tuple[go.Figure, list[dict[str, int]], int]:
    """Small multiples: the figure, each panel's row and column, and the number of rows."""
    rows = -(-len(titles) // per_row)
    columns = -(-len(titles) // rows)  # rows of one length, if they can be
    options = {"horizontal_spacing": 0.025, "vertical_spacing": 0.18 / rows, **options}
    figure = make_subplots(rows, columns, subplot_titles=[f"<b>{title}</b>" for title in titles], **options)
    return figure, [dict(row=k // columns + 1, col=k % columns + 1) for k in range(len(titles))], rows


def line(x, y, color: str, name: str, width: float = 2, **options) -> go.Scatter:
    """A trace with plain lists in it, so that the saved JSON can be read and compared."""
    options = {"mode": "lines", "line": dict(color=color, width=width), "showlegend": False, **options}
    return go.Scatter(x=list(x), y=list(y), name=name, **options)


def dots(x, y, seeds, color: str, name: str, value: Literal["x", "y"]) -> go.Scatter:
    """One small dot a seed."""
    return line(x, y, color, f"seeds, {name}", mode="markers", opacity=0.5, marker=dict(color=color, size=5),
                customdata=list(seeds), hovertemplate=f"seed %{{customdata}}: %{{{value}:.4f}}")


def bars(mean, low, high) -> dict:
    """Error bars from low to high."""
    up, down = np.subtract(high, mean).tolist(), np.subtract(mean, low).tolist()
    return dict(array=up, arrayminus=down, symmetric=False, thickness=2, width=5)


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
    titles, per_row = [label[by].format(value) for value in values], 5 if by == "n" else 4
    figure, places, rows = panels(titles, per_row, shared_yaxes="all", shared_xaxes="all")
    for value, place in zip(values, places, strict=True):
        for k, group in metrics[metrics[by] == value].groupby(key):
            color, name = horizon_color(k, furthest) if key == "horizon" else model_color(k), label[key].format(k)
            for seed, run in group.groupby("seed"):
                figure.add_trace(line(run.tokens, run.loss, color, f"{name}, seed {seed}", 1, opacity=0.4,
                                      legendgroup=name, hoverinfo="skip"), **place)
            mean = group.groupby("step").agg({"tokens": "first", "loss": "mean", "seed": "nunique"})
            mean = mean[mean.seed == group.seed.nunique()]
            figure.add_trace(line(mean.tokens, mean.loss, color, name, legendgroup=name, showlegend=name not in legend,
                                  hovertemplate="%{y:.3f} " + unit + " at %{x:.3s} tokens"), **place)
            legend.add(name)
    scale, size = "log" if log_tokens else "linear", 11 if len(values) > 4 else 13
    figure.update_xaxes(type=scale, tickformat="~s", nticks=5, tickfont_size=size)
    figure.update_xaxes(title_text="training tokens", row=rows)
    figure.update_yaxes(title_text=f"loss ({unit})", col=1)
    return framed(figure, title, caption, 300 if rows == 1 else 235 * rows)


def loss_by_horizon(table: pd.DataFrame, title: str, caption: str = SEEDS, unit: str = "bits per byte") -> go.Figure:
    """Loss at the end of training against the horizon, a line for each n.

    Args:
        table: n, seed, horizon, loss and, the same in every row of (n, horizon), mean, low, high; all in nats.
    """
    table = checked(table, unit, "n", "seed", "horizon", losses=["loss", "mean", "low", "high"])
    figure, models, last = go.Figure(), sorted(table.n.unique().tolist()), int(table.horizon.max())
    for k, n in enumerate(models):
        seeds, color, name = table[table.n == n], model_color(n), f"n = {n}"
        ends = seeds.drop_duplicates("horizon").sort_values("horizon")
        shift = 0.06 * (k - (len(models) - 1) / 2)  # models side by side
        x, y, alone = ends.horizon + shift, ends["mean"], len(ends) == 1
        figure.add_trace(dots(seeds.horizon + shift, seeds.loss, seeds.seed, color, name, "y"))
        figure.add_trace(line(x, y, color, name, mode="lines+markers", hovertemplate="%{y:.3f} " + unit,
                              error_y=bars(y, ends.low, ends.high) if alone else None,
                              marker=dict(color=color, size=8, symbol=MODELS[n][1])))
        if not alone:
            figure.add_trace(line([*x, *x[::-1]], [*ends.low, *ends.high[::-1]], color, f"interval, {name}", 0,
                                  fill="toself", fillcolor=color, opacity=0.15, hoverinfo="skip"))
        figure.add_annotation(x=x.iloc[-1], y=y.iloc[-1], text=f"<b>{name}</b>", font=dict(color=color, size=14),
                              showarrow=False, xanchor="left", xshift=10, yshift=0 if n == models[-1] else -14)
    figure.update_xaxes(title_text="horizon i: x<sub>t+i</sub> is predicted at position t",
                        range=[0.7, 1.08 * last + 0.3], tickvals=list(range(1, last + 1)))
    figure.update_yaxes(title_text=f"loss ({unit})")
    return framed(figure, title, caption, 360)


def next_token_loss(table: pd.DataFrame, title: str, caption: str = SEEDS, unit: str = "bits per byte") -> go.Figure:
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
        marker = dict(color=color, size=11, symbol=symbol, line=dict(color=color, width=2))
        figure.add_trace(dots(seeds.loss, [y + 0.22] * len(seeds), seeds.seed, color, name, "x"), **places[0])
        for place, what in zip(places, (parts[:3], parts[3:]), strict=True):
            mean, low, high = ([model[column]] for column in what)
            if not np.isnan(mean[0]):
                figure.add_trace(line(mean, [y], color, f"{what[0]}, {name}", mode="markers", marker=marker,
                                      error_x=bars(mean, low, high), hovertemplate="%{x:.4f} " + unit), **place)
            else:
                figure.add_annotation(x=0, y=y, text="reference", showarrow=False, xanchor="left", xshift=5, **place)
    figure.update_yaxes(tickvals=list(range(y + 1)), ticktext=ticks, ticks="", range=[y + 0.5, -0.5], showgrid=False)
    figure.update_xaxes(title_text=f"loss ({unit})", col=1)
    figure.update_xaxes(title_text=f"difference ({unit}); below 0 is better", col=2, rangemode="tozero")
    figure.add_vline(0, line=dict(color=INK, width=1), col=2)
    return framed(figure, title, caption, 30 + 52 * len(ticks))


def memory(
    table: pd.DataFrame, title: str, caption: str = "Peak of what is kept for the backward pass.", log: bool = False,
) -> go.Figure:
    """Peak memory against n, a line a method, a panel for each vocabulary with its own axis (if log, one for all).

    Args:
        table: n, vocab, method ("reference", "sequential", ...), bytes.
    """
    checked(table, "bits", "n", "vocab", "method", "bytes")
    vocabularies, methods = sorted(table.vocab.unique().tolist()), sorted(table.method.unique().tolist())
    shared, gap = ("all", 0.03) if log else (False, 0.1)
    titles = [f"vocabulary {vocab:,}" for vocab in vocabularies]
    figure, places, rows = panels(titles, 3, shared_yaxes=shared, horizontal_spacing=gap)
    for vocab, place in zip(vocabularies, places, strict=True):
        panel = table[table.vocab == vocab].sort_values("n")
        power = max(0, min(3, int(math.log((table if log else panel).bytes.max(), 1024))))
        for method, part in panel.groupby("method"):
            x, y = part.n.to_numpy(), part.bytes.to_numpy() / 1024**power
            color = METHODS[methods.index(method) % len(METHODS)]
            figure.add_trace(line(x, y, color, method, mode="lines+markers", marker=dict(color=color, size=8),
                                  hovertemplate="n = %{x}: %{y:.3~g}"), **place)
            figure.add_annotation(x=x[-1], y=math.log10(y[-1]) if log else y[-1], text=f"<b>{method}</b>", yshift=12,
                                  xanchor="right", showarrow=False, font=dict(color=color), **place)
        if not log or place["col"] == 1:
            figure.update_yaxes(title_text=f"peak memory ({('bytes', 'KiB', 'MiB', 'GiB')[power]})", **place)
    figure.update_xaxes(title_text="future tokens n", tickvals=sorted(table.n.unique().tolist()))
    figure.update_yaxes(type="log" if log else "linear", rangemode="tozero", tickformat="~g" if log else None)
    return framed(figure, title, caption, 300 * rows)
