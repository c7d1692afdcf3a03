"""The path between Gaussians whose diffusion has least energy, by matrix schedules.

``I = m_t + A_t (x0 - m0) + B_t (x1 - m1)`` with polynomial A and B that are right at both ends.
All laws are Gaussian, the drift is linear, and its energy is a quadrature over time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray
from scipy.optimize import minimize

from thalweg._torch import torch

Floats = NDArray[np.float64]
NODES = 48
"""Nodes of the Gauss-Legendre rule in time."""


@dataclass(frozen=True)
class GaussianPath:
    """Linear fields of the path, in the data's coordinates.

    `coefficients` (2, n_basis, d, d) multiply ``t (1-t)`` times Legendre polynomials and are added
    to the linear schedules of x0 and x1.
    """

    mean0: Floats
    cov0: Floats
    mean1: Floats
    cov1: Floats
    epsilon: float
    coefficients: Floats

    def schedules(self, t: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return A, B and their derivatives, each (k, d, d), at times (k,)."""
        eye = np.eye(len(self.mean0))
        bump, slope = _basis(t, self.coefficients.shape[1])
        extra, change = (np.einsum("kn,enij->ekij", v, self.coefficients) for v in (bump, slope))
        column = t[:, None, None]
        A, B = (1 - column) * eye + extra[0], column * eye + extra[1]
        return A, B, change[0] - eye, change[1] + eye

    def moments(self, t: Floats) -> tuple[Floats, Floats, Floats]:
        """Return means (k, d), covariances and gains of the drift (k, d, d) at times (k,)."""
        A, B, dA, dB = self.schedules(t)
        column = t[:, None, None]
        eye = np.eye(len(self.mean0))
        across = A @ self.cov0 @ A.swapaxes(1, 2) + B @ self.cov1 @ B.swapaxes(1, 2)
        cov = across + 2 * self.epsilon * column * (1 - column) * eye
        cross = dA @ self.cov0 @ A.swapaxes(1, 2) + dB @ self.cov1 @ B.swapaxes(1, 2)
        cross = cross - 2 * self.epsilon * column * eye
        gain = np.linalg.solve(cov, cross.swapaxes(1, 2)).swapaxes(1, 2)
        mean = (1 - t)[:, None] * self.mean0 + t[:, None] * self.mean1
        return mean, cov, np.asarray(gain, dtype=float)

    def fields(self, t: Floats, x: Floats) -> tuple[Floats, Floats]:
        """Return forward drift u and score at points (n, d) and times (1,) or (n,)."""
        mean, cov, gain = self.moments(t)
        away = (x - mean)[..., None]
        drift = self.mean1 - self.mean0 + (gain @ away)[..., 0]
        score = -np.linalg.solve(cov, away)[..., 0]
        return drift, np.asarray(score, dtype=float)

    def energy(self) -> float:
        """Return ``int E|u|^2 / 2 dt``."""
        t, weights = _quadrature()
        _, cov, gain = self.moments(t)
        rows = np.einsum("kij,kjl,kil->k", gain, cov, gain)
        shift = self.mean1 - self.mean0
        return float(0.5 * (shift @ shift + weights @ rows))


def least_energy_path(
    mean0: Floats,
    cov0: Floats,
    mean1: Floats,
    cov1: Floats,
    epsilon: float,
    *,
    n_basis: int,
    max_iter: int,
) -> tuple[GaussianPath, Floats]:
    """Return the path of least energy and the energies of the iterations, from the linear path."""
    d = len(mean0)
    t, weights = _quadrature()
    bump, slope = (torch.from_numpy(v) for v in _basis(t, n_basis))
    S0, S1 = torch.from_numpy(cov0), torch.from_numpy(cov1)
    eye, times = torch.eye(d, dtype=torch.float64), torch.from_numpy(t)[:, None, None]
    rule = torch.from_numpy(weights)

    def varying_energy(flat: Floats) -> tuple[float, Floats]:
        parameters = torch.from_numpy(flat.reshape(2, n_basis, d, d)).requires_grad_()
        extra, change = (torch.einsum("kn,enij->ekij", v, parameters) for v in (bump, slope))
        A, B = (1 - times) * eye + extra[0], times * eye + extra[1]
        dA, dB = change[0] - eye, change[1] + eye
        cov = A @ S0 @ A.mT + B @ S1 @ B.mT + 2 * epsilon * times * (1 - times) * eye
        cross = dA @ S0 @ A.mT + dB @ S1 @ B.mT - 2 * epsilon * times * eye
        rows = (cross.mT * torch.linalg.solve(cov, cross.mT)).sum((1, 2))
        value = 0.5 * (rule * rows).sum()
        value.backward()
        gradient = parameters.grad
        assert gradient is not None
        return value.item(), gradient.numpy().ravel()

    shift = mean1 - mean0
    energies: list[float] = []

    def note(intermediate_result: Any) -> None:
        energies.append(float(intermediate_result.fun + 0.5 * shift @ shift))

    start = np.zeros(2 * n_basis * d * d)
    found = minimize(
        varying_energy,
        start,
        jac=True,
        method="L-BFGS-B",
        callback=note,
        options={"maxiter": max_iter, "ftol": 1e-12, "gtol": 1e-8},
    )
    path = GaussianPath(mean0, cov0, mean1, cov1, epsilon, found.x.reshape(2, n_basis, d, d))
    return path, np.array(energies)


def _quadrature() -> tuple[Floats, Floats]:
    nodes, weights = legendre.leggauss(NODES)
    return (1 + nodes) / 2, weights / 2


def _basis(t: Floats, n_basis: int) -> tuple[Floats, Floats]:
    """Return ``t (1-t) P_n(2t-1)`` and its derivative, (k, n_basis)."""
    eye = np.eye(n_basis)
    value = legendre.legval(2 * t - 1, eye).T
    change = legendre.legval(2 * t - 1, legendre.legder(eye, axis=0) if n_basis > 1 else 0 * eye).T
    bump, slope = (t * (1 - t))[:, None], (1 - 2 * t)[:, None]
    return bump * value, slope * value + 2 * bump * change
