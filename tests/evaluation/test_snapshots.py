"""Instruments over a training: each measures the model of every snapshot."""

from dataclasses import replace

import pandas as pd
import pytest

from mtp_lab.evaluation.snapshots import progress
from mtp_lab.experiments.induction_heads.conditions import induction_configs
from mtp_lab.model.predictions import loss_per_horizon
from mtp_lab.training import runs


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> runs.Run:
    return runs.get_run(induction_configs("smoke")[-1], tmp_path_factory.mktemp("runs"))


def test_every_snapshot_is_measured_by_every_instrument(run):
    """Numbers and tables alike, each of the model of its own step.
    Catches: the final model measured at every step."""
    batch = run.config.task.held_out("validation", 2)

    def by_horizon(model) -> pd.DataFrame:
        return pd.DataFrame({"horizon": [1, 2], "value": loss_per_horizon(model, batch)})

    table = progress(run, {"next": lambda model: loss_per_horizon(model, batch)[0], "all": by_horizon})
    assert table.groupby("instrument").size().to_dict() == {"next": 5, "all": 10}
    for step in (0, 1, 4):
        expected = loss_per_horizon(run.model(step), batch)
        of_step = table[table.step == step]
        assert of_step[of_step.instrument == "all"].value.tolist() == pytest.approx(expected.tolist())
        assert of_step[of_step.instrument == "next"].value.tolist() == pytest.approx([expected[0]])
    assert table.value.nunique() > 8 and (table.tokens == table.step * 2 * 200).all() and (table.n == 2).all()


def test_what_cannot_be_measured_is_refused(run, tmp_path):
    """A run without snapshots, a step that was not kept, a table without values."""
    with pytest.raises(ValueError, match="step=7 is not one of the snapshots"):
        progress(run, {"one": lambda model: 1.0}, steps=[7])
    with pytest.raises(ValueError, match="instrument 'bad' gives a table of \\['x'\\]; it needs 'value'"):
        progress(run, {"bad": lambda model: pd.DataFrame({"x": [1]})})
    bare = runs.get_run(replace(run.config, snapshot_every=0, steps=1), tmp_path)
    with pytest.raises(ValueError, match="has no snapshots; train it with snapshot_every"):
        progress(bare, {"one": lambda model: 1.0})
