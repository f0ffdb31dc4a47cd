"""Pictures of how fast decoding is, beside others on the same weights. Drawn from tables that benchmarks measure."""

import pandas as pd
import plotly.graph_objects as go

from mtp_lab.figures.theme import GREY, bars, checked, framed, panels

SHADES = {True: ("#9dc8e6", "#0072b2"), False: ("#cfcfcf", "#8a8a8a")}  # ours and others; few threads to many


def decoding_speed(table: pd.DataFrame, title: str, caption: str) -> go.Figure:
    """Tokens a second: a panel for each batch size, a row for each contestant, a bar for each number of threads.

    Args:
        table: contestant, ours (bool), batch, threads, tokens_per_second and slowest, that of the slowest round.
            Contestants are drawn in the table's order; "-" stands where one was not measured.
    """
    checked(table, "bits", "contestant", "ours", "batch", "threads", "tokens_per_second", "slowest")
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
    """Bars of one side and one number of threads; whiskers reach to the slowest round."""
    count, best = int(part.threads.iloc[0]), part.tokens_per_second
    side, name = ("mtp-lab" if ours else "others"), f"{count} thread{'s' * (count > 1)}"
    return go.Bar(
        x=best.tolist(),
        y=part.contestant.tolist(),
        orientation="h",
        name=f"{side}, {name}",
        legendgroup=f"{side}, {name}",
        showlegend=showlegend,
        offsetgroup=str(place),
        marker=dict(color=SHADES[ours][min(place, 1)]),
        error_x={**bars(best, part.slowest, best), "thickness": 1, "width": 3},
        text=[f"{value:,.0f}" for value in best],
        textposition="outside",
        textfont=dict(size=11),
        cliponaxis=False,
        hovertemplate="%{y}: %{x:,.0f} tokens/s",
    )
