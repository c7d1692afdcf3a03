"""Formulas of the convergence bounds, derived anew; `_theorems` says what each is about.

A formula gets the numbers of steps T (an array), the `Steps` of the run and the `Constants`, and
returns bounds; where it says nothing (T = 0 of a bound that falls like 1 / T, a step for which its
denominator is not positive) it returns inf.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from thalweg.descent._constants import Constants

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class Steps:
    """Step lengths of a run: one number for all, or an array of one a step."""

    def __init__(self, value: float | Floats | None) -> None:
        self.array = None if value is None or np.ndim(value) == 0 else np.asarray(value, float)
        if self.array is None:
            self.first = math.nan if value is None else float(value)
        else:
            self.first = float(self.array[0]) if len(self.array) else math.nan

    def sums(self, T: Counts, power: int = 1) -> Floats:
        """Return the sums of the first T steps, each to a power."""
        if self.array is None:
            return np.asarray(T * self.first**power, dtype=np.float64)
        sums: Floats = np.concatenate([[0.0], np.cumsum(self.array**power)])[T]
        return sums


def switch_time(c: Constants) -> int:
    """Return the step at which ``sgd-strong-switch`` begins to decrease its steps."""
    return 4 * math.ceil(c.L_max / c.mu)


def over(numerator: float | Floats, denominator: Floats) -> Floats:
    """Return a quotient, inf where the denominator is not positive."""
    safe = np.where(denominator > 0, denominator, 1.0)
    return np.where(denominator > 0, numerator / safe, np.inf)


def power(rate: float, T: Counts) -> Floats:
    power: Floats = np.power(max(rate, 0.0), T, dtype=float)
    return power


def floor(epsilon: float, per_step: float) -> float:
    """Return the step at which a noise floor of `per_step` times it is half of epsilon."""
    return epsilon / (2 * per_step) if per_step > 0 else math.inf


def inverse(value: float) -> float:
    return 1 / value if value > 0 else math.inf


def sublinear(T, s, c):
    return over(c.dist0_sq, 2 * s.sums(T))


def linear(T, s, c):
    return power(1 - s.first * c.mu, T) * c.dist0_sq


def pl_constant(c):
    return c.mu if c.pl is None else c.pl


def gd_pl(T, s, c):
    return power(1 - s.first * pl_constant(c), T) * c.gap0


def gd_nonconvex(T, s, c):
    return over(2 * c.gap0, s.sums(T))


def sgd_convex(T, s, c):
    squares = s.sums(T, 2)
    weights = s.sums(T) - 2 * c.L_max * squares
    return over(c.dist0_sq / 2 + c.sigma_star_sq * squares, weights)


def sgd_strong(T, s, c):
    return linear(T, s, c) + 2 * s.first * c.sigma_star_sq / c.mu


def sgd_strong_switch(T, s, c):
    switch = switch_time(c)
    noise = 8 * c.sigma_star_sq / (c.mu**2 * np.maximum(T, 1))
    start = switch**2 * c.dist0_sq / (math.e * np.maximum(T, 1)) ** 2
    return np.where(switch <= T, noise + start, np.inf)


def sgd_pl(T, s, c):
    return gd_pl(T, s, c) + s.first * c.L * c.L_max * c.delta_star / pl_constant(c)


def sgd_pl_step(c, epsilon):
    return floor(epsilon, c.L * c.L_max * c.delta_star / pl_constant(c))


def sgd_nonconvex(T, s, c):
    growth = np.exp(T * math.log1p(c.L * c.L_max * s.first**2))
    return over(growth * c.gap0, s.sums(T)) + c.L * c.L_max * s.first * c.delta_star


def nonconvex_step(c, epsilon):
    smooth = c.L * c.L_max
    start = inverse(math.sqrt(smooth)), inverse(4 * math.e * smooth * c.gap0 / epsilon)
    return min(*start, floor(epsilon, smooth * c.delta_star))


def sgdm_convex(T, s, c):
    return c.dist0_sq / (s.first * (T + 1)) + 2 * s.first * c.sigma_star_sq


def subgrad_convex(T, s, c):
    return over(c.dist0_sq + c.G**2 * s.sums(T, 2), 2 * s.sums(T))


def subgrad_bounded(T, s, c):
    return over(c.diameter**2 / (2 * s.first) + s.first * c.G**2, np.sqrt(T))


def subgrad_strong(T, s, c):
    return np.where(T > 0, 2 * c.G**2 / (c.mu * (T + 1)), np.inf)


def sprox_convex(T, s, c):
    room = 1 - 4 * s.first * c.L_max
    start = (c.dist0_sq + 2 * s.first * c.gap0) / 2
    return over(start + 2 * c.sigma_star_sq * s.sums(T, 2), room * s.sums(T))


def sps_lipschitz(T, s, c):
    return over(c.G * math.sqrt(c.dist0_sq), np.sqrt(T))


def sps_smooth(T, s, c):
    return over(2 * c.L_max * c.dist0_sq, T.astype(float))


def sps_strong(T, s, c):
    return power(1 - c.mu / (4 * c.L_max), T) * c.dist0_sq


def spp_lipschitz(T, s, c):
    return over(c.dist0_sq, 2 * s.sums(T)) + s.first * c.G**2 / 2


def spp_strong(T, s, c):
    # q / (1 - q) without the cancellation that 1 - q has for a small step
    growth = s.first * c.mu_min * (2 + s.first * c.mu_min)
    return power(1 / (1 + growth), T) * c.dist0_sq + s.first**2 * c.sigma_star_sq / growth


def spp_strong_step(c, epsilon):
    room = c.sigma_star_sq - epsilon * c.mu_min**2 / 2
    return epsilon * c.mu_min / room if room > 0 else math.inf


def subgrad_step(c, epsilon):
    return epsilon / c.G**2 if c.G > 0 else math.inf
