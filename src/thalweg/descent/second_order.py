"""Newton's method for sums of many functions: sampled curvature, a few products a step.

The Hessian (`subsampled_newton_cg`) or the Gauss-Newton matrix (`gauss_newton`, for residuals and
networks) is never formed: conjugate gradients ask for its products with vectors, on a sample of the
components, and stop early. A product costs about as much as a gradient.

Source: "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, sections
6.1 (Algorithm 6.1) and 6.3.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_count, check_real
from thalweg.descent._counted_runs import (
    Batch,
    Batches,
    BrokenError,
    Callback,
    ConvergedError,
    Counted,
    check_batch,
    check_callback,
    check_point,
    follow,
)
from thalweg.descent.curvature_products import gauss_newton_product
from thalweg.descent.problems import FiniteSum

Floats = NDArray[np.float64]

ARMIJO = 1e-4
CG_TOL = 0.1
CG_ITERATIONS = 10
DAMPING = 1.0
GOOD_RATIO, POOR_RATIO = 0.75, 0.25
LESS_DAMPING, MORE_DAMPING = 2 / 3, 3 / 2
SHORTEST = 2.0**-50
ROUNDING = 8 * float(np.finfo(float).eps)
"""Relative rise of a value that is rounding: at the minimum Armijo's rule would see no fall."""


def subsampled_newton_cg(
    problem: FiniteSum,
    x0: ArrayLike,
    *,
    gradient_batch: int | None = None,
    hessian_batch: int | None = None,
    cg_tol: float = CG_TOL,
    cg_iterations: int = CG_ITERATIONS,
    line_search: bool = True,
    step: float = 1.0,
    armijo: float = ARMIJO,
    n_steps: int = 100,
    gtol: float = 1e-8,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    executor: Executor | None = None,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Minimise a finite sum by Newton steps with the Hessian of a sample, solved inexactly.

    .. math:: \nabla^2 f_{S_H}(x_k)\, p_k \approx -\nabla f_S(x_k), \qquad
              x_{k+1} = x_k + \alpha_k p_k

    Parameters
    ----------
    problem : FiniteSum
        What is minimised; it must have ``hessp(x, v, idx)``.
    x0 : array_like, shape (dim,)
        Start.
    gradient_batch, hessian_batch : int, optional
        Sizes of the samples S and S_H, drawn anew each step; None takes all components.
    cg_tol : float, default 0.1
        Conjugate gradients stop once the residual is cg_tol ‖gradient‖, in [0, 1).
    cg_iterations : int, default 10
        Most products with the Hessian a step.
    line_search : bool, default True
        Whether the step is halved until the value on S has fallen by Armijo's rule.
    step : float, default 1.0
        Step length, or the first one tried.
    armijo : float, default 1e-4
        Share of the predicted fall that is asked for, in (0, 1).
    n_steps : int, default 100
        Most steps.
    gtol : float, default 1e-8
        Stop when no entry of the gradient is larger; not looked at with `gradient_batch`.
    rng : None, int or numpy.random.Generator, optional
        Draws the samples.
    record : bool, default False
        Whether ``history`` is kept.
    executor : concurrent.futures.Executor, optional
        Evaluates values, gradients and products in blocks of components. Process pools and Dask
        must be able to pickle the problem.
    callback : callable, optional
        ``callback(state)`` after each step with ``x``, ``nit``, ``n_grad``; StopIteration ends the
        run.

    Returns
    -------
    OptimizeResult
        ``x``, ``fun``, ``nit``, ``n_grad`` (component gradients and products with Hessians of
        components), ``n_value`` (component values of line searches), ``passes`` (n_grad / n),
        ``success``, ``status``, ``message`` and ``history``: ``x`` of shape (nit + 1, dim) and
        ``n_grad`` (the cost of reaching each), ``cg_iterations`` and ``step``, one a step. Without
        `gradient_batch` success is to have reached `gtol`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed or the problem has no Hessian products, before any work.

    Notes
    -----
    Where the Hessian sample shows a direction of curvature <= 0, conjugate gradients return what
    they have, or the negative gradient if it was the first.

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, Algorithm 6.1.

    Examples
    --------
    >>> from thalweg.descent import Logistic
    >>> problem = Logistic([[1.0, 0.5], [-1.0, 0.3], [0.2, 1.0]], [1, -1, -1], l2=0.1)
    >>> result = subsampled_newton_cg(problem, [0.0, 0.0])
    >>> result.success, bool(np.abs(problem.gradient(result.x)).max() < 1e-8)
    (True, True)
    """
    counted = Counted(problem, ("hessp",), executor)
    start = check_point(counted, x0)
    cg_tol = check_real("cg_tol", cg_tol, at_least=0, below=1)
    cg_iterations = check_count("cg_iterations", cg_iterations)
    step = check_real("step", step, above=0)
    armijo = check_real("armijo", armijo, above=0, below=1)
    n_steps = check_count("n_steps", n_steps, at_least=0)
    draw = _Samples(counted, gradient_batch, hessian_batch, gtol, rng)
    check_callback(callback)
    trace: dict[str, list[Any]] = {"cg_iterations": [], "step": []}

    def move(x: Floats, k: int) -> Floats:
        S, S_H = draw.both()
        g = draw.gradient(x, S)
        solved = truncated_cg(lambda v: counted.hessp(x, v, S_H), g, cg_tol, cg_iterations)
        length = step
        if line_search:
            length = _armijo(counted, x, solved.direction, g, S, step, armijo)
        trace["cg_iterations"].append(solved.iterations)
        trace["step"].append(length)
        return x + length * solved.direction

    return follow(
        counted, start, move, n_steps=n_steps, record=record, callback=callback, trace=trace,
        converges=gradient_batch is None,
    )  # fmt: skip


def gauss_newton(
    problem: Any,
    x0: ArrayLike,
    *,
    gradient_batch: int | None = None,
    hessian_batch: int | None = None,
    damping: float = DAMPING,
    cg_tol: float = CG_TOL,
    cg_iterations: int = CG_ITERATIONS,
    armijo: float = ARMIJO,
    n_steps: int = 100,
    gtol: float = 1e-8,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    executor: Executor | None = None,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Minimise a sum of losses of nonlinear outputs by damped Gauss-Newton steps.

    .. math:: (G_{S_H}(x_k) + \lambda_k I)\, p_k \approx -\nabla f_S(x_k), \qquad
              G = \tfrac1{|S_H|} \sum_i J_i^T H_i J_i

    The matrix is positive semi-definite wherever the loss is convex in the outputs, whatever the
    Hessian is. The damping grows by 3/2 where the value fell by less than 1/4 of what the model
    without damping promised, and shrinks by 2/3 where it fell by more than 3/4.

    Parameters
    ----------
    problem : FiniteSum
        `thalweg.descent.curvature_products.ResidualSum` or alike (with ``residual``, ``jvp`` and
        ``vjp``, and ``output_hessp`` for a loss that is not ½ ‖·‖²), or a smooth linear model,
        whose Gauss-Newton matrix is the Hessian.
    x0, gradient_batch, hessian_batch, cg_tol, cg_iterations, armijo, n_steps, gtol
        As in `subsampled_newton_cg`.
    rng, record, executor, callback
        As in `subsampled_newton_cg`.
    damping : float, default 1.0
        The first lambda, >= 0; 0 stays 0.

    Returns
    -------
    OptimizeResult
        As of `subsampled_newton_cg`; ``history`` also has ``damping``, the lambda of each step.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, before any work.

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, section 6.3.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> problem = LeastSquares([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [1.0, 0.0, -2.0])
    >>> gauss_newton(problem, [5.0, 5.0], damping=0.0, cg_tol=0.0).x.round(6)
    array([ 1., -1.])
    """
    counted = Counted(problem, (), executor)
    start = check_point(counted, x0)
    gauss_newton_product(problem, start, np.zeros_like(start), np.zeros(1, dtype=np.int64))
    damping = check_real("damping", damping, at_least=0)
    cg_tol = check_real("cg_tol", cg_tol, at_least=0, below=1)
    cg_iterations = check_count("cg_iterations", cg_iterations)
    armijo = check_real("armijo", armijo, above=0, below=1)
    n_steps = check_count("n_steps", n_steps, at_least=0)
    draw = _Samples(counted, gradient_batch, hessian_batch, gtol, rng)
    check_callback(callback)
    trace: dict[str, list[Any]] = {"cg_iterations": [], "step": [], "damping": []}

    def move(x: Floats, k: int) -> Floats:
        nonlocal damping
        S, S_H = draw.both()
        g = draw.gradient(x, S)

        def product(v: Floats) -> Floats:
            return counted.product(gauss_newton_product, x, v, S_H) + damping * v

        solved = truncated_cg(product, g, cg_tol, cg_iterations)
        p = solved.direction
        # (G + damping) p = -g - residual, and the residual is orthogonal to p
        promised = 0.5 * float(g @ p - damping * (p @ p))
        before = counted.value(x, S)
        ratio = (counted.value(x + p, S) - before) / promised if promised < 0 else 0.0
        trace["damping"].append(damping)
        if ratio > GOOD_RATIO:
            damping *= LESS_DAMPING
        elif not ratio >= POOR_RATIO:
            damping *= MORE_DAMPING
        length = _armijo(counted, x, p, g, S, 1.0, armijo, before)
        trace["cg_iterations"].append(solved.iterations)
        trace["step"].append(length)
        return x + length * p

    return follow(
        counted, start, move, n_steps=n_steps, record=record, callback=callback, trace=trace,
        converges=gradient_batch is None,
    )  # fmt: skip


class Solved(NamedTuple):
    """What conjugate gradients found: p with A p = -g - residual."""

    direction: Floats
    residual: Floats
    iterations: int


def truncated_cg(
    product: Callable[[Floats], Floats], g: ArrayLike, tol: float, iterations: int
) -> Solved:
    """Solve A p = -g inexactly by conjugate gradients from p = 0, for any symmetric A.

    Parameters
    ----------
    product : callable
        ``product(v)``, A times v.
    g : array_like, shape (dim,)
        The gradient.
    tol : float
        Stop once ‖A p + g‖ <= tol ‖g‖.
    iterations : int
        Most products.

    Returns
    -------
    Solved
        ``direction`` p, ``residual`` -g - A p and ``iterations``, the products taken. A direction
        of curvature <= 0 ends it: p so far, or -g at the first (with the residual 0 - A g unknown,
        given as zero).

    Examples
    --------
    >>> truncated_cg(lambda v: 2 * v, [1.0, -3.0], tol=0.1, iterations=5).direction
    array([-0.5,  1.5])
    >>> truncated_cg(lambda v: -v, [1.0, -3.0], tol=0.1, iterations=5).direction
    array([-1.,  3.])
    """
    g = np.asarray(g, dtype=np.float64)
    p, r = np.zeros_like(g), -g
    d, square = r, float(g @ g)
    target = tol * np.sqrt(square)
    done = 0
    while done < iterations and square > 0:
        along = product(d)
        done += 1
        curvature = float(d @ along)
        if curvature <= 0:
            if done == 1:
                return Solved(-g, np.zeros_like(g), done)
            break
        length = square / curvature
        p, r = p + length * d, r - length * along
        square, last = float(r @ r), square
        if np.sqrt(square) <= target:
            break
        d = r + (square / last) * d
    return Solved(p, r, done)


class _Samples:
    """The samples of gradients and curvature of a run, checked, and when its gradient is small."""

    def __init__(
        self,
        counted: Counted,
        gradient_batch: int | None,
        hessian_batch: int | None,
        gtol: float,
        rng: Any,
    ) -> None:
        self.counted = counted
        self.size = check_batch("gradient_batch", gradient_batch, counted.n)
        self.hessian_size = check_batch("hessian_batch", hessian_batch, counted.n)
        self.gtol = check_real("gtol", gtol, at_least=0)
        self.batches = Batches(np.random.default_rng(rng), counted.n)

    def both(self) -> tuple[Batch, Batch]:
        return self.batches.draw(self.size), self.batches.draw(self.hessian_size)

    def gradient(self, x: Floats, S: Batch) -> Floats:
        g = self.counted.gradient(x, S)
        if self.size is None and np.abs(g).max() <= self.gtol:
            raise ConvergedError(f"the largest entry of the gradient fell to gtol = {self.gtol:g}")
        return g


def _armijo(
    counted: Counted,
    x: Floats,
    p: Floats,
    g: Floats,
    S: Batch,
    first: float,
    share: float,
    before: float | None = None,
) -> float:
    """Return the first of first, first / 2, ... at which the value on S has fallen enough."""
    before = counted.value(x, S) if before is None else before
    slope, length = float(g @ p), first
    while length >= SHORTEST * first:
        ahead = counted.value(x + length * p, S)
        if ahead <= before + share * length * slope + ROUNDING * abs(before):
            return length
        length /= 2
    raise BrokenError("the line search found no step that decreases the value")
