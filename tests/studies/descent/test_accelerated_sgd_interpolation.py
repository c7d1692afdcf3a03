"""The study of acceleration under interpolation: its quick run, its helpers, and a user's file."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from thalweg.descent import armijo_primal_update
from thalweg.descent.strong_growth import state_maps
from thalweg.studies.descent import _accelerated_sgd_cases as cases
from thalweg.studies.descent import accelerated_sgd_interpolation as study
from thalweg.study import run_study
from thalweg.study.on_file import run_on_file

SLUG = "accelerated-sgd-interpolation"


def test_quick_run_keeps_every_claim():
    outcome = run_study(SLUG)
    assert outcome.record.state == "holds", outcome.record.traceback
    results = outcome.record.results
    assert results["designs"] == 300
    assert results["hard_designs"] >= 20
    assert 0.5 < results["broken_share"] < 1
    # Bounds of the right size.
    assert outcome.arrays["bound_ratios"][0] > 1e-3
    np.testing.assert_allclose(outcome.arrays["one_hot_excess"], [0.2274, 0.3124], atol=1e-4)
    assert outcome.png


@pytest.mark.parametrize("variant", ["semi-stochastic", "sgd"])
def test_exact_iterations_are_those_of_the_recursion(variant):
    case = cases.spec_case(np.random.default_rng(0), n=12, d=2)
    maps = state_maps(case.A, step=case.step, mu=case.mu, variant=variant)
    u = np.tile(-case.star, maps.shape[1] // 2)
    second, gaps = np.outer(u, u), []
    H = case.A.T @ case.A / 12
    for _ in range(3000):
        gaps.append(0.5 * np.trace(H @ second[:2, :2]))
        second = np.mean(maps @ second @ maps.transpose(0, 2, 1), axis=0)
    assert gaps[0] == pytest.approx(case.problem.value(case.x0))
    above = np.array(gaps) > 1e-4 * gaps[0]
    needed = case.iterations(variant, accuracy=1e-4)
    assert above[needed - 1]
    assert not above[needed]
    assert needed == np.flatnonzero(~above)[0] or variant != "sgd"
    k, exact = case.expected_gaps(variant, 2999, points=100)
    np.testing.assert_allclose(exact[k < 3000], np.array(gaps)[k[k < 3000]], rtol=1e-8)


def test_iterations_of_a_diverging_scheme_have_no_end():
    case = cases.Interpolating(np.eye(2), np.ones(2))
    with np.errstate(over="ignore", invalid="ignore"):
        assert case.iterations("sgd", step=4.5) == np.inf


def test_random_problems_are_fitted_and_of_the_three_kinds():
    rng = np.random.default_rng(0)
    for kind in (cases.GAUSSIAN, cases.ONE_HOT, cases.HEAVY):
        case = cases.random_case(kind, rng)
        assert case.problem.value(case.star) < 1e-25
        assert ((case.A != 0).sum(axis=1) == 1).all() == (kind == cases.ONE_HOT)
        assert case.L / case.mu <= cases.LARGEST_CONDITION
        assert case.step == 1 / (case.rho * case.L)


def test_replicated_runs_are_as_the_exact_expectation_says():
    case = cases.spec_case(np.random.default_rng(1))
    k, n_grad, gaps = cases.replicate_runs(
        case, 300, 240, np.random.default_rng(0), step=case.step, mu=case.mu
    )
    exact = case.expected_gaps("semi-stochastic", 240, points=4)[1][: len(k)]
    np.testing.assert_array_equal(n_grad, 61 * k)
    error = gaps.std(axis=0, ddof=1) / np.sqrt(300)
    assert (np.abs(gaps.mean(axis=0) - exact) <= 4 * error + 1e-12).all()
    with pytest.raises(RuntimeError, match="must not diverge"):
        cases.replicate_runs(case, 1, 4000, np.random.default_rng(0), step=1e6)


def test_sgd_with_a_search_falls_and_can_be_stopped():
    case = cases.spec_case(np.random.default_rng(0))
    seen = []

    def watch(state):
        seen.append(case.problem.value(state.x))
        if state.nit == 50:
            raise StopIteration

    rng = np.random.default_rng(0)
    cases.sgd_with_search(case.problem, case.x0, armijo_primal_update(), 99, 1, rng, watch)
    assert len(seen) == 50
    assert seen[-1] < 0.1 * case.problem.value(case.x0)


def test_gradients_of_the_squared_hinge_are_derivatives():
    rng = np.random.default_rng(0)
    problem = cases.SquaredHinge(rng.normal(size=(7, 3)), np.sign(rng.normal(size=7)))
    x, h = rng.normal(size=3), 1e-6
    for axis in np.eye(3):
        change = (problem.value(x + h * axis) - problem.value(x - h * axis)) / (2 * h)
        assert problem.gradient(x) @ axis == pytest.approx(change, abs=1e-8)
    each = problem.component_gradients(x)
    np.testing.assert_allclose(problem.gradient(x, np.array([1, 4])), each[[1, 4]].mean(axis=0))


def test_a_race_of_two_classes_ends_where_all_are_told_apart():
    rng = np.random.default_rng(0)
    problem = cases.SquaredHinge(rng.normal(size=(20, 40)), np.sign(rng.normal(size=20)))
    values = cases.digit_race(problem, 400, 4, 1e-3, rng)
    assert set(values) == {"sgd", "semi-stochastic", "stochastic"}
    for gaps in values.values():
        assert gaps[0] == 1
        assert gaps[-1] <= 1e-3


def write(tmp_path, A, b):
    path = tmp_path / "data.csv"
    lines = [",".join(map(repr, map(float, row))) for row in np.column_stack([A, b])]
    path.write_text("a,b,c,target\n" + "\n".join(lines), encoding="utf-8")
    return path


def test_a_file_is_fitted_by_all_variants(tmp_path):
    rng = np.random.default_rng(0)
    A, star = rng.normal(size=(40, 3)), np.array([1.0, -2.0, 0.5])
    folder, summary = run_on_file(SLUG, write(tmp_path, A, A @ star), out=tmp_path / "out")
    case = cases.Interpolating(A, star)
    assert summary["rho"] == pytest.approx(case.rho)
    assert summary["mu"] == pytest.approx(case.mu)
    assert (summary["rows"], summary["columns"], summary["rank"]) == (40, 3, 3)
    promised = np.sqrt(case.rho * case.L / case.mu) * np.log(1e8)
    assert summary["iterations of semi-stochastic"].startswith(f"bound {promised:.4g}, by the ex")
    assert summary["iterations of momentum"].startswith("no bound, by the exact rate ")
    np.testing.assert_allclose(np.loadtxt(folder / "coefficients.csv", delimiter=","), star)
    with open(folder / "runs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    last = {row["method"]: float(row["value"]) for row in rows}
    assert set(last) == {"semi-stochastic", "scaled stochastic", "momentum", "SGD"}
    assert max(last.values()) < 1e-6


def test_more_columns_than_rows_are_fitted_where_the_rows_reach(tmp_path):
    A = np.random.default_rng(0).normal(size=(2, 3))
    _, summary = run_on_file(
        SLUG, write(tmp_path, A, [1.0, 2.0]), out=tmp_path / "out", overrides={"steps": 50}
    )
    assert summary["rank"] == 2


@pytest.mark.parametrize(
    ("A", "b", "options", "message"),
    [
        (np.eye(3)[[0, 1, 2, 0]], [1.0, 1.0, 1.0, 2.0], {}, "must fit the target exactly"),
        (np.zeros((2, 3)), [1.0, 2.0], {}, "columns before the target are 0"),
        (np.eye(3), np.zeros(3), {}, "the target is 0"),
        (np.eye(3), np.ones(3), {"steps": 0}, "steps must be >= 1"),
    ],
)
def test_a_bad_file_or_setting_is_refused(tmp_path, A, b, options, message):
    with pytest.raises(ValueError, match=message):
        run_on_file(SLUG, write(tmp_path, A, b), out=tmp_path / "out", overrides=options)
    assert not (tmp_path / "out").exists()


def test_the_first_small_gap_is_found():
    assert study.first_below(np.array([3.0, 1.0, 0.5]), 1.0) == 1
    assert study.first_below(np.ones(2), 0.5) == np.inf
