"""Checks of arguments: each error names the argument, what it was and what it should be."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray


def check_real(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """Return `value` as a finite float inside the stated bounds.

    Raises
    ------
    TypeError
        If `value` is not a real number.
    ValueError
        If it is not finite or outside the bounds.

    Examples
    --------
    >>> check_real("epsilon", 0.5, above=0)
    0.5
    >>> check_real("epsilon", -1, above=0)
    Traceback (most recent call last):
        ...
    ValueError: epsilon must be a finite number > 0, got -1
    """
    bounds = [
        f"{symbol} {bound:g}"
        for symbol, bound in ((">", above), (">=", at_least), ("<", below), ("<=", at_most))
        if bound is not None
    ]
    expected = " ".join(["a finite number", " and ".join(bounds)]).strip()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    number = float(value)
    inside = (
        math.isfinite(number)
        and (above is None or number > above)
        and (at_least is None or number >= at_least)
        and (below is None or number < below)
        and (at_most is None or number <= at_most)
    )
    if not inside:
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return number


def check_count(name: str, value: Any, *, at_least: int = 1, at_most: int | None = None) -> int:
    """Return `value` as an int inside the bounds; TypeError or ValueError otherwise.

    Examples
    --------
    >>> check_count("n_iter", 5)
    5
    """
    expected = f"an integer >= {at_least}" + ("" if at_most is None else f" and <= {at_most}")
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be {expected}, got {value!r}") from None
    if number < at_least or (at_most is not None and number > at_most):
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return number


def check_option(name: str, value: Any, options: Iterable[Any]) -> Any:
    """Return `value` if it is one of `options`; ValueError listing them otherwise."""
    options = list(options)
    if not any(value is option or value == option for option in options):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")
    return value


def check_array(
    name: str,
    value: ArrayLike,
    *,
    ndim: int | None = None,
    shape: tuple[int | None, ...] | None = None,
    dtype: DTypeLike | None = np.float64,
    finite: bool = True,
) -> NDArray[Any]:
    """Return `value` as an array of `dtype`, checked for dimensions, shape and finite entries.

    Parameters
    ----------
    name : str
        Name of the argument, for the error.
    value : array_like
        What the caller gave.
    ndim : int, optional
        Required number of axes.
    shape : tuple, optional
        Required shape; None stands for any length.
    dtype : data type, default float64
        None keeps the array's own.
    finite : bool, default True
        Whether NaN and infinities are refused.

    Raises
    ------
    TypeError
        If `value` cannot be read as numbers of this type.
    ValueError
        If its axes, shape or entries are not as required.
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind == "c" and dtype is not None and np.dtype(dtype).kind != "c":
            raise TypeError("complex entries")
        array = array if dtype is None else array.astype(dtype, copy=False)
    except (TypeError, ValueError) as error:
        kind = "any type" if dtype is None else np.dtype(dtype).name
        raise TypeError(f"{name} must be an array of {kind}, got {type(value).__name__}") from error
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {array.shape}")
    if shape is not None and (
        array.ndim != len(shape)
        or any(
            want is not None and want != got for want, got in zip(shape, array.shape, strict=True)
        )
    ):
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"{name} must have shape ({wanted}), got {array.shape}")
    if finite and array.dtype.kind in "fc" and not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, got {array[index]} at index {index}")
    return array


def is_torch_tensor(value: Any) -> bool:
    """Whether `value` is a torch tensor, without importing torch to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
