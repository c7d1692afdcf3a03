r"""Minimise a function under constraints by following its damped Lagrangian, for NumPy arrays.

Plain steps along the flow of the modified differential multiplier method: no line search, no
subproblem, one gradient of everything a step. It is for cheap or noisy gradients and for seeing
what `thalweg.descent.DifferentialMultipliers` does; for few smooth variables SLSQP is faster.

Source: "Constrained Differential Optimization" (1988), Platt and Barr; "Transforming Simulation to
Data Without Pairing" (2025), arXiv 2504.12343.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_option, check_real
from thalweg.descent._oracle import (
    BreakdownError,
    Oracle,
    State,
    check_callable,
    check_unused,
    drive,
    largest,
)

Floats = NDArray[np.float64]

SMALLEST_ROOM = 1e-2
"""A slack starts with at least this share of the distance to the limit, since it cannot leave 0."""
KEYS = {"type", "fun", "jac", "args"}


def minimize_differential_multipliers(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: Any = (),
    *,
    jac: Any = None,
    constraints: Any = (),
    callback: Callable[..., Any] | None = None,
    record: bool = False,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    lr: float = 1e-2,
    maxiter: int = 5000,
    damping: float = 1.0,
    tol: float = 1e-8,
) -> OptimizeResult:
    r"""Minimise f subject to equalities and inequalities by the damped differential multipliers.

    With h = -g for "eq" and h = s² - g, s a slack, for "ineq" (g >= 0), steps of length `lr` along

    .. math::

       \dot x = -\nabla f - \sum_i (\lambda_i + d h_i) \nabla_x h_i, \quad
       \dot s_i = -2 (\lambda_i + d h_i) s_i, \quad
       \dot\lambda_i = h_i.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args) -> float``, or ``(float, gradient)`` with ``jac=True``.
    x0 : array_like (n,)
        Start.
    args : tuple, default ()
        Further arguments of `fun` and `jac`.
    jac : callable, True, "2-point", "3-point" or None
        Gradient; differences where it is none.
    constraints : dict or sequence of dict
        SciPy's: ``{"type": "eq" or "ineq", "fun": fun, "jac": jac, "args": args}``, the last two
        optional; ``fun(x, *args)`` is zero, or not negative, entry by entry.
    callback : callable, optional
        ``callback(xk)`` or ``callback(intermediate_result=...)`` after every step; StopIteration
        ends the run.
    record : bool, default False
        Whether ``history`` follows `fun`, ``multipliers`` and ``maxcv``.
    hess, hessp, bounds
        Must be left out; they are here for `scipy.optimize.minimize`.
    lr : float, default 1e-2
        Length of a step in the time of the flow.
    maxiter : int, default 5000
        Largest number of steps.
    damping : float, default 1.0
        d, not negative. Without it the run circles the solution; more of it allows shorter steps
        only, below ``2 / (d |grad g|²)``.
    tol : float, default 1e-8
        Stop when no entry of the flow's velocity is larger.

    Returns
    -------
    OptimizeResult
        With ``multipliers``, the derivatives of the optimum in the right-hand sides (for "ineq"
        not negative at a solution), in the order of the constraints' entries, and ``maxcv``, the
        largest violation.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Notes
    -----
    The Lagrangian is ``f - sum lambda g``, as SciPy's. Slacks start at ``sqrt(g)`` where that is
    positive, else at a hundredth of the violation: a slack that starts at 0 stays there and turns
    the inequality into an equality.

    References
    ----------
    Platt and Barr, "Constrained Differential Optimization" (1988), eqs. (4) to (8). "Transforming
    Simulation to Data Without Pairing" (2025), arXiv 2504.12343.

    Examples
    --------
    >>> import numpy as np
    >>> result = minimize_differential_multipliers(
    ...     lambda x: ((x - [3.0, 4.0]) ** 2).sum(), [1.0, 0.0],
    ...     constraints={"type": "ineq", "fun": lambda x: 1 - x @ x},
    ...     lr=0.05,
    ... )
    >>> result.x.round(4), result.multipliers.round(3), result.success
    (array([0.6, 0.8]), array([4.]), True)
    """
    check_unused("minimize_differential_multipliers", hess=hess, hessp=hessp, bounds=bounds)
    lr = check_real("lr", lr, above=0)
    d = check_real("damping", damping, at_least=0)
    oracle = Oracle(fun, x0, args, jac)
    if oracle.x0.ndim != 1:
        raise ValueError(f"x0 must have shape (n,), got {oracle.x0.shape}")
    system = _System(constraints, oracle.x0)

    def states() -> Iterator[State]:
        x = oracle.x0
        g, slopes = system.at(x)
        room = np.abs(g) + (g == 0)
        s = np.sqrt(np.maximum(g, SMALLEST_ROOM * room)) * system.unequal
        multipliers = np.zeros_like(g)
        while True:
            gradient = oracle.gradient(x)
            h = s**2 - g
            pull = multipliers + d * h
            velocity = -gradient + pull @ slopes, -2 * pull * s, h
            yield State(
                x,
                jac=gradient,
                residual=max(largest(part) if part.size else 0.0 for part in velocity),
                trace={"multipliers": multipliers, "maxcv": system.violation(g)},
            )
            x, s, multipliers = (
                old + lr * along for old, along in zip((x, s, multipliers), velocity, strict=True)
            )
            g, slopes = system.at(x)

    return drive(
        oracle,
        states(),
        maxiter=maxiter,
        tol=tol,
        tol_name="tol",
        measure="the largest entry of the flow's velocity",
        callback=callback,
        record=record,
    )


class _System:
    """All constraints as one vector function; `unequal` marks the inequalities."""

    unequal: Floats

    def __init__(self, constraints: Any, x0: Floats) -> None:
        listed = [constraints] if isinstance(constraints, Mapping) else list(constraints)
        self.parts = [_checked(constraint) for constraint in listed]
        marks: list[Floats] = []
        for i, part in enumerate(self.parts):
            size = np.size(part["fun"](x0.copy(), *part["args"]))
            if not size:
                raise ValueError(f"fun of constraint {i} must return a number or more, got none")
            marks.append(np.full(size, float(part["type"] == "ineq")))
        self.sizes = [len(mark) for mark in marks]
        self.unequal = np.concatenate(marks) if marks else np.zeros(0)

    def at(self, x: Floats) -> tuple[Floats, Floats]:
        """Return all values (m,) and their Jacobian (m, n); BreakdownError if not finite."""
        if not np.isfinite(x).all():
            raise BreakdownError("the points left the finite numbers; the steps are too long")
        values, slopes = [np.zeros(0)], [np.zeros((0, x.size))]
        for i, (part, size) in enumerate(zip(self.parts, self.sizes, strict=True)):
            args = part["args"]

            def value(z: Floats, fun: Any = part["fun"], args: Any = args) -> Floats:
                return np.array(fun(z, *args), dtype=float).reshape(-1)

            g = value(x.copy())
            jac = part["jac"]
            J = np.array(
                jac(x.copy(), *args) if callable(jac) else _differences(value, x), dtype=float
            )
            if g.shape != (size,) or J.size != size * x.size:
                raise ValueError(
                    f"constraint {i} must have {size} values and a Jacobian ({size}, {x.size}), "
                    f"got {g.shape} and {J.shape}"
                )
            if not (np.isfinite(g).all() and np.isfinite(J).all()):
                raise BreakdownError(f"constraint {i} returned a value that is not finite")
            values.append(g)
            slopes.append(J.reshape(size, x.size))
        return np.concatenate(values), np.concatenate(slopes)

    def violation(self, g: Floats) -> float:
        """Return the largest violation."""
        off = np.where(self.unequal > 0, np.maximum(-g, 0), np.abs(g))
        return float(off.max(initial=0.0))


def _differences(value: Callable[[Floats], Floats], x: Floats) -> Floats:
    """Return the Jacobian (m, n) by central differences."""
    columns = []
    for i, width in enumerate(np.finfo(float).eps ** (1 / 3) * np.maximum(1.0, np.abs(x))):
        right, left = x.copy(), x.copy()
        right[i] += width
        left[i] -= width
        columns.append((value(right) - value(left)) / (right[i] - left[i]))
    return np.stack(columns, 1)


def _checked(constraint: Any) -> dict[str, Any]:
    if not isinstance(constraint, Mapping):
        raise TypeError(f"constraints must be dicts as SciPy's, got {constraint!r}")
    unknown = set(constraint) - KEYS
    if unknown or not {"type", "fun"} <= set(constraint):
        raise ValueError(
            "constraints must have the keys 'type' and 'fun' and may have 'jac' and 'args', got "
            f"{sorted(constraint)}"
        )
    check_option("constraints['type']", constraint["type"], ("eq", "ineq"))
    check_callable("constraints['fun']", constraint["fun"])
    jac = constraint.get("jac")
    if not callable(jac) and jac not in (None, False, "2-point", "3-point", "cs"):
        raise TypeError(f"constraints['jac'] must be callable or None, got {jac!r}")
    args = constraint.get("args", ())
    return {**constraint, "args": args if isinstance(args, tuple) else (args,), "jac": jac}
