"""The no-U-turn sampler's transition, compiled.

A trajectory doubles until it turns back. Each doubling is a balanced binary tree of leapfrog
steps, built without recursion: finished subtrees lie on a stack, and whenever the top two are of
one size they are joined, as a binary counter carries. Row 0 of the stack is the whole trajectory.
A subtree names its two ends and the point it proposes; a point that no subtree names is free.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from thalweg.inference._hmc_kernels import (
    ACCEPTANCE,
    INLINE,
    KERNEL,
    STEP,
    P,
    Q,
    V,
    add_weight,
    is_divergent,
    leapfrog_step,
    min_one_exp,
    move,
    new_points,
    report,
    start,
    update_step,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class NutsOptions(NamedTuple):
    """How far a trajectory may grow, and which variant ends it and chooses from it."""

    max_depth: int
    euclidean: bool
    by_slice: bool


class Stack(NamedTuple):
    """Points with their levels and number of uses; and subtrees, one a row of the others."""

    points: Floats
    levels: Floats
    uses: Integers
    tree: Integers
    log_weight: Floats
    rho: Floats


# of a point
VALUE, ENERGY = 0, 1
# of a subtree
FIRST, LAST, PROPOSAL, SIZE = range(4)


@njit(**KERNEL)
def nuts_block(logdensity, chain, options, adapt, target, rng, samples, stats):
    stack = new_stack(options.max_depth + 1, chain.q.size)
    for draw in range(samples.shape[0]):
        transition(logdensity, chain, options, stack, rng, stats[draw])
        samples[draw] = chain.q
        if adapt:
            update_step(chain.tuning, stats[draw, ACCEPTANCE], target)


@njit(**KERNEL)
def transition(logdensity, chain, options, stack, rng, stats):
    points, levels, uses, tree, log_weight, rho = stack
    uses[:] = 0
    energy_0 = start(chain, points, 0, rng)
    levels[0, VALUE], levels[0, ENERGY], log_weight[0] = chain.value[0], energy_0, 0.0
    push(points, uses, tree, rho, 0, 0)
    log_slice = math.log(1.0 - rng.random()) if options.by_slice else -math.inf

    depth, steps, acceptance, growing, diverging = 0, 0, 0.0, True, False
    forward = True
    while growing and depth < options.max_depth:
        if (rng.random() < 0.5) != forward:
            forward = not forward
            tree[0, FIRST], tree[0, LAST] = tree[0, LAST], tree[0, FIRST]
        valid, diverging, new_steps, new_acceptance = extend(
            logdensity, chain, options, stack, forward, depth, energy_0, log_slice, rng
        )
        steps += new_steps
        acceptance += new_acceptance
        if not valid:
            break
        choose(uses, tree, log_weight, 0, True, rng.random())
        growing = join(points, uses, tree, rho, 0, forward, options.euclidean)
        depth += 1
    drawn = tree[0, PROPOSAL]
    move(chain, points, drawn, levels[drawn, VALUE])
    energy = levels[drawn, ENERGY]
    report(stats, chain.value[0], energy, acceptance / steps, steps, depth, diverging)


@njit(**KERNEL)
def extend(logdensity, chain, options, stack, forward, depth, energy_0, log_slice, rng):
    """Build a subtree of 2^depth points beyond the last in row 1, unless it ends by itself.

    Returns whether it is whole, whether it diverged, its steps, and the sum of acceptances.
    """
    points, levels, uses, tree, log_weight, rho = stack
    inverse_metric, where = chain.inverse_metric, chain.where
    step = chain.tuning[STEP] if forward else -chain.tuning[STEP]
    acceptance, top, end = 0.0, 0, tree[0, LAST]
    for leaf in range(1 << depth):
        new = free_point(uses)
        value, energy = leapfrog_step(logdensity, points, end, new, step, inverse_metric, where)
        weight = energy_0 - energy
        if is_divergent(-weight):
            return False, True, leaf + 1, acceptance
        acceptance += min_one_exp(weight)
        if options.by_slice:
            weight = 0.0 if weight >= log_slice else -math.inf
        top += 1
        levels[new, VALUE], levels[new, ENERGY], log_weight[top] = value, energy, weight
        push(points, uses, tree, rho, top, new)
        while top > 1 and tree[top, SIZE] == tree[top - 1, SIZE]:
            top -= 1
            choose(uses, tree, log_weight, top, False, rng.random())
            if not join(points, uses, tree, rho, top, forward, options.euclidean):
                return False, False, leaf + 1, acceptance
        end = new
    return True, False, 1 << depth, acceptance


@njit(**INLINE)
def free_point(uses):
    point = 0
    while uses[point] > 0:
        point += 1
    return point


@njit(**INLINE)
def push(points, uses, tree, rho, row, point):
    """Make `row` the subtree of this one point."""
    uses[point] = 3
    tree[row, FIRST] = tree[row, LAST] = tree[row, PROPOSAL] = point
    tree[row, SIZE] = 1
    for i in range(rho.shape[1]):
        rho[row, i] = points[point, P, i]


@njit(**INLINE)
def choose(uses, tree, log_weight, row, biased, uniform):
    """Choose between the proposals of `row` and row + 1, and add their weights."""
    log_old, log_new = log_weight[row], log_weight[row + 1]
    log_weight[row], chance = add_weight(log_old, log_new)
    if biased:
        chance = min_one_exp(log_new - log_old)
    if uniform < chance:
        tree[row, PROPOSAL], tree[row + 1, PROPOSAL] = tree[row + 1, PROPOSAL], tree[row, PROPOSAL]
    uses[tree[row + 1, PROPOSAL]] -= 1


@njit(**INLINE)
def join(points, uses, tree, rho, row, forward, euclidean):
    """Join row + 1 to `row`; return False where the trajectory has turned."""
    other = row + 1
    if euclidean:
        growing = ends_move_apart(points, tree, row, forward)
    else:
        growing = momentum_goes_on(points, tree, rho, row)
    uses[tree[row, LAST]] -= 1
    uses[tree[other, FIRST]] -= 1
    tree[row, LAST] = tree[other, LAST]
    tree[row, SIZE] += tree[other, SIZE]
    for i in range(rho.shape[1]):
        rho[row, i] += rho[other, i]
    return growing


@njit(**INLINE)
def momentum_goes_on(points, tree, rho, a):
    """The generalised criterion over the joined trajectory and across the join."""
    b = a + 1
    first, before, after, last = tree[a, FIRST], tree[a, LAST], tree[b, FIRST], tree[b, LAST]
    at_first, at_last = 0.0, 0.0
    left_first, left_last, right_first, right_last = 0.0, 0.0, 0.0, 0.0
    for i in range(rho.shape[1]):
        whole = rho[a, i] + rho[b, i]
        at_first += points[first, V, i] * whole
        at_last += points[last, V, i] * whole
    if tree[a, SIZE] == 1:
        return at_first > 0.0 and at_last > 0.0
    for i in range(rho.shape[1]):
        left = rho[a, i] + points[after, P, i]
        right = points[before, P, i] + rho[b, i]
        left_first += points[first, V, i] * left
        left_last += points[after, V, i] * left
        right_first += points[before, V, i] * right
        right_last += points[last, V, i] * right
    return (
        min(at_first, at_last) > 0.0
        and min(left_first, left_last) > 0.0
        and min(right_first, right_last) > 0.0
    )


@njit(**KERNEL)
def ends_move_apart(points, tree, a, forward):
    """The original criterion: the line between the ends still grows at both."""
    first, last = tree[a, FIRST], tree[a + 1, LAST]
    at_first, at_last = 0.0, 0.0
    for i in range(points.shape[2]):
        span = points[last, Q, i] - points[first, Q, i]
        at_first += span * points[first, P, i]
        at_last += span * points[last, P, i]
    return min(at_first, at_last) > 0.0 if forward else max(at_first, at_last) < 0.0


@njit(**KERNEL)
def new_stack(rows, d):
    n_points = 3 * rows + 1
    return Stack(
        new_points(n_points, d),
        np.empty((n_points, 2)),
        np.zeros(n_points, np.int64),
        np.empty((rows, 4), np.int64),
        np.empty(rows),
        np.empty((rows, d)),
    )
