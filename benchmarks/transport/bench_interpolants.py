"""Training a stochastic interpolant, its exact fields, and the evaluations of its flow.

The baseline of training is the bare loop in plain PyTorch: two networks, antithetic pairs, fused
Adam, no schedule or checks. The peer of the adaptive integrator is torchdiffeq; both count the
evaluations of the same exact flow, and the accuracy is the error of the points at the same
tolerance. The baseline of the mixture's velocity is SciPy's densities of the components.
"""

from itertools import pairwise

import numpy as np
import pytest

from thalweg.transport import MixtureInterpolant, odeint

torch = pytest.importorskip("torch")

from thalweg.transport import StochasticInterpolant  # noqa: E402

STEPS, BATCH, HIDDEN, FEATURES = 100, 256, (128, 128, 128), 16
POINTS = 100_000
CORNERS = 2**0.5 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
MIXTURE = MixtureInterpolant(
    [1.0],
    np.zeros((1, 2)),
    np.eye(2)[None],
    np.full(4, 0.25),
    CORNERS,
    np.tile(0.2 * np.eye(2), (4, 1, 1)),
)


@pytest.mark.parametrize("entrant", ["thalweg StochasticInterpolant", "bare loop (torch)"])
def test_training(measure, entrant):
    X, Y = MIXTURE.sample_ends(20_000, rng=0)

    def ours():
        model = StochasticInterpolant(n_steps=STEPS, hidden=HIDDEN, batch_size=BATCH, rng=0)
        return model.fit(X, Y).losses_[-10:].mean()

    def bare():
        torch.manual_seed(0)
        x, y = (torch.tensor(Z, dtype=torch.float32) for Z in (X, Y))
        frequencies = torch.logspace(0, np.log10(30), FEATURES // 2)

        def make():
            widths = [2 + 1 + FEATURES, *HIDDEN]
            layers = [
                part
                for m, n in pairwise(widths)
                for part in (torch.nn.Linear(m, n), torch.nn.SiLU())
            ]
            return torch.nn.Sequential(*layers, torch.nn.Linear(HIDDEN[-1], 2))

        b, eta = make(), make()
        optimizer = torch.optim.Adam([*b.parameters(), *eta.parameters()], lr=2e-3, fused=True)
        last = []
        for _ in range(STEPS):
            x0, x1 = (Z[torch.randint(len(Z), (BATCH,))] for Z in (x, y))
            z, t = torch.randn(BATCH, 2), 1e-3 + 0.998 * torch.rand(BATCH, 1)
            gamma = (t * (1 - t)).sqrt()
            slope = (0.5 - t) / gamma
            times = torch.cat([t, t])
            waves = times * frequencies
            points = (1 - t) * x0 + t * x1
            points = torch.cat([points + gamma * z, points - gamma * z])
            inputs = torch.cat([points, times, waves.sin(), waves.cos()], 1)
            u, n = b(inputs), eta(inputs)
            target = torch.cat([x1 - x0 + slope * z, x1 - x0 - slope * z])
            loss = (u * (0.5 * u - target) + n * (0.5 * n - torch.cat([z, -z]))).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            last.append(loss.item())
        return np.mean(last[-10:])

    measure(
        ours if entrant.startswith("thalweg") else bare,
        workload=f"{STEPS} training steps of velocity and denoiser, batch {BATCH}, antithetic",
        entrant=entrant,
        accuracy=("last losses", float),
        peer=None if entrant.startswith("thalweg") else "torch",
        target=0.8,
    )


@pytest.mark.parametrize(
    "entrant", ["thalweg MixtureInterpolant", "component by component (SciPy)"]
)
def test_exact_velocity(measure, entrant):
    x, t = MIXTURE.sample(0.6, POINTS, rng=0), 0.6
    exact = MIXTURE.velocity(t, x[:100])

    def ours():
        return MIXTURE.velocity(t, x)

    def theirs():
        from scipy.stats import multivariate_normal

        variance = (1 - t) ** 2 + 0.2 * t**2 + t * (1 - t)
        cross = -(1 - t) + 0.2 * t + (0.5 - t)
        densities = np.stack([multivariate_normal(t * m, variance).pdf(x) for m in CORNERS], axis=1)
        share = densities / densities.sum(1, keepdims=True)
        each = CORNERS + cross / variance * (x[:, None] - t * CORNERS)
        return (share[..., None] * each).sum(1)

    measure(
        ours if entrant.startswith("thalweg") else theirs,
        workload=f"velocity of {POINTS} points between 1 and 4 Gaussians, d = 2",
        entrant=entrant,
        accuracy=("largest difference", lambda v: np.abs(v[:100] - exact).max()),
        peer=None if entrant.startswith("thalweg") else "scipy",
        target=1.0,
    )


@pytest.mark.parametrize("entrant", ["thalweg dopri5", "torchdiffeq dopri5"])
def test_evaluations_of_the_flow(measure, entrant):
    x = MIXTURE.sample(0.0, 2000, rng=0)
    exact = odeint(MIXTURE.velocity, x, n_steps=400, method="rk4")
    tolerances = {"rtol": 1e-5, "atol": 1e-5}

    def ours():
        found = odeint(MIXTURE.velocity, x, method="dopri5", full_output=True, **tolerances)
        return found.x, found.n_eval

    def theirs():
        torchdiffeq = pytest.importorskip("torchdiffeq")
        calls = []

        def field(t, y):
            calls.append(None)
            return torch.from_numpy(MIXTURE.velocity(float(t.clamp(0, 1)), y.numpy()))

        times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        path = torchdiffeq.odeint(field, torch.from_numpy(x), times, method="dopri5", **tolerances)
        return path[-1].numpy(), len(calls)

    def report(found):
        error = np.abs(found[0] - exact).max()
        assert error <= 1e-3, f"error {error:.2g} after {found[1]} evaluations"
        return found[1]

    measure(
        ours if entrant.startswith("thalweg") else theirs,
        workload="flow of exact fields, 2000 points, tolerance 1e-5",
        entrant=entrant,
        accuracy=("evaluations", report),
        peer=None if entrant.startswith("thalweg") else "torchdiffeq",
        target=1.0,
    )
