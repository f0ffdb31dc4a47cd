"""Cells of trainings: seeds are compared with themselves, and a training is good when it first is."""

import pandas as pd
import pytest

from mtp_lab.evaluation.statistics import first_reached, paired_difference, paired_differences, seed_interval


def test_cells_are_compared_seed_by_seed():
    """Seeds that one cell lacks are left out; their spread is that of the differences."""
    one = pd.DataFrame({"seed": [2, 0, 1], "value": [0.5, 0.1, 0.3]})
    other = pd.DataFrame({"seed": [0, 1, 2, 3], "value": [0.0, 0.1, 0.2, 9.0]})
    found = paired_difference(one, other)
    expected = seed_interval([0.1, 0.2, 0.3])
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))
    with pytest.raises(ValueError, match="several rows"):
        paired_difference(pd.concat([one, one]), other)
    with pytest.raises(ValueError, match="at least 2 seeds"):
        paired_difference(one[:1], other)


def test_differences_are_taken_seed_by_seed():
    rows = [("p", "a", 0, 0.1), ("p", "a", 1, 0.3), ("p", "b", 1, 0.4), ("p", "b", 0, 0.15), ("q", "a", 0, 1.0)]
    rows += [("q", "a", 1, 1.0), ("q", "b", 0, 0.0), ("q", "b", 1, 0.0)]
    table = paired_differences(pd.DataFrame(rows, columns=["panel", "label", "seed", "value"]), "a")
    first = table[table.panel == "p"].set_index("seed")
    assert first.value.to_dict() == pytest.approx({0: 0.05, 1: 0.1}) and set(table.label) == {"b"}
    expected = seed_interval([0.05, 0.1])
    assert first.loc[0, ["mean", "low", "high"]].tolist() == pytest.approx([expected.mean, expected.low, expected.high])
    assert table[table.panel == "q"].value.tolist() == [-1, -1]


def test_the_first_evaluation_above_the_threshold_counts():
    """Evaluations in any order; a training that never was good enough is censored at its last step."""
    curve = pd.DataFrame({"step": [100, 25, 75, 50], "share": [0.94, 0.5, 0.9, 0.96]})
    assert first_reached(curve, "share", 0.9) == {"step": 50, "share": 0.96, "reached": True}
    assert first_reached(curve, "share", 0.97) == {"step": 100, "share": 0.94, "reached": False}
