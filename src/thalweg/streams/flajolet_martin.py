"""The exact law of Flajolet-Martin registers, and proved intervals for the number behind them.

A register keeps the largest of N exponential variables (or its whole multiples of log b). The mean
of L registers says what N is; how far it may stray is bounded, for every N and L, by Chernoff's
inequality with the exact moment generating function, a Beta function. For large N the law is
Gumbel's.

Source: "Analytical confidence intervals for the number of different objects in data streams"
(2019), arXiv 1909.11564; the formulas below are derived from the model stated there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import betainc, betaln, digamma, gammaln

from thalweg._validation import check_array, check_count, check_option, check_real

Floats = NDArray[np.float64]

AVERAGING = ("independent", "stochastic")
GUMBEL_SD = math.pi / math.sqrt(6)
_STIRLING_FROM = 100.0
_LARGEST_LOG_COUNT = 60.0  # 1e26 items: more than 64-bit hashes can tell apart
_TINY = 1e-280


def log_mgf(
    s: ArrayLike,
    n: float,
    *,
    n_registers: int = 1,
    averaging: str = "independent",
    base: float | None = None,
) -> Floats:
    r"""Return the log moment generating function of a register that saw n distinct items.

    Continuous registers X that see every item have
    :math:`M(s) = \Gamma(1-s) \Gamma(n+1) / \Gamma(n+1-s)`; those that see each item with
    probability 1/L, :math:`M(s) = (1-1/L)^n + L^{-s} n B(1-s, n) I_{1/L}(1-s, n)`, an empty
    register counting as 0. In base b the register is :math:`\lfloor X / \log b \rfloor` and M a
    sum.

    Parameters
    ----------
    s : array_like
        Arguments, below 1 (continuous) or log b.
    n : float
        Number of distinct items, >= 1; it may be fractional.
    n_registers : int, default 1
        L; it matters for stochastic averaging.
    averaging : {"independent", "stochastic"}, default "independent"
        Whether every register sees every item or each item goes to one register.
    base : float, optional
        b > 1; None is the continuous register.

    Returns
    -------
    ndarray
        log M(s), of the shape of `s`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed or M(s) is infinite.

    References
    ----------
    "Analytical confidence intervals for the number of different objects in data streams", 2019,
    arXiv 1909.11564.

    Examples
    --------
    >>> log_mgf([0.0, 0.5], 1).round(4)  # one item: an exponential variable, M(s) = 1 / (1 - s)
    array([0.    , 0.6931])
    """
    share = _check_law(n_registers, averaging, base)
    n = check_real("n", n, at_least=1)
    s = check_array("s", s)
    pole, name = (1.0, "1") if base is None else (math.log(base), "log(base)")
    if np.any(s >= pole):
        raise ValueError(f"s must be < {name} = {pole:g}, got {s.max()}")
    return np.asarray(_log_mgf_at(n, share, base)(s))


def chernoff_exponent(
    mean: float,
    n: float,
    *,
    n_registers: int = 1,
    averaging: str = "independent",
    base: float | None = None,
) -> tuple[float, float]:
    r"""Return the rates at which the mean of registers avoids a value.

    With :math:`\Lambda^*(m) = \sup_s\, s m - \log M(s)`, the probability that the mean of L
    registers is on m's side of its expectation, as far away or farther, is at most
    :math:`\exp(-L \Lambda^*(m))`. Under stochastic averaging registers depend on each other; their
    numbers of items are negatively associated and :math:`e^{sX}` is monotone in them, so
    the expectation of the product is at most the product and the bound stands.

    Parameters
    ----------
    mean : float
        m, >= 0.
    n, n_registers, averaging, base
        As in `log_mgf`.

    Returns
    -------
    upper, lower : float
        The exponent of P(mean >= m) if m is above the expectation, of P(mean <= m) if below; 0 for
        the other side.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Examples
    --------
    >>> upper, lower = chernoff_exponent(10.0, 1000)
    >>> round(upper, 3), lower
    (1.076, 0.0)
    """
    share = _check_law(n_registers, averaging, base)
    n = check_real("n", n, at_least=1)
    mean = check_real("mean", mean, at_least=0)
    upper = mean > expected_register(n, share, base)
    exponent = _exponent(mean, n, share, base, upper=upper)
    return (exponent, 0.0) if upper else (0.0, exponent)


def chernoff_interval(
    mean: float,
    n_registers: int,
    level: float = 0.95,
    *,
    averaging: str = "independent",
    base: float | None = None,
    nonempty: int = 1,
) -> tuple[float, float]:
    r"""Return an interval for the number of distinct items, of proved coverage for every n and L.

    It holds every n for which the Chernoff bound on the side of the observed mean is at least
    :math:`\alpha / 2`, :math:`\alpha = 1 -` `level`.

    Parameters
    ----------
    mean : float
        Mean of the registers, an empty one counting as 0.
    n_registers : int
        Their number L.
    level : float, default 0.95
        The coverage is at least this.
    averaging, base
        As in `log_mgf`.
    nonempty : int, default 1
        How many registers saw an item: so many items there are at least under stochastic
        averaging.

    Returns
    -------
    low, high : float
        The ends.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "Analytical confidence intervals for the number of different objects in data streams", 2019,
    arXiv 1909.11564.

    Examples
    --------
    >>> low, high = chernoff_interval(mean=7.5, n_registers=1024)
    >>> round(low), round(high)
    (908, 1129)
    """
    share = _check_law(n_registers, averaging, base)
    mean = check_real("mean", mean, at_least=0)
    level = check_real("level", level, above=0, below=1)
    nonempty = check_count("nonempty", nonempty, at_least=0, at_most=n_registers)
    least = float(max(1, nonempty if averaging == "stochastic" else 1))
    needed = math.log(2 / (1 - level)) / n_registers
    centre = math.log(count_of_mean(mean, share, base))

    def excess(log_n: float, *, upper: bool) -> float:
        return _exponent(mean, math.exp(log_n), share, base, upper=upper) - needed

    step = 1.02 * GUMBEL_SD * math.sqrt(2 * needed)
    low = _crossing(partial(excess, upper=True), centre, -step)
    high = _crossing(partial(excess, upper=False), centre, step)
    return max(least, math.exp(low)), max(least, math.exp(high))


def required_registers(rel_err: float, level: float = 0.95) -> int:
    r"""Return the least number of registers for which both ends lie within a relative error.

    In the Gumbel limit, for the mean at its expectation; to first order
    :math:`2 (\pi^2/6) \log(2/\alpha) / \log(1 + \text{rel\_err})^2`.

    Parameters
    ----------
    rel_err : float
        The ends lie in ``(1 - rel_err) n`` to ``(1 + rel_err) n``; in (0, 1).
    level : float, default 0.95
        Level of the interval.

    Returns
    -------
    int
        The number of registers.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Examples
    --------
    >>> required_registers(0.1)
    1299
    """
    rel_err = check_real("rel_err", rel_err, above=0, below=1)
    level = check_real("level", level, above=0, below=1)
    rates = [_gumbel_exponent(-math.log1p(-rel_err)), _gumbel_exponent(-math.log1p(rel_err))]
    return math.ceil(math.log(2 / (1 - level)) / min(rates))


def expected_register(n: float, share: float = 1.0, base: float | None = None) -> float:
    """Return the expectation of a register that sees each of n items with probability `share`.

    Examples
    --------
    >>> round(expected_register(3), 4)  # 1 + 1/2 + 1/3
    1.8333
    """
    if base is None and share == 1.0:
        return float(digamma(n + 1) + np.euler_gamma)
    if base is not None:
        k, tail = _levels(n, share, base)
        reached = -np.expm1(n * np.log1p(-share * base ** -(k[:-1] + 1)))
        return float(reached.sum() + tail / (base - 1))
    begin = max(0.0, math.log(n * share) - 4.5)
    end = max(0.0, math.log(n * share)) + 20.0
    x = begin + (end - begin) * (_NODES + 1) / 2
    above = -np.expm1(n * np.log1p(-share * np.exp(-x)))
    return float(begin + (end - begin) / 2 * (_WEIGHTS @ above) + n * share * math.exp(-end))


def count_of_mean(mean: float, share: float = 1.0, base: float | None = None) -> float:
    """Return the number of items, at least 1, at which registers are expected to have this mean.

    Examples
    --------
    >>> round(count_of_mean(1 + 1 / 2 + 1 / 3), 6)
    3.0
    """

    def excess(log_n: float) -> float:
        return expected_register(math.exp(log_n), share, base) - mean

    if excess(0.0) >= 0:
        return 1.0
    unit = 1.0 if base is None else math.log(base)
    guess = max(0.0, mean * unit - np.euler_gamma - math.log(share))
    low, high, step = max(0.0, guess - 0.1), guess + 0.1, 0.2
    while low > 0 and excess(low) > 0:
        low, step = max(0.0, low - step), 2 * step
    while excess(high) < 0 and high < _LARGEST_LOG_COUNT:
        high, step = high + step, 2 * step
    return math.exp(brentq(excess, low, high, xtol=1e-13, rtol=1e-14))


def _check_law(n_registers: int, averaging: str, base: float | None) -> float:
    """Return the share of items that a register sees."""
    check_option("averaging", averaging, AVERAGING)
    n_registers = check_count(
        "n_registers", n_registers, at_least=2 if averaging == "stochastic" else 1
    )
    if base is not None:
        check_real("base", base, above=1)
    return 1.0 if averaging == "independent" else 1.0 / n_registers


def _log_mgf_at(n: float, share: float, base: float | None) -> Callable[[Floats], Floats]:
    """Return log M as a function of s for one n."""
    if base is not None:
        return _log_mgf_of_levels(n, share, base)
    if share == 1.0:
        return lambda s: _log_gamma_ratio(n, s)
    log_empty, log_share = n * math.log1p(-share), math.log(share)

    def stochastic(s: Floats) -> Floats:
        inside = betainc(1 - s, n, share)
        tiny = inside < _TINY
        seen = s * log_share + _log_gamma_ratio(n, s) + np.log(np.where(tiny, 1.0, inside))
        if np.any(tiny):
            seen = np.where(tiny, _log_seen(np.where(tiny, s, -np.inf), n, share), seen)
        return np.logaddexp(log_empty, seen)

    return stochastic


def _log_gamma_ratio(n: float, s: Floats) -> Floats:
    """Return log of Gamma(1-s) Gamma(n+1) / Gamma(n+1-s), by Stirling's series for large n."""
    if n < _STIRLING_FROM:
        return math.log(n) + betaln(1 - s, n)
    rest = n - s
    return (
        gammaln(1 - s)
        + s * (math.log(n) - 1)
        - (rest + 0.5) * np.log1p(-s / n)
        + _stirling(n)
        - _stirling(rest)
    )


def _stirling(z: Floats | float) -> Floats | float:
    return (1 - (1 - (2 / 7) / (z * z)) / (30 * z * z)) / (12 * z)


def _log_seen(s: Floats, n: float, share: float) -> Floats:
    """Return the log of the part of M without the atom, where its incomplete Beta underflows.

    There the terms of its hypergeometric series fall from the first on.
    """
    total = term = np.ones_like(s, dtype=float)
    k = 0
    while np.any(term > 1e-17 * total):
        term = term * share * np.where(np.isinf(s), 0.0, 1 + (n - 1) / (2 - s + k))
        total = total + term
        k += 1
    return math.log(n * share) + n * math.log1p(-share) - np.log(1 - s) + np.log(total)


def _levels(n: float, share: float, base: float) -> tuple[Floats, float]:
    """Return the values of a register in base b that matter, and P(R > the last) to first order."""
    log_b = math.log(base)
    last = math.ceil((max(0.0, math.log(n * share)) + 40.0) / log_b)
    return np.arange(last + 1, dtype=float), n * share * base ** -(last + 1.0)


def _log_mgf_of_levels(n: float, share: float, base: float) -> Callable[[Floats], Floats]:
    log_b = math.log(base)
    k, tail = _levels(n, share, base)
    log_below = n * np.log1p(-share * base ** -(k + 1))
    with np.errstate(divide="ignore"):
        log_step = np.log(-np.expm1(log_below[:-1] - log_below[1:])) + log_below[1:]
    log_p = np.concatenate([log_below[:1], log_step])
    log_tail, first = math.log(tail) + math.log1p(-1 / base), len(k)

    def log_mgf_of(s: Floats) -> Floats:
        terms = s[..., None] * k + log_p
        largest = terms.max(axis=-1)
        within = largest + np.log(np.exp(terms - largest[..., None]).sum(axis=-1))
        return np.logaddexp(within, log_tail + s * first - np.log(-np.expm1(s - log_b)))

    return log_mgf_of


def _exponent(mean: float, n: float, share: float, base: float | None, *, upper: bool) -> float:
    """Return the largest s m - log M(s) over s > 0 for the upper side, s < 0 for the lower."""
    log_mgf_of = _log_mgf_at(n, share, base)
    pole = 1.0 if base is None else math.log(base)
    return _largest(lambda s: s * mean - log_mgf_of(s), pole, upper=upper)


def _gumbel_exponent(shift: float) -> float:
    """Return the exponent at a mean `shift` above the expectation, in the Gumbel limit."""
    mean = shift + np.euler_gamma
    return _largest(lambda s: s * mean - gammaln(1 - s), 1.0, upper=shift > 0)


def _largest(gain: Callable[[Floats], Floats], pole: float, *, upper: bool) -> float:
    """Return the maximum of a concave function that is 0 at 0: grids, then a parabola.

    It lies in (0, pole) on the upper side, in (-infinity, 0) on the lower.
    """
    fours: Floats = np.power(4.0, np.arange(-6, 1), dtype=np.float64)
    reaches = pole * fours * (1 - 1e-9 if upper else -1)
    best = int(np.argmax(gain(reaches)))
    while not upper and best == len(reaches) - 1 and reaches[-1] > -1e12:
        reaches = reaches[-2] / fours[0] * fours
        best = int(np.argmax(gain(reaches)))
    outer = reaches[min(best + 1, len(reaches) - 1)]
    inner = reaches[best - 1] if best > 0 else 0.0
    low, high = sorted((float(inner), float(outer)))
    for _ in range(4):
        s = np.linspace(low, high, 13)
        values = gain(s)
        i = min(max(int(np.argmax(values)), 1), 11)
        low, high = s[i - 1], s[i + 1]
    left, middle, right = values[i - 1 : i + 2]
    bend = 2 * middle - left - right
    within = bend > 0 and abs(right - left) <= 2 * bend
    peak = middle + (right - left) ** 2 / (8 * bend) if within else values.max()
    return max(0.0, float(peak))


def _crossing(excess: Callable[[float], float], centre: float, step: float) -> float:
    """Return where, in log n, the exponent has grown to what is needed; 0 if n = 1 does not."""
    if centre == 0.0 and excess(0.0) >= 0:
        return 0.0
    inner, outer = centre, max(0.0, centre + step)
    while excess(outer) < 0:
        if outer == 0.0 or outer > _LARGEST_LOG_COUNT:
            return outer
        step *= 2
        inner, outer = outer, max(0.0, centre + step)
    if inner == outer:
        return outer
    return float(brentq(excess, *sorted((inner, outer)), xtol=1e-13, rtol=1e-14))


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
