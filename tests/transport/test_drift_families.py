import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from thalweg.transport import (
    LinearFamily,
    LotkaVolterra,
    OrnsteinUhlenbeck,
    Repressilator,
    Spring,
    Vortex,
    ZeroDrift,
    drift_families,
)
from thalweg.transport.drift_families import DriftFamily

CASES = {
    "lotka-volterra": (LotkaVolterra(), [1.0, 0.4, 0.3, 0.1]),
    "repressilator": (Repressilator(), [10.0, 3.0, 1.2, 0.7]),
    "ornstein-uhlenbeck": (OrnsteinUhlenbeck(2), [-1.0, 2.0, -0.5, -3.0, 0.4, -0.2]),
    "spring": (Spring(2), [4.0, 0.5, 1.0, -2.0]),
    "vortex": (Vortex(), [2.0, 0.3, -0.4, 0.8]),
}
each_family = pytest.mark.parametrize("name", CASES)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def positive_points(rng, family, n=60):
    return rng.uniform(0.2, 3, (n, family.dim))


@each_family
def test_noise_free_velocities_give_the_parameters_back(rng, name):
    family, truth = CASES[name]
    x, t = positive_points(rng, family), np.zeros(60)
    found = family.fit(t, x, family.drift(np.array(truth), t, x))
    np.testing.assert_allclose(found, truth, rtol=1e-8, atol=1e-8)


@each_family
def test_derivatives_by_the_parameters_are_those_of_differences(rng, name):
    family, truth = CASES[name]
    x, truth = positive_points(rng, family, 7), np.array(truth)
    slopes = family.jacobian(truth, 0.0, x)
    for i, h in enumerate(1e-6 * np.eye(len(truth))):
        numeric = (family.drift(truth + h, 0.0, x) - family.drift(truth - h, 0.0, x)) / 2e-6
        np.testing.assert_allclose(slopes[:, :, i], numeric, atol=1e-7)


@each_family
def test_first_reference_hardly_moves(rng, name):
    family, _ = CASES[name]
    drift = family.drift(family.init(), 0.0, positive_points(rng, family))
    moving = drift[:, family.dim // 2 :] if name == "spring" else drift
    assert np.abs(moving).max() <= 2e-4
    assert family.n_params == len(family.names) == len(family.init())


def test_lotka_volterra_is_the_published_equation():
    drift = LotkaVolterra().drift(np.array([2.0, 3.0, 5.0, 7.0]), 0.0, np.array([[11.0, 13.0]]))
    np.testing.assert_allclose(drift, [[2 * 11 - 3 * 143, 7 * 143 - 5 * 13]])


def test_spring_moves_positions_by_velocities_and_has_its_rest_at_force_over_stiffness():
    spring, params = Spring(2), np.array([4.0, 0.5, 8.0, -4.0])
    np.testing.assert_allclose(spring.drift(params, 0.0, np.array([[2.0, -1.0, 0, 0]])), 0)
    drift = spring.drift(params, 0.0, np.array([[0.0, 0.0, 1.0, 2.0]]))
    np.testing.assert_allclose(drift, [[1.0, 2.0, 7.5, -5.0]])


def test_affine_fit_agrees_with_the_general_linear_one(rng):
    x, velocity, t = rng.normal(size=(40, 3)), rng.normal(size=(40, 3)), np.zeros(40)
    weights = rng.uniform(0.1, 2, 40)
    special = OrnsteinUhlenbeck(3)
    general = LinearFamily(special.basis, names=special.names, dim=3)
    np.testing.assert_allclose(
        special.fit(t, x, velocity, weights=weights),
        general.fit(t, x, velocity, weights=weights),
        atol=1e-12,
    )
    params = rng.normal(size=12)
    np.testing.assert_allclose(special.drift(params, t, x), general.drift(params, t, x))


def test_blocks_of_rows_do_not_change_the_fit(rng, monkeypatch):
    x, velocity, t = positive_points(rng, LotkaVolterra()), rng.normal(size=(60, 2)), np.zeros(60)
    whole = LotkaVolterra().fit(t, x, velocity)
    monkeypatch.setattr(drift_families, "BLOCK_ROWS", 7)
    np.testing.assert_allclose(LotkaVolterra().fit(t, x, velocity), whole, atol=1e-9)


def test_rates_below_zero_are_not_fitted(rng):
    """The constrained optimum, by the active-set solver on the whole design."""
    x, t = positive_points(rng, LotkaVolterra()), np.zeros(60)
    velocity = LotkaVolterra().drift(np.array([1.0, -0.4, 0.3, 0.1]), t, x)
    expected = nnls(LotkaVolterra().basis(t, x).reshape(-1, 4), velocity.ravel())[0]
    found = LotkaVolterra().fit(t, x, velocity)
    assert (found >= 0).all()
    assert expected[1] == 0
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["repressilator", "vortex", "lotka-volterra"])
def test_rows_without_weight_do_not_count(rng, name):
    family, truth = CASES[name]
    x, t = positive_points(rng, family), np.zeros(60)
    velocity = family.drift(np.array(truth), t, x)
    velocity[::2] = 100.0
    found = family.fit(t, x, velocity, truth, np.arange(60) % 2)
    np.testing.assert_allclose(found, truth, rtol=1e-6)


def test_weights_enter_the_squares_to_the_first_power():
    """Weighted mean of two velocities: the least of 3 (1 - c)^2 + (5 - c)^2 is at c = 2."""
    family = LinearFamily(lambda t, x: np.ones((len(x), 1, 1)), names=("c",))
    found = family.fit([0.0, 0.0], [[0.0], [0.0]], [[1.0], [5.0]], weights=[3.0, 1.0])
    np.testing.assert_allclose(found, [2.0])


class Saturation(DriftFamily):
    names, dim, nonnegative = ("top", "half"), 1, (True, True)

    def drift(self, params, t, x):
        return params[0] * x / (params[1] + x)

    def init(self):
        return np.array([1e-5, 1.0])


def test_family_of_ones_own_is_fitted_without_derivatives(rng):
    x = rng.uniform(0.1, 5, (50, 1))
    found = Saturation().fit(np.zeros(50), x, 3 * x / (0.7 + x))
    np.testing.assert_allclose(found, [3.0, 0.7], rtol=1e-6)


def test_basis_with_time_and_an_offset_is_fitted(rng):
    x, t = rng.normal(size=(30, 1)), rng.uniform(0, 1, 30)
    family = LinearFamily(
        lambda t, x: np.stack([x, np.broadcast_to(np.reshape(t, (-1, 1)), x.shape)], axis=2),
        offset=lambda t, x: x**2,
        dim=1,
    )
    assert family.names == ("theta[0]", "theta[1]")
    np.testing.assert_allclose(family.fit(t, x, x**2 - 2 * x + 5 * t[:, None]), [-2, 5])
    np.testing.assert_allclose(
        family.drift(np.array([-2.0, 5.0]), t, x), x**2 - 2 * x + 5 * t[:, None]
    )


def test_no_drift_has_no_parameters():
    assert ZeroDrift().fit([0.0], [[1.0]], [[1.0]]).shape == (0,)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.05, 3), min_size=4, max_size=4), st.integers(0, 2**31))
def test_any_rates_of_predators_and_prey_are_found(rates, seed):
    x = np.random.default_rng(seed).uniform(0.2, 4, (30, 2))
    velocity = LotkaVolterra().drift(np.array(rates), 0.0, x)
    np.testing.assert_allclose(LotkaVolterra().fit(np.zeros(30), x, velocity), rates, rtol=1e-7)


@each_family
def test_families_are_pickled(name):
    family, truth = CASES[name]
    x = np.ones((1, family.dim))
    again = pickle.loads(pickle.dumps(family))
    np.testing.assert_array_equal(
        again.drift(np.array(truth), 0.0, x), family.drift(np.array(truth), 0.0, x)
    )


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([0.0], [[1.0]], [[1.0, 1.0]]), "x must have shape"),
        (([0.0], [[1.0, 1.0]], [[1.0]]), "velocity must have shape"),
        (([0.0, 1.0], [[1.0, 1.0]], [[1.0, 1.0]]), "t must have shape"),
        (([0.0], [[1.0, np.nan]], [[1.0, 1.0]]), "x must be finite"),
        (([0.0], [[1.0, 1.0]], [[1.0, 1.0]], [1.0]), "params0 must have shape"),
        (([0.0], [[1.0, 1.0]], [[1.0, 1.0]], None, [-1.0]), "weights must be at least 0"),
    ],
)
def test_bad_rows_are_refused_by_name(arguments, match):
    with pytest.raises(ValueError, match=match):
        LotkaVolterra().fit(*arguments)


def test_basis_must_be_callable_and_have_a_size():
    with pytest.raises(TypeError, match="basis must be callable"):
        LinearFamily(3)
    with pytest.raises(ValueError, match="dim must be given"):
        LinearFamily(lambda t, x: x)
    with pytest.raises(ValueError, match="dim must be an integer >= 1"):
        OrnsteinUhlenbeck(0)
