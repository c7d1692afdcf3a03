"""Sweeps until strengths settle, and the logistic prior: what all of Newman's iterations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult
from scipy.special import expit, log_expit

Floats = NDArray[np.float64]
Callback = Callable[[OptimizeResult], object]

CONVERGED, OUT_OF_SWEEPS, STOPPED, NOT_FINITE = range(4)


class Sweep(Protocol):
    """Advances strengths in place by up to `limit` sweeps; returns sweeps done, change, shift."""

    def __call__(self, limit: int) -> tuple[int, float, float]:
        """Sweep."""


def iterate(
    sweep: Sweep,
    strength: Floats,
    tie: Floats,
    tol: float,
    max_iter: int,
    callback: Callback | None,
) -> OptimizeResult:
    """Run sweeps until the strengths settle; report each one to `callback`."""
    nit, change, shift, status = 0, np.inf, 0.0, OUT_OF_SWEEPS
    while nit < max_iter and status == OUT_OF_SWEEPS:
        sweeps, change, shift = sweep(max_iter if callback is None else 1)
        nit += sweeps
        if np.isnan(change):
            status = NOT_FINITE
        elif change < tol:
            status = CONVERGED
        if callback is not None and status != NOT_FINITE:
            state = OptimizeResult(
                x=np.log(strength), tie_parameter=float(tie[0]), nit=nit, change=change, shift=shift
            )
            try:
                callback(state)
            except StopIteration:
                status = STOPPED
    message = {
        CONVERGED: f"strengths settled to tol={tol:g} in {nit} sweeps",
        OUT_OF_SWEEPS: f"change {change:.2g} after max_iter={max_iter} sweeps is not below {tol:g}",
        STOPPED: f"stopped by callback after {nit} sweeps",
        NOT_FINITE: f"strengths left the range of floating point in sweep {nit}; raise prior",
    }[status]
    return OptimizeResult(
        x=np.log(strength),
        tie_parameter=float(tie[0]),
        nit=nit,
        status=status,
        success=status == CONVERGED,
        message=message,
    )


def add_posterior(
    result: OptimizeResult, prior: float, likelihood: float, gradient: Floats
) -> None:
    """Set `fun`, `jac` and `log_likelihood` of a result; the prior is logistic."""
    x = result.x
    result.log_likelihood = likelihood
    result.fun = -likelihood - prior * float((log_expit(x) + log_expit(-x)).sum())
    result.jac = -gradient - prior * (1 - 2 * expit(x))
