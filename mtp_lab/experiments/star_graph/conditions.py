"""What notebook 07 trains at each preset: models of path-star graphs that differ in n, in heads, or in the answer.

The trunk is the same in all cells but one. Answers alone are learnt, as in Bachmann & Nagarajan 2024, whose graphs
these are. Presets are those of mtp_lab.experiments.real_bytes.conditions. Optimizer and positions (relative: a previous-token head is easy) were
chosen at n = 1 on reversed answers, which any model can learn; the size of the graphs by what n = 1 to 4 did on
validation graphs, with a seed that is in no study (LAB_LOG.md).
"""

from dataclasses import dataclass, replace

from data_gen.star_graph import StarGraphs, Variant
from mtp_lab.config import HeadKind, ModelConfig, OptimizerConfig, TrainConfig
from mtp_lab.experiments.polynomials.conditions import LABEL_WEIGHTS
from mtp_lab.tasks import StarGraphTask


@dataclass(frozen=True)
class StarCondition:
    """Trainings of notebook 07 that differ in their seed alone."""

    n: int = 1
    heads: HeadKind = "parallel"
    variant: Variant = "forward"
    stopped: bool = False
    """Heads beyond the first do not shape the trunk."""
    deeper: int = 0
    """Layers that the trunk has more than the preset's."""


@dataclass(frozen=True)
class StarPreset:
    """The job of notebook 07."""

    graphs: StarGraphs
    conditions: tuple[StarCondition, ...]
    """The first is what the others are compared with."""
    seeds: int
    steps: int
    batch_size: int
    trunk: int
    """Layers of the trunk; the next-token head adds one to its path."""
    size: dict[str, int]
    """d_model, n_attention_heads."""
    optimizer: OptimizerConfig
    rows: int
    """Test graphs behind every measure."""


_CELLS = (
    StarCondition(1),
    StarCondition(2),
    StarCondition(3),
    StarCondition(4),
    StarCondition(2, "causal"),
    StarCondition(2, "sequential"),
    StarCondition(2, stopped=True),
    StarCondition(1, deeper=1),
    StarCondition(1, variant="reversed"),
    StarCondition(1, variant="teacherless"),
)
_SMALL = dict(d_model=64, n_attention_heads=4)
_STEADY = OptimizerConfig(kind="muon", learning_rate=1e-2, final=1.0)  # no step is the last one
_GRAPHS = StarGraphs(degree=2, length=3, nodes=8)

STARS: dict[str, StarPreset] = {
    "smoke": StarPreset(
        _GRAPHS,
        (
            StarCondition(1),
            StarCondition(2),
            StarCondition(1, variant="reversed"),
            StarCondition(1, variant="teacherless"),
        ),
        2,
        2,
        4,
        1,
        dict(d_model=16, n_attention_heads=2),
        OptimizerConfig(warmup=2),
        8,
    ),
    "quick": StarPreset(
        _GRAPHS,
        (StarCondition(1), StarCondition(2), StarCondition(1, variant="reversed")),
        3,
        300,
        64,
        3,
        _SMALL,
        _STEADY,
        256,
    ),
    "full": StarPreset(_GRAPHS, _CELLS, 10, 500, 64, 3, _SMALL, _STEADY, 1024),
    # Bachmann & Nagarajan's hardest graph, at the paper's 30M model and training (section 4: Adam, 100k steps).
    "paper": StarPreset(
        StarGraphs(degree=5, length=5, nodes=50),
        _CELLS,
        10,
        100_000,
        1024,
        9,
        dict(d_model=512, n_attention_heads=8),
        OptimizerConfig(learning_rate=1e-4, warmup=2000),
        4096,
    ),
}


def star_configs(preset: str, seeds: int = 0) -> list[TrainConfig]:
    """The trainings of notebook 07, cell after cell; seeds of all cells share the graphs and their order.

    A row is one document. Models differ in their heads alone: the path of the next-token head is the same in all cells
    but the deeper one.

    Args:
        seeds: number of seeds of every cell; 0 takes the preset's.

    Raises:
        ValueError: for an unknown preset.
    """
    if preset not in STARS:
        raise ValueError(f"preset={preset!r} is not known; use one of {', '.join(STARS)}")
    chosen, configs = STARS[preset], []
    for condition in chosen.conditions:
        stream = replace(chosen.graphs, variant=condition.variant)
        task = StarGraphTask(stream=stream, seq=stream.seq)
        trunk = chosen.trunk + condition.deeper
        model = ModelConfig(
            vocab_size=task.vocab_size,
            **chosen.size,
            position="relative",
            n_layers=trunk + condition.n,
            trunk_layers=trunk,
            n_future=condition.n,
            head_kind=condition.heads,
            max_seq=task.seq,
            stop_gradient=tuple(range(2, condition.n + 1)) if condition.stopped else (),
        )
        configs += [
            TrainConfig(
                task=task,
                model=model,
                optimizer=chosen.optimizer,
                name=f"{preset}-{condition.variant}-n{condition.n}",
                steps=chosen.steps,
                batch_size=chosen.batch_size,
                label_weights=LABEL_WEIGHTS["answers"],
                seed=seed,
                log_every=max(1, chosen.steps // 40),
                evaluate_every=max(1, chosen.steps // 25),
                evaluate_rows=min(256, chosen.rows),
                checkpoint_every=max(1, chosen.steps // 4),
            )
            for seed in range(seeds or chosen.seeds)
        ]
    return configs
