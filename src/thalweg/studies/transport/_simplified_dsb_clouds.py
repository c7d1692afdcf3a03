"""Clouds of the study of the simplified diffusion bridge: planes, Gaussians and digits."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import make_swiss_roll

from thalweg import data
from thalweg.studies.transport.stochastic_interpolants import board

IMAGES, LABELS = "mnist-t10k-images", "mnist-t10k-labels"
DIGITS, PCA_COMPONENTS, HELD_OUT = (2, 3), 16, 300
M0, M1 = np.zeros(2), np.array([1.0, -3.0])
S0 = np.array([[1.0, 0.4], [0.4, 0.6]])
S1 = np.array([[0.5, -0.3], [-0.3, 1.5]])


def checkerboard(n, rng):
    """Draw from a checkerboard of spread one."""
    return board(n, rng) / 2.3


def pinwheel(n, rng, arms=5):
    """Draw from a pinwheel of spread one: blobs on a circle, sheared along it."""
    x = rng.standard_normal((n, 2)) * [0.3, 0.05] + [1.0, 0.0]
    angle = rng.integers(arms, size=n) * 2 * np.pi / arms + 0.25 * np.exp(x[:, 0])
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)])
    return 1.35 * np.einsum("ijn,nj->ni", turn.reshape(2, 2, n), x)


def normal(n, rng):
    """Draw from the standard normal law of the plane."""
    return rng.standard_normal((n, 2))


def roll(n, rng):
    """Draw from the swiss roll of spread one."""
    points, _ = make_swiss_roll(n, noise=0.5, random_state=int(rng.integers(2**31)))
    return points[:, [0, 2]] / 7


def gaussians(n, rng):
    """Draw from two normal laws."""
    return rng.multivariate_normal(M0, S0, n), rng.multivariate_normal(M1, S1, n)


def digits(rng):
    """Return twos and threes in principal components, in random order."""
    images = data.read_idx(data.fetch(IMAGES, download=False)).reshape(-1, 784) / 255.0
    labels = data.read_idx(data.fetch(LABELS, download=False))
    clouds = [images[labels == digit] for digit in DIGITS]
    clouds = [cloud[rng.permutation(len(cloud))] for cloud in clouds]
    pooled = np.concatenate(clouds)
    _, _, axes = np.linalg.svd(pooled - pooled.mean(0), full_matrices=False)
    return [(cloud - pooled.mean(0)) @ axes[:PCA_COMPONENTS].T for cloud in clouds]
