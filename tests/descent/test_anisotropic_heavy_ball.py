"""Stochastic heavy ball with step decay: its recursion, its schedule and the size of its noise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.descent import (
    FiniteSum,
    LeastSquares,
    Logistic,
    empirical_noise,
    expected_risk,
    sgd,
    step_decay,
    stochastic_heavy_ball,
)
from thalweg.descent.anisotropic_heavy_ball import momentum_of


def regression(n=30, dim=4, seed=0, noise=0.5, l2=0.0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, dim)) * np.linspace(1.0, 0.3, dim)
    return LeastSquares(rows, rows @ np.ones(dim) + noise * rng.normal(size=n), l2=l2)


def curvatures(problem):
    known = problem.curvature()
    return {"L": known["L"], "mu": known["mu"]}


class Quadratic(FiniteSum):
    """One component, x'Hx / 2 with H diagonal."""

    n = 1

    def __init__(self, eigenvalues):
        self.eigenvalues = np.asarray(eigenvalues, dtype=float)
        self.dim = len(self.eigenvalues)

    def component_values(self, x, idx=None):
        return np.array([0.5 * np.sum(self.eigenvalues * x**2)])

    def component_gradients(self, x, idx=None):
        return (self.eigenvalues * x)[None]


class Opaque(FiniteSum):
    """Least squares without its structure, so that the run goes through Python."""

    def __init__(self, problem):
        self.problem, self.n, self.dim = problem, problem.n, problem.dim

    def component_values(self, x, idx=None):
        return self.problem.component_values(x, idx)

    def component_gradients(self, x, idx=None):
        return self.problem.component_gradients(x, idx)


@pytest.mark.parametrize("wrap", [lambda problem: problem, Opaque], ids=["compiled", "python"])
@pytest.mark.parametrize("replace", [True, False])
def test_iterates_follow_the_displacement_recursion(wrap, replace):
    problem = regression()
    drawn = []

    class Watched(Opaque):
        def gradient(self, x, idx=None):
            drawn.append(np.array(idx))
            return super().gradient(x, idx)

    options = {
        **curvatures(problem), "n_steps": 40, "batch_size": 3, "replace": replace, "record": True,
    }  # fmt: skip
    stochastic_heavy_ball(Watched(problem), np.zeros(4), rng=7, **options)
    result = stochastic_heavy_ball(wrap(problem), np.zeros(4), rng=7, **options)
    L, mu = options["L"], options["mu"]
    beta = (1 - math.sqrt(mu / L)) ** 2
    assert result.momentum == pytest.approx(beta)
    stages = round(math.log(40 * math.sqrt(L / mu), 4))
    w = before = np.zeros(4)
    for t, batch in enumerate(drawn):
        eta = 4.0 ** -min(t // (40 // stages), stages - 1) / L
        assert result.steps[t] == pytest.approx(eta)
        g = np.mean(problem.component_gradients(w, batch), axis=0)
        w, before = w - eta * g + beta * (w - before), w
        np.testing.assert_allclose(result.history["x"][t + 1], w, rtol=1e-10, atol=1e-12)
    assert result.success
    assert (result.nit, result.n_grad) == (40, 120)
    assert result.fun == pytest.approx(problem.value(w))
    assert all(len(np.unique(batch)) == 3 for batch in drawn) is (not replace)


def test_without_noise_a_run_is_the_path_of_the_bias():
    lam, start = np.array([2.0, 0.3, 0.05]), np.array([1.0, -2.0, 3.0])
    result = stochastic_heavy_ball(
        Quadratic(lam), start, n_steps=120, L=2.0, mu=0.05, record=True
    )  # fmt: skip
    bias, variance = expected_risk(
        lam, start, result.steps, momentum=result.momentum, noise=0.0, full=True
    )
    risks = 0.5 * np.sum(lam * result.history["x"] ** 2, axis=1)
    np.testing.assert_allclose(risks, bias, rtol=1e-10)
    assert not variance.any()


def test_momentum_zero_is_sgd_with_stages_of_its_own():
    problem = regression()
    options = {**curvatures(problem), "n_steps": 100, "rng": 3}
    result = stochastic_heavy_ball(problem, np.zeros(4), momentum=0.0, **options)
    steps = step_decay(100, L=options["L"], kappa=1.0)
    np.testing.assert_array_equal(result.steps, steps)
    plain = sgd(problem, np.zeros(4), step=steps, n_steps=100, replace=True, rng=3)
    np.testing.assert_allclose(result.x, plain.x, rtol=1e-12)


def test_at_a_constant_step_it_is_the_momentum_of_sgd():
    problem = regression()
    options = {"n_steps": 60, "momentum": 0.7, "rng": 5, "batch_size": 2}
    ours = stochastic_heavy_ball(
        problem, np.zeros(4), steps=np.full(60, 0.1), **curvatures(problem), **options
    )
    theirs = sgd(problem, np.zeros(4), step=0.1, replace=True, **options)
    np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-12)
    falling = np.repeat([0.1, 0.025], 30)
    ours = stochastic_heavy_ball(
        problem, np.zeros(4), steps=falling, **curvatures(problem), **options
    )
    theirs = sgd(problem, np.zeros(4), step=falling, replace=True, **options)
    assert np.linalg.norm(ours.x - theirs.x) > 1e-3 * np.linalg.norm(ours.x)


def test_the_whole_sum_as_batch_finds_the_minimiser():
    problem = regression(l2=0.01)
    result = stochastic_heavy_ball(
        problem, np.zeros(4), n_steps=400, batch_size=30, replace=False, **curvatures(problem)
    )
    np.testing.assert_allclose(result.x, problem.minimiser(np.zeros(4)), atol=1e-7)


def test_the_callback_sees_each_step_and_ends_the_run():
    seen = []

    def stop(state):
        seen.append(state.nit)
        if state.nit == 5:
            raise StopIteration

    problem = regression()
    result = stochastic_heavy_ball(
        problem, np.zeros(4), n_steps=50, rng=0, callback=stop, **curvatures(problem)
    )
    assert seen == [1, 2, 3, 4, 5]
    assert not result.success
    assert result.nit == 5


def test_a_run_that_leaves_the_numbers_ends_with_a_message():
    problem = Quadratic([1.0])
    with pytest.warns(RuntimeWarning, match=r"steps\[0\] = 1e\+200 .* spectral radius"):
        result = stochastic_heavy_ball(
            problem, [1.0], n_steps=9, L=1.0, mu=0.5, steps=np.full(9, 1e200)
        )
    assert not result.success
    assert "finite" in result.message
    assert np.isfinite(result.x).all()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"n_steps": 0}, "n_steps"),
        ({"n_steps": 2}, "n_steps must be >= n_stages"),
        ({"L": 0.0}, "L must"),
        ({"mu": 0.0}, "mu must"),
        ({"mu": 3.0}, "mu must be <= L"),
        ({"factor": 1.0}, "factor"),
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": -0.1}, "momentum"),
        ({"steps": [0.1, 0.1]}, "steps"),
        ({"steps": np.zeros(50)}, "steps"),
        ({"batch_size": 31}, "batch_size"),
        ({"x0": [1.0]}, "x0"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, name):
    options = {"x0": np.zeros(4), "n_steps": 50, "L": 1.0, "mu": 0.001} | changes
    with pytest.raises(ValueError, match=name):
        stochastic_heavy_ball(regression(), options.pop("x0"), **options)


def test_a_problem_without_gradients_is_refused():
    with pytest.raises(TypeError, match="problem must have"):
        stochastic_heavy_ball(object(), [1.0], n_steps=5, L=1.0, mu=1.0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5000),
    st.floats(1.0, 1e6),
    st.floats(1.05, 50.0),
    st.one_of(st.none(), st.integers(1, 12)),
    st.booleans(),
)
def test_stages_share_the_steps_and_fall_by_the_factor(T, kappa, factor, n_stages, momentum):
    expected = n_stages
    if expected is None:
        reach = T * math.sqrt(kappa) if momentum else T
        expected = max(1, round(math.log(reach) / math.log(factor)))
    options = {"L": 3.0, "kappa": kappa, "factor": factor, "n_stages": n_stages}
    if expected > T:
        with pytest.raises(ValueError, match="n_steps must be >= n_stages"):
            step_decay(T, momentum=momentum, **options)
        return
    steps = step_decay(T, momentum=momentum, **options)
    values, counts = np.unique(-steps, return_counts=True)
    assert len(steps) == T == counts.sum()
    assert len(values) == expected
    assert steps[0] == pytest.approx(1 / 3.0)
    assert (np.diff(steps) <= 0).all()
    np.testing.assert_allclose(values[:-1] / values[1:], factor)
    assert (counts[:-1] == T // expected).all()
    assert T // expected <= counts[-1] < T // expected + expected


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"L": -1.0}, "L must"),
        ({"kappa": 0.5}, "kappa"),
        ({"factor": 0.9}, "factor"),
        ({"n_stages": 0}, "n_stages"),
        ({"n_stages": 11}, "n_steps must be >= n_stages = 11"),
    ],
)
def test_bad_schedules_are_refused_by_name(changes, name):
    with pytest.raises(ValueError, match=name):
        step_decay(10, **{"L": 1.0, "kappa": 10.0, **changes})


def test_momentum_is_that_of_the_paper():
    assert momentum_of(1.0) == 0.0
    assert momentum_of(100.0) == pytest.approx(0.81)


@pytest.mark.parametrize("make", [
    lambda rows, y: LeastSquares(rows, y, l2=0.1),
    lambda rows, y: Logistic(rows, np.sign(y), l2=0.1),
], ids=["least squares", "logistic"])  # fmt: skip
def test_noise_is_the_least_multiple_of_the_hessian_above_the_covariance(make):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(25, 3))
    problem, w = make(rows, rng.normal(size=25)), rng.normal(size=3)
    sigma2 = empirical_noise(problem, w, batch_size=4)
    covariance = np.cov(problem.component_gradients(w).T, bias=True) / 4
    step = 1e-5 * np.eye(3)
    hessian = np.array([problem.gradient(w + e) - problem.gradient(w - e) for e in step]) / 2e-5
    room = np.linalg.eigvalsh(sigma2 * hessian - covariance)
    assert room[0] == pytest.approx(0.0, abs=1e-8)
    assert room[-1] > 1e-3


def test_the_covariance_of_batches_is_that_of_many_drawn_ones():
    problem, w = regression(n=9), np.full(4, 0.3)
    rng = np.random.default_rng(1)
    hessian = problem.rows.T @ problem.rows / 9
    for replace in (True, False):
        means = [
            problem.gradient(w, rng.choice(9, size=4, replace=replace)) for _ in range(8000)
        ]  # fmt: skip
        expected = np.linalg.eigvals(np.linalg.solve(hessian, np.cov(np.array(means).T))).real.max()
        found = empirical_noise(problem, w, batch_size=4, replace=replace)
        assert found == pytest.approx(expected, rel=0.06)
    assert empirical_noise(problem, w, batch_size=9, replace=False) == 0.0
    assert empirical_noise(LeastSquares([[1.0]], [2.0]), [0.0], replace=False) == 0.0


def test_directions_without_curvature_must_be_without_noise():
    flat = LeastSquares([[1.0, 1.0], [2.0, 2.0]], [1.0, 0.0])
    single = LeastSquares([[math.sqrt(2)], [math.sqrt(8)]], [1.0, 0.0])
    assert empirical_noise(flat, [0.5, 0.5]) == pytest.approx(
        empirical_noise(single, [math.sqrt(0.5)])
    )

    class Bent(LeastSquares):
        def hessp(self, x, v, idx=None):
            return np.array([v[0], self.second * v[1]])

    bent = Bent([[1.0, 0.0], [0.0, 1.0]], [1.0, 2.0])
    for second in (0.0, -1.0):
        bent.second = second
        assert empirical_noise(bent, [0.0, 0.0]) == math.inf
    bent = Bent([[1.0, 0.0], [2.0, 0.0]], [1.0, 2.5])
    bent.second = 0.0
    assert 0 < empirical_noise(bent, [0.0, 0.0]) < math.inf
    bent.second = -1.0
    assert empirical_noise(bent, [0.0, 0.0]) == math.inf


def test_noise_needs_a_hessian_and_a_batch_that_exists():
    with pytest.raises(TypeError, match="problem must have hessp"):
        empirical_noise(Quadratic([1.0]), [1.0])
    with pytest.raises(ValueError, match="batch_size"):
        empirical_noise(regression(), np.zeros(4), batch_size=31)
    with pytest.raises(ValueError, match="w must have shape"):
        empirical_noise(regression(), np.zeros(3))
