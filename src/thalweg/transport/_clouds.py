"""Checks that two clouds of points can be compared, and their common unit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array


def check_clouds(
    X: ArrayLike, Y: ArrayLike, at_least: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both as finite arrays (n, d), (m, d); ValueError for fewer rows than asked."""
    X, Y = check_array("X", X, ndim=2), check_array("Y", Y, ndim=2)
    check_sizes(X, Y, at_least)
    return X, Y


def check_sizes(X: Any, Y: Any, at_least: int) -> None:
    """Raise ValueError unless both have at least so many rows and the same columns."""
    for name, Z in (("X", X), ("Y", Y)):
        if len(Z) < at_least:
            raise ValueError(f"{name} must have at least {at_least} rows, got {len(Z)}")
    if X.shape[1] != Y.shape[1]:
        raise ValueError(
            f"X and Y must have the same number of columns, got {X.shape[1]} and {Y.shape[1]}"
        )


def common_spread(X: NDArray[np.float64], Y: NDArray[np.float64]) -> float:
    """Return the root mean variance of the columns of both, or 1 where all points are one."""
    spread = float(np.sqrt((X.var(0).mean() + Y.var(0).mean()) / 2))
    return spread if spread > 0 else 1.0
