"""Inner loops of linear stochastic approximation: many chains, step by step.

The pair of step s and chain i is entry ``index[s, i]`` of the tables. An iterate that is not finite
is not kept: its chain stops, and `stopped` holds the iteration.
"""

from __future__ import annotations

import math

from numba import njit

KERNEL = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**KERNEL)
def dense_steps(a, b, index, theta, mean, step_size, first, slots, average, out, stopped):
    """Step with tables of matrices `a` (k, d, d) and vectors `b` (k, d)."""
    d = theta.shape[1]
    new = b[0].copy()
    for s in range(index.shape[0]):
        for i in range(index.shape[1]):
            if stopped[i] > 0:
                continue
            k = index[s, i]
            size = 0.0
            for row in range(d):
                value = b[k, row]
                for column in range(d):
                    value -= a[k, row, column] * theta[i, column]
                new[row] = theta[i, row] + step_size * value
                size += abs(new[row])
            keep(new, size, i, first + s + 1, slots[s], average, theta, mean, out, stopped)


@njit(**KERNEL)
def rank_one_steps(
    left, right, scale, index, theta, mean, step_size, first, slots, average, out, stopped
):
    """Step with matrices ``left[k] right[k]'`` and vectors ``scale[k] left[k]``."""
    d = theta.shape[1]
    new = left[0].copy()
    for s in range(index.shape[0]):
        for i in range(index.shape[1]):
            if stopped[i] > 0:
                continue
            k = index[s, i]
            residual = scale[k]
            for column in range(d):
                residual -= right[k, column] * theta[i, column]
            size = 0.0
            for row in range(d):
                new[row] = theta[i, row] + step_size * residual * left[k, row]
                size += abs(new[row])
            keep(new, size, i, first + s + 1, slots[s], average, theta, mean, out, stopped)


@njit(**KERNEL)
def keep(new, size, i, iteration, slot, average, theta, mean, out, stopped):
    """Take a finite iterate over, into the mean and the record too; else stop the chain."""
    if not size < math.inf:
        stopped[i] = iteration
        return
    for row in range(new.shape[0]):
        theta[i, row] = new[row]
        if average:
            mean[i, row] += (new[row] - mean[i, row]) / iteration
        if slot >= 0:
            out[i, slot, row] = mean[i, row] if average else new[row]
