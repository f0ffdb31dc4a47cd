"""What notebook 03 trains at each preset: models of n future bytes with trunks of one depth."""

from dataclasses import dataclass, replace

from mtp_lab.config import HeadKind, ModelConfig, OptimizerConfig, TrainConfig
from mtp_lab.experiments.presets import MUON, milestones
from mtp_lab.tasks import BytesTask
from mtp_lab.tasks.bytes import Source


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
    linear: tuple[tuple[int, int], ...]
    """Trainings on code of `prose_future` heads of one matrix each on a trunk of as many layers in all: steps, and rows
    a step."""
    written_steps: int
    """Steps that the drafts of the longest of `longer`, and of all of `linear`, learn what their head 1 writes
    (written.py), all that a decoder has room for behind a prompt of `prompt` bytes."""
    batch_size: int
    seq: int
    size: dict[str, int]
    """d_model, trunk_layers, n_attention_heads."""
    optimizer: OptimizerConfig

    @property
    def prompt(self) -> int:
        """Bytes of the prompts that texts are written behind."""
        return 3 * self.seq // 8


_FAST = dict(d_model=128, trunk_layers=8, n_attention_heads=4)

SPECULATION: dict[str, SpeculationPreset] = {
    "smoke": SpeculationPreset(
        (1, 2),
        2,
        2,
        4,
        (8,),
        ((8, 2),),
        2,
        4,
        64,
        dict(d_model=16, trunk_layers=1, n_attention_heads=2),
        OptimizerConfig(warmup=2),
    ),
    "quick": SpeculationPreset(
        (1, 2, 8), 8, 2, 150, (), (), 40, 8, 128, dict(d_model=64, trunk_layers=4, n_attention_heads=4), MUON
    ),
    "full": SpeculationPreset(  # the longest: minutes on a GPU, a night on two cores
        (1, 2, 4, 8, 16), 8, 2, 80, (500, 5000), ((5000, 8), (5000, 64)), 400, 8, 256, _FAST, MUON
    ),
    "paper": SpeculationPreset(  # section 3.3: 7B byte models, 200B bytes; here the trunk of the 300M model
        (1, 8, 16, 32),
        8,
        1,
        100_000,
        (),
        (),
        1000,
        128,
        2048,
        dict(d_model=1024, trunk_layers=24, n_attention_heads=16),
        OptimizerConfig(learning_rate=1e-4, warmup=2000),
    ),
}


def speculation_configs(preset: str, seeds: int = 0) -> list[TrainConfig]:
    """The trainings of notebook 03: on code every n; one n on docstrings and stories and for several lengths, and its
    drafts, at the longest, on what the model itself writes.

    Every trunk has the same depth, so that plain decoding costs the same for every n.

    Raises:
        ValueError: for an unknown preset.
    """
    if preset not in SPECULATION:
        raise ValueError(f"preset={preset!r} is not known; use one of {', '.join(SPECULATION)}")
    chosen = SPECULATION[preset]
    one, longest, rows = chosen.prose_future, max((chosen.steps, *chosen.longer)), chosen.batch_size
    linear = [("library", one, "linear", *length) for length in chosen.linear]
    jobs: list[tuple[Source, int, HeadKind, int, int]] = [
        *(("library", n, "parallel", chosen.steps, rows) for n in chosen.futures),
        *(("library", one, "parallel", steps, rows) for steps in chosen.longer),
        *linear,
        *((source, one, "parallel", chosen.steps, rows) for source in ("docstrings", "stories")),
    ]
    to_draft = {("library", one, "parallel", longest, rows), *linear}
    configs = []
    for seed in range(seeds or chosen.seeds):
        found = {job: _speculation_config(preset, *job, seed) for job in jobs}
        configs += found.values()
        configs += [_written_config(preset, config) for job, config in found.items() if job in to_draft]
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
        **milestones(steps),
    )


def _written_config(preset: str, config: TrainConfig) -> TrainConfig:
    """Of the run that goes on from that of `config`, with heads that learn own text."""
    chosen = SPECULATION[preset]
    return replace(
        config,
        name=f"{config.name}-written",
        init_from=config.folder,
        self_distilled_tokens=chosen.seq - chosen.prompt,
        # the trunk learns nothing anyway
        model=replace(config.model, stop_gradient=tuple(range(1, config.model.n_future + 1))),
        steps=chosen.written_steps,
        batch_size=4 * chosen.batch_size,  # a token is written sooner in many rows at once
        **milestones(chosen.written_steps),
    )
