"""Compiled loops of variance-reduced gradient methods on linear models, one row at a time.

Components are loss(a_i·x, b_i) + l2 ‖x‖² / 2. The squared norm is the same in all of them, so its
gradient is taken exactly and only the losses' gradients, slope times row, are estimated. Every loop
takes the batches of its steps, advances `x` in place and returns how many steps left finite
numbers: fewer than asked for if the next one did not, or if the loop has a reason to end.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from thalweg.descent._stochastic_kernels import SUMS, loss_slope

LAST, RANDOM, AVERAGE = range(3)


@njit(cache=True, nogil=True, fastmath=SUMS)
def row_slope(kind, row, target, x):
    """Return the slope of one loss at x."""
    margin = 0.0
    for k in range(x.size):
        margin += row[k] * x[k]
    return loss_slope(kind, margin, target)


@njit(cache=True, nogil=True, fastmath=SUMS)
def keep_point(option, pick, t, x, kept):
    """Keep what a snapshot is made of: the sum of the points, or the picked one."""
    if option == AVERAGE:
        for k in range(x.size):
            kept[k] += x[k]
    elif option == RANDOM and t == pick:
        for k in range(x.size):
            kept[k] = x[k]


@njit(cache=True, nogil=True, fastmath=SUMS)
def step_from(x, step, direction, new):
    """Write x - step direction into `new`; return whether it is finite."""
    size = 0.0
    for k in range(x.size):
        new[k] = x[k] - step * direction[k]
        size += abs(new[k])
    return math.isfinite(size)


@njit(cache=True, nogil=True, fastmath=SUMS)
def anchored_direction(kind, rows, targets, l2, batch, slopes, mean, x, out):
    """Write the gradient estimate of SVRG into `out`.

    `slopes` are those of the losses at the anchor, `mean` the mean of slope times row.
    """
    for k in range(x.size):
        out[k] = mean[k] + l2 * x[k]
    for i in batch:
        change = (row_slope(kind, rows[i], targets[i], x) - slopes[i]) / batch.size
        for k in range(x.size):
            out[k] += change * rows[i, k]


@njit(cache=True, nogil=True, fastmath=SUMS)
def anchor_at(kind, rows, targets, x, slopes, mean):
    """Take `x` as the anchor: write all slopes there and the mean of slope times row."""
    n = len(rows)
    mean[:] = 0.0
    for i in range(n):
        slopes[i] = row_slope(kind, rows[i], targets[i], x)
        share = slopes[i] / n
        for k in range(x.size):
            mean[k] += share * rows[i, k]


@njit(cache=True, nogil=True, fastmath=SUMS)
def svrg_steps(
    kind, rows, targets, l2, batches, steps, slopes, mean, option, pick, kept, x
):  # fmt: skip
    """Take SVRG steps from one anchor."""
    direction, new = np.empty(x.size), np.empty(x.size)
    for t in range(len(batches)):
        keep_point(option, pick, t, x, kept)
        anchored_direction(kind, rows, targets, l2, batches[t], slopes, mean, x, direction)
        if not step_from(x, steps[t], direction, new):
            return t
        x[:] = new
    return len(batches)


@njit(cache=True, nogil=True, fastmath=SUMS)
def loopless_steps(kind, rows, targets, l2, batches, coins, steps, slopes, mean, x):
    """Take SVRG steps; where a coin is true the point before the step becomes the anchor."""
    direction, new = np.empty(x.size), np.empty(x.size)
    for t in range(len(batches)):
        anchored_direction(kind, rows, targets, l2, batches[t], slopes, mean, x, direction)
        if coins[t]:
            anchor_at(kind, rows, targets, x, slopes, mean)
        if not step_from(x, steps[t], direction, new):
            return t
        x[:] = new
    return len(batches)


@njit(cache=True, nogil=True, fastmath=SUMS)
def saga_steps(kind, rows, targets, l2, batches, steps, slopes, mean, x):
    """Take SAGA steps on a table of slopes; batches hold distinct components."""
    n, d, size = len(rows), x.size, batches.shape[1]
    change, new = np.empty(d), np.empty(d)
    fresh = np.empty(size)
    for t in range(len(batches)):
        change[:] = 0.0
        for j in range(size):
            i = batches[t, j]
            fresh[j] = row_slope(kind, rows[i], targets[i], x)
            difference = fresh[j] - slopes[i]
            for k in range(d):
                change[k] += difference * rows[i, k]
        step, size_now = steps[t], 0.0
        for k in range(d):
            new[k] = x[k] - step * (change[k] / size + mean[k] + l2 * x[k])
            size_now += abs(new[k])
        if not math.isfinite(size_now):
            return t
        for k in range(d):
            x[k] = new[k]
            mean[k] += change[k] / n
        for j in range(size):
            slopes[batches[t, j]] = fresh[j]
    return len(batches)


@njit(cache=True, nogil=True, fastmath=SUMS)
def add_difference(kind, rows, targets, l2, batch, scale, x, before, out):
    """Add `scale` times the batch's gradient at x less that at `before` to `out`."""
    for k in range(x.size):
        out[k] += scale * l2 * (x[k] - before[k])
    for i in batch:
        here, there = 0.0, 0.0
        for k in range(x.size):
            here += rows[i, k] * x[k]
            there += rows[i, k] * before[k]
        change = loss_slope(kind, here, targets[i]) - loss_slope(kind, there, targets[i])
        change *= scale / batch.size
        for k in range(x.size):
            out[k] += change * rows[i, k]


@njit(cache=True, nogil=True, fastmath=SUMS)
def sarah_steps(
    kind, rows, targets, l2, batches, steps, enough, option, pick, kept, before, v, x
):  # fmt: skip
    """Take SARAH steps; end after one whose estimate has a squared norm below `enough`.

    Returns the number of steps and whether that was why. `before` is the point before `x` and `v`
    the estimate there; both are advanced.
    """
    new = np.empty(x.size)
    for t in range(len(batches)):
        keep_point(option, pick, t, x, kept)
        add_difference(kind, rows, targets, l2, batches[t], 1.0, x, before, v)
        if not step_from(x, steps[t], v, new):
            return t, False
        before[:] = x
        x[:] = new
        squared = 0.0
        for k in range(x.size):
            squared += v[k] * v[k]
        if squared < enough:
            return t + 1, True
    return len(batches), False


@njit(cache=True, nogil=True, fastmath=SUMS)
def hybrid_steps(kind, rows, targets, l2, first, second, steps, beta, before, v, x):
    """Take hybrid SGD steps with the batches `first` of differences and `second` of gradients."""
    new = np.empty(x.size)
    for t in range(len(first)):
        for k in range(x.size):
            v[k] = beta * v[k] + (1.0 - beta) * l2 * x[k]
        if beta > 0:
            add_difference(kind, rows, targets, l2, first[t], beta, x, before, v)
        if beta < 1:
            for i in second[t]:
                slope = row_slope(kind, rows[i], targets[i], x)
                share = (1.0 - beta) * slope / second.shape[1]
                for k in range(x.size):
                    v[k] += share * rows[i, k]
        if not step_from(x, steps[t], v, new):
            return t
        before[:] = x
        x[:] = new
    return len(first)
