r"""How far a constant-step linear iteration is from its target, at a finite n, with confidence.

The error has three parts (`thalweg.linalg.error_parts`): what is left of the start, the noise
carried on by the mean matrix, and what the randomness of the matrices adds. The second leads, with
the covariance of the central limit theorem, and has light tails; the others are of higher order in
the step and have polynomial tails. A third of the risk is spent on each.

Source: "Tight High Probability Bounds for Linear Stochastic Approximation with Fixed Stepsize"
(2021), arXiv 2106.01257: the shape of the bound. The constants here are explicit and derived
anew: moments of products (`product_quantile_bound`) for the start; Bernstein's inequality, or the
quantile of Gaussian noise, with the exact variance for the linear part; the exact second moment
for the remainder. ``constants="paper"`` takes, for the linear part, the Rosenthal inequality of
Pinelis (1994) with its constants 60 e and 60.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.linalg.random_products import (
    P_MAX,
    P_STEP,
    check_hurwitz,
    check_step,
    lyapunov_constants,
    product_quantile_bound,
)
from thalweg.linalg.stochastic_covariances import (
    check_covariance,
    check_second_moment,
    fluctuation_covariances,
)
from thalweg.linalg.stochastic_samplers import check_weights, mean_kronecker_square

PINELIS_VARIANCE = 60 * math.e
PINELIS_BOUND = 60.0


def confidence_radius(
    u: ArrayLike,
    n: int,
    a_bar: ArrayLike,
    noise_cov: ArrayLike,
    step_size: float,
    *,
    start_error: float,
    deviation: ArrayLike,
    weights: ArrayLike | None = None,
    a_second_moment: ArrayLike | None = None,
    noise: str = "bounded",
    noise_bound: float | None = None,
    constants: str = "explicit",
    delta: float = 0.05,
) -> float:
    r"""Return a radius that ``abs(u @ (theta_n - theta_star))`` exceeds with probability <= delta.

    Parameters
    ----------
    u : array_like, shape (d,)
        Direction: a row of the identity for one coordinate, features for a prediction.
    n : int
        Iterations done, >= 1.
    a_bar : array_like, shape (d, d)
        Mean matrix; all eigenvalues with positive real part.
    noise_cov : array_like, shape (d, d)
        Covariance of the noise ``b_n - A_n theta_star``.
    step_size : float
        Constant step, above 0, at most ``lyapunov_constants(a_bar).step_max``.
    start_error : float
        What the Euclidean norm of ``theta0 - theta_star`` does not exceed.
    deviation : float or array_like, shape (k, d, d)
        Deviations of A_n from its mean, as in `product_moment_bound`; 0.0 if A is not random.
    weights : array_like, shape (k,), optional
        Probabilities of the values in `deviation`; equal if None.
    a_second_moment : array_like, shape (d**2, d**2), optional
        Mean of ``kron(A_n - a_bar, A_n - a_bar)``; needed where `deviation` is a number above 0,
        taken from the values where they are given.
    noise : {"bounded", "gaussian"}, default "bounded"
        Law of the noise.
    noise_bound : float, optional
        What the Euclidean norm of bounded noise never exceeds; required for it.
    constants : {"explicit", "paper"}, default "explicit"
        Bernstein's inequality, or Pinelis's with the paper's constants, which are far larger.
    delta : float, default 0.05
        Probability of exceeding the radius, in (0, 1).

    Returns
    -------
    float
        The radius, in units of u times theta.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, out of range or missing.
    FloatingPointError
        If the second moments overflow.

    References
    ----------
    "Tight High Probability Bounds for Linear Stochastic Approximation with Fixed Stepsize" (2021),
    arXiv 2106.01257.
    I. Pinelis, "Optimum bounds for the distributions of martingales in Banach spaces", 1994.

    Examples
    --------
    >>> from thalweg.linalg import confidence_radius
    >>> radius = confidence_radius(
    ...     [1.0], 500, [[1.0]], [[1.0]], 0.02, start_error=1.0, deviation=1.0,
    ...     a_second_moment=[[1.0]], noise_bound=1.0,
    ... )
    >>> round(radius, 3)
    0.423
    """
    a_bar = check_hurwitz("a_bar", a_bar)
    d = len(a_bar)
    u = check_array("u", u, shape=(d,))
    n = check_count("n", n)
    noise_cov = check_covariance(noise_cov, d)
    lyapunov = lyapunov_constants(a_bar)
    step_size = check_step(step_size, lyapunov)
    start_error = check_real("start_error", start_error, at_least=0)
    moment = _second_moment(a_second_moment, deviation, weights, d)
    check_option("noise", noise, ("bounded", "gaussian"))
    check_option("constants", constants, ("explicit", "paper"))
    if noise == "gaussian" and constants == "paper":
        raise ValueError("constants='paper' is for noise='bounded', got noise='gaussian'")
    if noise == "bounded":
        if noise_bound is None:
            raise ValueError("noise_bound must be given for noise='bounded', got None")
        noise_bound = check_real("noise_bound", noise_bound, at_least=0)
    risk = check_real("delta", delta, above=0, below=1) / 3
    shrink = product_quantile_bound(a_bar, deviation, step_size, n, risk, weights=weights)
    transient = float(np.linalg.norm(u)) * shrink * start_error if start_error > 0 else 0.0
    linear_cov, remainder_cov = fluctuation_covariances(n, a_bar, noise_cov, step_size, moment)
    sd = math.sqrt(max(float(u @ linear_cov @ u), 0.0))
    if noise_bound is None or noise == "gaussian":
        linear = -float(ndtri(risk / 2)) * sd
    else:
        largest = step_size * noise_bound * math.sqrt(lyapunov.kappa) * float(np.linalg.norm(u))
        linear = (_bernstein if constants == "explicit" else _pinelis)(sd, largest, risk)
    remainder = math.sqrt(max(float(u @ remainder_cov @ u), 0.0) / risk)
    return transient + linear + remainder


def _bernstein(sd: float, largest: float, risk: float) -> float:
    """Return what a sum of centred variables, each at most `largest`, exceeds with the risk."""
    log = math.log(2 / risk)
    return log * largest / 3 + math.sqrt((log * largest / 3) ** 2 + 2 * log * sd**2)


def _pinelis(sd: float, largest: float, risk: float) -> float:
    """Return the same from moments of order p, the best of 2, 2.5, ..."""
    p = np.arange(2.0, P_MAX + P_STEP / 2, P_STEP)
    moments = PINELIS_VARIANCE * np.sqrt(p) * sd + PINELIS_BOUND * p * largest
    return float((moments * risk ** (-1 / p)).min())


def _second_moment(
    a_second_moment: ArrayLike | None, deviation: ArrayLike, weights: ArrayLike | None, d: int
) -> np.ndarray | None:
    if a_second_moment is not None:
        return check_second_moment(a_second_moment, d)
    values = check_array("deviation", deviation)
    if values.ndim == 0:
        if values == 0:
            return None
        raise ValueError(
            f"a_second_moment must be given where deviation is a number, got None for {values:g}"
        )
    if values.ndim != 3 or values.shape[1:] != (d, d) or len(values) == 0:
        raise ValueError(
            f"deviation must be a number or of shape (k, {d}, {d}), got {values.shape}"
        )
    w = check_weights("weights", weights, len(values))
    flat = values.reshape(-1, d * d)
    gram = flat.T @ flat / len(flat) if w is None else (flat * w[:, None]).T @ flat
    return mean_kronecker_square(gram)
