"""The study of cheaper proxies: its quick run, its pairs and dynamics, and a user's two files."""

from __future__ import annotations

import csv
import importlib.util

import numpy as np
import pytest

from thalweg import data
from thalweg.descent import LeastSquares, Logistic
from thalweg.studies.descent import _proxy_cases as cases
from thalweg.studies.descent import _proxy_quadratics as quadratics
from thalweg.studies.descent._proxy_network import SETS, network_case
from thalweg.studies.descent.cheaper_proxy import STUDY
from thalweg.study import run_study
from thalweg.study.on_file import run_on_file

SLUG = "cheaper-proxy"


def test_quick_run_holds():
    outcome = run_study(SLUG)
    assert outcome.record.state == "holds", outcome.record.traceback
    assert outcome.png
    results = outcome.record.results
    # the bound has the right size, and more public rows save more
    assert outcome.arrays["bound_ratios"].max() > 0.01
    assert (np.diff(outcome.arrays["L_over_delta"]) > 0).all()
    assert (np.diff(outcome.arrays["descent_gradients"]) > 0).all()
    assert results["risk_error"] < 4


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("kind", ["proxy", "sgd"])
def test_samples_agree_with_the_recursion_of_the_second_moments(noise, kind):
    rng = np.random.default_rng(0)
    A = np.diag(quadratics.SPECTRUM)
    proxy = A + quadratics.difference(rng, 0.05) if kind == "proxy" else np.zeros_like(A)
    identity, counts = np.eye(quadratics.DIM), []
    for eta in quadratics.STEPS:
        P = np.linalg.inv(proxy + identity / eta)
        M = np.outer(quadratics.START, quadratics.START)
        aim = 0.01 * np.trace(A @ M)
        for t in range(1, 60):
            M = (identity - P @ A) @ M @ (identity - P @ A).T
            M = M + noise / quadratics.DIM * P @ P.T
            if np.trace(A @ M) <= aim:
                counts.append(t)
                break
    assert quadratics.samples(A, proxy, noise) == min(counts)


def test_a_wrong_proxy_step_would_be_seen(monkeypatch):
    """Runs with another step than the floor is computed for are many standard errors away."""
    real = quadratics.stationary_risk
    monkeypatch.setattr(
        quadratics, "stationary_risk", lambda A, B, eta, noise: real(A, B, 1.5 * eta, noise)
    )
    rng = np.random.default_rng(0)
    A = np.diag(quadratics.SPECTRUM)
    wrong = quadratics.floor(A, A + quadratics.difference(rng, 0.05), 200, rng)
    assert wrong["risk_error"] > 4


def test_differences_have_the_norm_asked_for():
    D = quadratics.difference(np.random.default_rng(1), 0.3)
    assert np.linalg.norm(D, 2) == pytest.approx(0.3)
    np.testing.assert_array_equal(D, D.T)


def test_the_oscillator_approaches_the_exact_motion_and_its_slopes_are_derivatives():
    p = np.log([2.0, 0.5])
    positions = cases.oscillator(p, 1e-3, 250, 8)[0]
    t = 0.25 * np.arange(1, 9)
    rate, frequency = 0.25, np.sqrt(2.0 - 0.25**2)
    exact = np.exp(-rate * t) * (np.cos(frequency * t) + rate / frequency * np.sin(frequency * t))
    np.testing.assert_allclose(positions, exact, atol=2e-3)
    for j, e in enumerate(1e-6 * np.eye(2)):
        ends = [cases.oscillator(p + s * e, 1e-2, 25, 8)[0] for s in (1, -1)]
        expected = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(cases.oscillator(p, 1e-2, 25, 8)[1][:, j], expected, atol=1e-8)


def test_pairs_are_what_they_say():
    rng = np.random.default_rng(0)
    (pair,) = cases.tumour_pairs((50,), rng)
    w = 0.5 * rng.normal(size=30)
    for hess, gradient in (
        (pair.hess, pair.gradient),
        (pair.proxy_hess, pair.proxy_fun.gradient),
    ):
        for e in 1e-5 * np.eye(30)[:3]:
            change = (gradient(w + e) - gradient(w - e)) / 2e-5
            np.testing.assert_allclose(hess(w) @ e / 1e-5, change, atol=1e-8)
    assert np.linalg.norm(pair.gradient(pair.star)) < 1e-8
    assert pair.proxy_fun.n == 50
    simulator = cases.simulator_pair()
    assert np.linalg.norm(simulator.gradient(simulator.star)) < 1e-9
    np.testing.assert_allclose(np.exp(simulator.star), [2.0, 0.5], rtol=0.05)


def test_delta_covers_the_whole_run():
    pair = cases.synthetic_pair(np.random.default_rng(0))
    run, delta = cases.certified(pair)
    difference = pair.hess(run.x) - pair.proxy_hess(run.x)
    assert delta == pytest.approx(np.linalg.norm(difference, 2))
    (tumours,) = cases.tumour_pairs((50,), np.random.default_rng(3))
    run, delta = cases.certified(tumours)
    for x in run.history["x"]:
        assert np.linalg.norm(tumours.hess(x) - tumours.proxy_hess(x), 2) <= delta


def test_gradients_are_counted_until_the_level():
    (pair,) = cases.tumour_pairs((50,), np.random.default_rng(0))
    L, w, count = cases.steepest(pair), pair.x0, 0
    while np.sum(pair.gradient(w) ** 2) > 1e-5:
        w, count = w - pair.gradient(w) / L, count + 1
    assert cases.gradients_needed(pair, 1e-5, 1 / L)[0] == count
    assert cases.gradients_needed(pair, 1e-5, 1 / L, most=3)[0] == 3
    assert cases.gradients_needed(pair, 1.0, 1 / L)[0] == 0


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
@pytest.mark.skipif(not all(map(data.available, SETS)), reason="needs the digits")
def test_the_network_part_runs_at_a_small_size(monkeypatch):
    from thalweg.studies.descent import _proxy_network

    monkeypatch.setattr(_proxy_network, "INNER", 2)
    monkeypatch.setattr(_proxy_network, "ANCHORS", 1)
    setup = STUDY.preset("quick", {"network_batches": 2})
    found = network_case(setup, np.random.default_rng(0))
    assert np.isfinite(found["network_losses"]).all()
    assert found["network_ratio"] == found["network_losses"][3] / found["network_losses"][0]


def table(seed, n, logistic=False):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)) * [1.0, 5.0, 0.2] + 1.0
    y = X @ [1.0, -0.3, 4.0] + 0.5 * rng.normal(size=n)
    return np.column_stack([X, np.where(y > y.mean(), 7.0, 3.0) if logistic else y])


def write(path, rows, header=""):
    path.write_text(header + "\n".join(",".join(map(repr, map(float, r))) for r in rows))
    return path


def test_two_files_give_the_regression_of_the_first(tmp_path):
    target, cheap = table(0, 80), table(1, 50)
    path = write(tmp_path / "a.csv", target, "a,b,c,y\n")
    folder, summary = run_on_file(
        SLUG, path, out=tmp_path / "out",
        overrides={"proxy": str(write(tmp_path / "b.csv", cheap)), "l2": 0.0},
    )  # fmt: skip
    X = np.column_stack([target[:, :-1], np.ones(80)])
    expected = np.linalg.lstsq(X, target[:, -1], rcond=None)[0]
    with open(folder / "coefficients.csv", newline="") as file:
        found = [float(row["coefficient"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert summary["model"] == "linear"
    assert summary["gradients of the first file"] < 80
    assert summary["loss"] < summary["loss at the proxy's minimum"]
    with open(folder / "run.csv", newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] == pytest.approx(summary["loss"])
    assert losses[0] > losses[-1]


def test_labels_give_a_logistic_regression(tmp_path):
    target, cheap = table(0, 90, logistic=True), table(1, 60, logistic=True)
    _, summary = run_on_file(
        SLUG, write(tmp_path / "a.csv", target), out=tmp_path / "out",
        overrides={"proxy": str(write(tmp_path / "b.csv", cheap)), "l2": 0.01},
    )  # fmt: skip
    X = (target[:, :-1] - cheap[:, :-1].mean(axis=0)) / cheap[:, :-1].std(axis=0)
    f = Logistic(np.column_stack([X, np.ones(90)]), np.sign(target[:, -1] - 5), l2=0.01)
    assert summary["model"] == "logistic"
    assert summary["loss"] == pytest.approx(f.value(f.minimiser(np.zeros(4))), abs=1e-9)
    assert summary["training accuracy"] >= 0.85
    assert summary["smoothness of the loss"] == pytest.approx(f.curvature()["L"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proxy": ""}, "proxy must name the second file"),
        ({"proxy": "nowhere.csv"}, "there is no file"),
        ({"model": "tree"}, "model must be one of"),
        ({"model": "logistic"}, "two different labels"),
        ({"l2": -1.0}, "l2 must be finite and >= 0"),
        ({"steps": 0}, "steps must be >= 1"),
    ],
)
def test_bad_settings_are_refused_by_name(tmp_path, change, message):
    path = write(tmp_path / "a.csv", table(0, 20))
    cheap = write(tmp_path / "b.csv", table(1, 20))
    with pytest.raises(ValueError, match=message):
        run_on_file(SLUG, path, out=tmp_path / "out", overrides={"proxy": str(cheap), **change})
    assert not (tmp_path / "out").exists()


def test_files_that_do_not_fit_are_refused(tmp_path):
    path = write(tmp_path / "a.csv", table(0, 20))
    narrow = write(tmp_path / "b.csv", table(1, 20)[:, 1:])
    with pytest.raises(ValueError, match="as many columns as the first file, 4, got 3"):
        run_on_file(SLUG, path, out=tmp_path / "out", overrides={"proxy": str(narrow)})
    broken = tmp_path / "c.csv"
    broken.write_text("1,2,3,x\n1,2,3,4\n1,2,3,nan\n")
    with pytest.raises(ValueError, match="--set: proxy: row 1, column 3 is not finite"):
        run_on_file(SLUG, path, out=tmp_path / "out", overrides={"proxy": str(broken)})


def test_least_squares_of_the_study_are_certified_without_the_search_for_delta():
    rng = np.random.default_rng(2)
    A, B = rng.normal(size=(2, 30, 4))
    pair = cases.of_sums("pair", LeastSquares(A, A[:, 0]), LeastSquares(A + 0.2 * B, A[:, 0]))
    found = cases.measured(pair)
    assert found["bound_ratio"] <= 1
    assert found["gap_share"] < 0.05
