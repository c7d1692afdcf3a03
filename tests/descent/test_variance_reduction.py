from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from thalweg.descent import (
    FiniteSum,
    LeastSquares,
    Logistic,
    hybrid_sgd,
    loopless_svrg,
    saga,
    sarah,
    svrg,
)
from thalweg.descent import _variance_reduction_kernels as kernels
from thalweg.descent import _variance_reduction_runs as runs
from thalweg.descent._gradient_estimates import Anchor, GradientTable, SlopeTable

KINDS = (LeastSquares, Logistic)
X0 = np.array([2.0, 0.0, -1.0])
N = 12


def make(kind, l2=0.2, n=N, dim=3, seed=0):
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(n, dim)), rng.normal(size=n)
    return kind(A, np.sign(b) if kind is Logistic else b, l2=l2)


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


class Bare:
    """The least that a problem must have."""

    def __init__(self, problem):
        self.n, self.dim = problem.n, problem.dim
        self.value, self.gradient = problem.value, problem.gradient


METHODS = {
    "svrg": (svrg, {"n_epochs": 4}),
    "svrg random": (svrg, {"n_epochs": 4, "option": "random"}),
    "svrg average": (svrg, {"n_epochs": 4, "option": "average", "inner_steps": 30}),
    "loopless": (loopless_svrg, {"n_steps": 100}),
    "loopless often": (loopless_svrg, {"n_steps": 100, "prob": 0.5}),
    "saga": (saga, {"n_steps": 100}),
    "sarah": (sarah, {"n_epochs": 4}),
    "sarah random": (sarah, {"n_epochs": 6, "option": "random", "inner_steps": 3}),
    "sarah plus": (sarah, {"n_epochs": 6, "option": "plus", "gamma": 0.5}),
    "hybrid": (hybrid_sgd, {"n_steps": 100}),
    "hybrid recursive": (hybrid_sgd, {"n_steps": 100, "beta": 1.0}),
    "hybrid sgd": (hybrid_sgd, {"n_steps": 100, "beta": 0.0, "initial_batch": 5}),
}
each_method = pytest.mark.parametrize("name", METHODS)


def call(name, problem, **options):
    method, usual = METHODS[name]
    return method(problem, X0, **{"step": 0.02} | usual | options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 5])
@each_method
def test_compiled_loops_follow_the_python_loop(name, kind, batch_size):
    problem = make(kind, l2=0.0 if name == "saga" else 0.2)
    options = {"batch_size": batch_size, "rng": 3, "record": True}
    compiled, plain = call(name, problem, **options), call(name, Plain(problem), **options)
    np.testing.assert_allclose(compiled.x, plain.x, rtol=1e-11, atol=1e-12)
    for key in ("nit", "n_grad", "fun", "x"):
        np.testing.assert_allclose(
            compiled.history[key], plain.history[key], rtol=1e-10, atol=1e-11
        )
    np.testing.assert_allclose(compiled.jac, problem.gradient(compiled.x), atol=1e-13)
    assert compiled.fun == problem.value(compiled.x)
    assert compiled.n_grad == plain.n_grad
    assert compiled.nit == plain.nit
    assert compiled.success


@each_method
@pytest.mark.parametrize("batch_size", [1, 4])
def test_gradients_are_counted_as_the_problem_counts_them(name, batch_size):
    problem = Plain(make(Logistic))
    run = call(name, problem, batch_size=batch_size, rng=1, record=True)
    assert run.n_grad == problem.count
    assert run.history["n_grad"][-1] == problem.count - N


@each_method
def test_a_diverging_run_stops_at_its_last_finite_point_and_counts_what_it_cost(name):
    for wrap in (lambda problem: problem, Plain):
        problem = wrap(make(LeastSquares))
        longer = {"n_epochs": 400} if "n_epochs" in METHODS[name][1] else {}
        run = call(name, problem, step=1e9, rng=0, record=True, **longer)
        assert not run.success
        assert "left the finite numbers at step" in run.message
        assert np.isfinite(run.x).all()
        assert np.isfinite(run.history["x"]).all()
        if wrap is Plain:
            assert run.n_grad == problem.count


def descent(problem, step, n_steps):
    points = [X0]
    for _ in range(n_steps):
        points.append(points[-1] - step * problem.gradient(points[-1]))
    return points


def test_one_component_makes_gradient_descent_step_by_step():
    problem = make(Logistic, n=1)
    steps = descent(problem, 0.3, 49)
    for run in (
        lambda k: svrg(problem, X0, step=0.3, n_epochs=k, inner_steps=1),
        lambda k: svrg(problem, X0, step=0.3, n_epochs=1, inner_steps=max(k, 1)),
        lambda k: loopless_svrg(problem, X0, step=0.3, n_steps=k),
        lambda k: saga(problem, X0, step=0.3, n_steps=k),
        lambda k: sarah(problem, X0, step=0.3, n_epochs=1, inner_steps=max(k, 1)),
    ):
        for k in (1, 2, 17, 49):
            np.testing.assert_allclose(run(k).x, steps[k], rtol=0, atol=1e-14)


# The estimates themselves: what a step along v from x is, for every component that can be drawn.


def arbitrary(problem, seed=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=problem.dim), rng.normal(size=problem.dim), rng


@pytest.mark.parametrize("kind", KINDS)
def test_estimates_of_svrg_have_no_bias(kind):
    problem = make(kind)
    x, point, _ = arbitrary(problem)
    slopes = problem.scalar_gradient(point)
    mean, compiled, python = slopes @ problem.rows / N, [], []
    anchor = Anchor(runs.Run(Plain(problem), X0, 1.0, 1, 1, 0, False, None))
    anchor.move(point)
    for i in range(N):
        batch, out = np.array([i]), np.empty(3)
        kernels.anchored_direction(
            problem.kind, problem.rows, problem.targets, problem.l2, batch, slopes, mean, x, out
        )
        compiled.append(out)
        python.append(anchor.direction(x, batch))
    np.testing.assert_allclose(np.mean(compiled, axis=0), problem.gradient(x), atol=1e-13)
    np.testing.assert_allclose(compiled, python, atol=1e-13)
    # At the snapshot there is no noise left.
    kernels.anchored_direction(
        problem.kind, problem.rows, problem.targets, problem.l2, batch, slopes, mean, point, out
    )
    np.testing.assert_allclose(out, problem.gradient(point), atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_estimates_of_saga_have_no_bias_whatever_the_table(kind):
    problem = make(kind)
    x, point, rng = arbitrary(problem)
    slopes = rng.normal(size=N)
    mean = slopes @ problem.rows / N
    compiled, scalar, whole = [], [], []
    table = rng.normal(size=(N, 3))
    for i in range(N):
        batch, moved = np.array([[i]]), x.copy()
        new_slopes, new_mean = slopes.copy(), mean.copy()
        kernels.saga_steps(
            problem.kind, problem.rows, problem.targets, problem.l2, batch, np.ones(1),
            new_slopes, new_mean, moved,
        )  # fmt: skip
        compiled.append(x - moved)
        assert np.flatnonzero(new_slopes != slopes).tolist() == [i]
        assert new_slopes[i] == pytest.approx(problem.scalar_gradient(x, i)[0])
        np.testing.assert_allclose(new_mean, new_slopes @ problem.rows / N, atol=1e-14)
        one = SlopeTable(problem, point)
        one.slopes, one.mean = slopes.copy(), mean
        scalar.append(one.direction(x, batch[0]))
        np.testing.assert_allclose(one.slopes, new_slopes)
        np.testing.assert_allclose(one.mean, new_mean, atol=1e-14)
        other = GradientTable(problem, point)
        other.rows, other.mean = table.copy(), table.mean(axis=0)
        whole.append(other.direction(x, batch[0]))
        np.testing.assert_allclose(other.rows[i], problem.gradient(x, i))
        np.testing.assert_allclose(other.mean, other.rows.mean(axis=0), atol=1e-14)
    for estimates in (compiled, scalar, whole):
        np.testing.assert_allclose(np.mean(estimates, axis=0), problem.gradient(x), atol=1e-13)
    np.testing.assert_allclose(compiled, scalar, atol=1e-13)


def test_the_mean_of_saga_is_that_of_its_table_after_many_steps():
    problem = make(Logistic)
    slopes, x = problem.scalar_gradient(X0), X0.copy()
    mean = slopes @ problem.rows / N
    batches = np.random.default_rng(0).permuted(np.tile(np.arange(N), (10_000, 1)), axis=1)[:, :3]
    kernels.saga_steps(
        problem.kind, problem.rows, problem.targets, problem.l2, np.ascontiguousarray(batches),
        np.full(10_000, 0.1), slopes, mean, x,
    )  # fmt: skip
    np.testing.assert_allclose(mean, slopes @ problem.rows / N, rtol=0, atol=1e-12)
    table = GradientTable(problem, X0)
    for t in range(10_000):
        table.direction(X0 * np.cos(t), batches[t])
    np.testing.assert_allclose(table.mean, table.rows.mean(axis=0), rtol=0, atol=1e-12)


def test_steps_of_svrg_are_those_of_the_definition():
    problem, m, step = make(Logistic), 20, 0.1
    for option in ("last", "random", "average"):
        draws = np.random.default_rng(7)
        x = X0
        for _ in range(3):
            s, full, points = x, problem.gradient(x), []
            pick = int(draws.random() * m) if option == "random" else None
            for batch in (draws.random((m, 2)) * N).astype(int):
                points.append(x)
                x = x - step * (problem.gradient(x, batch) - problem.gradient(s, batch) + full)
            if option != "last":
                x = points[pick] if option == "random" else np.mean(points, axis=0)
        run = svrg(
            problem, X0, step=step, n_epochs=3, inner_steps=m, batch_size=2, option=option, rng=7
        )
        np.testing.assert_allclose(run.x, x, rtol=0, atol=1e-13)


def test_steps_of_loopless_svrg_take_the_point_before_the_step_as_snapshot():
    problem, prob = make(Logistic), 0.3
    draws = np.random.default_rng(7).random((40, 2))
    x = s = X0
    for i, coin in zip((draws[:, 0] * N).astype(int), draws[:, 1] < prob, strict=True):
        v = problem.gradient(x, i) - problem.gradient(s, i) + problem.gradient(s)
        x, s = x - 0.2 * v, x if coin else s
    run = loopless_svrg(problem, X0, step=0.2, n_steps=40, prob=prob, rng=7)
    np.testing.assert_allclose(run.x, x, rtol=0, atol=1e-13)
    assert run.n_grad == N + 2 * 40 + N * int((draws[:, 1] < prob).sum()) + N
    usual = loopless_svrg(problem, X0, step=0.2, n_steps=40, rng=7)
    explicit = loopless_svrg(problem, X0, step=0.2, n_steps=40, prob=1 / N, rng=7)
    assert (usual.x == explicit.x).all()
    assert usual.n_grad == N + 2 * 40 + N * int((draws[:, 1] < 1 / N).sum()) + N


def test_steps_of_saga_are_those_of_the_definition():
    """Whole gradients in the table of a plain problem; of a linear model, those of the losses."""
    problem, step = make(Logistic), 0.1
    bare = make(Logistic, l2=0.0)
    order = np.arange(N)
    uniforms = np.random.default_rng(7).random((60, 3))
    batches = []
    for row in uniforms:
        for j, u in enumerate(row):
            k = j + int(u * (N - j))
            order[j], order[k] = order[k], order[j]
        batches.append(order[:3].copy())
    for watched, rest, run in (
        (problem, 0.0, saga(Plain(problem), X0, step=step, n_steps=60, batch_size=3, rng=7)),
        (bare, 0.2, saga(problem, X0, step=step, n_steps=60, batch_size=3, rng=7)),
        (bare, 0.2, saga(Rows(problem), X0, step=step, n_steps=60, batch_size=3, rng=7)),
    ):
        x, table = X0, watched.component_gradients(X0)
        for batch in batches:
            fresh = watched.component_gradients(x, batch)
            v = (fresh - table[batch]).mean(axis=0) + table.mean(axis=0) + rest * x
            x, table[batch] = x - step * v, fresh
        np.testing.assert_allclose(run.x, x, rtol=0, atol=1e-13)


class Rows(Bare):
    """A problem that is no `LinearModel` but offers rows and scalar gradients."""

    def __init__(self, problem):
        super().__init__(problem)
        self.rows, self.scalar_gradient, self.l2 = problem.rows, problem.scalar_gradient, problem.l2


def test_a_coin_that_always_falls_gives_snapshots_that_lag_by_one():
    problem = LeastSquares([[1.0, 2.0]] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], l2=0.1)
    # Equal rows: the components differ by a constant gradient, which every snapshot takes off.
    run = loopless_svrg(problem, [1.0, 1.0], step=0.1, n_steps=30, prob=1.0, rng=0)
    x = np.ones(2)
    for _ in range(30):
        x = x - 0.1 * problem.gradient(x)
    np.testing.assert_allclose(run.x, x, atol=1e-13)


@each_method
def test_a_problem_needs_no_more_than_values_and_gradients(name):
    problem = make(Logistic)
    bare, plain = call(name, Bare(problem), rng=4), call(name, Plain(problem), rng=4)
    np.testing.assert_allclose(bare.x, plain.x, atol=1e-13)
    assert bare.n_grad == plain.n_grad


def test_solutions_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    y = np.where(X @ [1.0, -2.0, 0.5, 0.0] + 0.3 * rng.normal(size=60) > 0, 1.0, -1.0)
    problem = Logistic(X, y, l2=1 / 60)
    peer = LogisticRegression(C=1.0, fit_intercept=False, solver="newton-cholesky", tol=1e-12).fit(
        X, y
    )
    step, zero = 1 / (3 * (0.25 + 1 / 60)), np.zeros(4)
    for run in (
        svrg(problem, zero, step=step, n_epochs=60, rng=0),
        svrg(problem, zero, step=step, n_epochs=60, rng=0, option="average"),
        loopless_svrg(problem, zero, step=step, n_steps=8000, rng=0),
        saga(problem, zero, step=step, n_steps=8000, rng=0),
        sarah(problem, zero, step=step, n_epochs=100, rng=0),
        sarah(problem, zero, step=step, n_epochs=300, rng=0, option="plus"),
    ):
        np.testing.assert_allclose(run.x, peer.coef_[0], rtol=0, atol=1e-7)
        assert np.linalg.norm(run.jac) < 1e-8


def test_the_tolerance_ends_a_run_at_a_small_gradient():
    problem = make(Logistic)
    for method in (svrg, sarah):
        run = method(problem, X0, step=0.1, n_epochs=500, gtol=1e-6, rng=0, record=True)
        assert run.success
        assert run.nit < 500
        assert np.linalg.norm(run.jac) <= 1e-6
        assert "fell to gtol" in run.message
        before = run.history["x"][-2]
        assert np.linalg.norm(problem.gradient(before)) > 1e-6
        # The gradient that ended the run is the one that is returned.
        assert run.n_grad == N * (run.nit + 1) + 2 * (run.nit * (2 * N - (method is sarah)))
        short = method(problem, X0, step=0.1, n_epochs=2, gtol=1e-6, rng=0)
        assert not short.success
        assert "gtol = 1e-06" in short.message


def test_an_executor_only_spreads_the_work(monkeypatch):
    monkeypatch.setattr(runs, "CHUNK_ROWS", 5)
    for problem in (make(Logistic), Plain(make(Logistic))):
        for method in (svrg, sarah):
            alone = method(problem, X0, step=0.05, n_epochs=3, rng=0)
            with ThreadPoolExecutor(2) as executor:
                shared = method(problem, X0, step=0.05, n_epochs=3, rng=0, executor=executor)
            np.testing.assert_allclose(alone.x, shared.x, rtol=0, atol=1e-14)
            assert alone.n_grad == shared.n_grad


@each_method
def test_results_do_not_depend_on_how_a_run_is_watched(name):
    for problem in (make(LeastSquares), Plain(make(LeastSquares))):
        seen = []
        quiet = call(name, problem, rng=7)
        watched = call(name, problem, rng=7, callback=seen.append, record=True)
        assert (quiet.x == watched.x).all()
        assert quiet.history == {}
        assert [state.nit for state in seen] == list(range(1, quiet.nit + 1))
        assert seen[-1].n_grad == quiet.n_grad - N
        assert (seen[-1].x == quiet.x).all()
        history = watched.history
        assert (history["x"][0] == X0).all()
        assert history["nit"][0] == 0
        assert (np.diff(history["nit"]) > 0).all()
        assert (history["x"][-1] == quiet.x).all()
        expected = [problem.value(x) for x in history["x"]]
        np.testing.assert_allclose(history["fun"], expected, rtol=1e-14)


@each_method
def test_the_length_of_stretches_does_not_matter(name, monkeypatch):
    problem = make(Logistic)
    long = call(name, problem, rng=7, batch_size=2).x
    monkeypatch.setattr(runs, "DRAWS_AT_ONCE", 14)
    np.testing.assert_array_equal(call(name, problem, rng=7, batch_size=2).x, long)


def test_history_is_kept_once_a_pass():
    run = saga(make(Logistic), X0, step=0.1, n_steps=30, rng=0, record=True)
    assert run.history["nit"].tolist() == [0, 12, 24, 30]
    assert run.history["n_grad"].tolist() == [0, 24, 36, 42]
    run = svrg(make(Logistic), X0, step=0.1, n_epochs=2, inner_steps=5, rng=0, record=True)
    assert run.history["n_grad"].tolist() == [0, 22, 44]


@each_method
def test_a_callback_can_stop_a_run(name):
    def stop(state):
        if state.nit == 3:
            raise StopIteration

    run = call(name, make(LeastSquares), rng=0, callback=stop)
    assert (run.nit, run.success) == (3, False)
    assert "stopped by callback after 3" in run.message


@each_method
def test_steps_may_be_a_list_or_a_callable(name):
    problem, asked = make(Logistic), []

    def step(k):
        asked.append(k)
        return 0.05 / (k + 1)

    run = call(name, problem, step=step, rng=0)
    assert asked == list(range(len(asked)))
    listed = call(name, problem, step=[0.05 / (k + 1) for k in range(len(asked))], rng=0)
    assert (run.x == listed.x).all()
    assert not np.allclose(run.x, call(name, problem, step=0.05, rng=0).x)


def test_no_steps_leave_the_start():
    for run in (
        svrg(make(Logistic), X0, step=0.1, n_epochs=0),
        loopless_svrg(make(Logistic), X0, step=0.1, n_steps=0),
        saga(make(Logistic), X0, step=0.1, n_steps=0),
        sarah(make(Logistic), X0, step=0.1, n_epochs=0),
        hybrid_sgd(make(Logistic), X0, step=0.1, n_steps=0),
    ):
        assert (run.x == X0).all()
        assert (run.nit, run.n_grad, run.success) == (0, N, True)


LS = make(LeastSquares)
GOOD = {"step": 0.1, "n_steps": 3}
EPOCHS = {"step": 0.1, "n_epochs": 3}


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (lambda: svrg(LS, [1.0], **EPOCHS), ValueError, r"x0 must have shape \(3\)"),
        (lambda: svrg(LS, X0, step=0.0), ValueError, "step must be .* > 0"),
        (lambda: svrg(LS, X0, step=[0.1], n_epochs=1), ValueError, r"step must have shape \(24\)"),
        (lambda: svrg(LS, X0, step=lambda k: -1.0), ValueError, "step must be .* > 0"),
        (lambda: svrg(LS, X0, step="a"), TypeError, "step must be"),
        (lambda: svrg(LS, X0, step=0.1, n_epochs=-1), ValueError, "n_epochs must be"),
        (lambda: svrg(LS, X0, step=0.1, inner_steps=0), ValueError, "inner_steps must be"),
        (lambda: svrg(LS, X0, step=0.1, batch_size=13), ValueError, "batch_size must be .* <= 12"),
        (lambda: svrg(LS, X0, step=0.1, option="plus"), ValueError, "option must be one of 'last'"),
        (lambda: svrg(LS, X0, step=0.1, gtol=-1.0), ValueError, "gtol must be"),
        (lambda: svrg(object(), X0, step=0.1), TypeError, "problem must have n, dim"),
        (lambda: loopless_svrg(LS, X0, **GOOD, prob=0.0), ValueError, "prob must be"),
        (lambda: loopless_svrg(LS, X0, **GOOD, prob=1.1), ValueError, "prob must be"),
        (lambda: loopless_svrg(LS, X0, step=0.1, n_steps=1.5), TypeError, "n_steps must be"),
        (lambda: saga(LS, [np.nan] * 3, **GOOD), ValueError, "x0 must be finite"),
        (lambda: saga(LS, X0, **GOOD, batch_size=0), ValueError, "batch_size must be"),
        (lambda: saga(object(), X0, **GOOD), TypeError, "problem must have n, dim"),
    ],
)
def test_malformed_arguments_are_refused_by_name(bad, error, message):
    with pytest.raises(error, match=message):
        bad()


def test_a_gradient_of_the_wrong_shape_is_refused():
    problem = Bare(make(Logistic))
    problem.gradient = lambda x, idx=None: np.ones((2, 3))
    with pytest.raises(ValueError, match=r"gradient must return shape \(3,\), got \(2, 3\)"):
        svrg(problem, X0, step=0.1)
