"""Heavy ball, triple momentum and the two-step family: recursions, rates, SciPy's conventions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from thalweg.descent import (
    coefficients,
    gradient_descent,
    heavy_ball,
    nesterov,
    triple_momentum,
    two_step,
)

from ._battery import logistic, quadratic
from ._battery import smooth_problems as smooth

MEMBERS = ("gradient", "heavy-ball", "nesterov", "triple-momentum")


def family(method, L, mu=None):
    names = ("alpha", "beta", "gamma", "delta")
    return dict(zip(names, coefficients(method, L=L, mu=mu), strict=True))


METHODS = {
    "heavy_ball": (heavy_ball, lambda p: {"L": p.L, "mu": p.mu}),
    "heavy_ball by alpha": (heavy_ball, lambda p: {"alpha": 1 / p.L, "beta": 0.3}),
    "triple_momentum": (triple_momentum, lambda p: {"L": p.L, "mu": p.mu}),
    "two_step as nesterov": (two_step, lambda p: family("nesterov", p.L, p.mu)),
    "two_step as convex nesterov": (two_step, lambda p: family("nesterov", p.L)),
    "two_step as gradient": (two_step, lambda p: family("gradient", p.L, p.mu)),
}
methods = pytest.mark.parametrize("name", METHODS)


@methods
@pytest.mark.parametrize("problem", smooth(), ids=lambda problem: problem.name)
def test_scipy_solves_smooth_problems_by_each_method(name, problem):
    method, options = METHODS[name]
    peer = minimize(
        problem.fun, problem.x0, jac=problem.jac, method="L-BFGS-B", options={"gtol": 1e-10}
    )
    result = minimize(
        problem.fun, problem.x0, jac=problem.jac, method=method, options=options(problem)
    )
    assert result.success
    assert np.abs(result.jac).max() <= 1e-8
    np.testing.assert_allclose(result.jac, problem.jac(result.x), atol=1e-15)
    assert result.fun <= peer.fun + 1e-10
    distance = np.linalg.norm(result.x - problem.solution)
    assert distance <= 1e-8 * math.sqrt(len(problem.x0)) / problem.mu


def outputs(jac, x0, alpha, beta, gamma, delta, steps):
    """The recursion as printed: two positions, no object remembered between steps."""
    before = now = np.array(x0)
    found = [now]
    for _ in range(steps):
        y = (1 + gamma) * now - gamma * before
        before, now = now, (1 + beta) * now - beta * before - alpha * jac(y)
        found.append((1 + delta) * now - delta * before)
    return np.array(found)


@given(st.tuples(*[st.floats(-0.5, 0.9)] * 3), st.floats(0.05, 0.5))
@settings(max_examples=30, deadline=None)
def test_the_family_follows_the_printed_recursion(shares, alpha):
    problem = logistic()
    beta, gamma, delta = shares
    result = two_step(
        problem.fun, problem.x0, jac=problem.jac, record=True, maxiter=12, gtol=0,
        alpha=alpha, beta=beta, gamma=gamma, delta=delta,
    )  # fmt: skip
    expected = outputs(problem.jac, problem.x0, alpha, beta, gamma, delta, 12)
    np.testing.assert_allclose(result.trajectory, expected, rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(result.x, result.trajectory[-1])


def test_without_memory_it_is_gradient_descent():
    problem = logistic()
    ours = two_step(
        problem.fun, problem.x0, jac=problem.jac, alpha=0.5, beta=0.0, gamma=0.0, maxiter=50
    )
    plain = gradient_descent(problem.fun, problem.x0, jac=problem.jac, step=0.5, maxiter=50)
    np.testing.assert_allclose(ours.x, plain.x, rtol=1e-15, atol=1e-16)
    assert ours.njev == plain.njev


@pytest.mark.parametrize("problem", [quadratic(20, 1e3), logistic()], ids=["quadratic", "logistic"])
def test_equal_shares_are_nesterovs_method(problem):
    points = [problem.x0]
    nesterov(
        problem.fun, problem.x0, jac=problem.jac, L=problem.L, mu=problem.mu, gtol=0, maxiter=60,
        callback=points.append,
    )  # fmt: skip
    ours = two_step(
        problem.fun, problem.x0, jac=problem.jac, gtol=0, maxiter=60, record=True,
        **family("nesterov", problem.L, problem.mu),
    )  # fmt: skip
    np.testing.assert_allclose(ours.trajectory, points, rtol=0, atol=1e-13)


def test_the_two_named_methods_are_members_of_the_family():
    problem = logistic()
    for method, name in ((heavy_ball, "heavy-ball"), (triple_momentum, "triple-momentum")):
        named = method(
            problem.fun, problem.x0, jac=problem.jac, L=problem.L, mu=problem.mu, maxiter=9
        )
        member = two_step(
            problem.fun, problem.x0, jac=problem.jac, maxiter=9,
            **family(name, problem.L, problem.mu),
        )  # fmt: skip
        np.testing.assert_array_equal(named.x, member.x)


def test_shares_may_follow_the_step():
    problem = logistic()
    result = two_step(
        problem.fun, problem.x0, jac=problem.jac, gtol=0, maxiter=10, record=True,
        **family("nesterov", problem.L),
    )  # fmt: skip
    before = now = problem.x0
    for k, point in enumerate(result.trajectory):
        np.testing.assert_allclose(point, now, rtol=1e-12, atol=1e-14)
        share = k / (k + 3)
        ahead = now + share * (now - before)
        before, now = now, ahead - problem.jac(ahead) / problem.L


def worst_of_the_class(k, L=1.0):
    """Nesterov's tridiagonal quadratic, hardest for k steps of any first-order method."""
    n = 2 * k + 1
    H = L / 4 * (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))
    return H, L / 4 * np.eye(n)[0], np.zeros(n)


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_the_convex_form_keeps_its_bound_and_shorter_steps_break_it(scale):
    H, b, x0 = worst_of_the_class(100)
    star = np.linalg.solve(H, b)

    def fun(x):
        return 0.5 * x @ H @ x - b @ x

    options = family("nesterov", 1.0)
    options["alpha"] *= scale
    result = two_step(fun, x0, jac=lambda x: H @ x - b, gtol=0, maxiter=300, record=True, **options)
    gap = result.history["fun"] - fun(star)
    k = np.arange(301)
    bound = (2 * star @ star + 3 * gap[0]) / (k + 2) ** 2
    assert bool((gap <= bound).all()) == (scale == 1.0)
    if scale == 1.0:
        assert (gap <= 2 * star @ star / (k + 1) ** 2).all()
        assert np.max(gap / bound) > 0.05


def test_output_of_triple_momentum_and_not_its_state_has_the_exact_rate():
    # On the flattest mode delta removes the second root: |x_k| = rho^k from the first step.
    problem = quadratic(2, 1.0)
    rho = 0.8
    x0 = problem.solution + 1.0

    def points(delta):
        options = family("triple-momentum", 25.0, 1.0)
        options["delta"] = options["delta"] if delta else 0.0
        result = two_step(
            problem.fun, x0, jac=problem.jac, gtol=0, maxiter=30, record=True, **options
        )
        return result.trajectory[:, 0] - problem.solution[0]

    np.testing.assert_allclose(points(True), rho ** np.arange(31), rtol=1e-10)
    state = points(False)
    assert np.abs(state[1:] / state[:-1] - rho).max() > 0.05


@pytest.mark.parametrize("condition", [1e2, 1e4])
def test_triple_momentum_arrives_within_its_rate_on_a_quadratic(condition):
    # The output of the steepest mode is sqrt(condition) times rho^k, of the flattest rho^k.
    n = 50
    spectrum = np.geomspace(1 / condition, 1, n)
    x0 = np.random.default_rng(0).normal(size=n)
    tol = 1e-8 * np.linalg.norm(x0)

    def steps(delta):
        def stop(x):
            if np.linalg.norm(x) <= tol:
                raise StopIteration

        options = family("triple-momentum", 1.0, 1 / condition)
        options["delta"] *= delta
        return two_step(
            lambda x: 0.0, x0, jac=lambda x: spectrum * x, gtol=0, callback=stop, **options
        ).nit

    rate = -math.log(1 - 1 / math.sqrt(condition))
    assert steps(1) <= math.log(math.sqrt(condition) / 1e-8) / rate
    assert steps(0) <= 1.02 * math.log(1e8) / rate + 50


def test_heavy_ball_has_its_rate_on_a_quadratic():
    problem = quadratic(30, 400.0)
    result = heavy_ball(
        problem.fun, problem.x0, jac=problem.jac, L=1.0, mu=1 / 400, gtol=0, maxiter=200,
        record=True,
    )  # fmt: skip
    distance = np.linalg.norm(result.trajectory - problem.solution, axis=1)
    k = np.arange(201)
    # A double root: (1 + c k) rho^k with rho = 19/21.
    assert (distance <= 2 * (1 + k) * (19 / 21) ** k * distance[0]).all()
    assert distance[200] >= (19 / 21) ** 200 * 1e-2 * distance[0]


@pytest.mark.parametrize("method", MEMBERS)
def test_trajectory_begins_with_the_start_and_holds_every_output(method):
    problem = quadratic(5, 10.0)
    seen = []
    result = two_step(
        problem.fun, problem.x0, jac=problem.jac, maxiter=20, gtol=0, record=True,
        callback=seen.append, **family(method, 1.0, 0.1),
    )  # fmt: skip
    assert result.trajectory.shape == (21, 5)
    np.testing.assert_array_equal(result.trajectory[0], problem.x0)
    np.testing.assert_array_equal(result.trajectory[1:], seen)
    values = [problem.fun(x) for x in result.trajectory]
    np.testing.assert_allclose(result.history["fun"], values)


def test_nothing_is_kept_without_record():
    result = heavy_ball(lambda x: x @ x, [1.0], jac=lambda x: 2 * x, L=2.0, mu=2.0)
    assert "trajectory" not in result
    assert "history" not in result


def test_zero_tolerance_never_stops():
    result = triple_momentum(
        lambda x: x @ x, [0.0], jac=lambda x: 2 * x, L=2.0, mu=1.0, gtol=0, maxiter=25
    )
    assert (result.nit, result.success, result.status) == (25, False, 1)


def test_the_tolerance_is_of_the_output_and_not_of_the_point_ahead():
    calls = []

    def jac(x):
        calls.append(x.copy())
        return x - 1

    # x = (0, 1.5), y_1 = 1.5 - 1/3 * 1.5 = 1: no slope there, but the output is 1.5.
    result = two_step(
        lambda x: 0.0, [0.0], jac=jac, alpha=1.5, beta=0.0, gamma=-1 / 3, maxiter=1, gtol=1e-6
    )
    np.testing.assert_allclose(calls[1], [1.0])
    assert result.x == pytest.approx([1.5])
    assert not result.success
    assert result.jac == pytest.approx([0.5])


def test_maxiter_is_reported_as_failure():
    result = heavy_ball(
        lambda x: x @ x, [1.0, 3.0], jac=lambda x: 2 * x, alpha=1e-3, beta=0.5, maxiter=7
    )
    assert (result.nit, result.success) == (7, False)
    assert "maxiter = 7" in result.message


def test_one_gradient_a_step():
    problem = quadratic(5, 50.0)
    for method in (heavy_ball, triple_momentum):
        result = method(
            problem.fun, problem.x0, jac=problem.jac, L=1.0, mu=1 / 50, gtol=0, maxiter=100
        )
        assert result.njev <= 102


@pytest.mark.parametrize("delta", [0.0, 3.0])
def test_steps_that_are_too_long_end_at_the_last_finite_point(delta):
    result = two_step(
        lambda x: 0.5 * x @ x, [1.0, 2.0], jac=lambda x: x, alpha=1e3, beta=0.5, gamma=0.2,
        delta=delta, record=True,
    )  # fmt: skip
    assert not result.success
    assert "steps are too long" in result.message or "returned inf" in result.message
    assert np.isfinite(result.trajectory).all()
    assert len(result.trajectory) == result.nit + 1
    np.testing.assert_array_equal(result.x, result.trajectory[-1])


@pytest.mark.parametrize("record", [True, False])
def test_an_output_that_overflows_ends_the_run_though_its_state_is_finite(record):
    result = two_step(
        lambda x: 0.0, [1.0], jac=lambda x: x, alpha=1e10, beta=0.0, gamma=0.0, delta=1e300,
        record=record, maxiter=1,
    )  # fmt: skip
    assert not result.success
    assert "steps are too long" in result.message
    np.testing.assert_array_equal(result.x, [1.0])
    if record:
        assert result.trajectory.shape == (1, 1)


def test_a_share_that_is_not_finite_ends_the_run():
    result = two_step(
        lambda x: x @ x, [1.0], jac=lambda x: 2 * x, alpha=0.1, gamma=0.0,
        beta=lambda k: 0.5 if k < 4 else math.nan,
    )  # fmt: skip
    assert not result.success
    assert "beta returned nan at k = 4" in result.message
    assert result.nit == 3


@methods
def test_gradients_that_are_not_finite_end_the_run(name):
    problem = quadratic()
    method, options = METHODS[name]
    calls = []

    def jac(x):
        calls.append(x)
        return problem.jac(x) if len(calls) < 8 else np.full_like(x, np.nan)

    result = method(problem.fun, problem.x0, jac=jac, **options(problem))
    assert not result.success
    assert "not finite" in result.message
    assert np.isfinite(result.x).all()


@methods
def test_gradient_conventions_of_scipy_agree(name):
    problem = quadratic(3, 10.0)
    method, options = METHODS[name]
    given_options = options(problem) | {"maxiter": 10}
    exact = method(problem.fun, problem.x0, jac=problem.jac, **given_options)
    joint = minimize(
        lambda x, shift: (problem.fun(x - shift), problem.jac(x - shift)),
        problem.x0,
        args=(0.0,),
        jac=True,
        method=method,
        options=given_options,
    )
    differences = minimize(problem.fun, problem.x0, method=method, options=given_options)
    np.testing.assert_array_equal(joint.x, exact.x)
    np.testing.assert_allclose(differences.x, exact.x, atol=1e-7)


@methods
def test_callbacks_of_both_styles_see_every_step(name):
    problem = quadratic()
    method, options = METHODS[name]
    points, states = [], []

    def rich(intermediate_result):
        states.append(intermediate_result)
        if len(states) == 4:
            raise StopIteration

    plain = method(
        problem.fun, problem.x0, jac=problem.jac, maxiter=4, callback=points.append,
        **options(problem),
    )  # fmt: skip
    stopped = method(problem.fun, problem.x0, jac=problem.jac, callback=rich, **options(problem))
    assert len(points) == plain.nit == 4
    assert (stopped.nit, stopped.success, stopped.status) == (4, False, 99)
    for point, state in zip(points, states, strict=True):
        np.testing.assert_array_equal(point, state.x)
        assert state.fun == pytest.approx(problem.fun(point))


def test_points_may_have_any_shape():
    flat = np.array([1.0, -2.0, 3.0, 0.5])
    for method in (heavy_ball, triple_momentum):
        results = [
            method(
                lambda x: float(np.sum(np.cosh(x))), x0, jac=np.sinh, L=12.0, mu=1.0, maxiter=15,
                record=True,
            )
            for x0 in (flat, flat.reshape(2, 2))
        ]  # fmt: skip
        assert results[1].trajectory.shape == (16, 2, 2)
        np.testing.assert_allclose(results[1].x.ravel(), results[0].x)


@methods
def test_what_would_be_ignored_is_refused(name):
    problem = quadratic()
    method, options = METHODS[name]
    for argument in ("hess", "hessp", "bounds", "constraints"):
        with pytest.raises(ValueError, match=f"^{argument} must be left out"):
            method(problem.fun, problem.x0, **options(problem), **{argument: [lambda x: x]})
    with pytest.raises(TypeError, match="momentun"):
        minimize(problem.fun, problem.x0, method=method, options=options(problem) | {"momentun": 1})


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (heavy_ball, {}, "L and mu, or alpha and beta, must be given"),
        (heavy_ball, {"alpha": 0.1}, "must be given, got alpha=0.1, beta=None"),
        (heavy_ball, {"L": 1.0}, "L and mu must be given together, got L=1.0, mu=None"),
        (heavy_ball, {"L": 1.0, "mu": 0.1, "beta": 0.5}, "beta must be left out if L or mu"),
        (heavy_ball, {"mu": 0.1, "alpha": 0.5, "beta": 0.1}, "alpha must be left out"),
        (heavy_ball, {"L": 1.0, "mu": 2.0}, "mu must be a finite number > 0 and <= 1"),
        (heavy_ball, {"alpha": 0.0, "beta": 0.5}, "alpha must be a finite number > 0"),
        (heavy_ball, {"alpha": 0.1, "beta": 1.0}, "beta must be a finite number >= 0 and < 1"),
        (triple_momentum, {"L": -1.0, "mu": 0.1}, "L must be a finite number > 0"),
        (triple_momentum, {"L": 1.0, "mu": 0.0}, "mu must be"),
        (triple_momentum, {"L": 1.0, "mu": 0.5, "gtol": -1.0}, "gtol must be"),
        (two_step, {"alpha": -1.0, "beta": 0.0, "gamma": 0.0}, "alpha must be"),
        (two_step, {"alpha": 1.0, "beta": math.nan, "gamma": 0.0}, "beta must be"),
        (two_step, {"alpha": 1.0, "beta": 0.0, "gamma": math.inf}, "gamma must be"),
        (two_step, {"alpha": 1.0, "beta": 0.0, "gamma": 0.0, "delta": math.nan}, "delta must"),
        (two_step, {"alpha": 1.0, "beta": 0.0, "gamma": 0.0, "maxiter": -1}, "maxiter must"),
    ],
)
def test_malformed_constants_are_refused_before_any_call(method, options, message):
    def fun(x):
        raise AssertionError("called")

    with pytest.raises(ValueError, match=message):
        method(fun, [1.0], jac=fun, **options)


def test_malformed_kinds_are_refused():
    with pytest.raises(TypeError, match="'mu'"):
        triple_momentum(lambda x: 0.0, [1.0], L=1.0)
    with pytest.raises(TypeError, match="delta must be"):
        two_step(lambda x: 0.0, [1.0], alpha=1.0, beta=0.0, gamma=0.0, delta=lambda k: 0.0)
    with pytest.raises(TypeError, match="alpha must be"):
        heavy_ball(lambda x: 0.0, [1.0], alpha="1", beta=0.5)
