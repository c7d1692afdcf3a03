"""LightSB on pairs with known plans, against the published recipe with automatic differentiation.

The authors' code is not on a package index. The baseline is our own plain PyTorch writing of what
it does: the same potential and loss, gradients by autograd, Adam, 10 000 steps of constant rate on
batches of 128.
"""

import math

import numpy as np
import pytest

from thalweg.transport import LightSB, conditional_bw2_uvp, gaussian_mixture_pair

EPSILON, COMPONENTS, POINTS = 0.1, 50, 1_000_000
BATCH, STEPS, RATE, SCALE_INIT = 128, 10_000, 1e-3, 1.0
RECIPE = "published recipe (torch)"
OURS = {
    "thalweg LightSB": {"n_components": COMPONENTS, "n_steps": 3000},
    "thalweg LightSB, 10 full components": {
        "n_components": 10,
        "covariance": "full",
        "init": "kmeans",
    },
}


@pytest.mark.parametrize("entrant", [*OURS, RECIPE])
@pytest.mark.parametrize("dim", [2, 16])
def test_plan_of_a_known_pair(measure, dim, entrant):
    pair = gaussian_mixture_pair(dim, EPSILON, rng=0)
    points = POINTS if dim == 2 else POINTS // 4
    X, Y = pair.sample_source(points, 1), pair.sample_target(points, 2)
    test = pair.sample_source(2000, 3)
    truth = pair.conditional_moments(test)

    def fit():
        if entrant == RECIPE:
            return fit_recipe(X, Y)
        return LightSB(EPSILON, rng=0, **OURS[entrant]).fit(X, Y)

    def error(model):
        return conditional_bw2_uvp(*model.conditional_moments(test), *truth, pair.target_cov_)

    measure(
        fit,
        workload=f"Schrödinger bridge of a known pair, d = {dim}, epsilon 0.1",
        entrant=entrant,
        accuracy=("cBW2-UVP [%]", error),
        peer="torch" if entrant == RECIPE else None,
        target=8.0,
        rounds=1 if entrant == RECIPE else 5,
    )


def fit_recipe(X, Y):
    """Adam on ``mean log c(x) - mean log v(y)``, v a sum of Gaussians with diagonal covariances."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    x_all, y_all = (torch.tensor(Z, dtype=torch.float32) for Z in (X, Y))

    def rows(Z, n):
        return Z[torch.randint(len(Z), (n,), generator=generator)]

    raw = torch.full((COMPONENTS,), -EPSILON * math.log(COMPONENTS), requires_grad=True)
    r = rows(y_all, COMPONENTS).requires_grad_()
    log_s = torch.full_like(r, math.log(SCALE_INIT)).requires_grad_()
    optimizer = torch.optim.Adam([raw, r, log_s], lr=RATE)
    for _ in range(STEPS):
        x, y = rows(x_all, BATCH)[:, None], rows(y_all, BATCH)[:, None]
        log_a, s = raw / EPSILON, log_s.exp()
        log_c = log_a + ((x**2 * s + 2 * x * r).sum(-1)) / (2 * EPSILON)
        components = torch.distributions.Normal(r, (EPSILON * s).sqrt())
        log_v = log_a + components.log_prob(y).sum(-1)
        loss = log_c.logsumexp(1).mean() - log_v.logsumexp(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model = LightSB(EPSILON, COMPONENTS)
    model.log_weights_ = (raw / EPSILON).detach().double().numpy()
    model.locations_, model.scales_ = r.detach().double().numpy(), s.detach().double().numpy()
    model.n_features_in_ = X.shape[1]
    assert np.isfinite(model.locations_).all()
    return model
