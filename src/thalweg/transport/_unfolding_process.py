"""The regression that `BridgeUnfolder` solves, and the way back along the bridge it learned."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch
from thalweg.transport._couplings import stratified_times
from thalweg.transport.unfolding_bridge import (
    Schedule,
    bridge_coefficients,
    posterior_coefficients,
)

Floats: TypeAlias = NDArray[np.float64]


class BridgeLoss:
    """Mean squared error of a network's ``(x_k - x_0) / sigma_forward(k)``, k = 1 to the last.

    Parameters
    ----------
    network : torch.nn.Module
        Called with ``(share of the grid, points, condition or None)``.
    x0, x1 : tensor (n, d)
        Truths and measurements.
    schedule : (array, array)
        What `bridge_schedule` returns.
    batch_size : int
        Pairs drawn a call.
    cond, ode : bool
        As in `BridgeUnfolder`.
    weights : array (n,)
        Pairs are drawn with probabilities proportional to these.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        x0: torch.Tensor,
        x1: torch.Tensor,
        schedule: Schedule,
        batch_size: int,
        cond: bool,
        ode: bool,
        weights: Floats,
    ) -> None:
        self.network, self.x0, self.x1 = network, x0, x1
        self.batch_size, self.cond, self.ode = batch_size, cond, ode
        self.last = len(schedule[0]) - 1
        table = [*bridge_coefficients(np.arange(self.last + 1), schedule), schedule[0]]
        self.table = torch.from_numpy(np.stack(table, axis=1)).to(x0)
        self.cumulated = None
        if np.ptp(weights) > 0:
            cumulated = torch.from_numpy(np.cumsum(weights) / np.sum(weights))
            self.cumulated = cumulated.to(x0.device)

    def __call__(self, generator: torch.Generator) -> torch.Tensor:
        """Return the loss on a batch drawn from `generator`."""
        rows = self._rows(generator)
        x0, x1 = self.x0[rows], self.x1[rows]
        times = stratified_times(self.batch_size, self.last, generator, x0)
        k = 1 + times.long().clamp(max=self.last - 1)
        mu0, mu1, std, forward = self.table[k].T[:, :, None]
        x = mu0 * x0 + mu1 * x1
        if not self.ode:
            x = x + std * torch.randn(x.shape, generator=generator, device=x.device)
        error = self.network(k / self.last, x, x1 if self.cond else None) - (x - x0) / forward
        return error.square().mean()

    def _rows(self, generator: torch.Generator) -> torch.Tensor:
        n, device = len(self.x0), self.x0.device
        if self.cumulated is None:
            return torch.randint(n, (self.batch_size,), generator=generator, device=device)
        levels = torch.rand(
            self.batch_size, generator=generator, device=device, dtype=self.cumulated.dtype
        )
        return torch.searchsorted(self.cumulated, levels, right=True).clamp(max=n - 1)


def follow_back(
    network: torch.nn.Module,
    schedule: Schedule,
    nfe: int,
    cond: bool,
    ode: bool,
    device: Any,
    starts: Floats,
    seed: int,
) -> Floats:
    """Return truths (n, d) drawn for measurements (n, d), both in standardised columns."""
    last = len(schedule[0]) - 1
    grid = np.round(np.linspace(0, last, nfe + 1)).astype(int)[::-1]
    generator = torch.Generator(device).manual_seed(seed)
    x = x1 = torch.from_numpy(starts).to(device, torch.float32)
    with torch.inference_mode():
        for later, earlier in pairwise(grid.tolist()):
            value = network(later / last, x, x1 if cond else None)
            truth = x - float(schedule[0][later]) * value
            mu0, mu1, std = (float(c) for c in posterior_coefficients(earlier, later, schedule))
            x = mu0 * truth + mu1 * x
            if std and not ode:
                x = x + std * torch.randn(x.shape, generator=generator, device=x.device)
            if not bool(x.isfinite().all()):
                raise FloatingPointError(f"an event is not finite at index {earlier} of the bridge")
    return x.cpu().double().numpy()
