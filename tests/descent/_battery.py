"""Problems that every minimiser of SciPy's signature is tried on, with their exact solutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import linprog, minimize, rosen, rosen_der
from scipy.special import expit

CONDITIONS = (1.0, 1e2, 1e4, 1e6, 1e8)
DIMENSIONS = (2, 10, 100, 10_000)


@dataclass(frozen=True)
class Problem:
    """A function, its (sub)gradient, a start, and what is known of its minimum."""

    name: str
    fun: Callable[..., Any]
    jac: Callable[..., Any]
    x0: np.ndarray
    minimum: float
    solution: np.ndarray | None = None
    L: float = np.nan
    mu: float = 0.0
    lipschitz: float = np.nan
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def radius(self) -> float:
        return float(np.linalg.norm(self.x0 - self.solution))


def quadratic(n: int = 10, condition: float = 100.0, seed: int = 0) -> Problem:
    """½ (x - s)·H(x - s) - 1, eigenvalues spread evenly in logarithm from 1 / condition to 1.

    H is diagonal, seen in a mirror: its products cost n operations at any dimension.
    """
    rng = np.random.default_rng(seed)
    spectrum = np.geomspace(1 / condition, 1.0, n)
    normal, solution = rng.normal(size=(2, n)) / np.sqrt(n)
    normal /= np.linalg.norm(normal)

    def mirrored(x):
        return x - 2 * normal * (normal @ x)

    def product(x):
        return mirrored(spectrum * mirrored(x))

    return Problem(
        f"quadratic of condition {condition:g}, dimension {n}",
        lambda x: 0.5 * (x - solution) @ product(x - solution) - 1.0,
        lambda x: product(x - solution),
        solution + rng.normal(size=n) / np.sqrt(n),
        -1.0,
        solution,
        1.0,
        1 / condition,
        more={"product": product, "b": product(solution), "spectrum": spectrum},
    )


def rosenbrock(n: int = 2) -> Problem:
    return Problem(
        f"Rosenbrock, dimension {n}", rosen, rosen_der, np.full(n, -0.5), 0.0, np.ones(n)
    )


def logistic(n: int = 60, dim: int = 5, l2: float = 0.1, seed: int = 0) -> Problem:
    """Mean logistic loss with a ridge; solved by Newton's method."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, dim)) * rng.choice([-1.0, 1.0], size=(n, 1))

    def fun(w):
        return np.logaddexp(0, -rows @ w).mean() + 0.5 * l2 * w @ w

    def jac(w):
        return -rows.T @ expit(-rows @ w) / n + l2 * w

    w = np.zeros(dim)
    for _ in range(30):
        slope = expit(rows @ w) * expit(-rows @ w)
        w = w - np.linalg.solve(rows.T @ (slope[:, None] * rows) / n + l2 * np.eye(dim), jac(w))
    L = float(np.linalg.norm(rows, 2) ** 2 / (4 * n) + l2)
    return Problem(
        f"logistic regression, dimension {dim}", fun, jac, np.ones(dim), fun(w), w, L, l2
    )


def lasso(n: int = 40, dim: int = 10, lam: float = 0.3, seed: int = 0) -> Problem:
    """½ ‖Ax - b‖² / n, to be joined with lam ‖x‖_1; solved by SciPy on x = u - v, u, v >= 0."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, dim))
    b = A[:, :3] @ np.array([2.0, -1.0, 0.5]) + 0.1 * rng.normal(size=n)

    def fun(x):
        return 0.5 * np.sum((A @ x - b) ** 2) / n

    def jac(x):
        return A.T @ (A @ x - b) / n

    def split(z):
        x, g = z[:dim] - z[dim:], jac(z[:dim] - z[dim:])
        return fun(x) + lam * z.sum(), np.concatenate([g, -g]) + lam

    best = minimize(
        split,
        np.zeros(2 * dim),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * (2 * dim),
        options={"ftol": 1e-16, "gtol": 1e-12, "maxiter": 5000},
    )
    return Problem(
        f"lasso, dimension {dim}",
        fun,
        jac,
        np.zeros(dim),
        float(best.fun),
        best.x[:dim] - best.x[dim:],
        float(np.linalg.norm(A, 2) ** 2 / n),
        more={"lam": lam, "A": A, "b": b},
    )


def max_affine(n: int = 5, pieces: int = 20, half_width: float = 5.0, seed: int = 0) -> Problem:
    """max_i (a_i·x + b_i) on the box |x_j| <= half_width; solved as a linear programme."""
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(pieces, n)), rng.normal(size=pieces)
    best = linprog(
        np.r_[np.zeros(n), 1.0],
        A_ub=np.c_[A, -np.ones(pieces)],
        b_ub=-b,
        bounds=[(-half_width, half_width)] * n + [(None, None)],
    )
    return Problem(
        f"largest of {pieces} affine functions, dimension {n}",
        lambda x: float(np.max(A @ x + b)),
        lambda x: A[np.argmax(A @ x + b)].copy(),
        np.full(n, half_width / 2),
        float(best.fun),
        best.x[:n],
        lipschitz=float(np.linalg.norm(A, axis=1).max()),
        more={"A": A, "b": b, "half_width": half_width},
    )


def smooth_problems() -> list[Problem]:
    """Smooth, strongly convex problems that any gradient method solves in seconds."""
    return [
        quadratic(2, 1.0),
        quadratic(10, 1e2),
        quadratic(10_000, 1e2),
        logistic(),
        logistic(dim=20, seed=1),
    ]
