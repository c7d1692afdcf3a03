r"""Fit a finite sum to machine precision with cheap one-component steps: SVRG and SAGA.

A stochastic gradient keeps its noise however near the minimiser it is taken, so that SGD with a
constant step stops short. Here the gradient of the same component at an earlier point is taken off
and the mean of all of those put back: no bias, and noise that vanishes as both points converge.

- `svrg`: an earlier point for all components, renewed once an epoch, which costs a full gradient;
- `loopless_svrg`: the same, renewed by the toss of a coin, with no length of an epoch to choose;
- `saga`: an earlier point for each component; half the gradients a step, and a table of n of them
  (n numbers for a linear model).

`sarah` and `hybrid_sgd` (`thalweg.descent.recursive_gradients`) estimate by recursion instead.
Linear models of `thalweg.descent.problems` run in compiled loops, any other `FiniteSum` in Python;
both follow the same random numbers.

Source: "Gradient Descent-Type Methods: Background and Simple Unified Convergence Analysis" (2022),
arXiv 2212.09413, on variance-reduced methods.
"""

from __future__ import annotations

from concurrent.futures import Executor

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_count, check_option, check_real
from thalweg.descent import _variance_reduction_kernels as kernels
from thalweg.descent._gradient_estimates import Anchor, GradientTable, SlopeTable
from thalweg.descent._stochastic_runs import Callback
from thalweg.descent._variance_reduction_runs import (
    EPOCHS,
    Batches,
    Floats,
    Run,
    Schedule,
    check_gtol,
    check_inner_steps,
    python_steps,
    squared_norm,
)
from thalweg.descent.problems import FiniteSum

OPTIONS = {"last": kernels.LAST, "random": kernels.RANDOM, "average": kernels.AVERAGE}


def svrg(
    problem: FiniteSum,
    x0: ArrayLike,
    *,
    step: Schedule,
    n_epochs: int = EPOCHS,
    inner_steps: int | None = None,
    batch_size: int = 1,
    option: str = "last",
    gtol: float = 0.0,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    callback: Callback | None = None,
    executor: Executor | None = None,
) -> OptimizeResult:
    r"""Minimise a finite sum by stochastic variance-reduced gradient steps.

    An epoch takes the gradient of the whole sum at the snapshot s, where it begins, and then m
    steps with batches B of components drawn with replacement:

    .. math:: w_{t+1} = w_t - \eta (\nabla f_B(w_t) - \nabla f_B(s) + \nabla F(s))

    Parameters
    ----------
    problem : FiniteSum
        What is minimised: an object with ``n``, ``dim``, ``value(w, idx=None)`` and
        ``gradient(w, idx=None)``, means over the components `idx` or all of them.
    x0 : array_like, shape (dim,)
        Start.
    step : float, array_like of shape (n_epochs inner_steps,) or callable
        Step lengths > 0; a callable gets k = 0, 1, ..., the number of steps before.
    n_epochs : int, default 30
        Epochs.
    inner_steps : int, optional
        Steps m an epoch; 2 n by default.
    batch_size : int, default 1
        Components a step, 1 to n.
    option : {"last", "random", "average"}, default "last"
        The next snapshot: the last point, a random one of w_0, ..., w_{m-1}, or their mean.
    gtol : float, default 0.0
        Stop when the gradient at a snapshot has no larger norm.
    rng : None, int or numpy.random.Generator, optional
        Draws the batches.
    record : bool, default False
        Whether ``history`` is kept, which evaluates the sum once an epoch.
    callback : callable, optional
        ``callback(state)`` after each epoch with ``x``, ``nit`` and ``n_grad``; StopIteration ends
        the run.
    executor : concurrent.futures.Executor, optional
        Spreads the gradients of the whole sum over chunks of components. Process pools and Dask
        must be able to pickle the problem, which is sent with each chunk.

    Returns
    -------
    OptimizeResult
        ``x`` (the last snapshot), ``fun`` and ``jac`` there, ``nit`` (epochs), ``n_grad``
        (component gradients, ``jac`` included), ``success``, ``status``, ``message`` and
        ``history``: arrays ``nit``, ``n_grad``, ``fun`` and ``x`` before the first and after each
        epoch, empty without `record`. Not successful are: a step that leaves the finite numbers
        (the last finite point is returned), a callback's stop, a `gtol` > 0 that was not reached.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, before any work.

    See Also
    --------
    recursion_rate : what the theorem guarantees: "svrg".

    Notes
    -----
    On a linear model the slopes at the snapshot are kept, so that a step costs one row; ``n_grad``
    counts two all the same.

    References
    ----------
    "Gradient Descent-Type Methods: Background and Simple Unified Convergence Analysis" (2022),
    arXiv 2212.09413.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> problem = LeastSquares([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [1.0, 0.0, 1.0])
    >>> result = svrg(problem, [5.0, 5.0], step=0.1, n_epochs=120, rng=0)
    >>> bool(abs(result.jac).max() < 1e-12), result.n_grad
    (True, 1803)
    """
    n_epochs = check_count("n_epochs", n_epochs, at_least=0)
    mode = OPTIONS[check_option("option", option, OPTIONS)]
    gtol = check_gtol(gtol)
    m = check_inner_steps(problem, inner_steps)
    run = Run(problem, x0, step, n_epochs * m, batch_size, rng, record, callback)
    x, kept, first, pick = run.x, np.zeros_like(run.x), 0, 0
    anchor = Anchor(run, executor)

    def draw(count: int) -> Batches:
        return run.batches(run.rng.random((count, run.batch_size)))

    def direction(x: Floats, batch: Batches, k: int) -> Floats:
        kernels.keep_point(mode, pick, k - first, x, kept)
        return anchor.direction(x, batch)

    def compiled(batches: Batches, steps: Floats) -> int:
        return kernels.svrg_steps(
            *run.model, batches, steps, anchor.slopes, anchor.mean, mode,
            pick - (run.taken - first), kept, x,
        )  # fmt: skip

    advance = compiled if run.linear else python_steps(run, direction)
    jac = None
    for _ in range(n_epochs):
        jac = anchor.move(x)
        if squared_norm(jac) <= gtol**2:
            break
        jac, first = None, run.taken
        kept[:] = 0.0
        pick = int(run.rng.random() * m) if mode == kernels.RANDOM else -1
        if not run.epoch(m, draw, advance, cost=2 * run.batch_size):
            break
        if mode != kernels.LAST:
            x[:] = kept / m if mode == kernels.AVERAGE else kept
        if not run.iterated():
            break
    return run.result("epochs", jac, gtol)


def loopless_svrg(
    problem: FiniteSum,
    x0: ArrayLike,
    *,
    step: Schedule,
    n_steps: int,
    prob: float | None = None,
    batch_size: int = 1,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Minimise a finite sum by SVRG steps whose snapshot is renewed by the toss of a coin.

    .. math:: w_{k+1} = w_k - \eta (\nabla f_B(w_k) - \nabla f_B(s_k) + \nabla F(s_k)), \qquad
              s_{k+1} = w_k \text{ with probability } p \text{, else } s_k

    Parameters
    ----------
    problem, x0, batch_size, rng
        As in `svrg`.
    step : float, array_like of shape (n_steps,) or callable
        Step lengths > 0.
    n_steps : int
        Steps.
    prob : float, optional
        Probability p of a new snapshot, 0 < p <= 1; 1 / n by default. With 1 the snapshot is the
        point one step back.
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

    See Also
    --------
    recursion_rate : what the theorem guarantees: "lsvrg".

    References
    ----------
    "Gradient Descent-Type Methods: Background and Simple Unified Convergence Analysis" (2022),
    arXiv 2212.09413.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> problem = LeastSquares([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [1.0, 0.0, 1.0])
    >>> result = loopless_svrg(problem, [5.0, 5.0], step=0.1, n_steps=500, rng=0)
    >>> bool(abs(result.jac).max() < 1e-12)
    True
    """
    n_steps = check_count("n_steps", n_steps, at_least=0)
    n = getattr(problem, "n", 1)
    prob = 1 / n if prob is None else check_real("prob", prob, above=0, at_most=1)
    run = Run(problem, x0, step, n_steps, batch_size, rng, record, callback)
    anchor = Anchor(run)
    if n_steps:
        anchor.move(run.x)

    def draw(count: int) -> tuple[Batches, NDArray[np.bool_]]:
        uniforms = run.rng.random((count, run.batch_size + 1))
        return run.batches(uniforms[:, :-1]), uniforms[:, -1] < prob

    def direction(x: Floats, drawn: tuple[Batches, bool], k: int) -> Floats:
        batch, coin = drawn
        estimate = anchor.direction(x, batch)
        if coin:
            anchor.move(x)
        return estimate

    def compiled(drawn: tuple[Batches, NDArray[np.bool_]], steps: Floats) -> int:
        batches, coins = drawn
        managed: int = kernels.loopless_steps(
            *run.model, batches, coins, steps, anchor.slopes, anchor.mean, run.x
        )
        run.n_grad += n * int(coins[: managed + 1].sum())
        return managed

    def in_python(drawn: tuple[Batches, NDArray[np.bool_]], steps: Floats) -> int:
        return step_along(list(zip(*drawn, strict=True)), steps)

    step_along = python_steps(run, direction)
    run.iterate(n_steps, draw, compiled if run.linear else in_python, cost=2 * run.batch_size)
    return run.result("steps")


def saga(
    problem: FiniteSum,
    x0: ArrayLike,
    *,
    step: Schedule,
    n_steps: int,
    batch_size: int = 1,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Minimise a finite sum by SAGA: steps corrected by a table of each component's last gradient.

    With the table T of the gradients at the points where each component was last drawn, the start
    for all of them at first,

    .. math:: w_{k+1} = w_k - \eta \Big(\frac{1}{b} \sum_{i \in B} (\nabla f_i(w_k) - T_i)
              + \frac{1}{n} \sum_i T_i\Big), \qquad
              T_i = \nabla f_i(w_k) \text{ for } i \in B

    Parameters
    ----------
    problem, x0, rng
        As in `svrg`; gradients of single components are asked of ``component_gradients`` where the
        problem has it.
    step : float, array_like of shape (n_steps,) or callable
        Step lengths > 0; 1 / (3 L_max) is the theorem's.
    n_steps : int
        Steps.
    batch_size : int, default 1
        Distinct components a step, 1 to n.
    record : bool, default False
        Whether ``history`` is kept, with an entry after each n / batch_size steps.
    callback : callable, optional
        ``callback(state)`` after each step, as in `svrg`.

    Returns
    -------
    OptimizeResult
        As of `svrg`, for the last point; ``nit`` counts steps, ``n_grad`` includes the table's n.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, before any work.

    See Also
    --------
    recursion_rate : what the theorem guarantees: "saga".

    Notes
    -----
    A problem with ``rows`` and ``scalar_gradient(w, idx)``, the derivatives of the losses by a_i·w,
    needs one number a component instead of a gradient. The rest of its gradients, l2 w, is the same
    for all components and taken exactly, so that with l2 > 0 a step differs from that of the table
    of whole gradients, by less noise.

    References
    ----------
    "Gradient Descent-Type Methods: Background and Simple Unified Convergence Analysis" (2022),
    arXiv 2212.09413.

    Examples
    --------
    >>> from thalweg.descent import Logistic
    >>> problem = Logistic([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [1, -1, 1], l2=0.1)
    >>> result = saga(problem, [5.0, 5.0], step=0.3, n_steps=600, rng=0)
    >>> bool(abs(result.jac).max() < 1e-12), result.n_grad
    (True, 606)
    """
    n_steps = check_count("n_steps", n_steps, at_least=0)
    run = Run(problem, x0, step, n_steps, batch_size, rng, record, callback)
    if n_steps == 0:
        return run.result("steps")

    def draw(count: int) -> Batches:
        return run.batches(run.rng.random((count, run.batch_size)), replace=False)

    if run.linear:
        slopes, mean = run.slopes(run.x)

        def compiled(batches: Batches, steps: Floats) -> int:
            return kernels.saga_steps(*run.model, batches, steps, slopes, mean, run.x)

        run.iterate(n_steps, draw, compiled, cost=run.batch_size)
    else:
        scalar = hasattr(problem, "rows") and hasattr(problem, "scalar_gradient")
        table = (SlopeTable if scalar else GradientTable)(problem, run.x)
        run.n_grad += problem.n
        along = python_steps(run, lambda x, batch, k: table.direction(x, batch))
        run.iterate(n_steps, draw, along, cost=run.batch_size)
    return run.result("steps")
