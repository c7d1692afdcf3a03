from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.study import Claim, at_least, at_most, between, equals, reported

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(finite, finite)
def test_comparisons_agree_with_the_order_of_numbers(value, bound):
    assert at_least(bound).holds(value) == (value >= bound)
    assert at_most(bound).holds(value) == (value <= bound)
    assert equals(bound).holds(value) == (value == bound)


def test_an_interval_includes_its_ends():
    assert between(1.9, 2.1).holds([1.9, 2.0, 2.1])
    assert not between(1.9, 2.1).holds([2.0, 2.2])


@pytest.mark.parametrize("value", [math.nan, [1.0, math.nan], []])
def test_what_is_no_number_never_holds(value):
    assert not at_least(-math.inf).holds(value)


def test_comparisons_read_as_text():
    texts = [str(c) for c in (at_least(100), at_most(1e-8), between(1, 2), equals(3), reported())]
    assert texts == [">= 100", "<= 1e-08", "1 to 2", "= 3", "reported"]


def test_a_bound_must_be_a_number():
    with pytest.raises(ValueError, match="bound must be a number"):
        at_least(math.nan)
    with pytest.raises(ValueError, match="lower must be <= upper"):
        between(2, 1)


def test_every_entry_of_a_sequence_must_hold():
    claim = Claim("fast", "ratios", "ratios", at_least(2))
    assert claim.judge({"ratios": np.array([2.0, 3.0])}, "quick").verdict == "holds"
    assert claim.judge({"ratios": [3.0, 1.9]}, "quick").verdict == "fails"


def test_a_claim_of_the_full_preset_is_not_judged_on_quick():
    claim = Claim("fast", "ratio", "ratio", at_least(2), preset="full")
    judged = claim.judge({"ratio": 0.1}, "quick")
    assert (judged.verdict, judged.figure) == ("skipped", "judged with --preset full")
    assert claim.judge({"ratio": 0.1}, "full").verdict == "fails"


def test_a_reported_figure_has_no_verdict():
    judged = Claim("size", "size", "size", reported(), unit="MB").judge({"size": 3.0}, "quick")
    assert (judged.verdict, judged.figure) == ("reported", "3 MB")


def test_a_missing_figure_is_an_error_unless_its_data_is_absent():
    claim = Claim("real", "error", "error", at_most(1), data="football-results")
    with pytest.raises(KeyError, match="error"):
        claim.judge({}, "quick")
    judged = claim.judge({}, "quick", missing=["football-results"])
    assert (judged.verdict, judged.why) == ("skipped", "needs the data set football-results")
