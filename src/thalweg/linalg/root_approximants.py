"""Polynomials and quotients that replace a square root, and their error in closed form.

With ``A = n (I - Z)``, n the Frobenius norm of A, the square root of A is that of n times
``sqrt(1 - z)`` at the eigenvalues of Z, which lie in [0, 1). A Taylor polynomial needs products
alone; a Padé quotient of degree M matches twice as many terms at the price of one solve. Both err
most where z is near one, so that the smallest eigenvalue alone decides the error of a matrix.

Source: "Fast Differentiable Matrix Square Root" (2022), arXiv 2201.08663, Sections 3.1 and 3.2;
"Fast Differentiable Matrix Square Root and Inverse Square Root" (2022), arXiv 2201.12543.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import hyp2f1

from thalweg._validation import check_array, check_count, check_option

Approximant = Literal["taylor", "pade", "newton-schulz"]
DEFAULT_DEGREE = {"taylor": 10, "pade": 5, "newton-schulz": 5}
_ROUNDING = 1e-9


def taylor_coefficients(degree: int, inverse: bool = False) -> NDArray[np.float64]:
    """Return the Taylor coefficients of sqrt(1 - z), or of 1/sqrt(1 - z), at zero.

    Parameters
    ----------
    degree : int
        Highest power, at least 1.
    inverse : bool, default False
        Whether the reciprocal is expanded.

    Returns
    -------
    coefficients : ndarray of shape (degree + 1,)
        Of 1, z, z^2, ...: ``(-1)^k binom(1/2, k)``, negative after the first; with `inverse`
        ``binom(2 k, k) / 4^k``.

    References
    ----------
    arXiv 2201.08663, Section 3.1 (matrix Taylor polynomial).

    Examples
    --------
    >>> taylor_coefficients(3).tolist()
    [1.0, -0.5, -0.125, -0.0625]
    """
    k = np.arange(check_count("degree", degree))
    shift = 0.5 if inverse else -0.5
    ratios: NDArray[np.float64] = (k + shift) / (k + 1)
    return np.concatenate((np.ones(1), np.multiply.accumulate(ratios)))


def pade_coefficients(degree: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return numerator and denominator of the diagonal Padé approximant of sqrt(1 - z) at zero.

    Parameters
    ----------
    degree : int
        Degree M of both, at least 1.

    Returns
    -------
    p, q : ndarray of shape (degree + 1,)
        Coefficients of 1, z, z^2, ...; ``p[0] = q[0] = 1``. The quotient agrees with the Taylor
        series up to z^(2 M).

    Notes
    -----
    With ``s = sqrt(1 - z)`` and ``N = 2 M + 1`` the quotient is ``s ((1 + s)^N + (1 - s)^N) /
    ((1 + s)^N - (1 - s)^N)``; the coefficients are computed from it in whole numbers, so that each
    is the float64 nearest to its exact value. Beyond degree 8 sums in powers of z lose digits by
    cancellation, however exact the coefficients.

    References
    ----------
    arXiv 2201.08663, Section 3.2 (matrix Padé approximant).

    Examples
    --------
    >>> p, q = pade_coefficients(1)
    >>> p.tolist(), q.tolist()
    ([1.0, -0.75], [1.0, -0.25])
    """
    p, q = _exact_pade(check_count("degree", degree))
    return np.array(p), np.array(q)


def approximation_error(
    x: ArrayLike, method: Approximant = "pade", degree: int | None = None, inverse: bool = False
) -> NDArray[np.float64]:
    """Return the relative error of an approximate root at an eigenvalue, in closed form.

    Parameters
    ----------
    x : array_like
        Eigenvalues over the Frobenius norm of their matrix, in (0, 1].
    method : {"pade", "taylor", "newton-schulz"}, default "pade"
        What approximates.
    degree : int, optional
        Degree, or number of steps of Newton-Schulz; by default 5, 10 and 5.
    inverse : bool, default False
        Whether the inverse root is meant.

    Returns
    -------
    error : ndarray of the shape of `x`
        ``approximation / exact - 1``. It falls in size as x grows, so that its value at the
        smallest eigenvalue bounds the relative error of the matrix in every unitarily invariant
        norm. Roots by Taylor and Padé are too large, inverse roots and Newton-Schulz too small.

    Raises
    ------
    ValueError
        If an entry of `x` is outside (0, 1] or an option is unknown.

    Notes
    -----
    With ``rho = (1 - sqrt(x)) / (1 + sqrt(x))`` and ``N = 2 M + 1`` the error of the Padé quotient
    is ``2 rho^N / (1 - rho^N)``. That of Taylor is the tail of the series, a hypergeometric
    function. Newton-Schulz takes ``y = sqrt(x p)`` with ``p <- p (3 - p)^2 / 4`` from ``p = x``.

    Examples
    --------
    >>> approximation_error([0.01, 0.1, 1.0]).round(4).tolist()
    [0.2472, 0.0015, 0.0]
    """
    given = check_array("x", x)
    if not ((given > 0) & (given <= 1 + _ROUNDING)).all():
        raise ValueError(f"x must be above 0 and at most 1, got {given.min()} to {given.max()}")
    share: NDArray[np.float64] = np.minimum(given, 1.0)
    degree = resolve_degree(check_option("method", method, DEFAULT_DEGREE), degree)
    if method == "newton-schulz":
        p = share
        for _ in range(degree):
            p = p * (3 - p) ** 2 / 4
        return np.sqrt(p) - 1
    if method == "pade":
        power = ((1 - share) / (1 + np.sqrt(share)) ** 2) ** (2 * degree + 1)
        error = 2 * power / (1 - power)
        return -error / (1 + error) if inverse else error
    k, z = degree + 1, 1 - share
    first = taylor_coefficients(k, inverse)[k] * z**k
    if inverse:
        return -first * hyp2f1(k, 0.5, k + 1, z)
    return -first * hyp2f1(1, k - 0.5, k + 1, z) / np.sqrt(share)


def resolve_degree(method: str, degree: int | None) -> int:
    """Return `degree`, or the default of `method`; ValueError or TypeError unless it is >= 1."""
    if degree is None:
        return DEFAULT_DEGREE.get(method, 1)
    return check_count("degree", degree)


def root_fractions(degree: int) -> list[tuple[float, float]]:
    """Return (a_j, b_j) of the Padé quotient ``1 - sum_j a_j z / (1 - b_j z)``."""
    order = 2 * degree + 1
    angles = np.arange(1, degree + 1) * np.pi / order
    weights = 2 / order * np.sin(angles) ** 2
    return list(zip(weights.tolist(), (np.cos(angles) ** 2).tolist(), strict=True))


def inverse_root_fractions(degree: int) -> tuple[float, list[tuple[float, float]]]:
    """Return 1/N and (c_k, t_k) of its reciprocal ``1/N + sum_k c_k / (x + t_k)``, x = 1 - z."""
    order = 2 * degree + 1
    shifts = np.tan((2 * np.arange(1, degree + 1) - 1) * np.pi / (2 * order)) ** 2
    weights = 2 / order * (1 + shifts)
    return 1 / order, list(zip(weights.tolist(), shifts.tolist(), strict=True))


@lru_cache(maxsize=64)
def _exact_pade(degree: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    order = 2 * degree + 1

    def expanded(parity: int) -> tuple[float, ...]:
        """``sum_j binom(N, 2 j + parity) (1 - z)^j`` in powers of z, over its value at zero."""
        powers = range(degree + 1)
        weights = [comb(order, 2 * j + parity) for j in powers]
        return tuple(
            (-1) ** i * sum(weights[j] * comb(j, i) for j in powers) / 4**degree for i in powers
        )

    return expanded(0), expanded(1)
