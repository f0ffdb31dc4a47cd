"""Does a model prepare at one position what it needs at a later one (Wu et al. 2024, arXiv 2404.00859)?

Concept: a myopic model never receives gradient from later positions. `myopia_gap` compares its loss with that of a
model trained in the usual way. `precaching` measures in a single model the share of the gradient that reaches the
weights through the keys and values of earlier positions.

Intuition: a gap of 0.2 nats means that the usual model gains 0.2 nats a token by preparing ("pre-caching"). A gap of 0
means that each position computes what it needs from states that are useful where they are. A precaching share of 0.4
means that 40 % of the gradient pushes towards preparation; it does not prove that the model prepares.

Left out: the training of the two models (`myopic=True` in a run's ModelConfig).
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from data_gen import Batch
from mtp_lab.evaluation.statistics import bootstrap_interval
from mtp_lab.interp.gradients import cosine, parameter_gradients
from mtp_lab.model.predictions import row_losses
from mtp_lab.model.transformer import MTPTransformer


def myopia_gap(plain: MTPTransformer, myopic: MTPTransformer, batch: Batch) -> pd.DataFrame:
    """Loss of the myopic model minus that of the plain one, on the same rows.

    Returns:
        horizon, gap (nats; above 0 the myopic model is worse), low, high (95 %, paired bootstrap over rows), plain,
        myopic (their losses, nats). The interval describes these two models. For a statement about training, compare
        several seeds.

    Raises:
        ValueError: if the first model is myopic, the second is not, or they differ in the number of horizons.

    Example:
        >>> from mtp_lab.config import ModelConfig
        >>> config = ModelConfig(vocab_size=11, d_model=8, n_attention_heads=2, n_layers=3, n_future=2, max_seq=16)
        >>> plain, myopic = MTPTransformer(config), MTPTransformer(replace(config, myopic=True))
        >>> rng = np.random.default_rng(0)
        >>> batch = Batch(rng.integers(11, size=(4, 16), dtype=np.int32), np.zeros((4, 16), np.int32))
        >>> myopia_gap(plain, myopic, batch).columns.tolist()
        ['horizon', 'gap', 'low', 'high', 'plain', 'myopic']
    """
    if plain.config.myopic or not myopic.config.myopic:
        raise ValueError(f"myopic={plain.config.myopic}, {myopic.config.myopic}: give the plain model, then the myopic")
    if plain.config.n_future != myopic.config.n_future:
        raise ValueError(f"n_future={plain.config.n_future} and {myopic.config.n_future} must be equal")
    (plain_nll, counts), (myopic_nll, _) = row_losses(plain, batch), row_losses(myopic, batch)  # (n_future, rows) each
    table = []
    for i in range(plain.config.n_future):
        gap = bootstrap_interval(myopic_nll[i] - plain_nll[i], counts[i])
        targets = counts[i].sum()
        losses = {"plain": plain_nll[i].sum() / targets, "myopic": myopic_nll[i].sum() / targets}
        table.append({"horizon": i + 1, "gap": gap.mean, "low": gap.low, "high": gap.high} | losses)
    return pd.DataFrame(table)


def precaching(model: MTPTransformer, tokens: Tensor, documents: Tensor | None = None) -> pd.DataFrame:
    """The share of the gradient at the trunk's parameters that flows through keys and values of earlier positions.

    g is the gradient of the mean loss of a horizon. `own` is the gradient of the same weights under myopic=True, which
    flows through a position's own states only, in trunk and heads. The rest, g - own, flows through other positions.
    The result does not depend on whether the model itself is myopic.

    Args:
        tokens, documents: (batch, seq), as for the model.

    Returns:
        layer ("trunk" for the whole trunk, "embed", "blocks.0", ...) and horizon.
        norm, own, other: the norms of g, of own and of the rest.
        share: of the rest along g, <g - own, g> / |g|^2. 0 if nothing flows through other positions; it can be negative
            or above 1.
        cosine: of g and own. Share and cosine are NaN where g is zero.

    Raises:
        ValueError: for smeared keys, which mix positions outside attention.

    Example:
        >>> from mtp_lab.config import ModelConfig
        >>> config = ModelConfig(vocab_size=11, d_model=8, n_attention_heads=2, n_layers=3, n_future=2, max_seq=16)
        >>> table = precaching(MTPTransformer(config), torch.randint(11, (4, 16)))
        >>> table.layer.unique().tolist(), bool((table.other > 0).all())
        (['trunk', 'embed', 'blocks.0'], True)
    """
    plain, myopic = (
        parameter_gradients(_as_myopic(model, myopic), tokens, documents) for myopic in (False, True)
    )  # layer -> (n_future, parameters)
    tables = []
    for layer in ("trunk", *plain):
        full, own = (torch.cat(list(g.values()), 1) if layer == "trunk" else g[layer] for g in (plain, myopic))
        other = full - own
        columns = {
            "norm": full.norm(dim=1),
            "own": own.norm(dim=1),
            "other": other.norm(dim=1),
            "share": (other * full).sum(1) / full.square().sum(1),
            "cosine": cosine(full, own),
        }  # (n_future,) each
        columns = {name: values.tolist() for name, values in columns.items()}
        tables.append(pd.DataFrame({"layer": layer, "horizon": np.arange(1, len(full) + 1)} | columns))
    return pd.concat(tables, ignore_index=True)


def _as_myopic(model: MTPTransformer, myopic: bool) -> MTPTransformer:
    """A model with the same weights and this value of `myopic`; the global random state stays as it is."""
    config = replace(model.config, myopic=myopic)
    with torch.random.fork_rng(devices=[]):
        copy = MTPTransformer(config).to(model.unembed.weight).eval()
    copy.load_state_dict(model.state_dict())
    return copy
