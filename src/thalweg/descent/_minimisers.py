"""Minimisers of the linear models and infima of their components, to rounding error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog, minimize
from scipy.special import expit

Floats = NDArray[np.float64]

NEWTON_STEPS = 100
SMALLEST_GRADIENT = 1e-10
ON_KINK = 1e-6


def least_squares(A: Floats, b: Floats, l2: float, x0: Floats) -> Floats:
    """Return the minimiser of mean (a·x - b)² / 2 + l2 ‖x‖² / 2 nearest to `x0`."""
    n, dim = A.shape
    if l2 > 0:
        A = np.concatenate([A, np.sqrt(n * l2) * np.eye(dim)])
        b = np.concatenate([b, np.zeros(dim)])
    return np.asarray(x0 + np.linalg.lstsq(A, b - A @ x0, rcond=None)[0], dtype=np.float64)


def logistic(X: Floats, y: Floats, l2: float) -> Floats | None:
    """Return the minimiser of the logistic loss, None where Newton's method finds none."""
    n, dim = X.shape
    w = np.zeros(dim)

    def value(w: Floats) -> float:
        return float(np.mean(np.logaddexp(0.0, -y * (X @ w))) + 0.5 * l2 * (w @ w))

    scale = max(1.0, float(np.abs(X).max()))
    for _ in range(NEWTON_STEPS):
        margins = y * (X @ w)
        gradient = -(X.T @ (y * expit(-margins))) / n + l2 * w
        weights = expit(margins) * expit(-margins)
        hessian = (X.T * weights) @ X / n + l2 * np.eye(dim)
        step = np.linalg.lstsq(hessian, -gradient, rcond=None)[0]
        slope, here, length = float(gradient @ step), value(w), 1.0
        while length > 1e-10 and value(w + length * step) > here + 1e-4 * length * slope:
            length /= 2
        if length <= 1e-10 or np.abs(step).max() <= 1e-15 * max(1.0, np.abs(w).max()):
            break
        w = w + length * step
    margins = y * (X @ w)
    gradient = -(X.T @ (y * expit(-margins))) / n + l2 * w
    settled = np.abs(gradient).max() <= SMALLEST_GRADIENT * scale
    separated = l2 == 0 and margins.min() > 0
    return w if settled and not separated else None


def logistic_infima(norms: Floats, l2: float) -> Floats:
    """Return min log(1 + exp(-s)) + l2 s² / (2 ‖x‖²) for every row."""
    infima = np.where(norms > 0, 0.0, np.log(2.0))
    if l2 == 0:
        return infima
    pull = np.divide(l2, norms, out=np.full_like(norms, np.inf), where=norms > 0)
    there = np.isfinite(pull)
    # The root of pull·s = expit(-s) lies in [0, min(s_1, 1 / (2 pull))]; bisection keeps it.
    low = np.zeros(there.sum())
    high = 0.5 / pull[there]
    for _ in range(200):
        middle = 0.5 * (low + high)
        above = pull[there] * middle > expit(-middle)
        high, low = np.where(above, middle, high), np.where(above, low, middle)
    s = 0.5 * (low + high)
    infima[there] = np.logaddexp(0.0, -s) + 0.5 * pull[there] * s * s
    return infima


def absolute_infima(norms: Floats, b: Floats, l2: float) -> Floats:
    """Return min |a·x - b| + l2 ‖x‖² / 2 for every row: on the kink, or short of it."""
    if l2 == 0:
        return np.where(norms > 0, 0.0, np.abs(b))
    reaches = l2 * np.abs(b) <= norms
    on_kink = np.divide(l2 * b * b, 2 * norms, out=np.zeros_like(norms), where=norms > 0)
    return np.where(reaches, on_kink, np.abs(b) - norms / (2 * l2))


def absolute(A: Floats, b: Floats, l2: float) -> Floats | None:
    """Return a minimiser of mean |a·x - b| + l2 ‖x‖² / 2, polished on its kinks."""
    n, dim = A.shape
    if l2 == 0:
        eye = np.eye(n)
        program = linprog(
            np.concatenate([np.zeros(dim), np.full(n, 1 / n)]),
            A_ub=np.block([[A, -eye], [-A, -eye]]),
            b_ub=np.concatenate([b, -b]),
            bounds=[(None, None)] * dim + [(0, None)] * n,
            method="highs-ds",
        )
        if not program.success:
            return None
        found = program.x[:dim]
        kinks = np.argsort(np.abs(A @ found - b))[:dim]
        polished = np.asarray(np.linalg.lstsq(A[kinks], b[kinks], rcond=None)[0], dtype=np.float64)
        return _better(A, b, l2, polished, found)

    def dual(u: Floats) -> tuple[float, Floats]:
        x = -(A.T @ u) / (n * l2)
        return 0.5 * l2 * float(x @ x) + float(b @ u) / n, (b - A @ x) / n

    u = minimize(
        dual,
        np.zeros(n),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-1, 1)] * n,
        options={"maxiter": 100_000, "maxfun": 1_000_000, "ftol": 1e-16, "gtol": 1e-12},
    ).x
    found = -(A.T @ u) / (n * l2)
    inside = np.abs(u) < 1 - ON_KINK
    k = int(inside.sum())
    system = np.block([[l2 * np.eye(dim), A[inside].T / n], [A[inside], np.zeros((k, k))]])
    right = np.concatenate([-(A[~inside].T @ np.sign(u[~inside])) / n, b[inside]])
    solved = np.linalg.lstsq(system, right, rcond=None)[0][:dim]
    return _better(A, b, l2, np.asarray(solved, dtype=np.float64), found)


def _better(A: Floats, b: Floats, l2: float, first: Floats, second: Floats) -> Floats:
    def value(x: Floats) -> float:
        return float(np.mean(np.abs(A @ x - b)) + 0.5 * l2 * (x @ x))

    return first if value(first) <= value(second) * (1 + 1e-12) else second
