"""SMB on a perceptron: against SGD where trials pass, L-BFGS of one iteration where they fail.

An accepted step is two forward passes and a backward pass; SGD's is one of each. A refused one is
two of each and the work on the vectors, which is set beside eight passes of torch.add over the same
bytes.
"""

from __future__ import annotations

import functools

import pytest

torch = pytest.importorskip("torch")

from thalweg.descent import SMB  # noqa: E402
from thalweg.descent._trial_steps import Part, take_model_steps  # noqa: E402

nn = torch.nn
WIDTHS = (784, 128, 64, 10)
BATCH, BATCHES = 128, 20
SIZE = 4_000_000


@functools.cache
def images():
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(BATCH * BATCHES, WIDTHS[0], generator=generator)
    return rows, (rows[:, :10] + 0.1 * rows[:, 10:20]).argmax(1)


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )  # fmt: skip


def epoch(make, gradients_in_closure):
    """Return a function that trains a fresh network for an epoch and returns the last loss."""

    def run():
        model = perceptron()
        optimizer = make(model.parameters())
        rows, labels = images()
        for X, y in zip(rows.split(BATCH), labels.split(BATCH), strict=True):

            def closure(X=X, y=y):
                loss = nn.functional.cross_entropy(model(X), y)
                if gradients_in_closure:
                    optimizer.zero_grad()
                    loss.backward()
                return loss

            optimizer.step(closure)
        with torch.no_grad():
            return float(nn.functional.cross_entropy(model(rows), labels))

    return run


@pytest.mark.parametrize(
    ("entrant", "make", "closure", "peer", "target"),
    [
        ("thalweg SMB", lambda p: SMB(p, lr=0.01), False, None, None),
        ("torch.optim.SGD", lambda p: torch.optim.SGD(p, lr=0.01), True, "torch", 1 / 1.6),
    ],
)
def test_accepted_steps(measure, entrant, make, closure, peer, target):
    images()
    measure(
        epoch(make, closure),
        workload=f"{BATCHES} steps that the test accepts, perceptron 784-128-64-10, batch {BATCH}",
        entrant=entrant,
        accuracy=("training loss", lambda loss: loss),
        peer=peer,
        target=target,
    )


def lbfgs(parameters):
    return torch.optim.LBFGS(parameters, lr=1.0, max_iter=1, line_search_fn="strong_wolfe")


@pytest.mark.parametrize(
    ("entrant", "make", "closure", "peer", "target"),
    [
        ("thalweg SMB", lambda p: SMB(p, lr=2.0), False, None, None),
        ("torch.optim.LBFGS, one iteration, strong Wolfe", lbfgs, True, "torch", 1.5),
    ],
)
def test_epoch(measure, entrant, make, closure, peer, target):
    images()
    measure(
        epoch(make, closure),
        workload=f"epoch of {BATCHES} batches of {BATCH}, perceptron 784-128-64-10",
        entrant=entrant,
        accuracy=("training loss", lambda loss: loss),
        peer=peer,
        target=target,
    )


@functools.cache
def vectors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SIZE, generator=generator) for _ in range(3)]


def model_step():
    """Return the work of a refused step beside its passes through the network."""
    x, g, end = vectors()
    part = Part({"lr": 1.0, "eta": 0.99}, x.clone(), g)
    part.norm = float(g.norm())

    def run(end):
        take_model_steps([part], [end], [g], 1.0)
        return part.parameter - part.start

    return run, end.clone


def passes():
    x, g, _ = vectors()
    out = torch.empty_like(x)

    def run(_):
        for _ in range(8):
            torch.add(x, g, out=out)
        return out - x

    return run, lambda: None


@pytest.mark.parametrize(
    ("entrant", "make", "target"),
    [
        ("thalweg, model step", model_step, None),
        ("eight passes of torch.add", passes, 1 / 2.5),
    ],
)
def test_vector_work(measure, entrant, make, target):
    run, setup = make()
    measure(
        run,
        workload=f"inner products and combination of a model step, {SIZE} entries of float32",
        entrant=entrant,
        accuracy=("length of the step", lambda step: float(step.norm())),
        target=target,
        setup=setup,
    )
