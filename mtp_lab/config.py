"""What a model is, in one frozen dataclass, and the sizes people know by name.

Configs are plain data: they validate themselves at construction, turn into canonical JSON (sorted keys, no
defaults left out) and hash it, so that a config is the identity of a trained run. Nothing here needs torch.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

HeadKind = Literal["parallel", "causal", "anticausal", "linear", "sequential"]
Position = Literal["rotary", "relative"]

SIZES: dict[str, dict[str, int]] = {
    # Gloeckle et al. 2024, section 4.1: d_model / layers / attention heads, named by non-embedding parameters.
    "1M": dict(d_model=128, n_layers=5, n_attention_heads=4),
    "3M": dict(d_model=256, n_layers=4, n_attention_heads=8),
    "10M": dict(d_model=384, n_layers=6, n_attention_heads=8),
    "30M": dict(d_model=512, n_layers=10, n_attention_heads=8),
    "100M": dict(d_model=768, n_layers=14, n_attention_heads=12),
    "300M": dict(d_model=1024, n_layers=25, n_attention_heads=16),
    "1B": dict(d_model=1536, n_layers=36, n_attention_heads=24),
    # Ours: minutes on two CPU cores.
    "tiny": dict(d_model=32, n_layers=4, n_attention_heads=2),
    "small": dict(d_model=64, n_layers=6, n_attention_heads=4),
    "base": dict(d_model=128, n_layers=6, n_attention_heads=4),
    "deep": dict(d_model=128, n_layers=10, n_attention_heads=4),
}


def check_choice(name: str, value: object, allowed: object) -> None:
    """Raise ValueError unless `value` is one of the members of the Literal type `allowed`."""
    if value not in get_args(allowed):
        raise ValueError(f"{name}={value!r} is not known; use one of {', '.join(map(repr, get_args(allowed)))}")


def check_positive(**values: int) -> None:
    """Raise ValueError for the first value that is not an integer of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r} must be an integer of at least 1")


@dataclass(frozen=True)
class ModelConfig:
    """A decoder of one shared trunk and `n_future` heads (Gloeckle et al. 2024, section 2).

    `n_layers` is the whole budget: with heads of one transformer layer each, the trunk has `n_layers - n_future`
    layers, so that the number of parameters is the same for every n ("compute-matched"). The path of the next-token
    head is then `n_layers - n_future + 1` layers deep; fix `trunk_layers` instead to compare at equal depth
    ("depth-matched").

    Raises:
        ValueError: at construction, naming the field, its value and what is allowed.
    """

    vocab_size: int = 257
    """Number of token ids (257: bytes and a document separator)."""
    d_model: int = 128
    """Width of the residual stream."""
    n_attention_heads: int = 4
    """Attention heads a layer; divides d_model."""
    n_layers: int = 6
    """Transformer layers in all: the trunk's and one for each head."""
    n_future: int = 1
    """Number n of future tokens predicted, one head each."""
    head_kind: HeadKind = "parallel"
    """parallel (the paper's), causal, anticausal, linear (one matrix a head) or sequential (DeepSeek-V3)."""
    trunk_layers: int | None = None
    """Fixes the depth of the trunk (depth-matched comparison); by default it follows from n_layers."""
    max_seq: int = 512
    """Longest sequence, in tokens."""
    d_mlp: int | None = None
    """Width of the gated MLP; by default 8/3 of d_model, rounded up to a multiple of 32."""
    attention_only: bool = False
    """Leaves the MLPs out (the two-layer circuits of Olsson et al. 2022)."""
    position: Position = "rotary"
    """rotary (RoPE) or relative (a learned bias for each attention head and offset)."""
    rope_base: float = 10_000.0
    """Base of the rotary wavelengths."""
    relative_offsets: int = 16
    """Offsets with a bias of their own under position="relative"; longer ones share the last."""
    smeared_keys: bool = False
    """Mixes each key with the one before it (Olsson et al. 2022, argument 2)."""
    stop_gradient: tuple[int, ...] = ()
    """Horizons (1..n) that read their input detached: they train, but do not shape what they stand on."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_gradient", tuple(sorted(set(self.stop_gradient))))
        check_positive(vocab_size=self.vocab_size, d_model=self.d_model, n_attention_heads=self.n_attention_heads,
                       n_layers=self.n_layers, n_future=self.n_future, max_seq=self.max_seq,
                       relative_offsets=self.relative_offsets)
        check_choice("head_kind", self.head_kind, HeadKind)
        check_choice("position", self.position, Position)
        if self.d_model % self.n_attention_heads:
            raise ValueError(f"d_model={self.d_model} must be a multiple of n_attention_heads={self.n_attention_heads}")
        if self.position == "rotary" and self.d_head % 2:
            raise ValueError(f"d_model / n_attention_heads = {self.d_head} must be even for rotary positions")
        if self.rope_base <= 1:
            raise ValueError(f"rope_base={self.rope_base} must be above 1")
        if self.d_mlp is not None:
            check_positive(d_mlp=self.d_mlp)
        if self.trunk_layers is not None and (isinstance(self.trunk_layers, bool) or self.trunk_layers < 0):
            raise ValueError(f"trunk_layers={self.trunk_layers!r} must be an integer of at least 0")
        if self.trunk_layers is None and self.head_kind != "linear" and self.n_layers < self.n_future:
            raise ValueError(
                f"n_layers={self.n_layers} is less than n_future={self.n_future}: each head takes one layer of the "
                f"budget; raise n_layers to at least {self.n_future}, or fix trunk_layers"
            )
        if not set(self.stop_gradient) <= set(range(1, self.n_future + 1)):
            raise ValueError(f"stop_gradient={self.stop_gradient} must name horizons from 1 to n_future={self.n_future}")

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_attention_heads

    @property
    def mlp_width(self) -> int:
        return self.d_mlp or -(-8 * self.d_model // 3 // 32) * 32

    @property
    def trunk_depth(self) -> int:
        """Layers in the trunk. Linear heads are matrices, not layers, so they leave the trunk whole."""
        if self.trunk_layers is not None:
            return self.trunk_layers
        return self.n_layers if self.head_kind == "linear" else self.n_layers - self.n_future

    @property
    def parents(self) -> dict[int, int]:
        """What each horizon's head reads: 0 is the trunk, i > 0 the output of head i (the paper's appendix B).

        parallel and linear: all read the trunk. causal and sequential: head i reads head i-1.
        anticausal: head i reads head i+1, and head n the trunk.
        """
        horizons = range(1, self.n_future + 1)
        if self.head_kind in ("causal", "sequential"):
            return {i: i - 1 for i in horizons}
        if self.head_kind == "anticausal":
            return {i: (i + 1) % (self.n_future + 1) for i in horizons}
        return dict.fromkeys(horizons, 0)

    @classmethod
    def of_size(cls, size: str, **changes: Any) -> "ModelConfig":
        """The config of a named size, e.g. `ModelConfig.of_size("1M", n_future=2)`.

        Raises:
            ValueError: if the size is not one of SIZES.
        """
        if size not in SIZES:
            raise ValueError(f"size={size!r} is not known; use one of {', '.join(SIZES)}")
        return cls(**{**SIZES[size], **changes})


def canonical_json(config: Any) -> str:
    """A dataclass as JSON with sorted keys: equal configs give equal strings, on every machine."""
    return json.dumps(asdict(config), sort_keys=True, separators=(",", ":"))


def config_hash(config: Any, length: int = 10) -> str:
    """The first hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()[:length]


def model_config(fields: Mapping[str, Any]) -> ModelConfig:
    """A ModelConfig from the mapping that `dataclasses.asdict` (or JSON) made of one."""
    return ModelConfig(**{**fields, "stop_gradient": tuple(fields.get("stop_gradient", ()))})
