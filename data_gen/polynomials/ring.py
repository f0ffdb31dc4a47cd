"""Arithmetic in F_p[X]/(X^d): polynomials with coefficients modulo a prime p, cut off before degree d.

A polynomial is its d coefficients, from degree 0 upwards, on the last axis of an unsigned integer array. All other axes
are batch axes. Left out: division, and rings with a modulus other than X^d.
"""

import numpy as np


def ring_dtype(p: int, d: int) -> np.dtype:
    """The smallest type that holds a coefficient of a product before it is reduced modulo p: (p - 1)^2 d + p - 1."""
    return np.min_scalar_type((p - 1) ** 2 * d + p - 1)


def negate(a: np.ndarray, p: int) -> np.ndarray:
    """-a, (..., d). In characteristic 2 every polynomial is its own negative."""
    return (p - a) % p


def add(a: np.ndarray, b: np.ndarray, p: int) -> np.ndarray:
    """a + b, (..., d)."""
    return (a + b) % p


def multiply(a: np.ndarray, b: np.ndarray, p: int) -> np.ndarray:
    """a * b mod X^d, (..., d). Like all functions here, without overflow for arrays of `ring_dtype(p, d)`."""
    d = a.shape[-1]
    total = a[..., :1] * b  # (..., d)
    for degree in range(1, d):
        total[..., degree:] += a[..., degree : degree + 1] * b[..., : d - degree]
    return total % p


def compose(a: np.ndarray, b: np.ndarray, p: int) -> np.ndarray:
    """a(b(X)) mod X^d, (..., d), by Horner's rule.

    a is its representative of degree below d. This matters if b has a constant term: then b^d is not 0 modulo X^d, and
    another representative of a would give another result.
    """
    total = np.zeros_like(b)
    for degree in reversed(range(a.shape[-1])):
        total = multiply(total, b, p)
        total[..., 0] = (total[..., 0] + a[..., degree]) % p
    return total
