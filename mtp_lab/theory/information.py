"""What two or more future tokens share: entropies of a known joint distribution, and an estimate from trained heads.

Gloeckle et al. 2024 (arXiv 2404.19737), section 5.2 and Appendix L.2: X is the next token and Y the one after, both
given the same past. Next-token prediction pays H(X) + H(Y | X); two-token prediction pays H(X) + H(Y), in which what X
and Y share counts twice. All in nats.
"""

from dataclasses import dataclass

import numpy as np

from mtp_lab.model.predictions import check_nll


@dataclass(frozen=True)
class Decomposition:
    """x + y = x_given_y + 2 shared + y_given_x; x = x_given_y + shared; y = y_given_x + shared. In nats.

    Of a distribution alone: H(X), H(Y), H(X|Y), H(Y|X), I(X; Y). Of a model q under p: the cross-entropies
    H(p_X, q_X), H(p_Y, q_Y), H(p_{X|Y}, q_{X|Y}), H(p_{Y|X}, q_{Y|X}), and the relative mutual information I_{p||q}.
    """

    x: float
    y: float
    x_given_y: float
    y_given_x: float
    shared: float


def decompose(p: np.ndarray, q: np.ndarray | None = None) -> Decomposition:
    """The entropies of p (section 5.2), or the cross-entropies of q where data come from p (Appendix L.2).

    The relative mutual information is D(p || q_X x q_Y) - D(p || q): what it saves q on data from p to know one of
    the two tokens when it predicts the other. It is I(X; Y) for q = p, 0 for q = q_X x q_Y, which is what parallel
    heads model (they save nothing, however much the data share), and negative where q's dependence misleads.

    Lemma L.3: H(p_X, q_X) = H(p_{X|Y}, q_{X|Y}) + I_{p||q}. The conditional cross-entropy is the expectation over
    p_Y(y) of H(p_{X|y}, q_{X|y}); the penultimate line of the paper's proof prints q_{Y|y} in it, a misprint: that
    is a distribution of Y, not of X.

    Args:
        p: (a, b) probabilities of x (rows) and y (columns).
        q: (a, b) the model's; p itself by default.

    Raises:
        ValueError: for anything but a joint distribution, shapes that differ, and a q that excludes what p does not.
    """
    p = _joint("p", p)
    q = p if q is None else _joint("q", q)
    if p.shape != q.shape:
        raise ValueError(f"q has shape {q.shape}, p has {p.shape}; give both the same outcomes")
    x, y = np.nonzero(p)  # (outcomes,) twice; all sums are over these, since 0 log 0 = 0
    if (excluded := q[x, y] == 0).any():
        where = int(x[excluded][0]), int(y[excluded][0])
        raise ValueError(f"q[{where[0]}, {where[1]}] is 0 where p is not: the cross-entropy is infinite; smooth q")
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
    """What the next n tokens share, given the past, by a model's losses: heads' sum less the chain rule's.

    At position t, heads 1..n predict x_{t+1}..x_{t+n} each from x_0..x_t; next-token prediction predicts them one
    after the other. The difference is an estimate of sum_i H(x_{t+i} | x_{<=t}) - H(x_{t+1}, ..., x_{t+n} | x_{<=t}).
    For two tokens, total_correlation(nats[:2]), that is the mutual information I(X; Y) of section 5.2.

    Its mean is exact for ideal predictors. A model's is off by what its far heads lose beyond an ideal predictor's
    loss, less what its next-token head does: too large where far heads are the worse learnt. Single values can be
    negative even for ideal predictors.

    Args:
        nats: (n, rows, seq) of horizons 1..n, aligned at the target, nan where not asked (`evaluate.token_nll`).

    Returns:
        (rows, seq) nats, aligned at t, the last token read; nan where not all n tokens could be asked from there.

    Raises:
        ValueError: for nats of another number of dimensions.
    """
    check_nll(nll)
    n, rows, seq = nll.shape
    total = np.full((rows, seq), np.nan)
    if n < seq:
        dearer = nll - nll[0]  # (n, rows, seq) than next-token prediction of the same token
        total[:, :-n] = sum(dearer[i - 1, :, i : seq - n + i] for i in range(1, n + 1))
    return total


def _joint(name: str, p: np.ndarray) -> np.ndarray:
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 2:
        raise ValueError(f"{name} must be a joint distribution, (a, b), got shape {p.shape}")
    if not (p >= 0).all() or not abs(p.sum() - 1) < 1e-9:
        raise ValueError(f"{name} must be none negative and sum to 1, got {p.min():g} to {p.max():g}, sum {p.sum():g}")
    return p
