"""What notebook 06 trains at each preset: models of the choice process that differ in n and in what choices weigh.

The trunk is the same in all cells. Next-token models whose consequential choices weigh (n + 1)/2 have the emphasis of
the n-token loss without its heads; n-token models without the targets that come before their cause has been read have
the heads without the emphasis. Beside them stands one model of stories, whose eight heads colour a text. Presets are
those of mtp_lab.experiments.real_bytes.conditions.
"""

from dataclasses import dataclass

from data_gen.choice_process import ChoiceProcess
from data_gen.stories.generator import Stories
from data_gen.stories.names import NamePools
from mtp_lab.config import ModelConfig, OptimizerConfig, TrainConfig
from mtp_lab.experiments.induction_heads.conditions import GIVEN, INDUCTION
from mtp_lab.tasks import ChoiceProcessTask, StoriesTask

PROCESS = ChoiceProcess(n_choices=4, forced=3, relevance=(23, 0))
"""Every other choice is of no consequence; each forced token is the sum of the last three that are."""
CHOICE = "consequential"
"""The mark of the choices that weights are about."""
STORY_HEADS = 8


@dataclass(frozen=True)
class ChoiceCondition:
    """Trainings of notebook 06 that differ in their seed alone."""

    n: int = 1
    weight: float = 1.0
    """What consequential choices count in the loss, at every horizon; other tokens count 1."""
    cancelled: bool = False
    """Whether targets count only where their cause has been read, which leaves a choice the terms of any token."""


@dataclass(frozen=True)
class ChoicePreset:
    """The job of notebook 06."""

    conditions: tuple[ChoiceCondition, ...]
    """The first is what the others are compared with."""
    seeds: int
    steps: int
    batch_size: int
    seq: int
    trunk: int
    """Layers of the trunk; the next-token head adds one to its path."""
    size: dict[str, int]
    """d_model, n_attention_heads."""
    optimizer: OptimizerConfig
    rows: int
    """Test rows behind every measure, and prompts that are continued."""
    story_steps: int
    story_batch: int
    story_trunk: int


_CELLS = (
    ChoiceCondition(1),
    ChoiceCondition(1, 1.5),  # weighs as n = 2 does
    ChoiceCondition(1, 2.5),  # as n = 4
    ChoiceCondition(2),
    ChoiceCondition(2, cancelled=True),  # as n = 1
    ChoiceCondition(4),
    ChoiceCondition(4, cancelled=True),  # as n = 1
)
_TWO = tuple(condition for condition in _CELLS if condition.n <= 2 and condition.weight < 2)
_MUON = OptimizerConfig(kind="muon", learning_rate=1e-2)
_SMALL = dict(d_model=64, n_attention_heads=4)

CHOICES: dict[str, ChoicePreset] = {
    "smoke": ChoicePreset(
        _TWO,
        2,
        2,
        2,
        64,
        1,
        dict(d_model=16, n_attention_heads=2),
        OptimizerConfig(warmup=2),
        8,
        2,
        2,
        1,
    ),
    "quick": ChoicePreset(_TWO, 2, 150, 8, 128, 3, _SMALL, _MUON, 64, 100, 8, 3),
    "full": ChoicePreset(_CELLS, 5, 500, 16, 128, 3, _SMALL, _MUON, 256, 500, 8, 3),
    # Section 4's training: Adam, 100k steps of .25M tokens; the 30M model.
    "paper": ChoicePreset(
        _CELLS,
        2,
        100_000,
        256,
        1024,
        9,
        dict(d_model=512, n_attention_heads=8),
        OptimizerConfig(learning_rate=1e-4, warmup=2000),
        256,
        100_000,
        1280,
        9,
    ),
}


def choice_configs(preset: str, seeds: int = 0) -> list[TrainConfig]:
    """The trainings of notebook 06 on the choice process, cell after cell; seeds of all cells share data and order.

    Args:
        seeds: number of seeds of every cell; 0 takes the preset's.

    Raises:
        ValueError: for an unknown preset.
    """
    chosen = _chosen(preset)
    task = ChoiceProcessTask(stream=PROCESS, seq=chosen.seq)
    return [
        TrainConfig(
            task=task,
            model=ModelConfig(
                vocab_size=task.vocab_size,
                **chosen.size,
                n_layers=chosen.trunk + condition.n,
                trunk_layers=chosen.trunk,
                n_future=condition.n,
                max_seq=chosen.seq,
            ),
            optimizer=chosen.optimizer,
            name=f"{preset}-choices-n{condition.n}",
            steps=chosen.steps,
            batch_size=chosen.batch_size,
            label_weights=() if condition.weight == 1 else ((CHOICE, condition.weight),),
            mask_unread_causes=condition.cancelled,
            seed=seed,
            log_every=max(1, chosen.steps // 40),
            evaluate_every=max(1, chosen.steps // 20),
            evaluate_rows=min(64, chosen.rows),
            checkpoint_every=max(1, chosen.steps // 4),
        )
        for condition in chosen.conditions
        for seed in range(seeds or chosen.seeds)
    ]


def story_config(preset: str) -> TrainConfig:
    """The one training of notebook 06 on stories: eight heads, the previous-token half of induction given.

    Raises:
        ValueError: for an unknown preset.
    """
    chosen, induction = _chosen(preset), INDUCTION[preset]
    task = StoriesTask(stream=Stories(names=NamePools(names=256, scattered=True)))
    model = ModelConfig(
        vocab_size=task.vocab_size,
        **induction.size,
        **GIVEN["smeared"],
        n_layers=chosen.story_trunk + STORY_HEADS,
        trunk_layers=chosen.story_trunk,
        n_future=STORY_HEADS,
        max_seq=task.seq,
    )
    return TrainConfig(
        task=task,
        model=model,
        optimizer=induction.optimizer,
        name=f"{preset}-smeared-n{STORY_HEADS}",
        steps=chosen.story_steps,
        batch_size=chosen.story_batch,
        log_every=max(1, chosen.story_steps // 20),
        evaluate_every=max(1, chosen.story_steps // 5),
        evaluate_rows=32,
        checkpoint_every=max(1, chosen.story_steps // 4),
    )


def all_configs(preset: str, seeds: int = 0) -> list[TrainConfig]:
    """All trainings of notebook 06. Args, Raises: as `choice_configs`."""
    return [*choice_configs(preset, seeds), story_config(preset)]


def _chosen(preset: str) -> ChoicePreset:
    if preset not in CHOICES:
        raise ValueError(f"preset={preset!r} is not known; use one of {', '.join(CHOICES)}")
    return CHOICES[preset]
