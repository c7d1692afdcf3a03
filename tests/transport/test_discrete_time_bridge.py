import pickle

import numpy as np
import pytest
from sklearn.base import clone

torch = pytest.importorskip("torch")

from thalweg.transport import (  # noqa: E402
    AdversarialBridge,
    energy_distance,
    gaussian_bridge_marginal,
    gaussian_dimf,
    gaussian_eot,
)
from thalweg.transport._chain_projections import pool_of_rows  # noqa: E402

EPSILON = 0.8
M0, M1 = np.array([0.0, 2.0]), np.array([1.0, -3.0])
S0 = np.array([[1.0, 0.4], [0.4, 0.6]])
S1 = np.array([[0.5, -0.3], [-0.3, 1.5]])
TIMES = [0.0, 0.1, 0.4, 1.0]
N = 20_000
TINY = {"hidden": (8,), "steps_per_projection": 6, "batch_size": 16, "rng": 0}


def clouds(seed, n=N):
    rng = np.random.default_rng(seed)
    return tuple(rng.multivariate_normal(m, S, size=n) for m, S in ((M0, S0), (M1, S1)))


def cross_cov(X, Y):
    return (X - X.mean(0)).T @ (Y - Y.mean(0)) / len(X)


def scale_of_pair(C):
    return np.linalg.norm(np.block([[S0, C], [C.T, S1]]))


# --- transitions with affine mean: exact on Gaussians ---------------------------------------------


@pytest.mark.parametrize("n_iter", [1, 2])
@pytest.mark.parametrize("times", [TIMES, None])
def test_gaussian_transitions_follow_the_closed_form(n_iter, times):
    """Forward after n iterations is projection 2n - 1, backward 2n: within 3 %."""
    model = AdversarialBridge(EPSILON, 2, times=times, n_iter=n_iter, transition="gaussian", rng=0)
    model.fit(*clouds(0))
    np.testing.assert_array_equal(model.times_, [0, 0.5, 1] if times is None else times)
    exact = gaussian_dimf(S0, S1, EPSILON, times=model.times_, n_iter=2 * n_iter)
    X, Y = clouds(1)
    found = cross_cov(X, model.transform(X, rng=1))
    assert np.linalg.norm(found - exact[-2]) <= 0.03 * scale_of_pair(exact[-2])
    found = cross_cov(model.inverse_transform(Y, rng=1), Y)
    assert np.linalg.norm(found - exact[-1]) <= 0.03 * scale_of_pair(exact[-1])


def test_iterations_lead_to_the_entropic_plan_and_its_bridge():
    model = AdversarialBridge(EPSILON, times=TIMES, n_iter=8, transition="gaussian", rng=0)
    model.fit(*clouds(0))
    C, _, _ = gaussian_eot(M0, S0, M1, S1, EPSILON)
    X, Y = clouds(1)
    forward = model.sample_path(X, rng=1)
    backward = model.sample_path(Y, direction="backward", rng=1)
    assert forward.shape == backward.shape == (4, N, 2)
    for start, end in ((X, forward[-1]), (backward[-1], Y)):
        assert np.linalg.norm(cross_cov(start, end) - C) <= 0.03 * scale_of_pair(C)
    for path, times in ((forward, TIMES), (backward, TIMES[::-1])):
        for t, points in zip(times, path, strict=True):
            mean, cov = gaussian_bridge_marginal(M0, S0, M1, S1, EPSILON, t)
            assert np.abs(points.mean(0) - mean).max() < 0.04
            assert np.linalg.norm(np.cov(points.T) - cov) < 0.05 * np.linalg.norm(cov)


def test_one_step_keeps_the_coupling_that_it_was_given():
    """Without inner times there is nothing to redraw: pairs x1 = R x0 + noise stay."""
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 2))
    Y = X @ turn.T + 0.3 * rng.normal(size=(N, 2))
    model = AdversarialBridge(
        0.2, 1, n_iter=2, transition="gaussian", initial_coupling="paired", rng=0
    ).fit(X, Y)
    np.testing.assert_allclose(cross_cov(X, model.transform(X)), turn.T, atol=0.04)


def test_paired_rows_are_projected_as_pairs():
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    X = np.random.default_rng(0).normal(size=(N, 2))
    model = AdversarialBridge(
        0.2, n_iter=1, transition="gaussian", initial_coupling="paired", rng=0
    ).fit(X, X @ turn.T)
    exact = gaussian_dimf(np.eye(2), np.eye(2), 0.2, n_inner=3, n_iter=1, C0=turn.T)[-1]
    np.testing.assert_allclose(cross_cov(X, model.transform(X)), exact, atol=0.04)


def test_assigned_minibatches_start_nearer_to_the_plan_at_small_epsilon():
    X, Y = clouds(0, 4000)
    C, _, _ = gaussian_eot(M0, S0, M1, S1, 0.1)
    errors = []
    for coupling in ("independent", "minibatch-ot"):
        model = AdversarialBridge(
            0.1, n_iter=1, transition="gaussian", initial_coupling=coupling, rng=0
        ).fit(X, Y)
        errors.append(np.linalg.norm(cross_cov(X, model.transform(X)) - C) / np.linalg.norm(C))
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("transition", ["gaussian", "gan"])
def test_fit_is_equivariant_to_shifts_and_scale(transition):
    X, Y = clouds(0, 300)
    options = {"n_iter": 1, "transition": transition, **TINY}
    one = AdversarialBridge(0.5, **options).fit(X, Y)
    other = AdversarialBridge(0.5 * 100, **options).fit(10 * X + 300, 10 * Y - 70)
    expected = 10 * one.transform(X, rng=1) - 70
    np.testing.assert_allclose(other.transform(10 * X + 300, rng=1), expected, atol=2e-2)
    for a, b in zip(one.history_, other.history_, strict=True):
        assert b["energy_distance"] == pytest.approx(10 * a["energy_distance"], abs=1e-2)


# --- transitions by a GAN -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adversarial():
    return AdversarialBridge(
        EPSILON, 3, n_iter=1, steps_per_projection=350, hidden=(48, 48), lr=1e-3, d_lr=4e-3,
        ema=0.99, rng=0,
    ).fit(*clouds(0, 5000))  # fmt: skip


def test_adversarial_transitions_reach_the_other_cloud(adversarial):
    """Energy distance 0.05 is that of a shift by a quarter of the spread."""
    X, Y = clouds(2, 2000)
    assert energy_distance(adversarial.transform(X, rng=1), Y) < 0.05
    assert energy_distance(adversarial.inverse_transform(Y, rng=1), X) < 0.05
    for projection in adversarial.history_:
        assert projection["losses"].shape == (350, 2)
        assert projection["energy_distance"] < 0.06


def test_adversarial_coupling_is_that_of_the_projection(adversarial):
    """A tenth to a third of the way from independence may be missing, never half."""
    X, _ = clouds(3, 5000)
    exact = gaussian_dimf(S0, S1, EPSILON, n_inner=2, n_iter=1)[-1]
    found = cross_cov(X, adversarial.transform(X, rng=1))
    assert np.linalg.norm(found - exact) < 0.45 * np.linalg.norm(exact)


def test_adversarial_path_has_the_marginals_of_the_bridges(adversarial):
    X, _ = clouds(4, 5000)
    path = adversarial.sample_path(X, rng=1)
    np.testing.assert_allclose(path[0], X, atol=1e-5)
    for t, points in zip(adversarial.times_[1:-1], path[1:-1], strict=True):
        mean = (1 - t) * M0 + t * M1
        cov = (1 - t) ** 2 * S0 + t**2 * S1 + EPSILON * t * (1 - t) * np.eye(2)
        assert np.abs(points.mean(0) - mean).max() < 0.2
        assert np.linalg.norm(np.cov(points.T) - cov) < 0.3 * np.linalg.norm(cov)


class Nets(torch.nn.Module):
    """Networks of a user: they record how they are called, in a list that copies share."""

    calls: list = []  # noqa: RUF012

    def __init__(self, columns, out):
        super().__init__()
        self.layer = torch.nn.Linear(columns, out)

    def forward(self, a, n, b):
        type(self).calls.append((tuple(a.shape), tuple(n.shape), n.dtype, tuple(b.shape)))
        return self.layer(torch.cat([a, n[:, None].float(), b], 1))


def test_networks_of_a_user_are_copied_and_called_once_a_step():
    class Makers(Nets):
        calls: list = []  # noqa: RUF012

    maker, judge = Makers(6, 2), Nets(5, 1)
    before = [p.detach().clone() for p in (*maker.parameters(), *judge.parameters())]
    X, Y = clouds(0, 50)
    model = AdversarialBridge(
        0.5, 3, latent_dim=3, n_iter=1, generator=maker, discriminator=judge, **TINY
    ).fit(X, Y)
    after = [*maker.parameters(), *judge.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert isinstance(model.generator_, Makers)
    assert model.generator_ is not model.backward_generator_
    assert set(Nets.calls) == {((16, 2), (16,), torch.int64, (16, 2))}
    Makers.calls.clear()
    model.transform(X)
    assert Makers.calls == [((50, 2), (50,), torch.int64, (50, 3))] * 3


def test_a_loss_that_is_not_finite_stops_with_projection_and_step():
    class Breaking(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x, n, z):
            return x + self.bias * torch.inf

    with pytest.raises(
        FloatingPointError, match=r"forward projection of iteration 1: the loss .* at step 1"
    ):
        AdversarialBridge(0.5, generator=Breaking(), **TINY).fit(*clouds(0, 50))


def test_a_chain_that_is_not_finite_stops_with_its_time():
    model = AdversarialBridge(0.5, 2, transition="gaussian", rng=0).fit(*clouds(0, 50))
    model.generator_.A[1] = torch.nan
    with pytest.raises(FloatingPointError, match="the chain is not finite at t = 1"):
        model.transform(clouds(0, 50)[0])


# --- the conventions of an estimator --------------------------------------------------------------


def test_history_tells_each_projection():
    seen = []
    model = AdversarialBridge(
        0.5,
        n_iter=2,
        callback=lambda s: seen.append((s.round, s.direction, s.step, s.n_steps, len(s.loss))),
        **TINY,
    ).fit(*clouds(0, 60))
    places = [(number, way) for number in (1, 2) for way in ("forward", "backward")]
    assert [(h["round"], h["direction"]) for h in model.history_] == places
    assert seen == [(*place, step, 6, 2) for place in places for step in range(1, 7)]
    assert all(h["losses"].shape == (6, 2) for h in model.history_)
    assert all(np.isfinite(h["energy_distance"]) for h in model.history_)


def test_discriminator_steps_are_counted():
    seen = []
    model = AdversarialBridge(
        0.5, n_iter=1, d_steps=3, callback=lambda s: seen.append(s.n_steps), **TINY
    ).fit(*clouds(0, 60))
    assert seen == [2] * 4
    assert model.history_[0]["losses"].shape == (2, 2)


def test_gaussian_fit_calls_back_once_a_projection():
    seen = []
    model = AdversarialBridge(
        0.5, n_iter=1, transition="gaussian", callback=seen.append, rng=0
    ).fit(*clouds(0, 60))
    assert [(s.round, s.direction, s.step) for s in seen] == [(1, "forward", 1), (1, "backward", 1)]
    assert model.history_[0]["losses"].shape == (4,)
    assert seen[0].loss == pytest.approx(model.history_[0]["losses"].mean())


def test_mean_squared_errors_fall_towards_the_end():
    model = AdversarialBridge(EPSILON, transition="gaussian", n_iter=1, rng=0).fit(*clouds(0))
    found = model.history_[0]["losses"] * model.scale_**2
    for t, error in zip(model.times_[:-1], found, strict=True):
        cov = (1 - t) ** 2 * S0 + t**2 * S1 + EPSILON * t * (1 - t) * np.eye(2)
        rest = np.trace(S1 - t**2 * S1 @ np.linalg.solve(cov, S1))
        assert error == pytest.approx(rest, rel=0.05)


class StoppedError(Exception):
    pass


def stop_at(*place):
    def callback(state):
        if (state.round, state.direction, state.step) == place:
            raise StoppedError

    return callback


@pytest.mark.parametrize("place", [(1, "forward", 2), (1, "backward", 6), (2, "forward", 3)])
@pytest.mark.parametrize("coupling", ["independent", "minibatch-ot"])
def test_an_interrupted_fit_goes_on_bit_by_bit(tmp_path, place, coupling):
    X, Y = clouds(0, 60)
    options = {"n_iter": 2, "initial_coupling": coupling, **TINY}
    whole = AdversarialBridge(0.5, **options).fit(X, Y)
    model = AdversarialBridge(0.5, checkpoint=tmp_path / "fit", callback=stop_at(*place), **options)
    with pytest.raises(StoppedError):
        model.fit(X, Y)
    model.set_params(callback=None).fit(X, Y)
    np.testing.assert_array_equal(model.transform(X), whole.transform(X))
    np.testing.assert_array_equal(model.inverse_transform(Y), whole.inverse_transform(Y))
    for one, other in zip(model.history_, whole.history_, strict=True):
        np.testing.assert_array_equal(one["losses"], other["losses"])


def test_more_iterations_go_on_from_a_finished_fit(tmp_path):
    X, Y = clouds(0, 60)
    AdversarialBridge(0.5, n_iter=1, checkpoint=tmp_path / "fit", **TINY).fit(X, Y)
    seen = []
    more = AdversarialBridge(
        0.5, n_iter=2, checkpoint=tmp_path / "fit", callback=lambda s: seen.append(s.round), **TINY
    ).fit(X, Y)
    assert set(seen) == {2}
    whole = AdversarialBridge(0.5, n_iter=2, **TINY).fit(X, Y)
    np.testing.assert_array_equal(more.transform(X), whole.transform(X))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.6}, "epsilon was 0.5 and is now 0.6"),
        ({"rng": 1}, "rng was 0 and is now 1"),
        ({"batch_size": 17}, "batch_size was 16"),
        ({"n_steps": 5}, "times was"),
        ({"r1": 0.5}, "r1 was 0.01"),
        ({"d_steps": 2}, "d_steps was 1"),
        ({"d_lr": 1e-3}, "lr was 0.002"),
        ({"initial_coupling": "paired"}, "initial_coupling was 'independent'"),
        ({"hidden": (9,)}, "parameters was"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(tmp_path, change, message):
    X, Y = clouds(0, 60)
    options = {"epsilon": 0.5, "n_iter": 1, "checkpoint": tmp_path / "fit", **TINY}
    AdversarialBridge(**options).fit(X, Y)
    with pytest.raises(ValueError, match=message):
        AdversarialBridge(**{**options, **change}).fit(X, Y)
    with pytest.raises(ValueError, match="data was"):
        AdversarialBridge(**options).fit(X, Y + 1)


@pytest.mark.parametrize("transition", ["gaussian", "gan"])
def test_seeds_decide_the_fit_and_the_draw(transition):
    X, Y = clouds(0, 60)
    options = {"n_iter": 1, "transition": transition, **TINY}
    one, two = (AdversarialBridge(0.5, **options).fit(X, Y) for _ in range(2))
    np.testing.assert_array_equal(one.transform(X), two.transform(X))
    assert (one.transform(X, rng=3) != one.transform(X, rng=4)).all()
    np.testing.assert_array_equal(one.sample_path(X, rng=3)[-1], one.transform(X, rng=3))
    other = AdversarialBridge(0.5, **{**options, "rng": 1}).fit(X, Y)
    assert (one.transform(X, rng=3) != other.transform(X, rng=3)).all()


def test_estimator_can_be_cloned_and_pickled():
    X, Y = clouds(0, 60)
    model = clone(AdversarialBridge(0.5, n_iter=1, **TINY)).fit(X, Y)
    other = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(model.transform(X), other.transform(X))
    assert model.n_features_in_ == 2


def test_few_rows_are_repeated_and_many_are_drawn_once():
    Z, rng = torch.arange(7.0)[:, None], torch.Generator().manual_seed(0)
    rows = pool_of_rows(Z, 20, rng)
    assert len(rows) == 20
    assert sorted(rows[:14, 0].tolist()) == sorted(2 * list(range(7)))
    assert len(pool_of_rows(Z, 10**9, rng)) == 20_000
    few = pool_of_rows(Z, 5, rng)
    assert len(few.unique()) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be"),
        ({"n_steps": 0}, "n_steps must be"),
        ({"times": [0, 0.7, 0.6, 1]}, "times must increase strictly from 0 to 1"),
        ({"times": [0, 0.5]}, "times must increase strictly from 0 to 1"),
        ({"n_iter": 0}, "n_iter must be"),
        ({"steps_per_projection": 0}, "steps_per_projection must be"),
        ({"d_steps": 7}, "steps_per_projection must be an integer >= 7"),
        ({"d_steps": 0}, "d_steps must be"),
        ({"hidden": (0,)}, "hidden must be"),
        ({"latent_dim": -1}, "latent_dim must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"lr": -1.0}, "lr must be"),
        ({"d_lr": 0.0}, "d_lr must be"),
        ({"score_share": 1.0}, "score_share must be"),
        ({"score_lr": 0.0}, "score_lr must be"),
        ({"betas": (0.5, 1.0)}, "betas must be"),
        ({"r1": -1.0}, "r1 must be"),
        ({"ema": 1.0}, "ema must be"),
        ({"transition": "flow"}, "transition must be one of 'gan', 'gaussian'"),
        ({"initial_coupling": "sorted"}, "initial_coupling must be one of 'independent'"),
        ({"checkpoint_every": 0}, "checkpoint_every must be"),
    ],
)
def test_bad_parameters_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        AdversarialBridge(**{**TINY, **change}).fit(*clouds(0, 30))


def test_networks_must_be_modules():
    with pytest.raises(TypeError, match=r"generator must be None or a torch\.nn\.Module"):
        AdversarialBridge(generator=len, **TINY).fit(*clouds(0, 30))


@pytest.mark.parametrize(
    ("X", "Y", "message"),
    [
        (np.zeros((5, 2)), np.zeros((5, 3)), "same number of columns"),
        (np.zeros((5, 2)), np.full((5, 2), np.nan), "Y must be finite"),
        (np.zeros(5), np.zeros((5, 2)), "X must have 2 axes"),
        (np.zeros((1, 2)), np.zeros((6, 2)), "X must have at least 2 rows"),
        (np.zeros((5, 2)), np.zeros((6, 2)), "same number of rows when paired, got 5 and 6"),
    ],
)
def test_bad_clouds_are_refused_by_name(X, Y, message):
    with pytest.raises(ValueError, match=message):
        AdversarialBridge(initial_coupling="paired", **TINY).fit(X, Y)


def test_bad_calls_are_refused_by_name():
    X, Y = clouds(0, 30)
    model = AdversarialBridge(0.5, transition="gaussian", rng=0).fit(X, Y)
    with pytest.raises(ValueError, match=r"X must have shape \(any, 2\)"):
        model.transform(X[:, :1])
    with pytest.raises(ValueError, match=r"Y must have shape \(any, 2\)"):
        model.inverse_transform(Y[:, :1])
    with pytest.raises(ValueError, match="direction must be one of"):
        model.sample_path(X, direction="up")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("transition", ["gaussian", "gan"])
def test_fit_on_cuda(transition):
    X, Y = clouds(0, 500)
    options = {"n_iter": 1, "transition": transition, "device": "cuda", **TINY}
    model = AdversarialBridge(0.5, **options).fit(X, Y)
    assert np.isfinite(model.transform(X)).all()
    if transition == "gan":
        assert next(model.generator_.parameters()).is_cuda
