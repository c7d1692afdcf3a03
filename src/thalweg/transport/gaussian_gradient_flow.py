"""Wasserstein gradient flow of the Kullback-Leibler divergence between Gaussians, in closed form.

A Gaussian that descends the divergence from a Gaussian target stays Gaussian, in continuous time
(the Ornstein-Uhlenbeck process) and in the implicit steps of Jordan, Kinderlehrer and Otto (JKO):
the exact answers that learned flows are measured against.

Source: "Variational Wasserstein gradient flow" (2021), arXiv 2112.02424, section on the
Ornstein-Uhlenbeck process; the step for covariances that do not commute is derived here.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_real
from thalweg.transport.gaussian import _covariances, _roots

Floats: TypeAlias = NDArray[np.float64]


def gaussian_jko_step(
    m: ArrayLike, C: ArrayLike, b: ArrayLike, S: ArrayLike, a: float
) -> tuple[Floats, Floats]:
    """Return the JKO step of size `a` from ``N(m, C)`` towards ``N(b, S)``.

    It minimises ``W2(P, N(m, C))^2 / (2 a) + KL(P || N(b, S))`` over all distributions P.

    The optimality condition ``C'^-1 = S^-1 + (I - B) / a``, where B maps ``N(0, C')`` back to
    ``N(0, C)``, is a quadratic equation in ``D = C^(-1/2) B C^(-1/2)``:
    ``D^2 + D / a = C^(-1/2) (S^-1 + I / a) C^(-1/2)``. Its positive solution and
    ``C' = C^(-1/2) D^-2 C^(-1/2)`` need one eigendecomposition, and the matrices need not commute.

    Parameters
    ----------
    m, b : array_like (d,)
        Mean now, and mean of the target.
    C, S : array_like (d, d)
        Covariance now, and covariance of the target: symmetric, positive definite.
    a : float
        Step size, in units of time of the flow.

    Returns
    -------
    mean : array (d,)
    cov : array (d, d)

    Raises
    ------
    ValueError
        If a shape is wrong, a covariance is not positive definite or `a` is not positive.

    References
    ----------
    "Variational Wasserstein gradient flow" (2021), arXiv 2112.02424.

    Examples
    --------
    >>> mean, cov = gaussian_jko_step([1.0], [[1.0]], [0.0], [[1.0]], 0.5)
    >>> mean.round(4), cov.round(4)
    (array([0.6667]), array([[1.]]))
    """
    m, C, b, S = _gaussians(m, C, b, S)
    a = check_real("a", a, above=0)
    precision = np.linalg.inv(S)
    pull = precision + np.eye(len(S)) / a
    _, inverse_root = _roots(C)
    values, vectors = np.linalg.eigh(inverse_root @ pull @ inverse_root)
    D = 2 * values / (1 / a + np.sqrt(1 / a**2 + 4 * values))
    half = inverse_root @ (vectors / D)
    mean = np.linalg.solve(pull, m / a + precision @ b)
    return np.asarray(mean), np.asarray(half @ half.T)


def gaussian_flow(
    m: ArrayLike, C: ArrayLike, b: ArrayLike, S: ArrayLike, t: float
) -> tuple[Floats, Floats]:
    """Return mean and covariance at time `t` of the flow from ``N(m, C)`` towards ``N(b, S)``.

    It is the law of ``dX = -S^-1 (X - b) dt + sqrt(2) dW``.

    Parameters
    ----------
    m, C, b, S
        As in `gaussian_jko_step`.
    t : float
        Time, at least 0.

    Returns
    -------
    mean : array (d,)
    cov : array (d, d)

    Raises
    ------
    ValueError
        As in `gaussian_jko_step`, or if `t` is negative.

    Examples
    --------
    >>> mean, cov = gaussian_flow([1.0], [[3.0]], [0.0], [[1.0]], np.log(2))
    >>> mean.round(4), cov.round(4)
    (array([0.5]), array([[1.5]]))
    """
    m, C, b, S = _gaussians(m, C, b, S)
    t = check_real("t", t, at_least=0)
    values, vectors = np.linalg.eigh(S)
    decay = (vectors * np.exp(-t / values)) @ vectors.T
    return b + decay @ (m - b), S + decay @ (C - S) @ decay


def _gaussians(
    m: ArrayLike, C: ArrayLike, b: ArrayLike, S: ArrayLike
) -> tuple[Floats, Floats, Floats, Floats]:
    C, S = _covariances(C=C, S=S)
    d = len(C)
    return check_array("m", m, shape=(d,)), C, check_array("b", b, shape=(d,)), S
