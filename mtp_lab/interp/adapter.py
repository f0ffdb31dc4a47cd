"""The path to one head's prediction as one stack of layers, which TransformerLens's own tools can read and patch.

`transformer_lens.patching` and `transformer_lens.head_detector` count layers from 0 and look for "blocks.0",
"blocks.1", ...; here the trunk's layers are followed by those of the heads that the chosen horizon goes through, so
that the tools see the attention heads inside the model's heads. Left out: tools that read weights (direct paths).
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.ActivationCache import ActivationCache
from transformer_lens.config import TransformerLensConfig
from transformer_lens.HookedRootModule import HookedRootModule

from mtp_lab.model.layers import NORM_EPS
from mtp_lab.model.transformer import MTPTransformer


class Stack(HookedRootModule):
    """Trunk and the head(s) of one horizon: "blocks.0" to "blocks.L-1" the trunk, "blocks.L", ... the heads.

    With parallel heads the layer of the chosen head is the last; where heads stand on one another (causal, anticausal,
    sequential) their layers follow in the order they run; a linear head is no layer, and only the trunk shows. `sites`
    tells which of the model's own sites each layer is. The stack computes with the model's weights, not with copies of
    them, and has hook points of its own: hooks on one are no hooks on the other. It is in evaluation mode.

    Two things differ from a plain transformer. With attention_only there is no resid_mid and no mlp_out to patch. And
    a sequential head's layer does not read the layer before it as it is, but joined with an embedding.

    Args:
        horizon: the head whose logits the stack returns.
        encode: text -> ids, if `to_tokens` shall take text.

    Raises:
        ValueError: if the model has no head of that horizon.

    Example:
        >>> stack = Stack(model, horizon=2)
        >>> stack.sites
        ('blocks.0', 'heads.2')
        >>> clean_logits, clean = stack.run_with_cache(tokens)
        >>> clean["pattern", 1].shape       # heads.2.attn.hook_pattern: (batch, heads, seq, keys)
        >>> patching.get_act_patch_resid_pre(stack, corrupted, clean, metric).shape     # (layers, seq)
        >>> detect_head(stack, list(tokens), "induction_head").shape                    # (layers, heads)
    """

    def __init__(self, model: MTPTransformer, horizon: int = 1, encode: Callable[[str], Sequence[int]] | None = None):
        super().__init__()
        self.path = model.config.path(horizon)
        shared = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
        linear = model.config.head_kind == "linear"
        in_heads = [] if linear else [str(i) for i in self.path]
        self.sites = (*(f"blocks.{i}" for i in range(len(shared.blocks))), *(f"heads.{i}" for i in in_heads))
        self.blocks = nn.ModuleList([*shared.blocks, *(shared.heads[i] for i in in_heads)])
        self.hook_embed = shared.hook_embed
        self.model = shared  # last: setup() names each hook point by where it meets it first
        self._encode = encode
        self.cfg = _lens_config(model, len(self.blocks))
        self.setup()
        self.eval()

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Logits of the chosen horizon; (batch, seq) ids, and the documents of packed rows -> (batch, seq, vocab)."""
        context = self.model.context(tokens, documents)
        latent = self.model.trunk(tokens, context)  # (batch, seq, d_model)
        for horizon in self.path:
            latent = self.model.head(horizon, latent, tokens, context)
        return self.model.unembedded(latent)

    def run_with_cache(
        self, *args: Any, remove_batch_dim: bool = False, **kwargs: Any
    ) -> tuple[Tensor, ActivationCache]:
        """Logits and activations, as HookedRootModule's, with the short names: cache["resid_pre", 0]."""
        logits, cache = super().run_with_cache(*args, remove_batch_dim=remove_batch_dim, **kwargs)
        return logits, ActivationCache(cache, self, has_batch_dim=not remove_batch_dim)

    def to_tokens(self, text: Tensor | str | list[Tensor | str]) -> Tensor:
        """(batch, seq) ids of ids, (seq,) or (batch, seq), of text, or of a list of rows of one length.

        `detect_head` takes one row, (seq,), or a list of rows, whose scores it averages; rows must be shorter than
        max_seq. It divides by the attention of all queries, those that have nothing to look for included: a
        perfect induction head scores about 1/2 on tokens that come twice, 2/3 where they come three times.

        Raises:
            ValueError: for text without `encode`, for what is neither, and for rows of several lengths.
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
    """What the tools ask a model for."""
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
