"""Nearest points of simple convex sets: balls, boxes, simplices, half-spaces.

They keep a method feasible (``projection=`` of `gradient_descent` and its kin) and are the
proximal operators of the sets. An array of any shape is one point.

Source: "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, chapter 3; the
simplex after "Efficient Projections onto the l1-Ball for Learning in High Dimensions" (2008).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_real

Floats = NDArray[np.float64]


def project_ball(x: ArrayLike, radius: float = 1.0, centre: ArrayLike = 0.0) -> Floats:
    """Return the nearest point of the Euclidean ball ‖y - centre‖ <= radius.

    Parameters
    ----------
    x : array_like
        A point; of a matrix the Frobenius norm counts.
    radius : float, default 1.0
        >= 0.
    centre : array_like, default 0.0
        Broadcasts against `x`.

    Returns
    -------
    ndarray
        Of the shape of `x`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Examples
    --------
    >>> project_ball([3.0, 4.0])
    array([0.6, 0.8])
    """
    x = check_array("x", x)
    radius = check_real("radius", radius, at_least=0)
    middle = _broadcast("centre", check_array("centre", centre), x)
    away = x - middle
    distance = float(np.linalg.norm(away.ravel()))
    return x.copy() if distance <= radius else middle + away * (radius / distance)


def project_box(x: ArrayLike, lo: ArrayLike, hi: ArrayLike) -> Floats:
    """Return the nearest point of the box lo <= y <= hi.

    Parameters
    ----------
    x : array_like
        A point.
    lo, hi : array_like
        Bounds that broadcast against `x`; infinite where there is none.

    Returns
    -------
    ndarray
        Of the shape of `x`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed or `lo` exceeds `hi` somewhere.

    Examples
    --------
    >>> project_box([-2.0, 0.5, 3.0], 0.0, 1.0)
    array([0. , 0.5, 1. ])
    """
    x = check_array("x", x)
    low = _broadcast("lo", check_array("lo", lo, finite=False), x)
    high = _broadcast("hi", check_array("hi", hi, finite=False), x)
    if not np.all(low <= high):
        raise ValueError(f"lo must be <= hi everywhere, got lo={lo!r} and hi={hi!r}")
    return np.clip(x, low, high)


def project_simplex(x: ArrayLike, total: float = 1.0) -> Floats:
    """Return the nearest point of the simplex y >= 0, sum y = total.

    Parameters
    ----------
    x : array_like
        A point.
    total : float, default 1.0
        > 0.

    Returns
    -------
    ndarray
        Of the shape of `x`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "Efficient Projections onto the l1-Ball for Learning in High Dimensions" (2008), figure 1.

    Examples
    --------
    >>> project_simplex([0.4, 0.8, -2.0])
    array([0.3, 0.7, 0. ])
    """
    x = check_array("x", x)
    total = check_real("total", total, above=0)
    if not x.size:
        raise ValueError(f"x must not be empty, got shape {x.shape}")
    return _simplex(x, total)


def project_l1_ball(x: ArrayLike, radius: float) -> Floats:
    """Return the nearest point of the ball ``sum |y| <= radius``.

    Parameters
    ----------
    x : array_like
        A point.
    radius : float
        > 0.

    Returns
    -------
    ndarray
        Of the shape of `x`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Examples
    --------
    >>> project_l1_ball([3.0, -1.0], 2.0)
    array([ 2., -0.])
    """
    x = check_array("x", x)
    radius = check_real("radius", radius, above=0)
    if np.abs(x).sum() <= radius:
        return x.copy()
    return np.sign(x) * _simplex(np.abs(x), radius)


def project_nuclear_ball(X: ArrayLike, radius: float) -> Floats:
    """Return the nearest matrix whose singular values sum to at most the radius.

    Parameters
    ----------
    X : array_like, shape (m, n)
        A matrix.
    radius : float
        > 0.

    Returns
    -------
    ndarray, shape (m, n)

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Examples
    --------
    >>> project_nuclear_ball([[3.0, 0.0], [0.0, 1.0]], 2.0)
    array([[2., 0.],
           [0., 0.]])
    """
    X = check_array("X", X, ndim=2)
    radius = check_real("radius", radius, above=0)
    left, values, right = np.linalg.svd(X, full_matrices=False)
    if values.sum() <= radius:
        return X.copy()
    shrunk: Floats = (left * _simplex(values, radius)) @ right
    return shrunk


def project_halfspace(x: ArrayLike, a: ArrayLike, b: float) -> Floats:
    """Return the nearest point of the half-space a·y <= b.

    Parameters
    ----------
    x : array_like
        A point.
    a : array_like
        Outward normal, of the shape of `x`, not zero.
    b : float
        Offset.

    Returns
    -------
    ndarray
        Of the shape of `x`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Examples
    --------
    >>> project_halfspace([2.0, 2.0], [1.0, 1.0], 2.0)
    array([1., 1.])
    """
    x = check_array("x", x)
    a = check_array("a", a, shape=x.shape)
    b = check_real("b", b)
    length = float(np.vdot(a, a))
    if length == 0:
        raise ValueError("a must not be zero")
    excess = float(np.vdot(a, x)) - b
    return x - max(excess, 0.0) / length * a


def _simplex(x: Floats, total: float) -> Floats:
    down = np.sort(x, axis=None)[::-1]
    # Taking the largest entry off first keeps the sums exact for far points.
    top = down[0]
    levels = (np.cumsum(down - top) - total) / np.arange(1, x.size + 1)
    kept = np.flatnonzero(down - top > levels)[-1]
    return np.maximum(x - top - levels[kept], 0.0)


def _broadcast(name: str, value: Floats, x: Floats) -> Floats:
    try:
        return np.broadcast_to(value, x.shape)
    except ValueError:
        raise ValueError(
            f"{name} must broadcast to shape {x.shape}, got shape {value.shape}"
        ) from None
