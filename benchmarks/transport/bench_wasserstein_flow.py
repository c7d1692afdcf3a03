"""A JKO step of the divergence from a Gaussian: variational, against the ICNN route with log det.

The peer is what the variational form replaces: the entropy of a pushed cloud by the change of
variables, which needs the log-determinant of the Hessian of a convex potential at every point. It
is run here at the same number of map updates and the same batches; no package offers it.
"""

import math

import numpy as np
import pytest

from thalweg.transport import gaussian_jko_step

torch = pytest.importorskip("torch")

from thalweg.transport import WassersteinGradientFlow  # noqa: E402
from thalweg.transport._flow_networks import ConvexMap, Frame  # noqa: E402

STEP, N_ROUNDS, OUTER, BATCH, POINTS = 0.2, 60, 2, 512, 5000


def problem(dim):
    X = np.random.default_rng(0).normal(size=(POINTS, dim))
    mean, variances = np.linspace(2, 1, dim), np.linspace(0.7, 1.5, dim) ** 2

    def log_density(y):
        centre, widths = (torch.from_numpy(v).to(y) for v in (mean, variances))
        return -0.5 * ((y - centre).square() / widths).sum(1)

    exact = gaussian_jko_step(np.zeros(dim), np.eye(dim), mean, np.diag(variances), STEP)
    return X, log_density, exact


def variational(X, log_density, rounds, form):
    model = WassersteinGradientFlow(
        log_density=log_density, step_size=STEP, n_jko=1, n_steps=rounds, map=form, rng=0
    )
    return model.fit(X).particles_


def log_det(X, log_density, rounds):
    """The map is the gradient of the same convex network; its Jacobian is taken exactly."""
    points = torch.from_numpy(X).float()
    frame = Frame(np.zeros(X.shape[1]), np.eye(X.shape[1]))
    flow_map = ConvexMap(frame, (64, 64), "projection", 0)
    optimizer = torch.optim.Adam(flow_map.parameters(), lr=2e-3, fused=True)
    generator = torch.Generator().manual_seed(0)
    steps = rounds * OUTER
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: 0.01 + 0.99 * (1 + math.cos(math.pi * k / steps)) / 2
    )

    def one(x):
        y = flow_map(x[None])[0]
        return y, y

    jacobian = torch.func.vmap(torch.func.jacrev(one, has_aux=True))
    for _ in range(steps):
        x = points[torch.randint(len(points), (BATCH,), generator=generator)]
        slopes, y = jacobian(x)
        moved = (y - x).square().sum(1).mean() / (2 * STEP)
        loss = moved - log_density(y).mean() - torch.logdet(slopes).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        flow_map.project()
        schedule.step()
    with torch.no_grad():
        return flow_map(points).numpy()


@pytest.mark.parametrize("dim", [2, 32])
@pytest.mark.parametrize("entrant", ["thalweg residual", "thalweg icnn", "icnn with log det"])
def test_jko_step(measure, dim, entrant):
    X, log_density, (mean, cov) = problem(dim)

    def run():
        if entrant.startswith("thalweg"):
            return variational(X, log_density, N_ROUNDS, entrant.split()[1])
        return log_det(X, log_density, N_ROUNDS)

    def error(cloud):
        gaps = cloud.mean(0) - mean, np.cov(cloud.T) - cov
        return max(np.linalg.norm(gaps[0]), np.linalg.norm(gaps[1]) / np.linalg.norm(cov))

    measure(
        run,
        workload=f"one JKO step, d = {dim}, {N_ROUNDS * OUTER} updates of the map, batch {BATCH}",
        entrant=entrant,
        accuracy=("error of mean and covariance", error),
        peer=None if entrant.startswith("thalweg") else "torch",
        target=3.0 if dim == 32 else None,
        rounds=3,
    )
