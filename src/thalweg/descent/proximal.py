"""Minimise a smooth function plus a simple one: lasso, group lasso, low rank, constraints.

The simple term enters by its proximal operator ``prox(v, t)``, the minimiser of
g(x) + ‖x - v‖² / (2 t). Those of the usual terms are here; those of sets are their projections
(`thalweg.descent.project_simplex` and the like), which do not depend on t.

Source: "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 5.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_array, check_real
from thalweg.descent._first_order import (
    Forward,
    accelerated_states,
    forward_step,
    gradient_states,
)
from thalweg.descent._oracle import Oracle, State, check_callable, check_unused, drive
from thalweg.descent.projections import project_box

Floats = NDArray[np.float64]
Prox = Callable[[Floats, float], ArrayLike]


def proximal_gradient(
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
    prox: Prox,
    L: float,
    g: Callable[[Floats], Any] | None = None,
    gtol: float = 1e-10,
    maxiter: int = 10_000,
) -> OptimizeResult:
    r"""Minimise f + g by forward-backward steps (ISTA where g is the l1 norm).

    .. math:: x_{t+1} = prox_{g/L}(x_t - \nabla f(x_t) / L)

    Parameters
    ----------
    fun : callable
        The smooth part f, as in `gradient_descent`.
    x0, args, callback, record, hess, hessp, bounds, constraints, maxiter
        As in `gradient_descent`.
    jac : callable, True or None
        The gradient of f, as in `gradient_descent`.
    prox : callable
        ``prox(v, t)``, the minimiser of g(x) + ‖x - v‖² / (2 t).
    L : float
        Lipschitz constant of the gradient of f.
    g : callable, optional
        ``g(x) -> float``; only the values reported need it.
    gtol : float, default 1e-10
        Stop when no entry of L (x_t - x_{t+1}) is larger.

    Returns
    -------
    OptimizeResult
        As of `gradient_descent`: ``fun`` and ``history["fun"]`` are f + g if `g` is given, else f;
        ``jac`` is the gradient of f.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    See Also
    --------
    rate : "proximal_gradient".

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> b = np.array([3.0, -0.5])
    >>> proximal_gradient(lambda x: 0.5 * np.sum((x - b) ** 2), [0.0, 0.0], jac=lambda x: x - b,
    ...                   prox=prox_l1, L=1.0).x
    array([ 2., -0.])
    """
    check_unused(
        "proximal_gradient", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints
    )

    def states(oracle: Oracle, forward: Forward, L: float) -> Iterator[State]:
        return gradient_states(oracle, oracle.x0, forward, 1 / L)

    return _minimise(states, fun, x0, args, jac, callback, record, prox, L, g, gtol, maxiter)


def fista(
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
    prox: Prox,
    L: float,
    g: Callable[[Floats], Any] | None = None,
    gtol: float = 1e-10,
    maxiter: int = 10_000,
) -> OptimizeResult:
    r"""Minimise f + g by accelerated forward-backward steps, the square root of ISTA's number.

    .. math:: y_{t+1} = prox_{g/L}(x_t - \nabla f(x_t) / L), \qquad
              x_{t+1} = y_{t+1} + \frac{\lambda_t - 1}{\lambda_{t+1}} (y_{t+1} - y_t)

    Parameters
    ----------
    fun, x0, args, jac, callback, record, hess, hessp, bounds, constraints, prox, L, g, maxiter
        As in `proximal_gradient`.
    gtol : float, default 1e-10
        As in `proximal_gradient`, at y_t; it is looked at once the same at x_t is that small.

    Returns
    -------
    OptimizeResult
        As of `proximal_gradient`, for the points y_t.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    See Also
    --------
    rate : "fista".

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> A, b = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([4.0, 1.0])
    >>> result = fista(lambda x: 0.5 * np.sum((A @ x - b) ** 2), [0.0, 0.0],
    ...                jac=lambda x: A.T @ (A @ x - b), prox=prox_l1, L=6.0,
    ...                g=lambda x: np.abs(x).sum())
    >>> result.x.round(6) + 0.0, round(result.fun, 6)
    (array([0. , 1.6]), 2.1)
    """
    check_unused("fista", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints)

    def states(oracle: Oracle, forward: Forward, L: float) -> Iterator[State]:
        return accelerated_states(oracle, oracle.x0, forward, L, 0.0, gtol)

    return _minimise(states, fun, x0, args, jac, callback, record, prox, L, g, gtol, maxiter)


def prox_l1(v: ArrayLike, t: ArrayLike) -> Floats:
    """Return the minimiser of t ‖x‖_1 + ‖x - v‖² / 2: soft thresholding.

    Parameters
    ----------
    v : array_like
        A point.
    t : float or array_like
        Threshold >= 0, one for all or one for each entry.

    Returns
    -------
    ndarray
        Of the shape of `v`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Examples
    --------
    >>> prox_l1([3.0, -0.5], 1.0)
    array([ 2., -0.])
    """
    v, t = check_array("v", v), check_array("t", t)
    if np.any(t < 0):
        raise ValueError(f"t must be >= 0, got {float(t.min())!r}")
    return np.sign(v) * np.maximum(np.abs(v) - t, 0.0)


def prox_group(v: ArrayLike, t: float, groups: ArrayLike) -> Floats:
    """Return the minimiser of t (sum of the groups' Euclidean norms) + ‖x - v‖² / 2.

    Parameters
    ----------
    v : array_like, shape (n,)
        A point.
    t : float
        Threshold >= 0.
    groups : array_like of int, shape (n,)
        Label of every entry, >= 0: the entries of one label are a group.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Examples
    --------
    >>> prox_group([3.0, 4.0, 0.5], 1.0, [0, 0, 1])
    array([2.4, 3.2, 0. ])
    """
    v = check_array("v", v, ndim=1)
    t = check_real("t", t, at_least=0)
    labels = check_array("groups", groups, shape=v.shape, dtype=None)
    if labels.dtype.kind not in "iu" or (labels < 0).any():
        raise ValueError(f"groups must hold integers >= 0, got {labels!r}")
    lengths = np.sqrt(np.bincount(labels, v**2))
    shrink = 1 - np.divide(t, lengths, out=np.ones_like(lengths), where=lengths > t)
    return v * shrink[labels]


def prox_nuclear(V: ArrayLike, t: float) -> Floats:
    """Return the minimiser of t (sum of singular values of X) + ‖X - V‖_F² / 2.

    Parameters
    ----------
    V : array_like, shape (m, n)
        A matrix.
    t : float
        Threshold >= 0.

    Returns
    -------
    ndarray, shape (m, n)

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Examples
    --------
    >>> prox_nuclear([[3.0, 0.0], [0.0, 0.5]], 1.0)
    array([[2., 0.],
           [0., 0.]])
    """
    V = check_array("V", V, ndim=2)
    t = check_real("t", t, at_least=0)
    left, values, right = np.linalg.svd(V, full_matrices=False)
    shrunk: Floats = (left * np.maximum(values - t, 0.0)) @ right
    return shrunk


def prox_squared(v: ArrayLike, t: float) -> Floats:
    """Return the minimiser of t ‖x‖² / 2 + ‖x - v‖² / 2.

    Parameters
    ----------
    v : array_like
        A point.
    t : float
        Weight >= 0.

    Returns
    -------
    ndarray
        Of the shape of `v`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Examples
    --------
    >>> prox_squared([3.0], 0.5)
    array([2.])
    """
    return check_array("v", v) / (1 + check_real("t", t, at_least=0))


def prox_box(v: ArrayLike, lo: ArrayLike, hi: ArrayLike) -> Floats:
    """Return the nearest point of the box lo <= x <= hi: `project_box` by the name of its use.

    As an argument: ``prox=lambda v, t: prox_box(v, lo, hi)``.

    Parameters
    ----------
    v : array_like
        A point.
    lo, hi : array_like
        Bounds, which broadcast against `v`.

    Returns
    -------
    ndarray
        Of the shape of `v`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed or `lo` exceeds `hi` somewhere.

    Examples
    --------
    >>> prox_box([-1.0, 0.5], 0.0, 1.0)
    array([0. , 0.5])
    """
    return project_box(check_array("v", v), lo, hi)


def _minimise(
    states: Callable[[Oracle, Forward, float], Iterator[State]],
    fun: Any,
    x0: ArrayLike,
    args: Any,
    jac: Any,
    callback: Any,
    record: bool,
    prox: Prox,
    L: float,
    g: Any,
    gtol: float,
    maxiter: int,
) -> OptimizeResult:
    check_callable("prox", prox)
    check_callable("g", g, optional=True)
    L = check_real("L", L, above=0)
    gtol = check_real("gtol", gtol, at_least=0)
    oracle = Oracle(fun, x0, args, jac, penalty=g)
    forward = forward_step(oracle, prox, name="prox")
    return drive(
        oracle,
        states(oracle, forward, L),
        maxiter=maxiter,
        tol=gtol,
        measure="the largest entry of the gradient mapping",
        callback=callback,
        record=record,
    )
