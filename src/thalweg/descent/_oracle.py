"""What every minimiser of SciPy's signature shares: the user's functions, the loop, the result.

A method is a generator that yields one `State` a step, beginning with the start. `Oracle` calls
the user's functions, counts the calls and refuses what is not finite; `drive` runs the generator to
its end, tells the callback, keeps the history and builds the `OptimizeResult`::

    oracle = Oracle(fun, x0, args, jac)

    def states():
        x = oracle.x0
        while True:
            g = oracle.gradient(x)
            yield State(x, jac=g, residual=largest(g))
            x = x - step * g

    return drive(oracle, states(), maxiter=maxiter, tol=gtol, tol_name="gtol", callback=callback)
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_array, check_count, check_real

Floats = NDArray[np.float64]
Point = Callable[[Floats], ArrayLike]
"""A function that takes a point (or gradient) and returns a point, such as a projection."""

CONVERGED, MAXITER, BROKEN, STOPPED = 0, 1, 2, 99
"""Values of ``status``; 99 is what SciPy gives when the callback raises StopIteration."""


class BreakdownError(Exception):
    """Raised inside a method that cannot go on: `drive` returns the last state as a failure."""


@dataclass
class State:
    """A point of a run.

    Attributes
    ----------
    x : ndarray
        What the method would return now.
    fun : float, optional
        The objective there; `drive` asks the oracle where it is missing and needed.
    jac : ndarray, optional
        The gradient there; the same.
    residual : float, optional
        What is compared with the tolerance.
    trace : dict
        Further fields of the result that the history follows.
    extra : dict
        Further fields of the result.
    """

    x: Floats
    fun: float | None = None
    jac: Floats | None = None
    residual: float | None = None
    trace: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


class Oracle:
    """The user's function and gradient, counted and checked.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args) -> float``, or ``(float, gradient)`` with ``jac=True``.
    x0 : array_like
        Start; a point may have any shape, with gradients of the same.
    args : tuple, default ()
        Further arguments; anything but a tuple is taken as the only one.
    jac : callable, True, "2-point", "3-point" or None
        ``jac(x, *args)``, or differences: central by default, which cost two values a coordinate.
    penalty : callable, optional
        A further term of the objective that has no gradient here: ``penalty(x) -> float``.

    Attributes
    ----------
    x0 : ndarray
        A copy of the start, as float64.
    nfev, njev : int
        Calls of `fun` and gradients so far.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Examples
    --------
    >>> oracle = Oracle(lambda x: x @ x, [1.0, 2.0], jac=lambda x: 2 * x)
    >>> oracle.value(oracle.x0), oracle.gradient(oracle.x0), oracle.nfev, oracle.njev
    (5.0, array([2., 4.]), 1, 1)
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        x0: ArrayLike,
        args: Any = (),
        jac: Any = None,
        *,
        penalty: Callable[[Floats], Any] | None = None,
    ) -> None:
        check_callable("fun", fun)
        check_callable("penalty", penalty, optional=True)
        if not callable(jac) and jac not in (None, False, True, "2-point", "3-point"):
            raise ValueError(
                f"jac must be callable, True, None, '2-point' or '3-point', got {jac!r}"
            )
        self.x0 = np.array(check_array("x0", x0), ndmin=1)
        if not self.x0.size:
            raise ValueError(f"x0 must not be empty, got shape {self.x0.shape}")
        self.nfev = self.njev = 0
        self._fun, self._jac, self._penalty = fun, jac, penalty
        self._args = args if isinstance(args, tuple) else (args,)
        self._last: tuple[Floats, float, Floats] | None = None

    def value(self, x: Floats) -> float:
        """Return ``fun(x)``; BreakdownError if it is not finite."""
        return self._both(x)[0] if self._jac is True else self._value(x)

    def objective(self, x: Floats) -> float:
        """Return ``fun(x)`` plus the penalty, if there is one."""
        total = self.value(x)
        if self._penalty is not None:
            total += _number("the penalty", self._penalty(x.copy()))
        return total

    def gradient(self, x: Floats) -> Floats:
        """Return the gradient, an array of its own; BreakdownError if it is not finite."""
        if self._jac is True:
            return self._both(x)[1].copy()
        _check_point(x)
        self.njev += 1
        if callable(self._jac):
            return self.read("jac", self._jac(x.copy(), *self._args))
        return self.read("jac", self._differences(x))

    def noisy_gradient(self, x: Floats, rng: np.random.Generator) -> Floats:
        """Return ``jac(x, rng, *args)``, checked and counted as `gradient`."""
        _check_point(x)
        self.njev += 1
        return self.read("jac", self._jac(x.copy(), rng, *self._args))

    def begin(self, name: str, point: Any) -> Floats:
        """Make a point, made from the user's start, the start; ValueError if it is no such."""
        self.x0 = np.array(check_array(name, point, shape=self.x0.shape))
        return self.x0

    def read(self, name: str, value: Any) -> Floats:
        """Return what a user's function gave as a new point of the right shape, all finite."""
        point = np.array(value, dtype=np.float64, ndmin=1)
        if point.shape != self.x0.shape:
            raise ValueError(f"{name} must return shape {self.x0.shape}, got {point.shape}")
        if not np.isfinite(point).all():
            raise BreakdownError(f"{name} returned a value that is not finite")
        return point

    def _value(self, x: Floats) -> float:
        _check_point(x)
        self.nfev += 1
        return _number("fun", self._fun(x.copy(), *self._args))

    def _both(self, x: Floats) -> tuple[float, Floats]:
        if self._last is None or not np.array_equal(self._last[0], x):
            _check_point(x)
            self.nfev += 1
            self.njev += 1
            pair = self._fun(x.copy(), *self._args)
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise ValueError(f"fun must return (value, gradient) with jac=True, got {pair!r}")
            self._last = (x.copy(), _number("fun", pair[0]), self.read("jac", pair[1]))
        return self._last[1], self._last[2]

    def _differences(self, x: Floats) -> Floats:
        central = self._jac != "2-point"
        widths = np.finfo(float).eps ** (1 / 3 if central else 1 / 2) * np.maximum(1.0, np.abs(x))
        here = 0.0 if central else self._value(x)
        slopes = np.empty_like(x)
        for i in np.ndindex(x.shape):
            ends = []
            for sign in (1.0, -1.0) if central else (1.0,):
                moved = x.copy()
                moved[i] += sign * widths[i]
                ends.append((moved[i], self._value(moved)))
            (right, above), (left, below) = ends[0], ends[1] if central else (x[i], here)
            slopes[i] = (above - below) / (right - left)
        return slopes


def drive(
    oracle: Oracle,
    states: Iterator[State],
    *,
    maxiter: int,
    tol: float | None = None,
    tol_name: str = "gtol",
    measure: str = "the largest entry of the gradient",
    callback: Callable[..., Any] | None = None,
    record: bool = False,
    keep: tuple[str, ...] = (),
    final_jac: bool = True,
) -> OptimizeResult:
    """Run a method to its end.

    Parameters
    ----------
    oracle : Oracle
        Supplies the values and gradients that states leave out, and the counts.
    states : iterator of State
        The method; the first state is the start.
    maxiter : int
        Largest number of steps.
    tol : float, optional
        The run succeeds once ``residual <= tol``. None: the number of steps is the plan, and to
        have done them is success.
    tol_name, measure : str
        Name of the tolerance and what it bounds, for messages.
    callback : callable, optional
        Called after every step, ``callback(xk)`` or ``callback(intermediate_result=...)`` by the
        name of its only parameter, as SciPy does; StopIteration ends the run.
    record : bool, default False
        Whether ``history`` follows the objective and the trace.
    keep : tuple of str
        Names in the trace that ``history`` follows in any case.
    final_jac : bool, default True
        Whether the oracle is asked for the gradient at the end if the state has none.

    Returns
    -------
    OptimizeResult
        x, fun, jac, nit, nfev, njev, success, status, message, history where there is one, and the
        fields of the last state.
    """
    maxiter = check_count("maxiter", maxiter, at_least=0)
    tol = None if tol is None else check_real(tol_name, tol, at_least=0)
    check_callable("callback", callback, optional=True)
    tell = _teller(callback)
    state, nit, status = State(oracle.x0), 0, MAXITER
    message = f"maxiter = {maxiter} steps were done"
    history: dict[str, list[Any]] = {name: [] for name in keep}

    def complete(state: State) -> float:
        if state.fun is None:
            state.fun = oracle.objective(state.x)
        return state.fun

    # A method that diverges overflows before the oracle sees it and says so.
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            for number, new in enumerate(states):
                if record:
                    history.setdefault("fun", []).append(complete(new))
                for name, value in new.trace.items():
                    if record or name in keep:
                        history.setdefault(name, []).append(np.array(value))
                state, nit = new, number
                if nit and tell is not None:
                    try:
                        tell(state, nit, complete)
                    except StopIteration:
                        status, message = STOPPED, "`callback` raised `StopIteration`."
                        break
                if tol is not None and state.residual is not None and state.residual <= tol:
                    status, message = CONVERGED, f"{measure} fell to {tol_name} = {tol:g}"
                    break
                if nit >= maxiter:
                    break
            else:
                status, message = CONVERGED, "the method came to its end"
            complete(state)
            if state.jac is None and final_jac:
                state.jac = oracle.gradient(state.x)
        except BreakdownError as error:
            status, message = BROKEN, str(error)
    if status == MAXITER and tol is not None and state.residual is not None:
        message += f", {measure} is {state.residual:.3g} and {tol_name} = {tol:g}"
    result = OptimizeResult(
        x=state.x.copy(),
        fun=math.nan if state.fun is None else state.fun,
        jac=state.jac,
        nit=nit,
        nfev=oracle.nfev,
        njev=oracle.njev,
        success=status == CONVERGED or (status == MAXITER and tol is None),
        status=status,
        message=message,
        **state.trace,
        **state.extra,
    )
    if result.success:
        result.status = CONVERGED
    if record or keep:
        result.history = {name: np.array(values) for name, values in history.items()}
    return result


def check_unused(method: str, **arguments: Any) -> None:
    """Refuse what `scipy.optimize.minimize` can pass on but the method would ignore.

    Examples
    --------
    >>> check_unused("nesterov", hess=None, bounds=[(0, 1)], constraints=())
    Traceback (most recent call last):
        ...
    ValueError: bounds must be left out, nesterov does not use it, got [(0, 1)]
    """
    for name, value in arguments.items():
        empty = value is None or (isinstance(value, (tuple, list, dict)) and not value)
        if not empty:
            raise ValueError(f"{name} must be left out, {method} does not use it, got {value!r}")


def check_callable(name: str, value: Any, *, optional: bool = False) -> None:
    """Refuse what cannot be called; None passes where the argument is optional."""
    if not callable(value) and not (optional and value is None):
        raise TypeError(f"{name} must be callable{' or None' if optional else ''}, got {value!r}")


def largest(x: Floats) -> float:
    """Return the largest absolute entry."""
    return float(np.max(np.abs(x)))


def inner(x: Floats, y: Floats) -> float:
    """Return the inner product of two points of one shape."""
    return float(np.vdot(x, y))


def _check_point(x: Floats) -> None:
    if not np.isfinite(x).all():
        raise BreakdownError("the points left the finite numbers; the steps are too long")


def _number(name: str, value: Any) -> float:
    if np.size(value) != 1 or np.iscomplexobj(value):
        raise ValueError(f"{name} must return a real number, got {value!r}")
    number = float(np.asarray(value).reshape(()))
    if not math.isfinite(number):
        raise BreakdownError(f"{name} returned {number}")
    return number


def _teller(callback: Callable[..., Any] | None) -> Callable[..., None] | None:
    """Return ``tell(state, nit, complete)`` for either style of callback."""
    if callback is None:
        return None
    try:
        names = set(inspect.signature(callback).parameters)
    except (TypeError, ValueError):
        names = set()
    if names != {"intermediate_result"}:
        return lambda state, nit, complete: callback(state.x.copy())

    def tell(state: State, nit: int, complete: Callable[[State], float]) -> None:
        callback(
            intermediate_result=OptimizeResult(
                x=state.x.copy(), fun=complete(state), nit=nit, **state.trace
            )
        )

    return tell
