"""Two carts that an expert brings to rest, and a policy that learns from it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_are

from thalweg._torch import torch
from thalweg.descent import SSO, OnlineImitation

INTERVAL = 0.1
NOISE = 0.1
EPISODE = 50
TARGET_STEP = 1.0


class TwoCarts:
    """Places and speeds of two carts that are pushed, with noise; the interface is Gymnasium's."""

    A = np.kron(np.array([[1.0, INTERVAL], [0.0, 1.0]]), np.eye(2))
    B = np.kron(np.array([[INTERVAL**2 / 2], [INTERVAL]]), np.eye(2))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Begin at random places and speeds."""
        self.rng = np.random.default_rng(seed)
        self.state, self.steps = self.rng.normal(size=4), 0
        return self.state, {}

    def step(self, action: NDArray[Any]) -> Any:
        """Push for one interval; the cost is the square of state and push."""
        reward = -float(self.state @ self.state + action @ action)
        kick = NOISE * self.rng.normal(size=4)
        self.state = self.A @ self.state + self.B @ action + kick
        self.steps += 1
        return self.state, reward, False, self.steps >= EPISODE, {}


def expert() -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return the linear-quadratic regulator of the carts."""
    A, B = TwoCarts.A, TwoCarts.B
    P = solve_discrete_are(A, B, np.eye(4), np.eye(2))
    K = np.linalg.solve(np.eye(2) + B.T @ P @ B, B.T @ P @ A)
    return lambda state: -K @ state


def policy_of(kind: str, seed: int) -> torch.nn.Module:
    """Return a linear policy or a small network, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    widths = (4, 2) if kind == "linear" else (4, 32, 2)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layer = torch.nn.utils.skip_init(torch.nn.Linear, inputs, outputs, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.normal_(0, inputs**-0.5, generator=generator)
            layer.bias.zero_()
        if kind == "linear":
            torch.nn.init.zeros_(layer.weight)
        layers += [layer, torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def imitated(
    kind: str, make: Callable[[Any], torch.optim.Optimizer], rounds: int, samples: int, seed: int
) -> NDArray[np.float64]:
    """Return the policy's loss in each round."""
    policy = policy_of(kind, seed)
    run = OnlineImitation(
        policy, expert(), TwoCarts(), make(policy.parameters()), rounds=rounds,
        samples_per_round=samples, rng=seed,
    )  # fmt: skip
    return run.run()["loss"]


def imitation(setup: Any, seed: int) -> dict[str, Any]:
    """Compare one and many inner steps, and online gradient descent, on each policy."""
    results: dict[str, Any] = {"imitation_policies": list(setup.policies)}
    seeds = range(seed, seed + setup.imitation_seeds)
    ratios = []
    for kind in setup.policies:

        def mean(make: Any, kind: str = kind) -> NDArray[np.float64]:
            runs = [imitated(kind, make, setup.rounds, setup.samples, one) for one in seeds]
            return np.mean(runs, axis=0)

        curves = {
            m: mean(lambda p, m=m: SSO(p, target_step=TARGET_STEP, inner_steps=m)) for m in (1, 100)
        }
        descents = [mean(lambda p, lr=lr: torch.optim.SGD(p, lr=lr)) for lr in setup.rates]
        ogd = min(descents, key=lambda curve: last(curve))
        ratios += [last(curves[100]) / last(curves[1]), last(curves[100]) / last(ogd)]
        results |= {
            f"imitation_{kind}_1": curves[1],
            f"imitation_{kind}_100": curves[100],
            f"imitation_{kind}_ogd": ogd,
        }
    return results | {"imitation_ratios": np.array(ratios)}


def last(curve: NDArray[np.float64]) -> float:
    """Return the mean loss of the last ten rounds; infinite where it is not finite."""
    value = float(np.mean(curve[-10:]))
    return value if np.isfinite(value) else float("inf")
