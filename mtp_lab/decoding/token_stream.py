"""Text in a terminal while it is generated: the tokens of each forward pass when they are accepted, coloured by head.

Without colours, bars separate the forward passes. Pictures for notebooks are in `mtp_lab.figures.text`.
"""

import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from mtp_lab.decoding.generation import Generation
from mtp_lab.tasks import Task

BACKGROUNDS = (17, 18, 24, 30, 29, 28, 64, 100)  # ANSI colours of heads 2, 3, ...; they repeat after eight heads
RESET = "\033[0m"


class TokenStream:
    """A `stream` for `generate` that prints one row.

    Args:
        pieces: tokens of the whole text -> the piece of text that each of them adds.
        prompt: the tokens before the generated ones.
        coloured: whether the output can show ANSI colours.
        out: where to print; by default the current standard output.
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
        if pieces[: len(before)] != before:  # they complete a polynomial whose first tokens are printed already
            new = [" " + self.pieces([token])[0] for token in tokens]
        if not self.coloured:
            return self._write("".join(new) + "|")
        for head, piece in enumerate(new, start=2):
            self._write(self.background(head) + piece + RESET if head < len(new) + 1 else piece)

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()

    @staticmethod
    def background(head: int) -> str:
        """The ANSI code that starts the colours of a head's tokens."""
        return f"\033[38;5;255m\033[48;5;{BACKGROUNDS[(head - 2) % len(BACKGROUNDS)]}m"

    def legend(self, draft: int) -> str:
        """The meaning of the colours, or of the bars."""
        if not self.coloured:
            return "each | ends a forward pass"
        return "proposed by head 1, " + ", ".join(f"{self.background(i)} {i} {RESET}" for i in range(2, draft + 1))


def summary(generation: Generation, plain: Generation | None = None) -> list[str]:
    """A table, line by line: tokens, forward passes and seconds of a generation, and of `plain`, one without drafts."""
    lines = [f"{'heads':>5}  {'tokens':>6}  {'passes':>6}  {'tokens/pass':>11}  {'seconds':>7}  {'tokens/s':>8}"]
    for done in (generation, *([plain] if plain else [])):
        count, forward_passes = int(done.lengths.sum()), int(done.forward_passes.sum())
        lines.append(
            f"{len(done.accepted_by_head):5d}  {count:6d}  {forward_passes:6d}  {done.tokens_per_forward_pass:11.2f}  "
            f"{done.seconds:7.3f}  {done.tokens_per_second:8.0f}"
        )
    if plain:
        same = "the same tokens" if generation.tokens.equal(plain.tokens) else "other tokens (sampled anew)"
        lines.append(f"{plain.seconds / generation.seconds:.2f} times as fast; {same}")
    shares = ", ".join(
        f"{i}: {share:.0%}" for i, share in enumerate(generation.accepted_by_head.tolist(), 1) if share == share
    )
    return [*lines, f"accepted by head, share of forward passes: {shares}"] if shares else lines


def tokens_of(task: Task, prompt: str) -> list[int]:
    """The tokens of a prompt: for the task bytes the bytes of the text, for other tasks words separated by spaces.

    An empty prompt of bytes is the token that opens a document.

    Raises:
        ValueError: for a word that is no token of the task, and for an empty prompt of another task than bytes.
    """
    if task.name == "bytes":
        return list(prompt.encode()) or [task.vocab_size - 1]
    numbers = {word: number for number, word in enumerate(task.words(range(task.vocab_size)))}
    if unknown := [word for word in prompt.split() if word not in numbers]:
        known = ", ".join(list(numbers)[:12])
        raise ValueError(f"prompt: {unknown[0]!r} is no token of the task {task.name}; it knows {known}, ...")
    if not prompt.split():
        raise ValueError(f"prompt is empty; name tokens of the task {task.name}, with spaces between them")
    return [numbers[word] for word in prompt.split()]
