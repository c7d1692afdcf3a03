"""Minimise a strongly convex function and know, at each step, a ball that holds the minimiser.

As fast as Nesterov's method, by shrinking balls: every gradient says that the minimiser lies in a
ball, and the intersection with the last one fits into a smaller ball.

Source: "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 3.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg.descent._first_order import check_curvature, line_minimum
from thalweg.descent._oracle import (
    BreakdownError,
    Oracle,
    State,
    check_unused,
    drive,
    inner,
    largest,
)

Floats = NDArray[np.float64]

EMPTY = 1e-6
"""Squared radius, relative to the balls', by which a negative one may come from rounding."""
ROUNDING = 1e-13
"""The same for a centre, relative to the point and the condition L / mu."""


def geometric_descent(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: Any = (),
    *,
    jac: Any = None,
    callback: Callable[..., Any] | None = None,
    record: bool = False,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    mu: float,
    L: float,
    gtol: float = 1e-8,
    maxiter: int = 10_000,
) -> OptimizeResult:
    r"""Minimise a smooth, strongly convex function with a certificate: ‖x* - c_t‖ <= R_t.

    Parameters
    ----------
    fun, x0, args, jac, callback, record, hess, hessp, bounds, constraints, gtol, maxiter
        As in `gradient_descent`.
    mu : float
        Strong convexity, 0 < mu <= L.
    L : float
        Lipschitz constant of the gradient.

    Returns
    -------
    OptimizeResult
        As of `gradient_descent`, with ``centre`` and ``radius_sq``: the last c_t and R_t².
        ``history`` always has ``centre`` of shape (nit + 1, n) and ``radius_sq`` of shape
        (nit + 1,); with `record` also ``fun``. If the balls do not meet, which tells that mu is too
        large or L too small, the run ends with ``success=False``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    See Also
    --------
    rate : "geometric_descent", a bound of R_t².

    Notes
    -----
    The point x_{t+1} minimises f on the line through c_t and x_t - ∇f(x_t) / L. It is found as the
    root of the slope by Brent's method, to 1e-12, in the bracket that mu and L imply: the values
    themselves would locate it to half the digits only. A step takes some six gradients.

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 3.6.3.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.array([1.0, 100.0])
    >>> result = geometric_descent(lambda x: 0.5 * x @ (a * x) - x.sum(), [3.0, 3.0],
    ...                            jac=lambda x: a * x - 1, mu=1.0, L=100.0)
    >>> distance_sq = ((result.history["centre"] - 1 / a) ** 2).sum(axis=1)
    >>> bool((distance_sq <= result.history["radius_sq"] + 1e-12).all())
    True
    """
    check_unused(
        "geometric_descent", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints
    )
    mu, L = check_curvature(mu, L, strong=True)
    oracle = Oracle(fun, x0, args, jac)
    return drive(
        oracle,
        _states(oracle, mu, L),
        maxiter=maxiter,
        tol=gtol,
        callback=callback,
        record=record,
        keep=("centre", "radius_sq"),
    )


def _states(oracle: Oracle, mu: float, L: float) -> Iterator[State]:
    x, g = oracle.x0, oracle.gradient(oracle.x0)
    centre = x - g / mu
    radius_sq = (1 - mu / L) * inner(g, g) / mu**2
    while True:
        yield State(x, jac=g, residual=largest(g), trace={"centre": centre, "radius_sq": radius_sq})
        x, g = _line_search(oracle, centre, x - g / L, mu, L)
        far = x - g / mu
        reach = inner(g, g) / mu**2
        if reach < radius_sq / 2:
            centre, radius_sq = far, reach * (1 - mu / L)
            continue
        away = far - centre
        distance_sq = inner(away, away)
        if distance_sq == 0:
            radius_sq = min(radius_sq - reach * mu / L, reach * (1 - mu / L))
            radius_sq = max(radius_sq, 0.0)
            continue
        offset = x - centre
        share = (radius_sq + inner(offset, offset)) / (2 * distance_sq)
        smaller = radius_sq - reach * mu / L - share**2 * distance_sq
        rounding = ROUNDING * (L / mu) * (largest(x) + largest(far))
        if smaller < -EMPTY * (radius_sq + reach) - x.size * rounding**2:
            raise BreakdownError("no ball holds the minimiser: mu is too large or L too small")
        centre, radius_sq = centre + share * away, max(smaller, 0.0)


def _line_search(
    oracle: Oracle, centre: Floats, ahead: Floats, mu: float, L: float
) -> tuple[Floats, Floats]:
    """Return the minimiser on the line through two points, and the gradient there."""
    direction = ahead - centre
    length_sq = inner(direction, direction)
    g = oracle.gradient(ahead)
    if length_sq == 0:
        return ahead, g
    slope = inner(g, direction) / length_sq
    low, high = sorted((1 - slope / mu, 1 - slope / L))
    _, point, g = line_minimum(oracle, centre, direction, low, high, {1.0: g})
    return point, g
