"""Gauss-Newton and Fisher products against matrices formed by hand."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.special import expit, softmax

from thalweg.descent import (
    AbsoluteRegression,
    LeastSquares,
    Logistic,
    ResidualSum,
    SparseLogistic,
)
from thalweg.descent.curvature_products import (
    data_gradients,
    fisher_product,
    gauss_newton_diagonal,
    gauss_newton_product,
)

RNG = np.random.default_rng(0)
A = RNG.normal(size=(20, 4))
LABELS = np.where(RNG.normal(size=20) > 0, 1.0, -1.0)


class Curve(ResidualSum):
    """Residuals tanh(a_i·x) - b_i."""

    def __init__(self, rows, targets):
        self.rows, self.targets = rows, targets
        self.n, self.dim = rows.shape

    def residual(self, x, idx=None):
        pick = self.indices(idx)
        return (np.tanh(self.rows[pick] @ x) - self.targets[pick])[:, None]

    def jvp(self, x, v, idx=None):
        rows = self.rows[self.indices(idx)]
        return ((1 - np.tanh(rows @ x) ** 2) * (rows @ v))[:, None]

    def vjp(self, x, u, idx=None):
        rows = self.rows[self.indices(idx)]
        return rows.T @ ((1 - np.tanh(rows @ x) ** 2) * u[:, 0]) / len(rows)


class Softmax(ResidualSum):
    """Softmax regression with three classes on four features: outputs are logits."""

    n, dim = 20, 12

    def __init__(self):
        self.rows, self.targets = A, RNG.integers(3, size=20)

    def residual(self, x, idx=None):
        return self.rows[self.indices(idx)] @ x.reshape(4, 3)

    def jvp(self, x, v, idx=None):
        return self.residual(v, idx)

    def vjp(self, x, u, idx=None):
        rows = self.rows[self.indices(idx)]
        return (rows.T @ u / len(rows)).ravel()

    def output_hessp(self, outputs, u, idx=None):
        p = softmax(outputs, axis=1)
        return p * u - p * np.sum(p * u, axis=1, keepdims=True)


def by_columns(product, dim):
    return np.stack([product(e) for e in np.eye(dim)], axis=1)


def numerical_hessian(gradient, x, h=1e-5):
    return np.stack([(gradient(x + h * e) - gradient(x - h * e)) / (2 * h) for e in np.eye(len(x))])


def test_it_is_the_hessian_where_the_residuals_vanish():
    truth = RNG.normal(size=4) * 0.5
    problem = Curve(A, np.tanh(A @ truth))
    G = by_columns(lambda v: gauss_newton_product(problem, truth, v), 4)
    np.testing.assert_allclose(G, numerical_hessian(problem.gradient, truth), atol=1e-9)
    away = truth + 0.5
    G = by_columns(lambda v: gauss_newton_product(problem, away, v), 4)
    assert np.abs(G - numerical_hessian(problem.gradient, away)).max() > 1e-2
    assert np.linalg.eigvalsh(G).min() > 0


def test_gradients_of_residual_sums_are_derivatives_of_their_values():
    problem, x, h = Curve(A, LABELS), RNG.normal(size=4), 1e-6
    slope = [(problem.value(x + h * e) - problem.value(x - h * e)) / (2 * h) for e in np.eye(4)]
    np.testing.assert_allclose(problem.gradient(x), slope, atol=1e-8)
    each = problem.component_gradients(x, [2, 5])
    np.testing.assert_allclose(each.mean(axis=0), problem.gradient(x, np.array([2, 5])))


@pytest.mark.parametrize("l2", [0.0, 0.7])
@pytest.mark.parametrize("idx", [None, np.array([0, 3, 4])])
def test_of_a_linear_model_it_is_the_hessian_and_the_fisher_information(l2, idx):
    x = RNG.normal(size=4)
    rows = A if idx is None else A[idx]
    p = expit(rows @ x)
    # the score of y given a is (t - p) a with t = 1 of probability p, 0 otherwise
    scores = [[(1 - p_i) * a, -p_i * a] for p_i, a in zip(p, rows, strict=True)]
    fisher = np.mean(
        [
            q * np.outer(s[0], s[0]) + (1 - q) * np.outer(s[1], s[1])
            for q, s in zip(p, scores, strict=True)
        ],
        axis=0,
    )
    for problem in (Logistic(A, LABELS, l2=l2), SparseLogistic(csr_array(A), LABELS, l2=l2)):
        F = by_columns(lambda v, problem=problem: fisher_product(problem, x, v, idx), 4)
        G = by_columns(lambda v, problem=problem: gauss_newton_product(problem, x, v, idx), 4)
        np.testing.assert_allclose(F, fisher, atol=1e-10)
        np.testing.assert_allclose(G, fisher + l2 * np.eye(4), atol=1e-10)
        np.testing.assert_allclose(gauss_newton_diagonal(problem, x, idx), np.diag(G), atol=1e-12)


def test_hessian_products_are_differences_of_gradients():
    for problem in (Logistic(A, LABELS, l2=0.2), LeastSquares(A, LABELS, l2=0.2)):
        x = RNG.normal(size=4)
        H = by_columns(lambda v, problem=problem, x=x: problem.hessp(x, v), 4)
        np.testing.assert_allclose(H, numerical_hessian(problem.gradient, x), atol=1e-8)


def test_the_loss_of_several_outputs_enters_by_its_hessian():
    problem, x = Softmax(), RNG.normal(size=12)
    G = by_columns(lambda v: gauss_newton_product(problem, x, v), 12)
    p = softmax(A @ x.reshape(4, 3), axis=1)
    expected = sum(
        np.kron(np.outer(a, a), np.diag(q) - np.outer(q, q)) for a, q in zip(A, p, strict=True)
    )
    np.testing.assert_allclose(G, expected / 20, atol=1e-12)


def test_data_gradients_leave_the_squared_norm_out():
    x = RNG.normal(size=4)
    plain, ridge = Logistic(A, LABELS), Logistic(A, LABELS, l2=0.9)
    np.testing.assert_allclose(data_gradients(ridge, x), plain.component_gradients(x), atol=1e-14)
    assert gauss_newton_diagonal(LeastSquares(A, LABELS), x) == pytest.approx(np.mean(A**2, axis=0))


def test_problems_without_curvature_are_refused():
    problem = AbsoluteRegression(A, LABELS)
    for of in (gauss_newton_diagonal, lambda p, x: gauss_newton_product(p, x, x)):
        with pytest.raises(TypeError, match="problem must be a smooth linear model"):
            of(problem, np.zeros(4))
