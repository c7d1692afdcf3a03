"""DLightSB on benchmark pairs, against the same loss with automatic differentiation.

The baseline is our own plain PyTorch writing of the same potential, loss, start and Adam with
gradients by autograd, at equal components, batch and steps, in double precision as here.
"""

import math

import numpy as np
import pytest

from thalweg.transport import CategoricalBenchmark, DLightSB

STEPS, BATCH, RATE, SAMPLES = 300, 128, 3e-2, 20_000
OURS, AUTOGRAD = "thalweg DLightSB", "autograd (torch)"


@pytest.mark.parametrize("entrant", [OURS, AUTOGRAD])
@pytest.mark.parametrize("components", [20, 50])
@pytest.mark.parametrize(
    ("dim", "kernel", "alpha"), [(16, "gaussian", 0.02), (16, "uniform", 0.01)]
)
def test_steps_of_the_energy(measure, dim, kernel, alpha, components, entrant):
    """At K = 50 a step should take under 5 ms on one core: 1.5 s for these."""
    benchmark = CategoricalBenchmark(dim, kernel=kernel, alpha=alpha, rng=0)
    X, Y = benchmark.sample_source(SAMPLES, 1), benchmark.sample_target(SAMPLES, 2)
    x, y = benchmark.sample_pairs(4096, 3)

    def fit():
        options = {"n_steps": STEPS, "learning_rate": RATE, "entropy": 0.0, "rng": 0}
        model = DLightSB(benchmark.reference, components, batch_size=BATCH, **options)
        return model.fit(X, Y) if entrant == OURS else fit_autograd(model, X, Y)

    measure(
        fit,
        workload=f"{STEPS} steps, {dim} tokens of 50, {kernel} kernel, K = {components}",
        entrant=entrant,
        accuracy=("divergence [nats]", lambda model: model.loss(x, y) - benchmark.loss(x, y)),
        peer=None if entrant == OURS else "torch",
        target=2.0,
    )


def fit_autograd(model, X, Y):
    """Adam on ``mean log c(x) - mean log v(y)`` from the same start."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    x_all, y_all = torch.from_numpy(X), torch.from_numpy(Y)
    start = model._initial_cores(Y, np.random.default_rng(0))
    K, D, _ = start.shape
    log_r = torch.tensor(start, requires_grad=True)
    log_beta = torch.full((K,), -math.log(K), dtype=torch.float64, requires_grad=True)
    A = torch.tensor(np.array(model.reference.transition))
    places = torch.arange(D)
    optimizer = torch.optim.Adam([log_beta, log_r], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=0.01 * RATE)

    def rows(Z):
        return Z[torch.randint(len(Z), (BATCH,), generator=generator)]

    for _ in range(STEPS):
        x, y = rows(x_all), rows(y_all)
        log_u = torch.log(log_r.exp() @ A.T)
        log_c = log_beta + log_u[:, places, x].sum(-1).T
        log_v = log_beta + log_r[:, places, y].sum(-1).T
        loss = log_c.logsumexp(1).mean() - log_v.logsumexp(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model._store(log_beta.detach().numpy(), log_r.detach().numpy())
    model.n_features_in_ = D
    return model
