"""Labels as integers: the same answer as numpy.unique, whatever the type."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.streams._labels import encode, factorize

INTS = st.integers(-(2**63), 2**63 - 1) | st.integers(-20, 20)


@settings(max_examples=60, deadline=None)
@given(st.lists(INTS, min_size=1))
def test_integers_are_numbered_as_by_unique(labels):
    values = np.array(labels, dtype=np.int64)
    items, codes = factorize("X", values)
    expected = np.unique(values, return_inverse=True)
    np.testing.assert_array_equal(items, expected[0])
    np.testing.assert_array_equal(codes, expected[1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=6), min_size=1))
@pytest.mark.parametrize("dtype", ["U", object])
def test_strings_are_numbered_as_by_unique(dtype, labels):
    values = np.array([label.rstrip("\0") for label in labels], dtype=dtype)
    items, codes = factorize("X", values)
    expected = np.unique(values, return_inverse=True)
    np.testing.assert_array_equal(items, expected[0])
    np.testing.assert_array_equal(codes, expected[1])


def test_many_distinct_strings_outgrow_the_table():
    values = np.array([f"{k:x}" for k in range(5000)] * 2)
    items, codes = factorize("X", values)
    assert len(items) == 5000
    np.testing.assert_array_equal(items[codes], values)


@pytest.mark.parametrize("dtype", [np.uint64, np.int8, bool])
def test_the_type_of_labels_is_kept(dtype):
    values = np.array([[1, 0], [1, 1]], dtype=dtype)
    items, codes = factorize("X", values)
    assert items.dtype == values.dtype
    np.testing.assert_array_equal(items[codes], values)


def test_largest_unsigned_labels_do_not_wrap():
    values = np.array([2**64 - 1, 2**64 - 2, 2**64 - 1], dtype=np.uint64)
    items, codes = factorize("X", values)
    assert items.tolist() == [2**64 - 2, 2**64 - 1]
    assert codes.tolist() == [1, 0, 1]


def test_known_labels_are_found_whatever_their_storage():
    items = np.array(["a", "b"])
    np.testing.assert_array_equal(encode("X", np.array(["b", "a"], dtype=object), items), [1, 0])
    np.testing.assert_array_equal(encode("X", np.array([2.0, 1.0]), np.array([1, 2])), [1, 0])
