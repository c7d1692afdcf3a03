"""How a subspace lies: spread over the coordinates or not, near another or not.

Source: "Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time"
(2023), arXiv 2302.11068: incoherence, and the distance in which the alternation converges.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array

Floats = NDArray[np.float64]


def incoherence(u: ArrayLike) -> float:
    """Return how unevenly a subspace is spread over the coordinates: mu, at least 1.

    The largest row norm of an orthonormal basis over ``sqrt(k / m)``. It is 1 where all rows weigh
    the same and ``sqrt(m / k)`` where a coordinate axis lies in the subspace.

    Parameters
    ----------
    u : array_like, shape (m, k)
        Columns that span the subspace.

    Examples
    --------
    >>> import numpy as np
    >>> incoherence(np.ones((4, 1))), incoherence(np.eye(4)[:, :1])
    (1.0, 2.0)
    """
    basis = _basis("u", u)
    m, k = basis.shape
    return float(np.linalg.norm(basis, axis=1).max() * np.sqrt(m / k))


def subspace_distance(u: ArrayLike, v: ArrayLike) -> float:
    """Return the sine of the largest angle between two subspaces: ``||(I - U U^T) V||_2``.

    Parameters
    ----------
    u, v : array_like, shapes (m, k) and (m, k)
        Columns that span them; they need not be orthonormal.

    Examples
    --------
    >>> round(subspace_distance([[1.0], [0.0]], [[1.0], [1.0]]), 6)
    0.707107
    """
    u, v = _basis("u", u), _basis("v", v)
    if u.shape != v.shape:
        raise ValueError(f"u and v must have the same shape, got {u.shape} and {v.shape}")
    return min(1.0, float(np.linalg.norm(v - u @ (u.T @ v), 2)))


def _basis(name: str, columns: ArrayLike) -> Floats:
    columns = check_array(name, columns, ndim=2)
    m, k = columns.shape
    if not 1 <= k <= m:
        raise ValueError(f"{name} must have from 1 to {m} columns, got {k}")
    return np.linalg.qr(columns)[0]
