"""Polynomial arithmetic as a language: expressions over F_p[X]/(X^d) and their values (Gloeckle et al. 2024, 4.2).

The number of operations sets the difficulty, also beyond the training range. The paper does not describe its notation,
so several notations are available. From the same generator, all of them write the same expressions. Left out: how
expressions are drawn (data_gen.polynomials.expressions), the ring (data_gen.polynomials.ring).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isqrt
from typing import Literal, get_args

import numpy as np

from data_gen.batch import NO_VALUE, Batch, Documents, fill, fill_tightly
from data_gen.polynomials.expressions import (
    CLOSE,
    COMPOSITION,
    OPERAND,
    OPERATIONS,
    Notation,
    Operation,
    Polynomial,
    Split,
    Tree,
    count_operands,
    draw_programs,
    evaluate,
    infix,
    polynomials_of,
    postfix,
    read_tree,
    tree_probability,
)
from data_gen.polynomials.ring import ring_dtype

HeldOut = Literal["validation", "test"]
SYMBOLS = (*OPERATIONS, "(", ")", "pause", "=", "end")  # their tokens follow those of the coefficients, in this order
PAUSE, EQUALS, END = range(CLOSE + 1, len(SYMBOLS))
MOST_COEFFICIENTS = 2**14


@dataclass(frozen=True)
class Polynomials:
    """Questions of m operations over F_p[X]/(X^d) and their answers; m is uniform over a range.

    A document is the question, pauses, "=", the answer, "end". A polynomial is its d coefficients, including zeros, and
    each is one token. Postfix: an operation comes after its operands. Infix: every binary operation has brackets, also
    the outermost one, and "-" stands directly before its operand. "a b o" is the composition a(b(X)).

    Labels, -1 or False where they do not apply:
        operand, operator  coefficients in the question; its operations (brackets are neither)
        pause, equals      the tokens between question and answer
        answer             coefficients of the answer
        degree             float32, the degree of a coefficient, in question or answer
        m, root            float32, for all tokens of a document: its number of operations; its last operation to be
                           computed, 0 to 3 for - + * o

    For p = 2 negation is the identity, and is still one of the four operations.

    Raises:
        ValueError: for p that is not a prime, sizes below 1, an empty range of m, unknown names.
    """

    p: int = 7
    """Coefficients are integers modulo this prime."""
    d: int = 5
    """Number of coefficients of a polynomial. Terms of degree d and higher are 0."""
    min_operations: int = 1
    """Smallest number of operations m of a question."""
    max_operations: int = 5
    """Largest number of operations; m is uniform from the smallest to the largest."""
    split: Split = "uniform"
    """How a binary operation divides the remaining operations between its operands (`expressions.draw_programs`)."""
    notation: Notation = "postfix"
    """Operations after their operands (postfix), or between them in brackets (infix)."""
    tagged: bool = True
    """One token for every pair of degree and coefficient; if False, one for every coefficient, whatever its degree."""
    high_first: bool = False
    """Coefficients are written from the highest degree to the lowest."""
    pause: int = 0
    """Number of pause tokens between question and "="."""
    operations: tuple[Operation, ...] = field(default=OPERATIONS, metadata={"later": True})
    """The operations of questions, equally likely, in the order - + * o. The vocabulary always has all four."""
    zeros: float = field(default=0.0, metadata={"later": True})
    """Sparse operands, for a curriculum (arXiv 2410.03569): each question draws a share from 0 to this value, and sets
    each coefficient to 0 with that probability."""

    def __post_init__(self) -> None:
        if self.p * self.d > MOST_COEFFICIENTS:
            raise ValueError(
                f"p={self.p} and d={self.d} make {self.p * self.d} coefficients, each a token; use smaller ones, "
                f"{MOST_COEFFICIENTS} at most"
            )
        if self.p < 2 or any(self.p % divisor == 0 for divisor in range(2, isqrt(self.p) + 1)):
            raise ValueError(f"p={self.p} must be a prime, such as 2, 3, 5 or 7")
        if self.d < 1:
            raise ValueError(f"d={self.d} must be at least 1 coefficient")
        if self.min_operations < 1:
            raise ValueError(f"min_operations={self.min_operations} must be at least 1 operation")
        if self.max_operations < self.min_operations:
            raise ValueError(
                f"max_operations={self.max_operations} must be at least min_operations={self.min_operations}"
            )
        for name, allowed in (("split", get_args(Split)), ("notation", get_args(Notation))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(allowed)}")
        if self.pause < 0:
            raise ValueError(f"pause={self.pause} must be 0 or more pause tokens")
        known = tuple(operation for operation in OPERATIONS if operation in self.operations)
        if not known or len(known) != len(self.operations):
            raise ValueError(f"operations={self.operations!r} must be some of {', '.join(OPERATIONS)}, each once")
        object.__setattr__(self, "operations", known)  # one order, so that equal sets are equal configs
        if isinstance(self.zeros, bool) or not isinstance(self.zeros, (int, float)) or not 0 <= self.zeros <= 1:
            raise ValueError(f"zeros={self.zeros!r} must be a share from 0 to 1")
        object.__setattr__(self, "zeros", float(self.zeros))

    @property
    def vocab_size(self) -> int:
        """Number of coefficient tokens and symbols; the same for both notations."""
        return len(self.token_names)

    @cached_property
    def token_names(self) -> tuple[str, ...]:
        """(vocab_size,) the text of each token; "3X^2" is coefficient 3 of degree 2."""
        powers = ["", "X", *(f"X^{degree}" for degree in range(2, self.d))][: self.d if self.tagged else 1]
        return (*(f"{c}{power}" for power in powers for c in range(self.p)), *SYMBOLS)

    @property
    def equals(self) -> int:
        """The token "=", the last of a prompt."""
        return self.token_names.index("=")

    @property
    def end(self) -> int:
        """The token that closes a document."""
        return self.token_names.index("end")

    @property
    def mean_length(self) -> float:
        """Expected number of tokens of a document, the same for every split."""
        m = (self.min_operations + self.max_operations) / 2
        binary = sum(operation != "-" for operation in self.operations) / len(self.operations)
        return float(self._length(m, 1 + binary * m))

    @property
    def longest(self) -> int:
        """Number of tokens of the longest possible document."""
        return int(self._length(self.max_operations, 1 + self.max_operations * (self.operations != ("-",))))

    def _length(self, m: float | np.ndarray, operands: float | np.ndarray) -> float | np.ndarray:
        """Number of tokens of a document."""
        brackets = 2 * (operands - 1) * (self.notation == "infix")
        return self.d * operands + m + brackets + self.pause + self.d + 2

    def of(self, m: int) -> "Polynomials":
        """The same ring and format, with exactly m operations."""
        return replace(self, min_operations=m, max_operations=m)

    def documents(self, n: int, rng: np.random.Generator) -> Documents:
        """n independent questions with their answers. All formats draw the same questions from the same generator.

        Raises ValueError for n < 1.
        """
        if n < 1:
            raise ValueError(f"n={n} must be at least 1 document")
        m = rng.integers(self.min_operations, self.max_operations + 1, n)
        programs = draw_programs(m, self.split, rng, self.operations)  # (steps, n)
        n_operands = count_operands(programs)  # (n,)
        operands = rng.integers(0, self.p, (self.d, n_operands.sum()), ring_dtype(self.p, self.d))
        if self.zeros:
            shares = np.repeat(self.zeros * rng.random(n), n_operands)  # (n_operands,)
            operands[rng.random(operands.shape) < shares] = 0
        answers = evaluate(programs, operands, self.p)  # (d, n)
        symbols, counts = (postfix if self.notation == "postfix" else infix)(programs)
        lengths = self._length(m, n_operands)  # (n,)
        codes = self._codes(symbols, counts, lengths, operands, answers)
        return Documents(self._tokens[codes], lengths, self._labels(codes, lengths, m, programs[0]))

    # A document is first written in codes, which also distinguish the coefficients of questions from those of answers:
    # p d codes for the former, p d codes for the latter (p * degree + coefficient each), then the symbols. Tokens and
    # labels follow from the codes.

    def _codes(
        self, symbols: np.ndarray, counts: np.ndarray, lengths: np.ndarray, operands: np.ndarray, answers: np.ndarray
    ) -> np.ndarray:
        """(n_tokens,) codes.

        symbols   (symbols,) of all questions, `counts` (n,) of each
        operands  (d, n_operands)
        answers   (d, n)
        """
        ends = np.cumsum(lengths)  # (n,)
        is_operand = symbols == OPERAND
        widths = np.where(is_operand, self.d, 1)
        rest = self.pause + self.d + 2  # tokens of a document after its question
        starts = np.cumsum(widths) - widths + np.repeat(rest * np.arange(len(lengths)), counts)  # (symbols,)
        coefficients = 2 * self.p * self.d
        codes = np.full(ends[-1], coefficients + PAUSE, np.min_scalar_type(coefficients + END))
        codes[starts[~is_operand]] = symbols[~is_operand] + codes.dtype.type(coefficients)
        for first, polynomials, base in (
            (starts[is_operand], operands, 0),
            (ends - 1 - self.d, answers, self.p * self.d),
        ):
            for degree, values in enumerate(polynomials):
                place = self.d - 1 - degree if self.high_first else degree
                codes[first + place] = values + codes.dtype.type(base + self.p * degree)
        codes[ends - self.d - 2] = coefficients + EQUALS
        codes[ends - 1] = coefficients + END
        return codes

    @cached_property
    def _tokens(self) -> np.ndarray:
        """(codes,) int32 token of each code."""
        coefficients = np.arange(self.p * self.d) % (self.vocab_size - len(SYMBOLS))
        symbols = np.arange(self.vocab_size - len(SYMBOLS), self.vocab_size)
        return np.concatenate([coefficients, coefficients, symbols]).astype(np.int32)

    @cached_property
    def _degrees(self) -> np.ndarray:
        """(codes,) float32 degree of each code."""
        degrees = np.repeat(np.arange(self.d), self.p)
        return np.concatenate([degrees, degrees, np.full(len(SYMBOLS), NO_VALUE)]).astype(np.float32)

    def _labels(
        self, codes: np.ndarray, lengths: np.ndarray, m: np.ndarray, roots: np.ndarray
    ) -> dict[str, np.ndarray]:
        operands, coefficients = self.p * self.d, 2 * self.p * self.d
        return {
            "operand": codes < operands,
            "operator": (codes >= coefficients) & (codes <= coefficients + COMPOSITION),
            "pause": codes == coefficients + PAUSE,
            "equals": codes == coefficients + EQUALS,
            "answer": (codes >= operands) & (codes < coefficients),
            "degree": self._degrees[codes],
            "m": np.repeat(m.astype(np.float32), lengths),
            "root": np.repeat(roots.astype(np.float32), lengths),
        }

    def sample(self, rows: int, seq: int, rng: np.random.Generator, tight: bool = False) -> Batch:
        """Rows of whole documents, packed in order, or with less padding if `tight` (`data_gen.packing`).

        Raises ValueError if the longest possible document does not fit in a row.
        """
        if seq < self.longest:
            raise ValueError(f"seq={seq} must be at least {self.longest}, the longest document's tokens")
        make = fill_tightly if tight else fill
        return make(lambda n: self.documents(n, rng), rows, seq, self.mean_length)

    def held_out(self, split: HeldOut, m: int, n: int = 2000) -> Documents:
        """A fixed set of n questions of m operations, the same in all formats, for given `operations` and `zeros`."""
        if split not in get_args(HeldOut):
            raise ValueError(f"split={split!r} must be one of {', '.join(get_args(HeldOut))}")
        seed = [0x504F4C59, self.p, self.d, get_args(HeldOut).index(split), m]
        if self.operations != OPERATIONS:  # sets of all four operations keep their seed
            seed.append(sum(1 << OPERATIONS.index(operation) for operation in self.operations))
        if self.zeros:
            seed.append((1 << len(OPERATIONS)) + round(self.zeros * 2**20))
        return self.of(m).documents(n, np.random.default_rng(seed))

    def overlap(self, documents: Documents, samples: int) -> float:
        """Expected share of documents whose question is among `samples` independent training questions. Exact.

        A question with `probability` q is among them with probability 1 - (1 - q)^samples.
        """
        questions = np.split(documents.tokens, documents.ends[:-1])
        chances = np.array([self.probability(self.parse(question)) for question in questions])
        return float(np.mean(-np.expm1(samples * np.log1p(-chances))))

    def probability(self, tree: Tree) -> float:
        """The probability that a document's question is this expression."""
        operand = 1.0 if self.zeros else float(self.p) ** -self.d
        probability, m = tree_probability(tree, self.split, operand, self.operations)
        if self.zeros:
            probability *= self._coefficient_probability(tree)
        possible = self.min_operations <= m <= self.max_operations
        return possible * probability / (self.max_operations - self.min_operations + 1)

    def _coefficient_probability(self, tree: Tree) -> float:
        """The probability of all coefficients with `zeros`: a product for each share, averaged over the shares."""
        coefficients = np.array(polynomials_of(tree)).flatten()
        points, weights = np.polynomial.legendre.leggauss(len(coefficients) // 2 + 1)  # exact at this degree
        share = self.zeros * (points + 1) / 2  # (points,)
        probability = np.where(coefficients[:, None] == 0, share, 0.0) + (1 - share) / self.p  # (coefficients, points)
        return float(probability.prod(axis=0) @ weights / 2)

    def parse(self, tokens: Sequence[int]) -> Tree:
        """The expression of a document, or of its question alone: for d = 2, ("+", (1, 0), ("-", (0, 1))).

        Raises ValueError for tokens that are not a question in this format.
        """
        words = self._words(tokens)
        end = next((i for i, word in enumerate(words) if word in ("pause", "=")), len(words))
        return read_tree(words[:end], self.notation)

    def text(self, tokens: Sequence[int]) -> str:
        """Any tokens as text: "(2+3X+X^4) (1+X) * = ...". Incomplete polynomials are written token by token."""
        return "".join(self.pieces(tokens))

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token, with the space before it. A polynomial's first token has the text of all of it."""
        pieces: list[str] = []
        for word in self._words(tokens):
            space = " " * bool(pieces)
            pieces += [space + word] if isinstance(word, str) else [space + polynomial_text(word), *[""] * (self.d - 1)]
        return pieces

    def _words(self, tokens: Sequence[int]) -> list[str | Polynomial]:
        """Polynomials, and the texts of all other tokens."""
        words, at = [], 0
        while at < len(tokens):
            polynomial = self._polynomial(np.asarray(tokens[at : at + self.d]))
            words.append(self.token_names[tokens[at]] if polynomial is None else polynomial)
            at += 1 if polynomial is None else self.d
        return words

    def _polynomial(self, tokens: np.ndarray) -> Polynomial | None:
        """Coefficients from degree 0 upwards; None unless the tokens are d coefficients in their order."""
        if len(tokens) < self.d:
            return None
        coefficients = tokens[::-1] if self.high_first else tokens
        if self.tagged:
            coefficients = coefficients - self.p * np.arange(self.d)
        valid = (coefficients >= 0).all() and (coefficients < self.p).all()
        return tuple(coefficients.tolist()) if valid else None


def polynomial_text(coefficients: Polynomial) -> str:
    """(2, 3, 0, 1) as "(2+3X+X^3)"."""
    powers = ["", "X", *(f"X^{degree}" for degree in range(2, len(coefficients)))]
    terms = [f"{'' if c == 1 and power else c}{power}" for c, power in zip(coefficients, powers, strict=False) if c]
    return f"({'+'.join(terms) or '0'})"
