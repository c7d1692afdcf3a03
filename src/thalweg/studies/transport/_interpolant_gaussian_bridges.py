"""The Schrödinger bridge of two Gaussians, found by optimising the interpolant."""

from __future__ import annotations

import numpy as np

from thalweg.transport import (
    BridgeInterpolant,
    gaussian_bridge_marginal,
    gaussian_eot,
)

BRIDGE_EPSILON = 0.25


BRIDGE_PAIR = (
    np.zeros(2),
    np.array([[1.0, 0.3], [0.3, 0.6]]),
    np.array([0.5, -0.5]),
    np.array([[0.5, -0.2], [-0.2, 1.2]]),
)


def exact_sample(mean, cov, n, rng):
    """Draw points whose mean and covariance are exactly these."""
    x = rng.standard_normal((n, len(mean)))
    x -= x.mean(0)
    x = np.linalg.solve(np.linalg.cholesky(np.cov(x.T)), x.T)
    return mean + x.T @ np.linalg.cholesky(cov).T


def process_moments(pair, epsilon, across, t):
    """Covariance of Brownian bridges between coupled ends, and Cov of place and displacement."""
    _, cov0, _, cov1 = pair
    eye = np.eye(len(cov0))
    cov = (1 - t) ** 2 * cov0 + t**2 * cov1 + t * (1 - t) * (across + across.T + 2 * epsilon * eye)
    ahead = t * cov1 - (1 - t) * cov0 + (1 - t) * across - t * across.T - 2 * epsilon * t * eye
    return cov, ahead


def process_energy(pair, epsilon, across):
    """Energy ``int E|u|^2 / 2 dt`` of the diffusion whose ends have the cross-covariance."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    total, shift = 0.0, pair[2] - pair[0]
    for t, weight in zip((1 + nodes) / 2, weights / 2, strict=True):
        cov, ahead = process_moments(pair, epsilon, across, t)
        total += weight * np.trace(ahead.T @ np.linalg.solve(cov, ahead))
    return 0.5 * float(shift @ shift + total)


def bridges(setup, rng, tell):
    """Errors of variance at t = 1/2 and of energy: matrix schedules, networks, the linear path."""
    X, Y = (
        exact_sample(mean, cov, 20_000, rng) for mean, cov in (BRIDGE_PAIR[:2], BRIDGE_PAIR[2:])
    )
    across, _, _ = gaussian_eot(*BRIDGE_PAIR, 2 * BRIDGE_EPSILON)
    energy = process_energy(BRIDGE_PAIR, BRIDGE_EPSILON, across)
    _, cov = gaussian_bridge_marginal(*BRIDGE_PAIR, 2 * BRIDGE_EPSILON, 0.5)

    def errors(variance, found):
        return np.abs([variance / np.trace(cov) - 1, found / energy - 1])

    def of(model):
        return errors(model.sample(0.5, X, Y, rng=1).var(0, ddof=1).sum(), model.energy_)

    none = np.zeros_like(across)
    middle, _ = process_moments(BRIDGE_PAIR, BRIDGE_EPSILON, none, 0.5)
    linear = errors(np.trace(middle), process_energy(BRIDGE_PAIR, BRIDGE_EPSILON, none))
    gaussian = of(BridgeInterpolant(BRIDGE_EPSILON, kind="gaussian", rng=0).fit(X, Y))
    network = of(
        BridgeInterpolant(
            BRIDGE_EPSILON,
            n_steps=setup.bridge_steps,
            hidden=setup.bridge_hidden,
            batch_size=512,
            lr=setup.bridge_lr,
            callback=tell,
            rng=int(rng.integers(2**31)),
        ).fit(X, Y)
    )
    return {
        "bridge_gaussian": gaussian,
        "bridge_network": network,
        "bridge_linear": linear,
        "bridge_linear_over_others": linear / np.maximum(gaussian, network),
    }
