"""What notebook 02 trains at each preset: models of n future bytes, and next-token models as deep as their paths."""

from dataclasses import dataclass

from mtp_lab.config import ModelConfig, OptimizerConfig, TrainConfig
from mtp_lab.experiments.presets import MUON
from mtp_lab.tasks import BytesTask


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

BYTES: dict[str, BytesPreset] = {
    "smoke": BytesPreset(
        (1, 2), (2,), 2, 6, 4, 32, dict(d_model=16, n_layers=3, n_attention_heads=2), OptimizerConfig(warmup=2), 8
    ),
    "quick": BytesPreset((1, 2, 4, 8), (4, 8), 3, 180, 8, 128, _SMALL, MUON, 256),
    "full": BytesPreset((1, 2, 4, 8), (2, 4, 8), 5, 600, 8, 128, _SMALL, MUON, 1024),
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
