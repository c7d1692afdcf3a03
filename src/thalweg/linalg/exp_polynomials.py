"""How large a polynomial replaces the exponential in attention, and when one small enough exists.

Attention weighs values by ``exp`` of inner products of size at most B. A polynomial of degree g
that follows ``exp`` on [-B, B] turns the n x n matrix of weights into a product of two thin ones of
width ``binom(d + g, g)``, and that width decides whether attention can be almost linear: it stays
small while B grows more slowly than ``log n`` and explodes beyond.

Source: "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models"
(2025), arXiv 2501.04377; degrees as in "Fast Attention Requires Bounded Entries" (2023), arXiv
2302.13214, whose bound on the degree is that of Aggarwal and Alman.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.polynomial import polynomial as poly
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import hyp1f1

from thalweg._validation import check_count, check_option, check_real

MAX_BOUND = 100.0
MAX_DEGREE = 400
RANK_SHARE = 4
POINTS_PER_EXTREMUM = 24
REMEZ_TOLERANCE = 1e-7
PEAK_MARGIN = 1e-5
LOG_HUGE = 700.0
ROUND_OFF = 1e-12


def exp_polynomial(
    bound: float,
    eps: float = 1e-3,
    degree: int | None = None,
    *,
    kind: Literal["minimax", "taylor"] = "minimax",
) -> tuple[NDArray[np.float64], float]:
    """Return the polynomial nearest to ``exp`` in relative error on [-`bound`, `bound`].

    It minimises ``max |p(x) - exp(x)| / exp(x)``, found by Remez exchange.

    Parameters
    ----------
    bound : float
        B, half the length of the interval, from 0 to 100.
    eps : float, default 1e-3
        Relative error to reach, ``0 < eps < 1``; the least degree that does is taken.
    degree : int, optional
        Take this degree, whatever its error; `eps` is then not used.
    kind : {"minimax", "taylor"}, default "minimax"
        "taylor" is the truncated series, which needs up to twice the degree.

    Returns
    -------
    coef : ndarray of shape (g + 1,)
        Coefficients of 1, x, ..., x^g.
    error : float
        The largest relative error of these coefficients on a grid ten times as fine as that of
        the exchange, the round-off of Horner's rule included.

    Raises
    ------
    ValueError
        If an argument is outside its range, or B is so large that powers of x in double precision
        cannot reach `eps` (B of about 14 at ``eps=1e-3``).

    References
    ----------
    "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models"
    (2025), arXiv 2501.04377, polynomial approximation of the exponential.

    Examples
    --------
    >>> coef, error = exp_polynomial(1.0, 1e-2)
    >>> coef.round(3), round(error, 4)
    (array([0.997, 1.011, 0.539, 0.159]), 0.005)
    """
    bound, eps = _check_bound(bound), _check_eps(eps)
    check_option("kind", kind, ("minimax", "taylor"))
    chosen = degree is not None
    if degree is None:
        degree = exp_degree(bound, eps) if kind == "minimax" else taylor_degree(bound, eps)
    degree = check_count("degree", degree, at_least=0, at_most=MAX_DEGREE)
    if kind == "taylor" or _taylor_error(bound, degree) <= ROUND_OFF:
        coef = 1 / np.cumprod(np.r_[1.0, np.arange(1.0, degree + 1)])
    else:
        coef = _Exchange(bound, degree).powers()
    error = _achieved(coef, bound)
    if not chosen and not error <= eps:
        raise ValueError(
            f"bound must be smaller for eps={eps:g}: powers of x in double precision leave a "
            f"relative error of {error:.2g} on [-{bound:g}, {bound:g}]"
        )
    return coef, error


def exp_degree(bound: float, eps: float = 1e-3) -> int:
    """Return the least degree at which a polynomial follows ``exp`` to relative error `eps`.

    It grows like ``max(B, log(1/eps) / log(log(1/eps) / B))``.

    Parameters
    ----------
    bound, eps : float
        As in `exp_polynomial`.

    Returns
    -------
    int
        The degree.

    Examples
    --------
    >>> [exp_degree(b, 1e-2) for b in (0.5, 1, 2, 4)]
    [2, 3, 5, 7]
    """
    return _least_degree(_check_bound(bound), _check_eps(eps))


def taylor_degree(bound: float, eps: float = 1e-3) -> int:
    """Return the least degree at which the truncated series of ``exp`` has relative error `eps`.

    Parameters
    ----------
    bound, eps : float
        As in `exp_polynomial`.

    Returns
    -------
    int
        The degree.

    Examples
    --------
    >>> [taylor_degree(b, 1e-2) for b in (0.5, 1, 2, 4)]
    [3, 5, 8, 15]
    """
    bound, eps = _check_bound(bound), _check_eps(eps)
    degree = 0
    while _taylor_error(bound, degree) > eps:
        degree += 1
    return degree


def attention_rank(bound: float, eps: float, d: int) -> int:
    """Return the rank that attention needs: the number of monomials of the least degree.

    Parameters
    ----------
    bound : float
        B, the largest ``|scale * q_i . k_j|``, from 0 to 100.
    eps : float
        Relative error of every weight, ``0 < eps < 1``.
    d : int
        Length of a query.

    Returns
    -------
    int
        ``binom(d + g, g)`` for the least degree g of `exp_polynomial`. Attention over n tokens by
        `polynomial_attention` costs n times this, by `exact_attention` n times n.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    References
    ----------
    "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models"
    (2025), arXiv 2501.04377: almost quadratic time for entries below sqrt(log n).

    Examples
    --------
    >>> attention_rank(1.0, 1e-3, d=4), attention_rank(8.0, 1e-3, d=4)
    (70, 3060)
    """
    d = check_count("d", d)
    degree = exp_degree(bound, eps)
    return math.comb(d + degree, degree)


def critical_bound(n_tokens: int, d: int, eps: float = 1e-3) -> float:
    """Return the largest bound on the logits for which the polynomial method pays.

    Parameters
    ----------
    n_tokens : int
        L, the number of tokens.
    d : int
        Length of a query.
    eps : float, default 1e-3
        Relative error of every weight.

    Returns
    -------
    float
        The largest B with ``attention_rank(B, eps, d) < L / 4``; beyond it exact attention is the
        cheaper. Zero where no polynomial is small enough, at most 100, where the search ends.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> round(critical_bound(5461, d=4), 2)
    5.92
    """
    n_tokens, d = check_count("n_tokens", n_tokens), check_count("d", d)
    eps = _check_eps(eps)
    if n_tokens <= RANK_SHARE:
        return 0.0
    degree = 0
    while degree < MAX_DEGREE and RANK_SHARE * math.comb(d + degree + 1, d) < n_tokens:
        degree += 1

    def excess(bound: float) -> float:
        return math.log(_least_error(bound, degree) / eps)

    high = min(max(1.0, float(degree)), MAX_BOUND)
    while excess(high) <= 0:
        if high >= MAX_BOUND:
            return MAX_BOUND
        high = min(2 * high, MAX_BOUND)
    low = high
    while excess(low) > 0:
        low /= 2
    root = brentq(excess, low, high, xtol=1e-14, rtol=1e-10)
    while excess(root) > 0:
        root *= 1 - 1e-9
    return float(root)


def _check_bound(bound: float) -> float:
    return check_real("bound", bound, at_least=0, at_most=MAX_BOUND)


def _check_eps(eps: float) -> float:
    return check_real("eps", eps, above=0, below=1)


@lru_cache(maxsize=1024)
def _least_degree(bound: float, eps: float) -> int:
    """The least degree of relative error `eps`, by bisection below Taylor's."""
    low, high = -1, taylor_degree(bound, eps)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _least_error(bound, middle) <= eps else (middle, high)
    return high


def _least_error(bound: float, degree: int) -> float:
    """Minimax error, with a margin for peaks that lie between the points of reference."""
    taylor = _taylor_error(bound, degree)
    if taylor <= ROUND_OFF:
        return taylor
    return _Exchange(bound, degree).error * (1 + PEAK_MARGIN)


def _taylor_error(bound: float, degree: int) -> float:
    """Largest relative error of the truncated series, at -B: the integral of u^g e^u / g!."""
    if bound == 0:
        return 0.0
    log_power = (degree + 1) * math.log(bound) - math.lgamma(degree + 2)
    log_error = log_power + math.log(hyp1f1(degree + 1, degree + 2, bound))
    return math.exp(log_error) if log_error < LOG_HUGE else math.inf


def _achieved(coef: NDArray[np.float64], bound: float) -> float:
    x = _grid(bound, 10 * POINTS_PER_EXTREMUM * (len(coef) + 1))
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.max(np.abs(poly.polyval(x, coef) * np.exp(-x) - 1)))


def _grid(bound: float, points: int) -> NDArray[np.float64]:
    return -bound * np.cos(np.pi * np.arange(points) / (points - 1))


class _Exchange:
    """Remez exchange for 1 in the functions ``p(x) exp(-x)``, p of a degree.

    The basis is orthonormal on a grid, so that no digits are lost however far ``exp`` ranges. The
    least-squares residual changes sign at `degree` + 1 places at least, which gives the first
    points of reference.
    """

    def __init__(self, bound: float, degree: int) -> None:
        self.bound, self.degree = bound, degree
        self.x = _grid(bound, POINTS_PER_EXTREMUM * (degree + 2) + 1)
        self.steps: list[tuple[float, float]] = []
        basis = self._orthonormal()
        self.coefficients: Any = basis.sum(axis=1)
        self.error = 0.0
        signs = (-1.0) ** np.arange(degree + 2)
        for _ in range(50):
            residual = self.coefficients @ basis - 1
            nodes = self._extrema(residual)
            rows = self._basis(nodes).T
            largest = max(np.max(np.abs(residual)), np.max(np.abs(rows @ self.coefficients - 1)))
            if largest <= self.error * (1 + REMEZ_TOLERANCE):
                break
            if len(nodes) < degree + 2 or largest <= ROUND_OFF:
                self.error = float(largest)
                break
            system = np.column_stack((rows, signs))
            solution = np.linalg.solve(system, np.ones(degree + 2))
            self.coefficients, self.error = solution[:-1], abs(float(solution[-1]))

    def powers(self) -> NDArray[np.float64]:
        """The coefficients of 1, x, ..., x^g."""
        previous, current = np.zeros(1), np.array([math.exp(-self.bound) / self.norm])
        total = self.coefficients[0] * current
        beta = 0.0
        for (alpha, next_beta), c in zip(self.steps, self.coefficients[1:], strict=True):
            raised = poly.polysub(poly.polymulx(current), alpha * current)
            raised = poly.polysub(raised, beta * previous) / next_beta
            previous, current, beta = current, raised, next_beta
            total = poly.polyadd(total, c * current)
        total = np.pad(total, (0, self.degree + 1 - len(total)))
        with np.errstate(over="ignore"):
            return total / self.bound ** np.arange(self.degree + 1.0)

    def _orthonormal(self) -> NDArray[np.float64]:
        """Orthonormal polynomials of t = x / B times exp(-x), by the three-term recurrence."""
        t = self.x / self.bound
        first = np.exp(-self.x - self.bound)
        self.norm = float(np.linalg.norm(first))
        rows = [first / self.norm]
        beta = 0.0
        for k in range(self.degree):
            raised = t * rows[-1]
            alpha = float(raised @ rows[-1])
            raised -= alpha * rows[-1]
            if k:
                raised -= beta * rows[-2]
            beta = float(np.linalg.norm(raised))
            self.steps.append((alpha, beta))
            rows.append(raised / beta)
        return np.array(rows)

    def _basis(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        t = x / self.bound
        rows = [np.exp(-x - self.bound) / self.norm]
        beta = 0.0
        for k, (alpha, next_beta) in enumerate(self.steps):
            raised = (t - alpha) * rows[-1] - (beta * rows[-2] if k else 0.0)
            rows.append(raised / next_beta)
            beta = next_beta
        return np.array(rows)

    def _extrema(self, residual: NDArray[np.float64]) -> NDArray[np.float64]:
        """One place of largest residual between changes of sign, `degree` + 2 of them."""
        edges = np.flatnonzero(np.diff(np.signbit(residual))) + 1
        size = np.abs(residual)
        pieces = np.split(np.arange(len(size)), edges)
        peaks = [int(piece[np.argmax(size[piece])]) for piece in pieces]
        while len(peaks) > self.degree + 2:
            peaks.pop(0 if size[peaks[0]] < size[peaks[-1]] else -1)
        return np.array([self._refined(i, size) for i in peaks])

    def _refined(self, i: int, size: NDArray[np.float64]) -> float:
        """The top of the parabola through a grid point and its neighbours, in the grid's angle."""
        if i in (0, len(size) - 1):
            return float(self.x[i])
        left, middle, right = size[i - 1 : i + 2]
        curvature = left - 2 * middle + right
        shift = 0.0 if curvature >= 0 else 0.5 * (left - right) / curvature
        angle = math.pi * (i + np.clip(shift, -1, 1)) / (len(size) - 1)
        return -self.bound * math.cos(angle)
