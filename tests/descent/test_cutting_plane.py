"""Centre of gravity and ellipsoid: volumes by formula, certificates, bounds, refusals."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, minimize
from scipy.spatial import ConvexHull, Delaunay

from thalweg.descent import centre_of_gravity, ellipsoid, rate
from thalweg.descent._cutting import Body, simplex_moments

from ._battery import max_affine

CENTRES = ("exact", "hit-and-run")


def box(n, half_width=5.0):
    return [(-half_width, half_width)] * n


def outside(half_width=5.0):
    """What separates a point from the box |x_j| <= half_width."""

    def feasible(x):
        worst = np.argmax(np.abs(x))
        return None if abs(x[worst]) <= half_width else np.sign(x[worst]) * np.eye(len(x))[worst]

    return feasible


def solve(method, problem, **options):
    n = len(problem.x0)
    if method is ellipsoid:
        where = {"x0": np.zeros(n), "radius": 5 * math.sqrt(n), "feasible": outside()}
    else:
        where = {"bounds": box(n)}
    return method(problem.fun, jac=problem.jac, **where, **options)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_each_centre_cut_keeps_at_most_1_minus_1_over_e_of_the_volume(n, seed):
    result = solve(centre_of_gravity, max_affine(n, seed=seed), ftol=1e-6, record=True)
    assert result.success
    # The first two entries are the box.
    volumes = result.history["log_volume"][1:]
    assert volumes[0] == pytest.approx(n * math.log(10.0), rel=1e-12)
    ratios = np.exp(np.diff(volumes))
    assert len(ratios) > 20
    assert ratios.max() <= 1 - 1 / math.e + 1e-9
    assert ratios.min() >= 1 / math.e - 1e-9


def test_in_one_dimension_each_cut_halves_the_interval():
    result = solve(centre_of_gravity, max_affine(1), ftol=1e-6, record=True)
    np.testing.assert_allclose(np.exp(np.diff(result.history["log_volume"][1:])), 0.5, rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("method", [centre_of_gravity, ellipsoid])
def test_the_gap_is_true_and_the_minimum_is_found(method, n, seed):
    problem = max_affine(n, seed=seed)
    result = solve(method, problem, ftol=1e-6, record=True)
    assert result.success
    assert result.gap <= 1e-6
    error = result.history["fun"] - problem.minimum
    assert error[-1] >= -1e-9
    assert (error <= result.history["gap"] + 1e-9).all()
    assert result.fun == problem.fun(result.x)
    np.testing.assert_array_equal(result.jac, problem.jac(result.x))


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("centre", CENTRES)
def test_centre_of_gravity_stays_below_its_bound(n, centre):
    problem = max_affine(n)
    A, b = problem.more["A"], problem.more["b"]
    most = np.max(np.abs(b) + 5 * np.abs(A).sum(axis=1))
    result = solve(centre_of_gravity, problem, centre=centre, ftol=1e-3, record=True, rng=0)
    error = result.history["fun"] - problem.minimum
    assert (error <= rate("centre_of_gravity", np.arange(len(error)), bound=most, n=n)).all()
    assert result.success
    assert result.nit == result.nfev == result.njev == len(error) - 1


@pytest.mark.parametrize("n", [2, 4])
def test_ellipsoid_stays_below_its_bound(n):
    problem = max_affine(n)
    A, b = problem.more["A"], problem.more["b"]
    most = np.max(np.abs(b) + 5 * np.abs(A).sum(axis=1))
    result = solve(ellipsoid, problem, record=True)
    error = result.history["fun"] - problem.minimum
    constants = {"bound": most, "radius": 5 * math.sqrt(n), "inner_radius": 5.0, "n": n}
    assert (error <= rate("ellipsoid", np.arange(len(error)), **constants)).all()


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_ellipsoid_shrinks_exactly_by_the_formula(n):
    problem = max_affine(n)
    if n == 1:
        ratio = 0.5
    else:
        ratio = (n**2 / (n**2 - 1)) ** (n / 2) * math.sqrt((n - 1) / (n + 1))
    logs = [
        0.5 * np.linalg.slogdet(solve(ellipsoid, problem, ftol=0.0, maxiter=t).matrix)[1]
        for t in range(25)
    ]
    np.testing.assert_allclose(np.exp(np.diff(logs)), ratio, rtol=1e-10)
    assert ratio <= math.exp(-1 / (2 * n))
    assert logs[0] == pytest.approx(n * math.log(5 * math.sqrt(n)))


@pytest.mark.parametrize("n", [2, 5])
def test_the_next_ellipsoid_holds_the_half_that_is_left_and_touches_it(n):
    rng = np.random.default_rng(n)
    w = rng.normal(size=n)
    c = rng.normal(size=n)
    result = ellipsoid(lambda x: w @ x, c, jac=lambda x: w, radius=2.0, maxiter=1)
    directions = rng.normal(size=(20_000, n))
    points = 2.0 * directions / np.linalg.norm(directions, axis=1)[:, None]
    rim = points - np.outer(points @ w, w) / (w @ w)
    rim *= 2.0 / np.linalg.norm(rim, axis=1)[:, None]
    pole = -2.0 * w / np.linalg.norm(w)

    def level(x):
        away = x + c - result.centre
        return np.einsum("...i,ij,...j->...", away, np.linalg.inv(result.matrix), away)

    assert level(points[points @ w <= 0]).max() <= 1 + 1e-9
    np.testing.assert_allclose(level(rim), 1.0, rtol=1e-9)
    assert level(pole) == pytest.approx(1.0)


def test_ellipsoid_keeps_the_optimum_and_only_values_feasible_points():
    problem = max_affine(3)
    seen = []

    def fun(x):
        seen.append(x)
        return problem.fun(x)

    result = ellipsoid(
        fun, np.zeros(3), jac=problem.jac, radius=0.6, feasible=outside(0.3), record=True
    )
    assert result.success
    assert result.nfev == result.njev == len(seen) < result.nit
    assert np.abs(seen).max() <= 0.3
    small = max_affine(3, half_width=0.3)
    assert result.fun == pytest.approx(small.minimum, abs=1e-7)
    away = small.solution - result.centre
    assert away @ np.linalg.solve(result.matrix, away) <= 1 + 1e-6


def test_an_empty_set_is_reported_not_invented():
    def never(x):
        return np.ones(2)

    result = ellipsoid(lambda x: 0.0, [0.0, 0.0], radius=1.0, feasible=never, maxiter=50)
    assert not result.success
    assert result.fun == math.inf
    assert result.jac is None
    assert result.nfev == 0


@pytest.mark.parametrize("centre", CENTRES)
def test_long_thin_boxes_do_no_harm(centre):
    target = np.array([3e-7, 2e4])
    scale = np.array([1e-6, 1e5])
    result = centre_of_gravity(
        lambda x: np.sum(((x - target) / scale) ** 2),
        jac=lambda x: 2 * (x - target) / scale**2,
        bounds=Bounds(-scale, scale),
        centre=centre,
        rng=0,
    )
    assert result.success
    np.testing.assert_allclose(result.x / scale, target / scale, atol=1e-4)


def test_centre_methods_pass_through_scipy():
    problem = max_affine(2)
    ours = {"ftol": 1e-6}
    through = minimize(
        problem.fun,
        np.zeros(2),
        jac=problem.jac,
        bounds=box(2),
        method=centre_of_gravity,
        options=ours,
    )
    assert through.fun == pytest.approx(problem.minimum, abs=1e-6)
    through = minimize(
        problem.fun, np.zeros(2), jac=problem.jac, method=ellipsoid, options=ours | {"radius": 8.0}
    )
    assert through.success
    assert through.fun <= problem.minimum + 1e-6


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_simplex_moments_agree_with_a_triangulation_from_within(seed, n):
    points = np.random.default_rng(seed).normal(size=(3 * n, n))
    whole = Delaunay(points)
    volume, centroid, covariance = simplex_moments(points[whole.simplices])
    hull = ConvexHull(points)
    assert volume == pytest.approx(hull.volume, rel=1e-9)
    tips = np.broadcast_to(points.mean(axis=0), (len(hull.simplices), 1, n))
    fan = np.concatenate([tips, points[hull.simplices]], axis=1)
    np.testing.assert_allclose(simplex_moments(fan)[1], centroid, atol=1e-9)
    np.testing.assert_allclose(simplex_moments(fan)[2], covariance, atol=1e-9)


def test_moments_of_the_unit_simplex():
    n = 4
    volume, centroid, covariance = simplex_moments(np.vstack([np.zeros(n), np.eye(n)])[None])
    assert volume == pytest.approx(1 / 24)
    np.testing.assert_allclose(centroid, 1 / (n + 1))
    np.testing.assert_allclose(np.diag(covariance), n / ((n + 1) ** 2 * (n + 2)))
    assert covariance[0, 1] == pytest.approx(-1 / ((n + 1) ** 2 * (n + 2)))


def test_walk_and_triangulation_agree_on_a_cut_box():
    body = Body(np.array([-1.0, 0.0, 2.0]), np.array([1.0, 4.0, 3.0]))
    body.cut(np.array([1.0, 0.5, -2.0]))
    sampled = copy.deepcopy(body)
    sampled.recentre_by_sampling(200_000, np.random.default_rng(0))
    body.recentre_exactly()
    np.testing.assert_allclose(sampled.origin, body.origin, atol=0.024)  # 4 standard errors


def test_a_recentred_body_is_the_same_set_with_unit_covariance():
    body = Body(np.array([-1.0, 0.0]), np.array([1.0, 4.0]))
    body.cut(np.array([1.0, 0.5]))
    grid = np.random.default_rng(0).uniform([-1, 0], [1, 4], size=(500, 2))
    body.recentre_exactly()
    u = np.linalg.solve(body.axes, (grid - body.origin).T).T
    inside = (u @ body.rows.T <= body.offsets).all(axis=1)
    np.testing.assert_array_equal(inside, (grid - [0.0, 2.0]) @ [1.0, 0.5] <= 0)
    assert np.exp(body.log_volume) == pytest.approx(4.0)
    # The least of g·x is at a corner of the triangle (-1, 0), (1, 0), (-1, 4).
    g = np.array([1.0, 1.0])
    assert body.width(g) == pytest.approx(g @ body.origin + 1.0)
    body._vertices = None
    assert body.width(g) == pytest.approx(g @ body.origin + 1.0, rel=1e-6)


@pytest.mark.parametrize("method", [centre_of_gravity, ellipsoid])
def test_values_that_are_not_finite_end_the_run(method):
    problem = max_affine(2)

    def broken(x):
        return math.nan if np.linalg.norm(x) > 0.5 else problem.fun(x)

    where = {"x0": np.zeros(2), "radius": 9.0} if method is ellipsoid else {"bounds": box(2)}
    result = method(broken, jac=problem.jac, **where)
    assert not result.success
    assert "fun returned nan" in result.message
    assert np.isfinite(result.x).all()


@pytest.mark.parametrize("method", [centre_of_gravity, ellipsoid])
def test_a_flat_function_ends_at_once(method):
    where = {"x0": np.zeros(2), "radius": 9.0} if method is ellipsoid else {"bounds": box(2)}
    result = method(lambda x: 3.0, jac=lambda x: np.zeros(2), **where)
    assert result.success
    assert (result.nit, result.gap, result.fun) == (1, 0.0, 3.0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bounds": None}, ValueError, "bounds must be given"),
        ({"bounds": [(0, np.inf)]}, ValueError, "bounds must be finite"),
        ({"bounds": [(1, 1)]}, ValueError, "bounds must be pairs lo < hi"),
        ({"bounds": [(0, 1)] * 2, "x0": [1.0]}, ValueError, "x0 must have shape"),
        ({"bounds": [(0, 1)] * 8}, ValueError, "centre must be 'hit-and-run' beyond 7"),
        ({"bounds": [(0, 1)], "centre": "middle"}, ValueError, "centre must be one of"),
        ({"bounds": [(0, 1)] * 3, "n_samples": 3}, ValueError, "n_samples must be > 3"),
        ({"bounds": [(0, 1)], "ftol": -1.0}, ValueError, "ftol must be"),
        ({"bounds": [(0, 1)], "constraints": [1]}, ValueError, "constraints must be left out"),
    ],
)
def test_centre_of_gravity_refuses_bad_input(options, error, message):
    with pytest.raises(error, match=message):
        centre_of_gravity(lambda x: 0.0, **{"x0": None} | options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"radius": 0.0}, ValueError, "radius must be"),
        ({"radius": 1.0, "feasible": 3}, TypeError, "feasible must be callable"),
        ({"radius": 1.0, "bounds": [(0, 1)]}, ValueError, "bounds must be left out"),
        ({"radius": 1.0, "feasible": lambda x: [1.0]}, ValueError, "feasible must return shape"),
        ({"radius": 1.0, "x0": np.eye(2)}, ValueError, "x0 must have 1 axes"),
    ],
)
def test_ellipsoid_refuses_bad_input(options, error, message):
    with pytest.raises(error, match=message):
        ellipsoid(lambda x: 0.0, **{"x0": [0.0, 0.0]} | options)
