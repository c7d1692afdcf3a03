"""The game between a path and the drift that follows it, on networks, in normalised coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch
from thalweg.transport._couplings import draw_pairs, stratified_times

Floats = NDArray[np.float64]
TIME_STEP = 1e-3
"""Half of the step of the path's time derivative: the highest frequency of the networks is 30, and
forward-mode differentiation costs many times as much."""


class PathGame:
    """Networks of path, drift and denoiser, and what each of them is paid.

    Inside, a point is ``(x - (1-t) mean0 - t mean1) / scale`` and epsilon is divided by the square
    of the scale.
    """

    def __init__(
        self,
        path: torch.nn.Module,
        drift: torch.nn.Module,
        denoiser: torch.nn.Module,
        mean0: Floats,
        mean1: Floats,
        scale: float,
        epsilon: float,
        t_min: float,
    ) -> None:
        self.path, self.drift, self.denoiser = path, drift, denoiser
        self.mean0, self.mean1, self.scale, self.t_min = mean0, mean1, scale, t_min
        self.epsilon = epsilon / scale**2

    def values(
        self,
        x0: torch.Tensor,
        x1: torch.Tensor,
        n: int,
        generator: torch.Generator,
        fixed_path: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``E[|u|^2 / 2 - (dI + (gamma' - epsilon / gamma) z).u]`` and the denoiser's loss.

        Averaged over z and -z. Where the path is fixed, no gradient reaches it.
        """
        t, middle, slope, z = self._draw(x0, x1, n, generator, fixed_path)
        column = t[:, None]
        gamma = (2 * self.epsilon * column * (1 - column)).sqrt()
        kick = (-2 * self.epsilon) * column / gamma * z
        times = torch.cat([t, t])
        points = torch.cat([middle + gamma * z, middle - gamma * z])
        u, targets = self.drift(times, points), torch.cat([slope + kick, slope - kick])
        value = (u * (0.5 * u - targets)).sum(1).mean()
        eta = self.denoiser(times, points.detach())
        return value, (eta * (0.5 * eta - torch.cat([z, -z]))).sum(1).mean()

    def energy(
        self, x0: torch.Tensor, x1: torch.Tensor, n: int, generator: torch.Generator
    ) -> float:
        """Return ``int E|u|^2 / 2 dt`` outside."""
        t, middle, _, z = self._draw(x0, x1, n, generator, fixed_path=True)
        column = t[:, None]
        with torch.no_grad():
            points = middle + (2 * self.epsilon * column * (1 - column)).sqrt() * z
            u = self.drift(t, points).cpu().double().numpy()
        return float(0.5 * ((self.mean1 - self.mean0 + self.scale * u) ** 2).sum(1).mean())

    def fields(self, t: Floats, x: Floats) -> tuple[Floats, Floats]:
        """Return forward drift and score outside, at times (1,) or (n,)."""
        clock = torch.from_numpy(np.clip(t, self.t_min, 1 - self.t_min)).float()
        inside = self.inward(x, t[:, None])
        clock = (clock[0] if len(clock) == 1 else clock).to(inside.device)
        with torch.inference_mode():
            column = clock.reshape(-1, 1)
            gamma = (2 * self.epsilon * column * (1 - column)).sqrt()
            u = self.drift(clock, inside)
            score = -self.denoiser(clock, inside) / (gamma * self.scale)
        u, score = (v.cpu().double().numpy() for v in (u, score))
        return self.mean1 - self.mean0 + self.scale * u, score

    def middle(self, t: float, X: Floats, Y: Floats) -> Floats:
        """Return I(t, x0, x1) outside."""
        x0, x1 = self.inward(X, 0.0), self.inward(Y, 1.0)
        with torch.inference_mode():
            inside = (1 - t) * x0 + t * x1 + t * (1 - t) * self.path(t, x0, x1)
        centre = (1 - t) * self.mean0 + t * self.mean1
        return np.asarray(centre + self.scale * inside.cpu().double().numpy())

    def inward(self, Z: Floats, t: Any) -> torch.Tensor:
        """Return points at time t as a tensor in normalised coordinates."""
        inside = (Z - (1 - t) * self.mean0 - t * self.mean1) / self.scale
        return torch.from_numpy(inside).to(next(self.path.parameters()))

    def _draw(
        self,
        x0: torch.Tensor,
        x1: torch.Tensor,
        n: int,
        generator: torch.Generator,
        fixed_path: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return times, points I and their derivatives in time, and noise."""
        start, end = draw_pairs(x0, x1, n, "independent", generator)
        z = torch.randn(end.shape, generator=generator, dtype=end.dtype, device=end.device)
        t = self.t_min + stratified_times(n, 1 - 2 * self.t_min, generator, end)
        column = t[:, None]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not fixed_path):
            earlier, later = self.path(
                torch.cat([t - TIME_STEP, t + TIME_STEP]),
                torch.cat([start, start]),
                torch.cat([end, end]),
            ).split(n)
            extra, change = (earlier + later) / 2, (later - earlier) / (2 * TIME_STEP)
            bump = column * (1 - column)
            middle = (1 - column) * start + column * end + bump * extra
            slope = end - start + (1 - 2 * column) * extra + bump * change
        return t, middle, slope, z
