"""Many noisy runs side by side, with the sums that certificates need, and the rules compared.

Points have shape (settings, replicates, dim): one row of noise levels or of step scales, and
independent runs of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes

from thalweg.descent import LeastSquares, Logistic
from thalweg.descent.adagrad_norm_bounds import affine_error
from thalweg.descent.adagrad_norm_certificates import descent_sides, regret_sides, step_sides

ADAM_DECAYS = (0.9, 0.999)
ADAM_OFFSET = 1e-8
ADAGRAD_OFFSET = 1e-10


@dataclass(frozen=True)
class Case:
    """A function of stacked points with known constants; `gap` is f - f*."""

    gap: Callable[[np.ndarray], Any]
    gradient: Callable[[np.ndarray], np.ndarray]
    x0: np.ndarray
    star: np.ndarray
    beta: float

    @property
    def first(self):
        """The gap at the start."""
        return float(self.gap(self.x0))


def saturating(dim=10):
    """Sum of x² / (1 + x²): not convex, curvature from -1/2 to 2, started where it is concave."""
    return Case(
        lambda x: np.sum(x * x / (1 + x * x), axis=-1),
        lambda x: 2 * x / (1 + x * x) ** 2,
        np.full(dim, 2.0),
        np.zeros(dim),
        2.0,
    )


def diabetes():
    """Least squares on 442 patients, all columns and the target standardised."""
    X, y = load_diabetes(return_X_y=True)
    problem = LeastSquares(standardised(X), standardised(y))
    zero = np.zeros(problem.dim)
    star = problem.minimiser(zero)
    hessian = problem.rows.T @ problem.rows / problem.n
    return Case(
        lambda x: 0.5 * np.einsum("...i,ij,...j->...", x - star, hessian, x - star, optimize=True),
        lambda x: (x - star) @ hessian,
        zero,
        star,
        problem.curvature()["L"],
    )


def tumours():
    """Logistic regression on 569 tumours, columns standardised, weight 1 / n on ‖w‖² / 2."""
    X, y = load_breast_cancer(return_X_y=True)
    problem = Logistic(standardised(X), 2.0 * y - 1, l2=1 / len(X))
    zero = np.zeros(problem.dim)
    star = problem.minimiser(zero)
    assert star is not None
    least = problem.value(star)
    return Case(
        lambda x: problem.value(x) - least, problem.gradient, zero, star, problem.curvature()["L"]
    )


def standardised(X):
    """Columns of mean zero and variance one."""
    return (X - X.mean(axis=0)) / X.std(axis=0)


@dataclass(frozen=True)
class Runs:
    """What was measured; arrays have shape (settings, replicates)."""

    times: np.ndarray
    mean_squares: np.ndarray
    """Mean of ‖∇f(w_t)‖² up to each of `times`, shape (times, settings, replicates)."""
    highest: np.ndarray
    """Largest gap on the way, the last point included."""
    last_gap: np.ndarray
    average_gap: np.ndarray
    rooms: dict[str, np.ndarray]
    """Relative room in each inequality that holds on every path."""
    convex_bound: np.ndarray
    """Bound on the gap of the average where f is convex, from the regret and the noise seen."""


def noisy_runs(case, sigma0, sigma1, *, eta, gamma, steps, replicates, rng, times, delayed=False):
    """Run AdaGrad-Norm with affine noise of the full size, as `thalweg.descent.adagrad_norm` does.

    `sigma0`, `sigma1` and `eta` are numbers or have shape (settings, 1).
    """
    settings = np.broadcast_shapes(*(np.shape(v) for v in (sigma0, sigma1, eta, np.ones((1, 1)))))
    shape = (settings[0], replicates)
    x = np.broadcast_to(case.x0, (*shape, len(case.x0))).copy()
    grad_sum = np.full(shape, gamma**2)
    root = np.sqrt(grad_sum)
    highest, total, linear, exact, farthest, squared, plain, progress = np.zeros((8, *shape))
    mean = np.zeros_like(x)
    times = np.asarray(times)
    kept = np.empty((len(times), *shape))
    for t in range(1, steps + 1):
        true = case.gradient(x)
        g = true + affine_error(true, sigma0, sigma1, rng)
        square = dot(g, g)
        grad_sum = grad_sum + square
        before, root = root, np.sqrt(grad_sum)
        step = eta / (before if delayed else root)
        offset = x - case.star
        total += dot(true, true)
        np.maximum(highest, case.gap(x), out=highest)
        np.maximum(farthest, dot(offset, offset), out=farthest)
        linear += dot(g, offset)
        exact += dot(true, offset)
        squared += (step / eta) ** 2 * square
        plain += step / eta * square
        progress += eta / root * dot(true, g)
        mean += x
        at = np.searchsorted(times, t)
        if at < len(times) and times[at] == t:
            kept[at] = total / t
        x = x - step[..., None] * g
    last = case.gap(x)
    regret = regret_sides(linear, farthest, grad_sum, eta, gamma)
    log_sides, root_sides = step_sides(squared, plain, grad_sum, gamma)
    sides = {
        "regret": regret,
        "log sum": log_sides,
        "root sum": root_sides,
        "descent": descent_sides(progress, case.first - last, grad_sum, eta, gamma, case.beta),
    }
    return Runs(
        times,
        kept,
        np.maximum(highest, last),
        last,
        case.gap(mean / steps),
        {name: relative_room(*pair) for name, pair in sides.items()},
        (regret[1] + exact - linear) / steps,
    )


def dot(a, b):
    """Inner products along the last axis."""
    return np.einsum("...i,...i->...", a, b)


def relative_room(left, right):
    """Right minus left side of an inequality, over the larger of the two."""
    return (right - left) / np.maximum(np.abs(left), np.abs(right))


def constant_rule():
    """SGD with a constant step."""
    return lambda g, t: g


def decaying_rule():
    """SGD with steps falling like one over the root of t."""
    return lambda g, t: g / np.sqrt(t)


def adagrad_rule():
    """AdaGrad with a step for each coordinate."""
    total: Any = 0.0

    def move(g, t):
        nonlocal total
        total = total + g * g
        return g / (np.sqrt(total) + ADAGRAD_OFFSET)

    return move


def adam_rule():
    """Adam."""
    first: Any = 0.0
    second: Any = 0.0
    a, b = ADAM_DECAYS

    def move(g, t):
        nonlocal first, second
        first = a * first + (1 - a) * g
        second = b * second + (1 - b) * g * g
        return first / (1 - a**t) / (np.sqrt(second / (1 - b**t)) + ADAM_OFFSET)

    return move


BASELINES = {
    "SGD, constant": constant_rule,
    "SGD, 1/√t": decaying_rule,
    "AdaGrad": adagrad_rule,
    "Adam": adam_rule,
}


@np.errstate(over="ignore", invalid="ignore")
def baseline_runs(rule, case, sigma0, sigma1, *, etas, steps, replicates, rng):
    """Run another rule over the same noise; gaps of the last point and of the average.

    Both have shape (etas, replicates), infinite where a run left the finite numbers.
    """
    x = np.broadcast_to(case.x0, (len(etas), replicates, len(case.x0))).copy()
    move, scale = rule(), np.asarray(etas)[:, None, None]
    mean = np.zeros_like(x)
    for t in range(1, steps + 1):
        true = case.gradient(x)
        g = true + affine_error(true, sigma0, sigma1, rng)
        mean += x
        x = x - scale * move(g, t)
    gaps = [case.gap(point) for point in (x, mean / steps)]
    return tuple(np.where(np.isfinite(gap), gap, np.inf) for gap in gaps)
