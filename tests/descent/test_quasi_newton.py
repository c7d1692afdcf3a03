"""Stochastic quasi-Newton: the memory against dense matrices, where pairs come from, L-BFGS."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.descent import (
    AbsoluteRegression,
    LeastSquares,
    Logistic,
    sgd,
    stochastic_quasi_newton,
    two_loop,
)
from thalweg.descent.quasi_newton import hessian_product, powell_damped

RNG = np.random.default_rng(3)
A = RNG.normal(size=(40, 6))
LABELS = np.where(RNG.normal(size=40) > 0, 1.0, -1.0)
QUADRATIC = LeastSquares(A, LABELS, l2=0.1)
START = RNG.normal(size=6)


def some_pairs(dim, count, seed):
    rng = np.random.default_rng(seed)
    Q = rng.normal(size=(dim, dim))
    H = Q @ Q.T + 0.3 * np.eye(dim)
    return [(s, H @ s + 0.05 * s) for s in rng.normal(size=(count, dim))]


def dense_inverse(pairs, dim):
    """The BFGS recursion for the inverse, as a matrix."""
    if not pairs:
        return np.eye(dim)
    s, y = pairs[-1]
    H = (s @ y) / (y @ y) * np.eye(dim)
    for s, y in pairs:
        V = np.eye(dim) - np.outer(y, s) / (s @ y)
        H = V.T @ H @ V + np.outer(s, s) / (s @ y)
    return H


@given(st.integers(1, 7), st.integers(0, 9), st.integers(0, 10**6))
def test_two_loops_equal_the_dense_inverse(dim, count, seed):
    pairs = some_pairs(dim, count, seed)
    g = np.random.default_rng(seed + 1).normal(size=dim)
    H = dense_inverse(pairs, dim)
    np.testing.assert_allclose(two_loop(g, pairs), H @ g, rtol=1e-8, atol=1e-10 * np.abs(H).max())
    np.testing.assert_allclose(
        hessian_product(H @ g, pairs), g, rtol=1e-6, atol=1e-7 * np.abs(g).max()
    )


def test_the_newest_secant_equation_holds():
    pairs = some_pairs(6, 4, 0)
    s, y = pairs[-1]
    np.testing.assert_allclose(two_loop(y, pairs), s, rtol=1e-10)
    np.testing.assert_allclose(hessian_product(s, pairs), y, rtol=1e-10)


@pytest.mark.parametrize("curvature", ["hessian", "gradient", "damped"])
@pytest.mark.parametrize("memory", [2, 30])
def test_with_everything_exact_it_is_lbfgs(curvature, memory):
    result = stochastic_quasi_newton(
        QUADRATIC, START, step=lambda k: 0.1 if k == 1 else 0.8, n_steps=12, batch_size=40,
        hessian_batch=40, memory=memory, update_every=1, curvature=curvature, record=True,
    )  # fmt: skip
    x, pairs, points = START, [], [START]
    for k in range(12):
        g = QUADRATIC.gradient(x)
        ahead = x - (0.1 if k == 0 else 0.8) * dense_inverse(pairs[-memory:], 6) @ g
        pairs.append((ahead - x, QUADRATIC.gradient(ahead) - g))
        x = ahead
        points.append(x)
    np.testing.assert_allclose(result.history["x"], points, atol=1e-8)
    assert len(result.pairs) == min(memory, 12)


def test_hessian_pairs_are_products_at_means_of_blocks():
    seen = []

    class Spy(Logistic):
        def hessp(self, x, v, idx=None):
            seen.append((x, v, idx))
            return super().hessp(x, v, idx)

    problem = Spy(A, LABELS, l2=0.1)
    result = stochastic_quasi_newton(
        problem, START, step=0.05, n_steps=10, batch_size=5, hessian_batch=12, update_every=3,
        rng=0, record=True,
    )  # fmt: skip
    points = result.history["x"]
    means = [START, *(points[1 + 3 * j : 4 + 3 * j].mean(axis=0) for j in range(3))]
    assert len(seen) == len(result.pairs) == 3
    for (x, v, idx), (s, y), before, mean in zip(
        seen, result.pairs, means[:-1], means[1:], strict=True
    ):
        np.testing.assert_allclose(x, mean, rtol=1e-12)
        np.testing.assert_allclose(v, mean - before, rtol=1e-9, atol=1e-14)
        np.testing.assert_array_equal(s, v)
        np.testing.assert_allclose(y, Logistic(A, LABELS, l2=0.1).hessp(x, v, idx))
        assert len(set(idx.tolist())) == 12
    assert result.n_grad == 10 * 5 + 3 * 12
    assert result.history["n_grad"][3] == 3 * 5 + 12


def test_differences_are_taken_on_one_batch():
    seen = []

    class Spy(Logistic):
        def gradient(self, x, idx=None):
            seen.append((x, idx))
            return super().gradient(x, idx)

    result = stochastic_quasi_newton(
        Spy(A, LABELS, l2=0.1), START, step=0.1, n_steps=4, batch_size=5, curvature="gradient",
        rng=0, record=True,
    )  # fmt: skip
    for k in range(4):
        (here, S), (ahead, again) = seen[2 * k], seen[2 * k + 1]
        np.testing.assert_array_equal(S, again)
        np.testing.assert_array_equal(here, result.history["x"][k])
        np.testing.assert_array_equal(ahead, result.history["x"][k + 1])
    assert result.n_grad == 4 * 2 * 5


def test_before_the_first_pair_it_is_sgd():
    options = {"step": 0.1, "n_steps": 9, "batch_size": 4, "rng": 5}
    ours = stochastic_quasi_newton(QUADRATIC, START, hessian_batch=10, update_every=10, **options)
    np.testing.assert_allclose(ours.x, sgd(QUADRATIC, START, **options).x, rtol=1e-11)


def test_pairs_without_curvature_are_not_kept():
    class Saddle(LeastSquares):
        def hessp(self, x, v, idx=None):
            return -v

    result = stochastic_quasi_newton(
        Saddle(A, LABELS), START, step=0.01, n_steps=6, batch_size=40, update_every=2
    )
    assert result.pairs == []
    for slope, kept in ((2e-12, 1), (0.5e-12, 0)):

        class Flat(LeastSquares):
            def hessp(self, x, v, idx=None, slope=slope):
                return slope * v

        result = stochastic_quasi_newton(
            Flat(A, LABELS), START, step=1e-3, n_steps=2, batch_size=40, update_every=2
        )
        assert len(result.pairs) == kept


@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 10**6))
def test_damped_pairs_have_a_fifth_of_the_models_curvature(dim, count, seed):
    pairs = some_pairs(dim, count, seed)
    s, y = np.random.default_rng(seed + 2).normal(size=(2, dim))
    B = np.linalg.inv(dense_inverse(pairs, dim))
    damped = powell_damped(s, y, pairs)
    sBs = s @ B @ s
    if s @ y >= 0.2 * sBs:
        np.testing.assert_array_equal(damped, y)
    else:
        assert s @ damped == pytest.approx(0.2 * sBs, rel=1e-6)
        theta = 0.8 * sBs / (sBs - s @ y)
        np.testing.assert_allclose(
            damped, theta * y + (1 - theta) * B @ s, rtol=1e-5, atol=1e-6 * np.abs(B @ s).max()
        )


def test_a_badly_conditioned_sum_takes_fewer_steps_than_sgd():
    scaled = A * np.geomspace(1, 30, 6)
    problem = LeastSquares(scaled, scaled @ np.ones(6))
    best = problem.value(np.ones(6))
    ours = stochastic_quasi_newton(
        problem, np.zeros(6), step=lambda k: 1e-3 if k <= 3 else 0.5, n_steps=60, batch_size=20,
        hessian_batch=40, update_every=3, rng=0,
    )  # fmt: skip
    plain = sgd(
        problem, np.zeros(6), step=1 / problem.curvature()["L_max"], n_steps=120, batch_size=20,
        rng=0,
    )  # fmt: skip
    assert ours.fun - best < 0.05 * (plain.fun - best)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"curvature": "fisher"}, "curvature"),
        ({"step": -1.0}, "step"),
        ({"batch_size": 41}, "batch_size"),
        ({"hessian_batch": 0}, "hessian_batch"),
        ({"memory": 0}, "memory"),
        ({"update_every": 0}, "update_every"),
        ({"n_steps": 1.5}, "n_steps"),
        ({"step": lambda k: 0.0}, r"step\(1\)"),
    ],
)
def test_bad_options_are_refused_by_name(options, name):
    with pytest.raises((TypeError, ValueError), match=name):
        stochastic_quasi_newton(
            QUADRATIC, START, **{"step": 0.1, "n_steps": 2, "batch_size": 4, **options}
        )


def test_bad_pairs_and_problems_are_refused():
    with pytest.raises(ValueError, match="s·y > 0, got -1"):
        two_loop([1.0, 0.0], [([1.0, 0.0], [-1.0, 0.0])])
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        two_loop([1.0, 0.0], [([1.0], [1.0])])
    with pytest.raises(TypeError, match="hessp"):
        stochastic_quasi_newton(AbsoluteRegression(A, LABELS), START, step=0.1, n_steps=1)
