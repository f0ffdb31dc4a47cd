"""Decoding, plain and self-speculative (Gloeckle et al. 2024, section 3.2; Stern et al. 2018, blockwise decoding).

One loop does both. Every forward pass reads, in each row, the last accepted token and the drafts after it. Head 1
accepts the drafts that agree with it and adds one token of its own. Heads 2..k then draft the tokens after that. With
k = 1 there are no drafts, which is plain decoding. Rows of a batch accept different numbers of drafts and end at
different times (`rows`).
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtp_lab.config import check_positive
from mtp_lab.decoding.decoder import Decoder
from mtp_lab.decoding.rows import Rows
from mtp_lab.decoding.speculative_sampling import Sampling, accept_greedy, accept_sampled, draw
from mtp_lab.model.transformer import MTPTransformer

Stream = Callable[[int, list[int]], None]


@dataclass(frozen=True, eq=False)
class Generation:
    """Generated tokens, and how many forward passes and seconds they took."""

    tokens: Tensor
    """(batch, max_new_tokens) without the prompt; -1 after a row's end."""
    lengths: Tensor
    """(batch,) new tokens of each row, the stop token included."""
    heads: Tensor
    """(batch, max_new_tokens) the head that proposed each token, 1 for tokens that head 1 chose itself; -1 as above."""
    forward_passes: Tensor
    """(batch,) forward passes that each row took part in, the pass that read its prompt included."""
    accepted_by_head: Tensor
    """(draft,) share of the forward passes after the first in which the token of head i was accepted.

    The shares add up to the tokens per forward pass, except that stop tokens and max_new_tokens cut some off. NaN if
    there is only the forward pass that reads the prompt."""
    seconds: float
    """Wall-clock time, reading the prompts included."""

    @property
    def tokens_per_forward_pass(self) -> float:
        """Tokens of all rows divided by forward passes of all rows: 1 in plain decoding."""
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
    """Continues prompts as head 1 alone would, in fewer forward passes.

    Greedy text is the same token for token, and sampled text has the same distribution.

    Args:
        model: a model, or a Decoder of it, which is faster for many calls: weights are laid out only once.
        prompts: token ids, one sequence for each row, of any lengths.
        max_new_tokens: limit of new tokens in each row.
        draft: number k of heads used, head 1 included: k = 1 is plain decoding. By default all heads of the model, or
            those of the decoder.
        temperature: 0 for greedy decoding; otherwise exact speculative sampling.
        top_p, top_k: see Sampling.
        stop: token ids that end a row.
        generator: source of randomness for temperature > 0.
        stream: called as stream(row, tokens) with the tokens that each forward pass accepts.

    Raises:
        ValueError: for an empty prompt, a prompt that does not fit max_seq together with max_new_tokens, ids outside of
            the vocabulary, a draft that is not 1..n_future, and for values that Sampling refuses.

    Example:
        >>> model = MTPTransformer(ModelConfig(n_future=4))
        >>> drafted = generate(model, [[100, 101], [32]], max_new_tokens=20)
        >>> plain = generate(model, [[100, 101], [32]], max_new_tokens=20, draft=1)
        >>> torch.equal(drafted.tokens, plain.tokens)
        True
    """
    sampling = Sampling(temperature, top_k, top_p)
    check_positive(max_new_tokens=max_new_tokens)
    decoder = model if isinstance(model, Decoder) else None
    config = model.config
    prompts = [[int(token) for token in prompt] for prompt in prompts]
    _check(prompts, max_new_tokens, config.max_seq, config.vocab_size)
    if decoder is not None and draft not in (None, decoder.draft):
        raise ValueError(f"draft={draft} is not the decoder's {decoder.draft}; make one Decoder for each draft")
    started = time.perf_counter()
    with torch.inference_mode():
        decoder = decoder or Decoder(model, config.n_future if draft is None else draft)
        rows = Rows(prompts, max_new_tokens, stop, decoder.draft, decoder.embedding.device)
        decoder.allocate(rows)
        decoding = _BlockwiseDecoding(decoder, rows, sampling, generator, stream)
        decoding.run()
    return decoding.result(time.perf_counter() - started)


def _check(prompts: list[list[int]], max_new_tokens: int, max_seq: int, vocab_size: int) -> None:
    if not prompts:
        raise ValueError("prompts is empty; give at least one")
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {i} is empty; give at least one token, such as the one that opens documents")
        if len(prompt) + max_new_tokens > max_seq:
            raise ValueError(
                f"prompt {i} of {len(prompt)} tokens and max_new_tokens={max_new_tokens} do not fit the model's "
                f"max_seq={max_seq}; cut the prompt or ask for {max(0, max_seq - len(prompt))} tokens at most"
            )
        if min(prompt) < 0 or max(prompt) >= vocab_size:
            raise ValueError(
                f"prompt {i} holds tokens {min(prompt)} to {max(prompt)}; the model knows 0 to {vocab_size - 1}"
            )


class _BlockwiseDecoding:
    """One generation: the loop, and what it records about every forward pass."""

    def __init__(
        self,
        decoder: Decoder,
        rows: Rows,
        sampling: Sampling,
        generator: torch.Generator | None,
        stream: Stream | None,
    ) -> None:
        self.decoder, self.rows, self.sampling, self.generator, self.stream = decoder, rows, sampling, generator, stream
        self.q: Tensor | None = None  # (unfinished, draft - 1, vocab) distributions that the drafts were drawn from
        self.history: list[tuple[list[int], Tensor]] = []  # of each pass: prompts of its rows, accepted drafts of each

    def run(self) -> None:
        """Read, verify, accept, draft, until every row is finished (Stern et al. 2018, section 3)."""
        latents = self.decoder.read_prompts()  # (unfinished, 1, d_model): there are no drafts yet
        while True:
            n_accepted, token = self._verify(self.decoder.unembed(latents))
            places = self._accept(n_accepted, token)
            if not self.rows:
                return
            if self.decoder.draft > 1:
                self._draft(places, n_accepted[places])
            latents = self.decoder.read(self.rows.unread())  # (unfinished, draft, d_model)

    def _verify(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(unfinished,) number of drafts to accept, and the token that head 1 chooses after them."""
        drafts = self.rows.drafts(logits.shape[1] - 1)
        if self.sampling.greedy:
            return accept_greedy(logits, drafts)
        p = self.sampling.probabilities(logits)
        return accept_sampled(p, drafts, p[:, :0] if self.q is None else self.q, self.generator)

    def _accept(self, n_accepted: Tensor, token: Tensor) -> Tensor:
        """Accepts drafts and a token, streams them, and removes finished rows; the old places of those that remain."""
        self.history.append((self.rows.prompt_of, n_accepted))
        self.rows.accept(n_accepted, token)
        counts, finished = self.rows.count_new(n_accepted)
        if self.stream is not None:
            counts_before = (self.rows.lengths - n_accepted - self.rows.prompt_lengths).tolist()
            for place, (start, end) in enumerate(zip(counts_before, counts.tolist(), strict=True)):
                self.stream(self.rows.prompt_of[place], self.rows.new_text(place, start, end))
        return self.rows.remove_finished(counts, finished)

    def _draft(self, places: Tensor, n_accepted: Tensor) -> None:
        """Lets heads 2..draft write the next drafts; see `Decoder.write_drafts`."""
        distributions: list[Tensor] = []

        def choose(logits: Tensor) -> Tensor:
            if self.sampling.greedy:
                return logits.argmax(dim=-1)
            q = self.sampling.probabilities(logits)
            distributions.extend(q)
            return draw(q, self.generator)

        self.decoder.write_drafts(places, n_accepted, choose)
        self.q = torch.stack(distributions, dim=1) if distributions else None

    def result(self, seconds: float) -> Generation:
        new_tokens = self.rows.new_tokens
        heads_of: list[list[int]] = [[] for _ in new_tokens]  # of each prompt: the head that proposed each token
        forward_passes = torch.zeros(len(new_tokens), dtype=torch.long)
        accepted_by_head = torch.zeros(self.decoder.draft)
        for number, (prompts, n_accepted) in enumerate(self.history):
            for prompt, count in zip(prompts, n_accepted.tolist(), strict=True):
                heads_of[prompt] += [*range(2, count + 2), 1]
                forward_passes[prompt] += 1
                accepted_by_head[: count + 1] += number > 0
        lengths = torch.tensor([len(tokens) for tokens in new_tokens])
        tokens = torch.full((len(new_tokens), self.rows.max_new_tokens), -1)
        heads = tokens.clone()
        for row, length in enumerate(lengths.tolist()):
            tokens[row, :length] = torch.tensor(new_tokens[row])
            heads[row, :length] = torch.tensor(heads_of[row][:length])
        return Generation(tokens, lengths, heads, forward_passes, accepted_by_head / accepted_by_head[0], seconds)
