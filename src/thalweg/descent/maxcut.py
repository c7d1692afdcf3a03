"""Cut a graph in two so that the edges between the parts weigh most, and bound what is possible.

The best cut is hard to find; its relaxation, one unit vector a node, is not. The vectors have low
rank, so that a step moves one of them to where its neighbours push it; the pushes are also a point
of the dual problem, which bounds every cut. A random hyperplane then cuts the vectors, and the
graph, to at least 0.878 of the bound in the mean.

Source: "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 6.6.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.linalg import eigh
from scipy.optimize import OptimizeResult

from thalweg._validation import check_array, check_count, check_real
from thalweg.descent._maxcut_kernels import ascend
from thalweg.descent._oracle import CONVERGED, MAXITER
from thalweg.descent.conjugate_gradients import ASYMMETRY

Floats = NDArray[np.float64]

ROUNDING_RATIO = 0.8785672057848516
"""Least expected cut of a rounding by the value of its vectors: min (θ/π) 2/(1 - cos θ)."""

UNIT_ERROR = 1e-6
"""Largest difference of a given vector's length and 1."""

FIRST_GAIN, GAIN_FACTOR = 1e-4, 0.01
"""The gap is first measured after a sweep that gains `FIRST_GAIN` of `tol`, and then each time the
gain has fallen by `GAIN_FACTOR`."""

BLOCK = 2**20
"""Largest number of entries of an array that is needed only in passing."""


def maxcut_sdp(
    W: Any,
    *,
    rank: int | None = None,
    tol: float = 1e-9,
    maxiter: int = 5000,
    rng: int | np.random.Generator | None = None,
) -> OptimizeResult:
    r"""Solve the semidefinite relaxation of MAXCUT.

    .. math:: \max_{|v_i| = 1} \tfrac14 \sum_{ij} W_{ij} (1 - v_i \cdot v_j)

    by sweeps of :math:`v_i \leftarrow -g_i / |g_i|`, :math:`g_i = \sum_j W_{ij} v_j`. The dual
    point :math:`y_i = -v_i \cdot g_i` bounds every cut, whatever the vectors:

    .. math:: \tfrac14 \Big(\sum_{ij} W_{ij} + \sum_i y_i
              - n \lambda_{\min}(W + \mathrm{diag}\, y)\Big)

    Parameters
    ----------
    W : array_like or SciPy sparse array of shape (n, n), or networkx.Graph
        Weights of the edges, >= 0 and symmetric. The diagonal is never cut and does not count. Of a
        graph the edges' ``weight``, 1 where there is none, in the order of its nodes; parallel
        edges add up.
    rank : int, optional
        Length of the vectors; ⌈√(2n)⌉ + 1 by default, enough for the ascent to end at the global
        maximum of almost every W. With less it may stop below; ``gap`` tells.
    tol : float, default 1e-9
        Stop when ``upper_bound - value <= tol * upper_bound``.
    maxiter : int, default 5000
        Largest number of sweeps.
    rng : None, int or numpy.random.Generator, optional
        Draws the first vectors.

    Returns
    -------
    OptimizeResult
        ``vectors`` (n, rank), of length 1; ``value``, the sum above; ``upper_bound``, no cut and no
        solution of the relaxation is larger; ``gap``, their difference; ``nit``, sweeps;
        ``success``, ``status``, ``message``. Without success the bound still holds.

    Raises
    ------
    TypeError, ValueError
        If `W` is not square, symmetric, finite and >= 0, or another argument is malformed.

    Notes
    -----
    A sweep takes rank operations an edge. The bound takes the least eigenvalue of a dense matrix,
    of order n³, at every measurement of the gap, of which there are a few; its margin for rounding,
    n²/4 times the machine precision times the norm, is in the bound. The ascent is slow on graphs
    that are long and thin: a path of 120 nodes takes more than 5000 sweeps.

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 6.6.

    Examples
    --------
    >>> import numpy as np
    >>> ring = np.roll(np.eye(5), 1, axis=1)
    >>> result = maxcut_sdp(ring + ring.T, rng=0)
    >>> round(result.value, 6), round(result.upper_bound, 6), result.success
    (4.522542, 4.522542, True)
    """
    weights, scale = _weights(W)
    n = weights.shape[0]
    rank = math.ceil(math.sqrt(2 * n)) + 1 if rank is None else check_count("rank", rank)
    tol = check_real("tol", tol, above=0)
    maxiter = check_count("maxiter", maxiter)
    vectors = np.random.default_rng(rng).standard_normal((n, rank))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    small, nit, status = FIRST_GAIN * tol * weights.sum(), 0, MAXITER
    while True:
        done, gain = ascend(
            weights.indptr, weights.indices, weights.data, vectors, small, maxiter - nit
        )
        nit += done
        value, upper = _value(weights, vectors), _upper_bound(weights, vectors)
        if upper - value <= tol * upper:
            status, message = CONVERGED, f"the relative gap fell to tol = {tol:g}"
            break
        missed = f"the relative gap is {(upper - value) / upper:.3g} and tol = {tol:g}"
        if nit >= maxiter:
            message = f"maxiter = {maxiter} sweeps were done, {missed}"
            break
        if gain == 0:
            message = f"the vectors came to rest, {missed}"
            break
        small = GAIN_FACTOR * min(small, gain)
    return OptimizeResult(
        vectors=vectors,
        value=scale * value,
        upper_bound=scale * upper,
        gap=scale * (upper - value),
        nit=nit,
        success=status == CONVERGED,
        status=status,
        message=message,
    )


def goemans_williamson(
    W: Any,
    *,
    n_rounds: int = 100,
    vectors: ArrayLike | None = None,
    rng: int | np.random.Generator | None = None,
) -> OptimizeResult:
    r"""Cut a graph by random hyperplanes through the vectors of its relaxation.

    Every round cuts by the signs of :math:`v_i \cdot \xi` for a normal :math:`\xi`; an edge is cut
    with probability :math:`\arccos(v_i \cdot v_j) / \pi`, so that the expected cut is at least
    0.878 of the vectors' value, and of the best cut if they solve the relaxation.

    Parameters
    ----------
    W : array_like or SciPy sparse array of shape (n, n), or networkx.Graph
        Weights of the edges, as of `maxcut_sdp`.
    n_rounds : int, default 100
        Number of hyperplanes; the best cut is kept.
    vectors : array_like, shape (n, rank), optional
        A vector of length 1 for each node; by default `maxcut_sdp` finds them.
    rng : None, int or numpy.random.Generator, optional
        Draws the first vectors, then the hyperplanes.

    Returns
    -------
    OptimizeResult
        ``x`` (n,), the sides as -1 and 1 of the best cut; ``cut``, its weight; ``cuts``
        (n_rounds,), the weights of all, and ``mean_cut``; ``expected_cut``, the mean over all
        hyperplanes; ``sdp_value`` of the vectors; ``upper_bound`` of every cut, from the same;
        ``vectors``; ``success``, whether the relaxation was solved (True for given vectors), and
        ``message``. The cuts are sound in any case.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed or a vector is not of length 1.

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 6.6.

    Examples
    --------
    >>> import numpy as np
    >>> ring = np.roll(np.eye(5), 1, axis=1)
    >>> result = goemans_williamson(ring + ring.T, rng=0)
    >>> result.cut, round(result.expected_cut, 6), round(result.upper_bound, 6)
    (4.0, 4.0, 4.522542)
    """
    weights, scale = _weights(W)
    n_rounds = check_count("n_rounds", n_rounds)
    rng = np.random.default_rng(rng)
    if vectors is None:
        solved = maxcut_sdp(W, rng=rng)
        v, success, message = solved.vectors, solved.success, solved.message
    else:
        v, success, message = _unit_vectors(vectors, weights.shape[0]), True, "vectors given"
    x, cuts = _round(weights, v, n_rounds, rng)
    cuts *= scale
    return OptimizeResult(
        x=x,
        cut=float(cuts.max()),
        mean_cut=float(cuts.mean()),
        cuts=cuts,
        expected_cut=scale * _expected_cut(weights, v),
        sdp_value=scale * _value(weights, v),
        upper_bound=scale * _upper_bound(weights, v),
        vectors=v,
        success=success,
        message=message,
    )


def _weights(W: Any) -> tuple[sparse.csr_array, float]:
    """Return the weights off the diagonal, divided so that they are below 2, and the divisor."""
    networkx = sys.modules.get("networkx")
    if networkx is not None and isinstance(W, networkx.Graph):
        if W.is_directed():
            raise ValueError(f"W must be an undirected graph, got {W}")
        if not len(W):
            raise ValueError("W must have a node, got a graph without")
        try:
            W = networkx.to_scipy_sparse_array(W, dtype=np.float64, format="coo")
        except (TypeError, ValueError) as error:
            raise TypeError(f"W must have edges whose weight is a number, got {W}") from error
    if sparse.issparse(W):
        matrix = sparse.coo_array(W)
        check_array("W", matrix.data)
    else:
        matrix = sparse.coo_array(check_array("W", W, ndim=2))
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.shape[0]:
        raise ValueError(f"W must be a square matrix with a row or more, got shape {matrix.shape}")
    weights = sparse.csr_array(matrix, dtype=np.float64)
    weights.sum_duplicates()
    check_array("W", weights.data)
    if weights.nnz and weights.data.min() < 0:
        raise ValueError(f"W must be >= 0, got {float(weights.data.min())!r}")
    largest = float(weights.max()) if weights.nnz else 0.0
    difference = abs(weights - weights.T).tocoo()
    if difference.nnz and difference.data.max() > ASYMMETRY * largest:
        at = difference.data.argmax()
        i, j = int(difference.row[at]), int(difference.col[at])
        raise ValueError(
            f"W must be symmetric, got W[{i}, {j}] = {float(weights[i, j])!r} and "
            f"W[{j}, {i}] = {float(weights[j, i])!r}"
        )
    weights = weights / 2 + weights.T / 2
    weights.setdiag(0)
    weights.eliminate_zeros()
    weights.sort_indices()
    # a power of two: no weight is rounded
    largest = float(weights.max()) if weights.nnz else 0.0
    scale = math.ldexp(1.0, math.frexp(largest)[1] - 1) if weights.nnz else 1.0
    weights.data /= scale
    if not math.isfinite(scale * float(weights.sum())):
        raise ValueError(f"W must have a finite sum, got entries up to {scale!r}")
    return weights, scale


def _unit_vectors(vectors: ArrayLike, n: int) -> Floats:
    v = check_array("vectors", vectors, shape=(n, None))
    error = np.abs(np.linalg.norm(v, axis=1) - 1)
    if error.max() > UNIT_ERROR:
        worst = int(error.argmax())
        raise ValueError(
            f"vectors must have rows of length 1, got {float(np.linalg.norm(v[worst])):.6g} "
            f"at row {worst}"
        )
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def _value(weights: sparse.csr_array, vectors: Floats) -> float:
    """Return ¼ sum W_ij (1 - v_i·v_j), from the distances, which cancels nothing."""
    edges, total = weights.tocoo(), 0.0
    for part in _parts(edges.nnz, vectors.shape[1]):
        apart = vectors[edges.row[part]] - vectors[edges.col[part]]
        total += float(edges.data[part] @ np.einsum("ek,ek->e", apart, apart))
    return total / 8


def _upper_bound(weights: sparse.csr_array, vectors: Floats) -> float:
    """Return the dual bound of every cut; see `maxcut_sdp`."""
    n = len(vectors)
    y = -np.einsum("ik,ik->i", vectors, weights @ vectors)
    slack = weights.toarray()
    norm = float((slack.sum(axis=1) + np.abs(y)).max())
    slack[np.diag_indices(n)] = y
    least = eigh(slack, eigvals_only=True, subset_by_index=[0, 0], overwrite_a=True)[0]
    least -= n * np.finfo(float).eps * norm
    return float(weights.sum() + y.sum() - n * least) / 4


def _expected_cut(weights: sparse.csr_array, vectors: Floats) -> float:
    """Return the mean weight of a cut by a random hyperplane."""
    edges, total = weights.tocoo(), 0.0
    for part in _parts(edges.nnz, vectors.shape[1]):
        v, w = vectors[edges.row[part]], vectors[edges.col[part]]
        # the angle, exact where the vectors are near to opposite, unlike arccos
        half = np.arctan2(np.linalg.norm(v - w, axis=1), np.linalg.norm(v + w, axis=1))
        total += float(edges.data[part] @ half)
    return total / np.pi


def _round(
    weights: sparse.csr_array, vectors: Floats, n_rounds: int, rng: np.random.Generator
) -> tuple[NDArray[np.int8], Floats]:
    """Return the sides of the best of `n_rounds` cuts, and the weights of all."""
    n, rank = vectors.shape
    total = weights.sum()
    cuts = np.empty(n_rounds)
    best, x = -math.inf, np.ones(n)
    for part in _parts(n_rounds, n):
        normals = rng.standard_normal((part.stop - part.start, rank))
        signs = np.where(vectors @ normals.T >= 0, 1.0, -1.0)
        cuts[part] = (total - np.einsum("ir,ir->r", signs, weights @ signs)) / 4
        leader = int(cuts[part].argmax())
        if cuts[part][leader] > best:
            best, x = float(cuts[part][leader]), signs[:, leader]
    return x.astype(np.int8), cuts


def _parts(count: int, length: int) -> Iterator[slice]:
    """Yield the parts of `count` rows of `length` that are worked on at once."""
    size = max(1, BLOCK // length)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
