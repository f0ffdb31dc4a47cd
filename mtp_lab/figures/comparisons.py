"""Comparisons of labels: rows of points or bars with their seeds and intervals, and tables of shaded numbers.

A panel for each measure, a row for each label, both in the table's order. Not here: lines (curves.py).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mtp_lab.figures.theme import (
    BLUES,
    CATEGORIES,
    GREY,
    INK,
    SEEDS,
    WIDTH,
    Look,
    bars,
    checked,
    dots,
    framed,
    line,
    looks_of,
    model_look,
    panels,
)

SHADES = {True: ("#9dc8e6", "#0072b2"), False: ("#cfcfcf", "#8a8a8a")}  # ours and others; few threads to many


def label_rows(table: pd.DataFrame, spacing: float = 0.05) -> tuple[go.Figure, dict[str, dict[str, int]], list[str]]:
    """A panel for each measure, with a row for each label, named on the left.

    Args:
        table: panel, label, seed, value, mean, low, high.

    Returns:
        The figure, each panel's row and column by its title, and the labels; label k is at y = k, the first on top.
    """
    checked(table, "panel", "label", "seed", "value", "mean", "low", "high")
    titles, labels = list(dict.fromkeys(table.panel)), list(dict.fromkeys(table.label))
    figure, places, _ = panels(titles, len(titles), shared_yaxes=True, horizontal_spacing=spacing)
    ticks = dict(tickvals=list(range(len(labels))), ticktext=labels, range=[len(labels) - 0.5, -0.5], ticks="")
    figure.update_yaxes(**ticks, showgrid=False)
    return figure, dict(zip(titles, places, strict=True)), labels


def seed_rows(
    table: pd.DataFrame,
    looks: Mapping[str, Look],
    hover: str,
    size: int = 10,
    outline: int = 0,
    below: float = 0.25,
    spacing: float = 0.05,
) -> go.Figure:
    """The mean of each label as a point with its interval, its seeds as dots below it; panels as in `label_rows`.

    Args:
        table: panel, label, seed, value and, the same in all rows of (panel, label), mean, low, high, and optionally
            name, that of the traces. Points without a mean and seeds without a value are left out.
        hover: hover text of a point.
        size, outline: of a point, in px.
        below: distance of the seeds from the point; 1 is a row.
    """
    figure, places, labels = label_rows(table, spacing)
    for (panel, label), part in table.groupby(["panel", "label"], sort=False):
        y, look, seeds, first = labels.index(label), looks[label], part.dropna(subset="value"), part.iloc[0]
        name, mean = first.get("name", label), [first["mean"]]
        if len(seeds):
            heights = [y + below] * len(seeds)
            figure.add_trace(dots(seeds.value, heights, seeds.seed, look.color, name, "x"), **places[panel])
        if not np.isnan(mean[0]):
            edge = dict(color=look.color, width=outline)
            style = dict(mode="markers", marker=dict(color=look.color, size=size, symbol=look.symbol, line=edge))
            style |= dict(error_x=bars(mean, [first.low], [first.high]), hovertemplate=hover)
            figure.add_trace(line(mean, [y], look.color, name, **style), **places[panel])
    return figure


def differences(table: pd.DataFrame, title: str, caption: str, unit: str = "points") -> go.Figure:
    """Differences with seeds and intervals: a panel for each measure, a row for each label, in the table's order.

    Args:
        table: panel, label, seed, value and, the same in all rows of (panel, label), mean, low, high; shares, drawn in
            points of a hundred.
    """
    numbers = ["value", "mean", "low", "high"]
    table = checked(table, "panel", "label", "seed", *numbers).copy()
    table[numbers] *= 100
    figure = seed_rows(table, looks_of(table.label, symbols=[None]), "%{x:.1f} " + unit)
    figure.add_vline(0, line=dict(color=INK, width=1))  # after the traces: plotly leaves empty panels out
    figure.update_xaxes(title_text=f"difference ({unit}); above 0 is better")
    return framed(figure, title, caption, 40 + 36 * table.label.nunique())


def next_token_loss(table: pd.DataFrame, title: str, caption: str = SEEDS, unit: str = "bits per byte") -> go.Figure:
    """The next-token loss of each model and its control, and beside it the difference to n = 1.

    Args:
        table: label, n, depth (layers on the next-token path), matching ("compute-matched" or "depth-matched"), seed,
            loss and, the same in all rows of a model, mean, low, high, difference, difference_low, difference_high
            (NaN for the reference itself); losses in nats. Models are drawn in the table's order.
    """
    differences = {"difference": "mean", "difference_low": "low", "difference_high": "high"}
    losses = ["loss", "mean", "low", "high", *differences]
    table = checked(table, "label", "n", "depth", "matching", "seed", unit=unit, losses=losses)
    control = table.matching + ", depth " + table.depth.astype(str)
    below = f'<br><span style="font-size:11px;color:{GREY}">' + control + "</span>"
    table = table.assign(name=table.label + ", " + control, label=table.label + below, value=table.loss)
    models = table.drop_duplicates("label")
    looks = {label: model_look(n) for label, n in zip(models.label, models.n, strict=True)}
    for label in models.label[models.matching == "depth-matched"]:
        looks[label] = looks[label]._replace(symbol=looks[label].symbol + "-open")
    to_reference = models.drop(columns=list(differences.values())).rename(columns=differences)
    to_reference = to_reference.assign(panel="difference to n = 1", value=np.nan, name="difference, " + models.name)
    both = pd.concat([table.assign(panel="next-token loss"), to_reference])
    hover = "%{x:.4f} " + unit
    figure = seed_rows(both, looks, hover, size=11, outline=2, below=0.22, spacing=0.04)
    for y in np.flatnonzero(models.difference.isna()):
        figure.add_annotation(x=0, y=y, text="reference", showarrow=False, xanchor="left", xshift=5, row=1, col=2)
    figure.update_xaxes(title_text=f"loss ({unit})", col=1)
    figure.update_xaxes(title_text=f"difference ({unit}); below 0 is better", col=2, rangemode="tozero")
    figure.add_vline(0, line=dict(color=INK, width=1), col=2)
    return framed(figure, title, caption, 30 + 52 * len(models))


def interval_bars(table: pd.DataFrame, title: str, caption: str, form: Literal[".1%", ".3s"] = ".1%") -> go.Figure:
    """Horizontal bars with seeds and intervals: a panel for each measure, a row for each label, in the table's order.

    Args:
        table: panel, label, seed, value and, the same in all rows of (panel, label), mean, low, high.
        form: how the bars' numbers are written: shares in percent, or three digits with k and M.
    """
    figure, places, labels = label_rows(table)
    share, y = "%" in form, np.arange(len(labels))
    colors = [CATEGORIES[k % len(CATEGORIES)] for k in range(len(labels))]
    for title_of, place in places.items():
        part = table[table.panel == title_of]
        ends = part.drop_duplicates("label").set_index("label").loc[labels]
        if share:  # the interval of a mean over few seeds can leave the range of shares
            ends = ends.assign(low=ends.low.clip(lower=0), high=ends.high.clip(upper=max(1, ends["mean"].max())))
        mean, furthest = ends["mean"].tolist(), np.fmax(ends.high, ends["mean"])  # nan: one seed has no interval
        style = dict(orientation="h", marker_color=colors, opacity=0.85, showlegend=False)
        style |= dict(error_x=bars(mean, ends.low, ends.high) | {"color": INK}, hovertemplate=f"%{{x:{form}}}")
        figure.add_trace(go.Bar(x=mean, y=y.tolist(), name=title_of, **style), **place)
        style = dict(customdata=part.seed.tolist(), hovertemplate=f"seed %{{customdata}}: %{{x:{form}}}")
        style |= dict(mode="markers", marker=dict(color=INK, size=4), opacity=0.6)
        figure.add_trace(line(part.value, part.label.map(labels.index) + 0.28, INK, "seeds", **style), **place)
        style = dict(mode="text", textposition="middle right", hoverinfo="skip", customdata=mean)
        numbers = line(furthest, y, INK, "numbers", texttemplate=f" %{{customdata:{form}}}", **style)
        figure.add_trace(numbers, **place)
        room = (1.1 + 0.12 * len(places)) * float(furthest.max())  # for the number after the longest bar
        figure.update_xaxes(tickformat=".0%" if share else "~s", nticks=6, tickangle=0, range=[0, room], **place)
    return framed(figure, title, caption, 30 + 40 * len(labels))


def decoding_speed(table: pd.DataFrame, title: str, caption: str) -> go.Figure:
    """Tokens a second: a panel for each batch size, a row for each contestant, a bar for each number of threads.

    Args:
        table: contestant, ours (bool), batch, threads, tokens_per_second and slowest, that of the slowest round.
            Contestants are drawn in the table's order; "-" stands where one was not measured.
    """
    checked(table, "contestant", "ours", "batch", "threads", "tokens_per_second", "slowest")
    batches, threads = sorted(table.batch.unique().tolist()), sorted(table.threads.unique().tolist())
    names = list(dict.fromkeys(table.contestant))
    titles = [f"batch {batch}" for batch in batches]
    figure, places, _ = panels(titles, len(batches), shared_yaxes=True, horizontal_spacing=0.03)
    for batch, place in zip(batches, places, strict=True):
        panel = table[table.batch == batch]
        for (ours, count), part in panel.groupby(["ours", "threads"]):
            figure.add_trace(_speeds(part, bool(ours), threads.index(count), place == places[0]), **place)
        for name in set(names) - set(panel.contestant):
            figure.add_annotation(x=0, y=name, text="-", showarrow=False, xanchor="left", font_color=GREY, **place)
        figure.update_xaxes(range=[0, 1.3 * panel.tokens_per_second.max()], title_text="tokens/s", nticks=5, **place)
    figure.update_yaxes(categoryorder="array", categoryarray=names, autorange="reversed", ticks="", showgrid=False)
    figure.update_layout(barmode="group", bargap=0.25, bargroupgap=0.06)
    return framed(figure, title, caption, 30 + 17 * len(names) * (1 + len(threads)), margin=(150, 35, 60))


def _speeds(part: pd.DataFrame, ours: bool, place: int, showlegend: bool) -> go.Bar:
    """The bars of our side or of the others', for one number of threads; whiskers reach to the slowest round."""
    count, speed = int(part.threads.iloc[0]), part.tokens_per_second
    name = f"{'mtp-lab' if ours else 'others'}, {count} thread{'s' * (count > 1)}"
    style = dict(orientation="h", legendgroup=name, showlegend=showlegend, offsetgroup=str(place), cliponaxis=False)
    style |= dict(marker_color=SHADES[ours][min(place, 1)], hovertemplate="%{y}: %{x:,.0f} tokens/s")
    style |= dict(text=[f"{value:,.0f}" for value in speed], textposition="outside", textfont_size=11)
    whiskers = bars(speed, part.slowest, speed) | {"thickness": 1, "width": 3}
    return go.Bar(x=speed.tolist(), y=part.contestant.tolist(), name=name, error_x=whiskers, **style)


def grid(
    table: pd.DataFrame,
    title: str,
    caption: str,
    rows: str = "layer",
    columns: str = "head",
    unit: str = "",
    limit: float | None = None,
) -> go.Figure:
    """A table of numbers for each panel: attention heads by layer, positions by layer, settings by settings.

    Args:
        table: panel, value, the columns named by `rows` and `columns`, all in the table's order, and optionally text,
            what is written in a square (by default the value with two digits).
        unit: title of the columns' axis.
        limit: the value of the darkest blue; by default the largest. Values below 0 stay white.
    """
    checked(table, "panel", "value", rows, columns)
    titles = list(dict.fromkeys(table.panel))
    down, across = (list(dict.fromkeys(table[column])) for column in (rows, columns))
    figure, places, n_rows = panels(titles, 4, shared_yaxes="all", horizontal_spacing=0.03)
    most = max(float(table.value.max()), 1e-9) if limit is None else limit
    style = dict(x=list(map(str, across)), y=list(map(str, down)), xgap=2, ygap=2, colorscale=BLUES, zmin=0, zmax=most)
    style |= dict(texttemplate="%{text}", textfont=dict(color=INK, size=12), showscale=False)
    style |= dict(hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>")
    if "text" not in table:
        table = table.assign(text=table.value.map("{:.2f}".format))
    for name, place in zip(titles, places, strict=True):
        part = table[table.panel == name].set_index([rows, columns])
        values, text = (part[column].unstack().reindex(index=down, columns=across) for column in ("value", "text"))
        text = text.where(values.notna(), "").to_numpy().tolist()
        figure.add_trace(go.Heatmap(z=values.to_numpy().tolist(), text=text, **style), **place)
    figure.update_xaxes(type="category", showgrid=False, ticks="", showline=False)
    figure.update_xaxes(title_text=unit, row=n_rows)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, ticks="", showline=False)
    return framed(figure, title, caption, (60 + 34 * len(down)) * n_rows, WIDTH)


def horizon_entropy(entropy: Mapping[str, np.ndarray], columns: Sequence[str], title: str, caption: str) -> go.Figure:
    """The entropy of the token i steps ahead, by the token just read: a panel for each process.

    Args:
        entropy: name -> (n, phases) nats, row i - 1 for horizon i.
        columns: (phases,) the name of the token just read.
    """
    figure, places, _ = panels(list(entropy), shared_yaxes=True, horizontal_spacing=0.03)
    bits = [(by_horizon / np.log(2)).round(3) for by_horizon in entropy.values()]
    phases, bar = list(range(len(columns))), dict(title=dict(text="bits", side="right"), thickness=10, outlinewidth=0)
    style = dict(zmin=0, zmax=max(float(z.max()) for z in bits), colorscale=BLUES, xgap=1.5, ygap=1.5, colorbar=bar)
    style |= dict(texttemplate="%{text}", textfont=dict(size=11), hovertemplate="horizon %{y}: %{z:.2f} bits")
    for z, place in zip(bits, places, strict=True):
        text, horizons = [[f"{v:.1f}" if v else "0" for v in row] for row in z], list(range(1, len(z) + 1))
        heat = go.Heatmap(x=phases, y=horizons, z=z.tolist(), text=text, showscale=place == places[-1], **style)
        figure.add_trace(heat, **place)
    figure.update_xaxes(tickvals=phases, ticktext=list(columns), showgrid=False, title_text="token just read")
    figure.update_yaxes(dtick=1, showgrid=False, autorange="reversed")
    figure.update_yaxes(title_text="horizon i", col=1)
    return framed(figure, title, caption, 250, margin=(75, 60, 60))
