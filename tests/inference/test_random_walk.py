"""Random-walk Metropolis leaves its target unchanged and is as slow as theory says."""

import numpy as np
import pytest
from numba import njit
from scipy import stats

from thalweg.inference import ess, sample_rwm


@njit(cache=True)
def normal(x):
    return -0.5 * (x @ x), -x


@njit(cache=True)
def gumbel(x):
    tail = np.exp(-x)
    return -(x + tail).sum(), tail - 1.0


def test_draws_follow_the_target():
    result = sample_rwm(gumbel, [0.0], scale=1.3, n_draws=200_000, chains=1, rng=0)
    assert stats.kstest(result.samples[0, ::40, 0], stats.gumbel_r.cdf).pvalue > 1e-4


def test_acceptance_at_the_optimal_scale_is_0_234_in_many_dimensions():
    result = sample_rwm(normal, np.zeros(60), n_draws=10_000, chains=2, rng=1)
    assert result.acceptance.mean() == pytest.approx(0.234, abs=0.03)


def test_efficiency_is_a_third_over_d():
    d = 40
    result = sample_rwm(normal, np.zeros(d), n_draws=40_000, chains=2, rng=2)
    efficiency = np.mean([ess(result.samples[..., i]) for i in range(5)]) / 80_000
    # Roberts, Gelman and Gilks: 0.331 / d in the limit
    assert efficiency == pytest.approx(0.331 / d, rel=0.2)


def test_scale_is_a_change_of_units():
    scale = np.array([0.1, 10.0])

    def scaled(x):
        value, slope = normal.py_func(x / scale)
        return value, slope / scale

    options = {"n_warmup": 5, "n_draws": 50, "chains": 1, "rng": 3}
    unit = sample_rwm(normal, np.ones(2), **options)
    other = sample_rwm(scaled, scale, scale=scale, **options)
    np.testing.assert_allclose(other.samples / scale, unit.samples, atol=1e-12)


def test_bad_scale_is_refused():
    for scale in (0.0, [1.0, 1.0, 1.0], -1.0):
        with pytest.raises(ValueError, match="scale"):
            sample_rwm(normal, np.zeros(2), scale=scale)
