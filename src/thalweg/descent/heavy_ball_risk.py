r"""Know what heavy ball reaches before it runs: the exact expected risk of any schedule.

On a quadratic the modes of the Hessian do not mix, and in each a 2 x 2 recursion carries the mean
and the second moments of the error. So bias and variance of a run, of any step lengths and any
momentum, cost a few operations a mode and step, and schedules can be compared on the spectrum of
one's own data.

- `expected_risk`: bias and variance, after the last step or along the way;
- `optimal_stages`: the step decay of least risk;
- `step_decay_bound`: what the theorem guarantees.

Source: "Accelerated Convergence of Stochastic Heavy Ball Method under Anisotropic Gradient Noise"
(2023), arXiv 2312.14567; the recursion of second moments is derived.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_real
from thalweg.descent._stochastic_runs import check_schedule
from thalweg.descent.anisotropic_heavy_ball import (
    FACTOR,
    log_stages,
    momentum_of,
    step_decay,
    warn_unstable,
)

Floats = NDArray[np.float64]

LARGEST_EXPONENT = math.log(np.finfo(float).max)
# Squares of smaller means are below the least float: zeroing them spares slow denormal numbers.
NEGLIGIBLE = 1e-170
MODES_AT_ONCE = 128


def expected_risk(
    eigenvalues: ArrayLike,
    x0_error: ArrayLike,
    steps: ArrayLike,
    *,
    momentum: float | ArrayLike,
    noise: float | ArrayLike,
    full: bool = False,
) -> tuple[float, float] | tuple[Floats, Floats]:
    r"""Return bias and variance of heavy ball on a quadratic, exactly; their sum is the risk.

    In the mode of eigenvalue :math:`\lambda` with noise of variance s and
    :math:`a_t = 1 + \beta_t - \eta_t \lambda`, the mean m of the error and the second moments
    :math:`p = E e_t^2`, :math:`q = E e_t e_{t-1}`, :math:`r = E e_{t-1}^2` of its noisy part follow

    .. math::
        m' &= a m - \beta m_{t-1} \\
        p' &= a^2 p - 2 a \beta q + \beta^2 r + \eta^2 s, \quad q' = a p - \beta q, \quad r' = p

    and the bias is :math:`\frac12 \sum \lambda m^2`, the variance
    :math:`\frac12 \sum \lambda p`.

    Parameters
    ----------
    eigenvalues : array_like, shape (d,)
        Eigenvalues of the Hessian, > 0.
    x0_error : array_like, shape (d,)
        Start less minimiser, in coordinates of the eigenvectors.
    steps : array_like, shape (T,)
        Step lengths eta_t >= 0.
    momentum : float or array_like of shape (T,)
        beta_t in [0, 1); 0 is SGD.
    noise : float or array_like of shape (d,)
        Of anisotropic noise sigma², so that modes have the variances sigma² times eigenvalue; or
        the variances themselves. Divide by the size of a batch.
    full : bool, default False
        Whether to return the course.

    Returns
    -------
    bias, variance : float or ndarray of shape (T + 1,)
        After the last step, or before the first and after each; inf where they leave the range of
        floats.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Warns
    -----
    RuntimeWarning
        If a mode is unstable, with its spectral radius.

    References
    ----------
    "Accelerated Convergence of Stochastic Heavy Ball Method under Anisotropic Gradient Noise"
    (2023), arXiv 2312.14567.

    Examples
    --------
    >>> bias, variance = expected_risk([1.0, 0.1], [1.0, 1.0], [0.5] * 40, momentum=0.5, noise=0.01)
    >>> round(bias, 6), round(variance, 6)
    (4e-06, 0.003254)
    """
    lam = np.ascontiguousarray(check_array("eigenvalues", eigenvalues, ndim=1))
    if not len(lam):
        raise ValueError("eigenvalues must not be empty")
    check_real("eigenvalues", float(lam.min()), above=0)
    error = np.ascontiguousarray(check_array("x0_error", x0_error, shape=lam.shape))
    lengths = np.ascontiguousarray(check_array("steps", steps, ndim=1))
    check_real("steps", float(lengths.min(initial=0.0)), at_least=0)
    betas = check_schedule("momentum", momentum, len(lengths), at_least=0.0)
    check_real("momentum", float(betas.max(initial=0.0)), below=1)
    if np.ndim(noise) == 0:
        variances = check_real("noise", noise, at_least=0) * lam
    else:
        variances = np.ascontiguousarray(check_array("noise", noise, shape=lam.shape))
        check_real("noise", float(variances.min()), at_least=0)
    warn_unstable(float(lam.max()), lengths, betas)
    return _risk(lam, error, lengths, betas, variances, full)


def _risk(
    lam: Floats, error: Floats, steps: Floats, betas: Floats, noise: Floats, full: bool
) -> Any:
    course = np.zeros((2, len(steps) + 1 if full else 1))
    moments(lam, error, steps, betas, noise, *course)
    bias, variance = np.nan_to_num(course, nan=math.inf, posinf=math.inf)
    return (bias, variance) if full else (float(bias[0]), float(variance[0]))


def optimal_stages(
    eigenvalues: ArrayLike,
    x0_error: ArrayLike,
    n_steps: int,
    noise: float | ArrayLike,
    *,
    factors: Iterable[float] = (2.0, 4.0, 8.0),
    momentum: float | None = None,
) -> dict[str, Any]:
    r"""Return the step decay of least expected risk on a spectrum, by trying all of them.

    Stage numbers go up to the one whose last step is 1 / (L T kappa), shorter than which no mode
    asks for.

    Parameters
    ----------
    eigenvalues, x0_error, noise
        As of `expected_risk`.
    n_steps : int
        Steps T.
    factors : iterable of float, default (2, 4, 8)
        Factors C > 1 between stages.
    momentum : float, optional
        beta in [0, 1); :math:`(1 - 1/\sqrt\kappa)^2` by default.

    Returns
    -------
    dict
        ``factor``, ``n_stages``, ``momentum``, ``steps`` of shape (n_steps,), ``bias``,
        ``variance`` and ``risk``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "Accelerated Convergence of Stochastic Heavy Ball Method under Anisotropic Gradient Noise"
    (2023), arXiv 2312.14567.

    Examples
    --------
    >>> best = optimal_stages([1.0, 0.1, 0.01], [1.0, 1.0, 1.0], 300, 1e-4)
    >>> best["factor"], best["n_stages"]
    (4.0, 5)
    """
    n_steps = check_count("n_steps", n_steps)
    lam = check_array("eigenvalues", eigenvalues, ndim=1)
    if not len(lam):
        raise ValueError("eigenvalues must not be empty")
    check_real("eigenvalues", float(lam.min()), above=0)
    L, kappa = float(lam.max()), float(lam.max() / lam.min())
    beta = momentum_of(kappa) if momentum is None else momentum
    candidates = [check_real("factors", factor, above=1) for factor in factors]
    if not candidates:
        raise ValueError("factors must not be empty")
    best: dict[str, Any] = {}
    for factor in candidates:
        most = 1 + math.ceil(log_stages(n_steps, kappa**2, factor))
        for n_stages in range(1, min(n_steps, most) + 1):
            steps = step_decay(n_steps, L=L, kappa=kappa, factor=factor, n_stages=n_stages)
            bias, variance = expected_risk(lam, x0_error, steps, momentum=beta, noise=noise)
            if not best or bias + variance < best["risk"]:
                best = {
                    "factor": factor, "n_stages": n_stages, "momentum": float(beta),
                    "steps": steps, "bias": bias, "variance": variance, "risk": bias + variance,
                }  # fmt: skip
    return best


def step_decay_bound(
    n_steps: int,
    *,
    gap: float,
    kappa: float,
    dim: int,
    sigma2: float,
    factor: float = FACTOR,
) -> float:
    r"""Return the paper's bound of the risk of heavy ball with step decay after T steps.

    With :math:`N = \log_C(T \sqrt\kappa)`

    .. math:: E f(w_T) - f^* \le (f(w_0) - f^*)
              \exp\Big(15 \ln 2 + 2 \ln T + 2 \ln \kappa - \frac{2 T}{\sqrt\kappa N}\Big)
              + \frac{4096 C^2 d \sigma^2}{T} \ln^2(2^6 T^4) N^2

    Parameters
    ----------
    n_steps : int
        Steps T.
    gap : float
        f(w_0) - f*, >= 0.
    kappa : float
        Condition number, >= 4.
    dim : int
        Number of variables d.
    sigma2 : float
        sigma² >= 0: the gradient noise has covariance <= sigma² H.
    factor : float, default 4.0
        C in (1, T √kappa].

    Returns
    -------
    float
        The bound; inf where it leaves the range of floats.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    Warns
    -----
    UserWarning
        If there are too few steps for the theorem, T / ln(2¹⁴ T⁸) < 2 C √kappa N; the formula then
        is no guarantee.

    References
    ----------
    "Accelerated Convergence of Stochastic Heavy Ball Method under Anisotropic Gradient Noise"
    (2023), arXiv 2312.14567, main theorem.

    Examples
    --------
    >>> bound = step_decay_bound(200_000, gap=1.0, kappa=100.0, dim=50, sigma2=1e-4)
    >>> print(f"{bound:.1f}")
    503.8
    """
    n_steps = check_count("n_steps", n_steps)
    gap = check_real("gap", gap, at_least=0)
    kappa = check_real("kappa", kappa, at_least=4)
    dim = check_count("dim", dim)
    sigma2 = check_real("sigma2", sigma2, at_least=0)
    factor = check_real("factor", factor, above=1, at_most=n_steps * math.sqrt(kappa))
    stages = log_stages(n_steps, kappa, factor)
    log_steps, root, log2 = math.log(n_steps), math.sqrt(kappa), math.log(2)
    if n_steps / (14 * log2 + 8 * log_steps) < 2 * factor * root * stages:
        warnings.warn(
            f"n_steps = {n_steps} are too few for the theorem at kappa = {kappa:g}", stacklevel=2
        )
    exponent = 15 * log2 + 2 * log_steps + 2 * math.log(kappa) - 2 * n_steps / (root * stages)
    if gap == 0:
        bias = 0.0
    else:
        exponent += math.log(gap)
        bias = math.exp(exponent) if exponent <= LARGEST_EXPONENT else math.inf
    logs = (6 * log2 + 4 * log_steps) * stages
    return bias + 4096 * factor**2 * dim * sigma2 / n_steps * logs**2


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def moments(lam, error, steps, betas, noise, bias, variance):
    """Add bias and variance of all modes into arrays for all times, or of length 1 for the last."""
    full = len(bias) > 1
    last = len(steps)
    for first in range(0, len(lam), MODES_AT_ONCE):
        d = min(MODES_AT_ONCE, len(lam) - first)
        h, s = lam[first : first + d], noise[first : first + d]
        m = error[first : first + d].copy()
        before = m.copy()
        p, q, r = np.zeros(d), np.zeros(d), np.zeros(d)
        if full or last == 0:
            for k in range(d):
                bias[0] += 0.5 * h[k] * m[k] * m[k]
        for t in range(last):
            eta, beta = steps[t], betas[t]
            for k in range(d):
                a = 1.0 + beta - eta * h[k]
                mean = a * m[k] - beta * before[k]
                before[k] = m[k]
                m[k] = 0.0 if abs(mean) < NEGLIGIBLE else mean
                new = a * a * p[k] - 2.0 * a * beta * q[k] + beta * beta * r[k] + eta * eta * s[k]
                q[k] = a * p[k] - beta * q[k]
                r[k] = p[k]
                p[k] = new
            if full or t == last - 1:
                at = t + 1 if full else 0
                for k in range(d):
                    bias[at] += 0.5 * h[k] * m[k] * m[k]
                    variance[at] += 0.5 * h[k] * p[k]
