"""Decoding, plain and self-speculative (Gloeckle et al. 2024, section 3.2; Stern et al. 2018, blockwise decoding).

One loop for both. Every forward reads, in each row, the last committed token and the drafts behind it; head 1 commits
the drafts that it agrees with and one token of its own; heads 2..k then draft behind that. With k = 1 there are no
drafts, and that is plain decoding. Rows of a batch keep different numbers of drafts and end at different times.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtp_lab.config import check_positive
from mtp_lab.inference import Decoder
from mtp_lab.model import MTPTransformer
from mtp_lab.sampling import Sampling, draw, keep_greedy, keep_sampled

Stream = Callable[[int, list[int]], None]


@dataclass(frozen=True, eq=False)
class Generation:
    """What was generated, and what it took."""

    tokens: Tensor
    """(batch, max_new_tokens) without the prompt; -1 behind a row's end."""
    lengths: Tensor
    """(batch,) tokens of each row, the stop token included."""
    heads: Tensor
    """(batch, max_new_tokens) the head that proposed each token, 1 for those that head 1 chose itself; -1 as above."""
    forwards: Tensor
    """(batch,) forwards that each row took part in, the one that read its prompt included."""
    accepted_by_head: Tensor
    """(draft,) share of the forwards behind the first in which head i's token was committed; they add up to the tokens
    a forward (stop tokens and max_new_tokens cut some off); nan where the prompt's forward was enough."""
    seconds: float
    """Wall clock, the reading of the prompts included."""

    @property
    def tokens_per_forward(self) -> float:
        """Tokens of all rows by forwards of all rows: 1 in plain decoding."""
        return float(self.lengths.sum() / self.forwards.sum())

    @property
    def tokens_per_second(self) -> float:
        return float(self.lengths.sum()) / self.seconds


def generate(
    model: MTPTransformer | Decoder,
    prompts: Sequence[Sequence[int]] | Tensor,
    max_new_tokens: int,
    draft: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: Collection[int] = (),
    generator: torch.Generator | None = None,
    stream: Stream | None = None,
) -> Generation:
    """Continues prompts with what head 1 alone would have chosen (drawn, at a temperature), in fewer forwards.

    Args:
        model: a model; or a Decoder of one, which saves the laying out of weights where one generates often.
        prompts: token ids, one sequence a row, of any lengths.
        max_new_tokens: most tokens a row.
        draft: heads k used, head 1 included: k = 1 is plain decoding. By default all of the model, or the decoder's.
        temperature: 0 for greedy decoding; otherwise exact speculative sampling.
        top_p, top_k: see Sampling.
        stop: token ids that end a row.
        generator: source of randomness for temperature > 0.
        stream: called as stream(row, tokens) with what each forward committed.

    Raises:
        ValueError: for an empty prompt, one that does not fit max_seq with what is to come, ids outside of the
            vocabulary, a draft that is not 1..n_future, and what Sampling refuses.
    """
    sampling = Sampling(temperature, top_k, top_p)
    check_positive(max_new_tokens=max_new_tokens)
    decoder = model if isinstance(model, Decoder) else None
    config = model.config
    rows = [[int(token) for token in prompt] for prompt in prompts]
    _check(rows, max_new_tokens, config.max_seq, config.vocab_size)
    if decoder is not None and draft not in (None, decoder.draft):
        raise ValueError(f"draft={draft} is not the decoder's {decoder.draft}; make one Decoder for each draft")
    started = time.perf_counter()
    with torch.inference_mode():
        decoder = decoder or Decoder(model, config.n_future if draft is None else draft)
        loop = _Loop(decoder, rows, max_new_tokens, sampling, frozenset(stop), generator, stream)
        while loop.active:
            loop.forward()
    return loop.result(time.perf_counter() - started)


def _check(rows: list[list[int]], new: int, max_seq: int, vocab: int) -> None:
    if not rows:
        raise ValueError("prompts is empty; give at least one")
    for i, row in enumerate(rows):
        if not row:
            raise ValueError(f"prompt {i} is empty; give at least one token, such as the one that opens documents")
        if len(row) + new > max_seq:
            raise ValueError(
                f"prompt {i} of {len(row)} tokens and max_new_tokens={new} do not fit the model's max_seq={max_seq}; "
                f"cut the prompt or ask for {max(0, max_seq - len(row))} tokens at most"
            )
        if min(row) < 0 or max(row) >= vocab:
            raise ValueError(f"prompt {i} holds tokens {min(row)} to {max(row)}; the model knows 0 to {vocab - 1}")


class _Loop:
    """The state of one generation. Rows that go on lie in the first `active` places of the decoder, in any order."""

    def __init__(
        self,
        decoder: Decoder,
        prompts: list[list[int]],
        new: int,
        sampling: Sampling,
        stop: frozenset[int],
        generator: torch.Generator | None,
        stream: Stream | None,
    ) -> None:
        self.decoder, self.new, self.sampling, self.generator = decoder, new, sampling, generator
        self.stream, self.k, self.batch = stream, decoder.draft, len(prompts)
        self.device = device = decoder.embedding.device
        longest = max(map(len, prompts))
        decoder.allocate(self.batch, longest + new + self.k)
        for row, prompt in enumerate(prompts):
            start = row * decoder.capacity
            decoder.text[start : start + len(prompt)] = torch.tensor(prompt, device=device)
        self.stop = torch.tensor(sorted(stop), device=device) if stop else None
        self.active, self.row = self.batch, list(range(self.batch))  # row[place]: which prompt it continues
        self.begin = torch.tensor([len(prompt) for prompt in prompts], device=device)  # where its first token goes
        self.length = torch.zeros_like(self.begin)  # positions of each place that are committed and read
        self.by = torch.zeros_like(decoder.text)  # the head behind each token of the text
        self.columns = torch.arange(self.k, device=device)
        self.forwards, self.kept_of_forwards = np.zeros(self.batch, int), np.zeros(self.k, int)
        self.tokens = torch.full((self.batch, new), -1)
        self.heads, self.lengths = self.tokens.clone(), torch.zeros(self.batch, dtype=torch.long)
        self.q: Tensor | None = None  # (batch, k - 1, vocab) what the drafts were drawn from
        self.prompt_read = False

    def forward(self) -> None:
        """Reads, commits, ends the rows that are done, and drafts."""
        decoder, places = self.decoder, self.active
        if self.prompt_read:
            positions = self.length[:, None] + self.columns  # (active, k): the last token committed, and the drafts
            kept, token = self._verified(positions)
            at = kept
        else:
            positions = torch.arange(int(self.begin.max()), device=self.device).expand(places, -1)
            at = self.begin - 1
            logits = decoder.unembed(decoder.read(positions)[torch.arange(places, device=self.device), at])
            kept, token = torch.zeros_like(at), self._chosen(logits)
        before = torch.maximum(self.length + 1, self.begin)  # where the tokens of this forward begin
        self.length = self.length + at + 1
        origins = decoder.origins[:places]
        decoder.text[origins.squeeze(1) + self.length] = token
        proposers = torch.where(self.columns < kept[:, None], self.columns + 2, 1)  # (active, k)
        self.by[origins + before[:, None] + self.columns] = proposers
        self._account(kept)
        left = self._end_rows(before)
        self.prompt_read = True
        if left is not None:  # some rows have ended, and others have taken their places
            positions, at = positions[left], at[left]
            decoder.seen = {i: latents[left] for i, latents in decoder.seen.items()}
        if self.active and self.k > 1:
            chosen: list[Tensor] = []
            decoder.propose(positions, at, lambda logits: self._drafted(logits, chosen))
            self.q = torch.cat(chosen).transpose(0, 1) if chosen else None  # (active, k - 1, vocab)

    def _verified(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(active,) drafts that are kept, and the token that head 1 puts behind them."""
        decoder = self.decoder
        logits = decoder.unembed(decoder.read(positions))  # (active, k, vocab)
        drafts = decoder.text[decoder.origins[: self.active] + positions[:, 1:]]
        if self.sampling.greedy:
            return keep_greedy(logits, drafts)
        q = logits.new_zeros(self.active, 0, logits.shape[-1]) if self.q is None else self.q
        return keep_sampled(self.sampling.probabilities(logits), drafts, q, self.generator)

    def _chosen(self, logits: Tensor) -> Tensor:
        if self.sampling.greedy:
            return logits.argmax(dim=-1)
        return draw(self.sampling.probabilities(logits), self.generator)

    def _drafted(self, logits: Tensor, chosen: list[Tensor]) -> Tensor:
        """Tokens of (count, active, vocab) logits; what they were drawn from is added to `chosen`."""
        if self.sampling.greedy:
            return logits.argmax(dim=-1)
        chosen.append(self.sampling.probabilities(logits))
        return draw(chosen[-1], self.generator)

    def _account(self, kept: Tensor) -> None:
        self.forwards[self.row[: self.active]] += 1
        if self.prompt_read:
            self.kept_of_forwards += (self.columns <= kept[:, None]).sum(dim=0).cpu().numpy()

    def _end_rows(self, before: Tensor) -> Tensor | None:
        """Hands out what was committed and takes out the rows that are done; which places are left, if not all."""
        decoder, n = self.decoder, self.length + 1 - self.begin  # (active,) tokens so far
        ended = n >= self.new
        if self.stop is not None:
            span = before[:, None] + self.columns  # (active, k)
            found = torch.isin(decoder.text[decoder.origins[: self.active] + span], self.stop)
            found &= span <= self.length[:, None]
            first = torch.where(found, span - self.begin[:, None] + 1, torch.iinfo(torch.long).max).amin(dim=1)
            n, ended = torch.minimum(n, first), ended | found.any(dim=1)
        n = n.clamp(max=self.new)
        if self.stream is not None:
            for place, (start, count, old) in enumerate(zip(self.begin.tolist(), n.tolist(), before.tolist(), strict=True)):
                first = place * decoder.capacity
                self.stream(self.row[place], decoder.text[first + old : first + start + count].tolist())
        if not bool(ended.any()):
            return None
        order = list(range(self.active))
        for place in reversed(torch.nonzero(ended).flatten().tolist()):
            self._hand_out(place, int(self.begin[order[place]]), int(n[order[place]]))
            last = len(order) - 1
            if place != last:  # the last row takes its place
                decoder.move(last, place)
                start = place * decoder.capacity
                source = slice(last * decoder.capacity, (last + 1) * decoder.capacity)
                self.by[start : start + decoder.capacity] = self.by[source]
                order[place], self.row[place] = order[last], self.row[last]
            order.pop(), self.row.pop()
        self.active, left = len(order), torch.tensor(order, dtype=torch.long, device=self.device)
        self.begin, self.length = self.begin[left], self.length[left]
        return left

    def _hand_out(self, place: int, begin: int, n: int) -> None:
        span = slice(place * self.decoder.capacity + begin, place * self.decoder.capacity + begin + n)
        row = self.row[place]
        self.tokens[row, :n], self.heads[row, :n] = self.decoder.text[span].cpu(), self.by[span].cpu()
        self.lengths[row] = n

    def result(self, seconds: float) -> Generation:
        verified = self.kept_of_forwards[0] or np.nan
        shares = torch.from_numpy(self.kept_of_forwards / verified)
        return Generation(self.tokens, self.lengths, self.heads, torch.from_numpy(self.forwards), shares, seconds)
