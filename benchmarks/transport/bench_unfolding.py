"""Unfolding jets by `BridgeUnfolder`: training, and drawing with few and with many calls.

No package on an index unfolds by a bridge. The baseline of drawing is the published number of
network calls, 999, on the same fitted model; that of training is the bare loop of PyTorch on ready
features. The accuracy is the mean Wasserstein distance of the six observables to the truth, in
deviations of the truth.
"""

from itertools import pairwise

import numpy as np
import pytest

from thalweg.transport import make_jets, unfolding_report

torch = pytest.importorskip("torch")

from thalweg.transport import BridgeUnfolder  # noqa: E402

PAIRS, STEPS, EVENTS = 20_000, 2000, 100_000
FEW, MANY = 50, 999
HIDDEN, BATCH, FEATURES = (64, 64, 64), 256, 17
TRAIN, DRAW = "thalweg BridgeUnfolder", "thalweg, 50 calls"


def distance(unfolded):
    truth = make_jets(200_000, "B", rng=9)[0]
    found = unfolding_report(truth, unfolded, n_boot=0)
    return float(np.mean([value for value, _ in found.values()]))


@pytest.fixture(scope="module")
def fitted():
    truth, measured, _ = make_jets(PAIRS, "A", rng=0)
    return BridgeUnfolder(n_steps=STEPS, rng=0).fit(truth, measured)


@pytest.mark.parametrize("entrant", [DRAW, "published number of calls (999)"])
def test_drawing(measure, fitted, entrant):
    _, data, _ = make_jets(EVENTS, "B", rng=1)
    nfe = FEW if entrant == DRAW else MANY
    measure(
        lambda: fitted.transform(data, nfe=nfe),
        workload=f"unfold {EVENTS:,} jets, hidden {HIDDEN}",
        entrant=entrant,
        accuracy=("mean distance", distance),
        target=15.0,
        rounds=5 if entrant == DRAW else 1,
    )


@pytest.mark.parametrize("entrant", [TRAIN, "bare loop (torch)"])
def test_training(measure, entrant):
    truth, measured, _ = make_jets(PAIRS, "A", rng=0)

    def ours():
        return BridgeUnfolder(n_steps=STEPS, hidden=HIDDEN, batch_size=BATCH, rng=0).fit(
            truth, measured
        )

    def bare():
        torch.manual_seed(0)
        d = truth.shape[1]
        widths = [2 * d + FEATURES, *HIDDEN]
        layers = [
            part for m, n in pairwise(widths) for part in (torch.nn.Linear(m, n), torch.nn.SiLU())
        ]
        network = torch.nn.Sequential(*layers, torch.nn.Linear(HIDDEN[-1], d))
        inputs, labels = torch.randn(BATCH, widths[0]), torch.randn(BATCH, d)
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, fused=True)
        for _ in range(STEPS):
            loss = (network(inputs) - labels).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return None

    def error(model):
        if model is None:
            return float("nan")
        return distance(model.transform(make_jets(EVENTS // 5, "B", rng=1)[1]))

    measure(
        ours if entrant == TRAIN else bare,
        workload=f"{STEPS} training steps, batch {BATCH}, hidden {HIDDEN}",
        entrant=entrant,
        accuracy=("mean distance", error),
        peer=None if entrant == TRAIN else "torch",
        target=0.5,
    )
