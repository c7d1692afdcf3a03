"""Minimise a smooth function plus an l1 norm by second-order steps: sparse models in few gradients.

- `proximal_newton` keeps the norm exact and models the rest by a quadratic, which cyclic coordinate
  passes minimise: fewest gradients, for a Hessian that fits in memory or a quasi-Newton one.
- `orthant_newton` guesses the signs of the solution and takes Newton steps inside their orthant,
  by Hessian products alone.
- `l1_projected_gradient` writes w = u - v with u, v >= 0 and projects gradient steps: no curvature.

Source: "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, section 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_count, check_real
from thalweg.descent._first_order import backtracking_states
from thalweg.descent._l1_kernels import coordinate_passes
from thalweg.descent._oracle import (
    BreakdownError,
    Oracle,
    State,
    check_callable,
    check_unused,
    drive,
)
from thalweg.descent._quadratic_models import DenseModel, MemoryModel
from thalweg.descent._sparse_steps import (
    armijo_search,
    kkt_residual,
    pseudo_gradient,
    sparse_oracle,
    sparse_state,
)
from thalweg.descent.second_order import truncated_cg

Floats = NDArray[np.float64]

CG_TOL = 0.1
CG_ITERATIONS = 50
MEASURE = "the largest entry of w - soft(w - gradient, lam)"


def proximal_newton(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: Any = (),
    *,
    jac: Any = None,
    hess: Any = "lbfgs",
    lam: float,
    gtol: float = 1e-8,
    maxiter: int = 100,
    inner_sweeps: int = 20,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    record: bool = False,
    callback: Callable[..., Any] | None = None,
) -> OptimizeResult:
    r"""Minimise f + lam ‖·‖_1 by Newton's method on f, the norm kept exact.

    .. math:: d_k \approx \arg\min_d\; \nabla f(w_k) \cdot d + \tfrac12 d \cdot H_k d
              + \lambda \|w_k + d\|_1, \qquad w_{k+1} = w_k + \alpha_k d_k

    with :math:`\alpha_k` the first of 1, 1/2, ... for which the sum falls by 1e-4 of
    :math:`\alpha_k (\nabla f \cdot d + \lambda \|w + d\|_1 - \lambda \|w\|_1)`.

    Parameters
    ----------
    fun : callable
        The smooth part f, ``fun(w, *args) -> float``; with ``jac=True``, ``(value, gradient)``.
    x0 : array_like, shape (dim,)
        Start.
    args : tuple, default ()
        Further arguments of `fun`, `jac` and `hess`.
    jac : callable, True or None
        The gradient of f; central differences if None.
    hess : callable or "lbfgs", default "lbfgs"
        ``hess(w, *args)``, the Hessian of f, positive semi-definite, shape (dim, dim); or (also for
        None) a multiple of the identity plus ten L-BFGS pairs.
    lam : float
        Weight of the norm, >= 0.
    gtol : float, default 1e-8
        Stop when no entry of w - soft(w - ∇f(w), lam) is larger.
    maxiter : int, default 100
        Most steps.
    inner_sweeps : int, default 20
        Passes over the coordinates a step.
    hessp, bounds, constraints
        Refused unless empty; `scipy.optimize.minimize` passes them.
    record : bool, default False
        Whether ``history`` is kept.
    callback : callable, optional
        As in `thalweg.descent.gradient_descent`.

    Returns
    -------
    OptimizeResult
        As of `thalweg.descent.gradient_descent`: ``fun`` includes the norm, ``jac`` is the gradient
        of f, and ``residual`` is what `gtol` bounds.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, section 8.

    Examples
    --------
    >>> H, b = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([3.0, 0.9])
    >>> result = proximal_newton(lambda w: 0.5 * w @ H @ w - b @ w, [0.0, 0.0],
    ...                          jac=lambda w: H @ w - b, hess=lambda w: H, lam=0.5)
    >>> result.x, result.nit
    (array([1.25, 0.  ]), 1)
    """
    check_unused("proximal_newton", hessp=hessp, bounds=bounds, constraints=constraints)
    memory = hess is None or isinstance(hess, str)
    if isinstance(hess, str) and hess != "lbfgs":
        raise ValueError(f"hess must be callable or 'lbfgs', got {hess!r}")
    if not memory:
        check_callable("hess", hess)
    inner_sweeps = check_count("inner_sweeps", inner_sweeps)
    oracle, lam = sparse_oracle(fun, x0, args, jac, lam)
    model = MemoryModel(oracle.x0) if memory else DenseModel(hess, args, oracle.x0.size)

    def states() -> Iterator[State]:
        w = oracle.x0
        total, g = oracle.objective(w), oracle.gradient(w)
        while True:
            yield sparse_state(w, total, g, lam)
            matrix, scale, left, right = model.parts(w, g)
            d = coordinate_passes(matrix, scale, left, right, w, g, lam, inner_sweeps)
            if not np.isfinite(d).all():
                raise BreakdownError("the quadratic model has no minimum; hess must be >= 0")
            delta = float(g @ d) + lam * float(np.abs(w + d).sum() - np.abs(w).sum())
            w, total = armijo_search(oracle, w, d, total, slope=delta)
            g = oracle.gradient(w)

    return drive(
        oracle, states(), maxiter=maxiter, tol=gtol, measure=MEASURE, record=record,
        callback=callback,
    )  # fmt: skip


def orthant_newton(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: Any = (),
    *,
    jac: Any = None,
    hess: Any = None,
    hessp: Any = None,
    lam: float,
    gtol: float = 1e-8,
    maxiter: int = 100,
    cg_tol: float = CG_TOL,
    cg_iterations: int = CG_ITERATIONS,
    bounds: Any = None,
    constraints: Any = (),
    record: bool = False,
    callback: Callable[..., Any] | None = None,
) -> OptimizeResult:
    r"""Minimise f + lam ‖·‖_1 by Newton-CG steps inside the orthant of the signs.

    The pseudo-gradient is the subgradient of least norm. Variables that are zero and have none
    stay; on the others conjugate gradients solve :math:`H d = -pg`, and points of the line search
    that leave the orthant sign(w), or -sign(pg) where w is zero, are projected on it.

    Parameters
    ----------
    fun, x0, args, jac, lam, gtol, maxiter, bounds, constraints, record, callback
        As in `proximal_newton`.
    hess : callable, optional
        ``hess(w, *args)``, the Hessian of f, shape (dim, dim).
    hessp : callable, optional
        ``hessp(w, v, *args)``, its product with v; one of the two is needed.
    cg_tol : float, default 0.1
        Conjugate gradients stop once the residual is cg_tol ‖pg‖; in [0, 1).
    cg_iterations : int, default 50
        Most products a step.

    Returns
    -------
    OptimizeResult
        As of `proximal_newton`, and ``nhev``, the products with the Hessian.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Notes
    -----
    Where no point along the Newton direction is low enough, a step along the negative
    pseudo-gradient is taken.

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, section 8.

    Examples
    --------
    >>> H, b = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([3.0, 0.9])
    >>> orthant_newton(lambda w: 0.5 * w @ H @ w - b @ w, [0.0, 0.0],
    ...                jac=lambda w: H @ w - b, hess=lambda w: H, lam=0.5).x.round(6)
    array([1.25, 0.  ])
    """
    check_unused("orthant_newton", bounds=bounds, constraints=constraints)
    if (hess is None) == (hessp is None):
        raise ValueError("hess or hessp must be given, and not both")
    check_callable("hess" if hessp is None else "hessp", hess if hessp is None else hessp)
    cg_tol = check_real("cg_tol", cg_tol, at_least=0, below=1)
    cg_iterations = check_count("cg_iterations", cg_iterations)
    oracle, lam = sparse_oracle(fun, x0, args, jac, lam)
    extra = args if isinstance(args, tuple) else (args,)
    dense = None if hess is None else DenseModel(hess, args, oracle.x0.size)
    products = 0

    def direction(w: Floats, pg: Floats, free: Any) -> Floats:
        nonlocal products
        matrix = None if dense is None else dense.matrix(w)[np.ix_(free, free)]
        room = np.zeros_like(w)

        def product(v: Floats) -> Floats:
            if matrix is not None:
                return np.asarray(matrix @ v)
            room[free] = v
            return oracle.read("hessp", hessp(w.copy(), room.copy(), *extra))[free]

        solved = truncated_cg(product, pg[free], cg_tol, cg_iterations)
        products += solved.iterations
        d = np.zeros_like(w)
        d[free] = solved.direction
        return d

    def states() -> Iterator[State]:
        w = oracle.x0
        total, g = oracle.objective(w), oracle.gradient(w)
        while True:
            state = sparse_state(w, total, g, lam)
            state.extra = {"nhev": products}
            yield state
            pg = pseudo_gradient(w, g, lam)
            orthant = np.where(w != 0, np.sign(w), -np.sign(pg))
            free = (w != 0) | (pg != 0)
            newton = direction(w, pg, free)
            try:
                w, total = armijo_search(oracle, w, newton, total, orthant=orthant, pg=pg)
            except BreakdownError:
                w, total = armijo_search(oracle, w, -pg, total, orthant=orthant, pg=pg)
            g = oracle.gradient(w)

    return drive(
        oracle, states(), maxiter=maxiter, tol=gtol, measure=MEASURE, record=record,
        callback=callback,
    )  # fmt: skip


def l1_projected_gradient(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: Any = (),
    *,
    jac: Any = None,
    lam: float,
    gtol: float = 1e-8,
    maxiter: int = 10_000,
    step: float = 1.0,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    record: bool = False,
    callback: Callable[..., Any] | None = None,
) -> OptimizeResult:
    r"""Minimise f + lam ‖·‖_1 as a smooth problem with bounds, by projected gradients.

    .. math:: \min_{u, v \ge 0}\; f(u - v) + \lambda \sum_j (u_j + v_j)

    Parameters
    ----------
    fun, x0, args, jac, lam, gtol, bounds, constraints, record, callback
        As in `proximal_newton`.
    maxiter : int, default 10000
        Most steps.
    step : float, default 1.0
        Step length tried first; later the last one doubled, halved until the value falls.
    hess, hessp
        Refused unless empty; `scipy.optimize.minimize` passes them.

    Returns
    -------
    OptimizeResult
        As of `proximal_newton`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, section 8.

    Examples
    --------
    >>> H, b = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([3.0, 0.9])
    >>> l1_projected_gradient(lambda w: 0.5 * w @ H @ w - b @ w, [0.0, 0.0],
    ...                       jac=lambda w: H @ w - b, lam=0.5).x.round(6)
    array([1.25, 0.  ])
    """
    check_unused(
        "l1_projected_gradient", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints
    )
    step = check_real("step", step, above=0)
    oracle, lam = sparse_oracle(fun, x0, args, jac, lam)
    dim = oracle.x0.size
    split: Any = _Split(oracle, lam)

    def forward(z: Floats, slope: Floats, length: float) -> tuple[Floats, float]:
        w, g = z[:dim] - z[dim:], slope[:dim] - lam
        return np.maximum(z - length * slope, 0.0), kkt_residual(w, g, lam)

    def states() -> Iterator[State]:
        w = oracle.x0
        start = np.concatenate([np.maximum(w, 0.0), np.maximum(-w, 0.0)])
        for state in backtracking_states(split, start, forward, step):
            u, v = state.x[:dim], state.x[dim:]
            assert state.fun is not None
            assert state.jac is not None
            total = state.fun - lam * float(state.x.sum() - np.abs(u - v).sum())
            yield sparse_state(u - v, total, state.jac[:dim] - lam, lam)

    return drive(
        oracle, states(), maxiter=maxiter, tol=gtol, measure=MEASURE, record=record,
        callback=callback,
    )  # fmt: skip


class _Split:
    """The oracle of u and v, one after the other, for w = u - v."""

    def __init__(self, oracle: Oracle, lam: float) -> None:
        self.oracle, self.lam, self.dim = oracle, lam, oracle.x0.size

    def value(self, z: Floats) -> float:
        return self.oracle.value(z[: self.dim] - z[self.dim :]) + self.lam * float(z.sum())

    def gradient(self, z: Floats) -> Floats:
        g = self.oracle.gradient(z[: self.dim] - z[self.dim :])
        return np.concatenate([g, -g]) + self.lam
