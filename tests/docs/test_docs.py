"""The documents: short, true, and with links that lead somewhere."""

import importlib.util
import re
from pathlib import Path

import pytest

from mtp_lab.experiments import verdicts

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "LAB_LOG.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    """A dead link is where a newcomer gives up."""
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http", "mailto")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text()), target


def anchors(text: str) -> set[str]:
    """Of headings, as code hosts make them, and of explicit ids."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)
    return {*plain, *re.findall(r'(?:id|name)="([^"]+)"', text)}


def test_the_readme_can_be_read_in_two_minutes():
    assert len(README.encode()) <= 9 * 1024


def test_findings_are_few_short_and_from_the_verdicts():
    """At most eight rows of twelve words; every number in a row is in its notebook's recorded verdicts."""
    rows = README.split("<!-- findings -->")[1].split("<!-- /findings -->")[0].strip().splitlines()[2:]
    assert 0 < len(rows) <= 8
    for row in rows:
        finding, kind, link = (cell.strip() for cell in row.strip("|").split("|"))
        words = re.findall(r"[A-Za-z][\w'-]*", finding)
        assert len(words) <= 12 and kind in ("exact", "exploratory", "confirmatory"), finding
        notebook = re.search(r"notebooks/(\w+)\.ipynb", link)[1]
        recorded = (ROOT / "figures" / notebook / "verdict.json").read_text()
        for number in re.findall(r"\d+\.\d+|(?<=n = )\d+", finding):
            assert number in recorded, (finding, number)


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    """The first lines that a user copies."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(re.search(r"```python\n(.*?)```", README, re.S)[1], names)
    assert names["logits"].shape[0] == 2 and names["pattern"].ndim == 4 and names["run"].config.steps == 20


def test_every_file_that_contributing_names_exists():
    for path in re.findall(r"`((?:mtp_lab|data_gen|tests|docs)/[\w/.]+)`", (ROOT / "CONTRIBUTING.md").read_text()):
        assert (ROOT / path).exists(), path


def test_the_page_of_hook_points_is_that_of_the_model():
    """A hook that is renamed must not stay on the page."""
    spec = importlib.util.spec_from_file_location("hook_points", ROOT / "docs" / "hook_points.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "hook_points.md").read_text() == module.page()


def test_the_page_of_results_shows_the_recorded_verdicts():
    """A table typed by hand, or left from an older run, is not a result."""
    assert (ROOT / "docs" / "results.md").read_text() == verdicts.results_page(ROOT / "figures")
