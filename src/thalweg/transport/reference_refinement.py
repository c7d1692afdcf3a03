"""Trajectories and dynamics of a population from snapshots at several times.

`ReferenceRefinement` takes clouds of points at increasing times, each point seen once, and a family
of dynamics with unknown parameters. The one idea: alternate between Schrödinger bridges from each
snapshot to the next, relative to the current dynamics, and a fit of the dynamics to the paths of
those bridges. Neither half can raise the divergence of the paths from the dynamics, and all
intervals come to share one dynamics. With `ZeroDrift` and one round it is the vanilla bridge.

Source: "Multi-marginal Schrödinger Bridges with Iterative Reference Refinement" (2024), arXiv
2408.06277, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.transport.drift_families import DriftFamily
from thalweg.transport.piecewise_bridge import (
    DRIFT_MODELS,
    PiecewiseBridge,
    check_step,
    piecewise_bridge,
)
from thalweg.transport.snapshots import check_family, check_snapshots, run_paths, step_grid

Floats: TypeAlias = NDArray[np.float64]


class ReferenceRefinement(BaseEstimator):
    """Multi-marginal Schrödinger bridge whose reference is learned within a family.

    The model is ``dX = b(t, X) dt + sigma dW`` with b in the family and sigma known; the laws at
    the times of the snapshots are those of the snapshots.

    Parameters
    ----------
    reference : DriftFamily
        Class of dynamics: `LotkaVolterra`, `Repressilator`, `OrnsteinUhlenbeck`, `Spring`,
        `Vortex`, `GradientField`, `ZeroDrift`, `LinearFamily` or your own.
    sigma : float
        Noise, in units of the data per root of time.
    dt : float, default 0.02
        Step, at most a quarter of the shortest interval; made smaller to divide each.
    n_refine : int, default 10
        Rounds of bridges and a fit of the parameters.
    n_ipfp : int, default 10
        Rounds of iterative proportional fitting in each bridge.
    drift_model : {"rff", "gp"}, default "rff"
        Regression of the drifts, see `piecewise_bridge`.
    n_features : int, default 100
        Cosines of ``"rff"``.
    ridge : float, optional
        Noise variance in the regressions; None is ``sigma^2 / dt``.
    params0 : array_like (p,), optional
        Parameters of the first reference; None is `reference.init()`, nearly Brownian motion. With
        ``n_refine=1`` this is a bridge on a fixed reference.
    executor : concurrent.futures.Executor, optional
        Runs the bridges of a round side by side; the result does not depend on it.
    callback : callable, optional
        Called as ``callback(state)`` after each round with ``state.round`` (from 1),
        ``state.n_refine``, ``state.params``, ``state.objective`` and ``state.model``, the estimator
        as fitted so far. Raising StopIteration ends the fit.
    rng : None, int or Generator, default None
        Source of randomness; also of the draws of methods that get no `rng`.

    Attributes
    ----------
    params_ : array (p,)
        Parameters fitted to the last trajectories.
    params_path_ : array (rounds + 1, p)
        Parameters before the first round and after each.
    objective_path_ : array (rounds,)
        After each fit, the mean over steps of ``dt |velocity - b|^2 / (2 sigma^2)``. Noise alone
        gives half the dimension; what is above is divergence from the reference, per step.
    trajectories_ : array (sum n_k, T, d)
        Paths through the points of each snapshot in turn, over all times.
    grid_ : array (T,)
        Times of the trajectories.
    dt_ : array (K,)
        Step in each interval.
    bridges_ : list of K PiecewiseBridge
        The bridges of the last round.
    snapshots_ : list of K+1 arrays (n_k, d)
    times_ : array (K+1,)
    n_features_in_ : int
        Columns d.

    Notes
    -----
    The steps of the fit are weighted by their length, which is maximum likelihood where intervals
    round `dt` differently. The bridges of the last round are relative to the parameters of the
    round before, ``params_path_[-2]``.

    References
    ----------
    "Multi-marginal Schrödinger Bridges with Iterative Reference Refinement" (2024), arXiv
    2408.06277, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.transport import OrnsteinUhlenbeck, simulate
    >>> decay, times = OrnsteinUhlenbeck(1), [0.0, 1.0, 2.0]
    >>> starts = [np.random.default_rng(k).normal(3.0, 0.2, (80, 1)) for k in range(3)]
    >>> clouds = simulate(decay, [-1.0, 0.0], starts, times, 0.2, rng=0)
    >>> model = ReferenceRefinement(decay, 0.2, dt=0.05, n_refine=4, n_ipfp=3, rng=0)
    >>> model = model.fit(clouds, times)
    >>> bool(abs(model.params_[0] + 1) < 0.2), model.trajectories_.shape
    (True, (240, 41, 1))
    >>> bool(abs(model.interpolate(0.5).mean() - 3 * np.exp(-0.5)) < 0.1)
    True
    """

    def __init__(
        self,
        reference: DriftFamily,
        sigma: float,
        *,
        dt: float = 0.02,
        n_refine: int = 10,
        n_ipfp: int = 10,
        drift_model: str = "rff",
        n_features: int = 100,
        ridge: float | None = None,
        params0: ArrayLike | None = None,
        executor: Executor | None = None,
        callback: Callable[[Any], Any] | None = None,
        rng: Any = None,
    ) -> None:
        self.reference = reference
        self.sigma = sigma
        self.dt = dt
        self.n_refine = n_refine
        self.n_ipfp = n_ipfp
        self.drift_model = drift_model
        self.n_features = n_features
        self.ridge = ridge
        self.params0 = params0
        self.executor = executor
        self.callback = callback
        self.rng = rng

    def fit(self, snapshots: Sequence[ArrayLike], times: ArrayLike) -> ReferenceRefinement:
        """Learn parameters and trajectories.

        Parameters
        ----------
        snapshots : list of K+1 array_like (n_k, d)
            Points at each time, at least 5, not paired between times. A scale of about 1 suits the
            prior of the regressions.
        times : array_like (K+1,)
            Increasing times.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If an argument or a parameter of the estimator is not as stated.
        FloatingPointError
            If a path leaves ``|x| <= 1e6``; it names the interval and the round.
        """
        params, n_refine = self._checked()
        snapshots, times = check_snapshots(snapshots, times, self.reference.dim)
        check_step(self.dt, times)
        rng = np.random.default_rng(self.rng)
        grids = [step_grid(a, b, self.dt) for a, b in pairwise(times)]
        self.snapshots_, self.times_, self.n_features_in_ = snapshots, times, snapshots[0].shape[1]
        self.dt_ = np.array([grid[1] - grid[0] for grid in grids])
        self.grid_ = np.concatenate([times[:1], *(grid[1:] for grid in grids)])
        path, objectives = [params], []
        for turn in range(1, n_refine + 1):
            bridges = self._bridges(params, rng, f" of refinement {turn} of {n_refine}")
            trajectories = self._join(bridges, rng)
            params, objective = self._refit(trajectories, params)
            path.append(params)
            objectives.append(objective)
            self.bridges_, self.trajectories_, self.params_ = bridges, trajectories, params
            self.params_path_, self.objective_path_ = np.array(path), np.array(objectives)
            state = SimpleNamespace(
                round=turn, n_refine=n_refine, params=params, objective=objective, model=self
            )
            try:
                if self.callback is not None:
                    self.callback(state)
            except StopIteration:
                break
        return self

    def interpolate(self, t: float, *, rng: Any = None) -> Floats:
        """Return a cloud at a time between the first and the last snapshot.

        The points of the snapshot at or before `t` move by the forward drift to `t`; at the time of
        a snapshot its points themselves are returned.

        Parameters
        ----------
        t : float
            Time in [times[0], times[-1]].
        rng : None, int or Generator
            Source of randomness; None is the estimator's own.

        Returns
        -------
        array (n, d)
        """
        check_is_fitted(self)
        t = check_real("t", t, at_least=float(self.times_[0]), at_most=float(self.times_[-1]))
        k = int(np.searchsorted(self.times_, t, side="right")) - 1
        cloud = self.snapshots_[k]
        if t == self.times_[k]:
            return cloud.copy()
        bridge = self.bridges_[k]
        later = int(np.searchsorted(bridge.grid, t, side="left"))
        grid = bridge.grid[: later + 1]
        path = run_paths(
            bridge.forward, cloud, bridge.sigma, grid, self._generator(rng), "interpolate"
        )
        share = (t - grid[-2]) / (grid[-1] - grid[-2])
        return (1 - share) * path[-2] + share * path[-1]

    def extrapolate(self, t: float, *, rng: Any = None) -> Floats:
        """Return a cloud at a time from the last snapshot on, by the fitted reference alone.

        Parameters
        ----------
        t : float
            Time, at least that of the last snapshot.
        rng : None, int or Generator
            Source of randomness; None is the estimator's own.

        Returns
        -------
        array (n, d)
        """
        check_is_fitted(self)
        last = float(self.times_[-1])
        t = check_real("t", t, at_least=last)
        if t == last:
            return self.snapshots_[-1].copy()

        def drift(now: float, x: Floats) -> Floats:
            return self.reference.drift(self.params_, now, x)

        return run_paths(
            drift,
            self.snapshots_[-1],
            self.sigma,
            step_grid(last, t, self.dt),
            self._generator(rng),
            "extrapolate",
        )[-1]

    def drift(self, t: Any, x: ArrayLike) -> Floats:
        """Return the drift (n, d) at points `x` and times `t`, a float or (n,), within the times.

        At the time of a snapshot it is that of the interval which begins there.
        """
        return self._field(PiecewiseBridge.forward, t, x, "right")

    def backward_drift(self, t: Any, x: ArrayLike) -> Floats:
        """Return the drift of the process run backward: a step is ``x - dt backward_drift``.

        At the time of a snapshot it is that of the interval which ends there.
        """
        return self._field(PiecewiseBridge.backward, t, x, "left")

    def _checked(self) -> tuple[Floats, int]:
        """Return the first parameters and the number of rounds, all settings checked."""
        check_family(self.reference)
        check_real("sigma", self.sigma, above=0)
        check_real("dt", self.dt, above=0)
        check_count("n_ipfp", self.n_ipfp)
        check_count("n_features", self.n_features)
        check_option("drift_model", self.drift_model, DRIFT_MODELS)
        if self.ridge is not None:
            check_real("ridge", self.ridge, above=0)
        if self.executor is not None and not isinstance(self.executor, Executor):
            raise TypeError(
                f"executor must be a concurrent.futures.Executor, got {self.executor!r}"
            )
        params = self.reference.init() if self.params0 is None else self.params0
        params = check_array("params0", params, shape=(self.reference.n_params,))
        return params, check_count("n_refine", self.n_refine)

    def _bridges(
        self, params: Floats, rng: np.random.Generator, where: str
    ) -> list[PiecewiseBridge]:
        options = {
            "params": params,
            "dt": self.dt,
            "n_ipfp": self.n_ipfp,
            "drift_model": self.drift_model,
            "n_features": self.n_features,
            "ridge": self.ridge,
        }
        jobs = [
            (*ends, *span, self.reference, self.sigma, {**options, "rng": child}, where)
            for ends, span, child in zip(
                pairwise(self.snapshots_),
                pairwise(self.times_.tolist()),
                rng.spawn(len(self.dt_)),
                strict=True,
            )
        ]
        if self.executor is None:
            return [_bridge(job) for job in jobs]
        return list(self.executor.map(_bridge, jobs))

    def _join(self, bridges: list[PiecewiseBridge], rng: np.random.Generator) -> Floats:
        """Carry every snapshot through all later and all earlier intervals."""
        later = _carried(self.snapshots_, bridges, "forward", rng)
        earlier = _carried(self.snapshots_[::-1], bridges[::-1], "backward", rng)[::-1]
        joined = [
            np.concatenate([back[:0:-1], ahead]).swapaxes(0, 1)
            for back, ahead in zip(earlier, later, strict=True)
        ]
        return np.concatenate(joined)

    def _refit(self, trajectories: Floats, params: Floats) -> tuple[Floats, float]:
        """Return parameters of greatest likelihood, and the mean squared residual in its units."""
        n, d = len(trajectories), self.n_features_in_
        steps = np.tile(np.diff(self.grid_), n)
        x = trajectories[:, :-1].reshape(-1, d)
        velocity = np.diff(trajectories, axis=1).reshape(-1, d) / steps[:, None]
        t = np.tile(self.grid_[:-1], n)
        params = self.reference.fit(t, x, velocity, params, steps)
        if not np.isfinite(params).all():
            raise FloatingPointError("the fitted parameters are not finite; lower dt or n_refine")
        gap = ((velocity - self.reference.drift(params, t, x)) ** 2).sum(1)
        return params, float((steps * gap).mean() / (2 * self.sigma**2))

    def _field(self, of: Callable[..., Floats], t: Any, x: ArrayLike, side: Any) -> Floats:
        check_is_fitted(self)
        x = check_array("x", x, shape=(None, self.n_features_in_))
        times = check_array("t", t)
        if times.shape not in ((), (len(x),)):
            raise ValueError(f"t must be a number or have shape ({len(x)},), got {times.shape}")
        first, last = float(self.times_[0]), float(self.times_[-1])
        if times.size and not (first <= times.min() and times.max() <= last):
            raise ValueError(f"t must lie in [{first:g}, {last:g}], got {t!r}")
        which = np.searchsorted(self.times_[1:-1], times, side=side)
        if times.ndim == 0:
            return of(self.bridges_[int(which)], float(times), x)
        result = np.empty_like(x)
        for k in np.unique(which):
            rows = which == k
            result[rows] = of(self.bridges_[k], times[rows], x[rows])
        return result

    def _generator(self, rng: Any) -> np.random.Generator:
        return np.random.default_rng(self.rng if rng is None else rng)


def _bridge(job: tuple[Any, ...]) -> PiecewiseBridge:
    *arguments, options, where = job
    try:
        return piecewise_bridge(*arguments, **options)
    except FloatingPointError as error:
        raise FloatingPointError(f"{error} (in bridge{where})") from None


def _carried(
    clouds: list[Floats], bridges: list[PiecewiseBridge], direction: str, rng: np.random.Generator
) -> list[Floats]:
    """Return the states (steps + 1, n_k, d) of each cloud along the bridges that follow it."""
    passed = [[cloud[None]] for cloud in clouds]
    for k, bridge in enumerate(bridges):
        moving = passed[: k + 1]
        states = np.concatenate([parts[-1][-1] for parts in moving])
        path = bridge.sample(states, direction, rng=rng)[1:]
        cuts = np.cumsum([len(cloud) for cloud in clouds[:k]], dtype=np.intp)
        for parts, piece in zip(moving, np.split(path, cuts, axis=1), strict=True):
            parts.append(piece)
    return [np.concatenate(parts) for parts in passed]
