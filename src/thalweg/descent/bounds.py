"""How many steps are enough? Convergence theorems of (stochastic) gradient methods as functions.

Every theorem is a function of the problem's constants (`constants`) that returns its bound: to
choose a step (`step_limit`), to count the steps to an accuracy (`iterations_for`), to draw beside a
run, and to check a run against (`thalweg.descent.check`).

Source: "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2023, v3 2024), arXiv
2301.11235. All bounds were derived again from their assumptions. Three differ from the source:
``gd-nonconvex``, ``subgrad-bounded`` and ``spp-strong`` are derived here, the decreasing steps of
``sgd-strong-switch`` begin at t = 4 ceil(kappa) instead of one later (for 1 < kappa < 9/8 the
later switch does not follow from the recursion), and ``spp-strong`` takes the strong convexity of
the weakest component, not that of their mean.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from thalweg._validation import check_array, check_count, check_real
from thalweg.descent._bound_conditions import (
    default_step,
    evaluate,
    find,
    find_rule,
    interpolation_problems,
    read_steps,
    require,
)
from thalweg.descent._bound_conditions import minibatch_constants as minibatch_constants
from thalweg.descent._bound_formulas import Counts, Floats, Steps
from thalweg.descent._constants import Constants
from thalweg.descent._theorems import NONE, OWN, RULES, SCALE, own_schedule
from thalweg.descent._theorems import Theorem as Theorem

MOST_STEPS = 10**15


def theorems() -> dict[str, Theorem]:
    """Return all theorems by id.

    Returns
    -------
    dict of str to Theorem

    References
    ----------
    "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2023), arXiv 2301.11235.

    Examples
    --------
    >>> theorems()["gd-strong"].statement
    '(1 - gamma mu)^T dist0_sq'
    """
    return {name: rule.theorem for name, rule in RULES.items()}


def bound(
    theorem: str,
    T: int | ArrayLike,
    *,
    step: float | ArrayLike | None = None,
    constants: Constants,
    batch_size: int | None = None,
) -> Any:
    """Return what a theorem guarantees after T steps.

    Parameters
    ----------
    theorem : str
        Id of a theorem; `theorems` tells its quantity, its assumptions and the constants it needs.
    T : int or array_like of int
        Numbers of steps, >= 0.
    step : float or array_like, optional
        The step gamma (for ``sgdm-convex`` eta, for ``subgrad-bounded`` the gamma of
        gamma / sqrt(t + 1)), or where the theorem allows it gamma_0, gamma_1, ... up to the largest
        T. None: the step of `step_for`, or the theorem's own schedule.
    constants : Constants
        The problem's.
    batch_size : int, optional
        Distinct components a batch: for the minibatch theorems, and only for them.

    Returns
    -------
    float or ndarray
        The bound for each T; inf where the theorem says nothing (T = 0 of a bound that falls like
        1 / T, and T < 4 ceil(kappa) of ``sgd-strong-switch``).

    Raises
    ------
    KeyError
        If there is no such theorem; the message lists the ids.
    ValueError
        If a constant that it needs is missing, or its step condition or interpolation is violated.
    TypeError
        If an argument is not of its kind.

    References
    ----------
    "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2023), arXiv 2301.11235.

    Examples
    --------
    >>> c = Constants(L=4.0, mu=1.0, dist0_sq=9.0)
    >>> bound("gd-strong", [0, 1, 2], step=0.25, constants=c)
    array([9.    , 6.75  , 5.0625])
    """
    rule, c = find_rule(theorem, constants, batch_size)
    counts = _check_counts(T)
    steps, problems = read_steps(rule, c, step, int(counts.max(initial=0)))
    problems += interpolation_problems(rule.theorem, c)
    if problems:
        raise ValueError(problems[0])
    values = evaluate(rule, counts, steps, c)
    return float(values) if values.ndim == 0 else values


def step_limit(theorem: str, constants: Constants, batch_size: int | None = None) -> float:
    """Return the largest step a theorem allows.

    Parameters
    ----------
    theorem : str
        Id of a theorem.
    constants : Constants
        The problem's.
    batch_size : int, optional
        For the minibatch theorems.

    Returns
    -------
    float
        The limit; for ``sgd-convex``, ``minibatch-convex`` and ``sprox-convex`` a step must stay
        below it. inf where any step will do or the method has its own.

    Raises
    ------
    KeyError, ValueError, TypeError
        As `bound`.

    Examples
    --------
    >>> step_limit("gd-convex", Constants(L=4.0, dist0_sq=1.0))
    0.25
    """
    rule, c = find_rule(theorem, constants, batch_size)
    return float(rule.limit(c))


def step_for(
    theorem: str,
    constants: Constants,
    epsilon: float | None = None,
    batch_size: int | None = None,
) -> float | None:
    """Return the step that `iterations_for` takes, or `bound` where none is given.

    It is the limit, or half of it where the bound has a pole there; with `epsilon`, if that is
    smaller, the largest step whose noise floor is at most epsilon / 2. For ``sgd-nonconvex`` it
    also keeps the part of the start below epsilon / 2 for some T; for ``subgrad-bounded`` it is
    diameter / (sqrt(2) G), at which the bound is least.

    Parameters
    ----------
    theorem : str
        Id of a theorem.
    constants : Constants
        The problem's.
    epsilon : float, optional
        The accuracy, > 0.
    batch_size : int, optional
        For the minibatch theorems.

    Returns
    -------
    float or None
        None where the theorem or the method has its own steps.

    Raises
    ------
    KeyError, ValueError, TypeError
        As `bound`; ValueError also where no step is the largest.

    Examples
    --------
    >>> c = Constants(L_max=1.0, mu=0.1, dist0_sq=1.0, sigma_star_sq=2.0)
    >>> step_for("sgd-strong", c), step_for("sgd-strong", c, epsilon=0.8)
    (0.5, 0.01)
    """
    rule, c = find_rule(theorem, constants, batch_size)
    return default_step(rule, c, epsilon)


def iterations_for(
    theorem: str,
    epsilon: float,
    *,
    constants: Constants,
    step: float | ArrayLike | None = None,
    batch_size: int | None = None,
) -> int:
    """Return the least number of steps after which a theorem guarantees an accuracy.

    Parameters
    ----------
    theorem : str
        Id of a theorem.
    epsilon : float
        Bound of the theorem's quantity that is to be reached, > 0.
    constants : Constants
        The problem's.
    step : float or array_like, optional
        As in `bound`; None takes that of `step_for`.
    batch_size : int, optional
        For the minibatch theorems.

    Returns
    -------
    int
        T with bound(T) <= epsilon < bound(T - 1).

    Raises
    ------
    KeyError, ValueError, TypeError
        As `bound`; ValueError also where no number of steps is enough (a noise floor above
        epsilon, an array of too few steps).

    References
    ----------
    "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2023), arXiv 2301.11235,
    complexities after each theorem.

    Examples
    --------
    >>> iterations_for("gd-convex", 0.01, constants=Constants(L=4.0, dist0_sq=1.0))
    200
    """
    epsilon = check_real("epsilon", epsilon, above=0)
    rule, c = find_rule(theorem, constants, batch_size)
    if step is None:
        step = default_step(rule, c, epsilon)
    longest = len(np.atleast_1d(step)) if step is not None and np.ndim(step) else 0
    steps, problems = read_steps(rule, c, step, longest)
    problems += interpolation_problems(rule.theorem, c)
    if problems:
        raise ValueError(problems[0])
    if longest:
        enough = np.flatnonzero(evaluate(rule, np.arange(longest + 1), steps, c) <= epsilon)
        if len(enough):
            return int(enough[0])
        raise ValueError(f"step must hold more than {longest} steps to reach epsilon {epsilon:g}")

    def reached(T: int) -> bool:
        return bool(evaluate(rule, np.array(T), steps, c) <= epsilon)

    last = 1
    most = _turning_point(theorem, steps, c)
    while last < most and not reached(last):
        last = min(2 * last, most)
    if not reached(last):
        least = float(evaluate(rule, np.array(last), steps, c))
        raise ValueError(
            f"epsilon must be within reach of {theorem}, got {epsilon:g}: its bound is {least:g} "
            f"after {last} steps; take a smaller step"
        )
    low, high = -1, last
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def step_schedule(
    theorem: str, n_steps: int, *, constants: Constants, step: float | ArrayLike | None = None
) -> Floats:
    """Return gamma_0, ..., gamma_{n_steps-1} of a theorem, to run a method with.

    Parameters
    ----------
    theorem : str
        Id of a theorem whose steps are not chosen by the method.
    n_steps : int
        How many.
    constants : Constants
        The problem's (of the minibatch, for a minibatch theorem).
    step : float or array_like, optional
        As in `bound`. For ``sgdm-convex`` it is eta, for ``sgd(..., momentum="ima")``.

    Returns
    -------
    ndarray, shape (n_steps,)

    Raises
    ------
    KeyError, ValueError, TypeError
        As `bound`; ValueError for the Polyak steps.

    Examples
    --------
    >>> step_schedule("subgrad-strong", 3, constants=Constants(G=1.0, mu=1.0)).round(3)
    array([1.   , 0.667, 0.5  ])
    """
    rule, c = find_rule(theorem, constants, 1 if RULES[theorem].minibatch else None, replaced=True)
    n_steps = check_count("n_steps", n_steps, at_least=0)
    if rule.theorem.steps == NONE:
        raise ValueError(f"theorem must have step lengths, {theorem} leaves them to the method")
    if step is None:
        step = default_step(rule, c, None)
    steps, problems = read_steps(rule, c, step, n_steps)
    if problems:
        raise ValueError(problems[0])
    if rule.theorem.steps in (OWN, SCALE):
        return own_schedule(rule.theorem, c, n_steps, steps.first)
    return np.full(n_steps, steps.first) if steps.array is None else steps.array[:n_steps]


def averaging_weights(theorem: str, steps: ArrayLike, constants: Constants) -> Floats:
    """Return the weights of x_0, x_1, ... in the average that a theorem is about.

    Parameters
    ----------
    theorem : str
        Id of a theorem whose quantity is that of an average.
    steps : array_like, shape (T,)
        The steps of the run.
    constants : Constants
        The problem's (of the minibatch, for a minibatch theorem).

    Returns
    -------
    ndarray, shape (T,)

    Raises
    ------
    KeyError, ValueError
        If there is no such theorem, or it is not about an average.

    Examples
    --------
    >>> averaging_weights("sgd-convex", [0.1, 0.2], Constants(L_max=1.0))
    array([0.08, 0.12])
    """
    kind = find(theorem).theorem.average
    gamma = check_array("steps", steps, ndim=1)
    if kind == "residual":
        require(constants, "L_max", theorem)
        return gamma * (1 - 2 * gamma * constants.L_max)
    if kind == "step":
        return gamma
    if kind == "linear":
        return np.arange(1.0, len(gamma) + 1)
    if kind == "uniform":
        return np.ones(len(gamma))
    raise ValueError(f"theorem must be about an average, {theorem} bounds {find(theorem)}")


def _check_counts(T: Any) -> Counts:
    counts = np.asarray(T)
    if counts.dtype.kind not in "iu":
        raise TypeError(f"T must be an integer or an array of them, got {T!r}")
    if (counts < 0).any():
        raise ValueError(f"T must be >= 0, got {counts.min()}")
    return counts.astype(np.int64)


def _turning_point(theorem: str, steps: Steps, c: Constants) -> int:
    """Return the T up to which a bound falls."""
    if theorem != "sgd-nonconvex":
        return MOST_STEPS
    rate = math.log1p(c.L * c.L_max * steps.first**2)
    if rate * MOST_STEPS <= 1:
        return MOST_STEPS
    turn = 1 / rate
    below, above = max(1, math.floor(turn)), max(1, math.ceil(turn))
    return below if below * math.exp(-rate * below) > above * math.exp(-rate * above) else above
