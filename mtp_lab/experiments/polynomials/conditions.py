"""What notebook 05 trains at each preset: models of polynomial arithmetic.

The main conditions compare numbers of future tokens n at equal parameters. Each control removes one explanation of a
difference between them. Hyperparameters were chosen as mtp_lab.experiments.presets says.
"""

from dataclasses import dataclass, replace
from typing import Literal

from data_gen.polynomials.stream import Polynomials
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
from mtp_lab.tasks import PolynomialsTask
from mtp_lab.tasks.base import REST

LossOn = Literal["all tokens", "answers", "answers x1.1", "answers x2", "answers x4"]
LABEL_WEIGHTS: dict[LossOn, tuple[tuple[str, float], ...]] = {
    "all tokens": (),
    "answers": (("answer", 1.0), (REST, 0.0)),
    "answers x1.1": (("answer", 1.1),),
    "answers x2": (("answer", 2.0),),
    "answers x4": (("answer", 4.0),),
}
"""Weights of tokens in the loss.

At n = 1, x1.1 and x2 give answers about the share of the loss and of the squared gradient that they have at n = 2 and
at n = 4 (measured in notebook 05).
"""

RINGS: dict[str, Polynomials] = {
    "F2X4": Polynomials(p=2, d=4),
    "F2X5": Polynomials(p=2, d=5),
    "F3X3": Polynomials(p=3, d=3),
    "F7X5": Polynomials(p=7, d=5),  # the paper's
}
MOST_OPERATIONS = 10
"""Models are tested on questions of 1 to this many operations. Training questions have 1 to 5."""


@dataclass(frozen=True, kw_only=True)
class PolynomialCondition:
    """A condition of notebook 05: trainings that differ in their seed only."""

    n: int = 1
    trunk: int = 5
    """Layers of the trunk. The path of the next-token head has one more."""
    loss_on: LossOn = "all tokens"
    stop_gradient: bool = False
    """Whether heads beyond the first send no gradient into the trunk."""
    pause: int = 0
    """Pause tokens before "="."""
    horizon_decay: float = 1.0
    """Weight of each horizon in the loss, in multiples of the weight of the horizon before it."""

    @property
    def layers(self) -> int:
        """All layers: the trunk's, and one for each head."""
        return self.trunk + self.n


@dataclass(frozen=True, kw_only=True)
class PolynomialPreset:
    """The trainings of notebook 05 at one preset."""

    main: tuple[PolynomialCondition, ...]
    """Conditions of the main table."""
    controls: tuple[PolynomialCondition, ...]
    seeds: int
    control_seeds: int
    """Seeds of a control: the first of those of the main table, so that pairs of runs share data and order."""
    steps: int
    batch_size: int
    seq: int
    size: dict[str, int]
    """d_model, n_attention_heads."""
    optimizer: OptimizerConfig
    items: int
    """Test questions of each number of operations."""


def compute_matched(n: int, layers: int = 6, **fields: object) -> PolynomialCondition:
    """A condition with n heads and `layers` layers in total: the heads take n layers from the trunk."""
    return PolynomialCondition(n=n, trunk=layers - n, **fields)


_MAIN = tuple(compute_matched(n) for n in (1, 2, 3, 4))
_CONTROLS = (
    *(compute_matched(n, loss_on="answers") for n in (1, 2, 4)),
    PolynomialCondition(n=2, trunk=5),  # as deep as n = 1
    PolynomialCondition(n=4, trunk=5),
    PolynomialCondition(n=1, trunk=4),  # as deep as n = 2
    PolynomialCondition(n=1, trunk=2),  # as deep as n = 4
    PolynomialCondition(n=2, trunk=5, stop_gradient=True),
    compute_matched(1, layers=9),  # a larger model
    compute_matched(1, loss_on="answers x2"),
    compute_matched(1, loss_on="answers x4"),
    *(compute_matched(n, pause=5) for n in (1, 2)),
    compute_matched(2, horizon_decay=0.3),
    compute_matched(4, horizon_decay=0.5),
    compute_matched(1, loss_on="answers x1.1"),
    *(compute_matched(n, pause=10) for n in (1, 2)),
)
_MUON = OptimizerConfig(kind="muon", learning_rate=5e-3)

POLYNOMIALS: dict[str, PolynomialPreset] = {
    "smoke": PolynomialPreset(
        main=(PolynomialCondition(n=1, trunk=1), PolynomialCondition(n=2, trunk=1)),
        controls=(PolynomialCondition(n=1, trunk=1, loss_on="answers"),),
        seeds=2,
        control_seeds=2,
        steps=4,
        batch_size=4,
        seq=64,
        size=SMOKE_SIZE,
        optimizer=SMOKE_OPTIMIZER,
        items=20,
    ),
    "quick": PolynomialPreset(
        main=(compute_matched(1), compute_matched(2)),
        controls=(compute_matched(1, loss_on="answers"),),
        seeds=2,
        control_seeds=2,
        steps=300,
        batch_size=24,
        seq=64,
        size=SMALL_SIZE,
        optimizer=_MUON,
        items=500,
    ),
    "full": PolynomialPreset(
        main=_MAIN,
        controls=_CONTROLS,
        seeds=5,
        control_seeds=3,
        steps=1200,
        batch_size=24,
        seq=64,
        size=SMALL_SIZE,
        optimizer=_MUON,
        items=2000,
    ),
    # Section 4.2: the model of 30M parameters (10 layers), rows of 1024 tokens.
    "paper": PolynomialPreset(
        main=tuple(compute_matched(n, layers=10) for n in (1, 2, 3, 4)),
        controls=(compute_matched(1, layers=10, pause=5), compute_matched(1, layers=10, pause=10)),
        seeds=2,
        control_seeds=2,
        steps=100_000,
        batch_size=256,
        seq=1024,
        size=PAPER_SIZE,
        optimizer=PAPER_OPTIMIZER,
        items=2000,
    ),
}

PAPERS_RING_STEPS = {"smoke": 2, "full": 800}
"""Steps of a stage of `papers_ring_configs`. Other presets have no time for it."""
PAPERS_RING_SEEDS = 2


def all_configs(preset: str, seeds: int = 0) -> list[TrainConfig]:
    """All trainings of notebook 05: those of its ring, then those of the paper's. Raises as `polynomial_configs`."""
    return polynomial_configs(preset, seeds) + sum(papers_ring_configs(preset, seeds).values(), [])


def papers_ring_configs(preset: str, seeds: int = 0) -> dict[str, list[TrainConfig]]:
    """Trainings on the paper's ring F7[X]/(X^5), with loss on answers only: {label: configs of all seeds}.

    Each label names n and a stage:

    one operation       questions of m = 1 only
    then all            continues "one operation" with all m
    sparse products     continues "one operation" for 8 times its steps, in batches of twice the size, with products of
                        operands of few terms only
    then one operation  continues "sparse products" with the questions of "one operation"
    all at once         all m from the start, for the steps of "one operation" and "then all" together

    Empty for presets that have no time for it.
    """
    configs: dict[str, list[TrainConfig]] = {}
    steps = PAPERS_RING_STEPS.get(preset, 0)
    chosen, ring = replace(POLYNOMIALS[preset], steps=steps), RINGS["F7X5"]
    for seed in range((seeds or PAPERS_RING_SEEDS) if steps else 0):
        for n in (1, 2):
            condition = compute_matched(n, chosen.main[0].layers, loss_on="answers")
            all_operations = _config(f"{preset}-F7X5-n{n}", condition, chosen, ring, seed)
            easy_task = replace(all_operations.task, stream=replace(ring, max_operations=1))
            easy = replace(all_operations, task=easy_task)
            products = replace(easy_task.stream, operations=("*",), zeros=1.0)
            sparse = replace(
                _config(f"{all_operations.name}-products", condition, replace(chosen, steps=8 * steps), products, seed),
                batch_size=2 * chosen.batch_size,
                init_from=easy.folder,
            )
            stages = {
                "one operation": easy,
                "then all": replace(all_operations, init_from=easy.folder),
                "sparse products": sparse,
                "then one operation": replace(easy, init_from=sparse.folder),
                "all at once": _config(all_operations.name, condition, replace(chosen, steps=2 * steps), ring, seed),
            }
            for stage, config in stages.items():
                configs.setdefault(f"n = {n}, {stage}", []).append(config)
    return configs


def polynomial_configs(preset: str, seeds: int = 0, ring: str = "F2X4") -> list[TrainConfig]:
    """The trainings of notebook 05: the main conditions, then the controls.

    Args:
        seeds: number of seeds of every condition; 0 takes the preset's.
        ring: one of RINGS.

    Raises:
        ValueError: for an unknown preset or ring.
    """
    chosen, stream = look_up("preset", preset, POLYNOMIALS), look_up("ring", ring, RINGS)
    return [
        _config(f"{preset}-{ring}-n{condition.n}", condition, chosen, stream, seed)
        for conditions, own_seeds in ((chosen.main, chosen.seeds), (chosen.controls, chosen.control_seeds))
        for condition in conditions
        for seed in range(seeds or own_seeds)
    ]


def _config(
    name: str, condition: PolynomialCondition, chosen: PolynomialPreset, ring: Polynomials, seed: int
) -> TrainConfig:
    stream = replace(ring, pause=condition.pause)
    seq = max(chosen.seq, stream.of(MOST_OPERATIONS).longest)
    task = PolynomialsTask(stream=stream, seq=seq)
    model = ModelConfig(
        vocab_size=task.vocab_size,
        **chosen.size,
        n_layers=condition.layers,
        trunk_layers=condition.trunk,
        n_future=condition.n,
        max_seq=seq,
        stop_gradient=tuple(range(2, condition.n + 1)) if condition.stop_gradient else (),
    )
    return TrainConfig(
        task=task,
        model=model,
        optimizer=chosen.optimizer,
        name=name,
        steps=chosen.steps,
        batch_size=chosen.batch_size,
        horizon_weights=tuple(condition.horizon_decay**i for i in range(condition.n)),
        label_weights=LABEL_WEIGHTS[condition.loss_on],
        seed=seed,
        evaluate_rows=120,
        **milestones(chosen.steps, logs=40, evaluations=12),
    )
