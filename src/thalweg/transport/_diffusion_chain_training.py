"""Networks that step along a chain, what they are trained on, and the chain's simulation.

Points are in normalised coordinates: less the centre of their index, over the common spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch
from thalweg.transport._couplings import stratified_times
from thalweg.transport.diffusion_chain import (
    DIRECTIONS,
    distances_to_end,
    half_bridge_target,
    posterior_steps,
)

Floats = NDArray[np.float64]
PARAMETRIZATIONS = ("transition", "terminal", "flow")


@dataclass(frozen=True)
class Chain:
    """Step sizes of a chain, its variance at the end, and the rate of its reference."""

    gammas: Floats
    epsilon: float
    rate: float = 0.0

    @property
    def n_steps(self) -> int:
        """Steps N."""
        return len(self.gammas)

    @property
    def times(self) -> Floats:
        """Times (N + 1,) of the indices, from 0 to 1."""
        times = np.concatenate([[0.0], np.cumsum(self.gammas)])
        times[-1] = 1.0
        return times

    def centres(self, mean0: Floats, mean1: Floats) -> Floats:
        """Return the mean path (N + 1, d) of the reference between two points."""
        factors = np.cumprod(np.concatenate([[1.0], 1 - self.rate * self.gammas]))
        variances = factors**2 * np.concatenate([[0.0], np.cumsum(self.gammas / factors[1:] ** 2)])
        late = variances / factors / (variances[-1] / factors[-1])
        early = factors - late * factors[-1]
        return early[:, None] * mean0 + late[:, None] * mean1


@dataclass(frozen=True)
class Reference:
    """The reference process, forward: Brownian motion, or decay at a rate."""

    chain: Chain
    direction: str = "forward"

    def mean(self, k: Any, x: torch.Tensor) -> torch.Tensor:
        """Return ``(1 - rate gamma) x``."""
        return (1 - self.chain.rate * _at(self.chain.gammas, k, x)) * x

    def variance(self, k: int) -> float:
        """Return the variance of the step from index k."""
        return float(self.chain.epsilon * self.chain.gammas[k])


@dataclass(frozen=True)
class ChainField:
    """One direction of a learned chain: a network, and a given model that it corrects if any.

    The network's output u means, g being the time that is left: a mean ``x + gamma u``
    ("transition"), an end ``x + u`` ("terminal") or an end ``x + g u`` ("flow").
    """

    chain: Chain
    direction: str
    parametrization: str
    network: Callable[[Any, torch.Tensor], torch.Tensor]
    base: Callable[[Any, torch.Tensor], torch.Tensor] | None = None
    left: Floats = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "left", distances_to_end(self.chain.gammas, self.direction))

    def step(self, k: Any) -> Any:
        """Return which step leaves index k."""
        return k - 1 if self.direction == "backward" else k

    def output(self, k: Any, x: torch.Tensor) -> torch.Tensor:
        """Return u at points of index k, an int or a tensor (n,)."""
        t = _at(self.chain.times, k, x)
        u = self.network(t.reshape(-1) if isinstance(t, torch.Tensor) else t, x)
        if self.base is None:
            return u
        drift = self.base(k, x)
        if self.parametrization == "terminal":
            drift = _at(self.left, self.step(k), x) * drift
        return u + drift

    def mean(self, k: Any, x: torch.Tensor) -> torch.Tensor:
        """Return where the step from index k leads on average."""
        if self.parametrization == "terminal":
            sizes, _ = posterior_steps(self.chain.gammas, self.direction)
        else:
            sizes = self.chain.gammas
        return x + _at(sizes, self.step(k), x) * self.output(k, x)

    def variance(self, k: int) -> float:
        """Return the variance of the step from index k."""
        if self.parametrization == "transition":
            spreads = self.chain.gammas
        else:
            _, spreads = posterior_steps(self.chain.gammas, self.direction)
        return float(self.chain.epsilon * spreads[self.step(k)])

    def errors(
        self, k: torch.Tensor, x: torch.Tensor, target: torch.Tensor, end: torch.Tensor
    ) -> torch.Tensor:
        """Return what is off, in the unit of the parametrisation's loss."""
        if self.parametrization == "transition":
            return self.mean(k, x) - target
        if self.parametrization == "terminal":
            return self.output(k, x) - (end - x)
        return self.output(k, x) - (end - x) / _at(self.left, self.step(k), x)


Stepper = Reference | ChainField
"""What simulates one direction: mean and variance of its steps."""


def simulate(
    stepper: Stepper, x: torch.Tensor, generator: torch.Generator, keep: bool = False
) -> torch.Tensor:
    """Return where the rows end, (n, d), or with `keep` their path, (N + 1, n, d), as passed."""
    indices = range(stepper.chain.n_steps)
    if stepper.direction == "backward":
        indices = range(stepper.chain.n_steps, 0, -1)
    path = [x]
    with torch.no_grad():
        for k in indices:
            x, variance = stepper.mean(k, x), stepper.variance(k)
            if variance:
                noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
                x = x + variance**0.5 * noise
            if not math.isfinite(float(x.sum())):
                raise FloatingPointError(
                    f"the {stepper.direction} chain is not finite after the step from index {k}; "
                    "lower the learning rate or check the data"
                )
            if keep:
                path.append(x)
    return torch.stack(path) if keep else x


@dataclass
class ChainLoss:
    """Mean squared error of a direction on trajectories of the other one, which are kept a while.

    The trajectories start at rows of `start`, drawn with repetition, and are made anew every
    `refresh` calls. Indices of a batch are stratified over the chain.
    """

    field: ChainField
    opposite: Stepper
    start: torch.Tensor
    kind: str
    batch_size: int
    n_cache: int
    refresh: int
    path: torch.Tensor | None = None
    calls: int = 0

    def __call__(self, generator: torch.Generator) -> torch.Tensor:
        if self.path is None or self.calls % self.refresh == 0:
            rows = _rows(len(self.start), self.n_cache, generator, self.start)
            path = simulate(self.opposite, self.start[rows], generator, keep=True)
            self.path = path if self.opposite.direction == "forward" else path.flip(0)
        self.calls += 1
        N = self.opposite.chain.n_steps
        rows = _rows(self.n_cache, self.batch_size, generator, self.start)
        k = stratified_times(self.batch_size, N, generator, self.start).long().clamp(max=N - 1)
        now, to = (k + 1, k) if self.field.direction == "backward" else (k, k + 1)
        x, x_to = self.path[now, rows], self.path[to, rows]
        with torch.no_grad():
            target = half_bridge_target(x_to, x, self.opposite.mean, k=to, kind=self.kind)
        end = self.path[0 if self.field.direction == "backward" else N, rows]
        return self.field.errors(now, x, target, end).square().mean()

    def state_dict(self) -> dict[str, Any]:
        """Return the trajectories and how often they were used."""
        return {"path": self.path, "calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take those of another run."""
        path = state["path"]
        self.path = None if path is None else path.to(self.start.device)
        self.calls = state["calls"]


def opposite_of(direction: str) -> str:
    """Return the other direction."""
    return DIRECTIONS[1 - DIRECTIONS.index(direction)]


def _rows(n: int, size: int, generator: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    return torch.randint(n, (size,), generator=generator, device=like.device)


def _at(values: Floats, k: Any, x: torch.Tensor) -> Any:
    """Return the entry of index k: a float, or a column of the kind of `x` for a tensor (n,)."""
    if not isinstance(k, torch.Tensor):
        return float(values[k])
    return torch.from_numpy(values).to(x)[k, None]
