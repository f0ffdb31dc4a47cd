"""What notebook 03 trains at each preset: models of n future bytes with trunks of the same depth."""

from dataclasses import dataclass, replace

from mtp_lab.config import HeadKind, ModelConfig, OptimizerConfig, TrainConfig
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
from mtp_lab.tasks.bytes import Source


@dataclass(frozen=True, kw_only=True)
class SpeculationPreset:
    """The trainings of notebook 03 at one preset: models of n future bytes, on code and on prose."""

    n_values: tuple[int, ...]
    """Values of n that are trained on code, `main_n` among them."""
    main_n: int
    """The n that is trained on docstrings and stories, too, and for several numbers of steps on code."""
    seeds: int
    steps: int
    other_steps: tuple[int, ...] = ()
    """Other numbers of steps for `main_n` on code."""
    linear_heads: tuple[tuple[int, int], ...] = ()
    """Trainings on code with `main_n` linear heads: (steps, rows a step). All layers belong to the trunk."""
    self_distillation_steps: int
    """Steps in which heads learn text that head 1 writes (mtp_lab.training.self_distillation). This applies to the
    longest training with parallel heads, and to all trainings with linear heads."""
    batch_size: int
    seq: int
    size: dict[str, int]
    """d_model, trunk_layers, n_attention_heads."""
    optimizer: OptimizerConfig

    @property
    def prompt(self) -> int:
        """Length in bytes of the prompts that models continue."""
        return 3 * self.seq // 8


SPECULATION: dict[str, SpeculationPreset] = {
    "smoke": SpeculationPreset(
        n_values=(1, 2),
        main_n=2,
        seeds=2,
        steps=4,
        other_steps=(8,),
        linear_heads=((8, 2),),
        self_distillation_steps=2,
        batch_size=4,
        seq=64,
        size=dict(SMOKE_SIZE, trunk_layers=1),
        optimizer=SMOKE_OPTIMIZER,
    ),
    "quick": SpeculationPreset(
        n_values=(1, 2, 8),
        main_n=8,
        seeds=2,
        steps=150,
        self_distillation_steps=40,
        batch_size=8,
        seq=128,
        size=dict(SMALL_SIZE, trunk_layers=4),
        optimizer=MUON,
    ),
    "full": SpeculationPreset(  # the longest training takes minutes on a GPU and a night on two cores
        n_values=(1, 2, 4, 8, 16),
        main_n=8,
        seeds=2,
        steps=80,
        other_steps=(500, 5000),
        linear_heads=((5000, 8), (5000, 64)),
        self_distillation_steps=400,
        batch_size=8,
        seq=256,
        size=dict(d_model=128, trunk_layers=8, n_attention_heads=4),
        optimizer=MUON,
    ),
    "paper": SpeculationPreset(  # section 3.3 has 7B byte models and 200B bytes; this is the trunk of the 300M model
        n_values=(1, 8, 16, 32),
        main_n=8,
        seeds=1,
        steps=100_000,
        self_distillation_steps=1000,
        batch_size=128,
        seq=2048,
        size=dict(d_model=1024, trunk_layers=24, n_attention_heads=16),
        optimizer=PAPER_OPTIMIZER,
    ),
}


def speculation_configs(preset: str, seeds: int = 0) -> list[TrainConfig]:
    """The trainings of notebook 03: every n on code, and `main_n` on other texts and for other numbers of steps.

    The longest of these, and those with linear heads, are followed by self-distillation. All trunks with layer heads
    have the same depth, so plain decoding takes the same time for every n.

    Raises:
        ValueError: for an unknown preset.
    """
    chosen = look_up("preset", preset, SPECULATION)
    n, rows = chosen.main_n, chosen.batch_size
    longest = ("library", n, "parallel", max((chosen.steps, *chosen.other_steps)), rows)
    linear = [("library", n, "linear", *length) for length in chosen.linear_heads]
    trainings: list[tuple[Source, int, HeadKind, int, int]] = [
        *(("library", other_n, "parallel", chosen.steps, rows) for other_n in chosen.n_values),
        *(("library", n, "parallel", steps, rows) for steps in chosen.other_steps),
        *linear,
        *((source, n, "parallel", chosen.steps, rows) for source in ("docstrings", "stories")),
    ]
    configs = []
    for seed in range(seeds or chosen.seeds):
        of_seed = {training: _speculation_config(preset, *training, seed) for training in trainings}
        configs += of_seed.values()
        configs += [
            _self_distillation_config(preset, config)
            for training, config in of_seed.items()
            if training in {longest, *linear}
        ]
    return configs


def _speculation_config(
    preset: str, source: Source, n: int, kind: HeadKind, steps: int, rows: int, seed: int
) -> TrainConfig:
    chosen = SPECULATION[preset]
    size = dict(chosen.size, n_layers=chosen.size["trunk_layers"] + n)
    if kind == "linear":
        del size["trunk_layers"]
    return TrainConfig(
        task=BytesTask(source=source, seq=chosen.seq),
        model=ModelConfig(**size, n_future=n, head_kind=kind, max_seq=chosen.seq),
        optimizer=chosen.optimizer,
        name=f"{preset}-{source}-n{n}" + ("-linear" if kind == "linear" else ""),
        steps=steps,
        batch_size=rows,
        seed=seed,
        **milestones(steps, checkpoints=8),
    )


def _self_distillation_config(preset: str, config: TrainConfig) -> TrainConfig:
    """The run that continues that of `config`: heads beyond the first learn text that head 1 writes."""
    chosen = SPECULATION[preset]
    return replace(
        config,
        name=f"{config.name}-written",
        init_from=config.folder,
        self_distilled_tokens=chosen.seq - chosen.prompt,
        # the trunk is frozen in any case
        model=replace(config.model, stop_gradient=tuple(range(1, config.model.n_future + 1))),
        steps=chosen.self_distillation_steps,
        batch_size=4 * chosen.batch_size,  # many rows at once take less time for each generated token
        **milestones(chosen.self_distillation_steps, checkpoints=8),
    )
