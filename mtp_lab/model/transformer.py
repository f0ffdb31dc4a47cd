"""The model of Gloeckle et al. 2024: a shared trunk f_s, n heads f_h1..f_hn, one unembedding f_u (section 2).

P(x_{t+i} | x_{<=t}) = softmax(f_u(f_hi(f_s(x_{<=t})))), with the head kinds of appendix B and of DeepSeek-V3. The
number of parameters is the same for every n by construction: each head takes one layer from the trunk. The model is a
TransformerLens HookedRootModule, so `run_with_cache` and `run_with_hooks` work on trunk ("blocks.0...") and heads
("heads.1...", numbered by horizon). Losses are in `loss`, decoding in `mtp_lab.decoding`.
"""

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.HookedRootModule import HookedRootModule

from mtp_lab.config import ModelConfig
from mtp_lab.model.layers import Block, Context, RMSNorm, frequencies

INIT_STD = 0.02


class LinearHead(nn.Module):
    """A head of one matrix that adds to the residual stream: z + W z (the linear heads of Table S4)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)
        self.hook_resid_pre, self.hook_resid_post = HookPoint(), HookPoint()  # (batch, seq, d_model)

    def forward(self, x: Tensor, context: Context) -> Tensor:  # (batch, seq, d_model) -> same
        x = self.hook_resid_pre(x)
        return self.hook_resid_post(x + self.out(x))


class Join(nn.Module):
    """The input of a DeepSeek-V3 head: M [norm(h); norm(embedding of x_{t+i-1})] (arXiv 2412.19437, eq. 21)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm()
        self.out = nn.Linear(2 * config.d_model, config.d_model, bias=False)

    def forward(self, latent: Tensor, embedded: Tensor) -> Tensor:  # both (batch, seq, d_model) -> same
        return self.out(torch.cat((self.norm(latent), self.norm(embedded)), dim=-1))


class MTPTransformer(HookedRootModule):
    """A decoder that predicts `config.n_future` tokens at every position.

    Example:
        >>> model, tokens = MTPTransformer(ModelConfig(n_future=4)), torch.randint(0, 257, (2, 16))
        >>> model(tokens).shape  # next-token logits: (batch, seq, vocab)
        torch.Size([2, 16, 257])
        >>> model.all_logits(tokens).shape  # (n_future, batch, seq, vocab)
        torch.Size([4, 2, 16, 257])
        >>> logits, activations = model.run_with_cache(tokens, all_heads=True)
        >>> activations["heads.2.attn.hook_pattern"].shape  # (batch, attention heads, seq, seq)
        torch.Size([2, 4, 16, 16])
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.hook_embed = HookPoint()  # (batch, seq, d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.trunk_depth))
        self.heads = nn.ModuleDict(
            {str(i): LinearHead(config) if config.head_kind == "linear" else Block(config) for i in config.parents}
        )
        with_join = list(config.parents)[1:] if config.head_kind == "sequential" else []
        self.joins = nn.ModuleDict({str(i): Join(config) for i in with_join})
        self.norm = RMSNorm()
        self.unembed = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self._initialise()
        self.setup()

    def _initialise(self) -> None:
        """GPT-2's: normal weights, with a smaller deviation where a layer writes to the residual stream."""
        depth = max(1, self.config.trunk_depth + self.config.n_future)
        for name, weight in self.named_parameters():
            if weight.ndim == 2 and not name.endswith("bias"):
                writes = name.endswith(("attn.out.weight", "mlp.out.weight"))
                nn.init.normal_(weight, std=INIT_STD / (2 * depth) ** 0.5 if writes else INIT_STD)

    # --- forward -----------------------------------------------------------------------------------------------

    def forward(self, tokens: Tensor, documents: Tensor | None = None, all_heads: bool = False) -> Tensor:
        """Next-token logits, or the logits of every head.

        Args:
            tokens: (batch, seq) ids.
            documents: (batch, seq) document of each token; attention stays inside documents (packed rows).
            all_heads: run every head. `run_with_cache` and `run_with_hooks` need it for heads beyond the first.

        Returns:
            (batch, seq, vocab), or (n_future, batch, seq, vocab) with all_heads.

        Raises:
            ValueError: if the sequence is longer than max_seq.
        """
        context, horizons = self.context(tokens, documents), self.config.n_future if all_heads else 1
        latents = self.run_heads(self.trunk(tokens, context), tokens, context, horizons)
        if not all_heads:
            return self.unembedded(latents[1])
        return torch.stack([self.unembedded(latents[i]) for i in self.config.parents])

    def all_logits(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Logits of every horizon: (n_future, batch, seq, vocab); the same as forward with all_heads=True."""
        return self(tokens, documents, all_heads=True)

    def trunk(self, tokens: Tensor, context: Context) -> Tensor:
        """f_s: (batch, seq) -> (batch, seq, d_model)."""
        x = self.hook_embed(self.embed(tokens))
        for block in self.blocks:
            x = block(x, context)
        return x

    def run_heads(
        self, trunk: Tensor, tokens: Tensor, context: Context, horizons: int | None = None
    ) -> dict[int, Tensor]:
        """Latents (batch, seq, d_model) of heads 1..horizons (default all) and of the heads and trunk (0) they read."""
        parents, latents = self.config.parents, {0: trunk}

        def run(i: int) -> Tensor:
            if i not in latents:
                latents[i] = self.head(i, run(parents[i]), tokens, context)
            return latents[i]

        for i in range(1, (horizons or self.config.n_future) + 1):
            run(i)
        return latents

    def head(self, horizon: int, latent: Tensor, tokens: Tensor, context: Context) -> Tensor:
        """f_hi on top of its parent's latent: (batch, seq, d_model) -> same."""
        stop_gradient = horizon in self.config.stop_gradient
        latent = latent.detach() if stop_gradient else latent
        if str(horizon) in self.joins:
            # x_{t+i-1}; roll wraps around only at positions without a target
            ahead = self.embed(tokens.roll(1 - horizon, dims=1))
            latent = self.joins[str(horizon)](latent, ahead.detach() if stop_gradient else ahead)
        return self.heads[str(horizon)](latent, context)

    def unembedded(self, latent: Tensor) -> Tensor:
        """f_u: final norm and unembedding, shared by all heads; (..., d_model) -> (..., vocab)."""
        return self.unembed(self.norm(latent))

    def parameters_of_head(self, horizon: int) -> list[nn.Parameter]:
        """Parameters that head `horizon` computes with, except the unembedding; sequential heads use the embedding."""
        parameters = list(self.heads[str(horizon)].parameters())
        if str(horizon) in self.joins:
            parameters += [*self.joins[str(horizon)].parameters(), self.embed.weight]
        return parameters

    # --- mask and positions ------------------------------------------------------------------------------------

    def context(self, tokens: Tensor, documents: Tensor | None = None) -> Context:
        """Mask and positions for (batch, seq) tokens; see Context for shapes."""
        config, seq, device = self.config, tokens.shape[1], tokens.device
        if seq > config.max_seq:
            raise ValueError(f"{seq} tokens are longer than max_seq={config.max_seq}; cut them or raise max_seq")
        if documents is not None and documents.shape != tokens.shape:
            raise ValueError(f"documents {tuple(documents.shape)} must have the shape of tokens {tuple(tokens.shape)}")
        positions = torch.arange(seq, device=device)[None]
        distance = positions[:, :, None] - positions[:, None, :]  # (1, seq, keys) from a query back to a key
        hidden = distance < 0
        if documents is not None:
            hidden = hidden | (documents[:, :, None] != documents[:, None, :])
        mask = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))
        rotary = config.position == "rotary"
        return Context(
            mask=mask[:, None],
            causal_only=documents is None,
            rotation=self._rotation(positions) if rotary else None,
            offsets=None if rotary else distance.clamp(0, config.relative_offsets - 1),
            opens=self._opens(positions, documents) if config.smeared_keys else None,
        )

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and signed sin of RoPE's angles in the half-split layout: (batch or 1, 1, seq, d_head) each."""
        angles = positions[:, None, :, None] * frequencies(self.config, self.unembed.weight)
        return torch.cat((angles.cos(), angles.cos()), -1), torch.cat((-angles.sin(), angles.sin()), -1)

    @staticmethod
    def _opens(positions: Tensor, documents: Tensor | None) -> Tensor:
        """Which tokens open a document, and so are not mixed with the key before: (batch or 1, 1, seq, 1)."""
        opens = positions == 0
        if documents is not None:
            opens = opens | (documents != documents.roll(1, dims=1))
        return opens[:, None, :, None]
