"""What the cutting-plane methods share: the best point with its guarantee, and the set that is cut.

A convex f with subgradient g at c has no point below f(c) where g·(x - c) > 0, so that whatever was
cut away by such half-spaces cannot hold the minimum. While the minimum lies in a set S,
f(c) + min over S of g·(x - c) bounds it from below.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError, cholesky
from scipy.optimize import Bounds, linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection, QhullError

from thalweg._validation import check_array
from thalweg.descent._oracle import BreakdownError, Oracle, State
from thalweg.descent.random_walk import hit_and_run

Floats = NDArray[np.float64]

THINNEST = 1e-13
"""Inner radius, relative to the size of the coordinates, below which cuts are rounding."""


class Incumbent:
    """The best point so far and the largest lower bound of the minimum."""

    def __init__(self, x: Floats) -> None:
        self.x, self.fun, self.lower = x, math.inf, -math.inf
        self.jac: Floats | None = None

    @property
    def gap(self) -> float:
        """How far above the minimum the best value can be."""
        return self.fun - self.lower if math.isfinite(self.lower) else math.inf

    def query(self, oracle: Oracle, c: Floats, fun: float | None = None) -> tuple[float, Floats]:
        """Ask for value (unless it is known) and subgradient at c; keep c if it is better."""
        f = oracle.value(c) if fun is None else fun
        g = oracle.gradient(c)
        if f < self.fun:
            self.x, self.fun, self.jac = c.copy(), f, g
        return f, g

    def bound(self, f: float, width: float) -> None:
        """Note that the minimum is at least f - width."""
        self.lower = min(max(self.lower, f - width), self.fun)

    def state(self, *, trace: dict[str, Any] | None = None, **extra: Any) -> State:
        """Return the state of a run that stops by the gap."""
        return State(
            self.x,
            self.fun,
            self.jac,
            residual=self.gap,
            trace={"gap": self.gap} | (trace or {}),
            extra=extra,
        )


def read_box(method: str, bounds: Any, x0: ArrayLike | None) -> tuple[Floats, Floats]:
    """Return the corners of a bounded box, given as SciPy takes bounds."""
    if bounds is None:
        raise ValueError(f"bounds must be given, {method} starts from a box, got None")
    if isinstance(bounds, Bounds):
        n = max(np.size(bounds.lb), np.size(bounds.ub), 1 if x0 is None else np.size(x0))
        sides = [np.broadcast_to(np.asarray(side, float), (n,)) for side in (bounds.lb, bounds.ub)]
        pairs = check_array("bounds", np.column_stack(sides))
    else:
        pairs = check_array("bounds", bounds, shape=(None, 2))
    if not len(pairs) or (pairs[:, 0] >= pairs[:, 1]).any():
        raise ValueError(f"bounds must be pairs lo < hi, got {bounds!r}")
    if x0 is not None:
        check_array("x0", np.atleast_1d(np.asarray(x0)), shape=(len(pairs),))
    return pairs[:, 0].copy(), pairs[:, 1].copy()


class Body:
    """A polytope in coordinates u, x = origin + axes u, in which it stays round.

    Attributes
    ----------
    origin : ndarray, shape (n,)
    axes : ndarray, shape (n, n)
    scale : ndarray, shape (n,)
        Largest absolute values of the coordinates.
    rows, offsets : ndarray, shapes (m, n) and (m,)
        The polytope is ``rows @ u <= offsets``; rows have norm 1.
    log_volume : float
        Of the set in x when the centroid was last computed; NaN where it was not computed.
    """

    def __init__(self, lo: Floats, hi: Floats) -> None:
        n = len(lo)
        self.scale = np.maximum(np.abs(lo), np.abs(hi))
        self.origin, self.axes = (lo + hi) / 2, np.diag((hi - lo) / 2)
        self.rows, self.offsets = np.vstack([np.eye(n), -np.eye(n)]), np.ones(2 * n)
        self.log_volume = math.nan
        self._vertices: Floats | None = None

    def cut(self, g: Floats) -> None:
        """Keep g·(x - origin) <= 0."""
        row = self.axes.T @ g
        length = np.linalg.norm(row)
        if length > 0:
            self.rows = np.vstack([self.rows, row / length])
            self.offsets = np.append(self.offsets, 0.0)
        self._vertices = None

    def width(self, g: Floats) -> float:
        """Return the largest g·(origin - x)."""
        row = self.axes.T @ g
        if self._vertices is not None:
            return max(float(np.max(-self._vertices @ row)), 0.0)
        return reach(self.rows, self.offsets, row)

    def recentre_exactly(self) -> None:
        """Move the origin to the centroid, by a triangulation of the polytope."""
        inside = self._inner_point()
        if len(self.origin) == 1:
            ends = self.offsets / self.rows[:, 0]
            up = self.rows[:, 0] > 0
            vertices = np.array([[ends[~up].max()], [ends[up].min()]])
            simplices, keep = vertices[None], [int(np.flatnonzero(~up)[ends[~up].argmax()])]
            keep.append(int(np.flatnonzero(up)[ends[up].argmin()]))
        else:
            try:
                hull = HalfspaceIntersection(np.c_[self.rows, -self.offsets], inside)
                vertices = hull.intersections
                facets = _boundary(vertices)
            except QhullError as error:
                raise BreakdownError("the set is too thin for its centroid") from error
            tip = np.broadcast_to(vertices.mean(axis=0), (len(facets), 1, len(self.origin)))
            simplices, keep = np.concatenate([tip, facets], axis=1), hull.dual_vertices
        volume, centroid, covariance = simplex_moments(simplices)
        self.log_volume = math.log(volume) + float(np.linalg.slogdet(self.axes)[1])
        self.rows, self.offsets = self.rows[keep], self.offsets[keep]
        self._vertices = self._move(centroid, covariance, vertices)

    def recentre_by_sampling(self, n_samples: int, rng: np.random.Generator) -> None:
        """Move the origin to the mean of points of a random walk."""
        points = hit_and_run(
            self.rows, self.offsets, self._inner_point(), n_samples=n_samples, rng=rng
        )
        self._move(points.mean(axis=0), np.atleast_2d(np.cov(points.T)), points)

    def _inner_point(self) -> Floats:
        """Return the centre of the largest ball in u."""
        n = len(self.origin)
        found = linprog(
            np.r_[np.zeros(n), -1.0],
            A_ub=np.c_[self.rows, np.ones(len(self.rows))],
            b_ub=self.offsets,
            bounds=[(None, None)] * n + [(0, None)],
        )
        radius = -found.fun if found.status == 0 else 0.0
        thickness = np.linalg.svd(self.axes / self.scale[:, None], compute_uv=False)[-1]
        if not radius * thickness > THINNEST:
            raise BreakdownError("the set that holds the minimum is too thin to be cut again")
        return np.asarray(found.x[:n])

    def _move(self, centroid: Floats, covariance: Floats, points: Floats) -> Floats:
        """Take centroid and covariance as origin and unit; return the points there."""
        try:
            unit = cholesky(covariance, lower=True)
        except LinAlgError as error:
            raise BreakdownError("the set is too thin for its centroid") from error
        self.origin = self.origin + self.axes @ centroid
        self.axes = self.axes @ unit
        self.offsets = self.offsets - self.rows @ centroid
        self.rows = self.rows @ unit
        lengths = np.linalg.norm(self.rows, axis=1)
        self.rows /= lengths[:, None]
        self.offsets /= lengths
        moved: Floats = np.linalg.solve(unit, (points - centroid).T).T
        return moved


def _boundary(vertices: Floats) -> Floats:
    """Return the simplices of the convex hull's surface, shape (k, n, n)."""
    try:
        return np.asarray(vertices[ConvexHull(vertices).simplices])
    except QhullError:
        # Vertices that differ by rounding make facets that Qhull cannot join; joggling always ends.
        return np.asarray(vertices[ConvexHull(vertices, qhull_options="QJ").simplices])


def simplex_moments(simplices: Floats) -> tuple[float, Floats, Floats]:
    """Return volume, centroid and covariance of a union of simplices, shape (k, n + 1, n)."""
    n = simplices.shape[2]
    edges = simplices[:, 1:] - simplices[:, :1]
    volumes = np.abs(np.linalg.det(edges)) / math.factorial(n)
    total = float(volumes.sum())
    weights = volumes / total
    sums = simplices.sum(axis=1)
    centroid = weights @ sums / (n + 1)
    squares = np.einsum("k,kvi,kvj->ij", weights, simplices, simplices)
    squares += np.einsum("k,ki,kj->ij", weights, sums, sums)
    covariance = squares / ((n + 1) * (n + 2)) - np.outer(centroid, centroid)
    return total, centroid, covariance


def reach(rows: Floats, offsets: Floats, direction: Floats) -> float:
    """Return the largest -direction·u over rows u <= offsets; infinite if it cannot be found."""
    length = float(np.linalg.norm(direction))
    if length == 0:
        return 0.0
    found = linprog(direction / length, A_ub=rows, b_ub=offsets, bounds=(None, None))
    return max(-found.fun, 0.0) * length if found.status == 0 else math.inf
