"""Steps of the optimizers beside torch's SGD: a network 64-128-128-10, its gradients given.

What is asked for: at most 1.5 times the step of SGD, by foreach, with the same momentum and, where
the step depends on the size of the gradient, with the norm of all gradients read as a number.
Optimizers that evaluate the loss themselves are measured by whole iterations, on one batch, beside
SGD's; their workload says how many evaluations an iteration takes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch

from thalweg import descent

WANTED = 1 / 1.5
STEPS = 100
GIVEN = "100 steps, network 64-128-128-10, gradients given"
LINES = "20 iterations, network 64-128-128-10, batch of 128"


def network() -> Any:
    torch_rng = torch.Generator().manual_seed(0)
    layers = [torch.nn.Linear(64, 128), torch.nn.Linear(128, 128), torch.nn.Linear(128, 10)]
    with torch.no_grad():
        for layer in layers:
            for p in layer.parameters():
                p.copy_(torch.randn(p.shape, generator=torch_rng) * 0.1)
    return torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])


def steps_of(
    make: Callable[[Any], Any], normed: bool = False, **arguments: Any
) -> Callable[[], Any]:
    """Take STEPS steps with fixed small gradients; return the parameters."""
    model = network()
    torch_rng = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.grad = 1e-4 * torch.randn(p.shape, generator=torch_rng)
    optimizer = make(model.parameters())

    def run() -> Any:
        for _ in range(STEPS):
            if normed:
                torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
            optimizer.step(**arguments)
        return model

    return run


def sgd(params: Any, momentum: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=1e-3, momentum=momentum, foreach=True)


def polyak(params: Any) -> Any:
    return descent.PolyakMomentum(params, lr_max=1e-3, momentum=0.9)


def largest(model: Any) -> float:
    return max(float(p.detach().abs().max()) for p in model.parameters())


SAME_ARITHMETIC = {
    "AdaGradNorm": (lambda p: descent.AdaGradNorm(p, lr=1e-3), {}, 0.0),
    "HeavyBall": (lambda p: descent.HeavyBall(p, lr=1e-3, momentum=0.9), {}, 0.9),
    "PolyakMomentum": (polyak, {"loss": 1.0}, 0.9),
    "PolyakSGD": (lambda p: descent.PolyakSGD(p, lr_max=1e-3), {"loss": 1.0}, 0.0),
}


@pytest.mark.parametrize("name", SAME_ARITHMETIC)
@pytest.mark.parametrize("entrant", ["ours", "torch"])
def test_steps(measure, entrant, name):
    make, arguments, momentum = SAME_ARITHMETIC[name]
    if entrant == "ours":
        run, label, peer = steps_of(make, **arguments), f"thalweg {name}", None
    else:
        normed = name != "HeavyBall"
        run = steps_of(lambda p: sgd(p, momentum), normed=normed)
        label = "torch.optim.SGD" + (" and a norm" if normed else "")
        peer = "torch"
    measure(
        run,
        workload=f"{GIVEN}: {name}, momentum {momentum:g}",
        entrant=label,
        accuracy=("largest parameter", largest),
        peer=peer,
        target=WANTED if peer else None,
        rounds=20,
    )


@pytest.mark.parametrize("entrant", ["thalweg HeavyBall", "pytorch_optimizer SGDW"])
def test_momentum_of_another_library(measure, entrant):
    ours = entrant.startswith("thalweg")
    if not ours and importlib.util.find_spec("pytorch_optimizer") is None:
        pytest.skip("missing peer: pytorch-optimizer (make bench installs it)")

    def make(params: Any) -> Any:
        if ours:
            return descent.HeavyBall(params, lr=1e-3, momentum=0.9)
        from pytorch_optimizer import SGDW

        return SGDW(params, lr=1e-3, momentum=0.9)

    measure(
        steps_of(make),
        workload=f"{GIVEN}: one momentum of 0.9",
        entrant=entrant,
        accuracy=("largest parameter", largest),
        peer=None if ours else "pytorch-optimizer",
        rounds=20,
    )


def iterations_of(make: Callable[[Any], Any], step: Callable[..., Any]) -> Callable[[], float]:
    torch_rng = torch.Generator().manual_seed(2)
    rows = torch.randn(128, 64, generator=torch_rng)
    labels = torch.randint(10, (128,), generator=torch_rng)
    model = network()
    optimizer = make(model.parameters())

    def outputs() -> Any:
        return model(rows)

    def loss_of(z: Any = None) -> Any:
        return torch.nn.functional.cross_entropy(outputs() if z is None else z, labels)

    def run() -> float:
        for _ in range(20):
            step(optimizer, outputs, loss_of)
        return float(loss_of().detach())

    return run


def plain(optimizer: Any, outputs: Any, loss_of: Any) -> None:
    optimizer.zero_grad()
    loss_of().backward()
    optimizer.step()


EVALUATING = {
    "SMB, 2 forward passes and 1 or 2 backward": (
        lambda p: descent.SMB(p),
        lambda optimizer, outputs, loss_of: optimizer.step(loss_of),
    ),
    "StochasticLineSearch, 1 backward and a forward pass a trial": (
        lambda p: descent.StochasticLineSearch(p),
        lambda optimizer, outputs, loss_of: optimizer.step(loss_of),
    ),
    "SSO, 10 inner steps": (
        lambda p: descent.SSO(p, target_step=1.0),
        lambda optimizer, outputs, loss_of: optimizer.step(outputs, loss_of),
    ),
    "ProxyProx, 10 inner steps": (
        lambda p: descent.ProxyProx(p, eta=0.1),
        lambda optimizer, outputs, loss_of: optimizer.step(loss_of, loss_of),
    ),
}


@pytest.mark.parametrize("name", EVALUATING)
@pytest.mark.parametrize("entrant", ["ours", "torch"])
def test_iterations(measure, entrant, name):
    make, step = EVALUATING[name]
    ours = entrant == "ours"
    measure(
        iterations_of(make, step) if ours else iterations_of(sgd, plain),
        workload=f"{LINES}: {name}",
        entrant=f"thalweg {name.split(',')[0]}" if ours else "torch.optim.SGD",
        accuracy=("loss", float),
        peer=None if ours else "torch",
        rounds=5,
    )
