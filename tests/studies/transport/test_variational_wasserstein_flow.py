"""The study of Wasserstein gradient flows: its quick run, its targets, a user's clouds."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from thalweg.study import load, run_study
from thalweg.transport import energy_distance

torch = pytest.importorskip("torch")

from thalweg.studies.transport._wasserstein_flow_targets import (  # noqa: E402
    GaussianTarget,
    LogisticPosterior,
    MixtureTarget,
    gradient,
    langevin,
    stein_descent,
)

STUDY = load("variational-wasserstein-flow")


def test_quick_run_holds():
    outcome = run_study("variational-wasserstein-flow")
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert verdicts["jko_error_2"] == verdicts["kl_shares"] == "holds"
    assert verdicts["digit_auc"] == verdicts["regression_gain"] == "skipped"
    assert outcome.arrays["energies_2"][-1] < outcome.arrays["energies_2"][0] / 4
    assert outcome.png


def test_densities_of_the_targets_are_those_of_scipy():
    points = np.random.default_rng(0).normal(size=(20, 3))
    tensor = torch.from_numpy(points)
    target = GaussianTarget(3)
    exact = multivariate_normal(target.mean, target.cov).logpdf(points)
    np.testing.assert_allclose(target.log_density(tensor), exact, rtol=1e-12)
    mixture = MixtureTarget(3, np.random.default_rng(1))
    exact = np.log(sum(multivariate_normal(m).pdf(points) for m in mixture.means))
    shift = mixture.log_density(tensor).numpy() - exact
    np.testing.assert_allclose(shift, shift[0], rtol=1e-10)


def test_posterior_is_that_of_its_formula():
    posterior = LogisticPosterior(0)
    theta = posterior.start(3, np.random.default_rng(0))
    expected = []
    for *w, log_alpha in theta:
        sign = 2 * posterior.y - 1
        fit = -np.log1p(np.exp(-sign * (posterior.X @ w))).sum()
        weights = multivariate_normal(np.zeros(11), np.exp(-log_alpha) * np.eye(11)).logpdf(w)
        expected.append(fit + weights + log_alpha - 0.01 * np.exp(log_alpha))
    found = posterior.log_density(torch.from_numpy(theta)).numpy()
    shift = found - expected
    np.testing.assert_allclose(shift, shift[0], rtol=1e-6)
    assert posterior.map_accuracy() > 0.9
    assert posterior.accuracy(theta) < posterior.map_accuracy()


@pytest.mark.parametrize("method", ["langevin", "stein"])
def test_particle_methods_reach_a_gaussian(method):
    rng, target = np.random.default_rng(0), GaussianTarget(2)
    x = rng.normal(size=(300, 2))
    if method == "langevin":
        moved = langevin(target.log_density, x, 3.0, 100, rng)
    else:
        moved = stein_descent(target.log_density, x, 150, step=0.1)
    truth = target.mean + np.sqrt(target.variances) * rng.normal(size=(2000, 2))
    assert energy_distance(moved, truth) < 0.03 * energy_distance(x, truth)
    np.testing.assert_allclose(moved.var(0), target.variances, rtol=0.3)


def test_gradient_of_a_gaussian():
    target = GaussianTarget(2)
    x = np.array([[0.0, 1.0], [2.0, 3.0]])
    expected = -(x - target.mean) / target.variances
    np.testing.assert_allclose(gradient(target.log_density, x), expected, rtol=1e-5)


def flow_clouds(tmp_path, arrays, **options):
    path = tmp_path / "clouds.npz"
    np.savez(path, **arrays)
    setup = type(STUDY.preset("quick"))(**(dict(STUDY.on_file.options) | options))
    printed = STUDY.on_file.run(
        path, setup, tmp_path, np.random.default_rng(0), lambda fraction, message: None
    )
    return printed, np.load(tmp_path / "path.npz")


def test_clouds_of_a_file_are_flowed(tmp_path):
    rng = np.random.default_rng(0)
    source, target = rng.normal(50, 10, size=(300, 2)), rng.normal(60, 10, size=(250, 2))
    printed, written = flow_clouds(
        tmp_path, {"source": source, "target": target}, steps=3, step_size=1.0, rounds=20
    )
    assert written["path"].shape == (4, 300, 2)
    np.testing.assert_allclose(written["path"][0], source)
    assert len(written["energies"]) == 4
    assert printed["energy_distance_at_end"] < printed["energy_distance_at_start"]
    assert printed["js_at_end"] < printed["js_at_start"] < np.log(2) + 0.05


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"source": np.zeros((3, 2))}, "no array 'target'"),
        ({"source": np.zeros((3, 2)), "target": np.zeros((3, 1))}, "as many columns"),
        ({"source": np.zeros((3, 1)), "target": np.zeros((3, 1))}, "single points"),
    ],
)
def test_bad_file_is_refused_in_one_line(tmp_path, arrays, match):
    with pytest.raises(ValueError, match=match) as error:
        flow_clouds(tmp_path, arrays)
    assert "\n" not in str(error.value)
