"""Minimise a smooth function with momentum: heavy ball, triple momentum, any two-step method.

- `triple_momentum`: smooth and strongly convex with known constants; the fastest guarantee here,
  1 - 1 / sqrt(kappa) a step;
- `heavy_ball`: quadratics, where it is fastest of all; elsewhere it may cycle for ever, which
  `thalweg.descent.find_cycle` tells;
- `two_step`: the family of which both are members, as are gradient descent and Nesterov's method;
  `thalweg.descent.coefficients` has the four.

Why they accelerate is seen in the differential equations that they follow:
`thalweg.descent.continuous_limit`, `inertial_ode`.

Source: "On the Dynamics of Acceleration in First order Gradient Methods" (2025), arXiv 2509.18346.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_real
from thalweg.descent._oracle import (
    BreakdownError,
    Oracle,
    State,
    check_unused,
    drive,
    largest,
)
from thalweg.descent.inertial_coefficients import Coefficient, coefficients

Floats = NDArray[np.float64]

GTOL = 1e-8
MAXITER = 10_000


def two_step(
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
    alpha: float,
    beta: Coefficient,
    gamma: Coefficient,
    delta: float = 0.0,
    gtol: float = GTOL,
    maxiter: int = MAXITER,
) -> OptimizeResult:
    r"""Minimise a smooth function by gradient steps that remember the last move.

    .. math:: y_k = x_k + \gamma (x_k - x_{k-1}), \qquad
              x_{k+1} = x_k + \beta (x_k - x_{k-1}) - \alpha \nabla f(y_k), \qquad x_{-1} = x_0

    What is returned is the output x_k + delta (x_k - x_{k-1}).

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
        `scipy.optimize.minimize`, with the output; StopIteration ends the run.
    record : bool, default False
        Whether ``trajectory`` and ``history`` are kept, which evaluates `fun` at every step.
    hess, hessp, bounds, constraints
        Refused unless empty; `scipy.optimize.minimize` passes them.
    alpha : float
        Step length, > 0.
    beta, gamma : float or callable
        Share of the last move that is repeated, and that the gradient is taken ahead; numbers or
        functions of k = 0, 1, ... (at k = 0 there is no last move).
    delta : float, default 0.0
        Share of the last move between state and output.
    gtol : float, default 1e-8
        Stop when no entry of the gradient at the output is larger. It is looked at once the one
        at y_k is that small. 0 never stops.
    maxiter : int, default 10000
        Largest number of steps.

    Returns
    -------
    OptimizeResult
        ``x``, ``fun``, ``jac``, ``nit``, ``nfev``, ``njev``, ``success``, ``status``, ``message``;
        with `record` also ``trajectory`` of shape ``(nit + 1, *x.shape)``, x0 and then the outputs,
        and ``history["fun"]`` of shape (nit + 1,). ``success`` is False after `maxiter` steps
        without meeting `gtol`. If a value is not finite, the last point where all was is returned
        with ``success=False``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "On the Dynamics of Acceleration in First order Gradient Methods" (2025), arXiv 2509.18346;
    the family is the field's common form, not a formula of the paper.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.descent import coefficients
    >>> a = np.array([1.0, 100.0])
    >>> alpha, beta, gamma, delta = coefficients("nesterov", L=100.0, mu=1.0)
    >>> result = two_step(lambda x: 0.5 * x @ (a * x), [1.0, 1.0], jac=lambda x: a * x,
    ...                   alpha=alpha, beta=beta, gamma=gamma, delta=delta)
    >>> result.success, result.nit < 300
    (True, True)
    """
    check_unused("two_step", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints)
    alpha = check_real("alpha", alpha, above=0)
    shares = []
    for name, value in (("beta", beta), ("gamma", gamma)):
        shares.append(value if callable(value) else check_real(name, value))
    delta = check_real("delta", delta)
    four = (alpha, shares[0], shares[1], delta)
    return _run(fun, x0, args, jac, callback, record, four, gtol, maxiter)


def heavy_ball(
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
    mu: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
    gtol: float = GTOL,
    maxiter: int = MAXITER,
) -> OptimizeResult:
    r"""Minimise a smooth function by Polyak's heavy ball.

    .. math:: x_{k+1} = x_k - \alpha \nabla f(x_k) + \beta (x_k - x_{k-1})

    On quadratics with curvatures in [mu, L] no method of this kind is faster, sqrt(beta) a step.
    On other strongly convex functions it may end in a cycle: the equation that it follows lacks
    the damping by curvature that looking ahead gives.

    Parameters
    ----------
    fun, x0, args, jac, callback, record, hess, hessp, bounds, constraints, gtol, maxiter
        As in `two_step`.
    L, mu : float, optional
        Lipschitz constant of the gradient and strong convexity, 0 < mu <= L. They give
        alpha = 4 / (sqrt(L) + sqrt(mu))² and
        beta = ((sqrt(L) - sqrt(mu)) / (sqrt(L) + sqrt(mu)))².
    alpha, beta : float, optional
        Step length > 0 and momentum, 0 <= beta < 1, in place of L and mu.

    Returns
    -------
    OptimizeResult
        As of `two_step`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or not just one of the pairs is given.

    See Also
    --------
    find_cycle : tells whether the points end in a cycle.

    References
    ----------
    "On the Dynamics of Acceleration in First order Gradient Methods" (2025), arXiv 2509.18346.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.array([1.0, 100.0])
    >>> result = heavy_ball(lambda x: 0.5 * x @ (a * x), [1.0, 1.0], jac=lambda x: a * x,
    ...                     L=100.0, mu=1.0)
    >>> result.success, result.nit < 150
    (True, True)
    """
    check_unused("heavy_ball", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints)
    if L is None and mu is None:
        if alpha is None or beta is None:
            raise ValueError(
                f"L and mu, or alpha and beta, must be given, got alpha={alpha!r}, beta={beta!r}"
            )
        alpha = check_real("alpha", alpha, above=0)
        beta = check_real("beta", beta, at_least=0, below=1)
    else:
        for name, value in (("alpha", alpha), ("beta", beta)):
            if value is not None:
                raise ValueError(f"{name} must be left out if L or mu is given, got {value!r}")
        if L is None or mu is None:
            raise ValueError(f"L and mu must be given together, got L={L!r}, mu={mu!r}")
        alpha, beta = coefficients("heavy-ball", L=L, mu=mu)[:2]
    four = (alpha, beta, 0.0, 0.0)
    return _run(fun, x0, args, jac, callback, record, four, gtol, maxiter)


def triple_momentum(
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
    mu: float,
    gtol: float = GTOL,
    maxiter: int = MAXITER,
) -> OptimizeResult:
    r"""Minimise a smooth strongly convex function by the triple momentum method.

    The recursion of `two_step` with, for rho = 1 - sqrt(mu / L),

    .. math:: \alpha = \frac{1 + \rho}{L}, \quad \beta = \frac{\rho^2}{2 - \rho}, \quad
              \gamma = \frac{\rho^2}{(1 + \rho)(2 - \rho)}, \quad
              \delta = \frac{\rho^2}{1 - \rho^2}

    The distance of its output from the minimiser is at most a constant times rho^k on every such
    function, where Nesterov's method guarantees sqrt(rho)^k.

    Parameters
    ----------
    fun, x0, args, jac, callback, record, hess, hessp, bounds, constraints, gtol, maxiter
        As in `two_step`.
    L, mu : float
        Lipschitz constant of the gradient and strong convexity, 0 < mu <= L.

    Returns
    -------
    OptimizeResult
        As of `two_step`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "On the Dynamics of Acceleration in First order Gradient Methods" (2025), arXiv 2509.18346;
    the method is of "The Fastest Known Globally Convergent First-Order Method for Minimizing
    Strongly Convex Functions" (2018).

    Examples
    --------
    >>> import numpy as np
    >>> a = np.array([1.0, 100.0])
    >>> result = triple_momentum(lambda x: 0.5 * x @ (a * x), [1.0, 1.0], jac=lambda x: a * x,
    ...                          L=100.0, mu=1.0)
    >>> result.success, result.nit < 250
    (True, True)
    """
    check_unused("triple_momentum", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints)
    four = coefficients("triple-momentum", L=L, mu=mu)
    return _run(fun, x0, args, jac, callback, record, four, gtol, maxiter)


def _run(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: Any,
    jac: Any,
    callback: Callable[..., Any] | None,
    record: bool,
    four: tuple[float, Coefficient, Coefficient, float],
    gtol: float,
    maxiter: int,
) -> OptimizeResult:
    gtol = check_real("gtol", gtol, at_least=0)
    oracle = Oracle(fun, x0, args, jac)
    points: list[Floats] | None = [] if record else None
    result = drive(
        oracle,
        _states(oracle, *four, gtol, points),
        maxiter=maxiter,
        tol=gtol,
        callback=callback,
        record=record,
    )
    if points is not None:
        # A point at which the run broke down was noted but is not part of it.
        result.trajectory = np.array(points[: result.nit + 1])
    return result


def _states(
    oracle: Oracle,
    alpha: float,
    beta: Coefficient,
    gamma: Coefficient,
    delta: float,
    tol: float,
    points: list[Floats] | None,
) -> Iterator[State]:
    x, move = oracle.x0, np.zeros_like(oracle.x0)
    k = 0
    while True:
        repeat, look = _share("beta", beta, k), _share("gamma", gamma, k)
        ahead = x + look * move if look else x
        slope = oracle.gradient(ahead)
        output, residual = ahead, largest(slope) if tol > 0 else None
        jac: Floats | None = slope
        if look != delta:
            output = x + delta * move if delta else x
            if not np.isfinite(output).all():
                raise BreakdownError("the points left the finite numbers; the steps are too long")
            jac = None
            if residual is not None and residual <= tol:
                # The gradient was seen at y, but the output is the result.
                jac = oracle.gradient(output)
                residual = largest(jac)
        if points is not None:
            points.append(output)
        yield State(output, jac=jac, residual=residual)
        move *= repeat
        move -= alpha * slope
        x = x + move
        k += 1


def _share(name: str, value: Coefficient, k: int) -> float:
    if not callable(value):
        return value
    share = float(value(k))
    if not math.isfinite(share):
        raise BreakdownError(f"{name} returned {share} at k = {k}")
    return share
