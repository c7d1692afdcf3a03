"""Geometries for mirror descent: how a set is measured, and what a step in it looks like.

A map Phi, strongly convex on the set, gives the divergence
D(x, y) = Phi(x) - Phi(y) - <∇Phi(y), x - y>, the step argmin eta <g, x'> + D(x', x), and the
minimiser of eta <G, x> + Phi(x). Any object with ``step``, ``argmin`` and ``divergence`` will do.

- `Euclidean`: any set with a projection;
- `NegativeEntropy`: the probability simplex; the dimension enters by its logarithm only;
- `VonNeumann`: symmetric positive semidefinite matrices of trace 1 (points are matrices, which
  `scipy.optimize.minimize` does not take: call the method itself);
- `BoxEntropy`: a box; steps multiply the odds of each coordinate.

Source: "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 4.3.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit, logsumexp, wrightomega, xlogy

from thalweg._validation import check_array
from thalweg.descent._oracle import Point, check_callable
from thalweg.descent.trust_region_steps import L1, Regulariser, SquaredL2

Floats = NDArray[np.float64]

SMALLEST = 1e-300
"""Weights of the simplex that have vanished count as this, so that they can return."""
EPS = float(np.finfo(float).eps)
SUM_TOLERANCE = 1e-9
HALVINGS = 100


class MirrorMap(Protocol):
    """What a mirror method needs of a geometry."""

    def step(self, x: Floats, g: Floats, eta: float) -> ArrayLike:
        """Return the minimiser of eta <g, x'> + D(x', x)."""

    def argmin(self, G: Floats, eta: float) -> ArrayLike:
        """Return the minimiser of eta <G, x> + Phi(x)."""

    def divergence(self, x: Floats, y: Floats) -> float:
        """Return D(x, y)."""


class Euclidean:
    """Phi(x) = ‖x‖² / 2: steps are projected gradient steps.

    Parameters
    ----------
    projection : callable, optional
        ``projection(x)`` on the set; the whole space by default.

    Attributes
    ----------
    rho : float
        Strong convexity of Phi, here 1 in the Euclidean norm.

    Examples
    --------
    >>> Euclidean().step(np.array([1.0, 2.0]), np.array([1.0, 0.0]), 0.5)
    array([0.5, 2. ])
    """

    rho = 1.0

    def __init__(self, projection: Point | None = None) -> None:
        check_callable("projection", projection, optional=True)
        self.projection = projection

    def start(self, x0: Floats) -> Floats:
        """Return the nearest point of the set."""
        return self._project(x0)

    def step(self, x: Floats, g: Floats, eta: float) -> Floats:
        """Return the projection of x - eta g."""
        return self._project(x - eta * g)

    def argmin(self, G: Floats, eta: float) -> Floats:
        """Return the projection of -eta G."""
        return self._project(-eta * G)

    def divergence(self, x: ArrayLike, y: ArrayLike) -> float:
        """Return ‖x - y‖² / 2."""
        return 0.5 * float(np.sum((np.asarray(x) - np.asarray(y)) ** 2))

    def composite_step(self, x: Floats, g: Floats, eta: float, regulariser: Regulariser) -> Floats:
        """Return the step with eta r(x') added: the proximal operator of r at x - eta g."""
        return np.asarray(regulariser.prox(x - eta * g, eta), dtype=np.float64)

    def check_regulariser(self, regulariser: Any) -> None:
        """Refuse a regulariser whose step has no closed form."""
        if self.projection is not None:
            raise ValueError("regulariser must be None for Euclidean with a projection")

    def _project(self, x: Floats) -> Floats:
        return x if self.projection is None else np.asarray(self.projection(x), dtype=np.float64)


class NegativeEntropy:
    """Phi(x) = sum x log x on the simplex x >= 0, sum x = 1: steps multiply the weights.

    From the uniform start D is at most log n.

    Attributes
    ----------
    rho : float
        Strong convexity of Phi, here 1 in the l1 norm (gradients count by their largest entry).

    Examples
    --------
    >>> NegativeEntropy().step(np.array([0.5, 0.5]), np.array([0.0, np.log(3.0)]), 1.0)
    array([0.75, 0.25])
    """

    rho = 1.0

    def start(self, x0: Floats) -> Floats:
        """Return x0; ValueError unless it is positive with sum 1."""
        if (x0 <= 0).any() or abs(x0.sum() - 1) > SUM_TOLERANCE:
            raise ValueError(
                f"x0 must be positive with sum 1, got least {x0.min():g} and sum {x0.sum():.10g}"
            )
        return x0

    def step(self, x: Floats, g: Floats, eta: float) -> Floats:
        """Return x exp(-eta g), normalised."""
        return _softmax(_log_weights(x) - eta * g)

    def argmin(self, G: Floats, eta: float) -> Floats:
        """Return exp(-eta G), normalised."""
        return _softmax(-eta * G)

    def divergence(self, x: ArrayLike, y: ArrayLike) -> float:
        """Return the relative entropy sum x log(x / y)."""
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        return float(np.sum(xlogy(x, x) - xlogy(x, y) - x + y))

    def composite_step(self, x: Floats, g: Floats, eta: float, regulariser: SquaredL2) -> Floats:
        """Return the step with eta lam ‖x'‖² / 2 added."""
        return _damped_softmax(_log_weights(x) - eta * g, eta * regulariser.lam)

    def check_regulariser(self, regulariser: Any) -> None:
        """Refuse a regulariser that is constant here or has no step."""
        if isinstance(regulariser, L1):
            raise ValueError("regulariser must not be L1 on the simplex: it is constant there")
        _only(regulariser, "NegativeEntropy", SquaredL2)


class VonNeumann:
    """Phi(X) = tr X log X on symmetric matrices X >= 0 of trace 1: the simplex of spectra.

    Gradients count by their symmetric part. Eigenvalues below machine precision cannot be read
    from X and count as that; `argmin`, and so dual averaging, has no such limit.

    Attributes
    ----------
    rho : float
        Strong convexity of Phi, here 1 in the nuclear norm.

    Examples
    --------
    >>> VonNeumann().argmin(np.diag([0.0, np.log(3.0)]), 1.0)
    array([[0.75, 0.  ],
           [0.  , 0.25]])
    """

    rho = 1.0

    def start(self, x0: Floats) -> Floats:
        """Return x0; ValueError unless it is symmetric, positive definite, of trace 1."""
        if x0.ndim != 2 or x0.shape[0] != x0.shape[1]:
            raise ValueError(f"x0 must be a square matrix, got shape {x0.shape}")
        good = abs(x0 - x0.T).max() <= SUM_TOLERANCE and abs(np.trace(x0) - 1) <= SUM_TOLERANCE
        if not good or np.linalg.eigvalsh(x0)[0] <= 0:
            raise ValueError("x0 must be symmetric and positive definite with trace 1")
        return x0

    def step(self, x: Floats, g: Floats, eta: float) -> Floats:
        """Return exp(log X - eta G), divided by its trace."""
        return _on_spectrum(_log_matrix(x) - eta * _symmetric(g), _softmax)

    def argmin(self, G: Floats, eta: float) -> Floats:
        """Return exp(-eta G), divided by its trace."""
        return _on_spectrum(-eta * _symmetric(G), _softmax)

    def divergence(self, x: ArrayLike, y: ArrayLike) -> float:
        """Return tr X (log X - log Y)."""
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        return float(np.sum(x * (_log_matrix(x) - _log_matrix(y))) - np.trace(x) + np.trace(y))

    def composite_step(self, x: Floats, g: Floats, eta: float, regulariser: SquaredL2) -> Floats:
        """Return the step with eta lam ‖X'‖_F² / 2 added."""
        weight = eta * regulariser.lam
        target = _log_matrix(x) - eta * _symmetric(g)
        return _on_spectrum(target, lambda values: _damped_softmax(values, weight))

    def check_regulariser(self, regulariser: Any) -> None:
        """Refuse a regulariser that has no step."""
        _only(regulariser, "VonNeumann", SquaredL2)


class BoxEntropy:
    """Phi(x) = sum u log u + v log v for u = x - lo, v = hi - x: steps shift the logits.

    Parameters
    ----------
    lo, hi : float or array_like
        Bounds lo < hi, finite, which broadcast against the point.

    Attributes
    ----------
    rho : float
        Strong convexity of Phi in the Euclidean norm, 4 / (hi - lo) for the widest side.

    Raises
    ------
    TypeError, ValueError
        If a bound is malformed, or `lo` is not below `hi` everywhere.

    Examples
    --------
    >>> BoxEntropy(0.0, 2.0).step(np.array([1.0]), np.array([np.log(3.0)]), 1.0)
    array([0.5])
    """

    def __init__(self, lo: ArrayLike, hi: ArrayLike) -> None:
        self.lo, self.hi = check_array("lo", lo), check_array("hi", hi)
        if not np.all(self.lo < self.hi):
            raise ValueError(f"lo must be < hi everywhere, got lo={lo!r} and hi={hi!r}")
        self.width = self.hi - self.lo
        self.rho = 4 / float(np.max(self.width))

    def start(self, x0: Floats) -> Floats:
        """Return x0; ValueError unless it is strictly inside."""
        if not np.all((self.lo < x0) & (x0 < self.hi)):
            raise ValueError(f"x0 must be strictly between lo and hi, got {x0!r}")
        return x0

    def step(self, x: Floats, g: Floats, eta: float) -> Floats:
        """Return the point whose logits are those of x minus eta g."""
        return self._point(self._logits(x) - eta * g)

    def argmin(self, G: Floats, eta: float) -> Floats:
        """Return the point whose logits are -eta G."""
        return self._point(-eta * G)

    def divergence(self, x: ArrayLike, y: ArrayLike) -> float:
        """Return the sum of the relative entropies of x - lo and hi - x."""
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        sides = ((x - self.lo, y - self.lo), (self.hi - x, self.hi - y))
        return float(sum(np.sum(xlogy(u, u) - xlogy(u, v)) for u, v in sides))

    def composite_step(self, x: Floats, g: Floats, eta: float, regulariser: Any) -> Floats:
        """Return the step with eta lam times ‖x'‖_1, or ‖x'‖² / 2, added.

        The logit z solves z + eta lam r'(x(z)) = target, whose left side grows.
        """
        target, weight = self._logits(x) - eta * g, eta * regulariser.lam
        sparse = isinstance(regulariser, L1)
        slope = np.sign if sparse else lambda point: point
        steepest = 1.0 if sparse else np.maximum(np.abs(self.lo), np.abs(self.hi))
        reach = weight * steepest
        low, high = target - reach, target + reach
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            above = middle + weight * slope(self._point(middle)) > target
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return self._point(0.5 * (low + high))

    def check_regulariser(self, regulariser: Any) -> None:
        """Refuse a regulariser that has no step."""
        _only(regulariser, "BoxEntropy", L1, SquaredL2)

    def _logits(self, x: Floats) -> Floats:
        least = EPS * self.width
        logits: Floats = np.log(np.maximum(x - self.lo, least) / np.maximum(self.hi - x, least))
        return logits

    def _point(self, logits: Floats) -> Floats:
        point: Floats = self.lo + self.width * expit(logits)
        return point


def _only(regulariser: Any, name: str, *kinds: type) -> None:
    if not isinstance(regulariser, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"regulariser must be {names} for {name}, got {regulariser!r}")


def _log_weights(x: Floats) -> Floats:
    return np.log(np.maximum(x, SMALLEST))


def _softmax(logs: Floats) -> Floats:
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def _damped_softmax(logs: Floats, weight: float) -> Floats:
    """Return x on the simplex with log x_i + weight x_i = logs_i - nu for some number nu.

    Each x_i is a Wright omega function of nu; nu is a root between bounds that 0 < x_i < 1 implies.
    """
    if weight == 0:
        return _softmax(logs)
    top = float(logsumexp(logs))

    def weights(nu: float) -> Floats:
        omega: Floats = wrightomega(logs - nu + math.log(weight))
        return omega / weight

    def excess(nu: float) -> float:
        return float(weights(nu).sum()) - 1

    low, high = top - weight, top
    if excess(low) <= 0 or excess(high) >= 0:
        x = weights(low if excess(low) <= 0 else high)
    else:
        x = weights(float(brentq(excess, low, high, xtol=1e-14, rtol=4 * EPS)))
    return x / x.sum()


def _symmetric(G: Floats) -> Floats:
    return 0.5 * (G + G.T)


def _log_matrix(X: Floats) -> Floats:
    values, vectors = np.linalg.eigh(_symmetric(X))
    logs: Floats = (vectors * np.log(np.maximum(values, EPS * values[-1]))) @ vectors.T
    return logs


def _on_spectrum(matrix: Floats, function: Any) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    result: Floats = (vectors * function(values)) @ vectors.T
    return _symmetric(result)
