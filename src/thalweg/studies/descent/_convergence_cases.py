"""One problem, one run and one wrong run for every theorem of the handbook.

A case knows the exact constants of its problem, runs the method that the theorem is about, measures
the theorem's quantity along the run, and has a step length that is wrong for it: so large that the
run diverges, or so small that it stays where it began.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.linear_model import Lasso

from thalweg.descent import (
    AbsoluteRegression,
    Constants,
    FiniteSum,
    LeastSquares,
    constants,
    minibatch_constants,
    sgd,
    step_limit,
    stochastic_polyak,
    stochastic_proximal_point,
    theorems,
)
from thalweg.descent.bounds import averaging_weights, step_schedule
from thalweg.descent.stochastic import running_average

N, DIM, NOISE = 40, 4, 0.5
BATCH = 8
RADIUS = 6.0
L1_WEIGHT = 0.1
RIDGE = 0.5
TOO_LARGE = 2.5  # over 1/L: twice what gradient descent bears on a quadratic is 2/L
TOO_SMALL = 1e-4
ATOL = 1e-24  # of squared distances and gaps of order 1, which rounding leaves at 1e-30


@dataclass(frozen=True)
class Case:
    """A theorem on a problem.

    `run(rng, n_steps, wrong)` returns points (n_steps + 1, dim); `step` is what it claims to take.
    """

    theorem: str
    on: str
    constants: Constants
    step: Any
    run: Callable[[np.random.Generator, int, bool], np.ndarray]
    fun: Callable[[np.ndarray], np.ndarray]
    gradient: Callable[[np.ndarray], np.ndarray] | None
    x_star: np.ndarray | None
    f_star: float
    batch_size: int | None = None
    deterministic: bool = False

    def measure(self, points: np.ndarray, times: np.ndarray | None = None) -> np.ndarray:
        """Return the theorem's quantity at each time of a run."""
        pick = slice(None) if times is None else times
        with np.errstate(over="ignore", invalid="ignore"):
            if self.x_star is not None and theorems()[self.theorem].quantity.startswith("E ‖"):
                return np.sum((points[pick] - self.x_star) ** 2, axis=-1)
            if "∇" in theorems()[self.theorem].quantity:
                assert self.gradient is not None
                return np.sum(self.gradient(points[pick]) ** 2, axis=-1)
            if theorems()[self.theorem].average:
                points = running_average(points, self.weights(len(points) - 1))
            return self.fun(points[pick]) - self.f_star

    def weights(self, n_steps: int) -> np.ndarray:
        """Return the weights of the theorem's average."""
        c = self.constants
        if self.batch_size is not None:
            c = minibatch_constants(c, self.batch_size)
        if self.step is None and self.theorem.startswith("sps"):
            return np.ones(n_steps)
        steps = step_schedule(self.theorem, n_steps, constants=c, step=self.step)
        return averaging_weights(self.theorem, steps, c)


class SigmoidLoss(FiniteSum):
    """The mean of 1 / (1 + exp(y_i a_i·x)): smooth, bounded by 0 and 1, not convex."""

    def __init__(self, A: np.ndarray, y: np.ndarray) -> None:
        self.rows = A * y[:, None]
        self.n, self.dim = A.shape

    def component_values(self, x, idx=None):
        """Return values, shape (..., len(idx))."""
        return expit(-(np.asarray(x) @ self.rows[self.indices(idx)].T))

    def component_gradients(self, x, idx=None):
        """Return gradients, shape (..., len(idx), dim)."""
        rows = self.rows[self.indices(idx)]
        p = expit(-(np.asarray(x) @ rows.T))
        return -(p * (1 - p))[..., None] * rows

    def value(self, x, idx=None):
        """Return the mean value at each point of a stack."""
        return np.mean(self.component_values(x, idx), axis=-1)

    def gradient(self, x, idx=None):
        """Return the mean gradient."""
        rows = self.rows[self.indices(idx)]
        p = expit(-(np.asarray(x) @ rows.T))
        return -(p * (1 - p)) @ rows / len(rows)

    def curvature(self):
        """Return L and L_max: the second derivative of the sigmoid is at most sqrt(3) / 18."""
        most = math.sqrt(3) / 18
        norms = np.sum(self.rows**2, axis=1)
        spectral = np.linalg.norm(self.rows, 2) ** 2 / self.n
        return {"L": most * spectral, "L_max": most * norms.max()}

    def component_infima(self):
        """Return zeros: each component vanishes far away."""
        return np.zeros(self.n)


class WavyParabola(FiniteSum):
    """x² + 3 sin² x: one minimum, not convex, and still the Polyak-Łojasiewicz inequality."""

    n = dim = 1

    def component_values(self, x, idx=None):
        """Return values."""
        return np.asarray(x) ** 2 + 3 * np.sin(x) ** 2

    def component_gradients(self, x, idx=None):
        """Return gradients."""
        return (2 * np.asarray(x) + 3 * np.sin(2 * np.asarray(x)))[..., None]

    def value(self, x, idx=None):
        """Return the value at each point of a stack."""
        return np.sum(self.component_values(x), axis=-1)

    def gradient(self, x, idx=None):
        """Return the gradient."""
        return 2 * np.asarray(x) + 3 * np.sin(2 * np.asarray(x))

    def curvature(self):
        """Return L = L_max = 8 and the least of f'² / (2 f), which is near x = 2."""

        def ratio(x):
            return self.gradient(x) ** 2 / (2 * self.component_values(x))

        grid = np.linspace(1e-3, 20, 20_000)
        near = grid[np.argmin(ratio(grid))]
        least = minimize_scalar(ratio, bounds=(near - 2e-3, near + 2e-3), method="bounded").fun
        return {"L": 8.0, "L_max": 8.0, "pl": float(least) * (1 - 1e-9)}

    def minimiser(self, x0):
        """Return 0."""
        return np.zeros(1)


def into_ball(x):
    """Project on the ball of the cases of bounded domains."""
    return x * min(1.0, RADIUS / max(float(np.linalg.norm(x)), 1e-300))


def shrink(v, gamma):
    """Return the proximal point of L1_WEIGHT times the sum of absolute values."""
    return np.sign(v) * np.maximum(np.abs(v) - gamma * L1_WEIGHT, 0.0)


def sparse_minimiser(A, b):
    """Return the minimiser of mean (a·x - b)² / 2 + L1_WEIGHT ‖x‖_1, solved on its support."""
    rough = Lasso(alpha=L1_WEIGHT, fit_intercept=False, tol=1e-12, max_iter=10**6).fit(A, b).coef_
    signs, support = np.sign(rough), rough != 0
    exact = np.zeros(A.shape[1])
    part = A[:, support]
    exact[support] = np.linalg.solve(
        part.T @ part, part.T @ b - len(b) * L1_WEIGHT * signs[support]
    )
    return exact


def all_cases(n_steps: int, rng: np.random.Generator) -> list[Case]:
    """Return a case for every theorem, with steps for runs of `n_steps`."""
    A = rng.normal(size=(N, DIM))
    truth = np.ones(DIM)
    b = A @ truth + NOISE * rng.normal(size=N)
    x0 = truth + 2.0
    double = A.copy()
    double[:, 1] = double[:, 0]
    unit = rng.normal(size=(N, 2))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    labels = np.where(unit @ np.ones(2) + 0.1 * rng.normal(size=N) > 0, 1.0, -1.0)
    cases = [
        *_smooth_cases("least squares", LeastSquares(A, b), x0),
        *_pl_cases("least squares, rank 3", LeastSquares(double, b), x0),
        *_wavy_cases(),
        *_nonconvex_cases(SigmoidLoss(unit, labels), np.array([-0.5, -0.5]), n_steps),
        *_composite_cases(LeastSquares(A, b), x0),
        *_absolute_cases(A, b, x0, n_steps),
        *_interpolation_cases(LeastSquares(A, A @ truth), x0),
        *_ridge_cases(LeastSquares(A, b, l2=RIDGE), x0),
    ]
    order = list(theorems())
    return sorted(cases, key=lambda case: order.index(case.theorem))


def _gradient_case(theorem, on, problem, x0, c, step, *, wrong, batch_size=None, **options):
    """Return a case of `sgd`; `wrong` is the step of its wrong run."""
    whole = theorem.startswith(("gd-", "prox-"))

    def run(rng, n_steps, is_wrong):
        if is_wrong:
            length = wrong
        else:
            seen = c if batch_size is None else minibatch_constants(c, batch_size)
            length = step_schedule(theorem, n_steps, constants=seen, step=step)
        size = problem.n if whole else batch_size or 1
        return sgd(
            problem, x0, step=length, n_steps=n_steps, batch_size=size, rng=rng, record=True,
            **options,
        ).history["x"]  # fmt: skip

    return Case(
        theorem, on, c, step, run, problem.value, problem.gradient,
        problem.minimiser(x0), c.f_star or 0.0, batch_size, whole,
    )  # fmt: skip


def _smooth_cases(on, problem, x0):
    c = constants(problem, x0)
    wrong = TOO_LARGE / c.L
    decreasing = 1 / (4 * c.L_max * np.sqrt(1 + np.arange(100_000) / 20))
    few = minibatch_constants(c, BATCH)
    for theorem, step, options in (
        ("gd-convex", 1 / c.L, {}),
        ("gd-strong", 1 / c.L, {}),
        ("sgd-convex", decreasing, {}),
        ("sgd-strong", 1 / (2 * c.L_max), {}),
        ("sgd-strong-switch", None, {}),
        ("minibatch-convex", 1 / (4 * few.L_max), {"batch_size": BATCH}),
        ("minibatch-strong", 1 / (2 * few.L_max), {"batch_size": BATCH}),
        ("sgdm-convex", 1 / (4 * c.L_max), {"momentum": "ima"}),
    ):
        yield _gradient_case(theorem, on, problem, x0, c, step, wrong=wrong, **options)


def _pl_cases(on, problem, x0):
    c = constants(problem, x0)
    for theorem, batch in (("sgd-pl", None), ("minibatch-pl", BATCH)):
        yield _gradient_case(
            theorem, on, problem, x0, c, step_limit(theorem, c, batch), wrong=TOO_LARGE / c.L,
            batch_size=batch,
        )  # fmt: skip


def _wavy_cases():
    problem, x0 = WavyParabola(), np.array([2.8])
    c = constants(problem, x0)
    yield _gradient_case("gd-pl", "x² + 3 sin² x", problem, x0, c, 1 / c.L, wrong=TOO_LARGE / c.L)


def _nonconvex_cases(problem, x0, n_steps):
    # 0 bounds the loss and every component from below, and the proofs ask for no more.
    c = replace(constants(problem, x0), gap0=problem.value(x0), delta_star=0.0, f_star=0.0)
    balanced = 1 / math.sqrt(c.L * c.L_max * n_steps)
    for theorem, step in (("gd-nonconvex", 1 / c.L), ("sgd-nonconvex", balanced)):
        yield _gradient_case(theorem, "sigmoid loss", problem, x0, c, step, wrong=TOO_SMALL * step)


def _composite_cases(problem, x0):
    star = sparse_minimiser(problem.rows, problem.targets)

    def penalty(x):
        return L1_WEIGHT * np.sum(np.abs(x), axis=-1)

    c = constants(problem, x0, star, regulariser=penalty)
    decreasing = 1 / (8 * c.L_max * np.sqrt(1 + np.arange(100_000) / 20))
    for theorem, step in (
        ("prox-convex", 1 / c.L),
        ("prox-strong", 1 / c.L),
        ("sprox-convex", decreasing),
        ("sprox-strong", 1 / (2 * c.L_max)),
    ):
        case = _gradient_case(
            theorem, "l1 least squares", problem, x0, c, step, wrong=TOO_LARGE / c.L, prox=shrink
        )
        yield replace(case, x_star=star, fun=lambda x: problem.value(x) + penalty(x))


def _absolute_cases(A, b, x0, n_steps):
    problem = AbsoluteRegression(A, b)
    c = constants(problem, x0, radius=RADIUS)
    star: Any = problem.minimiser(x0)
    known = problem.component_values(star)
    on = "absolute regression"
    step = math.sqrt(c.dist0_sq / n_steps) / c.G
    yield _gradient_case("subgrad-convex", on, problem, x0, c, step, wrong=TOO_SMALL * step)
    step = c.diameter / (math.sqrt(2) * c.G)
    yield _gradient_case(
        "subgrad-bounded", on, problem, x0, c, step, wrong=TOO_SMALL, projection=into_ball
    )
    strong = AbsoluteRegression(A, b, l2=RIDGE)
    yield _gradient_case(
        "subgrad-strong", "absolute regression, ridge", strong, x0,
        constants(strong, x0, radius=RADIUS), None, wrong=TOO_SMALL, projection=into_ball,
    )  # fmt: skip
    yield _polyak_case("sps-lipschitz", on, problem, x0, c, known, star)

    step = math.sqrt(c.dist0_sq / n_steps) / c.G
    yield _proximal_case("spp-lipschitz", on, problem, x0, c, step, star)


def _interpolation_cases(problem, x0):
    c = constants(problem, x0)
    star = problem.minimiser(x0)
    for theorem in ("sps-smooth", "sps-strong"):
        yield _polyak_case(theorem, "interpolating least squares", problem, x0, c, 0.0, star)


def _ridge_cases(problem, x0):
    c = constants(problem, x0)
    yield _proximal_case(
        "spp-strong", "ridge regression", problem, x0, c, 0.1, problem.minimiser(x0)
    )


def _polyak_case(theorem, on, problem, x0, c, f_star, star):
    def run(rng, n_steps, is_wrong):
        cap = TOO_SMALL if is_wrong else math.inf
        return stochastic_polyak(
            problem, x0, f_star=f_star, n_steps=n_steps, gamma_max=cap, rng=rng, record=True
        ).history["x"]

    return Case(theorem, on, c, None, run, problem.value, None, star, c.f_star)


def _proximal_case(theorem, on, problem, x0, c, step, star):
    def run(rng, n_steps, is_wrong):
        length = TOO_SMALL * step if is_wrong else step
        return stochastic_proximal_point(
            problem, x0, step=length, n_steps=n_steps, rng=rng, record=True
        ).history["x"]

    return Case(theorem, on, c, step, run, problem.value, None, star, c.f_star)


def tight_instances():
    """Return (theorem, constants, step, exact measurement, time): there the bound is attained.

    Half of the bound must then be refused, or the certificate would be blind to constants.
    """
    x, mu, G = 3.0, 2.0, 2.0
    one = Constants(
        L=mu, L_max=mu, mu=mu, pl=mu, n=1, dist0_sq=x * x, gap0=mu * x * x / 2,
        sigma_star_sq=0.0, delta_star=0.0,
    )  # fmt: skip
    lipschitz = Constants(G=G, dist0_sq=x * x, n=1)
    gradients = np.array([(mu * x) ** 2, 0.0])
    yield "gd-strong", one, 1 / mu, np.array([x * x, 0.0]), 0
    yield "gd-pl", one, 1 / mu, np.array([mu * x * x / 2, 0.0]), 0
    yield "gd-nonconvex", one, 1 / mu, gradients, 1
    yield "sgd-nonconvex", one, 1 / mu, gradients, 1
    # |x| times G from x: the first step lands on the minimiser, and the average is the start
    yield "subgrad-convex", lipschitz, x / G, np.array([G * x, G * x]), 1
    yield "spp-lipschitz", lipschitz, x / G, np.array([G * x, G * x]), 1
    yield "sps-lipschitz", lipschitz, None, np.array([G * x, G * x]), 1
    # mu (x - c)² / 2 with centres of variance 4: the expectation obeys the recursion exactly
    variance, gamma, steps = 4.0, 0.25, 30
    expected = [x * x]
    for _ in range(steps):
        expected.append((expected[-1] + (gamma * mu) ** 2 * variance) / (1 + gamma * mu) ** 2)
    spread = Constants(mu_min=mu, dist0_sq=x * x, sigma_star_sq=mu * mu * variance, n=2)
    yield "spp-strong", spread, gamma, np.array(expected), steps


def halved(c: Constants) -> Constants:
    """Return constants that halve every bound of `tight_instances`."""
    half = {
        name: value / 2
        for name in ("dist0_sq", "gap0", "sigma_star_sq", "delta_star")
        if (value := getattr(c, name)) is not None
    }
    G = None if c.G is None else c.G / math.sqrt(2)
    return replace(c, G=G, **half)
