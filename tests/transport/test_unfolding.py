"""Unfolding by a bridge, against the closed form for Gaussians and what must not change it."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone

torch = pytest.importorskip("torch")

from thalweg.transport import (  # noqa: E402
    BridgeUnfolder,
    bridge_coefficients,
    bridge_schedule,
    gaussian_unfolding,
    unfolding,
)
from thalweg.transport._unfolding_process import BridgeLoss, follow_back  # noqa: E402

M, SHIFT = np.array([0.0, 1.0]), np.array([0.5, -0.2])
S = np.array([[1.0, 0.3], [0.3, 0.6]])
R = np.array([[0.4, -0.1], [-0.1, 0.3]])
DATA_MEAN, DATA_S = np.array([0.6, 0.4]), 1.2 * S
N = 6000
SMALL = {"hidden": (32, 32), "n_steps": 600, "lr": 1e-2, "ema": 0.99, "rng": 0}
TINY = {"hidden": (8,), "n_steps": 20, "batch_size": 32, "n_times": 20, "nfe": 5, "rng": 0}


def events(mean, cov, n, seed, noise=R):
    rng = np.random.default_rng(seed)
    truth = rng.multivariate_normal(mean, cov, n)
    return truth, truth + SHIFT + rng.multivariate_normal(np.zeros(2), noise, n)


@pytest.fixture(scope="module")
def fitted():
    return BridgeUnfolder(**SMALL).fit(*events(M, S, N, 0))


def tiny():
    return events(M, S, 100, 0)


def test_gaussians_are_unfolded_to_the_closed_form(fitted):
    """The law of the truth given the measurement, averaged over data of another law."""
    _, data = events(DATA_MEAN, DATA_S, 20_000, 1)
    mean, cov = gaussian_unfolding(M, S, R, SHIFT, data.mean(0), np.cov(data.T))
    unfolded = fitted.transform(data)
    np.testing.assert_allclose(unfolded.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(np.cov(unfolded.T), cov, atol=0.05)


def test_draws_of_one_event_follow_the_law_of_its_truth(fitted):
    """Mean and covariance given one measurement; 0.1 for a single place of a short fit."""
    one = np.array([[1.5, 0.5]])
    K = np.linalg.solve(S + R, S).T
    draws = fitted.sample(one, 4000)[:, 0]
    np.testing.assert_allclose(draws.mean(0), M + K @ (one[0] - SHIFT - M), atol=0.1)
    np.testing.assert_allclose(np.cov(draws.T), S - K @ S, atol=0.1)


def test_pairs_are_lost_without_the_condition(fitted):
    """Both give the simulation's truths back; only one keeps them beside their measurements."""
    truth, measured = events(M, S, 10_000, 2)
    loose = BridgeUnfolder(cond=False, **SMALL).fit(*events(M, S, N, 0))
    joint = np.cov(np.column_stack([truth, measured]).T)[:2, 2:]
    errors = []
    for model in (fitted, loose):
        unfolded = model.transform(measured)
        np.testing.assert_allclose(np.cov(unfolded.T), S, atol=0.06)
        found = np.cov(np.column_stack([unfolded, measured]).T)[:2, 2:]
        errors.append(np.abs(found - joint).max())
    assert errors[0] <= 0.05
    assert errors[1] >= 0.1


def test_exact_instrument_is_inverted():
    """A map without noise, of other units, is undone to 0.05 deviations."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(2000, 2)) * [1.0, 20.0]
    measured = truth * [2.0, 0.5] + [3.0, -1.0]
    model = BridgeUnfolder(**{**SMALL, "n_steps": 1200}).fit(truth, measured)
    assert np.abs((model.transform(measured) - truth) / [1.0, 20.0]).max() <= 0.05


def test_ode_gives_the_mean_truth():
    truth, measured = events(M, S, N, 0)
    model = BridgeUnfolder(ode=True, **SMALL).fit(truth, measured)
    K = np.linalg.solve(S + R, S).T
    mean = M + (measured - SHIFT - M) @ K.T
    assert np.abs(model.transform(measured) - mean).mean() <= 0.06
    np.testing.assert_array_equal(model.transform(measured, rng=1), model.transform(measured))


def test_units_of_a_column_do_not_matter():
    truth, measured = tiny()
    unit = np.array([1000.0, 1.0])
    one = BridgeUnfolder(**TINY).fit(truth, measured)
    other = BridgeUnfolder(**TINY).fit(truth * unit, measured * unit)
    np.testing.assert_allclose(
        other.transform(measured * unit), one.transform(measured) * unit, rtol=1e-3, atol=1e-3
    )


def test_columns_are_left_as_they_are_without_standardize():
    model = BridgeUnfolder(standardize=False, **TINY).fit(*tiny())
    assert (model.mean0_ == 0).all()
    assert (model.scale1_ == 1).all()


def test_iterations_remove_the_prior():
    """The exact errors of the mean are 0.5 after one fit and 0.125 after three; noise 0.08."""
    rng = np.random.default_rng(0)
    truth, data_truth = rng.normal(size=(4000, 1)), rng.normal(1.0, 1.0, size=(4000, 1))
    measured, data = (x + rng.normal(size=(4000, 1)) for x in (truth, data_truth))
    options = {**SMALL, "n_steps": 300, "ema": 0.98}
    for n_iterations, error in ((1, 0.5), (3, 0.125)):
        model = BridgeUnfolder(n_iterations=n_iterations, **options)
        unfolded = model.fit(truth, measured, data=data).transform(data)
        assert data_truth.mean() - unfolded.mean() == pytest.approx(error, abs=0.08)
    assert model.weights_.mean() == pytest.approx(1)
    assert np.average(truth[:, 0], weights=model.weights_) == pytest.approx(0.75, abs=0.1)


def test_weights_of_pairs_are_those_of_repeated_pairs():
    """Pairs of weight zero are not seen; weights move the law that is learned."""
    truth, measured = events(M, S, N, 0)
    weights = np.exp(truth[:, 0] - 0.5)
    model = BridgeUnfolder(**SMALL).fit(truth, measured, sample_weight=weights)
    mean = M + S[:, 0]
    np.testing.assert_allclose(model.mean0_, np.average(truth, axis=0, weights=weights))
    _, data = events(mean, S, 10_000, 1)
    np.testing.assert_allclose(model.transform(data).mean(0), mean, atol=0.08)
    np.testing.assert_allclose(model.weights_, weights / weights.mean())


def test_rows_are_drawn_by_weight():
    x = torch.zeros(3, 1)
    loss = BridgeLoss(None, x, x, bridge_schedule(5), 3000, True, False, np.array([0.0, 3.0, 1.0]))
    counts = np.bincount(loss._rows(torch.Generator().manual_seed(0)).numpy(), minlength=3)
    assert counts[0] == 0
    assert counts[1] / 3000 == pytest.approx(0.75, abs=0.04)


@pytest.mark.parametrize("ode", [False, True])
def test_loss_is_that_of_the_bridge(ode):
    """A network that knows the answer has no loss; one of zeros has the labels' mean square."""
    schedule = bridge_schedule(6)
    x0, x1 = torch.tensor([[1.0]]), torch.tensor([[1.2]])

    def exact(t, x, cond):
        forward = torch.from_numpy(schedule[0]).float()[(t * 5).round().long()]
        assert (t > 0).all()
        torch.testing.assert_close(cond, x1.expand_as(x))
        return (x - 1.0) / forward[:, None]

    arguments = (x0, x1, schedule, 4000, True, ode, np.ones(1))
    generator = torch.Generator().manual_seed(0)
    assert float(BridgeLoss(exact, *arguments)(generator)) == pytest.approx(0, abs=1e-9)
    zero = BridgeLoss(lambda t, x, cond: 0 * x, *arguments)
    _, mu1, std = bridge_coefficients(np.arange(1, 6), schedule)
    square = ((0.2 * mu1) ** 2 + (0 if ode else 1) * std**2) / schedule[0][1:] ** 2
    assert float(zero(generator)) == pytest.approx(square.mean(), rel=0.05)


@pytest.mark.parametrize("nfe", [1, 4, 19])
def test_way_back_with_the_true_start_follows_the_bridge(nfe):
    """A network that knows the truth: all draws end there; times and calls are as stated."""
    schedule, seen = bridge_schedule(20), []

    def exact(t, x, cond):
        seen.append(t)
        return (x - 1.5) / float(schedule[0][round(t * 19)])

    ends = follow_back(exact, schedule, nfe, True, False, "cpu", np.full((50, 1), -2.0), 0)
    np.testing.assert_allclose(ends, 1.5, atol=1e-5)
    assert len(seen) == nfe
    assert seen[0] == 1
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] > 0


def test_noise_of_the_way_back_is_the_bridges():
    """The last point but one is the bridge's: mean and deviation on 20 000 draws."""
    schedule, points = bridge_schedule(3), []

    def exact(t, x, cond):
        points.append(x.clone())
        return (x - 1.5) / float(schedule[0][round(t * 2)])

    follow_back(exact, schedule, 2, True, False, "cpu", np.full((20_000, 1), -2.0), 0)
    mu0, mu1, std = bridge_coefficients(1, schedule)
    middle = points[1].numpy()
    assert middle.mean() == pytest.approx(1.5 * mu0 - 2 * mu1, abs=5 * std / 20_000**0.5)
    assert middle.std() == pytest.approx(std, rel=0.03)
    points.clear()
    follow_back(exact, schedule, 2, True, True, "cpu", np.full((10, 1), -2.0), 0)
    np.testing.assert_allclose(points[1], 1.5 * mu0 - 2 * mu1, rtol=1e-5)


def test_non_finite_event_stops_the_way_back():
    with pytest.raises(FloatingPointError, match="index 10 of the bridge"):
        follow_back(
            lambda t, x, cond: x / 0,
            bridge_schedule(20),
            2,
            False,
            False,
            "cpu",
            np.ones((2, 1)),
            0,
        )


def test_blocks_and_executors_change_nothing(fitted, monkeypatch):
    _, data = events(M, S, 500, 3)
    monkeypatch.setattr(unfolding, "BLOCK", 128)
    alone = fitted.sample(data, 3, rng=4)
    assert alone.shape == (3, 500, 2)
    with ThreadPoolExecutor(2) as pool:
        together = fitted.sample(data, 3, rng=4, executor=pool)
    np.testing.assert_array_equal(alone, together)
    assert (alone[0] != alone[1]).all()
    np.testing.assert_array_equal(fitted.transform(data), fitted.transform(data))
    assert (fitted.transform(data, rng=1) != fitted.transform(data, rng=2)).all()


def test_estimator_can_be_cloned_and_pickled():
    truth, measured = tiny()
    model = clone(BridgeUnfolder(**TINY)).fit(truth, measured)
    other = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(model.transform(measured), other.transform(measured))
    assert model.n_features_in_ == 2
    assert model.loss_curve_.shape == (20,)
    np.testing.assert_array_equal(model.weights_, np.ones(100))


def test_callback_sees_each_step_and_can_stop():
    seen = []

    def callback(state):
        seen.append((state.iteration, state.step))
        if state.step == 3:
            raise StopIteration

    truth, measured = tiny()
    options = {**TINY, "n_iterations": 2, "callback": callback}
    BridgeUnfolder(**options).fit(truth, measured, data=measured)
    assert seen == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]


def test_interrupted_fit_goes_on_from_its_files(tmp_path):
    truth, measured = tiny()
    options = {**TINY, "n_iterations": 2}
    whole = BridgeUnfolder(**options).fit(truth, measured, data=measured)

    def stop(state):
        if (state.iteration, state.step) == (2, 7):
            raise RuntimeError("power cut")

    kept = {**options, "checkpoint": tmp_path / "fit"}
    with pytest.raises(RuntimeError, match="power cut"):
        BridgeUnfolder(callback=stop, **kept).fit(truth, measured, data=measured)
    resumed = BridgeUnfolder(**kept).fit(truth, measured, data=measured)
    np.testing.assert_array_equal(resumed.transform(measured), whole.transform(measured))
    np.testing.assert_array_equal(resumed.loss_curve_, whole.loss_curve_)
    with pytest.raises(ValueError, match=r"of another configuration: beta_max was 0\.3"):
        BridgeUnfolder(beta_max=0.5, **kept).fit(truth, measured, data=measured)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fit_on_a_gpu():
    _, data = events(DATA_MEAN, DATA_S, 20_000, 1)
    model = BridgeUnfolder(device="cuda", **SMALL).fit(*events(M, S, N, 0))
    mean, _ = gaussian_unfolding(M, S, R, SHIFT, data.mean(0), np.cov(data.T))
    np.testing.assert_allclose(model.transform(data).mean(0), mean, atol=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_times": 1}, "n_times must be"),
        ({"beta_max": 0.0}, "beta_max must be"),
        ({"nfe": 0}, "nfe must be"),
        ({"nfe": 20}, "nfe must be an integer >= 1 and <= 19, got 20"),
        ({"n_steps": 0}, "n_steps must be"),
        ({"hidden": (0,)}, "hidden must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"lr": -1.0}, "lr must be"),
        ({"schedule": "linear"}, "schedule must be"),
        ({"ema": 2.0}, "ema must be"),
        ({"n_iterations": 0}, "n_iterations must be"),
        ({"n_iterations": 2}, "data must be given where n_iterations is more than 1"),
    ],
)
def test_bad_parameters_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        BridgeUnfolder(**{**TINY, **change}).fit(*tiny())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measured": np.eye(5)[:4]}, "truth and measured must be pairs"),
        ({"measured": np.eye(5)[:, :2]}, "truth and measured must be pairs"),
        ({"truth": np.full((5, 5), np.nan)}, "truth must be finite"),
        ({"truth": np.eye(5) * [1, 1, 0, 1, 1]}, "truth must vary in each column, column 2"),
        ({"measured": np.ones((5, 5))}, "measured must vary in each column, column 0"),
        ({"data": np.ones((5, 4))}, "data must have shape"),
        ({"sample_weight": np.zeros(5)}, "sample_weight must be >= 0"),
    ],
)
def test_bad_events_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        BridgeUnfolder(**TINY).fit(**{"truth": np.eye(5), "measured": np.eye(5), **change})


def test_bad_calls_are_refused_by_name():
    truth, measured = tiny()
    model = BridgeUnfolder(**TINY).fit(truth, measured)
    with pytest.raises(ValueError, match=r"measured must have shape \(any, 2\)"):
        model.transform(measured[:, :1])
    with pytest.raises(ValueError, match="nfe must be"):
        model.transform(measured, nfe=20)
    with pytest.raises(ValueError, match="n_samples must be"):
        model.sample(measured, 0)
