"""Minimise a convex function of some tens of variables by cuts near the volumetric centre.

The centroid needs fewest queries but is hard to compute; the ellipsoid is easy but needs n times
as many. Vaidya's centre minimises the log-determinant of the log-barrier's Hessian: it is found by
a few Newton steps and cuts almost as well. Constraints that have lost their influence on it are
dropped, so that their number stays bounded.

Source: "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 2.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, solve_triangular
from scipy.optimize import OptimizeResult

from thalweg._validation import check_real
from thalweg.descent._cutting import Incumbent, reach, read_box
from thalweg.descent._oracle import BreakdownError, Oracle, State, check_unused, drive

Floats = NDArray[np.float64]

EPSILON = 0.05
DEPTH = 4.0
DECREMENT = 1e-6
STALLED = 1e-2
"""Newton decrement that is accepted where rounding hides further progress."""
ARMIJO = 0.25
NEWTON_STEPS = 500
SHORTEST = 1e-12
EPS = float(np.finfo(float).eps)


def vaidya(
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
    epsilon: float = EPSILON,
    depth: float = DEPTH,
    ftol: float = 1e-8,
    maxiter: int = 2000,
) -> OptimizeResult:
    r"""Minimise a convex function over a box by cuts near the volumetric centre of what is left.

    The centre of {Ax >= b} minimises

    .. math:: v(x) = \tfrac12 \log\det H(x), \qquad H = \sum_i a_i a_i^\top / s_i^2, \qquad
              s = Ax - b

    At the centre, if the least leverage :math:`\sigma_i = a_i \cdot H^{-1} a_i / s_i^2` is below
    epsilon, that constraint is dropped; else a subgradient is asked for and the half-space that it
    leaves is added, moved back so that :math:`c \cdot H^{-1} c / s^2` = depth for the new
    constraint c.

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
    epsilon : float, default 0.05
        In (0, 1/2); there are never more than n / epsilon + 1 constraints, or 2 n at the start.
    depth : float, default 4.0
        > 0; larger cuts nearer to the centre. The theory takes epsilon = 0.006 and
        depth = sqrt(epsilon) / 5, which is slower in practice.
    ftol : float, default 1e-8
        Stop when the best value is known to be this close to the minimum.
    maxiter : int, default 2000
        Largest number of queries.

    Returns
    -------
    OptimizeResult
        As of `gradient_descent`: ``x`` is the best point queried, ``fun`` and ``jac`` are the value
        and subgradient there, ``nit`` counts queries, ``gap`` bounds ``fun`` minus the minimum,
        ``n_constraints`` counts the rows of ``A`` (m, n) and ``b`` (m,), the last polytope
        Ax >= b. With `record` ``history`` has ``fun``, ``gap`` and ``n_constraints``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed or the box is not bounded.

    Notes
    -----
    Where a side of the box has been dropped and the centre lies beyond it, the side is added again
    in place of a cut by the function; that counts in ``nit``.

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 2.3.

    Examples
    --------
    >>> import numpy as np
    >>> target = np.array([1.0, -2.0])
    >>> result = vaidya(lambda x: np.abs(x - target).sum(),
    ...                 jac=lambda x: np.sign(x - target), bounds=[(-5, 5)] * 2)
    >>> result.x.round(6), bool(result.fun <= result.gap <= 1e-8)
    (array([ 1., -2.]), True)
    """
    check_unused("vaidya", hess=hess, hessp=hessp, constraints=constraints)
    lo, hi = read_box("vaidya", bounds, x0)
    epsilon = check_real("epsilon", epsilon, above=0, below=0.5)
    depth = check_real("depth", depth, above=0)
    oracle = Oracle(fun, (lo + hi) / 2, args, jac)
    n = len(lo)

    def states() -> Iterator[State]:
        centre = _centre(oracle.x0, np.vstack([np.eye(n), -np.eye(n)]), np.r_[hi - lo, hi - lo] / 2)
        best = Incumbent(centre.x)
        known: float | None = oracle.value(centre.x)
        yield State(centre.x, known, trace={"gap": math.inf, "n_constraints": 2 * n})
        while True:
            least = int(np.argmin(centre.leverages))
            if centre.leverages[least] < epsilon:
                kept = np.arange(len(centre.A)) != least
                centre = _centre(centre.x, centre.A[kept], centre.slacks[kept])
                continue
            kept_side = _side(centre.x, lo, hi)
            if kept_side is None:
                f, g = best.query(oracle, centre.x, known)
                known = None
                best.bound(f, centre.width(g))
                kept_side = -g / (np.linalg.norm(g) or 1.0)
            b = centre.A @ centre.x - centre.slacks
            yield best.state(trace={"n_constraints": len(centre.A)}, A=centre.A, b=b)
            slack = float(np.linalg.norm(centre.whiten(kept_side))) / math.sqrt(depth)
            centre = _centre(
                centre.x, np.vstack([centre.A, kept_side]), np.append(centre.slacks, slack)
            )

    return drive(
        oracle,
        states(),
        maxiter=maxiter,
        tol=ftol,
        tol_name="ftol",
        measure="the bound of the gap",
        callback=callback,
        record=record,
        final_jac=False,
    )


@dataclass
class _Centre:
    """A point of {Ax >= b} and the barrier's geometry there; slacks are Ax - b."""

    x: Floats
    A: Floats
    slacks: Floats

    def __post_init__(self) -> None:
        scaled = self.A / self.slacks[:, None]
        try:
            self.root = cholesky(scaled.T @ scaled, lower=True)
        except (LinAlgError, ValueError) as error:
            raise BreakdownError("the set is too thin to be cut again") from error
        self.rows = solve_triangular(self.root, scaled.T, lower=True).T
        self.leverages: Floats = np.einsum("ij,ij->i", self.rows, self.rows)
        self.barrier = float(np.log(np.diag(self.root)).sum())

    def whiten(self, g: Floats) -> Floats:
        """Return g in coordinates in which H is the identity."""
        whitened: Floats = solve_triangular(self.root, g, lower=True)
        return whitened

    def width(self, g: Floats) -> float:
        """Return the largest g·(x - y) over y in the set."""
        return reach(-self.rows, np.ones(len(self.rows)), self.whiten(g))


def _centre(x: Floats, A: Floats, slacks: Floats) -> _Centre:
    """Minimise the volumetric barrier by damped Newton steps with Q in place of its Hessian.

    Q = sum sigma_i a_i a_iᵀ / s_i² lies between a fifth of the Hessian and the Hessian.
    """
    here = _Centre(x, A, slacks)
    for _ in range(NEWTON_STEPS):
        # All in the whitened coordinates, in which rows are a_i / s_i.
        slope = -here.rows.T @ here.leverages
        Q = (here.rows * here.leverages[:, None]).T @ here.rows
        try:
            move = -cho_solve(cho_factor(Q), slope)
        except LinAlgError as error:
            raise BreakdownError("the set is too thin to be cut again") from error
        squared = max(-float(move @ slope), 0.0)
        if squared < DECREMENT**2:
            return here
        step, relative = 1.0, here.rows @ move
        along = solve_triangular(here.root, move, lower=True, trans="T")
        flat = 4 * EPS * (1 + abs(here.barrier))
        while True:
            if (1 + step * relative > 0).all():
                there = _Centre(here.x + step * along, A, here.slacks * (1 + step * relative))
                if there.barrier <= here.barrier - ARMIJO * step * squared + flat:
                    break
            step /= 2
            if step < SHORTEST:
                if squared < STALLED**2:
                    return here
                raise BreakdownError("the volumetric centre was not found")
        here = there
    if squared < STALLED**2:
        return here
    raise BreakdownError("the volumetric centre was not found")


def _side(x: Floats, lo: Floats, hi: Floats) -> Floats | None:
    """Return the inward normal of the side of the box that x violates most, None inside."""
    beyond = np.maximum(lo - x, x - hi)
    worst = int(np.argmax(beyond))
    if beyond[worst] <= 0:
        return None
    normal = np.zeros_like(x)
    normal[worst] = 1.0 if x[worst] < lo[worst] else -1.0
    return normal
