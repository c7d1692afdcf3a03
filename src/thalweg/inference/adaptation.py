"""What warm-up learns: the step size, the metric, and how long each stage of it lasts.

The step size follows dual averaging towards a mean acceptance; the metric is estimated in windows
that double, so that early draws far from the bulk are forgotten.

Source: "A Conceptual Introduction to Hamiltonian Monte Carlo" (2017), arXiv 1701.02434, sections
4.2.1 and 5.3; dual averaging: "The No-U-Turn Sampler" (2014), arXiv 1111.4246, eq. (6); windows and
regularisation: Stan Reference Manual, "HMC algorithm parameters".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular
from scipy.stats import norm

from thalweg._validation import check_array, check_count

Floats = NDArray[np.float64]

FIRST_FAST, FIRST_SLOW, LAST_FAST = 75, 25, 50
SHORTEST_WITH_METRIC = 20
SHRINKAGE_COUNT, SHRINKAGE_VARIANCE = 5.0, 1e-3
CHEAPEST_ACCEPTANCE = 0.6512


class Window(NamedTuple):
    """A stretch of warm-up; the metric is learned from the draws of one that is `slow`."""

    length: int
    slow: bool


def warmup_windows(n_warmup: int) -> list[Window]:
    """Divide warm-up into a fast stage, slow windows that double, and a last fast stage.

    Parameters
    ----------
    n_warmup : int
        Number of warm-up iterations, >= 0.

    Returns
    -------
    list of Window
        Their lengths add up to `n_warmup`. Below 150 iterations the stages take 15, 75 and 10 %,
        below 20 there is one fast stage.

    References
    ----------
    .. [1] Stan Reference Manual, "Automatic parameter tuning".

    Examples
    --------
    >>> [(w.length, w.slow) for w in warmup_windows(1000)]
    [(75, False), (25, True), (50, True), (100, True), (200, True), (500, True), (50, False)]
    """
    n_warmup = check_count("n_warmup", n_warmup, at_least=0)
    if n_warmup < SHORTEST_WITH_METRIC:
        return [Window(n_warmup, False)] if n_warmup else []
    first, size, last = FIRST_FAST, FIRST_SLOW, LAST_FAST
    if n_warmup < first + size + last:
        first, last = int(0.15 * n_warmup), int(0.1 * n_warmup)
        size = n_warmup - first - last
    windows, remaining = [Window(first, False)], n_warmup - first - last
    while remaining:
        length = size if remaining >= 3 * size else remaining
        windows.append(Window(length, True))
        remaining -= length
        size *= 2
    return [*windows, Window(last, False)]


def relative_cost(a: ArrayLike) -> Floats:
    """Cost of a sampler by its mean acceptance, 1 at the cheapest.

    Energy errors of a trajectory in many dimensions are N(m, 2 m) with m proportional to the
    fourth power of the step size, so the acceptance is ``a = 2 Phi(-sqrt(m / 2))`` and the
    gradients for an accepted unit of time are proportional to ``1 / (a step)``.

    Parameters
    ----------
    a : array_like
        Mean acceptance, between 0 and 1 (exclusive).

    Returns
    -------
    ndarray
        The cost; within 10 % of 1 for acceptances of 0.5 to 0.8.

    Raises
    ------
    ValueError
        If an acceptance is not between 0 and 1.

    References
    ----------
    .. [1] "Optimizing The Integrator Step Size for Hamiltonian Monte Carlo" (2014),
       arXiv 1411.6669; the limit of independent components is worked out here.

    Examples
    --------
    >>> relative_cost([0.651, 0.9]).round(2)
    array([1.  , 1.37])
    """
    a = check_array("a", a)
    if not ((a > 0) & (a < 1)).all():
        raise ValueError(f"a must be between 0 and 1, got {a}")
    return _cost(a) / _cost(np.asarray(CHEAPEST_ACCEPTANCE))


def regularised_inverse_metric(draws: Floats, dense: bool) -> Floats:
    """Return the (co)variance of draws (n, d) shrunk towards 1e-3, in one row or, if dense, d."""
    n, d = draws.shape
    weight = n / (n + SHRINKAGE_COUNT)
    shrunk = SHRINKAGE_VARIANCE * (1.0 - weight)
    if dense:
        covariance = np.cov(draws, rowvar=False).reshape(d, d)
        return np.ascontiguousarray(weight * covariance + shrunk * np.eye(d))
    return (weight * draws.var(axis=0, ddof=1) + shrunk)[None, :]


def momentum_root(inverse_metric: Floats) -> Floats:
    """Return R with R'R = M, in the form of the inverse metric (one row or d rows)."""
    if len(inverse_metric) == 1:
        return 1.0 / np.sqrt(inverse_metric)
    lower = np.linalg.cholesky(inverse_metric)
    return np.ascontiguousarray(solve_triangular(lower, np.eye(len(lower)), lower=True))


def _cost(a: Floats) -> Floats:
    return 1.0 / (a * np.sqrt(norm.isf(a / 2)))
