"""What notebook 04 trains at each preset: models of stories that differ in n, or in what could explain n away.

Presets are those of mtp_lab.experiments.real_bytes.conditions. Names are scattered: held-out pairings are then alike (`NamePools.scattered`).
Optimizer and sizes were chosen for n = 1 with smeared keys, on seeds that are in no study (LAB_LOG.md).
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from data_gen.stories.generator import Stories
from data_gen.stories.names import NamePools
from mtp_lab.config import ModelConfig, OptimizerConfig, TrainConfig
from mtp_lab.tasks import StoriesTask

Given = Literal["rotary", "relative", "smeared"]
GIVEN: dict[Given, dict[str, Any]] = {
    "rotary": {},
    "relative": {"position": "relative"},
    "smeared": {"smeared_keys": True},
}
"""How a model finds the token before: has to learn it from RoPE, from a bias an offset, or has it in its keys."""


@dataclass(frozen=True)
class InductionCondition:
    """Trainings of notebook 04 that differ in their seed alone."""

    given: Given
    n: int = 1
    trunk: int = 3
    """Layers of the trunk; the next-token head adds one to its path."""
    stopped: bool = False
    """Heads beyond the first do not shape the trunk."""
    names: int = 256
    """Names of the training pool; 0: all that are not held out."""
    scattered: bool = True
    """See `NamePools.scattered`."""
    longer: float = 1.0
    """Times the preset's steps."""
    wider: int = 1
    """Times the preset's width, in attention heads of the same size."""
    rate: float = 1.0
    """Times the preset's learning rate."""
    weight: float = 1.0
    """Weight in the loss of each head beyond the first, whose own is 1."""
    more_seeds: int = 0
    """Seeds beyond the preset's: fresh ones, where the first few have shown what there is to ask."""


@dataclass(frozen=True)
class InductionPreset:
    """The job of notebook 04: models of stories, with and without the previous-token half of induction given."""

    conditions: tuple[InductionCondition, ...]
    seeds: int
    steps: int
    batch_size: int
    size: dict[str, int]
    """d_model, n_attention_heads."""
    optimizer: OptimizerConfig
    test_rows: int
    """Rows of stories for the final measurements, of each split."""


_STEADY = OptimizerConfig(kind="muon", learning_rate=1e-2, warmup=50, final=1.0)  # no step is the last one
_LONG = 1.5  # n = 1 with smeared keys needs half of the preset's steps
_CELLS = (
    *(InductionCondition("smeared", n, longer=4) for n in (1, 2)),  # long after both have settled
    InductionCondition("smeared", 2, trunk=2, longer=_LONG),
    InductionCondition("smeared", 4, longer=_LONG),
    *(InductionCondition("rotary", n, longer=4) for n in (1, 2)),  # do they ever leave the plateau?
    *(InductionCondition("rotary", n, longer=4, rate=0.5) for n in (1, 2)),
    InductionCondition("relative", 1, longer=_LONG),
    InductionCondition("smeared", 2, stopped=True),
    InductionCondition("smeared", 1, names=0),
    InductionCondition("smeared", 2, names=0, longer=_LONG),
    *(InductionCondition("smeared", n, names=128, longer=3, more_seeds=5) for n in (1, 2)),
    InductionCondition("smeared", 2, names=128, stopped=True, longer=3),
    InductionCondition("smeared", 1, wider=2),
    InductionCondition("smeared", 2, longer=_LONG, wider=2),
    InductionCondition("smeared", 1, trunk=2),  # as deep as n = 2 at equal parameters
    *(InductionCondition("smeared", 1, longer=_LONG, rate=rate) for rate in (0.5, 2.0, 4.0)),
    *(InductionCondition("smeared", 2, longer=_LONG, rate=rate) for rate in (0.5, 2.0)),
    InductionCondition("smeared", 2, longer=_LONG, weight=0.5),
    *(InductionCondition("smeared", 2, longer=_LONG, rate=rate, weight=0.25) for rate in (1.0, 2.0, 4.0)),
    InductionCondition("smeared", 2, names=128, longer=3, weight=0.25),
)
# as the zoo has them
_QUICK = tuple(InductionCondition("smeared", n, scattered=False) for n in (1, 2))

INDUCTION: dict[str, InductionPreset] = {
    "smoke": InductionPreset(
        (InductionCondition("smeared", n=1, trunk=1), InductionCondition("rotary", n=2, trunk=1)),
        2,
        4,
        2,
        dict(d_model=16, n_attention_heads=2),
        OptimizerConfig(warmup=2),
        8,
    ),
    "quick": InductionPreset(_QUICK, 2, 650, 8, dict(d_model=64, n_attention_heads=4), _STEADY, 64),
    "full": InductionPreset(_CELLS, 5, 800, 8, dict(d_model=64, n_attention_heads=4), _STEADY, 128),
    # Section 4.1: 30M parameters, Adam, 100k steps of .25M tokens; the stories' length takes the place of context 2048.
    "paper": InductionPreset(
        (InductionCondition("rotary", 1, 9), InductionCondition("rotary", 2, 8), InductionCondition("rotary", 2, 9)),
        2,
        100_000,
        1280,
        dict(d_model=512, n_attention_heads=8),
        OptimizerConfig(learning_rate=1e-4, warmup=2000),
        1024,
    ),
}


def induction_configs(preset: str, seeds: int = 0) -> list[TrainConfig]:
    """The trainings of notebook 04, cell after cell; a seed is also that of the pools of names.

    Raises:
        ValueError: for an unknown preset.
    """
    if preset not in INDUCTION:
        raise ValueError(f"preset={preset!r} is not known; use one of {', '.join(INDUCTION)}")
    chosen = INDUCTION[preset]
    configs = []
    for condition in chosen.conditions:
        for seed in range((seeds or chosen.seeds) + condition.more_seeds):
            task = StoriesTask(
                stream=Stories(names=NamePools(names=condition.names, seed=seed, scattered=condition.scattered))
            )
            model = ModelConfig(
                vocab_size=task.vocab_size,
                **{of: condition.wider * value for of, value in chosen.size.items()},
                **GIVEN[condition.given],
                n_layers=condition.trunk + condition.n,
                trunk_layers=condition.trunk,
                n_future=condition.n,
                max_seq=task.seq,
                stop_gradient=tuple(range(2, condition.n + 1)) if condition.stopped else (),
            )
            configs.append(
                TrainConfig(
                    task=task,
                    model=model,
                    optimizer=replace(chosen.optimizer, learning_rate=condition.rate * chosen.optimizer.learning_rate),
                    horizon_weights=(1.0, *[condition.weight] * (condition.n - 1)),
                    name=f"{preset}-{condition.given}-n{condition.n}",
                    steps=round(chosen.steps * condition.longer),
                    batch_size=chosen.batch_size,
                    seed=seed,
                    log_every=max(1, chosen.steps // 32),
                    evaluate_every=max(1, chosen.steps // 32),
                    evaluate_rows=32,
                    checkpoint_every=max(1, chosen.steps // 4),
                    snapshot_every=max(1, chosen.steps // 10),
                )
            )
    return configs
