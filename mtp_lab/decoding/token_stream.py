"""Text as it is generated, in a terminal: each forward's tokens the moment they are committed, coloured by head.

Without colours, bars part the forwards. Pictures for notebooks are in speculation_figures.py.
"""

import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from mtp_lab.decoding.generation import Generation
from mtp_lab.tasks import Task

GROUNDS = (17, 18, 24, 30, 29, 28, 64, 100)  # of 256 colours, for heads 2, 3, ...; they repeat after eight
RESET = "\033[0m"


class TokenStream:
    """A `stream` for mtp_lab.decoding.generation.generate that prints one row.

    Args:
        pieces: tokens of the whole text -> what each adds to it.
        prompt: the tokens that stand before.
        coloured: whether the output takes ANSI colours.
        out: where to; by default what is the standard output now.
    """

    def __init__(
        self,
        pieces: Callable[[Sequence[int]], Sequence[str]],
        prompt: Sequence[int],
        coloured: bool,
        out: TextIO | None = None,
    ) -> None:
        self.pieces, self.prompt, self.coloured, self.out = pieces, list(prompt), coloured, out or sys.stdout
        self.text: list[int] = []

    def __call__(self, row: int, tokens: list[int]) -> None:
        if not self.text:
            self.text = list(self.prompt)
            self._write("".join(self.pieces(self.text)))
        before, self.text = self.pieces(self.text), [*self.text, *tokens]
        pieces = self.pieces(self.text)
        new = pieces[len(before) :]
        if pieces[: len(before)] != before:  # they complete a polynomial whose first tokens are on the screen already
            new = [" " + self.pieces([token])[0] for token in tokens]
        if not self.coloured:
            return self._write("".join(new) + "|")
        for head, piece in enumerate(new, start=2):
            self._write(self.ground(head) + piece + RESET if head < len(new) + 1 else piece)

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()

    @staticmethod
    def ground(head: int) -> str:
        """Opens the colour of a head's tokens."""
        return f"\033[38;5;255m\033[48;5;{GROUNDS[(head - 2) % len(GROUNDS)]}m"

    def legend(self, draft: int) -> str:
        """What the colours, or the bars, mean."""
        if not self.coloured:
            return "each | ends a forward"
        return "proposed by head 1, " + ", ".join(f"{self.ground(i)} {i} {RESET}" for i in range(2, draft + 1))


def summary(told: Generation, plain: Generation | None = None) -> list[str]:
    """What a generation took, in lines; beside it the same text without drafts, where there is one."""
    lines = [f"{'heads':>5}  {'tokens':>6}  {'forwards':>8}  {'per forward':>11}  {'seconds':>7}  {'tokens/s':>8}"]
    for done in (told, *([plain] if plain else [])):
        count, forward_passes = int(done.lengths.sum()), int(done.forward_passes.sum())
        lines.append(
            f"{len(done.accepted_by_head):5d}  {count:6d}  {forward_passes:8d}  {done.tokens_per_forward_pass:11.2f}  "
            f"{done.seconds:7.3f}  {done.tokens_per_second:8.0f}"
        )
    if plain:
        same = "the same tokens" if told.tokens.equal(plain.tokens) else "other tokens (sampled anew)"
        lines.append(f"{plain.seconds / told.seconds:.2f} times as fast; {same}")
    shares = ", ".join(
        f"{i}: {share:.0%}" for i, share in enumerate(told.accepted_by_head.tolist(), 1) if share == share
    )
    return [*lines, f"committed by head, share of forwards: {shares}"] if shares else lines


def tokens_of(task: Task, prompt: str) -> list[int]:
    """The tokens of a prompt: the bytes of a text; of other tasks, words that stand between spaces.

    An empty prompt is what opens a document of bytes.

    Raises:
        ValueError: for a word that the task does not know, and an empty prompt where nothing opens documents.
    """
    if task.name == "bytes":
        return list(prompt.encode()) or [task.vocab_size - 1]
    numbers = {word: number for number, word in enumerate(task.words(range(task.vocab_size)))}
    if unknown := [word for word in prompt.split() if word not in numbers]:
        some = ", ".join(list(numbers)[:12])
        raise ValueError(f"prompt: {unknown[0]!r} is no token of the task {task.name}; it knows {some}, ...")
    if not prompt.split():
        raise ValueError(f"prompt is empty; name tokens of the task {task.name}, with spaces between them")
    return [numbers[word] for word in prompt.split()]
