"""What people have, as blocks of 64-bit keys: arrays, Arrow columns, iterables, files by lines.

Nothing is held but one block, so a stream of any length passes in constant memory.
"""

from __future__ import annotations

import operator
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_intdigest

from thalweg._optional import MissingExtraError
from thalweg.data import open_binary
from thalweg.streams._hashing import Keys, hash_strings

BLOCK_ITEMS = 1 << 16
BLOCK_BYTES = 1 << 20
IN_FLIGHT = 32  # blocks given to an executor ahead of what has been merged

T = TypeVar("T")
R = TypeVar("R")


def key_blocks(items: Any, *, name: str = "items") -> Iterator[Keys]:
    """Yield the items of a stream as blocks of 64-bit keys.

    Parameters
    ----------
    items : array, Arrow array, iterable of int, str or bytes, pathlib.Path or open file
        Integers >= 0 are their own keys; strings and bytes are hashed. A path is read by lines
        (gzip and bzip2 are unpacked, ``Path("-")`` is standard input), and so is an open file; a
        line's end is not part of it. Missing entries of an Arrow column are left out. An array is
        checked as a whole before its first block.
    name : str, default "items"
        Name of the argument, for errors.

    Yields
    ------
    ndarray of uint64
        A block; it may share memory with `items`.

    Raises
    ------
    TypeError
        If `items` is a single string or cannot be iterated.
    ValueError
        If an item is negative, not an integer, or of a type that has no key.
    """
    if isinstance(items, np.ndarray):
        return _array_blocks(items, name)
    if isinstance(items, (str, bytes, bytearray)):
        raise TypeError(
            f"{name} must be a collection, got a single {type(items).__name__}; "
            "give [item], or pathlib.Path(...) for a file"
        )
    if isinstance(items, Path):
        return _path_blocks(items)
    if hasattr(items, "readline"):
        return _line_blocks(items, name)
    if _is_arrow(items):
        return _arrow_blocks(items, name)
    if hasattr(items, "__array__"):
        return _array_blocks(np.asarray(items), name)
    if isinstance(items, range):
        return _range_blocks(items, name)
    if isinstance(items, Iterable):
        return _iterable_blocks(items, name)
    raise TypeError(
        f"{name} must be an array, an iterable of int, str or bytes, a path or an open file, "
        f"got {type(items).__name__}"
    )


def map_blocks(
    function: Callable[[T], R], blocks: Iterable[T], executor: Executor | None
) -> Iterator[R]:
    """Yield ``function(block)`` in order, computed here or by an executor.

    At most `IN_FLIGHT` blocks are with the executor at a time, so `blocks` may be endless.
    """
    if executor is None:
        yield from map(function, blocks)
        return
    waiting: deque[Future[R]] = deque()
    try:
        for block in blocks:
            if len(waiting) == IN_FLIGHT:
                yield waiting.popleft().result()
            waiting.append(executor.submit(function, block))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def check_keys(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of integers >= 0; ValueError otherwise."""
    if array.size == 0:
        return array.astype(np.uint64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers >= 0 or strings, got {array.dtype}")
    if array.dtype.kind == "i" and array.min() < 0:
        raise ValueError(f"{name} must be integers >= 0, got {array.min()}")
    return array


def _array_blocks(array: NDArray[Any], name: str) -> Iterator[Keys]:
    flat = array.reshape(-1)
    if flat.dtype.kind in "OUST":
        return _iterable_blocks(flat, name)
    return _integer_blocks(check_keys(name, flat))


def _integer_blocks(flat: NDArray[Any]) -> Iterator[Keys]:
    if flat.dtype in (np.int64, np.uint64) and flat.flags.c_contiguous and flat.dtype.isnative:
        yield flat.view(np.uint64)
        return
    for start in range(0, len(flat), BLOCK_ITEMS):
        yield flat[start : start + BLOCK_ITEMS].astype(np.uint64)


def _range_blocks(items: range, name: str) -> Iterator[Keys]:
    if items and min(items[0], items[-1]) < 0:
        raise ValueError(f"{name} must be integers >= 0, got {min(items[0], items[-1])}")
    for start in range(0, len(items), BLOCK_ITEMS):
        part = items[start : start + BLOCK_ITEMS]
        yield np.fromiter(part, dtype=np.uint64, count=len(part))


def _iterable_blocks(items: Iterable[Any], name: str) -> Iterator[Keys]:
    iterator = iter(items)
    while block := list(islice(iterator, BLOCK_ITEMS)):
        yield _keys_of_list(block, name)


def _keys_of_list(block: list[Any], name: str) -> Keys:
    kinds = set(map(type, block))
    texts = {kind for kind in kinds if issubclass(kind, (str, bytes, bytearray))}
    if kinds == texts:
        return hash_strings(block)
    odd = [k for k in kinds - texts if not issubclass(k, Integral) or issubclass(k, bool)]
    if odd:
        names = ", ".join(sorted(kind.__name__ for kind in odd))
        raise ValueError(f"{name} must be integers >= 0, strings or bytes, got {names}")
    if texts:
        keys = np.empty(len(block), dtype=np.uint64)
        is_text = np.fromiter((type(item) in texts for item in block), bool, len(block))
        keys[is_text] = hash_strings([item for item in block if type(item) in texts])
        keys[~is_text] = _keys_of_list([item for item in block if type(item) not in texts], name)
        return keys
    try:
        return np.fromiter(map(operator.index, block), dtype=np.uint64, count=len(block))
    except OverflowError:
        wrong = next(item for item in block if not 0 <= item < 2**64)
        raise ValueError(f"{name} must be integers >= 0 and < 2^64, got {wrong}") from None


def _is_arrow(items: Any) -> bool:
    if not (hasattr(items, "__arrow_c_array__") or hasattr(items, "__arrow_c_stream__")):
        return False
    return "pyarrow" in sys.modules or not hasattr(items, "__array__")


def _arrow_blocks(items: Any, name: str) -> Iterator[Keys]:
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtraError("dask") from None
    column = items if isinstance(items, pa.ChunkedArray) else None
    if column is None and hasattr(items, "__arrow_c_stream__"):
        column = pa.chunked_array(items)
    chunks = [pa.array(items)] if column is None else column.chunks
    types = {chunk.type for chunk in chunks}
    for kind in types:
        _check_arrow_type(pa.types, kind, name)
    integers = [_arrow_integers(chunk) for chunk in chunks if pa.types.is_integer(chunk.type)]
    for part in integers:
        check_keys(name, part)
    if integers:
        return (block for part in integers for block in _integer_blocks(part))
    return (block for chunk in chunks for block in _arrow_texts(pa, chunk, name))


def _check_arrow_type(types: Any, kind: Any, name: str) -> None:
    value = kind.value_type if types.is_dictionary(kind) else kind
    known = (
        types.is_integer, types.is_string, types.is_large_string, types.is_string_view,
        types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary,
        types.is_null,
    )  # fmt: skip
    if not any(is_kind(value) for is_kind in known):
        raise ValueError(f"{name} must be a column of integers, strings or bytes, got {kind}")


def _arrow_integers(chunk: Any) -> NDArray[Any]:
    return (chunk.drop_null() if chunk.null_count else chunk).to_numpy(zero_copy_only=False)


def _arrow_texts(pa: Any, chunk: Any, name: str) -> Iterator[Keys]:
    if pa.types.is_null(chunk.type):
        return
    if pa.types.is_dictionary(chunk.type) and chunk.dictionary.null_count:
        chunk = chunk.dictionary_decode()
    if pa.types.is_dictionary(chunk.type):
        codes = _arrow_integers(chunk.indices)
        words = list(_arrow_blocks(chunk.dictionary, name))
        if codes.size:
            yield np.concatenate(words)[codes]
        return
    for start in range(0, len(chunk), BLOCK_ITEMS):
        words = chunk.slice(start, BLOCK_ITEMS).to_pylist()
        yield hash_strings([word for word in words if word is not None])


def _path_blocks(path: Path) -> Iterator[Keys]:
    if str(path) == "-":
        return _byte_line_blocks(sys.stdin.buffer)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")

    def blocks() -> Iterator[Keys]:
        with open_binary(path) as file:
            yield from _byte_line_blocks(file)

    return blocks()


def _line_blocks(file: IO[Any], name: str) -> Iterator[Keys]:
    if isinstance(file.read(0), bytes):
        return _byte_line_blocks(file)
    return _iterable_blocks((line.removesuffix("\n").removesuffix("\r") for line in file), name)


def _byte_line_blocks(file: IO[bytes]) -> Iterator[Keys]:
    """Yield the keys of the lines; a line longer than a block is hashed as it is read."""
    rest, long = b"", None
    while chunk := file.read(BLOCK_BYTES):
        if long is not None:
            end = chunk.find(b"\n")
            if end < 0:
                long.update(rest + chunk[:-1])
                rest = chunk[-1:]
                continue
            long.update((rest + chunk[:end]).removesuffix(b"\r"))
            yield np.array([long.intdigest()], dtype=np.uint64)
            rest, long, chunk = b"", None, chunk[end + 1 :]
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        if len(rest) > BLOCK_BYTES:
            long = xxh3_64(rest[:-1])
            rest = rest[-1:]
        if lines:
            yield _hash_lines(lines)
    if long is not None:
        long.update(rest.removesuffix(b"\r"))
        yield np.array([long.intdigest()], dtype=np.uint64)
    elif rest:
        yield _hash_lines([rest])


def _hash_lines(lines: list[bytes]) -> Keys:
    stripped = (line.removesuffix(b"\r") for line in lines)
    return np.fromiter(map(xxh3_64_intdigest, stripped), dtype=np.uint64, count=len(lines))
