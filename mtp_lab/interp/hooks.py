"""Where instruments look into a model, and the one way in which they replace an activation.

Tables call a layer by its module: "blocks.0", ... in the trunk, "heads.1", ... for the layer of a prediction head. An
attention head is a layer and a number from 0. The hook points themselves belong to `mtp_lab.model.layers`.
"""

from collections.abc import Callable, Collection, Iterable

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from mtp_lab.model.layers import Attention, Block
from mtp_lab.model.transformer import MTPTransformer

AttentionHead = tuple[str, int]  # layer, number of the attention head
Hook = tuple[str, Callable[..., Tensor | None]]  # name of a hook point, and the function that runs there


def layer_names(model: MTPTransformer, horizon: int | None = None) -> list[str]:
    """The trunk's layers, then the prediction heads: all, or in running order those on the path to one horizon.

    Raises:
        ValueError: for a horizon that the model does not have.
    """
    heads = model.config.parents if horizon is None else model.config.path(horizon)
    return [*(f"blocks.{i}" for i in range(len(model.blocks))), *(f"heads.{i}" for i in heads)]


def attention_layers(model: MTPTransformer, horizon: int | None = None) -> dict[str, Attention]:
    """The attention of each layer that has one: of all layers, or of those on the path to one horizon.

    Raises:
        ValueError: for a horizon that the model does not have, and for a path without attention.
    """
    blocks = {name: model.get_submodule(name) for name in layer_names(model, horizon)}
    layers = {name: block.attn for name, block in blocks.items() if isinstance(block, Block)}  # a linear head has none
    if horizon is not None and not layers:
        raise ValueError(
            f"no layer on the path to horizon={horizon} has attention: its head is linear, the trunk empty"
        )
    return layers


def attention_heads(model: MTPTransformer) -> list[AttentionHead]:
    """Every attention head: those of the trunk, then those of the prediction heads."""
    return [(layer, head) for layer in attention_layers(model) for head in range(model.config.n_attention_heads)]


def head_masks(
    model: MTPTransformer, heads: Collection[AttentionHead], layers: Collection[str], argument: str = "heads"
) -> dict[str, Tensor]:
    """Which attention heads of a layer are chosen: (attention heads, 1) bool, for every layer that has a chosen one.

    Args:
        layers: the layers with attention that may be named.
        argument: how the error message calls `heads`.

    Raises:
        ValueError: for an attention head outside these layers.
    """
    n_heads, masks = model.config.n_attention_heads, {}
    for layer, head in heads:
        if layer not in layers or not 0 <= head < n_heads:
            raise ValueError(
                f"{argument}: no attention head ({layer!r}, {head}); the layers are {', '.join(layers)}, each with "
                f"attention heads 0 to {n_heads - 1}"
            )
        if layer not in masks:
            masks[layer] = torch.zeros(n_heads, 1, dtype=torch.bool, device=model.embed.weight.device)
        masks[layer][int(head)] = True
    return masks


def residual_hooks(layers: Iterable[str]) -> dict[str, str]:
    """Hook points of the residual stream at the embedding and after each of the layers, by their names in tables."""
    return {"embed": "hook_embed"} | {layer: f"{layer}.hook_resid_post" for layer in layers}


def replace_activation(x: Tensor, hook: HookPoint, value: Tensor, where: Tensor | None = None) -> Tensor:
    """A hook function: puts `value` in place of the activation, everywhere or only where the mask `where` is true."""
    return value if where is None else torch.where(where, value, x)
