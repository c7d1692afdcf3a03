"""Sources of random pairs (A, b) for `linear_sa`: streaming least squares, TD(0), finite tables.

A sampler is any callable ``sample(rng, size) -> (A, b)`` of shapes (size, d, d) and (size, d).
Those made here draw from a table, and so know their moments exactly: what the covariances, bounds
and radii of constant-step iterations need.

Source: "Tight High Probability Bounds for Linear Stochastic Approximation with Fixed Stepsize"
(2021), arXiv 2106.01257: the setting, and TD learning as its example.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from thalweg._validation import check_array, check_real
from thalweg.linalg import _stochastic_approximation_kernels as kernels

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CHUNK_NUMBERS = 1 << 20
SUM_TOLERANCE = 1e-10
"""How far probabilities may be from adding up to one."""


@dataclass(frozen=True, eq=False, repr=False)
class TabulatedSampler(ABC):
    """Draws pairs (A, b) from a table, and knows their moments.

    Calling it, ``sampler(rng, size)``, returns independent matrices (size, d, d) and vectors
    (size, d). `finite_sampler`, `lms_sampler` and `td_sampler` make one.

    Attributes
    ----------
    b : ndarray, shape (k, d)
        The vectors.
    weights : ndarray, shape (k,), or None
        Their probabilities; None if equal.
    a_bar, b_bar : ndarray, shape (d, d) and (d,)
        Means.
    theta_star : ndarray, shape (d,)
        The target: ``a_bar @ theta_star = b_bar``.
    noise : ndarray, shape (k, d)
        ``b - A theta_star``, of mean zero.
    noise_cov : ndarray, shape (d, d)
        Its covariance.
    noise_bound : float
        Its largest Euclidean norm.
    deviations : ndarray, shape (k, d, d)
        ``A - a_bar``.
    a_second_moment : ndarray, shape (d**2, d**2)
        Mean of ``kron(A - a_bar, A - a_bar)``.
    cross : ndarray, shape (d, d, d)
        Mean of ``(A - a_bar)[i, j] * noise[l]``.
    """

    b: Floats
    weights: Floats | None

    @abstractmethod
    def matrices(self, rows: Any) -> Floats:
        """Return the matrices at an index array or slice of the table."""

    @abstractmethod
    def steps(self, index: Ints, *state: Any) -> None:
        """Take the steps of a block with the kernel that suits the table."""

    def __call__(self, rng: np.random.Generator, size: int) -> tuple[Floats, Floats]:
        """Return `size` independent matrices and vectors."""
        index = self.indices(rng, size)
        return self.matrices(index), self.b[index]

    def indices(self, rng: np.random.Generator, size: int | tuple[int, int]) -> Ints:
        """Return independent entries of the table, as their numbers."""
        if self.weights is None:
            return rng.integers(len(self.b), size=size)
        return np.minimum(
            np.searchsorted(self._cumulative, rng.random(size), side="right"), len(self.b) - 1
        )

    @cached_property
    def _cumulative(self) -> Floats:
        cumulative = np.cumsum(self._probabilities)
        return np.asarray(cumulative / cumulative[-1])

    @property
    def _probabilities(self) -> Floats:
        k = len(self.b)
        return np.full(k, 1 / k) if self.weights is None else self.weights

    def _chunks(self) -> list[slice]:
        k, d = self.b.shape
        rows = max(1, CHUNK_NUMBERS // d**2)
        return [slice(start, start + rows) for start in range(0, k, rows)]

    @cached_property
    def a_bar(self) -> Floats:
        """Mean matrix."""
        w = self._probabilities
        return np.asarray(sum(np.tensordot(w[c], self.matrices(c), 1) for c in self._chunks()))

    @cached_property
    def b_bar(self) -> Floats:
        """Mean vector."""
        return np.asarray(self._probabilities @ self.b)

    @cached_property
    def theta_star(self) -> Floats:
        """Solution of the mean equation; LinAlgError if there is not exactly one."""
        return np.asarray(np.linalg.solve(self.a_bar, self.b_bar))

    @cached_property
    def noise(self) -> Floats:
        """Noise at the target, for every entry of the table."""
        return self.b - np.concatenate([self.matrices(c) @ self.theta_star for c in self._chunks()])

    @cached_property
    def noise_cov(self) -> Floats:
        """Covariance of the noise at the target."""
        return np.asarray((self.noise * self._probabilities[:, None]).T @ self.noise)

    @cached_property
    def noise_bound(self) -> float:
        """Largest norm of the noise at the target."""
        return float(np.linalg.norm(self.noise, axis=1).max())

    @property
    def deviations(self) -> Floats:
        """Deviations of the matrices from their mean."""
        return self.matrices(slice(None)) - self.a_bar

    @cached_property
    def a_second_moment(self) -> Floats:
        """Mean Kronecker square of the deviations."""
        d = self.b.shape[1]
        gram = np.zeros((d * d, d * d))
        for c in self._chunks():
            flat = (self.matrices(c) - self.a_bar).reshape(-1, d * d)
            gram += (flat * self._probabilities[c, None]).T @ flat
        return mean_kronecker_square(gram)

    @cached_property
    def cross(self) -> Floats:
        """Mean product of deviation and noise."""
        d = self.b.shape[1]
        total = np.zeros((d * d, d))
        for c in self._chunks():
            flat = (self.matrices(c) - self.a_bar).reshape(-1, d * d)
            total += (flat * self._probabilities[c, None]).T @ self.noise[c]
        return total.reshape(d, d, d)

    def __repr__(self) -> str:
        k, d = self.b.shape
        return f"<{type(self).__name__}: {k} pairs in {d} dimensions>"


@dataclass(frozen=True, eq=False, repr=False)
class FiniteSampler(TabulatedSampler):
    """A table of any matrices; `finite_sampler` makes one.

    Attributes
    ----------
    a : ndarray, shape (k, d, d)
        The matrices; see `TabulatedSampler` for the rest.
    """

    a: Floats

    def matrices(self, rows: Any) -> Floats:
        """Return the matrices at an index array or slice of the table."""
        return self.a[rows]

    def steps(self, index: Ints, *state: Any) -> None:
        """Take the steps of a block."""
        kernels.dense_steps(self.a, self.b, index, *state)


@dataclass(frozen=True, eq=False, repr=False)
class RankOneSampler(TabulatedSampler):
    """A table of matrices ``left right'`` with vectors ``scale left``: a step costs d, not d**2.

    Attributes
    ----------
    left, right : ndarray, shape (k, d)
        The factors; see `TabulatedSampler` for the rest.
    scale : ndarray, shape (k,)
        Factor of the vectors.
    """

    left: Floats
    right: Floats
    scale: Floats

    def matrices(self, rows: Any) -> Floats:
        """Return the matrices at an index array or slice of the table."""
        return self.left[rows][:, :, None] * self.right[rows][:, None, :]

    def steps(self, index: Ints, *state: Any) -> None:
        """Take the steps of a block."""
        kernels.rank_one_steps(self.left, self.right, self.scale, index, *state)


def finite_sampler(
    a_values: ArrayLike, b_values: ArrayLike, weights: ArrayLike | None = None
) -> FiniteSampler:
    """Return a sampler of finitely many pairs (A, b).

    Parameters
    ----------
    a_values : array_like, shape (k, d, d)
        The matrices.
    b_values : array_like, shape (k, d)
        The vectors that come with them.
    weights : array_like, shape (k,), optional
        Their probabilities; equal if None.

    Returns
    -------
    FiniteSampler
        For `thalweg.linalg.linear_sa`, with the moments as attributes (`TabulatedSampler`).

    Raises
    ------
    ValueError
        If the shapes do not fit, entries are not finite, or weights are no probabilities.

    Examples
    --------
    >>> from thalweg.linalg import finite_sampler
    >>> sampler = finite_sampler([[[3.0]], [[-1.0]]], [[1.0], [1.0]], weights=[0.6, 0.4])
    >>> sampler.a_bar.round(6), sampler.theta_star.round(6)
    (array([[1.4]]), array([0.714286]))
    """
    a = check_array("a_values", a_values, ndim=3)
    if a.shape[1] != a.shape[2] or 0 in a.shape:
        raise ValueError(f"a_values must have shape (k, d, d), got {a.shape}")
    b = check_array("b_values", b_values, shape=a.shape[:2])
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return FiniteSampler(b, check_weights("weights", weights, len(a)), a)


def lms_sampler(X: ArrayLike, y: ArrayLike) -> RankOneSampler:
    """Return the sampler of streaming least squares: rows of data, drawn with replacement.

    With it `thalweg.linalg.linear_sa` is the least-mean-squares filter with a constant step:
    A = x x', b = y x, and the target is the least-squares solution.

    Parameters
    ----------
    X : array_like, shape (n, d)
        Predictors, with a column of ones where an intercept is wanted.
    y : array_like, shape (n,)
        Response.

    Returns
    -------
    RankOneSampler
        For `thalweg.linalg.linear_sa`, with the moments as attributes (`TabulatedSampler`).

    Raises
    ------
    ValueError
        If the shapes do not fit or entries are not finite.

    Examples
    --------
    >>> from thalweg.linalg import lms_sampler
    >>> lms_sampler([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], [1.0, 3.0, 5.0]).theta_star.round(6)
    array([1., 2.])
    """
    X = np.ascontiguousarray(check_array("X", X, ndim=2))
    if 0 in X.shape:
        raise ValueError(f"X must have at least one row and column, got shape {X.shape}")
    y = np.ascontiguousarray(check_array("y", y, shape=(len(X),)))
    return RankOneSampler(y[:, None] * X, None, X, X, y)


def td_sampler(P: ArrayLike, phi: ArrayLike, r: ArrayLike, gamma: float) -> RankOneSampler:
    """Return the sampler of TD(0) with linear features, in the stationary law of a chain.

    A state s has its stationary probability, s' follows it: A = phi(s) (phi(s) - gamma phi(s'))',
    b = r(s) phi(s). The value estimate is ``phi @ theta``.

    Parameters
    ----------
    P : array_like, shape (n, n)
        Transition probabilities; one class of recurrent states.
    phi : array_like, shape (n, d)
        Features of the states.
    r : array_like, shape (n,)
        Reward on leaving a state.
    gamma : float
        Discount, in [0, 1).

    Returns
    -------
    RankOneSampler
        For `thalweg.linalg.linear_sa`, with the moments as attributes (`TabulatedSampler`).

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or `P` has several stationary laws.

    Examples
    --------
    >>> from thalweg.linalg import td_sampler
    >>> sampler = td_sampler([[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.0, 1.0]], [0.0, 1.0], 0.5)
    >>> sampler.theta_star.round(6)
    array([0.5, 1.5])
    """
    P = check_array("P", P, ndim=2)
    n = len(P)
    if n == 0 or P.shape != (n, n):
        raise ValueError(f"P must be square, got shape {P.shape}")
    if (P < 0).any() or np.abs(P.sum(axis=1) - 1).max() > SUM_TOLERANCE:
        raise ValueError("P must have rows of probabilities that add up to 1")
    phi = check_array("phi", phi, ndim=2)
    if len(phi) != n or phi.shape[1] == 0:
        raise ValueError(f"phi must have shape ({n}, d), got {phi.shape}")
    r = check_array("r", r, shape=(n,))
    gamma = check_real("gamma", gamma, at_least=0, below=1)
    law = _stationary_law(P)
    now, then = np.nonzero(law[:, None] * P)
    left = np.ascontiguousarray(phi[now])
    weights = law[now] * P[now, then]
    return RankOneSampler(
        r[now, None] * left,
        weights / weights.sum(),
        left,
        np.ascontiguousarray(left - gamma * phi[then]),
        np.ascontiguousarray(r[now]),
    )


def check_weights(name: str, value: ArrayLike | None, k: int) -> Floats | None:
    """Return k probabilities that add up to 1, or None where all are equal."""
    if value is None:
        return None
    weights = check_array(name, value, shape=(k,))
    if (weights < 0).any() or abs(weights.sum() - 1) > SUM_TOLERANCE:
        raise ValueError(
            f"{name} must be probabilities that add up to 1, got sum {weights.sum():g} and "
            f"smallest {weights.min():g}"
        )
    return weights / weights.sum()


def mean_kronecker_square(gram: Floats) -> Floats:
    """Return the mean of kron(B, B) from that of outer(B.ravel(), B.ravel())."""
    d = math.isqrt(len(gram))
    return gram.reshape(d, d, d, d).transpose(0, 2, 1, 3).reshape(d * d, d * d)


def _stationary_law(P: Floats) -> Floats:
    n = len(P)
    count, label = connected_components(csr_array(P > 0), connection="strong")
    leaves = np.zeros(count, dtype=bool)
    leaves[label[np.nonzero((P > 0) & (label[:, None] != label[None, :]))[0]]] = True
    closed = np.flatnonzero(~leaves)
    if len(closed) > 1:
        states = [int(np.flatnonzero(label == c)[0]) for c in closed[:2]]
        raise ValueError(
            f"P must have one class of recurrent states, got several: states {states[0]} and "
            f"{states[1]} never meet"
        )
    law = np.zeros(n)
    recurrent = np.flatnonzero(label == closed[0])
    system = P[np.ix_(recurrent, recurrent)].T - np.eye(len(recurrent))
    system[-1] = 1.0
    law[recurrent] = np.linalg.solve(system, np.eye(len(recurrent))[-1])
    return np.maximum(law, 0.0)
