"""Counts of wins and ties, and whether they fix the strengths."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from thalweg.streams import is_identifiable, wins_matrix

GAMES = [["b", "a"], ["b", "a"], ["a", "c"], ["c", "b"]]


def test_each_game_is_counted_for_its_winner():
    items, wins, ties = wins_matrix(GAMES, [1, 1, 0, 1])
    assert items.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(wins.toarray(), [[0, 0, 0], [2, 0, 0], [1, 1, 0]])
    assert ties.nnz == 0


def test_ties_count_for_both_and_as_no_win():
    _, wins, ties = wins_matrix(GAMES, [1, 0.5, 1, 0.5], [1, 2, 3, 4])
    np.testing.assert_array_equal(wins.toarray(), [[0, 0, 3], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(ties.toarray(), [[0, 2, 0], [2, 0, 4], [0, 4, 0]])


def test_counts_of_parts_add_up():
    rng = np.random.default_rng(0)
    X = np.sort(rng.permuted(np.tile(np.arange(6), (50, 1)), axis=1)[:, :2])
    y, weight = rng.choice([0, 0.5, 1], 50), rng.random(50)
    whole = wins_matrix(X, y, weight, items=range(6))
    parts = [wins_matrix(X[s], y[s], weight[s], items=range(6)) for s in np.split(np.arange(50), 5)]
    for k in (1, 2):
        np.testing.assert_allclose(sum(p[k].toarray() for p in parts), whole[k].toarray())


def test_given_items_set_the_order():
    items, wins, _ = wins_matrix(GAMES[:1], items=["c", "b", "a"])
    assert items.tolist() == ["c", "b", "a"]
    assert wins[1, 2] == 1


def test_labels_of_several_types_in_a_list_stay_apart():
    items, wins, _ = wins_matrix([[1, "1"], ["1", 2]])
    assert items.tolist() == [1, "1", 2]
    assert wins.nnz == 2


@pytest.mark.parametrize(
    ("items", "message"),
    [(["a", "b"], "2 known items, got 'c'"), (["a", "b", "c", "a"], "distinct"), ("abc", "items")],
)
def test_unfit_items_are_refused(items, message):
    with pytest.raises(ValueError, match=message):
        wins_matrix(GAMES, items=items)


@settings(max_examples=80, deadline=None)
@given(n=st.integers(1, 9), density=st.floats(0.05, 0.6), seed=st.integers(0, 10**6))
def test_identifiable_is_strongly_connected(n, density, seed):
    wins = (np.random.default_rng(seed).random((n, n)) < density).astype(float)
    np.fill_diagonal(wins, 0)
    n_components, _ = connected_components(wins, connection="strong")
    assert is_identifiable(wins) == (n_components == 1)


def test_identifiable_refuses_what_is_no_table_of_wins():
    with pytest.raises(ValueError, match="wins must be >= 0"):
        is_identifiable([[0, -1], [1, 0]])
