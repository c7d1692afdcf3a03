from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg._validation import (
    check_array,
    check_count,
    check_option,
    check_real,
    is_torch_tensor,
)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_real_is_accepted_exactly_inside_its_bounds(value):
    inside = math.isfinite(value) and 0 < value <= 1
    if inside:
        assert check_real("alpha", value, above=0, at_most=1) == value
    else:
        with pytest.raises(ValueError, match=r"alpha must be a finite number > 0 and <= 1, got"):
            check_real("alpha", value, above=0, at_most=1)


@pytest.mark.parametrize("value", ["1", None, True, 1j, [1.0]])
def test_what_is_no_real_number_is_a_type_error(value):
    with pytest.raises(TypeError, match="alpha must be a finite number"):
        check_real("alpha", value)


def test_numpy_scalars_are_numbers():
    assert check_real("alpha", np.float32(0.5)) == 0.5
    assert check_count("n", np.int64(3)) == 3


@pytest.mark.parametrize("value", [2.0, "2", True, None])
def test_what_is_no_integer_is_a_type_error(value):
    with pytest.raises(TypeError, match="n must be an integer >= 1"):
        check_count("n", value)


def test_a_count_outside_its_bounds_is_refused():
    with pytest.raises(ValueError, match=r"n must be an integer >= 1 and <= 20, got 21"):
        check_count("n", 21, at_most=20)


def test_an_unknown_option_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"ties must be one of 'half', 'drop', got 'no'"):
        check_option("ties", "no", ["half", "drop"])


def test_a_non_finite_entry_is_named_by_index():
    with pytest.raises(ValueError, match=r"C must be finite, got nan at index \(1, 0\)"):
        check_array("C", [[0.0, 1.0], [np.nan, 2.0]])


def test_a_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"C must have shape \(any, 3\), got \(2, 2\)"):
        check_array("C", np.zeros((2, 2)), shape=(None, 3))
    with pytest.raises(ValueError, match=r"C must have 1 axes, got shape \(2, 2\)"):
        check_array("C", np.zeros((2, 2)), ndim=1)


def test_text_is_no_array():
    with pytest.raises(TypeError, match="C must be an array of float64, got str"):
        check_array("C", "many")


def test_imaginary_parts_are_not_dropped():
    with pytest.raises(TypeError, match="C must be an array of float64, got list"):
        check_array("C", [1.0, 2j])
    assert check_array("C", [1.0, 2j], dtype=None).dtype == complex


def test_arrays_are_not_tensors():
    assert not is_torch_tensor(np.zeros(2))
