"""Whether a theorem applies: its constants are there, its step condition and assumptions hold."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from thalweg._validation import check_array, check_count, check_real
from thalweg.descent._bound_formulas import Counts, Floats, Steps
from thalweg.descent._constants import Constants
from thalweg.descent._theorems import (
    CONSTANT,
    DECREASING,
    NONE,
    OWN,
    RULES,
    SCALE,
    Rule,
    Theorem,
    own_schedule,
)

POSITIVE = ("mu", "mu_min", "pl")


def minibatch_constants(constants: Constants, batch_size: int) -> Constants:
    """Return the constants that minibatches of distinct components see.

    With e = (n - b) / (b (n - 1)), the share of the noise that is left: L_max becomes
    (1 - e) L + e L_max, sigma_star_sq becomes e sigma_star_sq, and delta_star becomes
    e delta_star L_max over the new L_max. The others are unchanged.

    Parameters
    ----------
    constants : Constants
        The problem's; needs n, L and L_max.
    batch_size : int
        b, 1 to n.

    Returns
    -------
    Constants

    Raises
    ------
    TypeError, ValueError
        If `batch_size` is outside 1..n or a constant is missing.

    References
    ----------
    "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2023), arXiv 2301.11235,
    section on minibatch SGD.

    Examples
    --------
    >>> c = Constants(n=5, L=1.0, L_max=9.0, sigma_star_sq=4.0)
    >>> minibatch_constants(c, 2).L_max, minibatch_constants(c, 5).sigma_star_sq
    (4.0, 0.0)
    """
    for name in ("n", "L", "L_max"):
        require(constants, name, "a minibatch")
    n, L, largest = constants.n, constants.L, constants.L_max
    b = check_count("batch_size", batch_size, at_most=n)
    left = (n - b) / (b * (n - 1)) if n > 1 else 0.0
    smooth = (1 - left) * L + left * largest
    noise, delta = constants.sigma_star_sq, constants.delta_star
    return replace(
        constants,
        L_max=smooth,
        sigma_star_sq=None if noise is None else left * noise,
        delta_star=None if delta is None or smooth == 0 else left * delta * largest / smooth,
    )


def find_rule(
    theorem: str, constants: Constants, batch_size: int | None, *, replaced: bool = False
) -> tuple[Rule, Constants]:
    """Return a theorem's rule and the constants it is evaluated with, once all it needs is there.

    `replaced` says that `constants` already are those of a minibatch.
    """
    rule = find(theorem)
    if not isinstance(constants, Constants):
        raise TypeError(f"constants must be Constants, got {type(constants).__name__}")
    if rule.minibatch and not replaced:
        if batch_size is None:
            raise ValueError(f"batch_size must be given for {theorem}, got None")
        constants = minibatch_constants(constants, batch_size)
    elif batch_size is not None and not rule.minibatch:
        raise ValueError(
            f"batch_size must be None for {theorem}, got {batch_size!r}; "
            "see minibatch_constants and the minibatch theorems"
        )
    for name in rule.theorem.needs:
        require(constants, name, theorem)
    return rule, constants


def read_steps(rule: Rule, c: Constants, step: Any, n_steps: int) -> tuple[Steps, list[str]]:
    """Return the steps of a run of `n_steps` and what a theorem has against them, if anything."""
    theorem = rule.theorem
    name, kind = theorem.id, theorem.steps
    if kind == NONE:
        return Steps(None), [] if step is None else [f"step must be None for {name}, got {step!r}"]
    if step is None and kind != OWN:
        step = default_step(rule, c, None)
    given: Any = None
    if step is not None:
        if np.ndim(step) == 0:
            given = check_real("step", step, above=0)
        else:
            given = check_array("step", step, ndim=1)
            if len(given) < max(n_steps, 1):
                raise ValueError(f"step must hold {n_steps} steps or more, got {len(given)}")
            if (given <= 0).any():
                raise ValueError(f"step must be > 0, got {given.min():g}")
    if kind in (OWN, SCALE):
        first = given if given is None or np.ndim(given) == 0 else float(given[0])
        if kind == OWN and given is not None and np.ndim(given) == 0:
            return Steps(None), [f"step must be None or an array for {name}, got {given:g}"]
        if given is not None and np.ndim(given):
            wanted = own_schedule(theorem, c, len(given), float(given[0]))
            wrong = np.flatnonzero(np.abs(given - wanted) > 1e-9 * wanted)
            if len(wrong):
                t = int(wrong[0])
                return Steps(first), [
                    f"step must be the schedule of {name}: {wanted[t]:g} at t = {t}, "
                    f"got {given[t]:g}"
                ]
        return Steps(first), []
    steps = Steps(given)
    problems = []
    if kind == CONSTANT and steps.array is not None:
        if np.ptp(steps.array) > 0:
            problems.append(f"step must be constant for {name}, got an array that varies")
        steps = Steps(float(steps.array.max()))
    if kind == DECREASING and steps.array is not None and (np.diff(steps.array) > 0).any():
        problems.append(f"step must not increase for {name}")
    largest = steps.first if steps.array is None else float(steps.array.max())
    limit = float(rule.limit(c))
    if largest >= limit if rule.strict else largest > limit * (1 + 1e-12):
        sign = "<" if rule.strict else "<="
        problems.append(f"step must be {sign} {limit:g} for {name}, got {largest:g}")
    return steps, problems


def interpolation_problems(theorem: Theorem, c: Constants) -> list[str]:
    """Return what speaks against interpolation, where a theorem needs it."""
    if not theorem.interpolation or c.sigma_star_sq is None:
        return []
    if c.sigma_star_sq <= 1e-9 * c.L_max**2 * c.dist0_sq:
        return []
    return [f"sigma_star_sq must be 0 (interpolation) for {theorem.id}, got {c.sigma_star_sq:g}"]


def evaluate(rule: Rule, T: Counts, steps: Steps, c: Constants) -> Floats:
    """Return the formula's values, inf where they overflow."""
    with np.errstate(over="ignore"):
        return np.asarray(rule.formula(T, steps, c), dtype=float)


def find(theorem: str) -> Rule:
    try:
        return RULES[theorem]
    except (KeyError, TypeError):
        raise KeyError(
            f"theorem must be one of {', '.join(sorted(RULES))}, got {theorem!r}"
        ) from None


def require(c: Constants, name: str, what: str) -> None:
    value = getattr(c, name)
    if name == "pl" and value is None:
        value = c.mu
    if value is None:
        raise ValueError(f"constants must have {name} for {what}, got None")
    if name in POSITIVE and value <= 0:
        raise ValueError(f"constants must have {name} > 0 for {what}, got {value:g}")


def default_step(rule: Rule, c: Constants, epsilon: float | None) -> float | None:
    name = rule.theorem.id
    if rule.theorem.steps in (OWN, NONE):
        return None
    limit = float(rule.limit(c))
    largest = limit / 2 if rule.strict else limit
    if epsilon is not None or rule.theorem.steps == SCALE:
        accuracy = 1.0 if epsilon is None else check_real("epsilon", epsilon, above=0)
        largest = min(largest, float(rule.floor_step(c, accuracy)))
    if not math.isfinite(largest):
        raise ValueError(f"step must be given for {name}: no step is the largest it allows")
    return largest
