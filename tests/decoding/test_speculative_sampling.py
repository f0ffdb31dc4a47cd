"""Choosing tokens: temperature and cut-offs as in Hugging Face, and the two rules that accept drafts."""

import numpy as np
import pytest
import torch
from scipy import stats

from mtp_lab.decoding.speculative_sampling import Sampling, accept_greedy, accept_sampled, draw


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 3, 50])
@pytest.mark.parametrize("top_p", [0.05, 0.6, 0.9, 1.0])
def test_probabilities_are_those_of_hugging_face(temperature, top_k, top_p):
    """Temperature, then top-k, then top-p, as in transformers' generate.
    Catches: another order, a nucleus that leaves out the token that crosses top_p."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = 3 * torch.randn(50, 11, generator=torch.Generator().manual_seed(0))
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    found = Sampling(temperature, top_k, top_p).probabilities(logits[:, None])[:, 0]
    torch.testing.assert_close(found, expected.softmax(-1))


def test_greedy_accepts_drafts_up_to_the_first_that_differs():
    """All drafts, none, and none after the first wrong one. Head 1's token follows the accepted drafts."""
    best = torch.tensor([[3, 1, 4, 2], [3, 1, 4, 2], [3, 1, 4, 2]])
    logits = torch.nn.functional.one_hot(best, 5).float()
    n_accepted, token = accept_greedy(logits, torch.tensor([[3, 1, 4], [0, 1, 4], [3, 0, 4]]))
    assert n_accepted.tolist() == [3, 0, 1] and token.tolist() == [2, 3, 1]
    n_accepted, token = accept_greedy(logits[:, :1], torch.zeros(3, 0, dtype=torch.long))  # plain decoding
    assert n_accepted.tolist() == [0, 0, 0] and token.tolist() == [3, 3, 3]


def test_drafts_from_p_itself_are_all_accepted():
    """With q = p all drafts are accepted, and with disjoint supports none.
    Catches: r < p / q computed as r > p / q, or with rounding that rejects if p = q."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(500, 4, 6, generator=generator).softmax(-1)
    drafts = draw(p[:, :3], generator)
    assert accept_sampled(p, drafts, p[:, :3].clone(), generator)[0].tolist() == [3] * 500
    low, high = torch.tensor([0.5, 0.5, 0, 0]), torch.tensor([0, 0, 0.3, 0.7])
    p, q = low.expand(500, 2, 4), high.expand(500, 1, 4)
    n_accepted, token = accept_sampled(p, draw(q, generator), q, generator)
    assert not n_accepted.any() and (token < 2).all()


def test_one_draft_leaves_p_as_it_is():
    """Accepted or replaced, the first token has distribution p; drafts are accepted with probability sum min(p, q)
    (200,000 draws).
    Catches: a residual that is not normalised, or not cut at 0."""
    generator = torch.Generator().manual_seed(0)
    first, q = (torch.tensor(d, dtype=torch.double) for d in ([0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]))
    second, n = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.double), 200_000
    p, q = torch.stack((first, second)).expand(n, 2, 4), q.expand(n, 1, 4)
    drafts = draw(q, generator)
    n_accepted, token = accept_sampled(p, drafts, q, generator)
    accepted = torch.where(n_accepted > 0, drafts[:, 0], token)
    assert stats.chisquare(np.bincount(accepted, minlength=4), n * first.numpy()).pvalue > 1e-3
    assert n_accepted.double().mean().item() == pytest.approx(0.1 + 0.2 + 0.2 + 0.1, abs=0.005)
    after = np.bincount(token[n_accepted > 0], minlength=4)
    assert stats.chisquare(after, after.sum() * second.numpy()).pvalue > 1e-3
