from __future__ import annotations

import csv

import numpy as np
import pytest

from thalweg.linalg import pair_potential, scaled_condition, stability_bound
from thalweg.study import run_study
from thalweg.study.on_file import run_on_file

SLUG = "randomized-pivoting"


def values_in(path):
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["index", "value"]
    return np.array([float(value) for _, value in rows[1:]])


def test_the_claims_hold_at_quick_size():
    outcome = run_study(SLUG)
    assert outcome.record.state == "holds", outcome.record.traceback
    assert outcome.png
    assert outcome.arrays["rate_error"].max() < 1e-13
    assert np.allclose(
        np.log(outcome.arrays["mean_potential"]), np.log(outcome.arrays["theory"]), atol=0.2
    )


@pytest.mark.parametrize("suffix", ["npy", "csv"])
def test_a_users_matrix_gets_singular_values_and_a_certificate(tmp_path, suffix):
    a = np.array([[1.0, 1e-12], [1.0, -1e-12], [1.0, 3e-12]])
    path = tmp_path / f"a.{suffix}"
    np.save(path, a) if suffix == "npy" else np.savetxt(path, a, delimiter=",", fmt="%.17g")
    folder, summary = run_on_file(SLUG, path, out=tmp_path / "out")
    s = values_in(folder / "singular_values.csv")
    u, v = np.load(folder / "left_vectors.npy"), np.load(folder / "right_vectors.npy")
    # orthogonal complement of (1, 1, 1) in (1, -1, 3): squared norm 8
    assert np.allclose(s, [np.sqrt(3), np.sqrt(8) * 1e-12], rtol=1e-12)
    assert np.allclose(u * s @ v.T, a, rtol=1e-12)
    assert summary["converged"]
    assert summary["potential"] == pytest.approx(pair_potential(a.T @ a))
    assert summary["scaled_condition"] == pytest.approx(scaled_condition(a.T @ a))
    bound = stability_bound(summary["potential"], 2, 0.1)
    assert summary["stability_bound"] == pytest.approx(bound)
    assert summary["relative_error_scale"] == pytest.approx(2.0**-53 * np.sqrt(bound))


def test_a_wide_matrix_keeps_its_sides(tmp_path):
    a = np.random.default_rng(0).normal(size=(2, 4))
    np.save(tmp_path / "a.npy", a)
    folder, summary = run_on_file(SLUG, tmp_path / "a.npy", out=tmp_path / "out")
    u, v = np.load(folder / "left_vectors.npy"), np.load(folder / "right_vectors.npy")
    assert (summary["rows"], summary["columns"]) == (2, 4)
    assert np.allclose(u * values_in(folder / "singular_values.csv") @ v.T, a)


def test_a_symmetric_matrix_gets_eigenvalues(tmp_path):
    h = np.array([[2.0, 1.0], [1.0, 2.0]])
    np.save(tmp_path / "h.npy", h)
    folder, summary = run_on_file(SLUG, tmp_path / "h.npy", out=tmp_path / "out")
    v = np.load(folder / "eigenvectors.npy")
    assert np.allclose(values_in(folder / "eigenvalues.csv"), [1, 3])
    assert np.allclose(h @ v, v * [1, 3])
    # kappa of the scaled matrix: 1.5 / 0.5
    assert summary["scaled_condition"] == pytest.approx(3)
    assert summary["relative_error_scale"] == pytest.approx(2.0**-53 * summary["stability_bound"])


def test_an_indefinite_matrix_gets_no_certificate(tmp_path):
    np.save(tmp_path / "h.npy", np.array([[0.0, 1.0], [1.0, 0.0]]))
    _, summary = run_on_file(SLUG, tmp_path / "h.npy", out=tmp_path / "out")
    assert summary["certificate"].startswith("none")
    assert "stability_bound" not in summary


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"1,2", r"expected a \.npy or \.csv file"),
        ("a.csv", b"x,y\n1,2\n", "holds no matrix of numbers"),
        ("a.csv", b"1,2\n3\n", "holds no matrix of numbers"),
        ("a.csv", b"1,nan\n3,4\n", "nan in row 0, column 1 is not finite"),
        ("a.csv", b"", "expected a matrix"),
        ("a.npy", b"nonsense", "holds no matrix of numbers"),
        ("a.csv", b"1,2\n1,2\n2,4\n", "a must have full column rank"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_bad_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        run_on_file(SLUG, tmp_path / name, out=tmp_path / "out")


@pytest.mark.parametrize("array", [np.zeros(3), np.array([["a"]]), np.eye(2) * 1j])
def test_arrays_that_are_no_real_matrix_are_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match="--input: expected"):
        run_on_file(SLUG, tmp_path / "a.npy", out=tmp_path / "out")


def test_unreasonable_sizes_are_refused_before_they_are_read(tmp_path):
    np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", shape=(5000, 5000))
    with pytest.raises(ValueError, match="at most 4000 columns"):
        run_on_file(SLUG, tmp_path / "a.npy", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"), [({"delta": 2.0}, "delta"), ({"pivoting": "rows"}, "pivoting")]
)
def test_bad_settings_are_refused(tmp_path, options, message):
    np.save(tmp_path / "a.npy", np.eye(3))
    with pytest.raises(ValueError, match=message):
        run_on_file(SLUG, tmp_path / "a.npy", out=tmp_path / "out", overrides=options)
