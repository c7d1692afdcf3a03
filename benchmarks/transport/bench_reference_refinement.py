"""Random Fourier features against exact Gaussian processes, alone and inside the refinement.

The published code regresses drifts by an exact Gaussian process with exponential kernel. It is not
on a package index: the peers are scikit-learn's process with the same kernel, on one regression,
and our own ``drift_model="gp"`` inside a fit of predators and prey.
"""

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from thalweg.transport import LotkaVolterra, ReferenceRefinement, simulate, wasserstein
from thalweg.transport._drift_regression import FourierRegression, ProcessRegression

RATES, SIGMA, DT = np.array([1.0, 0.4, 0.4, 0.1]), 0.1, 0.02
PARTICLES, STEPS, FEATURES = 50, 50, 100
TIMES = np.arange(9) * 0.5
ROUNDS = 3


def rows(rng):
    """Times, points and one-step velocities of 50 particles over 50 steps."""
    times = np.arange(STEPS + 1) * DT
    start = np.array([5.0, 4.0]) + 0.3 * rng.standard_normal((PARTICLES, 2))
    path = np.stack(simulate(LotkaVolterra(), RATES, start, times, SIGMA, dt=DT, rng=rng))
    velocity = np.diff(path, axis=0).reshape(-1, 2) / DT
    return np.repeat(times[:-1], PARTICLES), path[:-1].reshape(-1, 2), velocity


@pytest.mark.parametrize(
    "entrant", ["thalweg, 100 features", "thalweg, exact process", "scikit-learn"]
)
def test_one_drift_regression(measure, entrant):
    rng = np.random.default_rng(0)
    t, x, velocity = rows(rng)
    fresh_t, fresh_x, _ = rows(rng)
    truth, noise = LotkaVolterra().drift(RATES, fresh_t, fresh_x), SIGMA**2 / DT
    inputs = np.column_stack([x, t])
    mean, scale = inputs.mean(0), inputs.std(0)

    def fit():
        if entrant == "scikit-learn":
            process = GaussianProcessRegressor(Matern(1.0, nu=0.5), alpha=noise, optimizer=None)
            process.fit((inputs - mean) / scale, velocity)
            return lambda t, x: process.predict((np.column_stack([x, t]) - mean) / scale)
        if "exact" in entrant:
            return ProcessRegression(noise, np.random.default_rng(0)).fit(t, x, velocity)
        regression = FourierRegression(2, FEATURES, noise, np.random.default_rng(0))
        return regression.fit(t, x, velocity)

    def error(field):
        return np.sqrt(np.mean((field(fresh_t, fresh_x) - truth) ** 2))

    measure(
        fit,
        workload=f"drift regression, {len(x)} rows in 2 dimensions and time",
        entrant=entrant,
        accuracy=("root mean square error of the drift", error),
        peer="scikit-learn" if entrant == "scikit-learn" else None,
        target=30.0,
        rounds=5 if "features" in entrant else 2,
    )


@pytest.mark.parametrize("entrant", ["thalweg, 100 features", "exact process, same code"])
def test_refinement_on_predators_and_prey(measure, entrant):
    rng = np.random.default_rng(0)
    starts = [rng.uniform([5.0, 4.0], [5.1, 4.1], (PARTICLES, 2)) for _ in TIMES]
    seen = simulate(LotkaVolterra(), RATES, starts, TIMES, SIGMA, dt=DT, rng=rng)

    def fit():
        return ReferenceRefinement(
            LotkaVolterra(),
            SIGMA,
            dt=DT,
            n_refine=ROUNDS,
            n_ipfp=ROUNDS,
            drift_model="rff" if "features" in entrant else "gp",
            n_features=FEATURES,
            rng=0,
        ).fit(seen[::2], TIMES[::2])

    def held_out(model):
        return np.mean(
            [wasserstein(model.interpolate(TIMES[k]), seen[k], p=1) for k in (1, 3, 5, 7)]
        )

    measure(
        fit,
        workload=f"predators and prey, 4 intervals, {ROUNDS} rounds of {ROUNDS}",
        entrant=entrant,
        accuracy=("earth mover's distance to snapshots left out", held_out),
        target=30.0,
        rounds=3 if "features" in entrant else 1,
    )
