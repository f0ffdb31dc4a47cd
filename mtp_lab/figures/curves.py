"""Lines against a number: losses and success over training, by horizon, by n, by operations, by ablated heads.

`seed_curves` draws them all: a panel for each setting, a line for each label, seeds faint, their mean, its interval.
The other functions name the axes. Not here: rows of bars and points (comparisons.py).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mtp_lab.figures.theme import (
    CATEGORIES,
    GREY,
    RULE,
    SEEDS,
    WIDTH,
    WRONG,
    Look,
    bars,
    checked,
    dots,
    framed,
    horizon_color,
    line,
    looks_of,
    model_color,
    model_look,
    panels,
)

METHODS = ("#d55e00", "#0072b2", "#3a3a3a", "#b03a7e")
MODES = looks_of(("greedy", "sampled", "real text"))
SPEEDS = ("#3a3a3a", "#0072b2", "#b03a7e", "#00a87a")
UPPER_BOUND = "(n + 1)/2, the upper bound"

Panels = tuple[go.Figure, dict[str, dict[str, int]], int]
"""The figure, each panel's row and column by its title, and the number of rows of panels."""


def seed_curves(
    table: pd.DataFrame,
    x: str,
    hover: str,
    looks: Mapping[str, Look] | None = None,
    seeds: Literal["lines", "dots"] | None = None,
    interval: Literal["bars", "band"] | None = None,
    apart: float = 0.0,
    seed_style: Mapping[str, Any] | None = None,
    mean_style: Mapping[str, Any] | None = None,
    per_row: int = 4,
    **options,
) -> Panels:
    """Values against the column `x`: a panel for each setting, a line for each label, with its seeds and its interval.

    Args:
        table: panel, label, value and the column of `x`; with `seeds` also seed, and draw where a seed has several
            curves; with `interval` also mean, low and high, the same in all rows of (panel, label, x).
        hover: hover text of a line's points.
        looks: of the labels, in the order in which they are drawn; by default one for each label of the table.
        seeds: how each seed is drawn. One seed has no dots: its numbers are exact.
        interval: how low to high is drawn; a line of one point has a bar. Without it the line is the mean over seeds
            where all seeds of its label have a value, and without seeds the rows of the table as they are.
        apart: between the lines of two labels along x, so that lines with equal values stay visible.
        seed_style, mean_style: changes to the traces of seeds and means, such as dict(marker_size=7).
        options: of the panels (`theme.panels`).
    """
    checked(table, "panel", "label", x, "value", *["seed"] * bool(seeds), *["mean", "low", "high"] * bool(interval))
    titles, looks, in_legend = list(dict.fromkeys(table.panel)), looks or looks_of(table.label), set()
    figure, places, rows = panels(titles, per_row, **{"shared_yaxes": "all", "horizontal_spacing": 0.03, **options})
    for title, place in zip(titles, places, strict=True):
        for k, (label, look) in enumerate(looks.items()):
            part = table[(table.panel == title) & (table.label == label)]
            if part.empty:
                continue
            if apart:
                part = part.assign(**{x: part[x] + apart * (k - (len(looks) - 1) / 2)})
            for trace in _seed_traces(part, x, label, look, seeds):
                figure.add_trace(trace.update(legendgroup=label).update(seed_style or {}), **place)
            curve = _curve(part, x, seeds, interval)
            style = dict(mode="lines+markers", marker=dict(color=look.color, size=8, symbol=look.symbol))
            mean = line(curve[x], curve["mean"], look.color, label, **(style if look.symbol else {}))
            mean.update(line_dash=look.dash, hovertemplate=hover, legendgroup=label, showlegend=label not in in_legend)
            if interval == "bars" or (interval and len(curve) == 1):
                mean.error_y = bars(curve["mean"], curve.low, curve.high)
            figure.add_trace(mean.update(mean_style or {}), **place)
            if interval == "band" and len(curve) > 1:
                around = [*curve[x], *curve[x][::-1]], [*curve.low, *curve.high[::-1]]
                style = dict(fill="toself", fillcolor=look.color, opacity=0.15, hoverinfo="skip", legendgroup=label)
                figure.add_trace(line(*around, look.color, f"interval, {label}", 0, **style), **place)
            in_legend.add(label)
    return figure, dict(zip(titles, places, strict=True)), rows


def _seed_traces(part: pd.DataFrame, x: str, label: str, look: Look, seeds: str | None) -> list[go.Scatter]:
    """The seeds of one label in one panel: a thin line for each, or one trace of dots."""
    if seeds == "dots" and part.seed.nunique() > 1:
        return [dots(part[x], part.value, part.seed, look.color, label, "y")]
    if seeds != "lines":
        return []
    runs = part.sort_values(x).groupby([column for column in ("seed", "draw") if column in part])
    style = dict(opacity=0.45, hoverinfo="skip", line=dict(color=look.color, width=1, dash=look.dash))
    return [line(run[x], run.value, look.color, f"{label}, seed {seed}", **style) for (seed, *_), run in runs]


def _curve(part: pd.DataFrame, x: str, seeds: str | None, interval: str | None) -> pd.DataFrame:
    """The points of a line: columns `x` and mean, and low and high if there is an interval."""
    if interval:
        return part.drop_duplicates(x).sort_values(x)
    if not seeds:
        return part.assign(mean=part.value)
    curve = part.groupby(x, as_index=False).agg(mean=("value", "mean"), seeds=("seed", "nunique"))
    return curve[curve.seeds == part.seed.nunique()]


# --- over training -----------------------------------------------------------------------------------------


def training_curves(
    metrics: pd.DataFrame,
    title: str,
    caption: str = "Thin: one seed. Thick: mean over seeds.",
    unit: str = "bits per byte",
    by: Literal["n", "horizon"] = "n",
    log_tokens: bool = True,
) -> go.Figure:
    """Loss against training tokens: a panel for each n, a line for each horizon, or (by="horizon") the reverse.

    Args:
        metrics: n, seed, horizon, step, tokens, loss (nats). The mean covers the steps that all seeds have.
    """
    metrics = checked(metrics, "n", "seed", "horizon", "step", "tokens", unit=unit, losses=["loss"])
    if by not in ("n", "horizon"):
        raise ValueError(f"by={by!r} must be 'n' or 'horizon'")
    names, other = {"n": "n = {}", "horizon": "horizon {}"}, "horizon" if by == "n" else "n"
    furthest, keys = int(metrics.horizon.max()), sorted(metrics[other].unique().tolist())
    colors = [horizon_color(k, furthest) if other == "horizon" else model_color(k) for k in keys]
    looks = looks_of([names[other].format(k) for k in keys], colors, [None])
    table = metrics.sort_values([by, "step"]).rename(columns={"loss": "value"})
    table = table.assign(panel=table[by].map(names[by].format), label=table[other].map(names[other].format))
    hover = "%{y:.3f} " + unit + " at %{x:.3s} tokens"
    options = dict(seeds="lines", seed_style=dict(opacity=0.4), shared_xaxes="all", horizontal_spacing=0.025)
    figure, places, rows = seed_curves(table, "tokens", hover, looks, per_row=5 if by == "n" else 4, **options)
    scale, size = "log" if log_tokens else "linear", 11 if len(places) > 4 else 13
    figure.update_xaxes(type=scale, tickformat="~s", nticks=5, tickfont_size=size)
    figure.update_xaxes(title_text="training tokens", row=rows)
    figure.update_yaxes(title_text=f"loss ({unit})", col=1)
    return framed(figure, title, caption, 300 if rows == 1 else 235 * rows)


def formation(
    table: pd.DataFrame, title: str, caption: str, x: str = "step", percent: bool = True, dashed: Sequence[str] = ()
) -> go.Figure:
    """A measure against training, a panel for each setting: seeds thin, their mean thick.

    Args:
        table: panel, label, seed, value, and the column of `x`; panels and labels in the table's order. The mean
            covers the steps that all seeds of a label have.
        dashed: labels that are drawn dashed, such as baselines.
    """
    checked(table, "label")
    looks = looks_of(table.label, symbols=[None]).items()
    looks = {label: look._replace(dash="dot" if label in dashed else "solid") for label, look in looks}
    hover = "%{y:.1%} at %{x:.3s}" if percent else "%{y:.3f} at %{x:.3s}"
    figure, places, rows = seed_curves(table, x, hover, looks, seeds="lines", mean_style=dict(line_width=3))
    _name_training_axis(figure, places, x)
    if percent:
        figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%")
    return framed(figure, title, caption, 300 * rows)


def survival(table: pd.DataFrame, x: str, title: str, caption: str) -> go.Figure:
    """The share of seeds that have not reached a goal yet, against training: a panel a setting, a line a label.

    Seeds that never reach it count until the end of their training, where the line of their label ends in a cross
    (Kaplan & Meier 1958, with all censoring at the end).

    Args:
        table: panel, label, seed, reached (bool) and the column of `x`: when, or the end of training.
    """
    checked(table, "panel", "label", "seed", "reached", x)
    looks = looks_of(table.label, symbols=[None])
    shifts = {label: 0.012 * (k - (len(looks) - 1) / 2) for k, label in enumerate(looks)}  # equal lines stay visible
    steps = []
    for (panel, label), part in table.groupby(["panel", "label"], sort=False):
        times = np.sort(part[part.reached][x].to_numpy(float))
        share = 1 - np.arange(len(times) + 1) / len(part)
        if share[-1] > 0:  # on to the end of training
            times, share = np.append(times, part[x].max()), np.append(share, share[-1])
        steps.append(pd.DataFrame({"panel": panel, "label": label, x: [0, *times], "value": share + shifts[label]}))
    hover, style = "%{y:.0%} have not reached it at %{x:.3s}", dict(line_width=3, line_shape="hv")
    figure, places, rows = seed_curves(pd.concat(steps), x, hover, looks, mean_style=style)
    for trace in figure.data:
        if trace.y[-1] > shifts[trace.name]:
            style = dict(mode="markers", marker=dict(symbol="x", size=10, color=trace.line.color), hoverinfo="skip")
            cross = line(trace.x[-1:], trace.y[-1:], trace.line.color, "not reached", **style)
            figure.add_trace(cross.update(xaxis=trace.xaxis, yaxis=trace.yaxis))
    _name_training_axis(figure, places, x)
    figure.update_yaxes(range=[-0.05, 1.05], tickformat=".0%")
    figure.update_yaxes(title_text="seeds that have not reached it", col=1)
    return framed(figure, title, caption, 260 * rows)


def _name_training_axis(figure: go.Figure, places: dict[str, dict[str, int]], x: str) -> None:
    """Titles only below the lowest panel of each column: others would lie on the panel below them."""
    figure.update_xaxes(tickformat="~s", nticks=6)
    columns = max(place["col"] for place in places.values())
    for place in list(places.values())[-columns:]:
        figure.update_xaxes(title_text=f"training {x}s" if x == "step" else f"training {x}", **place)


# --- at the end of training --------------------------------------------------------------------------------


def loss_by_horizon(table: pd.DataFrame, title: str, caption: str = SEEDS, unit: str = "bits per byte") -> go.Figure:
    """Loss at the end of training against the horizon, a line for each n.

    Args:
        table: n, seed, horizon, loss and, the same in every row of (n, horizon), mean, low, high; all in nats.
    """
    table = checked(table, "n", "seed", "horizon", unit=unit, losses=["loss", "mean", "low", "high"])
    looks = {f"n = {n}": model_look(n) for n in sorted(table.n.unique().tolist())}
    table = table.assign(panel="", label=table.n.map("n = {}".format), value=table.loss)
    hover = "%{y:.3f} " + unit
    figure, *_ = seed_curves(table, "horizon", hover, looks, seeds="dots", interval="band", apart=0.06)
    figure.layout.annotations = ()  # the one panel has no title
    for trace in figure.data:
        if trace.name in looks:
            last_label, style = trace.name == list(looks)[-1], dict(showarrow=False, xanchor="left", xshift=10)
            style |= dict(font=dict(color=looks[trace.name].color, size=14), yshift=0 if last_label else -14)
            figure.add_annotation(x=trace.x[-1], y=trace.y[-1], text=f"<b>{trace.name}</b>", **style)
    last, what = int(table.horizon.max()), "horizon i: x<sub>t+i</sub> is predicted at position t"
    ticks = dict(range=[0.7, 1.08 * last + 0.3], tickvals=list(range(1, last + 1)))
    figure.update_traces(showlegend=False).update_xaxes(title_text=what, **ticks)
    figure.update_yaxes(title_text=f"loss ({unit})")
    return framed(figure, title, caption, 360)


def by_operations(
    table: pd.DataFrame, baseline: pd.DataFrame, trained: int, title: str, caption: str, name: str = "majority baseline"
) -> go.Figure:
    """Shares of correct answers against the number of operations m: a panel for each setting, a line for each label.

    Args:
        table: panel, label, m, seed, value and, the same in all rows of (panel, label, m), mean, low, high.
        baseline: m, value: accuracy without reading the question, drawn dotted in every panel.
        trained: the largest m of training; the m beyond it are shaded.
    """
    figure, rows = _above_baseline(table, "m", "m = %{x:.0f}: %{y:.1%}", baseline, name, apart=0.09)
    last = int(table.m.max())
    _shade_untrained(figure, trained, last)
    figure.update_xaxes(title_text="operations m; shaded: more than in training", dtick=1, range=[0.5, last + 0.5])
    figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%")
    figure.update_yaxes(title_text="correct answers", col=1)
    return framed(figure, title, caption, 320 * rows)


def weights_by_n(table: pd.DataFrame, title: str, caption: str = SEEDS) -> go.Figure:
    """Weights relative to next-token prediction against n: a panel for each setting, a line for each label.

    Args:
        table: panel, label, n, seed, value and, the same in all rows of (panel, label, n), mean, low, high. Exact
            numbers have one seed.
    """
    n = sorted(table.n.unique().tolist())
    bound = pd.DataFrame({"n": n, "value": [(k + 1) / 2 for k in n]})
    figure, rows = _above_baseline(table, "n", "n = %{x}: %{y:.2f}", bound, UPPER_BOUND)
    figure.update_xaxes(title_text="future tokens n in the loss", tickvals=n)
    figure.update_yaxes(title_text="weight, relative", col=1)
    return framed(figure, title, caption, 300 * rows)


def _above_baseline(
    table: pd.DataFrame, x: str, hover: str, baseline: pd.DataFrame, name: str, apart: float = 0.0
) -> tuple[go.Figure, int]:
    """Means with seeds and intervals, and in every panel the dotted baseline."""
    options = dict(seeds="dots", interval="bars", apart=apart, per_row=3)
    figure, places, rows = seed_curves(table, x, hover, **options)
    dotted = dict(line=dict(color=GREY, width=2, dash="dot"), hovertemplate=hover, legendgroup=name, legendrank=2000)
    for k, place in enumerate(places.values()):
        figure.add_trace(line(baseline[x], baseline.value, GREY, name, showlegend=k == 0, **dotted), **place)
    return figure, rows


def _shade_untrained(figure: go.Figure, trained: int, last: int) -> None:
    """A ground behind the numbers of operations that training does not contain."""
    if last > trained:
        figure.add_vrect(trained + 0.5, last + 0.5, fillcolor=RULE, opacity=0.6, line_width=0, layer="below")


def rings(table: pd.DataFrame, trained: int, title: str, caption: str) -> go.Figure:
    """Shares against the number of operations m, a panel for each measure and a line for each ring.

    Args:
        table: panel, ring, m, share.
        trained: the largest m of training; the m beyond it are shaded.
    """
    checked(table, "panel", "ring", "m", "share")
    table, last = table.rename(columns={"ring": "label", "share": "value"}), int(table.m.max())
    looks = looks_of(table.label, CATEGORIES)
    options = dict(mean_style=dict(marker_size=9), per_row=table.panel.nunique(), horizontal_spacing=0.04)
    figure, places, _ = seed_curves(table, "m", "m = %{x}: %{y:.2%}", looks, **options)
    note = dict(text="not trained on", showarrow=False, font=dict(color=GREY, size=12))
    for place in places.values():
        figure.add_annotation(x=(trained + last + 1) / 2, y=1.03, **note, **place)
    _shade_untrained(figure, trained, last)
    figure.update_xaxes(title_text="operations m", dtick=1, range=[table.m.min() - 0.5, last + 0.5])
    figure.update_yaxes(tickformat=".0%", range=[-0.03, 1.1])
    return framed(figure, title, caption, 280)


def against(
    table: pd.DataFrame,
    x: str,
    titles: tuple[str, str],
    title: str,
    caption: str = SEEDS,
    log: bool = False,
    ticks: Sequence[float] | None = None,
) -> go.Figure:
    """Shares against another number: a panel for each setting, a line for each label.

    Args:
        table: panel, label, value and the column of `x`, a row a point; other columns are not drawn.
        titles: of the axes.
        log: whether x is drawn on a logarithmic axis.
        ticks: values of x that are named on the axis.
    """
    figure, _, rows = seed_curves(table, x, "%{y:.1%}")
    figure.update_xaxes(title_text=titles[0], type="log" if log else "linear")
    if ticks is not None:
        figure.update_xaxes(tickvals=list(ticks), ticktext=[f"{tick:g}" for tick in ticks])
    figure.update_yaxes(tickformat=".0%")
    figure.update_yaxes(title_text=titles[1], col=1)
    return framed(figure, title, caption, 300 * rows)


def dose_response(table: pd.DataFrame, title: str, caption: str) -> go.Figure:
    """A measure without the k highest-ranked attention heads, beside k random ones: a panel a model, seeds thin.

    Args:
        table: panel, seed, k, set ("ranked" or "random"), draw, value (a share).
    """
    checked(table, "panel", "seed", "k", "set", "draw", "value")
    names = {"ranked": "the k highest-ranked", "random": "k random ones, of the same layers where possible"}
    looks = looks_of(list(names.values()), (WRONG, GREY), ["circle"])
    options = dict(seeds="lines", seed_style=dict(opacity=0.3), mean_style=dict(line_width=3))
    figure, _, rows = seed_curves(
        table.assign(label=table["set"].map(names)), "k", "k = %{x}: %{y:.1%}", looks, **options
    )
    figure.update_xaxes(title_text="attention heads ablated, k", dtick=1)
    figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%")
    return framed(figure, title, caption, 280 * rows)


# --- decoding and memory -----------------------------------------------------------------------------------


def acceptance(table: pd.DataFrame, title: str, caption: str) -> go.Figure:
    """Share of forward passes in which head i's token is accepted: a panel a model, a line for each kind of text.

    Args:
        table: panel, mode (greedy, sampled, real text), head, seed, value and, the same in all rows of
            (panel, mode, head), mean, low, high.
    """
    checked(table, "panel", "mode", "head", "seed", "value", "mean", "low", "high")
    table = table.assign(label=table["mode"], low=table.low.clip(lower=0), high=table.high.clip(upper=1))  # shares
    options = dict(seed_style=dict(marker_size=4), mean_style=dict(marker_size=7), per_row=5, horizontal_spacing=0.02)
    hover = "head %{x}: %{y:.1%}"
    figure, _, rows = seed_curves(table, "head", hover, MODES, seeds="dots", interval="bars", **options)
    figure.update_xaxes(tickvals=[1, 2, 4, 8, 16, 32])
    figure.update_xaxes(title_text="head i", row=rows)
    figure.update_yaxes(range=[0, 1.05], tickformat=".0%")
    return framed(figure, title, caption, 280 * rows)


def speedups(table: pd.DataFrame, title: str, caption: str) -> go.Figure:
    """Tokens per forward pass, and speed relative to plain decoding, by the number of heads used.

    Args:
        table: label (a line each), draft, seed, tokens_per_forward_pass, speedup.
    """
    names = {"tokens_per_forward_pass": "tokens per forward pass", "speedup": "speed-up, wall clock"}
    checked(table, "label", "draft", "seed", *names)
    looks = looks_of(table.label, SPEEDS, ["circle"])
    rows = table.rename(columns=names).melt(["label", "draft", "seed"], list(names.values()), "panel")
    options = dict(seeds="dots", seed_style=dict(marker_size=4, opacity=0.6), per_row=2, horizontal_spacing=0.05)
    figure, *_ = seed_curves(rows, "draft", "%{x} heads: %{y:.2f}", looks, **options)
    figure.add_hline(1, line=dict(color=GREY, width=1, dash="dot"))
    figure.update_xaxes(title_text="heads used, k", type="log", tickvals=sorted(table.draft.unique().tolist()))
    figure.update_yaxes(rangemode="tozero")
    return framed(figure, title, caption, 300, WIDTH)


def memory(
    table: pd.DataFrame, title: str, caption: str = "Peak of what is kept for the backward pass.", log: bool = False
) -> go.Figure:
    """Peak memory against n, a line a method, a panel for each vocabulary with its own axis (if log, one for all).

    Args:
        table: n, vocab, method ("reference", "sequential", ...), bytes.
    """
    checked(table, "n", "vocab", "method", "bytes")
    table = table.sort_values(["vocab", "n"])
    table = table.assign(panel=table.vocab.map("vocabulary {:,}".format), label=table.method)
    largest = table.groupby("panel").bytes.transform("max")
    power = {panel: max(0, min(3, int(math.log(size, 1024)))) for panel, size in zip(table.panel, largest, strict=True)}
    if log:  # one unit for all
        power = dict.fromkeys(power, max(power.values()))
    looks = looks_of(sorted(table.method), METHODS, ["circle"])
    options = dict(per_row=3, shared_yaxes="all" if log else False, horizontal_spacing=0.03 if log else 0.1)
    value = table.bytes / 1024 ** table.panel.map(power)
    figure, places, rows = seed_curves(table.assign(value=value), "n", "n = %{x}: %{y:.3~g}", looks, **options)
    for trace in figure.data:
        style = dict(xref=trace.xaxis, yref=trace.yaxis, yshift=12, xanchor="right", showarrow=False)
        style |= dict(text=f"<b>{trace.name}</b>", font=dict(color=looks[trace.name].color))
        figure.add_annotation(x=trace.x[-1], y=math.log10(trace.y[-1]) if log else trace.y[-1], **style)
    for panel, place in places.items():
        if not log or place["col"] == 1:
            figure.update_yaxes(title_text=f"peak memory ({('bytes', 'KiB', 'MiB', 'GiB')[power[panel]]})", **place)
    figure.update_traces(showlegend=False)
    figure.update_xaxes(title_text="future tokens n", tickvals=sorted(table.n.unique().tolist()))
    figure.update_yaxes(type="log" if log else "linear", rangemode="tozero", tickformat="~g" if log else None)
    return framed(figure, title, caption, 300 * rows)
