"""SMB: which step it takes, each tensor's own model, the variant on independent batches."""

from __future__ import annotations

import copy
import os
import socket

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.descent import SMB, model_building, model_building_step  # noqa: E402

nn = torch.nn


def parameter(*values, dtype=torch.float64):
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def network(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.5)
    return model


def batch_loss(model, step=0, rows=slice(None)):
    generator = torch.Generator().manual_seed(100 + step)
    dtype = next(model.parameters()).dtype
    X = torch.randn(24, 6, generator=generator).to(dtype)
    return lambda: 0.5 * (model(X[rows]) - X[rows, :3]).square().sum(1).mean()


def gradients(model, loss_of):
    model.zero_grad()
    loss_of().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_accepted_trial_is_bitwise_the_step_of_sgd(dtype):
    model, plain = network(dtype), network(dtype)
    optimizer = SMB(model.parameters(), lr=0.03)
    sgd = torch.optim.SGD(plain.parameters(), lr=0.03)
    for step in range(5):
        optimizer.step(batch_loss(model, step))
        sgd.zero_grad()
        batch_loss(plain, step)().backward()
        sgd.step()
    assert (optimizer.n_steps, optimizer.n_model_steps) == (5, 0)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(plain), strict=True))


def test_a_refused_trial_gives_every_tensor_its_own_step():
    model, lr, eta = network(), 3.0, 0.8
    start = weights(model)
    g = gradients(model, batch_loss(model))
    with torch.no_grad():
        for p, slope in zip(model.parameters(), g, strict=True):
            p.sub_(lr * slope)
    y = [b - a for a, b in zip(g, gradients(model, batch_loss(model)), strict=True)]
    with torch.no_grad():
        for p, x in zip(model.parameters(), start, strict=True):
            p.copy_(x)
    optimizer = SMB(model.parameters(), lr=lr, eta=eta)
    optimizer.step(batch_loss(model))
    assert optimizer.n_model_steps == 1
    moves = [b - a for a, b in zip(start, weights(model), strict=True)]
    for move, slope, change in zip(moves, g, y, strict=True):
        own = model_building_step(slope, -lr * slope, change, eta=eta)
        torch.testing.assert_close(move, own, rtol=1e-10, atol=1e-14)
    pooled = [torch.cat([v.reshape(-1) for v in vectors]) for vectors in (g, y, moves)]
    joint = model_building_step(pooled[0], -lr * pooled[0], pooled[1], eta=eta)
    assert (pooled[2] - joint).norm() > 0.05 * joint.norm()


def test_it_follows_the_minimiser_of_the_same_function():
    a, b = torch.tensor([1.0, 30.0, 3.0]).double(), torch.tensor([9.0, 0.2]).double()
    first, second = parameter(1.0, -2.0, 0.5), parameter(3.0, 1.0)

    def loss():
        return 0.5 * (a * first**2).sum() + (1 + b * second**2).log().sum()

    def fun(x):
        left, right = x[:3], x[3:]
        bs = b.numpy()
        inside = 1 + bs * right**2
        slopes = np.r_[a.numpy() * left, 2 * bs * right / inside]
        return 0.5 * np.sum(a.numpy() * left**2) + np.sum(np.log(inside)), slopes

    options = {"lr": 0.4, "eta": 0.9, "c": 0.2, "auto_schedule": True, "beta": 0.8}
    optimizer = SMB([first, second], n_batches_per_epoch=7, **options)
    result = model_building(
        fun, [1.0, -2.0, 0.5, 3.0, 1.0], jac=True, groups=[[0, 1, 2], [3, 4]], gtol=0, maxiter=40,
        schedule_every=7, **options,
    )  # fmt: skip
    for _ in range(40):
        optimizer.step(loss)
    assert 0 < result.n_model_steps == optimizer.n_model_steps < 40
    assert optimizer.param_groups[0]["lr"] == pytest.approx(result.lr, rel=1e-14)
    assert result.lr != 0.4
    reached = torch.cat([first, second]).detach().numpy()
    np.testing.assert_allclose(reached, result.x, rtol=1e-9, atol=1e-12)


def test_the_closure_is_called_twice_and_differentiated_once_where_the_trial_passes():
    for lr, backwards in ((0.1, 1), (10.0, 2)):
        weight, calls, passes = parameter(2.0), [], []

        def closure(weight=weight, calls=calls, passes=passes):
            calls.append(weight.item())
            loss = weight.square().sum()
            loss.register_hook(lambda g: passes.append(1))
            return loss

        loss = SMB([weight], lr=lr).step(closure)
        assert loss.item() == 4.0
        assert calls == [2.0, pytest.approx(2.0 - 4.0 * lr)]
        assert len(passes) == backwards
        assert weight.grad.item() == 4.0


@pytest.mark.parametrize(("c", "models"), [(0.4714, 0), (0.4715, 1)])
def test_the_fall_is_asked_of_all_groups_together(c, models):
    """On w² / 2 from 1 steps of 1.2 and 0.2 fall by 0.48 + 0.18, of 1.4 that the slopes predict."""
    first, second = parameter(1.0), parameter(1.0)
    groups = [{"params": [first], "lr": 1.2}, {"params": [second], "lr": 0.2}]
    optimizer = SMB(groups, c=c)
    optimizer.step(lambda: 0.5 * (first**2).sum() + 0.5 * (second**2).sum())
    assert optimizer.n_model_steps == models


def test_groups_have_their_own_lengths_and_options():
    first, second = parameter(1.0), parameter(1.0)
    groups = [{"params": [first], "lr": 4.0, "eta": 0.5}, {"params": [second], "lr": 3.0}]
    optimizer = SMB(groups)
    optimizer.step(lambda: 0.5 * (first**2).sum() + 0.5 * (second**2).sum())
    assert optimizer.n_model_steps == 1
    assert first.item() == pytest.approx(1 - 4.0 * 0.5 / (1 + 2 * 4.0 * 0.5))
    assert second.item() == pytest.approx(1 - 3.0 * 0.99 / (1 + 2 * 3.0 * 0.99))


def test_a_tensor_without_slope_stays_while_others_move():
    first, second = parameter(1.0), parameter(1.0)
    optimizer = SMB([first, second], lr=10.0)
    optimizer.step(lambda: first.square().sum() + 0.0 * second.sum())
    assert optimizer.n_model_steps == 1
    assert second.item() == 1.0
    assert first.item() != 1.0


def test_groups_with_a_tiny_gradient_take_their_trial_step():
    first, second = parameter(1.0), parameter(1.0)

    def loss():
        return first.square().sum() + 1e-9 * second.sum()

    optimizer = SMB([{"params": [first], "lr": 10.0}, {"params": [second], "lr": 10.0}])
    optimizer.step(loss)
    assert optimizer.n_model_steps == 1
    assert second.item() == pytest.approx(1 - 1e-8, abs=1e-15)
    # the loss rises with the step, but that is not looked at
    alone, calls = parameter(1.0), []

    def rising():
        calls.append(1)
        return 1e-9 * alone.sum() + len(calls)

    optimizer = SMB([alone], lr=1.0)
    optimizer.step(rising)
    assert (alone.item(), optimizer.n_model_steps) == (pytest.approx(1 - 1e-9, rel=1e-14), 0)


def test_the_independent_variant_steps_along_the_gradient_of_the_batch_before():
    """Batches with orthogonal gradients: the model of the second must not turn the step to it."""
    weight, lr, eta = parameter(1.0, 1.0), 3.0, 0.8
    optimizer = SMB([weight], lr=lr, eta=eta, independent_batch=True)
    optimizer.step(lambda: 0.5 * weight[0].square())
    # refused: undone, nothing else
    assert weight.tolist() == [1.0, 1.0]
    assert (optimizer.n_steps, optimizer.n_model_steps) == (1, 0)
    optimizer.step(lambda: 2.0 * weight[1].square())
    assert (optimizer.n_steps, optimizer.n_model_steps) == (2, 1)
    g, previous = np.array([0.0, 4.0]), np.array([1.0, 0.0])
    s = -lr * g
    y = np.array([0.0, 4.0]) * s
    shift = np.linalg.norm(s) * (np.linalg.norm(y) + np.linalg.norm(g) / eta) - y @ s
    system = shift * np.eye(2) + np.outer(s, y) + np.outer(y, s)
    expected = np.linalg.solve(system, -(s @ s) * previous)
    np.testing.assert_allclose(weight.detach().numpy() - 1.0, expected, rtol=1e-12)
    # the third step is a first one again
    optimizer.step(lambda: 0.01 * weight[0].square())
    assert weight[0].item() == pytest.approx((1 + expected[0]) * (1 - 0.06), rel=1e-12)


def test_the_independent_variant_solves_the_system_on_batches_in_general():
    model, lr = network(), 2.0
    start = weights(model)
    g_previous = gradients(model, batch_loss(model, 0))
    g = gradients(model, batch_loss(model, 1))
    with torch.no_grad():
        for p, slope in zip(model.parameters(), g, strict=True):
            p.sub_(lr * slope)
    g_ahead = gradients(model, batch_loss(model, 1))
    with torch.no_grad():
        for p, x in zip(model.parameters(), start, strict=True):
            p.copy_(x)
    optimizer = SMB(model.parameters(), lr=lr, independent_batch=True)
    optimizer.step(batch_loss(model, 0))
    optimizer.step(batch_loss(model, 1))
    assert optimizer.n_model_steps == 1
    for p, x, old, here, ahead in zip(
        model.parameters(), start, g_previous, g, g_ahead, strict=True
    ):
        s, y = (-lr * here).reshape(-1).numpy(), (ahead - here).reshape(-1).numpy()
        sizes = [np.linalg.norm(v) for v in (s, y, here)]
        shift = sizes[0] * (sizes[1] + sizes[2] / 0.99) - y @ s
        system = shift * np.eye(len(s)) + np.outer(s, y) + np.outer(y, s)
        step = np.linalg.solve(system, -(s @ s) * old.reshape(-1).numpy())
        np.testing.assert_allclose((p - x).detach().reshape(-1).numpy(), step, rtol=1e-8)


def test_resuming_between_the_two_halves_equals_not_stopping():
    through, model = network(), network()
    options = {"lr": 2.0, "independent_batch": True, "auto_schedule": True}
    options |= {"n_batches_per_epoch": 3, "beta": 0.5}
    whole = SMB(through.parameters(), **options)
    first = SMB(model.parameters(), **options)
    for step in range(4):
        whole.step(batch_loss(through, step))
        if step == 0:
            first.step(batch_loss(model, 0))
            assert first.param_groups[0]["waiting"]
            second = SMB(model.parameters())
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        else:
            second.step(batch_loss(model, step))
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(through), strict=True))
    assert (second.n_steps, second.n_model_steps) == (whole.n_steps, whole.n_model_steps)
    assert second.n_model_steps > 0
    assert second.param_groups[0]["lr"] == whole.param_groups[0]["lr"] != 2.0


def lengths(lr, gamma, **options):
    weight = parameter(1.0)
    optimizer = SMB(
        [weight], lr=lr, auto_schedule=True, n_batches_per_epoch=4, gamma=gamma, beta=0.5, **options
    )
    found = []
    for _ in range(8):
        optimizer.step(lambda: 0.5 * weight.square().sum())
        found.append(optimizer.param_groups[0]["lr"])
        with torch.no_grad():
            weight.fill_(1.0)
    return found


def test_the_schedule_follows_the_share_of_model_steps():
    assert lengths(0.4, 0.05) == [0.4] * 3 + [0.8] * 4 + [1.6]
    assert lengths(0.4, 0.05, lr_max=0.7) == [0.4] * 3 + [0.7] * 5
    assert lengths(8.0, 0.05) == [8.0] * 3 + [4.0] * 4 + [2.0]
    # with independent batches half of the steps are the model's, and half of gamma is allowed
    assert lengths(8.0, 0.99, independent_batch=True) == [8.0] * 3 + [4.0] * 4 + [2.0]
    assert lengths(8.0, 0.99, lr_max=8.0)[-1] == 2.0


def test_without_the_schedule_the_length_stays():
    weight = parameter(1.0)
    optimizer = SMB([weight], lr=8.0, n_batches_per_epoch=1)
    for _ in range(3):
        optimizer.step(lambda: 0.5 * weight.square().sum())
    assert optimizer.param_groups[0]["lr"] == 8.0


def test_a_trial_outside_the_domain_is_corrected():
    weight = parameter(3.0)
    calls = []

    def closure():
        calls.append(weight.item())
        return weight.sum() - weight.sqrt().square().log().sum()

    optimizer = SMB([weight], lr=6.0)
    optimizer.step(closure)
    # the trial to -1 has no finite gradient, its half to 1 has gradient 0
    assert calls == pytest.approx([3.0, -1.0, 1.0])
    expected = 3.0 + model_building_step([2 / 3], [-2.0], [-2 / 3])[0]
    assert weight.item() == pytest.approx(expected, rel=1e-12)
    assert optimizer.n_model_steps == 1


def test_a_trial_without_finite_gradient_leaves_the_parameters():
    weight, calls = parameter(0.0), []

    def closure():
        calls.append(weight.item())
        return weight.sum() * (1.0 if weight.item() == 0 else torch.inf)

    with pytest.raises(RuntimeError, match="30 halvings"):
        SMB([weight], lr=1.0).step(closure)
    assert weight.item() == 0.0
    assert calls[1:] == [-(0.5**k) for k in range(31)]


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_closure_that_breaks_leaves_the_parameters(fails_at):
    weight, calls = parameter(2.0), []

    def closure():
        calls.append(1)
        if len(calls) == fails_at:
            raise KeyError("data")
        return weight.square().sum()

    optimizer = SMB([weight])
    with pytest.raises(KeyError):
        optimizer.step(closure)
    assert weight.item() == 2.0
    assert optimizer.n_steps == 0


def test_misuse_is_refused_by_name():
    weight = parameter(2.0)
    optimizer = SMB([weight])
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
    with pytest.raises(ValueError, match="depends on the parameters"):
        optimizer.step(lambda: 1.0)
    with pytest.raises(ValueError, match=r"one number, got shape \(2,\)"):
        optimizer.step(lambda: torch.stack([weight, weight]).reshape(2))
    with pytest.raises(RuntimeError, match="finite"):
        optimizer.step(lambda: weight.sum() * torch.nan)
    with pytest.raises(RuntimeError, match="finite"):
        optimizer.step(lambda: (weight - 2.0).abs().sqrt().sum())
    assert weight.item() == 2.0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lr", 0.0), ("eta", 0.0), ("eta", 1.0), ("c", 0.0), ("c", 1.0), ("gamma", 1.0),
        ("beta", 1.0), ("beta", 0.0), ("lr_max", 0.0), ("n_batches_per_epoch", 0),
        ("independent_batch", 1), ("auto_schedule", "yes"),
    ],
)  # fmt: skip
def test_bad_options_are_refused_by_name(option, value):
    with pytest.raises((TypeError, ValueError), match=option):
        SMB([parameter(1.0)], **{option: value})


def test_the_variant_is_one_of_all_groups():
    optimizer = SMB([parameter(1.0)])
    with pytest.raises(ValueError, match="independent_batch must be False in every group"):
        optimizer.add_param_group({"params": [parameter(1.0)], "independent_batch": True})
    assert len(optimizer.param_groups) == 1


def test_a_group_added_later_counts_from_the_start_of_the_first():
    optimizer = SMB([parameter(1.0)])
    for _ in range(2):
        optimizer.step(lambda: optimizer.param_groups[0]["params"][0].square().sum())
    optimizer.add_param_group({"params": [parameter(1.0)]})
    assert optimizer.n_steps == 2


def test_processes_decide_by_their_mean_loss(monkeypatch):
    """Alone, this process would refuse the trial; with the other, whose loss falls, it does not."""
    distributed = torch.distributed
    others = [5.0, 1.0]
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda value: value.add_(others.pop(0)))
    weight = parameter(1.0)
    optimizer = SMB([weight], lr=3.0)
    optimizer.step(lambda: 0.5 * weight.square().sum())
    assert not others
    assert optimizer.n_model_steps == 0
    assert weight.item() == -2.0
    # the mean falls by (2 - 1.5) / 2, and 0.1 * 3 is asked
    others[:] = [3.0, 1.0]
    with torch.no_grad():
        weight.fill_(1.0)
    optimizer.step(lambda: 0.5 * weight.square().sum())
    assert optimizer.n_model_steps == 1


def _rank(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    model = network()
    shared = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = SMB(model.parameters(), lr=1.3)
    for step in range(8):
        optimizer.step(batch_loss(shared, step, slice(12 * rank, 12 * rank + 12)))
    torch.save((weights(model), optimizer.n_model_steps), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_go_the_way_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_rank, (port, str(tmp_path)), nprocs=2)
    model = network()
    optimizer = SMB(model.parameters(), lr=1.3)
    for step in range(8):
        optimizer.step(batch_loss(model, step))
    assert 0 < optimizer.n_model_steps < 8
    for rank in (0, 1):
        reached, models = torch.load(tmp_path / f"{rank}.pt")
        assert models == optimizer.n_model_steps
        for a, b in zip(reached, weights(model), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_goes_the_way_of_the_processor():
    here, there = network(), network().cuda()
    optimizers = [SMB(m.parameters(), lr=1.0) for m in (here, there)]
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        X = torch.randn(24, 6, generator=generator, dtype=torch.float64)
        for model, optimizer in zip((here, there), optimizers, strict=True):
            rows = X.to(next(model.parameters()).device)
            optimizer.step(lambda m=model, r=rows: (m(r) - r[:, :3]).square().mean())
    assert optimizers[0].n_model_steps == optimizers[1].n_model_steps
    for a, b in zip(weights(here), weights(there), strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-9, atol=1e-11)
