"""Saddle points and games: recursions, bounds, values by linear programming, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from thalweg.descent import (
    BoxEntropy,
    Euclidean,
    LinearBarrier,
    NegativeEntropy,
    matrix_game,
    path_following,
    project_ball,
    rate,
    saddle_mirror_descent,
    saddle_mirror_prox,
)

SIMPLEX = NegativeEntropy()
METHODS = ("mirror-prox", "mirror-descent", "stochastic")


def game(m=12, n=15, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, size=(m, n))


def value_by_linprog(A):
    """min v with Aᵀx <= v."""
    m, n = A.shape
    best = linprog(
        np.r_[np.zeros(m), 1.0],
        A_ub=np.c_[A.T, -np.ones(n)],
        b_ub=np.zeros(n),
        A_eq=np.r_[np.ones(m), 0.0][None],
        b_eq=[1.0],
        bounds=[(0, None)] * m + [(None, None)],
    )
    return best.fun


def uniform(n):
    return np.full(n, 1 / n)


def bilinear(A, **more):
    m, n = A.shape
    return {
        "gx": lambda x, y: A @ y,
        "gy": lambda x, y: A.T @ x,
        "x0": uniform(m),
        "y0": uniform(n),
        "mirror_x": SIMPLEX,
        "mirror_y": SIMPLEX,
        "radius": (math.sqrt(math.log(m)), math.sqrt(math.log(n))),
        **more,
    }


def duality_gap(A, x, y):
    return np.max(A.T @ x) - np.min(A @ y)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mirror_prox_stays_below_its_bound_and_on_the_simplex(seed):
    A = game(seed=seed)
    largest = np.abs(A).max()
    problem = bilinear(A, smoothness=(0, largest, largest, 0))
    result = saddle_mirror_prox(**problem, maxiter=300, record=True)
    xs, ys = result.history["x"], result.history["y"]
    gaps = [duality_gap(A, x, y) for x, y in zip(xs, ys, strict=True)]
    constants = {key: problem[key] for key in ("radius", "smoothness")}
    assert (gaps <= rate("saddle_mirror_prox", np.arange(301), **constants)).all()
    for points in (xs, ys, result.x_last[None], result.y_last[None]):
        assert points.min() >= 0
        np.testing.assert_allclose(points.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(result.x, xs[-1])
    assert (result.nit, result.njev, result.success) == (300, 600, True)


@pytest.mark.parametrize("horizon", [1, 30, 1000])
def test_mirror_descent_stays_below_its_bound(horizon):
    A = game()
    largest = np.abs(A).max()
    problem = bilinear(A, lipschitz=(largest, largest))
    result = saddle_mirror_descent(**problem, maxiter=horizon)
    constants = {key: problem[key] for key in ("radius", "lipschitz")}
    bound = rate("saddle_mirror_descent", horizon, **constants)
    assert duality_gap(A, result.x, result.y) <= bound
    assert result.njev == horizon


def test_both_follow_their_printed_recursions():
    A, T = game(3, 4), 5
    R, L = np.array([0.7, 1.3]), np.array([2.0, 3.0])
    problem = bilinear(A, radius=R)
    mirror_x, mirror_y = SIMPLEX, BoxEntropy(-1.0, 2.0)
    problem |= {"mirror_y": mirror_y, "y0": np.zeros(4)}
    rho_y = 4 / 3

    x, y, seen = uniform(3), np.zeros(4), []
    eta = math.sqrt(2 / T)
    a, b = L[0] / R[0], L[1] / (R[1] / math.sqrt(rho_y)) / rho_y
    for _ in range(T):
        seen.append((x, y))
        x, y = mirror_x.step(x, A @ y, eta / a), mirror_y.step(y, -A.T @ x, eta / b)
    result = saddle_mirror_descent(**problem, lipschitz=L, maxiter=T)
    np.testing.assert_allclose(result.x, np.mean([x for x, _ in seen], axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.y, np.mean([y for _, y in seen], axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.x_last, x, rtol=1e-12)
    np.testing.assert_allclose(result.y_last, y, rtol=1e-12)

    x, y, seen = uniform(3), np.zeros(4), []
    r = [R[0], R[1] / math.sqrt(rho_y)]
    b11, b12, b21, b22 = beta = (0.5, 2.0, 1.0, 0.7)
    eta = 1 / (2 * max(b11 * r[0] ** 2, b22 * r[1] ** 2, b12 * r[0] * r[1], b21 * r[0] * r[1]))
    a, b = 1 / r[0] ** 2, 1 / r[1] ** 2 / rho_y
    for _ in range(T):
        u, v = mirror_x.step(x, A @ y, eta / a), mirror_y.step(y, -A.T @ x, eta / b)
        seen.append((u, v))
        x, y = mirror_x.step(x, A @ v, eta / a), mirror_y.step(y, -A.T @ u, eta / b)
    result = saddle_mirror_prox(**problem, smoothness=beta, maxiter=T)
    np.testing.assert_allclose(result.x, np.mean([u for u, _ in seen], axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.y, np.mean([v for _, v in seen], axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.x_last, x, rtol=1e-12)
    np.testing.assert_allclose(result.y_last, y, rtol=1e-12)


@pytest.mark.parametrize("which", range(4))
def test_each_smoothness_constant_sets_the_step(which):
    """b11 counts with R_X², b12 and b21 with R_X R_Y, b22 with R_Y²."""
    beta = np.zeros(4)
    beta[which] = 2.0
    R = (0.7, 1.3)
    size = 2.0 * (R[0] ** 2, R[0] * R[1], R[0] * R[1], R[1] ** 2)[which]
    result = saddle_mirror_prox(
        lambda x, y: [1.0],
        lambda x, y: [1.0],
        [0.0],
        [0.0],
        mirror_x=Euclidean(),
        mirror_y=Euclidean(),
        radius=R,
        smoothness=beta,
        maxiter=1,
    )
    assert result.x_last[0] == pytest.approx(-(R[0] ** 2) / (2 * size))
    assert result.y_last[0] == pytest.approx(R[1] ** 2 / (2 * size))


def test_a_quadratic_saddle_in_two_balls_is_found():
    """phi = ‖x - a‖²/2 + x·y - ‖y - b‖²/2 has its saddle at x = (a - b) / 2, y = (a + b) / 2."""
    a, b = np.array([0.5, 0.1]), np.array([-0.2, 0.3])
    ball = Euclidean(project_ball)
    result = saddle_mirror_prox(
        lambda x, y: x - a + y,
        lambda x, y: x - (y - b),
        np.zeros(2),
        np.zeros(2),
        mirror_x=ball,
        mirror_y=ball,
        radius=(1, 1),
        smoothness=(1, 1, 1, 1),
        maxiter=300,
    )
    np.testing.assert_allclose(result.x_last, (a - b) / 2, atol=1e-9)
    np.testing.assert_allclose(result.y_last, (a + b) / 2, atol=1e-9)


@pytest.mark.parametrize("method", ["mirror-prox", "mirror-descent"])
@pytest.mark.parametrize("shape", [(12, 15), (2, 30), (7, 1)])
def test_games_stay_below_their_bound(method, shape):
    A = game(*shape)
    result = matrix_game(A, method=method, maxiter=400, tol=0.0, record=True)
    t = np.arange(result.nit + 1) if method == "mirror-prox" else result.nit
    gap = result.history["gap"] if method == "mirror-prox" else result.gap
    largest, (m, n) = np.abs(A).max(), shape
    assert np.all(gap <= rate(f"matrix_game-{method}", t, largest=largest, m=m, n=n))
    assert result.gap == pytest.approx(duality_gap(A, result.x, result.y))
    assert result.history["gap"][-1] == result.gap


def test_sampled_games_stay_below_their_bound_on_average():
    A = game()
    gaps = [matrix_game(A, method="stochastic", maxiter=300, rng=s).gap for s in range(10)]
    largest = np.abs(A).max()
    assert np.mean(gaps) <= rate("matrix_game-stochastic", 300, largest=largest, m=12, n=15)
    assert len(set(gaps)) == 10
    assert gaps[0] == matrix_game(A, method="stochastic", maxiter=300, rng=0).gap


def test_sampled_steps_draw_a_column_from_y_and_a_row_from_x():
    A = np.arange(6.0).reshape(2, 3)
    x, y = uniform(2), uniform(3)
    rng = np.random.default_rng(3)
    first = rng.random(2)
    column, row = int(first[0] * 3), int(first[1] * 2)
    result = matrix_game(A, method="stochastic", maxiter=1, step=0.1, rng=3)
    np.testing.assert_allclose(result.x_last, SIMPLEX.step(x, A[:, column], 0.1))
    np.testing.assert_allclose(result.y_last, SIMPLEX.step(y, -A[row], 0.1))


def test_sampled_steps_follow_the_strategies_as_they_move():
    A, eta = game(4, 5), 1.5
    x, y = uniform(4), uniform(5)
    rng = np.random.default_rng(0)
    for _ in range(12):
        column = int((np.cumsum(y) <= rng.random()).sum())
        row = int((np.cumsum(x) <= rng.random()).sum())
        x, y = SIMPLEX.step(x, A[:, column], eta), SIMPLEX.step(y, -A[row], eta)
    result = matrix_game(A, method="stochastic", maxiter=12, step=eta, rng=0)
    np.testing.assert_allclose(result.x_last, x, rtol=1e-9)
    np.testing.assert_allclose(result.y_last, y, rtol=1e-9)


def test_default_steps_of_games():
    A = 3 * game(4, 6)
    x, y, largest = uniform(4), uniform(6), np.abs(A).max()
    eta = math.sqrt(2 * math.log(6) / 1) / largest
    result = matrix_game(A, method="mirror-descent", maxiter=1)
    np.testing.assert_allclose(result.x_last, SIMPLEX.step(x, A @ y, eta))
    result = matrix_game(A, maxiter=1)
    np.testing.assert_allclose(result.x, SIMPLEX.step(x, A @ y, 1 / largest))


def test_error_falls_as_one_over_t_and_as_one_over_its_root():
    A = game()
    prox, slow, fast = (
        matrix_game(A, maxiter=1200, tol=0.0, record=True).history["gap"],
        matrix_game(A, method="mirror-descent", maxiter=100, tol=0.0).gap,
        matrix_game(A, method="mirror-descent", maxiter=1600, tol=0.0).gap,
    )
    assert prox[300] / prox[1200] >= 3
    assert 2.5 <= slow / fast <= 6.5  # 4 is the square root of 16


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6), st.sampled_from(METHODS))
def test_the_value_lies_within_half_the_gap(seed, m, n, method):
    A = game(m, n, seed)
    result = matrix_game(A, method=method, maxiter=50, rng=seed)
    assert abs(result.value - value_by_linprog(A)) <= result.gap / 2 + 1e-9
    assert result.gap >= -1e-12
    np.testing.assert_allclose([result.x.sum(), result.y.sum()], 1.0)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_game_solved_by_the_interior_point_method_has_the_same_value(seed):
    """Over x_1, ..., x_{m-1} and v: x_m = 1 - the sum, Aᵀx <= v <= 2."""
    A = game(6, 8, seed)
    m, n = A.shape
    reduced = A[:-1] - A[-1]
    rows = np.vstack(
        [
            np.c_[reduced.T, -np.ones(n)],
            np.c_[-np.eye(m - 1), np.zeros(m - 1)],
            np.r_[np.ones(m - 1), 0.0],
            np.r_[np.zeros(m - 1), 1.0],
        ]
    )
    limits = np.r_[-A[-1], np.zeros(m - 1), 1.0, 2.0]
    start = np.r_[np.full(m - 1, 1 / m), 1.5]
    exact = path_following(np.eye(m)[-1], LinearBarrier(rows, limits), start)
    assert exact.fun == pytest.approx(value_by_linprog(A), abs=1e-7)
    result = matrix_game(A, maxiter=3000)
    assert abs(result.value - exact.fun) <= result.gap / 2 + 1e-7


def test_a_matching_game_ends_when_the_gap_is_small():
    result = matrix_game([[0.0, 2.0], [3.0, 1.0]], tol=1e-2)
    assert result.success
    assert result.gap <= 1e-2
    assert "the duality gap fell to tol = 0.01" in result.message
    short = matrix_game([[0.0, 2.0], [3.0, 1.0]], maxiter=3)
    assert not short.success
    assert (short.nit, short.status) == (3, 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_game_of_nothing_is_over(method):
    result = matrix_game(np.zeros((3, 2)), method=method)
    assert result.success
    assert (result.nit, result.value, result.gap) == (0, 0.0, 0.0)


def test_fields_that_are_not_finite_end_the_run():
    A = game(3, 3)
    problem = bilinear(A, gx=lambda x, y: np.full(3, np.nan), smoothness=(0, 1, 1, 0))
    result = saddle_mirror_prox(**problem)
    assert not result.success
    assert "gx returned a value that is not finite" in result.message
    np.testing.assert_array_equal(result.x, uniform(3))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gx": 1}, TypeError, "gx must be callable"),
        ({"gy": None}, TypeError, "gy must be callable"),
        ({"x0": [0.5, 0.6, 0.1]}, ValueError, "x0 must be positive with sum 1"),
        ({"y0": [0.5, 0.6, 0.1]}, ValueError, "y0 must be positive with sum 1"),
        ({"mirror_y": 3}, TypeError, "mirror must have step"),
        ({"radius": (1, 0)}, ValueError, "radius must hold two numbers > 0"),
        ({"radius": 1}, ValueError, "radius must have shape"),
        ({"smoothness": (0, 0, 0, 0)}, ValueError, "smoothness must be >= 0"),
        ({"smoothness": (1, -1, 1, 1)}, ValueError, "smoothness must be >= 0"),
        ({"gx": lambda x, y: [1.0]}, ValueError, "gx must return shape"),
        ({"maxiter": -1}, ValueError, "maxiter must be"),
    ],
)
def test_bad_input_is_refused(options, error, message):
    problem = bilinear(game(3, 3), smoothness=(0, 1, 1, 0)) | options
    with pytest.raises(error, match=message):
        saddle_mirror_prox(**problem)


@pytest.mark.parametrize("lipschitz", [(0, 1), (1, -1)])
def test_lipschitz_constants_are_positive(lipschitz):
    with pytest.raises(ValueError, match="lipschitz must hold two numbers > 0"):
        saddle_mirror_descent(**bilinear(game(3, 3), lipschitz=lipschitz))


@pytest.mark.parametrize(
    ("A", "options", "error", "message"),
    [
        ([1.0, 2.0], {}, ValueError, "A must have 2 axes"),
        (np.zeros((0, 2)), {}, ValueError, "A must not be empty"),
        ([[np.nan]], {}, ValueError, "A must be finite"),
        ([[1.0]], {"method": "chess"}, ValueError, "method must be one of"),
        ([[1.0]], {"step": 0.0}, ValueError, "step must be"),
        ([[1.0]], {"tol": -1.0}, ValueError, "tol must be"),
    ],
)
def test_bad_games_are_refused(A, options, error, message):
    with pytest.raises(error, match=message):
        matrix_game(A, **options)
