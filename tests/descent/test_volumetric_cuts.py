"""Vaidya's method: the optimum stays, constraints stay few, the centre is the volumetric one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize

from thalweg.descent import ellipsoid, vaidya
from thalweg.descent.volumetric_cuts import _centre, _side

from ._battery import max_affine


def box(n):
    return [(-5.0, 5.0)] * n


def barrier(x, A, b):
    scaled = A / (A @ x - b)[:, None]
    return 0.5 * np.linalg.slogdet(scaled.T @ scaled)[1]


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("options", [{}, {"epsilon": 0.006, "depth": math.sqrt(0.006) / 5}])
def test_the_optimum_is_never_lost(n, options):
    problem = max_affine(n)
    for queries in (1, 2, 5, 10, 20, 40):
        result = vaidya(problem.fun, jac=problem.jac, bounds=box(n), maxiter=queries, **options)
        assert (result.A @ problem.solution - result.b >= -1e-9).all()
        assert result.n_constraints == len(result.A) == len(result.b)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gap_is_true_and_the_minimum_is_found(seed):
    problem = max_affine(3, seed=seed)
    result = vaidya(problem.fun, jac=problem.jac, bounds=box(3), ftol=1e-7, record=True)
    assert result.success
    error = result.history["fun"] - problem.minimum
    assert error[-1] <= 1e-7
    assert (error <= result.history["gap"] + 1e-9).all()
    assert result.nit == result.nfev == result.njev == len(error) - 1
    assert result.fun == problem.fun(result.x)
    np.testing.assert_array_equal(result.jac, problem.jac(result.x))


@pytest.mark.parametrize("epsilon", [0.05, 0.2])
def test_constraints_stay_few(epsilon):
    n = 4
    problem = max_affine(n)
    result = vaidya(
        problem.fun, jac=problem.jac, bounds=box(n), epsilon=epsilon, ftol=1e-4, record=True
    )
    assert result.history["n_constraints"].max() <= max(n / epsilon, 2 * n)
    assert result.nit > result.n_constraints - 2 * n


def test_needs_at_most_half_the_queries_of_the_ellipsoid_in_six_dimensions():
    n = 6
    problem = max_affine(n)

    def feasible(x):
        worst = np.argmax(np.abs(x))
        return None if abs(x[worst]) <= 5 else np.sign(x[worst]) * np.eye(n)[worst]

    def queries(result):
        return int(np.argmax(result.history["fun"] - problem.minimum <= 1e-4))

    ours = vaidya(problem.fun, jac=problem.jac, bounds=box(n), ftol=1e-4, record=True)
    theirs = ellipsoid(
        problem.fun,
        np.zeros(n),
        jac=problem.jac,
        radius=5 * math.sqrt(n),
        feasible=feasible,
        ftol=1e-4,
        record=True,
    )
    assert 0 < queries(ours) <= 0.5 * queries(theirs)


def test_the_centre_minimises_the_volumetric_barrier():
    rng = np.random.default_rng(0)
    A, n = rng.normal(size=(9, 3)), 3
    A = np.vstack([A, np.eye(n), -np.eye(n)])
    b = np.r_[-rng.uniform(0.2, 1.0, 9), -np.ones(2 * n)]
    x = np.zeros(n)
    centre = _centre(x, A, A @ x - b)
    np.testing.assert_allclose(centre.slacks, A @ centre.x - b, atol=1e-12)
    best = minimize(
        lambda x: barrier(x, A, b) if (A @ x > b).all() else np.inf,
        x,
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 5000},
    )
    np.testing.assert_allclose(centre.x, best.x, atol=1e-5)
    assert centre.barrier == pytest.approx(best.fun, abs=1e-9)
    assert centre.leverages.sum() == pytest.approx(n)
    slope = -(A / centre.slacks[:, None]).T @ centre.leverages
    np.testing.assert_allclose(slope, 0.0, atol=1e-4)
    np.testing.assert_allclose(approx_fprime(centre.x, barrier, 1e-7, A, b), slope, atol=1e-5)


@pytest.mark.parametrize("depth", [0.5, 4.0])
def test_a_cut_is_moved_back_by_the_depth(depth):
    """The second polytope is the box and one cut of which s is known at the first centre."""
    w = np.array([1.0, 2.0])
    result = vaidya(
        lambda x: w @ x, jac=lambda x: w, bounds=[(-1, 1)] * 2, depth=depth, maxiter=2, ftol=0.0
    )
    np.testing.assert_allclose(result.A[4], -w / np.linalg.norm(w))
    # At the centre of the box H = 2 I, so that c·H⁻¹c = 1/2.
    assert -result.b[4] == pytest.approx(math.sqrt(0.5 / depth))


def test_the_first_gap_is_that_of_the_box():
    g = np.array([1.0, -2.0, 0.5])
    result = vaidya(lambda x: g @ x, jac=lambda x: g, bounds=[(-1, 3)] * 3, maxiter=1)
    assert result.gap == pytest.approx(2 * np.abs(g).sum())


def test_the_side_that_is_violated_most_points_inwards():
    lo, hi = np.array([-1.0, 0.0]), np.array([1.0, 4.0])
    assert _side(np.array([0.5, 4.0]), lo, hi) is None
    np.testing.assert_array_equal(_side(np.array([1.5, -2.0]), lo, hi), [0, 1])
    np.testing.assert_array_equal(_side(np.array([1.5, 4.1]), lo, hi), [-1, 0])


def test_points_outside_the_box_are_never_asked_for():
    problem = max_affine(3, half_width=0.5)

    def fun(x):
        assert np.abs(x).max() <= 0.5
        return problem.fun(x)

    result = vaidya(fun, jac=problem.jac, bounds=[(-0.5, 0.5)] * 3, epsilon=0.3, ftol=1e-6)
    assert result.success
    assert result.fun == pytest.approx(problem.minimum, abs=1e-6)


def test_passes_through_scipy_and_differences_the_function():
    problem = max_affine(2)
    through = minimize(
        problem.fun, np.zeros(2), bounds=box(2), method=vaidya, options={"ftol": 1e-5}
    )
    assert through.fun == pytest.approx(problem.minimum, abs=1e-5)


def test_values_that_are_not_finite_end_the_run():
    result = vaidya(lambda x: math.nan, jac=lambda x: x, bounds=box(2))
    assert not result.success
    assert "fun returned nan" in result.message


def test_a_flat_function_ends_at_once():
    result = vaidya(lambda x: 3.0, jac=lambda x: np.zeros(2), bounds=box(2))
    assert result.success
    assert (result.nit, result.gap, result.fun) == (1, 0.0, 3.0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bounds": None}, ValueError, "bounds must be given"),
        ({"epsilon": 0.0}, ValueError, "epsilon must be"),
        ({"epsilon": 0.5}, ValueError, "epsilon must be"),
        ({"depth": 0.0}, ValueError, "depth must be"),
        ({"hess": lambda x: x}, ValueError, "hess must be left out"),
        ({"maxiter": 1.5}, TypeError, "maxiter must be"),
    ],
)
def test_bad_input_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        vaidya(lambda x: 0.0, **{"bounds": box(2)} | options)
