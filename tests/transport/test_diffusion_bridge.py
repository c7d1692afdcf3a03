import pickle

import numpy as np
import pytest
from sklearn.base import clone

torch = pytest.importorskip("torch")

from thalweg.transport import (  # noqa: E402
    BridgeMatching,
    DiffusionSchrodingerBridge,
    MixtureInterpolant,
    StochasticInterpolant,
    TimeMLP,
    energy_distance,
    gaussian_bridge_marginal,
    gaussian_eot,
    symmetric_gammas,
    terminal_posterior,
)
from thalweg.transport._diffusion_chain_start import GivenModel, check_model  # noqa: E402
from thalweg.transport._diffusion_chain_training import (  # noqa: E402
    Chain,
    ChainField,
    ChainLoss,
    Reference,
    simulate,
)

EPSILON = 1.0
M0, M1 = np.array([0.0, 2.0]), np.array([1.0, -3.0])
S0 = np.array([[1.0, 0.4], [0.4, 0.6]])
S1 = np.array([[0.5, -0.3], [-0.3, 1.5]])
N = 4000


def clouds(seed, n=N):
    rng = np.random.default_rng(seed)
    return (rng.multivariate_normal(m, S, size=n) for m, S in ((M0, S0), (M1, S1)))


def cross_cov(X, Y):
    return (X - X.mean(0)).T @ (Y - Y.mean(0)) / len(X)


def relative(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


KINDS = {
    "transition": {"parametrization": "transition", "reference_rate": 0.0},
    "original": {"parametrization": "transition", "loss": "original"},
    "terminal": {"parametrization": "terminal"},
    "flow": {"parametrization": "flow"},
    "decaying reference": {"parametrization": "transition", "reference_rate": 1.0},
}


@pytest.mark.parametrize("kind", KINDS)
def test_learned_chain_is_the_bridge_of_the_gaussians(kind):
    """A short fit on 30 steps, whose errors are about a tenth."""
    model = DiffusionSchrodingerBridge(
        EPSILON, n_times=30, n_epochs=4, n_steps=120, lr=1e-2, rng=0, **KINDS[kind]
    ).fit(*clouds(0))
    factors = 1 - model.reference_rate / 30 * np.ones(30)
    keeps = factors.prod()
    noise = EPSILON / 30 * (np.cumprod(np.append(1.0, factors[:0:-1])) ** 2).sum()
    exact = gaussian_eot(M0, keeps**2 * S0, M1, S1, noise)[0] / keeps
    X, Y = clouds(1)
    there, back = model.transform(X, rng=1), model.inverse_transform(Y, rng=1)
    for found, mean, cov in ((there, M1, S1), (back, M0, S0)):
        assert np.abs(found.mean(0) - mean).max() < 0.12
        assert relative(np.cov(found.T), cov) < 0.25
    assert relative(cross_cov(X, there), exact) < 0.25
    assert relative(cross_cov(back, Y), exact) < 0.3


class BridgeOfGaussians:
    """Velocity and score of the Schrödinger bridge, in closed form."""

    def moments(self, t):
        return gaussian_bridge_marginal(M0, S0, M1, S1, EPSILON, t)

    def velocity(self, t, x):
        h, t = 1e-5, np.broadcast_to(t, len(x))
        late, early = np.clip(t + h, 0, 1), np.clip(t - h, 0, 1)
        slope = (self.moments(late)[1] - self.moments(early)[1]) / (late - early)[:, None, None]
        C, _, _ = gaussian_eot(M0, S0, M1, S1, EPSILON)
        mean, cov = self.moments(t)
        # Cov(x, dx) of the flow is half the slope and the turning part, known from the ends
        across = slope / 2 - (C.T - C) / 2
        pulled = np.linalg.solve(cov, (x - mean)[..., None])
        return M1 - M0 + (across.swapaxes(1, 2) @ pulled)[..., 0]

    def score(self, t, x):
        mean, cov = self.moments(np.broadcast_to(t, len(x)))
        return -np.linalg.solve(cov, (x - mean)[..., None])[..., 0]


def exact_field(chain, direction, parametrization="transition", scale=1.0):
    centres = chain.centres(M0, M1)
    base = GivenModel(BridgeOfGaussians(), chain, direction, centres, scale)
    return ChainField(chain, direction, parametrization, lambda t, x: 0 * x, base)


def uniform_chain(n, scale=1.0):
    return Chain(symmetric_gammas(n, 1.0), EPSILON / scale**2)


@pytest.mark.parametrize("parametrization", ["transition", "terminal", "flow"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_drifts_of_an_exact_model_step_along_the_bridge(direction, parametrization):
    """Of 100 steps; a coordinate system of another scale must not matter."""
    scale, n = 2.0, 100
    chain = uniform_chain(n, scale)
    field = exact_field(chain, direction, parametrization, scale)
    Z, centres = dict(zip(("forward", "backward"), clouds(2), strict=True))[direction], [M0, M1]
    if direction == "backward":
        centres = centres[::-1]
    start = torch.from_numpy((Z - centres[0]) / scale)
    ends = scale * simulate(field, start, torch.Generator().manual_seed(0)).numpy() + centres[1]
    goal, (mean, cov) = cross_cov(Z, ends), ((M1, S1) if direction == "forward" else (M0, S0))
    exact = gaussian_eot(M0, S0, M1, S1, EPSILON)[0]
    assert relative(goal, exact if direction == "forward" else exact.T) < 0.08
    assert np.abs(ends.mean(0) - mean).max() < 0.06
    assert relative(np.cov(ends.T), cov) < 0.1


def test_exact_means_are_a_fixed_point_with_the_conditional_variances_as_loss():
    """60 steps, whose conditional variances are epsilon / 60 to second order."""
    n = 60
    chain = uniform_chain(n)
    X, Y = clouds(3)
    starts = {"forward": torch.from_numpy(X - M0), "backward": torch.from_numpy(Y - M1)}
    for direction, opposite in (("backward", "forward"), ("forward", "backward")):
        losses = {}
        for tilt in (-0.5, 0.0, 0.5):
            exact = exact_field(chain, direction)
            field = ChainField(chain, direction, "transition", lambda t, x, a=tilt: a * x,
                               exact.base)  # fmt: skip
            loss = ChainLoss(
                field, exact_field(chain, opposite), starts[opposite], "simplified", 4000, N, 10
            )
            losses[tilt] = float(loss(torch.Generator().manual_seed(0)))
        assert losses[0.0] == pytest.approx(EPSILON / n, rel=0.05)
        assert losses[0.0] < min(losses[0.5], losses[-0.5])


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_terminal_and_flow_networks_that_say_the_same_step_alike(direction):
    chain = Chain(symmetric_gammas(7), 0.6)
    network = TimeMLP(2, hidden=(16,), rng=0)
    times = torch.from_numpy(chain.times)

    def scaled(t, x):
        left = t if direction == "backward" else 1 - t
        return left * network(t, x)

    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(1))
    flow, terminal = (
        simulate(
            ChainField(chain, direction, name, net), x, torch.Generator().manual_seed(2), keep=True
        )
        for name, net in (("flow", network), ("terminal", scaled))
    )
    assert flow.shape == (8, 50, 2)
    torch.testing.assert_close(flow, terminal, rtol=0, atol=2e-6)
    # and a step is the posterior given the end that is predicted
    k = 3
    field = ChainField(chain, direction, "flow", network)
    left = float(times[k] if direction == "backward" else 1 - times[k])
    end = x + left * network(float(times[k]), x)
    step = k - 1 if direction == "backward" else k
    mean, variance = terminal_posterior(x, end, step, chain.gammas, 0.6, direction=direction)
    torch.testing.assert_close(field.mean(k, x), mean, rtol=0, atol=1e-6)
    assert field.variance(k) == pytest.approx(variance, abs=1e-15)


@pytest.mark.parametrize("parametrization", ["transition", "terminal", "flow"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_losses_are_those_of_the_formulas(direction, parametrization):
    """Rows of every index, by hand from the chain's points."""
    chain, n = Chain(symmetric_gammas(4), 0.6), 40
    network = TimeMLP(2, hidden=(8,), rng=0)
    field = ChainField(chain, direction, parametrization, network)
    rng = np.random.default_rng(0)
    x, target, end = (torch.from_numpy(rng.normal(size=(n, 2))).float() for _ in range(3))
    k = torch.arange(n) % 4 + (direction == "backward")
    gbar = np.concatenate([[0.0], np.cumsum(chain.gammas)])
    for i in range(n):
        j = int(k[i])
        u = network(float(gbar[j]), x[i : i + 1])[0]
        gamma = chain.gammas[j - 1] if direction == "backward" else chain.gammas[j]
        left = gbar[j] if direction == "backward" else 1 - gbar[j]
        exact = {
            "transition": x[i] + gamma * u - target[i],
            "terminal": x[i] + u - end[i],
            "flow": u - (end[i] - x[i]) / left,
        }[parametrization]
        found = field.errors(k, x, target, end)[i]
        torch.testing.assert_close(found, exact.float(), rtol=1e-4, atol=1e-5)


def test_reference_has_the_variance_of_the_paper_and_decays_at_its_rate():
    gammas, x = symmetric_gammas(5), torch.ones(40_000, 1)
    path = simulate(Reference(Chain(gammas, 2.0)), x, torch.Generator().manual_seed(0), keep=True)
    np.testing.assert_allclose(path.var(1)[:, 0], 2 * np.append(0, np.cumsum(gammas)), rtol=0.03)
    decaying = Chain(gammas, 2.0, rate=0.7)
    path = simulate(Reference(decaying), x, torch.Generator().manual_seed(0), keep=True)
    means = np.append(1, np.cumprod(1 - 0.7 * gammas))
    np.testing.assert_allclose(path.mean(1)[:, 0], means, atol=0.03)


def test_centres_are_the_mean_of_the_reference_between_its_ends():
    """The conditional mean of a Gaussian chain, from the joint covariance of its points."""
    chain = Chain(symmetric_gammas(6), 1.3, rate=2.0)
    factors = 1 - 2.0 * chain.gammas
    root = np.zeros((7, 6))
    for k in range(6):
        root[k + 1] = factors[k] * root[k]
        root[k + 1, k] = np.sqrt(1.3 * chain.gammas[k])
    cov, mean = root @ root.T, np.append(1, np.cumprod(factors)) * 0.5
    exact = mean + cov[:, -1] / cov[-1, -1] * (4.0 - mean[-1])
    found = chain.centres(np.array([0.5]), np.array([4.0]))
    np.testing.assert_allclose(found[:, 0], exact, atol=1e-12)
    plain = Chain(chain.gammas, 1.3).centres(np.array([0.5]), np.array([4.0]))
    np.testing.assert_allclose(plain[:, 0], 0.5 + 3.5 * chain.times, atol=1e-12)


TINY = {"hidden": (8,), "n_times": 4, "n_steps": 12, "refresh": 5, "n_cache": 50}
TINY |= {"batch_size": 16, "n_epochs": 2, "rng": 0}


def tiny_clouds(n=60):
    rng = np.random.default_rng(7)
    return rng.normal(size=(n, 2)), 1 + 0.5 * rng.normal(size=(n, 2))


def calls_of_networks(model, rows):
    """Times that a `TimeMLP` was asked for so many points."""
    seen = []

    def note(module, inputs, output):
        if isinstance(module, TimeMLP) and len(inputs[1]) == rows:
            seen.append(None)

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        model.fit(*tiny_clouds())
    finally:
        handle.remove()
    return len(seen)


def test_original_loss_asks_networks_three_times_and_the_simplified_one_once():
    options = {**TINY, "parametrization": "transition", "n_epochs": 3}
    halves = 6 * TINY["n_steps"]
    simplified = calls_of_networks(DiffusionSchrodingerBridge(0.5, **options), 16)
    original = calls_of_networks(DiffusionSchrodingerBridge(0.5, loss="original", **options), 16)
    assert simplified == halves
    assert original == 3 * halves - 2 * TINY["n_steps"]  # the first half has a known reference


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_original_loss_is_the_formula(direction):
    """A batch of all rows of all indices, its mean taken by hand from the cached trajectories."""
    chain = Chain(symmetric_gammas(2, 1.0), 0.6)
    opposite = "backward" if direction == "forward" else "forward"
    field, other = (
        ChainField(chain, name, "transition", TimeMLP(2, hidden=(8,), rng=i))
        for i, name in enumerate((direction, opposite))
    )
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(1))
    loss = ChainLoss(field, other, x, "original", 20_000, 50, 10)
    found = loss(torch.Generator().manual_seed(0)).item()
    path, total = loss.path, 0.0
    for k in range(2):
        x_k, x_next = path[k], path[k + 1]
        if direction == "backward":
            target = x_next + other.mean(k, x_k) - other.mean(k, x_next)
            error = field.mean(k + 1, x_next) - target
        else:
            target = x_k + other.mean(k + 1, x_next) - other.mean(k + 1, x_k)
            error = field.mean(k, x_k) - target
        total += error.square().mean().item() / 2
    assert found == pytest.approx(total, rel=0.03)


def test_trajectories_are_kept_for_so_many_calls():
    chain = Chain(symmetric_gammas(3), 0.6)
    field = ChainField(chain, "backward", "flow", TimeMLP(2, hidden=(8,), rng=0))
    loss = ChainLoss(field, Reference(chain), torch.zeros(5, 2), "simplified", 8, 10, 4)
    generator, paths = torch.Generator().manual_seed(0), []
    for _ in range(9):
        loss(generator)
        paths.append(loss.path)
    changed = [i for i in range(1, 9) if paths[i] is not paths[i - 1]]
    assert changed == [4, 8]
    assert paths[0].shape == (4, 10, 2)
    assert (paths[0][0] == 0).all()


def test_a_half_goes_on_from_the_weights_of_the_last_epoch():
    """One step of Adam moves a weight by the learning rate at most."""
    weights, lr = [], 1e-3

    def callback(state):
        if (state.epoch, state.step) == (2, 1):
            raise StopIteration

    for options in ({"n_epochs": 1}, {"n_epochs": 2, "callback": callback}):
        model = DiffusionSchrodingerBridge(0.5, **{**TINY, "lr": lr, "ema": None, **options})
        model.fit(*tiny_clouds())
        weights.append([p.detach() for p in model.backward_network_.parameters()])
    for before, after in zip(*weights, strict=True):
        assert (before - after).abs().max() <= 1.01 * lr
    assert any((before != after).any() for before, after in zip(*weights, strict=True))


def two_modes():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(2000, 2)), 3 + rng.choice([-1.5, 1.5], (2000, 2))
    return X, Y + 0.4 * rng.normal(size=Y.shape)


@pytest.fixture(scope="module")
def starts():
    options = {"hidden": (32, 32), "n_steps": 200, "lr": 1e-2, "rng": 0}
    one_sided = {"interpolant": "one-sided-linear", "learn": ("b",)}
    return {
        "StochasticInterpolant": StochasticInterpolant(**options).fit(*two_modes()),
        "one-sided": StochasticInterpolant(**one_sided, **options).fit(*two_modes()),
        "BridgeMatching": BridgeMatching(0.5, **options).fit(*two_modes()),
    }


@pytest.mark.parametrize("given", ["StochasticInterpolant", "one-sided", "BridgeMatching"])
@pytest.mark.parametrize("parametrization", ["transition", "flow"])
def test_a_trained_model_takes_the_place_of_the_first_half(starts, given, parametrization):
    """Both halves make the clouds to 4 % of the distance between them."""
    X, Y = two_modes()
    model = DiffusionSchrodingerBridge(
        0.5,
        parametrization=parametrization,
        n_epochs=1,
        n_steps=100,
        init=starts[given],
        rng=0,
    ).fit(X, Y)
    first, second = model.history_
    assert len(first["losses"]) == 0
    assert np.isnan(first["loss"])
    assert len(second["losses"]) == 100
    far = energy_distance(X, Y)
    assert first["energy_distance_end"] < 0.04 * far
    assert second["energy_distance_end"] < 0.04 * far
    assert all((p == 0).all() for p in list(model.backward_network_.parameters())[-2:])


def test_a_denoiser_says_as_much_as_a_score():
    mixture = MixtureInterpolant([1.0], [M0], [S0], [1.0], [M1], [S1])

    class Denoising:
        velocity, denoiser, interpolant = mixture.velocity, mixture.denoiser, mixture.interpolant

    chain = uniform_chain(10)
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    for k in (3, torch.arange(20) % 9 + 1):
        one, other = (
            GivenModel(model, chain, "forward", chain.centres(M0, M1), 1.0)(k, x)
            for model in (mixture, Denoising())
        )
        torch.testing.assert_close(one, other)
    check_model(Denoising(), np.zeros((1, 2)))


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("slope", [1e-2, 3.0, 10.0, 30.0, 1e6])
def test_the_pull_of_a_score_is_its_drift_and_shorter_than_the_noise(direction, slope):
    class Narrow:
        def velocity(self, t, x):
            return 0 * x

        def score(self, t, x):
            return -slope * x

    base = GivenModel(Narrow(), uniform_chain(10), direction, np.zeros((11, 2)), 1.0)
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    drift = base(4, x)
    assert (0.1 * drift.norm(dim=1)).max() < 0.5 * np.sqrt(EPSILON * 0.1 * 2)
    assert ((drift * x).sum(1) < 0).all()
    if slope < 1:
        torch.testing.assert_close(drift, -EPSILON / 2 * slope * x, rtol=1e-4, atol=0)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_model_is_asked_inside_of_the_ends_alone(direction):
    asked = []

    class Asked:
        def velocity(self, t, x):
            asked.extend(np.atleast_1d(t))
            return 0 * x

        score = velocity

    base = GivenModel(Asked(), uniform_chain(10), direction, np.zeros((11, 2)), 1.0)
    k = np.arange(10) + (direction == "backward")
    base(torch.from_numpy(k), torch.zeros(10, 2))
    np.testing.assert_allclose(asked[:10], np.clip(k / 10, 0.05, 0.95))


def test_modules_of_an_earlier_fit_are_a_start():
    X, Y = tiny_clouds()
    first = DiffusionSchrodingerBridge(0.5, **TINY).fit(X, Y)
    pair = first.backward_network_, first.forward_network_
    again = DiffusionSchrodingerBridge(0.5, **{**TINY, "n_epochs": 1, "init": pair}).fit(X, Y)
    for one, other in zip(pair[0].parameters(), again.backward_network_.parameters(), strict=True):
        assert torch.equal(one, other)
    np.testing.assert_array_equal(
        first.inverse_transform(Y, rng=1), again.inverse_transform(Y, rng=1)
    )
    assert any(
        not torch.equal(p, q)
        for p, q in zip(pair[1].parameters(), again.forward_network_.parameters(), strict=True)
    )
    alone = DiffusionSchrodingerBridge(0.5, **{**TINY, "init": (pair[0], None)}).fit(X, Y)
    assert np.isnan(alone.history_[0]["loss"])


def test_networks_of_ones_own_are_trained_as_copies():
    X, Y = tiny_clouds()
    own = torch.nn.ModuleList([TimeMLP(2, hidden=(5,), rng=0), TimeMLP(2, hidden=(6,), rng=1)])
    before = [p.detach().clone() for p in own.parameters()]
    model = DiffusionSchrodingerBridge(0.5, networks=tuple(own), **TINY).fit(X, Y)
    assert model.backward_network_.first.weight.shape[0] == 5
    assert model.forward_network_.first.weight.shape[0] == 6
    for p, q in zip(own.parameters(), before, strict=True):
        assert torch.equal(p, q)


def test_fit_is_equivariant_to_shifts_and_scale():
    X, Y = tiny_clouds()
    one = DiffusionSchrodingerBridge(0.5, **TINY).fit(X, Y)
    other = DiffusionSchrodingerBridge(0.5 * 100, **TINY).fit(10 * X + 300, 10 * Y - 70)
    found = other.transform(10 * X + 300, rng=1)
    expected = 10 * (one.transform(X, rng=1) - Y.mean(0)) - 70 + 10 * Y.mean(0)
    np.testing.assert_allclose(found, expected, atol=2e-2)
    for a, b in zip(one.history_, other.history_, strict=True):
        assert b["energy_distance_end"] == pytest.approx(10 * a["energy_distance_end"], abs=1e-2)


def test_paths_start_at_the_points_and_end_where_the_map_does():
    X, Y = tiny_clouds()
    model = DiffusionSchrodingerBridge(0.5, gammas="symmetric", **TINY).fit(X, Y)
    np.testing.assert_allclose(model.gammas_, symmetric_gammas(4))
    path = model.sample_path(X, rng=3)
    assert path.shape == (5, 60, 2)
    np.testing.assert_allclose(path[0], X, atol=1e-5)
    np.testing.assert_allclose(path[-1], model.transform(X, rng=3), atol=1e-6)
    back = model.sample_path(Y, direction="backward", rng=3)
    np.testing.assert_allclose(back[0], Y, atol=1e-5)
    np.testing.assert_allclose(back[-1], model.inverse_transform(Y, rng=3), atol=1e-6)


def test_history_tells_of_each_half():
    seen, (X, Y) = [], tiny_clouds()
    model = DiffusionSchrodingerBridge(
        0.5, callback=lambda s: seen.append((s.epoch, s.direction, s.step, s.loss)), **TINY
    ).fit(X, Y)
    halves = [(epoch, name) for epoch in (1, 2) for name in ("backward", "forward")]
    assert [s[:3] for s in seen] == [(*h, step) for h in halves for step in range(1, 13)]
    assert [(h["epoch"], h["direction"]) for h in model.history_] == halves
    np.testing.assert_allclose(
        np.concatenate([h["losses"] for h in model.history_]), [s[3] for s in seen]
    )
    assert model.history_[0]["loss"] == model.history_[0]["losses"][-1]
    far = energy_distance(X, Y)
    assert all(h["energy_distance_end"] < far for h in model.history_)


class StoppedError(Exception):
    pass


def stop_at(*place):
    def callback(state):
        if (state.epoch, state.direction, state.step) == place:
            raise StoppedError

    return callback


@pytest.mark.parametrize(
    "place", [(1, "backward", 3), (1, "forward", 12), (2, "backward", 7), (2, "forward", 1)]
)
@pytest.mark.parametrize("kind", ["flow", "original"])
def test_an_interrupted_fit_goes_on_bit_by_bit(tmp_path, place, kind):
    X, Y = tiny_clouds()
    options = {**TINY, **KINDS[kind]}
    whole = DiffusionSchrodingerBridge(0.5, **options).fit(X, Y)
    model = DiffusionSchrodingerBridge(
        0.5, checkpoint=tmp_path / "fit", callback=stop_at(*place), **options
    )
    with pytest.raises(StoppedError):
        model.fit(X, Y)
    model.set_params(callback=None).fit(X, Y)
    np.testing.assert_array_equal(model.transform(X), whole.transform(X))
    np.testing.assert_array_equal(model.inverse_transform(Y), whole.inverse_transform(Y))
    for one, other in zip(model.history_, whole.history_, strict=True):
        np.testing.assert_array_equal(one["losses"], other["losses"])
        assert one["energy_distance_end"] == other["energy_distance_end"]


def test_more_epochs_go_on_from_a_finished_fit(tmp_path):
    X, Y = tiny_clouds()
    options = {**TINY, "checkpoint": tmp_path / "fit"}
    DiffusionSchrodingerBridge(0.5, **{**options, "n_epochs": 1}).fit(X, Y)
    seen = []
    more = DiffusionSchrodingerBridge(0.5, callback=lambda s: seen.append(s.epoch), **options)
    more.fit(X, Y)
    assert set(seen) == {2}
    whole = DiffusionSchrodingerBridge(0.5, **TINY).fit(X, Y)
    np.testing.assert_array_equal(more.transform(X), whole.transform(X))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.6}, "epsilon was 0.5 and is now 0.6"),
        ({"rng": 1}, "rng was 0 and is now 1"),
        ({"refresh": 6}, "refresh was 5"),
        ({"n_cache": 40}, "n_cache was 50"),
        ({"n_times": 5}, "gammas was"),
        ({"gammas": "symmetric"}, "gammas was"),
        ({"parametrization": "terminal"}, "parametrization was 'flow'"),
        ({"lr": 1e-3}, "lr was 0.002"),
        ({"networks": (TimeMLP(2, hidden=(8,), rng=5),) * 2}, "start was"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(tmp_path, change, message):
    X, Y = tiny_clouds()
    options = {"epsilon": 0.5, "checkpoint": tmp_path / "fit", **TINY, "n_epochs": 1}
    DiffusionSchrodingerBridge(**options).fit(X, Y)
    with pytest.raises(ValueError, match=message):
        DiffusionSchrodingerBridge(**{**options, **change}).fit(X, Y)
    with pytest.raises(ValueError, match="data was"):
        DiffusionSchrodingerBridge(**options).fit(X, Y + 1)


def test_seeds_decide_the_fit_and_the_draw():
    X, Y = tiny_clouds()
    one, two = (DiffusionSchrodingerBridge(0.5, **TINY).fit(X, Y) for _ in range(2))
    np.testing.assert_array_equal(one.transform(X), two.transform(X))
    np.testing.assert_array_equal(one.transform(X, rng=3), two.transform(X, rng=3))
    assert (one.transform(X, rng=3) != one.transform(X, rng=4)).any()
    other = DiffusionSchrodingerBridge(0.5, **{**TINY, "rng": 1}).fit(X, Y)
    assert (one.transform(X, rng=3) != other.transform(X, rng=3)).any()


def test_estimator_can_be_cloned_and_pickled():
    X, Y = tiny_clouds()
    start = BridgeMatching(0.5, n_steps=5, hidden=(8,), rng=0).fit(X, Y)
    for init in (None, start):
        model = DiffusionSchrodingerBridge(0.5, **TINY, init=init)
        model = (clone(model) if init is None else model).fit(X, Y)
        other = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(model.transform(X), other.transform(X))
    assert model.n_features_in_ == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be"),
        ({"n_times": 1}, "n_times must be an integer >= 2"),
        ({"gammas": "linear"}, "gammas must be one of 'uniform', 'symmetric'"),
        ({"gammas": [0.5, 0.6]}, r"gammas must sum to 1, got 1\.1"),
        ({"gammas": [1.5, -0.5]}, "gammas must be positive"),
        ({"parametrization": "score"}, "parametrization must be one of 'transition'"),
        ({"loss": "exact"}, "loss must be one of"),
        ({"loss": "original"}, "loss must be 'simplified' unless"),
        ({"n_epochs": 0}, "n_epochs must be"),
        ({"n_steps": 0}, "n_steps must be"),
        ({"refresh": 0}, "refresh must be"),
        ({"n_cache": 0}, "n_cache must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"hidden": (0,)}, "hidden must be"),
        ({"lr": -1.0}, "lr must be"),
        ({"ema": 1.5}, "ema must be"),
        ({"reference_rate": -1.0}, "reference_rate must be"),
        ({"reference_rate": 1.0}, "reference_rate must be 0 unless"),
        ({"reference_rate": 4.0, "parametrization": "transition"}, "reference_rate must be below"),
    ],
)
def test_bad_parameters_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        DiffusionSchrodingerBridge(**{**TINY, **change}).fit(*tiny_clouds())


class VelocityAlone:
    def velocity(self, t, x):
        return 0 * x


class Wide:
    def velocity(self, t, x):
        return np.zeros((len(x), 3))

    score = velocity


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"init": 3.0}, TypeError, "float lacks velocity and score"),
        ({"init": VelocityAlone()}, TypeError, "VelocityAlone lacks score"),
        (
            {"init": Wide()},
            ValueError,
            r"init must give velocities of shape \(1, 2\), got \(1, 3\)",
        ),
        ({"init": (None, TimeMLP(2))}, TypeError, "init must be a pair of modules"),
        ({"init": (TimeMLP(2),)}, TypeError, "init must be a pair of modules"),
        ({"networks": TimeMLP(2)}, TypeError, "networks must be a pair of modules"),
        ({"networks": (TimeMLP(2), None)}, TypeError, "networks must be a pair of modules"),
        ({"networks": (TimeMLP(2), TimeMLP(2, 3))}, ValueError, r"networks must map \(2, 2\)"),
        ({"rng": np.random.default_rng(0)}, TypeError, "rng must be None, an int"),
    ],
)
def test_bad_starts_are_refused_by_name(change, error, message):
    with pytest.raises(error, match=message):
        DiffusionSchrodingerBridge(**{**TINY, **change}).fit(*tiny_clouds())


@pytest.mark.parametrize(
    ("X", "Y", "message"),
    [
        (np.zeros((5, 2)), np.zeros((5, 3)), "same number of columns"),
        (np.zeros((5, 2)), np.full((5, 2), np.nan), "Y must be finite"),
        (np.zeros(5), np.zeros((5, 2)), "X must have 2 axes"),
    ],
)
def test_bad_clouds_are_refused_by_name(X, Y, message):
    with pytest.raises(ValueError, match=message):
        DiffusionSchrodingerBridge(**TINY).fit(X, Y)


def test_bad_calls_are_refused_by_name():
    X, Y = tiny_clouds()
    model = DiffusionSchrodingerBridge(0.5, **TINY).fit(X, Y)
    with pytest.raises(ValueError, match=r"X must have shape \(any, 2\)"):
        model.transform(X[:, :1])
    with pytest.raises(ValueError, match="direction must be one of"):
        model.sample_path(X, direction="up")


def test_a_chain_that_explodes_is_stopped_where_it_does():
    chain = Chain(symmetric_gammas(4), 0.5)
    field = ChainField(chain, "backward", "flow", lambda t, x: 1e30 * x**3)
    with pytest.raises(FloatingPointError, match="backward chain is not finite after"):
        simulate(field, torch.ones(3, 2), torch.Generator().manual_seed(0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_networks_live_on_the_device():
    X, Y = clouds(0)
    model = DiffusionSchrodingerBridge(EPSILON, n_epochs=1, n_steps=200, device="cuda", rng=0)
    model.fit(X, Y)
    assert next(model.forward_network_.parameters()).is_cuda
    assert np.abs(model.transform(X, rng=1).mean(0) - M1).max() < 0.2
