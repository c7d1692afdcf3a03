"""Networks of a Wasserstein gradient flow: its maps, and the witness of its energy.

All of them see points in a frame: minus a centre, times an inverse root of a covariance, so that
clouds of any place, width and orientation look alike to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch, torch_generator
from thalweg.transport.networks import TimeMLP

RIDGE = 1e-6
"""Share of the mean variance added to each variance of a frame; chosen here."""
LARGEST_EXPONENT = 15.0
"""Outputs of a witness that is an exponent are cut here."""
CONVEXITY_PENALTY = 10.0
"""Weight of the squares of negative weights under ``convexity="penalty"``; the published value."""
MAPS = ("residual", "icnn")
CONVEXITY = ("projection", "penalty")


class Frame(torch.nn.Module):
    """Affine coordinates in which a cloud has mean 0 and unit covariance.

    Parameters
    ----------
    mean : array (d,)
        Mean of the cloud.
    cov : array (d, d)
        Its covariance; a share of the mean variance is added to the diagonal.
    """

    mean: torch.Tensor
    root: torch.Tensor
    inverse: torch.Tensor
    log_det: torch.Tensor

    def __init__(self, mean: NDArray[np.float64], cov: NDArray[np.float64]) -> None:
        super().__init__()
        d = len(mean)
        if not np.trace(cov) > 0:
            raise ValueError("X (and Y) must have at least two distinct rows")
        root = np.linalg.cholesky(cov + RIDGE * np.trace(cov) / d * np.eye(d))
        self.register_buffer("mean", torch.from_numpy(mean).float())
        self.register_buffer("root", torch.from_numpy(root).float())
        self.register_buffer("inverse", torch.from_numpy(np.linalg.inv(root)).float())
        self.register_buffer("log_det", torch.tensor(np.log(np.diag(root)).sum()).float())

    def inward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the coordinates of points (n, d)."""
        return (x - self.mean) @ self.inverse.T

    def outward(self, z: torch.Tensor) -> torch.Tensor:
        """Return the points of coordinates (n, d)."""
        return self.mean + z @ self.root.T


class ResidualMap(torch.nn.Module):
    """``T(x) = x + L f((x - mean) L^-T)``, f a perceptron plus a linear map; starts as identity."""

    penalty: None = None

    def __init__(
        self, frame: Frame, hidden: Sequence[int], rng: int | torch.Generator | None
    ) -> None:
        super().__init__()
        d = len(frame.mean)
        self.frame = frame
        self.net = TimeMLP(d, hidden=hidden, time_features=0, zero_init=True, rng=rng)
        self.linear = torch.nn.Parameter(torch.zeros(d, d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the images of points (n, d)."""
        z = self.frame.inward(x)
        return x + (self.net(0.0, z) + z @ self.linear) @ self.frame.root.T

    def project(self) -> None:
        """Do nothing: every value of the parameters is allowed."""


class ConvexMap(torch.nn.Module):
    """Gradient of an input-convex network in the coordinates of a frame; starts as the identity.

    In coordinates the potential is ``|Q z|^2 / 2 + <v, z> + w' s_L`` with
    ``s_1 = softplus(A_1 z + b_1)``, ``s_(l+1) = softplus(W_l s_l + A_(l+1) z + b_(l+1))``, convex
    where W and w are non-negative. The map of coordinates is monotone; that of points is so where
    the frame is a multiple of a rotation, and the frame of this map is one.

    Parameters
    ----------
    frame : Frame
        Its mean and its mean variance are used.
    hidden : sequence of int
        Widths of the layers s.
    convexity : {"projection", "penalty"}
        Whether negative weights are set to zero after each step, or penalised.
    rng : None, int or torch.Generator
        Source of the initial weights.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        frame: Frame,
        hidden: Sequence[int],
        convexity: str,
        rng: int | torch.Generator | None,
    ) -> None:
        super().__init__()
        generator = torch_generator(rng)
        d = len(frame.mean)
        self.register_buffer("mean", frame.mean.clone())
        self.register_buffer("scale", frame.root.square().sum().div(d).sqrt())
        self.convexity = convexity
        self.Q = torch.nn.Parameter(torch.eye(d))
        self.v = torch.nn.Parameter(torch.zeros(d))
        self.A = torch.nn.ParameterList(
            torch.randn(n, d, generator=generator) / d**0.5 for n in hidden
        )
        self.b = torch.nn.ParameterList(
            torch.rand(n, generator=generator).mul(2).sub(1) for n in hidden
        )
        self.W = torch.nn.ParameterList(
            torch.rand(n, m, generator=generator) * (2 / m) for m, n in pairwise(hidden)
        )
        self.w = torch.nn.Parameter(torch.zeros(hidden[-1] if len(hidden) else 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the images of points (n, d)."""
        return self.mean + self.scale * self._gradient((x - self.mean) / self.scale)

    def potential(self, z: torch.Tensor) -> torch.Tensor:
        """Return the convex function (n,) of coordinates whose gradient the map is."""
        value = (z @ self.Q.T).square().sum(1) / 2 + z @ self.v
        pre = self._preactivations(z)
        return value + (torch.nn.functional.softplus(pre[-1]) @ self.w if pre else 0.0)

    def _gradient(self, z: torch.Tensor) -> torch.Tensor:
        gradient = z @ (self.Q.T @ self.Q) + self.v
        below: torch.Tensor = self.w
        pre = self._preactivations(z)
        for layer in range(len(pre) - 1, -1, -1):
            below = below * torch.sigmoid(pre[layer])
            gradient = gradient + below @ self.A[layer]
            if layer:
                below = below @ self.W[layer - 1]
        return gradient

    def _preactivations(self, z: torch.Tensor) -> list[torch.Tensor]:
        pre: list[torch.Tensor] = []
        for layer, (A, b) in enumerate(zip(self.A, self.b, strict=True)):
            affine = torch.nn.functional.linear(z, A, b)
            if layer:
                affine = affine + torch.nn.functional.softplus(pre[-1]) @ self.W[layer - 1].T
            pre.append(affine)
        return pre

    @property
    def penalty(self) -> torch.Tensor | None:
        """The penalty of negative weights, None under projection."""
        if self.convexity == "projection":
            return None
        weights = [*self.W, self.w]
        squares = [torch.relu(-weight).square().sum() for weight in weights]
        return CONVEXITY_PENALTY * torch.stack(squares).sum()

    @torch.no_grad()
    def project(self) -> None:
        """Set negative weights to zero under projection."""
        if self.convexity == "projection":
            for weight in (*self.W, self.w):
                weight.clamp_(min=0)


class Witness(torch.nn.Module):
    """The function h of a variational energy, as an unconstrained number (n,) of each point.

    Its last layer starts at zero weights and the bias `start`. In the coordinates of a frame it is
    a perceptron plus a quadratic form, since the log-ratio of Gaussians is one.

    Parameters
    ----------
    dim : int
        Columns d of the points.
    hidden : sequence of int
        Widths of the hidden layers.
    start : float
        Its value at the start.
    exponent : bool
        Whether it is used as an exponent: then values are cut at `LARGEST_EXPONENT`, and counted.
    rng : None, int or torch.Generator
        Source of the initial weights.
    """

    frame: Frame
    n_clamped: torch.Tensor

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int],
        *,
        start: float,
        exponent: bool,
        rng: int | torch.Generator | None,
    ) -> None:
        super().__init__()
        self.exponent = exponent
        self.frame = Frame(np.zeros(dim), np.eye(dim))
        self.net = TimeMLP(dim, 1, hidden=hidden, time_features=0, zero_init=True, rng=rng)
        with torch.no_grad():
            cast(Any, list(self.net.parameters())[-1]).fill_(start)
        self.quadratic = torch.nn.Parameter(torch.zeros(dim, dim))
        self.register_buffer("n_clamped", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the numbers (n,) of points (n, d)."""
        z = self.frame.inward(x)
        u = self.net(0.0, z)[:, 0] + ((z @ self.quadratic) * z).sum(1)
        if not self.exponent:
            return u
        if self.training:
            self.n_clamped += (u.detach() > LARGEST_EXPONENT).sum()
        return u.clamp(max=LARGEST_EXPONENT)
