"""One-step kernels of discrete reference processes: how a category changes by itself.

Every kernel is a matrix Q of shape (S, S) whose rows sum to one: Q[i, j] is the probability that
category i is j one step later. `alpha` sets how much changes in a step; `skip` takes that many
steps at once. Choose by what the categories are: `uniform_kernel` for names without order,
`gaussian_kernel` for levels on a line, `von_mises_kernel` for points of a circle,
`centroid_kernel` for the codes of a codebook, where near codes are likelier than far ones.

Source: "Categorical Schrödinger Bridge Matching" (2025), arXiv 2502.01416; the first two
are those of "Structured Denoising Diffusion Models in Discrete State-Spaces" (2021), arXiv
2107.03006.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from scipy.special import softmax

from thalweg._validation import check_array, check_count, check_real

Floats: TypeAlias = NDArray[np.float64]

ROW_SUM_TOL = 1e-8


def uniform_kernel(n_categories: int, alpha: float, skip: int = 1) -> Floats:
    """Kernel that leaves a category with probability `alpha`, for any other one alike.

    Parameters
    ----------
    n_categories : int
        Categories S, at least 2.
    alpha : float in (0, 1]
        Probability of a change in one step.
    skip : int, default 1
        Steps taken at once.

    Returns
    -------
    array (S, S)
        Symmetric, rows sum to 1.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    References
    ----------
    "Categorical Schrödinger Bridge Matching" (2025), arXiv 2502.01416.

    Examples
    --------
    >>> uniform_kernel(3, 0.5)
    array([[0.5 , 0.25, 0.25],
           [0.25, 0.5 , 0.25],
           [0.25, 0.25, 0.5 ]])
    """
    S = check_count("n_categories", n_categories, at_least=2)
    alpha = check_real("alpha", alpha, above=0, at_most=1)
    Q = np.full((S, S), alpha / (S - 1))
    np.fill_diagonal(Q, 1 - alpha)
    return _power(Q, skip)


def gaussian_kernel(
    n_categories: int, alpha: float, skip: int = 1, *, doubly_stochastic: bool = True
) -> Floats:
    """Kernel for ordered categories: jumps of d levels weigh ``exp(-4 d^2 / (alpha (S-1))^2)``.

    Parameters
    ----------
    n_categories : int
        Categories S, at least 2.
    alpha : float
        Width: a jump is about ``alpha (S-1) / sqrt(8)`` levels.
    skip : int, default 1
        Steps taken at once.
    doubly_stochastic : bool, default True
        True divides every weight off the diagonal by the sum over d = -(S-1)..S and puts the rest
        of the row on the diagonal: symmetric, so that the uniform law stays as it is, and levels
        at the border move less. False normalises each row instead.

    Returns
    -------
    array (S, S)
        Rows sum to 1.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    References
    ----------
    "Structured Denoising Diffusion Models in Discrete State-Spaces" (2021), arXiv 2107.03006.

    Examples
    --------
    >>> gaussian_kernel(3, 1.0).round(4)
    array([[0.7821, 0.2075, 0.0103],
           [0.2075, 0.5849, 0.2075],
           [0.0103, 0.2075, 0.7821]])
    """
    S = check_count("n_categories", n_categories, at_least=2)
    alpha = check_real("alpha", alpha, above=0)
    levels = np.arange(S)

    def logit(jumps: Any) -> Any:
        return -4.0 * (jumps / (alpha * (S - 1))) ** 2

    logits = logit(levels[:, None] - levels)
    if not doubly_stochastic:
        return _power(softmax(logits, axis=1), skip)
    Q = np.exp(logits) / np.exp(logit(np.arange(1 - S, S + 1))).sum()
    np.fill_diagonal(Q, 0.0)
    np.fill_diagonal(Q, 1.0 - Q.sum(axis=1))
    return _power(Q, skip)


def von_mises_kernel(n_categories: int, alpha: float, skip: int = 1) -> Floats:
    """Kernel for categories on a circle: weights ``exp(cos(angle_j - angle_i) / w^2)``.

    The width w is ``alpha (S-1)``, in radians: ``alpha = 1 / (S-1)`` is a width of one radian,
    and values well above that make the kernel nearly uniform.

    Parameters
    ----------
    n_categories : int
        Categories S, at least 2, at the angles ``2 pi i / S``.
    alpha : float
        Width, in radians over S - 1.
    skip : int, default 1
        Steps taken at once.

    Returns
    -------
    array (S, S)
        Symmetric and circulant, rows sum to 1.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    References
    ----------
    "Categorical Schrödinger Bridge Matching" (2025), arXiv 2502.01416.

    Examples
    --------
    >>> von_mises_kernel(4, 1 / 3).round(4)[0]
    array([0.5344, 0.1966, 0.0723, 0.1966])
    """
    S = check_count("n_categories", n_categories, at_least=2)
    alpha = check_real("alpha", alpha, above=0)
    angles = 2 * np.pi * np.arange(S) / S
    return _power(softmax(np.cos(angles - angles[:, None]) / (alpha * (S - 1)) ** 2, axis=1), skip)


def centroid_kernel(centroids: ArrayLike, alpha: float, skip: int = 1) -> Floats:
    """Kernel for the codes of a codebook: weights ``exp(-|e_i - e_j| / (alpha m)^2)``.

    Here m is the largest distance between two codes. The distance stands in the exponent without
    a square, as published, so the kernel depends on the unit of the codebook.

    Parameters
    ----------
    centroids : array_like (S, d)
        The vectors e of the codes, at least two of them distinct.
    alpha : float
        Width.
    skip : int, default 1
        Steps taken at once.

    Returns
    -------
    array (S, S)
        Rows sum to 1; in general neither symmetric nor doubly stochastic.

    Raises
    ------
    ValueError
        If `centroids` is not a table of at least two distinct vectors, or another argument is
        outside its range.

    References
    ----------
    "Categorical Schrödinger Bridge Matching" (2025), arXiv 2502.01416.

    Examples
    --------
    >>> centroid_kernel([[0.0], [1.0], [4.0]], 0.5).round(3)
    array([[0.466, 0.363, 0.171],
           [0.346, 0.444, 0.21 ],
           [0.2  , 0.257, 0.543]])
    """
    centroids = check_array("centroids", centroids, ndim=2)
    alpha = check_real("alpha", alpha, above=0)
    distances = cdist(centroids, centroids)
    largest = distances.max(initial=0.0)
    if not largest > 0:
        raise ValueError(
            f"centroids must hold at least two distinct vectors, got shape {centroids.shape}"
        )
    return _power(softmax(-distances / (alpha * largest) ** 2, axis=1), skip)


def check_kernel(name: str, value: ArrayLike) -> Floats:
    """Return `value` as a square matrix without negative entries whose rows sum to 1.

    Raises
    ------
    ValueError
        If it is not square, has a negative entry, or a row misses 1 by more than 1e-8.
    """
    Q = check_array(name, value, ndim=2)
    if Q.shape[0] != Q.shape[1] or len(Q) < 2:
        raise ValueError(f"{name} must be square with at least 2 categories, got shape {Q.shape}")
    if Q.min() < 0:
        raise ValueError(f"{name} must not have negative entries, got {Q.min():g}")
    sums = Q.sum(axis=1)
    row = int(np.abs(sums - 1).argmax())
    if abs(sums[row] - 1) > ROW_SUM_TOL:
        raise ValueError(f"{name} must have rows that sum to 1, got {sums[row]:.12g} in row {row}")
    return Q


def _power(Q: Floats, skip: int) -> Floats:
    return np.linalg.matrix_power(Q, check_count("skip", skip))
