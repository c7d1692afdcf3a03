"""The Brownian reference process on [0, 1], its bridges and its transition density.

Every Schrödinger bridge is taken relative to ``dX = sqrt(epsilon) dW``. Conditioned on both ends
this process is a Brownian bridge, whose laws are Gaussian and known in closed form; the methods of
this domain sample them, regress on their drift or weigh them.

Source: "Light Schrödinger Bridge" (2023), arXiv 2310.01174, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thalweg._validation import check_array, check_real, is_torch_tensor

Array: TypeAlias = Any
"""A NumPy array or a torch tensor; what comes back is of the kind that went in."""


@dataclass(frozen=True)
class BrownianReference:
    """Brownian motion ``dX = sqrt(epsilon) dW`` on [0, 1] and its bridges.

    All methods take points as arrays of one shape whose first axis is the sample, ``(n, d)`` as a
    rule, and times as a number or as an array ``(n,)``. Where the points are torch tensors, so is
    the result, on the same device, and `rng` is None, an int or a ``torch.Generator``.

    Parameters
    ----------
    epsilon : float, default 1.0
        Variance of the process at time 1.

    Raises
    ------
    ValueError
        If `epsilon` is not positive and finite.

    References
    ----------
    "Light Schrödinger Bridge" (2023), arXiv 2310.01174, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> reference = BrownianReference(epsilon=0.1)
    >>> x0, x1 = np.zeros((3, 2)), np.ones((3, 2))
    >>> reference.bridge(x0, x1, 0.5, rng=0).shape
    (3, 2)
    >>> reference.bridge_drift(x0, x1, 0.5)[0]
    array([2., 2.])
    """

    epsilon: float = 1.0

    def __post_init__(self) -> None:
        check_real("epsilon", self.epsilon, above=0)

    def bridge(self, x0: Array, x1: Array, t: Any, rng: Any = None) -> Array:
        """Draw X_t given both ends: mean ``(1-t) x0 + t x1``, variance ``epsilon t (1-t)``.

        Parameters
        ----------
        x0, x1 : array (n, d)
            The ends.
        t : float or array (n,)
            Times in [0, 1].
        rng : None, int or Generator
            Source of randomness.

        Returns
        -------
        array (n, d)
        """
        x0, x1 = _points(x0=x0, x1=x1)
        t = _times("t", t, x0, at_least=0, at_most=1)
        return (1 - t) * x0 + t * x1 + (self.epsilon * t * (1 - t)) ** 0.5 * _normal(x0, rng)

    def bridge_step(self, xs: Array, x1: Array, s: Any, t: Any, rng: Any = None) -> Array:
        """Draw X_t given X_s = `xs` and X_1 = `x1`.

        The mean is ``xs + (t-s)/(1-s) (x1-xs)``, the variance ``epsilon (t-s)(1-t)/(1-s)``.

        Parameters
        ----------
        xs, x1 : array (n, d)
            The points at times `s` and 1.
        s, t : float or array (n,)
            Times, ``0 <= s < t <= 1``.
        rng : None, int or Generator
            Source of randomness.

        Returns
        -------
        array (n, d)
        """
        xs, x1 = _points(xs=xs, x1=x1)
        s = _times("s", s, xs, at_least=0, below=1)
        t = _times("t", t, xs, above=0, at_most=1)
        if not bool((s < t).all() if hasattr(s < t, "all") else s < t):
            raise ValueError("t must be later than s in every entry")
        share = (t - s) / (1 - s)
        return xs + share * (x1 - xs) + (self.epsilon * share * (1 - t)) ** 0.5 * _normal(xs, rng)

    def bridge_drift(self, xt: Array, x1: Array, t: Any) -> Array:
        """Return the drift ``(x1 - xt) / (1 - t)`` of the bridge that ends in `x1`, 0 <= t < 1."""
        xt, x1 = _points(xt=xt, x1=x1)
        return (x1 - xt) / (1 - _times("t", t, xt, at_least=0, below=1))

    def bridge_path(self, x0: Array, x1: Array, times: Sequence[float], rng: Any = None) -> Array:
        """Draw one bridge a row, jointly at all `times`.

        Parameters
        ----------
        x0, x1 : array (n, d)
            The ends.
        times : sequence of float
            Strictly increasing times in [0, 1].
        rng : None, int or Generator
            Source of randomness.

        Returns
        -------
        array (len(times), n, d)
        """
        x0, x1 = _points(x0=x0, x1=x1)
        grid = check_array("times", times, ndim=1)
        if not grid.size or grid[0] < 0 or grid[-1] > 1 or (np.diff(grid) <= 0).any():
            raise ValueError(f"times must increase strictly inside [0, 1], got {times!r}")
        rng = _generator(x0, rng)
        path, point, now = [], x0, 0.0
        for time in grid.tolist():
            if time > now:
                point, now = self.bridge_step(point, x1, now, time, rng), time
            path.append(point)
        if is_torch_tensor(x0):
            from thalweg._torch import torch

            return torch.stack(path)
        return np.stack(path)

    def log_transition(self, x: Array, y: Array, dt: Any) -> Array:
        """Return ``log N(y; x, epsilon dt I)`` for each row, shape ``(n,)``; `dt` is positive."""
        x, y = _points(x=x, y=y)
        variance = self.epsilon * _times("dt", dt, x, above=0)
        log_variance = variance.log() if is_torch_tensor(variance) else np.log(variance)
        terms = (y - x) ** 2 / variance + math.log(2 * math.pi) + log_variance
        return -0.5 * terms.reshape(x.shape[0], -1).sum(1)


def sample_neighbours(
    x0: Array, x1: Array, times: Any, epsilon: float, rng: Any = None
) -> tuple[Array, Array, Array]:
    """Draw two neighbouring points of a Brownian bridge a row, at a random place of a time grid.

    Parameters
    ----------
    x0, x1 : array (n, d)
        The ends.
    times : array_like (N + 2,)
        Times that increase from 0 to 1.
    epsilon : float
        Variance of the reference at time 1.
    rng : None, int or Generator
        Source of randomness.

    Returns
    -------
    index : integer array (n,)
        Uniform on 0, ..., N.
    x_now, x_next : array (n, d)
        The bridge at ``times[index]`` and ``times[index + 1]``, drawn jointly.

    Raises
    ------
    ValueError
        If an argument is not as stated.

    References
    ----------
    "Adversarial Schrödinger Bridge Matching" (2024), arXiv 2405.14449, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> x0, x1 = np.zeros((4, 2)), np.ones((4, 2))
    >>> index, x_now, x_next = sample_neighbours(x0, x1, [0, 0.5, 1], 0.1, rng=0)
    >>> bool((x_now[index == 0] == 0).all() and (x_next[index == 1] == 1).all())
    True
    """
    reference, (x0, x1) = BrownianReference(epsilon), _points(x0=x0, x1=x1)
    rng = _generator(x0, rng)
    grid: Any = check_grid(times)
    if is_torch_tensor(x0):
        from thalweg._torch import torch

        grid = torch.as_tensor(grid, dtype=x0.dtype, device=x0.device)
        index = torch.randint(len(grid) - 1, x0.shape[:1], generator=rng, device=x0.device)
    else:
        index = rng.integers(len(grid) - 1, size=len(x0))
    s, t = grid[index], grid[index + 1]
    x_now = reference.bridge(x0, x1, s, rng)
    return index, x_now, reference.bridge_step(x_now, x1, s, t, rng)


def check_grid(times: Any) -> NDArray[np.float64]:
    """Return `times` as an array; ValueError unless they increase strictly from 0 to 1."""
    grid = check_array("times", times, ndim=1)
    if len(grid) < 2 or grid[0] != 0 or grid[-1] != 1 or (np.diff(grid) <= 0).any():
        raise ValueError(f"times must increase strictly from 0 to 1, got {times!r}")
    return grid


def _points(**named: Array) -> list[Array]:
    """Check that the arrays have one shape and kind."""
    (first, x), (second, y) = named.items()
    if is_torch_tensor(x) != is_torch_tensor(y):
        raise TypeError(f"{first} and {second} must both be arrays or both be torch tensors")
    if not is_torch_tensor(x):
        x, y = check_array(first, x), check_array(second, y)
    elif not (x.is_floating_point() and y.is_floating_point()):
        raise TypeError(f"{first} and {second} must be floating point tensors")
    if x.ndim < 1 or x.shape != y.shape:
        raise ValueError(
            f"{first} and {second} must have one shape (n, d), got {tuple(x.shape)} and "
            f"{tuple(y.shape)}"
        )
    return [x, y]


def _times(name: str, t: Any, x: Array, **bounds: float) -> Any:
    """Check times and shape them so that they broadcast against the points."""
    if isinstance(t, (int, float)):
        return check_real(name, t, **bounds)
    ndim = t.ndim if hasattr(t, "ndim") else np.ndim(t)
    column = (-1,) + (1,) * (x.ndim - 1)
    if not is_torch_tensor(t):
        t = check_array(name, t)
    if math.prod(t.shape):
        check_real(name, float(t.min()), **bounds)
        check_real(name, float(t.max()), **bounds)
    if ndim == 0:
        return float(t)
    if tuple(t.shape) != (x.shape[0],):
        raise ValueError(
            f"{name} must be a number or have shape ({x.shape[0]},), got {tuple(t.shape)}"
        )
    if is_torch_tensor(x) and not is_torch_tensor(t):
        from thalweg._torch import torch

        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    return t.reshape(column)


def _normal(x: Array, rng: Any) -> Array:
    rng = _generator(x, rng)
    if is_torch_tensor(x):
        from thalweg._torch import torch

        return torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
    return rng.standard_normal(x.shape)


def _generator(x: Array, rng: Any) -> Any:
    if is_torch_tensor(x):
        from thalweg._torch import torch_generator

        return torch_generator(rng, x.device)
    return np.random.default_rng(rng)
