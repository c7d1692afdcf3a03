"""The relaxation of MAXCUT, its bound and its rounding: closed forms, brute force, graphs."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import minimize_scalar

import thalweg.descent.maxcut as module
from thalweg.descent import goemans_williamson, maxcut_sdp
from thalweg.descent._maxcut_kernels import ascend

GRAPHS = {
    "random 12": nx.gnp_random_graph(12, 0.3, seed=1),
    "random 20": nx.gnp_random_graph(20, 0.3, seed=1),
    "random 40": nx.gnp_random_graph(40, 0.3, seed=1),
    "random 60": nx.gnp_random_graph(60, 0.3, seed=1),
    "regular 60": nx.random_regular_graph(3, 60, seed=1),
    "path 60": nx.path_graph(60),
    "ring 59": nx.cycle_graph(59),
    "grid 60": nx.grid_2d_graph(6, 10),
    "complete 20": nx.complete_graph(20),
    "club 34": nx.karate_club_graph(),
    "small world 60": nx.watts_strogatz_graph(60, 4, 0.1, seed=2),
    "preferential 60": nx.barabasi_albert_graph(60, 2, seed=2),
}


def random_weights(n, seed, density=0.7):
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((n, n)) * (rng.random((n, n)) < density), 1)
    return upper + upper.T


def cut_weight(W, x):
    return W[np.ix_(x > 0, x < 0)].sum()


def best_cut(W):
    n = len(W)
    sides = 1.0 - 2.0 * ((np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1)
    return ((W.sum() - np.einsum("ri,ri->r", sides @ W, sides)) / 4).max()


def unit_rows(shape, seed):
    v = np.random.default_rng(seed).normal(size=shape)
    return v / np.linalg.norm(v, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def solved():
    return {name: maxcut_sdp(graph, rng=0) for name, graph in GRAPHS.items()}


@pytest.mark.parametrize("name", GRAPHS)
def test_gap_to_the_dual_closes(name, solved):
    assert solved[name].success
    assert -1e-9 <= solved[name].gap <= 1e-6
    assert solved[name].gap == pytest.approx(
        solved[name].upper_bound - solved[name].value, abs=1e-9
    )


@pytest.mark.parametrize("name", GRAPHS)
def test_mean_cut_is_at_least_the_ratio_of_the_relaxation(name, solved):
    result = goemans_williamson(
        GRAPHS[name], vectors=solved[name].vectors, n_rounds=1000, rng=np.random.default_rng(1)
    )
    assert result.mean_cut >= 0.878 * result.sdp_value
    assert result.expected_cut >= module.ROUNDING_RATIO * result.sdp_value * (1 - 1e-9)
    error = result.cuts.std(ddof=1) / np.sqrt(result.cuts.size)
    # the spread does not see an edge that hardly ever stays whole
    assert abs(result.mean_cut - result.expected_cut) <= 4 * error + 1e-3
    assert result.sdp_value == pytest.approx(solved[name].value, rel=1e-12)
    assert result.cut <= result.upper_bound


@given(st.integers(2, 11), st.integers(0, 2**32 - 1), st.floats(0.1, 1.0))
@settings(max_examples=40, deadline=None)
def test_bound_is_above_the_best_cut(n, seed, density):
    W = random_weights(n, seed, density)
    best = best_cut(W)
    result = goemans_williamson(W, rng=seed, n_rounds=50)
    assert result.success
    assert result.upper_bound >= best
    assert best >= result.cut - 1e-12
    assert result.cut >= 0.878 * best
    assert result.upper_bound - result.sdp_value <= 1e-8 * (1 + best)


@pytest.mark.parametrize("seed", range(3))
def test_bound_is_above_the_best_cut_of_fourteen_nodes(seed):
    W = random_weights(14, seed)
    assert maxcut_sdp(W, rng=0).upper_bound >= best_cut(W)


@given(st.integers(2, 9), st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_bound_holds_for_any_vectors(n, rank, seed):
    W = random_weights(n, seed)
    result = goemans_williamson(W, vectors=unit_rows((n, rank), seed), n_rounds=1, rng=0)
    assert result.upper_bound >= max(best_cut(W), result.sdp_value)


def test_bound_and_value_of_vectors_are_their_formulas():
    W, v = random_weights(9, 3), unit_rows((9, 4), 3)
    result = goemans_williamson(W, vectors=v, n_rounds=1, rng=0)
    gram = v @ v.T
    y = -(W * gram).sum(axis=1)
    least = np.linalg.eigvalsh(W + np.diag(y))[0]
    assert result.sdp_value == pytest.approx((W * (1 - gram)).sum() / 4, rel=1e-13)
    assert result.upper_bound == pytest.approx((W.sum() + y.sum() - 9 * least) / 4, rel=1e-12)
    expected = (W * np.arccos(np.clip(gram, -1, 1))).sum() / (2 * np.pi)
    assert result.expected_cut == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [3, 5, 9, 21])
def test_value_of_an_odd_ring(n):
    result = maxcut_sdp(nx.cycle_graph(n), rng=1)
    assert result.value == pytest.approx(n / 2 * (1 + math.cos(math.pi / n)), rel=1e-8)


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_value_of_a_complete_graph(n):
    result = maxcut_sdp(np.ones((n, n)), rng=1)
    assert result.value == pytest.approx(n**2 / 4, rel=1e-8)
    np.testing.assert_allclose(result.vectors.sum(axis=0), 0, atol=1e-3)


def test_bipartite_graph_is_cut_whole():
    graph = nx.complete_bipartite_graph(4, 7)
    result = goemans_williamson(graph, rng=0, n_rounds=20)
    assert result.cuts.tolist() == [28.0] * 20
    assert result.upper_bound == pytest.approx(28, rel=1e-8)
    assert abs(result.x[:4].sum()) == 4
    assert abs(result.x[4:].sum()) == 7


def test_sweeps_are_those_of_a_plain_loop():
    W, v = random_weights(8, 5), unit_rows((8, 5), 5)
    csr = sparse.csr_array(W)
    ours = v.copy()
    done, gain = ascend(csr.indptr, csr.indices, csr.data, ours, 0.0, 3)
    values = []
    for _ in range(3):
        for i in range(8):
            pull = W[i] @ v
            v[i] = -pull / np.linalg.norm(pull)
        values.append((W * (1 - v @ v.T)).sum() / 4)
    np.testing.assert_allclose(ours, v, rtol=1e-12, atol=1e-14)
    assert done == 3
    assert gain == pytest.approx(values[2] - values[1], rel=1e-9)


def test_sweeps_end_once_the_gain_is_small():
    csr, v = sparse.csr_array(random_weights(8, 5)), unit_rows((8, 5), 5)
    done, gain = ascend(csr.indptr, csr.indices, csr.data, v, 1e-3, 1000)
    assert 1 < done < 1000
    assert gain <= 1e-3


def test_forms_of_a_graph_agree():
    W = random_weights(10, 2)
    graph = nx.from_numpy_array(W)
    graph.add_edge(3, 3, weight=5.0)
    expected = maxcut_sdp(W, rng=0)
    for form in (sparse.csc_array(W), sparse.coo_matrix(W), sparse.lil_array(W), graph):
        result = maxcut_sdp(form, rng=0)
        np.testing.assert_allclose(result.vectors, expected.vectors, rtol=1e-12, atol=1e-13)
        assert result.upper_bound == pytest.approx(expected.upper_bound, rel=1e-13)
    cuts = goemans_williamson(graph, rng=0)
    assert cuts.cut == pytest.approx(cut_weight(W, cuts.x), rel=1e-12)


def test_edges_without_weight_count_one_and_parallel_edges_add_up():
    graph = nx.MultiGraph([("a", "b"), ("b", "a"), ("b", "c")])
    result = goemans_williamson(graph, rng=0)
    assert result.cut == 3.0
    assert result.x.tolist() in ([1, -1, 1], [-1, 1, -1])


def test_input_is_left_alone():
    W = random_weights(6, 1) + np.eye(6)
    form = sparse.csr_array(W)
    goemans_williamson(form, rng=0)
    np.testing.assert_array_equal(form.toarray(), W)
    v = unit_rows((6, 3), 0)
    kept = v.copy()
    goemans_williamson(W, vectors=v, rng=0)
    np.testing.assert_array_equal(v, kept)


@pytest.mark.parametrize("factor", [1e-290, 3.0, 1e290])
def test_units_of_the_weights_do_not_matter(factor):
    W = random_weights(9, 4)
    plain, scaled = (goemans_williamson(c * W, rng=0) for c in (1.0, factor))
    assert scaled.success
    for name in ("cut", "mean_cut", "expected_cut", "sdp_value", "upper_bound"):
        assert scaled[name] == pytest.approx(factor * plain[name], rel=1e-8, abs=0)
    assert plain.cut == pytest.approx(cut_weight(W, plain.x), rel=1e-12)


def test_nodes_without_edges_and_graphs_without_edges():
    result = goemans_williamson(np.zeros((3, 3)), rng=0)
    assert (result.success, result.cut, result.sdp_value, result.upper_bound) == (True, 0, 0, 0)
    W = np.zeros((4, 4))
    W[0, 2] = W[2, 0] = 1
    result = goemans_williamson(W, rng=0)
    assert result.cut == 1
    assert result.upper_bound == pytest.approx(1, rel=1e-9)
    assert maxcut_sdp([[5.0]], rng=0).upper_bound == 0


def test_too_few_sweeps_are_no_success_but_bound():
    W = random_weights(12, 6)
    result = maxcut_sdp(W, maxiter=2, rng=0)
    assert (result.success, result.status, result.nit) == (False, 1, 2)
    assert "maxiter = 2" in result.message
    assert result.gap > 1e-9 * result.upper_bound
    assert result.upper_bound >= best_cut(W)


def test_too_low_a_rank_rests_below_the_bound():
    result = maxcut_sdp(nx.complete_graph(3), rank=1, rng=0)
    assert result.vectors.shape == (3, 1)
    assert not result.success
    assert "came to rest" in result.message
    assert result.value == 2
    assert result.upper_bound >= 2.25


@pytest.mark.parametrize(("n", "rank"), [(1, 3), (8, 5), (50, 11), (51, 12)])
def test_rank_is_enough_by_default(n, rank):
    assert maxcut_sdp(np.ones((n, n)), rng=0).vectors.shape == (n, rank)


def test_tolerance_is_relative_to_the_bound():
    W = random_weights(20, 7)
    loose, tight = (maxcut_sdp(W, tol=tol, rng=0) for tol in (1e-3, 1e-10))
    assert loose.nit < tight.nit
    assert loose.gap <= 1e-3 * loose.upper_bound
    assert tight.gap <= 1e-10 * tight.upper_bound


def test_sweeps_end_soon_after_the_gap_has_closed(solved):
    assert solved["random 12"].nit < 100
    assert solved["random 60"].nit < 300


def test_rounding_errors_of_symmetry_do_not_matter():
    W = random_weights(9, 11, density=1.0)
    W[2, 5] *= 1 + 1e-11
    one, other = maxcut_sdp(W, rng=0), maxcut_sdp(W.T, rng=0)
    np.testing.assert_array_equal(one.vectors, other.vectors)
    assert one.upper_bound == other.upper_bound
    assert one.upper_bound >= best_cut(W) * (1 - 1e-14)


def test_ratio_is_the_least_of_angle_by_cosine():
    found = minimize_scalar(
        lambda angle: angle / np.pi * 2 / (1 - np.cos(angle)),
        bounds=(1, 3.1),
        options={"xatol": 1e-10},
    )
    assert abs(found.fun - module.ROUNDING_RATIO) <= 1e-14


def test_cuts_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    W = random_weights(10, 8)
    whole = goemans_williamson(W, n_rounds=25, rng=3)
    monkeypatch.setattr(module, "BLOCK", 40)
    parts = goemans_williamson(W, n_rounds=25, rng=3)
    np.testing.assert_allclose(parts.cuts, whole.cuts, rtol=1e-12)
    np.testing.assert_array_equal(parts.x, whole.x)
    assert parts.sdp_value == pytest.approx(whole.sdp_value, rel=1e-13)
    assert whole.cuts.shape == (25,)
    assert whole.cut == whole.cuts.max()


def test_seed_decides():
    W = random_weights(10, 9)
    one, same, other = (goemans_williamson(W, rng=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.cuts, same.cuts)
    assert not np.array_equal(one.cuts, other.cuts)


@pytest.mark.parametrize("solve", [maxcut_sdp, goemans_williamson])
@pytest.mark.parametrize(
    ("W", "message"),
    [
        ([[0, 1], [2, 0]], r"W must be symmetric, got W\[0, 1\] = 1.0 and W\[1, 0\] = 2.0"),
        ([[0, -1], [-1, 0]], r"W must be >= 0, got -1.0"),
        ([[0, math.nan], [math.nan, 0]], "W must be finite"),
        (sparse.csr_array([[0, math.inf], [math.inf, 0]]), "W must be finite"),
        ([[0, 1e308], [1e308, 0]], "W must have a finite sum"),
        (np.ones((2, 3)), r"W must be a square matrix.*\(2, 3\)"),
        (sparse.csr_array(np.ones((2, 3))), r"W must be a square matrix.*\(2, 3\)"),
        (np.ones(3), "W must have 2 axes"),
        (np.empty((0, 0)), "W must be a square matrix"),
        (nx.DiGraph([(0, 1)]), "W must be an undirected graph"),
        (nx.Graph(), "W must have a node"),
        (nx.Graph([(0, 1, {"weight": -2.0})]), r"W must be >= 0, got -2.0"),
    ],
)
def test_weights_that_are_none_are_refused_by_name(solve, W, message):
    with pytest.raises(ValueError, match=message):
        solve(W)


@pytest.mark.parametrize("W", ["graph", [[0, 1j], [1j, 0]], sparse.csr_array([[0, 1j], [1j, 0]])])
def test_weights_that_are_no_numbers_are_refused_by_name(W):
    with pytest.raises(TypeError, match="W must be an array of float64"):
        maxcut_sdp(W)


def test_weights_of_a_graph_that_are_no_numbers_are_refused_by_name():
    with pytest.raises(TypeError, match="W must have edges whose weight is a number"):
        maxcut_sdp(nx.Graph([(0, 1, {"weight": "heavy"})]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": 0}, ValueError, "rank must be an integer >= 1, got 0"),
        ({"rank": 2.5}, TypeError, "rank must be an integer"),
        ({"tol": 0}, ValueError, "tol must be a finite number > 0, got 0"),
        ({"maxiter": 0}, ValueError, "maxiter must be an integer >= 1, got 0"),
    ],
)
def test_options_of_the_relaxation_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        maxcut_sdp(np.ones((3, 3)), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_rounds": 0}, "n_rounds must be an integer >= 1, got 0"),
        ({"vectors": np.eye(2)}, r"vectors must have shape \(3, any\), got \(2, 2\)"),
        ({"vectors": np.diag([1, 2, 1])}, "vectors must have rows of length 1, got 2 at row 1"),
        ({"vectors": np.diag([1, math.nan, 1])}, "vectors must be finite"),
    ],
)
def test_options_of_the_rounding_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        goemans_williamson(np.ones((3, 3)), **options)
