"""Pairs of polynomial questions that differ in one coefficient of one operand, and in their answers.

"(1+X) (2+X) + = ...": the corrupted question has another coefficient in one place, and all other tokens are the same.
The information in which the answers differ travels from this place to the answer. Patching by role therefore shows
along which tokens it travels: a model may keep a partial result at its operator, or compute everything at the answer.
Left out: infix, operators that differ, and pairs in which several coefficients differ.
"""

from dataclasses import replace

import numpy as np

from data_gen.polynomials.partial_results import partial_results
from data_gen.polynomials.stream import Polynomials
from mtp_lab.interp.pairs.base import Pairs, assign_roles, collect_pairs, one_document_per_row

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
"""The role of a position, in the order in which the change reaches them.

    changed             the one token that differs
    same operand        the coefficients of its operand after it
    first operator      the operator that takes this operand: its result is the first partial result that differs
    later operators     those that take a result that differs, up to the last operator of the question
    others              other tokens of the question after the change: their partial results are the same in both runs
    after the question  pauses, "=", and the coefficients of the answer before the one that differs
    query               the token before that coefficient
    rest                what comes before the change, where both runs are the same

An operator after the change is one of the others if its result does not depend on the change. In "a b c + *" with a
change in a, "+" is one of these.
"""


def draw_polynomial_pairs(stream: Polynomials, count: int, seed: int = 0) -> Pairs:
    """`count` pairs, each from its own question, apart from the held-out sets. The same arguments give the same pairs.

    An operand, a degree and a new value are drawn uniformly, and pairs with equal answers are left out. Products and
    compositions, whose result may not depend on a coefficient, are therefore rarer here than in the stream. The query
    is the token before the first coefficient of the answer that differs, either "=" or a coefficient that both answers
    share. Up to the query both runs are documents of the stream. All formats get the same questions and changes.

    The query of a later prediction head comes earlier (`Pairs.for_horizon`). Before the last operator of the question
    such a head cannot know the answer; before the change `for_horizon` raises an error.

    Args:
        stream: in postfix; `stream.of(m)` for questions of m operations.

    Raises:
        ValueError: for fewer than one pair, or a stream in infix.

    Example:
        >>> pairs = draw_polynomial_pairs(Polynomials().of(2), 200)
        >>> (pairs.clean != pairs.corrupted).sum(dim=1).unique()
        tensor([1])
    """
    rng = np.random.default_rng([0x504F4C50, seed])
    return collect_pairs(lambda: _pairs_from(stream, count, rng), count, POLYNOMIAL_ROLES)


def _pairs_from(stream: Polynomials, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The fields for `collect_pairs`, of those of n questions whose answers differ."""
    # 1. Draw questions, and change one coefficient of each. Positions are flat: they count the tokens of all documents.
    documents = stream.documents(n, rng)
    starts = documents.ends - documents.lengths  # (n,)
    operands = np.flatnonzero(documents.labels["operand"]).reshape(-1, stream.d)  # (operands, d)
    first_operand = np.searchsorted(operands[:, 0], starts)  # (n,) the number of each document's first operand
    operand = operands[rng.integers(first_operand, np.append(first_operand[1:], len(operands)))]  # (n, d) the chosen
    degree, shift = rng.integers(stream.d, size=n), rng.integers(1, stream.p, n)
    change = operand[np.arange(n), stream.d - 1 - degree if stream.high_first else degree]  # (n,)
    coefficient = documents.tokens[change] % stream.p
    new_tokens = documents.tokens.copy()
    new_tokens[change] += ((coefficient + shift) % stream.p - coefficient).astype(np.int32)

    # 2. Find the first coefficient in which the answers differ.
    values = partial_results(stream, documents)  # (n_tokens, d)
    new_values = partial_results(stream, replace(documents, tokens=new_tokens))
    last_operator = np.flatnonzero(documents.labels["equals"]) - stream.pause - 1  # (n,)
    difference = (new_values - values)[last_operator, :: -1 if stream.high_first else 1]  # (n, d) in written order
    first_difference = (difference != 0).argmax(axis=1)  # (n,) place in the answer
    query = last_operator + stream.pause + 1 + first_difference  # (n,)
    answer_token = documents.tokens[query + 1]
    wrong_token = answer_token + difference[np.arange(n), first_difference]

    # 3. Lay the documents out in rows, and give each position its role.
    def in_rows(flat: np.ndarray) -> np.ndarray:  # (n_tokens,) -> (n, seq)
        return one_document_per_row(documents, flat, stream.longest)

    def in_row(flat: np.ndarray) -> np.ndarray:  # flat positions, (n,) -> positions in their rows, (n, 1)
        return (flat - starts)[:, None]

    position = np.arange(stream.longest)
    takes_change = in_rows((values != new_values).any(axis=1) & documents.labels["operator"])  # (n, seq)
    after_change = position > in_row(change)  # (n, seq)
    after_question = position > in_row(last_operator)  # (n, seq)
    cases = {
        "changed": position == in_row(change),
        "same operand": after_change & (position <= in_row(operand[:, -1])),
        "first operator": takes_change & (takes_change.cumsum(axis=1) == 1),
        "later operators": takes_change,
        "others": after_change & ~after_question,
        "after the question": after_question & (position < in_row(query)),
        "query": position == in_row(query),
    }
    fields = {
        "clean": in_rows(documents.tokens),
        "corrupted": in_rows(new_tokens),
        "roles": assign_roles(cases, POLYNOMIAL_ROLES),
        "query_position": query - starts,
        "answer_token": answer_token,
        "wrong_token": wrong_token,
    }
    answers_differ = difference.any(axis=1)  # (n,)
    return {name: values[answers_differ] for name, values in fields.items()}
