"""The study of the convergence handbook: its quick run, its helpers, and a user's regression."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from thalweg.descent import LeastSquares, constants, theorems
from thalweg.studies.descent import convergence_handbook
from thalweg.studies.descent._convergence_cases import (
    L1_WEIGHT,
    SigmoidLoss,
    WavyParabola,
    shrink,
    sparse_minimiser,
)
from thalweg.study import run_study
from thalweg.study.on_file import run_on_file

SLUG = "convergence-handbook"


def test_quick_run_certifies_every_theorem_and_refuses_every_wrong_step():
    outcome = run_study(SLUG)
    assert outcome.record.state == "holds", outcome.record.traceback
    assert outcome.record.results["theorems_checked"] == len(theorems()) == 25
    assert set(outcome.arrays["theorems"]) == set(theorems())
    assert outcome.arrays["worst_ratios"].max() <= 1
    # Bounds of the right size: at least ten theorems are met to within a factor of two.
    assert np.sum(outcome.arrays["worst_ratios"] > 0.5) >= 10
    assert outcome.record.results["interpolation_gap"] < 1e-12
    assert outcome.png


def test_a_wrong_minibatch_formula_would_be_seen(monkeypatch):
    real = convergence_handbook.minibatch_constants
    monkeypatch.setattr(
        convergence_handbook, "minibatch_constants", lambda c, b: real(c, max(1, b - 1))
    )
    wrong = convergence_handbook.minibatch_variances(np.random.default_rng(0))
    assert wrong["minibatch_variance_error"] > 1e-3
    assert wrong["full_batch_variance"] > 0


def test_real_data_is_certified_at_a_small_size():
    setup = convergence_handbook.STUDY.preset("quick", {"logistic_steps": 300, "replicates": 4})
    found = convergence_handbook.logistic(setup, np.random.default_rng(0), None)
    assert found["logistic_failed"] == 0
    assert len(found["logistic_ratios"]) == 4


def test_the_sparse_minimiser_is_a_fixed_point_of_the_proximal_gradient_step():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(30, 4))
    b = A @ np.array([1.0, 0.0, 0.0, -2.0]) + 0.1 * rng.normal(size=30)
    star = sparse_minimiser(A, b)
    assert (star == 0).any()
    moved = shrink(star - 0.3 * LeastSquares(A, b).gradient(star), 0.3)
    np.testing.assert_allclose(moved, star, atol=1e-13)
    assert shrink(np.array([0.5, -0.01, -2.0]), 1.0).tolist() == [
        0.5 - L1_WEIGHT, 0.0, -2.0 + L1_WEIGHT,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("problem", "dim"),
    [(WavyParabola(), 1), (SigmoidLoss(np.eye(3), np.array([1.0, -1.0, 1.0])), 3)],
)
def test_gradients_of_the_nonconvex_problems_are_derivatives(problem, dim):
    points = 2 * np.random.default_rng(0).normal(size=(6, dim))
    h = 1e-6
    for axis in range(dim):
        step = h * np.eye(dim)[axis]
        change = (problem.value(points + step) - problem.value(points - step)) / (2 * h)
        np.testing.assert_allclose(problem.gradient(points)[:, axis], change, atol=1e-8)
    each = problem.component_gradients(points[0]).mean(axis=0)
    np.testing.assert_allclose(problem.gradient(points[0]), each, rtol=1e-12)


def write(tmp_path, text):
    path = tmp_path / "data.csv"
    path.write_text(text, encoding="utf-8")
    return path


def regression(header="", n=40):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3))
    y = X @ [1.0, -1.0, 0.5] + 0.2 * rng.normal(size=n)
    return header + "\n".join(",".join(map(str, row)) for row in np.column_stack([X, y])), X, y


def test_a_file_is_certified_with_its_own_constants(tmp_path):
    text, X, y = regression("a,b,c,target\n")
    folder, summary = run_on_file(
        SLUG, write(tmp_path, text), out=tmp_path / "out",
        overrides={"standardise": False, "steps": 200, "replicates": 5},
    )  # fmt: skip
    c = constants(LeastSquares(X, y), np.zeros(3))
    assert (summary["rows"], summary["columns"]) == (40, 3)
    assert summary["L_max"] == pytest.approx(c.L_max)
    assert summary["sigma_star_sq"] == pytest.approx(c.sigma_star_sq)
    with open(folder / "theorems.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["certificate holds"] for row in rows} == {"True"}
    assert len(rows) == 10
    by_name = {row["theorem"]: row for row in rows}
    assert float(by_name["gd-convex"]["step limit"]) == pytest.approx(1 / c.L)
    needed = int(by_name["gd-convex"]["iterations to 0.01 of the start"])
    assert needed == int(np.ceil(c.dist0_sq * c.L / (2 * 0.01 * c.gap0)))


def test_columns_that_repeat_leave_the_strongly_convex_theorems_out(tmp_path):
    _, X, y = regression()
    table = np.column_stack([X, X[:, 0], y])
    text = "\n".join(",".join(map(str, row)) for row in table)
    folder, summary = run_on_file(
        SLUG, write(tmp_path, text), out=tmp_path / "out",
        overrides={"steps": 50, "replicates": 3},
    )  # fmt: skip
    assert summary["mu"] == 0
    assert "gd-strong" not in summary
    assert "certificate holds" in summary["gd-pl"]
    assert (folder / "theorems.csv").is_file()


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n", {}, "two rows and two columns"),
        ("1\n2\n", {}, "two rows and two columns"),
        ("1,2\n3,x\n", {}, "not a table of numbers"),
        ("1,2\n3,nan\n", {}, "row 1, column 1 is not finite"),
        ("1,2\n3,4\n", {"epsilon": 2.0}, "epsilon must be between 0 and 1"),
        ("1,2\n3,4\n", {"replicates": 1}, "replicates must be >= 2"),
        ("1,2\n3,4\n", {"l2": -1.0}, "l2 must be"),
    ],
)
def test_a_bad_file_or_setting_is_refused(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        run_on_file(SLUG, write(tmp_path, text), out=tmp_path / "out", overrides=options)
    assert not (tmp_path / "out").exists()


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a CSV file in UTF-8"):
        run_on_file(SLUG, path, out=tmp_path / "out")
