"""Moments of stochastic gradients against all batches, and the work of an accuracy."""

import itertools

import numpy as np
import pytest

from thalweg.descent import LeastSquares, learning_work, moment_constants

RNG = np.random.default_rng(5)
A = RNG.normal(size=(6, 2))
PROBLEM = LeastSquares(A, RNG.normal(size=6))
POINTS = RNG.normal(size=(7, 2)) * 3


def exact_variance(x, size, replace):
    each = PROBLEM.component_gradients(x)
    if replace:
        batches = itertools.product(range(6), repeat=size)
    else:
        batches = itertools.combinations(range(6), size)
    means = np.array([each[list(batch)].mean(axis=0) for batch in batches])
    return np.var(means, axis=0).sum()


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_constants_bound_the_variance_over_all_batches(size, replace):
    found = moment_constants(PROBLEM, POINTS, size, replace=replace)
    squares = np.sum(PROBLEM.gradient(POINTS) ** 2, axis=1)
    exact = np.array([exact_variance(x, size, replace) for x in POINTS])
    slack = found.M + found.M_V * squares - exact
    assert slack.min() >= -1e-12
    # the envelope touches
    assert slack.min() == pytest.approx(0.0, abs=1e-10)
    assert (found.mu, found.mu_G) == (1.0, 1.0)
    assert found.M_G == found.M_V + 1.0


def test_additive_noise_is_all_M():
    b = np.array([1.0, -3.0, 2.0])
    problem = LeastSquares(np.ones((3, 1)), b)
    found = moment_constants(problem, np.linspace(-2, 2, 5)[:, None])
    np.testing.assert_allclose([found.M, found.M_V], [np.var(b), 0.0], atol=1e-12)


def test_the_whole_sum_has_no_noise():
    found = moment_constants(PROBLEM, POINTS, 6)
    assert (found.M, found.M_V) == (0.0, 0.0)


def test_work_follows_the_survey():
    eps = np.array([0.1, 0.01])
    np.testing.assert_allclose(learning_work(eps), 1 / eps)
    np.testing.assert_allclose(learning_work(eps, n=10**9), 1 / eps)
    np.testing.assert_allclose(learning_work(eps, kappa=3.0), 9 / eps)
    np.testing.assert_allclose(learning_work(eps, 70, "batch", 3.0), 210 * np.log(1 / eps))
    np.testing.assert_allclose(learning_work(eps, method="batch"), np.log(1 / eps) / eps)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: learning_work(0.0), "epsilon"),
        (lambda: learning_work([0.5, 1.0]), "epsilon"),
        (lambda: learning_work(0.5, n=0), "n must"),
        (lambda: learning_work(0.5, method="newton"), "method"),
        (lambda: learning_work(0.5, kappa=0.5), "kappa"),
        (lambda: moment_constants(PROBLEM, POINTS, 7), "batch_size"),
        (lambda: moment_constants(PROBLEM, np.zeros((0, 2))), "points"),
        (lambda: moment_constants(PROBLEM, np.zeros((3, 4))), "points"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, name):
    with pytest.raises((TypeError, ValueError), match=name):
        call()
