"""The problem of entropic transport: marginals and costs, checked, and the plan at potentials."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from thalweg._validation import check_array
from thalweg.transport import _sinkhorn_kernels as kernels

Array = NDArray[np.float64]

NO_MASS = 1e-200  # share of the total below which a row or column counts as empty
MOST_E_FOLDS = 1e15  # largest cost over epsilon that leaves exponents a correct digit


class Input:
    """Checked marginals and costs, and the part of them that carries mass."""

    def __init__(self, a: ArrayLike, b: ArrayLike, C: ArrayLike) -> None:
        a = _masses("a", a)
        b = _masses("b", b)
        if not math.isclose(a.sum(), b.sum(), rel_tol=1e-8):
            raise ValueError(f"b must sum to {a.sum():.12g} like a, got {b.sum():.12g}")
        C = check_array("C", C, shape=(len(a), len(b)))
        self.rows, self.columns = a > NO_MASS * a.sum(), b > NO_MASS * b.sum()
        self.shape = C.shape
        self.a = a[self.rows]
        self.b = b[self.columns] * (a.sum() / b.sum())
        if not (self.rows.all() and self.columns.all()):
            C = C[np.ix_(self.rows, self.columns)]
        self.C = np.ascontiguousarray(C)

    def problem(self, epsilon: float) -> Problem:
        """Return the part that carries mass, at one epsilon."""
        least = max(self.C.max(), -self.C.min()) / MOST_E_FOLDS
        if epsilon < least:
            raise ValueError(f"epsilon must be >= {least:.3g} with these costs, got {epsilon!r}")
        return Problem(self.a, self.b, self.C, epsilon)

    def start(self, problem: Problem, f0: ArrayLike | None, g0: ArrayLike | None) -> Array:
        """Return the column potential that the first sweep starts from."""
        f = self._potential("f0", f0, self.rows)
        g = self._potential("g0", g0, self.columns)
        if g is not None:
            return g
        g = np.zeros(len(self.b))
        if f is not None:
            eps = problem.epsilon
            kernels.column_potentials(self.C, 1.0 / eps, f / eps, self.b, g)
            g *= eps
        return g

    @staticmethod
    def _potential(name: str, value: ArrayLike | None, carries: NDArray[np.bool_]) -> Array | None:
        if value is None:
            return None
        potential = check_array(name, value, shape=(len(carries),), finite=False)
        return check_array(name, potential[carries])


@dataclass(frozen=True)
class Problem:
    """Positive marginals `a`, `b` of equal sum, a cost matrix, and epsilon."""

    a: Array
    b: Array
    C: Array
    epsilon: float

    @property
    def mass(self) -> float:
        """Sum of `a`."""
        return float(self.a.sum())

    @property
    def floor(self) -> float:
        """Logarithm below which an entry of P changes no marginal by more than round-off."""
        least = min(self.a.min() / len(self.b), self.b.min() / len(self.a))
        return math.log(least) - 37.0

    def value(self, f: Array, g: Array, plan_mass: float) -> float:
        """Return F where P sums to `plan_mass`."""
        return float(self.a @ f + self.b @ g - self.epsilon * (plan_mass - self.mass))

    def at(self, f: Array, g: Array) -> Sums:
        """Return sums, error and F at (f, g)."""
        n, m = self.C.shape
        r, c = np.empty(n), np.empty(m)
        inverse = 1.0 / self.epsilon
        top = kernels.plan_sums(self.C, inverse, f * inverse, g * inverse, self.floor, r, c)
        error = float(np.abs(r - self.a).sum() + np.abs(c - self.b).sum()) / self.mass
        return Sums(f, g, error, self.value(f, g, float(r.sum())), r, c, top)

    def plan(self, f: Array, g: Array) -> Array:
        """Return P in full."""
        inverse = 1.0 / self.epsilon
        P = np.empty(self.C.shape)
        kernels.plan(self.C, inverse, f * inverse, g * inverse, P)
        return P

    def entries(self, f: Array, g: Array, threshold: float) -> csr_array:
        """Return the entries of P whose logarithm is at least `threshold`."""
        inverse = 1.0 / self.epsilon
        dtype = np.int32 if self.C.size < 2**31 else np.int64
        indptr = np.empty(len(f) + 1, dtype=dtype)
        kernels.count_kept(self.C, inverse, f * inverse, g * inverse, threshold, indptr)
        indices, data = np.empty(indptr[-1], dtype=dtype), np.empty(indptr[-1])
        kernels.fill_kept(self.C, inverse, f * inverse, g * inverse, threshold, indices, data)
        return csr_array((data, indices, indptr), shape=self.C.shape)


@dataclass(frozen=True)
class Point:
    """A pair of potentials, their error and their F."""

    f: Array
    g: Array
    error: float
    value: float


@dataclass(frozen=True)
class Sums(Point):
    """A point with what one pass over the costs tells of its plan: sums, log of the maximum."""

    r: Array
    c: Array
    log_max: float


def _masses(name: str, value: ArrayLike) -> Array:
    masses = check_array(name, value, ndim=1)
    if not len(masses) or masses.min() < 0:
        least = f"{masses.min():g}" if len(masses) else "no entry"
        raise ValueError(f"{name} must have entries, none negative; got {least}")
    if masses.sum() <= 0:
        raise ValueError(f"{name} must have a positive sum, got 0")
    return masses
