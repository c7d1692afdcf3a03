"""The laws of the synthetic jets, one by one."""

import numpy as np
import pytest

from thalweg.transport import make_jets

N = 100_000


@pytest.fixture(scope="module", params=["A", "B"])
def jets(request):
    truth, measured, _ = make_jets(N, request.param, rng=0)
    return request.param, truth.T, measured.T


def test_columns_are_named_and_draws_repeat():
    truth, measured, names = make_jets(10, rng=3)
    assert names == ("mass", "width", "multiplicity", "ln rho", "z_g", "tau_21")
    assert truth.shape == measured.shape == (10, 6)
    again = make_jets(10, "A", rng=3)
    np.testing.assert_array_equal(truth, again[0])
    np.testing.assert_array_equal(measured, again[1])


def expectation_of_exp(scale):
    return np.exp(scale**2 / 2)


def test_multiplicity_is_poisson_over_four(jets):
    """Mean ``4 + 12 E[sqrt(p)] (1 + 0.6 * 0.3) f_m``; 5 standard errors of 8 / sqrt(N)."""
    kind, truth, _ = jets
    factor = {"A": 1.0, "B": 1.12}[kind]
    mean = 4 + 12 * expectation_of_exp(0.175) * 1.18 * factor
    assert truth[2].mean() == pytest.approx(mean, abs=5 * 8 / N**0.5)
    assert truth[2].min() >= 4
    assert (truth[2] == np.round(truth[2])).all()


def test_mass_follows_width_and_momentum(jets):
    """``log m - 0.7 log(w / 0.15)`` has mean ``log(8 f_s)``, deviation ``hypot(0.35, 0.15)``."""
    kind, truth, _ = jets
    rest = np.log(truth[0]) - 0.7 * np.log(truth[1] / 0.15)
    factor = {"A": 1.0, "B": 1.08}[kind]
    assert rest.mean() == pytest.approx(np.log(8 * factor), abs=5 * 0.4 / N**0.5)
    assert rest.std() == pytest.approx(np.hypot(0.35, 0.15), rel=0.02)


def test_width_is_logistic_normal(jets):
    """The logit of w / 0.6: mean -1.6 + 0.27, variance ``0.81 * 0.21 + 0.105^2 + 0.25``."""
    _, truth, _ = jets
    logit = np.log(truth[1] / (0.6 - truth[1]))
    assert logit.mean() == pytest.approx(-1.33, abs=0.01)
    log_p = np.log(truth[0]) - 0.7 * np.log(truth[1] / 0.15)
    assert np.cov(logit, log_p)[0, 1] == pytest.approx(-0.3 * 0.35**2, abs=0.004)
    assert logit.var() == pytest.approx(0.81 * 0.21 + 0.105**2 + 0.25, rel=0.03)


def test_prongs_shape_the_last_two(jets):
    """Means of the mixtures of Beta laws; z_g of one-pronged jets differs by generator."""
    kind, truth, _ = jets
    b = {"A": 2.5, "B": 2.1}[kind]
    assert truth[4].mean() == pytest.approx(0.1 + 0.4 * (0.3 * 0.5 + 0.7 / (1 + b)), abs=0.003)
    assert truth[5].mean() == pytest.approx(0.1 + 0.3 * 2.5 / 6.5 + 0.7 * 5 / 9, abs=0.004)
    assert truth[4].min() >= 0.1
    assert truth[4].max() <= 0.5
    assert np.corrcoef(truth[4], truth[5])[0, 1] < -0.1


def test_groomed_mass_follows_mass(jets):
    _, truth, _ = jets
    inside = (truth[3] > -14) & (truth[3] < -2)
    rest = (truth[3] + 7 - 2.2 * np.log(truth[0] / 10))[inside]
    assert rest.mean() == pytest.approx(0, abs=0.03)
    assert rest.std() == pytest.approx(1.2, rel=0.03)
    assert truth[3].min() >= -14
    assert truth[3].max() <= -2


def test_detector_biases_and_smears(jets):
    _, truth, measured = jets
    change = measured - truth
    assert (measured[0] / truth[0]).std() == pytest.approx(np.hypot(0.05, 0.10), rel=0.02)
    assert (measured[0] / truth[0]).mean() == pytest.approx(1, abs=0.003)
    smear = (measured[1] - 0.005) / truth[1] - 1
    assert (smear.mean(), smear.std()) == pytest.approx((0, 0.12), abs=0.003)
    assert (measured[2] / truth[2]).mean() == pytest.approx(0.9, abs=0.003)
    assert (change[3].mean(), change[3].std()) == pytest.approx((0.1, 0.5), abs=0.01)
    unclipped = (truth[4] > 0.2) & (truth[4] < 0.3)
    assert change[4][unclipped].std() == pytest.approx(0.04, rel=0.03)
    assert measured[4].min() >= 0
    assert measured[4].max() <= 0.5
    assert (change[5].mean(), change[5].std()) == pytest.approx((0.03, 0.07), abs=0.002)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "n must be"), ((5, "C"), "generator must be one of 'A', 'B'")],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_jets(*arguments)
