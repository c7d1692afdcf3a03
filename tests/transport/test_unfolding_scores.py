"""Distances of observables and their uncertainties."""

import numpy as np
import pytest

from thalweg.transport import unfolding_report, wasserstein


def test_distance_is_that_of_sorted_columns_in_deviations():
    rng = np.random.default_rng(0)
    truth, unfolded = rng.normal(size=(200, 2)) * [1.0, 30.0], rng.exponential(size=(200, 2))
    report = unfolding_report(truth, unfolded, rng=0)
    assert list(report) == ["column 0", "column 1"]
    for j, (distance, _) in enumerate(report.values()):
        exact = wasserstein(truth[:, [j]], unfolded[:, [j]], p=1)
        assert distance == pytest.approx(exact / truth[:, j].std())


def test_weights_stand_for_repeated_events():
    rng = np.random.default_rng(0)
    truth, unfolded = rng.normal(size=(50, 1)), rng.normal(size=(40, 1))
    counts = rng.integers(1, 4, size=40)
    weighted = unfolding_report(truth, unfolded, weights=counts, n_boot=0)["column 0"]
    repeated = unfolding_report(truth, np.repeat(unfolded, counts, axis=0), n_boot=0)["column 0"]
    assert weighted[0] == pytest.approx(repeated[0])
    assert np.isnan(weighted[1])


def test_bootstrap_deviation_matches_fresh_samples():
    """A shift by one deviation: W_1 is the difference of means, deviation sqrt(1/n + 1/m)."""
    rng, n = np.random.default_rng(0), 500
    truth = rng.normal(size=(n, 1))
    unfolded = rng.normal(5.0, 1.0, size=(n, 1))
    _, deviation = unfolding_report(truth, unfolded, n_boot=200, rng=0)["column 0"]
    assert deviation == pytest.approx((2 / n) ** 0.5 / truth.std(), rel=0.2)


def test_weights_widen_the_uncertainty():
    rng, n = np.random.default_rng(0), 500
    truth, unfolded = rng.normal(size=(50_000, 1)), rng.normal(5.0, 1.0, size=(n, 1))
    weights = np.where(np.arange(n) < 50, 1.0, 1e-6)
    deviations = [
        unfolding_report(truth, unfolded, weights=w, n_boot=50, rng=0)["column 0"][1]
        for w in (None, weights)
    ]
    assert deviations[1] == pytest.approx(10**0.5 * deviations[0], rel=0.4)


def test_events_without_weight_add_no_uncertainty():
    """The weighted half is one point; only the 5000 truths are uncertain, by 1 / sqrt(5000)."""
    truth = np.random.default_rng(0).normal(size=(5000, 1))
    unfolded = np.repeat([[5.0], [100.0]], 20, axis=0)
    weights = np.repeat([1.0, 0.0], 20)
    _, deviation = unfolding_report(truth, unfolded, weights=weights, rng=0)["column 0"]
    assert deviation < 0.03


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unfolded": np.eye(3)}, "unfolded must have shape"),
        ({"truth": np.ones((4, 2))}, "truth must vary in each column, column 0 is constant"),
        ({"unfolded": np.empty((0, 2))}, "unfolded must have rows"),
        ({"names": ["a"]}, "names must be 2 different names"),
        ({"names": ["a", "a"]}, "names must be 2 different names"),
        ({"weights": [1.0, -1.0, 1.0, 1.0]}, "weights must be >= 0"),
        ({"n_boot": -1}, "n_boot must be"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    events = np.arange(8.0).reshape(4, 2)
    with pytest.raises(ValueError, match=message):
        unfolding_report(**{"truth": events, "unfolded": events, **change})
