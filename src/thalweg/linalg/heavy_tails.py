r"""How heavy the tails of a constant-step linear iteration are: the order of their decay.

Where :math:`\|I - \alpha A_n\|` exceeds one now and then, the stationary error x has
:math:`P(|x| > t) \sim t^{-\kappa}`: moments below the order :math:`\kappa` are finite, those above
are not, and no Gaussian or exponential bound can hold. :math:`\kappa` grows like
:math:`1/\alpha`.

Source: "Tight High Probability Bounds for Linear Stochastic Approximation with Fixed Stepsize"
(2021), arXiv 2106.01257: the scalar example that shows its bounds to be tight. The order is due to
H. Kesten, "Random difference equations and renewal theory for products of random matrices" (1973),
and C. M. Goldie, "Implicit renewal theory and tails of solutions of random equations" (1991).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp

from thalweg._validation import check_array, check_count, check_real
from thalweg.linalg.stochastic_samplers import check_weights

Floats = NDArray[np.float64]
Sampler = Callable[[np.random.Generator, int], tuple[ArrayLike, ArrayLike]]

POPULATION = 4096
KAPPA_MAX = 64.0
"""Order above which `tail_index_mc` calls the tail light; chosen here."""
FIRST_STEPS, FIRST_ROUNDS = 100, 6
BURN_IN = 20
BATCHES = 20


def tail_index(
    a_values: ArrayLike, weights: ArrayLike | None = None, step_size: float = 1.0
) -> float:
    r"""Return the order of the tails of a scalar iteration.

    Parameters
    ----------
    a_values : array_like, shape (k,)
        Values of the random factor A.
    weights : array_like, shape (k,), optional
        Their probabilities; equal if None.
    step_size : float, default 1.0
        Constant step :math:`\alpha` > 0.

    Returns
    -------
    float
        The positive root of :math:`E|1 - \alpha A|^\kappa = 1`; infinite if
        :math:`|1 - \alpha A| \le 1` always. As :math:`\alpha` goes to zero it approaches
        :math:`c / \alpha` with the positive root c of :math:`E \exp(-c A) = 1`, which is
        :math:`2 E[A] / Var A` for Gaussian A.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or the iteration has no stationary law
        (:math:`E \log |1 - \alpha A| \ge 0`).

    References
    ----------
    "Tight High Probability Bounds for Linear Stochastic Approximation with Fixed Stepsize" (2021),
    arXiv 2106.01257.
    C. M. Goldie, "Implicit renewal theory and tails of solutions of random equations", 1991.

    Examples
    --------
    >>> from thalweg.linalg import tail_index
    >>> [round(tail_index([-1.0, 3.0], [0.4, 0.6], step), 2) for step in (0.4, 0.2, 0.1)]
    [2.7, 4.99, 9.39]
    """
    a = check_array("a_values", a_values, ndim=1)
    if len(a) == 0:
        raise ValueError("a_values must hold at least one value, got none")
    w = check_weights("weights", weights, len(a))
    w = np.full(len(a), 1 / len(a)) if w is None else w
    step_size = check_real("step_size", step_size, above=0)
    a, w = a[w > 0], w[w > 0]
    with np.errstate(divide="ignore"):
        log_factor = np.log(np.abs(1 - step_size * a))
    drift = float(w @ log_factor)
    if drift >= 0:
        raise ValueError(
            f"step_size must make the mean of log|1 - step_size A| negative, got {drift:g} at "
            f"{step_size:g}: there is no stationary law"
        )
    if log_factor.max() <= 0:
        return math.inf

    def log_moment(kappa: float) -> float:
        return float(logsumexp(kappa * log_factor, b=w))

    high = 1.0
    while log_moment(high) <= 0:
        high *= 2
    low = high / 2
    while log_moment(low) >= 0:
        low /= 2
    return float(brentq(log_moment, low, high, xtol=1e-14 * high, rtol=1e-14))


class TailIndex(NamedTuple):
    """An estimated order of tails."""

    value: float
    standard_error: float


def tail_index_mc(
    sample: Sampler,
    step_size: float,
    rng: int | np.random.Generator | None = None,
    *,
    population: int = POPULATION,
    n_steps: int = 1000,
    kappa_max: float = KAPPA_MAX,
) -> TailIndex:
    r"""Estimate the order of the tails of an iteration in any dimension.

    The root in :math:`\kappa` of :math:`\lim_n \frac1n \log E\|(I - \alpha A_n) \cdots
    (I - \alpha A_1)\|^\kappa = 0`. Its left side is estimated by a population of products that is
    resampled after every factor with weights (norm after over norm before) to the power
    :math:`\kappa`: large products are the ones that matter, and too rare to be met otherwise.

    Parameters
    ----------
    sample : callable
        ``sample(rng, size) -> (A, b)`` as for `linear_sa`; b is not used.
    step_size : float
        Constant step :math:`\alpha` > 0.
    rng : None, int or numpy.random.Generator
        Source of randomness.
    population : int, default 4096
        Products.
    n_steps : int, default 1000
        Factors of the last, long round, >= 20.
    kappa_max : float, default 64
        Largest order looked for.

    Returns
    -------
    value : float
        The order; infinite if it is above `kappa_max`.
    standard_error : float
        That of the sampling; NaN if the value is infinite. A population also has a bias, of order
        one over its size.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or products grow (there is no stationary law).

    References
    ----------
    H. Kesten, "Random difference equations and renewal theory for products of random matrices",
    1973.

    Examples
    --------
    >>> from thalweg.linalg import finite_sampler, tail_index_mc
    >>> sample = finite_sampler([[[-1.0]], [[3.0]]], [[0.0], [0.0]], weights=[0.4, 0.6])
    >>> value, standard_error = tail_index_mc(sample, 0.4, rng=0, n_steps=200)
    >>> abs(value - 2.70) < 4 * standard_error + 0.01
    True
    """
    if not callable(sample):
        raise TypeError(f"sample must be callable, got {type(sample).__name__}")
    step_size = check_real("step_size", step_size, above=0)
    population = check_count("population", population, at_least=2)
    n_steps = check_count("n_steps", n_steps, at_least=BATCHES)
    kappa_max = check_real("kappa_max", kappa_max, above=0)
    rng = np.random.default_rng(rng)

    def growth(kappa: float, steps: int) -> tuple[Floats, float]:
        return _growth(sample, step_size, kappa, population, steps, rng)

    _, drift = growth(0.0, FIRST_STEPS)
    if drift >= 0:
        raise ValueError(
            f"step_size must make products shrink, got {step_size:g} at which their norms grow "
            f"like exp({drift:.3g} n): there is no stationary law"
        )
    low, high = 0.0, min(1.0, kappa_max)
    while (rate := growth(high, FIRST_STEPS))[0].mean() <= 0:
        if high == kappa_max:
            return TailIndex(math.inf, math.nan)
        low, high = high, min(2 * high, kappa_max)
    kappa = high
    for _ in range(FIRST_ROUNDS):
        kappa = _newton(kappa, rate, low, high)
        rate = growth(kappa, FIRST_STEPS)
    kappa = _newton(kappa, rate, low, high)
    rates, slope = growth(kappa, n_steps)
    batches = np.array([batch.mean() for batch in np.array_split(rates, BATCHES)])
    error = float(batches.std(ddof=1)) / math.sqrt(BATCHES)
    return TailIndex(kappa - float(rates.mean()) / slope, error / abs(slope))


def hill_estimator(x: ArrayLike, k: int) -> float:
    """Estimate the order of a polynomial tail from the largest values.

    Parameters
    ----------
    x : array_like
        Values of any shape; their absolute values count.
    k : int
        How many of the largest, at least 1 and fewer than there are.

    Returns
    -------
    float
        One over the mean of log(value / (k + 1)-th largest) over the k largest values. The relative
        standard error is about ``k**-0.5`` for independent values.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or the (k + 1)-th largest value is zero or equal to the
        largest.

    References
    ----------
    B. M. Hill, "A simple general approach to inference about the tail of a distribution", 1975.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.linalg import hill_estimator
    >>> x = np.random.default_rng(0).pareto(3.0, size=100_000) + 1
    >>> round(hill_estimator(x, 5_000), 1)
    3.0
    """
    values = np.abs(check_array("x", x)).ravel()
    if len(values) < 2:
        raise ValueError(f"x must hold at least 2 values, got {len(values)}")
    k = check_count("k", k, at_most=len(values) - 1)
    top = np.sort(np.partition(values, len(values) - k - 1)[len(values) - k - 1 :])
    if top[0] == 0 or top[0] == top[-1]:
        raise ValueError(
            f"x must have k + 1 largest values that are positive and differ, got {top[0]:g} to "
            f"{top[-1]:g}"
        )
    return float(1 / np.log(top[1:] / top[0]).mean())


def _newton(kappa: float, rate: tuple[Floats, float], low: float, high: float) -> float:
    """Step to where a convex function with this value and slope is zero, inside the bracket."""
    rates, slope = rate
    if slope <= 0:
        return (kappa + high) / 2
    return float(np.clip(kappa - rates.mean() / slope, max(low, kappa / 2), high))


def _growth(
    sample: Sampler,
    step_size: float,
    kappa: float,
    population: int,
    n_steps: int,
    rng: np.random.Generator,
) -> tuple[Floats, float]:
    """Return the growth of log E‖product‖^kappa at every step, and its slope in kappa.

    The slope is the mean growth of the log norm along the ancestors of the last population.
    """
    first = check_array("A of sample(rng, size)", sample(rng, 1)[0], ndim=3, finite=False)
    d = first.shape[-1]
    shape = (population, d, d)
    products = np.tile(np.eye(d) / math.sqrt(d), (population, 1, 1))
    rates, lineage = np.empty(n_steps), np.zeros(population)
    for step in range(-BURN_IN, n_steps):
        a = check_array("A of sample(rng, size)", sample(rng, population)[0], shape=shape)
        products = products - step_size * a @ products
        with np.errstate(divide="ignore"):
            log_norm = np.log(np.linalg.norm(products, axis=(1, 2)))
        if step == 0:
            lineage[:] = 0.0
        lineage += log_norm
        peak = log_norm.max()
        if peak == -math.inf:
            raise ValueError("step_size must not make every product vanish, got all zero")
        weight = np.exp(kappa * (log_norm - peak)) if kappa > 0 else np.ones(population)
        if step >= 0:
            rates[step] = kappa * peak + math.log(weight.mean())
        if kappa > 0:
            chosen = _systematic(weight, rng)
            products, log_norm, lineage = products[chosen], log_norm[chosen], lineage[chosen]
        products = products / np.exp(log_norm)[:, None, None]
    return rates, float(lineage.mean()) / n_steps


def _systematic(weight: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many indices as there are weights, in proportion, with one uniform number."""
    n = len(weight)
    cumulative = np.cumsum(weight)
    points = (np.arange(n) + rng.random()) / n * cumulative[-1]
    return np.minimum(np.searchsorted(cumulative, points, side="right"), n - 1)
