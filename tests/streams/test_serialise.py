from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from thalweg.streams._serialise import pack, unpack

ENTRIES = np.array([[1, 2**64 - 1, 3]], dtype=np.uint64)
FRAME = pack("toy", {"rng": 7}, ENTRIES)


def frame(header: bytes, body: bytes = b"", version: int = 1) -> bytes:
    data = struct.pack("<4sBI", b"TLWG", version, len(header)) + header + body
    return data + struct.pack("<Q", xxh3_64_intdigest(data))


def test_what_is_packed_is_unpacked():
    parameters, entries = unpack(FRAME, "toy", ("rng",))
    assert parameters == {"rng": 7}
    np.testing.assert_array_equal(entries, ENTRIES)
    entries[0] = 0  # a copy, to be written to


def test_the_frame_is_the_documented_one():
    header = json.dumps({"kind": "toy", "rng": 7, "shape": [1, 3]}, sort_keys=True).encode()
    assert frame(header, ENTRIES.astype("<u8").tobytes()) == FRAME


@given(st.integers(0, len(FRAME) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused(position, change):
    data = bytearray(FRAME)
    data[position] ^= change
    with pytest.raises(ValueError, match="data"):
        unpack(data, "toy", ("rng",))


@pytest.mark.parametrize("length", range(len(FRAME)))
def test_a_truncated_frame_is_refused(length):
    with pytest.raises(ValueError, match="data"):
        unpack(FRAME[:length], "toy", ("rng",))


def test_more_bytes_than_the_frame_are_refused():
    with pytest.raises(ValueError, match="checksum"):
        unpack(FRAME + b"\0", "toy", ("rng",))


def test_another_kind_is_named():
    with pytest.raises(ValueError, match="must hold a 'tally' sketch, got 'toy'"):
        unpack(FRAME, "tally", ("rng",))


def test_a_later_version_is_named():
    with pytest.raises(ValueError, match="must be of version 1, got version 2"):
        unpack(frame(b"{}", version=2), "toy", ())


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[]",
        b"\xff",
        b'{"kind": "toy"}',
        b'{"kind": "toy", "shape": [-1]}',
        b'{"kind": "toy", "shape": 3}',
        b'{"kind": "toy", "shape": [0], "other": 1}',
    ],
)
def test_a_header_that_is_not_a_sketch_s_is_refused(header):
    with pytest.raises(ValueError, match="header"):
        unpack(frame(header), "toy", ())


@pytest.mark.parametrize("shape", [[2], [2**62], [0]])
def test_entries_must_fill_the_shape(shape):
    header = json.dumps({"kind": "toy", "shape": shape}).encode()
    with pytest.raises(ValueError, match="entries for its shape"):
        unpack(frame(header, b"\0" * 8), "toy", ())


def test_what_is_not_bytes_is_refused():
    with pytest.raises(TypeError, match="data must be bytes, got str"):
        unpack("TLWG", "toy", ())
