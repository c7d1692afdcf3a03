"""Hit-and-run: the uniform law on bodies whose moments are known, a plain loop, refusals."""

from __future__ import annotations

import ast
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import kstest

import thalweg.descent.random_walk as module
from thalweg.descent import hit_and_run, hit_and_run_oracle


def simplex(n):
    """Return A, b and a point inside of x >= 0, sum x <= 1."""
    return np.vstack([-np.eye(n), np.ones(n)]), np.r_[np.zeros(n), 1.0], np.full(n, 0.5 / n)


def box(n):
    return np.vstack([np.eye(n), -np.eye(n)]), np.ones(2 * n)


def standard_error(values, batches=40):
    """Return the error of the mean of a chain, from the means of long batches."""
    means = np.array([part.mean(axis=0) for part in np.array_split(values, batches)])
    return means.std(axis=0, ddof=1) / np.sqrt(batches)


def assert_simplex_moments(draws, n):
    mean = 1 / (n + 1)
    variance = n / ((n + 1) ** 2 * (n + 2))
    squares = (draws - mean) ** 2
    assert (np.abs(draws.mean(axis=0) - mean) <= 4 * standard_error(draws)).all()
    assert (np.abs(squares.mean(axis=0) - variance) <= 4 * standard_error(squares)).all()
    # the errors are small enough for the comparison to mean something
    assert standard_error(draws).max() < 0.05 * mean
    assert standard_error(squares).max() < 0.1 * variance


def plain_walk(A, b, x0, steps, seed):
    """Return the points of the walk, step by step from the same random numbers."""
    directions, places = np.random.default_rng(seed).spawn(2)
    x, points = np.array(x0, dtype=float), []
    for _ in range(steps):
        direction = directions.standard_normal(x.size)
        u = places.random()
        low, high = -math.inf, math.inf
        for row, bound in zip(A, b, strict=True):
            slope = row @ direction
            if slope > 0:
                high = min(high, (bound - row @ x) / slope)
            elif slope < 0:
                low = max(low, (bound - row @ x) / slope)
        x = x + (low + u * (high - low)) * direction
        points.append(x)
    return np.array(points)


@pytest.mark.parametrize("n", [1, 2, 6])
def test_moments_on_the_simplex(n):
    A, b, x0 = simplex(n)
    assert_simplex_moments(hit_and_run(A, b, x0, n_samples=200_000, rng=n), n)


@pytest.mark.parametrize("n", [1, 3])
def test_moments_on_the_simplex_by_membership(n):
    draws = hit_and_run_oracle(
        lambda x: x.min() >= 0 and x.sum() <= 1, np.full(n, 0.5 / n), 1.5, n_samples=12_000, rng=n
    )
    assert_simplex_moments(draws, n)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_walk_is_that_of_a_plain_loop(n):
    rng = np.random.default_rng(n)
    cuts = rng.normal(size=(4, n))
    A, b = box(n)
    A, b = np.vstack([3 * A, cuts]), np.r_[3 * b, 0.3 * np.abs(cuts).sum(axis=1)]
    expected = plain_walk(A, b, np.zeros(n), 150, seed=7)
    draws = hit_and_run(A, b, np.zeros(n), n_samples=150, burn_in=0, rng=7)
    np.testing.assert_allclose(draws, expected, rtol=1e-9, atol=1e-11)


def test_burn_in_and_thinning_choose_from_one_walk():
    A, b, x0 = simplex(3)
    every = hit_and_run(A, b, x0, n_samples=400, burn_in=0, rng=2)
    some = hit_and_run(A, b, x0, n_samples=20, burn_in=11, thin=7, rng=2)
    np.testing.assert_allclose(some, every[11 + 6 : 11 + 20 * 7 : 7], rtol=1e-12)
    default = hit_and_run(A, b, x0, n_samples=5, rng=2)
    np.testing.assert_allclose(default, every[150:155], rtol=1e-12)


def test_burn_in_and_thinning_choose_from_one_walk_by_membership():
    def draw(**options):
        return hit_and_run_oracle(lambda x: x @ x <= 1, [0.1, 0.2], 2, rng=2, **options)

    every = draw(n_samples=200, burn_in=0)
    np.testing.assert_array_equal(
        draw(n_samples=9, burn_in=11, thin=7), every[11 + 6 : 11 + 9 * 7 : 7]
    )
    np.testing.assert_array_equal(draw(n_samples=5), every[100:105])


def test_walk_does_not_depend_on_how_many_steps_are_drawn_at_once(monkeypatch):
    A, b, x0 = simplex(3)
    whole = hit_and_run(A, b, x0, n_samples=60, burn_in=20, thin=3, rng=2)
    monkeypatch.setattr(module, "BLOCK", 7 * 7)
    parts = hit_and_run(A, b, x0, n_samples=60, burn_in=20, thin=3, rng=2)
    np.testing.assert_allclose(parts, whole, rtol=1e-9)


def test_an_interval_is_drawn_evenly_by_constraints():
    draws = hit_and_run([[2.0], [-1.0]], [6.0, 1.0], [2.9], n_samples=20_000, rng=0)[:, 0]
    assert kstest(draws, "uniform", args=(-1, 4)).pvalue > 1e-3
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 4 / np.sqrt(draws.size)


def test_an_interval_is_drawn_evenly_by_membership_whatever_the_point_before():
    draws = hit_and_run_oracle(lambda x: -1 <= x[0] <= 3, [2.9], 50.0, n_samples=8000, rng=0)[:, 0]
    assert kstest(draws, "uniform", args=(-1, 4)).pvalue > 1e-3
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 4 / np.sqrt(draws.size)


def test_the_ball_bounds_the_chords():
    # a body that fills its ball, off the axes too, and a ball that is not at the origin
    centre = np.array([5.0, -3.0, 1.0])
    draws = hit_and_run_oracle(
        lambda x: (x - centre) @ (x - centre) <= 4, centre, 2.0, n_samples=12_000, rng=1
    )
    squared = ((draws - centre) ** 2).sum(axis=1)
    assert abs(squared.mean() - 4 * 3 / 5) <= 4 * standard_error(squared)
    assert (np.abs(draws.mean(axis=0) - centre) <= 4 * standard_error(draws)).all()


def test_membership_is_asked_a_few_times_a_step():
    asked = []

    def contains(x):
        asked.append(x)
        return np.abs(x).max() <= 1

    hit_and_run_oracle(contains, np.zeros(3), 1000.0, n_samples=500, burn_in=0, rng=0)
    assert len(asked) < 500 * 25
    assert max(np.linalg.norm(x) for x in asked) <= 1000.0 * (1 + 2 * module.BEYOND)


def test_a_changed_point_does_not_change_the_walk():
    def contains(x):
        inside = x @ x <= 1
        x[:] = math.nan
        return inside

    start = np.array([0.1, 0.2])
    draws = hit_and_run_oracle(contains, start, 2, n_samples=50, rng=0)
    expected = hit_and_run_oracle(lambda x: x @ x <= 1, start, 2, n_samples=50, rng=0)
    np.testing.assert_array_equal(draws, expected)
    assert start.tolist() == [0.1, 0.2]


@given(st.integers(1, 6), st.integers(0, 8), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_draws_lie_inside(n, more, seed):
    rng = np.random.default_rng(seed)
    cuts = rng.normal(size=(more, n))
    A, b = box(n)
    A, b = np.vstack([A, cuts]), np.r_[b, rng.uniform(0.01, 1.0, size=more)]
    draws = hit_and_run(A, b, np.zeros(n), n_samples=300, burn_in=0, rng=seed)
    assert draws.shape == (300, n)
    assert (draws @ A.T <= b + 1e-11).all()
    assert len(np.unique(draws, axis=0)) == 300


def test_lengths_of_the_rows_do_not_matter():
    A, b, x0 = simplex(3)
    plain = hit_and_run(A, b, x0, n_samples=50, rng=0)
    for factors in (np.array([1e-3, 1.0, 5.0, 200.0]), np.full(4, 1e200), np.full(4, 1e-200)):
        scaled = hit_and_run(A * factors[:, None], b * factors, x0, n_samples=50, rng=0)
        np.testing.assert_allclose(scaled, plain, rtol=1e-9)


def test_a_row_of_zeros_asks_for_nothing():
    A, b, x0 = simplex(2)
    plain = hit_and_run(A, b, x0, n_samples=50, rng=0)
    for bound in (0.0, 3.0):
        more = hit_and_run(np.vstack([np.zeros(2), A]), np.r_[bound, b], x0, n_samples=50, rng=0)
        np.testing.assert_allclose(more, plain, rtol=1e-12)
    with pytest.raises(ValueError, match="x0 must be strictly inside Ax <= b, got row 0"):
        hit_and_run(np.vstack([np.zeros(2), A]), np.r_[-1.0, b], x0, n_samples=5)


def test_seed_decides_and_a_generator_goes_on():
    A, b, x0 = simplex(2)
    one, same = (hit_and_run(A, b, x0, n_samples=5, rng=3) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    rng = np.random.default_rng(3)
    first, second = (hit_and_run(A, b, x0, n_samples=5, rng=rng) for _ in range(2))
    np.testing.assert_array_equal(first, one)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("x0", "row"),
    [([0.8, 0.8], 2), ([-0.1, 0.3], 0), ([0.5, 0.5], 2), ([0.5, 0.0], 1)],
)
def test_a_start_that_is_not_inside_is_refused_with_its_row(x0, row):
    A, b, _ = simplex(2)
    with pytest.raises(ValueError, match=f"x0 must be strictly inside Ax <= b, got row {row} with"):
        hit_and_run(A, b, x0, n_samples=5)


def test_an_empty_polytope_is_refused():
    with pytest.raises(ValueError, match="x0 must be strictly inside"):
        hit_and_run([[1.0], [-1.0]], [0.0, -1.0], [0.5], n_samples=5)


@pytest.mark.parametrize(
    "A",
    [
        [[1.0, 0.0], [-1.0, 0.0]],
        [[-1.0, 0.0], [0.0, -1.0]],
        [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]],
        [[1.0, 1.0]],
        [[0.0, 0.0]],
        [[1.0, -1.0], [-1.0, 1.0], [2.0, -2.0]],
        [[1.0, 1e-3], [-1.0, 1e-3], [0.0, 1.0]],
    ],
)
def test_a_polytope_without_end_is_refused_with_a_way_out(A):
    with pytest.raises(
        ValueError, match="Ax <= b must be bounded, got a polytope without end"
    ) as e:
        hit_and_run(A, np.ones(len(A)), np.zeros(2), n_samples=5)
    way = np.array(ast.literal_eval(str(e.value).split("along ")[1]))
    assert np.linalg.norm(way) == pytest.approx(1)
    assert (np.array(A) @ way <= 1e-7).all()


@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_polytope_is_refused_where_a_coordinate_has_no_end_and_only_there(n, m, seed):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(m, n))
    free = [(None, None)] * n
    ends = [
        linprog(sign * axis, A_ub=A, b_ub=np.ones(m), bounds=free).status
        for axis in np.eye(n)
        for sign in (1, -1)
    ]
    if set(ends) == {0}:
        assert np.isfinite(hit_and_run(A, np.ones(m), np.zeros(n), n_samples=5, rng=0)).all()
    else:
        with pytest.raises(ValueError, match="must be bounded"):
            hit_and_run(A, np.ones(m), np.zeros(n), n_samples=5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"A": np.ones(3)}, ValueError, "A must have 2 axes"),
        ({"A": np.empty((0, 2))}, ValueError, "A must have a row and a column or more"),
        ({"A": np.full((3, 2), math.nan)}, ValueError, "A must be finite"),
        ({"A": "box"}, TypeError, "A must be an array"),
        ({"b": np.ones(2)}, ValueError, r"b must have shape \(3\), got \(2,\)"),
        ({"b": [1, 1, math.inf]}, ValueError, "b must be finite"),
        ({"x0": np.ones(3)}, ValueError, r"x0 must have shape \(2\), got \(3,\)"),
        ({"n_samples": 0}, ValueError, "n_samples must be an integer >= 1, got 0"),
        ({"burn_in": -1}, ValueError, "burn_in must be an integer >= 0, got -1"),
        ({"thin": 0}, ValueError, "thin must be an integer >= 1, got 0"),
    ],
)
def test_bad_arguments_of_the_polytope_are_refused(change, error, message):
    A, b, x0 = simplex(2)
    given = {"A": A, "b": b, "x0": x0, "n_samples": 5} | change
    with pytest.raises(error, match=message):
        hit_and_run(**given)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"contains": 3}, TypeError, "contains must be callable, got 3"),
        ({"contains": lambda x: x}, ValueError, "contains must return a truth value"),
        ({"contains": lambda x: True}, ValueError, "radius must be that of a ball about x0"),
        ({"x0": [0.0, 2.0]}, ValueError, r"x0 must be inside, but contains\(x0\) is false"),
        ({"x0": []}, ValueError, "x0 must not be empty"),
        ({"x0": [[0.0]]}, ValueError, "x0 must have 1 axes"),
        ({"radius": 0}, ValueError, "radius must be a finite number > 0, got 0"),
        ({"radius": math.inf}, ValueError, "radius must be a finite number > 0, got inf"),
        ({"radius": 0.5}, ValueError, r"radius must be that .* got 0.5"),
        (
            {"contains": lambda x: -5 <= x[0] <= 0.5 and abs(x[1]) <= 0.5},
            ValueError,
            r"radius must be .* but \[-1.9\d*, 0.0\] is inside",
        ),
        ({"n_samples": 0}, ValueError, "n_samples must be an integer >= 1, got 0"),
        ({"burn_in": -1}, ValueError, "burn_in must be an integer >= 0, got -1"),
        ({"thin": 0}, ValueError, "thin must be an integer >= 1, got 0"),
    ],
)
def test_bad_arguments_of_the_membership_walk_are_refused(change, error, message):
    given = {
        "contains": lambda x: x @ x <= 1,
        "x0": [0.1, 0.0],
        "radius": 2.0,
        "n_samples": 5,
    } | change
    with pytest.raises(error, match=message):
        hit_and_run_oracle(**given)


def test_answers_that_change_are_reported():
    asked = []

    def contains(x):
        asked.append(x)
        return len(asked) == 1

    with pytest.raises(RuntimeError, match="contains must be a function of the point"):
        hit_and_run_oracle(contains, [0.0, 0.0], 1.0, n_samples=1, rng=0)
