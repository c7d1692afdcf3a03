"""The study of refined references: its quick run, and the fit of a user's snapshots."""

import csv

import numpy as np
import pytest

from thalweg.studies.transport.iterative_reference_refinement import (
    PARTICLES,
    PREDATION,
    TIMES,
    errors,
    family_of,
    fitted,
    linear_error,
    population,
    read_snapshots,
    wanted_times,
)
from thalweg.study import load, run_study
from thalweg.transport import LotkaVolterra, OrnsteinUhlenbeck, ZeroDrift, simulate

STUDY = load("iterative-reference-refinement")


def test_quick_run_holds():
    outcome = run_study("iterative-reference-refinement")
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert verdicts["vanilla_ratio"] == verdicts["median_rate_errors"] == "holds"
    assert verdicts["circuit_ratio"] == verdicts["cells_over_vanilla"] == "skipped"
    assert outcome.arrays["emd_by_round"].shape == (1, 4)
    assert outcome.png


def test_each_snapshot_is_of_particles_of_its_own():
    starts, seen = population(LotkaVolterra(), PREDATION, (5.0, 4.0), np.random.default_rng(0))
    assert len(seen) == len(TIMES)
    assert all(cloud.shape == (PARTICLES, 2) for cloud in seen)
    np.testing.assert_array_equal(seen[0], starts[0])
    assert len({start.tobytes() for start in starts}) == len(TIMES)


def test_lines_between_pairs_are_exact_for_a_cloud_that_translates():
    shape = np.random.default_rng(0).normal(size=(20, 2))
    assert linear_error([shape + 0.3 * t for t in TIMES]) == pytest.approx(0, abs=1e-12)


def test_errors_are_those_of_the_snapshots_left_out():
    rng = np.random.default_rng(0)
    seen = [rng.normal(0, 0.2, (10, 1)) + t for t in TIMES]
    model = fitted(ZeroDrift(), seen, 1, rng, dt=0.25, n_ipfp=1)
    found = errors(model, seen, 0)
    assert found.shape == (4,)
    moved = [cloud + 100.0 if k % 2 else cloud for k, cloud in enumerate(seen)]
    np.testing.assert_allclose(errors(model, moved, 0), 100, atol=2)


def fit_file(tmp_path, path, **options):
    settings = {"n_refine": 3, "n_ipfp": 2, "dt": 0.1, "sigma": 0.3} | options
    setup = type(STUDY.preset("quick"))(**(dict(STUDY.on_file.options) | settings))
    return STUDY.on_file.run(path, setup, tmp_path, np.random.default_rng(0), lambda *_: None)


def decaying(dim=1):
    starts = [np.random.default_rng(k).normal(3.0, 0.2, (30, dim)) for k in range(3)]
    truth = np.concatenate([-np.eye(dim).ravel(), np.zeros(dim)])
    return simulate(OrnsteinUhlenbeck(dim), truth, starts, [0.0, 1.0, 2.0], 0.3, rng=0)


def test_table_of_snapshots_is_fitted_and_clouds_are_written(tmp_path):
    path = tmp_path / "cells.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["gene", "time"])
        for t, cloud in zip((0.0, 1.0, 2.0), decaying(), strict=True):
            writer.writerows([[x, t] for x in cloud[:, 0]])
    printed = fit_file(tmp_path, path, family="ou", at="0.5,3")
    assert printed["A[0,0]"] == pytest.approx(-1, abs=0.4)
    assert printed["objective_at_end"] < printed["objective_at_start"]
    table = np.genfromtxt(tmp_path / "clouds.csv", delimiter=",", names=True)
    assert table.dtype.names == ("time", "gene")
    assert set(table["time"]) == {0.5, 3.0}
    assert table["gene"][table["time"] == 0.5].mean() == pytest.approx(3 * np.exp(-0.5), abs=0.3)
    parameters = (tmp_path / "parameters.csv").read_text().splitlines()
    assert parameters[0] == "name,value"
    assert parameters[1].startswith('"A[0,0]",-')
    assert np.load(tmp_path / "trajectories.npz")["trajectories"].shape == (90, 21, 1)


def test_arrays_of_snapshots_are_fitted_halfway_between(tmp_path):
    path = tmp_path / "cells.npz"
    clouds = {f"snapshots_{k}": cloud for k, cloud in enumerate(decaying(2))}
    np.savez(path, times=[0, 1, 2], **clouds)
    printed = fit_file(tmp_path, path, n_refine=2)
    assert set(LotkaVolterra().names) <= set(printed)
    table = np.genfromtxt(tmp_path / "clouds.csv", delimiter=",", names=True)
    assert set(table["time"]) == {0.5, 1.5}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "needs a column 'time'"),
        ("a,b\n1,2\n", "needs a column 'time'"),
        ("time\n1\n", "needs a column 'time' and others"),
        ("time,a\n1,x\n", "must be 2 numbers"),
        ("time,a\n1,2,3\n", "must be 2 numbers"),
        ("time,a\n1,2\n1\n", "must be 2 numbers"),
        ("time,a\n1,nan\n", "must be finite"),
        ("time,a\n1,2\n1,3\n", "snapshots at two or more times"),
    ],
)
def test_bad_table_is_refused_in_one_line(tmp_path, text, match):
    path = tmp_path / "cells.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=match) as error:
        read_snapshots(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"snapshots_0": np.ones((5, 1))}, "needs an array 'times'"),
        ({"times": [0, 1], "snapshots_0": np.ones((5, 1))}, "snapshots_1 must be numbers"),
        ({"times": [0], "snapshots_0": np.ones((5, 1))}, "two or more times"),
        ({"times": ["a", "b"]}, "needs an array 'times'"),
        ({"times": [0, 1], "snapshots_0": np.ones(5)}, "snapshots_0 must be numbers"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(tmp_path, arrays, match):
    path = tmp_path / "cells.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=match):
        read_snapshots(path)


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "cells.npz"
    path.write_text("1,2\n")
    with pytest.raises(ValueError, match=r"is not an \.npz file"):
        read_snapshots(path)
    with pytest.raises(ValueError, match=r"expected a \.csv or \.npz"):
        read_snapshots(tmp_path / "cells.txt")


def test_settings_are_refused_by_name():
    with pytest.raises(ValueError, match="at must be numbers"):
        wanted_times("1;2", np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="at must be finite and at least 0, got -1"):
        wanted_times("0.5,-1", np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="family must be"):
        family_of("kepler", 2)
    with pytest.raises(ValueError, match="needs 2 columns"):
        family_of("lotka-volterra", 3)
