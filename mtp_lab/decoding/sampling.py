"""How a token is chosen from logits, and which drafts are kept: speculative sampling (Leviathan et al. 2023).

Whatever the drafts, the committed tokens are distributed as if head 1 alone had chosen each of them: a draft x, drawn
from q, is kept with probability min(1, p(x) / q(x)); the first that is refused is replaced by a draw from the positive
part of p - q. At temperature 0 that is: kept while it is the most likely token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

COLDEST = 1e-6  # logits divided by less can be too large for fp32


@dataclass(frozen=True)
class Sampling:
    """Temperature, then the `top_k` most likely tokens, then the fewest of them that hold `top_p` of the probability.

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
        """(..., vocab) logits -> the distribution that is drawn from, in fp32 at least; not for greedy decoding."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        p = logits.softmax(dim=-1)
        if self.top_p < 1:
            falling, order = p.sort(dim=-1, descending=True)
            beyond = falling.cumsum(dim=-1) - falling >= self.top_p  # what the more likely ones already hold
            p = p.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0.0)
            p = p / p.sum(dim=-1, keepdim=True)
        return p


def draw(p: Tensor, generator: torch.Generator | None) -> Tensor:
    """(..., vocab) distributions -> (...) one token of each."""
    return torch.multinomial(p.flatten(0, -2), 1, generator=generator).view(p.shape[:-1])


def accept_greedy(logits: Tensor, drafts: Tensor) -> tuple[Tensor, Tensor]:
    """Drafts that are what head 1 finds most likely.

    Args:
        logits: (batch, k, vocab) of head 1: for each draft, and for the token behind the last.
        drafts: (batch, k - 1) tokens.

    Returns:
        (batch,) number of drafts kept, and (batch,) head 1's own token behind them.
    """
    best = logits.argmax(dim=-1)  # (batch, k)
    kept = (best[:, :-1] == drafts).cumprod(dim=1).sum(dim=1)
    return kept, best.gather(1, kept[:, None]).squeeze(1)


def accept_sampled(p: Tensor, drafts: Tensor, q: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Drafts that speculative sampling keeps (Leviathan et al. 2023, algorithm 1).

    Args:
        p: (batch, k, vocab) head 1's distributions: for each draft, and for the token behind the last.
        drafts: (batch, k - 1) tokens, drawn from q.
        q: (batch, k - 1, vocab) what the drafting heads drew them from.

    Returns:
        (batch,) number of drafts kept, and (batch,) the token behind them.
    """
    chance, other = (d[:, : drafts.shape[1]].gather(2, drafts[:, :, None]).squeeze(2) for d in (p, q))  # (batch, k - 1)
    uniform = torch.rand(drafts.shape, generator=generator, device=p.device, dtype=p.dtype)
    kept = (uniform * other < chance).cumprod(dim=1).sum(dim=1)  # u < p / q
    rows = torch.arange(len(p), device=p.device)
    nothing = torch.zeros_like(p[:, :1])  # behind the last draft nothing was refused
    rest = (p - torch.cat((q, nothing), dim=1))[rows, kept].clamp(min=0)  # (batch, vocab)
    # p = q up to rounding leaves no rest, and refuses with a probability of rounding's size
    rest = torch.where(rest.sum(dim=-1, keepdim=True) > 0, rest, p[rows, kept])
    return kept, draw(rest, generator)
