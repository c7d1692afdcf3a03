"""Entropic plans are known by their marginals and by the scaling of the kernel that they are."""

import dataclasses
import importlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.special import logsumexp

from thalweg.transport import _sinkhorn_kernels as kernels
from thalweg.transport import _sinkhorn_stages as stages
from thalweg.transport import (
    assignment_gap,
    entropic_plan,
    sample_plan,
    sinkhorn,
    sinkhorn_newton_sparse,
)
from thalweg.transport._sinkhorn_problem import Input

module = importlib.import_module("thalweg.transport.sinkhorn")
SOLVERS = [sinkhorn, sinkhorn_newton_sparse]
both_solvers = pytest.mark.parametrize("solve", SOLVERS)


def problem(n, m, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(n, 5.0)), rng.dirichlet(np.full(m, 5.0)), rng.random((n, m))


def uniform(n):
    return np.full(n, 1 / n)


def sums_of(plan):
    return plan.sum(axis=1), plan.sum(axis=0)


def newton_only(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)


@both_solvers
@pytest.mark.parametrize("epsilon", [0.01, 0.3, 10.0])
def test_plan_of_two_points_has_the_closed_form(solve, epsilon):
    c = 1.7
    plan = solve(uniform(2), uniform(2), [[0, c], [c, 0]], epsilon).plan
    s = 1 / (1 + math.exp(-c / epsilon))
    np.testing.assert_allclose(plan, [[s / 2, (1 - s) / 2], [(1 - s) / 2, s / 2]], atol=1e-12)


@both_solvers
def test_plan_is_the_only_scaling_of_the_kernel_with_these_marginals(solve, monkeypatch):
    newton_only(monkeypatch)
    a, b, C = problem(30, 20)
    plan = solve(a, b, C, 0.03, tol=1e-11).plan
    X = np.log(plan) + C / 0.03
    minors = X - X[:, :1] - X[:1, :] + X[0, 0]
    assert np.abs(minors).max() < 1e-9
    rows, columns = sums_of(plan)
    assert np.abs(rows - a).sum() + np.abs(columns - b).sum() < 2e-11


def test_thinning_changes_the_hessian_and_not_the_plan(monkeypatch):
    newton_only(monkeypatch)
    a, b, C = problem(30, 30)
    thin = sinkhorn_newton_sparse(a, b, C, 0.02, density=3 / 30, annealing=None)
    full = sinkhorn_newton_sparse(a, b, C, 0.02, drop_tol=0.0, annealing=None)
    assert thin.n_newton > full.n_newton > 0
    assert thin.kept == pytest.approx(0.1)
    assert full.kept > 0.8
    np.testing.assert_allclose(thin.plan, full.plan, atol=2e-9)
    assert thin.plan.min() > 0


@pytest.mark.parametrize("epsilon", [1.0, 0.05, 1e-3])
def test_sweeps_are_those_of_the_definition_in_logarithms(epsilon):
    a, b, C = problem(12, 9)
    g = np.zeros(9)
    for _ in range(57):
        f = epsilon * (np.log(a) - logsumexp((g - C) / epsilon, axis=1))
        g = epsilon * (np.log(b) - logsumexp((f[:, None] - C) / epsilon, axis=0))
    P = np.exp((f[:, None] + g - C) / epsilon)
    ours = sinkhorn(a, b, C, epsilon, tol=1e-300, max_iter=57)
    np.testing.assert_allclose(ours.f[:, None] + ours.g, f[:, None] + g, atol=1e-11)
    np.testing.assert_allclose(ours.plan, P, atol=1e-11)
    assert ours.history[-1] == pytest.approx(np.abs(P.sum(axis=1) - a).sum(), abs=1e-12)


@pytest.mark.parametrize("K", [[[1.0, 1e-30], [1.0, 1e-30]], [[1.0, 1.0], [1e-30, 1e-30]]])
def test_sweeps_stop_before_a_scaling_leaves_its_range(K):
    u, v = np.array([2.0, 3.0]), np.array([1.0, 4.0])
    a = np.full(2, 0.5)
    assert kernels.scaling_sweeps(np.array(K), a, a, u, v, np.empty(3)) == 0
    np.testing.assert_array_equal(u, [2.0, 3.0])
    np.testing.assert_array_equal(v, [1.0, 4.0])


def test_scalings_far_out_of_range_are_absorbed():
    # Potentials of a badly placed start move by some thousand epsilons.
    a, b, C = problem(40, 40)
    start = np.linspace(0, 3, 40)
    far = sinkhorn(a, b, C, 1e-3, g0=start, tol=1e-7, max_iter=200_000)
    near = sinkhorn_newton_sparse(a, b, C, 1e-3)
    assert far.success
    np.testing.assert_allclose(far.plan, near.plan, atol=1e-6)


@pytest.mark.parametrize("solve", SOLVERS)
def test_potential_increases_at_every_sweep_and_step(solve, monkeypatch):
    newton_only(monkeypatch)
    a, b, C = problem(25, 25)
    states = []
    options = {"check_every": 1} if solve is sinkhorn else {"annealing": None, "n_sinkhorn": 3}
    result = solve(a, b, C, 0.02, callback=states.append, **options)
    values = np.array([state.value for state in states])
    assert len(values) > 5
    assert (np.diff(values) > -1e-15).all()
    assert values[-1] > values[0] + 1e-4
    assert values[-1] == pytest.approx(result.value, abs=1e-12)


def test_gradient_of_the_potential_is_the_gap_of_the_marginals():
    a, b, C = problem(6, 5)
    whole = Input(a, b, C).problem(0.3)
    rng = np.random.default_rng(1)
    f, g, df, dg = (0.3 * rng.normal(size=k) for k in (6, 5, 6, 5))
    at = whole.at(f, g)
    h = 1e-5
    ahead, behind = whole.at(f + h * df, g + h * dg), whole.at(f - h * df, g - h * dg)
    slope = (a - at.r) @ df + (b - at.c) @ dg
    assert (ahead.value - behind.value) / (2 * h) == pytest.approx(slope, rel=1e-6)


def test_newton_direction_cancels_the_gradient_to_first_order():
    a, b, C = problem(8, 6)
    whole = Input(a, b, C).problem(0.2)
    sweeps = stages.Sweeps(whole, np.zeros(6), stages.Progress())
    sweeps.run(2)
    start = sweeps.point()
    rng = np.random.default_rng(0)
    point = whole.at(start.f + 0.02 * rng.normal(size=8), start.g + 0.02 * rng.normal(size=6))
    exact = dataclasses.replace(point, error=1e-24)  # conjugate gradients to round-off
    kept = stages.kept_entries(exact, whole, None, 0.0)
    df, dg = stages.newton_direction(exact, whole, kept, stages.Progress())
    h = 1e-5
    ahead, behind = (whole.at(point.f + s * df, point.g + s * dg) for s in (h, -h))
    np.testing.assert_allclose((ahead.r - behind.r) / (2 * h), a - point.r, atol=1e-6)
    np.testing.assert_allclose((ahead.c - behind.c) / (2 * h), b - point.c, atol=1e-6)


def test_errors_fall_quadratically_with_the_exact_hessian(monkeypatch):
    newton_only(monkeypatch)
    a, b, C = problem(40, 40)
    result = sinkhorn_newton_sparse(
        a, b, C, 0.02, drop_tol=0.0, annealing=None, n_sinkhorn=30, tol=1e-12
    )
    tail = result.history[-result.n_newton - 1 :]
    tail = np.log(tail[tail > 1e-13])
    assert (tail[-1] / tail[-2]) > 1.4  # 1.5: conjugate gradients stop at sqrt(error)


def test_thinned_hessian_keeps_the_full_sums_on_its_diagonal():
    a, b, C = problem(8, 6)
    whole = Input(a, b, C).problem(0.2)
    sweeps = stages.Sweeps(whole, np.zeros(6), stages.Progress())
    sweeps.run(2)
    point = whole.at(sweeps.point().f + 0.02, sweeps.point().g)
    exact = dataclasses.replace(point, error=1e-24)  # conjugate gradients to round-off
    kept = stages.kept_entries(exact, whole, 0.3, 0.0)
    direction = np.concatenate(stages.newton_direction(exact, whole, kept, stages.Progress()))
    P = kept.toarray()
    held = np.outer(point.r, point.r) / point.r.sum()  # the constant that f and g exchange
    hessian = np.block([[np.diag(point.r) + held, P], [P.T, np.diag(point.c)]]) / 0.2
    gradient = np.concatenate([a - point.r, b - point.c])
    assert np.abs(gradient).max() > 1e-3
    np.testing.assert_allclose(hessian @ direction, gradient, atol=1e-10)


def test_kept_entries_are_the_largest():
    a, b, C = problem(20, 30)
    whole = Input(a, b, C).problem(0.1)
    point = whole.at(np.full(20, -0.4), np.zeros(30))
    P = whole.plan(point.f, point.g)
    by_share = stages.kept_entries(point, whole, 0.1, 0.0).toarray()
    largest = np.where(np.sort(P.ravel())[-60] <= P, P, 0.0)
    np.testing.assert_allclose(by_share, largest, rtol=1e-12)
    by_size = stages.kept_entries(point, whole, None, 1e-2).toarray()
    np.testing.assert_allclose(by_size, np.where(1e-2 * P.max() <= P, P, 0.0), rtol=1e-12)


def test_one_kept_entry_still_converges_slowly(monkeypatch):
    newton_only(monkeypatch)
    a, b, C = problem(10, 10)
    result = sinkhorn_newton_sparse(
        a, b, C, 0.3, density=1 / 100, annealing=None, n_sinkhorn=1, max_newton=2000
    )
    assert result.success
    assert result.n_newton > 10
    np.testing.assert_allclose(result.plan, sinkhorn(a, b, C, 0.3).plan, atol=3e-9)


def test_distance_to_the_solution_is_the_gap_of_the_potential():
    a, b, C = problem(15, 15)
    epsilon = 0.05
    early = sinkhorn(a, b, C, epsilon, tol=1e-300, max_iter=4)
    best = sinkhorn(a, b, C, epsilon, tol=1e-14, max_iter=100_000)
    divergence = (best.plan * np.log(best.plan / early.plan)).sum()
    assert divergence > 1e-4
    assert divergence == pytest.approx((best.value - early.value) / epsilon, abs=1e-10)


@both_solvers
def test_value_is_the_regularised_cost_at_the_solution(solve):
    a, b, C = problem(15, 10)
    result = solve(3 * a, 3 * b, C, 0.05, tol=1e-12)
    P = result.plan
    assert result.cost == pytest.approx((C * P).sum(), abs=1e-12)
    assert result.value == pytest.approx(result.cost + 0.05 * (P * np.log(P)).sum(), abs=1e-10)


@both_solvers
def test_transposing_swaps_the_potentials(solve):
    a, b, C = problem(14, 9)
    one = solve(a, b, C, 0.05, tol=1e-12)
    other = solve(b, a, C.T, 0.05, tol=1e-12)
    np.testing.assert_allclose(one.f, other.g, atol=1e-9)
    np.testing.assert_allclose(one.g, other.f, atol=1e-9)
    assert one.f.sum() == pytest.approx(one.g.sum(), abs=1e-12)


@both_solvers
def test_agrees_with_pot(solve, monkeypatch):
    for library in ("PYTORCH", "JAX", "TENSORFLOW", "CUPY"):  # ten seconds of imports otherwise
        monkeypatch.setenv(f"POT_BACKEND_DISABLE_{library}", "1")
    ot = pytest.importorskip("ot")
    a, b, C = problem(30, 40)
    theirs = ot.sinkhorn(a, b, C, 0.05, stopThr=1e-13, numItermax=100_000)
    np.testing.assert_allclose(solve(a, b, C, 0.05, tol=1e-11).plan, theirs, atol=1e-8)


def test_cost_tends_to_that_of_the_best_assignment():
    C = np.random.default_rng(3).random((12, 12))
    epsilon = assignment_gap(C) / 45
    result = sinkhorn_newton_sparse(uniform(12), uniform(12), C, epsilon)
    assert result.success
    assert result.cost == pytest.approx(C[linear_sum_assignment(C)].sum() / 12, abs=1e-6)


def test_ten_times_fewer_iterations_than_sweeps_alone():
    C = np.random.default_rng(4).random((100, 100))
    a = uniform(100)
    plain = sinkhorn(a, a, C, 1 / 1200, max_iter=20_000)
    ours = sinkhorn_newton_sparse(a, a, C, 1 / 1200, annealing=None)
    assert ours.success
    assert 10 * ours.nit <= plain.nit


def test_annealing_reaches_the_same_plan_from_larger_epsilons():
    a, b, C = problem(30, 30)
    levels = []
    annealed = sinkhorn_newton_sparse(
        a, b, C, 0.005, annealing=0.3, callback=lambda state: levels.append(state.epsilon)
    )
    straight = sinkhorn_newton_sparse(a, b, C, 0.005, annealing=None)
    median = np.median(C) - C.min()
    expected = [0.1 * median * 0.3**k for k in range(2)]
    assert list(dict.fromkeys(levels)) == pytest.approx([*expected, 0.005])
    assert levels == sorted(levels, reverse=True)
    np.testing.assert_allclose(annealed.plan, straight.plan, atol=1e-8)


def test_automatic_annealing_is_for_small_epsilon_alone():
    a, b, C = problem(30, 30)
    median = np.median(C) - C.min()
    for share, annealed in ((0.021, False), (0.019, True)):
        states = []
        sinkhorn_newton_sparse(a, b, C, share * median, callback=states.append)
        assert (len({state.epsilon for state in states}) > 1) is annealed


def test_sweeps_go_on_alone_where_they_converge_soon():
    a, b, C = problem(30, 30)
    result = sinkhorn_newton_sparse(a, b, C, 1.0, n_sinkhorn=3)
    assert result.success
    assert result.n_newton == 0


@st.composite
def problems(draw):
    n, m = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    a, b = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    a[rng.permutation(n)[: draw(st.integers(0, n - 1))]] = 0
    b[rng.permutation(m)[: draw(st.integers(0, m - 1))]] = 0
    return a / a.sum(), b / b.sum(), rng.normal(size=(n, m)), 10 ** draw(st.floats(-3, 1))


@settings(max_examples=80, deadline=None)
@given(problems())
def test_any_problem_is_solved_and_rows_without_mass_stay_empty(given_problem):
    a, b, C, epsilon = given_problem
    result = sinkhorn_newton_sparse(a, b, C, epsilon)
    assert result.success
    rows, columns = sums_of(result.plan)
    assert np.abs(rows - a).sum() + np.abs(columns - b).sum() <= 2e-7
    np.testing.assert_array_equal(np.isneginf(result.f), a == 0)
    np.testing.assert_array_equal(np.isneginf(result.g), b == 0)
    assert np.isfinite(result.f[a > 0]).all()
    assert np.isfinite(result.g[b > 0]).all()
    assert math.isfinite(result.value)
    assert math.isfinite(result.cost)
    with np.errstate(under="ignore"):
        P = np.exp((result.f[:, None] + result.g - C) / epsilon)
    np.testing.assert_allclose(result.plan, P, atol=1e-12)


@both_solvers
def test_plan_scales_with_the_mass(solve):
    a, b, C = problem(12, 10)
    one, seven = solve(a, b, C, 0.05), solve(7 * a, 7 * b, C, 0.05)
    np.testing.assert_allclose(seven.plan, 7 * one.plan, atol=1e-8)
    assert seven.marginal_error <= 1.001e-9


@both_solvers
def test_adding_a_constant_to_the_cost_changes_no_plan(solve):
    a, b, C = problem(12, 10)
    np.testing.assert_allclose(
        solve(a, b, C - 5.0, 0.05).plan, solve(a, b, C, 0.05).plan, atol=3e-9
    )


@both_solvers
def test_sums_that_differ_by_round_off_are_reconciled(solve):
    a, b, C = problem(12, 10)
    assert solve(a, b * (1 + 5e-9), C, 0.1).success


@both_solvers
def test_start_from_the_solution_ends_at_once(solve):
    a, b, C = problem(20, 20)
    a[3] = 0
    a /= a.sum()
    best = solve(a, b, C, 0.02, tol=1e-12)
    count = {"check_every": 1} if solve is sinkhorn else {"n_sinkhorn": 1}
    for start in ({"f0": best.f, "g0": best.g}, {"f0": best.f}, {"g0": best.g}):
        again = solve(a, b, C, 0.02, **start, **count)
        assert again.success
        assert again.nit == 1


@both_solvers
def test_history_has_the_error_after_every_iteration(solve):
    a, b, C = problem(20, 20)
    result = solve(a, b, C, 0.02)
    assert len(result.history) == result.nit == result.n_sweeps + result.n_newton
    assert result.history[-1] == pytest.approx(result.marginal_error, abs=1e-13)


@both_solvers
def test_callback_gets_the_error_and_the_value_of_its_potentials(solve, monkeypatch):
    newton_only(monkeypatch)
    a, b, C = problem(20, 15)
    states = []
    solve(a, b, C, 0.02, callback=states.append)
    for state in states:
        P = np.exp((state.f[:, None] + state.g - C) / state.epsilon)
        rows, columns = sums_of(P)
        error = np.abs(rows - a).sum() + np.abs(columns - b).sum()
        value = a @ state.f + b @ state.g - state.epsilon * (P.sum() - 1)
        assert state.marginal_error == pytest.approx(error, rel=1e-6, abs=1e-12)
        assert state.value == pytest.approx(value, abs=1e-12)


def test_callback_comes_every_check():
    a, b, C = problem(20, 20)
    counts = []
    sinkhorn(
        a, b, C, 0.02, tol=1e-300, max_iter=25, check_every=10,
        callback=lambda state: counts.append(state.nit),
    )  # fmt: skip
    assert counts == [10, 20, 25]


def test_sparse_plan_holds_the_entries_that_matter():
    a, b, C = problem(20, 20)
    a[[2, 5]] = 0
    b[7] = 0
    result = sinkhorn_newton_sparse(a / a.sum(), b / b.sum(), C, 2e-3)
    dense = np.where(result.plan >= 1e-14 * result.plan.max(), result.plan, 0.0)
    assert result.sparse_plan.nnz < 0.5 * C.size
    np.testing.assert_allclose(result.sparse_plan.toarray(), dense, rtol=1e-12)


def test_too_few_iterations_are_reported():
    a, b, C = problem(20, 20)
    for result in (
        sinkhorn(a, b, C, 0.01, max_iter=3),
        sinkhorn_newton_sparse(a, b, C, 0.002, max_newton=1, annealing=None),
    ):
        assert not result.success
        assert "left a marginal error" in result.message
        assert result.marginal_error > 1e-9


def test_error_below_round_off_ends_with_a_message():
    a, b, C = problem(20, 20)
    result = sinkhorn_newton_sparse(a, b, C, 0.01, tol=1e-30)
    assert not result.success
    assert "round-off" in result.message
    assert result.n_newton < 100
    assert result.marginal_error < 1e-13


BAD = [
    ("a", {"a": [-0.1, 1.1]}),
    ("a", {"a": [0.0, 0.0]}),
    ("a", {"a": [[0.5, 0.5]]}),
    ("a", {"a": [math.nan, 0.5]}),
    ("b", {"b": [0.5, 0.6]}),
    ("b", {"b": [-0.5, 1.5]}),
    ("C", {"C": [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]}),
    ("C", {"C": [[0.0, math.nan], [1.0, 0.0]]}),
    ("C", {"C": [[0.0, math.inf], [1.0, 0.0]]}),
    ("epsilon", {"epsilon": 0.0}),
    ("epsilon", {"epsilon": -1.0}),
    ("epsilon", {"epsilon": math.inf}),
    ("epsilon", {"epsilon": 1e-20}),
    ("tol", {"tol": 0.0}),
    ("f0", {"f0": [0.0, 1.0, 2.0]}),
    ("g0", {"g0": [0.0, math.nan]}),
]
BAD_NEWTON = [
    ("density", {"density": 0.0}),
    ("density", {"density": 1.5}),
    ("drop_tol", {"drop_tol": -1e-8}),
    ("annealing", {"annealing": 0.0}),
    ("annealing", {"annealing": 1.0}),
    ("annealing", {"annealing": "slow"}),
    ("n_sinkhorn", {"n_sinkhorn": 0}),
    ("max_newton", {"max_newton": -1}),
]
CASES = [
    *((solve, name, bad) for solve in SOLVERS for name, bad in BAD),
    *((sinkhorn_newton_sparse, name, bad) for name, bad in BAD_NEWTON),
    (sinkhorn, "max_iter", {"max_iter": 0}),
    (sinkhorn, "check_every", {"check_every": 0}),
]


@pytest.mark.parametrize(("solve", "name", "bad"), CASES)
def test_bad_argument_is_refused_by_name(solve, name, bad):
    good = {"a": [0.5, 0.5], "b": [0.5, 0.5], "C": [[0.0, 1.0], [1.0, 0.0]], "epsilon": 0.1}
    with pytest.raises(ValueError, match=rf"^{name} must"):
        solve(**(good | bad))


def test_points_are_matched_at_the_chosen_cost():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(7, 2)), rng.normal(size=(5, 2))
    difference = X[:, None] - Y
    costs = {
        "sqeuclidean/2": (difference**2).sum(axis=-1) / 2,
        "sqeuclidean": (difference**2).sum(axis=-1),
        "euclidean": np.sqrt((difference**2).sum(axis=-1)),
        "cityblock": np.abs(difference).sum(axis=-1),
    }
    b = rng.dirichlet(np.ones(5))
    for name, C in costs.items():
        ours = entropic_plan(X, Y, 0.2, b=b, cost=name, tol=1e-12)
        plan = sinkhorn(uniform(7), b, C, 0.2, tol=1e-12).plan
        np.testing.assert_allclose(ours.plan, plan, atol=1e-10)


def test_solver_of_points_is_chosen_and_gets_its_options():
    X = np.random.default_rng(0).normal(size=(6, 1))
    assert entropic_plan(X, X, 0.5, solver="sinkhorn", max_iter=1, tol=1e-99).n_sweeps == 1
    with pytest.raises(TypeError, match="max_itr"):
        entropic_plan(X, X, 0.5, max_itr=3)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("X", {"X": [1.0, 2.0]}),
        ("X", {"X": np.empty((0, 1))}),
        ("Y", {"Y": [[1.0, 2.0]]}),
        ("Y", {"Y": [[math.nan]]}),
        ("cost", {"cost": "cosine"}),
        ("solver", {"solver": "emd"}),
    ],
)
def test_bad_points_are_refused_by_name(name, bad):
    with pytest.raises(ValueError, match=rf"^{name} must"):
        entropic_plan(**({"X": [[0.0], [1.0]], "Y": [[0.5]], "epsilon": 1.0} | bad))


def test_pairs_are_drawn_with_the_frequencies_of_the_plan():
    plan = np.array([[0.0, 2.0, 1.0], [3.0, 0.0, 4.0]])
    i, j = sample_plan(plan, 40_000, rng=0)
    counts = np.zeros(plan.shape)
    np.add.at(counts, (i, j), 1)
    # Four standard deviations of a share are at most 4 * 0.5 / sqrt(40000) = 0.01.
    np.testing.assert_allclose(counts / 40_000, plan / 10, atol=0.01)
    assert counts[0, 0] == counts[1, 1] == 0


def test_pairs_of_a_sparse_plan_are_those_of_the_dense_one():
    plan = np.array([[0.0, 0.2, 0.1], [0.3, 0.0, 0.4]])
    dense, sparse = sample_plan(plan, 50, rng=3), sample_plan(csr_array(plan), 50, rng=3)
    np.testing.assert_array_equal(dense, sparse)


def test_pairs_without_mass_are_not_drawn_even_at_zero():
    class Zeros(np.random.Generator):
        def random(self, n):
            return np.zeros(n)

    _, j = sample_plan([[0.0, 1.0]], 2, rng=Zeros(np.random.PCG64()))
    assert j.tolist() == [1, 1]


@pytest.mark.parametrize("bad", [[[0.0, 0.0]], [[-1.0, 2.0]], [[math.nan]], [0.5], [[]]])
def test_bad_plan_is_refused_by_name(bad):
    with pytest.raises(ValueError, match=r"^plan must"):
        sample_plan(bad, 3)
