from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from thalweg.descent import (
    AbsoluteRegression,
    Constants,
    LeastSquares,
    Logistic,
    check,
    check_inequality,
    constants,
    sgd,
    theorems,
)
from thalweg.studies.descent._convergence_cases import (
    WavyParabola,
    all_cases,
    halved,
    tight_instances,
)
from thalweg.studies.descent.convergence_handbook import certificate

STEPS = 400
CASES = {case.theorem: case for case in all_cases(STEPS, np.random.default_rng(5))}
QUADRATIC = Constants(L=1.0, mu=0.5, dist0_sq=4.0)


def test_every_theorem_has_a_case():
    assert set(CASES) == set(theorems())


@pytest.mark.parametrize("theorem", sorted(theorems()))
def test_a_run_holds_and_a_wrong_step_is_refused(theorem):
    case = CASES[theorem]
    found = certificate(case, STEPS, 12, np.random.default_rng(0))
    assert found.holds, found.failures
    assert found.worst_ratio <= 1
    wrong = certificate(case, STEPS, 4, np.random.default_rng(0), wrong=True)
    assert not wrong.holds
    assert wrong.worst_ratio > 1
    assert any("exceeds the bound" in text for text in wrong.failures)


@pytest.mark.parametrize("theorem", sorted(theorems()))
def test_a_certificate_sees_measurements_that_are_too_large(theorem):
    """Scaled so that the least room under the bound is used up, and a little more."""
    case = CASES[theorem]
    values = case.measure(case.run(np.random.default_rng(1), STEPS, False))
    options = {
        "step": case.step, "constants": case.constants, "batch_size": case.batch_size,
    }  # fmt: skip
    found = check(theorem, values + 1e-3, **options)
    room = np.min(found.bound / found.mean)
    assert check(theorem, 0.999 * room * (values + 1e-3), **options).holds
    assert not check(theorem, 1.001 * room * (values + 1e-3), **options).holds


def test_a_tenfold_measurement_is_refused():
    measured = 4.0 * 0.75 ** (2 * np.arange(30))
    assert check("gd-strong", measured, step=0.5, constants=QUADRATIC).holds
    tampered = check("gd-strong", 10 * measured, step=0.5, constants=QUADRATIC)
    assert not tampered.holds
    assert (tampered.worst_ratio, tampered.worst_t) == (pytest.approx(10.0), 0)
    assert tampered.failures == ("measured exceeds the bound from t = 0: 40 > 4",)


def test_a_step_above_the_limit_is_reported_with_the_divergence():
    problem = LeastSquares(np.diag([1.0, 2.0]), [0.0, 0.0])
    c = constants(problem, [1.0, 1.0])
    points = sgd(
        problem, [1.0, 1.0], step=2.5 / c.L, n_steps=40, batch_size=2, record=True
    ).history["x"]
    found = check("gd-strong", np.sum(points**2, axis=1), step=2.5 / c.L, constants=c)
    assert [text.split()[0:2] for text in found.failures] == [
        ["step", "must"], ["measured", "exceeds"], ["measured", "diverges:"],
    ]  # fmt: skip
    still = check("gd-strong", np.zeros(5), step=2.5 / c.L, constants=c)
    assert still.failures == (f"step must be <= {1 / c.L:g} for gd-strong, got {2.5 / c.L:g}",)


@pytest.mark.parametrize(
    ("theorem", "c", "step", "measured", "at"), list(tight_instances()), ids=lambda v: str(v)[:14]
)
def test_half_of_a_bound_is_refused_where_it_is_attained(theorem, c, step, measured, at):
    full = check(theorem, measured, step=step, constants=c)
    assert full.holds
    assert full.mean[at] == pytest.approx(full.bound[at], rel=1e-9)
    half = check(theorem, measured, step=step, constants=halved(c))
    np.testing.assert_allclose(half.bound[1:], full.bound[1:] / 2, rtol=1e-12)
    assert not half.holds


def test_standard_errors_are_granted_and_no_more():
    rng = np.random.default_rng(0)
    values = np.abs(4.0 + rng.normal(size=(25, 1)) * np.ones(3))
    c = replace(QUADRATIC, dist0_sq=1.0)
    mean, error = values.mean(), values[:, 0].std(ddof=1) / 5
    barely = replace(c, dist0_sq=(mean - 3 * error) * (1 + 1e-8))
    under = replace(c, dist0_sq=(mean - 3 * error) * (1 - 1e-8))
    at_start = {"step": 0.5, "times": [0]}
    assert check("gd-strong", values[:, :1], constants=barely, **at_start).holds
    assert not check("gd-strong", values[:, :1], constants=under, **at_start).holds
    assert not check("gd-strong", values[:, :1], constants=barely, z=2.0, **at_start).holds
    exact = check("gd-strong", values.mean(axis=0)[:1], constants=barely, **at_start)
    assert not exact.holds


def test_tails_so_heavy_that_the_standard_error_is_the_mean_do_not_hide_divergence():
    growth = np.exp(np.random.default_rng(0).normal(30, 20, size=(20, 1)))
    values = np.concatenate([np.ones((20, 1)), growth], axis=1)
    error = values[:, 1].std(ddof=1) / 20**0.5
    assert values[:, 1].mean() - 3 * error < 0
    found = check("gd-strong", values, step=0.5, constants=QUADRATIC)
    assert not found.holds
    # Two outliers among twenty are no evidence of it.
    values = np.ones((20, 2))
    values[:2, 1] = 1e9
    assert check("gd-strong", values, step=0.5, constants=QUADRATIC).holds


def test_the_least_gradient_is_that_of_the_points_before():
    c = Constants(L=1.0, gap0=1.0)
    found = check("gd-nonconvex", [5.0, 0.8, 0.9, 0.1], step=1.0, constants=c)
    assert found.mean.tolist() == [5.0, 5.0, 0.8, 0.8]
    assert found.bound.tolist() == [np.inf, 2.0, 1.0, 2 / 3]
    assert found.failures == ("measured exceeds the bound from t = 1: 5 > 2",)
    sparse = check("gd-nonconvex", [5.0, 0.8, 0.9, 0.1], step=1.0, constants=c, times=[0, 5, 6, 8])
    assert sparse.mean.tolist() == [5.0, 5.0, 0.8, 0.8]
    assert sparse.bound.tolist() == [np.inf, 0.4, 1 / 3, 0.25]


def test_rounding_at_the_end_of_a_run_is_granted_where_it_is_asked_for():
    measured = np.array([4.0, 1e-30])
    c = replace(QUADRATIC, mu=1.0)
    assert not check("gd-strong", measured, step=1.0, constants=c).holds
    assert check("gd-strong", measured, step=1.0, constants=c, atol=1e-29).holds


def test_what_is_not_finite_is_a_failure():
    found = check("gd-strong", [4.0, np.nan, np.inf], step=0.5, constants=QUADRATIC)
    assert found.failures[0] == "measured is not finite from t = 1"
    assert found.worst_ratio == np.inf
    assert not check("gd-convex", [np.nan], step=0.5, constants=QUADRATIC).holds


def test_interpolation_is_checked():
    c = Constants(L_max=2.0, mu=1.0, dist0_sq=1.0, sigma_star_sq=0.1)
    assert check("sps-strong", [1.0, 0.1], constants=c).failures[0].startswith("sigma_star_sq must")
    assert check("sps-strong", [1.0, 0.1], constants=replace(c, sigma_star_sq=0.0)).holds


def problem_and_points(kind, l2=0.3):
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(15, 3)), rng.normal(size=15)
    problem = kind(A, np.sign(b) if kind is Logistic else b, l2=l2)
    return problem, 2 * rng.normal(size=(30, 3)), constants(problem, np.ones(3))


NAMES = {
    "smooth": "L", "descent-lemma": "L", "convex": None, "strong-convex": "mu", "pl": "pl",
    "cocoercive": "L", "variance-transfer": "L_max", "expected-smoothness": "L_max",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_inequalities_hold_with_the_exact_constants_and_fail_with_wrong_ones(name):
    problem, points, c = problem_and_points(LeastSquares)
    points = np.concatenate([points, 1e4 * np.eye(3)])
    # Where the constants are attained: along eigenvectors, and along the longest row.
    vectors = np.linalg.eigh(problem.rows.T @ problem.rows).eigenvectors
    longest = problem.rows[np.argmax(np.sum(problem.rows**2, axis=1))]
    star = problem.minimiser(np.zeros(3))
    points = np.concatenate([points, star + 10 * vectors.T, [star + 10 * longest]])
    assert check_inequality(name, problem, points, c) >= -1e-12
    smooth, smooth_points, d = problem_and_points(Logistic)
    assert check_inequality(name, smooth, smooth_points, d) >= -1e-12
    constant = NAMES[name]
    if constant in ("L", "mu", "pl"):
        factor = 0.9 if constant == "L" else 1.1
        wrong = replace(c, **{constant: factor * getattr(c, constant)})
        assert check_inequality(name, problem, points, wrong) < -1e-6
    elif constant == "L_max":
        assert check_inequality(name, problem, points, replace(c, L_max=c.L_max / 8)) < -1e-3


def test_a_concave_stretch_is_seen():
    wavy, points = WavyParabola(), np.linspace(-4, 4, 41)[:, None]
    c = constants(wavy, [1.0])
    assert check_inequality("convex", wavy, points, c) < -0.01
    assert check_inequality("pl", wavy, np.linspace(-9, 9, 3001)[:, None], c) >= -1e-12
    tight = replace(c, pl=1.01 * c.pl)
    assert check_inequality("pl", wavy, np.linspace(-9, 9, 3001)[:, None], tight) < 0
    assert check_inequality("smooth", wavy, points, c) >= 0


def test_the_noise_at_the_minimiser_is_part_of_variance_transfer():
    problem, _, c = problem_and_points(LeastSquares)
    star = problem.minimiser(np.zeros(3))[None]
    noise, level = c.sigma_star_sq, 4 * c.L_max * c.f_star
    slack = (2 * noise - noise) / (2 * level + 3 * noise)
    assert check_inequality("variance-transfer", problem, star, c) == pytest.approx(slack)
    quiet = replace(c, sigma_star_sq=0.0)
    assert check_inequality("variance-transfer", problem, star, quiet) < 0


LS, POINTS, LSC = problem_and_points(LeastSquares)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check("gd", [1.0], constants=QUADRATIC), KeyError, "must be one of gd-convex"),
        (lambda: check("gd-strong", 1.0, constants=QUADRATIC), ValueError, "measured must have"),
        (lambda: check("gd-strong", [[1.0]], constants=QUADRATIC), ValueError, "2 replicates"),
        (lambda: check("gd-strong", [1.0], constants=Constants(L=1.0)), ValueError, "have mu"),
        (lambda: check("gd-strong", [1.0], constants=QUADRATIC, z=-1), ValueError, "z must be"),
        (lambda: check("gd-strong", [1.0], constants=QUADRATIC, atol=-1), ValueError, "atol must"),
        (lambda: check("gd-strong", [1.0], constants=QUADRATIC, times=[0, 1]), ValueError, "times"),
        (lambda: check("gd-strong", [1.0, 2.0], constants=QUADRATIC, times=[1, 1]), ValueError,
         "times must be >= 0 and increase"),
        (lambda: check("gd-strong", [1.0], step=[0.1, 0.2], constants=QUADRATIC, batch_size=1),
         ValueError, "batch_size must be None"),
        (lambda: check_inequality("lipschitz", LS, POINTS, LSC), KeyError, "one of smooth"),
        (lambda: check_inequality("smooth", LS, POINTS[:1], LSC), ValueError, "2 or more"),
        (lambda: check_inequality("smooth", LS, POINTS[:, :2], LSC), ValueError, "points must"),
        (lambda: check_inequality("smooth", LS, POINTS, Constants()), ValueError, "have L for"),
        (lambda: check_inequality("pl", LS, POINTS, Constants(pl=1.0)), ValueError, "have f_star"),
        (lambda: check_inequality("smooth", AbsoluteRegression([[1.0]], [0.0]), [[0.0], [1.0]],
                                  constants(AbsoluteRegression([[1.0]], [0.0]), [0.0])),
         ValueError, "have L for smooth"),
    ],
)  # fmt: skip
def test_malformed_arguments_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
