"""Projections: against SciPy's minimisers, and the inequality that makes them projections."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from thalweg.descent import (
    project_ball,
    project_box,
    project_halfspace,
    project_l1_ball,
    project_nuclear_ball,
    project_simplex,
)

NORMAL = np.array([1.0, -2.0, 0.5, 1.0])
CENTRE = np.array([1.0, 0.0, -1.0, 2.0])

SETS = {
    "ball": (lambda x: project_ball(x, 1.5, CENTRE), lambda x: 1.5 - np.linalg.norm(x - CENTRE)),
    "box": (lambda x: project_box(x, -1.0, 0.5), lambda x: min(0.5 - x.max(), x.min() + 1)),
    "simplex": (
        lambda x: project_simplex(x, 2.0),
        lambda x: min(x.min(), -abs(x.sum() - 2)),
    ),
    "l1 ball": (lambda x: project_l1_ball(x, 1.5), lambda x: 1.5 - np.abs(x).sum()),
    "half-space": (
        lambda x: project_halfspace(x, NORMAL, 0.7),
        lambda x: 0.7 - NORMAL @ x,
    ),
    "nuclear ball": (
        lambda x: project_nuclear_ball(x.reshape(2, 2), 1.5).ravel(),
        lambda x: 1.5 - np.linalg.svd(x.reshape(2, 2), compute_uv=False).sum(),
    ),
}
sets = pytest.mark.parametrize("name", SETS)
POINTS = arrays(np.float64, 4, elements=st.floats(-20, 20, allow_subnormal=False))


@sets
@given(x=POINTS, other=POINTS)
@settings(max_examples=80, deadline=None)
def test_obtuse_angle_at_the_projection(name, x, other):
    project, slack = SETS[name]
    nearest, inside = project(x), project(other)
    assert slack(nearest) >= -1e-9
    assert (x - nearest) @ (inside - nearest) <= 1e-8
    np.testing.assert_allclose(project(nearest), nearest, atol=1e-9)
    assert np.linalg.norm(nearest - inside) <= np.linalg.norm(x - other) + 1e-9


@pytest.mark.parametrize("name", [name for name in SETS if name != "nuclear ball"])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scipy(name, seed):
    project, slack = SETS[name]
    x = np.random.default_rng(seed).normal(size=4) * 3
    constraints = {"type": "ineq", "fun": slack}
    if name == "simplex":
        constraints = [
            {"type": "eq", "fun": lambda y: y.sum() - 2},
            {"type": "ineq", "fun": lambda y: y},
        ]
    if name == "l1 ball":
        signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T
        constraints = {"type": "ineq", "fun": lambda y: 1.5 - signs @ y}
    if name == "box":
        constraints = {"type": "ineq", "fun": lambda y: np.r_[0.5 - y, y + 1]}
    peer = minimize(
        lambda y: np.sum((y - x) ** 2),
        np.full(4, 0.5) if name == "simplex" else np.zeros(4),
        method="SLSQP",
        constraints=constraints,
        options={"ftol": 1e-14},
    )
    np.testing.assert_allclose(project(x), peer.x, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_nuclear_ball_agrees_with_scipy_on_factors(seed):
    # X = U V' with (‖U‖² + ‖V‖²) / 2 <= r is the ball of nuclear norm r.
    rng = np.random.default_rng(seed)
    X = 3 * rng.normal(size=(3, 2))

    def product(z):
        return z[:6].reshape(3, 2) @ z[6:].reshape(2, 2)

    peer = minimize(
        lambda z: np.sum((product(z) - X) ** 2),
        rng.normal(size=10),
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda z: 1.5 - 0.5 * z @ z},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(project_nuclear_ball(X, 1.5), product(peer.x), atol=1e-4)


@sets
def test_points_inside_stay(name):
    project, _ = SETS[name]
    inside = project(np.array([0.3, -0.1, 0.2, 0.1]))
    np.testing.assert_allclose(project(inside), inside, atol=1e-12)
    assert project(inside) is not inside


def test_simplex_of_far_and_equal_points():
    np.testing.assert_array_equal(project_simplex([1e16, 0.0, -1e16]), [1, 0, 0])
    np.testing.assert_allclose(project_simplex(np.full(10, 1e12)), np.full(10, 0.1))
    np.testing.assert_array_equal(project_simplex([-7.0]), [1.0])


def test_any_shape_is_one_point():
    x = np.arange(6.0).reshape(2, 3)
    for project in (project_simplex, project_ball, lambda y: project_l1_ball(y, 2.0)):
        np.testing.assert_array_equal(project(x).ravel(), project(x.ravel()))
        assert project(x).shape == (2, 3)
    assert np.linalg.norm(project_ball(x, 2.0)) == pytest.approx(2.0)


def test_infinite_sides_and_zero_radius():
    np.testing.assert_array_equal(project_box([-5.0, 5.0], [0.0, -np.inf], np.inf), [0, 5])
    np.testing.assert_array_equal(project_ball([3.0, 4.0], 0.0, [1.0, 1.0]), [1, 1])


def test_nuclear_ball_shrinks_the_singular_values_as_a_simplex_would():
    X = np.random.default_rng(0).normal(size=(5, 3))
    projected = project_nuclear_ball(X, 1.0)
    values = np.linalg.svd(projected, compute_uv=False)
    expected = project_simplex(np.linalg.svd(X, compute_uv=False))
    np.testing.assert_allclose(values, expected, atol=1e-12)
    np.testing.assert_array_equal(project_nuclear_ball(X, 100.0), X)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: project_ball([np.nan]), "x must be finite"),
        (lambda: project_ball([1.0], -1.0), "radius must be"),
        (lambda: project_ball([1.0, 2.0], 1.0, [1.0, 2.0, 3.0]), "centre must broadcast"),
        (lambda: project_box([1.0], 1.0, 0.0), "lo must be <= hi"),
        (lambda: project_box([1.0], np.nan, 0.0), "lo must be <= hi"),
        (lambda: project_box([1.0], [0.0, 0.0], 1.0), "lo must broadcast"),
        (lambda: project_simplex([1.0], 0.0), "total must be"),
        (lambda: project_simplex([]), "x must not be empty"),
        (lambda: project_l1_ball([1.0], 0.0), "radius must be"),
        (lambda: project_nuclear_ball([1.0], 1.0), "X must have 2 axes"),
        (lambda: project_nuclear_ball([[1.0]], -1.0), "radius must be"),
        (lambda: project_halfspace([1.0], [0.0], 1.0), "a must not be zero"),
        (lambda: project_halfspace([1.0], [1.0, 2.0], 1.0), "a must have shape"),
        (lambda: project_halfspace([1.0], [1.0], np.inf), "b must be"),
    ],
)
def test_malformed_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
