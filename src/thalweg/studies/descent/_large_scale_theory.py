"""A quadratic on which every constant of the survey's theorems is exact, and what is run on it."""

from __future__ import annotations

import numpy as np

from thalweg.descent import (
    FiniteSum,
    averaged_step,
    diminishing_step_bound,
    dynamic_sampling,
    fixed_step_bound,
    geometric_noise_bound,
    moment_constants,
    nonconvex_fixed_bound,
    sgd,
)
from thalweg.descent.noise_reduction import tail_weights
from thalweg.descent.sg_theory import geometric_rate

N, DIM = 500, 60
L, C = 1.0, 0.2
NOISE = 1.0
FAR = 3.0
STEP = 0.2
BETA, GAMMA = 10.0, 9.0
GROWTH, DYNAMIC_STEP, INITIAL = 1.1, 0.8, 2
WRONG_FIXED, WRONG_SHORT = 1.9, 50.0
FLOOR_STEPS = (0.2, 0.1, 0.05)
STANDARD_ERRORS = 3.0


class NoisyQuadratic(FiniteSum):
    """Components h·(x - b_i)² / 2 up to constants: the same Hessian, shifted gradients.

    The shifts of the gradients have mean zero, so the minimiser is the origin, and the variance of
    a stochastic gradient is the same everywhere.
    """

    def __init__(self, spectrum, shifts):
        self.spectrum, self.shifts = spectrum, shifts - shifts.mean(axis=0)
        self.n, self.dim = shifts.shape

    def component_values(self, x, idx=None):
        return 0.5 * float(self.spectrum @ (x * x)) - self.shifts[self.indices(idx)] @ x

    def component_gradients(self, x, idx=None):
        return self.spectrum * x - self.shifts[self.indices(idx)]

    def value(self, x, idx=None):
        return float(0.5 * (self.spectrum @ (x * x)) - self._shift(idx) @ x)

    def gradient(self, x, idx=None):
        return self.spectrum * x - self._shift(idx)

    def gaps(self, points):
        """Return F - F* of points in the last axis."""
        return 0.5 * (points * points) @ self.spectrum

    def slopes(self, points):
        """Return ‖∇F‖² of points in the last axis."""
        return (points * points) @ self.spectrum**2

    def _shift(self, idx):
        if idx is None:
            return np.zeros(self.dim)
        picked = self.shifts[np.atleast_1d(idx)]
        return picked[0] if len(picked) == 1 else picked.mean(axis=0)


def quadratic(rng, noise=NOISE):
    """Return the quadratic, a start, the variance M of a gradient and the gap of the start."""
    shifts = noise * rng.normal(size=(N, DIM)) / np.sqrt(DIM)
    problem = NoisyQuadratic(np.linspace(C, L, DIM), shifts)
    start = np.full(DIM, FAR / np.sqrt(DIM))
    M = moment_constants(problem, start[None]).M
    return problem, start, M, float(problem.gaps(start))


def theorems(setup, rng):
    """Compare means of runs with the bounds, and runs with wrong steps."""
    problem, x0, M, gap = quadratic(rng)
    T, k = setup.bound_steps, np.arange(1, setup.bound_steps + 2)
    known = {"L": L, "M": M, "gap": gap}
    children = rng.spawn(setup.replicates)
    few = children[: max(setup.replicates // 5, 10)]

    def points(step, rngs):
        return np.stack(
            [sgd(problem, x0, step=step, n_steps=T, rng=r, record=True).history["x"] for r in rngs]
        )

    def growing(rngs, ratio):
        return np.stack(
            [
                dynamic_sampling(
                    problem, x0, step=DYNAMIC_STEP, n_steps=T, initial=INITIAL, ratio=ratio, rng=r
                ).history["x"]
                for r in rngs
            ]
        )

    def running(paths):
        return np.cumsum(problem.slopes(paths), axis=1) / k

    fixed = points(STEP, children)
    falling = points(lambda t: BETA / (GAMMA + t + 1), children)
    geometric = problem.gaps(growing(children, GROWTH))
    bounds = {
        "4.6": fixed_step_bound(k, step=STEP, c=C, **known),
        "4.7": diminishing_step_bound(k, beta=BETA, gamma=GAMMA, c=C, **known),
        "4.8": nonconvex_fixed_bound(k, step=STEP, **known),
        "5.1": geometric_noise_bound(
            k, step=DYNAMIC_STEP, c=C, zeta=1 / GROWTH, L=L, M=M / INITIAL, gap=gap
        ),
    }
    measured = {
        "4.6": problem.gaps(fixed),
        "4.7": problem.gaps(falling),
        "4.8": running(fixed),
        "5.1": geometric,
    }
    wrong = {
        "4.6": problem.gaps(points(WRONG_FIXED, few)),
        "4.7": problem.gaps(points(WRONG_FIXED, few)),
        "4.8": running(points(STEP / WRONG_SHORT, few)),
        "5.1": problem.gaps(growing(few, 1 + 1e-9)),
    }
    excess = [worst(measured[name], bounds[name]) for name in bounds]
    refused = [worst(wrong[name], bounds[name]) for name in bounds]
    results = {"theorem_ratios": np.array(excess), "wrong_ratios": np.array(refused), "counts": k}
    for name in bounds:
        results[f"mean_{name}"] = measured[name].mean(axis=0)
        results[f"bound_{name}"] = bounds[name]
    return results | linear(geometric, problem.gaps(growing(few, 1 + 1e-9)))


def worst(values, bound):
    """Return the largest of (mean - 3 standard errors) / bound after the start."""
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return float(np.max(((values.mean(axis=0) - STANDARD_ERRORS * error) / bound)[1:]))


def linear(growing, fixed):
    """Return the slope of the log gap with growing batches, over the theorem's, and the stall."""
    mean = growing.mean(axis=0)
    late = np.arange(len(mean) // 3, len(mean))
    slope = float(np.polyfit(late, np.log(mean[late]), 1)[0])
    rho = geometric_rate(DYNAMIC_STEP, C, 1 / GROWTH)
    return {
        "dynamic_slope": slope,
        "dynamic_slope_ratio": slope / np.log(rho),
        "fixed_batch_stall": float(fixed.mean(axis=0)[-1] / mean[-1]),
    }


def floors(setup, rng):
    """Measure the gap at which SG settles, for steps that halve."""
    problem, _, _, _ = quadratic(rng)
    seed = int(rng.integers(2**31))
    settled = []
    for step in FLOOR_STEPS:
        path = sgd(
            problem, np.zeros(DIM), step=step, n_steps=setup.floor_steps, rng=seed, record=True
        ).history["x"]
        settled.append(float(problem.gaps(path[len(path) // 5 :]).mean()))
    return {"floors": np.array(settled), "floor_ratios": np.array(settled[:-1]) / settled[1:]}


def averaging(setup, rng):
    """Compare the tail average with the last point where noise dominates."""
    problem, x0, _, _ = quadratic(rng, noise=5.0)
    runs = [
        sgd(
            problem, x0, step=averaged_step(0.5, 0.5), n_steps=setup.averaging_steps, rng=child,
            average=tail_weights(setup.averaging_steps),
        )
        for child in rng.spawn(setup.averaging_runs)
    ]  # fmt: skip
    last = np.mean([problem.gaps(run.x) for run in runs])
    mean = np.mean([problem.gaps(run.x_average) for run in runs])
    return {"averaging_ratio": float(mean / last)}


def work(setup, rng):
    """Measure the gradients that SG and gradient descent need to reach smaller and smaller gaps."""
    problem, x0, _, gap = quadratic(rng)
    paths = [
        problem.gaps(
            sgd(
                problem, x0, step=lambda t: BETA / (GAMMA + t + 1), n_steps=setup.work_steps,
                rng=child, record=True,
            ).history["x"]
        )
        for child in rng.spawn(setup.work_runs)
    ]  # fmt: skip
    mean = np.mean(paths, axis=0)
    hardest = 1.5 * float(np.median(mean[-len(mean) // 10 :]))
    epsilons = np.geomspace(hardest * 50, hardest, 9)
    counts = np.array([first_below(mean, eps) for eps in epsilons])
    whole = problem.gaps(
        sgd(
            problem, x0, step=1 / L, n_steps=200, batch_size=problem.n, record=True
        ).history["x"]
    )  # fmt: skip
    batch_epsilons = np.geomspace(gap / 10, gap * 1e-12, 12)
    batch = problem.n * np.array([first_below(whole, eps) for eps in batch_epsilons])
    return {
        "work_epsilons": epsilons,
        "work_sg": counts,
        "work_exponent": float(np.polyfit(np.log(1 / epsilons), np.log(counts), 1)[0]),
        "work_batch_fit": float(np.corrcoef(np.log(1 / batch_epsilons), batch)[0, 1] ** 2),
    }


def first_below(values, epsilon):
    """Return the first number of steps after which the values are at most epsilon."""
    return int(np.argmax(values <= epsilon))
