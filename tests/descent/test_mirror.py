"""Mirror descent, dual averaging, mirror prox: recursions, bounds, noise, regularisers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import linprog

from thalweg.descent import (
    L1,
    BoxEntropy,
    Euclidean,
    NegativeEntropy,
    SquaredL2,
    VonNeumann,
    dual_averaging,
    gradient_descent,
    mirror_descent,
    mirror_prox,
    project_simplex,
    prox_l1,
    proximal_gradient,
    rate,
    subgradient_method,
)

from ._battery import lasso, quadratic


def worst_case(n=30, pieces=15, seed=0):
    """max_i a_i·x on the simplex: a game's value, by linear programming."""
    A = np.random.default_rng(seed).uniform(-1, 1, size=(pieces, n))
    best = linprog(
        np.r_[np.zeros(n), 1.0],
        A_ub=np.c_[A, -np.ones(pieces)],
        b_ub=np.zeros(pieces),
        A_eq=np.r_[np.ones(n), 0.0][None],
        b_eq=[1.0],
        bounds=[(0, None)] * n + [(None, None)],
    )
    return lambda x: float(np.max(A @ x)), lambda x: A[np.argmax(A @ x)], best.fun, np.abs(A).max()


def uniform(n):
    return np.full(n, 1 / n)


@pytest.mark.parametrize("n", [2, 30, 10_000])
@pytest.mark.parametrize(
    ("method", "factor"), [(mirror_descent, 2.0), (dual_averaging, 0.5)], ids=["MD", "DA"]
)
def test_runs_on_the_simplex_stay_below_their_bound(method, factor, n):
    fun, jac, best, lipschitz = worst_case(n)
    radius, horizon = math.sqrt(math.log(n)), 300
    result = method(
        fun,
        uniform(n),
        jac=jac,
        mirror=NegativeEntropy(),
        step=radius / lipschitz * math.sqrt(factor / horizon),
        maxiter=horizon,
    )
    bound = rate(method.__name__, horizon, radius=radius, lipschitz=lipschitz)
    assert -1e-9 <= result.fun - best <= bound
    assert result.x.min() >= 0
    assert result.x.sum() == pytest.approx(1)


@pytest.mark.parametrize("method", [mirror_descent, dual_averaging])
def test_euclidean_runs_stay_below_their_bound(method):
    fun, jac, best, _ = worst_case(20)
    lipschitz, horizon = math.sqrt(20), 400
    # Phi = ‖x‖²/2: sup Phi(x) - Phi(x_1) = 1/2 - 1/40 from the centre, which is where both begin.
    radius = math.sqrt(0.5 - 1 / 40)
    factor = 2.0 if method is mirror_descent else 0.5
    result = method(
        fun,
        uniform(20),
        jac=jac,
        mirror=Euclidean(project_simplex),
        step=radius / lipschitz * math.sqrt(factor / horizon),
        maxiter=horizon,
    )
    assert result.fun - best <= rate(method.__name__, horizon, radius=radius, lipschitz=lipschitz)


def simplex_regression(n=12, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(15, n))
    b = A @ rng.dirichlet(np.full(n, 0.3))  # zero residual: the minimum is 0
    L = np.abs(A.T @ A).max()  # from the l1 norm to the largest entry
    return lambda x: 0.5 * np.sum((A @ x - b) ** 2), lambda x: A.T @ (A @ x - b), L


def test_mirror_prox_stays_below_its_bound():
    fun, jac, L = simplex_regression()
    result = mirror_prox(
        fun, uniform(12), jac=jac, mirror=NegativeEntropy(), L=L, maxiter=300, record=True
    )
    t = np.arange(301)
    bound = rate("mirror_prox", t, L=L, radius=math.sqrt(math.log(12)))
    assert (result.history["fun"] <= bound).all()
    assert fun(result.x_last) <= result.fun
    assert result.njev == 601  # two a step, and one for the result


def test_mirror_prox_on_a_box_uses_the_strong_convexity_of_the_map():
    target = np.array([1.5, -0.2])
    mirror = BoxEntropy(-1.0, 2.0)
    points = [np.zeros(2)]
    result = mirror_prox(
        lambda x: 0.5 * np.sum((x - target) ** 2),
        points[0],
        jac=lambda x: x - target,
        mirror=mirror,
        L=1.0,
        maxiter=1,
    )
    eta = mirror.rho
    half = mirror.step(points[0], points[0] - target, eta)
    np.testing.assert_allclose(result.x, half)
    np.testing.assert_allclose(result.x_last, mirror.step(points[0], half - target, eta))


@pytest.mark.parametrize(
    "mirror", [NegativeEntropy(), Euclidean(project_simplex), BoxEntropy(-0.5, 1.5)], ids=type
)
def test_methods_follow_their_printed_recursions(mirror):
    fun, jac, L = simplex_regression()
    x0, eta = uniform(12), 0.02

    x, seen = x0, []
    for _ in range(5):
        seen.append(x)
        x = mirror.step(x, jac(x), eta)
    result = mirror_descent(fun, x0, jac=jac, mirror=mirror, step=eta, maxiter=5)
    np.testing.assert_allclose(result.x, np.mean(seen, axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.x_last, x, rtol=1e-12)
    assert result.fun == pytest.approx(fun(result.x))

    x, seen, total = mirror.argmin(np.zeros(12), 1.0), [], np.zeros(12)
    for _ in range(5):
        seen.append(x)
        total = total + jac(x)
        x = mirror.argmin(total, eta)
    result = dual_averaging(fun, x0, jac=jac, mirror=mirror, step=eta, maxiter=5)
    np.testing.assert_allclose(result.x, np.mean(seen, axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.x_last, x, rtol=1e-12)

    x, seen = x0, []
    for _ in range(5):
        half = mirror.step(x, jac(x), mirror.rho / L)
        seen.append(half)
        x = mirror.step(x, jac(half), mirror.rho / L)
    result = mirror_prox(fun, x0, jac=jac, mirror=mirror, L=L, maxiter=5)
    np.testing.assert_allclose(result.x, np.mean(seen, axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.x_last, x, rtol=1e-12)


def test_on_a_fixed_gradient_lazy_and_active_steps_agree_on_the_simplex():
    costs = np.array([0.3, -1.0, 0.2])
    options = {"jac": lambda x: costs, "mirror": NegativeEntropy(), "step": 0.3, "maxiter": 20}
    active = mirror_descent(lambda x: costs @ x, uniform(3), **options)
    lazy = dual_averaging(lambda x: costs @ x, uniform(3), **options)
    np.testing.assert_allclose(active.x, lazy.x, rtol=1e-12)


def test_euclidean_mirror_descent_is_the_subgradient_method():
    problem = quadratic(4, 5.0)
    options = {"jac": problem.jac, "step": 0.3, "maxiter": 12}
    mirrored = mirror_descent(problem.fun, problem.x0, mirror=Euclidean(), **options)
    plain = subgradient_method(problem.fun, problem.x0, **options)
    np.testing.assert_allclose(mirrored.x, plain.x, rtol=1e-12)
    last = gradient_descent(problem.fun, problem.x0, **options)
    np.testing.assert_allclose(mirrored.x_last, last.x, rtol=1e-12)


def test_steps_may_change_with_time():
    problem = quadratic(4, 5.0)
    seen = []

    def step(s):
        seen.append(s)
        return 1 / s

    result = mirror_descent(
        problem.fun, problem.x0, jac=problem.jac, mirror=Euclidean(), step=step, maxiter=3
    )
    x = problem.x0
    for s in (1, 2, 3):
        x = x - problem.jac(x) / s
    assert seen == [1, 2, 3]
    np.testing.assert_allclose(result.x_last, x, rtol=1e-12)


def test_composite_mirror_descent_is_ista_in_the_euclidean_geometry():
    problem = lasso()
    lam, L = problem.more["lam"], problem.L
    composite = mirror_descent(
        problem.fun,
        problem.x0,
        jac=problem.jac,
        mirror=Euclidean(),
        step=1 / L,
        regulariser=L1(lam),
        maxiter=30,
    )
    ista = proximal_gradient(
        problem.fun,
        problem.x0,
        jac=problem.jac,
        L=L,
        prox=lambda v, t: prox_l1(v, lam * t),
        maxiter=30,
    )
    np.testing.assert_allclose(composite.x_last, ista.x, rtol=1e-12)
    assert composite.fun == pytest.approx(
        problem.fun(composite.x) + lam * np.abs(composite.x).sum()
    )


def test_composite_mirror_descent_keeps_a_ridge_on_the_simplex():
    costs, lam = np.array([0.3, 0.1, 0.2]), 0.5
    result = mirror_descent(
        lambda x: costs @ x,
        uniform(3),
        jac=lambda x: costs,
        mirror=NegativeEntropy(),
        step=1.0,
        regulariser=SquaredL2(lam),
        maxiter=300,
    )
    np.testing.assert_allclose(result.x_last, project_simplex(-costs / lam), atol=1e-6)
    expected = costs @ result.x + 0.5 * lam * result.x @ result.x
    assert result.fun == pytest.approx(expected)


def test_an_own_regulariser_counts_by_its_value():
    class Own:
        def prox(self, v, t):
            return v / (1 + t)

    class Valued(Own):
        def value(self, x):
            return 0.5 * x @ x

    problem = quadratic(3, 2.0)
    options = {"jac": problem.jac, "mirror": Euclidean(), "step": 0.5, "maxiter": 4}
    without = mirror_descent(problem.fun, problem.x0, regulariser=Own(), **options)
    counted = mirror_descent(problem.fun, problem.x0, regulariser=Valued(), **options)
    assert counted.fun == pytest.approx(without.fun + 0.5 * without.x @ without.x)


def test_von_neumann_finds_the_least_eigenvalue():
    A = np.random.default_rng(0).normal(size=(5, 5))
    A = A + A.T
    scale = np.abs(np.linalg.eigvalsh(A)).max()
    result = mirror_descent(
        lambda X: float(np.sum(A * X)),
        np.eye(5) / 5,
        jac=lambda X: A,
        mirror=VonNeumann(),
        step=math.sqrt(2 * math.log(5) / 500) / scale,
        maxiter=500,
    )
    least = np.linalg.eigvalsh(A)[0]
    bound = rate("mirror_descent", 500, radius=math.sqrt(math.log(5)), lipschitz=scale)
    assert 0 <= result.fun - least <= bound


@pytest.mark.parametrize("method", [mirror_descent, dual_averaging])
def test_noisy_gradients_are_drawn_from_rng_and_reach_the_bound_on_average(method):
    costs = np.linspace(0, 1, 10)
    horizon, radius, lipschitz = 200, math.sqrt(math.log(10)), 10.0
    factor = 2.0 if method is mirror_descent else 0.5
    calls = []

    def noisy(x, rng):
        calls.append(1)
        g = np.zeros(10)
        i = rng.integers(10)
        g[i] = 10 * costs[i]
        return g

    def run(seed):
        return method(
            lambda x: costs @ x,
            uniform(10),
            jac=noisy,
            mirror=NegativeEntropy(),
            step=radius / lipschitz * math.sqrt(factor / horizon),
            stochastic=True,
            rng=seed,
            maxiter=horizon,
        )

    first = run(0)
    assert len(calls) == first.njev == horizon
    assert "jac" not in first
    np.testing.assert_array_equal(first.x, run(0).x)
    assert not np.array_equal(first.x, run(1).x)
    name = "mirror_descent-stochastic" if method is mirror_descent else "dual_averaging"
    bound = rate(name, horizon, radius=radius, lipschitz=lipschitz)
    assert np.mean([run(seed).fun for seed in range(20)]) <= bound


def test_smooth_noise_stays_below_its_bound_for_the_shifted_average():
    target, sigma, L, horizon = np.full(5, 0.7), 2.0, 1.0, 100
    radius = math.sqrt(0.5 * target @ target)  # D(x*, 0) = ‖x*‖² / 2
    step = 1 / (L + sigma * math.sqrt(horizon / 2) / radius)
    gaps = []
    for seed in range(30):
        result = mirror_descent(
            lambda x: 0.5 * np.sum((x - target) ** 2),
            np.zeros(5),
            jac=lambda x, rng: x - target + sigma / math.sqrt(5) * rng.normal(size=5),
            mirror=Euclidean(),
            step=step,
            stochastic=True,
            rng=seed,
            maxiter=horizon,
        )
        shifted = result.x + result.x_last / horizon
        gaps.append(0.5 * np.sum((shifted - target) ** 2))
    bound = rate("mirror_descent-stochastic-smooth", horizon, radius=radius, sigma=sigma, L=L)
    assert np.mean(gaps) <= bound


def test_dual_averaging_begins_at_the_least_point_of_the_map():
    result = dual_averaging(
        lambda x: x[0],
        [0.9, 0.1],
        jac=lambda x: [1, 0],
        mirror=NegativeEntropy(),
        step=1,
        maxiter=0,
    )
    np.testing.assert_array_equal(result.x, [0.5, 0.5])


def test_own_maps_are_taken():
    class Half:
        def step(self, x, g, eta):
            return x - 0.5 * eta * g

        def argmin(self, G, eta):
            return -0.5 * eta * G

        def divergence(self, x, y):
            return float(np.sum((x - y) ** 2))

    problem = quadratic(3, 2.0)
    result = mirror_prox(
        problem.fun, problem.x0, jac=problem.jac, mirror=Half(), L=1.0, maxiter=100
    )
    np.testing.assert_allclose(result.x_last, problem.solution, atol=1e-6)


@pytest.mark.parametrize("method", [mirror_descent, dual_averaging, mirror_prox])
def test_a_step_that_breaks_ends_the_run(method):
    class Broken(Euclidean):
        def step(self, x, g, eta):
            return x * np.nan

        def argmin(self, G, eta):
            return G * (np.nan if G.any() else 0.0)

    options = {"L": 1.0} if method is mirror_prox else {"step": 1.0}
    result = method(lambda x: x[0], [1.0], jac=lambda x: [1.0], mirror=Broken(), **options)
    assert not result.success
    assert "not finite" in result.message


SIMPLEX = NegativeEntropy()


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        (mirror_descent, {"mirror": SIMPLEX, "step": 0.0}, ValueError, "step must be"),
        (mirror_descent, {"mirror": SIMPLEX, "step": lambda s: -1}, ValueError, r"step\(1\) must"),
        (mirror_descent, {"mirror": 3, "step": 1.0}, TypeError, "mirror must have step"),
        (dual_averaging, {"mirror": 3, "step": 1.0}, TypeError, "mirror must have step"),
        (dual_averaging, {"mirror": SIMPLEX, "step": -1.0}, ValueError, "step must be"),
        (mirror_prox, {"mirror": SIMPLEX, "L": 0.0}, ValueError, "L must be"),
        (mirror_prox, {"mirror": object(), "L": 1.0}, TypeError, "mirror must have step"),
        (
            mirror_descent,
            {"mirror": SIMPLEX, "step": 1.0, "regulariser": L1(1.0)},
            ValueError,
            "regulariser must not be L1",
        ),
        (
            mirror_descent,
            {"mirror": SIMPLEX, "step": 1.0, "regulariser": 3},
            TypeError,
            "regulariser must be L1",
        ),
    ],
)
def test_malformed_options_are_refused(method, options, error, message):
    with pytest.raises(error, match=message):
        method(lambda x: 0.0, [0.5, 0.5], jac=lambda x: x, **options)


@pytest.mark.parametrize("method", [mirror_descent, mirror_prox])
def test_a_start_outside_the_simplex_is_refused(method):
    options = {"L": 1.0} if method is mirror_prox else {"step": 1.0}
    with pytest.raises(ValueError, match="x0 must be positive with sum 1"):
        method(lambda x: 0.0, [0.5, 0.6], jac=lambda x: x, mirror=SIMPLEX, **options)


@pytest.mark.parametrize("method", [mirror_descent, dual_averaging])
def test_noise_needs_a_function_of_the_generator(method):
    with pytest.raises(TypeError, match="jac must be callable"):
        method(lambda x: 0.0, [0.5, 0.5], mirror=SIMPLEX, step=1.0, stochastic=True)
