"""The line search on each batch: where it starts, what it accepts, what it leaves alone."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.descent import StochasticLineSearch  # noqa: E402
from thalweg.descent.line_search import MOST_TRIALS  # noqa: E402

nn = torch.nn


def parameter(*values):
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def quadratic(weight, curvature=1.0):
    return lambda: 0.5 * curvature * (weight**2).sum()


def expected_trials(first, curvature, c, shrink):
    """On h w² / 2 Armijo's rule reads step <= 2 (1 - c) / h."""
    trial = 0
    while first * shrink**trial > 2 * (1 - c) / curvature:
        trial += 1
    return trial


@pytest.mark.parametrize("reset", [0, 1, 2])
@pytest.mark.parametrize(
    ("c", "shrink", "expand", "batches"), [(0.1, 0.9, 2.0, 4), (0.5, 0.5, 3.0, 1)]
)
def test_steps_are_those_of_the_rule_on_a_quadratic(reset, c, shrink, expand, batches):
    weight, curvature = parameter(3.0, -1.0), 0.7
    optimizer = StochasticLineSearch([weight], 9.0, c, shrink, expand, reset, batches)
    lr, point = 9.0, np.array([3.0, -1.0])
    for _ in range(5):
        calls = []

        def closure(calls=calls):
            calls.append(1)
            return quadratic(weight, curvature)()

        loss = optimizer.step(closure)
        assert loss.item() == pytest.approx(0.5 * curvature * point @ point)
        first = lr * (expand ** (1 / batches) if reset == 1 else 1.0)
        trials = expected_trials(first, curvature, c, shrink)
        length = first * shrink**trials
        point = point - length * curvature * point
        np.testing.assert_allclose(weight.detach().numpy(), point, rtol=1e-12)
        group = optimizer.param_groups[0]
        assert group["step_size"] == pytest.approx(length, rel=1e-12)
        assert group["evaluations"] == len(calls) == trials + 2
        lr = 9.0 if reset == 2 else length
        assert group["lr"] == pytest.approx(lr, rel=1e-12)


def test_the_fall_is_asked_of_all_groups_together():
    first, second = parameter(1.0), parameter(1.0)
    groups = [{"params": [first], "lr": 1.0}, {"params": [second], "lr": 0.1}]
    optimizer = StochasticLineSearch(groups, c=0.5, shrink=0.5, reset=2)
    optimizer.step(lambda: 2.0 * first.square().sum() + 2.0 * second.square().sum())
    # loss 4 -> 2 (1 - 4 a)² + 2 (1 - 4 b)², fall 0.5 * 16 (a + b): refused at 1, accepted at 1/4
    assert first.item() == 0.0
    assert second.item() == pytest.approx(1 - 4 * 0.025)
    assert [group["step_size"] for group in optimizer.param_groups] == [0.25, 0.025]


def test_interpolated_batches_are_fitted_without_a_learning_rate():
    rng = torch.Generator().manual_seed(0)
    X = torch.randn(64, 5, generator=rng, dtype=torch.float64)
    truth = torch.arange(5.0, dtype=torch.float64)
    y = X @ truth
    weight = parameter(*[0.0] * 5)
    optimizer = StochasticLineSearch([weight], lr=100.0, batches=8)
    for step in range(300):
        rows = slice(8 * (step % 8), 8 * (step % 8) + 8)
        optimizer.step(lambda rows=rows: ((X[rows] @ weight - y[rows]) ** 2).mean())
    torch.testing.assert_close(weight.detach(), truth, rtol=0, atol=1e-8)


def test_a_trial_that_is_not_finite_is_refused():
    weight = parameter(1.0)
    optimizer = StochasticLineSearch([weight], lr=2.0, c=0.1, shrink=0.5, reset=2)
    # 1 - 2 gives NaN, 1 - 1 minus infinity
    optimizer.step(lambda: torch.log(weight).sum())
    assert weight.item() == 0.5


def test_a_search_without_end_leaves_the_parameters():
    weight = parameter(2.0)
    optimizer = StochasticLineSearch([weight], lr=1.0, shrink=0.9, reset=0)
    rise = [0.0]

    def closure():
        rise[0] += 1.0
        return weight.sum() * 1e-3 + rise[0]

    optimizer.step(closure)
    assert weight.item() == 2.0
    group = optimizer.param_groups[0]
    assert group["step_size"] == 0.0
    assert group["evaluations"] == MOST_TRIALS + 1
    assert group["lr"] == pytest.approx(0.9 ** (MOST_TRIALS - 1))


def test_a_closure_that_breaks_in_the_search_leaves_the_parameters():
    weight = parameter(2.0)
    calls = []

    def closure():
        calls.append(1)
        if len(calls) > 1:
            raise KeyError("data")
        return weight.square().sum()

    with pytest.raises(KeyError):
        StochasticLineSearch([weight]).step(closure)
    assert weight.item() == 2.0


def test_misuse_is_refused_by_name():
    weight = parameter(2.0)
    optimizer = StochasticLineSearch([weight])
    with pytest.raises(TypeError, match="closure must be a callable"):
        optimizer.step()

    def differentiated():
        loss = weight.square().sum()
        loss.backward()
        return loss

    with pytest.raises(TypeError, match="without calling backward"):
        optimizer.step(differentiated)
    with pytest.raises(ValueError, match="depends on the parameters"):
        optimizer.step(lambda: torch.tensor(1.0))
    with pytest.raises(RuntimeError, match="finite"):
        optimizer.step(lambda: weight.sum() * torch.nan)
    assert weight.item() == 2.0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lr", 0.0), ("c", 0.0), ("c", 1.0), ("shrink", 1.0), ("shrink", 0.0), ("expand", 0.5),
        ("reset", 3), ("batches", 0), ("batches", 1.5),
    ],
)  # fmt: skip
def test_bad_options_are_refused_by_name(option, value):
    with pytest.raises((TypeError, ValueError), match=option):
        StochasticLineSearch([parameter(1.0)], **{option: value})
