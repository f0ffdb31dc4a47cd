"""What the n-token loss weighs: the terms, and the nats, that each token is answerable for.

Gloeckle et al. 2024 (arXiv 2404.19737), section 5.1, Figure 9 and Appendix L.3, count loss terms: n(n + 1)/2 belong to
a choice point, n to an inconsequential token. Nats can be counted too. Horizon i of target x_u has read x_0 to x_{u-i},
so by the chain rule it pays

    H(x_u | x_{<=u-i}) = sum_{s=u-i+1}^{u} I(x_u; x_s | x_{<s})         (s = u: the entropy of x_u)

one part for each token s that it has not read. The loss of horizons 1 to n, summed over all targets, is therefore a
sum over tokens, and inside a document token s has the implicit weight

    W_n(s) = sum_{j=0}^{n-1} (n - j) I(x_{s+j}; x_s | x_{<s})

No part is negative, or larger than the entropy H of x_s: nH <= W_n <= n(n + 1)/2 H. The least: nothing in reach tells
of x_s. The most: each of the n - 1 tokens after x_s tells all of it by itself. That x_s determines them is not enough:
a token that shows one bit of a choice among four carries one bit of it. Targets are summed here; a loss that takes
each horizon's mean (`mtp_lab.model.loss`) weighs far horizons, which have fewer targets, a little more.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from data_gen.choice_process import ChoiceProcess
from mtp_lab.model.predictions import check_nll


def owners(cause: np.ndarray, n: int) -> np.ndarray:
    """Which token each loss term x_t -> x_{t+i} belongs to (section 5.1, Figure 9).

    A term belongs to its target's cause if the cause lies after x_t, where it has not been read; otherwise to the
    target itself.

    Args:
        cause: (seq,) distance from each token back to the choice point that determines it; 0 or less: none, as in
            `ChoiceProcess`' mark of that name.
        n: horizons.

    Returns:
        (n, seq) int, row i - 1 for horizon i, at the target; -1 where nothing stands i tokens before it.

    Raises:
        ValueError: for n < 1, and a cause before the first token.
    """
    _check_n(n)
    target = np.arange(len(cause))
    owner = target - np.maximum(np.asarray(cause).astype(int), 0)  # (seq,) the cause, or the token itself
    if (owner < 0).any():
        at = int(np.argmax(owner < 0))
        raise ValueError(f"cause={at - owner[at]} of token {at} lies before the first token; use a distance up to {at}")
    read = target - np.arange(1, n + 1)[:, None]  # (n, seq) the last token that was read
    return np.where(read < 0, -1, np.where(read < owner, owner, target))


def loss_terms(cause: np.ndarray, n: int) -> np.ndarray:
    """The loss terms that belong to each token, counted: every term once, see `owners`.

    A token at distance d < n after its cause keeps d terms.

    Args, Raises: as `owners`.

    Returns:
        (n, seq) int, row k - 1 for the k-token loss.
    """
    belong = owners(cause, n)  # (n, seq)
    return np.array([np.bincount(row[row >= 0], minlength=len(row)) for row in belong]).cumsum(axis=0)


def counted(most: int = 8) -> pd.DataFrame:
    """Figure 9's trajectory, counted: one choice point, which determines all that follows, and tokens before it.

    Returns:
        A row for each n = 1..most: n, choice_point and inconsequential (loss terms of a token), and relative, their
        ratio, which theory says is (n + 1)/2.

    Raises:
        ValueError: for most < 1.
    """
    _check_n(most)
    choice = most + 1  # so that the token before it is predicted by all horizons
    cause = np.concatenate([np.zeros(choice, int), np.arange(most)])  # (seq,)
    terms = loss_terms(cause, most)  # (most, seq)
    table = pd.DataFrame({"n": np.arange(1, most + 1), "choice_point": terms[:, choice]})
    table["inconsequential"] = terms[:, choice - 1]
    return table.assign(relative=table.choice_point / table.inconsequential)


def exact_nll(process: ChoiceProcess, n: int, seq: int) -> np.ndarray:
    """What an ideal predictor of the choice process pays on average, laid out as `evaluate.token_nll` does it.

    Exact weights are `implicit_weights(exact_nll(process, n, seq))`; away from the ends they repeat with the
    process' period (times the number of its relevances).

    Returns:
        (n, 1, seq) nats of horizons 1..n, aligned at the token that is predicted; nan where there is no such pair.

    Raises:
        ValueError: for n < 1 and seq < 2.
    """
    entropy = process.horizon_entropy(n, seq)  # (n, seq) aligned at the last token read
    nll = np.full((n, 1, seq), np.nan)
    for i in range(1, min(n, seq - 1) + 1):
        nll[i - 1, 0, i:] = entropy[i - 1, :-i]
    return nll


def attributed(nll: np.ndarray) -> np.ndarray:
    """How many nats the prediction of x_{s+j} gains by reading x_s: what horizon j + 1 pays more than horizon j.

    Exact nats, averaged over continuations, give I(x_{s+j}; x_s | x_{<s}). On single tokens even an ideal predictor's
    gain is a pointwise one, and negative where x_s made the token that came less likely. A model's also holds
    whatever head j + 1 does worse (or better) than head j for other reasons. Read means.

    Args:
        nats: (n, rows, seq) of horizons 1..n, aligned at the target, nan where not asked (`evaluate.token_nll`).

    Returns:
        (n, rows, seq): row j, at token s; row 0 is the next-token loss of x_s itself. nan where x_{s+j} lies outside
        the document of x_s, and at a document's first token: all horizons have read it, so it never has to answer.

    Raises:
        ValueError: for nats of another number of dimensions, and where a horizon was asked but the one before was not.
    """
    _check_prefix(nll)
    n, _, seq = nll.shape
    gains = np.full(nll.shape, np.nan)
    gains[0] = nll[0]
    for j in range(1, min(n, seq)):
        gains[j, :, :-j] = (nll[j] - nll[j - 1])[:, j:]
    return gains


def implicit_weights(nll: np.ndarray) -> np.ndarray:
    """W_1..W_n of every token: the part of the k-token loss, summed over targets, that it is answerable for.

    Each gain of `attributed` counts once for every horizon up to k that was asked of that target and had not read x_s:
    k - j times inside a document, fewer within n tokens of its beginning. Over all tokens W_k sums to the summed loss
    of horizons 1..k exactly, whatever the nats and the documents.

    Args, Raises: as `attributed`.

    Returns:
        (n, rows, seq), row k - 1 for the k-token loss; nan at documents' first tokens and padding.
    """
    gains = attributed(nll)  # (n, rows, seq)
    n, _, seq = nll.shape
    per_horizon = np.zeros(nll.shape)
    for i in range(n):  # horizon i + 1
        for j in range(min(i + 1, seq)):
            asked = ~np.isnan(nll[i, :, j:])  # (rows, seq - j) of x_{s+j}
            per_horizon[i, :, : seq - j] += np.where(asked, gains[j, :, : seq - j], 0)
    return np.where(np.isnan(nll[0]), np.nan, per_horizon.cumsum(axis=0))


def information_weights(information: np.ndarray) -> np.ndarray:
    """W_1..W_n of every token from the formula itself, free of the noise of single tokens.

    Args:
        information: (n, rows, seq) row j: I(x_{s+j}; x_s | x_{<s}) at token s, as `data_gen.stories.reader` gives it.

    Returns:
        (n, rows, seq), row k - 1 for the k-token loss; as `implicit_weights` of expected nats for `whole` tokens.
    """
    return information.cumsum(axis=0).cumsum(axis=0)


def whole(nll: np.ndarray) -> np.ndarray:
    """(rows, seq) bool: tokens with n before and n - 1 after them in their document, so that all of W_n's pairs exist.

    Theory is about these. Args, Raises: as `attributed`.
    """
    _check_prefix(nll)
    n, _, seq = nll.shape
    asked = ~np.isnan(nll[-1])  # (rows, seq) of horizon n
    last = np.zeros_like(asked)  # the same of x_{s+n-1}
    last[:, : max(seq - n + 1, 0)] = asked[:, n - 1 :]
    return asked & last


def by_class(weights: np.ndarray, classes: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Mean implicit weight of classes of tokens, and relative to next-token prediction.

    relative = mean W_n / (n mean W_1). Division by W_1, the nats of the class's tokens themselves, makes classes of
    different entropy comparable; n is what the loss grows by for tokens that nothing depends on. So relative is 1 for
    inconsequential tokens and (n + 1)/2 for choice points whose every successor tells of them; an ideal predictor's
    lies between, on tokens that are `whole`. It is nan for classes that pay nothing themselves (forced tokens).

    Args:
        weights: (n, rows, seq) as `implicit_weights` gives them.
        classes: name -> (rows, seq) bool, such as marks["consequential"] & whole(nats); tokens without a weight are
            left out.

    Returns:
        A row for each class and n: class, n, tokens (how many), weight (nats a token), relative.

    Raises:
        ValueError: for a class that is no bool array of that shape, or has no token with a weight.
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
    """`TrainConfig.label_weights` that give next-token training the n-token loss's emphasis: (n + 1)/2, elsewhere 1.

    The most that theory gives: where a choice shows in fewer than n - 1 later tokens, `by_class` says how much less.

    Args:
        n: the future tokens to imitate.
        mark: of the choice points; "consequential" where some choices are of no consequence.

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
        i, row, at = skipped[0] + (2, 0, 0)
        raise ValueError(
            f"horizon {i} was asked of the token at row {row}, position {at}, but horizon {i - 1} was not; "
            "use the nats of all horizons, as evaluate.token_nll gives them"
        )
