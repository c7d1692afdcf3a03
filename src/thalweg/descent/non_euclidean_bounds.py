"""What K trust-region steps in a norm guarantee at worst, and which radius and averaging to choose.

‖.‖ is the norm of the steps and ‖.‖_* its dual (`dual_norm`); gradients change by at most
``‖∇f(x) - ∇f(y)‖_* <= L ‖x - y‖``, the noise of a gradient has ``E ‖g - ∇f‖_2² <= sigma²``, and
``‖v‖_* <= rho ‖v‖_2`` (`dual_norm_constant`).

The error of the averaged gradient, e_k = m_{k+1} - ∇f(x_k), has three parts: the noise of the first
gradient, which fades as (1 - alpha)^k; the averaged noise, at most sqrt(alpha) rho sigma; and the
lag, at most (1 - alpha) / alpha times L times the length of a step. A step decreases f by at least
``radius (‖∇f(x_k)‖_* - 2 ‖e_k‖_* - L radius / 2)``; summed over k, that is the first bound. With
extrapolation the lag is of second order: it is the remainder of two Taylor expansions.

Source: derived along the lines of "Understanding Gradient Orthogonalization for Deep Learning via
Non-Euclidean Trust-Region Optimization" (2025), arXiv 2503.12645; its printed constants may differ.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from thalweg._validation import check_count, check_real


def nonconvex_bound(
    K: int,
    *,
    gap: float,
    L: float,
    sigma: float,
    rho: float,
    radius: float,
    alpha: float,
    hessian_lipschitz: float | None = None,
) -> float:
    """Bound the mean dual norm of the gradients at the first K points, E ‖∇f(x_k)‖_*.

    For `norm_trust_region` without regulariser and weight decay, radius and alpha constant.

    Parameters
    ----------
    K : int
        Steps.
    gap : float
        f at the first point, minus a lower bound of f.
    L : float
        Lipschitz constant of the gradient, from the norm to its dual.
    sigma : float
        Standard deviation of the gradient noise, all entries together.
    rho : float
        `dual_norm_constant` of norm and shape.
    radius, alpha : float
        Settings of the method.
    hessian_lipschitz : float, optional
        H with ``‖∇f(y) - ∇f(x) - ∇²f(x)(y - x)‖_* <= H ‖y - x‖² / 2``. If given, the bound is that
        of ``extrapolate=True``, whose lag is of second order.

    Returns
    -------
    float
        gap / (radius K) + 2 rho sigma / (alpha K) + 2 sqrt(alpha) rho sigma + L radius / 2, plus
        2 L radius (1 - alpha) / alpha or, with extrapolation, H radius² (1 - alpha) / alpha².

    Raises
    ------
    TypeError, ValueError
        If an argument is no number in its range.

    References
    ----------
    "Understanding Gradient Orthogonalization for Deep Learning via Non-Euclidean Trust-Region
    Optimization" (2025), arXiv 2503.12645.

    Examples
    --------
    >>> nonconvex_bound(100, gap=1.0, L=1.0, sigma=0.0, rho=1.0, radius=0.5, alpha=1.0)
    0.27
    """
    K = check_count("K", K)
    gap = check_real("gap", gap, at_least=0)
    L = check_real("L", L, at_least=0)
    noise = _noise(rho, sigma)
    radius = check_real("radius", radius, above=0)
    alpha = check_real("alpha", alpha, above=0, at_most=1)
    if hessian_lipschitz is None:
        lag = 2 * L * radius * (1 - alpha) / alpha
    else:
        H = check_real("hessian_lipschitz", hessian_lipschitz, at_least=0)
        lag = H * radius**2 * (1 - alpha) / alpha**2
    start = gap / (radius * K) + 2 * noise / (alpha * K)
    return start + 2 * math.sqrt(alpha) * noise + lag + L * radius / 2


def star_convex_bound(
    K: int,
    *,
    gap: float,
    L: float,
    sigma: float,
    rho: float,
    D: float,
    alpha: float,
    beta: float,
) -> float:
    """Bound E f(x_K) - min f for a star-convex f, stepping with weight decay.

    For `norm_trust_region` with ``weight_decay=beta`` and ``radius=beta * D``, under which every
    point keeps ``‖x_k‖ <= D``.

    Parameters
    ----------
    K : int
        Steps.
    gap : float
        f at the first point, minus its minimum.
    L : float
        Lipschitz constant of the gradient, from the norm to its dual.
    sigma : float
        Standard deviation of the gradient noise, all entries together.
    rho : float
        `dual_norm_constant` of norm and shape.
    D : float
        At least the norms of the first point and of the minimiser.
    alpha, beta : float
        Settings of the method, in (0, 1] and (0, 1).

    Returns
    -------
    float
        (1 - beta)^K gap + 2 D sqrt(alpha) rho sigma + 4 L beta D² (1 - alpha) / alpha
        + 2 L beta D² + 2 beta D rho sigma sum_{k<K} (1 - beta)^{K-1-k} (1 - alpha)^k.

    Raises
    ------
    TypeError, ValueError
        If an argument is no number in its range.

    References
    ----------
    "Understanding Gradient Orthogonalization for Deep Learning via Non-Euclidean Trust-Region
    Optimization" (2025), arXiv 2503.12645.

    Examples
    --------
    >>> star_convex_bound(
    ...     1, gap=1.0, L=1.0, sigma=1.0, rho=1.0, D=1.0, alpha=1.0, beta=0.5)
    4.5
    """
    K = check_count("K", K)
    gap = check_real("gap", gap, at_least=0)
    L = check_real("L", L, at_least=0)
    noise = _noise(rho, sigma)
    D = check_real("D", D, above=0)
    alpha = check_real("alpha", alpha, above=0, at_most=1)
    beta = check_real("beta", beta, above=0, below=1)
    k = np.arange(K)
    fading = float(np.sum((1 - beta) ** (K - 1 - k) * (1 - alpha) ** k))
    return (
        (1 - beta) ** K * gap
        + 2 * D * math.sqrt(alpha) * noise
        + 4 * L * beta * D**2 * (1 - alpha) / alpha
        + 2 * L * beta * D**2
        + 2 * beta * D * noise * fading
    )


def nonconvex_parameters(
    K: int, *, radius: float = 1.0, extrapolate: bool = False
) -> dict[str, Any]:
    """Return radius and alpha for K steps, at which `nonconvex_bound` falls fastest with K.

    Parameters
    ----------
    K : int
        Steps.
    radius : float, default 1.0
        Scale of the steps, in the units of the variable.
    extrapolate : bool, default False
        Whether the method extrapolates and second derivatives vary slowly.

    Returns
    -------
    dict
        Arguments for `norm_trust_region`: alpha = K^(-1/2) and radius K^(-3/4), for a bound of
        order K^(-1/4); with extrapolation K^(-4/7) and radius K^(-5/7), of order K^(-2/7).

    Raises
    ------
    TypeError, ValueError
        If an argument is no number in its range.

    Examples
    --------
    >>> nonconvex_parameters(10_000)
    {'radius': 0.001, 'alpha': 0.01}
    """
    K = check_count("K", K)
    radius = check_real("radius", radius, above=0)
    if extrapolate:
        return {"radius": radius * K ** (-5 / 7), "alpha": K ** (-4 / 7)}
    return {"radius": radius * K**-0.75, "alpha": K**-0.5}


def star_convex_parameters(K: int, D: float) -> dict[str, Any]:
    """Return radius, alpha and weight decay at which `star_convex_bound` falls fastest with K.

    Parameters
    ----------
    K : int
        Steps, at least 2.
    D : float
        At least the norms of the first point and of the minimiser.

    Returns
    -------
    dict
        Arguments for `norm_trust_region`: alpha = K^(-2/3), weight_decay = ln(K) / K and
        radius = weight_decay D, for a bound of order K^(-1/3) up to a logarithm.

    Raises
    ------
    TypeError, ValueError
        If an argument is no number in its range.

    Examples
    --------
    >>> settings = star_convex_parameters(1000, 2.0)
    >>> round(settings["alpha"], 6), round(settings["weight_decay"], 6)
    (0.01, 0.006908)
    """
    K = check_count("K", K, at_least=2)
    D = check_real("D", D, above=0)
    beta = math.log(K) / K
    return {"radius": beta * D, "alpha": K ** (-2 / 3), "weight_decay": beta}


def _noise(rho: float, sigma: float) -> float:
    return check_real("rho", rho, above=0) * check_real("sigma", sigma, at_least=0)
