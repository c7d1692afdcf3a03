r"""How fast products of random matrices :math:`(I - \alpha A_n) \cdots (I - \alpha A_1)` contract.

In the norm of a Lyapunov matrix Q the mean factor contracts at a rate of order :math:`\alpha`. The
randomness of a factor adds up like orthogonal increments in the Schatten-p norm, which is
(p - 1)-smooth, and so costs :math:`(p - 1) \alpha^2 v^2` a step. Moments of order up to about
:math:`1/\alpha` therefore contract, and no others: probabilities fall polynomially.

Source: "Tight High Probability Bounds for Linear Stochastic Approximation with Fixed Stepsize"
(2021), arXiv 2106.01257. The constants are derived here, from "Matrix concentration for products"
(2020), arXiv 2003.05437, where the smoothness of Schatten norms is put to this use. Here deviations
are measured in the operator norm: by Hölder's inequality that is enough, and it is never larger
than a Schatten norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_continuous_lyapunov

from thalweg._validation import check_array, check_count, check_real
from thalweg.linalg.pivoting_bounds import check_matrix, check_symmetric
from thalweg.linalg.stochastic_samplers import check_weights

Floats = NDArray[np.float64]

P_STEP = 0.5
P_MAX = 64.0
"""Moment orders that a probability is drawn from: 2, 2.5, ..., 64."""


@dataclass(frozen=True, eq=False)
class LyapunovConstants:
    """A norm in which a step of linear stochastic approximation contracts, and how much.

    Attributes
    ----------
    q : ndarray, shape (d, d)
        Symmetric positive definite, with ``a_bar.T @ q + q @ a_bar = p``.
    a : float
        Rate: ``norm(I - step * a_bar)**2 <= 1 - a * step`` for steps up to `step_max`.
    step_max : float
        Largest step for which that is shown.
    kappa : float
        Condition number of `q`: its root bounds what changing norms costs.
    """

    q: Floats
    a: float
    step_max: float
    kappa: float

    def norm(self, b: ArrayLike) -> Any:
        """Return the operator norm that belongs to ``x' q x``.

        Parameters
        ----------
        b : array_like, shape (..., d, d)
            A matrix or a stack of them.

        Returns
        -------
        float or ndarray, shape (...)
            Largest singular value of ``q**(1/2) @ b @ q**(-1/2)``.
        """
        b = check_matrix("b", b)
        if b.shape[-2:] != self.q.shape:
            raise ValueError(
                f"b must have shape (..., {len(self.q)}, {len(self.q)}), got {b.shape}"
            )
        values, vectors = np.linalg.eigh(self.q)
        root = np.sqrt(values)
        rotated = (root[:, None] * vectors.T) @ b @ (vectors / root)
        norms = np.linalg.norm(rotated, 2, axis=(-2, -1))
        return float(norms) if np.ndim(norms) == 0 else norms


def lyapunov_constants(a_bar: ArrayLike, p: ArrayLike | None = None) -> LyapunovConstants:
    r"""Return the norm, the rate and the largest step of a linear stochastic approximation.

    Parameters
    ----------
    a_bar : array_like, shape (d, d)
        Mean matrix; all eigenvalues with positive real part.
    p : array_like, shape (d, d), optional
        Symmetric positive definite right-hand side of the Lyapunov equation; the identity if None.

    Returns
    -------
    LyapunovConstants
        Q, the rate :math:`a = \lambda_{min}(P) / (2 \|Q\|)`, the step
        :math:`\min(\lambda_{min}(P) / (2 \|A\|_Q^2 \|Q\|), \|Q\| / \lambda_{min}(P))`, and the
        condition number of Q.

    Raises
    ------
    ValueError
        If an eigenvalue of `a_bar` has no positive real part (the message gives it), or an argument
        is malformed.

    References
    ----------
    "Tight High Probability Bounds for Linear Stochastic Approximation with Fixed Stepsize" (2021),
    arXiv 2106.01257: the assumption that -A is Hurwitz and what follows from it.

    Examples
    --------
    >>> from thalweg.linalg import lyapunov_constants
    >>> constants = lyapunov_constants([[2.0, 1.0], [0.0, 1.0]])
    >>> round(constants.a, 4), round(constants.step_max, 4)
    (0.8292, 0.1658)
    >>> round(constants.norm([[1.0, 0.0], [0.0, -1.0]]), 4)
    1.2483
    """
    a_bar = check_hurwitz("a_bar", a_bar)
    d = len(a_bar)
    if p is None:
        p = np.eye(d)
    else:
        p = check_symmetric("p", p, ndim=2)
        if p.shape != a_bar.shape:
            raise ValueError(f"p must have shape {a_bar.shape} like a_bar, got {p.shape}")
    lowest = float(np.linalg.eigvalsh(p)[0])
    if lowest <= 0:
        raise ValueError(f"p must be positive definite, got the eigenvalue {lowest:g}")
    q = solve_continuous_lyapunov(a_bar.T, p)
    q = (q + q.T) / 2
    values = np.linalg.eigvalsh(q)
    if not 0 < values[0] <= values[-1] < math.inf:
        raise ValueError(
            "a_bar must have eigenvalues with positive real parts that can be told from zero, got "
            f"a Lyapunov matrix with eigenvalues {values[0]:g} to {values[-1]:g}"
        )
    largest = float(values[-1])
    known = LyapunovConstants(q, lowest / (2 * largest), math.inf, largest / float(values[0]))
    size = known.norm(a_bar)
    step_max = min(lowest / (2 * size * (size * largest)), largest / lowest)
    return LyapunovConstants(q, known.a, step_max, known.kappa)


def product_moment_bound(
    a_bar: ArrayLike,
    deviation: ArrayLike,
    step_size: float,
    n: int,
    p: float,
    rigorous: bool = True,
    *,
    weights: ArrayLike | None = None,
) -> float:
    r"""Bound the p-th moment of a product of n random matrices.

    .. math:: E^{1/p} \|(I - \alpha A_n) \cdots (I - \alpha A_1)\|^p \le \sqrt{\kappa_Q} d^{1/p}
       \left(\|I - \alpha A\|_Q^2 + (p - 1) \alpha^2 v^2\right)^{n/2}

    Parameters
    ----------
    a_bar : array_like, shape (d, d)
        Mean matrix A; all eigenvalues with positive real part.
    deviation : float or array_like, shape (k, d, d)
        v: what the deviations from the mean never exceed in ``lyapunov_constants(a_bar).norm``; or
        all values of ``A_n - A``, from which v is the p-th moment of that norm.
    step_size : float
        Constant step, above 0, at most ``lyapunov_constants(a_bar).step_max``.
    n : int
        Number of factors, >= 0.
    p : float
        Order of the moment, >= 2.
    rigorous : bool, default True
        False leaves the leading factor :math:`\sqrt{\kappa_Q} d^{1/p}` out: the rate alone, to
        compare slopes with; no bound.
    weights : array_like, shape (k,), optional
        Probabilities of the values in `deviation`; equal if None.

    Returns
    -------
    float
        The bound on the p-th root of the moment of the spectral norm; infinite where it overflows.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed or out of range.

    References
    ----------
    "Tight High Probability Bounds for Linear Stochastic Approximation with Fixed Stepsize" (2021),
    arXiv 2106.01257: the moment bound for products; constants as in the module.

    Examples
    --------
    >>> from thalweg.linalg import product_moment_bound
    >>> [round(product_moment_bound([[1.0]], 2.0, 0.1, 100, p), 4) for p in (2, 4, 6)]
    [0.0003, 0.0266, 1.6446]
    """
    p = check_real("p", p, at_least=2)
    return _Products(a_bar, deviation, step_size, n, weights).moment(p, rigorous)


def product_quantile_bound(
    a_bar: ArrayLike,
    deviation: ArrayLike,
    step_size: float,
    n: int,
    delta: float,
    *,
    weights: ArrayLike | None = None,
    p_max: float = P_MAX,
) -> float:
    r"""Bound the norm of a product of n random matrices with probability 1 - delta.

    Markov's inequality for the moment order p = 2, 2.5, ... that gives the least:
    ``product_moment_bound(..., p) * delta**(-1/p)``.

    Parameters
    ----------
    a_bar, deviation, step_size, n, weights
        As in `product_moment_bound`.
    delta : float
        Probability of exceeding the bound, in (0, 1).
    p_max : float, default 64
        Largest order tried, >= 2.

    Returns
    -------
    float
        The error of the start shrinks at least by this factor.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed or out of range.

    Examples
    --------
    >>> from thalweg.linalg import product_quantile_bound
    >>> round(product_quantile_bound([[1.0]], 2.0, 0.1, 100, 0.05), 4)
    0.0013
    """
    delta = check_real("delta", delta, above=0, below=1)
    p_max = check_real("p_max", p_max, at_least=2)
    products = _Products(a_bar, deviation, step_size, n, weights)
    orders = np.arange(2.0, p_max + P_STEP / 2, P_STEP)
    return min(products.moment(p, True) * delta ** (-1 / p) for p in orders.tolist())


class _Products:
    """The checked arguments of a bound, with what does not depend on the order."""

    def __init__(
        self,
        a_bar: ArrayLike,
        deviation: ArrayLike,
        step_size: float,
        n: int,
        weights: ArrayLike | None,
    ) -> None:
        a_bar = check_hurwitz("a_bar", a_bar)
        self.d = len(a_bar)
        constants = lyapunov_constants(a_bar)
        self.step_size = check_step(step_size, constants)
        self.n = check_count("n", n, at_least=0)
        self.root_kappa = math.sqrt(constants.kappa)
        self.contraction = constants.norm(np.eye(self.d) - self.step_size * a_bar) ** 2
        self.norms, self.weights = _deviation_norms(constants, deviation, weights)

    def moment(self, p: float, rigorous: bool) -> float:
        """Return the bound of order p."""
        largest = self.norms.max()
        v = largest
        if largest > 0:
            v = largest * np.average((self.norms / largest) ** p, weights=self.weights) ** (1 / p)
        growth = self.contraction + (p - 1) * (self.step_size * v) ** 2
        factor = self.root_kappa * self.d ** (1 / p) if rigorous else 1.0
        try:
            return float(factor * float(growth) ** (self.n / 2))
        except OverflowError:
            return math.inf


def check_hurwitz(name: str, value: ArrayLike) -> Floats:
    """Return a square matrix whose eigenvalues have positive real parts."""
    a = check_matrix(name, value, ndim=2)
    if a.shape[0] != a.shape[1]:
        raise ValueError(f"{name} must be square, got shape {a.shape}")
    eigenvalues = np.linalg.eigvals(a)
    worst = eigenvalues[np.argmin(eigenvalues.real)]
    if worst.real <= 0:
        shown = f"{worst.real:g}" if worst.imag == 0 else f"{complex(worst):g}"
        raise ValueError(
            f"{name} must have eigenvalues with positive real parts (-a_bar Hurwitz), got the "
            f"eigenvalue {shown}"
        )
    return a


def check_step(step_size: float, constants: LyapunovConstants) -> float:
    """Return a step for which the bounds are shown."""
    step_size = check_real("step_size", step_size, above=0)
    if step_size > constants.step_max:
        raise ValueError(
            f"step_size must be at most {constants.step_max:.6g} (lyapunov_constants(a_bar)."
            f"step_max), got {step_size:g}"
        )
    return step_size


def _deviation_norms(
    constants: LyapunovConstants, deviation: ArrayLike, weights: ArrayLike | None
) -> tuple[Floats, Floats | None]:
    """Return norms of the deviations with their probabilities; a single one if it is a bound."""
    d = len(constants.q)
    values = check_array("deviation", deviation)
    if values.ndim == 0:
        if weights is not None:
            raise ValueError("weights must be None where deviation is a number")
        return np.array([check_real("deviation", float(values), at_least=0)]), None
    if values.ndim != 3 or values.shape[1:] != (d, d) or len(values) == 0:
        raise ValueError(
            f"deviation must be a number or of shape (k, {d}, {d}), got {values.shape}"
        )
    return constants.norm(values), check_weights("weights", weights, len(values))
