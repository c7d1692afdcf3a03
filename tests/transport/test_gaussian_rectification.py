import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.linalg import solve_continuous_lyapunov

from thalweg.transport import gaussian_matching_loss, gaussian_ot_map, gaussian_rectify

S0 = np.array([[1.0, 0.4], [0.4, 0.6]])
S1 = np.array([[0.5, -0.3], [-0.3, 1.5]])


def turn(degrees):
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


def optimal(S0, S1):
    return gaussian_ot_map(np.zeros(len(S0)), S0, np.zeros(len(S0)), S1)[0]


def random_covariance(rng, d):
    B = rng.normal(size=(d, 2 * d))
    return B @ B.T / (2 * d)


def interpolation(S0, S1, C, t):
    """Cov(X_t) and Cov(X', X_t) from the covariance of the pair and the definitions."""
    joint = np.block([[S0, C], [C.T, S1]])
    d = len(S0)
    now = np.hstack([(1 - t) * np.eye(d), t * np.eye(d)])
    move = np.hstack([-np.eye(d), np.eye(d)])
    return now @ joint @ now.T, move @ joint @ now.T, move @ joint @ move.T


def independent_velocity(S0, S1, C, t, conservative):
    S, K, _ = interpolation(S0, S1, C, t)
    if conservative:
        return solve_continuous_lyapunov(S, K + K.T)
    return np.linalg.solve(S, K.T).T


@pytest.mark.parametrize("conservative", [True, False])
@pytest.mark.parametrize("C", [None, 0.3 * turn(40.0)])
def test_map_is_that_of_a_general_solver(C, conservative):
    cross = np.zeros((2, 2)) if C is None else C
    path = solve_ivp(
        lambda t, g: (
            independent_velocity(S0, S1, cross, t, conservative) @ g.reshape(2, 2)
        ).ravel(),
        (0, 1),
        np.eye(2).ravel(),
        rtol=1e-10,
        atol=1e-12,
    )
    found = gaussian_rectify(S0, S1, C, conservative=conservative)
    np.testing.assert_allclose(found, path.y[:, -1].reshape(2, 2), atol=1e-8)


@pytest.mark.parametrize("conservative", [True, False])
@given(seed=st.integers(0, 10_000), d=st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_end_law_is_kept_and_cost_falls_by_the_loss(conservative, seed, d):
    rng = np.random.default_rng(seed)
    A, B = random_covariance(rng, d), random_covariance(rng, d)
    C = np.zeros((d, d))
    for _ in range(2):
        G = gaussian_rectify(A, B, C, conservative=conservative)
        np.testing.assert_allclose(G @ A @ G.T, B, atol=1e-6)
        loss = gaussian_matching_loss(A, B, C, conservative=conservative)
        assert np.trace(A @ G.T - C) >= loss - 1e-6
        C = A @ G.T


@pytest.mark.parametrize("conservative", [True, False])
def test_loss_is_the_integral_of_the_residual(conservative):
    C = 0.3 * turn(40.0)

    def residual(t):
        S, K, moved = interpolation(S0, S1, C, t)
        A = independent_velocity(S0, S1, C, t, conservative)
        return np.trace(moved - A @ K.T - K @ A.T + A @ S @ A.T) / 2

    expected = quad(residual, 0, 1, epsabs=1e-12)[0]
    assert gaussian_matching_loss(S0, S1, C, conservative=conservative) == pytest.approx(
        expected, abs=1e-10
    )


def test_iteration_leads_to_the_optimal_map_and_stays_there():
    C, best = np.zeros((2, 2)), optimal(S0, S1)
    for _ in range(12):
        C = S0 @ gaussian_rectify(S0, S1, C).T
    np.testing.assert_allclose(np.linalg.solve(S0, C), best.T, atol=1e-6)
    assert gaussian_matching_loss(S0, S1, S0 @ best) == pytest.approx(0, abs=1e-10)
    np.testing.assert_allclose(gaussian_rectify(S0, S1, S0 @ best), best, atol=1e-8)


def test_straight_coupling_by_another_map_is_left():
    """X1 = T X0 with T not symmetric is no fixed point; the plain rectified flow keeps it."""
    root0, root1 = np.linalg.cholesky(S0), np.linalg.cholesky(S1)
    T = root1 @ turn(-30.0) @ np.linalg.inv(root0)
    kept = gaussian_rectify(S0, S1, S0 @ T.T, conservative=False)
    np.testing.assert_allclose(kept, T, atol=1e-7)
    assert np.abs(gaussian_rectify(S0, S1, S0 @ T.T) - T).max() > 0.1


@pytest.mark.parametrize("degrees", [30.0, 90.0, 150.0])
def test_rotation_is_undone_at_once_only_by_the_conservative_flow(degrees):
    R, one = turn(degrees), np.eye(2)
    np.testing.assert_allclose(gaussian_rectify(one, one, R.T), one, atol=1e-8)
    np.testing.assert_allclose(
        gaussian_rectify(one, one, R.T, conservative=False, n_steps=800), R, atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"S0": -np.eye(2)}, "S0 must be positive definite"),
        ({"S1": np.eye(3)}, r"S1 must have shape \(2, 2\)"),
        ({"S1": [[1.0, 0.5], [0.0, 1.0]]}, "S1 must be symmetric"),
        ({"C": 2 * np.eye(2)}, "C must make the covariance of the pair positive semidefinite"),
        ({"C": np.eye(3)}, r"C must have shape \(2, 2\)"),
        ({"C": np.full((2, 2), np.nan)}, "C must be finite"),
        ({"n_steps": 0}, "n_steps must be"),
    ],
)
def test_bad_input_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        gaussian_rectify(**{"S0": np.eye(2), "S1": np.eye(2), **options})


def test_meeting_pairs_are_refused_with_the_time():
    with pytest.raises(FloatingPointError, match=r"singular at t = 0\.5"):
        gaussian_rectify(np.eye(2), np.eye(2), -np.eye(2))
