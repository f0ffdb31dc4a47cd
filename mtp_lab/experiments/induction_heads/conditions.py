"""What notebook 04 trains at each preset: models of stories that differ in n, or in a control for the effect of n.

Training names are scattered over all pairings, so that validation and test names are equally hard
(`NamePools.scattered`). Optimizer and sizes were chosen for n = 1 with smeared keys, on seeds that are in no study
(LAB_LOG.md). How often runs are logged depends on the preset's steps, so that curves of all conditions have points at
the same steps.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from data_gen.stories.generator import Stories
from data_gen.stories.names import NamePools
from mtp_lab.config import ModelConfig, OptimizerConfig, TrainConfig
from mtp_lab.experiments.presets import (
    PAPER_OPTIMIZER,
    PAPER_SIZE,
    SMALL_SIZE,
    SMOKE_OPTIMIZER,
    SMOKE_SIZE,
    look_up,
    milestones,
)
from mtp_lab.tasks import StoriesTask

PreviousToken = Literal["rotary", "relative", "smeared"]
PREVIOUS_TOKEN: dict[PreviousToken, dict[str, Any]] = {
    "rotary": {},
    "relative": {"position": "relative"},
    "smeared": {"smeared_keys": True},
}
"""Fields of a ModelConfig for each way in which a model finds the previous token.

rotary: an attention head has to learn it from RoPE. relative: a learned bias for each offset makes it easy. smeared:
each key is mixed with the one before it, so the model has it from the start.
"""


@dataclass(frozen=True, kw_only=True)
class InductionCondition:
    """A condition of notebook 04: trainings that differ in their seed only."""

    previous_token: PreviousToken
    n: int = 1
    trunk: int = 3
    """Layers of the trunk. The path of the next-token head has one more."""
    stop_gradient: bool = False
    """Whether heads beyond the first send no gradient into the trunk."""
    names: int = 256
    """Number of names in the training pool; 0: all that are not held out."""
    scattered: bool = True
    """See `NamePools.scattered`."""
    steps_factor: float = 1.0
    """Steps, in multiples of the preset's."""
    width_factor: int = 1
    """Width, in multiples of the preset's. The attention heads keep their size."""
    learning_rate_factor: float = 1.0
    """Peak learning rate, in multiples of the preset's."""
    horizon_weight: float = 1.0
    """Weight in the loss of each horizon beyond the first, whose own weight is 1."""
    extra_seeds: int = 0
    """Seeds beyond the preset's. They were added after the results of the first seeds had raised the question."""


@dataclass(frozen=True, kw_only=True)
class InductionPreset:
    """The trainings of notebook 04 at one preset."""

    conditions: tuple[InductionCondition, ...]
    """The first is the one that others are compared with."""
    seeds: int
    steps: int
    batch_size: int
    size: dict[str, int]
    """d_model, n_attention_heads."""
    optimizer: OptimizerConfig
    test_rows: int
    """Rows of stories for the final measurements, of each split."""


def _smeared(n: int, **fields: Any) -> InductionCondition:
    return InductionCondition(previous_token="smeared", n=n, **fields)


def _rotary(n: int, **fields: Any) -> InductionCondition:
    return InductionCondition(previous_token="rotary", n=n, **fields)


_CONSTANT = OptimizerConfig(
    kind="muon", learning_rate=1e-2, warmup=50, final=1.0
)  # so that more steps are a continuation
_LONG = 1.5  # n = 1 with smeared keys needs half of the preset's steps
_FULL = (
    *(_smeared(n, steps_factor=4) for n in (1, 2)),  # long after both have settled
    _smeared(2, trunk=2, steps_factor=_LONG),
    _smeared(4, steps_factor=_LONG),
    *(_rotary(n, steps_factor=4) for n in (1, 2)),  # do they ever leave the plateau?
    *(_rotary(n, steps_factor=4, learning_rate_factor=0.5) for n in (1, 2)),
    InductionCondition(previous_token="relative", n=1, steps_factor=_LONG),
    _smeared(2, stop_gradient=True),
    _smeared(1, names=0),
    _smeared(2, names=0, steps_factor=_LONG),
    *(_smeared(n, names=128, steps_factor=3, extra_seeds=5) for n in (1, 2)),
    _smeared(2, names=128, stop_gradient=True, steps_factor=3),
    _smeared(1, width_factor=2),
    _smeared(2, steps_factor=_LONG, width_factor=2),
    _smeared(1, trunk=2),  # as deep as n = 2 at equal parameters
    *(_smeared(1, steps_factor=_LONG, learning_rate_factor=factor) for factor in (0.5, 2.0, 4.0)),
    *(_smeared(2, steps_factor=_LONG, learning_rate_factor=factor) for factor in (0.5, 2.0)),
    _smeared(2, steps_factor=_LONG, horizon_weight=0.5),
    *(_smeared(2, steps_factor=_LONG, learning_rate_factor=factor, horizon_weight=0.25) for factor in (1.0, 2.0, 4.0)),
    _smeared(2, names=128, steps_factor=3, horizon_weight=0.25),
)

INDUCTION: dict[str, InductionPreset] = {
    "smoke": InductionPreset(
        conditions=(_smeared(1, trunk=1), _rotary(2, trunk=1)),
        seeds=2,
        steps=4,
        batch_size=2,
        size=SMOKE_SIZE,
        optimizer=SMOKE_OPTIMIZER,
        test_rows=8,
    ),
    "quick": InductionPreset(
        conditions=tuple(_smeared(n, scattered=False) for n in (1, 2)),  # as in the zoo
        seeds=2,
        steps=650,
        batch_size=8,
        size=SMALL_SIZE,
        optimizer=_CONSTANT,
        test_rows=64,
    ),
    "full": InductionPreset(
        conditions=_FULL,
        seeds=5,
        steps=800,
        batch_size=8,
        size=SMALL_SIZE,
        optimizer=_CONSTANT,
        test_rows=128,
    ),
    # Section 4.1, the model of 30M parameters. The length of stories takes the place of context 2048.
    "paper": InductionPreset(
        conditions=(_rotary(1, trunk=9), _rotary(2, trunk=8), _rotary(2, trunk=9)),
        seeds=2,
        steps=100_000,
        batch_size=1280,
        size=PAPER_SIZE,
        optimizer=PAPER_OPTIMIZER,
        test_rows=1024,
    ),
}


def induction_configs(preset: str, seeds: int = 0) -> list[TrainConfig]:
    """The trainings of notebook 04, condition after condition. A seed also draws the pool of names.

    Args:
        seeds: number of seeds of a condition, without its extra ones; 0 takes the preset's.

    Raises:
        ValueError: for an unknown preset.
    """
    chosen = look_up("preset", preset, INDUCTION)
    return [
        _config(preset, chosen, condition, seed)
        for condition in chosen.conditions
        for seed in range((seeds or chosen.seeds) + condition.extra_seeds)
    ]


def _config(preset: str, chosen: InductionPreset, condition: InductionCondition, seed: int) -> TrainConfig:
    n, optimizer = condition.n, chosen.optimizer
    names = NamePools(names=condition.names, seed=seed, scattered=condition.scattered)
    task = StoriesTask(stream=Stories(names=names))
    model = ModelConfig(
        vocab_size=task.vocab_size,
        **{name: condition.width_factor * value for name, value in chosen.size.items()},
        **PREVIOUS_TOKEN[condition.previous_token],
        n_layers=condition.trunk + n,
        trunk_layers=condition.trunk,
        n_future=n,
        max_seq=task.seq,
        stop_gradient=tuple(range(2, n + 1)) if condition.stop_gradient else (),
    )
    return TrainConfig(
        task=task,
        model=model,
        optimizer=replace(optimizer, learning_rate=condition.learning_rate_factor * optimizer.learning_rate),
        horizon_weights=(1.0, *[condition.horizon_weight] * (n - 1)),
        name=f"{preset}-{condition.previous_token}-n{n}",
        steps=round(chosen.steps * condition.steps_factor),
        batch_size=chosen.batch_size,
        seed=seed,
        evaluate_rows=32,
        snapshot_every=max(1, chosen.steps // 10),
        **milestones(chosen.steps, logs=32, evaluations=32),
    )
