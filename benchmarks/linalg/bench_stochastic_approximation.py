"""Linear stochastic approximation with a constant step: many chains at once against loops."""

from __future__ import annotations

import numpy as np
import pytest

from thalweg.linalg import (
    finite_sampler,
    linear_sa,
    lms_sampler,
    stationary_covariance,
)

DIMENSION, STEP = 5, 0.02
CHAINS, ITERATIONS = 4096, 1000
LOOP_CHAINS = 256


def least_squares():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, DIMENSION))
    return lms_sampler(X, X @ np.ones(DIMENSION) + rng.normal(size=1000))


def loop_over_chains(sampler, n_iter, n_chains):
    """Step chain by chain with NumPy alone."""
    rng = np.random.default_rng(0)
    ends = []
    for _ in range(n_chains):
        theta = sampler.theta_star.copy()
        a, b = sampler(rng, n_iter)
        for i in range(n_iter):
            theta -= STEP * (a[i] @ theta - b[i])
        ends.append(theta)
    return np.array(ends)


def arrays_over_chains(sampler, n_iter, n_chains):
    """Step all chains at once with NumPy alone."""
    rng = np.random.default_rng(0)
    theta = np.tile(sampler.theta_star, (n_chains, 1))
    for _ in range(n_iter):
        a, b = sampler(rng, n_chains)
        theta -= STEP * (np.einsum("nij,nj->ni", a, theta) - b)
    return theta


def ours(sampler, n_iter, n_chains):
    return linear_sa(sampler, sampler.theta_star, STEP, n_iter, n_chains=n_chains, rng=0)[:, 0]


def covariance_error(sampler):
    exact = stationary_covariance(sampler.a_bar, sampler.noise_cov, STEP, sampler.a_second_moment)

    def error(theta):
        return np.linalg.norm(np.cov(theta.T) - exact) / np.linalg.norm(exact)

    return "relative error of the covariance", error


@pytest.mark.parametrize("entrant", ["thalweg, rank one", "thalweg, dense", "NumPy arrays"])
def test_many_chains(measure, entrant):
    sampler = least_squares()
    step = {"thalweg, rank one": ours, "thalweg, dense": ours, "NumPy arrays": arrays_over_chains}
    used = sampler
    if entrant == "thalweg, dense":
        used = finite_sampler(sampler.matrices(slice(None)), sampler.b)
    measure(
        lambda: step[entrant](used, ITERATIONS, CHAINS),
        workload=f"{CHAINS} chains x {ITERATIONS} steps, d = {DIMENSION}",
        entrant=entrant,
        accuracy=covariance_error(sampler),
        peer="numpy" if entrant == "NumPy arrays" else None,
        rounds=3,
    )


@pytest.mark.parametrize("entrant", ["thalweg", "loop over chains"])
def test_against_a_loop(measure, entrant):
    sampler = least_squares()
    step = ours if entrant == "thalweg" else loop_over_chains
    measure(
        lambda: step(sampler, ITERATIONS, LOOP_CHAINS),
        workload=f"{LOOP_CHAINS} chains x {ITERATIONS} steps, d = {DIMENSION}",
        entrant=entrant,
        accuracy=covariance_error(sampler),
        target=30.0 if entrant != "thalweg" else None,
        rounds=3,
    )
