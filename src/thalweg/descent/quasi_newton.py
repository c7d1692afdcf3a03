"""Quasi-Newton steps along stochastic gradients: curvature remembered from a few past differences.

Differences of noisy gradients are noise. `stochastic_quasi_newton` takes its curvature pairs either
from Hessian products at averaged points, now and then, or from gradients of one and the same batch
at both ends of a step. `two_loop` applies the memory to a gradient.

Source: "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, section
6.2 (Algorithm 6.2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_array, check_count, check_option
from thalweg.descent._counted_runs import (
    Batches,
    Callback,
    Counted,
    StepRule,
    check_batch,
    check_callback,
    check_point,
    check_steps,
    follow,
)
from thalweg.descent.problems import FiniteSum

Floats = NDArray[np.float64]
Pair = tuple[Floats, Floats]

LEAST_CURVATURE = 1e-12
POWELL = 0.2
CURVATURES = ("hessian", "gradient", "damped")


def stochastic_quasi_newton(
    problem: FiniteSum,
    x0: ArrayLike,
    *,
    step: StepRule,
    n_steps: int,
    batch_size: int = 50,
    hessian_batch: int = 300,
    memory: int = 10,
    update_every: int = 10,
    curvature: Literal["hessian", "gradient", "damped"] = "hessian",
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Minimise a finite sum by L-BFGS steps along stochastic gradients.

    .. math:: x_{k+1} = x_k - \alpha_k H_k \nabla f_{S_k}(x_k)

    Parameters
    ----------
    problem : FiniteSum
        What is minimised; for ``curvature="hessian"`` with ``hessp(x, v, idx)``.
    x0 : array_like, shape (dim,)
        Start.
    step : float, array_like of shape (n_steps,) or callable
        The alpha_k > 0; a callable gets k = 1, 2, ...
    n_steps : int
        Steps.
    batch_size : int, default 50
        Components of S_k, at most n.
    hessian_batch : int, default 300
        Components of a Hessian product; n where the problem has fewer.
    memory : int, default 10
        Curvature pairs kept.
    update_every : int, default 10
        Steps between pairs of ``curvature="hessian"``.
    curvature : {"hessian", "gradient", "damped"}, default "hessian"
        Where a pair (s, y) comes from. "hessian": s is the difference of the means of the points
        over the last two blocks of `update_every` steps, y a Hessian product with it at the last
        mean. "gradient": every step, y the difference of the gradients of the step's batch at its
        two ends, which costs a second gradient. "damped": the same, y mixed with B s (Powell) so
        that s·y >= 0.2 s·Bs, for functions that are not convex.
    rng, record, callback
        As in `thalweg.descent.subsampled_newton_cg`; batches are those of `thalweg.descent.sgd`
        with the same `rng`.

    Returns
    -------
    OptimizeResult
        As of `thalweg.descent.subsampled_newton_cg`, and ``pairs``, the (s, y) at the end, oldest
        first. Success is to have taken all steps.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed or the problem has no Hessian products, before any work.

    Notes
    -----
    A pair is kept if s·y > 1e-12 s·s. Without pairs a step is one of SGD. The start counts as the
    first block, so that the first pair is there after `update_every` steps instead of twice as
    many; with ``update_every=1`` and all components a quadratic is minimised as by L-BFGS.

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, Algorithm 6.2.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> problem = LeastSquares([[1.0, 0.0], [0.0, 10.0]], [1.0, 20.0])
    >>> result = stochastic_quasi_newton(
    ...     problem, [0.0, 0.0], step=lambda k: 0.01 if k == 1 else 1.0, n_steps=15, batch_size=2,
    ...     update_every=1)
    >>> result.x.round(6)
    array([1., 2.])
    """
    check_option("curvature", curvature, CURVATURES)
    counted = Counted(problem, ("hessp",) if curvature == "hessian" else ())
    start = check_point(counted, x0)
    n_steps = check_count("n_steps", n_steps, at_least=0)
    length = check_steps(step, n_steps)
    size = check_batch("batch_size", batch_size, counted.n)
    hessian_size = min(check_count("hessian_batch", hessian_batch), counted.n)
    memory = check_count("memory", memory)
    update_every = check_count("update_every", update_every)
    check_callback(callback)
    rng = np.random.default_rng(rng)
    batches = Batches(rng, counted.n)
    samples = Batches(rng.spawn(1)[0], counted.n)
    pairs: deque[Pair] = deque(maxlen=memory)
    block, last_mean = np.zeros_like(start), start

    def move(x: Floats, k: int) -> Floats:
        nonlocal block, last_mean
        S = batches.draw(size)
        g = counted.gradient(x, S)
        ahead = x - length(k) * two_loop(g, pairs)
        if curvature == "hessian":
            block = block + ahead
            if k % update_every == 0:
                mean, block = block / update_every, np.zeros_like(block)
                s = mean - last_mean
                _keep(pairs, s, counted.hessp(mean, s, samples.draw(hessian_size)))
                last_mean = mean
            return ahead
        s, y = ahead - x, counted.gradient(ahead, S) - g
        _keep(pairs, s, powell_damped(s, y, pairs) if curvature == "damped" else y)
        return ahead

    result = follow(counted, start, move, n_steps=n_steps, record=record, callback=callback)
    result.pairs = list(pairs)
    return result


def two_loop(g: ArrayLike, pairs: Iterable[tuple[ArrayLike, ArrayLike]]) -> Floats:
    """Return the inverse Hessian approximation of L-BFGS times a vector.

    The initial matrix is s·y / y·y times the identity, of the newest pair; the identity without
    pairs.

    Parameters
    ----------
    g : array_like, shape (dim,)
        The vector.
    pairs : iterable of (s, y)
        Differences of points and of gradients, oldest first, each with s·y > 0.

    Returns
    -------
    ndarray, shape (dim,)

    Raises
    ------
    ValueError
        If a pair has another shape, or s·y <= 0.

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, section 6.2.

    Examples
    --------
    >>> two_loop([2.0, 6.0], [([1.0, 0.0], [2.0, 0.0])])
    array([1., 3.])
    """
    q = np.array(check_array("g", g, ndim=1))
    known = _check_pairs(pairs, q.shape)
    shares = []
    for s, y, curved in reversed(known):
        share = float(s @ q) / curved
        shares.append(share)
        q -= share * y
    if known:
        _, y, curved = known[-1]
        q *= curved / float(y @ y)
    for (s, y, curved), share in zip(known, reversed(shares), strict=True):
        q += (share - float(y @ q) / curved) * s
    return q


def hessian_product(v: ArrayLike, pairs: Iterable[tuple[ArrayLike, ArrayLike]]) -> Floats:
    """Return the Hessian approximation of L-BFGS times a vector: the inverse of `two_loop`.

    Parameters
    ----------
    v : array_like, shape (dim,)
        The vector.
    pairs : iterable of (s, y)
        As in `two_loop`.

    Returns
    -------
    ndarray, shape (dim,)

    Examples
    --------
    >>> pairs = [([1.0, 0.0], [2.0, 1.0]), ([0.0, 1.0], [1.0, 3.0])]
    >>> two_loop(hessian_product([5.0, -1.0], pairs), pairs).round(12)
    array([ 5., -1.])
    """
    v = check_array("v", v, ndim=1)
    known = _check_pairs(pairs, v.shape)
    scale = 1.0
    if known:
        _, y, curved = known[-1]
        scale = float(y @ y) / curved
    terms: list[Pair] = []

    def applied(u: Floats) -> Floats:
        total = scale * u
        for a, b in terms:
            total = total - float(a @ u) * a + float(b @ u) * b
        return total

    for s, y, curved in known:
        Bs = applied(s)
        terms.append((Bs / np.sqrt(s @ Bs), y / np.sqrt(curved)))
    return applied(v)


def powell_damped(s: Floats, y: Floats, pairs: Iterable[Pair]) -> Floats:
    """Return theta y + (1 - theta) B s, with the largest theta <= 1 for which s·y >= 0.2 s·Bs.

    Parameters
    ----------
    s, y : ndarray, shape (dim,)
        The new pair.
    pairs : iterable of (s, y)
        The pairs of B, as in `two_loop`.

    Returns
    -------
    ndarray, shape (dim,)

    Examples
    --------
    >>> powell_damped(np.array([1.0]), np.array([-1.0]), [])
    array([0.2])
    """
    Bs = hessian_product(s, pairs)
    sy, sBs = float(s @ y), float(s @ Bs)
    if sy >= POWELL * sBs:
        return y
    theta = (1 - POWELL) * sBs / (sBs - sy)
    return theta * y + (1 - theta) * Bs


def _keep(pairs: deque[Pair], s: Floats, y: Floats) -> None:
    if s @ y > LEAST_CURVATURE * (s @ s):
        pairs.append((s, y))


def _check_pairs(
    pairs: Iterable[tuple[ArrayLike, ArrayLike]], shape: Sequence[int]
) -> list[tuple[Floats, Floats, float]]:
    known = []
    for s, y in pairs:
        s, y = np.asarray(s, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if s.shape != shape or y.shape != shape:
            raise ValueError(
                f"pairs must have vectors of shape {tuple(shape)}, got {s.shape}, {y.shape}"
            )
        curved = float(s @ y)
        if not curved > 0:
            raise ValueError(f"pairs must have s·y > 0, got {curved:g}")
        known.append((s, y, curved))
    return known
