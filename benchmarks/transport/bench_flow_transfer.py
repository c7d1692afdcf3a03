"""MaskedAutoregressiveFlow and FlowTransfer: a training step against two flow libraries.

The peers' flows have as many blocks and hidden units; their own masks, permutations and
activations. The transform has no peer: its time for 100 000 events of 8 features is shown.
"""

import numpy as np
import pytest

from thalweg.transport import FlowTransfer, MaskedAutoregressiveFlow, make_diphotons

torch = pytest.importorskip("torch")

ROWS, DIM, BLOCKS, HIDDEN, STEPS = 512, 3, 4, 64, 100
EVENTS = 100_000
COLUMNS = ("pt1", "pt2", "eta1", "eta2", "dphi", "iso1", "iso2", "width1")


def points():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, DIM, generator=generator)
    x[:, 1] += 0.5 * x[:, 0] ** 2
    return x


def nflows_log_prob():
    distributions = pytest.importorskip("nflows.distributions")
    flows = pytest.importorskip("nflows.flows")
    transforms = pytest.importorskip("nflows.transforms")
    parts = []
    for _ in range(BLOCKS):
        parts.append(transforms.ReversePermutation(DIM))
        parts.append(
            transforms.MaskedAffineAutoregressiveTransform(
                DIM, HIDDEN, num_blocks=2, use_residual_blocks=False
            )
        )
    flow = flows.Flow(transforms.CompositeTransform(parts), distributions.StandardNormal([DIM]))
    return flow.parameters(), flow.log_prob


def normflows_log_prob():
    nf = pytest.importorskip("normflows")
    parts = []
    for _ in range(BLOCKS):
        parts.append(nf.flows.MaskedAffineAutoregressive(DIM, HIDDEN, num_blocks=1))
        parts.append(nf.flows.Permute(DIM, mode="swap"))
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(DIM, trainable=False), parts)
    return flow.parameters(), flow.log_prob


def our_log_prob():
    flow = MaskedAutoregressiveFlow(DIM, 0, BLOCKS, HIDDEN, rng=0)
    return flow.parameters(), flow.log_prob


MAKERS = {"thalweg": our_log_prob, "nflows": nflows_log_prob, "normflows": normflows_log_prob}


@pytest.mark.parametrize("entrant", MAKERS)
def test_training_steps(measure, entrant):
    x = points()

    def run():
        parameters, log_prob = MAKERS[entrant]()
        optimizer = torch.optim.Adam(parameters, lr=2e-3)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = -log_prob(x).mean()
            loss.backward()
            optimizer.step()
        return loss.item()

    measure(
        run,
        workload=f"{STEPS} training steps of an autoregressive flow, {ROWS} rows of {DIM} features",
        entrant=entrant if entrant != "thalweg" else "thalweg autoregressive flow",
        accuracy=("loss after the steps, nats", float),
        peer=None if entrant == "thalweg" else entrant,
        target=1.0,
    )


def test_transform(measure):
    tables = [make_diphotons(EVENTS, kind, rng=0) for kind in ("simulation", "data")]
    X, Y = (np.column_stack([table[name] for name in COLUMNS]) for table in tables)
    model = FlowTransfer(n_steps=30, rng=0).fit(X, Y)
    measure(
        lambda: model.transform(X),
        workload=f"transfer of {EVENTS} events of {len(COLUMNS)} features",
        entrant="thalweg flow transfer",
        accuracy=(
            "largest error of the way back, in deviations",
            lambda Z: np.abs((model.inverse_transform(Z) - X) / X.std(0)).max(),
        ),
        rounds=3,
    )
