"""What stochastic gradient steps guarantee, from smoothness, strong convexity and noise alone.

The assumptions: the gradient of F is L-Lipschitz, F is c-strongly convex (where c is named), and a
stochastic gradient g has ∇F·E g >= mu ‖∇F‖², ‖E g‖ <= mu_G ‖∇F‖ and
E ‖g‖² - ‖E g‖² <= M + M_V ‖∇F‖². `thalweg.descent.moment_constants` measures M and M_V on a
problem; with unbiased gradients mu = mu_G = 1. `gap` is F(w_1) - F*, and k = 1 is the start, after
no step.

Source: "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, sections
4.2 to 4.4 and 5.1. Bounds by other constants are in `thalweg.descent.bounds`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_real
from thalweg.descent._bound_formulas import power

Floats = NDArray[np.float64]


def fixed_step_bound(
    k: int | ArrayLike,
    *,
    step: float,
    L: float,
    c: float,
    M: float,
    gap: float,
    mu: float = 1.0,
    M_V: float = 0.0,
    mu_G: float | None = None,
) -> Any:
    r"""Bound E F(w_k) - F* of SG with a fixed step on a strongly convex function.

    .. math:: \frac{\alpha L M}{2 c \mu} + (1 - \alpha c \mu)^{k-1}
              \Big(gap - \frac{\alpha L M}{2 c \mu}\Big), \qquad \alpha \le \frac{\mu}{L M_G}

    Parameters
    ----------
    k : int or array_like of int
        Number of the point, from 1.
    step : float
        The alpha > 0.
    L, c : float
        Lipschitz constant of the gradient, and strong convexity 0 < c <= L.
    M : float
        Noise that does not vanish with the gradient, >= 0.
    gap : float
        F(w_1) - F*, >= 0.
    mu : float, default 1.0
        Least share of the gradient in E g, > 0.
    M_V : float, default 0.0
        Noise in proportion to ‖∇F‖², >= 0.
    mu_G : float, optional
        Largest length of E g over that of ∇F, >= mu; mu by default.

    Returns
    -------
    float or ndarray
        For each k.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or the step is above mu / (L (M_V + mu_G²)).

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, Theorem 4.6.

    Examples
    --------
    >>> fixed_step_bound([1, 2, 1000], step=0.5, L=1.0, c=1.0, M=0.4, gap=1.0).round(6)
    array([1.  , 0.55, 0.1 ])
    """
    k = _numbers("k", k)
    L, c, M, gap, mu = _constants(L, c, M, gap, mu)
    step = _limited_step(step, L, mu, M_V, mu_G)
    floor = step * L * M / (2 * c * mu)
    return _plain(floor + power(1 - step * c * mu, k - 1) * (gap - floor))


def diminishing_step_bound(
    k: int | ArrayLike,
    *,
    beta: float,
    gamma: float,
    L: float,
    c: float,
    M: float,
    gap: float,
    mu: float = 1.0,
    M_V: float = 0.0,
    mu_G: float | None = None,
) -> Any:
    r"""Bound E F(w_k) - F* of SG with steps beta / (gamma + k) on a strongly convex function.

    .. math:: \frac{\nu}{\gamma + k}, \qquad \nu = \max\Big\{
              \frac{\beta^2 L M}{2 (\beta c \mu - 1)},\ (\gamma + 1)\, gap\Big\}

    Parameters
    ----------
    k : int or array_like of int
        Number of the point, from 1.
    beta, gamma : float
        Of the steps: beta c mu > 1, gamma > 0, and beta / (gamma + 1) <= mu / (L (M_V + mu_G²)).
    L, c, M, gap, mu, M_V, mu_G
        As in `fixed_step_bound`.

    Returns
    -------
    float or ndarray
        For each k.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, Theorem 4.7.

    Examples
    --------
    >>> diminishing_step_bound([1, 99], beta=2.0, gamma=1.0, L=1.0, c=1.0, M=1.0, gap=0.5)
    array([1.  , 0.02])
    """
    k = _numbers("k", k)
    L, c, M, gap, mu = _constants(L, c, M, gap, mu)
    beta = check_real("beta", beta, above=0)
    gamma = check_real("gamma", gamma, above=0)
    if beta * c * mu <= 1:
        raise ValueError(f"beta must be > 1 / (c mu) = {1 / (c * mu):g}, got {beta:g}")
    _limited_step(beta / (gamma + 1), L, mu, M_V, mu_G, "beta / (gamma + 1)")
    nu = max(beta**2 * L * M / (2 * (beta * c * mu - 1)), (gamma + 1) * gap)
    return _plain(nu / (gamma + k))


def nonconvex_fixed_bound(
    K: int | ArrayLike,
    *,
    step: float,
    L: float,
    M: float,
    gap: float,
    mu: float = 1.0,
    M_V: float = 0.0,
    mu_G: float | None = None,
) -> Any:
    r"""Bound the mean of E ‖∇F(w_k)‖² over k = 1, ..., K of SG with a fixed step.

    .. math:: \frac{\alpha L M}{\mu} + \frac{2\, gap}{K \mu \alpha}

    Parameters
    ----------
    K : int or array_like of int
        How many points, from 1.
    step, L, M, mu, M_V, mu_G
        As in `fixed_step_bound`; F need not be convex.
    gap : float
        F(w_1) less any lower bound of F.

    Returns
    -------
    float or ndarray
        For each K.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or the step is above mu / (L (M_V + mu_G²)).

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, Theorem 4.8.

    Examples
    --------
    >>> nonconvex_fixed_bound([4, 40], step=0.5, L=1.0, M=0.4, gap=1.0)
    array([1.2, 0.3])
    """
    K = _numbers("K", K)
    L, _, M, gap, mu = _constants(L, None, M, gap, mu)
    step = _limited_step(step, L, mu, M_V, mu_G)
    return _plain(step * L * M / mu + 2 * gap / (K * mu * step))


def nonconvex_diminishing_bound(
    steps: ArrayLike,
    *,
    L: float,
    M: float,
    gap: float,
    mu: float = 1.0,
    M_V: float = 0.0,
    mu_G: float | None = None,
) -> Floats:
    r"""Bound the step-weighted mean of E ‖∇F(w_k)‖² over k = 1, ..., K of SG.

    .. math:: \frac1{A_K} \Big(\frac{2\, gap}{\mu} + \frac{L M}{\mu} \sum_{k \le K}
              \alpha_k^2\Big), \qquad A_K = \sum_{k \le K} \alpha_k

    Parameters
    ----------
    steps : array_like, shape (K,)
        The alpha_k > 0.
    L, M, gap, mu, M_V, mu_G
        As in `nonconvex_fixed_bound`.

    Returns
    -------
    ndarray, shape (K,)
        The bound of the mean over the first 1, 2, ..., K points.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or a step is above mu / (L (M_V + mu_G²)).

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, Theorem 4.10,
    whose proof gives this finite sum.

    Examples
    --------
    >>> nonconvex_diminishing_bound([0.5, 0.25], L=1.0, M=0.4, gap=1.0).round(6)
    array([4.2     , 2.833333])
    """
    L, _, M, gap, mu = _constants(L, None, M, gap, mu)
    alphas = check_array("steps", steps, ndim=1)
    if not alphas.size or (alphas <= 0).any():
        raise ValueError("steps must hold one step > 0 or more")
    _limited_step(float(alphas.max()), L, mu, M_V, mu_G, "the largest of steps")
    bound: Floats = (2 * gap / mu + L * M / mu * np.cumsum(alphas**2)) / np.cumsum(alphas)
    return bound


def geometric_noise_bound(
    k: int | ArrayLike,
    *,
    step: float,
    L: float,
    c: float,
    M: float,
    zeta: float,
    gap: float,
    mu: float = 1.0,
    mu_G: float | None = None,
) -> Any:
    r"""Bound E F(w_k) - F* of SG whose noise falls geometrically, Var g_k <= M zeta^(k-1).

    .. math:: \omega \rho^{k-1}, \qquad \omega = \max\Big\{\frac{\alpha L M}{c \mu}, gap\Big\},
              \qquad \rho = \max\Big\{1 - \frac{\alpha c \mu}{2}, \zeta\Big\}

    Parameters
    ----------
    k : int or array_like of int
        Number of the point, from 1.
    step : float
        The alpha, at most min(mu / (L mu_G²), 1 / (c mu)).
    L, c, gap, mu, mu_G
        As in `fixed_step_bound`.
    M : float
        Largest variance of the first gradient, >= 0.
    zeta : float
        In (0, 1); batches that grow by the factor tau give 1 / tau.

    Returns
    -------
    float or ndarray
        For each k.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or the step is above its limit.

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, Theorem 5.1.

    Examples
    --------
    >>> geometric_noise_bound([1, 2], step=1.0, L=1.0, c=0.5, M=0.2, zeta=0.8, gap=1.0)
    array([1. , 0.8])
    """
    k = _numbers("k", k)
    L, c, M, gap, mu = _constants(L, c, M, gap, mu)
    zeta = check_real("zeta", zeta, above=0, below=1)
    step = _limited_step(step, L, mu, 0.0, mu_G, most=1 / (c * mu))
    omega = max(step * L * M / (c * mu), gap)
    return _plain(omega * power(geometric_rate(step, c, zeta, mu), k - 1))


def geometric_rate(step: float, c: float, zeta: float, mu: float = 1.0) -> float:
    """Return the rho of `geometric_noise_bound`: the factor by which the gap falls a step.

    Examples
    --------
    >>> geometric_rate(1.0, 0.5, 0.8)
    0.8
    """
    return max(1 - step * c * mu / 2, zeta)


def _numbers(name: str, k: Any) -> NDArray[np.int64]:
    numbers = np.asarray(k)
    if numbers.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an integer or an array of them, got {k!r}")
    if (numbers < 1).any():
        raise ValueError(f"{name} must be >= 1, got {numbers.min()}")
    return numbers.astype(np.int64)


def _constants(
    L: float, c: float | None, M: float, gap: float, mu: float
) -> tuple[float, float, float, float, float]:
    L = check_real("L", L, above=0)
    c = math.nan if c is None else check_real("c", c, above=0, at_most=L)
    M = check_real("M", M, at_least=0)
    return L, c, M, check_real("gap", gap, at_least=0), check_real("mu", mu, above=0)


def _limited_step(
    step: float,
    L: float,
    mu: float,
    M_V: float,
    mu_G: float | None,
    name: str = "step",
    most: float = math.inf,
) -> float:
    step = check_real(name, step, above=0)
    M_V = check_real("M_V", M_V, at_least=0)
    mu_G = mu if mu_G is None else check_real("mu_G", mu_G, at_least=mu)
    limit = min(mu / (L * (M_V + mu_G**2)), most)
    if step > limit * (1 + 1e-12):
        raise ValueError(f"{name} must be at most {limit:g}, got {step:g}")
    return step


def _plain(values: Any) -> Any:
    values = np.asarray(values)
    return float(values) if values.ndim == 0 else values
