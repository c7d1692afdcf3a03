"""Pairs of laws whose entropic transport plan is known: ground truth for Schrödinger bridges.

Choose the Schrödinger potential instead of the target law. With a Gaussian mixture as potential the
plan from a standard normal source is a mixture at every source point, so its moments, samples and
loss are exact at any dimension and any epsilon.

Source: "Building the Bridge of Schrödinger: A Continuous Entropic Optimal Transport Benchmark"
(2023), arXiv 2306.10161; used in "Light Schrödinger Bridge" (2023), arXiv 2310.01174, section 5.2.
The parameters of the published pairs are not reproduced; this is the same construction.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_real
from thalweg.transport._mixture_potential import MixturePotential

_COVARIANCE_DRAWS = 50_000


def gaussian_mixture_pair(
    dim: int,
    epsilon: float,
    *,
    n_components: int = 5,
    radius: float = 5.0,
    covariance_range: tuple[float, float] = (0.5, 2.0),
    rng: Any = None,
) -> GaussianMixturePair:
    """Make a source and a target law with a known entropic transport plan between them.

    Parameters
    ----------
    dim : int
        Dimension d.
    epsilon : float
        Weight of the entropy = variance of the Brownian reference at time 1.
    n_components : int, default 5
        Components of the potential, with equal weights.
    radius : float, default 5.0
        Radius of the sphere on which the components' locations are uniform.
    covariance_range : (float, float), default (0.5, 2.0)
        Range of the eigenvalues of the S_k, log-uniform, in random directions.
    rng : None, int or Generator
        Source of the pair.

    Returns
    -------
    GaussianMixturePair

    Raises
    ------
    ValueError
        If a count, `epsilon`, `radius` or the range is out of bounds.

    References
    ----------
    "Building the Bridge of Schrödinger" (2023), arXiv 2306.10161.

    Examples
    --------
    >>> pair = gaussian_mixture_pair(2, 0.1, rng=0)
    >>> X, Y = pair.sample_source(4, rng=1), pair.sample_target(3, rng=2)
    >>> X.shape, Y.shape, pair.conditional_moments(X)[1].shape
    ((4, 2), (3, 2), (4, 2, 2))
    """
    dim, n_components = check_count("dim", dim), check_count("n_components", n_components)
    epsilon, radius = check_real("epsilon", epsilon, above=0), check_real("radius", radius, above=0)
    low, high = check_array("covariance_range", covariance_range, shape=(2,)).tolist()
    if not 0 < low <= high:
        raise ValueError(f"covariance_range must be 0 < low <= high, got {covariance_range!r}")
    rng = np.random.default_rng(rng)
    directions = rng.standard_normal((n_components, dim))
    locations = radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    axes, _ = np.linalg.qr(rng.standard_normal((n_components, dim, dim)))
    eigenvalues = np.exp(rng.uniform(np.log(low), np.log(high), (n_components, 1, dim)))
    return GaussianMixturePair(
        np.full(n_components, -np.log(n_components)),
        locations,
        (axes * eigenvalues) @ axes.swapaxes(1, 2),
        epsilon,
    )


class GaussianMixturePair:
    """A standard normal source, the target that a mixture potential gives, and the plan between.

    Parameters
    ----------
    log_weights : array_like (K,)
        Logarithms of the potential's weights a_k.
    locations : array_like (K, d)
        r_k.
    scales : array_like (K, d, d)
        S_k; the components of the potential are ``N(r_k, epsilon S_k)``.
    epsilon : float
        Weight of the entropy.
    """

    def __init__(
        self, log_weights: ArrayLike, locations: ArrayLike, scales: ArrayLike, epsilon: float
    ) -> None:
        self.epsilon = check_real("epsilon", epsilon, above=0)
        self.locations = check_array("locations", locations, ndim=2)
        K, d = self.locations.shape
        self.log_weights = check_array("log_weights", log_weights, shape=(K,))
        self.scales = check_array("scales", scales, shape=(K, d, d))
        if (np.linalg.eigvalsh(self.scales) <= 0).any():
            raise ValueError("scales must be positive definite")
        self._potential = MixturePotential(
            self.log_weights, self.locations, self.scales, self.epsilon
        )

    def sample_source(self, n: int, rng: Any = None) -> NDArray[np.float64]:
        """Draw `n` points (n, d) of the source N(0, I)."""
        shape = (check_count("n", n), self.locations.shape[1])
        return np.random.default_rng(rng).standard_normal(shape)

    def sample_plan(self, X: ArrayLike, rng: Any = None) -> NDArray[np.float64]:
        """Draw one target point given each row of `X`."""
        return self._potential.sample(self._points("X", X), np.random.default_rng(rng))

    def sample_target(self, n: int, rng: Any = None) -> NDArray[np.float64]:
        """Draw `n` points (n, d) of the target, independent of any source sample."""
        rng = np.random.default_rng(rng)
        return self.sample_plan(self.sample_source(n, rng), rng)

    def conditional_moments(self, X: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean (n, d) and covariance (n, d, d) of the target point given each row."""
        return self._potential.conditional_moments(self._points("X", X))

    def drift(self, X: ArrayLike, t: float) -> NDArray[np.float64]:
        """Return the drift (n, d) of the Schrödinger bridge at time `t` in [0, 1)."""
        t = check_real("t", t, at_least=0, below=1)
        return self._potential.drift(self._points("X", X), t)

    def log_potential(self, Y: ArrayLike) -> NDArray[np.float64]:
        """Return log v(y) for each row."""
        return self._potential.log_potential(self._points("Y", Y))

    def log_normalizer(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return log of the integral of exp(<x, y> / epsilon) v(y) for each row."""
        return self._potential.log_normalizer(self._points("X", X))

    def loss(self, X: ArrayLike, Y: ArrayLike) -> float:
        """Return ``mean log_normalizer(X) - mean log_potential(Y)``, least at this potential."""
        return float(self.log_normalizer(X).mean() - self.log_potential(Y).mean())

    @cached_property
    def target_cov_(self) -> NDArray[np.float64]:
        """Covariance (d, d) of the target, averaged over 50 000 source points."""
        X = self.sample_source(_COVARIANCE_DRAWS, rng=0)
        means, within = [], []
        for rows in np.array_split(X, 50):
            mean, cov = self.conditional_moments(rows)
            means.append(mean)
            within.append(cov.mean(0))
        between = np.cov(np.concatenate(means), rowvar=False, ddof=0)
        return np.asarray(np.mean(within, axis=0) + between)

    def _points(self, name: str, Z: ArrayLike) -> NDArray[np.float64]:
        return check_array(name, Z, shape=(None, self.locations.shape[1]))
