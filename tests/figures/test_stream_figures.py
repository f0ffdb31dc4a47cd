"""Figures of the streams: what stands in them is what the generators said, at the place where it was said."""

import math
import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.polynomials.stream import Polynomials
from data_gen.star_graph import StarGraphs
from mtp_lab import figures
from mtp_lab.figures import stream_figures, theme
from mtp_lab.figures.stream_figures import LEFT, LETTER, Highlight, lay_out

PIECES = ["Once", " upon", " Bo", "ra", ".", "\n", " <b>", "\nEnd"]
KINDS = ("name", "word", "turn", "choice", "pronoun", "scenery", "forced")  # as many as there are colours
STAR = StarGraphs(degree=3, length=4, nodes=12)
RING = Polynomials(p=7, d=5)


def where(*tokens: int) -> np.ndarray:
    return np.isin(np.arange(len(PIECES)), tokens)


def marked(*highlights: Highlight) -> go.Figure:
    return figures.highlighted_text(PIECES, highlights, "A title", "A caption.")


def along(tokens: int = 100) -> pd.DataFrame:
    """Tokens that name their place; every third has an entropy, and a surprise twice as large."""
    t = np.arange(tokens)
    entropy = np.where(t % 3 == 0, (t + 1) / 50, 0.0)
    kind = [KINDS[i % 6] if e else "forced" for i, e in zip(t, entropy, strict=True)]
    return pd.DataFrame({"token": [f"w{i}" for i in t], "kind": kind, "entropy": entropy, "surprise": 2 * entropy})


def measured() -> pd.DataFrame:
    rows = [(panel, label, seed, 10 * k + panel_k + seed / 10) for panel_k, panel in enumerate(("share", "loss"))
            for k, label in enumerate("zab") for seed in (0, 1)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["panel", "label", "seed", "value"])
    mean = table.groupby(["panel", "label"]).value.transform("mean")
    return table.assign(mean=mean, low=mean - 0.5, high=mean + 1)


def shares() -> pd.DataFrame:
    rows = [
        (panel, ring, m, 1 / m / k)
        for panel in ("modal", "asked")
        for k, ring in ((1, "F2"), (2, "F7"))
        for m in (1, 2, 3)
    ]
    return pd.DataFrame(rows, columns=["panel", "ring", "m", "share"])


def entropies() -> dict[str, np.ndarray]:
    return {"one": np.arange(6.0).reshape(2, 3) * math.log(2), "other": np.ones((2, 3)) * math.log(2)}


def tree() -> go.Figure:
    expression = ("*", ("-", (1, 2, 0, 0, 3)), (4, 0, 0, 0, 0))
    values = {expression: (3, 6, 0, 0, 2), expression[1]: (6, 5, 0, 0, 4)}
    return figures.expression_tree(expression, values, PIECES, [], "A title", "A caption.")


def star(seed: int = 0) -> tuple[np.ndarray, go.Figure]:
    tokens = STAR.documents(1, np.random.default_rng(seed)).tokens
    pieces = [f" {STAR.token_names[token]}" for token in tokens]
    arms, goal = STAR.arms(tokens), STAR.solve(tokens)[-1]
    return tokens, figures.star_graph(arms, goal, pieces, [], "A title", "A caption.")


EVERY = {
    "highlighted_text": lambda: marked(
        Highlight("name", where(2, 3), "#a9d6f0"), Highlight("choice", where(1), "#d55e00", "dots")
    ),
    "surprisal_along": lambda: figures.surprisal_along(along(), KINDS, "A title", "A caption."),
    "interval_bars": lambda: figures.interval_bars(measured(), "A title", "A caption.", ".3s"),
    "rings": lambda: figures.rings(shares(), 2, "A title", "A caption."),
    "horizon_entropy": lambda: figures.horizon_entropy(entropies(), "cff", "A title", "A caption."),
    "expression_tree": tree,
    "star_graph": lambda: star()[1],
}


def trace(figure: go.Figure, name: str) -> go.Scatter:
    (found,) = [each for each in figure.data if each.name == name]
    return found


def notes(figure: go.Figure) -> list[str]:
    """Annotations without their tags."""
    return [re.sub(r"<[^>]*>", "", note.text) for note in figure.layout.annotations]


@pytest.mark.parametrize("name", EVERY)
def test_every_figure_renders_and_comes_back_equal_from_its_json(name, tmp_path):
    """A figure that the renderer refuses would be missed first in a notebook, after all of its work."""
    figure = EVERY[name]()
    picture = figures.save(figure, tmp_path, "figure")
    assert len(picture.read_bytes()) > 10_000, "an empty picture is smaller"
    text = picture.with_suffix(".json").read_text()
    assert pio.from_json(text) == figure
    assert "bdata" not in text and figure.layout.template.layout.font.family == theme.SANS


# --- texts


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
    figure = marked(Highlight("mark", where(2, 7), "#d55e00", kind))
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
    figure = marked(
        Highlight("absent", where(), "#000000"),
        Highlight("break", where(5), "#000000"),
        Highlight("seen", where(0), "#000000"),
    )
    assert [each.name for each in figure.data if each.showlegend] == ["seen"]


def test_pieces_are_shown_as_text_and_not_as_tags():
    """Plotly would read a piece such as <b> as a tag, and show nothing."""
    assert list(trace(marked(), "text").text) == ["Once", "upon", "Bo", "ra", ".", "&lt;b&gt;", "End"]
    assert trace(marked(), "text").x[0] == pytest.approx(LEFT + 2 * LETTER, abs=0.1)


def test_every_token_has_its_bar_and_its_circle_in_bits():
    """A bar beside its token, or nats under an axis that says bits, would be a wrong claim."""
    table = along()
    figure = figures.surprisal_along(table, KINDS, "t", "c", per_row=40)
    bars = {
        (x, each.name): y for each in figure.data if each.type == "bar" for x, y in zip(each.x, each.y, strict=True)
    }
    free = table[table.entropy > 0]
    assert bars == pytest.approx({(i, row.kind): row.entropy / math.log(2) for i, row in free.iterrows()})
    circles = {x: y for each in figure.data if each.name == "surprise" for x, y in zip(each.x, each.y, strict=True)}
    assert circles == pytest.approx({i: row.surprise / math.log(2) for i, row in free.iterrows()})
    axes = [figure.layout[name] for name in ("xaxis", "xaxis2", "xaxis3")]
    assert [list(axis.ticktext) for axis in axes] == [list(table.token[k : k + 40]) for k in (0, 40, 80)]


def test_each_kind_is_in_the_legend_once_if_it_has_an_entropy():
    figure = figures.surprisal_along(along(), KINDS, "t", "c", per_row=40)
    legend = [each.name for each in figure.data if each.showlegend]
    assert sorted(legend) == sorted({*along().query("entropy > 0").kind, "surprise"})


# --- numbers


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


def test_rings_are_drawn_in_their_panels_and_beyond_training_is_shaded():
    figure = figures.rings(shares(), 2, "t", "c")
    drawn = {(each.xaxis, each.name): list(each.y) for each in figure.data}
    expected = {"F2": [1, 1 / 2, 1 / 3], "F7": [1 / 2, 1 / 4, 1 / 6]}
    assert drawn == {(axis, ring): expected[ring] for axis in ("x", "x2") for ring in expected}
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(2.5, 3.5)] * 2
    assert [each.name for each in figure.data if each.showlegend] == ["F2", "F7"]


def test_the_heat_map_is_in_bits_with_horizon_one_on_top_and_one_scale_for_all():
    """Two panels with a scale each would paint 1 bit and 5 bits alike."""
    figure = figures.horizon_entropy(entropies(), "cff", "t", "c")
    one, other = figure.data
    assert list(one.z) == [[0, 1, 2], [3, 4, 5]] and list(other.z) == [[1, 1, 1], [1, 1, 1]]
    assert one.y == (1, 2) and figure.layout.yaxis.autorange == "reversed"
    assert (one.zmin, one.zmax) == (other.zmin, other.zmax) == (0, 5)
    assert [one.showscale, other.showscale] == [False, True]


@pytest.mark.parametrize(
    "draw, table, message",
    [
        (
            lambda table: figures.surprisal_along(table, KINDS, "t", "c"),
            along().drop(columns="entropy"),
            "entropy",
        ),
        (lambda table: figures.interval_bars(table, "t", "c"), measured()[:0], "0 rows"),
        (lambda table: figures.rings(table, 2, "t", "c"), shares().drop(columns="m"), r"missing \['m'\]"),
    ],
)
def test_a_table_that_does_not_fit_is_named(draw, table, message):
    with pytest.raises(ValueError, match=message):
        draw(table)


# --- an expression, a graph


def test_a_tree_has_a_box_for_each_node_operations_above_what_they_work_on():
    figure = tree()
    values = notes(figure)
    assert values == ["×= 3+6X+2X4", "−= 6+5X+4X4", "1+2X+3X4", "4"]
    root, minus, operand, right = figure.layout.annotations
    assert root.y > minus.y > operand.y and minus.y == right.y
    assert minus.x == operand.x and root.x == pytest.approx((minus.x + right.x) / 2) and minus.x < right.x
    assert sum(each.name == "branch" for each in figure.data) == 3


def test_no_box_of_a_random_tree_lies_on_another():
    """Sides of a lopsided tree grow into each other if subtrees are centred without room for their leaves."""
    for seed in range(20):
        tokens = RING.of(5).documents(1, np.random.default_rng(seed)).tokens
        expression, values = RING.parse(tokens), {}

        def fill(node: tuple, values: dict = values) -> None:
            if isinstance(node[0], str):
                values[node] = (1,) * RING.d
                for child in node[1:]:
                    fill(child)

        fill(expression)
        figure = figures.expression_tree(expression, values, PIECES, [], "t", "c")
        boxes = [(min(b.x), max(b.x), min(b.y), max(b.y)) for b in figure.data if b.name == "node"]
        leaves = len(re.findall(r"\([\dX^+]+\)", RING.text(tokens).split("=")[0]))
        assert len(boxes) == 5 + leaves
        for k, (x0, x1, y0, y1) in enumerate(boxes):
            assert 0 <= x0 < x1 <= theme.WIDTH
            assert all(x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0 for u0, u1, v0, v1 in boxes[:k])


@pytest.mark.parametrize("seed", range(5))
def test_a_star_graph_draws_its_edges_and_no_others(seed):
    """Two circles are joined if and only if the document lists the edge; the path is what the document answers."""
    tokens, figure = star(seed)
    at = {}
    for name in stream_figures.STAR:
        points = trace(figure, name)
        at |= {(round(x), round(y)): int(text) for x, y, text in zip(points.x, points.y, points.text, strict=True)}
    assert len(at) == STAR.n_edges + 1, "circles lie on each other"
    lines = [[at[round(x), round(y)] for x, y in zip(e.x, e.y, strict=True)] for e in figure.data if e.name == "edges"]
    drawn = {(a, b) for arm in lines for a, b in zip(arm, arm[1:], strict=False)}
    assert drawn == set(map(tuple, STAR.edges(tokens).tolist()))
    path = STAR.solve(tokens)
    assert lines[0] == path, "the arm that is highlighted"
    options = set(map(int, trace(figure, "options of the choice").text))
    assert options == {arm[1] for arm in lines} and set(map(int, trace(figure, "the path").text)) == {*path} - options


@pytest.mark.parametrize("degree, length", [(1, 3), (4, 2)])
def test_a_star_graph_without_other_nodes_is_drawn(degree, length):
    """With one arm, or arms of one edge, a group of nodes is empty."""
    graphs = StarGraphs(degree=degree, length=length)
    tokens = graphs.documents(1, np.random.default_rng(0)).tokens
    figure = figures.star_graph(graphs.arms(tokens), graphs.solve(tokens)[-1], PIECES, [], "t", "c")
    shown = [text for each in figure.data if each.name in stream_figures.STAR for text in each.text]
    assert sorted(map(int, shown)) == sorted(set(graphs.edges(tokens).ravel().tolist()))
