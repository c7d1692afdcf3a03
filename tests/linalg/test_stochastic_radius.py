from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm

from thalweg.linalg import (
    confidence_radius,
    error_parts,
    finite_sampler,
    linear_sa,
    lyapunov_constants,
    product_quantile_bound,
)
from thalweg.linalg.stochastic_covariances import fluctuation_covariances

A_BAR = np.array([[1.0, 0.6], [-0.2, 0.7]])
U = np.array([1.0, -2.0])
STEP, DELTA = 0.1, 0.06


def sampler():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(3, 2, 2))
    w = np.array([0.2, 0.3, 0.5])
    values = 0.5 * (values - np.tensordot(w, values, 1))
    return finite_sampler(A_BAR + values, rng.normal(size=(3, 2)), w)


def radius(n=20, **changes):
    s = sampler()
    arguments = {
        "start_error": 1.0,
        "deviation": s.deviations,
        "weights": s.weights,
        "noise_bound": s.noise_bound,
        "delta": DELTA,
    } | changes
    return confidence_radius(U, n, s.a_bar, s.noise_cov, STEP, **arguments)


def exact_parts(n):
    """Return second moments of the linear part and the remainder over all sequences."""
    s = sampler()
    linear, remainder, mixed = np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 2))
    for sequence in itertools.product(range(3), repeat=n):
        k = list(sequence)
        parts = error_parts(s.a[k], s.b[k], s.theta_star, STEP, s.a_bar, s.theta_star)
        weight = np.prod(s.weights[k])
        linear += weight * np.outer(parts.linear[-1], parts.linear[-1])
        remainder += weight * np.outer(parts.remainder[-1], parts.remainder[-1])
        mixed += weight * np.outer(parts.linear[-1], parts.remainder[-1])
    return linear, remainder, mixed


@pytest.mark.parametrize("n", [1, 2, 5])
def test_covariances_of_the_parts_are_those_of_all_sequences(n):
    s = sampler()
    linear, remainder = fluctuation_covariances(n, s.a_bar, s.noise_cov, STEP, s.a_second_moment)
    exact_linear, exact_remainder, mixed = exact_parts(n)
    np.testing.assert_allclose(linear, exact_linear, atol=1e-13)
    np.testing.assert_allclose(remainder, exact_remainder, atol=1e-13)
    np.testing.assert_allclose(mixed, 0, atol=1e-13)


def parts_of_radius(n):
    """Return transient, standard deviation, largest term and remainder for a third of the risk."""
    s, risk = sampler(), DELTA / 3
    linear, remainder, _ = exact_parts(n)
    shrink = product_quantile_bound(s.a_bar, s.deviations, STEP, n, risk, weights=s.weights)
    kappa = lyapunov_constants(s.a_bar).kappa
    size = np.linalg.norm(U)
    return (
        size * shrink,
        math.sqrt(U @ linear @ U),
        STEP * s.noise_bound * math.sqrt(kappa) * size,
        math.sqrt(U @ remainder @ U / risk),
    )


def test_the_radius_is_the_sum_of_its_parts():
    transient, sd, largest, remainder = parts_of_radius(5)
    log = math.log(2 / (DELTA / 3))
    t = radius(5) - transient - remainder
    # Bernstein: 2 exp(-t^2 / (2 (sd^2 + largest t / 3))) is a third of delta
    assert t**2 / (2 * (sd**2 + largest * t / 3)) == pytest.approx(log)
    assert radius(5, start_error=2.5) - radius(5) == pytest.approx(1.5 * transient)


def test_gaussian_noise_has_its_quantile():
    transient, sd, _, remainder = parts_of_radius(5)
    quantile = norm.isf(DELTA / 6) * sd
    got = radius(5, noise="gaussian", noise_bound=None)
    assert got == pytest.approx(transient + quantile + remainder)


def test_the_papers_constants_are_those_of_pinelis():
    transient, sd, largest, remainder = parts_of_radius(5)
    p = np.arange(2, 64.5, 0.5)
    moments = 60 * math.e * np.sqrt(p) * sd + 60 * p * largest
    linear = (moments * (DELTA / 3) ** (-1 / p)).min()
    assert radius(5, constants="paper") == pytest.approx(transient + linear + remainder)


def test_values_give_their_own_second_moment():
    assert radius(a_second_moment=sampler().a_second_moment) == pytest.approx(radius())
    values = sampler().deviations
    values = values - values.mean(axis=0)
    equal = radius(deviation=values, weights=None)
    assert equal == pytest.approx(radius(deviation=values, weights=np.full(3, 1 / 3)))


def test_without_random_matrices_only_the_linear_part_remains():
    got = confidence_radius(
        [1.0], 200, [[1.0]], [[1.0]], 0.1, start_error=0.0, deviation=0.0, noise="gaussian"
    )
    # stationary variance 0.1 / (2 - 0.1)
    assert got == pytest.approx(norm.isf(0.05 / 6) * math.sqrt(0.1 / 1.9))


def test_chains_stay_within():
    s = sampler()
    for n in (10, 200):
        theta = linear_sa(s, s.theta_star + np.array([0.6, 0.8]), STEP, n, n_chains=2000, rng=n)[
            :, 0
        ]
        error = np.abs((theta - s.theta_star) @ U)
        assert np.mean(error <= radius(n)) >= 1 - DELTA
        assert radius(n) <= 20 * np.quantile(error, 1 - DELTA)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "n must be"),
        ({"delta": 0.0}, "delta must be"),
        ({"start_error": -1.0}, "start_error must be"),
        ({"noise": "uniform"}, "noise must be one of"),
        ({"constants": "mine"}, "constants must be one of"),
        ({"noise_bound": None}, "noise_bound must be given"),
        ({"noise_bound": -1.0}, "noise_bound must be"),
        ({"noise": "gaussian", "constants": "paper"}, "constants='paper' is for"),
        ({"deviation": 0.5, "weights": None}, "a_second_moment must be given"),
        ({"deviation": np.zeros((3, 1, 1))}, "deviation must be a number or"),
        ({"weights": [0.5, 0.4, 0.0]}, "weights must be"),
        ({"a_second_moment": np.eye(2)}, "a_second_moment must have shape"),
    ],
)
def test_bad_input_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        radius(**changes)


def test_bad_systems_are_refused():
    options = {"start_error": 1.0, "deviation": 0.0, "noise_bound": 1.0}
    with pytest.raises(ValueError, match="eigenvalue -1"):
        confidence_radius([1.0], 5, [[-1.0]], [[1.0]], 0.1, **options)
    with pytest.raises(ValueError, match=r"step_size must be at most 0\.5 "):
        confidence_radius([1.0], 5, [[1.0]], [[1.0]], 0.7, **options)
    with pytest.raises(ValueError, match="u must have shape"):
        confidence_radius([1.0, 0.0], 5, [[1.0]], [[1.0]], 0.1, **options)
