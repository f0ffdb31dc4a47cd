"""Documents of any task as text for a terminal, in which one can see what a task knows of its own tokens.

A task says what each token adds to the text (`pieces`), its batches what each token is (marks); the table STYLES says
which marks are shown, and how: in colours, or in signs where there are none. Left out: pictures
(mtp_lab.figures.stream_figures).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_gen.batch import PADDING, Batch, Documents
from mtp_lab.tasks import Split, Task

MOST = 1000  # documents shown at once
ROWS = 64  # that they are drawn from, at least: enough for held-out rows to be of every kind
CYAN, MAGENTA, YELLOW, GREEN, BLUE = ((f"\033[{code}m", "\033[39m") for code in (36, 35, 33, 32, 34))
UNDERLINED = ("\033[4m", "\033[24m")
Signs = tuple[str, str]  # what opens a stretch of marked tokens, and what closes it


@dataclass(frozen=True)
class Style:
    """Tokens to set apart: those on which a mark lies from `low` to `high`."""

    name: str
    label: str
    colour: Signs
    plain: Signs
    low: float = 1
    high: float = 1

    def where(self, labels: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n_tokens,) bool."""
        return (labels[self.label] >= self.low) & (labels[self.label] <= self.high)


STYLES: dict[str, tuple[Style, ...]] = {
    "bytes": (),
    "stories": (
        *(
            Style(f"character {name}", "entity", colour, ("", f"[{name}]"), who, who)
            for who, (name, colour) in enumerate(zip("ABCD", (CYAN, MAGENTA, YELLOW, GREEN), strict=True))
        ),
        Style("object", "entity", BLUE, ("{", "}"), 4, np.inf),
        Style("shown by an earlier mention", "induction", UNDERLINED, ("_", "_")),
    ),
    "polynomials": (
        Style("operand", "operand", CYAN, ("", "")),
        Style("operation", "operator", YELLOW, ("<", ">")),
        Style("answer", "answer", GREEN, ("{", "}")),
    ),
    "star_graph": (
        Style("start", "start", CYAN, ("<", ">")),
        Style("goal", "goal", MAGENTA, ("{", "}")),
        Style("path", "answer", GREEN, ("[", "]")),
        Style("choice", "choice", UNDERLINED, ("_", "_")),
    ),
    "choice_process": (
        Style("choice", "choice", YELLOW, ("[", "]")),
        Style("forced", "forced", CYAN, ("", "")),
    ),
}
DOCUMENT_LABELS = {"polynomials": ("m",)}  # marks that are the same on every token of a document


def documents(task: Task, split: Split, n: int, seed: int) -> list[Documents]:
    """n documents of a split, each by itself, chosen at random among those of some rows of it.

    Args:
        seed: which ones; of "train" also whose first training batch they are from.

    Raises:
        ValueError: for an n that cannot be had.
    """
    if not 1 <= n <= MOST:
        raise ValueError(f"show={n} must be from 1 to {MOST} documents")
    if seed < 0:
        raise ValueError(f"seed={seed} must not be negative")
    rows = max(n, ROWS)
    found = unpacked(task.batch(rows, 0, seed) if split == "train" else task.held_out(split, rows))
    if n > len(found):
        raise ValueError(f"show={n} is more than the {len(found)} documents of the {split} split; use less")
    return [found[i : i + 1] for i in np.random.default_rng(seed).choice(len(found), n, replace=False)]


def unpacked(batch: Batch) -> Documents:
    """The documents of a batch, or what its rows hold of them, one after the other."""
    real = batch.documents != PADDING
    row, _ = np.nonzero(real)
    ids = batch.documents[real]
    begins = np.flatnonzero((np.diff(row, prepend=-1) != 0) | (np.diff(ids, prepend=-1) != 0))
    lengths = np.diff(begins, append=len(ids))
    return Documents(batch.tokens[real], lengths, {name: label[real] for name, label in batch.labels.items()})


def lines(task: Task, shown: Sequence[Documents], coloured: bool) -> Iterator[str]:
    """What stands for what, and then each document below a line of facts about it."""
    styles = STYLES[task.name]
    signs = [style.colour if coloured else style.plain for style in styles]
    legend = [f"{opens}{style.name}{closes}" for style, (opens, closes) in zip(styles, signs, strict=True)]
    yield f"{task.name}, {task.vocab_size} kinds of tokens; marked: {', '.join(legend) or 'nothing'}"
    for i, document in enumerate(shown, start=1):
        facts = [f"{name} = {document.labels[name][0]:g}" for name in DOCUMENT_LABELS.get(task.name, ())]
        yield f"\n{i}: {', '.join([f'{len(document.tokens)} tokens', *facts])}"
        yield marked(task.pieces(document.tokens.tolist()), [style.where(document.labels) for style in styles], signs)


def marked(pieces: Sequence[str], where: Sequence[np.ndarray], signs: Sequence[Signs]) -> str:
    """The text of pieces, a sign before and one behind every stretch of tokens that are marked.

    Args:
        where: for each pair of signs, (n_tokens,) bool. What is given first opens first, and closes last.
    """
    opens, closes = [""] * len(pieces), [""] * len(pieces)
    for mask, (opening, closing) in zip(where, signs, strict=True):
        edges = np.diff(mask.astype(int), prepend=0, append=0)  # (n_tokens + 1,) 1 where a stretch begins, -1 behind it
        for i in np.flatnonzero(edges == 1):
            opens[i] += opening
        for i in np.flatnonzero(edges == -1):
            closes[i - 1] = closing + closes[i - 1]
    text = ""
    for piece, opening, closing in zip(pieces, opens, closes, strict=True):
        bare = piece.lstrip()
        text += piece[: len(piece) - len(bare)] + opening + bare + closing
    return text
