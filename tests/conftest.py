"""Settings of the whole test run."""

import numpy as np
import pytest
import torch

from mtp_lab.config import ModelConfig
from mtp_lab.interp.handmade import induction_model
from mtp_lab.model import MTPTransformer


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


@pytest.fixture(scope="session")
def three_heads() -> MTPTransformer:
    """A model of three bytes with random weights, large enough for heads to agree by chance, often and not always."""
    torch.manual_seed(0)
    model = MTPTransformer(ModelConfig(d_model=16, n_attention_heads=2, trunk_layers=1, n_future=3, max_seq=32))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="session")
def handmade() -> MTPTransformer:
    """The induction circuit that was written down by hand."""
    return induction_model()
