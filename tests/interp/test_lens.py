"""The lens through every head: the model's own logits at the end of the trunk, known answers before it."""

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from mtp_lab.config import HeadKind, ModelConfig
from mtp_lab.interp.handmade import repeated_tokens
from mtp_lab.interp.lens import lens, readings
from mtp_lab.model.targets import IGNORE, future_targets
from mtp_lab.model.transformer import MTPTransformer

HALF = 12
KINDS = get_args(HeadKind)


def random_model(kind: str) -> MTPTransformer:
    """Two layers and three heads with random weights, none of them small."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=11, d_model=16, n_attention_heads=2, trunk_layers=2, n_future=3, head_kind=kind, max_seq=24
    )
    model = MTPTransformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def packed(rows: int = 3) -> tuple[Tensor, Tensor]:
    """Two documents of 9 and 8 tokens and padding in each row."""
    tokens = torch.randint(0, 11, (rows, 20), generator=torch.Generator().manual_seed(1))
    documents = (torch.arange(20) > 8).long().expand(rows, 20) + 2 * torch.arange(rows)[:, None]
    return tokens, documents.where(torch.arange(20) < 17, -1)


def as_dict(model: MTPTransformer, tokens: Tensor, documents: Tensor | None) -> dict[tuple[str, str], Tensor]:
    return {(layer, reading): logits for layer, reading, logits in readings(model, tokens, documents)}


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_end_of_the_trunk_it_is_the_model(kind):
    """To the bit, for every kind of head. Catches: heads that read the trunk where they should read a head."""
    model, (tokens, documents) = random_model(kind), packed()
    found = as_dict(model, tokens, documents)
    layers = ["embed", "blocks.0", "blocks.1"]
    assert list(found) == [(layer, reading) for layer in layers for reading in ("direct", "head")]
    assert torch.equal(found["blocks.1", "head"], model.all_logits(tokens, documents))
    assert not torch.allclose(found["blocks.0", "head"], found["blocks.1", "head"], atol=0.1)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_earlier_states_are_those_of_a_shorter_trunk(kind):
    """Against models that were built with as many layers, and the same weights; directly, against a single product."""
    model, (tokens, documents) = random_model(kind), packed()
    found = as_dict(model, tokens, documents)
    for depth, layer in enumerate(("embed", "blocks.0", "blocks.1")):
        short = MTPTransformer(replace(model.config, trunk_layers=depth)).eval()
        short.load_state_dict({k: v for k, v in model.state_dict().items() if k in short.state_dict()})
        torch.testing.assert_close(found[layer, "head"], short.all_logits(tokens, documents))
        state = short.trunk(tokens, short.context(tokens, documents))
        scaled = state / (state.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        for horizon in range(3):
            expected = scaled @ model.unembed.weight.T
            torch.testing.assert_close(found[layer, "direct"][horizon], expected, rtol=1e-4, atol=1e-4)


def test_the_trunk_layer_is_what_the_heads_need(handmade):
    """Without it neither head knows what comes, with it both do; the trunk itself predicts nothing.
    Catches: states shifted by a layer, readings or horizons mixed up."""
    tokens = repeated_tokens(handmade, 20, HALF, torch.Generator().manual_seed(0))  # more than ROWS_AT_ONCE
    second = (torch.arange(2 * HALF + 1) > HALF + 2).expand_as(tokens)
    table = lens(handmade, tokens, labels={"second half": second})
    found = table[table.label == "second half"].set_index(["layer", "reading", "horizon"])
    for i in (1, 2):
        assert found.accuracy["embed", "head", i] < 0.3 and found.nll["embed", "head", i] > 1
        assert found.accuracy["blocks.0", "head", i] == 1 and found.nll["blocks.0", "head", i] < 0.01
        for layer in ("embed", "blocks.0"):
            assert found.nll[layer, "direct", i] == pytest.approx(math.log(24), abs=1e-5)
    assert (found.targets == 20 * (HALF - 2)).all()
    everything = table[table.label == "all"].set_index(["layer", "reading", "horizon"])
    assert everything.targets["embed", "head", 2] == 20 * (2 * HALF - 1)
    assert 0.4 < everything.accuracy["blocks.0", "head", 1] < 0.7


@torch.no_grad()
@pytest.mark.parametrize("teacherless", [False, True])
def test_numbers_are_counts_token_by_token(teacherless):
    """Against a loop over targets, with a random label. Catches: a label of the query in place of the target,
    the tokens that are read taken for the targets (teacherless)."""
    model, (tokens, documents) = random_model("causal"), packed()
    target_tokens = tokens.flip(0) if teacherless else tokens
    label = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    table = lens(model, tokens, documents, {"some": label}, target_tokens=target_tokens if teacherless else None)
    table = table.set_index(["layer", "reading", "horizon", "label"])
    targets = future_targets(target_tokens, 3, documents)
    for (layer, reading), logits in as_dict(model, tokens, documents).items():
        for i in (1, 2, 3):
            right, nll = [], []
            for row, t in np.argwhere((targets[i - 1] != IGNORE).numpy()):
                if label[row, t + i]:
                    right.append(logits[i - 1, row, t].argmax() == targets[i - 1, row, t])
                    nll.append(-logits[i - 1, row, t].log_softmax(-1)[targets[i - 1, row, t]])
            found = table.loc[(layer, reading, i, "some")]
            assert found.targets == len(right) > 5
            assert found.accuracy == pytest.approx(float(np.mean(right)))
            assert found.nll == pytest.approx(float(np.mean(nll)), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_documents_never_leak(kind):
    """Packed documents are read as each in a row of its own. Catches: targets or attention in another document."""
    model, (tokens, documents) = random_model(kind), packed()
    rows = [[(tokens[r : r + 1, :9]), (tokens[r : r + 1, 9:17])] for r in range(3)]
    alone = pd.concat([lens(model, part) for row in rows for part in row])
    by = ["layer", "reading", "horizon"]
    expected = alone.assign(nll=alone.nll * alone.targets, right=alone.accuracy * alone.targets).groupby(by).sum()
    found = lens(model, tokens, documents).set_index(by).loc[expected.index]
    assert (found.targets == expected.targets).all()
    np.testing.assert_allclose(found.accuracy, expected.right / expected.targets)
    np.testing.assert_allclose(found.nll, expected.nll / expected.targets, rtol=1e-5)


def test_a_label_without_targets_has_no_number(handmade):
    """NaN and 0 targets, not an error or a zero; a mask of another type is an error."""
    tokens = repeated_tokens(handmade, 2, HALF, torch.Generator().manual_seed(0))
    table = lens(handmade, tokens, labels={"none": torch.zeros_like(tokens, dtype=torch.bool)})
    none = table[table.label == "none"]
    assert none.accuracy.isna().all() and none.nll.isna().all() and (none.targets == 0).all()
    assert table[table.label == "all"].notna().all(axis=None)
    with pytest.raises(ValueError, match=r"labels\['whole'\] must be bool of the shape of tokens, \(2, 25\), got"):
        lens(handmade, tokens, labels={"whole": tokens})
    with pytest.raises(ValueError, match=r"target_tokens \(2, 24\) must have the shape of tokens \(2, 25\)"):
        lens(handmade, tokens, target_tokens=tokens[:, 1:])
