"""Functions with known constants for momentum methods, their runs and their phase plane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.descent import (
    coefficients,
    continuous_limit,
    inertial_ode,
    passivity_immersion,
    two_step,
)

ROWS = np.array([[2.0, 0.0], [1.0, 1.0]])
RIDGE = 0.5
STEPS = 400
NAMES = {
    "gradient": "gradient",
    "nesterov": "Nesterov",
    "heavy-ball": "heavy ball",
    "triple-momentum": "triple momentum",
}


@dataclass(frozen=True)
class Case:
    """A smooth, strongly convex function whose minimum, 0, lies at the origin."""

    fun: Callable[[Any], float]
    jac: Callable[[Any], Any]
    hessp: Callable[[Any, Any], Any]
    mu: float
    L: float
    x0: np.ndarray


def log_cosh(rows=ROWS, x0=(1.5, -1.0)):
    """Sum of log cosh(row·x) with a ridge: curved most at the minimum, least far away."""
    rows = np.asarray(rows)
    return Case(
        lambda x: float(np.log1p(2 * np.sinh(rows @ x / 2) ** 2).sum() + 0.5 * RIDGE * x @ x),
        lambda x: rows.T @ np.tanh(rows @ x) + RIDGE * x,
        lambda x, v: rows.T @ (rows @ v / np.cosh(rows @ x) ** 2) + RIDGE * v,
        RIDGE,
        RIDGE + float(np.linalg.norm(rows, 2) ** 2),
        np.array(x0, dtype=float),
    )


def quadratic(kappa, dim, rng):
    """Half of sum(lam x²), curvatures evenly spread in logarithm from 1 / kappa to 1."""
    spectrum = np.geomspace(1 / kappa, 1.0, dim)
    return Case(
        lambda x: 0.5 * float(x @ (spectrum * x)),
        lambda x: spectrum * x,
        lambda x, v: spectrum * v,
        1 / kappa,
        1.0,
        rng.normal(size=dim),
    )


def kinked(x0):
    """Two kinks in the slope, curvatures 25, 1 and 25: the heavy ball's trap."""

    def fun(x):
        x = np.asarray(x, dtype=float)
        middle, right = 0.5 * x**2 + 24 * x - 12, 12.5 * x**2 - 24 * x + 36
        return float(np.where(x < 1, 12.5 * x**2, np.where(x < 2, middle, right)).sum())

    def jac(x):
        x = np.asarray(x, dtype=float)
        return np.where(x < 1, 25 * x, np.where(x < 2, x + 24, 25 * x - 24))

    def hessp(x, v):
        return np.where((np.asarray(x) >= 1) & (np.asarray(x) < 2), 1.0, 25.0) * v

    return Case(fun, jac, hessp, 1.0, 25.0, np.array([x0], dtype=float).reshape(1))


def trajectory(case, alpha, beta, gamma, delta=0.0, steps=STEPS):
    """Return the outputs of a fixed number of steps, shape (steps + 1, dim)."""
    return two_step(
        case.fun,
        case.x0,
        jac=case.jac,
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        delta=delta,
        gtol=0,
        maxiter=steps,
        record=True,
    ).trajectory


def phase_plane():
    """Positions and velocities of four methods and of their equations in one dimension."""
    case = log_cosh([[2.0]], [3.0])
    results: dict[str, Any] = {}
    for method in NAMES:
        alpha, beta, gamma, _ = coefficients(method, L=4 * case.L, mu=case.mu)
        A, B, C, h = continuous_limit(alpha, beta, gamma)
        x = trajectory(case, alpha, beta, gamma, steps=60)[:, 0]
        key = method.replace("-", "_")
        results[f"phase_{key}"] = np.stack([x[1:-1], (x[2:] - x[:-2]) / (2 * h)])
        if method != "gradient":
            v0 = -0.5 * h * C * case.jac(case.x0)
            x, v = inertial_ode(
                case.jac, case.x0, np.linspace(0, 60 * h, 400), A=A, B=B, C=C, v0=v0
            )
            results[f"phase_{key}_path"] = np.stack([x[:, 0], v[:, 0]])
    x = np.linspace(-1.0, 3.2, 200)
    kappa = 0.8
    results["phase_manifold"] = np.stack([x, [-kappa * case.jac(np.array([p]))[0] for p in x]])
    x, v, _ = passivity_immersion(
        case.jac, case.x0, np.linspace(0, 6, 300), kappa=kappa, gamma=3.0, hessp=case.hessp
    )
    results["phase_immersion"] = np.stack([x[:, 0], v[:, 0]])
    return results
