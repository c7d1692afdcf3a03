"""The study of large-scale optimization: its quick run, its helpers, and a user's file."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from scipy.special import log_softmax

from thalweg import data
from thalweg.descent import moment_constants
from thalweg.descent.curvature_products import gauss_newton_product
from thalweg.studies.descent import _large_scale_linear as linear
from thalweg.studies.descent import _large_scale_theory as theory
from thalweg.studies.descent._large_scale_network import Perceptron
from thalweg.study import run_study
from thalweg.study.on_file import run_on_file

SLUG = "large-scale-optimization"


def test_the_quick_run_holds():
    outcome = run_study(SLUG)
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    results = outcome.record.results
    assert results["l1_nonzero"] < 30
    assert outcome.png
    if data.available(linear.TEXT):
        assert results["documents"] == 1242


def test_the_quadratics_constants_are_exact():
    problem, x0, M, gap = theory.quadratic(np.random.default_rng(0))
    points = np.random.default_rng(1).normal(size=(4, problem.dim))
    found = moment_constants(problem, points)
    np.testing.assert_allclose([found.M, found.M_V], [M, 0.0], rtol=1e-12, atol=1e-9)
    assert problem.value(x0) == pytest.approx(gap)
    np.testing.assert_allclose(problem.gradient(np.zeros(problem.dim)), 0.0, atol=1e-12)
    for x in points:
        assert problem.gaps(x) == pytest.approx(problem.value(x))
        assert problem.slopes(x) == pytest.approx(np.sum(problem.gradient(x) ** 2))
        idx = np.array([3, 3, 9])
        each = problem.component_gradients(x, idx).mean(axis=0)
        np.testing.assert_allclose(problem.gradient(x, idx), each)
        assert problem.value(x, idx) == pytest.approx(problem.component_values(x, idx).mean())


def test_the_worst_ratio_leaves_the_start_out_and_three_errors_off():
    values = np.array([[9.0, 1.0, 2.0], [9.0, 3.0, 2.0]])
    # at the second point the mean is 2 and its standard error 1
    assert theory.worst(values, np.array([1.0, 2.0, 4.0])) == pytest.approx(0.5)
    assert theory.first_below(np.array([3.0, 2.0, 1.0]), 2.0) == 1


@pytest.mark.parametrize("idx", [None, np.array([0, 4])])
def test_the_perceptrons_derivatives_are_differences(idx):
    rng = np.random.default_rng(0)
    problem = Perceptron(rng.normal(size=(6, 5)), rng.integers(10, size=6), hidden=3)
    x, v, h = problem.start(rng), rng.normal(size=problem.dim), 1e-6
    change = (problem.residual(x + h * v, idx) - problem.residual(x - h * v, idx)) / (2 * h)
    np.testing.assert_allclose(problem.jvp(x, v, idx), change, atol=1e-7)
    slope = (problem.value(x + h * v, idx) - problem.value(x - h * v, idx)) / (2 * h)
    assert problem.gradient(x, idx) @ v == pytest.approx(slope, abs=1e-7)
    u = rng.normal(size=change.shape)
    assert problem.vjp(x, u, idx) @ v == pytest.approx(
        np.mean(np.sum(u * problem.jvp(x, v, idx), axis=1))
    )
    pick = slice(None) if idx is None else idx
    logs = log_softmax(problem.residual(x, idx), axis=1)
    expected = -logs[np.arange(len(logs)), problem.labels[pick]]
    np.testing.assert_allclose(problem.component_values(x, idx), expected)
    w = rng.normal(size=problem.dim)
    both = [gauss_newton_product(problem, x, a, idx) @ b for a, b in ((v, w), (w, v))]
    assert both[0] == pytest.approx(both[1])


def test_speeches_are_found_by_speaker(tmp_path, monkeypatch):
    path = tmp_path / "plays.txt"
    path.write_text(
        "LUCIO:\nA speech that is long enough.\n\nLUCIO:\nToo short.\n\n"
        "FIRST CITIZEN:\nNobody asked this man to speak.\n\n"
        "WARWICK:\nAnother speech, also\nlong enough to stay.\n"
    )
    monkeypatch.setattr(linear.data, "fetch", lambda name, download: path)
    rows, labels = linear.speeches()
    assert rows.shape == (2, linear.FEATURES)
    assert labels.tolist() == [-1.0, 1.0]


def table(tmp_path, text=None):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = (X @ [2.0, -1.0, 0.0] + 0.3 * rng.normal(size=60) > 0).astype(int)
    if text is None:
        text = "a,b,c,label\n" + "\n".join(
            ",".join(map(str, row)) for row in np.column_stack([X, y])
        )
    path = tmp_path / "data.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_all_methods_run_on_a_file(tmp_path):
    folder, summary = run_on_file(
        SLUG, table(tmp_path), out=tmp_path / "out", overrides={"passes": 20}
    )
    assert (summary["rows"], summary["columns"]) == (60, 3)
    with open(folder / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    last = {row["method"]: float(row["gap"]) for row in rows}
    assert len(last) == 11
    first = float(rows[0]["gap"])
    assert all(gap < first for gap in last.values())
    assert min(last, key=last.get) in ("Newton-CG", "L-BFGS")
    assert max(float(row["passes"]) for row in rows) <= 20


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("1,0\n2,1\n3,2\n", {}, "two different labels"),
        ("1,0\n1,1\n", {}, "column that varies"),
        (None, {"passes": 2}, "passes must be >= 4"),
        (None, {"l2": -1.0}, "l2 must be >= 0"),
    ],
)
def test_a_bad_file_or_setting_is_refused(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        run_on_file(SLUG, table(tmp_path, text), out=tmp_path / "out", overrides=options)
