from __future__ import annotations

import csv

import numpy as np
import pytest

from thalweg.linalg import finite_sampler, lms_sampler, lyapunov_constants, stationary_covariance
from thalweg.studies.linalg import linear_stochastic_approximation as study
from thalweg.study import run_study
from thalweg.study.on_file import run_on_file

SLUG = "linear-stochastic-approximation"


def test_the_claims_hold_at_quick_size():
    outcome = run_study(SLUG)
    assert outcome.record.state == "holds", outcome.record.traceback
    assert outcome.png
    arrays = outcome.arrays
    assert (np.diff(arrays["order"]) < 0).all()
    assert (arrays["radius"] > arrays["error_quantile"]).all()
    assert (np.diff(arrays["survival"]) <= 0).all()
    assert (np.diff(arrays["covariance_gaps"]) > 0).all()


def test_norms_of_products_of_one_factor():
    sampler = finite_sampler([np.diag([1.0, 3.0]), np.diag([2.0, -1.0])], np.zeros((2, 2)))
    norms = study.product_norms(sampler, 0.5, np.array([1, 2]), 500, np.random.default_rng(0))
    assert norms.shape == (2, 500)
    # I - A / 2 is diag(0.5, -0.5) or diag(0, 1.5)
    assert set(norms[0].round(12)) == {0.5, 1.5}
    assert set(norms[1].round(12)) == {0.25, 0.75, 2.25}


def test_the_scalar_example_has_its_moments():
    sampler = study.scalar_sampler()
    assert sampler.a_bar.item() == pytest.approx(1.4)
    assert sampler.a_second_moment.item() == pytest.approx(3.84)
    assert sampler.noise_cov.item() == pytest.approx(1.0)
    assert sampler.cross.item() == pytest.approx(0.0)


def test_the_walk_stays_uniform_and_its_features_are_orthogonal():
    sampler, phi = study.walk_sampler()
    np.testing.assert_allclose(phi.T @ phi, 4 * np.eye(5), atol=1e-12)
    # cosines are eigenvectors of the reflecting walk
    eigenvalues = np.cos(np.pi * np.arange(5) / 20)
    np.testing.assert_allclose(sampler.a_bar, np.diag(1 - 0.5 * eigenvalues) / 5, atol=1e-12)


def table(rows=400, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(rows, 2))
    return np.column_stack([X, X @ [1.0, -2.0] + 0.5 + 0.1 * rng.normal(size=rows)])


def read(path):
    with open(path, newline="") as file:
        return {row.pop("column"): row for row in csv.DictReader(file)}


def test_a_users_table_is_filtered(tmp_path):
    data = table()
    np.savetxt(tmp_path / "t.csv", data, delimiter=",", fmt="%.17g", header="a,b,y", comments="")
    folder, summary = run_on_file(
        SLUG,
        tmp_path / "t.csv",
        out=tmp_path / "out",
        overrides={"intercept": True, "tail": False},
    )
    rows = read(folder / "estimates.csv")
    assert list(rows) == ["intercept", "a", "b"]
    X = np.column_stack([np.ones(400), data[:, :2]])
    least = np.linalg.lstsq(X, data[:, 2])[0]
    values = {key: [float(row[key]) for row in rows.values()] for key in rows["a"]}
    np.testing.assert_allclose(values["least squares"], least, rtol=1e-10)
    error = np.abs(np.subtract(values["estimate"], least))
    assert (error < values["radius 0.95"]).all()
    assert (error < 5 * np.array(values["standard error"])).all()
    assert summary["largest distance from least squares"] == pytest.approx(error.max())
    assert summary["iterations"] == 4000
    sampler = lms_sampler(X, data[:, 2])
    constants = lyapunov_constants(sampler.a_bar)
    v = np.mean(constants.norm(sampler.deviations) ** 2)
    admissible = min(constants.step_max, constants.a / v)
    assert summary["step size"] == pytest.approx(admissible / 2)
    covariance = stationary_covariance(
        sampler.a_bar, sampler.noise_cov, admissible / 2, sampler.a_second_moment
    )
    np.testing.assert_allclose(np.loadtxt(folder / "covariance.csv", delimiter=","), covariance)
    assert summary["mean-square stable"]
    assert "tail order" not in summary


def test_heavy_tails_are_reported(tmp_path):
    # x**2 is 1 or 9: |1 - step x**2| exceeds 1 at step 0.3 for 9
    x = np.repeat([1.0, 3.0], [6, 4])
    np.savetxt(tmp_path / "t.csv", np.column_stack([x, x + 0.1]), delimiter=",")
    _, summary = run_on_file(
        SLUG, tmp_path / "t.csv", out=tmp_path / "out", overrides={"step_size": 0.24}
    )
    # 0.6 * 0.76**k + 0.4 * 1.16**k = 1
    kappa = summary["tail order"]
    assert 0.6 * 0.76**kappa + 0.4 * 1.16**kappa == pytest.approx(1, abs=0.02)
    assert summary["tail order, standard error"] > 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "1,2\n", r"expected a \.csv file"),
        ("t.csv", "a,b\n1,x\n", "holds no table of numbers"),
        ("t.csv", "1,2\n3\n", "holds no table of numbers"),
        ("t.csv", "1,2\n3,nan\n", "nan in data row 1, column 1 is not finite"),
        ("t.csv", "1,2\n", "at least two rows"),
        ("t.csv", "1\n2\n", "at least two rows and two columns"),
        ("t.csv", "", "at least two rows"),
        ("t.csv", "a,b,c\n1,2\n3,4\n", "3 names for 2 columns"),
        ("t.csv", "1,1,2\n2,2,1\n3,3,5\n", "linearly independent"),
        ("t.csv", "\n".join([",".join(["1"] * 40)] * 3), "at most 30 predictors"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_bad_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        run_on_file(SLUG, tmp_path / name, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": -1.0}, "step_size must be"),
        ({"passes": 0.0}, "passes must be"),
        ({"delta": 1.0}, "delta must be"),
        ({"step_size": 1e6}, "overflowed at iteration"),
    ],
)
def test_bad_settings_are_refused(tmp_path, options, message):
    np.savetxt(tmp_path / "t.csv", table(50), delimiter=",")
    with pytest.raises(ValueError, match=message):
        run_on_file(SLUG, tmp_path / "t.csv", out=tmp_path / "out", overrides=options)
