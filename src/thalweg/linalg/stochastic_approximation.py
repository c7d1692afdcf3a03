r"""Solve a linear system from noisy draws of it, with a constant step: LMS, TD(0), gradients.

.. math:: \theta_n = \theta_{n-1} - \alpha (A_n \theta_{n-1} - b_n)

with independent pairs of means A and b approaches the solution of :math:`A \theta^* = b` if the
eigenvalues of A have positive real parts, and then keeps fluctuating around it by an amount of
order :math:`\sqrt\alpha`. How large: `thalweg.linalg.stationary_covariance`. How far at a finite
n, with a given confidence: `thalweg.linalg.confidence_radius`. Where A is random, the fluctuations
have polynomial tails: `thalweg.linalg.tail_index`.

Source: "Tight High Probability Bounds for Linear Stochastic Approximation with Fixed Stepsize"
(2021), arXiv 2106.01257.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.linalg import _stochastic_approximation_kernels as kernels
from thalweg.linalg.random_products import check_hurwitz, lyapunov_constants
from thalweg.linalg.stochastic_samplers import Floats, Ints, TabulatedSampler

Sampler = Callable[[np.random.Generator, int], tuple[ArrayLike, ArrayLike]]

CHAINS_PER_BLOCK = 1024
"""Chains that share a generator and go to one worker: the draws do not depend on the executor."""
BLOCK_NUMBERS = 1 << 17
DRAWS_TO_JUDGE = 100
"""Draws a dimension from which the mean of A is known well enough to warn of a large step."""


class ChainProgress(NamedTuple):
    """How far a run is: what a `callback` gets.

    Attributes
    ----------
    iteration, n_iter : int
        Iterations done and asked for, of the chains that run now.
    chains_done, n_chains : int
        Chains finished and asked for.
    """

    iteration: int
    n_iter: int
    chains_done: int
    n_chains: int


def linear_sa(
    sample: Sampler,
    theta0: ArrayLike,
    step_size: float,
    n_iter: int,
    *,
    n_chains: int = 1,
    average: bool = False,
    record: Iterable[int] | None = None,
    on_divergence: str = "raise",
    rng: int | np.random.Generator | None = None,
    executor: Executor | None = None,
    callback: Callable[[ChainProgress], Any] | None = None,
) -> Any:
    r"""Run independent chains of linear stochastic approximation with a constant step.

    Parameters
    ----------
    sample : callable
        ``sample(rng, size) -> (A, b)``: independent matrices (size, d, d) and vectors (size, d).
        `lms_sampler`, `td_sampler` and `finite_sampler` make one, and those are fastest.
    theta0 : array_like, shape (d,) or (n_chains, d)
        Where the chains start.
    step_size : float
        Constant step :math:`\alpha` > 0, in units of one over A. Above
        ``lyapunov_constants(a_bar).step_max`` a UserWarning is issued; where `sample` does not know
        its mean, that of the first draws is taken if they are many enough.
    n_iter : int
        Iterations.
    n_chains : int, default 1
        Independent chains.
    average : bool, default False
        Whether to return the running means :math:`(\theta_1 + ... + \theta_n) / n` of Polyak and
        Ruppert instead of the iterates.
    record : iterable of int, optional
        Iterations to return, ascending, from 0 (the start) to `n_iter`; the last alone if None.
    on_divergence : {"raise", "stop"}, default "raise"
        What to do where a chain overflows: raise, or stop this chain and return the others.
    rng : None, int or numpy.random.Generator
        Source of randomness; every 1024 chains have a child of it.
    executor : concurrent.futures.Executor, optional
        Where blocks of 1024 chains run; the draws are the same without it.
    callback : callable, optional
        Called with a `ChainProgress` after each block of iterations; with an executor, after each
        block of chains.

    Returns
    -------
    draws : ndarray, shape (n_chains, n_recorded, d)
        The recorded iterates.
    finite : ndarray of bool, shape (n_chains,)
        With ``on_divergence="stop"`` only: which chains did not overflow. `draws` holds these.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, `sample` returns other shapes, or the mean that it knows has an
        eigenvalue without positive real part.
    FloatingPointError
        If a chain overflows; the message names chain and iteration.

    References
    ----------
    "Tight High Probability Bounds for Linear Stochastic Approximation with Fixed Stepsize" (2021),
    arXiv 2106.01257: the recursion.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.linalg import linear_sa, lms_sampler
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 2))
    >>> y = X @ [1.0, -2.0] + 0.1 * rng.normal(size=500)
    >>> draws = linear_sa(lms_sampler(X, y), np.zeros(2), 0.05, 2000, n_chains=100, rng=0)
    >>> draws.shape
    (100, 1, 2)
    >>> draws.mean(axis=(0, 1)).round(2)
    array([ 1., -2.])
    """
    if not callable(sample):
        raise TypeError(f"sample must be callable, got {type(sample).__name__}")
    step_size = check_real("step_size", step_size, above=0)
    n_iter = check_count("n_iter", n_iter)
    starts = _check_starts(theta0, check_count("n_chains", n_chains))
    recorded = _check_record(record, n_iter)
    check_option("on_divergence", on_divergence, ("raise", "stop"))
    if isinstance(sample, TabulatedSampler):
        if sample.b.shape[1] != starts.shape[1]:
            raise ValueError(
                f"theta0 must have {sample.b.shape[1]} dimensions like sample, got shape "
                f"{starts.shape}"
            )
        check_hurwitz("the mean of sample", sample.a_bar)
        _warn_of_step(sample.a_bar, step_size, "the mean of sample")
    firsts = range(0, n_chains, CHAINS_PER_BLOCK)
    generators = np.random.default_rng(rng).spawn(len(firsts))
    tasks = [
        _Task(sample, starts[first : first + CHAINS_PER_BLOCK], step_size, n_iter, average,
              recorded, generator)
        for first, generator in zip(firsts, generators, strict=True)
    ]  # fmt: skip
    futures = None if executor is None else [executor.submit(_run, task, None) for task in tasks]
    draws = np.empty((n_chains, len(recorded), starts.shape[1]))
    stopped = np.zeros(n_chains, dtype=np.int64)
    for number, (first, task) in enumerate(zip(firsts, tasks, strict=True)):
        last = first + len(task.starts)
        if futures is None:
            report = _reporter(callback, n_iter, first, n_chains)
            done = _run(task, report)
        else:
            done = futures[number].result()
        draws[first:last], stopped[first:last] = done.draws, done.stopped
        if callback is not None:
            callback(ChainProgress(n_iter, n_iter, last, n_chains))
        if number == 0 and done.mean is not None:
            _warn_of_step(done.mean, step_size, f"the mean of the first {done.n_mean} matrices")
        if on_divergence == "raise" and done.stopped.any():
            if futures is not None:
                for future in futures:
                    future.cancel()
            chain = int(np.flatnonzero(done.stopped)[0])
            raise FloatingPointError(
                f"chain {first + chain} overflowed at iteration {done.stopped[chain]}: take a "
                f"smaller step_size than {step_size:g}, or look for entries of sample that are "
                "not finite"
            )
    return draws if on_divergence == "raise" else (draws[stopped == 0], stopped == 0)


class ErrorParts(NamedTuple):
    """What the error of an iterate is made of; each of shape (n + 1, d), rows 0 to n.

    Attributes
    ----------
    transient : ndarray
        What is left of the start: the product of the matrices I - step A_n times its error.
    linear : ndarray
        The noise, carried on by the mean matrix: the leading part of the fluctuation.
    remainder : ndarray
        What the randomness of the matrices adds to that.
    """

    transient: Floats
    linear: Floats
    remainder: Floats


def error_parts(
    a: ArrayLike,
    b: ArrayLike,
    theta0: ArrayLike,
    step_size: float,
    a_bar: ArrayLike,
    theta_star: ArrayLike,
) -> ErrorParts:
    """Split the error of every iterate of a known stream into its three parts.

    Parameters
    ----------
    a, b : array_like, shape (n, d, d) and (n, d)
        The pairs in the order in which they were used.
    theta0 : array_like, shape (d,)
        Start.
    step_size : float
        Constant step > 0.
    a_bar, theta_star : array_like, shape (d, d) and (d,)
        Mean matrix and target.

    Returns
    -------
    ErrorParts
        ``transient + linear + remainder`` is ``theta - theta_star``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "Tight High Probability Bounds for Linear Stochastic Approximation with Fixed Stepsize" (2021),
    arXiv 2106.01257: the decomposition into transient and fluctuation.

    Examples
    --------
    >>> from thalweg.linalg import error_parts
    >>> parts = error_parts([[[1.0]], [[3.0]]], [[2.0], [2.0]], [0.0], 0.1, [[2.0]], [1.0])
    >>> [part[-1].round(6).tolist() for part in parts]
    [[-0.63], [-0.02], [-0.01]]
    """
    a = check_array("a", a, ndim=3)
    n, d = a.shape[:2]
    b = check_array("b", b, shape=(n, d))
    a_bar = check_array("a_bar", a_bar, shape=(d, d))
    a = check_array("a", a, shape=(n, d, d))
    theta_star = check_array("theta_star", theta_star, shape=(d,))
    step_size = check_real("step_size", step_size, above=0)
    parts = ErrorParts(*np.zeros((3, n + 1, d)))
    transient, linear, remainder = parts
    transient[0] = check_array("theta0", theta0, shape=(d,)) - theta_star
    for i in range(n):
        noise = b[i] - a[i] @ theta_star
        transient[i + 1] = transient[i] - step_size * a[i] @ transient[i]
        linear[i + 1] = linear[i] - step_size * (a_bar @ linear[i] - noise)
        remainder[i + 1] = remainder[i] - step_size * (
            a[i] @ remainder[i] + (a[i] - a_bar) @ linear[i]
        )
    return parts


@dataclass(frozen=True)
class _Task:
    """A block of chains."""

    sample: Sampler
    starts: Floats
    step_size: float
    n_iter: int
    average: bool
    recorded: Ints
    rng: np.random.Generator


@dataclass(frozen=True)
class _Done:
    """What a block of chains brought; the mean of its first matrices, if they are enough."""

    draws: Floats
    stopped: Ints
    mean: Floats | None
    n_mean: int


def _run(task: _Task, report: Callable[[int], Any] | None) -> _Done:
    c, d = task.starts.shape
    tabulated = isinstance(task.sample, TabulatedSampler)
    theta, mean = task.starts.copy(), np.zeros((c, d))
    draws, stopped = np.zeros((c, len(task.recorded), d)), np.zeros(c, dtype=np.int64)
    slots = np.full(task.n_iter + 1, -1)
    slots[task.recorded] = np.arange(len(task.recorded))
    if slots[0] >= 0:
        draws[:, slots[0]] = theta
    n_steps = max(1, BLOCK_NUMBERS // (c * (1 if tabulated else d * d + d)))
    a_mean, n_mean = None, 0
    for first in range(0, task.n_iter, n_steps):
        length = min(n_steps, task.n_iter - first)
        state = (theta, mean, task.step_size, first, slots[first + 1 : first + length + 1],
                 task.average, draws, stopped)  # fmt: skip
        if isinstance(task.sample, TabulatedSampler):
            task.sample.steps(task.sample.indices(task.rng, (length, c)), *state)
        else:
            a, b = _check_drawn(task.sample(task.rng, length * c), length * c, d)
            if first == 0 and len(a) >= DRAWS_TO_JUDGE * d:
                a_mean, n_mean = a.mean(axis=0), len(a)
            kernels.dense_steps(a, b, np.arange(length * c).reshape(length, c), *state)
        if report is not None:
            report(first + length)
        if stopped.all():
            break
    return _Done(draws, stopped, a_mean, n_mean)


def _reporter(
    callback: Callable[[ChainProgress], Any] | None, n_iter: int, chains_done: int, n_chains: int
) -> Callable[[int], Any] | None:
    if callback is None:
        return None
    return lambda done: (
        callback(ChainProgress(done, n_iter, chains_done, n_chains)) if done < n_iter else None
    )


def _check_drawn(drawn: Any, size: int, d: int) -> tuple[Floats, Floats]:
    try:
        a, b = drawn
    except (TypeError, ValueError):
        raise TypeError(f"sample must return a pair (A, b), got {type(drawn).__name__}") from None
    a = check_array("A of sample(rng, size)", a, shape=(size, d, d), finite=False)
    b = check_array("b of sample(rng, size)", b, shape=(size, d), finite=False)
    return np.ascontiguousarray(a), np.ascontiguousarray(b)


def _check_starts(theta0: ArrayLike, n_chains: int) -> Floats:
    starts = check_array("theta0", theta0)
    if starts.ndim == 1:
        starts = np.tile(starts, (n_chains, 1))
    if starts.ndim != 2 or len(starts) != n_chains or starts.shape[1] == 0:
        raise ValueError(f"theta0 must have shape (d,) or ({n_chains}, d), got {np.shape(theta0)}")
    return np.ascontiguousarray(starts)


def _check_record(record: Iterable[int] | None, n_iter: int) -> Ints:
    if record is None:
        return np.array([n_iter])
    recorded = np.array(
        [check_count("record", n, at_least=0, at_most=n_iter) for n in record], dtype=np.int64
    )
    if len(recorded) == 0 or (np.diff(recorded) <= 0).any():
        raise ValueError("record must hold iterations in ascending order, at least one")
    return recorded


def _warn_of_step(a_bar: NDArray[Any], step_size: float, whose: str) -> None:
    try:
        step_max = lyapunov_constants(a_bar).step_max
    except ValueError as error:
        warnings.warn(f"chains may diverge: of {whose}, {error}", UserWarning, stacklevel=3)
        return
    if step_size > step_max:
        warnings.warn(
            f"step_size {step_size:g} is above {step_max:.4g}, up to which {whose} is known to "
            "contract (lyapunov_constants); chains may diverge or have heavy tails",
            UserWarning,
            stacklevel=3,
        )
