"""One step in a trust region: minimise <m, x> + R(x) over the ball ‖x - centre‖ <= radius, exactly.

Without a regulariser the answer is the centre plus the ball's `lmo`. With one, these pairs of norm
and regulariser have an exact step here; any other is refused by name.

- "linf" with `L1`, `SquaredL2` or `Box`: coordinate by coordinate;
- "l2" with any regulariser that has a proximal operator ``prox(v, t)``: a one-dimensional root;
- "spectral" with `SquaredL2`: the singular values of the unconstrained step are clipped.

Source: "Understanding Gradient Orthogonalization for Deep Learning via Non-Euclidean Trust-Region
Optimization" (2025), arXiv 2503.12645, Algorithm 1.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from thalweg._validation import check_array, check_real
from thalweg.descent.norms import Norm, check_norm, steepest

ROOT_TOLERANCE = 1e-12
"""Relative accuracy of the multiplier of the l2 step."""
LARGEST_STEP = 1e16
"""Proximal step, in units of the first guess, beyond which the ball's border is out of reach."""


@runtime_checkable
class Regulariser(Protocol):
    """A convex function R known by its proximal operator."""

    def prox(self, v: NDArray[np.float64], t: float) -> NDArray[np.float64]:
        """Return the minimiser of R(x) + ‖x - v‖² / (2 t)."""


class L1:
    """The regulariser lam ‖x‖_1, which makes entries exactly zero.

    Parameters
    ----------
    lam : float
        Its weight, positive.

    Raises
    ------
    TypeError, ValueError
        If `lam` is not a positive number.

    Examples
    --------
    >>> L1(2.0).prox(np.array([3.0, -0.5]), 0.5)
    array([ 2., -0.])
    """

    def __init__(self, lam: float) -> None:
        self.lam = check_real("lam", lam, above=0)

    def prox(self, v: NDArray[np.float64], t: float) -> NDArray[np.float64]:
        """Return the minimiser of lam ‖x‖_1 + ‖x - v‖² / (2 t): soft thresholding."""
        return np.sign(v) * np.maximum(np.abs(v) - t * self.lam, 0.0)


class SquaredL2:
    """The regulariser lam ‖x‖² / 2 (for a matrix the Frobenius norm).

    Parameters
    ----------
    lam : float
        Its weight, positive.

    Raises
    ------
    TypeError, ValueError
        If `lam` is not a positive number.

    Examples
    --------
    >>> SquaredL2(2.0).prox(np.array([3.0]), 0.5)
    array([1.5])
    """

    def __init__(self, lam: float) -> None:
        self.lam = check_real("lam", lam, above=0)

    def prox(self, v: NDArray[np.float64], t: float) -> NDArray[np.float64]:
        """Return the minimiser of lam ‖x‖² / 2 + ‖x - v‖² / (2 t): a shrinkage."""
        return v / (1.0 + t * self.lam)


class Box:
    """The constraint lo <= x <= hi, entry by entry.

    Parameters
    ----------
    lo, hi : float or array_like
        Bounds, which broadcast against the point; infinite where there is none.

    Raises
    ------
    TypeError, ValueError
        If a bound is no number, or `lo` exceeds `hi` somewhere.

    Examples
    --------
    >>> Box(0.0, 1.0).prox(np.array([-2.0, 0.5, 3.0]), 1.0)
    array([0. , 0.5, 1. ])
    """

    def __init__(self, lo: ArrayLike, hi: ArrayLike) -> None:
        self.lo = check_array("lo", lo, finite=False)
        self.hi = check_array("hi", hi, finite=False)
        if not np.all(self.lo <= self.hi):
            raise ValueError(f"lo must be <= hi everywhere, got lo={lo!r} and hi={hi!r}")

    def prox(self, v: NDArray[np.float64], t: float) -> NDArray[np.float64]:
        """Return the nearest point of the box; `t` does not matter."""
        return np.clip(v, self.lo, self.hi)


def trust_region_step(
    m: ArrayLike,
    centre: ArrayLike,
    radius: float,
    norm: Norm,
    regulariser: Regulariser | None = None,
) -> NDArray[np.float64]:
    """Minimise <m, x> + R(x) over the ball ‖x - centre‖ <= radius.

    Parameters
    ----------
    m : array_like
        Gradient, or an average of gradients.
    centre : array_like
        Middle of the trust region, of the shape of `m`.
    radius : float
        Its radius, positive.
    norm : {"l2", "linf", "l1", "spectral", "nuclear", "row"}
        Its norm; the last three need a matrix.
    regulariser : L1, SquaredL2, Box or any object with ``prox(v, t)``, optional
        Convex R; None for R = 0. An own object works with norm "l2".

    Returns
    -------
    ndarray
        The minimiser, exact up to rounding.

    Raises
    ------
    TypeError
        If an argument cannot be read as numbers or `regulariser` has no method ``prox``.
    ValueError
        If an argument is not finite, shapes differ, `radius` is not positive, the norm does not
        fit, or a box does not meet the trust region.
    NotImplementedError
        If the pair of norm and regulariser has no exact step here.

    References
    ----------
    "Understanding Gradient Orthogonalization for Deep Learning via Non-Euclidean Trust-Region
    Optimization" (2025), arXiv 2503.12645, Algorithm 1.

    Examples
    --------
    >>> trust_region_step([2.0, 0.1], [1.0, 0.3], 0.5, "linf", L1(1.0))
    array([0.5, 0. ])
    """
    m = check_array("m", m)
    check_norm("norm", norm, m.ndim)
    centre = check_array("centre", centre, shape=m.shape)
    radius = check_real("radius", radius, above=0)
    check_regulariser(regulariser, norm)
    return constrained_minimiser(m, centre, radius, norm, regulariser)


def check_regulariser(regulariser: Any, norm: Norm) -> None:
    """Refuse what is no regulariser, or has no exact step with the norm."""
    if regulariser is None:
        return
    if not isinstance(regulariser, Regulariser):
        raise TypeError(
            f"regulariser must be L1, SquaredL2, Box or have prox(v, t), got {regulariser!r}"
        )
    exact = (
        norm == "l2"
        or (norm == "linf" and isinstance(regulariser, (L1, SquaredL2, Box)))
        or (norm == "spectral" and isinstance(regulariser, SquaredL2))
    )
    if not exact:
        raise NotImplementedError(
            f"norm={norm!r} with regulariser {type(regulariser).__name__} has no exact step; "
            "there is one for 'linf' with L1, SquaredL2 or Box, 'l2' with any prox, "
            "and 'spectral' with SquaredL2"
        )


def constrained_minimiser(
    m: NDArray[np.float64],
    centre: NDArray[np.float64],
    radius: float,
    norm: Norm,
    regulariser: Regulariser | None,
) -> NDArray[np.float64]:
    """`trust_region_step` without checks."""
    if regulariser is None:
        return centre + radius * steepest(m, norm)
    if norm == "l2":
        return _euclidean(m, centre, radius, regulariser)
    if norm == "spectral":
        assert isinstance(regulariser, SquaredL2)
        return centre + _clip_singular_values(-m / regulariser.lam - centre, radius)
    lower, upper = centre - radius, centre + radius
    if isinstance(regulariser, SquaredL2):
        return np.clip(-m / regulariser.lam, lower, upper)
    if isinstance(regulariser, L1):
        at_border = np.where(m > 0, lower, upper)
        return np.where(np.abs(m) > regulariser.lam, at_border, np.clip(0.0, lower, upper))
    assert isinstance(regulariser, Box)
    if np.any(lower > regulariser.hi) or np.any(upper < regulariser.lo):
        raise _unreachable(radius)
    return np.clip(centre - radius * np.sign(m), regulariser.lo, regulariser.hi)


def _euclidean(
    m: NDArray[np.float64],
    centre: NDArray[np.float64],
    radius: float,
    regulariser: Regulariser,
) -> NDArray[np.float64]:
    """Find the proximal step t = 1/nu whose point lies on the border of the ball.

    x(t) = prox(centre - t m, t) moves away from the centre as t grows; if it never reaches the
    border, its limit is the minimiser without the ball.
    """

    def point(t: float) -> NDArray[np.float64]:
        x = np.asarray(regulariser.prox(centre - t * m, t))
        if x.shape != m.shape or not np.isfinite(x).all():
            raise ValueError(f"regulariser.prox must return finite numbers of shape {m.shape}")
        return x

    def excess(t: float) -> float:
        return float(np.linalg.norm(point(t) - centre)) - radius

    slope = float(np.linalg.norm(m))
    guess = radius / slope if slope > 0 else 1.0
    inner = outer = guess
    while excess(inner) > 0:
        inner /= 8
        if inner < guess / LARGEST_STEP:
            raise _unreachable(radius)
    while excess(outer) < 0:
        outer *= 8
        if outer > guess * LARGEST_STEP:
            return point(outer)
    if inner == outer:
        return point(inner)
    return point(brentq(excess, inner, outer, xtol=ROOT_TOLERANCE * inner, rtol=ROOT_TOLERANCE))


def _clip_singular_values(matrix: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    left, values, right = np.linalg.svd(matrix.reshape(matrix.shape[0], -1), full_matrices=False)
    return ((left * np.minimum(values, largest)) @ right).reshape(matrix.shape)


def _unreachable(radius: float) -> ValueError:
    return ValueError(
        f"regulariser must be finite somewhere in the trust region, got none within {radius!r}"
    )
