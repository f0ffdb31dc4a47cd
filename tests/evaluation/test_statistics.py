"""Statistics over seeds: intervals, comparisons seed by seed, and the time at which a run first succeeds."""

import pandas as pd
import pytest
from scipy import stats

from mtp_lab.evaluation.statistics import first_reached, paired_difference, paired_differences, seed_interval


def test_seed_interval_is_that_of_scipy_and_defined_for_equal_values():
    """Catches: a normal quantile instead of Student's t, and NaN for a difference that is the same in every seed."""
    interval = seed_interval([0.1, 0.5, 0.2, 0.9])
    bounds = stats.ttest_1samp([0.1, 0.5, 0.2, 0.9], 0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((bounds.low, bounds.high))
    equal = seed_interval([0.5, 0.5])
    assert (equal.mean, equal.low, equal.high) == (0.5, 0.5, 0.5)


def test_conditions_are_compared_seed_by_seed():
    """Seeds that one condition lacks are left out; the interval is that of the differences."""
    condition = pd.DataFrame({"seed": [2, 0, 1], "value": [0.5, 0.1, 0.3]})
    reference = pd.DataFrame({"seed": [0, 1, 2, 3], "value": [0.0, 0.1, 0.2, 9.0]})
    difference = paired_difference(condition, reference)
    expected = seed_interval([0.1, 0.2, 0.3])
    assert (difference.mean, difference.low, difference.high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )
    with pytest.raises(ValueError, match="several rows"):
        paired_difference(pd.concat([condition, condition]), reference)
    with pytest.raises(ValueError, match="at least 2 seeds"):
        paired_difference(condition[:1], reference)


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
    """Evaluations in any order; a run that never reaches the threshold is censored at its last step."""
    curve = pd.DataFrame({"step": [100, 25, 75, 50], "share": [0.94, 0.5, 0.9, 0.96]})
    assert first_reached(curve, "share", 0.9) == {"step": 50, "share": 0.96, "reached": True}
    assert first_reached(curve, "share", 0.97) == {"step": 100, "share": 0.94, "reached": False}
