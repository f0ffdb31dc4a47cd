"""What each head must predict: the tokens of every horizon, with document boundaries, and what each counts in the loss.

Horizon i at position t has the target x_{t+i} if that token exists in the row and belongs to the same document, and
IGNORE otherwise: never a filled-in tail, never a token of the next document.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data_gen import Batch
from mtp_lab.tasks.base import CAUSE, REST

IGNORE = -100  # torch's own ignore_index


def future_targets(tokens: Tensor, n_future: int, documents: Tensor | None = None) -> Tensor:
    """Targets of horizons 1..n_future.

    Args:
        tokens: (batch, seq) token ids.
        n_future: number of horizons.
        documents: (batch, seq) document of each token, -1 for padding; None if each row is one document.

    Returns:
        (n_future, batch, seq) int64; IGNORE where there is no target.

    Example:
        >>> future_targets(torch.tensor([[5, 6, 7]]), 2).tolist()
        [[[6, 7, -100]], [[7, -100, -100]]]
    """
    targets = tokens.new_full((n_future, *tokens.shape), IGNORE, dtype=torch.long)
    for i in range(1, min(n_future, tokens.shape[1] - 1) + 1):
        targets[i - 1, :, :-i] = tokens[:, i:]
        if documents is not None:
            outside = (documents[:, i:] != documents[:, :-i]) | (documents[:, i:] < 0)
            targets[i - 1, :, :-i].masked_fill_(outside, IGNORE)
    return targets


def target_weights(targets: Tensor, weights: Tensor | None = None, causes: Tensor | None = None) -> Tensor:
    """What each target counts in its horizon's mean: the weight of the token that is predicted, 0 without a target.

    Args:
        targets: (n_future, batch, seq), as `future_targets` gives them.
        weights: (batch, seq) weight of each token, whichever horizon predicts it; all 1 by default.
        causes: (batch, seq) distance from each token back to the one that decides it; 0 or less: none. Horizons that
            reach back beyond the cause, and so predict the token without having read it, count 0.

    Returns:
        (n_future, batch, seq), float32, or the weights' own precision.
    """
    valid = targets != IGNORE
    if causes is not None:
        for i in range(2, min(len(targets), causes.shape[1] - 1) + 1):
            valid[i - 1, :, :-i] &= (causes[:, i:] <= 0) | (causes[:, i:] >= i)
    if weights is None:
        return valid.float()
    ahead = weights.new_zeros(targets.shape)
    for i in range(1, min(len(targets), weights.shape[1] - 1) + 1):
        ahead[i - 1, :, :-i] = weights[:, i:]
    return ahead * valid


def token_weights(batch: Batch, by_label: Sequence[tuple[str, float]]) -> Tensor:
    """(rows, seq) float32: the weight of the first of these marks that a token has, or of "rest", by default 1."""
    weights = np.full(batch.tokens.shape, dict(by_label).get(REST, 1.0), dtype=np.float32)
    for label, weight in reversed([pair for pair in by_label if pair[0] != REST]):
        weights[batch.labels[label]] = weight
    return torch.from_numpy(weights)


def causes_of(batch: Batch, asked: bool) -> Tensor:
    """(rows, seq) `causes` of `target_weights` by the mark of that name; all 0, no cause, unless asked for."""
    return torch.from_numpy(batch.labels[CAUSE]) if asked else torch.zeros(batch.tokens.shape)
