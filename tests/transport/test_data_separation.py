from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial.hermite_e import hermegauss
from scipy.integrate import quad
from scipy.special import softmax
from scipy.stats import norm

from thalweg.transport import (
    DataSeparation,
    denoising_error,
    normalize_data,
    separation_bound,
)
from thalweg.transport._posterior_means import Posterior, draw_blocks, rotated

SIGNS = np.array([[-1.0], [1.0]])


def signs_lambda(s):
    """E tanh^2(s (s + z)) of x_1 = +-1 in one dimension, by Gauss-Hermite quadrature."""
    nodes, weights = hermegauss(150)
    s = np.atleast_1d(s)
    values = np.tanh(s[:, None] * (s[:, None] + nodes)) ** 2
    return values @ (weights / weights.sum())


def normal_rows(n, d, seed=0):
    return normalize_data(np.random.default_rng(seed).normal(size=(n, d)))[0]


def naive_errors(X, s, n_draws, seed):
    """The definition, draw by draw: squared error of the posterior mean, over d."""
    rng, (n, d) = np.random.default_rng(seed), X.shape
    values = []
    for _ in range(n_draws):
        x = X[rng.integers(n)]
        y = s * x + rng.standard_normal(d)
        weights = softmax(-0.5 * ((y - s * X) ** 2).sum(1))
        values.append(((x - weights @ X) ** 2).sum() / d)
    return np.mean(values), np.std(values) / np.sqrt(n_draws)


def test_signs_have_the_known_function():
    s = np.linspace(0.05, 6, 40)
    found = DataSeparation.from_data(SIGNS, rng=0)(s)
    assert np.abs(found - signs_lambda(s)).max() < 0.01
    many = DataSeparation.from_data(SIGNS, n_draws=15_000, rng=0)(s)
    assert np.abs(many - signs_lambda(s)).max() < 0.003


def test_standard_errors_are_the_spread_of_estimates():
    s = np.array([0.05, 0.3, 1.0, 2.0])
    runs = [denoising_error(SIGNS, s, n_draws=200, rng=seed) for seed in range(150)]
    errors, deviations = np.array([run[0] for run in runs]), np.array([run[1] for run in runs])
    spread = errors.std(0)
    assert (np.abs(errors.mean(0) - 1 + signs_lambda(s)) < 4 * spread / np.sqrt(150)).all()
    ratio = np.sqrt((deviations**2).mean(0)) / spread
    assert ((ratio > 0.7) & (ratio < 1.4)).all()


def test_normal_looking_data_is_estimated_far_better_than_by_the_error_alone():
    """At s = 0.3 signs look normal: g^2 is about 1e-3 while the squared error has noise 0.6."""
    errors = np.array([denoising_error(SIGNS, [0.3], rng=seed)[0][0] for seed in range(40)])
    assert errors.std() < 1e-3


def test_small_errors_keep_their_relative_accuracy():
    """1 - tanh^2 averaged is about 4 phi(s) times a factor of order 1."""
    s = np.array([2.0, 3.0])
    error, deviation = denoising_error(SIGNS, s, n_draws=100_000, rng=0)

    def tail(ratio):
        f = lambda z: norm.pdf(z) / np.cosh(ratio * (ratio + z)) ** 2  # noqa: E731
        return quad(f, -40, 40, points=[-ratio], epsabs=0)[0]

    truth = np.array([tail(ratio) for ratio in s])
    assert (truth < 0.1).all()
    assert (np.abs(error - truth) < 4 * deviation).all()
    assert (deviation < 0.2 * truth).all()
    assert 0 < denoising_error(SIGNS, [10.0], rng=0)[0][0] < 1e-30


@pytest.mark.parametrize(("n", "d", "s"), [(40, 3, 0.7), (6, 12, 0.3), (200, 2, 6.0)])
def test_agrees_with_the_definition(n, d, s):
    X = normal_rows(n, d)
    error, deviation = denoising_error(X, [s], n_draws=3000, rng=1)
    naive, naive_deviation = naive_errors(X, s, 3000, 2)
    assert abs(error[0] - naive) < 4 * np.hypot(deviation[0], naive_deviation)
    assert deviation[0] < 0.2 * naive + 1e-3


@pytest.mark.parametrize("s", [0.2, 1.5, 20.0, np.array([[0.1], [1.0], [30.0]])])
def test_residuals_are_those_of_the_posterior_mean(s):
    X = normal_rows(300, 4)
    own, Z = np.array([0, 7, 7]), np.random.default_rng(1).normal(size=(3, 4))
    found = Posterior(X, own, Z).residuals(s)
    y = s * X[own] + Z
    weights = softmax(-0.5 * ((y[:, None] - np.reshape(s, (-1, 1, 1)) * X) ** 2).sum(-1), axis=1)
    np.testing.assert_allclose(found, X[own] - weights @ X, atol=1e-5)


def test_normal_data_has_no_separation():
    """In the mean over many rows; the empirical law is normal as far as the noise reaches."""
    separation = DataSeparation.from_data(normal_rows(1500, 1), n_draws=400, n_angles=40, rng=0)
    s = np.array([0.2, 1.0, 4.0])
    np.testing.assert_allclose(separation(s), s**2 / (1 + s**2), atol=0.015)
    exact = DataSeparation.from_function(lambda s: s**2 / (1 + s**2))
    assert exact.total_angle_ < 1e-4
    assert DataSeparation.gaussian().total_angle_ == 0


def test_perfect_data_has_a_flat_plane():
    for separation in (DataSeparation.perfect(), DataSeparation.from_function(np.ones_like)):
        np.testing.assert_allclose(separation([0.1, 5.0, np.inf]), 1)
        assert separation.total_angle_ == pytest.approx(np.pi / 2)
        assert separation.flat_angle(0.7) == pytest.approx(0.7)


def test_function_estimate_and_table_agree_on_the_total_angle():
    def integrand(theta):
        lam = signs_lambda(np.tan(theta))[0]
        return np.sqrt(max(1 - (1 - lam) / np.cos(theta) ** 2, 0))

    truth = quad(integrand, 0, 1.45, epsabs=1e-6)[0]
    known = DataSeparation.from_function(signs_lambda)
    assert known.flat_angle(1.45) == pytest.approx(truth, abs=2e-4)
    estimate = DataSeparation.from_data(SIGNS, n_draws=5000, rng=0)
    assert estimate.flat_angle(1.45) == pytest.approx(truth, abs=0.015)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=9), st.integers(0, 10))
def test_flat_angle_is_the_integral_and_has_its_inverse(g, seed):
    inner = np.sort(np.random.default_rng(seed).uniform(0, np.pi / 2, len(g) - 2))
    separation = DataSeparation(np.concatenate([[0], inner, [np.pi / 2]]), g)
    fine = np.union1d(np.linspace(0, np.pi / 2, 500), separation.angles_)
    values = separation.g(fine)
    integral = np.concatenate([[0], np.cumsum(np.diff(fine) * (values[1:] + values[:-1]) / 2)])
    np.testing.assert_allclose(separation.flat_angle(fine), integral, atol=1e-12)
    angles = separation.angle_at(np.clip(integral, 0, separation.total_angle_))
    assert (angles >= 0).all()
    np.testing.assert_allclose(separation.flat_angle(angles), integral, atol=1e-7)
    assert separation.total_angle_ == pytest.approx(integral[-1])


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 30), st.integers(1, 40), st.integers(0, 1000))
def test_function_rises_between_its_bounds(n, d, seed):
    separation = DataSeparation.from_data(
        normal_rows(n, d, seed), n_draws=20, n_angles=40, rng=seed
    )
    s = np.concatenate([np.tan(separation.angles_[:-1]), [np.inf]])
    values = separation(s)
    assert (np.diff(values) >= -1e-12).all()
    cosines = np.cos(separation.angles_) ** 2
    assert ((values >= 1 - cosines - 1e-12) & (values <= 1)).all()
    assert values[0] == 0
    assert values[-1] == 1
    np.testing.assert_allclose(
        separation.g(separation.angles_)[:-1] ** 2, 1 - (1 - values[:-1]) / cosines[:-1], atol=1e-9
    )


def test_estimate_does_not_depend_on_rotation_or_sign():
    """In law; n < d is rotated exactly, so the same draws give the same numbers up to rounding."""
    X = normal_rows(8, 30)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(30, 30)))[0]
    options = {"n_draws": 4000, "n_angles": 30, "rng": 0}
    angle = DataSeparation.from_data(X, **options).total_angle_
    for other in (X @ turn, -X):
        assert DataSeparation.from_data(other, **options).total_angle_ == pytest.approx(angle, 0.01)
    np.testing.assert_allclose(rotated(X) @ rotated(X).T, X @ X.T, atol=1e-10)
    assert rotated(X).shape == (8, 8)


def test_empty_dimensions_add_nothing_but_normal_error():
    """Zero columns: x keeps its error, and the error per dimension falls in proportion."""
    X = normal_rows(5, 4)
    wide = np.concatenate([X, np.zeros((5, 12))], axis=1) * 2
    s = np.array([0.3, 1.0])
    error, deviation = denoising_error(wide, s, n_draws=20_000, rng=0)
    narrow, narrow_deviation = denoising_error(X, 2 * s, n_draws=20_000, rng=1)
    assert (np.abs(error - narrow) < 4 * np.hypot(deviation, narrow_deviation)).all()


def test_blocks_and_executors_change_nothing():
    X = normal_rows(50, 3)
    one = DataSeparation.from_data(X, n_draws=40, n_angles=30, rng=0)
    blocked = DataSeparation.from_data(X, n_draws=40, n_angles=30, block=7, rng=0)
    np.testing.assert_allclose(blocked.g_, one.g_, atol=1e-9)
    with ThreadPoolExecutor(2) as executor:
        shared = DataSeparation.from_data(X, n_draws=40, n_angles=30, rng=0, executor=executor)
    np.testing.assert_array_equal(shared.g_, one.g_)
    parts = draw_blocks(40, 50, 7)
    assert [i for part in parts for i in range(40)[part]] == list(range(40))
    assert max(len(range(40)[part]) for part in parts) * 50 <= 40 * 7


def test_few_rows_are_each_drawn_equally_often():
    """With two rows of equal size the first moments of the draws are exact: errors of +-1 alike."""
    error, _ = denoising_error(SIGNS, [1e-4], n_draws=4, rng=0)
    assert error[0] == pytest.approx(1, abs=1e-6)


def test_parametric_fit_is_close_where_there_is_one_scale():
    for n, d in ((10, 256), (10, 4096), (100, 64)):
        X = normal_rows(n, d)
        full = DataSeparation.from_data(X, rng=0).total_angle_
        fit = DataSeparation.parametric(X, rng=0).total_angle_
        assert fit == pytest.approx(full, abs=0.03)


def naive_bound(X, s):
    total = sum(((x - y) ** 2).sum() * norm.sf(s * np.linalg.norm(x - y) / 2) for x in X for y in X)
    return total / X.size


@pytest.mark.parametrize("d", [3, 20])
def test_bound_is_the_sum_over_pairs(d):
    X = normal_rows(25, d)
    s = np.array([0.0, 0.4, 2.0])
    np.testing.assert_allclose(
        separation_bound(X, s, block=7), [naive_bound(X, r) for r in s], rtol=1e-9
    )
    assert separation_bound(X, 0.4) == pytest.approx(naive_bound(X, 0.4))


def test_bound_covers_the_error():
    s = np.linspace(0.1, 6, 20)
    assert (separation_bound(SIGNS, s) >= 1 - signs_lambda(s)).all()
    X = normal_rows(50, 40)
    error, deviation = denoising_error(X, s, rng=0)
    assert (error <= separation_bound(X, s) + 3 * deviation).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 20), st.integers(1, 5), st.floats(1e-8, 1e8), st.integers(0, 99))
def test_normalised_data_has_mean_zero_and_unit_moment(n, d, scale, seed):
    X = scale * (np.random.default_rng(seed).normal(size=(n, d)) + 3)
    normalised, mean, unit = normalize_data(X)
    np.testing.assert_allclose(normalised.mean(0), 0, atol=1e-9)
    assert np.mean(normalised**2) == pytest.approx(1)
    np.testing.assert_allclose(mean + unit * normalised, X, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: normalize_data([[1.0, 2.0]]), "X must have at least 2 rows"),
        (lambda: normalize_data([[0.1, 2.0]] * 7), "zero variance"),
        (lambda: normalize_data([[np.nan], [1.0]]), "X must be finite"),
        (lambda: DataSeparation.from_data(SIGNS * 1.01), "X must be normalised"),
        (lambda: DataSeparation.from_data([[0.0], [2**0.5]]), "X must be normalised"),
        (lambda: separation_bound(SIGNS * 2, 1.0), "X must be normalised"),
        (lambda: separation_bound(SIGNS, -1.0), "s must be"),
        (lambda: denoising_error(SIGNS, [0.0]), "s must be > 0"),
        (lambda: denoising_error(SIGNS, [1.0], n_draws=1), "n_draws must be"),
        (lambda: DataSeparation.from_data(SIGNS, n_angles=2), "n_angles must be"),
        (lambda: DataSeparation.from_data(SIGNS, block=0), "block must be"),
        (lambda: DataSeparation.parametric(SIGNS, n_values=3), "n_values must be"),
        (lambda: DataSeparation([0, 1], [0, 1]), "angles must increase"),
        (lambda: DataSeparation([0, np.pi / 2], [0, 1.1]), r"g must lie in \[0, 1\]"),
        (lambda: DataSeparation.gaussian()(-1.0), "s must be >= 0"),
        (lambda: DataSeparation.gaussian().g(2.0), "theta must lie"),
        (lambda: DataSeparation.from_function(lambda s: 0 * s + 0.5), "at s = 1"),
        (lambda: DataSeparation.from_function(lambda s: 0 * s + 1.1), "got 1.1 at s = 0.0003"),
    ],
)
def test_bad_input_is_refused_by_name(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_what_is_not_a_function_is_refused():
    with pytest.raises(TypeError, match="lam must be callable"):
        DataSeparation.from_function(0.5)
