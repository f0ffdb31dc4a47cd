"""The model written down by hand does what its page says; every instrument is checked against it."""

import pytest
import torch

from mtp_lab.interp.handmade import DUPLICATE, INDUCTION, PREVIOUS, SECOND_PREVIOUS, induction_model, repeated_tokens


@pytest.fixture(scope="module")
def tokens(handmade) -> torch.Tensor:
    return repeated_tokens(handmade, 4, 12, torch.Generator().manual_seed(0))


def test_both_heads_continue_what_was_seen(handmade, tokens):
    """In the second half head i knows x_{t+i} for sure; in the first, where nothing repeats, it does not."""
    logits = handmade.all_logits(tokens)  # (2, rows, seq, vocab)
    for i in (1, 2):
        probability = logits[i - 1].softmax(-1)[:, 13:-i].gather(-1, tokens[:, 13 + i :, None])
        assert probability.min() > 0.99
        assert (logits[i - 1].argmax(-1)[:, 3:12] != tokens[:, 3 + i : 12 + i]).float().mean() > 0.8


def test_attention_is_where_it_was_put(handmade, tokens):
    """Every named attention head puts all of its attention on the one position it is named for."""
    _, cache = handmade.run_with_cache(tokens, all_heads=True)
    trunk = cache["blocks.0.attn.hook_pattern"]  # (rows, heads, seq, keys)
    second = torch.arange(14, 25)  # its queries have a token before, one two before, and an earlier copy
    rows = torch.arange(4)[:, None]
    for head, back in ((PREVIOUS, 1), (SECOND_PREVIOUS, 2), (DUPLICATE, 12)):
        assert trunk[rows, head, second, second - back].min() > 0.999
    for horizon in (1, 2):
        pattern = cache[f"heads.{horizon}.attn.hook_pattern"][:, INDUCTION]
        queries = torch.arange(14, 25 - horizon)
        assert pattern[rows, queries, queries - 12 + horizon].min() > 0.99


def test_repeated_tokens_say_what_does_not_fit():
    """More different tokens than the vocabulary has would have to repeat inside a half."""
    with pytest.raises(ValueError, match="half=24 must be from 1 to 23"):
        repeated_tokens(induction_model(), 1, 24, torch.Generator())
