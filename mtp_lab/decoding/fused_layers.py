"""The layers of a model laid out for decoding, and the positions they run on.

With one token at a time, a small model spends its time on the number of operations, not on their size. So a norm leaves
its constant factor to the next matrix, a rotation is one complex product, keys and values are copied into their cache
at once, and heads that read the same latents are one layer with more attention heads. `decoder` says which layers there
are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mtp_lab.decoding.rows import Rows
from mtp_lab.model.layers import NORM_EPS, Block
from mtp_lab.model.transformer import LinearHead


class Norm:
    """RMSNorm over the last dimension without its factor sqrt(width), which the next matrix contains."""

    def __init__(self, like: Tensor) -> None:
        self.floor = like.new_tensor((like.shape[-1] * NORM_EPS) ** 0.5)

    def __call__(self, x: Tensor) -> Tensor:
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.floor)


def side_by_side(weights: Sequence[Tensor]) -> Tensor:
    """(out, in) matrices as (count, in, out); a single one as (in, out), which is faster."""
    return torch.stack([weight.t() for weight in weights]) if len(weights) > 1 else weights[0].t().contiguous()


@dataclass(frozen=True)
class Window:
    """The positions that a layer runs on; those of one row are consecutive."""

    positions: Tensor  # (batch, seq)
    slots: Tensor  # (batch * seq,) their slots in a cache of places * capacity positions
    keys: int  # the largest position, plus one
    rotation: Tensor | None  # (batch * seq, 1, d_head / 2) complex; rotary positions
    mask: Tensor | None  # (batch, 1, seq, keys) 0 or -inf; None where one query sees all keys
    offsets: Tensor | None  # (batch, seq, keys) from a query back to a key, clipped; relative positions

    def take_last(self, x: Tensor) -> Tensor:
        """The entries of x at the last position of each row: (batch * seq, ...) -> (batch, ...)."""
        return x.view(*self.positions.shape, *x.shape[1:])[:, -1]

    def last(self) -> "Window":
        """The last position of each row, for queries that are rotated already."""
        sees_all = self.mask is None or len(self.positions) == 1  # one row: its last position sees all keys
        return Window(
            self.positions[:, -1:],
            self.take_last(self.slots),
            self.keys,
            None,
            None if sees_all else self.mask[:, :, -1:],
            None if self.offsets is None else self.offsets[:, -1:],
        )


class LinearLayer:
    """Linear heads, all in one product."""

    def __init__(self, heads: Sequence[LinearHead]) -> None:
        self.out = side_by_side([head.out.weight for head in heads])  # (count,) d_model, d_model

    def allocate(self, rows: Rows) -> None:
        """Nothing to allocate: these heads read no other position."""

    def run(self, x: Tensor, window: Window | None = None) -> Tensor:
        """(positions, d_model) -> (count, positions, d_model), without the first dimension where count is 1."""
        return x + x @ self.out


class Layer:
    """Transformer layers that read the same latents: one layer of the trunk, or several prediction heads.

    Args:
        blocks: layers of the same shape.
        heads: number of attention heads of each.
    """

    def __init__(self, blocks: Sequence[Block], heads: int, rotary: bool) -> None:
        self.count, self.d_model = len(blocks), blocks[0].attn.qkv.in_features
        self.heads, self.d_head = heads * self.count, self.d_model // heads
        self.width = self.count * self.d_model
        weights = [block.attn.qkv.weight.unflatten(0, (3, heads, self.d_head)) for block in blocks]
        qkv = torch.stack(weights, dim=1)  # (3, count, heads, d_head, d_model)
        if rotary:  # puts the two dimensions of a rotated pair next to each other, as a complex number
            paired = qkv.unflatten(3, (2, -1)).transpose(3, 4).flatten(3, 4)
            qkv = torch.cat((paired[:2], qkv[2:]))
        scale = self.d_model**0.5  # the factor that the norm before leaves out
        self.norm = Norm(blocks[0].attn.out.weight)
        self.qkv = scale * qkv.flatten(0, 3).t().contiguous()  # (d_model, 3 * width): q, k, v
        self.out = side_by_side([block.attn.out.weight for block in blocks])  # (count,) d_model, d_model
        self.bias = None if blocks[0].attn.bias is None else torch.cat([block.attn.bias for block in blocks])
        smears = [block.attn.smear for block in blocks if block.attn.smear is not None]
        self.share = torch.sigmoid(torch.cat(smears)).view(-1, 1) if smears else None  # (heads, 1) of a token's own key
        self.up = self.down = None
        if blocks[0].mlp is not None:
            gated = [scale * torch.cat((block.mlp.gate.weight, block.mlp.up.weight)) for block in blocks]
            self.up = side_by_side(gated)  # (count,) d_model, 2 * d_mlp
            self.down = side_by_side([block.mlp.out.weight for block in blocks])  # (count,) d_mlp, d_model

    def allocate(self, rows: Rows) -> None:
        """Empty caches of keys and values for the rows."""
        slots = rows.places * rows.capacity
        self.cache = self.qkv.new_zeros(2, self.heads, slots, self.d_head)  # keys, values
        by_place = self.cache.view(2, self.heads, rows.places, rows.capacity, self.d_head)
        rows.move_along(by_place.movedim(2, 0))
        self.keys_and_values = by_place.transpose(1, 2).unbind()  # two (places, heads, capacity, d_head)
        if self.share is not None:
            self.unsmeared = self.qkv.new_zeros(slots, self.heads, self.d_head)  # keys
            rows.move_along(self.unsmeared.view(rows.places, rows.capacity, self.heads, self.d_head))

    def run(self, x: Tensor, window: Window, last: bool = False) -> Tensor:
        """(batch * seq, d_model) -> (count, batch * seq, d_model), or with last=True (count, batch, d_model).

        Without the first dimension where count is 1. Keys and values of all positions are cached in any case.
        """
        qkv = self.norm(x) @ self.qkv  # (batch * seq, 3 * width)
        if self.share is not None:
            self._smear(qkv[:, self.width : 2 * self.width].view(-1, self.heads, self.d_head), window)
        if window.rotation is not None:  # q and k, as complex numbers
            pairs = qkv[:, : 2 * self.width].view(-1, 2 * self.heads, self.d_head // 2, 2)
            torch.view_as_complex(pairs).mul_(window.rotation)
        kv = qkv[:, self.width :].view(-1, 2, self.heads, self.d_head)
        self.cache.index_copy_(2, window.slots, kv.permute(1, 2, 0, 3))
        q = qkv[:, : self.width]
        if last:
            x, q, window = window.take_last(x), window.take_last(q), window.last()
        z = self._attend(q, window)
        x = torch.baddbmm(x[None], z, self.out) if self.count > 1 else torch.addmm(x, z, self.out)
        if self.up is not None:
            gate, up = (self.norm(x) @ self.up).chunk(2, dim=-1)
            mixed = F.silu(gate).mul_(up)
            x = torch.baddbmm(x, mixed, self.down) if self.count > 1 else torch.addmm(x, mixed, self.down)
        return x

    def _attend(self, q: Tensor, window: Window) -> Tensor:
        """(batch * seq, width) queries -> (count, batch * seq, d_model) values, weighted by attention."""
        batch = len(window.positions)
        k, v = (cache.narrow(0, 0, batch).narrow(2, 0, window.keys) for cache in self.keys_and_values)
        q, mask = q.view(batch, -1, self.heads, self.d_head).transpose(1, 2), window.mask
        if self.bias is not None:
            bias = self.bias[:, window.offsets].transpose(0, 1)  # (batch, heads, seq, keys)
            mask = bias if mask is None else mask + bias
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)  # (batch, seq, heads, d_head)
        if self.count == 1:
            return z.reshape(-1, self.d_model)
        return z.reshape(-1, self.count, self.d_model).transpose(0, 1)

    def _smear(self, k: Tensor, window: Window) -> None:
        """k_t <- s k_t + (1 - s) k_{t-1} in place, as in `layers.Attention`."""
        self.unsmeared.index_copy_(0, window.slots, k)
        is_first = window.positions.flatten() == 0
        previous = self.unsmeared[torch.where(is_first, window.slots, window.slots - 1)]
        k.mul_(self.share).add_((1 - self.share) * previous)
