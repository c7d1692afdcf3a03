"""Bridges on finite sets: the table against POT, D-IMF against its budget, and a step of training.

The authors' code is not on a package index. For the static bridge the peer is POT's log-domain
Sinkhorn on the same cost. D-IMF and the network's steps have no peer on an index: their baselines
are our own plain writings, tables of whole paths' pairs by einsum, and the step with the mixture
written out over all ends.
"""

import numpy as np
import pytest
from scipy.special import kl_div

from thalweg.transport import (
    CategoricalReference,
    categorical_bridge,
    categorical_dimf,
    gaussian_kernel,
)

STATES, INNER, ITERATIONS = 50, 50, 60
GRID, GRID_INNER, STEPS = 10, 4, 100
OURS = "thalweg"


def problem(n_inner):
    laws = np.random.default_rng(0).dirichlet(np.ones(STATES), size=2)
    return *laws, CategoricalReference(gaussian_kernel(STATES, 0.1), n_inner)


@pytest.mark.parametrize("entrant", [OURS, "POT sinkhorn_log"])
@pytest.mark.parametrize("n_inner", [1, 10])
def test_static_bridge(measure, n_inner, entrant):
    p0, p1, reference = problem(n_inner)

    def peer():
        ot = pytest.importorskip("ot")
        cost = -np.log(reference.transition)
        return ot.sinkhorn(
            p0, p1, cost, 1.0, method="sinkhorn_log", stopThr=1e-12, numItermax=20_000
        )

    measure(
        (lambda: categorical_bridge(p0, p1, reference)) if entrant == OURS else peer,
        workload=f"Schrödinger bridge on {STATES} states, Gaussian kernel, N = {n_inner}",
        entrant=entrant,
        accuracy=("marginal error", lambda P: np.abs(P.sum(0) - p1).sum()),
        peer=None if entrant == OURS else "POT",
        target=1.0,
    )


@pytest.mark.parametrize("entrant", [OURS, "einsum over pairs of times"])
def test_exact_iterations(measure, entrant):
    """At most 0.5 s; the baseline forms each joint law by one einsum."""
    p0, p1, reference = problem(INNER)
    bridge = categorical_bridge(p0, p1, reference)
    A, Q = reference.cumulative, reference.kernel

    def plain():
        coupling = np.outer(p0, p1)
        for _ in range(ITERATIONS):
            W = coupling / A[-1]
            coupling = np.diag(p0)
            for n in range(INNER + 1):
                onward = np.einsum("xe,ye->xy", W, A[INNER - n])
                joint = np.einsum("xa,xy,ay->ay", A[n], onward, Q)
                coupling = coupling @ (joint / joint.sum(1, keepdims=True))
        return coupling

    def ours():
        return categorical_dimf(p0, p1, reference, n_iter=ITERATIONS)[-1]

    measure(
        ours if entrant == OURS else plain,
        workload=f"{ITERATIONS} exact iterations, {STATES} states, N = {INNER}",
        entrant=entrant,
        accuracy=("divergence [nats]", lambda P: kl_div(P, bridge).sum()),
        target=2.0,
        rounds=5 if entrant == OURS else 1,
    )


@pytest.mark.parametrize("entrant", [OURS, "posterior table of all ends (torch)"])
def test_training(measure, entrant):
    """Seconds for 100 steps after the first projection; at most 12 ms a step on one core."""
    torch = pytest.importorskip("torch")
    from thalweg.transport._categorical_process import CategoricalProcess, LearnedChain
    from thalweg.transport.categorical_networks import TokenMLP
    from thalweg.transport.networks import train

    torch.set_num_threads(1)
    reference = CategoricalReference(gaussian_kernel(GRID, 0.3), GRID_INNER)
    process = CategoricalProcess(reference, "forward", torch.device("cpu"))
    back = CategoricalProcess(reference, "backward", torch.device("cpu"))
    table = np.stack(
        [
            reference.posterior_probs(*np.indices((GRID, GRID)).reshape(2, -1, 1), n).reshape(
                GRID, GRID, GRID
            )
            for n in range(GRID_INNER + 1)
        ]
    )
    table = torch.from_numpy(table)

    class AllEnds(LearnedChain):
        """T = sum_e p(e) q(. | x, e), the posteriors of every end gathered for every token."""

        def loss(self, x, end, n):
            ends = self.process.end_log_probs(self.network(x, n), x, n)
            posteriors = table[n[:, None], x]
            law = torch.einsum("bde,bdey->bdy", ends.exp(), posteriors)
            target = posteriors.gather(2, end[..., None, None].expand(-1, -1, 1, GRID))[:, :, 0]
            entropy = torch.xlogy(target, target).sum(-1)
            cross = (target * law.clamp_min(1e-300).log()).sum(-1)
            return (entropy - cross).mean() - self.ce * ends.gather(-1, end[..., None]).mean()

    def fit():
        chain = (LearnedChain if entrant == OURS else AllEnds)(
            TokenMLP(2, GRID, GRID_INNER, rng=0), process
        )
        other = LearnedChain(TokenMLP(2, GRID, GRID_INNER, rng=1), back)

        def loss(generator):
            end = torch.randint(GRID, (256, 2), generator=generator)
            return chain.loss_of_pairs(other.sample(end, generator)[-1], end, generator)

        return train(chain.network, loss, n_steps=STEPS, ema=0.99, rng=0)[1]

    measure(
        fit,
        workload=f"{STEPS} steps of CSBM, D = 2, S = {GRID}, N = {GRID_INNER}, batch 256",
        entrant=entrant,
        accuracy=("loss at the end", lambda losses: losses[-20:].mean()),
        peer=None if entrant == OURS else "torch",
        target=1.0,
        rounds=3,
    )
