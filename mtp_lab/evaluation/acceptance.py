"""How well heads draft: measured on what a model writes, greedily and sampled, and on text that people wrote.

Greedy text of a small model loops, and loops are easy to draft; so each number stands beside the one for sampled text,
and beside the agreement of the heads with real text that neither head nor model has written.
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

KINDS = ("begins a word", "inside a word", "space or line break", "other")
"""Kinds of bytes: letters, digits and underscores make words."""


def real_prompts(task: BytesTask, count: int, length: int) -> list[list[int]]:
    """Beginnings of `length` tokens of windows of test files, none across the border of two files, evenly spread.

    Raises:
        ValueError: if the test files do not hold as many.
    """
    windows = task.held_out("test", 4 * count)
    whole = (windows.documents[:, :length] == windows.documents[:, :1]).all(axis=1) & (windows.documents[:, 0] >= 0)
    found = windows.tokens[whole][:, :length]
    if len(found) < count:
        raise ValueError(f"count={count}: the test files hold {len(found)} windows of {length} tokens in one file")
    return found[np.arange(count) * len(found) // count].tolist()


def generate_text(
    model: MTPTransformer, prompts: Sequence[Sequence[int]], new: int, draft: int, temperature: float, seed: int = 0
) -> Generation:
    """What the model writes behind the prompts, all rows at once."""
    generator = torch.Generator().manual_seed(seed)
    return generate(Decoder(model, draft), prompts, new, temperature=temperature, generator=generator)


def repeated(tokens: torch.Tensor, span: int = 24) -> float:
    """Share of `span`-token stretches of generated rows (batch, new) that the same row has shown before: loops."""
    shares = []
    for row in tokens.tolist():
        stretches = [tuple(row[i : i + span]) for i in range(len(row) - span + 1)]
        shares.append(1 - len(set(stretches)) / len(stretches) if stretches else 0.0)
    return float(np.mean(shares))


@torch.no_grad()
def teacher_forced_acceptance(
    model: MTPTransformer, batch: Batch, rows_at_once: int = 4
) -> tuple[np.ndarray, pd.DataFrame]:
    """How often heads say what stands in a real text of bytes, had the next-token head said it byte for byte.

    Returns:
        (n_future,) for head i the share of forwards that commit its byte, heads 2..i all being right; the sum is bytes
        a forward. Forwards walk through each document as a decoder does: from t to t + 1 + the number of right drafts.
        A table over all positions: head, kind (of the byte that it predicts, see KINDS), right (share), bytes (number).

    Raises:
        ValueError: for rows that are too short for the furthest head.
    """
    n, device = model.config.n_future, next(model.parameters()).device
    if batch.seq <= n:
        raise ValueError(f"rows of {batch.seq} tokens are too short for {n} heads; use {n + 1} tokens or more")
    chains, forward_passes = np.zeros(n), 0
    right, asked = np.zeros((n, len(KINDS))), np.zeros((n, len(KINDS)))
    kinds = kinds_of(batch.tokens)  # (rows, seq)
    for start in range(0, batch.rows, rows_at_once):
        rows = slice(start, start + rows_at_once)
        tokens, documents = tensors(batch[rows], device)
        best = model.all_logits(tokens, documents).argmax(dim=-1).cpu().numpy()  # (n, rows, seq)
        seq, text, owner = batch.seq - n, batch.tokens[rows], batch.documents[rows]
        same = (owner[:, :seq] == owner[:, n:]) & (owner[:, :seq] >= 0)  # (rows, seq) all horizons in one document
        hits = np.stack([best[i - 1][:, :seq] == text[:, i : seq + i] for i in range(1, n + 1)])  # (n, rows, seq)
        for i in range(n):
            for kind in range(len(KINDS)):
                of_kind = same & (kinds[rows][:, i + 1 : seq + i + 1] == kind)
                right[i, kind] += hits[i][of_kind].sum()
                asked[i, kind] += of_kind.sum()
        committed = np.concatenate([np.ones_like(hits[:1]), hits[1:]]).cumprod(axis=0)  # (n, rows, seq)
        starts = same & _walk(np.where(same, committed.sum(axis=0), 1))
        chains += committed[:, starts].sum(axis=1)
        forward_passes += starts.sum()
    table = [
        {"head": i + 1, "kind": kind, "right": right[i, k] / max(1.0, asked[i, k]), "bytes": int(asked[i, k])}
        for i in range(n)
        for k, kind in enumerate(KINDS)
    ]
    return chains / max(1, forward_passes), pd.DataFrame(table)


def _walk(jumps: np.ndarray) -> np.ndarray:
    """(rows, seq) where one steps who begins each row at 0 and goes on by the jump of where one stands."""
    visited = np.zeros(jumps.shape, bool)
    row, at = np.arange(len(jumps)), np.zeros(len(jumps), int)
    while len(row):
        visited[row, at] = True
        at = at + jumps[row, at]
        row, at = row[at < jumps.shape[1]], at[at < jumps.shape[1]]
    return visited


def kinds_of(tokens: np.ndarray) -> np.ndarray:
    """(rows, seq) bytes -> index into KINDS of each; the first of a row counts as a beginning."""
    letters = np.zeros(SEPARATOR + 1, bool)
    letters[list(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")] = True
    letters[128:256] = True  # parts of letters beyond ASCII
    word = letters[tokens]
    before = np.concatenate([np.zeros_like(word[:, :1]), word[:, :-1]], axis=1)
    space = np.isin(tokens, list(b" \n\t\r"))
    return np.select([word & ~before, word, space], [0, 1, 2], 3)
