import numpy as np
import pytest

from thalweg.transport import LotkaVolterra, OrnsteinUhlenbeck, ZeroDrift, simulate
from thalweg.transport.snapshots import check_snapshots, step_grid

DECAY = OrnsteinUhlenbeck(1)


def test_law_of_an_ornstein_uhlenbeck_process_is_drawn():
    """20 000 particles: standard errors 0.005 of mean and variance; bias of the step 0.01."""
    starts = np.full((20_000, 1), 3.0)
    _, cloud = simulate(DECAY, [-1.0, 0.5], starts, [0.0, 1.5], 1.0, dt=0.01, rng=0)
    assert cloud.mean() == pytest.approx(0.5 + 2.5 * np.exp(-1.5), abs=0.03)
    assert cloud.var() == pytest.approx((1 - np.exp(-3)) / 2, abs=0.02)


def test_noise_grows_with_the_square_root_of_time_whatever_the_step():
    starts = np.zeros((20_000, 1))
    for dt in (0.05, 0.5):
        _, a, b = simulate(ZeroDrift(), [], starts, [1.0, 3.0, 4.0], 0.5, dt=dt, rng=0)
        assert a.var() == pytest.approx(0.5, rel=0.05)
        assert b.var() == pytest.approx(0.75, rel=0.05)


def test_one_population_is_carried_and_many_are_each_seen_once():
    start = np.arange(4.0)[:, None]
    carried = simulate(DECAY, [-1.0, 0.0], start, [0, 1, 2], 0.0, dt=0.5)
    np.testing.assert_array_equal(carried[0], start)
    np.testing.assert_allclose(carried[1], start / 4)
    np.testing.assert_allclose(carried[2], start / 16)
    seen = simulate(DECAY, [-1.0, 0.0], [start, 2 * start, 3 * start[:2]], [0, 1, 2], 0.0, dt=0.5)
    np.testing.assert_allclose(seen[1], 2 * start / 4)
    np.testing.assert_allclose(seen[2], 3 * start[:2] / 16)


def test_same_seed_gives_the_same_clouds():
    arguments = (DECAY, [-1.0, 0.0], np.ones((5, 1)), [0, 1], 0.3)
    np.testing.assert_array_equal(simulate(*arguments, rng=4)[1], simulate(*arguments, rng=4)[1])
    assert (simulate(*arguments, rng=4)[1] != simulate(*arguments, rng=5)[1]).all()


@pytest.mark.parametrize(("dt", "steps"), [(0.25, 4), (0.3, 4), (0.1, 10), (2.0, 1), (0.3334, 3)])
def test_steps_divide_the_interval_and_are_no_longer_than_asked(dt, steps):
    grid = step_grid(1.0, 2.0, dt)
    np.testing.assert_allclose(grid, np.linspace(1, 2, steps + 1))


def test_paths_that_get_lost_stop_the_simulation_with_their_interval():
    with pytest.raises(FloatingPointError, match="between the times 1 and 40, in the simulation"):
        simulate(DECAY, [1.0, 0.0], np.ones((3, 1)), [0.0, 1.0, 40.0], 0.1)
    with pytest.raises(FloatingPointError, match="lower dt"):
        simulate(LotkaVolterra(), [1e9, 1, 1, 1e9], np.ones((3, 2)), [0.0, 9.0], 0.1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"times": [0.0, 0.0]}, "times must be two or more increasing"),
        ({"times": [0.0]}, "times must be two or more increasing"),
        ({"params": [1.0]}, "params must have shape"),
        ({"sigma": -1.0}, "sigma must be"),
        ({"dt": 0.0}, "dt must be"),
        ({"X0": np.ones((3, 2))}, "X0 must have shape"),
        ({"X0": [np.ones((3, 1))]}, "X0 must have one array for each of 2 times"),
        ({"X0": [np.ones((3, 1)), np.ones((3, 2))]}, r"X0\[1\] must have shape"),
        ({"X0": [np.ones((3, 1)), np.full((3, 1), np.inf)]}, r"X0\[1\] must be finite"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, match):
    arguments = {"params": [-1.0, 0.0], "X0": np.ones((3, 1)), "times": [0.0, 1.0], "sigma": 0.1}
    with pytest.raises(ValueError, match=match):
        simulate(DECAY, **(arguments | change))


def test_reference_must_be_a_family():
    with pytest.raises(TypeError, match="reference must be a DriftFamily"):
        simulate(lambda t, x: x, [], np.ones((3, 1)), [0, 1], 0.1)


@pytest.mark.parametrize(
    ("clouds", "times", "match"),
    [
        ([np.ones((5, 1))], [0.0, 1.0], "one array for each of 2 times, got 1"),
        ([np.ones((5, 1)), np.ones((4, 1))], [0.0, 1.0], r"snapshots\[1\] must have at least 5"),
        ([np.ones((5, 1)), np.ones((5, 2))], [0.0, 1.0], r"snapshots\[1\] must have 1 columns"),
        ([np.ones((5, 1)), np.full((5, 1), np.nan)], [0.0, 1.0], r"snapshots\[1\] must be finite"),
        ([np.ones((5, 1))] * 2, [1.0, 0.0], "times must be two or more increasing"),
        ([np.ones((5, 1))], [0.0], "times must be two or more increasing"),
    ],
)
def test_bad_snapshots_are_refused_by_name(clouds, times, match):
    with pytest.raises(ValueError, match=match):
        check_snapshots(clouds, times, None)
