r"""Follow a finite sum's gradient by recursion from point to point: SARAH and hybrid SGD.

The estimate at the last point is carried to the new one by the difference of a few components'
gradients: no table and no snapshot. The estimate is biased, but its error stays small while steps
are short, which gives the best known complexity on functions that are not convex. `hybrid_sgd`
mixes in fresh gradients, so that errors fade and no epoch must begin again with a full gradient.

Linear models of `thalweg.descent.problems` run in compiled loops, any other `FiniteSum` in Python;
both follow the same random numbers.

Source: "Gradient Descent-Type Methods: Background and Simple Unified Convergence Analysis" (2022),
arXiv 2212.09413, on variance-reduced methods.
"""

from __future__ import annotations

import math
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeResult

from thalweg._validation import check_count, check_option, check_real
from thalweg.descent import _variance_reduction_kernels as kernels
from thalweg.descent._stochastic_runs import Callback
from thalweg.descent._variance_reduction_runs import (
    EPOCHS,
    Batches,
    Floats,
    Run,
    Schedule,
    check_gtol,
    check_inner_steps,
    gradient_of,
    python_steps,
    squared_norm,
)
from thalweg.descent.problems import FiniteSum

OPTIONS = ("last", "random", "plus")
GAMMA = 0.125


def sarah(
    problem: FiniteSum,
    x0: ArrayLike,
    *,
    step: Schedule,
    n_epochs: int = EPOCHS,
    inner_steps: int | None = None,
    batch_size: int = 1,
    option: str = "last",
    gamma: float = GAMMA,
    gtol: float = 0.0,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    callback: Callback | None = None,
    executor: Executor | None = None,
) -> OptimizeResult:
    r"""Minimise a finite sum by stochastic recursive gradient steps.

    An epoch takes m steps :math:`w_{t+1} = w_t - \eta v_t`, with the gradient of the whole sum
    first, then with batches B of components drawn with replacement:

    .. math:: v_0 = \nabla F(w_0), \qquad v_t = \nabla f_B(w_t) - \nabla f_B(w_{t-1}) + v_{t-1}

    Parameters
    ----------
    problem, x0, batch_size, rng, record, callback, executor
        As in `svrg`.
    step : float, array_like of shape (n_epochs inner_steps,) or callable
        Step lengths > 0; a callable gets k = 0, 1, ..., the number of steps before.
    n_epochs : int, default 30
        Epochs.
    inner_steps : int, optional
        Steps m an epoch, the one with the whole gradient included; 2 n by default.
    option : {"last", "random", "plus"}, default "last"
        Where the next epoch begins: at the last point, at a random one of w_0, ..., w_m, or, by the
        rule of SARAH+, at the last point of an epoch that ends early, once
        ‖v_t‖² < gamma ‖v_0‖².
    gamma : float, default 0.125
        Of "plus", 0 < gamma < 1.
    gtol : float, default 0.0
        Stop when the gradient at the beginning of an epoch has no larger norm.

    Returns
    -------
    OptimizeResult
        As of `svrg`: ``x`` is where the next epoch would begin.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, before any work.

    See Also
    --------
    recursion_rate : what the theorem guarantees for one epoch: "sarah-nonconvex".

    References
    ----------
    "Gradient Descent-Type Methods: Background and Simple Unified Convergence Analysis" (2022),
    arXiv 2212.09413.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> problem = LeastSquares([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [1.0, 0.0, 1.0])
    >>> result = sarah(problem, [5.0, 5.0], step=0.1, n_epochs=60, inner_steps=20, rng=0)
    >>> bool(abs(result.jac).max() < 1e-12)
    True
    """
    n_epochs = check_count("n_epochs", n_epochs, at_least=0)
    check_option("option", option, OPTIONS)
    gamma = check_real("gamma", gamma, above=0, below=1)
    gtol = check_gtol(gtol)
    m = check_inner_steps(problem, inner_steps)
    run = Run(problem, x0, step, n_epochs * m, batch_size, rng, record, callback)
    x, kept = run.x, np.zeros_like(run.x)
    before, v = np.zeros_like(x), np.zeros_like(x)
    mode = kernels.RANDOM if option == "random" else kernels.LAST
    enough, first, pick = -1.0, 0, -1

    def draw(count: int) -> Batches:
        return run.batches(run.rng.random((count, run.batch_size)))

    def begin(x: Floats, drawn: Any, k: int) -> Floats:
        before[:] = x
        return v

    def in_python(batches: Batches, steps: Floats) -> int:
        for t, batch in enumerate(batches):
            kernels.keep_point(mode, pick, run.taken - first + t, x, kept)
            v[:] += gradient_of(problem, x, batch) - gradient_of(problem, before, batch)
            moved = x - steps[t] * v
            if not np.isfinite(moved).all():
                return t
            before[:], x[:] = x, moved
            if v @ v < enough:
                run.left = True
                return t + 1
        return len(steps)

    def compiled(batches: Batches, steps: Floats) -> int:
        managed, run.left = kernels.sarah_steps(
            *run.model, batches, steps, enough, mode, pick - (run.taken - first), kept, before, v, x
        )
        return int(managed)

    jac = None
    for _ in range(n_epochs):
        jac = run.full_gradient(x, executor)
        if squared_norm(jac) <= gtol**2:
            break
        v[:], jac, first = jac, None, run.taken
        enough = gamma * squared_norm(v) if option == "plus" else -1.0
        pick = int(run.rng.random() * (m + 1)) if mode == kernels.RANDOM else -1
        if pick == 0:
            kept[:] = x
        run.advance(1, lambda count: [None], python_steps(run, begin), cost=0)
        run.advance(m - 1, draw, compiled if run.linear else in_python, cost=2 * run.batch_size)
        if run.status:
            break
        if 0 <= pick < m:
            x[:] = kept
        if not run.iterated():
            break
    return run.result("epochs", jac, gtol)


def hybrid_sgd(
    problem: FiniteSum,
    x0: ArrayLike,
    *,
    step: Schedule,
    n_steps: int,
    beta: float | None = None,
    batch_size: int = 1,
    initial_batch: int | None = None,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Minimise a finite sum along a mixture of SARAH's estimate and a stochastic gradient.

    With independent batches I and J drawn with replacement, :math:`w_{t+1} = w_t - \eta v_t` and

    .. math:: v_t = \beta (v_{t-1} + \nabla f_I(w_t) - \nabla f_I(w_{t-1}))
                    + (1 - \beta) \nabla f_J(w_t)

    Parameters
    ----------
    problem, x0, rng
        As in `svrg`.
    step : float, array_like of shape (n_steps,) or callable
        Step lengths > 0.
    n_steps : int
        Steps, that along v_0 included.
    beta : float, optional
        Share of the recursive estimate, 0 to 1: 0 is SGD, 1 is SARAH without new beginnings.
        1 - 1 / sqrt(n_steps + 1) by default.
    batch_size : int, default 1
        Components of I and of J, 1 to n. I is not evaluated if beta is 0, J not if it is 1.
    initial_batch : int, optional
        Distinct components of v_0; n by default.
    record : bool, default False
        Whether ``history`` is kept, with an entry after each n / batch_size steps.
    callback : callable, optional
        ``callback(state)`` after each step, as in `svrg`.

    Returns
    -------
    OptimizeResult
        As of `svrg`, for the last point; ``nit`` counts steps.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, before any work.

    References
    ----------
    "Gradient Descent-Type Methods: Background and Simple Unified Convergence Analysis" (2022),
    arXiv 2212.09413. The default `beta` is of the paper's order.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> problem = LeastSquares([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [1.0, 0.0, -2.0])
    >>> hybrid_sgd(problem, [5.0, 5.0], step=0.1, n_steps=500, rng=0).x.round(3) + 0.0
    array([ 1., -1.])
    """
    n_steps = check_count("n_steps", n_steps, at_least=0)
    if beta is None:
        beta = 1 - 1 / math.sqrt(n_steps + 1)
    beta = check_real("beta", beta, at_least=0, at_most=1)
    n = getattr(problem, "n", 1)
    size = n if initial_batch is None else check_count("initial_batch", initial_batch, at_most=n)
    run = Run(problem, x0, step, n_steps, batch_size, rng, record, callback)
    x, b = run.x, run.batch_size
    before, v = np.zeros_like(x), np.zeros_like(x)

    def draw(count: int) -> tuple[Batches, Batches]:
        batches = run.batches(run.rng.random((count, 2 * b)))
        return batches[:, :b], batches[:, b:]

    def direction(x: Floats, drawn: tuple[Batches, Batches], k: int) -> Floats:
        if k == 0:
            if size == n:
                v[:] = run.full_gradient(x)
            else:
                v[:] = gradient_of(problem, x, run.rng.choice(n, size, replace=False))
                run.n_grad += size
        else:
            v[:] *= beta
            if beta > 0:
                change = gradient_of(problem, x, drawn[0]) - gradient_of(problem, before, drawn[0])
                v[:] += beta * change
            if beta < 1:
                v[:] += (1 - beta) * gradient_of(problem, x, drawn[1])
        before[:] = x
        return v

    def in_python(drawn: tuple[Batches, Batches], steps: Floats) -> int:
        return along(list(zip(*drawn, strict=True)), steps)

    def compiled(drawn: tuple[Batches, Batches], steps: Floats) -> int:
        return kernels.hybrid_steps(*run.model, *drawn, steps, beta, before, v, x)

    along = python_steps(run, direction)
    cost = (2 * b if beta > 0 else 0) + (b if beta < 1 else 0)
    run.iterate(min(n_steps, 1), lambda count: ([None], [None]), in_python, 0, last=n_steps)
    run.iterate(n_steps, draw, compiled if run.linear else in_python, cost=cost)
    return run.result("steps")
