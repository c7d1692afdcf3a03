"""A kernel discrepancy that needs no width: `mmd2` takes its widths from the two clouds.

Source: "Transforming Simulation to Data Without Pairing" (2025), arXiv 2504.12343; "A Kernel
Two-Sample Test" (2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from thalweg._validation import check_real
from thalweg.transport.metrics import _squared_distances, median_distance, mmd

WIDTH_POINTS = 256
"""Points of both clouds, evenly spaced, that the median is taken of: its noise is about 2 %."""


def mmd2(X: Any, Y: Any, *, bandwidths: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0)) -> Any:
    """Return the unbiased squared kernel discrepancy with widths in units of the median distance.

    The kernel is the mean over b of ``exp(-|u-v|^2 / (b m))``, with m the squared median distance
    of the points of both clouds, a constant for gradients.

    Parameters
    ----------
    X, Y : array_like or torch.Tensor (n, d), (m, d)
        The clouds, two points each at least. With tensors the result is a tensor that can be
        differentiated.
    bandwidths : sequence of float, default (0.25, 0.5, 1, 2, 4)
        The factors b.

    Returns
    -------
    float or torch.Tensor
        Zero on average for clouds of one law; can be negative.

    See Also
    --------
    mmd : with widths in the unit of the data.

    References
    ----------
    Gretton et al., "A Kernel Two-Sample Test" (2012), eq. (3).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> bool(mmd2(X, X + 1) > 10 * abs(mmd2(X[:100], X[100:])))
    True
    """
    factors = [check_real("bandwidths", b, above=0) for b in np.atleast_1d(bandwidths)]
    if not factors:
        raise ValueError("bandwidths must not be empty")
    m = median_distance(X, Y, max_points=WIDTH_POINTS)
    widest = max(factors)
    powers = sorted(widest / b for b in factors)
    doubled = powers == [2.0**i for i in range(len(powers))]

    def kernel(A: Any, B: Any) -> Any:
        squares = _squared_distances(A, B) * (-1 / (widest * m**2))
        exp = np.exp if isinstance(squares, np.ndarray) else type(squares).exp
        if not doubled:
            return sum(exp(power * squares) for power in powers) / len(powers)
        term = total = exp(squares)
        for _ in powers[1:]:
            term = term * term
            total = total + term
        return total / len(powers)

    return mmd(X, Y, kernel=kernel)
