"""Where instruments look: the hook points of the residual stream, by the name that tables give a layer."""

from collections.abc import Iterable


def residual_hooks(layers: Iterable[str]) -> dict[str, str]:
    """The embedding, and behind each layer ("blocks.0", "heads.1", ...): name in tables -> hook point."""
    return {"embed": "hook_embed"} | {layer: f"{layer}.hook_resid_post" for layer in layers}
