"""Bounds of stochastic gradient steps: the literal formulas, exact recursions, and refused runs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.descent import (
    diminishing_step_bound,
    fixed_step_bound,
    geometric_noise_bound,
    nonconvex_diminishing_bound,
    nonconvex_fixed_bound,
)

positive = st.floats(0.05, 5.0)


@given(st.integers(1, 200), positive, st.floats(0.05, 1.0), positive, positive, st.floats(0.2, 2.0),
       st.floats(0.01, 1.0))  # fmt: skip
def test_bounds_equal_the_literal_formulas(k, L, ratio, M, gap, mu, share):
    c = ratio * L
    a = share * mu / (L * mu**2)
    floor = a * L * M / (2 * c * mu)
    assert fixed_step_bound(k, step=a, L=L, c=c, M=M, gap=gap, mu=mu) == pytest.approx(
        floor + max(1 - a * c * mu, 0.0) ** (k - 1) * (gap - floor)
    )
    assert nonconvex_fixed_bound(k, step=a, L=L, M=M, gap=gap, mu=mu) == pytest.approx(
        a * L * M / mu + 2 * gap / (k * mu * a)
    )
    beta = (1 + share) / (c * mu)
    gamma = max(beta * L * mu**2 / mu - 1, 0.0) + 1
    nu = max(beta**2 * L * M / (2 * (beta * c * mu - 1)), (gamma + 1) * gap)
    assert diminishing_step_bound(
        k, beta=beta, gamma=gamma, L=L, c=c, M=M, gap=gap, mu=mu
    ) == pytest.approx(nu / (gamma + k))
    zeta = 0.5 + 0.4 * share
    a = min(a, 1 / (c * mu))
    rho = max(1 - a * c * mu / 2, zeta)
    assert geometric_noise_bound(
        k, step=a, L=L, c=c, M=M, zeta=zeta, gap=gap, mu=mu
    ) == pytest.approx(max(a * L * M / (c * mu), gap) * rho ** (k - 1))
    steps = a / np.arange(1, k + 1)
    assert nonconvex_diminishing_bound(steps, L=L, M=M, gap=gap, mu=mu)[-1] == pytest.approx(
        (2 * gap / mu + L * M / mu * np.sum(steps**2)) / np.sum(steps)
    )


def exact_gaps(steps, h, variances, gap):
    """E of the gap of w <- w - a (h w + noise), at w_1, w_2, ...: an exact recursion."""
    gaps = [gap]
    for a, v in zip(steps, variances, strict=True):
        gaps.append((1 - a * h) ** 2 * gaps[-1] + 0.5 * h * a * a * v)
    return np.array(gaps)


K = np.arange(1, 301)


@pytest.mark.parametrize("step", [0.02, 0.3, 1.0])
def test_exact_gaps_on_a_parabola_lie_below_and_wrong_steps_above(step):
    """L = c = 1: the exact stationary gap is the floor times 1 / (2 - step)... below it."""
    M, gap = 0.5, 2.0
    exact = exact_gaps(np.full(299, step), 1.0, np.full(299, M), gap)
    bound = fixed_step_bound(K, step=step, L=1.0, c=1.0, M=M, gap=gap)
    assert (exact <= bound + 1e-12).all()
    wrong = exact_gaps(np.full(299, 2.1), 1.0, np.full(299, M), gap)
    assert (wrong > bound + 1e-12).any()
    squares = np.cumsum(2 * exact) / K
    assert (squares <= nonconvex_fixed_bound(K, step=step, L=1.0, M=M, gap=gap) + 1e-12).all()
    too_short = np.cumsum(2 * exact_gaps(np.full(299, step / 50), 1.0, np.full(299, M), gap)) / K
    assert (too_short > nonconvex_fixed_bound(K, step=step, L=1.0, M=M, gap=gap)).any()


def test_the_fixed_step_bound_is_attained_where_the_step_is_the_limit():
    """With step 1 / L and L = c the gap is the floor after one step, exactly."""
    exact = exact_gaps(np.ones(5), 1.0, np.full(5, 0.8), 3.0)
    bound = fixed_step_bound(np.arange(1, 7), step=1.0, L=1.0, c=1.0, M=0.8, gap=3.0)
    np.testing.assert_allclose(exact, bound, rtol=1e-12)


def test_diminishing_steps():
    beta, gamma, M, gap = 2.0, 1.0, 0.5, 1.0
    exact = exact_gaps(beta / (gamma + K[:-1]), 1.0, np.full(299, M), gap)
    bound = diminishing_step_bound(K, beta=beta, gamma=gamma, L=1.0, c=1.0, M=M, gap=gap)
    assert (exact <= bound + 1e-12).all()
    fixed = exact_gaps(np.full(299, 1.0), 1.0, np.full(299, M), gap)
    assert (fixed > bound).any()
    weights = beta / (gamma + K)
    squares = np.cumsum(weights * 2 * exact) / np.cumsum(weights)
    bound = nonconvex_diminishing_bound(weights, L=1.0, M=M, gap=gap)
    assert (squares <= bound + 1e-12).all()
    short = exact_gaps(weights[:-1] / 100, 1.0, np.full(299, M), gap)
    assert (np.cumsum(weights * 2 * short) / np.cumsum(weights) > bound).any()


def test_geometric_noise():
    M, gap, zeta, step = 0.5, 0.1, 0.9, 0.5
    exact = exact_gaps(np.full(299, step), 1.0, M * zeta ** np.arange(299), gap)
    bound = geometric_noise_bound(K, step=step, L=1.0, c=1.0, M=M, zeta=zeta, gap=gap)
    assert (exact <= bound + 1e-15).all()
    constant = exact_gaps(np.full(299, step), 1.0, np.full(299, M), gap)
    assert (constant > bound).any()


GOOD = {"L": 2.0, "c": 0.5, "M": 1.0, "gap": 1.0}
NONCONVEX = {"L": 2.0, "M": 1.0, "gap": 1.0}


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: fixed_step_bound(1, step=0.51, **GOOD), "step must be at most 0.5"),
        (lambda: fixed_step_bound(1, step=0.2, M_V=2.0, **GOOD), "step must be at most 0.166"),
        (lambda: fixed_step_bound(1, step=0.2, mu_G=2.0, **GOOD), "step must be at most 0.125"),
        (lambda: fixed_step_bound(1, step=0.1, mu_G=0.5, **GOOD), "mu_G"),
        (lambda: fixed_step_bound(0, step=0.1, **GOOD), "k must be >= 1"),
        (lambda: fixed_step_bound(1.5, step=0.1, **GOOD), "k must be an integer"),
        (lambda: fixed_step_bound(1, step=0.1, **{**GOOD, "c": 3.0}), "c must"),
        (lambda: fixed_step_bound(1, step=0.1, **{**GOOD, "M": -1.0}), "M must"),
        (lambda: fixed_step_bound(1, step=0.1, **{**GOOD, "gap": math.inf}), "gap must"),
        (lambda: diminishing_step_bound(1, beta=2.0, gamma=9.0, **GOOD), "beta must be > 1 / "),
        (lambda: diminishing_step_bound(1, beta=3.0, gamma=1.0, **GOOD), "beta / "),
        (lambda: nonconvex_fixed_bound(1, step=0.51, **NONCONVEX), "step"),
        (lambda: nonconvex_diminishing_bound([0.1, 0.51], **NONCONVEX), "largest of steps"),
        (lambda: nonconvex_diminishing_bound([0.1, 0.0], **NONCONVEX), "steps"),
        (lambda: geometric_noise_bound(1, step=0.51, zeta=0.5, **GOOD), "step"),
        (lambda: geometric_noise_bound(1, step=0.1, zeta=1.0, **GOOD), "zeta"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, name):
    with pytest.raises((TypeError, ValueError), match=name):
        call()
