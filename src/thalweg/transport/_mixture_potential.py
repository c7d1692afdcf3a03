"""A sum of Gaussians as Schrödinger potential: its plan, drift and normaliser in closed form.

With ``v(y) = sum_k a_k N(y; r_k, epsilon S_k)`` the plan ``pi(y|x)`` proportional to
``exp(<x, y> / epsilon) v(y)`` is a Gaussian mixture for every x, and so is the law of the end point
given the process at any time. Weights, means and drift below are those of that mixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

Floats: TypeAlias = NDArray[np.float64]
BLOCK_NUMBERS = 4_000_000
"""Intermediate arrays are kept to about this many numbers (32 MB); chosen here."""


@dataclass(frozen=True)
class MixturePotential:
    """The potential v and everything that follows from it.

    Parameters
    ----------
    log_weights : array (K,)
        log a_k; the weights need not sum to 1.
    locations : array (K, d)
        r_k.
    scales : array (K, d) or (K, d, d)
        Diagonals of S_k, or the whole matrices.
    epsilon : float
        Variance of the Brownian reference at time 1.
    """

    log_weights: Floats
    locations: Floats
    scales: Floats
    epsilon: float

    @property
    def diagonal(self) -> bool:
        """Whether the S_k are diagonal."""
        return self.scales.ndim == 2

    @cached_property
    def spectrum(self) -> tuple[Floats, Floats]:
        """Eigenvalues (K, d) and eigenvectors (K, d, d) of whole S_k."""
        values, vectors = np.linalg.eigh(self.scales)
        return values, vectors

    def log_potential(self, Y: Floats) -> Floats:
        """Return log v(y) for each row."""
        eps, r = self.epsilon, self.locations
        if self.diagonal:
            inverse = 1 / self.scales
            squares = (Y**2) @ inverse.T - 2 * Y @ (r * inverse).T + (r**2 * inverse).sum(1)
            log_det = np.log(self.scales).sum(1)
        else:
            values, vectors = self.spectrum
            whitener = vectors / np.sqrt(values)[:, None, :]
            squares = np.empty((len(Y), len(r)))
            for rows in self._row_blocks(Y):
                squares[rows] = self._whitened_squares(Y[rows], whitener)
            log_det = np.log(values).sum(1)
        constant = self.log_weights - 0.5 * (log_det + Y.shape[1] * np.log(2 * np.pi * eps))
        return np.asarray(logsumexp(constant - squares / (2 * eps), axis=1))

    def logits(self, X: Floats) -> Floats:
        """Return log a_k + (x' S_k x + 2 r_k' x) / (2 epsilon), shape (n, K)."""
        if self.diagonal:
            squares = (X**2) @ self.scales.T
        else:
            squares = np.empty((len(X), len(self.scales)))
            for rows in self._row_blocks(X):
                squares[rows] = ((X[rows] @ self.scales) * X[rows]).sum(-1).T
        return self.log_weights + (squares + 2 * X @ self.locations.T) / (2 * self.epsilon)

    def log_normalizer(self, X: Floats) -> Floats:
        """Return log c(x), the integral of exp(<x, y> / epsilon) v(y), for each row."""
        return np.asarray(logsumexp(self.logits(X), axis=1))

    def weights(self, X: Floats) -> Floats:
        """Return the weights (n, K) of the conditional mixtures."""
        return np.asarray(softmax(self.logits(X), axis=1))

    def means(self, X: Floats) -> Floats:
        """Return the means r_k + S_k x of the conditional mixtures, (n, K, d)."""
        if self.diagonal:
            return self.locations + X[:, None, :] * self.scales
        return self.locations + (X @ self.scales).swapaxes(0, 1)

    def conditional_moments(self, X: Floats) -> tuple[Floats, Floats]:
        """Return mean (n, d) and covariance (n, d, d) of the conditional mixtures."""
        n, d = X.shape
        mean, cov = np.empty((n, d)), np.empty((n, d, d))
        for rows in self._row_blocks(X):
            weights, means = self.weights(X[rows])[:, :, None], self.means(X[rows])
            mean[rows] = (weights * means).sum(1)
            deviations = means - mean[rows, None, :]
            cov[rows] = (weights * deviations).swapaxes(1, 2) @ deviations
            within = self.epsilon * np.tensordot(weights[:, :, 0], self.scales, 1)
            if self.diagonal:
                cov[rows, np.arange(d), np.arange(d)] += within
            else:
                cov[rows] += within
        return mean, cov

    def sample(self, X: Floats, rng: np.random.Generator) -> Floats:
        """Draw one y of the conditional mixture of each row."""
        cumulative = np.cumsum(self.weights(X), axis=1)
        levels = rng.random(len(X))[:, None] * cumulative[:, -1:]
        component = (levels >= cumulative).sum(1)
        noise = np.sqrt(self.epsilon) * rng.standard_normal(X.shape)
        if self.diagonal:
            scales = self.scales[component]
            return np.asarray(self.locations[component] + scales * X + np.sqrt(scales) * noise)
        values, vectors = self.spectrum
        roots = vectors * np.sqrt(values)[:, None, :]
        Y = self.locations[component]
        for k in np.unique(component):
            rows = component == k
            Y[rows] += X[rows] @ self.scales[k] + noise[rows] @ roots[k].T
        return Y

    def drift(self, X: Floats, t: float) -> Floats:
        """Return the drift (E[X_1 | X_t = x] - x) / (1 - t) of the bridge, 0 <= t < 1.

        Given X_t = x the end point is a mixture with ``M_k = t S_k + (1-t) I``, means
        ``M_k^-1 (S_k x + (1-t) r_k)`` and log-weights, up to a constant,
        ``log a_k - log det M_k / 2 + (x'M_k^-1 S_k x / (1-t) + 2 x'M_k^-1 r_k - t r_k'M_k^-1 r_k)
        / (2 epsilon)``.
        """
        r, rest = self.locations, 1 - t
        if self.diagonal:
            M = t * self.scales + rest
            slope, shift = self.scales / M, r / M
        else:
            values, vectors = self.spectrum
            M = t * values + rest
            slope = (vectors * (values / M)[:, None, :]) @ vectors.swapaxes(1, 2)
            inverse = (vectors / M[:, None, :]) @ vectors.swapaxes(1, 2)
            shift = (inverse @ r[:, :, None])[:, :, 0]
        constant = self.log_weights - 0.5 * np.log(M).sum(1)
        constant -= t * (r * shift).sum(1) / (2 * self.epsilon)
        end = np.empty_like(X)
        for rows in self._row_blocks(X):
            x = X[rows]
            if self.diagonal:
                squares = (x**2) @ slope.T
            else:
                moved = x @ slope
                squares = (moved * x).sum(-1).T
            logits = constant + (squares / rest + 2 * x @ shift.T) / (2 * self.epsilon)
            weights = softmax(logits, axis=1)
            if self.diagonal:
                end[rows] = (weights @ slope) * x + rest * weights @ shift
            else:
                end[rows] = (weights.T[:, :, None] * moved).sum(0) + rest * weights @ shift
        return (end - X) / rest

    def _whitened_squares(self, Y: Floats, whitener: Floats) -> Floats:
        centre = self.locations[:, None, :] @ whitener
        return np.asarray(((Y @ whitener - centre) ** 2).sum(-1).T)

    def _row_blocks(self, X: Any) -> Iterator[slice]:
        rows = max(1, BLOCK_NUMBERS // max(1, self.locations.size))
        return (slice(start, start + rows) for start in range(0, len(X), rows))
