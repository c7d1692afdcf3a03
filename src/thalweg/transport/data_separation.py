"""How well a data set can be read through noise: all that kinetic energy asks of the data.

The data separation function ``lambda(s)`` is the share of the data's variance that the posterior
mean recovers from ``s x_1 + z``. `DataSeparation` estimates it from rows, and turns it into the
factor g of the energy's metric: in polar coordinates of signal and noise, ``a = r sin(theta)`` and
``m = r cos(theta)``, the energy of a Gaussian path is that of a motion in a plane whose angle is
the integral of g. `separation_bound` is a certificate: it shows from distances alone that
``lambda`` is near 1.

Chosen here: 160 angles and 300 draws, the same at all angles; besides the squared error of the
posterior mean, which is accurate where it is small, its distance from the best linear estimate,
which is accurate where the data looks normal, both weighed by their variances; data with fewer rows
than columns is rotated into as many columns as rows.

Source: "On Kinetic Optimal Probability Paths for Generative Models" (2023), arXiv 2306.06626.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares
from scipy.special import expit, ndtr
from sklearn.isotonic import isotonic_regression

from thalweg._validation import check_array, check_count
from thalweg.transport._posterior_means import (
    check_normalised,
    check_rows,
    error_samples,
    rotated,
)
from thalweg.transport.metrics import _distances

Floats: TypeAlias = NDArray[np.float64]

FUNCTION_ANGLES = 4001
FUNCTION_TOLERANCE = 1e-9
FIRST_SIGNAL, LAST_SIGNAL = 0.3, 30.0
"""Ratios, the first times the root of d, between which a parametric fit looks."""
TASKS = 16


def normalize_data(X: ArrayLike) -> tuple[Floats, Floats, float]:
    """Shift and scale rows to mean 0 and ``E |x|^2 = d``, by one number for all columns.

    Parameters
    ----------
    X : array_like (n, d)
        Rows of data, at least two that differ.

    Returns
    -------
    normalised : array (n, d)
        ``(X - mean) / scale``.
    mean : array (d,)
    scale : float
        In the unit of the data.

    Raises
    ------
    ValueError
        If `X` has fewer than two rows, or no variance.

    Examples
    --------
    >>> normalize_data([[0.0, 1.0], [4.0, 1.0]])
    (array([[-1.41421356,  0.        ],
           [ 1.41421356,  0.        ]]), array([2., 1.]), 1.41421356...)
    """
    X = check_rows("X", X)
    mean = X.mean(0)
    centred = X - mean
    largest = float(np.abs(centred).max())
    if not largest > 1e-12 * float(np.abs(X).max()):
        raise ValueError("X must have rows that differ, got zero variance")
    scale = largest * float(np.sqrt(np.mean((centred / largest) ** 2)))
    return centred / scale, mean, scale


class DataSeparation:
    """The data separation function of a law, on a grid of angles.

    Make one with `from_data`, `parametric`, `from_function`, `perfect` or `gaussian`. Calling it
    gives ``lambda(s) = E |E[x_1 | s x_1 + z]|^2 / d``, which rises from 0 to 1 and is at least
    ``s^2 / (1 + s^2)``, the value of normal data.

    Parameters
    ----------
    angles : array_like (k,)
        Increasing from 0 to pi/2.
    g : array_like (k,)
        Values in [0, 1] at the angles; linear in between.

    Attributes
    ----------
    angles_, g_ : array (k,)
        The grid.
    total_angle_ : float
        Phi, the integral of g: pi/2 for data that any signal reveals, 0 for normal data.

    References
    ----------
    "On Kinetic Optimal Probability Paths for Generative Models" (2023), arXiv 2306.06626.

    Examples
    --------
    >>> import numpy as np
    >>> X, _, _ = normalize_data(np.random.default_rng(0).choice([-1.0, 1.0], size=(1000, 1)))
    >>> separation = DataSeparation.from_data(X, rng=0)
    >>> bool(abs(separation(1.0) - 0.55) < 0.02)
    True
    >>> round(DataSeparation.perfect().total_angle_, 4), float(DataSeparation.gaussian()(1.0))
    (1.5708, 0.5)
    """

    def __init__(self, angles: ArrayLike, g: ArrayLike) -> None:
        self.angles_ = check_array("angles", angles, ndim=1)
        self.g_ = check_array("g", g, shape=(len(self.angles_),))
        ends = self.angles_[[0, -1]] if len(self.angles_) > 1 else np.full(2, np.nan)
        if not (
            np.allclose(ends, [0, np.pi / 2], atol=1e-12) and (np.diff(self.angles_) > 0).all()
        ):
            raise ValueError("angles must increase from 0 to pi/2")
        if not ((self.g_ >= 0) & (self.g_ <= 1)).all():
            raise ValueError("g must lie in [0, 1]")
        cells = np.diff(self.angles_) * (self.g_[1:] + self.g_[:-1]) / 2
        self._flat = np.concatenate([[0.0], np.cumsum(cells)])
        self.total_angle_ = float(self._flat[-1])

    @classmethod
    def from_data(
        cls,
        X: ArrayLike,
        *,
        n_draws: int = 300,
        n_angles: int = 160,
        block: int = 4096,
        rng: Any = None,
        executor: Executor | None = None,
    ) -> DataSeparation:
        """Estimate the function of the empirical law of the rows.

        Parameters
        ----------
        X : array_like (n, d)
            Normalised data; see `normalize_data`.
        n_draws : int, default 300
            Pairs of a row and noise, the same at all angles. The time is n d a draw and angle where
            many rows are likely, and n alone where few are.
        n_angles : int, default 160
            Angles, both ends included; a separation is thereby resolved up to s of about
            ``2 n_angles / pi``.
        block : int, default 4096
            Rows that all draws meet at a time; more rows are met by fewer draws, so that no array
            has more than ``n_draws * block`` numbers (or n).
        rng : None, int or Generator
            Source of the draws.
        executor : concurrent.futures.Executor, optional
            Where groups of angles are computed.

        Returns
        -------
        DataSeparation

        Raises
        ------
        ValueError
            If `X` is not normalised or has fewer than two rows.
        """
        angles = np.linspace(0, np.pi / 2, check_count("n_angles", n_angles, at_least=3))
        inner = angles[1:-1]
        left, _ = denoising_error(
            X, np.tan(inner), n_draws=n_draws, block=block, rng=rng, executor=executor
        )
        falling = isotonic_regression(left, increasing=False)
        squares = np.clip(1 - falling / np.cos(inner) ** 2, 0, 1)
        return cls(angles, np.concatenate([[0.0], np.sqrt(squares), [1.0]]))

    @classmethod
    def parametric(
        cls,
        X: ArrayLike,
        *,
        n_values: int = 8,
        n_draws: int = 300,
        n_angles: int = 160,
        block: int = 4096,
        rng: Any = None,
    ) -> DataSeparation:
        """Fit the value of normal data and a logistic curve to a handful of values of s.

        ``lambda(s) = (s^2 + h(s)) / (1 + s^2)`` with ``h`` a logistic function of log s, so that
        ``g^2 = h``: smooth and ten times cheaper than `from_data`, as good where the data has one
        scale. The arguments are those of `from_data`; of the `n_values` values of s half span all
        that matter and half surround the middle of a first fit.
        """
        X, half = check_normalised("X", X), check_count("n_values", n_values, at_least=4) // 2
        angles = np.linspace(0, np.pi / 2, check_count("n_angles", n_angles, at_least=3))
        rng = np.random.default_rng(rng)

        def curve(parameters: Floats, log_s: Floats) -> Floats:
            middle, log_slope = parameters
            return np.asarray(expit(np.exp(log_slope) * (log_s - middle)))

        nodes, squares, parameters = np.empty(0), np.empty(0), np.array([0.0, 1.0])
        widest = np.log([FIRST_SIGNAL / np.sqrt(X.shape[1]), LAST_SIGNAL])
        for ends, number in ((widest, n_values - half), (np.array([-1.0, 1.0]), half)):
            first, last = ends + (parameters[0] if len(nodes) else 0.0)
            new = np.linspace(float(first), float(last), number)
            left, _ = denoising_error(X, np.exp(new), n_draws=n_draws, block=block, rng=rng)
            nodes = np.concatenate([nodes, new])
            squares = np.concatenate([squares, 1 - left * (1 + np.exp(2 * new))])
            start = [float(np.interp(0.5, squares[: n_values - half], nodes[: n_values - half])), 1]
            parameters = least_squares(
                lambda p, s, y: curve(p, s) - y, start, args=(nodes, squares)
            ).x
        inner = np.sqrt(curve(parameters, np.log(np.tan(angles[1:-1]))))
        return cls(angles, np.concatenate([[0.0], inner, [1.0]]))

    @classmethod
    def perfect(cls) -> DataSeparation:
        """Return ``lambda = 1``, the limit of few samples in high dimension."""
        return cls([0, np.pi / 2], [1, 1])

    @classmethod
    def gaussian(cls) -> DataSeparation:
        """Return ``s^2 / (1 + s^2)``, the function of standard normal data."""
        return cls([0, np.pi / 2], [0, 0])

    @classmethod
    def from_function(cls, lam: Callable[[Floats], ArrayLike]) -> DataSeparation:
        """Tabulate a known function at 4001 angles.

        Parameters
        ----------
        lam : callable
            ``lam(s) -> array`` of an array of s > 0, with values in ``[s^2 / (1 + s^2), 1]``.

        Raises
        ------
        ValueError
            If a value is outside; the message names s.
        """
        if not callable(lam):
            raise TypeError(f"lam must be callable as lam(s), got {lam!r}")
        angles = np.linspace(0, np.pi / 2, FUNCTION_ANGLES)
        s = np.tan(angles[1:-1])
        values = check_array("lam(s)", lam(s), shape=s.shape)
        least = s**2 / (1 + s**2)
        wrong = (values < least - FUNCTION_TOLERANCE) | (values > 1 + FUNCTION_TOLERANCE)
        if wrong.any():
            k = int(np.argmax(wrong))
            raise ValueError(
                f"lam must lie in [s^2 / (1 + s^2), 1] = [{least[k]:.9g}, 1], got {values[k]:.9g} "
                f"at s = {s[k]:.6g}"
            )
        g = np.sqrt(np.clip(1 - (1 - values) * (1 + s**2), 0, 1))
        return cls(angles, np.concatenate([[0.0 if g[0] < 0.5 else g[0]], g, [g[-1]]]))

    def __call__(self, s: ArrayLike) -> Any:
        """Return ``lambda`` at the ratios ``s = a / m`` of signal to noise, ``s >= 0``."""
        s = check_array("s", s, finite=False)
        if not (s >= 0).all():
            raise ValueError("s must be >= 0 in every entry")
        return (1 - (1 - self.g(np.arctan(s)) ** 2) / (1 + s**2))[()]

    def g(self, theta: ArrayLike) -> Any:
        """Return ``sqrt(1 - (1 - lambda(tan theta)) / cos^2 theta)`` at angles in [0, pi/2]."""
        return np.interp(_check_angles("theta", theta, np.pi / 2), self.angles_, self.g_)

    def flat_angle(self, theta: ArrayLike) -> Any:
        """Return the integral of g from 0 to `theta`: the angle in the plane without curvature."""
        theta = _check_angles("theta", theta, np.pi / 2)
        k = np.clip(np.searchsorted(self.angles_, theta, "right") - 1, 0, len(self.g_) - 2)
        step = theta - self.angles_[k]
        return (self._flat[k] + step * (self.g_[k] + self._slopes()[k] * step / 2))[()]

    def angle_at(self, flat_angle: ArrayLike) -> Any:
        """Return the angle in [0, pi/2] whose `flat_angle` this is; the least where many are."""
        flat = _check_angles("flat_angle", flat_angle, self.total_angle_)
        k = np.clip(np.searchsorted(self._flat, flat, "left") - 1, 0, len(self.g_) - 2)
        rise = np.maximum(flat - self._flat[k], 0.0)
        root = np.sqrt(np.maximum(self.g_[k] ** 2 + 2 * self._slopes()[k] * rise, 0.0))
        step = 2 * rise / np.where(rise > 0, np.maximum(self.g_[k] + root, 1e-300), 1.0)
        return np.minimum(self.angles_[k] + step, self.angles_[k + 1])[()]

    def _slopes(self) -> Floats:
        return np.asarray(np.diff(self.g_) / np.diff(self.angles_))


def denoising_error(
    X: ArrayLike,
    s: ArrayLike,
    *,
    n_draws: int = 300,
    block: int = 4096,
    rng: Any = None,
    executor: Executor | None = None,
) -> tuple[Floats, Floats]:
    """Estimate ``1 - lambda(s)``, the least mean squared error of guessing a row from noise.

    Parameters
    ----------
    X : array_like (n, d)
        Normalised data.
    s : array_like (k,)
        Ratios of signal to noise, positive.
    n_draws, block, rng, executor
        As in `DataSeparation.from_data`.

    Returns
    -------
    error : array (k,)
        ``E |x_1 - E[x_1 | s x_1 + z]|^2 / d``, x_1 a random row; with its relative accuracy where
        it is small.
    standard_error : array (k,)

    Examples
    --------
    >>> error, deviation = denoising_error([[-1.0], [1.0]], [0.01, 1.0, 4.0], rng=0)
    >>> bool((abs(error - [0.9999, 0.45, 3e-5]) < 0.03).all())
    True
    """
    X = check_normalised("X", X)
    s = check_array("s", s, ndim=1)
    if not (s > 0).all():
        raise ValueError("s must be > 0 in every entry")
    n_draws = check_count("n_draws", n_draws, at_least=2)
    block = check_count("block", block)
    # A child, for the data may have been drawn with the same seed.
    rng = np.random.default_rng(rng).spawn(1)[0]
    d = X.shape[1]
    X = rotated(X)
    own = np.resize(rng.permutation(len(X)), n_draws)
    Z = rng.standard_normal((n_draws, X.shape[1]))
    work = partial(error_samples, X, own, Z, d, block)
    if executor is None:
        parts = [work(s)]
    else:
        groups = [group for group in np.array_split(s, TASKS) if len(group)]
        parts = list(executor.map(work, groups))
    errors, surplus = (np.concatenate(part) for part in zip(*parts, strict=True))
    centred = surplus - surplus.mean(1, keepdims=True)
    spread = (centred**2).mean(1)
    weight = (centred * errors).mean(1) / np.where(spread > 0, spread, 1.0)
    adjusted = errors - np.clip(weight, 0, 1)[:, None] * surplus
    mean = adjusted.mean(1)
    mean = np.where(mean > 0, mean, errors.mean(1))
    share = 1 / (1 + s**2)
    return np.minimum(mean, 1) * share, adjusted.std(1, ddof=1) / np.sqrt(n_draws) * share


def separation_bound(X: ArrayLike, s: ArrayLike, *, block: int = 512) -> Any:
    """Return an upper bound on ``1 - lambda(s)`` of the empirical law, from distances alone.

    ``(1 / (n d)) sum_ij |x_i - x_j|^2 Q(s |x_i - x_j| / 2)``, Q the upper tail of the normal law:
    the posterior mean errs no more than the nearest point, and that errs where another row is
    nearer. With squared distances of about 2 d it vanishes once s is well above
    ``sqrt(log(n) / d)``: few points in high dimension are told apart by any signal.

    Parameters
    ----------
    X : array_like (n, d)
        Normalised data.
    s : float or array_like (k,)
        Ratios of signal to noise, ``>= 0``.
    block : int, default 512
        Rows a block of the pairs.

    Returns
    -------
    float or array (k,)

    Examples
    --------
    >>> round(float(separation_bound([[-1.0], [1.0]], 2.0)), 4)  # 4 Q(2)
    0.091
    """
    X, block = check_normalised("X", X), check_count("block", block)
    s = check_array("s", s)
    if s.ndim > 1 or not (s >= 0).all():
        raise ValueError("s must be a number or have one axis, with entries >= 0")
    total = np.zeros(s.size)
    for start in range(0, len(X), block):
        distances = _distances(X[start : start + block], X)
        squares = distances**2
        for k, ratio in enumerate(s.ravel()):
            total[k] += (squares * ndtr(distances * (-ratio / 2))).sum()
    return (total.reshape(s.shape) / X.size)[()]


def _check_angles(name: str, value: ArrayLike, largest: float) -> Floats:
    value = check_array(name, value)
    if ((value < -1e-9) | (value > largest + 1e-9)).any():
        raise ValueError(f"{name} must lie in [0, {largest:.6g}]")
    return np.clip(value, 0, largest)
