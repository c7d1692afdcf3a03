"""Training a `TimeMLP` and following a field, against the least that plain PyTorch needs.

The baseline of training is the bare loop: the same layers on ready features, mean squared error,
fused Adam, no schedule, average, history or checks. The peer of the adaptive integrator is
torchdiffeq.
"""

from itertools import pairwise

import pytest

from thalweg.transport import odeint

torch = pytest.importorskip("torch")

from thalweg.transport.networks import TimeMLP, train  # noqa: E402

STEPS, BATCH, DIM, HIDDEN, FEATURES = 200, 256, 2, (128, 128, 128), 16


def batches():
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(BATCH, DIM, generator=generator) for _ in range(2)]
    return *draw, torch.rand(BATCH, generator=generator)


@pytest.mark.parametrize("entrant", ["thalweg train, with average", "bare loop (torch)"])
def test_training(measure, entrant):
    x, y, t = batches()

    def ours():
        net = TimeMLP(DIM, hidden=HIDDEN, time_features=FEATURES, rng=0)
        _, losses = train(
            net, lambda g: (net(t, x) - y).square().mean(), n_steps=STEPS, ema=0.999, rng=0
        )
        return losses[-1]

    def bare():
        torch.manual_seed(0)
        widths = [DIM + 1 + FEATURES, *HIDDEN]
        layers = [
            part for m, n in pairwise(widths) for part in (torch.nn.Linear(m, n), torch.nn.SiLU())
        ]
        net = torch.nn.Sequential(*layers, torch.nn.Linear(HIDDEN[-1], DIM))
        inputs = torch.cat([x, t[:, None].expand(-1, 1 + FEATURES)], 1)
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, fused=True)
        for _ in range(STEPS):
            loss = (net(inputs) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    measure(
        ours if entrant.startswith("thalweg") else bare,
        workload=f"{STEPS} training steps, batch {BATCH}, hidden {HIDDEN}",
        entrant=entrant,
        accuracy=("last loss", float),
        peer=None if entrant.startswith("thalweg") else "torch",
        target=0.8,
    )


@pytest.mark.parametrize("entrant", ["thalweg dopri5", "torchdiffeq dopri5"])
def test_adaptive_integration(measure, entrant):
    net = TimeMLP(DIM, hidden=HIDDEN, rng=0)
    x = batches()[0]
    tolerances = {"rtol": 1e-5, "atol": 1e-5}
    calls = []

    def field(t, x):
        calls.append(None)
        return net(t, x)

    def ours():
        calls.clear()
        with torch.inference_mode():
            odeint(field, x, t1=20.0, method="dopri5", **tolerances)
        return len(calls)

    def theirs():
        torchdiffeq = pytest.importorskip("torchdiffeq")
        calls.clear()
        with torch.inference_mode():
            torchdiffeq.odeint(field, x, torch.tensor([0.0, 20.0]), method="dopri5", **tolerances)
        return len(calls)

    measure(
        ours if entrant.startswith("thalweg") else theirs,
        workload=f"flow of a network, batch {BATCH}, hidden {HIDDEN}, tolerance 1e-5",
        entrant=entrant,
        accuracy=("evaluations", float),
        peer=None if entrant.startswith("thalweg") else "torchdiffeq",
        target=1.0,
    )
