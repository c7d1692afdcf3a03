from __future__ import annotations

import bz2
import gzip
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.streams import _blocks
from thalweg.streams._blocks import key_blocks, map_blocks
from thalweg.streams._hashing import hash_strings


def keys(items):
    blocks = [np.asarray(block) for block in key_blocks(items)]
    return np.concatenate(blocks).tolist() if blocks else []


@pytest.mark.parametrize(
    "items",
    [
        np.array([3, 1, 2]),
        np.array([3, 1, 2], dtype=">i4"),
        np.array([3, 0, 1, 0, 2, 0], dtype=np.uint8)[::2],
        np.array([[3], [1], [2]]),
        np.array([3, 1, 2], dtype=object),
        [3, np.int64(1), np.uint64(2)],
        iter([3, 1, 2]),
        (n for n in (3, 1, 2)),
    ],
)
def test_integers_are_their_own_keys_however_they_come(items):
    assert keys(items) == [3, 1, 2]


def test_a_range_passes_without_a_list():
    assert keys(range(10, 0, -3)) == [10, 7, 4, 1]


def test_all_64_bits_are_kept():
    assert keys([2**64 - 1, 0]) == keys(np.array([2**64 - 1, 0], dtype=np.uint64)) == [2**64 - 1, 0]


@pytest.mark.parametrize(
    "items",
    [
        ["a", b"bc", "é"],
        np.array(["a", "bc", "é"]),
        np.array(["a", "bc", "é"], dtype=object),
        np.array(["a", "bc", "é"], dtype=np.dtypes.StringDType()),
        io.StringIO("a\nbc\r\né"),
        io.BytesIO("a\nbc\né\n".encode()),
    ],
)
def test_texts_have_the_same_keys_however_they_come(items):
    assert keys(items) == hash_strings(["a", "bc", "é"]).tolist()


def test_texts_and_integers_may_be_mixed():
    assert keys(["a", 5, b"b", 6]) == [*hash_strings(["a"]), 5, *hash_strings(["b"]), 6]


@pytest.mark.parametrize("name", ["words", "words.gz", "words.bz2"])
def test_a_path_is_read_by_lines(tmp_path, name):
    opened = {"words": open, "words.gz": gzip.open, "words.bz2": bz2.open}[name]
    with opened(tmp_path / name, "wb") as file:
        file.write(b"one\n\ntwo\r\none")
    assert keys(tmp_path / name) == hash_strings(["one", "", "two", "one"]).tolist()


def test_a_dash_is_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x\ny\n")))
    assert keys(Path("-")) == hash_strings(["x", "y"]).tolist()


@given(
    lines=st.lists(st.text(alphabet="ab\r", max_size=12), max_size=8),
    ended=st.booleans(),
    size=st.integers(1, 5),
)
def test_lines_do_not_depend_on_where_blocks_end(lines, ended, size):
    text = "\n".join(lines) + ("\n" if ended else "")
    expected = [line.removesuffix("\r") for line in text.split("\n")]
    expected = expected[:-1] if text.split("\n")[-1] == "" else expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_blocks, "BLOCK_BYTES", size)
        assert keys(io.BytesIO(text.encode())) == hash_strings(expected).tolist()


def test_a_line_without_end_is_not_held(monkeypatch):
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 1000)
    left = 200_000
    largest = 0

    class Endless(io.RawIOBase):
        def readable(self):
            return True

        def read(self, size=-1):
            nonlocal left, largest
            frame = sys._getframe(1)
            held = [len(v) for v in frame.f_locals.values() if type(v) is bytes]
            largest = max([largest, *held])
            left -= size
            return b"x" * size if left >= 0 and size else b""

    assert keys(Endless()) == hash_strings(["x" * 200_000]).tolist()
    assert largest <= 2000


def test_arrow_columns_have_the_keys_of_their_values():
    pa = pytest.importorskip("pyarrow")
    words = ["a", None, "bc", "a"]
    expected = hash_strings(["a", "bc", "a"]).tolist()
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.binary()):
        assert keys(pa.array(words).cast(kind)) == expected
    assert keys(pa.array(words).dictionary_encode()) == expected
    assert keys(pa.chunked_array([words[:2], words[2:]])) == expected
    assert keys(pa.array([5, None, 7], pa.int16())) == [5, 7]
    assert keys(pa.array([1, 2, 3, 4]).slice(1, 2)) == [2, 3]
    assert keys(pa.array([9, 9, 8]).dictionary_encode()) == [9, 9, 8]
    assert keys(pa.array([None, None])) == keys(pa.chunked_array([], pa.string())) == []


def test_arrow_columns_of_other_types_are_refused():
    pa = pytest.importorskip("pyarrow")
    for column in (pa.array([1.5]), pa.array([[1]]), pa.table({"a": [1]})):
        with pytest.raises(ValueError, match="items must be a column of integers, strings or"):
            key_blocks(column)
    with pytest.raises(ValueError, match="items must be integers >= 0, got -1"):
        key_blocks(pa.array([3, -1]))


@pytest.mark.parametrize(
    ("items", "what"),
    [
        ([1, -1], "integers >= 0 and < 2\\^64, got -1"),
        ([1, np.int64(-1)], "integers >= 0 and < 2\\^64, got -1"),
        ([2**64], "integers >= 0 and < 2\\^64, got 18446744073709551616"),
        ([1.0], "integers >= 0, strings or bytes, got float"),
        ([True], "integers >= 0, strings or bytes, got bool"),
        (["a", None], "integers >= 0, strings or bytes, got NoneType"),
        (np.array([1, -7]), "integers >= 0, got -7"),
        (np.array([1.0]), "integers >= 0 or strings, got float64"),
        (np.array([True]), "integers >= 0 or strings, got bool"),
        (range(2, -2, -1), "integers >= 0, got -1"),
    ],
)
def test_items_without_a_key_are_refused_by_value(items, what):
    with pytest.raises(ValueError, match=f"items must be {what}"):
        keys(items)


@pytest.mark.parametrize("items", ["word", b"word", 3, None])
def test_what_is_no_collection_is_refused(items):
    with pytest.raises(TypeError, match="items must be"):
        keys(items)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*nowhere'"):
        keys(tmp_path / "nowhere")


def test_blocks_are_mapped_in_order_and_few_at_a_time():
    taken = done = ahead = 0

    def blocks():
        nonlocal taken
        for n in range(200):
            taken += 1
            yield n

    with ThreadPoolExecutor(3) as pool:
        for n, square in enumerate(map_blocks(lambda n: n * n, blocks(), pool)):
            done += 1
            ahead = max(ahead, taken - done)
            assert square == n * n
    assert done == 200
    assert ahead <= _blocks.IN_FLIGHT
