"""Subsampled Newton and Gauss-Newton steps: conjugate gradients, exact cases, costs, stops."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from thalweg.descent import (
    AbsoluteRegression,
    FiniteSum,
    LeastSquares,
    Logistic,
    gauss_newton,
    subsampled_newton_cg,
)
from thalweg.descent.second_order import truncated_cg

from .test_curvature_products import Curve

RNG = np.random.default_rng(1)
A = RNG.normal(size=(40, 6))
LABELS = np.where(A @ np.ones(6) + RNG.normal(size=40) > 0, 1.0, -1.0)
LOGISTIC = Logistic(A, LABELS, l2=0.05)
START = np.zeros(6)


class Wave(FiniteSum):
    """cos x: the Hessian is negative near 0."""

    n, dim = 4, 1

    def component_values(self, x, idx=None):
        return np.full(4, np.cos(x[0]))[self.indices(idx)]

    def component_gradients(self, x, idx=None):
        return np.full((4, 1), -np.sin(x[0]))[self.indices(idx)]

    def hessp(self, x, v, idx=None):
        return -np.cos(x[0]) * v


def spd(dim, seed):
    Q = np.random.default_rng(seed).normal(size=(dim, dim + 2))
    return Q @ Q.T


@given(st.integers(1, 8), st.integers(0, 2**31), st.floats(1e-6, 0.5))
def test_conjugate_gradients_stop_at_the_first_residual_below_the_tolerance(dim, seed, tol):
    H, g = spd(dim, seed), np.random.default_rng(seed + 1).normal(size=dim)
    solved = truncated_cg(lambda v: H @ v, g, tol, 10 * dim)
    scale = np.abs(H).max() * np.abs(solved.direction).max() + np.abs(g).max()
    np.testing.assert_allclose(solved.residual, -g - H @ solved.direction, atol=1e-9 * scale)
    assert np.linalg.norm(solved.residual) <= tol * np.linalg.norm(g)
    assert g @ solved.direction < 0
    if solved.iterations > 1:
        before = truncated_cg(lambda v: H @ v, g, tol, solved.iterations - 1)
        assert np.linalg.norm(before.residual) > tol * np.linalg.norm(g)


def test_as_many_products_as_variables_solve_the_system():
    H, g = spd(5, 0), RNG.normal(size=5)
    solved = truncated_cg(lambda v: H @ v, g, 0.0, 5)
    assert solved.iterations == 5
    np.testing.assert_allclose(solved.direction, np.linalg.solve(H, -g), rtol=1e-6)


def test_conjugate_gradients_minimise_over_the_krylov_space():
    H, g = spd(6, 3), RNG.normal(size=6)
    for m in (1, 2, 3):
        basis = np.linalg.qr(np.stack([np.linalg.matrix_power(H, j) @ g for j in range(m)], 1))[0]
        best = -basis @ np.linalg.solve(basis.T @ H @ basis, basis.T @ g)
        np.testing.assert_allclose(truncated_cg(lambda v: H @ v, g, 0.0, m).direction, best)


def test_negative_curvature_returns_what_there_is():
    g = np.array([1.0, 2.0])
    first = truncated_cg(lambda v: -v, g, 0.1, 5)
    assert first.direction.tolist() == [-1.0, -2.0]
    assert first.iterations == 1
    H = np.diag([2.0, -1.0])
    g = np.array([1.0, 0.5])
    later = truncated_cg(lambda v: H @ v, g, 1e-3, 5)
    assert later.iterations == 2
    np.testing.assert_allclose(later.direction, -g * (g @ g) / (g @ H @ g))


@pytest.mark.parametrize("method", [subsampled_newton_cg, gauss_newton])
def test_a_quadratic_takes_one_step(method):
    problem = LeastSquares(A, LABELS, l2=0.1)
    options = {} if method is subsampled_newton_cg else {"damping": 0.0}
    result = method(problem, np.ones(6), cg_tol=0.0, cg_iterations=12, gtol=1e-7, **options)
    assert result.success
    assert result.nit == 1
    np.testing.assert_allclose(result.x, problem.minimiser(START), atol=1e-6)


def test_the_minimiser_is_reached_and_the_cost_counted():
    result = subsampled_newton_cg(LOGISTIC, START, gtol=1e-12, record=True)
    assert result.success, result.message
    np.testing.assert_allclose(result.x, LOGISTIC.minimiser(START), atol=1e-10)
    peer = minimize(
        LOGISTIC.value, START, jac=LOGISTIC.gradient, hessp=LOGISTIC.hessp, method="Newton-CG"
    )
    assert result.fun <= peer.fun + 1e-10
    history = result.history
    assert history["x"].shape == (result.nit + 1, 6)
    products = history["cg_iterations"]
    # one gradient and the products of each step, and the gradient that ended the run
    assert result.n_grad == 40 * (result.nit + 1 + products.sum())
    assert history["n_grad"].tolist() == (40 * np.r_[0, np.cumsum(1 + products)]).tolist()
    assert result.passes == result.n_grad / 40
    assert result.n_value >= 80 * result.nit


def test_samples_of_the_hessian_cost_less_and_still_converge():
    result = subsampled_newton_cg(
        LOGISTIC, START, hessian_batch=20, gtol=1e-9, rng=0, n_steps=200, record=True
    )
    assert result.success
    products = result.history["cg_iterations"].sum()
    assert result.n_grad == 40 * (result.nit + 1) + 20 * products
    again = subsampled_newton_cg(
        LOGISTIC, START, hessian_batch=20, gtol=1e-9, rng=0, n_steps=200, record=True
    )
    np.testing.assert_array_equal(result.history["x"], again.history["x"])


def test_the_direction_is_newtons_on_the_samples():
    seen = []

    class Spy(Logistic):
        def gradient(self, x, idx=None):
            seen.append(("g", idx))
            return super().gradient(x, idx)

        def hessp(self, x, v, idx=None):
            seen.append(("H", idx))
            return super().hessp(x, v, idx)

    problem = Spy(A, LABELS, l2=0.05)
    result = subsampled_newton_cg(
        problem, START, gradient_batch=10, hessian_batch=7, cg_tol=0.0, cg_iterations=6, n_steps=1,
        line_search=False, step=0.5, rng=3,
    )  # fmt: skip
    assert result.success
    S = next(idx for kind, idx in seen if kind == "g")
    S_H = [idx for kind, idx in seen if kind == "H"]
    assert len(S_H) == 6
    assert all(np.array_equal(idx, S_H[0]) for idx in S_H)
    assert (len(set(S.tolist())), len(set(S_H[0].tolist()))) == (10, 7)
    H = np.stack([problem.hessp(START, e, S_H[0]) for e in np.eye(6)], axis=1)
    expected = -0.5 * np.linalg.solve(H, problem.gradient(START, S))
    np.testing.assert_allclose(result.x, expected, rtol=1e-8)
    assert result.n_grad == 10 + 6 * 7


def test_backtracking_follows_armijo():
    """Where cos is concave the direction is the negative gradient."""
    result = subsampled_newton_cg(Wave(), [0.5], n_steps=1, step=64.0, armijo=0.2, record=True)
    length = result.history["step"][0]
    p = np.sin(0.5)

    def enough(a):
        return np.cos(0.5 + a * p) <= np.cos(0.5) - 0.2 * a * p * p

    assert length in [64.0 / 2**j for j in range(10)]
    assert enough(length)
    assert not any(enough(64.0 / 2**j) for j in range(10) if 64.0 / 2**j > length)
    assert subsampled_newton_cg(Wave(), [0.5]).x[0] == pytest.approx(np.pi)


def test_gauss_newton_finds_a_zero_residual_and_adapts_its_damping():
    truth = np.array([0.5, -0.3, 0.2, 0.4, 0.0, -0.6])
    problem = Curve(A, np.tanh(A @ truth))
    result = gauss_newton(problem, START, gtol=1e-12, record=True, cg_iterations=20)
    assert result.success, result.message
    np.testing.assert_allclose(result.x, truth, atol=1e-9)
    damping = result.history["damping"]
    ratios = damping[1:] / damping[:-1]
    assert all(np.isclose(r, 2 / 3) or np.isclose(r, 3 / 2) or r == 1 for r in ratios)
    assert damping[-1] < damping[0]


@pytest.mark.parametrize(
    ("damping", "curvature", "factor"),
    [
        (0.0, 0.5, 1.0), (1e-9, 0.5, 2 / 3), (1e-9, 1.2, 2 / 3), (1e-9, 1.3, 1.0),
        (1e-9, 1.7, 1.0), (1e-9, 1.8, 1.5),
        (1.0, 1.7, 2 / 3), (1.0, 1.8, 1.0), (1.0, 3.2, 1.0), (1.0, 3.3, 1.5),
    ],
)  # fmt: skip
def test_the_ratio_test_has_its_two_thresholds(damping, curvature, factor):
    """f = 1 + h x² / 2 - x with the model's curvature 1.

    Without damping the step is 1, promised 1/2, the fall 1 - h/2: the ratio is 2 - h. With damping
    1 the step is 1/2, promised 3/8 by the model without it, the fall 1/2 - h/8.
    """

    class Off(FiniteSum):
        n, dim = 1, 1

        def component_values(self, x, idx=None):
            return np.array([1 + curvature * x[0] ** 2 / 2 - x[0]])

        def component_gradients(self, x, idx=None):
            return np.array([[curvature * x[0] - 1]])

        def jvp(self, x, v, idx=None):
            return v[None]

        def vjp(self, x, u, idx=None):
            return u[0]

    result = gauss_newton(Off(), [0.0], damping=damping, n_steps=2, gtol=0.0, record=True)
    first, second = result.history["damping"]
    assert second == pytest.approx(factor * first)


def test_damping_shortens_the_first_step():
    problem = LeastSquares(A, LABELS)
    g = problem.gradient(START)
    result = gauss_newton(problem, START, damping=3.0, cg_tol=0.0, cg_iterations=20, n_steps=1)
    expected = np.linalg.solve(A.T @ A / 40 + 3.0 * np.eye(6), -g)
    np.testing.assert_allclose(result.x, expected, rtol=1e-8)


@pytest.mark.parametrize("method", [subsampled_newton_cg, gauss_newton])
def test_an_executor_changes_nothing_but_rounding(method):
    with ThreadPoolExecutor(2) as pool:
        spread = method(LOGISTIC, START, executor=pool, gtol=1e-10, hessian_batch=30, rng=0)
    alone = method(LOGISTIC, START, gtol=1e-10, hessian_batch=30, rng=0)
    np.testing.assert_allclose(spread.x, alone.x, atol=1e-9)
    assert spread.n_grad == alone.n_grad


def test_a_callback_sees_the_points_and_may_stop():
    states = []

    def callback(state):
        states.append(state)
        if state.nit == 2:
            raise StopIteration

    result = subsampled_newton_cg(LOGISTIC, START, callback=callback)
    assert not result.success
    assert [state.nit for state in states] == [1, 2]
    np.testing.assert_array_equal(states[-1].x, result.x)


def test_values_that_are_not_finite_end_the_run():
    class Broken(Logistic):
        def hessp(self, x, v, idx=None):
            return np.full_like(v, np.nan)

    result = subsampled_newton_cg(Broken(A, LABELS), START)
    assert not result.success
    assert "not finite" in result.message
    np.testing.assert_array_equal(result.x, START)


@pytest.mark.parametrize("method", [subsampled_newton_cg, gauss_newton])
@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"gradient_batch": 0}, "gradient_batch"),
        ({"hessian_batch": 41}, "hessian_batch"),
        ({"cg_tol": 1.0}, "cg_tol"),
        ({"cg_iterations": 0}, "cg_iterations"),
        ({"armijo": 0.0}, "armijo"),
        ({"gtol": -1.0}, "gtol"),
        ({"n_steps": -1}, "n_steps"),
        ({"callback": 3}, "callback"),
    ],
)
def test_bad_options_are_refused_by_name(method, options, name):
    with pytest.raises((TypeError, ValueError), match=name):
        method(LOGISTIC, START, **options)


def test_problems_without_curvature_are_refused_by_name():
    problem = AbsoluteRegression(A, LABELS)
    with pytest.raises(TypeError, match="AbsoluteRegression lacks hessp"):
        subsampled_newton_cg(problem, START)
    with pytest.raises(TypeError, match="jvp and vjp"):
        gauss_newton(problem, START)
    with pytest.raises(ValueError, match="x0"):
        subsampled_newton_cg(LOGISTIC, np.zeros(3))
    with pytest.raises(ValueError, match="damping"):
        gauss_newton(LOGISTIC, START, damping=-1.0)
