"""What an expression is worth so far: the value of every subexpression, at the token that completes it.

Labels for probes on polynomials: whether a model holds the result of an inner operation before it is asked for the
outer one's. Left out: infix, where a subexpression is complete before its bracket closes, or only with the operand that
ends it.
"""

from dataclasses import replace

import numpy as np

from data_gen.batch import NO_VALUE, Documents
from data_gen.polynomials.expressions import NEGATION, NOTHING, OPERAND, apply, run
from data_gen.polynomials.ring import ring_dtype
from data_gen.polynomials.stream import SYMBOLS, Polynomials


def partial_results(stream: Polynomials, documents: Documents) -> np.ndarray:
    """(n_tokens, d) int64 coefficients, from degree 0 upwards, of the subexpression that a token completes.

    Such tokens are the last coefficient of each operand, and each operator; all others have -1. A question's last
    operator has the document's answer. Values are computed from the tokens of the question alone, so that it may have
    been edited.

    Args:
        stream: what the documents were drawn from.

    Raises:
        ValueError: for a stream in infix.
    """
    if stream.notation != "postfix":
        raise ValueError(f"notation={stream.notation!r}: partial results need postfix; give a stream that writes it")
    coefficients = np.flatnonzero(documents.labels["operand"]).reshape(-1, stream.d)  # (operands, d) their tokens
    in_order = coefficients[:, ::-1] if stream.high_first else coefficients
    values = (documents.tokens[in_order.T] % stream.p).astype(ring_dtype(stream.p, stream.d))  # (d, operands)

    completes = documents.labels["operator"].copy()  # (n_tokens,)
    completes[coefficients[:, -1]] = True
    places = np.flatnonzero(completes)  # (symbols,)
    symbols = documents.tokens[places] - (stream.vocab_size - len(SYMBOLS))  # below 0: a coefficient
    before = np.concatenate([[0], np.cumsum(completes)])  # (n_tokens + 1,) symbols in front of each token
    ends = before[documents.ends]  # (n_documents,)
    counts = np.diff(ends, prepend=0)
    backwards = np.repeat(ends, counts) - 1 - np.arange(len(places))  # (symbols,) rows: programs begin with the root
    owner = np.repeat(np.arange(len(documents)), counts)
    programs = np.full((counts.max(), len(documents)), NOTHING, np.uint8)
    programs[backwards, owner] = np.where(symbols < 0, OPERAND, symbols)
    tokens = np.zeros(programs.shape, np.int64)  # the place of each symbol
    tokens[backwards, owner] = places

    results = np.full((len(documents.tokens), stream.d), NO_VALUE)
    for at, (symbol, left, right, upcoming) in zip(tokens[::-1], run(programs), strict=True):
        apply(values, symbol, left, right, stream.p)
        first = np.select([symbol == OPERAND, symbol == NEGATION], [upcoming, right], left)  # (n_documents,)
        real = symbol != NOTHING
        results[at[real]] = values[:, first[real]].T
    return results


def with_partial_results(stream: Polynomials, documents: Documents) -> Documents:
    """The documents with their `partial_results` as float32 marks "value_0" to "value_{d-1}", -1 where there are none.

    As marks they go into rows with the tokens. A probe reads labels at least one token ahead, so a value is read off
    the very token that completes it where labels are moved on by one; what leaves a row is -1, its last token being
    "end" or padding.

    Example:
        >>> batch = with_partial_results(stream, stream.held_out("validation", 3)).pack(256)
        >>> tokens, documents = torch.from_numpy(batch.tokens).long(), torch.from_numpy(batch.documents)
        >>> value = np.where(batch.marks["operator"], batch.marks["value_0"], -1)  # operands are read off the input
        >>> labels = torch.from_numpy(value).long().roll(1, dims=1)
        >>> probe(model, tokens, documents, labels, classes=range(stream.p), offsets=[1])
    """
    values = partial_results(stream, documents).T.astype(np.float32)  # (d, n_tokens)
    return replace(documents, labels={**documents.labels, **{f"value_{i}": value for i, value in enumerate(values)}})
