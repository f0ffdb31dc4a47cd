"""Documents of any task as text for a terminal, with token labels highlighted.

A task gives the text of each token (`pieces`), and its batches hold the token labels. The table STYLES defines which
labels are highlighted, in colours or, without colours, by signs. Left out: figures (mtp_lab.figures.text).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_gen.batch import PADDING, Batch, Documents
from mtp_lab.tasks import Split, Task

MAX_DOCUMENTS = 1000  # shown at once
MIN_ROWS = 64  # rows that documents are drawn from: enough for held-out rows of every kind
CYAN, MAGENTA, YELLOW, GREEN, BLUE = ((f"\033[{code}m", "\033[39m") for code in (36, 35, 33, 32, 34))
UNDERLINED = ("\033[4m", "\033[24m")
Signs = tuple[str, str]  # printed before and after a stretch of highlighted tokens


@dataclass(frozen=True)
class Style:
    """How to highlight the tokens whose label has a value from `low` to `high`."""

    name: str
    """Name in the legend."""
    label: str
    """Name of the token label."""
    colour: Signs
    plain: Signs
    low: float = 1
    high: float = 1

    def where(self, labels: Mapping[str, np.ndarray]) -> np.ndarray:
        """(n_tokens,) bool, the tokens to highlight."""
        return (labels[self.label] >= self.low) & (labels[self.label] <= self.high)


STYLES: dict[str, tuple[Style, ...]] = {  # by the name of the task
    "bytes": (),
    "stories": (
        *(
            Style(f"character {name}", "entity", colour, ("", f"[{name}]"), entity, entity)
            for entity, (name, colour) in enumerate(zip("ABCD", (CYAN, MAGENTA, YELLOW, GREEN), strict=True))
        ),
        Style("object", "entity", BLUE, ("{", "}"), 4, np.inf),
        Style("predictable from an earlier mention", "induction", UNDERLINED, ("_", "_")),
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
DOCUMENT_LABELS = {"polynomials": ("m",)}  # labels with the same value on every token of a document


def documents(task: Task, split: Split, n: int, seed: int) -> list[Documents]:
    """n random documents of a split, each as `Documents` of length 1.

    Args:
        seed: of the choice; for "train" also the training seed, whose first batch the documents come from.

    Raises:
        ValueError: for an n that is not from 1 to MAX_DOCUMENTS or larger than the split's rows hold; a negative seed.
    """
    if not 1 <= n <= MAX_DOCUMENTS:
        raise ValueError(f"show={n} must be from 1 to {MAX_DOCUMENTS} documents")
    if seed < 0:
        raise ValueError(f"seed={seed} must not be negative")
    rows = max(n, MIN_ROWS)
    available = unpacked(task.batch(rows, 0, seed) if split == "train" else task.held_out(split, rows))
    if n > len(available):
        raise ValueError(f"show={n} is more than the {len(available)} documents of the {split} split; use less")
    return [available[i : i + 1] for i in np.random.default_rng(seed).choice(len(available), n, replace=False)]


def unpacked(batch: Batch) -> Documents:
    """The documents of a batch, or the parts of them that its rows hold, one after the other."""
    real = batch.documents != PADDING
    row, _ = np.nonzero(real)
    ids = batch.documents[real]
    starts = np.flatnonzero((np.diff(row, prepend=-1) != 0) | (np.diff(ids, prepend=-1) != 0))
    lengths = np.diff(starts, append=len(ids))
    return Documents(batch.tokens[real], lengths, {name: label[real] for name, label in batch.labels.items()})


def lines(task: Task, shown: Sequence[Documents], coloured: bool) -> Iterator[str]:
    """A legend, then for each document a line with its length and its document labels, and its text."""
    styles = STYLES[task.name]
    signs = [style.colour if coloured else style.plain for style in styles]
    legend = [f"{opens}{style.name}{closes}" for style, (opens, closes) in zip(styles, signs, strict=True)]
    yield f"{task.name}, {task.vocab_size} kinds of tokens; highlighted: {', '.join(legend) or 'nothing'}"
    for i, document in enumerate(shown, start=1):
        facts = [f"{name} = {document.labels[name][0]:g}" for name in DOCUMENT_LABELS.get(task.name, ())]
        yield f"\n{i}: {', '.join([f'{len(document.tokens)} tokens', *facts])}"
        where = [style.where(document.labels) for style in styles]
        yield highlighted(task.pieces(document.tokens.tolist()), where, signs)


def highlighted(pieces: Sequence[str], where: Sequence[np.ndarray], signs: Sequence[Signs]) -> str:
    """The joined pieces, with signs before and after every stretch of highlighted tokens.

    Args:
        where: for each pair of signs, (n_tokens,) bool. The first pair opens first and closes last.
    """
    opens, closes = [""] * len(pieces), [""] * len(pieces)
    for mask, (opening, closing) in zip(where, signs, strict=True):
        edges = np.diff(mask.astype(int), prepend=0, append=0)  # (n_tokens + 1,) 1: a stretch starts, -1: it has ended
        for i in np.flatnonzero(edges == 1):
            opens[i] += opening
        for i in np.flatnonzero(edges == -1):
            closes[i - 1] = closing + closes[i - 1]
    text = ""
    for piece, opening, closing in zip(pieces, opens, closes, strict=True):
        bare = piece.lstrip()
        text += piece[: len(piece) - len(bare)] + opening + bare + closing
    return text
