"""The shared part of the minimisers: calls, counts, callbacks, ends, and SciPy's door."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import OptimizeResult, minimize

from thalweg import descent
from thalweg.descent._oracle import Oracle, State, drive, largest

from ._battery import lasso, logistic, max_affine, quadratic

METHODS = {
    "gradient_descent": (descent.gradient_descent, {"L": 1.0}),
    "backtracking": (descent.gradient_descent, {"step": "backtracking"}),
    "nesterov": (descent.nesterov, {"L": 1.0, "mu": 0.01}),
    "subgradient_method": (descent.subgradient_method, {"step": 1.0}),
    "geometric_descent": (descent.geometric_descent, {"L": 1.0, "mu": 0.01}),
    "proximal_gradient": (descent.proximal_gradient, {"L": 1.0, "prox": lambda v, t: v}),
    "fista": (descent.fista, {"L": 1.0, "prox": lambda v, t: v}),
    "frank_wolfe": (descent.frank_wolfe, {"lmo": lambda g: descent.lmo(g, "l2", 9.0)}),
    "mirror_descent": (descent.mirror_descent, {"mirror": descent.Euclidean(), "step": 1.0}),
    "dual_averaging": (descent.dual_averaging, {"mirror": descent.Euclidean(), "step": 1.0}),
    "mirror_prox": (descent.mirror_prox, {"mirror": descent.Euclidean(), "L": 1.0}),
    "heavy_ball": (descent.heavy_ball, {"L": 1.0, "mu": 0.01}),
    "adagrad_norm_minimize": (descent.adagrad_norm_minimize, {}),
    "model_building": (descent.model_building, {}),
    "polyak_momentum": (descent.polyak_momentum, {"f_star": -1.0}),
    "triple_momentum": (descent.triple_momentum, {"L": 1.0, "mu": 0.01}),
}
methods = pytest.mark.parametrize("name", METHODS)


def descend(oracle, step=0.5):
    x = oracle.x0
    while True:
        g = oracle.gradient(x)
        yield State(x, jac=g, residual=largest(g), trace={"size": largest(x)})
        x = x - step * g


def square(jac=lambda x: 2 * x, fun=lambda x: float(x @ x), x0=(1.0, 2.0), **options):
    oracle = Oracle(fun, x0, jac=jac)
    options = {"maxiter": 5, "tol": 1e-9, **options}
    return drive(oracle, descend(oracle, 0.1), **options)


@methods
def test_scipy_runs_each_method_downhill(name):
    problem = quadratic()
    method, options = METHODS[name]
    result = minimize(
        problem.fun, problem.x0, jac=problem.jac, method=method, options=options | {"maxiter": 300}
    )
    assert isinstance(result, OptimizeResult)
    gap = problem.fun(problem.x0) - problem.minimum
    assert result.fun - problem.minimum < 0.1 * gap
    assert result.fun == pytest.approx(problem.fun(result.x))
    np.testing.assert_allclose(result.jac, problem.jac(result.x))
    assert result.nit <= 300
    assert result.njev >= result.nit


@methods
def test_scipy_passes_value_and_gradient_in_one_function(name):
    problem = quadratic()
    method, options = METHODS[name]
    options = options | {"maxiter": 20}
    apart = minimize(problem.fun, problem.x0, jac=problem.jac, method=method, options=options)
    both = minimize(
        lambda x: (problem.fun(x), problem.jac(x)),
        problem.x0,
        jac=True,
        method=method,
        options=options,
    )
    direct = method(lambda x: (problem.fun(x), problem.jac(x)), problem.x0, jac=True, **options)
    np.testing.assert_array_equal(both.x, apart.x)
    np.testing.assert_array_equal(direct.x, apart.x)


@methods
def test_differences_stand_in_for_a_gradient(name):
    problem = quadratic(3, 10.0)
    method, options = METHODS[name]
    options = options | {"maxiter": 10}
    exact = method(problem.fun, problem.x0, jac=problem.jac, **options)
    differences = minimize(problem.fun, problem.x0, method=method, options=options)
    np.testing.assert_allclose(differences.x, exact.x, atol=1e-7)
    assert differences.nfev > exact.nfev


@methods
def test_history_begins_with_the_start_and_ends_with_the_result(name):
    problem = quadratic()
    method, options = METHODS[name]
    result = method(problem.fun, problem.x0, jac=problem.jac, record=True, maxiter=7, **options)
    assert result.nit == 7
    assert result.history["fun"].shape == (8,)
    assert result.history["fun"][-1] == result.fun
    if name != "dual_averaging":
        assert result.history["fun"][0] == pytest.approx(problem.fun(problem.x0))


@methods
def test_without_record_nothing_but_certificates_is_kept(name):
    problem = quadratic()
    method, options = METHODS[name]
    result = method(problem.fun, problem.x0, jac=problem.jac, maxiter=3, **options)
    assert ("history" in result) == (name == "geometric_descent")


@methods
def test_callback_sees_each_step_in_both_styles(name):
    problem = quadratic()
    method, options = METHODS[name]
    points, states = [], []

    def plain(xk):
        points.append(xk)

    def rich(intermediate_result):
        states.append(intermediate_result)

    for callback in (plain, rich):
        result = method(
            problem.fun, problem.x0, jac=problem.jac, maxiter=4, callback=callback, **options
        )
    assert len(points) == len(states) == result.nit == 4
    for point, state in zip(points, states, strict=True):
        np.testing.assert_array_equal(point, state.x)
        assert state.fun == pytest.approx(problem.fun(point))
    np.testing.assert_array_equal(points[-1], result.x)


@methods
def test_callback_ends_the_run(name):
    problem = quadratic()
    method, options = METHODS[name]

    def stop(xk):
        raise StopIteration

    result = minimize(
        problem.fun, problem.x0, jac=problem.jac, method=method, callback=stop, options=options
    )
    assert (result.nit, result.success, result.status) == (1, False, 99)


@methods
def test_non_finite_values_end_the_run_at_the_last_good_point(name):
    problem = quadratic()
    method, options = METHODS[name]
    calls = []

    def jac(x):
        calls.append(x)
        return problem.jac(x) if len(calls) < 8 else np.full_like(x, np.nan)

    result = method(problem.fun, problem.x0, jac=jac, **options)
    assert not result.success
    assert "not finite" in result.message
    assert np.isfinite(result.x).all()


@methods
def test_unknown_options_and_ignored_arguments_are_refused(name):
    problem = quadratic()
    method, options = METHODS[name]
    with pytest.raises(TypeError, match="momentun"):
        minimize(problem.fun, problem.x0, method=method, options=options | {"momentun": 1})
    with pytest.raises(ValueError, match=r"^bounds must be left out, \w+ does not"):
        minimize(problem.fun, problem.x0, method=method, options=options, bounds=[(0, 1)] * 10)
    for argument in ("hess", "hessp", "constraints"):
        with pytest.raises(ValueError, match=f"^{argument} must be left out"):
            method(problem.fun, problem.x0, **options, **{argument: [lambda x: x]})


@methods
@pytest.mark.parametrize(
    ("x0", "error"),
    [([np.nan] * 10, ValueError), ([], ValueError), ("here", TypeError), ([1j], TypeError)],
)
def test_malformed_starts_are_refused_before_any_call(name, x0, error):
    method, options = METHODS[name]

    def fun(x):
        raise AssertionError("called")

    with pytest.raises(error, match="x0"):
        method(fun, x0, jac=fun, **options)


@methods
def test_malformed_limits_are_refused(name):
    problem = quadratic()
    method, options = METHODS[name]
    with pytest.raises(ValueError, match="maxiter must be an integer >= 0"):
        method(problem.fun, problem.x0, jac=problem.jac, maxiter=-1, **options)
    with pytest.raises(TypeError, match="callback must be callable or None"):
        method(problem.fun, problem.x0, jac=problem.jac, callback=1, **options)
    with pytest.raises(TypeError, match="fun must be callable"):
        method(3.0, problem.x0, jac=problem.jac, **options)
    with pytest.raises(ValueError, match="jac must be callable, True, None"):
        method(problem.fun, problem.x0, jac="exact", **options)


def test_zero_steps_return_the_start():
    result = square(maxiter=0)
    np.testing.assert_array_equal(result.x, [1.0, 2.0])
    assert (result.nit, result.fun, result.success) == (0, 5.0, False)


def test_ends_are_told_apart():
    reached, spent, planned = square(tol=10.0), square(), square(tol=None)
    assert (reached.status, reached.success, reached.nit) == (0, True, 0)
    assert "gtol = 10" in reached.message
    assert (spent.status, spent.success, spent.nit) == (1, False, 5)
    assert "maxiter = 5" in spent.message
    assert (planned.status, planned.success, planned.nit) == (0, True, 5)


def test_a_tolerance_is_met_with_equality():
    assert square(tol=4.0).nit == 0
    assert square(tol=3.9999).nit > 0


def test_values_are_asked_for_only_where_needed():
    assert square().nfev == 1
    assert square(record=True).nfev == 6
    assert square(callback=lambda xk: None).nfev == 1
    assert square().njev == 6


def test_joint_function_is_called_once_a_point():
    calls = []

    def fun(x):
        calls.append(x)
        return x @ x, 2 * x

    result = square(jac=True, fun=fun, record=True)
    assert len(calls) == result.nfev == result.njev == 6


def test_history_follows_the_trace():
    result = square(record=True)
    np.testing.assert_allclose(result.history["size"], 2 * 0.8 ** np.arange(6))
    assert result.size == result.history["size"][-1]
    assert list(square(keep=("size",)).history) == ["size"]


def test_a_value_that_is_not_finite_at_the_end_is_a_failure():
    result = square(fun=lambda x: np.inf)
    assert (result.success, result.status) == (False, 2)
    assert result.message == "fun returned inf"


def test_failure_at_the_start_returns_the_start():
    result = square(jac=lambda x: np.full(2, np.inf))
    np.testing.assert_array_equal(result.x, [1.0, 2.0])
    assert (result.nit, result.success) == (0, False)


def test_divergence_is_reported_without_warnings():
    oracle = Oracle(lambda x: float(x @ x), [1.0], jac=lambda x: 1e200 * x)
    result = drive(oracle, descend(oracle), maxiter=100, tol=0.0)
    assert not result.success
    assert "steps are too long" in result.message or "not finite" in result.message
    assert np.isfinite(result.x).all()


def test_functions_may_change_their_argument_and_reuse_their_result():
    room = np.zeros(2)

    def jac(x):
        room[:] = 2 * x
        x[:] = 77.0
        return room

    def fun(x):
        value = float(x @ x)
        x[:] = 77.0
        return value

    for options in ({}, {"record": True}):
        np.testing.assert_array_equal(square(jac=jac, fun=fun, **options).x, square().x)


def test_callbacks_may_change_their_point():
    def spoil(xk):
        xk[:] = 77.0

    def spoil_state(intermediate_result):
        intermediate_result.x[:] = 77.0

    for callback in (spoil, spoil_state):
        np.testing.assert_array_equal(square(callback=callback).x, square().x)


def test_the_callers_start_is_left_alone():
    x0 = np.array([1.0, 2.0])
    square(x0=x0)
    np.testing.assert_array_equal(x0, [1.0, 2.0])


@pytest.mark.parametrize("args", [(3.0,), 3.0])
def test_arguments_reach_both_functions(args):
    result = descent.gradient_descent(
        lambda x, a: float(a * x @ x), [1.0], args, jac=lambda x, a: 2 * a * x, L=6.0
    )
    assert result.fun == 0


@pytest.mark.parametrize(
    ("jac", "message"),
    [
        (lambda x: np.zeros(3), r"jac must return shape \(2,\), got \(3,\)"),
        (lambda x: 0.0, r"jac must return shape \(2,\)"),
    ],
)
def test_gradients_of_the_wrong_shape_are_refused(jac, message):
    with pytest.raises(ValueError, match=message):
        square(jac=jac)


@pytest.mark.parametrize("value", [np.zeros(2), 1j])
def test_values_that_are_no_numbers_are_refused(value):
    with pytest.raises(ValueError, match="fun must return a real number"):
        square(fun=lambda x: value)


def test_a_joint_function_must_return_a_pair():
    with pytest.raises(ValueError, match=r"fun must return \(value, gradient\)"):
        square(fun=lambda x: 1.0, jac=True)


def test_points_may_be_matrices():
    target = np.arange(6.0).reshape(2, 3)
    for jac in (None, lambda X: X - target):
        result = descent.gradient_descent(
            lambda X: 0.5 * np.sum((X - target) ** 2), np.zeros((2, 3)), jac=jac, L=1.0
        )
        np.testing.assert_allclose(result.x, target, atol=1e-7)
        assert result.jac.shape == (2, 3)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_central_differences_are_accurate(point):
    x = np.array(point)
    for jac, tolerance in ((None, 1e-8), ("3-point", 1e-8), ("2-point", 1e-5)):
        oracle = Oracle(lambda x: float(np.sum(np.sin(x) + x**3)), x, jac=jac)
        slopes = oracle.gradient(x)
        np.testing.assert_allclose(slopes, np.cos(x) + 3 * x**2, rtol=tolerance, atol=tolerance)
        assert oracle.nfev == (len(x) + 1 if jac == "2-point" else 2 * len(x))


def test_penalty_joins_the_objective_alone():
    oracle = Oracle(lambda x: 1.0, [2.0], penalty=lambda x: 3.0)
    assert (oracle.value(oracle.x0), oracle.objective(oracle.x0)) == (1.0, 4.0)


@pytest.mark.parametrize("problem", [logistic(), lasso(), max_affine()], ids=lambda p: p.name)
def test_solutions_of_the_battery_are_minima(problem):
    rng = np.random.default_rng(0)
    lam = problem.more.get("lam", 0.0)

    def whole(x):
        return problem.fun(x) + lam * np.abs(x).sum()

    assert whole(problem.solution) == pytest.approx(problem.minimum, abs=1e-9)
    for _ in range(100):
        other = problem.solution + 0.01 * rng.normal(size=problem.solution.shape)
        if "half_width" in problem.more:
            other = np.clip(other, -problem.more["half_width"], problem.more["half_width"])
        assert whole(other) >= problem.minimum - 1e-12
