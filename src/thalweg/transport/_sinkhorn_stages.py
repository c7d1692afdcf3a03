"""The two stages of entropic transport: scaling sweeps, and Newton steps with a sparse Hessian.

Both climb the same concave potential F(f, g) = a.f + b.g - eps sum P + eps sum a, with
P_ij = exp((f_i + g_j - C_ij) / eps). Sweeps maximise over f, then over g; a Newton step moves both,
with the entries of P that couple them thinned out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, cg

from thalweg.transport import _sinkhorn_kernels as kernels
from thalweg.transport._sinkhorn_problem import Array, Point, Problem, Sums

ARMIJO = 1e-4
HALVINGS = 40
CG_STEPS = 1000
SHIFT = 1e-13  # keeps the system definite where the plan falls apart into blocks
RAISE = 100.0  # e-folds that a step may add to a sum that has nearly vanished
ROUND_OFF = 1e-13  # of F, relative to its terms
STRIDE = 100.0  # e-folds that one step may raise an entry of P


@dataclass
class Progress:
    """What has been done so far, and who wants to hear of it."""

    callback: Callable[[OptimizeResult], Any] | None = None
    history: list[float] = field(default_factory=list)
    n_sweeps: int = 0
    n_newton: int = 0
    n_cg: int = 0
    kept: float = 0.0

    @property
    def error(self) -> float:
        """Error after the last sweep or step."""
        return self.history[-1] if self.history else math.inf

    def report(self, problem: Problem, point: Point, stage: str) -> None:
        """Call the callback."""
        if self.callback is not None:
            self.callback(
                OptimizeResult(
                    f=point.f,
                    g=point.g,
                    value=point.value,
                    epsilon=problem.epsilon,
                    marginal_error=point.error,
                    nit=len(self.history),
                    stage=stage,
                )
            )


class Sweeps:
    """Sinkhorn's sweeps from a column potential on, at the cost of two products each.

    The plan is held as diag(u) K diag(v) with K = exp((f + g - C) / eps); where u or v would leave
    the range of floating point they are absorbed into f and g, by one sweep in the logarithms.
    """

    def __init__(self, problem: Problem, g: Array, progress: Progress) -> None:
        self.problem = problem
        self.progress = progress
        self._inverse = 1.0 / problem.epsilon
        self._f = np.empty(len(problem.a))
        self._g = g * self._inverse
        self._u = np.ones(len(problem.a))
        self._v = np.ones(len(problem.b))
        self._K: Array | None = None

    def run(self, count: int) -> None:
        """Do `count` sweeps."""
        problem = self.problem
        errors = np.empty(count)
        done = 0
        while done < count:
            if self._K is None:
                errors[done] = self._absorb()
                done += 1
                continue
            completed = kernels.scaling_sweeps(
                self._K, problem.a, problem.b, self._u, self._v, errors[done:]
            )
            done += completed
            if done < count:
                self._K = None
        self.progress.history.extend(errors / problem.mass)
        self.progress.n_sweeps += count
        if self.progress.callback is not None:
            self.progress.report(problem, self.point(), "sinkhorn")

    def point(self) -> Point:
        """Return where the sweeps have come to."""
        problem = self.problem
        f = problem.epsilon * (self._f + np.log(self._u))
        g = problem.epsilon * (self._g + np.log(self._v))
        return Point(f, g, self.progress.error, problem.value(f, g, problem.mass))

    def _absorb(self) -> float:
        """Do one sweep in the logarithms; returns the L1 error of the rows."""
        a, b, C = self.problem.a, self.problem.b, self.problem.C
        columns = np.empty(len(b))
        self._K = np.empty(C.shape)
        self._g += np.log(self._v)
        self._u[:], self._v[:] = 1.0, 1.0
        kernels.row_scaled_plan(C, self._inverse, self._g, a, self._f, self._K, columns)
        limit = kernels.SCALING_LIMIT
        if (columns * limit > b).all() and (columns < limit * b).all():
            self._v = b / columns
        else:
            kernels.column_scaled_plan(C, self._inverse, self._f, b, self._g, self._K)
        return float(kernels.row_error(self._K, a, self._u, self._v))


def remaining_sweeps(history: list[float], tol: float) -> float:
    """Return how many more sweeps the last five errors foretell until `tol`; inf if they stall."""
    if history[-1] <= tol:
        return 0.0
    last = history[-5:]
    if len(last) < 2 or last[-1] >= last[0]:
        return math.inf
    return math.log(tol / last[-1]) * (len(last) - 1) / math.log(last[-1] / last[0])


def newton(
    point: Point,
    problem: Problem,
    *,
    tol: float,
    max_newton: int,
    density: float | None,
    drop_tol: float,
    progress: Progress,
) -> tuple[Point, bool]:
    """Take Newton steps until `tol`; returns the last point and whether a step found no increase.

    `max_newton` bounds the steps of all calls that share `progress`.
    """
    if point.error <= tol or progress.n_newton >= max_newton:
        return point, False
    point = problem.at(point.f, point.g)
    while point.error > tol and progress.n_newton < max_newton:
        kept = kept_entries(point, problem, density, drop_tol)
        direction = newton_direction(point, problem, kept, progress)
        better = None if direction is None else line_search(point, problem, *direction)
        if better is None:
            return point, True
        point = better
        progress.kept = kept.nnz / problem.C.size
        progress.n_newton += 1
        progress.history.append(point.error)
        progress.report(problem, point, "newton")
    return point, False


def kept_entries(
    point: Sums, problem: Problem, density: float | None, drop_tol: float
) -> csr_array:
    """Return the off-diagonal block of the Hessian: the entries of P that are not thinned out."""
    threshold = problem.floor
    if density is None:
        if drop_tol > 0:
            threshold = max(threshold, point.log_max + math.log(drop_tol))
        return problem.entries(point.f, point.g, threshold)
    P = problem.entries(point.f, point.g, threshold)
    count = max(1, round(density * problem.C.size))
    if P.nnz <= count:
        return P
    largest = np.sort(np.argpartition(P.data, P.nnz - count)[P.nnz - count :])
    indptr = np.searchsorted(largest, P.indptr)
    return csr_array((P.data[largest], P.indices[largest], indptr), shape=P.shape)


def newton_direction(
    point: Sums, problem: Problem, kept: csr_array, progress: Progress
) -> tuple[Array, Array] | None:
    """Solve the thinned Newton system; None where that overflows.

    With r, c the sums of P and B = diag(r)^-1/2 P~ diag(c)^-1/2, elimination of the column part
    leaves (I - B B' + w w') u = (a - r) / sqrt r - B (b - c) / sqrt c, where w along sqrt r holds
    the constant that f and g may exchange.
    Sums far below their marginal are raised in the diagonal, which keeps the direction uphill.
    """
    a, b, eps = problem.a, problem.b, problem.epsilon
    root_r, root_c = (
        np.sqrt(np.maximum(point.r, a / RAISE)),
        np.sqrt(np.maximum(point.c, b / RAISE)),
    )
    rows = np.repeat(root_r, np.diff(kept.indptr))
    B = csr_array(
        (kept.data / (rows * root_c[kept.indices]), kept.indices, kept.indptr), kept.shape
    )
    Bt = B.T
    w = root_r / np.linalg.norm(root_r)
    right = (b - point.c) / root_c
    system = LinearOperator(
        (len(a), len(a)),
        matvec=lambda u: (1 + SHIFT) * u - B @ (Bt @ u) + w * (w @ u),
        dtype=np.float64,
    )

    def count(_: Array) -> None:
        progress.n_cg += 1

    accuracy = 1e-2 * min(0.1, math.sqrt(point.error))
    u, _ = cg(
        system,
        (a - point.r) / root_r - B @ right,
        rtol=accuracy,
        atol=0.0,
        maxiter=CG_STEPS,
        callback=count,
    )
    if not np.isfinite(u).all():
        return None
    return eps * u / root_r, eps * (right - Bt @ u) / root_c


def line_search(point: Sums, problem: Problem, df: Array, dg: Array) -> Sums | None:
    """Halve the step until F gains enough (Armijo); None where no step does.

    Where the gain is below the round-off of F, the slope at the new point decides: on a nearly
    quadratic stretch it is at least -(1 - 2 ARMIJO) times the old one if and only if Armijo holds.
    The error must then fall too, so that steps inside round-off end.
    """
    a, b = problem.a, problem.b
    slope = (a - point.r) @ df + (b - point.c) @ dg
    if not (math.isfinite(slope) and slope > 0):
        return None
    scale = np.abs(a * point.f).sum() + np.abs(b * point.g).sum() + problem.epsilon * problem.mass
    rise = (df.max() + dg.max()) / problem.epsilon
    step = min(1.0, STRIDE / rise) if rise > 0 else 1.0
    for _ in range(HALVINGS):
        trial = problem.at(point.f + step * df, point.g + step * dg)
        gain = trial.value - point.value
        if gain >= ARMIJO * step * slope and gain > ROUND_OFF * scale:
            return trial
        if abs(gain) <= ROUND_OFF * scale:
            new_slope = (a - trial.r) @ df + (b - trial.c) @ dg
            if new_slope >= -(1 - 2 * ARMIJO) * slope and trial.error < point.error:
                return trial
        step /= 2
    return None
