"""Draws by random-walk Metropolis: the method that Hamiltonian Monte Carlo is measured against.

It needs values only. In d dimensions its steps must shrink as 1/sqrt(d), and the evaluations for
an independent draw grow as d.

Source: "A Conceptual Introduction to Hamiltonian Monte Carlo" (2017), arXiv 1701.02434, section
2.3; the scale 2.38/sqrt(d): "Weak convergence and optimal scaling of random walk Metropolis
algorithms" (1997), Roberts, Gelman and Gilks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np
from numba import njit
from numpy.typing import ArrayLike

from thalweg._validation import check_array, check_count
from thalweg.inference import _density
from thalweg.inference._chains import Plan, Progress, check_start, sample
from thalweg.inference._density import LogDensity
from thalweg.inference._hmc_kernels import (
    KERNEL,
    STEP,
    P,
    Q,
    add,
    copy,
    draw_momentum,
    evaluate,
    min_one_exp,
    move,
    new_points,
    report,
)
from thalweg.inference.hmc_result import HMCResult

OPTIMAL_SCALE = 2.38


def sample_rwm(
    logdensity: LogDensity,
    x0: ArrayLike,
    *,
    scale: ArrayLike | None = None,
    n_warmup: int = 1000,
    n_draws: int = 1000,
    chains: int = 4,
    rng: int | np.random.Generator | None = None,
    executor: Executor | None = None,
    callback: Callable[[Progress], object] | None = None,
) -> HMCResult:
    """Draw by Metropolis with normal proposals of standard deviation ``2.38 / sqrt(d) * scale``.

    Parameters
    ----------
    logdensity : callable
        ``logdensity(x) -> (value, gradient)`` as for `sample_nuts`; the gradient is not used.
    x0 : array_like, shape (d,) or (chains, d)
        Where the chains start.
    scale : float or array_like, shape (d,), optional
        Standard deviations of the target; 1 if None. Nothing is adapted.
    n_warmup, n_draws, chains : int
        Iterations left out, iterations kept, and chains.
    rng : None, int or numpy.random.Generator
        Source of randomness; each chain has a child of it.
    executor : concurrent.futures.Executor, optional
        Where the chains run.
    callback : callable, optional
        Called with a `Progress` as chains go on.

    Returns
    -------
    HMCResult
        The draws; ``energy`` is the negative log density, ``n_steps`` is 1, and ``n_gradients``
        counts evaluations.

    Raises
    ------
    ValueError
        If an argument is out of range, or the log density is not finite at x0.

    References
    ----------
    .. [1] "A Conceptual Introduction to Hamiltonian Monte Carlo" (2017), arXiv 1701.02434,
       section 2.3.

    Examples
    --------
    >>> import numpy as np
    >>> result = sample_rwm(lambda x: (-0.5 * x @ x, -x), np.zeros(2), n_draws=50, rng=0)
    >>> result.samples.shape
    (4, 50, 2)
    """
    d = check_start(x0, check_count("chains", chains)).shape[1]
    scale = check_array("scale", 1.0 if scale is None else scale)
    if scale.shape not in ((), (d,)) or (scale <= 0).any():
        raise ValueError(f"scale must be positive, of shape () or ({d},), got {scale}")
    plan = Plan(
        kernel="thalweg.inference.random_walk:_walk_block",
        functions=(
            _density.prepare(
                "logdensity", logdensity, _density.DENSITY, _density.value_and_gradient
            ),
        ),
        options=(),
        metric=np.ascontiguousarray(np.broadcast_to(scale**-2.0, (1, d))),
        step_size=OPTIMAL_SCALE / d**0.5,
        adapt=False,
        target=0.0,
        n_warmup=check_count("n_warmup", n_warmup, at_least=0),
        n_draws=check_count("n_draws", n_draws),
    )
    return sample(plan, x0, chains, rng, executor, callback)


@njit(**KERNEL)
def _walk_block(logdensity, chain, options, adapt, target, rng, samples, stats):
    points = new_points(1, chain.q.size)
    for draw in range(samples.shape[0]):
        draw_momentum(chain.root, rng, points[0, P])
        copy(points[0, Q], chain.q)
        add(points, 0, Q, chain.tuning[STEP], P)
        value = evaluate(logdensity, points, 0, chain.where)
        acceptance = min_one_exp(value - chain.value[0]) if value > -math.inf else 0.0
        if rng.random() < acceptance:
            move(chain, points, 0, value)
        report(stats[draw], chain.value[0], -chain.value[0], acceptance, 1, 0, False)
        samples[draw] = chain.q
