"""Sums of n functions of the same variables: the problems of stochastic gradient methods.

A method asks a problem for values and gradients of some of its n components and learns nothing
else about it. Three families of linear models are here, with closed proximal steps and with exact
constants (smoothness, strong convexity, noise at the minimiser), so that a theorem about them is a
number. Anything else becomes a problem by subclassing `FiniteSum`.

Source: "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2023), arXiv
2301.11235, sections 2 to 4 (definitions of the constants); the closed forms are derived.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from thalweg._validation import check_array, check_count, check_real
from thalweg.descent import _minimisers
from thalweg.descent._constants import Constants as Constants
from thalweg.descent._constants import constants as constants
from thalweg.descent._stochastic_kernels import ABSOLUTE, LEAST_SQUARES, LOGISTIC, proximal_slope

Floats = NDArray[np.float64]
Indices = int | Sequence[int] | NDArray[np.integer] | None


class FiniteSum(ABC):
    """The mean of n functions of `dim` variables; the base of a problem of your own.

    A subclass sets `n` and `dim` and says what single components are worth; `value` and `gradient`
    are their means unless it has a faster way. `curvature`, `gradient_bound`, `component_infima`
    and `minimiser` tell `constants` what is known; each may be left out.

    Attributes
    ----------
    n : int
        Number of components.
    dim : int
        Number of variables.

    Examples
    --------
    >>> class Shifted(FiniteSum):
    ...     n, dim = 3, 1
    ...     def component_values(self, x, idx=None):
    ...         return 0.5 * (x - np.arange(3.0)[self.indices(idx)]) ** 2
    ...     def component_gradients(self, x, idx=None):
    ...         return (x - np.arange(3.0)[self.indices(idx)])[:, None]
    >>> Shifted().gradient(np.array([4.0]))
    array([3.])
    """

    n: int
    dim: int

    @abstractmethod
    def component_values(self, x: Floats, idx: Indices = None) -> Floats:
        """Return the values at `x` of the components `idx` (all if None), shape (len(idx),)."""

    @abstractmethod
    def component_gradients(self, x: Floats, idx: Indices = None) -> Floats:
        """Return the gradients at `x` of the components `idx`, shape (len(idx), dim)."""

    def value(self, x: Floats, idx: Indices = None) -> float:
        """Return the mean value at `x` of the components `idx` (all if None)."""
        return float(np.mean(self.component_values(x, idx)))

    def gradient(self, x: Floats, idx: Indices = None) -> Floats:
        """Return the mean gradient at `x` of the components `idx`, shape (dim,)."""
        mean: Floats = np.mean(self.component_gradients(x, idx), axis=0)
        return mean

    def component_prox(self, i: int, x: Floats, gamma: float) -> Floats:
        """Return the minimiser z of f_i(z) + ‖z - x‖² / (2 gamma), shape (dim,)."""
        raise TypeError(f"problem must have component_prox, {type(self).__name__} has none")

    def curvature(self) -> dict[str, float]:
        """Return what is known of L, L_max, mu, mu_min and pl, by name (see `Constants`)."""
        return {}

    def gradient_bound(self, radius: float | None = None) -> float | None:
        """Return G with mean ‖g_i(x)‖² <= G², everywhere or for ‖x‖ <= radius; None if unknown."""
        return None

    def component_infima(self) -> Floats | None:
        """Return the infimum of every component, shape (n,); None if unknown."""
        return None

    def minimiser(self, x0: Floats) -> Floats | None:
        """Return a minimiser, the nearest to `x0` where that is known; None if unknown."""
        return None

    def indices(self, idx: Indices) -> NDArray[np.integer] | slice:
        """Return what picks the components `idx` from an array of n."""
        return slice(None) if idx is None else np.atleast_1d(idx)


class LinearModel(FiniteSum):
    """Components f_i(x) = loss(a_i·x, b_i) + l2 ‖x‖² / 2, by their losses alone.

    Points may be stacked: where a method says `x`, an array of shape (..., dim) gives a value or a
    gradient for each of its points.

    Attributes
    ----------
    rows : ndarray, shape (n, dim)
        The a_i.
    targets : ndarray, shape (n,)
        The b_i.
    l2 : float
        Weight of the squared norm.
    """

    kind: int

    def __init__(self, rows: Floats, targets: Floats, l2: float) -> None:
        self.rows, self.targets, self.l2 = rows, targets, l2
        self.n, self.dim = rows.shape

    def component_values(self, x: ArrayLike, idx: Indices = None) -> Floats:
        """Return the values at `x` of the components `idx`, shape (..., len(idx))."""
        x, pick = self._points(x), self.indices(idx)
        values = self._loss(x @ self.rows[pick].T, self.targets[pick])
        return values + 0.5 * self.l2 * np.sum(x * x, axis=-1, keepdims=True)

    def component_gradients(self, x: ArrayLike, idx: Indices = None) -> Floats:
        """Return the gradients at `x` of the components `idx`, shape (..., len(idx), dim)."""
        x = self._points(x)
        rows = self.rows[self.indices(idx)]
        slopes = self.scalar_gradient(x, idx)
        return slopes[..., None] * rows + self.l2 * x[..., None, :]

    def value(self, x: ArrayLike, idx: Indices = None) -> float | Floats:  # type: ignore[override]
        """Return the mean value at `x` of the components `idx`, for each point of a stack."""
        values = np.mean(self.component_values(x, idx), axis=-1)
        return float(values) if values.ndim == 0 else values

    def gradient(self, x: ArrayLike, idx: Indices = None) -> Floats:
        """Return the mean gradient at `x` of the components `idx`, shape (..., dim)."""
        x = self._points(x)
        rows = self.rows[self.indices(idx)]
        return self.scalar_gradient(x, idx) @ rows / len(rows) + self.l2 * x

    def scalar_gradient(self, x: ArrayLike, idx: Indices = None) -> Floats:
        """Return the derivatives of the losses by a_i·x: the gradients are these times the rows.

        The part of the squared norm, l2 x, is left out. Shape (..., len(idx)).
        """
        pick = self.indices(idx)
        return self._slope(self._points(x) @ self.rows[pick].T, self.targets[pick])

    def component_prox(self, i: int, x: ArrayLike, gamma: float) -> Floats:
        """Return the minimiser z of f_i(z) + ‖z - x‖² / (2 gamma), shape (dim,).

        Along a_i only one number is unknown, the slope u of the loss at z:
        z = (x - gamma u a_i) / (1 + gamma l2). It has a closed form for the squared and the
        absolute loss; for the logistic loss Newton's iteration finds it.
        """
        i = check_count("i", i, at_least=0, at_most=self.n - 1)
        x = check_array("x", x, shape=(self.dim,))
        gamma = check_real("gamma", gamma, above=0)
        a = self.rows[i]
        shrink = 1 + gamma * self.l2
        slope = proximal_slope(
            self.kind, float(a @ x), float(self.targets[i]), shrink, gamma * float(a @ a)
        )
        return (x - gamma * slope * a) / shrink

    def _points(self, x: ArrayLike) -> Floats:
        points = np.asarray(x, dtype=np.float64)
        if points.shape[-1:] != (self.dim,):
            raise ValueError(f"x must have shape (..., {self.dim}), got {points.shape}")
        return points

    def _loss(self, margins: Floats, targets: Floats) -> Floats:
        raise NotImplementedError

    def _slope(self, margins: Floats, targets: Floats) -> Floats:
        raise NotImplementedError

    def _row_norms(self) -> Floats:
        return np.einsum("ij,ij->i", self.rows, self.rows)

    def _smooth_curvature(self, most: float, strong: bool) -> dict[str, float]:
        """Return the constants of a loss with second derivative up to `most`, or just that."""
        n, dim, l2 = self.n, self.dim, self.l2
        spectrum = most * np.linalg.svd(self.rows, compute_uv=False) ** 2 / n
        positive = spectrum[spectrum > spectrum[0] * max(n, dim) * np.finfo(float).eps]
        least = float(positive[-1]) if strong and len(positive) == dim else 0.0
        nearest = float(positive[-1]) if strong and l2 == 0 and len(positive) else least + l2
        norms = most * self._row_norms()
        return {
            "L": float(spectrum[0]) + l2,
            "L_max": float(norms.max()) + l2,
            "mu": least + l2,
            "mu_min": l2 + (float(norms.min()) if strong and dim == 1 else 0.0),
            "pl": nearest,
        }


class LeastSquares(LinearModel):
    """Least squares: f_i(x) = (a_i·x - b_i)² / 2 + l2 ‖x‖² / 2.

    Parameters
    ----------
    A : array_like, shape (n, dim)
        The rows a_i.
    b : array_like, shape (n,)
        The targets.
    l2 : float, default 0.0
        Weight of the squared norm (ridge), >= 0.

    Raises
    ------
    TypeError, ValueError
        If shapes disagree, entries are not finite, or `l2` is negative.

    References
    ----------
    "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2023), arXiv 2301.11235.

    Examples
    --------
    >>> problem = LeastSquares([[1.0, 0.0], [0.0, 2.0]], [1.0, 2.0])
    >>> problem.value([0.0, 0.0]), problem.gradient([0.0, 0.0])
    (1.25, array([-0.5, -2. ]))
    >>> problem.component_prox(1, [0.0, 0.0], gamma=1.0)
    array([0. , 0.8])
    """

    kind = LEAST_SQUARES

    def __init__(self, A: ArrayLike, b: ArrayLike, l2: float = 0.0) -> None:
        super().__init__(*_check_data("A", A, "b", b), check_real("l2", l2, at_least=0))

    def _loss(self, margins: Floats, targets: Floats) -> Floats:
        return 0.5 * (margins - targets) ** 2

    def _slope(self, margins: Floats, targets: Floats) -> Floats:
        return margins - targets

    def hessp(self, x: ArrayLike, v: ArrayLike, idx: Indices = None) -> Floats:
        """Return the product of the mean Hessian of the components `idx` with `v`, (dim,)."""
        rows, v = self.rows[self.indices(idx)], self._points(v)
        return rows.T @ (rows @ v) / len(rows) + self.l2 * v

    def curvature(self) -> dict[str, float]:
        """Return L, L_max, mu, mu_min and pl, all exact."""
        return self._smooth_curvature(1.0, strong=True)

    def gradient_bound(self, radius: float | None = None) -> float | None:
        """Return a bound of the root of mean ‖∇f_i(x)‖² for ‖x‖ <= radius."""
        if radius is None:
            return None
        length = np.sqrt(self._row_norms())
        most = length * (length * radius + np.abs(self.targets)) + self.l2 * radius
        return float(np.sqrt(np.mean(most**2)))

    def component_infima(self) -> Floats:
        """Return the infimum of every component, shape (n,)."""
        norms = self._row_norms()
        whole = norms + self.l2
        share = np.divide(self.l2, whole, out=np.ones_like(whole), where=whole > 0)
        return 0.5 * self.targets**2 * share

    def minimiser(self, x0: ArrayLike) -> Floats:
        """Return the minimiser, the nearest to `x0` where there are many."""
        return _minimisers.least_squares(self.rows, self.targets, self.l2, self._points(x0))


class Logistic(LinearModel):
    """Logistic regression: f_i(w) = log(1 + exp(-y_i x_i·w)) + l2 ‖w‖² / 2.

    Parameters
    ----------
    X : array_like, shape (n, dim)
        The rows x_i.
    y : array_like, shape (n,)
        Labels, +1 or -1.
    l2 : float, default 0.0
        Weight of the squared norm, >= 0.

    Raises
    ------
    TypeError, ValueError
        If shapes disagree, entries are not finite, a label is not ±1, or `l2` is negative.

    References
    ----------
    "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2023), arXiv 2301.11235.

    Examples
    --------
    >>> problem = Logistic([[1.0, 0.0], [0.0, 2.0]], [1, -1])
    >>> problem.gradient([0.0, 0.0])
    array([-0.25,  0.5 ])
    """

    kind = LOGISTIC

    def __init__(self, X: ArrayLike, y: ArrayLike, l2: float = 0.0) -> None:
        rows, targets = _check_data("X", X, "y", y)
        if not np.isin(targets, (-1.0, 1.0)).all():
            odd = targets[~np.isin(targets, (-1.0, 1.0))][0]
            raise ValueError(f"y must hold labels +1 and -1, got {odd:g}")
        super().__init__(rows, targets, check_real("l2", l2, at_least=0))

    def _loss(self, margins: Floats, targets: Floats) -> Floats:
        return np.logaddexp(0.0, -targets * margins)

    def _slope(self, margins: Floats, targets: Floats) -> Floats:
        return -targets * expit(-targets * margins)

    def hessp(self, x: ArrayLike, v: ArrayLike, idx: Indices = None) -> Floats:
        """Return the product of the mean Hessian at `x` of the components `idx` with `v`."""
        rows, v = self.rows[self.indices(idx)], self._points(v)
        margins = rows @ self._points(x)
        weight = expit(margins) * expit(-margins)
        return rows.T @ (weight * (rows @ v)) / len(rows) + self.l2 * v

    def curvature(self) -> dict[str, float]:
        """Return L and L_max (attained at w = 0), and mu, mu_min and pl, all equal to l2."""
        return self._smooth_curvature(0.25, strong=False)

    def gradient_bound(self, radius: float | None = None) -> float | None:
        """Return a bound of the root of mean ‖∇f_i‖², for ‖w‖ <= radius if l2 > 0."""
        return _bounded_slope(np.sqrt(self._row_norms()), self.l2, radius)

    def component_infima(self) -> Floats:
        """Return the infimum of every component, shape (n,)."""
        return _minimisers.logistic_infima(self._row_norms(), self.l2)

    def minimiser(self, x0: ArrayLike) -> Floats | None:
        """Return the minimiser by Newton's method; None where it finds none (separable data)."""
        return _minimisers.logistic(self.rows, self.targets, self.l2)


class AbsoluteRegression(LinearModel):
    """Least absolute deviations: ``f_i(x) = |a_i·x - b_i| + l2 ‖x‖² / 2``, with subgradients.

    Parameters
    ----------
    A : array_like, shape (n, dim)
        The rows a_i.
    b : array_like, shape (n,)
        The targets.
    l2 : float, default 0.0
        Weight of the squared norm, >= 0.

    Raises
    ------
    TypeError, ValueError
        If shapes disagree, entries are not finite, or `l2` is negative.

    References
    ----------
    "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2023), arXiv 2301.11235.

    Examples
    --------
    >>> problem = AbsoluteRegression([[1.0], [1.0], [1.0]], [0.0, 1.0, 5.0])
    >>> problem.minimiser(np.zeros(1)), problem.value([1.0])
    (array([1.]), 1.6666666666666667)
    """

    kind = ABSOLUTE

    def __init__(self, A: ArrayLike, b: ArrayLike, l2: float = 0.0) -> None:
        super().__init__(*_check_data("A", A, "b", b), check_real("l2", l2, at_least=0))

    def _loss(self, margins: Floats, targets: Floats) -> Floats:
        return np.abs(margins - targets)

    def _slope(self, margins: Floats, targets: Floats) -> Floats:
        return np.sign(margins - targets)

    def curvature(self) -> dict[str, float]:
        """Return mu and mu_min, both l2."""
        return {"mu": self.l2, "mu_min": self.l2}

    def gradient_bound(self, radius: float | None = None) -> float | None:
        """Return the root of mean ‖g_i‖², exact if l2 is 0, else a bound for ‖x‖ <= radius."""
        return _bounded_slope(np.sqrt(self._row_norms()), self.l2, radius)

    def component_infima(self) -> Floats:
        """Return the infimum of every component, shape (n,)."""
        return _minimisers.absolute_infima(self._row_norms(), self.targets, self.l2)

    def minimiser(self, x0: ArrayLike) -> Floats | None:
        """Return a minimiser: of a linear programme, or with l2 > 0 the only one."""
        return _minimisers.absolute(self.rows, self.targets, self.l2)


def _check_data(
    rows_name: str, rows: ArrayLike, targets_name: str, targets: ArrayLike
) -> tuple[Floats, Floats]:
    A = np.ascontiguousarray(check_array(rows_name, rows, ndim=2))
    if 0 in A.shape:
        raise ValueError(f"{rows_name} must not be empty, got shape {A.shape}")
    return A, np.ascontiguousarray(check_array(targets_name, targets, shape=(len(A),)))


def _bounded_slope(length: Floats, l2: float, radius: float | None) -> float | None:
    """Return G of losses with slopes up to 1 beside the squared norm."""
    if l2 > 0 and radius is None:
        return None
    most = length + (l2 * radius if radius is not None else 0.0)
    return float(np.sqrt(np.mean(most**2)))
