"""The logit lens through every head: what would head i say if the trunk ended here?

Each residual state of the trunk is read in two ways: directly, by the unembedding (logit lens, nostalgebraist 2020),
and through the layers that lead to head i (as in Future Lens, Pal et al. 2023, arXiv 2311.04897, with the model's own
heads in place of trained ones). Left out: probes, which are trained (probes.py), and states inside the heads.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from mtp_lab.interp.hook_names import residual_hooks
from mtp_lab.model.targets import IGNORE, future_targets
from mtp_lab.model.transformer import MTPTransformer

ROWS = 16  # rows a forward: the logits of every horizon are alive at once
Reading = Literal["direct", "head"]


@torch.no_grad()
def readings(
    model: MTPTransformer, tokens: Tensor, documents: Tensor | None = None
) -> Iterator[tuple[str, Reading, Tensor]]:
    """What each state of the trunk says about every horizon, state by state.

    Yields:
        layer: "embed", and "blocks.0", ... for the state behind that layer; the last is the end of the trunk, where
            "head" is what the model says.
        reading: "direct", the unembedding alone, which says the same of every horizon; or "head", through head i and
            those between it and the trunk.
        logits: (n_future, batch, seq, vocab).
    """
    sites = residual_hooks(f"blocks.{i}" for i in range(len(model.blocks)))
    _, kept = model.run_with_cache(tokens, documents, names_filter=list(sites.values()))
    context, horizons = model.context(tokens, documents), model.config.n_future
    for layer, site in sites.items():
        state = kept[site]  # (batch, seq, d_model)
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
    """How well each state of the trunk knows the token i ahead, directly and through head i.

    Args:
        tokens: (batch, seq) ids.
        documents: (batch, seq) document of each token, -1 for padding; targets stay inside documents.
        marks: name -> (batch, seq) bool, the tokens that are asked for, e.g. those that call for induction.
        target_tokens: (batch, seq) the token to be said in each place, where it is not the one that is read there
            (teacherless rows; `data_gen.Batch.target_tokens`).

    Returns:
        layer, reading (both as `readings` has them), horizon, mark ("all", then those given), accuracy, nats (mean
        cross-entropy in fp32), targets (number). Accuracy and nats are nan where there is no target.

    Raises:
        ValueError: for a mark that is not bool of the shape of tokens, or target_tokens of another shape.

    Example:
        >>> batch = task.held_out("test", 64)
        >>> asked = torch.from_numpy(batch.marks["induction"])
        >>> lens(model, *tensors(batch), {"induction": asked})
    """
    labels = {"all": torch.ones_like(tokens, dtype=torch.bool), **(labels or {})}
    for name, label in labels.items():
        if label.shape != tokens.shape or label.dtype != torch.bool:
            raise ValueError(
                f"marks[{name!r}] must be bool of the shape of tokens, {tuple(tokens.shape)}, got {label.dtype} of "
                f"shape {tuple(label.shape)}"
            )
    target_tokens = tokens if target_tokens is None else target_tokens
    if target_tokens.shape != tokens.shape:
        raise ValueError(f"target_tokens {tuple(target_tokens.shape)} must have the shape of tokens {tuple(tokens.shape)}")
    horizons = model.config.n_future
    sums: dict[tuple[str, str, int, str], np.ndarray] = {}  # right, nats, targets
    for start in range(0, len(tokens), ROWS):
        rows = slice(start, start + ROWS)
        ids, owner = tokens[rows], None if documents is None else documents[rows]
        targets = future_targets(target_tokens[rows], horizons, owner)  # (n, rows, seq)
        asked = {name: future_targets(label[rows].to(ids), horizons, owner) == 1 for name, label in labels.items()}
        for layer, reading, logits in readings(model, ids, owner):
            for i in range(horizons):
                right = logits[i].argmax(dim=-1) == targets[i]  # (rows, seq)
                nll = F.cross_entropy(
                    logits[i].float().transpose(1, 2), targets[i], reduction="none", ignore_index=IGNORE
                )
                for name, where in asked.items():
                    told = [float(x[where[i]].sum(dtype=torch.float64)) for x in (right, nll)]
                    key = (layer, reading, i + 1, name)
                    sums[key] = sums.get(key, np.zeros(3)) + [*told, int(where[i].sum())]
    table = pd.DataFrame(
        [(*key, *known) for key, known in sums.items()],
        columns=["layer", "reading", "horizon", "label", "accuracy", "nll", "targets"],
    )
    means = table[["accuracy", "nll"]].div(table.targets.where(table.targets > 0), axis=0)
    return table.assign(**means, targets=table.targets.astype(int))
