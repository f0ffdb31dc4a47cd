"""The identity of every training that a preset asks for: recorded runs are found by these hashes.

A config hash that changes orphans the trained models of everybody. `preset_hashes.json` holds the hashes of every
experiment, preset and seed. After a deliberate change, write it anew:

    python tests/experiments/test_preset_hashes.py
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mtp_lab.config import TrainConfig
from mtp_lab.experiments.registry import TRAININGS, trainings
from mtp_lab.serialization import config_hash

RECORDED = Path(__file__).with_name("preset_hashes.json")
PRESETS = ("smoke", "quick", "full", "paper")


def hashes(experiment: str, preset: str) -> list[str]:
    """`task/name-hash` of every run, in order, whatever Python's own library, which byte models read, contains."""
    return [_identity(config) for config in trainings(experiment, preset, 0).values()]


def _identity(config: TrainConfig) -> str:
    if hasattr(config.task, "corpus_hash"):
        config = replace(config, task=replace(config.task, corpus_hash="0" * 64))
    if config.init_from:  # the folder of another run, whose hash is recorded with that run
        config = replace(config, init_from=config.init_from.rpartition("-")[0])
    return f"{config.task.name}/{config.name}-{config_hash(config)}"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("experiment", TRAININGS)
def test_hashes_are_the_recorded_ones(experiment, preset):
    """A refactoring that changes a hash makes every trained model of that experiment unfindable."""
    assert hashes(experiment, preset) == json.loads(RECORDED.read_text())[experiment][preset]


if __name__ == "__main__":
    found = {experiment: {preset: hashes(experiment, preset) for preset in PRESETS} for experiment in TRAININGS}
    RECORDED.write_text(json.dumps(found, indent=1) + "\n")
