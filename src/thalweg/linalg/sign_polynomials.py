"""Short chains of odd polynomials that push singular values towards one.

Matrix products are what accelerators do fast, so a polar factor is computed as a composition of odd
polynomials, each of which acts on the singular values. The best composition of a given length is
greedy: every polynomial is the minimax approximation of one on the interval that its predecessors
left. The schedules made here feed `polar_factor`, `matrix_sign` and `thalweg.descent.Muon`.

A schedule is an array of shape (steps, q + 1); row t holds the coefficients of x, x^3, ...,
x^(2q + 1).

Source: "The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon
Algorithm" (2025), arXiv 2505.16932.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from numpy.polynomial import polynomial as poly
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_option, check_real

PAPER_CUSHION = 0.02407327424182761
PAPER_SAFETY = 1.01
MAX_DEGREE = 21

_FIXED = {
    "newton-schulz-3": ((3 / 2, -1 / 2),),
    "newton-schulz-5": ((15 / 8, -10 / 8, 3 / 8),),
    "jordan": ((3.4445, -4.7750, 2.0315),),
    "you": tuple(
        (a / 1024, b / 1024, c / 1024)
        for a, b, c in (
            (3955, -8306, 5008),
            (3735, -6681, 3463),
            (3799, -6499, 3211),
            (4019, -6385, 2906),
            (2677, -3029, 1162),
            (2172, -1833, 682),
        )
    ),
}
SCHEDULE_NAMES = ("polar-express", *_FIXED)


def minimax_odd_polynomial(
    lower: float, upper: float, degree: int = 5
) -> tuple[NDArray[np.float64], float]:
    """Return the odd polynomial nearest to one on an interval of positive numbers.

    It minimises ``max |1 - p(x)|`` over ``lower <= x <= upper``. Degree 3 has a closed form; higher
    degrees are found by Remez exchange.

    Parameters
    ----------
    lower, upper : float
        The interval, ``0 < lower <= upper``.
    degree : int, default 5
        An odd number up to 21; beyond, coefficients of powers lose their digits.

    Returns
    -------
    coefficients : ndarray of shape ((degree + 1) / 2,)
        Of x, x^3, ..., x^degree.
    error : float
        The largest distance to one on the interval.

    Raises
    ------
    ValueError
        If the interval is empty or not positive, or the degree is even.

    References
    ----------
    "The Polar Express" (2025), arXiv 2505.16932, Theorem 3.1 and Appendix on the Remez algorithm.

    Examples
    --------
    >>> p, error = minimax_odd_polynomial(1e-3, 1.0)
    >>> p.round(2)
    array([  8.47, -25.11,  18.63])
    >>> round(error, 4)
    0.9915
    """
    lower, upper = _check_interval(lower, upper)
    half = _check_degree(degree) // 2
    ratio = lower / upper
    if half == 1:
        scaled, error = _cubic(ratio)
    elif (1 - ratio * ratio) ** (half + 1) <= 1e-15:
        scaled = _taylor(half)
        error = float(abs(1 - poly.polyval(ratio**2, scaled) * ratio))
    else:
        scaled, error = _remez(ratio, half)
    return scaled / upper ** np.arange(1, 2 * half + 2, 2), error


def polar_express_schedule(
    n_iter: int,
    lower: float = 1e-3,
    degree: int = 5,
    cushion: float = PAPER_CUSHION,
    safety: float = PAPER_SAFETY,
) -> NDArray[np.float64]:
    """Return the optimal schedule of `n_iter` odd polynomials for singular values in [`lower`, 1].

    Parameters
    ----------
    n_iter : int
        Number of polynomials.
    lower : float, default 1e-3
        Least singular value that counts, ``0 < lower <= 1``. Smaller ones converge more slowly.
    degree : int, default 5
        Degree of each polynomial, odd.
    cushion : float, default 0.0241 (the paper's published table)
        Each polynomial is made for an interval whose ends differ by at most this factor, and then
        recentred. It bounds the slope at zero, and so the growth of round-off.
    safety : float, default 1.01
        All polynomials but the last take x / `safety`: room for round-off beyond one.
        ``cushion=0, safety=1`` is the optimum of exact arithmetic.

    Returns
    -------
    ndarray of shape (n_iter, (degree + 1) / 2)
        The coefficients of x, x^3, ... in each row.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Notes
    -----
    The recentring divides by the middle of the polynomial's range, which the paper's degree 5
    attains at the ends of the interval; here this holds for every degree.

    References
    ----------
    "The Polar Express" (2025), arXiv 2505.16932, Algorithm 1 and its published coefficients.

    Examples
    --------
    >>> polar_express_schedule(8, safety=1).round(4)[0]
    array([  8.2872, -23.5959,  17.3004])
    """
    n_iter = check_count("n_iter", n_iter)
    low = check_real("lower", lower, above=0, at_most=1)
    half = _check_degree(degree) // 2
    cushion = check_real("cushion", cushion, at_least=0, below=1)
    safety = check_real("safety", safety, at_least=1)
    return _polar_express(n_iter, low, half, cushion, safety).copy()


def named_schedule(name: str, n_iter: int) -> NDArray[np.float64]:
    """Return `n_iter` steps of a schedule known by name.

    Parameters
    ----------
    name : {"polar-express", "newton-schulz-3", "newton-schulz-5", "jordan", "you"}
        `polar_express_schedule` with its defaults; Newton-Schulz of degree 3 and 5; the one
        polynomial of Keller Jordan's Muon, which oscillates between about 0.68 and 1.13 and does
        not converge; the six polynomials of You Jiacheng.
    n_iter : int
        Number of steps. Beyond the end of a table its last row repeats.

    Returns
    -------
    ndarray of shape (n_iter, q + 1)
        The schedule.

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> named_schedule("newton-schulz-3", 2)
    array([[ 1.5, -0.5],
           [ 1.5, -0.5]])
    """
    n_iter = check_count("n_iter", n_iter)
    if check_option("name", name, SCHEDULE_NAMES) == "polar-express":
        return polar_express_schedule(n_iter)
    table = np.array(_FIXED[name])
    return table[np.minimum(np.arange(n_iter), len(table) - 1)]


def compose_schedule(schedule: ArrayLike, x: ArrayLike) -> NDArray[np.float64]:
    """Return the values of the composed polynomials, first row first.

    Parameters
    ----------
    schedule : array_like of shape (steps, q + 1)
        Coefficients of x, x^3, ... in each row.
    x : array_like
        Where.

    Returns
    -------
    ndarray of the shape of `x`
        What becomes of singular values `x`; infinite where it is beyond the floating range, as
        values well above one soon are.

    Examples
    --------
    >>> compose_schedule(named_schedule("newton-schulz-3", 2), [0.0, 0.5, 1.0])
    array([0.        , 0.86877441, 1.        ])
    """
    rows = check_schedule(schedule)
    values = check_array("x", x)
    for row in rows:
        values = _evaluate(row, values)
    return values


def worst_case_error(schedule: ArrayLike, lower: float, upper: float = 1.0) -> float:
    """Return the largest distance to one that a schedule leaves on [`lower`, `upper`].

    Exact: the interval is carried through each polynomial by its ends and its extrema.

    Parameters
    ----------
    schedule : array_like of shape (steps, q + 1)
        Coefficients of x, x^3, ... in each row.
    lower, upper : float, default upper=1
        The interval of the singular values at the start.

    Returns
    -------
    float
        ``max |1 - p_T(...p_1(x))|``.

    Examples
    --------
    >>> round(worst_case_error(polar_express_schedule(5, cushion=0, safety=1), 1e-3), 4)
    0.1134
    """
    rows = check_schedule(schedule)
    low, high = _check_interval(lower, upper)
    for row in rows:
        inside = _critical_points(row)
        inside = inside[(inside > low) & (inside < high)]
        values = _evaluate(row, np.concatenate(([low, high], inside)))
        low, high = float(values.min()), float(values.max())
    return max(abs(1 - low), abs(1 - high))


def convergence_bound(lower: float, n_iter: int, degree: int = 5) -> float:
    """Return the proven bound on the error of the optimal schedule on [`lower`, 1].

    It is ``(1 - lower^2) ^ ((degree + 1) / 2) ^ n_iter``: quadratic for degree 3, cubic for 5.

    Parameters
    ----------
    lower : float
        Least singular value, ``0 < lower <= 1``.
    n_iter : int
        Number of polynomials.
    degree : int, default 5
        Their degree, odd.

    Returns
    -------
    float
        The bound.

    References
    ----------
    "The Polar Express" (2025), arXiv 2505.16932, the theorem on the rate.

    Examples
    --------
    >>> round(convergence_bound(0.1, 5), 4)
    0.087
    """
    lower = check_real("lower", lower, above=0, at_most=1)
    n_iter = check_count("n_iter", n_iter, at_least=0)
    exponent = float(_check_degree(degree) // 2 + 1) ** n_iter
    return 0.0 if lower == 1 else math.exp(exponent * math.log1p(-lower * lower))


def check_schedule(schedule: ArrayLike) -> NDArray[np.float64]:
    """Return `schedule` as an array with steps along its rows; ValueError otherwise."""
    rows = check_array("schedule", schedule, ndim=2)
    if not rows.size:
        raise ValueError(f"schedule must have a row and a column at least, got shape {rows.shape}")
    return rows


def _check_interval(lower: float, upper: float) -> tuple[float, float]:
    lower = check_real("lower", lower, above=0)
    return lower, check_real("upper", upper, at_least=lower)


def _check_degree(degree: int) -> int:
    degree = check_count("degree", degree, at_most=MAX_DEGREE)
    if degree % 2 == 0:
        raise ValueError(f"degree must be odd, got {degree!r}")
    return degree


def _evaluate(row: NDArray[np.float64], x: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(x)
    total = row[-1]
    with np.errstate(over="ignore"):
        for coefficient in row[-2::-1]:
            total = total * (x * x) + coefficient
        return x * total


def _critical_points(row: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positive zeros of the derivative."""
    squares = poly.polyroots(poly.polytrim(row * np.arange(1, 2 * len(row), 2)))
    real = squares.real[np.abs(squares.imag) <= 1e-7 * np.abs(squares)]
    return np.sqrt(real[real > 0])


@lru_cache
def _polar_express(
    n_iter: int, low: float, half: int, cushion: float, safety: float
) -> NDArray[np.float64]:
    rows = np.empty((n_iter, half + 1))
    high = 1.0
    for t in range(n_iter):
        row, error = minimax_odd_polynomial(max(low, cushion * high), high, 2 * half + 1)
        image_of_low = float(_evaluate(row, low))
        if low < cushion * high:
            centre = (image_of_low + 1 + error) / 2
            row, low = row / centre, image_of_low / centre
        else:
            low = 1 - error
        rows[t] = row
        low = min(low, 1.0)
        high = 2 - low
    rows[:-1] /= safety ** np.arange(1, 2 * half + 2, 2)
    return rows


def _cubic(low: float) -> tuple[NDArray[np.float64], float]:
    """Closed form of degree 3 on [low, 1]."""
    alpha = math.sqrt(3 / (1 + low + low * low))
    beta = 4 / (2 + low * (1 + low) * alpha**3)
    row = beta * np.array([1.5 * alpha, -0.5 * alpha**3])
    return row, beta - 1


def _taylor(half: int) -> NDArray[np.float64]:
    """The limit of a vanishing interval at one: x times the series of y^(-1/2) around y = 1."""
    total = np.zeros(half + 1)
    power: NDArray[Any] = np.ones(1)
    for k in range(half + 1):
        total[: k + 1] += math.comb(2 * k, k) / 4**k * power
        power = poly.polymul(power, [1.0, -1.0])
    return total


def _remez(low: float, half: int) -> tuple[NDArray[np.float64], float]:
    """Remez exchange for x h(x^2) on [low, 1], h in Chebyshev polynomials of x^2.

    A chain of equal errors of alternating sign at half + 2 points proves optimality. The
    derivative has exactly half positive zeros, so the interior points are all exchanged at once.
    """
    middle, radius = (1 + low * low) / 2, (1 - low * low) / 2
    nodes = (1 + low) / 2 - (1 - low) / 2 * np.cos(np.pi * np.arange(half + 2) / (half + 1))
    signs = (-1.0) ** np.arange(half + 2)
    slope, t_slope, powers = _chebyshev_matrices(half)
    to_derivative = np.eye(half + 1) + 2 * (middle / radius * slope + t_slope)
    previous = math.inf
    for _ in range(100):
        t = (nodes * nodes - middle) / radius
        basis = np.cos(np.arange(half + 1) * np.arccos(np.clip(t, -1, 1))[:, None])
        system = np.column_stack((nodes[:, None] * basis, signs))
        solution = np.linalg.solve(system, np.ones(half + 2))
        coefficients, error = solution[:-1], float(solution[-1])
        if abs(error - previous) <= 1e-15:
            break
        previous = error
        roots = np.sort(chebyshev.chebroots(to_derivative @ coefficients).real)
        nodes[1:-1] = np.sqrt(np.clip(middle + radius * roots, low * low, 1))
    row = np.zeros(half + 1)
    for c in (powers @ coefficients)[::-1]:
        row = np.concatenate(([0.0], row[:-1])) / radius - middle / radius * row
        row[0] += c
    return row, abs(error)


@lru_cache
def _chebyshev_matrices(half: int) -> tuple[NDArray[np.float64], ...]:
    """What takes Chebyshev coefficients of h to those of h', of t h', and to powers of t."""
    slope, t_slope, powers = np.zeros((3, half + 1, half + 1))
    for k, unit in enumerate(np.eye(half + 1)):
        derivative = chebyshev.chebder(unit)
        times_t = chebyshev.chebmulx(derivative)[: half + 1]
        slope[: len(derivative), k] = derivative
        t_slope[: len(times_t), k] = times_t
        powers[: k + 1, k] = chebyshev.cheb2poly(unit[: k + 1])
    return slope, t_slope, powers
