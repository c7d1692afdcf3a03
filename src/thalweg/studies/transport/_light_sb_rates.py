"""How fast light bridges near the optimum, in components and in sample size."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.datasets import make_swiss_roll

from thalweg.transport import (
    LightSB,
    entropic_plan,
    gaussian_mixture_pair,
)

ROLL_SCALE, ROLL_NOISE = 7.5, 0.8


def swiss_roll(n, rng):
    """Draw points of the rolled-up sheet, seen from its side."""
    roll, _ = make_swiss_roll(n, noise=ROLL_NOISE, random_state=int(rng.integers(2**31)))
    return roll[:, [0, 2]] / ROLL_SCALE


def roll_log_density(Y):
    """Log density of the roll: its noise around 2000 midpoints of the curve."""
    angle = 1.5 * np.pi * (1 + 2 * (np.arange(2000) + 0.5) / 2000)
    curve = np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1) / ROLL_SCALE
    variance = (ROLL_NOISE / ROLL_SCALE) ** 2
    logits = -cdist(Y, curve, "sqeuclidean") / (2 * variance)
    return logsumexp(logits, axis=1) - np.log(2000 * 2 * np.pi * variance)


class SinkhornPotentials:
    """The potentials of the discrete plan of two samples, extended to any point.

    With f, g of the discrete problem, its plan ``a_i b_j exp((f_i + g_j - c_ij) / eps)``,
    ``log c(x) = (|x|^2 / 2 - f(x)) / eps`` and
    ``log v(y) = log q(y) + (g(y) - |y|^2 / 2) / eps``, q the density of the target.
    """

    def __init__(self, X, Y, epsilon, log_density):
        self.X, self.Y, self.epsilon, self.log_density = X, Y, epsilon, log_density
        plan = entropic_plan(X, Y, epsilon, tol=1e-7)
        self.f = plan.f + epsilon * np.log(len(X))
        self.g = plan.g + epsilon * np.log(len(Y))

    def loss(self, X, Y):
        """Return ``mean log c(X) - mean log v(Y)``."""
        f, g = self._extend(X, self.Y, self.g), self._extend(Y, self.X, self.f)
        log_c = ((X**2).sum(1) / 2 - f) / self.epsilon
        log_v = (g - (Y**2).sum(1) / 2) / self.epsilon + self.log_density(Y)
        return float(log_c.mean() - log_v.mean())

    def _extend(self, points, others, potential):
        logits = (potential - cdist(points, others, "sqeuclidean") / 2) / self.epsilon
        return -self.epsilon * (logsumexp(logits, axis=1) - np.log(len(others)))


def approximation(rng):
    """Divergence from the optimum on normal cloud to roll as components are added."""
    components, epsilon = [2, 8, 32, 128], 0.1
    sinkhorn = SinkhornPotentials(
        rng.standard_normal((2000, 2)), swiss_roll(2000, rng), epsilon, roll_log_density
    )
    X, Y = rng.standard_normal((100_000, 2)), swiss_roll(100_000, rng)
    fresh = rng.standard_normal((8000, 2)), swiss_roll(8000, rng)
    models = [LightSB(epsilon, K, n_steps=5000, rng=rng).fit(X, Y) for K in components]
    gaps = np.array([model.kl_gap(*fresh, sinkhorn) for model in models])
    return {
        "approximation_components": components,
        "approximation_gaps": gaps,
        "approximation_steps_down": gaps[:-1] - gaps[1:],
        "approximation_ratio": gaps[-1] / gaps[0],
    }


def generalization(rng):
    """Excess loss on fresh data against the sample size, the true components given as start."""
    sizes, pair = [250, 500, 1000, 2000, 4000, 8000, 16_000], gaussian_mixture_pair(2, 1.0, rng=rng)
    fresh = pair.sample_source(200_000, rng), pair.sample_target(200_000, rng)
    truth, K = pair.loss(*fresh), len(pair.locations)
    options: dict[str, Any] = {"covariance": "full", "init": pair.locations}
    options |= {"batch_size": 512, "n_steps": 2000}
    excess = np.empty((5, len(sizes)))
    for trial in excess:
        for i, n in enumerate(sizes):
            X, Y = pair.sample_source(n, rng), pair.sample_target(n, rng)
            trial[i] = LightSB(1.0, K, rng=rng, **options).fit(X, Y).loss(*fresh) - truth
    means = excess.mean(0)
    slope = np.polyfit(np.log(sizes), np.log(means), 1)[0]
    return {
        "generalization_sizes": sizes,
        "generalization_excess": means,
        "generalization_slope": slope,
    }
