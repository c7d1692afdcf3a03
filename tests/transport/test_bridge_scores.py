"""Scores of samples by hand, and divergences of chains by formula."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr

from thalweg.transport import (
    CategoricalReference,
    conditional_scores,
    shape_score,
    trajectory_kl,
    trend_score,
    two_sample_score,
)

A = np.array([[0, 1, 2], [1, 1, 0], [2, 0, 0], [0, 1, 1]])


@pytest.mark.parametrize("score", [shape_score, trend_score])
def test_same_rows_score_one_and_disjoint_ones_zero(score):
    assert score(A, A[::-1], 3) == pytest.approx(1, abs=1e-15)
    assert score(A, np.concatenate([A, A]), 3) == pytest.approx(1, abs=1e-15)
    assert score(A, A + 3, 6) == pytest.approx(0, abs=1e-15)


def test_two_points_against_their_exchange():
    """Columns agree; the pair (0, 1) does not at all, so half of the four ordered pairs does."""
    first, second = [[0, 0], [1, 1]], [[0, 1], [1, 0]]
    assert shape_score(first, second, 2) == 1
    assert trend_score(first, second, 2) == 0.5
    assert trend_score([[0, 0], [0, 0]], [[0, 0], [1, 0]], 2) == pytest.approx(0.625)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_trend_is_the_mean_over_ordered_pairs_and_at_most_the_shape(seed, D, S):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(S, size=(7, D)), rng.integers(S, size=(5, D))
    values = []
    for i in range(D):
        for j in range(D):
            tables = []
            for Z in (a, b):
                table = np.zeros((S, S))
                np.add.at(table, (Z[:, i], Z[:, j]), 1 / len(Z))
                tables.append(table)
            values.append(np.minimum(*tables).sum())
    trend = trend_score(a, b, S)
    assert trend == pytest.approx(np.mean(values), abs=1e-12)
    assert -1e-12 <= trend <= shape_score(a, b, S) + 1e-12
    assert trend == pytest.approx(trend_score(b, a, S), abs=1e-12)


def test_conditional_scores_are_means_over_sources():
    rng = np.random.default_rng(0)
    true, model = rng.integers(4, size=(2, 6, 9, 3))
    shape, trend = conditional_scores(true, model, 4)
    assert shape == pytest.approx(np.mean([shape_score(a, b, 4) for a, b in zip(true, model)]))  # noqa: B905
    assert trend == pytest.approx(np.mean([trend_score(a, b, 4) for a, b in zip(true, model)]))  # noqa: B905
    with pytest.raises(ValueError, match="model must have draws for 6 sources"):
        conditional_scores(true, model[:5], 4)


def test_classifier_sees_a_difference_and_none_where_there_is_none():
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, size=(600, 3))
    assert two_sample_score(tokens[:300], tokens[300:], 4, rng=0) >= 0.8
    assert two_sample_score(tokens[:300] // 2, tokens[300:] // 2 + 2, 4, rng=0) <= 0.01
    assert two_sample_score(tokens[:300], tokens[300:] // 2, 4, rng=0) <= 0.5


class Table:
    """A chain of one token given by its steps."""

    def __init__(self, *steps):
        self.steps = [np.asarray(step, dtype=float) for step in steps]
        self.reference = CategoricalReference([[0.5, 0.5], [0.5, 0.5]], len(steps) - 1)

    def transition_probs(self, x, n):
        return self.steps[n][x]

    def sample_path(self, X, *, rng=None):
        path, rng = [np.asarray(X)], np.random.default_rng(rng)
        for step in self.steps:
            path.append((rng.random(path[-1].shape) < step[path[-1], 1]).astype(int))
        return np.stack(path)


FIRST = [[0.7, 0.3], [0.2, 0.8]]
TRUTH = Table(FIRST, [[0.9, 0.1], [0.4, 0.6]])
SHIFTED = Table(FIRST, [[0.5, 0.5], [0.4, 0.6]])


def test_divergence_of_a_chain_from_itself_is_zero():
    x = np.zeros((50, 1), dtype=int)
    for reverse in (False, True):
        assert trajectory_kl(TRUTH, TRUTH, x, reverse=reverse, rng=0) == 0


def test_divergence_of_a_last_step_is_its_value_by_hand():
    """Only the step from token 0 differs, which 70 % of the paths from 0 reach."""
    x = np.zeros((20_000, 1), dtype=int)
    forward = 0.7 * (0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5))
    backward = 0.7 * (0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1))
    assert trajectory_kl(TRUTH, SHIFTED, x, rng=0) == pytest.approx(forward, rel=0.03)
    assert trajectory_kl(TRUTH, SHIFTED, x, reverse=True, rng=0) == pytest.approx(
        backward, rel=0.03
    )
    assert forward != pytest.approx(backward, rel=0.1)


def test_divergence_is_summed_over_places_and_averaged_over_paths():
    x = np.zeros((5000, 3), dtype=int)
    one = trajectory_kl(TRUTH, SHIFTED, x[:, :1], rng=0)
    assert trajectory_kl(TRUTH, SHIFTED, x, rng=1) == pytest.approx(3 * one, rel=0.06)
    both = Table([[0.5, 0.5]] * 2, [[0.5, 0.5], [0.4, 0.6]])
    expected = rel_entr(FIRST[0], [0.5, 0.5]).sum() + one
    assert trajectory_kl(TRUTH, both, x[:, :1], rng=0) == pytest.approx(expected, rel=0.03)


def test_steps_that_the_model_lacks_are_infinitely_far():
    never = Table(FIRST, [[1.0, 0.0], [0.4, 0.6]])
    x = np.zeros((100, 1), dtype=int)
    assert trajectory_kl(TRUTH, never, x, rng=0) == np.inf
    assert np.isfinite(trajectory_kl(TRUTH, never, x, reverse=True, rng=0))


@pytest.mark.parametrize(
    ("a", "b", "S", "match"),
    [
        (A, A[:, :2], 3, "B must have 3 columns like A"),
        (A, A, 2, r"A must be whole numbers in 0\.\.1"),
        (A[:0], A, 3, "A must hold at least one"),
        (A, A, 0, "S must be"),
    ],
)
@pytest.mark.parametrize("score", [shape_score, trend_score])
def test_bad_input_is_refused_by_name(score, a, b, S, match):
    with pytest.raises(ValueError, match=match):
        score(a, b, S)
