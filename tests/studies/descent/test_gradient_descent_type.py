"""The study of the one recursion: its quick run, its helpers, and a user's file."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from thalweg.descent import Logistic, sarah
from thalweg.studies.descent import _gradient_type_cases as cases
from thalweg.studies.descent import gradient_descent_type as study
from thalweg.study import run_study
from thalweg.study.on_file import run_on_file

SLUG = "gradient-descent-type"


def test_quick_run_keeps_every_claim():
    outcome = run_study(SLUG)
    assert outcome.record.state == "holds", outcome.record.traceback
    assert list(outcome.arrays["deterministic_schemes"]) == [
        "gd-nonconvex", "gd-convex", "nesterov-convex", "subgradient", "gd-strong",
        "nesterov-strong",
    ]  # fmt: skip
    assert sorted(outcome.arrays["stochastic_schemes"]) == [
        "hybrid", "lsvrg", "saga", "sarah-nonconvex", "sgd-convex", "sgd-nonconvex",
        "svrg-average", "svrg-random",
    ]  # fmt: skip
    assert outcome.record.results["rows"] == 569
    # The bound of SARAH's one loop of 2 n steps, worked out by hand.
    m = 2 * 569
    bound = 0.25 * 0.15406 * (1 + np.sqrt(1 + 4 * m)) / (m + 1)
    assert outcome.record.results["sarah_bound"] == pytest.approx(bound, rel=1e-4)
    # Bounds of the right size: some are met to within a factor of two.
    assert max(outcome.arrays["deterministic_ratios"]) > 0.5
    assert max(outcome.arrays["stochastic_ratios"]) > 0.3
    assert outcome.png


def test_constants_of_the_squared_sigmoid_are_its_largest_slope_and_curvature():
    one = cases.SquaredSigmoid(np.ones((1, 1)), np.ones(1))
    assert (
        pytest.approx(
            -minimize_scalar(lambda z: one.gradient(np.array([z]))[0], bounds=(-5, 5)).fun, rel=1e-6
        )
        == cases.SIGMOID_SLOPE
    )
    z = np.linspace(-8, 8, 200_001)[:, None]
    slopes = one.gradient(z)[:, 0]
    curvature = np.abs(np.diff(slopes) / np.diff(z[:, 0])).max()
    assert pytest.approx(curvature, rel=1e-5) == cases.SIGMOID_CURVATURE
    assert curvature <= cases.SIGMOID_CURVATURE


def test_gradients_of_the_squared_sigmoid_are_derivatives():
    rng = np.random.default_rng(0)
    problem = cases.SquaredSigmoid(rng.normal(size=(7, 3)), np.sign(rng.normal(size=7)))
    x, h = rng.normal(size=3), 1e-6
    for axis in np.eye(3):
        change = (problem.value(x + h * axis) - problem.value(x - h * axis)) / (2 * h)
        assert problem.gradient(x) @ axis == pytest.approx(change, abs=1e-8)
    each = problem.component_gradients(x)
    np.testing.assert_allclose(problem.gradient(x, np.array([1, 4])), each[[1, 4]].mean(axis=0))
    np.testing.assert_allclose(problem.value(x), problem.component_values(x).mean())


def test_a_watched_run_tells_the_points_of_its_epoch():
    rng = np.random.default_rng(0)
    problem = cases.SquaredSigmoid(rng.normal(size=(7, 3)), np.sign(rng.normal(size=7)))
    watched = cases.Watched(problem)
    last = sarah(watched, np.ones(3), step=0.5, n_epochs=1, inner_steps=5, rng=0).x
    points = np.array(watched.points[:1] + watched.points[1::2])
    assert len(points) == 6
    assert (points[0] == 1).all()
    assert (points[-1] == last).all()
    np.testing.assert_allclose(points[1], 1 - 0.5 * problem.gradient(np.ones(3)))
    for k in range(1, 6):
        shorter = sarah(problem, np.ones(3), step=0.5, n_epochs=1, inner_steps=k, rng=0).x
        np.testing.assert_allclose(points[k], shorter)


def test_the_variance_of_hybrid_estimates_obeys_its_recursion_with_its_own_share_only():
    problem = cases.SquaredSigmoid(*small())
    right = cases.hybrid_ratio(problem, 60, 30, np.random.default_rng(0))
    wrong = cases.hybrid_ratio(problem, 60, 30, np.random.default_rng(0), beta=0.0, claimed=0.9)
    assert right <= 1 < wrong


def test_ratios_leave_the_start_out_and_give_three_standard_errors():
    measured = np.array([[9.0, 1.0, 2.0], [9.0, 3.0, 2.0]])
    assert cases.worst_ratio(measured, np.array([1.0, 1.0, 4.0])) == 0.5
    assert cases.worst_ratio(measured, np.array([1.0, np.inf, 4.0]), rounding=1.0) == 0.25
    assert cases.cheapest(np.arange(4), np.array([3.0, 2.0, 1.0, 0.5]), 2, 1.5) == (1.0, 2.0)
    assert cases.cheapest(np.arange(2), np.ones(2), 2, 0.5)[1] == np.inf
    assert study.first_below(np.array([3.0, 1.0, 0.5]), 1.0) == 1
    assert study.first_below(np.ones(2), 0.5) == np.inf


def test_a_longer_step_breaks_the_recursions_of_the_study(monkeypatch):
    X, y = small()
    strong = cases.as_logistic(X, y)
    convex = Logistic(X[:, :2], y, l2=0.01)  # a minimiser is needed, not a convex problem alone
    arguments = (
        X, y, strong, strong.minimiser(np.zeros(4)), 0.25 + strong.l2, convex,
        convex.minimiser(np.zeros(2)), 50,
    )  # fmt: skip
    right = study.deterministic(*arguments)
    assert max(right["recursion_violations"]) <= 1e-12
    real = study.descent
    monkeypatch.setattr(study, "descent", lambda p, x, step, n: real(p, x, 1e-3 * step, n))
    wrong = study.deterministic(*arguments)
    names = wrong["deterministic_schemes"]
    for name in ("gd-nonconvex", "gd-convex", "gd-strong"):
        assert wrong["recursion_violations"][names.index(name)] > 1e-3


def small(n=40):
    rng = np.random.default_rng(0)
    X = cases.unit_rows(rng.normal(size=(n, 4)))
    return X, np.where(X @ [1.0, -1.0, 0.5, 0.0] + 0.3 * rng.normal(size=n) > 0, 1.0, -1.0)


def write(tmp_path, text):
    path = tmp_path / "data.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_fitted_by_all_methods(tmp_path):
    X, y = small()
    text = "a,b,c,d,label\n" + "\n".join(
        ",".join(map(str, row)) for row in np.column_stack([X, np.where(y > 0, 7, 3)])
    )
    folder, summary = run_on_file(
        SLUG, write(tmp_path, text), out=tmp_path / "out",
        overrides={"standardise": False, "passes": 200},
    )  # fmt: skip
    assert (summary["rows"], summary["columns"], summary["label +1"]) == (40, 4, 7)
    problem = Logistic(X, y, l2=1 / 40)
    star = np.loadtxt(folder / "coefficients.csv", delimiter=",")
    np.testing.assert_allclose(star, problem.minimiser(np.zeros(4)), atol=1e-10)
    with open(folder / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {
        "SVRG", "L-SVRG", "SAGA", "SARAH", "hybrid SGD", "SGD", "gradient descent", "Nesterov",
    }  # fmt: skip
    last = {row["method"]: float(row["gap"]) for row in rows}
    assert all(last[name] < 1e-10 for name in ("SVRG", "L-SVRG", "SAGA", "SARAH"))
    assert last["SGD"] > 1e-6
    assert "gap" in summary["SAGA"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("1,2\n3,x\n", {}, "not a table of numbers"),
        ("1,2\n3,4\n5,6\n", {}, "must hold two values, got 3"),
        ("1,2\n1,4\n", {}, "columns before the label are constant"),
        ("1,2\n3,4\n", {"passes": 3}, "passes must be >= 5"),
    ],
)
def test_a_bad_file_or_setting_is_refused(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        run_on_file(SLUG, write(tmp_path, text), out=tmp_path / "out", overrides=options)
    assert not (tmp_path / "out").exists()
