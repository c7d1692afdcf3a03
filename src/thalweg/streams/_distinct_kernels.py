"""Loops that fill the registers of a distinct-count sketch."""

from __future__ import annotations

import numpy as np
from numba import njit

from thalweg.streams._hashing import Keys, mix64

_BUFFER = 512


@njit(cache=True, nogil=True)
def fill_one(registers: Keys, keys: Keys, seed: np.uint64, index_bits: int) -> None:
    """Enter each key into the register that its high bits name: the maximum of the rest plus 1."""
    shift = np.uint64(64 - index_bits)
    mask = (np.uint64(1) << shift) - np.uint64(1)
    buffer = np.empty(_BUFFER, dtype=np.uint64)
    for start in range(0, len(keys), _BUFFER):
        size = min(_BUFFER, len(keys) - start)
        for j in range(size):
            buffer[j] = mix64(keys[start + j] ^ seed)
        for j in range(size):
            h = buffer[j]
            value = (h & mask) + np.uint64(1)
            if value > registers[h >> shift]:
                registers[h >> shift] = value


@njit(cache=True, nogil=True)
def fill_all(registers: Keys, keys: Keys, seeds: Keys) -> None:
    """Enter each key into every register, by hash functions of their own."""
    for r in range(len(registers)):
        largest = registers[r]
        for j in range(len(keys)):
            value = (mix64(keys[j] ^ seeds[r]) >> np.uint64(1)) + np.uint64(1)
            largest = max(largest, value)
        registers[r] = largest
