import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone

from thalweg.transport import (
    LotkaVolterra,
    OrnsteinUhlenbeck,
    ReferenceRefinement,
    ZeroDrift,
    energy_distance,
    simulate,
)

DECAY = OrnsteinUhlenbeck(1)
TIMES = np.array([0.0, 0.5, 1.1, 2.0])
SIZES = (12, 9, 7, 10)


def snapshots():
    rng = np.random.default_rng(0)
    starts = [rng.normal(2.0, 0.3, (n, 1)) for n in SIZES]
    return simulate(DECAY, [-1.0, 0.0], starts, TIMES, 0.3, rng=rng)


def small(reference=DECAY, **options):
    settings = {"dt": 0.125, "n_refine": 3, "n_ipfp": 2, "n_features": 20, "rng": 0} | options
    return ReferenceRefinement(reference, 0.3, **settings)


@pytest.fixture(scope="module")
def model():
    return small().fit(snapshots(), TIMES)


def test_true_linear_dynamics_are_found_again():
    rng = np.random.default_rng(1)
    A, c = np.array([[-0.8, 1.0], [-1.0, -0.8]]), np.array([0.3, -0.2])
    family, truth = OrnsteinUhlenbeck(2), np.concatenate([A.ravel(), c])
    starts = [rng.normal([3.0, 0.0], 0.7, (500, 2)) for _ in range(4)]
    times = [0.0, 0.6, 1.2, 1.8]
    clouds = simulate(family, truth, starts, times, 0.3, rng=rng)
    options = {"dt": 0.06, "n_refine": 1, "n_ipfp": 3, "n_features": 40, "params0": truth}
    found = ReferenceRefinement(family, 0.3, rng=rng, **options).fit(clouds, times).params_
    assert np.linalg.norm(found[:4] - truth[:4]) <= 0.1 * np.linalg.norm(truth[:4])


def test_trajectories_pass_through_the_points_at_their_own_time(model):
    first = 0
    for cloud, t in zip(snapshots(), TIMES, strict=True):
        rows = model.trajectories_[first : first + len(cloud)]
        where = np.flatnonzero(model.grid_ == t)
        assert len(where) == 1
        np.testing.assert_array_equal(rows[:, where[0]], cloud)
        first += len(cloud)
    assert model.trajectories_.shape == (sum(SIZES), len(model.grid_), 1)


def test_trajectories_have_no_jumps(model):
    """Steps of sd 0.1 and drift below 5: none beyond 6 deviations, at the joints neither."""
    steps = np.diff(model.trajectories_, axis=1)
    assert np.abs(steps).max() <= 6 * 0.3 * np.sqrt(0.125) + 5 * 0.125
    assert (np.abs(steps) > 0).all()


def test_trajectories_pass_where_the_other_snapshots_are():
    rng = np.random.default_rng(2)
    starts = [rng.normal(2.0, 0.3, (300, 1)) for _ in TIMES]
    clouds = simulate(DECAY, [-1.0, 0.0], starts, TIMES, 0.3, rng=rng)
    model = small(dt=0.05, n_ipfp=4).fit(clouds, TIMES)
    for k, t in enumerate(TIMES):
        passing = model.trajectories_[:, np.flatnonzero(model.grid_ == t)[0]]
        others = np.delete(passing, np.arange(300) + 300 * k, axis=0)
        assert energy_distance(others, clouds[k]) <= 0.05


def test_steps_divide_each_interval_and_are_recorded(model):
    np.testing.assert_allclose(model.dt_, [0.5 / 4, 0.6 / 5, 0.9 / 8])
    np.testing.assert_allclose(np.diff(model.grid_), np.repeat(model.dt_, [4, 5, 8]))


def test_last_parameters_are_those_of_greatest_likelihood(model):
    """Weighted regression of increments on (x, 1), by the normal equations."""
    x = model.trajectories_[:, :-1].ravel()
    dx = np.diff(model.trajectories_, axis=1).ravel()
    h = np.tile(np.diff(model.grid_), len(model.trajectories_))
    design = np.column_stack([x, np.ones_like(x)])
    expected = np.linalg.solve(design.T @ (h[:, None] * design), design.T @ dx)
    np.testing.assert_allclose(model.params_, expected, rtol=1e-9)
    residual = dx - h * (design @ expected)
    objective = np.mean(residual**2 / h) / (2 * 0.3**2)
    assert model.objective_path_[-1] == pytest.approx(objective, rel=1e-9)


def test_path_of_parameters_starts_at_the_first_reference_and_ends_at_the_last_fit(model):
    assert model.params_path_.shape == (4, 2)
    assert model.objective_path_.shape == (3,)
    np.testing.assert_array_equal(model.params_path_[0], DECAY.init())
    np.testing.assert_array_equal(model.params_path_[-1], model.params_)
    np.testing.assert_array_equal(model.bridges_[0].params, model.params_path_[-2])


def test_objective_of_the_true_dynamics_is_that_of_noise_alone():
    """Half the dimension; 300 paths of 40 steps: standard error 0.5 sqrt(2 / 12 000) = 0.006."""
    rng = np.random.default_rng(3)
    starts = [rng.normal(2.0, 0.3, (150, 1)) for _ in range(2)]
    clouds = simulate(DECAY, [-1.0, 0.0], starts, [0.0, 1.0], 0.3, rng=rng)
    model = ReferenceRefinement(DECAY, 0.3, dt=0.025, n_refine=3, n_ipfp=3, rng=0)
    model.fit(clouds, [0.0, 1.0])
    assert model.objective_path_[-1] == pytest.approx(0.5, abs=0.03)
    still = ReferenceRefinement(ZeroDrift(), 0.3, dt=0.025, n_refine=1, n_ipfp=3, rng=0)
    assert still.fit(clouds, [0.0, 1.0]).objective_path_[0] > 0.6


def test_rates_of_predators_and_prey_are_found_from_nothing():
    rng, truth = np.random.default_rng(0), np.array([1.0, 0.4, 0.4, 0.1])
    times = [0.0, 1.0, 2.0, 3.0]
    starts = [rng.uniform([5.0, 4.0], [5.1, 4.1], (50, 2)) for _ in times]
    clouds = simulate(LotkaVolterra(), truth, starts, times, 0.1, rng=rng)
    options = {"dt": 0.05, "n_refine": 5, "n_ipfp": 3, "n_features": 60, "rng": 0}
    model = ReferenceRefinement(LotkaVolterra(), 0.1, **options).fit(clouds, times)
    np.testing.assert_allclose(model.params_, truth, rtol=0.2)
    assert (model.params_path_[1] < 0.9 * truth).any()


def test_one_round_without_drift_is_the_bridge_on_brownian_motion():
    model = small(ZeroDrift(), n_refine=1).fit(snapshots(), TIMES)
    assert model.params_.shape == (0,)
    x = np.ones((3, 1))
    np.testing.assert_array_equal(model.drift(0.2, x), model.bridges_[0].forward_correction(0.2, x))


def test_fixed_reference_is_the_one_given():
    model = small(n_refine=1, params0=[-1.0, 0.0]).fit(snapshots(), TIMES)
    np.testing.assert_array_equal(model.bridges_[2].params, [-1.0, 0.0])


def test_seeds_reproduce(model):
    again = small().fit(snapshots(), TIMES)
    np.testing.assert_array_equal(again.trajectories_, model.trajectories_)
    other = small(rng=1).fit(snapshots(), TIMES)
    assert not np.array_equal(other.trajectories_, model.trajectories_)
    np.testing.assert_array_equal(model.interpolate(0.3), model.interpolate(0.3))


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_executor_changes_nothing(model, pool):
    with pool(2) as executor:
        other = small(executor=executor).fit(snapshots(), TIMES)
    np.testing.assert_array_equal(other.trajectories_, model.trajectories_)


def test_cloud_at_the_time_of_a_snapshot_is_the_snapshot(model):
    for cloud, t in zip(snapshots(), TIMES, strict=True):
        np.testing.assert_array_equal(model.interpolate(t), cloud)
    np.testing.assert_array_equal(model.extrapolate(2.0), snapshots()[-1])


def test_cloud_between_grid_points_is_on_the_line_between(model):
    grid = model.bridges_[1].grid
    early, late = (model.interpolate(t, rng=5) for t in grid[1:3])
    between = model.interpolate(0.25 * grid[1] + 0.75 * grid[2], rng=5)
    np.testing.assert_allclose(between, 0.25 * early + 0.75 * late, atol=1e-12)
    path = model.bridges_[1].sample(snapshots()[1], rng=5)
    np.testing.assert_allclose(early, path[1])
    assert len(early) == SIZES[1]


def test_cloud_after_the_last_snapshot_follows_the_fitted_reference(model):
    expected = simulate(DECAY, model.params_, snapshots()[-1], [2.0, 3.0], 0.3, dt=0.125, rng=7)
    np.testing.assert_allclose(model.extrapolate(3.0, rng=7), expected[1])


def test_drifts_are_those_of_the_interval_that_is_entered(model):
    x = np.linspace(0, 2, 3)[:, None]
    for t, forward, backward in ((0.0, 0, 0), (0.5, 1, 0), (0.7, 1, 1), (1.1, 2, 1), (2.0, 2, 2)):
        np.testing.assert_array_equal(model.drift(t, x), model.bridges_[forward].forward(t, x))
        np.testing.assert_array_equal(
            model.backward_drift(t, x), model.bridges_[backward].backward(t, x)
        )
    t = np.array([1.9, 0.1, 0.6])
    rows = [model.drift(float(s), x[i : i + 1])[0] for i, s in enumerate(t)]
    np.testing.assert_allclose(model.drift(t, x), rows)


def test_callback_sees_each_round_and_may_end_the_fit():
    seen = []

    def callback(state):
        cloud = state.model.interpolate(0.3)
        seen.append((state.round, state.n_refine, len(cloud), state.params, state.objective))
        if state.round == 2:
            raise StopIteration

    model = small(n_refine=5, callback=callback).fit(snapshots(), TIMES)
    assert [one[:3] for one in seen] == [(1, 5, SIZES[0]), (2, 5, SIZES[0])]
    np.testing.assert_array_equal(seen[-1][3], model.params_)
    assert seen[-1][4] == model.objective_path_[-1]
    assert len(model.params_path_) == 3


def test_estimator_is_cloned_and_pickled(model):
    assert clone(small()).get_params()["n_refine"] == 3
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.interpolate(0.3), model.interpolate(0.3))


def test_lost_paths_name_interval_and_rounds():
    with pytest.raises(FloatingPointError, match=r"times 0 and 0\.5.*round 1 of 2.*refinement 1"):
        small(params0=[200.0, 0.0]).fit(snapshots(), TIMES)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dt": 0.2}, "dt must be at most a quarter of the shortest interval, 0.125, got 0.2"),
        ({"dt": 0.0}, "dt must be"),
        ({"n_refine": 0}, "n_refine must be"),
        ({"n_ipfp": 0}, "n_ipfp must be"),
        ({"n_features": 0}, "n_features must be"),
        ({"drift_model": "tree"}, "drift_model must be one of"),
        ({"ridge": -1.0}, "ridge must be"),
        ({"params0": [1.0]}, "params0 must have shape"),
        ({"reference": LotkaVolterra()}, "must have 2 columns"),
    ],
)
def test_bad_settings_are_refused_by_name(options, match):
    with pytest.raises(ValueError, match=match):
        small(**options).fit(snapshots(), TIMES)


def test_settings_of_a_wrong_kind_are_refused_by_name():
    with pytest.raises(TypeError, match="reference must be a DriftFamily"):
        small("brownian").fit(snapshots(), TIMES)
    with pytest.raises(TypeError, match="executor must be"):
        small(executor=2).fit(snapshots(), TIMES)
    with pytest.raises(ValueError, match="sigma must be"):
        ReferenceRefinement(DECAY, 0.0).fit(snapshots(), TIMES)


def test_bad_snapshots_are_refused_by_name():
    with pytest.raises(ValueError, match="snapshots must have one array for each of 3 times"):
        small().fit(snapshots(), TIMES[:3])
    with pytest.raises(ValueError, match="times must be two or more increasing"):
        small().fit(snapshots(), TIMES[::-1])


def test_times_outside_are_refused_by_name(model):
    x = np.ones((2, 1))
    with pytest.raises(ValueError, match="t must be a finite number >= 0 and <= 2"):
        model.interpolate(2.1)
    with pytest.raises(ValueError, match="t must be a finite number >= 2"):
        model.extrapolate(1.9)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 2\]"):
        model.drift(-0.1, x)
    with pytest.raises(ValueError, match="t must be a number or have shape"):
        model.drift(np.zeros(3), x)
