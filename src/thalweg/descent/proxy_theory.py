r"""What a proxy is worth: how smooth the difference is, the bound that follows, the noise floor.

With h = f - f̂, `thalweg.descent.proxy_prox` behaves like stochastic gradient descent on a function
whose smoothness is that of h alone. `relative_smoothness` measures it, `proxy_prox_bound` is what
it promises, `step_length` the step that goes with it, and `stationary_risk` the exact error of a
pair of quadratics under noise.

Source: "Two Losses Are Better Than One: Faster Optimization Using a Cheaper Proxy" (2023), arXiv
2302.03542. The explicit constants are derived here; the paper states orders.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve, solve_discrete_lyapunov
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator, eigsh

from thalweg._validation import check_array, check_count, check_real

Floats = NDArray[np.float64]

SMALL = 16
"""Up to this dimension an operator is written out; Lanczos has nothing to gain."""
SYMMETRY = 1e-8


def relative_smoothness(hess: Any, proxy_hess: Any, points: ArrayLike) -> float:
    r"""Return the largest spectral norm of the difference of two Hessians at some points.

    .. math:: \delta = \max_x \|\nabla^2 f(x) - \nabla^2 \hat f(x)\|_2

    Parameters
    ----------
    hess, proxy_hess : callable or matrix
        ``hess(x)`` returns the Hessian of f, and of the proxy: an array, a sparse matrix or a
        LinearOperator of shape (dim, dim). A matrix stands for a constant Hessian. Unless both are
        arrays, Lanczos' method finds the norm by products alone.
    points : array_like, shape (k, dim) or (dim,)
        Where to look.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        If shapes disagree, a Hessian is not symmetric or not finite, or there is no point.

    Notes
    -----
    The maximum over points is a lower bound of the smoothness of h = f - f̂, exact only for
    quadratics. For least squares it is ‖XᵀX / n - X̂ᵀX̂ / n̂‖ from the two data sets, everywhere.
    For other generalised linear models no such bound follows from the data: the weights of the rows
    differ at every point, and the largest weight times that norm can be too small.

    References
    ----------
    "Two Losses Are Better Than One: Faster Optimization Using a Cheaper Proxy" (2023), arXiv
    2302.03542: the condition that f - f̂ is delta-smooth.

    Examples
    --------
    >>> relative_smoothness([[2.0, 0.0], [0.0, 1.0]], [[1.5, 0.0], [0.0, 0.9]], [0.0, 0.0])
    0.5
    """
    x = check_array("points", points)
    x = x[None] if x.ndim == 1 else x
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"points must have shape (k, dim) or (dim,), got {np.shape(points)}")
    dim = x.shape[1]
    return max(
        _norm(_matrix("hess", hess, point, dim), _matrix("proxy_hess", proxy_hess, point, dim), dim)
        for point in x
    )


def proxy_prox_bound(
    T: int | ArrayLike, *, gap: float, delta: float, eta: float | None = None, theta: float = 0.0
) -> Any:
    r"""Bound the mean squared gradient of f over the points of T exact-gradient steps.

    .. math:: \frac1T \sum_{t=1}^{T} \|\nabla f(x_t)\|^2 \le
              \frac{2 (\delta + (1 + \theta) / \eta)^2 \Delta}{(1 / \eta - \delta) T}

    It holds for any f with h = f - f̂ delta-smooth, convex or not; at eta = 1 / (2 delta) and
    theta = 0 it is 18 delta Delta / T. The smoothness of f does not enter.

    Parameters
    ----------
    T : int or array_like of int
        Steps, >= 1.
    gap : float
        Delta >= f(x_0) - min f.
    delta : float
        Smoothness of h, > 0.
    eta : float, optional
        Step, 0 < eta < 1 / delta; 1 / (2 delta) by default.
    theta : float, default 0.0
        Inner accuracy of `proxy_prox`, 0 <= theta < 1.

    Returns
    -------
    float or ndarray

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    References
    ----------
    "Two Losses Are Better Than One: Faster Optimization Using a Cheaper Proxy" (2023), arXiv
    2302.03542; derived from the descent f(x_{t+1}) <= f(x_t) - (1/eta - delta) ‖d‖² / 2 and
    ‖∇f(x_{t+1})‖ <= (delta + (1 + theta) / eta) ‖d‖, d = x_{t+1} - x_t.

    Examples
    --------
    >>> proxy_prox_bound(10, gap=1.0, delta=0.5)
    0.9
    """
    steps = np.asarray(T)
    if steps.ndim == 0:
        steps = np.asarray(check_count("T", T))
    elif steps.dtype.kind not in "iu" or (steps < 1).any():
        raise ValueError(f"T must hold integers >= 1, got {T!r}")
    gap = check_real("gap", gap, at_least=0)
    delta = check_real("delta", delta, above=0)
    eta = 1 / (2 * delta) if eta is None else check_real("eta", eta, above=0, below=1 / delta)
    theta = check_real("theta", theta, at_least=0, below=1)
    bound = 2 * (delta + (1 + theta) / eta) ** 2 * gap / ((1 / eta - delta) * steps)
    return float(bound) if steps.ndim == 0 else bound


def step_length(delta: float, *, gap: float, sigma: float, n_steps: int) -> float:
    r"""Return the step of `proxy_prox` under noise.

    .. math:: \eta = \min\Big(\frac{1}{2\delta}, \sqrt{\frac{\Delta}{\delta \sigma^2 T}}\Big)

    Parameters
    ----------
    delta : float
        Smoothness of h, > 0.
    gap : float
        Delta >= f(x_0) - min f, > 0.
    sigma : float
        Root of the mean squared norm of the noise of a gradient, >= 0.
    n_steps : int
        Steps T to be taken.

    Returns
    -------
    float

    Notes
    -----
    With it the mean of E‖∇f‖² is of the order delta Delta / T + sqrt(delta Delta sigma² / T). The
    paper gives the order; the constant under the root is our choice.

    References
    ----------
    "Two Losses Are Better Than One: Faster Optimization Using a Cheaper Proxy" (2023), arXiv
    2302.03542.

    Examples
    --------
    >>> step_length(0.5, gap=2.0, sigma=2.0, n_steps=100)
    0.1
    """
    delta = check_real("delta", delta, above=0)
    gap = check_real("gap", gap, above=0)
    sigma = check_real("sigma", sigma, at_least=0)
    n_steps = check_count("n_steps", n_steps)
    longest = 1 / (2 * delta)
    return longest if sigma == 0 else min(longest, math.sqrt(gap / (delta * n_steps)) / sigma)


def stationary_risk(A: ArrayLike, A_proxy: ArrayLike, eta: float, noise_cov: ArrayLike) -> float:
    r"""Return the gap at which exact proxy steps on a quadratic settle under noise.

    With f(x) = eᵀA e / 2, e = x - x*, a proxy with Hessian Â and noise xi of covariance S, a step
    is

    .. math:: e_{t+1} = (I - P A) e_t - P \xi_t, \qquad P = (\hat A + I / \eta)^{-1}

    and the covariance of e tends to the solution of
    :math:`\Sigma = (I - P A) \Sigma (I - P A)^T + P S P`. Returned is :math:`tr(A \Sigma) / 2`.

    Parameters
    ----------
    A, A_proxy : array_like, shape (dim, dim)
        Hessians of f and of the proxy, symmetric.
    eta : float
        Step, > 0.
    noise_cov : array_like, shape (dim, dim)
        Covariance S of the noise of a gradient of f.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, Â + I / eta is not positive definite, or the steps do not
        contract, so that there is no stationary law.

    References
    ----------
    "Two Losses Are Better Than One: Faster Optimization Using a Cheaper Proxy" (2023), arXiv
    2302.03542; derived for quadratics.

    Examples
    --------
    A proxy that is constant gives SGD, with a floor of eta sigma² / (2 (2 - eta a)) in one
    dimension:

    >>> round(stationary_risk([[1.0]], [[0.0]], 0.5, [[3.0]]), 12)
    0.5
    """
    target = _symmetric("A", A)
    proxy = _symmetric("A_proxy", A_proxy, len(target))
    noise = _symmetric("noise_cov", noise_cov, len(target))
    if np.linalg.eigvalsh(noise).min() < -SYMMETRY * max(1.0, float(np.abs(noise).max())):
        raise ValueError("noise_cov must be positive semi-definite, got a negative eigenvalue")
    eta = check_real("eta", eta, above=0)
    identity = np.eye(len(target))
    curved = proxy + identity / eta
    if np.linalg.eigvalsh(curved).min() <= 0:
        raise ValueError("eta must be < 1 / weak convexity of the proxy, A_proxy + I / eta is not")
    P = solve(curved, identity, assume_a="pos")
    M = identity - P @ target
    radius = float(np.abs(np.linalg.eigvals(M)).max())
    if radius >= 1:
        raise ValueError(f"eta must make the steps contract, their spectral radius is {radius:.6g}")
    covariance = solve_discrete_lyapunov(M, P @ noise @ P.T)
    return float(np.sum(target * covariance)) / 2


def _symmetric(name: str, value: ArrayLike, dim: int | None = None) -> Floats:
    matrix = check_array(name, value, ndim=2)
    dim = len(matrix) if dim is None else dim
    check_array(name, matrix, shape=(dim, dim))
    if not np.allclose(matrix, matrix.T, rtol=0, atol=SYMMETRY * max(1.0, np.abs(matrix).max())):
        raise ValueError(f"{name} must be symmetric")
    return (matrix + matrix.T) / 2


def _matrix(name: str, hess: Any, x: Floats, dim: int) -> Any:
    """Return the Hessian at x, checked."""
    value = hess(x.copy()) if callable(hess) and not isinstance(hess, LinearOperator) else hess
    if isinstance(value, LinearOperator) or issparse(value):
        if value.shape != (dim, dim):
            raise ValueError(f"{name} must have shape {(dim, dim)}, got {value.shape}")
        return value
    return _symmetric(name, value, dim)


def _norm(first: Any, second: Any, dim: int) -> float:
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return float(np.abs(np.linalg.eigvalsh(first - second)).max())
    a, b = aslinearoperator(first), aslinearoperator(second)
    if dim <= SMALL:
        identity = np.eye(dim)
        return _norm(_symmetric("hess", a @ identity), _symmetric("proxy_hess", b @ identity), dim)
    start = np.random.default_rng(0).normal(size=dim)
    products = a.matvec(start) - b.matvec(start)
    if not np.any(products):
        return 0.0
    values = eigsh(a - b, k=1, which="LM", v0=start, return_eigenvectors=False)
    return float(abs(values[0]))
