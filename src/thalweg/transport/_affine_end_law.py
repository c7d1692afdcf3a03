"""Where a path ends, given where it is now, as a Gaussian with affine mean, by least squares."""

from __future__ import annotations

from typing import Any

from thalweg._torch import torch
from thalweg.transport.reference import BrownianReference

SMALLEST_SHARE = 1e-12
"""What is added to a covariance, as a share of its trace, so that it has a Cholesky factor."""

SMALLEST_WIDTH = 1e-6
"""Least deviation that points are divided by, in normalised coordinates."""


class AffineEndLaw(torch.nn.Module):
    """A generator ``A[n] x + b[n] + L[n] z``, one Gaussian for each index of time.

    Parameters
    ----------
    dim : int
        Columns d of the points, and of the noise.
    n_steps : int
        Indices of time.
    """

    A: torch.Tensor
    b: torch.Tensor
    L: torch.Tensor
    centre: torch.Tensor
    width: torch.Tensor
    spread: torch.Tensor

    def __init__(self, dim: int, n_steps: int) -> None:
        super().__init__()
        self.register_buffer("A", torch.zeros(n_steps, dim, dim, dtype=torch.float64))
        self.register_buffer("b", torch.zeros(n_steps, dim, dtype=torch.float64))
        self.register_buffer("L", torch.zeros(n_steps, dim, dim, dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(n_steps, dim, dtype=torch.float64))
        self.register_buffer("width", torch.ones(n_steps, dim, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(n_steps, dtype=torch.float64))

    def forward(self, x: torch.Tensor, n: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Return ends (n, d)."""
        end = torch.empty_like(x)
        for k in n.unique().tolist():
            rows = n == k
            end[rows] = self.b[k] + x[rows] @ self.A[k].T + z[rows] @ self.L[k].T
        return end

    def standardise(self, x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        """Return points with zero mean and unit variance of each column at each time."""
        return (x - self.centre[n]) / self.width[n]

    def fit(
        self,
        start: torch.Tensor,
        end: torch.Tensor,
        times: Any,
        reference: BrownianReference,
        rng: torch.Generator,
    ) -> torch.Tensor:
        """Fit all times to bridges between pairs; return the mean squared errors (n_steps,)."""
        errors = []
        path = reference.bridge_path(start, end, times[:-1], rng)
        mean1 = end.mean(0)
        for k, now in enumerate(path):
            mean = now.mean(0)
            inside, target = now - mean, end - mean1
            slope = torch.linalg.lstsq(inside, target, driver="gelsd").solution
            rest = target - inside @ slope
            cov = rest.T @ rest / len(rest)
            ridge = SMALLEST_SHARE * cov.trace() + torch.finfo(cov.dtype).tiny
            self.A[k], self.b[k] = slope.T, mean1 - slope.T @ mean
            self.L[k] = torch.linalg.cholesky(cov + ridge * torch.eye(len(cov)).to(cov))
            self.centre[k] = mean
            self.width[k] = inside.std(0, correction=0).clamp_min(SMALLEST_WIDTH)
            self.spread[k] = (cov.trace() / len(cov)).sqrt().clamp_min(SMALLEST_WIDTH)
            errors.append(cov.trace())
        return torch.stack(errors)
