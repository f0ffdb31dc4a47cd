"""The picture that most sections of the report share: bars in panels, ours in colour, and what was wanted as a line."""

import pandas as pd
import plotly.graph_objects as go

from mtp_lab.figures.comparisons import SHADES
from mtp_lab.figures.theme import WRONG, checked, framed, panels


def bars_in_panels(
    table: pd.DataFrame, axes: dict[str, str], title: str, caption: str, wanted: dict[str, float] | None = None
) -> go.Figure:
    """Horizontal bars: a panel for each value of `panel`, a row for each name, the number behind its bar.

    Args:
        table: panel, name, value, ours (bool, decides the colour), text (what is written behind the bar).
        axes: title of each panel's axis.
        wanted: where a line stands, for panels that have a bar to reach.
    """
    checked(table, "panel", "name", "value", "ours", "text")
    wanted = wanted or {}
    titles = list(dict.fromkeys(table.panel))
    names = {title: table[table.panel == title].name.tolist() for title in titles}
    same = all(names[title] == names[titles[0]] for title in titles)  # one axis of names is enough
    figure, places, _ = panels(titles, len(titles), shared_yaxes=same, horizontal_spacing=0.04 if same else 0.18)
    for title_of, place in zip(titles, places, strict=True):
        panel = table[table.panel == title_of]
        bars = go.Bar(
            x=panel.value.tolist(),
            y=names[title_of],
            orientation="h",
            marker=dict(color=[SHADES[bool(ours)][1] for ours in panel.ours]),
            text=panel.text.tolist(),
            textposition="outside",
            cliponaxis=False,
            showlegend=False,
            hovertemplate="%{y}: %{x:.4~g}<extra></extra>",
        )
        figure.add_trace(bars, **place)
        if title_of in wanted:
            figure.add_vline(wanted[title_of], line=dict(color=WRONG, width=2, dash="dot"), **place)
        compared = table[table.panel.map(axes) == axes[title_of]]  # one quantity, one scale
        longest = max(compared.value.max(), wanted.get(title_of, 0))
        figure.update_xaxes(range=[0, 1.3 * longest], title_text=axes[title_of], nticks=6, **place)
    figure.update_yaxes(autorange="reversed", ticks="", showgrid=False)
    figure.update_layout(bargap=0.35)
    return framed(figure, title, caption, 40 + 28 * max(map(len, names.values())), margin=(150, 35, 60))
