"""Data, exact expectations, replicated runs and line searches of the study of acceleration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from thalweg import data
from thalweg.descent import (
    FiniteSum,
    LeastSquares,
    armijo_primal_update,
    mean_square_rate,
    stochastic_nesterov,
    strong_growth_constant,
)
from thalweg.descent.strong_growth import moment_map, state_maps

MNIST = ("mnist-t10k-images", "mnist-t10k-labels")
ACCURACY = 1e-8
MOST_DOUBLINGS = 40
EXHAUSTED = 1e-12
GAUSSIAN, ONE_HOT, HEAVY = range(3)
LARGEST_CONDITION = 1e4
DIGITS = (3, 5)
FEATURE_SCALE = 0.15


class Interpolating:
    """Least squares that one point fits, with its constants and its theorem's step.

    Attributes
    ----------
    A, star, x0 : ndarray
        Rows, the point that fits them, and the start, 0.
    rho, L, mu, L_max, step : float
        Constants, and 1 / (rho L).
    """

    def __init__(self, A, star):
        self.A, self.star, self.x0 = A, star, np.zeros(len(star))
        self.problem = LeastSquares(A, A @ star)
        known = self.problem.curvature()
        self.L, self.mu, self.L_max = known["L"], known["mu"], known["L_max"]
        self.rho = strong_growth_constant(self.problem)
        self.step = 1 / (self.rho * self.L)

    def rate(self, variant, step=None, growth=1.0):
        """Return the exact factor a step of the mean square."""
        return mean_square_rate(
            self.A, step=self.step if step is None else step, mu=self.mu, variant=variant,
            growth=growth,
        )  # fmt: skip

    def iterations(self, variant, step=None, growth=1.0, accuracy=ACCURACY):
        """Return after how many steps the exact E f has fallen by `accuracy`, by bisection.

        Where E f rises and falls it may be a later crossing than the first. inf if there is none.
        """
        power, second, weights = self._expectation(variant, step, growth)
        powers, aim = [power], accuracy * (weights @ second)
        while not weights @ (powers[-1] @ second) <= aim:
            if len(powers) > MOST_DOUBLINGS:
                return math.inf
            powers.append(powers[-1] @ powers[-1])
        done = 0
        for at in range(len(powers) - 1, -1, -1):
            ahead = powers[at] @ second
            if weights @ ahead > aim:
                second, done = ahead, done + (1 << at)
        return done + 1

    def expected_gaps(self, variant, n_steps, step=None, growth=1.0, points=150):
        """Return about `points` numbers of steps up to `n_steps` and the exact E f after each."""
        power, second, weights = self._expectation(variant, step, growth)
        stride = max(n_steps // points, 1)
        power = np.linalg.matrix_power(power, stride)
        gaps = [weights @ second]
        while len(gaps) * stride <= n_steps:
            second = power @ second
            gaps.append(weights @ second)
        return stride * np.arange(len(gaps)), np.array(gaps)

    def _expectation(self, variant, step, growth):
        """Return the map of E u uᵀ, its start, and the weights that make E f of it."""
        maps = state_maps(
            self.A, step=self.step if step is None else step, mu=self.mu, variant=variant,
            growth=growth,
        )  # fmt: skip
        size, d = maps.shape[1], len(self.star)
        i, j = np.triu_indices(size)
        u = np.tile(self.x0 - self.star, size // d)
        hessian = np.zeros((size, size))
        hessian[:d, :d] = self.A.T @ self.A / (2 * len(self.A))
        return moment_map(maps), np.outer(u, u)[i, j], np.where(i == j, 1.0, 2.0) * hessian[i, j]


def spec_case(rng, n=60, d=3):
    """Gaussian rows with columns of falling scale, fitted by a Gaussian point."""
    return Interpolating(rng.normal(size=(n, d)) * np.logspace(0, -1, d), rng.normal(size=d))


def random_case(kind, rng):
    """Return a random interpolating problem: Gaussian, one coordinate a row, or heavy rows."""
    while True:
        d = int(rng.integers(2, 6))
        n = int(rng.integers(d + 2, 60))
        if kind == GAUSSIAN:
            A = rng.normal(size=(n, d)) * np.logspace(0, -rng.uniform(0, 1.2), d)
        elif kind == ONE_HOT:
            seen = np.concatenate([np.arange(d), rng.integers(d, size=n - d)])
            A = np.eye(d)[seen] * np.exp(0.5 * rng.normal(size=(n, 1)))
        else:
            A = rng.normal(size=(n, d)) * np.exp(rng.normal(size=(n, 1)))
        case = Interpolating(A, rng.normal(size=d))
        if case.L / case.mu <= LARGEST_CONDITION:
            return case


def survey(count, rng, report):
    """Return exact rates, constants and iterations over random problems of the three kinds."""
    found: dict[str, list[float]] = {
        name: []
        for name in ("kind", "rho", "kappa", "semi", "stochastic", "scaled",
                     "semi_iterations", "sgd_iterations", "sgd_longer_iterations")
    }  # fmt: skip
    for at in range(count):
        report(at / count, f"exact rates of design {at + 1} of {count}")
        kind = at % 3
        case = random_case(kind, rng)
        hard = case.rho >= 10 and case.L / case.mu >= 50
        row = {
            "kind": kind,
            "rho": case.rho,
            "kappa": case.L / case.mu,
            "semi": case.rate("semi-stochastic"),
            "stochastic": case.rate("stochastic"),
            "scaled": case.rate("stochastic", growth=case.rho),
            "semi_iterations": case.iterations("semi-stochastic") if hard else math.nan,
            "sgd_iterations": case.iterations("sgd") if hard else math.nan,
            "sgd_longer_iterations": case.iterations("sgd", 1 / case.L_max) if hard else math.nan,
        }
        for name, value in row.items():
            found[name].append(value)
    return {name: np.array(values) for name, values in found.items()}


def replicate_runs(case, replicates, n_steps, rng, **options):
    """Return steps, component gradients and the gaps of replicated runs, once a pass of n steps."""
    gaps = []
    for child in rng.spawn(replicates):
        run = stochastic_nesterov(
            case.problem, case.x0, n_steps=n_steps, rng=child, record=True, **options
        )
        if not run.success:
            raise RuntimeError(f"a run of the study must not diverge: {run.message}")
        gaps.append(run.history["fun"])
    return run.history["nit"], run.history["n_grad"], np.array(gaps)


def line_search_iterations(case, accelerated, replicates, most, rng):
    """Return after how many steps of line-searched runs their mean gap has fallen by ACCURACY.

    SGD searches from the first trial of `armijo_primal_update`; so does the accelerated method,
    which assumes at most 1 / L. A run ends where its gap is negligible.
    """
    update, problem = armijo_primal_update(), case.problem
    first = problem.value(case.x0)
    gaps = np.zeros((replicates, most + 1))
    gaps[:, 0] = first
    for row, child in zip(gaps, rng.spawn(replicates), strict=True):

        def note(state, row=row):
            row[state.nit] = problem.value(state.x)
            if row[state.nit] <= EXHAUSTED * first:
                raise StopIteration

        if accelerated:
            stochastic_nesterov(
                problem, case.x0, step=1 / case.L, n_steps=most, mu=case.mu, primal_update=update,
                rng=child, callback=note,
            )  # fmt: skip
        else:
            sgd_with_search(problem, case.x0, update, most, 1, child, note)
    mean = gaps.mean(axis=0)
    met = np.flatnonzero(mean <= ACCURACY * first)
    return int(met[0]) if len(met) else math.inf


def sgd_with_search(problem, x0, update, n_steps, batch_size, rng, callback):
    """Take SGD steps whose length is searched on the batch, with the callback of a minimiser."""
    w = x0
    for k in range(n_steps):
        batch = rng.integers(problem.n, size=batch_size)
        w, _ = update(problem, w, batch, math.inf, problem.gradient(w, batch))
        try:
            callback(OptimizeResult(x=w, nit=k + 1))
        except StopIteration:
            return


class SquaredHinge(FiniteSum):
    """The loss max(0, 1 - y_i x_i·w)² / 2, which is 0 for all where classes can be told apart."""

    def __init__(self, rows, labels):
        self.signed, (self.n, self.dim) = labels[:, None] * rows, rows.shape

    def component_values(self, x, idx=None):
        """Return the losses of the components `idx`."""
        return 0.5 * np.maximum(1 - self.signed[self.indices(idx)] @ x, 0.0) ** 2

    def component_gradients(self, x, idx=None):
        """Return the gradients of the components `idx`."""
        rows = self.signed[self.indices(idx)]
        return -np.maximum(1 - rows @ x, 0.0)[:, None] * rows

    def gradient(self, x, idx=None):
        """Return the mean gradient of the components `idx`."""
        rows = self.signed[self.indices(idx)]
        return -np.maximum(1 - rows @ x, 0.0) @ rows / len(rows)


def digits(count, features, rng):
    """Return a squared hinge that tells two digits apart by random cosine features."""
    images = data.read_idx(data.fetch(MNIST[0])).reshape(10_000, -1) / 255.0
    labels = data.read_idx(data.fetch(MNIST[1]))
    chosen = np.flatnonzero(np.isin(labels, DIGITS))[:count]
    directions = FEATURE_SCALE * rng.normal(size=(images.shape[1], features))
    phases = rng.uniform(0, 2 * np.pi, size=features)
    rows = np.sqrt(2 / features) * np.cos(images[chosen] @ directions + phases)
    return SquaredHinge(rows, np.where(labels[chosen] == DIGITS[0], 1.0, -1.0))


def digit_race(problem, n_steps, batch_size, accuracy, rng):
    """Run SGD and both accelerated schemes with the line search, up to an accuracy.

    Returns the values after each step over that at the start, by name.
    """
    L = float(np.linalg.norm(problem.signed, 2) ** 2 / problem.n)
    update, x0 = armijo_primal_update(), np.zeros(problem.dim)
    first = problem.value(x0)
    values: dict[str, Any] = {}
    children = dict(zip(("sgd", "semi-stochastic", "stochastic"), rng.spawn(3), strict=True))
    for name, child in children.items():
        gaps = [first]

        def note(state, gaps=gaps):
            gaps.append(problem.value(state.x))
            if gaps[-1] <= accuracy * first:
                raise StopIteration

        if name == "sgd":
            sgd_with_search(problem, x0, update, n_steps, batch_size, child, note)
        else:
            stochastic_nesterov(
                problem, x0, step=1 / L, n_steps=n_steps, variant=name, primal_update=update,
                batch_size=batch_size, rng=child, callback=note,
            )  # fmt: skip
        values[name] = np.array(gaps) / first
    return values
