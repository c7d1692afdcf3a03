"""What AdaGrad-Norm promises beforehand, and noise that meets the assumption with equality.

`noiseless_bound` is certain, for exact gradients. `function_gap_bound` and `gradient_bound` hold
with high probability for affine noise: ‖g - ∇f‖² <= sigma0² + sigma1² ‖∇f‖².

Source: "SGD with AdaGrad Stepsizes: Full Adaptivity with High Probability to Unknown Parameters,
Unbounded Gradients and Affine Variance" (2023), arXiv 2302.08783.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_count, check_option, check_real
from thalweg.descent._oracle import check_callable
from thalweg.descent.adagrad_norm_method import check_knobs

Floats = NDArray[np.float64]
NoiseKind = Literal["sphere", "rademacher"]
NOISES = ("sphere", "rademacher")

TOLERANCE = 1e-12
ITERATIONS = 10_000
BEYOND = math.e**2 - 1
"""S / gamma² from which on the right side of the fixed point grows more slowly than the left."""


def noiseless_bound(gap: float, beta: float, eta: float, gamma: float) -> float:
    r"""Bound the sum of all squared gradients of a run with exact gradients.

    The largest S with

    .. math:: \eta S \le A(S) \sqrt{\gamma^2 + S}, \qquad
              A(S) = f(w_1) - f^* + \frac{\beta \eta^2}{2} \ln\Big(1 + \frac{S}{\gamma^2}\Big)

    It does not depend on the number of steps T: the mean of ‖∇f(w_t)‖² is at most S / T.

    Parameters
    ----------
    gap : float
        f(w_1) - f*, >= 0.
    beta : float
        Lipschitz constant of the gradient, > 0.
    eta, gamma : float
        Those of the run.

    Returns
    -------
    float
        S.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    Notes
    -----
    Derived from the descent inequality. Bounding the root as well, S <= (A/eta)² + gamma A/eta, is
    simpler and weaker; the fixed point is solved here as it stands.

    References
    ----------
    "SGD with AdaGrad Stepsizes" (2023), arXiv 2302.08783, the rate without noise.

    Examples
    --------
    >>> round(noiseless_bound(gap=1.0, beta=2.0, eta=1.0, gamma=0.01), 1)
    247.1
    """
    gap = check_real("gap", gap, at_least=0)
    beta = check_real("beta", beta, above=0)
    eta, gamma = check_knobs(eta, gamma)

    def right(total: float) -> float:
        slack = gap + 0.5 * beta * eta**2 * math.log1p(total / gamma**2)
        return slack / eta * math.sqrt(gamma**2 + total)

    total = BEYOND * gamma**2
    while total < right(total):
        total *= 4
    for _ in range(ITERATIONS):
        # The map is increasing: from above, every iterate is a bound.
        smaller = right(total)
        if smaller >= total * (1 - TOLERANCE):
            break
        total = smaller
    return total


def function_gap_bound(
    T: int,
    delta: float,
    *,
    gap: float,
    beta: float,
    sigma0: float,
    sigma1: float,
    eta: float,
    gamma: float,
) -> float:
    r"""Bound how far f rises above its infimum in a noisy run, with high probability.

    With probability at least 1 - delta, f(w_t) - f* <= F for all t <= T + 1, where

    .. math:: F = 2\Delta + \Big(3\ln\frac{T}{\delta} + 4C\Big)\eta\sigma_0
              + \Big(9\ln^2\frac{T}{\delta} + 16C^2\Big)\eta^2\beta\sigma_1^2 + \eta^2\beta C,

    .. math:: C = \ln\Big(1 + \frac{2\sigma_0^2 T
              + 8(1+\sigma_1^2)(\eta^2\beta^2T^3 + \beta\Delta T)}{\gamma^2}\Big), \qquad
              \Delta = f(w_1) - f^*.

    Parameters
    ----------
    T : int
        Steps, >= 1.
    delta : float
        Probability of failure, in (0, 1).
    gap : float
        f(w_1) - f*, >= 0.
    beta : float
        Lipschitz constant of the gradient, > 0.
    sigma0, sigma1 : float
        Of the noise, >= 0: ‖g - ∇f‖² <= sigma0² + sigma1² ‖∇f‖² almost surely.
    eta, gamma : float
        Those of the run.

    Returns
    -------
    float
        F, which grows with T like a power of its logarithm.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    Notes
    -----
    The form of F is the theorem's. Its numbers (3, 4, 9, 16) are not derived here: take them as
    stated, and as loose.

    References
    ----------
    "SGD with AdaGrad Stepsizes" (2023), arXiv 2302.08783, the non-convex theorem.

    Examples
    --------
    >>> constants = {"gap": 1.0, "beta": 2.0, "eta": 1.0, "gamma": 0.01}
    >>> round(function_gap_bound(1000, 0.05, sigma0=0.0, sigma1=0.0, **constants), 1)
    68.8
    """
    T = check_count("T", T)
    delta = check_real("delta", delta, above=0, below=1)
    gap = check_real("gap", gap, at_least=0)
    beta = check_real("beta", beta, above=0)
    sigma0, sigma1 = check_noise(sigma0, sigma1)
    eta, gamma = check_knobs(eta, gamma)
    growth = eta**2 * beta**2 * T**3 + beta * gap * T
    C = math.log1p((2 * sigma0**2 * T + 8 * (1 + sigma1**2) * growth) / gamma**2)
    log = math.log(T / delta)
    return (
        2 * gap
        + (3 * log + 4 * C) * eta * sigma0
        + (9 * log**2 + 16 * C**2) * eta**2 * beta * sigma1**2
        + eta**2 * beta * C
    )


def gradient_bound(
    T: int,
    delta: float,
    *,
    gap: float,
    beta: float,
    sigma0: float,
    sigma1: float,
    eta: float,
    gamma: float,
) -> float:
    r"""Bound the mean of ‖∇f(w_t)‖² over a noisy run, with high probability.

    S / T for the positive root S of

    .. math:: S = \frac{F}{\eta}
              \sqrt{\gamma^2 + \sigma_0^2 (2T+1) + 3(1+\sigma_1^2)\,S}

    with F of `function_gap_bound`: of order 1 / T while the noise is low, sigma0 / sqrt(T) once it
    is high, up to powers of logarithms.

    Parameters
    ----------
    T, delta, gap, beta, sigma0, sigma1, eta, gamma
        As in `function_gap_bound`.

    Returns
    -------
    float
        Bound on (‖∇f(w_1)‖² + ... + ‖∇f(w_T)‖²) / T.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    Notes
    -----
    With the step made independent of the current noise,
    eta / sqrt(G_{t-1}² + (1 + sigma1²) ‖∇f(w_t)‖² + sigma0²), the sum of step times ‖∇f(w_t)‖² is
    at most F; that is the theorem's. The rest is derived here: every denominator is at most the
    root above, since ‖g‖² <= 2 (1 + sigma1²) ‖∇f‖² + 2 sigma0².

    References
    ----------
    "SGD with AdaGrad Stepsizes" (2023), arXiv 2302.08783, the non-convex theorem.

    Examples
    --------
    >>> constants = {"gap": 1.0, "beta": 2.0, "eta": 1.0, "gamma": 0.01}
    >>> low, high = ([gradient_bound(T, 0.05, sigma0=s, sigma1=0.0, **constants)
    ...               for T in (10**6, 4 * 10**6)] for s in (0.0, 100.0))
    >>> round(low[0] / low[1], 1), round(high[0] / high[1], 1)
    (3.5, 2.1)
    """
    F = function_gap_bound(
        T, delta, gap=gap, beta=beta, sigma0=sigma0, sigma1=sigma1, eta=eta, gamma=gamma
    )
    half = 1.5 * (1 + sigma1**2) * (F / eta) ** 2
    constant = (gamma**2 + sigma0**2 * (2 * T + 1)) * (F / eta) ** 2
    return (half + math.sqrt(half**2 + constant)) / T


def affine_noise(
    gradient: Callable[[Floats], ArrayLike],
    sigma0: float,
    sigma1: float,
    kind: NoiseKind = "sphere",
) -> Callable[[Floats, np.random.Generator], Floats]:
    """Disturb a gradient by the most noise that an affine bound allows.

    Parameters
    ----------
    gradient : callable
        ``gradient(x)``, the true one, of the shape of `x`.
    sigma0, sigma1 : float
        Noise where the gradient is zero, and its growth with the gradient, >= 0.
    kind : {"sphere", "rademacher"}, default "sphere"
        Direction of the noise: uniform on the sphere, or signs of equal size.

    Returns
    -------
    callable
        ``noisy(x, rng)`` with mean ``gradient(x)`` and
        ‖noisy - gradient‖² = sigma0² + sigma1² ‖gradient‖² in every draw.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "SGD with AdaGrad Stepsizes" (2023), arXiv 2302.08783, the assumption of affine variance.

    Examples
    --------
    >>> noisy = affine_noise(lambda x: 2 * x, sigma0=3.0, sigma1=2.0)
    >>> g = noisy(np.array([1.0, 0.0]), np.random.default_rng(0))
    >>> round(float(np.sum((g - [2, 0]) ** 2)), 9)
    25.0
    """
    check_callable("gradient", gradient)
    sigma0, sigma1 = check_noise(sigma0, sigma1)
    check_option("kind", kind, NOISES)

    def noisy(x: Floats, rng: np.random.Generator) -> Floats:
        true = np.asarray(gradient(x), dtype=np.float64)
        flat = true.reshape(-1)
        return true + affine_error(flat, sigma0, sigma1, rng, kind).reshape(true.shape)

    return noisy


def affine_error(
    true: Floats, sigma0: Any, sigma1: Any, rng: np.random.Generator, kind: str = "sphere"
) -> Floats:
    """Return noise for gradients along the last axis, a draw for each.

    Parameters
    ----------
    true : ndarray, shape (..., dim)
        True gradients.
    sigma0, sigma1 : float or ndarray
        Broadcast against the axes before the last.
    rng : numpy.random.Generator
        Draws the directions.
    kind : {"sphere", "rademacher"}
        As in `affine_noise`.

    Returns
    -------
    ndarray, shape (..., dim)
    """
    radius = np.sqrt(sigma0**2 + sigma1**2 * np.einsum("...i,...i->...", true, true))
    if kind == "rademacher":
        signs = 2.0 * rng.integers(2, size=true.shape) - 1.0
        return signs * (radius / math.sqrt(true.shape[-1]))[..., None]
    directions = rng.standard_normal(true.shape)
    lengths = np.sqrt(np.einsum("...i,...i->...", directions, directions))
    noise: Floats = directions * (radius / lengths)[..., None]
    return noise


def check_noise(sigma0: Any, sigma1: Any) -> tuple[float, float]:
    """Return the two constants of the noise, both >= 0."""
    return check_real("sigma0", sigma0, at_least=0), check_real("sigma1", sigma1, at_least=0)
