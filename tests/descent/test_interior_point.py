"""Path following: linear and semidefinite programmes, barriers by differences, Newton counts."""

from __future__ import annotations

import ast
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, linprog

from thalweg.descent import LinearBarrier, LogDetBarrier, path_following, rate

MODES = ("long", "short")


def programme(n=4, m=12, seed=0):
    """c, A, b of a bounded polytope around 0, and the minimum."""
    rng = np.random.default_rng(seed)
    A = np.vstack([rng.normal(size=(m, n)), np.eye(n), -np.eye(n)])
    b = np.r_[rng.uniform(0.5, 1.0, m), np.full(2 * n, 5.0)]
    c = rng.normal(size=n)
    return c, A, b, linprog(c, A_ub=A, b_ub=b, bounds=(None, None)).fun


def inequality(p=5, n=3, seed=0):
    rng = np.random.default_rng(seed)
    matrices = rng.normal(size=(n, p, p))
    matrices += matrices.transpose(0, 2, 1)
    box = [np.diag(np.r_[np.eye(n)[i], -np.eye(n)[i]]) for i in range(n)]
    whole = np.zeros((n, p + 2 * n, p + 2 * n))
    whole[:, :p, :p] = matrices
    whole[:, p:, p:] = box
    return LogDetBarrier(np.diag(np.r_[np.full(p, 2.0), np.full(2 * n, 1.5)]), whole), matrices


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_linprog(mode, seed):
    c, A, b, best = programme(seed=seed)
    result = path_following(c, LinearBarrier(A, b), np.zeros(4), mode=mode)
    assert result.success
    assert 0 <= result.fun - best + 1e-12 <= 1e-7
    assert (A @ result.x < b).all()
    assert result.fun == pytest.approx(c @ result.x, abs=1e-15)
    np.testing.assert_array_equal(result.jac, c)


@pytest.mark.parametrize("mode", MODES)
def test_the_gap_is_true_at_every_step(mode):
    c, A, b, best = programme()
    result = path_following(c, LinearBarrier(A, b), np.zeros(4), mode=mode, record=True)
    history = result.history
    assert (history["fun"] - best <= history["gap"] + 1e-12).all()
    near = history["decrement"] <= 1e-5
    on_path = near & (history["t"] > 0)
    np.testing.assert_allclose(history["gap"][on_path], len(b) / history["t"][on_path], rtol=1e-4)
    assert result.gap == history["gap"][-1] <= 1e-8
    assert result.nit == len(history["fun"]) - 1


@pytest.mark.parametrize("m", [4, 16, 64])
def test_short_steps_keep_the_decrement_and_their_bound(m):
    c, A, b, best = programme(m=m)
    barrier = LinearBarrier(A, b)
    result = path_following(c, barrier, np.zeros(4), mode="short", record=True, tol=1e-6)
    history = result.history
    first = int(np.argmax(history["t"] > 0))
    assert history["decrement"][first:].max() <= 0.25
    assert result.nfev >= result.nit + 1
    t0 = history["t"][first]
    steps = np.arange(result.nit + 1 - first)
    bound = rate("path_following", steps, nu=barrier.nu, t0=t0)
    assert (history["fun"][first:] - best <= bound).all()
    ratios = history["t"][first + 1 :] / history["t"][first:-1]
    np.testing.assert_allclose(ratios, 1 + 1 / (13 * math.sqrt(barrier.nu)), rtol=1e-12)


def test_short_step_counts_grow_as_the_root_of_nu():
    counts, nus = [], []
    for m in (8, 32, 128):
        c, A, b, _ = programme(m=m)
        barrier = LinearBarrier(A, b)
        result = path_following(c, barrier, np.zeros(4), mode="short", tol=1e-4)
        counts.append(result.nit)
        nus.append(barrier.nu)
        most = (1 + 13 * math.sqrt(barrier.nu)) * math.log(2 * barrier.nu / (1e-3 * 1e-4))
        assert result.nit <= most + 30  # the way to the analytic centre
    exponent = np.polyfit(np.log(nus), np.log(counts), 1)[0]
    assert 0.4 <= exponent <= 0.7


def test_long_steps_need_far_fewer():
    c, A, b, _ = programme()
    short, long = (
        path_following(c, LinearBarrier(A, b), np.zeros(4), mode=mode) for mode in ("short", "long")
    )
    assert long.nit < 100 < 1000 < short.nit


def test_the_path_begins_at_the_analytic_centre_and_at_a_thousandth():
    c, A, b, _ = programme()
    barrier = LinearBarrier(A, b)
    history = path_following(c, barrier, np.full(4, 0.05), record=True).history
    centred = int(np.argmax(history["t"] > 0)) - 1
    assert (history["t"][: centred + 1] == 0).all()
    assert np.isinf(history["gap"][: centred + 1]).all()
    assert history["decrement"][centred] <= 1e-5 < history["decrement"][centred - 1]
    weights = np.unique(history["t"])
    np.testing.assert_allclose(weights[1:3], [1e-3, 1e-2])


@pytest.mark.parametrize("mode", MODES)
def test_the_largest_eigenvalue_as_a_semidefinite_programme(mode):
    """min y with y I - S >= 0, and y <= 10 to bound the set."""
    S = np.random.default_rng(0).normal(size=(4, 4))
    S = S + S.T
    C, lid = np.zeros((5, 5)), np.zeros((5, 5))
    C[:4, :4], C[4, 4] = -S, 10.0
    lid[:4, :4], lid[4, 4] = -np.eye(4), 1.0
    result = path_following([1.0], LogDetBarrier(C, [lid]), [9.0], mode=mode)
    assert result.success
    assert result.x[0] == pytest.approx(np.linalg.eigvalsh(S)[-1], abs=1e-7)


def test_diagonal_matrix_inequalities_are_linear_programmes():
    c, A, b, best = programme()
    barrier = LogDetBarrier(np.diag(b), [np.diag(column) for column in A.T])
    linear = LinearBarrier(A, b)
    x = np.full(4, 0.05)
    for ours, theirs in zip(barrier.oracle(x), linear.oracle(x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    assert path_following(c, barrier, np.zeros(4)).fun == pytest.approx(best, abs=1e-7)


@pytest.mark.parametrize("kind", ["linear", "log-det"])
def test_gradients_and_hessians_are_those_of_the_barrier(kind):
    if kind == "linear":
        _, A, b, _ = programme()
        barrier, x = LinearBarrier(A, b), np.array([0.05, -0.1, 0.02, 0.1])
        expected = -np.log(b - A @ x).sum()
    else:
        barrier, matrices = inequality()
        x = np.array([0.05, -0.1, 0.02])
        S = 2 * np.eye(5) - np.tensordot(x, matrices, axes=1)
        expected = -np.linalg.slogdet(S)[1] - np.log((1.5 - x) * (1.5 + x)).sum()
    F, g, H = barrier.oracle(x)
    assert pytest.approx(expected) == F
    np.testing.assert_allclose(g, approx_fprime(x, lambda y: barrier.oracle(y)[0]), atol=1e-5)
    slopes = approx_fprime(x, lambda y: barrier.oracle(y)[1])
    np.testing.assert_allclose(H, slopes, rtol=1e-5, atol=1e-5)
    assert g @ np.linalg.solve(H, g) <= barrier.nu


def test_an_own_barrier_will_do():
    class Disc:
        nu = 1.0

        def oracle(self, x):
            slack = 1 - x @ x
            if slack <= 0:
                return np.inf, None, None
            g = 2 * x / slack
            return -np.log(slack), g, 2 * np.eye(2) / slack + np.outer(g, g)

    result = path_following([3.0, 4.0], Disc(), [0.1, 0.5])
    assert result.fun == pytest.approx(-5.0, abs=1e-7)
    np.testing.assert_allclose(result.x, [-0.6, -0.8], atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_affine_scaling_changes_nothing(mode):
    c, A, b, best = programme(n=3)
    T = np.diag([1e-4, 1.0, 1e3])
    plain = path_following(c, LinearBarrier(A, b), np.zeros(3), mode=mode)
    scaled = path_following(T @ c, LinearBarrier(A @ T, b), np.zeros(3), mode=mode)
    assert scaled.nit == plain.nit
    assert scaled.fun == pytest.approx(best, abs=1e-7)


def test_no_cost_ends_with_a_small_gap():
    _, A, b, _ = programme()
    result = path_following(np.zeros(4), LinearBarrier(A, b), np.zeros(4))
    assert result.success
    assert result.fun == 0


@pytest.mark.parametrize("start", ["inside", "near a corner"])
def test_starts_anywhere_inside(start):
    A, b = np.vstack([np.eye(2), -np.eye(2)]), np.ones(4)
    x0 = np.zeros(2) if start == "inside" else np.full(2, 1 - 1e-9)
    result = path_following([1.0, 1.0], LinearBarrier(A, b), x0)
    assert result.fun == pytest.approx(-2.0, abs=1e-7)


def test_an_unbounded_set_is_reported():
    cone = LogDetBarrier(np.zeros((2, 2)), [np.diag([-1.0, 0.0]), np.diag([0.0, -1.0])])
    result = path_following([1.0, 1.0], cone, [1.0, 2.0])
    assert not result.success
    assert np.isfinite(result.x).all()


@pytest.mark.parametrize(
    "A",
    [
        -np.eye(2),
        [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]],
        [[1.0, 1e-3], [-1.0, 1e-3], [0.0, 1.0]],
        [[1e-4, 0.0], [-1e-4, 1e3], [0.0, 0.0]],
    ],
)
def test_a_polytope_without_end_is_refused_with_a_way_out(A):
    with pytest.raises(ValueError, match="Ax < b must be bounded, got a polytope") as e:
        LinearBarrier(A, np.ones(len(A)))
    way = np.array(ast.literal_eval(str(e.value).split("along ")[1]))
    assert np.linalg.norm(way) == pytest.approx(1)
    assert (np.array(A) @ way <= 1e-7 * np.abs(A).max(axis=1)).all()


@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_polytope_is_refused_where_a_coordinate_has_no_end_and_only_there(n, m, seed):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(m, n)) * 10 ** rng.uniform(-2, 2, size=n)
    ends = {
        linprog(sign * axis, A_ub=A, b_ub=np.ones(m), bounds=(None, None)).status
        for axis in np.eye(n)
        for sign in (1, -1)
    }
    if ends == {0}:
        assert LinearBarrier(A, np.ones(m)).nu == m
    else:
        with pytest.raises(ValueError, match=r"A must have as many|must be bounded"):
            LinearBarrier(A, np.ones(m))


def test_a_row_of_zeros_bounds_nothing_and_does_no_harm():
    barrier = LinearBarrier([[1.0], [-1.0], [0.0]], [1.0, 1.0, 2.0])
    assert path_following([1.0], barrier, [0.0]).x[0] == pytest.approx(-1.0, abs=1e-7)


def test_values_that_are_not_finite_end_the_run():
    class Broken:
        nu = 1.0

        def oracle(self, x):
            return math.nan, x, np.eye(2)

    result = path_following([1.0, 0.0], Broken(), [0.0, 0.0])
    assert not result.success
    assert "barrier returned a value that is not finite" in result.message


def test_the_callback_sees_every_newton_step_and_can_stop():
    c, A, b, _ = programme()
    seen = []

    def callback(x):
        seen.append(x)
        if len(seen) == 7:
            raise StopIteration

    result = path_following(c, LinearBarrier(A, b), np.zeros(4), callback=callback)
    assert (result.nit, len(seen), result.success) == (7, 7, False)


BOX = LinearBarrier(np.vstack([np.eye(2), -np.eye(2)]), np.ones(4))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x0": [2.0, 0.0]}, ValueError, "x0 must be strictly inside"),
        ({"x0": [1.0, 0.0]}, ValueError, "x0 must be strictly inside"),
        ({"x0": [0.0]}, ValueError, "x0 must have shape"),
        ({"c": [1.0]}, ValueError, "c must have shape"),
        ({"barrier": 3}, TypeError, "barrier must have oracle and nu"),
        ({"mode": "medium"}, ValueError, "mode must be one of"),
        ({"tol": 0.0}, ValueError, "tol must be"),
        ({"maxiter": -1}, ValueError, "maxiter must be"),
    ],
)
def test_bad_input_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        path_following(**{"c": [1.0, 0.0], "barrier": BOX, "x0": [0.0, 0.0]} | options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LinearBarrier([[1.0, 0.0]], [1.0]), "A must have as many independent rows"),
        (lambda: LinearBarrier([[1.0]], [1.0, 2.0]), "b must have shape"),
        (lambda: LogDetBarrier([[1.0, 2.0], [0.0, 1.0]], [np.eye(2)]), "C must be symmetric"),
        (lambda: LogDetBarrier(np.eye(2), [[[0, 1], [0, 0]]]), "matrices must be symmetric"),
        (lambda: LogDetBarrier(np.eye(2), [np.eye(3)]), "matrices must have shape"),
        (lambda: LogDetBarrier(np.eye(2), np.zeros((0, 2, 2))), "matrices must not be empty"),
    ],
)
def test_malformed_barriers_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
