import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.transport import Interpolant, diffusion_clock

PATHS = {
    "linear": Interpolant.linear(),
    "linear, quadratic": Interpolant.linear("quadratic"),
    "linear, a = 3": Interpolant.linear(a=3.0),
    "trig": Interpolant.trig(),
    "trig, sine-squared": Interpolant.trig("sine-squared"),
    "encoding-decoding": Interpolant.encoding_decoding(),
    "mirror": Interpolant.mirror(),
    "rectified": Interpolant.rectified(),
    "one-sided linear": Interpolant.one_sided(),
    "one-sided trig": Interpolant.one_sided("trig"),
    "one-sided sqrt": Interpolant.one_sided("sqrt"),
    "vp": Interpolant.from_diffusion(),
    "custom": Interpolant.custom(
        lambda t: (1 - t) ** 2,
        lambda t: 2 * t - 2,
        lambda t: t**2,
        lambda t: 2 * t,
        (lambda t: t * (1 - t), lambda t: 1 - 2 * t),
    ),
}
INSIDE = np.linspace(0.03, 0.97, 48)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_ends_are_exact(path):
    first, last = path.coefficients(0.0), path.coefficients(1.0)
    assert first["gamma"] == pytest.approx(0, abs=1e-15)
    assert last["gamma"] == pytest.approx(0, abs=1e-15)
    assert last["alpha"] == pytest.approx(0, abs=1e-15)
    assert last["beta"] == pytest.approx(1)
    if path.family != "mirror":
        assert first["alpha"] == pytest.approx(1)
        assert first["beta"] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_derivatives_are_those_of_central_differences(path):
    h = 1e-6
    at, later, earlier = (path.coefficients(INSIDE + s) for s in (0, h, -h))
    for name in ("alpha", "beta", "gamma"):
        difference = (later[name] - earlier[name]) / (2 * h)
        np.testing.assert_allclose(at[f"d{name}"], difference, atol=1e-7)
    np.testing.assert_allclose(at["gamma_dgamma"], at["gamma"] * at["dgamma"], atol=1e-12)


@pytest.mark.parametrize("gamma", ["brownian", "quadratic", "sine-squared", None])
def test_trig_has_unit_variance(gamma):
    c = Interpolant.trig(gamma).coefficients(INSIDE)
    np.testing.assert_allclose(c["alpha"] ** 2 + c["beta"] ** 2 + c["gamma"] ** 2, 1, atol=1e-14)


def test_brownian_gamma_is_the_deviation_of_the_bridge():
    c = Interpolant.linear(a=2.0).coefficients(np.array([0.0, 0.2, 1.0]))
    np.testing.assert_allclose(c["gamma"] ** 2, [0, 0.32, 0])
    np.testing.assert_allclose(c["gamma_dgamma"], [1.0, 0.6, -1.0])
    assert np.isinf(c["dgamma"][[0, 2]]).all()


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_tensors_give_what_arrays_give(path):
    torch = pytest.importorskip("torch")
    ours, theirs = path.coefficients(INSIDE), path.coefficients(torch.from_numpy(INSIDE))
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name].numpy(), value, atol=1e-12)
    rng = np.random.default_rng(0)
    ends = rng.normal(size=(3, len(INSIDE), 2))
    tensors = [torch.from_numpy(v) for v in ends]
    for a, b in zip(path.sample(INSIDE, *ends), path.sample(INSIDE, *tensors), strict=True):
        np.testing.assert_allclose(b.numpy(), a, atol=1e-12)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_sample_is_the_path_and_its_derivative(path):
    rng = np.random.default_rng(0)
    x0, x1, z = rng.normal(size=(3, 5, 2))
    t, h = rng.uniform(0.1, 0.9, 5), 1e-6
    point, slope = path.sample(t, x0, x1, z)
    c = {name: value[:, None] for name, value in path.coefficients(t).items()}
    np.testing.assert_allclose(point, c["alpha"] * x0 + c["beta"] * x1 + c["gamma"] * z)
    difference = (path.sample(t + h, x0, x1, z)[0] - path.sample(t - h, x0, x1, z)[0]) / (2 * h)
    np.testing.assert_allclose(slope, difference, atol=1e-6)


def test_noise_is_that_of_x0_for_one_sided_paths():
    c = Interpolant.one_sided("trig").noise(INSIDE)
    np.testing.assert_allclose(c["noise"], np.cos(np.pi * INSIDE / 2))
    np.testing.assert_allclose(c["dnoise"], -np.pi / 2 * np.sin(np.pi * INSIDE / 2))
    assert not c["alpha"].any()
    c = Interpolant.linear().noise(INSIDE)
    np.testing.assert_array_equal(c["noise"], c["gamma"])


@settings(deadline=None, max_examples=30)
@given(st.floats(1e-3, 5.0))
def test_clocks_turn_the_path_into_the_diffusion(tau):
    t, factor = diffusion_clock("vp", tau)
    c = Interpolant.from_diffusion("vp").coefficients(t)
    assert factor * c["beta"] == pytest.approx(np.exp(-tau))
    assert factor * c["alpha"] == pytest.approx(np.sqrt(1 - np.exp(-2 * tau)))
    t, factor = diffusion_clock("localization", tau)
    c = Interpolant.from_diffusion("localization").coefficients(t)
    assert factor * c["beta"] == pytest.approx(tau)
    assert factor * c["alpha"] == pytest.approx(np.sqrt(tau))


def test_named_paths_can_be_pickled():
    path = pickle.loads(pickle.dumps(Interpolant.trig()))
    assert path == Interpolant.trig()


ONE, ZERO = (lambda t: 1 + 0 * t), (lambda t: 0 * t)
LINEAR = ((lambda t: 1 - t), (lambda t: -ONE(t)), (lambda t: t), ONE)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Interpolant.linear((ONE, ZERO)), "gamma must be 0 at t = 0, got 1"),
        (lambda: Interpolant.linear((lambda t: t, ONE)), "gamma must be 0 at t = 1, got 1"),
        (lambda: Interpolant.linear((lambda t: t * (1 - t), ONE)), "dgamma must be the derivative"),
        (lambda: Interpolant.linear((lambda t: t * (t - 1), lambda t: 2 * t - 1)), "positive"),
        (lambda: Interpolant.custom(*LINEAR[:3], lambda t: 1.01 * ONE(t)), "dbeta must be"),
        (lambda: Interpolant.custom(LINEAR[0], ONE, *LINEAR[2:]), "dalpha must be"),
        (lambda: Interpolant.custom(ONE, ZERO, *LINEAR[2:]), "alpha must be 0 at t = 1"),
        (lambda: Interpolant.custom(*LINEAR[:2], ZERO, ZERO), "beta must be 1 at t = 1"),
        (lambda: Interpolant.linear("loud"), "gamma must be one of"),
        (lambda: Interpolant.linear(a=0.0), "a must be"),
        (lambda: Interpolant.trig(a=5.0), "a must keep gamma <= 1"),
        (lambda: Interpolant.one_sided("cubic"), "kind must be one of"),
        (lambda: Interpolant("one-sided-trig", "brownian"), "gamma must be None"),
        (lambda: Interpolant.mirror(None), "gamma must not be None"),
        (lambda: Interpolant("custom"), "schedules must be given"),
        (lambda: Interpolant.linear().coefficients(1.5), "t must be"),
        (lambda: Interpolant.linear().coefficients([-0.1]), "t must be"),
        (lambda: Interpolant.linear().sample(0.5, [[0.0]], [[0.0]]), "z must be given"),
        (lambda: Interpolant.linear().sample(0.5, [[0.0]], [[0.0, 1.0]], [[0.0]]), "x1 must have"),
        (lambda: Interpolant.linear().sample(0.0, [[0.0]], [[0.0]], [[1.0]]), "inside"),
        (lambda: diffusion_clock("vp", -1.0), "tau must be"),
    ],
)
def test_bad_input_is_refused_by_name(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("gamma", [3.0, (ONE,), (ONE, 2.0)])
def test_gamma_of_another_kind_is_refused(gamma):
    with pytest.raises(TypeError, match="gamma must be"):
        Interpolant.linear(gamma)
