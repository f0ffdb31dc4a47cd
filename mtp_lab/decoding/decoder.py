"""A model laid out for decoding: the numbers of model.py's forward, in a third of its operations.

A Decoder holds the layers that decoding needs (inference_layers.py), a KV cache with a length per row, and the text of
every row. It reads positions of the text, and writes what its heads propose behind them. What is committed is decided
in decode.py; hooks, documents and gradients are model.py's.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mtp_lab.decoding.fused_layers import Layer, LinearLayer, Norm, Window
from mtp_lab.model.layers import Block, frequencies
from mtp_lab.model.transformer import LinearHead, MTPTransformer


class Decoder:
    """Trunk, heads 1..draft, and the caches of one generation at a time.

    `text` holds the tokens of every row: what is committed, then the drafts. The decoder keeps the weights that the
    model had when it was made.

    Args:
        draft: heads used, head 1 included; the others are left out, unless head 1 stands on them (anticausal).

    Raises:
        ValueError: for a draft that is not 1..n_future.
    """

    def __init__(self, model: MTPTransformer, draft: int) -> None:
        config = model.config
        if not isinstance(draft, int) or not 1 <= draft <= config.n_future:
            raise ValueError(f"draft={draft!r} must be an integer from 1 to the model's n_future={config.n_future}")
        self.config, self.draft, self.linear = config, draft, config.head_kind == "linear"
        with torch.inference_mode():
            self.embedding = model.embed.weight.detach().clone()  # (vocab, d_model)
            self.norm, scale = Norm(model.embed.weight), config.d_model**0.5
            self.unembedding = scale * model.unembed.weight.t().contiguous()  # (d_model, vocab)
            self.trunk = [self._layer([block]) for block in model.blocks]
            self.path = config.path()  # verifying needs the latents of these heads at every position
            self.first = [self._layer([model.heads[str(i)]]) for i in self.path]
            beside = [i for i in range(2, draft + 1) if i not in self.path]
            groups = [beside] if set(config.parents.values()) == {0} else [[i] for i in beside]
            self.beside = [self._layer([model.heads[str(i)] for i in group]) for group in groups if group]
            joins = [model.joins[str(i)].out.weight for i in beside if str(i) in model.joins]
            self.joins = [scale * join.t().contiguous() for join in joins]  # (2 * d_model, d_model)
        self.layers = [*self.trunk, *self.first, *self.beside]

    def _layer(self, blocks: Sequence[Block] | Sequence[LinearHead]) -> Layer | LinearLayer:
        if isinstance(blocks[0], LinearHead):
            return LinearLayer(blocks)
        return Layer(blocks, self.config.n_attention_heads, self.config.position == "rotary")

    def allocate(self, batch: int, capacity: int) -> None:
        """Empty caches for `batch` rows of up to `capacity` positions."""
        self.capacity, device = capacity, self.embedding.device
        self.text = torch.zeros(batch * capacity, dtype=torch.long, device=device)
        self.latents = self.embedding.new_zeros(batch * capacity, self.config.d_model)  # read by heads beside the path
        for layer in self.layers:
            layer.allocate(batch, capacity)
        self.origins = torch.arange(batch, device=device)[:, None] * capacity  # (batch, 1) each row's first slot
        places = torch.arange(capacity, device=device)
        hidden = places[:, None] < places
        self.triangle = self.embedding.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
        self.rotation = None
        if self.config.position == "rotary":
            angles = places[:, None, None] * frequencies(self.config, self.embedding)
            self.rotation = torch.polar(torch.ones_like(angles), angles)  # (capacity, 1, d_head / 2) complex

    def move(self, source: int, target: int) -> None:
        """Copies all that is held of one row to the place of another."""
        source, target = (slice(row * self.capacity, (row + 1) * self.capacity) for row in (source, target))
        for held in (self.text, self.latents):
            held[target] = held[source]
        for layer in self.layers:
            layer.move(source, target)

    def window(self, positions: Tensor) -> Window:
        """(batch, seq) positions of the first `batch` rows, with all that layers need to know of them."""
        batch, seq = positions.shape
        flat, keys, offsets = positions.flatten(), int(positions.max()) + 1, None
        if self.config.position == "relative":
            distance = positions[:, :, None] - torch.arange(keys, device=positions.device)
            offsets = distance.clamp(0, self.config.relative_offsets - 1)
        return Window(
            positions,
            (self.origins[:batch] + positions).flatten(),
            keys,
            None if self.rotation is None else self.rotation[flat],
            None if batch == seq == 1 else self.triangle[flat].view(batch, 1, seq, -1)[..., :keys],
            offsets,
        )

    def unembed(self, latents: Tensor) -> Tensor:
        """(..., d_model) -> (..., vocab) logits."""
        return self.norm(latents) @ self.unembedding

    def read(self, positions: Tensor) -> Tensor:
        """Runs trunk and head 1 on the text at (batch, seq) positions: head 1's latents, (batch, seq, d_model)."""
        window = self.window(positions)
        x = F.embedding(self.text[window.slots], self.embedding)
        for layer in self.trunk:
            x = layer.run(x, window)
        seen = {0: x}
        for i, layer in zip(self.path, self.first, strict=True):
            x = seen[i] = layer.run(x, window)
        if self.beside and not self.linear:
            self.latents.index_copy_(0, window.slots, seen[self.config.parents[2]])
        self.seen = {i: latents.view(*positions.shape, -1) for i, latents in seen.items()}
        return self.seen[1]

    def propose(self, positions: Tensor, at: Tensor, choose: Callable[[Tensor], Tensor]) -> None:
        """Writes the drafts of heads 2..draft into the text, behind the token that head 1 has chosen.

        Args:
            positions: (batch, seq) what was read last.
            at: (batch,) which of them is the last that is committed.
            choose: (count, batch, vocab) logits -> (count, batch) tokens; asked in the order of the horizons.
        """
        ends = positions.gather(1, at[:, None])  # (batch, 1)
        follow = (self.origins[: len(ends)] + ends).squeeze(1)  # (batch,) slots; head i's draft goes i further
        if self.linear or not self.beside:  # heads that need no other position, or that have run there already
            rows = torch.arange(len(at), device=at.device)
            if self.linear:
                found = [layer.run(self.seen[0][rows, at]) for layer in self.beside]
            else:
                found = [self.seen[i][rows, at] for i in range(2, self.draft + 1)]
            if found:
                latents = torch.cat([x.view(-1, len(at), self.config.d_model) for x in found])
                self._write(choose(self.unembed(latents)), follow + 2)
            return
        # joins read the drafts: what they made of drafts that were refused has to be read again
        seq = positions.shape[1] + (self.draft - 2 if self.joins else 0)
        window = self.window((ends + torch.arange(1 - seq, 1, device=ends.device)).clamp_(min=0))
        x, horizon = self.latents[window.slots], 2
        for number, layer in enumerate(self.beside):
            if self.joins:
                ahead = F.embedding(self.text[window.slots + horizon - 1], self.embedding)
                x = torch.cat((self.norm(x), self.norm(ahead)), dim=-1) @ self.joins[number]
            final = number == len(self.beside) - 1
            x = layer.run(x, window, last=final)  # (batch * seq, d_model), the final one's (count, batch, d_model)
            latents = (x if final else window.ends(x)).view(-1, len(at), self.config.d_model)
            tokens = choose(self.unembed(latents))
            self._write(tokens, follow + horizon)
            horizon += len(tokens)

    def _write(self, tokens: Tensor, slots: Tensor) -> None:
        """(count, batch) tokens at (batch,) slots and those that follow."""
        steps = torch.arange(len(tokens), device=slots.device)[:, None]
        self.text[slots + steps] = tokens
