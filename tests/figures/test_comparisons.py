"""Rows of points and bars, and tables of numbers: each number is at the label and in the panel of the table."""

import math
import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from mtp_lab import figures
from mtp_lab.figures.comparisons import decoding_speed
from mtp_lab.figures.rendering import png
from tests.figures.samples import (
    CONTESTANTS,
    answer_shares,
    controls,
    entropies,
    measured,
    notes,
    speeds,
    texts,
    trace,
)

BIT = math.log(2)


def test_differences_stand_in_points_beside_their_own_label():
    table = answer_shares()[answer_shares().m == 1].drop(columns="m")
    figure = figures.differences(table, "title", "caption")
    means = [trace for trace in figure.data if trace.error_x.array]
    assert [(trace.name, *trace.y) for trace in means] == [("n = 1", 0), ("n = 2", 1), ("n = 2", 1)]
    assert list(means[0].x) == pytest.approx([55]) and list(means[0].error_x.array) == pytest.approx([20])
    assert list(figure.layout.yaxis.ticktext) == ["n = 1", "n = 2"]
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(0, 0)] * 2  # no difference, in every panel
    assert png(figure)[:4] == b"\x89PNG"


def test_next_token_loss_draws_each_model_its_seeds_and_its_difference():
    figure = figures.next_token_loss(controls(), "t")
    name = "n = 4, compute-matched, depth 3"
    mean, difference = trace(figure, name), trace(figure, f"difference, {name}")
    assert mean.x == pytest.approx([1.1 / BIT]) and difference.x == pytest.approx([1 / BIT])
    assert difference.error_x.arrayminus == pytest.approx([0.2 / BIT])
    assert difference.error_x.array == pytest.approx([0.3 / BIT])
    assert trace(figure, f"seeds, {name}").x == pytest.approx([1 / BIT, 1.1 / BIT, 1.2 / BIT])
    assert [each.name for each in figure.data if each.name.startswith("difference")] == [
        "difference, n = 4, compute-matched, depth 3",
        "difference, n = 1, depth-matched, depth 3",
    ]
    assert "reference" in texts(figure)  # the model the others are compared to
    assert trace(figure, "n = 1, depth-matched, depth 3").marker.symbol == "circle-open"
    assert trace(figure, "n = 1, compute-matched, depth 6").marker.symbol == "circle"
    assert [re.sub("<.*", "", tick) for tick in figure.layout.yaxis.ticktext] == ["n = 1", "n = 4", "n = 1"]


def test_bars_have_their_own_labels_means_and_intervals():
    """Labels in alphabetical order beside bars in the table's would swap results."""
    figure = figures.interval_bars(measured(), "t", "c", ".3s")
    assert list(figure.layout.yaxis.ticktext) == ["z", "a", "b"] and notes(figure) == ["share", "loss"]
    for k, panel in enumerate(("share", "loss")):
        bar = trace(figure, panel)
        assert bar.x == pytest.approx([10 * i + k + 0.05 for i in range(3)]) and list(bar.y) == [0, 1, 2]
        assert bar.error_x.array == pytest.approx([1] * 3) and bar.error_x.arrayminus == pytest.approx([0.5] * 3)
    seeds = next(each for each in figure.data if each.name == "seeds")
    assert seeds.x == pytest.approx([0, 0.1, 10, 10.1, 20, 20.1])
    assert seeds.y == pytest.approx([0.28, 0.28, 1.28, 1.28, 2.28, 2.28])


def test_bars_of_one_seed_have_an_axis():
    """One seed has no interval, and its bar a length all the same. Catches: an axis that ends at nan."""
    table = pd.DataFrame(dict(panel="p", label=["a", "b"], seed=0, value=[0.1, 0.2], mean=[0.1, 0.2]))
    drawn = figures.interval_bars(table.assign(low=math.nan, high=math.nan), "t", "c")
    assert drawn.layout.xaxis.range[1] > 0.2


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


def test_grids_keep_the_order_of_the_table():
    """Layers from the first down, squares with their own text, nothing where there is no value."""
    table = pd.DataFrame(
        {"panel": "p", "layer": ["blocks.0", "blocks.0", "heads.1"], "head": [0, 1, 0], "value": [0.5, 0.25, 1.0]}
    )
    (heat,) = figures.grid(table, "title", "caption").data
    assert list(heat.y) == ["blocks.0", "heads.1"] and list(heat.x) == ["0", "1"]
    assert np.array(heat.z)[0].tolist() == [0.5, 0.25] and np.array(heat.z)[1][0] == 1 and np.isnan(heat.z[1][1])
    assert [list(row) for row in heat.text] == [["0.50", "0.25"], ["1.00", ""]]
    (own,) = figures.grid(table.assign(text=["3/5", "0/5", "5/5"]), "title", "caption").data
    assert [list(row) for row in own.text] == [["3/5", "0/5"], ["5/5", ""]]


def test_the_heat_map_is_in_bits_with_horizon_one_on_top_and_one_scale_for_all():
    """Two panels with a scale each would paint 1 bit and 5 bits in the same blue."""
    figure = figures.horizon_entropy(entropies(), "cff", "t", "c")
    one, other = figure.data
    assert list(one.z) == [[0, 1, 2], [3, 4, 5]] and list(other.z) == [[1, 1, 1], [1, 1, 1]]
    assert one.y == (1, 2) and figure.layout.yaxis.autorange == "reversed"
    assert (one.zmin, one.zmax) == (other.zmin, other.zmax) == (0, 5)
    assert [one.showscale, other.showscale] == [False, True]
