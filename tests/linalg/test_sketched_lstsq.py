from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from thalweg.linalg import sketched_lstsq
from thalweg.linalg.sketched_lstsq import sparse_signs


def design(m=800, k=12, condition=1e6, seed=0):
    rng = np.random.default_rng(seed)
    left, right = np.linalg.qr(rng.normal(size=(m, k)))[0], np.linalg.qr(rng.normal(size=(k, k)))[0]
    return left * np.geomspace(1, 1 / condition, k) @ right.T, rng


@pytest.mark.parametrize("start", [None, "zeros"])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_lapack_at_condition_1e6(start, seed):
    a, rng = design(seed=seed)
    b = a @ rng.normal(size=12) + 1e-7 * rng.normal(size=800)
    x0 = None if start is None else np.zeros(12)
    x, info = sketched_lstsq(a, b, x0, n_iter=30 if x0 is None else 60, tol=0.0, rng=seed)
    expected = np.linalg.lstsq(a, b)[0]
    # times the condition number where the residual was once as large as b
    limit = 1e-8 if x0 is None else 1e-6
    assert np.linalg.norm(x - expected) < limit * np.linalg.norm(expected)
    assert np.linalg.norm(a @ (x - expected)) < 1e-10 * np.linalg.norm(b)
    assert info.residual_norm == pytest.approx(np.linalg.norm(b - a @ x))


def test_the_number_of_steps_does_not_depend_on_the_conditioning():
    counts = []
    for condition in (1.0, 1e3, 1e6):
        a, rng = design(condition=condition)
        _, info = sketched_lstsq(a, rng.normal(size=800), tol=1e-10, n_iter=100, rng=0)
        assert info.converged
        counts.append(info.n_iter)
    assert max(counts) <= 30
    assert max(counts) - min(counts) <= 3


def test_the_error_estimate_is_the_error_up_to_the_distortion():
    a, rng = design(condition=10.0)
    b = rng.normal(size=800)
    expected = np.linalg.lstsq(a, b)[0]
    for steps in (2, 5, 8):
        x, info = sketched_lstsq(a, b, n_iter=steps, tol=0.0, rng=0)
        error = np.linalg.norm(a @ (x - expected)) / np.linalg.norm(b)
        assert error / 4 < info.error_estimate < 4 * error
        assert info.n_iter == steps
        assert not info.converged


def test_a_larger_sketch_needs_fewer_steps():
    a, rng = design(2000, 40, 10.0)
    b = rng.normal(size=2000)
    steps = [
        sketched_lstsq(a, b, sketch_factor=f, tol=1e-12, n_iter=100, rng=0)[1].n_iter
        for f in (2, 8, 32)
    ]
    assert steps[0] > steps[1] > steps[2]


def test_with_few_rows_one_step_is_enough():
    a, rng = design(40, 12)
    b = rng.normal(size=40)
    x, info = sketched_lstsq(a, b, np.ones(12), n_iter=2)
    assert info.sketch_rows == 40
    assert np.linalg.norm(a @ (x - np.linalg.lstsq(a, b)[0])) < 1e-10 * np.linalg.norm(b)


@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csc_array, sparse.coo_array])
def test_sparse_designs_give_what_dense_ones_do(form):
    rng = np.random.default_rng(0)
    a = sparse.random_array((600, 8), density=0.2, rng=rng)
    b = rng.normal(size=600)
    x, info = sketched_lstsq(form(a), b, rng=0)
    assert info.converged
    assert np.allclose(x, np.linalg.lstsq(a.toarray(), b)[0], rtol=1e-11)


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 80), k=st.integers(1, 8), rank=st.integers(1, 8), seed=st.integers(0, 2**20)
)
def test_the_solution_of_least_norm_is_found_at_any_rank(m, k, rank, seed):
    rng = np.random.default_rng(seed)
    rank = min(m, k, rank)
    a = rng.normal(size=(m, rank)) @ rng.normal(size=(rank, k))
    b = rng.normal(size=m)
    x, info = sketched_lstsq(a, b, rng=seed, n_iter=100)
    values = np.linalg.svd(a, compute_uv=False)[:rank]
    expected = np.linalg.pinv(a, rcond=1e-10) @ b
    if values[-1] > 1e-3 * values[0]:
        assert info.rank == rank
        assert np.allclose(x, expected, rtol=0, atol=1e-8 * np.linalg.norm(expected))


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_the_sketch_alone_solves_a_consistent_system_with_dependent_columns(unit):
    a, rng = design(400, 6, 10.0)
    a = unit * np.hstack([a, a[:, :2]])
    _, info = sketched_lstsq(a, a @ rng.normal(size=8), rng=0)
    assert (info.rank, info.n_iter, info.converged) == (6, 0, True)


@settings(max_examples=20, deadline=None)
@given(power=st.integers(-300, 300))
def test_scaling_the_design_scales_the_solution(power):
    a, rng = design(200, 5, 10.0)
    b = rng.normal(size=200)
    x, _ = sketched_lstsq(a, b, rng=0)
    scaled, _ = sketched_lstsq(a * 2.0**power, b, rng=0)
    assert np.allclose(scaled * 2.0**power, x, rtol=1e-10)


def test_a_zero_right_hand_side_or_design_gives_zero():
    a, _ = design(50, 3)
    x, info = sketched_lstsq(a, np.zeros(50))
    assert not x.any()
    assert info.converged
    x, info = sketched_lstsq(np.zeros((50, 3)), np.ones(50))
    assert not x.any()
    assert info.rank == 0


def test_the_embedding_has_two_signs_a_column_and_keeps_norms_on_average():
    rng = np.random.default_rng(0)
    s = sparse_signs(20, 4000, rng)
    dense = s.toarray()
    assert np.all(np.count_nonzero(dense, axis=0) == 2)
    assert np.allclose((dense**2).sum(axis=0), 1)
    # mean of the Gram matrix is the identity; 4000 rows of 400 +- 20 each
    assert np.abs(np.count_nonzero(dense, axis=1) - 400).max() < 100
    x = rng.normal(size=4000)
    norms = [np.sum((sparse_signs(20, 4000, rng) @ x) ** 2) for _ in range(300)]
    # standard deviation of each about sqrt(2 / 20) of the norm, 0.018 for the mean
    assert np.mean(norms) / np.sum(x**2) == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize(
    ("a", "b", "options", "error", "message"),
    [
        (np.ones(3), np.ones(3), {}, ValueError, "a must have 2 axes"),
        (np.ones((3, 0)), np.ones(3), {}, ValueError, "a must have rows and columns"),
        ([["x"]], np.ones(1), {}, TypeError, "a must be an array"),
        (np.full((3, 1), np.inf), np.ones(3), {}, ValueError, "a must be finite"),
        (sparse.csr_array([[np.nan]]), np.ones(1), {}, ValueError, "a must be finite"),
        (sparse.csr_array([[1j]]), np.ones(1), {}, TypeError, "a must hold real numbers"),
        (np.ones((3, 1)), np.ones(2), {}, ValueError, r"b must have shape \(3\)"),
        (np.ones((3, 1)), [1, 2, np.nan], {}, ValueError, "b must be finite"),
        (np.ones((3, 1)), np.ones(3), {"x0": np.ones(2)}, ValueError, "x0 must have shape"),
        (np.ones((3, 1)), np.ones(3), {"sketch_factor": 1}, ValueError, "sketch_factor must be"),
        (np.ones((3, 1)), np.ones(3), {"n_iter": 0}, ValueError, "n_iter must be"),
        (np.ones((3, 1)), np.ones(3), {"tol": -1.0}, ValueError, "tol must be"),
    ],
)
def test_bad_input_is_refused_by_name(a, b, options, error, message):
    with pytest.raises(error, match=message):
        sketched_lstsq(a, b, **options)
