"""Writes docs/hook_points.md: every hook name of a model with the shape of its activation, read off the model itself.

    python docs/hook_points.py
"""

from pathlib import Path

import torch

from mtp_lab.config import ModelConfig
from mtp_lab.model.transformer import MTPTransformer

BATCH, SEQ, HEADS, D_HEAD, D_MLP = 2, 5, 3, 8, 40
SIZES = {
    BATCH: "batch",
    SEQ: "seq",
    HEADS: "attention heads",
    D_HEAD: "d_head",
    HEADS * D_HEAD: "d_model",
    D_MLP: "d_mlp",
}
MEANINGS = {
    "hook_embed": "token embedding, the input of the trunk",
    "hook_resid_pre": "residual stream before the layer",
    "hook_resid_mid": "residual stream between attention and MLP",
    "hook_resid_post": "residual stream after the layer",
    "hook_attn_out": "output of attention, as it is added to the residual stream",
    "hook_mlp_out": "output of the MLP, as it is added to the residual stream",
    "attn.hook_q": "queries, before RoPE",
    "attn.hook_k": "keys, before smearing and RoPE",
    "attn.hook_v": "values",
    "attn.hook_attn_scores": "attention scores, masked, before the softmax",
    "attn.hook_pattern": "attention pattern, after the softmax",
    "attn.hook_z": "mixed values of each attention head, before the output matrix",
    "mlp.hook_post": "hidden activations of the gated MLP",
}
PAGE = """# Hook points

Every intermediate activation of a model has a name. The names are those of TransformerLens, so `run_with_cache`,
`run_with_hooks` and `hooks` work as they do there. This page is generated from a model by `python docs/hook_points.py`.

- The trunk's layers are `blocks.0`, `blocks.1`, ... Prediction heads are `heads.1`, ..., numbered by horizon.
- A prediction head is a transformer layer with the same hook points as a layer of the trunk. A linear head has two.
- Prediction heads beyond the first run only if you ask for them: `model.run_with_cache(tokens, all_heads=True)`.

```python
import mtp_lab as mtp

run = mtp.load("induction/n2-seed0")
model, batch = run.model(), run.config.task.held_out("validation", 4)
tokens = torch.from_numpy(batch.tokens).long()
logits, activations = model.run_with_cache(tokens, all_heads=True)
activations["heads.2.attn.hook_pattern"].shape     # (batch, attention heads, seq, seq)
```
"""


def hook_shapes(**fields: object) -> dict[str, str]:
    """Hook name -> shape in words, for a model of a trunk of one layer and two prediction heads."""
    config = ModelConfig(
        d_model=HEADS * D_HEAD, n_attention_heads=HEADS, d_mlp=D_MLP, trunk_layers=1, n_future=2, max_seq=SEQ, **fields
    )
    tokens = torch.zeros(BATCH, SEQ, dtype=torch.long)
    _, activations = MTPTransformer(config).run_with_cache(tokens, all_heads=True)
    return {name: f"({', '.join(SIZES[size] for size in value.shape)})" for name, value in activations.items()}


def meaning(name: str) -> str:
    """What a hook point holds, in words."""
    return next(text for ending, text in MEANINGS.items() if name.endswith(ending))


def table(shapes: dict[str, str]) -> str:
    """Markdown of names, shapes and meanings."""
    rows = [f"| `{name}` | {shape} | {meaning(name)} |" for name, shape in shapes.items()]
    return "\n".join(["| hook name | shape | what it holds |", "|---|---|---|", *rows])


def page() -> str:
    """The whole page."""
    layered, linear = hook_shapes(), hook_shapes(head_kind="linear")
    heads = {name: shape for name, shape in linear.items() if name.startswith("heads.")}
    return (
        f"{PAGE}\n## A trunk of one layer and two prediction heads\n\n{table(layered)}\n\n"
        f"## Linear prediction heads\n\nThe trunk is as above.\n\n{table(heads)}\n"
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page())
