"""Minimise a convex function of few variables by cutting away where the minimum cannot be.

Nothing is asked of the function but values and subgradients: no smoothness, no step length. Each
query halves, roughly, the set that is left, and what is left bounds the error.

- `centre_of_gravity`: fewest queries, by the centroid of the set; costly beyond 7 dimensions;
- `ellipsoid`: cheapest steps, most queries; sets that are only known by a separating vector;
- `vaidya`, in `thalweg.descent.volumetric_cuts`: between the two.

Source: "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, sections 2.1
and 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_count, check_option, check_real
from thalweg.descent._cutting import Body, Incumbent, read_box
from thalweg.descent._oracle import (
    BreakdownError,
    Oracle,
    State,
    check_callable,
    check_unused,
    drive,
)

Floats = NDArray[np.float64]

EXACT_DIMENSIONS = 7
"""Most dimensions for which the centroid is computed by triangulation."""
SAMPLES = 200
"""Points of the random walk, times the dimension."""


def centre_of_gravity(
    fun: Callable[..., Any],
    x0: ArrayLike | None = None,
    args: Any = (),
    *,
    jac: Any = None,
    callback: Callable[..., Any] | None = None,
    record: bool = False,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    centre: str = "exact",
    n_samples: int | None = None,
    ftol: float = 1e-8,
    maxiter: int = 200,
    rng: int | np.random.Generator | None = None,
) -> OptimizeResult:
    r"""Minimise a convex function over a box by cuts through the centroid of what is left.

    .. math:: S_{t+1} = S_t \cap \{x : g_t \cdot (x - c_t) \le 0\}, \qquad
              c_t = \int_{S_t} x \, dx \,/\, \mathrm{vol}(S_t)

    Each cut leaves at most 1 - 1/e of the volume.

    Parameters
    ----------
    fun, args, callback, record, hess, hessp, constraints
        As in `gradient_descent`.
    x0 : array_like, shape (n,), optional
        Only its shape counts: the first query is at the centre of the box.
    jac : callable, True or None
        A subgradient, as in `gradient_descent`.
    bounds : sequence of (lo, hi) or scipy.optimize.Bounds
        The box, finite.
    centre : {"exact", "hit-and-run"}, default "exact"
        The centroid by a triangulation, up to 7 dimensions, or as the mean of a random walk.
    n_samples : int, optional
        Points of the random walk, 200 n by default.
    ftol : float, default 1e-8
        Stop when the best value is known to be this close to the minimum.
    maxiter : int, default 200
        Largest number of queries.
    rng : None, int or numpy.random.Generator, optional
        For the random walk.

    Returns
    -------
    OptimizeResult
        As of `gradient_descent`: ``x`` is the best point queried, ``fun`` and ``jac`` are the value
        and subgradient there, ``nit`` counts queries, ``gap`` bounds ``fun`` minus the minimum.
        With `record` ``history`` has ``fun``, ``gap`` and, for the exact centroid, ``log_volume``
        of the set that the latest query was the centroid of. ``success`` is False if the set gets
        too thin to be cut before the gap is small enough.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, the box is not bounded, or n > 7 for the exact centroid.

    See Also
    --------
    rate : "centre_of_gravity".

    Notes
    -----
    The set is kept in coordinates in which its covariance is the identity, so that thin sets do
    no harm.

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> target = np.array([1.0, -2.0])
    >>> result = centre_of_gravity(lambda x: np.abs(x - target).sum(),
    ...                            jac=lambda x: np.sign(x - target), bounds=[(-5, 5)] * 2)
    >>> result.x.round(6), bool(result.fun <= result.gap <= 1e-8)
    (array([ 1., -2.]), True)
    """
    check_unused("centre_of_gravity", hess=hess, hessp=hessp, constraints=constraints)
    lo, hi = read_box("centre_of_gravity", bounds, x0)
    n = len(lo)
    exact = check_option("centre", centre, ("exact", "hit-and-run")) == "exact"
    if exact and n > EXACT_DIMENSIONS:
        raise ValueError(
            f"centre must be 'hit-and-run' beyond {EXACT_DIMENSIONS} dimensions, "
            f"got {centre!r} for {n}"
        )
    samples = SAMPLES * n if n_samples is None else check_count("n_samples", n_samples)
    if samples <= n:
        raise ValueError(f"n_samples must be > {n}, the dimension, got {n_samples!r}")
    generator = np.random.default_rng(rng)
    oracle = Oracle(fun, (lo + hi) / 2, args, jac)

    def recentre(body: Body) -> dict[str, float]:
        if exact:
            body.recentre_exactly()
            return {"log_volume": body.log_volume}
        body.recentre_by_sampling(samples, generator)
        return {}

    def states() -> Iterator[State]:
        body = Body(lo, hi)
        trace = recentre(body)
        known: float | None = oracle.value(body.origin)
        best = Incumbent(body.origin)
        yield State(body.origin, known, trace={"gap": math.inf, **trace})
        while True:
            f, g = best.query(oracle, body.origin, known)
            known = None
            best.bound(f, body.width(g))
            yield best.state(trace=trace)
            body.cut(g)
            trace = recentre(body)

    return _finish(oracle, states(), ftol, maxiter, callback, record)


def ellipsoid(
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
    radius: float,
    feasible: Callable[[Floats], Any] | None = None,
    ftol: float = 1e-8,
    maxiter: int = 10_000,
) -> OptimizeResult:
    r"""Minimise a convex function by ellipsoids around the half of an ellipsoid that is left.

    .. math:: g = \frac{H w}{\sqrt{w \cdot H w}}, \qquad c \leftarrow c - \frac{g}{n+1}, \qquad
              H \leftarrow \frac{n^2}{n^2-1} \Bigl(H - \frac{2}{n+1} g g^\top\Bigr)

    where w is a subgradient at c or, where c is not feasible, a vector that separates it. In one
    dimension this is bisection.

    Parameters
    ----------
    fun, args, callback, record, hess, hessp, bounds, constraints
        As in `gradient_descent`.
    x0 : array_like, shape (n,)
        Centre of a ball that contains the minimiser.
    jac : callable, True or None
        A subgradient, as in `gradient_descent`.
    radius : float
        Of the ball, > 0.
    feasible : callable, optional
        ``feasible(x)`` returns None where x is in the set, else a vector w with w·(y - x) <= 0 for
        all y of the set. The whole space by default.
    ftol : float, default 1e-8
        Stop when the best value is known to be this close to the minimum.
    maxiter : int, default 10000
        Largest number of queries, of the function or of `feasible`'s vectors.

    Returns
    -------
    OptimizeResult
        As of `gradient_descent`: ``x`` is the best feasible point queried, ``fun`` and ``jac`` are
        the value and subgradient there (infinite and None if there was none), ``nit`` counts
        queries, ``gap`` bounds ``fun`` minus the minimum; ``centre`` (n,) and ``matrix`` (n, n)
        describe the last ellipsoid (x - centre)·matrix⁻¹(x - centre) <= 1. With `record`
        ``history`` has ``fun`` and ``gap``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    See Also
    --------
    rate : "ellipsoid".

    Notes
    -----
    sqrt(w·Hw) bounds the gap at c. The run stops by the best value minus the largest lower bound
    seen, which is never later.

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> target = np.array([1.0, -2.0])
    >>> result = ellipsoid(lambda x: np.abs(x - target).sum(), [0.0, 0.0],
    ...                    jac=lambda x: np.sign(x - target), radius=5.0)
    >>> result.x.round(6), bool(result.fun <= result.gap <= 1e-8)
    (array([ 1., -2.]), True)
    """
    check_unused("ellipsoid", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints)
    check_callable("feasible", feasible, optional=True)
    radius = check_real("radius", radius, above=0)
    oracle = Oracle(fun, x0, args, jac)
    if oracle.x0.ndim != 1:
        raise ValueError(f"x0 must have 1 axes, got shape {oracle.x0.shape}")
    n = oracle.x0.size

    def separate(c: Floats) -> Floats | None:
        vector = None if feasible is None else feasible(c.copy())
        if vector is None:
            return None
        vector = oracle.read("feasible", vector)
        if not vector.any():
            raise BreakdownError("feasible returned zeros, which separate nothing")
        return vector

    def states() -> Iterator[State]:
        c, H = oracle.x0, radius**2 * np.eye(n)
        best = Incumbent(c)
        w = separate(c)
        known: float | None = oracle.value(c) if w is None else math.inf
        yield State(c, known, trace={"gap": math.inf}, extra={"centre": c, "matrix": H})
        while True:
            if w is None:
                f, w = best.query(oracle, c, known)
                width = _semi_axis(H, w)
                best.bound(f, width)
            else:
                width = _semi_axis(H, w)
            if width > 0:
                c, H = _smaller(c, H, w, width)
            yield best.state(centre=c, matrix=H)
            if width <= 0:
                raise BreakdownError("the ellipsoid became flat; the set may be empty")
            w, known = separate(c), None

    return _finish(oracle, states(), ftol, maxiter, callback, record)


def _semi_axis(H: Floats, w: Floats) -> float:
    """Return the largest w·(x - c) over the ellipsoid."""
    return math.sqrt(max(float(w @ H @ w), 0.0))


def _smaller(c: Floats, H: Floats, w: Floats, width: float) -> tuple[Floats, Floats]:
    """Return the smallest ellipsoid around the half where w·(x - c) <= 0."""
    n = len(c)
    g = H @ w / width
    if n == 1:
        return c - g / 2, H / 4
    H = n**2 / (n**2 - 1) * (H - 2 / (n + 1) * np.outer(g, g))
    return c - g / (n + 1), (H + H.T) / 2


def _finish(
    oracle: Oracle,
    states: Iterator[State],
    ftol: float,
    maxiter: int,
    callback: Any,
    record: bool,
) -> OptimizeResult:
    return drive(
        oracle,
        states,
        maxiter=maxiter,
        tol=ftol,
        tol_name="ftol",
        measure="the bound of the gap",
        callback=callback,
        record=record,
        final_jac=False,
    )
