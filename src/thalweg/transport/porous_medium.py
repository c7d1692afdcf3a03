"""Barenblatt's solution of the porous medium equation: density, sample and variance.

The equation ``d rho / dt = Laplacian(rho^m)`` is the Wasserstein gradient flow of the energy
``int rho^m / (m - 1)``. Started from a point mass it keeps one shape, which spreads with the power
``1 / (d (m - 1) + 2)`` of time and has compact support.

Source: "Variational Wasserstein gradient flow" (2021), arXiv 2112.02424, section on the porous
medium equation.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from thalweg._validation import check_array, check_count, check_real

Floats: TypeAlias = NDArray[np.float64]


def barenblatt(x: ArrayLike, t: float, m: float = 2.0) -> Floats:
    """Return the density of Barenblatt's solution, of mass 1 around the origin.

    Parameters
    ----------
    x : array_like (..., d)
        Points.
    t : float
        Time since the point mass, above 0.
    m : float, default 2.0
        Exponent of the equation, above 1.

    Returns
    -------
    array (...)
        ``t^-al (c - be |x|^2 t^(-2 al / d))_+^(1 / (m - 1))`` with ``al = d / (d (m - 1) + 2)`` and
        ``be = (m - 1) al / (2 m d)``.

    Raises
    ------
    ValueError
        If an argument is not as stated.

    Examples
    --------
    >>> barenblatt([[0.0], [3.0]], 1.0).round(4)
    array([0.3606, 0.    ])
    """
    x = check_array("x", x)
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(f"x must have shape (..., d), got {x.shape}")
    d = x.shape[-1]
    t, m = check_real("t", t, above=0), check_real("m", m, above=1)
    alpha, beta, c = _constants(d, m)
    inside = np.maximum(c - beta * (x**2).sum(-1) * t ** (-2 * alpha / d), 0.0)
    return np.asarray(t**-alpha * inside ** (1 / (m - 1)))


def barenblatt_sample(n: int, d: int, t: float, m: float = 2.0, rng: Any = None) -> Floats:
    """Draw `n` points (n, d) of Barenblatt's solution at time `t`; exact.

    Parameters
    ----------
    n, d : int
        Points and dimensions.
    t, m : float
        As in `barenblatt`.
    rng : None, int or Generator
        Source of randomness.

    Returns
    -------
    array (n, d)

    Examples
    --------
    >>> barenblatt_sample(1000, 2, 1.0, rng=0).shape
    (1000, 2)
    """
    n, d = check_count("n", n), check_count("d", d)
    t, m = check_real("t", t, above=0), check_real("m", m, above=1)
    rng = np.random.default_rng(rng)
    alpha, beta, c = _constants(d, m)
    directions = rng.standard_normal((n, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    shares = rng.beta(d / 2, 1 + 1 / (m - 1), size=(n, 1))
    return np.asarray(directions * np.sqrt(c / beta * shares) * t ** (alpha / d))


def barenblatt_variance(d: int, t: float, m: float = 2.0) -> float:
    """Return the variance of each coordinate of Barenblatt's solution at time `t`.

    Parameters
    ----------
    d : int
        Dimensions.
    t, m : float
        As in `barenblatt`.

    Returns
    -------
    float

    Examples
    --------
    >>> round(barenblatt_variance(1, 8.0) / barenblatt_variance(1, 1.0), 6)
    4.0
    """
    d = check_count("d", d)
    t, m = check_real("t", t, above=0), check_real("m", m, above=1)
    alpha, beta, c = _constants(d, m)
    return float(t ** (2 * alpha / d) * (c / beta) / (d + 2 + 2 / (m - 1)))


def _constants(d: int, m: float) -> tuple[float, float, float]:
    """Return alpha, beta and the c that makes the mass 1."""
    alpha = d / (d * (m - 1) + 2)
    beta = (m - 1) * alpha / (2 * m * d)
    p = 1 / (m - 1)
    log_mass = d / 2 * np.log(np.pi / beta) + gammaln(p + 1) - gammaln(p + 1 + d / 2)
    return alpha, beta, float(np.exp(-log_mass / (p + d / 2)))
