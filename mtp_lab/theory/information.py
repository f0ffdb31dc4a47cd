"""Information that future tokens share: entropies of a known joint distribution, and an estimate from trained heads.

Gloeckle et al. 2024 (arXiv 2404.19737), section 5.2 and Appendix L.2: X is the next token and Y the one after, both
given the same past. The loss of next-token prediction is H(X) + H(Y | X). That of two-token prediction is H(X) + H(Y),
which counts the information that X and Y share twice. All values are in nats.
"""

from dataclasses import dataclass

import numpy as np

from mtp_lab.model.predictions import check_nll


@dataclass(frozen=True)
class Decomposition:
    """The parts of the two-token loss, in nats: x + y = x_given_y + 2 shared + y_given_x.

    Also, x = x_given_y + shared and y = y_given_x + shared. For a single distribution the fields are H(X), H(Y),
    H(X|Y), H(Y|X) and I(X; Y). For a model q on data from p they are the cross-entropies H(p_X, q_X), H(p_Y, q_Y),
    H(p_{X|Y}, q_{X|Y}), H(p_{Y|X}, q_{Y|X}), and the relative mutual information I_{p||q}.
    """

    x: float
    y: float
    x_given_y: float
    y_given_x: float
    shared: float


def decompose(p: np.ndarray, q: np.ndarray | None = None) -> Decomposition:
    """The entropies of p (section 5.2), or the cross-entropies of q on data from p (Appendix L.2).

    The relative mutual information is D(p || q_X x q_Y) - D(p || q): how much lower the loss of q on one token is when
    it knows the other token. It is I(X; Y) for q = p. It is 0 for q = q_X x q_Y, the model class of parallel heads,
    however much information the tokens share. It is negative if q models the dependence wrongly.

    Lemma L.3: H(p_X, q_X) = H(p_{X|Y}, q_{X|Y}) + I_{p||q}. The conditional cross-entropy is the expectation over
    p_Y(y) of H(p_{X|y}, q_{X|y}). The penultimate line of the paper's proof prints q_{Y|y} there. This is a misprint,
    since q_{Y|y} is a distribution of Y, not of X.

    Args:
        p: (a, b) probabilities of x (rows) and y (columns).
        q: (a, b) probabilities of the model; p itself by default.

    Raises:
        ValueError: if p or q is not a joint distribution, if their shapes differ, and if q is 0 where p is not.
    """
    p = _joint("p", p)
    q = p if q is None else _joint("q", q)
    if p.shape != q.shape:
        raise ValueError(f"q has shape {q.shape}, p has {p.shape}; give both the same outcomes")
    x, y = np.nonzero(p)  # (outcomes,) twice; all sums are over these, since 0 log 0 = 0
    if (excluded := q[x, y] == 0).any():
        first = int(x[excluded][0]), int(y[excluded][0])
        raise ValueError(f"q[{first[0]}, {first[1]}] is 0 where p is not: the cross-entropy is infinite; smooth q")
    mass, log_p, log_q = p[x, y], np.log(p[x, y]), np.log(q[x, y])  # (outcomes,)
    log_x, log_y = np.log(q.sum(axis=1)[x]), np.log(q.sum(axis=0)[y])
    from_product = mass @ (log_p - log_x - log_y)  # D(p || q_X x q_Y)
    from_model = mass @ (log_p - log_q)  # D(p || q)
    return Decomposition(
        x=float(-mass @ log_x),
        y=float(-mass @ log_y),
        x_given_y=float(-mass @ (log_q - log_y)),
        y_given_x=float(-mass @ (log_q - log_x)),
        shared=float(from_product - from_model),
    )


def total_correlation(nll: np.ndarray) -> np.ndarray:
    """Information that the next n tokens share given the past, estimated from a model's losses.

    At position t, heads 1..n predict x_{t+1}..x_{t+n}, each from x_0..x_t. The next-token head predicts the same tokens
    one after the other. The difference of the two summed losses is an estimate of
    sum_i H(x_{t+i} | x_{<=t}) - H(x_{t+1}, ..., x_{t+n} | x_{<=t}).
    For two tokens, total_correlation(nll[:2]), this is the mutual information I(X; Y) of section 5.2.

    For an ideal predictor the mean is exact. For a trained model it is off by the excess loss of its far heads minus
    that of its next-token head, so it is too large if far heads have learned less well. Single values can be negative
    even for an ideal predictor.

    Args:
        nll: (n, rows, seq) losses of horizons 1..n, aligned at the target, NaN without a target
            (`predictions.token_nll`).

    Returns:
        (rows, seq) nats, aligned at t, the last token that is read; NaN unless all n tokens are targets from there.

    Raises:
        ValueError: for another number of dimensions.
    """
    check_nll(nll)
    n, rows, seq = nll.shape
    total = np.full((rows, seq), np.nan)
    if n < seq:
        difference = nll - nll[0]  # (n, rows, seq) from the next-token loss of the same token
        total[:, :-n] = sum(difference[i - 1, :, i : seq - n + i] for i in range(1, n + 1))
    return total


def _joint(name: str, p: np.ndarray) -> np.ndarray:
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 2:
        raise ValueError(f"{name} must be a joint distribution, (a, b), got shape {p.shape}")
    if not (p >= 0).all() or not abs(p.sum() - 1) < 1e-9:
        raise ValueError(
            f"{name} must not be negative and must sum to 1, got {p.min():g} to {p.max():g}, sum {p.sum():g}"
        )
    return p
