"""Verdicts and the table made of them: every test states a property and the bug it would catch."""

import json

import pytest

from mtp_lab.experiments.verdicts import RESULTS_INTRODUCTION, Verdict, collect, record, results_page

CLAIM = Verdict("Two heads help", "+1.7 points (Table 1)", "+2.1 points", "95 %: 1.0 to 3.2", 5, "reproduced")
OURS = Verdict("A claim of ours", "", "0.3", "", 3, "beyond the paper")


@pytest.fixture
def figures(tmp_path):
    """Two notebooks' verdicts, recorded in the order that is not the table's."""
    record(tmp_path / "figures", "02_b", "full", [OURS], "mtp-lab study --only 02_b")
    record(tmp_path / "figures", "01_a", "full", [CLAIM, OURS], "mtp-lab study --only 01_a")
    return tmp_path / "figures"


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"verdict": "confirmed"}, "verdict='confirmed' is not known; use one of 'reproduced', 'mixed'"),
        ({"seeds": 0}, "seeds=0 must be an integer of at least 1"),
        ({"seeds": "5"}, "seeds='5' must be an integer"),
        ({"claim": " "}, "claim=' ' must be text that is not empty"),
        ({"ours": 2.1}, "ours=2.1 must be text"),
        ({"paper": ""}, "paper='' must be text that is not empty"),
        ({"interval": None}, "interval=None must be text"),
    ],
)
def test_a_verdict_refuses_what_the_table_could_not_show(change, complaint):
    """Catches: a fifth word for a verdict, a result without seeds, a comparison without the paper's number."""
    with pytest.raises(ValueError) as error:
        Verdict(**{**vars(CLAIM), **change})
    assert str(error.value).startswith(complaint)


def test_collect_merges_what_was_recorded_sorted_by_notebook(figures):
    """Catches: entries in the order of the folder's listing (another on each machine), and fields lost on the way."""
    entries = collect(figures)
    assert [entry["notebook"] for entry in entries] == ["01_a", "02_b"]
    assert [Verdict(**fields) for fields in entries[0]["verdicts"]] == [CLAIM, OURS]
    assert (entries[0]["preset"], entries[0]["command"]) == ("full", "mtp-lab study --only 01_a")
    assert json.loads((figures / "verdicts.json").read_text()) == entries


def test_recording_again_replaces_and_collecting_again_changes_nothing(figures):
    """Catches: verdicts of two executions in one file, and a collected file that is collected again."""
    collect(figures)
    before = (figures / "verdicts.json").read_bytes()
    record(figures, "02_b", "full", [OURS], "mtp-lab study --only 02_b")
    collect(figures)
    assert (figures / "verdicts.json").read_bytes() == before
    assert not [path for path in figures.rglob("*") if path.is_file() and path.name.startswith(".")]


def test_collect_without_verdicts_is_an_empty_table(tmp_path):
    """Catches: a first batch in which all failed, and that ends in a traceback instead of a report."""
    assert collect(tmp_path / "figures") == []
    assert results_page(tmp_path / "figures") == RESULTS_INTRODUCTION


@pytest.mark.parametrize("text", ['{"verdicts": []}', "{", "[]", '{"verdicts": [{"claim": "no more"}]}'])
def test_collect_names_the_file_that_is_no_record(figures, text):
    """Catches: a KeyError that does not name the edited file, and a verdicts.json that loses entries."""
    collect(figures)
    before = (figures / "verdicts.json").read_bytes()
    (figures / "02_b" / "verdict.json").write_text(text)
    with pytest.raises(ValueError, match=r"02_b.verdict\.json is not a record of verdicts"):
        collect(figures)
    assert (figures / "verdicts.json").read_bytes() == before


@pytest.mark.parametrize("notebook", ["", "a/b", "..", "/a"])
def test_record_takes_a_plain_name(tmp_path, notebook):
    """Catches: a verdict outside figures_dir/<notebook>/, which no batch finds."""
    with pytest.raises(ValueError, match="must be a notebook's name"):
        record(tmp_path, notebook, "full", [CLAIM], "make")


def test_record_needs_a_verdict(tmp_path):
    """Catches: a file that marks a notebook as done without any verdict."""
    for nothing in ([], [{"claim": "a"}]):
        with pytest.raises(ValueError, match="must be one Verdict or more"):
            record(tmp_path, "01_a", "full", nothing, "make")
    assert not list(tmp_path.iterdir())


def test_the_page_has_a_section_for_each_notebook_and_a_row_for_each_verdict(figures):
    """Catches: a claim that is left out, a missing interval, and dead links."""
    collect(figures)
    page = results_page(figures)
    assert page.startswith(RESULTS_INTRODUCTION)
    assert page[len(RESULTS_INTRODUCTION) :].splitlines() == [
        "",
        "## 01_a",
        "",
        "[Notebook](../notebooks/01_a.ipynb). 1 reproduced, 1 beyond the paper. To repeat:",
        "",
        "    mtp-lab study --only 01_a",
        "",
        "| Claim | Paper | Ours | Seeds | Verdict |",
        "|---|---|---|---|---|",
        "| Two heads help | +1.7 points (Table 1) | +2.1 points (95 %: 1.0 to 3.2) | 5 | reproduced |",
        "| A claim of ours |  | 0.3 | 3 | beyond the paper |",
        "",
        "## 02_b",
        "",
        "[Notebook](../notebooks/02_b.ipynb). 1 beyond the paper. To repeat:",
        "",
        "    mtp-lab study --only 02_b",
        "",
        "| Claim | Paper | Ours | Seeds | Verdict |",
        "|---|---|---|---|---|",
        "| A claim of ours |  | 0.3 | 3 | beyond the paper |",
    ]


def test_text_cannot_break_the_table(tmp_path):
    """Catches: P(x|y) or a line break in a claim that breaks the table."""
    record(tmp_path, "01_a", "full", [Verdict("P(x|y)\nis ≥ 0", "1", "2", "", 1, "mixed")], "make")
    collect(tmp_path)
    assert results_page(tmp_path).splitlines()[-1].startswith(r"| P(x\|y) is ≥ 0 | 1 | 2 |")
