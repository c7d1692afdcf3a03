import numpy as np
import pytest

from thalweg.transport import Interpolant, MixtureInterpolant, odeint, sdeint

PATHS = {
    "linear": Interpolant.linear(),
    "trig": Interpolant.trig("sine-squared"),
    "encoding-decoding": Interpolant.encoding_decoding(),
    "rectified": Interpolant.rectified(),
    "one-sided sqrt": Interpolant.one_sided("sqrt"),
}
WEIGHTS0, MEANS0 = [0.3, 0.7], np.array([[1.0, -0.5], [-1.0, 0.5]])
WEIGHTS1, MEANS1 = [0.2, 0.5, 0.3], np.array([[2.0, 0.0], [-1.0, 1.5], [0.0, -2.0]])
COVS0 = np.array([[[0.8, 0.2], [0.2, 0.5]], [[0.6, 0.0], [0.0, 1.0]]])
COVS1 = np.array([[[0.4, -0.1], [-0.1, 0.6]], [[0.3, 0.0], [0.0, 0.5]], [[0.7, 0.3], [0.3, 0.4]]])
TIMES = (0.15, 0.6, 0.85)
H = 1e-4


def pair(path):
    return MixtureInterpolant(WEIGHTS0, MEANS0, COVS0, WEIGHTS1, MEANS1, COVS1, path)


def gradient(f, x):
    return np.stack([(f(x + H * e) - f(x - H * e)) / (2 * H) for e in np.eye(x.shape[1])], axis=1)


POINTS = 1.5 * np.random.default_rng(0).normal(size=(30, 2))


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_score_is_the_gradient_of_the_log_density(path, t):
    mixture = pair(path)
    expected = gradient(lambda x: mixture.log_density(t, x), POINTS)
    np.testing.assert_allclose(mixture.score(t, POINTS), expected, atol=1e-5)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_velocity_carries_the_density(path, t):
    """d rho/dt + div(b rho) = 0, to the 1e-5 of central differences."""
    mixture = pair(path)
    change = (mixture.density(t + H, POINTS) - mixture.density(t - H, POINTS)) / (2 * H)
    flux = [
        gradient(lambda x, i=i: mixture.velocity(t, x)[:, i] * mixture.density(t, x), POINTS)[:, i]
        for i in range(2)
    ]
    np.testing.assert_allclose(change + sum(flux), 0, atol=1e-5)
    assert np.abs(change).max() > 1e-2


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_divergence_is_that_of_the_velocity(path):
    mixture = pair(path)
    for t in TIMES:
        slopes = gradient(lambda x, t=t: mixture.velocity(t, x), POINTS)
        expected = slopes[:, 0, 0] + slopes[:, 1, 1]
        np.testing.assert_allclose(mixture.divergence(t, POINTS), expected, atol=1e-5)


def test_velocity_in_one_dimension_is_the_regression_of_the_derivative_on_the_path():
    """4 sigma of the mean in each of 12 bins."""
    mixture = MixtureInterpolant(
        [1.0], [[0.0]], [[[1.0]]], [0.4, 0.6], [[-2.0], [1.5]], [[[0.3]], [[0.5]]]
    )
    rng, n, t = np.random.default_rng(0), 200_000, 0.3
    x0, x1 = mixture.sample_ends(n, rng=rng)
    z = rng.normal(size=x0.shape)
    x, slope = mixture.interpolant.sample(t, x0, x1, z)
    for target, field in ((slope, mixture.velocity), (z, mixture.denoiser)):
        excess = (target - field(t, x))[:, 0]
        bins = np.digitize(x[:, 0], np.quantile(x, np.linspace(0, 1, 13)[1:-1]))
        for b in range(12):
            inside = excess[bins == b]
            assert abs(inside.mean()) <= 4 * inside.std() / len(inside) ** 0.5


@pytest.mark.parametrize("path", [Interpolant.linear(a=0.7), Interpolant.trig()])
def test_velocity_without_noise_is_the_velocity_less_the_noise(path):
    """b = v - gamma gamma' s, v regressed in closed form for one Gaussian at each end."""
    C, D, n, t = COVS0[:1], COVS1[:1], MEANS1[:1], 0.4
    mixture = MixtureInterpolant([1.0], [[0.0, 0.0]], C, [1.0], n, D, path)
    c = path.coefficients(t)
    S = c["alpha"] ** 2 * C[0] + c["beta"] ** 2 * D[0] + c["gamma"] ** 2 * np.eye(2)
    cross = c["alpha"] * c["dalpha"] * C[0] + c["beta"] * c["dbeta"] * D[0]
    v = c["dbeta"] * n + np.linalg.solve(S, (POINTS - c["beta"] * n).T).T @ cross.T
    expected = v - c["gamma"] * c["dgamma"] * mixture.score(t, POINTS)
    np.testing.assert_allclose(mixture.velocity(t, POINTS), expected, atol=1e-12)


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_sde_keeps_mean_and_variance_of_the_path(epsilon):
    """4 sigma; 200 steps of weak order 2 add less."""
    mixture = MixtureInterpolant([1.0], [[1.0]], [[[0.5]]], [1.0], [[-1.0]], [[[2.0]]])
    n = 20_000

    def drift(t, x):
        velocity, score = mixture.fields(t, x)
        return velocity + epsilon * score

    x = mixture.sample(0.0, n, rng=0)
    path = sdeint(drift, x, (2 * epsilon) ** 0.5, method="stochastic-heun", rng=1, return_path=True)
    for k in (50, 120, 200):
        t = k / 200
        variance = (1 - t) ** 2 * 0.5 + t**2 * 2.0 + t * (1 - t)
        assert abs(path[k].mean() - (1 - 2 * t)) <= 4 * (variance / n) ** 0.5
        assert abs(path[k].var() / variance - 1) <= 4 * (2 / n) ** 0.5


def test_backward_sde_returns_to_the_start():
    mixture, n, epsilon = pair(PATHS["linear"]), 20_000, 0.5

    def drift(t, x):
        velocity, score = mixture.fields(t, x)
        return velocity - epsilon * score

    x = sdeint(drift, mixture.sample(1.0, n, rng=0), 1.0, t0=1.0, t1=0.0, n_steps=100, rng=1)
    fresh = mixture.sample(0.0, n, rng=2)
    assert np.abs(x.mean(0) - fresh.mean(0)).max() < 0.05
    assert np.abs(np.cov(x.T) - np.cov(fresh.T)).max() < 0.08


@pytest.mark.parametrize("path", ["linear", "trig", "rectified"])
def test_flow_there_and_back_returns_the_start(path):
    mixture = pair(PATHS[path])
    end = odeint(mixture.velocity, POINTS, n_steps=200, method="rk4")
    back = odeint(mixture.velocity, end, t0=1.0, t1=0.0, n_steps=200, method="rk4")
    np.testing.assert_allclose(back, POINTS, atol=1e-6 if path != "trig" else 1e-4)


def test_times_may_differ_by_row():
    mixture, times = pair(PATHS["trig"]), np.linspace(0.1, 0.9, len(POINTS))
    for field in (mixture.velocity, mixture.score, mixture.denoiser, mixture.divergence):
        rows = [field(t, x[None])[0] for t, x in zip(times, POINTS, strict=True)]
        np.testing.assert_allclose(field(times, POINTS), rows, atol=1e-12)


def test_fields_are_finite_at_the_ends_and_far_out():
    mixture = pair(PATHS["linear"])
    for t in (0.0, 1.0):
        for field in (mixture.velocity, mixture.score, mixture.divergence):
            assert np.isfinite(field(t, 1e3 * POINTS)).all()


def test_samples_have_the_moments_of_the_density():
    mixture, t = pair(PATHS["linear"]), 0.4
    x = mixture.sample(t, 40_000, rng=0)
    axis = np.linspace(-6, 6, 120)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    weights = mixture.density(t, grid) * (axis[1] - axis[0]) ** 2
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(x.mean(0), weights @ grid, atol=0.03)
    np.testing.assert_allclose(x.T @ x / len(x), (weights[:, None] * grid).T @ grid, atol=0.05)


def test_mirror_blurs_one_law():
    mirror = MixtureInterpolant(
        WEIGHTS1, MEANS1, COVS1, WEIGHTS1, MEANS1, COVS1, Interpolant.mirror()
    )
    score = gradient(lambda x: mirror.log_density(0.3, x), POINTS)
    np.testing.assert_allclose(mirror.score(0.3, POINTS), score, atol=1e-5)
    np.testing.assert_allclose(mirror.velocity(0.3, POINTS), -0.2 * score, atol=1e-5)
    x0, x1 = mirror.sample_ends(5, rng=0)
    np.testing.assert_array_equal(x0, x1)


ONE = ([1.0], [[0.0]], [[[1.0]]])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([0.5], *ONE[1:], *ONE), "weights0 must be positive and sum to 1"),
        ((*ONE, [1.0], [[0.0, 0.0]], [np.eye(2)]), "same number of columns"),
        ((*ONE, [1.0], [[0.0]], [[[0.0]]]), "covs1 must be positive definite"),
        ((*ONE, [1.0], [[0.0]], [[[np.nan]]]), "covs1 must be finite"),
        (([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.0, 1.0]]], *ONE), "covs0 must be symmetric"),
        ((*ONE, [1.0], [[1.0]], [[[1.0]]], Interpolant.mirror()), "same mixture"),
    ],
)
def test_bad_mixtures_are_refused_by_name(arguments, match):
    with pytest.raises(ValueError, match=match):
        MixtureInterpolant(*arguments)


def test_bad_points_and_times_are_refused_by_name():
    mixture = pair(PATHS["one-sided sqrt"])
    with pytest.raises(ValueError, match="t must be"):
        mixture.velocity(1.1, POINTS)
    with pytest.raises(ValueError, match="x must have shape"):
        mixture.velocity(0.5, POINTS[:, :1])
    with pytest.raises(ValueError, match="singular"):
        mixture.velocity(1.0, POINTS)
    with pytest.raises(TypeError, match="interpolant must be"):
        MixtureInterpolant(*ONE, *ONE, "linear")
