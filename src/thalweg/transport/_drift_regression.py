"""Regressions of a drift on time and place: random Fourier features, and the exact process.

Both are Gaussian process regressions with unit prior variance on standardised time and place and
the noise that a one-step velocity has. The features approximate a Gaussian kernel and have, beside
the cosines, an intercept and linear terms; the exact process has the exponential kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist

Floats: TypeAlias = NDArray[np.float64]
Field: TypeAlias = Callable[[Any, Floats], Floats]
MOST_GP_ROWS = 3000
"""Rows of an exact regression, at most; more are thinned at random."""


class Regression(Protocol):
    """Fits a field to velocities."""

    def fit(self, t: Floats, x: Floats, velocity: Floats) -> Field:
        """Return the field regressed on times (n,), points (n, d) and velocities (n, d)."""


class FourierRegression:
    """Ridge regression on random cosines of (t, x), an intercept and linear terms.

    The features are drawn once, so that all fits of one bridge share them.

    Parameters
    ----------
    dim : int
        Columns d of the points.
    n_features : int
        Cosines.
    ridge : float
        Penalty of the squared coefficients: variance of the noise over that of the prior.
    rng : Generator
        Source of the features.
    """

    def __init__(self, dim: int, n_features: int, ridge: float, rng: np.random.Generator) -> None:
        self.frequencies = rng.standard_normal((dim + 1, n_features))
        self.phases = rng.uniform(0, 2 * np.pi, n_features)
        self.ridge = ridge

    def fit(self, t: Floats, x: Floats, velocity: Floats) -> Field:
        """Return the fitted `FourierField`."""
        means, scales = _standardization(t, x)
        field = FourierField(self, means, scales)
        features = field.features(t, x)
        gram = features.T @ features
        gram[np.diag_indices_from(gram)] += self.ridge
        field.coefficients = cho_solve(cho_factor(gram), features.T @ velocity)
        return field


class FourierField:
    """A field that is linear in random features; cheap at a single time."""

    def __init__(self, regression: FourierRegression, means: Floats, scales: Floats) -> None:
        self.waves = np.vstack([regression.frequencies, regression.phases])
        self.means, self.scales = means, scales
        self.coefficients = np.empty((0, 0))

    def features(self, t: Any, x: Floats) -> Floats:
        """Return cosines, the standardised coordinates and time, and one: (n, m + d + 2)."""
        d, m = x.shape[1], self.waves.shape[1]
        z = np.ones((len(x), d + 2))
        z[:, :d] = (x - self.means[:-1]) / self.scales[:-1]
        z[:, d] = (t - self.means[-1]) / self.scales[-1]
        cosines = z @ self.waves
        np.cos(cosines, out=cosines)
        result = np.empty((len(x), m + d + 2))
        np.multiply(cosines, np.sqrt(2 / m), out=result[:, :m])
        result[:, m:] = z
        return result

    def __call__(self, t: Any, x: Floats) -> Floats:
        """Return the field (n, d) at points (n, d) and times, a float or (n,)."""
        return self.features(t, x) @ self.coefficients


class ProcessRegression:
    """Exact Gaussian process regression with the kernel ``exp(-|z - z'|)`` of standardised z.

    Parameters
    ----------
    ridge : float
        Variance of the noise, for a prior of unit variance.
    rng : Generator
        Source of the rows that are kept of more than 3000.
    """

    def __init__(self, ridge: float, rng: np.random.Generator) -> None:
        self.ridge, self.rng = ridge, rng

    def fit(self, t: Floats, x: Floats, velocity: Floats) -> Field:
        """Return the posterior mean."""
        if len(x) > MOST_GP_ROWS:
            kept = self.rng.choice(len(x), MOST_GP_ROWS, replace=False)
            t, x, velocity = t[kept], x[kept], velocity[kept]
        means, scales = _standardization(t, x)
        inputs = (np.column_stack([x, t]) - means) / scales
        kernel = np.exp(-cdist(inputs, inputs))
        kernel[np.diag_indices_from(kernel)] += self.ridge
        coefficients = cho_solve(cho_factor(kernel, overwrite_a=True), velocity)
        return ProcessField(means, scales, inputs, coefficients)


class ProcessField:
    """The posterior mean of an exact regression."""

    def __init__(self, means: Floats, scales: Floats, inputs: Floats, coefficients: Floats) -> None:
        self.means, self.scales = means, scales
        self.inputs, self.coefficients = inputs, coefficients

    def __call__(self, t: Any, x: Floats) -> Floats:
        """Return the field (n, d) at points (n, d) and times, a float or (n,)."""
        clock = np.broadcast_to(np.asarray(t, dtype=float), len(x))
        points = (np.column_stack([x, clock]) - self.means) / self.scales
        return np.exp(-cdist(points, self.inputs)) @ self.coefficients


def _standardization(t: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Return means and scales (d + 1,) of the coordinates and, last, of time."""
    means = np.append(x.mean(0), t.mean())
    scales = np.append(x.std(0), t.std())
    return means, np.where(scales > 0, scales, 1.0)
