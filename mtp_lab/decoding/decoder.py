"""A model laid out for decoding: the numbers of the model's forward pass, with a third of its operations.

A Decoder holds the layers that decoding needs (`fused_layers`) and the rows of one generation (`rows`) with their
caches. It reads positions of the text, and writes the drafts of its heads after the accepted tokens. `generation` and
`speculative_sampling` decide what is accepted. Hooks, documents and gradients are left to `mtp_lab.model.transformer`.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mtp_lab.decoding.fused_layers import Layer, LinearLayer, Norm, Window
from mtp_lab.decoding.rows import Rows
from mtp_lab.model.layers import Block, frequencies
from mtp_lab.model.transformer import LinearHead, MTPTransformer


class Decoder:
    """Trunk, heads 1..draft, and the caches of one generation at a time.

    The decoder keeps a copy of the weights that the model has when the decoder is made.

    Args:
        draft: number of heads used, head 1 included. Heads beyond are left out, unless head 1 reads them (anticausal).

    Raises:
        ValueError: for a draft that is not 1..n_future.

    Example:
        >>> decoder = Decoder(MTPTransformer(ModelConfig(n_future=4)), draft=2)
        >>> generate(decoder, [[100, 101]], max_new_tokens=8).tokens.shape
        torch.Size([1, 8])
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
            self.path = config.path()  # the heads from the trunk to the next-token logits, which verify drafts
            self.next_token_layers = [self._layer([model.heads[str(i)]]) for i in self.path]
            drafting = [i for i in range(2, draft + 1) if i not in self.path]
            groups = [drafting] if set(config.parents.values()) == {0} else [[i] for i in drafting]
            self.drafting_layers = [self._layer([model.heads[str(i)] for i in group]) for group in groups if group]
            joins = [model.joins[str(i)].out.weight for i in drafting if str(i) in model.joins]
            self.joins = [scale * join.t().contiguous() for join in joins]  # (2 * d_model, d_model)
        self.layers = [*self.trunk, *self.next_token_layers, *self.drafting_layers]

    def _layer(self, blocks: Sequence[Block] | Sequence[LinearHead]) -> Layer | LinearLayer:
        if isinstance(blocks[0], LinearHead):
            return LinearLayer(blocks)
        return Layer(blocks, self.config.n_attention_heads, self.config.position == "rotary")

    def allocate(self, rows: Rows) -> None:
        """Starts a generation: empty caches for the rows."""
        self.rows = rows
        # inputs of the drafting layers, which also read positions before those read last
        self.drafting_inputs = self.embedding.new_zeros(rows.places * rows.capacity, self.config.d_model)
        rows.move_along(self.drafting_inputs.view(rows.places, rows.capacity, -1))
        for layer in self.layers:
            layer.allocate(rows)
        positions = torch.arange(rows.capacity, device=self.embedding.device)
        hidden = positions[:, None] < positions
        self.causal_mask = self.embedding.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
        self.rotation = None
        if self.config.position == "rotary":
            angles = positions[:, None, None] * frequencies(self.config, self.embedding)
            self.rotation = torch.polar(torch.ones_like(angles), angles)  # (capacity, 1, d_head / 2) complex

    def window(self, positions: Tensor) -> Window:
        """(unfinished, seq) positions with all that layers need to know about them."""
        batch, seq = positions.shape
        flat, keys, offsets = positions.flatten(), int(positions.max()) + 1, None
        if self.config.position == "relative":
            distance = positions[:, :, None] - torch.arange(keys, device=positions.device)
            offsets = distance.clamp(0, self.config.relative_offsets - 1)
        return Window(
            positions,
            self.rows.slots(positions).flatten(),
            keys,
            None if self.rotation is None else self.rotation[flat],
            None if batch == seq == 1 else self.causal_mask[flat].view(batch, 1, seq, -1)[..., :keys],
            offsets,
        )

    def unembed(self, latents: Tensor) -> Tensor:
        """(..., d_model) -> (..., vocab) logits."""
        return self.norm(latents) @ self.unembedding

    def read_prompts(self) -> Tensor:
        """Reads all prompts at once: head 1's latents at their last tokens, (unfinished, 1, d_model)."""
        ends = self.rows.lengths
        self.read(torch.arange(int(ends.max()) + 1, device=ends.device).expand(len(ends), -1))
        places = torch.arange(len(ends), device=ends.device)
        self.latents = {i: latents[places, ends][:, None] for i, latents in self.latents.items()}
        return self.latents[1]

    def read(self, positions: Tensor) -> Tensor:
        """Runs trunk and head 1 on the text at (unfinished, seq) positions; head 1's latents, with d_model last."""
        window = self.window(positions)
        x = F.embedding(self.rows.text[window.slots], self.embedding)
        for layer in self.trunk:
            x = layer.run(x, window)
        latents = {0: x}  # by head, 0 for the trunk: (unfinished * seq, d_model)
        for i, layer in zip(self.path, self.next_token_layers, strict=True):
            x = latents[i] = layer.run(x, window)
        if self.drafting_layers and not self.linear:
            self.drafting_inputs.index_copy_(0, window.slots, latents[self.config.parents[2]])
        self.latents = {i: x.view(*positions.shape, -1) for i, x in latents.items()}
        self.positions_read = positions.shape[1]
        return self.latents[1]

    def write_drafts(self, places: Tensor, n_accepted: Tensor, choose: Callable[[Tensor], Tensor]) -> None:
        """Writes the drafts of heads 2..draft into the text, after the token that head 1 has chosen.

        Args:
            places: (unfinished,) the place of each row at the time when it was read.
            n_accepted: (unfinished,) how many drafts it has accepted since.
            choose: (count, unfinished, vocab) logits -> (count, unfinished) tokens; called in the order of horizons.
        """
        if self.linear or not self.drafting_layers:  # heads that read no other position, or that have run already
            if self.linear:
                trunk = self.latents[0][places, n_accepted]
                latents = [layer.run(trunk) for layer in self.drafting_layers]
            else:
                latents = [self.latents[i][places, n_accepted] for i in range(2, self.draft + 1)]
            stacked = torch.cat([x.view(-1, len(places), self.config.d_model) for x in latents])
            self.rows.write(2, choose(self.unembed(stacked)))
            return
        window = self._drafting_window()
        x, horizon = self.drafting_inputs[window.slots], 2
        for number, layer in enumerate(self.drafting_layers):
            if self.joins:
                ahead = F.embedding(self.rows.text[window.slots + horizon - 1], self.embedding)
                x = torch.cat((self.norm(x), self.norm(ahead)), dim=-1) @ self.joins[number]
            is_last = number == len(self.drafting_layers) - 1
            x = layer.run(x, window, last=is_last)  # of the last layer, only the ends are needed
            latents = x if is_last else window.take_last(x)
            tokens = choose(self.unembed(latents.view(-1, len(places), self.config.d_model)))
            self.rows.write(horizon, tokens)
            horizon += len(tokens)

    def _drafting_window(self) -> Window:
        """The positions that drafting layers run on: up to the last position that is accepted and read.

        Their keys and values are missing at the positions read last, so the window is as long as these. It reaches
        further back by the number of rejected drafts, where the same keys and values are computed once more. Joins also
        read draft - 2 tokens ahead. These may be rejected drafts, so as many positions before have to run again.
        """
        seq = self.positions_read + (self.draft - 2 if self.joins else 0)
        ends = self.rows.lengths[:, None] - 1  # (unfinished, 1)
        steps_back = torch.arange(1 - seq, 1, device=ends.device)  # -(seq - 1), ..., -1, 0
        return self.window((ends + steps_back).clamp_(min=0))  # where a text is shorter, position 0 repeats
