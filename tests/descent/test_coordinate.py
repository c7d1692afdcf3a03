"""Random coordinate descent: frequencies, bounds, closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from thalweg.descent import gradient_descent, random_coordinate_descent, rate

from ._battery import lasso


def least_squares(n=8, skew=1e3, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(20, n)) * np.geomspace(1, np.sqrt(skew), n)
    b = rng.normal(size=20)
    H = A.T @ A
    solution = np.linalg.solve(H, A.T @ b)

    def fun(x):
        return 0.5 * np.sum((A @ x - b) ** 2)

    return fun, lambda x, i: A[:, i] @ (A @ x - b), H, solution


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_mean_gap_stays_below_both_bounds(gamma):
    fun, partial, H, solution = least_squares(skew=30.0)
    L = np.diag(H)
    x0, best, horizon = solution + 1.0, fun(solution), 200
    runs = [
        random_coordinate_descent(
            fun, x0, partial=partial, L=L, gamma=gamma, maxiter=horizon, rng=seed, record=True
        ).history["fun"]
        for seed in range(25)
    ]
    gaps = np.mean(runs, axis=0) - best
    t = np.arange(horizon + 1)
    scale = np.diag(L ** (-(1 - gamma) / 2))
    mu = np.linalg.eigvalsh(scale @ H @ scale)[0]
    strong = rate("random_coordinate_descent-strong", t, L=L, gamma=gamma, mu=mu, gap0=gaps[0])
    assert (gaps <= strong + 1e-9).all()
    # Level sets of this quadratic: ‖x - x*‖² in the norm is at most 2 gap / mu.
    radius = np.sqrt(2 * gaps[0] / mu)
    convex = rate("random_coordinate_descent-convex", t, L=L, gamma=gamma, radius=radius)
    assert (gaps <= convex).all()


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_coordinates_are_drawn_in_proportion(gamma):
    L = np.array([1.0, 2.0, 5.0])
    drawn = []

    def partial(x, i):
        drawn.append(i)
        return 0.0

    random_coordinate_descent(
        lambda x: 0.0, np.zeros(3), partial=partial, L=L, gamma=gamma, maxiter=20_000, rng=0
    )
    share = L**gamma / np.sum(L**gamma)
    errors = np.sqrt(share * (1 - share) / 20_000)
    assert (np.abs(np.bincount(drawn, minlength=3) / 20_000 - share) <= 4 * errors).all()


def test_each_step_moves_one_coordinate_by_its_own_length():
    fun, partial, H, solution = least_squares()
    L = np.diag(H)
    points, drawn = [solution + 1.0], []

    def watched(x, i):
        drawn.append(i)
        return partial(x, i)

    random_coordinate_descent(
        fun, points[0], partial=watched, L=L, maxiter=30, rng=0, callback=points.append
    )
    x = points[0]
    for i, point in zip(drawn, points[1:], strict=True):
        x = x.copy()
        x[i] -= partial(x, i) / L[i]
        np.testing.assert_allclose(point, x, rtol=1e-12)


def test_reaches_the_minimum_of_a_smooth_problem():
    problem = lasso()
    A = problem.more["A"]
    H = A.T @ A / len(A)
    result = random_coordinate_descent(
        problem.fun,
        problem.x0,
        partial=lambda x, i: problem.jac(x)[i],
        L=np.diag(H),
        maxiter=3000,
        rng=0,
    )
    peer = np.linalg.lstsq(A, problem.more["b"])[0]
    np.testing.assert_allclose(result.x, peer, atol=1e-8)
    assert result.njev == result.nit == 3000
    assert result.nfev == 1
    assert result.success
    assert "jac" not in result


def test_skewed_curvature_needs_less_than_half_the_work_of_gradient_descent():
    n = 50
    a = np.r_[np.full(n - 1, 1.0), 1000.0]
    H = np.diag(a) + 0.5 * np.ones((n, n))
    fun = lambda x: 0.5 * x @ H @ x  # noqa: E731
    x0, L = np.random.default_rng(1).normal(size=n), np.diag(H)
    target = 1e-4 * fun(x0)

    def until(xk):
        work.append(1)
        if fun(xk) <= target:
            raise StopIteration

    work = []
    gradient_descent(
        fun, x0, jac=lambda x: H @ x, L=np.linalg.norm(H, 2), callback=until, maxiter=10**5
    )
    full = len(work)
    work = []
    random_coordinate_descent(
        fun, x0, partial=lambda x, i: H[i] @ x, L=L, gamma=1.0, callback=until, rng=0
    )
    assert len(work) / n <= full / 2


def test_one_constant_serves_all_coordinates():
    options = {"partial": lambda x, i: x[i], "rng": 0, "maxiter": 20}
    one = random_coordinate_descent(lambda x: 0.5 * x @ x, np.ones(3), L=2.0, **options)
    each = random_coordinate_descent(lambda x: 0.5 * x @ x, np.ones(3), L=[2.0] * 3, **options)
    np.testing.assert_array_equal(one.x, each.x)


def test_arguments_reach_fun_and_partial():
    result = random_coordinate_descent(
        lambda x, a: 0.5 * a * x @ x,
        [1.0],
        (3.0,),
        partial=lambda x, i, a: a * x[i],
        L=3.0,
        maxiter=2,
    )
    assert result.fun == 0


def test_non_finite_partials_end_the_run():
    result = random_coordinate_descent(
        lambda x: x[0], [1.0], partial=lambda x, i: np.nan, L=1.0, rng=0
    )
    assert not result.success
    assert result.message == "partial returned nan for coordinate 0"
    np.testing.assert_array_equal(result.x, [1.0])


def test_divergence_returns_the_last_finite_point():
    result = random_coordinate_descent(
        lambda x: float(x @ x), [1.0], partial=lambda x, i: 1e200 * x[i], L=1.0, rng=0
    )
    assert not result.success
    assert np.isfinite(result.x).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"L": 0.0}, ValueError, "L must be > 0"),
        ({"L": [1.0, 2.0]}, ValueError, "L must have shape"),
        ({"L": np.nan}, ValueError, "L must be finite"),
        ({"gamma": np.inf}, ValueError, "gamma must be"),
        ({"maxiter": -1}, ValueError, "maxiter must be"),
        ({"partial": None}, TypeError, "partial must be callable"),
        ({"x0": [[1.0]]}, ValueError, "x0 must have 1 axes"),
    ],
)
def test_malformed_arguments_are_refused(options, error, message):
    options = {"x0": [1.0], "L": 1.0, "partial": lambda x, i: x[i], **options}
    with pytest.raises(error, match=message):
        random_coordinate_descent(lambda x: 0.0, options.pop("x0"), **options)
