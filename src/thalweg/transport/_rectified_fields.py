"""The velocities that `RectifiedFlow` regresses, free or by a potential, and their losses.

Both live in normalised coordinates ``u = (x - m_t) / s``, m_t the mean of the interpolation and s
the clouds' common spread, so that a row moves by ``shift + s u'`` with ``shift = m_1 - m_0``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from thalweg._torch import torch
from thalweg.transport._couplings import draw_pairs, stratified_times
from thalweg.transport.convex_costs import ConvexCost
from thalweg.transport.integrate import odeint

LEAST_SPREAD = 1e-6
"""Smallest spread of the dual vectors, as a share of their mean, that the network is scaled by."""
ROWS_AT_ONCE = 16_384
"""Rows carried together on a processor: more would leave its caches."""


class FreeField(torch.nn.Module):
    """Any velocity: the mean of the displacement given the place, by least squares."""

    def __init__(self, network: torch.nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def velocity(self, t: Any, u: torch.Tensor) -> torch.Tensor:
        """Return du/dt at (n, d)."""
        return self.network(t, u)

    def loss(self, t: torch.Tensor, u: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
        """Return half the mean squared error against the displacements, per row."""
        return (self.network(t, u) - move).square().sum(1).mean() / 2

    @torch.no_grad()
    def excess(self, t: float, u: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
        """Return the matching loss of each row in squared units of the data, (n,)."""
        error = self.network(t, u).double() - move.double()
        return self.scale**2 * error.square().sum(1) / 2


class PotentialField(torch.nn.Module):
    """The velocity ``grad c*(grad f)`` of a potential f, by the matching loss of the cost.

    ``grad f = slope + spread * grad_u network``: the slope is the gradient of the cost at the
    translation of the means, so that the network starts from that translation.
    """

    shift: torch.Tensor
    slope: torch.Tensor

    def __init__(
        self,
        network: torch.nn.Module,
        cost: ConvexCost,
        shift: torch.Tensor,
        scale: float,
        moves: torch.Tensor,
    ) -> None:
        super().__init__()
        self.network, self.cost, self.scale = network, cost, scale
        slope = cost.gradient(shift[None].double())
        around = cost.gradient(shift.double() + scale * moves.double()) - slope
        spread = float(around.square().mean().sqrt())
        spread = max(spread, LEAST_SPREAD * float(slope.square().mean().sqrt()))
        self.spread = spread if spread > 0 else 1.0
        self.register_buffer("shift", shift)
        self.register_buffer("slope", slope[0].to(shift))

    def dual(self, t: Any, u: torch.Tensor, differentiable: bool = False) -> torch.Tensor:
        """Return grad f at (n, d)."""
        with torch.enable_grad():
            if not (differentiable and u.requires_grad):
                u = u.detach().requires_grad_()
            value = self.network(t, u).sum()
            (slope,) = torch.autograd.grad(value, u, create_graph=differentiable)
        return torch.add(self.slope, slope, alpha=self.spread)

    def velocity(self, t: Any, u: torch.Tensor) -> torch.Tensor:
        """Return du/dt at (n, d)."""
        y = self.dual(t, u, torch.is_grad_enabled() and u.requires_grad)
        return (self.cost.grad_conjugate(y) - self.shift) / self.scale

    def loss(self, t: torch.Tensor, u: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
        """Return the mean matching loss, in units of spread times scale."""
        y = self.dual(t, u, differentiable=True)
        return self._matching(y, self.shift + self.scale * move).mean() / (self.spread * self.scale)

    @torch.no_grad()
    def excess(self, t: float, u: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
        """Return the matching loss of each row in units of the cost, (n,)."""
        y = self.dual(t, u)
        return self._matching(y.double(), self.shift.double() + self.scale * move.double())

    def potential(self, t: Any, u: torch.Tensor) -> torch.Tensor:
        """Return f at (n, d), up to a function of time, as (n,)."""
        return self.scale * (u @ self.slope + self.spread * self.network(t, u)[:, 0])

    def _matching(self, y: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        return self.cost.conjugate(y) - (moved * y).sum(1) + self.cost.cost(moved)


Field: TypeAlias = FreeField | PotentialField


@dataclass
class MatchingLoss:
    """The loss of a field on straight lines between pairs, or between rows and their images."""

    field: Field
    start: torch.Tensor
    end: torch.Tensor | None
    coupling: str
    batch_size: int
    carry_over: Any = None

    def __call__(self, generator: torch.Generator) -> torch.Tensor:
        if self.end is None:
            u0, _ = draw_pairs(self.start, self.start, self.batch_size, "paired", generator)
            u1 = self.carry_over(u0)
        else:
            u0, u1 = draw_pairs(self.start, self.end, self.batch_size, self.coupling, generator)
        t = stratified_times(self.batch_size, 1.0, generator, u0)
        return self.field.loss(t, torch.lerp(u0, u1, t[:, None]), u1 - u0)


@torch.no_grad()
def carry(
    field: Field,
    u: torch.Tensor,
    method: str,
    n_steps: int,
    *,
    backward: bool = False,
    keep: bool = False,
) -> torch.Tensor:
    """Return where the rows end, (n, d), or with `keep` their paths, (n_steps + 1, n, d)."""
    t0, t1 = (1.0, 0.0) if backward else (0.0, 1.0)
    parts = u.split(ROWS_AT_ONCE) if u.device.type == "cpu" else (u,)
    ends = [
        odeint(field.velocity, p, t0=t0, t1=t1, n_steps=n_steps, method=method, return_path=keep)
        for p in parts
    ]
    return torch.cat(ends, dim=1 if keep else 0)


def matching_excess(field: Field, u0: torch.Tensor, u1: torch.Tensor, n_times: int) -> float:
    """Return the matching loss of pairs, by the midpoint rule over t."""
    times = [(i + 0.5) / n_times for i in range(n_times)]
    values = [float(field.excess(t, torch.lerp(u0, u1, t), u1 - u0).mean()) for t in times]
    return sum(values) / n_times


@torch.no_grad()
def departure_from_lines(field: Field, path: torch.Tensor) -> float:
    """Return ``E int |Z_1 - Z_0 - v(Z_t, t)|^2 dt`` along paths, in squared units of the data."""
    n_steps = len(path) - 1
    chord = path[-1] - path[0]
    errors = torch.stack(
        [
            (field.velocity(k / n_steps, u) - chord).square().sum(1).double().mean()
            for k, u in enumerate(path)
        ]
    )
    return field.scale**2 * float(torch.trapezoid(errors, dx=1 / n_steps))
