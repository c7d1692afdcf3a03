"""Least squares to full accuracy for tall systems, by a random sketch and a few iterations.

The sketch S A, a few times as many rows as A has columns, has nearly the same geometry as A, so
that the triangular factor of its QR factorisation makes A well-conditioned. Conjugate gradients on
the preconditioned system then need a number of steps that depends neither on the conditioning of
A nor on its number of rows.

Source: "Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time"
(2023), arXiv 2302.11068, the high-accuracy regression. Chosen here: an embedding with two random
signs a column, conjugate gradients in place of gradient steps, and the sketched solution as start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.linalg import solve_triangular

from thalweg._validation import check_array, check_count, check_real
from thalweg.linalg._completion_kernels import SIGNS_PER_COLUMN

Floats = NDArray[np.float64]
Map = Callable[[Floats], Floats]
DEPENDENT = 1e-13  # singular values of the sketch below this part of the largest count as none
SMALL_PIVOT = 1e-12  # the least part of the largest with which the triangular factor is used


@dataclass(frozen=True)
class SketchedLstsqInfo:
    """How a run of `sketched_lstsq` ended.

    Attributes
    ----------
    n_iter : int
        Steps done.
    converged : bool
        Whether the estimated error came below `tol`, or as low as rounding allows.
    residual_norm : float
        ``||b - A x||``.
    error_estimate : float
        About ``||A (x - x*)||`` over ``||b||``, before the last step.
    rank : int
        Rank of the sketch; below the number of columns the solution of least norm is found.
    sketch_rows : int
        Rows of the sketch.
    """

    n_iter: int
    converged: bool
    residual_norm: float
    error_estimate: float
    rank: int
    sketch_rows: int


def sketched_lstsq(
    a: ArrayLike | sparse.sparray,
    b: ArrayLike,
    x0: ArrayLike | None = None,
    *,
    sketch_factor: int = 4,
    n_iter: int = 30,
    tol: float = 1e-14,
    rng: Any = None,
) -> tuple[Floats, SketchedLstsqInfo]:
    """Minimise ``||a x - b||`` for a tall, dense or sparse `a`.

    Parameters
    ----------
    a : array_like or scipy.sparse, shape (m, k)
        Of any rank and conditioning; worth it for m much larger than k.
    b : array_like, shape (m,)
        Right-hand side.
    x0 : array_like, shape (k,), optional
        Start; by default the solution of the sketched system.
    sketch_factor : int, default 4
        Rows of the sketch over k, at least 2. With no more rows than that `a` is its own sketch.
    n_iter : int, default 30
        Steps at most.
    tol : float, default 1e-14
        Stop when ``||a (x - x*)||``, estimated, is below this part of ``||b||``, or as small as
        rounding lets it be: the condition number times the unit roundoff times the residual.
    rng : None, int or numpy.random.Generator
        Source of the sketch.

    Returns
    -------
    x : ndarray, shape (k,)
        Of least norm if `a` has linearly dependent columns and there is no `x0`.
    info : SketchedLstsqInfo
        Steps, convergence, residual.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as stated.

    References
    ----------
    "Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time" (2023),
    arXiv 2302.11068.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> a = rng.normal(size=(1000, 5)) * 10.0 ** np.arange(5)
    >>> x, info = sketched_lstsq(a, a @ np.ones(5), rng=0)
    >>> bool(np.allclose(x, 1, rtol=1e-10)), info.converged
    (True, True)
    """
    matrix = _check_matrix(a)
    m, k = matrix.shape
    b = check_array("b", b, shape=(m,))
    start = None if x0 is None else check_array("x0", x0, shape=(k,))
    rows = k * check_count("sketch_factor", sketch_factor, at_least=2)
    n_iter = check_count("n_iter", n_iter)
    tol = check_real("tol", tol, at_least=0)
    rng = np.random.default_rng(rng)
    if m <= rows:
        sketched, target = _dense(matrix), b
    else:
        embedding = sparse_signs(rows, m, rng)
        sketched, target = _dense(embedding @ matrix), embedding @ b
    scale = float(np.abs(sketched).max(initial=0.0))
    if scale == 0.0:
        scale = 1.0
    q, r = np.linalg.qr(sketched / scale)
    to_x, from_x, rank, condition = _preconditioner(r, scale)
    x = to_x(_leading(r, q.T @ target, rank)) if start is None else start
    floor = np.finfo(float).eps * condition
    return _iterate(matrix, b, x, to_x, from_x, n_iter, tol, floor, rank, len(sketched))


def sparse_signs(rows: int, columns: int, rng: np.random.Generator) -> sparse.csr_array:
    """Return a sparse random embedding: two entries of ±1/sqrt(2) in each column."""
    first = rng.integers(rows, size=columns)
    second = (first + rng.integers(1, rows, size=columns)) % rows
    signs = rng.choice([-1.0, 1.0], size=2 * columns) / np.sqrt(SIGNS_PER_COLUMN)
    place = np.concatenate([first, second]), np.tile(np.arange(columns), 2)
    return sparse.csr_array((signs, place), shape=(rows, columns))


def _iterate(
    a: Any,
    b: Floats,
    x: Floats,
    to_x: Map,
    from_x: Map,
    n_iter: int,
    tol: float,
    floor: float,
    rank: int,
    sketch_rows: int,
) -> tuple[Floats, SketchedLstsqInfo]:
    """Conjugate gradients for y in x = N y, with the residual b - A x kept."""
    residual = b - a @ x
    norm = float(np.linalg.norm(b)) or 1.0
    direction, size, done, error, allowed = np.zeros(rank), 0.0, 0, 0.0, tol
    for step in range(n_iter + 1):
        gradient = from_x(a.T @ residual)
        previous, size = size, float(gradient @ gradient)
        if not np.isfinite(size):
            raise FloatingPointError("the iteration left the range of floating point; rescale a, b")
        error = np.sqrt(size) / norm
        allowed = max(tol, floor * float(np.linalg.norm(residual)) / norm)
        if error <= allowed or step == n_iter:
            break
        direction = gradient + (size / previous if step else 0.0) * direction
        move = to_x(direction)
        image = a @ move
        length = size / float(image @ image)
        x = x + length * move
        residual = residual - length * image
        done += 1
    residual_norm = float(np.linalg.norm(b - a @ x))
    return x, SketchedLstsqInfo(
        done, bool(error <= allowed), residual_norm, float(error), rank, sketch_rows
    )


def _preconditioner(r: Floats, scale: float) -> tuple[Map, Map, int, float]:
    """Return N and its transpose as maps, their rank and condition; N inverts `scale * r`.

    Where r is singular N has fewer columns, the right singular vectors over the singular values.
    """
    k = r.shape[1]
    pivots = np.abs(np.diag(r))
    if len(r) == k and pivots.min() > SMALL_PIVOT * pivots.max():
        return (
            lambda y: solve_triangular(r, y) / scale,
            lambda g: solve_triangular(r, g, trans="T") / scale,
            k,
            float(pivots.max() / pivots.min()),
        )
    _, values, right = np.linalg.svd(r, full_matrices=False)
    rank = int(np.sum(values > DEPENDENT * values[0]))
    inverse = right[:rank].T / values[:rank] / scale
    condition = float(values[0] / values[rank - 1]) if rank else 1.0
    return lambda y: inverse @ y, lambda g: inverse.T @ g, rank, condition


def _leading(r: Floats, projected: Floats, rank: int) -> Floats:
    """Return the sketched solution in the coordinates of the preconditioner."""
    if rank == r.shape[1] == len(r):
        return projected
    left = np.linalg.svd(r, full_matrices=False)[0]
    return left[:, :rank].T @ projected


def _check_matrix(a: Any) -> Any:
    if not sparse.issparse(a):
        matrix = check_array("a", a, ndim=2)
    else:
        if a.dtype.kind not in "biuf":
            raise TypeError(f"a must hold real numbers, got {a.dtype}")
        matrix = sparse.csr_array(a).astype(np.float64)
        if not np.isfinite(matrix.data).all():
            raise ValueError("a must be finite")
    if min(matrix.shape) == 0:
        raise ValueError(f"a must have rows and columns, got shape {matrix.shape}")
    return matrix


def _dense(matrix: Any) -> Floats:
    return matrix.toarray() if sparse.issparse(matrix) else matrix
