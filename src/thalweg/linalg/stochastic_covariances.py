r"""How large the error of a constant-step linear iteration is: exact means and covariances.

The error obeys :math:`\delta_n = (I - \alpha A_n) \delta_{n-1} + \alpha \varepsilon_n`, so its
second moment obeys a linear equation, which is solved here for n and for infinity. Divided by
:math:`\alpha` the stationary covariance approaches that of the central limit theorem as
:math:`\alpha` goes to zero; at a given step it is larger, because A is random, and infinite above
a largest step.

Source: "Tight High Probability Bounds for Linear Stochastic Approximation with Fixed Stepsize"
(2021), arXiv 2106.01257. The moments at finite n are derived here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov

from thalweg._validation import check_array, check_count, check_real
from thalweg.linalg.pivoting_bounds import check_symmetric
from thalweg.linalg.random_products import check_hurwitz

Floats = NDArray[np.float64]

NEGATIVE_TOLERANCE = 1e-10
"""How far below zero, relative to the largest, eigenvalues of a covariance may be by rounding."""


def clt_covariance(a_bar: ArrayLike, noise_cov: ArrayLike) -> Floats:
    r"""Return the covariance of the central limit theorem: the error's, over the step, at step 0.

    Parameters
    ----------
    a_bar : array_like, shape (d, d)
        Mean matrix A; all eigenvalues with positive real part.
    noise_cov : array_like, shape (d, d)
        Covariance of the noise ``b_n - A_n theta_star``.

    Returns
    -------
    ndarray, shape (d, d)
        S with :math:`A S + S A^T = \Sigma`.

    Raises
    ------
    ValueError
        If an argument is malformed or `a_bar` has an eigenvalue without positive real part.

    Examples
    --------
    >>> from thalweg.linalg import clt_covariance
    >>> clt_covariance([[2.0]], [[1.0]])
    array([[0.25]])
    """
    a_bar, noise_cov = _check_system(a_bar, noise_cov)
    s = solve_continuous_lyapunov(a_bar, noise_cov)
    return (s + s.T) / 2


def stationary_covariance(
    a_bar: ArrayLike,
    noise_cov: ArrayLike,
    step_size: float,
    a_second_moment: ArrayLike | None = None,
) -> Floats:
    r"""Return the covariance of the error of a constant-step iteration that has run for long.

    Parameters
    ----------
    a_bar, noise_cov
        As in `clt_covariance`.
    step_size : float
        Constant step :math:`\alpha` > 0.
    a_second_moment : array_like, shape (d**2, d**2), optional
        :math:`E[(A_n - A) \otimes (A_n - A)]`. None: A is not random; this is also the covariance
        of the linear part of the error, whatever A is.

    Returns
    -------
    ndarray, shape (d, d)
        C with :math:`C = E[(I - \alpha A_n) C (I - \alpha A_n)^T] + \alpha^2 \Sigma`. The matrix
        and the noise of the same iteration may depend on each other.

    Raises
    ------
    ValueError
        If the covariance is infinite (`mean_square_stable`), or an argument is malformed.

    References
    ----------
    "Tight High Probability Bounds for Linear Stochastic Approximation with Fixed Stepsize" (2021),
    arXiv 2106.01257: the covariances of the leading terms.

    Examples
    --------
    >>> from thalweg.linalg import stationary_covariance
    >>> stationary_covariance([[2.0]], [[1.0]], 0.1, a_second_moment=[[6.0]])
    array([[0.03333333]])
    """
    a_bar, noise_cov = _check_system(a_bar, noise_cov)
    step_size = check_real("step_size", step_size, above=0)
    d = len(a_bar)
    moment = check_second_moment(a_second_moment, d)
    radius = _spectral_radius(a_bar, step_size, moment)
    if radius >= 1:
        raise ValueError(
            "step_size must be small enough for a finite covariance, got "
            f"{step_size:g} at which second moments grow by {radius:.6g} a step"
        )
    if moment is None:
        c = solve_discrete_lyapunov(np.eye(d) - step_size * a_bar, step_size**2 * noise_cov)
    else:
        system = np.eye(d * d) - _second_moment_map(a_bar, step_size, moment)
        c = np.linalg.solve(system, step_size**2 * noise_cov.ravel()).reshape(d, d)
    return (c + c.T) / 2


def mean_square_stable(
    a_bar: ArrayLike, step_size: float, a_second_moment: ArrayLike | None = None
) -> bool:
    r"""Return whether the error of a constant-step iteration keeps a finite covariance.

    Parameters
    ----------
    a_bar : array_like, shape (d, d)
        Mean matrix A.
    step_size : float
        Constant step :math:`\alpha` > 0.
    a_second_moment : array_like, shape (d**2, d**2), optional
        :math:`E[(A_n - A) \otimes (A_n - A)]`; zero if None.

    Returns
    -------
    bool
        Whether the spectral radius of :math:`E[(I - \alpha A_n) \otimes (I - \alpha A_n)]` is
        below 1.

    Raises
    ------
    ValueError
        If an argument is malformed.

    Examples
    --------
    >>> from thalweg.linalg import mean_square_stable
    >>> [mean_square_stable([[2.0]], step, [[6.0]]) for step in (0.39, 0.41)]
    [True, False]
    """
    a_bar = _check_square(a_bar)
    step_size = check_real("step_size", step_size, above=0)
    moment = check_second_moment(a_second_moment, len(a_bar))
    return bool(_spectral_radius(a_bar, step_size, moment) < 1)


def moments_at(
    n: int,
    theta0: ArrayLike,
    theta_star: ArrayLike,
    a_bar: ArrayLike,
    noise_cov: ArrayLike,
    step_size: float,
    a_second_moment: ArrayLike | None = None,
    cross: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    r"""Return the exact mean and covariance of iterate n.

    Parameters
    ----------
    n : int
        Iteration, >= 0.
    theta0, theta_star : array_like, shape (d,)
        Start and target.
    a_bar : array_like, shape (d, d)
        Mean matrix; any, since n is finite.
    noise_cov, step_size, a_second_moment
        As in `stationary_covariance`.
    cross : array_like, shape (d, d, d), optional
        :math:`E[(A_n - A)_{ij} \varepsilon_{n,l}]`, which matters while the mean has not reached
        the target; zero if None.

    Returns
    -------
    mean : ndarray, shape (d,)
        :math:`\theta^* + (I - \alpha A)^n (\theta_0 - \theta^*)`.
    cov : ndarray, shape (d, d)
        Covariance of :math:`\theta_n`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.
    FloatingPointError
        If the moments overflow.

    Examples
    --------
    >>> from thalweg.linalg import moments_at
    >>> mean, cov = moments_at(2, [1.0], [0.0], [[2.0]], [[1.0]], 0.1, a_second_moment=[[6.0]])
    >>> mean.round(6), cov.round(6)
    (array([0.64]), array([[0.0974]]))
    """
    n = check_count("n", n, at_least=0)
    a_bar = _check_square(a_bar)
    d = len(a_bar)
    noise_cov = check_covariance(noise_cov, d)
    step_size = check_real("step_size", step_size, above=0)
    moment = check_second_moment(a_second_moment, d)
    moment = np.zeros((d * d, d * d)) if moment is None else moment
    cross = np.zeros((d, d, d)) if cross is None else check_array("cross", cross, shape=(d, d, d))
    theta_star = check_array("theta_star", theta_star, shape=(d,))
    error = check_array("theta0", theta0, shape=(d,)) - theta_star
    # The state is (covariance, outer square of the mean error, mean error, 1).
    carry = np.eye(d) - step_size * a_bar
    c, m2, m = slice(0, d * d), slice(d * d, 2 * d * d), slice(2 * d * d, -1)
    both = cross.transpose(0, 2, 1) + cross.transpose(2, 0, 1)
    step = np.zeros((2 * d * d + d + 1,) * 2)
    step[c, c] = _second_moment_map(a_bar, step_size, moment)
    step[c, m2] = step_size**2 * moment
    step[c, m] = -(step_size**2) * both.reshape(d * d, d)
    step[c, -1] = step_size**2 * noise_cov.ravel()
    step[m2, m2] = np.kron(carry, carry)
    step[m, m] = carry
    step[-1, -1] = 1.0
    start = np.concatenate([np.zeros(d * d), np.outer(error, error).ravel(), error, [1.0]])
    state = _iterate(step, start, n)
    cov = state[c].reshape(d, d)
    return theta_star + state[m], (cov + cov.T) / 2


def fluctuation_covariances(
    n: int, a_bar: Floats, noise_cov: Floats, step_size: float, moment: Floats | None
) -> tuple[Floats, Floats]:
    """Return the covariances at n of the linear part of the fluctuation and of its remainder.

    The two are uncorrelated, so the covariance of the fluctuation is their sum.
    """
    d = len(a_bar)
    carry = np.eye(d) - step_size * a_bar
    linear, remainder = slice(0, d * d), slice(d * d, 2 * d * d)
    step = np.zeros((2 * d * d + 1,) * 2)
    step[linear, linear] = np.kron(carry, carry)
    step[linear, -1] = step_size**2 * noise_cov.ravel()
    if moment is not None:
        step[remainder, remainder] = _second_moment_map(a_bar, step_size, moment)
        step[remainder, linear] = step_size**2 * moment
    step[-1, -1] = 1.0
    state = _iterate(step, np.eye(len(step))[-1], n)
    return state[linear].reshape(d, d), state[remainder].reshape(d, d)


def _second_moment_map(a_bar: Floats, step_size: float, moment: Floats | None) -> Floats:
    """Return the matrix that takes C to the mean of (I - step A_n) C (I - step A_n)'."""
    carry = np.eye(len(a_bar)) - step_size * a_bar
    square = np.kron(carry, carry)
    return np.asarray(square if moment is None else square + step_size**2 * moment)


def _spectral_radius(a_bar: Floats, step_size: float, moment: Floats | None) -> float:
    if moment is None:
        carry = np.eye(len(a_bar)) - step_size * a_bar
        return float(np.abs(np.linalg.eigvals(carry)).max() ** 2)
    return float(np.abs(np.linalg.eigvals(_second_moment_map(a_bar, step_size, moment))).max())


def _iterate(step: Floats, state: Floats, n: int) -> Floats:
    """Apply a linear map n times: one by one, or by squaring where that is cheaper."""
    with np.errstate(over="ignore", invalid="ignore"):
        if n <= len(step) * n.bit_length():
            for _ in range(n):
                state = step @ state
        else:
            while n:
                if n & 1:
                    state = step @ state
                n >>= 1
                if n:
                    step = step @ step
    if not np.isfinite(state).all():
        raise FloatingPointError("the moments overflow: step_size is too large for so many steps")
    return state


def _check_square(a_bar: ArrayLike) -> Floats:
    a_bar = check_array("a_bar", a_bar, ndim=2)
    if a_bar.shape[0] != a_bar.shape[1] or len(a_bar) == 0:
        raise ValueError(f"a_bar must be square, got shape {a_bar.shape}")
    return a_bar


def check_covariance(noise_cov: ArrayLike, d: int) -> Floats:
    """Return a symmetric positive semidefinite (d, d) matrix."""
    noise_cov = check_symmetric("noise_cov", noise_cov, ndim=2)
    if noise_cov.shape != (d, d):
        raise ValueError(f"noise_cov must have shape ({d}, {d}) like a_bar, got {noise_cov.shape}")
    values = np.linalg.eigvalsh(noise_cov)
    if values[0] < -NEGATIVE_TOLERANCE * max(values[-1], 0.0) or values[-1] < 0:
        raise ValueError(
            f"noise_cov must be positive semidefinite, got the eigenvalue {values[0]:g}"
        )
    return noise_cov


def check_second_moment(value: ArrayLike | None, d: int) -> Floats | None:
    """Return a (d**2, d**2) matrix, or None as it is."""
    return None if value is None else check_array("a_second_moment", value, shape=(d * d, d * d))


def _check_system(a_bar: ArrayLike, noise_cov: ArrayLike) -> tuple[Floats, Floats]:
    a_bar = check_hurwitz("a_bar", a_bar)
    return a_bar, check_covariance(noise_cov, len(a_bar))
