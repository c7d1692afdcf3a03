"""Recursions that several first-order minimisers share, as generators for `_oracle.drive`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from thalweg._validation import check_real
from thalweg.descent._oracle import BreakdownError, Oracle, State, inner, largest

Floats = NDArray[np.float64]
Forward = Callable[[Floats, Floats, float], tuple[Floats, float]]
"""``(x, gradient, step) -> (next point, what stops the run)``."""

ARMIJO = 0.5
"""Share of the predicted decrease that backtracking asks for; 1/2 keeps the bound of steps 1/L."""
FLAT = 1e-10
"""Relative change of a value that is rounding: below it gradients decide, not values."""
SHORTEST = 1e-16
LINE_TOLERANCE = 1e-12


def forward_step(
    oracle: Oracle, after: Callable[[Floats, float], Any] | None = None, name: str = "projection"
) -> Forward:
    """Return the gradient step, followed by ``after(point, step)`` if that is given."""

    def forward(x: Floats, g: Floats, step: float) -> tuple[Floats, float]:
        ahead = x - step * g
        if after is None:
            return ahead, largest(g)
        if not np.isfinite(ahead).all():
            raise BreakdownError("the points left the finite numbers; the steps are too long")
        ahead = oracle.read(name, after(ahead, step))
        return ahead, largest(x - ahead) / step

    return forward


def gradient_states(
    oracle: Oracle, start: Floats, forward: Forward, step: float
) -> Iterator[State]:
    """Take steps of one length."""
    x = start
    while True:
        g = oracle.gradient(x)
        ahead, residual = forward(x, g, step)
        yield State(x, jac=g, residual=residual)
        x = ahead


def backtracking_states(
    oracle: Oracle, start: Floats, forward: Forward, step: float
) -> Iterator[State]:
    """Take steps that decrease enough: twice the last one, halved until it does."""
    x, f, g = start, oracle.value(start), oracle.gradient(start)
    trial = step
    while True:
        yield State(x, f, g, forward(x, g, step)[1])
        while True:
            ahead = forward(x, g, trial)[0]
            slope = inner(g, ahead - x)
            try:
                new = oracle.value(ahead)
            except BreakdownError:
                new = math.inf
            if new <= f + ARMIJO * slope and f - new > FLAT * abs(f):
                new_g = oracle.gradient(ahead)
                break
            if new <= f + FLAT * abs(f):
                new_g = oracle.gradient(ahead)
                if inner(new_g, ahead - x) <= (2 * ARMIJO - 1) * slope:
                    break
            trial /= 2
            if trial < SHORTEST * step:
                raise BreakdownError("backtracking found no step that decreases fun")
        x, f, g, step = ahead, new, new_g, trial
        trial = 2 * step


def accelerated_states(
    oracle: Oracle,
    start: Floats,
    forward: Forward,
    L: float,
    mu: float,
    tol: float,
) -> Iterator[State]:
    """Step from points extrapolated along the last move, by a constant share if mu > 0."""
    y = x = start
    g = oracle.gradient(x)
    jac: Floats | None = g
    ahead, residual = forward(x, g, 1 / L)
    lam = 1.0
    root = math.sqrt(mu / L)
    while True:
        yield State(y, jac=jac, residual=residual)
        following = (1 + math.sqrt(1 + 4 * lam**2)) / 2
        share = (1 - root) / (1 + root) if mu > 0 else (lam - 1) / following
        x, y, lam = ahead + share * (ahead - y), ahead, following
        ahead, residual = forward(x, oracle.gradient(x), 1 / L)
        jac = None
        if residual <= tol:
            # The gradient was seen at x, but y is the result.
            jac = oracle.gradient(y)
            residual = forward(y, jac, 1 / L)[1]


def line_minimum(
    oracle: Oracle,
    base: Floats,
    direction: Floats,
    low: float,
    high: float,
    known: dict[float, Floats] | None = None,
) -> tuple[float, Floats, Floats]:
    """Minimise a convex function on base + s direction, low <= s <= high, by its slope's root.

    Returns s, the point and the gradient there. `known` holds gradients by s.
    """
    seen = {} if known is None else known

    def slope(s: float) -> float:
        if s not in seen:
            seen[s] = oracle.gradient(base + s * direction)
        return inner(seen[s], direction)

    if low >= high or slope(high) <= 0:
        s = high
    elif slope(low) >= 0:
        s = low
    else:
        s = float(brentq(slope, low, high, xtol=LINE_TOLERANCE, rtol=LINE_TOLERANCE))
    slope(s)
    return s, base + s * direction, seen[s]


def check_curvature(mu: Any, L: Any, *, strong: bool) -> tuple[float, float]:
    """Return the constants 0 <= mu <= L, or 0 < mu <= L where the method needs strong convexity."""
    L = check_real("L", L, above=0)
    if strong:
        return check_real("mu", mu, above=0, at_most=L), L
    return check_real("mu", mu, at_least=0, at_most=L), L
