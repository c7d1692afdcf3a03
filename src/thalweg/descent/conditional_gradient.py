"""Minimise over a set on which you can only minimise linear functions: Frank-Wolfe.

Every step moves towards one extreme point of the set, an atom: no projection is needed, after t
steps the point mixes at most t + 1 atoms, and the duality gap tells how far the optimum can be.

Source: "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult
from scipy.sparse import issparse
from scipy.sparse.linalg import svds

from thalweg._validation import check_array, check_option, check_real
from thalweg.descent._first_order import line_minimum
from thalweg.descent._oracle import (
    Oracle,
    Point,
    State,
    check_callable,
    check_unused,
    drive,
    inner,
)

Floats = NDArray[np.float64]

SMALL = 20
"""Shortest side up to which a full singular value decomposition is taken."""


def frank_wolfe(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: Any = (),
    *,
    jac: Any = None,
    callback: Callable[..., Any] | None = None,
    record: bool = False,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    lmo: Point,
    step: str = "open-loop",
    L: float | None = None,
    gap_tol: float = 1e-8,
    maxiter: int = 10_000,
) -> OptimizeResult:
    r"""Minimise a smooth convex function over a compact convex set by conditional gradients.

    .. math:: s_t = \arg\min_{s \in K} \langle \nabla f(x_t), s \rangle, \qquad
              x_{t+1} = (1 - \gamma_t) x_t + \gamma_t s_t, \quad t = 1, 2, ...

    Parameters
    ----------
    fun, args, jac, callback, record, hess, hessp, bounds, constraints, maxiter
        As in `gradient_descent`.
    x0 : array_like
        Start, a point of the set.
    lmo : callable
        ``lmo(g) -> s``, the point of the set that minimises <g, s>. For the unit balls of norms
        there is `thalweg.descent.lmo`, for large nuclear balls `nuclear_ball_lmo`.
    step : {"open-loop", "short", "exact"}
        gamma = 2 / (t + 1); min(1, gap / (L ‖x - s‖²)); or the best on the segment.
    L : float, optional
        Lipschitz constant of the gradient; for "short".
    gap_tol : float, default 1e-8
        Stop when the duality gap <∇f(x), x - s>, which bounds f(x) - f*, is no larger.

    Returns
    -------
    OptimizeResult
        As of `gradient_descent`, with ``gap``; ``history`` has ``fun`` and ``gap``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or `L` is missing for "short".

    See Also
    --------
    rate : "frank_wolfe".

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> b = np.array([0.2, 0.5, 0.3])
    >>> result = frank_wolfe(lambda x: 0.5 * np.sum((x - b) ** 2), [1.0, 0.0, 0.0],
    ...                      jac=lambda x: x - b, lmo=lambda g: np.eye(3)[g.argmin()],
    ...                      step="exact", gap_tol=1e-6)
    >>> bool(result.fun < result.gap <= 1e-6)
    True
    """
    check_unused("frank_wolfe", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints)
    check_callable("lmo", lmo)
    check_option("step", step, ["open-loop", "short", "exact"])
    if L is not None:
        L = check_real("L", L, above=0)
    elif step == "short":
        raise ValueError("L must be given for step='short'")
    oracle = Oracle(fun, x0, args, jac)

    def states() -> Iterator[State]:
        x, g, t = oracle.x0, oracle.gradient(oracle.x0), 0
        while True:
            t += 1
            towards = oracle.read("lmo", lmo(g.copy())) - x
            gap = -inner(g, towards)
            yield State(x, jac=g, residual=gap, trace={"gap": gap})
            if step == "exact":
                _, x, g = line_minimum(oracle, x, towards, 0.0, 1.0, {0.0: g})
                continue
            if step == "short":
                share = min(1.0, max(gap, 0.0) / (float(L) * inner(towards, towards)))  # type: ignore[arg-type]
            else:
                share = 2 / (t + 1)
            x = x + share * towards
            g = oracle.gradient(x)

    return drive(
        oracle,
        states(),
        maxiter=maxiter,
        tol=gap_tol,
        tol_name="gap_tol",
        measure="the duality gap",
        callback=callback,
        record=record,
    )


def nuclear_ball_lmo(G: Any, radius: float = 1.0) -> Floats:
    """Return the matrix of nuclear norm <= radius that minimises <G, S>, from one singular pair.

    Parameters
    ----------
    G : array_like or sparse array, shape (m, n)
        A gradient.
    radius : float, default 1.0
        > 0.

    Returns
    -------
    ndarray, shape (m, n)
        -radius u v', for the leading singular pair u, v of G.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Examples
    --------
    >>> nuclear_ball_lmo([[3.0, 0.0], [0.0, 1.0]], 2.0) + 0.0
    array([[-2.,  0.],
           [ 0.,  0.]])
    """
    radius = check_real("radius", radius, above=0)
    if issparse(G):
        G = G.astype(np.float64)
        check_array("G", G.data)
    else:
        G = check_array("G", G, ndim=2)
    if 0 in G.shape:
        raise ValueError(f"G must not be empty, got shape {G.shape}")
    if min(G.shape) <= SMALL:
        dense = G.toarray() if issparse(G) else G
        left, _, right = np.linalg.svd(dense, full_matrices=False)
    elif not abs(G).max() > 0:
        left, right = np.eye(G.shape[0], 1), np.eye(1, G.shape[1])
    else:
        guess = np.random.default_rng(0).normal(size=min(G.shape))
        left, _, right = svds(G, k=1, v0=guess)
    atom: Floats = -radius * np.outer(left[:, 0], right[0])
    return atom
