"""What a user of torch expects of any optimizer, asked of every one of this domain."""

import copy
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from thalweg import descent  # noqa: E402

nn = torch.nn
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def gradients_first(optimizer, loss_of):
    """The plain way: the loss is differentiated, then the optimizer steps."""
    optimizer.zero_grad()
    loss_of().backward()
    optimizer.step()


def by_closure(optimizer, loss_of):
    """The optimizer evaluates the loss, differentiating it itself."""
    optimizer.step(loss_of)


def with_loss(optimizer, loss_of):
    """The optimizer needs the value of the loss beside its gradients."""
    optimizer.zero_grad()
    loss = loss_of()
    loss.backward()
    optimizer.step(loss=loss)


def polyak(kind, **fixed):
    """Make a Polyak optimizer by its longest step, with little momentum, so that it coasts less."""
    return lambda params, lr=1.0, **options: kind(params, lr_max=lr, **fixed, **options)


@dataclass(frozen=True)
class Case:
    """An optimizer and how it is used."""

    make: Callable[..., Any]
    step: Callable[..., None] = gradients_first
    bad: dict[str, Any] = field(default_factory=lambda: {"lr": -1.0})
    decays: str | None = None
    compiles: bool = False
    """Whether the step has no branch that depends on values, so that torch.compile can take it."""


CASES = {
    "Muon": Case(lambda params, **options: descent.Muon(params, **options), decays="lr"),
    "NormTrustRegion": Case(
        lambda params, **options: descent.NormTrustRegion(params, **{"lr": 0.02, **options}),
        decays="plain",
    ),
    "AdaGradNorm": Case(descent.AdaGradNorm),
    "DifferentialMultipliers": Case(
        lambda params, **options: descent.DifferentialMultipliers(
            params, (), **{"lr": 0.02, **options}
        ),
        by_closure,
    ),
    "HeavyBall": Case(
        lambda params, **options: descent.HeavyBall(
            params, **{"lr": 0.3, "momentum": 0.05, **options}
        ),
        compiles=True,
    ),
    "PolyakMomentum, mag": Case(polyak(descent.PolyakMomentum, momentum=0.05), with_loss),
    "PolyakMomentum, hb": Case(
        polyak(descent.PolyakMomentum, momentum=0.05, variant="hb"), with_loss
    ),
    "PolyakSGD, SPS": Case(polyak(descent.PolyakSGD), with_loss),
    "PolyakSGD, ALI-G": Case(polyak(descent.PolyakSGD, rule="ali-g", momentum=0.05), with_loss),
    "SSO": Case(
        lambda params, **options: descent.SSO(params, **{"target_step": 0.1, **options}),
        lambda optimizer, loss_of: optimizer.step(
            lambda: loss_of().reshape(1), lambda outputs: outputs.mean()
        ),
        bad={"target_step": -1.0},
    ),
    "ProxyProx": Case(
        lambda params, **options: descent.ProxyProx(params, **{"eta": 0.5, **options}),
        lambda optimizer, loss_of: optimizer.step(loss_of, loss_of),
        bad={"eta": -1.0},
    ),
    "StochasticLineSearch": Case(descent.StochasticLineSearch, by_closure),
    "SMB": Case(descent.SMB, by_closure),
}


def those(which):
    cases = [pytest.param(case, id=name) for name, case in CASES.items() if which(case)]
    return pytest.mark.parametrize("case", cases)


each = those(lambda c: True)


def network(dtype=torch.float32, device="cpu"):
    """Matrices alone, so that the optimizers for matrices take it too."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 5, bias=False), nn.Tanh(),
        nn.Linear(5, 3, bias=False),
    )  # fmt: skip
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    return model.to(device, dtype)


def loss_function(model, step):
    """Regression on the outputs of a fixed linear map, on a batch of its own each step."""
    generator = torch.Generator().manual_seed(100 + step)
    parameter = next(model.parameters())
    rows = torch.randn(24, 6, generator=generator).to(parameter.device, parameter.dtype)
    return lambda: 0.5 * (model(rows) - rows[:, :3] * 0.5).square().mean()


def train(case, model, optimizer, steps, scheduler=None):
    for step in steps:
        case.step(optimizer, loss_function(model, step))
        if scheduler is not None:
            scheduler.step()
    return weights(model)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_same(first, second, **tolerance):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 0, "atol": 0}))


def saved(*objects):
    file = io.BytesIO()
    torch.save([thing.state_dict() for thing in objects], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@each
def test_steps_lower_the_loss(case):
    model = network()
    optimizer = case.make(model.parameters())
    before = loss_function(model, 0)().item()
    train(case, model, optimizer, [0] * 15)
    assert loss_function(model, 0)().item() < 0.9 * before


@each
def test_resuming_from_a_file_equals_not_stopping(case):
    through = network()
    expected = train(case, through, case.make(through.parameters()), range(6))
    model = network()
    optimizer = case.make(model.parameters())
    train(case, model, optimizer, range(3))
    model_state, optimizer_state = saved(model, optimizer)
    resumed = network()
    resumed.load_state_dict(model_state)
    again = case.make(resumed.parameters())
    again.load_state_dict(optimizer_state)
    assert_same(train(case, resumed, again, range(3, 6)), expected)


@each
def test_a_copy_goes_on_alone(case):
    model = network()
    optimizer = case.make(model.parameters())
    train(case, model, optimizer, range(2))
    other, other_optimizer = copy.deepcopy((model, optimizer))
    before = weights(model)
    ahead = train(case, other, other_optimizer, range(2, 4))
    assert_same(weights(model), before)
    assert_same(train(case, model, optimizer, range(2, 4)), ahead)


@each
def test_parameters_that_need_no_gradient_stay(case):
    model = network()
    model[2].weight.requires_grad_(False)
    kept = model[2].weight.detach().clone()
    optimizer = case.make(model.parameters())
    before = weights(model)
    train(case, model, optimizer, range(3))
    torch.testing.assert_close(model[2].weight.detach(), kept, rtol=0, atol=0)
    assert not torch.equal(model[0].weight, before[0])


@each
def test_a_gradient_of_zero_moves_nothing(case):
    model = network()
    optimizer = case.make(model.parameters())
    before = weights(model)
    for _ in range(2):
        case.step(optimizer, lambda: sum((p * 0.0).sum() for p in model.parameters()))
    assert_same(weights(model), before)


@each
def test_the_group_that_is_added_later_moves_too(case):
    model = network()
    first, *others = model.parameters()
    optimizer = case.make([first])
    optimizer.add_param_group({"params": others})
    before = weights(model)
    train(case, model, optimizer, range(2))
    assert all(not torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))


@each
def test_bad_options_are_refused_by_name_and_the_group_is_not_kept(case):
    model = network()
    (name, value), *_ = case.bad.items()
    with pytest.raises((ValueError, TypeError), match=name):
        case.make(model.parameters(), **case.bad)
    first, *others = model.parameters()
    optimizer = case.make([first])
    with pytest.raises((ValueError, TypeError), match=name):
        optimizer.add_param_group({"params": others, name: value})
    assert len(optimizer.param_groups) == 1
    assert train(case, model, optimizer, range(1))


@each
def test_whole_numbers_are_no_parameters(case):
    whole = nn.Parameter(torch.ones(3, 3, dtype=torch.int64), requires_grad=False)
    with pytest.raises(TypeError, match="floating"):
        case.make([whole])


@each
def test_a_sparse_gradient_is_refused(case):
    table = nn.Embedding(7, 4, sparse=True)
    optimizer = case.make(table.parameters())
    before = table.weight.detach().clone()
    with pytest.raises((ValueError, TypeError, RuntimeError), match="sparse"):
        case.step(optimizer, lambda: table(torch.tensor([1, 3])).square().sum())
    torch.testing.assert_close(table.weight.detach(), before, rtol=0, atol=0)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_precision_goes_the_same_way(case, dtype):
    reference = network(torch.float64)
    exact = train(case, reference, case.make(reference.parameters()), range(3))
    model = network(dtype)
    optimizer = case.make(model.parameters())
    reached = train(case, model, optimizer, range(3))
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-3, torch.bfloat16: 0.25}[dtype]
    for a, b, start in zip(reached, exact, weights(network(torch.float64)), strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).norm() <= tolerance * (b - start).norm() + 2 * tolerance**2


@each
@pytest.mark.parametrize("device", DEVICES)
def test_every_device_goes_the_same_way(case, device):
    here, there = network(), network(device=device)
    expected = train(case, here, case.make(here.parameters()), range(3))
    reached = train(case, there, case.make(there.parameters()), range(3))
    assert all(p.device.type == device for p in reached)
    assert_same([p.cpu() for p in reached], expected, rtol=1e-3, atol=1e-4)


@each
def test_no_global_random_number_is_drawn(case):
    model = network()
    optimizer = case.make(model.parameters())
    state = torch.random.get_rng_state()
    train(case, model, optimizer, range(2))
    assert torch.equal(torch.random.get_rng_state(), state)


@those(lambda c: c.step is gradients_first)
def test_a_closure_is_called_once_and_its_loss_returned(case):
    plain, model = network(), network()
    train(case, plain, case.make(plain.parameters()), range(2))
    optimizer = case.make(model.parameters())
    calls = []
    for step in range(2):
        loss_of = loss_function(model, step)

        def closure(loss_of=loss_of):
            optimizer.zero_grad()
            loss = loss_of()
            loss.backward()
            calls.append(loss)
            return loss

        assert optimizer.step(closure) is calls[-1]
    assert len(calls) == 2
    assert_same(weights(model), weights(plain))


@those(lambda c: "lr" in c.bad)
def test_a_learning_rate_scheduler_acts(case):
    constant, decayed = network(), network()
    train(case, constant, case.make(constant.parameters()), range(3))
    optimizer = case.make(decayed.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 1e-3)
    before = weights(decayed)
    one = train(case, decayed, optimizer, range(1), scheduler)
    three = train(case, decayed, optimizer, range(1, 3), scheduler)
    for start, first, last in zip(before, one, three, strict=True):
        assert (last - first).norm() < 0.1 * (first - start).norm()
    assert any(not torch.equal(a, b) for a, b in zip(weights(constant), three, strict=True))


@those(lambda c: c.decays)
def test_weights_decay_apart_from_the_gradient(case):
    """Where the gradient is zero a decayed weight shrinks, and one without a gradient does not."""
    model = network()
    optimizer = case.make(model.parameters(), weight_decay=0.1)
    model[4].weight.requires_grad_(False)
    before = weights(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    case.step(optimizer, lambda: sum((p * 0.0).sum() for p in trained))
    shrink = [(p.norm() / q.norm()).item() for p, q in zip(weights(model), before, strict=True)]
    lr = optimizer.param_groups[0]["lr"]
    expected = 1 - 0.1 * (lr if case.decays == "lr" else 1.0)
    assert shrink == pytest.approx([expected, expected, 1.0], rel=1e-5)


@those(lambda c: c.compiles)
def test_the_step_compiles(case):
    eager, model = network(), network()
    expected = train(case, eager, case.make(eager.parameters()), range(2))
    optimizer = case.make(model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step = torch.compile(optimizer.step, backend="eager")
        for k in range(2):
            optimizer.zero_grad()
            loss_function(model, k)().backward()
            step()
    assert_same(weights(model), expected, rtol=1e-5, atol=1e-6)
