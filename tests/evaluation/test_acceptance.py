"""Measures of acceptance, each against a slow count."""

import numpy as np
import pytest
import torch

from data_gen import Batch
from data_gen.bytes import SEPARATOR
from mtp_lab.evaluation.acceptance import (
    BYTE_KINDS,
    byte_kinds,
    generate_text,
    real_prompts,
    repeated_share,
    teacher_forced_acceptance,
)
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.tasks import BytesTask


@pytest.fixture
def model(three_heads) -> MTPTransformer:
    return three_heads


@torch.no_grad()
def test_teacher_forced_acceptance_is_a_count(model):
    """Against a count token by token, over documents that end within a row and padding.
    Catches: heads shifted by one, acceptance that depends on head 1, targets in the next document."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(97, 100, (5, 20)).astype(np.int32)
    owners = np.sort(rng.integers(0, 2, (5, 20)), axis=1).astype(np.int32)
    owners[4, 15:] = -1

    def predictions() -> np.ndarray:  # (n, rows, seq)
        return model.all_logits(*(torch.from_numpy(a).long() for a in (tokens, owners))).argmax(-1).numpy()

    for t in range(3, 20):  # some head is right about each token, head 3 more often than it would be by chance
        tokens[:, t] = predictions()[t * t % 3][:, t - 1 - t * t % 3]
    batch, best = Batch(tokens, owners), predictions()
    hits, count, n_accepted, forward_passes = np.zeros(3), 0, np.zeros(3), 0
    for row in range(5):
        due = 0  # where the next forward pass starts
        for t in range(17):
            if owners[row, t] < 0 or owners[row, t] != owners[row, t + 3]:
                due = max(due, t + 1)
                continue
            right = [best[i, row, t] == tokens[row, t + 1 + i] for i in range(3)]
            hits, count = hits + right, count + 1
            if t == due:
                accepted = [1, right[1], right[1] and right[2]]
                n_accepted, forward_passes, due = n_accepted + accepted, forward_passes + 1, t + sum(accepted)
    found, table = teacher_forced_acceptance(model, batch, rows_at_once=2)
    assert hits.min() > 0 and count > forward_passes > 10 and n_accepted[2] > 0
    np.testing.assert_allclose(found, n_accepted / forward_passes)
    by_head = (table.right * table.bytes).groupby(table["head"]).sum()
    np.testing.assert_allclose(by_head, hits)
    assert (table.groupby("head").bytes.sum() == count).all()


@torch.no_grad()
def test_acceptance_on_its_own_text_is_that_of_decoding(model):
    """On greedy text of the model, forward passes start and end where the decoder's did.
    Catches: averaging over all positions, which counts easy stretches too often."""
    prompts = [[first] for first in range(97, 121)]
    generated = generate_text(model, prompts, 31, 3, 0.0)
    heads = generated.heads.numpy()  # (24, 31) of byte i + 1; a forward pass starts where it is 1 again
    starts = [(row, t) for row, t in np.argwhere(heads == 1) if t < 32 - 3]  # whole windows only
    accepted = [[heads[row, t + i] == i + 1 for i in range(3)] for row, t in starts]
    expected = np.logical_and.accumulate(accepted, axis=1).mean(axis=0)
    tokens = np.concatenate([prompts, generated.tokens.numpy()], axis=1).astype(np.int32)
    found, _ = teacher_forced_acceptance(
        model, Batch(tokens, np.repeat(np.arange(24, dtype=np.int32)[:, None], 32, axis=1))
    )
    np.testing.assert_allclose(found, expected)
    assert 1.02 < found.sum() < 3


def test_teacher_forced_acceptance_needs_room_for_the_furthest_head(model):
    """Catches: shapes that do not fit each other, in the middle of the count."""
    rows = np.full((2, 3), 97, np.int32)
    with pytest.raises(ValueError, match="rows of 3 tokens are too short for 3 heads; use 4 tokens or more"):
        teacher_forced_acceptance(model, Batch(rows, np.zeros_like(rows)))


def test_byte_kinds():
    """Every byte has one kind; a word begins after a byte that is no letter."""
    text = "if x1: é\n"
    found = byte_kinds(np.array([[*text.encode(), SEPARATOR]]))[0]
    begin, inside, space, other = range(len(BYTE_KINDS))
    assert found.tolist() == [begin, inside, space, begin, inside, other, space, begin, inside, space, other]


def test_repetition_is_seen():
    """A row that loops repeats itself, one without repetition does not; all rows have the same weight."""
    loop, fresh = torch.tensor([1, 2, 3] * 20), torch.arange(60)
    assert repeated_share(loop[None], span=6) == pytest.approx(1 - 3 / 55)
    assert repeated_share(fresh[None], span=6) == 0
    assert repeated_share(torch.stack((loop, fresh)), span=6) == pytest.approx((1 - 3 / 55) / 2)


def test_prompts_are_from_the_test_files(corpus):
    """Each prompt is part of one test file, and none comes twice.
    Catches: prompts of training files, or across the border of two files."""
    task = BytesTask(paths=(corpus,), seq=32)
    prompts = real_prompts(task, 3, 12)
    texts = [b"\0" + document.data for document in task.corpus().split("test").documents]
    for prompt in prompts:
        content = bytes(0 if token == SEPARATOR else token for token in prompt)
        assert len(prompt) == 12 and any(content in text for text in texts)
    with pytest.raises(ValueError, match="count=500: the test files hold"):
        real_prompts(task, 500, 12)


def test_generated_text_depends_on_the_seed_only_where_it_is_sampled(model):
    """Greedy text is the same for every seed and number of heads; sampled text is not."""
    prompts = [[97, 98], [99]]
    greedy = [generate_text(model, prompts, 12, k, 0.0, seed).tokens.tolist() for k, seed in ((1, 0), (3, 0), (3, 1))]
    assert greedy[0] == greedy[1] == greedy[2]
    sampled = [generate_text(model, prompts, 12, 3, 1.0, seed).tokens.tolist() for seed in (0, 0, 1)]
    assert sampled[0] == sampled[1] != sampled[2]
