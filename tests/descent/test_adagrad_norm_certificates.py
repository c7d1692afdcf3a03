"""Certificates of AdaGrad-Norm: no adversary breaks them, and every wrong step does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.descent import (
    adagrad_norm,
    affine_noise,
    descent_certificate,
    project_ball,
    regret_certificate,
)
from thalweg.descent.adagrad_norm_certificates import step_certificate

positive = st.floats(1e-3, 1e3)
numbers = st.floats(-1e4, 1e4)
ROUNDING = 1e-9
"""Relative to the sides of an inequality."""


def recorded(gradients, eta, gamma, **options):
    rest = iter(gradients)
    dim = len(gradients[0])
    return adagrad_norm(
        lambda x, rng: next(rest), np.zeros(dim), n_steps=len(gradients), eta=eta, gamma=gamma,
        record=True, **options,
    ).history  # fmt: skip


def by_hand(gradients, rule):
    """Return the history of steps ``rule(t, squared norms up to t)`` from zero."""
    x, points, steps = np.zeros(len(gradients[0])), [], []
    points.append(x)
    for t, g in enumerate(gradients, 1):
        steps.append(rule(t, np.sum(np.square(gradients[:t]))))
        x = x - steps[-1] * np.asarray(g)
        points.append(x)
    return {"x": np.array(points), "g": np.array(gradients), "step": np.array(steps)}


paths = st.integers(1, 3).flatmap(
    lambda dim: st.tuples(
        st.lists(st.lists(numbers, min_size=dim, max_size=dim), min_size=1, max_size=12),
        st.lists(numbers, min_size=dim, max_size=dim),
    )
)


@settings(max_examples=150, deadline=None)
@given(path=paths, eta=positive, gamma=positive)
def test_regret_certificate_holds_for_any_gradients_and_any_point(path, eta, gamma):
    gradients, u = path
    history = recorded(gradients, eta, gamma)
    offset = history["x"][:-1] - u
    right = np.max(np.sum(offset**2, axis=1)) / (2 * eta) + eta
    right *= math.sqrt(gamma**2 + np.sum(np.square(gradients)))
    assert regret_certificate(history, u, eta=eta, gamma=gamma) >= -ROUNDING * right


@settings(max_examples=100, deadline=None)
@given(path=paths, eta=positive, gamma=positive)
def test_step_certificate_holds_for_any_gradients(path, eta, gamma):
    gradients, _ = path
    history = recorded(gradients, eta, gamma)
    root = math.sqrt(gamma**2 + np.sum(np.square(gradients)))
    assert step_certificate(history, eta=eta, gamma=gamma) >= -ROUNDING * (1 + root)


def cosines(x):
    return np.sum(1 - np.cos(x), axis=-1)


@settings(max_examples=100, deadline=None)
@given(path=paths, eta=positive, gamma=positive)
def test_descent_certificate_holds_for_any_gradients(path, eta, gamma):
    """f = sum(1 - cos x_i), 1-smooth; the gradients need have nothing to do with it."""
    gradients, _ = path
    history = recorded(gradients, eta, gamma)
    x = history["x"]
    room = descent_certificate(
        history, np.sin(x[:-1]), cosines(x[0]), cosines(x[-1]), eta=eta, gamma=gamma, beta=1.0
    )
    root = gamma**2 + np.sum(np.square(gradients))
    assert room >= -ROUNDING * (10 + eta**2 * (1 + abs(math.log(root / gamma**2))))


def test_regret_certificate_is_the_inequality_by_hand():
    """One step from 1 with g = 3 and gamma = 4: G = 5; <g, w - u> = 9 for u = -2."""
    history = {"x": [[1.0], [0.4]], "g": [[3.0]]}
    room = regret_certificate(history, [-2.0], eta=2.0, gamma=4.0)
    assert room == pytest.approx((9 / 4 + 2) * 5 - 8 - 9)


def test_descent_certificate_is_the_inequality_by_hand():
    """Two steps with g = 3, then 12, and gamma = 4: G = 5, then 13."""
    history = {"x": [[1.0], [0.4], [0.2]], "g": [[3.0], [12.0]]}
    room = descent_certificate(history, [[2.0], [1.0]], 7.0, 5.5, eta=2.0, gamma=4.0, beta=3.0)
    left = 2 / 5 * 6 + 2 / 13 * 12
    assert room == pytest.approx(1.5 + 0.5 * 3 * 4 * math.log(169 / 16) - left)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0.4, math.log(25 / 16) - 0.04 * 9), (0.6, 2 * (5 - 4) - 0.3 * 9)],
    ids=["log sum", "root sum"],
)
def test_step_certificate_is_the_lesser_of_two_inequalities_by_hand(step, expected):
    history = {"x": [[1.0], [0.4]], "g": [[3.0]], "step": [step]}
    room = step_certificate(history, eta=2.0, gamma=4.0)
    assert room == pytest.approx(expected)


def test_regret_certificate_fails_for_steps_too_short():
    """Steps eta / G_t² hardly move: the regret against a far point grows like T."""
    gradients = [[1.0]] * 400

    def room(rule):
        return regret_certificate(by_hand(gradients, rule), [-200.0], eta=10.0, gamma=1.0)

    assert room(lambda t, total: 10.0 / math.sqrt(1 + total)) >= 0
    assert room(lambda t, total: 10.0 / (1 + total)) < 0
    assert room(lambda t, total: 10.0 / math.sqrt(1 + t * total)) < 0


@pytest.mark.parametrize("factor", [0.02, 30.0, -1.0])
def test_descent_certificate_fails_for_steps_of_the_wrong_length(factor):
    """Exact gradients of x²/2 from 5, steps `factor` times those claimed."""

    def run(factor):
        x, total, points = 5.0, 1.0, [5.0]
        for _ in range(60):
            total += x * x
            x = x - factor / math.sqrt(total) * x
            points.append(x)
        x = np.array(points)[:, None]
        values = x[:, 0] ** 2 / 2
        return descent_certificate(
            {"x": x, "g": x[:-1]}, x[:-1], values[0], values[-1], eta=1.0, gamma=1.0, beta=1.0
        )

    assert run(1.0) >= 0
    assert run(factor) < 0


def test_descent_certificate_fails_for_a_curvature_too_small():
    """A quadratic of curvature 4 along which the run jumps to and fro."""

    def room(beta):
        run = adagrad_norm(lambda x, rng: 4 * x, [1.0], n_steps=30, eta=3.0, record=True)
        x = run.history["x"]
        ends = [float(2 * x[i, 0] ** 2) for i in (0, -1)]
        return descent_certificate(run.history, 4 * x[:-1], *ends, eta=3.0, gamma=1e-2, beta=beta)

    assert room(4.0) >= 0
    assert room(0.2) < 0


def test_step_certificate_fails_for_steps_without_the_current_gradient():
    noisy = affine_noise(lambda x: x, 1.0, 0.0)
    for delayed in (False, True):
        run = adagrad_norm(
            noisy, [1.0, 1.0], n_steps=50, gamma=0.5, rng=0, record=True, delayed=delayed
        )
        assert (step_certificate(run.history, eta=1.0, gamma=0.5) >= 0) is not delayed


def test_regret_certificate_holds_with_a_projection_for_points_of_the_set():
    noisy = affine_noise(lambda x: x - np.array([3.0, 0.0]), 2.0, 1.0)
    for seed in range(10):
        run = adagrad_norm(
            noisy, [0.0, 1.0], n_steps=200, rng=seed, record=True, projection=project_ball
        )
        for angle in np.linspace(0, 2 * np.pi, 7):
            u = [np.cos(angle), np.sin(angle)]
            assert regret_certificate(run.history, u, eta=1.0, gamma=1e-2) >= 0


def test_certificates_take_points_of_any_shape():
    rng = np.random.default_rng(0)
    run = adagrad_norm(lambda x, r: x + r.normal(size=x.shape), np.ones((2, 3)), n_steps=20, rng=1,
                       record=True).history  # fmt: skip
    flat = {"x": run["x"].reshape(21, 6), "g": run["g"].reshape(20, 6), "step": run["step"]}
    u = rng.normal(size=(2, 3))
    known = {"eta": 1.0, "gamma": 1e-2}
    assert regret_certificate(run, u, **known) == pytest.approx(
        regret_certificate(flat, u.ravel(), **known)
    )
    assert descent_certificate(run, run["x"][:-1], 3.0, 1.0, beta=1.0, **known) == pytest.approx(
        descent_certificate(flat, flat["x"][:-1], 3.0, 1.0, beta=1.0, **known)
    )
    assert step_certificate(run, **known) == pytest.approx(step_certificate(flat, **known))


GOOD = {"x": [[1.0], [0.4]], "g": [[3.0]], "step": [0.4]}


@pytest.mark.parametrize(
    ("history", "error", "match"),
    [
        (None, TypeError, "history"),
        ({}, ValueError, "'x'"),
        ({"x": [[1.0], [0.4]]}, ValueError, "'g'"),
        ({**GOOD, "x": [[1.0]]}, ValueError, "x"),
        ({**GOOD, "g": [3.0]}, ValueError, "g"),
        ({**GOOD, "g": np.empty((0, 1)), "x": [[1.0]]}, ValueError, "g"),
        ({**GOOD, "g": [[np.nan]]}, ValueError, "finite"),
    ],
)
def test_bad_histories_are_refused(history, error, match):
    with pytest.raises(error, match=match):
        regret_certificate(history, [0.0], eta=1.0, gamma=1.0)
    with pytest.raises(error, match=match):
        step_certificate(history, eta=1.0, gamma=1.0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: regret_certificate(GOOD, [0.0, 1.0], eta=1.0, gamma=1.0), "u must"),
        (lambda: regret_certificate(GOOD, [0.0], eta=0.0, gamma=1.0), "eta"),
        (lambda: regret_certificate(GOOD, [0.0], eta=1.0, gamma=0.0), "gamma"),
        (lambda: step_certificate({"x": [[1.0], [0.4]], "g": [[3.0]]}, eta=1.0, gamma=1.0), "step"),
        (
            lambda: descent_certificate(GOOD, [[2.0]], 7.0, 5.5, eta=1.0, gamma=1.0, beta=0.0),
            "beta",
        ),
        (
            lambda: descent_certificate(GOOD, [2.0], 7.0, 5.5, eta=1.0, gamma=1.0, beta=1.0),
            "true_gradients",
        ),
        (
            lambda: descent_certificate(GOOD, [[2.0]], np.inf, 5.5, eta=1.0, gamma=1.0, beta=1.0),
            "f_first",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(call, match):
    with pytest.raises(ValueError, match=match):
        call()
