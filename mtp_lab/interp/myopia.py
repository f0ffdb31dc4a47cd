"""Does a model prepare at one position what it needs at a later one? The myopia gap (Wu et al. 2024, arXiv 2404.00859).

`myopia_gap` compares two trained models, one of which never got gradient from later positions: the part of the loss
that preparing on purpose ("pre-caching") earns. `precaching` asks a single model how much of its gradient comes that
way: pressure to prepare, which is no proof that it does. Training the pair is left to runs.
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
    """Loss of the myopic model above that of the plain one, on the same rows.

    Returns:
        horizon, gap (nats; above 0: the myopic model is worse), low, high (95 %, bootstrap over rows, paired), plain,
        myopic (their losses, nats). The interval is for these two models: over trainings, take several seeds.

    Raises:
        ValueError: if the first model is myopic, the second is not, or they differ in the number of horizons.

    Example:
        >>> myopia_gap(plain.model(), myopic.model(), plain.config.task.held_out("validation", 256))
    """
    if plain.config.myopic or not myopic.config.myopic:
        raise ValueError(f"myopic={plain.config.myopic}, {myopic.config.myopic}: give the plain model, then the myopic")
    if plain.config.n_future != myopic.config.n_future:
        raise ValueError(f"n_future={plain.config.n_future} and {myopic.config.n_future} must be equal")
    (nll, counts), (others, _) = row_losses(plain, batch), row_losses(myopic, batch)  # (n_future, rows) each
    table = []
    for i in range(plain.config.n_future):
        gap = bootstrap_interval(others[i] - nll[i], counts[i])
        means = {"plain": nll[i].sum() / counts[i].sum(), "myopic": others[i].sum() / counts[i].sum()}
        table.append({"horizon": i + 1, "gap": gap.mean, "low": gap.low, "high": gap.high} | means)
    return pd.DataFrame(table)


def precaching(model: MTPTransformer, tokens: Tensor, documents: Tensor | None = None) -> pd.DataFrame:
    """How much of the gradient at the trunk's parameters flows through keys and values of earlier positions.

    The gradient g of each horizon's mean loss is compared with the same weights' under myopic=True, `own`: what flows
    through a position's own states only, in trunk and heads. The rest, g - own, came through other positions. It makes
    no difference whether the model itself was trained myopically.

    Args:
        tokens, documents: (batch, seq), as for the model.

    Returns:
        layer ("trunk": all of it, "embed", "blocks.0", ...), horizon, norm (of g), own (its norm), other (norm of the
        rest), share (of the rest along g, <g - own, g> / |g|^2: 0 if nothing flows through other positions; can be
        negative, or above 1), cosine (of g and own). nan where g is zero.

    Raises:
        ValueError: for smeared keys, which mix positions outside attention.
    """
    plain, myopic = (
        parameter_gradients(_with(model, flag), tokens, documents) for flag in (False, True)
    )  # layer -> (n_future, parameters)
    rows = []
    for layer in ("trunk", *plain):
        whole, own = (torch.cat(list(g.values()), 1) if layer == "trunk" else g[layer] for g in (plain, myopic))
        rest = whole - own
        columns = {
            "norm": whole.norm(dim=1),
            "own": own.norm(dim=1),
            "other": rest.norm(dim=1),
            "share": (rest * whole).sum(1) / whole.square().sum(1),
            "cosine": cosine(whole, own),
        }
        horizons = np.arange(1, len(whole) + 1)
        rows.append(pd.DataFrame({"layer": layer, "horizon": horizons} | {k: v.tolist() for k, v in columns.items()}))
    return pd.concat(rows, ignore_index=True)


def _with(model: MTPTransformer, myopic: bool) -> MTPTransformer:
    """The same weights in a model that is myopic or not; the global random state stays as it is."""
    config = replace(model.config, myopic=myopic)
    with torch.random.fork_rng(devices=[]):
        same = MTPTransformer(config).to(model.unembed.weight).eval()
    same.load_state_dict(model.state_dict())
    return same
