"""One step of a pairwise factorisation, on one matrix or many: to look at what a step does.

`thalweg.linalg.pairwise_factor` and its kin repeat such steps until nothing is left to do.

Source: "A Unified Perspective on Orthogonalization and Diagonalization" (2025), arXiv 2505.02023.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.linalg import _jacobi_kernels as kernels
from thalweg.linalg._pair_states import KINDS, Kind, check_kind, own_transformation
from thalweg.linalg.pivoting_bounds import check_symmetric

Floats = NDArray[np.float64]


def pair_step(
    g: ArrayLike, i: ArrayLike, j: ArrayLike, kind: Kind = "jacobi"
) -> tuple[Floats, Floats]:
    """Make one pair orthogonal: return S'gS, its entry (i, j) exactly zero, and the 2 x 2 matrix S.

    Parameters
    ----------
    g : array_like, shape (..., n, n)
        Symmetric, or a stack of such; positive definite on the pair unless `kind` is ``"jacobi"``.
    i, j : int or array_like of int, shape (...)
        The pair, i < j: one for all matrices or one for each.
    kind : {"jacobi", "triangular", "symmetric"} or callable, default "jacobi"
        As in `pairwise_factor`.

    Returns
    -------
    g_new : ndarray, shape (..., n, n)
        A new matrix that differs from `g` in rows and columns i and j.
    s : ndarray, shape (..., 2, 2)
        The transformation.

    Raises
    ------
    TypeError
        If `g` is not real or an index not an integer.
    ValueError
        If `g` is not square, symmetric and finite, an index out of range, i >= j, or a block not
        positive definite where it must be.

    Examples
    --------
    >>> from thalweg.linalg import pair_step
    >>> g_new, s = pair_step([[4.0, 2.0], [2.0, 2.0]], 0, 1, kind="triangular")
    >>> g_new
    array([[4., 0.],
           [0., 1.]])
    >>> s
    array([[ 1. , -0.5],
           [ 0. ,  1. ]])
    """
    check_kind(kind)
    g = check_symmetric("g", g)
    batch, n = g.shape[:-2], g.shape[-1]
    stack = g.reshape(-1, n, n).copy()
    rows, columns = (_check_index(name, k, n, batch) for name, k in (("i", i), ("j", j)))
    if np.any(rows >= columns):
        first = int(np.flatnonzero(rows >= columns)[0])
        raise ValueError(f"i must be less than j, got {rows[first]} and {columns[first]}")
    s = np.empty((len(stack), 2, 2))
    if callable(kind):
        every = np.arange(len(stack))
        blocks = (
            stack[every, p, q] for p, q in ((rows, rows), (rows, columns), (columns, columns))
        )
        for b, block in enumerate(zip(*(entries.tolist() for entries in blocks), strict=True)):
            s[b] = own_transformation(kind, *block)
    else:
        broken = kernels.batch_transformations(stack, rows, columns, KINDS[kind], s)
        if broken >= 0:
            pair = int(rows[broken]), int(columns[broken])
            raise ValueError(f"g must be positive definite on the pair, it is not on {pair}")
    if len(stack):
        kernels.batch_apply(stack, rows, columns, s)
    return stack.reshape(g.shape), s.reshape(*batch, 2, 2)


def _check_index(name: str, value: ArrayLike, n: int, batch: tuple[int, ...]) -> NDArray[np.int64]:
    index = np.asarray(value)
    if index.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an integer or an array of them, got {value!r}")
    if np.any((index < 0) | (index >= n)):
        raise ValueError(f"{name} must lie in 0 to {n - 1}, got {value!r}")
    try:
        spread = np.broadcast_to(index, batch)
    except ValueError:
        raise ValueError(f"{name} must have shape {batch}, got {index.shape}") from None
    return np.ascontiguousarray(spread, dtype=np.int64).reshape(-1)
