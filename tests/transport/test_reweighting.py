"""OmniFold's weights against exact ratios of densities, and their invariances."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from thalweg.transport import omnifold, omnifold_step
from thalweg.transport.reweighting import density_ratio

N = 4000


def gaussians(shift=0.6, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    truth, data_truth = rng.normal(size=(N, 2)), rng.normal(shift, 1.0, size=(N, 2))
    return (
        truth,
        truth + noise * rng.normal(size=(N, 2)),
        data_truth + noise * rng.normal(size=(N, 2)),
    )


def test_weights_are_the_density_ratio_without_an_instrument():
    truth, measured, data = gaussians()
    weights = omnifold_step(truth, measured, data, rng=0)
    exact = np.exp(0.6 * truth.sum(1) - 0.36)
    assert np.corrcoef(weights, exact)[0, 1] >= 0.95
    assert weights.mean() == pytest.approx(1)
    assert np.average(truth, axis=0, weights=weights) == pytest.approx([0.6, 0.6], abs=0.08)


def test_given_classifier_is_used_and_exact_for_gaussians():
    """Logistic regression is the true model of this ratio; the mean within 3.5 of 0.023, the
    standard error of weights that leave half of the events."""
    truth, measured, data = gaussians()
    model = LogisticRegression()
    weights = omnifold_step(truth, measured, data, classifier=model, rng=0)
    exact = np.exp(0.6 * truth.sum(1) - 0.36)
    assert np.corrcoef(np.log(weights), np.log(exact))[0, 1] >= 0.999
    assert np.average(truth, axis=0, weights=weights) == pytest.approx(data.mean(0), abs=0.08)
    assert not hasattr(model, "coef_")


def test_weights_depend_on_the_truth_alone():
    """Two events of one truth and different measurements weigh the same."""
    truth, measured, data = gaussians(noise=1.0)
    truth, measured = np.repeat(truth[: N // 2], 2, axis=0), measured
    weights = omnifold_step(truth, measured, data, rng=0)
    np.testing.assert_array_equal(weights[::2], weights[1::2])


def test_one_step_keeps_half_of_the_prior_and_more_steps_remove_it():
    """Unit noise: the error of the mean halves each step, 0.3, 0.15, 0.075, 0.0375; noise 0.04."""
    truth, measured, data = gaussians(noise=1.0)
    errors = []
    for n_iterations in (1, 2, 4):
        weights = omnifold(
            truth,
            measured,
            data,
            n_iterations=n_iterations,
            classifier=LogisticRegression(),
            rng=0,
        )
        errors.append(0.6 - np.average(truth, axis=0, weights=weights).mean())
    np.testing.assert_allclose(errors, [0.3, 0.15, 0.0375], atol=0.04)


def test_step_starts_from_the_weights_given():
    truth, measured, data = gaussians(noise=0.5)
    model = LogisticRegression()
    start = np.exp(truth[:, 0])
    plain = omnifold_step(truth, measured, data, classifier=model, rng=0)
    once = omnifold(truth, measured, data, n_iterations=1, classifier=model, rng=0)
    np.testing.assert_array_equal(plain, once)
    twice = omnifold(truth, measured, data, n_iterations=2, classifier=model, rng=0)
    again = omnifold_step(truth, measured, data, classifier=model, sample_weight=plain, rng=0)
    np.testing.assert_allclose(twice, again, rtol=1e-6)
    started = omnifold_step(truth, measured, data, classifier=model, sample_weight=start, rng=0)
    assert np.average(truth[:, 0], weights=started) > np.average(truth[:, 0], weights=plain)


def test_data_like_the_simulation_leave_the_weights():
    truth, measured, data = gaussians(shift=0.0, noise=0.5)
    weights = omnifold_step(truth, measured, data, rng=0)
    assert np.average(truth, axis=0, weights=weights) == pytest.approx([0, 0], abs=0.05)
    assert weights.sum() ** 2 / (weights**2).sum() > 0.9 * N


def test_ratio_ignores_sizes_and_scales_of_weights():
    truth, _, data = gaussians()
    model = LogisticRegression()
    whole = density_ratio(data, truth, classifier=model)
    part = density_ratio(data[:400], truth, classifier=model)
    assert np.median(part / whole) == pytest.approx(1, abs=0.15)
    scaled = density_ratio(
        data,
        truth,
        numerator_weight=np.full(N, 7.0),
        denominator_weight=np.full(N, 0.1),
        classifier=model,
    )
    np.testing.assert_allclose(scaled, whole)


def test_ratio_is_clipped_where_the_samples_are_apart():
    truth = np.concatenate([np.zeros((50, 1)), np.full((50, 1), 9.0)])
    ratio = density_ratio(np.full((100, 1), 9.0), truth, classifier=LogisticRegression(C=1e6))
    assert ratio.min() == 0.02
    assert ratio.max() <= 50
    swapped = density_ratio(truth[:50], truth, classifier=LogisticRegression(C=1e6))
    assert swapped.min() == 0.02


def test_same_rng_gives_the_same_weights():
    truth, measured, data = gaussians(noise=0.3)
    one, two = (omnifold(truth, measured, data, n_iterations=2, rng=5) for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measured": np.zeros((4, 2))}, "truth and measured must be pairs"),
        ({"data": np.zeros((5, 3))}, "data must have shape"),
        ({"data": np.zeros((1, 2))}, "data must have at least 2 rows"),
        ({"truth": np.full((5, 2), np.inf)}, "truth must be finite"),
        ({"sample_weight": -np.ones(5)}, "sample_weight must be >= 0"),
        ({"sample_weight": np.zeros(5)}, "sample_weight must be >= 0 with a positive sum"),
        ({"sample_weight": np.ones(4)}, "sample_weight must have shape"),
        ({"n_iterations": 0}, "n_iterations must be"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    good = {"truth": np.zeros((5, 2)), "measured": np.zeros((5, 2)), "data": np.zeros((5, 2))}
    with pytest.raises(ValueError, match=message):
        omnifold(**{**good, **change})
