"""Runs chains: where they start, their warm-up, their draws, on one process or on an executor."""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.inference import _density
from thalweg.inference._hmc_kernels import (
    ACCEPTANCE,
    COUNT,
    DEPTH,
    DIVERGING,
    ENERGY,
    LOG_STEP_BAR,
    N_STATS,
    STEP,
    STEP_LIMIT,
    STEPS,
    VALUE,
    Chain,
    reasonable_step,
    restart_step,
)
from thalweg.inference.adaptation import (
    momentum_root,
    regularised_inverse_metric,
    warmup_windows,
)
from thalweg.inference.hmc_result import HMCResult

Floats = NDArray[np.float64]

MAX_DENSE_DIMENSION = 2000
CALLBACKS_PER_STAGE = 10
CHAIN = types.NamedTuple(
    (*[_density.VECTOR] * 4, *[_density.MATRIX] * 2, _density.VECTOR),
    Chain,
)


class Progress(NamedTuple):
    """How far a chain is: what a `callback` gets."""

    chain: int
    iteration: int
    total: int
    step_size: float


@dataclass(frozen=True)
class Plan:
    """All that a chain needs besides its start and its random numbers.

    The kernel is named (module:function), so that processes load its compiled form from disk.
    """

    kernel: str
    functions: tuple[Any, ...]
    options: tuple[Any, ...]
    metric: str | Floats
    step_size: float | None
    adapt: bool
    target: float
    n_warmup: int
    n_draws: int


@dataclass
class Drawn:
    """What one chain brought."""

    samples: Floats
    stats: Floats
    step_size: float
    inverse_metric: Floats
    n_gradients: int


def sample(
    plan: Plan,
    x0: ArrayLike,
    chains: int,
    rng: int | np.random.Generator | None,
    executor: Executor | None,
    callback: Callable[[Progress], object] | None,
    max_depth: int = 0,
) -> HMCResult:
    """Run the chains of a plan and gather their draws in order."""
    starts = check_start(x0, check_count("chains", chains))
    for start in starts:
        evaluate_once(plan.functions[0], start)
    generators = np.random.default_rng(rng).spawn(len(starts))
    total = plan.n_warmup + plan.n_draws
    if executor is None:
        drawn = [
            run_chain(plan, start, generator, index, callback)
            for index, (start, generator) in enumerate(zip(starts, generators, strict=True))
        ]
    else:
        futures = [
            executor.submit(run_chain, plan, start, generator, index, None)
            for index, (start, generator) in enumerate(zip(starts, generators, strict=True))
        ]
        drawn = []
        for index, future in enumerate(futures):
            drawn.append(future.result())
            if callback is not None:
                callback(Progress(index, total, total, drawn[-1].step_size))
    return _gather(drawn, max_depth)


def run_chain(
    plan: Plan,
    start: Floats,
    rng: np.random.Generator,
    index: int,
    callback: Callable[[Progress], object] | None,
) -> Drawn:
    """Warm one chain up and draw from it."""
    chain = new_chain(plan.functions[0], start, plan.metric)
    block = compiled_block(plan, chain, rng)
    total, done, n_gradients = plan.n_warmup + plan.n_draws, 0, 1
    try:
        n_gradients += set_first_step(plan, chain, rng)
        for window in warmup_windows(plan.n_warmup):
            samples, stats = _draw(block, chain, window.length, plan.adapt, rng)
            n_gradients += int(stats[:, STEPS].sum())
            if plan.adapt and window.slow:
                n_gradients += learn_metric(plan, chain, samples, rng)
            done += window.length
            if callback is not None:
                callback(Progress(index, done, total, float(chain.tuning[STEP])))
        if plan.adapt and chain.tuning[COUNT] > 0:
            chain.tuning[STEP] = math.exp(chain.tuning[LOG_STEP_BAR])
        parts = []
        for length in _lengths(plan.n_draws, 1 if callback is None else CALLBACKS_PER_STAGE):
            parts.append(_draw(block, chain, length, False, rng))
            done += length
            if callback is not None:
                callback(Progress(index, done, total, float(chain.tuning[STEP])))
    except Exception as error:
        error.add_note(f"the log density was last asked for at {chain.where}")
        raise
    samples, stats = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Drawn(
        samples,
        stats,
        float(chain.tuning[STEP]),
        chain.inverse_metric,
        n_gradients + int(stats[:, STEPS].sum()),
    )


def new_chain(logdensity: Any, start: Floats, metric: str | Floats) -> Chain:
    """Return a chain at `start` with an untuned step size."""
    d = start.size
    if isinstance(metric, str):
        inverse_metric = np.eye(d) if metric == "dense" else np.ones((1, d))
    else:
        inverse_metric = metric.copy()
    value, gradient = evaluate_once(logdensity, start)
    return Chain(
        start.copy(),
        gradient,
        np.array([value]),
        np.zeros(5),
        inverse_metric,
        momentum_root(inverse_metric),
        start.copy(),
    )


def compiled_block(plan: Plan, chain: Chain, rng: np.random.Generator) -> Callable[..., None]:
    """Return the plan's kernel with its functions and options filled in."""
    kernel = pkgutil.resolve_name(plan.kernel)
    if all(_density.is_compiled(function) for function in plan.functions):
        kinds = (_density.DENSITY, _density.METRIC)[: len(plan.functions)]
        kernel = _density.compile_for(
            kernel,
            *kinds,
            CHAIN,
            numba.typeof(plan.options),
            types.boolean,
            types.float64,
            numba.typeof(rng),
            _density.MATRIX,
            _density.MATRIX,
        )
    else:
        kernel = _density.as_python(kernel)

    def block(adapt: bool, samples: Floats, stats: Floats) -> None:
        kernel(*plan.functions, chain, plan.options, adapt, plan.target, rng, samples, stats)

    return block


def set_first_step(plan: Plan, chain: Chain, rng: np.random.Generator) -> int:
    """Start the step size from what was given, or find one; return the gradients it took."""
    if plan.step_size is not None:
        restart_step(chain.tuning, plan.step_size)
        return 0
    step, count = find_step(plan.functions[0], chain, 1.0, rng)
    restart_step(chain.tuning, step)
    return count


def learn_metric(plan: Plan, chain: Chain, samples: Floats, rng: np.random.Generator) -> int:
    """Set the metric from the draws of a slow window and start the step size anew."""
    if not isinstance(plan.metric, str) or plan.metric == "unit":
        return 0
    chain.inverse_metric[:] = regularised_inverse_metric(samples, plan.metric == "dense")
    chain.root[:] = momentum_root(chain.inverse_metric)
    step, count = find_step(plan.functions[0], chain, float(chain.tuning[STEP]), rng)
    restart_step(chain.tuning, step)
    return count


def find_step(
    logdensity: Any, chain: Chain, first: float, rng: np.random.Generator
) -> tuple[float, int]:
    """Return a step whose acceptance is near 0.8, and the gradients it took to find it."""
    if _density.is_compiled(logdensity):
        kernel = _density.compile_for(
            reasonable_step,
            _density.DENSITY,
            CHAIN,
            types.float64,
            numba.typeof(rng),
        )
    else:
        kernel = _density.as_python(reasonable_step)
    step, count = kernel(logdensity, chain, first, rng)
    if not STEP_LIMIT**-2 < step < STEP_LIMIT:
        raise RuntimeError(
            f"no step size has an acceptance near 0.8 (reached {step:.3g}): logdensity is flat, "
            "improper, or its gradient is wrong"
        )
    return step, count


def evaluate_once(logdensity: Any, start: Floats) -> tuple[float, Floats]:
    """Call the log density at a start and check what it returns."""
    value, gradient = logdensity(start.copy())
    if gradient.shape != start.shape:
        raise ValueError(
            f"the gradient of logdensity must have shape {start.shape}, got {gradient.shape}"
        )
    if not math.isfinite(value) or not np.isfinite(gradient).all():
        raise ValueError(
            f"logdensity must be finite at x0 with its gradient, got {value} and {gradient} "
            f"at {start}"
        )
    return value, gradient


def check_start(x0: ArrayLike, chains: int) -> Floats:
    """Return the starts of the chains as (chains, d)."""
    starts = check_array("x0", x0)
    if starts.ndim == 1:
        starts = np.tile(starts, (chains, 1))
    if starts.ndim != 2 or len(starts) != chains or starts.shape[1] < 1:
        raise ValueError(f"x0 must have shape (d,) or ({chains}, d), got {np.shape(x0)}")
    return np.ascontiguousarray(starts)


def check_metric(metric: Any, d: int) -> str | Floats:
    """Return a metric's name, or an inverse metric as one row or d rows."""
    if isinstance(metric, str):
        check_option("metric", metric, ("unit", "diag", "dense"))
        is_dense = metric == "dense"
    else:
        metric = check_array("metric", metric)
        if metric.shape not in ((d,), (d, d)):
            raise ValueError(f"metric must have shape ({d},) or ({d}, {d}), got {metric.shape}")
        is_dense = metric.ndim == 2
    if is_dense and d > MAX_DENSE_DIMENSION:
        raise ValueError(
            f"metric may be dense up to {MAX_DENSE_DIMENSION} dimensions, x0 has {d}; use 'diag'"
        )
    if isinstance(metric, str):
        return metric
    if is_dense:
        if not np.allclose(metric, metric.T) or np.linalg.eigvalsh(metric)[0] <= 0:
            raise ValueError("metric must be symmetric and positive definite")
    elif (metric <= 0).any():
        raise ValueError(f"metric must be positive, got {metric.min()}")
    return np.ascontiguousarray(np.atleast_2d(metric))


def check_step_size(step_size: float | None, adapt: bool) -> float | None:
    """Return the step size; one must be given where none is learned."""
    if step_size is None:
        if not adapt:
            raise ValueError("step_size must be given when adapt is False, got None")
        return None
    return check_real("step_size", step_size, above=0)


def _draw(
    block: Callable[..., None], chain: Chain, length: int, adapt: bool, rng: Any
) -> tuple[Floats, Floats]:
    samples, stats = np.empty((length, chain.q.size)), np.empty((length, N_STATS))
    block(adapt, samples, stats)
    return samples, stats


def _lengths(n: int, parts: int) -> list[int]:
    parts = min(parts, n)
    return [n // parts + (part < n % parts) for part in range(parts)]


def _gather(drawn: list[Drawn], max_depth: int) -> HMCResult:
    stats = np.stack([chain.stats for chain in drawn])
    diverging = stats[..., DIVERGING] > 0
    step_size = np.array([chain.step_size for chain in drawn])
    if diverging.all():
        raise RuntimeError(
            f"every draw diverged, with step sizes {step_size}: take a smaller step_size, or look "
            "for an error in the gradient of logdensity"
        )
    inverse_metric = np.stack([chain.inverse_metric for chain in drawn])
    return HMCResult(
        samples=np.stack([chain.samples for chain in drawn]),
        log_density=stats[..., VALUE].copy(),
        energy=stats[..., ENERGY].copy(),
        acceptance=stats[..., ACCEPTANCE].copy(),
        n_steps=stats[..., STEPS].astype(np.int64),
        tree_depth=stats[..., DEPTH].astype(np.int64),
        diverging=diverging,
        step_size=step_size,
        inverse_metric=inverse_metric[:, 0] if inverse_metric.shape[1] == 1 else inverse_metric,
        n_gradients=np.array([chain.n_gradients for chain in drawn]),
        max_depth=max_depth,
    )
