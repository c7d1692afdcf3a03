"""The study of AdaGrad step sizes: its quick run, its stacked runs, networks and a user's file."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from thalweg import data
from thalweg.descent import (
    adagrad_norm,
    descent_certificate,
    regret_certificate,
)
from thalweg.descent.adagrad_norm_certificates import step_certificate
from thalweg.studies.descent import _adagrad_network as network
from thalweg.studies.descent import _adagrad_runs as runs
from thalweg.studies.descent import adagrad_stepsizes as study
from thalweg.study import run_study
from thalweg.study.on_file import run_on_file

SLUG = "adagrad-stepsizes"


def test_quick_run_keeps_every_claim():
    outcome = run_study(SLUG)
    assert outcome.record.state == "holds", outcome.record.traceback
    results = outcome.record.results
    # Without noise the sum of squared gradients has converged, so that 4 T divides by just 4.
    assert outcome.arrays["low_noise_division"] == pytest.approx([4, 4], abs=0.05)
    # The rates are told apart, and no claim passes by far.
    assert outcome.arrays["divisions"].min() == results["high_noise_division"] > 2
    assert results["scale_ratio"] > 2
    assert results["certified_runs"] == 5 * 200 + 7 * 30 + 5 * 8
    assert 0 < outcome.arrays["certificate_rooms"].min() < 0.05
    assert outcome.arrays["far_steps"].max() < 20_000
    assert outcome.png


CASES = {
    "saturating": runs.saturating(),
    "diabetes": runs.diabetes(),
    "tumours": runs.tumours(),
}


@pytest.mark.parametrize("name", CASES)
def test_cases_have_the_gradients_minima_and_curvature_they_claim(name):
    case = CASES[name]
    rng = np.random.default_rng(0)
    assert case.gap(case.star) == pytest.approx(0, abs=1e-12)
    assert np.abs(case.gradient(case.star)).max() < 1e-9
    x = case.star + rng.normal(size=(30, len(case.x0)))
    v = rng.normal(size=x.shape)
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    h = 1e-5
    change = (case.gap(x + h * v) - case.gap(x - h * v)) / (2 * h)
    np.testing.assert_allclose(runs.dot(case.gradient(x), v), change, atol=1e-7)
    bend = np.linalg.norm(case.gradient(x + h * v) - case.gradient(x - h * v), axis=1) / (2 * h)
    assert bend.max() <= case.beta * (1 + 1e-6)
    assert (case.gap(x) > 0).all()


def test_the_curvature_of_the_saturating_function_is_reached_at_its_minimum():
    case = CASES["saturating"]
    assert case.gradient(np.full(10, 1e-6)) == pytest.approx(np.full(10, 2e-6), rel=1e-9)


@pytest.mark.parametrize("delayed", [False, True])
def test_stacked_runs_are_those_of_the_library(monkeypatch, delayed):
    """The same noise, drawn beforehand: each run of the stack against one of `adagrad_norm`."""
    case, steps, eta, gamma = CASES["saturating"], 40, np.array([[0.5], [1.5]]), 0.2
    noise = np.random.default_rng(0).normal(size=(steps, 2, 3, 10))
    rest = iter(noise)
    monkeypatch.setattr(runs, "affine_error", lambda true, *_: next(rest))
    times = [10, steps]
    found = runs.noisy_runs(
        case, 0.0, 0.0, eta=eta, gamma=gamma, steps=steps, replicates=3, rng=None, times=times,
        delayed=delayed,
    )  # fmt: skip
    for i in range(2):
        for j in range(3):
            own = iter(noise[:, i, j])
            scale = float(eta[i, 0])
            run = adagrad_norm(
                lambda x, rng, own=own: case.gradient(x) + next(own), case.x0, n_steps=steps,
                eta=scale, gamma=gamma, record=True, delayed=delayed,
            )  # fmt: skip
            history, x, g = run.history, run.history["x"], run.history["g"]
            true = case.gradient(x[:-1])
            squares = np.sum(true**2, axis=1)
            assert found.mean_squares[:, i, j] == pytest.approx(
                [squares[:t].mean() for t in times], rel=1e-9
            )
            assert found.highest[i, j] == pytest.approx(case.gap(x).max(), rel=1e-9)
            assert found.last_gap[i, j] == pytest.approx(case.gap(run.x), rel=1e-9)
            assert found.average_gap[i, j] == pytest.approx(case.gap(run.x_average), rel=1e-9)
            known = {"eta": scale, "gamma": gamma}
            fall = case.gap(case.x0), case.gap(run.x)
            descent = descent_certificate(history, true, *fall, beta=case.beta, **known)
            regret = regret_certificate(history, case.star, **known)
            rooms = {name: room[i, j] for name, room in found.rooms.items()}
            sums = gamma**2 + np.cumsum(np.sum(g**2, axis=1))
            lefts = {
                "regret": np.sum(g * (x[:-1] - case.star)),
                "descent": np.sum(scale / np.sqrt(sums) * np.sum(true * g, axis=1)),
            }
            for key, room in (("regret", regret), ("descent", descent)):
                larger = max(abs(lefts[key]), abs(lefts[key] + room))
                assert rooms[key] == pytest.approx(room / larger, rel=1e-9)
            assert np.sign(min(rooms["log sum"], rooms["root sum"])) == np.sign(
                step_certificate(history, **known)
            )
            used = np.sum((history["step"] / scale) ** 2 * np.sum(g**2, axis=1))
            allowed = math.log(sums[-1] / gamma**2)
            assert rooms["log sum"] == pytest.approx(
                (allowed - used) / max(allowed, used), rel=1e-9
            )
            exact = np.sum(true * (x[:-1] - case.star))
            assert found.convex_bound[i, j] == pytest.approx((regret + exact) / steps, rel=1e-9)


@pytest.mark.parametrize("name", ["AdaGrad", "Adam", "SGD, constant", "SGD, 1/√t"])
def test_baselines_are_those_of_torch(monkeypatch, name):
    torch = pytest.importorskip("torch")
    case, steps = CASES["diabetes"], 30
    noise = np.random.default_rng(1).normal(size=(steps, 1, 1, 10))
    rest = iter(noise)
    monkeypatch.setattr(runs, "affine_error", lambda true, *_: next(rest))
    last, average = runs.baseline_runs(
        runs.BASELINES[name], case, 0.0, 0.0, etas=[0.05], steps=steps, replicates=1, rng=None
    )
    x = torch.nn.Parameter(torch.zeros(10, dtype=torch.float64))
    optimizer = network.make_optimizer(name, [x], 0.05)
    mean = np.zeros(10)
    for t in range(1, steps + 1):
        if name == "SGD, 1/√t":
            optimizer.param_groups[0]["lr"] = 0.05 / math.sqrt(t)
        at = x.detach().numpy().copy()
        mean += at / steps
        x.grad = torch.tensor(case.gradient(at) + noise[t - 1, 0, 0])
        optimizer.step()
    assert last[0, 0] == pytest.approx(float(case.gap(x.detach().numpy())), rel=1e-6)
    assert average[0, 0] == pytest.approx(float(case.gap(mean)), rel=1e-6)


def test_a_run_that_overflows_has_an_infinite_gap():
    last, average = runs.baseline_runs(
        runs.constant_rule, CASES["diabetes"], 0.3, 1.0, etas=[0.1, 100.0], steps=300,
        replicates=2, rng=np.random.default_rng(0),
    )  # fmt: skip
    assert np.isinf(last[1]).all()
    assert np.isinf(average[1]).all()
    assert study.has_diverged(last, CASES["diabetes"]).tolist() == [[False] * 2, [True] * 2]
    assert study.has_diverged(np.array([np.nan]), CASES["diabetes"]).all()


@pytest.mark.skipif(not all(map(data.available, network.SETS)), reason="needs the MNIST test set")
def test_networks_train_and_a_scale_too_large_is_told():
    pytest.importorskip("torch")
    X, labels = network.digits()
    X, labels = X[:640], labels[:640]
    losses = [network.trained_loss(name, 0.1, X, labels, 1, 0) for name in network.NAMES]
    assert max(losses) < 2.6  # log 10 = 2.3 at random weights
    assert len(set(losses)) == len(losses)
    assert network.trained_loss(network.OURS, 1.0, X, labels, 2, 0) < 1.5
    assert network.trained_loss("SGD, constant", 1e38, X, labels, 1, 0) == np.inf


def write(path, X, y):
    lines = ["a,b,c,target"] + [",".join(map(repr, map(float, (*r, t)))) for r, t in zip(X, y)]  # noqa: B905
    path.write_text("\n".join(lines) + "\n")
    return path


def table(rng, n=120):
    X = rng.normal(size=(n, 3)) * [1.0, 10.0, 0.1] + 5.0
    return X, X @ [1.0, -0.2, 3.0] + 0.1 * rng.normal(size=n)


OPTIONS = {"steps": 800, "etas": (0.1, 1.0, 10.0)}


def test_a_file_of_numbers_is_a_linear_regression(tmp_path):
    X, y = table(np.random.default_rng(0))
    folder, summary = run_on_file(
        SLUG, write(tmp_path / "rows.csv", X, y), out=tmp_path / "out", overrides=OPTIONS
    )
    assert summary["regression"] == "linear"
    assert (summary["rows"], summary["columns"]) == (120, 3)
    assert summary["loss at zero"] == pytest.approx(0.5)
    assert summary["certificates"] == "hold"
    Z, t = runs.standardised(X), runs.standardised(y)
    best = np.linalg.lstsq(Z, t, rcond=None)[0]
    found = np.loadtxt(folder / "coefficients.csv", delimiter=",")
    np.testing.assert_allclose(found, best, atol=0.05)
    assert summary["loss"] == pytest.approx(0.5 * np.mean((Z @ found - t) ** 2), rel=1e-9)
    with open(folder / "etas.csv", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert [float(row[0]) for row in rows[1:]] == [0.1, 1.0, 10.0]
    assert float(rows[3][3]) == np.inf
    assert "diverged" in summary["eta 10"]


def test_a_file_of_two_labels_is_a_logistic_regression(tmp_path):
    X, y = table(np.random.default_rng(1))
    labels = np.where(y > np.median(y), 7.0, 3.0)
    folder, summary = run_on_file(
        SLUG, write(tmp_path / "rows.csv", X, labels), out=tmp_path / "out", overrides=OPTIONS
    )
    assert summary["regression"] == "logistic"
    assert summary["loss at zero"] == pytest.approx(math.log(2))
    assert summary["loss"] < 0.3
    found = np.loadtxt(folder / "coefficients.csv", delimiter=",")
    assert np.mean((runs.standardised(X) @ found > 0) == (labels == 7.0)) > 0.95


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        (lambda X, y: (X, np.ones_like(y)), {}, "last column is constant"),
        (lambda X, y: (np.ones_like(X), y), {}, "are constant"),
        (lambda X, y: (X, y), {"steps": 0}, "steps"),
        (lambda X, y: (X, y), {"steps": 10**8}, "steps times columns"),
        (lambda X, y: (X, y), {"etas": (0.0,)}, "etas"),
        (lambda X, y: (X, y), {"l2": -1.0}, "l2"),
    ],
)
def test_bad_files_and_settings_are_refused(tmp_path, change, options, match):
    path = write(tmp_path / "rows.csv", *change(*table(np.random.default_rng(0))))
    with pytest.raises(ValueError, match=match):
        run_on_file(SLUG, path, out=tmp_path / "out", overrides=options)
