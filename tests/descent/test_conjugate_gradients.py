"""Conjugate gradients: finite termination, the bound, agreement with SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, cg

from thalweg.descent import conjugate_gradient, rate

from ._battery import CONDITIONS, DIMENSIONS, quadratic


def matrix(n, condition, seed=0):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    return basis @ np.diag(np.geomspace(1 / condition, 1, n)) @ basis.T, rng.normal(size=n)


@given(st.integers(1, 8), st.floats(1.0, 30.0), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_ends_in_as_many_steps_as_dimensions(n, condition, seed):
    H, b = matrix(n, condition, seed)
    result = conjugate_gradient(0.5 * (H + H.T), b, tol=1e-7)
    assert result.success
    assert result.nit <= n
    np.testing.assert_allclose(result.x, np.linalg.solve(H, b), atol=1e-4)


@pytest.mark.parametrize("distinct", [1, 2, 3, 5])
def test_ends_in_as_many_steps_as_there_are_eigenvalues(distinct):
    diagonal = np.arange(1.0, 1 + distinct)[np.arange(30) % distinct]
    result = conjugate_gradient(np.diag(diagonal), np.ones(30))
    assert result.nit == distinct


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("n", DIMENSIONS)
def test_error_stays_below_its_bound(n, condition):
    problem = quadratic(n, condition)
    H = LinearOperator((n, n), matvec=problem.more["product"], dtype=float)
    result = conjugate_gradient(
        H, problem.more["b"], problem.x0, tol=1e-9, maxiter=300, record=True
    )
    # f + b·x*/2 is half the squared error in the norm of H.
    constant = 0.5 * problem.more["b"] @ problem.solution
    error = np.sqrt(np.maximum(2 * (result.history["fun"] + constant), 0))
    t = np.arange(result.nit + 1)
    start = np.sqrt(2 * (problem.fun(problem.x0) + 1.0))
    bound = rate("conjugate_gradient", t, L=1.0, mu=1 / condition, radius=start)
    assert (error <= bound + 1e-6).all()
    assert (np.diff(result.history["fun"]) <= 1e-12).all()


def test_agrees_with_scipy():
    H, b = matrix(40, 1e4)
    ours = conjugate_gradient(H, b, tol=1e-9)
    theirs, info = cg(H, b, rtol=1e-9, atol=0)
    assert info == 0
    assert ours.success
    np.testing.assert_allclose(ours.x, theirs, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.jac, H @ ours.x - b, atol=1e-8)
    assert ours.fun == pytest.approx(0.5 * ours.x @ H @ ours.x - b @ ours.x)
    assert ours.residual == pytest.approx(
        np.linalg.norm(H @ ours.x - b) / np.linalg.norm(b), rel=0.5, abs=1e-11
    )
    assert ours.njev == ours.nit + 1


def test_arrays_sparse_arrays_and_operators_give_the_same():
    H, b = matrix(8, 10.0)
    plain = conjugate_gradient(H, b, np.ones(8))
    for other in (scipy.sparse.csr_array(H), LinearOperator((8, 8), matvec=lambda v: H @ v)):
        np.testing.assert_allclose(conjugate_gradient(other, b, np.ones(8)).x, plain.x, rtol=1e-10)


def test_a_zero_right_hand_side_is_solved_at_once():
    result = conjugate_gradient(np.eye(3), np.zeros(3))
    assert (result.nit, result.success) == (0, True)


def test_an_indefinite_matrix_is_reported():
    result = conjugate_gradient(np.diag([1.0, -1.0]), [1.0, 2.0])
    assert not result.success
    assert "H must be positive definite" in result.message
    assert np.isfinite(result.x).all()


@pytest.mark.parametrize(
    ("H", "b", "message"),
    [
        (np.ones((2, 3)), np.ones(2), "H must be square"),
        (np.zeros((0, 0)), np.zeros(0), "H must be square"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), np.ones(2), "H must be symmetric"),
        (scipy.sparse.csr_array([[1.0, 2.0], [0.0, 1.0]]), np.ones(2), "H must be symmetric"),
        (np.eye(2), np.ones(3), "b must have shape"),
        (np.eye(2) * np.nan, np.ones(2), "H must be finite"),
    ],
)
def test_malformed_systems_are_refused(H, b, message):
    with pytest.raises(ValueError, match=message):
        conjugate_gradient(H, b)


def test_malformed_limits_are_refused():
    with pytest.raises(ValueError, match="tol must be"):
        conjugate_gradient(np.eye(2), np.ones(2), tol=-1.0)
    with pytest.raises(ValueError, match="x0 must have shape"):
        conjugate_gradient(np.eye(2), np.ones(2), np.ones(3))
