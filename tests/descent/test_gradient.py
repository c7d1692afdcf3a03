"""Gradient descent, Nesterov's method, subgradients: recursions, bounds, agreement with SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from thalweg.descent import (
    gradient_descent,
    nesterov,
    project_ball,
    project_simplex,
    rate,
    subgradient_method,
)

from ._battery import CONDITIONS, DIMENSIONS, logistic, max_affine, quadratic, rosenbrock
from ._battery import smooth_problems as smooth

named = {"ids": lambda value: getattr(value, "name", str(value))}
problems = pytest.mark.parametrize("problem", smooth(), **named)
conditions = pytest.mark.parametrize("condition", CONDITIONS)
ROUNDING = 1e-12


def points_of(method, problem, **options):
    """Return the result and its points, the start first."""
    points = [problem.x0]
    result = method(
        problem.fun, problem.x0, jac=problem.jac, callback=points.append, record=True, **options
    )
    return result, np.array(points)


@problems
@pytest.mark.parametrize(
    "solve",
    [
        lambda p, **o: gradient_descent(p.fun, p.x0, jac=p.jac, L=p.L, **o),
        lambda p, **o: gradient_descent(p.fun, p.x0, jac=p.jac, step=2 / (p.mu + p.L), **o),
        lambda p, **o: gradient_descent(p.fun, p.x0, jac=p.jac, step="backtracking", **o),
        lambda p, **o: nesterov(p.fun, p.x0, jac=p.jac, L=p.L, mu=p.mu, **o),
        lambda p, **o: nesterov(p.fun, p.x0, jac=p.jac, L=p.L, **o),
    ],
    ids=["1/L", "2/(mu+L)", "backtracking", "nesterov-strong", "nesterov-convex"],
)
def test_agrees_with_scipy_on_smooth_problems(problem, solve):
    peer = minimize(
        problem.fun, problem.x0, jac=problem.jac, method="L-BFGS-B", options={"gtol": 1e-10}
    )
    result = solve(problem)
    assert result.success
    assert np.abs(result.jac).max() <= 1e-8
    np.testing.assert_allclose(result.jac, problem.jac(result.x), atol=1e-15)
    assert result.fun <= peer.fun + 1e-10
    # A gradient of 1e-8 in each coordinate leaves this much distance.
    distance = np.linalg.norm(result.x - problem.solution)
    assert distance <= 1e-8 * math.sqrt(len(problem.x0)) / problem.mu


def test_backtracking_agrees_with_scipy_on_rosenbrock():
    problem = rosenbrock()
    result = gradient_descent(
        problem.fun, problem.x0, jac=problem.jac, step="backtracking", gtol=1e-4, maxiter=50_000
    )
    peer = minimize(problem.fun, problem.x0, jac=problem.jac, method="BFGS")
    assert result.success
    np.testing.assert_allclose(result.x, peer.x, atol=1e-3)  # least curvature 0.4


def test_backtracking_descends_and_needs_few_values():
    problem = rosenbrock(10)
    result = gradient_descent(
        problem.fun, problem.x0, jac=problem.jac, step="backtracking", record=True, maxiter=500
    )
    assert (np.diff(result.history["fun"]) <= 1e-10 * result.history["fun"][:-1]).all()
    assert result.nfev < 4 * result.nit


@pytest.mark.parametrize("L", [None, 1.0, 1e-3])
def test_backtracking_finds_the_step_from_any_first_guess(L):
    problem = quadratic(10, 100.0)
    scaled = 1000.0
    result = gradient_descent(
        lambda x: scaled * problem.fun(x),
        problem.x0,
        jac=lambda x: scaled * problem.jac(x),
        L=L,
        step="backtracking" if L is None else None,
        gtol=1e-6,
    )
    assert result.success == (L is None)


def test_backtracking_steps_of_a_quadratic_lie_between_half_and_all_that_armijo_allows():
    # On x²·c/2 the decrease is half of what was promised exactly at step 1/c.
    for c in (0.3, 1.0, 7.0):
        points = [np.array([1.0])]
        gradient_descent(
            lambda x, c=c: float(0.5 * c * x @ x),
            points[0],
            jac=lambda x, c=c: c * x,
            step="backtracking",
            maxiter=1,
            callback=points.append,
        )
        step = (points[0] - points[1])[0] / c
        assert 0.5 / c < step <= 1 / c or step == pytest.approx(min(1.0, 1 / c))


@conditions
@pytest.mark.parametrize("n", DIMENSIONS)
def test_gradient_descent_stays_below_its_bounds(n, condition):
    problem = quadratic(n, condition)
    c = {"L": 1.0, "mu": problem.mu, "radius": problem.radius}
    result, points = points_of(gradient_descent, problem, L=1.0, gtol=0.0, maxiter=100)
    t = np.arange(result.nit + 1)
    gaps = result.history["fun"] - problem.minimum - ROUNDING
    distance_sq = ((points - problem.solution) ** 2).sum(axis=1)
    assert (gaps <= rate("gradient_descent-convex", t, L=1.0, radius=problem.radius)).all()
    assert (distance_sq <= rate("gradient_descent-strong", t, **c) + ROUNDING).all()
    result, _ = points_of(gradient_descent, problem, step=2 / (1 + problem.mu), maxiter=100)
    gaps = result.history["fun"] - problem.minimum - ROUNDING
    t = np.arange(result.nit + 1)
    assert (gaps <= rate("gradient_descent-strong-long", t, **c)).all()


@conditions
@pytest.mark.parametrize("n", DIMENSIONS)
def test_nesterov_stays_below_its_bounds(n, condition):
    problem = quadratic(n, condition)
    result, _ = points_of(nesterov, problem, L=1.0, mu=problem.mu, gtol=0.0, maxiter=200)
    t = np.arange(result.nit + 1)
    strong = rate("nesterov-strong", t, L=1.0, mu=problem.mu, radius=problem.radius)
    assert (result.history["fun"] - problem.minimum - ROUNDING <= strong).all()
    result, _ = points_of(nesterov, problem, L=1.0, gtol=0.0, maxiter=200)
    convex = rate("nesterov-convex", np.arange(result.nit + 1), L=1.0, radius=problem.radius)
    assert (result.history["fun"] - problem.minimum - ROUNDING <= convex).all()


def test_nesterov_needs_the_square_root_of_the_steps():
    problem = quadratic(50, 2e3)
    plain = gradient_descent(problem.fun, problem.x0, jac=problem.jac, L=1.0, maxiter=10**6)
    fast = nesterov(problem.fun, problem.x0, jac=problem.jac, L=1.0, mu=5e-4)
    assert plain.success
    assert fast.success
    assert plain.nit >= 9 * fast.nit


def test_nesterov_follows_the_printed_recursion_for_strong_convexity():
    problem = quadratic(6, 30.0)
    _, points = points_of(nesterov, problem, L=1.0, mu=1 / 30, maxiter=8)
    q = (math.sqrt(30) - 1) / (math.sqrt(30) + 1)
    x = y = problem.x0
    for point in points:
        np.testing.assert_allclose(point, y, rtol=1e-12, atol=1e-14)
        ahead = x - problem.jac(x)
        x, y = (1 + q) * ahead - q * y, ahead


def test_nesterov_follows_the_printed_recursion_without_strong_convexity():
    problem = logistic()
    _, points = points_of(nesterov, problem, L=problem.L, maxiter=8)
    x = y = problem.x0
    lam = 1.0  # lambda_1, after lambda_0 = 0
    for point in points:
        np.testing.assert_allclose(point, y, rtol=1e-12, atol=1e-14)
        following = (1 + math.sqrt(1 + 4 * lam**2)) / 2
        gamma = (1 - lam) / following
        ahead = x - problem.jac(x) / problem.L
        x, y, lam = (1 - gamma) * ahead + gamma * y, ahead, following


def on_simplex(n=8, seed=3):
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(12, n)), rng.normal(size=12)
    peer = minimize(
        lambda x: 0.5 * np.sum((A @ x - b) ** 2),
        np.full(n, 1 / n),
        jac=lambda x: A.T @ (A @ x - b),
        method="SLSQP",
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return (
        lambda x: 0.5 * np.sum((A @ x - b) ** 2),
        lambda x: A.T @ (A @ x - b),
        np.linalg.norm(A, 2) ** 2,
        np.linalg.eigvalsh(A.T @ A)[0],
        peer,
    )


@pytest.mark.parametrize("way", ["1/L", "backtracking", "nesterov", "nesterov-strong"])
def test_projected_methods_agree_with_scipy_on_the_simplex(way):
    fun, jac, L, mu, peer = on_simplex()
    x0 = np.eye(8)[0]
    gtol = 1e-7
    if way.startswith("nesterov"):
        strong = mu if way.endswith("strong") else 0.0
        result = nesterov(fun, x0, jac=jac, L=L, mu=strong, projection=project_simplex, gtol=gtol)
    else:
        options = {"step": way} if way == "backtracking" else {"L": L}
        result = gradient_descent(
            fun, x0, jac=jac, projection=project_simplex, gtol=gtol, **options
        )
    assert result.success
    assert result.x.min() >= 0
    assert result.x.sum() == pytest.approx(1)
    np.testing.assert_allclose(result.x, peer.x, atol=1e-5)
    assert result.fun <= peer.fun + 1e-9


def test_projected_descent_stays_below_its_bound():
    fun, jac, L, mu, peer = on_simplex()
    points = [np.eye(8)[0]]
    result = gradient_descent(
        fun,
        points[0],
        jac=jac,
        L=L,
        projection=project_simplex,
        record=True,
        maxiter=300,
        callback=points.append,
    )
    t = np.arange(result.nit + 1)
    radius = np.linalg.norm(points[0] - peer.x)
    gaps = result.history["fun"] - peer.fun - 1e-9
    bound = rate("gradient_descent-projected", t, L=L, radius=radius, gap0=gaps[0] + 1e-9)
    assert (gaps <= bound).all()
    distance_sq = ((np.array(points) - peer.x) ** 2).sum(axis=1)
    strong = rate("gradient_descent-strong", t, L=L, mu=mu, radius=radius)
    assert (distance_sq <= strong + 1e-6).all()


def test_an_infeasible_start_is_projected():
    fun, jac, L, _, _ = on_simplex()
    for method in (gradient_descent, nesterov):
        result = method(fun, np.full(8, 5.0), jac=jac, L=L, projection=project_simplex, maxiter=0)
        np.testing.assert_allclose(result.x, np.full(8, 1 / 8))


@pytest.mark.parametrize("n", [2, 10, 100])
@pytest.mark.parametrize("rule", ["fixed", "decreasing"])
def test_subgradient_method_stays_below_its_bound(n, rule):
    problem = max_affine(n)
    half_width = problem.more["half_width"]
    radius = half_width * 2 * math.sqrt(n)  # the diagonal of the box
    horizon = 400
    result = subgradient_method(
        problem.fun,
        problem.x0,
        jac=problem.jac,
        step=rule,
        radius=radius,
        lipschitz=problem.lipschitz,
        projection=lambda x: np.clip(x, -half_width, half_width),
        maxiter=horizon,
        record=True,
    )
    name = "subgradient_method-" + ("convex" if rule == "fixed" else rule)
    t = np.arange(horizon + 1)
    bound = rate(name, t, radius=radius, lipschitz=problem.lipschitz)
    checked = slice(1, None) if rule == "decreasing" else slice(horizon, None)
    assert (result.history["fun"] - problem.minimum <= bound)[checked].all()
    assert (result.history["fun_best"] - problem.minimum <= bound)[checked].all()
    assert result.fun_best == problem.fun(result.x_best) == result.history["fun_best"][-1]
    assert result.success


def test_subgradient_method_for_strong_convexity_stays_below_its_bound():
    rng = np.random.default_rng(0)
    centre, alpha, box = rng.normal(size=6), 0.5, 2.0

    def fun(x):
        return np.abs(x - centre).sum() + 0.5 * alpha * x @ x

    solution = np.sign(centre) * np.minimum(np.abs(centre), 1 / alpha)
    lipschitz = math.sqrt(6) * (1 + alpha * box)
    result = subgradient_method(
        fun,
        np.full(6, box),
        jac=lambda x: np.sign(x - centre) + alpha * x,
        strong_convexity=alpha,
        projection=lambda x: np.clip(x, -box, box),
        record=True,
    )
    t = np.arange(result.nit + 1)
    bound = rate("subgradient_method-strong", t, lipschitz=lipschitz, mu=alpha)
    assert (result.history["fun"] - fun(solution) <= bound).all()


@pytest.mark.parametrize(
    ("options", "length", "weight"),
    [
        ({"step": 0.3}, lambda s: 0.3, lambda s: 1),
        ({"radius": 2.0, "lipschitz": 4.0}, lambda s: 0.5 / math.sqrt(9), lambda s: 1),
        (
            {"radius": 2.0, "lipschitz": 4.0, "step": "decreasing"},
            lambda s: 0.5 / math.sqrt(s),
            lambda s: 1,
        ),
        ({"strong_convexity": 2.0}, lambda s: 1 / (s + 1), lambda s: s),
    ],
)
def test_subgradient_method_follows_the_printed_recursion(options, length, weight):
    problem = max_affine(4)
    result = subgradient_method(
        problem.fun,
        problem.x0,
        jac=problem.jac,
        projection=lambda x: project_ball(x, 6.0),
        maxiter=9,
        **options,
    )
    x, seen, weights = problem.x0, [], []
    for s in range(1, 10):
        seen.append(x)
        weights.append(weight(s))
        x = project_ball(x - length(s) * problem.jac(x), 6.0)
    np.testing.assert_allclose(result.x, np.average(seen, axis=0, weights=weights), rtol=1e-12)
    np.testing.assert_allclose(result.x_last, x, rtol=1e-12)
    values = [problem.fun(point) for point in seen]
    np.testing.assert_allclose(result.x_best, seen[int(np.argmin(values))])
    assert result.fun_best == min(values)


def test_subgradient_method_agrees_with_linear_programming():
    problem = max_affine(2)
    result = subgradient_method(
        problem.fun,
        problem.x0,
        jac=problem.jac,
        step="decreasing",
        radius=2.0,
        lipschitz=problem.lipschitz,
        projection=lambda x: np.clip(x, -5, 5),
        maxiter=10_000,
    )
    assert result.fun_best == pytest.approx(problem.minimum, abs=0.02)


@given(st.floats(0.1, 10.0), st.floats(-5.0, 5.0), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_scaling_the_function_scales_nothing_but_its_values(scale, shift, n):
    problem = quadratic(n, 10.0)

    def run(method, **options):
        plain = method(problem.fun, problem.x0, jac=problem.jac, L=1.0, maxiter=5, **options)
        scaled = method(
            lambda x: scale * problem.fun(x) + shift,
            problem.x0,
            jac=lambda x: scale * problem.jac(x),
            L=scale,
            maxiter=5,
            **{key: scale * value for key, value in options.items()},
        )
        np.testing.assert_allclose(scaled.x, plain.x, rtol=1e-9, atol=1e-12)

    run(gradient_descent)
    run(nesterov, mu=0.1)
    run(nesterov)


def test_steps_that_are_too_long_end_in_a_clear_failure():
    problem = quadratic(3, 10.0)
    result = gradient_descent(problem.fun, problem.x0, jac=problem.jac, step=1e3)
    assert not result.success
    assert "steps are too long" in result.message or "not finite" in result.message
    assert np.isfinite(result.x).all()


def test_a_wrong_gradient_leaves_backtracking_without_a_step():
    result = gradient_descent(
        lambda x: float(x @ x), [1.0], jac=lambda x: -1e9 * x, step="backtracking"
    )
    assert not result.success
    assert "no step that decreases" in result.message


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (gradient_descent, {}, "L must be given unless step is"),
        (gradient_descent, {"L": 0.0}, "L must be a finite number > 0"),
        (gradient_descent, {"step": -1.0}, "step must be a finite number > 0"),
        (gradient_descent, {"step": "wolfe"}, "step must be one of 'backtracking'"),
        (gradient_descent, {"step": 1.0, "L": 1.0}, "step must be left out if L is given"),
        (gradient_descent, {"L": 1.0, "gtol": -1.0}, "gtol must be"),
        (nesterov, {"L": 1.0, "mu": 2.0}, "mu must be a finite number >= 0 and <= 1"),
        (nesterov, {"L": 1.0, "mu": -0.1}, "mu must be"),
        (nesterov, {"L": np.inf}, "L must be"),
        (nesterov, {"L": 1.0, "gtol": np.nan}, "gtol must be"),
        (subgradient_method, {}, "radius must be given for step='fixed'"),
        (subgradient_method, {"radius": 1.0}, "lipschitz must be given"),
        (subgradient_method, {"step": "strong"}, "strong_convexity must be given"),
        (subgradient_method, {"step": "best"}, "step must be one of"),
        (subgradient_method, {"step": 0.0}, "step must be"),
        (subgradient_method, {"radius": -1.0, "lipschitz": 1.0}, "radius must be"),
    ],
)
def test_malformed_constants_are_refused(method, options, message):
    with pytest.raises(ValueError, match=message):
        method(lambda x: 0.0, [1.0], jac=lambda x: x, **options)


def test_missing_constants_are_named():
    with pytest.raises(TypeError, match="'L'"):
        nesterov(lambda x: 0.0, [1.0], jac=lambda x: x)


@pytest.mark.parametrize("method", [gradient_descent, nesterov, subgradient_method])
def test_malformed_projections_are_refused(method):
    options = {"step": 1.0} if method is subgradient_method else {"L": 1.0}
    with pytest.raises(TypeError, match="projection must be callable or None"):
        method(lambda x: 0.0, [1.0], jac=lambda x: x, projection=3, **options)
    with pytest.raises(ValueError, match="projection"):
        method(lambda x: 0.0, [1.0], jac=lambda x: x, projection=lambda x: [1, 2], **options)
