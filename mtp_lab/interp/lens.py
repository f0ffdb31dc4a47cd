"""The logit lens through every prediction head: what would head i predict if the trunk ended earlier?

Concept: each residual state of the trunk is read in two ways. The direct reading applies the unembedding alone (logit
lens, nostalgebraist 2020). The other goes through the layers that lead to head i, as in Future Lens (Pal et al. 2023,
arXiv 2311.04897), with the model's own heads in place of trained ones.

Intuition: the layer at which accuracy rises is the layer that computes the prediction. If head 2 has accuracy 0.1 on
the state after layer 0 and 0.9 after layer 1, layer 1 prepares the token two ahead. Low accuracy does not show that the
information is absent, only that this head cannot use it yet: a trained probe may still find it.

Left out: probes, which are trained (`probes`), and states inside the prediction heads.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from mtp_lab.interp.hooks import residual_hooks
from mtp_lab.model.targets import IGNORE, future_targets
from mtp_lab.model.transformer import MTPTransformer

ROWS_AT_ONCE = 16  # rows in a forward pass: the logits of every horizon are in memory at once
Reading = Literal["direct", "head"]


@torch.no_grad()
def readings(
    model: MTPTransformer, tokens: Tensor, documents: Tensor | None = None
) -> Iterator[tuple[str, Reading, Tensor]]:
    """The logits of every horizon from each state of the trunk, state by state.

    Yields:
        layer: "embed", and "blocks.0", ... for the state after that layer. The last is the end of the trunk, where the
            reading "head" equals the model's own logits.
        reading: "direct", by the unembedding alone, the same for every horizon; or "head", through head i and those
            between it and the trunk.
        logits: (n_future, batch, seq, vocab).
    """
    hooks = residual_hooks(f"blocks.{i}" for i in range(len(model.blocks)))
    _, cache = model.run_with_cache(tokens, documents, names_filter=list(hooks.values()))
    context, horizons = model.context(tokens, documents), model.config.n_future
    for layer, hook in hooks.items():
        state = cache[hook]  # (batch, seq, d_model)
        yield layer, "direct", model.unembedded(state).expand(horizons, -1, -1, -1)
        latents = model.run_heads(state, tokens, context)
        yield layer, "head", torch.stack([model.unembedded(latents[i]) for i in model.config.parents])


def lens(
    model: MTPTransformer,
    tokens: Tensor,
    documents: Tensor | None = None,
    labels: Mapping[str, Tensor] | None = None,
    target_tokens: Tensor | None = None,
) -> pd.DataFrame:
    """How well each state of the trunk predicts the token i ahead, directly and through head i.

    Args:
        tokens: (batch, seq) ids.
        documents: (batch, seq) document of each token, -1 for padding; targets stay inside documents.
        labels: name -> (batch, seq) bool, the target tokens of a row of the table, e.g. those that need induction.
        target_tokens: (batch, seq) the token to predict at each position, where it is not the one that is read there
            (teacherless rows; `data_gen.Batch.target_tokens`).

    Returns:
        layer, reading (both as in `readings`), horizon, label ("all", then those given), accuracy, nll (mean
        cross-entropy in nats, fp32), targets (number). Accuracy and nll are NaN where there is no target.

    Raises:
        ValueError: for a label that is not bool or has another shape than tokens, or target_tokens of another shape.

    Example:
        >>> from mtp_lab.interp.handmade import induction_model, repeated_tokens
        >>> model = induction_model()
        >>> tokens = repeated_tokens(model, rows=4, half=12, generator=torch.Generator().manual_seed(0))
        >>> repeats = (torch.arange(25) >= 15).expand_as(tokens)
        >>> table = lens(model, tokens, labels={"repeats": repeats}).query("label == 'repeats' and reading == 'head'")
        >>> table.pivot(index="layer", columns="horizon", values="accuracy").loc["blocks.0"].tolist()
        [1.0, 1.0]
    """
    labels = {"all": torch.ones_like(tokens, dtype=torch.bool), **(labels or {})}
    for name, label in labels.items():
        if label.shape != tokens.shape or label.dtype != torch.bool:
            raise ValueError(
                f"labels[{name!r}] must be bool of the shape of tokens, {tuple(tokens.shape)}, got {label.dtype} of "
                f"shape {tuple(label.shape)}"
            )
    target_tokens = tokens if target_tokens is None else target_tokens
    if target_tokens.shape != tokens.shape:
        raise ValueError(
            f"target_tokens {tuple(target_tokens.shape)} must have the shape of tokens {tuple(tokens.shape)}"
        )
    horizons = model.config.n_future
    sums: dict[tuple[str, str, int, str], np.ndarray] = {}  # number of correct targets, their nll, number of targets
    for start in range(0, len(tokens), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        ids, owner = tokens[rows], None if documents is None else documents[rows]
        targets = future_targets(target_tokens[rows], horizons, owner)  # (n, rows, seq)
        masks = {name: future_targets(label[rows].to(ids), horizons, owner) == 1 for name, label in labels.items()}
        for layer, reading, logits in readings(model, ids, owner):
            for i in range(horizons):
                correct = logits[i].argmax(dim=-1) == targets[i]  # (rows, seq)
                nll = F.cross_entropy(
                    logits[i].float().transpose(1, 2), targets[i], reduction="none", ignore_index=IGNORE
                )  # (rows, seq)
                for name, mask in masks.items():
                    totals = [float(x[mask[i]].sum(dtype=torch.float64)) for x in (correct, nll)]
                    key = (layer, reading, i + 1, name)
                    sums[key] = sums.get(key, np.zeros(3)) + [*totals, int(mask[i].sum())]
    table = pd.DataFrame(
        [(*key, *totals) for key, totals in sums.items()],
        columns=["layer", "reading", "horizon", "label", "accuracy", "nll", "targets"],
    )
    means = table[["accuracy", "nll"]].div(table.targets.where(table.targets > 0), axis=0)
    return table.assign(**means, targets=table.targets.astype(int))
