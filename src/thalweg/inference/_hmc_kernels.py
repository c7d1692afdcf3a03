"""Compiled parts that every Hamiltonian sampler uses, and the static sampler made of them.

A kernel whose first argument is `logdensity` takes it as a first-class function, so that it is
compiled once for all densities and kept on disk; `_density.as_python` runs the same source with a
plain Python callable in its place. The other kernels stay compiled in both cases, so the draws are
the same.

A metric is a matrix with d columns: one row holds the diagonal of the inverse mass matrix, d rows
the whole of it. `root` has the same form; its transpose turns standard normal numbers into
momenta. Points of trajectories lie in arrays (n, 4, d): position, momentum, gradient of the log
density, velocity.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]

KERNEL = {"cache": True, "nogil": True}
# inlined, LLVM removes most of the reference counting, which took a third of the time
INLINE = {"cache": True, "nogil": True, "forceinline": True}

MAX_ENERGY_ERROR = 1000.0
STEP_LIMIT = 1e7
FIRST_ACCEPTANCE = 0.8
GAMMA, T0, KAPPA = 0.05, 10.0, 0.75
WARMUP_LEAPFROG_LIMIT = 1000

# rows of a point
Q, P, G, V = range(4)
# columns of what a transition reports
VALUE, ENERGY, ACCEPTANCE, STEPS, DEPTH, DIVERGING = range(6)
N_STATS = 6
# entries of the step size's state
STEP, LOG_STEP_BAR, H_BAR, MU, COUNT = range(5)


class Chain(NamedTuple):
    """Where a chain is and how it is tuned; kernels change the arrays in place."""

    q: Floats
    gradient: Floats
    value: Floats
    tuning: Floats
    inverse_metric: Floats
    root: Floats
    where: Floats


class StaticOptions(NamedTuple):
    """How long a static trajectory is and how its next state is chosen."""

    integration_time: float
    n_leapfrog: int
    jitter: float
    multinomial: bool


@njit(**KERNEL)
def hmc_block(logdensity, chain, options, adapt, target, rng, samples, stats):
    points = new_points(3, chain.q.size)
    for draw in range(samples.shape[0]):
        step = chain.tuning[STEP]
        n_leapfrog = options.n_leapfrog
        if n_leapfrog == 0:
            n_leapfrog = steps_of_time(options.integration_time, step, adapt)
        if options.jitter > 0.0:
            step *= 1.0 + options.jitter * (2.0 * rng.random() - 1.0)
        energy = start(chain, points, 0, rng)
        if options.multinomial:
            multinomial(logdensity, chain, points, energy, step, n_leapfrog, rng, stats[draw])
        else:
            metropolis(logdensity, chain, points, energy, step, n_leapfrog, rng, stats[draw])
        samples[draw] = chain.q
        if adapt:
            update_step(chain.tuning, stats[draw, ACCEPTANCE], target)


@njit(**KERNEL)
def metropolis(logdensity, chain, points, energy_0, step, n_leapfrog, rng, stats):
    """Go `n_leapfrog` steps from point 0 and accept or refuse the end."""
    value, energy, done, diverging = chain.value[0], energy_0, 0, False
    while done < n_leapfrog and not diverging:
        value, energy = leapfrog_step(
            logdensity, points, 0, 0, step, chain.inverse_metric, chain.where
        )
        diverging = is_divergent(energy - energy_0)
        done += 1
    acceptance = 0.0 if diverging else min_one_exp(energy_0 - energy)
    if rng.random() < acceptance:
        move(chain, points, 0, value)
        energy_0 = energy
    report(stats, chain.value[0], energy_0, acceptance, done, 0, diverging)


@njit(**KERNEL)
def multinomial(logdensity, chain, points, energy_0, step, n_leapfrog, rng, stats):
    """Lay the trajectory at random around point 0 and choose one of it with weight exp(-H)."""
    begin, moving, chosen = 0, 1, 2
    copy_point(points, moving, begin)
    copy_point(points, chosen, begin)
    chosen_value, chosen_energy = chain.value[0], energy_0
    n_backward = int(rng.random() * (n_leapfrog + 1))
    log_total, acceptance, done, diverging = 0.0, 0.0, 0, False
    while done < n_leapfrog and not diverging:
        if done == n_backward:
            copy_point(points, moving, begin)
        signed = -step if done < n_backward else step
        value, energy = leapfrog_step(
            logdensity, points, moving, moving, signed, chain.inverse_metric, chain.where
        )
        done += 1
        diverging = is_divergent(energy - energy_0)
        if not diverging:
            acceptance += min_one_exp(energy_0 - energy)
            log_total, chance = add_weight(log_total, energy_0 - energy)
            if rng.random() < chance:
                copy_point(points, chosen, moving)
                chosen_value, chosen_energy = value, energy
    if diverging:
        chosen_energy = energy_0
    else:
        move(chain, points, chosen, chosen_value)
    report(stats, chain.value[0], chosen_energy, acceptance / done, done, 0, diverging)


@njit(**KERNEL)
def reasonable_step(logdensity, chain, first, rng):
    """Double or halve from `first` until the acceptance of one step crosses 0.8.

    Returns the step and the number of gradients; a step outside [1/STEP_LIMIT**2, STEP_LIMIT]
    ends the search.
    """
    points = new_points(1, chain.q.size)
    step, direction, count = first, 0, 0
    while STEP_LIMIT**-2 < step < STEP_LIMIT:
        energy_0 = start(chain, points, 0, rng)
        _, energy = leapfrog_step(logdensity, points, 0, 0, step, chain.inverse_metric, chain.where)
        count += 1
        error = energy - energy_0
        accepted = not is_divergent(error) and error < -math.log(FIRST_ACCEPTANCE)
        if direction == 0:
            direction = 1 if accepted else -1
        elif accepted != (direction == 1):
            break
        step *= 2.0 if direction == 1 else 0.5
    return step, count


@njit(**KERNEL)
def leapfrog_path(logdensity, chain, points, step, energies):
    energies[0] = measure(points, 0, chain.value[0], chain.inverse_metric)
    for i in range(1, energies.size):
        _, energies[i] = leapfrog_step(
            logdensity, points, 0, 0, step, chain.inverse_metric, chain.where
        )


@njit(**KERNEL)
def euler_path(logdensity, chain, points, step, energies):
    energies[0] = measure(points, 0, chain.value[0], chain.inverse_metric)
    for i in range(1, energies.size):
        add(points, 0, Q, step, V)
        add(points, 0, P, step, G)
        value = evaluate(logdensity, points, 0, chain.where)
        energies[i] = measure(points, 0, value, chain.inverse_metric)


@njit(**INLINE)
def leapfrog_step(logdensity, points, a, b, step, inverse_metric, where):
    """Half a kick, a drift, half a kick from point a to point b (they may be one).

    Returns the log density and the energy there.
    """
    depart(points, a, b, step, inverse_metric)
    value = evaluate(logdensity, points, b, where)
    add(points, b, P, 0.5 * step, G)
    return value, measure(points, b, value, inverse_metric)


@njit(**INLINE)
def evaluate(logdensity, points, a, where):
    """Return the log density at point a, write its gradient, remember where it was asked for."""
    q = points[a, Q]
    copy(where, q)
    value, gradient = logdensity(q)
    if gradient.size != q.size:
        raise ValueError("logdensity returned a gradient of the wrong length")
    for i in range(gradient.size):
        points[a, G, i] = gradient[i]
    return float(value)


@njit(**INLINE)
def depart(points, a, b, step, inverse_metric):
    """Half a kick and a drift."""
    half = 0.5 * step
    if inverse_metric.shape[0] == 1:
        for i in range(points.shape[2]):
            p = points[a, P, i] + half * points[a, G, i]
            points[b, P, i] = p
            points[b, Q, i] = points[a, Q, i] + step * (inverse_metric[0, i] * p)
        return
    for i in range(points.shape[2]):
        points[b, P, i] = points[a, P, i] + half * points[a, G, i]
        points[b, Q, i] = points[a, Q, i]
    multiply(inverse_metric, points[b, P], points[b, V])
    add(points, b, Q, step, V)


@njit(**INLINE)
def measure(points, a, value, inverse_metric):
    """Write the velocity of point a; return its energy."""
    kinetic = 0.0
    if inverse_metric.shape[0] == 1:
        for i in range(points.shape[2]):
            points[a, V, i] = inverse_metric[0, i] * points[a, P, i]
            kinetic += points[a, P, i] * points[a, V, i]
    else:
        multiply(inverse_metric, points[a, P], points[a, V])
        for i in range(points.shape[2]):
            kinetic += points[a, P, i] * points[a, V, i]
    return 0.5 * kinetic - value


@njit(**KERNEL)
def start(chain, points, a, rng):
    """Put point a at the chain's position with a new momentum; return its energy."""
    for i in range(chain.q.size):
        points[a, Q, i] = chain.q[i]
        points[a, G, i] = chain.gradient[i]
    draw_momentum(chain.root, rng, points[a, P])
    return measure(points, a, chain.value[0], chain.inverse_metric)


@njit(**KERNEL)
def move(chain, points, a, value):
    for i in range(chain.q.size):
        chain.q[i] = points[a, Q, i]
        chain.gradient[i] = points[a, G, i]
    chain.value[0] = value


@njit(**KERNEL)
def report(stats, value, energy, acceptance, steps, depth, diverging):
    stats[VALUE] = value
    stats[ENERGY] = energy
    stats[ACCEPTANCE] = acceptance
    stats[STEPS] = steps
    stats[DEPTH] = depth
    stats[DIVERGING] = 1.0 if diverging else 0.0


@njit(**KERNEL)
def draw_momentum(root, rng, p):
    """Write p = root' z with z standard normal."""
    z = np.empty(p.size)
    for i in range(p.size):
        z[i] = rng.standard_normal()
    multiply(root, z, p)


@njit(**KERNEL)
def multiply(matrix, x, v):
    """Write v = matrix' x."""
    if matrix.shape[0] == 1:
        for i in range(x.size):
            v[i] = matrix[0, i] * x[i]
        return
    v[:] = 0.0
    for j in range(x.size):
        for i in range(x.size):
            v[i] += matrix[j, i] * x[j]


@njit(**INLINE)
def is_divergent(error):
    return not (-math.inf < error <= MAX_ENERGY_ERROR)


@njit(**INLINE)
def min_one_exp(x):
    return 1.0 if x >= 0.0 else math.exp(x)


@njit(**INLINE)
def add_weight(log_a, log_b):
    """Return log(a + b) and b / (a + b)."""
    if log_b <= log_a:
        ratio = math.exp(log_b - log_a) if log_a > -math.inf else 0.0
        return log_a + math.log1p(ratio), ratio / (1.0 + ratio)
    ratio = math.exp(log_a - log_b)
    return log_b + math.log1p(ratio), 1.0 / (1.0 + ratio)


@njit(**KERNEL)
def restart_step(tuning, step):
    """Begin dual averaging anew from `step`."""
    tuning[STEP] = step
    tuning[LOG_STEP_BAR] = 0.0
    tuning[H_BAR] = 0.0
    tuning[MU] = math.log(10.0 * step)
    tuning[COUNT] = 0.0


@njit(**KERNEL)
def update_step(tuning, acceptance, target):
    """One step of dual averaging (Hoffman and Gelman 2014, eq. 6)."""
    tuning[COUNT] += 1.0
    m = tuning[COUNT]
    eta = 1.0 / (m + T0)
    tuning[H_BAR] = (1.0 - eta) * tuning[H_BAR] + eta * (target - acceptance)
    log_step = tuning[MU] - tuning[H_BAR] * math.sqrt(m) / GAMMA
    weight = m**-KAPPA
    tuning[LOG_STEP_BAR] = weight * log_step + (1.0 - weight) * tuning[LOG_STEP_BAR]
    tuning[STEP] = math.exp(min(log_step, 700.0))


@njit(**KERNEL)
def steps_of_time(integration_time, step, warming_up):
    ratio = integration_time / step
    if warming_up and ratio > WARMUP_LEAPFROG_LIMIT:
        return WARMUP_LEAPFROG_LIMIT
    return max(1, round(ratio))


@njit(**KERNEL)
def new_points(n, d):
    return np.empty((n, 4, d))


@njit(**KERNEL)
def copy_point(points, to, a):
    for row in range(4):
        for i in range(points.shape[2]):
            points[to, row, i] = points[a, row, i]


@njit(**INLINE)
def copy(to, x):
    for i in range(x.size):
        to[i] = x[i]


@njit(**INLINE)
def add(points, a, row, factor, other):
    """Add `factor` times row `other` of point a to row `row`."""
    for i in range(points.shape[2]):
        points[a, row, i] += factor * points[a, other, i]
