"""Wasserstein distances of clouds, exact and sliced: public names of `metrics`."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import coo_array
from scipy.spatial.distance import cdist

from thalweg._validation import check_array, check_count, check_real
from thalweg.transport._clouds import check_clouds

Floats: TypeAlias = NDArray[np.float64]


def wasserstein(
    X: ArrayLike,
    Y: ArrayLike,
    *,
    p: float = 2,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
) -> float:
    """Return the exact Wasserstein distance W_p of two weighted clouds.

    Parameters
    ----------
    X, Y : array_like (n, d), (m, d)
        The clouds.
    p : float, default 2
        Order, at least 1; the cost is the Euclidean distance to this power.
    a, b : array_like (n,), (m,), optional
        Weights that sum to 1; None is uniform.

    Returns
    -------
    float
        In the unit of the data.

    Notes
    -----
    Equal clouds without weights are an assignment problem (SciPy). Others are solved by the network
    simplex of POT where it is installed, else by SciPy's HiGHS, which is for small clouds.

    References
    ----------
    Peyré and Cuturi, "Computational Optimal Transport" (2019), arXiv 1803.00567, chapters 2 and 3.

    Examples
    --------
    >>> wasserstein([[0.0, 0.0], [0.0, 1.0]], [[0.0, 3.0], [0.0, 2.0]], p=1)
    2.0
    """
    X, Y = check_clouds(X, Y)
    p = check_real("p", p, at_least=1)
    cost = cdist(X, Y) ** p
    if a is None and b is None and len(X) == len(Y):
        rows, columns = linear_sum_assignment(cost)
        return float(cost[rows, columns].mean() ** (1 / p))
    value = _transport_cost(_weights("a", a, len(X)), _weights("b", b, len(Y)), cost)
    return float(max(value, 0.0) ** (1 / p))


def sliced_wasserstein(
    X: ArrayLike,
    Y: ArrayLike,
    *,
    p: float = 2,
    n_projections: int = 256,
    rng: Any = None,
) -> float:
    """Return the sliced Wasserstein distance: W_p of projections onto random lines, averaged.

    Parameters
    ----------
    X, Y : array_like (n, d), (m, d)
        The clouds; their sizes may differ.
    p : float, default 2
        Order, at least 1.
    n_projections : int, default 256
        Directions, uniform on the sphere.
    rng : None, int or Generator
        Source of the directions.

    Returns
    -------
    float
        ``(mean over directions of W_p^p)^(1/p)``, in the unit of the data.

    References
    ----------
    Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures" (2015).

    Examples
    --------
    >>> sliced_wasserstein([[0.0], [1.0]], [[2.0], [3.0]])
    2.0
    """
    X, Y = check_clouds(X, Y)
    p = check_real("p", p, at_least=1)
    directions = np.random.default_rng(rng).standard_normal(
        (X.shape[1], check_count("n_projections", n_projections))
    )
    directions /= np.linalg.norm(directions, axis=0)
    rows_x, rows_y, widths = _common_quantiles(len(X), len(Y))
    gaps = np.abs(np.sort(X @ directions, axis=0)[rows_x] - np.sort(Y @ directions, axis=0)[rows_y])
    return float((widths @ gaps**p).mean() ** (1 / p))


def _common_quantiles(n: int, m: int) -> tuple[NDArray[Any], NDArray[Any], Floats]:
    """Cut [0, 1] where a quantile function steps: on every piece each one's step, and its width."""
    levels = np.union1d(np.arange(n + 1, dtype=np.int64) * m, np.arange(m + 1, dtype=np.int64) * n)
    return levels[:-1] // m, levels[:-1] // n, np.diff(levels) / (n * m)


def _weights(name: str, weights: ArrayLike | None, n: int) -> Floats:
    if weights is None:
        return np.full(n, 1 / n)
    array = check_array(name, weights, shape=(n,))
    if (array < 0).any() or abs(array.sum() - 1) > 1e-6:
        raise ValueError(f"{name} must be non-negative and sum to 1, got sum {array.sum():.6g}")
    return cast(Floats, array / array.sum())


def _transport_cost(a: Floats, b: Floats, cost: Floats) -> float:
    try:
        import ot
    except ImportError:
        return _transport_cost_by_linprog(a, b, cost)
    value, log = ot.emd2(a, b, cost, numItermax=100_000_000, log=True)
    if log.get("warning"):
        raise RuntimeError(f"the network simplex did not finish: {log['warning']}")
    return float(value)


def _transport_cost_by_linprog(a: Floats, b: Floats, cost: Floats) -> float:
    n, m = cost.shape
    cells = np.arange(n * m)
    rows = np.concatenate([cells // m, n + cells % m])
    sums: Any = coo_array((np.ones(2 * n * m), (rows, np.concatenate([cells, cells])))).tocsr()
    result = linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([a, b]), method="highs")
    if not result.success:
        raise RuntimeError(f"the linear program was not solved: {result.message}")
    return float(result.fun)
