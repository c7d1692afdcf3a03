"""Compiled loops of the stochastic gradient family on linear models, one component row at a time.

Components are loss(a_i·x, b_i) + l2 ‖x‖² / 2. Every loop takes the batches of its steps, advances
`x` in place, keeps the weighted mean of the points before each step in `mean` (of weight
`total[0]`), writes the point after each step into `history` unless that is empty, and returns how
many steps left finite numbers: fewer than asked for if the next one did not.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

LEAST_SQUARES, LOGISTIC, ABSOLUTE = range(3)
PLAIN, HEAVY_BALL, AVERAGING = range(3)

# Lets dot products use vector registers; leaves NaN and infinity alone.
SUMS = {"reassoc", "contract"}
NEWTON_LIMIT = 100


@njit(cache=True)
def draw_batches(uniforms, n, replace, order):
    """Turn uniform numbers into component indices, in place of `uniforms`' shape.

    Without replacement each row is the head of a shuffle of `order`, which is left permuted.
    """
    steps, size = uniforms.shape
    batches = np.empty((steps, size), dtype=np.int64)
    for t in range(steps):
        for j in range(size):
            if replace or size == 1:
                batches[t, j] = int(uniforms[t, j] * n)
            else:
                k = j + int(uniforms[t, j] * (n - j))
                order[j], order[k] = order[k], order[j]
                batches[t, j] = order[j]
    return batches


@njit(cache=True, nogil=True)
def loss_slope(kind, margin, target):
    """Return the derivative of a loss by its margin."""
    if kind == LEAST_SQUARES:
        return margin - target
    if kind == LOGISTIC:
        return -target / (1.0 + math.exp(target * margin))
    return np.sign(margin - target)


@njit(cache=True, nogil=True)
def loss_value(kind, margin, target):
    """Return a loss."""
    if kind == LEAST_SQUARES:
        return 0.5 * (margin - target) ** 2
    if kind == LOGISTIC:
        p = target * margin
        return max(-p, 0.0) + math.log1p(math.exp(-abs(p)))
    return abs(margin - target)


@njit(cache=True, nogil=True)
def proximal_slope(kind, margin, target, shrink, reach):
    """Return the loss's slope u at z = (x - gamma u a) / shrink, the proximal point of x.

    `margin` is a·x, `shrink` 1 + gamma l2 and `reach` gamma ‖a‖²; u solves
    u = slope((margin - reach u) / shrink).
    """
    if kind == LEAST_SQUARES:
        return (margin - shrink * target) / (shrink + reach)
    if kind == ABSOLUTE:
        gap = margin - shrink * target
        if abs(gap) >= reach:
            return np.sign(gap)
        return gap / reach
    start = target * margin
    low, high = start / shrink, (start + reach) / shrink
    p = 0.5 * (low + high)
    last = high - low
    for _ in range(NEWTON_LIMIT):
        q = 1.0 / (1.0 + math.exp(p))
        excess = shrink * p - start - reach * q
        if excess > 0:
            high = p
        else:
            low = p
        new = p - excess / (shrink + reach * q * (1.0 - q))
        if not low < new < high or abs(new - p) > 0.5 * last:
            new = 0.5 * (low + high)
        last = abs(new - p)
        p = new
        if last <= 1e-16 * abs(p):
            break
    return -target / (1.0 + math.exp(p))


@njit(cache=True, nogil=True)
def add_to_mean(mean, total, x, weight):
    """Add a point to a weighted mean."""
    if weight > 0:
        total[0] += weight
        share = weight / total[0]
        for k in range(x.size):
            mean[k] += share * (x[k] - mean[k])


@njit(cache=True, nogil=True, fastmath=SUMS)
def batch_gradient(kind, rows, targets, l2, x, batch, out):
    """Write the mean gradient of a batch into `out`; return the mean value."""
    squared = 0.0
    for k in range(x.size):
        out[k] = l2 * x[k]
        squared += x[k] * x[k]
    value = 0.0
    for i in batch:
        margin = 0.0
        for k in range(x.size):
            margin += rows[i, k] * x[k]
        slope = loss_slope(kind, margin, targets[i]) / batch.size
        value += loss_value(kind, margin, targets[i]) / batch.size
        for k in range(x.size):
            out[k] += slope * rows[i, k]
    return value + 0.5 * l2 * squared


@njit(cache=True, nogil=True, fastmath=SUMS)
def gradient_steps(
    kind, rows, targets, l2, batches, steps, mode, momentum, weights, x, other, mean, total, history
):
    """Take SGD steps; `other` is the momentum buffer or the leading point of iterate averaging.

    `momentum` holds beta_t, or of iterate averaging lambda_{t+1}.
    """
    d, size = x.size, batches.shape[1]
    new = np.empty(d)
    scale = 1.0 / size
    for t in range(len(batches)):
        if weights.size:
            add_to_mean(mean, total, x, weights[t])
        for k in range(d):
            new[k] = l2 * x[k]
        for j in range(size):
            i = batches[t, j]
            margin = 0.0
            for k in range(d):
                margin += rows[i, k] * x[k]
            slope = loss_slope(kind, margin, targets[i]) * scale
            for k in range(d):
                new[k] += slope * rows[i, k]
        step = steps[t]
        if mode == HEAVY_BALL:
            for k in range(d):
                other[k] = momentum[t] * other[k] + new[k]
                new[k] = x[k] - step * other[k]
        elif mode == AVERAGING:
            keep = momentum[t] / (momentum[t] + 1.0)
            for k in range(d):
                other[k] -= step * new[k]
                new[k] = keep * x[k] + (1.0 - keep) * other[k]
        else:
            for k in range(d):
                new[k] = x[k] - step * new[k]
        size_now = 0.0
        for k in range(d):
            size_now += abs(new[k])
        if not math.isfinite(size_now):
            return t
        for k in range(d):
            x[k] = new[k]
        if history.size:
            for k in range(d):
                history[t, k] = x[k]
    return len(batches)


@njit(cache=True, nogil=True, fastmath=SUMS)
def polyak_steps(
    kind, rows, targets, l2, batches, f_star, gamma_max, weights, x, mean, total, history
):
    """Take stochastic Polyak steps towards the values `f_star` of the components."""
    d = x.size
    g = np.empty(d)
    for t in range(len(batches)):
        if weights.size:
            add_to_mean(mean, total, x, weights[t])
        excess = batch_gradient(kind, rows, targets, l2, x, batches[t], g)
        for i in batches[t]:
            excess -= f_star[i] / batches.shape[1]
        squared = 0.0
        for k in range(d):
            squared += g[k] * g[k]
        if not (math.isfinite(squared) and math.isfinite(excess)):
            return t
        if excess > 0 and squared > 0:
            step = min(excess / squared, gamma_max)
            for k in range(d):
                x[k] -= step * g[k]
        if history.size:
            for k in range(d):
                history[t, k] = x[k]
    return len(batches)


@njit(cache=True, nogil=True, fastmath=SUMS)
def proximal_steps(kind, rows, targets, l2, batches, steps, weights, x, mean, total, history):
    """Take stochastic proximal point steps, one component each."""
    d = x.size
    for t in range(len(batches)):
        if weights.size:
            add_to_mean(mean, total, x, weights[t])
        i = batches[t, 0]
        margin, squared = 0.0, 0.0
        for k in range(d):
            margin += rows[i, k] * x[k]
            squared += rows[i, k] * rows[i, k]
        shrink = 1.0 + steps[t] * l2
        move = steps[t] * proximal_slope(kind, margin, targets[i], shrink, steps[t] * squared)
        size_now = 0.0
        for k in range(d):
            size_now += abs(x[k] - move * rows[i, k])
        if not math.isfinite(size_now):
            return t
        for k in range(d):
            x[k] = (x[k] - move * rows[i, k]) / shrink
        if history.size:
            for k in range(d):
                history[t, k] = x[k]
    return len(batches)
