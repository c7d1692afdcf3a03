"""Steps of a diffusion bridge in discrete time: sizes, regression targets, posteriors.

A chain ``x_0, ..., x_N`` has steps of sizes gamma_1, ..., gamma_N that sum to one and transitions
with variance ``epsilon gamma_k``; ``gbar_k`` is the sum of the first k sizes. The mean of a step
back can be regressed on the point itself that the chain came from, which takes one network call
where the classical target takes three; and a network that predicts the end of the chain steps by
the law of Brownian motion given that end.

Source: "Simplified Diffusion Schrödinger Bridge" (2024), arXiv 2403.14623.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import (
    check_array,
    check_count,
    check_option,
    check_real,
    is_torch_tensor,
)

Floats: TypeAlias = NDArray[np.float64]
Array: TypeAlias = Any
"""A NumPy array or a torch tensor; what comes back is of the kind that went in."""
DIRECTIONS = ("backward", "forward")
KINDS = ("simplified", "original")
SUM_TOLERANCE = 1e-8


def half_bridge_target(
    x_k: Array,
    x_next: Array,
    forward_mean: Callable[[Any, Array], Array] | None = None,
    *,
    k: Any,
    kind: str = "simplified",
) -> Array:
    """Return what the mean ``B(k+1, x_next)`` of a step back is regressed on.

    The simplified target is `x_k`, the original one ``x_next + F(k, x_k) - F(k, x_next)``, F the
    mean of the step forward. Their conditional means given `x_next` differ by the square of the
    step size. The target of ``F(k, x_k)`` is the same with both points and both means exchanged:
    ``half_bridge_target(x_next, x_k, backward_mean, k=k + 1)``.

    Parameters
    ----------
    x_k, x_next : array or tensor (n, d)
        Points of the chain before and after the step.
    forward_mean : callable, optional
        ``forward_mean(k, x) -> (n, d)``, the mean of the step from index k; for
        ``kind="original"`` alone, which calls it twice.
    k : int or integer array (n,)
        Index of `x_k` in the chain, handed on to `forward_mean`.
    kind : {"simplified", "original"}, default "simplified"
        Which target.

    Returns
    -------
    array or tensor (n, d)

    Raises
    ------
    ValueError
        If `kind` is unknown or the shapes differ.
    TypeError
        If the original target is wanted without `forward_mean`.

    References
    ----------
    "Simplified Diffusion Schrödinger Bridge" (2024), arXiv 2403.14623; the original target is that
    of "Diffusion Schrödinger Bridge with Applications to Score-Based Generative Modeling" (2021),
    arXiv 2106.01357.

    Examples
    --------
    >>> import numpy as np
    >>> x_k, x_next = np.array([[1.0]]), np.array([[1.5]])
    >>> half_bridge_target(x_k, x_next, k=0)
    array([[1.]])
    >>> half_bridge_target(x_k, x_next, lambda k, x: 0.9 * x, k=0, kind="original")
    array([[1.05]])
    """
    check_option("kind", kind, KINDS)
    x_k, x_next = _points(x_k=x_k, x_next=x_next)
    if kind == "simplified":
        return x_k
    if not callable(forward_mean):
        raise TypeError(
            f"forward_mean must be callable as forward_mean(k, x), got {forward_mean!r}"
        )
    return x_next + forward_mean(k, x_k) - forward_mean(k, x_next)


def terminal_posterior(
    x: Array, x_end: Array, k: int, gammas: ArrayLike, epsilon: float, *, direction: str
) -> tuple[Array, float]:
    """Return the law of a step of Brownian motion given where it ends: mean and variance.

    Parameters
    ----------
    x : array or tensor (n, d)
        The chain before the step: ``x_{k+1}`` going backward, ``x_k`` going forward.
    x_end : array or tensor (n, d)
        The end of the direction: ``x_0`` going backward, ``x_N`` going forward.
    k : int
        Index from 0 to N - 1. Going backward the step leads to ``x_k``, forward to ``x_{k+1}``.
    gammas : array_like (N,)
        Step sizes; positive, of sum one.
    epsilon : float
        Variance of Brownian motion over the whole chain; the paper has 2.
    direction : {"backward", "forward"}
        Which way.

    Returns
    -------
    mean : array or tensor (n, d)
        ``x + gamma_{k+1} / g (x_end - x)``, where g is ``gbar_{k+1}`` going backward and
        ``1 - gbar_k`` going forward.
    variance : float
        ``epsilon gamma_{k+1} (g - gamma_{k+1}) / g``, of each coordinate; exactly zero in the step
        that reaches the end.

    Raises
    ------
    ValueError
        If an argument is not as stated.

    References
    ----------
    "Simplified Diffusion Schrödinger Bridge" (2024), arXiv 2403.14623, reparametrised bridges.

    Examples
    --------
    >>> import numpy as np
    >>> x, end = np.array([[0.0]]), np.array([[1.0]])
    >>> terminal_posterior(x, end, 1, [0.25, 0.25, 0.5], 2.0, direction="forward")
    (array([[0.33333333]]), 0.3333333333333333)
    """
    gammas = check_gammas("gammas", gammas)
    epsilon = check_real("epsilon", epsilon, above=0)
    k = check_count("k", k, at_least=0, at_most=len(gammas) - 1)
    check_option("direction", direction, DIRECTIONS)
    x, x_end = _points(x=x, x_end=x_end)
    share, spread = (v[k] for v in posterior_steps(gammas, direction))
    return x + share * (x_end - x), epsilon * float(spread)


def symmetric_gammas(N: int, ratio: float = 10.0) -> Floats:
    """Return step sizes that grow linearly to the middle of the chain and fall again, of sum one.

    Parameters
    ----------
    N : int
        Steps.
    ratio : float, default 10.0
        The largest over the smallest; positive. 1 gives uniform steps.

    Returns
    -------
    array (N,)
        The same read from both ends.

    References
    ----------
    "Simplified Diffusion Schrödinger Bridge" (2024), arXiv 2403.14623, experiments.

    Examples
    --------
    >>> symmetric_gammas(5, ratio=3.0)
    array([0.11111111, 0.22222222, 0.33333333, 0.22222222, 0.11111111])
    """
    N = check_count("N", N)
    ratio = check_real("ratio", ratio, above=0)
    rising = np.linspace(1.0, ratio, (N + 1) // 2)
    gammas = np.concatenate([rising, rising[::-1][N % 2 :]])
    return gammas / gammas.sum()


def check_gammas(name: str, gammas: ArrayLike) -> Floats:
    """Return step sizes as an array (N,), N >= 2; ValueError unless positive and of sum one."""
    sizes = check_array(name, gammas, ndim=1)
    if len(sizes) < 2:
        raise ValueError(f"{name} must hold at least 2 steps, got {len(sizes)}")
    if sizes.min() <= 0:
        raise ValueError(f"{name} must be positive, got {sizes.min():.6g}")
    if not abs(sizes.sum() - 1) <= SUM_TOLERANCE:
        raise ValueError(f"{name} must sum to 1, got {sizes.sum():.10g}")
    return sizes


def distances_to_end(gammas: Floats, direction: str) -> Floats:
    """Return the time (N,) that is left before each step, step j joining indices j and j + 1."""
    if direction == "backward":
        return np.cumsum(gammas)
    return np.ascontiguousarray(np.cumsum(gammas[::-1])[::-1])


def posterior_steps(gammas: Floats, direction: str) -> tuple[Floats, Floats]:
    """Return for each step the share of the way to the end, and the variance for epsilon 1."""
    left = distances_to_end(gammas, direction)
    share = gammas / left
    return share, share * (left - gammas)


def _points(**named: Array) -> list[Array]:
    (first, x), (second, y) = named.items()
    if is_torch_tensor(x) != is_torch_tensor(y):
        raise TypeError(f"{first} and {second} must both be arrays or both be torch tensors")
    if not is_torch_tensor(x):
        x, y = check_array(first, x), check_array(second, y)
    if tuple(x.shape) != tuple(y.shape) or x.ndim != 2:
        raise ValueError(
            f"{first} and {second} must have one shape (n, d), got {tuple(x.shape)} and "
            f"{tuple(y.shape)}"
        )
    return [x, y]
