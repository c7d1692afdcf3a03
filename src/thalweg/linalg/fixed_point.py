"""Recurrences, layer chains and autoregressive models in fewer sequential calls, same values.

States that each read only earlier ones, s_t = h_t(s_1, ..., s_{t-1}), form a triangular system of
equations. Going through them in order is its Gauss-Seidel iteration; Jacobi's updates all states at
once from the last iterate and is exact after as many iterations as the longest chain of dependent
states, often after far fewer.

| method | choose it |
|---|---|
| ``"jacobi"`` | where one vectorised call gives all states: fewest calls in a row |
| ``"gs-jacobi"`` | for long sequences or little memory: Jacobi inside a block, blocks in order |
| ``"jacobi-gs"`` | for few processors: each goes through a block in order, all blocks at once |
| ``"gauss-seidel"`` | where nothing runs in parallel: the plain loop |

Source: "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving" (2021), arXiv
2002.03629. Leaving out states known to be final is an addition here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.optimize import OptimizeResult

from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.linalg._feedforward_states import Run, check_reads, read_states

METHODS = ("jacobi", "gauss-seidel", "jacobi-gs", "gs-jacobi")
MESSAGES = (
    "The states no longer change.",
    "max_iter = {max_iter} parallel iterations did not suffice; the last change was {change:.3g}.",
    "State {state} is not finite; the states before it are final, the others as in s0.",
    "The callback stopped the iteration.",
)


def solve_feedforward(
    fun: Callable[..., Any],
    s0: Any,
    args: tuple[Any, ...] = (),
    *,
    method: str = "jacobi",
    block_size: int | None = None,
    tol: float = 0.0,
    max_iter: int | None = None,
    shrink: bool = True,
    executor: Executor | None = None,
    callback: Callable[[OptimizeResult], Any] | None = None,
    check: bool = False,
) -> OptimizeResult:
    """Solve s_t = h_t(s_0, ..., s_{t-1}), t = 0, ..., T - 1, by parallel fixed-point iteration.

    Parameters
    ----------
    fun : callable
        ``fun(s, idx, *args)`` returns the new values of the states `idx` (int array, ascending),
        shape (len(idx), ...), from all states `s` of shape (T, ...). For state t it may read
        ``s[:t]`` only, and it must leave `s` alone.
    s0 : array_like or torch.Tensor of shape (T, ...)
        Any finite guess, such as zeros. Its type is that of the states; it is not changed.
    args : tuple, optional
        Further arguments of `fun`.
    method : {"jacobi", "gauss-seidel", "jacobi-gs", "gs-jacobi"}, default "jacobi"
        All states at once; one after another; blocks at once with their states in order; blocks in
        order with their states at once.
    block_size : int, optional
        States of a block, 1 to T; the two hybrids need it, the others ignore it.
    tol : float, default 0
        Stop where no entry changed by more. At 0 the values are those of the plain loop, to the
        rounding in which a batched and a single evaluation by `fun` differ; above 0 they are
        approximate (`jacobi_error_bound`).
    max_iter : int, optional
        Most parallel iterations, as `nit` counts them. By default none is needed: T suffice.
    shrink : bool, default True
        Whether to leave out states known to be final: states before the first that changed and
        that one itself. It changes the number of evaluations only.
    executor : concurrent.futures.Executor, optional
        Evaluates chunks of the states, or the blocks of ``"jacobi-gs"``, concurrently. For a pool
        of processes `fun` must be picklable.
    callback : callable, optional
        ``callback(state)`` after each iteration, with ``x`` (the iterate itself, not a copy),
        ``nit``, ``nfev``, ``change`` and ``final``, the number of leading states known to be final.
        Raising StopIteration ends the run.
    check : bool, default False
        Whether to test first that state t does not change when ``s[t:]`` does; 2 T calls of `fun`.

    Returns
    -------
    scipy.optimize.OptimizeResult
        ``x``, of shape and type of `s0`; ``nit``, calls of `fun` that follow one another, the
        confirming one included; ``nfev``, states evaluated; ``block_iterations``, list of the
        iterations of each block in order (one entry where all blocks are done at once);
        ``history``, the largest change in each iteration; ``success``, ``status`` and ``message``.
        The ideal speed-up is T / nit.

    Raises
    ------
    TypeError
        If `s0` is not made of numbers or `fun` is not callable.
    ValueError
        If an option is out of range, `s0` is empty or not finite, `fun` returns another shape or
        kind of number, or `check` finds a state that reads later ones.

    Notes
    -----
    Jacobi takes at most min(depth + 1, T) iterations, depth as in `dependency_depth`, and one fewer
    where the last state alone changed last, since nothing is left to confirm. A block of B
    states takes at most B of them in ``"gs-jacobi"``. ``"jacobi-gs"`` takes at most ceil(T / B)
    iterations, each counted with as many calls as its longest block.

    A state that is not finite ends the run (``success=False``) once it is final. Before that it
    may be the fault of the guess, which later iterations correct.

    References
    ----------
    "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving" (2021), arXiv
    2002.03629: the nonlinear Jacobi, Gauss-Seidel, Jacobi-GS and GS-Jacobi iterations.

    Examples
    --------
    A recurrence of 1000 steps that forgets its past:

    >>> import numpy as np
    >>> from thalweg.linalg import solve_feedforward
    >>> drive = np.sin(np.arange(1000.0))
    >>> def step(s, idx):
    ...     before = np.where(idx > 0, s[idx - 1], 0.0)
    ...     return np.tanh(0.5 * before + drive[idx])
    >>> parallel = solve_feedforward(step, np.zeros(1000))
    >>> plain = solve_feedforward(step, np.zeros(1000), method="gauss-seidel")
    >>> bool(np.allclose(parallel.x, plain.x, rtol=0, atol=1e-15))
    True
    >>> plain.nit, parallel.nit < 60
    (1000, True)
    """
    if not callable(fun):
        raise TypeError(f"fun must be callable, got {type(fun).__name__}")
    s = read_states(s0)
    stage, group = _blocks(method, block_size, len(s))
    tol = check_real("tol", tol, at_least=0)
    if max_iter is not None:
        max_iter = check_count("max_iter", max_iter)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, got {type(callback).__name__}")
    if check:
        check_reads(fun, s, args)
    run = Run(fun, s, args, group, tol, max_iter, shrink, executor, callback)
    for start in range(0, len(s), stage):
        run.solve(start, min(start + stage, len(s)))
        if run.status:
            break
    message = MESSAGES[run.status].format(
        max_iter=max_iter, change=run.history[-1] if run.history else np.inf, state=run.bad_state
    )
    return OptimizeResult(
        x=run.s,
        nit=run.nit,
        nfev=run.nfev,
        block_iterations=run.block_iterations,
        history=np.array(run.history),
        success=run.status == 0,
        status=run.status,
        message=message,
    )


def dependency_depth(graph: Any) -> int:
    """Return the number of states on the longest path of a dependency graph.

    Jacobi iteration is exact after that many iterations.

    Parameters
    ----------
    graph : array_like or scipy.sparse array of shape (T, T), or networkx.DiGraph
        A strictly lower triangular matrix whose entry (t, j) is nonzero where state t reads state
        j; or a graph with an edge from j to t.

    Returns
    -------
    int
        1 where no state reads another, T where each reads the one before.

    Raises
    ------
    ValueError
        If the matrix is not square and strictly lower triangular, has NaN, or the graph has a
        cycle or no node.

    References
    ----------
    "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving" (2021), arXiv
    2002.03629.

    Examples
    --------
    >>> from thalweg.linalg import dependency_depth
    >>> dependency_depth([[0, 0, 0], [1, 0, 0], [1, 0, 0]])
    2
    """
    networkx = sys.modules.get("networkx")
    if networkx is not None and isinstance(graph, networkx.Graph):
        return _longest_path(graph, networkx)
    if sparse.issparse(graph):
        matrix = sparse.csr_array(graph)
        check_array("graph", matrix.data, ndim=1)
    else:
        matrix = sparse.csr_array(check_array("graph", graph, ndim=2))
    rows, columns = matrix.nonzero()
    if matrix.shape[0] != matrix.shape[1] or not matrix.shape[0]:
        raise ValueError(f"graph must be a square matrix, got shape {matrix.shape}")
    if (columns >= rows).any():
        row, column = (int(i[np.argmax(columns >= rows)]) for i in (rows, columns))
        raise ValueError(
            f"graph must be strictly lower triangular, got a nonzero entry at ({row}, {column})"
        )
    depth = np.ones(matrix.shape[0], dtype=np.int64)
    order = np.argsort(rows, kind="stable")
    bounds = np.searchsorted(rows[order], np.arange(len(depth) + 1))
    for t in range(len(depth)):
        before = columns[order[bounds[t] : bounds[t + 1]]]
        if before.size:
            depth[t] = 1 + depth[before].max()
    return int(depth.max())


def jacobi_error_bound(lipschitz: ArrayLike, e0: ArrayLike, k: int) -> NDArray[np.float64]:
    """Bound the error of each state after k Jacobi iterations: ``L^k e0``.

    Parameters
    ----------
    lipschitz : array_like of shape (T, T)
        Strictly lower triangular, >= 0: entry (t, j) bounds how much h_t changes in relation to a
        change of state j.
    e0 : array_like of shape (T,)
        Bounds on the errors of the initial guess, >= 0.
    k : int
        Iterations, >= 0.

    Returns
    -------
    ndarray of shape (T,)
        Zero in the first k entries.

    Raises
    ------
    ValueError
        If shapes do not match, an entry is negative or not finite, or the matrix is not strictly
        lower triangular.

    Examples
    --------
    >>> from thalweg.linalg import jacobi_error_bound
    >>> jacobi_error_bound([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]], [1, 1, 1], 1)
    array([0. , 0.5, 0.5])
    """
    matrix = check_array("lipschitz", lipschitz, ndim=2)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"lipschitz must be square, got shape {matrix.shape}")
    error = check_array("e0", e0, shape=(len(matrix),)).copy()
    for name, values in (("lipschitz", matrix), ("e0", error)):
        if (values < 0).any():
            raise ValueError(f"{name} must be >= 0, got {values.min():g}")
    if np.triu(matrix).any():
        raise ValueError("lipschitz must be strictly lower triangular, got entries above")
    for _ in range(min(check_count("k", k, at_least=0), len(matrix))):
        error = matrix @ error
    return error


def _blocks(method: str, block_size: int | None, n: int) -> tuple[int, int]:
    """States of a stage and of a group.

    Stages are solved one after another; the groups of a stage at once, their states in order.
    """
    check_option("method", method, METHODS)
    if block_size is not None:
        block_size = check_count("block_size", block_size, at_most=n)
    elif method in ("jacobi-gs", "gs-jacobi"):
        raise ValueError(f"block_size must be an integer from 1 to {n} for {method!r}, got None")
    if method == "gauss-seidel":
        return 1, 1
    if method == "jacobi":
        return n, 1
    assert block_size is not None
    return (n, block_size) if method == "jacobi-gs" else (block_size, 1)


def _longest_path(graph: Any, networkx: Any) -> int:
    if not graph.is_directed() or not networkx.is_directed_acyclic_graph(graph):
        raise ValueError(f"graph must be directed and without cycles, got {graph}")
    if not len(graph):
        raise ValueError("graph must have a node, got none")
    return sum(1 for _ in networkx.topological_generations(graph))
