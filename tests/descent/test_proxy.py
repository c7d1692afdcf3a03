"""Proximal points on a proxy: the step, special cases, inequalities, SciPy's conventions."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, rosen, rosen_der

from thalweg.descent import (
    LeastSquares,
    Logistic,
    proxy_prox,
    proxy_prox_bound,
    proxy_prox_minimize,
    sgd,
)
from thalweg.descent._proxy_inner import Proxy, Subproblem, proximal_point

from ._battery import logistic, quadratic, smooth_problems

N = 8


def pair(seed=0, change=0.3):
    """Least squares on two data sets alike, their Hessians and a start."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(30, N))
    B, b = A + change * rng.normal(size=A.shape), rng.normal(size=30)
    f, proxy = LeastSquares(A, b), LeastSquares(B, b)
    return f, proxy, A.T @ A / 30, B.T @ B / 30, rng.normal(size=N)


def exact(f):
    return lambda x, rng: f.gradient(x)


def logistic_pair(n=60, m=30, dim=5, l2=0.01):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(n, dim))
    y = np.where(X[:, 0] + 0.5 * rng.normal(size=n) > 0, 1.0, -1.0)
    return Logistic(X, y, l2=l2), Logistic(X[:m], y[:m], l2=l2)


def smoothness(f, proxy, points):
    """Largest norm of the difference of two Hessians, column by column."""
    identity = np.eye(f.dim)
    return max(
        np.linalg.norm([f.hessp(x, e) - proxy.hessp(x, e) for e in identity], 2) for x in points
    )


SOLVERS = {
    "lbfgs": {},
    "newton-cg": {},
    "nesterov": {"inner_maxiter": 300},
    "sgd": {"inner_maxiter": 150},
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("eta", [0.1, 2.0])
def test_every_solver_takes_the_exact_step_of_a_quadratic(solver, eta):
    f, proxy, _, curvature, x = pair()
    step = np.linalg.solve(curvature + np.eye(N) / eta, f.gradient(x))
    result = proxy_prox(
        exact(f), proxy, x, eta=eta, n_steps=1, theta=0, solver=solver, rng=0, **SOLVERS[solver]
    )
    assert result.success
    np.testing.assert_allclose(result.x, x - step, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("solver", "eta", "most"),
    [("newton-cg", 0.05, 10), ("newton-cg", 5.0, 12), ("nesterov", 0.05, 8), ("nesterov", 5.0, 50)],
)
def test_solvers_know_the_curvature_of_the_whole_model(solver, eta, most):
    """Without that of the proximal term Newton-CG takes 54 and 15, without its mu Nesterov's 78."""
    f, proxy, *_, x = pair()
    result = proxy_prox(exact(f), proxy, x, eta=eta, n_steps=1, theta=1e-6, solver=solver)
    assert result.n_inexact == 0
    assert result.n_proxy <= most


def test_a_closed_form_can_be_the_solver_and_gets_point_shift_and_step():
    f, proxy, _, curvature, x = pair()
    seen = []

    def solver(point, shift, eta):
        seen.append((point, shift, eta))
        return np.linalg.solve(
            curvature + np.eye(N) / eta, point / eta - shift - proxy.gradient(np.zeros(N))
        )

    result = proxy_prox(exact(f), proxy, x, eta=0.5, n_steps=3, solver=solver, record=True)
    for t, (point, shift, eta) in enumerate(seen):
        np.testing.assert_array_equal(point, result.history["x"][t])
        np.testing.assert_allclose(shift, f.gradient(point) - proxy.gradient(point), atol=1e-14)
        assert eta == 0.5
        step = np.linalg.solve(curvature + 2 * np.eye(N), f.gradient(point))
        np.testing.assert_allclose(result.history["x"][t + 1], point - step, atol=1e-12)
    assert result.n_inexact == 0
    assert result.history["inner_residual"].max() < 1e-12


def test_the_step_is_the_proximal_point_of_the_proxy_after_a_step_on_the_difference():
    f, proxy = logistic_pair()
    x, eta = np.ones(f.dim), 1.5
    ahead = x - eta * (f.gradient(x) - proxy.gradient(x))
    z = ahead.copy()
    identity = np.eye(f.dim)
    for _ in range(50):
        hessian = np.array([proxy.hessp(z, e) for e in identity]) + identity / eta
        z = z - np.linalg.solve(hessian, proxy.gradient(z) + (z - ahead) / eta)
    result = proxy_prox(exact(f), proxy, x, eta=eta, n_steps=1, theta=0)
    np.testing.assert_allclose(result.x, z, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(N,), (2, N // 2)])
def test_without_a_proxy_it_is_sgd(shape):
    f, *_, x = pair()
    order = np.random.default_rng(5).integers(f.n, size=40)

    def gradients():
        batches = iter(order)
        return lambda x, rng: f.gradient(x.ravel(), [next(batches)]).reshape(x.shape)

    ours = proxy_prox(
        gradients(), lambda x: 0.0, x.reshape(shape), proxy_jac=np.zeros_like, eta=0.05, n_steps=40
    )
    plain = x.copy()
    for i in order:
        plain = plain - 0.05 * f.gradient(plain, [i])
    assert ours.x.shape == shape
    np.testing.assert_allclose(ours.x.ravel(), plain, rtol=0, atol=1e-12)


def test_without_a_proxy_exact_gradients_give_gradient_descent():
    f, *_, x = pair()
    ours = proxy_prox(
        exact(f), lambda x: 0.0, x, proxy_jac=np.zeros_like, eta=0.2, n_steps=30, record=True
    )
    plain = sgd(f, x, step=0.2, n_steps=30, batch_size=f.n, record=True)
    np.testing.assert_allclose(ours.history["x"], plain.history["x"], rtol=0, atol=1e-12)


def test_a_perfect_proxy_and_a_long_step_reach_the_minimiser_at_once():
    f, *_, x = pair()
    star = f.minimiser(x)
    result = proxy_prox(exact(f), f, x, eta=1e10, n_steps=1, theta=0)
    np.testing.assert_allclose(result.x, star, rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg"])
def test_the_minimiser_of_f_is_a_fixed_point_whatever_the_proxy_is(solver):
    f, proxy, *_, x = pair()
    star = f.minimiser(x)
    assert np.linalg.norm(proxy.gradient(star)) > 0.01
    result = proxy_prox(exact(f), proxy, star, eta=1.0, n_steps=2, solver=solver)
    np.testing.assert_allclose(result.x, star, rtol=0, atol=1e-13)
    still = proxy_prox(lambda x, rng: np.zeros(N), proxy, x, eta=1.0, n_steps=2, solver=solver)
    np.testing.assert_array_equal(still.x, x)
    assert still.success
    assert still.n_inexact == 0


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("theta", [0.0, 0.5, 0.9])
def test_steps_descend_and_gradients_obey_the_derived_inequalities(solver, theta):
    f, proxy = logistic_pair()
    x0 = np.zeros(f.dim)
    options = {**SOLVERS[solver], "theta": theta, "solver": solver}
    if solver == "sgd":
        options["inner_maxiter"] = 50
    delta = 1.2 * smoothness(f, proxy, [x0])
    eta = 1 / (2 * delta)
    result = proxy_prox(
        exact(f), proxy, x0, delta=delta, n_steps=8, record=True, fun=f.value, rng=0, **options
    )
    x, residual = result.history["x"], result.history["inner_residual"]
    assert smoothness(f, proxy, np.vstack([x, (x[1:] + x[:-1]) / 2])) <= delta
    moves = np.linalg.norm(np.diff(x, axis=0), axis=1)
    slopes = np.linalg.norm([f.gradient(point) for point in x[1:]], axis=1)
    assert (residual <= theta * moves / eta + 1e-9).all()
    fall = (1 / eta - delta) * moves**2 / 2
    assert (np.diff(result.history["fun"]) <= -fall + 1e-14).all()
    assert (slopes <= (delta + (1 + theta) / eta) * moves + 1e-9).all()
    assert (slopes <= result.history["certificate"] * (1 + 1e-12)).all()
    gap = f.value(x0) - f.value(f.minimiser(x0))
    assert np.mean(slopes**2) <= proxy_prox_bound(8, gap=gap, delta=delta, theta=theta)
    # phi_t itself, from its definition, ends where it says
    for t in range(8):
        shift = f.gradient(x[t]) - proxy.gradient(x[t])
        gradient = proxy.gradient(x[t + 1]) + shift + (x[t + 1] - x[t]) / eta
        assert np.linalg.norm(gradient) == pytest.approx(residual[t], rel=1e-6, abs=1e-12)


def test_a_step_beyond_the_limit_breaks_the_bound():
    f, proxy = quadratic(N, 10.0), lambda x: 0.0
    gap = f.fun(f.x0) - f.minimum
    runs = {}
    for eta in (0.5, 2.1):
        result = proxy_prox(
            lambda x, rng: f.jac(x), proxy, f.x0, proxy_jac=np.zeros_like, eta=eta, n_steps=60,
            record=True,
        )  # fmt: skip
        slopes = [f.jac(x) for x in result.history["x"][1:]]
        runs[eta] = np.mean(np.sum(np.square(slopes), axis=1))
    bound = proxy_prox_bound(60, gap=gap, delta=1.0)
    assert runs[0.5] <= bound < runs[2.1]


@given(st.floats(0.05, 20), st.floats(0, 0.95), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_an_inner_solution_lies_below_the_start_within_its_accuracy(eta, theta, seed):
    rng = np.random.default_rng(seed)
    f, proxy = logistic_pair()
    x = rng.normal(size=f.dim)
    cheap = Proxy(proxy, None, x.shape)
    sub = Subproblem(cheap, x, f.gradient(x), eta, theta, 0.0)
    inner = proximal_point(sub, "lbfgs", 500, rng)
    shift = f.gradient(x) - proxy.gradient(x)

    def phi(y):
        return proxy.value(y) + shift @ y + np.sum((y - x) ** 2) / (2 * eta)

    assert phi(inner.y) <= phi(x) + 1e-12
    assert inner.met or inner.residual < 1e-8
    if inner.met:
        assert inner.residual <= theta * np.linalg.norm(inner.y - x) / eta + 1e-15


def test_what_is_counted_is_what_was_asked():
    f, proxy, *_, x = pair()
    calls = {"target": 0, "proxy": 0}

    def gradient(x, rng):
        calls["target"] += 1
        return f.gradient(x)

    def both(x):
        calls["proxy"] += 1
        return proxy.value(x), proxy.gradient(x)

    result = proxy_prox(gradient, both, x, proxy_jac=True, eta=0.5, n_steps=7, record=True)
    assert result.n_target == calls["target"] == 7
    assert result.n_proxy == calls["proxy"] == result.history["n_proxy"].sum()
    assert result.history["x"].shape == (8, N)
    calls.update(target=0, proxy=0)
    again = proxy_prox_minimize(
        f.value, x, jac=lambda x: gradient(x, None), proxy_fun=both, proxy_jac=True, eta=0.5,
        maxiter=5, gtol=0,
    )  # fmt: skip
    assert again.n_target == again.njev == calls["target"] == 6
    assert again.n_proxy == calls["proxy"]


def test_work_on_components_is_counted_in_gradients():
    f, proxy, *_, x = pair()
    asked = []

    class Watched(LeastSquares):
        def gradient(self, x, idx=None):
            asked.append(self.n if idx is None else len(idx))
            return super().gradient(x, idx)

    watched = Watched(proxy.rows, proxy.targets)
    result = proxy_prox(exact(f), watched, x, eta=0.5, n_steps=3, solver="sgd", rng=0, theta=0.3)
    assert result.n_proxy == -(-sum(asked) // proxy.n)


def test_an_executor_changes_nothing():
    f, proxy, *_, x = pair()
    alone = proxy_prox(exact(f), proxy, x, eta=0.5, n_steps=4)
    with ThreadPoolExecutor(2) as executor:
        spread = proxy_prox(exact(f), proxy, x, eta=0.5, n_steps=4, executor=executor)
    np.testing.assert_allclose(spread.x, alone.x, rtol=0, atol=1e-10)


def test_noise_comes_from_the_generator_alone():
    f, proxy, *_, x = pair()

    def noisy(x, rng):
        return f.gradient(x) + rng.normal(size=N)

    first, second = (proxy_prox(noisy, proxy, x, eta=0.1, n_steps=9, rng=3) for _ in range(2))
    np.testing.assert_array_equal(first.x, second.x)
    drawn = proxy_prox(noisy, proxy, x, eta=0.1, n_steps=9, rng=3, output="random", record=True)
    np.testing.assert_array_equal(drawn.history["x"][-1], first.x)


def test_the_point_that_is_returned():
    f, proxy, *_, x = pair()
    options = {"eta": 0.4, "n_steps": 6, "record": True, "fun": f.value}
    last = proxy_prox(exact(f), proxy, x, **options)
    points = last.history["x"]
    np.testing.assert_array_equal(last.x, points[-1])
    drawn = []
    for seed in range(60):
        result = proxy_prox(exact(f), proxy, x, output="random", rng=seed, **options)
        (index,) = np.flatnonzero((points == result.x).all(axis=1))
        assert result.fun == f.value(result.x)
        assert result.certificate == result.history["certificate"][index - 1]
        drawn.append(index)
    assert set(drawn) == set(range(1, 7))
    pushes = iter([1.0, 1.0, 30.0, 1.0])

    def uneven(x, rng):
        return f.gradient(x) * next(pushes)

    best = proxy_prox(uneven, proxy, x, eta=0.4, n_steps=4, record=True, output="best")
    index = int(np.argmin(best.history["certificate"]))
    np.testing.assert_array_equal(best.x, best.history["x"][index + 1])
    assert best.certificate == best.history["certificate"].min()
    assert index != 3


def test_delta_sets_the_step_and_is_estimated_where_it_is_not_known():
    f, proxy, A, B, x = pair(change=0.2)
    delta = np.linalg.norm(A - B, 2)
    assert proxy_prox(exact(f), proxy, x, delta=delta, n_steps=1).eta == 1 / (2 * delta)
    assert proxy_prox(exact(f), proxy, x, delta=delta, eta=0.3, n_steps=1).eta == 0.3
    star = f.minimiser(x)
    for start in (None, 1 / (2 * delta * 1e3), 1e3 / (2 * delta)):
        found = proxy_prox(
            exact(f), proxy, x, delta="estimate", eta=start, n_steps=150, record=True
        )
        assert found.success
        assert np.linalg.norm(found.x - star) < 1e-6
        if start is None:
            assert (found.history["delta"] <= 2 * delta).all()
        assert found.history["delta"][-1] <= 2 * delta
        np.testing.assert_allclose(found.history["eta"], 1 / (2 * found.history["delta"]))
        moves = np.diff(found.history["x"][:30], axis=0)
        bends = np.abs(np.einsum("ti,ij,tj->t", moves, A - B, moves))
        assert (bends <= found.history["delta"][:29] * np.sum(moves**2, axis=1) * 1.001).all()
    cautious = proxy_prox(exact(f), proxy, x, delta="estimate", eta=1e-4, n_steps=3, record=True)
    np.testing.assert_allclose(cautious.history["delta"], 5e3 * 0.9 ** np.arange(3))
    assert cautious.n_target == 4


def test_a_proxy_that_is_not_convex_still_lets_f_fall():
    x0 = np.array([-1.2, 1.0, -0.5])

    def proxy(x):
        return 1.05 * rosen(x) + 0.1 * np.sin(x).sum()

    def proxy_jac(x):
        return 1.05 * rosen_der(x) + 0.1 * np.cos(x)

    result = proxy_prox_minimize(
        rosen, x0, jac=rosen_der, proxy_fun=proxy, proxy_jac=proxy_jac, eta=0.02, maxiter=300,
        record=True,
    )  # fmt: skip
    assert (np.diff(result.history["fun"]) <= 1e-13).all()
    assert np.abs(result.jac).max() < 0.1 < 200 < np.abs(rosen_der(x0)).max()
    assert (result.nit, result.n_inexact) == (300, 0)


@pytest.mark.parametrize("problem", smooth_problems(), ids=lambda problem: problem.name)
def test_scipy_solves_smooth_problems_by_it(problem):
    tilt = np.random.default_rng(0).normal(size=problem.x0.size)

    def proxy(x):
        return 0.9 * problem.fun(x) + 0.1 * tilt @ x

    peer = minimize(
        problem.fun, problem.x0, jac=problem.jac, method="L-BFGS-B", options={"gtol": 1e-10}
    )
    result = minimize(
        problem.fun, problem.x0, jac=problem.jac, method=proxy_prox_minimize,
        options={
            "proxy_fun": proxy, "proxy_jac": lambda x: 0.9 * problem.jac(x) + 0.1 * tilt,
            "delta": 0.1 * problem.L,
        },
    )  # fmt: skip
    assert result.success
    assert np.abs(result.jac).max() <= 1e-8
    np.testing.assert_allclose(result.jac, problem.jac(result.x), atol=1e-15)
    assert result.fun <= peer.fun + 1e-10
    distance = np.linalg.norm(result.x - problem.solution)
    assert distance <= 1e-8 * np.sqrt(len(problem.x0)) / problem.mu


def test_scipys_conventions():
    problem = logistic()
    options = {"proxy_fun": problem.fun, "proxy_jac": problem.jac, "eta": 5.0}
    seen = []

    def callback(intermediate_result):
        seen.append(intermediate_result.fun)
        if len(seen) == 2:
            raise StopIteration

    stopped = proxy_prox_minimize(
        problem.fun, problem.x0, jac=problem.jac, callback=callback, gtol=0, **options
    )
    assert (stopped.nit, stopped.status, stopped.success) == (2, 99, False)
    assert seen[1] == stopped.fun < seen[0]
    shifted = proxy_prox_minimize(
        lambda x, s: problem.fun(x - s), problem.x0, (1.0,), jac=lambda x, s: problem.jac(x - s),
        **options,
    )  # fmt: skip
    np.testing.assert_allclose(shifted.x, problem.solution + 1, atol=1e-6)
    short = proxy_prox_minimize(problem.fun, problem.x0, jac=problem.jac, maxiter=1, **options)
    assert (short.success, short.status, short.nit) == (False, 1, 1)
    assert "gtol" in short.message
    with pytest.raises(ValueError, match="bounds must be left out"):
        proxy_prox_minimize(problem.fun, problem.x0, jac=problem.jac, bounds=[(0, 1)], **options)


def test_no_step_is_taken_where_none_is_asked_for():
    f, proxy, *_, x = pair()
    result = proxy_prox(exact(f), proxy, x, eta=1.0, n_steps=0, output="best", record=True)
    np.testing.assert_array_equal(result.x, x)
    assert (result.nit, result.n_target, result.success) == (0, 0, True)
    assert result.history["x"].shape == (1, N)
    assert result.history["inner_residual"].shape == (0,)
    assert np.isnan(result.fun)


def test_a_solver_that_does_not_decrease_the_model_ends_the_run():
    f, proxy, *_, x = pair()
    for wrong in (lambda x, shift, eta: x + 1e3, lambda x, shift, eta: x):
        result = proxy_prox(exact(f), proxy, x, eta=1.0, n_steps=5, solver=wrong)
        assert not result.success
        assert "inner solver" in result.message
        np.testing.assert_array_equal(result.x, x)
        assert result.nit == 0


def test_values_that_are_not_finite_end_the_run_at_the_last_point():
    f, proxy, *_, x = pair()
    count = iter(range(100))

    def failing(x, rng):
        return f.gradient(x) * (np.nan if next(count) == 3 else 1.0)

    result = proxy_prox(failing, proxy, x, eta=0.5, n_steps=9, record=True, fun=f.value)
    assert (result.success, result.nit) == (False, 3)
    assert "gradient returned a value that is not finite" in result.message
    np.testing.assert_array_equal(result.x, result.history["x"][3])
    assert len(result.history["fun"]) == 4
    assert len(result.history["inner_residual"]) == 3
    lost = proxy_prox(
        exact(f), lambda x: np.inf, x, proxy_jac=np.zeros_like, eta=0.5, n_steps=2, output="best"
    )
    assert not lost.success
    assert "proxy_fun" in lost.message
    np.testing.assert_array_equal(lost.x, x)


def test_a_first_trial_that_overflows_is_shortened():
    def proxy(x):
        return float(np.sum(np.exp(x) - 2 * x))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = proxy_prox(
            lambda x, rng: np.exp(x) - 2, proxy, [-3.0, -1.0], proxy_jac=lambda x: np.exp(x) - 2,
            eta=1e8, n_steps=1, theta=0.0,
        )  # fmt: skip
    assert result.success
    np.testing.assert_allclose(result.x, np.log(2), atol=1e-7)


GOOD = {"eta": 1.0, "n_steps": 3}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"eta": None}, ValueError, "eta or delta must be given"),
        ({"eta": 0.0}, ValueError, "eta must be"),
        ({"eta": "1"}, TypeError, "eta must be"),
        ({"delta": -1.0}, ValueError, "delta must be"),
        ({"delta": "guess"}, ValueError, "delta must be one of 'estimate'"),
        ({"theta": 1.0}, ValueError, "theta must be"),
        ({"theta": -0.1}, ValueError, "theta must be"),
        ({"tol": -1.0}, ValueError, "tol must be"),
        ({"n_steps": -1}, ValueError, "n_steps must be"),
        ({"inner_maxiter": 0}, ValueError, "inner_maxiter must be"),
        ({"output": "first"}, ValueError, "output must be one of"),
        ({"solver": "bfgs"}, ValueError, "solver must be callable or one of 'lbfgs'"),
        ({"proxy_L": 0.0}, ValueError, "proxy_L must be"),
        ({"proxy_jac": np.zeros_like}, ValueError, "proxy_jac must be None"),
        ({"proxy_hessp": 3}, TypeError, "proxy_hessp must be callable"),
        ({"fun": 1.0}, TypeError, "fun must be callable"),
        ({"x0": np.zeros(3)}, ValueError, "proxy_fun must have dim"),
        ({"x0": np.full(N, np.nan)}, ValueError, "x0 must be finite"),
        ({"gradient": None}, TypeError, "gradient must be callable"),
    ],
)
def test_bad_arguments_are_refused_by_name_before_any_work(change, error, message):
    _, proxy, *_, x = pair()

    def untouched(x, rng):
        raise AssertionError

    arguments = {"gradient": untouched, "proxy_fun": proxy, "x0": x, **GOOD, **change}
    with pytest.raises(error, match=message):
        proxy_prox(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"proxy_jac": None}, TypeError, "proxy_jac must be callable or True"),
        ({"proxy_fun": None}, TypeError, "proxy_fun must be callable"),
        ({"proxy_fun": lambda x: x}, ValueError, "proxy_fun must return a real number"),
        ({"proxy_jac": True}, ValueError, "must return .value, gradient."),
        ({"proxy_jac": lambda x: x[:2]}, ValueError, "proxy_jac must return shape"),
        ({"solver": "newton-cg"}, ValueError, "proxy_hessp must be given"),
        ({"solver": "nesterov"}, ValueError, "proxy_L must be given"),
        ({"solver": "sgd"}, TypeError, "proxy_fun must be a FiniteSum"),
        ({"solver": lambda x, s, eta: x[:1]}, ValueError, "solver must return shape"),
        (
            {"solver": "newton-cg", "proxy_hessp": lambda x, v: v[:1]},
            ValueError,
            "proxy_hessp must return shape",
        ),
        ({"executor": ThreadPoolExecutor(1)}, ValueError, "executor needs a FiniteSum"),
        ({"gradient": lambda x, rng: x[:3]}, ValueError, "gradient must return shape"),
    ],
)
def test_functions_that_do_not_fit_are_refused_by_name(change, error, message):
    f, proxy, *_, x = pair()
    arguments = {
        "gradient": exact(f), "proxy_fun": proxy.value, "proxy_jac": proxy.gradient, "x0": x,
        **GOOD, **change,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        proxy_prox(**arguments)


def test_the_minimiser_needs_a_step_too():
    problem = logistic()
    with pytest.raises(ValueError, match="eta or delta must be given"):
        proxy_prox_minimize(
            problem.fun, problem.x0, jac=problem.jac, proxy_fun=problem.fun, proxy_jac=problem.jac
        )
