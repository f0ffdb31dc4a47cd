"""The path to one horizon's logits as one stack of layers, which TransformerLens' own tools can read and patch.

Concept: `transformer_lens.patching` and `transformer_lens.head_detector` count layers from 0 and look for "blocks.0",
"blocks.1", ... In a `Stack` the trunk's layers come first, then those of the prediction heads on the path to the chosen
horizon. The tools therefore also see the attention heads inside the prediction heads.

Intuition: results are indexed by the layer's place in the stack. In a model with a trunk of two layers and parallel
heads, a high score in row 2 of a table for horizon 3 belongs to the layer of prediction head 3.

Left out: tools that read weights (direct paths).
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.ActivationCache import ActivationCache
from transformer_lens.config import TransformerLensConfig
from transformer_lens.HookedRootModule import HookedRootModule

from mtp_lab.interp.hooks import layer_names
from mtp_lab.model.layers import NORM_EPS
from mtp_lab.model.transformer import MTPTransformer


class Stack(HookedRootModule):
    """The trunk and the prediction heads of one horizon: "blocks.0" to "blocks.L-1" the trunk, then the heads.

    With parallel heads the last layer is that of the chosen head. Where heads read one another (causal, anticausal,
    sequential) their layers follow in running order. A linear head is no layer of the stack. `layer_names` has the
    model's own name of each layer. The stack computes with the model's weights, not with copies. Its hook points are
    its own, so hooks on the stack do not run in the model. It is in evaluation mode.

    Two things differ from a plain transformer. With attention_only there is no resid_mid and no mlp_out to patch. The
    layer of a sequential head reads the layer before it joined with an embedding.

    Args:
        horizon: the prediction head whose logits the stack returns.
        encode: text -> ids, needed if `to_tokens` is to accept text.

    Raises:
        ValueError: if the model has no head of that horizon.

    Example:
        >>> from transformer_lens.head_detector import detect_head
        >>> from mtp_lab.interp.handmade import induction_model
        >>> stack = Stack(induction_model(), horizon=2)
        >>> stack.layer_names
        ('blocks.0', 'heads.2')
        >>> tokens = torch.tensor([[0, 5, 7, 3, 5, 7, 3]])
        >>> logits, cache = stack.run_with_cache(tokens)
        >>> cache["pattern", 1].shape  # heads.2.attn.hook_pattern: (batch, heads, seq, keys)
        torch.Size([1, 4, 7, 7])
        >>> detect_head(stack, list(tokens), "previous_token_head").shape  # (layers, heads)
        torch.Size([2, 4])
    """

    def __init__(self, model: MTPTransformer, horizon: int = 1, encode: Callable[[str], Sequence[int]] | None = None):
        super().__init__()
        self.path = model.config.path(horizon)
        shared = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
        names = layer_names(model, horizon)
        self.layer_names = tuple(names[: len(model.blocks)] if model.config.head_kind == "linear" else names)
        self.blocks = nn.ModuleList([shared.get_submodule(name) for name in self.layer_names])
        self.hook_embed = shared.hook_embed
        self.model = shared  # last: setup() names each hook point by where it meets it first
        self._encode = encode
        self.cfg = _lens_config(model, len(self.blocks))
        self.setup()
        self.eval()

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Logits of the chosen horizon: (batch, seq) ids and, for packed rows, documents -> (batch, seq, vocab)."""
        context = self.model.context(tokens, documents)
        latent = self.model.trunk(tokens, context)  # (batch, seq, d_model)
        for horizon in self.path:
            latent = self.model.head(horizon, latent, tokens, context)
        return self.model.unembedded(latent)

    def run_with_cache(
        self, *args: Any, remove_batch_dim: bool = False, **kwargs: Any
    ) -> tuple[Tensor, ActivationCache]:
        """Logits and activations as from HookedRootModule, with short names: cache["resid_pre", 0]."""
        logits, cache = super().run_with_cache(*args, remove_batch_dim=remove_batch_dim, **kwargs)
        return logits, ActivationCache(cache, self, has_batch_dim=not remove_batch_dim)

    def to_tokens(self, text: Tensor | str | list[Tensor | str]) -> Tensor:
        """(batch, seq) ids from ids, (seq,) or (batch, seq), from text, or from a list of rows of one length.

        `detect_head` takes one row, (seq,), or a list of rows, whose scores it averages; rows must be shorter than
        max_seq. It divides by the attention of all queries, also those without a key to find. A perfect induction head
        therefore scores about 1/2 on tokens that come twice, and 2/3 where they come three times.

        Raises:
            ValueError: for text without `encode`, for other types, and for rows of several lengths.
        """
        if isinstance(text, list):
            rows = [self.to_tokens(row) for row in text]
            lengths = sorted({row.shape[1] for row in rows})
            if len(lengths) != 1:
                raise ValueError(f"a list must hold rows of one length, got lengths {lengths}; give them one by one")
            return torch.cat(rows)
        if isinstance(text, str) and self._encode is not None:
            text = torch.tensor(self._encode(text), device=self.cfg.device)
        if not isinstance(text, Tensor) or text.ndim not in (1, 2):
            shape = f" of shape {tuple(text.shape)}" if isinstance(text, Tensor) else ""
            raise ValueError(
                f"tokens are a tensor of ids, (seq,) or (batch, seq), got {type(text).__name__}{shape}; "
                "for text give Stack(..., encode=...)"
            )
        return text if text.ndim == 2 else text[None]


def _lens_config(model: MTPTransformer, layers: int) -> TransformerLensConfig:
    """The configuration that TransformerLens' tools read."""
    config, weight = model.config, model.unembed.weight
    return TransformerLensConfig(
        d_model=config.d_model,
        d_head=config.d_head,
        n_layers=layers,
        n_ctx=config.max_seq,
        n_heads=config.n_attention_heads,
        d_mlp=config.mlp_width,
        d_vocab=config.vocab_size,
        device=str(weight.device),
        default_prepend_bos=False,
        positional_embedding_type="rotary" if config.position == "rotary" else "relative_positional_bias",
        attn_only=config.attention_only,
        gated_mlp=not config.attention_only,
        uses_rms_norm=True,
        eps=NORM_EPS,
        act_fn="silu",
        normalization_type="RMSPre",
        final_rms=True,
        dtype=weight.dtype,
    )
