"""What a trained model predicts on a batch: losses, most likely tokens and probabilities, aligned at the targets.

Training, evaluation and experiments compute their numbers from these arrays. Rows are run a few at a time. Statistics
over runs and rows are in `mtp_lab.evaluation`, the loss that trains in `loss`.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from data_gen import Batch
from mtp_lab.model.loss import chunks, token_losses
from mtp_lab.model.targets import IGNORE, future_targets
from mtp_lab.model.transformer import MTPTransformer


def tensors(batch: Batch, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and documents of a batch: two (rows, seq) int64 tensors."""
    return tuple(torch.from_numpy(array).long().to(device) for array in (batch.tokens, batch.documents))


def target_tokens(batch: Batch, device: torch.device | str = "cpu") -> torch.Tensor:
    """(rows, seq) int64 tokens to predict: those of the batch, except in teacherless rows (`Batch.target_tokens`)."""
    return torch.from_numpy(batch.target_tokens).long().to(device)


@torch.no_grad()
def token_nll(model: MTPTransformer, batch: Batch, rows_at_once: int = 32) -> np.ndarray:
    """Cross-entropy of every horizon, aligned at the target token, in fp32.

    Returns:
        (n_future, rows, seq) in nats. Entry [i - 1, row, t] is the loss of horizon i for the token at position t, which
        head i predicts at position t - i. NaN where there is no target.
    """
    nll = np.full((model.config.n_future, *batch.tokens.shape), np.nan)
    for rows, tokens, documents, targets in _groups_of_rows(model, batch, rows_at_once):
        context = model.context(tokens, documents)
        latents = model.run_heads(model.trunk(tokens, context), tokens, context)
        for i in model.config.parents:
            losses = torch.cat([token_losses(model, *chunk) for chunk in chunks(model, latents[i], targets[i - 1])])
            losses = losses.view(tokens.shape).masked_fill(targets[i - 1] == IGNORE, torch.nan)
            nll[i - 1, rows, i:] = losses[:, :-i].cpu().numpy()
    return nll


def check_nll(nll: np.ndarray) -> None:
    """Raise ValueError unless `nll` has the layout of `token_nll`: (n, rows, seq), with at least one horizon."""
    if nll.ndim != 3 or not len(nll):
        raise ValueError(f"nll must be (n, rows, seq) with n >= 1, got shape {nll.shape}; for one row use nll[:, None]")


def row_losses(model: MTPTransformer, batch: Batch, rows_at_once: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy of every horizon in each row of a batch, in fp32.

    Returns:
        Two (n_future, rows) arrays: the sum over the targets of a row, in nats, and the number of these targets.
    """
    nll = token_nll(model, batch, rows_at_once)
    return np.nansum(nll, axis=-1), (~np.isnan(nll)).sum(axis=-1)


def loss_per_horizon(model: MTPTransformer, batch: Batch) -> np.ndarray:
    """(n_future,) mean loss of each horizon over all targets of a batch, in nats; NaN for a horizon without targets."""
    nll, counts = row_losses(model, batch)
    with np.errstate(invalid="ignore"):
        return nll.sum(1) / counts.sum(1)


@torch.no_grad()
def next_token_predictions(
    model: MTPTransformer, batch: Batch, rows_at_once: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of the next-token head for every token of a batch, aligned at the target token, in fp32.

    The first token of a document and padding are no targets.

    Returns:
        predicted: (rows, seq) the most likely token for this position; -1 where there is no target.
        nll: (rows, seq) cross-entropy of the token at this position, in nats; NaN where there is no target.
    """
    predicted, nll = np.full(batch.tokens.shape, -1), np.full(batch.tokens.shape, np.nan)
    for rows, tokens, documents, (targets, *_) in _groups_of_rows(model, batch, rows_at_once):
        logits = model(tokens, documents).float()  # (rows, seq, vocab)
        losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORE)  # (rows, seq)
        is_target = (targets != IGNORE)[:, :-1].cpu().numpy()
        predicted[rows, 1:] = np.where(is_target, logits.argmax(-1)[:, :-1].cpu().numpy(), -1)
        nll[rows, 1:] = np.where(is_target, losses[:, :-1].cpu().numpy(), np.nan)
    return predicted, nll


@torch.no_grad()
def past_predictions(model: MTPTransformer, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Earlier predictions of every head for each token of a sequence, aligned at the target token.

    Args:
        tokens: (seq,) ids.

    Returns:
        predicted: (n_future, seq) the most likely token for position t, which head i predicts at position t - i; -1
            where t < i.
        probability: (n_future, seq) the probability that head i assigns there to the actual token; NaN where t < i.
    """
    inputs = torch.as_tensor(np.asarray(tokens), dtype=torch.long)
    probabilities = model.all_logits(inputs[None])[:, 0].softmax(-1)  # (n_future, seq, vocab)
    n_future, seq = model.config.n_future, len(inputs)
    predicted, probability = np.full((n_future, seq), -1), np.full((n_future, seq), np.nan)
    for i in range(1, min(n_future, seq - 1) + 1):
        at_source = probabilities[i - 1, :-i]  # (seq - i, vocab), by the position that predicts
        predicted[i - 1, i:] = at_source.argmax(-1).numpy()
        probability[i - 1, i:] = at_source.gather(1, inputs[i:, None])[:, 0].numpy()
    return predicted, probability


def _groups_of_rows(
    model: MTPTransformer, batch: Batch, rows_at_once: int
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Some rows of a batch at a time, on the model's device: which rows, their tokens, documents and targets."""
    device = next(model.parameters()).device
    for start in range(0, batch.rows, rows_at_once):
        rows = slice(start, start + rows_at_once)
        tokens, documents = tensors(batch[rows], device)
        yield (
            rows,
            tokens,
            documents,
            future_targets(target_tokens(batch[rows], device), model.config.n_future, documents),
        )
