"""Decoding, plain and self-speculative (Gloeckle et al. 2024, section 3.2; Stern et al. 2018, blockwise decoding).

One loop for both. Every forward reads, in each row, the last committed token and the drafts behind it; head 1 commits
the drafts that it agrees with and one token of its own; heads 2..k then draft behind that. With k = 1 there are no
drafts, and that is plain decoding. Rows of a batch keep different numbers of drafts and end at different times.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtp_lab.config import check_positive
from mtp_lab.decoding.decoder import Decoder
from mtp_lab.decoding.sampling import Sampling, accept_greedy, accept_sampled, draw
from mtp_lab.model.transformer import MTPTransformer

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
    forward_passes: Tensor
    """(batch,) forwards that each row took part in, the one that read its prompt included."""
    accepted_by_head: Tensor
    """(draft,) share of the forwards behind the first in which head i's token was committed; they add up to the tokens
    a forward (stop tokens and max_new_tokens cut some off); nan where the prompt's forward was enough."""
    seconds: float
    """Wall clock, the reading of the prompts included."""

    @property
    def tokens_per_forward_pass(self) -> float:
        """Tokens of all rows by forwards of all rows: 1 in plain decoding."""
        return float(self.lengths.sum() / self.forward_passes.sum())

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
        loop = _Loop(decoder, rows, max_new_tokens, sampling, stop, generator, stream)
        loop.run()
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
    """The state of one generation. Rows that go on lie in the first places of the decoder, in any order."""

    def __init__(
        self,
        decoder: Decoder,
        prompts: list[list[int]],
        new: int,
        sampling: Sampling,
        stop: Collection[int],
        generator: torch.Generator | None,
        stream: Stream | None,
    ) -> None:
        self.decoder, self.new, self.sampling, self.generator = decoder, new, sampling, generator
        self.stream, self.k, self.device = stream, decoder.draft, decoder.embedding.device
        decoder.allocate(len(prompts), max(map(len, prompts)) + new + self.k)
        for origin, prompt in zip(decoder.origins.flatten().tolist(), prompts, strict=True):
            decoder.text[origin : origin + len(prompt)] = torch.tensor(prompt)
        self.rows = list(range(len(prompts)))  # of each place: which prompt it continues
        self.begin = torch.tensor([len(prompt) for prompt in prompts], device=self.device)  # where its first token goes
        self.length = torch.zeros_like(self.begin)  # positions of each place that are committed and read
        self.columns = torch.arange(self.k, device=self.device)
        self.stop = torch.tensor(sorted(stop), device=self.device)
        self.q: Tensor | None = None  # (places, k - 1, vocab) what the drafts were drawn from
        self.tokens = torch.full((len(prompts), new), -1)
        self.lengths = torch.zeros(len(prompts), dtype=torch.long)
        self.history: list[tuple[list[int], Tensor]] = []  # of every forward: its rows, and the drafts each kept

    def run(self) -> None:
        """Until no row is left."""
        positions = torch.arange(int(self.begin.max()), device=self.device).expand(len(self.rows), -1)
        at = self.begin - 1  # the prompts are read at once
        logits = self.decoder.unembed(self.decoder.read(positions)[torch.arange(len(at), device=self.device), at])
        self._commit(positions, at, torch.zeros_like(at), self._choose(logits)[0])
        while self.rows:
            positions = self.length[:, None] + self.columns  # the last token committed, and the drafts behind it
            kept, token = self._verify(self.decoder.unembed(self.decoder.read(positions)), positions)
            self._commit(positions, kept, kept, token)

    def _verify(self, logits: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(places,) drafts that are kept, and the token that head 1 puts behind them."""
        drafts = self.decoder.text[self.decoder.origins[: len(self.rows)] + positions[:, 1:]]  # (places, k - 1)
        if self.sampling.greedy:
            return accept_greedy(logits, drafts)
        q = logits.new_zeros(len(drafts), 0, logits.shape[-1]) if self.q is None else self.q
        return accept_sampled(self.sampling.probabilities(logits), drafts, q, self.generator)

    def _choose(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens for (..., vocab) logits, and the distributions that they were drawn from."""
        if self.sampling.greedy:
            return logits.argmax(dim=-1), None
        p = self.sampling.probabilities(logits)
        return draw(p, self.generator), p

    def _commit(self, positions: Tensor, at: Tensor, kept: Tensor, token: Tensor) -> None:
        """Takes in what a forward has found, hands out the rows that are done, and drafts for the others.

        Args:
            positions: (places, seq) what was read.
            at: (places,) which of them is the last that is committed.
            kept: (places,) drafts among what is committed.
            token: (places,) what follows.
        """
        decoder = self.decoder
        self.length = positions[:, 0] + at + 1
        decoder.text[decoder.origins[: len(at), 0] + self.length] = token
        self.history.append((list(self.rows), kept))
        left = self._hand_out(kept)
        if len(left) < len(at):
            positions, at = positions[left], at[left]
            decoder.seen = {i: latents[left] for i, latents in decoder.seen.items()}
        if self.rows and self.k > 1:
            drawn_from: list[Tensor] = []

            def choose(logits: Tensor) -> Tensor:
                tokens, p = self._choose(logits)
                drawn_from.extend(() if p is None else p)
                return tokens

            decoder.propose(positions, at, choose)
            self.q = torch.stack(drawn_from, dim=1) if drawn_from else None

    def _hand_out(self, kept: Tensor) -> Tensor:
        """Streams what is new, and takes out the rows that are done: which of the places go on, in their new order."""
        decoder, count = self.decoder, self.length + 1 - self.begin  # (places,) tokens so far
        ended = count >= self.new
        if len(self.stop):
            # what this forward has committed, and places behind it
            span = (self.length - kept)[:, None] + self.columns  # (places, k)
            found = torch.isin(decoder.text[decoder.origins[: len(span)] + span], self.stop)
            found &= span <= self.length[:, None]
            places = torch.where(found, span, torch.iinfo(torch.long).max).amin(dim=1)
            count, ended = torch.minimum(count, places + 1 - self.begin), ended | found.any(dim=1)
        if self.stream is not None:
            before = (self.length - kept - self.begin).tolist()
            for place, (old, new) in enumerate(zip(before, count.clamp(max=self.new).tolist(), strict=True)):
                self.stream(self.rows[place], self._text(place, old, new).tolist())
        order = list(range(len(count)))
        if bool(ended.any()):
            for place in reversed(torch.nonzero(ended).flatten().tolist()):
                row, n = self.rows[place], min(int(count[place]), self.new)
                self.tokens[row, :n], self.lengths[row] = self._text(place, 0, n), n
                last, last_row = order.pop(), self.rows.pop()
                if place < len(order):  # the last row takes its place
                    decoder.move(len(order), place)
                    order[place], self.rows[place] = last, last_row
                    self.begin[place] = self.begin[len(order)]
            self.begin = self.begin[: len(order)]
        left = torch.tensor(order, dtype=torch.long, device=self.device)
        self.length = self.length[left]
        return left

    def _text(self, place: int, first: int, end: int) -> Tensor:
        """Tokens first..end of a row, counted from its first new one."""
        begin = place * self.decoder.capacity + int(self.begin[place])
        return self.decoder.text[begin + first : begin + end].cpu()

    def result(self, seconds: float) -> Generation:
        proposed: list[list[int]] = [[] for _ in self.lengths]  # the head behind each token
        forward_passes, kept_by = torch.zeros_like(self.lengths), torch.zeros(self.k)
        for number, (rows, kept) in enumerate(self.history):
            for row, drafts in zip(rows, kept.tolist(), strict=True):
                proposed[row] += [*range(2, drafts + 2), 1]
                forward_passes[row] += 1
                kept_by[: drafts + 1] += number > 0
        heads = self.tokens.clone()
        for row, (length, behind) in enumerate(zip(self.lengths.tolist(), proposed, strict=True)):
            heads[row, :length] = torch.tensor(behind[:length])
        return Generation(self.tokens, self.lengths, heads, forward_passes, kept_by / kept_by[0], seconds)
