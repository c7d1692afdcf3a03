"""One spectral step on a large matrix: ours, torch's Muon, an exact SVD, and the bare products."""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.descent import NormTrustRegion  # noqa: E402

SIZE = 1024
LR = 0.02


@functools.cache
def gradient():
    matrix = np.random.default_rng(0).normal(size=(SIZE, SIZE))
    return torch.tensor(matrix, dtype=torch.float32)


@functools.cache
def exact():
    left, _, right = torch.linalg.svd(gradient().double())
    return left @ right


def optimizer_step(make):
    """Return a function that takes a step and returns the weights, zero at first."""
    weight = torch.nn.Parameter(torch.zeros(SIZE, SIZE))
    optimizer = make([weight])
    weight.grad = gradient().clone()

    def run():
        optimizer.step()
        return weight.detach()

    return run


def ours():
    return optimizer_step(lambda p: NormTrustRegion(p, LR))


def muon():
    return optimizer_step(
        lambda p: torch.optim.Muon(p, LR, weight_decay=0.0, momentum=0.95, nesterov=False)
    )


def svd():
    def run():
        left, _, right = torch.linalg.svd(gradient(), full_matrices=False)
        return -LR * left @ right

    return run


def products():
    """Five Newton-Schulz steps as products only: three a step, without sums and scaling."""
    x = gradient() / torch.linalg.norm(gradient())
    gram, square, following = (torch.empty(SIZE, SIZE) for _ in range(3))

    def run():
        for _ in range(5):
            torch.mm(x, x.T, out=gram)
            torch.mm(gram, gram, out=square)
            torch.mm(square, x, out=following)
        return -LR * exact()

    return run


def distance(weight):
    """Distance of a step from the exact one, relative to its length."""
    return float(torch.linalg.norm(weight.double() / -LR - exact()) / SIZE**0.5)


@pytest.mark.parametrize(
    ("entrant", "make", "peer", "target"),
    [
        ("thalweg NormTrustRegion", ours, None, None),
        ("torch.linalg.svd", svd, "torch", 5.0),
        ("torch.optim.Muon", muon, "torch", 1 / 1.1),
        ("matrix products alone", products, None, 1 / 1.3),
    ],
)
def test_spectral_step(measure, entrant, make, peer, target):
    exact()
    measure(
        make(),
        workload=f"step in the spectral norm, {SIZE} x {SIZE} float32, five polynomials",
        entrant=entrant,
        accuracy=("distance from the exact step", distance),
        peer=peer,
        target=target,
    )
