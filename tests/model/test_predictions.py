"""Losses against the naive sum over all logits, and intervals against known values and their nominal coverage."""

import numpy as np
import pytest
import torch

from data_gen import Batch
from mtp_lab.config import ModelConfig
from mtp_lab.evaluation.statistics import Interval, bootstrap_interval, seed_interval
from mtp_lab.model.loss import mtp_loss
from mtp_lab.model.predictions import loss_per_horizon, next_token_predictions, row_losses, tensors, token_nll
from mtp_lab.model.transformer import MTPTransformer

SEQ, ROWS = 12, 5


def model_of(**changes) -> MTPTransformer:
    torch.manual_seed(0)
    fields = dict(vocab_size=17, d_model=16, n_attention_heads=2, n_layers=4, n_future=3, max_seq=SEQ, d_mlp=32)
    model = MTPTransformer(ModelConfig(**{**fields, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20)  # predictions that differ
    return model


@pytest.fixture
def batch() -> Batch:
    """Rows of one document, of several (one of a single token), with padding at the end, and of padding alone."""
    documents = np.zeros((ROWS, SEQ), np.int32)
    documents[1, 5:] = 1
    documents[2, :4], documents[2, 4], documents[2, 5:9], documents[2, 9:] = 3, 4, 5, -1
    documents[3] = -1
    documents[4, 2:] = np.repeat(np.arange(1, 6), 2)
    tokens = np.random.default_rng(0).integers(0, 17, (ROWS, SEQ), dtype=np.int32)
    return Batch(tokens, documents)


def naive(model: MTPTransformer, batch: Batch) -> np.ndarray:
    """Cross-entropy of each horizon, row and target token, one target at a time."""
    with torch.no_grad():
        log_p = model.all_logits(*tensors(batch)).double().log_softmax(-1)
    nll = np.full((model.config.n_future, batch.rows, batch.seq), np.nan)
    for i in range(1, model.config.n_future + 1):
        for row in range(batch.rows):
            for t in range(batch.seq - i):
                document, target_document = batch.documents[row, [t, t + i]]
                if document == target_document != -1:
                    nll[i - 1, row, t + i] = -log_p[i - 1, row, t, batch.tokens[row, t + i]]
    return nll


@pytest.mark.parametrize("rows_at_once", [1, 2, 32])
@pytest.mark.parametrize("head_kind", ["parallel", "causal", "anticausal", "linear", "sequential"])
def test_losses_are_the_naive_ones_token_by_token(head_kind, rows_at_once, batch):
    """Each horizon and row has the sum over its own targets, however many rows are run at once.
    Catches: targets across documents or in padding, horizons or rows in another order, missing last rows."""
    model = model_of(head_kind=head_kind)
    expected = naive(model, batch)
    np.testing.assert_allclose(token_nll(model, batch, rows_at_once), expected, rtol=1e-5)
    nll, counts = row_losses(model, batch, rows_at_once)
    assert nll.shape == counts.shape == (3, ROWS)
    np.testing.assert_array_equal(counts, (~np.isnan(expected)).sum(-1))
    np.testing.assert_allclose(nll, np.nansum(expected, -1), rtol=1e-5)
    assert (counts[:, 3] == 0).all() and (nll[:, 3] == 0).all()  # padding alone


@pytest.mark.parametrize("rows_at_once", [1, 2, 32])
def test_next_token_predictions_are_aligned_at_the_targets(rows_at_once, batch):
    """At each position the most likely token and the loss of the actual token, given the tokens before it in its
    document; -1 and NaN for the first token of a document and for padding.
    Catches: predictions at the position that makes them, predictions across documents, rows in another order, logits of
    another head."""
    model = model_of()
    predicted, nll = next_token_predictions(model, batch, rows_at_once)
    with torch.no_grad():
        log_p = model.all_logits(*tensors(batch))[0].double().log_softmax(-1)
    for row in range(batch.rows):
        for t in range(batch.seq):
            previous, document = batch.documents[row, t - 1] if t else -1, batch.documents[row, t]
            if document != previous or document == -1:
                assert predicted[row, t] == -1 and np.isnan(nll[row, t])
                continue
            assert predicted[row, t] == log_p[row, t - 1].argmax()
            assert nll[row, t] == pytest.approx(-log_p[row, t - 1, batch.tokens[row, t]].item(), rel=1e-5)
    assert np.nansum(nll) == pytest.approx(row_losses(model, batch)[0][0].sum(), rel=1e-5)
    assert len(set(predicted[predicted >= 0].tolist())) > 3


def test_losses_leave_the_model_as_it_was(batch):
    """No gradient is computed or kept.
    Catches: an evaluation during training that adds to the next step's gradient."""
    model = model_of()
    row_losses(model, batch), next_token_predictions(model, batch)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_loss_per_horizon_is_that_of_training(batch):
    """The mean over all targets equals mtp_loss, which training logs; NaN where a horizon has no target.
    Catches: validation and training losses that mean different things, a mean of means, 0 nats without targets."""
    model = model_of()
    with torch.no_grad():
        expected = mtp_loss(model, *tensors(batch)).per_horizon
    np.testing.assert_allclose(loss_per_horizon(model, batch), expected, rtol=1e-5)
    pairs = batch[4:5]  # documents of two tokens
    assert np.isnan(loss_per_horizon(model, pairs)).tolist() == [False, True, True]


def test_seed_interval_is_students():
    """1, 2, 3: mean 2, standard error 1/sqrt(3), t(.975, 2) = 4.30265 (printed tables).
    Catches: the normal quantile, the population's deviation, a one-sided quantile."""
    interval = seed_interval([1.0, 2.0, 3.0])
    half = 4.30265 / 3**0.5
    assert (interval.mean, interval.low, interval.high) == pytest.approx((2, 2 - half, 2 + half), rel=1e-5)
    assert seed_interval([1, 2, 3], 0.9).high == pytest.approx(2 + 2.91999 / 3**0.5, rel=1e-5)
    assert seed_interval([4.0, 4.0]) == Interval(4.0, 4.0, 4.0)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_one_seed_has_no_interval(values):
    """Fewer than two values are refused.
    Catches: an interval of nan, or of width 0, that a table prints as certainty."""
    with pytest.raises(ValueError, match=rf"{len(values)} value\(s\) give no interval over seeds; train at least 2"):
        seed_interval(values)


def test_seed_interval_covers_the_truth_as_often_as_it_says():
    """Of 2000 experiments with 3 seeds, 95 % contain the true mean (standard error .5 %).
    Catches: an interval for a single value, or too narrow by any constant."""
    samples = np.random.default_rng(0).normal(7, 2, (2000, 3))
    intervals = [seed_interval(sample) for sample in samples]
    assert np.mean([interval.low < 7 < interval.high for interval in intervals]) == pytest.approx(0.95, abs=0.02)


def test_bootstrap_interval_weighs_rows_by_their_targets():
    """The mean is that over targets, around it the interval; the same rows give the same numbers.
    Catches: a mean of the rows' means, where short rows count as much as long ones."""
    nll, counts = np.tile([10.0, 400.0], 100), np.tile([10, 100], 100)  # 1 nat a target, and 4
    interval = bootstrap_interval(nll, counts)
    assert interval.mean == pytest.approx(410 / 110)
    assert 3.6 < interval.low < interval.mean < interval.high < 3.8
    assert interval == bootstrap_interval(nll, counts)
    assert bootstrap_interval(2 * counts, counts) == Interval(2.0, 2.0, 2.0)


def test_bootstrap_interval_shrinks_as_rows_are_added():
    """Four times the rows halve the interval; more confidence widens it.
    Catches: quantiles of the rows instead of their mean, confidence bounds mixed up."""
    nll = np.random.default_rng(0).gamma(4, 1, 1600)
    counts = np.ones(1600)
    few, many = bootstrap_interval(nll[:400], counts[:400]), bootstrap_interval(nll, counts)
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(2, rel=0.2)
    assert many != bootstrap_interval(nll, counts, seed=1)
    surer = bootstrap_interval(nll, counts, confidence=0.99)
    assert surer.low < many.low < many.mean < many.high < surer.high


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    """Of 300 test sets of 60 rows, about 95 % of the intervals contain the true mean loss.
    Catches: an interval too narrow or too wide by any constant, or shifted."""
    generator = np.random.default_rng(0)
    hits = []
    for _ in range(300):
        counts = generator.integers(20, 40, 60)
        nll = counts * generator.normal(3, 1, 60)
        interval = bootstrap_interval(nll, counts, resamples=400)
        hits.append(interval.low < 3 < interval.high)
    assert 0.90 < np.mean(hits) < 0.98


def test_an_interval_reads_as_mean_and_bounds():
    assert str(Interval(1.23456, 1.0, 1.5)) == "1.235 [1.000, 1.500]"
