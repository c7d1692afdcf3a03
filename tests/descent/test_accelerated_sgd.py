"""Accelerated stochastic gradients: the scheme of the paper, its variants, and their runs."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.descent import (
    FiniteSum,
    LeastSquares,
    Logistic,
    accelerated_bound,
    armijo_primal_update,
    nesterov,
    stochastic_nesterov,
    strong_growth_constant,
)
from thalweg.descent import _accelerated_sgd_kernels as kernels
from thalweg.descent import _variance_reduction_runs as runs

KINDS = (LeastSquares, Logistic)
VARIANTS = ("semi-stochastic", "stochastic", "momentum")
X0 = np.array([2.0, 0.0, -1.0])
N = 12


def make(kind=LeastSquares, l2=0.2, n=N, seed=0):
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(n, 3)), rng.normal(size=n)
    return kind(A, np.sign(b) if kind is Logistic else b, l2=l2)


def fitted(n=N, seed=0, scales=(1.0, 0.6, 0.4)):
    """Least squares that one point fits, and that point."""
    A = np.random.default_rng(seed).normal(size=(n, 3)) * scales
    star = np.array([1.0, -2.0, 0.5])
    return LeastSquares(A, A @ star), star


class Plain(FiniteSum):
    """Another problem's components, counted, without what makes it a linear model."""

    def __init__(self, problem):
        self.problem, self.n, self.dim = problem, problem.n, problem.dim
        self.count = 0

    def component_values(self, x, idx=None):
        return self.problem.component_values(x, idx)

    def component_gradients(self, x, idx=None):
        self.count += self.n if idx is None else len(np.atleast_1d(idx))
        return self.problem.component_gradients(x, idx)


def by_definition(problem, steps, mu, gamma, batches, variant, growth=1.0):
    """Return all w, all v and the products of 1 - alpha, by the equations as they are printed."""
    w = v = y = X0
    points, duals, product = [X0], [X0], [1.0]
    alphas = []
    for eta in steps:
        reach = eta / growth
        roots = np.roots([1, reach * (gamma - mu), -reach * gamma])
        alphas.append(roots[roots > 0].item())
        gamma = (1 - alphas[-1]) * gamma + alphas[-1] * mu
        product.append(product[-1] * (1 - alphas[-1]))
        if len(alphas) == 1:
            gamma0 = (gamma - alphas[0] * mu) / (1 - alphas[0])
    gamma = gamma0
    for k, (eta, batch) in enumerate(zip(steps, batches, strict=True)):
        a = alphas[k]
        ahead = (1 - a) * gamma + a * mu
        if variant != "momentum":
            y = (a * gamma * v + ahead * w) / (gamma + a * mu)
        g = problem.gradient(y, batch)
        new = y - eta * g
        if variant == "momentum":
            if k + 1 < len(steps):
                share = a * (1 - a) / (a**2 + alphas[k + 1] * eta / steps[k + 1])
                y = new + share * (new - w)
            v = w + (new - w) / a
        else:
            dual = problem.gradient(y) if variant == "semi-stochastic" else g
            v = ((1 - a) * gamma * v + a * mu * y - a * dual) / ahead
        w, gamma = new, ahead
        points.append(w)
        duals.append(v)
    return np.array(points), np.array(duals), np.array(product)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("mu", "gamma0"), [(0.3, None), (0.3, 2.0), (0.3, 0.05), (0.0, None)])
def test_steps_are_those_of_the_definition(variant, mu, gamma0):
    problem, n_steps = make(Logistic), 40
    steps = 0.4 / (1 + 0.1 * np.arange(n_steps))
    batches = (np.random.default_rng(3).random((n_steps, 2)) * N).astype(int)
    growths = (1.0, 3.0) if variant == "stochastic" else (1.0,)
    for growth in growths:
        usual = gamma0 if gamma0 is not None else mu if mu else 1 / steps[0]
        w, v, product = by_definition(problem, steps, mu, usual, batches, variant, growth)
        for wrap in (lambda same: same, Plain):
            run = stochastic_nesterov(
                wrap(problem), X0, step=lambda k: steps[k], n_steps=n_steps, mu=mu, gamma0=gamma0,
                variant=variant, growth=growth, batch_size=2, rng=3, record=True,
            )  # fmt: skip
            np.testing.assert_allclose(run.x, w[-1], rtol=0, atol=1e-12)
            np.testing.assert_allclose(run.v, v[-1], rtol=0, atol=1e-11)
            np.testing.assert_allclose(run.lambda_k, product, rtol=1e-11)
            np.testing.assert_allclose(run.history["x"], w[run.history["nit"]], atol=1e-12)
            np.testing.assert_allclose(run.history["fun"], problem.value(run.history["x"]))
            np.testing.assert_array_equal(run.history["nit"], [0, 6, 12, 18, 24, 30, 36, 40])
            assert (run.steps == steps).all()
            assert run.success


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled_loops_follow_the_python_loop(kind, batch_size, variant):
    problem = make(kind)
    options = {"step": 0.05, "n_steps": 100, "mu": 0.2, "variant": variant, "rng": 3,
               "batch_size": batch_size, "record": True}  # fmt: skip
    compiled = stochastic_nesterov(problem, X0, **options)
    counted = Plain(problem)
    plain = stochastic_nesterov(counted, X0, **options)
    np.testing.assert_allclose(compiled.x, plain.x, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(compiled.v, plain.v, rtol=1e-10, atol=1e-11)
    for key in ("nit", "n_grad", "fun", "x"):
        np.testing.assert_allclose(
            compiled.history[key], plain.history[key], rtol=1e-10, atol=1e-11
        )
    a_step = batch_size + (N if variant == "semi-stochastic" else 0)
    assert compiled.n_grad == plain.n_grad == counted.count == 100 * a_step + N
    assert compiled.history["n_grad"][-1] == 100 * a_step
    assert compiled.fun == problem.value(compiled.x)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("wrap", [lambda same: same, Plain])
def test_with_the_whole_sum_it_is_nesterovs_method(variant, wrap):
    problem = make(Logistic)
    L, mu, points = problem.curvature()["L"], 0.2, [X0]
    nesterov(
        problem.value, X0, jac=problem.gradient, L=L, mu=mu, gtol=0.0, maxiter=30,
        callback=points.append,
    )  # fmt: skip
    source = np.random.default_rng(5)
    run = stochastic_nesterov(
        wrap(problem), X0, step=1 / L, n_steps=30, mu=mu, variant=variant, batch_size=N, rng=source,
        record=True,
    )  # fmt: skip
    np.testing.assert_allclose(run.history["x"], points, rtol=0, atol=1e-12)
    assert source.random() == np.random.default_rng(5).random()  # nothing was drawn
    assert run.n_grad == 31 * N


@pytest.mark.parametrize("mu", [0.0, 0.3])
@pytest.mark.parametrize("step", [0.2, lambda k: 0.4 / (k + 1) ** 0.5])
def test_stochastic_and_momentum_are_the_same_and_semi_stochastic_is_not(mu, step):
    """The two forms that the preprint took for the proved one."""
    problem = make(Logistic)
    ends = {
        variant: stochastic_nesterov(
            problem, X0, step=step, n_steps=60, mu=mu, variant=variant, rng=1
        )
        for variant in VARIANTS
    }
    np.testing.assert_allclose(ends["stochastic"].x, ends["momentum"].x, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ends["stochastic"].v, ends["momentum"].v, rtol=0, atol=1e-11)
    assert np.abs(ends["stochastic"].x - ends["semi-stochastic"].x).max() > 1e-2


@pytest.mark.parametrize("growth", [1.0, 4.0])
def test_alpha_stays_where_gamma_starts_at_mu(growth):
    run = stochastic_nesterov(
        make(), X0, step=0.05, n_steps=200, mu=0.2, variant="stochastic", growth=growth, rng=0
    )
    np.testing.assert_allclose(run.lambda_k, (1 - np.sqrt(0.01 / growth)) ** np.arange(201))


@given(
    st.floats(1e-8, 1e8), st.floats(0, 1), st.floats(1e-12, 1e12)
)  # fmt: skip
def test_alpha_is_the_positive_root(step, share, gamma):
    mu = share / step
    alpha = kernels.momentum_parameter(step, mu, gamma)
    assert 0 < alpha <= 1
    terms = step * (1 - alpha) * gamma + step * alpha * mu
    # 1 - alpha loses what alpha rounds.
    assert alpha**2 == pytest.approx(terms, rel=1e-9, abs=1e-15 * (1 + step * gamma))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("form", ["vector", "matrix", "callable"])
def test_a_preconditioner_is_a_change_of_variables(variant, form):
    problem = make(LeastSquares, l2=0.0)
    D = np.array([4.0, 0.5, 1.0])
    given_D = D
    root = np.diag(np.sqrt(D))
    if form == "matrix":
        M = np.random.default_rng(2).normal(size=(3, 3))
        given_D = M @ M.T + np.eye(3)
        root = np.linalg.cholesky(given_D).T
    elif form == "callable":
        given_D = lambda k, y: list(D)  # noqa: E731
    changed = LeastSquares(problem.rows @ np.linalg.inv(root), problem.targets)
    options = {"step": 0.02, "n_steps": 50, "mu": 0.1, "variant": variant, "rng": 0}
    run = stochastic_nesterov(problem, X0, preconditioner=given_D, **options)
    other = stochastic_nesterov(changed, root @ X0, **options)
    np.testing.assert_allclose(root @ run.x, other.x, rtol=0, atol=1e-11)
    np.testing.assert_allclose(root @ run.v, other.v, rtol=0, atol=1e-10)
    assert run.n_grad == other.n_grad


def test_a_preconditioner_may_shrink_and_must_not_grow():
    problem, asked = make(), []

    def shrinking(k, y):
        asked.append((k, y.copy()))
        return np.full(3, 2.0 / (k + 1))

    run = stochastic_nesterov(
        problem, X0, step=0.01, n_steps=4, preconditioner=shrinking, batch_size=N
    )
    assert [k for k, _ in asked] == [0, 1, 2, 3]
    assert (asked[0][1] == X0).all()
    assert run.success
    with pytest.raises(ValueError, match="at step 1 must not grow, got 2 after 1 at index 0"):
        stochastic_nesterov(
            problem, X0, step=0.01, n_steps=4, preconditioner=lambda k, y: np.full(3, k + 1.0)
        )
    with pytest.raises(ValueError, match=r"at step 2 must be > 0, got -0\.5"):
        stochastic_nesterov(
            problem, X0, step=0.01, n_steps=4, preconditioner=lambda k, y: np.full(3, 1.5 - k)
        )


def replicated(problem, star, count, n_steps, **options):
    """Return the mean gap at every step and its standard error."""
    gaps = np.empty((count, n_steps + 1))
    for gap, rng in zip(gaps, np.random.default_rng(0).spawn(count), strict=True):
        points = [X0]
        stochastic_nesterov(
            problem, X0, n_steps=n_steps, rng=rng, callback=lambda s, p=points: p.append(s.x),
            **options,
        )  # fmt: skip
        points += [np.full(3, np.inf)] * (n_steps + 1 - len(points))
        with np.errstate(over="ignore", invalid="ignore"):
            gap[:] = problem.value(np.array(points))
    return gaps.mean(axis=0), gaps.std(axis=0, ddof=1) / np.sqrt(count)


@pytest.mark.parametrize("convex", [False, True])
@pytest.mark.parametrize("variant", ["semi-stochastic", "stochastic"])
def test_the_bound_holds_in_the_mean_and_not_for_longer_steps(variant, convex):
    problem, star = fitted()
    known = problem.curvature()
    rho = strong_growth_constant(problem)
    step, mu = 1 / (rho * known["L"]), 0.0 if convex else known["mu"]
    options = {"variant": variant, "growth": rho if variant == "stochastic" else 1.0, "mu": mu}
    gamma0 = 1 / step if convex else mu

    def bound(step):
        return accelerated_bound(
            np.arange(121), step=step, mu=mu, gamma0=gamma0, gap0=problem.value(X0),
            dist0=float(np.linalg.norm(X0 - star)), growth=options["growth"],
        )  # fmt: skip

    mean, error = replicated(problem, star, 30, 120, step=step, **options)
    assert (mean - 3 * error <= bound(step)).all()
    longer = min(20 / known["L"], 1 / known["mu"])
    with np.errstate(invalid="ignore", over="ignore"):
        mean, _ = replicated(problem, star, 10, 120, step=longer, gamma0=gamma0, **options)
    assert not (mean <= bound(longer)).all()


def test_a_primal_update_that_is_the_gradient_step_changes_nothing():
    problem = make(Logistic)

    def plain(problem, y, idx, eta, gradient):
        np.testing.assert_allclose(gradient, problem.gradient(y, idx))
        return y - eta * gradient, eta

    for variant in ("semi-stochastic", "stochastic"):
        options = {"step": 0.3, "n_steps": 50, "mu": 0.2, "variant": variant, "rng": 0}
        usual = stochastic_nesterov(problem, X0, **options)
        run = stochastic_nesterov(problem, X0, primal_update=plain, **options)
        np.testing.assert_allclose(run.x, usual.x, atol=1e-13)
        np.testing.assert_allclose(run.lambda_k, usual.lambda_k)
        assert run.n_grad == usual.n_grad


def test_the_point_is_formed_again_for_the_step_that_an_update_finds():
    problem = Plain(make(Logistic))
    found = 0.1 / (1 + np.arange(20) % 3)
    calls, k = [], [0]

    def shorter(problem, y, idx, eta, gradient):
        calls.append(eta)
        short = found[k[0]]
        k[0] += eta <= short
        return y - short * gradient, short

    options = {"n_steps": 20, "mu": 0.2, "variant": "stochastic", "growth": 2.0, "rng": 0}
    run = stochastic_nesterov(problem, X0, step=0.3, primal_update=shorter, **options)
    assert calls == [eta for short in found for eta in (0.3, short)]
    assert run.n_grad == problem.count == 2 * 20 + N
    # As if the steps had been known.
    known = stochastic_nesterov(problem, X0, step=found, gamma0=0.2, **options)
    np.testing.assert_allclose(run.x, known.x, atol=1e-13)
    np.testing.assert_allclose(run.lambda_k, known.lambda_k)
    assert (run.steps == found).all()


def test_an_update_that_promises_more_is_credited_with_the_step():
    problem = make(Logistic)
    run = stochastic_nesterov(
        problem, X0, step=0.1, n_steps=5, mu=0.2, rng=0,
        primal_update=lambda problem, y, idx, eta, g: (y - 0.3 * g, 0.3),
    )  # fmt: skip
    np.testing.assert_allclose(run.lambda_k, (1 - np.sqrt(0.02)) ** np.arange(6))
    assert (run.steps == 0.1).all()


def test_armijo_takes_the_first_step_that_brings_enough():
    rng = np.random.default_rng(0)
    for seed in range(5):
        problem = make(Logistic, seed=seed)
        y, idx, c = rng.normal(size=3), np.array([1, 4]), 0.3
        update = armijo_primal_update(c=c, shrink=0.7, eta_max=50.0)
        g = problem.gradient(y, idx)
        w, eta = update(problem, y, idx, 0.1, g)
        np.testing.assert_array_equal(w, y - eta * g)

        def enough(eta, y=y, g=g, problem=problem, idx=idx):
            fall = problem.value(y, idx) - problem.value(y - eta * g, idx)
            return fall >= 0.3 * eta * (g @ g)

        trials = 50.0 * 0.7 ** np.arange(40)
        assert eta == pytest.approx(trials[[enough(trial) for trial in trials]][0])
    same, eta = pickle.loads(pickle.dumps(update))(problem, y, idx, 0.1, 0 * g)
    assert (same == y).all()
    assert eta == 50.0


def test_armijo_gives_up_on_what_is_no_descent_direction():
    problem, y = make(), np.ones(3)
    w, eta = armijo_primal_update()(problem, y, None, 1.0, -problem.gradient(y))
    assert (w == y).all()
    assert 1e-16 <= eta / 10 <= 1.25e-16


def test_armijo_on_the_whole_sum_keeps_the_bound_with_the_steps_it_found():
    problem, star = fitted()
    known = problem.curvature()
    run = stochastic_nesterov(
        problem, X0, step=1 / known["mu"], n_steps=40, mu=known["mu"], batch_size=N, record=True,
        primal_update=armijo_primal_update(eta_max=1 / known["mu"]),
    )  # fmt: skip
    assert run.steps.min() >= 0.8 / known["L"]
    assert run.steps.max() < 1 / known["mu"]
    bound = accelerated_bound(
        run.history["nit"], step=run.steps, mu=known["mu"], gamma0=known["mu"],
        gap0=problem.value(X0), dist0=float(np.linalg.norm(X0 - star)),
    )  # fmt: skip
    assert (run.history["fun"] <= bound).all()
    assert run.fun < 1e-6
    np.testing.assert_allclose(
        bound, run.lambda_k * (problem.value(X0) + known["mu"] / 2 * np.sum((X0 - star) ** 2))
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_converges_to_the_point_that_fits(variant):
    problem, star = fitted()
    known, rho = problem.curvature(), strong_growth_constant(problem)
    run = stochastic_nesterov(
        problem, X0, step=1 / (rho * known["L"]), n_steps=12_000, mu=known["mu"], variant=variant,
        growth=rho if variant == "stochastic" else 1.0, rng=0,
    )  # fmt: skip
    np.testing.assert_allclose(run.x, star, atol=1e-9)
    np.testing.assert_allclose(run.v, star, atol=1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("wrap", [lambda same: same, Plain])
def test_a_diverging_run_stops_at_its_last_finite_point(variant, wrap):
    problem = wrap(make())
    run = stochastic_nesterov(
        problem, X0, step=1e9, n_steps=400, variant=variant, rng=0, record=True
    )
    assert not run.success
    assert "left the finite numbers at step" in run.message
    assert np.isfinite(run.x).all()
    assert np.isfinite(run.v).all()
    assert len(run.lambda_k) == run.nit + 1 == len(run.steps) + 1
    if wrap is Plain:
        assert run.n_grad == problem.count


def test_an_update_that_leaves_the_finite_numbers_ends_the_run():
    def broken(problem, y, idx, eta, gradient):
        return (y - eta * gradient if broken.left else y * np.nan), eta

    broken.left = True

    def stop_soon(state):
        broken.left = state.nit < 3

    run = stochastic_nesterov(
        make(), X0, step=0.1, n_steps=9, rng=0, primal_update=broken, callback=stop_soon
    )
    assert (run.success, run.nit) == (False, 3)
    assert "left the finite numbers at step 4" in run.message


def test_an_executor_only_spreads_the_work(monkeypatch):
    monkeypatch.setattr(runs, "CHUNK_ROWS", 5)
    alone = stochastic_nesterov(make(Logistic), X0, step=0.1, n_steps=20, mu=0.2, rng=0)
    with ThreadPoolExecutor(2) as executor:
        shared = stochastic_nesterov(
            make(Logistic), X0, step=0.1, n_steps=20, mu=0.2, rng=0, executor=executor
        )
    np.testing.assert_allclose(shared.x, alone.x, atol=1e-13)
    assert shared.n_grad == alone.n_grad


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_callback_sees_each_step_and_may_stop(variant):
    states = []

    def watch(state):
        states.append(state)
        if state.nit == 7:
            raise StopIteration

    run = stochastic_nesterov(
        make(), X0, step=0.05, n_steps=50, mu=0.2, variant=variant, rng=0, callback=watch
    )
    assert [state.nit for state in states] == list(range(1, 8))
    assert (run.success, run.nit) == (False, 7)
    assert "stopped by callback after 7 steps" in run.message
    same = stochastic_nesterov(make(), X0, step=0.05, n_steps=7, mu=0.2, variant=variant, rng=0)
    np.testing.assert_allclose(run.x, same.x, atol=1e-14)
    np.testing.assert_allclose(run.v, same.v, atol=1e-13)
    assert (run.x == states[-1].x).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_steps_leave_the_start(variant):
    run = stochastic_nesterov(make(), X0, step=0.1, n_steps=0, variant=variant)
    assert (run.x == X0).all()
    assert (run.v == X0).all()
    assert (run.nit, run.n_grad, run.success) == (0, N, True)
    assert run.lambda_k.tolist() == [1.0]


def test_mu_of_one_over_step_is_allowed():
    problem = LeastSquares([[1.0, 0.0], [0.0, 1.0]], [1.0, 2.0])
    run = stochastic_nesterov(problem, [5.0, 5.0], step=2.0, n_steps=1, mu=0.5, batch_size=2)
    np.testing.assert_allclose(run.x, [1, 2])
    assert run.lambda_k.tolist() == [1.0, 0.0]


LS = make()
GOOD = {"step": 0.1, "n_steps": 3}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"step": 0.0}, ValueError, "step must be .* > 0"),
        ({"step": [0.1]}, ValueError, r"step must have shape \(3\)"),
        ({"step": lambda k: -1.0}, ValueError, "step must be .* > 0"),
        ({"n_steps": -1}, ValueError, "n_steps must be"),
        ({"mu": -0.1}, ValueError, "mu must be .* >= 0"),
        ({"mu": 10.1}, ValueError, "mu must be at most 1 / step = 10, got 10.1"),
        ({"step": lambda k: k + 0.1, "mu": 1.0}, ValueError, "mu must be at most"),
        ({"variant": "sgd"}, ValueError, "variant must be one of 'semi-stochastic'"),
        ({"growth": 0.5, "variant": "stochastic"}, ValueError, "growth must be .* >= 1"),
        ({"growth": 2.0}, ValueError, "growth must be 1 with variant='semi-stochastic', got 2"),
        ({"growth": 2.0, "variant": "momentum"}, ValueError, "growth must be 1 with"),
        ({"gamma0": 0.0}, ValueError, "gamma0 must be .* > 0"),
        ({"batch_size": 13}, ValueError, "batch_size must be .* <= 12"),
        ({"primal_update": 3}, TypeError, "primal_update must be callable"),
        ({"primal_update": max, "variant": "momentum"}, ValueError, "with variant='momentum'"),
        ({"primal_update": max, "preconditioner": [1, 1, 1]}, ValueError, "with a preconditioner"),
        ({"preconditioner": [1.0, 2.0]}, ValueError, r"preconditioner must have shape \(3,\)"),
        ({"preconditioner": [1.0, 0.0, 1.0]}, ValueError, "preconditioner must be > 0, got 0"),
        ({"preconditioner": -np.eye(3)}, ValueError, "preconditioner must be positive definite"),
        ({"preconditioner": np.tri(3)}, ValueError, "preconditioner must be symmetric"),
        ({"primal_update": lambda p, y, *_: (y, -1.0)}, ValueError, "eta_used of primal_update"),
        ({"primal_update": lambda p, y, *_: (y[:1], 1.0)}, ValueError, r"shape \(3,\), got \(1,\)"),
        (
            {"primal_update": lambda p, y, i, eta, g: (y, eta / 2)}, ValueError,
            "primal_update must come to promise the step it is given",
        ),
    ],
)  # fmt: skip
def test_malformed_arguments_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        stochastic_nesterov(LS, X0, **GOOD | options)


def test_other_malformed_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match=r"x0 must have shape \(3\)"):
        stochastic_nesterov(LS, [1.0], **GOOD)
    with pytest.raises(TypeError, match="problem must have n, dim"):
        stochastic_nesterov(object(), X0, **GOOD)
    for options, name in (({"c": 1.0}, "c"), ({"shrink": 0.0}, "shrink"), ({"eta_max": 0}, "eta")):
        with pytest.raises(ValueError, match=f"{name}.* must be"):
            armijo_primal_update(**options)
