"""The pairs: laws by formula, their plan against Sinkhorn's, and what is measured of a model."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.stats import norm

from thalweg.transport import (
    CategoricalBenchmark,
    CategoricalReference,
    categorical_bridge,
    gaussian_kernel,
    product_reference,
    shape_score,
    uniform_kernel,
)

SMALL = {"n_categories": 8, "alpha": 0.3, "n_inner": 3, "total_steps": 8}
STATES = np.indices((8, 8)).reshape(2, -1).T


def plan_of(benchmark):
    """The plan on all sequences, from its parameters by brute force."""
    S = benchmark.n_categories
    A = np.kron(benchmark.reference.transition, benchmark.reference.transition)
    r = np.exp(benchmark.log_cores)
    v = (np.exp(benchmark.log_weights)[:, None, None] * r[:, 0, :, None] * r[:, 1, None, :]).sum(0)
    joint = A * v.reshape(S * S)
    return joint / joint.sum(1, keepdims=True)


@pytest.mark.parametrize("kernel", ["gaussian", "uniform"])
@pytest.mark.parametrize("potential", ["gaussian", "uniform"])
def test_plan_is_the_bridge_of_its_ends(kernel, potential):
    benchmark = CategoricalBenchmark(2, kernel=kernel, potential=potential, **SMALL, rng=0)
    p0 = np.kron(benchmark.source_probs(), benchmark.source_probs())
    plan = p0[:, None] * plan_of(benchmark)
    exact = categorical_bridge(p0, plan.sum(0), product_reference(benchmark.reference, 2))
    np.testing.assert_allclose(plan, exact, atol=1e-10)
    logs = benchmark.log_potential(STATES) - benchmark.log_normalizer(STATES)[:, None]
    A = product_reference(benchmark.reference, 2).transition
    np.testing.assert_allclose(p0[:, None] * A * np.exp(logs), plan, atol=1e-14)
    ends = plan_of(benchmark).reshape(64, 8, 8)
    np.testing.assert_allclose(benchmark.end_probs(STATES)[:, 1], ends.sum(1), atol=1e-12)


def test_samples_follow_the_laws():
    """4.5 standard deviations and two draws more, on all sequences."""
    benchmark, rows = CategoricalBenchmark(2, **SMALL, rng=0), 40_000
    p0 = np.kron(benchmark.source_probs(), benchmark.source_probs())
    p1 = p0 @ plan_of(benchmark)
    given = plan_of(benchmark)[30]
    x = np.tile(STATES[30], (rows, 1))
    for draws, law in (
        (benchmark.sample_source(rows, 1), p0),
        (benchmark.sample_target(rows, 2), p1),
        (benchmark.sample_pairs(rows, 3)[1], p1),
        (benchmark.sample_plan(x, 4), given),
        (benchmark.sample_path(x, 5)[-1], given),
    ):
        shares = np.bincount(draws @ [8, 1], minlength=64) / rows
        assert (np.abs(shares - law) <= 4.5 * np.sqrt(law * (1 - law) / rows) + 2 / rows).all()


def test_sources_are_quantised_from_minus_seven_to_seven():
    edges = np.linspace(-7, 7, 51)
    gaussian = CategoricalBenchmark(1, source="gaussian", rng=0)
    np.testing.assert_allclose(gaussian.source_probs(), np.diff(norm.cdf(edges)), atol=2e-12)
    flat = CategoricalBenchmark(1, source="uniform", rng=0)
    probs = flat.source_probs()
    assert probs.sum() == pytest.approx(1)
    assert np.flatnonzero(probs).tolist() == list(range(14, 36))
    tokens = flat.sample_source(5000, rng=0)
    assert tokens.min() == 14
    assert tokens.max() == 35


def test_kernel_is_taken_skip_steps_at_once():
    benchmark = CategoricalBenchmark(2, 50, alpha=0.02, n_inner=15, total_steps=128, rng=0)
    np.testing.assert_allclose(
        benchmark.reference.transition, gaussian_kernel(50, 0.02, 128), atol=1e-12
    )
    assert benchmark.reference.n_inner == 15
    few = CategoricalBenchmark(2, 50, alpha=0.02, n_inner=3, total_steps=16, rng=0)
    np.testing.assert_allclose(few.reference.kernel, gaussian_kernel(50, 0.02, 4), atol=1e-14)
    many = CategoricalBenchmark(2, kernel="uniform", alpha=0.01, n_inner=63, rng=0)
    np.testing.assert_allclose(many.reference.kernel, uniform_kernel(50, 0.01, 2), atol=1e-14)


def test_means_lie_apart_on_the_sphere():
    """Levels are 0.2 wide: radius 5 and distance 5 hold within the quantisation."""
    for seed in range(5):
        benchmark = CategoricalBenchmark(2, n_components=3, rng=seed)
        means = benchmark.log_cores.argmax(2)
        points = (means + 0.5) / 5 - 5
        radii = np.linalg.norm(points, axis=1)
        assert (np.abs(radii - 5) <= 0.25).all()
        distances = np.linalg.norm(points[:, None] - points, axis=2) + 10 * np.eye(3)
        assert distances.min() >= 5 - 0.3
        spread = benchmark.log_cores[:, 0] - benchmark.log_cores[:, 0].max(1, keepdims=True)
        jumps = np.arange(50) - means[:, 0, None]
        np.testing.assert_allclose(spread, -(jumps**2) / (2 * 2.0**2), atol=1e-12)


def test_crowded_means_are_taken_as_they_come():
    assert CategoricalBenchmark(1, n_components=5, rng=0).log_cores.shape == (5, 1, 50)


def test_uniform_potential_has_logarithms_between_zero_and_one():
    logs = CategoricalBenchmark(2, potential="uniform", n_components=50, rng=0).log_cores
    assert 0 <= logs.min() < 0.01
    assert 0.99 < logs.max() <= 1


def test_rows_may_be_the_source():
    rows = np.array([[0, 1], [7, 3]])
    benchmark = CategoricalBenchmark(2, source=rows, **SMALL, rng=0)
    assert set(map(tuple, benchmark.sample_source(50))) == {(0, 1), (7, 3)}
    assert benchmark.sample_target(5).shape == (5, 2)
    with pytest.raises(NotImplementedError, match="dependent coordinates"):
        benchmark.source_probs()


def test_reverse_swaps_the_ends():
    there = CategoricalBenchmark(2, **SMALL, rng=0)
    back = CategoricalBenchmark(2, reverse=True, **SMALL, rng=0)
    np.testing.assert_array_equal(back.sample_source(9, 5), there.sample_target(9, 5))
    np.testing.assert_array_equal(back.sample_target(9, 5), there.sample_source(9, 5))
    for one, other in zip(back.sample_pairs(9, 5), there.sample_pairs(9, 5)[::-1], strict=True):
        np.testing.assert_array_equal(one, other)
    for call in (
        lambda: back.sample_plan(STATES),
        lambda: back.sample_path(STATES),
        lambda: back.transition_probs(STATES, 0),
        lambda: back.log_potential(STATES),
        lambda: back.log_normalizer(STATES),
    ):
        with pytest.raises(NotImplementedError, match="sample_pairs"):
            call()


class Resampled:
    """A model that draws from rows, whatever the source."""

    def __init__(self, rows):
        self.rows = rows

    def transform(self, X, rng=None):
        return self.rows[np.random.default_rng(rng).integers(len(self.rows), size=len(X))]


def test_truth_scores_best_and_zero_divergence():
    benchmark = CategoricalBenchmark(2, **SMALL, rng=0)
    scores = benchmark.evaluate(benchmark, n=800, n_conditional=30, rng=0)
    assert list(scores) == [
        "shape", "trend", "conditional_shape", "conditional_trend", "c2st", "trajectory_kl",
        "reverse_trajectory_kl", "kl_gap",
    ]  # fmt: skip
    assert scores["trajectory_kl"] == scores["reverse_trajectory_kl"] == scores["kl_gap"] == 0
    model = Resampled(benchmark.sample_target(5000, 1))
    other = benchmark.evaluate(model, n=800, n_conditional=30, rng=0)
    assert list(other) == ["shape", "trend", "conditional_shape", "conditional_trend", "c2st"]
    assert abs(other["shape"] - scores["shape"]) < 0.05
    assert other["conditional_shape"] < scores["conditional_shape"] - 0.1
    assert other["conditional_trend"] < scores["conditional_trend"] - 0.1
    assert min(other["c2st"], scores["c2st"]) > 0.8
    wrong = Resampled(benchmark.sample_source(5000, 1))
    assert benchmark.evaluate(wrong, n=800, metrics=["c2st"], rng=0)["c2st"] < 0.5


def test_conditional_scores_compare_with_the_plan_of_each_source():
    """A model that is exact for the source's mirror image scores low, one that is exact high."""
    benchmark = CategoricalBenchmark(2, **SMALL, rng=0)

    class Mirrored:
        def transform(self, X, rng=None):
            return benchmark.transform(7 - X, rng)

    metrics = ["conditional_shape", "shape"]
    ceiling = benchmark.evaluate(benchmark, metrics=metrics, n_conditional=40, rng=0)
    mirrored = benchmark.evaluate(Mirrored(), metrics=metrics, n_conditional=40, rng=0)
    assert mirrored["conditional_shape"] < ceiling["conditional_shape"] - 0.05


def test_gap_of_the_loss_is_the_divergence_from_the_plan():
    benchmark = CategoricalBenchmark(2, **SMALL, rng=0)
    other = CategoricalBenchmark(2, **SMALL, rng=1)
    p0 = np.kron(benchmark.source_probs(), benchmark.source_probs())
    true, model = plan_of(benchmark), plan_of(other)
    exact = (p0[:, None] * true * np.log(true / model)).sum()
    gap = benchmark.evaluate(other, n=20_000, metrics=["kl_gap"], rng=0)["kl_gap"]
    assert gap == pytest.approx(exact, rel=0.05)


def test_an_executor_gives_the_same_scores():
    benchmark = CategoricalBenchmark(2, **SMALL, rng=0)
    options = {"n": 200, "n_conditional": 5, "draws": 10, "rng": 3}
    with ThreadPoolExecutor(2) as executor:
        spread = benchmark.evaluate(benchmark, executor=executor, **options)
    assert spread == benchmark.evaluate(benchmark, **options)


def test_reversed_pair_measures_the_target_only():
    back = CategoricalBenchmark(2, reverse=True, **SMALL, rng=0)
    scores = back.evaluate(Resampled(back.sample_target(4000, 1)), n=500, rng=0)
    assert set(scores) == {"shape", "trend", "c2st"}
    again = shape_score(back.sample_target(500, 2), back.sample_target(500, 3), 8)
    assert abs(scores["shape"] - again) < 0.06


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"dim": 0}, ValueError, "dim must be"),
        ({"n_categories": 1}, ValueError, "n_categories must be"),
        (
            {"n_inner": 15, "total_steps": 100},
            ValueError,
            r"multiple of n_inner \+ 1 = 16, got 100",
        ),
        ({"n_components": 0}, ValueError, "n_components must be an integer >= 1, got 0"),
        ({"kernel": "poisson"}, ValueError, "kernel must be one of"),
        ({"alpha": 0.0}, ValueError, "alpha must be"),
        ({"potential": "normal"}, ValueError, "potential must be one of"),
        ({"source": "normal"}, ValueError, "source must be one of"),
        ({"source": [[0, 1, 2]]}, ValueError, r"source must have shape \(n, 2\)"),
        ({"source": [[0, 99]]}, ValueError, "source must be whole numbers"),
        ({"source": np.zeros((0, 2))}, ValueError, "source must hold at least one"),
        ({"radius": -1.0}, ValueError, "radius must be"),
        ({"std": 0.0}, ValueError, "std must be"),
        ({"reverse": "yes"}, TypeError, "reverse must be True or False"),
    ],
)
def test_bad_input_is_refused_by_name(options, error, match):
    with pytest.raises(error, match=match):
        CategoricalBenchmark(**options)


def test_bad_models_and_calls_are_refused_by_name():
    benchmark = CategoricalBenchmark(2, **SMALL, rng=0)

    class Short:
        def transform(self, X, rng=None):
            return X[1:]

    for call, match in (
        (lambda: benchmark.evaluate(Short(), n=20), r"model.transform\(X\) must have 20 rows"),
        (lambda: benchmark.evaluate(Resampled(STATES + 1), n=20), "whole numbers in"),
        (lambda: benchmark.evaluate(benchmark, metrics=["auc"]), "metrics must be one of"),
        (lambda: benchmark.evaluate(benchmark, n=1), "n must be an integer >= 2"),
        (lambda: benchmark.sample_source(0), "n must be"),
        (lambda: benchmark.transition_probs(STATES, 4), "n must be an integer >= 0 and <= 3"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_two_categories_keep_the_odds_ratio_of_the_reference():
    benchmark = CategoricalBenchmark(
        1, 2, kernel="uniform", alpha=0.1, n_inner=1, total_steps=4, rng=0
    )
    q, A = benchmark.end_probs([[0], [1]])[:, 0], benchmark.reference.transition
    assert isinstance(benchmark.reference, CategoricalReference)
    odds = [t[0, 0] * t[1, 1] / (t[0, 1] * t[1, 0]) for t in (q, A)]
    assert odds[0] == pytest.approx(odds[1], rel=1e-12)
