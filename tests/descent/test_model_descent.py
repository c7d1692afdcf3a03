"""The minimiser: its steps one by one, its blocks, its schedule, SciPy's conventions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from thalweg.descent import model_building, model_building_step, smb_descent_bound
from thalweg.descent.model_descent import MOST_HALVINGS, MOST_STALLED

from ._battery import logistic, quadratic, rosenbrock
from ._battery import smooth_problems as smooth


@pytest.mark.parametrize("problem", smooth(), ids=lambda problem: problem.name)
@pytest.mark.parametrize("lr", [0.5, 4.0])
def test_scipy_solves_smooth_problems_by_it(problem, lr):
    peer = minimize(
        problem.fun, problem.x0, jac=problem.jac, method="L-BFGS-B", options={"gtol": 1e-10}
    )
    result = minimize(
        problem.fun, problem.x0, jac=problem.jac, method=model_building, options={"lr": lr}
    )
    assert result.success
    assert np.abs(result.jac).max() <= 1e-6
    np.testing.assert_allclose(result.jac, problem.jac(result.x), atol=1e-15)
    assert result.fun <= peer.fun + 1e-6 * math.sqrt(len(problem.x0))
    distance = np.linalg.norm(result.x - problem.solution)
    assert distance <= 1e-6 * math.sqrt(len(problem.x0)) / problem.mu


def test_rosenbrocks_valley_is_followed_without_a_tuned_step():
    problem = rosenbrock()
    result = model_building(problem.fun, problem.x0, jac=problem.jac, maxiter=60_000, lr=0.01)
    assert result.success
    assert result.n_model_steps > 0
    np.testing.assert_allclose(result.x, 1.0, atol=1e-4)


def steps_of(problem, *, lr, eta, c, blocks, n):
    """Algorithm 1, every matrix of the model solved as it is printed.

    It ends where rounding would decide whether a trial passes.
    """
    x, points, models = problem.x0.copy(), [problem.x0], [0]
    for _ in range(n):
        g = problem.jac(x)
        if np.linalg.norm(g) < 1e-5:
            break
        s = -lr * g
        if problem.fun(x + s) <= problem.fun(x) - c * lr * (g @ g):
            x = x + s
            models.append(models[-1])
        else:
            y = problem.jac(x + s) - g
            new = x.copy()
            for b in blocks:
                curved = np.outer(s[b], y[b]) + np.outer(y[b], s[b])
                norms = [np.linalg.norm(v[b]) for v in (s, y, g)]
                shift = norms[0] * (norms[1] + norms[2] / eta) - y[b] @ s[b]
                new[b] += np.linalg.solve(shift * np.eye(len(b)) + curved, -(s[b] @ s[b]) * g[b])
            x = new
            models.append(models[-1] + 1)
        points.append(x)
    return np.array(points), models


@pytest.mark.parametrize("blocks", [None, [[4, 0], [1, 2, 3]]])
@given(st.floats(0.3, 8.0), st.floats(0.3, 0.99), st.floats(0.05, 0.9))
@settings(max_examples=15, deadline=None)
def test_steps_are_those_of_the_algorithm(blocks, lr, eta, c):
    problem = logistic(l2=0.5)
    every = [np.array(b) for b in blocks or [range(5)]]
    points, models = steps_of(problem, lr=lr, eta=eta, c=c, blocks=every, n=12)
    seen = [problem.x0]
    result = model_building(
        problem.fun, problem.x0, jac=problem.jac, lr=lr, eta=eta, c=c, groups=blocks,
        gtol=0, maxiter=12, callback=seen.append, record=True,
    )  # fmt: skip
    np.testing.assert_allclose(seen[: len(points)], points, rtol=0, atol=1e-9)
    assert result.history["n_model_steps"].tolist()[: len(models)] == models
    assert result.n_model_steps == result.history["n_model_steps"][-1]


def test_the_test_of_the_trial_is_sharp():
    """On a x² / 2 the trial passes if lr a / 2 <= 1 - c."""
    a, c = 2.0, 0.3
    for lr, models in ((0.7 - 1e-9, 0), (0.7 + 1e-9, 1)):
        result = model_building(
            lambda x: 0.5 * a * x @ x, [3.0], jac=lambda x: a * x, lr=lr, c=c, maxiter=1
        )
        assert result.n_model_steps == models


def test_values_and_gradients_are_counted():
    calls = []
    problem = quadratic(4, 10.0)

    def fun(x):
        calls.append(x)
        return problem.fun(x)

    accepted = model_building(fun, problem.x0, jac=problem.jac, lr=0.5, maxiter=5, gtol=0)
    assert (accepted.nfev, accepted.njev, accepted.n_model_steps) == (6, 6, 0)
    refused = model_building(fun, problem.x0, jac=problem.jac, lr=50.0, maxiter=1, gtol=0)
    assert (refused.nfev, refused.njev, refused.n_model_steps) == (3, 3, 1)
    assert len(calls) == 9


@pytest.mark.parametrize("c", [0.1, 0.98])
@pytest.mark.parametrize("groups", [None, [[0, 1], [2], [3, 4]]])
def test_every_step_falls_as_far_as_the_bound_says(c, groups):
    problem = logistic(l2=0.05)
    seen = [problem.x0]
    alpha = 1 / (2 * problem.L)
    result = model_building(
        problem.fun, problem.x0, jac=problem.jac, lr=alpha, c=c, groups=groups, gtol=0,
        maxiter=100, callback=seen.append,
    )  # fmt: skip
    assert (result.n_model_steps > 50) == (c > 0.5)
    values = np.array([problem.fun(x) for x in seen])
    norms = np.array([np.linalg.norm(problem.jac(x)) for x in seen[:-1]])
    falls = values[:-1] - values[1:]
    assert (falls >= smb_descent_bound(norms, alpha, problem.L) - 1e-15).all()
    # a step ten times shorter than the one that the bound is told of
    seen = [problem.x0]
    model_building(
        problem.fun, problem.x0, jac=problem.jac, lr=alpha / 10, gtol=0, maxiter=20,
        callback=seen.append,
    )  # fmt: skip
    values = np.array([problem.fun(x) for x in seen])
    norms = np.array([np.linalg.norm(problem.jac(x)) for x in seen[:-1]])
    assert (values[:-1] - values[1:] < smb_descent_bound(norms, alpha, problem.L)).all()


def test_points_may_have_any_shape_and_order():
    problem = quadratic(6, 10.0)

    def shaped(method, x):
        return method(np.asarray(x).reshape(-1))

    flat = model_building(
        problem.fun, problem.x0, jac=problem.jac, lr=5.0, groups=[[0, 3], [1, 2, 4, 5]], maxiter=4
    )
    result = model_building(
        lambda x: shaped(problem.fun, x),
        problem.x0.reshape(2, 3),
        jac=lambda x: np.asfortranarray(shaped(problem.jac, x).reshape(2, 3)),
        lr=5.0,
        groups=[[0, 3], [1, 2, 4, 5]],
        maxiter=4,
    )
    assert result.x.shape == (2, 3)
    assert flat.n_model_steps > 0
    np.testing.assert_allclose(result.x.ravel(), flat.x, rtol=1e-14)


@pytest.mark.parametrize("jac", [None, "2-point", True])
def test_gradients_of_every_kind_are_taken(jac):
    def fun(x, a):
        value = 0.5 * x @ (a * x)
        return (value, a * x) if jac is True else value

    a = np.array([1.0, 30.0])
    result = model_building(fun, [1.0, 1.0], a, jac=jac, gtol=1e-4)
    assert result.success
    np.testing.assert_allclose(result.x, 0.0, atol=1e-3)


def lengths(problem, **options):
    return model_building(
        problem.fun, problem.x0, jac=problem.jac, gtol=0, record=True, auto_schedule=True,
        **options,
    ).history["lr"]  # fmt: skip


def test_the_schedule_follows_the_share_of_model_steps():
    problem = quadratic(3, 2.0)
    longer = lengths(problem, lr=0.5, schedule_every=4, beta=0.5, lr_max=1.6, maxiter=13)
    assert longer.tolist() == [0.5] * 4 + [1.0] * 4 + [1.6] * 4 + [1.6] * 2
    shorter = lengths(problem, lr=80.0, schedule_every=3, beta=0.5, maxiter=7)
    assert shorter.tolist() == [80.0] * 3 + [40.0] * 3 + [20.0] * 2


def test_a_share_of_just_gamma_is_tolerated():
    from thalweg.descent.model_descent import StepSchedule

    for gamma, expected in ((0.5, 2.0), (0.49, 0.5)):
        schedule = StepSchedule(4, gamma, 0.5, 20.0)
        models = (True, False, True, False)
        assert [schedule.after(1.0, model=m) for m in models] == [1.0, 1.0, 1.0, expected]


def test_a_trial_outside_the_domain_is_corrected():
    """x - log x from 3: the trial goes to x < 0, where the value is not a number."""

    def fun(x):
        with np.errstate(invalid="ignore"):
            return float(x[0] - np.log(x[0]))

    def jac(x):
        return np.where(x > 0, 1 - 1 / np.where(x > 0, x, 1.0), np.nan)

    seen = []
    result = model_building(fun, [3.0], jac=jac, lr=6.0, callback=seen.append)
    assert result.success
    assert result.x[0] == pytest.approx(1.0, abs=1e-5)
    # the trial to -1 is halved once, to 1, where the gradient is 0
    expected = 3.0 + model_building_step([2 / 3], [-2.0], [-2 / 3])[0]
    assert seen[0][0] == pytest.approx(expected, rel=1e-12)


def test_a_trial_without_finite_gradient_ends_the_run():
    asked = []

    def jac(x):
        asked.append(x[0])
        return np.array([1.0 if x[0] == 0 else np.inf])

    result = model_building(lambda x: 0.0, [0.0], jac=jac, lr=1.0)
    assert not result.success
    assert "halvings" in result.message
    assert result.x.tolist() == [0.0]
    np.testing.assert_array_equal(asked[1:], [-(0.5**k) for k in range(MOST_HALVINGS + 1)])


def test_a_function_that_never_falls_ends_the_run():
    result = model_building(lambda x: 1.0, [0.0], jac=lambda x: np.ones(1))
    assert not result.success
    assert result.nit == MOST_STALLED
    assert "60 consecutive" in result.message


def test_a_fall_now_and_then_keeps_the_run_going():
    values = []

    def fun(x):
        values.append(1.0)
        # two values an iteration after the first; the one of every 50th point is smaller
        return 1.0 - 0.01 * (len(values) // 100)

    result = model_building(fun, [0.0], jac=lambda x: np.ones(1), maxiter=200)
    assert result.nit == 200


def test_a_value_that_is_not_finite_ends_the_run():
    result = model_building(lambda x: np.nan, [1.0], jac=lambda x: x)
    assert not result.success
    assert "nan" in result.message


def test_where_the_gradient_is_tiny_the_trial_is_taken_untested():
    result = model_building(
        lambda x: -x[0], [1.0], jac=lambda x: np.array([1e-9]), lr=1.0, gtol=0, maxiter=3
    )
    assert result.n_model_steps == 0
    assert result.x[0] == pytest.approx(1.0 - 3e-9, rel=1e-15)


def test_a_callback_may_end_the_run():
    def stop(intermediate_result):
        assert intermediate_result.n_model_steps == 0
        raise StopIteration

    problem = quadratic(3, 2.0)
    result = model_building(problem.fun, problem.x0, jac=problem.jac, callback=stop)
    assert (result.status, result.nit, result.success) == (99, 1, False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": 0.0}, ValueError, "lr must"),
        ({"lr": "big"}, TypeError, "lr must"),
        ({"eta": 1.0}, ValueError, "eta must"),
        ({"c": 0.0}, ValueError, "c must"),
        ({"c": 1.0}, ValueError, "c must"),
        ({"gtol": -1.0}, ValueError, "gtol must"),
        ({"maxiter": 1.5}, TypeError, "maxiter must"),
        ({"auto_schedule": True, "schedule_every": 0}, ValueError, "schedule_every must"),
        ({"auto_schedule": True, "gamma": 1.0}, ValueError, "gamma must"),
        ({"auto_schedule": True, "beta": 1.0}, ValueError, "beta must"),
        ({"auto_schedule": True, "lr_max": 0.0}, ValueError, "lr_max must"),
        ({"groups": [[0, 1]]}, ValueError, "groups must .* got 2 0 times"),
        ({"groups": [[0, 1], [1, 2]]}, ValueError, "groups must .* got 1 2 times"),
        ({"groups": [[0, 1, 2, 3]]}, ValueError, r"groups must hold indices in \[0, 3\), got 3"),
        ({"groups": [[-1, 0, 1]]}, ValueError, "groups must"),
        ({"groups": [[0.0, 1.0, 2.0]]}, TypeError, "groups must"),
        ({"groups": [[True, False, True]]}, TypeError, "groups must"),
        ({"groups": 3}, TypeError, "groups must"),
        ({"bounds": [(0, 1)]}, ValueError, "bounds must be left out"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        model_building(lambda x: x @ x, np.ones(3), jac=lambda x: 2 * x, **options)
