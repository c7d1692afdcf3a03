"""Stochastic interpolants between Gaussian mixtures: every field in closed form.

With independent mixtures at both ends the path is a mixture at each time, one component a pair of
components, and on each component all fields are affine. Exact fields are what learned ones are
measured against, and samplers driven by them have errors of their own alone.

Source: "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions" (2023), arXiv
2303.08797, appendix on Gaussian mixtures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_real
from thalweg.transport.interpolants import Interpolant

Floats: TypeAlias = NDArray[np.float64]
WEIGHT_TOLERANCE = 1e-6
LEAST_SHARE = 1e-14
"""Smallest eigenvalue of a covariance, as a share of the largest, that counts as positive."""


class MixtureInterpolant:
    """Law, velocity and score of ``x_t = alpha x0 + beta x1 + gamma z`` between Gaussian mixtures.

    ``x0 ~ sum_i p_i N(m_i, C_i)`` and ``x1 ~ sum_j q_j N(n_j, D_j)`` are independent, or equal for
    the mirror interpolant.

    Parameters
    ----------
    weights0, weights1 : array_like (K0,), (K1,)
        p_i and q_j: positive, each summing to 1.
    means0, means1 : array_like (K0, d), (K1, d)
        m_i and n_j.
    covs0, covs1 : array_like (K0, d, d), (K1, d, d)
        C_i and D_j: symmetric, positive definite.
    interpolant : Interpolant, optional
        The path; None is ``Interpolant.linear()``.

    Raises
    ------
    ValueError
        If shapes do not fit, weights do not sum to 1, a covariance is not symmetric and positive
        definite, or the mirror interpolant is given two different laws.

    References
    ----------
    "Stochastic Interpolants" (2023), arXiv 2303.08797, appendix on Gaussian mixtures.

    Examples
    --------
    >>> import numpy as np
    >>> eye = np.eye(2)
    >>> two = MixtureInterpolant(
    ...     [1.0], [[0.0, 0.0]], [eye], [0.5, 0.5], [[-3.0, 0.0], [3.0, 0.0]], [eye, eye]
    ... )
    >>> two.velocity(0.5, [[1.0, 0.0]]).round(3)
    array([[2.892, 0.   ]])
    >>> two.sample(1.0, 4, rng=0).shape
    (4, 2)
    """

    def __init__(
        self,
        weights0: ArrayLike,
        means0: ArrayLike,
        covs0: ArrayLike,
        weights1: ArrayLike,
        means1: ArrayLike,
        covs1: ArrayLike,
        interpolant: Interpolant | None = None,
    ) -> None:
        self.weights0, self.means0, self.covs0 = _mixture("0", weights0, means0, covs0)
        self.weights1, self.means1, self.covs1 = _mixture("1", weights1, means1, covs1)
        if self.means0.shape[1] != self.means1.shape[1]:
            raise ValueError(
                "means0 and means1 must have the same number of columns, got "
                f"{self.means0.shape[1]} and {self.means1.shape[1]}"
            )
        self.interpolant = Interpolant.linear() if interpolant is None else interpolant
        if not isinstance(self.interpolant, Interpolant):
            raise TypeError(f"interpolant must be an Interpolant, got {interpolant!r}")
        if self.interpolant.family == "mirror" and not (
            self.means0.shape == self.means1.shape
            and all(
                np.array_equal(getattr(self, f"{name}0"), getattr(self, f"{name}1"))
                for name in ("weights", "means", "covs")
            )
        ):
            raise ValueError("the mirror interpolant needs the same mixture at both ends")

    def velocity(self, t: ArrayLike, x: ArrayLike) -> Floats:
        """Return ``b = E[dI/dt + gamma' z | x_t = x]``, the velocity of the probability flow.

        Parameters
        ----------
        t : float or array_like (n,)
            Times in [0, 1].
        x : array_like (n, d)
            Points.

        Returns
        -------
        array (n, d)
            Displacement per unit of time.

        Raises
        ------
        ValueError
            If `t` or `x` is not as stated, or a schedule is singular at `t`.
        """
        return self.fields(t, x)[0]

    def score(self, t: ArrayLike, x: ArrayLike) -> Floats:
        """Return the gradient (n, d) of the logarithm of the density; arguments as `velocity`."""
        return self.fields(t, x)[1]

    def denoiser(self, t: ArrayLike, x: ArrayLike) -> Floats:
        """Return ``E[z | x_t = x]``, or of x0 where that is the noise; arguments as `velocity`."""
        x = self._points(x)
        noise = self.interpolant.noise(check_array("t", t))["noise"]
        return -np.reshape(noise, (-1, 1)) * self.score(t, x)

    def fields(self, t: ArrayLike, x: ArrayLike) -> tuple[Floats, Floats]:
        """Return velocity and score (n, d) together, at the price of one of them."""
        at, x = self._at(t), self._points(x)
        share, pulls, _ = at.posterior(x.T)
        score = _average(share, pulls)
        velocity = _average(share, (at.velocity(k, pull) for k, pull in enumerate(pulls)))
        return velocity.T, score.T

    def divergence(self, t: ArrayLike, x: ArrayLike) -> Floats:
        """Return the divergence (n,) of the velocity; arguments as `velocity`."""
        at, x = self._at(t), self._points(x)
        share, pulls, _ = at.posterior(x.T)
        score, total = _average(share, pulls), np.zeros(len(x))
        for k, pull in enumerate(pulls):
            total += share[k] * (at.trace(k) + (at.velocity(k, pull) * (pull - score)).sum(0))
        return total

    def log_density(self, t: ArrayLike, x: ArrayLike) -> Floats:
        """Return the logarithm (n,) of the density of x_t; arguments as `velocity`."""
        return self._at(t).posterior(self._points(x).T)[2]

    def density(self, t: ArrayLike, x: ArrayLike) -> Floats:
        """Return the density (n,) of x_t; arguments as `velocity`."""
        return np.exp(self.log_density(t, x))

    def sample(self, t: float, n: int, *, rng: Any = None) -> Floats:
        """Draw x_t, shape (n, d).

        Parameters
        ----------
        t : float
            Time in [0, 1].
        n : int
            Rows.
        rng : None, int or Generator
            Source of randomness.
        """
        c = self.interpolant.coefficients(check_real("t", t, at_least=0, at_most=1))
        rng = np.random.default_rng(rng)
        x0, x1 = self.sample_ends(n, rng=rng)
        x = c["alpha"] * x0 + c["beta"] * x1
        return np.asarray(x + c["gamma"] * rng.standard_normal(x.shape))

    def sample_ends(self, n: int, *, rng: Any = None) -> tuple[Floats, Floats]:
        """Draw x0 and x1, each (n, d)."""
        n, rng = check_count("n", n), np.random.default_rng(rng)
        x1 = _draw(self.weights1, self.means1, self.covs1, n, rng)
        if self.interpolant.family == "mirror":
            return x1, x1
        return _draw(self.weights0, self.means0, self.covs0, n, rng), x1

    def _points(self, x: ArrayLike) -> Floats:
        return check_array("x", x, shape=(None, self.means0.shape[1]))

    def _at(self, t: ArrayLike) -> _Components:
        t = check_array("t", t)
        if t.ndim > 1:
            raise ValueError(f"t must be a number or have shape (n,), got {t.shape}")
        found = self.interpolant.coefficients(t)
        c = {name: np.atleast_1d(value) for name, value in found.items()}
        if not all(np.isfinite(c[name]).all() for name in ("dalpha", "dbeta", "gamma_dgamma")):
            raise ValueError(f"t must lie inside (0, 1) for {self.interpolant}: it is singular")
        mirror = self.interpolant.family == "mirror"
        keep = slice(0, 1) if mirror else slice(None)
        log_p = np.zeros(1) if mirror else np.log(self.weights0)
        a, b = c["alpha"][:, None], c["beta"][:, None]
        da, db = c["dalpha"][:, None], c["dbeta"][:, None]
        m, n = self.means0[keep, None, None], self.means1[None, :, None]
        C, D = self.covs0[keep, None, None], self.covs1[None, :, None]
        variance, growth = (c[name][:, None, None] for name in ("gamma", "gamma_dgamma"))
        eye = np.eye(self.means0.shape[1])
        a2, b2, da2, db2 = (v[..., None] for v in (a, b, da, db))
        mean, drift = a * m + b * n, da * m + db * n
        cov = a2**2 * C + b2**2 * D + variance**2 * eye
        cross = a2 * da2 * C + b2 * db2 * D + growth * eye
        K = len(log_p) * len(self.weights1)
        flat = (v.reshape(K, *v.shape[2:]) for v in (mean, drift, cov, cross))
        log_weights = (log_p[:, None] + np.log(self.weights1)).ravel()
        return _Components(log_weights, *flat)


@dataclass
class _Components:
    """All pairs of components at T times, T either 1 or the number of points, which are columns.

    The gradient of the logarithm of a component's density is its pull, ``-S^-1 (x - mean)``; its
    velocity is ``drift - cross pull``.
    """

    log_weights: Floats
    mean: Floats
    drift: Floats
    cov: Floats
    cross: Floats

    def __post_init__(self) -> None:
        self.root = np.linalg.cholesky(self.cov)
        self.inverse_root = np.linalg.inv(self.root)
        self.log_det = 2 * np.log(np.diagonal(self.root, axis1=-2, axis2=-1)).sum(-1)

    def posterior(self, x: Floats) -> tuple[Floats, list[Floats], Floats]:
        """Return weights (K, n) of the components, their pulls (d, n) and the log-density (n,)."""
        logs = np.empty((len(self.log_weights), x.shape[1]))
        pulls = []
        for k, log_weight in enumerate(self.log_weights):
            white = _apply(self.inverse_root[k], self.mean[k].T - x)
            logs[k] = log_weight - 0.5 * ((white * white).sum(0) + self.log_det[k])
            pulls.append(_apply(self.inverse_root[k].swapaxes(-1, -2), white))
        top = logs.max(0)
        logs -= top
        share = np.exp(logs, out=logs)
        total = share.sum(0)
        share /= total
        return share, pulls, top + np.log(total) - 0.5 * len(x) * math.log(2 * math.pi)

    def velocity(self, k: int, pull: Floats) -> Floats:
        return self.drift[k].T - _apply(self.cross[k], pull)

    def trace(self, k: int) -> Floats:
        inverse = self.inverse_root[k].swapaxes(-1, -2) @ self.inverse_root[k]
        return np.asarray(np.einsum("nij,nji->n", self.cross[k], inverse))


def _apply(matrices: Floats, columns: Floats) -> Floats:
    """Return matrix times column (d, n) for one matrix, or for one a column."""
    if len(matrices) == 1:
        return matrices[0] @ columns
    return np.einsum("nij,jn->in", matrices, columns)


def _average(share: Floats, values: Iterable[Floats]) -> Floats:
    total: Any = 0.0
    for weight, value in zip(share, values, strict=True):
        total = total + weight * value
    return np.asarray(total)


def _mixture(
    end: str, weights: ArrayLike, means: ArrayLike, covs: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    m = check_array(f"means{end}", means, ndim=2)
    K, d = m.shape
    p = check_array(f"weights{end}", weights, shape=(K,))
    if (p <= 0).any() or abs(p.sum() - 1) > WEIGHT_TOLERANCE:
        raise ValueError(f"weights{end} must be positive and sum to 1, got {p}")
    S = check_array(f"covs{end}", covs, shape=(K, d, d))
    if not np.allclose(S, S.swapaxes(1, 2), rtol=1e-6, atol=1e-9 * np.abs(S).max()):
        raise ValueError(f"covs{end} must be symmetric")
    S = (S + S.swapaxes(1, 2)) / 2
    values = np.linalg.eigvalsh(S)
    if (values[:, 0] <= LEAST_SHARE * np.abs(values[:, -1])).any():
        raise ValueError(
            f"covs{end} must be positive definite, got smallest eigenvalue {values.min():.6g}"
        )
    return p / p.sum(), m, S


def _draw(weights: Floats, means: Floats, covs: Floats, n: int, rng: np.random.Generator) -> Floats:
    chosen = rng.choice(len(weights), size=n, p=weights)
    x = rng.standard_normal((n, means.shape[1]))
    for k, root in enumerate(np.linalg.cholesky(covs)):
        rows = chosen == k
        x[rows] = means[k] + x[rows] @ root.T
    return x
