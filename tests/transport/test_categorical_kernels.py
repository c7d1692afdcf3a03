import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.transport import centroid_kernel, gaussian_kernel, uniform_kernel, von_mises_kernel
from thalweg.transport.categorical_kernels import check_kernel

ALL = [
    uniform_kernel,
    gaussian_kernel,
    von_mises_kernel,
    lambda S, alpha, skip: gaussian_kernel(S, alpha, skip, doubly_stochastic=False),
    lambda S, alpha, skip: centroid_kernel(np.arange(S)[:, None] ** 1.5, alpha, skip),
]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30), st.floats(0.02, 1.0), st.integers(1, 20), st.sampled_from(ALL))
def test_rows_are_laws(S, alpha, skip, kernel):
    Q = kernel(S, alpha, skip)
    assert Q.shape == (S, S)
    assert Q.min() >= 0
    np.testing.assert_allclose(Q.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("kernel", ALL)
def test_skip_takes_steps_at_once(kernel):
    once = kernel(6, 0.4, 1)
    np.testing.assert_allclose(kernel(6, 0.4, 3), once @ once @ once, atol=1e-14)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_power_of_the_uniform_kernel_is_the_closed_form(n):
    """a I + (1 - a) 11'/S with a = (1 - alpha S / (S - 1))^n."""
    S, alpha = 5, 0.3
    a = (1 - alpha * S / (S - 1)) ** n
    expected = a * np.eye(S) + (1 - a) / S
    np.testing.assert_allclose(uniform_kernel(S, alpha, skip=n), expected, atol=1e-14)


def test_uniform_kernel_changes_with_probability_alpha():
    np.testing.assert_allclose(np.diag(uniform_kernel(4, 0.3)), 0.7)


def test_gaussian_kernel_is_the_formula_with_the_asymmetric_normaliser():
    S, alpha = 7, 0.6
    width = alpha * (S - 1)
    Z = sum(np.exp(-4 * d**2 / width**2) for d in range(-(S - 1), S + 1))
    expected = [[np.exp(-4 * (i - j) ** 2 / width**2) / Z for j in range(S)] for i in range(S)]
    for i in range(S):
        expected[i][i] = 1 - sum(expected[i][j] for j in range(S) if j != i)
    np.testing.assert_allclose(gaussian_kernel(S, alpha), expected, rtol=1e-12)


def test_gaussian_kernel_is_symmetric_with_unit_columns():
    Q = gaussian_kernel(50, 0.1)
    np.testing.assert_array_equal(Q, Q.T)
    np.testing.assert_allclose(Q.sum(axis=0), 1, atol=1e-12)


def test_normalised_gaussian_rows_have_gaussian_ratios():
    S, alpha = 9, 0.5
    Q = gaussian_kernel(S, alpha, doubly_stochastic=False)
    ratio = np.exp(-4 * (3**2 - 1) / (alpha * (S - 1)) ** 2)
    np.testing.assert_allclose(Q[2, 5] / Q[2, 3], ratio)
    np.testing.assert_allclose(Q[0, 3] / Q[0, 1], ratio)


def test_von_mises_kernel_turns_with_the_circle():
    S, alpha = 6, 0.3
    Q = von_mises_kernel(S, alpha)
    np.testing.assert_allclose(np.roll(Q, (1, 1), axis=(0, 1)), Q, atol=1e-14)
    kappa = 1 / (alpha * (S - 1)) ** 2
    np.testing.assert_allclose(
        np.log(Q[0, 1] / Q[0, 3]), kappa * (np.cos(np.pi / 3) - np.cos(np.pi)), rtol=1e-12
    )


def test_centroid_kernel_weighs_distances_by_the_largest():
    points = np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    Q = centroid_kernel(points, 0.5)
    np.testing.assert_allclose(np.log(Q[0, 2] / Q[0, 1]), (5 - 1) / (0.5 * 5) ** 2, rtol=1e-12)
    np.testing.assert_allclose(Q, centroid_kernel(points + 10.0, 0.5), rtol=1e-10)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: uniform_kernel(5, 0.0), "alpha must be .* > 0 and <= 1, got 0.0"),
        (lambda: uniform_kernel(5, 1.5), "alpha must be .* <= 1, got 1.5"),
        (lambda: uniform_kernel(1, 0.5), "n_categories must be an integer >= 2, got 1"),
        (lambda: gaussian_kernel(5, -1.0), "alpha must be .* > 0, got -1"),
        (lambda: gaussian_kernel(5, np.nan), "alpha must be .*, got nan"),
        (lambda: von_mises_kernel(5, 0.0), "alpha must be .* > 0"),
        (lambda: von_mises_kernel(5, 0.1, skip=0), "skip must be an integer >= 1, got 0"),
        (lambda: centroid_kernel([[1.0], [1.0]], 0.1), "two distinct vectors"),
        (lambda: centroid_kernel(np.zeros((0, 2)), 0.1), "two distinct vectors"),
        (lambda: centroid_kernel([1.0, 2.0], 0.1), "centroids must have 2 axes"),
        (lambda: check_kernel("kernel", [[0.5, 0.5]]), "kernel must be square .* got shape"),
        (lambda: check_kernel("kernel", [[1.5, -0.5], [0, 1]]), "negative entries, got -0.5"),
        (lambda: check_kernel("kernel", [[1, 0], [0.5, 0.499]]), "got 0.999 in row 1"),
    ],
)
def test_bad_input_is_refused_by_name(call, match):
    with pytest.raises(ValueError, match=match):
        call()
