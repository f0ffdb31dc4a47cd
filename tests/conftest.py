"""Settings of the whole test run."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread: models here are tiny, and idle OpenMP threads would spin on cores that others need."""
    torch.set_num_threads(1)
