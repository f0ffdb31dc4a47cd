"""The parts of one transformer layer: norm, positions, attention with a KV cache, gated MLP.

Llama's layer (pre-norm, RoPE, gated MLP, no biases) with a TransformerLens HookPoint at every intermediate. Norms have
no gain of their own: it would fold into the next matrix, as TransformerLens does before any analysis. Attention is
plain matmul and softmax on CPU, where that is two to three times as fast in bf16 as PyTorch's fused kernel, and the
fused kernel elsewhere. How layers make a trunk and heads is in model.py.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from mtp_lab.config import ModelConfig

NORM_EPS = 1e-5
QUERY_BLOCK = 128  # queries a block of attention on CPU: keys to the right of a block are never computed


class Cache:
    """Keys and values of past tokens for every layer, with a length per row.

    Set `lengths` to crop rows, each to its own length: what lies beyond is never attended to and gets overwritten.
    The heads 1..n_future are kept in step, and a model that is given this cache runs exactly those.

    Args:
        layers: number of layers, trunk and heads together.
        shape: (batch, attention heads, capacity, d_head).
        n_future: heads kept.
        smeared: keeps the keys before smearing as well.
        like: a tensor of the dtype and device wanted.
    """

    def __init__(
        self, layers: int, shape: tuple[int, int, int, int], n_future: int, smeared: bool, like: Tensor
    ) -> None:
        self.n_future, self.capacity = n_future, shape[2]
        self.lengths = torch.zeros(shape[0], dtype=torch.long, device=like.device)
        self.keys, self.values = ([like.new_zeros(shape) for _ in range(layers)] for _ in range(2))
        self.unsmeared = [like.new_zeros(shape) for _ in range(layers)] if smeared else None

    def positions(self, new: int) -> Tensor:
        """Where the next `new` tokens of each row go: (batch, new).

        Raises:
            ValueError: if a row has no room for them.
        """
        longest = int(self.lengths.max())
        if longest + new > self.capacity:
            raise ValueError(f"the cache has room for {self.capacity} tokens a row; {longest} + {new} do not fit")
        return self.lengths[:, None] + torch.arange(new, device=self.lengths.device)


@dataclass(frozen=True)
class Context:
    """What the layers of one forward share."""

    mask: Tensor  # (batch or 1, 1, seq, keys) additive: 0, or -inf where a query must not look
    causal_only: bool  # no documents and no cache: the mask is the plain triangle
    rotation: tuple[Tensor, Tensor] | None  # cos, signed sin: (batch or 1, 1, seq, d_head); rotary positions
    offsets: Tensor | None  # (batch or 1, seq, keys) from a query back to a key, clipped; relative positions
    opens: Tensor | None  # (batch or 1, 1, seq, 1) true where a token opens a document; smeared keys
    positions: Tensor | None  # (batch, seq) slots in the cache
    cache: Cache | None


class RMSNorm(nn.Module):
    """x / rms(x) over the last dimension (Zhang & Sennrich 2019), in the precision of x."""

    def forward(self, x: Tensor) -> Tensor:  # (..., width) -> same
        return F.rms_norm(x, x.shape[-1:], eps=NORM_EPS)


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """RoPE (Su et al. 2021) in Llama's half-split layout; x: (batch, heads, seq, d_head)."""
    return x * cos.to(x.dtype) + x.roll(x.shape[-1] // 2, dims=-1) * signed_sin.to(x.dtype)


class Attention(nn.Module):
    """Causal multi-head attention; hook points as in TransformerLens, q and k before the rotation."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads = layer, config.n_attention_heads  # layer: this layer's slot in a Cache
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)
        relative = config.position == "relative"
        self.bias = nn.Parameter(torch.zeros(self.heads, config.relative_offsets)) if relative else None
        self.smear = nn.Parameter(torch.zeros(self.heads, 1, 1)) if config.smeared_keys else None
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()  # (batch, seq, heads, d_head)
        self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()  # (batch, heads, seq, keys)
        self.hook_z = HookPoint()  # (batch, seq, heads, d_head)

    def forward(self, x: Tensor, context: Context) -> Tensor:  # (batch, seq, d_model) -> same
        q, k, v = rearrange(self.qkv(x), "b s (qkv h d) -> qkv b s h d", qkv=3, h=self.heads)
        q, k, v = (rearrange(t, "b s h d -> b h s d") for t in (self.hook_q(q), self.hook_k(k), self.hook_v(v)))
        if self.smear is not None:
            k = self._smeared(k, context)
        if context.rotation is not None:
            q, k = rotate(q, *context.rotation), rotate(k, *context.rotation)
        if context.cache is not None:
            k = self._remember(context.cache.keys, k, context)
            v = self._remember(context.cache.values, v, context)
        z = rearrange(self._mix(q, k, v, context), "b h s d -> b s h d")
        return self.out(rearrange(self.hook_z(z), "b s h d -> b s (h d)"))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """softmax(q k^T / sqrt(d_head) + mask) v."""
        mask = context.mask.to(q.dtype)
        if self.bias is not None:
            mask = mask + rearrange(self.bias[:, context.offsets], "h b s k -> b h s k").to(q.dtype)
        watched = self.hook_attn_scores._forward_hooks or self.hook_pattern._forward_hooks
        if q.device.type != "cpu" and not watched:
            plain = context.causal_only and self.bias is None
            return F.scaled_dot_product_attention(q, k, v, attn_mask=None if plain else mask, is_causal=plain)
        q, k = q * q.shape[-1] ** -0.5, k.transpose(-1, -2)
        seq = q.shape[2]
        block = seq if watched or context.cache is not None else QUERY_BLOCK
        z = []
        for start in range(0, seq, block):
            end = min(start + block, seq)
            keys = k.shape[-1] if block == seq else end
            scores = q[:, :, start:end] @ k[..., :keys] + mask[:, :, start:end, :keys]  # (batch, heads, block, keys)
            pattern = self.hook_attn_scores(scores).softmax(dim=-1)
            z.append(self.hook_pattern(pattern) @ v[:, :, :keys])
        return z[0] if len(z) == 1 else torch.cat(z, dim=2)  # (batch, heads, seq, d_head)

    def _smeared(self, k: Tensor, context: Context) -> Tensor:
        """k_t <- s k_t + (1 - s) k_{t-1}, s a learned share per attention head (Olsson et al. 2022, argument 2)."""
        previous = k.roll(1, dims=2)
        if context.cache is not None:
            held = self._remember(context.cache.unsmeared, k, context)
            before = (context.positions - 1).clamp(min=0)[:, None, :, None]  # (batch, 1, seq, 1)
            previous = held.gather(2, before.expand(-1, self.heads, -1, k.shape[-1]))
        share = torch.sigmoid(self.smear).to(k.dtype)
        return torch.where(context.opens, k, share * k + (1 - share) * previous)

    def _remember(self, slots: list[Tensor], new: Tensor, context: Context) -> Tensor:
        """Writes (batch, heads, seq, d_head) at the rows' positions; returns all that some row holds."""
        held, positions = slots[self.layer], context.positions
        held.scatter_(2, positions[:, None, :, None].expand_as(new), new.to(held.dtype))
        return held[:, :, : context.mask.shape[-1]].to(new.dtype)


class MLP(nn.Module):
    """Gated MLP: W_out(silu(W_gate x) * W_up x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.mlp_width, bias=False)
        self.up = nn.Linear(config.d_model, config.mlp_width, bias=False)
        self.out = nn.Linear(config.mlp_width, config.d_model, bias=False)
        self.hook_post = HookPoint()  # (batch, seq, d_mlp)

    def forward(self, x: Tensor) -> Tensor:  # (batch, seq, d_model) -> same
        return self.out(self.hook_post(F.silu(self.gate(x)) * self.up(x)))


class Block(nn.Module):
    """One transformer layer, pre-norm: attention, then MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.norm = RMSNorm()
        self.attn = Attention(config, layer)
        self.mlp = None if config.attention_only else MLP(config)
        self.hook_resid_pre, self.hook_resid_mid, self.hook_resid_post = HookPoint(), HookPoint(), HookPoint()
        self.hook_attn_out, self.hook_mlp_out = HookPoint(), HookPoint()  # all (batch, seq, d_model)

    def forward(self, x: Tensor, context: Context) -> Tensor:  # (batch, seq, d_model) -> same
        x = self.hook_resid_pre(x)
        x = x + self.hook_attn_out(self.attn(self.norm(x), context))
        if self.mlp is not None:
            x = self.hook_resid_mid(x)
            x = x + self.hook_mlp_out(self.mlp(self.norm(x)))
        return self.hook_resid_post(x)
