"""The bridge between a true event and its measurement, and what it must give for Gaussians.

A bridge of small variance joins a truth at index 0 to its measurement at the last index. Its clock
is the forward variance, which runs slowly at both ends; all laws along it are Gaussian products of
the two sides.

Source: "Improving Generative Model-based Unfolding with Schrödinger Bridges" (2023), arXiv
2308.12351, section III; "I2SB: Image-to-Image Schrödinger Bridge" (2023), arXiv 2302.05872,
proposition 3.3.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_real

Floats: TypeAlias = NDArray[np.float64]
Schedule: TypeAlias = tuple[Floats, Floats]
BETA_MAX, BETA_MIN = 0.3, 1e-5
"""Rates of the published configuration: `BETA_MAX` is divided by the number of times."""


def bridge_schedule(
    n_times: int = 1000, beta_max: float = BETA_MAX, beta_min: float = BETA_MIN
) -> Schedule:
    """Return the deviations of a bridge on a grid, from either end.

    The rates are ``linspace(sqrt(beta_min), sqrt(beta_max / n_times), n_times)^2`` up to the
    middle, then their mirror image. The variances are their trapezoidal sums from either end.

    Parameters
    ----------
    n_times : int, default 1000
        Points of the grid, at least 2.
    beta_max : float, default 0.3
        The larger, the more noise; the default makes a bridge of total deviation 0.22.
    beta_min : float, default 1e-5
        Rate at both ends.

    Returns
    -------
    sigma_forward, sigma_backward : array (n_times,)
        Deviations of what has been passed at each index and of what is left. The first starts with
        0, the second ends with 0, and their squares add up to one number at all indices.

    Notes
    -----
    The published code sums from both ends inclusively, so that each rate counts on both sides and
    the bridge that is learned differs from the one that is followed by about 0.2 % of the
    variance. With trapezoidal sums both are the same.

    References
    ----------
    "Improving Generative Model-based Unfolding with Schrödinger Bridges" (2023), arXiv 2308.12351,
    section III.

    Examples
    --------
    >>> forward, backward = bridge_schedule()
    >>> len(forward), float(forward[0]), float(backward[-1]), round(float(forward[-1]), 3)
    (1000, 0.0, 0.0, 0.221)
    """
    n_times = check_count("n_times", n_times, at_least=2)
    beta_max = check_real("beta_max", beta_max, above=0)
    beta_min = check_real("beta_min", beta_min, above=0)
    rates = np.linspace(beta_min**0.5, (beta_max / n_times) ** 0.5, n_times) ** 2
    half = rates[: (n_times + 1) // 2]
    rates = np.concatenate([half, half[::-1][n_times % 2 :]])
    passed = np.concatenate([[0.0], np.cumsum((rates[1:] + rates[:-1]) / 2)])
    return np.sqrt(passed), np.sqrt(passed[::-1])


def bridge_coefficients(k: Any, schedule: Schedule) -> tuple[Floats, Floats, Floats]:
    """Return the law of a bridge at an index, given its ends.

    ``x_k = mu0 x_0 + mu1 x_1 + std z`` with z standard normal, x_0 the truth and x_1 the
    measurement.

    Parameters
    ----------
    k : int or array of int
        Indices into the schedule.
    schedule : (array (n_times,), array (n_times,))
        What `bridge_schedule` returns.

    Returns
    -------
    mu0, mu1, std : array of the shape of `k`
        Coefficients; the first two add up to 1.

    References
    ----------
    "I2SB: Image-to-Image Schrödinger Bridge" (2023), arXiv 2302.05872, eq. (11).

    Examples
    --------
    >>> schedule = bridge_schedule(101)
    >>> [round(float(value), 3) for value in bridge_coefficients(50, schedule)]
    [0.5, 0.5, 0.088]
    """
    forward, backward = _checked(schedule)
    k = np.asarray(k)
    if k.dtype.kind not in "iu" or (k < 0).any() or (k >= len(forward)).any():
        raise ValueError(f"k must be integers from 0 to {len(forward) - 1}, got {k}")
    return gaussian_product(forward[k] ** 2, backward[k] ** 2)


def posterior_coefficients(
    earlier: Any, later: Any, schedule: Schedule
) -> tuple[Floats, Floats, Floats]:
    """Return the law at an earlier index, given the truth and the point at a later one.

    The arguments and results are as those of `bridge_coefficients`, the second coefficient being
    that of the later point.
    """
    forward, _ = schedule
    passed = forward[earlier] ** 2
    return gaussian_product(passed, forward[later] ** 2 - passed)


def gaussian_product(to_first: Any, to_second: Any) -> tuple[Floats, Floats, Floats]:
    """Return weights and deviation of a point with these variances from either of two others."""
    total = to_first + to_second
    return to_second / total, to_first / total, np.sqrt(to_first * to_second / total)


def gaussian_unfolding(
    m: ArrayLike,
    S: ArrayLike,
    R: ArrayLike,
    shift: ArrayLike,
    data_mean: ArrayLike,
    data_cov: ArrayLike,
) -> tuple[Floats, Floats]:
    """Return the law that unfolding gives for Gaussians.

    The simulation has truths N(m, S) and measures them as ``x_0 + shift + N(0, R)``. Each measured
    event of the data, of mean and covariance given, is replaced by a draw of the simulated truths
    that belong to it.

    Parameters
    ----------
    m : array_like (d,)
        Mean of the simulated truths.
    S : array_like (d, d)
        Their covariance.
    R : array_like (d, d)
        Covariance of the measurement's noise; zero for an exact instrument.
    shift : array_like (d,)
        Its bias.
    data_mean : array_like (d,)
        Mean of the measured data.
    data_cov : array_like (d, d)
        Their covariance.

    Returns
    -------
    mean : array (d,)
    cov : array (d, d)

    Raises
    ------
    ValueError
        If shapes do not agree, a covariance is not one, or S + R is singular.

    References
    ----------
    "Improving Generative Model-based Unfolding with Schrödinger Bridges" (2023), arXiv 2308.12351;
    the closed form is derived here.

    Examples
    --------
    Truths of the data are N(1, 1), those of the simulation N(0, 1): half of the bias is left.

    >>> mean, cov = gaussian_unfolding([0.0], [[1.0]], [[1.0]], [0.0], [1.0], [[2.0]])
    >>> mean.tolist(), cov.tolist()
    ([0.5], [[1.0]])
    """
    m = check_array("m", m, ndim=1)
    d = len(m)
    shift = check_array("shift", shift, shape=(d,))
    data_mean = check_array("data_mean", data_mean, shape=(d,))
    S, R, data_cov = (
        _covariance(name, value, d) for name, value in (("S", S), ("R", R), ("data_cov", data_cov))
    )
    try:
        np.linalg.cholesky(S + R)
    except np.linalg.LinAlgError:
        raise ValueError("S + R must be positive definite") from None
    K = np.linalg.solve(S + R, S).T
    return m + K @ (data_mean - shift - m), K @ data_cov @ K.T + S - K @ S


def _checked(schedule: Schedule) -> Schedule:
    forward, backward = (check_array("schedule", side, ndim=1) for side in schedule)
    if len(forward) != len(backward):
        raise ValueError(
            f"schedule must be two arrays of one length, got {len(forward)} and {len(backward)}"
        )
    return forward, backward


def _covariance(name: str, value: ArrayLike, d: int) -> Floats:
    matrix = check_array(name, value, shape=(d, d))
    tolerance = 1e-10 * max(np.abs(matrix).max(initial=0.0), 1e-300)
    if np.abs(matrix - matrix.T).max(initial=0.0) > tolerance:
        raise ValueError(f"{name} must be symmetric")
    if np.linalg.eigvalsh(matrix).min(initial=0.0) < -tolerance:
        raise ValueError(f"{name} must be positive semidefinite")
    return matrix
