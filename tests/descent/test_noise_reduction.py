"""Growing batches: their plan, the norm test at its threshold, and averages of points."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.descent import LeastSquares, averaged_step, dynamic_sampling, sgd
from thalweg.descent.noise_reduction import next_batch, tail_weights

RNG = np.random.default_rng(4)
A = RNG.normal(size=(50, 3))
PROBLEM = LeastSquares(A, A @ np.ones(3) + RNG.normal(size=50))
START = np.zeros(3)


@pytest.mark.parametrize(("initial", "ratio", "most"), [(2, 1.1, None), (3, 1.5, 40), (1, 3.0, 50)])
def test_batches_grow_by_the_plan(initial, ratio, most):
    result = dynamic_sampling(
        PROBLEM, START, step=0.05, n_steps=12, initial=initial, ratio=ratio, max_batch=most, rng=0
    )
    planned = [math.ceil(initial * ratio**k) for k in range(12)]
    expected = planned if most is None else np.minimum(planned, most)
    np.testing.assert_array_equal(result.history["batch"], expected)
    assert result.n_grad == sum(expected)
    np.testing.assert_array_equal(result.history["n_grad"][1:], np.cumsum(expected))
    assert result.history["x"].shape == (13, 3)
    assert result.passes == result.n_grad / 50


@pytest.mark.parametrize("most", [None, 30])
def test_steps_follow_the_gradients_of_the_batches(most):
    seen = []

    class Spy(LeastSquares):
        def gradient(self, x, idx=None):
            seen.append(idx)
            return super().gradient(x, idx)

    problem = Spy(PROBLEM.rows, PROBLEM.targets)
    result = dynamic_sampling(
        problem, START, step=lambda k: 0.1 / k, n_steps=9, initial=4, ratio=1.6, max_batch=most,
        rng=0,
    )  # fmt: skip
    x = START
    for k, idx in enumerate(seen, start=1):
        x = x - 0.1 / k * PROBLEM.gradient(x, idx)
        np.testing.assert_allclose(result.history["x"][k], x, rtol=1e-12)
    repeats = [len(idx) - len(set(idx.tolist())) for idx in seen]
    assert (max(repeats) > 0) == (most is None)


def test_the_whole_sum_is_a_gradient_step():
    result = dynamic_sampling(
        PROBLEM, START, step=0.1, n_steps=3, initial=50, max_batch=50, ratio=2.0
    )
    plain = sgd(PROBLEM, START, step=0.1, n_steps=3, batch_size=50)
    np.testing.assert_allclose(result.x, plain.x, rtol=1e-13)


@given(st.integers(2, 9), st.integers(0, 10**6), st.floats(0.1, 3.0))
def test_the_norm_test_triggers_exactly_at_the_threshold(b, seed, theta):
    G = np.random.default_rng(seed).normal(size=(b, 3)) + 0.5
    g = G.mean(axis=0)
    v = np.var(G, axis=0, ddof=1).sum()
    critical = math.sqrt(v / b) / np.linalg.norm(g)
    assert next_batch(G, g, critical * (1 + 1e-9)) == b
    assert next_batch(G, g, critical * (1 - 1e-9)) == b + 1
    wanted = math.ceil(v / (theta**2 * (g @ g)))
    assert next_batch(G, g, theta) == (min(wanted, 4 * b) if v / b > theta**2 * (g @ g) else b)
    assert next_batch(G, g, theta, most=b + 1) <= b + 1
    assert next_batch(G - g, 0 * g, theta) == 4 * b


def test_the_norm_test_keeps_large_batches_for_the_end():
    far = dynamic_sampling(
        PROBLEM, np.full(3, 100.0), step=0.05, n_steps=10, rule="norm-test", initial=10,
        max_batch=50, rng=0,
    )  # fmt: skip
    near = dynamic_sampling(
        PROBLEM, PROBLEM.minimiser(START), step=0.05, n_steps=10, rule="norm-test", initial=10,
        max_batch=50, rng=0,
    )  # fmt: skip
    assert far.history["batch"][2] <= 20
    assert near.history["batch"][2] == 50
    assert near.history["batch"][1] <= 40
    assert (np.diff(near.history["batch"]) >= 0).all()


def test_geometric_batches_converge_where_a_fixed_batch_stalls():
    best = PROBLEM.value(PROBLEM.minimiser(START))
    gaps = np.zeros(2)
    for seed in range(5):
        growing = dynamic_sampling(PROBLEM, START, step=0.3, n_steps=60, ratio=1.15, rng=seed)
        fixed = sgd(PROBLEM, START, step=0.3, n_steps=60, batch_size=2, replace=True, rng=seed)
        gaps += growing.fun - best, fixed.fun - best
    assert gaps[0] < 0.02 * gaps[1]


def test_averaged_steps_and_tail_weights():
    step = averaged_step(0.5, 0.7)
    assert [step(t) for t in (0, 1, 9)] == pytest.approx([0.5, 0.5 * 2**-0.7, 0.5 * 10**-0.7])
    assert averaged_step(1.0)(1) == pytest.approx(2**-0.6)
    run = sgd(
        PROBLEM, START, step=step, n_steps=7, average=tail_weights(7, 0.4), rng=0, record=True
    )
    np.testing.assert_allclose(run.x_average, run.history["x"][4:7].mean(axis=0), rtol=1e-12)
    assert tail_weights(1).tolist() == [1.0]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"ratio": 1.0}, "ratio"),
        ({"theta": 0.0}, "theta"),
        ({"initial": 0}, "initial"),
        ({"initial": 1, "rule": "norm-test"}, "initial"),
        ({"max_batch": 51}, "max_batch"),
        ({"initial": 9, "max_batch": 8}, "initial"),
        ({"rule": "linear"}, "rule"),
        ({"step": 0.0}, "step"),
        ({"n_steps": 10_000}, "ratio"),
    ],
)
def test_bad_options_are_refused_by_name(options, name):
    with pytest.raises((TypeError, ValueError), match=name):
        dynamic_sampling(PROBLEM, START, **{"step": 0.1, "n_steps": 3, **options})
    for arguments in ((0.0, 0.6), (1.0, 1.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match=r"^(a|exponent) must"):
            averaged_step(*arguments)


def test_ten_thousand_steps_of_the_plan_do_not_overflow():
    result = dynamic_sampling(
        PROBLEM, START, step=0.1, n_steps=3000, ratio=2.0, max_batch=50, rng=0
    )
    assert result.history["batch"][-1] == 50
    assert result.success
