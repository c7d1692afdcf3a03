"""Compiled loops of stochastic accelerated gradient steps on linear models, one row at a time.

Components are loss(a_i·x, b_i) + l2 ‖x‖² / 2. Every loop takes the batches of its steps, advances
its points in place and returns how many steps left finite numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from thalweg.descent._stochastic_kernels import SUMS, loss_slope
from thalweg.descent._variance_reduction_kernels import anchor_at


@njit(cache=True)
def momentum_parameter(step, mu, gamma):
    """Return the root alpha in (0, 1] of alpha² = step ((1 - alpha) gamma + alpha mu)."""
    half = 0.5 * step * (gamma - mu)
    length = math.sqrt(half * half + step * gamma)
    alpha = step * gamma / (half + length) if half > 0 else length - half
    return min(alpha, 1.0)


@njit(cache=True)
def momentum_parameters(steps, mu, gamma0):
    """Return alpha_k for each step, and gamma_k before each and after the last."""
    alphas, gammas = np.empty(len(steps)), np.empty(len(steps) + 1)
    gammas[0] = gamma0
    for k in range(len(steps)):
        alphas[k] = momentum_parameter(steps[k], mu, gammas[k])
        gammas[k + 1] = (1.0 - alphas[k]) * gammas[k] + alphas[k] * mu
    return alphas, gammas


@njit(cache=True, nogil=True, fastmath=SUMS)
def three_point_steps(
    kind, rows, targets, l2, batches, steps, alphas, gammas, mu, whole, w, v
):  # fmt: skip
    """Take steps of the points w and v; with `whole` v follows the gradient of the whole sum."""
    d, size = w.size, batches.shape[1]
    y, g, dual = np.empty(d), np.empty(d), np.empty(d)
    slopes = np.empty(len(rows) if whole else 0)
    for t in range(len(batches)):
        alpha, gamma, ahead, step = alphas[t], gammas[t], gammas[t + 1], steps[t]
        lead = alpha * gamma / (gamma + alpha * mu)
        for k in range(d):
            y[k] = (1.0 - lead) * w[k] + lead * v[k]
            g[k] = l2 * y[k]
        for j in range(size):
            i = batches[t, j]
            margin = 0.0
            for k in range(d):
                margin += rows[i, k] * y[k]
            share = loss_slope(kind, margin, targets[i]) / size
            for k in range(d):
                g[k] += share * rows[i, k]
        if whole:
            anchor_at(kind, rows, targets, y, slopes, dual)
        keep, pull, move = (1.0 - alpha) * gamma / ahead, alpha * mu / ahead, alpha / ahead
        size_now = 0.0
        if whole:
            for k in range(d):
                dual[k] = pull * y[k] - move * (dual[k] + l2 * y[k])
                y[k] -= step * g[k]
                g[k] = dual[k] + keep * v[k]
                size_now += abs(y[k]) + abs(g[k])
        else:
            for k in range(d):
                here, slope = y[k], g[k]
                y[k] = here - step * slope
                g[k] = keep * v[k] + pull * here - move * slope
                size_now += abs(y[k]) + abs(g[k])
        if not math.isfinite(size_now):
            return t
        for k in range(d):
            w[k] = y[k]
            v[k] = g[k]
    return len(batches)


@njit(cache=True, nogil=True, fastmath=SUMS)
def momentum_steps(kind, rows, targets, l2, batches, steps, pushes, before, w):
    """Take steps from points extrapolated along the last move, ``pushes[t]`` times as far."""
    d, size = w.size, batches.shape[1]
    y, g = np.empty(d), np.empty(d)
    for t in range(len(batches)):
        push, step = pushes[t], steps[t]
        for k in range(d):
            y[k] = w[k] + push * (w[k] - before[k])
            g[k] = l2 * y[k]
        for j in range(size):
            i = batches[t, j]
            margin = 0.0
            for k in range(d):
                margin += rows[i, k] * y[k]
            share = loss_slope(kind, margin, targets[i]) / size
            for k in range(d):
                g[k] += share * rows[i, k]
        size_now = 0.0
        for k in range(d):
            y[k] -= step * g[k]
            size_now += abs(y[k])
        if not math.isfinite(size_now):
            return t
        for k in range(d):
            before[k] = w[k]
            w[k] = y[k]
    return len(batches)
