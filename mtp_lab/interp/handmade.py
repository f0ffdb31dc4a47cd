"""An induction circuit written down by hand: a model whose insides are known, to check instruments on.

The residual stream has four parts of `vocab_size` one-hot dimensions: the token, the token before it, the one two
before, and what is predicted. The trunk's only layer moves tokens one and two places on (two previous-token heads), the
layer of head 1 looks for where the token before was the present one and predicts what stands there (induction), and
head 2 does so with the token two before: it predicts x_{t+2}. Olsson et al. 2022, argument 1, in weights.
"""

import torch
from torch import Tensor

from mtp_lab.config import ModelConfig
from mtp_lab.evaluation.in_context import random_repeats
from mtp_lab.model.layers import Attention
from mtp_lab.model.transformer import MTPTransformer

TOKEN, BEFORE, TWO_BEFORE, PREDICTED = range(4)  # parts of the residual stream
PREVIOUS, SECOND_PREVIOUS, DUPLICATE = range(3)  # attention heads of the trunk's layer
INDUCTION = 0  # attention head of the layers of heads 1 and 2


def induction_model(vocab_size: int = 24, max_seq: int = 64, strength: float = 30.0) -> MTPTransformer:
    """A model of two future tokens that continues what it has seen before, and knows nothing else.

    Attention only, relative positions, four attention heads a layer. The trunk's third attention head looks at earlier
    copies of the present token and writes nothing; all others that are not named above have zero weights. A token that
    has not occurred before is followed by a mean of all tokens so far; the first position takes itself for the one
    before.

    Args:
        vocab_size: even, because it is the width of an attention head.
        strength: of an attention score in favour of what is looked for, in nats.

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
    """Token 0 as beginning of sequence, then `half` random tokens without repetition, twice: (rows, 2 half + 1).

    Raises:
        ValueError: if the vocabulary or max_seq is too small.
    """
    vocabulary, longest = model.config.vocab_size - 1, (model.config.max_seq - 1) // 2
    if not 1 <= half <= min(vocabulary, longest):
        raise ValueError(f"half={half} must be from 1 to {min(vocabulary, longest)}: the vocabulary, half of max_seq")
    return random_repeats(range(1, vocabulary + 1), 0, rows, half, generator)


def _part(part: int, width: int) -> slice:
    return slice(part * width, (part + 1) * width)


def _match(layer: Attention, head: int, query: int, key: int, width: int, strength: float, ones: int) -> None:
    """Scores `strength` nats where the query's part equals the key's, in a stream of `ones` ones before the norm."""
    scale = (strength * width**0.5 * ones / (4 * width)) ** 0.5
    layer.qkv.weight[_part(head, width), _part(query, width)] = scale * torch.eye(width)
    layer.qkv.weight[_part(4 + head, width), _part(key, width)] = scale * torch.eye(width)


def _copy(layer: Attention, head: int, source: int, goal: int, width: int, ones: int) -> None:
    """Moves a part of what is attended to, undoing the norm's scale."""
    scale = (ones / (4 * width)) ** 0.5
    layer.qkv.weight[_part(8 + head, width), _part(source, width)] = scale * torch.eye(width)
    layer.out.weight[_part(goal, width), _part(head, width)] = torch.eye(width)
