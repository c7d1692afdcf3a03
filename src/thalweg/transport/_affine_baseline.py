"""A generator and a discriminator that learn what affine Gaussian transitions leave over.

The end given the present is first fitted by least squares. The generator adds a correction of the
size of what that leaves; the discriminator sees the next point as its whitened deviation from what
the fit expects. Small steps, and axes of little spread, then cost networks no more than others.
"""

from __future__ import annotations

from typing import Any

from thalweg._torch import torch
from thalweg.transport._affine_end_law import AffineEndLaw
from thalweg.transport.reference import BrownianReference

RIDGE = 1e-6
"""Least variance of a direction, as a share of the mean one, that deviations are divided by."""


class CorrectedGenerator(torch.nn.Module):
    """``law(x, n, z) + spread[n] * network(standardised x, n, z)``.

    Noise of fewer columns than the points enters through the network alone.
    """

    def __init__(self, law: AffineEndLaw, network: torch.nn.Module) -> None:
        super().__init__()
        self.law, self.network = law, network

    def forward(self, x: torch.Tensor, n: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Return ends (n, d)."""
        d = x.shape[1]
        noise = z[:, :d] if z.shape[1] >= d else torch.zeros_like(x)
        change: torch.Tensor = self.network(self.law.standardise(x, n), n, z)
        return self.law(x, n, noise) + self.law.spread[n][:, None] * change


def sensitive(network: torch.nn.Module) -> torch.nn.Module:
    """Enlarge all weights of a fresh network but the last layer's to the variance 2 / inputs.

    PyTorch's own are a sixth of that: signals fade from layer to layer, the network is next to
    affine, and a law that bends is found late or not at all in a short run.
    """
    layers = [part for part in network.modules() if isinstance(part, torch.nn.Linear)]
    with torch.no_grad():
        for layer in layers[:-1]:
            layer.weight.mul_(6**0.5)
    return network


class WhiteningDiscriminator(torch.nn.Module):
    """``network(whitened x_next, n, standardised x)``: deviations from what the law expects."""

    A: torch.Tensor
    b: torch.Tensor
    W: torch.Tensor

    def __init__(
        self,
        law: AffineEndLaw,
        network: torch.nn.Module,
        times: Any,
        reference: BrownianReference,
    ) -> None:
        super().__init__()
        self.law, self.network = law, network
        grid = torch.as_tensor(times).to(law.A)
        share = ((grid[1:] - grid[:-1]) / (1 - grid[:-1]))[:, None, None]
        eye = torch.eye(law.A.shape[1]).to(law.A)
        bridge = reference.epsilon * share * (1 - grid[1:])[:, None, None] * eye
        cov = share**2 * (law.L @ law.L.mT) + bridge
        floor = RIDGE * cov.diagonal(dim1=1, dim2=2).mean(1) + torch.finfo(torch.float32).tiny
        factor = torch.linalg.cholesky(cov + floor[:, None, None] * eye)
        self.register_buffer("A", (1 - share) * eye + share * law.A)
        self.register_buffer("b", share[:, 0] * law.b)
        self.register_buffer("W", torch.linalg.solve_triangular(factor, eye, upper=False))

    def forward(self, x_next: torch.Tensor, n: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n,)."""
        white = self.whiten(x_next, n, x)
        value: torch.Tensor = self.network(white, n, self.law.standardise(x, n))
        return value

    def whiten(self, x_next: torch.Tensor, n: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return deviations (n, d) from the expected next point, in units of their spread."""
        rest = x_next - self.b[n] - torch.bmm(self.A[n], x[:, :, None])[:, :, 0]
        return torch.bmm(self.W[n], rest[:, :, None])[:, :, 0]
