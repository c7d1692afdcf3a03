"""Linear models with sparse rows: gradients and Hessian products cost two sparse products.

`SparseLeastSquares` and `SparseLogistic` are `LeastSquares` and `Logistic` for a matrix that would
not fit, or would waste time, as a dense one: bags of words, one-hot codes, hashed features.

Source: "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, section
2.1 (text classification).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse
from scipy.sparse.linalg import svds
from scipy.special import expit

from thalweg._validation import check_array, check_real
from thalweg.descent.problems import FiniteSum, Indices, LeastSquares, Logistic

Floats = NDArray[np.float64]


class SparseModel(FiniteSum):
    """Components f_i(x) = loss(a_i·x, b_i) + l2 ‖x‖² / 2 with sparse a_i.

    Attributes
    ----------
    rows : scipy.sparse.csr_array, shape (n, dim)
        The a_i.
    targets : ndarray, shape (n,)
        The b_i.
    l2 : float
        Weight of the squared norm.
    """

    loss: Any
    """The dense model whose loss this has."""

    def __init__(self, rows: Any, targets: ArrayLike, l2: float = 0.0) -> None:
        if not issparse(rows):
            raise TypeError(f"rows must be a SciPy sparse matrix, got {type(rows).__name__}")
        self.rows = csr_array(rows, dtype=np.float64)
        if 0 in self.rows.shape:
            raise ValueError(f"rows must not be empty, got shape {self.rows.shape}")
        check_array("rows", self.rows.data)
        self.n, self.dim = self.rows.shape
        self.targets = check_array("targets", targets, shape=(self.n,))
        self.l2 = check_real("l2", l2, at_least=0)

    def component_values(self, x: Floats, idx: Indices = None) -> Floats:
        """Return the values at `x` of the components `idx`, shape (len(idx),)."""
        x, rows, targets = self._picked(x, idx)
        return np.asarray(self.loss._loss(self, rows @ x, targets) + 0.5 * self.l2 * (x @ x))

    def component_gradients(self, x: Floats, idx: Indices = None) -> Floats:
        """Return the gradients of the components `idx`, a dense array (len(idx), dim)."""
        x, rows, _ = self._picked(x, idx)
        return self.scalar_gradient(x, idx)[:, None] * rows.toarray() + self.l2 * x

    def gradient(self, x: Floats, idx: Indices = None) -> Floats:
        """Return the mean gradient at `x` of the components `idx`, shape (dim,)."""
        x, rows, targets = self._picked(x, idx)
        slopes = self.loss._slope(self, rows @ x, targets)
        return np.asarray(rows.T @ slopes / rows.shape[0] + self.l2 * x)

    def scalar_gradient(self, x: Floats, idx: Indices = None) -> Floats:
        """Return the derivatives of the losses by a_i·x, shape (len(idx),)."""
        x, rows, targets = self._picked(x, idx)
        return np.asarray(self.loss._slope(self, rows @ x, targets))

    def hessp(self, x: Floats, v: Floats, idx: Indices = None) -> Floats:
        """Return the product of the mean Hessian of the components `idx` with `v`, (dim,)."""
        x, rows, _ = self._picked(x, idx)
        curved = self._curvature(rows @ x) * (rows @ v)
        return np.asarray(rows.T @ curved / rows.shape[0] + self.l2 * v)

    def gauss_newton_diagonal(self, x: Floats, idx: Indices = None) -> Floats:
        """Return the diagonal of the mean Hessian of the components `idx`, shape (dim,)."""
        x, rows, _ = self._picked(x, idx)
        return np.asarray(self._curvature(rows @ x) @ rows.power(2) / rows.shape[0] + self.l2)

    def curvature(self) -> dict[str, float]:
        """Return L, L_max, and mu, mu_min and pl, which are l2 (dense rows are told exactly)."""
        norms = np.asarray(self.rows.power(2).sum(axis=1)).ravel()
        if min(self.rows.shape) < 3:
            largest = float(np.linalg.norm(self.rows.toarray(), 2))
        else:
            start = np.ones(min(self.rows.shape))
            largest = float(svds(self.rows, k=1, return_singular_vectors=False, v0=start)[0])
        return {
            "L": self._most * largest**2 / self.n + self.l2,
            "L_max": self._most * float(norms.max()) + self.l2,
            "mu": self.l2, "mu_min": self.l2, "pl": self.l2,
        }  # fmt: skip

    _most: float

    def _curvature(self, margins: Floats) -> Floats:
        raise NotImplementedError

    def _picked(self, x: Any, idx: Indices) -> tuple[Floats, Any, Floats]:
        x = np.asarray(x, dtype=np.float64)
        if x.shape != (self.dim,):
            raise ValueError(f"x must have shape ({self.dim},), got {x.shape}")
        if idx is None:
            return x, self.rows, self.targets
        pick = np.atleast_1d(idx)
        return x, self.rows[pick], self.targets[pick]


class SparseLeastSquares(SparseModel):
    """Least squares with sparse rows: see `thalweg.descent.LeastSquares`.

    Parameters
    ----------
    rows : sparse array or matrix, shape (n, dim)
        The a_i.
    targets : array_like, shape (n,)
        The b_i.
    l2 : float, default 0.0
        Weight of the squared norm, >= 0.

    Raises
    ------
    TypeError, ValueError
        If `rows` is not sparse, shapes disagree, entries are not finite, or `l2` is negative.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> SparseLeastSquares(csr_array([[1.0, 0.0], [0.0, 2.0]]), [1.0, 2.0]).gradient(np.zeros(2))
    array([-0.5, -2. ])
    """

    loss, _most = LeastSquares, 1.0

    def _curvature(self, margins: Floats) -> Floats:
        return np.ones_like(margins)


class SparseLogistic(SparseModel):
    """Logistic regression with sparse rows: see `thalweg.descent.Logistic`.

    Parameters
    ----------
    rows : sparse array or matrix, shape (n, dim)
        The x_i.
    targets : array_like, shape (n,)
        Labels, +1 or -1.
    l2 : float, default 0.0
        Weight of the squared norm, >= 0.

    Raises
    ------
    TypeError, ValueError
        If `rows` is not sparse, shapes disagree, entries are not finite, a label is not ±1, or
        `l2` is negative.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> SparseLogistic(csr_array([[1.0, 0.0], [0.0, 2.0]]), [1, -1]).gradient(np.zeros(2))
    array([-0.25,  0.5 ])
    """

    loss, _most = Logistic, 0.25

    def __init__(self, rows: Any, targets: ArrayLike, l2: float = 0.0) -> None:
        super().__init__(rows, targets, l2)
        odd = self.targets[~np.isin(self.targets, (-1.0, 1.0))]
        if odd.size:
            raise ValueError(f"targets must hold labels +1 and -1, got {odd[0]:g}")

    def _curvature(self, margins: Floats) -> Floats:
        return np.asarray(expit(margins) * expit(-margins))
