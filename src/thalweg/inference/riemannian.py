"""Draws by Hamiltonian Monte Carlo whose metric follows the curvature of the target.

Where no single metric suits the whole target (a funnel), momenta are drawn from N(0, M(q)). The
energy is then not separable and the integrator implicit: each step solves two fixed points.

Source: "A Conceptual Introduction to Hamiltonian Monte Carlo" (2017), arXiv 1701.02434, section
4.2.2; SoftAbs: "A General Metric for Riemannian Manifold Hamiltonian Monte Carlo" (2012),
arXiv 1212.4693.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_count, check_real
from thalweg.inference import _density
from thalweg.inference._chains import Plan, Progress, check_start, check_step_size, sample
from thalweg.inference._density import LogDensity
from thalweg.inference._riemannian_kernels import (
    Geometry,
    RiemannianOptions,
    factorise,
    new_geometry,
    softabs_metric,
)
from thalweg.inference.hmc_result import HMCResult

Floats = NDArray[np.float64]
MetricFunction = Callable[[Floats], tuple[Any, Any]]


def sample_rmhmc(
    logdensity: LogDensity,
    metric_fn: MetricFunction,
    x0: ArrayLike,
    *,
    step_size: float,
    n_leapfrog: int,
    n_warmup: int = 1000,
    n_draws: int = 1000,
    chains: int = 4,
    rng: int | np.random.Generator | None = None,
    executor: Executor | None = None,
    callback: Callable[[Progress], object] | None = None,
) -> HMCResult:
    """Draw with the Riemannian-Gaussian kinetic energy and trajectories of fixed length.

    The energy is ``-log pi(q) + p' M(q)^-1 p / 2 + log det M(q) / 2``; the generalised leapfrog
    solves its fixed points to 1e-10 within 100 iterations, and a trajectory in which it cannot is
    counted as divergent.

    Parameters
    ----------
    logdensity : callable
        ``logdensity(x) -> (value, gradient)``, x of shape (d,).
    metric_fn : callable
        ``metric_fn(x) -> (M, dM)``: a positive definite matrix (d, d) and its derivatives
        (d, d, d) with ``dM[k, i, j]`` that of ``M[i, j]`` by ``x[k]``; see `softabs`. If both
        callables are compiled by Numba, the whole chain is.
    x0 : array_like, shape (d,) or (chains, d)
        Where the chains start.
    step_size : float
        Step of the integrator; it is not adapted.
    n_leapfrog : int
        Steps of a trajectory.
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
        The draws; ``inverse_metric`` is not used and is 1.

    Raises
    ------
    ValueError
        If an argument is out of range, the log density is not finite at x0, or the metric there
        is not positive definite.
    RuntimeError
        If every draw diverges.

    References
    ----------
    .. [1] "A Conceptual Introduction to Hamiltonian Monte Carlo" (2017), arXiv 1701.02434,
       section 4.2.2.

    Examples
    --------
    >>> import numpy as np
    >>> normal = lambda x: (-0.5 * x @ x, -x)
    >>> flat = lambda x: (np.eye(2), np.zeros((2, 2, 2)))
    >>> result = sample_rmhmc(
    ...     normal, flat, np.zeros(2), step_size=0.5, n_leapfrog=3, n_warmup=0, n_draws=20, rng=0
    ... )
    >>> result.samples.shape
    (4, 20, 2)
    """
    density = _density.prepare(
        "logdensity", logdensity, _density.DENSITY, _density.value_and_gradient
    )
    metric = _density.prepare(
        "metric_fn", metric_fn, _density.METRIC, _density.metric_and_derivative
    )
    plan = Plan(
        kernel="thalweg.inference._riemannian_kernels:riemannian_block",
        functions=(density, metric),
        options=RiemannianOptions(check_count("n_leapfrog", n_leapfrog)),
        metric="unit",
        step_size=check_step_size(step_size, adapt=False),
        adapt=False,
        target=0.0,
        n_warmup=check_count("n_warmup", n_warmup, at_least=0),
        n_draws=check_count("n_draws", n_draws),
    )
    for start in check_start(x0, check_count("chains", chains)):
        _check_metric_at(metric, start)
    return sample(plan, x0, chains, rng, executor, callback)


def softabs(hessian: MetricFunction, alpha: float = 1e6) -> MetricFunction:
    """Return the metric that replaces each curvature k of the target by ``k coth(alpha k)``.

    That is abs(k) where it is large against 1/alpha, and 1/alpha where the target is flat.

    Parameters
    ----------
    hessian : callable
        ``hessian(x) -> (H, dH)``: second derivatives (d, d) of the log density, of either sign,
        and their derivatives (d, d, d), ``dH[k]`` by ``x[k]``.
    alpha : float, default 1e6
        Inverse of the least curvature.

    Returns
    -------
    callable
        A `metric_fn` for `sample_rmhmc`, compiled if `hessian` is.

    Raises
    ------
    ValueError
        If alpha is not positive.

    References
    ----------
    .. [1] "A General Metric for Riemannian Manifold Hamiltonian Monte Carlo" (2012),
       arXiv 1212.4693, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> metric = softabs(lambda x: (np.diag([-4.0, 2.0]), np.zeros((2, 2, 2))))
    >>> metric(np.zeros(2))[0].round(6)
    array([[4., 0.],
           [0., 2.]])
    """
    alpha = check_real("alpha", alpha, above=0)
    hessian = _density.prepare("hessian", hessian, _density.METRIC, _density.metric_and_derivative)
    if not _density.is_compiled(hessian):
        return SoftAbs(hessian, alpha)

    @njit
    def metric(x):
        curvature, third = hessian(x)
        return softabs_metric(curvature, third, alpha)

    return metric


class SoftAbs:
    """The SoftAbs metric of a Python callable; a class, so that processes can share it."""

    def __init__(self, hessian: MetricFunction, alpha: float) -> None:
        self.hessian = hessian
        self.alpha = alpha

    def __call__(self, x: Floats) -> tuple[Floats, Floats]:
        """Return the metric and its derivatives at x."""
        curvature, third = self.hessian(x)
        return softabs_metric(curvature, third, self.alpha)


def _check_metric_at(metric: MetricFunction, start: Floats) -> None:
    d = start.size
    matrix, derivative = metric(start.copy())
    if matrix.shape != (d, d) or derivative.shape != (d, d, d):
        raise ValueError(
            f"metric_fn must return shapes ({d}, {d}) and ({d}, {d}, {d}), got {matrix.shape} and "
            f"{derivative.shape}"
        )
    geometry: Geometry = new_geometry(d)
    if not factorise(matrix, derivative, geometry):
        raise ValueError(f"metric_fn must be positive definite at x0, got {matrix} at {start}")
