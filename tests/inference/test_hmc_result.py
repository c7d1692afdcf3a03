"""What a result says about itself."""

import warnings

import numpy as np
import pytest
from numba import njit

from thalweg.inference import ebfmi, ess, rhat, sample_nuts


@njit(cache=True)
def normal(x):
    return -0.5 * (x @ x), -x


@njit(cache=True)
def funnel(x):
    v, rest = x[0], x[1:]
    inverse = np.exp(-v)
    square = (rest * rest).sum()
    gradient = np.empty_like(x)
    gradient[0] = -v / 9.0 - 0.5 * rest.size + 0.5 * inverse * square
    gradient[1:] = -inverse * rest
    return -v * v / 18.0 - 0.5 * rest.size * v - 0.5 * inverse * square, gradient


@pytest.fixture(scope="module")
def healthy():
    return sample_nuts(normal, np.zeros(3), rng=0)


@pytest.fixture(scope="module")
def sick():
    return sample_nuts(funnel, np.zeros(10), rng=0)


def test_healthy_draws_have_no_warnings(healthy):
    assert healthy.warnings() == []


def test_the_funnel_warns_of_its_energies(sick):
    assert sick.ebfmi().max() < 0.3
    assert any("E-BFMI" in warning for warning in sick.warnings())
    assert any("R-hat" in w or "effective" in w for w in sick.warnings())


def test_divergences_are_counted_and_placed(sick):
    count = int(sick.diverging.sum())
    assert sick.divergent_samples.shape == (count, 10)
    assert any(f"{count} of 4000" in warning for warning in sick.warnings())


def test_summary_is_of_the_draws(healthy):
    table = healthy.summary()
    x = healthy.samples[..., 1]
    assert table.dtype.names == ("mean", "sd", "ess_bulk", "ess_tail", "rhat")
    assert table["mean"][1] == pytest.approx(x.mean())
    assert table["sd"][1] == pytest.approx(x.std(ddof=1))
    assert table["ess_bulk"][1] == pytest.approx(ess(x))
    assert table["ess_tail"][1] == pytest.approx(ess(x, "tail"))
    assert table["rhat"][1] == pytest.approx(rhat(x))
    np.testing.assert_array_equal(healthy.ebfmi(), ebfmi(healthy.energy))


def test_arviz_reads_the_result(healthy):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arviz = pytest.importorskip("arviz")
        data = healthy.to_arviz(["a", "b", "c"])
        assert float(arviz.ess(data)["b"]) == pytest.approx(ess(healthy.samples[..., 1]), rel=1e-6)
        assert data.sample_stats["diverging"].dtype == bool
        assert arviz.bfmi(data).shape == (4,)
        assert healthy.to_arviz().posterior["x"].shape == (4, 1000, 3)


@pytest.mark.parametrize("names", ["abc", ["a", "b"], ["a", "b", "a"]])
def test_names_that_do_not_fit_are_refused(healthy, names):
    with pytest.raises(ValueError, match="names"):
        healthy.to_arviz(names)
