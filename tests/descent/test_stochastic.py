from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pytest

from thalweg.descent import (
    AbsoluteRegression,
    FiniteSum,
    LeastSquares,
    Logistic,
    sgd,
    stochastic_polyak,
    stochastic_proximal_point,
)
from thalweg.descent._stochastic_kernels import draw_batches
from thalweg.descent.stochastic import replicate, running_average

KINDS = (LeastSquares, Logistic, AbsoluteRegression)
X0 = np.array([2.0, 0.0, -1.0])


def make(kind, l2=0.2, n=12, dim=3, seed=0):
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(n, dim)), rng.normal(size=n)
    return kind(A, np.sign(b) if kind is Logistic else b, l2=l2)


class Plain(FiniteSum):
    """Another problem's components, without what makes it a linear model."""

    def __init__(self, problem):
        self.problem, self.n, self.dim = problem, problem.n, problem.dim
        self.asked = []

    def component_values(self, x, idx=None):
        return self.problem.component_values(x, idx)

    def component_gradients(self, x, idx=None):
        self.asked.append(None if idx is None else np.array(idx))
        return self.problem.component_gradients(x, idx)

    def component_prox(self, i, x, gamma):
        self.asked.append(np.array([i]))
        return self.problem.component_prox(i, x, gamma)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 5},
        {"batch_size": 4, "replace": True},
        {"momentum": 0.7, "average": "linear"},
        {"momentum": "ima", "average": "step"},
        {"step": lambda t: 0.1 / (t + 1), "average": "uniform"},
    ],
)
def test_compiled_loops_follow_the_python_loop(kind, options):
    options = {"step": 0.05, "n_steps": 200, "rng": 3, "record": True} | options
    compiled = sgd(make(kind), X0, **options)
    plain = sgd(Plain(make(kind)), X0, **options)
    np.testing.assert_allclose(compiled.history["x"], plain.history["x"], rtol=1e-11, atol=1e-12)
    if "average" in options:
        np.testing.assert_allclose(compiled.x_average, plain.x_average, rtol=1e-11, atol=1e-12)
    assert compiled.n_grad == plain.n_grad == 200 * options.get("batch_size", 1)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_polyak_and_proximal_loops_follow_the_python_loop(kind):
    problem = make(kind)
    known = problem.component_values(problem.minimiser(X0))
    options = {"n_steps": 200, "rng": 3, "record": True, "average": "uniform"}
    for call in (
        lambda p: stochastic_polyak(p, X0, f_star=known, batch_size=3, gamma_max=2.0, **options),
        lambda p: stochastic_polyak(p, X0, f_star=-0.1, **options),
        lambda p: stochastic_proximal_point(p, X0, step=0.4, **options),
    ):
        ours, plain = call(problem), call(Plain(problem))
        np.testing.assert_allclose(ours.history["x"], plain.history["x"], rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(ours.x_average, plain.x_average, rtol=1e-10, atol=1e-11)


def test_steps_are_those_of_the_definition():
    """The loop written out, with the components that a run asked for."""
    problem = Plain(make(Logistic))
    steps, betas = 0.3 / np.arange(1, 51), np.linspace(0, 0.9, 50)
    run = sgd(
        problem, X0, step=steps, momentum=betas, n_steps=50, batch_size=3, rng=0, record=True,
        average=np.arange(50) % 3 + 1.0,
    )  # fmt: skip
    x, m, points = X0, np.zeros(3), [X0]
    for t, batch in enumerate(problem.asked[:50]):
        assert len(set(batch)) == 3
        m = betas[t] * m + make(Logistic).gradient(x, batch)
        x = x - steps[t] * m
        points.append(x)
    np.testing.assert_allclose(run.history["x"], points, rtol=1e-13, atol=1e-14)
    average = np.average(points[:50], axis=0, weights=np.arange(50) % 3 + 1.0)
    np.testing.assert_allclose(run.x_average, average, rtol=1e-12)
    np.testing.assert_allclose(run.x, points[-1])
    assert run.fun == pytest.approx(make(Logistic).value(run.x))


def test_polyak_steps_are_those_of_the_definition():
    problem = Plain(make(LeastSquares, l2=0.0))
    known = np.linspace(0.0, 0.5, 12)
    run = stochastic_polyak(
        problem, X0, f_star=known, n_steps=40, gamma_max=0.3, rng=0, record=True
    )
    x, capped, still = X0, 0, 0
    for t, batch in enumerate(problem.asked[:40]):
        i = int(batch[0])
        value, g = problem.problem.value(x, i), problem.problem.gradient(x, i)
        length = max(value - known[i], 0.0) / (g @ g)
        capped, still = capped + (length > 0.3), still + (length == 0)
        x = x - min(length, 0.3) * g
        np.testing.assert_allclose(run.history["x"][t + 1], x, rtol=1e-12)
    assert capped > 2
    assert still > 2


def test_projection_and_prox_follow_every_step():
    problem = make(LeastSquares)
    whole = {"step": 0.3, "n_steps": 5, "batch_size": 12, "record": True}
    x = X0
    prox = sgd(problem, X0, prox=lambda v, gamma: v / (1 + gamma * 2.0), **whole).history["x"]
    box = sgd(problem, X0, projection=lambda v: np.clip(v, -0.1, 0.2), **whole).history["x"]
    y = X0
    for t in range(5):
        x = (x - 0.3 * problem.gradient(x)) / 1.6
        y = np.clip(y - 0.3 * problem.gradient(y), -0.1, 0.2)
        np.testing.assert_allclose(prox[t + 1], x, rtol=1e-13)
        np.testing.assert_allclose(box[t + 1], y, rtol=1e-13)
    single = sgd(problem, X0, projection=lambda v: v, step=0.1, n_steps=50, rng=1)
    np.testing.assert_allclose(single.x, sgd(problem, X0, step=0.1, n_steps=50, rng=1).x)


def test_momentum_is_iterate_averaging():
    problem, eta, t = make(LeastSquares), 0.05, np.arange(300)
    one = sgd(problem, X0, step=eta, momentum="ima", n_steps=300, rng=0, record=True)
    other = sgd(
        problem, X0, step=2 * eta / (t + 3), momentum=t / (t + 2), n_steps=300, rng=0, record=True
    )
    np.testing.assert_allclose(one.history["x"], other.history["x"], rtol=0, atol=1e-12)
    # The first step by hand: z = x0 - eta g, x = (x0 + 2 z) / 3.
    g = (X0 - one.history["x"][1]) * 1.5 / eta
    assert min(np.abs(g - row).max() for row in problem.component_gradients(X0)) < 1e-12


def test_every_batch_of_distinct_components_is_equally_likely():
    draws, order = np.random.default_rng(0).random((30_000, 3)), np.arange(5)
    batches = draw_batches(draws, 5, False, order)
    assert sorted(order) == list(range(5))
    counts = dict.fromkeys(combinations(range(5), 3), 0)
    for batch in batches:
        counts[tuple(sorted(batch.tolist()))] += 1
    # Ten subsets, 3000 each but for five standard errors.
    assert max(abs(count - 3000) for count in counts.values()) < 5 * (3000 * 0.9) ** 0.5
    first = np.bincount(batches[:, 0], minlength=5)
    assert abs(first - 6000).max() < 5 * (6000 * 0.8) ** 0.5


def test_with_replacement_components_repeat():
    problem = Plain(make(LeastSquares))
    sgd(problem, X0, step=0.01, n_steps=200, batch_size=6, replace=True, rng=0)
    drawn = np.array([batch for batch in problem.asked if batch is not None])
    assert any(len(set(batch)) < 6 for batch in drawn.tolist())
    # Each component 1/12 of 1200 draws, but for five standard errors.
    assert abs(np.bincount(drawn.ravel(), minlength=12) - 100).max() < 50


def test_the_whole_sum_needs_no_random_numbers():
    problem = make(Logistic)
    runs = [sgd(problem, X0, step=1.0, n_steps=20, batch_size=12, rng=seed) for seed in (0, 1)]
    assert (runs[0].x == runs[1].x).all()
    x = X0
    for _ in range(20):
        x = x - problem.gradient(x)
    np.testing.assert_allclose(runs[0].x, x, rtol=1e-13)
    assert runs[0].n_grad == 240


def test_results_do_not_depend_on_how_a_run_is_watched():
    problem, seen = make(LeastSquares), []
    for method, options in (
        (sgd, {"step": 0.05, "batch_size": 4}),
        (stochastic_polyak, {"f_star": 0.0}),
        (stochastic_proximal_point, {"step": 0.3}),
    ):
        quiet = method(problem, X0, n_steps=50, rng=7, average="uniform", **options)
        watched = method(
            problem, X0, n_steps=50, rng=7, average="uniform", callback=seen.append, **options
        )
        assert (quiet.x == watched.x).all()
        np.testing.assert_allclose(quiet.x_average, watched.x_average, rtol=1e-14)
        assert [state.nit for state in seen[-50:]] == list(range(1, 51))
        assert quiet.history == {}
    assert sgd(problem, X0, step=0.05, n_steps=5, rng=7).x_average is None


def test_a_callback_can_stop_a_run():
    def stop(state):
        if state.nit == 7:
            raise StopIteration

    run = sgd(make(LeastSquares), X0, step=0.01, n_steps=50, rng=0, callback=stop, record=True)
    assert (run.nit, run.success, len(run.history["x"])) == (7, False, 8)
    assert "stopped by callback" in run.message


@pytest.mark.parametrize("wrap", [lambda problem: problem, Plain])
def test_a_diverging_run_stops_at_its_last_finite_point(wrap):
    run = sgd(wrap(make(LeastSquares)), X0, step=1e9, n_steps=500, rng=0, record=True)
    assert not run.success
    assert "left the finite numbers" in run.message
    assert np.isfinite(run.x).all()
    assert 0 < run.nit < 500
    assert len(run.history["x"]) == run.nit + 1
    assert (run.history["x"][-1] == run.x).all()


def test_polyak_and_proximal_steps_land_where_one_component_is_fitted():
    problem = LeastSquares([[1.0, 2.0]], [3.0])
    half = stochastic_polyak(problem, [0.0, 0.0], f_star=0.0, n_steps=1).x
    assert problem.value(half) == pytest.approx(problem.value([0.0, 0.0]) / 4)
    exact = AbsoluteRegression([[1.0, 2.0]], [3.0])
    for run in (
        stochastic_polyak(exact, [0.0, 0.0], f_star=0.0, n_steps=1),
        stochastic_proximal_point(exact, [0.0, 0.0], step=9.0, n_steps=1),
    ):
        np.testing.assert_allclose(run.x, [0.6, 1.2])


def test_running_averages_are_of_the_points_before():
    points = np.random.default_rng(0).normal(size=(2, 6, 3))
    weights = np.array([1.0, 2.0, 0.0, 4.0, 1.0])
    means = running_average(points, weights)
    for t in range(1, 6):
        expected = np.average(points[1, :t], axis=0, weights=weights[:t])
        np.testing.assert_allclose(means[1, t], expected)
    assert (means[:, 0] == points[:, 0]).all()
    np.testing.assert_allclose(running_average(points)[0, 4], points[0, :4].mean(axis=0))
    run = sgd(make(LeastSquares), X0, step=0.1, n_steps=20, rng=0, average="linear", record=True)
    again = running_average(run.history["x"], np.arange(1.0, 21))[-1]
    np.testing.assert_allclose(run.x_average, again, rtol=1e-12)


def test_replicates_are_the_same_on_an_executor():
    def one(rng):
        return sgd(make(LeastSquares), X0, step=0.1, n_steps=30, rng=rng).x

    alone = replicate(one, 5, rng=3)
    with ThreadPoolExecutor(2) as executor:
        assert (alone == replicate(one, 5, rng=3, executor=executor)).all()
    assert len(np.unique(alone[:, 0])) == 5


LS = make(LeastSquares)
GOOD = {"step": 0.1, "n_steps": 3}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sgd(LS, [1.0], **GOOD), ValueError, r"x0 must have shape \(3\)"),
        (lambda: sgd(LS, X0, step=0.0, n_steps=3), ValueError, "step must be .* > 0"),
        (lambda: sgd(LS, X0, step=[0.1, -0.1, 1], n_steps=3), ValueError, "step must be .* > 0"),
        (lambda: sgd(LS, X0, step=[0.1], n_steps=3), ValueError, r"step must have shape \(3\)"),
        (lambda: sgd(LS, X0, step=lambda t: -1.0, n_steps=3), ValueError, "step must be .* > 0"),
        (lambda: sgd(LS, X0, step="a", n_steps=3), TypeError, "step must be"),
        (lambda: sgd(LS, X0, step=0.1, n_steps=-1), ValueError, "n_steps must be"),
        (lambda: sgd(LS, X0, **GOOD, batch_size=13), ValueError, "batch_size must be .* <= 12"),
        (lambda: sgd(LS, X0, **GOOD, batch_size=0), ValueError, "batch_size must be"),
        (lambda: sgd(LS, X0, **GOOD, momentum=-0.1), ValueError, "momentum must be .* >= 0"),
        (lambda: sgd(LS, X0, **GOOD, momentum="heavy"), ValueError, "momentum must be one of"),
        (lambda: sgd(LS, X0, **GOOD, average="all"), ValueError, "average must be one of"),
        (lambda: sgd(LS, X0, **GOOD, average=[1, -1, 1]), ValueError, "average must hold"),
        (lambda: sgd(LS, X0, **GOOD, projection=abs, prox=max), ValueError, "together"),
        (lambda: sgd(LS, X0, **GOOD, momentum="ima", prox=max), ValueError, "'ima' must not"),
        (lambda: sgd(LS, X0, **GOOD, projection=lambda v: v[:2]), ValueError, "keep the shape"),
        (lambda: sgd(object(), X0, **GOOD), TypeError, "problem must have n, dim"),
        (lambda: stochastic_polyak(LS, X0, f_star=[0.0], n_steps=3), ValueError, "f_star must"),
        (lambda: stochastic_polyak(LS, X0, f_star=np.nan, n_steps=3), ValueError, "f_star must"),
        (lambda: stochastic_polyak(LS, X0, f_star=0.0, n_steps=3, gamma_max=0), ValueError,
         "gamma_max must be > 0"),
        (lambda: stochastic_polyak(LS, X0, f_star=0.0, n_steps=3, average="step"), ValueError,
         "average must be one of 'uniform', 'linear'"),
        (lambda: stochastic_proximal_point(LS, X0, step=-1.0, n_steps=3), ValueError, "step must"),
        (lambda: running_average([1.0]), ValueError, "points must have shape"),
        (lambda: running_average(np.ones((3, 1)), [0.0, 1.0]), ValueError, "weights must be"),
        (lambda: replicate(abs, 0), ValueError, "n_replicates must be"),
    ],
)  # fmt: skip
def test_malformed_arguments_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
