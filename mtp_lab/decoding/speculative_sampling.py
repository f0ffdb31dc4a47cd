"""How a token is chosen from logits, and which drafts are accepted: speculative sampling (Leviathan et al. 2023).

Whatever the drafts, the text has the distribution of head 1 alone. A draft x, drawn from q, is accepted with
probability min(1, p(x) / q(x)). The first rejected draft is replaced by a draw from the positive part of p - q. At
temperature 0, a draft is accepted if it is the most likely token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

COLDEST = 1e-6  # dividing logits by less can overflow fp32


@dataclass(frozen=True)
class Sampling:
    """Temperature, then the `top_k` most likely tokens, then the fewest of them with a total probability of `top_p`.

    Raises:
        ValueError: at construction, naming the field, its value and what is allowed.
    """

    temperature: float = 0.0
    """0: always the most likely token."""
    top_k: int = 0
    """0: all tokens."""
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature != 0 and not COLDEST <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature!r} must be 0 (greedy), or {COLDEST} or above")
        if type(self.top_k) is not int or self.top_k < 0:
            raise ValueError(f"top_k={self.top_k!r} must be an integer of at least 0; 0 leaves all tokens in")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p!r} must be above 0 and at most 1")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def probabilities(self, logits: Tensor) -> Tensor:
        """(..., vocab) logits -> the distribution to draw from, in fp32 at least; not for greedy decoding."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            smallest_kept = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
        p = logits.softmax(dim=-1)
        if self.top_p < 1:
            descending, order = p.sort(dim=-1, descending=True)
            left_out = descending.cumsum(dim=-1) - descending >= self.top_p  # more likely tokens reach top_p already
            p = p.masked_fill(torch.zeros_like(left_out).scatter(-1, order, left_out), 0.0)
            p = p / p.sum(dim=-1, keepdim=True)
        return p


def draw(p: Tensor, generator: torch.Generator | None) -> Tensor:
    """(..., vocab) distributions -> (...) one token of each."""
    return torch.multinomial(p.flatten(0, -2), 1, generator=generator).view(p.shape[:-1])


def accept_greedy(logits: Tensor, drafts: Tensor) -> tuple[Tensor, Tensor]:
    """Accepts drafts up to the first that is not head 1's most likely token.

    Args:
        logits: (batch, k, vocab) of head 1: for each draft, and for the token after the last draft.
        drafts: (batch, k - 1) tokens.

    Returns:
        (batch,) number of accepted drafts, and (batch,) head 1's own token after them.
    """
    best = logits.argmax(dim=-1)  # (batch, k)
    n_accepted = (best[:, :-1] == drafts).cumprod(dim=1).sum(dim=1)
    return n_accepted, best.gather(1, n_accepted[:, None]).squeeze(1)


def accept_sampled(p: Tensor, drafts: Tensor, q: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Accepts drafts by speculative sampling (Leviathan et al. 2023, algorithm 1).

    Args:
        p: (batch, k, vocab) head 1's distributions: for each draft, and for the token after the last draft.
        drafts: (batch, k - 1) tokens, drawn from q.
        q: (batch, k - 1, vocab) distributions of the drafting heads.

    Returns:
        (batch,) number of accepted drafts, and (batch,) the token after them.
    """
    # Determine the number n of accepted guesses: all before the first with r_i > p_i(x) / q_i(x)
    p_draft, q_draft = (d[:, : drafts.shape[1]].gather(2, drafts[:, :, None]).squeeze(2) for d in (p, q))
    r = torch.rand(drafts.shape, generator=generator, device=p.device, dtype=p.dtype)  # (batch, k - 1)
    n_accepted = (r * q_draft < p_draft).cumprod(dim=1).sum(dim=1)
    # Adjust the distribution: p' = norm(max(0, p_{n+1} - q_{n+1})), or p_{n+1} if all guesses are accepted
    rows = torch.arange(len(p), device=p.device)
    q = torch.cat((q, torch.zeros_like(p[:, :1])), dim=1)  # (batch, k, vocab)
    adjusted = (p - q)[rows, n_accepted].clamp(min=0)  # (batch, vocab), not normalised
    # If p = q up to rounding, nothing is left. Such a draft is rejected with a probability of rounding's size
    adjusted = torch.where(adjusted.sum(dim=-1, keepdim=True) > 0, adjusted, p[rows, n_accepted])
    return n_accepted, draw(adjusted, generator)  # one token from p'
