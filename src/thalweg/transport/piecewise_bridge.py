"""The Schrödinger bridge of two clouds against any drift, by iterative proportional fitting.

`piecewise_bridge` alternates between the two ends: paths run forward from one cloud teach the drift
of the time-reversed process, paths run backward from the other teach the forward drift. Each half
round projects the law of the paths onto those with one of the two clouds as its end.

Chosen here: both regressions fit what the drift has beyond the reference, so that a reference that
is right needs no correction; random Fourier features in place of a Gaussian process; the noise of
a one-step velocity is ``sigma^2 / dt``.

Source: "Multi-marginal Schrödinger Bridges with Iterative Reference Refinement" (2024), arXiv
2408.06277, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.transport._drift_regression import (
    Field,
    FourierRegression,
    ProcessRegression,
    Regression,
)
from thalweg.transport.drift_families import DriftFamily
from thalweg.transport.snapshots import check_family, check_snapshots, run_paths, step_grid

Floats: TypeAlias = NDArray[np.float64]
DRIFT_MODELS = ("rff", "gp")
DIRECTIONS = ("forward", "backward")
FEWEST_STEPS = 4
"""Steps that an interval must have, at least."""


@dataclass
class PiecewiseBridge:
    """The two drifts of a bridge between the times of two clouds.

    Attributes
    ----------
    grid : array (T,)
        Times of the steps.
    sigma : float
        Noise, per root of time.
    reference : DriftFamily
        The family that the bridge is relative to.
    params : array (p,)
        Its parameters.
    forward_correction, backward_correction : callable
        ``correction(t, x)``: what the drifts have beyond the reference.
    """

    grid: Floats
    sigma: float
    reference: DriftFamily
    params: Floats
    forward_correction: Field
    backward_correction: Field

    def forward(self, t: Any, x: ArrayLike) -> Floats:
        """Return the drift (n, d) of the bridge at times `t`, a float or (n,), and points `x`."""
        x = np.asarray(x, dtype=float)
        return self.reference.drift(self.params, t, x) + self.forward_correction(t, x)

    def backward(self, t: Any, x: ArrayLike) -> Floats:
        """Return the drift of the same process run backward: a step is ``x - dt backward``.

        For a reference in equilibrium with density p it is ``b - sigma^2 grad log p``.
        """
        x = np.asarray(x, dtype=float)
        return self.reference.drift(self.params, t, x) + self.backward_correction(t, x)

    def sample(self, X0: ArrayLike, direction: str = "forward", *, rng: Any = None) -> Floats:
        """Draw paths of the bridge.

        Parameters
        ----------
        X0 : array_like (n, d)
            States at the first time, or at the last with ``direction="backward"``.
        direction : {"forward", "backward"}, default "forward"
            Which way to go.
        rng : None, int or Generator
            Source of randomness.

        Returns
        -------
        array (T, n, d)
            States in the order in which they were passed.
        """
        X0 = check_array("X0", X0, ndim=2)
        check_option("direction", direction, DIRECTIONS)
        forward = direction == "forward"
        return run_paths(
            self.forward if forward else self.backward,
            X0,
            self.sigma,
            self.grid if forward else self.grid[::-1],
            np.random.default_rng(rng),
            f"{direction} paths of the bridge",
        )


def piecewise_bridge(
    X0: ArrayLike,
    X1: ArrayLike,
    t0: float,
    t1: float,
    reference: DriftFamily,
    sigma: float,
    *,
    params: ArrayLike | None = None,
    dt: float = 0.02,
    n_ipfp: int = 10,
    drift_model: str = "rff",
    n_features: int = 100,
    ridge: float | None = None,
    rng: Any = None,
) -> PiecewiseBridge:
    """Return the Schrödinger bridge from one cloud to another, relative to a drift of a family.

    Parameters
    ----------
    X0, X1 : array_like (n, d), (m, d)
        Points at `t0` and at `t1`, at least 5 each, not paired. A scale of about 1 suits the prior
        of the regression.
    t0, t1 : float
        The two times, in increasing order.
    reference : DriftFamily
        Drift b of the reference ``dX = b(t, X) dt + sigma dW``.
    sigma : float
        Noise, per root of time.
    params : array_like (p,), optional
        Parameters of the reference; None is its `init`, nearly no drift.
    dt : float, default 0.02
        Step, at most a quarter of the interval; made smaller to divide it.
    n_ipfp : int, default 10
        Rounds, each of a backward and a forward regression.
    drift_model : {"rff", "gp"}, default "rff"
        Random Fourier features, or the published exact Gaussian process with exponential kernel on
        3000 rows at most, which costs their number cubed.
    n_features : int, default 100
        Cosines of ``"rff"``.
    ridge : float, optional
        Noise variance of the velocities in the regression; None is ``sigma^2 / dt``, which it is.
    rng : None, int or Generator
        Source of randomness.

    Returns
    -------
    PiecewiseBridge
        With ``forward(t, x)``, ``backward(t, x)`` and ``sample(X0, direction, rng=...)``.

    Raises
    ------
    ValueError
        If an argument is not as stated.
    FloatingPointError
        If a path leaves ``|x| <= 1e6``; it names the interval and the round.

    References
    ----------
    "Multi-marginal Schrödinger Bridges with Iterative Reference Refinement" (2024), arXiv
    2408.06277, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.transport import ZeroDrift
    >>> rng = np.random.default_rng(0)
    >>> X0, X1 = rng.normal(0, 0.2, (100, 1)), rng.normal(1, 0.2, (100, 1))
    >>> bridge = piecewise_bridge(X0, X1, 0.0, 1.0, ZeroDrift(), 0.3, dt=0.05, rng=0)
    >>> ends = bridge.sample(X0, rng=1)[-1]
    >>> bool(abs(ends.mean() - 1) < 0.1 and abs(ends.std() - 0.2) < 0.1)
    True
    """
    check_family(reference)
    sigma, dt = check_real("sigma", sigma, above=0), check_real("dt", dt, above=0)
    t0, t1 = check_real("t0", t0), check_real("t1", t1)
    if not t0 < t1:
        raise ValueError(f"t1 must be greater than t0, got {t0!r} and {t1!r}")
    (X0, X1), times = check_snapshots([X0, X1], [t0, t1], reference.dim)
    check_step(dt, times)
    n_ipfp, n_features = check_count("n_ipfp", n_ipfp), check_count("n_features", n_features)
    check_option("drift_model", drift_model, DRIFT_MODELS)
    if ridge is not None:
        ridge = check_real("ridge", ridge, above=0)
    if params is None:
        params = reference.init()
    params = check_array("params", params, shape=(reference.n_params,))

    generator, grid = np.random.default_rng(rng), step_grid(t0, t1, dt)
    noise = sigma**2 / (grid[1] - grid[0]) if ridge is None else ridge
    regression: Regression
    if drift_model == "rff":
        regression = FourierRegression(X0.shape[1], n_features, noise, generator)
    else:
        regression = ProcessRegression(noise, generator)
    bridge = PiecewiseBridge(grid, sigma, reference, params, _nothing, _nothing)
    for turn in range(1, n_ipfp + 1):
        where = f"round {turn} of {n_ipfp}"
        path = run_paths(bridge.forward, X0, sigma, grid, generator, where)
        bridge.backward_correction = _correction(regression, bridge, path, at_end=True)
        path = run_paths(bridge.backward, X1, sigma, grid[::-1], generator, where)[::-1]
        bridge.forward_correction = _correction(regression, bridge, path, at_end=False)
    return bridge


def check_step(dt: float, times: Floats) -> None:
    """Raise ValueError where an interval has not four steps of `dt`."""
    shortest = float(np.diff(times).min())
    if dt * FEWEST_STEPS > shortest * (1 + 1e-9):
        raise ValueError(
            f"dt must be at most a quarter of the shortest interval, {shortest / FEWEST_STEPS:g}, "
            f"got {dt!r}"
        )


def _correction(
    regression: Regression, bridge: PiecewiseBridge, path: Floats, *, at_end: bool
) -> Field:
    """Regress the velocities of steps, less the reference, on their later or earlier points."""
    velocity = np.diff(path, axis=0) / np.diff(bridge.grid)[:, None, None]
    points, times = (path[1:], bridge.grid[1:]) if at_end else (path[:-1], bridge.grid[:-1])
    d = path.shape[2]
    t, x = np.repeat(times, path.shape[1]), points.reshape(-1, d)
    beyond = velocity.reshape(-1, d) - bridge.reference.drift(bridge.params, t, x)
    return regression.fit(t, x, beyond)


def _nothing(t: Any, x: Floats) -> Floats:
    return np.zeros_like(x)
