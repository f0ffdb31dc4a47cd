"""Pictures of self-speculative decoding: forwards one by one, a text by proposing head, acceptance, speed-ups."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mtp_lab.figures.diagrams import box, canvas, escaped, ink_on, label
from mtp_lab.figures.theme import GREY, INK, MONO, RULE, WIDTH, bars, checked, framed, horizon_color, line, panels

MODES = {"greedy": ("#3a3a3a", "circle"), "sampled": ("#c98200", "square"), "real text": ("#0072b2", "diamond")}
LINES = ("#3a3a3a", "#0072b2", "#b03a7e", "#00a87a")
CELL, STEP, MARGIN = 22, 30, 110  # px: a character of a forward, a forward, the room of its name
LETTER, LINE = 11, 24  # px: a character of a text, a line of it


def pale(i: int, n: int) -> str:
    """The ground under a character that head i of n proposed: head 1 white, the others paler than their lines."""
    if i == 1:
        return "rgb(255, 255, 255)"
    parts = [int(part) for part in horizon_color(i, n)[4:-1].split(",")]
    return "rgb({}, {}, {})".format(*(round(255 - 0.45 * (255 - part)) for part in parts))


def shown(piece: str) -> str:
    """A character that can be seen."""
    return {" ": "␣", "\n": "⏎", "\t": "⇥"}.get(piece, piece)


def forward_passes(
    drafts: Sequence[Sequence[str]], kept: Sequence[int], own: Sequence[str], n: int, title: str, caption: str
) -> go.Figure:
    """Blockwise decoding, a row a forward: the drafts that it reads, those that it keeps, and head 1's own token.

    Args:
        drafts: the characters each forward was given by heads 2, 3, ...
        kept: how many of them it kept.
        own: the character that head 1 put behind those.
        n: heads.
    """
    height, figure, committed = STEP * len(kept) + 10, go.Figure(), 0
    for row, (given, right, last) in enumerate(zip(drafts, kept, own, strict=True)):
        y = height - STEP * (row + 0.5)
        label(figure, 8, y, f"forward {row + 1}", GREY, 12, xanchor="left")
        for column, piece in enumerate([*given[:right], last, *given[right + 1 :]]):
            x = MARGIN + CELL * (committed + column + 0.5)
            refused, head = column > right, 1 if column == right else column + 2
            fill = "rgb(255, 255, 255)" if refused else pale(head, n)
            name = f"head {head}: {'refused with the draft before it' if refused else 'committed'}"
            border = RULE if refused else horizon_color(head, n)
            figure.add_trace(box(x, y, CELL - 3, STEP - 6, name, name, fill, border, 4))
            color = "#b0b0b0" if refused else ink_on(fill)
            label(figure, x, y, shown(piece), color, 14, font_family=MONO)
        if right < len(given):
            x = MARGIN + CELL * (committed + right + 0.5)
            label(figure, x, y - 12, f"<s>{shown(given[right])}</s>", "#d55e00", 10)
        committed += right + 1
    _legend(figure, n)
    return canvas(figure, title, caption, height)


def strip(
    tokens: Sequence[int], heads: Sequence[int], n: int, title: str, caption: str, columns: int = 84
) -> go.Figure:
    """Bytes coloured by the head that proposed them, lines as they are in the text.

    Args:
        tokens: bytes, and 256 for what opens a document.
        heads: as Generation.heads; 0 for the prompt.
    """
    places, row, column = [], 0, 0
    for token in tokens:
        places.append((column, row))
        row, column = (row + 1, 0) if token == 10 or column == columns - 1 else (row, column + 1)
    height, figure = (places[-1][1] + 1) * LINE + 10, go.Figure()
    x, y = (np.array(part) for part in zip(*places, strict=True))
    x, y = 22 + LETTER * (x + 0.5), height - LINE * (y + 0.5)
    for head in sorted(set(heads)):
        at = np.flatnonzero(np.asarray(heads) == head)
        left, right, low, high = x[at] - LETTER / 2, x[at] + LETTER / 2, y[at] - LINE / 2 + 1, y[at] + LINE / 2 - 1
        sides = ((left, right, right, left, left), (low, low, high, high, low))
        outline = [[v for shape in zip(*side, strict=True) for v in (*shape, None)] for side in sides]
        fill = "#ececec" if head == 0 else pale(head, n)
        style = dict(fill="toself", fillcolor=fill, hoverinfo="skip", line=dict(width=0))
        figure.add_trace(line(*outline, fill, "prompt" if head == 0 else f"head {head}", **style))
    text = [shown(chr(token) if 32 <= token < 127 or token == 10 else "·") for token in tokens]
    over = ["prompt" if head == 0 else f"head {head}" for head in heads]
    faint = np.isin(tokens, [32, 10])
    for where, color in ((~faint, INK), (faint, "#b0b0b0")):
        at = np.flatnonzero(where)
        style = dict(
            mode="text", text=[escaped(text[i]) for i in at], hovertext=[over[i] for i in at], hoverinfo="text"
        )
        figure.add_trace(line(x[at], y[at], INK, "bytes", textfont=dict(family=MONO, size=14, color=color), **style))
    _legend(figure, n, prompt=0 in set(heads))
    return canvas(figure, title, caption, height)


def _legend(figure: go.Figure, n: int, prompt: bool = False) -> None:
    """A square for each head."""
    squares = [("prompt", "#ececec", RULE)] if prompt else []
    squares += [(f"head {i}", pale(i, n), horizon_color(i, n)) for i in range(1, n + 1)]
    for name, fill, border in squares:
        marker = dict(symbol="square", size=14, color=fill, line=dict(color=border, width=1.5))
        figure.add_trace(line([None], [None], fill, name, mode="markers", marker=marker, showlegend=True))


def acceptance(table: pd.DataFrame, title: str, caption: str) -> go.Figure:
    """Share of forwards in which head i's token was committed, a panel a model, a line for each kind of text.

    Args:
        table: panel, mode (greedy, sampled, real text), head, seed, value and, the same in all rows of
            (panel, mode, head), mean, low, high.
    """
    checked(table, "bits", "panel", "mode", "head", "seed", "value", "mean", "low", "high")
    titles = list(dict.fromkeys(table.panel))
    figure, places, rows = panels(titles, shared_yaxes="all", horizontal_spacing=0.02)
    for name, place in zip(titles, places, strict=True):
        for mode, (color, symbol) in MODES.items():
            part = table[(table.panel == name) & (table["mode"] == mode)]
            ends = part.drop_duplicates("head").sort_values("head")
            style = dict(mode="lines+markers", marker=dict(color=color, size=7, symbol=symbol), legendgroup=mode)
            style |= dict(showlegend=name == titles[-1], hovertemplate="head %{x}: %{y:.1%}")
            error = bars(ends["mean"], ends.low.clip(lower=0), ends.high.clip(upper=1))  # shares
            figure.add_trace(line(ends["head"], ends["mean"], color, mode, error_y=error, **style), **place)
            for seed, one in part.groupby("seed"):
                style = dict(mode="markers", marker=dict(color=color, size=4), opacity=0.5, hoverinfo="skip")
                figure.add_trace(line(one["head"], one.value, color, f"seed {seed}", **style), **place)
    figure.update_xaxes(tickvals=[1, 2, 4, 8, 16, 32])
    figure.update_xaxes(title_text="head i", row=rows)
    figure.update_yaxes(range=[0, 1.05], tickformat=".0%")
    return framed(figure, title, caption, 280 * rows)


def speedups(table: pd.DataFrame, title: str, caption: str) -> go.Figure:
    """Tokens a forward, and wall clock against plain decoding, by the number of heads used.

    Args:
        table: label (a line each), draft, seed, tokens_per_forward_pass, speedup.
    """
    checked(table, "bits", "label", "draft", "seed", "tokens_per_forward_pass", "speedup")
    names = {"tokens_per_forward_pass": "tokens a forward", "speedup": "speed-up, wall clock"}
    figure, places, _ = panels(list(names.values()), 2, shared_yaxes="all", horizontal_spacing=0.05)
    for column, place in zip(names, places, strict=True):
        for (name, part), color in zip(table.groupby("label", sort=False), LINES, strict=False):
            mean = part.groupby("draft")[column].mean()
            style = dict(mode="lines+markers", marker=dict(color=color, size=8), legendgroup=name)
            style |= dict(showlegend=place["col"] == 1, hovertemplate="%{x} heads: %{y:.2f}")
            figure.add_trace(line(mean.index, mean, color, name, **style), **place)
            style = dict(mode="markers", marker=dict(color=color, size=4), opacity=0.6, hoverinfo="skip")
            figure.add_trace(line(part.draft, part[column], color, "seeds", **style), **place)
        figure.add_hline(1, line=dict(color=GREY, width=1, dash="dot"), **place)
    figure.update_xaxes(title_text="heads used, k", type="log", tickvals=sorted(table.draft.unique().tolist()))
    figure.update_yaxes(rangemode="tozero")
    return framed(figure, title, caption, 300, WIDTH)
