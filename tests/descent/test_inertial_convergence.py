"""Cycles at the end of runs, and the energy of Nesterov's equation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.descent import (
    find_cycle,
    heavy_ball,
    inertial_ode,
    nesterov_lyapunov,
    triple_momentum,
    two_step,
)

from .test_inertial_dynamics import MU, X0, L, fun, hessp, jac

CYCLE = np.array([2592.0, 792.0, -2208.0]) / 1225


def kinked(x):
    return np.where(x < 1, 25 * x, np.where(x < 2, x + 24, 25 * x - 24))


def kept(x0, method=heavy_ball, steps=400, **options):
    options = {"L": 25.0, "mu": 1.0} | options
    return method(lambda x: 0.0, x0, jac=kinked, gtol=0, maxiter=steps, record=True, **options)


@given(st.floats(3.07, 3.46))
@settings(max_examples=15, deadline=None)
def test_the_heavy_ball_is_caught(x0):
    cycle = find_cycle(kept, [x0])
    assert cycle.shape == (3, 1)
    np.testing.assert_allclose(cycle[:, 0], CYCLE, atol=1e-8)


def test_others_escape():
    share = {"alpha": 0.04, "beta": 2 / 3, "gamma": 2 / 3}
    for x0 in np.linspace(3.07, 3.46, 5):
        run = two_step(lambda x: 0.0, [x0], jac=kinked, gtol=0, maxiter=400, record=True, **share)
        assert abs(run.x[0]) <= 1e-6
        assert find_cycle(lambda _, run=run: run, [x0]) is None
        assert find_cycle(lambda x: kept(x, triple_momentum), [x0]) is None
        found = kept([x0], triple_momentum).trajectory[:, 0]
        # rho = 0.8 on this function, which no method tuned to quadratics keeps.
        rate = (abs(found[400]) / abs(found[200])) ** (1 / 200)
        assert rate <= 0.8 + 1e-6


@pytest.mark.parametrize("period", [2, 3, 5, 12])
def test_the_smallest_period_is_found_after_a_transient(period):
    rng = np.random.default_rng(period)
    ring = rng.normal(size=(period, 2))
    k = np.arange(600)
    points = ring[k % period] + np.outer(0.5**k, [1.0, -1.0])
    cycle = find_cycle(lambda x0: points, [0.0, 0.0])
    first = int(np.argmax(ring[:, 0]))
    np.testing.assert_allclose(cycle, np.roll(ring, -first, axis=0), atol=1e-12)


@pytest.mark.parametrize(
    "points",
    [
        np.ones(400),
        1 + 0.9 ** np.arange(400),
        (-0.9) ** np.arange(400),
        # Slow alternation: neighbours two apart are close, but the tail as a whole drifts.
        1e-4 * (-0.99999) ** np.arange(400),
        1e-10 * (-1.0) ** np.arange(400),
        np.arange(400.0),
        np.sin(np.arange(400.0)),
        np.r_[np.tile([0.0, 1.0], 199), np.nan, 1.0],
        np.arange(400) % 13,
    ],
    ids=[
        "constant", "settling", "alternating", "slow", "narrow", "growing", "quasiperiodic",
        "broken", "period 13",
    ],
)  # fmt: skip
def test_what_is_no_cycle(points):
    assert find_cycle(lambda x0: np.asarray(points, dtype=float)[:, None], [0.0]) is None


def test_a_longer_period_is_found_if_asked_for():
    points = (np.arange(800) % 13).astype(float)[:, None]
    assert find_cycle(lambda x0: points, [0.0], max_period=13).shape == (13, 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: find_cycle(3, [0.0]), TypeError, "method must be callable"),
        (lambda: find_cycle(kept, [math.nan]), ValueError, "x0 must be finite"),
        (lambda: find_cycle(kept, [0.0], max_period=1), ValueError, "max_period must be"),
        (lambda: find_cycle(kept, [0.0], tol=0), ValueError, "tol must be"),
        (
            lambda: find_cycle(lambda x: kept(x, steps=90), [0.0]),
            ValueError,
            "at least 96 points for max_period=12, got 91",
        ),
        (
            lambda: find_cycle(lambda x: np.zeros((400, 2)), [0.0]),
            ValueError,
            r"points of shape \(steps \+ 1, 1\)",
        ),
    ],
)
def test_malformed_searches_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


S = 1 / L


OWN = {"A": 2 * math.sqrt(MU), "B": math.sqrt(S), "C": 1 + math.sqrt(MU * S)}


def path(times=None, **equation):
    times = np.linspace(0, 12, 601) if times is None else times
    x, v = inertial_ode(jac, X0, times, v0=[0.3, 0.6], **(OWN | equation))
    return times, x, v


def energy_of(x, v, **options):
    return nesterov_lyapunov(
        fun, jac, x, v, mu=MU, s=S, x_star=[0.0, 0.0], **({"hessp": hessp} | options)
    )


def test_energy_is_the_printed_sum():
    _, x, v = path(times=np.array([0.0, 0.4]))
    energy, _ = energy_of(x, v)
    for p, w, e in zip(x, v, energy, strict=True):
        mixed = w + 2 * MU**0.5 * p + S**0.5 * jac(p)
        expected = (1 + (MU * S) ** 0.5) * fun(p) + (w @ w + mixed @ mixed) / 4
        assert e == pytest.approx(expected, rel=1e-12)


def test_energy_is_measured_from_the_minimum():
    _, x, v = path(times=np.array([0.0, 0.4]))
    shift = np.array([1.0, -2.0])
    plain = energy_of(x, v)
    moved = nesterov_lyapunov(
        lambda p: fun(p - shift) + 7.0, lambda p: jac(p - shift), x + shift, v, mu=MU, s=S,
        x_star=shift, hessp=lambda p, w: hessp(p - shift, w),
    )  # fmt: skip
    np.testing.assert_allclose(moved, plain, rtol=1e-10)


@pytest.mark.parametrize(
    "equation", [{}, {"A": 0.3}, {"B": 0.1}, {"C": 2.0}], ids=["own", "A", "B", "C"]
)
def test_slope_is_the_derivative_along_the_path(equation):
    times, x, v = path(times=np.linspace(0, 2, 2001), **equation)
    energy, slope = energy_of(x, v, **equation)
    measured = (energy[2:] - energy[:-2]) / (times[2:] - times[:-2])
    np.testing.assert_allclose(slope[1:-1], measured, atol=2e-5 * np.abs(slope).max())


def test_energy_falls_as_fast_as_promised():
    _, x, v = path()
    energy, slope = energy_of(x, v)
    assert (slope <= -math.sqrt(MU) / 4 * energy).all()
    # Not by being far from it: the promise is within a factor of twenty.
    assert (slope >= -5 * math.sqrt(MU) * energy).all()


@pytest.mark.parametrize("equation", [{"A": 0.02 * math.sqrt(MU)}, {"B": -0.4}])
def test_the_promise_is_broken_by_other_equations(equation):
    _, x, v = path(**equation)
    energy, slope = energy_of(x, v, **equation)
    assert (slope > -math.sqrt(MU) / 4 * energy).any()


def test_differences_stand_in_for_the_hessian():
    _, x, v = path(times=np.linspace(0, 3, 7))
    np.testing.assert_allclose(energy_of(x, v, hessp=None), energy_of(x, v), rtol=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mu": 0.0}, "mu must be"),
        ({"s": -1.0}, "s must be"),
        ({"x_star": [0.0]}, "x_star must have shape"),
        ({"A": math.nan}, "A must be"),
        ({"v": np.zeros((2, 2))}, "v must have shape"),
        ({"jac": lambda x: x * np.nan}, "must be finite at x"),
    ],
)
def test_malformed_energies_are_refused(options, message):
    good = {
        "fun": fun, "jac": jac, "x": np.ones((3, 2)), "v": np.ones((3, 2)), "mu": MU, "s": S,
        "x_star": [0.0, 0.0],
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        nesterov_lyapunov(**(good | options))
