"""The binary form of sketches: small, documented, checked, and never executed when read.

========= ======================================================================================
bytes     content
========= ======================================================================================
0-3       ``TLWG``
4         version of this frame, 1
5-8       length of the header, unsigned, little-endian
9-        header: a JSON object in UTF-8 with ``kind``, ``shape`` and the sketch's parameters
then      the entries: unsigned 64-bit integers, little-endian, in C order
last 8    XXH3 (64 bits, seed 0) of all bytes before, little-endian
========= ======================================================================================
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

MAGIC = b"TLWG"
VERSION = 1
_HEAD = struct.Struct("<4sBI")
_CHECKSUM = struct.Struct("<Q")


def pack(kind: str, parameters: Mapping[str, Any], entries: NDArray[np.uint64]) -> bytes:
    """Return the frame of a sketch."""
    header = json.dumps({"kind": kind, "shape": entries.shape, **parameters}, sort_keys=True)
    encoded = header.encode()
    body = np.ascontiguousarray(entries, dtype="<u8").tobytes()
    frame = _HEAD.pack(MAGIC, VERSION, len(encoded)) + encoded + body
    return frame + _CHECKSUM.pack(xxh3_64_intdigest(frame))


def unpack(
    data: bytes | bytearray | memoryview, kind: str, parameters: tuple[str, ...]
) -> tuple[dict[str, Any], NDArray[np.uint64]]:
    """Return the parameters and entries of a frame.

    Raises
    ------
    TypeError
        If `data` is not bytes.
    ValueError
        If `data` is not a frame of this kind, is truncated or corrupted.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"data must be bytes, got {type(data).__name__}")
    data = bytes(data)
    if data[:4] != MAGIC:
        raise ValueError(f"data must begin with {MAGIC!r}, got {data[:4]!r}: not a sketch")
    if len(data) < _HEAD.size + _CHECKSUM.size:
        raise ValueError(f"data is truncated: {len(data)} bytes are too few for a sketch")
    _, version, length = _HEAD.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"data must be of version {VERSION}, got version {version}")
    body = data[: -_CHECKSUM.size]
    if _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0] != xxh3_64_intdigest(body):
        raise ValueError("data is corrupted or truncated: its checksum does not match")
    try:
        header = json.loads(body[_HEAD.size : _HEAD.size + length])
        found, shape = header.pop("kind"), tuple(header.pop("shape"))
        if set(header) != set(parameters) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("data holds a header that is not a sketch's") from None
    if found != kind:
        raise ValueError(f"data must hold a {kind!r} sketch, got {found!r}")
    expected = math.prod(shape)
    if len(body) != _HEAD.size + length + 8 * expected:
        raise ValueError(f"data should hold {expected} entries for its shape {shape}")
    entries = np.frombuffer(body, dtype="<u8", offset=_HEAD.size + length)
    return header, entries.astype(np.uint64).reshape(shape)
