"""What interpolating data promise: the growth constant, exact rates, and the theorem's bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import eigh

from thalweg.descent import (
    LeastSquares,
    Logistic,
    accelerated_bound,
    mean_square_rate,
    sgd,
    stochastic_nesterov,
    strong_growth_constant,
)
from thalweg.descent.strong_growth import RATE_VARIANTS, state_maps


def design(seed=0, n=15, d=3):
    return np.random.default_rng(seed).normal(size=(n, d)) * np.logspace(0, -0.7, d)


def fitted(A, l2=0.0, star=None):
    star = np.zeros(A.shape[1]) if star is None else star
    return LeastSquares(A, A @ star, l2=l2)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_one_coordinate_at_a_time_gives_their_number(d):
    assert strong_growth_constant(fitted(np.eye(d), star=np.ones(d))) == pytest.approx(d)


@pytest.mark.parametrize("l2", [0.0, 0.4])
def test_no_direction_exceeds_the_constant_and_one_attains_it(l2):
    A = design()
    problem = fitted(A, l2=l2)
    rho = strong_growth_constant(problem)
    directions = np.random.default_rng(1).normal(size=(500, 3))
    assert 1 <= strong_growth_constant(problem, directions) <= rho * (1 + 1e-12)
    hessians = A[:, :, None] * A[:, None, :] + l2 * np.eye(3)
    H = hessians.mean(axis=0)
    values, vectors = eigh((hessians @ hessians).mean(axis=0), H @ H)
    assert rho == pytest.approx(values[-1], rel=1e-10)
    assert strong_growth_constant(problem, vectors[:, -1:].T) == pytest.approx(rho, rel=1e-10)
    known = problem.curvature()
    assert rho <= known["L_max"] / known["mu"]


def test_more_unknowns_than_rows_are_measured_where_the_rows_reach():
    A = design(n=3, d=7)
    directions = np.linalg.svd(A, full_matrices=False)[2]
    inside = strong_growth_constant(fitted(A @ directions.T))
    assert strong_growth_constant(fitted(A, star=np.ones(7))) == pytest.approx(inside)


def test_batches_divide_the_excess():
    problem = fitted(design())
    rho = strong_growth_constant(problem)
    rng = np.random.default_rng(0)
    point = rng.normal(size=3)
    each = problem.component_gradients(point)
    batches = each[rng.integers(15, size=(40_000, 4))].mean(axis=1)
    squared, whole = np.mean(np.sum(batches**2, axis=1)), np.sum(each.mean(axis=0) ** 2)
    one = strong_growth_constant(problem, [point])
    assert squared / whole == pytest.approx(1 + (one - 1) / 4, rel=0.02)
    assert one < rho


def test_points_give_a_lower_estimate_for_any_loss():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(8, 2))
    problem = Logistic(X, np.where(X[:, 0] > 0, 1.0, -1.0))
    points = rng.normal(size=(5, 2))
    ratios = [
        np.mean(np.sum(problem.component_gradients(w) ** 2, axis=1))
        / np.sum(problem.gradient(w) ** 2)
        for w in points
    ]
    assert strong_growth_constant(problem, points) == pytest.approx(max(ratios))
    kinked = LeastSquares([[1.0], [1.0]], [1.0, -1.0])
    assert strong_growth_constant(kinked, [[0.0]]) == np.inf


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: strong_growth_constant(Logistic([[1.0]], [1])), ValueError, "points must be"),
        (
            lambda: strong_growth_constant(LeastSquares([[1.0], [1.0]], [0.0, 1.0])), ValueError,
            "problem must have components with a common minimiser",
        ),
        (
            lambda: strong_growth_constant(LeastSquares(np.eye(2), [1.0, 1.0], l2=0.1)), ValueError,
            "common minimiser",
        ),
        (lambda: strong_growth_constant(fitted(np.zeros((2, 2)))), ValueError, "a row that is not"),
        (lambda: strong_growth_constant(fitted(np.eye(2)), [1.0]), ValueError, "points must have"),
        (lambda: strong_growth_constant(fitted(np.eye(1)), [[0.0]]), ValueError, "gradient is not"),
        (lambda: strong_growth_constant(object(), [[0.0]]), TypeError, "problem must have n"),
    ],
)  # fmt: skip
def test_a_constant_that_does_not_exist_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_rates_on_two_coordinates_are_those_worked_out_by_hand():
    options = {"step": 1.0, "mu": 0.5}
    rate = {name: mean_square_rate(np.eye(2), variant=name, **options) for name in RATE_VARIANTS}
    assert rate["semi-stochastic"] == pytest.approx(2 * (1 - np.sqrt(0.5)) ** 2, rel=1e-12)
    assert rate["stochastic"] == pytest.approx(0.520304, abs=1e-6)
    assert rate["momentum"] == pytest.approx(rate["stochastic"], rel=1e-9)
    assert rate["sgd"] == pytest.approx(0.5, rel=1e-12)
    scaled = mean_square_rate(np.eye(2), variant="stochastic", growth=2.0, **options)
    assert scaled == pytest.approx(0.5, rel=1e-9)
    five = {"step": 1.0, "mu": 0.2, "variant": "stochastic"}
    assert mean_square_rate(np.eye(5), **five) == pytest.approx(0.8652, abs=1e-4)
    assert mean_square_rate(np.eye(5), growth=5.0, **five) == pytest.approx(0.8, rel=1e-9)


@pytest.mark.parametrize("variant", RATE_VARIANTS)
@pytest.mark.parametrize("growth", [1.0, 3.0])
def test_maps_are_those_of_the_method(variant, growth):
    """A run whose draws are known moves the errors as the maps say."""
    if growth > 1 and variant != "stochastic":
        return
    A, star, x0 = design(), np.array([1.0, -1.0, 2.0]), np.array([2.0, 0.0, 0.0])
    problem, step, mu = fitted(A, star=star), 0.2, 0.01
    maps = state_maps(A, step=step, mu=mu, variant=variant, growth=growth)
    state = np.tile(x0 - star, 1 if variant == "sgd" else 2)
    for i in (np.random.default_rng(4).random(30) * 15).astype(int):
        state = maps[i] @ state
    options = {"step": step, "n_steps": 30, "rng": 4}
    if variant == "sgd":
        run = sgd(problem, x0, **options)
    else:
        run = stochastic_nesterov(problem, x0, mu=mu, variant=variant, growth=growth, **options)
    np.testing.assert_allclose(run.x - star, state[:3], rtol=1e-9, atol=1e-12)
    if variant in ("semi-stochastic", "stochastic"):
        np.testing.assert_allclose(run.v - star, state[3:], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variant", RATE_VARIANTS)
def test_the_rate_is_the_factor_of_the_expected_square(variant):
    A = design()
    maps = state_maps(A, step=0.3, mu=0.02, variant=variant)
    second = np.eye(maps.shape[1])
    traces = []
    for _ in range(600):
        second = np.mean(maps @ second @ maps.transpose(0, 2, 1), axis=0)
        traces.append(np.trace(second))
    rate = mean_square_rate(A, step=0.3, mu=0.02, variant=variant)
    assert rate == pytest.approx((traces[-1] / traces[-101]) ** 0.01, rel=1e-6)


@pytest.mark.parametrize("variant", RATE_VARIANTS)
def test_the_rate_is_the_slope_of_many_runs(variant):
    """A short horizon, so that the mean of squares is not carried by rare runs."""
    A, options = np.random.default_rng(0).normal(size=(6, 2)), {"mu": 0.2, "variant": variant}
    maps = state_maps(A, step=0.2, **options)
    rng = np.random.default_rng(0)
    states = np.ones((40_000, maps.shape[1], 1))
    sizes = []
    for _ in range(40):
        states = maps[rng.integers(len(A), size=len(states))] @ states
        sizes.append(np.mean(states**2))
    slope = np.polyfit(np.arange(20, 40), np.log(sizes[20:]), 1)[0]
    factor = np.exp(slope)
    assert factor == pytest.approx(mean_square_rate(A, step=0.2, **options), rel=0.02)
    assert factor != pytest.approx(mean_square_rate(A, step=0.1, **options), rel=0.02)


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_proved_rates_hold_on_random_designs(seed, d):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(d + 4, d)) * np.exp(rng.normal(size=(d + 4, 1)))
    problem = fitted(A)
    known, rho = problem.curvature(), strong_growth_constant(problem)
    if known["L"] / known["mu"] > 1e6:
        return
    step, mu = 1 / (rho * known["L"]), known["mu"]
    semi = mean_square_rate(A, step=step, mu=mu)
    assert semi <= 1 - np.sqrt(step * mu) + 1e-9
    scaled = mean_square_rate(A, step=step, mu=mu, variant="stochastic", growth=rho)
    assert scaled <= 1 - np.sqrt(step * mu / rho) + 1e-9


def test_fewer_rows_than_unknowns_have_a_rate_of_sgd_only():
    A = design(n=3, d=5)
    directions = np.linalg.svd(A, full_matrices=False)[2]
    step = 0.1
    inside = mean_square_rate(A @ directions.T, step=step, mu=0.0, variant="sgd")
    assert mean_square_rate(A, step=step, mu=0.0, variant="sgd") == pytest.approx(inside)
    assert inside < 1
    with pytest.raises(ValueError, match=r"mu must be 0 where .* is singular \(rank 3 of 5\)"):
        mean_square_rate(A, step=step, mu=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0.0}, "step must be"),
        ({"mu": 0.0}, "mu must be .* > 0"),
        ({"mu": 11.0}, "mu must be .* <= 10"),
        ({"mu": -1.0, "variant": "sgd"}, "mu must be .* >= 0"),
        ({"variant": "nesterov"}, "variant must be one of"),
        ({"growth": 2.0}, "growth must be 1"),
        ({"growth": 2.0, "variant": "sgd"}, "growth must be 1"),
        ({"growth": 0.5, "variant": "stochastic"}, "growth must be .* >= 1"),
        ({"A": np.eye(13)}, "A must give a state of at most 24 numbers, got 26"),
        ({"A": np.eye(25), "variant": "sgd"}, "at most 24 numbers, got 25"),
        ({"A": np.zeros((2, 2))}, "A must have a row"),
        ({"A": [1.0]}, "A must have 2 axes"),
    ],
)
def test_malformed_arguments_of_the_rate_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        mean_square_rate(**{"A": np.eye(2), "step": 0.1, "mu": 0.1} | options)


def test_the_largest_states_have_a_rate():
    assert mean_square_rate(np.eye(12), step=1.0, mu=1 / 12) < 1
    assert mean_square_rate(np.eye(24), step=1.0, mu=0, variant="sgd") == pytest.approx(23 / 24)


@given(st.floats(1e-3, 1e3), st.floats(0, 1), st.floats(1e-3, 1e3), st.floats(1, 100))
def test_the_bound_is_below_its_closed_forms(step, share, gamma0, growth):
    k, mu = np.arange(200), share / step
    bound = accelerated_bound(
        k, step=step, mu=mu, gamma0=gamma0, gap0=2.0, dist0=3.0, growth=growth
    )
    scale = 2 + gamma0 / 2 * 9
    assert bound[0] == pytest.approx(scale)
    slack = 1 + 1e-9
    assert (bound <= slack * scale * 4 / (2 + k * np.sqrt(step * gamma0 / growth)) ** 2).all()
    if gamma0 >= mu:
        assert (bound <= slack * scale * (1 - np.sqrt(step * mu / growth)) ** k + 1e-300).all()


def test_the_bound_of_lone_and_unordered_counts():
    options = {"step": lambda k: 0.1 / (k + 1), "mu": 0.5, "gamma0": 2.0, "gap0": 1.0, "dist0": 1.0}
    whole = accelerated_bound(np.arange(6), **options)
    assert accelerated_bound(4, **options) == whole[4]
    np.testing.assert_array_equal(accelerated_bound([[5, 0]], **options), [[whole[5], whole[0]]])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": [0.5]}, TypeError, "k must hold integers"),
        ({"k": [-1]}, ValueError, "k must hold numbers >= 0"),
        ({"step": 0.0}, ValueError, "step must be"),
        ({"mu": 3.0}, ValueError, "mu must be at most 1 / step"),
        ({"gamma0": 0.0}, ValueError, "gamma0 must be"),
        ({"gap0": -1.0}, ValueError, "gap0 must be"),
        ({"dist0": -1.0}, ValueError, "dist0 must be"),
        ({"growth": 0.0}, ValueError, "growth must be"),
    ],
)
def test_malformed_arguments_of_the_bound_are_refused(options, error, message):
    good = {"k": [1], "step": 0.5, "mu": 0.1, "gamma0": 1.0, "gap0": 1.0, "dist0": 1.0}
    with pytest.raises(error, match=message):
        accelerated_bound(**good | options)
