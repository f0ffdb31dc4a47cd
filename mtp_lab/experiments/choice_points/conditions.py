"""What notebook 06 trains at each preset: models of the choice process that differ in n and in the weight of choices.

All conditions have the same trunk. Next-token models whose consequential choices have the weight (n + 1)/2 have the
emphasis of the n-token loss without its heads. Models with masked targets have the heads without the emphasis: head i
ignores a target if the choice that determines it lies after the head's input position. One model of stories with eight
heads is trained besides, for the figure of a story.
"""

from dataclasses import dataclass

from data_gen.choice_process import ChoiceProcess
from data_gen.stories.generator import Stories
from data_gen.stories.names import NamePools
from mtp_lab.config import ModelConfig, OptimizerConfig, TrainConfig
from mtp_lab.experiments.induction_heads.conditions import INDUCTION, PREVIOUS_TOKEN
from mtp_lab.experiments.presets import (
    PAPER_OPTIMIZER,
    PAPER_SIZE,
    SMALL_SIZE,
    SMOKE_OPTIMIZER,
    SMOKE_SIZE,
    look_up,
    milestones,
)
from mtp_lab.tasks import ChoiceProcessTask, StoriesTask

PROCESS = ChoiceProcess(n_choices=4, forced=3, relevance=(23, 0))
"""Every other choice is inconsequential. Each forced token is the sum of the last three consequential choices."""
CHOICE = "consequential"
"""Label of the tokens that `choice_weight` applies to."""
STORY_HEADS = 8


@dataclass(frozen=True, kw_only=True)
class ChoiceCondition:
    """A condition of notebook 06: trainings that differ in their seed only."""

    n: int = 1
    choice_weight: float = 1.0
    """Weight of consequential choices in the loss, at every horizon. Other tokens have weight 1."""
    masked: bool = False
    """Whether targets are masked whose cause the head has not read. Choices then weigh as much as other tokens."""


@dataclass(frozen=True, kw_only=True)
class ChoicePreset:
    """The trainings of notebook 06 at one preset."""

    conditions: tuple[ChoiceCondition, ...]
    """The first is the one that others are compared with."""
    seeds: int
    steps: int
    batch_size: int
    seq: int
    trunk: int
    """Layers of the trunk. The path of the next-token head has one more."""
    size: dict[str, int]
    """d_model, n_attention_heads."""
    optimizer: OptimizerConfig
    rows: int
    """Test rows of every measure, and the number of prompts that models continue."""
    story_steps: int
    story_batch: int
    story_trunk: int


_FULL = (
    ChoiceCondition(n=1),
    ChoiceCondition(n=1, choice_weight=1.5),  # the emphasis of n = 2
    ChoiceCondition(n=1, choice_weight=2.5),  # the emphasis of n = 4
    ChoiceCondition(n=2),
    ChoiceCondition(n=2, masked=True),  # the emphasis of n = 1
    ChoiceCondition(n=4),
    ChoiceCondition(n=4, masked=True),  # the emphasis of n = 1
)
_UP_TO_TWO = tuple(condition for condition in _FULL if condition.n <= 2 and condition.choice_weight < 2)
_MUON = OptimizerConfig(kind="muon", learning_rate=1e-2)

CHOICES: dict[str, ChoicePreset] = {
    "smoke": ChoicePreset(
        conditions=_UP_TO_TWO,
        seeds=2,
        steps=2,
        batch_size=2,
        seq=64,
        trunk=1,
        size=SMOKE_SIZE,
        optimizer=SMOKE_OPTIMIZER,
        rows=8,
        story_steps=2,
        story_batch=2,
        story_trunk=1,
    ),
    "quick": ChoicePreset(
        conditions=_UP_TO_TWO,
        seeds=2,
        steps=150,
        batch_size=8,
        seq=128,
        trunk=3,
        size=SMALL_SIZE,
        optimizer=_MUON,
        rows=64,
        story_steps=100,
        story_batch=8,
        story_trunk=3,
    ),
    "full": ChoicePreset(
        conditions=_FULL,
        seeds=5,
        steps=500,
        batch_size=16,
        seq=128,
        trunk=3,
        size=SMALL_SIZE,
        optimizer=_MUON,
        rows=256,
        story_steps=500,
        story_batch=8,
        story_trunk=3,
    ),
    # Section 4's training, the model of 30M parameters.
    "paper": ChoicePreset(
        conditions=_FULL,
        seeds=2,
        steps=100_000,
        batch_size=256,
        seq=1024,
        trunk=9,
        size=PAPER_SIZE,
        optimizer=PAPER_OPTIMIZER,
        rows=256,
        story_steps=100_000,
        story_batch=1280,
        story_trunk=9,
    ),
}


def choice_configs(preset: str, seeds: int = 0) -> list[TrainConfig]:
    """The trainings of notebook 06 on the choice process, condition after condition.

    A seed has the same data in the same order in all conditions.

    Args:
        seeds: number of seeds of every condition; 0 takes the preset's.

    Raises:
        ValueError: for an unknown preset.
    """
    chosen = look_up("preset", preset, CHOICES)
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
            label_weights=() if condition.choice_weight == 1 else ((CHOICE, condition.choice_weight),),
            mask_unread_causes=condition.masked,
            seed=seed,
            evaluate_rows=min(64, chosen.rows),
            **milestones(chosen.steps, logs=40, evaluations=20),
        )
        for condition in chosen.conditions
        for seed in range(seeds or chosen.seeds)
    ]


def story_config(preset: str) -> TrainConfig:
    """The one training of notebook 06 on stories: eight heads, smeared keys.

    Raises:
        ValueError: for an unknown preset.
    """
    chosen, induction = look_up("preset", preset, CHOICES), INDUCTION[preset]
    task = StoriesTask(stream=Stories(names=NamePools(names=256, scattered=True)))
    model = ModelConfig(
        vocab_size=task.vocab_size,
        **induction.size,
        **PREVIOUS_TOKEN["smeared"],
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
        evaluate_rows=32,
        **milestones(chosen.story_steps, logs=20, evaluations=5),
    )


def all_configs(preset: str, seeds: int = 0) -> list[TrainConfig]:
    """All trainings of notebook 06: the choice process, then the stories. Args, Raises: as `choice_configs`."""
    return [*choice_configs(preset, seeds), story_config(preset)]
