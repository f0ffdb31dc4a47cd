"""What notebook 07 trains at each preset: models of star graphs that differ in n, in head kind, or in the answer.

The trunk has the same depth in all conditions but one. The loss is on answers only, as in Bachmann & Nagarajan 2024,
who introduced these graphs. Positions are relative, so that a previous-token head is easy to learn. Optimizer and
positions were chosen at n = 1 on reversed answers, which any model can learn. The size of the graphs was chosen by the
results of n = 1 to 4 on validation graphs, with a seed that is in no study (LAB_LOG.md).
"""

from dataclasses import dataclass, replace

from data_gen.star_graph import StarGraphs, Variant
from mtp_lab.config import HeadKind, ModelConfig, OptimizerConfig, TrainConfig
from mtp_lab.experiments.polynomials.conditions import LABEL_WEIGHTS
from mtp_lab.experiments.presets import (
    PAPER_OPTIMIZER,
    PAPER_SIZE,
    SMALL_SIZE,
    SMOKE_OPTIMIZER,
    SMOKE_SIZE,
    look_up,
    milestones,
)
from mtp_lab.tasks import StarGraphTask


@dataclass(frozen=True, kw_only=True)
class StarCondition:
    """A condition of notebook 07: trainings that differ in their seed only."""

    n: int = 1
    head_kind: HeadKind = "parallel"
    variant: Variant = "forward"
    stop_gradient: bool = False
    """Whether heads beyond the first send no gradient into the trunk."""
    extra_layers: int = 0
    """Layers of the trunk beyond the preset's."""


@dataclass(frozen=True, kw_only=True)
class StarPreset:
    """The trainings of notebook 07 at one preset."""

    graphs: StarGraphs
    conditions: tuple[StarCondition, ...]
    """The first is the one that others are compared with."""
    seeds: int
    steps: int
    batch_size: int
    trunk: int
    """Layers of the trunk. The path of the next-token head has one more."""
    size: dict[str, int]
    """d_model, n_attention_heads."""
    optimizer: OptimizerConfig
    rows: int
    """Test graphs of every measure."""


_FULL = (
    *(StarCondition(n=n) for n in (1, 2, 3, 4)),
    StarCondition(n=2, head_kind="causal"),
    StarCondition(n=2, head_kind="sequential"),
    StarCondition(n=2, stop_gradient=True),
    StarCondition(n=1, extra_layers=1),
    StarCondition(n=1, variant="reversed"),
    StarCondition(n=1, variant="teacherless"),
)
_CONSTANT = OptimizerConfig(kind="muon", learning_rate=1e-2, final=1.0)  # so that more steps are a continuation
_GRAPHS = StarGraphs(degree=2, length=3, nodes=8)

STARS: dict[str, StarPreset] = {
    "smoke": StarPreset(
        graphs=_GRAPHS,
        conditions=(
            StarCondition(n=1),
            StarCondition(n=2),
            StarCondition(n=1, variant="reversed"),
            StarCondition(n=1, variant="teacherless"),
        ),
        seeds=2,
        steps=2,
        batch_size=4,
        trunk=1,
        size=SMOKE_SIZE,
        optimizer=SMOKE_OPTIMIZER,
        rows=8,
    ),
    "quick": StarPreset(
        graphs=_GRAPHS,
        conditions=(StarCondition(n=1), StarCondition(n=2), StarCondition(n=1, variant="reversed")),
        seeds=3,
        steps=300,
        batch_size=64,
        trunk=3,
        size=SMALL_SIZE,
        optimizer=_CONSTANT,
        rows=256,
    ),
    "full": StarPreset(
        graphs=_GRAPHS,
        conditions=_FULL,
        seeds=10,
        steps=500,
        batch_size=64,
        trunk=3,
        size=SMALL_SIZE,
        optimizer=_CONSTANT,
        rows=1024,
    ),
    # Bachmann & Nagarajan's hardest graph, with the paper's model of 30M parameters and its training.
    "paper": StarPreset(
        graphs=StarGraphs(degree=5, length=5, nodes=50),
        conditions=_FULL,
        seeds=10,
        steps=100_000,
        batch_size=1024,
        trunk=9,
        size=PAPER_SIZE,
        optimizer=PAPER_OPTIMIZER,
        rows=4096,
    ),
}


def star_configs(preset: str, seeds: int = 0) -> list[TrainConfig]:
    """The trainings of notebook 07, condition after condition. A row is one document.

    A seed has the same graphs in the same order in all conditions. The path of the next-token head is equally deep in
    all conditions without extra layers.

    Args:
        seeds: number of seeds of every condition; 0 takes the preset's.

    Raises:
        ValueError: for an unknown preset.
    """
    chosen = look_up("preset", preset, STARS)
    return [
        _config(preset, chosen, condition, seed)
        for condition in chosen.conditions
        for seed in range(seeds or chosen.seeds)
    ]


def _config(preset: str, chosen: StarPreset, condition: StarCondition, seed: int) -> TrainConfig:
    stream = replace(chosen.graphs, variant=condition.variant)
    task = StarGraphTask(stream=stream, seq=stream.seq)
    trunk = chosen.trunk + condition.extra_layers
    model = ModelConfig(
        vocab_size=task.vocab_size,
        **chosen.size,
        position="relative",
        n_layers=trunk + condition.n,
        trunk_layers=trunk,
        n_future=condition.n,
        head_kind=condition.head_kind,
        max_seq=task.seq,
        stop_gradient=tuple(range(2, condition.n + 1)) if condition.stop_gradient else (),
    )
    return TrainConfig(
        task=task,
        model=model,
        optimizer=chosen.optimizer,
        name=f"{preset}-{condition.variant}-n{condition.n}",
        steps=chosen.steps,
        batch_size=chosen.batch_size,
        label_weights=LABEL_WEIGHTS["answers"],
        seed=seed,
        evaluate_rows=min(256, chosen.rows),
        **milestones(chosen.steps, logs=40, evaluations=25),
    )
