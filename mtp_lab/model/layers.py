"""The parts of one transformer layer: norm, positions, attention, gated MLP.

This is Llama's layer (pre-norm, RoPE, gated MLP, no biases) with a TransformerLens HookPoint at every intermediate.
Norms have no gain: TransformerLens folds gains into the next matrix before any analysis. On CPU, attention is plain
matmul and softmax, which in bf16 is two to three times as fast as PyTorch's fused kernel. On other devices it is the
fused kernel. `transformer` makes trunk and heads of layers; decoding with a cache is in `mtp_lab.decoding`.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from mtp_lab.config import ModelConfig

NORM_EPS = 1e-5
QUERY_BLOCK = 128  # queries in a block of attention on CPU; scores of keys after the block are not computed


@dataclass(frozen=True)
class Context:
    """Mask and positions, which all layers of one forward pass share."""

    mask: Tensor  # (batch or 1, 1, seq, keys) additive: 0, or -inf where a query must not attend
    causal_only: bool  # no documents: the mask is the causal mask alone
    rotation: tuple[Tensor, Tensor] | None  # for RoPE: cos and signed sin, (batch or 1, 1, seq, d_head) each
    offsets: Tensor | None  # for relative bias: (batch or 1, seq, keys) from a query back to a key, clipped
    opens: Tensor | None  # for smeared keys: (batch or 1, 1, seq, 1) true where a token opens a document


class RMSNorm(nn.Module):
    """x / rms(x) over the last dimension (Zhang & Sennrich 2019), in the precision of x."""

    def forward(self, x: Tensor) -> Tensor:  # (..., width) -> same
        return _Normalized.apply(x) if x.device.type == "cpu" else F.rms_norm(x, x.shape[-1:], eps=NORM_EPS)


class _Normalized(torch.autograd.Function):
    """F.rms_norm with half as many passes over memory. PyTorch fuses its own on GPUs only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = norm.square_().div_(x.shape[-1]).add_(NORM_EPS).rsqrt_()  # (..., 1)
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        y, inverse = ctx.saved_tensors
        radial = (gradient * y).mean(dim=-1, keepdim=True)  # a change along x leaves y as it is
        return torch.addcmul(gradient, y, radial, value=-1).mul_(inverse)


def frequencies(config: ModelConfig, like: Tensor) -> Tensor:
    """RoPE's angles per position, one for each pair: (d_head / 2,), in fp32 at least, on the device of `like`."""
    half, precision = config.d_head // 2, torch.promote_types(like.dtype, torch.float32)
    return config.rope_base ** (-torch.arange(half, dtype=precision, device=like.device) / half)


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """RoPE (Su et al. 2021) in Llama's half-split layout; x: (batch, heads, seq, d_head)."""
    return x * cos.to(x.dtype) + x.roll(x.shape[-1] // 2, dims=-1) * signed_sin.to(x.dtype)


class Attention(nn.Module):
    """Causal multi-head attention; hook points as in TransformerLens, q and k before the rotation."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.myopic = config.n_attention_heads, config.myopic
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
        z = rearrange(self._mix(q, k, v, context), "b h s d -> b s h d")
        return self.out(rearrange(self.hook_z(z), "b s h d -> b s (h d)"))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """softmax(q k^T / sqrt(d_head) + mask) v."""
        mask = context.mask.to(q.dtype)
        if self.bias is not None:
            mask = mask + rearrange(self.bias[:, context.offsets], "h b s k -> b h s k").to(q.dtype)
        if self.myopic:
            return self._mix_myopic(q, k, v, mask)
        hook_points = (self.hook_attn_scores, self.hook_pattern)
        hooked = any(point._forward_hooks or point._backward_hooks for point in hook_points)
        if q.device.type != "cpu" and not hooked:
            is_causal = context.causal_only and self.bias is None
            return F.scaled_dot_product_attention(q, k, v, attn_mask=None if is_causal else mask, is_causal=is_causal)
        q, k = q * q.shape[-1] ** -0.5, k.transpose(-1, -2)
        seq = q.shape[2]
        block = seq if hooked else QUERY_BLOCK  # hooks get the whole pattern
        z = []
        for start in range(0, seq, block):
            end = min(start + block, seq)
            keys = k.shape[-1] if block == seq else end
            scores = q[:, :, start:end] @ k[..., :keys] + mask[:, :, start:end, :keys]  # (batch, heads, block, keys)
            pattern = self.hook_attn_scores(scores).softmax(dim=-1)
            z.append(self.hook_pattern(pattern) @ v[:, :, :keys])
        return z[0] if len(z) == 1 else torch.cat(z, dim=2)  # (batch, heads, seq, d_head)

    def _mix_myopic(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """The same values; gradients reach only the key and value at the query's own position (Wu et al. 2024)."""
        detached_k, detached_v = k.detach(), v.detach()
        diagonal = (q * (k - detached_k)).sum(-1)  # (batch, heads, seq) zeros that carry the gradient of the diagonal
        scores = (q @ detached_k.mT + torch.diag_embed(diagonal)) * q.shape[-1] ** -0.5 + mask
        pattern = self.hook_pattern(self.hook_attn_scores(scores).softmax(dim=-1))
        return pattern @ detached_v + pattern.diagonal(dim1=-2, dim2=-1)[..., None] * (v - detached_v)

    def _smeared(self, k: Tensor, context: Context) -> Tensor:
        """k_t <- s k_t + (1 - s) k_{t-1}, s a learned share per attention head (Olsson et al. 2022, argument 2)."""
        share = torch.sigmoid(self.smear).to(k.dtype)
        return torch.where(context.opens, k, share * k + (1 - share) * k.roll(1, dims=2))


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

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm()
        self.attn = Attention(config)
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
