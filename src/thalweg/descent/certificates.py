"""Is a run what its theorem promises? Measured quantities against bounds, at every step.

A certificate fails if a step violates the theorem's condition, if an assumption that can be seen in
the constants is false, or if what was measured exceeds the bound by more than its own standard
error allows. The inequalities behind the proofs (smoothness, convexity, Polyak-Łojasiewicz,
variance transfer) can be checked on points by themselves.

Source: "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2023), arXiv
2301.11235, sections 2 to 4 for the inequalities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_real
from thalweg.descent._bound_conditions import (
    evaluate,
    find_rule,
    interpolation_problems,
    read_steps,
    require,
)
from thalweg.descent._constants import Constants
from thalweg.descent._theorems import LEAST_GRADIENT
from thalweg.descent.problems import FiniteSum

Floats = NDArray[np.float64]

STANDARD_ERRORS = 3.0
ROUNDING = 1e-9
DIVERGED = 5.0


@dataclass(frozen=True)
class Certificate:
    """What `check` found.

    Attributes
    ----------
    theorem : str
        Id of the theorem.
    holds : bool
        Whether there are no failures.
    worst_ratio : float
        Largest of (mean - z standard errors) / bound; at most 1 where it holds.
    worst_t : int
        Where that is.
    failures : tuple of str
        What is wrong, in words.
    times, bound, mean : ndarray
        Numbers of steps, the bound and the mean of what was measured there.
    """

    theorem: str
    holds: bool
    worst_ratio: float
    worst_t: int
    failures: tuple[str, ...]
    times: NDArray[np.int64]
    bound: Floats
    mean: Floats


def check(
    theorem: str,
    measured: ArrayLike,
    *,
    step: float | ArrayLike | None = None,
    constants: Constants,
    batch_size: int | None = None,
    z: float = STANDARD_ERRORS,
    times: ArrayLike | None = None,
    atol: float = 0.0,
) -> Certificate:
    """Compare what runs measured with a theorem's bound at every step.

    Parameters
    ----------
    theorem : str
        Id of a theorem; its `quantity` says what is to be measured.
    measured : array_like, shape (replicates, T + 1) or (T + 1,)
        The quantity after 0, 1, ..., T steps of independent runs; for a theorem about an average,
        at the average of the points before (`running_average`); for one about a least gradient,
        ‖∇f(x_t)‖², of which the least mean is taken here. One axis stands for an exact expectation,
        such as a deterministic run.
    step : float or array_like, optional
        The step that the runs took, as in `bound`.
    constants : Constants
        The problem's.
    batch_size : int, optional
        For the minibatch theorems.
    z : float, default 3.0
        Standard errors of the mean that the measurement is given; none for one axis. Where tails
        are so heavy that these say nothing, three quarters of the replicates' lower quartile,
        with the same caution, stand for the mean.
    times : array_like of int, optional
        The numbers of steps that `measured` is about, increasing, if not 0, 1, ..., T. The least of
        gradients then is that of the times given, which can only be larger.
    atol : float, default 0.0
        What rounding may add to the measured quantity, in its units. A relative 1e-9 is always
        given.

    Returns
    -------
    Certificate

    Raises
    ------
    KeyError
        If there is no such theorem; the message lists the ids.
    TypeError, ValueError
        If a shape is wrong or a constant that the theorem needs is missing. A step above the limit
        is no error here but a failure of the certificate.

    References
    ----------
    "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2023), arXiv 2301.11235.

    Examples
    --------
    >>> c = Constants(L=1.0, mu=1.0, dist0_sq=4.0)
    >>> check("gd-strong", [4.0, 1.0, 0.25], step=0.5, constants=c).holds
    True
    >>> check("gd-strong", [4.0, 9.0, 20.25], step=2.5, constants=c).failures
    ('step must be <= 1 for gd-strong, got 2.5',
     'measured exceeds the bound from t = 1: 9 > 0',
     'measured diverges: from 4 at t = 0 to 20.2 at t = 2')
    """
    rule, c = find_rule(theorem, constants, batch_size)
    values = check_array("measured", measured, finite=False)
    if values.ndim not in (1, 2) or values.shape[-1] < 1:
        raise ValueError(f"measured must have shape (replicates, T + 1), got {values.shape}")
    if values.ndim == 2 and len(values) < 2:
        raise ValueError("measured must have 2 replicates or more, or one axis, got 1 replicate")
    z = check_real("z", z, at_least=0)
    atol = check_real("atol", atol, at_least=0)
    t = _check_times(times, values.shape[-1])
    steps, failures = read_steps(rule, c, step, int(t[-1]))
    failures += interpolation_problems(rule.theorem, c)

    finite = np.isfinite(values) if values.ndim == 1 else np.isfinite(values).all(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = values if values.ndim == 1 else values.mean(axis=0)
        low = np.where(finite, mean if values.ndim == 1 else _mean_at_least(values, z), np.inf)
        mean = np.where(finite, mean, np.inf)
    limits = evaluate(rule, t, steps, c)
    if rule.theorem.quantity == LEAST_GRADIENT:
        low, mean = _least_before(low, mean)
    allowed = limits * (1 + ROUNDING) + atol
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = np.divide(low - atol, limits, out=np.full_like(low, np.inf), where=limits > 0)
    ratio[low <= allowed] = np.minimum(ratio[low <= allowed], 1.0)
    ratio = np.where(finite, np.nan_to_num(ratio, nan=np.inf), np.inf)
    worst = int(np.argmax(ratio))
    above = np.flatnonzero(~(low <= allowed))
    if not finite.all():
        failures.append(f"measured is not finite from t = {t[np.flatnonzero(~finite)[0]]}")
    if len(above):
        first = above[0]
        failures.append(
            f"measured exceeds the bound from t = {t[first]}: {low[first]:.3g} > "
            f"{limits[first]:.3g}"
        )
        if mean[-1] > DIVERGED * mean[0] and low[-1] > allowed[-1]:
            failures.append(
                f"measured diverges: from {mean[0]:.3g} at t = {t[0]} to {mean[-1]:.3g} "
                f"at t = {t[-1]}"
            )
    return Certificate(
        theorem,
        not failures,
        float(ratio[worst]),
        int(t[worst]),
        tuple(failures),
        t,
        limits,
        mean,
    )


def check_inequality(
    name: str, problem: FiniteSum, points: ArrayLike, constants: Constants
) -> float:
    """Return the worst slack of an inequality over points, or over all pairs of them.

    Parameters
    ----------
    name : {"smooth", "descent-lemma", "convex", "strong-convex", "pl", "cocoercive", \
"variance-transfer", "expected-smoothness"}
        With g = ∇f:

        - smooth: ‖g(x) - g(y)‖ <= L ‖x - y‖
        - descent-lemma: f(y) <= f(x) + g(x)·(y - x) + L ‖y - x‖² / 2
        - convex: f(y) >= f(x) + g(x)·(y - x)
        - strong-convex: f(y) >= f(x) + g(x)·(y - x) + mu ‖y - x‖² / 2
        - cocoercive: f(y) >= f(x) + g(x)·(y - x) + ‖g(y) - g(x)‖² / (2 L)
        - expected-smoothness:
          mean ‖∇f_i(y) - ∇f_i(x)‖² <= 2 L_max (f(y) - f(x) - g(x)·(y - x))
        - pl: ‖g(x)‖² >= 2 pl (f(x) - f*)
        - variance-transfer: mean ‖∇f_i(x)‖² <= 4 L_max (f(x) - f*) + 2 sigma_star_sq

    problem : FiniteSum
        The problem.
    points : array_like, shape (m, dim)
        Where to look; m >= 2 for inequalities of pairs.
    constants : Constants
        L, L_max, mu, pl, sigma_star_sq or f_star, as the inequality asks.

    Returns
    -------
    float
        Least value of (larger side - smaller side) over the sum of the sizes of all terms, in
        [-1, 1]. Negative beyond rounding means that the inequality is violated.

    Raises
    ------
    KeyError
        If there is no such inequality; the message lists the names.
    TypeError, ValueError
        If a shape is wrong or a constant is missing.

    References
    ----------
    "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2023), arXiv 2301.11235,
    sections 2 to 4.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> problem = LeastSquares([[1.0], [2.0]], [0.0, 1.0])
    >>> check_inequality("smooth", problem, [[0.0], [3.0]], Constants(L=2.5))
    0.0
    >>> round(check_inequality("smooth", problem, [[0.0], [3.0]], Constants(L=1.25)), 3)
    -0.333
    """
    try:
        needs, terms, pairs = _INEQUALITIES[name]
    except (KeyError, TypeError):
        raise KeyError(f"name must be one of {', '.join(_INEQUALITIES)}, got {name!r}") from None
    x = check_array("points", points, shape=(None, problem.dim))
    if len(x) < 1 + pairs:
        raise ValueError(f"points must be {1 + pairs} or more for {name}, got {len(x)}")
    for constant in needs:
        require(constants, constant, name)
    with np.errstate(over="ignore", invalid="ignore"):
        found = terms(problem, x, constants)
        sides = np.array([np.broadcast_to(term, _shape(x, pairs)) for term in found])
    if pairs:
        sides = sides[:, ~np.eye(len(x), dtype=bool)]
    if not np.isfinite(sides).all():
        raise ValueError(f"points must give finite values and gradients for {name}")
    size = np.abs(sides).sum(axis=0)
    slack = np.divide(sides.sum(axis=0), size, out=np.zeros_like(size), where=size > 0)
    return float(slack.min())


def _mean_at_least(values: Floats, z: float) -> Floats:
    """Return what the means over replicates are at least, to z standard errors.

    Diverging runs have tails so heavy that the standard error is as large as the mean. The second
    estimate holds for any quantity >= 0: three quarters of the replicates, less z standard errors
    of that share, are at least their lower quartile (Markov's inequality).
    """
    root = np.sqrt(len(values))
    normal = values.mean(axis=0) - z * values.std(axis=0, ddof=1) / root
    share = max(0.75 - z * np.sqrt(0.1875) / root, 0.0)
    quartile = np.quantile(values, 0.25, axis=0, method="lower")
    normal = np.where(np.isfinite(normal), normal, -np.inf)
    lower: Floats = np.maximum(normal, share * quartile)
    return lower


def _check_times(times: Any, count: int) -> NDArray[np.int64]:
    if times is None:
        return np.arange(count)
    t = np.asarray(times)
    if t.dtype.kind not in "iu" or t.shape != (count,):
        raise ValueError(f"times must be {count} integers, got {times!r}")
    if t[0] < 0 or (np.diff(t) <= 0).any():
        raise ValueError("times must be >= 0 and increase")
    return t.astype(np.int64)


def _least_before(low: Floats, mean: Floats) -> tuple[Floats, Floats]:
    """Return, for each time, what was measured where the mean before it is least."""
    best = np.zeros(len(mean), dtype=np.int64)
    for t in range(2, len(mean)):
        best[t] = t - 1 if mean[t - 1] < mean[best[t - 1]] else best[t - 1]
    return low[best], mean[best]


def _shape(x: Floats, pairs: bool) -> tuple[int, ...]:
    return (len(x), len(x)) if pairs else (len(x),)


def _pairs(problem: FiniteSum, x: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return f(y), f(x), g(x)·(y - x) and ‖y - x‖ for row x and column y."""
    f = np.array([float(problem.value(point)) for point in x])
    g = np.array([problem.gradient(point) for point in x])
    along = g @ x.T - np.sum(g * x, axis=1)[:, None]
    apart = np.linalg.norm(x[None, :] - x[:, None], axis=2)
    return f[None, :], f[:, None], along, apart


def _smooth(problem, x, c):
    g = np.array([problem.gradient(point) for point in x])
    apart = np.linalg.norm(x[None, :] - x[:, None], axis=2)
    return c.L * apart, -np.linalg.norm(g[None, :] - g[:, None], axis=2)


def _descent_lemma(problem, x, c):
    there, here, along, apart = _pairs(problem, x)
    return -there, here, along, c.L * apart**2 / 2


def _convex(problem, x, c):
    there, here, along, _ = _pairs(problem, x)
    return there, -here, -along


def _strong_convex(problem, x, c):
    there, here, along, apart = _pairs(problem, x)
    return there, -here, -along, -c.mu * apart**2 / 2


def _cocoercive(problem, x, c):
    there, here, along, _ = _pairs(problem, x)
    g = np.array([problem.gradient(point) for point in x])
    change = np.sum((g[None, :] - g[:, None]) ** 2, axis=2)
    return there, -here, -along, -change / (2 * c.L)


def _expected_smoothness(problem, x, c):
    there, here, along, _ = _pairs(problem, x)
    each = np.array([problem.component_gradients(point) for point in x])
    change = np.array([np.mean(np.sum((each - one) ** 2, axis=2), axis=1) for one in each])
    return 2 * c.L_max * there, -2 * c.L_max * here, -2 * c.L_max * along, -change


def _pl(problem, x, c):
    f = np.array([float(problem.value(point)) for point in x])
    g = np.array([problem.gradient(point) for point in x])
    constant = c.mu if c.pl is None else c.pl
    return np.sum(g * g, axis=1), -2 * constant * f, np.full(len(x), 2 * constant * c.f_star)


def _variance_transfer(problem, x, c):
    f = np.array([float(problem.value(point)) for point in x])
    each = np.array([problem.component_gradients(point) for point in x])
    second = np.mean(np.sum(each**2, axis=2), axis=1)
    ones = np.ones(len(x))
    return 4 * c.L_max * f, -4 * c.L_max * c.f_star * ones, 2 * c.sigma_star_sq * ones, -second


_Terms = Callable[[Any, Floats, Any], tuple[Any, ...]]
_INEQUALITIES: dict[str, tuple[tuple[str, ...], _Terms, bool]] = {
    "smooth": (("L",), _smooth, True),
    "descent-lemma": (("L",), _descent_lemma, True),
    "convex": ((), _convex, True),
    "strong-convex": (("mu",), _strong_convex, True),
    "pl": (("pl", "f_star"), _pl, False),
    "cocoercive": (("L",), _cocoercive, True),
    "variance-transfer": (("L_max", "f_star", "sigma_star_sq"), _variance_transfer, False),
    "expected-smoothness": (("L_max",), _expected_smoothness, True),
}
