"""What a pairwise factorisation works on.

`Columns` holds a matrix whose columns are made orthogonal (one-sided), `Gram` a symmetric matrix
that is made diagonal (two-sided). Both know how to visit the pairs of a sweep and how far they have
come.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import lapack, qr, solve_triangular

from thalweg._validation import check_array, check_option
from thalweg.linalg import _jacobi_kernels as kernels

Floats = NDArray[np.float64]
Pairs = NDArray[np.int64]
Draw = Callable[[], Pairs | None]
Kind = str | Callable[[float, float, float], ArrayLike]

KINDS = {
    "jacobi": kernels.JACOBI,
    "triangular": kernels.TRIANGULAR,
    "symmetric": kernels.SYMMETRIC,
}
EPS = float(np.finfo(float).eps)
LEAST_TOLERANCE = 10.0  # in units of rounding: what rounding leaves in the cosine of two columns
LEFT_OVER = 1e-8  # cosine that a user's own 2 x 2 matrix may leave
COLUMN_EXPONENT = 480  # largest entry near 2^480: squares of tiny columns still count
PAIRS_PER_TASK = 64


class Columns:
    """Columns on their way to becoming orthogonal.

    ``rows`` holds them, one a row, times a power of two; ``acc`` the transposed product of all
    2 x 2 matrices, or with `inverse` (triangular steps) the inverse of their product.
    """

    definite = True

    def __init__(self, a: Floats, kind: Kind, inverse: bool = False) -> None:
        norms = np.abs(a).max(axis=0)
        if np.any(norms == 0):
            column = int(np.flatnonzero(norms == 0)[0])
            raise ValueError(f"a must have full column rank, got zeros in column {column}")
        self.kind, self.inverse = kind, inverse
        self.exponent = 0 if callable(kind) else COLUMN_EXPONENT - math.frexp(norms.max())[1]
        self.rows = np.ascontiguousarray(np.ldexp(a.T, self.exponent))
        self.squares = np.einsum("ij,ij->i", self.rows, self.rows)
        self.n, m = self.rows.shape
        self.acc = np.eye(self.n)
        self.default_tol = EPS * max(self.n, math.sqrt(m), LEAST_TOLERANCE)
        self._require_positive()
        self.start = self.potential()
        if not self.start < (self.n * EPS) ** -2:
            raise ValueError(
                "a must have full column rank, got columns that depend on each other to rounding"
            )

    def sweep(self, draw: Draw, executor: Executor | None, tol: float) -> int:
        """Visit as many pairs as there are; return how many it was."""
        sound, steps = True, self.n * (self.n - 1) // 2
        pairs = draw()
        if pairs is None:
            g = self.rows @ self.rows.T
            if callable(self.kind):
                steps = self._greedy_by_hand(g, steps, tol)
            else:
                steps, sound = kernels.greedy_columns(
                    self.rows, self.acc, self.squares, g, steps, *self._kernel_kind, tol
                )
        elif callable(self.kind):
            for i, j in pairs:
                self._step_by_hand(i, j)
        elif executor is not None:
            sound = self._matchings(pairs, executor)
        else:
            sound = kernels.columns_block(
                self.rows, self.acc, self.squares, pairs, *self._kernel_kind
            )
        if not sound:
            self._require_positive()
        return steps

    def off_diagonal(self) -> float:
        """Return the largest cosine between two columns."""
        unit = self._unit()
        cosines = np.abs(unit @ unit.T)
        np.fill_diagonal(cosines, 0.0)
        return float(cosines.max())

    def potential(self) -> float:
        """Return the potential of the Gram matrix, from the columns' own triangular factor."""
        unit = self._unit()
        (factor,) = qr(unit.T, mode="r", check_finite=False)
        factor = factor[: self.n]
        if np.any(np.diagonal(factor) == 0):
            return math.inf
        deviation = unit @ unit.T
        np.fill_diagonal(deviation, 0.0)
        solved = solve_triangular(factor, deviation, trans="T", check_finite=False)
        return float(np.sum(solved**2))

    def condition(self) -> float:
        """Return the condition number of the scaled Gram matrix."""
        values = np.linalg.svd(self._unit(), compute_uv=False)
        return float((values[0] / values[-1]) ** 2)

    def factors(self) -> tuple[Floats, Floats, Floats]:
        """Return basis, transform and the squared norms of the basis, in the user's scale."""
        norms = np.sqrt(self.squares)
        if self.kind == "symmetric":
            transform = np.ldexp(self.acc / norms[:, None], self.exponent)
            return (self.rows / norms[:, None]).T, transform.T, np.ones(self.n)
        return np.ldexp(self.rows, -self.exponent).T, self.acc.T, self.norms() ** 2

    def norms(self) -> Floats:
        """Return the norms of the columns in the user's scale."""
        return np.ldexp(np.sqrt(self.squares), -self.exponent)

    @property
    def _kernel_kind(self) -> tuple[int, bool, float]:
        return KINDS[self.kind], self.inverse, EPS  # type: ignore[index]

    def _unit(self) -> Floats:
        return self.rows / np.sqrt(self.squares)[:, None]

    def _require_positive(self) -> None:
        sound = np.isfinite(self.squares) & (self.squares > 0)
        if not sound.all():
            column = int(np.flatnonzero(~sound)[0])
            raise ValueError(
                f"a must have full column rank, got a squared norm of {self.squares[column]:g} "
                f"in column {column}"
            )

    def _step_by_hand(self, i: int, j: int) -> None:
        gii, gjj = self.squares[i], self.squares[j]
        gij = kernels.inner(self.rows[i], self.rows[j])
        if abs(gij) > EPS * math.sqrt(gii) * math.sqrt(gjj):
            s = own_transformation(self.kind, gii, gij, gjj)
            kernels.apply_to_columns(
                self.rows, self.acc, self.squares, i, j, *s.ravel(), self.inverse
            )

    def _greedy_by_hand(self, g: Floats, steps: int, tol: float) -> int:
        for step in range(steps):
            size, i, j = kernels.largest_pair(g, True)
            if size <= tol:
                return step
            self._step_by_hand(i, j)
            for k in (i, j):
                kernels.update_gram(g, self.rows, k)
        return steps

    def _matchings(self, pairs: Pairs, executor: Executor) -> bool:
        """Do the disjoint pairs of each matching at once."""
        sound = True
        for matching in pairs.reshape(-1, max(self.n // 2, 1), 2):
            tasks = [
                matching[k : k + PAIRS_PER_TASK] for k in range(0, len(matching), PAIRS_PER_TASK)
            ]
            chosen = [task.ravel() for task in tasks]
            work = (
                (self.rows[c], self.acc[c], self.squares[c], *self._kernel_kind) for c in chosen
            )
            done = [executor.submit(run_disjoint, *arguments) for arguments in work]
            for c, future in zip(chosen, done, strict=True):
                self.rows[c], self.acc[c], self.squares[c], fine = future.result()
                sound &= fine
        return sound


class Gram:
    """A symmetric matrix on its way to becoming diagonal.

    ``g`` is it times a power of two; ``acc`` the transposed product of all 2 x 2 matrices, or with
    `inverse` (triangular steps) the inverse of their product.
    """

    def __init__(
        self,
        g: Floats,
        kind: Kind,
        inverse: bool = False,
        definite: bool = True,
        name: str = "g",
    ) -> None:
        self.kind, self.inverse, self.definite, self.name = kind, inverse, definite, name
        self.original = g
        self.n = len(g)
        largest = np.abs(g).max()
        self.exponent = 0 if callable(kind) or largest == 0 else -math.frexp(largest)[1]
        self.g = np.ldexp(g, self.exponent)
        self.norm = float(np.linalg.norm(self.g)) or 1.0
        self.acc = np.eye(self.n)
        self.default_tol = EPS * max(self.n, LEAST_TOLERANCE)
        if definite:
            self._scaled_factor()
        self.start = self.potential()

    def sweep(self, draw: Draw, executor: Executor | None, tol: float) -> int:
        """Visit as many pairs as there are; return how many it was."""
        sound, steps = True, self.n * (self.n - 1) // 2
        pairs = draw()
        if pairs is None:
            least = tol if self.definite else tol * self.norm / self.n
            if callable(self.kind):
                steps = self._greedy_by_hand(steps, least)
            else:
                steps, sound = kernels.greedy_gram(
                    self.g, self.acc, steps, *self._kernel_kind, least
                )
        elif callable(self.kind):
            for i, j in pairs:
                self._step_by_hand(i, j)
        else:
            sound = kernels.gram_block(self.g, self.acc, pairs, *self._kernel_kind)
        if not sound or (self.definite and not np.all(np.diagonal(self.g) > 0)):
            self._leave_definite()
        return steps

    def off_diagonal(self) -> float:
        """Return the largest scaled entry off the diagonal, or their share of the norm."""
        if not self.definite:
            return self._off_norm() / self.norm
        deviation = np.abs(self._unit())
        np.fill_diagonal(deviation, 0.0)
        return float(deviation.max())

    def potential(self) -> float:
        """Return the potential, or the squared share of the norm that is off the diagonal."""
        if not self.definite:
            return (self._off_norm() / self.norm) ** 2
        try:
            factor = self._scaled_factor()
        except np.linalg.LinAlgError:
            return math.inf
        deviation = self._unit()
        np.fill_diagonal(deviation, 0.0)
        solved = solve_triangular(factor, deviation, lower=True, check_finite=False)
        return float(np.sum(solved**2))

    def condition(self) -> float:
        """Return the condition number of the scaled matrix, NaN where there is none."""
        if not self.definite:
            return math.nan
        values = np.linalg.eigvalsh(self._unit())
        return float(values[-1] / values[0])

    def factors(self) -> tuple[Floats, Floats, Floats]:
        """Return basis, transform and the diagonal that was reached, in the user's scale."""
        transform, diag = self.acc.T, self.diagonal()
        if self.kind == "symmetric":
            transform = transform / np.sqrt(diag)
            diag = np.ones(self.n)
        return self.original @ transform, transform, diag

    def diagonal(self) -> Floats:
        """Return the diagonal in the user's scale."""
        return np.ldexp(np.diagonal(self.g), -self.exponent)

    @property
    def _kernel_kind(self) -> tuple[int, bool, float, float, bool]:
        floor = 0.0 if self.definite else EPS * self.norm
        return KINDS[self.kind], self.inverse, EPS, floor, self.definite  # type: ignore[index]

    def _off_norm(self) -> float:
        off = self.g.copy()
        np.fill_diagonal(off, 0.0)
        return float(np.linalg.norm(off))

    def _unit(self) -> Floats:
        root = np.sqrt(np.diagonal(self.g))
        return self.g / root / root[:, None]

    def _scaled_factor(self) -> Floats:
        diagonal = np.diagonal(self.g)
        pivot = -1
        if not np.all(diagonal > 0):
            pivot = int(np.flatnonzero(~(diagonal > 0))[0])
        else:
            factor, info = lapack.dpotrf(self._unit(), lower=1, clean=1)
            pivot = info - 1
        if pivot >= 0:
            raise np.linalg.LinAlgError(
                f"{self.name} must be positive definite, its pivot {pivot} is not positive"
            )
        return factor

    def _leave_definite(self) -> None:
        """Go on by absolute size where rounding has made a pivot negative, if rotations do."""
        if self.kind != "jacobi":
            self._scaled_factor()
        self.definite = False

    def _step_by_hand(self, i: int, j: int) -> None:
        gii, gij, gjj = self.g[i, i], self.g[i, j], self.g[j, j]
        if abs(gij) > EPS * math.sqrt(abs(gii)) * math.sqrt(abs(gjj)):
            s = own_transformation(self.kind, gii, gij, gjj)
            kernels.apply_to_gram(self.g, self.acc, i, j, *s.ravel(), self.inverse)

    def _greedy_by_hand(self, steps: int, tol: float) -> int:
        for step in range(steps):
            size, i, j = kernels.largest_pair(self.g, True)
            if size <= tol:
                return step
            self._step_by_hand(i, j)
        return steps


def run_disjoint(
    rows: Floats, acc: Floats, squares: Floats, kind: int, inverse: bool, skip: float
) -> tuple[Floats, Floats, Floats, bool]:
    """Do the steps on rows 0 and 1, 2 and 3, ...: what an executor's worker runs."""
    pairs = np.arange(len(rows)).reshape(-1, 2)
    rows, acc, squares = rows.copy(), acc.copy(), squares.copy()
    sound = kernels.columns_block(rows, acc, squares, pairs, kind, inverse, skip)
    return rows, acc, squares, sound


def own_transformation(kind: Any, gii: float, gij: float, gjj: float) -> Floats:
    """Return the 2 x 2 matrix of a user's callable, checked to make the block diagonal."""
    s = check_array("kind(g_ii, g_ij, g_jj)", kind(gii, gij, gjj), shape=(2, 2), finite=False)
    (s00, s01), (s10, s11) = s.tolist()
    first, second = gii * s00 + gij * s10, gij * s00 + gjj * s10
    new_ii = s00 * first + s10 * second
    left = s01 * first + s11 * second
    new_jj = s01 * (gii * s01 + gij * s11) + s11 * (gij * s01 + gjj * s11)
    if not (new_ii > 0 and new_jj > 0 and abs(left) <= LEFT_OVER * math.sqrt(new_ii * new_jj)):
        raise ValueError(
            "kind must return a regular 2 x 2 matrix that makes its block diagonal, got "
            f"{s.tolist()} for ({gii:g}, {gij:g}, {gjj:g})"
        )
    return s


def check_kind(kind: Any) -> None:
    """Refuse what is neither a class of steps nor callable."""
    if not callable(kind):
        check_option("kind", kind, KINDS)
