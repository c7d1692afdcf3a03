"""The study of stochastic heavy ball: its quick run, its parts, and its file method."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from thalweg import data
from thalweg.descent import LeastSquares, expected_risk, stochastic_heavy_ball
from thalweg.studies.descent import _heavy_ball_data as parts
from thalweg.studies.descent import _heavy_ball_risks as risks
from thalweg.studies.descent import stochastic_heavy_ball as study
from thalweg.study import run_study
from thalweg.study.on_file import run_on_file

SLUG = "stochastic-heavy-ball"


def test_quick_run_confirms_every_claim():
    outcome = run_study(SLUG)
    assert outcome.record.state == "holds", outcome.record.traceback
    results, arrays = outcome.record.results, outcome.arrays
    # Known beforehand from an independent prototype of the recursion.
    np.testing.assert_allclose(arrays["batch_heavy_ball"][[0, -1]], [5.4e-4, 6.2e-4], rtol=0.02)
    np.testing.assert_allclose(arrays["batch_sgd"][[0, -1]], [4.1e-4, 1.9e-3], rtol=0.02)
    assert results["constant_over_decay"] == pytest.approx(3.1e-4 / 3.0e-6, rel=0.03)
    assert results["small_batch_ratio"] > 1
    assert outcome.png


def setup(**changes):
    return study.STUDY.preset("quick", changes)


def test_the_first_budget_is_where_the_bias_falls_under_the_goal():
    first = risks.first_budget(lambda T: (10.0 ** (-T / 50), 0.0))
    assert 300 < first <= 304


def test_the_averaged_risk_is_that_of_the_mean_point():
    """Against the mean of w_1, ..., w_T as a linear function of start and noises."""
    lam, error, step, T, sigma2 = np.array([1.0, 0.1]), np.array([2.0, -1.0]), 0.7, 9, 0.3
    bias = variance = 0.0
    for h, e in zip(lam, error, strict=True):
        w = np.zeros(T + 1)
        w[0], total = 1.0, np.zeros(T + 1)  # coefficients of the start and of each noise
        for t in range(T):
            w = (1 - step * h) * w
            w[t + 1] += step
            total += w / T
        bias += 0.5 * h * (total[0] * e) ** 2
        variance += 0.5 * h * sigma2 * h * np.sum(total[1:] ** 2)
    found = risks.averaged_risk(lam, error, step, T, sigma2)
    assert found == pytest.approx((bias, variance), rel=1e-12)


def test_replicates_are_independent_quadratics_with_the_noise_they_claim():
    lam = np.array([1.0, 0.25])
    problem = risks.NoisyQuadratic(lam, 0.04, 20_000, np.random.default_rng(0))
    x = np.ones(problem.dim)
    assert problem.value(x) == pytest.approx(20_000 * 0.625)
    noise = problem.gradient(x).reshape(-1, 2) - lam
    np.testing.assert_allclose(noise.var(axis=0), 0.04 * lam, rtol=0.05)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.05


@pytest.mark.parametrize(
    "wrong", [{"momentum": 0.5}, {"noise": 2 * risks.SIGMA2}, {"steps": np.full(300, 0.5)}]
)
def test_the_simulation_would_see_a_wrong_risk(monkeypatch, wrong):
    right = risks.simulation(setup(simulated_steps=300), np.random.default_rng(0))
    assert right["simulation_distance"].max() <= 4
    monkeypatch.setattr(
        risks,
        "expected_risk",
        lambda lam, error, steps, **options: expected_risk(
            lam, error, **{"steps": steps, **options, **wrong}
        ),
    )
    result = risks.simulation(setup(simulated_steps=300), np.random.default_rng(0))
    assert result["simulation_distance"].max() > 8


def test_a_bound_that_is_too_low_would_be_seen(monkeypatch):
    real = risks.step_decay_bound
    monkeypatch.setattr(risks, "step_decay_bound", lambda T, **options: 1e-12 * real(T, **options))
    results = risks.theorem(setup(budgets=4, beyond=1.1))
    assert results["violations"] > 0


def table(n=300, dim=4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, dim)) * [1.0, 0.7, 0.5, 0.3]
    return X, X @ np.ones(dim) + rng.normal(size=n)


def test_a_landscape_knows_modes_start_and_noise():
    problem = LeastSquares(*table(), l2=0.01)
    land = parts.Landscape(problem)
    known = problem.curvature()
    assert (land.L, land.mu) == pytest.approx((known["L"], known["mu"]))
    assert land.gap == pytest.approx(0.5 * np.sum(land.eigenvalues * land.error**2))
    covariance = np.cov(problem.component_gradients(land.minimum).T, bias=True)
    assert land.noise.sum() == pytest.approx(np.trace(covariance))
    steps = land.steps(400, momentum=True)
    whole = stochastic_heavy_ball(
        problem, np.zeros(4), n_steps=400, L=land.L, mu=land.mu, batch_size=300, replace=False
    )
    np.testing.assert_allclose(whole.steps, steps)


def test_with_large_batches_a_run_reaches_what_is_predicted():
    land = parts.Landscape(LeastSquares(*table(), l2=0.01))
    for momentum in (True, False):
        steps = land.steps(400, momentum)
        reached = land.reached(steps, momentum, 100, np.random.default_rng(0), runs=60)
        assert reached == pytest.approx(land.predicted(steps, momentum, 100), rel=0.35)


def test_a_run_that_diverges_counts_as_infinite():
    land = parts.Landscape(LeastSquares(*table(), l2=0.01))
    with pytest.warns(RuntimeWarning, match="unstable"):
        gap = land.reached(np.full(3000, 50.0), True, 1, np.random.default_rng(0))
    assert gap == math.inf


def test_columns_are_standardised_and_constants_become_zero():
    columns = parts.standardised(np.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_array_equal(columns, [[-1.0, 0.0], [1.0, 0.0]])


def fake_digits():
    """Images whose bright patch tells the digit: learnt in few steps."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 1500)
    images = 0.1 * rng.random((1500, 60))
    images[np.arange(1500), labels] += 1.0
    return images, labels


def test_a_network_learns_by_every_optimizer(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(parts, "digits", fake_digits)
    state = torch.random.get_rng_state()
    result = parts.network_case(setup(network_epochs=10), np.random.default_rng(0))
    assert result["network_errors"].shape == (3,)
    assert result["network_errors"].max() < 0.5
    assert torch.equal(torch.random.get_rng_state(), state)


def test_two_digits_are_told_apart(monkeypatch):
    monkeypatch.setattr(parts, "digits", fake_digits)
    result = parts.zero_or_one(setup(ridge_runs=1), np.random.default_rng(0))
    assert result["digits_ratio"] > 0


@pytest.mark.skipif(not all(data.available(name) for name in study.SETS), reason="needs the digits")
def test_the_digits_are_there():
    images, labels = parts.digits()
    assert images.shape == (len(labels), 784)


def write(tmp_path, text=None):
    X, y = table()
    if text is None:
        lines = ["a,b,c,d,target", *(",".join(map(str, row)) for row in np.column_stack([X, y]))]
        text = "\n".join(lines)
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_gets_its_spectrum_a_prediction_and_a_run(tmp_path):
    folder, summary = run_on_file(
        SLUG, write(tmp_path), out=tmp_path / "out", overrides={"steps": 300, "batch_size": 100}
    )
    X, y = table()
    X, y = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    spectrum = np.linalg.eigvalsh(X.T @ X / len(X))
    assert (summary["rows"], summary["columns"]) == (300, 4)
    assert summary["L"] == pytest.approx(1.001 * spectrum[-1])
    assert summary["kappa"] == pytest.approx(summary["L"] / summary["mu"])
    for name in ("SGD", "heavy ball"):
        assert summary[f"predicted gap, {name}"] < 0.05 * summary["gap at zero"]
        assert summary[f"gap reached, {name}"] < 0.05 * summary["gap at zero"]
    assert 0 < summary["noise at the minimum"] < summary["noise at zero"]
    with open(folder / "spectrum.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = [float(row["eigenvalue"]) for row in rows]
    np.testing.assert_allclose(found, spectrum + 1e-3 * spectrum[-1], rtol=1e-9)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("1,0\n1,1\n", {"batch_size": 1}, "that vary"),
        ("1,2\n3,2\n", {"batch_size": 1}, "that vary"),
        (None, {"steps": 0}, "steps must be >= 1"),
        (None, {"steps": 3, "factor": 1.1}, "steps are too few"),
        (None, {"batch_size": 0}, "batch_size must be >= 1"),
        (None, {"batch_size": 301}, "at most the 300 rows"),
        (None, {"l2": -1.0}, "l2 must be >= 0"),
        (None, {"factor": 1.0}, "factor must be > 1"),
        ("1,2,0\n2,4,1\n3,6,3\n", {"batch_size": 1, "l2": 1e-200}, "columns depend"),
    ],
)
def test_a_bad_file_or_setting_is_refused(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        run_on_file(SLUG, write(tmp_path, text), out=tmp_path / "out", overrides=options)
