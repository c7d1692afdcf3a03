import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.special import gamma
from scipy.stats import foldnorm, multivariate_normal

from thalweg.transport import (
    bures_wasserstein2,
    bw2_uvp,
    classifier_two_sample,
    conditional_bw2_uvp,
    energy_distance,
    gaussian_kl,
    median_distance,
    mmd,
    sliced_wasserstein,
    wasserstein,
)

clouds = arrays(float, (5, 2), elements=st.floats(-10, 10, width=32))


def spd(rng, *shape):
    A = rng.normal(size=(*shape, shape[-1]))
    return A @ A.swapaxes(-1, -2) + 0.1 * np.eye(shape[-1])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("dim", [2, 12])
def test_energy_distance_is_the_sum_over_pairs(rng, dim):
    X, Y = rng.normal(size=(7, dim)), rng.normal(1.0, 2.0, size=(5, dim))
    means = cdist(X, Y).mean(), cdist(X, X).sum(), cdist(Y, Y).sum()
    unbiased = 2 * means[0] - means[1] / (7 * 6) - means[2] / (5 * 4)
    biased = 2 * means[0] - means[1] / 49 - means[2] / 25
    assert energy_distance(X, Y, block=3) == pytest.approx(unbiased, rel=1e-10)
    assert energy_distance(X, Y, unbiased=False) == pytest.approx(biased, rel=1e-10)
    assert energy_distance(X, Y, squared=False) == pytest.approx(np.sqrt(unbiased), rel=1e-10)


def test_energy_distance_far_from_the_origin_keeps_its_digits(rng):
    X, Y = rng.normal(size=(20, 12)), rng.normal(size=(30, 12))
    moved = energy_distance(X + 1e6, Y + 1e6)
    assert moved == pytest.approx(energy_distance(X, Y), rel=1e-6)


def assert_mean(estimates, expected):
    """The mean of independent estimates lies within 4 standard errors."""
    assert abs(np.mean(estimates) - expected) <= 4 * np.std(estimates) / np.sqrt(len(estimates))


def test_energy_distance_of_two_normals_averages_to_the_closed_form(rng):
    """X - Y ~ N(m, 2), X - X' ~ N(0, 2): twice the difference of their mean absolute values."""
    shift, s = 1.0, np.sqrt(2)
    expected = 2 * (foldnorm.mean(shift / s, scale=s) - foldnorm.mean(0, scale=s))
    assert_mean(
        [
            energy_distance(rng.normal(size=(60, 1)), rng.normal(shift, size=(40, 1)))
            for _ in range(400)
        ],
        expected,
    )


@settings(max_examples=30, deadline=None)
@given(X=clouds, Y=clouds)
def test_biased_discrepancies_are_nonnegative_and_vanish_on_equal_clouds(X, Y):
    for distance in (energy_distance, mmd):
        assert distance(X, Y, unbiased=False) >= -1e-9
        assert distance(X, X, unbiased=False) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("distance", [energy_distance, mmd])
def test_unbiased_estimates_average_to_zero_for_equal_laws(rng, distance):
    options = {"bandwidth": 1.0} if distance is mmd else {}
    estimates = [
        distance(rng.normal(size=(20, 2)), rng.normal(size=(15, 2)), **options) for _ in range(400)
    ]
    assert_mean(estimates, 0.0)
    assert np.min(estimates) < 0


def test_mmd_of_two_normals_averages_to_the_closed_form(rng):
    """E exp(-|Z|^2/2h^2) for Z ~ N(m, v I_d) is (h^2/(h^2+v))^(d/2) exp(-|m|^2/2(h^2+v))."""
    d, h, shift = 2, 0.8, np.array([1.0, 0.0])
    shrink = (h**2 / (h**2 + 2)) ** (d / 2)
    expected = 2 * shrink * (1 - np.exp(-(shift @ shift) / (2 * (h**2 + 2))))
    assert_mean(
        [
            mmd(rng.normal(size=(60, d)), rng.normal(size=(40, d)) + shift, bandwidth=h)
            for _ in range(400)
        ],
        expected,
    )


def test_mmd_is_the_sum_over_pairs_for_any_kernel(rng):
    X, Y = rng.normal(size=(6, 3)), rng.normal(size=(4, 3))

    def kernel(A, B):
        return (A @ B.T + 1) ** 2

    across = kernel(X, Y).mean()
    xx, yy = kernel(X, X), kernel(Y, Y)
    biased = xx.mean() + yy.mean() - 2 * across
    unbiased = (xx.sum() - np.trace(xx)) / 30 + (yy.sum() - np.trace(yy)) / 12 - 2 * across
    assert mmd(X, Y, kernel=kernel, unbiased=False, block=4) == pytest.approx(biased)
    assert mmd(X, Y, kernel=kernel, block=4) == pytest.approx(unbiased)
    root = mmd(X, Y, kernel=kernel, unbiased=False, squared=False)
    assert root == pytest.approx(np.sqrt(biased))


def test_several_bandwidths_average_the_kernels(rng):
    X, Y = rng.normal(size=(6, 2)), rng.normal(size=(5, 2))
    mean = (mmd(X, Y, bandwidth=0.5) + mmd(X, Y, bandwidth=2.0)) / 2
    assert mmd(X, Y, bandwidth=[0.5, 2.0]) == pytest.approx(mean)


def test_default_bandwidth_is_the_median_distance(rng):
    X, Y = rng.normal(size=(6, 2)), rng.normal(size=(5, 2))
    pairs = cdist(np.vstack([X, Y]), np.vstack([X, Y]))[np.triu_indices(11, 1)]
    assert median_distance(X, Y) == pytest.approx(np.median(pairs))
    assert mmd(X, Y) == mmd(X, Y, bandwidth=float(np.median(pairs)))


def test_mmd_of_tensors_equals_that_of_arrays_and_has_a_gradient(rng):
    torch = pytest.importorskip("torch")
    X, Y = rng.normal(size=(6, 2)), rng.normal(size=(5, 2))
    x = torch.tensor(X, requires_grad=True)
    value = mmd(x, torch.tensor(Y), bandwidth=[0.7, 1.5])
    assert value.item() == pytest.approx(mmd(X, Y, bandwidth=[0.7, 1.5]), rel=1e-12)
    value.backward()
    h = np.zeros_like(X)
    h[2, 1] = 1e-6
    numerical = (mmd(X + h, Y, bandwidth=[0.7, 1.5]) - mmd(X - h, Y, bandwidth=[0.7, 1.5])) / 2e-6
    assert x.grad[2, 1].item() == pytest.approx(numerical, rel=1e-5)


def test_one_dimensional_sliced_distance_is_the_exact_one(rng):
    X, Y = rng.normal(size=(12, 1)), rng.normal(size=(8, 1))
    exact = wasserstein(X, Y, p=3)
    assert sliced_wasserstein(X, Y, p=3, n_projections=4, rng=0) == pytest.approx(exact, rel=1e-8)


def test_sliced_distance_of_a_shift_is_the_mean_power_of_a_cosine(rng):
    """E|<u, e>|^p = Gamma(d/2) Gamma((p+1)/2) / (sqrt(pi) Gamma((d+p)/2)); 5 % by 20000 lines."""
    d, p = 3, 4
    X = rng.normal(size=(4, d))
    moment = gamma(d / 2) * gamma((p + 1) / 2) / (np.sqrt(np.pi) * gamma((d + p) / 2))
    got = sliced_wasserstein(X, X + np.array([2.0, 0, 0]), p=p, n_projections=20_000, rng=1)
    assert got == pytest.approx(2 * moment ** (1 / p), rel=0.05)


@settings(max_examples=20, deadline=None)
@given(X=clouds, shift=arrays(float, 2, elements=st.floats(-5, 5, width=32)))
def test_exact_distance_of_a_shift_is_its_length(X, shift):
    assert wasserstein(X, X + shift) == pytest.approx(np.linalg.norm(shift), abs=1e-6)


def test_weights_are_repeated_points(rng, monkeypatch):
    X, Y = rng.normal(size=(3, 2)), rng.normal(size=(4, 2))
    repeated = wasserstein(X[[0, 0, 1, 2]], Y, p=1)
    weights = [0.5, 0.25, 0.25]
    assert wasserstein(X, Y, p=1, a=weights) == pytest.approx(repeated, rel=1e-8)
    monkeypatch.setitem(sys.modules, "ot", None)
    assert wasserstein(X, Y, p=1, a=weights) == pytest.approx(repeated, rel=1e-8)


def test_bures_distance_is_the_formula_with_matrix_square_roots(rng):
    m1, m2, C1, C2 = rng.normal(size=3), rng.normal(size=3), spd(rng, 3), spd(rng, 3)
    root = sqrtm(C1)
    expected = ((m1 - m2) ** 2).sum() + np.trace(C1 + C2 - 2 * sqrtm(root @ C2 @ root).real)
    assert bures_wasserstein2(m1, C1, m2, C2) == pytest.approx(expected, rel=1e-8)


def test_bures_distance_broadcasts_and_vanishes_on_equal_laws(rng):
    m, C = rng.normal(size=(5, 2)), spd(rng, 5, 2)
    np.testing.assert_allclose(bures_wasserstein2(m, C, m, C), 0, atol=1e-12)
    single = bures_wasserstein2(m[3], C[3], m[0], C[0])
    np.testing.assert_allclose(bures_wasserstein2(m, C, m[0], C[0])[3], single)


def test_bures_distance_of_singular_covariances():
    value = bures_wasserstein2([0.0, 0.0], np.diag([1.0, 0.0]), [0.0, 0.0], np.diag([0.0, 1.0]))
    assert value == pytest.approx(2.0)


def test_gaussian_divergence_is_the_mean_log_ratio(rng):
    """Against the average of log N1 - log N2 over the sigma points of N1, exact for quadratics."""
    d = 3
    m1, m2, C1, C2 = rng.normal(size=d), rng.normal(size=d), spd(rng, d), spd(rng, d)
    offsets = np.sqrt(d) * np.linalg.cholesky(C1).T
    points = m1 + np.vstack([offsets, -offsets])
    logs = [multivariate_normal(m, C).logpdf(points) for m, C in ((m1, C1), (m2, C2))]
    assert gaussian_kl(m1, C1, m2, C2) == pytest.approx((logs[0] - logs[1]).mean(), rel=1e-9)


def test_unexplained_variance_of_a_shift(rng):
    X = rng.normal(size=(500, 2))
    shifted = X + np.array([1.0, 0.0])
    percent = 100 / X.var(0).sum()
    assert bw2_uvp(shifted, X) == pytest.approx(percent, rel=1e-8)
    assert bw2_uvp(shifted, mean=X.mean(0), cov=np.cov(X.T, ddof=0)) == pytest.approx(percent)


def test_conditional_unexplained_variance_averages_over_the_points():
    cov = np.tile(np.eye(2), (2, 1, 1))
    percent = conditional_bw2_uvp([[1, 0], [0, 3]], cov, np.zeros((2, 2)), cov, 5 * np.eye(2))
    assert percent == pytest.approx(100 * (1 + 9) / 2 / 10)


def test_classifier_separates_what_differs_and_only_that(rng):
    X = rng.normal(size=(200, 2))
    same = classifier_two_sample(X, rng.normal(size=(200, 2)), rng=0)
    apart = classifier_two_sample(X, rng.normal(3.0, size=(200, 2)), rng=0)
    assert abs(same - 0.5) <= 0.12
    assert apart >= 0.95


def test_a_classifier_tells_small_clouds_apart():
    X = np.random.default_rng(0).normal(size=(20, 2))
    assert classifier_two_sample(X, X + 5.0, rng=0) >= 0.95


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: energy_distance(np.zeros((3, 2)), np.zeros((3, 1))), "same number of columns"),
        (lambda: energy_distance([[np.nan]], [[0.0]], unbiased=False), "X must be finite"),
        (lambda: energy_distance([[0.0]], [[0.0], [1.0]]), "X must have at least 2 rows"),
        (lambda: mmd([[0.0], [1.0]], [[0.0], [1.0]], kernel="linear"), "kernel must be one of"),
        (lambda: mmd([[0.0], [1.0]], [[0.0], [1.0]], bandwidth=0), "bandwidth"),
        (lambda: mmd([[0.0], [1.0]], [[0.0], [1.0]], bandwidth=[]), "bandwidth"),
        (lambda: wasserstein([[0.0]], [[1.0]], p=0.5), "p must be"),
        (lambda: wasserstein([[0.0]], [[1.0]], a=[0.5]), "a must be non-negative"),
        (lambda: bures_wasserstein2([0.0], [[-1.0]], [0.0], [[1.0]]), "positive semidefinite"),
        (lambda: bures_wasserstein2([0.0], [1.0], [0.0], [[1.0]]), "C1 must have shape"),
        (lambda: gaussian_kl([0.0], [[1.0]], [0.0], [[0.0]]), "C2 must be positive definite"),
        (lambda: bw2_uvp([[0.0]]), "give either Y or both"),
    ],
)
def test_bad_input_is_refused_by_name(call, match):
    with pytest.raises(ValueError, match=match):
        call()
