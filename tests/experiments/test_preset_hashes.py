"""The config hashes of every training of every preset: recorded runs are found by them.

If a config hash changes, existing trained models are no longer found. `preset_hashes.json` holds the hashes of every
experiment, preset and seed. After a deliberate change, write it again:

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
    """`task/name-hash` of every run, in order. The hash of Python's library, the data of byte models, is left out."""
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
    """After a refactoring that changes a hash, no trained model of that experiment is found."""
    assert hashes(experiment, preset) == json.loads(RECORDED.read_text())[experiment][preset]


if __name__ == "__main__":
    recorded = {experiment: {preset: hashes(experiment, preset) for preset in PRESETS} for experiment in TRAININGS}
    RECORDED.write_text(json.dumps(recorded, indent=1) + "\n")
