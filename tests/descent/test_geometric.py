"""Geometric descent: the balls hold the minimiser and shrink as fast as promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from thalweg.descent import geometric_descent, nesterov, rate

from ._battery import logistic, quadratic
from ._battery import smooth_problems as smooth

named = {"ids": lambda value: getattr(value, "name", str(value))}


def solve(problem, **options):
    options = {"mu": problem.mu, "L": problem.L, "record": True, **options}
    return geometric_descent(problem.fun, problem.x0, jac=problem.jac, **options)


@pytest.mark.parametrize("problem", smooth(), **named)
def test_agrees_with_scipy(problem):
    peer = minimize(
        problem.fun, problem.x0, jac=problem.jac, method="L-BFGS-B", options={"gtol": 1e-10}
    )
    result = solve(problem)
    assert result.success
    assert np.abs(problem.jac(result.x)).max() <= 1e-8
    assert result.fun <= peer.fun + 1e-10
    np.testing.assert_allclose(result.jac, problem.jac(result.x), atol=1e-13)


@pytest.mark.parametrize(
    "problem",
    [quadratic(2, 1.5), quadratic(10, 1e2), quadratic(100, 1e4), quadratic(5, 1e8), logistic()],
    **named,
)
def test_every_ball_holds_the_minimiser_and_is_as_small_as_promised(problem):
    result = solve(problem, maxiter=300)
    centre, radius_sq = result.history["centre"], result.history["radius_sq"]
    n = len(problem.x0)
    assert centre.shape == (result.nit + 1, n)
    assert radius_sq.shape == (result.nit + 1,)
    start = math.sqrt(radius_sq[0])
    distance = np.linalg.norm(centre - problem.solution, axis=1)
    assert (distance <= np.sqrt(radius_sq) + 1e-7 * (1 + start)).all()
    t = np.arange(result.nit + 1)
    promised = rate("geometric_descent", t, L=problem.L, mu=problem.mu, radius=start)
    assert (radius_sq <= promised * (1 + 1e-9) + 1e-18).all()
    np.testing.assert_array_equal(result.centre, centre[-1])
    assert result.radius_sq == radius_sq[-1]


def test_first_ball_is_that_of_one_gradient():
    problem = quadratic(4, 10.0)
    result = solve(problem, maxiter=0)
    g = problem.jac(problem.x0)
    np.testing.assert_allclose(result.centre, problem.x0 - 10 * g)
    assert result.radius_sq == pytest.approx(0.9 * 100 * g @ g)


def test_balls_are_the_least_around_the_intersection():
    # The two balls meet in a sphere; its middle and radius follow from the two equations alone.
    problem = quadratic(6, 50.0)
    mu, L = problem.mu, 1.0
    result = solve(problem, maxiter=25)
    points = [problem.x0]
    geometric_descent(
        problem.fun,
        problem.x0,
        jac=problem.jac,
        mu=mu,
        L=L,
        maxiter=25,
        callback=points.append,
    )
    cut = 0
    for k in range(25):
        old, old_sq = result.history["centre"][k], result.history["radius_sq"][k]
        x, g = points[k + 1], problem.jac(points[k + 1])
        far, reach = x - g / mu, g @ g / mu**2
        new, new_sq = result.history["centre"][k + 1], result.history["radius_sq"][k + 1]
        first, second = old_sq - reach * mu / L, reach * (1 - mu / L)
        if reach < old_sq / 2:
            np.testing.assert_allclose(new, far, rtol=1e-8)
            assert new_sq == pytest.approx(second, rel=1e-8)
            continue
        cut += 1
        # A point at distance sqrt(new_sq) from the new centre, across the axis, is on both spheres.
        assert new_sq + np.sum((new - old) ** 2) == pytest.approx(first, rel=1e-6)
        assert new_sq + np.sum((new - far) ** 2) == pytest.approx(second, rel=1e-6)
    assert cut >= 5


def test_points_minimise_the_function_between_centre_and_gradient_step():
    problem = logistic(dim=4)
    points = [problem.x0]
    result = geometric_descent(
        problem.fun,
        problem.x0,
        jac=problem.jac,
        mu=problem.mu,
        L=problem.L,
        maxiter=10,
        callback=points.append,
    )
    for k in range(10):
        ahead = points[k] - problem.jac(points[k]) / problem.L
        direction = ahead - result.history["centre"][k]
        offset = points[k + 1] - result.history["centre"][k]
        assert abs(problem.jac(points[k + 1]) @ direction) <= 1e-10 * (direction @ direction)
        parallel = (offset @ direction) / (direction @ direction) * direction
        np.testing.assert_allclose(offset, parallel, atol=1e-9)


def test_takes_as_many_steps_as_nesterov():
    problem = quadratic(50, 1e4)
    ball = solve(problem)
    peer = nesterov(problem.fun, problem.x0, jac=problem.jac, L=1.0, mu=1e-4)
    assert 1 / 1.3 <= ball.nit / peer.nit <= 1.3


def test_a_round_bowl_is_solved_in_one_step():
    result = solve(quadratic(5, 1.0))
    assert result.nit <= 1
    assert result.radius_sq <= 1e-30


def test_constants_that_are_wrong_are_found_out():
    problem = quadratic(10, 1e3)
    result = solve(problem, mu=0.5)
    assert not result.success
    assert "mu is too large or L too small" in result.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mu": 0.0}, "mu must be a finite number > 0"),
        ({"mu": 2.0}, "mu must be"),
        ({"L": -1.0}, "L must be"),
        ({"gtol": -1.0}, "gtol must be"),
    ],
)
def test_malformed_constants_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        solve(quadratic(2, 10.0), **options)
