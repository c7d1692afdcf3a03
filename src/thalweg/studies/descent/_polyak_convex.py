"""Convex problems of the study of Polyak's steps: ill-conditioned squares, logistic loss, kinks."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer

from thalweg.descent import (
    AbsoluteRegression,
    LeastSquares,
    Logistic,
    heavy_ball,
    polyak_mag_bound,
    polyak_momentum,
)

BETAS = (0.0, 0.5, 0.9, 0.95, 0.99)
CONDITIONS = (1e3, 1e4)
DIM = 100
ACCURACY = 1e-10
"""Of the value, relative to that of the start: where iterations are counted."""
ROUNDING = 1e-10
"""What the squared distance may lack, relative to itself, without counting as a violation."""


class Squares:
    """Least squares with eigenvalues spread evenly in logarithm from 1 / kappa to 1, started at 0.

    The solution has the coordinates of `shape` along the eigenvectors, with random signs: by
    default the root of the eigenvalue, as a solution in the range of Aᵀ has.
    """

    def __init__(self, kappa, rng, shape=np.sqrt):
        left, right = (np.linalg.qr(rng.normal(size=(DIM, DIM)))[0] for _ in range(2))
        spectrum = np.geomspace(1, 1 / kappa, DIM)
        rows = np.sqrt(DIM) * (left * np.sqrt(spectrum)) @ right.T
        self.solution = right @ (shape(spectrum) * rng.choice([-1.0, 1.0], size=DIM))
        self.problem = LeastSquares(rows, rows @ self.solution)
        self.kappa, self.start = kappa, np.zeros(DIM)
        self.first = self.problem.value(self.start)

    def polyak(self, steps, **options):
        """Values of a run with Polyak's steps, relative to the first."""
        found = polyak_momentum(
            self.problem.value, self.start, jac=self.problem.gradient, f_star=0.0, gtol=0,
            maxiter=steps, record=True, **options,
        )  # fmt: skip
        return found.history["fun"] / self.first

    def heavy_ball(self, steps, **options):
        """The same of a heavy ball with fixed steps."""
        found = heavy_ball(
            self.problem.value, self.start, jac=self.problem.gradient, gtol=0, maxiter=steps,
            record=True, **options,
        )  # fmt: skip
        return found.history["fun"] / self.first

    def tuned(self, steps):
        """A heavy ball that knows both constants."""
        return self.heavy_ball(steps, L=1.0, mu=1 / self.kappa)


def swings(setup: Any, rng: np.random.Generator) -> dict[str, Any]:
    """How far values rise over the first, and how many steps each method needs."""
    results: dict[str, Any] = {}
    highest, tuned, even = [], [], []
    for kappa in CONDITIONS:
        case = Squares(kappa, rng)
        for variant in ("hb", "mag"):
            curves = {
                (beta, lower): case.polyak(
                    setup.steps, variant=variant, momentum=beta, lower_bound=lower
                )
                for beta, lower in product(BETAS, ("convex", "quadratic"))
            }
            highest.append(max(curve.max() for curve in curves.values()))
            if kappa == CONDITIONS[0] and variant == "hb":
                results |= {f"curve_{b:g}": curves[b, "quadratic"] for b in BETAS[1:]}
        curve = case.tuned(setup.steps)
        tuned.append(curve.max())
        even.append(Squares(kappa, rng, np.ones_like).tuned(setup.steps).max())
        if kappa == CONDITIONS[0]:
            fixed = case.heavy_ball(1000, alpha=1.0, beta=0.9)
            quick = case.polyak(1000, momentum=0.9, lower_bound="quadratic", ftol=1e-14)
            results |= {
                "curve_tuned": curve,
                "polyak_steps": first_below(quick, ACCURACY),
                "tuned_steps": first_below(case.tuned(1000), ACCURACY),
                "fixed_steps": first_below(fixed, ACCURACY),
                "plain_steps": first_below(case.polyak(1000, momentum=0.0, ftol=1e-14), ACCURACY),
            }
    return results | {
        "polyak_peaks": np.array(highest),
        "tuned_peaks": np.array(tuned),
        "even_peaks": np.array(even),
    }


def first_below(curve, level):
    """Steps until a curve is at most `level`; infinite where it never is."""
    below = np.flatnonzero(curve <= level)
    return float(below[0]) if below.size else np.inf


def tumours(l2=1e-3):
    """Logistic regression on scikit-learn's tumours, columns of unit spread, and its minimiser."""
    rows, labels = load_breast_cancer(return_X_y=True)
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    problem = Logistic(np.column_stack([rows, np.ones(len(rows))]), 2.0 * labels - 1, l2)
    return problem, problem.minimiser(np.zeros(problem.dim))


def absolute(rng, n=60, dim=10):
    """Least absolute deviations with noise, and a minimiser."""
    rows = rng.normal(size=(n, dim))
    problem = AbsoluteRegression(rows, rows @ rng.normal(size=dim) + 0.3 * rng.normal(size=n))
    return problem, problem.minimiser(np.zeros(dim))


def distances(setup: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Count the steps at which the moving average breaks its promise, and those of a wrong one."""
    squares = Squares(100.0, rng)
    logistic, w = tumours()
    kinks, x = absolute(rng)
    cases: list[tuple[Any, Any, str, float | None]] = [
        (squares.problem, squares.solution, "convex", None),
        (squares.problem, squares.solution, "quadratic", None),
        (logistic, w, "convex", None),
        (logistic, w, "smooth", float(logistic.curvature()["L"])),
        (kinks, x, "convex", None),
    ]
    broken = seen = 0
    for (problem, star, lower, L), beta in product(cases, BETAS):
        f_star = 0.0 if problem is squares.problem else problem.value(star)
        start = np.zeros(problem.dim)
        run = polyak_momentum(
            problem.value, start, jac=problem.gradient, f_star=f_star, variant="mag",
            lower_bound=lower, L=L, momentum=beta, maxiter=setup.certified_steps, record=True,
            ftol=1e-6 * (problem.value(start) - f_star), gtol=0,
        )  # fmt: skip
        points = run.history["x"]
        broken += violations(problem, points, star, f_star, beta, lower, L)
        seen += len(points) - 1
    wrong = crossed_steps(squares.problem, 0.0, 0.9, 50)
    f_star, D = kinks.value(x), float(np.linalg.norm(x))
    G = float(kinks.gradient_bound())
    ratios = []
    for beta in BETAS:
        run = polyak_momentum(
            kinks.value, np.zeros(kinks.dim), jac=kinks.gradient, f_star=f_star, variant="mag",
            momentum=beta, maxiter=setup.certified_steps, record=True, gtol=0,
        )  # fmt: skip
        least = np.minimum.accumulate(run.history["fun"] - f_star)
        ratios.append(np.max(least / polyak_mag_bound(np.arange(len(least)) + 1, G, D, beta)))
    return {
        "distance_violations": broken,
        "distance_steps": seen,
        "wrong_violations": violations(
            squares.problem, wrong, squares.solution, 0.0, 0.9, "convex", None
        ),
        "bound_ratios": np.array(ratios),
    }


def violations(problem, points, star, f_star, beta, lower, L):
    """Steps after which ‖x - x*‖² exceeds what it was less ell² / ‖d‖².

    Gradients and averages are computed anew at the points.
    """
    count, d = 0, np.zeros(problem.dim)
    for x, following in pairwise(points):
        g = problem.gradient(x)
        ell = problem.value(x) - f_star
        ell = {"convex": ell, "quadratic": 2 * ell}.get(lower, ell + g @ g / (2 * (L or 1)))
        d = g + beta * d
        here, there = (float(np.sum((p - star) ** 2)) for p in (x, following))
        count += int(there > here - ell**2 / (d @ d) + ROUNDING * here)
    return count


def crossed_steps(problem, f_star, beta, steps):
    """Points of the moving average with the wrong length ell / <d, g>."""
    x, d = np.zeros(problem.dim), np.zeros(problem.dim)
    points = [x]
    for _ in range(steps):
        g = problem.gradient(x)
        d = g + beta * d
        x = x - (problem.value(x) - f_star) / (d @ g) * d
        points.append(x)
    return np.array(points)
