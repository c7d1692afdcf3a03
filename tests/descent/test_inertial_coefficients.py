"""Coefficients of momentum methods: the table, the limit and back, modes on quadratics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.descent import (
    coefficients,
    continuous_limit,
    discretise,
    mode_exponents,
    mode_rate,
)

RATES = {"gradient": 12 / 13, "heavy-ball": 2 / 3, "nesterov": 0.8, "triple-momentum": 0.8}


def test_the_table_at_condition_25():
    expected = {
        "gradient": (1 / 13, 0, 0, 0),
        "heavy-ball": (1 / 9, 4 / 9, 0, 0),
        "nesterov": (1 / 25, 2 / 3, 2 / 3, 0),
        "triple-momentum": (1.8 / 25, 8 / 15, 8 / 27, 16 / 9),
    }
    for method, four in expected.items():
        np.testing.assert_allclose(coefficients(method, L=25.0, mu=1.0), four, rtol=1e-14)


def test_without_strong_convexity():
    assert coefficients("gradient", L=4.0) == (0.25, 0.0, 0.0, 0.0)
    alpha, beta, gamma, delta = coefficients("nesterov", L=4.0)
    assert (alpha, delta) == (0.25, 0.0)
    assert beta is gamma
    assert [beta(k) for k in (0, 1, 3)] == [0.0, 0.25, 0.5]


@pytest.mark.parametrize("method", RATES)
def test_equal_constants_leave_no_momentum(method):
    np.testing.assert_allclose(coefficients(method, L=2.0, mu=2.0), (0.5, 0, 0, 0), atol=1e-15)


@given(st.floats(0.01, 100.0), st.floats(1.0, 1e6))
@settings(max_examples=50, deadline=None)
def test_scaling_the_function_scales_the_step_only(scale, kappa):
    for method in RATES:
        one = coefficients(method, L=kappa, mu=1.0)
        other = coefficients(method, L=scale * kappa, mu=scale)
        np.testing.assert_allclose(scale * other[0], one[0], rtol=1e-12)
        np.testing.assert_allclose(other[1:], one[1:], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("method", RATES)
def test_largest_modal_radius_is_the_rate(method):
    three = coefficients(method, L=25.0, mu=1.0)[:3]
    radii = mode_rate(np.linspace(1, 25, 4801), *three)
    assert radii.max() == pytest.approx(RATES[method], abs=1e-9)
    # Any other step spoils the optimum of the methods whose rate is optimal.
    if method in ("gradient", "heavy-ball"):
        for factor in (0.9, 1.1):
            worse = mode_rate(np.array([1.0, 25.0]), factor * three[0], *three[1:])
            assert worse.max() > RATES[method] + 1e-3


@given(st.floats(0.01, 1.0), st.floats(-0.9, 0.99), st.floats(-1, 1), st.floats(0.01, 10.0))
@settings(max_examples=200, deadline=None)
def test_modal_radius_is_that_of_the_matrix(alpha, beta, gamma, lam):
    trace, det = 1 + beta - alpha * (1 + gamma) * lam, beta - alpha * gamma * lam
    radius = np.abs(np.linalg.eigvals([[trace, -det], [1.0, 0.0]])).max()
    # Nearly equal roots are known to half of the digits only.
    assert mode_rate(lam, alpha, beta, gamma) == pytest.approx(radius, abs=1e-6)


@pytest.mark.parametrize("kappa", np.geomspace(1.5, 1e6, 40))
def test_equal_roots_are_not_torn_apart_by_rounding(kappa):
    # Both methods have a double root at mu, the heavy ball also at L.
    root = 1 / math.sqrt(kappa)
    for method, rate in (("heavy-ball", (1 - root) / (1 + root)), ("nesterov", 1 - root)):
        three = coefficients(method, L=3 * kappa, mu=3.0)[:3]
        assert mode_rate(3.0, *three) == pytest.approx(rate, abs=1e-12)
    assert mode_rate(3 * kappa, *coefficients("heavy-ball", L=3 * kappa, mu=3.0)[:3]) == (
        pytest.approx((1 - root) / (1 + root), abs=1e-12)
    )


@pytest.mark.parametrize("gamma", np.geomspace(0.1, 10.0, 20))
def test_equal_exponents_are_not_torn_apart_by_rounding(gamma):
    found = mode_exponents(gamma / 0.7, gamma, 0.7, 0.7 * gamma)
    np.testing.assert_allclose(found, [-gamma, -gamma], rtol=1e-12)


def test_modal_radius_predicts_a_run():
    alpha, beta, gamma, lam = 0.3, 0.5, 0.2, 0.4
    before = now = 1.0
    for _ in range(400):
        y = now + gamma * (now - before)
        before, now = now, now + beta * (now - before) - alpha * lam * y
    assert abs(now) ** (1 / 400) == pytest.approx(mode_rate(lam, alpha, beta, gamma), rel=0.01)


@given(st.floats(1e-4, 10.0), st.floats(0.01, 0.99), st.floats(0.0, 1.0))
@settings(max_examples=100, deadline=None)
def test_the_limit_and_back(alpha, beta, gamma):
    A, B, C, h = continuous_limit(alpha, beta, gamma)
    np.testing.assert_allclose(discretise(A, B, h), (alpha, beta, gamma), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(C, 1 + A * h / 2)


@given(st.floats(1.0, 1e8))
@settings(max_examples=50, deadline=None)
def test_nesterovs_limit_in_closed_form(kappa):
    L, mu = 3.0 * kappa, 3.0
    alpha, beta, gamma, _ = coefficients("nesterov", L=L, mu=mu)
    root, h = math.sqrt(mu / L), math.sqrt(1 / L)
    expected = (2 * math.sqrt(mu), h * (1 - root), 1 + root, h)
    np.testing.assert_allclose(continuous_limit(alpha, beta, gamma), expected, rtol=1e-6, atol=1e-9)


def test_the_heavy_ball_has_no_damping_by_curvature():
    assert continuous_limit(*coefficients("heavy-ball", L=9.0, mu=1.0)[:3])[1] == 0.0


@given(st.floats(0.1, 5.0), st.floats(0.1, 5.0), st.floats(0.01, 50.0))
@settings(max_examples=100, deadline=None)
def test_passivity_and_immersion_has_the_exponents_of_gradient_flow(gamma, kappa, lam):
    found = mode_exponents(lam, gamma, kappa, gamma * kappa)
    expected = sorted([-gamma, -kappa * lam], reverse=True)
    scale = max(gamma, kappa * lam)
    # The gap of the two is known to about 1e-16 scale² / gap.
    loose = 1e-14 * scale**2 / max(expected[0] - expected[1], 1e-8 * scale)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=loose)


@given(st.floats(-3, 3), st.floats(-2, 2), st.floats(-3, 3), st.floats(-4, 4))
@settings(max_examples=200, deadline=None)
def test_exponents_are_roots_slowest_first(A, B, C, lam):
    first, second = mode_exponents(lam, A, B, C)
    assert first.real >= second.real
    assert first + second == pytest.approx(-(A + B * lam), abs=1e-6)
    assert first * second == pytest.approx(C * lam, abs=1e-6)
    if first.imag:
        assert first == second.conjugate()
        assert first.imag > 0


def test_exponents_have_the_shape_of_the_curvatures():
    lam = np.arange(6.0).reshape(2, 3)
    found = mode_exponents(lam, 1.0, 0.1, 1.0)
    assert found.shape == (2, 3, 2)
    np.testing.assert_allclose(found[0, 0], [0.0, -1.0])
    assert mode_rate(lam, 0.1, 0.5, 0.0).shape == (2, 3)
    assert isinstance(mode_rate(1.0, 0.1, 0.5, 0.0), float)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coefficients("adam", L=1.0), "method must be one of 'gradient', 'heavy-ball'"),
        (lambda: coefficients("heavy-ball", L=1.0), "mu must be given for method='heavy-ball'"),
        (lambda: coefficients("triple-momentum", L=1.0), "mu must be given"),
        (lambda: coefficients("nesterov", L=0.0), "L must be"),
        (lambda: coefficients("nesterov", L=1.0, mu=1.5), "mu must be"),
        (lambda: coefficients("gradient", L=1.0, mu=0.0), "mu must be a finite number > 0"),
        (lambda: continuous_limit(0.0, 0.5, 0.5), "alpha must be"),
        (lambda: continuous_limit(1.0, -1.0, 0.5), "beta must be a finite number > -1"),
        (lambda: continuous_limit(1.0, 0.5, math.nan), "gamma must be"),
        (lambda: discretise(2.0, 0.1, 1.0), "h must be < 2 / A = 1, got 1.0"),
        (lambda: discretise(2.0, 0.1, 3.0), "h must be < 2 / A"),
        (lambda: discretise(1.0, 0.1, 0.0), "h must be"),
        (lambda: discretise(-1.0, 0.1, 0.1), "A must be"),
        (lambda: discretise(1.0, math.inf, 0.1), "B must be"),
        (lambda: mode_rate([math.nan], 1.0, 0.0, 0.0), "lam must be finite"),
        (lambda: mode_rate(1.0, 0.0, 0.0, 0.0), "alpha must be"),
        (lambda: mode_exponents(1.0, math.nan, 0.0, 0.0), "A must be"),
    ],
)
def test_malformed_constants_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
