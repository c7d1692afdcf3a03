"""Stochastic gradients rescaled: by the Fisher information, or each variable by itself.

`natural_gradient` steps equally far in the distribution that the model predicts, however it is
parametrised. `diagonal_scaling` gives each variable a step of its own: by the size of its
gradients (RMSprop, AdaGrad) or by its curvature.

Source: "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, sections
6.4 and 6.5.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import OptimizeResult

from thalweg._validation import check_count, check_option, check_real
from thalweg.descent._counted_runs import (
    Batch,
    Batches,
    Callback,
    Counted,
    StepRule,
    check_batch,
    check_callback,
    check_point,
    check_steps,
    follow,
)
from thalweg.descent.curvature_products import (
    data_gradients,
    fisher_product,
    gauss_newton_diagonal,
)
from thalweg.descent.problems import FiniteSum
from thalweg.descent.second_order import truncated_cg

Floats = NDArray[np.float64]

DECAY = 0.9
OFFSET = 1e-8
FLOOR = 1e-3
CG_TOL = 1e-3
CG_ITERATIONS = 50
ONE = np.zeros(1, dtype=np.int64)


def natural_gradient(
    problem: FiniteSum,
    x0: ArrayLike,
    *,
    fisher: Literal["exact", "empirical"] = "exact",
    damping: float = 1e-3,
    step: StepRule,
    n_steps: int,
    batch_size: int = 50,
    cg_tol: float = CG_TOL,
    cg_iterations: int = CG_ITERATIONS,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Minimise a sum of negative log-likelihoods by natural gradient steps.

    .. math:: x_{k+1} = x_k - \alpha_k (F_S(x_k) + \lambda I)^{-1} \nabla f_S(x_k)

    Parameters
    ----------
    problem : FiniteSum
        What is minimised. Its components are negative log-likelihoods (up to constants and a
        squared norm); with ``fisher="exact"`` a smooth linear model or a problem with ``jvp``,
        ``vjp`` and natural parameters as outputs.
    x0 : array_like, shape (dim,)
        Start.
    fisher : {"exact", "empirical"}, default "exact"
        F is the mean over S of the expected outer product of scores under the model, or of the
        outer products of the gradients that the data give.
    damping : float, default 1e-3
        The lambda, > 0.
    step : float, array_like of shape (n_steps,) or callable
        Step lengths > 0; a callable gets k = 1, 2, ...
    n_steps : int
        Steps.
    batch_size : int, default 50
        Components in S.
    cg_tol, cg_iterations : float and int, default 1e-3 and 50
        Of the conjugate gradients that solve with the exact F; the empirical one is solved exactly.
    rng, record, callback
        As in `thalweg.descent.subsampled_newton_cg`.

    Returns
    -------
    OptimizeResult
        As of `thalweg.descent.subsampled_newton_cg`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed or the problem lacks what `fisher` needs, before any work.

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, section 6.4.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> problem = LeastSquares([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [1.0, 0.0, -2.0])
    >>> natural_gradient(problem, [5.0, 5.0], step=0.5, n_steps=60, batch_size=3).x.round(3)
    array([ 1., -1.])
    """
    check_option("fisher", fisher, ("exact", "empirical"))
    counted = Counted(problem, ("component_gradients",) if fisher == "empirical" else ())
    start = check_point(counted, x0)
    if fisher == "exact":
        fisher_product(problem, start, np.zeros_like(start), ONE)
    damping = check_real("damping", damping, above=0)
    n_steps = check_count("n_steps", n_steps, at_least=0)
    length = check_steps(step, n_steps)
    size = check_batch("batch_size", batch_size, counted.n)
    cg_tol = check_real("cg_tol", cg_tol, at_least=0, below=1)
    cg_iterations = check_count("cg_iterations", cg_iterations)
    check_callback(callback)
    batches = Batches(np.random.default_rng(rng), counted.n)

    def move(x: Floats, k: int) -> Floats:
        S = batches.draw(size)
        g = counted.gradient(x, S)
        if fisher == "empirical":
            return x - length(k) * solve_outer(data_gradients(problem, x, S), g, damping)

        def product(v: Floats) -> Floats:
            return counted.product(fisher_product, x, v, S) + damping * v

        return x + length(k) * truncated_cg(product, g, cg_tol, cg_iterations).direction

    return follow(counted, start, move, n_steps=n_steps, record=record, callback=callback)


def solve_outer(gradients: ArrayLike, g: ArrayLike, damping: float) -> Floats:
    """Return (mean of outer products of the gradients + damping I)^{-1} g, by Woodbury's identity.

    Parameters
    ----------
    gradients : array_like, shape (b, dim)
        One gradient a row.
    g : array_like, shape (dim,)
        Right-hand side.
    damping : float
        Greater than 0.

    Returns
    -------
    ndarray, shape (dim,)

    Examples
    --------
    >>> solve_outer([[2.0, 0.0], [0.0, 0.0]], [3.0, 1.0], damping=1.0)
    array([1., 1.])
    """
    G, g = np.asarray(gradients, dtype=np.float64), np.asarray(g, dtype=np.float64)
    small = G @ G.T + damping * len(G) * np.eye(len(G))
    solved: Floats = (g - G.T @ cho_solve(cho_factor(small), G @ g)) / damping
    return solved


def diagonal_scaling(
    problem: FiniteSum,
    x0: ArrayLike,
    *,
    rule: Literal["rmsprop", "adagrad", "hessian"],
    step: StepRule,
    n_steps: int,
    batch_size: int = 1,
    decay: float = DECAY,
    offset: float = OFFSET,
    floor: float = FLOOR,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Minimise a finite sum by stochastic gradients with a step length for each variable.

    ``"rmsprop"`` and ``"adagrad"`` divide by roots of averages or sums of squared gradients,

    .. math:: R_k = \lambda R_{k-1} + (1 - \lambda)\, g_k \circ g_k
              \quad\text{or}\quad R_k = R_{k-1} + g_k \circ g_k, \qquad
              x_{k+1} = x_k - \frac{\alpha_k}{\sqrt{R_k} + \mu} \circ g_k,

    and ``"hessian"`` by a running average of the Gauss-Newton diagonal, at least `floor`.

    Parameters
    ----------
    problem : FiniteSum
        What is minimised; for "hessian" a smooth linear model, or with
        ``gauss_newton_diagonal(x, idx)``.
    x0 : array_like, shape (dim,)
        Start.
    rule : {"rmsprop", "adagrad", "hessian"}
        As above.
    step : float, array_like of shape (n_steps,) or callable
        The alpha_k > 0; a callable gets k = 1, 2, ...
    n_steps : int
        Steps.
    batch_size : int, default 1
        Components a step.
    decay : float, default 0.9
        The lambda in [0, 1) of "rmsprop", which starts from R_0 = 0, and of "hessian", which starts
        from the first diagonal.
    offset : float, default 1e-8
        The mu > 0.
    floor : float, default 1e-3
        Least curvature of "hessian", > 0.
    rng, record, callback
        As in `thalweg.descent.subsampled_newton_cg`; batches are those of `thalweg.descent.sgd`
        with the same `rng`.

    Returns
    -------
    OptimizeResult
        As of `thalweg.descent.subsampled_newton_cg`; a diagonal counts as a product.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, before any work.

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, section 6.5.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> problem = LeastSquares([[1.0, 0.0], [0.0, 100.0]], [1.0, 100.0])
    >>> diagonal_scaling(problem, [0.0, 0.0], rule="hessian", step=1.0, n_steps=1, batch_size=2).x
    array([1., 1.])
    """
    check_option("rule", rule, ("rmsprop", "adagrad", "hessian"))
    counted = Counted(problem)
    start = check_point(counted, x0)
    if rule == "hessian":
        gauss_newton_diagonal(problem, start, ONE)
    n_steps = check_count("n_steps", n_steps, at_least=0)
    length = check_steps(step, n_steps)
    size = check_batch("batch_size", batch_size, counted.n)
    decay = check_real("decay", decay, at_least=0, below=1)
    offset = check_real("offset", offset, above=0)
    floor = check_real("floor", floor, above=0)
    check_callback(callback)
    batches = Batches(np.random.default_rng(rng), counted.n)
    scale = np.zeros_like(start)

    def diagonal(problem: Any, x: Floats, _: Floats, S: Batch) -> Floats:
        return gauss_newton_diagonal(problem, x, S)

    def move(x: Floats, k: int) -> Floats:
        nonlocal scale
        S = batches.draw(size)
        g = counted.gradient(x, S)
        if rule == "hessian":
            new = counted.product(diagonal, x, g, S)
            scale = new if k == 1 else decay * scale + (1 - decay) * new
            return x - length(k) * g / np.maximum(scale, floor)
        scale = scale + g * g if rule == "adagrad" else decay * scale + (1 - decay) * g * g
        return x - length(k) * g / (np.sqrt(scale) + offset)

    return follow(counted, start, move, n_steps=n_steps, record=record, callback=callback)
