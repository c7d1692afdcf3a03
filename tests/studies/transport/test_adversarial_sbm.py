"""The study of adversarial bridges: its quick run, its measures, and a user's clouds."""

import numpy as np
import pytest

pytest.importorskip("torch")

from thalweg.studies.transport._adversarial_sbm_cases import (
    CONDITION,
    covariance,
    gaussian_pair,
    mixture_error,
    rate,
    swiss_roll,
)
from thalweg.studies.transport.adversarial_sbm import read_pair
from thalweg.study import load, run_study

STUDY = load("adversarial-sbm")


def test_quick_run_holds():
    outcome = run_study("adversarial-sbm")
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    for key in ("largest_rise", "kl_at_end", "least_r2", "one_inner_kl", "affine_plan_error"):
        assert verdicts[key] == "holds"
    assert verdicts["roll_excess"] == verdicts["plan_errors"] == verdicts["time_ratio"] == "skipped"
    assert outcome.arrays["kl"].shape == (2, 4, 5, 61)
    assert outcome.arrays["roll_paths"].shape == (5, 40, 2)
    assert outcome.png


def test_rate_is_that_of_a_geometric_sequence():
    path = 5.0 * 0.3 ** np.arange(40.0)
    slope, r2 = rate(path)
    assert slope == pytest.approx(np.log(0.3))
    assert r2 == pytest.approx(1)
    assert rate(np.array([1.0, 1e-3, 1e-5, 1e-9])) is None
    _, r2 = rate(1e-2 / (1.0 + np.arange(40.0)) ** 3)
    assert r2 < 0.98


def test_covariances_have_the_chosen_condition():
    S = covariance(16, np.random.default_rng(0))
    values = np.linalg.eigvalsh(S)
    assert values[-1] / values[0] == pytest.approx(CONDITION)
    np.testing.assert_allclose(S, S.T)


def test_exact_transitions_solve_pair_and_plan():
    rng = np.random.default_rng(0)
    assert gaussian_pair(1.0, rng, transition="gaussian") < 0.05
    error = mixture_error(2, rng, transition="gaussian", n_iter=1)
    assert 0 < error < 100


def test_roll_is_about_one_unit_wide():
    roll = swiss_roll(2000, np.random.default_rng(0))
    assert roll.shape == (2000, 2)
    assert 0.5 < roll.std() < 1.5


def fit_file(tmp_path, path, **options):
    setup = type(STUDY.preset("quick"))(**(dict(STUDY.on_file.options) | options))
    return STUDY.on_file.run(path, setup, tmp_path, np.random.default_rng(0), lambda *_: None)


@pytest.mark.parametrize("options", [{"transition": "gaussian"}, {"steps": 20, "n_iter": 1}])
def test_clouds_of_a_user_are_translated(tmp_path, options):
    rng = np.random.default_rng(0)
    path = tmp_path / "clouds.npz"
    np.savez(path, source=rng.normal(size=(200, 2)), target=rng.normal(5, 0.5, size=(150, 2)))
    printed = fit_file(tmp_path, path, **options)
    assert printed["points"] == 200
    assert printed["projections"] == 2 * options.get("n_iter", 3)
    written = np.load(tmp_path / "translated.npz")
    assert written["translated"].shape == (200, 2)
    assert written["backward"].shape == (150, 2)
    assert len(written["energy_distances"]) == len(written["losses"]) == printed["projections"]
    assert abs(written["translated"].mean() - 5) < 0.5
    assert abs(written["backward"].mean()) < 0.5
    assert list(written["directions"][:2]) == ["forward", "backward"]


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"source": np.ones((5, 1))}, "no array 'target'"),
        ({"source": np.ones(5), "target": np.ones((5, 1))}, "source must be numbers of shape"),
        ({"source": np.ones((5, 1)), "target": np.ones((1, 1))}, "target must be numbers of shape"),
        ({"source": np.ones((5, 1)), "target": np.ones((5, 2))}, "as many columns"),
        ({"source": np.full((5, 1), np.nan), "target": np.ones((5, 1))}, "source must be finite"),
        ({"source": np.array([["a"], ["b"]]), "target": np.ones((5, 1))}, "must be numbers"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(tmp_path, arrays, match):
    path = tmp_path / "clouds.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=match) as error:
        read_pair(path)
    assert "\n" not in str(error.value)


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "clouds.npz"
    path.write_text("1,2\n")
    with pytest.raises(ValueError, match=r"is not an \.npz file"):
        read_pair(path)
