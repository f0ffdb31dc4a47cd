"""Random expressions over a ring: drawn, evaluated and written for many samples at once, and read one by one.

A program is an expression in reversed postfix: an operator comes before its operands, the right operand first. Programs
are the columns of a (steps, n) uint8 array, with NOTHING after the end of shorter ones. So one step of a stack machine
is a few array operations on all samples. Left out: tokens and documents (data_gen.polynomials.stream).
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Literal, get_args

import numpy as np

from data_gen.polynomials import ring

Split = Literal["uniform", "chain"]
Notation = Literal["postfix", "infix"]
Polynomial = tuple[int, ...]  # coefficients from degree 0 upwards
Tree = tuple  # a Polynomial, or an operation with its operands: ("-", Tree) or ("+", Tree, Tree)
Operation = Literal["-", "+", "*", "o"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)  # negation, addition, multiplication, composition
NEGATION, ADDITION, MULTIPLICATION, COMPOSITION, OPEN, CLOSE, OPERAND, NOTHING = range(8)
BINARY = {ADDITION: ring.add, MULTIPLICATION: ring.multiply, COMPOSITION: ring.compose}


def draw_programs(
    m: np.ndarray, split: Split, rng: np.random.Generator, operations: Sequence[Operation] = OPERATIONS
) -> np.ndarray:
    """Expressions with m[i] operations each, (n,) -> (2 max(m) + 1, n) programs.

    Every operation is drawn uniformly from `operations`, independently of all others. A binary operation divides the k
    remaining operations between its operands:
        uniform  the left operand gets 0 to k of them, each number with equal probability, the right one the rest
        chain    one operand gets all, the left or the right with equal probability
    """
    n, steps = len(m), 2 * int(m.max()) + 1
    stack = np.full((steps + 2) * n, -1, np.int32)  # operations of each pending node; -1 below all of them
    top = np.arange(n, 2 * n)  # (n,) flat position in the stack
    stack[top] = m
    programs = np.empty((steps, n), np.uint8)
    kinds = np.array([OPERATIONS.index(operation) for operation in operations], np.uint8)
    for program in programs:
        m_node = stack[top]  # (n,) operations of the node that is written now
        kind, fraction = kinds[rng.integers(0, len(kinds), n, np.uint8)], rng.random(n)
        binary = (m_node > 0) & (kind != NEGATION)
        left = (fraction * m_node).astype(np.int32) if split == "uniform" else (fraction < 0.5) * (m_node - 1)
        program[:] = np.where(m_node > 0, kind, np.where(m_node == 0, OPERAND, NOTHING))
        # The node is replaced by its only operand, or by its left one with the right one on top of it. For an operand,
        # these values are meaningless. They end up above the new top, and are overwritten before they are read.
        stack[top] = np.where(binary, left, m_node - 1)
        stack[top + n] = m_node - 1 - left
        top += n * (binary.astype(np.int64) - (m_node == 0))
    return programs


def count_operands(programs: np.ndarray) -> np.ndarray:
    """(n,) number of operands of each expression."""
    return np.count_nonzero(programs == OPERAND, axis=0)


def run(programs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Runs the stack machine through all programs together. A subexpression is identified by its first operand.

    Operands are numbered from left to right, and continue from sample to sample. For every step, from the last row of
    `programs` to the first, yields four (n,) arrays: the symbol, the first operand of its left subexpression, the first
    operand of its right (or only) subexpression, and the operand that comes next.
    """
    n = programs.shape[1]
    upcoming = np.cumsum(counts := count_operands(programs)) - counts
    stack = np.zeros((len(programs) + 2) * n, np.int64)
    top = np.arange(n, 2 * n)  # (n,) flat position in the stack; rows 0 and 1 are never used
    for symbol in programs[::-1]:
        operand = symbol == OPERAND
        yield symbol, stack[top - n], stack[top], upcoming
        stack[top + n] = upcoming  # only an operand moves the top up to it
        upcoming = upcoming + operand
        top += n * (operand.astype(np.int64) - ((symbol > NEGATION) & (symbol <= COMPOSITION)))


def evaluate(programs: np.ndarray, operands: np.ndarray, p: int) -> np.ndarray:
    """Values of the expressions in F_p[X]/(X^d), (steps, n) programs and (d, operands) coefficients -> (d, n).

    Operands are in the order of `run`, with the type `ring.ring_dtype(p, d)`.
    """
    values = operands.copy()
    for symbol, left, right, _ in run(programs):
        apply(values, symbol, left, right, p)
    counts = count_operands(programs)
    return values[:, np.cumsum(counts) - counts]


def apply(values: np.ndarray, symbol: np.ndarray, left: np.ndarray, right: np.ndarray, p: int) -> None:
    """One step of `run` on (d, operands) values, in place: the value of a subexpression is at its first operand."""
    at = np.flatnonzero(symbol == NEGATION)
    _put(values, right[at], ring.negate(_get(values, right[at]), p))
    for operation, operate in BINARY.items():
        at = np.flatnonzero(symbol == operation)
        _put(values, left[at], operate(_get(values, left[at]), _get(values, right[at]), p))


def _get(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Columns of (d, operands), as (len(at), d); each coefficient is contiguous in memory, which is fast."""
    return values.take(at, axis=1).T


def _put(values: np.ndarray, at: np.ndarray, polynomials: np.ndarray) -> None:
    for row, coefficients in zip(values, polynomials.T, strict=True):  # several times faster than values[:, at] = ...
        row[at] = coefficients


def postfix(programs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(symbols,) the symbols of all expressions, one after the other in postfix, and (n,) the number of each."""
    symbols = programs[::-1].T.ravel()
    real = symbols != NOTHING
    return symbols[real], np.count_nonzero(programs != NOTHING, axis=0)


def infix(programs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `postfix`, in infix: every binary operation in brackets, "-" directly before its operand.

    Every symbol is an operand or lies in the gap before an operand. A stable sort by 4 * (number of the operand) + k
    gives the order of symbols, where k is
        -1  for the closing brackets of binary operations that end in the gap
        0   for the operation whose right operand begins after the gap
        1   for opening brackets and negations of subexpressions that begin after the gap, the outermost first
        2   for the operand
    """
    symbol, left, right, upcoming = (np.stack(rows[::-1]) for rows in zip(*run(programs), strict=True))  # (steps, n)
    unary, binary, operand = symbol == NEGATION, (symbol > NEGATION) & (symbol <= COMPOSITION), symbol == OPERAND
    opens = unary | binary
    begins = np.where(unary, right, left)  # first operand of an operation's subexpression
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
    """The expression that is written in these words. Raises ValueError, with the words, if there is none."""
    stack: list[str | Tree] = []
    try:
        for word in words:
            if notation == "postfix" and isinstance(word, str):
                n_operands = 1 if word == "-" else 2
                stack[-n_operands:] = [_node(word, *stack[-n_operands:])]
            elif word == ")":
                opening, left, operation, right = stack[-4:]
                if opening != "(":
                    raise ValueError("a closing bracket has no opening one")
                stack[-4:] = [_node(operation, left, right)]
            else:
                stack.append(word)
            while notation == "infix" and stack[-2:-1] == ["-"] and isinstance(stack[-1], tuple):
                stack[-2:] = [_node("-", stack[-1])]
        (tree,) = stack
        if isinstance(tree, str):
            raise ValueError("a single operation or bracket")
    except ValueError as error:
        raise ValueError(
            f"not an expression in {notation}: {' '.join(map(str, words))!r}; give one whole question"
        ) from error
    return tree


def _node(operation: str, *operands: str | Tree) -> Tree:
    needed = 1 if operation == "-" else 2
    if operation not in OPERATIONS or len(operands) != needed or any(isinstance(operand, str) for operand in operands):
        raise ValueError(f"{operation!r} cannot have the operands {operands}")
    return (operation, *operands)


def polynomials_of(tree: Tree) -> list[Polynomial]:
    """The polynomials of an expression, from left to right."""
    return [tree] if not isinstance(tree[0], str) else [leaf for branch in tree[1:] for leaf in polynomials_of(branch)]


def tree_probability(
    tree: Tree, split: Split, operand: float, operations: Sequence[Operation] = OPERATIONS
) -> tuple[float, int]:
    """The probability that `draw_programs` draws a tree, given its number of operations, and this number.

    operand  the probability of each polynomial
    """
    if not isinstance(tree[0], str):
        return operand, 0
    branches = (tree_probability(branch, split, operand, operations) for branch in tree[1:])
    probabilities, below = zip(*branches, strict=True)
    k = sum(below)  # operations that are divided between the operands
    if tree[0] not in operations:
        share = 0.0
    elif len(below) == 1 or k == 0:
        share = 1.0
    elif split == "uniform":
        share = 1 / (k + 1)
    else:
        share = 0.5 if 0 in below else 0.0
    return share * prod(probabilities) / len(operations), k + 1
