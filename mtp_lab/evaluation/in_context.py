"""In-context learning as behaviour: rows that repeat random tokens, and how much the context lowers the loss.

Measured from outputs only (Olsson et al. 2022, arXiv 2209.11895). Left out: the circuits behind it
(mtp_lab.interp.attention), and rows in the vocabulary of the hand-built model (mtp_lab.interp.handmade).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data_gen import Batch
from mtp_lab.model.predictions import next_token_predictions
from mtp_lab.model.transformer import MTPTransformer


def random_repeats(vocabulary: Sequence[int], first: int, rows: int, half: int, generator: torch.Generator) -> Tensor:
    """`first`, then `half` different random tokens of the vocabulary, twice: (rows, 2 half + 1) int64.

    Args:
        vocabulary: ids to draw from, without duplicates; for stories, for example, the ids of words or name pieces.
        first: id of the opening token of documents; not in the vocabulary, since it must not repeat.

    Raises:
        ValueError: if the vocabulary has fewer than `half` ids, has duplicates, or holds `first`.
    """
    ids = torch.tensor(list(vocabulary), dtype=torch.long)
    if len(ids.unique()) < len(ids) or first in vocabulary:
        raise ValueError(f"vocabulary must hold no id twice, and not first={first}: a repeat would have two copies")
    if not 1 <= half <= len(ids):
        raise ValueError(f"half={half} must be from 1 to {len(ids)}, the ids to draw from")
    drawn = torch.stack([ids[torch.randperm(len(ids), generator=generator)[:half]] for _ in range(rows)])
    return torch.cat((torch.full((rows, 1), first), drawn, drawn), dim=1)


def in_context_score(model: MTPTransformer, batch: Batch, early: int = 50, late: int = 500) -> float:
    """Mean over documents of the loss at token `late` minus the loss at token `early`, in nats (Olsson et al. 2022).

    It is negative if context helps. The loss is that of the next-token head. Tokens are counted from 0 within each
    document. Documents that end before `late` are left out, so that both losses are from the same documents.

    Raises:
        ValueError: unless 1 <= early < late, and if no document is long enough.

    Example:
        >>> from mtp_lab.interp.handmade import induction_model, repeated_tokens
        >>> model = induction_model()
        >>> tokens = repeated_tokens(model, rows=4, half=12, generator=torch.Generator().manual_seed(0))
        >>> batch = Batch(tokens.numpy().astype(np.int32), np.arange(4, dtype=np.int32).repeat(25).reshape(4, 25))
        >>> in_context_score(model, batch, early=3, late=20) < -1  # token 20 is a repeat of an earlier one
        True
    """
    if not 1 <= early < late:
        raise ValueError(f"early={early} must be at least 1 (nothing predicts token 0) and less than late={late}")
    index = _index_in_document(batch.documents)
    row, position = np.nonzero((index == late) & (batch.documents >= 0))
    if not len(row):
        longest = 1 + index[batch.documents >= 0].max(initial=-1)
        raise ValueError(f"late={late}: no document has as many tokens; the longest has {longest}")
    _, nll = next_token_predictions(model, batch)
    return float((nll[row, position] - nll[row, position - (late - early)]).mean())


def _index_in_document(documents: np.ndarray) -> np.ndarray:
    """(rows, seq) index of each token within its document, from 0."""
    index = np.broadcast_to(np.arange(documents.shape[1]), documents.shape)
    starts = np.diff(documents, axis=1, prepend=documents[:, :1] - 1) != 0
    return index - np.maximum.accumulate(np.where(starts, index, 0), axis=1)
