"""What notebook 05 trains at each preset: models of polynomial arithmetic, cell after cell.

The main cells compare numbers of future tokens n at equal parameters; each control takes one explanation of a
difference away. Presets are those of mtp_lab.experiments.real_bytes.conditions, and hyperparameters were chosen as there.
"""

from dataclasses import dataclass, replace
from typing import Literal

from data_gen.polynomials.stream import Polynomials
from mtp_lab.config import ModelConfig, OptimizerConfig, TrainConfig
from mtp_lab.tasks import PolynomialsTask
from mtp_lab.tasks.base import REST

Learns = Literal["all tokens", "answers", "answers x1.1", "answers x2", "answers x4"]
LABEL_WEIGHTS: dict[Learns, tuple[tuple[str, float], ...]] = {
    "all tokens": (),
    "answers": (("answer", 1.0), (REST, 0.0)),
    "answers x1.1": (("answer", 1.1),),
    "answers x2": (("answer", 2.0),),
    "answers x4": (("answer", 4.0),),
}
"""What tokens count in the loss. At n = 1 x1.1 and x2 give answers about the share of loss and of squared gradient that
they have with n = 2 and with n = 4 (measured: notebook 05)."""

RINGS: dict[str, Polynomials] = {
    "F2X4": Polynomials(p=2, d=4),
    "F2X5": Polynomials(p=2, d=5),
    "F3X3": Polynomials(p=3, d=3),
    "F7X5": Polynomials(p=7, d=5),  # the paper's
}
MOST_OPERATIONS = 10
"""Questions of 1 to this many operations are asked of every model; 1 to 5 are in training."""


@dataclass(frozen=True)
class PolynomialCondition:
    """Trainings of notebook 05 that differ in their seed alone."""

    n: int = 1
    trunk: int = 5
    """Layers of the trunk; the next-token head adds one to its path."""
    learns: Learns = "all tokens"
    stopped: bool = False
    """Heads beyond the first do not shape the trunk."""
    pause: int = 0
    """Pause tokens before "="."""
    fading: float = 1.0
    """Weight of each horizon in the loss, in multiples of the one before."""

    @property
    def layers(self) -> int:
        """Layers in all: the trunk's and one for each head."""
        return self.trunk + self.n


@dataclass(frozen=True)
class PolynomialPreset:
    """The job of notebook 05."""

    main: tuple[PolynomialCondition, ...]
    """Cells of the main table."""
    controls: tuple[PolynomialCondition, ...]
    seeds: int
    control_seeds: int
    """Seeds of a control; the first of the main table's, so that pairs share data and order."""
    steps: int
    batch_size: int
    seq: int
    size: dict[str, int]
    """d_model, n_attention_heads."""
    optimizer: OptimizerConfig
    items: int
    """Test questions of each number of operations."""


def compute_matched(n: int, layers: int = 6, **changes: object) -> PolynomialCondition:
    """n heads of one layer each take n layers of the budget."""
    return PolynomialCondition(n, layers - n, **changes)


_MAIN = tuple(compute_matched(n) for n in (1, 2, 3, 4))
_CONTROLS = (
    *(compute_matched(n, learns="answers") for n in (1, 2, 4)),
    PolynomialCondition(2, trunk=5),  # as deep as n = 1
    PolynomialCondition(4, trunk=5),
    PolynomialCondition(1, trunk=4),  # as deep as n = 2
    PolynomialCondition(1, trunk=2),  # as deep as n = 4
    PolynomialCondition(2, trunk=5, stopped=True),
    compute_matched(1, layers=9),  # a larger model
    compute_matched(1, learns="answers x2"),
    compute_matched(1, learns="answers x4"),
    *(compute_matched(n, pause=5) for n in (1, 2)),
    compute_matched(2, fading=0.3),
    compute_matched(4, fading=0.5),
    compute_matched(1, learns="answers x1.1"),
    *(compute_matched(n, pause=10) for n in (1, 2)),
)
_STEADY = OptimizerConfig(kind="muon", learning_rate=5e-3)
_SMALL = dict(d_model=64, n_attention_heads=4)

POLYNOMIALS: dict[str, PolynomialPreset] = {
    "smoke": PolynomialPreset(
        (PolynomialCondition(1, 1), PolynomialCondition(2, 1)),
        (PolynomialCondition(1, 1, learns="answers"),),
        2,
        2,
        4,
        4,
        64,
        dict(d_model=16, n_attention_heads=2),
        OptimizerConfig(warmup=2),
        20,
    ),
    "quick": PolynomialPreset(
        (compute_matched(1), compute_matched(2)),
        (compute_matched(1, learns="answers"),),
        2,
        2,
        300,
        24,
        64,
        _SMALL,
        _STEADY,
        500,
    ),
    "full": PolynomialPreset(_MAIN, _CONTROLS, 5, 3, 1200, 24, 64, _SMALL, _STEADY, 2000),
    # Section 4.2: 30M parameters (512 wide, 10 layers), Adam, 100k steps of .25M tokens in rows of 1024.
    "paper": PolynomialPreset(
        tuple(compute_matched(n, layers=10) for n in (1, 2, 3, 4)),
        (compute_matched(1, layers=10, pause=5), compute_matched(1, layers=10, pause=10)),
        2,
        2,
        100_000,
        256,
        1024,
        dict(d_model=512, n_attention_heads=8),
        OptimizerConfig(learning_rate=1e-4, warmup=2000),
        2000,
    ),
}

PAPERS_RING_STEPS = {"smoke": 2, "full": 800}
"""Steps of a stage of `papers_ring_configs`, at the presets that have the time for it."""
PAPERS_RING_SEEDS = 2


def all_configs(preset: str, seeds: int = 0) -> list[TrainConfig]:
    """All trainings of notebook 05: those of its ring, then those of the paper's. Raises as `polynomial_configs`."""
    return polynomial_configs(preset, seeds) + sum(papers_ring_configs(preset, seeds).values(), [])


def papers_ring_configs(preset: str, seeds: int = 0) -> dict[str, list[TrainConfig]]:
    """How far models of notebook 05's size get on F7[X]/(X^5), with loss on answers alone: kind -> trainings by seed.

    "one operation" sees questions of m = 1 only; "then all" goes on from it with all m; "all at once" sees all m, for
    as many steps as these two together. "sparse products" goes on from "one operation" for eight times its steps, in
    batches twice as large, with nothing but products of operands of few terms; "then one operation" goes on from there.
    Empty where a preset has no time for it.
    """
    kinds: dict[str, list[TrainConfig]] = {}
    steps = PAPERS_RING_STEPS.get(preset, 0)
    chosen, ring = replace(POLYNOMIALS[preset], steps=steps), RINGS["F7X5"]
    for seed in range((seeds or PAPERS_RING_SEEDS) if steps else 0):
        for n in (1, 2):
            condition = replace(chosen.main[0], n=n, trunk=chosen.main[0].layers - n, learns="answers")
            every = _config(f"{preset}-F7X5-n{n}", condition, chosen, ring, seed)
            one = replace(every, task=replace(every.task, stream=replace(ring, max_operations=1)))
            found = {"one operation": one, "then all": replace(every, init_from=one.folder)}
            products = replace(one.task.stream, operations=("*",), zeros=1.0)
            sparse = replace(
                _config(f"{every.name}-products", condition, replace(chosen, steps=8 * steps), products, seed),
                batch_size=2 * chosen.batch_size,
                init_from=one.folder,
            )
            found |= {"sparse products": sparse, "then one operation": replace(one, init_from=sparse.folder)}
            found["all at once"] = _config(every.name, condition, replace(chosen, steps=2 * steps), ring, seed)
            for kind, config in found.items():
                kinds.setdefault(f"n = {n}, {kind}", []).append(config)
    return kinds


def polynomial_configs(preset: str, seeds: int = 0, ring: str = "F2X4") -> list[TrainConfig]:
    """The trainings of notebook 05: the main cells, then the controls.

    Args:
        seeds: number of seeds of every cell; 0 takes the preset's.
        ring: one of RINGS.

    Raises:
        ValueError: for an unknown preset or ring.
    """
    for name, value, known in (("preset", preset, POLYNOMIALS), ("ring", ring, RINGS)):
        if value not in known:
            raise ValueError(f"{name}={value!r} is not known; use one of {', '.join(known)}")
    chosen = POLYNOMIALS[preset]
    return [
        _config(f"{preset}-{ring}-n{condition.n}", condition, chosen, RINGS[ring], seed)
        for conditions, own in ((chosen.main, chosen.seeds), (chosen.controls, chosen.control_seeds))
        for condition in conditions
        for seed in range(seeds or own)
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
        stop_gradient=tuple(range(2, condition.n + 1)) if condition.stopped else (),
    )
    return TrainConfig(
        task=task,
        model=model,
        optimizer=chosen.optimizer,
        name=name,
        steps=chosen.steps,
        batch_size=chosen.batch_size,
        horizon_weights=tuple(condition.fading**i for i in range(condition.n)),
        label_weights=LABEL_WEIGHTS[condition.learns],
        seed=seed,
        log_every=max(1, chosen.steps // 40),
        evaluate_every=max(1, chosen.steps // 12),
        evaluate_rows=120,
        checkpoint_every=max(1, chosen.steps // 4),
    )
