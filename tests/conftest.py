"""Settings of the whole test run."""

import numpy as np
import pytest
import torch


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
