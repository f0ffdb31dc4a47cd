"""Expressions, star graphs and loss terms are drawn as the generators define them."""

import re

import numpy as np
import pytest

from data_gen.polynomials.stream import Polynomials
from data_gen.star_graph import StarGraphs
from mtp_lab import figures
from mtp_lab.figures import structures, theme
from mtp_lab.figures.rendering import png
from mtp_lab.theory import implicit_weights
from tests.figures.samples import PIECES, STAR, notes, star, trace, tree

RING = Polynomials(p=7, d=5)


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
    for name in structures.STAR:
        points = trace(figure, name)
        at |= {(round(x), round(y)): int(text) for x, y, text in zip(points.x, points.y, points.text, strict=True)}
    assert len(at) == STAR.n_edges + 1, "circles lie on each other"
    lines = [[at[round(x), round(y)] for x, y in zip(e.x, e.y, strict=True)] for e in figure.data if e.name == "edges"]
    drawn = {(a, b) for arm in lines for a, b in zip(arm, arm[1:], strict=False)}
    assert drawn == set(map(tuple, STAR.edges(tokens).tolist()))
    path = STAR.solve(tokens)
    assert lines[0] == path, "the arm that is highlighted"
    options = set(map(int, trace(figure, structures.CANDIDATES).text))
    assert options == {arm[1] for arm in lines} and set(map(int, trace(figure, "the path").text)) == {*path} - options


@pytest.mark.parametrize("degree, length", [(1, 3), (4, 2)])
def test_a_star_graph_without_other_nodes_is_drawn(degree, length):
    """With one arm, or arms of one edge, a group of nodes is empty."""
    graphs = StarGraphs(degree=degree, length=length)
    tokens = graphs.documents(1, np.random.default_rng(0)).tokens
    figure = figures.star_graph(graphs.arms(tokens), graphs.solve(tokens)[-1], PIECES, [], "t", "c")
    shown = [text for each in figure.data if each.name in structures.STAR for text in each.text]
    assert sorted(map(int, shown)) == sorted(set(graphs.edges(tokens).ravel().tolist()))


def test_terms_stand_at_their_target_and_belong_to_their_owner():
    """The paper's Figure 9 with three tokens before the choice and n = 2: A has three terms."""
    cause = np.array([0, 0, 0, 0, 1])
    figure = figures.terms("123AB", cause, implicit_weights.owners(cause, 2), "title", "caption")
    squares = {trace.name: set(zip(trace.x, trace.y, strict=True)) for trace in figure.data}
    assert squares == {
        f"{structures.CHOICE}: 3": {(3, 1), (3, 2), (4, 2)},
        f"{structures.ALONE}: 3": {(1, 1), (2, 1), (2, 2)},
        f"{structures.READ}: 1": {(4, 1)},
    }
    assert set(figure.data[0].text) == {"3 → A, horizon 1", "2 → A, horizon 2", "3 → B, horizon 2"}
    assert list(figure.layout.xaxis.ticktext) == list("123AB")
    assert png(figure)[:4] == b"\x89PNG"
