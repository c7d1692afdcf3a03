from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_continuous_lyapunov

from thalweg.linalg import (
    clt_covariance,
    finite_sampler,
    linear_sa,
    mean_square_stable,
    moments_at,
    stationary_covariance,
)

A_BAR = np.array([[1.0, 0.6], [-0.2, 0.7]])
NOISE = np.array([[1.0, 0.3], [0.3, 0.5]])


def sampler(scale=0.8):
    """Four equally likely pairs, matrices and noise of one pair dependent."""
    rng = np.random.default_rng(2)
    values = rng.normal(size=(4, 2, 2))
    return finite_sampler(A_BAR + scale * (values - values.mean(axis=0)), rng.normal(size=(4, 2)))


def test_clt_covariance_solves_the_lyapunov_equation():
    s = clt_covariance(A_BAR, NOISE)
    np.testing.assert_allclose(s, solve_continuous_lyapunov(A_BAR, NOISE), atol=1e-14)
    np.testing.assert_allclose(A_BAR @ s + s @ A_BAR.T, NOISE, atol=1e-14)


@given(st.floats(0.1, 3.0), st.floats(0.0, 4.0), st.floats(0.0, 2.0), st.floats(0.01, 0.99))
@settings(deadline=None)
def test_scalar_covariance_has_its_closed_form(a, variance, noise, share):
    step = share * 2 * a / (a**2 + variance)
    c = stationary_covariance([[a]], [[noise]], step, [[variance]]).item()
    assert c == pytest.approx(step * noise / (2 * a - step * (a**2 + variance)), rel=1e-9)
    linear = stationary_covariance([[a]], [[noise]], step).item()
    assert linear == pytest.approx(step * noise / (2 * a - step * a**2), rel=1e-9)


def test_covariance_is_a_fixed_point_of_every_pair():
    s, step = sampler(), 0.3
    c = stationary_covariance(s.a_bar, s.noise_cov, step, s.a_second_moment)
    mapped = sum(
        (np.eye(2) - step * a) @ c @ (np.eye(2) - step * a).T + step**2 * np.outer(e, e)
        for a, e in zip(s.a, s.noise, strict=True)
    )
    np.testing.assert_allclose(c, mapped / 4, rtol=1e-12)


def test_linear_part_has_its_own_equation():
    step = 0.3
    s = stationary_covariance(A_BAR, NOISE, step) / step
    np.testing.assert_allclose(
        A_BAR @ s + s @ A_BAR.T - step * A_BAR @ s @ A_BAR.T, NOISE, atol=1e-12
    )


def test_covariance_agrees_with_a_simulation():
    s, step = sampler(), 0.3
    # 30 iterations forget the start to exp(-2 * 0.3 * 0.7 * 30), below 1e-5
    theta = linear_sa(s, s.theta_star, step, 30, n_chains=400_000, rng=0)[:, 0]
    c = stationary_covariance(s.a_bar, s.noise_cov, step, s.a_second_moment)
    assert np.linalg.norm(np.cov(theta.T) - c) <= 0.03 * np.linalg.norm(c)


def test_covariance_over_the_step_approaches_the_clt():
    s = sampler()
    limit = clt_covariance(s.a_bar, s.noise_cov)
    gaps = [
        np.linalg.norm(
            stationary_covariance(s.a_bar, s.noise_cov, step, s.a_second_moment) / step - limit
        )
        for step in (1e-3, 1e-4)
    ]
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.02)


def test_stability_ends_where_second_moments_stop_shrinking():
    # scalar: (1 - step a)^2 + step^2 var < 1 for step < 2 a / (a^2 + var)
    edge = 2 * 1.4 / 5.8
    assert mean_square_stable([[1.4]], edge - 1e-9, [[3.84]])
    assert not mean_square_stable([[1.4]], edge + 1e-9, [[3.84]])
    assert mean_square_stable([[1.0]], 1.99)
    assert not mean_square_stable([[1.0]], 2.01)
    assert not mean_square_stable([[-1.0]], 0.1)


def enumerate_moments(s, theta0, step, n):
    """Return mean and covariance over all sequences of pairs."""
    ends = []
    for sequence in itertools.product(range(4), repeat=n):
        theta = theta0
        for k in sequence:
            theta = theta - step * (s.a[k] @ theta - s.b[k])
        ends.append(theta)
    return np.mean(ends, axis=0), np.cov(np.array(ends).T, bias=True)


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_moments_at_n_are_those_of_all_sequences(n):
    s, theta0, step = sampler(), np.array([2.0, -1.0]), 0.4
    mean, cov = moments_at(
        n, theta0, s.theta_star, s.a_bar, s.noise_cov, step, s.a_second_moment, s.cross
    )
    exact_mean, exact_cov = enumerate_moments(s, theta0, step, n)
    np.testing.assert_allclose(mean, exact_mean, atol=1e-13)
    np.testing.assert_allclose(cov, exact_cov, atol=1e-13)


def test_many_iterations_by_squaring_agree_with_one_by_one():
    s, step = sampler(), 0.01
    args = (s.theta_star, s.a_bar, s.noise_cov, step, s.a_second_moment, s.cross)
    mean, cov = moments_at(300, [3.0, 1.0], *args)
    carry = np.eye(2) - step * s.a_bar
    m, c = np.array([3.0, 1.0]) - s.theta_star, np.zeros((2, 2))
    for _ in range(300):
        increments = (s.a - s.a_bar) @ m - s.noise
        c = (
            np.mean([(np.eye(2) - step * a) @ c @ (np.eye(2) - step * a).T for a in s.a], axis=0)
            + step**2 * increments.T @ increments / 4
        )
        m = carry @ m
    np.testing.assert_allclose(mean, s.theta_star + m, rtol=1e-10)
    np.testing.assert_allclose(cov, c, rtol=1e-10)


def test_moments_reach_the_stationary_ones():
    s, step = sampler(), 0.2
    mean, cov = moments_at(
        100_000, [5.0, 5.0], s.theta_star, s.a_bar, s.noise_cov, step, s.a_second_moment
    )
    np.testing.assert_allclose(mean, s.theta_star, atol=1e-12)
    np.testing.assert_allclose(
        cov, stationary_covariance(s.a_bar, s.noise_cov, step, s.a_second_moment), rtol=1e-9
    )


def test_a_far_start_does_not_cost_the_covariance_its_digits():
    near = moments_at(40, [0.0], [0.0], [[1.0]], [[1.0]], 0.1)[1]
    far = moments_at(40, [1e9], [0.0], [[1.0]], [[1.0]], 0.1)[1]
    np.testing.assert_allclose(far, near, rtol=1e-12)


def test_overflow_is_reported_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FloatingPointError, match="step_size is too large"):
            moments_at(100_000, [1.0], [0.0], [[1.0]], [[1.0]], 3.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clt_covariance([[-1.0]], [[1.0]]), "eigenvalue -1"),
        (lambda: clt_covariance(A_BAR, [[1.0]]), "noise_cov must have shape"),
        (lambda: clt_covariance([[1.0]], [[-1.0]]), "noise_cov must be positive semidefinite"),
        (lambda: clt_covariance(A_BAR, [[1.0, 1.0], [0.0, 1.0]]), "noise_cov must be symmetric"),
        (lambda: stationary_covariance([[1.0]], [[1.0]], 0.0), "step_size must be"),
        (lambda: stationary_covariance([[1.0]], [[1.0]], 2.5), "finite covariance, got 2.5"),
        (
            lambda: stationary_covariance([[1.4]], [[1.0]], 0.5, [[3.84]]),
            "second moments grow by 1.05",
        ),
        (lambda: stationary_covariance(A_BAR, NOISE, 0.1, np.eye(2)), "a_second_moment must have"),
        (lambda: mean_square_stable([[1.0, 2.0]], 0.1), "a_bar must be square"),
        (lambda: mean_square_stable([[1.0]], -0.1), "step_size must be"),
        (lambda: moments_at(-1, [0.0], [0.0], [[1.0]], [[1.0]], 0.1), "n must be"),
        (lambda: moments_at(1, [0.0, 0.0], [0.0], [[1.0]], [[1.0]], 0.1), "theta0 must have shape"),
        (lambda: moments_at(1, [0.0], [0.0], [[1.0]], [[1.0]], 0.1, None, [1.0]), "cross must"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
