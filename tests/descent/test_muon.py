import copy
import io
import os
import socket

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.descent import Muon, MuonWithAdamW, muon  # noqa: E402

nn = torch.nn


def network(dtype=torch.float32):
    torch_rng = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=torch_rng) * 0.3)
    return model.to(dtype)


def batch(step, dtype=torch.float32):
    torch_rng = torch.Generator().manual_seed(100 + step)
    return torch.randn(16, 6, generator=torch_rng).to(dtype)


def train(model, optimizer, steps, scheduler=None, dtype=torch.float32):
    for step in steps:
        optimizer.zero_grad()
        model(batch(step, dtype)).square().mean().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return [p.detach().clone() for p in model.parameters()]


def matrix(*shape, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return nn.Parameter(values)


def polar(a):
    u, _, v = torch.linalg.svd(a.double().flatten(1), full_matrices=False)
    return (u @ v).view(a.shape).float()


def assert_same(first, second, **tolerance):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("shape", [(5, 5), (12, 4), (4, 12), (6, 3, 2, 2)])
def test_two_steps_equal_the_same_steps_by_svd(nesterov, adjust, shape):
    weight = matrix(*shape)
    expected, buffer = weight.detach().clone(), torch.zeros(shape)
    rows, columns = shape[0], int(np.prod(shape[1:]))
    scale = (
        max(1, rows / columns) ** 0.5 if adjust == "original" else 0.2 * max(rows, columns) ** 0.5
    )
    optimizer = Muon(
        [weight], 0.1, 0.8, nesterov=nesterov, weight_decay=0.5, n_iter=20, adjust=adjust
    )
    for seed in (1, 2):
        gradient = matrix(*shape, seed=seed).detach()
        buffer = 0.8 * buffer + gradient
        direction = polar(gradient + 0.8 * buffer if nesterov else buffer)
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * scale * direction
        weight.grad = gradient
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-5)


def test_a_rank_one_gradient_moves_along_its_singular_vectors():
    weight = nn.Parameter(torch.zeros(3, 5))
    u, v = torch.tensor([0.6, 0.0, 0.8]), torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    weight.grad = 7.0 * torch.outer(u, v)
    Muon([weight], lr=0.25, momentum=0.0, n_iter=8).step()
    torch.testing.assert_close(weight.detach(), -0.25 * torch.outer(u, v), rtol=0, atol=1e-5)


def test_the_step_does_not_depend_on_the_scale_of_the_gradient():
    steps = []
    for scale in (1e-3, 1.0, 1e6):
        weight = nn.Parameter(torch.zeros(4, 4))
        weight.grad = scale * matrix(4, 4).detach()
        Muon([weight]).step()
        steps.append(weight.detach())
    assert_same(steps[:2], steps[1:], rtol=0, atol=1e-5)


def test_a_vanishing_gradient_takes_a_vanishing_step():
    weight = nn.Parameter(torch.ones(4, 4))
    optimizer = Muon([weight], lr=1.0)
    weight.grad = torch.zeros(4, 4)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.ones(4, 4), rtol=0, atol=0)
    weight.grad = 1e-14 * matrix(4, 4).detach()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.ones(4, 4), rtol=0, atol=1e-3)


def test_five_steps_all_take_the_safety_factor():
    """The listing of the paper slices its eight-row table, whose last row alone has none."""
    value = 1 / (1.01 + 1e-7)
    for a, b, c in muon._table("polar-express")[:5]:
        value = a * value + b * value**3 + c * value**5
    weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    weight.grad = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    Muon([weight], lr=1.0, momentum=0.0).step()
    assert -weight[0, 0].item() == pytest.approx(value, abs=1e-12)


def test_schedules_by_name_and_by_coefficients_agree():
    weights = []
    for schedule in ("newton-schulz-3", [[1.5, -0.5]], np.array([[1.5, -0.5]])):
        weight = nn.Parameter(torch.zeros(4, 6))
        weight.grad = matrix(4, 6).detach()
        Muon([weight], schedule=schedule, n_iter=4).step()
        weights.append(weight.detach())
    assert_same(weights[:2], weights[1:])


def test_agrees_with_torch_where_the_polynomials_are_the_same():
    ours, theirs = matrix(24, 16), matrix(24, 16)
    first = Muon([ours], 0.02, 0.9, weight_decay=0.1, schedule="jordan", dtype=torch.bfloat16)
    second = torch.optim.Muon([theirs], 0.02, weight_decay=0.1, momentum=0.9)
    for seed in (1, 2, 3):
        ours.grad = matrix(24, 16, seed=seed).detach()
        theirs.grad = ours.grad.clone()
        first.step()
        second.step()
    change = (theirs - matrix(24, 16)).norm()
    assert (ours - theirs).norm() < 0.05 * change


@pytest.mark.parametrize("make", ["muon", "both"])
def test_resuming_from_a_file_equals_not_stopping(make):
    def optimizer_of(model):
        if make == "both":
            return MuonWithAdamW(model, schedule=[[1.5, -0.5]], n_iter=6)
        return Muon([p for p in model.parameters() if p.ndim == 2])

    through = network()
    expected = train(through, optimizer_of(through), range(6))
    model = network()
    optimizer = optimizer_of(model)
    train(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = network()
    resumed.load_state_dict(saved["model"])
    again = optimizer_of(resumed)
    again.load_state_dict(saved["optimizer"])
    assert_same(train(resumed, again, range(3, 6)), expected)


def test_loaded_options_replace_those_of_the_constructor():
    weight = matrix(4, 4)
    first, second = Muon([weight], lr=0.5, momentum=0.3), Muon([weight])
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["lr"] == 0.5
    assert second.param_groups[0]["momentum"] == 0.3


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: _unpickled(x)])
def test_a_copy_goes_on_alone(copier):
    model = network()
    optimizer = MuonWithAdamW(model)
    train(model, optimizer, range(2))
    other, other_optimizer = copier((model, optimizer))
    assert_same(train(other, other_optimizer, range(2, 4)), train(model, optimizer, range(2, 4)))


def _unpickled(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_both_parts_step_as_they_would_alone():
    together, apart = network(), network()
    matrices = [apart[0].weight, apart[2].weight]
    rest = [p for p in apart.parameters() if not any(p is m for m in matrices)]
    first = MuonWithAdamW(together, 0.03, 2e-3, momentum=0.9, adamw_weight_decay=0.1)
    second = Muon(matrices, 0.03, 0.9)
    third = torch.optim.AdamW(rest, 2e-3, weight_decay=0.1)
    for step in range(4):
        for model in (together, apart):
            model.zero_grad()
            model(batch(step)).square().mean().backward()
        for optimizer in (first, second, third):
            optimizer.step()
    assert_same(together.parameters(), apart.parameters())


def test_a_scheduler_scales_both_rates():
    model = network()
    optimizer = MuonWithAdamW(model, 0.4, 0.2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    train(model, optimizer, range(2), scheduler)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.1, 0.05])
    before = [p.detach().clone() for p in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    assert_same(train(model, optimizer, [2]), before)


def test_a_scheduler_still_drives_the_optimizer_after_loading():
    model = network()
    optimizer = MuonWithAdamW(model, 0.4, 0.2)
    optimizer.load_state_dict(optimizer.state_dict())
    before = [p.detach().clone() for p in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    assert_same(train(model, optimizer, [0]), before)


def test_groups_have_their_own_options():
    slow, fast = matrix(4, 4, seed=1), matrix(4, 4, seed=1)
    start = slow.detach().clone()
    optimizer = Muon([{"params": [slow], "lr": 0.01}, {"params": [fast]}], lr=0.1, nesterov=False)
    slow.grad = fast.grad = matrix(4, 4).detach()
    optimizer.step()
    torch.testing.assert_close(10 * (slow - start).detach(), (fast - start).detach())


def test_a_group_added_later_is_stepped():
    model, extra = network(), matrix(5, 4)
    optimizer = MuonWithAdamW(model)
    named = [("extra", extra)]
    optimizer.add_param_group({"params": named, "algorithm": "muon", "lr": 0.5})
    before = extra.detach().clone()
    extra.grad = matrix(5, 4, seed=2).detach()
    optimizer.step()
    assert (extra - before).detach().norm() > 0.5
    assert optimizer.param_groups[-1]["param_names"] == ["extra"]


def test_a_refused_group_is_not_kept():
    optimizer = Muon([matrix(3, 3)])
    with pytest.raises(ValueError, match="two axes"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))]})
    assert len(optimizer.param_groups) == 1


def test_a_model_without_a_rest_is_muon_alone():
    optimizer = MuonWithAdamW(nn.Linear(3, 4, bias=False), head=())
    assert [g["algorithm"] for g in optimizer.param_groups] == ["muon"]


def test_the_closure_is_called_once_with_gradients_on():
    model = network()
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        model.zero_grad()
        loss = model(batch(0)).square().mean()
        loss.backward()
        return loss

    for optimizer in (MuonWithAdamW(model), Muon([model[0].weight])):
        assert optimizer.step(closure).item() > 0
    assert calls == [True, True]


def test_parameters_without_gradient_are_left_untouched():
    model = network()
    optimizer = MuonWithAdamW(model, weight_decay=0.5, adamw_weight_decay=0.5)
    idle = [model[2].weight, model[2].bias]
    for p in idle:
        p.requires_grad_(False)
    before = [p.detach().clone() for p in idle]
    moving = model[0].weight.detach().clone()
    train(model, optimizer, range(2))
    assert_same(idle, before)
    assert not torch.equal(model[0].weight, moving)
    assert not any(p in optimizer.state for p in idle)


def test_no_gradient_at_all_is_no_step():
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    MuonWithAdamW(model, weight_decay=0.5).step()
    assert_same(model.parameters(), before)


def test_sparse_gradients_are_refused_by_name():
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = MuonWithAdamW(model)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(ValueError, match=r"sparse one for parameter 0\.weight"):
        optimizer.step()
    assert_same(model.parameters(), before)
    weight = matrix(3, 2)
    weight.grad = weight.detach().to_sparse()
    with pytest.raises(ValueError, match=r"number 0 of shape \(3, 2\)"):
        Muon([weight]).step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_parameters_of_each_type_are_trained_in_it(dtype):
    model = network(dtype)
    with torch.no_grad():
        before = model(batch(0, dtype)).square().mean().item()
    train(model, MuonWithAdamW(model, 0.05, 1e-2), [0] * 15, dtype=dtype)
    assert all(p.dtype == dtype for p in model.parameters())
    assert model(batch(0, dtype)).square().mean().item() < 0.3 * before


def test_work_in_bfloat16_is_that_of_float32_rounded():
    steps = []
    for dtype in (torch.float32, torch.bfloat16):
        weight = nn.Parameter(torch.zeros(16, 8))
        weight.grad = matrix(16, 8).detach()
        Muon([weight], lr=1.0, dtype=dtype).step()
        steps.append(weight.detach())
    difference = (steps[0] - steps[1]).norm() / steps[0].norm()
    assert 1e-5 < difference < 0.03


def test_the_gradient_is_not_changed():
    weight = matrix(3, 4)
    weight.grad = matrix(3, 4, seed=1).detach()
    Muon([weight]).step()
    torch.testing.assert_close(weight.grad, matrix(3, 4, seed=1).detach(), rtol=0, atol=0)


def test_memory_of_the_state_is_one_matrix_each():
    model = network()
    optimizer = MuonWithAdamW(model)
    train(model, optimizer, range(1))
    assert list(optimizer.state[model[0].weight]) == ["momentum_buffer"]
    assert set(optimizer.state[model[0].bias]) == {"step", "exp_avg", "exp_avg_sq"}


def _rank(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    model = network()
    called = []
    factor = Muon._factor
    Muon._factor = lambda self, p, options: (called.append(p.numel()), factor(self, p, options))[1]
    weights = train(model, MuonWithAdamW(model, adjust="match_rms_adamw", head=()), range(3))
    half = len(called)
    alone = network()
    train(alone, MuonWithAdamW(alone, group=False), range(1))
    torch.save((weights, half, len(called) - half), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_share_the_factors_and_agree_with_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_rank, (port, str(tmp_path)), nprocs=2)
    model = network()
    expected = train(model, MuonWithAdamW(model, adjust="match_rms_adamw", head=()), range(3))
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert_same(results[0][0], expected, rtol=0, atol=1e-7)
    assert_same(results[1][0], results[0][0])
    assert [shared for _, shared, _ in results] == [6, 3]
    assert [unshared for _, _, unshared in results] == [2, 2]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Muon([nn.Parameter(torch.zeros(7))]), ValueError, r"got shape \(7,\)"),
        (lambda: Muon([("b", nn.Parameter(torch.zeros(7)))]), ValueError, r"\(7,\) \(b\)"),
        (lambda: Muon([nn.Parameter(torch.zeros(2, 2) * 1j)]), TypeError, "real floating"),
        (lambda: Muon([matrix(2, 2)], lr=-1.0), ValueError, "lr must be"),
        (lambda: Muon([matrix(2, 2)], momentum=1.0), ValueError, "momentum must be"),
        (lambda: Muon([matrix(2, 2)], weight_decay=-0.1), ValueError, "weight_decay must be"),
        (lambda: Muon([matrix(2, 2)], n_iter=0), ValueError, "n_iter must be"),
        (lambda: Muon([matrix(2, 2)], schedule="zeta"), ValueError, "schedule .*'polar-express'"),
        (lambda: Muon([matrix(2, 2)], schedule=[1.0]), ValueError, "schedule must have 2 axes"),
        (lambda: Muon([matrix(2, 2)], adjust="rms"), ValueError, "adjust must be one of"),
        (lambda: Muon([matrix(2, 2)], dtype=torch.int8), ValueError, "dtype must be one of 'auto'"),
        (lambda: MuonWithAdamW(nn.Linear(3, 3)), ValueError, "model must have a matrix"),
        (lambda: MuonWithAdamW(network(), adamw_lr=-1.0), ValueError, "adamw_lr must be"),
        (
            lambda: MuonWithAdamW(network()).add_param_group({"params": [matrix(2, 2)]}),
            ValueError,
            "must be one of 'muon', 'adamw', got None",
        ),
        (
            lambda: MuonWithAdamW(network()).load_state_dict(
                torch.optim.AdamW(network().parameters()).state_dict()
            ),
            ValueError,
            r"groups for \['muon', 'adamw'\], got \[None\]",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
