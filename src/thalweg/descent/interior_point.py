"""Minimise a linear cost over a set with a self-concordant barrier, by following its central path.

The minimiser of t c·x + F(x) tends to the optimum as t grows; each is a few Newton steps from the
one before, whatever the scaling of the problem.

- `LinearBarrier`: polytopes, Ax < b;
- `LogDetBarrier`: linear matrix inequalities, C - sum y_i A_i positive definite;
- any object with ``nu`` and ``oracle(x) -> (F, gradient, Hessian)``, F infinite outside.

Source: "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 5.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, solve_triangular
from scipy.optimize import OptimizeResult

from thalweg._validation import check_array, check_option, check_real
from thalweg.descent._oracle import BreakdownError, Oracle, State, drive
from thalweg.descent._polytopes import way_out

Floats = NDArray[np.float64]

FIRST_WEIGHT = 1e-3
SHORT = 13.0
"""The short steps multiply t by 1 + 1 / (13 sqrt(nu))."""
LONG = 10.0
NEAR = 0.25
"""Newton decrement up to which a full step is taken and short steps go on."""
CENTRED = 1e-5
ARMIJO = 0.25
SHORTEST = 1e-16
ASYMMETRY = 1e-10


class Barrier(Protocol):
    """What the path needs of a set.

    Attributes
    ----------
    nu : float
        Parameter of the barrier: g·H⁻¹g <= nu everywhere.
    """

    nu: float

    def oracle(self, x: Floats) -> tuple[float, Any, Any]:
        """Return F, its gradient and its Hessian; F is infinite outside, the rest then unused."""


class LinearBarrier:
    """F(x) = -sum log(b - Ax) of the bounded polytope Ax < b.

    Parameters
    ----------
    A : array_like, shape (m, n)
        Outward normals; without an end in some direction there is no central path.
    b : array_like, shape (m,)

    Attributes
    ----------
    nu : float
        m.

    Raises
    ------
    TypeError, ValueError
        If shapes disagree, entries are not finite or the polytope is not bounded.

    Examples
    --------
    >>> LinearBarrier([[1.0], [-1.0]], [1.0, 1.0]).oracle(np.array([0.0]))
    (0.0, array([0.]), array([[2.]]))
    """

    def __init__(self, A: ArrayLike, b: ArrayLike) -> None:
        self.A = check_array("A", A, ndim=2)
        self.b = check_array("b", b, shape=(len(self.A),))
        rank = int(np.linalg.matrix_rank(self.A)) if self.A.size else 0
        if not self.A.size or rank < self.A.shape[1]:
            raise ValueError(
                f"A must have as many independent rows as columns, got rank {rank} of shape "
                f"{self.A.shape}: the polytope is not bounded"
            )
        way = _end_missing(self.A)
        if way is not None:
            raise ValueError(
                f"Ax < b must be bounded, got a polytope without end along {way.tolist()}"
            )
        self.nu = float(len(self.b))
        self.shape = (self.A.shape[1],)

    def oracle(self, x: Floats) -> tuple[float, Floats, Floats]:
        """Return F, its gradient and its Hessian."""
        slacks = self.b - self.A @ x
        if not (slacks > 0).all():
            n = len(x)
            return math.inf, np.zeros(n), np.zeros((n, n))
        scaled = self.A / slacks[:, None]
        return 0.0 - float(np.log(slacks).sum()), scaled.sum(axis=0), scaled.T @ scaled


def _end_missing(A: Floats) -> Floats | None:
    """Return a direction without end; asked in coordinates in which A has orthonormal columns."""
    rows, root = np.linalg.qr(A)
    lengths = np.linalg.norm(rows, axis=1)
    way = way_out(rows[lengths > 0] / lengths[lengths > 0, None], A.shape[1])
    if way is None:
        return None
    way = solve_triangular(root, way)
    found: Floats = way / np.linalg.norm(way)
    return found


class LogDetBarrier:
    """F(y) = -log det(C - sum y_i A_i) of the linear matrix inequality C - sum y_i A_i > 0.

    Parameters
    ----------
    C : array_like, shape (p, p)
        Symmetric.
    matrices : array_like, shape (n, p, p)
        The symmetric A_i.

    Attributes
    ----------
    nu : float
        p.

    Raises
    ------
    TypeError, ValueError
        If shapes disagree, entries are not finite or a matrix is not symmetric.

    Examples
    --------
    >>> LogDetBarrier(np.eye(2), [np.diag([1.0, -1.0])]).oracle(np.array([0.0]))
    (0.0, array([0.]), array([[2.]]))
    """

    def __init__(self, C: ArrayLike, matrices: ArrayLike) -> None:
        self.C = check_array("C", C, ndim=2)
        p = len(self.C)
        check_array("C", self.C, shape=(p, p))
        self.matrices = check_array("matrices", matrices, shape=(None, p, p))
        for name, array in (("C", self.C), ("matrices", self.matrices)):
            if not array.size:
                raise ValueError(f"{name} must not be empty, got shape {array.shape}")
            off = np.abs(array - np.swapaxes(array, -1, -2)).max()
            if off > ASYMMETRY * np.abs(array).max():
                raise ValueError(f"{name} must be symmetric, got a difference of {off:g}")
        self.nu = float(p)
        self.shape = (len(self.matrices),)

    def oracle(self, x: Floats) -> tuple[float, Floats, Floats]:
        """Return F, its gradient and its Hessian."""
        n = len(x)
        try:
            root = cholesky(self.C - np.tensordot(x, self.matrices, axes=1), lower=True)
        except LinAlgError:
            return math.inf, np.zeros(n), np.zeros((n, n))
        inverse = solve_triangular(root, np.eye(len(root)), lower=True)
        scaled = inverse @ self.matrices @ inverse.T
        gradient = np.einsum("kii->k", scaled)
        flat = scaled.reshape(n, -1)
        return 0.0 - 2 * float(np.log(np.diag(root)).sum()), gradient, flat @ flat.T


def path_following(
    c: ArrayLike,
    barrier: Barrier,
    x0: ArrayLike,
    *,
    tol: float = 1e-8,
    mode: str = "long",
    maxiter: int = 5000,
    record: bool = False,
    callback: Callable[..., Any] | None = None,
) -> OptimizeResult:
    r"""Minimise c·x over a set given by a barrier F of parameter nu.

    .. math:: x(t) = \arg\min_x t \, c \cdot x + F(x), \qquad
              c \cdot x(t) - \min \le \nu / t

    Newton steps lead to the minimiser of F, then to x(t) for t = 0.001, and then along the path.

    Parameters
    ----------
    c : array_like, shape (n,)
        Cost.
    barrier : LinearBarrier, LogDetBarrier or an object with ``nu`` and ``oracle``
        The set, which must be bounded.
    x0 : array_like, shape (n,)
        Strictly inside the set.
    tol : float, default 1e-8
        Stop when the gap is this small.
    mode : {"long", "short"}, default "long"
        "long" multiplies t by 10 and takes Newton steps until the decrement is 1e-5; "short"
        multiplies it by 1 + 1 / (13 sqrt(nu)) and takes one, as the theorem does.
    maxiter : int, default 5000
        Largest number of Newton steps.
    record : bool, default False
        Whether ``history`` is kept.
    callback : callable, optional
        As in `gradient_descent`, after every Newton step.

    Returns
    -------
    OptimizeResult
        As of `gradient_descent`: ``fun`` is c·x, ``jac`` is c, ``nit`` counts Newton steps,
        ``nfev`` calls of the barrier; ``gap`` bounds ``fun`` minus the minimum, ``t`` is the weight
        of the cost (0 before the path begins), ``decrement`` the length of the Newton step in the
        norm of the Hessian. With `record` ``history`` has ``fun``, ``gap``, ``t`` and
        ``decrement``. ``success`` is False if the set of an own barrier or a `LogDetBarrier` is
        found to be unbounded, or rounding ends the path before the gap is small enough.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed or `x0` is not strictly inside.

    See Also
    --------
    rate : "path_following", counted from the first step with t > 0 and decrement <= 1/4.

    Notes
    -----
    nu / t bounds the gap on the path only. Beside it, at Newton decrement d < 1, the gap is at
    most (nu + d (sqrt(nu) + d) / (1 - d)) / t, which is what ``gap`` says; farther away it is
    infinite.

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 5.3.

    Examples
    --------
    >>> box = LinearBarrier([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], [1.0] * 4)
    >>> result = path_following([1.0, -2.0], box, [0.5, 0.5])
    >>> result.x.round(6), round(result.fun, 6), result.success
    (array([-1.,  1.]), -3.0, True)
    """
    cost = check_array("c", c, ndim=1)
    if not callable(getattr(barrier, "oracle", None)) or not hasattr(barrier, "nu"):
        raise TypeError(f"barrier must have oracle and nu, got {barrier!r}")
    shape = getattr(barrier, "shape", cost.shape)
    if cost.shape != shape:
        raise ValueError(f"c must have shape {shape}, that of the barrier, got {cost.shape}")
    nu = check_real("barrier.nu", barrier.nu, above=0)
    tol = check_real("tol", tol, above=0)
    short = check_option("mode", mode, ("long", "short")) == "short"
    start = check_array("x0", x0, shape=cost.shape)
    oracle = Oracle(lambda x: cost @ x, start, jac=lambda x: cost)
    path = _Path(oracle, barrier, cost, nu)
    here = barrier.oracle(start.copy())
    if here[0] == math.inf:
        raise ValueError(f"x0 must be strictly inside the set of the barrier, got {x0!r}")

    def states() -> Iterator[State]:
        point = path.point(start, here, 0.0)
        yield path.state(point)
        point = yield from path.centre(point, CENTRED)
        point = yield from path.centre(point.weighted(FIRST_WEIGHT), NEAR if short else CENTRED)
        growth = 1 + 1 / (SHORT * math.sqrt(nu)) if short else LONG
        while True:
            point = path.newton(point.weighted(growth * point.t))
            yield path.state(point)
            point = yield from path.centre(point, NEAR if short else CENTRED)

    result = drive(
        oracle,
        states(),
        maxiter=maxiter,
        tol=tol,
        tol_name="tol",
        measure="the bound of the gap",
        callback=callback,
        record=record,
    )
    result.nfev = result.njev = path.calls
    return result


class _Point:
    """A point, the barrier there, and the Newton step for t c·x + F(x)."""

    def __init__(self, x: Floats, F: float, g: Floats, H: Floats, t: float, cost: Floats) -> None:
        self.x, self.F, self.g, self.H, self.t, self.cost = x, F, g, H, t, cost
        try:
            factor = cho_factor(H)
        except LinAlgError as error:
            raise BreakdownError(
                "the Hessian of the barrier is not positive definite; the set may be unbounded"
            ) from error
        slope = t * cost + g
        self.move = -cho_solve(factor, slope)
        self.decrement = math.sqrt(max(-float(self.move @ slope), 0.0))

    def weighted(self, t: float) -> _Point:
        """Return the same point for another t."""
        return _Point(self.x, self.F, self.g, self.H, t, self.cost)


class _Path:
    """Newton's method for t c·x + F(x)."""

    def __init__(self, oracle: Oracle, barrier: Barrier, cost: Floats, nu: float) -> None:
        self.barrier, self.cost, self.nu = barrier, cost, nu
        self.calls = 1
        self._read = oracle.read

    def point(self, x: Floats, values: tuple[float, Any, Any], t: float) -> _Point:
        """Check what the barrier gave."""
        F, H = float(values[0]), np.array(values[2], dtype=np.float64)
        if H.shape != (len(x), len(x)):
            raise ValueError(f"barrier must return a Hessian of shape {len(x)}², got {H.shape}")
        if not (math.isfinite(F) and np.isfinite(H).all()):
            raise BreakdownError("barrier returned a value that is not finite")
        return _Point(x, F, self._read("barrier", values[1]), H, t, self.cost)

    def newton(self, point: _Point) -> _Point:
        """Take the full step where it is safe, else halve it until it is inside and descends."""
        step = 1.0
        before = point.t * float(self.cost @ point.x) + point.F
        while True:
            x = point.x + step * point.move
            values = self.barrier.oracle(x.copy())
            self.calls += 1
            if values[0] < math.inf:
                after = point.t * float(self.cost @ x) + values[0]
                enough = after <= before - ARMIJO * step * point.decrement**2
                if point.decrement <= NEAR or enough:
                    return self.point(x, values, point.t)
            step /= 2
            if step < SHORTEST:
                raise BreakdownError("no Newton step stays inside the set and descends")

    def centre(self, point: _Point, tolerance: float) -> Generator[State, None, _Point]:
        """Take Newton steps until the decrement is small, or rounding hides that it falls."""
        while point.decrement > tolerance:
            last, point = point, self.newton(point)
            yield self.state(point)
            if last.decrement <= NEAR and point.decrement > last.decrement / 2:
                break
        return point

    def state(self, point: _Point) -> State:
        """Return the point with its gap."""
        d, gap = point.decrement, math.inf
        if point.t > 0 and d < 1:
            gap = (self.nu + d * (math.sqrt(self.nu) + d) / (1 - d)) / point.t
        return State(
            point.x,
            float(self.cost @ point.x),
            self.cost.copy(),
            residual=gap,
            trace={"gap": gap, "t": point.t, "decrement": d},
        )
