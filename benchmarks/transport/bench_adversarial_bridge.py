"""Four network calls a sample against a hundred, and the time of a training step.

The peer of sampling is our own bridge matching at the same width, 100 Euler steps; that of training
is the least that plain PyTorch needs for the same two networks: both updates on ready pairs,
without schedule, average, history or checks. Exact D-IMF has a target in time, no peer.
"""

import numpy as np
import pytest

from thalweg.transport import dimf_kl, gaussian_dimf, gaussian_eot

torch = pytest.importorskip("torch")

from thalweg.transport import AdversarialBridge, BridgeMatching, energy_distance  # noqa: E402
from thalweg.transport.adversarial_projection import (  # noqa: E402
    EndGenerator,
    StepDiscriminator,
)

POINTS, STEPS, BATCH, HIDDEN = 10_000, 200, 256, (128, 128, 128)
EPSILON, GRID = 1.0, (0.0, 0.25, 0.5, 0.75, 1.0)


def clouds(n=POINTS):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 2)), 3 + 0.5 * rng.normal(size=(n, 2))


@pytest.mark.parametrize("entrant", ["thalweg, 4 calls", "bridge matching, 100 calls"])
def test_translation(measure, entrant):
    X, Y = clouds()
    if entrant.startswith("thalweg"):
        model = AdversarialBridge(
            EPSILON, n_iter=1, steps_per_projection=STEPS, hidden=HIDDEN, rng=0
        )
    else:
        model = BridgeMatching(EPSILON, n_steps=STEPS, hidden=HIDDEN, rng=0)
    model.fit(X, Y)
    measure(
        lambda: model.transform(X),
        workload=f"translate {POINTS} points, hidden {HIDDEN}",
        entrant=entrant,
        accuracy=("energy distance", lambda Z: energy_distance(Z[:2000], Y[:2000])),
        target=10.0,
    )


@pytest.mark.parametrize("entrant", ["thalweg projection", "bare loop (torch)"])
def test_projection(measure, entrant):
    X, Y = clouds()

    def ours():
        model = AdversarialBridge(
            EPSILON, 4, n_iter=1, steps_per_projection=STEPS // 2, hidden=HIDDEN, rng=0
        )
        return model.fit(X, Y).history_[-1]["losses"][-1, 0]

    def bare():
        G = EndGenerator(2, 2, GRID, hidden=HIDDEN, rng=0)
        D = StepDiscriminator(2, GRID, hidden=HIDDEN, rng=1)
        makers, judges = (torch.optim.Adam(m.parameters(), lr=2e-3, fused=True) for m in (G, D))
        rng = torch.Generator().manual_seed(0)
        now, later, z = (torch.randn(BATCH, 2, generator=rng) for _ in range(3))
        index = torch.randint(4, (BATCH,), generator=rng)
        softplus = torch.nn.functional.softplus
        for _ in range(STEPS):
            with torch.no_grad():
                fake = G(now, index, z)
            real = later.requires_grad_()
            logits = D(real, index, now)
            (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
            loss = softplus(-logits).mean() + softplus(D(fake, index, now)).mean()
            loss = loss + 0.005 * slope.square().sum(1).mean()
            judges.zero_grad()
            loss.backward()
            judges.step()
            makers.zero_grad()
            softplus(-D(G(now, index, z), index, now)).mean().backward()
            makers.step()
        return loss.item()

    measure(
        ours if entrant.startswith("thalweg") else bare,
        workload=f"{STEPS} steps of both networks, batch {BATCH}, hidden {HIDDEN}",
        entrant=entrant,
        accuracy=("last loss", float),
        peer=None if entrant.startswith("thalweg") else "torch",
        target=0.7,
        rounds=3,
    )


def test_exact_dimf(measure):
    rng = np.random.default_rng(0)
    S0, S1 = (np.cov(rng.normal(size=(16, 200))) for _ in range(2))
    C, _, _ = gaussian_eot(np.zeros(16), S0, np.zeros(16), S1, EPSILON)
    measure(
        lambda: gaussian_dimf(S0, S1, EPSILON, n_inner=10, n_iter=50),
        workload="exact D-IMF, d = 16, N = 10, 50 iterations (wanted: 50 ms)",
        entrant="thalweg gaussian_dimf",
        accuracy=("divergence from the bridge", lambda path: dimf_kl(S0, S1, path[-1], C)),
    )
