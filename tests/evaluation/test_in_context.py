"""Rows repeat as they say, and the in-context score is the difference of two losses of the same documents."""

import numpy as np
import pytest
import torch

from data_gen import Batch
from mtp_lab.evaluation.in_context import in_context_score, random_repeats
from mtp_lab.interp.handmade import repeated_tokens


def batch_of(tokens: torch.Tensor, documents: np.ndarray | None = None) -> Batch:
    ids = tokens.numpy().astype(np.int32)
    rows = np.arange(len(ids), dtype=np.int32)[:, None].repeat(ids.shape[1], axis=1)
    return Batch(ids, rows if documents is None else documents.astype(np.int32))


def test_random_repeats_repeat_and_draw_evenly():
    """A repeat inside a half would give a token two earlier copies; ids left out would make it another vocabulary."""
    vocabulary = range(40, 60)
    tokens = random_repeats(vocabulary, 7, 400, 5, torch.Generator().manual_seed(0))
    assert tokens.shape == (400, 11)
    assert (tokens[:, 0] == 7).all()
    assert torch.equal(tokens[:, 1:6], tokens[:, 6:])
    assert all(len(set(row)) == 5 for row in tokens[:, 1:6].tolist())
    counts = torch.bincount(tokens[:, 1:6].flatten(), minlength=60)
    assert counts[:40].sum() == 0
    assert counts[40:].min() > 60  # 100 expected, standard deviation 9


def test_random_repeats_refuse_what_does_not_fit():
    generator = torch.Generator()
    with pytest.raises(ValueError, match="half=4 must be from 1 to 3"):
        random_repeats([1, 2, 3], 0, 1, 4, generator)
    for vocabulary in ([1, 2, 2], [0, 1, 2]):
        with pytest.raises(ValueError, match="no id twice, and not first=0"):
            random_repeats(vocabulary, 0, 1, 2, generator)


def test_in_context_score_is_the_late_loss_minus_the_early_one(handmade):
    """Token 3 is new and token 20 is a repeat, so the score is minus the loss of token 3."""
    tokens = repeated_tokens(handmade, 6, 12, torch.Generator().manual_seed(0))
    with torch.no_grad():
        log_p = handmade(tokens).log_softmax(-1)
    nll = [[-float(log_p[row, t - 1, tokens[row, t]]) for row in range(6)] for t in (3, 20)]
    score = in_context_score(handmade, batch_of(tokens), early=3, late=20)
    assert score == pytest.approx(np.mean(nll[1]) - np.mean(nll[0]), abs=1e-5)
    assert max(nll[1]) < 0.01
    assert score < -1


def test_in_context_score_counts_tokens_within_documents(three_heads):
    """Packed, cut short or padded: a document counts with its own tokens, and only if it has both."""
    tokens = random_repeats(range(1, 30), 0, 4, 4, torch.Generator().manual_seed(1))  # (4, 9)
    alone = in_context_score(three_heads, batch_of(tokens[:3]), early=2, late=7)
    last = torch.nn.functional.pad(tokens[3, :7], (0, 20))  # document 3 ends before token 7; the padding is longer
    packed = torch.stack((tokens[:3].flatten(), last))  # (2, 27)
    documents = np.stack([np.arange(3).repeat(9), np.array([3] * 7 + [-1] * 20)])
    score = in_context_score(three_heads, batch_of(packed, documents), early=2, late=7)
    assert score == pytest.approx(alone, abs=1e-5)


def test_in_context_score_refuses_what_does_not_fit(handmade):
    batch = batch_of(repeated_tokens(handmade, 2, 4, torch.Generator()))
    with pytest.raises(ValueError, match="late=9: no document has as many tokens; the longest has 9"):
        in_context_score(handmade, batch, early=1, late=9)
    padded = Batch(batch.tokens, np.where(np.arange(9) < 4, 0, -1).astype(np.int32).repeat(2).reshape(9, 2).T.copy())
    with pytest.raises(ValueError, match="late=8: no document has as many tokens; the longest has 4"):
        in_context_score(handmade, padded, early=1, late=8)
    for early, late in ((0, 5), (5, 5)):
        with pytest.raises(ValueError, match=f"early={early} must be at least 1"):
            in_context_score(handmade, batch, early, late)
