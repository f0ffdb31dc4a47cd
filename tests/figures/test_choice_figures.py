"""Pictures of choice points draw what they are given."""

import numpy as np
import pandas as pd
import pytest

from mtp_lab import figures
from mtp_lab.figures import choice_figures
from mtp_lab.figures.theme import png
from mtp_lab.theory import implicit_weights


def test_terms_stand_at_their_target_and_belong_to_their_owner():
    """The paper's Figure 9 with three tokens before the choice and n = 2: A has three terms."""
    cause = np.array([0, 0, 0, 0, 1])
    figure = figures.terms("123AB", cause, implicit_weights.owners(cause, 2), "title", "caption")
    squares = {trace.name: set(zip(trace.x, trace.y, strict=True)) for trace in figure.data}
    assert squares == {
        f"{choice_figures.CHOICE}: 3": {(3, 1), (3, 2), (4, 2)},
        f"{choice_figures.ALONE}: 3": {(1, 1), (2, 1), (2, 2)},
        f"{choice_figures.READ}: 1": {(4, 1)},
    }
    assert set(figure.data[0].text) == {"3 → A, horizon 1", "2 → A, horizon 2", "3 → B, horizon 2"}
    assert list(figure.layout.xaxis.ticktext) == list("123AB")
    assert png(figure)[:4] == b"\x89PNG"


def test_weights_stand_beside_the_most_that_can_be():
    """Exact lines have no dots; measured ones have one a seed and their interval."""
    exact = [("p", "exact", n, 0, value) for n, value in ((1, 1.0), (2, 1.5), (4, 2.5))]
    told = [(panel, "trained", n, seed, n / 2 + seed / 10) for panel in "pq" for n in (1, 2, 4) for seed in (0, 1)]
    table = pd.DataFrame(exact + told, columns=["panel", "label", "n", "seed", "value"])
    table["mean"] = table.groupby(["panel", "label", "n"]).value.transform("mean")
    table = table.assign(low=table["mean"] - 0.1, high=table["mean"] + 0.2)
    figure = figures.weights_by_n(table, "title", "caption")
    most = [trace for trace in figure.data if trace.name == choice_figures.MOST]
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


def test_tokens_are_shaded_by_their_own_weight_in_each_copy():
    """Edges belong to the darker shade; what is light, negative or unknown stays white; a shade is named once."""
    weights = {"n = 1": np.array([1, 1.8, -1, np.nan]), "n = 8": np.array([8, 0.4, 7.9, 1])}
    figure = figures.weighted_text(["one", " two", " three", " four"], weights, "title", "caption")
    shaded = [trace for trace in figure.data if trace.fill == "toself"]
    found = [(trace.name, trace.fillcolor, sum(x is None for x in trace.x), trace.showlegend) for trace in shaded]
    light, dark, darkest = (choice_figures.SHADES[k][1] for k in (0, 2, 3))
    assert found == [
        ("1 to 2 times the mean", light, 2, True),
        ("1 to 2 times the mean", light, 1, False),
        ("4 to 8 times the mean", dark, 1, True),
        ("8 times and more", darkest, 1, True),
    ]
    left = [trace.x[0] for trace in shaded]
    assert left[0] < left[2] < left[1] and left[3] == left[0]  # one; three; four; one
    assert max(y for y in shaded[1].y if y) < min(y for y in shaded[0].y if y)  # the second copy stands below
    texts = [trace for trace in figure.data if trace.mode == "text"]
    assert [trace.hovertext[0] for trace in texts] == ["one: 1.00", "one: 8.00"]
    assert [note.text for note in figure.layout.annotations] == ["<b>n = 1</b>", "<b>n = 8</b>"]
    assert png(figure)[:4] == b"\x89PNG"
