from __future__ import annotations

import pickle

import numpy as np
import pytest

from thalweg.linalg import finite_sampler, lms_sampler, td_sampler

RING = [[0.0, 0.9, 0.1], [0.2, 0.0, 0.8], [0.5, 0.5, 0.0]]


def weighted():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(4, 2, 2)) + 2 * np.eye(2), rng.normal(size=(4, 2))
    return finite_sampler(a, b, [0.1, 0.2, 0.3, 0.4])


def test_moments_are_those_of_the_table():
    sampler = weighted()
    a, b, w = sampler.a, sampler.b, sampler.weights
    mean = sum(w[k] * a[k] for k in range(4))
    target = np.linalg.solve(mean, sum(w[k] * b[k] for k in range(4)))
    noise = [b[k] - a[k] @ target for k in range(4)]
    square = sum(w[k] * np.kron(a[k] - mean, a[k] - mean) for k in range(4))
    cross = sum(w[k] * np.multiply.outer(a[k] - mean, noise[k]) for k in range(4))
    np.testing.assert_allclose(sampler.a_bar, mean, atol=1e-14)
    np.testing.assert_allclose(sampler.theta_star, target, atol=1e-13)
    np.testing.assert_allclose(sampler.noise, noise, atol=1e-13)
    np.testing.assert_allclose(w @ sampler.noise, 0, atol=1e-14)
    np.testing.assert_allclose(
        sampler.noise_cov, sum(w[k] * np.outer(noise[k], noise[k]) for k in range(4)), atol=1e-13
    )
    np.testing.assert_allclose(sampler.a_second_moment, square, atol=1e-13)
    np.testing.assert_allclose(sampler.cross, cross, atol=1e-13)
    np.testing.assert_allclose(sampler.deviations, a - mean, atol=1e-14)
    assert sampler.noise_bound == pytest.approx(max(np.linalg.norm(e) for e in noise))


def test_a_large_table_is_summed_in_parts(monkeypatch):
    whole = weighted()
    monkeypatch.setattr("thalweg.linalg.stochastic_samplers.CHUNK_NUMBERS", 8)
    parts = weighted()
    for name in ("a_bar", "noise", "noise_cov", "a_second_moment", "cross"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-13)


def test_draws_have_the_stated_frequencies_and_pairs():
    sampler = weighted()
    a, b = sampler(np.random.default_rng(0), 40_000)
    assert a.shape == (40_000, 2, 2)
    assert b.shape == (40_000, 2)
    which = np.argmin(np.abs(a[:, 0, 0, None] - sampler.a[:, 0, 0]), axis=1)
    np.testing.assert_array_equal(b, sampler.b[which])
    # standard errors of the frequencies are at most 0.0025
    np.testing.assert_allclose(np.bincount(which) / 40_000, sampler.weights, atol=0.01)


def test_a_value_of_weight_zero_is_never_drawn():
    sampler = finite_sampler([[[1.0]], [[2.0]], [[3.0]]], [[0.0]] * 3, [0.0, 1.0, 0.0])
    assert (sampler(np.random.default_rng(0), 1000)[0] == 2.0).all()


def test_least_squares_is_the_target_of_lms():
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(30, 3)), rng.normal(size=30)
    sampler = lms_sampler(X, y)
    np.testing.assert_allclose(sampler.theta_star, np.linalg.lstsq(X, y)[0], atol=1e-12)
    np.testing.assert_allclose(sampler.a_bar, X.T @ X / 30, atol=1e-14)
    np.testing.assert_allclose(sampler.b_bar, X.T @ y / 30, atol=1e-14)
    a, b = sampler.matrices(slice(None)), sampler.b
    np.testing.assert_allclose(a[4], np.outer(X[4], X[4]))
    np.testing.assert_allclose(b[4], y[4] * X[4])


def test_tabular_td_has_the_value_function_as_its_target():
    P, r, gamma = np.array(RING), np.array([1.0, -2.0, 0.5]), 0.7
    sampler = td_sampler(P, np.eye(3), r, gamma)
    value = np.linalg.solve(np.eye(3) - gamma * P, r)
    np.testing.assert_allclose(sampler.theta_star, value, atol=1e-12)


def test_td_weighs_states_by_the_stationary_law():
    P, phi = np.array(RING), np.array([[1.0, 0.2], [0.0, 1.0], [0.5, -0.5]])
    law = np.linalg.matrix_power(P, 4000)[0]
    sampler = td_sampler(P, phi, [1.0, 0.0, 0.0], 0.9)
    expected = phi.T @ np.diag(law) @ (phi - 0.9 * P @ phi)
    np.testing.assert_allclose(sampler.a_bar, expected, atol=1e-12)
    assert len(sampler.b) == 6


def test_transient_states_are_left_out():
    P = [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]
    sampler = td_sampler(P, np.eye(3), np.zeros(3), 0.5)
    np.testing.assert_allclose(sampler.a_bar[0], 0)


def test_samplers_can_be_sent_to_another_process():
    sampler = weighted()
    copy = pickle.loads(pickle.dumps(sampler))
    np.testing.assert_array_equal(
        copy(np.random.default_rng(0), 5)[0], sampler(np.random.default_rng(0), 5)[0]
    )
    assert repr(copy) == "<FiniteSampler: 4 pairs in 2 dimensions>"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: finite_sampler(np.zeros((2, 1, 2)), np.zeros((2, 1))), r"a_values .*\(k, d, d\)"),
        (lambda: finite_sampler(np.zeros((2, 1, 1)), np.zeros((3, 1))), "b_values must have shape"),
        (lambda: finite_sampler(np.ones((2, 1, 1)), np.ones((2, 1)), [0.5, 0.6]), "weights must"),
        (lambda: finite_sampler(np.ones((2, 1, 1)), np.ones((2, 1)), [1.5, -0.5]), "weights must"),
        (lambda: finite_sampler([[[np.nan]]], [[1.0]]), "a_values must be finite"),
        (lambda: lms_sampler(np.zeros((3, 0)), np.zeros(3)), "X must have at least one"),
        (lambda: lms_sampler(np.zeros((3, 1)), np.zeros(2)), "y must have shape"),
        (lambda: td_sampler([[0.5, 0.5]], [[1.0]], [0.0], 0.5), "P must be square"),
        (lambda: td_sampler([[0.5]], [[1.0]], [0.0], 0.5), "P must have rows of probabilities"),
        (lambda: td_sampler(np.eye(2), np.eye(2), [0.0, 0.0], 0.5), "states 0 and 1 never meet"),
        (lambda: td_sampler([[1.0]], [[1.0]], [0.0], 1.0), "gamma must be"),
        (lambda: td_sampler([[1.0]], [[1.0]], [0.0, 1.0], 0.5), "r must have shape"),
        (lambda: td_sampler([[1.0]], [[1.0], [2.0]], [0.0], 0.5), "phi must have shape"),
    ],
)
def test_bad_tables_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
