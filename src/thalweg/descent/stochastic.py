"""Stochastic gradient descent and its kin: minibatches, momentum, projection, prox, Polyak steps.

Each step sees one component of a finite sum, or a few, drawn at random. Problems of
`thalweg.descent.problems` run in compiled loops; any other `FiniteSum`, and every run with a
projection, a proximal operator or the whole sum as its batch, in Python. Both follow the same
random numbers.

Source: "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2023, v3 2024), arXiv
2301.11235, sections 5 to 12.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.descent import _stochastic_kernels as kernels
from thalweg.descent._stochastic_runs import (
    Callback,
    Plan,
    check_schedule,
    check_start,
    check_weights,
)
from thalweg.descent.problems import FiniteSum, LinearModel

Floats = NDArray[np.float64]
Schedule = float | ArrayLike | Callable[[int], float]


def sgd(
    problem: FiniteSum,
    x0: ArrayLike,
    *,
    step: Schedule,
    n_steps: int,
    batch_size: int = 1,
    replace: bool = False,
    momentum: Schedule | str | None = None,
    average: str | ArrayLike | None = None,
    projection: Callable[[Floats], ArrayLike] | None = None,
    prox: Callable[[Floats, float], ArrayLike] | None = None,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Minimise a finite sum by stochastic gradient steps.

    With a batch B of components, step :math:`\gamma_t` and momentum :math:`\beta_t`

    .. math:: m_t = \beta_t m_{t-1} + \nabla f_B(x_t), \qquad
              x_{t+1} = \Pi(x_t - \gamma_t m_t)

    or, with a proximal operator, :math:`x_{t+1} = prox_{\gamma_t g}(x_t - \gamma_t m_t)`.
    With subgradients it is a subgradient method; with ``batch_size=problem.n``, gradient descent.

    Parameters
    ----------
    problem : FiniteSum
        What is minimised.
    x0 : array_like, shape (dim,)
        Start.
    step : float, array_like of shape (n_steps,) or callable
        Step lengths > 0; a callable gets t = 0, 1, ...
    n_steps : int
        Steps.
    batch_size : int, default 1
        Components a step, 1 to n.
    replace : bool, default False
        Whether one component may be drawn twice in a batch. Batches of different steps are
        independent either way.
    momentum : float, array_like, callable or "ima", optional
        The beta_t >= 0. "ima" is the iterate-averaging form of momentum, in which `step` is eta:
        z_{t+1} = z_t - eta_t ∇f_B(x_t), x_{t+1} = ((t + 1) x_t + 2 z_{t+1}) / (t + 3); for a
        constant eta it is gamma_t = 2 eta / (t + 3) and beta_t = t / (t + 2).
    average : {"uniform", "step", "linear"} or array_like of shape (n_steps,), optional
        Weights of x_0, ..., x_{n_steps-1} in ``x_average``: equal, gamma_t, t + 1, or given.
    projection : callable, optional
        ``projection(x)`` after every step.
    prox : callable, optional
        ``prox(v, gamma)``, the proximal operator of gamma g at v.
    rng : None, int or numpy.random.Generator, optional
        Draws the batches.
    record : bool, default False
        Whether to keep every point.
    callback : callable, optional
        ``callback(state)`` after each step with ``x`` and ``nit``; StopIteration ends the run.

    Returns
    -------
    OptimizeResult
        ``x``, ``x_average`` (None without `average`), ``fun`` (the problem's value at ``x``,
        without g), ``nit``, ``n_grad`` (component gradients), ``success``, ``status``, ``message``
        and ``history``: ``{"x": ...}`` of shape (nit + 1, dim), empty without `record`. If a step
        leaves the finite numbers, the last finite point is returned with ``success=False``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, before any work.

    References
    ----------
    "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2023), arXiv 2301.11235:
    SGD, minibatch SGD, SGD with momentum, projected stochastic subgradient and stochastic proximal
    gradient descent.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> problem = LeastSquares([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [1.0, 0.0, -2.0])
    >>> sgd(problem, [5.0, 5.0], step=0.2, n_steps=500, rng=0).x.round(6)
    array([ 1., -1.])
    """
    start = check_start(problem, x0)
    n_steps = check_count("n_steps", n_steps, at_least=0)
    if projection is not None and prox is not None:
        raise ValueError("prox and projection must not be given together")
    steps = check_schedule("step", step, n_steps, above=0.0)
    mode, betas = _momentum(momentum, n_steps)
    if mode == kernels.AVERAGING and (projection is not None or prox is not None):
        raise ValueError("momentum='ima' must not be given with a projection or a prox")
    weights = check_weights(average, n_steps, steps)
    plan = Plan(problem, start, n_steps, batch_size, replace, weights, rng, record, callback)
    other = start.copy() if mode == kernels.AVERAGING else np.zeros_like(start)

    linear = isinstance(problem, LinearModel)
    room = np.empty_like(start)

    def move(x: Floats, batch: NDArray[np.int64] | None, t: int) -> Floats:
        if linear and batch is not None:
            kernels.batch_gradient(*_model(problem), x, batch, room)  # type: ignore[arg-type]
            g = room
        else:
            g = np.asarray(problem.gradient(x, batch), dtype=float)
        if mode == kernels.HEAVY_BALL:
            other[:] = betas[t] * other + g
            g = other
        elif mode == kernels.AVERAGING:
            other[:] -= steps[t] * g
            return (betas[t] * x + other) / (betas[t] + 1)
        moved = x - steps[t] * g
        if prox is not None:
            moved = np.asarray(prox(moved, float(steps[t])), dtype=float)
        elif projection is not None:
            moved = np.asarray(projection(moved), dtype=float)
        return moved

    if not isinstance(problem, LinearModel) or plan.whole or projection or prox:
        return plan.run_python(move)

    def advance(batches: NDArray[np.int64], now: slice, state: Any) -> int:
        used = betas[now] if mode else betas
        return kernels.gradient_steps(
            *_model(problem), batches, steps[now], mode, used, state[0], state[1], other, *state[2:]
        )

    return plan.run(advance)


def stochastic_polyak(
    problem: FiniteSum,
    x0: ArrayLike,
    *,
    f_star: float | ArrayLike,
    n_steps: int,
    gamma_max: float = math.inf,
    batch_size: int = 1,
    replace: bool = False,
    average: str | ArrayLike | None = None,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Minimise a finite sum by stochastic Polyak steps: no step length to choose.

    .. math:: x_{t+1} = x_t - \min\Big(\frac{(f_i(x_t) - f_i^*)_+}{\|\nabla f_i(x_t)\|^2},
              \gamma_{\max}\Big) \nabla f_i(x_t)

    Parameters
    ----------
    problem : FiniteSum
        What is minimised.
    x0 : array_like, shape (dim,)
        Start.
    f_star : float or array_like, shape (n,)
        The values f_i(x*), one for all or one for each; 0 for a loss >= 0 that can be fitted
        exactly.
    n_steps : int
        Steps.
    gamma_max : float, default inf
        Largest step length.
    batch_size, replace, rng, record, callback
        As in `sgd`; a batch takes the means of f_i, f_i(x*) and the gradients.
    average : {"uniform", "linear"} or array_like, optional
        As in `sgd`.

    Returns
    -------
    OptimizeResult
        As of `sgd`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, before any work.

    References
    ----------
    "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2024, v3), arXiv
    2301.11235, section on stochastic Polyak steps.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> problem = LeastSquares([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [1.0, 0.0, -2.0])
    >>> stochastic_polyak(problem, [5.0, 5.0], f_star=0.0, n_steps=200, rng=0).x.round(6)
    array([ 1., -1.])
    """
    start = check_start(problem, x0)
    n_steps = check_count("n_steps", n_steps, at_least=0)
    if np.ndim(f_star) == 0:
        floor = np.full(problem.n, check_real("f_star", f_star))
    else:
        floor = np.ascontiguousarray(check_array("f_star", f_star, shape=(problem.n,)))
    if not gamma_max > 0:
        raise ValueError(f"gamma_max must be > 0, got {gamma_max!r}")
    weights = check_weights(average, n_steps, None)
    plan = Plan(problem, start, n_steps, batch_size, replace, weights, rng, record, callback)

    def move(x: Floats, batch: NDArray[np.int64] | None, t: int) -> Floats:
        g = np.asarray(problem.gradient(x, batch), dtype=float)
        aim = floor.mean() if batch is None else floor[batch].mean()
        excess, squared = float(problem.value(x, batch)) - aim, float(g @ g)
        if not (math.isfinite(excess) and math.isfinite(squared)):
            return np.full_like(x, np.nan)
        return x - min(excess / squared, gamma_max) * g if excess > 0 and squared > 0 else x.copy()

    if not isinstance(problem, LinearModel) or plan.whole:
        return plan.run_python(move)

    def advance(batches: NDArray[np.int64], now: slice, state: Any) -> int:
        return kernels.polyak_steps(*_model(problem), batches, floor, float(gamma_max), *state)

    return plan.run(advance)


def stochastic_proximal_point(
    problem: FiniteSum,
    x0: ArrayLike,
    *,
    step: Schedule,
    n_steps: int,
    average: str | ArrayLike | None = None,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Minimise a finite sum by proximal steps on one component each, stable for any step length.

    .. math:: x_{t+1} = prox_{\gamma_t f_i}(x_t)
              = \arg\min_z f_i(z) + \|z - x_t\|^2 / (2 \gamma_t)

    Parameters
    ----------
    problem : FiniteSum
        What is minimised; it must have ``component_prox(i, x, gamma)``.
    x0 : array_like, shape (dim,)
        Start.
    step : float, array_like of shape (n_steps,) or callable
        Step lengths gamma_t > 0.
    n_steps : int
        Steps.
    average, rng, record, callback
        As in `sgd`.

    Returns
    -------
    OptimizeResult
        As of `sgd`; ``n_grad`` counts proximal steps.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, before any work.

    References
    ----------
    "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2024, v3), arXiv
    2301.11235, section on the stochastic proximal point method.

    Examples
    --------
    >>> from thalweg.descent import AbsoluteRegression
    >>> problem = AbsoluteRegression([[1.0], [2.0]], [3.0, 6.0])
    >>> stochastic_proximal_point(problem, [0.0], step=1.0, n_steps=20, rng=0).x
    array([3.])
    """
    start = check_start(problem, x0)
    n_steps = check_count("n_steps", n_steps, at_least=0)
    steps = check_schedule("step", step, n_steps, above=0.0)
    if not callable(getattr(problem, "component_prox", None)):
        raise TypeError(f"problem must have component_prox, {type(problem).__name__} has none")
    plan = Plan(
        problem,
        start,
        n_steps,
        1,
        False,
        check_weights(average, n_steps, steps),
        rng,
        record,
        callback,
    )
    if isinstance(problem, LinearModel):

        def advance(batches: NDArray[np.int64], now: slice, state: Any) -> int:
            return kernels.proximal_steps(*_model(problem), batches, steps[now], *state)

        return plan.run(advance)

    def move(x: Floats, batch: NDArray[np.int64] | None, t: int) -> Floats:
        i = 0 if batch is None else int(batch[0])
        return np.asarray(problem.component_prox(i, x, float(steps[t])), dtype=float)

    return plan.run_python(move)


def running_average(points: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Return the weighted means of the points before each time: what theorems of averages measure.

    Parameters
    ----------
    points : array_like, shape (..., T + 1, dim)
        Points x_0, ..., x_T of runs.
    weights : array_like, shape (T,), optional
        Weights of x_0, ..., x_{T-1}; equal by default.

    Returns
    -------
    ndarray, shape (..., T + 1, dim)
        Entry t is the mean of x_0, ..., x_{t-1}; entry 0 is x_0.

    Raises
    ------
    TypeError, ValueError
        If shapes disagree, or the weights are negative or begin with 0.

    Examples
    --------
    >>> running_average([[0.0], [2.0], [7.0]])
    array([[0.], [0.], [1.]])
    """
    x = check_array("points", points)
    if x.ndim < 2 or x.shape[-2] < 1:
        raise ValueError(f"points must have shape (..., T + 1, dim), got {x.shape}")
    steps = x.shape[-2] - 1
    w = np.ones(steps) if weights is None else check_array("weights", weights, shape=(steps,))
    if steps and (w[0] <= 0 or (w < 0).any()):
        raise ValueError("weights must be >= 0 and begin with one > 0")
    sums = np.cumsum(w[:, None] * x[..., :-1, :], axis=-2) / np.cumsum(w)[:, None]
    return np.concatenate([x[..., :1, :], sums], axis=-2)


def replicate(
    run: Callable[[np.random.Generator], ArrayLike],
    n_replicates: int,
    *,
    rng: int | np.random.Generator | None = None,
    executor: Executor | None = None,
) -> NDArray[Any]:
    """Return what independent runs bring, stacked; `executor` spreads them.

    Parameters
    ----------
    run : callable
        ``run(rng)`` returns an array, of the same shape each time. Process pools and Dask must be
        able to pickle it.
    n_replicates : int
        How many.
    rng : None, int or numpy.random.Generator, optional
        Parent of the generators; the result does not depend on the executor.
    executor : concurrent.futures.Executor, optional
        Runs them; one after another by default.

    Returns
    -------
    ndarray, shape (n_replicates, ...)

    Raises
    ------
    TypeError, ValueError
        If `n_replicates` is no integer >= 1.

    Examples
    --------
    >>> replicate(lambda rng: rng.normal(size=2), 3, rng=0).shape
    (3, 2)
    """
    children = np.random.default_rng(rng).spawn(check_count("n_replicates", n_replicates))
    if executor is None:
        return np.stack([np.asarray(run(child)) for child in children])
    futures = [executor.submit(run, child) for child in children]
    return np.stack([np.asarray(future.result()) for future in futures])


def _model(problem: LinearModel) -> tuple[int, Floats, Floats, float]:
    return problem.kind, problem.rows, problem.targets, problem.l2


def _momentum(momentum: Any, n_steps: int) -> tuple[int, Floats]:
    if momentum is None:
        return kernels.PLAIN, np.empty(0)
    if isinstance(momentum, str):
        check_option("momentum", momentum, ("ima",))
        return kernels.AVERAGING, (np.arange(n_steps) + 1) / 2
    return kernels.HEAVY_BALL, check_schedule("momentum", momentum, n_steps, at_least=0.0)
