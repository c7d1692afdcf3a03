"""Stochastic gradients with less and less noise: growing batches, averaged points.

`dynamic_sampling` lets batches grow, by a plan or when a test finds the noise too large, and so
converges linearly with a constant step. `averaged_step` and `tail_weights` are the steps and the
weights with which `thalweg.descent.sgd` averages its points. Methods that store or recompute
gradients are in `thalweg.descent.variance_reduction`.

Source: "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, sections
5.2 and 5.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_count, check_option, check_real
from thalweg.descent._counted_runs import (
    Batches,
    Callback,
    Counted,
    StepRule,
    check_callback,
    check_point,
    check_steps,
    follow,
)
from thalweg.descent.problems import FiniteSum

Floats = NDArray[np.float64]

INITIAL = 2
RATIO = 1.1
THETA = 0.5
MOST_GROWTH = 4
LARGEST_BATCH = 10**9


def dynamic_sampling(
    problem: FiniteSum,
    x0: ArrayLike,
    *,
    step: StepRule,
    n_steps: int,
    rule: Literal["geometric", "norm-test"] = "geometric",
    initial: int = INITIAL,
    ratio: float = RATIO,
    theta: float = THETA,
    max_batch: int | None = None,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Minimise a finite sum by gradient steps on growing batches.

    .. math:: x_{k+1} = x_k - \alpha_k \nabla f_{S_k}(x_k), \qquad
              |S_k| = \lceil n_1 \tau^{k-1} \rceil

    or, by the norm test, a batch grows once its gradients vary too much:
    :math:`|S_{k+1}| = \lceil v_k / (\theta^2 \|g_k\|^2) \rceil`, at most four times
    :math:`|S_k|`, if :math:`v_k / |S_k| > \theta^2 \|g_k\|^2`, where :math:`v_k` is the sample
    variance of the gradients of the components in :math:`S_k` (summed over the variables).

    Parameters
    ----------
    problem : FiniteSum
        What is minimised; for the norm test also with ``component_gradients``.
    x0 : array_like, shape (dim,)
        Start.
    step : float, array_like of shape (n_steps,) or callable
        The alpha_k > 0; a callable gets k = 1, 2, ...
    n_steps : int
        Steps.
    rule : {"geometric", "norm-test"}, default "geometric"
        How batches grow.
    initial : int, default 2
        The first size n_1; at least 2 for the norm test.
    ratio : float, default 1.1
        The tau > 1 of "geometric".
    theta : float, default 0.5
        Of the norm test, > 0: the noise allowed, as a share of the gradient's length.
    max_batch : int, optional
        Largest batch, at most n; components of a batch are distinct then, and all n are the whole
        sum. None: components are drawn independently, and a batch may be larger than n.
    rng : None, int or numpy.random.Generator, optional
        Draws the batches.
    record : bool, default False
        Accepted as elsewhere; the history is kept in any case.
    callback : callable, optional
        As in `thalweg.descent.subsampled_newton_cg`.

    Returns
    -------
    OptimizeResult
        As of `thalweg.descent.subsampled_newton_cg`; ``history`` is always there, with ``x``,
        ``n_grad`` and ``batch``, the size of each step's batch. Success is to have taken all steps.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or the last batch of the plan would be larger than 10^9,
        before any work.

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, section 5.2.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> problem = LeastSquares([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [1.0, 1.0, -2.0])
    >>> result = dynamic_sampling(problem, [5.0, 5.0], step=0.3, n_steps=6, ratio=2.0, rng=0)
    >>> result.history["batch"]
    array([ 2,  4,  8, 16, 32, 64])
    """
    check_option("rule", rule, ("geometric", "norm-test"))
    testing = rule == "norm-test"
    counted = Counted(problem, ("component_gradients",) if testing else ())
    start = check_point(counted, x0)
    n_steps = check_count("n_steps", n_steps, at_least=0)
    length = check_steps(step, n_steps)
    if max_batch is not None:
        max_batch = check_count("max_batch", max_batch, at_most=counted.n)
    most = LARGEST_BATCH if max_batch is None else max_batch
    initial = check_count("initial", initial, at_least=2 if testing else 1, at_most=most)
    ratio = check_real("ratio", ratio, above=1)
    theta = check_real("theta", theta, above=0)
    check_callback(callback)
    if not testing and max_batch is None and n_steps:
        last = math.log(initial) + (n_steps - 1) * math.log(ratio)
        if last > math.log(LARGEST_BATCH):
            raise ValueError(
                f"ratio must keep batches of {n_steps} steps below {LARGEST_BATCH}, got {ratio:g}; "
                "or give max_batch"
            )
    batches = Batches(np.random.default_rng(rng), counted.n)
    sizes: list[int] = []
    size = initial

    def move(x: Floats, k: int) -> Floats:
        nonlocal size
        if not testing:
            size = _planned(initial, ratio, k, most)
        S = batches.draw(size, replace=max_batch is None)
        sizes.append(size)
        g = counted.gradient(x, S)
        if testing and size < most:
            size = next_batch(problem.component_gradients(x, S), g, theta, most)
        return x - length(k) * g

    trace: dict[str, list[Any]] = {"batch": sizes}
    return follow(
        counted, start, move, n_steps=n_steps, record=True, callback=callback, trace=trace
    )


def next_batch(gradients: ArrayLike, g: ArrayLike, theta: float = THETA, most: int = 10**9) -> int:
    """Return the size of the next batch by the norm test.

    Parameters
    ----------
    gradients : array_like, shape (b, dim)
        The components' gradients of this batch, b >= 2.
    g : array_like, shape (dim,)
        Their mean.
    theta : float, default 0.5
        The noise allowed, as a share of ‖g‖.
    most : int, default 10^9
        Largest batch.

    Returns
    -------
    int
        b, if v / b <= theta² ‖g‖² with the sample variance v; else v / (theta² ‖g‖²), rounded up,
        at most 4 b.

    Examples
    --------
    >>> next_batch([[1.0], [3.0]], [2.0], theta=0.5), next_batch([[1.0], [3.0]], [2.0], theta=0.4)
    (2, 4)
    """
    G, g = np.asarray(gradients, dtype=np.float64), np.asarray(g, dtype=np.float64)
    b = len(G)
    variance = float(np.sum((G - g) ** 2)) / (b - 1)
    allowed = theta**2 * float(g @ g)
    if variance <= allowed * b:
        return b
    wanted = variance / allowed if allowed > 0 else math.inf
    return min(MOST_GROWTH * b if wanted > MOST_GROWTH * b else math.ceil(wanted), most)


def averaged_step(a: float, exponent: float = 0.6) -> Callable[[int], float]:
    """Return the long steps with which averaging pays: a, a 2^-exponent, a 3^-exponent, ...

    Parameters
    ----------
    a : float
        The first step, > 0.
    exponent : float, default 0.6
        In (0, 1); averages of convex problems ask for more than 1/2.

    Returns
    -------
    callable
        For ``sgd(step=...)``: gets t = 0, 1, ...

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, section 5.4.

    Examples
    --------
    >>> step = averaged_step(2.0, exponent=0.5)
    >>> step(0), step(3)
    (2.0, 1.0)
    """
    a = check_real("a", a, above=0)
    exponent = check_real("exponent", exponent, above=0, below=1)
    return lambda t: a * (t + 1.0) ** -exponent


def tail_weights(n_steps: int, share: float = 0.5) -> Floats:
    """Return the weights of a mean of the last points, for ``sgd(average=...)``.

    Parameters
    ----------
    n_steps : int
        Steps of the run.
    share : float, default 0.5
        Share of the points that count, in (0, 1].

    Returns
    -------
    ndarray, shape (n_steps,)
        0 or 1.

    Examples
    --------
    >>> tail_weights(5, share=0.4)
    array([0., 0., 0., 1., 1.])
    """
    n_steps = check_count("n_steps", n_steps)
    share = check_real("share", share, above=0, at_most=1)
    weights = np.zeros(n_steps)
    weights[n_steps - math.ceil(share * n_steps) :] = 1.0
    return weights


def _planned(initial: int, ratio: float, k: int, most: int) -> int:
    """Return min(ceil(initial ratio^(k - 1)), most) without overflow."""
    power = (k - 1) * math.log(ratio)
    if power > math.log(most / initial) + 1:
        return most
    return min(math.ceil(initial * ratio ** (k - 1)), most)
