"""Curves draw the means, seeds and intervals of their table, each in its panel."""

import math

import numpy as np
import pandas as pd
import pytest

from mtp_lab import figures
from mtp_lab.figures import curves
from mtp_lab.figures.rendering import png
from tests.figures.samples import (
    answer_shares,
    ends,
    metrics,
    peaks,
    ring_shares,
    success_curves,
    texts,
    trace,
)

BIT = math.log(2)


@pytest.mark.parametrize("unit, per_nat", [("bits per byte", 1 / BIT), ("nats per token", 1.0)])
def test_training_curves_draw_the_mean_in_the_unit_asked_for(unit, per_nat):
    figure = figures.training_curves(metrics((2,)), "t", unit=unit)
    assert trace(figure, "horizon 2").y == pytest.approx([(2.205 + s / 1e5) * per_nat for s in (10, 20, 30)])
    assert trace(figure, "horizon 2, seed 1").y == pytest.approx([(2.21 + s / 1e5) * per_nat for s in (10, 20, 30)])
    assert trace(figure, "horizon 1").x == (1000, 2000, 3000)
    assert figure.layout.yaxis.title.text == f"loss ({unit})"


def test_the_mean_stops_where_a_seed_stops():
    """Else the mean jumps to the surviving seeds there."""
    table = metrics((1,))
    figure = figures.training_curves(table[(table.seed == 0) | (table.step < 30)], "t")
    assert len(trace(figure, "horizon 1").y) == 2 and len(trace(figure, "horizon 1, seed 0").y) == 3


@pytest.mark.parametrize(
    "by, panels, legend",
    [
        ("n", ["n = 1", "n = 2"], ["horizon 1", "horizon 2"]),
        ("horizon", ["horizon 1", "horizon 2"], ["n = 1", "n = 2"]),
    ],
)
def test_a_panel_for_each_and_each_line_once_in_the_legend(by, panels, legend):
    figure = figures.training_curves(metrics(), "t", by=by)
    assert texts(figure) == panels
    assert sorted(each.name for each in figure.data if each.showlegend) == legend
    assert len({(each.xaxis, each.name) for each in figure.data}) == len(figure.data)


def test_formation_draws_each_seed_and_the_mean_of_all():
    """The mean ends where the first seed ends: after that step it would be the mean of other seeds."""
    figure = figures.formation(success_curves(), "title", "caption", dashed=["n = 2"])
    thick = [trace for trace in figure.data if trace.line.width == 3]
    thin = [trace for trace in figure.data if trace.line.width == 1]
    assert len(thick) == 4 and len(thin) == 8
    assert all(list(trace.x) == [10, 20] and list(trace.y) == pytest.approx([0.15, 0.25]) for trace in thick)
    assert {trace.name: trace.line.dash for trace in thick} == {"n = 1": "solid", "n = 2": "dot"}
    assert [trace.name for trace in figure.data if trace.showlegend] == ["n = 1", "n = 2"]
    assert png(figure)[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="missing \\['seed'\\]"):
        figures.formation(success_curves().drop(columns="seed"), "title", "caption")


def test_survival_steps_down_at_each_time_and_ends_in_a_cross():
    """Two of four seeds get there: 100, 75, 50 %, and on to the end. A run that is censored early ends nothing."""
    table = pd.DataFrame({"panel": "a", "label": "n = 1", "seed": range(4), "step": [40, 100, 20, 100]})
    table["reached"] = [True, False, True, False]
    figure = figures.survival(table, "step", "title", "caption")
    steps, cross = figure.data
    assert list(steps.x) == [0, 20, 40, 100] and list(steps.y) == pytest.approx([1, 0.75, 0.5, 0.5])
    assert steps.line.shape == "hv" and list(cross.x) == [100] and cross.marker.symbol == "x"
    all_reach_it = figures.survival(table.assign(reached=True), "step", "title", "caption")
    assert len(all_reach_it.data) == 1 and all_reach_it.data[0].y[-1] == 0


def test_loss_by_horizon_draws_means_bands_and_seeds():
    figure = figures.loss_by_horizon(ends(), "t")
    mean, band, seeds = (trace(figure, name) for name in ("n = 4", "interval, n = 4", "seeds, n = 4"))
    expected = np.array([4 + h / 10 + 0.005 + 30 / 1e5 for h in (1, 2, 3, 4)]) / BIT
    assert mean.y == pytest.approx(expected)
    assert band.y == pytest.approx([*(expected - 0.1 / BIT), *(expected + 0.2 / BIT)[::-1]])
    assert len(seeds.y) == 8 and set(seeds.customdata) == {0, 1}
    assert trace(figure, "n = 1").error_y.array == pytest.approx([0.2 / BIT])  # one horizon makes no band
    assert not [each for each in figure.data if each.name == "interval, n = 1"]
    assert texts(figure) == ["n = 1", "n = 2", "n = 4"]


def test_every_line_has_its_intervals_and_every_panel_the_baseline():
    modal = pd.DataFrame({"m": [1, 2, 3], "value": [0.1, 0.2, 0.3]})
    figure = figures.by_operations(answer_shares(), modal, 2, "title", "caption")
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [(trace.name, trace.showlegend) for trace in lines] == [("n = 1", True), ("n = 2", True), ("n = 2", False)]
    assert list(lines[0].y) == pytest.approx([0.55, 0.3, 0.5 / 3 + 0.05])
    assert list(lines[0].error_y.array) == pytest.approx([0.2] * 3)
    assert list(lines[0].error_y.arrayminus) == pytest.approx([0.1] * 3)
    dotted = [trace for trace in figure.data if trace.line.dash == "dot"]
    assert [list(trace.y) for trace in dotted] == [[0.1, 0.2, 0.3]] * 2
    assert [shape.x0 for shape in figure.layout.shapes] == [2.5, 2.5]  # beyond training
    assert not figures.by_operations(answer_shares(), modal, 3, "title", "caption").layout.shapes
    assert png(figure)[:4] == b"\x89PNG"


def test_weights_stand_beside_the_most_that_can_be():
    """Exact lines have no dots; measured ones have one a seed and their interval."""
    exact = [("p", "exact", n, 0, value) for n, value in ((1, 1.0), (2, 1.5), (4, 2.5))]
    trained = [(panel, "trained", n, seed, n / 2 + seed / 10) for panel in "pq" for n in (1, 2, 4) for seed in (0, 1)]
    table = pd.DataFrame(exact + trained, columns=["panel", "label", "n", "seed", "value"])
    table["mean"] = table.groupby(["panel", "label", "n"]).value.transform("mean")
    table = table.assign(low=table["mean"] - 0.1, high=table["mean"] + 0.2)
    figure = figures.weights_by_n(table, "title", "caption")
    most = [trace for trace in figure.data if trace.name == curves.UPPER_BOUND]
    assert [list(trace.y) for trace in most] == [[1, 1.5, 2.5]] * 2
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [(trace.name, trace.showlegend) for trace in lines] == [
        ("exact", True),
        ("trained", True),
        ("trained", False),
    ]
    assert list(lines[0].y) == [1, 1.5, 2.5] and list(lines[1].error_y.array) == pytest.approx([0.2] * 3)
    dots = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.name for trace in dots] == ["seeds, trained"] * 2 and len(dots[0].x) == 6
    assert png(figure)[:4] == b"\x89PNG"


def test_rings_are_drawn_in_their_panels_and_beyond_training_is_shaded():
    figure = figures.rings(ring_shares(), 2, "t", "c")
    drawn = {(each.xaxis, each.name): list(each.y) for each in figure.data}
    expected = {"F2": [1, 1 / 2, 1 / 3], "F7": [1 / 2, 1 / 4, 1 / 6]}
    assert drawn == {(axis, ring): expected[ring] for axis in ("x", "x2") for ring in expected}
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(2.5, 3.5)] * 2
    assert [each.name for each in figure.data if each.showlegend] == ["F2", "F7"]


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
    """Catches: an eighth label in the colour and the symbol of the first."""
    table = pd.DataFrame({"panel": "", "label": [f"label {k}" for k in range(20)], "k": 1, "value": 0.5})
    figure = figures.against(table, "k", ("", ""), "title")
    assert len({(trace.marker.color or trace.line.color, trace.marker.symbol) for trace in figure.data}) == 20


def test_dose_response_tells_the_ranked_from_the_random():
    """The mean over seeds and draws of each set, beside all of its runs."""
    rows = [
        dict(panel="p", seed=seed, k=k, draw=draw, value=1 - k * (0.4 if kind == "ranked" else 0.1) - seed / 10)
        | {"set": kind}
        for kind, draws in (("ranked", 1), ("random", 2))
        for seed in (0, 1)
        for draw in range(draws)
        for k in (0, 1)
    ]
    figure = figures.dose_response(pd.DataFrame(rows), "title", "caption")
    means = {trace.name: list(trace.y) for trace in figure.data if trace.showlegend}
    assert [pytest.approx(value) for value in means.values()] == [[0.95, 0.55], [0.95, 0.85]]
    assert len(figure.data) == 2 + 2 + 4


def test_acceptance_and_speedups_draw_what_they_are_given():
    """Lines through the means, dots at the seeds."""
    rows = [
        dict(panel="n = 2", mode=mode, head=i, seed=seed, value=1 / i + seed / 10, mean=1 / i + 0.05, low=0, high=1)
        for mode in curves.MODES
        for i in (1, 2)
        for seed in (0, 1)
    ]
    figure = figures.acceptance(pd.DataFrame(rows), "title", "caption")
    lines = {trace.name: list(trace.y) for trace in figure.data if trace.mode == "lines+markers"}
    assert lines == {mode: [1.05, 0.55] for mode in curves.MODES}
    rows = [
        dict(label=f"batch {b}", draft=k, seed=s, tokens_per_forward_pass=k - s / 2, speedup=k / 2 + s)
        for b in (1, 8)
        for k in (1, 2)
        for s in (0, 1)
    ]
    figure = figures.speedups(pd.DataFrame(rows), "title", "caption")
    lines = [list(trace.y) for trace in figure.data if trace.mode == "lines+markers"]
    assert lines == [[0.75, 1.75], [0.75, 1.75], [1.0, 1.5], [1.0, 1.5]]
    with pytest.raises(ValueError, match="missing"):
        figures.speedups(pd.DataFrame({"label": ["batch 1"]}), "title", "caption")


def test_memory_has_a_unit_for_each_panel_and_leaves_out_what_was_not_measured():
    figure = figures.memory(peaks(), "t")
    by_panel = {(each.xaxis, each.name): each.y for each in figure.data}
    assert by_panel == {("x", "reference"): (1, 2, 4), ("x", "sequential"): (1, 1, 1), ("x2", "sequential"): (2, 2, 2)}
    assert figure.layout.yaxis.title.text == "peak memory (MiB)"
    assert figure.layout.yaxis2.title.text == "peak memory (GiB)"
    log = figures.memory(peaks(), "t", log=True)
    assert log.layout.yaxis.type == "log" and trace(log, "reference").y == pytest.approx([k / 1024 for k in (1, 2, 4)])
    assert log.layout.annotations[-1].y == pytest.approx(math.log10(2))  # on a log axis annotations live in exponents
