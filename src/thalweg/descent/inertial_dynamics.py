r"""The differential equations that momentum methods follow, and what they say of acceleration.

Every method of `thalweg.descent.two_step` with steps alpha = h² follows

.. math:: \ddot X + (A + B \nabla^2 f(X)) \dot X + C \nabla f(X) = 0

to within h²: `thalweg.descent.continuous_limit` gives A, B, C, and `inertial_ode` solves it.

- The damping by curvature, B, is what looking ahead (gamma) gives; the heavy ball has none.
- With C = A B the velocity ``-B grad f`` is never left: gradient flow, made attractive by passivity
  and immersion (`passivity_immersion`). Accelerated methods have C much larger than A B.
- With large A the velocity is soon a function of the position, the slow manifold
  (`slow_manifold`).

Source: "On the Dynamics of Acceleration in First order Gradient Methods" (2025), arXiv 2509.18346.
Its programme is followed; the formulas are derived here, not quoted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp

from thalweg._validation import check_array, check_option, check_real
from thalweg.descent._oracle import check_callable

Floats = NDArray[np.float64]
Point = Callable[[Floats], ArrayLike]
Product = Callable[[Floats, Floats], ArrayLike]
OfTime = float | Callable[[float], float]

RTOL, ATOL = 1e-10, 1e-12
EPS = float(np.finfo(float).eps)


def inertial_ode(
    jac: Point,
    x0: ArrayLike,
    t_eval: ArrayLike,
    *,
    A: OfTime,
    B: OfTime,
    C: OfTime,
    hessp: Product | None = None,
    v0: ArrayLike | None = None,
    rtol: float = RTOL,
    atol: float = ATOL,
) -> tuple[Floats, Floats]:
    """Solve X'' + (A + B hess f(X)) X' + C grad f(X) = 0.

    Parameters
    ----------
    jac : callable
        ``jac(x)``, the gradient of f.
    x0 : array_like of shape (dim,)
        Position at ``t_eval[0]``.
    t_eval : array_like of shape (n,)
        Increasing times.
    A, B, C : float or callable
        Numbers or functions of t (A = 3 / t, C = 1 + 3 h / (2 t), B = h for Nesterov's convex
        method, from some t > 0, where its step k is at t = (k + 3 / 2) h).
    hessp : callable, optional
        ``hessp(x, v)``, the Hessian times v. Without it, a constant B needs none: the equation is
        solved for the position and X' + B grad f; if B varies, it is a central difference of `jac`.
    v0 : array_like of shape (dim,), optional
        Velocity at ``t_eval[0]``; 0 by default.
    rtol, atol : float
        Tolerances of `scipy.integrate.solve_ivp`, method DOP853.

    Returns
    -------
    x, v : ndarray of shape (n, dim)
        Positions and velocities at `t_eval`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.
    FloatingPointError
        If the path cannot be followed to the end because values are not finite.

    References
    ----------
    "On the Dynamics of Acceleration in First order Gradient Methods" (2025), arXiv 2509.18346.

    Examples
    --------
    >>> import numpy as np
    >>> x, v = inertial_ode(lambda x: x, [1.0], [0.0, np.pi], A=0, B=0, C=1)
    >>> x.round(8).ravel()
    array([ 1., -1.])
    """
    check_callable("jac", jac)
    check_callable("hessp", hessp, optional=True)
    x, v = _start(x0, v0)
    times = check_array("t_eval", t_eval, ndim=1)
    if not times.size or (np.diff(times) <= 0).any():
        raise ValueError(f"t_eval must be increasing times, got {times}")
    rtol = check_real("rtol", rtol, at_least=100 * EPS)
    atol = check_real("atol", atol, above=0)
    dim, constant_b = len(x), not callable(B)
    a, b, c = (
        _of_time(name, value, float(times[0])) for name, value in (("A", A), ("B", B), ("C", C))
    )
    slope = reader("jac", jac, dim)
    if not np.isfinite(slope(x)).all():
        raise ValueError(f"jac must be finite at x0, got {slope(x)}")
    lifted = constant_b and hessp is None
    product = None if lifted else hessian_product(slope, hessp, dim)

    def field(t: float, state: Floats) -> Floats:
        here, second = state[:dim], state[dim:]
        g = slope(here)
        if product is None:
            # second = X' + B grad f, whose derivative has no Hessian.
            moving = second - b(t) * g
            return np.concatenate([moving, -a(t) * moving - c(t) * g])
        return np.concatenate([second, -a(t) * second - b(t) * product(here, second) - c(t) * g])

    first = v + b(float(times[0])) * slope(x) if lifted else v
    if len(times) == 1:
        return x[None].copy(), v[None].copy()
    solution = solve_ivp(
        field,
        (times[0], times[-1]),
        np.concatenate([x, first]),
        method="DOP853",
        t_eval=times,
        rtol=rtol,
        atol=atol,
    )
    if not solution.success or not np.isfinite(solution.y).all():
        reached = solution.t[-1] if len(solution.t) else times[0]
        raise FloatingPointError(
            f"the path cannot be followed beyond t = {reached:g}, where it or jac leaves the "
            f"finite numbers: {solution.message}"
        )
    x_path, second = solution.y[:dim].T.copy(), solution.y[dim:].T.copy()
    if lifted:
        second -= b(float(times[0])) * np.array([slope(x) for x in x_path])
    return x_path, second


def passivity_immersion(
    jac: Point,
    x0: ArrayLike,
    t_eval: ArrayLike,
    *,
    kappa: float,
    gamma: float,
    hessp: Product | None = None,
    v0: ArrayLike | None = None,
) -> tuple[Floats, Floats, Floats]:
    r"""Steer an inertial system onto gradient flow, by passivity and immersion.

    The system x' = v, v' = u is wanted on the manifold psi(x, v) = v + kappa grad f(x) = 0, where
    it is gradient flow. With the storage ‖psi‖² / 2, whose passive output is psi, the control

    .. math:: u = -\kappa \nabla^2 f(x) v - \gamma \psi

    gives psi' = -gamma psi, so psi(t) = exp(-gamma t) psi(0) for every f. The closed loop is
    `inertial_ode` with A = gamma, B = kappa and C = A B; on a quadratic of curvature lambda its
    exponents are -gamma and -kappa lambda.

    Parameters
    ----------
    jac, x0, t_eval, hessp, v0
        As in `inertial_ode`. Without `hessp` the solver's own variables are x and psi.
    kappa : float
        Speed of the gradient flow, > 0.
    gamma : float
        Rate at which the manifold attracts, > 0.

    Returns
    -------
    x, v, psi : ndarray of shape (n, dim)
        Positions, velocities and distances from the manifold.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As `inertial_ode`.

    References
    ----------
    "On the Dynamics of Acceleration in First order Gradient Methods" (2025), arXiv 2509.18346;
    derived here from the tool's recipe.

    Examples
    --------
    >>> import numpy as np
    >>> x, v, psi = passivity_immersion(np.sinh, [1.0], [0.0, 2.0], kappa=0.5, gamma=3.0)
    >>> bool(np.isclose(psi[1, 0], np.exp(-6.0) * psi[0, 0]))
    True
    """
    kappa = check_real("kappa", kappa, above=0)
    gamma = check_real("gamma", gamma, above=0)
    x, v = inertial_ode(jac, x0, t_eval, A=gamma, B=kappa, C=gamma * kappa, hessp=hessp, v0=v0)
    slopes = np.array([np.asarray(jac(point), dtype=np.float64) for point in x])
    return x, v, v + kappa * slopes


def slow_manifold(
    jac: Point,
    x: ArrayLike,
    *,
    A: float,
    B: float,
    C: float,
    hessp: Product | None = None,
    order: int = 0,
) -> Floats:
    r"""Return the velocity on the slow manifold of the inertial equation.

    With strong damping, epsilon = 1 / A, the velocity soon follows the position. To orders 0 and 1,

    .. math:: v_0 = -\frac{C}{A} \nabla f, \qquad
              v_1 = v_0 - \frac{1}{A} \Big(B - \frac{C}{A}\Big) \nabla^2 f \, v_0

    with errors of order epsilon and epsilon² at fixed C / A and B. With C = A B, v_0 is exact.

    Parameters
    ----------
    jac, hessp
        As in `inertial_ode`; `hessp`, used by order 1 only, is a central difference if None.
    x : array_like of shape (dim,)
        Position.
    A, B, C : float
        Coefficients, A > 0.
    order : {0, 1}, default 0
        Order in 1 / A.

    Returns
    -------
    ndarray of shape (dim,)
        The velocity.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or `jac` or `hessp` return what is not finite.

    References
    ----------
    "On the Dynamics of Acceleration in First order Gradient Methods" (2025), arXiv 2509.18346;
    derived here by geometric singular perturbation.

    Examples
    --------
    >>> slow_manifold(lambda x: 2 * x, [1.0], A=10.0, B=0.0, C=5.0, order=1)
    array([-1.1])
    """
    check_callable("jac", jac)
    check_callable("hessp", hessp, optional=True)
    x = check_array("x", x, ndim=1)
    A = check_real("A", A, above=0)
    B, C = check_real("B", B), check_real("C", C)
    check_option("order", order, (0, 1))
    slope = reader("jac", jac, len(x))
    v = -(C / A) * slope(x)
    if order == 1:
        v = v - (B - C / A) / A * hessian_product(slope, hessp, len(x))(x, v)
    if not np.isfinite(v).all():
        raise ValueError(f"jac and hessp must be finite at x, got the velocity {v}")
    return v


def _start(x0: ArrayLike, v0: ArrayLike | None) -> tuple[Floats, Floats]:
    x = check_array("x0", x0, ndim=1)
    if not x.size:
        raise ValueError(f"x0 must not be empty, got shape {x.shape}")
    return x, np.zeros_like(x) if v0 is None else check_array("v0", v0, shape=x.shape)


def _of_time(name: str, value: OfTime, start: float) -> Callable[[float], float]:
    if not callable(value):
        number = check_real(name, value)
        return lambda t: number
    function = value
    try:
        first = float(function(start))
    except ZeroDivisionError:
        first = math.inf
    if not math.isfinite(first):
        raise ValueError(f"{name} must be finite at t_eval[0] = {start:g}, got {first!r}")
    return lambda t: float(function(t))


def reader(name: str, function: Callable[..., Any], dim: int) -> Callable[..., Floats]:
    """Return the user's function with its shape checked."""

    def read(*points: Floats) -> Floats:
        value = np.asarray(function(*(point.copy() for point in points)), dtype=np.float64)
        if value.shape != (dim,):
            raise ValueError(f"{name} must return shape ({dim},), got {value.shape}")
        return value

    return read


def hessian_product(
    slope: Callable[..., Floats], hessp: Product | None, dim: int
) -> Callable[[Floats, Floats], Floats]:
    """Return the user's product with its shape checked, or central differences of the slope."""
    if hessp is not None:
        return reader("hessp", hessp, dim)

    def difference(x: Floats, v: Floats) -> Floats:
        length = float(np.linalg.norm(v))
        if length == 0:
            return np.zeros_like(v)
        width = EPS ** (1 / 3) * max(1.0, float(np.linalg.norm(x))) / length
        return (slope(x + width * v) - slope(x - width * v)) / (2 * width)

    return difference
