from __future__ import annotations

import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from thalweg.linalg import error_parts, finite_sampler, linear_sa, lms_sampler, td_sampler
from thalweg.linalg import stochastic_approximation as module

A_BAR = np.array([[1.0, 0.6], [-0.2, 0.7]])


class Stream:
    """Gives out pairs and keeps them."""

    def __init__(self, scale=0.3):
        self.scale, self.a, self.b = scale, [], []

    def __call__(self, rng, size):
        a = A_BAR + self.scale * rng.normal(size=(size, 2, 2))
        b = np.array([1.0, -1.0]) + rng.normal(size=(size, 2))
        self.a.append(a)
        self.b.append(b)
        return a, b


def by_hand(a, b, theta, step):
    path = [np.array(theta, dtype=float)]
    for i in range(len(a)):
        path.append(path[-1] - step * (a[i] @ path[-1] - b[i]))
    return np.array(path)


def test_one_chain_follows_the_recursion():
    stream = Stream()
    draws = linear_sa(stream, [2.0, -3.0], 0.1, 50, record=range(51), rng=1)
    a, b = np.concatenate(stream.a), np.concatenate(stream.b)
    np.testing.assert_allclose(draws[0], by_hand(a, b, [2.0, -3.0], 0.1), rtol=1e-12)


def test_chains_take_the_pairs_of_a_step_one_after_another(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 3 * 6 * 4)  # four steps a block
    stream, starts = Stream(), np.arange(6.0).reshape(3, 2)
    draws = linear_sa(stream, starts, 0.1, 10, n_chains=3, record=[0, 3, 4, 10], rng=1)
    assert [len(a) for a in stream.a] == [12, 12, 6]
    a = np.concatenate(stream.a).reshape(10, 3, 2, 2)
    b = np.concatenate(stream.b).reshape(10, 3, 2)
    for chain in range(3):
        path = by_hand(a[:, chain], b[:, chain], starts[chain], 0.1)
        np.testing.assert_allclose(draws[chain], path[[0, 3, 4, 10]], rtol=1e-12)


def test_averages_are_those_of_the_iterates():
    options = {"n_chains": 2, "record": range(1, 21), "rng": 5}
    path = linear_sa(Stream(), [2.0, -3.0], 0.1, 20, **options)
    mean = linear_sa(Stream(), [2.0, -3.0], 0.1, 20, average=True, **options)
    expected = np.cumsum(path, axis=1) / np.arange(1, 21)[:, None]
    np.testing.assert_allclose(mean, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["finite", "lms", "td"])
def test_tables_give_the_draws_of_a_plain_callable(kind):
    rng = np.random.default_rng(0)
    sampler = {
        "finite": lambda: finite_sampler(
            A_BAR + rng.normal(size=(3, 2, 2)), rng.normal(size=(3, 2))
        ),
        "lms": lambda: lms_sampler(rng.normal(size=(9, 2)), rng.normal(size=9)),
        "td": lambda: td_sampler([[0.3, 0.7], [0.6, 0.4]], [[1.0, 0.3], [0.1, 1.0]], [1, -1], 0.8),
    }[kind]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        draws = linear_sa(sampler, [1.0, 2.0], 0.1, 30, n_chains=4, rng=3)
        # the callable draws all 120 pairs at once, as the table does
        plain = linear_sa(lambda rng, n: sampler(rng, n), [1.0, 2.0], 0.1, 30, n_chains=4, rng=3)
    np.testing.assert_allclose(draws, plain, rtol=1e-11)


def test_without_noise_the_error_shrinks_by_the_mean_matrix():
    sampler = finite_sampler([A_BAR], [[1.0, -1.0]])
    theta = linear_sa(sampler, [4.0, 4.0], 0.1, 25)[0, 0]
    carry = np.linalg.matrix_power(np.eye(2) - 0.1 * A_BAR, 25)
    target = np.linalg.solve(A_BAR, [1.0, -1.0])
    np.testing.assert_allclose(theta - target, carry @ ([4.0, 4.0] - target), rtol=1e-12)


def test_parts_of_the_error_add_up():
    stream = Stream()
    draws = linear_sa(stream, [2.0, -3.0], 0.1, 200, record=range(201), rng=1)
    a, b = np.concatenate(stream.a), np.concatenate(stream.b)
    target = np.linalg.solve(A_BAR, [1.0, -1.0])
    parts = error_parts(a, b, [2.0, -3.0], 0.1, A_BAR, target)
    np.testing.assert_allclose(sum(parts), draws[0] - target, atol=1e-12)
    product, linear = np.eye(2), np.zeros(2)
    for i in range(200):
        product = (np.eye(2) - 0.1 * a[i]) @ product
        linear = (np.eye(2) - 0.1 * A_BAR) @ linear + 0.1 * (b[i] - a[i] @ target)
    np.testing.assert_allclose(parts.transient[-1], product @ ([2.0, -3.0] - target), atol=1e-14)
    np.testing.assert_allclose(parts.linear[-1], linear, atol=1e-13)


def test_a_remainder_needs_random_matrices():
    rng = np.random.default_rng(0)
    parts = error_parts(
        np.tile(A_BAR, (20, 1, 1)), rng.normal(size=(20, 2)), [1.0, 1.0], 0.1, A_BAR, [0.0, 0.0]
    )
    np.testing.assert_array_equal(parts.remainder, 0)


def sampler():
    return finite_sampler(A_BAR + 0.3 * np.array([[[1.0, 0], [0, 1]], [[-1.0, 0], [0, -1]]]),
                          [[1.0, 0.0], [0.0, 1.0]])  # fmt: skip


def test_an_executor_does_not_change_the_draws(monkeypatch):
    monkeypatch.setattr(module, "CHAINS_PER_BLOCK", 4)
    serial = linear_sa(sampler(), [0.0, 0.0], 0.1, 20, n_chains=10, rng=7)
    with ThreadPoolExecutor(2) as executor:
        threads = linear_sa(sampler(), [0.0, 0.0], 0.1, 20, n_chains=10, rng=7, executor=executor)
    np.testing.assert_array_equal(serial, threads)
    assert len(np.unique(serial[:, 0, 0])) == 10


def test_a_process_can_run_a_block():
    serial = linear_sa(sampler(), [0.0, 0.0], 0.1, 20, n_chains=3, rng=7)
    with ProcessPoolExecutor(1) as executor:
        other = linear_sa(sampler(), [0.0, 0.0], 0.1, 20, n_chains=3, rng=7, executor=executor)
    np.testing.assert_array_equal(serial, other)


def test_the_callback_sees_every_block(monkeypatch):
    monkeypatch.setattr(module, "CHAINS_PER_BLOCK", 2)
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 8)
    seen = []
    linear_sa(sampler(), [0.0, 0.0], 0.1, 10, n_chains=3, rng=7, callback=seen.append)
    assert [tuple(s) for s in seen] == [
        (4, 10, 0, 3), (8, 10, 0, 3), (10, 10, 2, 3), (8, 10, 2, 3), (10, 10, 3, 3)
    ]  # fmt: skip


def growing():
    """Multiply by 1e200 (half) or leave alone: a chain overflows at its second growth."""
    return finite_sampler([[[0.0]], [[-1e200]], [[1e201]]], [[0.0]] * 3, [0.5, 0.4, 0.1])


@pytest.mark.filterwarnings("ignore:step_size")
def test_divergence_names_chain_and_iteration():
    with pytest.raises(FloatingPointError, match=r"chain \d overflowed at iteration \d+"):
        linear_sa(growing(), [1.0], 1.0, 100, n_chains=3, rng=0)


@pytest.mark.filterwarnings("ignore:step_size")
def test_divergent_chains_can_be_left_out():
    draws, finite = linear_sa(growing(), [1.0], 1.0, 3, n_chains=60, on_divergence="stop", rng=0)
    assert draws.shape == (finite.sum(), 1, 1)
    assert 0 < finite.sum() < 60
    assert np.isfinite(draws).all()


def test_the_iteration_of_the_overflow_is_the_first_that_is_not_finite():
    a = np.array([0.0, 0.0, -1e200, 0.0, -1e200, 0.0])

    def stream(rng, size):
        return a[:size, None, None], np.zeros((size, 1))

    with pytest.raises(FloatingPointError, match="chain 0 overflowed at iteration 5"):
        linear_sa(stream, [1.0], 1.0, 6)


def test_a_large_step_is_warned_of():
    with pytest.warns(UserWarning, match=r"step_size 0\.5 is above 0\.3571"):
        linear_sa(finite_sampler([[[1.4]]], [[0.0]]), [1.0], 0.5, 5)
    with pytest.warns(UserWarning, match="the mean of the first 2000 matrices"):
        linear_sa(Stream(), [0.0, 0.0], 1.0, 2000)
    with pytest.warns(UserWarning, match="chains may diverge.*eigenvalue -1"):
        linear_sa(lambda rng, n: (-np.ones((n, 1, 1)), np.zeros((n, 1))), [0.0], 0.1, 500)


def test_a_small_step_or_too_few_draws_raise_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear_sa(Stream(), [0.0, 0.0], 0.01, 2000)
        linear_sa(Stream(), [0.0, 0.0], 0.9, 2)


def bad_shape(rng, size):
    return np.zeros((size, 1, 1)), np.zeros((size, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: linear_sa(3, [0.0], 0.1, 5), TypeError, "sample must be callable"),
        (lambda: linear_sa(Stream(), [0.0, 0.0], 0.0, 5), ValueError, "step_size must be"),
        (lambda: linear_sa(Stream(), [0.0, 0.0], 0.1, 0), ValueError, "n_iter must be"),
        (lambda: linear_sa(Stream(), np.zeros((2, 2)), 0.1, 5), ValueError, "theta0 must have"),
        (lambda: linear_sa(Stream(), [0.0, np.inf], 0.1, 5), ValueError, "theta0 must be finite"),
        (lambda: linear_sa(sampler(), [0.0], 0.1, 5), ValueError, "theta0 must have 2 dimensions"),
        (lambda: linear_sa(Stream(), [0.0, 0.0], 0.1, 5, record=[6]), ValueError, "record must"),
        (lambda: linear_sa(Stream(), [0.0, 0.0], 0.1, 5, record=[2, 2]), ValueError, "ascending"),
        (lambda: linear_sa(Stream(), [0.0, 0.0], 0.1, 5, record=[]), ValueError, "at least one"),
        (
            lambda: linear_sa(Stream(), [0.0, 0.0], 0.1, 5, on_divergence="go"),
            ValueError,
            "on_divergence must be one of",
        ),
        (
            lambda: linear_sa(finite_sampler([[[-2.0]]], [[0.0]]), [0.0], 0.1, 5),
            ValueError,
            "the mean of sample must have .* eigenvalue -2",
        ),
        (lambda: linear_sa(bad_shape, [0.0, 0.0], 0.1, 5), ValueError, r"A of sample\(rng, size\)"),
        (lambda: linear_sa(bad_shape, [0.0], 0.1, 5), ValueError, r"b of sample\(rng, size\)"),
        (lambda: linear_sa(lambda rng, n: 1.0, [0.0], 0.1, 5), TypeError, "must return a pair"),
        (
            lambda: error_parts(np.zeros((3, 2, 2)), np.zeros((2, 2)), [0, 0], 0.1, A_BAR, [0, 0]),
            ValueError,
            "b must have shape",
        ),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
