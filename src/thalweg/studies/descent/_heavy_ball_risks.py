"""Heavy ball and SGD on spectra, by their exact risk: speed, noise, bound, batches, other steps."""

from __future__ import annotations

import math
import warnings
from functools import partial

import numpy as np

from thalweg.descent import (
    FiniteSum,
    expected_risk,
    optimal_stages,
    step_decay,
    step_decay_bound,
    stochastic_heavy_ball,
)
from thalweg.descent.anisotropic_heavy_ball import momentum_of

DIM = 50
SIGMA2 = 1e-4
GOAL = 1e-6
GRID = 1.01
"""Ratio of neighbouring budgets where the first that suffices is sought."""
SGD_FACTOR = 2.0
SGD_SCALES = (1.0, 1.9)
WIDE_SCALES = (0.1, 0.3, 1.0, 1.9)
FACTORS = (2.0, 4.0, 8.0)
REPLICATES = 200
LARGEST = 1e300


def spectrum(kappa):
    """Return eigenvalues from 1 to 1 / kappa, evenly spaced in the logarithm."""
    return np.logspace(0, -math.log10(kappa), DIM)


def heavy_ball_risk(kappa, T, noise, factor=4.0, scale=1.0):
    """Return bias and variance of heavy ball with step decay after a budget of T steps."""
    steps = scale * step_decay(T, L=1.0, kappa=kappa, factor=factor)
    return expected_risk(
        spectrum(kappa), np.ones(DIM), steps, momentum=momentum_of(kappa), noise=noise
    )


def sgd_risk(kappa, T, noise, scale=1.0, factor=SGD_FACTOR):
    """Return bias and variance of SGD with step decay begun at scale / L."""
    steps = scale * step_decay(T, L=1.0, kappa=kappa, factor=factor, momentum=False)
    return expected_risk(spectrum(kappa), np.ones(DIM), steps, momentum=0.0, noise=noise)


def acceleration(setup):
    """First budgets whose bias is under the goal, and how they compare with sqrt(kappa)."""
    budgets = []
    for kappa in setup.kappas:
        ours = first_budget(partial(heavy_ball_risk, kappa, noise=0.0))
        theirs = min(
            first_budget(partial(sgd_risk, kappa, noise=0.0, scale=scale)) for scale in SGD_SCALES
        )
        budgets.append((ours, theirs))
    table = np.array(budgets)
    return {
        "budgets": table,
        "acceleration": table[:, 1] / table[:, 0] / np.sqrt(setup.kappas),
    }


def first_budget(risk):
    """Return the first budget on a fine geometric grid whose bias is under the goal."""
    T = 16
    while risk(T)[0] >= GOAL:
        T = math.ceil(GRID * T)
    return T


def near_optimal(setup):
    """Variance over (stages d sigma² / 2T); the same at a constant step, which does not average."""
    ratios, constant = [], []
    for kappa in setup.kappas:
        for T in np.geomspace(20, 400, setup.budgets) * math.sqrt(kappa):
            T = math.ceil(T)
            stages = len(np.unique(step_decay(T, L=1.0, kappa=kappa)))
            allowed = stages * DIM * SIGMA2 / (2 * T)
            ratios.append(heavy_ball_risk(kappa, T, SIGMA2)[1] / allowed)
            fixed = expected_risk(
                spectrum(kappa), np.ones(DIM), np.ones(T), momentum=momentum_of(kappa), noise=SIGMA2
            )
            constant.append(fixed[1] / allowed)
    return {"variance_ratio": max(ratios), "constant_variance_ratio": min(constant)}


def theorem(setup):
    """Compare the bound with the exact risk, inside and outside the theorem's range of budgets."""
    violations = inside = 0
    ends = []
    for kappa in setup.kappas:
        gap = 0.5 * spectrum(kappa).sum()
        least = first_in_range(kappa)
        ends.append(least)
        short = np.geomspace(10 * math.sqrt(kappa), 0.9 * least, setup.budgets)
        for T in (*short.astype(int), least, int(setup.beyond * least)):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                bound = step_decay_bound(T, gap=gap, kappa=kappa, dim=DIM, sigma2=SIGMA2)
            inside += not caught
            violations += bool(sum(heavy_ball_risk(kappa, T, SIGMA2)) > bound)
    return {
        "violations": violations,
        "inside": inside,
        "bound_slope": slope_without_logs(setup.kappas[-1], ends[-1]),
        "wrong_over_bound": wrong_steps(setup.kappas[0], ends[0]),
    }


def first_in_range(kappa):
    """Return about the least budget to which the theorem applies."""
    T = 1000
    while T / math.log(2.0**14 * float(T) ** 8) < 8 * math.sqrt(kappa) * stages(T, kappa):
        T = math.ceil(1.02 * T)
    return T


def stages(T, kappa):
    """log_4(T sqrt(kappa))."""
    return math.log(T * math.sqrt(kappa), 4)


def slope_without_logs(kappa, first):
    """Slope of the log of the bound without its logarithmic factors against log T."""
    budgets = np.array([first, 100 * first])
    bounds = [
        step_decay_bound(int(T), gap=1.0, kappa=kappa, dim=DIM, sigma2=SIGMA2)
        / (math.log(2.0**6 * T**4) * stages(T, kappa)) ** 2
        for T in budgets.astype(float)
    ]
    return math.log(bounds[1] / bounds[0]) / math.log(100)


def wrong_steps(kappa, T):
    """Risk over bound of steps far too short, and of steps a little too long to be stable."""
    beta, lam = momentum_of(kappa), spectrum(kappa)
    bound = step_decay_bound(T, gap=0.5 * lam.sum(), kappa=kappa, dim=DIM, sigma2=1e-12)
    ratios = []
    for steps in (
        4.0**-12 * step_decay(T, L=1.0, kappa=kappa),
        np.full(T, 2.001 * (1 + beta)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            risk = sum(expected_risk(lam, np.ones(DIM), steps, momentum=beta, noise=1e-12))
        ratios.append(min(risk, LARGEST) / bound)
    return np.array(ratios)


class NoisyQuadratic(FiniteSum):
    """Replicates of one quadratic side by side, whose gradients have anisotropic Gaussian noise."""

    n = 1

    def __init__(self, eigenvalues, sigma2, replicates, rng):
        self.eigenvalues, self.rng = eigenvalues, rng
        self.spread = np.sqrt(sigma2 * eigenvalues)
        self.shape = (replicates, len(eigenvalues))
        self.dim = replicates * len(eigenvalues)

    def risks(self, x):
        """Return the excess of each replicate."""
        return 0.5 * x.reshape(self.shape) ** 2 @ self.eigenvalues

    def component_values(self, x, idx=None):
        return np.array([self.risks(x).sum()])

    def component_gradients(self, x, idx=None):
        noise = self.spread * self.rng.standard_normal(self.shape)
        return (self.eigenvalues * x.reshape(self.shape) + noise).reshape(1, -1)


def simulation(setup, rng):
    """Largest distance of the mean of simulated runs from the exact risk, in standard errors."""
    kappa, T = 1e3, setup.simulated_steps
    lam = spectrum(kappa)
    problem = NoisyQuadratic(lam, SIGMA2, REPLICATES, rng)
    checkpoints = np.linspace(T / 10, T, 10).astype(int)
    seen = []

    def look(state):
        if state.nit in checkpoints:
            seen.append(problem.risks(state.x))

    run = stochastic_heavy_ball(
        problem, np.ones(problem.dim), n_steps=T, L=1.0, mu=1 / kappa, replace=True, callback=look
    )
    exact = np.add(
        *expected_risk(lam, np.ones(DIM), run.steps, momentum=run.momentum, noise=SIGMA2, full=True)
    )[checkpoints]
    risks = np.array(seen)
    errors = risks.std(axis=1, ddof=1) / math.sqrt(REPLICATES)
    return {"simulation_distance": np.abs(risks.mean(axis=1) - exact) / errors}


def large_batches(setup):
    """Risks of both methods as batches grow and steps shrink at one budget of samples."""
    kappa, samples = 1e4, 200_000
    batches = np.array([10, 20, 50, 100])
    ours, theirs, tuned, tuned_theirs = [], [], [], []
    for b in batches:
        T, noise = samples // int(b), 1 / b
        ours.append(sum(heavy_ball_risk(kappa, T, noise)))
        sgd = {
            (factor, scale): sum(sgd_risk(kappa, T, noise, scale, factor))
            for factor in FACTORS
            for scale in WIDE_SCALES
        }
        theirs.append(min(sgd[SGD_FACTOR, scale] for scale in WIDE_SCALES))
        tuned_theirs.append(min(sgd.values()))
        tuned.append(optimal_stages(spectrum(kappa), np.ones(DIM), T, noise)["risk"])
    return {
        "batches": batches,
        "batch_heavy_ball": np.array(ours),
        "batch_sgd": np.array(theirs),
        "batch_minimax": DIM / (2 * samples),
        "heavy_ball_growth": ours[-1] / ours[0],
        "sgd_growth": theirs[-1] / theirs[0],
        "large_batch_ratio": ours[-1] / theirs[-1],
        "small_batch_ratio": ours[0] / theirs[0],
        "tuned_ratio": tuned[-1] / tuned_theirs[-1],
    }


def other_schedules():
    """Risks over that of heavy ball with step decay, kappa 1000, 3000 steps."""
    kappa, T = 1e3, 3000
    lam, ones, beta = spectrum(kappa), np.ones(DIM), momentum_of(kappa)
    left = 1 - np.arange(T) / T
    shapes = {
        "linear": left,
        "cosine": 0.5 * (1 - np.cos(np.pi * left)),
        "constant": np.ones(T),
    }

    def best(momentum, shape, scales):
        return min(
            sum(expected_risk(lam, ones, scale * shape, momentum=momentum, noise=SIGMA2))
            for scale in scales
        )

    ours = sum(heavy_ball_risk(kappa, T, SIGMA2))
    sgd = min(sum(sgd_risk(kappa, T, SIGMA2, scale)) for scale in SGD_SCALES)
    averaged = min(sum(averaged_risk(lam, ones, scale, T, SIGMA2)) for scale in WIDE_SCALES)
    others = [
        sgd,
        averaged,
        best(0.0, shapes["linear"], WIDE_SCALES),
        best(0.0, shapes["cosine"], WIDE_SCALES),
    ]
    constant = best(beta, shapes["constant"], (1.0, 0.3, 0.1, 0.01))
    smooth = [best(beta, shapes[name], (1.0, 0.3, 0.1, 0.01)) for name in ("linear", "cosine")]
    return {
        "constant_over_decay": constant / ours,
        "other_schedules": np.array(others) / ours,
        "smooth_heavy_ball": np.array(smooth) / ours,
    }


def averaged_risk(lam, error, step, T, sigma2):
    """Bias and variance of the mean of w_1, ..., w_T of SGD at a constant step."""
    a = 1 - step * lam
    away = 1 - a
    mean = error * a * (1 - a**T) / (T * away)
    squares = T - 2 * a * (1 - a**T) / away + a**2 * (1 - a ** (2 * T)) / (1 - a**2)
    variance = step**2 * sigma2 * lam * squares / (T * away) ** 2
    return 0.5 * np.sum(lam * mean**2), 0.5 * np.sum(lam * variance)


def curves(setup):
    """Bias and variance of both methods against the budget, kappa 1000, for the figure."""
    kappa = 1e3
    budgets = np.unique(np.geomspace(100, 20_000, setup.curve_points).astype(int))
    ours = np.array([heavy_ball_risk(kappa, int(T), SIGMA2) for T in budgets])
    theirs = np.array([sgd_risk(kappa, int(T), SIGMA2, scale=1.9) for T in budgets])
    return {
        "curve_budgets": budgets,
        "curve_heavy_ball": ours,
        "curve_sgd": theirs,
        "curve_minimax": DIM * SIGMA2 / (2 * budgets),
    }
