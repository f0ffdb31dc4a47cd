"""What each head must predict: the tokens of every horizon, with document boundaries.

Horizon i at position t has the target x_{t+i} if that token exists in the row and belongs to the same document, and
IGNORE otherwise: never a filled-in tail, never a token of the next document.
"""

import torch
from torch import Tensor

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


def valid_targets(targets: Tensor) -> Tensor:
    """Number of targets of each horizon: (n_future, batch, seq) -> (n_future,)."""
    return (targets != IGNORE).sum(dim=(1, 2))
