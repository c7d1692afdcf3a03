"""Compiled coordinate passes over a quadratic plus an l1 norm."""

from __future__ import annotations

import numpy as np
from numba import njit

SMALLEST = 1e-14


@njit(cache=True, nogil=True)
def coordinate_passes(matrix, scale, left, right, w, g, lam, sweeps):
    """Minimise g·d + d·Bd / 2 + lam ‖w + d‖_1 by cyclic coordinate minimisation from d = 0.

    B is `matrix` if that is not empty, else scale I + left @ right.T. A pass that moves nothing by
    more than 1e-14 of the largest entry ends it. Coordinates without curvature stay.
    """
    dim, rank = w.size, left.shape[1]
    dense = matrix.size > 0
    d = np.zeros(dim)
    product = np.zeros(dim)
    reduced = np.zeros(rank)
    for _ in range(sweeps):
        moved, size = 0.0, 0.0
        for j in range(dim):
            if dense:
                a = matrix[j, j]
                b = g[j] + product[j]
            else:
                a = scale
                b = g[j] + scale * d[j]
                for r in range(rank):
                    a += left[j, r] * right[j, r]
                    b += left[j, r] * reduced[r]
            if a <= 0.0:
                continue
            c = w[j] + d[j]
            target = c - b / a
            new = np.sign(target) * max(abs(target) - lam / a, 0.0)
            change = new - c
            size = max(size, abs(new))
            if change == 0.0:
                continue
            moved = max(moved, abs(change))
            d[j] = new - w[j]
            if dense:
                for i in range(dim):
                    product[i] += change * matrix[j, i]
            else:
                for r in range(rank):
                    reduced[r] += change * right[j, r]
        if moved <= SMALLEST * size:
            break
    return d
