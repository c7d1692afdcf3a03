from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from thalweg.linalg import (
    finite_sampler,
    lyapunov_constants,
    product_moment_bound,
    product_quantile_bound,
)


def stable_matrix(seed, d=3):
    """Return a non-symmetric matrix whose eigenvalues have positive real parts."""
    a = np.random.default_rng(seed).normal(size=(d, d))
    return a + (0.1 - np.linalg.eigvals(a).real.min()) * np.eye(d)


def four_deviations(scale, d=2):
    values = np.random.default_rng(5).normal(size=(4, d, d))
    return scale * (values - values.mean(axis=0))


def exact_moment(a_bar, values, weights, step, n, p):
    """Average over all sequences of factors."""
    total = 0.0
    for sequence in itertools.product(range(len(values)), repeat=n):
        product, weight = np.eye(len(a_bar)), 1.0
        for k in sequence:
            product = (np.eye(len(a_bar)) - step * (a_bar + values[k])) @ product
            weight *= weights[k]
        total += weight * np.linalg.norm(product, 2) ** p
    return total ** (1 / p)


@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(0.01, 1.0))
@settings(max_examples=100, deadline=None)
def test_a_step_contracts_in_the_lyapunov_norm(seed, d, share):
    a_bar = stable_matrix(seed, d)
    constants = lyapunov_constants(a_bar)
    step = share * constants.step_max
    # rounding of the norm grows with the condition number of Q
    slack = 1e-13 * constants.kappa
    assert constants.norm(np.eye(d) - step * a_bar) ** 2 <= 1 - constants.a * step + slack


@pytest.mark.parametrize("p", [None, [[2.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0]]])
def test_constants_follow_their_definitions(p):
    a_bar = stable_matrix(2)
    constants = lyapunov_constants(a_bar, p)
    right = np.eye(3) if p is None else np.array(p)
    q = constants.q
    np.testing.assert_allclose(a_bar.T @ q + q @ a_bar, right, atol=1e-10)
    lowest, largest = np.linalg.eigvalsh(right)[0], np.linalg.norm(q, 2)
    norm = np.linalg.norm(sqrtm(q) @ a_bar @ np.linalg.inv(sqrtm(q)), 2)
    assert constants.norm(a_bar) == pytest.approx(norm)
    assert constants.a == pytest.approx(lowest / (2 * largest))
    assert constants.step_max == pytest.approx(
        min(lowest / (2 * norm**2 * largest), largest / lowest)
    )
    assert constants.kappa == pytest.approx(np.linalg.cond(q))


def test_the_step_keeps_the_rate_below_one_half():
    # ||Q|| / lambda_min(P) = 1 / 2.8 is the smaller of the two
    assert lyapunov_constants([[1.4]]).step_max == pytest.approx(1 / 2.8)


def test_norm_takes_stacks():
    constants = lyapunov_constants(stable_matrix(1))
    stack = np.random.default_rng(0).normal(size=(2, 5, 3, 3))
    expected = [[constants.norm(b) for b in row] for row in stack]
    np.testing.assert_allclose(constants.norm(stack), expected)


@pytest.mark.parametrize("p", [2, 3, 6])
@pytest.mark.parametrize("weights", [None, [0.1, 0.2, 0.3, 0.4]])
def test_the_bound_covers_the_exact_moment(p, weights):
    a_bar = np.array([[1.0, 0.8], [-0.3, 0.6]])
    w = np.full(4, 0.25) if weights is None else np.array(weights)
    values = four_deviations(1.0)
    values = values - np.tensordot(w, values, 1)
    step = lyapunov_constants(a_bar).step_max
    for n in (1, 5):
        exact = exact_moment(a_bar, values, w, step, n, p)
        bound = product_moment_bound(a_bar, values, step, n, p, weights=weights)
        assert exact <= bound
        largest = lyapunov_constants(a_bar).norm(values).max()
        assert bound <= product_moment_bound(a_bar, largest, step, n, p)


def test_the_bound_is_its_formula():
    a_bar, step, n, p = stable_matrix(4), 0.01, 7, 5.0
    constants = lyapunov_constants(a_bar)
    step = min(step, constants.step_max)
    values, w = four_deviations(0.5, 3), np.array([0.1, 0.2, 0.3, 0.4])
    root = sqrtm(constants.q)
    norms = [np.linalg.norm(root @ b @ np.linalg.inv(root), 2) for b in values]
    v = sum(w[k] * norms[k] ** p for k in range(4)) ** (1 / p)
    mean = np.linalg.norm(root @ (np.eye(3) - step * a_bar) @ np.linalg.inv(root), 2)
    rate = (mean**2 + (p - 1) * step**2 * v**2) ** (n / 2)
    bound = math.sqrt(constants.kappa) * 3 ** (1 / p) * rate
    assert product_moment_bound(a_bar, values, step, n, p, weights=w) == pytest.approx(bound)
    assert product_moment_bound(
        a_bar, values, step, n, p, rigorous=False, weights=w
    ) == pytest.approx(rate)


@given(st.floats(0.1, 5.0), st.floats(0.0, 1.0), st.integers(0, 50))
@settings(deadline=None)
def test_without_randomness_a_symmetric_product_meets_the_bound(scale, share, n):
    a_bar = scale * np.eye(2)
    step = max(share, 0.01) * lyapunov_constants(a_bar).step_max
    exact = np.linalg.norm(np.linalg.matrix_power(np.eye(2) - step * a_bar, n), 2)
    assert product_moment_bound(a_bar, 0.0, step, n, 2, rigorous=False) == pytest.approx(exact)
    # kappa = 1: only the root of the dimension is left
    assert product_moment_bound(a_bar, 0.0, step, n, 4) == pytest.approx(2**0.25 * exact)


def test_only_orders_below_a_limit_contract():
    # 1 - 2 * 0.1 + 0.01 + (p - 1) * 0.01 * 4 < 1 for p < 5.75
    rates = [product_moment_bound([[1.0]], 2.0, 0.1, 2, p, rigorous=False) for p in (5.7, 5.8)]
    assert rates[0] < 1 < rates[1]


def test_the_quantile_takes_the_best_order():
    a_bar, values, step, n = np.array([[1.0, 0.3], [0.0, 1.0]]), four_deviations(1.0), 0.1, 60
    for delta in (0.3, 0.01, 1e-6):
        tried = [
            product_moment_bound(a_bar, values, step, n, p) * delta ** (-1 / p)
            for p in np.arange(2, 64.5, 0.5)
        ]
        assert product_quantile_bound(a_bar, values, step, n, delta) == pytest.approx(min(tried))
        limited = product_quantile_bound(a_bar, values, step, n, delta, p_max=3)
        assert limited == pytest.approx(min(tried[:3]))


def test_the_quantile_is_rarely_exceeded():
    a_bar, values, step, n = np.array([[1.0, 0.3], [0.0, 1.0]]), four_deviations(1.0), 0.1, 30
    sampler = finite_sampler(a_bar + values, np.zeros((4, 2)))
    rng = np.random.default_rng(0)
    product = np.tile(np.eye(2), (2000, 1, 1))
    for _ in range(n):
        product = product - step * sampler(rng, 2000)[0] @ product
    norms = np.linalg.norm(product, 2, axis=(1, 2))
    assert np.mean(norms > product_quantile_bound(a_bar, values, step, n, 0.1)) <= 0.1


def test_an_overflowing_bound_is_infinite():
    assert product_moment_bound([[1.0]], 100.0, 0.5, 10_000, 2) == math.inf


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: lyapunov_constants([[1.0, 0.0], [0.0, -2.0]]), ValueError, "eigenvalue -2"),
        (lambda: lyapunov_constants([[0.0, 1.0], [-1.0, 0.0]]), ValueError, r"eigenvalue [-0]+.1j"),
        (lambda: lyapunov_constants([[1.0, 2.0]]), ValueError, "a_bar must be square"),
        (lambda: lyapunov_constants([[1j]]), TypeError, "a_bar must be real"),
        (lambda: lyapunov_constants([[1.0]], [[-1.0]]), ValueError, "p must be positive definite"),
        (lambda: lyapunov_constants([[1.0]], np.eye(2)), ValueError, "p must have shape"),
        (lambda: lyapunov_constants([[1.0]]).norm(np.eye(2)), ValueError, "b must have shape"),
        (lambda: product_moment_bound([[1.0]], 1.0, 0.1, 5, 1.9), ValueError, "p must be"),
        (lambda: product_moment_bound([[1.0]], 1.0, 0.6, 5, 2), ValueError, "at most 0.5 "),
        (lambda: product_moment_bound([[1.0]], 1.0, 0.0, 5, 2), ValueError, "step_size must be"),
        (lambda: product_moment_bound([[1.0]], 1.0, 0.1, -1, 2), ValueError, "n must be"),
        (lambda: product_moment_bound([[1.0]], -1.0, 0.1, 5, 2), ValueError, "deviation must be"),
        (lambda: product_moment_bound([[1.0]], np.eye(2), 0.1, 5, 2), ValueError, "deviation must"),
        (
            lambda: product_moment_bound([[1.0]], 1.0, 0.1, 5, 2, weights=[1.0]),
            ValueError,
            "weights must be None",
        ),
        (lambda: product_quantile_bound([[1.0]], 1.0, 0.1, 5, 1.0), ValueError, "delta must be"),
        (lambda: product_quantile_bound([[-1.0]], 1.0, 0.1, 5, 0.1), ValueError, "eigenvalue -1"),
        (
            lambda: product_quantile_bound([[1.0]], 1.0, 0.1, 5, 0.1, p_max=1),
            ValueError,
            "p_max must be",
        ),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
