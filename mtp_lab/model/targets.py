"""The targets of each horizon, inside document boundaries, and the weight of each target in the loss.

Horizon i at position t has the target x_{t+i} if that token exists in the row and belongs to the same document. All
other targets are IGNORE: a row's end is not filled in, and no target lies in the next document.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from data_gen import Batch
from mtp_lab.tasks.base import REST

IGNORE = -100  # the default ignore_index of PyTorch's cross-entropy


@dataclass(frozen=True)
class Targets:
    """The targets of a batch: what `mtp_loss` compares the predictions with.

    Indexing with a slice selects rows. The slice keeps the denominators of the whole batch, so that the losses of
    slices (gradient accumulation, several processes) add up to the loss of the batch.
    """

    tokens: Tensor
    """(n_future, batch, seq) int64; IGNORE where there is no target."""
    weights: Tensor
    """(n_future, batch, seq) weight of each target in the mean of its horizon; 0 where there is no target."""
    denominators: Tensor
    """(n_future,) the sum of the weights of each horizon, over all rows of the batch."""

    def __getitem__(self, rows: slice) -> "Targets":
        return replace(self, tokens=self.tokens[:, rows], weights=self.weights[:, rows])


def make_targets(
    tokens: Tensor,
    n_future: int,
    documents: Tensor | None = None,
    token_weights: Tensor | None = None,
    causes: Tensor | None = None,
) -> Targets:
    """Targets of horizons 1..n_future with their weights.

    Args:
        tokens: (batch, seq) ids that are predicted. They are not the model's input in teacherless rows
            (`data_gen.Batch.target_tokens`).
        n_future: number of horizons.
        documents: (batch, seq) document of each token, -1 for padding; None if each row is one document.
        token_weights: (batch, seq) weight of each token as a target, none negative; all 1 by default.
        causes: (batch, seq) distance from each token back to the token that determines it, as in `target_weights`.
    """
    targets = future_targets(tokens, n_future, documents)
    weights = target_weights(targets, token_weights, causes)
    return Targets(targets, weights, weights.sum(dim=(1, 2)))


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
    """Weight of each target in the mean of its horizon: that of the predicted token, and 0 where there is no target.

    Args:
        targets: (n_future, batch, seq), as `future_targets` returns them.
        weights: (batch, seq) weight of each token, the same for all horizons; all 1 by default.
        causes: (batch, seq) distance from each token back to the token that determines it; 0 or less: none. A target
            has weight 0 if its cause lies after the position that predicts it.

    Returns:
        (n_future, batch, seq), float32, or the weights' own precision.
    """
    has_weight = targets != IGNORE
    if causes is not None:
        for i in range(2, min(len(targets), causes.shape[1] - 1) + 1):
            has_weight[i - 1, :, :-i] &= (causes[:, i:] <= 0) | (causes[:, i:] >= i)
    if weights is None:
        return has_weight.float()
    weights_ahead = weights.new_zeros(targets.shape)
    for i in range(1, min(len(targets), weights.shape[1] - 1) + 1):
        weights_ahead[i - 1, :, :-i] = weights[:, i:]
    return weights_ahead * has_weight


def token_weights(batch: Batch, by_label: Sequence[tuple[str, float]]) -> Tensor:
    """(rows, seq) float32 weight of each token: that of the first label in the list that the token has.

    Tokens with none of the labels have the weight of "rest", by default 1.
    """
    weights = np.full(batch.tokens.shape, dict(by_label).get(REST, 1.0), dtype=np.float32)
    for label, weight in reversed([pair for pair in by_label if pair[0] != REST]):
        weights[batch.labels[label]] = weight
    return torch.from_numpy(weights)
