"""AdaGrad-Norm: its steps by hand, its scales, its projection, and what stops it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from thalweg.descent import adagrad_norm, adagrad_norm_minimize, affine_noise, project_ball

from ._battery import quadratic, rosenbrock
from ._battery import smooth_problems as smooth

named = {"ids": lambda value: getattr(value, "name", str(value))}
positive = st.floats(1e-3, 1e3)


def written_out(gradients, x, eta, gamma, delayed=False):
    """The recursion in plain Python floats, coordinate by coordinate."""
    points, root_before = [list(x)], gamma
    seen = [gamma**2]
    for g in gradients:
        seen += [v * v for v in g]
        root = math.sqrt(math.fsum(seen))
        step = eta / (root_before if delayed else root)
        points.append([a - step * b for a, b in zip(points[-1], g, strict=True)])
        root_before = root
    return np.array(points)


def replay(gradients):
    """A gradient that ignores the point."""
    rest = iter(gradients)
    return lambda x, rng: next(rest)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), eta=positive, gamma=positive, delayed=st.booleans())
def test_follows_the_recursion_written_out(seed, eta, gamma, delayed):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(7, 3)) * 10.0 ** rng.integers(-3, 4, size=(7, 1))
    x0 = rng.normal(size=3)
    result = adagrad_norm(
        replay(gradients), x0, n_steps=7, eta=eta, gamma=gamma, delayed=delayed, record=True
    )
    expected = written_out(gradients, x0, eta, gamma, delayed)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(result.history["x"], expected, rtol=0, atol=1e-13 * scale)
    np.testing.assert_array_equal(result.x, result.history["x"][-1])
    np.testing.assert_array_equal(result.history["g"], gradients)
    np.testing.assert_allclose(result.x_average, expected[:-1].mean(axis=0), atol=1e-13 * scale)
    assert result.grad_sum == pytest.approx(gamma**2 + np.sum(gradients**2))
    assert result.step == result.history["step"][-1]
    assert result.success
    assert (result.nit, result.njev, len(result.history["step"])) == (7, 7, 7)


@given(g=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), eta=positive, gamma=positive)
def test_the_first_step_counts_the_first_gradient(g, eta, gamma):
    x = adagrad_norm(lambda x, rng: g, np.zeros(len(g)), n_steps=1, eta=eta, gamma=gamma).x
    norm = math.hypot(*g)
    assert np.linalg.norm(x) == pytest.approx(eta * norm / math.hypot(gamma, norm), rel=1e-12)


@given(seed=st.integers(0, 10**6), eta=positive, gamma=positive)
def test_no_step_is_longer_than_eta(seed, eta, gamma):
    result = adagrad_norm(
        lambda x, rng: rng.standard_cauchy(size=2),
        [0.0, 0.0],
        n_steps=30,
        eta=eta,
        gamma=gamma,
        rng=seed,
        record=True,
    )
    moves = np.diff(result.history["x"], axis=0)
    # x is rounded at its own size, 30 eta at most
    assert np.linalg.norm(moves, axis=1).max() <= eta * (1 + 1e-13)


def test_a_constant_gradient_moves_by_the_sum_of_the_roots():
    c, gamma, eta, T = 3.0, 2.0, 0.7, 50
    x = adagrad_norm(lambda x, rng: [c], 1.0, n_steps=T, eta=eta, gamma=gamma).x
    expected = 1.0 - eta * sum(c / math.sqrt(gamma**2 + t * c**2) for t in range(1, T + 1))
    assert x == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("c", [1e-6, 0.25, 1e6])
def test_the_path_is_the_same_for_gradients_and_gamma_scaled_together(c):
    def run(scale):
        def gradient(x, rng):
            return scale * (np.sin(x) + 0.3 * rng.normal(size=3))

        return adagrad_norm(
            gradient, np.ones(3), n_steps=200, gamma=0.5 * scale, rng=3, record=True
        ).history["x"]

    np.testing.assert_allclose(run(c), run(1.0), atol=1e-12)


def test_points_of_any_shape_are_one_point():
    target = np.arange(6.0).reshape(2, 3)
    matrix = adagrad_norm(lambda x, rng: x - target, np.zeros((2, 3)), n_steps=40)
    vector = adagrad_norm(lambda x, rng: x - target.ravel(), np.zeros(6), n_steps=40)
    np.testing.assert_array_equal(matrix.x.ravel(), vector.x)
    assert matrix.x.shape == (2, 3)


def test_a_projection_is_applied_to_the_start_and_to_every_point():
    result = adagrad_norm(
        lambda x, rng: x - np.array([3.0, 4.0]),
        [9.0, 0.0],
        n_steps=300,
        projection=lambda x: project_ball(x, 1.0),
        record=True,
    )
    assert np.linalg.norm(result.history["x"], axis=1).max() <= 1 + 1e-12
    np.testing.assert_array_equal(result.history["x"][0], [1.0, 0.0])
    np.testing.assert_allclose(result.x, [0.6, 0.8], atol=1e-6)


def test_averages_beat_the_last_point_where_noise_stays():
    """Mean over 40 runs of the squared distance from the minimum."""
    noisy = affine_noise(lambda x: x, 1.0, 0.0)
    runs = [adagrad_norm(noisy, np.ones(4), n_steps=2000, rng=seed) for seed in range(40)]
    last = np.mean([r.x @ r.x for r in runs])
    assert np.mean([r.x_average @ r.x_average for r in runs]) < 0.5 * last


def test_the_same_seed_gives_the_same_run_and_the_argument_is_not_changed():
    noisy = affine_noise(lambda x: x, 1.0, 1.0)
    x0 = np.ones(3)
    first, again, other = (
        adagrad_norm(noisy, x0, n_steps=20, rng=s).x for s in (1, np.random.default_rng(1), 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(x0, 1.0)


def test_callback_sees_each_step_and_can_stop():
    seen = []

    def callback(state):
        seen.append((state.nit, state.step, state.grad_sum, state.x.copy()))
        state.x[:] = 99.0
        if state.nit == 3:
            raise StopIteration

    result = adagrad_norm(
        lambda x, rng: x, [2.0], n_steps=9, callback=callback, record=True, fun=lambda x: x[0] ** 2
    )
    assert [n for n, *_ in seen] == [1, 2, 3]
    assert not result.success
    assert "callback after 3" in result.message
    np.testing.assert_array_equal([x for *_, x in seen], result.history["x"][1:])
    assert result.history["g"].shape == (3, 1)
    assert [s for _, s, *_ in seen] == result.history["step"].tolist()
    assert seen[-1][2] == result.grad_sum
    assert result.fun == result.x[0] ** 2


def test_a_gradient_that_is_not_finite_stops_the_run_at_its_step():
    def gradient(x, rng):
        return np.where(x < 1, np.nan, x)

    result = adagrad_norm(gradient, [3.0], n_steps=100, eta=0.9, record=True)
    assert not result.success
    steps = result.nit
    assert f"step {steps + 1}" in result.message
    assert np.isfinite(result.x).all()
    assert result.x[0] < 1 <= result.history["x"][-2, 0]
    assert result.history["g"].shape == (steps, 1)
    assert result.x_average == pytest.approx(result.history["x"][:-1].mean())
    at_once = adagrad_norm(lambda x, rng: [np.inf], [3.0], n_steps=2)
    assert not at_once.success
    assert at_once.x_average is None
    assert (at_once.x[0], at_once.step, at_once.nit) == (3.0, 0.0, 0)


def test_a_step_that_overflows_stops_the_run():
    result = adagrad_norm(
        lambda x, rng: [1e150], [0.0], n_steps=5, eta=1e200, gamma=1e-10, delayed=True
    )
    assert not result.success
    assert "step 1" in result.message
    assert result.x == 0


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"eta": 0.0}, ValueError, "eta"),
        ({"eta": np.inf}, ValueError, "eta"),
        ({"gamma": 0.0}, ValueError, "gamma"),
        ({"gamma": -1.0}, ValueError, "gamma"),
        ({"gamma": "1"}, TypeError, "gamma"),
        ({"n_steps": 0}, ValueError, "n_steps"),
        ({"n_steps": 2.5}, TypeError, "n_steps"),
        ({"x0": [np.nan]}, ValueError, "x0"),
        ({"x0": []}, ValueError, "x0"),
        ({"gradient": None}, TypeError, "gradient"),
        ({"gradient": lambda x, rng: [1.0, 2.0]}, ValueError, "gradient must return shape"),
        ({"gradient": lambda x, rng: "a"}, TypeError, "gradient"),
        ({"projection": 3}, TypeError, "projection"),
        ({"projection": lambda x: np.ones(2)}, ValueError, "projection must return shape"),
        ({"projection": lambda x: x * np.nan}, ValueError, "projection"),
        ({"fun": 3}, TypeError, "fun"),
        ({"callback": 3}, TypeError, "callback"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, error, match):
    arguments = {"gradient": lambda x, rng: x, "x0": [1.0], "n_steps": 3, **change}
    with pytest.raises(error, match=match):
        adagrad_norm(arguments.pop("gradient"), arguments.pop("x0"), **arguments)


@pytest.mark.parametrize("problem", smooth(), **named)
def test_minimiser_agrees_with_scipy(problem):
    peer = minimize(
        problem.fun, problem.x0, jac=problem.jac, method="L-BFGS-B", options={"gtol": 1e-10}
    )
    result = minimize(problem.fun, problem.x0, jac=problem.jac, method=adagrad_norm_minimize)
    assert result.success
    assert np.abs(result.jac).max() <= 1e-6
    np.testing.assert_array_equal(result.jac, problem.jac(result.x))
    assert result.fun <= peer.fun + 1e-8


def test_minimiser_takes_the_steps_of_the_stochastic_method():
    problem = quadratic(5, 10.0)
    points = [problem.x0]
    result = adagrad_norm_minimize(
        problem.fun, problem.x0, jac=problem.jac, eta=0.6, gamma=0.3, gtol=0, maxiter=30,
        callback=points.append, record=True,
    )  # fmt: skip
    same = adagrad_norm(
        lambda x, rng: problem.jac(x), problem.x0, n_steps=30, eta=0.6, gamma=0.3, record=True
    )
    np.testing.assert_allclose(points, same.history["x"], atol=1e-14)
    np.testing.assert_allclose(result.history["step"][:-1], same.history["step"], rtol=1e-13)
    last = problem.jac(result.x)
    assert result.grad_sum == pytest.approx(same.grad_sum + last @ last, rel=1e-13)
    assert result.history["fun"][-1] == result.fun == problem.fun(result.x)
    assert (result.nit, result.njev) == (30, 31)


def test_minimiser_descends_a_curved_valley_without_a_constant():
    problem = rosenbrock()
    result = adagrad_norm_minimize(
        problem.fun, problem.x0, jac=problem.jac, gtol=1e-3, maxiter=100_000
    )
    assert result.success
    np.testing.assert_allclose(result.x, problem.solution, atol=3e-3)


def test_minimiser_stops_where_the_gradient_breaks():
    def jac(x):
        return np.where(x < 1, np.nan, x)

    result = adagrad_norm_minimize(lambda x: 0.5 * x @ x, [3.0], jac=jac, eta=0.9)
    assert not result.success
    assert f"step {result.nit + 2}" in result.message
    assert result.x[0] >= 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"eta": -1.0}, "eta"),
        ({"gamma": 0.0}, "gamma"),
        ({"gtol": -1.0}, "gtol"),
        ({"maxiter": -1}, "maxiter"),
        ({"bounds": [(0, 1)]}, "bounds"),
        ({"hess": lambda x: x}, "hess"),
    ],
)
def test_minimiser_refuses_bad_arguments(change, match):
    with pytest.raises(ValueError, match=match):
        adagrad_norm_minimize(lambda x: x @ x, [1.0], jac=lambda x: 2 * x, **change)
