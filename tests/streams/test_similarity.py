from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from thalweg.streams import SimilaritySketch, chernoff_tail, compare, jaccard, union_sketch

A = np.array([1, 2, 3, 4], dtype=np.uint64)
B = np.array([1, 2, 9, 4], dtype=np.uint64)


def test_similarity_is_the_fraction_of_equal_entries_in_every_shape():
    S, T = np.array([A, B, B]), np.array([B, A])
    assert jaccard(A, B) == 0.75
    assert jaccard(S, A).tolist() == jaccard(A, S).tolist() == [1, 0.75, 0.75]
    assert jaccard(S, T).tolist() == [[0.75, 1], [1, 0.75], [1, 0.75]]
    assert jaccard(T).tolist() == [[1, 0.75], [0.75, 1]]
    assert jaccard(np.array([A, B, A])[::2], B).tolist() == [0.75, 0.75]


@given(st.integers(1, 300), st.floats(0, 1), st.data())
def test_the_tail_bound_holds_for_independent_entries(t, J, data):
    matches = data.draw(st.integers(0, t))
    law = binom(t, J)
    exact = law.sf(matches - 1) if matches >= t * J else law.cdf(matches)
    assert chernoff_tail(t, J, matches) >= exact - 1e-12


def test_the_tail_bound_is_the_papers():
    t, J, d = 100, 0.3, 0.5
    mean = t * J
    upper = (math.exp(d) / (1 + d) ** (1 + d)) ** mean
    lower = (math.exp(-d) / (1 - d) ** (1 - d)) ** mean
    assert chernoff_tail(t, J, (1 + d) * mean) == pytest.approx(upper, rel=1e-12)
    assert chernoff_tail(t, J, (1 - d) * mean) == pytest.approx(lower, rel=1e-12)
    assert chernoff_tail(t, J, mean) == 1
    assert chernoff_tail(t, J, 0) == pytest.approx(math.exp(-mean))
    assert chernoff_tail(t, 0.0, 1) == 0
    assert chernoff_tail(t, 0.0, 0) == 1


def test_comparison_stops_early_on_clear_cases_and_is_right():
    rng = np.random.default_rng(0)
    items = rng.integers(0, 2**63, (200, 1000))
    sketcher = SimilaritySketch(1024)
    S = sketcher.transform(items)
    alike, unlike = sketcher.transform(items[:, 50:]), sketcher.transform(items[:, 800:])
    for s, near, far in zip(S, alike, unlike, strict=True):
        verdict, read = compare(s, near, low=0.3, high=0.9)
        assert (verdict, read <= 64) == ("similar", True)
        verdict, read = compare(s, far, low=0.3, high=0.9)
        assert (verdict, read <= 64) == ("different", True)


def test_comparison_stops_where_the_bound_reaches_delta():
    s = np.zeros(320, dtype=np.uint64)
    t = s.copy()
    t[::2] = 1  # half of every block matches
    low, delta = 0.3, 1e-3
    stops = [q for q in range(32, 321, 32) if chernoff_tail(q, low, q / 2) <= delta]
    assert compare(s, t, low=low, high=0.5, delta=delta) == ("similar", stops[0])
    assert stops[0] > 32
    high = 0.8
    stops = [q for q in range(32, 321, 32) if chernoff_tail(q, high, q / 2) <= delta]
    assert compare(s, t, low=0.5, high=high, delta=delta) == ("different", stops[0])


def test_sets_far_below_the_lower_similarity_are_different():
    s, t = np.zeros(64, dtype=np.uint64), np.ones(64, dtype=np.uint64)
    assert compare(s, t, low=0.5, high=0.9) == ("different", 32)
    assert compare(s, s, low=0.1, high=0.5) == ("similar", 32)


def test_comparison_ends_with_the_midpoint():
    s = np.zeros(40, dtype=np.uint64)
    t = s.copy()
    t[::2] = 1
    assert compare(s, t, low=0.4, high=0.58) == ("similar", 40)
    assert compare(s, t, low=0.42, high=0.6) == ("different", 40)


@pytest.mark.parametrize(
    ("call", "error", "what"),
    [
        (lambda: jaccard(A, B[:3]), ValueError, "T must have 4 entries a sketch, got 3"),
        (lambda: jaccard(A.astype(np.int64)), ValueError, "S must hold sketches of dtype uint64"),
        (lambda: jaccard([1, 2]), TypeError, "S must be an array of sketches"),
        (lambda: jaccard(A[None, None]), ValueError, "S must have 1 or 2 axes"),
        (lambda: union_sketch(A, B[:2]), ValueError, "T must have 4 entries"),
        (lambda: union_sketch(A), ValueError, "S must have 2 axes"),
        (lambda: compare(A, B[:3], low=0.1, high=0.2), ValueError, "t must have 4 entries"),
        (lambda: compare(A, B, low=0.5, high=0.5), ValueError, "low must be .* < 0.5, got 0.5"),
        (lambda: compare(A, B, low=-0.1, high=0.5), ValueError, "low must be"),
        (lambda: compare(A, B, low=0.1, high=1.5), ValueError, "high must be"),
        (lambda: compare(A, B, low=0.1, high=0.5, delta=0), ValueError, "delta must be"),
        (lambda: chernoff_tail(0, 0.5, 0), ValueError, "n_components must be"),
        (lambda: chernoff_tail(8, 1.5, 0), ValueError, "J must be"),
        (lambda: chernoff_tail(8, 0.5, 9), ValueError, "matches must be"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, error, what):
    with pytest.raises(error, match=what):
        call()
