"""A step of AdaGradNorm beside SGD and AdaGrad of torch, and the arrays' method beside NumPy's.

Ours reads the gradient twice, for its norm and for the move; SGD reads it once, AdaGrad reads and
writes a second array of the parameters' size.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.descent import AdaGradNorm, adagrad_norm  # noqa: E402

SIZE = 1_000_000
STEPS = 20
LR = 1e-3
TARGETS = {"torch.optim.SGD": 1 / 1.3, "torch.optim.Adagrad": 1 / 0.6}
"""Least time of the peer over ours."""
MAKERS = {
    "thalweg": AdaGradNorm,
    "torch.optim.SGD": torch.optim.SGD,
    "torch.optim.Adagrad": torch.optim.Adagrad,
}


@functools.cache
def gradient():
    return torch.tensor(np.random.default_rng(0).normal(size=SIZE), dtype=torch.float32)


def first_step(entrant):
    """Return what the first step subtracts, in double precision."""
    g = gradient().double()
    if entrant == "thalweg":
        return LR * g / (1e-4 + g @ g).sqrt()
    return LR * g if entrant.endswith("SGD") else LR * g.sign()


@pytest.mark.parametrize("peer", ["torch.optim.SGD", "torch.optim.Adagrad"])
@pytest.mark.parametrize("ours", [True, False])
def test_step(measure, ours, peer):
    entrant = "thalweg" if ours else peer
    start = torch.zeros(SIZE)
    weight = torch.nn.Parameter(start.clone())
    optimizer = MAKERS[entrant]([weight], lr=LR)
    weight.grad = gradient().clone()
    optimizer.step()
    first = weight.detach().double()
    expected = -first_step(entrant)
    error = float((first - expected).norm() / expected.norm())

    def steps():
        for _ in range(STEPS):
            optimizer.step()

    measure(
        steps,
        workload=f"{STEPS} steps, {SIZE:,} parameters, beside {peer}",
        entrant=entrant,
        accuracy=("relative error of the first step", lambda _: error),
        peer=None if ours else "torch",
        target=TARGETS[peer],
        rounds=10,
    )


def slope(x, rng):
    return x


def bare(steps):
    """The method without its checks and copies."""
    x, total = np.ones(SIZE), 1e-4
    for _ in range(steps):
        total += x @ x
        x = x - x / np.sqrt(total)
    return x


@pytest.mark.parametrize("entrant", ["thalweg adagrad_norm", "NumPy written out"])
def test_arrays(measure, entrant):
    def ours():
        return adagrad_norm(slope, np.ones(SIZE), n_steps=STEPS, average=False).x

    run = ours if entrant.startswith("thalweg") else functools.partial(bare, STEPS)
    measure(
        run,
        workload=f"{STEPS} steps of AdaGrad-Norm, {SIZE:,} unknowns",
        entrant=entrant,
        accuracy=("distance from NumPy's", lambda x: np.abs(x - bare(STEPS)).max()),
        peer=None,
    )
