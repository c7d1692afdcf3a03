"""Natural gradients and diagonal scalings against their formulas."""

import numpy as np
import pytest

from thalweg.descent import (
    AbsoluteRegression,
    LeastSquares,
    Logistic,
    diagonal_scaling,
    natural_gradient,
    sgd,
)
from thalweg.descent.scaled_gradients import solve_outer

RNG = np.random.default_rng(2)
A = RNG.normal(size=(30, 5))
LABELS = np.where(RNG.normal(size=30) > 0, 1.0, -1.0)
PROBLEM = Logistic(A, LABELS, l2=0.1)
START = RNG.normal(size=5)


@pytest.mark.parametrize("fisher", ["exact", "empirical"])
def test_a_natural_step_solves_with_the_fisher_information(fisher):
    g = PROBLEM.gradient(START)
    if fisher == "exact":
        F = np.stack([PROBLEM.hessp(START, e) for e in np.eye(5)]) - 0.1 * np.eye(5)
    else:
        plain = Logistic(A, LABELS).component_gradients(START)
        F = plain.T @ plain / 30
    result = natural_gradient(
        PROBLEM, START, fisher=fisher, damping=0.02, step=0.5, n_steps=1, batch_size=30,
        cg_tol=0.0,
    )  # fmt: skip
    expected = START - 0.5 * np.linalg.solve(F + 0.02 * np.eye(5), g)
    np.testing.assert_allclose(result.x, expected, rtol=1e-9)


def test_natural_steps_do_not_depend_on_the_parametrisation():
    """With x = T z both problems walk together, as the damping vanishes."""
    T = np.eye(5) + 0.3 * RNG.normal(size=(5, 5))
    options = {"damping": 1e-10, "step": 0.3, "n_steps": 6, "batch_size": 30, "cg_tol": 0.0}
    x = natural_gradient(Logistic(A, LABELS), START, **options).x
    z = natural_gradient(Logistic(A @ T, LABELS), np.linalg.solve(T, START), **options).x
    np.testing.assert_allclose(T @ z, x, rtol=1e-5)


def test_outer_products_are_inverted_exactly():
    G, g = RNG.normal(size=(4, 9)), RNG.normal(size=9)
    expected = np.linalg.solve(G.T @ G / 4 + 0.3 * np.eye(9), g)
    np.testing.assert_allclose(solve_outer(G, g, 0.3), expected, rtol=1e-10)


@pytest.mark.parametrize("rule", ["rmsprop", "adagrad", "hessian"])
def test_three_steps_equal_the_formulas_on_the_batches_of_sgd(rule):
    seen = []

    class Spy(Logistic):
        def gradient(self, x, idx=None):
            seen.append(idx)
            return super().gradient(x, idx)

    result = diagonal_scaling(
        Spy(A, LABELS, l2=0.1), START, rule=rule, step=lambda k: 0.1 / k, n_steps=3, batch_size=4,
        decay=0.8, offset=0.01, floor=0.15, rng=5, record=True,
    )  # fmt: skip
    x, R = START, np.zeros(5)
    for k, idx in enumerate(seen, start=1):
        g = PROBLEM.gradient(x, idx)
        if rule == "hessian":
            d = np.diag([PROBLEM.hessp(x, e, idx) @ e for e in np.eye(5)]).diagonal()
            R = d if k == 1 else 0.8 * R + 0.2 * d
            x = x - 0.1 / k * g / np.maximum(R, 0.15)
        else:
            R = R + g * g if rule == "adagrad" else 0.8 * R + 0.2 * g * g
            x = x - 0.1 / k * g / (np.sqrt(R) + 0.01)
        np.testing.assert_allclose(result.history["x"][k], x, rtol=1e-10)
    assert result.n_grad == 3 * 4 * (2 if rule == "hessian" else 1)
    assert len(seen) == 3


def test_the_same_seed_draws_the_batches_of_sgd():
    """With a scale that never changes from 1 the run is sgd's."""
    big = diagonal_scaling(
        PROBLEM, START, rule="hessian", floor=1e3, step=100.0, n_steps=20, batch_size=3, rng=7
    )
    plain = sgd(PROBLEM, START, step=0.1, n_steps=20, batch_size=3, rng=7)
    np.testing.assert_allclose(big.x, plain.x, rtol=1e-10)


def test_badly_scaled_variables_are_brought_to_one_scale():
    scales = np.array([1.0, 10.0, 100.0, 1.0, 0.1])
    problem = LeastSquares(A * scales, A @ np.ones(5))
    best = problem.value(1 / scales)
    options = {"n_steps": 60, "batch_size": 30}
    scaled = diagonal_scaling(problem, np.zeros(5), rule="hessian", step=0.5, **options)
    plain = sgd(problem, np.zeros(5), step=1 / problem.curvature()["L"], **options)
    assert scaled.fun - best < 1e-2 * (plain.fun - best)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"fisher": "other"}, "fisher"),
        ({"damping": 0.0}, "damping"),
        ({"step": 0.0}, "step"),
        ({"batch_size": 31}, "batch_size"),
        ({"n_steps": -1}, "n_steps"),
        ({"cg_tol": -0.1}, "cg_tol"),
    ],
)
def test_bad_options_of_natural_gradients_are_refused(options, name):
    with pytest.raises((TypeError, ValueError), match=name):
        natural_gradient(PROBLEM, START, **{"step": 0.1, "n_steps": 1, "batch_size": 5, **options})


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"rule": "adam"}, "rule"),
        ({"decay": 1.0}, "decay"),
        ({"offset": 0.0}, "offset"),
        ({"floor": 0.0}, "floor"),
        ({"step": [0.1, -0.1, 0.1]}, "step"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_options_of_diagonal_scalings_are_refused(options, name):
    with pytest.raises((TypeError, ValueError), match=name):
        diagonal_scaling(
            PROBLEM, START, **{"rule": "rmsprop", "step": 0.1, "n_steps": 3, **options}
        )


def test_problems_without_curvature_are_refused():
    problem = AbsoluteRegression(A, LABELS)
    with pytest.raises(TypeError, match="smooth linear model"):
        natural_gradient(problem, START, step=0.1, n_steps=1, batch_size=3)
    with pytest.raises(TypeError, match="gauss_newton_diagonal"):
        diagonal_scaling(problem, START, rule="hessian", step=0.1, n_steps=1)


def test_a_step_that_is_too_long_is_told():
    result = diagonal_scaling(
        LeastSquares(A, LABELS), START, rule="hessian", step=1e200, n_steps=50, batch_size=30
    )
    assert not result.success
    assert np.isfinite(result.x).all()
