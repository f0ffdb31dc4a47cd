"""Linear probes read what the model written down by hand holds where it holds it, and its baselines know nothing more.

Every test states a property and the bug it would catch.
"""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from mtp_lab.config import ModelConfig
from mtp_lab.interp.handmade import repeated_tokens
from mtp_lab.interp.probes import most_frequent, probe, split_rows
from mtp_lab.model.transformer import MTPTransformer

HALF, ROWS = 12, 240
WORDS = range(1, 24)  # all tokens of the handmade model but the first of each row
CHANCE = 0.12  # of 23 classes 0.043; the rest is what a fit to 2,000 examples finds by luck


@pytest.fixture(scope="module")
def tokens(handmade) -> Tensor:
    return repeated_tokens(handmade, ROWS, HALF, torch.Generator().manual_seed(0))  # (rows, 25)


def only_from(labels: Tensor, position: int) -> Tensor:
    """Only the labels from `position` on are targets."""
    return labels.where(torch.arange(labels.shape[1]) >= position, -1)


def accuracies(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    return table.set_index(["layer", "features"])["accuracy"].to_dict()


def test_the_token_two_before_is_readable_after_the_trunks_layer_only(handmade, tokens):
    """The second previous-token head brings it there. Catches: states read a layer too early or a position off,
    labels shuffled for the trained probe, an untrained model that has the trained one's weights."""
    found = accuracies(probe(handmade, tokens, labels=only_from(tokens.roll(3, dims=1), 5), classes=WORDS, offsets=[1]))
    assert found["blocks.0", "trained"] > 0.99
    assert found["embed", "trained"] < CHANCE
    assert found["blocks.0", "untrained"] < 0.3  # uniform attention knows which tokens came, and not where
    assert found["blocks.0", "shuffled"] < CHANCE


@pytest.mark.parametrize("offset", [1, 2])
def test_each_head_holds_the_token_it_predicts(handmade, tokens, offset):
    """In the second half x_{t+i} can be read after head i, not after the other head or the trunk, nor by n-grams.
    Catches: offsets off by one, heads confused, targets that are inputs, baselines that see test rows."""
    labels = only_from(tokens, HALF + 1 + offset)
    found = accuracies(probe(handmade, tokens, labels=labels, classes=WORDS, offsets=[offset]))
    assert found[f"heads.{offset}", "trained"] > 0.99
    assert found[f"heads.{offset}", "shuffled"] < CHANCE
    for layer in ("embed", "blocks.0", f"heads.{3 - offset}"):
        assert found[layer, "trained"] < CHANCE, layer
    for features in ("bigram", "trigram", "majority"):
        assert found["tokens", features] < CHANCE, features


def test_table(handmade, tokens):
    """One row for each layer, offset and kind of features, with the given caps and classes. Catches: caps
    ignored, classes counted on other offsets' targets, global random state moved."""
    before = torch.random.get_rng_state()
    table = probe(handmade, tokens, classes=5, offsets=(1, 3), examples=150)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(table) == 2 * (4 * 3 + 3) and not table.duplicated(["layer", "offset", "features"]).any()
    assert set(table.layer) == {"embed", "blocks.0", "heads.1", "heads.2", "tokens"}
    assert (table.classes == 5).all() and (table.examples == 150).all()
    assert (table[table.layer != "tokens"].fitted == 150).all() and (table[table.layer == "tokens"].fitted > 150).all()
    pd.testing.assert_frame_equal(table, probe(handmade, tokens, classes=5, offsets=(1, 3), examples=150))


def test_targets_stay_inside_documents():
    """In rows of two documents whose second always opens with token 7, neither that 7 nor padding is a target.
    Catches: targets or previous tokens across a border."""
    torch.manual_seed(0)
    model = MTPTransformer(ModelConfig(vocab_size=8, d_model=8, n_attention_heads=2, n_layers=2, n_future=1)).eval()
    tokens, documents = torch.randint(0, 7, (40, 12)), torch.zeros(40, 12, dtype=torch.long)
    tokens[:, 6] = 7
    documents[:, 6:10] = 1
    documents += 2 * torch.arange(40)[:, None]
    documents[:, 10:] = -1
    table = probe(model, tokens, documents, classes=range(8), offsets=(2,), examples=10**6)
    assert (table.examples + table.fitted == 40 * (4 + 2)).all()  # t = 0..3 and 6, 7
    with pytest.raises(ValueError, match="offset=1: 0 training targets"):
        probe(model, tokens, documents, classes=[7, 6], labels=tokens.where(tokens == 7, -1), offsets=(1,))


def test_ngrams_equal_a_slow_count():
    """Bigram and trigram with back-off, counted one by one over the training rows. Catches: back-off in the wrong
    order, ties broken by chance, the previous token taken from another document, counts that include test rows."""
    torch.manual_seed(0)
    model = MTPTransformer(ModelConfig(vocab_size=6, d_model=8, n_attention_heads=2, n_layers=1, n_future=1)).eval()
    tokens = torch.randint(0, 6, (60, 9)) * torch.randint(0, 2, (60, 9))
    documents = (torch.arange(9) >= 4).long() + 2 * torch.arange(60)[:, None]
    found = accuracies(probe(model, tokens, documents, classes=range(6), offsets=(2,), examples=10**6, seed=3))
    test = split_rows(documents, np.random.default_rng(3))

    def examples(rows: np.ndarray) -> list[tuple[list, int]]:
        """(contexts from the longest to none, label)."""
        examples = []
        for row in np.flatnonzero(rows):
            for first, last in ((0, 4), (4, 9)):
                text = tokens[row, first:last].tolist()
                for t in range(len(text) - 2):
                    examples.append(([(text[t - 1] if t else None, text[t]), text[t], ()], text[t + 2]))
        return examples

    counts: dict[object, Counter] = {}
    for contexts, label in examples(~test):
        for context in contexts:
            counts.setdefault(context, Counter())[label] += 1
    for skipped, features in enumerate(("trigram", "bigram", "majority")):
        right = []
        for contexts, label in examples(test):
            known = next(counts[context] for context in contexts[skipped:] if context in counts)
            right.append(min(known, key=lambda token: (-known[token], token)) == label)
        assert found["tokens", features] == pytest.approx(np.mean(right)), features


def test_most_frequent_takes_the_smallest_of_equals():
    """Catches: an answer that depends on the order of the examples."""
    found = most_frequent(np.array([1, 1, 1, 2, 2]), np.array([9, 3, 3, 8, 5]))
    assert found.to_dict() == {1: 3, 2: 5}


def test_no_row_and_no_document_on_both_sides():
    """Rows that share a document, directly or through a third row, stay together; padding ties nothing. Catches: a
    split by positions, padding taken for a document that all rows share."""
    rng = np.random.default_rng(0)
    documents = np.sort(rng.integers(0, 60, (80, 1)) + rng.integers(0, 2, (80, 5)), axis=1)
    documents[:, -1] = -1
    for seed in range(10):
        test = split_rows(torch.from_numpy(documents), np.random.default_rng(seed))
        assert test.shape == (80,) and test.any() and not test.all()
        assert set(documents[test].ravel()) & set(documents[~test].ravel()) == {-1}
    alone = split_rows(torch.arange(80)[:, None].expand(80, 5), np.random.default_rng(0))
    assert alone.sum() == 20
    with pytest.raises(ValueError, match="all 80 rows share documents"):
        split_rows(torch.zeros(80, 5, dtype=torch.long), np.random.default_rng(0))


def test_probes_are_fitted_on_training_rows_only(handmade, tokens):
    """A label that says which row it is cannot be foreseen: no test row's label was ever seen. Catches: a probe or an
    n-gram fitted on rows of both sides."""
    row = torch.arange(ROWS)[:, None].expand_as(tokens) // 2  # two rows have each label
    table = probe(handmade, tokens, torch.arange(ROWS)[:, None].expand_as(tokens) // 2, row, range(ROWS), (1,), 500)
    assert (table.accuracy == 0).all()


def test_errors_say_what_to_do(handmade, tokens):
    """Catches: an IndexError three calls deep."""
    with pytest.raises(ValueError, match="labels .* must have the shape"):
        probe(handmade, tokens, labels=tokens[:, :3])
    with pytest.raises(ValueError, match=r"offsets=\(0, 1\)"):
        probe(handmade, tokens, offsets=(0, 1))
    with pytest.raises(ValueError, match="classes=1 gives"):
        probe(handmade, tokens, classes=1)


def test_only_the_given_layers_are_probed(handmade):
    """The same numbers as in the full table; the error names a layer that the model does not have."""
    tokens = repeated_tokens(handmade, 12, 12, torch.Generator().manual_seed(0))
    full = probe(handmade, tokens, classes=8, offsets=(1,))
    part = probe(handmade, tokens, classes=8, offsets=(1,), layers=["blocks.0"])
    pd.testing.assert_frame_equal(
        part.reset_index(drop=True), full[full.layer.isin(["blocks.0", "tokens"])].reset_index(drop=True)
    )
    with pytest.raises(ValueError, match="layers=\\['blocks.7'\\] are none of embed, blocks.0, heads.1, heads.2"):
        probe(handmade, tokens, layers=["blocks.7"])
