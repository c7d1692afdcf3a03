from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, minimize

from thalweg.descent import (
    AbsoluteRegression,
    Constants,
    FiniteSum,
    LeastSquares,
    Logistic,
    constants,
)

KINDS = (LeastSquares, Logistic, AbsoluteRegression)


def make(kind, l2=0.0, n=12, dim=3, seed=0):
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(n, dim)), rng.normal(size=n)
    return kind(A, np.sign(b) if kind is Logistic else b, l2=l2)


def literal(problem, i, x):
    """The component as its class's docstring defines it."""
    margin, target = float(problem.rows[i] @ x), problem.targets[i]
    loss = {
        LeastSquares: lambda: (margin - target) ** 2 / 2,
        Logistic: lambda: np.log1p(np.exp(-target * margin)),
        AbsoluteRegression: lambda: abs(margin - target),
    }[type(problem)]()
    return loss + problem.l2 * float(x @ x) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_the_definition(kind):
    problem, x = make(kind, l2=0.3), np.array([0.4, -1.0, 0.7])
    for i in range(problem.n):
        assert problem.component_values(x, i)[0] == pytest.approx(literal(problem, i, x), rel=1e-13)
        slope = approx_fprime(x, lambda z, i=i: literal(problem, i, z), 1e-7)
        np.testing.assert_allclose(problem.component_gradients(x, i)[0], slope, atol=3e-6)
    picked = [1, 1, 5]
    assert problem.value(x, picked) == pytest.approx(
        np.mean([literal(problem, i, x) for i in picked])
    )
    np.testing.assert_allclose(
        problem.gradient(x, picked), problem.component_gradients(x)[picked].mean(axis=0)
    )
    np.testing.assert_allclose(problem.gradient(x), problem.component_gradients(x).mean(axis=0))
    np.testing.assert_allclose(
        problem.component_gradients(x, picked) - problem.l2 * x,
        problem.scalar_gradient(x, picked)[:, None] * problem.rows[picked],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_stacked_points_give_what_single_points_give(kind):
    problem, x = make(kind, l2=0.3), np.random.default_rng(1).normal(size=(2, 5, 3))
    assert problem.value(x).shape == (2, 5)
    assert problem.component_gradients(x, [0, 4]).shape == (2, 5, 2, 3)
    assert problem.value(x)[1, 3] == pytest.approx(problem.value(x[1, 3]), rel=1e-14)
    np.testing.assert_allclose(problem.gradient(x)[1, 3], problem.gradient(x[1, 3]), rtol=1e-13)


@pytest.mark.parametrize("kind", [LeastSquares, Logistic])
def test_hessian_products_are_differences_of_gradients(kind):
    problem, x, v = make(kind, l2=0.3), np.array([0.4, -1.0, 0.7]), np.array([1.0, 2.0, -1.0])
    for idx in (None, [2, 7]):
        h = 1e-5
        change = (problem.gradient(x + h * v, idx) - problem.gradient(x - h * v, idx)) / (2 * h)
        np.testing.assert_allclose(problem.hessp(x, v, idx), change, rtol=1e-7, atol=1e-9)


@settings(max_examples=150, deadline=None)
@example(Logistic, 0.0, 6.0, 172)
@given(
    st.sampled_from(KINDS),
    st.sampled_from([0.0, 0.7]),
    st.floats(1e-3, 1e3),
    st.integers(0, 10**6),
)
def test_a_proximal_point_satisfies_its_optimality_condition(kind, l2, gamma, seed):
    problem = make(kind, l2=l2, n=2, seed=seed)
    x = 3 * np.random.default_rng(seed + 1).normal(size=3)
    z = problem.component_prox(1, x, gamma)
    away = (x - z) / gamma - l2 * z  # must be a slope of the loss at z, times the row
    a, b = problem.rows[1], problem.targets[1]
    slope = float(away @ a) / float(a @ a)
    scale = np.abs(x).max() / gamma + 1
    np.testing.assert_allclose(away, slope * a, atol=1e-11 * scale)
    if kind is AbsoluteRegression:
        residual = float(a @ z) - b
        assert abs(slope) <= 1 + 1e-9 * scale
        if abs(residual) > 1e-9 * (1 + abs(b)):
            assert slope == pytest.approx(np.sign(residual), abs=1e-9 * scale)
    else:
        assert slope == pytest.approx(problem.scalar_gradient(z, 1)[0], abs=1e-10 * scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("l2", [0.0, 0.5])
def test_proximal_points_agree_with_scipy(kind, l2):
    problem, x, gamma = make(kind, l2=l2), np.array([0.4, -2.0, 0.7]), 0.8

    def objective(z, i):
        return literal(problem, i, z) + np.sum((z - x) ** 2) / (2 * gamma)

    for i in range(3):
        ours = problem.component_prox(i, x, gamma)
        found = minimize(objective, x, args=(i,), method="Nelder-Mead", options={"xatol": 1e-9,
                         "fatol": 1e-13, "maxiter": 4000})  # fmt: skip
        np.testing.assert_allclose(ours, found.x, atol=1e-5)
        assert objective(ours, i) <= found.fun + 1e-12


def test_smoothness_and_strong_convexity_are_eigenvalues_and_row_norms():
    problem = make(LeastSquares, l2=0.2)
    hessian = problem.rows.T @ problem.rows / problem.n + 0.2 * np.eye(3)
    eigenvalues = np.linalg.eigvalsh(hessian)
    largest = max(np.linalg.eigvalsh(np.outer(a, a)).max() for a in problem.rows) + 0.2
    c = constants(problem, np.ones(3))
    assert (c.L, c.mu, c.pl) == pytest.approx((eigenvalues[-1], eigenvalues[0], eigenvalues[0]))
    assert (c.L_max, c.mu_min, c.n) == (pytest.approx(largest), 0.2, 12)
    logistic = constants(make(Logistic, l2=0.2), np.ones(3))
    rows = make(Logistic).rows
    assert pytest.approx(np.linalg.eigvalsh(rows.T @ rows / 48).max() + 0.2) == logistic.L
    assert logistic.L_max == pytest.approx(np.sum(rows**2, axis=1).max() / 4 + 0.2)
    assert (logistic.mu, logistic.mu_min, logistic.pl) == (0.2, 0.2, 0.2)
    single = LeastSquares([[2.0], [3.0]], [0.0, 1.0], l2=0.1)
    assert constants(single, [0.0]).mu_min == pytest.approx(4.1)


def test_a_singular_least_squares_keeps_its_polyak_lojasiewicz_constant():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(12, 3))
    A[:, 2] = A[:, 0]
    problem, x0 = LeastSquares(A, rng.normal(size=12)), np.array([1.0, 2.0, -5.0])
    c = constants(problem, x0)
    assert c.mu == 0
    assert c.pl == pytest.approx(np.linalg.eigvalsh(A.T @ A / 12)[1])
    # The nearest minimiser: moving along the null space only lengthens the way.
    star = problem.minimiser(x0)
    assert (star - x0) @ np.array([1.0, 0.0, -1.0]) == pytest.approx(0, abs=1e-12)
    wide = LeastSquares(rng.normal(size=(2, 3)), rng.normal(size=2))
    assert constants(wide, x0).mu == 0
    assert constants(wide, x0).pl > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("l2", [0.0, 0.4])
def test_the_minimiser_and_what_depends_on_it(kind, l2):
    problem, x0 = make(kind, l2=l2), np.array([2.0, 0.0, -1.0])
    star = problem.minimiser(x0)
    rng = np.random.default_rng(3)
    for size in (1e-1, 1e-4):
        for _ in range(50):
            step = size * rng.normal(size=3)
            assert problem.value(star + step) >= problem.value(star) - 1e-15
    if kind is not AbsoluteRegression:
        assert np.abs(problem.gradient(star)).max() < 1e-12
    c = constants(problem, x0)
    assert c.gap0 == pytest.approx(problem.value(x0) - problem.value(star), rel=1e-12)
    assert c.dist0_sq == pytest.approx(np.sum((x0 - star) ** 2), rel=1e-12)
    assert c.f_star == pytest.approx(problem.value(star), rel=1e-14)
    infima = [
        min(
            minimize(lambda z, i=i: literal(problem, i, z), start, method="Nelder-Mead",
                     options={"xatol": 1e-8, "fatol": 1e-12, "maxiter": 4000}).fun
            for start in (np.zeros(3), problem.rows[i])
        )
        for i in range(4)
    ]  # fmt: skip
    np.testing.assert_allclose(problem.component_infima()[:4], infima, atol=2e-5)
    assert c.delta_star == pytest.approx(c.f_star - problem.component_infima().mean())
    if kind is AbsoluteRegression:
        assert c.sigma_star_sq is None
        assert c.L is None
    else:
        gradients = problem.component_gradients(star)
        assert c.sigma_star_sq == pytest.approx(np.mean(np.sum(gradients**2, axis=1)), rel=1e-9)


def test_infima_short_of_a_kink_and_of_rows_that_are_zero():
    rows = [[0.5, 0.0], [1.0, 1.0], [0.0, 0.0]]
    # |a·x - 3| + ‖x‖²/2 with ‖a‖² = 1/4 stops at x = a, short of the kink.
    infima = AbsoluteRegression(rows, [3.0, -2.0, 4.0], l2=1.0).component_infima()
    np.testing.assert_allclose(infima, [3 - 0.25 / 2, 1.0, 4.0])
    assert AbsoluteRegression(rows, [3.0, -2.0, 4.0]).component_infima().tolist() == [0, 0, 4]
    assert LeastSquares(rows, [3.0, -2.0, 4.0]).component_infima().tolist() == [0, 0, 8]
    assert Logistic(rows, [1, -1, 1]).component_infima().tolist() == [0, 0, np.log(2)]
    ridge = LeastSquares(rows, [3.0, -2.0, 4.0], l2=1.0).component_infima()
    np.testing.assert_allclose(ridge, [4.5 / 1.25, 2 / 3, 8.0])


def test_separable_labels_have_no_minimiser():
    problem = Logistic([[1.0], [2.0], [-1.0]], [1, 1, -1])
    assert problem.minimiser(np.zeros(1)) is None
    c = constants(problem, [0.0])
    assert c.gap0 is None
    assert pytest.approx(0.5) == c.L


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_stay_below_their_bound_inside_the_radius(kind):
    problem, radius = make(kind, l2=0.4), 2.0
    c = constants(problem, np.zeros(3), radius=radius)
    assert c.diameter == 4.0
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(500, 3))
    points = radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    squares = np.sum(problem.component_gradients(points) ** 2, axis=2).mean(axis=1)
    assert squares.max() <= c.G**2
    assert squares.max() >= 0.2 * c.G**2
    assert constants(problem, np.zeros(3)).G is None
    plain = make(AbsoluteRegression)
    squares = np.sum(plain.component_gradients(points) ** 2, axis=2).mean(axis=1)
    assert pytest.approx(np.sqrt(squares[0]), rel=1e-12) == constants(plain, np.zeros(3)).G


def test_composite_constants_are_about_the_sum_and_the_variance():
    problem, star = make(LeastSquares), np.array([0.0, 0.9, 0.0])

    def g(x):
        return float(np.abs(x).sum())

    c = constants(problem, 3 * np.ones(3), star, regulariser=g)
    gap = problem.value(3 * np.ones(3)) + 9 - problem.value(star) - 0.9
    assert c.gap0 == pytest.approx(gap)
    each = problem.component_gradients(star)
    variance = np.mean(np.sum((each - each.mean(axis=0)) ** 2, axis=1))
    assert c.sigma_star_sq == pytest.approx(variance)
    assert variance < 0.99 * np.mean(np.sum(each**2, axis=1))
    assert c.delta_star is None


def test_a_problem_of_ones_own_needs_only_components():
    class Shifted(FiniteSum):
        n, dim = 3, 1

        def component_values(self, x, idx=None):
            return (x - np.arange(3.0)[self.indices(idx)]) ** 2 / 2

        def component_gradients(self, x, idx=None):
            return (x - np.arange(3.0)[self.indices(idx)])[:, None]

    problem = Shifted()
    assert problem.value(np.array([1.0]), [0, 2]) == 0.5
    c = constants(problem, [3.0], [1.0])
    assert (c.n, c.dist0_sq, c.gap0) == (3, 4.0, 2.0)
    assert c.L is None
    assert constants(problem, [3.0]) == Constants(n=3)
    with pytest.raises(TypeError, match="must have component_prox, Shifted has none"):
        problem.component_prox(0, np.ones(1), 1.0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LeastSquares([1.0], [1.0]), ValueError, "A must have 2 axes"),
        (lambda: LeastSquares([[1.0]], [1.0, 2.0]), ValueError, r"b must have shape \(1\)"),
        (lambda: LeastSquares(np.empty((0, 2)), []), ValueError, "A must not be empty"),
        (lambda: LeastSquares([[np.nan]], [1.0]), ValueError, "A must be finite"),
        (lambda: LeastSquares([[1.0]], [1.0], l2=-1), ValueError, "l2 must be .* >= 0"),
        (lambda: Logistic([[1.0]], [0.0]), ValueError, r"y must hold labels \+1 and -1, got 0"),
        (lambda: make(LeastSquares).value(np.ones(2)), ValueError, r"x must have shape \(..., 3\)"),
        (lambda: make(LeastSquares).component_prox(12, np.ones(3), 1.0), ValueError, "i must be"),
        (lambda: make(LeastSquares).component_prox(0, np.ones(3), 0.0), ValueError, "gamma must"),
        (lambda: constants(make(LeastSquares), [1.0]), ValueError, r"x0 must have shape \(3\)"),
        (lambda: constants(make(LeastSquares), np.zeros(3), 9 * np.ones(3)), ValueError,
         "x_star must be a minimiser"),
        (lambda: constants(make(LeastSquares), np.zeros(3), radius=1e-3), ValueError,
         "x_star must lie in the ball"),
        (lambda: constants(make(LeastSquares), np.zeros(3), regulariser=np.sum), ValueError,
         "x_star must be given"),
        (lambda: Constants(L=-1.0), ValueError, "L must be .* >= 0, got -1.0"),
        (lambda: Constants(mu="1"), TypeError, "mu must be"),
        (lambda: Constants(n=0), ValueError, "n must be an integer >= 1"),
    ],
)  # fmt: skip
def test_malformed_problems_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
