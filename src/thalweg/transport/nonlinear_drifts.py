"""Families of drifts that are not linear in their parameters: a gene circuit and an eddy.

Source: "Multi-marginal Schrödinger Bridges with Iterative Reference Refinement" (2024), arXiv
2408.06277, section 5 and appendix, for the families.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear
from scipy.special import expit

from thalweg.transport.drift_families import INITIAL_RATE, DriftFamily

Floats: TypeAlias = NDArray[np.float64]
SMALLEST_CONCENTRATION = 1e-8
"""Concentrations below are raised to this inside a Hill function, as published."""


class Repressilator(DriftFamily):
    """Three genes in a ring, each repressing the next.

    ``dx_i = beta / (1 + (x_{i-1} / k)^n) - gamma x_i``; parameters are (beta, n, k, gamma), all
    positive. The fit starts from the best of several (n, k), for which beta and gamma follow by
    linear least squares.

    Examples
    --------
    >>> import numpy as np
    >>> Repressilator().drift(np.array([10.0, 3.0, 1.0, 1.0]), 0.0, np.array([[1.0, 2.0, 1.0]]))
    array([[4.        , 3.        , 0.11111111]])
    """

    names = ("beta", "n", "k", "gamma")
    dim = 3
    nonnegative = (True, True, True, True)

    def drift(self, params: Floats, t: Any, x: Floats) -> Floats:
        """Return the rates of change (n, 3)."""
        beta, n, k, gamma = params
        return beta * _hill(x, n, k) - gamma * x

    def jacobian(self, params: Floats, t: Any, x: Floats) -> Floats:
        """Return the derivatives by beta, n, k and gamma, (n, 3, 4)."""
        beta, n, k, _ = params
        on = _hill(x, n, k)
        slope = beta * on * (1 - on)
        return np.stack([on, -slope * _log_ratio(x, k), slope * n / k, -x], axis=2)

    def init(self) -> Floats:
        """Return rates of 1e-5 around a Hill function with n = k = 1."""
        return np.array([INITIAL_RATE, 1.0, 1.0, INITIAL_RATE])

    def _starts(self, start: Floats, t: Floats, x: Floats, velocity: Floats) -> Iterable[Floats]:
        thresholds = np.quantile(np.maximum(x, SMALLEST_CONCENTRATION), [0.15, 0.4, 0.65])
        shapes = [(float(start[1]), float(start[2]))]
        shapes += [(n, float(k)) for n in (1.0, 2.0, 4.0) for k in thresholds]
        for n, k in shapes:
            design = np.stack([_hill(x, n, k), -x], axis=2).reshape(-1, 2)
            beta, gamma = lsq_linear(design, velocity.ravel(), (0, np.inf)).x
            yield np.array([beta, n, k, gamma])


class Vortex(DriftFamily):
    """One eddy in the plane: solid rotation in its core, fading as 1/distance outside.

    ``b(x) = strength J (x - centre) / (1 + |x - centre|^2 / radius^2)``, J the quarter turn to the
    left; parameters are (strength, centre[0], centre[1], radius). The profile is chosen here.

    Examples
    --------
    >>> import numpy as np
    >>> Vortex().drift(np.array([2.0, 0.0, 0.0, 1.0]), 0.0, np.array([[1.0, 0.0]]))
    array([[-0.,  1.]])
    """

    names = ("strength", "centre[0]", "centre[1]", "radius")
    dim = 2
    nonnegative = (False, False, False, True)

    def drift(self, params: Floats, t: Any, x: Floats) -> Floats:
        """Return the velocities (n, 2)."""
        return params[0] * self._unit(params, x)[0]

    def jacobian(self, params: Floats, t: Any, x: Floats) -> Floats:
        """Return the derivatives by strength, centre and radius, (n, 2, 4)."""
        strength, radius = params[0], params[3]
        unit, arm, fade = self._unit(params, x)
        turn = np.array([[0.0, -1.0], [1.0, 0.0]])
        by_centre = -fade[:, :, None] * turn + (
            (2 / radius**2) * (fade * unit)[:, :, None] * arm[:, None, :]
        )
        by_radius = unit * fade * (2 / radius**3) * (arm**2).sum(1, keepdims=True)
        return np.concatenate(
            [unit[:, :, None], strength * by_centre, strength * by_radius[:, :, None]], axis=2
        )

    def init(self) -> Floats:
        """Return a strength of 1e-5 around the origin, radius 1."""
        return np.array([INITIAL_RATE, 0.0, 0.0, 1.0])

    def _unit(self, params: Floats, x: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the drift for unit strength, the arms from the centre, and the fading (n, 1)."""
        arm = x - params[1:3]
        fade = 1 / (1 + (arm**2).sum(1, keepdims=True) / params[3] ** 2)
        return fade * np.column_stack([-arm[:, 1], arm[:, 0]]), arm, fade

    def _starts(self, start: Floats, t: Floats, x: Floats, velocity: Floats) -> Iterable[Floats]:
        middle, spread = x.mean(0), x.std(0) + np.finfo(float).tiny
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                for scale in (0.5, 1.0, 2.0):
                    centre = middle + spread * (i, j)
                    params = np.array([1.0, *centre, scale * spread.mean()])
                    unit = self._unit(params, x)[0]
                    power = (unit**2).sum()
                    params[0] = (unit * velocity).sum() / power if power > 0 else 0.0
                    yield params


def _log_ratio(x: Floats, k: float) -> Floats:
    """Return the log of the repressor's concentration over k, for each gene of the ring."""
    repressor = np.roll(np.maximum(x, SMALLEST_CONCENTRATION), 1, axis=1)
    return np.log(repressor / max(k, SMALLEST_CONCENTRATION))


def _hill(x: Floats, n: float, k: float) -> Floats:
    return expit(-n * _log_ratio(x, k))
