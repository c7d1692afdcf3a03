"""Posterior means of rows seen through normal noise, for separations and energies to average."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from thalweg._validation import check_array

Floats: TypeAlias = NDArray[np.float64]

NORMALISED = 1e-3
"""How far mean and second moment per dimension may be from 0 and 1 in normalised data."""
LEFT_OUT = 1e-6
"""Share of the posterior mass away from the truth, at most, that sparse sums leave out."""
SPARSE = 0.1


def check_rows(name: str, X: ArrayLike) -> Floats:
    """Return `X` as a finite array of at least two rows; ValueError otherwise."""
    X = check_array(name, X, ndim=2)
    if len(X) < 2 or not X.shape[1]:
        raise ValueError(f"{name} must have at least 2 rows and a column, got shape {X.shape}")
    return X


def check_normalised(name: str, X: ArrayLike) -> Floats:
    """Return `X` as an array; ValueError unless its mean is 0 and ``E |x|^2 = d``."""
    X = check_rows(name, X)
    moment, offset = float(np.mean(X**2)), float(np.mean(X.mean(0) ** 2))
    if abs(moment - 1) > NORMALISED or offset > NORMALISED:
        raise ValueError(
            f"{name} must be normalised to mean 0 and mean square 1 an entry (normalize_data), got "
            f"|mean|^2 / d = {offset:.6g} and mean square {moment:.6g}"
        )
    return X


def rotated(X: Floats) -> Floats:
    """Return rows with the same inner products in as few columns as there are rows."""
    n, d = X.shape
    return X if n >= d else np.ascontiguousarray(np.linalg.qr(X.T).R.T)


def draw_blocks(n_draws: int, n: int, block: int) -> list[slice]:
    """Cut the draws so that each part times n stays within ``n_draws * block``."""
    size = max(1, min(n_draws, n_draws * block // n))
    return [slice(start, start + size) for start in range(0, n_draws, size)]


class Posterior:
    """Posterior means of a row given ``s`` times it plus noise, for fixed draws of both."""

    def __init__(self, X: Floats, own: NDArray[np.int64], Z: Floats) -> None:
        self.X, self.own = X, own
        self.truth = X[own]
        self.places = np.arange(len(own)), own
        self.across = self.truth @ X.T - np.einsum("nd,nd->n", X, X) / 2
        self.noise = Z @ X.T

    def residuals(self, s: Any) -> Floats:
        """Return ``x_i - E[x_1 | s x_i + z]``, (draws, d), for s a number or (draws, 1).

        The truth is left out of the sum, so that small residuals keep their relative accuracy.
        """
        logits = s * self.across
        logits += self.noise
        logits *= s
        own = logits[self.places].copy()
        logits[self.places] = -np.inf
        others = logits.max(1)
        top = np.maximum(own, others)
        kept = logits > (others - np.log(len(self.X) / LEFT_OUT))[:, None]
        counts = kept.sum(1)
        weights: Any
        if counts.sum() < SPARSE * kept.size:
            rows, columns = np.nonzero(kept)
            values = np.exp(logits[rows, columns] - top[rows])
            ends = np.concatenate([[0], np.cumsum(counts)])
            weights = csr_array((values, columns, ends), shape=logits.shape)
        else:
            logits -= top[:, None]
            weights = np.exp(logits, out=logits)
        away = weights.sum(1)
        total = (away + np.exp(own - top))[:, None]
        return np.asarray((away[:, None] * self.truth - weights @ self.X) / total)


def error_samples(
    X: Floats, own: NDArray[np.int64], Z: Floats, d: int, block: int, s: Floats
) -> tuple[Floats, Floats]:
    """Return, in units of the error of normal data, each draw's error and a surplus of mean zero.

    The posterior mean's error and its squared distance from the linear estimate add up, in the
    mean, to the error of the linear estimate, which is known; the surplus is their sum less that.
    """
    errors, surplus = np.empty((2, len(s), len(own)))
    missing = d - X.shape[1]
    for part in draw_blocks(len(own), len(X), block):
        posterior = Posterior(X, own[part], Z[part])
        for k, ratio in enumerate(s.tolist()):
            left = posterior.residuals(ratio)
            scale = 1 + ratio**2
            linear = (posterior.truth - ratio * Z[part]) / scale
            error = scale / d * np.einsum("nd,nd->n", left, left)
            gap = scale / d * ((linear - left) ** 2).sum(1) + missing / d * ratio**2 / scale
            errors[k, part], surplus[k, part] = error, error + gap - 1
    return errors, surplus
