"""Runs by a short name, from a folder of runs or directly from a zoo."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mtp_lab.batch.zoo import pack
from mtp_lab.config import TrainConfig
from mtp_lab.experiments.registry import trainings
from mtp_lab.training.checkpoints import DamagedFile
from mtp_lab.training.named_runs import HOME_ZOO, load, short_name
from mtp_lab.training.runs import Run, get_run
from mtp_lab.training.zoo_files import PackedRun, packed_files

CONFIGS = list(trainings("04_induction_heads", "smoke", 1).values())
"""Two models of stories with snapshots, called induction/n1-seed0 and induction/rotary-n2-seed0."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    for config in CONFIGS:
        get_run(config, folder)
    return folder


@pytest.fixture(scope="module")
def packed(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    pack("smoke", 1, str(trained), str(folder), ("04_induction_heads",))
    return folder


def test_a_run_is_found_by_its_short_and_by_its_full_name(trained, packed):
    """Trained runs come before those of the zoo, whose weights are rounded."""
    for name in ("induction/n1-seed0", CONFIGS[0].folder):
        run = load(name, trained, packed)
        assert type(run) is Run and run.path == trained / CONFIGS[0].folder and run.config == CONFIGS[0]


def test_a_packed_run_is_the_trained_one_rounded(trained, packed, tmp_path):
    """Catches: a packed file read as another step, a log or config that is lost, snapshots that are not offered."""
    for config in CONFIGS:
        original, run = get_run(config, trained), load(short_name(config), tmp_path, packed)
        assert isinstance(run, PackedRun) and run.config == config and run.name == original.name
        assert run.log() == original.log() and run.metrics().equals(original.metrics())
        assert run.snapshots() == [0, 1, 2, 4] and original.snapshots() == [0, 1, 2, 3, 4]
        for step in (None, 0, 4):
            weights, exact = run.model(step).state_dict(), original.model(step).state_dict()
            assert all(torch.allclose(weights[name], exact[name], atol=0.01) for name in exact)
        assert not torch.equal(run.weights(0)["embed.weight"], run.weights()["embed.weight"])
        with pytest.raises(ValueError, match="step=3 is not one of the snapshots of .*: 0, 1, 2, 4"):
            run.model(3)
        assert not list(tmp_path.iterdir()), "nothing is unpacked"


def test_an_unknown_name_is_refused_with_similar_ones(trained, packed):
    with pytest.raises(ValueError, match="there is no run 'induction/n3-seed0' in .*; similar names: .*n1-seed0"):
        load("induction/n3-seed0", trained, packed)


def test_two_runs_of_one_name_are_refused_with_their_full_names(trained, tmp_path, packed):
    """A silent choice between two models would be a wrong result half of the time."""
    other = replace(CONFIGS[0], steps=3)
    shutil.copytree(trained, tmp_path / "runs")
    get_run(other, tmp_path / "runs")
    with pytest.raises(ValueError, match="2 runs are called 'induction/n1-seed0'; use one of .*n1-.*smeared-n1"):
        load("induction/n1-seed0", tmp_path / "runs", packed)
    assert load(other.folder, tmp_path / "runs", packed).config == other


def test_a_damaged_packed_file_is_named(packed, tmp_path):
    zoo = shutil.copytree(packed, tmp_path / "zoo")
    for file in packed_files(zoo).values():
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DamagedFile, match=r"smoke-.*safetensors is damaged"):
        load("induction/n1-seed0", tmp_path, zoo).model()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"task": {"kind": "later"}, "name": "n", "seed": 0}'])
def test_a_run_that_cannot_be_read_hides_no_other(trained, packed, tmp_path, text):
    """Catches: a traceback for every name because one config.json is empty, or from another version."""
    runs = shutil.copytree(trained, tmp_path / "runs")
    (runs / "stories" / "other").mkdir()
    for name, content in (("config.json", text), ("done.json", "{}")):
        (runs / "stories" / "other" / name).write_text(content)
    assert load("induction/n1-seed0", runs, packed).config == CONFIGS[0]


def test_every_run_of_the_repositorys_zoo_has_a_short_name_of_its_own():
    names = Counter(short_name(load(full, "none").config) for full in packed_files(HOME_ZOO))
    assert len(names) > 50 and set(names.values()) == {1} and {"stars/n2-seed0", "induction/n2-seed0"} <= set(names)


def test_names_leave_out_presets_and_usual_words():
    assert short_name(TrainConfig(name="quick-library-n8", seed=2)) == "bytes/n8-seed2"
