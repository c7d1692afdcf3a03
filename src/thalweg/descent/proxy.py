r"""Minimise a function with few of its expensive gradients, by leaning on a cheap one like it.

The cheap function, the proxy f̂, may be the loss on public or synthetic data beside private data, or
a coarse simulation beside a fine one. A step corrects the proxy by one gradient of f, so that both
agree to first order where they are, and minimises it nearby:

.. math:: x_{t+1} \approx \arg\min_x \hat f(x) + \langle g_t - \nabla \hat f(x_t), x \rangle
          + \frac{\|x - x_t\|^2}{2 \eta}

That is gradient descent, or stochastic gradient descent, on h = f - f̂: however steep f is, only
the smoothness delta of the difference bounds the step.

- `proxy_prox`: gradients that may be noisy, any solver of the cheap problem;
- `proxy_prox_minimize`: exact gradients, with the signature of SciPy's minimisers.

`thalweg.descent.ProxyProx` trains torch networks so; `thalweg.descent.relative_smoothness` and
`proxy_prox_bound` say what a proxy is worth.

Source: "Two Losses Are Better Than One: Faster Optimization Using a Cheaper Proxy" (2023), arXiv
2302.03542.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_count, check_option, check_real
from thalweg.descent._oracle import (
    BROKEN,
    BreakdownError,
    Oracle,
    check_callable,
    check_unused,
    drive,
)
from thalweg.descent._proxy_inner import Proxy, Solver
from thalweg.descent._proxy_steps import Log, Rule, Target, proxy_states, unknown

Floats = NDArray[np.float64]

THETA = 0.5
INNER_MAXITER = 500
GTOL = 1e-8
OUTPUTS = ("last", "random", "best")


def proxy_prox(
    gradient: Callable[..., ArrayLike],
    proxy_fun: Any,
    x0: ArrayLike,
    *,
    proxy_jac: Any = None,
    eta: float | None = None,
    delta: float | str | None = None,
    n_steps: int,
    theta: float = THETA,
    tol: float = 0.0,
    solver: Solver = "lbfgs",
    proxy_hessp: Callable[[Floats, Floats], ArrayLike] | None = None,
    proxy_L: float | None = None,
    inner_maxiter: int = INNER_MAXITER,
    output: str = "last",
    fun: Callable[[Floats], float] | None = None,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    callback: Callable[..., Any] | None = None,
    executor: Executor | None = None,
) -> OptimizeResult:
    r"""Minimise f by approximate proximal-point steps on a proxy, each corrected by one gradient.

    With a gradient g_t of f at x_t, x_{t+1} is a point y with
    :math:`\phi_t(y) \le \phi_t(x_t)` and
    :math:`\|\nabla \phi_t(y)\| \le \max(tol, \theta \|y - x_t\| / \eta)`, where

    .. math:: \phi_t(y) = \hat f(y) + \langle g_t - \nabla \hat f(x_t), y \rangle
              + \frac{\|y - x_t\|^2}{2 \eta}.

    Equivalently :math:`x_{t+1} = prox_{\eta \hat f}(x_t - \eta (g_t - \nabla \hat f(x_t)))`. A
    proxy that is constant makes it SGD; one that equals f, the proximal-point method.

    Parameters
    ----------
    gradient : callable
        ``gradient(x, rng)``, a gradient of f at x, exact or with noise of mean zero.
    proxy_fun : callable or FiniteSum
        ``proxy_fun(x)``, the value of the proxy; or a sum of `thalweg.descent.problems`.
    x0 : array_like
        Start, of any shape (a vector for a finite sum); gradients have the same.
    proxy_jac : callable or True
        ``proxy_jac(x)``, the proxy's gradient; True if `proxy_fun` returns (value, gradient); left
        out for a finite sum.
    eta : float, optional
        Step > 0; 1 / (2 delta) by default. With noise see
        `thalweg.descent.proxy_theory.step_length`. For a proxy that is not convex it should be
        below 1 / its weak convexity; else a stationary point of phi_t may be taken.
    delta : float or "estimate", optional
        Smoothness of f - f̂, > 0. "estimate" (exact gradients only) begins with 1 / (2 eta), or
        with a difference of two gradients if `eta` is left out. It takes a step only if the next
        gradient shows :math:`|\langle \nabla h(x_{t+1}) - \nabla h(x_t), d \rangle| \le \delta
        \|d\|^2` for its move d, and else doubles delta; after it, delta is multiplied by 0.9.
    n_steps : int
        Steps.
    theta : float, default 0.5
        Relative inner accuracy, 0 <= theta < 1. 0 goes as far as the inner solver can.
    tol : float, default 0.0
        Absolute inner accuracy. A gradient of no larger norm moves nothing.
    solver : {"lbfgs", "newton-cg", "nesterov", "sgd"} or callable, default "lbfgs"
        How phi_t is minimised: by SciPy's L-BFGS-B or Newton-CG (needs Hessian products), by
        `thalweg.descent.nesterov` (convex proxies; needs their smoothness), by
        `thalweg.descent.svrg` (finite sums; also), or ``solver(x_t, shift, eta) -> y`` with
        shift = g_t - ∇f̂(x_t), for closed forms.
    proxy_hessp : callable, optional
        ``proxy_hessp(x, v)``, the proxy's Hessian at x times v; a finite sum may have its own.
    proxy_L : float, optional
        Smoothness of the proxy, for "sgd" of each of its components; a finite sum may know it.
    inner_maxiter : int, default 500
        Most iterations of the inner solver in a step; epochs for "sgd".
    output : {"last", "random", "best"}, default "last"
        Which of x_1, ..., x_T is returned as ``x``: the last, one drawn uniformly, or that of the
        smallest certificate ‖∇phi_t(x_{t+1})‖ + (1 / eta + delta) ‖x_{t+1} - x_t‖, which bounds
        ‖∇f(x_{t+1})‖ if gradients are exact (delta is 1 / (2 eta) if unknown).
    fun : callable, optional
        ``fun(x)``, the value of f, for ``fun`` and the history only.
    rng : None, int or numpy.random.Generator, optional
        Handed to `gradient`; a child draws for "sgd" and "random".
    record : bool, default False
        Whether ``history`` is kept.
    callback : callable, optional
        ``callback(xk)`` or ``callback(intermediate_result)`` after each step, as in
        `scipy.optimize.minimize`; StopIteration ends the run.
    executor : concurrent.futures.Executor, optional
        Spreads values and gradients of a finite sum over blocks of components.

    Returns
    -------
    OptimizeResult
        ``x``, ``fun`` (NaN without `fun`), ``nit``, ``n_target`` (gradients of f), ``n_proxy``
        (gradients of the proxy; n of its components are one), ``n_inexact`` (steps whose inner
        solver ended, at its floating-point limit or `inner_maxiter`, before the accuracy was met:
        they are taken, as phi_t fell), ``eta`` and ``delta`` (the last ones), ``certificate`` (of
        ``x``; infinite before a step), ``success``, ``status``, ``message``. With `record`,
        ``history`` has ``x`` of shape ``(nit + 1, *x.shape)`` and, of shape (nit,),
        ``inner_residual``, ``n_proxy``, ``certificate``, ``eta``, ``delta``, and ``fun`` (nit + 1)
        if it is given.
        ``success`` is False if a value is not finite or the inner solver finds no point below
        phi_t(x_t); the last point is returned then.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or neither `eta` nor `delta` is given.

    See Also
    --------
    proxy_prox_bound : what exact gradients guarantee.

    Notes
    -----
    The inner rule makes the paper's "approximately" explicit; it, and "estimate", are our choices.

    References
    ----------
    "Two Losses Are Better Than One: Faster Optimization Using a Cheaper Proxy" (2023), arXiv
    2302.03542, the method PROXYPROX.

    Examples
    --------
    >>> import numpy as np
    >>> a, cheap = np.array([1.0, 100.0]), np.array([1.5, 99.0])
    >>> result = proxy_prox(lambda x, rng: a * x, lambda x: 0.5 * x @ (cheap * x), [1.0, 1.0],
    ...                     proxy_jac=lambda x: cheap * x, delta=1.0, n_steps=40)
    >>> bool(np.abs(result.x).max() < 1e-4), result.n_target
    (True, 40)
    """
    check_callable("gradient", gradient)
    check_callable("fun", fun, optional=True)
    n_steps = check_count("n_steps", n_steps, at_least=0)
    check_option("output", output, OUTPUTS)
    oracle = Target(fun if fun is not None else unknown, x0, (), gradient)
    proxy = Proxy(proxy_fun, proxy_jac, oracle.x0.shape, proxy_hessp, proxy_L, executor)
    rng = np.random.default_rng(rng)
    rule = Rule(eta, delta, theta, tol, solver, inner_maxiter, proxy, rng.spawn(1)[0])
    log = Log(output, record, rng.spawn(1)[0], oracle.x0)
    steps = proxy_states(
        oracle,
        lambda x: oracle.noisy_gradient(x, rng),
        rule,
        log,
        ahead=rule.adaptive,
        valued=fun is not None,
    )
    result = drive(
        oracle, steps, maxiter=n_steps, callback=callback, record=record, final_jac=False
    )
    if result.success:
        result.message = f"took {result.nit} steps"
    log.write(result, oracle, proxy, rule, None if fun is None else oracle.value)
    if output != "last" and result.nit and result.status != BROKEN:
        result.x = log.chosen.copy()
        try:
            result.fun = np.nan if fun is None else oracle.value(result.x)
        except BreakdownError as error:
            result.update(fun=np.nan, success=False, status=BROKEN, message=str(error))
    del result["jac"], result["njev"]
    return result


def proxy_prox_minimize(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: Any = (),
    *,
    jac: Any = None,
    proxy_fun: Any,
    proxy_jac: Any = None,
    delta: float | str | None = None,
    eta: float | None = None,
    callback: Callable[..., Any] | None = None,
    record: bool = False,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    theta: float = THETA,
    solver: Solver = "lbfgs",
    proxy_hessp: Callable[[Floats, Floats], ArrayLike] | None = None,
    proxy_L: float | None = None,
    inner_maxiter: int = INNER_MAXITER,
    rng: int | np.random.Generator | None = None,
    executor: Executor | None = None,
    gtol: float = GTOL,
    maxiter: int = 1000,
) -> OptimizeResult:
    r"""Minimise f from exact gradients by proximal-point steps on a proxy: `proxy_prox` for SciPy.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args) -> float``; with ``jac=True`` it returns ``(value, gradient)``.
    x0 : array_like
        Start, of any shape; gradients have the same.
    args : tuple, default ()
        Further arguments of `fun` and `jac`; the proxy gets x alone.
    jac : callable, True or None
        ``jac(x, *args)``, the gradient; central differences if None.
    proxy_fun, proxy_jac, delta, eta, theta, solver, proxy_hessp, proxy_L, inner_maxiter, executor
        As in `proxy_prox`.
    callback : callable, optional
        As in `scipy.optimize.minimize`; StopIteration ends the run.
    record : bool, default False
        Whether ``history`` is kept, which evaluates `fun` at every step.
    hess, hessp, bounds, constraints
        Refused unless empty; `scipy.optimize.minimize` passes them.
    rng : None, int or numpy.random.Generator, optional
        Draws for ``solver="sgd"``.
    gtol : float, default 1e-8
        Stop when no entry of the gradient of f is larger. 0 never stops.
    maxiter : int, default 1000
        Largest number of steps.

    Returns
    -------
    OptimizeResult
        ``x``, ``fun``, ``jac``, ``nit``, ``nfev``, ``njev``, ``n_target`` (equals ``njev``), and
        the fields of `proxy_prox`. ``success`` is False after `maxiter` steps without meeting
        `gtol`, if a value is not finite, or if the inner solver can improve no more.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or neither `eta` nor `delta` is given.

    References
    ----------
    "Two Losses Are Better Than One: Faster Optimization Using a Cheaper Proxy" (2023), arXiv
    2302.03542, the method PROXYPROX.

    Examples
    --------
    >>> import numpy as np
    >>> a, cheap = np.array([1.0, 100.0]), np.array([1.5, 99.0])
    >>> result = proxy_prox_minimize(
    ...     lambda x: 0.5 * x @ (a * x), [1.0, 1.0], jac=lambda x: a * x,
    ...     proxy_fun=lambda x: 0.5 * x @ (cheap * x), proxy_jac=lambda x: cheap * x, delta=1.0)
    >>> result.success, result.njev < 60
    (True, True)
    """
    check_unused(
        "proxy_prox_minimize", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints
    )
    gtol = check_real("gtol", gtol, at_least=0)
    oracle = Oracle(fun, x0, args, jac)
    proxy = Proxy(proxy_fun, proxy_jac, oracle.x0.shape, proxy_hessp, proxy_L, executor)
    rng = np.random.default_rng(rng)
    rule = Rule(eta, delta, theta, 0.0, solver, inner_maxiter, proxy, rng)
    log = Log("last", record, rng, oracle.x0)
    result = drive(
        oracle,
        proxy_states(oracle, oracle.gradient, rule, log, ahead=True, gtol=gtol),
        maxiter=maxiter,
        tol=gtol,
        callback=callback,
        record=record,
    )
    log.write(result, oracle, proxy, rule, oracle.value)
    return result
