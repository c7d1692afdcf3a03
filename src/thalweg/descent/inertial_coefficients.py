"""Coefficients of momentum methods, their differential equations, their rates on quadratics.

- `coefficients`: which alpha, beta, gamma, delta make `thalweg.descent.two_step` a known method;
- `continuous_limit` and `discretise`: from them to the damping and force of the differential
  equation X'' + (A + B hess f(X)) X' + C grad f(X) = 0, and back;
- `mode_rate` and `mode_exponents`: how fast each curvature of a quadratic dies out, a step of the
  method or a unit of time of the equation.

Source: "On the Dynamics of Acceleration in First order Gradient Methods" (2025), arXiv 2509.18346.
Its programme is followed; the formulas of the limit are derived here, not quoted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_option, check_real
from thalweg.descent._first_order import check_curvature

Coefficient = float | Callable[[int], float]

MEMBERS = ("gradient", "heavy-ball", "nesterov", "triple-momentum")
ROUNDING = 8 * float(np.finfo(float).eps)
"""Discriminants below this share of their terms are rounding, and count as zero."""


def coefficients(
    method: str, *, L: float, mu: float | None = None
) -> tuple[float, Any, Any, float]:
    """Return alpha, beta, gamma and delta with which `two_step` is a known method.

    Parameters
    ----------
    method : {"gradient", "heavy-ball", "nesterov", "triple-momentum"}
        The method.
    L : float
        Lipschitz constant of the gradient, > 0.
    mu : float, optional
        Strong convexity, 0 < mu <= L. Without it "gradient" takes steps 1 / L in place of
        2 / (L + mu), and "nesterov" is the form for convex functions, whose beta and gamma are the
        function k -> k / (k + 3); the other two need it.

    Returns
    -------
    alpha, delta : float
        Step length and share of the output.
    beta, gamma : float or callable
        Shares of the last move.

    Raises
    ------
    TypeError, ValueError
        If `method` is unknown, a constant is malformed, or mu is missing where it is needed.

    Notes
    -----
    With k / (k + 3) the first step already counts as the second of the usual sequence
    (k - 1) / (k + 2). What the usual proof then gives is
    f(x_k) - f* <= (2 L R² + 3 (f(x_0) - f*)) / (k + 2)², at most 3.5 L R² / (k + 2)², where R is
    the distance from x_0 to a minimiser; 2 L R² / (k + 1)² is proven for the usual sequence.

    Examples
    --------
    >>> alpha, beta, gamma, delta = coefficients("nesterov", L=25.0, mu=1.0)
    >>> round(alpha, 6), round(beta, 6), gamma == beta, delta
    (0.04, 0.666667, True, 0.0)
    """
    check_option("method", method, MEMBERS)
    if mu is None:
        L = check_real("L", L, above=0)
        if method == "gradient":
            return 1 / L, 0.0, 0.0, 0.0
        if method == "nesterov":
            return 1 / L, _growing_share, _growing_share, 0.0
        raise ValueError(f"mu must be given for method={method!r}")
    mu, L = check_curvature(mu, L, strong=True)
    root = math.sqrt(mu / L)
    if method == "gradient":
        return 2 / (L + mu), 0.0, 0.0, 0.0
    share = (1 - root) / (1 + root)
    if method == "heavy-ball":
        return 4 / (math.sqrt(L) + math.sqrt(mu)) ** 2, share**2, 0.0, 0.0
    if method == "nesterov":
        return 1 / L, share, share, 0.0
    rho = 1 - root
    return (
        (1 + rho) / L,
        rho**2 / (2 - rho),
        rho**2 / ((1 + rho) * (2 - rho)),
        rho**2 / (1 - rho**2),
    )


def continuous_limit(alpha: float, beta: float, gamma: float) -> tuple[float, float, float, float]:
    """Return A, B, C and h of the equation that a two-step method follows.

    h = sqrt(alpha), A = 2 (1 - beta) / (h (1 + beta)), B = 2 gamma h / (1 + beta),
    C = 2 / (1 + beta). The step x_k is X(k h) to within h² if X begins at x_0 with velocity
    -(h / 2) C grad f(x_0); without C and B, and from rest, only to within h.

    Parameters
    ----------
    alpha, beta, gamma : float
        Coefficients of `thalweg.descent.two_step`: alpha > 0, beta > -1.

    Returns
    -------
    A, B, C, h : float
        Damping (1 / time), damping by curvature (time), force, and time of a step.

    Raises
    ------
    TypeError, ValueError
        If a coefficient is malformed.

    Notes
    -----
    For Nesterov's convex method, whose shares are k / (k + 3), the same expansion gives A = 3 / t,
    C = 1 + 3 h / (2 t) and B = h to within h² at t = (k + 3 / 2) h; at t = k h only within h.

    References
    ----------
    "On the Dynamics of Acceleration in First order Gradient Methods" (2025), arXiv 2509.18346;
    derived here by Taylor expansion.

    Examples
    --------
    Nesterov's method for mu = 1, L = 25: A = 2 sqrt(mu), C = 1 + sqrt(mu / L).

    >>> [round(value, 12) for value in continuous_limit(1 / 25, 2 / 3, 2 / 3)]
    [2.0, 0.16, 1.2, 0.2]
    """
    alpha = check_real("alpha", alpha, above=0)
    beta = check_real("beta", beta, above=-1)
    gamma = check_real("gamma", gamma)
    h = math.sqrt(alpha)
    return 2 * (1 - beta) / (h * (1 + beta)), 2 * gamma * h / (1 + beta), 2 / (1 + beta), h


def discretise(A: float, B: float, h: float) -> tuple[float, float, float]:
    """Return alpha, beta and gamma of the two-step method that follows an equation.

    The inverse of `continuous_limit`: beta is the Cayley map of A h,
    beta = (2 - A h) / (2 + A h), gamma = B (1 + beta) / (2 h), alpha = h². C is implied:
    1 + A h / 2.

    Parameters
    ----------
    A, B : float
        Damping >= 0 and damping by curvature.
    h : float
        Time of a step, 0 < h < 2 / A.

    Returns
    -------
    alpha, beta, gamma : float
        Coefficients of `thalweg.descent.two_step`.

    Raises
    ------
    TypeError, ValueError
        If a number is malformed or 2 - A h <= 0, which no positive momentum follows.

    References
    ----------
    "On the Dynamics of Acceleration in First order Gradient Methods" (2025), arXiv 2509.18346;
    derived here.

    Examples
    --------
    >>> [round(value, 12) for value in discretise(2.0, 0.16, 0.2)]
    [0.04, 0.666666666667, 0.666666666667]
    """
    A = check_real("A", A, at_least=0)
    B = check_real("B", B)
    h = check_real("h", h, above=0)
    if 2 - A * h <= 0:
        raise ValueError(f"h must be < 2 / A = {2 / A:g}, got {h!r}")
    beta = (2 - A * h) / (2 + A * h)
    return h * h, beta, B * (1 + beta) / (2 * h)


def mode_rate(
    lam: ArrayLike, alpha: float, beta: float, gamma: float
) -> float | NDArray[np.float64]:
    """Return the factor by which a two-step method shrinks a mode of a quadratic a step.

    It is the spectral radius of [[1 + beta - alpha (1 + gamma) lam, -beta + alpha gamma lam],
    [1, 0]]; the largest over the curvatures is the method's rate.

    Parameters
    ----------
    lam : array_like
        Curvatures, of any shape.
    alpha, beta, gamma : float
        Coefficients of `thalweg.descent.two_step`, alpha > 0.

    Returns
    -------
    float or ndarray
        Factors, of the shape of `lam`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Notes
    -----
    Optimal momentum makes two roots equal, where rounding of 1e-16 in the coefficients would move
    them by 1e-8; a discriminant at the level of rounding therefore counts as zero.

    Examples
    --------
    >>> rates = mode_rate([1.0, 25.0], 1 / 9, 4 / 9, 0.0)  # heavy ball
    >>> rates.round(12)
    array([0.66666667, 0.66666667])
    """
    lam = check_array("lam", lam)
    alpha = check_real("alpha", alpha, above=0)
    beta, gamma = check_real("beta", beta), check_real("gamma", gamma)
    trace = 1 + beta - alpha * (1 + gamma) * lam
    det = beta - alpha * gamma * lam
    size = 1 + abs(beta) + alpha * (1 + abs(gamma)) * np.abs(lam)
    discriminant = trace**2 - 4 * det
    discriminant = np.where(np.abs(discriminant) <= ROUNDING * size**2, 0.0, discriminant)
    real = 0.5 * (np.abs(trace) + np.sqrt(np.maximum(discriminant, 0.0)))
    rates = np.where(discriminant < 0, np.sqrt(np.maximum(det, 0.0)), real)
    return float(rates) if rates.ndim == 0 else rates


def mode_exponents(lam: ArrayLike, A: float, B: float, C: float) -> NDArray[np.complex128]:
    """Return the exponents of the modes of the inertial equation on a quadratic.

    They are the roots r of r² + (A + B lam) r + C lam = 0: each mode is a sum of exp(r t).

    Parameters
    ----------
    lam : array_like
        Curvatures, of any shape.
    A, B, C : float
        Coefficients.

    Returns
    -------
    ndarray of complex, of shape ``(*lam.shape, 2)``
        The pairs; the slower (larger real part), or the one that turns forward, first.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Examples
    --------
    Passivity and immersion has exponents -gamma and -kappa lam:

    >>> mode_exponents([1.0, 8.0], A=2.0, B=0.5, C=1.0).real
    array([[-0.5, -2. ],
           [-2. , -4. ]])
    """
    lam = check_array("lam", lam)
    A, B, C = (check_real(name, value) for name, value in (("A", A), ("B", B), ("C", C)))
    damping, force = A + B * lam, C * lam
    size = (abs(A) + np.abs(B * lam)) ** 2 + 4 * np.abs(force)
    discriminant = damping**2 - 4 * force
    discriminant = np.where(np.abs(discriminant) <= ROUNDING * size, 0.0, discriminant)
    root = np.sqrt(np.abs(discriminant))
    # The root of larger size has no cancellation; the other follows from their product.
    large = -0.5 * (damping + np.where(damping >= 0, root, -root))
    small = np.divide(force, large, out=np.zeros_like(large), where=large != 0)
    pair = np.where(
        (discriminant < 0)[..., None],
        np.stack([-0.5 * damping + 0.5j * root, -0.5 * damping - 0.5j * root], axis=-1),
        np.stack([small, large], axis=-1),
    )
    swap = pair[..., 0].real < pair[..., 1].real
    return np.where(swap[..., None], pair[..., ::-1], pair)


def _growing_share(k: int) -> float:
    return k / (k + 3)
