"""The study of the simplified diffusion bridge: its quick run, its parts, and a user's clouds."""

import numpy as np
import pytest

pytest.importorskip("torch")

from thalweg.studies.transport import _simplified_dsb_clouds as clouds
from thalweg.studies.transport import _simplified_dsb_planes as planes
from thalweg.studies.transport import simplified_dsb as module
from thalweg.study import load, run_study
from thalweg.study.studies import Setup

STUDY = load("simplified-dsb")


def test_quick_run_holds():
    outcome = run_study("simplified-dsb")
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert verdicts["gap_slope"] == verdicts["cross_errors"] == "holds"
    assert verdicts["time_ratio"] == verdicts["digits_ratio"] == "skipped"
    assert outcome.arrays["ipf_errors"][-1] < 1e-10
    assert outcome.png


def test_optima_are_those_derived():
    slope, gamma, epsilon = np.array([[0.5, 1.0], [-2.0, 0.3]]), 0.02, 2.0
    A = np.eye(2) + gamma * slope
    S_next = A @ clouds.S0 @ A.T + epsilon * gamma * np.eye(2)
    simple, original = module.optima(clouds.S0, slope, gamma, epsilon)
    np.testing.assert_allclose(simple, clouds.S0 @ A.T @ np.linalg.inv(S_next), atol=1e-12)
    exact = 2 * np.eye(2) - A - epsilon * gamma * np.linalg.inv(S_next)
    np.testing.assert_allclose(original, exact, atol=1e-12)


@pytest.mark.parametrize("name", ["checkerboard", "pinwheel", "normal", "roll"])
def test_clouds_of_the_plane_have_about_unit_spread(name):
    x = getattr(clouds, name)(4000, np.random.default_rng(0))
    assert x.shape == (4000, 2)
    assert x.std(0) == pytest.approx(np.ones(2), abs=0.1)


def test_pinwheel_has_its_arms():
    x = clouds.pinwheel(5000, np.random.default_rng(0))
    radius = np.linalg.norm(x, axis=1) / 1.35
    angle = np.arctan2(x[:, 1], x[:, 0]) - 0.25 * np.exp(radius)
    arm = angle * 5 / (2 * np.pi)
    assert np.abs(arm - np.round(arm)).mean() < 0.1
    assert len(np.unique(np.round(arm) % 5)) == 5


def test_figures_of_the_planes_follow_from_the_distances():
    """Hand-made curves of two epochs of 2 x 10 updates."""
    results, setup = {}, Setup(plane_steps=10)
    for pair in planes.PLANES:
        curves = {"transition": [0.6, 0.2], "original": [0.5, 0.1], "terminal": [1.0, 0.3]}
        curves |= {"flow": [1.0, 0.1], "transition_started": [0.3, 0.1], "flow_started": [0.9, 0.8]}
        results |= {f"{pair}_{name}": np.array(curve) for name, curve in curves.items()}
        results |= {f"{pair}_given": 0.4, f"{pair}_given_cost": 2.0}
        results |= {f"{pair}_{name}_started_cost": 1.0 for name in planes.STARTED}
    found = planes.compared(results, setup)
    assert found["original_ratio"] == pytest.approx(2.0)
    assert found["first_ratio"] == pytest.approx([0.5, 0.9])
    assert found["improvement"] == pytest.approx([4.0, 0.5])
    assert found["cost_ratio"] == pytest.approx(np.full(4, 0.5))
    assert found["reparametrised_ratio"] == pytest.approx(0.5)
    assert found["updates_ratio"] == pytest.approx([30 / 40, np.inf])


def test_a_tiny_full_run_measures_and_draws_all(monkeypatch, tmp_path):
    monkeypatch.delenv("THALWEG_DATA", raising=False)
    monkeypatch.setattr("thalweg.data.cache_folder", lambda: tmp_path)
    sizes = {"gaussian_points": 200, "gaussian_epochs": 1, "gaussian_steps": 3, "timed_steps": 3}
    sizes |= {"timed_fits": 1, "plane_steps": 3, "epochs": 2, "points": 200, "judged": 100}
    outcome = run_study("simplified-dsb", preset="full", overrides=sizes)
    assert outcome.record.state in ("holds", "does not hold"), outcome.record.traceback
    assert outcome.arrays["board_flow_started"].shape == (2,)
    assert outcome.png


def test_clouds_of_a_file_are_joined(tmp_path):
    rng = np.random.default_rng(0)
    source, target = 30 + rng.normal(size=(300, 2)), rng.normal(50.0, 10.0, size=(200, 2))
    np.savez(tmp_path / "clouds.npz", source=source, target=target)
    setup = Setup(**{**STUDY.on_file.options, "epochs": 1, "steps": 80, "times": 10})
    seen = []
    printed = STUDY.on_file.run(
        tmp_path / "clouds.npz", setup, tmp_path, rng, lambda share, text: seen.append(share)
    )
    written = np.load(tmp_path / "bridge.npz")
    assert written["forward"].shape == (300, 2)
    assert written["backward"].shape == (200, 2)
    assert list(written["direction"]) == ["backward", "forward"]
    assert seen == sorted(seen)
    assert seen[-1] == 0.9
    far = printed["energy_distance_source_to_target"]
    assert printed["energy_distance_forward_to_target"] < 0.1 * far
    assert printed["energy_distance_backward_to_source"] < 0.1 * far


def test_points_that_coincide_are_refused(tmp_path):
    np.savez(tmp_path / "clouds.npz", source=np.zeros((3, 1)), target=np.zeros((3, 1)))
    with pytest.raises(ValueError, match="single points"):
        STUDY.on_file.run(
            tmp_path / "clouds.npz", STUDY.preset("quick"), tmp_path, np.random.default_rng(0), None
        )
