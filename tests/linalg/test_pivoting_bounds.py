from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.linalg import (
    expected_potential,
    pair_potential,
    scaled_condition,
    stability_bound,
    steps_for,
)


def positive_definite(n, seed=0, *batch):
    x = np.random.default_rng(seed).normal(size=(*batch, n + 2, n))
    return x.swapaxes(-1, -2) @ x


def unit_diagonal(g):
    root = np.sqrt(np.diag(g))
    return g / np.outer(root, root)


def test_potential_is_the_trace_of_its_definition():
    g = positive_definite(6)
    assert pair_potential(g) == pytest.approx(np.diag(g) @ np.diag(np.linalg.inv(g)) - 6, rel=1e-12)


def test_potential_of_a_pair_is_the_squared_tangent_doubled():
    rho = 0.3
    expected = 2 * rho**2 / (1 - rho**2)
    assert pair_potential([[4.0, 2 * rho], [2 * rho, 1.0]]) == pytest.approx(expected, rel=1e-14)


def test_potential_does_not_change_with_scaling():
    g, d = positive_definite(5), np.array([1e-8, 1.0, 1e8, 3.0, 1e-3])
    assert pair_potential(d[:, None] * g * d) == pytest.approx(pair_potential(g), rel=1e-12)


def test_a_tiny_potential_keeps_its_digits():
    # 2 rho^2 / (1 - rho^2): the trace of the definition loses it below 1e-16
    assert pair_potential([[1.0, 1e-10], [1e-10, 1.0]]) == pytest.approx(2e-20, rel=1e-12)


def test_potential_of_a_diagonal_matrix_is_exactly_zero():
    assert pair_potential(np.diag([1e-30, 2.0, 1e30])) == 0.0


@pytest.mark.parametrize("function", [pair_potential, scaled_condition])
def test_a_stack_is_done_matrix_by_matrix(function):
    stack = positive_definite(4, 1, 2, 3)
    assert np.allclose(function(stack), [[function(g) for g in row] for row in stack], rtol=1e-12)


def test_scaled_condition_is_that_of_the_unit_diagonal():
    g = positive_definite(6, 3)
    assert scaled_condition(g) == pytest.approx(np.linalg.cond(unit_diagonal(g)), rel=1e-10)


def test_expected_potential_shrinks_by_the_share_of_a_pair():
    assert np.allclose(expected_potential(3.0, 4, [0, 1, 2]), [3, 3 * 5 / 6, 3 * 25 / 36])


@pytest.mark.parametrize(("n", "share"), [(4, 1 / 3), (5, 1 / 5)])
def test_expected_potential_of_matchings(n, share):
    assert expected_potential(1.0, n, 1, "matching") == pytest.approx(1 - share)


def test_two_columns_are_done_in_one_step():
    assert expected_potential(5.0, 2, 1) == 0.0


def test_one_column_has_nothing_to_do():
    assert (expected_potential(0.0, 1, 7), steps_for(0.0, 1, 1e-6, 0.1)) == (0.0, 0)


def test_steps_for_brings_the_mean_below_eps_delta():
    steps = steps_for(50.0, 10, 1e-6, 0.1)
    assert steps == math.ceil(45 * math.log(50 / 1e-7))
    assert expected_potential(50.0, 10, steps) <= 1e-7


def test_no_steps_for_what_is_there_already():
    assert steps_for(1e-8, 10, 1e-6, 0.1) == 0


@given(st.integers(2, 6), st.integers(0, 1000))
def test_condition_is_within_what_the_potential_allows(n, seed):
    g = positive_definite(n, seed)
    gamma = pair_potential(g)
    # delta near 1 makes the bound that of the potential itself
    assert scaled_condition(g) <= stability_bound(gamma, n, 1 - 1e-12) * (1 + 1e-9)
    assert gamma <= n * scaled_condition(g) - n + 1e-9


def test_stability_bound_is_close_for_a_pair():
    g = np.array([[1.0, 0.9], [0.9, 1.0]])
    bound = stability_bound(pair_potential(g), 2, 1 - 1e-12)
    assert 1 <= bound / scaled_condition(g) <= 1.2


def test_stability_bound_is_no_weaker_than_the_simple_one():
    for gamma in (0.0, 1e-3, 1.0, 1e4):
        assert stability_bound(gamma, 10, 0.1) <= 10 * (gamma / 0.1 + 10)


def test_stability_bound_follows_the_largest_eigenvalue():
    # gamma / delta = 0.5: L = 1 + (0.5 + 1.5) / 2 = 2, below n
    assert stability_bound(0.05, 10, 0.1) == pytest.approx(4.0)
    # one column: its eigenvalue is at most n = 1
    assert stability_bound(0.05, 1, 0.1) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("g", "error", "message"),
    [
        ([[1.0, 2.0, 3.0]], ValueError, "g must be square"),
        ([[1.0, 2.0], [0.0, 1.0]], ValueError, r"g must be symmetric.*\(0, 1\)"),
        ([[1.0, np.nan], [np.nan, 1.0]], ValueError, "g must be finite"),
        ([[1.0, 2.0], [2.0, 1.0]], np.linalg.LinAlgError, "g must be positive definite"),
        ([[1.0, 0.0], [0.0, -2.0]], np.linalg.LinAlgError, "got -2 on the diagonal at 1"),
        (np.eye(2) * 1j, TypeError, "g must be real"),
        (np.zeros((0, 0)), ValueError, "g must be a matrix that is not empty"),
        ([1.0, 2.0], ValueError, "g must be a matrix"),
    ],
)
@pytest.mark.parametrize("function", [pair_potential, scaled_condition])
def test_bad_matrices_are_refused(function, g, error, message):
    with pytest.raises(error, match=message):
        function(g)


def test_a_small_asymmetric_entry_is_noticed_beside_large_ones():
    g = np.diag([1.0, 1e-10, 1.0])
    g[0, 1] = 4e-6
    with pytest.raises(ValueError, match="g must be symmetric"):
        pair_potential(g)


def test_rounding_differences_are_averaged():
    # 2 rho^2 / (1 - rho^2) with the mean of both entries
    rho = 0.5 + 0.5e-9
    expected = 2 * rho**2 / (1 - rho**2)
    assert pair_potential([[1.0, 0.5], [0.5 + 1e-9, 1.0]]) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expected_potential(-1.0, 3, 1), "gamma0 must be >= 0"),
        (lambda: expected_potential(1.0, 0, 1), "n must be"),
        (lambda: expected_potential(1.0, 3, -1), "t must be >= 0"),
        (lambda: expected_potential(1.0, 3, 1, "cyclic"), "pivoting must be one of"),
        (lambda: steps_for(1.0, 3, 0.0, 0.1), "eps must be"),
        (lambda: steps_for(1.0, 3, 0.1, 1.0), "delta must be"),
        (lambda: steps_for(-1.0, 3, 0.1, 0.5), "gamma0 must be"),
        (lambda: stability_bound(1.0, 3, 0.0), "delta must be"),
        (lambda: stability_bound(-1.0, 3, 0.1), "gamma0 must be"),
        (lambda: stability_bound(1.0, 0, 0.1), "n must be"),
    ],
)
def test_bad_numbers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
