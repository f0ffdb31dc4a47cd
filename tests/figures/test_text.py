"""Texts: every highlight, bar and prediction is at its own token."""

import math
import re
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtp_lab import figures
from mtp_lab.figures import Highlight
from mtp_lab.figures.rendering import png
from mtp_lab.figures.text import CELL, LEFT, LETTER, SHADES, lay_out, printable
from mtp_lab.model.targets import IGNORE, future_targets
from tests.figures.samples import KINDS, along, highlighted, predicted_line, trace, where

words = st.lists(st.tuples(st.sampled_from(["", " ", " ", "\n"]), st.text("abc", min_size=1, max_size=9)), min_size=1)


@given(words, st.integers(10, 30))
@settings(max_examples=200, deadline=None)
def test_a_text_is_laid_out_as_it_reads(parts, columns):
    """Read back from the places, row by row, every letter is there once, no two overlap, and breaks are between words.

    A word torn at the end of a line would show a name's second piece without its first.
    """
    pieces = ["".join(part) for part in parts]
    rows, starts, sizes = lay_out(pieces, columns).T
    page = np.full((rows.max() + 1, (starts + sizes).max()), " ")
    for piece, row, start, size in zip(pieces, rows, starts, sizes, strict=True):
        assert (page[row, start : start + size] == " ").all(), "letters on letters"
        page[row, start : start + size] = list(piece.strip())
    assert " ".join("".join(line) for line in page).split() == "".join(pieces).split()
    for i in range(1, len(pieces)):
        if not pieces[i][0].isspace():
            assert rows[i] == rows[i - 1] and starts[i] == starts[i - 1] + sizes[i - 1], "a word is torn"
        assert rows[i] - rows[i - 1] >= pieces[i].count("\n")
    longest = max(map(len, "".join(pieces).split()))
    assert (starts + sizes).max() <= max(columns, longest), "a line sticks out"


@pytest.mark.parametrize("kind, drawn_lines", [("ground", 4), ("frame", 4), ("line", 1), ("dots", 1)])
def test_a_mark_lies_around_its_tokens_and_nowhere_else(kind, drawn_lines):
    """Shifted by a token, a figure would call the wrong piece of a name the one to copy."""
    figure = highlighted(Highlight("mark", where(2, 7), "#d55e00", kind))
    text, shape = trace(figure, "text"), trace(figure, "mark")
    outlines = [[]]
    for x, y in zip(shape.x, shape.y, strict=True):
        outlines[-1].append((x, y)) if x is not None else outlines.append([])
    assert len(outlines) == 3 and not outlines[-1] and len(outlines[0]) == drawn_lines + 1
    for outline, token, letters in zip(outlines, ("Bo", "End"), (2, 3), strict=False):
        x, y = text.x[text.text.index(token)], text.y[text.text.index(token)]
        xs, ys = zip(*outline, strict=True)
        assert abs(np.mean([min(xs), max(xs)]) - x) < 1 and max(xs) - min(xs) == pytest.approx(letters * LETTER, abs=3)
        assert abs(np.mean(ys) - y) < 14


def test_marks_without_a_visible_token_stay_out_of_the_legend():
    """A character who does not appear in the story would be promised by the legend; so would a marked line break."""
    figure = highlighted(
        Highlight("absent", where(), "#000000"),
        Highlight("break", where(5), "#000000"),
        Highlight("seen", where(0), "#000000"),
    )
    assert [each.name for each in figure.data if each.showlegend] == ["seen"]


def test_pieces_are_shown_as_text_and_not_as_tags():
    """Plotly would read a piece such as <b> as a tag, and show nothing."""
    assert list(trace(highlighted(), "text").text) == ["Once", "upon", "Bo", "ra", ".", "&lt;b&gt;", "End"]
    assert trace(highlighted(), "text").x[0] == pytest.approx(LEFT + 2 * LETTER, abs=0.1)


def test_tokens_are_shaded_by_their_own_weight_in_each_copy():
    """Edges belong to the darker shade; what is light, negative or unknown stays white; a shade is named once."""
    weights = {"n = 1": np.array([1, 1.8, -1, np.nan]), "n = 8": np.array([8, 0.4, 7.9, 1])}
    figure = figures.weighted_text(["one", " two", " three", " four"], weights, "title", "caption")
    shaded = [trace for trace in figure.data if trace.fill == "toself"]
    found = [(trace.name, trace.fillcolor, sum(x is None for x in trace.x), trace.showlegend) for trace in shaded]
    light, dark, darkest = (SHADES[k][1] for k in (0, 2, 3))
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


def test_every_token_has_its_bar_and_its_circle_in_bits():
    """A bar beside its token, or nats under an axis that says bits, would be a wrong claim."""
    table = along()
    figure = figures.surprisal_along(table, KINDS, "t", "c", per_row=40)
    bars = {
        (x, each.name): y for each in figure.data if each.type == "bar" for x, y in zip(each.x, each.y, strict=True)
    }
    free = table[table.entropy > 0]
    assert bars == pytest.approx({(i, row.kind): row.entropy / math.log(2) for i, row in free.iterrows()})
    circles = {x: y for each in figure.data if each.name == "surprisal" for x, y in zip(each.x, each.y, strict=True)}
    assert circles == pytest.approx({i: row.surprisal / math.log(2) for i, row in free.iterrows()})
    axes = [figure.layout[name] for name in ("xaxis", "xaxis2", "xaxis3")]
    assert [list(axis.ticktext) for axis in axes] == [list(table.token[k : k + 40]) for k in (0, 40, 80)]


def test_each_kind_is_in_the_legend_once_if_it_has_an_entropy():
    figure = figures.surprisal_along(along(), KINDS, "t", "c", per_row=40)
    legend = [each.name for each in figure.data if each.showlegend]
    assert sorted(legend) == sorted({*along().query("entropy > 0").kind, "surprisal"})


def test_forward_passes_show_accepted_and_rejected_drafts():
    """Accepted characters are in a row without gaps; a rejected draft is below the character that replaced it."""
    figure = figures.forward_passes([[], ["e", "l", "x"]], [0, 2], ["s", "f"], 4, "title", "caption")
    text = [(note.x, note.text) for note in figure.layout.annotations if not note.text.startswith("forward")]
    cells = sorted(x for x, word in text if "<s>" not in word)
    assert [word for _, word in sorted(text)][:4] == ["s", "e", "l", "f"] or "<s>x</s>" in dict(text).values()
    assert np.allclose(np.diff(cells), CELL) and len(cells) == 4
    assert [word for _, word in text if "<s>" in word] == ["<s>x</s>"]
    names = [trace.name for trace in figure.data if trace.showlegend]
    assert names == ["head 1", "head 2", "head 3", "head 4"]
    assert png(figure)[:4] == b"\x89PNG"


def test_strip_colours_each_byte_by_its_head():
    """One ground a head, as many outlines as bytes of it; lines end where the text's do."""
    tokens, heads = [*b"if x:\n  y", 256], [0, 0, 0, 1, 2, 3, 1, 2, 1, 1]
    figure = figures.strip(tokens, heads, 3, "title", "caption")
    outlines = {trace.name: trace.x.count(None) for trace in figure.data if trace.fill == "toself"}
    assert outlines == {"prompt": 3, "head 1": 4, "head 2": 2, "head 3": 1}
    words = "".join(letter for trace in figure.data if trace.mode == "text" for letter in trace.text)
    assert sorted(words) == sorted("if␣x:⏎␣␣y·")
    rows = {y for trace in figure.data if trace.mode == "text" for y in trace.y}
    assert len(rows) == 2


@pytest.mark.parametrize(
    "token, sign",
    [
        (" ", "·"),
        ("\n", "↵"),
        ("\t", "→"),
        ("a", "a"),
        ("é", "é"),
        ("\x9f", "x9f"),
        ("\x00", "x00"),
        (" the", "·the"),
        (97, "a"),
        (10, "↵"),
        (0x9F, "x9f"),
        (0xE9, "xe9"),
        (256, "␞"),
        (np.int32(32), "·"),
        ("", ""),
    ],
)
def test_every_token_has_a_visible_sign(token, sign):
    assert printable(token) == sign


def test_line_predictions_draw_the_probabilities_they_were_given():
    """Shifted by a column or a row, the strip would say that a head foresaw what it had just read."""
    given = predicted_line()
    figure = figures.line_predictions(**given)
    z = trace(figure, "probability").z
    for i, t in product(range(1, 4), range(len(given["text"]))):
        assert z[i - 1][t] == (given["probability"][i - 1, t] if t >= i else None)
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0, 1)


def test_line_predictions_tell_right_from_wrong_and_escape_what_plotly_would_read_as_a_tag():
    given = predicted_line()
    figure = figures.line_predictions(**given)
    right, wrong = trace(figure, "first choice right"), trace(figure, "first choice wrong")
    cells = {(t, i): bool(given["correct"][i - 1, t]) for i, t in product(range(1, 4), range(13)) if t >= i}
    assert set(zip(right.x, right.y, strict=True)) == {cell for cell, correct in cells.items() if correct}
    assert set(zip(wrong.x, wrong.y, strict=True)) == {cell for cell, correct in cells.items() if not correct}
    assert right.textfont.color != wrong.textfont.color and set(wrong.text) == {"<b>?</b>"}
    assert [re.sub("</?b>", "", sign) for sign in trace(figure, "text").text] == [
        "i",
        "f",
        "·",
        "x",
        "·",
        "&lt;",
        "·",
        "1",
        ":",
        "↵",
        "→",
        "&amp;",
        "x9f",
    ]


def test_sixty_columns_stay_legible():
    figure = figures.line_predictions(**predicted_line(4, "x" * 59 + "\x9f"))
    sizes = trace(figure, "text").textfont.size
    assert min(sizes) >= 8 and max(sizes) >= 15 and figure.layout.width == 1200


@pytest.mark.parametrize(
    "change",
    [
        dict(probability=np.zeros((2, 13))),
        dict(correct=np.zeros((3, 12), bool)),
        dict(predictions=[["a"] * 12] * 3),
        dict(predictions=[], probability=np.zeros((0, 13)), correct=np.zeros((0, 13), bool)),
        dict(text=""),
    ],
)
def test_line_predictions_refuse_shapes_that_differ(change):
    with pytest.raises(ValueError, match="must all be"):
        figures.line_predictions(**{**predicted_line(), **change})


@pytest.mark.parametrize("documents", [None, [0, 0, 0, 1, 1, 1, 1, -1, -1]])
def test_the_drawn_targets_are_those_that_train(documents):
    """Two implementations: the picture's own, and the tensors the loss reads."""
    text, n = "ab cd\nefg", 4
    figure = figures.targets(text, n, documents)
    rows = None if documents is None else torch.tensor([documents])
    expected = future_targets(torch.tensor([[ord(c) for c in text]]), n, rows)[:, 0]  # (n, seq)
    signs = trace(figure, "to predict")
    drawn = {(t, i): sign for t, i, sign in zip(signs.x, signs.y, signs.text, strict=True)}
    assert drawn == {
        (t, i + 1): printable(chr(expected[i, t]))
        for i, t in product(range(n), range(len(text)))
        if expected[i, t] != IGNORE
    }
    grey = np.array(trace(figure, "targets").z) == 0
    assert (grey == (expected == IGNORE).numpy()).all()
    assert len(figure.layout.shapes) == (0 if documents is None else 2)  # a line at each boundary


def test_targets_need_a_document_for_each_character():
    with pytest.raises(ValueError, match="2 documents must be as many as the 3 characters"):
        figures.targets("abc", 1, [0, 0])
    with pytest.raises(ValueError, match="n=0"):
        figures.targets("abc", 0)
