"""Random expressions over a ring: drawn, evaluated and written out for many samples at once, and read back one by one.

A program is an expression in postfix read backwards: an operator comes before its operands, the right one first.
Programs stand in the columns of a (steps, n) uint8 array, NOTHING below the shorter ones, so that one step of a stack
machine is a few array operations on all samples. Left out: tokens and documents (data_gen.polynomials.stream).
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Literal, get_args

import numpy as np

from data_gen.polynomials import ring

Split = Literal["uniform", "chain"]
Notation = Literal["postfix", "infix"]
Polynomial = tuple[int, ...]  # coefficients from degree 0 upwards
Tree = tuple  # a Polynomial, or an operation and what it works on: ("-", Tree) or ("+", Tree, Tree)
Operation = Literal["-", "+", "*", "o"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)  # negation, addition, multiplication, composition
NEGATION, ADDITION, MULTIPLICATION, COMPOSITION, OPEN, CLOSE, OPERAND, NOTHING = range(8)
BINARY = {ADDITION: ring.add, MULTIPLICATION: ring.multiply, COMPOSITION: ring.compose}


def draw_programs(
    m: np.ndarray, split: Split, rng: np.random.Generator, operations: Sequence[Operation] = OPERATIONS
) -> np.ndarray:
    """Expressions with m[i] operations each, (n,) -> (2 max(m) + 1, n) programs.

    Every operation is one of `operations` with equal probability, whatever stands around it. A binary one shares out
    the k operations left to its operands:
        uniform  the left operand gets 0 to k, each number with equal probability, the right one the rest
        chain    one of them gets all, the left or the right with equal probability
    """
    n, steps = len(m), 2 * int(m.max()) + 1
    stack = np.full((steps + 2) * n, -1, np.int32)  # operations left to each pending node; below them all, -1
    top = np.arange(n, 2 * n)  # (n,) flat position in the stack
    stack[top] = m
    programs = np.empty((steps, n), np.uint8)
    kinds = np.array([OPERATIONS.index(operation) for operation in operations], np.uint8)
    for program in programs:
        here = stack[top]  # (n,)
        kind, chance = kinds[rng.integers(0, len(kinds), n, np.uint8)], rng.random(n)
        binary = (here > 0) & (kind != NEGATION)
        left = (chance * here).astype(np.int32) if split == "uniform" else (chance < 0.5) * (here - 1)
        program[:] = np.where(here > 0, kind, np.where(here == 0, OPERAND, NOTHING))
        # The node makes place for its only operand, or for its left one with the right one on top. What an operand
        # writes lies above the new top, where the next node to come there writes first.
        stack[top] = np.where(binary, left, here - 1)
        stack[top + n] = here - 1 - left
        top += n * (binary.astype(np.int64) - (here == 0))
    return programs


def count_operands(programs: np.ndarray) -> np.ndarray:
    """(n,) operands of each expression."""
    return np.count_nonzero(programs == OPERAND, axis=0)


def run(programs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Runs the stack machine through all programs together; a subexpression is known by its first operand.

    Operands are numbered through all samples, sample after sample and from left to right. Yields for every step, from
    the last row of `programs` to the first, four (n,) arrays: the symbol; the first operands of the left and of the
    right subexpression it works on (of its only one: right); and the operand to come next.
    """
    n = programs.shape[1]
    upcoming = np.cumsum(counts := count_operands(programs)) - counts
    stack = np.zeros((len(programs) + 2) * n, np.int64)
    top = np.arange(n, 2 * n)  # (n,) flat position in the stack, of which row 0 and 1 are never used
    for symbol in programs[::-1]:
        operand = symbol == OPERAND
        yield symbol, stack[top - n], stack[top], upcoming
        stack[top + n] = upcoming  # above the top, unless it is pushed
        upcoming = upcoming + operand
        top += n * (operand.astype(np.int64) - ((symbol > NEGATION) & (symbol <= COMPOSITION)))


def evaluate(programs: np.ndarray, operands: np.ndarray, p: int) -> np.ndarray:
    """Values of the expressions in F_p[X]/(X^d), (steps, n) programs and (d, operands) coefficients -> (d, n).

    Operands are in the order of `run`, of `ring.ring_dtype(p, d)`.
    """
    values = operands.copy()
    for symbol, left, right, _ in run(programs):
        apply(values, symbol, left, right, p)
    counts = count_operands(programs)
    return values[:, np.cumsum(counts) - counts]


def apply(values: np.ndarray, symbol: np.ndarray, left: np.ndarray, right: np.ndarray, p: int) -> None:
    """One step of `run` on (d, operands) values, in place: each is of the subexpression its operand is the first of."""
    at = np.flatnonzero(symbol == NEGATION)
    _put(values, right[at], ring.negate(_get(values, right[at]), p))
    for operation, operate in BINARY.items():
        at = np.flatnonzero(symbol == operation)
        _put(values, left[at], operate(_get(values, left[at]), _get(values, right[at]), p))


def _get(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Columns of (d, operands), as (len(at), d): each coefficient lies in one piece, which makes arithmetic fast."""
    return values.take(at, axis=1).T


def _put(values: np.ndarray, at: np.ndarray, polynomials: np.ndarray) -> None:
    for row, coefficients in zip(values, polynomials.T, strict=True):  # several times faster than values[:, at] = ...
        row[at] = coefficients


def postfix(programs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(symbols,) symbols of all expressions one after the other in postfix, and (n,) how many each has."""
    symbols = programs[::-1].T.ravel()
    real = symbols != NOTHING
    return symbols[real], np.count_nonzero(programs != NOTHING, axis=0)


def infix(programs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `postfix`, in infix: every binary operation in brackets, "-" right before the operand it negates.

    Every symbol has its place in a gap between two operands, or is one. In the gap before an operand first come the
    brackets closed by binary operations that end there, then the one operation whose right side begins there, then
    what opens subexpressions, the outermost first.
    """
    symbol, left, right, upcoming = (np.stack(rows[::-1]) for rows in zip(*run(programs), strict=True))  # (steps, n)
    unary, binary, operand = symbol == NEGATION, (symbol > NEGATION) & (symbol <= COMPOSITION), symbol == OPERAND
    opens = unary | binary
    begins = np.where(unary, right, left)  # first operand of what an operation stands for
    pieces = [
        (np.full(np.count_nonzero(binary), CLOSE, np.uint8), 4 * upcoming[binary] - 1),
        (symbol[binary], 4 * right[binary]),
        (np.where(unary, NEGATION, OPEN).astype(np.uint8)[opens], 4 * begins[opens] + 1),  # the outermost comes first
        (symbol[operand], 4 * upcoming[operand] + 2),
    ]
    symbols, places = (np.concatenate(part) for part in zip(*pieces, strict=True))
    counts = np.count_nonzero(unary, axis=0) + np.count_nonzero(operand, axis=0) + 3 * np.count_nonzero(binary, axis=0)
    return symbols[np.argsort(places, kind="stable")], counts


def read_tree(words: Sequence[str | Polynomial], notation: Notation) -> Tree:
    """The expression written in these words. Raises ValueError, quoting them, where they are no expression."""
    stack: list[str | Tree] = []
    try:
        for word in words:
            if notation == "postfix" and isinstance(word, str):
                n_operands = 1 if word == "-" else 2
                stack[-n_operands:] = [_node(word, *stack[-n_operands:])]
            elif word == ")":
                opening, left, operation, right = stack[-4:]
                if opening != "(":
                    raise ValueError("a bracket is closed that was not opened")
                stack[-4:] = [_node(operation, left, right)]
            else:
                stack.append(word)
            while notation == "infix" and stack[-2:-1] == ["-"] and isinstance(stack[-1], tuple):
                stack[-2:] = [_node("-", stack[-1])]
        (tree,) = stack
        if isinstance(tree, str):
            raise ValueError("an operation or a bracket alone")
    except ValueError as error:
        raise ValueError(f"no {notation} expression: {' '.join(map(str, words))!r}; give one whole question") from error
    return tree


def _node(operation: str, *operands: str | Tree) -> Tree:
    needed = 1 if operation == "-" else 2
    if operation not in OPERATIONS or len(operands) != needed or any(isinstance(operand, str) for operand in operands):
        raise ValueError(f"{operation!r} cannot work on {operands}")
    return (operation, *operands)


def polynomials_of(tree: Tree) -> list[Polynomial]:
    """The polynomials of an expression, from left to right."""
    return [tree] if not isinstance(tree[0], str) else [leaf for branch in tree[1:] for leaf in polynomials_of(branch)]


def tree_probability(
    tree: Tree, split: Split, operand: float, operations: Sequence[Operation] = OPERATIONS
) -> tuple[float, int]:
    """The probability that `draw_programs` gives to a tree among those of as many operations, and their number.

    operand  the probability of each polynomial
    """
    if not isinstance(tree[0], str):
        return operand, 0
    branches = (tree_probability(branch, split, operand, operations) for branch in tree[1:])
    probabilities, below = zip(*branches, strict=True)
    k = sum(below)  # shared out between the operands
    if tree[0] not in operations:
        share = 0.0
    elif len(below) == 1 or k == 0:
        share = 1.0
    elif split == "uniform":
        share = 1 / (k + 1)
    else:
        share = 0.5 if 0 in below else 0.0
    return share * prod(probabilities) / len(operations), k + 1
