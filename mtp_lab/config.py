"""The configs of a model, an optimizer and a training as frozen dataclasses, and named model sizes.

A config is plain data. It validates itself at construction, and the hash of its canonical JSON (mtp_lab.serialization)
is the identity of a trained run. The docstring below a field is also the help text of its command-line option. Nothing
here imports torch.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mtp_lab.serialization import LATER, config_hash, stored_as
from mtp_lab.tasks import BytesTask, Task
from mtp_lab.tasks.base import CAUSE, REST

HeadKind = Literal["parallel", "causal", "anticausal", "linear", "sequential"]
Position = Literal["rotary", "relative"]
OptimizerKind = Literal["adamw", "muon"]
Curriculum = Literal["constant", "forward", "reverse"]
Precision = Literal["auto", "bf16", "fp32"]

NAME = re.compile(r"[A-Za-z0-9._-]+")

SIZES: dict[str, dict[str, int]] = {
    # Gloeckle et al. 2024, section 4.1: d_model / layers / attention heads, named by non-embedding parameters.
    "1M": dict(d_model=128, n_layers=5, n_attention_heads=4),
    "3M": dict(d_model=256, n_layers=4, n_attention_heads=8),
    "10M": dict(d_model=384, n_layers=6, n_attention_heads=8),
    "30M": dict(d_model=512, n_layers=10, n_attention_heads=8),
    "100M": dict(d_model=768, n_layers=14, n_attention_heads=12),
    "300M": dict(d_model=1024, n_layers=25, n_attention_heads=16),
    "1B": dict(d_model=1536, n_layers=36, n_attention_heads=24),
    # Our own sizes: minutes on two CPU cores.
    "tiny": dict(d_model=32, n_layers=4, n_attention_heads=2),
    "small": dict(d_model=64, n_layers=6, n_attention_heads=4),
    "base": dict(d_model=128, n_layers=6, n_attention_heads=4),
    "deep": dict(d_model=128, n_layers=10, n_attention_heads=4),
}


class RunError(RuntimeError):
    """A run that cannot be trained. The message says why, and what the user can do."""


def check_choice(name: str, value: object, allowed: object) -> None:
    """Raise ValueError unless `value` is one of the members of the Literal type `allowed`."""
    if value not in get_args(allowed):
        raise ValueError(f"{name}={value!r} is not known; use one of {', '.join(map(repr, get_args(allowed)))}")


def check_positive(**values: int) -> None:
    """Raise ValueError for the first value that is not an integer of at least 1."""
    for name, value in values.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}={value!r} must be an integer of at least 1")


def check_bool(config: Any, *names: str) -> None:
    """Raise ValueError for the first of these fields that is not True or False."""
    for name in names:
        if not isinstance(getattr(config, name), bool):
            raise ValueError(f"{name}={getattr(config, name)!r} must be True or False")


def as_floats(config: Any, *names: str) -> None:
    """Convert integers in these fields to floats: 1 and 1.0 are equal, so their JSON and hash must be equal."""
    for name in names:
        if type(getattr(config, name)) is int:
            object.__setattr__(config, name, float(getattr(config, name)))


@dataclass(frozen=True)
class ModelConfig:
    """A transformer decoder with a shared trunk and `n_future` prediction heads (Gloeckle et al. 2024, section 2).

    `n_layers` is the whole budget. A head is one transformer layer, so the trunk has `n_layers - n_future` layers, and
    the number of parameters is the same for every n ("compute-matched"). The path of the next-token head is then
    `n_layers - n_future + 1` layers deep. Fix `trunk_layers` to compare models at equal depth ("depth-matched").

    Raises:
        ValueError: at construction, naming the field, its value and what is allowed.

    Example:
        >>> config = ModelConfig(n_layers=6, n_future=4)
        >>> config.trunk_depth, config.path_depth  # two layers of trunk, and one head on the way to the next token
        (2, 3)
    """

    vocab_size: int = 257
    """Number of token ids (257: bytes and a document separator)."""
    d_model: int = 128
    """Width of the residual stream."""
    n_attention_heads: int = 4
    """Attention heads in each layer; divides d_model."""
    n_layers: int = 6
    """Total transformer layers: the trunk's, and one for each prediction head."""
    n_future: int = 1
    """Number n of future tokens that are predicted, by one head each."""
    head_kind: HeadKind = "parallel"
    """parallel (as in the paper), causal, anticausal, linear (one matrix for each head) or sequential (DeepSeek-V3)."""
    trunk_layers: int | None = None
    """Layers in the trunk (for depth-matched comparisons); by default they follow from n_layers."""
    max_seq: int = 512
    """Longest sequence, in tokens."""
    d_mlp: int | None = None
    """Width of the gated MLP; by default 8/3 of d_model, rounded up to a multiple of 32."""
    attention_only: bool = False
    """Leave the MLPs out (as in the two-layer circuits of Olsson et al. 2022)."""
    position: Position = "rotary"
    """rotary (RoPE) or relative (a learned bias for each attention head and offset)."""
    rope_base: float = 10_000.0
    """Base of the rotary wavelengths."""
    relative_offsets: int = 16
    """Number of offsets with their own bias under position="relative"; longer offsets share the last one."""
    smeared_keys: bool = False
    """Mix each key with the key of the position before it (Olsson et al. 2022, argument 2)."""
    stop_gradient: tuple[int, ...] = ()
    """Horizons (1..n) with stop-gradient heads: the head trains, but sends no gradient to its input."""
    myopic: bool = field(default=False, metadata=LATER)
    """No gradient to keys and values of earlier positions: states serve their own prediction only (Wu et al. 2024)."""

    def __post_init__(self) -> None:
        as_floats(self, "rope_base")
        check_positive(
            vocab_size=self.vocab_size,
            d_model=self.d_model,
            n_attention_heads=self.n_attention_heads,
            n_layers=self.n_layers,
            n_future=self.n_future,
            max_seq=self.max_seq,
            relative_offsets=self.relative_offsets,
        )
        check_choice("head_kind", self.head_kind, HeadKind)
        check_choice("position", self.position, Position)
        if self.d_model % self.n_attention_heads:
            raise ValueError(f"d_model={self.d_model} must be a multiple of n_attention_heads={self.n_attention_heads}")
        if self.position == "rotary" and self.d_head % 2:
            raise ValueError(f"d_model / n_attention_heads = {self.d_head} must be even for rotary positions")
        if not isinstance(self.rope_base, float) or not 1 < self.rope_base < float("inf"):
            raise ValueError(f"rope_base={self.rope_base!r} must be a number above 1")
        check_bool(self, "attention_only", "smeared_keys", "myopic")
        if self.myopic and self.smeared_keys:
            raise ValueError(
                "myopic=True with smeared_keys=True: a smeared key also depends on the position before it; use only one"
            )
        if self.d_mlp is not None:
            check_positive(d_mlp=self.d_mlp)
        if self.trunk_layers is not None and (type(self.trunk_layers) is not int or self.trunk_layers < 0):
            raise ValueError(f"trunk_layers={self.trunk_layers!r} must be an integer of at least 0")
        if self.trunk_layers is None and self.head_kind != "linear" and self.n_layers < self.n_future:
            raise ValueError(
                f"n_layers={self.n_layers} is less than n_future={self.n_future}: each head takes one layer of the "
                f"budget; raise n_layers to at least {self.n_future}, or fix trunk_layers"
            )
        horizons = self.stop_gradient
        if not isinstance(horizons, Collection) or not all(type(i) is int and 0 < i <= self.n_future for i in horizons):
            raise ValueError(f"stop_gradient={horizons!r} must list horizons from 1 to n_future={self.n_future}")
        object.__setattr__(self, "stop_gradient", tuple(sorted(set(horizons))))

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_attention_heads

    @property
    def mlp_width(self) -> int:
        return self.d_mlp or -(-8 * self.d_model // 3 // 32) * 32

    @property
    def trunk_depth(self) -> int:
        """Layers in the trunk. Linear heads are matrices, not layers, so they take no layer of the budget."""
        if self.trunk_layers is not None:
            return self.trunk_layers
        return self.n_layers if self.head_kind == "linear" else self.n_layers - self.n_future

    @property
    def path_depth(self) -> int:
        """Layers on the path to the next-token logits: the trunk's, and those of the heads on the path."""
        return self.trunk_depth + (0 if self.head_kind == "linear" else len(self.path()))

    def path(self, horizon: int = 1) -> tuple[int, ...]:
        """The heads on the path from the trunk to the prediction of `horizon`, in running order; the last is its own.

        Raises:
            ValueError: if there is no head for this horizon.
        """
        parents = self.parents
        if horizon not in parents:
            raise ValueError(f"horizon={horizon} must be from 1 to n_future={self.n_future}")
        heads = [horizon]
        while parents[heads[0]]:
            heads.insert(0, parents[heads[0]])
        return tuple(heads)

    @property
    def parents(self) -> dict[int, int]:
        """The input of each horizon's head: 0 is the trunk, i > 0 the output of head i (the paper's appendix B).

        parallel and linear: all heads read the trunk. causal and sequential: head i reads head i-1.
        anticausal: head i reads head i+1, and head n reads the trunk.
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


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW as in the paper (betas 0.9/0.95, weight decay 0.1, clip 1, warm-up, cosine to 0.03), or Muon for matrices.

    Raises:
        ValueError: at construction, naming the field, its value and what is allowed.

    Example:
        >>> OptimizerConfig(kind="muon", learning_rate=1e-2).warmup
        50
    """

    kind: OptimizerKind = "adamw"
    """adamw, or muon: Muon (Jordan et al. 2024) for the layers' matrices, AdamW for embedding and unembedding."""
    learning_rate: float = 2e-3
    """Peak learning rate (the paper's models: 1e-4 and more; small models need a higher one)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's two moments; Muon's momentum is 0.95."""
    weight_decay: float = 0.1
    """Decoupled weight decay, of matrices only."""
    clip: float = 1.0
    """Largest gradient norm; larger gradients are scaled down to it."""
    warmup: int = 50
    """Steps of linear warm-up of the learning rate."""
    final: float = 0.03
    """Final learning rate of the cosine, as a share of the peak."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(float(beta) for beta in self.betas))
        as_floats(self, "learning_rate", "weight_decay", "clip", "final")
        check_choice("kind", self.kind, OptimizerKind)
        if type(self.warmup) is not int:
            raise ValueError(f"warmup={self.warmup!r} must be a number of steps, an integer")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0 and below 1")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas={self.betas} must be two numbers from 0 to below 1")
        # "not (valid)" instead of "invalid": comparisons with NaN are false
        if not (self.weight_decay >= 0 and self.clip > 0 and self.warmup >= 0 and 0 <= self.final <= 1):
            raise ValueError(
                f"weight_decay={self.weight_decay} and warmup={self.warmup} must not be negative, "
                f"clip={self.clip} must be above 0, final={self.final} from 0 to 1"
            )


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines the outcome of a training, and so the identity of a run.

    Raises:
        ValueError: at construction, naming the field, its value and what is allowed.

    Example:
        >>> config = TrainConfig(task=StoriesTask(), model=ModelConfig(vocab_size=StoriesTask().vocab_size), steps=100)
        >>> config.folder
        'stories/run-...'
    """

    task: Task = field(default_factory=BytesTask)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    name: str = "run"
    """Name of the run, and the start of its folder's name; runs of one name differ by their hash."""
    steps: int = 400
    """Optimizer steps."""
    batch_size: int = 32
    """Rows in each step, over all processes and accumulated parts."""
    accumulate: int = 1
    """Parts that the rows of a step are split into, to save memory; their gradients are summed."""
    horizon_weights: tuple[float, ...] = ()
    """Weight of each horizon in the loss, w_i of Eq. 2; empty: all 1, as in the paper."""
    curriculum: Curriculum = "constant"
    """Horizons over training: constant (all), forward (from 1 to n horizons) or reverse (from n to 1)."""
    precision: Precision = "auto"
    """bf16 (autocast, fp32 weights), fp32, or auto: bf16 if the machine has instructions for it."""
    seed: int = 0
    """Seed of the initial weights and of the order of the data."""
    log_every: int = 20
    """Steps between two rows of the log of training losses."""
    evaluate_every: int = 100
    """Steps between two evaluations on validation rows."""
    evaluate_rows: int = 64
    """Number of validation rows."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""
    init_from: str = ""
    """Finished run (its folder below the runs directory) whose weights training starts from (section 3.6)."""
    snapshot_every: int = field(default=0, metadata=LATER)
    """Steps between two snapshots of the weights, which are kept for analyses over training; 0: no snapshots."""
    label_weights: tuple[tuple[str, float], ...] = field(default=(), metadata=LATER | stored_as("mark_weights"))
    """Weight in the loss by token label; the first listed label that a token has counts, "rest" is for all others."""
    mask_unread_causes: bool = field(default=False, metadata=LATER | stored_as("causes_read"))
    """Ignore a target if the choice that determines it comes after the head's input position."""
    self_distilled_tokens: int = field(default=0, metadata=LATER | stored_as("written"))
    """Last tokens of each row that head 1 (frozen) generates as targets for the other heads; 0: none."""

    def __post_init__(self) -> None:
        weights = tuple(float(w) for w in self.horizon_weights) or (1.0,) * self.model.n_future
        object.__setattr__(self, "horizon_weights", weights)
        check_positive(steps=self.steps, batch_size=self.batch_size, accumulate=self.accumulate)
        check_positive(log_every=self.log_every, evaluate_every=self.evaluate_every, evaluate_rows=self.evaluate_rows)
        check_positive(checkpoint_every=self.checkpoint_every)
        check_choice("curriculum", self.curriculum, Curriculum)
        check_choice("precision", self.precision, Precision)
        if type(self.snapshot_every) is not int or self.snapshot_every < 0:
            raise ValueError(f"snapshot_every={self.snapshot_every!r} must be a number of steps, or 0 for none")
        object.__setattr__(self, "label_weights", tuple((str(label), float(w)) for label, w in self.label_weights))
        self._check_label_weights()
        check_bool(self, "mask_unread_causes")
        if self.mask_unread_causes and CAUSE not in self.task.batch(1, 0, 0).labels:
            raise ValueError(
                f"mask_unread_causes=True needs the token label {CAUSE!r}, which the task {self.task.name} does not "
                "have; use choice_process, or False"
            )
        self._check_self_distillation()
        if not NAME.fullmatch(self.name):
            raise ValueError(f"name={self.name!r} must be letters, digits, '.', '_' or '-': it becomes a folder")
        if len(weights) != self.model.n_future or not all(0 <= w < float("inf") for w in weights) or not any(weights):
            raise ValueError(
                f"horizon_weights={weights} must be n_future={self.model.n_future} numbers, none negative, not all 0"
            )
        if self.curriculum != "constant" and not weights[0]:
            raise ValueError(
                f"horizon_weights={weights} with curriculum={self.curriculum!r}: a part of the training has only the "
                "next-token head, so its weight must not be 0; give it a weight, or use curriculum='constant'"
            )
        if type(self.seed) is not int:
            raise ValueError(f"seed={self.seed!r} must be an integer")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must not be negative, and below 2**63")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size} must be a multiple of accumulate={self.accumulate}")
        if self.model.vocab_size != self.task.vocab_size:
            raise ValueError(
                f"model.vocab_size={self.model.vocab_size} must be the task's {self.task.vocab_size} token ids"
            )
        if self.task.seq > self.model.max_seq:
            raise ValueError(
                f"task.seq={self.task.seq} is longer than model.max_seq={self.model.max_seq}; raise max_seq"
            )

    def _check_label_weights(self) -> None:
        if not self.label_weights:
            return
        labels = {name for name, label in self.task.batch(1, 0, 0).labels.items() if label.dtype == bool}
        if unknown := {label for label, _ in self.label_weights} - labels - {REST}:
            known = ", ".join(sorted(labels)) or "none"
            raise ValueError(
                f"label_weights names {sorted(unknown)}; this task's labels are {known}, and {REST!r} for all others"
            )
        weights = [weight for _, weight in self.label_weights] + [1.0] * (REST not in dict(self.label_weights))
        if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
            raise ValueError(f"label_weights={self.label_weights} must be numbers, none negative, not all 0")

    def _check_self_distillation(self) -> None:
        count, given = self.self_distilled_tokens, f"self_distilled_tokens={self.self_distilled_tokens!r}"
        if type(count) is not int or not 0 <= count < self.task.seq:
            raise ValueError(
                f"{given} must be a number of tokens below task.seq={self.task.seq}, since a row starts with at least "
                "one token of the task; 0 for none"
            )
        if not count:
            return
        if not self.init_from:
            raise ValueError(f"{given} needs a trained head 1 that generates text; name its run in init_from")
        if len(self.model.path()) == self.model.n_future:
            raise ValueError(
                f"{given} with n_future={self.model.n_future}, head_kind={self.model.head_kind!r}: every head is on "
                "the path of head 1, so no head is left to train; use two or more heads of another kind"
            )
        if self.label_weights or self.mask_unread_causes:
            raise ValueError(f"{given} trains on generated tokens only; leave out label_weights and mask_unread_causes")

    @property
    def folder(self) -> str:
        """The run's folder below the runs directory: task/name-hash."""
        return f"{self.task.name}/{self.name}-{config_hash(self)}"
