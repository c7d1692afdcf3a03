"""Gaussian paths from noise to data, their kinetic energy, and the path of least energy.

A `GaussianPath` moves each datum x_1 by ``x_t = a(t) x_1 + m(t) z``. Its kinetic energy, the mean
squared speed of the flow that a model learns, depends on the data through the one function of
`DataSeparation`. In polar coordinates ``a = r sin(theta)``, ``m = r cos(theta)``, with the integral
of the separation's g in place of theta, it is that of a motion in the plane; the kinetic optimal
path is the straight chord, and its energy ``2 - 2 cos(Phi)``.

Chosen here: the energy is that of the polygon through the path's points in that plane, which no
path can bring below the optimum; on its way to the optimal path g is raised to at least 0.001, so
that angles which cost nothing are passed at a finite speed; paths of diffusions whose noise never
is all or nothing have their angle stretched to both ends.

Source: "On Kinetic Optimal Probability Paths for Generative Models" (2023), arXiv 2306.06626.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_real, is_torch_tensor
from thalweg.transport._posterior_means import (
    Posterior,
    check_normalised,
    draw_blocks,
    rotated,
)
from thalweg.transport.data_separation import DataSeparation

Floats: TypeAlias = NDArray[np.float64]
Schedule: TypeAlias = Callable[[Floats], tuple[Floats, Floats, Floats, Floats]]

END_TOLERANCE = 1e-6
LEAST_G = 1e-3
"""Least g on the way to the optimal path; chosen here."""
GAUSSIAN_ANGLE = 1e-4
"""Total angle below which data counts as normal, for which all paths with r = 1 are optimal."""
LAST_MOMENT = 1e-12
"""Time before the end at which the infinite speed of `GaussianPath.vp_linear` is cut off."""
BLOCK = 512


class GaussianPath:
    """A path ``x_t = a(t) x_1 + m(t) z`` from standard normal noise to data.

    Make one with `cond_ot`, `vp_cosine`, `vp_linear`, `ve` or `kinetic_optimal`, or from a schedule
    of your own.

    Parameters
    ----------
    schedule : callable
        ``schedule(t) -> (a, m, da, dm)`` of an array of times in [0, 1]: both factors and their
        derivatives; ``(0, 1)`` at time 0 and ``(1, 0)`` at time 1.

    Raises
    ------
    ValueError
        If an end is off by more than 1e-6.

    References
    ----------
    "On Kinetic Optimal Probability Paths for Generative Models" (2023), arXiv 2306.06626.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.transport import DataSeparation, normalize_data
    >>> X, _, _ = normalize_data(np.random.default_rng(0).normal(size=(50, 16)))
    >>> separation = DataSeparation.from_data(X, rng=0)
    >>> best = GaussianPath.kinetic_optimal(separation)
    >>> kinetic_energy(best, separation) < kinetic_energy(GaussianPath.cond_ot(), separation)
    True
    >>> a, m = best.a(0.5), best.m(0.5)
    >>> bool(a**2 + m**2 < 1)
    True
    """

    def __init__(self, schedule: Schedule) -> None:
        if not callable(schedule):
            raise TypeError(f"schedule must be callable as schedule(t), got {schedule!r}")
        self.schedule = schedule
        ends = np.array(self.coefficients([0.0, 1.0])[:2])
        for name, found, wanted in zip("am", ends, ([0, 1], [1, 0]), strict=True):
            if not np.abs(found - wanted).max() <= END_TOLERANCE:
                raise ValueError(
                    f"schedule must have {name} = {wanted[0]} at time 0 and {wanted[1]} at time 1, "
                    f"got {found[0]:.9g} and {found[1]:.9g}"
                )

    @classmethod
    def cond_ot(cls) -> GaussianPath:
        """Return ``a = t, m = 1 - t``: straight lines, optimal where ``lambda = 1``."""
        return cls(_cond_ot)

    @classmethod
    def vp_cosine(cls) -> GaussianPath:
        """Return ``a = sin(pi t / 2), m = cos(pi t / 2)``: the variance stays 1."""
        return cls(_vp_cosine)

    @classmethod
    def vp_linear(cls, beta_min: float = 0.1, beta_max: float = 20.0) -> GaussianPath:
        """Return the diffusion ``dx = -beta x / 2 dt + sqrt(beta) dw`` with linear beta, reversed.

        ``a^2 = exp(-B)``, ``m^2 = 1 - exp(-B)`` with ``B(t)`` the integral of beta over the time
        ``1 - t`` before the data; the angle is stretched by 0.4 % with the default values, since
        the diffusion does not quite reach pure noise. Its speed grows without bound towards time 1.
        """
        beta_min = check_real("beta_min", beta_min, above=0)
        beta_max = check_real("beta_max", beta_max, above=0)
        return cls(partial(_stretched, partial(_vp_linear_angle, beta_min, beta_max)))

    @classmethod
    def ve(cls, sigma_max: float = 100.0, sigma_min: float = 0.01) -> GaussianPath:
        """Return ``x_1 + sigma z`` with geometric sigma, scaled to variance 1.

        ``a = 1 / sqrt(1 + sigma^2)``, ``m = sigma a``; the angle is stretched so that both ends are
        reached.
        """
        sigma_min = check_real("sigma_min", sigma_min, above=0)
        sigma_max = check_real("sigma_max", sigma_max, above=sigma_min)
        return cls(partial(_stretched, partial(_ve_angle, sigma_max, sigma_min)))

    @classmethod
    def kinetic_optimal(cls, separation: DataSeparation, n_grid: int = 2000) -> GaussianPath:
        """Return the path of least kinetic energy for this data.

        Parameters
        ----------
        separation : DataSeparation
            What is known of the data.
        n_grid : int, default 2000
            Cells of angle in which g is linear and the flat angle is inverted in closed form.

        Returns
        -------
        GaussianPath
            In the plane of polar coordinates (r, flat angle) the chord from (1, 0) to (1, Phi).
        """
        _check_separation(separation)
        n_grid = check_count("n_grid", n_grid)
        if separation.total_angle_ < GAUSSIAN_ANGLE:
            return cls.vp_cosine()
        angles = np.linspace(0, np.pi / 2, n_grid + 1)
        table = DataSeparation(angles, np.maximum(separation.g(angles), LEAST_G))
        return cls(partial(_chord, table))

    def coefficients(self, t: ArrayLike) -> tuple[Any, Any, Any, Any]:
        """Return a, m and their derivatives at times in [0, 1]."""
        t = check_array("t", t)
        if not ((t >= 0) & (t <= 1)).all():
            raise ValueError("t must lie in [0, 1]")
        a, m, da, dm = (np.broadcast_to(v, t.shape)[()] for v in self.schedule(t))
        return a, m, da, dm

    def a(self, t: ArrayLike) -> Any:
        """Return the factor of the data."""
        return self.coefficients(t)[0]

    def m(self, t: ArrayLike) -> Any:
        """Return the factor of the noise."""
        return self.coefficients(t)[1]

    def da(self, t: ArrayLike) -> Any:
        """Return the derivative of a."""
        return self.coefficients(t)[2]

    def dm(self, t: ArrayLike) -> Any:
        """Return the derivative of m."""
        return self.coefficients(t)[3]

    def conditional_velocity(self, t: Any, x: Any, x1: Any) -> Any:
        """Return ``a' x1 + (m' / m) (x - a x1)``, the speed at `x` of what ends in `x1`.

        Parameters
        ----------
        t : float or array_like (n,)
            Times in [0, 1).
        x, x1 : array_like or tensor (n, d)
            Points at `t` and at time 1.

        Returns
        -------
        array or tensor (n, d)
        """
        if not is_torch_tensor(x):
            x, x1 = check_array("x", x, ndim=2), check_array("x1", x1, ndim=2)
        if x.shape != x1.shape:
            raise ValueError(f"x1 must have the shape of x, {x.shape}, got {x1.shape}")
        times = np.asarray(t.detach().cpu() if is_torch_tensor(t) else t, dtype=np.float64)
        if times.shape not in ((), (len(x),)) or not ((times >= 0) & (times < 1)).all():
            raise ValueError(f"t must be a number or have shape ({len(x)},), in [0, 1), got {t!r}")
        columns = [np.reshape(v, (-1, 1)) for v in self.coefficients(times)]
        if is_torch_tensor(x):
            columns = [x.new_tensor(v) for v in columns]
        a, m, da, dm = columns
        return da * x1 + dm / m * (x - a * x1)


def kinetic_energy(path: GaussianPath, separation: DataSeparation, *, n_quad: int = 4000) -> float:
    """Return the kinetic energy of a path per dimension, ``int_0^1 E |u_t(x_t)|^2 dt / d``.

    Parameters
    ----------
    path : GaussianPath
        The path.
    separation : DataSeparation
        What is known of the data.
    n_quad : int, default 4000
        Equal steps of time.

    Returns
    -------
    float
        ``int r'^2 + r^2 g(theta)^2 theta'^2 dt``, as the energy of the polygon through the path's
        points in the plane of r and the flat angle: never negative, never below
        `minimal_kinetic_energy`, and from below up to an error of order ``n_quad^-2``. Where the
        energy is infinite, as that of `GaussianPath.vp_linear` on separate points, it grows with
        the logarithm of `n_quad`.

    References
    ----------
    "On Kinetic Optimal Probability Paths for Generative Models" (2023), arXiv 2306.06626.

    Examples
    --------
    >>> round(kinetic_energy(GaussianPath.cond_ot(), DataSeparation.perfect()), 9)
    2.0
    """
    _check_path(path)
    _check_separation(separation)
    n_quad = check_count("n_quad", n_quad)
    a, m, _, _ = path.coefficients(np.linspace(0, 1, n_quad + 1))
    if not (min(a.min(), m.min()) >= -END_TOLERANCE):
        raise ValueError("path must keep a >= 0 and m >= 0")
    flat = separation.flat_angle(np.arctan2(np.maximum(a, 0), np.maximum(m, 0)))
    radius, turn = np.hypot(a, m), np.diff(flat)
    squares = np.diff(radius) ** 2 + 4 * radius[1:] * radius[:-1] * np.sin(turn / 2) ** 2
    return float(n_quad * squares.sum())


def minimal_kinetic_energy(separation: DataSeparation) -> float:
    """Return ``2 - 2 cos(Phi)``, the least energy of all Gaussian paths.

    Examples
    --------
    >>> round(minimal_kinetic_energy(DataSeparation.perfect()), 9)
    2.0
    >>> minimal_kinetic_energy(DataSeparation.gaussian())
    0.0
    """
    _check_separation(separation)
    return float(4 * np.sin(separation.total_angle_ / 2) ** 2)


def monte_carlo_kinetic_energy(
    path: GaussianPath, X: ArrayLike, *, n: int = 2000, n_times: int = 64, rng: Any = None
) -> tuple[float, float]:
    """Estimate the kinetic energy from the velocity itself, on the empirical law of the rows.

    Parameters
    ----------
    path : GaussianPath
        The path.
    X : array_like (N, d)
        Normalised data.
    n : int, default 2000
        Draws of a time, a row and noise; the time is N d each.
    n_times : int, default 64
        Equal intervals of time, each with the same number of draws (`n` is rounded up).
    rng : None, int or Generator
        Source of the draws.

    Returns
    -------
    value : float
        ``E |E[a' x_1 + m' z | x_t]|^2 / d``, which uses no data separation function.
    standard_error : float

    Examples
    --------
    >>> X = [[-1.0], [1.0]]
    >>> value, error = monte_carlo_kinetic_energy(GaussianPath.cond_ot(), X, rng=0)
    >>> separation = DataSeparation.from_data(X, n_draws=5000, rng=0)
    >>> bool(abs(value - kinetic_energy(GaussianPath.cond_ot(), separation)) < 4 * error)
    True
    """
    _check_path(path)
    X = check_normalised("X", X)
    n_times = check_count("n_times", n_times)
    per_time = max(2, -(-check_count("n", n) // n_times))
    rng, d = np.random.default_rng(rng).spawn(1)[0], X.shape[1]
    X = rotated(X)
    missing = d - X.shape[1]
    times = (np.arange(n_times)[:, None] + rng.random((n_times, per_time))) / n_times
    # A time of exactly 0 has no signal at all, and a path may start there at infinite speed.
    a, m, da, dm = (v.reshape(-1, 1) for v in path.coefficients(np.maximum(times, 1e-12)))
    own = rng.integers(len(X), size=len(a))
    Z = rng.standard_normal((len(a), X.shape[1]))
    squares = np.empty(len(a))
    for part in draw_blocks(len(a), max(len(X), d), BLOCK):
        posterior = Posterior(X, own[part], Z[part])
        ratio = a[part] / m[part]
        left = posterior.residuals(ratio)
        velocity = da[part] * (posterior.truth - left) + dm[part] * (Z[part] + ratio * left)
        squares[part] = (velocity**2).sum(1)
    squares = ((squares + missing * dm[:, 0] ** 2) / d).reshape(n_times, per_time)
    error = np.sqrt((squares.var(1, ddof=1) / per_time).sum()) / n_times
    if not np.isfinite(squares).all():
        raise FloatingPointError("the velocity is not finite at some time; check the path")
    return float(squares.mean()), float(error)


def _cond_ot(t: Floats) -> tuple[Any, ...]:
    return t, 1 - t, np.ones_like(t), -np.ones_like(t)


def _vp_cosine(t: Floats) -> tuple[Any, ...]:
    half = np.pi / 2
    return _from_polar(1.0, half * t, 0.0, half)


def _stretched(angle: Callable[[Floats], tuple[Floats, Floats]], t: Floats) -> tuple[Any, ...]:
    """Return the path with r = 1 along an angle that is stretched to [0, pi/2]."""
    first, last = angle(np.array([0.0, 1.0]))[0]
    theta, speed = angle(t)
    factor = np.pi / 2 / (last - first)
    return _from_polar(1.0, factor * (theta - first), 0.0, factor * speed)


def _vp_linear_angle(beta_min: float, beta_max: float, t: Floats) -> tuple[Any, Any]:
    left = np.maximum(1 - t, LAST_MOMENT)
    total = left * (beta_min + (beta_max - beta_min) * left / 2)
    rate = beta_min + (beta_max - beta_min) * left
    signal, noise = np.exp(-total / 2), np.sqrt(-np.expm1(-total))
    return np.arctan2(signal, noise), rate * signal / (2 * noise)


def _ve_angle(sigma_max: float, sigma_min: float, t: Floats) -> tuple[Any, Any]:
    rate = np.log(sigma_max / sigma_min)
    sigma = sigma_max * np.exp(-rate * t)
    return np.arctan2(1, sigma), rate * sigma / (1 + sigma**2)


def _chord(table: DataSeparation, t: Floats) -> tuple[Any, ...]:
    """Return the straight motion in the plane of r and the flat angle."""
    Phi = table.total_angle_
    bend = 2 * np.sin(Phi / 2) ** 2
    r = np.sqrt(1 - 2 * t * (1 - t) * bend)
    theta = table.angle_at(np.clip(np.arctan2(t * np.sin(Phi), 1 - t * bend), 0, Phi))
    return _from_polar(r, theta, -(1 - 2 * t) * bend / r, np.sin(Phi) / (r**2 * table.g(theta)))


def _from_polar(r: Any, theta: Any, dr: Any, dtheta: Any) -> tuple[Any, ...]:
    sine, cosine = np.sin(theta), np.cos(theta)
    a, m = r * sine, r * cosine
    return a, m, dr * sine + m * dtheta, dr * cosine - a * dtheta


def _check_path(path: Any) -> None:
    if not isinstance(path, GaussianPath):
        raise TypeError(f"path must be a GaussianPath, got {path!r}")


def _check_separation(separation: Any) -> None:
    if not isinstance(separation, DataSeparation):
        raise TypeError(f"separation must be a DataSeparation, got {separation!r}")
