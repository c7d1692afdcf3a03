"""Bounds as functions: values by hand, monotony, refusals. Runs are held against them elsewhere."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

from thalweg import descent
from thalweg.descent import known_rates, rate

EXAMPLES = {
    "gradient_descent-convex": ({"L": 3, "radius": 2}, 4, 6.0),
    "gradient_descent-projected": ({"L": 3, "radius": 2, "gap0": 4}, 3, 10.0),
    "gradient_descent-strong": ({"L": 4, "mu": 1, "radius": 2}, 8, 4 * math.exp(-2)),
    "gradient_descent-strong-long": ({"L": 4, "mu": 1, "radius": 2}, 5, 8 * math.exp(-4)),
    "nesterov-strong": ({"L": 4, "mu": 1, "radius": 2}, 6, 10 * math.exp(-3)),
    "nesterov-convex": ({"L": 3, "radius": 2}, 3, 1.5),
    "geometric_descent": ({"L": 4, "mu": 1, "radius": 2}, 3, 0.5),
    "subgradient_method-convex": ({"radius": 2, "lipschitz": 3}, 9, 2.0),
    "subgradient_method-decreasing": ({"radius": 2, "lipschitz": 3}, 9, 3.0),
    "subgradient_method-strong": ({"lipschitz": 3, "mu": 2}, 8, 1.0),
    "conjugate_gradient": ({"L": 9, "mu": 1, "radius": 3}, 2, 1.5),
    "frank_wolfe": ({"L": 3, "diameter": 2}, 4, 4.0),
    "proximal_gradient": ({"L": 3, "radius": 2}, 3, 2.0),
    "fista": ({"L": 3, "radius": 2}, 3, 1.5),
    "mirror_descent": ({"radius": 2, "lipschitz": 3, "rho": 0.5}, 16, 3.0),
    "mirror_descent-stochastic": ({"radius": 2, "lipschitz": 3}, 8, 3.0),
    "mirror_descent-stochastic-smooth": ({"radius": 2, "sigma": 3, "L": 4}, 8, 5.0),
    "dual_averaging": ({"radius": 2, "lipschitz": 3, "rho": 0.5}, 16, 6.0),
    "mirror_prox": ({"L": 3, "radius": 2, "rho": 0.5}, 4, 6.0),
    "random_coordinate_descent-convex": ({"L": [1.0, 4.0], "gamma": 0.5, "radius": 2}, 6, 4.0),
    "random_coordinate_descent-strong": (
        {"L": [1.0, 4.0], "gamma": 0.5, "mu": 1.5, "gap0": 8},
        3,
        1.0,
    ),
    "saddle_mirror_descent": ({"radius": (1, 2), "lipschitz": (3, 4)}, 8, 5.5),
    "saddle_mirror_prox": ({"radius": (2, 3), "smoothness": (1, 4, 5, 3)}, 4, 30.0),
    "matrix_game-mirror-prox": ({"largest": 2, "m": 3, "n": 4}, 4, math.log(12) / 2),
    "matrix_game-mirror-descent": (
        {"largest": 2, "m": 4, "n": 4},
        8,
        4 * math.sqrt(math.log(4) / 4),
    ),
    "matrix_game-stochastic": (
        {"largest": 2, "m": 4, "n": 4},
        8,
        14 * math.sqrt(math.log(4) / 4),
    ),
    "centre_of_gravity": ({"bound": 3, "n": 2}, 4, 6 * (1 - 1 / math.e) ** 2),
    "ellipsoid": ({"bound": 3, "radius": 4, "inner_radius": 2, "n": 2}, 8, 12 / math.e),
    "path_following": ({"nu": 4, "t0": 0.5}, 54, 16 * math.exp(-2)),
}
names = pytest.mark.parametrize("name", EXAMPLES)


def test_every_bound_has_an_example():
    assert EXAMPLES.keys() == known_rates().keys()


@names
def test_value_by_hand(name):
    constants, t, value = EXAMPLES[name]
    assert rate(name, t, **constants) == pytest.approx(value, rel=1e-12)
    assert isinstance(rate(name, t, **constants), float)


@names
def test_bounds_fall_with_time_from_the_start(name):
    constants, _, _ = EXAMPLES[name]
    values = rate(name, np.arange(200), **constants)
    assert values.shape == (200,)
    assert not np.isnan(values).any()
    finite = values[np.isfinite(values)]
    assert (np.diff(finite) < 0).all()
    assert np.isfinite(values).argmax() == np.isinf(values).sum()


@names
def test_constants_are_named_and_required(name):
    constants, t, _ = EXAMPLES[name]
    rule = known_rates()[name]
    assert set(rule.constants) >= constants.keys()
    for constant in rule.constants:
        if constant in rule.defaults:
            continue
        others = {key: value for key, value in constants.items() if key != constant}
        with pytest.raises(ValueError, match=f"^{constant} must be given for"):
            rate(name, t, **others)
        with pytest.raises((ValueError, TypeError), match=f"^{constant} must"):
            rate(name, t, **others, **{constant: -1})
    with pytest.raises(ValueError, match="colour is no constant"):
        rate(name, t, **constants, colour=1)


def test_names_are_those_of_methods():
    for name in known_rates():
        method = name.split("-")[0]
        assert inspect.isfunction(getattr(descent, method))


def test_the_ellipsoid_bound_begins_late():
    constants = {"bound": 1.0, "radius": 10.0, "inner_radius": 0.1, "n": 3}
    begin = 18 * math.log(100)
    assert rate("ellipsoid", math.floor(begin), **constants) == math.inf
    assert rate("ellipsoid", math.ceil(begin), **constants) < 2.0


def test_shapes_of_times_are_kept():
    assert rate("fista", [[1, 2], [3, 4]], L=1.0, radius=1.0).shape == (2, 2)


@pytest.mark.parametrize(
    ("name", "t", "constants", "error", "message"),
    [
        ("newton", 1, {}, ValueError, "name must be one of gradient_descent-convex"),
        ("fista", -1, {"L": 1, "radius": 1}, ValueError, "t must be >= 0"),
        ("fista", 1.5, {"L": 1, "radius": 1}, TypeError, "t must hold integers"),
        ("fista", 1, {"L": "one", "radius": 1}, TypeError, "L must be"),
        ("nesterov-strong", 1, {"L": 1, "mu": 2, "radius": 1}, ValueError, "mu must be <= 1"),
        ("centre_of_gravity", 1, {"bound": 1, "n": 1.5}, TypeError, "n must be an integer"),
        ("saddle_mirror_descent", 1, {"radius": 1, "lipschitz": (1, 1)}, ValueError, "radius must"),
        (
            "random_coordinate_descent-strong",
            1,
            {"L": [1.0, 4.0], "gamma": 0.0, "mu": 3, "gap0": 1},
            ValueError,
            "mu must be <= 2",
        ),
    ],
)
def test_malformed_questions_are_refused(name, t, constants, error, message):
    with pytest.raises(error, match=message):
        rate(name, t, **constants)
