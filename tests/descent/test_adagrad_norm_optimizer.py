"""AdaGradNorm for torch: the steps of the NumPy method, one sum for all groups, shards."""

from __future__ import annotations

import copy
import math
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.descent import AdaGradNorm, adagrad_norm, adagrad_norm_minimize  # noqa: E402

SCALES = np.array([1.0, 3.0, 0.5, 2.0, 0.1])


def weights(*values, dtype=torch.float64):
    return torch.nn.Parameter(torch.tensor(values, dtype=dtype))


def step_with(optimizer, *gradients):
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = (
            None
            if gradient is None
            else torch.as_tensor(gradient).to(parameter).reshape_as(parameter)
        )
    optimizer.step()


def test_takes_the_steps_of_the_method_of_arrays():
    noise = np.random.default_rng(0).normal(size=(100, 5))
    rest = iter(noise)
    path = adagrad_norm(
        lambda x, rng: SCALES * x + next(rest), np.ones(5), n_steps=100, eta=0.7, gamma=0.3,
        record=True,
    ).history["x"]  # fmt: skip
    a, b = weights(1.0, 1.0), weights(1.0, 1.0, 1.0)
    optimizer = AdaGradNorm([a, b], lr=0.7, gamma=0.3)
    for k in range(100):
        x = np.concatenate([a.detach().numpy(), b.detach().numpy()])
        np.testing.assert_allclose(x, path[k], atol=1e-6)
        g = SCALES * x + noise[k]
        step_with(optimizer, g[:2], g[2:])
    np.testing.assert_allclose(torch.cat([a, b]).detach(), path[-1], atol=1e-6)


def test_one_sum_for_all_groups_and_options_for_each():
    a, b = weights(0.0), weights(0.0)
    optimizer = AdaGradNorm(
        [{"params": [a]}, {"params": [b], "lr": 10.0, "gamma": 12.0}], lr=2.0, gamma=5.0
    )
    step_with(optimizer, [3.0], [4.0])
    assert a.item() == pytest.approx(-2 * 3 / math.sqrt(25 + 25))
    assert b.item() == pytest.approx(-10 * 4 / math.sqrt(144 + 25))
    step_with(optimizer, None, [12.0])
    assert a.item() == pytest.approx(-2 * 3 / math.sqrt(25 + 25))
    assert b.item() == pytest.approx(-40 / 13 - 120 / math.sqrt(144 + 25 + 144))
    assert optimizer.param_groups[0]["grad_sum"] == pytest.approx(169)


def test_weight_decay_is_the_gradient_of_half_the_squared_norm():
    """As exact gradients of ½ x·Dx + ½ 0.4 ‖x‖², whose sum the method sees."""
    expected = adagrad_norm_minimize(
        lambda x: 0.0, np.ones(5), jac=lambda x: (SCALES + 0.4) * x, gtol=0, maxiter=50
    ).x
    w = weights(*np.ones(5))
    optimizer = AdaGradNorm([w], weight_decay=0.4)
    for _ in range(50):
        gradient = SCALES * w.detach().numpy()
        step_with(optimizer, gradient)
        np.testing.assert_array_equal(w.grad.numpy(), gradient)
    np.testing.assert_allclose(w.detach().numpy(), expected, atol=1e-12)


def test_shards_that_share_the_norm_step_as_one():
    """Two optimizers in two threads, each with a part of the parameters."""
    gradients = np.random.default_rng(1).normal(size=(20, 5))
    whole = weights(*np.ones(5))
    alone = AdaGradNorm([whole])
    for g in gradients:
        step_with(alone, g)
    barrier, parts, shared = threading.Barrier(2), [0.0, 0.0], []

    def rank(number, rows):
        def reduce(square):
            parts[number] = square
            barrier.wait(timeout=20)
            total = sum(parts)
            barrier.wait(timeout=20)
            return total

        w = weights(*np.ones(rows.stop - rows.start))
        optimizer = AdaGradNorm([w], reduce=reduce)
        for g in gradients:
            step_with(optimizer, g[rows])
        shared.append((number, w.detach().numpy()))

    threads = [
        threading.Thread(target=rank, args=pair) for pair in ((0, slice(0, 2)), (1, slice(2, 5)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = np.concatenate([w for _, w in sorted(shared, key=lambda pair: pair[0])])
    np.testing.assert_allclose(together, whole.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200])
def test_a_gradient_that_is_not_finite_moves_nothing(bad):
    a, b = weights(1.0), weights(2.0)
    optimizer = AdaGradNorm([a, b])
    step_with(optimizer, [1.0], [1.0])
    before = (a.item(), b.item(), optimizer.param_groups[0]["grad_sum"])
    with pytest.raises(RuntimeError, match="finite"):
        step_with(optimizer, [1.0], [bad])
    assert (a.item(), b.item(), optimizer.param_groups[0]["grad_sum"]) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_sums_squares_in_single_precision(dtype):
    """300 squares of 100: 3e6 leaves float16, and 300 terms lose bfloat16's digits."""
    w = torch.nn.Parameter(torch.zeros(20, 15, dtype=dtype))
    optimizer = AdaGradNorm([w])
    step_with(optimizer, torch.full((20, 15), 100.0))
    assert optimizer.param_groups[0]["grad_sum"] == pytest.approx(3e6, rel=1e-6)


def test_gradients_that_are_not_contiguous_count_once():
    w = torch.nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    optimizer = AdaGradNorm([w])
    w.grad = torch.arange(6.0, dtype=torch.float64).reshape(3, 2).T
    optimizer.step()
    assert optimizer.param_groups[0]["grad_sum"] == pytest.approx(55)


def test_the_sum_travels_with_the_state_and_copies_are_apart():
    w = weights(1.0)
    optimizer = AdaGradNorm([w])
    step_with(optimizer, [3.0])
    other = AdaGradNorm([weights(1.0)])
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["grad_sum"] == pytest.approx(9)
    again = copy.deepcopy(optimizer)
    step_with(again, [4.0])
    assert again.param_groups[0]["grad_sum"] == pytest.approx(25)
    assert optimizer.param_groups[0]["grad_sum"] == pytest.approx(9)


def test_steps_without_any_gradient_change_nothing():
    w = weights(1.0)
    optimizer = AdaGradNorm([w], weight_decay=0.5)
    optimizer.step()
    assert w.item() == 1.0
    assert optimizer.param_groups[0]["grad_sum"] == 0


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"lr": -1.0}, ValueError, "lr"),
        ({"gamma": 0.0}, ValueError, "gamma"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay"),
        ({"lr": "1"}, TypeError, "lr"),
        ({"reduce": 3}, TypeError, "reduce"),
    ],
)
def test_bad_options_are_refused_by_name(options, error, match):
    with pytest.raises(error, match=match):
        AdaGradNorm([weights(1.0)], **options)
