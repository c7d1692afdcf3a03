"""The study of stochastic interpolants: its quick run, its measures, and a user's clouds."""

import numpy as np
import pytest

pytest.importorskip("torch")

from thalweg.studies.transport import _interpolant_divergences, _interpolant_gaussian_bridges
from thalweg.studies.transport import stochastic_interpolants as module
from thalweg.study import load, run_study
from thalweg.transport import (
    MixtureInterpolant,
    gaussian_bridge_marginal,
    gaussian_eot,
    gaussian_kl,
)

STUDY = load("stochastic-interpolants")


def test_quick_run_holds():
    outcome = run_study("stochastic-interpolants")
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert verdicts["energies"] == verdicts["kl_over_bound"] == "holds"
    assert verdicts["digits_energy_ratio"] == "skipped"
    assert outcome.arrays["mode_energies"].shape == (5,)
    assert outcome.png


def one_gaussian(mean, variance):
    return MixtureInterpolant(
        [1.0], [[0.0, 0.0]], [np.eye(2)], [1.0], [[mean, 0.0]], [variance * np.eye(2)]
    )


def test_divergence_on_the_grid_is_that_of_gaussians():
    """Points of N(0, 0.5) smoothed by the kernel against N(0.4, 0.6): 0.01 for 50 000 points."""
    centres = 0.5**0.5 * np.random.default_rng(0).normal(size=(50_000, 2))
    made = (0.5 + _interpolant_divergences.KERNEL_VARIANCE) * np.eye(2)
    expected = gaussian_kl([0.4, 0.0], 0.6 * np.eye(2), [0.0, 0.0], made)
    found = _interpolant_divergences.grid_divergence(one_gaussian(0.4, 0.6), centres)
    assert found == pytest.approx(expected, abs=0.01)


def test_exact_drift_has_no_divergence_and_a_shift_has_that_of_girsanov_at_most():
    mixture = _interpolant_divergences.four_modes()
    cases = [("gradient", 1.0, 0.0), ("gradient", 0.0, 1.0)]  # frequency 0: a constant error
    zero, shifted = _interpolant_divergences.sde_divergence(
        mixture, 1.0, cases, 8000, 30, np.random.default_rng(0)
    )
    size = _interpolant_divergences.mean_square(
        mixture, "gradient", 0.0, 400, np.random.default_rng(1)
    )
    assert size == pytest.approx((np.sin([0.3, 1.1]) ** 2).sum())
    assert 0 <= zero <= 0.02
    assert 5 * zero < shifted <= size / 4


def test_ode_divergence_of_a_wave_is_zero_without_it_and_second_order_with_it():
    mixture = _interpolant_divergences.four_modes()
    found = [
        _interpolant_divergences.ode_divergence(
            mixture, "gradient", 2.0, delta, 500, 30, np.random.default_rng(0)
        )
        for delta in (0.0, 0.05, 0.1)
    ]
    assert abs(found[0]) <= 1e-4
    assert found[2] > found[1] > 0


def test_divergence_of_the_waves_is_that_of_differences():
    x, h = np.random.default_rng(0).normal(size=(50, 2)), 1e-5
    for kind in _interpolant_divergences.ERRORS:
        found = sum(
            (
                _interpolant_divergences.waves(kind, 3.0, x + h * e)
                - _interpolant_divergences.waves(kind, 3.0, x - h * e)
            )[:, i]
            / (2 * h)
            for i, e in enumerate(np.eye(2))
        )
        np.testing.assert_allclose(
            _interpolant_divergences.waves_divergence(kind, 3.0, x), found, atol=1e-8
        )


def test_energy_of_a_translation_without_noise_is_that_of_the_shift_alone():
    cov, shift = np.array([[1.0, 0.2], [0.2, 0.7]]), np.array([2.0, -1.0])
    found = _interpolant_gaussian_bridges.process_energy((np.zeros(2), cov, shift, cov), 1e-9, cov)
    assert found == pytest.approx(2.5, abs=1e-6)


def test_moments_of_the_process_are_those_of_the_bridge():
    epsilon, t, h = 0.3, 0.4, 1e-5
    across, _, _ = gaussian_eot(*_interpolant_gaussian_bridges.BRIDGE_PAIR, 2 * epsilon)
    cov, ahead = _interpolant_gaussian_bridges.process_moments(
        _interpolant_gaussian_bridges.BRIDGE_PAIR, epsilon, across, t
    )
    exact = [
        gaussian_bridge_marginal(*_interpolant_gaussian_bridges.BRIDGE_PAIR, 2 * epsilon, s)[1]
        for s in (t, t + h, t - h)
    ]
    np.testing.assert_allclose(cov, exact[0], atol=1e-12)
    change = (exact[1] - exact[2]) / (2 * h) - 2 * epsilon * np.eye(2)
    np.testing.assert_allclose(ahead + ahead.T, change, atol=1e-8)


def test_board_is_black_squares_alone():
    x = module.board(4000, np.random.default_rng(0))
    assert x.shape == (4000, 2)
    assert np.abs(x).max() <= 4
    assert (np.floor(x / 2).sum(1) % 2 == 0).all()
    assert np.unique(np.floor(x / 2), axis=0).shape == (8, 2)


def test_exact_sample_has_the_moments():
    mean, cov = np.array([1.0, -2.0]), np.array([[2.0, 0.5], [0.5, 1.0]])
    x = _interpolant_gaussian_bridges.exact_sample(mean, cov, 50, np.random.default_rng(0))
    np.testing.assert_allclose(x.mean(0), mean, atol=1e-12)
    np.testing.assert_allclose(np.cov(x.T), cov, atol=1e-12)


@pytest.mark.parametrize("standard", [True, False])
def test_clouds_of_a_file_are_mapped(tmp_path, standard):
    rng = np.random.default_rng(0)
    source = rng.normal(size=(400, 2)) + (0 if standard else 5)
    target = rng.normal(50.0, 10.0, size=(300, 2))
    np.savez(tmp_path / "clouds.npz", source=source, target=target)
    options = {**dict(STUDY.on_file.options), "steps": 60, "sampling_steps": 10, "epsilon": 0.1}
    setup = type(STUDY.preset("quick"))(**options)
    seen = []
    printed = STUDY.on_file.run(
        tmp_path / "clouds.npz", setup, tmp_path, rng, lambda share, text: seen.append(share)
    )
    written = np.load(tmp_path / "generated.npz")
    assert written["generated"].shape == (400, 2)
    assert np.abs(written["generated"].mean(0) - 50).max() < 5
    assert ("log_density" in written.files) == standard
    if standard:
        exact = -np.log(2 * np.pi * 100) - 1
        assert printed["mean_log_density"] == pytest.approx(exact, abs=0.6)
    assert seen == sorted(seen)
    assert printed["energy_distance_generated_to_target"] < 5


def test_points_that_coincide_are_refused(tmp_path):
    np.savez(tmp_path / "clouds.npz", source=np.zeros((3, 1)), target=np.zeros((3, 1)))
    with pytest.raises(ValueError, match="single points"):
        STUDY.on_file.run(
            tmp_path / "clouds.npz", STUDY.preset("quick"), tmp_path, np.random.default_rng(0), None
        )
