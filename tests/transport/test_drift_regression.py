import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern
from sklearn.linear_model import Ridge

from thalweg.transport import _drift_regression
from thalweg.transport._drift_regression import (
    FourierField,
    FourierRegression,
    ProcessRegression,
    _standardization,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def rows(rng):
    t, x = rng.uniform(2, 5, 200), rng.normal([3.0, -1.0], [2.0, 0.1], (200, 2))
    return t, x, np.column_stack([np.sin(x[:, 0]), t * x[:, 1]])


def standardized(t, x):
    z = np.column_stack([x, t])
    return (z - z.mean(0)) / z.std(0)


def test_coefficients_are_those_of_ridge_regression(rng, rows):
    field = FourierRegression(2, 30, 0.7, rng).fit(*rows)
    features = field.features(*rows[:2])
    expected = Ridge(0.7, fit_intercept=False, solver="svd").fit(features, rows[2])
    np.testing.assert_allclose(field(*rows[:2]), expected.predict(features), atol=1e-9)


def test_cosines_approximate_the_gaussian_kernel_of_standardized_points(rng, rows):
    """Monte Carlo over 20 000 frequencies: standard error at most 1 / sqrt(20 000)."""
    regression = FourierRegression(2, 20_000, 1.0, rng)
    field = FourierField(regression, *_standardization(rows[0][:40], rows[1][:40]))
    cosines = field.features(rows[0][:40], rows[1][:40])[:, :20_000]
    z = standardized(rows[0][:40], rows[1][:40])
    kernel = np.exp(-cdist(z, z, "sqeuclidean") / 2)
    np.testing.assert_allclose(cosines @ cosines.T, kernel, atol=6 / np.sqrt(20_000))


def test_other_features_are_the_standardized_coordinates_and_one(rng, rows):
    field = FourierRegression(2, 30, 1.0, rng).fit(*rows)
    rest = field.features(*rows[:2])[:, 30:]
    np.testing.assert_allclose(
        rest, np.column_stack([standardized(*rows[:2]), np.ones(200)]), atol=1e-9
    )


def test_origin_and_unit_of_time_and_place_do_not_matter(rows):
    t, x, velocity = rows
    here = FourierRegression(2, 30, 1.0, np.random.default_rng(1)).fit(t, x, velocity)
    there = FourierRegression(2, 30, 1.0, np.random.default_rng(1))
    there = there.fit(3 * t + 100, 0.1 * x - 7, velocity)
    np.testing.assert_allclose(there(3 * t + 100, 0.1 * x - 7), here(t, x), atol=1e-8)


def test_affine_velocities_are_learned_far_outside_the_rows(rng, rows):
    t, x, _ = rows
    field = FourierRegression(2, 50, 1e-6, rng).fit(t, x, 2 * x + 1)
    far = np.array([[30.0, -2.0]])
    np.testing.assert_allclose(field(3.0, far), 2 * far + 1, rtol=0.02)


@pytest.mark.parametrize("kind", ["rff", "gp"])
def test_one_time_for_all_is_the_same_as_the_time_of_each(rng, rows, kind):
    regression = (
        FourierRegression(2, 30, 1.0, rng) if kind == "rff" else ProcessRegression(1.0, rng)
    )
    field = regression.fit(*rows)
    x = rows[1][:7]
    np.testing.assert_allclose(field(3.3, x), field(np.full(7, 3.3), x), atol=1e-12)


def test_exact_process_agrees_with_scikit_learn(rng, rows):
    t, x, velocity = rows
    field = ProcessRegression(0.3, rng).fit(t, x, velocity)
    peer = GaussianProcessRegressor(Matern(1.0, nu=0.5), alpha=0.3, optimizer=None)
    z = standardized(t, x)
    peer.fit(z, velocity)
    np.testing.assert_allclose(field(t, x), peer.predict(z), atol=1e-8)


def test_exact_process_keeps_so_many_rows_at_most(rng, rows, monkeypatch):
    monkeypatch.setattr(_drift_regression, "MOST_GP_ROWS", 50)
    field = ProcessRegression(0.1, rng).fit(*rows)
    assert field.inputs.shape == (50, 3)


def test_a_coordinate_that_does_not_vary_is_no_trouble(rng):
    field = FourierRegression(1, 20, 1.0, rng).fit(
        np.zeros(9), np.ones((9, 1)), np.full((9, 1), 2.0)
    )
    assert field(0.0, np.ones((1, 1)))[0, 0] == pytest.approx(2, abs=0.2)
