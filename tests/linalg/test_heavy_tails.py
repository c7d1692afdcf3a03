from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from thalweg.linalg import finite_sampler, hill_estimator, tail_index, tail_index_mc


@given(st.floats(0.01, 0.45))
@settings(deadline=None)
def test_doubling_or_halving_has_its_closed_form(q):
    # 1 - A is 2 with probability q, 1/2 otherwise
    expected = math.log2((1 - q) / q)
    assert tail_index([-1.0, 0.5], [q, 1 - q]) == pytest.approx(expected, rel=1e-9)


def test_the_example_of_the_paper():
    kappa = tail_index([-1.0, 3.0], [0.4, 0.6], 0.4)
    assert kappa == pytest.approx(2.700, abs=5e-4)
    assert 0.4 * 1.4**kappa + 0.6 * 0.2**kappa == pytest.approx(1, abs=1e-12)


def test_equal_weights_are_counts():
    expected = tail_index([-1.0, 3.0], [0.4, 0.6], 0.3)
    assert tail_index([-1, -1, 3, 3, 3], step_size=0.3) == pytest.approx(expected)


def test_small_steps_have_an_order_of_one_over_the_step():
    c = brentq(lambda c: 0.4 * math.exp(c) + 0.6 * math.exp(-3 * c) - 1, 0.5, 2)
    assert 1e-4 * tail_index([-1.0, 3.0], [0.4, 0.6], 1e-4) == pytest.approx(c, rel=1e-3)


def test_small_steps_and_gaussian_factors_have_the_order_of_mean_and_variance():
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    order = 1e-3 * tail_index(1.5 + 2 * nodes, weights / weights.sum(), 1e-3)
    assert order == pytest.approx(2 * 1.5 / 4, rel=5e-3)


def test_factors_of_at_most_one_have_no_polynomial_tail():
    assert tail_index([0.5, 2.0], step_size=1.0) == math.inf
    assert tail_index([1.0], step_size=1.0) == math.inf


def test_values_of_weight_zero_do_not_count():
    assert tail_index([0.5, -9.0], [1.0, 0.0]) == math.inf


def test_population_agrees_with_the_scalar_root():
    sample = finite_sampler([[[-1.0]], [[3.0]]], [[0.0], [0.0]], [0.4, 0.6])
    for step in (0.4, 0.2):
        value, error = tail_index_mc(sample, step, rng=0, n_steps=400)
        exact = tail_index([-1.0, 3.0], [0.4, 0.6], step)
        assert abs(value - exact) <= 4 * error + 0.01 * exact
        assert error <= 0.02 * exact


def test_the_standard_error_is_that_of_the_estimate():
    sample = finite_sampler([[[-1.0]], [[3.0]]], [[0.0], [0.0]], [0.4, 0.6])
    exact = tail_index([-1.0, 3.0], [0.4, 0.6], 0.4)
    squares = []
    for seed in range(5):
        value, error = tail_index_mc(sample, 0.4, rng=seed, population=512)
        squares.append(((value - exact) / error) ** 2)
    # a mean of 5 squares of normals is outside with probability below 2e-3
    assert 0.05 < np.mean(squares) < 4


def test_independent_coordinates_have_the_heavier_tail():
    a = np.array([np.diag([x, y]) for x in (-1.0, 3.0, 3.0) for y in (0.5, 1.0)])
    value, error = tail_index_mc(finite_sampler(a, np.zeros((6, 2))), 0.4, rng=1, n_steps=400)
    exact = tail_index([-1.0, 3.0, 3.0], step_size=0.4)
    assert abs(value - exact) <= 4 * error + 0.01 * exact


def test_isotropic_factors_reduce_to_one_dimension():
    # I - A = s R with R a random rotation: norms multiply like scalars s
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 400)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    size = np.repeat([2.0, 0.5], [100, 300])
    a = np.eye(2) - size[:, None, None] * rotation.transpose(2, 0, 1)
    value, error = tail_index_mc(finite_sampler(a, np.zeros((400, 2))), 1.0, rng=0, n_steps=400)
    assert abs(value - math.log2(3)) <= 4 * error + 0.01


def test_a_light_tail_is_infinite():
    sample = finite_sampler([[[0.5]], [[1.5]]], [[0.0], [0.0]])
    value, error = tail_index_mc(sample, 1.0, rng=0, population=50, n_steps=20, kappa_max=8)
    assert value == math.inf
    assert math.isnan(error)


@given(st.floats(0.1, 100.0), st.integers(1, 50))
@settings(deadline=None)
def test_hill_is_its_formula_and_ignores_scale_and_sign(scale, k):
    x = np.random.default_rng(0).standard_t(3, size=200)
    top = np.sort(np.abs(x))[::-1]
    expected = 1 / np.mean(np.log(top[:k] / top[k]))
    assert hill_estimator(x, k) == pytest.approx(expected)
    assert hill_estimator(-scale * x.reshape(2, 100), k) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tail_index([]), ValueError, "a_values must hold"),
        (lambda: tail_index([[1.0]]), ValueError, "a_values must have 1 axes"),
        (lambda: tail_index([1.0, 2.0], [0.5, 0.4]), ValueError, "weights must be"),
        (lambda: tail_index([1.0], step_size=0.0), ValueError, "step_size must be"),
        (lambda: tail_index([-1.0]), ValueError, "no stationary law"),
        (lambda: tail_index([2.0]), ValueError, "no stationary law"),
        (lambda: tail_index_mc(1, 0.1), TypeError, "sample must be callable"),
        (
            lambda: tail_index_mc(finite_sampler([[[-1.0]]], [[0.0]]), 0.1, population=9),
            ValueError,
            "products shrink",
        ),
        (
            lambda: tail_index_mc(finite_sampler([[[1.0]]], [[0.0]]), 1.0, population=9),
            ValueError,
            "every product vanish",
        ),
        (
            lambda: tail_index_mc(finite_sampler([[[1.0]]], [[0.0]]), 0.1, n_steps=5),
            ValueError,
            "n_steps must be",
        ),
        (lambda: hill_estimator([1.0, 2.0], 2), ValueError, "k must be"),
        (lambda: hill_estimator([1.0], 1), ValueError, "x must hold at least 2"),
        (lambda: hill_estimator([0.0, 0.0, 1.0], 1), ValueError, "positive and differ"),
        (lambda: hill_estimator([1.0, 1.0, 1.0], 1), ValueError, "positive and differ"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
