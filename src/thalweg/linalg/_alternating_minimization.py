"""Alternating minimisation: fix one factor, regress the other onto the observed entries, swap.

Source: "Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time"
(2023), arXiv 2302.11068.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from thalweg.linalg import _completion_kernels as kernels

Floats = NDArray[np.float64]
Callback = Callable[[Any], Any]

SOLVERS = {
    "exact": kernels.EXACT,
    "cg": kernels.CG,
    "sketch": kernels.SKETCH,
    "gradient": kernels.GRADIENT,
}
OVERSAMPLING = 10
POWER_ITERATIONS = 4
ENTRIES_PER_TASK = 2**18
RESIDUAL_FLOOR = 1e-14  # a relative residual that only rounding is left in


@dataclass(frozen=True)
class RowSolver:
    """How each small regression is solved."""

    kind: int
    steps: int
    tol: float
    sketch_factor: int
    alpha: float

    def sketch_rows(self, rank: int) -> int:
        """Rows of the sketch; at least two, for the two entries of each of its columns."""
        return max(2, self.sketch_factor * rank)


@dataclass(frozen=True)
class Completion:
    """What the alternation found: the matrix is ``row_factors @ col_factors.T``."""

    row_factors: Floats
    col_factors: Floats
    singular_values: Floats
    history: Floats
    flops: Floats


def regress(
    observed: sparse.csr_array,
    factor: Floats,
    start: Floats,
    solver: RowSolver,
    seed: int = 0,
    executor: Executor | None = None,
) -> tuple[Floats, float, float]:
    """Fit every row of `observed` (m, n) by a combination of the columns of `factor` (n, k).

    Returns
    -------
    coefficients : ndarray, shape (m, k)
    flops : float
        Operations done.
    squares : float
        Sum of the squared residuals.
    """
    submit = _run_now if executor is None else executor.submit
    tasks = [
        submit(
            solve_block,
            observed.indptr[first : last + 1] - observed.indptr[first],
            observed.indices[observed.indptr[first] : observed.indptr[last]],
            observed.data[observed.indptr[first] : observed.indptr[last]],
            factor,
            start[first:last],
            solver,
            seed,
            first,
        )
        for first, last in _blocks(observed.indptr)
    ]
    done = [task.result() for task in tasks]
    coefficients = np.concatenate([block for block, _, _ in done])
    if not np.isfinite(coefficients).all():
        raise FloatingPointError("a regression left the range of floating point; set alpha > 0")
    return coefficients, sum(flops for _, flops, _ in done), sum(rss for _, _, rss in done)


def solve_block(
    indptr: NDArray[Any],
    indices: NDArray[Any],
    values: Floats,
    factor: Floats,
    start: Floats,
    solver: RowSolver,
    seed: int,
    first_row: int,
) -> tuple[Floats, float, float]:
    """Fit consecutive rows; what a worker runs."""
    # one compiled version serves all: arrays that a process or a file brings may be read-only
    plain = partial(np.require, requirements=["C", "W"])
    solution = np.array(start, order="C")
    flops, squares = kernels.solve_rows(
        plain(indptr, np.int64),
        plain(indices, np.int32),
        plain(values, np.float64),
        plain(factor, np.float64),
        solution,
        solver.kind,
        solver.steps,
        solver.tol,
        solver.sketch_rows(factor.shape[1]),
        float(solver.alpha),
        np.uint64(seed),
        first_row,
        kernels.BUFFER_ENTRIES,
    )
    return solution, flops, squares


def alternate(
    observed: sparse.csr_array,
    rank: int,
    solver: RowSolver,
    *,
    n_iter: int,
    tol: float,
    split: bool,
    clip: float | None,
    rng: np.random.Generator,
    executor: Executor | None = None,
    callback: Callback | None = None,
) -> Completion:
    """Complete a matrix from the stored entries of `observed`."""
    m, n = observed.shape
    observed, unit = scaled(observed)
    norm = float(np.linalg.norm(observed.data))
    parts = split_entries(observed, n_iter, rng) if split else _reuse(observed)
    u = starting_basis(next(parts), rank, clip, rng)
    v = np.zeros((n, rank))
    history: list[float] = []
    flops: list[float] = []
    for step in range(n_iter):
        if step:
            u, v = _orthonormal(u, v)
        v, first, _ = regress(next(parts), u, v, solver, _seed(rng), executor)
        v, u = _orthonormal(v, u)
        u, second, squares = regress(next(parts), v, u, solver, _seed(rng), executor)
        if split:
            squares = residual_squares(observed, u, v, executor)
        history.append(np.sqrt(squares) / norm if norm > 0 else 0.0)
        flops.append(first + second + 6.0 * (m + n) * rank**2)
        if _stopped(callback, step + 1, n_iter, history[-1], unit * u, v):
            break
        if not split and _settled(history, tol):
            break
    left, singular_values, turn = np.linalg.svd(u, full_matrices=False)
    singular_values = unit * singular_values
    return Completion(
        left * singular_values, v @ turn.T, singular_values, np.array(history), np.array(flops)
    )


def scaled(observed: sparse.csr_array) -> tuple[sparse.csr_array, float]:
    """Return the entries over a power of two, so that no square leaves the range, and that."""
    largest = float(np.abs(observed.data).max(initial=0.0))
    exponent = math.frexp(largest)[1] if largest > 0 else 0
    data = np.ldexp(observed.data, -exponent)
    place = observed.indices, observed.indptr
    return sparse.csr_array((data, *place), shape=observed.shape), math.ldexp(1.0, exponent)


def starting_basis(
    observed: sparse.csr_array, rank: int, clip: float | None, rng: np.random.Generator
) -> Floats:
    """Return the leading left singular vectors (m, k), large entries set to zero, orthonormal.

    The scale 1/p of the observed part changes no singular vector. `clip` is the incoherence mu;
    entries above ``2 mu sqrt(k / m)`` are clipped.
    """
    m, n = observed.shape
    if min(m, n) <= rank + OVERSAMPLING:
        u = np.linalg.svd(observed.toarray(), full_matrices=False)[0][:, :rank]
    else:
        u = randomized_svd(
            observed,
            rank,
            n_oversamples=OVERSAMPLING,
            n_iter=POWER_ITERATIONS,
            power_iteration_normalizer="QR",
            random_state=int(rng.integers(2**31)),
        )[0]
    if clip is not None:
        u = np.where(np.abs(u) > 2 * clip * np.sqrt(rank / m), 0.0, u)
    return np.linalg.qr(u)[0]


def split_entries(
    observed: sparse.csr_array, n_iter: int, rng: np.random.Generator
) -> Iterator[sparse.csr_array]:
    """Share the entries out, each to one of 2T + 1 matrices at random.

    Yields them in the order in which the alternation asks: number 0 for the start, then for each
    t the transpose of number t + 1, for V, and number T + t + 1, for U.
    """
    part = rng.integers(2 * n_iter + 1, size=observed.nnz)
    entries = observed.tocoo()

    def number(p: int) -> sparse.csr_array:
        kept = np.flatnonzero(part == p)
        place = entries.row[kept], entries.col[kept]
        return sparse.csr_array((entries.data[kept], place), shape=observed.shape)

    yield number(0)
    for t in range(n_iter):
        yield number(t + 1).T.tocsr()
        yield number(n_iter + t + 1)


def residual_squares(
    observed: sparse.csr_array, u: Floats, v: Floats, executor: Executor | None = None
) -> float:
    """Return the sum of squares of ``observed - u v^T`` over the stored entries."""
    only_residual = RowSolver(kernels.CG, 0, 0.0, 1, 0.0)
    return regress(observed, v, u, only_residual, executor=executor)[2]


def _reuse(observed: sparse.csr_array) -> Iterator[sparse.csr_array]:
    transposed = observed.T.tocsr()
    yield observed
    while True:
        yield transposed
        yield observed


def _orthonormal(factor: Floats, other: Floats) -> tuple[Floats, Floats]:
    """Return bases such that their product stays the same and the first is orthonormal."""
    q, r = np.linalg.qr(factor)
    return q, other @ r.T


def _settled(history: list[float], tol: float) -> bool:
    if history[-1] <= RESIDUAL_FLOOR:
        return True
    return len(history) > 1 and abs(history[-2] - history[-1]) <= tol * history[-2]


def _stopped(
    callback: Callback | None, iteration: int, n_iter: int, residual: float, u: Floats, v: Floats
) -> bool:
    if callback is None:
        return False
    try:
        callback(
            SimpleNamespace(
                iteration=iteration, n_iter=n_iter, residual=residual, row_factors=u, col_factors=v
            )
        )
    except StopIteration:
        return True
    return False


def _blocks(indptr: NDArray[Any]) -> list[tuple[int, int]]:
    """Cut the rows into runs of about `ENTRIES_PER_TASK` entries."""
    rows, entries = len(indptr) - 1, int(indptr[-1])
    if entries <= ENTRIES_PER_TASK:
        return [(0, rows)]
    count = -(-entries // ENTRIES_PER_TASK)
    cuts = np.searchsorted(indptr, np.linspace(0, entries, count + 1)[1:-1])
    edges = np.unique([0, *cuts, rows])
    return [(int(a), int(b)) for a, b in pairwise(edges)]


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63))


class _Done:
    """A task that was run at once."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def result(self) -> Any:
        return self.value


def _run_now(function: Callable[..., Any], *arguments: Any) -> _Done:
    return _Done(function(*arguments))
