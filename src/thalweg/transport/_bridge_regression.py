"""The regression that `BridgeMatching` solves, and the simulation of what it learned."""

from __future__ import annotations

from dataclasses import dataclass

from thalweg._torch import torch
from thalweg.transport._couplings import draw_pairs, stratified_times
from thalweg.transport.integrate import sdeint
from thalweg.transport.reference import BrownianReference

LAST_TIME = 1 - 1e-3
"""Latest time of training, in the clock of either direction; the target explodes at 1."""


@dataclass
class DriftLoss:
    """Mean squared error of a network against the drift of bridges from `start` to `end`.

    Weighted by ``(1 + epsilon t / (1 - t))^(-1/2)``, the inverse deviation of the target in units
    of the clouds', so that late times do not drown the others in noise.
    """

    network: torch.nn.Module
    start: torch.Tensor
    end: torch.Tensor
    reference: BrownianReference
    coupling: str
    batch_size: int

    def __call__(self, generator: torch.Generator) -> torch.Tensor:
        x0, x1 = draw_pairs(self.start, self.end, self.batch_size, self.coupling, generator)
        t = stratified_times(self.batch_size, LAST_TIME, generator, x0)
        xt = self.reference.bridge(x0, x1, t, generator)
        error = self.network(t, xt) - self.reference.bridge_drift(xt, x1, t)
        left = 1 - t[:, None]
        weights = (left / (left + self.reference.epsilon * t[:, None])).sqrt()
        return (weights * error.square()).mean()


def simulate(
    network: torch.nn.Module,
    x: torch.Tensor,
    epsilon: float,
    n_steps: int,
    generator: torch.Generator,
    keep: bool = False,
) -> torch.Tensor:
    """Return where the rows end, (n, d), or with `keep` their paths, (n_steps + 1, n, d)."""
    with torch.inference_mode():
        return sdeint(
            lambda t, x: network(min(t, LAST_TIME), x),
            x,
            epsilon**0.5,
            n_steps=n_steps,
            rng=generator,
            return_path=keep,
        )
