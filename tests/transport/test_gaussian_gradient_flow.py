import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.optimize import minimize

from thalweg.transport import (
    bures_wasserstein2,
    gaussian_flow,
    gaussian_jko_step,
    gaussian_kl,
    gaussian_ot_map,
)


def gaussians(seed, d=3):
    """Mean and covariance now, mean and covariance of the target; they do not commute."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(2, d, d)) + 1.5 * np.eye(d)
    return (
        rng.normal(size=d),
        roots[0] @ roots[0].T + 0.1 * np.eye(d),
        rng.normal(size=d),
        roots[1] @ roots[1].T + 0.1 * np.eye(d),
    )


def objective(mean, cov, m, C, b, S, a):
    return bures_wasserstein2(m, C, mean, cov) / (2 * a) + gaussian_kl(mean, cov, b, S)


def test_step_minimises_the_objective_in_one_dimension():
    """The minimum of a smooth function is found to about the root of its precision, 1e-8."""
    m, C, b, S, a = 0.3, 2.0, -1.0, 0.4, 0.7

    def value(p):
        return (
            ((p[0] - m) ** 2 + (p[1] - np.sqrt(C)) ** 2) / (2 * a)
            + (p[1] ** 2 / S + (p[0] - b) ** 2 / S - 1 + np.log(S)) / 2
            - np.log(p[1])
        )

    options = {"xatol": 1e-12, "fatol": 1e-16, "maxiter": 5000}
    found = minimize(value, [m, 1.0], method="Nelder-Mead", options=options)
    mean, cov = gaussian_jko_step([m], [[C]], [b], [[S]], a)
    np.testing.assert_allclose([mean[0], np.sqrt(cov[0, 0])], found.x, atol=3e-8)
    assert value([mean[0], np.sqrt(cov[0, 0])]) <= found.fun + 1e-12


@pytest.mark.parametrize("a", [0.05, 0.5, 5.0])
def test_step_of_covariances_that_do_not_commute_is_optimal(a):
    m, C, b, S = gaussians(0)
    mean, cov = gaussian_jko_step(m, C, b, S, a)
    forth, _ = gaussian_ot_map(m, C, mean, cov)
    precision = np.linalg.inv(S)
    np.testing.assert_allclose(
        np.linalg.inv(cov), precision + (np.eye(3) - np.linalg.inv(forth)) / a, rtol=1e-9
    )
    np.testing.assert_allclose((mean - m) / a, -precision @ (mean - b), rtol=1e-9)


@given(seed=st.integers(0, 10**6), a=st.floats(0.02, 20))
def test_no_perturbed_gaussian_has_a_lower_objective(seed, a):
    m, C, b, S = gaussians(seed)
    mean, cov = gaussian_jko_step(m, C, b, S, a)
    best = objective(mean, cov, m, C, b, S, a)
    rng = np.random.default_rng(seed)
    change = np.eye(3) + 0.02 * rng.normal(size=(3, 3))
    other = objective(mean + 0.02 * rng.normal(size=3), change @ cov @ change.T, m, C, b, S, a)
    assert best <= other + 1e-9 * (1 + abs(other))


@given(seed=st.integers(0, 10**6), a=st.floats(0.02, 20))
def test_energy_dissipates(seed, a):
    m, C, b, S = gaussians(seed)
    mean, cov = gaussian_jko_step(m, C, b, S, a)
    left = objective(mean, cov, m, C, b, S, a)
    assert left <= gaussian_kl(m, C, b, S) * (1 + 1e-9)


def test_step_in_the_eigenbasis_of_both_has_the_scalar_formula():
    s, target, a = np.array([2.0, 0.5]), np.array([0.7, 1.5]), 0.2
    Q = np.linalg.qr(np.random.default_rng(1).normal(size=(2, 2)))[0]
    A = 1 / a + 1 / target**2
    expected = (s / a + np.sqrt((s / a) ** 2 + 4 * A)) / (2 * A)
    _, cov = gaussian_jko_step(
        [0, 0], Q @ np.diag(s**2) @ Q.T, [0, 0], Q @ np.diag(target**2) @ Q.T, a
    )
    np.testing.assert_allclose(cov, Q @ np.diag(expected**2) @ Q.T, rtol=1e-12, atol=1e-12)


def test_target_is_a_fixed_point_of_step_and_flow():
    _, _, b, S = gaussians(2)
    for mean, cov in (gaussian_jko_step(b, S, b, S, 0.3), gaussian_flow(b, S, b, S, 0.3)):
        np.testing.assert_allclose(mean, b, rtol=1e-12)
        np.testing.assert_allclose(cov, S, rtol=1e-9)


def test_small_steps_follow_the_flow():
    """Implicit Euler is of first order: half the step, half the error."""
    m, C, b, S = gaussians(3)
    exact = gaussian_flow(m, C, b, S, 0.5)
    errors = []
    for n in (200, 400):
        mean, cov = m, C
        for _ in range(n):
            mean, cov = gaussian_jko_step(mean, cov, b, S, 0.5 / n)
        errors.append(np.abs(mean - exact[0]).max() + np.abs(cov - exact[1]).max())
    assert errors[1] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)


def test_flow_solves_the_moment_equations():
    m, C, b, S = gaussians(4)
    precision, h, t = np.linalg.inv(S), 1e-5, 0.4
    (ahead_m, ahead_C), (behind_m, behind_C) = (gaussian_flow(m, C, b, S, t + s) for s in (h, -h))
    mean, cov = gaussian_flow(m, C, b, S, t)
    np.testing.assert_allclose((ahead_m - behind_m) / (2 * h), -precision @ (mean - b), rtol=1e-6)
    np.testing.assert_allclose(
        (ahead_C - behind_C) / (2 * h),
        -precision @ cov - cov @ precision + 2 * np.eye(3),
        rtol=1e-6,
        atol=1e-8,
    )
    np.testing.assert_allclose(mean, b + expm(-precision * t) @ (m - b), rtol=1e-12)


@pytest.mark.parametrize("advance", [gaussian_jko_step, gaussian_flow])
def test_rotating_everything_rotates_the_result(advance):
    m, C, b, S = gaussians(5)
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    mean, cov = advance(m, C, b, S, 0.4)
    turned = advance(Q @ m, Q @ C @ Q.T, Q @ b, Q @ S @ Q.T, 0.4)
    np.testing.assert_allclose(turned[0], Q @ mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(turned[1], Q @ cov @ Q.T, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"m": [0.0]}, "m must have shape"),
        ({"b": [np.nan, 0.0]}, "b must be finite"),
        ({"C": [[1.0, 0.5], [0.0, 1.0]]}, "C must be symmetric"),
        ({"S": -np.eye(2)}, "S must be positive definite"),
        ({"last": -1.0}, "must be a finite number"),
    ],
)
@pytest.mark.parametrize("advance", [gaussian_jko_step, gaussian_flow])
def test_bad_input_is_refused_by_name(advance, change, match):
    given = {"m": np.zeros(2), "C": np.eye(2), "b": np.zeros(2), "S": np.eye(2), "last": 0.1}
    with pytest.raises(ValueError, match=match):
        advance(*(given | change).values())


def test_step_of_size_zero_is_refused():
    with pytest.raises(ValueError, match="a must be a finite number > 0"):
        gaussian_jko_step([0.0], [[1.0]], [0.0], [[1.0]], 0)
