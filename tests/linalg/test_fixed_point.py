"""Parallel solution of feedforward systems: values, counts, refusals."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import networkx as nx
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from thalweg.linalg import dependency_depth, jacobi_error_bound, solve_feedforward

METHODS = ("jacobi", "gauss-seidel", "jacobi-gs", "gs-jacobi")


def chain(s, idx):
    """s_t = s_{t-1} + 1 from s_0 = 1."""
    return np.where(idx > 0, s[idx - 1], 0.0) + 1


def chains(lengths):
    """Chains side by side, whose states count from 1."""
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    return lambda s, idx: np.where(np.isin(idx, starts), 0.0, s[idx - 1]) + 1


def random_system(rng, size, density=0.2):
    graph = np.tril(rng.random((size, size)) < density, -1)
    weights, shift = graph * rng.normal(size=graph.shape), rng.normal(size=size)

    def fun(s, idx):
        return np.tanh((weights[idx] * s).sum(axis=1) + shift[idx])

    return fun, graph, weights


def in_order(fun, size):
    s = np.zeros(size)
    for t in range(size):
        s[t] = fun(s, np.array([t]))[0]
    return s


@pytest.mark.parametrize("shrink", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("columns", [(), (3,)])
def test_a_linear_system_is_solved_as_by_substitution(rng, method, columns, shrink):
    lower = np.tril(rng.normal(size=(23, 23)) / 5, -1)
    b = rng.normal(size=(23, *columns))
    result = solve_feedforward(
        lambda s, idx: lower[idx] @ s + b[idx],
        rng.normal(size=b.shape),
        method=method,
        block_size=4,
        shrink=shrink,
    )
    exact = scipy.linalg.solve_triangular(np.eye(23) - lower, b, lower=True, unit_diagonal=True)
    np.testing.assert_allclose(result.x, exact, rtol=0, atol=1e-12)
    assert result.success
    assert result.status == 0


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 25),
    density=st.floats(0, 0.6),
    method=st.sampled_from(METHODS),
    block=st.integers(1, 25),
    shrink=st.booleans(),
)
def test_any_graph_gives_the_plain_loop_bit_for_bit(seed, size, density, method, block, shrink):
    rng = np.random.default_rng(seed)
    fun, graph, _ = random_system(rng, size, density)
    block = min(block, size)
    result = solve_feedforward(
        fun, 5 * rng.normal(size=size), method=method, block_size=block, shrink=shrink
    )
    np.testing.assert_array_equal(result.x, in_order(fun, size))
    assert result.success
    if shrink or method != "jacobi-gs":
        assert result.nit <= size
    if method == "jacobi":
        assert result.nit <= min(dependency_depth(graph) + 1, size)
    if method == "gs-jacobi":
        assert max(result.block_iterations) <= block
        assert len(result.block_iterations) == -(-size // block)
        assert sum(result.block_iterations) == result.nit
    if method == "jacobi-gs":
        assert len(result.history) <= -(-size // block)
    assert len(result.history) == sum(result.block_iterations)


def test_a_chain_takes_as_many_iterations_as_states():
    result = solve_feedforward(chain, np.zeros(12))
    np.testing.assert_array_equal(result.x, np.arange(1, 13))
    assert result.nit == 12
    assert result.block_iterations == [12]
    assert result.nfev == 12 * 13 // 2


def test_independent_states_take_two_iterations():
    result = solve_feedforward(lambda s, idx: idx + 1.0, np.zeros(9))
    assert result.nit == 2
    np.testing.assert_array_equal(result.history, [9, 0])


@pytest.mark.parametrize("shrink", [True, False])
@pytest.mark.parametrize(
    ("lengths", "nit"),
    [((3, 6, 2), 7), ((4, 4, 4, 4), 5), ((5, 1), 6), ((2, 1, 5), 5)],
    ids=["longest in the middle", "all alike", "longest first", "longest last: nothing to confirm"],
)
def test_chains_side_by_side_take_one_more_than_the_longest(lengths, nit, shrink):
    result = solve_feedforward(chains(lengths), np.zeros(sum(lengths)), shrink=shrink)
    np.testing.assert_array_equal(result.x, np.concatenate([np.arange(1, n + 1) for n in lengths]))
    assert result.nit == nit


def test_leading_states_are_exact_after_as_many_iterations(rng):
    fun, _, _ = random_system(rng, 20, 0.8)
    exact, iterates = in_order(fun, 20), []

    def note(state):
        iterates.append(state.x.copy())
        assert state.final >= state.nit
        np.testing.assert_array_equal(state.x[: state.final], exact[: state.final])

    solve_feedforward(fun, rng.normal(size=20), callback=note)
    assert len(iterates) > 5
    for k, iterate in enumerate(iterates, 1):
        np.testing.assert_array_equal(iterate[:k], exact[:k])


def test_jacobi_uses_the_last_iterate_only():
    """After k iterations on a chain from zeros, every state from k on is k."""
    iterates = []
    solve_feedforward(chain, np.zeros(6), callback=lambda state: iterates.append(state.x.copy()))
    np.testing.assert_array_equal(iterates[1], [1, 2, 2, 2, 2, 2])


@pytest.mark.parametrize("threads", [False, True])
def test_jacobi_gs_sees_fresh_states_of_its_own_block_only(threads):
    iterates = []
    with ThreadPoolExecutor(2) as pool:
        result = solve_feedforward(
            chain,
            np.zeros(8),
            method="jacobi-gs",
            block_size=3,
            callback=lambda state: iterates.append(state.x.copy()),
            executor=pool if threads else None,
        )
    np.testing.assert_array_equal(iterates[0], [1, 2, 3, 1, 2, 3, 1, 2])
    np.testing.assert_array_equal(iterates[1], [1, 2, 3, 4, 5, 6, 4, 5])
    assert result.nit == 3 + 3 + 2
    assert result.nfev == 8 + 5 + 2


def test_gs_jacobi_finishes_a_block_before_the_next():
    seen = []

    def fun(s, idx):
        seen.append(idx.tolist())
        return chain(s, idx)

    result = solve_feedforward(fun, np.zeros(5), method="gs-jacobi", block_size=2)
    assert seen == [[0, 1], [1], [2, 3], [3], [4]]
    assert result.block_iterations == [2, 2, 1]


def test_gauss_seidel_calls_once_a_state():
    seen = []

    def fun(s, idx):
        seen.append(idx.tolist())
        return chain(s, idx)

    result = solve_feedforward(fun, np.full(7, 9.0), method="gauss-seidel")
    assert seen == [[t] for t in range(7)]
    assert result.nit == result.nfev == 7
    assert result.block_iterations == [1] * 7


def test_jacobi_gs_gives_an_executor_one_chunk_a_block():
    class Counting(ThreadPoolExecutor):
        submitted = 0

        def submit(self, *args, **kwargs):
            self.submitted += 1
            return super().submit(*args, **kwargs)

    with Counting(2) as pool:
        solve_feedforward(
            lambda s, idx: idx + 1.0, np.zeros(10), method="jacobi-gs", block_size=4, executor=pool
        )
    assert pool.submitted == 3 + 2  # the first block is final after one iteration


@pytest.mark.parametrize("method", METHODS)
def test_shrinking_saves_evaluations_alone(rng, method):
    fun, _, _ = random_system(rng, 30, 0.1)
    short, whole = (
        solve_feedforward(fun, np.zeros(30), method=method, block_size=5, shrink=shrink)
        for shrink in (True, False)
    )
    np.testing.assert_array_equal(short.x, whole.x)
    np.testing.assert_array_equal(short.history, whole.history)
    assert short.nit == whole.nit
    if method == "gauss-seidel":
        assert short.nfev == whole.nfev
    else:
        assert short.nfev < whole.nfev


@pytest.mark.parametrize("method", ["jacobi", "gs-jacobi", "jacobi-gs"])
def test_started_at_the_solution_one_iteration_confirms(rng, method):
    fun, _, _ = random_system(rng, 20)
    result = solve_feedforward(fun, in_order(fun, 20), method=method, block_size=10)
    assert result.block_iterations == ([1, 1] if method == "gs-jacobi" else [1])


def test_a_tolerance_stops_early_within_the_bound(rng):
    fun, _, weights = random_system(rng, 40)
    exact = in_order(fun, 40)
    result = solve_feedforward(fun, np.zeros(40), tol=1e-3)
    assert result.nit < solve_feedforward(fun, np.zeros(40)).nit
    assert result.history[-1] <= 1e-3 < result.history[-2]
    bound = jacobi_error_bound(np.abs(weights), np.abs(exact), result.nit)
    assert (np.abs(result.x - exact) <= bound + 1e-15).all()


def test_the_error_bound_holds_after_each_iteration_and_is_sharp_for_linear_chains(rng):
    fun, _, weights = random_system(rng, 15, 0.5)
    exact, start, errors = in_order(fun, 15), rng.normal(size=15), []
    solve_feedforward(fun, start, callback=lambda s: errors.append(np.abs(s.x - exact)))
    for k, error in enumerate(errors, 1):
        bound = jacobi_error_bound(np.abs(weights), np.abs(start - exact), k)
        assert (error <= bound + 1e-14).all()
        assert (bound[:k] == 0).all()
    half = np.diag(np.full(5, 0.5), -1)
    np.testing.assert_allclose(
        jacobi_error_bound(half, np.ones(6), 3), [0, 0, 0, 0.125, 0.125, 0.125]
    )
    np.testing.assert_array_equal(jacobi_error_bound(half, np.arange(6), 0), np.arange(6))


@pytest.mark.parametrize("kind", [np.float32, np.complex128, np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("method", METHODS)
def test_states_of_any_kind_keep_their_type(kind, method):
    def fun(s, idx):
        before = np.where(idx > 0, s[idx - 1], kind(0))
        return ~before if kind is np.bool_ else before + kind(2)

    result = solve_feedforward(fun, np.zeros(9, kind), method=method, block_size=2)
    expected = np.arange(1, 10) % 2 if kind is np.bool_ else 2 * np.arange(1, 10)
    np.testing.assert_array_equal(result.x, expected.astype(kind))
    assert result.x.dtype == kind


def test_large_integers_that_differ_by_one_are_a_change():
    big = 2**60
    result = solve_feedforward(
        lambda s, idx: np.where(idx > 0, s[idx - 1], big) + 1, np.full(4, big, dtype=np.int64)
    )
    np.testing.assert_array_equal(result.x, big + np.arange(1, 5))


@pytest.mark.parametrize("method", METHODS)
def test_tensors_give_what_arrays_give(rng, method):
    torch = pytest.importorskip("torch")
    weights = np.tril(rng.normal(size=(12, 12)), -1)
    start = rng.normal(size=(12, 2, 3))

    def arrays(s, idx):
        return np.tanh(np.einsum("ij,j...->i...", weights[idx], s) + 0.5)

    def tensors(s, idx):
        mixed = torch.einsum("ij,jkl->ikl", torch.tensor(weights[idx]), s)
        return torch.tanh(mixed + 0.5).requires_grad_()

    expected = solve_feedforward(arrays, start, method=method, block_size=5)
    result = solve_feedforward(tensors, torch.tensor(start), method=method, block_size=5)
    assert not result.x.requires_grad
    np.testing.assert_allclose(result.x.numpy(), expected.x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["bool", "int32", "float32", "complex64"])
def test_tensors_of_any_kind(kind):
    torch = pytest.importorskip("torch")
    dtype = getattr(torch, kind)

    def fun(s, idx):
        before = torch.cat((s.new_zeros(1), s))[idx]
        return ~before if kind == "bool" else before + 1

    result = solve_feedforward(fun, torch.zeros(5, dtype=dtype), check=True)
    expected = [True, False, True, False, True] if kind == "bool" else [1, 2, 3, 4, 5]
    assert result.x.tolist() == expected
    assert result.x.dtype == dtype


def test_a_view_of_the_states_may_be_returned():
    torch = pytest.importorskip("torch")
    start = torch.arange(6.0)

    def shift(s, idx):
        low, high = int(idx[0]), int(idx[-1]) + 1
        return s[low - 1 : high - 1] if low else torch.cat((torch.ones(1), s[: high - 1]))

    assert solve_feedforward(shift, start).x.tolist() == [1.0] * 6
    assert start.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("method", METHODS)
def test_an_executor_changes_nothing(rng, method):
    fun, _, _ = random_system(rng, 33)
    alone = solve_feedforward(fun, np.zeros(33), method=method, block_size=7)
    with ThreadPoolExecutor(3) as pool:
        shared = solve_feedforward(fun, np.zeros(33), method=method, block_size=7, executor=pool)
    np.testing.assert_array_equal(shared.x, alone.x)
    assert (shared.nit, shared.nfev) == (alone.nit, alone.nfev)


@pytest.mark.parametrize("method", ["jacobi", "jacobi-gs"])
def test_processes_can_do_the_work(method):
    """numpy.take(s, idx) returns the states themselves."""
    with ProcessPoolExecutor(2) as pool:
        result = solve_feedforward(
            np.take, np.arange(6.0), method=method, block_size=3, executor=pool
        )
    assert result.nit == (3 if method == "jacobi-gs" else 1)
    np.testing.assert_array_equal(result.x, np.arange(6))


def test_arguments_are_passed_on():
    result = solve_feedforward(lambda s, idx, a, b: a * idx + b, np.zeros(3), (2.0, 1.0))
    np.testing.assert_array_equal(result.x, [1, 3, 5])


def test_the_guess_is_left_alone():
    start = np.zeros(5)
    for method in METHODS:
        solve_feedforward(chain, start, method=method, block_size=2)
    np.testing.assert_array_equal(start, 0)


@pytest.mark.parametrize(
    ("method", "nit", "leading"), [("jacobi", 4, 4), ("jacobi-gs", 3, 3), ("gs-jacobi", 4, 4)]
)
def test_too_few_iterations_are_reported(method, nit, leading):
    result = solve_feedforward(chain, np.zeros(9), method=method, block_size=3, max_iter=4)
    assert not result.success
    assert result.status == 1
    assert result.nit == nit
    assert "max_iter = 4 parallel iterations did not suffice" in result.message
    np.testing.assert_array_equal(result.x[:leading], np.arange(1, leading + 1))


def test_just_enough_iterations_succeed():
    assert solve_feedforward(chain, np.zeros(9), max_iter=9).success
    assert not solve_feedforward(chain, np.zeros(9), max_iter=8).success


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("method", METHODS)
def test_a_state_that_is_not_finite_is_named(method, bad):
    def fun(s, idx):
        return np.where(idx == 3, bad, chain(s, idx))

    result = solve_feedforward(fun, np.full(8, 7.0), method=method, block_size=2)
    assert not result.success
    assert result.status == 2
    assert "State 3 is not finite" in result.message
    np.testing.assert_array_equal(result.x, [1, 2, 3, 7, 7, 7, 7, 7])


def test_an_overflow_that_the_guess_caused_is_overcome():
    """1 / s_{t-1} is infinite at the guess zero, and not in the solution."""

    def fun(s, idx):
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(idx > 0, 1 / s[idx - 1] - 1 / s[idx - 1] + 1, 2.0)

    result = solve_feedforward(fun, np.zeros(6))
    np.testing.assert_array_equal(result.x, [2, 1, 1, 1, 1, 1])
    assert result.success
    assert result.history[0] == np.inf


def test_the_callback_can_stop():
    def stop(state):
        if state.nit == 2:
            raise StopIteration

    result = solve_feedforward(chain, np.zeros(5), callback=stop)
    assert (result.success, result.status, result.nit) == (False, 3, 2)
    assert "callback" in result.message


def test_reading_later_states_is_found_where_asked():
    def ahead(s, idx):
        return 0.1 * s[np.minimum(idx + 1, 4)]

    def itself(s, idx):
        return np.where(idx == 2, s[2], 1.0)

    for fun, state in ((ahead, 0), (itself, 2)):
        with pytest.raises(ValueError, match=rf"s\[:t\] alone, but s\[{state}:\] moves {state}"):
            solve_feedforward(fun, np.zeros(5), check=True)
    for kind in (float, int, bool):
        solve_feedforward(lambda s, idx: s[idx - 1] * (idx > 0), np.ones(5, kind), check=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: solve_feedforward(chain, 3.0), ValueError, r"s0 must have shape \(T, ...\)"),
        (lambda: solve_feedforward(chain, []), ValueError, "s0 .* not be empty"),
        (lambda: solve_feedforward(chain, ["x"]), TypeError, "s0 must be an array of numbers"),
        (lambda: solve_feedforward(chain, [np.nan]), ValueError, "s0 must be finite"),
        (lambda: solve_feedforward(3, [1.0]), TypeError, "fun must be callable, got int"),
        (lambda: solve_feedforward(chain, [1.0], method="sor"), ValueError, "method must be one"),
        (
            lambda: solve_feedforward(chain, [1.0, 2.0], method="gs-jacobi"),
            ValueError,
            "block_size must be an integer from 1 to 2",
        ),
        (
            lambda: solve_feedforward(chain, [1.0], method="jacobi-gs", block_size=0),
            ValueError,
            "block_size must be an integer >= 1 and <= 1, got 0",
        ),
        (
            lambda: solve_feedforward(chain, [1.0], method="jacobi-gs", block_size=2),
            ValueError,
            "block_size must be an integer >= 1 and <= 1, got 2",
        ),
        (lambda: solve_feedforward(chain, [1.0], tol=-1), ValueError, "tol must be"),
        (lambda: solve_feedforward(chain, [1.0], max_iter=0), ValueError, "max_iter must be"),
        (lambda: solve_feedforward(chain, [1.0], callback=1), TypeError, "callback must be"),
        (
            lambda: solve_feedforward(lambda s, idx: s[:1], np.zeros((3, 2))),
            ValueError,
            r"return shape \(3, 2\) .* \(3, 2\), got \(1, 2\)",
        ),
        (
            lambda: solve_feedforward(lambda s, idx: s > 0, np.zeros(3)),
            ValueError,
            r"kind of number of s0, float64 of shape \(3,\), got bool",
        ),
        (
            lambda: solve_feedforward(lambda s, idx: s + 0.5, np.zeros(3, int)),
            ValueError,
            "int64 .* got float64",
        ),
        (lambda: jacobi_error_bound([[0, 1], [0, 0]], [1, 1], 1), ValueError, "strictly lower"),
        (lambda: jacobi_error_bound([[0.0], [1]], [1], 1), ValueError, "lipschitz must be square"),
        (lambda: jacobi_error_bound([[0, 0], [-1, 0]], [1, 1], 1), ValueError, "lipschitz .*>= 0"),
        (lambda: jacobi_error_bound([[0, 0], [1, 0]], [1, -1], 1), ValueError, "e0 must be >= 0"),
        (lambda: jacobi_error_bound([[0, 0], [1, 0]], [1], 1), ValueError, "e0 must have shape"),
        (lambda: jacobi_error_bound([[0, 0], [1, 0]], [1, 1], -1), ValueError, "k must be"),
        (lambda: dependency_depth([[0, 1], [0, 0]]), ValueError, r"nonzero entry at \(0, 1\)"),
        (lambda: dependency_depth([[0, 0], [0, 1]]), ValueError, r"nonzero entry at \(1, 1\)"),
        (lambda: dependency_depth(np.zeros((2, 3))), ValueError, r"got shape \(2, 3\)"),
        (lambda: dependency_depth([[0, 0], [np.nan, 0]]), ValueError, "graph must be finite"),
        (lambda: dependency_depth(nx.DiGraph([(0, 1), (1, 0)])), ValueError, "without cycles"),
        (lambda: dependency_depth(nx.path_graph(3)), ValueError, "must be directed"),
        (lambda: dependency_depth(nx.DiGraph()), ValueError, "must have a node"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_tensor_asks_for_tensors():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="fun must return a tensor as s0 is, got ndarray"):
        solve_feedforward(lambda s, idx: np.zeros(len(idx)), torch.zeros(3))


def test_depth_of_named_graphs():
    assert dependency_depth(np.zeros((5, 5))) == 1
    assert dependency_depth(np.eye(5, k=-1, dtype=bool)) == 5
    assert dependency_depth(np.tril(np.ones((6, 6)), -1)) == 6
    assert dependency_depth(scipy.linalg.block_diag(np.eye(3, k=-1), np.eye(4, k=-1))) == 4
    assert dependency_depth(sparse.eye_array(1000, k=-2)) == 500


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 20), density=st.floats(0, 0.5))
def test_depth_agrees_with_networkx_in_every_form(seed, size, density):
    rng = np.random.default_rng(seed)
    graph = np.tril(rng.random((size, size)) < density, -1)
    directed = nx.DiGraph()
    directed.add_nodes_from(range(size))
    directed.add_edges_from((j, t, {"weight": 7.0}) for t, j in zip(*graph.nonzero(), strict=True))
    expected = len(nx.dag_longest_path(directed, weight=None))
    assert dependency_depth(graph) == expected
    assert dependency_depth(sparse.csc_array(graph)) == expected
    assert dependency_depth(directed) == expected


@pytest.fixture
def rng():
    return np.random.default_rng(0)
