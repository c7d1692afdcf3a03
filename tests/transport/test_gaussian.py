from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from thalweg.transport import (
    BrownianReference,
    dimf_kl,
    gaussian_bridge_marginal,
    gaussian_dimf,
    gaussian_eot,
    gaussian_kl,
    gaussian_ot_map,
)


def spd(rng, d):
    A = rng.normal(size=(d, d))
    return A @ A.T / d + 0.3 * np.eye(d)


def random_pair(seed, d):
    rng = np.random.default_rng(seed)
    return rng.normal(size=d), spd(rng, d), rng.normal(size=d), spd(rng, d)


def joint(S0, S1, C):
    return np.block([[S0, C], [C.T, S1]])


# --- entropic plan, map, bridge ------------------------------------------------------------------


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(1e-3, 1e3))
def test_scalar_plan_has_its_closed_form(s0, s1, epsilon):
    C, _, _ = gaussian_eot([0.0], [[s0]], [0.0], [[s1]], epsilon)
    exact = 2 * s0 * s1 / (np.sqrt(4 * s0 * s1 + epsilon**2) + epsilon)
    np.testing.assert_allclose(C, [[exact]], rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.1, 1.0, 10.0]))
def test_plan_has_the_gibbs_form(seed, d, epsilon):
    """The density is f(x) g(y) exp(<x, y> / eps): the precision's cross block is -I / eps."""
    m0, S0, m1, S1 = random_pair(seed, d)
    C, mean, cov = gaussian_eot(m0, S0, m1, S1, epsilon)
    np.testing.assert_array_equal(cov, joint(S0, S1, C))
    np.testing.assert_array_equal(mean, [*m0, *m1])
    cross = np.linalg.inv(cov)[:d, d:] * epsilon
    np.testing.assert_allclose(cross, -np.eye(d), atol=1e-10 * np.linalg.cond(cov))


def test_plan_of_vanishing_entropy_is_the_optimal_map():
    m0, S0, m1, S1 = random_pair(0, 4)
    A, b = gaussian_ot_map(m0, S0, m1, S1)
    C, _, _ = gaussian_eot(m0, S0, m1, S1, 1e-7)
    np.testing.assert_allclose(C, S0 @ A, atol=1e-6)
    np.testing.assert_allclose(A @ m0 + b, m1, atol=1e-12)


def test_plan_of_large_entropy_falls_like_the_product_over_epsilon():
    m0, S0, m1, S1 = random_pair(1, 4)
    C, _, _ = gaussian_eot(m0, S0, m1, S1, 1e9)
    np.testing.assert_allclose(C * 1e9, S0 @ S1, rtol=1e-7, atol=1e-7)


def test_plan_reversed_is_the_plan_of_the_exchanged_ends():
    m0, S0, m1, S1 = random_pair(2, 5)
    C, _, _ = gaussian_eot(m0, S0, m1, S1, 0.7)
    back, _, _ = gaussian_eot(m1, S1, m0, S0, 0.7)
    np.testing.assert_allclose(back, C.T, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_optimal_map_is_symmetric_positive_and_carries_the_covariance(seed, d):
    m0, S0, m1, S1 = random_pair(seed, d)
    A, _ = gaussian_ot_map(m0, S0, m1, S1)
    np.testing.assert_array_equal(A, A.T)
    assert np.linalg.eigvalsh(A)[0] > 0
    np.testing.assert_allclose(A @ S0 @ A, S1, atol=1e-10)
    root = sqrtm(S0).real
    inverse = np.linalg.inv(root)
    np.testing.assert_allclose(A, inverse @ sqrtm(root @ S1 @ root).real @ inverse, atol=1e-8)


def test_bridge_starts_and_ends_in_the_marginals():
    m0, S0, m1, S1 = random_pair(3, 3)
    means, covs = gaussian_bridge_marginal(m0, S0, m1, S1, 0.5, [0.0, 1.0])
    np.testing.assert_allclose(means, [m0, m1])
    np.testing.assert_allclose(covs, [S0, S1])


def test_bridge_marginal_agrees_with_sampled_bridges():
    n, epsilon, t = 100_000, 2.0, 0.3
    m0, S0, m1, S1 = random_pair(4, 2)
    _, mean, cov = gaussian_eot(m0, S0, m1, S1, epsilon)
    rng = np.random.default_rng(0)
    pairs = rng.multivariate_normal(mean, cov, size=n)
    draws = BrownianReference(epsilon).bridge(pairs[:, :2], pairs[:, 2:], t, rng)
    expected_mean, expected_cov = gaussian_bridge_marginal(m0, S0, m1, S1, epsilon, t)
    variances = np.diag(expected_cov)
    assert (abs(draws.mean(0) - expected_mean) <= 4.5 * np.sqrt(variances / n)).all()
    spread = np.sqrt((np.outer(variances, variances) + expected_cov**2) / n)
    assert (abs(np.cov(draws.T) - expected_cov) <= 4.5 * spread).all()


def test_bridge_marginal_at_many_times_is_that_at_each():
    pair = random_pair(5, 3)
    times = np.array([0.0, 0.2, 0.9])
    means, covs = gaussian_bridge_marginal(*pair, 1.5, times)
    for t, mean, cov in zip(times, means, covs, strict=True):
        one, other = gaussian_bridge_marginal(*pair, 1.5, float(t))
        np.testing.assert_allclose(mean, one)
        np.testing.assert_allclose(cov, other)


# --- D-IMF ---------------------------------------------------------------------------------------


def reciprocal_cov(S0, S1, C, epsilon, grid):
    """Covariance of all points: x_t = (1-t) x0 + t x1 + Brownian bridge, written as a product."""
    d = len(S0)
    ends = np.kron(np.column_stack([1 - grid, grid]), np.eye(d))
    kernel = np.minimum.outer(grid, grid) - np.outer(grid, grid)
    return ends @ joint(S0, S1, C) @ ends.T + epsilon * np.kron(kernel, np.eye(d))


def markov_cov(cov, d):
    """Covariance of the chain with the same neighbouring pairs, from its factors' precisions."""
    n = len(cov) // d
    precision = np.zeros_like(cov)
    for k in range(n - 1):
        pair = slice(k * d, (k + 2) * d)
        precision[pair, pair] += np.linalg.inv(cov[pair, pair])
    for k in range(1, n - 1):
        own = slice(k * d, (k + 1) * d)
        precision[own, own] -= np.linalg.inv(cov[own, own])
    return np.linalg.inv(precision)


@pytest.mark.parametrize("times", [[0, 0.5, 1], [0, 0.1, 0.3, 0.9, 1]])
def test_iteration_is_the_markovian_projection_of_the_whole_law(times):
    rng, d, epsilon = np.random.default_rng(0), 3, 0.8
    S0, S1 = spd(rng, d), spd(rng, d)
    C = 0.1 * rng.normal(size=(d, d))
    for found in gaussian_dimf(S0, S1, epsilon, n_iter=4, times=times, C0=C):
        np.testing.assert_allclose(found, C, atol=1e-10)
        law = markov_cov(reciprocal_cov(S0, S1, C, epsilon, np.asarray(times)), d)
        np.testing.assert_allclose(law[:d, :d], S0, atol=1e-9)
        np.testing.assert_allclose(law[-d:, -d:], S1, atol=1e-9)
        C = law[:d, -d:]


@pytest.mark.parametrize("n_inner", [1, 2, 10])
def test_bridge_is_the_fixed_point(n_inner):
    m0, S0, m1, S1 = random_pair(6, 4)
    C, _, _ = gaussian_eot(m0, S0, m1, S1, 0.6)
    for found in gaussian_dimf(S0, S1, 0.6, n_inner=n_inner, n_iter=5, C0=C):
        np.testing.assert_allclose(found, C, atol=1e-11)


def test_limit_depends_neither_on_the_start_nor_on_the_times():
    m0, S0, m1, S1 = random_pair(7, 3)
    C, _, _ = gaussian_eot(m0, S0, m1, S1, 1.0)
    A, _ = gaussian_ot_map(m0, S0, m1, S1)
    for C0 in (None, S0 @ A, -0.1 * np.eye(3)):
        for options in ({"n_inner": 2}, {"times": [0, 0.05, 0.6, 1]}):
            found = gaussian_dimf(S0, S1, 1.0, n_iter=150, C0=C0, **options)
            np.testing.assert_allclose(found[-1], C, atol=1e-8)
            np.testing.assert_array_equal(found[0], np.zeros((3, 3)) if C0 is None else C0)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("n_inner", [1, 10])
def test_divergence_from_the_bridge_never_grows(epsilon, n_inner):
    m0, S0, m1, S1 = random_pair(8, 5)
    C, _, _ = gaussian_eot(m0, S0, m1, S1, epsilon)
    found = gaussian_dimf(S0, S1, epsilon, n_inner=n_inner, n_iter=40)
    divergences = [dimf_kl(S0, S1, each, C) for each in found]
    assert (np.diff(divergences) <= 1e-12).all()
    assert divergences[-1] < 0.5 * divergences[0]


def test_sampled_fitting_agrees_with_the_closed_form():
    """Two D-IMF iterations on 20 000 draws, transitions fitted by least squares: within 3 %."""
    rng, n, d, epsilon = np.random.default_rng(1), 20_000, 2, 1.0
    S0, S1, times = spd(rng, d), spd(rng, d), [0, 0.25, 0.5, 0.75, 1]
    source = rng.multivariate_normal(np.zeros(d), S0, size=n)
    start, end = source, rng.multivariate_normal(np.zeros(d), S1, size=n)
    for _ in range(2):
        path = BrownianReference(epsilon).bridge_path(start, end, times, rng)
        x = source
        for now, later in pairwise(path):
            A = np.linalg.lstsq(now, later, rcond=None)[0]
            rest = np.cov((later - now @ A).T)
            x = x @ A + rng.multivariate_normal(np.zeros(d), rest, size=n)
        start, end = source, x
    exact = gaussian_dimf(S0, S1, epsilon, n_iter=2, times=times)[-1]
    found = start.T @ end / n
    assert np.linalg.norm(found - exact) <= 0.03 * np.linalg.norm(joint(S0, S1, exact))


def test_kl_agrees_with_the_general_formula():
    rng, d = np.random.default_rng(2), 3
    S0, S1 = spd(rng, d), spd(rng, d)
    C, other = 0.1 * rng.normal(size=(2, d, d))
    zero = np.zeros(2 * d)
    expected = gaussian_kl(zero, joint(S0, S1, C), zero, joint(S0, S1, other))
    np.testing.assert_allclose(dimf_kl(S0, S1, C, other), expected, rtol=1e-10)
    assert dimf_kl(S0, S1, C, C) == 0


def test_small_kl_keeps_its_digits():
    """Scalar ends of variance 1, correlations r + h and r: KL = h^2 (1 + r^2) / (2 (1 - r^2)^2)."""
    r, h = 0.5, 1e-9
    kl = dimf_kl([[1.0]], [[1.0]], [[r + h]], [[r]])
    np.testing.assert_allclose(kl, h**2 * (1 + r**2) / (2 * (1 - r**2) ** 2), rtol=1e-5)


def test_kl_of_a_deterministic_coupling_is_infinite():
    assert dimf_kl([[1.0]], [[1.0]], [[1.0]], [[0.0]]) == np.inf


# --- refusals ------------------------------------------------------------------------------------

I2 = np.eye(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"S0": [[1, 2], [2, 1]]}, "S0 must be positive definite, got smallest eigenvalue -1"),
        ({"S1": [[1, 1], [1, 1]]}, "S1 must be positive definite, got smallest eigenvalue"),
        ({"S1": [[1, 0.5], [0, 1]]}, "S1 must be symmetric"),
        ({"S1": np.eye(3)}, r"S1 must have shape \(2, 2\), got \(3, 3\)"),
        ({"S0": np.ones((2, 3))}, "S0 must have shape"),
        ({"m0": np.zeros(3)}, r"m0 must have shape \(2\)"),
        ({"m1": [0.0, np.nan]}, "m1 must be finite"),
        ({"epsilon": 0.0}, "epsilon must be a finite number > 0"),
        ({"epsilon": np.inf}, "epsilon must be"),
    ],
)
def test_bad_gaussians_are_refused_by_name(change, message):
    arguments = {"m0": [0, 0], "S0": I2, "m1": [0, 0], "S1": I2, "epsilon": 1.0, **change}
    with pytest.raises(ValueError, match=message):
        gaussian_eot(**arguments)
    with pytest.raises(ValueError, match=message):
        gaussian_bridge_marginal(**arguments, t=0.5)
    if "epsilon" not in change:
        arguments.pop("epsilon")
        with pytest.raises(ValueError, match=message):
            gaussian_ot_map(**arguments)


@pytest.mark.parametrize("t", [-0.1, 1.1, [0.5, 2.0], np.nan])
def test_times_outside_the_interval_are_refused(t):
    with pytest.raises(ValueError, match="t must be"):
        gaussian_bridge_marginal([0, 0], I2, [0, 0], I2, 1.0, t)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -1.0}, "epsilon must be"),
        ({"n_inner": 0}, "n_inner must be"),
        ({"n_iter": -1}, "n_iter must be"),
        ({"times": [0, 0.5, 0.4, 1]}, "times must increase strictly from 0 to 1"),
        ({"times": [0.1, 0.5, 1]}, "times must increase strictly from 0 to 1"),
        ({"times": [0, 0.5]}, "times must increase strictly from 0 to 1"),
        ({"C0": np.eye(3)}, "C0 must have shape"),
        ({"C0": 2 * I2}, "C0 must make the covariance of the pair positive semidefinite, got"),
    ],
)
def test_bad_options_of_the_iteration_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        gaussian_dimf(**{"S0": I2, "S1": I2, "epsilon": 1.0, **options})


def test_impossible_couplings_are_refused_by_name():
    with pytest.raises(ValueError, match="C_star must make the covariance of the pair positive"):
        dimf_kl(I2, I2, 0 * I2, I2)
    with pytest.raises(ValueError, match="C must make the covariance of the pair positive"):
        dimf_kl(I2, I2, 1.5 * I2, 0 * I2)
