"""Snapshots of a population at several times: checked, and simulated.

Source: "Multi-marginal Schrödinger Bridges with Iterative Reference Refinement" (2024), arXiv
2408.06277.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_real
from thalweg.transport.drift_families import DriftFamily
from thalweg.transport.integrate import sdeint

Floats: TypeAlias = NDArray[np.float64]
FEWEST_POINTS = 5
"""Points that a snapshot must have, at least."""
FARTHEST = 1e6
"""Largest coordinate of a path before it counts as lost."""


def simulate(
    reference: DriftFamily,
    params: ArrayLike,
    X0: Any,
    times: ArrayLike,
    sigma: float,
    *,
    dt: float = 0.02,
    rng: Any = None,
) -> list[Floats]:
    """Draw the clouds that ``dX = b(t, X) dt + sigma dW`` gives at several times.

    Parameters
    ----------
    reference : DriftFamily
        The family of b.
    params : array_like (p,)
        Its parameters.
    X0 : array_like (n, d), or a list of one array for each time
        States at the first time. One array: its particles are seen at all times. A list: each time
        sees a population of its own that started as the array of that place, as when measuring
        destroys the cells.
    times : array_like (K+1,)
        Increasing times; the first is that of `X0`.
    sigma : float
        Noise, per root of time; 0 gives the flow.
    dt : float, default 0.02
        Step of Euler-Maruyama, at most; made smaller to divide each interval.
    rng : None, int or Generator
        Source of randomness.

    Returns
    -------
    list of K+1 arrays (n, d)

    Raises
    ------
    ValueError
        If an argument is not as stated.
    FloatingPointError
        If a path leaves ``|x| <= 1e6``; it names the interval.

    References
    ----------
    "Multi-marginal Schrödinger Bridges with Iterative Reference Refinement" (2024), arXiv
    2408.06277, section 5.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.transport import OrnsteinUhlenbeck
    >>> decay = OrnsteinUhlenbeck(1)
    >>> clouds = simulate(decay, [-1.0, 0.0], np.ones((3, 1)), [0.0, 1.0], 0.0, dt=0.001)
    >>> float(clouds[1][0, 0].round(2))
    0.37
    """
    check_family(reference)
    times = check_times(times)
    sigma, dt = check_real("sigma", sigma, at_least=0), check_real("dt", dt, above=0)
    params = check_array("params", params, shape=(reference.n_params,))
    generator = np.random.default_rng(rng)
    grids = [step_grid(a, b, dt) for a, b in pairwise(times)]

    def drift(t: float, x: Floats) -> Floats:
        return reference.drift(params, t, x)

    def carry(x: Floats, grid: Floats) -> Floats:
        return run_paths(drift, x, sigma, grid, generator, "the simulation")[-1]

    if not _is_list_of_clouds(X0):
        clouds = [_start("X0", X0, reference)]
        for grid in grids:
            clouds.append(carry(clouds[-1], grid))
        return clouds
    starts = [_start(f"X0[{k}]", x, reference) for k, x in enumerate(X0)]
    if len(starts) != len(times):
        raise ValueError(
            f"X0 must have one array for each of {len(times)} times, got {len(starts)}"
        )
    for k, x in enumerate(starts):
        for grid in grids[:k]:
            x = carry(x, grid)
        starts[k] = x
    return starts


def check_family(reference: Any) -> None:
    """Raise TypeError unless `reference` is a family of drifts."""
    if not isinstance(reference, DriftFamily):
        raise TypeError(f"reference must be a DriftFamily, got {reference!r}")


def check_times(times: ArrayLike) -> Floats:
    """Return two or more increasing times as an array; ValueError otherwise."""
    times = check_array("times", times, ndim=1)
    if len(times) < 2 or not (np.diff(times) > 0).all():
        raise ValueError(f"times must be two or more increasing numbers, got {times.tolist()}")
    return times


def check_snapshots(
    snapshots: Sequence[ArrayLike], times: ArrayLike, dim: int | None
) -> tuple[list[Floats], Floats]:
    """Return snapshots (n_k, d) and times as arrays; ValueError for what does not fit."""
    times = check_times(times)
    if len(snapshots) != len(times):
        raise ValueError(
            f"snapshots must have one array for each of {len(times)} times, got {len(snapshots)}"
        )
    clouds = [check_array(f"snapshots[{k}]", cloud, ndim=2) for k, cloud in enumerate(snapshots)]
    width = clouds[0].shape[1] if dim is None else dim
    for k, cloud in enumerate(clouds):
        if len(cloud) < FEWEST_POINTS:
            raise ValueError(
                f"snapshots[{k}] must have at least {FEWEST_POINTS} points, got {len(cloud)}"
            )
        if cloud.shape[1] != width or not width:
            raise ValueError(f"snapshots[{k}] must have {width} columns, got {cloud.shape[1]}")
    return clouds, times


def step_grid(t0: float, t1: float, dt: float) -> Floats:
    """Return the times of equal steps from `t0` to `t1`, none longer than `dt`."""
    steps = max(1, math.ceil((t1 - t0) / dt * (1 - 1e-9)))
    return np.linspace(t0, t1, steps + 1)


def run_paths(
    drift: Callable[[float, Floats], Floats],
    x: Floats,
    sigma: float,
    grid: Floats,
    rng: np.random.Generator,
    where: str,
) -> Floats:
    """Return Euler-Maruyama paths (steps + 1, n, d); FloatingPointError where one gets lost."""
    try:
        path = sdeint(drift, x, sigma, times=grid, rng=rng, return_path=True)
        lost = bool(np.abs(path).max() > FARTHEST)
    except FloatingPointError:
        lost = True
    if lost:
        a, b = sorted((grid[0], grid[-1]))
        raise FloatingPointError(
            f"paths left |x| <= {FARTHEST:g} between the times {a:.6g} and {b:.6g}, in {where}; "
            "lower dt or raise sigma"
        )
    return path


def _is_list_of_clouds(X0: Any) -> bool:
    return isinstance(X0, (list, tuple)) and len(X0) > 0 and np.ndim(X0[0]) == 2


def _start(name: str, x: Any, reference: DriftFamily) -> Floats:
    return check_array(name, x, shape=(None, reference.dim))
