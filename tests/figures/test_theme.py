"""Colours, looks and frames of the figures."""

import re

import pytest

from mtp_lab import figures
from mtp_lab.figures import theme
from tests.figures.samples import KINDS, along, controls, ends, measured, metrics, peaks, ring_shares


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_horizons_go_from_dark_to_light(n):
    """A reader who sees no hue must still see the order of the horizons."""
    light = []
    for i in range(1, n + 1):
        red, green, blue = map(int, re.findall(r"\d+", figures.horizon_color(i, n)))
        light.append(0.299 * red + 0.587 * green + 0.114 * blue)
    assert light == sorted(light) and len(set(light)) == n and max(light) < 190  # still visible on white


def test_models_have_colours_and_symbols_of_their_own():
    assert len({figures.model_color(n) for n in (1, 2, 4, 8, 16)}) == 5
    assert len({symbol for _, symbol in theme.MODELS.values()}) == len(theme.MODELS)
    with pytest.raises(ValueError, match=r"n=5 has no colour; known: 1, 2, 3, 4"):
        figures.model_color(5)


@pytest.mark.parametrize("i", [0, 5])
def test_a_horizon_outside_the_model_is_refused(i):
    with pytest.raises(ValueError, match=f"i={i} must be from 1 to n=4"):
        figures.horizon_color(i, 4)


def test_long_titles_and_captions_push_the_panels_down():
    """A wrapped title must not lie on the panels: they keep their height, the figure grows."""
    short, long = (figures.loss_by_horizon(ends(), "word " * k, "word " * k) for k in (5, 60))
    assert long.layout.title.text.count("<br>") > short.layout.title.text.count("<br>")
    inner = [f.layout.height - f.layout.margin.t - f.layout.margin.b for f in (short, long)]
    assert inner[0] == inner[1]


@pytest.mark.parametrize(
    "draw, table, message",
    [
        (figures.training_curves, metrics().drop(columns="tokens"), r"missing \['tokens'\]"),
        (figures.loss_by_horizon, ends().drop(columns=["low", "high"]), r"missing \['low', 'high'\]"),
        (figures.next_token_loss, controls()[:0], "has 0 rows"),
        (figures.memory, peaks().drop(columns="vocab"), r"missing \['vocab'\]"),
        (
            lambda table, title: figures.loss_by_horizon(table, title, unit="bans per byte"),
            ends(),
            "unit='bans per byte'",
        ),
        (lambda table, title: figures.training_curves(table, title, by="seed"), metrics(), "by='seed'"),
    ],
)
def test_tables_and_options_that_do_not_fit_are_named(draw, table, message):
    with pytest.raises(ValueError, match=message):
        draw(table, "t")


@pytest.mark.parametrize(
    "draw, table, message",
    [
        (
            lambda table: figures.surprisal_along(table, KINDS, "t", "c"),
            along().drop(columns="entropy"),
            "entropy",
        ),
        (lambda table: figures.interval_bars(table, "t", "c"), measured()[:0], "0 rows"),
        (lambda table: figures.rings(table, 2, "t", "c"), ring_shares().drop(columns="m"), r"missing \['m'\]"),
    ],
)
def test_a_table_that_does_not_fit_is_named(draw, table, message):
    with pytest.raises(ValueError, match=message):
        draw(table)
