"""The value of every subexpression, at the token that completes it.

These are labels for probes on polynomials: does a model represent the result of an inner operation before it needs the
result of the outer one? Left out: infix, where the token that completes a subexpression is not unique (its last operand
or its closing bracket).
"""

from dataclasses import replace

import numpy as np

from data_gen.batch import NO_VALUE, Documents
from data_gen.polynomials.expressions import NEGATION, NOTHING, OPERAND, apply, run
from data_gen.polynomials.ring import ring_dtype
from data_gen.polynomials.stream import SYMBOLS, Polynomials


def partial_results(stream: Polynomials, documents: Documents) -> np.ndarray:
    """(n_tokens, d) int64 coefficients, from degree 0 upwards, of the subexpression that a token completes.

    Such tokens are the last coefficient of each operand, and each operator. All other tokens have -1. The value at a
    question's last operator is the answer. Values are computed from the question's tokens alone, so they are also
    correct for edited questions.

    Args:
        stream: the sampler of the documents.

    Raises:
        ValueError: for a stream in infix.
    """
    if stream.notation != "postfix":
        raise ValueError(f"notation={stream.notation!r}: partial results need postfix; give a stream that writes it")
    # 1. The operands' values, from their tokens.
    coefficients = np.flatnonzero(documents.labels["operand"]).reshape(-1, stream.d)  # (operands, d) positions
    in_order = coefficients[:, ::-1] if stream.high_first else coefficients
    values = (documents.tokens[in_order.T] % stream.p).astype(ring_dtype(stream.p, stream.d))  # (d, operands)

    # 2. The programs of `expressions`, from the symbols of the questions, and the position of each symbol.
    completes = documents.labels["operator"].copy()  # (n_tokens,)
    completes[coefficients[:, -1]] = True
    symbol_positions = np.flatnonzero(completes)  # (symbols,)
    symbols = documents.tokens[symbol_positions] - (stream.vocab_size - len(SYMBOLS))  # below 0: a coefficient
    before = np.concatenate([[0], np.cumsum(completes)])  # (n_tokens + 1,) number of symbols before each token
    ends = before[documents.ends]  # (n_documents,)
    counts = np.diff(ends, prepend=0)
    backwards = np.repeat(ends, counts) - 1 - np.arange(len(symbols))  # (symbols,) rows: a program begins with the root
    owner = np.repeat(np.arange(len(documents)), counts)
    programs = np.full((counts.max(), len(documents)), NOTHING, np.uint8)
    programs[backwards, owner] = np.where(symbols < 0, OPERAND, symbols)
    positions = np.zeros(programs.shape, np.int64)
    positions[backwards, owner] = symbol_positions

    # 3. The values, step by step, at the position of each step's symbol.
    results = np.full((len(documents.tokens), stream.d), NO_VALUE)
    for position, (symbol, left, right, upcoming) in zip(positions[::-1], run(programs), strict=True):
        apply(values, symbol, left, right, stream.p)
        first = np.select([symbol == OPERAND, symbol == NEGATION], [upcoming, right], left)  # (n_documents,)
        real = symbol != NOTHING
        results[position[real]] = values[:, first[real]].T
    return results


def with_partial_results(stream: Polynomials, documents: Documents) -> Documents:
    """The documents with their `partial_results` as float32 labels "value_0" to "value_{d-1}", -1 where there is none.

    Packing keeps labels with their tokens. A probe reads labels at least one token ahead. To probe a value at the token
    that completes it, shift the labels by one position as below. The value that `roll` moves to the start of a row is
    -1, because the last token of a row is "end" or padding.

    Example:
        >>> batch = with_partial_results(stream, stream.held_out("validation", 3)).pack(256)
        >>> tokens, documents = torch.from_numpy(batch.tokens).long(), torch.from_numpy(batch.documents)
        >>> value = np.where(batch.labels["operator"], batch.labels["value_0"], -1)  # operands are in the input
        >>> labels = torch.from_numpy(value).long().roll(1, dims=1)
        >>> probe(model, tokens, documents, labels, classes=range(stream.p), offsets=[1])
    """
    values = partial_results(stream, documents).T.astype(np.float32)  # (d, n_tokens)
    return replace(documents, labels={**documents.labels, **{f"value_{i}": value for i, value in enumerate(values)}})
