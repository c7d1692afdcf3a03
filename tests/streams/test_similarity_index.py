from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from thalweg.streams import SimilarityIndex, SimilaritySketch, choose_bands, jaccard


def sketches_of(n, seed=0, t=64):
    """Sets of which neighbours share much."""
    items = np.random.default_rng(seed).integers(0, 2**63, n * 10 + 90)
    return SimilaritySketch(t).transform([items[i * 10 : i * 10 + 100] for i in range(n)])


def same_band(s, t, bands, rows):
    blocks = (s == t)[: bands * rows].reshape(bands, rows)
    return bool(blocks.all(axis=1).any())


def test_a_query_finds_exactly_the_sets_that_share_a_band():
    S = sketches_of(60)
    index = SimilarityIndex(12, 5).add(S)
    for s in S[::7]:
        expected = {i for i in range(60) if same_band(s, S[i], 12, 5)}
        found = index.query(s)
        assert {key for key, _ in found} == expected
        assert [J for _, J in found] == sorted((jaccard(s, S[k]) for k, _ in found), reverse=True)
        assert found == [(key, jaccard(s, S[key])) for key, _ in found]


def test_pairs_are_exactly_those_that_share_a_band():
    S = sketches_of(60)
    pairs = SimilarityIndex(12, 5).add(S).pairs()
    expected = {(i, j) for j in range(60) for i in range(j) if same_band(S[i], S[j], 12, 5)}
    assert {pair[:2] for pair in pairs} == expected
    assert len(pairs) == len(expected) > 60
    assert all(jaccard(S[i], S[j]) == J for i, j, J in pairs)
    assert [J for *_, J in pairs] == sorted((J for *_, J in pairs), reverse=True)


def test_a_threshold_leaves_out_what_is_less_similar():
    S = sketches_of(40)
    index = SimilarityIndex(20, 3).add(S)
    assert index.query(S[5], threshold=0.5) == [x for x in index.query(S[5]) if x[1] >= 0.5]
    assert index.pairs(threshold=0.5) == [x for x in index.pairs() if x[2] >= 0.5]
    assert len(index.pairs(threshold=0.5)) < len(index.pairs())


def test_adding_in_parts_and_between_queries_changes_nothing():
    S = sketches_of(30)
    whole = SimilarityIndex(12, 5).add(S)
    parts = SimilarityIndex(12, 5).add(S[:10])
    parts.query(S[0])
    parts.add(S[10]).add(S[11:])
    assert len(parts) == len(whole) == 30
    assert parts.query(S[20]) == whole.query(S[20])
    assert parts.pairs() == whole.pairs()


def test_keys_name_the_answers():
    S = sketches_of(3)
    index = SimilarityIndex(12, 5).add(S, keys=["a", ("b", 1), None])
    assert index.query(S[1])[0] == (("b", 1), 1.0)


def test_an_empty_index_answers_nothing():
    assert SimilarityIndex(2, 2).query(sketches_of(1)[0]) == []
    assert SimilarityIndex(2, 2).pairs() == []


def test_chosen_bands_have_the_least_area_of_errors():
    def error(bands, rows, threshold):
        def missed(s):
            return (1 - s**rows) ** bands

        return quad(lambda s: 1 - missed(s), 0, threshold)[0] + quad(missed, threshold, 1)[0]

    for t, threshold in ((1, 0.5), (16, 0.3), (24, 0.8)):
        areas = {
            (bands, rows): error(bands, rows, threshold)
            for rows in range(1, t + 1)
            for bands in range(1, t // rows + 1)
        }
        assert areas[choose_bands(t, threshold)] == pytest.approx(min(areas.values()), abs=1e-7)


def test_sets_meet_as_often_as_the_curve_says():
    # 2000 pairs of J = 1/2; six standard errors of the fraction that meet.
    bands, rows = 4, 2
    items = np.random.default_rng(1).integers(0, 2**63, (2000, 60))
    sketcher = SimilaritySketch(8)
    S, T = sketcher.transform(items[:, :45]), sketcher.transform(items[:, 15:])
    index = SimilarityIndex(bands, rows).add(S)
    met = np.mean([any(key == i for key, _ in index.query(t)) for i, t in enumerate(T)])
    expected = 1 - (1 - 0.5**rows) ** bands
    # Entries of a sketch depend on each other a little, so the curve is met to a percent only.
    assert abs(met - expected) < 6 * np.sqrt(expected * (1 - expected) / 2000) + 0.01


@pytest.mark.parametrize(
    ("call", "error", "what"),
    [
        (lambda S: SimilarityIndex(0, 2), ValueError, "bands must be an integer >= 1"),
        (lambda S: SimilarityIndex(2, 1.5), TypeError, "rows must be an integer"),
        (lambda S: SimilarityIndex(13, 5).add(S), ValueError, r"bands \* rows must be at most"),
        (lambda S: SimilarityIndex(2, 2).add(S, ["a"]), ValueError, "keys must be as many"),
        (lambda S: SimilarityIndex(2, 2).add(S.astype(float)), ValueError, "sketches must hold"),
        (
            lambda S: SimilarityIndex(2, 2).add(S).add(S[:, :32].copy()),
            ValueError,
            "sketches must have 64 entries",
        ),
        (lambda S: SimilarityIndex(2, 2).add(S).query(S[0, :8]), ValueError, "sketch must have 64"),
        (
            lambda S: SimilarityIndex(2, 2).add(S).query(S[0], threshold=2),
            ValueError,
            "threshold must be",
        ),
        (lambda S: choose_bands(0, 0.5), ValueError, "n_components must be"),
        (lambda S: choose_bands(8, 1.0), ValueError, "threshold must be"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, error, what):
    with pytest.raises(error, match=what):
        call(sketches_of(2))
