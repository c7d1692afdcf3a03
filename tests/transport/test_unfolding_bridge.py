"""The bridge's schedule and laws, and the closed form of Gaussian unfolding."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.transport import (
    BrownianReference,
    bridge_coefficients,
    bridge_schedule,
    gaussian_unfolding,
)
from thalweg.transport.unfolding_bridge import posterior_coefficients


@pytest.mark.parametrize("n_times", [2, 3, 8, 101, 1000])
def test_variances_from_both_ends_add_up(n_times):
    forward, backward = bridge_schedule(n_times)
    assert forward[0] == backward[-1] == 0
    assert (np.diff(forward) > 0).all()
    total = forward[-1] ** 2
    np.testing.assert_allclose(forward**2 + backward**2, total, rtol=1e-12)
    np.testing.assert_allclose(forward, backward[::-1])


def test_rates_are_the_published_ones_summed_by_trapezia():
    """Within the rate of one end, 1e-5, of the published inclusive sum."""
    n = 1000
    rates = np.linspace(1e-5**0.5, (0.3 / n) ** 0.5, n) ** 2
    rates = np.concatenate([rates[: n // 2], rates[: n // 2][::-1]])
    forward, _ = bridge_schedule(n)
    np.testing.assert_allclose(np.diff(forward**2), (rates[1:] + rates[:-1]) / 2, rtol=1e-9)
    assert forward[-1] ** 2 == pytest.approx(rates.sum() - 1e-5, rel=1e-12)
    assert forward[-1] == pytest.approx(0.221, abs=1e-3)


def test_more_noise_with_a_larger_rate():
    totals = [bridge_schedule(100, beta_max)[0][-1] for beta_max in (0.1, 0.3, 1.0)]
    assert totals[0] < totals[1] < totals[2]


@given(st.integers(2, 60), st.floats(0.01, 10.0))
@settings(max_examples=30, deadline=None)
def test_coefficients_are_those_of_a_bridge(n_times, beta_max):
    schedule = bridge_schedule(n_times, beta_max)
    mu0, mu1, std = bridge_coefficients(np.arange(n_times), schedule)
    np.testing.assert_allclose(mu0 + mu1, 1, rtol=1e-12)
    assert (mu0[0], mu1[0], std[0]) == (1, 0, 0)
    assert (mu0[-1], mu1[-1], std[-1]) == (0, 1, 0)
    assert (np.diff(mu0) < 0).all()
    passed = schedule[0] ** 2 / schedule[0][-1] ** 2
    np.testing.assert_allclose(mu1, passed, rtol=1e-9)
    variance = schedule[0][-1] ** 2 * passed * (1 - passed)
    np.testing.assert_allclose(std**2, variance, rtol=1e-9, atol=1e-15)


def test_law_agrees_with_the_brownian_bridge():
    """Another implementation, on 200 000 draws: 5 standard errors."""
    schedule, k, n = bridge_schedule(100), 30, 200_000
    total = schedule[0][-1] ** 2
    t = schedule[0][k] ** 2 / total
    x0, x1 = np.full((n, 1), 2.0), np.full((n, 1), -1.0)
    drawn = BrownianReference(total).bridge(x0, x1, t, np.random.default_rng(0))
    mu0, mu1, std = bridge_coefficients(k, schedule)
    assert drawn.mean() == pytest.approx(2 * mu0 - mu1, abs=5 * std / n**0.5)
    assert drawn.std() == pytest.approx(std, rel=5 / (2 * n) ** 0.5)


@pytest.mark.parametrize("grid", [range(60, -1, -1), [60, 41, 40, 13, 5, 1, 0]])
def test_steps_back_with_the_true_start_compose_to_the_bridge(grid):
    """Mean weights and variances, carried through the recursion exactly."""
    schedule = bridge_schedule(61)
    on_first, on_last, variance = 0.0, 1.0, 0.0
    for later, earlier in pairwise(grid):
        mu0, mu1, std = posterior_coefficients(earlier, later, schedule)
        on_first, on_last = mu0 + mu1 * on_first, mu1 * on_last
        variance = mu1**2 * variance + std**2
        expected = bridge_coefficients(earlier, schedule)
        np.testing.assert_allclose(
            [on_first, on_last, variance],
            [expected[0], expected[1], expected[2] ** 2],
            rtol=1e-10,
            atol=1e-14,
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bridge_schedule(1), "n_times must be"),
        (lambda: bridge_schedule(10, 0.0), "beta_max must be"),
        (lambda: bridge_schedule(10, beta_min=0.0), "beta_min must be"),
        (lambda: bridge_coefficients(10, bridge_schedule(10)), "k must be integers from 0 to 9"),
        (lambda: bridge_coefficients(-1, bridge_schedule(10)), "k must be integers"),
        (lambda: bridge_coefficients(0.5, bridge_schedule(10)), "k must be integers"),
        (lambda: bridge_coefficients(0, (np.ones(3), np.ones(2))), "two arrays of one length"),
    ],
)
def test_bad_schedules_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


M, SHIFT = np.array([0.0, 1.0]), np.array([0.5, -0.2])
S = np.array([[1.0, 0.3], [0.3, 0.6]])
R = np.array([[0.4, -0.1], [-0.1, 0.3]])


def test_closed_form_agrees_with_draws_from_the_joint_law():
    """The truth given the measurement by regression on samples; 0.02 is 5 standard errors."""
    rng, n = np.random.default_rng(0), 200_000
    x0 = rng.multivariate_normal(M, S, n)
    x1 = x0 + SHIFT + rng.multivariate_normal(np.zeros(2), R, n)
    design = np.column_stack([x1, np.ones(n)])
    slope, *_ = np.linalg.lstsq(design, x0, rcond=None)
    residual = np.cov((x0 - design @ slope).T)
    data_cov = np.array([[2.0, 0.5], [0.5, 1.0]])
    data = rng.multivariate_normal([1.0, 2.0], data_cov, n)
    unfolded = np.column_stack([data, np.ones(n)]) @ slope
    unfolded += rng.multivariate_normal(np.zeros(2), residual, n)
    mean, cov = gaussian_unfolding(M, S, R, SHIFT, [1.0, 2.0], data_cov)
    np.testing.assert_allclose(unfolded.mean(0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(unfolded.T), cov, atol=0.02)


def test_data_like_the_simulation_give_its_truths_back():
    mean, cov = gaussian_unfolding(M, S, R, SHIFT, M + SHIFT, S + R)
    np.testing.assert_allclose(mean, M, atol=1e-12)
    np.testing.assert_allclose(cov, S, atol=1e-12)


def test_exact_instrument_is_inverted():
    data_cov = np.array([[2.0, 0.5], [0.5, 1.0]])
    mean, cov = gaussian_unfolding(M, S, np.zeros((2, 2)), SHIFT, [3.0, 4.0], data_cov)
    np.testing.assert_allclose(mean, np.array([3.0, 4.0]) - SHIFT)
    np.testing.assert_allclose(cov, data_cov, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m": [[0.0]]}, "m must have 1 axes"),
        ({"S": np.eye(3)}, "S must have shape"),
        ({"R": [[1.0, 0.5], [0.0, 1.0]]}, "R must be symmetric"),
        ({"data_cov": -np.eye(2)}, "data_cov must be positive semidefinite"),
        ({"shift": [0.0]}, "shift must have shape"),
        ({"data_mean": [np.nan, 0.0]}, "data_mean must be finite"),
        ({"S": np.zeros((2, 2)), "R": np.zeros((2, 2))}, "S \\+ R must be positive definite"),
    ],
)
def test_bad_gaussians_are_refused_by_name(change, message):
    good = {"m": M, "S": S, "R": R, "shift": SHIFT, "data_mean": M, "data_cov": S}
    with pytest.raises(ValueError, match=message):
        gaussian_unfolding(**{**good, **change})
