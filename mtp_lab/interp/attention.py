"""What every attention head attends to, in the trunk and in the prediction heads, and what it copies from there.

Concept: each score is the mean attention from chosen queries to chosen keys, such as the token after an earlier copy of
the present one. These are the scores by which induction heads are identified (Olsson et al. 2022, arXiv 2209.11895).
`copying_scores` uses weights alone: does attending to a token raise the logit of the same token (Elhage et al. 2021)?

Intuition: scores lie between 0 and 1. A prefix-matching score of 0.9 means that on repeated tokens nine tenths of the
attention go to the token after the earlier copy, as in an induction head. A head that attends uniformly to 50 tokens
scores 0.02. A high score shows where a head looks, not that the prediction depends on it.

Tables are long: layer ("blocks.0", "heads.1", ...), head (number of the attention head), ahead, score, value. Left out:
whether an attention head matters (`ablation`, `patching`), and linear heads, which have no attention.
"""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from einops import einsum, rearrange
from torch import Tensor

from data_gen import Batch
from data_gen.stories.generator import of_characters
from mtp_lab.interp.hooks import attention_layers
from mtp_lab.model.predictions import tensors
from mtp_lab.model.transformer import MTPTransformer

ROWS_AT_ONCE = 16  # rows in a forward pass: the patterns of all layers are in memory at once
TOKENS_AT_ONCE = 1024  # tokens in a part of an OV circuit: (tokens, vocab) logits are in memory at once
NAME_LABELS = ("entity", "induction", "first_piece", "second_piece")
Queries = tuple[Tensor, Tensor | None, Tensor, Tensor]  # see _mean_attention


def attention_scores(model: MTPTransformer, tokens: Tensor, documents: Tensor | None = None) -> pd.DataFrame:
    """Scores of every attention head on rows in which tokens repeat (`in_context.random_repeats`).

    Each score is the attention from a token to the positions below, a mean over the tokens that have such positions:
        previous_token   the position before it
        duplicate_token  earlier copies of the same token
        prefix_matching  the positions `ahead` = 1, ..., n_future after earlier copies. 1 is the score of Olsson et
                         al. 2022. An attention head that serves prediction head i may look i ahead, at the predicted
                         token

    `ahead` is 0 for the other scores. A score is NaN where no token of the rows has such a position.

    Args:
        tokens: (rows, seq) ids.
        documents: (rows, seq) document of each token, -1 for padding; None if each row is one document.
    """
    horizons = range(1, model.config.n_future + 1)
    scores = [("previous_token", 0), ("duplicate_token", 0), *(("prefix_matching", i) for i in horizons)]

    def queries() -> Iterator[Queries]:
        for start in range(0, len(tokens), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            ids, owner = tokens[rows], None if documents is None else documents[rows]
            earlier = _earlier(ids, owner)  # (rows, seq, keys)
            copies = earlier & (ids[:, :, None] == ids[:, None, :])
            # keys i after an earlier copy: the copies moved by i keys, without those that wrap around to the front
            position = torch.arange(ids.shape[1], device=ids.device)
            after_copies = [copies.roll(i, dims=2) & (position >= i) for i in horizons]
            keys = torch.stack([earlier.triu(-1), copies, *(moved & earlier for moved in after_copies)])
            yield ids, owner, keys, keys.any(dim=-1)

    return _table(scores, _mean_attention(model, queries()))


def name_attention(model: MTPTransformer, batch: Batch) -> pd.DataFrame:
    """The attention before the second piece of a name that was mentioned earlier in the story.

    The query is `ahead` = 1, ..., n_future tokens before the second piece. At 1 it is the first piece; head 2 has to
    predict the second piece one token earlier. Each score is the attention to all of these positions before the query,
    a mean over all repeated mentions of characters' names, 0 where a story has no such position so far:
        right        second pieces of the same character
        wrong        second pieces of other characters
        first_piece  first pieces of the same character

    Args:
        batch: stories, with their token labels (data_gen.stories.generator); mentions of objects are ignored.

    Raises:
        ValueError: if a token label is missing, or no name is mentioned twice.
    """
    missing = [label for label in NAME_LABELS if label not in batch.labels]
    if missing:
        raise ValueError(
            f"the batch has no token label {', '.join(missing)}; use stories, e.g. StoriesTask().held_out(...)"
        )
    horizons = range(1, model.config.n_future + 1)
    scores = [(score, i) for i in horizons for score in ("right", "wrong", "first_piece")]
    device = next(model.parameters()).device
    if not of_characters(batch, "induction").any():
        raise ValueError(f"none of the {batch.rows} rows mentions a character's name twice; use more or longer rows")

    def queries() -> Iterator[Queries]:
        for start in range(0, batch.rows, ROWS_AT_ONCE):
            part = batch[start : start + ROWS_AT_ONCE]
            ids, documents = tensors(part, device)
            entity = torch.from_numpy(part.labels["entity"]).to(device)
            repeated, first, second = (
                torch.from_numpy(of_characters(part, label)).to(device) for label in NAME_LABELS[1:]
            )  # (rows, seq)
            earlier, keys, query_masks = _earlier(ids, documents), [], []
            for i in horizons:
                same_document = _ahead(documents, i) == documents  # (rows, seq)
                query_mask = _ahead(repeated, i) & same_document  # (rows, seq)
                same_entity = _ahead(entity, i)[:, :, None] == entity[:, None, :]  # (rows, seq, keys)
                pieces = (second[:, None] & same_entity, second[:, None] & ~same_entity, first[:, None] & same_entity)
                keys += [piece & earlier & query_mask[:, :, None] for piece in pieces]
                query_masks += [query_mask] * len(pieces)
            yield ids, documents, torch.stack(keys), torch.stack(query_masks)

    return _table(scores, _mean_attention(model, queries()))


@torch.no_grad()
def copying_scores(model: MTPTransformer) -> pd.DataFrame:
    """Whether each attention head raises the logit of the token it attends to, from its OV circuit alone.

    The circuit W_U W_O W_V W_E maps an attended token to its direct effect on all logits. The norms are left out: they
    have no gain, and only scale what passes. `ahead` is 0.
        copying_top          share of tokens whose own logit is raised above all others
        copying_eigenvalues  sum of the eigenvalues over the sum of their moduli, from -1 to 1 (Elhage et al. 2021);
                             0 for an attention head that writes nothing to the logits

    Example:
        >>> from mtp_lab.interp.handmade import induction_model
        >>> table = copying_scores(induction_model())  # the induction heads copy, the previous-token heads do not
        >>> print(table.query("score == 'copying_top' and head == 0")[["layer", "value"]].to_string(index=False))
           layer  value
        blocks.0    0.0
         heads.1    1.0
         heads.2    1.0
    """
    embed, unembed = model.embed.weight, model.unembed.weight
    values: dict[str, Tensor] = {}
    for layer, block in attention_layers(model).items():
        read = rearrange(block.qkv.weight, "(qkv h d) m -> qkv h m d", qkv=3, h=block.heads)[2]  # (heads, d_model, d)
        write = rearrange(block.out.weight, "m (h d) -> h d m", h=block.heads)  # (heads, d, d_model)
        scores = [_copying(embed @ r, w @ unembed.T) for r, w in zip(read, write, strict=True)]
        values[layer] = torch.tensor(scores).T  # (scores, heads)
    return _table([("copying_top", 0), ("copying_eigenvalues", 0)], values)


def _copying(sources: Tensor, effects: Tensor) -> tuple[float, float]:
    """Both scores of the circuit sources @ effects: (vocab, d_head), (d_head, vocab)."""
    top = 0
    for start in range(0, len(sources), TOKENS_AT_ONCE):
        logits = sources[start : start + TOKENS_AT_ONCE] @ effects  # (tokens, vocab)
        own = logits.diagonal(offset=start)[:, None]  # (tokens, 1)
        top += int(((logits >= own).sum(dim=1) == 1).sum())
    eigenvalues = torch.linalg.eigvals(effects.float() @ sources.float())  # those of sources @ effects that are not 0
    total = eigenvalues.abs().sum()
    return top / len(sources), float(eigenvalues.real.sum() / total) if total else 0.0


@torch.no_grad()
def _mean_attention(model: MTPTransformer, queries: Iterator[Queries]) -> dict[str, Tensor]:
    """Attention from queries to their keys, summed over keys, mean over queries: (scores, heads) for each layer.

    Args:
        queries: for some rows at a time, tokens and documents, (rows, seq); the keys of each query, (scores, rows, seq,
            keys) bool, all false for other positions; and which positions are queries, (scores, rows, seq) bool.
    """
    sums, counts = dict.fromkeys(attention_layers(model), 0.0), 0
    for tokens, documents, keys, query_mask in queries:
        _, cache = model.run_with_cache(
            tokens, documents, all_heads=True, names_filter=lambda name: name.endswith("hook_pattern")
        )
        counts = counts + query_mask.sum(dim=(1, 2))[:, None]  # (scores, 1)
        for layer in sums:
            pattern = cache[f"{layer}.attn.hook_pattern"].float()
            sums[layer] = sums[layer] + einsum(keys.float(), pattern, "score r q k, r h q k -> score h").double()
    return {layer: total / counts for layer, total in sums.items()}


def _earlier(tokens: Tensor, documents: Tensor | None) -> Tensor:
    """(rows, seq, keys) where the key comes before the query, in the same document."""
    seq = tokens.shape[1]
    before = torch.ones(seq, seq, dtype=torch.bool, device=tokens.device).tril(-1).expand(len(tokens), -1, -1)
    if documents is None:
        return before
    return before & (documents[:, :, None] == documents[:, None, :]) & (documents[:, :, None] >= 0)


def _ahead(values: Tensor, by: int) -> Tensor:
    """(rows, seq) the value `by` positions later; False or 0 after the end of the row."""
    return torch.cat((values[:, by:], torch.zeros_like(values[:, :by])), dim=1)


def _table(scores: Sequence[tuple[str, int]], values: dict[str, Tensor]) -> pd.DataFrame:
    """Long form of (scores, heads) values of each layer; `scores` are pairs of score and ahead."""
    columns = ["layer", "head", "ahead", "score", "value"]
    rows = [
        (layer, head, ahead, score, value)
        for layer, table in values.items()
        for (score, ahead), heads in zip(scores, table.tolist(), strict=True)
        for head, value in enumerate(heads)
    ]
    return pd.DataFrame(rows, columns=columns)
