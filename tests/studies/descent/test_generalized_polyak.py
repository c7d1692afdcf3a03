"""The study of Polyak's steps: its quick run, its fleet of networks, and a user's file."""

from __future__ import annotations

import csv
import math
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.descent import PolyakMomentum, PolyakSGD, polyak_momentum  # noqa: E402
from thalweg.studies.descent import _polyak_convex as convex  # noqa: E402
from thalweg.studies.descent import _polyak_networks as networks  # noqa: E402
from thalweg.study import run_study  # noqa: E402
from thalweg.study.on_file import run_on_file  # noqa: E402

SLUG = "generalized-polyak"


def test_quick_run_confirms_every_claim():
    outcome = run_study(SLUG)
    assert outcome.record.state == "holds", outcome.record.traceback
    judged = {claim.key for claim in outcome.record.claims if claim.verdict == "holds"}
    assert judged == {
        "polyak_peaks", "tuned_peaks", "polyak_steps", "distance_violations", "wrong_violations",
        "bound_ratios",
    }  # fmt: skip
    results = outcome.record.results
    assert results["polyak_steps"] < results["tuned_steps"] < results["fixed_steps"]
    assert results["distance_steps"] > 1000
    # One seed: what the full preset judges over many is at least in its region.
    assert results["digits_smag_worst"] < 1
    assert min(outcome.arrays["digits_sgdm_worst"]) > 0.15
    assert outcome.png


def test_the_squares_have_their_condition_and_solution():
    case = convex.Squares(100.0, np.random.default_rng(0))
    curvature = case.problem.curvature()
    assert curvature["L"] == pytest.approx(1)
    assert curvature["mu"] == pytest.approx(0.01)
    assert case.problem.value(case.solution) < 1e-25
    # The sum of lambda² / 2 over the spectrum.
    assert case.first == pytest.approx(np.sum(np.geomspace(1, 0.01, 100) ** 2) / 2)


def test_violations_are_those_of_wrong_lengths_only():
    rng = np.random.default_rng(1)
    problem, star = convex.absolute(rng)
    f_star = problem.value(star)
    run = polyak_momentum(
        problem.value, np.zeros(10), jac=problem.gradient, f_star=f_star, variant="mag",
        maxiter=100, record=True,
    )  # fmt: skip
    arguments = (star, f_star, 0.9, "convex", None)
    assert convex.violations(problem, run.history["x"], *arguments) == 0
    wrong = convex.crossed_steps(problem, f_star, 0.9, 100)
    assert convex.violations(problem, wrong, *arguments) > 0
    assert convex.violations(problem, run.history["x"][::-1], *arguments) > 90
    assert convex.violations(problem, run.history["x"], star, f_star, 0.9, "quadratic", None) > 0


def test_a_curve_that_never_falls_is_infinite():
    assert convex.first_below(np.array([3.0, 2.0, 1.0]), 2.0) == 1
    assert convex.first_below(np.array([3.0]), 2.0) == math.inf


MAKES = [
    lambda p: PolyakMomentum(p, momentum=0.5, c=0.3),
    lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9),
    lambda p: PolyakSGD(p, rule="ali-g"),
]


def test_a_fleet_is_its_networks_trained_one_by_one():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=generator)
    y = torch.randint(3, (300,), generator=generator)
    found = networks.train_fleet(x, y, (6, 5, 4, 3), MAKES, seeds=[3, 8], epochs=2)
    assert found.shape == (2, 3)
    for row, seed in zip(found, (3, 8), strict=True):
        for final, make in zip(row, MAKES, strict=True):
            assert final == pytest.approx(alone(x, y, make, seed), rel=1e-4)


def alone(x, y, make, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = networks.initial((6, 5, 4, 3), generator)
    layers = []
    for weights, biases in zip(drawn[::2], drawn[1::2], strict=True):
        layer = torch.nn.Linear(*weights.shape)
        with torch.no_grad():
            layer.weight.copy_(weights.T)
            layer.bias.copy_(biases)
        layers += [layer, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    method = make(model.parameters())
    for _ in range(2):
        order = torch.randperm(300, generator=generator)
        for rows in (order[:128], order[128:256]):
            method.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            networks.step(method, loss.item())
    return torch.nn.functional.cross_entropy(model(x), y).item()


def test_a_network_that_diverges_counts_as_infinite_and_leaves_the_others():
    x, y = torch.randn(128, 4, generator=torch.Generator().manual_seed(0)), torch.arange(128) % 2
    wild = [lambda p: torch.optim.SGD(p, lr=1e30), *MAKES[:1]]
    found = networks.train_fleet(x, y, (4, 3, 2), wild, seeds=[0], epochs=4)
    calm = networks.train_fleet(x, y, (4, 3, 2), MAKES[:1], seeds=[0], epochs=4)
    assert found[0, 0] == math.inf
    assert found[0, 1] == pytest.approx(calm[0, 0], rel=1e-5)


def test_the_summary_takes_the_worst_over_momenta_before_the_mean():
    loss = {name: np.array([1.0, 3.0]) for name in networks.entrants(extra=True)}
    loss |= {"smag 0.5": np.array([5.0, 1.0]), "smag 0.98": np.array([0.0, 4.0])}
    loss |= {"smag 0.9": np.array([0.5, 0.3]), "sps": np.array([1.0, 3.0])}
    loss |= {"sgdm 0.3 0.95": np.array([7.0, 9.0])}
    found = networks.summary(loss)
    assert found["smag_worst"] == 4.5
    assert found["sgdm_worst"].tolist() == [2.0, 2.0, 8.0, 2.0]
    assert found["worst_smag_over_alig"] == 4.5 / 2
    assert found["smag_over_sps"] == pytest.approx(0.3)
    assert found["mean_smag_over_sps"] == pytest.approx(0.2)


def test_mnist_and_text_are_measured_where_the_data_is(monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.random((256, 784)), rng.integers(10, size=256)
    monkeypatch.setattr(networks, "handwritten", lambda: images)
    found = networks.mnist(SimpleNamespace(mnist_epochs=1), 0)
    assert found["mnist_smag"].shape == (5,)
    assert found["mnist_sgdm_worst"].shape == (4,)


def table(tmp_path, kind):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3)) * [1.0, 10.0, 0.1]
    y = X @ [2.0, -1.0, 3.0] + rng.normal(size=60)
    if kind != "linear":
        y = y > 0 if kind == "logistic" else X[:, 0] > 0
    path = tmp_path / "data.csv"
    np.savetxt(path, np.column_stack([X, y]), delimiter=",", header="a,b,c,y", comments="")
    return path


@pytest.mark.parametrize("kind", ["linear", "logistic", "separable"])
def test_momenta_are_compared_on_a_file(tmp_path, kind):
    folder, summary = run_on_file(
        SLUG, table(tmp_path, kind), out=tmp_path / "out", overrides={"steps": 100}
    )
    assert (summary["rows"], summary["columns"]) == (60, 3)
    assert summary["model"].startswith("linear" if kind == "linear" else "logistic")
    assert (summary["least value"] == 0) == (kind == "separable")
    with open(folder / "gaps.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    first = summary["first value"] - summary["least value"]
    assert all(0 <= float(r["gap"]) < first for r in rows if r["method"].startswith("ALR"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 0}, "steps must be >= 1"), ({"l2": -1.0}, "l2 must be >= 0")],
)
def test_bad_settings_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run_on_file(SLUG, table(tmp_path, "linear"), out=tmp_path / "out", overrides=options)
