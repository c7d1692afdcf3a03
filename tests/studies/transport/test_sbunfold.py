"""The study of unfolding by a bridge: its quick run, its parts, and a user's events."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")

from thalweg.studies.transport._sbunfold_baselines import (
    ConditionalDiffusion,
    ConditionalFlow,
)
from thalweg.studies.transport._sbunfold_events import integer_columns, spread, whole
from thalweg.studies.transport.sbunfold import effective_share, exact_errors, histograms
from thalweg.study import load, run_study
from thalweg.transport import make_jets

STUDY = load("sbunfold")
SMALL = {
    "jets": 400,
    "reference": 1000,
    "steps": 20,
    "little_draws": 1,
    "weighted_jets": 300,
    "closure_jets": 200,
    "toy_events": 300,
}


def test_quick_run_holds():
    outcome = run_study("sbunfold")
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert verdicts["over_measured"] == verdicts["closure_auc"] == "holds"
    assert verdicts["over_omnifold"] == verdicts["prior_ratio"] == "holds"
    assert verdicts["little_ratio"] == "skipped"
    found = {**outcome.record.results, **outcome.arrays}
    assert found["distances_floor"].mean() < found["distances_bridge"].mean()
    assert found["prior_errors"] == pytest.approx(found["prior_errors_exact"], abs=0.15)
    assert found["displacement_bridge"] < 1
    assert outcome.png


def test_all_parts_run_at_small_sizes():
    """Fits too short to judge; distances, ratios and the figure are there."""
    outcome = run_study("sbunfold", overrides={**SMALL, "many_calls": 50})
    assert not outcome.record.traceback, outcome.record.traceback
    found = {**outcome.record.results, **outcome.arrays}
    assert found["distances_bridge"].shape == (6,)
    means = [found[f"distances_{kind}"].mean() for kind in ("bridge", "measured", "flow")]
    assert found["over_measured"] == pytest.approx(means[0] / means[1])
    assert found["over_flow"] == pytest.approx(means[0] / means[2])
    assert found["displacement_ratio"] == pytest.approx(
        found["displacement_bridge"] / found["displacement_flow"]
    )
    assert found["few_calls_ratio"] > 0
    assert outcome.png


@pytest.mark.parametrize(
    "baseline", [ConditionalFlow(400, 0), ConditionalDiffusion(400, 0, 40)], ids=["flow", "ode"]
)
def test_baselines_learn_the_law_of_the_truth(baseline):
    """Unit Gaussians and unit noise: the truth has mean x / 2 and variance 1 / 2.

    The way from noise z to ``x / 2 + z / sqrt(2)`` is Gaussian with variance ``1/2 + 0.293^2`` in
    each of two columns, and as long on average as that deviation times sqrt(pi / 2).
    """
    rng = np.random.default_rng(0)
    truth = rng.normal(3.0, 1.0, size=(4000, 2))
    measured = truth + rng.normal(size=(4000, 2))
    unfolded, moved = baseline.fit(truth, measured).draw(measured, 1)
    mean = 3 + (measured - 3) / 2
    assert np.abs((unfolded - mean).mean(0)).max() <= 0.08
    assert (unfolded - mean).var(0) == pytest.approx([0.5, 0.5], abs=0.08)
    slope = np.mean((unfolded - 3) * (measured - 3), axis=0) / 2
    assert slope == pytest.approx([0.5, 0.5], abs=0.08)
    assert moved == pytest.approx(np.sqrt((0.5 + 0.293**2) * np.pi / 2), abs=0.05)


def test_errors_of_the_mean_halve_in_closed_form():
    np.testing.assert_allclose(exact_errors(4), 2**0.5 * 0.5 ** np.arange(1, 5))


def test_counts_are_found_spread_and_made_whole():
    rng = np.random.default_rng(0)
    truth, measured, names = make_jets(500, rng=rng)
    counts = integer_columns(truth, measured)
    assert np.flatnonzero(counts).tolist() == [names.index("multiplicity")]
    moved = spread(truth, counts, rng)
    assert (np.abs(moved - truth)[:, counts] <= 0.5).all()
    assert len(np.unique(moved[:, counts])) == 500
    np.testing.assert_array_equal(moved[:, ~counts], truth[:, ~counts])
    np.testing.assert_array_equal(whole(moved, counts), truth)


def test_effective_share_of_weights():
    assert effective_share(np.ones(8)) == 1
    assert effective_share(np.array([1.0, 0, 0, 0])) == 0.25


def test_histograms_hold_all_events_within_their_edges():
    truth, measured, names = make_jets(2000, rng=0)
    weights = np.linspace(0, 2, 2000)
    found = histograms(truth, measured, truth, truth, weights, names)
    for j in range(6):
        assert found[f"shares_truth_{j}"].sum() == pytest.approx(1, abs=0.01)
        np.testing.assert_allclose(found[f"shares_bridge_{j}"], found[f"shares_truth_{j}"])
        assert found[f"shares_omnifold_{j}"].sum() == pytest.approx(1, abs=0.02)
    assert (np.diff(found["edges_2"]) == 2).all()


def unfold_file(tmp_path, arrays, **options):
    path = tmp_path / "events.npz"
    np.savez(path, **arrays)
    setup = type(STUDY.preset("quick"))(**(dict(STUDY.on_file.options) | options))
    printed = STUDY.on_file.run(
        path, setup, tmp_path, np.random.default_rng(0), lambda fraction, message: None
    )
    return printed, np.load(tmp_path / "unfolded.npz")


def pairs(n, mean, rng):
    truth = np.column_stack([rng.normal(mean, 1.0, n), rng.poisson(20, n)])
    measured = np.column_stack([2 * truth[:, 0] + 0.5 * rng.normal(size=n), truth[:, 1] + 5])
    return truth, measured


def test_events_of_a_file_are_unfolded(tmp_path):
    rng = np.random.default_rng(0)
    truth, measured = pairs(2000, 0.0, rng)
    data_truth, data = pairs(500, 0.5, rng)
    arrays = {"truth": truth, "measured": measured, "data": data, "data_truth": data_truth}
    printed, written = unfold_file(tmp_path, arrays, steps=400, iterations=2)
    assert written["unfolded"].shape == (500, 2)
    assert written["weights"].shape == (2000,)
    assert (written["unfolded"][:, 1] == np.round(written["unfolded"][:, 1])).all()
    assert printed["columns_of_counts"] == [1]
    assert printed["mean_distance_unfolded"] < 0.3 * printed["mean_distance_measured"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["column 0"]["distance"] < report["column 0"]["before"]
    assert report["column 0"]["deviation"] > 0


def test_file_without_truths_of_the_data_is_unfolded(tmp_path):
    truth, measured = pairs(100, 0.0, np.random.default_rng(0))
    arrays = {"truth": truth, "measured": measured, "data": measured[:30]}
    printed, written = unfold_file(tmp_path, arrays, steps=5, nfe=3, cond=False)
    assert written["unfolded"].shape == (30, 2)
    assert not (tmp_path / "report.json").exists()
    assert "mean_distance_unfolded" not in printed


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"data": None}, "no array 'data'"),
        ({"measured": np.eye(4)[:3]}, "must be pairs"),
        ({"data": np.eye(3)}, "data must have as many columns as truth"),
        ({"data": np.full((3, 4), np.nan)}, "data must be finite"),
        ({"truth": np.array([["a"], ["b"]])}, "truth must be numbers"),
        ({"truth": np.ones(4)}, "truth must be numbers of shape"),
        ({"data_truth": np.ones((1, 4))}, "data_truth must be numbers"),
    ],
)
def test_bad_file_is_refused_in_one_line(tmp_path, change, match):
    arrays = {"truth": np.eye(4), "measured": np.eye(4), "data": np.eye(4), **change}
    arrays = {name: value for name, value in arrays.items() if value is not None}
    with pytest.raises(ValueError, match=match) as error:
        unfold_file(tmp_path, arrays)
    assert "\n" not in str(error.value)


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text("1,2\n")
    with pytest.raises(ValueError, match=r"is not an \.npz file"):
        STUDY.on_file.run(path, STUDY.preset("quick"), tmp_path, None, None)
