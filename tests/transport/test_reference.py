import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from thalweg.transport import BrownianReference, sample_neighbours

N = 40_000
SIGMAS = 4.5


def assert_moments(draws, mean, variance):
    """Sample mean and variance of N normal draws lie within 4.5 standard errors."""
    assert abs(draws.mean() - mean) <= SIGMAS * np.sqrt(variance / N)
    assert abs(draws.var() - variance) <= SIGMAS * variance * np.sqrt(2 / N)


def test_bridge_has_the_stated_mean_and_variance():
    x0, x1 = np.full((N, 1), -1.0), np.full((N, 1), 3.0)
    draws = BrownianReference(0.5).bridge(x0, x1, 0.25, rng=0)
    assert_moments(draws, 0.0, 0.5 * 0.25 * 0.75)


def test_bridge_takes_one_time_a_row():
    x0, x1 = np.zeros((3, 2)), np.ones((3, 2))
    ends = BrownianReference().bridge(x0, x1, np.array([0.0, 1.0, 0.0]), rng=0)
    np.testing.assert_array_equal(ends, [[0, 0], [1, 1], [0, 0]])


def test_step_from_a_later_time_has_the_stated_mean_and_variance():
    s, t, epsilon = 0.4, 0.7, 2.0
    xs, x1 = np.full((N, 1), 1.0), np.full((N, 1), 5.0)
    draws = BrownianReference(epsilon).bridge_step(xs, x1, s, t, rng=1)
    assert_moments(draws, 1 + 0.5 * 4, epsilon * (t - s) * (1 - t) / (1 - s))


def test_two_steps_have_the_law_of_one():
    reference, x0, x1 = BrownianReference(0.7), np.zeros((N, 1)), np.ones((N, 1))
    rng = np.random.default_rng(2)
    middle = reference.bridge(x0, x1, 0.3, rng)
    draws = reference.bridge_step(middle, x1, 0.3, 0.8, rng)
    assert_moments(draws, 0.8, 0.7 * 0.8 * 0.2)


def test_path_has_the_covariance_of_the_brownian_bridge():
    path = BrownianReference(3.0).bridge_path(
        np.zeros((N, 1)), np.zeros((N, 1)), [0, 0.25, 0.5, 1.0], rng=3
    )
    assert path.shape == (4, N, 1)
    np.testing.assert_array_equal(path[[0, 3]], 0.0)
    covariance = (path[1] * path[2]).mean()
    expected, variances = 3 * 0.25 * 0.5, 9 * (0.25 * 0.75) * (0.5 * 0.5)
    assert abs(covariance - expected) <= SIGMAS * np.sqrt((variances + expected**2) / N)


def test_drift_of_the_bridge_points_at_its_end():
    drift = BrownianReference().bridge_drift(np.zeros((2, 1)), np.ones((2, 1)), [0.0, 0.5])
    np.testing.assert_allclose(drift[:, 0], [1.0, 2.0])


@settings(max_examples=25, deadline=None)
@given(epsilon=st.floats(0.01, 10), dt=st.floats(0.01, 1), x=st.floats(-3, 3), y=st.floats(-3, 3))
def test_log_transition_is_the_gaussian_density(epsilon, dt, x, y):
    got = BrownianReference(epsilon).log_transition([[x, 0.5]], [[y, 0.5]], dt)
    scale = np.sqrt(epsilon * dt)
    expected = norm.logpdf(y, x, scale) + norm.logpdf(0.0, 0.0, scale)
    np.testing.assert_allclose(got, [expected], rtol=1e-10)


def test_seed_reproduces_the_draw():
    x = np.zeros((5, 2))
    reference = BrownianReference()
    np.testing.assert_array_equal(
        reference.bridge(x, x, 0.5, rng=7), reference.bridge(x, x, 0.5, rng=7)
    )


def test_tensors_give_tensors_with_the_same_law():
    torch = pytest.importorskip("torch")
    x0, x1 = torch.full((N, 1), -1.0), torch.full((N, 1), 3.0)
    reference = BrownianReference(0.5)
    draws = reference.bridge(x0, x1, torch.full((N,), 0.25), rng=0)
    assert draws.dtype == torch.float32
    assert_moments(draws.double().numpy(), 0.0, 0.5 * 0.25 * 0.75)
    path = reference.bridge_path(x0, x1, [0.5, 1.0], rng=0)
    assert path.shape == (2, N, 1)
    assert torch.equal(path[1], x1)
    expected = reference.log_transition(x0[:2].numpy(), x1[:2].numpy(), 0.5)
    np.testing.assert_allclose(reference.log_transition(x0[:2], x1[:2], 0.5), expected, rtol=1e-6)


def test_images_may_have_more_axes():
    x = np.zeros((4, 3, 5, 5))
    reference = BrownianReference()
    assert reference.bridge(x, x, np.full(4, 0.5), rng=0).shape == x.shape
    assert reference.log_transition(x, x, 1.0).shape == (4,)


@pytest.mark.parametrize("epsilon", [0, -1.0, np.nan, np.inf])
def test_epsilon_must_be_positive_and_finite(epsilon):
    with pytest.raises(ValueError, match="epsilon"):
        BrownianReference(epsilon)


@pytest.mark.parametrize(
    ("method", "arguments", "match"),
    [
        ("bridge", (1.5,), "t must be"),
        ("bridge", ([0.5, np.nan],), "t must be"),
        ("bridge", ([0.1, 0.2, 0.3],), "shape"),
        ("bridge_drift", (1.0,), "t must be"),
        ("bridge_step", (0.5, 0.5), "later than s"),
        ("bridge_step", (-0.1, 0.5), "s must be"),
        ("bridge_path", ([0.5, 0.4],), "times must increase"),
        ("bridge_path", ([],), "times must increase"),
        ("log_transition", (0.0,), "dt must be"),
    ],
)
def test_times_outside_their_range_are_refused(method, arguments, match):
    x = np.zeros((2, 2))
    with pytest.raises(ValueError, match=match):
        getattr(BrownianReference(), method)(x, x, *arguments)


def test_points_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="x0 and x1 must have one shape"):
        BrownianReference().bridge(np.zeros((2, 2)), np.zeros((3, 2)), 0.5)


@pytest.mark.parametrize("form", ["numpy", "torch"])
def test_neighbours_have_the_joint_law_of_the_bridge(form):
    """Cov(X_s, X_t) = (1-s)(1-t) S0 + s t S1 + ((1-s) t + s (1-t)) C + eps s (1-t), s <= t."""
    epsilon, times, C = 1.5, np.array([0.0, 0.3, 0.8, 1.0]), 0.4
    ends = np.random.default_rng(5).multivariate_normal([1, -1], [[1, C], [C, 2]], size=3 * N)
    x0, x1 = ends[:, :1], ends[:, 1:]
    if form == "torch":
        torch = pytest.importorskip("torch")
        x0, x1 = torch.from_numpy(x0.copy()), torch.from_numpy(x1.copy())
    drawn = sample_neighbours(x0, x1, times, epsilon, rng=6)
    index, x_now, x_next = (np.asarray(array) for array in drawn)
    for k in range(3):
        rows = index == k
        n = rows.sum()
        assert abs(n - N) <= SIGMAS * np.sqrt(3 * N * 2 / 9)
        s, t = times[k], times[k + 1]
        found = np.cov(x_now[rows, 0], x_next[rows, 0])

        def cov(s, t):
            mixed = (1 - s) * t + s * (1 - t)
            return (1 - s) * (1 - t) + 2 * s * t + mixed * C + epsilon * s * (1 - t)

        expected = np.array([[cov(s, s), cov(s, t)], [cov(s, t), cov(t, t)]])
        variances = np.diag(expected)
        spread = np.sqrt((np.outer(variances, variances) + expected**2) / n)
        assert (abs(found - expected) <= SIGMAS * spread).all()
        assert abs(x_next[rows].mean() - (1 - 2 * t)) <= SIGMAS * np.sqrt(cov(t, t) / n)


def test_neighbours_of_seeded_draws_repeat():
    x0, x1 = np.zeros((5, 2)), np.ones((5, 2))
    one, two = (sample_neighbours(x0, x1, [0, 0.4, 1], 1.0, rng=0) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("times", [[0, 1, 0.5], [0.1, 1], [0, 0.9], [0], [0, 0.5, 0.5, 1]])
def test_neighbours_need_times_from_zero_to_one(times):
    with pytest.raises(ValueError, match="times must increase strictly from 0 to 1"):
        sample_neighbours(np.zeros((2, 1)), np.ones((2, 1)), times, 1.0)


def test_neighbours_need_a_positive_epsilon_and_ends_of_one_shape():
    with pytest.raises(ValueError, match="epsilon must be"):
        sample_neighbours(np.zeros((2, 1)), np.ones((2, 1)), [0, 1], 0.0)
    with pytest.raises(ValueError, match="x0 and x1 must have one shape"):
        sample_neighbours(np.zeros((2, 1)), np.ones((3, 1)), [0, 1], 1.0)
