"""What every attention head looks at, in the trunk and in the model's heads, and what it copies from there.

The scores that induction heads are known by (Olsson et al. 2022, arXiv 2209.11895, and Elhage et al. 2021): attention
on repeated tokens, attention from names to their earlier mentions in stories, and copying as the OV circuit has it.
All return a long table with columns layer ("blocks.0", "heads.1", ...), head (from 0), ahead, score, value. Left out:
whether an attention head matters for the prediction (ablation, patching), and linear heads, which have no attention.
"""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from einops import einsum, rearrange
from torch import Tensor

from data_gen import Batch
from data_gen.stories.generator import of_characters
from mtp_lab.model.layers import Attention, Block
from mtp_lab.model.predictions import tensors
from mtp_lab.model.transformer import MTPTransformer

ROWS = 16  # rows a forward: the patterns of all layers are alive at once
TOKENS = 1024  # tokens a block of an OV circuit: (tokens, vocab) logits are alive at once
MARKS = ("entity", "induction", "first_piece", "second_piece")
Label = tuple[str, int]  # score, ahead


def attention_layers(model: MTPTransformer) -> dict[str, Attention]:
    """Every site that has attention, by its name: the trunk's layers, then the heads'."""
    trunk = {f"blocks.{i}": block.attn for i, block in enumerate(model.blocks)}
    return trunk | {f"heads.{i}": head.attn for i, head in model.heads.items() if isinstance(head, Block)}


def attention_scores(model: MTPTransformer, tokens: Tensor, documents: Tensor | None = None) -> pd.DataFrame:
    """Scores of every attention head on rows in which tokens repeat (`in_context.random_repeats`).

    Each is the attention from a token to the positions named below, as a mean over the tokens that have any:
        previous_token   the position before it
        duplicate_token  earlier copies of the same token
        prefix_matching  the positions `ahead` = 1, ..., n_future after earlier copies. 1 is the score of Olsson et
                         al. 2022; an attention head that serves head i may look i ahead, at the token that is predicted

    `ahead` is 0 where a score has none. nan where no token of the rows has such a position.

    Args:
        tokens: (rows, seq) ids.
        documents: (rows, seq) document of each token, -1 for padding; None if each row is one document.
    """
    ahead = range(1, model.config.n_future + 1)
    labels = [("previous_token", 0), ("duplicate_token", 0), *(("prefix_matching", i) for i in ahead)]

    def parts() -> Iterator[tuple[Tensor, Tensor | None, Tensor, Tensor]]:
        for start in range(0, len(tokens), ROWS):
            ids, owner = tokens[start : start + ROWS], None if documents is None else documents[start : start + ROWS]
            earlier = _earlier(ids, owner)  # (rows, seq, keys)
            copies = earlier & (ids[:, :, None] == ids[:, None, :])
            # a key `i` after an earlier copy: the copies moved i keys on; what falls off at the end wraps to the front
            place = torch.arange(ids.shape[1], device=ids.device)
            after = [copies.roll(i, dims=2) & (place >= i) for i in ahead]
            keys = torch.stack([earlier.triu(-1), copies, *(moved & earlier for moved in after)])
            yield ids, owner, keys, keys.any(dim=-1)

    return _table(labels, _mean_attention(model, parts()))


def name_attention(model: MTPTransformer, batch: Batch) -> pd.DataFrame:
    """Where attention goes when the second piece of a name that the story has shown is to be predicted.

    The query stands `ahead` = 1, ..., n_future tokens before the second piece (1: on the first piece; head 2 has to
    know the second piece one token earlier). Each score is the attention to all of these positions before the query, as
    a mean over all repeated mentions of characters' names, 0 where a story has none of them so far:
        right        second pieces of the same character
        wrong        second pieces of other characters
        first_piece  first pieces of the same character

    Args:
        batch: stories, with their marks (data_gen.stories.generator); objects are left out.

    Raises:
        ValueError: if a mark is missing, or no name is mentioned twice.
    """
    missing = [label for label in MARKS if label not in batch.labels]
    if missing:
        raise ValueError(f"the batch has no mark {', '.join(missing)}; use stories, e.g. StoriesTask().held_out(...)")
    horizons = range(1, model.config.n_future + 1)
    labels = [(score, i) for i in horizons for score in ("right", "wrong", "first_piece")]
    device = next(model.parameters()).device
    if not _names(batch, "induction", device).any():
        raise ValueError(f"none of the {batch.rows} rows mentions a character's name twice; use more or longer rows")

    def parts() -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        for start in range(0, batch.rows, ROWS):
            part = batch[start : start + ROWS]
            ids, documents = tensors(part, device)
            entity = torch.from_numpy(part.labels["entity"]).to(device)
            induction, first, second = (_names(part, label, device) for label in MARKS[1:])  # (rows, seq)
            earlier, keys, asked = _earlier(ids, documents), [], []
            for i in horizons:
                who, told = _ahead(entity, i), _ahead(induction, i) & (_ahead(documents, i) == documents)  # (rows, seq)
                same = who[:, :, None] == entity[:, None, :]  # (rows, seq, keys)
                pieces = (second[:, None] & same, second[:, None] & ~same, first[:, None] & same)
                keys += [piece & earlier & told[:, :, None] for piece in pieces]
                asked += [told] * len(pieces)
            yield ids, documents, torch.stack(keys), torch.stack(asked)

    return _table(labels, _mean_attention(model, parts()))


@torch.no_grad()
def copying_scores(model: MTPTransformer) -> pd.DataFrame:
    """Whether each attention head raises the logit of the token it attends to, from its OV circuit alone.

    The circuit W_U W_O W_V W_E takes an attended token to its effect on all logits, directly and at once. The norms are
    left out: they have no gain, and only scale what passes.
        copying_top          share of tokens whose own logit is raised above all others
        copying_eigenvalues  sum of the eigenvalues over the sum of their moduli, from -1 to 1 (Elhage et al. 2021);
                             0 for an attention head that writes nothing to the logits

    `ahead` is 0.
    """
    embed, unembed = model.embed.weight, model.unembed.weight
    values: dict[str, Tensor] = {}
    for site, layer in attention_layers(model).items():
        read = rearrange(layer.qkv.weight, "(qkv h d) m -> qkv h m d", qkv=3, h=layer.heads)[2]  # (heads, d_model, d)
        write = rearrange(layer.out.weight, "m (h d) -> h d m", h=layer.heads)  # (heads, d, d_model)
        each = [_copying(embed @ r, w @ unembed.T) for r, w in zip(read, write, strict=True)]
        values[site] = torch.tensor(each).T  # (scores, heads)
    return _table([("copying_top", 0), ("copying_eigenvalues", 0)], values)


def _copying(sources: Tensor, effects: Tensor) -> tuple[float, float]:
    """Both scores of the circuit sources @ effects: (vocab, d_head), (d_head, vocab)."""
    top = 0
    for start in range(0, len(sources), TOKENS):
        logits = sources[start : start + TOKENS] @ effects  # (tokens, vocab)
        own = logits.diagonal(offset=start)[:, None]  # (tokens, 1)
        top += int(((logits >= own).sum(dim=1) == 1).sum())
    eigenvalues = torch.linalg.eigvals(effects.float() @ sources.float())  # those of sources @ effects that are not 0
    size = eigenvalues.abs().sum()
    return top / len(sources), float(eigenvalues.real.sum() / size) if size else 0.0


@torch.no_grad()
def _mean_attention(
    model: MTPTransformer, parts: Iterator[tuple[Tensor, Tensor | None, Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Attention from queries to the keys named, summed over keys, a mean over queries: (scores, heads) a site.

    Args:
        parts: tokens and documents, (rows, seq); keys, (scores, rows, seq, keys) bool, none where a query is not asked;
            queries asked, (scores, rows, seq) bool.
    """
    sums, counts = dict.fromkeys(attention_layers(model), 0.0), 0
    for tokens, documents, keys, asked in parts:
        _, cache = model.run_with_cache(
            tokens, documents, all_heads=True, names_filter=lambda name: name.endswith("hook_pattern")
        )
        counts = counts + asked.sum(dim=(1, 2))[:, None]  # (scores, 1)
        for site in sums:
            pattern = cache[f"{site}.attn.hook_pattern"].float()
            sums[site] = sums[site] + einsum(keys.float(), pattern, "score r q k, r h q k -> score h").double()
    return {site: total / counts for site, total in sums.items()}


def _earlier(tokens: Tensor, documents: Tensor | None) -> Tensor:
    """(rows, seq, keys) where the key stands before the query, in its document."""
    seq = tokens.shape[1]
    before = torch.ones(seq, seq, dtype=torch.bool, device=tokens.device).tril(-1).expand(len(tokens), -1, -1)
    if documents is None:
        return before
    return before & (documents[:, :, None] == documents[:, None, :]) & (documents[:, :, None] >= 0)


def _ahead(values: Tensor, by: int) -> Tensor:
    """(rows, seq) the value `by` places on; False, 0 where the row has ended."""
    return torch.cat((values[:, by:], torch.zeros_like(values[:, :by])), dim=1)


def _names(batch: Batch, label: str, device: torch.device) -> Tensor:
    """(rows, seq) the mark, where a character is named."""
    return torch.from_numpy(of_characters(batch, label)).to(device)


def _table(labels: Sequence[Label], values: dict[str, Tensor]) -> pd.DataFrame:
    """Long form of (scores, heads) values a site."""
    columns = ["layer", "head", "ahead", "score", "value"]
    rows = [
        (site, head, ahead, score, value)
        for site, table in values.items()
        for (score, ahead), heads in zip(labels, table.tolist(), strict=True)
        for head, value in enumerate(heads)
    ]
    return pd.DataFrame(rows, columns=columns)
