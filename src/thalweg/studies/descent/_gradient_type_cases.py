"""Problems and measured runs for the study of the one recursion behind gradient methods.

The smoothness constants are those of rows of norm 1: 1/4 for the logistic loss, and for the squared
sigmoid the largest second derivative 2 s² (1 - s) (2 - 3 s), with slopes up to 8/27.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.datasets import load_breast_cancer

from thalweg import data
from thalweg.descent import (
    FiniteSum,
    Logistic,
    hybrid_sgd,
    loopless_svrg,
    recursion_rate,
    saga,
    sarah,
    sgd,
    svrg,
    unroll,
)
from thalweg.descent.stochastic import replicate, running_average

MNIST = ("mnist-t10k-images", "mnist-t10k-labels")
SIGMOID_CURVATURE = 0.1540588
SIGMOID_SLOPE = 8 / 27
LOGISTIC_CURVATURE = 0.25
MEAN_FEATURES = 10
SHARPNESS = 0.1
"""SVRG's step over 1/L, and `EPOCH_PASSES` its epoch: theta is 0.64 at a condition of 143."""
EPOCH_PASSES = 8
HYBRID_SHARE = 0.9
DISTANCE_ROUNDING = 1e-24
GAP_ROUNDING = 1e-15
ERRORS = 3.0


class SquaredSigmoid(FiniteSum):
    """The mean of (1 / (1 + exp(y_i a_i·x)))²: smooth, between 0 and 1, not convex."""

    def __init__(self, A: np.ndarray, y: np.ndarray) -> None:
        self.signed = np.ascontiguousarray(A * y[:, None])
        self.n, self.dim = A.shape

    def component_values(self, x, idx=None):
        """Return values, shape (..., len(idx))."""
        return expit(-(np.asarray(x) @ self.signed[self.indices(idx)].T)) ** 2

    def component_gradients(self, x, idx=None):
        """Return gradients, shape (..., len(idx), dim)."""
        rows = self.signed[self.indices(idx)]
        return self._slopes(x, rows)[..., None] * rows

    def value(self, x, idx=None):
        """Return the mean value at each point of a stack."""
        return np.mean(self.component_values(x, idx), axis=-1)

    def gradient(self, x, idx=None):
        """Return the mean gradient at each point of a stack."""
        rows = self.signed if idx is None else self.signed[idx]
        return self._slopes(x, rows) @ rows / len(rows)

    def _slopes(self, x, rows):
        s = expit(-(np.asarray(x) @ rows.T))
        return -2 * s * s * (1 - s)


class Watched:
    """A problem that remembers where gradients were asked."""

    def __init__(self, problem):
        self.problem, self.n, self.dim, self.value = problem, problem.n, problem.dim, problem.value
        self.points: list[np.ndarray] = []

    def gradient(self, x, idx=None):
        """Return the gradient."""
        self.points.append(x.copy())
        return self.problem.gradient(x, idx)


def breast_cancer():
    """Return 569 rows of norm 1 and labels ±1."""
    X, y = load_breast_cancer(return_X_y=True)
    return unit_rows((X - X.mean(axis=0)) / X.std(axis=0)), np.where(y == 1, 1.0, -1.0)


def mnist():
    """Return MNIST's 10000 test images as rows of norm 1 and whether each is a 0, as ±1."""
    images = data.read_idx(data.fetch(MNIST[0])).reshape(10_000, -1).astype(float)
    return unit_rows(images), np.where(data.read_idx(data.fetch(MNIST[1])) == 0, 1.0, -1.0)


def unit_rows(X):
    """Return rows scaled to norm 1; rows of zeros stay."""
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    return X / np.where(norms > 0, norms, 1.0)


def worst_ratio(measured, bounds, rounding=0.0):
    """Return the largest (mean less three standard errors) over the bound, beyond the start."""
    mean = measured.mean(axis=0) - ERRORS * measured.std(axis=0, ddof=1) / math.sqrt(len(measured))
    return float(np.max((mean[1:] - rounding) / np.maximum(bounds[1:], 1e-300)))


def curve(name, passes, measured, bounds):
    """Return a curve of the figure: at most 200 points, means over replicates."""
    mean = np.mean(np.atleast_2d(measured), axis=0)
    shown = np.unique(np.linspace(0, len(mean) - 1, 200).astype(int))
    return {
        f"{name}_passes": np.asarray(passes, dtype=float)[shown],
        f"{name}_measured": mean[shown],
        f"{name}_bound": np.asarray(bounds, dtype=float)[shown],
    }


def nonconvex_runs(problem, passes, replicates, rng):
    """Run SGD, one loop of SARAH and hybrid SGD on the squared sigmoid."""
    n, L, gap0 = problem.n, SIGMOID_CURVATURE, float(problem.value(np.zeros(problem.dim)))
    zero, sigma_sq = np.zeros(problem.dim), SIGMOID_SLOPE**2
    results: dict[str, Any] = {}
    step, n_steps = 1 / (L * math.sqrt(passes * n)), passes * n
    every = np.arange(0, n_steps + 1, max(n // 8, 1))

    def stochastic(rng):
        points = sgd(problem, zero, step=step, n_steps=n_steps, rng=rng, record=True).history["x"]
        return mean_squares(problem, points)[every]

    measured = replicate(stochastic, replicates, rng=rng)
    bounds = recursion_rate("sgd-nonconvex", every, L=L, step=step, gap0=gap0, sigma_sq=sigma_sq)
    results |= curve("sgd_nonconvex", every / n, measured, bounds)
    ratios = {"sgd-nonconvex": worst_ratio(measured, bounds)}

    m = 2 * n
    step = 2 / (L * (1 + math.sqrt(1 + 4 * m)))

    def recursive(rng):
        watched: Any = Watched(problem)
        sarah(watched, zero, step=step, n_epochs=1, inner_steps=m, rng=rng)
        # The points are asked for once as the new one, at odd places, and once as the last one.
        return mean_squares(problem, np.array(watched.points[:1] + watched.points[1::2]))

    measured = replicate(recursive, replicates, rng=rng)
    k = np.arange(m + 1)
    bounds = recursion_rate("sarah-nonconvex", k, L=L, step=step, gap0=gap0)
    results |= curve("sarah_nonconvex", 1 + 2 * k / n, measured, bounds)
    ratios["sarah-nonconvex"] = worst_ratio(measured, bounds)
    results |= {
        "sarah_mean_square": float(measured[:, -1].mean()),
        "sarah_bound": float(bounds[-1]),
        "sarah_ratio": float(measured[:, -1].mean() / bounds[-1]),
    }
    ratios["hybrid"] = hybrid_ratio(problem, 2 * n, replicates, rng)
    return results, ratios


def mean_squares(problem, points):
    """Return the running means of ‖∇F‖² along a run."""
    squares = np.concatenate(
        [np.sum(problem.gradient(part) ** 2, axis=-1) for part in np.array_split(points, 20)]
    )
    return np.cumsum(squares) / np.arange(1, len(squares) + 1)


def hybrid_ratio(problem, n_steps, replicates, rng, beta=HYBRID_SHARE, claimed=HYBRID_SHARE):
    """Return the variance of hybrid estimates over what the recursion makes of the run's moves."""
    L, step = SIGMOID_CURVATURE, 0.1 / SIGMOID_CURVATURE

    def one(rng):
        points = [np.zeros(problem.dim)]
        hybrid_sgd(
            problem, points[0], step=step, n_steps=n_steps, beta=beta, initial_batch=1, rng=rng,
            callback=lambda state: points.append(state.x),
        )  # fmt: skip
        moves = np.diff(np.array(points), axis=0)
        errors = -moves / step - problem.gradient(np.array(points[:-1]))
        return np.stack([np.sum(errors**2, axis=1), np.sum(moves**2, axis=1)])

    found = replicate(one, replicates, rng=rng)
    variance, moved = found[:, 0], found[:, 1].mean(axis=0)
    noise = 2 * (1 - claimed) ** 2 * SIGMOID_SLOPE**2
    errors = 2 * claimed**2 * L**2 * moved[:-1] + noise
    return worst_ratio(variance, unroll(float(variance[:, 0].mean()), claimed**2, errors))


def convex_sgd(problem, star, f_star, n_passes, replicates, rng):
    """Run SGD on a convex problem and measure the gap of the mean point."""
    n, L = problem.n, LOGISTIC_CURVATURE
    zero, dist0_sq, n_steps = np.zeros(problem.dim), float(star @ star), n_passes * n
    step = min(1 / (2 * L), math.sqrt(dist0_sq / n_steps))
    k = np.arange(0, n_steps, max(n // 8, 1))

    def one(rng):
        points = sgd(problem, zero, step=step, n_steps=n_steps, rng=rng, record=True).history["x"]
        return problem.value(running_average(points)[k + 1]) - f_star

    measured = replicate(one, replicates, rng=rng)
    # Slopes are at most 1 and rows have norm 1.
    bounds = recursion_rate("sgd-convex", k, L=L, step=step, dist0_sq=dist0_sq, sigma_sq=1.0)
    return curve("sgd_convex", k / n, measured, bounds), worst_ratio(measured, bounds)


def linear_bounds(problem, star, f_star, L, n_passes, replicates, rng):
    """Run SVRG, loopless SVRG and SAGA with the theorems' steps and measure them."""
    n, mu, zero = problem.n, problem.l2, np.zeros(problem.dim)
    gap0, dist0_sq = problem.value(zero) - f_star, float(star @ star)
    results: dict[str, Any] = {}
    ratios: dict[str, float] = {}

    def measure(name, run, bound, distance):
        def one(rng):
            history = run(rng).history
            gaps = history["fun"] - f_star
            squares = np.sum((history["x"] - star) ** 2, axis=1)
            return np.stack([history["n_grad"] / n, gaps, squares, history["nit"]])

        found = replicate(one, replicates, rng=rng)
        bounds = bound(found[0, 3].astype(int))
        rounding = DISTANCE_ROUNDING if distance else GAP_ROUNDING
        ratios[name] = worst_ratio(found[:, 2 if distance else 1], bounds, rounding)
        # The figure shows gaps: F - F* <= L/2 ‖w - w*‖².
        shown = bounds * (L / 2 if distance else 1)
        results.update(curve(name.replace("-", "_"), found[:, 0].mean(axis=0), found[:, 1], shown))

    step, m = SHARPNESS / L, EPOCH_PASSES * n
    epochs = max(n_passes // (1 + 2 * EPOCH_PASSES), 1)
    for option in ("random", "average"):
        measure(
            f"svrg-{option}",
            lambda rng, option=option: svrg(
                problem, zero, step=step, n_epochs=epochs, inner_steps=m, option=option, rng=rng,
                record=True,
            ),
            lambda k: recursion_rate(
                "svrg", k, L=L, mu=mu, step=step, inner_steps=m, gap0=gap0
            ),
            distance=False,
        )  # fmt: skip

    shorter, prob = 1 / (6 * L), 1 / n
    spread = problem.component_gradients(zero) - problem.component_gradients(star)
    phi0 = dist0_sq + 4 * shorter**2 / prob * float(np.mean(np.sum(spread**2, axis=1)))
    measure(
        "lsvrg",
        lambda rng: loopless_svrg(
            problem, zero, step=shorter, n_steps=(n_passes - 1) // 3 * n, rng=rng, record=True
        ),
        lambda k: recursion_rate("lsvrg", k, L=L, mu=mu, step=shorter, prob=prob, phi0=phi0),
        distance=True,
    )
    measure(
        "saga",
        lambda rng: saga(
            problem, zero, step=1 / (3 * L), n_steps=(n_passes - 1) * n, rng=rng, record=True
        ),
        lambda k: recursion_rate("saga", k, L=L, mu=mu, n=n, gap0=gap0, dist0_sq=dist0_sq),
        distance=True,
    )
    return results, ratios


def same_step(problem, f_star, step, n_passes, rng, schemes=None):
    """Run all methods with one constant step; return (passes, gaps) of each by name."""
    n, zero = problem.n, np.zeros(problem.dim)
    options: dict[str, Any] = {"step": step, "rng": rng, "record": True}
    epochs = n_passes // 5
    runs = {
        "SVRG": lambda: svrg(problem, zero, n_epochs=epochs, **options),
        "L-SVRG": lambda: loopless_svrg(problem, zero, n_steps=(n_passes - 1) // 3 * n, **options),
        "SAGA": lambda: saga(problem, zero, n_steps=(n_passes - 1) * n, **options),
        "SARAH": lambda: sarah(problem, zero, n_epochs=epochs, **options),
        "hybrid SGD": lambda: hybrid_sgd(problem, zero, n_steps=(n_passes - 1) // 3 * n, **options),
        # Without recursion and from a single component it is SGD, with a history of passes.
        "SGD": lambda: hybrid_sgd(
            problem, zero, n_steps=n_passes * n, beta=0.0, initial_batch=1, **options
        ),
    }
    found = {}
    for name in schemes or runs:
        history = runs[name]().history
        found[name] = (history["n_grad"] / n, history["fun"] - f_star)
    return found


def cheapest(passes, gaps, most, gap):
    """Return the least gap within so many passes, and the passes at which `gap` was met."""
    within = gaps[passes <= most]
    met = np.flatnonzero(gaps <= gap)
    return float(within.min()), float(passes[met[0]]) if len(met) else math.inf


def as_logistic(X, y):
    """Return the regularised problem with l2 = 1/n."""
    return Logistic(X, y, l2=1 / len(y))
