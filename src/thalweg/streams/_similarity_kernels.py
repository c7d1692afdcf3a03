"""Loops of similarity sketches: filling, comparing, banding."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from thalweg.streams._hashing import Keys, mix64, seed_at, tabulate, tabulate_round

EMPTY = np.uint64(2**64 - 1)
FRACTION = np.uint64(2**32 - 1)
_BUFFER = 512


@njit(cache=True, nogil=True)
def fast_rows(
    sketches: Keys,
    keys: Keys,
    starts: NDArray[np.int64],
    seed: np.uint64,
    mixing: bool,
    first: Keys,
    derived: NDArray[np.uint32],
    second: Keys,
) -> None:
    """Enter the keys ``keys[starts[i]:starts[i + 1]]`` into row i, round by round.

    An entry is ``(round << 32) | fraction``. A row that is full takes part only in the rounds up to
    its largest entry: later ones could not lower it.
    """
    t = sketches.shape[1]
    buffer = np.empty(_BUFFER, dtype=np.uint64)
    for row in range(sketches.shape[0]):
        sketch = sketches[row]
        items = keys[starts[row] : starts[row + 1]]
        if len(items) == 0:
            continue
        unfilled = 0
        for b in range(t):
            unfilled += sketch[b] == EMPTY
        last = 2 * t - 1 if unfilled else _last_round(sketch)
        i = 0
        while i <= last:
            index = np.uint64(i)
            top = index << np.uint64(32)
            if i >= t and sketch[i - t] < top:
                i += 1
                continue
            round_seed = seed_at(seed, index)
            word, characters = np.uint64(0), np.uint32(0)
            if not mixing:
                word, characters = tabulate_round(index, first, derived)
            newly = 0
            for start in range(0, len(items), _BUFFER):
                size = min(_BUFFER, len(items) - start)
                if mixing:
                    for j in range(size):
                        buffer[j] = mix64(items[start + j] ^ round_seed)
                else:
                    for j in range(size):
                        buffer[j] = tabulate(
                            items[start + j], word, characters, first, derived, second
                        )
                if i < t:
                    newly += _scatter(sketch, buffer, size, top)
                else:
                    newly += _lower(sketch, i - t, buffer, size, top)
            unfilled -= newly
            i += 1
            if unfilled == 0 and (newly > 0 or 8 * len(items) >= t):
                last = _last_round(sketch)


@njit(inline="always")
def _scatter(sketch: Keys, buffer: Keys, size: int, top: np.uint64) -> Any:
    t = np.uint64(len(sketch))
    newly = 0
    for j in range(size):
        h = buffer[j]
        b = ((h >> np.uint64(32)) * t) >> np.uint64(32)
        value = top | (h & FRACTION)
        newly += sketch[b] == EMPTY
        sketch[b] = min(sketch[b], value)
    return newly


@njit(inline="always")
def _lower(sketch: Keys, b: int, buffer: Keys, size: int, top: np.uint64) -> Any:
    newly = np.int64(sketch[b] == EMPTY)
    lowest = sketch[b]
    for j in range(size):
        lowest = min(lowest, top | (buffer[j] & FRACTION))
    sketch[b] = lowest
    return newly


@njit(inline="always")
def _last_round(sketch: Keys) -> Any:
    largest = np.uint64(0)
    for b in range(len(sketch)):
        largest = max(largest, sketch[b])
    return np.int64(largest >> np.uint64(32))


@njit(cache=True, nogil=True)
def minhash_rows(
    sketches: Keys,
    keys: Keys,
    starts: NDArray[np.int64],
    seed: np.uint64,
    mixing: bool,
    first: Keys,
    derived: NDArray[np.uint32],
    second: Keys,
) -> None:
    """Enter keys as `fast_rows` does, into plain MinHash: one hash function an entry."""
    t = sketches.shape[1]
    for row in range(sketches.shape[0]):
        items = keys[starts[row] : starts[row + 1]]
        for i in range(t):
            index = np.uint64(i)
            lowest = sketches[row, i]
            if mixing:
                round_seed = seed_at(seed, index)
                for j in range(len(items)):
                    lowest = min(lowest, mix64(items[j] ^ round_seed))
            else:
                word, characters = tabulate_round(index, first, derived)
                for j in range(len(items)):
                    h = tabulate(items[j], word, characters, first, derived, second)
                    lowest = min(lowest, h)
            sketches[row, i] = lowest


@njit(cache=True, nogil=True)
def one_permutation_rows(
    sketches: Keys,
    keys: Keys,
    starts: NDArray[np.int64],
    seed: np.uint64,
    mixing: bool,
    first: Keys,
    derived: NDArray[np.uint32],
    second: Keys,
) -> None:
    """Enter keys as `fast_rows` does, by one permutation hashing.

    A bin without items borrows from the nearest bin with some, to the left or to the right as
    the bin's own coin says; an entry is ``(distance << 32) | fraction``, distance 0 where it is its
    own.
    """
    t = sketches.shape[1]
    round_seed = seed_at(seed, np.uint64(0))
    coins = seed_at(seed, np.uint64(1))
    word, characters = np.uint64(0), np.uint32(0)
    if not mixing:
        word, characters = tabulate_round(np.uint64(0), first, derived)
    own = np.empty(t, dtype=np.uint64)
    for row in range(sketches.shape[0]):
        items = keys[starts[row] : starts[row + 1]]
        if len(items) == 0:
            continue
        for b in range(t):
            own[b] = sketches[row, b] if sketches[row, b] <= FRACTION else EMPTY
        for j in range(len(items)):
            if mixing:
                h = mix64(items[j] ^ round_seed)
            else:
                h = tabulate(items[j], word, characters, first, derived, second)
            b = ((h >> np.uint64(32)) * np.uint64(t)) >> np.uint64(32)
            own[b] = min(own[b], h & FRACTION)
        for b in range(t):
            source, distance = b, 0
            step = 1 if mix64(coins ^ np.uint64(b)) & np.uint64(1) else t - 1
            while own[source] == EMPTY:
                source = (source + step) % t
                distance += 1
            sketches[row, b] = (np.uint64(distance) << np.uint64(32)) | own[source]


@njit(cache=True, nogil=True)
def jaccard_rows(S: Keys, T: Keys) -> NDArray[np.float64]:
    """Return the fraction of equal entries of every row of S with every row of T."""
    n, m, t = S.shape[0], T.shape[0], S.shape[1]
    result = np.empty((n, m))
    for i in range(n):
        for j in range(m):
            equal = 0
            for b in range(t):
                equal += S[i, b] == T[j, b]
            result[i, j] = equal / t
    return result


@njit(cache=True, nogil=True)
def jaccard_pairs(
    S: Keys, left: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the fraction of equal entries of the rows ``left[i]`` and ``right[i]`` of S."""
    result = np.empty(len(left))
    for i in range(len(left)):
        equal = 0
        for b in range(S.shape[1]):
            equal += S[left[i], b] == S[right[i], b]
        result[i] = equal / S.shape[1]
    return result


@njit(cache=True, nogil=True)
def band_keys(sketches: Keys, bands: int, rows: int) -> Keys:
    """Return a 64-bit key of each band of each sketch, shape (bands, n_sets)."""
    result = np.empty((bands, sketches.shape[0]), dtype=np.uint64)
    for i in range(sketches.shape[0]):
        for band in range(bands):
            key = np.uint64(band)
            for r in range(rows):
                key = mix64(key ^ sketches[i, band * rows + r])
            result[band, i] = key
    return result


@njit(cache=True, nogil=True)
def pairs_of_runs(keys: Keys, members: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pairs of members, the smaller first, whose keys (sorted) are equal: (pairs, 2)."""
    n = len(keys)
    total = 0
    start = 0
    for i in range(1, n + 1):
        if i == n or keys[i] != keys[start]:
            total += (i - start) * (i - start - 1) // 2
            start = i
    pairs = np.empty((total, 2), dtype=np.int64)
    k = 0
    start = 0
    for i in range(1, n + 1):
        if i == n or keys[i] != keys[start]:
            for a in range(start, i):
                for b in range(a + 1, i):
                    pairs[k, 0] = min(members[a], members[b])
                    pairs[k, 1] = max(members[a], members[b])
                    k += 1
            start = i
    return pairs
