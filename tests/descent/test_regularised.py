"""Second-order methods for an l1 norm: one minimiser for all, and each one's own rules."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import Lasso

from thalweg.descent import l1_projected_gradient, orthant_newton, proximal_newton
from thalweg.descent._l1_kernels import coordinate_passes
from thalweg.descent._quadratic_models import MemoryModel
from thalweg.descent._sparse_steps import kkt_residual, pseudo_gradient

from ._battery import lasso, logistic, quadratic

RNG = np.random.default_rng(6)


def proximal_dense(p, x0, **options):
    return proximal_newton(p.fun, x0, jac=p.jac, hess=p.more["hess"], **options)


def proximal_memory(p, x0, **options):
    return proximal_newton(p.fun, x0, jac=p.jac, **options)


def orthant_dense(p, x0, **options):
    return orthant_newton(p.fun, x0, jac=p.jac, hess=p.more["hess"], **options)


def orthant_products(p, x0, **options):
    return orthant_newton(p.fun, x0, jac=p.jac, hessp=lambda w, v: p.more["hess"](w) @ v, **options)


def split_gradients(p, x0, **options):
    return l1_projected_gradient(p.fun, x0, jac=p.jac, **options)


METHODS = [proximal_dense, proximal_memory, orthant_dense, orthant_products, split_gradients]
each = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)


def sparse_regression(dim=10, lam=0.3, seed=0):
    problem = lasso(dim=dim, lam=lam, seed=seed)
    A = problem.more["A"]
    problem.more["hess"] = lambda w: A.T @ A / len(A)
    return problem


def sparse_logistic(n=80, dim=12, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, dim))
    y = np.where(X[:, 0] - X[:, 1] + 0.5 * rng.normal(size=n) > 0, 1.0, -1.0)
    problem = logistic(n, dim)

    def hess(w):
        s = expit(X @ w) * expit(-X @ w)
        return X.T @ (s[:, None] * X) / n

    return type(problem)(
        "sparse logistic", lambda w: np.logaddexp(0, -y * (X @ w)).mean(),
        lambda w: -X.T @ (y * expit(-y * (X @ w))) / n, np.zeros(dim), np.nan,
        more={"lam": 0.05, "hess": hess},
    )  # fmt: skip


@each
@pytest.mark.parametrize("seed", [0, 1])
def test_the_lasso_is_solved_as_by_scikit_learn(method, seed):
    problem = sparse_regression(seed=seed)
    A, b, lam = (problem.more[k] for k in ("A", "b", "lam"))
    peer = Lasso(alpha=lam, fit_intercept=False, tol=1e-14, max_iter=10**6).fit(A, b).coef_
    result = method(problem, np.ones(10), lam=lam, gtol=1e-10, record=True)
    assert result.success, result.message
    np.testing.assert_allclose(result.x, peer, atol=1e-8)
    assert ((result.x != 0) == (peer != 0)).all()
    assert result.fun == pytest.approx(problem.fun(peer) + lam * np.abs(peer).sum(), abs=1e-12)
    np.testing.assert_allclose(result.jac, problem.jac(result.x), atol=1e-12)
    assert result.residual <= 1e-10
    assert (np.diff(result.history["fun"]) <= 1e-12).all()


@each
def test_sparse_logistic_regression_has_one_minimiser(method):
    problem = sparse_logistic()
    result = method(problem, problem.x0, lam=0.05, gtol=1e-9)
    reference = proximal_dense(problem, problem.x0, lam=0.05, gtol=1e-12)
    assert result.success, result.message
    np.testing.assert_allclose(result.x, reference.x, atol=1e-7)
    assert 0 < np.count_nonzero(result.x) < 12


@each
def test_without_a_norm_it_minimises_the_smooth_part(method):
    problem = quadratic(6, 20.0)
    H = np.stack([problem.more["product"](e) for e in np.eye(6)])
    problem.more["hess"] = lambda w: H
    result = method(problem, problem.x0, lam=0.0, gtol=1e-9)
    np.testing.assert_allclose(result.x, problem.solution, atol=1e-6)


@each
def test_a_heavy_norm_gives_zero_at_once(method):
    problem = sparse_regression()
    heavy = np.abs(problem.jac(np.zeros(10))).max() * 1.01
    result = method(problem, np.zeros(10), lam=heavy)
    assert result.success
    assert result.nit == 0
    assert not result.x.any()
    back = method(problem, np.ones(10), lam=heavy)
    np.testing.assert_allclose(back.x, 0.0, atol=1e-8)


def test_methods_are_taken_by_scipy():
    problem = sparse_regression()
    for method in (proximal_newton, l1_projected_gradient):
        result = minimize(
            problem.fun, problem.x0, jac=problem.jac, method=method, options={"lam": 0.3}
        )
        assert result.fun == pytest.approx(problem.minimum, abs=1e-9)
    result = minimize(
        problem.fun, problem.x0, jac=problem.jac, hess=problem.more["hess"], method=orthant_newton,
        options={"lam": 0.3},
    )  # fmt: skip
    assert result.fun == pytest.approx(problem.minimum, abs=1e-9)


def test_a_newton_step_of_many_passes_solves_the_lasso_at_once():
    problem = sparse_regression()
    result = proximal_dense(problem, problem.x0, lam=0.3, inner_sweeps=1000, gtol=1e-11)
    assert result.nit == 1
    assert result.njev == 2


def test_few_gradients_are_needed():
    problem = sparse_logistic()
    counts = {
        method.__name__: method(problem, problem.x0, lam=0.05, gtol=1e-8).njev for method in METHODS
    }
    assert counts["proximal_dense"] == min(counts.values())
    assert counts["split_gradients"] == max(counts.values())


@settings(max_examples=30)
@given(st.integers(1, 8), st.integers(0, 10**6), st.floats(0.0, 2.0))
def test_coordinate_passes_minimise_the_model(dim, seed, lam):
    rng = np.random.default_rng(seed)
    Q = rng.normal(size=(dim, dim + 3))
    H, w, g = Q @ Q.T + 0.1 * np.eye(dim), rng.normal(size=dim), rng.normal(size=dim)
    w[rng.random(dim) < 0.3] = 0.0
    none = np.empty((dim, 0))
    d = coordinate_passes(H, 0.0, none, none, w, g, lam, 20_000)
    # optimality of the model at w + d, whose gradient there is g + H d
    assert kkt_residual(w + d, g + H @ d, lam) <= 1e-8 * (1 + np.abs(H).max())
    one = coordinate_passes(H, 0.0, none, none, w, g, lam, 1)
    model = [g @ e + 0.5 * e @ H @ e + lam * np.abs(w + e).sum() for e in (0 * d, one, d)]
    assert model[2] <= model[1] + 1e-9
    assert model[1] <= model[0] + 1e-9


def test_the_memory_is_that_of_lbfgs():
    from thalweg.descent.quasi_newton import hessian_product

    model, H = MemoryModel(np.zeros(5)), np.diag(np.arange(1.0, 6.0))
    points = RNG.normal(size=(4, 5))
    for w in points:
        _, scale, left, right = model.parts(w, H @ w)
    pairs = [(b - a, H @ (b - a)) for a, b in itertools.pairwise(points)]
    B = scale * np.eye(5) + left @ right.T
    expected = np.stack([hessian_product(e, pairs) for e in np.eye(5)])
    np.testing.assert_allclose(B, expected, atol=1e-9)
    v = RNG.normal(size=5)
    d = coordinate_passes(np.empty((0, 0)), scale, left, right, v, -v, 0.0, 5000)
    np.testing.assert_allclose(B @ d, v, atol=1e-8)


def test_the_pseudo_gradient_is_the_shortest_subgradient():
    w = np.array([2.0, -1.0, 0.0, 0.0, 0.0])
    g = np.array([0.5, 0.5, 0.4, 3.0, -3.0])
    assert pseudo_gradient(w, g, 1.0).tolist() == [1.5, -0.5, 0.0, 2.0, -2.0]


def test_points_of_an_orthant_step_stay_in_it():
    """From (1, 0) with the minimiser at (-2, 0.5) the first step stops at zero."""
    b = np.array([-2.5, 1.0])
    options = {"jac": lambda w: w - b, "hess": lambda w: np.eye(2), "lam": 0.5}

    def fun(w):
        return 0.5 * (w - b) @ (w - b)

    result = orthant_newton(fun, [1.0, 0.0], maxiter=1, **options)
    np.testing.assert_allclose(result.x, [0.0, 0.5], atol=1e-12)
    whole = orthant_newton(fun, [1.0, 0.0], **options)
    np.testing.assert_allclose(whole.x, [-2.0, 0.5], atol=1e-10)
    assert whole.nit == 2


def test_values_that_are_not_finite_end_the_run():
    problem = sparse_regression()
    result = proximal_newton(
        problem.fun, problem.x0, jac=problem.jac, hess=lambda w: np.full((10, 10), np.nan), lam=0.1
    )
    assert not result.success
    assert "not finite" in result.message
    assert np.isfinite(result.x).all()


@each
@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"lam": -0.1}, "lam"),
        ({"lam": 0.1, "gtol": -1.0}, "gtol"),
        ({"lam": 0.1, "maxiter": -1}, "maxiter"),
    ],
)
def test_bad_options_are_refused_by_name(method, options, name):
    problem = sparse_regression()
    with pytest.raises((TypeError, ValueError), match=name):
        method(problem, problem.x0, **options)


def test_bad_hessians_and_starts_are_refused_by_name():
    problem = sparse_regression()
    fun, jac, x0 = problem.fun, problem.jac, problem.x0
    for call, name in [
        (lambda: proximal_newton(fun, x0, jac=jac, hess="bfgs", lam=0.1), "hess"),
        (lambda: proximal_newton(fun, x0, jac=jac, hess=3, lam=0.1), "hess"),
        (lambda: proximal_newton(fun, x0, jac=jac, hess=lambda w: np.eye(3), lam=0.1), "hess"),
        (lambda: proximal_newton(fun, x0, jac=jac, lam=0.1, inner_sweeps=0), "inner_sweeps"),
        (lambda: proximal_newton(fun, x0, jac=jac, lam=0.1, bounds=[(0, 1)]), "bounds"),
        (lambda: proximal_newton(fun, x0[None], jac=jac, lam=0.1), "x0"),
        (lambda: orthant_newton(fun, x0, jac=jac, lam=0.1), "hess or hessp"),
        (lambda: orthant_newton(fun, x0, jac=jac, hessp=2, lam=0.1), "hessp"),
        (lambda: l1_projected_gradient(fun, x0, jac=jac, lam=0.1, step=0.0), "step"),
    ]:
        with pytest.raises((TypeError, ValueError), match=name):
            call()
