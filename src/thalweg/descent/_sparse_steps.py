"""What minimisers of a smooth function plus an l1 norm share: optimality and line search."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_real
from thalweg.descent._oracle import BreakdownError, Oracle, State, largest
from thalweg.descent.proximal import prox_l1

Floats = NDArray[np.float64]

ARMIJO = 1e-4
SHORTEST = 2.0**-40
ROUNDING = 8 * float(np.finfo(float).eps)


def pseudo_gradient(w: Floats, g: Floats, lam: float) -> Floats:
    """Return the subgradient of least norm of f + lam ‖·‖_1 at `w`, where f has gradient `g`.

    Examples
    --------
    >>> pseudo_gradient(np.array([1.0, 0.0, 0.0]), np.array([0.5, -3.0, 0.5]), 1.0)
    array([ 1.5, -2. ,  0. ])
    """
    at_zero = np.sign(g) * np.maximum(np.abs(g) - lam, 0.0)
    return np.where(w != 0, g + lam * np.sign(w), at_zero)


def kkt_residual(w: Floats, g: Floats, lam: float) -> float:
    """Return the largest entry of w - soft(w - g, lam): zero at the minimiser alone."""
    return largest(w - prox_l1(w - g, lam))


def sparse_oracle(fun: Any, x0: ArrayLike, args: Any, jac: Any, lam: float) -> tuple[Oracle, float]:
    lam = check_real("lam", lam, at_least=0)
    oracle = Oracle(fun, x0, args, jac, penalty=lambda w: lam * np.abs(w).sum())
    if oracle.x0.ndim != 1:
        raise ValueError(f"x0 must have one axis, got shape {oracle.x0.shape}")
    return oracle, lam


def sparse_state(w: Floats, total: float, g: Floats, lam: float) -> State:
    residual = kkt_residual(w, g, lam)
    return State(w, total, g, residual, trace={"residual": residual})


def armijo_search(
    oracle: Oracle,
    w: Floats,
    d: Floats,
    total: float,
    *,
    slope: float = 0.0,
    orthant: Floats | None = None,
    pg: Floats | None = None,
) -> tuple[Floats, float]:
    """Return the first point of lengths 1, 1/2, ... whose objective has fallen enough.

    The fall that a length promises is `slope` times it; inside an orthant, where points are
    projected, it is the pseudo-gradient's along the way.
    """
    length = 1.0
    while length >= SHORTEST:
        ahead, promised = w + length * d, length * slope
        if orthant is not None and pg is not None:
            ahead = np.where(ahead * orthant > 0, ahead, 0.0)
            promised = float(pg @ (ahead - w))
        try:
            new = oracle.objective(ahead)
        except BreakdownError:
            new = np.inf
        if promised < 0 and new <= total + ARMIJO * promised + ROUNDING * abs(total):
            return ahead, new
        length /= 2
    raise BreakdownError("the line search found no step that decreases the objective")
