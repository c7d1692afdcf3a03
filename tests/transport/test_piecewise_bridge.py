import pickle

import numpy as np
import pytest

from thalweg.transport import (
    OrnsteinUhlenbeck,
    PiecewiseBridge,
    ZeroDrift,
    energy_distance,
    gaussian_bridge_marginal,
    gaussian_eot,
    piecewise_bridge,
    simulate,
)

DECAY, RATES = OrnsteinUhlenbeck(1), np.array([-1.0, 0.0])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def root_mean_square(values):
    return np.sqrt(np.mean(values**2))


def test_true_reference_between_its_own_marginals_needs_no_correction(rng):
    starts = [rng.normal(2.0, 0.3, (500, 1)) for _ in range(2)]
    X0, X1 = simulate(DECAY, RATES, starts, [0.0, 1.0], 0.3, rng=rng)
    bridge = piecewise_bridge(X0, X1, 0.0, 1.0, DECAY, 0.3, params=RATES, n_ipfp=5, rng=rng)
    path = bridge.sample(X0, rng=rng)
    correction = [bridge.forward_correction(t, x) for t, x in zip(bridge.grid, path, strict=True)]
    drift = [DECAY.drift(RATES, t, x) for t, x in zip(bridge.grid, path, strict=True)]
    assert root_mean_square(np.array(correction)) <= 0.1 * root_mean_square(np.array(drift))


@pytest.fixture(scope="module")
def gaussian_bridge():
    """Two normals two units of time apart, so that the length of the interval matters."""
    rng, sigma, t0, t1 = np.random.default_rng(1), 0.6, 1.0, 3.0
    X0, X1 = rng.normal(0.0, 0.7, (2000, 1)), rng.normal(1.0, 0.55, (2000, 1))
    options = {"dt": 0.04, "n_ipfp": 10, "n_features": 30}
    bridge = piecewise_bridge(X0, X1, t0, t1, ZeroDrift(), sigma, rng=rng, **options)
    V0, V1 = np.cov(X0.T).reshape(1, 1), np.cov(X1.T).reshape(1, 1)
    laws = (X0.mean(0), V0, X1.mean(0), V1, sigma**2 * (t1 - t0))
    return bridge, X0, X1, laws


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_ends_of_a_brownian_bridge_are_coupled_as_by_entropic_transport(gaussian_bridge, direction):
    bridge, X0, X1, laws = gaussian_bridge
    expected = gaussian_eot(*laws)[0]
    crosses = []
    for seed in range(4):
        if direction == "forward":
            start, end = X0, bridge.sample(X0, rng=seed)[-1]
        else:
            start, end = bridge.sample(X1, "backward", rng=seed)[-1], X1
        crosses.append(np.cov(start.T, end.T)[:1, 1:])
    gap = np.mean(crosses, axis=0) - expected
    assert np.linalg.norm(gap) <= 0.1 * np.linalg.norm(expected)


def test_middle_of_a_brownian_bridge_is_the_gaussian_one(gaussian_bridge):
    bridge, X0, _, laws = gaussian_bridge
    middle = bridge.sample(X0, rng=0)[len(bridge.grid) // 2]
    mean, cov = gaussian_bridge_marginal(*laws, 0.5)
    np.testing.assert_allclose(middle.mean(0), mean, atol=0.06)
    assert np.linalg.norm(np.cov(middle.T) - cov) <= 0.1 * np.linalg.norm(cov)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_paths_end_in_the_other_cloud(gaussian_bridge, direction):
    bridge, X0, X1, _ = gaussian_bridge
    start, goal = (X0, X1) if direction == "forward" else (X1, X0)
    assert energy_distance(bridge.sample(start, direction, rng=0)[-1], goal) <= 0.05


def test_time_reversed_drift_in_equilibrium_is_that_of_the_closed_form(rng):
    """``b - sigma^2 grad log p`` of N(m, sigma^2 / 2 a) is ``+a (x - m)``, the reverse of b."""
    a, m, sigma = 1.5, 0.7, 0.8
    X0, X1 = rng.normal(m, sigma / np.sqrt(2 * a), (2, 3000, 1))
    options = {"params": np.array([-a, a * m]), "dt": 0.04, "n_ipfp": 1, "n_features": 30}
    bridge = piecewise_bridge(X0, X1, 0.0, 2.0, DECAY, sigma, rng=rng, **options)
    x, t = X0, rng.uniform(0.1, 1.9, 3000)
    expected = a * (x - m)
    assert root_mean_square(bridge.backward(t, x) - expected) <= 0.1 * root_mean_square(expected)


def test_exact_process_reaches_the_other_cloud(rng):
    X0, X1 = rng.normal(0.0, 0.3, (40, 1)), rng.normal(1.0, 0.3, (40, 1))
    bridge = piecewise_bridge(
        X0, X1, 0.0, 1.0, ZeroDrift(), 0.5, dt=0.1, n_ipfp=5, drift_model="gp", rng=rng
    )
    assert energy_distance(bridge.sample(X0, rng=rng)[-1], X1) <= 0.05


def test_drifts_are_reference_plus_correction_and_shapes_are_kept():
    def correction(t, x):
        return x**2 + t

    bridge = PiecewiseBridge(np.linspace(0, 1, 5), 0.1, DECAY, RATES, correction, np.negative)
    x = np.array([[2.0], [3.0]])
    np.testing.assert_allclose(bridge.forward(0.5, x), -x + x**2 + 0.5)
    bridge.backward_correction = lambda t, x: 3 * x
    np.testing.assert_allclose(bridge.backward(0.5, x), 2 * x)


def test_backward_paths_step_against_the_backward_drift():
    bridge = PiecewiseBridge(np.array([0.0, 0.5]), 1e-12, DECAY, RATES, np.add, lambda t, x: 3 * x)
    path = bridge.sample([[4.0]], "backward", rng=0)
    np.testing.assert_allclose(path[:, 0, 0], [4.0, 4.0 - 0.5 * 2 * 4.0], atol=1e-9)


def small(**options):
    rng = np.random.default_rng(3)
    clouds = rng.normal(0, 1, (20, 1)), rng.normal(1, 1, (30, 1))
    settings = {"dt": 0.1, "n_ipfp": 2, "n_features": 10, "rng": 0} | options
    return piecewise_bridge(*clouds, 0.0, 1.0, ZeroDrift(), 0.5, **settings)


def test_same_seed_gives_the_same_bridge_and_a_pickle_keeps_it():
    x = np.linspace(-1, 1, 5)[:, None]
    drift = small().forward(0.3, x)
    np.testing.assert_array_equal(small().forward(0.3, x), drift)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(small())).forward(0.3, x), drift)
    assert not np.array_equal(small(rng=1).forward(0.3, x), drift)


def test_default_ridge_is_the_noise_of_a_one_step_velocity():
    x = np.linspace(-1, 1, 5)[:, None]
    drift = small(ridge=0.5**2 / 0.1).forward(0.3, x)
    np.testing.assert_allclose(small().forward(0.3, x), drift, rtol=1e-9)
    assert not np.allclose(small(ridge=0.5**2).forward(0.3, x), drift)


def test_step_that_does_not_divide_is_made_smaller():
    assert len(small(dt=0.13).grid) == 9


def test_lost_paths_are_named_by_interval_and_round():
    clouds = np.random.default_rng(0).normal(size=(2, 10, 1))
    with pytest.raises(FloatingPointError, match="between the times 2 and 4, in round 1 of 3"):
        piecewise_bridge(*clouds, 2, 4, DECAY, 0.1, params=[100.0, 0.0], dt=0.1, n_ipfp=3)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"t1": 0.0}, "t1 must be greater than t0"),
        ({"sigma": 0.0}, "sigma must be"),
        ({"dt": 0.3}, "dt must be at most a quarter of the shortest interval, 0.25"),
        ({"X1": np.ones((5, 2))}, r"snapshots\[1\] must have 1 columns"),
        ({"X0": np.ones((4, 1))}, r"snapshots\[0\] must have at least 5 points"),
        ({"n_ipfp": 0}, "n_ipfp must be"),
        ({"n_features": 0}, "n_features must be"),
        ({"drift_model": "tree"}, "drift_model must be one of"),
        ({"ridge": 0.0}, "ridge must be"),
        ({"params": [1.0, 2.0, 3.0]}, "params must have shape"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, match):
    arguments = {"X0": np.ones((5, 1)), "X1": np.ones((5, 1)), "t0": 0.0, "t1": 1.0, "sigma": 0.1}
    with pytest.raises(ValueError, match=match):
        piecewise_bridge(reference=DECAY, **(arguments | change))


def test_direction_must_be_one_of_two():
    with pytest.raises(ValueError, match="direction must be one of"):
        small().sample(np.ones((3, 1)), "sideways")
