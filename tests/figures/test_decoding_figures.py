"""Figures of decoding: every bar is a number of the table, and what was not measured is seen to be missing."""

import re

import pandas as pd
import plotly.graph_objects as go
import pytest

from mtp_lab import figures
from mtp_lab.figures.decoding_figures import decoding_speed

CONTESTANTS = ["peer", "peer, one row only", "mtp-lab, k = 1", "mtp-lab, k = 2"]


def speeds() -> pd.DataFrame:
    """Speeds that name their contestant, batch and threads; the slowest round is a tenth slower."""
    rows = [
        (name, name.startswith("mtp"), batch, threads, 1000 * batch + 100 * k + threads)
        for threads in (1, 2)
        for batch in (1, 8)
        for k, name in enumerate(CONTESTANTS)
        if batch == 1 or "one row" not in name
    ]
    table = pd.DataFrame(rows, columns=["contestant", "ours", "batch", "threads", "tokens_per_second"])
    return table.assign(slowest=0.9 * table.tokens_per_second)


def drawn(figure: go.Figure) -> set[tuple]:
    """(contestant, panel, trace, speed, slowest) of every bar."""
    return {
        (name, bar.xaxis, bar.name, speed, round(speed - down))
        for bar in figure.data
        for name, speed, down in zip(bar.y, bar.x, bar.error_x.arrayminus, strict=True)
    }


def test_bars_are_the_numbers_of_the_table():
    """Catches: a contestant drawn at another's place, panels or threads exchanged, whiskers to the wrong side."""
    table = speeds()
    expected = {
        (
            row.contestant,
            {1: "x", 8: "x2"}[row.batch],
            f"{'mtp-lab' if row.ours else 'others'}, {row.threads} thread{'s' * (row.threads > 1)}",
            row.tokens_per_second,
            round(row.slowest),
        )
        for row in table.itertuples()
    }
    figure = decoding_speed(table, "A title", "A caption.")
    assert drawn(figure) == expected
    assert all(not any(bar.error_x.array) for bar in figure.data)
    assert list(figure.layout.yaxis.categoryarray) == CONTESTANTS
    legend = [bar.name for bar in figure.data if bar.showlegend]
    assert len(legend) == len(set(legend)) == 4


def test_what_was_not_measured_is_marked():
    """Catches: a gap that reads as a speed of zero, or a mark where there is a bar."""
    figure = decoding_speed(speeds(), "A title", "A caption.")
    highlights = [(note.y, note.xref) for note in figure.layout.annotations if note.text == "-"]
    assert highlights == [("peer, one row only", "x2")]
    titles = [re.sub("<.*?>", "", note.text) for note in figure.layout.annotations if note.yref == "paper"]
    assert titles == ["batch 1", "batch 8"]


def test_a_table_without_a_column_is_refused_by_name():
    """Catches: an error of pandas far below."""
    with pytest.raises(ValueError, match="slowest"):
        decoding_speed(speeds().drop(columns="slowest"), "A title", "A caption.")


def test_the_picture_can_be_made(tmp_path):
    """Catches: a figure that JupyterLab draws and the renderer refuses."""
    path = figures.save(decoding_speed(speeds(), "A title", "A caption."), tmp_path, "decoding_speed", speeds())
    assert path.read_bytes()[:4] == b"\x89PNG" and (tmp_path / "decoding_speed.csv").exists()
