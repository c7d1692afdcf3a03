import numpy as np
import pytest

from thalweg.transport import GaussianMixturePair, gaussian_mixture_pair


@pytest.fixture
def pair():
    return gaussian_mixture_pair(2, 0.5, rng=0)


def test_construction_is_the_stated_one():
    pair = gaussian_mixture_pair(
        3, 0.2, n_components=4, radius=2.0, covariance_range=(0.5, 2), rng=1
    )
    np.testing.assert_allclose(np.linalg.norm(pair.locations, axis=1), 2.0)
    eigenvalues = np.linalg.eigvalsh(pair.scales)
    assert eigenvalues.shape == (4, 3)
    assert eigenvalues.min() >= 0.5 - 1e-12
    assert eigenvalues.max() <= 2.0 + 1e-12
    assert np.abs(pair.scales[:, 0, 1]).min() > 1e-3


def test_plan_has_its_conditional_moments(pair):
    """4.5 standard errors of 40 000 draws."""
    n, x = 40_000, np.array([0.3, -0.8])
    draws = pair.sample_plan(np.tile(x, (n, 1)), rng=0)
    mean, cov = (moment[0] for moment in pair.conditional_moments([x]))
    deviation = np.sqrt(np.diag(cov))
    assert (np.abs(draws.mean(0) - mean) <= 4.5 * deviation / np.sqrt(n)).all()
    error = np.abs(np.cov(draws.T) - cov) / np.outer(deviation, deviation)
    assert (error <= 4.5 * np.sqrt(6 / n)).all()


def test_conditional_law_is_the_tilted_potential():
    """The mean of exp(x y / eps) v(y) by quadrature in one dimension."""
    pair = gaussian_mixture_pair(1, 0.7, rng=3)
    y = np.linspace(-30, 30, 20_001)
    x = np.array([-0.5, 0.2, 1.0])
    log_density = x[:, None] * y / 0.7 + pair.log_potential(y[:, None])
    density = np.exp(log_density - log_density.max(1, keepdims=True))
    mass = np.trapezoid(density, y, axis=1)
    expected = np.trapezoid(density * y, y, axis=1) / mass
    np.testing.assert_allclose(pair.conditional_moments(x[:, None])[0][:, 0], expected, atol=1e-8)
    log_mass = np.log(mass) + log_density.max(1)
    np.testing.assert_allclose(pair.log_normalizer(x[:, None]), log_mass, rtol=1e-8)


def test_target_covariance_is_that_of_target_draws(pair):
    Y = pair.sample_target(50_000, rng=0)
    np.testing.assert_allclose(
        np.cov(Y.T), pair.target_cov_, atol=0.02 * np.trace(pair.target_cov_)
    )


def test_drift_starts_at_the_displacement_of_the_mean(pair):
    """At time 0 the drift is E[Y|x] - x."""
    X = pair.sample_source(5, rng=0)
    np.testing.assert_allclose(pair.drift(X, 0.0), pair.conditional_moments(X)[0] - X, rtol=1e-9)


def test_seed_reproduces_the_pair():
    one, other = (gaussian_mixture_pair(2, 1.0, rng=4) for _ in range(2))
    np.testing.assert_array_equal(one.scales, other.scales)
    np.testing.assert_array_equal(one.sample_target(3, rng=1), other.sample_target(3, rng=1))


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((0, 1.0), {}, "dim"),
        ((2, 0.0), {}, "epsilon"),
        ((2, 1.0), {"radius": -1}, "radius"),
        ((2, 1.0), {"n_components": 0}, "n_components"),
        ((2, 1.0), {"covariance_range": (2.0, 1.0)}, "covariance_range"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, options, match):
    with pytest.raises(ValueError, match=match):
        gaussian_mixture_pair(*arguments, **options)


def test_scales_must_be_positive_definite():
    with pytest.raises(ValueError, match="scales must be positive definite"):
        GaussianMixturePair([0.0], [[0.0]], [[[-1.0]]], 1.0)
