"""The study of the light bridge: its quick run, and the map of a user's clouds."""

import numpy as np
import pytest

from thalweg import data
from thalweg.studies.transport._light_sb_rates import SinkhornPotentials, roll_log_density
from thalweg.studies.transport.light_sb import CELLS
from thalweg.study import load, run_study

STUDY = load("light-sb")


def test_quick_run_holds_without_the_cells(monkeypatch, tmp_path):
    monkeypatch.delenv("THALWEG_DATA", raising=False)
    monkeypatch.setattr(data, "cache_folder", lambda: tmp_path)
    outcome = run_study("light-sb")
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert verdicts["default_errors"] == "holds"
    assert verdicts["cells50_day3_bridge"] == "skipped"
    errors = outcome.arrays["our_errors"]
    assert errors[-1] < errors[0] / 5
    assert max(outcome.arrays["roll_distances"]) <= 0.02
    assert outcome.png


@pytest.mark.skipif(
    not all(data.available(CELLS[50, day]) for day in (2, 3, 4)), reason="needs the cells"
)
def test_cells_are_measured_where_they_are():
    setup = {"pair_points": 2000, "roll_steps": 5}
    outcome = run_study("light-sb", overrides=setup)
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert verdicts["cells50_day3_bridge"] == "holds", outcome.record.traceback
    assert verdicts["cells50_day3_over_best_baseline"] == "holds"


def test_density_of_the_roll_has_mass_one():
    axis = np.linspace(-3.5, 3.5, 100)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    mass = np.exp(roll_log_density(grid)).sum() * (axis[1] - axis[0]) ** 2
    assert mass == pytest.approx(1, abs=1e-6)


def test_extended_potentials_of_shifted_normals_reach_the_known_optimum():
    """N(0, 1) to N(0, s^2) has a Gaussian potential; 0.02 nats by the 400 points of the sample."""
    epsilon, s, n = 1.0, 1.5, 400
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(n, 1)), s * rng.normal(size=(n, 1))

    def log_density(y):
        return -0.5 * (y[:, 0] / s) ** 2 - np.log(s * np.sqrt(2 * np.pi))

    potentials = SinkhornPotentials(X, Y, epsilon, log_density)
    cross = (np.sqrt(4 * s**2 + epsilon**2) - epsilon) / 2
    scale = cross  # the conditional law is N(S x, eps S), S = cov(x, y) / var(x)
    fresh_x, fresh_y = rng.normal(size=(20_000, 1)), s * rng.normal(size=(20_000, 1))
    log_c = scale * fresh_x[:, 0] ** 2 / (2 * epsilon)
    log_v = -0.5 * (fresh_y[:, 0] ** 2 / (epsilon * scale) + np.log(2 * np.pi * epsilon * scale))
    gap = potentials.loss(fresh_x, fresh_y) - (log_c.mean() - log_v.mean())
    assert abs(gap) <= 0.02


def map_clouds(tmp_path, arrays, **options):
    path = tmp_path / "clouds.npz"
    np.savez(path, **arrays)
    setup = type(STUDY.preset("quick"))(**(dict(STUDY.on_file.options) | options))
    printed = STUDY.on_file.run(
        path, setup, tmp_path, np.random.default_rng(0), lambda fraction, message: None
    )
    return printed, np.load(tmp_path / "bridge.npz")


def test_clouds_of_a_file_are_mapped(tmp_path):
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(300, 2)), rng.normal(50.0, 10.0, size=(250, 2))
    middle = 0.75 * source + 0.25 * (50 + 10 * rng.normal(size=(300, 2)))
    printed, written = map_clouds(
        tmp_path,
        {"source": source, "target": target, "middle": middle, "t": 0.25},
        steps=300,
        components=5,
    )
    assert written["mapped"].shape == written["at_t"].shape == (300, 2)
    np.testing.assert_allclose(written["mapped"].mean(0), target.mean(0), atol=2.0)
    np.testing.assert_allclose(written["conditional_mean"].mean(0), target.mean(0), atol=1.0)
    np.testing.assert_allclose(written["at_t"].mean(0), middle.mean(0), atol=2.0)
    assert printed["energy_distance_mapped_to_target"] <= 1.0
    assert printed["t"] == 0.25
    assert printed["energy_distance_at_t_to_middle"] < printed["energy_distance_source_to_middle"]


def test_file_without_a_middle_is_mapped(tmp_path):
    clouds = np.random.default_rng(0).normal(size=(2, 30, 1))
    printed, written = map_clouds(
        tmp_path, {"source": clouds[0], "target": clouds[1]}, steps=5, rescale=False
    )
    assert set(written.files) == {"mapped", "conditional_mean"}
    assert printed["unit"] == 1.0


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"source": np.zeros((3, 2))}, "no array 'target'"),
        ({"source": np.zeros((3, 2)), "target": np.zeros((3, 1))}, "as many columns"),
        ({"source": np.zeros(3), "target": np.zeros((3, 1))}, "source must be numbers"),
        ({"source": np.zeros((3, 1)), "target": np.full((3, 1), np.nan)}, "target must be finite"),
        ({"source": np.zeros((3, 1)), "target": np.zeros((3, 1))}, "single points"),
        ({"source": np.eye(3), "target": np.eye(3), "t": np.array(2.0)}, "t must be one number"),
        ({"source": np.array([["a"], ["b"]]), "target": np.zeros((3, 1))}, "must be numbers"),
    ],
)
def test_bad_file_is_refused_in_one_line(tmp_path, arrays, match):
    with pytest.raises(ValueError, match=match) as error:
        map_clouds(tmp_path, arrays)
    assert "\n" not in str(error.value)


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "clouds.csv"
    path.write_text("1,2\n")
    with pytest.raises(ValueError, match=r"is not an \.npz file"):
        STUDY.on_file.run(path, STUDY.preset("quick"), tmp_path, None, None)
