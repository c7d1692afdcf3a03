import pickle

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.base import clone

from thalweg.transport import LightSB, gaussian_mixture_pair
from thalweg.transport._light_bridge_training import DiagonalObjective, FullObjective
from thalweg.transport._mixture_potential import MixturePotential


def spd(rng, K, d):
    A = rng.normal(size=(K, d, d))
    return A @ A.swapaxes(1, 2) / d + 0.3 * np.eye(d)


def fitted(log_weights, locations, scales, epsilon):
    """A model with these learned parameters."""
    model = LightSB(epsilon, len(locations))
    model.log_weights_, model.locations_ = np.asarray(log_weights), np.asarray(locations)
    model.scales_, model.n_features_in_ = np.asarray(scales), np.shape(locations)[1]
    return model


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def full_model(rng):
    return fitted(rng.normal(size=3), rng.normal(size=(3, 2)), spd(rng, 3, 2), 0.5)


@pytest.fixture
def line_model(rng):
    return fitted(rng.normal(size=3), rng.normal(size=(3, 1)), rng.uniform(0.3, 2, (3, 1)), 0.4)


GRID = np.linspace(-25, 25, 20_001)


def log_line_potential(model, y):
    widths = np.sqrt(model.epsilon * model.scales_[:, 0])
    densities = norm.logpdf(y[:, None], model.locations_[:, 0], widths)
    return logsumexp(densities + model.log_weights_, axis=1)


def log_integral(log_values):
    largest = log_values.max(axis=1, keepdims=True)
    return np.log(np.trapezoid(np.exp(log_values - largest), GRID, axis=1)) + largest[:, 0]


def test_potential_and_normalizer_agree_with_quadrature(line_model):
    x = np.array([-1.5, 0.2, 2.0])
    expected = log_integral(x[:, None] * GRID / 0.4 + log_line_potential(line_model, GRID))
    np.testing.assert_allclose(line_model.log_normalizer(x[:, None]), expected, rtol=1e-8)
    y = np.array([-1.0, 0.3])
    np.testing.assert_allclose(
        line_model.log_potential(y[:, None]), log_line_potential(line_model, y), rtol=1e-10
    )


@pytest.mark.parametrize("t", [0.0, 0.3, 0.9])
def test_drift_is_the_gradient_of_the_log_heat_flow(line_model, t):
    """epsilon d/dx log int N(y; x, eps (1-t)) exp(y^2 / 2 eps) v(y) dy by quadrature."""
    eps, h = line_model.epsilon, 1e-4
    log_tilted = GRID**2 / (2 * eps) + log_line_potential(line_model, GRID)

    def log_flow(x):
        return log_integral(norm.logpdf(GRID, x[:, None], np.sqrt(eps * (1 - t))) + log_tilted)

    x = np.array([-1.0, 0.1, 1.5])
    numerical = eps * (log_flow(x + h) - log_flow(x - h)) / (2 * h)
    np.testing.assert_allclose(line_model.drift(x[:, None], t)[:, 0], numerical, atol=1e-6)


def test_drift_takes_one_time_a_row(full_model, rng):
    X = rng.normal(size=(3, 2))
    together = full_model.drift(X, [0.2, 0.7, 0.2])
    np.testing.assert_allclose(together[1], full_model.drift(X, 0.7)[1])
    np.testing.assert_allclose(together[2], full_model.drift(X, 0.2)[2])


def test_diagonal_form_equals_the_full_form(rng):
    K, d = 4, 3
    log_a, r, diagonal = rng.normal(size=K), rng.normal(size=(K, d)), rng.uniform(0.2, 2, (K, d))
    diag = fitted(log_a, r, diagonal, 0.3)
    full = fitted(log_a, r, diagonal[:, :, None] * np.eye(d), 0.3)
    X = rng.normal(size=(6, d))
    for method in ("log_potential", "log_normalizer"):
        np.testing.assert_allclose(getattr(diag, method)(X), getattr(full, method)(X), rtol=1e-10)
    for one, other in zip(diag.conditional_moments(X), full.conditional_moments(X), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(diag.drift(X, 0.6), full.drift(X, 0.6), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("form", [DiagonalObjective, FullObjective])
def test_gradients_agree_with_central_differences(rng, form):
    K, d = 3, 2
    scales = rng.uniform(0.4, 2, (K, d)) if form is DiagonalObjective else spd(rng, K, d)
    potential = MixturePotential(rng.normal(size=K), rng.normal(size=(K, d)), scales, 0.5)
    objective = form(potential)
    X, Y = rng.normal(size=(20, d)), rng.normal(1.0, 1.0, size=(15, d))
    fx, fy = objective.features(X), objective.features(Y)

    def loss_at(theta):
        moved = objective.potential(theta)
        return moved.log_normalizer(X).mean() - moved.log_potential(Y).mean()

    theta, h = objective.start, 1e-5
    loss, gradient = objective.loss_and_gradient(theta, fx, fy)
    numerical = [
        (loss_at(theta + h * e) - loss_at(theta - h * e)) / (2 * h) for e in np.eye(len(theta))
    ]
    np.testing.assert_allclose(gradient, numerical, rtol=1e-5, atol=1e-6)
    assert np.abs(gradient).max() > 0.1
    assert loss == pytest.approx(loss_at(theta), rel=1e-6)


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_one_component_between_gaussians_is_the_closed_form_plan(rng, covariance):
    """Cov(x, y) = (C0^(1/2) D C0^(-1/2) - eps I) / 2, D^2 = 4 C0^(1/2) C1 C0^(1/2) + eps^2 I."""
    eps, n, d = 0.7, 2000, 2
    C0, C1 = np.diag([1.5, 0.4]), np.diag([0.6, 2.0])
    if covariance == "full":
        C0, C1 = np.array([[1.5, 0.4], [0.4, 0.7]]), np.array([[0.8, -0.5], [-0.5, 1.5]])
    clouds = []
    for mean, C in (([1.0, -2.0], C0), ([-3.0, 0.5], C1)):
        Z = rng.normal(size=(n, d))
        Z -= Z.mean(0)
        Z = Z @ np.linalg.inv(np.linalg.cholesky(Z.T @ Z / n)).T
        clouds.append(np.array(mean) + Z @ np.linalg.cholesky(C).T)
    root = sqrtm(C0).real
    D = sqrtm(4 * root @ C1 @ root + eps**2 * np.eye(d)).real
    expected = (root @ D @ np.linalg.inv(root) - eps * np.eye(d)) / 2
    model = LightSB(eps, 1, covariance=covariance, n_steps=600, batch_size=1000, rng=0)
    model.fit(*clouds)
    mean, _ = model.conditional_moments(clouds[0])
    cross = (clouds[0] - clouds[0].mean(0)).T @ mean / n
    assert np.abs(cross - expected).max() <= 0.02 * np.abs(expected).max()
    np.testing.assert_allclose(mean.mean(0), [-3.0, 0.5], atol=0.05)


def test_a_known_plan_is_recovered():
    """The divergence from the true plan, on fresh points, against about 12 nats before the fit."""
    pair = gaussian_mixture_pair(2, 0.5, n_components=3, rng=0)
    X, Y = pair.sample_source(20_000, 1), pair.sample_target(20_000, 2)
    model = LightSB(0.5, 12, covariance="full", n_steps=500, rng=0).fit(X, Y)
    fresh = pair.sample_source(20_000, 3), pair.sample_target(20_000, 4)
    assert model.kl_gap(*fresh, pair) <= 0.03
    assert model.score(*fresh) == -model.loss(*fresh)


def test_moving_the_clouds_moves_the_plan(rng):
    X, Y = rng.normal(size=(200, 2)), rng.normal(2.0, 1.0, size=(150, 2))
    a, b = np.array([30.0, -10.0]), np.array([5.0, 70.0])
    fits = [LightSB(0.5, 4, n_steps=40, rng=0).fit(X + i * a, Y + i * b) for i in (0, 1)]
    mean, cov = fits[0].conditional_moments(X)
    moved_mean, moved_cov = fits[1].conditional_moments(X + a)
    np.testing.assert_allclose(moved_mean, mean + b, rtol=1e-8)
    np.testing.assert_allclose(moved_cov, cov, rtol=1e-6, atol=1e-9)


def test_loss_curve_is_the_loss_of_the_model(rng):
    """With batches of all rows in expectation: 5 standard errors of the last 30 batches."""
    X, Y = rng.normal(3.0, 1.0, size=(300, 2)), rng.normal(-4.0, 1.0, size=(300, 2))
    model = LightSB(0.5, 4, n_steps=200, learning_rate=1e-9, rng=0).fit(X, Y)
    curve = model.loss_curve_
    assert abs(curve.mean() - model.loss(X, Y)) <= 5 * curve.std() / np.sqrt(len(curve))


def test_scaling_the_weights_changes_nothing(full_model, rng):
    X, Y = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    before = full_model.drift(X, 0.4), full_model.transform(X, rng=0), full_model.loss(X, Y)
    full_model.log_weights_ = full_model.log_weights_ + 7.0
    after = full_model.drift(X, 0.4), full_model.transform(X, rng=0), full_model.loss(X, Y)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_draws_have_the_conditional_moments(full_model):
    """4.5 standard errors of 40 000 draws; fourth moments up to thrice a normal's."""
    n, x = 40_000, np.array([[0.7, -0.4]])
    draws = full_model.sample(x, n, rng=0)[:, 0]
    mean, cov = (moment[0] for moment in full_model.conditional_moments(x))
    deviation = np.sqrt(np.diag(cov))
    assert (np.abs(draws.mean(0) - mean) <= 4.5 * deviation / np.sqrt(n)).all()
    error = np.abs(np.cov(draws.T) - cov) / np.outer(deviation, deviation)
    assert (error <= 4.5 * np.sqrt(6 / n)).all()
    weights, means, covariances = full_model.conditional_mixture(x)
    np.testing.assert_allclose(weights @ means[0], [mean])
    centred = means[0] - mean
    total = np.tensordot(weights[0], covariances, 1) + (weights[0] * centred.T) @ centred
    np.testing.assert_allclose(total, cov)


def test_bridge_has_the_moments_of_the_process(full_model):
    """Mean (1-t) x + t m, covariance t^2 C + eps t (1-t) I."""
    n, t, x = 40_000, 0.3, np.array([0.7, -0.4])
    draws = full_model.bridge(np.tile(x, (n, 1)), t, rng=0)
    mean, cov = (moment[0] for moment in full_model.conditional_moments([x]))
    cov = t**2 * cov + full_model.epsilon * t * (1 - t) * np.eye(2)
    deviation = np.sqrt(np.diag(cov))
    expected = (1 - t) * x + t * mean
    assert (np.abs(draws.mean(0) - expected) <= 4.5 * deviation / np.sqrt(n)).all()
    error = np.abs(np.cov(draws.T) - cov) / np.outer(deviation, deviation)
    assert (error <= 4.5 * np.sqrt(6 / n)).all()


def test_simulated_paths_end_with_the_conditional_moments(full_model):
    """Monte-Carlo error of 2000 paths (4 sigma) and 1 % for a step of 1/1000."""
    n, x = 2000, np.array([0.7, -0.4])
    path = full_model.sample_path(np.tile(x, (n, 1)), 1000, rng=1)
    assert path.shape == (1001, n, 2)
    mean, cov = (moment[0] for moment in full_model.conditional_moments([x]))
    deviation = np.sqrt(np.diag(cov))
    bound = 4 / np.sqrt(n) + 0.01
    assert (np.abs(path[-1].mean(0) - mean) <= bound * deviation).all()
    error = np.abs(np.cov(path[-1].T) - cov) / np.outer(deviation, deviation)
    assert (error <= 4 * np.sqrt(6 / n) + 0.01).all()


def test_true_parameters_have_the_least_loss_along_random_directions(rng):
    pair = gaussian_mixture_pair(2, 1.0, n_components=3, rng=0)
    X, Y = pair.sample_source(20_000, 1), pair.sample_target(20_000, 2)
    factors = np.linalg.cholesky(pair.scales)
    least = pair.loss(X, Y)
    for _ in range(20):
        moved = factors + 0.3 * np.tril(rng.normal(size=factors.shape))
        other = fitted(
            pair.log_weights + 0.3 * rng.normal(size=3),
            pair.locations + 0.3 * rng.normal(size=(3, 2)),
            moved @ moved.swapaxes(1, 2) + 1e-3 * np.eye(2),
            1.0,
        )
        assert other.loss(X, Y) > least


@pytest.mark.parametrize("init", ["samples", "kmeans"])
def test_start_lies_in_the_target(rng, init):
    X, Y = rng.normal(size=(50, 2)), rng.normal([40.0, -20.0], 1.0, size=(60, 2))
    model = LightSB(1.0, 5, init=init, n_steps=1, learning_rate=1e-9, rng=0).fit(X, Y)
    centres = model.conditional_mixture(X.mean(0, keepdims=True))[1][0]
    assert np.abs(centres - [40, -20]).max() <= 4.0


def test_given_start_is_the_start(rng):
    start = rng.normal(size=(3, 2))
    X, Y = rng.normal(5.0, 1.0, size=(50, 2)), rng.normal(size=(60, 2))
    model = LightSB(1.0, 3, init=start, scale_init=0.7, n_steps=1, learning_rate=1e-12, rng=0)
    model.fit(X, Y)
    np.testing.assert_allclose(model.locations_, start, atol=1e-8)
    np.testing.assert_allclose(model.scales_, 0.7)


def test_constant_rate_moves_further_than_a_decaying_one(rng):
    """Adam's steps are at most about the rate: 100 of them, or half as much by the cosine."""
    X, Y = rng.normal(size=(100, 1)), rng.normal(size=(100, 1))
    start = np.full((1, 1), 50.0)
    moved = [
        50 - LightSB(1.0, 1, init=start, schedule=s, n_steps=100, rng=0).fit(X, Y).locations_[0, 0]
        for s in ("constant", "cosine")
    ]
    assert 0.75 * 100 * 2e-2 <= moved[0] <= 100 * 2e-2
    assert 0.45 <= moved[1] / moved[0] <= 0.65


def test_first_step_of_the_weights_is_the_rate_over_epsilon(rng):
    """Adam's first step is the rate in each entry; two log-weights have opposite gradients."""
    X, Y = rng.normal(size=(100, 2)), rng.normal(size=(90, 2))
    model = LightSB(0.1, 2, n_steps=1, learning_rate=1e-3, rng=0)
    model.fit(X - X.mean(0), Y - Y.mean(0))
    assert abs(np.diff(model.log_weights_))[0] == pytest.approx(2 * 1e-3 / 0.1, rel=1e-4)


def test_fit_stops_when_the_loss_no_longer_falls(rng):
    X, Y = rng.normal(size=(300, 1)), rng.normal(size=(300, 1))
    model = LightSB(1.0, 1, n_steps=5000, tol=1e-3, rng=0).fit(X, Y)
    assert len(model.loss_curve_) % 100 == 0
    assert 200 <= len(model.loss_curve_) < 5000


def test_callback_sees_each_step_and_can_end_the_fit(rng):
    seen = []

    def callback(state):
        seen.append((state.step, state.loss))
        if state.step == 7:
            raise StopIteration

    X = rng.normal(size=(30, 1))
    model = LightSB(1.0, 2, callback=callback, rng=0).fit(X, X)
    assert [step for step, _ in seen] == list(range(1, 8))
    np.testing.assert_array_equal(model.loss_curve_, [loss for _, loss in seen])


def test_seed_reproduces_fit_and_draws(rng):
    X, Y = rng.normal(size=(50, 2)), rng.normal(size=(40, 2))
    one, other = (LightSB(0.5, 3, n_steps=20, rng=3).fit(X, Y) for _ in range(2))
    np.testing.assert_array_equal(one.locations_, other.locations_)
    np.testing.assert_array_equal(one.transform(X), other.transform(X))
    assert not np.array_equal(one.transform(X, rng=1), one.transform(X, rng=2))


def test_parameters_are_those_of_an_estimator(rng):
    model = LightSB(0.3, 7, covariance="full", tol=0.1, rng=5)
    assert clone(model).get_params() == model.get_params()
    X, Y = rng.normal(size=(30, 2)), rng.normal(size=(30, 2))
    copy = pickle.loads(pickle.dumps(model.fit(X, Y)))
    np.testing.assert_array_equal(copy.transform(X, rng=0), model.transform(X, rng=0))
    np.testing.assert_array_equal(model.fit_transform(X, Y), model.transform(X))


def test_loss_outside_the_finite_numbers_stops_the_fit_with_advice(rng):
    X, Y = 1e160 * rng.normal(size=(30, 2)), rng.normal(size=(30, 2))
    with pytest.raises(FloatingPointError, match=r"step 0 with epsilon=0\.1; scale the data"):
        LightSB(0.1, 3, rng=0).fit(X, Y)


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"epsilon": 0}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"n_components": 0}, "n_components"),
        ({"n_components": 31}, "n_components must be at most"),
        ({"init": np.zeros((2, 2))}, "init must have shape"),
        ({"init": "zeros"}, "init must be one of"),
        ({"covariance": "tied"}, "covariance must be one of"),
        ({"schedule": "step"}, "schedule must be one of"),
        ({"scale_init": 0}, "scale_init"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"n_steps": 0}, "n_steps"),
    ],
)
def test_bad_parameters_are_refused_by_name(parameters, match):
    X = np.zeros((30, 2))
    with pytest.raises(ValueError, match=match):
        LightSB(**({"n_components": 3} | parameters)).fit(X, X)


def test_bad_clouds_are_refused():
    X = np.zeros((30, 2))
    model = LightSB(n_components=3)
    with pytest.raises(TypeError):
        model.fit(X)
    with pytest.raises(TypeError, match="Y must be"):
        model.fit(X, None)
    with pytest.raises(ValueError, match="same number of columns"):
        model.fit(X, X[:, :1])
    with pytest.raises(ValueError, match="Y must be finite"):
        model.fit(X, X + np.nan)


@pytest.mark.parametrize("t", [1.0, -0.1, np.nan])
def test_drift_outside_its_times_is_refused(full_model, t):
    with pytest.raises(ValueError, match="t must be"):
        full_model.drift(np.zeros((2, 2)), t)


def test_points_of_another_dimension_are_refused(full_model):
    with pytest.raises(ValueError, match="X must have shape"):
        full_model.transform(np.zeros((2, 3)))
