"""Pairs of polynomial questions that differ in one coefficient of one operand, and in their answers.

"(1+X) (2+X) + = ...": the corrupt question has another coefficient in one place, all other tokens are the same. What
differs in the answer had to travel from there, so patching by role shows along which tokens: is a partial result kept
where its operator stands, or is all computed at the answer? Left out: infix, operators that differ, and pairs in which
several coefficients do.
"""

from dataclasses import replace

import numpy as np

from data_gen.polynomials.partial_results import partial_results
from data_gen.polynomials.stream import Polynomials
from mtp_lab.interp.pairs.base import Pairs, gather

POLYNOMIAL_ROLES = (
    "changed",
    "same operand",
    "first operator",
    "later operators",
    "others",
    "after the question",
    "query",
    "rest",
)
"""What a position is, in the order in which the difference reaches them.

    changed             the one token that differs
    same operand        the operand's coefficients after it
    first operator      the operator that takes the operand: the first partial result to differ
    later operators     those that take a result that differs, up to the question's last one
    others              other tokens of the question after the change: what they complete is the same in both runs
    after the question  pauses, "=", coefficients of the answer before the one that differs
    query               the token before that one
    rest                what comes before the change, where both runs are the same

The operators that the value passes through are told from those that just come later: in "a b c + *" with a change in a,
"+" is one of the others.
"""


def draw_polynomial_pairs(stream: Polynomials, count: int, seed: int = 0) -> Pairs:
    """`count` pairs, each from a question of its own; the same at every call, drawn apart from the held-out sets.

    An operand, a degree and another value there are drawn uniformly; pairs whose answer stays the same are left out,
    so that products and compositions, which can swallow a change, are rarer here than in the stream. The query is the
    token before the first coefficient of the answer that differs: "=", or a coefficient that both answers share, so
    that both runs are documents of the stream up to there. Formats get the same questions and changes.

    A head further ahead is asked as many tokens earlier (`Pairs.asked_by`): before the question's last operator it
    cannot know the answer, and before the change an error says so.

    Args:
        stream: in postfix; `stream.of(m)` for questions of m operations.

    Raises:
        ValueError: for fewer than one pair, or a stream in infix.

    Example:
        >>> pairs = draw_polynomial_pairs(task.stream.of(2), 200)
        >>> recovered(residual_patching(model, pairs), ["layer", "role"]).pivot(index="layer", columns="role")
    """
    rng = np.random.default_rng([0x504F4C50, seed])
    return gather(lambda: _drawn(stream, count, rng), count, POLYNOMIAL_ROLES)


def _drawn(stream: Polynomials, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What `gather` asks for, from those of n questions whose answer changes."""
    documents = stream.documents(n, rng)
    starts = documents.ends - documents.lengths  # (n,)
    operands = np.flatnonzero(documents.labels["operand"]).reshape(-1, stream.d)  # (operands, d) flat positions
    before = np.searchsorted(operands[:, 0], starts)  # (n,) operands of earlier documents
    chosen = rng.integers(before, np.append(before[1:], len(operands)))  # (n,)
    degree, shift = rng.integers(stream.d, size=n), rng.integers(1, stream.p, n)
    changed = operands[chosen, stream.d - 1 - degree if stream.high_first else degree]  # (n,) flat
    value = documents.tokens[changed] % stream.p
    edited = documents.tokens.copy()
    edited[changed] += ((value + shift) % stream.p - value).astype(np.int32)

    values, new_values = (partial_results(stream, replace(documents, tokens=t)) for t in (documents.tokens, edited))
    last = np.flatnonzero(documents.labels["equals"]) - stream.pause - 1  # (n,) flat, of each question
    difference = (new_values - values)[last, :: -1 if stream.high_first else 1]  # (n, d) as the answer is written
    kept = difference.any(axis=1)
    first = (difference != 0).argmax(axis=1)  # (n,) place in the answer
    query = last + stream.pause + 1 + first  # (n,) flat
    right = documents.tokens[query + 1]
    wrong = right + difference[np.arange(n), first]

    place = np.arange(stream.longest)
    inside = place < documents.lengths[:, None]  # (n, seq)

    def rows_of(flat: np.ndarray) -> np.ndarray:  # (n, seq)
        rows = np.zeros(inside.shape, flat.dtype)
        rows[inside] = flat
        return rows

    passed = rows_of((values != new_values).any(axis=1) & documents.labels["operator"])
    start, end = ((at - starts)[:, None] for at in (changed, operands[chosen, -1]))  # (n, 1) of the changed operand
    over, at = ((at - starts)[:, None] for at in (last, query))  # (n, 1)
    cases = [
        place == start,
        (place > start) & (place <= end),
        passed & (passed.cumsum(axis=1) == 1),
        passed,
        (place > start) & (place <= over),
        (place > over) & (place < at),
        place == at,
    ]  # in the order of POLYNOMIAL_ROLES; the first that holds
    roles = np.select(cases, range(len(cases)), POLYNOMIAL_ROLES.index("rest"))
    drawn = {
        "clean": rows_of(documents.tokens),
        "corrupt": rows_of(edited),
        "roles": roles,
        "at": query - starts,
        "right": right,
        "wrong": wrong,
    }
    return {name: part[kept] for name, part in drawn.items()}
