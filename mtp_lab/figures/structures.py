"""What a task's tokens stand for: an expression as a tree, a path-star graph, and the owner of each loss term.

What is evaluated, highlighted or owned comes in as data. Not here: the model's own diagrams (diagrams.py).
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from data_gen.polynomials.expressions import Polynomial, Tree
from data_gen.polynomials.stream import polynomial_text
from mtp_lab.figures.diagrams import box, canvas, label
from mtp_lab.figures.text import Highlight, text_height, write
from mtp_lab.figures.theme import CAST, GREY, INK, THING, WIDTH, WRONG, framed, line

INNER, PATH, PALE = "#dfe7f0", "#0072b2", "#b5b5b5"
CANDIDATES = "candidates for the first step"
STAR = {"other arms": (PALE, "#ffffff"), "the path": (PATH, "#d3e8f5"), CANDIDATES: (WRONG, "#ffffff")}
OPERATORS = {"-": "−", "+": "+", "*": "×", "o": "∘"}
CHOICE, ALONE, READ = (
    "of the choice point",
    "of tokens on which nothing depends",
    "of tokens whose choice has been read",
)
TERMS = {CHOICE: CAST[0], ALONE: CAST[1], READ: THING}


def expression_tree(
    tree: Tree,
    values: Mapping[Tree, Polynomial],
    pieces: Sequence[str],
    highlights: Sequence[Highlight],
    title: str,
    caption: str,
) -> go.Figure:
    """An expression as a tree, each operation with its value, and the tokens of the expression underneath.

    Args:
        values: of every subtree with an operation.
    """
    places = _leaf_places(tree)
    n_leaves = 1 + max(leaf for leaf, _ in places.values())
    levels, text_room = 1 + max(map(len, places)), text_height(pieces) + 20
    level, room, figure = 82, WIDTH / n_leaves, go.Figure()
    height, width = int(text_room + level * levels), min(230, 0.9 * room)
    centre = {path: (room * (leaf + 0.5), height - level * (len(path) + 0.5)) for path, (leaf, _) in places.items()}
    for path in filter(None, places):
        ends = zip(centre[path[:-1]], centre[path], strict=True)
        figure.add_trace(line(*ends, GREY, "branch", 1.5, hoverinfo="skip"))
    for path, (_, node) in places.items():
        inner = isinstance(node[0], str)
        powers = re.sub(r"\^(\d+)", r"<sup>\1</sup>", polynomial_text(values[node] if inner else node)[1:-1])
        fill = "#ffffff" if not inner else INNER if path else CAST[3]
        text = f"<b>{OPERATORS[node[0]]}</b><br>= {powers}" if inner else powers
        box(figure, *centre[path], width, 46, "node", text, powers, fill, size=13)
    write(figure, pieces, highlights, text_room - 10)
    return canvas(figure, title, caption, height)


def _leaf_places(tree: Tree, path: tuple[int, ...] = (), first: int = 0) -> dict[tuple[int, ...], tuple[float, Tree]]:
    """Path from the root -> place in the row of leaves, and subtree; `first` is the number of the tree's first leaf."""
    if not isinstance(tree[0], str):
        return {path: (first, tree)}
    places: dict[tuple[int, ...], tuple[float, Tree]] = {}
    for k, branch in enumerate(tree[1:]):
        leaves = sum(not isinstance(node[0], str) for _, node in places.values())
        places |= _leaf_places(branch, (*path, k), first + leaves)
    middle = np.mean([places[(*path, k)][0] for k in range(len(tree) - 1)])
    return {path: (float(middle), tree), **places}


def star_graph(
    arms: Sequence[Sequence[int]],
    goal: int,
    pieces: Sequence[str],
    highlights: Sequence[Highlight],
    title: str,
    caption: str,
) -> go.Figure:
    """A path-star graph, the arm that leads to the goal to the right, and its document underneath.

    Args:
        arms: each from the centre to its leaf.
    """
    arms = sorted(arms, key=lambda arm: arm[-1] != goal)
    step, text_room, figure = 52, text_height(pieces) + 10, go.Figure()
    radius = step * (len(arms[0]) - 1)
    middle = text_room + radius + 30  # y of the centre
    nodes: dict[str, list] = {name: [] for name in STAR}
    for k, arm in enumerate(arms):
        angle, group = 2 * np.pi * k / len(arms), "the path" if k == 0 else "other arms"
        x = WIDTH / 2 + 1.8 * step * np.cos(angle) * np.arange(len(arm))
        y = middle + step * np.sin(angle) * np.arange(len(arm))
        pen = dict(color=PATH, width=4) if k == 0 else dict(color=PALE, width=2)
        figure.add_trace(line(x.tolist(), y.tolist(), GREY, "edges", line=pen, hoverinfo="skip"))
        for j, node in enumerate(zip(x.tolist(), y.tolist(), map(str, arm), strict=True)):
            nodes["the path" if j == 0 else CANDIDATES if j == 1 else group].append(node)
    for name, points in nodes.items():
        if not points:  # arms of one edge have only candidates
            continue
        *where, text = zip(*dict.fromkeys(points), strict=True)  # each arm begins with the centre
        marker = dict(size=31, color=STAR[name][1], opacity=1, line=dict(color=STAR[name][0], width=2.5))
        style = dict(mode="markers+text", marker=marker, textfont=dict(size=13), hoverinfo="skip", showlegend=True)
        figure.add_trace(line(*where, INK, name, text=list(text), **style))
    label(figure, WIDTH / 2 + 0.9 * step, middle, "start", GREY, 13, yshift=14)
    label(figure, WIDTH / 2 + 1.8 * radius, middle, "goal", GREY, 13, yshift=28)
    write(figure, pieces, highlights, text_room)
    return canvas(figure, title, caption, int(text_room + 2 * radius + 60))


def terms(names: Sequence[str], cause: np.ndarray, owners: np.ndarray, title: str, caption: str) -> go.Figure:
    """Every loss term as a square, at its target and horizon, coloured by its owner's kind (the paper's Figure 9).

    Args:
        names: (seq,) of the tokens.
        cause: (seq,) distance back to the choice that determines a token; 0 or less: none.
        owners: (n, seq) the token that each term belongs to; -1: no term (`theory.implicit_weights.owners`).
    """
    cause, position = np.asarray(cause), np.arange(len(names))
    decides = np.isin(position, (position - cause)[cause > 0])  # (seq,)
    kind = np.where(decides, 0, np.where(cause > 0, 2, 1))[owners]  # (n, seq)
    figure = go.Figure()
    for k, (name, color) in enumerate(TERMS.items()):
        row, target = np.nonzero((owners >= 0) & (kind == k))
        if len(target):
            marker = dict(symbol="square", size=30, color=color, opacity=1, line=dict(width=0))
            style = dict(mode="markers", marker=marker, showlegend=True, hoverinfo="text")
            pairs = zip(target, row + 1, strict=True)
            style["text"] = [f"{names[t - i]} → {names[t]}, horizon {i}" for t, i in pairs]
            figure.add_trace(line(target.tolist(), (row + 1).tolist(), color, f"{name}: {len(target)}", **style))
    ticks = dict(tickvals=position.tolist(), ticktext=list(names), range=[-0.6, len(names) - 0.4])
    figure.update_xaxes(title_text="token that is predicted", showgrid=False, **ticks)
    figure.update_yaxes(title_text="horizon i", dtick=1, range=[len(owners) + 0.6, 0.4], showgrid=False)
    return framed(figure, title, caption, 40 * (len(owners) + 1))
