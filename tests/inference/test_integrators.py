"""The leapfrog is symplectic, reversible and of second order; Euler's method is not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from thalweg.inference import explicit_euler, leapfrog


@njit(cache=True)
def quartic(x):
    return -0.25 * (x**4).sum() - 0.5 * (x @ x), -(x**3) - x


@njit(cache=True)
def normal(x):
    return -0.5 * (x @ x), -x


VECTORS = st.lists(st.floats(-2, 2), min_size=3, max_size=3).map(np.array)


@settings(deadline=None, max_examples=30)
@given(VECTORS, VECTORS, st.integers(0, 30))
def test_backward_steps_undo_forward_steps(q, p, n):
    there = leapfrog(quartic, q, p, 0.1, n)
    back = leapfrog(quartic, there[0], there[1], -0.1, n)
    np.testing.assert_allclose(back[0], q, atol=1e-9)
    np.testing.assert_allclose(back[1], p, atol=1e-9)


def test_volume_is_preserved():
    inverse = np.array([[1.0, 0.3], [0.3, 2.0]])
    # the map is linear on a normal target, so its columns are its images of the unit vectors
    columns = [
        np.concatenate(leapfrog(normal, z[:2], z[2:], 0.7, 5, inverse)[:2]) for z in np.eye(4)
    ]
    assert np.linalg.det(np.array(columns)) == pytest.approx(1.0, abs=1e-12)


def test_one_step_is_the_closed_form():
    q, p, energy = leapfrog(normal, [1.0], [0.5], 0.2, 1)
    half = 0.5 - 0.1 * 1.0
    assert q[0] == pytest.approx(1.0 + 0.2 * half)
    assert p[0] == pytest.approx(half - 0.1 * q[0])
    np.testing.assert_allclose(energy, [0.625, 0.5 * (q[0] ** 2 + p[0] ** 2)])


def test_energy_error_is_of_second_order():
    steps = np.array([0.02, 0.04, 0.08])
    errors = [
        np.abs(np.diff(leapfrog(quartic, [1.0], [0.3], step, round(3.2 / step))[2][[0, -1]]))[0]
        for step in steps
    ]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert 1.9 < slope < 2.1


def test_energy_stays_bounded_where_euler_drifts():
    energy = leapfrog(quartic, [1.0], [0.3], 0.1, 10_000)[2]
    euler = explicit_euler(quartic, [1.0], [0.3], 0.1, 30)[2]
    assert np.abs(energy - energy[0]).max() < 0.01
    assert euler[-1] > 1.5 * euler[0]


def test_a_rotated_problem_has_the_rotated_trajectory():
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    precision = np.diag([1.0, 4.0, 9.0])

    def turned(x):
        return -0.5 * x @ rotation @ precision @ rotation.T @ x, -(
            rotation @ precision @ rotation.T @ x
        )

    q, p = np.array([1.0, 2.0, -1.0]), np.array([0.2, -0.4, 0.6])
    straight = leapfrog(lambda x: (-0.5 * x @ precision @ x, -precision @ x), q, p, 0.1, 20)
    rotated = leapfrog(turned, rotation @ q, rotation @ p, 0.1, 20)
    np.testing.assert_allclose(rotated[0], rotation @ straight[0], atol=1e-12)
    np.testing.assert_allclose(rotated[2], straight[2], atol=1e-12)


def test_a_metric_is_a_change_of_units():
    scale = np.array([0.5, 1.0, 3.0])

    def scaled(x):
        value, slope = quartic.py_func(x / scale)
        return value, slope / scale

    q, p = np.array([1.0, 2.0, -1.0]), np.array([0.2, -0.4, 0.6])
    unit = leapfrog(quartic, q, p, 0.1, 20)
    other = leapfrog(scaled, q * scale, p / scale, 0.1, 20, inverse_metric=scale**2)
    np.testing.assert_allclose(other[0] / scale, unit[0], atol=1e-10)
    np.testing.assert_allclose(other[2], unit[2], atol=1e-10)


def test_no_steps_return_the_start():
    q, p, energy = leapfrog(normal, [1.0, 2.0], [0.0, 1.0], 0.1, 0)
    np.testing.assert_array_equal(q, [1.0, 2.0])
    np.testing.assert_array_equal(p, [0.0, 1.0])
    np.testing.assert_array_equal(energy, [3.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [1.0, 2.0], 0.1, 1), "p must"),
        (([1.0], [1.0], np.inf, 1), "step_size"),
        (([1.0], [1.0], 0.1, -1), "n_steps"),
        (([1.0], [1.0], 0.1, 1, [0.0]), "metric"),
        (([[1.0]], [1.0], 0.1, 1), "q must"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        leapfrog(normal, *arguments)
