"""Pairs of an expensive and a cheap function for the study of 2302.03542, and runs on them.

Public rows beside private ones (logistic regression of tumours), rows drawn from a fitted Gaussian
(least squares of the diabetes data), and a coarse time step beside a fine one (a damped oscillator
whose stiffness and damping are fitted).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.datasets import load_breast_cancer, load_diabetes

from thalweg.descent import (
    LeastSquares,
    Logistic,
    gradient_descent,
    proxy_prox,
    proxy_prox_bound,
    relative_smoothness,
)

STEPS = 30
THETA = 0.1
"""Inner accuracy: the rate is that of exact steps, at a few proxy gradients a step."""
L2 = 1e-3
REPEATS = 5
"""Most rounds in which delta is corrected by the Hessians along the run."""
LONGEST = 5000
TUNED = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Steps among which a method is tuned, over its safe one."""


@dataclass
class Pair:
    """Two functions, their Hessians, a start, and the minimum of f."""

    name: str
    value: Callable[[Any], float]
    gradient: Callable[[Any], Any]
    hess: Callable[[Any], Any]
    proxy_fun: Any
    proxy_jac: Any
    proxy_hess: Callable[[Any], Any]
    x0: Any
    star: Any
    proxy_star: Any


def hessian(problem):
    """Return the dense Hessian of a linear model as a function."""

    def at(w):
        weights = np.ones(problem.n)
        if isinstance(problem, Logistic):
            margins = problem.rows @ w
            weights = expit(margins) * expit(-margins)
        curved = problem.rows.T @ (weights[:, None] * problem.rows) / problem.n
        return curved + problem.l2 * np.eye(problem.dim)

    return at


def of_sums(name, f, proxy):
    """Return a pair of finite sums."""
    x0 = np.zeros(f.dim)
    return Pair(
        name, f.value, f.gradient, hessian(f), proxy, None, hessian(proxy), x0,
        f.minimiser(x0), proxy.minimiser(x0),
    )  # fmt: skip


def tumour_pairs(sizes, rng):
    """Logistic regression on 569 tumours, rows of norm 1; the proxy sees some of them."""
    table = load_breast_cancer()
    X = (table.data - table.data.mean(axis=0)) / table.data.std(axis=0)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    y = np.where(table.target == 1, 1.0, -1.0)
    f, order = Logistic(X, y, l2=L2), rng.permutation(len(y))
    return [
        of_sums(f"{m} public rows", f, Logistic(X[order[:m]], y[order[:m]], l2=L2)) for m in sizes
    ]


def synthetic_pair(rng, labelled=60, rows=2000):
    """Least squares on 442 patients; the proxy's rows are drawn from a Gaussian fitted to few."""
    table = load_diabetes()
    X = (table.data - table.data.mean(axis=0)) / table.data.std(axis=0)
    y = (table.target - table.target.mean()) / table.target.std()
    pick = rng.choice(len(y), labelled, replace=False)
    joint = np.column_stack([X[pick], y[pick]])
    drawn = rng.multivariate_normal(joint.mean(axis=0), np.cov(joint.T), size=rows)
    return of_sums(
        "synthetic rows", LeastSquares(X, y, l2=L2), LeastSquares(drawn[:, :-1], drawn[:, -1], L2)
    )


def oscillator(log_parameters, dt, every, count):
    """Positions of x'' = -k x - c x' at `count` times, and their derivatives by log k and log c.

    Semi-implicit Euler steps from x = 1 at rest, `every` of them between two times.
    """
    k, c = map(float, np.exp(log_parameters))
    x, v = 1.0, 0.0
    xk = vk = xc = vc = 0.0
    rows = []
    for _ in range(count):
        for _ in range(every):
            vk -= dt * (k * x + k * xk + c * vk)
            vc -= dt * (k * xc + c * v + c * vc)
            v -= dt * (k * x + c * v)
            x += dt * v
            xk += dt * vk
            xc += dt * vc
        rows.append((x, xk, xc))
    table = np.array(rows)
    return table[:, 0], table[:, 1:]


def simulator_pair(coarse=3, fine=24, count=24, spacing=0.25):
    """Fit an oscillator: f steps finely, the proxy an eighth as often."""
    seen = oscillator(np.log([2.0, 0.5]), spacing / 100, 100, count)[0]

    def loss(steps):
        def both(p):
            positions, slopes = oscillator(p, spacing / steps, steps, count)
            left = positions - seen
            return 0.5 * float(left @ left) / count, slopes.T @ left / count

        return both

    f, proxy = loss(fine), loss(coarse)

    def hess(both, h=1e-4):
        def at(p):
            columns = [(both(p + e)[1] - both(p - e)[1]) / (2 * h) for e in h * np.eye(2)]
            return (np.array(columns) + np.array(columns).T) / 2

        return at

    x0 = np.log([1.6, 0.7])
    return Pair(
        "coarse time step", lambda p: f(p)[0], lambda p: f(p)[1], hess(f), proxy, True, hess(proxy),
        x0, _newton(f, hess(f), x0), _newton(proxy, hess(proxy), x0),
    )  # fmt: skip


def _newton(both, hess, x):
    """A minimiser by damped Newton steps."""
    for _ in range(60):
        value, slope = both(x)
        H = hess(x)
        H = H + max(0.0, 1e-3 - np.linalg.eigvalsh(H).min()) * np.eye(len(x))
        step, share = np.linalg.solve(H, slope), 1.0
        while both(x - share * step)[0] > value and share > 1e-8:
            share /= 2
        x = x - share * step
    return x


def certified(pair, steps=STEPS, theta=THETA):
    """Run with delta no smaller than every Hessian difference along the run; return both.

    Hessians are compared at the points and half-way between them, where the bound needs delta.
    """
    points = np.array([pair.x0, pair.star, pair.proxy_star, (pair.x0 + pair.star) / 2])
    delta = relative_smoothness(pair.hess, pair.proxy_hess, points)
    for _ in range(REPEATS):
        run = proxy_prox(
            lambda x, rng: pair.gradient(x), pair.proxy_fun, pair.x0, proxy_jac=pair.proxy_jac,
            delta=delta, n_steps=steps, theta=theta, record=True,
        )  # fmt: skip
        x = run.history["x"]
        along = np.vstack([x, (x[1:] + x[:-1]) / 2])
        found = relative_smoothness(pair.hess, pair.proxy_hess, along)
        if found <= delta:
            break
        delta = 1.01 * found
    return run, delta


def squared_slopes(pair, points):
    """‖∇f‖² at points."""
    return np.array([float(np.sum(pair.gradient(x) ** 2)) for x in points])


def measured(pair, theta=THETA):
    """Run one pair; return the curve, the bound, and what the claims ask for."""
    run, delta = certified(pair, theta=theta)
    slopes = squared_slopes(pair, run.history["x"])
    best = pair.value(pair.star)
    gap = pair.value(pair.x0) - best
    T = np.arange(1, STEPS + 1)
    bounds = proxy_prox_bound(T, gap=gap, delta=delta, theta=theta)
    means = np.cumsum(slopes[1:]) / T
    return {
        "slopes": slopes,
        "delta": delta,
        "bounds": bounds,
        "bound_ratio": float(np.max(means / bounds)),
        "gap_share": (pair.value(run.x) - best) / (pair.value(pair.proxy_star) - best),
        "proxy_gradients": float(np.median(run.history["n_proxy"])),
    }


def gradients_needed(pair, level, step, start=None, most=LONGEST):
    """Gradients that descent by `step` needs until ‖∇f‖² is at the level, and its curve.

    `most` are taken, and returned where they do not suffice.
    """
    curve = []

    def watch(x):
        curve.append(float(np.sum(pair.gradient(x) ** 2)))
        if curve[-1] <= level:
            raise StopIteration

    start = pair.x0 if start is None else start
    curve.append(float(np.sum(pair.gradient(start) ** 2)))
    if curve[0] > level:
        gradient_descent(
            pair.value, start, jac=pair.gradient, step=step, gtol=0, maxiter=most,
            callback=watch,
        )  # fmt: skip
    return (len(curve) - 1 if curve[-1] <= level else most), np.array(curve)


def tuned_steps_needed(pair, level, delta, most):
    """Steps on the proxy that the best multiple of 1 / (2 delta) needs until ‖∇f‖² is there."""
    counts = [most]
    for scale in TUNED:
        run = proxy_prox(
            lambda x, rng: pair.gradient(x), pair.proxy_fun, pair.x0, proxy_jac=pair.proxy_jac,
            eta=scale / (2 * delta), n_steps=counts[-1], theta=THETA, record=True,
        )  # fmt: skip
        below = np.flatnonzero(squared_slopes(pair, run.history["x"]) <= level)
        counts.append(int(below[0]) if below.size else counts[-1])
    return counts[-1]


def steepest(pair):
    """L at the points where the curvature of f is known to be largest or needed."""
    return max(float(np.linalg.norm(pair.hess(x), 2)) for x in (pair.x0, pair.star))
