"""How well prediction heads draft: acceptance on text that the model generates, and on real text.

Greedy text of a small model loops, and loops are easy to draft. So greedy acceptance is reported together with that on
sampled text, and with the teacher-forced acceptance on real text. Left out: the decoding itself (mtp_lab.decoding).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from data_gen import Batch
from data_gen.bytes import SEPARATOR
from mtp_lab.decoding.decoder import Decoder
from mtp_lab.decoding.generation import Generation, generate
from mtp_lab.model.predictions import tensors
from mtp_lab.model.transformer import MTPTransformer
from mtp_lab.tasks import BytesTask

BYTE_KINDS = ("begins a word", "inside a word", "space or line break", "other")
"""Kinds of bytes. A word consists of letters, digits and underscores."""


def real_prompts(task: BytesTask, count: int, length: int) -> list[list[int]]:
    """`count` prompts of `length` tokens from the test files, evenly spread; none crosses the border of two files.

    Raises:
        ValueError: if the test files hold fewer.
    """
    windows = task.held_out("test", 4 * count)
    same_file = (windows.documents[:, :length] == windows.documents[:, :1]).all(axis=1)
    prompts = windows.tokens[same_file & (windows.documents[:, 0] >= 0)][:, :length]
    if len(prompts) < count:
        raise ValueError(f"count={count}: the test files hold {len(prompts)} windows of {length} tokens in one file")
    return prompts[np.arange(count) * len(prompts) // count].tolist()


def generate_text(
    model: MTPTransformer, prompts: Sequence[Sequence[int]], new: int, draft: int, temperature: float, seed: int = 0
) -> Generation:
    """`new` generated tokens after each prompt, all rows in one batch."""
    generator = torch.Generator().manual_seed(seed)
    return generate(Decoder(model, draft), prompts, new, temperature=temperature, generator=generator)


def repeated_share(tokens: torch.Tensor, span: int = 24) -> float:
    """Share of the `span`-token stretches of rows (batch, new) that occur earlier in their row: a measure of loops."""
    shares = []
    for row in tokens.tolist():
        stretches = [tuple(row[i : i + span]) for i in range(len(row) - span + 1)]
        shares.append(1 - len(set(stretches)) / len(stretches) if stretches else 0.0)
    return float(np.mean(shares))


@torch.no_grad()
def teacher_forced_acceptance(
    model: MTPTransformer, batch: Batch, rows_at_once: int = 4
) -> tuple[np.ndarray, pd.DataFrame]:
    """Acceptance on a real text of bytes, as if the next-token head generated exactly this text.

    Forward passes move through each document as in a decoder: from t to t + 1 + the number of accepted drafts.

    Returns:
        Acceptance, (n_future,): the share of forward passes in which the byte of head i is accepted, which needs
            correct bytes from all heads 2..i. Their sum is the number of bytes for each forward pass.
        A table over all positions: head, kind (of the predicted byte, see BYTE_KINDS), right (share of correct
            predictions), bytes (their number).

    Raises:
        ValueError: for rows that are too short for the furthest head.
    """
    n, device = model.config.n_future, next(model.parameters()).device
    if batch.seq <= n:
        raise ValueError(f"rows of {batch.seq} tokens are too short for {n} heads; use {n + 1} tokens or more")
    n_accepted, forward_passes = np.zeros(n), 0
    n_correct, n_bytes = np.zeros((n, len(BYTE_KINDS))), np.zeros((n, len(BYTE_KINDS)))
    kinds = byte_kinds(batch.tokens)  # (rows, seq)
    for start in range(0, batch.rows, rows_at_once):
        rows = slice(start, start + rows_at_once)
        tokens, documents = tensors(batch[rows], device)
        predicted = model.all_logits(tokens, documents).argmax(dim=-1).cpu().numpy()  # (n, rows, batch.seq)
        # 1. Correct predictions of each head, at positions whose horizons all lie in one document
        seq, text, owner = batch.seq - n, batch.tokens[rows], batch.documents[rows]
        valid = (owner[:, :seq] == owner[:, n:]) & (owner[:, :seq] >= 0)  # (rows, seq)
        pairs = [(predicted[i - 1][:, :seq], text[:, i : seq + i]) for i in range(1, n + 1)]
        correct = np.stack([prediction == target for prediction, target in pairs])  # (n, rows, seq)
        for i in range(n):
            for kind in range(len(BYTE_KINDS)):
                of_kind = valid & (kinds[rows][:, i + 1 : seq + i + 1] == kind)
                n_correct[i, kind] += correct[i][of_kind].sum()
                n_bytes[i, kind] += of_kind.sum()
        # 2. Accepted bytes: that of head 1 always, a later one if all heads 2..i are correct
        accepted = np.concatenate([np.ones_like(correct[:1]), correct[1:]]).cumprod(axis=0)  # (n, rows, seq)
        # 3. Only positions where a forward pass starts count
        starts = valid & _visited(np.where(valid, accepted.sum(axis=0), 1))
        n_accepted += accepted[:, starts].sum(axis=1)
        forward_passes += starts.sum()
    table = [
        {"head": i + 1, "kind": kind, "right": n_correct[i, k] / max(1.0, n_bytes[i, k]), "bytes": int(n_bytes[i, k])}
        for i in range(n)
        for k, kind in enumerate(BYTE_KINDS)
    ]
    return n_accepted / max(1, forward_passes), pd.DataFrame(table)


def _visited(jumps: np.ndarray) -> np.ndarray:
    """(rows, seq) bool: the positions of a walk that starts at position 0 and moves from t to t + jumps[row, t]."""
    visited = np.zeros(jumps.shape, bool)
    row, position = np.arange(len(jumps)), np.zeros(len(jumps), int)
    while len(row):
        visited[row, position] = True
        position = position + jumps[row, position]
        inside = position < jumps.shape[1]
        row, position = row[inside], position[inside]
    return visited


def byte_kinds(tokens: np.ndarray) -> np.ndarray:
    """(rows, seq) index into BYTE_KINDS of each byte; a word byte at the start of a row begins a word."""
    letters = np.zeros(SEPARATOR + 1, bool)
    letters[list(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")] = True
    letters[128:256] = True  # parts of letters beyond ASCII
    word = letters[tokens]
    before = np.concatenate([np.zeros_like(word[:, :1]), word[:, :-1]], axis=1)
    space = np.isin(tokens, list(b" \n\t\r"))
    return np.select([word & ~before, word, space], [0, 1, 2], 3)
