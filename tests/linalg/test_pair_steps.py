from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.linalg import expected_potential, pair_potential, pair_step
from thalweg.linalg._pair_states import KINDS


def eliminate_upwards(gii, gij, gjj):
    return [[1.0, 0.0], [-gij / gjj, 1.0]]


ALL_KINDS = [*KINDS, eliminate_upwards]


def positive_definite(n, seed=0, *batch):
    x = np.random.default_rng(seed).normal(size=(*batch, n + 2, n))
    return x.swapaxes(-1, -2) @ x


def symmetric(n, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, n))
    return x + x.T


def all_pairs(n):
    return np.triu_indices(n, 1)


def off_squared(g):
    return np.sum(g**2, axis=(-1, -2)) - np.sum(np.diagonal(g, axis1=-2, axis2=-1) ** 2, axis=-1)


def embed(s, i, j, n):
    full = np.eye(n)
    full[np.ix_([i, j], [i, j])] = s
    return full


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_step_is_a_congruence_with_s(kind):
    g = positive_definite(5)
    g_new, s = pair_step(g, 1, 3, kind)
    full = embed(s, 1, 3, 5)
    assert np.allclose(g_new, full.T @ g @ full, rtol=0, atol=1e-13)
    assert g_new[1, 3] == g_new[3, 1] == 0.0


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_mean_over_pairs_has_the_exact_rate(kind):
    n = 6
    g = positive_definite(n, 4)
    i, j = all_pairs(n)
    after, _ = pair_step(np.tile(g, (len(i), 1, 1)), i, j, kind)
    expected = expected_potential(pair_potential(g), n, 1)
    assert np.mean(pair_potential(after)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_each_step_changes_the_potential_by_twice_the_product_of_entries(kind):
    g = positive_definite(5, 2)
    inverse = np.linalg.inv(g)
    i, j = all_pairs(5)
    after, _ = pair_step(np.tile(g, (len(i), 1, 1)), i, j, kind)
    change = pair_potential(after) - pair_potential(g)
    assert np.allclose(change, 2 * g[i, j] * inverse[i, j], rtol=0, atol=1e-11)


def test_rotations_of_an_indefinite_matrix_shrink_the_off_diagonal_at_the_same_rate():
    n = 6
    h = symmetric(n)
    i, j = all_pairs(n)
    after, _ = pair_step(np.tile(h, (len(i), 1, 1)), i, j)
    assert np.mean(off_squared(after)) == pytest.approx(
        (1 - 2 / (n * (n - 1))) * off_squared(h), rel=1e-13
    )


@pytest.mark.parametrize("n", [4, 5])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_mean_over_matchings_has_the_exact_rate(n, kind):
    g = positive_definite(n, 7)
    potentials = []
    for order in itertools.permutations(range(n)):
        step = g
        for p in range(n // 2):
            step, _ = pair_step(step, *sorted(order[2 * p : 2 * p + 2]), kind)
        potentials.append(pair_potential(step))
    expected = expected_potential(pair_potential(g), n, 1, "matching")
    assert np.mean(potentials) == pytest.approx(expected, rel=1e-12)


def test_the_rotation_is_the_small_one():
    for seed in range(20):
        _, s = pair_step(symmetric(2, seed), 0, 1)
        assert np.allclose(s.T @ s, np.eye(2), atol=1e-15)
        assert s[0, 0] == s[1, 1] >= abs(s[0, 1])


@pytest.mark.parametrize("gij", [1.0, -1.0])
def test_equal_diagonal_entries_rotate_by_a_positive_quarter(gij):
    _, s = pair_step([[2.0, gij], [gij, 2.0]], 0, 1)
    assert np.allclose(s, np.array([[1, 1], [-1, 1]]) / np.sqrt(2), rtol=1e-15)


def test_rotation_of_a_known_matrix():
    # tan of twice the angle is 2 * 2 / (4 - 1)
    g_new, s = pair_step([[1.0, 2.0], [2.0, 4.0]], 0, 1)
    assert np.allclose(s, np.array([[2, 1], [-1, 2]]) / np.sqrt(5), rtol=1e-15)
    assert np.allclose(g_new, [[0, 0], [0, 5]], atol=1e-15)


def test_triangular_step_keeps_the_first_column():
    g = positive_definite(4)
    g_new, s = pair_step(g, 0, 2, "triangular")
    assert np.array_equal(s, [[1, -g[0, 2] / g[0, 0]], [0, 1]])
    assert g_new[0, 0] == g[0, 0]


def test_symmetric_step_is_the_inverse_root_of_its_block():
    g = positive_definite(4)
    g_new, s = pair_step(g, 1, 2, "symmetric")
    values, vectors = np.linalg.eigh(g[1:3, 1:3])
    assert np.allclose(s, vectors / np.sqrt(values) @ vectors.T, rtol=1e-12)
    assert np.allclose(g_new[1:3, 1:3], np.eye(2), atol=1e-14)


def test_a_scaled_rotation_of_ones_own_changes_the_diagonal_too():
    # looks like a rotation, is not one
    def doubled(gii, gij, gjj):
        _, s = pair_step([[gii, gij], [gij, gjj]], 0, 1)
        return 2 * s

    g = positive_definite(3)
    assert np.allclose(pair_step(g, 0, 1, doubled)[0][:2, :2], 4 * pair_step(g, 0, 1)[0][:2, :2])


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("small", [1e-12, 1e-100])
def test_graded_blocks_keep_the_digits_of_small_entries(kind, small):
    # a step multiplies the determinant 0.75 small^2 by that of S squared
    g_new, s = pair_step([[1.0, 0.5 * small], [0.5 * small, small**2]], 0, 1, kind)
    product = g_new[0, 0] * (g_new[1, 1] / small / small)
    assert product == pytest.approx(0.75 * np.linalg.det(s) ** 2, rel=1e-13)


@given(
    st.integers(2, 5),
    st.integers(0, 1000),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8),
    st.sampled_from(ALL_KINDS),
)
def test_any_sequence_of_pairs_keeps_potential_and_definition_together(n, seed, pairs, kind):
    g, gamma = positive_definite(n, seed), None
    gamma = pair_potential(g)
    for i, j in pairs:
        i, j = sorted((i % n, j % n))
        if i == j:
            continue
        inverse = np.linalg.inv(g)
        gamma += 2 * g[i, j] * inverse[i, j]
        g, _ = pair_step(g, i, j, kind)
    trace = np.trace(np.diag(np.diag(g)) @ np.linalg.inv(g)) - n
    scale = 1e-9 * (1 + pair_potential(positive_definite(n, seed))) ** 2
    assert abs(gamma - trace) <= scale
    assert abs(pair_potential(g) - trace) <= scale


def test_a_stack_takes_a_pair_for_each_matrix():
    stack = positive_definite(4, 0, 2, 3)
    i = np.array([[0, 1, 2], [0, 0, 1]])
    j = np.array([[1, 2, 3], [2, 3, 3]])
    g_new, s = pair_step(stack, i, j, "triangular")
    assert s.shape == (2, 3, 2, 2)
    for b in np.ndindex(2, 3):
        one, s_one = pair_step(stack[b], int(i[b]), int(j[b]), "triangular")
        assert np.array_equal(g_new[b], one)
        assert np.array_equal(s[b], s_one)


def test_the_argument_is_left_alone():
    g = positive_definite(3)
    before = g.copy()
    pair_step(g, 0, 1)
    assert np.array_equal(g, before)


def test_an_empty_stack_gives_an_empty_stack():
    g_new, s = pair_step(np.empty((0, 3, 3)), 0, 1)
    assert (g_new.shape, s.shape) == ((0, 3, 3), (0, 2, 2))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.eye(3), 1, 1), ValueError, "i must be less than j, got 1 and 1"),
        ((np.eye(3), 2, 1), ValueError, "i must be less than j, got 2 and 1"),
        ((np.eye(3), 0, 3), ValueError, "j must lie in 0 to 2, got 3"),
        ((np.eye(3), -1, 2), ValueError, "i must lie in 0 to 2, got -1"),
        ((np.eye(3), 0.0, 1), TypeError, "i must be an integer"),
        ((np.tile(np.eye(3), (2, 1, 1)), [0, 0, 0], 1), ValueError, r"i must have shape \(2,\)"),
        ((np.eye(3), 0, 1, "givens"), ValueError, "kind must be one of 'jacobi'"),
        ((-np.eye(3), 0, 1, "triangular"), ValueError, "positive definite on the pair"),
        (([[1.0, 2.0], [2.0, 1.0]], 0, 1, "symmetric"), ValueError, r"pair, it is not on \(0, 1\)"),
        ((np.ones((2, 3)), 0, 1), ValueError, "g must be square"),
        (([[1.0, 2.0], [3.0, 4.0]], 0, 1), ValueError, "g must be symmetric"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        pair_step(*arguments)


@pytest.mark.parametrize(
    "own",
    [
        lambda gii, gij, gjj: np.eye(2),
        lambda gii, gij, gjj: np.zeros((2, 2)),
        lambda gii, gij, gjj: [[1.0, -gij / gii], [0.0, np.nan]],
        lambda gii, gij, gjj: [[1.0, -gij / gii * (1 + 1e-7)], [0.0, 1.0]],
    ],
)
def test_a_callable_that_leaves_the_pair_coupled_is_refused(own):
    with pytest.raises(ValueError, match="kind must return a regular 2 x 2 matrix"):
        pair_step([[4.0, 2.0], [2.0, 3.0]], 0, 1, own)


def test_a_callable_with_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"kind\(g_ii, g_ij, g_jj\) must have shape"):
        pair_step(np.eye(2), 0, 1, lambda *_: np.eye(3))
