"""The implicit integrator of a metric that depends on the position, compiled."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from thalweg.inference._hmc_kernels import (
    KERNEL,
    STEP,
    copy,
    is_divergent,
    min_one_exp,
    report,
)

Floats = NDArray[np.float64]

MAX_ITERATIONS = 100
TOLERANCE = 1e-10


class RiemannianOptions(NamedTuple):
    """How many steps a trajectory has."""

    n_leapfrog: int


class Point(NamedTuple):
    """Position, momentum, and gradient of the log density."""

    q: Floats
    p: Floats
    g: Floats


class Geometry(NamedTuple):
    """The metric at a point: factor, inverse, derivatives, and what the energy takes of them."""

    lower: Floats
    inverse: Floats
    derivative: Floats
    trace: Floats
    half_log_det: Floats


@njit(**KERNEL)
def riemannian_block(logdensity, metric_fn, chain, options, adapt, target, rng, samples, stats):
    d = chain.q.size
    point = Point(np.empty(d), np.empty(d), np.empty(d))
    here, there, trial = new_geometry(d), new_geometry(d), new_geometry(d)
    set_geometry(metric_fn, chain.q, here)
    for draw in range(samples.shape[0]):
        copy(point.q, chain.q)
        copy(point.g, chain.gradient)
        draw_position_momentum(here, rng, point.p)
        copy_geometry(there, here)
        energy_0 = riemannian_energy(chain.value[0], point, here)
        value, energy, done, diverging = chain.value[0], energy_0, 0, False
        while done < options.n_leapfrog and not diverging:
            value, converged = implicit_step(
                logdensity, metric_fn, point, there, trial, chain.tuning[STEP], chain.where
            )
            energy = riemannian_energy(value, point, there) if converged else math.inf
            diverging = is_divergent(energy - energy_0)
            done += 1
        acceptance = 0.0 if diverging else min_one_exp(energy_0 - energy)
        if rng.random() < acceptance:
            copy(chain.q, point.q)
            copy(chain.gradient, point.g)
            chain.value[0] = value
            copy_geometry(here, there)
            energy_0 = energy
        report(stats[draw], chain.value[0], energy_0, acceptance, done, 0, diverging)
        samples[draw] = chain.q


@njit(**KERNEL)
def implicit_step(logdensity, metric_fn, point, geometry, trial, step, where):
    """One step of the generalised leapfrog in place.

    Returns the log density and whether both fixed points were found. `geometry` is that of the
    point, before and after; `trial` is working space.
    """
    if not kick_implicitly(point, geometry, step):
        return -math.inf, False
    begin, velocity_0 = point.q.copy(), velocity_here(point, geometry)
    converged = False
    for _ in range(MAX_ITERATIONS):
        if not set_geometry(metric_fn, point.q, trial):
            return -math.inf, False
        if drift_from(begin, velocity_0, point, trial, step) < TOLERANCE:
            converged = True
            break
    if not converged or not set_geometry(metric_fn, point.q, geometry):
        return -math.inf, False
    copy(where, point.q)
    value, gradient = logdensity(point.q)
    copy(point.g, gradient)
    kick(point, geometry, step)
    return float(value), True


@njit(**KERNEL)
def set_geometry(metric_fn, q, geometry):
    """Fill `geometry` at q; False where the metric is not positive definite."""
    matrix, derivative = metric_fn(q)
    return factorise(matrix, derivative, geometry)


@njit(**KERNEL)
def kick_implicitly(point, geometry, step):
    """Solve p = p_0 - step/2 dH/dq(q, p) by fixed-point iteration."""
    begin = point.p.copy()
    for _ in range(MAX_ITERATIONS):
        new = begin - 0.5 * step * energy_slope(point, geometry)
        change = np.abs(new - point.p).max()
        copy(point.p, new)
        if change < TOLERANCE:
            return True
    return False


@njit(**KERNEL)
def drift_from(begin, velocity_0, point, trial, step):
    """One iteration of q = q_0 + step/2 (velocity at q_0 + velocity at q); return its change."""
    new = begin + 0.5 * step * (velocity_0 + velocity_here(point, trial))
    change = np.abs(new - point.q).max()
    copy(point.q, new)
    return change


@njit(**KERNEL)
def kick(point, geometry, step):
    copy(point.p, point.p - 0.5 * step * energy_slope(point, geometry))


@njit(**KERNEL)
def energy_slope(point, geometry):
    """Return dH/dq at fixed momentum."""
    v = velocity_here(point, geometry)
    slope = np.empty(v.size)
    for k in range(v.size):
        quadratic = 0.0
        for i in range(v.size):
            for j in range(v.size):
                quadratic += v[i] * geometry.derivative[k, i, j] * v[j]
        slope[k] = 0.5 * geometry.trace[k] - 0.5 * quadratic - point.g[k]
    return slope


@njit(**KERNEL)
def velocity_here(point, geometry):
    return geometry.inverse @ point.p


@njit(**KERNEL)
def riemannian_energy(value, point, geometry):
    kinetic = point.p @ velocity_here(point, geometry)
    return 0.5 * kinetic + geometry.half_log_det[0] - value


@njit(**KERNEL)
def draw_position_momentum(geometry, rng, p):
    """Write p = L z with L L' the metric here."""
    for i in range(p.size):
        p[i] = rng.standard_normal()
    copy(p, geometry.lower @ p)


@njit(**KERNEL)
def factorise(matrix, derivative, geometry):
    d = matrix.shape[0]
    if derivative.shape[0] != d or derivative.shape[1] != d or derivative.shape[2] != d:
        raise ValueError("metric_fn returned derivatives of the wrong shape")
    geometry.lower[:] = 0.0
    half_log_det = 0.0
    for j in range(d):
        for i in range(j, d):
            total = matrix[i, j]
            for k in range(j):
                total -= geometry.lower[i, k] * geometry.lower[j, k]
            if i == j:
                if not (0.0 < total < math.inf):
                    return False
                geometry.lower[j, j] = math.sqrt(total)
                half_log_det += 0.5 * math.log(total)
            else:
                geometry.lower[i, j] = total / geometry.lower[j, j]
    inverse_lower = np.linalg.inv(geometry.lower)
    geometry.inverse[:] = inverse_lower.T @ inverse_lower
    geometry.derivative[:] = derivative
    geometry.half_log_det[0] = half_log_det
    for k in range(d):
        geometry.trace[k] = (geometry.inverse * derivative[k]).sum()
    return True


@njit(**KERNEL)
def new_geometry(d):
    return Geometry(
        np.empty((d, d)), np.empty((d, d)), np.empty((d, d, d)), np.empty(d), np.empty(1)
    )


@njit(**KERNEL)
def copy_geometry(to, geometry):
    to.lower[:] = geometry.lower
    to.inverse[:] = geometry.inverse
    to.derivative[:] = geometry.derivative
    to.trace[:] = geometry.trace
    to.half_log_det[:] = geometry.half_log_det


@njit(cache=True)
def softabs_metric(hessian, third, alpha):
    """Return |H| smoothed, and its derivatives, from a Hessian and its derivatives."""
    d = hessian.shape[0]
    if not np.isfinite(hessian).all():
        return np.full((d, d), np.nan), np.full((d, d, d), np.nan)
    values, vectors = np.linalg.eigh(hessian)
    smooth, slope = np.empty(d), np.empty(d)
    for i in range(d):
        smooth[i], slope[i] = soften(values[i], alpha)
    quotient = np.empty((d, d))
    for i in range(d):
        for j in range(d):
            gap = values[i] - values[j]
            if abs(gap) <= 1e-10 * (abs(values[i]) + abs(values[j])) or gap == 0.0:
                quotient[i, j] = slope[i]
            else:
                quotient[i, j] = (smooth[i] - smooth[j]) / gap
    transposed = np.ascontiguousarray(vectors.T)
    derivative = np.empty((d, d, d))
    for k in range(d):
        inner = quotient * (transposed @ np.ascontiguousarray(third[k]) @ vectors)
        derivative[k] = vectors @ inner @ transposed
    return (vectors * smooth) @ transposed, derivative


@njit(cache=True)
def soften(x, alpha):
    """Return x coth(alpha x) and its derivative."""
    t = alpha * x
    if abs(t) < 1e-4:
        return (1.0 + t * t / 3.0) / alpha, 2.0 * t / 3.0
    if abs(t) > 20.0:
        return abs(x), math.copysign(1.0, x)
    tanh, sinh = math.tanh(t), math.sinh(t)
    return x / tanh, 1.0 / tanh - t / (sinh * sinh)
