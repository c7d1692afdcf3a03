"""Token maps made larger by bicubic interpolation and smaller by averages over areas.

Next-scale prediction goes from a map of h x w tokens to the next larger one by interpolation, and a
multi-scale quantizer goes the other way. Both are products with a thin matrix on each side, on
arrays and tensors alike.

Source: "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models"
(2025), arXiv 2501.04377, up-interpolation; the kernel is that of R. Keys, "Cubic convolution
interpolation for digital image processing" (1981).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg._validation import check_array, check_count, check_real, is_torch_tensor

KEYS_SLOPE = -0.5


def bicubic_upsample(x: Any, size: int | tuple[int, int], a: float = KEYS_SLOPE) -> Any:
    """Return maps interpolated to a larger size by cubic convolution.

    Parameters
    ----------
    x : array_like or torch.Tensor of shape (..., h, w)
        Maps.
    size : int or (int, int)
        New height H >= h and width W >= w; an int is both.
    a : float, default -0.5
        Slope of the kernel at 1. Keys' -0.5 reproduces quadratic functions away from the edges;
        ``torch.nn.functional.interpolate(mode="bicubic")`` has -0.75.

    Returns
    -------
    ndarray or torch.Tensor of shape (..., H, W)
        Values at the centres of the new cells (``align_corners=False``); beyond the edge the
        outermost value is repeated. Tensors keep type, device and gradient.

    Raises
    ------
    ValueError
        If `x` has fewer than two axes or non-finite entries, or a new side is shorter.

    References
    ----------
    "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models"
    (2025), arXiv 2501.04377, bicubic up-interpolation.

    Examples
    --------
    >>> bicubic_upsample([[0.0, 1.0]], (1, 4)).round(3)
    array([[-0.07 ,  0.203,  0.797,  1.07 ]])
    """
    x = _maps(x)
    height, width = _size(size)
    if height < x.shape[-2] or width < x.shape[-1]:
        raise ValueError(
            f"size must be at least that of x, {tuple(x.shape[-2:])}, got {(height, width)}"
        )
    a = check_real("a", a)
    return _apply(cubic_matrix(x.shape[-2], height, a), x, cubic_matrix(x.shape[-1], width, a))


def area_downsample(x: Any, size: int | tuple[int, int]) -> Any:
    """Return maps averaged over the areas of larger cells.

    Parameters
    ----------
    x : array_like or torch.Tensor of shape (..., h, w)
        Maps.
    size : int or (int, int)
        New height H <= h and width W <= w. A cell that is cut counts by the part inside.

    Returns
    -------
    ndarray or torch.Tensor of shape (..., H, W)
        Averages; the mean of a map is kept.

    Raises
    ------
    ValueError
        If `x` has fewer than two axes or non-finite entries, or a new side is longer.

    Examples
    --------
    >>> area_downsample([[1.0, 2.0, 3.0]], (1, 2))
    array([[1.33333333, 2.66666667]])
    """
    x = _maps(x)
    height, width = _size(size)
    if height > x.shape[-2] or width > x.shape[-1]:
        raise ValueError(
            f"size must be at most that of x, {tuple(x.shape[-2:])}, got {(height, width)}"
        )
    return _apply(_area_matrix(x.shape[-2], height), x, _area_matrix(x.shape[-1], width))


def cubic_matrix(old: int, new: int, a: float = KEYS_SLOPE) -> NDArray[np.float64]:
    """Return the matrix of shape (new, old) that interpolates a column of `old` values.

    Examples
    --------
    >>> cubic_matrix(3, 3)
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.]])
    """
    places = (np.arange(new) + 0.5) * old / new - 0.5
    before = np.floor(places).astype(int)
    matrix = np.zeros((new, old))
    for s in (-1, 0, 1, 2):
        columns = np.clip(before + s, 0, old - 1)
        np.add.at(matrix, (np.arange(new), columns), _keys(before + s - places, a))
    return matrix


def check_sides(sides: Sequence[int]) -> tuple[int, ...]:
    """Return the sides of square token maps, from coarse to fine, as a tuple of ints.

    Raises
    ------
    TypeError, ValueError
        If there is none, or they are not increasing positive integers.
    """
    checked = tuple(check_count("sides", side) for side in sides)
    if not checked or any(a >= b for a, b in pairwise(checked)):
        raise ValueError(f"sides must be increasing and not empty, got {tuple(sides)}")
    return checked


def _keys(x: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _area_matrix(old: int, new: int) -> NDArray[np.float64]:
    edges = np.arange(new + 1) * (old / new)
    cells = np.arange(old)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.clip(overlap, 0, None) * (new / old)


def _apply(rows: NDArray[np.float64], x: Any, columns: NDArray[np.float64]) -> Any:
    if is_torch_tensor(x):
        return x.new_tensor(rows) @ x @ x.new_tensor(columns.T)
    return rows @ x @ columns.T


def _maps(x: Any) -> Any:
    if not is_torch_tensor(x):
        x = check_array("x", x)
    elif not x.is_floating_point() or not x.isfinite().all():
        raise ValueError(f"x must be a tensor of finite floating numbers, got {x.dtype}")
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise ValueError(f"x must have shape (..., h, w), got {tuple(x.shape)}")
    return x


def _size(size: int | tuple[int, int]) -> tuple[int, int]:
    pair = size if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2:
        raise ValueError(f"size must be an integer or two, got {size!r}")
    return check_count("size", pair[0]), check_count("size", pair[1])
