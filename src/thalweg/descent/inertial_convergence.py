"""Whether a momentum method arrives: cycles that it may end in, the energy that it may lose.

- `find_cycle` looks for a cycle at the end of a run, where the heavy ball can be caught;
- `nesterov_lyapunov` is the energy whose decay proves that Nesterov's equation converges.

Source: "On the Dynamics of Acceleration in First order Gradient Methods" (2025), arXiv 2509.18346.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_real
from thalweg.descent._oracle import check_callable
from thalweg.descent.inertial_dynamics import Point, Product, hessian_product, reader

Floats = NDArray[np.float64]

MAX_PERIOD = 12
CYCLE_TOL = 1e-9
WIDEST_POINT = 100.0
"""A cycle is wider than this many times the tolerance; what is narrower has converged."""


def find_cycle(
    method: Callable[[Floats], Any],
    x0: ArrayLike,
    max_period: int = MAX_PERIOD,
    tol: float = CYCLE_TOL,
) -> Floats | None:
    """Return the cycle in which a method's points end, or None.

    Parameters
    ----------
    method : callable
        ``method(x0)`` runs the method and returns its points: an `OptimizeResult` with
        ``trajectory`` (`two_step` and its like with ``record=True, gtol=0``) or an array of shape
        ``(steps + 1, *x0.shape)``.
    x0 : array_like
        Start.
    max_period : int, default 12
        Longest period looked for, >= 2.
    tol : float, default 1e-9
        Largest distance, in any coordinate, between a point and the one a period later.

    Returns
    -------
    ndarray of shape ``(period, *x0.shape)`` or None
        The last period of the points, beginning with its largest (in the first coordinate). None
        if the points settle, diverge or do not repeat.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or the run is shorter than eight times `max_period`.

    Notes
    -----
    All of the last quarter of the points must repeat with the same period, so the run must be long
    enough to have settled before. A cycle narrower than 100 `tol` counts as convergence.

    Examples
    --------
    A strongly convex function, curvatures 1 and 25, on which the heavy ball tuned for quadratics
    never arrives:

    >>> import numpy as np
    >>> from thalweg.descent import heavy_ball
    >>> slope = lambda x: np.where(x < 1, 25 * x, np.where(x < 2, x + 24, 25 * x - 24))
    >>> run = lambda x0: heavy_ball(lambda x: 0.0, x0, jac=slope, L=25.0, mu=1.0, gtol=0,
    ...                             maxiter=400, record=True)
    >>> find_cycle(run, [3.3]).ravel() * 1225
    array([ 2592.,   792., -2208.])
    """
    check_callable("method", method)
    start = np.array(check_array("x0", x0), ndmin=1)
    max_period = check_count("max_period", max_period, at_least=2)
    tol = check_real("tol", tol, above=0)
    found = method(start.copy())
    points = np.asarray(getattr(found, "trajectory", found), dtype=np.float64)
    if points.shape[1:] != start.shape:
        raise ValueError(
            f"method must return points of shape (steps + 1, {', '.join(map(str, start.shape))}) "
            f"or a result with such a trajectory, got shape {points.shape}"
        )
    tail = points[-(len(points) // 4) :]
    if len(tail) < 2 * max_period:
        raise ValueError(
            f"method must return at least {8 * max_period} points for max_period={max_period}, "
            f"got {len(points)}"
        )
    if not np.isfinite(tail).all():
        return None
    for period in range(2, max_period + 1):
        cycle = tail[-period:]
        repeated = cycle[np.arange(-len(tail), 0) % period]
        if np.abs(tail - repeated).max() <= tol:
            if np.ptp(cycle, axis=0).max() <= WIDEST_POINT * tol:
                return None
            first = int(np.argmax(cycle.reshape(period, -1)[:, 0]))
            return np.roll(cycle, -first, axis=0)
    return None


def nesterov_lyapunov(
    fun: Callable[[Floats], Any],
    jac: Point,
    x: ArrayLike,
    v: ArrayLike,
    *,
    mu: float,
    s: float,
    x_star: ArrayLike,
    hessp: Product | None = None,
    A: float | None = None,
    B: float | None = None,
    C: float | None = None,
) -> tuple[Floats, Floats]:
    r"""Return the energy of Nesterov's equation along a path, and its derivative in time.

    .. math:: E = (1 + \sqrt{\mu s}) (f - f^*) + \tfrac14 |\dot X|^2
              + \tfrac14 |\dot X + 2 \sqrt\mu (X - x^*) + \sqrt s \nabla f|^2

    Along X'' + (2 sqrt(mu) + sqrt(s) hess f) X' + (1 + sqrt(mu s)) grad f = 0 it obeys
    E' <= -(sqrt(mu) / 4) E on every mu-strongly convex f with L s <= 1.

    Parameters
    ----------
    fun, jac, hessp : callable
        f, its gradient and Hessian times a vector (a central difference if None).
    x, v : array_like of shape (n, dim)
        Positions and velocities.
    mu, s : float
        Strong convexity and squared time of a step, > 0.
    x_star : array_like of shape (dim,)
        The minimiser.
    A, B, C : float, optional
        Coefficients of the equation that the path obeys, for the derivative; 2 sqrt(mu), sqrt(s)
        and 1 + sqrt(mu s) by default.

    Returns
    -------
    energy, slope : ndarray of shape (n,)
        E and E'.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or a function returns what is not finite.

    References
    ----------
    "Understanding the Acceleration Phenomenon via High-Resolution Differential Equations" (2018),
    arXiv 1810.08907.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.descent import inertial_ode
    >>> x, v = inertial_ode(lambda x: x, [1.0], np.linspace(0, 5, 50), A=2.0, B=0.5, C=1.5)
    >>> energy, slope = nesterov_lyapunov(lambda x: 0.5 * x @ x, lambda x: x, x, v, mu=1.0,
    ...                                   s=0.25, x_star=[0.0])
    >>> bool((slope <= -energy / 4).all())
    True
    """
    for name, function in (("fun", fun), ("jac", jac)):
        check_callable(name, function)
    check_callable("hessp", hessp, optional=True)
    x = check_array("x", x, ndim=2)
    v = check_array("v", v, shape=x.shape)
    mu, s = check_real("mu", mu, above=0), check_real("s", s, above=0)
    star = check_array("x_star", x_star, shape=x.shape[1:])
    root_mu, root_s = math.sqrt(mu), math.sqrt(s)
    force = 1 + root_mu * root_s
    A = 2 * root_mu if A is None else check_real("A", A)
    B = root_s if B is None else check_real("B", B)
    C = force if C is None else check_real("C", C)
    slope = reader("jac", jac, x.shape[1])
    product = hessian_product(slope, hessp, x.shape[1])
    lowest = float(fun(star.copy()))
    gap = np.array([float(fun(point.copy())) for point in x]) - lowest
    g = np.array([slope(point) for point in x])
    curved = np.array([product(point, move) for point, move in zip(x, v, strict=True)])
    mixed = v + 2 * root_mu * (x - star) + root_s * g
    energy = force * gap + 0.25 * np.sum(v * v, axis=1) + 0.25 * np.sum(mixed * mixed, axis=1)
    pull = -A * v - B * curved - C * g
    mixed_pull = pull + 2 * root_mu * v + root_s * curved
    change = (
        force * np.sum(g * v, axis=1)
        + 0.5 * np.sum(v * pull, axis=1)
        + 0.5 * np.sum(mixed * mixed_pull, axis=1)
    )
    if not (np.isfinite(energy).all() and np.isfinite(change).all()):
        raise ValueError(
            "fun, jac and hessp must be finite at x, x_star, got an energy that is not"
        )
    return energy, change
