"""Polyak's steps for networks: the NumPy method in torch, groups as one, torch's habits."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.descent import (  # noqa: E402
    LeastSquares,
    PolyakMomentum,
    PolyakSGD,
    polyak_momentum,
    stochastic_polyak,
)

from . import test_torch_optimizers as battery  # noqa: E402
from ._battery import logistic, quadratic  # noqa: E402

nn = torch.nn
VARIANTS = ("mag", "hb")
KINDS = {
    "mag": lambda params, **options: PolyakMomentum(params, **options),
    "hb": lambda params, **options: PolyakMomentum(
        params, **{"variant": "hb", "momentum": 0.5, **options}
    ),
    "sps": lambda params, **options: PolyakSGD(params, **options),
    "ali-g": lambda params, **options: PolyakSGD(
        params, **{"rule": "ali-g", "momentum": 0.5, **options}
    ),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def step_by_loss(optimizer, loss_of):
    optimizer.zero_grad()
    loss = loss_of()
    loss.backward()
    optimizer.step(loss=loss)


def step_by_closure(optimizer, loss_of):
    def closure():
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        return loss

    optimizer.step(closure)


def parameters_of(x0, pieces=1):
    parts = np.array_split(x0, pieces)
    return [nn.Parameter(torch.tensor(part, dtype=torch.float64)) for part in parts]


def point(params):
    return np.concatenate([p.detach().numpy() for p in params])


def descend(problem, optimizer, params, steps, scale=1.0):
    """Steps on a NumPy problem; return all points."""
    points = [point(params)]
    for _ in range(steps):
        g, at = scale * problem.jac(points[-1]), 0
        for p in params:
            p.grad = torch.tensor(g[at : at + p.numel()])
            at += p.numel()
        optimizer.step(loss=scale * problem.fun(points[-1]))
        points.append(point(params))
    return np.array(points)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("c", [1.0, 0.5])
def test_a_full_batch_is_the_numpy_method(variant, c):
    """c = 1/2 is the exact bound of a quadratic: the gap counts twice."""
    problem = quadratic(12, 30.0)
    expected = polyak_momentum(
        problem.fun, problem.x0, jac=problem.jac, f_star=-1.0, variant=variant, momentum=0.8,
        lower_bound="convex" if c == 1 else "quadratic", maxiter=30, gtol=0, record=True,
        step_max=5.0,
    )  # fmt: skip
    params = parameters_of(problem.x0)
    optimizer = PolyakMomentum(params, lr_max=5.0, variant=variant, momentum=0.8, c=c, f_star=-1.0)
    points = descend(problem, optimizer, params, 30)
    np.testing.assert_allclose(points, expected.history["x"], rtol=1e-6, atol=1e-9)
    assert optimizer.last_step == pytest.approx(expected.history["step"][-1], rel=1e-6)


@each_kind
def test_groups_and_tensors_are_measured_as_one(kind):
    problem = logistic()
    one, two = parameters_of(problem.x0), parameters_of(problem.x0, 3)
    together = KINDS[kind](one, f_star=problem.minimum)
    apart = KINDS[kind]([{"params": two[:1]}, {"params": two[1:]}], f_star=problem.minimum)
    expected = descend(problem, together, one, 15)
    np.testing.assert_allclose(descend(problem, apart, two, 15), expected, rtol=1e-9, atol=1e-12)
    assert apart.last_step == pytest.approx(together.last_step)


def reference(kind, grads, losses, w, *, lr, beta, c=1.0, decay=0.0):
    """Each rule written out for one vector."""
    d, s, v = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    for g, loss in zip(grads, losses, strict=True):
        if kind == "mag":
            d = g + beta * d
            eta = min(loss / (c * d @ d), lr)
            w = (1 - decay * eta) * w - eta * d
        elif kind == "hb":
            eta = min(max(loss / (c * g @ g) + beta * g @ s / (g @ g), 0), lr)
            s = beta * s - eta * g
            w = (1 - decay * eta) * w + s
        elif kind == "sps":
            w = w - min(loss / (c * g @ g), lr) * g
        else:
            eta = min(loss / (g @ g + 1e-5), lr)
            v = beta * v - eta * g
            w = w + beta * v - eta * g
    return w


@pytest.mark.parametrize("lr", [0.3, 1e6])
@pytest.mark.parametrize(
    ("kind", "options", "numbers"),
    [
        ("mag", {"momentum": 0.7, "c": 0.3, "weight_decay": 0.1}, (0.7, 0.3, 0.1)),
        ("hb", {"momentum": 0.7, "c": 0.3, "weight_decay": 0.1}, (0.7, 0.3, 0.1)),
        ("hb", {"momentum": 0.95, "c": 8.0}, (0.95, 8.0, 0.0)),
        ("sps", {"c": 0.2}, (0.0, 0.2, 0.0)),
        ("sps", {}, (0.0, 0.5, 0.0)),
        ("ali-g", {"momentum": 0.7}, (0.7, 1.0, 0.0)),
    ],
)
def test_every_rule_is_the_one_written_out(kind, options, numbers, lr):
    rng = np.random.default_rng(2)
    grads, losses = rng.normal(size=(8, 5)) + 0.5, rng.uniform(0.2, 2, size=8)
    beta, c, decay = numbers
    params = parameters_of(np.ones(5), 2)
    optimizer = KINDS[kind](params, lr_max=lr, **options)
    for g, loss in zip(grads, losses, strict=True):
        params[0].grad, params[1].grad = torch.tensor(g[:3]), torch.tensor(g[3:])
        optimizer.step(loss=loss)
    expected = reference(kind, grads, losses, np.ones(5), lr=lr, beta=beta, c=c, decay=decay)
    np.testing.assert_allclose(point(params), expected, rtol=1e-10)


def test_the_small_constant_of_alig_counts_where_gradients_are_small():
    params = parameters_of(np.array([1.0]))
    optimizer = PolyakSGD(params, lr_max=1e9, rule="ali-g")
    params[0].grad = torch.tensor([1e-3], dtype=torch.float64)
    optimizer.step(loss=1.0)
    assert optimizer.last_step == pytest.approx(1 / (1e-6 + 1e-5))


def test_sps_on_the_whole_sum_is_the_stochastic_polyak_step():
    problem = LeastSquares(np.random.default_rng(0).normal(size=(12, 4)), np.ones(12))
    best = problem.value(problem.minimiser(np.zeros(4)))
    expected = stochastic_polyak(
        problem, np.ones(4), f_star=best, n_steps=10, batch_size=12, gamma_max=0.7
    )
    params = parameters_of(np.ones(4))
    optimizer = PolyakSGD(params, lr_max=0.7, c=1.0, f_star=best)
    for _ in range(10):
        params[0].grad = torch.tensor(problem.gradient(point(params)))
        optimizer.step(loss=problem.value(point(params)))
    np.testing.assert_allclose(point(params), expected.x, rtol=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_scaling_the_loss_leaves_the_points(variant):
    problem = quadratic(6, 10.0)
    shifted = type(problem)("shifted", lambda x: problem.fun(x) + 1, problem.jac, problem.x0, 0.0)
    found = []
    for scale in (1.0, 1e-4):
        params = parameters_of(problem.x0)
        optimizer = PolyakMomentum(params, lr_max=1e9, variant=variant, momentum=0.5)
        found.append(descend(shifted, optimizer, params, 10, scale))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-8)


@each_kind
def test_a_closure_calls_backward_and_its_loss_is_returned(kind):
    by_loss, by_closure = battery.network(), battery.network()
    case = battery.Case(KINDS[kind], step_by_loss)
    expected = battery.train(case, by_loss, KINDS[kind](by_loss.parameters()), range(4))
    optimizer = KINDS[kind](by_closure.parameters())
    for k in range(4):
        step_by_closure(optimizer, battery.loss_function(by_closure, k))
    battery.assert_same(battery.weights(by_closure), expected)
    params = parameters_of(np.ones(2))
    optimizer, losses = KINDS[kind](params), []

    def closure():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        losses.append(params[0].square().sum())
        losses[-1].backward()
        return losses[-1]

    with torch.no_grad():
        assert optimizer.step(closure) is losses[0]
    assert len(losses) == 1
    assert optimizer.step(loss=2.0) == 2.0


@each_kind
def test_one_transfer_of_numbers_a_step(kind, monkeypatch):
    from thalweg.descent import _polyak_steps as module

    calls = []
    real = module.numbers_of
    monkeypatch.setattr(module, "numbers_of", lambda scalars: calls.append(1) or real(scalars))
    monkeypatch.setattr(torch.Tensor, "item", None)
    monkeypatch.setattr(torch.Tensor, "__float__", None)
    monkeypatch.setattr(torch.Tensor, "__bool__", None)
    model = battery.network()
    optimizer = KINDS[kind]([{"params": [p]} for p in model.parameters()])
    for k in range(3):
        step_by_loss(optimizer, battery.loss_function(model, k))
    assert len(calls) == 3


@each_kind
@pytest.mark.parametrize("loss", [float("nan"), float("inf"), torch.tensor(float("nan"))])
def test_a_loss_that_is_not_finite_moves_nothing(kind, loss):
    params = parameters_of(np.ones(3))
    optimizer = KINDS[kind](params)
    params[0].grad = torch.ones(3, dtype=torch.float64)
    optimizer.step(loss=1.0)
    before, state = point(params), copy.deepcopy(optimizer.state_dict()["state"])
    with pytest.raises(RuntimeError, match="must be finite"):
        optimizer.step(loss=loss)
    params[0].grad = torch.tensor([1.0, float("nan"), 1.0], dtype=torch.float64)
    with pytest.raises(RuntimeError, match="must be finite"):
        optimizer.step(loss=1.0)
    np.testing.assert_array_equal(point(params), before)
    torch.testing.assert_close(optimizer.state_dict()["state"], state, rtol=0, atol=0)


@each_kind
def test_a_zero_gradient_leaves_parameters_and_momentum(kind):
    params = parameters_of(np.ones(3))
    optimizer = KINDS[kind](params)
    params[0].grad = torch.ones(3, dtype=torch.float64)
    optimizer.step(loss=1.0)
    assert optimizer.last_step > 0
    before, state = point(params), copy.deepcopy(optimizer.state_dict()["state"])
    params[0].grad = torch.zeros(3, dtype=torch.float64)
    optimizer.step(loss=5.0)
    assert optimizer.last_step == 0
    np.testing.assert_array_equal(point(params), before)
    torch.testing.assert_close(optimizer.state_dict()["state"], state, rtol=0, atol=0)


@each_kind
def test_a_loss_under_the_bound_counts_as_fitted_and_warns_once(kind):
    params = parameters_of(np.ones(3))
    optimizer = KINDS[kind](params, f_star=2.0)
    params[0].grad = torch.ones(3, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="not a lower bound") as caught:
        optimizer.step(loss=1.0)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(point(params), 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(loss=1.0)
        PolyakMomentum(params).step(loss=0.0)
        copy.deepcopy(KINDS[kind](params))


@each_kind
def test_groups_may_have_caps_of_their_own(kind):
    params = parameters_of(np.ones(4), 2)
    optimizer = KINDS[kind](
        [{"params": params[:1], "lr_max": 0.01}, {"params": params[1:]}], lr_max=0.1
    )
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.1]
    assert "lr_max" not in optimizer.param_groups[0]
    for p in params:
        p.grad = torch.ones(2, dtype=torch.float64)
    optimizer.step(loss=100.0)
    moved = 1 - point(params)
    np.testing.assert_allclose(moved[2:], 10 * moved[:2])
    assert optimizer.last_step == 0.1


def test_groups_may_have_momentum_and_decay_of_their_own():
    params = parameters_of(np.ones(4), 2)
    optimizer = PolyakMomentum(
        [{"params": params[:1], "momentum": 0.0, "weight_decay": 0.5}, {"params": params[1:]}],
        lr_max=0.1,
    )
    for p in params:
        p.grad = torch.ones(2, dtype=torch.float64)
    optimizer.step(loss=100.0)
    np.testing.assert_allclose(point(params), [0.85, 0.85, 0.9, 0.9])
    optimizer.step(loss=100.0)
    np.testing.assert_allclose(point(params)[:3:2], [0.85 * 0.95 - 0.1, 0.9 - 0.19])


def test_without_gradients_nothing_happens():
    params = parameters_of(np.ones(3))
    optimizer = PolyakMomentum(params)
    assert optimizer.step(loss=1.0) == 1.0
    assert not optimizer.state
    assert optimizer.last_step == 0.0


@pytest.mark.parametrize("as_tensor", [True, False])
def test_the_loss_is_averaged_over_processes(monkeypatch, as_tensor):
    """Another process has the loss 3: with 1 here the mean is 2."""
    distributed = torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda value: value.add_(3.0))
    params = parameters_of(np.ones(1))
    optimizer = PolyakSGD(params, lr_max=10.0, c=1.0)
    params[0].grad = torch.ones(1, dtype=torch.float64)
    loss = torch.tensor(1.0) if as_tensor else 1.0
    assert optimizer.step(loss=loss) is loss
    assert float(loss) == 1.0
    assert optimizer.last_step == 2.0


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (PolyakMomentum, {"lr_max": 0.0}, "lr_max must be"),
        (PolyakMomentum, {"momentum": 1.0}, "momentum must be"),
        (PolyakMomentum, {"momentum": -0.1}, "momentum must be"),
        (PolyakMomentum, {"variant": "nesterov"}, "variant must be one of"),
        (PolyakMomentum, {"c": 0.0}, "c must be"),
        (PolyakMomentum, {"f_star": float("nan")}, "f_star must be"),
        (PolyakMomentum, {"weight_decay": -1.0}, "weight_decay must be"),
        (PolyakSGD, {"lr_max": -1.0}, "lr_max must be"),
        (PolyakSGD, {"rule": "l4"}, "rule must be one of"),
        (PolyakSGD, {"c": 0.0}, "c must be"),
        (PolyakSGD, {"momentum": 0.9}, "momentum must be left out"),
        (PolyakSGD, {"rule": "ali-g", "c": 1.0}, "c must be left out"),
        (PolyakSGD, {"rule": "ali-g", "momentum": 1.0}, "momentum must be"),
    ],
)
def test_bad_options_are_refused_by_name(make, options, message):
    params = parameters_of(np.ones(2))
    with pytest.raises(ValueError, match=f"^{message}"):
        make(params, **options)
    optimizer = make(parameters_of(np.ones(2)))
    name = next(iter(options))
    with pytest.raises(ValueError, match=f"^{name} must"):
        optimizer.add_param_group({"params": params, **options})
    assert len(optimizer.param_groups) == 1


def test_what_all_groups_share_must_agree():
    for make, options in (
        (PolyakMomentum, {"variant": "hb"}),
        (PolyakMomentum, {"c": 2.0}),
        (PolyakMomentum, {"f_star": 1.0}),
        (PolyakSGD, {"c": 2.0}),
        (PolyakSGD, {"f_star": 1.0}),
    ):
        optimizer = make(parameters_of(np.ones(2)))
        (name,) = options
        with pytest.raises(ValueError, match=f"{name} must be .* in every group"):
            optimizer.add_param_group({"params": parameters_of(np.ones(1)), **options})
        assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="lr_max and lr"):
        optimizer.add_param_group({"params": parameters_of(np.ones(1)), "lr": 1.0, "lr_max": 1.0})


def test_bad_losses_are_refused():
    params = parameters_of(np.ones(2))
    optimizer = PolyakMomentum(params)
    params[0].grad = torch.ones(2, dtype=torch.float64)
    for arguments in ({}, {"closure": lambda: 1.0, "loss": 1.0}):
        with pytest.raises(TypeError, match="just one of closure and loss"):
            optimizer.step(**arguments)
    for loss in ("1", True, [1.0]):
        with pytest.raises(TypeError, match="loss must be a number"):
            optimizer.step(loss=loss)
    with pytest.raises(TypeError, match="got None"):
        optimizer.step(lambda: None)
    for loss in (torch.ones(2), torch.tensor(1j)):
        with pytest.raises(ValueError, match="one real number"):
            optimizer.step(loss=loss)
    np.testing.assert_array_equal(point(params), 1.0)
