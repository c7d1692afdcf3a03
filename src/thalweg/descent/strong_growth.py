r"""What interpolating data promise a stochastic gradient method, before it is run.

Where one point fits all components, stochastic gradients vanish with the gradient of the sum:

.. math:: \frac{1}{n} \sum_i \|\nabla f_i(w)\|^2 \le \rho\, \|\nabla F(w)\|^2

- `strong_growth_constant`: the least such rho, exact for least squares;
- `mean_square_rate`: the factor by which the expected squared error of a method falls a step, exact
  for least squares, with no run and no bound;
- `accelerated_bound`: what the theorem of `thalweg.descent.stochastic_nesterov` guarantees.

Source: "Faster Convergence of Stochastic Accelerated Gradient Descent under Interpolation" (2024),
arXiv 2404.02378; the closed forms for least squares are derived.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_option, check_real
from thalweg.descent import _accelerated_sgd_kernels as kernels
from thalweg.descent._stochastic_runs import check_schedule
from thalweg.descent._variance_reduction_runs import gradients_of
from thalweg.descent.problems import FiniteSum, LeastSquares

Floats = NDArray[np.float64]

RATE_VARIANTS = ("semi-stochastic", "stochastic", "momentum", "sgd")
LARGEST_STATE = 24
INTERPOLATES = 1e-7
"""Largest gradient of a component at the minimiser, relative to that at 0, that counts as none."""
ROUNDING = 1e-12


def strong_growth_constant(problem: FiniteSum, points: ArrayLike | None = None) -> float:
    r"""Return the constant rho of the strong growth condition, or a lower estimate of it.

    .. math:: \rho = \sup_w \frac{\frac{1}{n} \sum_i \|\nabla f_i(w)\|^2}{\|\nabla F(w)\|^2}

    Parameters
    ----------
    problem : FiniteSum
        The sum; its components must have a common minimiser.
    points : array_like, shape (m, dim), optional
        Points w to look at instead of all.

    Returns
    -------
    float
        Without `points`, for `LeastSquares`, rho itself: the largest eigenvalue of
        :math:`H^+ K H^+` with H and K the means of the components' Hessians and of their squares.
        With `points`, the largest ratio at these: a lower estimate of rho. At least 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, the components of `problem` have no common minimiser, it is no
        `LeastSquares` and there are no `points`, or the gradients vanish at all of them.

    Notes
    -----
    The mean of a batch of b components drawn with replacement has the constant 1 + (rho - 1) / b.

    References
    ----------
    "Faster Convergence of Stochastic Accelerated Gradient Descent under Interpolation" (2024),
    arXiv 2404.02378: the strong growth condition.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> strong_growth_constant(LeastSquares([[1.0, 0.0], [0.0, 1.0]], [3.0, 4.0]))
    2.0
    """
    if points is not None:
        return _largest_ratio(problem, points)
    if not isinstance(problem, LeastSquares):
        raise ValueError(
            "points must be given unless problem is LeastSquares, got None with "
            f"{type(problem).__name__}"
        )
    star = problem.minimiser(np.zeros(problem.dim))
    left = np.abs(problem.component_gradients(star)).max()
    scale = np.abs(problem.component_gradients(np.zeros(problem.dim))).max()
    if left > INTERPOLATES * max(scale, float(np.abs(problem.rows).max()) ** 2):
        raise ValueError(
            "problem must have components with a common minimiser; at the minimiser of their mean "
            f"a gradient has an entry of {left:.3g}"
        )
    n, l2 = problem.n, problem.l2
    left_vectors, sigma, _ = np.linalg.svd(problem.rows, full_matrices=False)
    kept = sigma > max(problem.rows.shape) * np.finfo(float).eps * sigma[0]
    if not kept.any():
        raise ValueError("problem must have a row that is not 0")
    sigma = sigma[kept]
    curvature = sigma**2 / n + l2
    lengths = np.linalg.norm(problem.rows, axis=1)
    weighted = lengths[:, None] * left_vectors[:, kept] * (sigma / curvature)
    ratios = weighted.T @ weighted / n
    ratios[np.diag_indices_from(ratios)] += l2 * (2 * sigma**2 / n + l2) / curvature**2
    return max(float(np.linalg.eigvalsh(ratios)[-1]), 1.0)


def mean_square_rate(
    A: ArrayLike,
    *,
    step: float,
    mu: float,
    variant: str = "semi-stochastic",
    growth: float = 1.0,
) -> float:
    r"""Return the factor a step of the expected squared error on interpolating least squares.

    The errors u of all points of the method are mapped linearly by each step, u -> M_i u for the
    component i drawn, so that E u uᵀ is mapped by the mean of :math:`M_i \otimes M_i`. Its spectral
    radius is the asymptotic factor of E ‖u_k‖² and of E F(w_k) - F*; above 1 the method diverges.

    Parameters
    ----------
    A : array_like, shape (n, dim)
        Rows a_i of the components (a_i·w - b_i)² / 2, one of which is drawn a step.
    step : float
        Step length > 0.
    mu : float
        Strong convexity that the method is told, 0 < mu <= 1 / step, with gamma_0 = mu; "sgd" does
        not use it and takes 0 too.
    variant : {"semi-stochastic", "stochastic", "momentum", "sgd"}, default "semi-stochastic"
        As of `stochastic_nesterov`, or plain stochastic gradient steps.
    growth : float, default 1.0
        As of `stochastic_nesterov`.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, the state has more than 24 numbers (2 dim, of "sgd" dim), or
        mu > 0 and the mean of the a_i a_iᵀ is singular: errors in its kernel never shrink. "sgd"
        with mu = 0 leaves them out.

    References
    ----------
    "Faster Convergence of Stochastic Accelerated Gradient Descent under Interpolation" (2024),
    arXiv 2404.02378: the variants; the rate is derived.

    Examples
    --------
    On two coordinates seen one at a time, rho = 2 and L = mu = 1/2. The bound 1 - sqrt(mu/(rho L))
    of the abstract is 0.293; only the semi-stochastic scheme keeps it.

    >>> A = [[1.0, 0.0], [0.0, 1.0]]
    >>> for variant in ("semi-stochastic", "stochastic", "sgd"):
    ...     print(variant, round(mean_square_rate(A, step=1.0, mu=0.5, variant=variant), 4))
    semi-stochastic 0.1716
    stochastic 0.5203
    sgd 0.5
    >>> round(mean_square_rate(A, step=1.0, mu=0.5, variant="stochastic", growth=2.0), 4)
    0.5
    """
    maps = state_maps(A, step=step, mu=mu, variant=variant, growth=growth)
    size = maps.shape[1]
    if size > LARGEST_STATE:
        raise ValueError(
            f"A must give a state of at most {LARGEST_STATE} numbers, got {size} with "
            f"variant={variant!r}"
        )
    return float(np.abs(np.linalg.eigvals(moment_map(maps))).max())


def moment_map(maps: Floats) -> Floats:
    """Return the matrix that maps E u uᵀ to the mean of M_i E u uᵀ M_iᵀ.

    It acts on the upper triangle, row by row, of the symmetric E u uᵀ.

    Parameters
    ----------
    maps : ndarray, shape (n, m, m)
        The M_i.

    Returns
    -------
    ndarray, shape (m (m + 1) / 2, m (m + 1) / 2)
    """
    n, size = len(maps), maps.shape[1]
    flat = maps.reshape(n, -1)
    mean = (flat.T @ flat / n).reshape((size,) * 4).transpose(0, 2, 1, 3).reshape(size**2, size**2)
    i, j = np.triu_indices(size)
    columns = mean[:, i * size + j] + np.where(i == j, 0.0, 1.0) * mean[:, j * size + i]
    return np.asarray(columns[i * size + j])


def state_maps(
    A: ArrayLike, *, step: float, mu: float, variant: str = "semi-stochastic", growth: float = 1.0
) -> Floats:
    """Return how each component's step maps the errors of a method's points.

    Parameters
    ----------
    A, step, mu, variant, growth
        As of `mean_square_rate`, with a state of any size.

    Returns
    -------
    ndarray, shape (n, m, m)
        M_i: of the errors of w and v, m = 2 dim; of "momentum" of w and the point before it; of
        "sgd" of w, in coordinates of the rows' span if mu = 0.

    Raises
    ------
    TypeError, ValueError
        As of `mean_square_rate`.
    """
    rows = check_array("A", A, ndim=2)
    if 0 in rows.shape or not rows.any():
        raise ValueError(f"A must have a row that is not 0, got shape {rows.shape}")
    step = check_real("step", step, above=0)
    check_option("variant", variant, RATE_VARIANTS)
    growth = check_growth(growth, variant)
    accelerated = variant != "sgd"
    if accelerated:
        mu = check_real("mu", mu, above=0, at_most=(1 + ROUNDING) / step)
    else:
        mu = check_real("mu", mu, at_least=0)
    _, sigma, directions = np.linalg.svd(rows, full_matrices=False)
    rank = int((sigma > max(rows.shape) * np.finfo(float).eps * sigma[0]).sum())
    dim = rows.shape[1]
    if rank < dim:
        if mu > 0:
            raise ValueError(
                f"mu must be 0 where the mean of a_i a_iᵀ is singular (rank {rank} of {dim}), "
                f"got {mu:g}"
            )
        rows, dim = rows @ directions[:rank].T, rank
    eye = np.eye(dim)
    hessians = rows[:, :, None] * rows[:, None, :]
    stepped = eye - step * hessians
    if not accelerated:
        return stepped
    maps = np.empty((len(rows), 2 * dim, 2 * dim))
    # With gamma_0 = mu, gamma stays, and alpha² = step mu / growth.
    alpha = min(np.sqrt(step * mu / growth), 1.0)
    if variant == "momentum":
        push = (1 - alpha) / (1 + alpha)
        maps[:, :dim] = stepped @ np.hstack([(1 + push) * eye, -push * eye])
        maps[:, dim:] = np.hstack([eye, 0 * eye])
        return maps
    y = np.hstack([eye, alpha * eye]) / (1 + alpha)
    v = np.hstack([0 * eye, eye])
    seen = hessians.mean(axis=0) if variant == "semi-stochastic" else hessians
    maps[:, :dim] = stepped @ y
    maps[:, dim:] = (1 - alpha) * v + alpha * y - (alpha / mu) * (seen @ y)
    return maps


def accelerated_bound(
    k: ArrayLike,
    *,
    step: float | ArrayLike | Callable[[int], float],
    mu: float,
    gamma0: float,
    gap0: float,
    dist0: float,
    growth: float = 1.0,
) -> Floats:
    r"""Return what E F(w_k) - F* is at most after k steps of `stochastic_nesterov`.

    .. math:: \lambda_k \Big(F(w_0) - F^* + \frac{\gamma_0}{2} \|w_0 - w^*\|^2\Big), \qquad
              \lambda_k = \prod_{i<k} (1 - \alpha_i)

    It holds for interpolating convex sums where each primal update makes the expected progress
    :math:`\frac{\eta_k}{2} \|\nabla F(y_k)\|^2`, a stochastic gradient step for
    :math:`\eta \le 1 / (\rho L)`: with the variant "semi-stochastic", and with "stochastic" if
    `growth` is at least rho.

    Parameters
    ----------
    k : int or array_like of int
        Numbers of steps.
    step : float, array_like or callable
        Step lengths eta_i > 0 as of `stochastic_nesterov`; an array must have max(k) of them.
    mu : float
        Strong convexity, 0 <= mu <= 1 / step.
    gamma0 : float
        gamma_0 > 0.
    gap0 : float
        F(w_0) - F* >= 0.
    dist0 : float
        ‖w_0 - w*‖ >= 0.
    growth : float, default 1.0
        As of `stochastic_nesterov`.

    Returns
    -------
    ndarray
        The bounds, in the shape of `k`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Notes
    -----
    lambda_k is at most :math:`4 / (2 + k \sqrt{\eta \gamma_0 / growth})^2` with eta the least step,
    and at most the product of :math:`1 - \sqrt{\eta_i \mu / growth}` if gamma_0 >= mu.

    References
    ----------
    "Faster Convergence of Stochastic Accelerated Gradient Descent under Interpolation" (2024),
    arXiv 2404.02378: the theorems, with the notice of its version 2 taken into account.

    Examples
    --------
    >>> accelerated_bound([0, 1, 2], step=0.25, mu=1.0, gamma0=1.0, gap0=3.0, dist0=2.0 ** 0.5)
    array([4., 2., 1.])
    """
    counts = np.asarray(k)
    if counts.dtype.kind not in "iu":
        raise TypeError(f"k must hold integers, got {k!r}")
    if counts.size and counts.min() < 0:
        raise ValueError(f"k must hold numbers >= 0, got {counts.min()}")
    gamma0 = check_real("gamma0", gamma0, above=0)
    gap0 = check_real("gap0", gap0, at_least=0)
    dist0 = check_real("dist0", dist0, at_least=0)
    growth = check_real("growth", growth, at_least=1)
    steps = check_schedule("step", step, int(counts.max(initial=0)), above=0.0)
    mu = check_strong_convexity(mu, steps)
    alphas, _ = kernels.momentum_parameters(steps / growth, mu, gamma0)
    bounds: Floats = shares(alphas)[counts] * (gap0 + gamma0 / 2 * dist0**2)
    return np.asarray(bounds)


def shares(alphas: Floats) -> Floats:
    """Return lambda_0 = 1, lambda_1, ...: the products of 1 - alpha_i."""
    with np.errstate(under="ignore"):
        products = np.ones(len(alphas) + 1)
        np.subtract(1, alphas, out=products[1:])
        return np.cumprod(products, out=products)


def check_growth(growth: Any, variant: str) -> float:
    """Return the factor rho of the scaled scheme, which only one variant has."""
    growth = check_real("growth", growth, at_least=1)
    if growth != 1 and variant != "stochastic":
        raise ValueError(f"growth must be 1 with variant={variant!r}, got {growth:g}")
    return growth


def check_strong_convexity(mu: Any, steps: Floats) -> float:
    """Return mu, at most 1 / step for all of the steps."""
    mu = check_real("mu", mu, at_least=0)
    if len(steps) and mu * steps.max() > 1 + ROUNDING:
        raise ValueError(f"mu must be at most 1 / step = {1 / steps.max():g}, got {mu:g}")
    return mu


def _largest_ratio(problem: Any, points: ArrayLike) -> float:
    missing = [name for name in ("n", "dim", "gradient") if not hasattr(problem, name)]
    if missing:
        raise TypeError(
            f"problem must have n, dim and gradient, {type(problem).__name__} lacks "
            f"{', '.join(missing)}"
        )
    found = check_array("points", points, shape=(None, problem.dim))
    ratios = []
    for point in found:
        each = gradients_of(problem, point, np.arange(problem.n))
        most = float(np.abs(each).max())
        if most > 0:
            each = each / most
            whole = float(np.sum(each.mean(axis=0) ** 2))
            ratios.append(float(np.mean(np.sum(each**2, axis=1))) / whole if whole else np.inf)
    if not ratios:
        raise ValueError("points must hold one where a component's gradient is not 0")
    return max(*ratios, 1.0)
