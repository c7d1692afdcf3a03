"""Minimise with noisy or exact gradients by one step length that tunes itself: AdaGrad-Norm.

The step is eta over the root of the sum of all squared gradient norms so far. It needs neither the
curvature nor the noise nor a bound on the gradients, and `eta` is an insensitive knob:

- `adagrad_norm`: stochastic gradients, with the run recorded for certificates;
- `adagrad_norm_minimize`: exact gradients, a method for `scipy.optimize.minimize`;
- `thalweg.descent.AdaGradNorm`: torch networks.

Source: "SGD with AdaGrad Stepsizes: Full Adaptivity with High Probability to Unknown Parameters,
Unbounded Gradients and Affine Variance" (2023), arXiv 2302.08783.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_array, check_count, check_real
from thalweg.descent._oracle import (
    BreakdownError,
    Oracle,
    Point,
    State,
    check_callable,
    check_unused,
    drive,
    inner,
    largest,
)

Floats = NDArray[np.float64]
NoisyGradient = Callable[[Floats, np.random.Generator], ArrayLike]

ETA = 1.0
GAMMA = 1e-2
GTOL = 1e-6
MAXITER = 10_000
SMALLEST_GAMMA, LARGEST_GAMMA = 1e-150, 1e150
"""Between these the square of gamma is a floating-point number."""

DONE, BROKEN, STOPPED = 0, 1, 2


def adagrad_norm(
    gradient: NoisyGradient,
    x0: ArrayLike,
    *,
    n_steps: int,
    eta: float = ETA,
    gamma: float = GAMMA,
    projection: Point | None = None,
    delayed: bool = False,
    average: bool = True,
    fun: Callable[[Floats], Any] | None = None,
    rng: int | np.random.Generator | None = None,
    callback: Callable[[OptimizeResult], object] | None = None,
    record: bool = False,
) -> OptimizeResult:
    r"""Take stochastic gradient steps whose length comes from the gradients seen.

    .. math:: G_t^2 = \gamma^2 + \sum_{s \le t} \|g_s\|^2, \qquad
              w_{t+1} = \Pi\Big(w_t - \frac{\eta}{G_t}\, g_t\Big), \qquad t = 1, \dots, T

    The sum includes the current gradient, so that no step is longer than `eta`.

    Parameters
    ----------
    gradient : callable
        ``gradient(x, rng)``, an unbiased estimate of the gradient, of the shape of `x`.
    x0 : array_like
        Start w_1, of any shape.
    n_steps : int
        T, >= 1.
    eta : float, default 1.0
        Scale of the steps, > 0, in units of `x`: about the distance to where one wants to go.
    gamma : float, default 1e-2
        Start of G, > 0, in units of gradients: below the noise or the first gradient it hardly
        matters.
    projection : callable, optional
        ``projection(x)``, the nearest point of the convex set in which x must stay.
    delayed : bool, default False
        Whether steps are eta / G_{t-1}, without the current gradient. For comparison: a first
        gradient much larger than `gamma` then throws x far away.
    average : bool, default True
        Whether to keep the mean of w_1, ..., w_T, which is what convex problems ask for.
    fun : callable, optional
        ``fun(x)``, evaluated once at the end.
    rng : None, int or numpy.random.Generator, optional
        Passed to `gradient`.
    callback : callable, optional
        ``callback(state)`` after each step with ``x``, ``nit``, ``step`` and ``grad_sum``;
        StopIteration ends the run.
    record : bool, default False
        Whether to keep every point and gradient.

    Returns
    -------
    OptimizeResult
        ``x`` (w_{T+1}), ``x_average`` (None without `average`), ``fun`` (at ``x``; None without
        `fun`), ``step`` (the last; 0 if there was none), ``grad_sum`` (G_T²), ``nit``, ``njev``,
        ``success``, ``status``, ``message`` and ``history``, empty without `record`: ``x`` of shape
        (nit + 1, \*x.shape), ``g`` of shape (nit, \*x.shape) and ``step`` of shape (nit,). If a
        gradient or a point is not finite, the last finite point is returned with
        ``success=False`` and the number of the step in ``message``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or a gradient or projected point has the wrong shape.

    See Also
    --------
    regret_certificate, descent_certificate : inequalities that every recorded run obeys.
    function_gap_bound, gradient_bound, noiseless_bound : what the theory promises beforehand.

    References
    ----------
    "SGD with AdaGrad Stepsizes: Full Adaptivity with High Probability to Unknown Parameters,
    Unbounded Gradients and Affine Variance" (2023), arXiv 2302.08783, AdaSGD.

    Examples
    --------
    >>> def noisy(x, rng):
    ...     return 2 * (x - 3) + rng.normal(size=x.shape)
    >>> result = adagrad_norm(noisy, [0.0, 0.0], n_steps=5000, rng=0)
    >>> result.x_average.round(1), result.success
    (array([3., 3.]), True)
    """
    check_callable("gradient", gradient)
    x = np.array(check_array("x0", x0), ndmin=1)
    if not x.size:
        raise ValueError(f"x0 must not be empty, got shape {x.shape}")
    n_steps = check_count("n_steps", n_steps)
    eta, gamma = check_knobs(eta, gamma)
    for name, value in (("projection", projection), ("fun", fun), ("callback", callback)):
        check_callable(name, value, optional=True)
    rng = np.random.default_rng(rng)
    if projection is not None:
        x = _read("projection", projection(x.copy()), x.shape)
        if not np.isfinite(x).all():
            raise ValueError("projection of x0 must be finite")

    points = np.empty((n_steps + 1 if record else 0, *x.shape))
    gradients = np.empty((n_steps if record else 0, *x.shape))
    steps = np.empty(n_steps if record else 0)
    points[:1] = x
    total = np.zeros_like(x)
    grad_sum, step, taken = gamma * gamma, 0.0, 0
    status, message = DONE, f"took {n_steps} steps"
    with np.errstate(over="ignore", invalid="ignore"):
        while taken < n_steps:
            g = _read("gradient", gradient(x.copy(), rng), x.shape)
            summed = grad_sum + inner(g, g)
            if not math.isfinite(summed):
                status, message = BROKEN, f"the gradient is not finite at step {taken + 1}"
                break
            length = eta / math.sqrt(grad_sum if delayed else summed)
            moved = x - length * g
            if projection is not None:
                moved = _read("projection", projection(moved), x.shape)
            if not np.isfinite(moved).all():
                status, message = BROKEN, f"x left the finite numbers at step {taken + 1}"
                break
            if average:
                total += x
            x, grad_sum, step = moved, summed, length
            if record:
                points[taken + 1], gradients[taken], steps[taken] = x, g, step
            taken += 1
            if callback is not None:
                state = OptimizeResult(x=x.copy(), nit=taken, step=step, grad_sum=grad_sum)
                try:
                    callback(state)
                except StopIteration:
                    status, message = STOPPED, f"stopped by callback after {taken} steps"
                    break
    kept = {"x": points[: taken + 1], "g": gradients[:taken], "step": steps[:taken]}
    return OptimizeResult(
        x=x,
        x_average=total / taken if average and taken else None,
        fun=None if fun is None else float(fun(x.copy())),
        step=step,
        grad_sum=grad_sum,
        nit=taken,
        njev=taken + (status == BROKEN),
        success=status == DONE,
        status=status,
        message=message,
        history=kept if record else {},
    )


def adagrad_norm_minimize(
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
    eta: float = ETA,
    gamma: float = GAMMA,
    gtol: float = GTOL,
    maxiter: int = MAXITER,
) -> OptimizeResult:
    r"""Minimise a smooth function by gradient steps that need no constant of it.

    .. math:: x_{k+1} = x_k - \frac{\eta}{\sqrt{\gamma^2 + \sum_{j \le k} \|\nabla f(x_j)\|^2}}
              \nabla f(x_k)

    The sum of all squared gradients stays below `thalweg.descent.noiseless_bound`, however many
    steps there are: after T steps some gradient is no longer than the root of that bound over T.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args) -> float``; with ``jac=True`` it returns ``(value, gradient)``.
    x0 : array_like
        Start, of any shape; gradients have the same.
    args : tuple, default ()
        Further arguments of `fun` and `jac`.
    jac : callable, True or None
        ``jac(x, *args)``, the gradient; central differences if None.
    callback : callable, optional
        ``callback(xk)`` or ``callback(intermediate_result)`` after each step, as in
        `scipy.optimize.minimize`; StopIteration ends the run.
    record : bool, default False
        Whether ``history`` is kept, which evaluates `fun` at every step.
    hess, hessp, bounds, constraints
        Refused unless empty; `scipy.optimize.minimize` passes them.
    eta : float, default 1.0
        Scale of the steps, > 0, in units of x.
    gamma : float, default 1e-2
        Start of the root, > 0, in units of gradients.
    gtol : float, default 1e-6
        Stop when no entry of the gradient is larger.
    maxiter : int, default 10000
        Largest number of steps.

    Returns
    -------
    OptimizeResult
        ``x``, ``fun``, ``jac``, ``nit``, ``nfev``, ``njev``, ``success``, ``status``, ``message``,
        ``step`` and ``grad_sum``: the step that would follow and the sum under its root, with the
        gradient at ``x``. With `record` also ``history`` of ``fun``, ``step`` and ``grad_sum``,
        whose first entries are the start. If a value is not finite, the last point where all was
        is returned with ``success=False`` and the number of the step in ``message``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "SGD with AdaGrad Stepsizes" (2023), arXiv 2302.08783, AdaSGD without noise.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.optimize import minimize
    >>> a = np.array([1.0, 10.0])
    >>> result = minimize(lambda x: 0.5 * x @ (a * x) - x.sum(), [0.0, 0.0],
    ...                   jac=lambda x: a * x - 1, method=adagrad_norm_minimize)
    >>> result.x.round(4), result.success
    (array([1. , 0.1]), True)
    """
    check_unused(
        "adagrad_norm_minimize", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints
    )
    eta, gamma = check_knobs(eta, gamma)
    oracle = Oracle(fun, x0, args, jac)
    return drive(
        oracle,
        _states(oracle, eta, gamma),
        maxiter=maxiter,
        tol=gtol,
        callback=callback,
        record=record,
    )


def check_knobs(eta: Any, gamma: Any) -> tuple[float, float]:
    """Return eta and gamma, both > 0, with a gamma that can be squared."""
    return check_real("eta", eta, above=0), check_gamma(gamma)


def check_gamma(gamma: Any) -> float:
    """Return gamma if it is positive and can be squared."""
    return check_real("gamma", gamma, at_least=SMALLEST_GAMMA, at_most=LARGEST_GAMMA)


def _states(oracle: Oracle, eta: float, gamma: float) -> Iterator[State]:
    x, grad_sum, k = oracle.x0, gamma * gamma, 0
    while True:
        k += 1
        try:
            g = oracle.gradient(x)
        except BreakdownError as error:
            raise BreakdownError(f"{error}, at step {k}") from None
        grad_sum += inner(g, g)
        if not math.isfinite(grad_sum):
            raise BreakdownError(f"the squared gradient is not finite, at step {k}")
        step = eta / math.sqrt(grad_sum)
        trace = {"step": step, "grad_sum": grad_sum}
        yield State(x, jac=g, residual=largest(g), trace=trace)
        x = x - step * g


def _read(name: str, value: Any, shape: tuple[int, ...]) -> Floats:
    try:
        point = np.array(value, dtype=np.float64, ndmin=1)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must return numbers, got {type(value).__name__}") from None
    if point.shape != shape:
        raise ValueError(f"{name} must return shape {shape}, got {point.shape}")
    return point
