"""The hash functions of all sketches: the same on every machine, a new one for each seed.

Integers go through two rounds of a 64-bit xorshift-multiply finaliser (MurmurHash3's); one round
leaves functions whose seeds are xored into the key visibly dependent. Strings and bytes are first
hashed to 64 bits by XXH3. Seeds come from one integer by SplitMix64. Mixed tabulation is the family
for which concentration is proved.

Sources: S. Dahlgaard, M. Knudsen, E. Rotenberg, M. Thorup, "Hashing for statistics over
k-partitions", 2015, arXiv 1411.7191 (mixed tabulation); G. Steele, D. Lea, C. Flood, "Fast
splittable pseudorandom number generators", 2014 (SplitMix64); Y. Collet, XXH3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from thalweg._validation import check_count

Keys = NDArray[np.uint64]

KEY_CHARACTERS = 8
ROUND_CHARACTERS = 3
DERIVED_CHARACTERS = 4
LARGEST_SEED = 2**64 - 1


def check_seed(name: str, value: object) -> int:
    """Return `value` if it is an int in [0, 2^64): a generator would give no sketch twice."""
    return check_count(name, value, at_least=0, at_most=LARGEST_SEED)


def derive_seeds(seed: int, n: int) -> Keys:
    """Return `n` seeds derived from one by SplitMix64.

    Examples
    --------
    >>> [hex(s) for s in derive_seeds(0, 2)]
    ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4']
    """
    return _derive_seeds(np.uint64(seed), n)


def hash_strings(items: Sequence[str | bytes]) -> Keys:
    """Return the XXH3 hashes of strings (as UTF-8) and bytes: equal text has equal keys.

    Examples
    --------
    >>> bool(hash_strings(["day"])[0] == hash_strings([b"day"])[0])
    True
    """
    encoded: Iterable[bytes]
    if all(issubclass(kind, str) for kind in set(map(type, items))):
        encoded = map(str.encode, items)  # type: ignore[arg-type]
    else:
        encoded = (item.encode() if isinstance(item, str) else item for item in items)
    return np.fromiter(map(xxh3_64_intdigest, encoded), dtype=np.uint64, count=len(items))


def tabulation_tables(seed: int) -> tuple[Keys, NDArray[np.uint32], Keys]:
    """Return the tables of one mixed tabulation hash function of a key and a round.

    Returns
    -------
    first, derived, second : ndarray, shapes (11, 256), (11, 256), (4, 256)
        Words for the characters of key and round, their derived characters, words for these.
    """
    characters = KEY_CHARACTERS + ROUND_CHARACTERS
    words = derive_seeds(seed, (2 * characters + DERIVED_CHARACTERS) * 256).reshape(-1, 256)
    first, derived, second = np.split(words, [characters, 2 * characters])
    return first, (derived >> np.uint64(32)).astype(np.uint32), second


@njit(inline="always")
def mix64(key: np.uint64) -> np.uint64:
    """Two rounds of the finaliser: a bijection of 64-bit words."""
    return _finalise(_finalise(key))


@njit(inline="always")
def seed_at(seed: np.uint64, index: np.uint64) -> np.uint64:
    """Return the seed that SplitMix64 derives at `index`."""
    z = seed + (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(inline="always")
def tabulate(
    key: np.uint64,
    word: np.uint64,
    characters: np.uint32,
    first: Keys,
    derived: NDArray[np.uint32],
    second: Keys,
) -> np.uint64:
    """Hash a key by mixed tabulation; `word` and `characters` are what the round contributes."""
    for i in range(KEY_CHARACTERS):
        c = (key >> np.uint64(8 * i)) & np.uint64(255)
        word ^= first[i, c]
        characters ^= derived[i, c]
    for i in range(DERIVED_CHARACTERS):
        word ^= second[i, (characters >> np.uint32(8 * i)) & np.uint32(255)]
    return word


@njit(inline="always")
def tabulate_round(
    index: np.uint64, first: Keys, derived: NDArray[np.uint32]
) -> tuple[np.uint64, np.uint32]:
    """Return what the characters of a round's number contribute to `tabulate`."""
    word, characters = np.uint64(0), np.uint32(0)
    for i in range(ROUND_CHARACTERS):
        c = (index >> np.uint64(8 * i)) & np.uint64(255)
        word ^= first[KEY_CHARACTERS + i, c]
        characters ^= derived[KEY_CHARACTERS + i, c]
    return word, characters


@njit(inline="always")
def _finalise(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    z = (z ^ (z >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return z ^ (z >> np.uint64(33))


@njit(cache=True, nogil=True)
def _derive_seeds(seed: np.uint64, n: int) -> Keys:
    seeds = np.empty(n, dtype=np.uint64)
    for i in range(n):
        seeds[i] = seed_at(seed, np.uint64(i))
    return seeds
