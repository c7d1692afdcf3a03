"""Proximal operators against SciPy; ISTA and FISTA against their bounds, SciPy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from sklearn.linear_model import Lasso

from thalweg.descent import (
    fista,
    gradient_descent,
    nesterov,
    project_simplex,
    prox_box,
    prox_group,
    prox_l1,
    prox_nuclear,
    prox_squared,
    proximal_gradient,
    rate,
)

from ._battery import lasso, quadratic

GROUPS = np.array([0, 0, 1, 2, 2, 2])
both = pytest.mark.parametrize("method", [proximal_gradient, fista])

TERMS = {
    "l1": (prox_l1, lambda x: np.abs(x).sum()),
    "weighted l1": (
        lambda v, t: prox_l1(v, t * np.arange(6)),
        lambda x: (np.arange(6) * np.abs(x)).sum(),
    ),
    "group": (
        lambda v, t: prox_group(v, t, GROUPS),
        lambda x: sum(np.linalg.norm(x[k == GROUPS]) for k in range(3)),
    ),
    "nuclear": (
        lambda v, t: prox_nuclear(v.reshape(2, 3), t).ravel(),
        lambda x: np.linalg.svd(x.reshape(2, 3), compute_uv=False).sum(),
    ),
    "squared": (prox_squared, lambda x: 0.5 * x @ x),
    "box": (
        lambda v, t: prox_box(v, -1.0, 0.5),
        lambda x: 0.0 if x.min() >= -1 and x.max() <= 0.5 else math.inf,
    ),
}
terms = pytest.mark.parametrize("name", TERMS)
POINTS = arrays(np.float64, 6, elements=st.floats(-10, 10, allow_subnormal=False))


@terms
@given(v=POINTS, other=POINTS, t=st.floats(0.01, 5))
@settings(max_examples=60, deadline=None)
def test_prox_is_the_minimiser(name, v, other, t):
    prox, g = TERMS[name]
    x = prox(v, t)
    # The objective grows by at least half the squared distance from its minimiser.
    for y in (other, x + 0.1 * other, x * 0, v):
        whole = t * g(y) + 0.5 * np.sum((y - v) ** 2)
        assert whole - (t * g(x) + 0.5 * np.sum((x - v) ** 2)) >= 0.5 * np.sum((y - x) ** 2) - 1e-8


def test_thresholds_make_zeros():
    np.testing.assert_array_equal(prox_l1([1.0, -1.0, 0.2], 1.0), [0, 0, 0])
    np.testing.assert_array_equal(prox_group([0.3, 0.4, 5.0], 0.5, [0, 0, 3]), [0, 0, 4.5])
    assert np.linalg.matrix_rank(prox_nuclear(np.diag([3.0, 1.0, 0.5]), 1.0)) == 1
    np.testing.assert_array_equal(prox_group([0.0, 2.0], 0.0, [0, 1]), [0, 2])


def solve(method, problem, **options):
    lam = problem.more["lam"]
    return method(
        problem.fun,
        problem.x0,
        jac=problem.jac,
        prox=lambda v, t: prox_l1(v, lam * t),
        g=lambda x: lam * np.abs(x).sum(),
        L=problem.L,
        **options,
    )


@both
@pytest.mark.parametrize("dim", [2 + 1, 10, 60])
def test_lasso_agrees_with_scipy_and_scikit_learn(method, dim):
    problem = lasso(dim=dim)
    result = solve(method, problem)
    peer = Lasso(alpha=problem.more["lam"], fit_intercept=False, tol=1e-14, max_iter=100_000)
    peer.fit(problem.more["A"], problem.more["b"])
    assert result.success
    np.testing.assert_allclose(result.x, peer.coef_, atol=1e-8)
    assert result.fun == pytest.approx(problem.minimum, abs=1e-9)
    np.testing.assert_allclose(result.jac, problem.jac(result.x), atol=1e-13)


@both
@pytest.mark.parametrize("dim", [3, 10, 60])
def test_runs_stay_below_their_bounds(method, dim):
    problem = lasso(dim=dim)
    result = solve(method, problem, record=True, gtol=0.0, maxiter=200)
    t = np.arange(result.nit + 1)
    best = solve(fista, problem).fun
    bound = rate(method.__name__, t, L=problem.L, radius=problem.radius)
    gaps = result.history["fun"] - best
    assert (gaps <= bound + 1e-12).all()


def test_fista_is_far_ahead_on_ill_conditioned_problems():
    problem, lam = quadratic(50, 1e5), 1e-5

    def run(method, **options):
        return method(
            problem.fun,
            problem.x0,
            jac=problem.jac,
            prox=lambda v, t: prox_l1(v, lam * t),
            g=lambda x: lam * np.abs(x).sum(),
            L=1.0,
            **options,
        )

    best = run(fista, gtol=1e-9, maxiter=20_000).fun
    slow, fast = run(proximal_gradient, maxiter=300).fun, run(fista, maxiter=300).fun
    assert fast - best < 0.1 * (slow - best)


@both
def test_stop_measures_the_gradient_mapping(method):
    problem = lasso()
    lam, L = problem.more["lam"], problem.L
    for gtol in (1e-2, 1e-6):
        result = solve(method, problem, gtol=gtol)
        step = prox_l1(result.x - problem.jac(result.x) / L, lam / L)
        assert L * np.abs(result.x - step).max() <= gtol
        assert result.success


def test_methods_follow_the_printed_recursions():
    problem = lasso()
    lam, L = problem.more["lam"], problem.L

    def forward(x):
        return prox_l1(x - problem.jac(x) / L, lam / L)

    plain, fast = [problem.x0], [problem.x0]
    solve(proximal_gradient, problem, maxiter=6, callback=plain.append)
    solve(fista, problem, maxiter=6, callback=fast.append)
    z = x = y = problem.x0
    lam_s = 1.0
    for k in range(7):
        np.testing.assert_allclose(plain[k], z, atol=1e-13)
        np.testing.assert_allclose(fast[k], y, atol=1e-13)
        z = forward(z)
        following = (1 + math.sqrt(1 + 4 * lam_s**2)) / 2
        gamma = (1 - lam_s) / following
        ahead = forward(x)
        x, y, lam_s = (1 - gamma) * ahead + gamma * y, ahead, following


def test_without_a_second_term_they_are_the_gradient_methods():
    problem = quadratic(5, 20.0)
    options = {"jac": problem.jac, "L": 1.0, "maxiter": 15}
    for proximal, plain in ((proximal_gradient, gradient_descent), (fista, nesterov)):
        first = proximal(problem.fun, problem.x0, prox=lambda v, t: v, **options)
        np.testing.assert_allclose(first.x, plain(problem.fun, problem.x0, **options).x, rtol=1e-9)


@both
def test_projections_serve_as_proximal_operators(method):
    problem = quadratic(6, 10.0)
    ours = method(
        problem.fun,
        problem.x0,
        jac=problem.jac,
        prox=lambda v, t: project_simplex(v),
        L=1.0,
        gtol=1e-8,
    )
    peer = minimize(
        problem.fun,
        np.full(6, 1 / 6),
        jac=problem.jac,
        method="SLSQP",
        bounds=[(0, 1)] * 6,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
        options={"ftol": 1e-15},
    )
    np.testing.assert_allclose(ours.x, peer.x, atol=1e-5)


@both
def test_the_second_term_is_counted_only_if_given(method):
    problem = lasso()
    lam = problem.more["lam"]
    options = {"jac": problem.jac, "L": problem.L, "prox": lambda v, t: prox_l1(v, lam * t)}
    smooth = method(problem.fun, problem.x0, **options)
    assert smooth.fun == pytest.approx(problem.fun(smooth.x))
    assert solve(method, problem).fun == pytest.approx(smooth.fun + lam * np.abs(smooth.x).sum())


@both
def test_a_prox_that_breaks_ends_the_run(method):
    problem = lasso()
    result = method(
        problem.fun, problem.x0, jac=problem.jac, prox=lambda v, t: v * np.nan, L=problem.L
    )
    assert (result.success, result.message) == (False, "prox returned a value that is not finite")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: prox_l1([1.0], -1.0), ValueError, "t must be >= 0"),
        (lambda: prox_l1([np.inf], 1.0), ValueError, "v must be finite"),
        (lambda: prox_group([1.0], 1.0, [0.5]), ValueError, "groups must hold integers"),
        (lambda: prox_group([1.0], 1.0, [-1]), ValueError, "groups must hold integers"),
        (lambda: prox_group([1.0], 1.0, [0, 1]), ValueError, "groups must have shape"),
        (lambda: prox_group([1.0], -1.0, [0]), ValueError, "t must be"),
        (lambda: prox_nuclear([1.0], 1.0), ValueError, "V must have 2 axes"),
        (lambda: prox_nuclear([[1.0]], -1.0), ValueError, "t must be"),
        (lambda: prox_squared([1.0], -1.0), ValueError, "t must be"),
        (lambda: prox_box([1.0], 2.0, 1.0), ValueError, "lo must be <= hi"),
    ],
)
def test_malformed_arguments_of_operators_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@both
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"L": 0.0}, ValueError, "L must be"),
        ({"prox": 3}, TypeError, "prox must be callable"),
        ({"g": 3}, TypeError, "g must be callable or None"),
        ({"gtol": -1.0}, ValueError, "gtol must be"),
        ({"prox": lambda v, t: [1.0, 2.0]}, ValueError, "prox must return shape"),
    ],
)
def test_malformed_options_are_refused(method, options, error, message):
    options = {"L": 1.0, "prox": prox_l1, **options}
    with pytest.raises(error, match=message):
        method(lambda x: 0.0, [1.0], jac=lambda x: x, **options)
