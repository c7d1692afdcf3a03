from __future__ import annotations

import numpy as np
import pytest

from thalweg.descent import LeastSquares, Logistic, hybrid_sgd, sarah
from thalweg.descent import _variance_reduction_kernels as kernels

X0 = np.array([2.0, 0.0, -1.0])
N = 12


def make(kind, l2=0.2, n=N):
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(n, 3)), rng.normal(size=n)
    return kind(A, np.sign(b) if kind is Logistic else b, l2=l2)


def model(problem):
    return problem.kind, problem.rows, problem.targets, problem.l2


@pytest.mark.parametrize("kind", [LeastSquares, Logistic])
def test_the_mean_estimate_is_the_last_one_moved_by_the_change_of_the_gradient(kind):
    problem, rng = make(kind), np.random.default_rng(1)
    x, last, v = rng.normal(size=(3, 3))
    estimates = []
    for i in range(N):
        before, carried, moved = last.copy(), v.copy(), x.copy()
        kernels.sarah_steps(
            *model(problem), np.array([[i]]), np.full(1, 0.1), -1.0, kernels.LAST, -1,
            np.zeros(3), before, carried, moved,
        )  # fmt: skip
        estimates.append(carried)
        np.testing.assert_allclose(moved, x - 0.1 * carried, atol=1e-15)
        assert (before == x).all()
    expected = problem.gradient(x) - problem.gradient(last) + v
    np.testing.assert_allclose(np.mean(estimates, axis=0), expected, atol=1e-13)


@pytest.mark.parametrize("kind", [LeastSquares, Logistic])
def test_the_mean_hybrid_estimate_keeps_its_share_of_the_last_error(kind):
    """v_t - ∇F(w_t) has mean beta (v_{t-1} - ∇F(w_{t-1})) over independent batches I and J."""
    problem, rng, beta = make(kind), np.random.default_rng(1), 0.7
    x, last, v = rng.normal(size=(3, 3))
    estimates = []
    for i in range(N):
        for j in range(N):
            carried = v.copy()
            kernels.hybrid_steps(
                *model(problem), np.array([[i]]), np.array([[j]]), np.full(1, 0.1), beta,
                last.copy(), carried, x.copy(),
            )  # fmt: skip
            estimates.append(carried)
    error = np.mean(estimates, axis=0) - problem.gradient(x)
    np.testing.assert_allclose(error, beta * (v - problem.gradient(last)), atol=1e-13)
    # The mean square over all batches is exactly what the recursion of the variance sums up.
    differences = problem.component_gradients(x) - problem.component_gradients(last)
    spread = np.sum(np.var(differences, axis=0))
    noise = np.sum(np.var(problem.component_gradients(x), axis=0))
    square = np.mean(np.sum((np.array(estimates) - problem.gradient(x)) ** 2, axis=1))
    exact = beta**2 * (np.sum((v - problem.gradient(last)) ** 2) + spread) + (1 - beta) ** 2 * noise
    assert square == pytest.approx(exact, rel=1e-12)


def test_steps_of_sarah_are_those_of_the_definition():
    problem, m, step = make(Logistic), 3, 0.1
    for option in ("last", "random"):
        draws = np.random.default_rng(7)
        x, kept = X0, set()
        for _ in range(20):
            v, points = problem.gradient(x), [x]
            pick = int(draws.random() * (m + 1)) if option == "random" else m
            kept.add(pick)
            x = x - step * v
            for batch in (draws.random((m - 1, 2)) * N).astype(int):
                v = problem.gradient(x, batch) - problem.gradient(points[-1], batch) + v
                points.append(x)
                x = x - step * v
            points.append(x)
            x = points[pick]
        run = sarah(
            problem, X0, step=step, n_epochs=20, inner_steps=m, batch_size=2, option=option, rng=7
        )
        np.testing.assert_allclose(run.x, x, rtol=0, atol=1e-13)
        assert run.n_grad == 20 * (N + 4 * (m - 1)) + N
        assert option == "last" or {0, m} <= kept  # both ends of the choice occur


def test_epochs_of_sarah_plus_end_once_the_estimate_is_small():
    problem, m, step, gamma = make(LeastSquares), 400, 0.05, 0.1
    draws = np.random.default_rng(7)
    uniforms = iter(draws.random((10_000, 1)))
    x, taken, lengths = X0, 0, []
    for _ in range(5):
        v, before, length = problem.gradient(x), x, 1
        first = v @ v
        x = x - step * v
        for _ in range(m - 1):
            i = int(next(uniforms)[0] * N)
            v = problem.gradient(x, i) - problem.gradient(before, i) + v
            before, x, length = x, x - step * v, length + 1
            if v @ v < gamma * first:
                break
        # The run draws a whole stretch for each epoch.
        for _ in range(m - length):
            next(uniforms)
        lengths.append(length)
        taken += length
    run = sarah(
        problem, X0, step=step, n_epochs=5, inner_steps=m, option="plus", gamma=gamma, rng=7
    )
    np.testing.assert_allclose(run.x, x, rtol=0, atol=1e-13)
    assert run.n_grad == 5 * N + 2 * (taken - 5) + N
    assert 1 < min(lengths) < max(lengths) < m


def test_hybrid_steps_are_those_of_the_definition():
    problem, step, beta, b = make(Logistic), 0.1, 0.6, 2
    draws = np.random.default_rng(7)
    x = X0
    v = problem.gradient(x, draws.choice(N, 5, replace=False))
    before, x = x, x - step * v
    for batches in (draws.random((29, 2 * b)) * N).astype(int):
        first, second = batches[:b], batches[b:]
        moved = v + problem.gradient(x, first) - problem.gradient(before, first)
        v = beta * moved + (1 - beta) * problem.gradient(x, second)
        before, x = x, x - step * v
    run = hybrid_sgd(
        problem, X0, step=step, beta=beta, n_steps=30, batch_size=b, initial_batch=5, rng=7
    )
    np.testing.assert_allclose(run.x, x, rtol=0, atol=1e-13)
    assert run.n_grad == 5 + 29 * 3 * b + N


def test_without_recursion_it_is_stochastic_gradient_descent_on_the_second_batches():
    problem, b = make(Logistic), 2
    draws = np.random.default_rng(7).random((29, 2 * b))
    x = X0 - 0.1 * problem.gradient(X0)
    for batch in (draws[:, b:] * N).astype(int):
        x = x - 0.1 * problem.gradient(x, batch)
    run = hybrid_sgd(problem, X0, step=0.1, beta=0.0, n_steps=30, batch_size=b, rng=7)
    np.testing.assert_allclose(run.x, x, rtol=0, atol=1e-14)
    assert run.n_grad == N + 29 * b + N


def test_recursion_alone_is_one_epoch_of_sarah():
    problem = make(Logistic)
    draws = np.random.default_rng(7).random((29, 2))
    v, before = problem.gradient(X0), X0
    x = X0 - 0.1 * v
    for i in (draws[:, 0] * N).astype(int):
        v = v + problem.gradient(x, i) - problem.gradient(before, i)
        before, x = x, x - 0.1 * v
    run = hybrid_sgd(problem, X0, step=0.1, beta=1.0, n_steps=30, rng=7)
    np.testing.assert_allclose(run.x, x, rtol=0, atol=1e-13)
    assert run.n_grad == N + 29 * 2 + N


def test_the_default_share_grows_with_the_length_of_the_run():
    problem = make(Logistic)
    for n_steps in (3, 99):
        usual = hybrid_sgd(problem, X0, step=0.1, n_steps=n_steps, rng=0).x
        beta = 1 - 1 / np.sqrt(n_steps + 1)
        explicit = hybrid_sgd(problem, X0, step=0.1, n_steps=n_steps, rng=0, beta=beta).x
        assert (usual == explicit).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: sarah(p, X0, step=0.1, option="average"), "option must be one of 'last'"),
        (lambda p: sarah(p, X0, step=0.1, gamma=1.0), "gamma must be"),
        (lambda p: sarah(p, X0, step=0.1, gtol=-1), "gtol must be"),
        (lambda p: sarah(p, X0, step=-0.1), "step must be"),
        (lambda p: sarah(p, X0, step=0.1, batch_size=13), "batch_size must be"),
        (lambda p: hybrid_sgd(p, X0, step=0.1, n_steps=3, beta=-0.1), "beta must be"),
        (lambda p: hybrid_sgd(p, X0, step=0.1, n_steps=3, beta=1.1), "beta must be"),
        (lambda p: hybrid_sgd(p, X0, step=0.1, n_steps=3, initial_batch=13), "initial_batch must"),
        (lambda p: hybrid_sgd(p, X0[:2], step=0.1, n_steps=3), r"x0 must have shape \(3\)"),
    ],
)
def test_malformed_arguments_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(make(LeastSquares))
