"""What notebook 02 trains at each preset: models of n future bytes, and next-token models of the same path depth."""

from dataclasses import dataclass

from mtp_lab.config import ModelConfig, OptimizerConfig, TrainConfig
from mtp_lab.experiments.presets import (
    MUON,
    PAPER_OPTIMIZER,
    SMALL_SIZE,
    SMOKE_OPTIMIZER,
    SMOKE_SIZE,
    look_up,
    milestones,
)
from mtp_lab.tasks import BytesTask


@dataclass(frozen=True, kw_only=True)
class BytesPreset:
    """The trainings of notebook 02 at one preset: models of n future bytes on the standard library's source."""

    n_values: tuple[int, ...]
    """Values of n. Their models have the same number of parameters."""
    controls: tuple[int, ...]
    """Values of n for which a next-token model with a path of the same depth is trained, too."""
    seeds: int
    steps: int
    batch_size: int
    seq: int
    size: dict[str, int]
    """d_model, n_layers, n_attention_heads."""
    optimizer: OptimizerConfig
    test_rows: int
    """Windows of the test files for the final measurement."""


BYTES: dict[str, BytesPreset] = {
    "smoke": BytesPreset(
        n_values=(1, 2),
        controls=(2,),
        seeds=2,
        steps=6,
        batch_size=4,
        seq=32,
        size=dict(SMOKE_SIZE, n_layers=3),
        optimizer=SMOKE_OPTIMIZER,
        test_rows=8,
    ),
    "quick": BytesPreset(
        n_values=(1, 2, 4, 8),
        controls=(4, 8),
        seeds=3,
        steps=180,
        batch_size=8,
        seq=128,
        size=dict(SMALL_SIZE, n_layers=9),
        optimizer=MUON,
        test_rows=256,
    ),
    "full": BytesPreset(
        n_values=(1, 2, 4, 8),
        controls=(2, 4, 8),
        seeds=5,
        steps=600,
        batch_size=8,
        seq=128,
        size=dict(SMALL_SIZE, n_layers=9),
        optimizer=MUON,
        test_rows=1024,
    ),
    # Section 4's training, context 2048. The byte models of section 3.3 predict 8 bytes.
    "paper": BytesPreset(
        n_values=(1, 2, 4, 8),
        controls=(2, 4, 8),
        seeds=2,
        steps=100_000,
        batch_size=128,
        seq=2048,
        size=dict(d_model=1024, n_layers=25, n_attention_heads=16),
        optimizer=PAPER_OPTIMIZER,
        test_rows=4096,
    ),
}


def bytes_configs(preset: str, seeds: int = 0) -> list[TrainConfig]:
    """The trainings of notebook 02: for every seed, each n, and each control of the preset.

    Args:
        seeds: number of seeds; 0 takes the preset's.

    Raises:
        ValueError: for an unknown preset.
    """
    chosen = look_up("preset", preset, BYTES)
    models = [(n, chosen.size["n_layers"]) for n in chosen.n_values]
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
            **milestones(chosen.steps),
        )
        for seed in range(seeds or chosen.seeds)
        for n, layers in models
    ]
