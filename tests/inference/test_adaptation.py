"""Warm-up divides as it should, and the cost of an acceptance has its known shape."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.inference import relative_cost, warmup_windows
from thalweg.inference._hmc_kernels import STEP, restart_step, update_step
from thalweg.inference.adaptation import momentum_root, regularised_inverse_metric


@given(st.integers(0, 5000))
def test_windows_add_up_and_slow_ones_double(n):
    windows = warmup_windows(n)
    assert sum(w.length for w in windows) == n
    slow = [w.length for w in windows if w.slow]
    assert all(b >= 2 * a for a, b in pairwise(slow))
    if n >= 20:
        assert not windows[0].slow
        assert not windows[-1].slow
        assert slow


def test_windows_of_a_thousand_are_stans():
    assert [w.length for w in warmup_windows(1000)] == [75, 25, 50, 100, 200, 500, 50]


def test_short_warm_up_keeps_proportions():
    assert [w.length for w in warmup_windows(100)] == [15, 75, 10]


def test_cost_is_least_at_0_651_and_flat_around_it():
    a = np.linspace(0.3, 0.98, 6801)
    cost = relative_cost(a)
    assert a[cost.argmin()] == pytest.approx(0.651, abs=0.001)
    assert cost.min() == pytest.approx(1.0, abs=1e-6)
    assert cost[(a >= 0.5) & (a <= 0.8)].max() < 1.1
    assert relative_cost(0.9) == pytest.approx(1.37, abs=0.005)


def test_cost_counts_gradients_for_accepted_time():
    # by simulation of the limit: energy errors N(m, 2 m) with m = step^4
    errors = np.random.default_rng(0).standard_normal(400_000)
    steps = np.array([0.8, 1.3])
    accepted = np.array(
        [np.minimum(1, np.exp(-(s**4) - np.sqrt(2 * s**4) * errors)).mean() for s in steps]
    )
    ratio = (accepted[0] * steps[0]) / (accepted[1] * steps[1])
    assert relative_cost(accepted[1]) / relative_cost(accepted[0]) == pytest.approx(ratio, rel=0.01)


@pytest.mark.parametrize("a", [0.0, 1.0, -0.1, [0.5, 1.5]])
def test_acceptances_outside_are_refused(a):
    with pytest.raises(ValueError, match="between 0 and 1"):
        relative_cost(a)


def test_dual_averaging_follows_its_formula():
    tuning = np.zeros(5)
    restart_step(tuning, 0.5)
    h_bar, log_bar = 0.0, 0.0
    for m, a in enumerate([0.9, 0.2, 0.6], start=1):
        update_step(tuning, a, 0.8)
        h_bar += (0.8 - a - h_bar) / (m + 10)
        log_step = np.log(5.0) - h_bar * np.sqrt(m) / 0.05
        log_bar = m**-0.75 * log_step + (1 - m**-0.75) * log_bar
    assert tuning[STEP] == pytest.approx(np.exp(log_step))
    assert tuning[1] == pytest.approx(log_bar)


def test_few_draws_shrink_the_metric_towards_a_thousandth():
    draws = np.array([[1.0, 0.0], [3.0, 0.0]])
    np.testing.assert_allclose(
        regularised_inverse_metric(draws, dense=False), [[2 * 2 / 7 + 5e-3 / 7, 5e-3 / 7]]
    )
    dense = regularised_inverse_metric(draws, dense=True)
    np.testing.assert_allclose(dense, [[2 * 2 / 7 + 5e-3 / 7, 0.0], [0.0, 5e-3 / 7]])


def test_root_makes_the_mass_matrix():
    inverse = np.array([[2.0, 0.9], [0.9, 0.5]])
    root = momentum_root(inverse)
    np.testing.assert_allclose(root.T @ root, np.linalg.inv(inverse))
