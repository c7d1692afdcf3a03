"""RectifiedFlow: a fit against the bare loop, and its map of new points against a discrete plan.

The baseline of the fit is plain PyTorch: the same layers on ready features, the gradient of the
potential by `torch.autograd.grad`, fused Adam, no schedule, held-out rows or checks; the flow that
follows a fit is not part of it. The peer of the map is POT's exact solver on 4000 points, which
says nothing about other points: the flow carries 100 000 new ones.
"""

from itertools import pairwise

import numpy as np
import pytest

from thalweg.transport import RectifiedFlow, energy_distance

torch = pytest.importorskip("torch")

from thalweg.transport._rectified_fields import MatchingLoss, PotentialField  # noqa: E402
from thalweg.transport.convex_costs import convex_cost  # noqa: E402
from thalweg.transport.networks import TimeMLP, train  # noqa: E402

POINTS, NEW_POINTS, PLAN_POINTS = 10_000, 100_000, 4000
STEPS, BATCH, HIDDEN, FEATURES = 500, 512, (64, 64), 16


def clouds(n, seed):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, size=n)
    ring = 3 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.3 * rng.normal(size=(n, 2))
    return rng.normal(size=(n, 2)), ring


@pytest.mark.parametrize("entrant", ["thalweg c-rectified flow", "bare torch loop"])
def test_one_fit(measure, entrant):
    X, Y = (torch.from_numpy(Z).float() for Z in clouds(POINTS, 0))

    def ours():
        network = TimeMLP(2, 1, hidden=HIDDEN, rng=0)
        cost = convex_cost("sqeuclidean")
        field = PotentialField(network, cost, torch.zeros(2), 1.0, Y - X)
        loss = MatchingLoss(field, X, Y, "independent", BATCH)
        _, losses = train(network, loss, n_steps=STEPS, lr=5e-3, rng=0)
        return losses[-50:].mean() * field.spread

    def bare():
        generator = torch.Generator().manual_seed(0)
        widths = [2 + 1 + FEATURES, *HIDDEN, 1]
        layers = [torch.nn.Linear(m, n) for m, n in pairwise(widths)]
        parts = [part for layer in layers for part in (layer, torch.nn.SiLU())][:-1]
        network = torch.nn.Sequential(*parts)
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3, fused=True)
        frequencies = torch.logspace(0, 1.477, FEATURES // 2)
        last = []
        for _ in range(STEPS):
            x = X[torch.randint(POINTS, (BATCH,), generator=generator)]
            y = Y[torch.randint(POINTS, (BATCH,), generator=generator)]
            t = torch.rand(BATCH, 1, generator=generator)
            place = torch.lerp(x, y, t).requires_grad_()
            features = [place, t, (t * frequencies).sin(), (t * frequencies).cos()]
            value = network(torch.cat(features, 1)).sum()
            (slope,) = torch.autograd.grad(value, place, create_graph=True)
            loss = (slope - (y - x)).square().sum(1).mean() / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            last = [*last[-49:], loss.item()]
        return float(np.mean(last))

    measure(
        ours if entrant.startswith("thalweg") else bare,
        workload=f"fit of a potential, {STEPS} steps, batch {BATCH}, hidden {HIDDEN}",
        entrant=entrant,
        accuracy=("matching loss, last 50 steps", float),
        peer=None if entrant.startswith("thalweg") else "torch",
        target=0.8,
    )


@pytest.mark.parametrize("entrant", ["thalweg map of 100 000 points", "POT emd of 4000 points"])
def test_map_of_new_points(measure, entrant):
    X, Y = clouds(POINTS, 0)
    fresh, target = clouds(NEW_POINTS, 1)
    x, y = fresh[:PLAN_POINTS], target[:PLAN_POINTS]
    flow = RectifiedFlow(
        "sqeuclidean", n_iter=2, n_steps=STEPS, hidden=HIDDEN, batch_size=BATCH, rng=0
    ).fit(X, Y)

    def plan():
        ot = pytest.importorskip("ot")
        weights = np.full(PLAN_POINTS, 1 / PLAN_POINTS)
        coupling = ot.emd(weights, weights, ot.dist(x, y))
        return y[coupling.argmax(1)]

    def cost(moved):
        return ((moved[:PLAN_POINTS] - x) ** 2).sum(1).mean() / 2

    measure(
        (lambda: flow.transform(fresh)) if entrant.startswith("thalweg") else plan,
        workload="optimal images of points for the squared distance, normal cloud to ring",
        entrant=entrant,
        accuracy=("transport cost", cost),
        peer=None if entrant.startswith("thalweg") else "POT",
        target=1.0,
        rounds=3,
    )


@pytest.mark.parametrize("entrant", ["thalweg 50 steps", "thalweg one step"])
def test_one_step_instead_of_fifty(measure, entrant):
    X, Y = clouds(POINTS, 0)
    fresh, target = clouds(PLAN_POINTS, 1)
    flow = RectifiedFlow("sqeuclidean", n_iter=3, n_steps=STEPS, rng=0).fit(X, Y)

    measure(
        lambda: flow.transform(fresh) if entrant.endswith("50 steps") else flow.one_step(fresh),
        workload="map after three iterations, 4000 points",
        entrant=entrant,
        accuracy=("energy distance to the target", lambda Z: energy_distance(Z, target)),
    )
