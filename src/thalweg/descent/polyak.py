"""Minimise a function whose least value is known, with momentum and no step length to choose.

Polyak's step is the one that minimises an upper bound of the next distance to a minimiser. With
momentum the same principle gives

- ``variant="mag"``: steps along a moving average of gradients, whose distance to every minimiser
  never grows, whatever the momentum;
- ``variant="hb"``: a heavy ball that does not swing up, and the faster one on ill-conditioned
  problems.

Neither needs a smoothness constant. A lower bound of the least value will do, often 0, but the
steps are then too long and the points do not settle. `thalweg.descent.PolyakMomentum` is the same
for torch networks, `thalweg.descent.stochastic_polyak` for finite sums without momentum.

Source: "Generalized Polyak Step Size for First Order Optimization with Momentum" (2023), arXiv
2305.12939.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_array, check_option, check_real
from thalweg.descent._oracle import (
    BreakdownError,
    Oracle,
    State,
    check_unused,
    drive,
    inner,
)

Floats = NDArray[np.float64]

VARIANTS = ("hb", "mag")
LOWER_BOUNDS = ("convex", "smooth", "quadratic")
MOMENTUM = 0.9
GTOL = 1e-10
FTOL = 0.0
MAXITER = 10_000
BELOW = 1e-12
"""How far a value may lie under f_star, relative to max(1, |f_star|), and be rounding."""


def polyak_momentum(
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
    f_star: float,
    variant: str = "hb",
    lower_bound: str = "convex",
    momentum: float = MOMENTUM,
    L: float | None = None,
    step_max: float = math.inf,
    gtol: float = GTOL,
    ftol: float = FTOL,
    maxiter: int = MAXITER,
) -> OptimizeResult:
    r"""Minimise a convex function with momentum and Polyak's steps.

    With the gradient g at x_k and a lower bound :math:`\ell_k \le \langle g, x_k - x^*\rangle`,
    the moving average ("mag") is

    .. math:: d_k = g + \beta d_{k-1}, \qquad \eta_k = \frac{\ell_k}{\|d_k\|^2}, \qquad
              x_{k+1} = x_k - \eta_k d_k

    and the heavy ball ("hb"), with :math:`s_k = x_k - x_{k-1}`,

    .. math:: \eta_k = \frac{(\ell_k + \beta \langle g, s_k\rangle)_+}{\|g\|^2}, \qquad
              x_{k+1} = x_k - \eta_k g + \beta s_k.

    Each minimises an upper bound of :math:`\|x_{k+1} - x^*\|`. Without momentum both are Polyak's
    method.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args) -> float``; with ``jac=True`` it returns ``(value, gradient)``.
    x0 : array_like
        Start, of any shape; gradients have the same.
    args : tuple, default ()
        Further arguments of `fun` and `jac`.
    jac : callable, True or None
        ``jac(x, *args)``, a gradient or subgradient; central differences if None.
    callback : callable, optional
        ``callback(xk)`` or ``callback(intermediate_result)`` after each step, as in
        `scipy.optimize.minimize`; StopIteration ends the run.
    record : bool, default False
        Whether ``history`` is kept.
    hess, hessp, bounds, constraints
        Refused unless empty; `scipy.optimize.minimize` passes them.
    f_star : float
        The least value of `fun`, or a lower bound of it.
    variant : {"hb", "mag"}, default "hb"
        Heavy ball or moving average.
    lower_bound : {"convex", "smooth", "quadratic"}, default "convex"
        What is known of `fun`, which gives ell_k, with gap = f(x_k) - f_star: "convex", gap;
        "smooth" (gradient L-Lipschitz, too), gap + ‖g‖² / (2 L); "quadratic", 2 gap, which is exact
        there.
    momentum : float, default 0.9
        beta in [0, 1).
    L : float, optional
        Lipschitz constant of the gradient, > 0; for ``lower_bound="smooth"`` and only there.
    step_max : float, default inf
        Longest step eta_k.
    gtol, ftol : float, default 1e-10 and 0.0
        Stop once the Euclidean norm of the gradient is at most `gtol` or the gap at most `ftol`.
    maxiter : int, default 10000
        Largest number of steps.

    Returns
    -------
    OptimizeResult
        ``x``, ``fun``, ``jac``, ``nit``, ``nfev``, ``njev``, ``success``, ``status``, ``message``;
        with `record` also ``history`` of ``fun`` of shape (nit + 1,), ``x`` of shape
        ``(nit + 1, *x.shape)`` and ``step``, the eta_k, of shape (nit,). ``success`` is False after
        `maxiter` steps that met neither tolerance. If a value is not finite, the last point where
        all was is returned with ``success=False``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or a value of `fun` lies under `f_star`.

    See Also
    --------
    polyak_mag_bound : how small the gap of "mag" is bound to be.

    Notes
    -----
    For "mag", :math:`\|x_{k+1} - x^*\|^2 \le \|x_k - x^*\|^2 - \ell_k^2 / \|d_k\|^2` for every
    minimiser. Without momentum, on an L-smooth and mu-strongly convex function, the squared
    distance falls by the factor 1 - mu / (4 L) a step or faster. "hb" clips a negative step to 0,
    which is a choice made here.

    The paper's second heavy-ball step, which uses L, is written here from the principle
    ("smooth").

    References
    ----------
    "Generalized Polyak Step Size for First Order Optimization with Momentum" (2023), arXiv
    2305.12939, ALR-MAG and ALR-HB.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.geomspace(1.0, 1000.0, 20)
    >>> result = polyak_momentum(lambda x: 0.5 * x @ (a * x), np.ones(20), jac=lambda x: a * x,
    ...                          f_star=0.0, lower_bound="quadratic", gtol=1e-6)
    >>> result.success, result.nit < 500
    (True, True)
    """
    check_unused("polyak_momentum", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints)
    f_star = check_real("f_star", f_star)
    check_option("variant", variant, VARIANTS)
    check_option("lower_bound", lower_bound, LOWER_BOUNDS)
    momentum = check_real("momentum", momentum, at_least=0, below=1)
    if lower_bound == "smooth":
        if L is None:
            raise ValueError("L must be given for lower_bound='smooth', got None")
        L = check_real("L", L, above=0)
    elif L is not None:
        raise ValueError(f"L must be left out for lower_bound={lower_bound!r}, got {L!r}")
    if step_max != math.inf:
        step_max = check_real("step_max", step_max, above=0)
    gtol = check_real("gtol", gtol, at_least=0)
    ftol = check_real("ftol", ftol, at_least=0)
    oracle = Oracle(fun, x0, args, jac)
    log: dict[str, list[Any]] = {"x": [], "step": []}

    def lower(gap: float, squared: float) -> float:
        if lower_bound == "quadratic":
            return 2 * gap
        return gap if L is None else gap + squared / (2 * L)

    def states() -> Iterator[State]:
        x, memory = oracle.x0, np.zeros_like(oracle.x0)
        while True:
            f, g = oracle.value(x), oracle.gradient(x)
            gap = gap_of(f, f_star)
            squared = inner(g, g)
            ell = lower(gap, squared)
            if variant == "mag":
                memory *= momentum
                memory += g
                numerator, bottom = ell, inner(memory, memory)
            else:
                numerator, bottom = ell + momentum * inner(g, memory), squared
            step = length(numerator, bottom, step_max)
            if record:
                log["x"].append(x)
                log["step"].append(step)
            done = gap <= ftol
            yield State(x, f, g, 0.0 if done else math.sqrt(squared), extra={"met": done})
            if not (math.isfinite(step) and math.isfinite(bottom)):
                raise BreakdownError("a norm left the finite numbers; gradients are too long")
            if variant == "mag":
                x = x - step * memory
            else:
                memory *= momentum
                memory -= step * g
                x = x + memory

    result = drive(
        oracle,
        states(),
        maxiter=maxiter,
        tol=gtol,
        measure="the norm of the gradient",
        callback=callback,
        record=record,
    )
    if result.pop("met", False) and result.success:
        result.message = f"the gap fell to ftol = {ftol:g}"
    if record:
        # A point at which the run broke down was noted but is not part of it.
        result.history["x"] = np.array(log["x"][: result.nit + 1])
        result.history["step"] = np.array(log["step"][: result.nit])
    return result


def polyak_step(
    gap: float,
    g: ArrayLike,
    *,
    direction: ArrayLike | None = None,
    displacement: ArrayLike | None = None,
    momentum: float = 0.0,
    lower: float | None = None,
) -> float:
    """Return the length of a Polyak step: plain, along a moving average, or of a heavy ball.

    Parameters
    ----------
    gap : float
        f(x) - f*, >= 0.
    g : array_like
        The gradient at x.
    direction : array_like, shape of g, optional
        The average d that is stepped along: the length is lower / ‖d‖².
    displacement : array_like, shape of g, optional
        The last move s, of which the share `momentum` is repeated: the length is
        (lower + momentum <g, s>) / ‖g‖², or 0 if that is negative.
    momentum : float, default 0.0
        In [0, 1); it counts with `displacement` only.
    lower : float, optional
        A lower bound of <g, x - x*>, >= 0; the gap by default.

    Returns
    -------
    float
        The length; lower / ‖g‖² if neither `direction` nor `displacement` is given. 0 where what
        is stepped along is zero.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or both `direction` and `displacement` are given.

    References
    ----------
    "Generalized Polyak Step Size for First Order Optimization with Momentum" (2023), arXiv
    2305.12939.

    Examples
    --------
    >>> polyak_step(8.0, [4.0, 0.0])
    0.5
    >>> polyak_step(8.0, [4.0, 0.0], direction=[4.0, 4.0])
    0.25
    >>> polyak_step(8.0, [4.0, 0.0], displacement=[-1.0, 2.0], momentum=0.5)
    0.375
    """
    gap = check_real("gap", gap, at_least=0)
    gradient = check_array("g", g)
    momentum = check_real("momentum", momentum, at_least=0, below=1)
    ell = gap if lower is None else check_real("lower", lower, at_least=0)
    if direction is not None:
        if displacement is not None:
            raise ValueError("direction and displacement must not be given together")
        along = check_array("direction", direction, shape=gradient.shape)
        return length(ell, inner(along, along))
    if displacement is not None:
        move = check_array("displacement", displacement, shape=gradient.shape)
        ell += momentum * inner(gradient, move)
    return length(ell, inner(gradient, gradient))


def polyak_mag_bound(
    K: ArrayLike, G: float, D: float, momentum: float = MOMENTUM
) -> float | Floats:
    r"""Return the bound of the least gap among the first K points of ``variant="mag"``.

    .. math:: \min_{k < K} f(x_k) - f^* \le \frac{G D}{(1 - \beta) \sqrt K}

    for a convex function whose (sub)gradients at the points have norms up to G and ell_k = gap. It
    follows from the decrease of the distance, since :math:`\|d_k\| \le G / (1 - \beta)`.

    Parameters
    ----------
    K : int or array_like of int
        Points looked at, >= 1: x_0, ..., x_{K-1}.
    G : float
        Largest norm of a gradient, >= 0.
    D : float
        Distance of x_0 from the nearest minimiser, >= 0.
    momentum : float, default 0.9
        beta in [0, 1).

    Returns
    -------
    float or ndarray
        The bound, one for each K.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    References
    ----------
    "Generalized Polyak Step Size for First Order Optimization with Momentum" (2023), arXiv
    2305.12939; the bound is derived here.

    Examples
    --------
    >>> polyak_mag_bound([1, 100], G=2.0, D=3.0, momentum=0.5)
    array([12. ,  1.2])
    """
    counts = check_array("K", K)
    if not (counts >= 1).all() or (counts != np.floor(counts)).any():
        raise ValueError(f"K must hold integers >= 1, got {K!r}")
    G = check_real("G", G, at_least=0)
    D = check_real("D", D, at_least=0)
    momentum = check_real("momentum", momentum, at_least=0, below=1)
    bound = G * D / ((1 - momentum) * np.sqrt(counts))
    return float(bound) if counts.ndim == 0 else bound


def length(numerator: float, squared: float, longest: float = math.inf) -> float:
    """Return numerator / squared between 0 and the longest step; 0 where there is no way to go."""
    if squared == 0 or numerator <= 0:
        return 0.0
    return min(numerator / squared, longest)


def gap_of(value: float, f_star: float) -> float:
    """Return the gap, 0 for what rounding puts under f_star; ValueError for what lies lower."""
    gap = value - f_star
    if is_below(gap, f_star):
        raise ValueError(f"f_star is not a lower bound: fun returned {value!r}, f_star={f_star!r}")
    return max(gap, 0.0)


def is_below(gap: float, f_star: float) -> bool:
    """Whether a gap is negative by more than rounding."""
    return gap < -BELOW * max(1.0, abs(f_star))
