"""Pictures of the token streams: texts coloured by mark, an expression, a star graph, and numbers about the streams.

Like figures.py and diagrams.py they only draw: what is marked, evaluated or averaged comes in as data. A text is a
sequence of pieces, one a token, each with the space or line break that stands before it. Left out: what models predict.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from data_gen.polynomials.expressions import Polynomial, Tree
from data_gen.polynomials.stream import polynomial_text
from mtp_lab.figures.diagrams import box, canvas, escaped, label
from mtp_lab.figures.theme import BLUES, GREY, INK, MONO, RULE, WIDTH, WRONG, bars, checked, framed, line, panels

CAST = ("#f9cf8b", "#a9d6f0", "#ecbcd9", "#a5dfc6")  # grounds: INK reads on all of them
THING, INNER, PATH, PALE = "#e4e4e4", "#dfe7f0", "#0072b2", "#b5b5b5"
COLORS = ("#0072b2", "#c98200", "#b03a7e", "#56b4e9", "#00a87a", "#d55e00", "#8a8a8a")
LETTER, ROW, LEFT, COLUMNS = 8.43, 27, 22, 112  # px: a letter of MONO at 14 px, a row, the margin; letters a row
STAR = {"other arms": (PALE, "#ffffff"), "the path": (PATH, "#d3e8f5"), "options of the choice": (WRONG, "#ffffff")}
OPERATORS = {"-": "−", "+": "+", "*": "×", "o": "∘"}


@dataclass(frozen=True)
class Highlight:
    """Tokens to set apart in a text, and how: a coloured ground, a frame around them, a line or dots below."""

    name: str
    where: np.ndarray
    """(n_tokens,) bool."""
    color: str
    kind: Literal["ground", "frame", "line", "dots"] = "ground"


# --- texts -----------------------------------------------------------------------------------------------------


def lay_out(pieces: Sequence[str], columns: int = COLUMNS) -> np.ndarray:
    """(n_tokens, 3) row, first column and letters of each piece, in lines of `columns` letters.

    A piece without a space before it is one word with the piece before, and lines break between words.
    """
    places: list[tuple[int, int, int]] = []
    row, column, word = 0, 0, 0  # word: the first piece of the word that this one belongs to
    for i, piece in enumerate(pieces):
        breaks, letters = piece.count("\n"), len(piece.strip())
        if piece[:1].isspace():
            word = i
            row, column = (row + breaks, 0) if breaks else (row, column + (column > 0))
        places.append((row, column, letters))
        column += letters
        start = places[word][1]
        if column > columns and start > 0:
            row, column = row + 1, column - start
            places[word:] = [(row, at - start, size) for _, at, size in places[word:]]
    return np.array(places, int).reshape(-1, 3)


def text_height(pieces: Sequence[str]) -> int:
    """px that `write` needs for a text."""
    return ROW * (int(lay_out(pieces)[:, 0].max()) + 1) + 6


def write(figure: go.Figure, pieces: Sequence[str], highlights: Sequence[Highlight], top: float, hover: Sequence[str] = ()):
    """Adds a marked text to a canvas, below y = top. Marks that no visible token has are left out of the legend."""
    row, column, letters = lay_out(pieces).T
    x, y, width = LEFT + LETTER * column, top - ROW * (row + 0.5), LETTER * letters
    for highlight in highlights:
        at = np.flatnonzero(highlight.where & (letters > 0))
        if len(at):
            figure.add_trace(_drawn(highlight, x[at], y[at], width[at]))
    at = np.flatnonzero(letters)
    text = [escaped(pieces[i].strip()) for i in at]
    over = [escaped(hover[i]) for i in at] if hover else text
    font = dict(family=MONO, size=14, color=INK)
    style = dict(mode="text", text=text, hovertext=over, hoverinfo="text", textfont=font)
    figure.add_trace(line((x + width / 2)[at].round(1).tolist(), y[at].tolist(), INK, "text", **style))


def _drawn(highlight: Highlight, x: np.ndarray, y: np.ndarray, width: np.ndarray) -> go.Scatter:
    """One trace for all tokens of a mark, their outlines parted by None."""
    boxed, ground = highlight.kind in ("ground", "frame"), highlight.kind == "ground"
    left, right, low, high = x + 0.5 * (not ground), x + width, y - 10.5, y + 10.5
    xs = (left, left, right, right, left) if boxed else (left + 1, right - 1)
    ys = (low, high, high, low, low) if boxed else (low - 1, low - 1)
    outline = [
        [value for shape in zip(*sides, strict=True) for value in (*np.round(shape, 1).tolist(), None)]
        for sides in (xs, ys)
    ]
    pen = dict(color=highlight.color, width=0 if ground else 2, dash="dot" if highlight.kind == "dots" else "solid")
    fill = dict(fill="toself", fillcolor=highlight.color) if ground else {}
    return line(*outline, highlight.color, highlight.name, line=pen, hoverinfo="skip", showlegend=True, **fill)


def highlighted_text(
    pieces: Sequence[str], highlights: Sequence[Highlight], title: str, caption: str, hover: Sequence[str] = ()
) -> go.Figure:
    """A text whose tokens are set apart by their marks; `hover`: what is said of each token under the pointer."""
    figure, height = go.Figure(), text_height(pieces)
    write(figure, pieces, highlights, height, hover)
    return canvas(figure, title, caption, height)


def surprisal_along(table: pd.DataFrame, kinds: Sequence[str], title: str, caption: str, per_row: int = 72) -> go.Figure:
    """A text token by token, in rows: bars are what a reader expects to be surprised by, circles what came.

    Args:
        table: token, kind, entropy, surprise (nats), a row a token.
        kinds: in the order of their colours; those of no entropy are left out.
    """
    table = checked(table, "bits", "token", "kind", losses=["entropy", "surprise"]).reset_index(drop=True)
    figure, places, rows = panels([""] * -(-len(table) // per_row), 1, shared_yaxes="all", vertical_spacing=0.2)
    figure.layout.annotations = ()  # no room for titles that are empty
    circle = dict(symbol="circle-open", color=INK, size=6, line=dict(width=1.5))
    for k, place in enumerate(places):
        part = table[k * per_row : (k + 1) * per_row]
        for kind, color in zip(kinds, COLORS, strict=True):
            some = part[(part.kind == kind) & (part.entropy > 0)]
            first = kind in set(table.kind[table.entropy > 0]) - {trace.name for trace in figure.data}
            style = dict(name=kind, legendgroup=kind, showlegend=first, marker_color=color, width=0.8)
            if len(some):
                figure.add_trace(go.Bar(x=some.index.tolist(), y=some.entropy.tolist(), **style), **place)
        came = part[part.entropy > 0]
        style = dict(mode="markers", marker=circle, showlegend=not k, legendgroup="surprise", legendrank=2000)
        figure.add_trace(line(came.index, came.surprise, INK, "surprise", **style), **place)
        ticks = dict(tickvals=part.index.tolist(), ticktext=[escaped(token) for token in part.token], showgrid=False)
        ends = [k * per_row - 0.7, (k + 1) * per_row - 0.3]
        figure.update_xaxes(tickangle=-90, tickfont=dict(size=11), range=ends, **ticks, **place)
    figure.update_yaxes(title_text="bits", rangemode="tozero", dtick=2)
    figure.update_layout(barmode="overlay")
    return framed(figure, title, caption, 205 * rows - 70, margin=(60, 20, 90))


# --- numbers about streams -------------------------------------------------------------------------------------


def interval_bars(table: pd.DataFrame, title: str, caption: str, form: Literal[".1%", ".3s"] = ".1%") -> go.Figure:
    """Horizontal bars with seeds and intervals: a panel for each measure, a row for each label, in the table's order.

    Args:
        table: panel, label, seed, value and, the same in all rows of (panel, label), mean, low, high.
        form: how the bars' numbers are written: shares in percent, or three digits with k and M.
    """
    checked(table, "bits", "panel", "label", "seed", "value", "mean", "low", "high")
    titles, labels = list(dict.fromkeys(table.panel)), list(dict.fromkeys(table.label))
    figure, places, _ = panels(titles, len(titles), shared_yaxes=True, horizontal_spacing=0.05)
    colors, y = [COLORS[k % len(COLORS)] for k in range(len(labels))], np.arange(len(labels))
    for name, place in zip(titles, places, strict=True):
        part = table[table.panel == name]
        ends = part.drop_duplicates("label").set_index("label").loc[labels]
        if "%" in form:  # a share's, whatever the interval of a mean over few seeds says
            ends = ends.assign(low=ends.low.clip(lower=0), high=ends.high.clip(upper=max(1, ends["mean"].max())))
        mean, furthest = ends["mean"].tolist(), np.fmax(ends.high, ends["mean"])  # nan: one seed has no interval
        style = dict(orientation="h", marker_color=colors, opacity=0.85, showlegend=False)
        bar = go.Bar(
            x=mean, y=y.tolist(), name=name, error_x={**bars(mean, ends.low, ends.high), "color": INK}, **style
        )
        figure.add_trace(bar.update(hovertemplate=f"%{{x:{form}}}"), **place)
        style = dict(customdata=part.seed.tolist(), hovertemplate=f"seed %{{customdata}}: %{{x:{form}}}")
        style |= dict(mode="markers", marker=dict(color=INK, size=4), opacity=0.6)
        figure.add_trace(line(part.value, part.label.map(labels.index) + 0.28, INK, "seeds", **style), **place)
        style = dict(mode="text", textposition="middle right", hoverinfo="skip", customdata=mean)
        style["texttemplate"] = f" %{{customdata:{form}}}"
        figure.add_trace(line(furthest, y, INK, "numbers", **style), **place)
        tickformat = ".0%" if "%" in form else "~s"
        room = 1.1 + 0.12 * len(titles)  # for the number behind the longest bar
        style = dict(tickformat=tickformat, nticks=6, tickangle=0, range=[0, room * float(furthest.max())])
        figure.update_xaxes(**style, **place)
    rows = dict(tickvals=y.tolist(), ticktext=labels, range=[len(labels) - 0.5, -0.5], ticks="", showgrid=False)
    figure.update_yaxes(**rows)
    return framed(figure, title, caption, 30 + 40 * len(labels))


def rings(table: pd.DataFrame, trained: int, title: str, caption: str) -> go.Figure:
    """Shares against the number of operations m, a panel for each measure and a line for each ring.

    Args:
        table: panel, ring, m, share.
        trained: the largest m of training; what lies beyond it is shaded.
    """
    checked(table, "bits", "panel", "ring", "m", "share")
    titles, symbols = list(dict.fromkeys(table.panel)), ("circle", "square", "diamond")
    figure, places, _ = panels(titles, len(titles), shared_yaxes=True, horizontal_spacing=0.04)
    last = int(table.m.max())
    for name, place in zip(titles, places, strict=True):
        lines = table[table.panel == name].groupby("ring", sort=False)
        for (ring, part), color, symbol in zip(lines, COLORS, symbols, strict=False):
            style = dict(marker=dict(color=color, size=9, symbol=symbol), hovertemplate="m = %{x}: %{y:.2%}")
            style |= dict(mode="lines+markers", legendgroup=ring, showlegend=place["col"] == 1)
            figure.add_trace(line(part.m, part.share, color, ring, **style), **place)
        label(figure, (trained + last + 1) / 2, 1.03, "not trained on", GREY, 12, **place)
    figure.add_vrect(trained + 0.5, last + 0.5, fillcolor=RULE, opacity=0.6, line_width=0, layer="below")
    figure.update_xaxes(title_text="operations m", dtick=1, range=[table.m.min() - 0.5, last + 0.5])
    figure.update_yaxes(tickformat=".0%", range=[-0.03, 1.1])
    return framed(figure, title, caption, 280)


def horizon_entropy(entropy: Mapping[str, np.ndarray], columns: Sequence[str], title: str, caption: str) -> go.Figure:
    """The entropy of the token i steps ahead, by what was read last: a panel for each process.

    Args:
        entropy: name -> (n, phases) nats, row i - 1 for horizon i.
        columns: (phases,) what the last token read is.
    """
    figure, places, _ = panels(list(entropy), shared_yaxes=True, horizontal_spacing=0.03)
    bits = [(nll / np.log(2)).round(3) for nll in entropy.values()]
    bar = dict(title=dict(text="bits", side="right"), thickness=10, outlinewidth=0)
    style = dict(zmin=0, zmax=max(float(z.max()) for z in bits), colorscale=BLUES, xgap=1.5, ygap=1.5, colorbar=bar)
    style |= dict(texttemplate="%{text}", textfont=dict(size=11), hovertemplate="horizon %{y}: %{z:.2f} bits")
    phases = list(range(len(columns)))
    for z, place in zip(bits, places, strict=True):
        text, horizons = [[f"{v:.1f}" if v else "0" for v in row] for row in z], list(range(1, len(z) + 1))
        style["showscale"] = place == places[-1]
        figure.add_trace(go.Heatmap(x=phases, y=horizons, z=z.tolist(), text=text, **style), **place)
    figure.update_xaxes(tickvals=phases, ticktext=list(columns), showgrid=False, title_text="token just read")
    figure.update_yaxes(dtick=1, showgrid=False, autorange="reversed")
    figure.update_yaxes(title_text="horizon i", col=1)
    return framed(figure, title, caption, 250, margin=(75, 60, 60))


# --- an expression, a graph ------------------------------------------------------------------------------------


def expression_tree(
    tree: Tree,
    values: Mapping[Tree, Polynomial],
    pieces: Sequence[str],
    highlights: Sequence[Highlight],
    title: str,
    caption: str,
) -> go.Figure:
    """An expression as a tree, each operation with the value of what stands below it, and its tokens underneath.

    Args:
        values: of every subtree with an operation.
    """
    places = _leaf_places(tree)
    n_leaves = 1 + max(leaf for leaf, _ in places.values())
    levels, under = 1 + max(map(len, places)), text_height(pieces) + 20
    level, room, figure = 82, WIDTH / n_leaves, go.Figure()
    height, wide = int(under + level * levels), min(230, 0.9 * room)
    at = {path: (room * (leaf + 0.5), height - level * (len(path) + 0.5)) for path, (leaf, _) in places.items()}
    for path in filter(None, places):
        figure.add_trace(line(*zip(at[path[:-1]], at[path], strict=True), GREY, "branch", 1.5, hoverinfo="skip"))
    for path, (_, node) in places.items():
        inner = isinstance(node[0], str)
        powers = re.sub(r"\^(\d+)", r"<sup>\1</sup>", polynomial_text(values[node] if inner else node)[1:-1])
        fill = "#ffffff" if not inner else INNER if path else CAST[3]
        figure.add_trace(box(*at[path], wide, 46, "node", powers, fill))
        label(figure, *at[path], f"<b>{OPERATORS[node[0]]}</b><br>= {powers}" if inner else powers, size=13)
    write(figure, pieces, highlights, under - 10)
    return canvas(figure, title, caption, height)


def _leaf_places(tree: Tree, path: tuple[int, ...] = (), first: int = 0) -> dict[tuple[int, ...], tuple[float, Tree]]:
    """Path from the root -> subtree, and where it stands in the row of leaves, whose first here is number `first`."""
    if not isinstance(tree[0], str):
        return {path: (first, tree)}
    places: dict[tuple[int, ...], tuple[float, Tree]] = {}
    for k, branch in enumerate(tree[1:]):
        leaves = sum(not isinstance(node[0], str) for _, node in places.values())
        places |= _leaf_places(branch, (*path, k), first + leaves)
    middle = np.mean([places[(*path, k)][0] for k in range(len(tree) - 1)])
    return {path: (float(middle), tree), **places}


def star_graph(
    arms: Sequence[Sequence[int]], goal: int, pieces: Sequence[str], highlights: Sequence[Highlight], title: str, caption: str
) -> go.Figure:
    """A path-star graph, the arm that leads to the goal to the right, and its document underneath.

    Args:
        arms: each from the centre to its leaf.
    """
    arms = sorted(arms, key=lambda arm: arm[-1] != goal)
    step, under, figure = 52, text_height(pieces) + 10, go.Figure()
    radius = step * (len(arms[0]) - 1)
    nodes: dict[str, list] = {name: [] for name in STAR}
    for k, arm in enumerate(arms):
        angle, mine = 2 * np.pi * k / len(arms), "the path" if k == 0 else "other arms"
        x = WIDTH / 2 + 1.8 * step * np.cos(angle) * np.arange(len(arm))
        y = under + radius + 30 + step * np.sin(angle) * np.arange(len(arm))
        pen = dict(color=PATH, width=4) if k == 0 else dict(color=PALE, width=2)
        figure.add_trace(line(x.tolist(), y.tolist(), GREY, "edges", line=pen, hoverinfo="skip"))
        for j, node in enumerate(zip(x.tolist(), y.tolist(), map(str, arm), strict=True)):
            nodes["the path" if j == 0 else "options of the choice" if j == 1 else mine].append(node)
    for name, points in nodes.items():
        if not points:  # arms of one edge have only options
            continue
        *where, text = zip(*dict.fromkeys(points), strict=True)  # each arm begins with the centre
        marker = dict(size=31, color=STAR[name][1], opacity=1, line=dict(color=STAR[name][0], width=2.5))
        style = dict(mode="markers+text", marker=marker, textfont=dict(size=13), hoverinfo="skip", showlegend=True)
        figure.add_trace(line(*where, INK, name, text=list(text), **style))
    for along, what in ((0.9 * step, "start"), (1.8 * radius, "goal")):
        label(figure, WIDTH / 2 + along, under + radius + 30, what, GREY, 13, yshift=14 if what == "start" else 28)
    write(figure, pieces, highlights, under)
    return canvas(figure, title, caption, int(under + 2 * radius + 60))
