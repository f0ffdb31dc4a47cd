"""Texts token by token: highlighted, shaded, beside their surprisal, and aligned with what each head predicts.

A text is a sequence of pieces, one a token, each with the space or line break before it. Every text is laid out in px
or in columns here, not by the browser, so that highlights stay at their tokens. What is highlighted comes in as data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mtp_lab.config import check_positive
from mtp_lab.figures.diagrams import box, canvas, escaped, label
from mtp_lab.figures.theme import (
    BLUES,
    CATEGORIES,
    GREY,
    INK,
    MONO,
    RULE,
    WIDTH,
    WRONG,
    checked,
    framed,
    horizon_color,
    line,
    panels,
)

SEPARATOR = 256  # data_gen.bytes: opens each document
LETTER, ROW, LEFT, COLUMNS = 8.43, 27, 22, 112  # px: a letter of MONO at 14 px, a row, the margin; letters a row
CELL, STEP, MARGIN = 22, 30, 110  # px: a character of a forward pass, a forward pass, the room of its name
STRIP_LETTER, STRIP_ROW = 11, 24  # px: a character and a row of `strip`
FEWEST = 24  # columns a text is given room for, so that a short one is not stretched
PROMPT, NO_TARGET, FAINT, WHITE = "#ececec", "#ececec", "#b0b0b0", "rgb(255, 255, 255)"
SHADES = ((1, "#e3eef8"), (2, "#c3daee"), (4, "#8fbbe0"), (8, "#5798d3"))
"""Smallest multiple of the mean, and its ground; INK reads on all of them. Tokens of less weight stay white."""


# --- highlights --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Highlight:
    """Tokens to highlight in a text, and how: a coloured ground, a frame around them, a line or dots below."""

    name: str
    where: np.ndarray
    """(n_tokens,) bool."""
    color: str
    kind: Literal["ground", "frame", "line", "dots"] = "ground"


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
        if column > columns and start > 0:  # the whole word moves to the next row
            row, column = row + 1, column - start
            places[word:] = [(row, place - start, size) for _, place, size in places[word:]]
    return np.array(places, int).reshape(-1, 3)


def text_height(pieces: Sequence[str]) -> int:
    """px that `write` needs for a text."""
    return ROW * (int(lay_out(pieces)[:, 0].max()) + 1) + 6


def write(
    figure: go.Figure, pieces: Sequence[str], highlights: Sequence[Highlight], top: float, hover: Sequence[str] = ()
) -> None:
    """Adds a highlighted text to a canvas, below y = top. Highlights without a visible token are left out."""
    row, column, letters = lay_out(pieces).T
    x, y, width = LEFT + LETTER * column, top - ROW * (row + 0.5), LETTER * letters
    for highlight in highlights:
        tokens = np.flatnonzero(highlight.where & (letters > 0))
        if len(tokens):
            figure.add_trace(_highlighted(highlight, x[tokens], y[tokens], width[tokens]))
    visible = np.flatnonzero(letters)
    text = [escaped(pieces[i].strip()) for i in visible]
    style = dict(mode="text", text=text, hovertext=[escaped(hover[i]) for i in visible] if hover else text)
    style |= dict(hoverinfo="text", textfont=dict(family=MONO, size=14, color=INK))
    figure.add_trace(line((x + width / 2)[visible].round(1).tolist(), y[visible].tolist(), INK, "text", **style))


def _highlighted(highlight: Highlight, x: np.ndarray, y: np.ndarray, width: np.ndarray) -> go.Scatter:
    """One trace for all tokens of a highlight; x: (n,) their left sides."""
    boxed, ground = highlight.kind in ("ground", "frame"), highlight.kind == "ground"
    left, right, low, high = x + 0.5 * (not ground), x + width, y - 10.5, y + 10.5
    xs = (left, left, right, right, left) if boxed else (left + 1, right - 1)
    ys = (low, high, high, low, low) if boxed else (low - 1, low - 1)
    pen = dict(color=highlight.color, width=0 if ground else 2, dash="dot" if highlight.kind == "dots" else "solid")
    fill = dict(fill="toself", fillcolor=highlight.color) if ground else {}
    return _outlines(xs, ys, highlight.color, highlight.name, line=pen, showlegend=True, **fill)


def _outlines(xs: Sequence[np.ndarray], ys: Sequence[np.ndarray], color: str, name: str, **options) -> go.Scatter:
    """One trace of n outlines, separated by None; xs and ys hold an (n,) array for each corner."""
    shapes = (np.stack(sides, axis=1).round(1).tolist() for sides in (xs, ys))  # (n, corners)
    x, y = ([value for corners in shape for value in (*corners, None)] for shape in shapes)
    return line(x, y, color, name, hoverinfo="skip", **options)


def highlighted_text(
    pieces: Sequence[str], highlights: Sequence[Highlight], title: str, caption: str, hover: Sequence[str] = ()
) -> go.Figure:
    """A text with highlighted tokens; `hover`: the hover text of each token, by default the token itself."""
    figure, height = go.Figure(), text_height(pieces)
    write(figure, pieces, highlights, height, hover)
    return canvas(figure, title, caption, height)


def weighted_text(pieces: Sequence[str], weights: Mapping[str, np.ndarray], title: str, caption: str) -> go.Figure:
    """The same text once for each loss, its tokens shaded by their weight; see SHADES.

    Args:
        weights: name of a loss -> (tokens,) weights in multiples of that loss's mean; NaN: unknown.
    """
    rise, figure, in_legend = text_height(pieces) + 28, go.Figure(), set()
    edges, colors = zip(*SHADES, strict=True)
    names = [f"{low:g} to {high:g} times the mean" for low, high in zip(edges, edges[1:], strict=False)]
    names.append(f"{edges[-1]:g} times and more")
    for k, (name, weight) in enumerate(weights.items()):
        top, shade = rise * (len(weights) - k), np.digitize(np.nan_to_num(weight), edges)  # (tokens,) 0: white
        label(figure, LEFT, top - 12, f"<b>{name}</b>", xanchor="left")
        shades = enumerate(zip(names, colors, strict=True), 1)
        highlights = [Highlight(shade_name, shade == i, color) for i, (shade_name, color) in shades]
        hover = [f"{piece.strip()}: {w:.2f}" for piece, w in zip(pieces, weight, strict=True)]
        write(figure, pieces, highlights, top - 24, hover)
    for trace in figure.data:
        if trace.showlegend:
            trace.update(showlegend=trace.name not in in_legend, legendrank=1000 + names.index(trace.name))
            in_legend.add(trace.name)
    return canvas(figure, title, caption, rise * len(weights))


def surprisal_along(
    table: pd.DataFrame, kinds: Sequence[str], title: str, caption: str, per_row: int = 72
) -> go.Figure:
    """A text token by token, in rows: bars are the entropy before each token, circles its surprisal.

    Args:
        table: token, kind, entropy, surprisal (nats), a row a token.
        kinds: in the order of their colours; those without entropy are left out.
    """
    table = checked(table, "token", "kind", unit="bits", losses=["entropy", "surprisal"]).reset_index(drop=True)
    figure, places, rows = panels([""] * -(-len(table) // per_row), 1, shared_yaxes="all", vertical_spacing=0.2)
    figure.layout.annotations = ()  # no room for titles that are empty
    circle, in_legend = dict(symbol="circle-open", color=INK, size=6, line=dict(width=1.5)), set()
    for k, place in enumerate(places):
        part = table[k * per_row : (k + 1) * per_row]
        uncertain = part[part.entropy > 0]
        for kind, color in zip(kinds, CATEGORIES, strict=True):
            tokens = uncertain[uncertain.kind == kind]
            style = dict(name=kind, legendgroup=kind, showlegend=kind not in in_legend, marker_color=color, width=0.8)
            if len(tokens):
                figure.add_trace(go.Bar(x=tokens.index.tolist(), y=tokens.entropy.tolist(), **style), **place)
                in_legend.add(kind)
        style = dict(mode="markers", marker=circle, showlegend=not k, legendgroup="surprisal", legendrank=2000)
        figure.add_trace(line(uncertain.index, uncertain.surprisal, INK, "surprisal", **style), **place)
        ticks = dict(tickvals=part.index.tolist(), ticktext=[escaped(token) for token in part.token], showgrid=False)
        ends = [k * per_row - 0.7, (k + 1) * per_row - 0.3]
        figure.update_xaxes(tickangle=-90, tickfont=dict(size=11), range=ends, **ticks, **place)
    figure.update_yaxes(title_text="bits", rangemode="tozero", dtick=2)
    figure.update_layout(barmode="overlay")
    return framed(figure, title, caption, 205 * rows - 70, margin=(60, 20, 90))


# --- self-speculative decoding -----------------------------------------------------------------------------


def pale(i: int, n: int) -> str:
    """The ground under a character that head i of n proposed: head 1 white, the others paler than their lines."""
    if i == 1:
        return WHITE
    channels = [int(channel) for channel in horizon_color(i, n)[4:-1].split(",")]
    return "rgb({}, {}, {})".format(*(round(255 - 0.45 * (255 - channel)) for channel in channels))


def visible_sign(piece: str) -> str:
    """A character that can be seen."""
    return {" ": "␣", "\n": "⏎", "\t": "⇥"}.get(piece, piece)


def forward_passes(
    drafts: Sequence[Sequence[str]], kept: Sequence[int], own: Sequence[str], n: int, title: str, caption: str
) -> go.Figure:
    """Blockwise decoding, a row a forward pass: the drafts that it reads, those it accepts, and head 1's own token.

    Args:
        drafts: the characters that heads 2, 3, ... proposed for each forward pass.
        kept: how many of them it accepts.
        own: the character that head 1 puts after those.
        n: heads.
    """
    height, figure, n_accepted = STEP * len(kept) + 10, go.Figure(), 0
    for row, (draft, right, last) in enumerate(zip(drafts, kept, own, strict=True)):
        y = height - STEP * (row + 0.5)
        label(figure, 8, y, f"forward pass {row + 1}", GREY, 12, xanchor="left")
        for column, piece in enumerate([*draft[:right], last, *draft[right + 1 :]]):
            x = MARGIN + CELL * (n_accepted + column + 0.5)
            rejected, head = column > right, 1 if column == right else column + 2
            fill = WHITE if rejected else pale(head, n)
            name = f"head {head}: {'rejected with the draft before it' if rejected else 'accepted'}"
            border = RULE if rejected else horizon_color(head, n)
            style = dict(fill=fill, border=border, radius=4, color=FAINT if rejected else None, font_family=MONO)
            box(figure, x, y, CELL - 3, STEP - 6, name, visible_sign(piece), **style)
        if right < len(draft):
            x = MARGIN + CELL * (n_accepted + right + 0.5)
            label(figure, x, y - 12, f"<s>{visible_sign(draft[right])}</s>", WRONG, 10)
        n_accepted += right + 1
    _head_legend(figure, n)
    return canvas(figure, title, caption, height)


def strip(
    tokens: Sequence[int], heads: Sequence[int], n: int, title: str, caption: str, columns: int = 84
) -> go.Figure:
    """Bytes coloured by the head that proposed them, lines as they are in the text.

    Args:
        tokens: bytes, and 256 for the separator that opens a document.
        heads: as Generation.heads; 0 for the prompt.
    """
    places, row, column = [], 0, 0
    for token in tokens:
        places.append((column, row))
        row, column = (row + 1, 0) if token == 10 or column == columns - 1 else (row, column + 1)
    height, figure = (places[-1][1] + 1) * STRIP_ROW + 10, go.Figure()
    columns_of, rows_of = np.array(places).T  # (seq,) each
    x, y = LEFT + STRIP_LETTER * (columns_of + 0.5), height - STRIP_ROW * (rows_of + 0.5)
    for head in sorted(set(heads)):
        at_x, at_y = (values[np.asarray(heads) == head] for values in (x, y))
        left, right, low, high = at_x - STRIP_LETTER / 2, at_x + STRIP_LETTER / 2, at_y - 11, at_y + 11
        style = dict(fill="toself", fillcolor=pale(head, n) if head else PROMPT, line=dict(width=0))
        corners = (left, right, right, left, left), (low, low, high, high, low)
        figure.add_trace(_outlines(*corners, style["fillcolor"], f"head {head}" if head else "prompt", **style))
    text = [escaped(visible_sign(chr(token)) if 32 <= token < 127 or token == 10 else "·") for token in tokens]
    hover = [f"head {head}" if head else "prompt" for head in heads]
    faint = np.isin(tokens, [32, 10])
    for where, color in ((~faint, INK), (faint, FAINT)):
        shown = np.flatnonzero(where)
        style = dict(mode="text", text=[text[i] for i in shown], hovertext=[hover[i] for i in shown])
        style |= dict(hoverinfo="text", textfont=dict(family=MONO, size=14, color=color))
        figure.add_trace(line(x[shown], y[shown], INK, "bytes", **style))
    _head_legend(figure, n, prompt=0 in set(heads))
    return canvas(figure, title, caption, height)


def _head_legend(figure: go.Figure, n: int, prompt: bool = False) -> None:
    """A square for each head."""
    squares = [("prompt", PROMPT, RULE)] if prompt else []
    squares += [(f"head {i}", pale(i, n), horizon_color(i, n)) for i in range(1, n + 1)]
    for name, fill, border in squares:
        marker = dict(symbol="square", size=14, color=fill, line=dict(color=border, width=1.5))
        figure.add_trace(line([None], [None], fill, name, mode="markers", marker=marker, showlegend=True))


# --- columns: a token a column, a head a row -------------------------------------------------------------------


def printable(token: str | int) -> str:
    """One visible sign for each character: space "·", newline "↵", tab "→", others as "x9f"; an int is a byte."""
    if isinstance(token, int | np.integer):
        token = "␞" if token == SEPARATOR else chr(token) if token < 128 else f"x{token:02x}"
    signs = {" ": "·", "\n": "↵", "\t": "→"}
    return "".join(signs.get(c) or (c if c.isprintable() else f"x{ord(c):02x}") for c in token)


def _signs(
    cells: Sequence[tuple[int, int, str]], room: float, color: str, name: str, bold: bool = False, legend: bool = False
) -> go.Scatter:
    """Signs (column, row, text) in a monospaced font small enough for columns of `room` px."""
    sizes = [round(min(15.0, 0.95 * room / (0.62 * max(1, len(text)))), 1) for *_, text in cells]
    text = [f"<b>{escaped(text)}</b>" if bold else escaped(text) for *_, text in cells]
    style = dict(mode="text", text=text, hoverinfo="skip", textfont=dict(family=MONO, size=sizes, color=color))
    return line([c[0] for c in cells], [c[1] for c in cells], INK, name, showlegend=legend, **style)


def _in_columns(
    text: Sequence[str | int], z: Sequence[Sequence], hover: Sequence[Sequence[str]], room: float, **heat
) -> go.Figure:
    """The text as row 0, and below it a shaded square for each head (row) and token (column)."""
    style = dict(x=list(range(len(text))), y=list(range(1, len(z) + 1)), text=hover, hoverinfo="text", **heat)
    first_row = [(t, 0, printable(token)) for t, token in enumerate(text)]
    return go.Figure([go.Heatmap(z=z, **style), _signs(first_row, room, INK, "text", bold=True)])


def _framed_columns(
    figure: go.Figure, rows: Sequence[str], columns: int, title: str, caption: str, width: int, right: int, cell: int
) -> go.Figure:
    """Names the rows at the left, the first on top; `right`: margin, `cell`: height of a row, in px."""
    framed(figure, title, caption, cell * len(rows), width, margin=(95, right, 30))
    plain = dict(showgrid=False, ticks="", showline=False, fixedrange=True, ticklabelstandoff=4)
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=list(rows), range=[len(rows) - 0.5, -0.5], **plain)
    return figure.update_xaxes(range=[-0.5, max(columns, FEWEST) - 0.5], **plain)


def targets(text: str, n: int, documents: Sequence[int] | None = None, title: str | None = None) -> go.Figure:
    """The target of each head at each position: row i is the text, i columns to the left.

    Args:
        text: one character a position.
        n: number of horizons.
        documents: the document of each position, -1 for padding; None if the text is one document.

    Raises:
        ValueError: if documents and text differ in length.
    """
    check_positive(n=n, length=len(text))
    documents = [0] * len(text) if documents is None else list(documents)
    if len(documents) != len(text):
        raise ValueError(f"{len(documents)} documents must be as many as the {len(text)} characters")
    positions, heads = range(len(text)), range(1, n + 1)
    cells = [
        (t, i, printable(text[t + i]))
        for i in heads
        for t in positions[: max(0, len(text) - i)]
        if documents[t] == documents[t + i] >= 0
    ]
    z = [[0] * len(text) for _ in heads]
    hover = [[f"at t = {t + 1}, head {i}: no target, ignored" for t in positions] for i in heads]
    for t, i, sign in cells:
        z[i - 1][t], hover[i - 1][t] = i, f"at t = {t + 1}, head {i}: {escaped(sign)}"
    tints = [NO_TARGET] + [f"rgba{horizon_color(i, n)[3:-1]}, 0.22)" for i in heads]
    style = dict(zmin=0, zmax=n, colorscale=[[k / n, tint] for k, tint in enumerate(tints)], showscale=False)
    room = (WIDTH - 115) / max(len(text), FEWEST)
    figure = _in_columns(text, z, hover, room, xgap=2, ygap=2, name="targets", **style)
    figure.add_trace(_signs(cells, room, INK, "to predict"))
    for t in positions[1:]:
        if documents[t] != documents[t - 1]:
            figure.add_vline(t - 0.5, line=dict(color=INK, width=2))
    several = ", at the end and where the next document (black line) begins." if len(set(documents)) > 1 else "."
    title = title or "At every position t, " + (
        f"{n} heads predict the next {n} characters" if n > 1 else "one head predicts the next character"
    )
    names = ["<b>x<sub>t</sub></b>", *(f"head {i}: x<sub>t+{i}</sub>" for i in heads)]
    _framed_columns(figure, names, len(text), title, f"Grey: no target, ignored by the loss{several}", WIDTH, 20, 32)
    ticks = [t for t in positions if t == 0 or t % 5 == 4]
    return figure.update_xaxes(tickvals=ticks, ticktext=[f"{'' if t else 't = '}{t + 1}" for t in ticks])


def line_predictions(
    text: Sequence[str | int],
    predictions: Sequence[Sequence[str | int]],
    probability: np.ndarray,
    correct: np.ndarray,
    title: str,
    caption: str = "Under each true token, what head i predicted for it, i tokens ahead.",
    width: int = 1200,
) -> go.Figure:
    """A line of real text, and aligned below it the prediction of each head for each of its tokens.

    Args:
        text: the true tokens, as strings or byte ids (see `printable`).
        predictions: (n, seq); [i - 1][t] is head i's first choice for token t, made i tokens earlier; its value is
            not read where t < i, as no prediction exists there.
        probability: (n, seq) that the head assigned to the true token.
        correct: (n, seq) bool.

    Raises:
        ValueError: if the shapes differ.
    """
    n, seq = len(predictions), len(text)
    probability, correct = np.asarray(probability, float), np.asarray(correct, bool)
    if not n * seq or any(len(row) != seq for row in predictions) or not probability.shape == correct.shape == (n, seq):
        raise ValueError(
            f"predictions {[len(row) for row in predictions]}, probability {probability.shape} and "
            f"correct {correct.shape} must all be (n, {seq})"
        )
    cells = [(t, i, printable(predictions[i - 1][t])) for i in range(1, n + 1) for t in range(i, seq)]
    z: list[list[float | None]] = [[None] * seq for _ in range(n)]
    hover = [[""] * seq for _ in range(n)]
    for t, i, sign in cells:
        z[i - 1][t] = p = float(probability[i - 1, t])
        hover[i - 1][t] = f"head {i}: {escaped(sign)}; in truth {escaped(printable(text[t]))}, probability {p:.3f}"
    bar = dict(title=dict(text="P(true token)", side="right"), thickness=10, tickvals=[0, 0.5, 1], outlinewidth=0)
    style = dict(zmin=0, zmax=1, colorscale=BLUES, colorbar=bar, xgap=1, ygap=1, name="probability")
    room = (width - 185) / max(seq, FEWEST)
    figure = _in_columns(text, z, hover, room, **style)
    for right, color, name in ((True, INK, "first choice right"), (False, WRONG, "first choice wrong")):
        shown = [cell for cell in cells if correct[cell[1] - 1, cell[0]] == right]
        figure.add_trace(_signs(shown, room, color, name, bold=not right, legend=True))
    rows = ["<b>text</b>", *(f"head {i}" for i in range(1, n + 1))]
    return _framed_columns(figure, rows, seq, title, caption, width, 90, 30).update_xaxes(showticklabels=False)
