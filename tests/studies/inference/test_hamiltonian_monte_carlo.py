"""The quick run of the study holds, and its references are right."""

import numpy as np
import pytest

from thalweg.inference import leapfrog
from thalweg.studies.inference._hamiltonian_targets import (
    centred,
    eight_schools,
    funnel,
    noncentred,
)
from thalweg.study import run_study


def test_the_quick_study_holds():
    outcome = run_study("hamiltonian-monte-carlo")
    assert outcome.record.state == "holds", outcome.record.message
    results = outcome.record.results
    assert results["centred_ebfmi"] < 0.4 < 0.7 < results["noncentred_ebfmi"]
    assert results["energy_error_slope"] == pytest.approx(2.0, abs=0.02)
    assert len(outcome.arrays["centred_divergent"]) >= 5
    assert outcome.png


def test_quadrature_has_the_known_posterior_of_eight_schools():
    exact = eight_schools()
    assert exact["mean_mu"] == pytest.approx(4.3968, abs=1e-4)
    assert exact["sd_mu"] == pytest.approx(3.3177, abs=1e-4)
    weight = np.diff(exact["log_tau_cdf"], prepend=0.0)
    assert weight @ exact["log_tau"] == pytest.approx(0.8021, abs=1e-3)
    assert weight @ np.exp(exact["log_tau"]) == pytest.approx(3.598, abs=1e-3)


@pytest.mark.parametrize("density", [centred, noncentred, funnel])
def test_gradients_are_those_of_the_densities(density):
    x, h = np.linspace(-1.0, 1.5, 10), 1e-6
    slope = [(density(x + h * e)[0] - density(x - h * e)[0]) / (2 * h) for e in np.eye(10)]
    np.testing.assert_allclose(density(x)[1], slope, rtol=1e-6, atol=1e-6)


def test_both_parametrisations_are_one_model():
    x = np.linspace(-1.0, 1.5, 10)
    effects = x.copy()
    effects[2:] = x[0] + np.exp(x[1]) * x[2:]
    # the densities differ by the Jacobian of the change, tau^8
    assert centred(effects)[0] + 8 * x[1] == pytest.approx(noncentred(x)[0])
    assert leapfrog(centred, effects, x, 0.01, 1)[2].shape == (2,)
