"""Compiled loops of the Bradley-Terry and Plackett-Luce iterations.

Games are held as rows, one a player: for every opponent the weight won against it, lost to it
and, with ties, tied with it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Lets sums over opponents use vector registers; leaves NaN and infinity alone.
SUMS = {"reassoc", "contract"}


@njit(cache=True)
def collect_games(n, first, second, forward, backward, drawn):
    """Sort games into rows by player and merge those against the same opponent.

    `forward`, `backward` and `drawn` weigh a win of `first`, a win of `second` and a tie; without
    ties `drawn` is empty.
    """
    start = np.zeros(n + 1, dtype=np.int64)
    for g in range(first.size):
        start[first[g] + 1] += 1
        start[second[g] + 1] += 1
    for i in range(n):
        start[i + 1] += start[i]
    size = start[n]
    opponent = np.empty(size, dtype=np.uint32)
    won = np.empty(size)
    lost = np.empty(size)
    tied = np.empty(size if drawn.size else 0)
    fill = start[:n].copy()
    for g in range(first.size):
        i, j = first[g], second[g]
        a, b = fill[i], fill[j]
        fill[i] += 1
        fill[j] += 1
        opponent[a], won[a], lost[a] = j, forward[g], backward[g]
        opponent[b], won[b], lost[b] = i, backward[g], forward[g]
        if drawn.size:
            tied[a] = tied[b] = drawn[g]

    seen = np.full(n, -1, dtype=np.int64)
    end = 0
    for i in range(n):
        row_start, row_end = start[i], start[i + 1]
        start[i] = end
        for k in range(row_start, row_end):
            j = opponent[k]
            if seen[j] >= start[i]:
                at = seen[j]
                won[at] += won[k]
                lost[at] += lost[k]
                if drawn.size:
                    tied[at] += tied[k]
            else:
                seen[j] = end
                opponent[end], won[end], lost[end] = j, won[k], lost[k]
                if drawn.size:
                    tied[end] = tied[k]
                end += 1
    start[n] = end
    return start, opponent[:end], won[:end], lost[:end], tied[: end if drawn.size else 0]


@njit(cache=True)
def reaches_all(start, opponent, won):
    """Whether player 0 reaches everybody along the opponents with positive weight."""
    n = start.size - 1
    reached = np.zeros(n, dtype=np.bool_)
    stack = np.empty(n, dtype=np.int64)
    stack[0] = 0
    reached[0] = True
    waiting = found = 1
    while waiting and found < n:
        waiting -= 1
        i = stack[waiting]
        for k in range(start[i], start[i + 1]):
            j = opponent[k]
            if won[k] > 0 and not reached[j]:
                reached[j] = True
                stack[waiting] = j
                waiting += 1
                found += 1
    return found == n


@njit(cache=True)
def run_sweeps(
    strength, tie, start, opponent, won, lost, tied, alpha, prior, accelerate, tol, max_sweeps
):
    """Sweep cyclically through the players until the strengths settle.

    `strength` and `tie` (one number) are updated in place; where they would leave the positive
    finite numbers they are put back to the last sweep's.

    Returns
    -------
    sweeps, change, shift
        Sweeps done; the last one's change (NaN where it had to be undone); what it added to every
        log strength after the players' own updates.
    """
    n = strength.size
    before = np.empty(n)
    root = np.sqrt(strength)
    change = np.inf
    shift = 0.0
    for sweep in range(1, max_sweeps + 1):
        before[:] = strength
        tie_before = tie[0]
        for i in range(n):
            if tied.size:
                up, mine, theirs = _sums_with_ties(
                    i, root, strength, tie[0], start, opponent, won, lost, tied
                )
            else:
                up, mine, theirs = _sums(i, strength, start, opponent, won, lost)
            against_prior = prior / (strength[i] + 1.0)
            above = up + alpha * strength[i] * mine + (alpha * strength[i] + 1.0) * against_prior
            below = alpha * mine + theirs + (alpha + 1.0) * against_prior
            if below > 0:
                strength[i] = above / below
                root[i] = math.sqrt(strength[i])
        if tied.size:
            tie[0] = _updated_tie(root, strength, tie[0], start, opponent, won, lost, tied)
        shift = _shift_strengths(strength, prior, accelerate)
        change = _change(before, strength, tie_before, tie[0])
        if not math.isfinite(change):
            strength[:] = before
            tie[0] = tie_before
            return sweep, np.nan, 0.0
        if change < tol:
            return sweep, change, shift
        if shift != 0.0:
            root[:] = np.sqrt(strength)
    return max_sweeps, change, shift


@njit(cache=True)
def log_likelihood(strength, tie, start, opponent, won, lost, tied):
    """Return the log-likelihood and its gradient in the log strengths."""
    n = strength.size
    total = 0.0
    gradient = np.zeros(n)
    log_strength = np.log(strength)
    log_tie = math.log(2.0 * tie) if tie > 0 else 0.0
    for i in range(n):
        for k in range(start[i], start[i + 1]):
            j = opponent[k]
            if j < i:
                continue
            draws = tied[k] if tied.size else 0.0
            games = won[k] + lost[k] + draws
            ahead = log_strength[i] - log_strength[j]
            stronger, weaker = (i, j) if ahead >= 0 else (j, i)
            wins, losses = (won[k], lost[k]) if ahead >= 0 else (lost[k], won[k])
            ratio = strength[weaker] / strength[stronger]
            draw = tie * math.sqrt(ratio)
            others = ratio + 2.0 * draw
            total -= games * math.log1p(others) + (losses + draws / 2.0) * abs(ahead)
            total += draws * log_tie
            surplus = wins + draws / 2.0 - games * (1.0 + draw) / (1.0 + others)
            gradient[stronger] += surplus
            gradient[weaker] -= surplus
    return total, gradient


@njit(cache=True)
def run_ranking_sweeps(
    strength, items, offsets, weights, place_start, places, prior, tol, max_sweeps
):
    """Sweep cyclically through the players of rankings; as `run_sweeps`.

    Ranking r is ``items[offsets[r]:offsets[r + 1]]``, best first; `places` lists, player by
    player, the rankings a player is in and its position there.
    """
    n = strength.size
    before = np.empty(n)
    remaining = np.empty(items.size)
    change = np.inf
    shift = 0.0
    for sweep in range(1, max_sweeps + 1):
        before[:] = strength
        for r in range(offsets.size - 1):
            total = 0.0
            for k in range(offsets[r + 1] - 1, offsets[r] - 1, -1):
                total += strength[items[k]]
                remaining[k] = total
        for i in range(n):
            against_prior = prior / (strength[i] + 1.0)
            above = below = against_prior
            for k in range(place_start[i], place_start[i + 1]):
                r, place = places[k, 0], places[k, 1]
                if place + 1 < offsets[r + 1]:
                    above += weights[r] * remaining[place + 1] / remaining[place]
                for earlier in range(offsets[r], place):
                    below += weights[r] / remaining[earlier]
            if below > 0:
                strength[i] = above / below
            for k in range(place_start[i], place_start[i + 1]):
                r, place = places[k, 0], places[k, 1]
                total = remaining[place + 1] if place + 1 < offsets[r + 1] else 0.0
                for at in range(place, offsets[r] - 1, -1):
                    total += strength[items[at]]
                    remaining[at] = total
        shift = _shift_strengths(strength, prior, True)
        change = _change(before, strength, 0.0, 0.0)
        if not math.isfinite(change):
            strength[:] = before
            return sweep, np.nan, 0.0
        if change < tol:
            return sweep, change, shift
    return max_sweeps, change, shift


@njit(cache=True)
def ranking_log_likelihood(strength, items, offsets, weights):
    """Return the log-likelihood of rankings and its gradient in the log strengths."""
    total = 0.0
    gradient = np.zeros(strength.size)
    remaining = np.empty(items.size)
    for r in range(offsets.size - 1):
        last = offsets[r + 1] - 1
        left = strength[items[last]]
        for k in range(last - 1, offsets[r] - 1, -1):
            left += strength[items[k]]
            remaining[k] = left
            total += weights[r] * math.log(strength[items[k]] / left)
            gradient[items[k]] += weights[r]
        chances = 0.0
        for k in range(offsets[r], last + 1):
            if k < last:
                chances += weights[r] / remaining[k]
            gradient[items[k]] -= strength[items[k]] * chances
    return total, gradient


@njit(cache=True)
def list_places(n, items, offsets):
    """Return for every player, one after another, the rankings it is in and where (an index)."""
    place_start = np.zeros(n + 1, dtype=np.int64)
    for item in items:
        place_start[item + 1] += 1
    for i in range(n):
        place_start[i + 1] += place_start[i]
    fill = place_start[:n].copy()
    places = np.empty((items.size, 2), dtype=np.int64)
    for r in range(offsets.size - 1):
        for k in range(offsets[r], offsets[r + 1]):
            at = fill[items[k]]
            fill[items[k]] += 1
            places[at, 0] = r
            places[at, 1] = k
    return place_start, places


@njit(cache=True)
def first_repeat(n, items, offsets):
    """Return the first ranking that names a player twice, or -1."""
    seen = np.full(n, -1, dtype=np.int64)
    for r in range(offsets.size - 1):
        for k in range(offsets[r], offsets[r + 1]):
            if seen[items[k]] == r:
                return r
            seen[items[k]] = r
    return -1


@njit(cache=True, fastmath=SUMS)
def _sums(i, strength, start, opponent, won, lost):
    """Return sum w_ij p_j/(p_i+p_j), sum w_ij/(p_i+p_j) and sum w_ji/(p_i+p_j)."""
    own = strength[i]
    up = mine = theirs = 0.0
    for k in range(start[i], start[i + 1]):
        other = strength[opponent[k]]
        inverse = 1.0 / (own + other)
        up += won[k] * other * inverse
        mine += won[k] * inverse
        theirs += lost[k] * inverse
    return up, mine, theirs


@njit(cache=True, fastmath=SUMS)
def _sums_with_ties(i, root, strength, tie, start, opponent, won, lost, tied):
    """Return the three sums of `_sums` for Davidson's model, where half a tie is half a win."""
    own = strength[i]
    scale = tie * root[i]
    up = mine = theirs = 0.0
    for k in range(start[i], start[i + 1]):
        other = strength[opponent[k]]
        draw = scale * root[opponent[k]]
        inverse = 1.0 / (own + other + 2.0 * draw)
        half = 0.5 * tied[k]
        up += (won[k] + half) * (other + draw) * inverse
        mine += (won[k] + half) * (own + draw) * inverse
        theirs += (lost[k] + half) * (own + draw) * inverse
    return up, mine / own, theirs / own


@njit(cache=True, fastmath=SUMS)
def _updated_tie(root, strength, tie, start, opponent, won, lost, tied):
    above = below = 0.0
    for i in range(strength.size):
        for k in range(start[i], start[i + 1]):
            j = opponent[k]
            pair = strength[i] + strength[j]
            both = 2.0 * root[i] * root[j]
            inverse = 1.0 / (pair + tie * both)
            above += tied[k] * pair * inverse
            below += (won[k] + lost[k]) * both * inverse
    return above / below


@njit(cache=True)
def _shift_strengths(strength, prior, accelerate):
    """Fix the common scale: geometric mean 1, or with a prior the scale it likes best.

    Each step log1p(|g|/h) stops short of the maximum (the curvature h changes by at most a factor
    exp(step)), so no step lowers the posterior.
    """
    shift = 0.0
    if prior == 0.0:
        for p in strength:
            shift -= math.log(p)
        shift /= strength.size
    elif accelerate:
        for _ in range(3):
            scale = math.exp(shift)
            slope = curvature = 0.0
            for p in strength:
                chance = p * scale / (1.0 + p * scale)
                slope += 1.0 - 2.0 * chance
                curvature += 2.0 * chance * (1.0 - chance)
            if curvature > 0.0:
                step = math.log1p(abs(slope) / curvature)
                shift += step if slope > 0 else -step
    if shift != 0.0:
        strength *= math.exp(shift)
    return shift


@njit(cache=True)
def _change(before, after, tie_before, tie_after):
    """Return the root mean square change of the chance to beat strength 1 (the tie's if more)."""
    total = 0.0
    for k in range(before.size):
        if not 0.0 < after[k] < np.inf:
            return np.nan
        difference = after[k] / (after[k] + 1.0) - before[k] / (before[k] + 1.0)
        total += difference * difference
    tie_change = abs(tie_after / (tie_after + 1.0) - tie_before / (tie_before + 1.0))
    return max(math.sqrt(total / before.size), tie_change)
