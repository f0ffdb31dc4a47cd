"""An induction circuit written by hand: a model whose computation is known, on which instruments are checked.

Concept: the residual stream has four parts of `vocab_size` one-hot dimensions: the token, the token before it, the one
two before, and the prediction. The trunk's only layer copies tokens one and two positions on (two previous-token
heads). The layer of prediction head 1 finds the position whose previous token is the present one, and predicts the
token there (induction). Head 2 does the same with the token two before, so it predicts x_{t+2}. It is argument 1 of
Olsson et al. 2022 (arXiv 2209.11895), in weights.

Intuition: every number that an instrument should give is known in advance. Without the attention head `PREVIOUS` head 1
must fail and head 2 must not. An instrument that shows something else is wrong, or measures something else.

`repeated_tokens` and `induction_pairs` make inputs for it. Left out: MLPs and training.
"""

import torch
from torch import Tensor

from mtp_lab.config import ModelConfig
from mtp_lab.evaluation.in_context import random_repeats
from mtp_lab.interp.pairs.base import Pairs
from mtp_lab.model.layers import Attention
from mtp_lab.model.transformer import MTPTransformer

TOKEN, BEFORE, TWO_BEFORE, PREDICTED = range(4)  # parts of the residual stream
PREVIOUS, SECOND_PREVIOUS, DUPLICATE = range(3)  # attention heads of the trunk's layer
INDUCTION = 0  # attention head in the layers of prediction heads 1 and 2


def induction_model(vocab_size: int = 24, max_seq: int = 64, strength: float = 30.0) -> MTPTransformer:
    """A model of two future tokens that repeats what followed earlier in the row, and does nothing else.

    Attention only, relative positions, four attention heads in each layer. The trunk's third attention head attends to
    earlier copies of the present token and writes nothing. All others that are not named above have zero weights. After
    a token that has not occurred before the model predicts a mean of all tokens so far. The first position is its own
    previous token.

    Args:
        vocab_size: even, because it is the width of an attention head.
        strength: the attention score of a matching key above that of others, in nats.

    Example:
        >>> model = induction_model()
        >>> model(torch.tensor([[0, 5, 7, 3, 5]])).argmax(-1)[0, -1]      # 5 was followed by 7
        tensor(7)
    """
    config = ModelConfig(
        vocab_size=vocab_size,
        d_model=4 * vocab_size,
        n_attention_heads=4,
        n_layers=3,
        n_future=2,
        max_seq=max_seq,
        attention_only=True,
        position="relative",
        relative_offsets=4,
    )
    model = MTPTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        one_hot = torch.eye(vocab_size)
        model.embed.weight[:, _part(TOKEN, vocab_size)] = one_hot
        model.unembed.weight[:, _part(PREDICTED, vocab_size)] = strength * one_hot
        trunk = model.blocks[0].attn
        for head, offset, goal in ((PREVIOUS, 1, BEFORE), (SECOND_PREVIOUS, 2, TWO_BEFORE)):
            trunk.bias[head, offset] = strength
            _copy(trunk, head, TOKEN, goal, vocab_size, ones=1)
        _match(trunk, DUPLICATE, TOKEN, TOKEN, vocab_size, strength, ones=1)
        trunk.bias[DUPLICATE, 0] = -2 * strength
        for horizon, key in ((1, BEFORE), (2, TWO_BEFORE)):
            layer = model.heads[str(horizon)].attn
            _match(layer, INDUCTION, TOKEN, key, vocab_size, strength, ones=3)
            _copy(layer, INDUCTION, TOKEN, PREDICTED, vocab_size, ones=3)
    return model.eval()


def repeated_tokens(model: MTPTransformer, rows: int, half: int, generator: torch.Generator) -> Tensor:
    """Token 0 as beginning of sequence, then `half` different random tokens, twice: (rows, 2 half + 1).

    Raises:
        ValueError: if the vocabulary or max_seq is too small.
    """
    vocabulary, longest = model.config.vocab_size - 1, (model.config.max_seq - 1) // 2
    if not 1 <= half <= min(vocabulary, longest):
        raise ValueError(f"half={half} must be from 1 to {min(vocabulary, longest)}: the vocabulary, half of max_seq")
    return random_repeats(range(1, vocabulary + 1), 0, rows, half, generator)


def induction_pairs() -> Pairs:
    """One pair for head 1: "0 a x b y a" (clean) continues with x, "0 b x a y a" (corrupted) with y.

    x and y stay in place, and only the tokens before them differ: those are the role "first", x and y are "second".
    """
    a, x, b, y = range(1, 5)
    return Pairs(
        clean=torch.tensor([[0, a, x, b, y, a]]),
        corrupted=torch.tensor([[0, b, x, a, y, a]]),
        documents=torch.zeros(1, 6, dtype=torch.long),
        roles=torch.tensor([[3, 0, 1, 0, 1, 2]]),
        query_position=torch.tensor([5]),
        answer_token=torch.tensor([x]),
        wrong_token=torch.tensor([y]),
        role_names=("first", "second", "query", "rest"),
    )


def _part(part: int, width: int) -> slice:
    return slice(part * width, (part + 1) * width)


def _match(layer: Attention, head: int, query: int, key: int, width: int, strength: float, ones: int) -> None:
    """Adds `strength` nats to the score where the query's part equals the key's; `ones` ones are in the stream."""
    scale = (strength * width**0.5 * ones / (4 * width)) ** 0.5
    layer.qkv.weight[_part(head, width), _part(query, width)] = scale * torch.eye(width)
    layer.qkv.weight[_part(4 + head, width), _part(key, width)] = scale * torch.eye(width)


def _copy(layer: Attention, head: int, source: int, goal: int, width: int, ones: int) -> None:
    """Copies one part of the attended position into another part here, and undoes the scale of the norm."""
    scale = (ones / (4 * width)) ** 0.5
    layer.qkv.weight[_part(8 + head, width), _part(source, width)] = scale * torch.eye(width)
    layer.out.weight[_part(goal, width), _part(head, width)] = torch.eye(width)
