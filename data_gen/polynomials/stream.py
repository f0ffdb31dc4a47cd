"""Polynomial arithmetic as a language: expressions over F_p[X]/(X^d) and their values (Gloeckle et al. 2024, 4.2).

The number of operations dials the difficulty, also beyond what training has seen. The paper does not say how it writes
expressions down, so notations are options here, and the same generator asks the same expressions in each of them.
Left out: how expressions are drawn (data_gen.polynomials.expressions), the ring (data_gen.polynomials.ring).
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

    A document is the question, pauses, "=", the answer, "end". A polynomial is its d coefficients, each a token, zeros
    included. Postfix: an operation comes after its operands. Infix: every binary operation has brackets, the
    outermost too, and "-" stands right before what it negates. "a b o" is a(b(X)).

    Marks, -1 or False where they do not apply:
        operand, operator  coefficients in the question; its operations (brackets are neither)
        pause, equals      the tokens between question and answer
        answer             coefficients of the answer
        degree             float32, of a coefficient, in question or answer
        m, root            float32, of the document: operations; the last one to be done, 0 to 3 for - + * o

    For p = 2 negation is the identity, and stays one of the four operations.

    Raises:
        ValueError: for p that is no prime, sizes below 1, an empty range of m, unknown names.
    """

    p: int = 7
    """Coefficients are integers modulo this prime."""
    d: int = 5
    """Coefficients of a polynomial; products and compositions are cut off from degree d on."""
    min_operations: int = 1
    """Fewest operations m of a question."""
    max_operations: int = 5
    """Most operations; m is uniform from the fewest to the most."""
    split: Split = "uniform"
    """How a binary operation shares out the remaining ones (`data_gen.polynomials.expressions.draw_programs`)."""
    notation: Notation = "postfix"
    """Operations after their operands, or between them in brackets."""
    tagged: bool = True
    """A token for every pair of degree and coefficient; else one for every coefficient, whatever its degree."""
    high_first: bool = False
    """Coefficients are written from the highest degree to the lowest."""
    pause: int = 0
    """Pause tokens between question and "="."""
    operations: tuple[Operation, ...] = field(default=OPERATIONS, metadata={"later": True})
    """What questions are made of, each as often as any other, in the order - + * o. All four have tokens anyway."""
    zeros: float = field(default=0.0, metadata={"later": True})
    """Sparse operands, for a curriculum (arXiv 2410.03569): each question draws a share from 0 to this, and blanks
    each coefficient with that probability."""

    def __post_init__(self) -> None:
        if self.p * self.d > MOST_COEFFICIENTS:
            raise ValueError(
                f"p={self.p} and d={self.d} make {self.p * self.d} coefficients, each a token; use smaller ones, "
                f"{MOST_COEFFICIENTS} at most"
            )
        if self.p < 2 or any(self.p % divisor == 0 for divisor in range(2, isqrt(self.p) + 1)):
            raise ValueError(f"p={self.p} must be a prime, such as 2, 3, 5 or 7")
        if self.d < 1:
            raise ValueError(f"d={self.d} must be at least 1: polynomials of d coefficients")
        if self.min_operations < 1:
            raise ValueError(f"min_operations={self.min_operations} must be at least 1: there is one to ask for")
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
        object.__setattr__(self, "operations", known)  # one order: equal choices are equal configs
        if isinstance(self.zeros, bool) or not isinstance(self.zeros, (int, float)) or not 0 <= self.zeros <= 1:
            raise ValueError(f"zeros={self.zeros!r} must be a share from 0 to 1")
        object.__setattr__(self, "zeros", float(self.zeros))

    @property
    def vocab_size(self) -> int:
        """Coefficients and symbols; the same for both notations."""
        return len(self.token_names)

    @cached_property
    def token_names(self) -> tuple[str, ...]:
        """(vocab_size,) what each token stands for; "3X^2" is coefficient 3 of degree 2."""
        powers = ["", "X", *(f"X^{degree}" for degree in range(2, self.d))][: self.d if self.tagged else 1]
        return (*(f"{c}{power}" for power in powers for c in range(self.p)), *SYMBOLS)

    @property
    def equals(self) -> int:
        """The token "=": a decoder's prompt ends with it."""
        return self.token_names.index("=")

    @property
    def end(self) -> int:
        """The token that closes a document."""
        return self.token_names.index("end")

    @property
    def mean_length(self) -> float:
        """Expected tokens of a document: an operation is binary as often as one of `operations`, whatever the split."""
        m = (self.min_operations + self.max_operations) / 2
        binary = sum(operation != "-" for operation in self.operations) / len(self.operations)
        return float(self._length(m, 1 + binary * m))

    @property
    def longest(self) -> int:
        """Tokens of the longest document there can be."""
        return int(self._length(self.max_operations, 1 + self.max_operations * (self.operations != ("-",))))

    def _length(self, m: float | np.ndarray, operands: float | np.ndarray) -> float | np.ndarray:
        """Tokens of a document."""
        brackets = 2 * (operands - 1) * (self.notation == "infix")
        return self.d * operands + m + brackets + self.pause + self.d + 2

    def of(self, m: int) -> "Polynomials":
        """The same ring and format, always m operations."""
        return replace(self, min_operations=m, max_operations=m)

    def documents(self, n: int, rng: np.random.Generator) -> Documents:
        """n independent questions with their answers. Formats ask the same ones from the same generator.

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
        return Documents(self._tokens[codes], lengths, self._marks(codes, lengths, m, programs[0]))

    # A document's tokens are first written as codes, which also tell a question's coefficients from an answer's:
    # p d of the one, p d of the other (p * degree + coefficient), the symbols. Tokens and marks are read off them.

    def _codes(
        self, symbols: np.ndarray, counts: np.ndarray, lengths: np.ndarray, operands: np.ndarray, answers: np.ndarray
    ) -> np.ndarray:
        """(n_tokens,) codes: symbols (symbols,) of all questions, counts (n,) of each, operands (d, n_operands)."""
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

    def _marks(self, codes: np.ndarray, lengths: np.ndarray, m: np.ndarray, roots: np.ndarray) -> dict[str, np.ndarray]:
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
        """Rows of whole documents, packed as drawn or `tight`. Raises ValueError where the longest does not fit."""
        if seq < self.longest:
            raise ValueError(f"seq={seq} must be at least {self.longest}, the longest document's tokens")
        make = fill_tightly if tight else fill
        return make(lambda n: self.documents(n, rng), rows, seq, self.mean_length)

    def held_out(self, split: HeldOut, m: int, n: int = 2000) -> Documents:
        """A fixed set of n questions of m operations, whatever the format; `operations` and `zeros` have others."""
        if split not in get_args(HeldOut):
            raise ValueError(f"split={split!r} must be one of {', '.join(get_args(HeldOut))}")
        seed = [0x504F4C59, self.p, self.d, get_args(HeldOut).index(split), m]
        if self.operations != OPERATIONS:  # sets of all four are older than the choice
            seed.append(sum(1 << OPERATIONS.index(operation) for operation in self.operations))
        if self.zeros:
            seed.append((1 << len(OPERATIONS)) + round(self.zeros * 2**20))
        return self.of(m).documents(n, np.random.default_rng(seed))

    def overlap(self, documents: Documents, samples: int) -> float:
        """Expected share of the documents whose question is among `samples` independent training samples. Exact.

        A document's share is 1 - (1 - q)^samples, where q is the `probability` of its question.
        """
        questions = np.split(documents.tokens, documents.ends[:-1])
        chances = np.array([self.probability(self.parse(question)) for question in questions])
        return float(np.mean(-np.expm1(samples * np.log1p(-chances))))

    def probability(self, tree: Tree) -> float:
        """The probability that a document asks for this expression."""
        operand = 1.0 if self.zeros else float(self.p) ** -self.d
        probability, m = tree_probability(tree, self.split, operand, self.operations)
        if self.zeros:
            probability *= self._sparse(tree)
        possible = self.min_operations <= m <= self.max_operations
        return possible * probability / (self.max_operations - self.min_operations + 1)

    def _sparse(self, tree: Tree) -> float:
        """The probability of all coefficients: a product for each share of zeros, averaged over the shares."""
        coefficients = np.array(polynomials_of(tree)).flatten()
        points, weights = np.polynomial.legendre.leggauss(len(coefficients) // 2 + 1)  # exact at this degree
        blank = self.zeros * (points + 1) / 2
        each = np.where(coefficients[:, None] == 0, blank, 0.0) + (1 - blank) / self.p  # (coefficients, points)
        return float(each.prod(axis=0) @ weights / 2)

    def parse(self, tokens: Sequence[int]) -> Tree:
        """The expression of a document, or of its question alone: for d = 2, ("+", (1, 0), ("-", (0, 1))).

        Raises ValueError for tokens that are no question in this format.
        """
        words = self._words(tokens)
        end = next((i for i, word in enumerate(words) if word in ("pause", "=")), len(words))
        return read_tree(words[:end], self.notation)

    def text(self, tokens: Sequence[int]) -> str:
        """Any tokens, readable: "(2+3X+X^4) (1+X) * = ..."; what is no whole polynomial goes by its tokens' names."""
        return "".join(self.pieces(tokens))

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """What each token adds to the text, with the space before it. A polynomial's first token adds all of it."""
        pieces: list[str] = []
        for word in self._words(tokens):
            space = " " * bool(pieces)
            pieces += [space + word] if isinstance(word, str) else [space + polynomial_text(word), *[""] * (self.d - 1)]
        return pieces

    def _words(self, tokens: Sequence[int]) -> list[str | Polynomial]:
        """Polynomials, and the names of all other tokens."""
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
