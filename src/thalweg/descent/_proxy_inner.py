r"""Proximal points of a cheap function, to the accuracy that the outer step can use.

A `Subproblem` is phi(y) = f̂(y) + <shift, y> + ‖y - x‖² / (2 eta). Every point at which a solver
asks for its value is a candidate answer: `Subproblem.look` ends the solver as soon as one meets the
rule of accuracy, and keeps the best of the others. So all solvers stop alike, and what is returned
never lies above the start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from thalweg._validation import check_real
from thalweg.descent._counted_runs import BrokenError, Counted
from thalweg.descent._oracle import BreakdownError, check_callable
from thalweg.descent.gradient import nesterov
from thalweg.descent.problems import FiniteSum
from thalweg.descent.variance_reduction import svrg

Floats = NDArray[np.float64]
Solver = str | Callable[[Floats, Floats, float], Any]

ROUNDING = 1e-13
"""Relative error of a difference of values of f̂ that counts as none."""
MEMORY = 10
"""Pairs of L-BFGS."""
RETRIES, SHORTER = 8, 1e-2
"""A first trial beyond the finite numbers is shortened this often, by this factor."""
TOOK_ALL = 1
"""SciPy's status of a run that maxiter ended."""
SVRG_STEP = 0.25
"""Step of SVRG times the smoothness of a component."""


class Inner(NamedTuple):
    """An approximate proximal point.

    Attributes
    ----------
    y : ndarray
        The point.
    slope : ndarray
        The proxy's gradient there.
    residual : float
        ‖∇phi(y)‖.
    moved : float
        ‖y - x‖.
    met : bool
        Whether the rule of accuracy holds.
    """

    y: Floats
    slope: Floats
    residual: float
    moved: float
    met: bool


class FoundError(Exception):
    """Raised through a solver once a point meets the rule."""


class Proxy:
    """The cheap function: values and gradients on flat points, counted, checked and remembered.

    Parameters
    ----------
    fun : callable or FiniteSum
        ``fun(x) -> float``, or ``(float, gradient)`` with ``jac=True``.
    jac : callable, True or None
        ``jac(x)``; None for a finite sum.
    shape : tuple
        Of the points that the functions get.
    hessp : callable, optional
        ``hessp(x, v)``; a finite sum may have its own.
    L : float, optional
        Smoothness; the ``curvature`` of a finite sum by default.
    executor : Executor, optional
        Spreads the means of a finite sum.
    """

    def __init__(
        self,
        fun: Any,
        jac: Any,
        shape: tuple[int, ...],
        hessp: Any = None,
        L: float | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.shape, self.problem = shape, fun if isinstance(fun, FiniteSum) else None
        check_callable("proxy_hessp", hessp, optional=True)
        self.hessp, self.L, self.L_max = hessp, L, L
        if L is not None:
            self.L = self.L_max = check_real("proxy_L", L, above=0)
        if self.problem is not None:
            self._read_sum(jac, executor)
        else:
            check_callable("proxy_fun", fun)
            if jac is not True and not callable(jac):
                raise TypeError(f"proxy_jac must be callable or True, got {jac!r}")
            if executor is not None:
                raise ValueError(f"executor needs a FiniteSum as proxy_fun, got {fun!r}")
        self._fun, self._jac = fun, jac
        self.n_gradients, self.n_components = 0, 0
        self.length = np.inf
        self._seen: deque[tuple[Floats, float, Floats]] = deque(maxlen=3)

    def _read_sum(self, jac: Any, executor: Executor | None) -> None:
        assert self.problem is not None
        if jac is not None:
            raise ValueError(f"proxy_jac must be None if proxy_fun is a FiniteSum, got {jac!r}")
        if self.shape != (self.problem.dim,):
            raise ValueError(
                f"proxy_fun must have dim {self.shape}, as x0, got {(self.problem.dim,)}"
            )
        self.counted = Counted(self.problem, (), executor)
        if self.hessp is None and hasattr(self.problem, "hessp"):
            self.hessp = self.counted.hessp
        known = self.problem.curvature()
        self.L = self.L or known.get("L")
        self.L_max = self.L_max or known.get("L_max")

    @property
    def work(self) -> int:
        """Gradients so far; n component gradients of a finite sum are one."""
        n = 1 if self.problem is None else self.problem.n
        return self.n_gradients + -(-self.n_components // n)

    def both(self, x: Floats) -> tuple[float, Floats]:
        """Return value and gradient; BreakdownError if they are not finite."""
        for point, f, g in self._seen:
            if np.array_equal(point, x):
                return f, g
        if not np.isfinite(x).all():
            raise BreakdownError("the points left the finite numbers; the steps are too long")
        self.n_gradients += 1
        try:
            f, g = self._ask(x.reshape(self.shape).copy())
        except BrokenError as error:
            raise BreakdownError(f"proxy_fun: {error}") from error
        value, slope = np.asarray(f, dtype=float), np.array(g, dtype=float, ndmin=1)
        if value.size != 1:
            raise ValueError(f"proxy_fun must return a real number, got {f!r}")
        if slope.shape != self.shape:
            raise ValueError(f"proxy_jac must return shape {self.shape}, got {slope.shape}")
        for name, result in (("proxy_fun", value), ("proxy_jac", slope)):
            if not np.isfinite(result).all():
                raise BreakdownError(f"{name} returned a value that is not finite")
        self._seen.append((x.copy(), float(value.reshape(())), slope.ravel()))
        return self._seen[-1][1:]

    def _ask(self, x: Floats) -> tuple[Any, Any]:
        if self.problem is not None:
            return self.counted.value(x), self.counted.gradient(x)
        if self._jac is True:
            pair = self._fun(x)
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise ValueError(
                    f"proxy_fun must return (value, gradient) with proxy_jac=True, got {pair!r}"
                )
            return pair[0], pair[1]
        return self._fun(x), self._jac(x.copy())

    def product(self, x: Floats, v: Floats) -> Floats:
        """Return the Hessian at `x` times `v`."""
        product = self.hessp(x.reshape(self.shape), v.reshape(self.shape))
        product = np.asarray(product, dtype=float)
        if product.shape != self.shape:
            raise ValueError(f"proxy_hessp must return shape {self.shape}, got {product.shape}")
        return product.ravel()


class Subproblem:
    """phi at one outer step, and the best point seen."""

    def __init__(
        self, proxy: Proxy, x: Floats, g: Floats, eta: float, theta: float, tol: float
    ) -> None:
        self.proxy, self.x, self.g, self.eta, self.theta, self.tol = proxy, x, g, eta, theta, tol
        self.f, self.slope = proxy.both(x)
        self.shift = g - self.slope
        self.size = float(np.linalg.norm(g))
        self.best: Inner | None = None

    def look(self, y: Floats) -> tuple[float, Floats]:
        """Return phi(y) - phi(x) and ∇phi(y); FoundError if y will do."""
        f, slope = self.proxy.both(y)
        d = y - self.x
        square, along = float(d @ d) / (2 * self.eta), float(self.shift @ d)
        change = f - self.f + along + square
        gradient = slope + self.shift + d / self.eta
        moved, residual = float(np.linalg.norm(d)), float(np.linalg.norm(gradient))
        scale = abs(f) + abs(self.f) + abs(along) + square
        if moved > 0 and change <= ROUNDING * scale:
            met = residual <= max(self.tol, self.theta * moved / self.eta)
            if self.best is None or residual < self.best.residual:
                self.best = Inner(y.copy(), slope, residual, moved, met)
            if met:
                self.best = Inner(y.copy(), slope, residual, moved, met)
                raise FoundError
        return change, gradient

    def stay(self, met: bool) -> Inner:
        """The start itself as the answer."""
        return Inner(self.x, self.slope, self.size, 0.0, met)


def proximal_point(
    sub: Subproblem, solver: Solver, maxiter: int, rng: np.random.Generator
) -> Inner:
    """Minimise phi to the rule's accuracy, or as far as the solver goes.

    Raises
    ------
    BreakdownError
        If the solver finds no point that lies below the start, though floating point would tell.
    """
    if sub.size <= sub.tol:
        return sub.stay(met=True)
    try:
        if callable(solver):
            shape = sub.proxy.shape
            y = solver(sub.x.reshape(shape).copy(), sub.shift.reshape(shape).copy(), sub.eta)
            point = np.array(y, dtype=float, ndmin=1)
            if point.shape != shape:
                raise ValueError(f"solver must return shape {shape}, got {point.shape}")
            if not np.isfinite(point).all():
                raise BreakdownError("solver returned a value that is not finite")
            sub.look(point.ravel())
        elif solver == "sgd":
            _svrg(sub, maxiter, rng)
        elif solver == "nesterov":
            _nesterov(sub, maxiter)
        else:
            _scipy(sub, solver, maxiter)
    except FoundError:
        pass
    if sub.best is not None:
        sub.proxy.length = sub.best.moved / sub.size
        return sub.best
    # phi cannot fall by more than this where f̂ is convex
    if sub.eta * sub.size**2 / 2 <= ROUNDING * abs(sub.f):
        return sub.stay(met=False)
    raise BreakdownError("the inner solver found no point at which phi is smaller than at x_t")


def check_solver(solver: Any, proxy: Proxy) -> None:
    """Refuse a solver that is unknown, or lacks what it needs of the proxy."""
    if callable(solver):
        return
    if solver not in SOLVERS:
        known = ", ".join(map(repr, SOLVERS))
        raise ValueError(f"solver must be callable or one of {known}, got {solver!r}")
    if solver == "newton-cg" and proxy.hessp is None:
        raise ValueError("proxy_hessp must be given for solver='newton-cg', got None")
    if solver == "nesterov" and not proxy.L:
        raise ValueError("proxy_L must be given for solver='nesterov', got None")
    if solver == "sgd":
        if proxy.problem is None:
            raise TypeError("proxy_fun must be a FiniteSum for solver='sgd'")
        if not proxy.L_max:
            raise ValueError("proxy_L must be given for solver='sgd' and this proxy, got None")


SOLVERS = ("lbfgs", "newton-cg", "nesterov", "sgd")


def _scipy(sub: Subproblem, solver: str, maxiter: int) -> None:
    """Minimise by SciPy; where values can tell no more, go on by gradients alone."""
    length = min(sub.eta, sub.proxy.length)

    if _minimised(sub, solver, maxiter, sub.look, sub.x, sub.size, length) or sub.best is None:
        return
    base = sub.best
    base_gradient = sub.look(base.y)[1]

    def near(y: Floats) -> tuple[float, Floats]:
        # exact for quadratics, and free of the rounding of phi, which is not small itself
        gradient = sub.look(y)[1]
        return 0.5 * float((gradient + base_gradient) @ (y - base.y)), gradient

    if base.residual > 0:
        _minimised(sub, solver, maxiter, near, base.y, base.residual, length)


def _minimised(
    sub: Subproblem,
    solver: str,
    maxiter: int,
    value: Callable[[Floats], tuple[float, Floats]],
    start: Floats,
    size: float,
    length: float,
) -> bool:
    """Run SciPy from `start`; return whether it took all its iterations.

    It works in z = (y - start) / s, with gradients over their first norm, `size`, so that its first
    trial moves y by s = length times size.
    """
    for attempt in range(RETRIES + 1):
        s = length * size * SHORTER**attempt

        def scaled(z: Floats, s: float = s) -> tuple[float, Floats]:
            change, gradient = value(start + s * z)
            return change / (s * size), gradient / size

        def product(z: Floats, v: Floats, s: float = s) -> Floats:
            curved = sub.proxy.product(start + s * z, v) + v / sub.eta
            return (s / size) * curved

        options: dict[str, float] = {"maxiter": maxiter}
        if solver == "lbfgs":
            options |= {"maxfun": 20 * maxiter + 20, "maxcor": MEMORY, "ftol": 0.0, "gtol": 0.0}
            more: dict[str, Any] = {"method": "L-BFGS-B"}
        else:
            options["xtol"] = 0.0
            more = {"method": "Newton-CG", "hessp": product}
        try:
            ended = minimize(scaled, np.zeros_like(start), jac=True, options=options, **more)
            return bool(ended.status == TOOK_ALL)
        except BreakdownError:
            if attempt == RETRIES:
                raise
    return False


def _nesterov(sub: Subproblem, maxiter: int) -> None:
    assert sub.proxy.L is not None
    strength = 1 / sub.eta
    result = nesterov(
        sub.look, sub.x, jac=True, L=sub.proxy.L + strength, mu=strength, gtol=0.0, maxiter=maxiter
    )
    if not np.isfinite(result.fun):
        raise BreakdownError(result.message)


def _svrg(sub: Subproblem, epochs: int, rng: np.random.Generator) -> None:
    assert sub.proxy.L_max is not None
    svrg(
        _ShiftedSum(sub),  # type: ignore[arg-type]
        sub.x,
        step=SVRG_STEP / (sub.proxy.L_max + 1 / sub.eta),
        n_epochs=epochs,
        rng=rng,
        callback=lambda state: sub.look(state.x),
    )


class _ShiftedSum:
    """phi as a finite sum, for SVRG; whole gradients are looks, those of components are counted."""

    def __init__(self, sub: Subproblem) -> None:
        assert sub.proxy.problem is not None
        self.sub, self.problem = sub, sub.proxy.problem
        self.n, self.dim = self.problem.n, self.problem.dim

    def value(self, y: Floats, idx: Any = None) -> float:
        """Return phi(y) - phi(x)."""
        return self.sub.look(y)[0]

    def gradient(self, y: Floats, idx: Any = None) -> Floats:
        """Return the mean gradient of the components `idx`, all if None."""
        if idx is None:
            return self.sub.look(y)[1]
        self.sub.proxy.n_components += len(idx)
        slope = self.problem.gradient(y, idx)
        shifted: Floats = slope + self.sub.shift + (y - self.sub.x) / self.sub.eta
        return shifted
