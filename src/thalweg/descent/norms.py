"""Norms, their duals, and the step that goes furthest downhill inside a ball of the norm.

A step of fixed length needs a norm to say what length means. The best direction is the norm's
linear minimisation oracle `lmo`: for the largest entry the gradient's sign, for the spectral norm
its orthogonal factor, for the sum of absolute values one coordinate. The decrease it promises is
the radius times the dual norm of the gradient.

==========  ==========================  =======================  =============================
norm        length of x                 dual norm of m           lmo(m), radius one
==========  ==========================  =======================  =============================
"l2"        root of the sum of squares  the same                 -m / its length
"linf"      largest absolute entry      sum of absolute entries  -sign(m), 0 where m is 0
"l1"        sum of absolute entries     largest absolute entry   -sign(m_j) e_j, j the largest
"spectral"  largest singular value      sum of singular values   -U V^T of m = U S V^T
"nuclear"   sum of singular values      largest singular value   -u_1 v_1^T
"row"       longest row                 sum of row lengths       each row over minus its length
==========  ==========================  =======================  =============================

The last three need a matrix; arrays of more axes are read as matrices of shape (first, rest).

Source: "Understanding Gradient Orthogonalization for Deep Learning via Non-Euclidean Trust-Region
Optimization" (2025), arXiv 2503.12645.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_option, check_real, is_torch_tensor
from thalweg.linalg.polar import polar_factor
from thalweg.linalg.sign_polynomials import named_schedule

Norm = Literal["l2", "linf", "l1", "spectral", "nuclear", "row"]
Orthogonaliser = Literal["svd", "newton-schulz", "polar-express"]

NORMS: tuple[Norm, ...] = ("l2", "linf", "l1", "spectral", "nuclear", "row")
VECTOR_NORMS: tuple[Norm, ...] = ("l2", "linf", "l1")
ORTHOGONALISERS: tuple[Orthogonaliser, ...] = ("svd", "newton-schulz", "polar-express")

RANK_TOLERANCE = 1e-12
ITERATIONS = 5
_SCHEDULES = {"newton-schulz": "jordan", "polar-express": "polar-express"}


def lmo(
    m: ArrayLike, norm: Norm, radius: float = 1.0, orthogonaliser: Orthogonaliser = "svd"
) -> Any:
    """Return the point of the ball ``norm <= radius`` at which <m, d> is smallest.

    Parameters
    ----------
    m : array_like or torch.Tensor
        Gradient, of any shape for "l2", "linf" and "l1", of at least two axes for the others.
    norm : {"l2", "linf", "l1", "spectral", "nuclear", "row"}
        Norm of the ball.
    radius : float, default 1.0
        Its radius.
    orthogonaliser : {"svd", "newton-schulz", "polar-express"}, default "svd"
        How the orthogonal factor of the spectral norm is computed: exactly, without the singular
        directions below 1e-12 of the largest (ten units of round-off in low precision), or by
        five matrix polynomials. Those take singular values of at least 0.0015 of the Frobenius
        norm to 0.65 .. 1.25 ("newton-schulz") or 0.87 .. 1.13 ("polar-express"), smaller ones to
        less.

    Returns
    -------
    ndarray or torch.Tensor
        The minimiser, of the kind and shape of `m`; zero where `m` is zero.

    Raises
    ------
    TypeError
        If `m` cannot be read as real numbers.
    ValueError
        If `m` is not finite or has too few axes, or an option is not one of those above.

    References
    ----------
    "Understanding Gradient Orthogonalization for Deep Learning via Non-Euclidean Trust-Region
    Optimization" (2025), arXiv 2503.12645.

    Examples
    --------
    >>> lmo([3.0, -4.0], "l2", 2.0)
    array([-1.2,  1.6])
    >>> lmo([3.0, -4.0], "l1")
    array([0., 1.])
    """
    radius = check_real("radius", radius, above=0)
    check_option("orthogonaliser", orthogonaliser, ORTHOGONALISERS)
    m = _checked("m", m, norm)
    return radius * steepest(m, norm, orthogonaliser)


def dual_norm(m: ArrayLike, norm: Norm) -> float:
    """Return the dual norm of a gradient: the decrease per unit radius that its `lmo` promises.

    Parameters
    ----------
    m : array_like or torch.Tensor
        Gradient; at least two axes for the matrix norms.
    norm : {"l2", "linf", "l1", "spectral", "nuclear", "row"}
        The norm whose dual is meant.

    Returns
    -------
    float
        The largest <m, d> over ``norm(d) <= 1``.

    Raises
    ------
    TypeError, ValueError
        As `lmo`.

    Examples
    --------
    >>> dual_norm([3.0, -4.0], "linf"), dual_norm([[3.0, 0.0], [0.0, -4.0]], "spectral")
    (7.0, 7.0)
    """
    return float(dual_length(_checked("m", m, norm), norm))


def primal_norm(x: ArrayLike, norm: Norm) -> float:
    """Return the norm of a point or a step.

    Parameters
    ----------
    x : array_like or torch.Tensor
        Point; at least two axes for the matrix norms.
    norm : {"l2", "linf", "l1", "spectral", "nuclear", "row"}
        The norm.

    Returns
    -------
    float
        Its length.

    Raises
    ------
    TypeError, ValueError
        As `lmo`.

    Examples
    --------
    >>> primal_norm([3.0, -4.0], "linf"), primal_norm([[3.0, 4.0], [0.0, 1.0]], "row")
    (4.0, 5.0)
    """
    point = _checked("x", x, norm)
    if norm == "row":
        return float(_row_lengths(point.reshape(point.shape[0], -1)).max())
    duals: dict[str, Norm] = {"l2": "l2", "linf": "l1", "l1": "linf"}
    duals |= {"spectral": "nuclear", "nuclear": "spectral"}
    return float(dual_length(point, duals[norm]))


def dual_norm_constant(norm: Norm, shape: tuple[int, ...]) -> float:
    """Return the least rho with ``dual_norm(v) <= rho ‖v‖_2`` for arrays of a shape.

    The bounds of this family multiply the standard deviation of the gradient noise by it.

    Parameters
    ----------
    norm : {"l2", "linf", "l1", "spectral", "nuclear", "row"}
        The norm whose dual is meant.
    shape : tuple of int
        Shape of the gradient.

    Returns
    -------
    float
        The constant.

    Raises
    ------
    ValueError
        If the norm is unknown, or needs a matrix and `shape` has fewer than two axes.

    Examples
    --------
    >>> dual_norm_constant("spectral", (9, 4)), dual_norm_constant("linf", (9, 4))
    (2.0, 6.0)
    """
    check_norm("norm", norm, len(shape))
    if norm == "linf":
        return math.sqrt(math.prod(shape))
    if norm == "row":
        return math.sqrt(shape[0])
    if norm == "spectral":
        return math.sqrt(min(shape[0], math.prod(shape[1:])))
    return 1.0


def check_norm(name: str, norm: Any, ndim: int) -> Norm:
    """Return `norm` if it is one of `NORMS` and defined for arrays of `ndim` axes."""
    check_option(name, norm, NORMS)
    if norm not in VECTOR_NORMS and ndim < 2:
        raise ValueError(f"{name}={norm!r} needs a matrix, got an array of {ndim} axes")
    return norm


def steepest(m: Any, norm: Norm, orthogonaliser: Orthogonaliser = "svd", dtype: Any = None) -> Any:
    """`lmo` of radius one without checks: `m` is a finite array or tensor fit for the norm.

    `dtype` is the type in which a polynomial orthogonaliser works; None keeps that of `m`.
    """
    if norm == "linf":
        return -_library(m).sign(m)
    if norm == "l1":
        return _greedy(m)
    if norm == "l2":
        return -_unit_rows(m.reshape(1, -1)).reshape(m.shape)
    matrix = m.reshape(m.shape[0], -1)
    if norm == "row":
        factor = _unit_rows(matrix)
    elif norm == "nuclear":
        factor = _leading_pair(matrix)
    elif orthogonaliser == "svd":
        factor = _orthogonal_factor(matrix)
    else:
        factor = _polynomial_factor(matrix, orthogonaliser, dtype)
    return -factor.reshape(m.shape)


def dual_length(m: Any, norm: Norm) -> Any:
    """`dual_norm` without checks, as a scalar of the library of `m`."""
    if norm == "linf":
        return abs(m).sum()
    if norm == "l1":
        return abs(m).max()
    if norm in ("l2", "row"):
        return _row_lengths(m.reshape(1 if norm == "l2" else m.shape[0], -1)).sum()
    matrix = _precise(m.reshape(m.shape[0], -1))
    values = _library(m).linalg.svdvals(matrix)
    return values.sum() if norm == "spectral" else values[0]


def _checked(name: str, value: Any, norm: Any) -> Any:
    if is_torch_tensor(value):
        if not value.is_floating_point():
            raise TypeError(f"{name} must be a real floating-point tensor, got {value.dtype}")
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} must be finite, got a tensor with non-finite entries")
        array = value.detach()
    else:
        kind = getattr(value, "dtype", None)
        is_floating = isinstance(kind, np.dtype) and kind.kind == "f"
        dtype: Any = None if is_floating else np.float64
        array = check_array(name, value, dtype=dtype)
    check_norm("norm", norm, array.ndim)
    if 0 in array.shape:
        raise ValueError(f"{name} must not be empty, got shape {tuple(array.shape)}")
    return array


def _library(x: Any) -> Any:
    """Return the module whose functions take `x`: numpy, or torch once the caller imported it."""
    if is_torch_tensor(x):
        import torch

        return torch
    return np


def _precise(matrix: Any) -> Any:
    """Return the matrix in a type that LAPACK takes."""
    if is_torch_tensor(matrix):
        return matrix.float() if matrix.element_size() < 4 else matrix
    return matrix.astype(np.float32) if matrix.itemsize < 4 else matrix


def _like(result: Any, m: Any) -> Any:
    return result.to(m.dtype) if is_torch_tensor(m) else result.astype(m.dtype, copy=False)


def _or_one(lengths: Any) -> Any:
    """Return a divisor: the lengths, with 1 in place of 0."""
    return lengths + (lengths == 0)


def _scaled_rows(matrix: Any) -> tuple[Any, Any]:
    """Divide each row by its largest entry, so that squares neither overflow nor vanish."""
    largest = _library(matrix).amax(abs(matrix), axis=1, keepdims=True)
    return matrix / _or_one(largest), largest


def _row_lengths(matrix: Any) -> Any:
    scaled, largest = _scaled_rows(matrix)
    return largest * _library(matrix).linalg.vector_norm(scaled, axis=1, keepdims=True)


def _unit_rows(matrix: Any) -> Any:
    scaled, _ = _scaled_rows(matrix)
    lengths = _library(matrix).linalg.vector_norm(scaled, axis=1, keepdims=True)
    return scaled / _or_one(lengths)


def _greedy(m: Any) -> Any:
    flat = m.reshape(-1)
    step = _library(m).zeros_like(flat)
    largest = abs(flat).argmax()
    step[largest] = -_library(m).sign(flat[largest])
    return step.reshape(m.shape)


def _svd(matrix: Any) -> tuple[Any, Any, Any]:
    return _library(matrix).linalg.svd(_precise(matrix), full_matrices=False)


def _orthogonal_factor(matrix: Any) -> Any:
    left, values, right = _svd(matrix)
    tolerance = max(RANK_TOLERANCE, 10 * float(_library(values).finfo(values.dtype).eps))
    kept = values > tolerance * values[0]
    return _like((left * kept) @ right, matrix)


def _leading_pair(matrix: Any) -> Any:
    left, values, right = _svd(matrix)
    return _like(left[:, :1] * right[:1] * (values[0] > 0), matrix)


def _polynomial_factor(matrix: Any, orthogonaliser: Orthogonaliser, dtype: Any) -> Any:
    table = _polynomials(orthogonaliser)
    return polar_factor(matrix, ITERATIONS, table, dtype=dtype, check_finite=False)


@lru_cache
def _polynomials(orthogonaliser: Orthogonaliser) -> NDArray[np.float64]:
    return named_schedule(_SCHEDULES[orthogonaliser], ITERATIONS)
