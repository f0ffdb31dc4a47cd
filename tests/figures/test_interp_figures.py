"""Pictures of the inside of models draw what they are given."""

import numpy as np
import pandas as pd
import pytest

from mtp_lab import figures
from mtp_lab.figures.theme import png


def curves() -> pd.DataFrame:
    rows = [
        dict(panel=panel, label=label, seed=seed, step=step, value=step / 100 + seed / 10)
        for panel in ("given", "learnt")
        for label in ("n = 1", "n = 2")
        for seed in (0, 1)
        for step in ((10, 20, 30) if seed == 0 else (10, 20))
    ]
    return pd.DataFrame(rows)


def test_formation_draws_each_seed_and_the_mean_of_all():
    """The mean ends where the first seed ends: behind that it would be another mean."""
    figure = figures.formation(curves(), "title", "caption", dashed=["n = 2"])
    thick = [trace for trace in figure.data if trace.line.width == 3]
    thin = [trace for trace in figure.data if trace.line.width == 1]
    assert len(thick) == 4 and len(thin) == 8
    assert all(list(trace.x) == [10, 20] and list(trace.y) == pytest.approx([0.15, 0.25]) for trace in thick)
    assert {trace.name: trace.line.dash for trace in thick} == {"n = 1": "solid", "n = 2": "dot"}
    assert [trace.name for trace in figure.data if trace.showlegend] == ["n = 1", "n = 2"]
    assert png(figure)[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="missing \\['seed'\\]"):
        figures.formation(curves().drop(columns="seed"), "title", "caption")


def test_survival_steps_down_at_each_time_and_ends_in_a_cross():
    """Two of four seeds get there: 100, 75, 50 %, and on to the end. A run that is censored early ends nothing."""
    table = pd.DataFrame({"panel": "a", "label": "n = 1", "seed": range(4), "step": [40, 100, 20, 100]})
    table["reached"] = [True, False, True, False]
    figure = figures.survival(table, "step", "title", "caption")
    steps, cross = figure.data
    assert list(steps.x) == [0, 20, 40, 100] and list(steps.y) == pytest.approx([1, 0.75, 0.5, 0.5])
    assert steps.line.shape == "hv" and list(cross.x) == [100] and cross.marker.symbol == "x"
    whole = figures.survival(table.assign(reached=True), "step", "title", "caption")
    assert len(whole.data) == 1 and whole.data[0].y[-1] == 0


def test_grids_keep_the_order_of_the_table():
    """Layers from the first down, cells with their own text, nothing where there is no value."""
    table = pd.DataFrame(
        {"panel": "p", "layer": ["blocks.0", "blocks.0", "heads.1"], "head": [0, 1, 0], "value": [0.5, 0.25, 1.0]}
    )
    (heat,) = figures.grid(table, "title", "caption").data
    assert list(heat.y) == ["blocks.0", "heads.1"] and list(heat.x) == ["0", "1"]
    assert np.array(heat.z)[0].tolist() == [0.5, 0.25] and np.array(heat.z)[1][0] == 1 and np.isnan(heat.z[1][1])
    assert [list(row) for row in heat.text] == [["0.50", "0.25"], ["1.00", ""]]
    (own,) = figures.grid(table.assign(text=["3/5", "0/5", "5/5"]), "title", "caption").data
    assert [list(row) for row in own.text] == [["3/5", "0/5"], ["5/5", ""]]


def test_dose_response_tells_the_ranked_from_the_random():
    """The mean over seeds and draws of each, beside them all."""
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
