"""What a proxy is worth: Hessian differences, the bound, the step, the stationary law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from thalweg.descent import (
    proxy_prox,
    proxy_prox_bound,
    relative_smoothness,
    stationary_risk,
)
from thalweg.descent.proxy_theory import step_length


def symmetric(rng, n, scale=1.0):
    M = rng.normal(size=(n, n))
    return scale * (M + M.T) / 2


def spectrum(rng, values):
    q = np.linalg.qr(rng.normal(size=(len(values), len(values))))[0]
    return (q * values) @ q.T


def test_the_largest_difference_over_the_points_counts():
    points = np.array([[1.0, 0.0], [2.0, -1.0], [0.5, 0.5]])
    found = relative_smoothness(
        lambda x: np.diag(12 * x**2), lambda x: np.diag(2 * np.abs(x)), points
    )
    assert found == pytest.approx(12 * 4 - 4)
    assert relative_smoothness(lambda x: np.diag(12 * x**2), np.eye(2), points[0]) == 11


@pytest.mark.parametrize("n", [3, 60])
@pytest.mark.parametrize("sign", [1, -1])
def test_lanczos_finds_the_norm_that_the_dense_spectrum_has(n, sign):
    rng = np.random.default_rng(n)
    A = spectrum(rng, np.r_[sign * 5.0, rng.uniform(-3, 3, n - 1)])
    B = symmetric(rng, n)
    dense = relative_smoothness(A + B, B, np.zeros(n))
    assert dense == pytest.approx(5.0)
    point = np.zeros(n)
    for first, second in (
        (aslinearoperator(A + B), aslinearoperator(B)),
        (csr_array(A + B), B),
        (lambda x: aslinearoperator(A + B), csr_array(B)),
        (LinearOperator((n, n), matvec=lambda v: (A + B) @ v, dtype=float), B),
    ):
        assert relative_smoothness(first, second, point) == pytest.approx(5.0, rel=1e-8)
    assert relative_smoothness(csr_array(A), csr_array(A), point) == 0.0


def test_quadratics_of_two_data_sets_need_one_point_only():
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(20, 4)), rng.normal(size=(9, 4))
    expected = np.linalg.norm(A.T @ A / 20 - B.T @ B / 9, 2)
    assert relative_smoothness(A.T @ A / 20, B.T @ B / 9, np.zeros(4)) == pytest.approx(expected)


def test_the_bound_at_the_usual_step_is_18_delta_gap_over_t():
    assert proxy_prox_bound(7, gap=3.0, delta=0.2) == pytest.approx(18 * 0.2 * 3 / 7)
    many = proxy_prox_bound([1, 2, 4], gap=3.0, delta=0.2, eta=1.5, theta=0.5)
    np.testing.assert_allclose(many[0] / many, [1, 2, 4])
    # the two derived inequalities, with the numbers put in
    slope, fall = 0.2 + 1.5 / 1.5, (1 / 1.5 - 0.2) / 2
    assert many[0] == pytest.approx(slope**2 * 3.0 / fall)


@given(
    st.floats(0.05, 0.95), st.floats(0.1, 3.0), st.sampled_from([-1.0, 1.0, 0.3]), st.integers(1, 9)
)
@settings(max_examples=40, deadline=None)
def test_quadratics_of_any_curvature_obey_the_bound_and_some_come_near(share, delta, part, T):
    """f has curvature c, the proxy c - part delta."""
    eta = share / delta
    ratios = []
    for c in (0.05, 0.4, 1.0, 3.0, 20.0):
        P = 1 / (c - part * delta + 1 / eta)
        x = (1 - P * c) ** np.arange(1, T + 1)
        bound = proxy_prox_bound(T, gap=c / 2, delta=delta, eta=eta)
        ratios.append(np.mean((c * x) ** 2) / bound)
    assert max(ratios) <= 1


def test_a_step_too_long_breaks_the_bound_of_the_one_it_claims():
    c = delta = 1.0
    for eta, holds in ((0.5, True), (2.2, False)):
        x = (1 - eta * c) ** np.arange(1, 41)
        assert (np.mean((c * x) ** 2) <= proxy_prox_bound(40, gap=0.5, delta=delta)) == holds


def test_the_step_under_noise():
    assert step_length(0.5, gap=1.0, sigma=0.0, n_steps=10) == 1.0
    assert step_length(0.5, gap=1.0, sigma=1e-9, n_steps=10) == 1.0
    assert step_length(2.0, gap=3.0, sigma=5.0, n_steps=600) == pytest.approx(
        np.sqrt(3.0 / (2.0 * 25.0 * 600))
    )


def test_simulated_proxy_steps_settle_at_the_stationary_risk():
    rng = np.random.default_rng(4)
    A = spectrum(rng, [1.0, 0.5, 0.2])
    proxy = A + symmetric(rng, 3, 0.05)
    root = 0.3 * rng.normal(size=(3, 3))
    noise, eta = root @ root.T, 0.8
    exact = stationary_risk(A, proxy, eta, noise)
    P = np.linalg.inv(proxy + np.eye(3) / eta)
    e = np.zeros((20_000, 3))
    for _ in range(120):
        e = e - (e @ A + rng.normal(size=e.shape) @ root.T) @ P
    gaps = 0.5 * np.einsum("ki,ij,kj->k", e, A, e)
    assert abs(gaps.mean() - exact) <= 4 * gaps.std() / np.sqrt(len(gaps))
    assert gaps.std() / np.sqrt(len(gaps)) < 0.02 * exact


def test_the_method_itself_settles_there():
    rng = np.random.default_rng(1)
    A, proxy, eta = np.diag([1.0, 0.4]), np.diag([0.9, 0.5]), 0.7
    points = proxy_prox(
        lambda x, rng: A @ x + rng.normal(size=2), lambda x: 0.5 * x @ proxy @ x, np.zeros(2),
        proxy_jac=lambda x: proxy @ x, eta=eta, n_steps=4000, rng=rng, record=True,
        solver=lambda x, shift, eta: np.linalg.solve(proxy + np.eye(2) / eta, x / eta - shift),
    ).history["x"]  # fmt: skip
    gaps = 0.5 * np.einsum("ki,ij,kj->k", points, A, points)[100:]
    blocks = gaps[: 39 * 100].reshape(39, 100).mean(axis=1)
    exact = stationary_risk(A, proxy, eta, np.eye(2))
    assert abs(blocks.mean() - exact) <= 4 * blocks.std() / np.sqrt(39)
    assert blocks.std() / np.sqrt(39) < 0.05 * exact


def test_the_covariance_solves_the_lyapunov_equation_by_its_series():
    rng = np.random.default_rng(2)
    A, proxy = spectrum(rng, [2.0, 1.0, 0.1]), spectrum(rng, [1.5, 1.0, 0.3])
    noise, eta = np.diag([1.0, 2.0, 0.0]), 0.4
    P = np.linalg.inv(proxy + np.eye(3) / eta)
    M, term, total = np.eye(3) - P @ A, P @ noise @ P.T, 0.0
    for _ in range(3000):
        total = total + np.trace(A @ term) / 2
        term = M @ term @ M.T
    assert stationary_risk(A, proxy, eta, noise) == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: relative_smoothness(np.eye(2), np.eye(3), np.zeros(2)), ValueError, "proxy_hess"),
        (
            lambda: relative_smoothness([[1, 2], [0, 1]], np.eye(2), np.zeros(2)),
            ValueError,
            "hess must be symmetric",
        ),
        (lambda: relative_smoothness(np.eye(2), np.eye(2), []), ValueError, "points must have"),
        (
            lambda: relative_smoothness(csr_array(np.eye(3)), np.eye(2), np.zeros(2)),
            ValueError,
            "hess must have shape",
        ),
        (
            lambda: relative_smoothness(lambda x: x * np.nan, np.eye(2), np.zeros(2)),
            ValueError,
            "hess must",
        ),
        (lambda: proxy_prox_bound(0, gap=1.0, delta=1.0), ValueError, "T must be"),
        (lambda: proxy_prox_bound([1.5], gap=1.0, delta=1.0), ValueError, "T must hold integers"),
        (lambda: proxy_prox_bound(1, gap=-1.0, delta=1.0), ValueError, "gap must be"),
        (lambda: proxy_prox_bound(1, gap=1.0, delta=0.0), ValueError, "delta must be"),
        (lambda: proxy_prox_bound(1, gap=1.0, delta=1.0, eta=1.0), ValueError, "eta must be"),
        (lambda: proxy_prox_bound(1, gap=1.0, delta=1.0, theta=1), ValueError, "theta must be"),
        (lambda: step_length(1.0, gap=0.0, sigma=1.0, n_steps=1), ValueError, "gap must be"),
        (lambda: step_length(1.0, gap=1.0, sigma=-1.0, n_steps=1), ValueError, "sigma must be"),
        (lambda: stationary_risk(np.ones((2, 3)), np.eye(2), 1, np.eye(2)), ValueError, "A must"),
        (lambda: stationary_risk(np.eye(2), np.eye(3), 1, np.eye(2)), ValueError, "A_proxy must"),
        (lambda: stationary_risk(np.eye(2), np.eye(2), 0, np.eye(2)), ValueError, "eta must be"),
        (
            lambda: stationary_risk(np.eye(2), np.eye(2), 1, -np.eye(2)),
            ValueError,
            "noise_cov must be positive",
        ),
        (
            lambda: stationary_risk(np.eye(2), -np.eye(2), 2, np.eye(2)),
            ValueError,
            "weak convexity",
        ),
        (
            lambda: stationary_risk(5 * np.eye(2), np.eye(2), 1, np.eye(2)),
            ValueError,
            "eta must make the steps contract",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
