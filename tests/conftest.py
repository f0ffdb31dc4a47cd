"""Settings of the whole test run."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mtp_lab.config import ModelConfig
from mtp_lab.interp.handmade import induction_model
from mtp_lab.model.transformer import MTPTransformer

SURVIVED = "faults survived"


LONG = ("test_workflow.py", "test_notebooks.py", "test_execution.py", "test_faults_batch.py", "test_faults_training.py")
"""Files that take a minute or more, longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: with a file a worker, one that is begun at the end is waited for by all others."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread: models here are tiny, and idle OpenMP threads would spin on cores that others need."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> str:
    """40 files with names that fall into all three splits, so short that most rows hold several."""
    folder = tmp_path_factory.mktemp("corpus")
    words = np.random.default_rng(0).choice(["the ", "bird ", "sang. ", "a ", "cat ", "and "], size=(40, 24))
    for i, row in enumerate(words):
        (folder / f"{i:02d}.txt").write_text("".join(row))
    return str(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A runs directory for runs that nothing ever disturbs."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture(scope="session")
def three_heads() -> MTPTransformer:
    """A model of three bytes with random weights, large enough for heads to agree by chance, often and not always."""
    torch.manual_seed(0)
    model = MTPTransformer(ModelConfig(d_model=16, n_attention_heads=2, trunk_layers=1, n_future=3, max_seq=32))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def survived(record_property) -> Callable[[int, str], None]:
    """Notes that so many faults of a kind were survived, for the end of the output."""
    return lambda number, fault: record_property(SURVIVED, [number, fault])


def pytest_terminal_summary(terminalreporter) -> None:
    """Adds up the faults of the tests that passed, those in other processes (pytest-xdist) included."""
    passed = [report.user_properties for report in terminalreporter.stats.get("passed", ())]
    faults: Counter[str] = Counter()
    for number, fault in (value for properties in passed for name, value in properties if name == SURVIVED):
        faults[fault] += number
    if faults:
        terminalreporter.section(f"{SURVIVED}: {faults.total()}")
        for fault, number in faults.items():
            terminalreporter.write_line(f"{number:4d} x {fault}")


@pytest.fixture(scope="session")
def handmade() -> MTPTransformer:
    """The induction circuit that was written down by hand."""
    return induction_model()
