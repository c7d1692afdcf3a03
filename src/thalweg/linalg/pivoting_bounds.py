r"""How far a matrix is from diagonal, how fast random pivots close in, and what that certifies.

For a positive definite G the potential :math:`\Gamma(G) = \sum_i G_{ii} (G^{-1})_{ii} - n` is zero
exactly when G is diagonal and does not change when rows and columns are scaled alike. A step that
makes the pair (i, j) orthogonal changes it by :math:`2 G_{ij} (G^{-1})_{ij}`, whatever the 2 x 2
matrix that does so. Over all pairs these changes add up to :math:`-\Gamma`, so a uniformly random
pair multiplies the expected potential by exactly :math:`1 - 2/(n(n-1))`: one rate for Jacobi,
Cholesky, QR and every other member of the family. A nonnegative quantity that shrinks in
expectation rarely grows, which bounds the condition of all matrices of a run.

Source: "A Unified Perspective on Orthogonalization and Diagonalization" (2025), arXiv 2505.02023.
The identity, the constants and the bound on the condition are derived here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_option, check_real

Floats = NDArray[np.float64]

SYMMETRY_TOLERANCE = math.sqrt(np.finfo(float).eps)


def pair_potential(g: ArrayLike) -> Any:
    r"""Return how far a positive definite matrix is from diagonal, whatever its scaling.

    Parameters
    ----------
    g : array_like, shape (..., n, n)
        Symmetric positive definite, or a stack of such.

    Returns
    -------
    potential : float or ndarray, shape (...)
        :math:`\Gamma(G) = \sum_i G_{ii} (G^{-1})_{ii} - n = \sum (1 - \lambda)^2 / \lambda` over
        the eigenvalues of G scaled to a unit diagonal.

    Raises
    ------
    ValueError
        If `g` is not square, symmetric and finite.
    numpy.linalg.LinAlgError
        If `g` is not positive definite.

    References
    ----------
    "A Unified Perspective on Orthogonalization and Diagonalization" (2025), arXiv 2505.02023.

    Examples
    --------
    >>> round(pair_potential([[1.0, 0.6], [0.6, 1.0]]), 4)
    1.125
    """
    scaled = _unit_diagonal(g)
    try:
        factor = np.linalg.cholesky(scaled)
    except np.linalg.LinAlgError:
        raise np.linalg.LinAlgError("g must be positive definite") from None
    return _plain(_potential(factor, scaled))


def scaled_condition(g: ArrayLike) -> Any:
    """Return the condition number of a positive definite matrix scaled to a unit diagonal.

    It limits the accuracy of the small eigenvalues that Jacobi's method finds, where the condition
    number itself limits other methods. For columns A use ``g = A.T @ A``; their own scaled
    condition number is its square root.

    Parameters
    ----------
    g : array_like, shape (..., n, n)
        Symmetric positive definite, or a stack of such.

    Returns
    -------
    condition : float or ndarray, shape (...)
        Largest over smallest eigenvalue of the scaled matrix.

    Raises
    ------
    ValueError
        If `g` is not square, symmetric and finite.
    numpy.linalg.LinAlgError
        If `g` is not positive definite.

    Examples
    --------
    >>> round(scaled_condition([[1.0, 0.6e-8], [0.6e-8, 1e-16]]), 4)
    4.0
    """
    values = np.linalg.eigvalsh(_unit_diagonal(g))
    if np.any(values[..., 0] <= 0):
        raise np.linalg.LinAlgError("g must be positive definite")
    return _plain(values[..., -1] / values[..., 0])


def expected_potential(gamma0: ArrayLike, n: int, t: ArrayLike, pivoting: str = "random") -> Any:
    r"""Return the exact mean of the potential after t steps.

    Parameters
    ----------
    gamma0 : array_like
        Potential at the start, >= 0.
    n : int
        Number of columns.
    t : array_like of int
        Number of steps, >= 0; broadcast with `gamma0`.
    pivoting : {"random", "matching"}, default "random"
        A step is one uniformly random pair, or one random matching: ``n // 2`` disjoint pairs.

    Returns
    -------
    mean : float or ndarray
        :math:`(1 - 2 / (n (n - 1)))^t \Gamma_0`; for matchings :math:`(1 - 1/(n - 1))^t \Gamma_0`
        if n is even and :math:`(1 - 1/n)^t \Gamma_0` if it is odd.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    Examples
    --------
    >>> round(expected_potential(9.0, 10, 45), 3)
    3.274
    """
    n = check_count("n", n)
    check_option("pivoting", pivoting, ("random", "matching"))
    gamma0 = _nonnegative("gamma0", gamma0)
    t = _nonnegative("t", t)
    if n == 1:
        return _plain(gamma0 * np.ones_like(t))
    share = 2 / (n * (n - 1)) if pivoting == "random" else 1 / (n - 1 if n % 2 == 0 else n)
    return _plain(gamma0 * (1 - share) ** t)


def steps_for(gamma0: float, n: int, eps: float, delta: float) -> int:
    r"""Return how many random pairs bring the potential to `eps` with probability 1 - `delta`.

    Parameters
    ----------
    gamma0 : float
        Potential at the start, >= 0.
    n : int
        Number of columns.
    eps : float
        Potential to reach, > 0.
    delta : float
        Probability of missing it, in (0, 1).

    Returns
    -------
    steps : int
        :math:`\lceil \frac{n (n-1)}{2} \ln \frac{\Gamma_0}{\varepsilon \delta} \rceil`, from
        Markov's inequality.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    Examples
    --------
    >>> steps_for(9.0, 10, 1e-6, 0.1)
    825
    """
    gamma0 = check_real("gamma0", gamma0, at_least=0)
    n = check_count("n", n)
    eps = check_real("eps", eps, above=0)
    delta = check_real("delta", delta, above=0, below=1)
    if gamma0 <= eps * delta:
        return 0
    return math.ceil(n * (n - 1) / 2 * math.log(gamma0 / (eps * delta)))


def stability_bound(gamma0: float, n: int, delta: float) -> float:
    r"""Return what the scaled condition number stays below all along a run.

    With probability 1 - `delta` the potential never exceeds :math:`\Gamma = \Gamma_0 / \delta`.
    The eigenvalues of the scaled matrix then lie in [1/L, L],
    :math:`L = 1 + (\Gamma + \sqrt{\Gamma^2 + 4 \Gamma}) / 2`, and below n, their sum. By Demmel and
    Veselić the relative error of every eigenvalue of a two-sided run is at most a modest
    multiple of the unit roundoff times the bound; of every singular value of a one-sided run, times
    its square root.

    Parameters
    ----------
    gamma0 : float
        Potential at the start, >= 0.
    n : int
        Number of columns.
    delta : float
        Probability of exceeding the bound, in (0, 1).

    Returns
    -------
    bound : float
        :math:`\min(n, L) L`, which is at most :math:`n (\Gamma_0 / \delta + n)`.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    References
    ----------
    "A Unified Perspective on Orthogonalization and Diagonalization" (2025), arXiv 2505.02023.
    J. Demmel and K. Veselić, "Jacobi's method is more accurate than QR", 1992.

    Examples
    --------
    >>> round(stability_bound(9.0, 10, 0.1), 1)
    919.9
    """
    gamma0 = check_real("gamma0", gamma0, at_least=0)
    n = check_count("n", n)
    n = check_count("n", n)
    gamma = gamma0 / check_real("delta", delta, above=0, below=1)
    largest = 1 + (gamma + math.sqrt(gamma) * math.sqrt(gamma + 4)) / 2
    return min(n, largest) * largest


def check_symmetric(name: str, value: ArrayLike, ndim: int | None = None) -> Floats:
    """Return `value` as a stack of symmetric float64 matrices, rounding differences averaged."""
    g = check_matrix(name, value, ndim)
    if g.shape[-2] != g.shape[-1]:
        raise ValueError(f"{name} must be square, got shape {g.shape}")
    transposed = g.swapaxes(-1, -2)
    if not np.array_equal(g, transposed):
        size = np.abs(g)
        root = np.sqrt(np.abs(np.diagonal(g, axis1=-2, axis2=-1)))
        size = np.maximum(size, root[..., :, None] * root[..., None, :])
        allowed = SYMMETRY_TOLERANCE * np.maximum(size, size.swapaxes(-1, -2))
        allowed += g.shape[-1] * np.finfo(float).eps * np.abs(g).max(axis=(-1, -2), keepdims=True)
        gap = np.abs(g - transposed)
        if np.any(gap > allowed):
            i, j = (int(k) for k in np.argwhere(gap > allowed)[0][-2:])
            raise ValueError(
                f"{name} must be symmetric, got entries ({i}, {j}) and ({j}, {i}) that differ by "
                f"{gap[..., i, j].max():.3g}"
            )
        g = g / 2 + transposed / 2
    return g


def check_matrix(name: str, value: ArrayLike, ndim: int | None = None) -> Floats:
    """Return `value` as real float64 matrices with at least one row and column."""
    if np.iscomplexobj(value):
        raise TypeError(f"{name} must be real, got complex entries")
    a = check_array(name, value, ndim=ndim)
    if a.ndim < 2 or 0 in a.shape[-2:]:
        raise ValueError(f"{name} must be a matrix that is not empty, got shape {a.shape}")
    return a


def _unit_diagonal(g: ArrayLike) -> Floats:
    """Scale checked matrices to a unit diagonal."""
    g = check_symmetric("g", g)
    diagonal = np.diagonal(g, axis1=-2, axis2=-1)
    if np.any(diagonal <= 0):
        where = tuple(int(k) for k in np.argwhere(diagonal <= 0)[0])
        raise np.linalg.LinAlgError(
            f"g must be positive definite, got {diagonal[where]:g} on the diagonal at {where[-1]}"
        )
    root = np.sqrt(diagonal)
    scaled = g / root[..., :, None] / root[..., None, :]
    n = g.shape[-1]
    scaled[..., np.arange(n), np.arange(n)] = 1.0
    return scaled


def _potential(factor: NDArray[Any], scaled: Floats) -> Floats:
    r"""Return ‖L⁻¹(Ĝ - I)‖² for Ĝ = L L': the potential without the cancellation of traces."""
    deviation = scaled - np.eye(scaled.shape[-1])
    return np.sum(np.linalg.solve(factor, deviation) ** 2, axis=(-1, -2))


def _nonnegative(name: str, value: ArrayLike) -> Floats:
    array = check_array(name, value)
    if np.any(array < 0):
        raise ValueError(f"{name} must be >= 0, got {array.min():g}")
    return array


def _plain(value: Floats) -> Any:
    return float(value) if np.ndim(value) == 0 else value
