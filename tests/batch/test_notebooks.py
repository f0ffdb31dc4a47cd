"""The notebooks themselves: every cell runs, the committed ones show what the sources say, and README repeats them."""

import json
import re
from pathlib import Path

import jupytext
import pytest

from mtp_lab.batch import execution, plan

ROOT = Path(__file__).parents[2]
COMMITTED = [ROOT / "notebooks" / f"{name}.ipynb" for name in plan.NOTEBOOKS]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Every notebook at the smoke preset, in a folder of its own."""
    folder = tmp_path_factory.mktemp("smoke")
    arguments = dict(preset="smoke", out=folder / "out", runs_dir=folder / "runs", notebooks_dir=ROOT / "notebooks")
    return folder, arguments, execution.run(**arguments)


def test_every_cell_runs(smoke):
    """Catches: a cell that a change of the library breaks, and that only a reader would notice."""
    _, _, outcomes = smoke
    assert [outcome.status for outcome in outcomes] == ["done"] * len(plan.NOTEBOOKS), outcomes


def test_a_second_call_has_nothing_to_do(smoke, capsys):
    """Catches: a batch that executes finished notebooks again."""
    folder, arguments, _ = smoke
    before = sorted((path, path.stat().st_mtime_ns) for path in (folder / "runs").rglob("*"))
    assert {outcome.status for outcome in execution.run(**arguments)} == {"already done"}
    assert "nothing to do" in capsys.readouterr().out
    assert sorted((path, path.stat().st_mtime_ns) for path in (folder / "runs").rglob("*")) == before


def test_figures_have_two_faces_and_their_data(smoke):
    """Every figure has a PNG, because a code host does not draw Plotly, and data that can be checked."""
    folder, _, _ = smoke
    for name in plan.NOTEBOOKS:
        notebook = json.loads((folder / "out" / "notebooks" / f"{name}.ipynb").read_text())
        shown = [out["data"] for cell in notebook["cells"] for out in cell.get("outputs", ()) if "data" in out]
        plotly = [data for data in shown if "application/vnd.plotly.v1+json" in data]
        assert len(plotly) >= 4 and all("image/png" in data for data in plotly)
        saved = list((folder / "out" / "figures" / name).glob("*.png"))
        assert len(saved) == len(plotly) and all(path.with_suffix(".json").exists() for path in saved)
        assert list((folder / "out" / "figures" / name).glob("*.csv"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_notebooks_show_their_source(path):
    """Catches: an edited source beside an older execution, whose results come from other code."""
    source = jupytext.read(path.with_suffix(".py"))
    executed = json.loads(path.read_text())
    tags = [set(cell["metadata"].get("tags", ())) for cell in executed["cells"]]
    cells = [cell for cell, tag in zip(executed["cells"], tags, strict=True) if "injected-parameters" not in tag]
    assert ["".join(cell["source"]) for cell in cells] == [cell.source for cell in source.cells]
    assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_notebooks_name_no_machine(path):
    """Catches: the path of a home folder in a committed notebook."""
    assert not re.search(r"/(home|root|work|Users|tmp)/", path.read_text())
