"""Products with Gauss-Newton, Fisher and Hessian matrices of finite sums, never formed.

A component of a residual problem is l(h_i(w), b_i): outputs h_i, a loss l. Its generalised
Gauss-Newton matrix is J'HJ with the Jacobian J of the outputs and the Hessian H of the loss by
them; for a linear model that is the Hessian itself and, for a likelihood of the exponential family
with its natural parameter, the Fisher information.

Source: "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, sections
6.3 and 6.4.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from thalweg.descent.problems import FiniteSum, Indices, LeastSquares, LinearModel, Logistic
from thalweg.descent.sparse_problems import SparseModel

Floats = NDArray[np.float64]


class ResidualSum(FiniteSum):
    """Nonlinear least squares: components ½ ‖r_i(w)‖², by residuals and products with Jacobians.

    A subclass sets `n` and `dim` and gives `residual`, `jvp` and `vjp`. With another loss of the
    outputs it overrides `component_values` and `gradient` and gives
    ``output_hessp(outputs, u, idx)``, the product of the loss's Hessian by the outputs with u.

    Examples
    --------
    >>> class Decay(ResidualSum):
    ...     n, dim, t = 4, 1, np.arange(4.0)
    ...     def residual(self, x, idx=None):
    ...         return (np.exp(-x[0] * self.t) - 0.5**self.t)[self.indices(idx), None]
    ...     def jvp(self, x, v, idx=None):
    ...         return (-self.t * np.exp(-x[0] * self.t) * v[0])[self.indices(idx), None]
    ...     def vjp(self, x, u, idx=None):
    ...         slope = -self.t * np.exp(-x[0] * self.t)
    ...         return np.array([slope[self.indices(idx)] @ u[:, 0] / len(u)])
    >>> from thalweg.descent import gauss_newton
    >>> round(gauss_newton(Decay(), [0.1]).x.item(), 6) == round(float(np.log(2)), 6)
    True
    """

    @abstractmethod
    def residual(self, x: Floats, idx: Indices = None) -> Floats:
        """Return the residuals (or outputs) of the components `idx`, shape (len(idx), m)."""

    @abstractmethod
    def jvp(self, x: Floats, v: Floats, idx: Indices = None) -> Floats:
        """Return the derivatives of the residuals along `v`, shape (len(idx), m)."""

    @abstractmethod
    def vjp(self, x: Floats, u: Floats, idx: Indices = None) -> Floats:
        """Return the mean over `idx` of J_i' u_i, shape (dim,)."""

    def component_values(self, x: Floats, idx: Indices = None) -> Floats:
        """Return the values of the components `idx`, shape (len(idx),)."""
        return 0.5 * np.sum(self.residual(x, idx) ** 2, axis=1)

    def gradient(self, x: Floats, idx: Indices = None) -> Floats:
        """Return the mean gradient of the components `idx`, shape (dim,)."""
        return self.vjp(x, self.residual(x, idx), idx)

    def component_gradients(self, x: Floats, idx: Indices = None) -> Floats:
        """Return the gradients of the components `idx`, one after another, (len(idx), dim)."""
        each = np.arange(self.n) if idx is None else np.atleast_1d(idx)
        return np.stack([self.gradient(x, np.array([i])) for i in each])


def gauss_newton_product(problem: Any, x: Floats, v: Floats, idx: Indices = None) -> Floats:
    """Return the mean generalised Gauss-Newton matrix of the components `idx` times `v`.

    Parameters
    ----------
    problem : FiniteSum
        A linear model, dense or sparse (it is the Hessian then), or what has `jvp` and `vjp`.
    x, v : ndarray, shape (dim,)
        Point and direction.
    idx : indices, optional
        Components; all by default.

    Returns
    -------
    ndarray, shape (dim,)

    Raises
    ------
    TypeError
        If the problem is neither.

    Examples
    --------
    >>> problem = LeastSquares([[1.0, 0.0], [0.0, 2.0]], [1.0, 2.0])
    >>> gauss_newton_product(problem, np.zeros(2), np.array([1.0, 1.0]))
    array([0.5, 2. ])
    """
    if hasattr(problem, "jvp") and hasattr(problem, "vjp"):
        moved = problem.jvp(x, v, idx)
        if hasattr(problem, "output_hessp"):
            moved = problem.output_hessp(problem.residual(x, idx), moved, idx)
        product: Floats = problem.vjp(x, moved, idx) + _ridge(problem) * v
        return product
    if isinstance(problem, (LinearModel, SparseModel)) and hasattr(problem, "hessp"):
        return np.asarray(problem.hessp(x, v, idx))
    raise TypeError(
        "problem must be a smooth linear model or have jvp and vjp, "
        f"{type(problem).__name__} is and has not"
    )


def fisher_product(problem: Any, x: Floats, v: Floats, idx: Indices = None) -> Floats:
    """Return the mean Fisher information of the components `idx` times `v`.

    The components are taken as negative log-likelihoods with natural parameters; a squared norm in
    the problem is a prior and no part of them. See `gauss_newton_product`.
    """
    return gauss_newton_product(problem, x, v, idx) - _ridge(problem) * v


def data_gradients(problem: Any, x: Floats, idx: Indices = None) -> Floats:
    """Return the gradients of the components' losses, without the squared norm's part."""
    return np.asarray(problem.component_gradients(x, idx)) - _ridge(problem) * x


def gauss_newton_diagonal(problem: Any, x: Floats, idx: Indices = None) -> Floats:
    """Return the diagonal of the mean Gauss-Newton matrix of the components `idx`, shape (dim,).

    Raises
    ------
    TypeError
        If the problem is neither a smooth linear model nor has its own ``gauss_newton_diagonal``.

    Examples
    --------
    >>> gauss_newton_diagonal(LeastSquares([[1.0, 0.0], [0.0, 2.0]], [1.0, 2.0]), np.zeros(2))
    array([0.5, 2. ])
    """
    if hasattr(problem, "gauss_newton_diagonal"):
        return np.asarray(problem.gauss_newton_diagonal(x, idx))
    if not isinstance(problem, (LeastSquares, Logistic)):
        raise TypeError(
            "problem must be a smooth linear model or have gauss_newton_diagonal, "
            f"{type(problem).__name__} is and has not"
        )
    rows = problem.rows[problem.indices(idx)]
    if isinstance(problem, LeastSquares):
        weights = np.ones(len(rows))
    else:
        margins = rows @ x
        weights = expit(margins) * expit(-margins)
    return np.asarray(weights @ rows**2 / len(rows) + problem.l2)


def _ridge(problem: Any) -> float:
    return float(getattr(problem, "l2", 0.0))
