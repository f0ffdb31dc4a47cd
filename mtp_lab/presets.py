"""What each notebook trains at each preset: configs, made here so that a notebook's cells hold only the idea.

smoke: every cell runs, in seconds. quick: a learner's minutes on two cores. full: the committed results. paper: the
paper's own sizes and hyperparameters, for GPUs. Hyperparameters were chosen on validation loss at n = 1 (LAB_LOG.md).
"""

from dataclasses import dataclass
from typing import Any, Literal

from data_gen.names import NamePools
from data_gen.stories import Stories
from mtp_lab.config import ModelConfig, OptimizerConfig, TrainConfig
from mtp_lab.tasks import BytesTask, StoriesTask


@dataclass(frozen=True)
class BytesPreset:
    """The job of notebook 02: models of n future bytes on the standard library's source."""

    futures: tuple[int, ...]
    """Values of n, matched in parameters."""
    controls: tuple[int, ...]
    """Values of n whose next-token path gets a next-token model of the same depth beside it."""
    seeds: int
    steps: int
    batch_size: int
    seq: int
    size: dict[str, int]
    """d_model, n_layers, n_attention_heads."""
    optimizer: OptimizerConfig
    test_rows: int
    """Windows of the test files for the final measurement."""


_SMALL = dict(d_model=64, n_layers=9, n_attention_heads=4)
_MUON = OptimizerConfig(kind="muon", learning_rate=1e-2, warmup=30)

BYTES: dict[str, BytesPreset] = {
    "smoke": BytesPreset(
        (1, 2), (2,), 2, 6, 4, 32, dict(d_model=16, n_layers=3, n_attention_heads=2), OptimizerConfig(warmup=2), 8
    ),
    "quick": BytesPreset((1, 2, 4, 8), (4, 8), 3, 180, 8, 128, _SMALL, _MUON, 256),
    "full": BytesPreset((1, 2, 4, 8), (2, 4, 8), 5, 600, 8, 128, _SMALL, _MUON, 1024),
    # Section 4's training: Adam, 100k steps of .25M tokens, context 2048; the byte models of section 3.3 predict 8.
    "paper": BytesPreset(
        (1, 2, 4, 8),
        (2, 4, 8),
        2,
        100_000,
        128,
        2048,
        dict(d_model=1024, n_layers=25, n_attention_heads=16),
        OptimizerConfig(learning_rate=1e-4, warmup=2000),
        4096,
    ),
}


def bytes_configs(preset: str, seeds: int = 0) -> list[TrainConfig]:
    """The trainings of notebook 02: for every seed, every n and, for some n, a next-token model as deep as n's path.

    Args:
        seeds: number of seeds; 0 takes the preset's.

    Raises:
        ValueError: for an unknown preset.
    """
    if preset not in BYTES:
        raise ValueError(f"preset={preset!r} is not known; use one of {', '.join(BYTES)}")
    chosen = BYTES[preset]
    models = [(n, chosen.size["n_layers"]) for n in chosen.futures]
    models += [(1, chosen.size["n_layers"] - n + 1) for n in chosen.controls]
    task = BytesTask(seq=chosen.seq)
    return [
        TrainConfig(
            task=task,
            model=ModelConfig(**{**chosen.size, "n_layers": layers}, n_future=n, max_seq=chosen.seq),
            optimizer=chosen.optimizer,
            name=f"{preset}-n{n}-{layers}layers",
            steps=chosen.steps,
            batch_size=chosen.batch_size,
            seed=seed,
            log_every=max(1, chosen.steps // 50),
            evaluate_every=max(1, chosen.steps // 10),
            checkpoint_every=max(1, chosen.steps // 4),
        )
        for seed in range(seeds or chosen.seeds)
        for n, layers in models
    ]


@dataclass(frozen=True)
class SpeculationPreset:
    """The job of notebook 03: models of n future bytes with trunks of one depth, on code and on prose."""

    futures: tuple[int, ...]
    """Values of n trained on code; the largest that every text shares is `prose_future`."""
    prose_future: int
    """The n trained on docstrings and stories, too, and for several lengths of training on code."""
    seeds: int
    steps: int
    longer: tuple[int, ...]
    """Other numbers of steps for `prose_future` on code."""
    batch_size: int
    seq: int
    size: dict[str, int]
    """d_model, trunk_layers, n_attention_heads."""
    optimizer: OptimizerConfig


_FAST = dict(d_model=128, trunk_layers=8, n_attention_heads=4)

SPECULATION: dict[str, SpeculationPreset] = {
    "smoke": SpeculationPreset(
        (1, 2), 2, 2, 4, (8,), 4, 64, dict(d_model=16, trunk_layers=1, n_attention_heads=2), OptimizerConfig(warmup=2)
    ),
    "quick": SpeculationPreset(
        (1, 2, 8), 8, 2, 150, (), 8, 128, dict(d_model=64, trunk_layers=4, n_attention_heads=4), _MUON
    ),
    "full": SpeculationPreset((1, 2, 4, 8, 16), 8, 2, 80, (2000,), 8, 256, _FAST, _MUON),
    "paper": SpeculationPreset(  # section 3.3: 7B byte models, 200B bytes; here the trunk of the 300M model
        (1, 8, 16, 32),
        8,
        1,
        100_000,
        (),
        128,
        2048,
        dict(d_model=1024, trunk_layers=24, n_attention_heads=16),
        OptimizerConfig(learning_rate=1e-4, warmup=2000),
    ),
}


def speculation_configs(preset: str, seeds: int = 0) -> list[TrainConfig]:
    """The trainings of notebook 03: on code every n; one n on docstrings and stories and for several lengths.

    Every trunk has the same depth, so that plain decoding costs the same for every n.

    Raises:
        ValueError: for an unknown preset.
    """
    if preset not in SPECULATION:
        raise ValueError(f"preset={preset!r} is not known; use one of {', '.join(SPECULATION)}")
    chosen = SPECULATION[preset]
    one = chosen.prose_future
    jobs = [("library", n, chosen.steps) for n in chosen.futures]
    jobs += [("library", one, steps) for steps in chosen.longer]
    jobs += [(source, one, chosen.steps) for source in ("docstrings", "stories")]
    return [
        TrainConfig(
            task=BytesTask(source=source, seq=chosen.seq),
            model=ModelConfig(**chosen.size, n_future=n, n_layers=chosen.size["trunk_layers"] + n, max_seq=chosen.seq),
            optimizer=chosen.optimizer,
            name=f"{preset}-{source}-n{n}",
            steps=steps,
            batch_size=chosen.batch_size,
            seed=seed,
            log_every=max(1, steps // 50),
            evaluate_every=max(1, steps // 10),
            checkpoint_every=max(1, steps // 8),
        )
        for seed in range(seeds or chosen.seeds)
        for source, n, steps in jobs
    ]


Given = Literal["rotary", "relative", "smeared"]
GIVEN: dict[Given, dict[str, Any]] = {
    "rotary": {},
    "relative": {"position": "relative"},
    "smeared": {"smeared_keys": True},
}
"""How a model finds the token before: has to learn it from RoPE, from a bias an offset, or has it in its keys."""


@dataclass(frozen=True)
class InductionCell:
    """Trainings of notebook 04 that differ in their seed alone."""

    given: Given
    n: int = 1
    trunk: int = 3
    """Layers of the trunk; the next-token head adds one to its path."""
    stopped: bool = False
    """Heads beyond the first do not shape the trunk."""
    names: int = 256
    """Names of the training pool; 0: all that are not held out."""
    scattered: bool = False
    """See `NamePools.scattered`."""
    longer: int = 1
    """Times the preset's steps."""


@dataclass(frozen=True)
class InductionPreset:
    """The job of notebook 04: models of stories, with and without the previous-token half of induction given."""

    cells: tuple[InductionCell, ...]
    seeds: int
    steps: int
    batch_size: int
    size: dict[str, int]
    """d_model, n_attention_heads."""
    optimizer: OptimizerConfig
    test_rows: int
    """Rows of stories for the final measurements, of each split."""


_ONE, _SAME_DEPTH = dict(n=1, trunk=3), dict(n=2, trunk=3)
_STEADY = OptimizerConfig(kind="muon", learning_rate=1e-2, warmup=50, final=1.0)  # no step is the last one
_CELLS = (
    InductionCell("smeared", **_ONE),
    InductionCell("smeared", **_SAME_DEPTH, longer=2),
    *(InductionCell("rotary", **kind, longer=2) for kind in (_ONE, _SAME_DEPTH)),
    InductionCell("smeared", **_SAME_DEPTH, stopped=True),
    InductionCell("smeared", **_ONE, names=0),
    InductionCell("smeared", **_ONE, scattered=True),
    InductionCell("relative", **_ONE),
)
_QUICK = (InductionCell("smeared", **_ONE), InductionCell("smeared", **_SAME_DEPTH))

INDUCTION: dict[str, InductionPreset] = {
    "smoke": InductionPreset(
        (InductionCell("smeared", n=1, trunk=1), InductionCell("rotary", n=2, trunk=1)),
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
        (InductionCell("rotary", n=1, trunk=9), InductionCell("rotary", n=2, trunk=8), InductionCell("rotary", 2, 9)),
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
    for cell in chosen.cells:
        steps = chosen.steps * cell.longer
        for seed in range(seeds or chosen.seeds):
            task = StoriesTask(stream=Stories(names=NamePools(names=cell.names, seed=seed, scattered=cell.scattered)))
            model = ModelConfig(
                vocab_size=task.vocab_size,
                **chosen.size,
                **GIVEN[cell.given],
                n_layers=cell.trunk + cell.n,
                trunk_layers=cell.trunk,
                n_future=cell.n,
                max_seq=task.seq,
                stop_gradient=tuple(range(2, cell.n + 1)) if cell.stopped else (),
            )
            configs.append(
                TrainConfig(
                    task=task,
                    model=model,
                    optimizer=chosen.optimizer,
                    name=f"{preset}-{cell.given}-n{cell.n}",
                    steps=steps,
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
