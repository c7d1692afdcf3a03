"""Draws from a log density with its gradient, by Hamiltonian Monte Carlo.

Expectations are made by the typical set, a thin shell in many dimensions. Hamiltonian trajectories
follow it over long distances where a random walk diffuses, and the energies that they meet say
when the draws should not be believed. `sample_nuts` chooses the length of each trajectory by
itself and is where to begin; `sample_hmc` keeps it fixed.

Source: "A Conceptual Introduction to Hamiltonian Monte Carlo" (2017), arXiv 1701.02434; constants
that it leaves open are Stan's.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.inference import _density
from thalweg.inference._chains import (
    Plan,
    Progress,
    check_metric,
    check_start,
    check_step_size,
    evaluate_once,
    find_step,
    new_chain,
    sample,
)
from thalweg.inference._density import LogDensity
from thalweg.inference._hmc_kernels import StaticOptions
from thalweg.inference._nuts_kernels import NutsOptions
from thalweg.inference.hmc_result import HMCResult

Floats = NDArray[np.float64]


def sample_nuts(
    logdensity: LogDensity,
    x0: ArrayLike,
    *,
    n_warmup: int = 1000,
    n_draws: int = 1000,
    chains: int = 4,
    target_accept: float = 0.8,
    max_depth: int = 10,
    metric: str | ArrayLike = "diag",
    step_size: float | None = None,
    adapt: bool = True,
    criterion: str = "generalised",
    sampling: str = "multinomial",
    rng: int | np.random.Generator | None = None,
    executor: Executor | None = None,
    callback: Callable[[Progress], object] | None = None,
) -> HMCResult:
    """Draw with trajectories that grow until they turn back (the no-U-turn sampler).

    Parameters
    ----------
    logdensity : callable
        ``logdensity(x) -> (value, gradient)``, x of shape (d,). If it is compiled by Numba, so is
        the whole chain; any other callable gives the same draws more slowly. See `from_torch`.
    x0 : array_like, shape (d,) or (chains, d)
        Where the chains start.
    n_warmup, n_draws : int
        Iterations of each chain that adapt and are left out, and that are kept.
    chains : int, default 4
        Number of chains.
    target_accept : float, default 0.8
        Mean acceptance that the step size is tuned to; 0.6 to 0.9 are sensible, more where
        trajectories diverge.
    max_depth : int, default 10
        A trajectory has at most ``2**max_depth - 1`` steps; 1 to 20.
    metric : {"diag", "dense", "unit"} or array_like, default "diag"
        What warm-up learns: variances, covariances, or nothing. An array (d,) or (d, d) is used as
        inverse metric and kept.
    step_size : float, optional
        Step to start from; found by doubling and halving if None.
    adapt : bool, default True
        Whether warm-up tunes step size and metric.
    criterion : {"generalised", "euclidean"}, default "generalised"
        When a trajectory has turned back: by the sum of its momenta, or by the line between its
        ends as in the original sampler.
    sampling : {"multinomial", "slice"}, default "multinomial"
        How the next state is chosen from a trajectory; "slice" is the original sampler's.
    rng : None, int or numpy.random.Generator
        Source of randomness; each chain has a child of it, so that draws do not depend on the
        executor.
    executor : concurrent.futures.Executor, optional
        Where the chains run, one task each; processes need a picklable log density.
    callback : callable, optional
        Called with a `Progress` after each stage of each chain; with an executor, after each chain.

    Returns
    -------
    HMCResult
        Draws and diagnostics.

    Raises
    ------
    ValueError
        If an argument is out of range, or the log density or its gradient is not finite at x0 or
        has the wrong shape.
    RuntimeError
        If every draw diverges, or no step size is acceptable. What `logdensity` raises is passed
        on with the position.

    References
    ----------
    .. [1] "A Conceptual Introduction to Hamiltonian Monte Carlo" (2017), arXiv 1701.02434,
       appendix A.3 to A.5.
    .. [2] "The No-U-Turn Sampler" (2014), arXiv 1111.4246.

    Examples
    --------
    >>> import numpy as np
    >>> def normal(x):
    ...     return -0.5 * x @ x, -x
    >>> result = sample_nuts(normal, np.zeros(2), n_warmup=50, n_draws=50, chains=2, rng=0)
    >>> result.samples.shape, bool(result.diverging.any())
    ((2, 50, 2), False)
    """
    check_option("criterion", criterion, ("generalised", "euclidean"))
    check_option("sampling", sampling, ("multinomial", "slice"))
    max_depth = check_count("max_depth", max_depth, at_most=20)
    options = NutsOptions(max_depth, criterion == "euclidean", sampling == "slice")
    plan = _plan(
        "thalweg.inference._nuts_kernels:nuts_block",
        options,
        logdensity,
        check_start(x0, check_count("chains", chains)).shape[1],
        n_warmup=n_warmup,
        n_draws=n_draws,
        target_accept=target_accept,
        metric=metric,
        step_size=step_size,
        adapt=adapt,
    )
    return sample(plan, x0, chains, rng, executor, callback, max_depth)


def sample_hmc(
    logdensity: LogDensity,
    x0: ArrayLike,
    *,
    integration_time: float = 1.5708,
    n_leapfrog: int | None = None,
    jitter: float = 0.1,
    sampling: str = "metropolis",
    n_warmup: int = 1000,
    n_draws: int = 1000,
    chains: int = 4,
    target_accept: float = 0.8,
    metric: str | ArrayLike = "diag",
    step_size: float | None = None,
    adapt: bool = True,
    rng: int | np.random.Generator | None = None,
    executor: Executor | None = None,
    callback: Callable[[Progress], object] | None = None,
) -> HMCResult:
    """Draw with trajectories of one length.

    Parameters
    ----------
    logdensity, x0, n_warmup, n_draws, chains, target_accept, metric, step_size, adapt
        As for `sample_nuts`.
    integration_time : float, default pi/2
        Length of a trajectory; a quarter of a normal target's period. Warm-up takes at most 1000
        steps for it (chosen here), whatever the step size.
    n_leapfrog : int, optional
        Steps of a trajectory, in place of `integration_time`.
    jitter : float, default 0.1
        The step size, and with it the length, is multiplied by a number drawn uniformly from
        ``1 - jitter`` to ``1 + jitter`` in each transition, against resonance; 0 to less than 1.
    sampling : {"metropolis", "multinomial"}, default "metropolis"
        Accept or refuse the end of the trajectory, or lay it at random around the state and choose
        one of its points with weight exp(-H).
    rng, executor, callback
        As for `sample_nuts`.

    Returns
    -------
    HMCResult
        Draws and diagnostics.

    Raises
    ------
    ValueError, RuntimeError
        As `sample_nuts`.

    References
    ----------
    .. [1] "A Conceptual Introduction to Hamiltonian Monte Carlo" (2017), arXiv 1701.02434,
       section 5.2.1 and appendix A.3.

    Examples
    --------
    >>> import numpy as np
    >>> def normal(x):
    ...     return -0.5 * x @ x, -x
    >>> result = sample_hmc(normal, np.zeros(2), n_warmup=50, n_draws=50, chains=2, rng=0)
    >>> result.samples.shape
    (2, 50, 2)
    """
    check_option("sampling", sampling, ("metropolis", "multinomial"))
    options = StaticOptions(
        check_real("integration_time", integration_time, above=0),
        0 if n_leapfrog is None else check_count("n_leapfrog", n_leapfrog),
        check_real("jitter", jitter, at_least=0, below=1),
        sampling == "multinomial",
    )
    plan = _plan(
        "thalweg.inference._hmc_kernels:hmc_block",
        options,
        logdensity,
        check_start(x0, check_count("chains", chains)).shape[1],
        n_warmup=n_warmup,
        n_draws=n_draws,
        target_accept=target_accept,
        metric=metric,
        step_size=step_size,
        adapt=adapt,
    )
    return sample(plan, x0, chains, rng, executor, callback)


def find_reasonable_step_size(
    logdensity: LogDensity,
    x0: ArrayLike,
    *,
    inverse_metric: ArrayLike | None = None,
    step_size: float = 1.0,
    rng: int | np.random.Generator | None = None,
) -> float:
    """Return a step size at which one leapfrog step is accepted with probability near 0.8.

    Parameters
    ----------
    logdensity : callable
        ``logdensity(x) -> (value, gradient)``.
    x0 : array_like, shape (d,)
        Where to try.
    inverse_metric : array_like, shape (d,) or (d, d), optional
        Inverse mass matrix; 1 if None.
    step_size : float, default 1.0
        Where the doubling or halving begins.
    rng : None, int or numpy.random.Generator
        Source of the momenta.

    Returns
    -------
    float
        The first step size past the crossing.

    Raises
    ------
    ValueError
        If an argument is out of range or the log density is not finite at x0.
    RuntimeError
        If doubling or halving has no end.

    References
    ----------
    .. [1] "The No-U-Turn Sampler" (2014), arXiv 1111.4246, algorithm 4; threshold of Stan.

    Examples
    --------
    >>> import numpy as np
    >>> step = find_reasonable_step_size(lambda x: (-50 * x @ x, -100 * x), np.zeros(3), rng=0)
    >>> 0.05 < step < 0.5
    True
    """
    start = check_array("x0", x0, ndim=1)
    first = check_real("step_size", step_size, above=0)
    density = _prepare(logdensity)
    evaluate_once(density, start)
    metric = "unit" if inverse_metric is None else check_metric(inverse_metric, start.size)
    chain = new_chain(density, start, metric)
    return find_step(density, chain, first, np.random.default_rng(rng))[0]


def from_torch(fn: Callable[[Any], Any], dtype: Any = None) -> LogDensity:
    """Return a log density with the gradient that PyTorch finds.

    Parameters
    ----------
    fn : callable
        Takes a tensor (d,) and returns a scalar tensor.
    dtype : torch.dtype, optional
        Type of the tensor that `fn` gets; float64 if None.

    Returns
    -------
    callable
        ``logdensity(x) -> (value, gradient)`` for the samplers.

    Raises
    ------
    MissingExtraError
        If PyTorch is not installed.

    Examples
    --------
    >>> density = from_torch(lambda x: -0.5 * (x**2).sum())  # doctest: +SKIP
    >>> density(np.ones(2))  # doctest: +SKIP
    (-1.0, array([-1., -1.]))
    """
    from thalweg._torch import torch

    return TorchDensity(fn, torch.float64 if dtype is None else dtype)


class TorchDensity:
    """A torch function as a log density; a class, so that processes can share it."""

    def __init__(self, fn: Callable[[Any], Any], dtype: Any) -> None:
        self.fn = fn
        self.dtype = dtype

    def __call__(self, x: Floats) -> tuple[float, Floats]:
        """Return the value and its gradient at x."""
        from thalweg._torch import torch

        tensor = torch.tensor(x, dtype=self.dtype, requires_grad=True)
        value = self.fn(tensor)
        (gradient,) = torch.autograd.grad(value, tensor)
        return float(value.detach()), gradient.double().numpy()


def _plan(
    kernel: str,
    options: tuple[Any, ...],
    logdensity: LogDensity,
    d: int,
    *,
    n_warmup: int,
    n_draws: int,
    target_accept: float,
    metric: str | ArrayLike,
    step_size: float | None,
    adapt: bool,
) -> Plan:
    check_option("adapt", adapt, (True, False))
    return Plan(
        kernel=kernel,
        functions=(_prepare(logdensity),),
        options=options,
        metric=check_metric(metric, d),
        step_size=check_step_size(step_size, adapt),
        adapt=bool(adapt),
        target=check_real("target_accept", target_accept, above=0, below=1),
        n_warmup=check_count("n_warmup", n_warmup, at_least=0),
        n_draws=check_count("n_draws", n_draws),
    )


def _prepare(logdensity: LogDensity) -> Any:
    return _density.prepare("logdensity", logdensity, _density.DENSITY, _density.value_and_gradient)
