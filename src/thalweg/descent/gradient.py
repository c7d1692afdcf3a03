"""Minimise a function whose gradients you can evaluate: plain, accelerated or subgradient steps.

- `gradient_descent`: any smooth function; with ``step="backtracking"`` no constant is needed;
- `nesterov`: smooth and convex with known curvature, the square root of the number of steps;
- `subgradient_method`: convex with kinks.

All keep to a convex set if its projection is given (`thalweg.descent.project_simplex` and the
like), and can be passed to `scipy.optimize.minimize` as its method.

Source: "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, chapter 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_option, check_real
from thalweg.descent._first_order import (
    accelerated_states,
    backtracking_states,
    check_curvature,
    forward_step,
    gradient_states,
)
from thalweg.descent._oracle import Oracle, Point, State, check_callable, check_unused, drive

Floats = NDArray[np.float64]

GTOL = 1e-8
MAXITER = 10_000
MAPPING = "the largest entry of the gradient (mapping)"


def gradient_descent(
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
    L: float | None = None,
    step: float | str | None = None,
    projection: Point | None = None,
    gtol: float = GTOL,
    maxiter: int = MAXITER,
) -> OptimizeResult:
    r"""Minimise a smooth function by gradient steps.

    .. math:: x_{t+1} = \Pi(x_t - \eta \nabla f(x_t))

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
    L : float, optional
        Lipschitz constant of the gradient; the step is 1 / L.
    step : float or "backtracking", optional
        A step length in place of 1 / L: 2 / (mu + L) is best for a mu-strongly convex function
        without projection. Or a search by Armijo's rule: the last step doubled, then halved until
        the decrease is half of what the gradient promises; 1 / L is tried first.
    projection : callable, optional
        ``projection(x)``, the nearest point of the convex set in which x must stay.
    gtol : float, default 1e-8
        Stop when no entry of the gradient is larger; with a projection, of (x_t - x_{t+1}) / step.
    maxiter : int, default 10000
        Largest number of steps.

    Returns
    -------
    OptimizeResult
        ``x``, ``fun``, ``jac``, ``nit``, ``nfev``, ``njev``, ``success``, ``status``, ``message``;
        with `record` also ``history["fun"]`` of shape (nit + 1,), whose first entry is the start.
        If a value is not finite, the last point where all was is returned with ``success=False``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or neither `L` nor `step` is given.

    See Also
    --------
    rate : what the theorems guarantee: "gradient_descent-convex", "gradient_descent-projected",
        "gradient_descent-strong", "gradient_descent-strong-long".

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 3.2 to 3.4.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.optimize import minimize
    >>> a = np.array([1.0, 10.0])
    >>> result = minimize(lambda x: 0.5 * x @ (a * x) - x.sum(), [0.0, 0.0],
    ...                   jac=lambda x: a * x - 1, method=gradient_descent, options={"L": 10.0})
    >>> result.x.round(6), result.success
    (array([1. , 0.1]), True)
    """
    check_unused("gradient_descent", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints)
    if L is not None:
        L = check_real("L", L, above=0)
    if isinstance(step, str):
        check_option("step", step, ["backtracking"])
    elif step is not None:
        step = check_real("step", step, above=0)
        if L is not None:
            raise ValueError(f"step must be left out if L is given, got step={step:g} and L={L:g}")
    elif L is None:
        raise ValueError("L must be given unless step is")
    oracle, start = _projected(fun, x0, args, jac, projection)
    forward = forward_step(oracle, _ignoring_step(projection))
    if step == "backtracking":
        states = backtracking_states(oracle, start, forward, 1.0 if L is None else 1 / L)
    else:
        length = 1 / L if L is not None else float(step)  # type: ignore[arg-type]
        states = gradient_states(oracle, start, forward, length)
    return drive(
        oracle,
        states,
        maxiter=maxiter,
        tol=gtol,
        measure=MAPPING,
        callback=callback,
        record=record,
    )


def nesterov(
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
    L: float,
    mu: float = 0.0,
    projection: Point | None = None,
    gtol: float = GTOL,
    maxiter: int = MAXITER,
) -> OptimizeResult:
    r"""Minimise a smooth convex function by Nesterov's accelerated gradient steps.

    .. math:: y_{t+1} = \Pi(x_t - \nabla f(x_t) / L), \qquad
              x_{t+1} = y_{t+1} + m_t (y_{t+1} - y_t)

    With mu > 0, m = (sqrt(kappa) - 1) / (sqrt(kappa) + 1) for kappa = L / mu; with mu = 0,
    m_t = (lambda_t - 1) / lambda_{t+1} for lambda_1 = 1,
    lambda_{t+1} = (1 + sqrt(1 + 4 lambda_t^2)) / 2.

    Parameters
    ----------
    fun, x0, args, jac, callback, record, hess, hessp, bounds, constraints, maxiter
        As in `gradient_descent`.
    L : float
        Lipschitz constant of the gradient.
    mu : float, default 0.0
        Strong convexity, 0 <= mu <= L.
    projection : callable, optional
        As in `gradient_descent`.
    gtol : float, default 1e-8
        Stop when no entry of the gradient is larger, at y_t; it is looked at once the one at x_t
        is that small. With a projection, of L times the move.

    Returns
    -------
    OptimizeResult
        As of `gradient_descent`, for the points y_t.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    See Also
    --------
    rate : "nesterov-strong", "nesterov-convex".

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 3.7.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.array([1.0, 1000.0])
    >>> result = nesterov(lambda x: 0.5 * x @ (a * x), [1.0, 1.0], jac=lambda x: a * x,
    ...                   L=1000.0, mu=1.0)
    >>> result.success, result.nit < 1000
    (True, True)
    """
    check_unused("nesterov", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints)
    mu, L = check_curvature(mu, L, strong=False)
    gtol = check_real("gtol", gtol, at_least=0)
    oracle, start = _projected(fun, x0, args, jac, projection)
    return drive(
        oracle,
        accelerated_states(
            oracle, start, forward_step(oracle, _ignoring_step(projection)), L, mu, gtol
        ),
        maxiter=maxiter,
        tol=gtol,
        measure=MAPPING,
        callback=callback,
        record=record,
    )


def subgradient_method(
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
    step: float | str | None = None,
    radius: float | None = None,
    lipschitz: float | None = None,
    strong_convexity: float | None = None,
    projection: Point | None = None,
    maxiter: int = 1000,
) -> OptimizeResult:
    r"""Minimise a convex function with kinks by subgradient steps, and average the points.

    .. math:: x_{s+1} = \Pi(x_s - \eta_s g_s), \quad g_s \in \partial f(x_s)

    Parameters
    ----------
    fun, x0, args, callback, record, hess, hessp, bounds, constraints, projection
        As in `gradient_descent`.
    jac : callable, True or None
        A subgradient.
    step : float, "fixed", "decreasing" or "strong", optional
        eta_s: a number; R / (G sqrt(maxiter)); R / (G sqrt(s)); or 2 / (alpha (s + 1)), whose
        average has weights s. None: "strong" if `strong_convexity` is given, else "fixed".
    radius : float, optional
        R, at least the distance from x0 to a minimiser (for "decreasing", from any point of the
        set).
    lipschitz : float, optional
        G, at least the norm of every subgradient.
    strong_convexity : float, optional
        alpha > 0.
    maxiter : int, default 1000
        Steps, all of which are done.

    Returns
    -------
    OptimizeResult
        As of `gradient_descent`, with ``x`` the average of the points where subgradients were
        taken, ``x_best`` and ``fun_best`` the best of those, ``x_last`` the point after the last
        step. ``history`` has ``fun`` and ``fun_best``. ``success`` means that all steps were done.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or the rule of the step lacks a constant.

    See Also
    --------
    rate : "subgradient_method-convex", "subgradient_method-decreasing",
        "subgradient_method-strong".

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, sections 3.1 and
    3.4.1.

    Examples
    --------
    >>> import numpy as np
    >>> result = subgradient_method(lambda x: np.abs(x - 1).sum(), [0.0, 3.0],
    ...                             jac=lambda x: np.sign(x - 1), radius=2.5, lipschitz=1.5)
    >>> bool(result.fun < 2.5 * 1.5 / np.sqrt(result.nit))
    True
    """
    check_unused(
        "subgradient_method", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints
    )
    steps, strong = _subgradient_steps(step, radius, lipschitz, strong_convexity, maxiter)
    oracle, start = _projected(fun, x0, args, jac, projection)
    forward = forward_step(oracle, _ignoring_step(projection))

    def states() -> Iterator[State]:
        x, f = start, oracle.value(start)
        mean, best, lowest = start, start, f
        yield State(start, fun=f, trace={"fun_best": f}, extra={"x_best": start, "x_last": start})
        s, total = 0, 0
        while True:
            s += 1
            weight = s if strong else 1
            total += weight
            if s > 1:
                f = oracle.value(x)
            if f < lowest:
                best, lowest = x, f
            mean = mean + (weight / total) * (x - mean)
            x = forward(x, oracle.gradient(x), steps(s))[0]
            yield State(mean, trace={"fun_best": lowest}, extra={"x_best": best, "x_last": x})

    return drive(oracle, states(), maxiter=maxiter, callback=callback, record=record)


def _subgradient_steps(
    step: Any, radius: Any, lipschitz: Any, strong_convexity: Any, maxiter: int
) -> tuple[Callable[[int], float], bool]:
    """Return s -> eta_s, and whether the average is weighted for strong convexity."""
    given = {"radius": radius, "lipschitz": lipschitz, "strong_convexity": strong_convexity}
    values = {
        name: check_real(name, value, above=0) for name, value in given.items() if value is not None
    }
    if step is not None and not isinstance(step, str):
        length = check_real("step", step, above=0)
        return lambda s: length, False
    rule = step or ("strong" if strong_convexity is not None else "fixed")
    check_option("step", rule, ["fixed", "decreasing", "strong"])
    for name in ("strong_convexity",) if rule == "strong" else ("radius", "lipschitz"):
        if name not in values:
            raise ValueError(f"{name} must be given for step={rule!r}")
    if rule == "strong":
        return lambda s: 2 / (values["strong_convexity"] * (s + 1)), True
    scale = values["radius"] / values["lipschitz"]
    if rule == "decreasing":
        return lambda s: scale / math.sqrt(s), False
    return lambda s: scale / math.sqrt(maxiter), False


def _projected(
    fun: Any, x0: ArrayLike, args: Any, jac: Any, projection: Point | None
) -> tuple[Oracle, Floats]:
    """Return the oracle and the start, brought into the set."""
    check_callable("projection", projection, optional=True)
    oracle = Oracle(fun, x0, args, jac)
    if projection is None:
        return oracle, oracle.x0
    return oracle, oracle.begin("projection(x0)", projection(oracle.x0.copy()))


def _ignoring_step(projection: Point | None) -> Callable[[Floats, float], ArrayLike] | None:
    return None if projection is None else lambda v, step: projection(v)
