import pickle

import numpy as np
import pytest
from sklearn.base import clone

torch = pytest.importorskip("torch")

from thalweg.transport import (  # noqa: E402
    BridgeInterpolant,
    gaussian_bridge_marginal,
    gaussian_eot,
)
from thalweg.transport._gaussian_path import GaussianPath  # noqa: E402
from thalweg.transport._path_game import PathGame  # noqa: E402

EPSILON = 0.3
M0, M1 = np.array([0.0, 1.0]), np.array([1.5, -0.5])
S0 = np.array([[1.0, 0.3], [0.3, 0.6]])
S1 = np.array([[0.5, -0.2], [-0.2, 1.2]])
TIMES = np.array([0.1, 0.35, 0.5, 0.8])


def exact_sample(mean, cov, n, rng):
    x = rng.normal(size=(n, 2))
    x -= x.mean(0)
    return (
        mean + np.linalg.solve(np.linalg.cholesky(np.cov(x.T)), x.T).T @ np.linalg.cholesky(cov).T
    )


def clouds(n=5000):
    rng = np.random.default_rng(0)
    return exact_sample(M0, S0, n, rng), exact_sample(M1, S1, n, rng)


@pytest.fixture(scope="module")
def gaussian():
    return BridgeInterpolant(EPSILON, kind="gaussian", rng=0).fit(*clouds())


@pytest.fixture(scope="module")
def network():
    return BridgeInterpolant(
        EPSILON, hidden=(32,), n_steps=400, batch_size=512, lr=2e-2, rng=0
    ).fit(*clouds())


def exact_drift(t, x):
    """Drift of the bridge of Gaussians: regression of X_1 on X_t, and then a Brownian bridge."""
    across, _, _ = gaussian_eot(M0, S0, M1, S1, 2 * EPSILON)
    mean, cov = gaussian_bridge_marginal(M0, S0, M1, S1, 2 * EPSILON, t)
    with_end = (1 - t) * across + t * S1
    end = M1 + np.linalg.solve(cov, (x - mean).T).T @ with_end
    return (end - x) / (1 - t)


POINTS = np.random.default_rng(1).normal(size=(40, 2))


@pytest.mark.parametrize("t", TIMES)
def test_schedules_find_the_bridge_of_gaussians(gaussian, t):
    mean, cov = gaussian_bridge_marginal(M0, S0, M1, S1, 2 * EPSILON, t)
    found_mean, found_cov, _ = gaussian.path_.moments(np.array([t]))
    np.testing.assert_allclose(found_mean[0], mean, atol=1e-10)
    np.testing.assert_allclose(found_cov[0], cov, atol=1e-4)
    np.testing.assert_allclose(gaussian.drift(t, POINTS), exact_drift(t, POINTS), atol=1e-3)
    score = -np.linalg.solve(cov, (POINTS - mean).T).T
    np.testing.assert_allclose(gaussian.score(t, POINTS), score, atol=1e-3)
    np.testing.assert_allclose(
        gaussian.velocity(t, POINTS), exact_drift(t, POINTS) - EPSILON * score, atol=1e-3
    )


def test_energy_is_that_of_the_exact_drift_and_falls_from_the_linear_path(gaussian):
    linear = GaussianPath(M0, S0, M1, S1, EPSILON, np.zeros((2, 1, 2, 2)))
    assert (np.diff(gaussian.losses_) <= 1e-12).all()
    assert gaussian.losses_[-1] == pytest.approx(gaussian.energy_)
    assert gaussian.energy_ < 0.95 * linear.energy()
    rng, rows = np.random.default_rng(2), []
    for t in (np.arange(200) + 0.5) / 200:
        mean, cov = gaussian_bridge_marginal(M0, S0, M1, S1, 2 * EPSILON, t)
        x = exact_sample(mean, cov, 200, rng)
        rows.append(0.5 * (exact_drift(t, x) ** 2).sum(1).mean())
    assert gaussian.energy_ == pytest.approx(np.mean(rows), rel=5e-3)


def test_energy_of_the_linear_path_is_that_of_sampled_regressions():
    """u = E[dI + (gamma' - epsilon / gamma) z | x_t] by least squares on draws."""
    linear = GaussianPath(M0, S0, M1, S1, EPSILON, np.zeros((2, 1, 2, 2)))
    rng, t, n = np.random.default_rng(3), 0.7, 200_000
    x0, x1 = (exact_sample(m, S, n, rng) for m, S in ((M0, S0), (M1, S1)))
    z = rng.normal(size=x0.shape)
    gamma = np.sqrt(2 * EPSILON * t * (1 - t))
    slope = EPSILON * (1 - 2 * t) / gamma
    x = (1 - t) * x0 + t * x1 + gamma * z
    target = x1 - x0 + (slope - EPSILON / gamma) * z
    design = np.c_[np.ones(n), x]
    fit = np.linalg.lstsq(design, target, rcond=None)[0]
    np.testing.assert_allclose(
        linear.fields(np.array([t]), x[:50])[0], design[:50] @ fit, atol=0.04
    )


def test_derivatives_of_the_schedules_are_right(gaussian):
    h = 1e-6
    later, earlier = (gaussian.path_.schedules(TIMES + s) for s in (h, -h))
    _, _, dA, dB = gaussian.path_.schedules(TIMES)
    np.testing.assert_allclose(dA, (later[0] - earlier[0]) / (2 * h), atol=1e-6)
    np.testing.assert_allclose(dB, (later[1] - earlier[1]) / (2 * h), atol=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "network"])
def test_maps_and_paths_have_the_laws_of_the_bridge(kind, request):
    model, (X, Y) = request.getfixturevalue(kind), clouds()
    tight = 0.05 if kind == "gaussian" else 0.2
    for found, mean, cov in (
        (model.transform(X, n_steps=50, rng=1), M1, S1),
        (model.inverse_transform(Y, n_steps=50, rng=1), M0, S0),
        (
            model.sample(0.5, X, Y, rng=1),
            *gaussian_bridge_marginal(M0, S0, M1, S1, 2 * EPSILON, 0.5),
        ),
        (
            model.sample_path(X, 50, rng=1)[25],
            *gaussian_bridge_marginal(M0, S0, M1, S1, 2 * EPSILON, 0.5),
        ),
    ):
        assert np.abs(found.mean(0) - mean).max() < tight
        assert np.linalg.norm(np.cov(found.T) - cov) < tight * np.linalg.norm(cov)


def test_networks_find_the_energy_and_the_variance(gaussian, network):
    assert network.energy_ == pytest.approx(gaussian.energy_, rel=0.1)
    X, Y = clouds()
    _, cov = gaussian_bridge_marginal(M0, S0, M1, S1, 2 * EPSILON, 0.5)
    variance = network.sample(0.5, X, Y, rng=1).var(0).sum()
    assert variance == pytest.approx(np.trace(cov), rel=0.1)
    linear = (np.trace(S0) + np.trace(S1)) / 4 + EPSILON
    assert abs(linear / np.trace(cov) - 1) > 0.2


def test_learned_drift_and_score_are_those_of_the_bridge(network):
    for t in (0.2, 0.5, 0.8):
        mean, cov = gaussian_bridge_marginal(M0, S0, M1, S1, 2 * EPSILON, t)
        x = exact_sample(mean, cov, 1000, np.random.default_rng(4))
        score = -np.linalg.solve(cov, (x - mean).T).T
        drift = exact_drift(t, x)
        assert np.linalg.norm(network.drift(t, x) - drift) < 0.2 * np.linalg.norm(drift)
        assert np.linalg.norm(network.score(t, x) - score) < 0.4 * np.linalg.norm(score)


def test_value_of_the_game_is_minus_the_energy_at_the_exact_drift():
    """Linear path, scalar case, drift in closed form; 4 sigma."""
    epsilon, v0, v1 = 0.4, 1.0, 0.25

    def drift(t, x):
        column = t.reshape(-1, 1)
        cov = (1 - column) ** 2 * v0 + column**2 * v1 + 2 * epsilon * column * (1 - column)
        return (-(1 - column) * v0 + column * v1 - 2 * epsilon * column) / cov * x

    zero = np.zeros(1)
    game = PathGame(
        lambda t, x, c: 0 * x, drift, lambda t, x: 0 * x, zero, zero, 1.0, epsilon, 1e-3
    )
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(50_000, 1, generator=generator)
    x1 = 0.5 * torch.randn(50_000, 1, generator=generator)
    values = [float(game.values(x0, x1, 2000, generator)[0]) for _ in range(50)]
    path = GaussianPath(zero, np.eye(1) * v0, zero, np.eye(1) * v1, epsilon, np.zeros((2, 1, 1, 1)))
    assert abs(np.mean(values) + path.energy()) <= 4 * np.std(values) / 50**0.5 + 1e-3
    assert np.std(values) / 50**0.5 < 0.01
    found = game.energy(x0, x1, 100_000, generator)
    assert found == pytest.approx(path.energy(), rel=0.05)


def test_path_derivative_is_that_of_the_path():
    game = PathGame(
        lambda t, x, c: torch.sin(3 * t)[:, None] * x + c,
        None,
        None,
        np.zeros(1),
        np.zeros(1),
        1.0,
        0.5,
        1e-3,
    )
    x = torch.tensor([[0.7]])
    y = torch.tensor([[-1.2]])
    generator = torch.Generator().manual_seed(0)
    t, middle, slope, _ = game._draw(x, y, 500, generator, True)
    f, df = torch.sin(3 * t) * 0.7 - 1.2, 3 * torch.cos(3 * t) * 0.7
    expected = (1 - t) * 0.7 - 1.2 * t + t * (1 - t) * f
    np.testing.assert_allclose(middle[:, 0], expected, atol=1e-4)
    np.testing.assert_allclose(slope[:, 0], -1.9 + (1 - 2 * t) * f + t * (1 - t) * df, atol=1e-3)


def test_learned_fields_are_given_in_the_unit_of_the_data():
    """Unit drift and denoiser inside are a scale and one over gamma outside."""
    zero, scale, t = np.zeros(1), 3.0, 0.2
    game = PathGame(
        torch.nn.Linear(1, 1),
        lambda t, x: torch.ones_like(x),
        lambda t, x: torch.ones_like(x),
        zero,
        zero + 2,
        scale,
        EPSILON,
        1e-3,
    )
    drift, score = game.fields(np.array([t]), np.zeros((1, 1)))
    assert drift[0, 0] == pytest.approx(2 + scale)
    assert score[0, 0] == pytest.approx(-1 / np.sqrt(2 * EPSILON * t * (1 - t)))


def test_sampled_path_starts_and_ends_in_its_ends(network, gaussian):
    X, Y = (Z[:10] for Z in clouds())
    for model in (network, gaussian):
        np.testing.assert_allclose(model.sample(0.0, X, Y), X, atol=1e-5)
        np.testing.assert_allclose(model.sample(1.0, X, Y), Y, atol=1e-5)
        np.testing.assert_array_equal(model.sample_path(X, 5)[0], X)


def test_times_may_differ_by_row(network, gaussian):
    times = np.linspace(0, 1, len(POINTS))
    for model in (network, gaussian):
        for field in (model.drift, model.score, model.velocity):
            rows = [field(t, x[None])[0] for t, x in zip(times, POINTS, strict=True)]
            np.testing.assert_allclose(field(times, POINTS), rows, atol=1e-3)


def test_interrupted_fit_goes_on(tmp_path):
    X, Y = clouds(200)
    options = {"hidden": (8,), "n_steps": 8, "batch_size": 16, "rng": 0}

    def stop(state):
        if state.step == 3:
            raise KeyboardInterrupt

    kept = {**options, "checkpoint": tmp_path / "run.pt"}
    with pytest.raises(KeyboardInterrupt):
        BridgeInterpolant(callback=stop, **kept).fit(X, Y)
    resumed, plain = BridgeInterpolant(**kept).fit(X, Y), BridgeInterpolant(**options).fit(X, Y)
    np.testing.assert_array_equal(resumed.losses_, plain.losses_)
    assert resumed.energy_ == plain.energy_


def test_estimator_can_be_cloned_and_pickled(network):
    again = pickle.loads(pickle.dumps(network))
    np.testing.assert_array_equal(again.drift(0.3, POINTS), network.drift(0.3, POINTS))
    assert clone(network).kind == "network"


X2, Y2 = np.random.default_rng(0).normal(size=(2, 20, 2))


@pytest.mark.parametrize(
    ("options", "X", "Y", "match"),
    [
        ({}, X2, Y2[:, :1], "same number of columns"),
        ({}, np.full_like(X2, np.inf), Y2, "X must be finite"),
        ({"epsilon": 0.0}, X2, Y2, "epsilon must be"),
        ({"kind": "spline"}, X2, Y2, "kind must be one of"),
        ({"inner_steps": 0}, X2, Y2, "inner_steps must be"),
        ({"kind": "gaussian"}, X2[:2], Y2, r"cov\(X\) must be positive definite"),
        ({"kind": "gaussian"}, X2[:1], Y2, "at least 2 rows"),
    ],
)
def test_bad_input_is_refused_by_name(options, X, Y, match):
    with pytest.raises(ValueError, match=match):
        BridgeInterpolant(**options).fit(X, Y)


def test_bad_calls_are_refused_by_name(gaussian):
    for call, match in (
        (lambda: gaussian.drift(1.2, X2), "t must be"),
        (lambda: gaussian.drift(np.zeros(3), X2), "t must be a number"),
        (lambda: gaussian.transform(X2[:, :1]), "X must have shape"),
        (lambda: gaussian.sample(0.5, X2, Y2[:3]), "Y must have shape"),
        (lambda: gaussian.sample_path(X2, direction="up"), "direction must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(TypeError, match="Y must be"):
        BridgeInterpolant().fit(X2, None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fit_on_the_device():
    X, Y = clouds()
    model = BridgeInterpolant(EPSILON, hidden=(32,), n_steps=50, device="cuda", rng=0).fit(X, Y)
    assert np.isfinite(model.transform(X[:10], rng=1)).all()
