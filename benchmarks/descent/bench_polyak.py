"""A step of PolyakMomentum against torch's SGD with momentum: a million parameters."""

import pytest

torch = pytest.importorskip("torch")

from thalweg.descent import PolyakMomentum  # noqa: E402

SHAPE, TENSORS, MOMENTUM = (512, 512), 4, 0.9
LR = 1e-3


def model():
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.zeros(SHAPE)) for _ in range(TENSORS)]
    for p in params:
        p.grad = torch.randn(SHAPE, generator=generator)
    return params


def polyak(variant):
    params = model()
    optimizer = PolyakMomentum(params, LR, momentum=MOMENTUM, variant=variant)
    # So long that every step has the length LR, as SGD's.
    loss = torch.tensor(1e9)

    def run():
        for p in params:
            p.detach().zero_()
        optimizer.state.clear()
        for _ in range(10):
            optimizer.step(loss=loss)
        return params

    return run


def sgd():
    params = model()
    optimizer = torch.optim.SGD(params, LR, momentum=MOMENTUM, foreach=True)

    def run():
        for p in params:
            p.detach().zero_()
        optimizer.state.clear()
        for _ in range(10):
            optimizer.step()
        return params

    return run


def distance(params):
    """Largest distance from ten steps of SGD in float64."""
    total, velocity = 0.0, 0.0
    for _ in range(10):
        velocity = MOMENTUM * velocity + 1
        total += LR * velocity
    return max(
        float((p.detach().double() + total * q.grad.double()).abs().max())
        for p, q in zip(params, model(), strict=True)
    )


@pytest.mark.parametrize(
    ("entrant", "make", "peer", "target"),
    [
        ("thalweg PolyakMomentum", lambda: polyak("mag"), None, None),
        ("thalweg PolyakMomentum, heavy ball", lambda: polyak("hb"), None, None),
        ("torch.optim.SGD", sgd, "torch", 1 / 1.5),
    ],
)
def test_steps(measure, entrant, make, peer, target):
    measure(
        make(),
        workload=f"ten steps with momentum, {TENSORS} tensors of {SHAPE[0]} x {SHAPE[1]} float32",
        entrant=entrant,
        accuracy=("distance from SGD in float64", distance),
        peer=peer,
        target=target,
        rounds=20,
    )
