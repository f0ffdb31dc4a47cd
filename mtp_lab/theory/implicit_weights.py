"""Implicit weights of tokens in the n-token loss: the loss terms, and the loss in nats, that each token accounts for.

Gloeckle et al. 2024 (arXiv 2404.19737), section 5.1, Figure 9 and Appendix L.3, count loss terms: n(n + 1)/2 belong to
a choice point, n to an inconsequential token. The loss itself can be divided in the same way. Horizon i of target x_u
has read x_0 to x_{u-i}, so by the chain rule its expected loss is

    H(x_u | x_{<=u-i}) = sum_{s=u-i+1}^{u} I(x_u; x_s | x_{<s})         (s = u: the entropy of x_u)

with one term for each token s that the horizon has not read. The loss of horizons 1 to n, summed over all targets, is
therefore a sum over tokens, and inside a document token s has the implicit weight

    W_n(s) = sum_{j=0}^{n-1} (n - j) I(x_{s+j}; x_s | x_{<s})

Each information term is between 0 and the entropy H of x_s, so nH <= W_n <= n(n + 1)/2 H. The minimum: the next n - 1
tokens carry no information about x_s. The maximum: each of them alone determines x_s. It is not enough that x_s
determines these tokens: a token that shows one bit of a choice among four carries only one bit of it.

Targets are summed here. A loss that takes each horizon's mean (`mtp_lab.model.loss`) gives far horizons, which have
fewer targets, a little more weight.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from data_gen.choice_process import ChoiceProcess
from mtp_lab.model.predictions import check_nll


def owners(cause: np.ndarray, n: int) -> np.ndarray:
    """The token that each loss term x_t -> x_{t+i} belongs to (section 5.1, Figure 9).

    A term belongs to its target's cause if the cause comes after x_t, that is, if it has not been read. Otherwise it
    belongs to the target itself.

    Args:
        cause: (seq,) distance from each token back to the choice point that determines it; 0 or less: none. This is
            the token label "cause" of `ChoiceProcess`.
        n: number of horizons.

    Returns:
        (n, seq) int position of the owner, row i - 1 for horizon i, at the target; -1 for the first i tokens.

    Raises:
        ValueError: for n < 1, and for a cause before the first token.
    """
    _check_n(n)
    target = np.arange(len(cause))
    owner = target - np.maximum(np.asarray(cause).astype(int), 0)  # (seq,) the cause, or the token itself
    if (owner < 0).any():
        t = int(np.argmax(owner < 0))
        raise ValueError(f"cause={t - owner[t]} of token {t} is before the first token; use a distance up to {t}")
    last_read = target - np.arange(1, n + 1)[:, None]  # (n, seq)
    return np.where(last_read < 0, -1, np.where(last_read < owner, owner, target))


def loss_terms(cause: np.ndarray, n: int) -> np.ndarray:
    """Number of loss terms that belong to each token (`owners`); every term is counted once.

    A token at distance d < n after its cause keeps d terms.

    Args, Raises: as in `owners`.

    Returns:
        (n, seq) int, row k - 1 for the k-token loss.
    """
    owner = owners(cause, n)  # (n, seq)
    return np.array([np.bincount(row[row >= 0], minlength=len(row)) for row in owner]).cumsum(axis=0)


def term_counts(max_n: int = 8) -> pd.DataFrame:
    """Loss terms in Figure 9's sequence: a choice point that determines all later tokens, and tokens before it.

    Returns:
        A row for each n = 1..max_n: n, choice_point and inconsequential (loss terms of such a token), and relative,
        their ratio, which is (n + 1)/2 in theory.

    Raises:
        ValueError: for max_n < 1.
    """
    _check_n(max_n)
    choice = max_n + 1  # so that all horizons predict the token before it
    cause = np.concatenate([np.zeros(choice, int), np.arange(max_n)])  # (seq,)
    terms = loss_terms(cause, max_n)  # (max_n, seq)
    table = pd.DataFrame({"n": np.arange(1, max_n + 1), "choice_point": terms[:, choice]})
    table["inconsequential"] = terms[:, choice - 1]
    return table.assign(relative=table.choice_point / table.inconsequential)


def exact_nll(process: ChoiceProcess, n: int, seq: int) -> np.ndarray:
    """Expected loss of an ideal predictor of the choice process, in the layout of `predictions.token_nll`.

    Exact weights are `implicit_weights(exact_nll(process, n, seq))`. Away from the ends they repeat with the period of
    the process (times the number of its relevances).

    Returns:
        (n, 1, seq) loss of horizons 1..n in nats, aligned at the target; NaN where there is no target.

    Raises:
        ValueError: for n < 1 and for seq < 2.
    """
    entropy = process.horizon_entropy(n, seq)  # (n, seq) aligned at the last token that was read
    nll = np.full((n, 1, seq), np.nan)
    for i in range(1, min(n, seq - 1) + 1):
        nll[i - 1, 0, i:] = entropy[i - 1, :-i]
    return nll


def reading_gains(nll: np.ndarray) -> np.ndarray:
    """How much the loss of x_{s+j} falls when x_s is read: the loss of horizon j + 1 minus that of horizon j.

    The expected losses of an ideal predictor give I(x_{s+j}; x_s | x_{<s}). On single tokens even its gain is pointwise
    information, and negative where x_s made the actual token less likely. The gain of a trained model also includes
    any other difference between heads j + 1 and j. So interpret means, not single values.

    Args:
        nll: (n, rows, seq) losses of horizons 1..n, aligned at the target, NaN without a target
            (`predictions.token_nll`).

    Returns:
        (n, rows, seq): row j, at token s; row 0 is the next-token loss of x_s itself. NaN where x_{s+j} is outside
        the document of x_s, and at a document's first token, which all horizons have read.

    Raises:
        ValueError: for another number of dimensions, and if a horizon has a target where the one before has none.
    """
    _check_prefix(nll)
    n, _, seq = nll.shape
    gains = np.full(nll.shape, np.nan)
    gains[0] = nll[0]
    for j in range(1, min(n, seq)):
        gains[j, :, :-j] = (nll[j] - nll[j - 1])[:, j:]
    return gains


def implicit_weights(nll: np.ndarray) -> np.ndarray:
    """W_1..W_n of every token: the part of the k-token loss, summed over targets, that the token accounts for.

    Each gain of `reading_gains` counts once for every horizon up to k that predicts this target without having read
    x_s: k - j times inside a document, fewer within n tokens of its start. The sum of W_k over all tokens is exactly
    the summed loss of horizons 1..k, for any losses and documents.

    Args, Raises: as in `reading_gains`.

    Returns:
        (n, rows, seq), row k - 1 for the k-token loss; NaN at padding and at the first token of a document.
    """
    gains = reading_gains(nll)  # (n, rows, seq)
    n, _, seq = nll.shape
    per_horizon = np.zeros(nll.shape)
    for i in range(n):  # horizon i + 1
        for j in range(min(i + 1, seq)):
            has_target = ~np.isnan(nll[i, :, j:])  # (rows, seq - j) whether horizon i + 1 predicts x_{s+j}
            per_horizon[i, :, : seq - j] += np.where(has_target, gains[j, :, : seq - j], 0)
    return np.where(np.isnan(nll[0]), np.nan, per_horizon.cumsum(axis=0))


def information_weights(information: np.ndarray) -> np.ndarray:
    """W_1..W_n of every token by the formula above, without the noise of single tokens.

    Args:
        information: (n, rows, seq) row j: I(x_{s+j}; x_s | x_{<s}) at token s, as in
            `data_gen.stories.exact_probabilities`.

    Returns:
        (n, rows, seq), row k - 1 for the k-token loss; equal to `implicit_weights` of expected losses on `interior`
        tokens.
    """
    return information.cumsum(axis=0).cumsum(axis=0)


def interior(nll: np.ndarray) -> np.ndarray:
    """(rows, seq) bool: tokens with n tokens before and n - 1 after them in their document, so all terms of W_n exist.

    The theory is about these tokens. Args, Raises: as in `reading_gains`.
    """
    _check_prefix(nll)
    n, _, seq = nll.shape
    has_target = ~np.isnan(nll[-1])  # (rows, seq) whether horizon n predicts x_s
    has_last_target = np.zeros_like(has_target)  # whether horizon n predicts x_{s+n-1}
    has_last_target[:, : max(seq - n + 1, 0)] = has_target[:, n - 1 :]
    return has_target & has_last_target


def by_class(weights: np.ndarray, classes: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Mean implicit weight of each class of tokens, also relative to next-token prediction.

    relative = mean W_n / (n mean W_1). Division by W_1, the next-token loss of the class's tokens, makes classes of
    different entropy comparable. Division by n removes the growth of the loss for tokens that nothing depends on. So
    relative is 1 for inconsequential tokens, and (n + 1)/2 for choice points that every later token in reach
    determines. An ideal predictor is between the two on `interior` tokens. relative is NaN for classes whose next-token
    loss is 0 (forced tokens).

    Args:
        weights: (n, rows, seq) from `implicit_weights`.
        classes: name -> (rows, seq) bool, such as labels["consequential"] & interior(nll); tokens without a weight are
            left out.

    Returns:
        A row for each class and n: class, n, tokens (their number), weight (nats a token), relative.

    Raises:
        ValueError: for a class that is not a bool array of this shape, or has no token with a weight.
    """
    rows = []
    for name, members in classes.items():
        members = np.asarray(members)
        if members.dtype != bool or members.shape != weights.shape[1:]:
            got = f"{members.dtype} of shape {members.shape}"
            raise ValueError(f"class {name!r} must be bool of shape {weights.shape[1:]}, got {got}")
        chosen = members & ~np.isnan(weights[0])
        if not chosen.any():
            raise ValueError(f"class {name!r} has no token with a weight; use more rows, or leave the class out")
        means = weights[:, chosen].mean(axis=1)  # (n,)
        for n, weight in enumerate(means, start=1):
            relative = weight / (n * means[0]) if means[0] > 0 else np.nan
            rows.append({"class": name, "n": n, "tokens": chosen.sum(), "weight": weight, "relative": relative})
    return pd.DataFrame(rows)


def theoretical_weights(n: int, label: str) -> tuple[tuple[str, float], ...]:
    """`TrainConfig.label_weights` that give next-token training the emphasis of the n-token loss.

    Choice points have weight (n + 1)/2, other tokens 1. This is the maximum in theory: the weight is smaller if fewer
    than n - 1 later tokens determine the choice (see `by_class`).

    Args:
        n: number of future tokens of the loss to imitate.
        label: token label of the choice points; "consequential" if some choices have no consequence.

    Raises:
        ValueError: for n < 1.

    Example:
        >>> theoretical_weights(4, "consequential")
        (('consequential', 2.5),)
    """
    _check_n(n)
    return ((label, (n + 1) / 2),)


def _check_n(n: int) -> None:
    if n < 1:
        raise ValueError(f"n={n} must be at least 1 future token")


def _check_prefix(nll: np.ndarray) -> None:
    check_nll(nll)
    skipped = np.argwhere(~np.isnan(nll[1:]) & np.isnan(nll[:-1]))  # (skips, 3)
    if len(skipped):
        i, row, position = skipped[0] + (2, 0, 0)
        raise ValueError(
            f"horizon {i} has a loss for the token at row {row}, position {position}, but horizon {i - 1} has none; "
            "use the losses of all horizons, as predictions.token_nll returns them"
        )
