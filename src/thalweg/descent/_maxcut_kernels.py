"""Compiled loop of the low-rank coordinate ascent for the MAXCUT relaxation."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Lets sums use vector registers; leaves NaN and infinity alone.
SUMS = {"reassoc", "contract"}


@njit(cache=True, nogil=True, fastmath=SUMS)
def ascend(starts, neighbours, weights, vectors, small, sweeps):
    """Set each vector to minus its neighbours' weighted sum, normalised; sweep after sweep.

    Row i of the weights is ``weights[starts[i]:starts[i + 1]]``, at the columns `neighbours`.
    `vectors` changes in place. Stops after `sweeps`, or after one that gained no more than `small`;
    returns how many were done and what the last one gained. A gain is taken from how far the
    vector moved, which stays exact when the value itself no longer shows it.
    """
    n, rank = vectors.shape
    pull = np.empty(rank)
    done = 0
    gain = math.inf
    while done < sweeps and gain > small:
        gain = 0.0
        for i in range(n):
            for k in range(rank):
                pull[k] = 0.0
            for e in range(starts[i], starts[i + 1]):
                j = neighbours[e]
                weight = weights[e]
                for k in range(rank):
                    pull[k] += weight * vectors[j, k]
            squared = 0.0
            for k in range(rank):
                squared += pull[k] * pull[k]
            if squared > 0.0:
                norm = math.sqrt(squared)
                moved = 0.0
                for k in range(rank):
                    new = -pull[k] / norm
                    moved += (new - vectors[i, k]) ** 2
                    vectors[i, k] = new
                gain += 0.25 * norm * moved
        done += 1
    return done, gain
