import pickle

import numpy as np
import pytest
from sklearn.base import clone

torch = pytest.importorskip("torch")

from thalweg.transport import (  # noqa: E402
    BridgeMatching,
    gaussian_bridge_marginal,
    gaussian_dimf,
    gaussian_eot,
    sdeint,
)
from thalweg.transport._couplings import draw_pairs, stratified_times  # noqa: E402

EPSILON = 0.8
M0, M1 = np.array([0.0, 2.0]), np.array([1.0, -3.0])
S0 = np.array([[1.0, 0.4], [0.4, 0.6]])
S1 = np.array([[0.5, -0.3], [-0.3, 1.5]])
N = 4000
SMALL = {"hidden": (32, 32), "n_steps": 250, "lr": 1e-2, "ema": 0.98, "n_sde_steps": 50, "rng": 0}


def clouds(seed):
    rng = np.random.default_rng(seed)
    return (rng.multivariate_normal(m, S, size=N) for m, S in ((M0, S0), (M1, S1)))


@pytest.fixture(scope="module")
def matched():
    return BridgeMatching(EPSILON, **{**SMALL, "n_steps": 500}).fit(*clouds(0))


@pytest.fixture(scope="module")
def fitted():
    return BridgeMatching(EPSILON, n_iter=3, n_pairs=3000, **SMALL).fit(*clouds(0))


def cross_cov(X, Y):
    return (X - X.mean(0)).T @ (Y - Y.mean(0)) / len(X)


def relative(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("model", ["matched", "fitted"])
def test_both_directions_preserve_the_marginals(model, request):
    model, (X, Y) = request.getfixturevalue(model), clouds(1)
    for found, mean, cov in (
        (model.transform(X, rng=1), M1, S1),
        (model.inverse_transform(Y, rng=1), M0, S0),
    ):
        assert np.abs(found.mean(0) - mean).max() < 0.12
        assert relative(np.cov(found.T), cov) < 0.12


def independent_marginal(t):
    """Moments of the bridges between independent ends."""
    mean = (1 - t) * M0 + t * M1
    return mean, (1 - t) ** 2 * S0 + t**2 * S1 + EPSILON * t * (1 - t) * np.eye(2)


def exact_drift(t, x):
    """E[(x1 - x) / (1 - t)] given the bridge between independent ends passes through x."""
    mean, cov = independent_marginal(t)
    return (M1 + (x - mean) @ np.linalg.solve(cov, t * S1) - x) / (1 - t)


def exact_backward_drift(t, x):
    mean, cov = independent_marginal(t)
    return (x - M0 - (x - mean) @ np.linalg.solve(cov, (1 - t) * S0)) / t


def exact_score(t, x):
    mean, cov = independent_marginal(t)
    return -np.linalg.solve(cov, (x - mean).T).T


@pytest.mark.parametrize("t", [0.05, 0.3, 0.6, 0.9])
def test_learned_fields_are_those_of_the_independent_coupling(matched, t):
    mean, cov = independent_marginal(t)
    x = np.random.default_rng(2).multivariate_normal(mean, cov, size=500)
    velocity = (exact_drift(t, x) + exact_backward_drift(t, x)) / 2
    for found, exact in (
        (matched.drift(t, x), exact_drift(t, x)),
        (matched.backward_drift(t, x), exact_backward_drift(t, x)),
        (matched.velocity(t, x), velocity),
    ):
        assert np.sqrt(((found - exact) ** 2).sum(1).mean()) < 0.5
        assert relative(found, exact) < 0.15
    assert relative(matched.score(t, x), exact_score(t, x)) < 0.35


def test_one_round_makes_the_coupling_of_one_markovian_projection(matched):
    X, _ = clouds(3)
    exact = gaussian_dimf(S0, S1, EPSILON, n_inner=200, n_iter=1)[-1]
    found = cross_cov(X, matched.transform(X, rng=1))
    assert relative(found, exact) < 0.15


def test_iterated_fitting_leads_to_the_entropic_plan(fitted):
    """Of the way from independence to the plan, a tenth may be missing."""
    X, Y = clouds(3)
    exact, _, _ = gaussian_eot(M0, S0, M1, S1, EPSILON)
    assert relative(cross_cov(X, fitted.transform(X, rng=1)), exact) < 0.1
    assert relative(cross_cov(fitted.inverse_transform(Y, rng=1), Y), exact) < 0.1


def test_path_passes_through_the_marginals_of_the_bridge(fitted):
    X, _ = clouds(4)
    path = fitted.sample_path(X, 50, rng=1)
    for k in (15, 35):
        mean, cov = gaussian_bridge_marginal(M0, S0, M1, S1, EPSILON, k / 50)
        assert np.abs(path[k].mean(0) - mean).max() < 0.12
        assert relative(np.cov(path[k].T), cov) < 0.12


def test_paths_start_at_the_points_and_end_where_the_map_does(matched):
    X, Y = clouds(5)
    path = matched.sample_path(X, 7, rng=3)
    assert path.shape == (8, N, 2)
    np.testing.assert_allclose(path[0], X, atol=1e-5)
    np.testing.assert_allclose(path[-1], matched.transform(X, n_steps=7, rng=3), atol=1e-6)
    back = matched.sample_path(Y, 7, direction="backward", rng=3)
    np.testing.assert_allclose(back[0], Y, atol=1e-5)
    np.testing.assert_allclose(back[-1], matched.inverse_transform(Y, n_steps=7, rng=3), atol=1e-6)


def test_drifts_are_those_that_the_integrator_takes(matched):
    """sdeint with the public drifts, in the data's own coordinates, has the law of the map."""
    X, Y = clouds(6)
    sigma, steps = np.sqrt(EPSILON), 20
    ours = sdeint(matched.drift, X, sigma, n_steps=steps, rng=0)
    theirs = matched.transform(X, n_steps=steps, rng=0)
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.08)
    np.testing.assert_allclose(np.cov(ours.T), np.cov(theirs.T), atol=0.12)
    ours = sdeint(matched.backward_drift, Y, sigma, t0=1.0, t1=0.0, n_steps=steps, rng=0)
    theirs = matched.inverse_transform(Y, n_steps=steps, rng=0)
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.08)
    np.testing.assert_allclose(np.cov(ours.T), np.cov(theirs.T), atol=0.12)


def test_fields_take_a_time_a_row_and_tensors(matched):
    x = np.random.default_rng(0).normal(size=(3, 2))
    times = np.array([0.1, 0.5, 0.9])
    for field in (matched.drift, matched.backward_drift, matched.velocity, matched.score):
        rows = field(times, x)
        for t, row, point in zip(times, rows, x, strict=True):
            np.testing.assert_allclose(field(t, point[None])[0], row, rtol=1e-4, atol=1e-4)
        tensor = field(torch.from_numpy(times), torch.from_numpy(x))
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_allclose(tensor.detach(), rows, rtol=1e-5, atol=1e-5)


TINY = {"hidden": (8,), "n_steps": 12, "batch_size": 16, "n_sde_steps": 5, "rng": 0}


def tiny_clouds(n=60):
    rng = np.random.default_rng(7)
    return rng.normal(size=(n, 2)), 1 + 0.5 * rng.normal(size=(n, 2))


def test_fit_is_equivariant_to_shifts_and_scale():
    X, Y = tiny_clouds()
    one = BridgeMatching(0.5, n_iter=2, **TINY).fit(X, Y)
    other = BridgeMatching(0.5 * 100, n_iter=2, **TINY).fit(10 * X + 300, 10 * Y - 70)
    found = other.transform(10 * X + 300, rng=1)
    np.testing.assert_allclose(found, 10 * (one.transform(X, rng=1) - Y.mean(0)) - 70
                               + 10 * Y.mean(0), atol=2e-2)  # fmt: skip


def test_paired_rows_keep_what_one_projection_keeps_of_them():
    """Rows turned by 60 degrees: the cross-covariance of the projection is known and turned too."""
    turn = np.array([[0.5, -(3**0.5) / 2], [3**0.5 / 2, 0.5]])
    X = np.random.default_rng(8).normal(size=(2000, 2))
    options = {**SMALL, "initial_coupling": "paired"}
    found = cross_cov(X, BridgeMatching(0.2, **options).fit(X, X @ turn.T).transform(X, rng=1))
    exact = gaussian_dimf(np.eye(2), np.eye(2), 0.2, n_inner=200, n_iter=1, C0=turn.T)[-1]
    assert relative(found, exact) < 0.1
    assert relative(found, exact.T) > 0.3


def test_minibatches_are_assigned_at_least_cost():
    X, Y = (torch.from_numpy(Z) for Z in tiny_clouds())
    draws = [
        draw_pairs(X, Y, 40, coupling, torch.Generator().manual_seed(0))
        for coupling in ("independent", "minibatch-ot")
    ]
    (x, y), (u, v) = draws
    assert torch.equal(x, u)
    assert torch.equal(y.sort(0).values, v.sort(0).values)
    assert ((u - v) ** 2).sum() < 0.7 * ((x - y) ** 2).sum()
    swapped = v.clone()
    for i in range(40):
        for j in range(i):
            swapped[[i, j]] = v[[j, i]]
            assert ((u - swapped) ** 2).sum() >= ((u - v) ** 2).sum() - 1e-9
            swapped[[i, j]] = v[[i, j]]
    BridgeMatching(0.5, initial_coupling="minibatch-ot", **TINY).fit(*tiny_clouds())


def test_paired_draws_take_the_same_rows():
    X = torch.arange(10.0)[:, None]
    x, y = draw_pairs(X, X + 5, 30, "paired", torch.Generator().manual_seed(0))
    assert torch.equal(y, x + 5)


def test_times_of_a_batch_cover_the_interval():
    t = stratified_times(10, 0.5, torch.Generator().manual_seed(0), torch.zeros(1))
    assert torch.equal((t / 0.05).floor(), torch.arange(10.0))


def test_callback_is_told_the_place():
    seen = []
    model = BridgeMatching(
        0.5, n_iter=2, callback=lambda s: seen.append((s.round, s.direction, s.step)), **TINY
    ).fit(*tiny_clouds())
    expected = [
        (number, direction, step)
        for number in (1, 2)
        for direction in ("backward", "forward")
        for step in range(1, 13)
    ]
    assert seen == expected
    assert [(h["round"], h["direction"]) for h in model.history_] == [e[:2] for e in expected[::12]]
    assert all(len(h["losses"]) == 12 for h in model.history_)


class StoppedError(Exception):
    pass


def stop_at(*place):
    def callback(state):
        if (state.round, state.direction, state.step) == place:
            raise StoppedError

    return callback


@pytest.mark.parametrize(
    "place", [(1, "backward", 5), (1, "forward", 12), (2, "backward", 7), (2, "forward", 1)]
)
@pytest.mark.parametrize("coupling", ["independent", "minibatch-ot"])
def test_an_interrupted_fit_goes_on_bit_by_bit(tmp_path, place, coupling):
    X, Y = tiny_clouds()
    options = {"n_iter": 2, "initial_coupling": coupling, "n_pairs": 30, **TINY}
    whole = BridgeMatching(0.5, **options).fit(X, Y)
    model = BridgeMatching(0.5, checkpoint=tmp_path / "fit", callback=stop_at(*place), **options)
    with pytest.raises(StoppedError):
        model.fit(X, Y)
    model.set_params(callback=None).fit(X, Y)
    np.testing.assert_array_equal(model.transform(X), whole.transform(X))
    np.testing.assert_array_equal(model.inverse_transform(Y), whole.inverse_transform(Y))
    for one, other in zip(model.history_, whole.history_, strict=True):
        np.testing.assert_array_equal(one["losses"], other["losses"])


def test_a_fit_without_seed_goes_on_as_it_began(tmp_path):
    X, Y = tiny_clouds()
    options = {**TINY, "rng": None, "n_iter": 2, "checkpoint": tmp_path / "fit"}
    whole = BridgeMatching(0.5, **options).fit(X, Y)
    again = BridgeMatching(0.5, **options).fit(X, Y)
    np.testing.assert_array_equal(whole.transform(X, rng=1), again.transform(X, rng=1))


def test_more_rounds_go_on_from_a_finished_fit(tmp_path):
    X, Y = tiny_clouds()
    BridgeMatching(0.5, checkpoint=tmp_path / "fit", **TINY).fit(X, Y)
    seen = []
    more = BridgeMatching(
        0.5, n_iter=2, checkpoint=tmp_path / "fit", callback=lambda s: seen.append(s.round), **TINY
    ).fit(X, Y)
    assert set(seen) == {2}
    whole = BridgeMatching(0.5, n_iter=2, **TINY).fit(X, Y)
    np.testing.assert_array_equal(more.transform(X), whole.transform(X))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.6}, "epsilon was 0.5 and is now 0.6"),
        ({"rng": 1}, "rng was 0 and is now 1"),
        ({"batch_size": 17}, "batch_size was 16 and is now 17"),
        ({"initial_coupling": "paired"}, "initial_coupling was 'independent'"),
        ({"n_sde_steps": 6}, "n_sde_steps was 5"),
        ({"lr": 1e-3}, "lr was 0.002"),
        ({"hidden": (9,)}, "parameters was"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(tmp_path, change, message):
    X, Y = tiny_clouds()
    options = {"epsilon": 0.5, "checkpoint": tmp_path / "fit", **TINY}
    BridgeMatching(**options).fit(X, Y)
    with pytest.raises(ValueError, match=message):
        BridgeMatching(**{**options, **change}).fit(X, Y)
    with pytest.raises(ValueError, match="data was"):
        BridgeMatching(**options).fit(X, Y + 1)


def test_seeds_decide_the_fit_and_the_draw():
    X, Y = tiny_clouds()
    one, two = (BridgeMatching(0.5, **TINY).fit(X, Y) for _ in range(2))
    np.testing.assert_array_equal(one.transform(X), two.transform(X))
    np.testing.assert_array_equal(one.transform(X, rng=3), two.transform(X, rng=3))
    assert (one.transform(X, rng=3) != one.transform(X, rng=4)).all()
    other = BridgeMatching(0.5, **{**TINY, "rng": 1}).fit(X, Y)
    assert (one.transform(X, rng=3) != other.transform(X, rng=3)).all()


def test_estimator_can_be_cloned_and_pickled():
    X, Y = tiny_clouds()
    model = clone(BridgeMatching(0.5, **TINY)).fit(X, Y)
    other = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(model.transform(X), other.transform(X))
    assert model.n_features_in_ == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be"),
        ({"n_iter": 0}, "n_iter must be"),
        ({"n_steps": 0}, "n_steps must be"),
        ({"hidden": (0,)}, "hidden must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"lr": -1.0}, "lr must be"),
        ({"n_sde_steps": 0}, "n_sde_steps must be"),
        ({"n_pairs": 0}, "n_pairs must be"),
        ({"initial_coupling": "sorted"}, "initial_coupling must be one of 'independent'"),
        ({"ema": 1.5}, "ema must be"),
    ],
)
def test_bad_parameters_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        BridgeMatching(**{**TINY, **change}).fit(*tiny_clouds())


@pytest.mark.parametrize(
    ("X", "Y", "message"),
    [
        (np.zeros((5, 2)), np.zeros((5, 3)), "same number of columns"),
        (np.zeros((5, 2)), np.full((5, 2), np.nan), "Y must be finite"),
        (np.zeros(5), np.zeros((5, 2)), "X must have 2 axes"),
        (np.zeros((5, 2)), np.zeros((6, 2)), "same number of rows when paired, got 5 and 6"),
    ],
)
def test_bad_clouds_are_refused_by_name(X, Y, message):
    with pytest.raises(ValueError, match=message):
        BridgeMatching(initial_coupling="paired", **TINY).fit(X, Y)


def test_bad_calls_are_refused_by_name():
    X, Y = tiny_clouds()
    model = BridgeMatching(0.5, **TINY).fit(X, Y)
    with pytest.raises(ValueError, match=r"X must have shape \(any, 2\)"):
        model.transform(X[:, :1])
    with pytest.raises(ValueError, match="n_steps must be"):
        model.transform(X, n_steps=0)
    with pytest.raises(ValueError, match="direction must be one of"):
        model.sample_path(X, direction="up")
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        model.drift(1.5, X)
