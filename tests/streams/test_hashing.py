from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from thalweg.streams._hashing import (
    check_seed,
    derive_seeds,
    hash_strings,
    mix64,
    tabulate,
    tabulate_round,
    tabulation_tables,
)


@njit
def _mix_all(keys):
    return np.array([mix64(key) for key in keys])


@njit
def _tabulate_all(keys, index, first, derived, second):
    word, characters = tabulate_round(np.uint64(index), first, derived)
    return np.array([tabulate(key, word, characters, first, derived, second) for key in keys])


def test_seeds_are_those_of_splitmix64():
    # Vigna's splitmix64.c with state 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert derive_seeds(1234567, 3).tolist() == expected


def test_two_rounds_of_the_finaliser_are_applied():
    def finalise(z):
        z = (z ^ (z >> 33)) * 0xFF51AFD7ED558CCD % 2**64
        z = (z ^ (z >> 33)) * 0xC4CEB9FE1A85EC53 % 2**64
        return z ^ (z >> 33)

    keys = [0, 1, 12345678901234567890]
    got = _mix_all(np.array(keys, dtype=np.uint64)).tolist()
    assert got == [finalise(finalise(key)) for key in keys]


def test_strings_have_the_published_xxh3_values_of_their_utf8():
    # XXH3 64 of the empty input with seed 0, from the reference implementation.
    assert hash_strings([""])[0] == 0x2D06800538D394C2
    assert hash_strings(["é", "x"])[0] == hash_strings(["é".encode(), "x"])[0]


def test_every_bit_of_a_key_flips_half_of_the_mixed_bits():
    keys = np.random.default_rng(1).integers(0, 2**63, 2000).astype(np.uint64)
    plain = _mix_all(keys)
    for bit in range(64):
        changed = np.bitwise_count(_mix_all(keys ^ (np.uint64(1) << np.uint64(bit))) ^ plain)
        assert abs(changed.mean() - 32) < 5 * 4 / np.sqrt(2000)  # binomial(64, 1/2), 5 sigma


@pytest.mark.parametrize("index", [0, 1, 300, 70_000])
def test_tabulation_is_the_xor_of_its_tables(index):
    first, derived, second = tabulation_tables(5)
    key = 0x0123456789ABCDEF
    characters = [*key.to_bytes(8, "little"), *index.to_bytes(3, "little")]
    word = np.bitwise_xor.reduce([first[i, c] for i, c in enumerate(characters)])
    middle = int(np.bitwise_xor.reduce([derived[i, c] for i, c in enumerate(characters)]))
    word ^= np.bitwise_xor.reduce(
        [second[i, c] for i, c in enumerate(middle.to_bytes(4, "little"))]
    )
    got = _tabulate_all(np.array([key], dtype=np.uint64), index, first, derived, second)
    assert got[0] == word


@pytest.mark.parametrize("seed", [np.random.default_rng(0), None, 1.0, "1"])
def test_a_seed_that_gives_no_sketch_twice_is_refused(seed):
    with pytest.raises(TypeError, match="rng must be an integer"):
        check_seed("rng", seed)
