import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.transport import half_bridge_target, symmetric_gammas, terminal_posterior

GAMMAS = np.array([0.1, 0.3, 0.2, 0.4])


def brownian_conditional(times, epsilon, ends, known):
    """Law of the unknown time given the values at the known ones, from the joint covariance."""
    times, known_times = np.asarray(times), np.asarray(known)
    cov = epsilon * np.minimum.outer(known_times, known_times)
    cross = epsilon * np.minimum.outer(times, known_times)
    # one vector a row: the start is at rest in 0, and every value is relative to it
    gain = np.linalg.solve(cov, cross.T).T
    return gain @ ends, epsilon * np.minimum.outer(times, times) - gain @ cross.T


def agree(mean, variance, exact):
    np.testing.assert_allclose([mean[0, 0], variance], [exact[0][0], exact[1][0, 0]], atol=1e-12)


@pytest.mark.parametrize("k", range(4))
@pytest.mark.parametrize("epsilon", [0.7, 2.0])
def test_posterior_is_brownian_motion_given_both_ends(k, epsilon):
    """Started at x_0 = 0 going backward; going forward by the same motion run the other way."""
    gbar = np.concatenate([[0.0], np.cumsum(GAMMAS)])
    x = np.array([[1.3]])
    if k:
        mean, variance = terminal_posterior(
            x, np.zeros((1, 1)), k, GAMMAS, epsilon, direction="backward"
        )
        exact = brownian_conditional([gbar[k]], epsilon, x[0], [gbar[k + 1]])
        np.testing.assert_allclose(
            [mean[0, 0], variance], [exact[0][0], exact[1][0, 0]], atol=1e-12
        )
    mean, variance = terminal_posterior(
        np.zeros((1, 1)), x, k, GAMMAS, epsilon, direction="forward"
    )
    if k < 3:
        exact = brownian_conditional([gbar[k + 1] - gbar[k]], epsilon, x[0], [1 - gbar[k]])
        np.testing.assert_allclose(
            [mean[0, 0], variance], [exact[0][0], exact[1][0, 0]], atol=1e-12
        )


@pytest.mark.parametrize(("direction", "k"), [("backward", 0), ("forward", 3)])
def test_last_step_reaches_the_end_exactly(direction, k):
    x, end = np.array([[3.0, -1.0]]), np.array([[0.25, 0.5]])
    mean, variance = terminal_posterior(x, end, k, GAMMAS, 2.0, direction=direction)
    np.testing.assert_allclose(mean, end, atol=1e-15)
    assert variance == 0.0


def test_epsilon_two_is_the_noise_of_the_paper():
    gbar = np.concatenate([[0.0], np.cumsum(GAMMAS)])
    x = np.zeros((1, 1))
    for k in range(4):
        _, backward = terminal_posterior(x, x, k, GAMMAS, 2.0, direction="backward")
        _, forward = terminal_posterior(x, x, k, GAMMAS, 2.0, direction="forward")
        assert backward == pytest.approx(2 * GAMMAS[k] * gbar[k] / gbar[k + 1], abs=1e-15)
        assert forward == pytest.approx(
            2 * GAMMAS[k] * (1 - gbar[k + 1]) / (1 - gbar[k]), abs=1e-15
        )


@given(seed=st.integers(0, 1000), n=st.integers(2, 8))
def test_steps_given_the_end_compose_to_the_bridge(seed, n):
    """Means and variances of successive steps add up to the bridge's law at each index."""
    rng = np.random.default_rng(seed)
    gammas = rng.dirichlet(np.full(n, 3.0))
    gbar, epsilon = np.cumsum(gammas), 1.4
    start, end = rng.normal(size=(2, 1, 2))
    mean, variance = start, 0.0
    for k in range(n):
        shrink = terminal_posterior(
            np.ones((1, 1)), np.zeros((1, 1)), k, gammas, epsilon, direction="forward"
        )[0][0, 0]
        mean, step = terminal_posterior(mean, end, k, gammas, epsilon, direction="forward")
        variance = shrink**2 * variance + step
        t = min(gbar[k], 1.0)
        np.testing.assert_allclose(mean, (1 - t) * start + t * end, atol=1e-10)
        assert variance == pytest.approx(epsilon * t * (1 - t), abs=1e-10)


def test_posterior_takes_tensors():
    torch = pytest.importorskip("torch")
    x, end = np.array([[1.0]]), np.array([[2.0]])
    mean, variance = terminal_posterior(
        torch.tensor(x), torch.tensor(end), 1, GAMMAS, 1.0, direction="forward"
    )
    exact = terminal_posterior(x, end, 1, GAMMAS, 1.0, direction="forward")
    assert isinstance(mean, torch.Tensor)
    np.testing.assert_allclose(mean.numpy(), exact[0])
    assert variance == exact[1]


def test_targets_are_the_formulas():
    rng = np.random.default_rng(0)
    x_k, x_next = rng.normal(size=(2, 5, 3))
    matrices = rng.normal(size=(3, 3, 3))

    def forward(k, x):
        return x @ matrices[k].T

    np.testing.assert_array_equal(half_bridge_target(x_k, x_next, k=1), x_k)
    found = half_bridge_target(x_k, x_next, forward, k=1, kind="original")
    np.testing.assert_allclose(found, x_next + (x_k - x_next) @ matrices[1].T)
    mirrored = half_bridge_target(x_next, x_k, forward, k=2, kind="original")
    np.testing.assert_allclose(mirrored, x_k + (x_next - x_k) @ matrices[2].T)


def test_optima_of_both_targets_are_those_derived_for_gaussians():
    """Points whose second moments are exactly those of the chain; regressions by least squares."""
    rng = np.random.default_rng(1)
    gamma, epsilon, eye = 0.05, 2.0, np.eye(2)
    A = eye + gamma * rng.normal(size=(2, 2))
    S = np.array([[1.0, 0.3], [0.3, 0.5]])
    S_next = A @ S @ A.T + epsilon * gamma * eye
    joint = np.block([[S, S @ A.T], [A @ S, S_next]])
    points = np.linalg.cholesky(joint).T
    x_k, x_next = points[:, :2], points[:, 2:]
    found = [
        np.linalg.lstsq(
            x_next,
            half_bridge_target(x_k, x_next, lambda k, x: x @ A.T, k=0, kind=kind),
            rcond=None,
        )[0].T
        for kind in ("simplified", "original")
    ]
    np.testing.assert_allclose(found[0], S @ A.T @ np.linalg.inv(S_next), atol=1e-12)
    exact = 2 * eye - A - epsilon * gamma * np.linalg.inv(S_next)
    np.testing.assert_allclose(found[1], exact, atol=1e-12)


@given(N=st.integers(1, 40), ratio=st.floats(0.1, 50.0))
def test_symmetric_steps_are_symmetric_linear_and_sum_to_one(N, ratio):
    gammas = symmetric_gammas(N, ratio)
    assert gammas.shape == (N,)
    assert gammas.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(gammas, gammas[::-1], rtol=1e-12)
    half = gammas[: (N + 1) // 2]
    np.testing.assert_allclose(np.diff(half, 2), 0, atol=1e-12)
    if N > 2:
        assert half[-1] / half[0] == pytest.approx(ratio, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: symmetric_gammas(0), ValueError, "N must be"),
        (lambda: symmetric_gammas(4, ratio=0.0), ValueError, "ratio must be"),
        (
            lambda: half_bridge_target(np.ones((2, 1)), np.ones((3, 1)), k=0),
            ValueError,
            "one shape",
        ),
        (
            lambda: half_bridge_target(np.ones((2, 1)), np.ones((2, 1)), k=0, kind="exact"),
            ValueError,
            "kind must be one of",
        ),
        (
            lambda: half_bridge_target(np.ones((2, 1)), np.ones((2, 1)), k=0, kind="original"),
            TypeError,
            "forward_mean must be callable",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 4}, "k must be an integer >= 0 and <= 3"),
        ({"k": -1}, "k must be"),
        ({"gammas": [0.5, 0.4]}, r"gammas must sum to 1, got 0\.9"),
        ({"gammas": [1.5, -0.5]}, "gammas must be positive"),
        ({"gammas": [1.0]}, "at least 2 steps"),
        ({"epsilon": 0.0}, "epsilon must be"),
        ({"direction": "up"}, "direction must be one of"),
        ({"x_end": np.ones((1, 2))}, "x and x_end must have one shape"),
        ({"x": np.full((1, 1), np.nan)}, "x must be finite"),
    ],
)
def test_bad_posteriors_are_refused_by_name(change, message):
    options = {"x": np.ones((1, 1)), "x_end": np.ones((1, 1)), "k": 0, "gammas": GAMMAS}
    options |= {"epsilon": 1.0, "direction": "backward", **change}
    with pytest.raises(ValueError, match=message):
        terminal_posterior(**options)
