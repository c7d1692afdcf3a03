import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone

torch = pytest.importorskip("torch")

from thalweg.transport import (  # noqa: E402
    Interpolant,
    MixtureInterpolant,
    StochasticInterpolant,
    energy_distance,
)
from thalweg.transport._interpolant_fields import InterpolantFields  # noqa: E402
from thalweg.transport.stochastic_interpolant import looks_standard_normal  # noqa: E402

SMALL = {"hidden": (32, 32), "n_steps": 300, "lr": 1e-2, "t_min": 1e-2, "rng": 0}
SHIFT = np.array([20.0, -5.0])
COVS0 = np.array([[[1.0, 0.4], [0.4, 0.6]]])
MEANS1, COVS1 = np.array([[-1.5, 0.0], [1.5, 0.0]]), np.tile(0.25 * np.eye(2), (2, 1, 1))


def mixture(path=None, standard=False):
    means0, covs0 = (np.zeros((1, 2)), np.eye(2)[None]) if standard else (SHIFT[None], COVS0)
    return MixtureInterpolant([1.0], means0, covs0, [0.5, 0.5], MEANS1, COVS1, path)


@pytest.fixture(scope="module")
def model():
    options = {**SMALL, "hidden": (64, 64, 64), "n_steps": 450}
    return StochasticInterpolant(**options).fit(*mixture().sample_ends(20_000, rng=0))


@pytest.mark.parametrize("epsilon", [0.0, 0.5, lambda t: t])
def test_one_model_makes_the_target_at_any_noise(model, epsilon):
    X, Y = mixture().sample_ends(2000, rng=1)
    made = model.transform(X, epsilon=epsilon, n_steps=40, rng=1)
    assert energy_distance(made, Y) <= 0.01
    back = model.inverse_transform(Y, epsilon=epsilon, n_steps=40, rng=1)
    assert energy_distance(back, X) <= 0.01


def relative(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_learned_fields_are_the_exact_ones(model, t):
    exact = mixture()
    x = exact.sample(t, 1000, rng=2)
    assert relative(model.velocity(t, x), exact.velocity(t, x)) < 0.02
    assert relative(model.score(t, x), exact.score(t, x)) < 0.3
    assert relative(model.denoiser(t, x), exact.denoiser(t, x)) < 0.3


def exact_networks(path, names, mean0, scale, exact):
    """Networks in normalised coordinates that are the closed form."""

    def network(name):
        def call(t, x):
            times = np.broadcast_to(t.numpy().astype(float), len(x))
            c = {k: v[:, None] for k, v in path.coefficients(times).items()}
            mean1 = MEANS1.mean(0)
            points = c["alpha"] * mean0 + c["beta"] * mean1 + scale * x.double().numpy()
            b, s = exact.fields(times, points)
            shift = c["dalpha"] * mean0 + c["dbeta"] * mean1
            value = {
                "b": (b - shift) / scale,
                "v": (b + c["gamma_dgamma"] * s - shift) / scale,
                "s": scale * s,
                "eta": exact.denoiser(times, points),
            }[name]
            return torch.from_numpy(value).float()

        return call

    return {name: network(name) for name in names}


@pytest.mark.parametrize(
    ("path", "learn"),
    [
        (Interpolant.linear(a=2.0), ("b", "eta")),
        (Interpolant.linear(a=2.0), ("b", "s")),
        (Interpolant.linear(a=2.0), ("v", "eta")),
        (Interpolant.trig("quadratic"), ("v", "s")),
        (Interpolant.one_sided(), ("b",)),
        (Interpolant.one_sided("trig"), ("eta",)),
        (Interpolant.one_sided("sqrt"), ("s",)),
    ],
)
def test_every_choice_of_fields_gives_the_same_velocity_score_and_drift(path, learn):
    one_sided = path.starts_from_noise
    exact, scale = mixture(path, standard=one_sided), 1.7
    mean0 = np.zeros(2) if one_sided else SHIFT
    networks = exact_networks(path, learn, mean0, scale, exact)
    fields = InterpolantFields(path, networks, mean0, MEANS1.mean(0), scale, 1e-2)
    t = np.linspace(0.1, 0.9, 7)
    x = np.stack([exact.sample(s, 1, rng=3)[0] for s in t])
    tensors = torch.from_numpy(t), torch.from_numpy(x)
    np.testing.assert_allclose(fields.velocity(*tensors, "cpu"), exact.velocity(t, x), atol=2e-4)
    np.testing.assert_allclose(fields.score(*tensors, "cpu"), exact.score(t, x), atol=2e-4)
    np.testing.assert_allclose(fields.denoiser(*tensors, "cpu"), exact.denoiser(t, x), atol=2e-4)
    for s, point in zip(t, x, strict=True):
        c = path.coefficients(s)
        centre = c["alpha"] * mean0 + c["beta"] * MEANS1.mean(0)
        slope = c["dalpha"] * mean0 + c["dbeta"] * MEANS1.mean(0)
        inside = torch.from_numpy((point - centre)[None] / scale).float()
        b, score = exact.fields(s, point[None])
        found = slope + scale * fields.drift(s, inside, 0.6 / scale**2).numpy()
        np.testing.assert_allclose(found, b + 0.6 * score, atol=5e-4)


def test_flow_there_and_back_returns_the_start(model):
    X, _ = mixture().sample_ends(50, rng=4)
    path = model.sample_path(X, 60, method="rk4")
    assert path.shape == (61, 50, 2)
    np.testing.assert_allclose(path[0], X, atol=1e-5)
    np.testing.assert_allclose(path[-1], model.transform(X, n_steps=60, method="rk4"), atol=1e-5)
    back = model.sample_path(path[-1], 60, direction="backward", method="rk4")
    np.testing.assert_allclose(back[-1], X, atol=1e-3)
    np.testing.assert_allclose(back[30], path[30], atol=1e-3)


def test_log_prob_is_that_of_the_target(model):
    exact = mixture()
    Y = exact.sample(1.0, 300, rng=5)
    found = model.log_prob(Y, lambda x: exact.log_density(0.0, x), n_steps=40)
    assert abs(np.mean(found - exact.log_density(1.0, Y))) < 0.05
    assert np.corrcoef(found, exact.log_density(1.0, Y))[0, 1] > 0.9


def test_log_prob_of_the_sde_tends_to_that_of_the_ode(model):
    exact = mixture()
    Y = exact.sample(1.0, 40, rng=5)
    ode, sde = (
        model.log_prob(
            Y, lambda x: exact.log_density(0.0, x), epsilon=epsilon, n_steps=30, n_paths=64, rng=0
        )
        for epsilon in (0.0, 0.01)
    )
    assert np.abs(np.median(sde - ode)) < 0.05
    assert np.abs(sde - ode).max() > 1e-4


def test_validation_losses_are_near_those_of_the_exact_fields(model):
    exact, (X, Y) = mixture(), mixture().sample_ends(20_000, rng=6)
    found = model.validation_losses(X, Y, rng=0)
    assert set(found) == {"b", "eta"}
    t = np.linspace(0.01, 0.99, 20_000)
    rng = np.random.default_rng(7)
    x = np.concatenate([exact.sample(s, 100, rng=rng) for s in t[50::100]])
    times = np.repeat(t[50::100], 100)
    for name, field in (("b", exact.velocity), ("eta", exact.denoiser)):
        least = -0.5 * (field(times, x) ** 2).sum(1).mean()
        assert found[name] == pytest.approx(least, rel=0.04)


@pytest.mark.parametrize(
    ("path", "learn"),
    [
        ("trig", ("v", "s")),
        ("encoding-decoding", ("b", "eta")),
        ("one-sided-trig", ("b",)),
        ("one-sided-linear", ("eta",)),
    ],
)
def test_other_paths_and_fields_make_the_target_too(path, learn):
    X, Y = mixture(standard=True).sample_ends(5000, rng=0)
    model = StochasticInterpolant(path, learn=learn, **{**SMALL, "hidden": (64, 64)}).fit(X, Y)
    X, Y = mixture(standard=True).sample_ends(1000, rng=1)
    for epsilon in (0.0, 0.2):
        made = model.transform(X, epsilon=epsilon, n_steps=40, rng=1)
        assert energy_distance(made, Y) < 0.25 * energy_distance(X, Y)


def test_rectified_flow_has_no_score_and_mirror_returns_its_law():
    X, Y = mixture(standard=True).sample_ends(2000, rng=0)
    options = {**SMALL, "n_steps": 150, "batch_size": 128}
    flow = StochasticInterpolant("rectified", learn=("b",), coupling="minibatch-ot", **options)
    assert energy_distance(flow.fit(X, Y).transform(X, n_steps=20), Y) < 0.08
    for call in (lambda: flow.score(0.5, X), lambda: flow.transform(X, epsilon=0.1)):
        with pytest.raises(ValueError, match="score"):
            call()
    mirror = StochasticInterpolant("mirror", **options).fit(Y, Y)
    assert energy_distance(mirror.transform(Y, epsilon=0.5, n_steps=40, rng=1), Y) < 0.05


def test_fit_is_equivariant_to_shifts_and_repeats_with_a_seed():
    X, Y = mixture(standard=True).sample_ends(500, rng=0)
    options = {**SMALL, "n_steps": 5}
    first = StochasticInterpolant(**options).fit(X, Y)
    again = StochasticInterpolant(**options).fit(X, Y)
    np.testing.assert_array_equal(first.losses_, again.losses_)
    moved = StochasticInterpolant(**options).fit(X + 100.0, Y - 50.0)
    np.testing.assert_allclose(moved.losses_, first.losses_, atol=1e-3)
    np.testing.assert_allclose(
        moved.transform(X + 100.0, n_steps=10) + 50.0, first.transform(X, n_steps=10), atol=1e-3
    )


def test_interrupted_fit_goes_on(tmp_path):
    X, Y = mixture().sample_ends(300, rng=0)
    options = {**SMALL, "n_steps": 12, "checkpoint": tmp_path / "run.pt"}

    def stop(state):
        if state.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        StochasticInterpolant(callback=stop, **options).fit(X, Y)
    resumed = StochasticInterpolant(**options).fit(X, Y)
    plain = StochasticInterpolant(**{**options, "checkpoint": None}).fit(X, Y)
    np.testing.assert_array_equal(resumed.losses_, plain.losses_)
    with pytest.raises(ValueError, match="another configuration"):
        StochasticInterpolant(**options).fit(X, Y + 1)


def test_estimator_can_be_cloned_and_pickled(model):
    X, _ = mixture().sample_ends(10, rng=0)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(X), model.transform(X))
    assert clone(model).get_params()["hidden"] == (64, 64, 64)


def test_fields_take_tensors_and_a_time_a_row(model):
    x = torch.tensor(mixture().sample(0.5, 3, rng=0), requires_grad=True)
    times = np.array([0.2, 0.5, 1.0])
    value = model.velocity(times, x)
    value.sum().backward()
    assert x.grad is not None
    rows = [model.velocity(t, x.detach().numpy()[i : i + 1])[0] for i, t in enumerate(times)]
    np.testing.assert_allclose(value.detach().numpy(), rows, atol=1e-4)
    late = [model.score(t, x).detach().numpy() for t in (1.0, 0.99)]
    np.testing.assert_allclose(*late)


def test_x_that_is_not_noise_is_warned_of():
    X, Y = mixture().sample_ends(200, rng=0)
    model = StochasticInterpolant("one-sided-linear", **{**SMALL, "n_steps": 1})
    with pytest.warns(UserWarning, match="standard normal"):
        model.fit(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(np.random.default_rng(0).normal(size=(200, 2)), Y)


@pytest.mark.parametrize("n", [20, 1000])
def test_standard_normal_points_are_recognised(n):
    rng = np.random.default_rng(0)
    assert looks_standard_normal(rng.normal(size=(n, 3)))
    assert not looks_standard_normal(rng.normal(2.0, 1.0, size=(n, 3)))
    assert not looks_standard_normal(rng.normal(0.0, 2.5, size=(n, 3)))


X2, Y2 = np.random.default_rng(0).normal(size=(2, 20, 2))


@pytest.mark.parametrize(
    ("options", "X", "Y", "match"),
    [
        ({}, X2, Y2[:, :1], "same number of columns"),
        ({}, X2, np.full_like(Y2, np.nan), "Y must be finite"),
        ({"interpolant": "cubic"}, X2, Y2, "interpolant must be one of"),
        ({"gamma": "loud"}, X2, Y2, "gamma must be one of"),
        ({"learn": ("b", "w")}, X2, Y2, "learn must be one of"),
        ({"learn": ("b", "b")}, X2, Y2, "learn must not repeat"),
        ({"learn": ("eta",)}, X2, Y2, "learn must hold 'b'"),
        ({"learn": ("v",)}, X2, Y2, "learn must hold 'b'"),
        ({"gamma": None}, X2, Y2, "no noise to denoise"),
        ({"interpolant": "one-sided-trig", "learn": ("v", "eta")}, X2, Y2, "must not hold 'v'"),
        (
            {"interpolant": "one-sided-trig", "coupling": "minibatch-ot"},
            X2,
            Y2,
            "coupling must be 'independent'",
        ),
        ({"coupling": "paired"}, X2, Y2[:10], "same number of rows"),
        ({"t_min": 0.0}, X2, Y2, "t_min must be"),
        ({"batch_size": 0}, X2, Y2, "batch_size must be"),
    ],
)
def test_bad_input_is_refused_by_name(options, X, Y, match):
    with pytest.raises(ValueError, match=match):
        StochasticInterpolant(**options).fit(X, Y)


def test_bad_types_are_refused_by_name():
    with pytest.raises(TypeError, match="Y must be"):
        StochasticInterpolant().fit(X2, None)
    with pytest.raises(TypeError, match="learn must be a sequence"):
        StochasticInterpolant(learn="b").fit(X2, Y2)


def test_bad_calls_are_refused_by_name(model):
    for call, match in (
        (lambda: model.transform(X2, epsilon=-1.0), "epsilon must be"),
        (lambda: model.transform(X2, epsilon=lambda t: -1.0), r"epsilon\(t\) must be"),
        (lambda: model.transform(X2[:, :1]), "X must have shape"),
        (lambda: model.transform(X2, method="leapfrog"), "method must be one of"),
        (lambda: model.sample_path(X2, direction="up"), "direction must be one of"),
        (lambda: model.velocity(1.2, X2), "t must lie"),
        (lambda: model.log_prob(X2, lambda x: x), r"base_log_prob\(X\) must have shape"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fit_and_fields_on_the_device():
    X, Y = mixture().sample_ends(5000, rng=0)
    model = StochasticInterpolant(device="cuda", **SMALL).fit(X, Y)
    assert energy_distance(model.transform(X[:2000], epsilon=0.5, rng=1), Y[:2000]) <= 0.02
    assert np.isfinite(model.log_prob(Y[:5], lambda x: 0 * x[:, 0], n_steps=5)).all()
