"""Bounds of AdaGrad-Norm: they hold on runs, solve their equations, and are not vacuous."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.descent import (
    adagrad_norm,
    affine_noise,
    function_gap_bound,
    gradient_bound,
    noiseless_bound,
)

positive = st.floats(1e-2, 1e2)
KNOWN = {"gap": 3.0, "beta": 2.0, "sigma0": 0.5, "sigma1": 1.5, "eta": 0.7, "gamma": 0.1}


def waves(seed, dim=4):
    """A sum of 6 cosines, its gradient, its gap bound and a Lipschitz constant."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(6, dim)) * 10.0 ** rng.uniform(-1, 1)
    beta = float(np.linalg.norm(rows, 2) ** 2)
    return (
        lambda x: float(np.sum(1 - np.cos(rows @ x))),
        lambda x: rows.T @ np.sin(rows @ x),
        beta,
        rng.normal(size=dim),
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), eta=positive, gamma=positive)
def test_noiseless_bound_holds_on_random_smooth_functions(seed, eta, gamma):
    value, gradient, beta, x0 = waves(seed)
    run = adagrad_norm(lambda x, rng: gradient(x), x0, n_steps=200, eta=eta, gamma=gamma)
    assert run.grad_sum - gamma**2 <= noiseless_bound(value(x0), beta, eta, gamma) * (1 + 1e-9)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_noiseless_bound_is_within_a_factor_of_50_on_a_quadratic(eta):
    run = adagrad_norm(lambda x, rng: x, [1.0, -2.0], n_steps=5000, eta=eta)
    bound = noiseless_bound(2.5, 1.0, eta, 1e-2)
    assert run.grad_sum - 1e-4 <= bound <= 50 * run.grad_sum


@given(gap=positive, beta=positive, eta=positive, gamma=positive)
def test_noiseless_bound_is_the_largest_root_of_its_equation(gap, beta, eta, gamma):
    def room(total):
        A = gap + 0.5 * beta * eta**2 * np.log1p(total / gamma**2)
        return eta * total - A * np.sqrt(gamma**2 + total)

    S = noiseless_bound(gap, beta, eta, gamma)
    # the iteration from above stops when it moves by 1e-12; near a double root it stops early
    assert abs(room(S)) <= 1e-9 * eta * S
    assert (room(S * np.geomspace(1 + 1e-6, 1e6, 400)) > 0).all()
    A = gap + 0.5 * beta * eta**2 * math.log1p(S / gamma**2)
    simpler = (A / eta) ** 2 + gamma * A / eta
    assert simpler >= S * (1 - 1e-9)


def test_noiseless_bound_fails_for_a_run_with_steps_too_long():
    """Steps that leave out the current gradient: the first one leaves the valley."""
    x0 = np.array([1.0, -2.0])
    run = adagrad_norm(lambda x, rng: 50 * x, x0, n_steps=100, eta=1.0, gamma=1e-3, delayed=True)
    S = noiseless_bound(25 * x0 @ x0, 50.0, 1.0, 1e-3)
    assert run.grad_sum > 100 * S
    right = adagrad_norm(lambda x, rng: 50 * x, x0, n_steps=100, eta=1.0, gamma=1e-3)
    assert right.grad_sum < S


def test_function_gap_bound_adds_its_four_parts():
    T, delta = 100, 0.1
    log = math.log(1000)
    inside = 2 * 0.25 * T + 8 * (1 + 2.25) * (0.49 * 4 * T**3 + 2 * 3 * T)
    C = math.log(1 + inside / 0.01)
    parts = [
        2 * 3.0,
        (3 * log + 4 * C) * 0.7 * 0.5,
        (9 * log**2 + 16 * C**2) * 0.49 * 2 * 2.25,
        0.49 * 2 * C,
    ]
    assert function_gap_bound(T, delta, **KNOWN) == pytest.approx(sum(parts), rel=1e-13)
    assert function_gap_bound(T, 0.5, **KNOWN) < function_gap_bound(T, 0.1, **KNOWN)


@given(
    T=st.integers(1, 10**6), delta=st.floats(1e-6, 0.999), gap=positive, beta=positive,
    sigma0=st.floats(0, 100), sigma1=st.floats(0, 100), eta=positive, gamma=positive,
)  # fmt: skip
def test_gradient_bound_solves_its_equation(T, delta, **known):
    S = T * gradient_bound(T, delta, **known)
    F = function_gap_bound(T, delta, **known)
    inside = known["gamma"] ** 2 + known["sigma0"] ** 2 * (2 * T + 1)
    inside += 3 * (1 + known["sigma1"] ** 2) * S
    assert pytest.approx(F / known["eta"] * math.sqrt(inside), rel=1e-9) == S


def test_bounds_hold_on_noisy_runs_and_fail_for_a_run_with_wrong_steps():
    """beta-smooth x²/2 in one dimension, sigma1 = 1: 20 runs, then one whose steps are delayed."""
    known = {"gap": 50.0, "beta": 1.0, "sigma0": 0.2, "sigma1": 1.0, "eta": 0.5, "gamma": 1e-6}
    T = 300
    noisy = affine_noise(lambda x: x, 0.2, 1.0)
    F, mean = (bound(T, 0.05, **known) for bound in (function_gap_bound, gradient_bound))

    def measured(seed, delayed=False):
        run = adagrad_norm(
            noisy, [10.0], n_steps=T, eta=0.5, gamma=1e-6, rng=seed, record=True, delayed=delayed
        )
        x = run.history["x"][:, 0]
        return np.max(x**2) / 2, np.mean(x[:-1] ** 2)

    for seed in range(20):
        high, average = measured(seed)
        assert high <= F
        assert average <= mean
    high, average = measured(0, delayed=True)
    assert high > F
    assert average > mean


@settings(max_examples=50)
@given(
    x=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6),
    sigma0=st.floats(0, 1e3),
    sigma1=st.floats(0, 1e3),
    kind=st.sampled_from(["sphere", "rademacher"]),
)
def test_noise_has_the_size_of_the_bound(x, sigma0, sigma1, kind):
    x = np.array(x)
    true = np.sin(x)
    error = affine_noise(np.sin, sigma0, sigma1, kind)(x, np.random.default_rng(0)) - true
    size = sigma0**2 + sigma1**2 * true @ true
    # the sum g = ∇f + noise is rounded at the size of the gradient
    assert error @ error == pytest.approx(size, rel=1e-12, abs=1e-12 * (1 + np.sqrt(size)))


@pytest.mark.parametrize("kind", ["sphere", "rademacher"])
def test_noise_has_mean_zero_and_no_direction(kind):
    noisy = affine_noise(lambda x: x, 3.0, 1.0, kind)
    rng = np.random.default_rng(0)
    x = np.array([[4.0, 0.0], [0.0, 0.0]])
    draws = np.array([noisy(x, rng) for _ in range(20_000)]) - x
    radius = 5.0
    # five standard errors of a mean of 20 000 entries of size radius / 2
    assert np.abs(draws.mean(axis=0)).max() < 5 * radius / 2 / math.sqrt(20_000)
    second = np.einsum("nij,nkl->ijkl", draws, draws).reshape(4, 4) / 20_000
    np.testing.assert_allclose(second, np.eye(4) * radius**2 / 4, atol=0.3)
    if kind == "rademacher":
        np.testing.assert_allclose(np.abs(draws), radius / 2)


@pytest.mark.parametrize(
    ("bound", "change", "error", "match"),
    [
        (function_gap_bound, {"T": 0}, ValueError, "T must"),
        (function_gap_bound, {"delta": 0.0}, ValueError, "delta"),
        (gradient_bound, {"delta": 1.0}, ValueError, "delta"),
        (gradient_bound, {"gap": -1.0}, ValueError, "gap"),
        (gradient_bound, {"beta": 0.0}, ValueError, "beta"),
        (function_gap_bound, {"sigma0": -1.0}, ValueError, "sigma0"),
        (function_gap_bound, {"sigma1": -1.0}, ValueError, "sigma1"),
        (gradient_bound, {"eta": 0.0}, ValueError, "eta"),
        (gradient_bound, {"gamma": None}, TypeError, "gamma"),
    ],
)
def test_bounds_refuse_bad_arguments(bound, change, error, match):
    arguments = {"T": 10, "delta": 0.1, **KNOWN, **change}
    with pytest.raises(error, match=match):
        bound(arguments.pop("T"), arguments.pop("delta"), **arguments)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((-1, 1, 1, 1), "gap"),
        ((1, 0, 1, 1), "beta"),
        ((1, 1, 0, 1), "eta"),
        ((1, 1, 1, 0), "gamma"),
    ],
)
def test_noiseless_bound_refuses_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        noiseless_bound(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((None, 1, 1), TypeError, "gradient"),
        ((np.sin, -1, 1), ValueError, "sigma0"),
        ((np.sin, 1, -1), ValueError, "sigma1"),
        ((np.sin, 1, 1, "normal"), ValueError, "kind"),
    ],
)
def test_noise_refuses_bad_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        affine_noise(*arguments)
