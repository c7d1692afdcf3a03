from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from thalweg.linalg import MatrixCompletion, incoherence, subspace_distance
from thalweg.linalg import _alternating_minimization as alternation
from thalweg.linalg import _completion_kernels as kernels
from thalweg.linalg._alternating_minimization import (
    SOLVERS,
    RowSolver,
    regress,
    split_entries,
    starting_basis,
)

EPS = np.finfo(float).eps


def low_rank(m=60, n=45, rank=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, rank)) @ rng.normal(size=(rank, n))


def with_gaps(table, share=0.5, seed=1):
    seen = np.random.default_rng(seed).random(table.shape) < share
    return np.where(seen, table, np.nan), seen


def as_sparse(gappy):
    place = np.nonzero(~np.isnan(gappy))
    return sparse.csr_array((gappy[place], place), shape=gappy.shape)


def relative_error(found, table, place=...):
    return np.linalg.norm((found - table)[place]) / np.linalg.norm(table[place])


# --- what is found ------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_low_rank_table_is_found(solver):
    table = low_rank()
    gappy, seen = with_gaps(table)
    model = MatrixCompletion(3, solver=solver, tol=0, rng=0, n_iter=80).fit(gappy)
    # the fit stops at a relative residual of 1e-14 on the entries seen
    assert relative_error(model.reconstruct(), table, ~seen) < 1e-11


@pytest.mark.parametrize("solver", SOLVERS)
def test_memory_that_was_not_written_is_not_read(solver, monkeypatch):
    observed = as_sparse(with_gaps(low_rank(20, 30), 0.6)[0])
    factor = np.linalg.qr(np.random.default_rng(0).normal(size=(30, 3)))[0]
    options = RowSolver(SOLVERS[solver], 3, 0.0, 4, 0.0)
    expected, _, _ = regress(observed, factor, np.zeros((20, 3)), options)
    poisoned = SimpleNamespace(**vars(np))
    poisoned.empty = lambda shape: np.full(shape, np.nan)
    hashed = kernels.mix64
    seen_by_plain = {"np": poisoned, "mix64": lambda word: np.uint64(hashed(word))}
    code = kernels.solve_rows.py_func.__code__
    monkeypatch.setattr(
        kernels, "solve_rows", FunctionType(code, {**vars(kernels), **seen_by_plain})
    )
    found, _, _ = regress(observed, factor, np.zeros((20, 3)), options)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_rank_one_without_gaps_takes_one_iteration(solver):
    table = low_rank(30, 20, 1)
    model = MatrixCompletion(1, solver=solver, n_iter=1, rng=0).fit(table)
    assert relative_error(model.reconstruct(), table) < 1e-14


@pytest.mark.parametrize("solver", SOLVERS)
def test_without_gaps_it_is_the_truncated_svd(solver):
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, 20)))[0] for n in (40, 30))
    values = np.concatenate([[10.0, 7.0, 5.0], 0.5 * 0.9 ** np.arange(17)])
    table = left * values @ right.T
    # each iteration shrinks the distance by (0.5 / 5)^2
    model = MatrixCompletion(3, solver=solver, tol=0, n_iter=20, rng=0).fit(table)
    best = left[:, :3] * values[:3] @ right[:, :3].T
    assert np.abs(model.reconstruct() - best).max() < 1e-10
    assert np.allclose(model.singular_values_, values[:3], rtol=1e-12)
    assert model.history_[-1] == pytest.approx(np.linalg.norm(values[3:]) / np.linalg.norm(values))


def test_convergence_is_as_fast_with_two_inexact_steps():
    table = low_rank(100, 80, 4)
    gappy, seen = with_gaps(table, 0.4)
    counts = []
    for options in ({"solver": "exact"}, {"inner_iter": 2}, {"solver": "cg", "inner_iter": 2}):
        errors = []

        def watch(state, errors=errors):
            completed = state.row_factors @ state.col_factors.T
            errors.append(relative_error(completed, table, ~seen))

        MatrixCompletion(4, rng=0, tol=0, callback=watch, **options).fit(gappy)
        counts.append(np.argmax(np.array(errors) < 1e-6))
    assert max(counts[1:]) <= 1.5 * counts[0]


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_residual_never_rises(solver):
    gappy, _ = with_gaps(low_rank(rank=6), 0.6)
    history = MatrixCompletion(3, solver=solver, tol=0, rng=0).fit(gappy).history_
    assert len(history) == 50
    assert np.all(np.diff(history) <= 10 * EPS)


def test_the_residual_is_that_of_the_factors():
    table = low_rank(rank=6)
    gappy, seen = with_gaps(table, 0.6)
    for split in (False, True):
        model = MatrixCompletion(2, n_iter=4, tol=0, rng=0, split=split).fit(gappy)
        expected = relative_error(model.reconstruct(), table, seen)
        assert model.history_[-1] == pytest.approx(expected, rel=1e-10)


def test_a_large_inner_tolerance_limits_the_accuracy():
    table = low_rank()
    gappy, seen = with_gaps(table)
    errors = []
    for tol in (1e-3, 1e-6):
        options = {"inner_tol": tol, "inner_iter": 30, "n_iter": 60, "tol": 0.0, "rng": 0}
        model = MatrixCompletion(3, **options).fit(gappy)
        errors.append(relative_error(model.reconstruct(), table, ~seen))
    assert 1e-3 / 30 < errors[0] < 10e-3
    assert 1e-6 / 30 < errors[1] < 10e-6


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_the_transpose_is_completed_to_the_transpose(seed):
    gappy, _ = with_gaps(low_rank(40, 30, 2, seed), 0.6, seed)
    options = {"solver": "exact", "tol": 0, "n_iter": 60, "rng": 0}
    one = MatrixCompletion(2, **options).fit(gappy).reconstruct()
    other = MatrixCompletion(2, **options).fit(gappy.T).reconstruct()
    assert np.allclose(one, other.T, rtol=0, atol=1e-8 * np.abs(one).max())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20), power=st.integers(-900, 900))
def test_scaling_by_a_power_of_two_changes_nothing_else(seed, power):
    gappy, _ = with_gaps(low_rank(30, 20, 2, seed), 0.6, seed)
    one = MatrixCompletion(2, n_iter=3, rng=0).fit(gappy)
    other = MatrixCompletion(2, n_iter=3, rng=0).fit(gappy * 2.0**power)
    assert np.array_equal(other.reconstruct(), one.reconstruct() * 2.0**power)
    assert np.array_equal(other.history_, one.history_)
    new = np.vstack([gappy[:2], np.ones((1, 20))])
    assert np.allclose(other.transform(new * 2.0**power), one.transform(new) * 2.0**power)


def test_split_uses_each_entry_once(monkeypatch):
    gappy, _ = with_gaps(low_rank(), 0.9)
    used = np.zeros(gappy.shape, dtype=int)
    regressed, started = alternation.regress, alternation.starting_basis

    def count(observed):
        place = observed if observed.shape == used.shape else observed.T
        used[place.tocoo().row, place.tocoo().col] += 1

    def watched_regress(observed, factor, start, solver, *rest, **options):
        if solver.steps:
            count(observed)
        return regressed(observed, factor, start, solver, *rest, **options)

    def watched_start(observed, *rest):
        count(observed)
        return started(observed, *rest)

    monkeypatch.setattr(alternation, "regress", watched_regress)
    monkeypatch.setattr(alternation, "starting_basis", watched_start)
    MatrixCompletion(1, split=True, n_iter=3, rng=0).fit(gappy)
    assert np.array_equal(used, ~np.isnan(gappy))


def test_split_parts_are_even_and_in_turn_for_columns_and_rows():
    observed = as_sparse(low_rank(80, 50))
    parts = list(split_entries(observed, 2, np.random.default_rng(0)))
    assert [part.shape for part in parts] == [(80, 50), (50, 80), (80, 50), (50, 80), (80, 50)]
    sizes = np.array([part.nnz for part in parts])
    assert sizes.sum() == observed.nnz
    assert np.all(np.abs(sizes - 800) < 5 * np.sqrt(800))  # five standard deviations


def test_split_recovers_a_table_with_ample_entries():
    table = low_rank(300, 300, 1)
    errors = []
    MatrixCompletion(
        1,
        split=True,
        n_iter=4,
        rng=0,
        callback=lambda s: errors.append(relative_error(s.row_factors @ s.col_factors.T, table)),
    ).fit(table)
    assert len(errors) == 4
    assert np.all(np.divide(errors[1:], errors[:-1]) < 0.5)


# --- regressions --------------------------------------------------------------------------------


def problem(m=40, n=50, rank=4, share=0.6, seed=0):
    rng = np.random.default_rng(seed)
    factor = np.linalg.qr(rng.normal(size=(n, rank)))[0]
    observed = sparse.random_array((m, n), density=share, rng=rng).tocsr()
    observed.data = rng.normal(size=observed.nnz)
    return observed, factor, rng.normal(size=(m, rank))


def least_squares(observed, factor, alpha=0.0):
    rows, squares = [], 0.0
    rank = factor.shape[1]
    for i in range(observed.shape[0]):
        at = slice(observed.indptr[i], observed.indptr[i + 1])
        a, b = factor[observed.indices[at]], observed.data[at]
        stacked = np.vstack([a, np.sqrt(alpha) * np.eye(rank)]) if alpha else a
        x = np.linalg.lstsq(stacked, np.append(b, np.zeros(len(stacked) - len(b))))[0]
        rows.append(x)
        squares += np.sum((b - a @ x) ** 2)
    return np.array(rows), squares


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("share", [0.6, 0.05])
def test_each_row_is_its_least_squares_solution(solver, alpha, share):
    observed, factor, start = problem(share=share, rank=4)
    steps = 300 if solver == "gradient" else 40
    found, _, squares = regress(
        observed, factor, start, RowSolver(SOLVERS[solver], steps, 0.0, 4, alpha), 7
    )
    expected, expected_squares = least_squares(observed, factor, alpha)
    assert np.abs(found - expected).max() < 1e-10 * np.abs(expected).max()
    assert squares == pytest.approx(expected_squares, rel=1e-10, abs=1e-18)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_design_larger_than_the_buffer_is_gathered_again(solver, monkeypatch):
    observed, factor, start = problem()
    options = RowSolver(SOLVERS[solver], 3, 0.0, 2, 0.1)
    found = []
    for size in (2**20, 7 * 4):  # all of a row, or seven entries of it at a time
        monkeypatch.setattr(alternation.kernels, "BUFFER_ENTRIES", size)
        found.append(regress(observed, factor, start, options, 7))
    assert np.allclose(found[0][0], found[1][0], rtol=1e-10)
    assert found[0][1:] == pytest.approx(found[1][1:], rel=1e-10)


def test_a_row_without_entries_is_zero():
    observed, factor, start = problem()
    observed = observed.tolil()
    observed[3] = 0
    for solver in SOLVERS:
        options = RowSolver(SOLVERS[solver], 2, 0.0, 4, 0.0)
        assert not regress(observed.tocsr(), factor, start, options)[0][3].any()


def test_repeated_observations_of_one_direction_do_not_break_the_exact_solver():
    observed, factor, start = problem()
    factor = np.outer(factor[:, 0], [1.0, 2.0, 0.0, -1.0])
    found = regress(observed, factor, start, RowSolver(SOLVERS["exact"], 1, 0.0, 4, 0.0))[0]
    expected, _ = least_squares(observed, factor)
    # the ridge of 1e-12 leaves 1e-4 of the null space, by rounding
    assert np.abs((found - expected) @ factor.T).max() < 1e-9 * np.abs(expected).max()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_conjugate_gradients_do_the_steps_of_the_textbook(steps):
    observed, factor, start = problem()
    found = regress(observed, factor, start, RowSolver(SOLVERS["cg"], steps, 0.0, 4, 0.2))[0]
    for i in range(3):
        at = slice(observed.indptr[i], observed.indptr[i + 1])
        a, b, x = factor[observed.indices[at]], observed.data[at], start[i]
        gram = a.T @ a + 0.2 * np.eye(4)
        basis = [a.T @ b - gram @ x]
        basis += [np.linalg.matrix_power(gram, k) @ basis[0] for k in range(1, steps)]
        krylov = np.array(basis).T
        # the least error in the norm of the matrix, over the Krylov space
        best = x + krylov @ np.linalg.solve(krylov.T @ gram @ krylov, krylov.T @ basis[0])
        assert np.allclose(found[i], best, rtol=1e-8)


@pytest.mark.parametrize(("solver", "loose"), [("cg", 0.2), ("sketch", 0.2), ("gradient", 0.2)])
def test_rows_stop_when_their_error_is_below_the_tolerance(solver, loose):
    observed, factor, start = problem(200, 400, 5, 0.3)
    expected, _ = least_squares(observed, factor)
    errors = []
    for tol in (loose, 1e-4, 1e-8):
        options = RowSolver(SOLVERS[solver], 500, tol, 4, 0.0)
        found, flops, _ = regress(observed, factor, start, options)
        image, norms = (found - expected) @ factor.T, sparse.linalg.norm(observed, axis=1)
        seen = observed.astype(bool).toarray()
        error = (np.sqrt((image**2 * seen).sum(1)) / norms).max()
        assert error < 4 * tol  # the estimate is good to the distortion of the sketch
        errors.append((error, flops))
    assert errors[0][0] > errors[1][0] > errors[2][0] > 0
    assert errors[0][1] < errors[1][1] < errors[2][1]


def test_operations_are_those_of_the_passes():
    observed, factor, start = problem(share=1.0)
    factor = factor @ np.diag([1.0, 2.0, 3.0, 4.0])
    m, n, k = 40, 50, 4
    cg = regress(observed, factor, start, RowSolver(SOLVERS["cg"], 3, 0.0, 4, 0.0))[1]
    # residual, then gradient and image in each of three steps, 2 n k each
    assert cg == m * 7 * 2 * n * k
    exact = regress(observed, factor, start, RowSolver(SOLVERS["exact"], 3, 0.0, 4, 0.0))[1]
    assert exact == pytest.approx(m * (2 * 2 * n * k + n * k * (k + 1) + k**3 / 3 + 2 * k**2))
    sketch = regress(observed, factor, start, RowSolver(SOLVERS["sketch"], 3, 0.0, 4, 0.0))[1]
    built = 4 * n * k + 16 * k * (k + 1) + k**3 / 3
    assert sketch == pytest.approx(cg + m * (built + 3 * 2 * k**2))


def test_results_do_not_depend_on_the_executor(monkeypatch):
    monkeypatch.setattr(alternation, "ENTRIES_PER_TASK", 300)
    gappy, _ = with_gaps(low_rank())
    alone = MatrixCompletion(3, n_iter=5, rng=0).fit(gappy)
    with ThreadPoolExecutor(2) as executor:
        shared = MatrixCompletion(3, n_iter=5, rng=0, executor=executor).fit(gappy)
    monkeypatch.setattr(alternation, "ENTRIES_PER_TASK", 10**9)
    whole = MatrixCompletion(3, n_iter=5, rng=0).fit(gappy)
    assert np.array_equal(alone.reconstruct(), shared.reconstruct())
    assert np.array_equal(alone.row_factors_, whole.row_factors_)


# --- the start ----------------------------------------------------------------------------------


def test_the_start_is_the_leading_singular_space():
    table = low_rank(80, 60, 3)
    basis = starting_basis(as_sparse(table), 3, None, np.random.default_rng(0))
    assert subspace_distance(basis, np.linalg.svd(table)[0][:, :3]) < 1e-10
    assert np.allclose(basis.T @ basis, np.eye(3), atol=1e-14)


def test_the_start_is_clipped_at_twice_the_incoherence():
    table = low_rank(80, 60, 1)
    observed = as_sparse(table)
    free = starting_basis(observed, 1, None, np.random.default_rng(0))
    clipped = starting_basis(observed, 1, 0.8, np.random.default_rng(0))
    kept = np.abs(free) <= 2 * 0.8 * np.sqrt(1 / 80)
    assert 0 < np.count_nonzero(~kept) < 20
    assert np.array_equal(clipped != 0, kept)
    model = MatrixCompletion(1, clip=0.8, rng=0).fit(table)
    assert relative_error(model.reconstruct(), table) < 1e-12


# --- zeros, gaps, sparse and dense --------------------------------------------------------------


def test_stored_zeros_are_observed():
    table = low_rank(30, 25, 2)
    table[:, :5] = 0.0
    gappy, seen = with_gaps(table, 0.7)
    observed = as_sparse(gappy)
    assert (observed.data == 0).any()
    dense = MatrixCompletion(2, rng=0).fit(gappy)
    stored = MatrixCompletion(2, rng=0).fit(observed)
    assert np.array_equal(dense.reconstruct(), stored.reconstruct())
    assert relative_error(stored.reconstruct(), table, ~seen | (table == 0)) < 1e-6
    assert np.abs(stored.reconstruct()[:, :5]).max() < 1e-6


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_sparse_formats_are_read_alike_and_left_as_they_are(form):
    gappy, _ = with_gaps(low_rank())
    X = as_sparse(gappy).asformat(form)
    before = X.toarray()
    model = MatrixCompletion(3, rng=0).fit(X)
    assert np.array_equal(X.toarray(), before)
    assert np.array_equal(model.reconstruct(), MatrixCompletion(3, rng=0).fit(gappy).reconstruct())


def test_the_table_given_is_not_changed():
    gappy, _ = with_gaps(low_rank())
    before = gappy.copy()
    MatrixCompletion(3, rng=0, center=True).fit_transform(gappy)
    assert np.array_equal(gappy, before, equal_nan=True)


def test_filled_tables_keep_what_was_observed():
    gappy, seen = with_gaps(low_rank(rank=6))
    for X in (gappy, as_sparse(gappy)):
        model = MatrixCompletion(3, rng=0, center=True)
        filled = model.fit_transform(X)
        assert np.array_equal(filled[seen], gappy[seen])
        assert np.allclose(filled[~seen], model.reconstruct()[~seen])


# --- new rows, pairs ----------------------------------------------------------------------------


@pytest.mark.parametrize("center", [False, True])
def test_predictions_are_entries_of_the_reconstruction(center):
    gappy, _ = with_gaps(low_rank())
    model = MatrixCompletion(3, rng=0, center=center).fit(gappy)
    rows, cols = [0, 59, 7, 7], [44, 0, 3, 3]
    assert np.allclose(model.predict(rows, cols), model.reconstruct()[rows, cols], rtol=1e-12)
    assert model.predict([], []).shape == (0,)


def test_new_rows_are_completed():
    table = low_rank(90, 45, 3)
    model = MatrixCompletion(3, rng=0, n_iter=100).fit(with_gaps(table[:60])[0])
    gappy, seen = with_gaps(table[60:], 0.3)
    filled = model.transform(gappy)
    assert relative_error(filled, table[60:], ~seen) < 1e-6
    assert np.array_equal(filled[seen], gappy[seen])
    assert np.array_equal(model.transform(as_sparse(gappy)), filled)


def test_old_rows_are_completed_as_in_the_fit():
    gappy, _ = with_gaps(low_rank(rank=6))
    for options in ({"alpha": 0.1}, {"center": True}):
        model = MatrixCompletion(3, solver="exact", rng=0, **options)
        assert np.allclose(model.fit_transform(gappy), model.transform(gappy), rtol=1e-10)


def test_an_empty_new_row_gets_column_means_or_zeros():
    gappy, _ = with_gaps(low_rank())
    empty = np.full((1, 45), np.nan)
    centered = MatrixCompletion(3, rng=0, center=True).fit(gappy)
    assert np.allclose(centered.transform(empty), np.nanmean(gappy, axis=0))
    with pytest.warns(UserWarning, match="1 rows, such as number 0, have no observed entry"):
        assert not MatrixCompletion(3, rng=0).fit(gappy).transform(empty).any()
    ridge = MatrixCompletion(3, rng=0, alpha=0.1).fit(gappy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not ridge.transform(empty).any()


def test_centering_finds_additive_tables():
    rng = np.random.default_rng(0)
    table = 100 + rng.normal(size=(30, 1)) + np.arange(20.0)
    model = MatrixCompletion(1, center=True, rng=0).fit(table)
    assert np.allclose(model.col_means_, table.mean(axis=0))
    assert np.allclose(model.row_means_, table.mean(axis=1) - table.mean())
    assert np.allclose(model.reconstruct(), table, rtol=1e-12)


def test_a_column_without_entries_is_centered_at_the_mean_of_all():
    gappy, _ = with_gaps(low_rank() + 5)
    gappy[:, 4] = np.nan
    model = MatrixCompletion(2, center=True, rng=0).fit(gappy)
    assert model.col_means_[4] == pytest.approx(np.nanmean(gappy))
    assert np.isfinite(model.reconstruct()).all()


def test_factors_are_a_singular_value_decomposition():
    gappy, _ = with_gaps(low_rank(rank=6))
    model = MatrixCompletion(4, rng=0).fit(gappy)
    values = np.linalg.svd(model.reconstruct(), compute_uv=False)
    assert np.allclose(model.singular_values_, values[:4], rtol=1e-12)
    assert np.all(np.diff(model.singular_values_) <= 0)
    assert np.allclose(model.col_factors_.T @ model.col_factors_, np.eye(4), atol=1e-13)
    squares = np.diag(model.singular_values_**2)
    assert np.allclose(model.row_factors_.T @ model.row_factors_, squares, atol=1e-9)
    assert model.n_iter_ == len(model.history_) == len(model.flops_)
    both = incoherence(model.row_factors_), incoherence(model.col_factors_)
    assert model.incoherence_ == max(both)


def test_a_ridge_shrinks_the_singular_values():
    table = low_rank(rank=3)
    plain = MatrixCompletion(3, rng=0).fit(table)
    ridge = MatrixCompletion(3, rng=0, alpha=0.25).fit(table)
    # without gaps A^T A = I, so that the fixed point has each value over 1 + alpha
    assert np.allclose(ridge.singular_values_, plain.singular_values_ / 1.25, rtol=1e-6)


# --- running it ---------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_table():
    gappy, _ = with_gaps(low_rank())
    one, two, other = (MatrixCompletion(3, n_iter=2, rng=s).fit(gappy) for s in (0, 0, 1))
    assert np.array_equal(one.row_factors_, two.row_factors_)
    assert not np.array_equal(one.row_factors_, other.row_factors_)


def test_a_callback_sees_every_iteration_and_can_stop():
    gappy, _ = with_gaps(low_rank())
    seen = []

    def callback(state):
        seen.append((state.iteration, state.n_iter, state.residual))
        if state.iteration == 3:
            raise StopIteration

    model = MatrixCompletion(3, rng=0, callback=callback).fit(gappy)
    assert model.n_iter_ == 3
    assert seen == [(i + 1, 50, r) for i, r in enumerate(model.history_)]


def test_it_stops_when_the_residual_settles():
    gappy, _ = with_gaps(low_rank(rank=6))
    loose, tight = (MatrixCompletion(3, tol=tol, n_iter=300, rng=0) for tol in (1e-2, 1e-5))
    history = loose.fit(gappy).history_
    assert abs(history[-1] - history[-2]) <= 1e-2 * history[-2]
    assert np.all(np.abs(np.diff(history[:-1])) > 1e-2 * history[:-2])
    assert loose.n_iter_ < tight.fit(gappy).n_iter_ < 300


def test_a_table_of_zeros_is_completed_by_zeros():
    model = MatrixCompletion(1, rng=0).fit(np.zeros((5, 4)))
    assert not model.reconstruct().any()
    assert model.n_iter_ == 1


def test_clones_share_the_executor():
    with ThreadPoolExecutor(1) as executor:
        copy = clone(MatrixCompletion(2, executor=executor, alpha=0.5))
    assert copy.executor is executor
    assert (copy.rank, copy.alpha) == (2, 0.5)


class WithoutPairs(MatrixCompletion):
    """scikit-learn's checks expect a `predict` to take a table."""

    @property
    def predict(self):
        raise AttributeError


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scikit_learns_checks_pass():
    results = check_estimator(WithoutPairs(1, rng=0, n_iter=5), on_fail=None, on_skip=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed
    assert sum(r["status"] == "passed" for r in results) > 40


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": 0}, ValueError, "rank must be an integer >= 1 and <= 4, got 0"),
        ({"rank": 5}, ValueError, "rank must be an integer >= 1 and <= 4, got 5"),
        ({"rank": 1.5}, TypeError, "rank must be"),
        ({"solver": "lu"}, ValueError, "solver must be one of 'exact', 'cg', 'sketch', 'grad"),
        ({"n_iter": 0}, ValueError, "n_iter must be"),
        ({"inner_iter": 0}, ValueError, "inner_iter must be"),
        ({"inner_tol": -1.0}, ValueError, "inner_tol must be"),
        ({"sketch_factor": 0}, ValueError, "sketch_factor must be"),
        ({"alpha": -0.1}, ValueError, "alpha must be"),
        ({"alpha": np.nan}, ValueError, "alpha must be"),
        ({"tol": "small"}, TypeError, "tol must be"),
        ({"clip": 0.0}, ValueError, "clip must be"),
        ({"split": "yes"}, ValueError, "split must be one of False, True"),
        ({"center": 3}, ValueError, "center must be one of False, True"),
    ],
)
def test_bad_parameters_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        MatrixCompletion(**({"rank": 1} | options)).fit(np.ones((5, 4)))


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.full((3, 3), np.nan), ValueError, "X must have an observed entry"),
        (sparse.csr_array((3, 3)), ValueError, "X must have an observed entry"),
        (np.array([[1.0, np.inf], [1.0, 2.0]]), ValueError, "infinity"),
        (sparse.csr_array([[1.0, np.inf], [1.0, 2.0]]), ValueError, "infinity"),
        (sparse.csr_array([[1.0, np.nan], [1.0, 2.0]]), ValueError, "must not store NaN"),
        (np.array([["a", "b"], ["c", "d"]]), TypeError, "X must be numbers"),
        (np.array([["a", 1], [2, "d"]], dtype=object), TypeError, "X must be numbers"),
        (np.ones(3), ValueError, "2D array"),
        (np.ones((2, 2)) * 1j, ValueError, "[Cc]omplex"),
    ],
)
def test_bad_tables_are_refused(X, error, message):
    with pytest.raises(error, match=message):
        MatrixCompletion(1).fit(X)


def test_too_few_entries_are_warned_of_with_the_number_needed():
    X = np.full((10, 8), np.nan)
    X[0], X[:, 0] = 1.0, 1.0
    with pytest.warns(UserWarning, match="has 32 degrees of freedom, but only 17 entries"):
        MatrixCompletion(2, rng=0).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MatrixCompletion(1, rng=0).fit(X)


@pytest.mark.parametrize(
    ("rows", "cols", "error", "message"),
    [
        ([0], [4], ValueError, "cols must be from 0 to 3"),
        ([-1], [0], ValueError, "rows must be from 0 to 4"),
        ([0.5], [0], TypeError, "rows must be a sequence of integers"),
        ([0, 1], [0], ValueError, "same length, got 2 and 1"),
        (0, 0, TypeError, "rows must be a sequence"),
    ],
)
def test_bad_pairs_are_refused(rows, cols, error, message):
    model = MatrixCompletion(1, rng=0).fit(np.ones((5, 4)))
    with pytest.raises(error, match=message):
        model.predict(rows, cols)


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_solution_is_returned_where_a_regression_overflows(solver):
    observed, factor, start = problem()
    with pytest.raises(FloatingPointError, match="left the range of floating point"):
        regress(observed * 1e300, factor * 1e-20, start, RowSolver(SOLVERS[solver], 2, 0.0, 4, 0))
