"""Effective sample sizes, R-hat and E-BFMI against closed forms and ArviZ."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from thalweg.inference import autocorrelation, ebfmi, ess, mcse, rhat


def autoregression(r, chains=4, draws=20_000, seed=0):
    noise = np.random.default_rng(seed).standard_normal((chains, draws + 500))
    return lfilter([np.sqrt(1 - r * r)], [1, -r], noise, axis=1)[:, 500:]


@pytest.fixture(scope="module")
def arviz():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("arviz")


@pytest.mark.parametrize("r", [-0.5, 0.0, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["bulk", "mean"])
def test_ess_of_an_autoregression(r, kind):
    x = autoregression(r, draws=100_000)
    assert ess(x, kind) == pytest.approx(x.size * (1 - r) / (1 + r), rel=0.1)


@pytest.mark.parametrize("kind", ["bulk", "tail", "mean"])
@pytest.mark.parametrize("shape", [(4, 500), (3, 501), (1, 250)])
@pytest.mark.parametrize("r", [-0.4, 0.7])
def test_ess_is_that_of_arviz(arviz, kind, shape, r):
    x = np.exp(autoregression(r, *shape, seed=1))
    assert ess(x, kind) == pytest.approx(arviz.ess(x, method=kind), rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.3])
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_rhat_is_that_of_arviz(arviz, shift, spread):
    x = autoregression(0.5, 4, 401, seed=2)
    x[0] = shift + spread * x[0]
    assert rhat(x) == pytest.approx(arviz.rhat(x), rel=1e-9)


def test_mcse_is_that_of_arviz(arviz):
    x = autoregression(0.5, 4, 400, seed=3)
    assert mcse(x) == pytest.approx(arviz.mcse(x), rel=1e-6)


def test_ebfmi_is_that_of_arviz(arviz):
    energy = autoregression(0.8, 3, 1000, seed=4)
    np.testing.assert_allclose(ebfmi(energy), arviz.bfmi(energy), rtol=1e-9)


def test_ebfmi_of_an_autoregression():
    # E (E_n - E_{n-1})^2 = 2 (1 - r) var
    np.testing.assert_allclose(ebfmi(autoregression(0.9)), 0.2, rtol=0.1)


@settings(deadline=None, max_examples=25)
@given(st.floats(-50, 50), st.floats(0.01, 100))
def test_bulk_ess_and_rhat_do_not_see_monotone_changes(shift, scale):
    x = autoregression(0.3, 2, 200, seed=5)
    changed = shift + scale * np.exp(x)
    assert ess(changed) == pytest.approx(ess(x), rel=1e-9)
    assert rhat(x * scale + shift) == pytest.approx(rhat(x), rel=1e-9)


def test_rhat_sees_chains_that_differ_in_spread_alone():
    x = autoregression(0.0, 4, 1000)
    x[0] *= 3.0
    assert rhat(x) > 1.05


def test_rhat_sees_a_drift_within_one_chain():
    x = autoregression(0.0, 1, 1000)
    assert rhat(x + np.linspace(0, 4, 1000)) > 1.3
    assert rhat(x) < 1.01


def test_stuck_chains_have_infinite_rhat_and_equal_draws_none():
    assert rhat(np.repeat([[0.0], [1.0]], 10, axis=1)) == np.inf
    assert np.isnan(rhat(np.ones((2, 10))))
    assert ess(np.ones((2, 10))) == 20


def test_autocorrelation_of_an_autoregression():
    found = autocorrelation(autoregression(0.8, 1, 200_000)[0])[:6]
    np.testing.assert_allclose(found, 0.8 ** np.arange(6), atol=0.02)


@pytest.mark.parametrize("function", [ess, rhat, mcse, ebfmi])
@pytest.mark.parametrize("x", [np.zeros(10), np.zeros((2, 3)), np.full((2, 10), np.nan)])
def test_what_is_not_chains_of_draws_is_refused(function, x):
    with pytest.raises(ValueError, match="must"):
        function(x)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="kind"):
        ess(np.random.default_rng(0).standard_normal((2, 10)), "median")


def test_constant_energies_are_refused():
    with pytest.raises(ValueError, match="energy"):
        ebfmi(np.ones((2, 10)))
