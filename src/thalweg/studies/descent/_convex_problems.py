"""Small convex problems with known constants and minimum, for the study of 1405.4980."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import linprog
from sklearn.datasets import load_diabetes

from thalweg._optional import MissingExtraError
from thalweg.data import fetch, read_idx

HALF_WIDTH = 5.0
PIECES = 20
"""Affine functions of which the largest is minimised."""
PAIR = (3, 8)
"""Digits that the support vector machine tells apart."""


@dataclass(frozen=True)
class Problem:
    """A function, its (sub)gradient, a start, the minimum and, where needed, the minimiser."""

    fun: Callable[..., Any]
    jac: Callable[..., Any]
    x0: np.ndarray
    minimum: float = 0.0
    solution: np.ndarray | None = None
    L: float = math.nan
    mu: float = 0.0
    lipschitz: float = math.nan
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def radius(self) -> float:
        """Euclidean distance from the start to the minimiser."""
        return float(np.linalg.norm(self.x0 - self.solution))

    @property
    def gap0(self) -> float:
        """Height of the start above the minimum."""
        return float(self.fun(self.x0)) - self.minimum


def affine_maximum(n, rng):
    """Largest of affine functions on the box [-5, 5]^n; solved as a linear programme."""
    A, b = rng.normal(size=(PIECES, n)), rng.normal(size=PIECES)
    best = linprog(
        np.r_[np.zeros(n), 1.0],
        A_ub=np.c_[A, -np.ones(PIECES)],
        b_ub=-b,
        bounds=[(-HALF_WIDTH, HALF_WIDTH)] * n + [(None, None)],
    )
    return Problem(
        lambda x: float(np.max(A @ x + b)),
        lambda x: A[np.argmax(A @ x + b)].copy(),
        np.full(n, HALF_WIDTH / 2),
        float(best.fun),
        best.x[:n],
        lipschitz=float(np.linalg.norm(A, axis=1).max()),
        more={"bound": float(np.max(np.abs(b) + HALF_WIDTH * np.abs(A).sum(axis=1)))},
    )


def outside_box(x):
    """Return what separates x from the box, None inside."""
    worst = int(np.argmax(np.abs(x)))
    if abs(x[worst]) <= HALF_WIDTH:
        return None
    vector = np.zeros_like(x)
    vector[worst] = np.sign(x[worst])
    return vector


def quadratic(n, condition, rng):
    """½ (x - s)·H(x - s), diagonal, eigenvalues evenly in logarithm from 1 / condition to 1."""
    spectrum = np.geomspace(1 / condition, 1.0, n)
    solution, x0 = rng.normal(size=(2, n)) / math.sqrt(n)
    return Problem(
        lambda x: float(0.5 * (x - solution) @ (spectrum * (x - solution))),
        lambda x: spectrum * (x - solution),
        x0,
        0.0,
        solution,
        1.0,
        1 / condition,
        more={"H": np.diag(spectrum), "b": spectrum * solution},
    )


def strong_kinks(n, rng, alpha=0.5, half_width=2.0):
    """‖x - c‖_1 + alpha ‖x‖² / 2 on a box: kinks, alpha-strongly convex."""
    centre = rng.normal(size=n)
    solution = np.clip(centre, -1 / alpha, 1 / alpha)

    def fun(x):
        return float(np.abs(x - centre).sum() + 0.5 * alpha * x @ x)

    return Problem(
        fun,
        lambda x: np.sign(x - centre) + alpha * x,
        np.full(n, half_width),
        fun(solution),
        solution,
        mu=alpha,
        lipschitz=math.sqrt(n) * (1 + alpha * half_width),
        more={"half_width": half_width},
    )


def simplex_regression(rows, n, rng):
    """Least squares and least absolute deviations on the simplex, from its centre."""
    A = rng.normal(size=(rows, n))
    truth = np.zeros(n)
    truth[:3] = 0.5, 0.3, 0.2
    exact, noisy = A @ truth, A @ truth + 0.1 * rng.normal(size=rows)
    x0, gram = np.full(n, 1 / n), A.T @ A / rows
    square = Problem(
        lambda x: float(0.5 * np.mean((A @ x - exact) ** 2)),
        lambda x: A.T @ (A @ x - exact) / rows,
        x0,
        0.0,
        truth,
        float(np.linalg.eigvalsh(gram)[-1]),
        more={"L_max": float(np.abs(gram).max())},
    )
    best = linprog(
        np.r_[np.zeros(n), np.full(rows, 1 / rows)],
        A_ub=np.block([[A, -np.eye(rows)], [-A, -np.eye(rows)]]),
        b_ub=np.r_[noisy, -noisy],
        A_eq=np.r_[np.ones(n), np.zeros(rows)][None],
        b_eq=[1.0],
    )
    absolute = Problem(
        lambda x: float(np.mean(np.abs(A @ x - noisy))),
        lambda x: A.T @ np.sign(A @ x - noisy) / rows,
        x0,
        float(best.fun),
        best.x[:n],
        lipschitz=float(np.abs(A).mean(axis=0).max()),
        more={
            "A": A,
            "b": noisy,
            # The root of the mean of the squares of the rows' largest entries.
            "noise": float(np.sqrt(np.mean(np.abs(A).max(axis=1) ** 2))),
        },
    )
    return square, absolute


def one_row(problem):
    """Return ``jac(x, rng)``, the subgradient of one absolute deviation drawn at random."""
    A, b = problem.more["A"], problem.more["b"]

    def jac(x, rng):
        i = rng.integers(len(b))
        return np.sign(A[i] @ x - b[i]) * A[i]

    return jac


def diabetes_lasso(share=0.01):
    """½ ‖Ax - b‖² / n for the diabetes data, standardised; `share` of the largest weight."""
    A, b = load_diabetes(return_X_y=True)
    A = (A - A.mean(axis=0)) / A.std(axis=0)
    b = (b - b.mean()) / b.std()
    n = len(b)
    lam = share * float(np.abs(A.T @ b).max()) / n
    return Problem(
        lambda x: float(0.5 * np.sum((A @ x - b) ** 2) / n),
        lambda x: A.T @ (A @ x - b) / n,
        np.zeros(A.shape[1]),
        L=float(np.linalg.norm(A, 2) ** 2 / n),
        more={"A": A, "b": b, "lam": lam},
    )


def skewed_quadratic(n, rng, largest=1000.0):
    """½ x·Hx, curvatures of the coordinates from 1 to `largest`, correlated at random."""
    draws = rng.normal(size=(n, 2 * n))
    gram = draws @ draws.T
    scale = np.sqrt(np.geomspace(1.0, largest, n) / np.diag(gram))
    H = gram * np.outer(scale, scale)
    return Problem(
        lambda x: float(0.5 * x @ H @ x),
        lambda x: H @ x,
        rng.normal(size=n) / np.sqrt(np.diag(H)),
        0.0,
        np.zeros(n),
        float(np.linalg.eigvalsh(H)[-1]),
        more={"H": H, "L": np.diag(H).copy()},
    )


def programme(n, m, rng):
    """c, A, b of a bounded polytope Ax <= b around 0 with m rows, and the minimum of c·x."""
    A = np.vstack([rng.normal(size=(m - 2 * n, n)), np.eye(n), -np.eye(n)])
    b = np.r_[rng.uniform(0.5, 1.0, m - 2 * n), np.full(2 * n, HALF_WIDTH)]
    c = rng.normal(size=n)
    return c, A, b, float(linprog(c, A_ub=A, b_ub=b, bounds=(None, None)).fun)


def graphs(seed):
    """Graphs of 12 to 60 nodes by name: random, regular, rings, grids, social."""
    try:
        nx = importlib.import_module("networkx")
    except ImportError as error:
        raise MissingExtraError("planning") from error
    return {
        "random 12": nx.gnp_random_graph(12, 0.3, seed=seed),
        "random 24": nx.gnp_random_graph(24, 0.3, seed=seed),
        "random 60": nx.gnp_random_graph(60, 0.3, seed=seed),
        "regular 60": nx.random_regular_graph(3, 60, seed=seed),
        "ring 15": nx.cycle_graph(15),
        "ring 59": nx.cycle_graph(59),
        "grid 60": nx.grid_2d_graph(6, 10),
        "complete 13": nx.complete_graph(13),
        "karate club": nx.karate_club_graph(),
        "small world 60": nx.watts_strogatz_graph(60, 4, 0.1, seed=seed),
        "preferential 40": nx.barabasi_albert_graph(40, 2, seed=seed),
    }


def digit_pair(rows):
    """Return images of two MNIST digits as rows in [0, 1] and their signs, `rows` of them."""
    images = read_idx(fetch("mnist-t10k-images"))
    labels = read_idx(fetch("mnist-t10k-labels"))
    kept = np.flatnonzero(np.isin(labels, PAIR))[:rows]
    X = images[kept].reshape(len(kept), -1) / 255.0
    return X, np.where(labels[kept] == PAIR[0], 1.0, -1.0)


def completion(shape, rank, share, rng):
    """Half the squared error on the seen entries of a low-rank matrix."""
    truth = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    seen = rng.random(shape) < share
    return Problem(
        lambda X: float(0.5 * np.sum((X - truth)[seen] ** 2)),
        lambda X: np.where(seen, X - truth, 0.0),
        np.zeros(shape),
        0.0,
        truth,
        1.0,
        more={"nuclear": float(np.linalg.svd(truth, compute_uv=False).sum())},
    )
