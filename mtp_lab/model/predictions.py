"""Numbers about a trained model, and how sure one can be of them."""

import numpy as np
import torch
import torch.nn.functional as F

from data_gen import Batch
from mtp_lab.model.loss import chunks, token_losses
from mtp_lab.model.targets import IGNORE, future_targets
from mtp_lab.model.transformer import MTPTransformer


def tensors(batch: Batch, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """tokens and documents of a batch: two (rows, seq) int64 tensors."""
    return tuple(torch.from_numpy(array).long().to(device) for array in (batch.tokens, batch.documents))


def target_tokens(batch: Batch, device: torch.device | str = "cpu") -> torch.Tensor:
    """(rows, seq) int64, what targets are read off: `Batch.target_tokens`, the tokens themselves but in teacherless rows."""
    return torch.from_numpy(batch.target_tokens).long().to(device)


@torch.no_grad()
def token_nll(model: MTPTransformer, batch: Batch, rows_at_once: int = 32) -> np.ndarray:
    """Cross-entropy of every horizon, aligned at the token that was predicted, in fp32.

    Returns:
        (n_future, rows, seq): what horizon i paid, i tokens before, for the token that stands there; nan where it
        could not be asked.
    """
    device = next(model.parameters()).device
    nll = np.full((model.config.n_future, *batch.tokens.shape), np.nan)
    for start in range(0, batch.rows, rows_at_once):
        rows = slice(start, start + rows_at_once)
        part = batch[rows]
        tokens, documents = tensors(part, device)
        targets = future_targets(target_tokens(part, device), model.config.n_future, documents)
        context = model.context(tokens, documents)
        latents = model.run_heads(model.trunk(tokens, context), tokens, context)
        for i in model.config.parents:
            each = torch.cat([token_losses(model, *chunk) for chunk in chunks(model, latents[i], targets[i - 1])])
            paid = each.view(tokens.shape).masked_fill(targets[i - 1] == IGNORE, torch.nan)
            nll[i - 1, rows, i:] = paid[:, :-i].cpu().numpy()
    return nll


def check_nll(nll: np.ndarray) -> None:
    """Raise ValueError unless `nats` is laid out as `token_nll` does it: (n, rows, seq), one horizon or more."""
    if nll.ndim != 3 or not len(nll):
        raise ValueError(
            f"nats must be (n, rows, seq) with n >= 1, got shape {nll.shape}; for one row use nats[:, None]"
        )


def row_losses(model: MTPTransformer, batch: Batch, rows_at_once: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy of every horizon on a batch, in fp32.

    Returns:
        Nats summed over each row, and the number of targets in it: two (n_future, rows) arrays.
    """
    nll = token_nll(model, batch, rows_at_once)
    return np.nansum(nll, axis=-1), (~np.isnan(nll)).sum(axis=-1)


def loss_per_horizon(model: MTPTransformer, batch: Batch) -> np.ndarray:
    """Mean nats of every horizon over all valid targets of a batch: (n_future,); nan for one without any."""
    nll, counts = row_losses(model, batch)
    with np.errstate(invalid="ignore"):
        return nll.sum(1) / counts.sum(1)


@torch.no_grad()
def next_token_predictions(
    model: MTPTransformer, batch: Batch, rows_at_once: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """What the next-token head says of every token of a batch, aligned at the token that was predicted, in fp32.

    Returns:
        predicted: (rows, seq) the most likely token; -1 where nothing could be asked: the first of a document, padding.
        nats: (rows, seq) cross-entropy of the token that stands there; nan where nothing could be asked.
    """
    device = next(model.parameters()).device
    predicted, nll = np.full(batch.tokens.shape, -1), np.full(batch.tokens.shape, np.nan)
    for start in range(0, batch.rows, rows_at_once):
        rows = slice(start, start + rows_at_once)
        part = batch[rows]
        tokens, documents = tensors(part, device)
        targets = future_targets(target_tokens(part, device), 1, documents)[0]  # (rows, seq)
        logits = model(tokens, documents).float()  # (rows, seq, vocab)
        cost = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORE)  # (rows, seq)
        asked = (targets != IGNORE)[:, :-1].cpu().numpy()
        predicted[rows, 1:] = np.where(asked, logits.argmax(-1)[:, :-1].cpu().numpy(), -1)
        nll[rows, 1:] = np.where(asked, cost[:, :-1].cpu().numpy(), np.nan)
    return predicted, nll


@torch.no_grad()
def past_predictions(model: MTPTransformer, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each head had said about every token of a sequence, aligned at the token that was predicted.

    Args:
        tokens: (seq,) ids.

    Returns:
        predicted: (n_future, seq) the token head i thought most likely for position t, i positions before it; -1
            where t < i.
        probability: (n_future, seq) what it gave to the token that came; nan where t < i.
    """
    inputs = torch.as_tensor(np.asarray(tokens), dtype=torch.long)
    probabilities = model.all_logits(inputs[None])[:, 0].softmax(-1)  # (n_future, seq, vocab)
    shape = (model.config.n_future, len(inputs))
    predicted, probability = np.full(shape, -1), np.full(shape, np.nan)
    for i in range(1, min(shape[0], shape[1] - 1) + 1):
        made = probabilities[i - 1, :-i]  # (seq - i, vocab)
        predicted[i - 1, i:] = made.argmax(-1).numpy()
        probability[i - 1, i:] = made.gather(1, inputs[i:, None])[:, 0].numpy()
    return predicted, probability
