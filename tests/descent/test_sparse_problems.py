"""Sparse linear models say what the dense ones say, and never make the matrix dense."""

import numpy as np
import pytest
from scipy.sparse import coo_matrix, csr_array, random_array

from thalweg.descent import (
    LeastSquares,
    Logistic,
    SparseLeastSquares,
    SparseLogistic,
    constants,
    sgd,
)

RNG = np.random.default_rng(0)
X = csr_array(random_array((30, 12), density=0.2, rng=RNG, data_sampler=RNG.normal))
LABELS = np.where(RNG.normal(size=30) > 0, 1.0, -1.0)
PAIRS = [
    (SparseLeastSquares(X, LABELS, l2=0.3), LeastSquares(X.toarray(), LABELS, l2=0.3)),
    (SparseLogistic(X, LABELS, l2=0.3), Logistic(X.toarray(), LABELS, l2=0.3)),
]
each = pytest.mark.parametrize(("sparse", "dense"), PAIRS, ids=["least squares", "logistic"])


@each
@pytest.mark.parametrize("idx", [None, 3, np.array([1, 1, 7])])
def test_values_gradients_and_products_equal_the_dense_ones(sparse, dense, idx):
    x, v = RNG.normal(size=(2, 12))
    for name, args in [
        ("component_values", (x,)), ("component_gradients", (x,)), ("value", (x,)),
        ("gradient", (x,)), ("scalar_gradient", (x,)), ("hessp", (x, v)),
    ]:  # fmt: skip
        expected = getattr(dense, name)(*args, idx)
        np.testing.assert_allclose(getattr(sparse, name)(*args, idx), expected, rtol=1e-12)


@each
def test_constants_equal_the_dense_ones(sparse, dense):
    ours, theirs = sparse.curvature(), dense.curvature()
    for name in ("L", "L_max"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-10)
    assert ours["mu"] == 0.3
    c = constants(sparse, np.zeros(12))
    assert c.L_max == pytest.approx(theirs["L_max"])


@each
def test_sgd_takes_the_same_way(sparse, dense):
    a, b = (sgd(p, np.ones(12), step=0.2, n_steps=40, batch_size=4, rng=1) for p in (sparse, dense))
    np.testing.assert_allclose(a.x, b.x, rtol=1e-11)


def test_two_products_with_a_matrix_that_would_not_fit():
    n, dim = 200_000, 500_000
    rows = csr_array((np.ones(n), (np.arange(n), 2 * np.arange(n))), shape=(n, dim))
    problem = SparseLogistic(rows, np.ones(n), l2=0.0)
    product = problem.hessp(np.zeros(dim), np.ones(dim))
    assert product[:2].tolist() == pytest.approx([0.25 / n, 0.0])
    assert problem.gradient(np.zeros(dim))[0] == pytest.approx(-0.5 / n)


def test_bad_input_is_refused_by_name():
    with pytest.raises(TypeError, match="rows must be a SciPy sparse"):
        SparseLeastSquares(np.eye(2), [1.0, 1.0])
    with pytest.raises(ValueError, match="targets"):
        SparseLeastSquares(X, np.ones(3))
    with pytest.raises(ValueError, match=r"labels \+1 and -1, got 0.5"):
        SparseLogistic(X, np.full(30, 0.5))
    with pytest.raises(ValueError, match="rows must be finite"):
        SparseLeastSquares(coo_matrix(np.array([[np.nan, 1.0]])), [1.0])
    with pytest.raises(ValueError, match="rows must not be empty"):
        SparseLeastSquares(csr_array((0, 3)), [])
    with pytest.raises(ValueError, match="l2"):
        SparseLeastSquares(X, LABELS, l2=-1.0)
    with pytest.raises(ValueError, match=r"x must have shape \(12,\)"):
        PAIRS[0][0].value(np.zeros(3))
