"""Pictures of answers draw what they are given."""

import pandas as pd
import pytest

from mtp_lab import figures
from mtp_lab.figures.theme import png


def shares() -> pd.DataFrame:
    rows = [
        dict(panel=panel, label=label, m=m, seed=seed, value=base / m + seed / 10, mean=base / m + 0.05)
        for panel in ("equal parameters", "equal depth")
        for label, base in (("n = 1", 0.5), ("n = 2", 0.8))
        for m in (1, 2, 3)
        for seed in (0, 1)
        if (panel, label) != ("equal depth", "n = 1")
    ]
    return pd.DataFrame(rows).eval("low = mean - 0.1").eval("high = mean + 0.2")


def test_every_line_has_its_intervals_and_every_panel_the_baseline():
    modal = pd.DataFrame({"m": [1, 2, 3], "value": [0.1, 0.2, 0.3]})
    figure = figures.by_operations(shares(), modal, 2, "title", "caption")
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [(trace.name, trace.showlegend) for trace in lines] == [("n = 1", True), ("n = 2", True), ("n = 2", False)]
    assert list(lines[0].y) == pytest.approx([0.55, 0.3, 0.5 / 3 + 0.05])
    assert list(lines[0].error_y.array) == pytest.approx([0.2] * 3)
    assert list(lines[0].error_y.arrayminus) == pytest.approx([0.1] * 3)
    dotted = [trace for trace in figure.data if trace.line.dash == "dot"]
    assert [list(trace.y) for trace in dotted] == [[0.1, 0.2, 0.3]] * 2
    assert [shape.x0 for shape in figure.layout.shapes] == [2.5, 2.5]  # beyond training
    assert not figures.by_operations(shares(), modal, 3, "title", "caption").layout.shapes
    assert png(figure)[:4] == b"\x89PNG"


def test_differences_stand_in_points_beside_their_own_label():
    table = shares()[shares().m == 1].drop(columns="m")
    figure = figures.differences(table, "title", "caption")
    means = [trace for trace in figure.data if trace.error_x.array]
    assert [(trace.name, *trace.y) for trace in means] == [("n = 1", 0), ("n = 2", 1), ("n = 2", 1)]
    assert list(means[0].x) == pytest.approx([55]) and list(means[0].error_x.array) == pytest.approx([20])
    assert list(figure.layout.yaxis.ticktext) == ["n = 1", "n = 2"]
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(0, 0)] * 2  # no difference, in every panel
    assert png(figure)[:4] == b"\x89PNG"


def test_a_number_against_another():
    table = pd.DataFrame({"panel": "m = 3", "label": ["a", "a", "b"], "k": [1, 10, 1], "value": [0.2, 0.9, 0.3]})
    figure = figures.against(table, "k", ("samples", "pass@k"), "title", "caption", log=True, ticks=[1, 10])
    assert [(trace.name, list(trace.x), list(trace.y)) for trace in figure.data] == [
        ("a", [1, 10], [0.2, 0.9]),
        ("b", [1], [0.3]),
    ]
    assert figure.layout.xaxis.type == "log" and list(figure.layout.xaxis.ticktext) == ["1", "10"]
    with pytest.raises(ValueError, match="missing \\['k'\\]"):
        figures.against(table.drop(columns="k"), "k", ("", ""), "title", "caption")
    assert png(figure)[:4] == b"\x89PNG"


def test_no_two_labels_are_drawn_alike():
    """Catches: an eighth cell in the colour and the sign of the first."""
    table = pd.DataFrame({"panel": "", "label": [f"cell {k}" for k in range(20)], "k": 1, "value": 0.5})
    figure = figures.against(table, "k", ("", ""), "title")
    assert len({(trace.marker.color or trace.line.color, trace.marker.symbol) for trace in figure.data}) == 20
