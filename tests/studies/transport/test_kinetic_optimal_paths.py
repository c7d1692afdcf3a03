"""The study of kinetic optimal paths: its quick run, its readings, and a user's table."""

import csv

import numpy as np
import pytest

pytest.importorskip("torch")

from thalweg import data
from thalweg.studies.transport import _kinetic_energies
from thalweg.studies.transport import kinetic_optimal_paths as study
from thalweg.study import load, run_study
from thalweg.transport import DataSeparation, GaussianPath, kinetic_energy, normalize_data

STUDY = load("kinetic-optimal-paths")
SMOOTH = DataSeparation.from_function(lambda s: (s**2 + s**4 / (1 + s**4)) / (1 + s**2))


def test_quick_run_holds_without_data(monkeypatch, tmp_path):
    monkeypatch.delenv("THALWEG_DATA", raising=False)
    monkeypatch.setattr(data, "cache_folder", lambda: tmp_path)
    outcome = run_study("kinetic-optimal-paths")
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert verdicts["moons_over_vp"] == verdicts["energy_disagreement"] == "holds"
    assert verdicts["mnist_over_vp"] == verdicts["energies_cells"] == "skipped"
    n, d, Phi, optimal, cond_ot, _ = outcome.arrays["table"].T
    np.testing.assert_allclose(optimal, 2 - 2 * np.cos(Phi), atol=1e-3)
    assert (optimal < cond_ot + 1e-9).all()
    assert optimal[(n == 10) & (d == 256)] > optimal[(n == 10) & (d == 16)]
    assert outcome.png


def test_perturbed_paths_are_paths_with_their_derivatives():
    path = _kinetic_energies.perturbed(
        GaussianPath.vp_cosine(), np.array([0.2, 0, -0.1]), np.array([0.1, 0.2, 0])
    )
    t, h = np.linspace(0.05, 0.95, 30), 1e-6
    for factor, slope in ((path.a, path.da), (path.m, path.dm)):
        np.testing.assert_allclose((factor(t + h) - factor(t - h)) / (2 * h), slope(t), atol=1e-6)
    unchanged = _kinetic_energies.perturbed(GaussianPath.vp_cosine(), np.zeros(3), np.zeros(3))
    np.testing.assert_allclose(unchanged.a(t), GaussianPath.vp_cosine().a(t))
    best = GaussianPath.kinetic_optimal(SMOOTH)
    moved = _kinetic_energies.perturbed(best, np.zeros(3), np.array([0.2, 0, 0]))
    assert kinetic_energy(moved, SMOOTH) > kinetic_energy(best, SMOOTH) + 1e-3


def test_another_path_does_not_solve_the_equation():
    assert _kinetic_energies.ode_difference(GaussianPath.kinetic_optimal(SMOOTH), SMOOTH) < 1e-4
    assert _kinetic_energies.ode_difference(GaussianPath.cond_ot(), SMOOTH) > 1e-2


def test_wrong_separation_disagrees_with_the_velocity():
    X, _, _ = normalize_data(np.random.default_rng(0).normal(size=(10, 8)))
    rng = np.random.default_rng(1)
    right = DataSeparation.from_data(X, n_draws=2000, rng=rng)
    assert _kinetic_energies.disagreement(X, right, 3000, rng) < 1
    assert _kinetic_energies.disagreement(X, DataSeparation.perfect(), 3000, rng) > 2


def test_certificate_is_in_standard_errors(monkeypatch):
    X = np.array([[-1.0], [1.0]])
    assert _kinetic_energies.certificate_excess(X, np.random.default_rng(0)) <= 3
    monkeypatch.setattr(_kinetic_energies, "separation_bound", lambda X, s: np.zeros(len(s)))
    assert _kinetic_energies.certificate_excess(X, np.random.default_rng(0)) > 3


@pytest.mark.skipif(
    not (data.available(study.MNIST) and data.available(study.CELLS)), reason="needs the data"
)
def test_real_sets_are_normalised():
    for X in study.real_sets(np.random.default_rng(0)).values():
        assert np.mean(X**2) == pytest.approx(1)
        assert len(X) == study.ROWS


def run_file(tmp_path, path, **options):
    setup = type(STUDY.preset("quick"))(**(dict(STUDY.on_file.options) | options))
    return STUDY.on_file.run(
        path, setup, tmp_path, np.random.default_rng(0), lambda fraction, message: None
    )


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_table_of_a_file_gets_its_path(tmp_path, suffix):
    X = 7 + 3 * np.random.default_rng(0).normal(size=(30, 12))
    path = tmp_path / f"table{suffix}"
    if suffix == ".npy":
        np.save(path, X)
    elif suffix == ".npz":
        np.savez(path, X=X, other=np.ones(3))
    else:
        np.savetxt(path, X, delimiter=",", header=",".join("abcdefghijkl"), comments="")
    printed = run_file(tmp_path, path, times=11, rows=25)
    assert printed["rows"] == 25
    assert printed["scale"] == pytest.approx(3, rel=0.15)
    assert printed["energy_kinetic_optimal"] == pytest.approx(
        2 - 2 * np.cos(printed["total_angle"]), abs=1e-3
    )
    assert printed["energy_kinetic_optimal"] < printed["energy_cond_ot"]
    with open(tmp_path / "path.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["t", "a", "m"]
    np.testing.assert_allclose(
        np.array(rows, dtype=float)[[0, -1]], [[0, 0, 1], [1, 1, 0]], atol=1e-9
    )


def test_csv_without_names_is_read(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("1,2\n3,4\n\n5,6\n")
    np.testing.assert_array_equal(study.read_table(path), [[1, 2], [3, 4], [5, 6]])


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("table.txt", "1,2\n3,4\n", r"must end in \.npy, \.npz or \.csv"),
        ("table.csv", "a,b\n1,x\n", "plain numbers"),
        ("table.csv", "1,2\n3\n", "plain numbers"),
        ("table.csv", "a,b\n1,2\n", "n at least 2"),
        ("table.csv", "", "n at least 2"),
        ("table.csv", "1,2\n3,nan\n", "finite"),
        ("table.csv", "1,2\n1,2\n", "zero variance"),
        ("table.npy", "1,2\n", "plain numbers"),
        ("table.npz", "1,2\n", "plain numbers"),
    ],
)
def test_bad_file_is_refused_in_one_line(tmp_path, name, text, match):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=match) as error:
        run_file(tmp_path, path)
    assert "\n" not in str(error.value)


def test_file_of_several_arrays_must_name_one(tmp_path):
    path = tmp_path / "table.npz"
    np.savez(path, a=np.eye(3), b=np.eye(3))
    with pytest.raises(ValueError, match="one array or one named 'X'"):
        run_file(tmp_path, path)
