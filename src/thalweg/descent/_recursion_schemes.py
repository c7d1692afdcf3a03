"""Bounds of gradient methods that follow from the one recursion, as records."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.descent._constants import Constants
from thalweg.descent.bounds import bound
from thalweg.descent.rates import rate


@dataclass(frozen=True)
class Scheme:
    """A method whose bound `recursion_rate` evaluates.

    Attributes
    ----------
    statement : str
        The bound as a formula.
    quantity : str
        What it bounds.
    condition : str
        What it asks of the step.
    needs, may : tuple of str
        Constants that must and that may be given.
    """

    statement: str
    quantity: str
    condition: str
    needs: tuple[str, ...]
    may: tuple[str, ...]
    _formula: Callable[..., Any]
    _limit: Callable[..., float]
    _kind: str


def sublinear(k: Any, d0: float, error: float = 0.0) -> Any:
    """Return `sublinear_bound` at k, for one error."""
    return d0 / (k + 1) + error


def linear(k: Any, d0: float, omega: float) -> Any:
    return np.power(max(omega, 0.0), k, dtype=float) * d0


def _subgradient(k: Any, lipschitz: float, dist0_sq: float, step: float | None = None) -> Any:
    if step is None:
        return rate("subgradient_method-convex", k + 1, radius=math.sqrt(dist0_sq),
                    lipschitz=lipschitz)  # fmt: skip
    return sublinear(k, dist0_sq, (step * lipschitz) ** 2) / (2 * step)


def _gd_convex(k: Any, L: float, step: float, dist0_sq: float) -> Any:
    return bound("gd-convex", k, step=step, constants=Constants(L=L, dist0_sq=dist0_sq))


def _nesterov_convex(k: Any, L: float, dist0_sq: float, step: float | None = None) -> Any:
    return rate("nesterov-convex", k, L=L, radius=math.sqrt(dist0_sq))


def _svrg(k: Any, L: float, mu: float, step: float, inner_steps: int, gap0: float) -> Any:
    room = 1 - 2 * L * step
    return linear(k, gap0, 1 / (mu * step * room * inner_steps) + 2 * L * step / room)


def _saga(
    k: Any, L: float, mu: float, n: int, gap0: float, dist0_sq: float, step: float | None = None
) -> Any:
    return linear(k, dist0_sq + 2 * n / (3 * L) * gap0, 1 - min(1 / (4 * n), mu / (3 * L)))


def _scheme(
    statement: str, quantity: str, condition: str, formula: Callable[..., Any],
    limit: Callable[..., float] = lambda most, **constants: math.inf,
) -> Scheme:  # fmt: skip
    code, defaults = formula.__code__, formula.__defaults__ or ()
    names = code.co_varnames[1 : code.co_argcount]
    needs = names[: len(names) - len(defaults)]
    kind = next((kind for kind in ("<=", "<", "=") if f" {kind} " in condition), "<=")
    return Scheme(statement, quantity, condition, needs, names[len(needs) :], formula, limit, kind)


_GAP, _DISTANCE = "F(w_k) - F*", "‖w_k - w*‖²"

SCHEMES: dict[str, Scheme] = {
    "gd-nonconvex": _scheme(
        "2 gap0 / (step (2 - L step) (k + 1))",
        "least ‖∇F‖² of w_0, ..., w_k",
        "step < 2 / L",
        lambda k, L, step, gap0: sublinear(k, gap0) / (step * (1 - L * step / 2)),
        lambda most, L, **_: 2 / L,
    ),
    "gd-convex": _scheme(
        "dist0_sq / (2 step k)",
        _GAP,
        "step <= 1 / L",
        _gd_convex,
        lambda most, L, **_: 1 / L,
    ),
    "gd-strong": _scheme(
        "(1 - 2 step mu L / (L + mu))^k dist0_sq",
        _DISTANCE,
        "step <= 2 / (L + mu)",
        lambda k, L, mu, step, dist0_sq: linear(k, dist0_sq, 1 - 2 * step * mu * L / (L + mu)),
        lambda most, L, mu, **_: 2 / (L + mu),
    ),
    "subgradient": _scheme(
        "sqrt(dist0_sq) lipschitz / sqrt(k + 1)",
        "least F - F* of w_0, ..., w_k",
        "sqrt(dist0_sq) / (lipschitz sqrt(k + 1)) if left out; any, with another bound",
        _subgradient,
    ),
    "nesterov-convex": _scheme(
        "2 L dist0_sq / (k + 1)²",
        _GAP,
        "step = 1 / L",
        _nesterov_convex,
        lambda most, L, **_: 1 / L,
    ),
    "nesterov-strong": _scheme(
        "(1 - sqrt(mu / L))^k (gap0 + mu dist0_sq / 2)",
        _GAP,
        "step = 1 / L",
        lambda k, L, mu, gap0, dist0_sq, step=None: linear(
            k, gap0 + mu * dist0_sq / 2, 1 - math.sqrt(mu / L)
        ),
        lambda most, L, **_: 1 / L,
    ),
    "sgd-convex": _scheme(
        "dist0_sq / (2 step (1 - L step) (k + 1)) + step sigma_sq / (2 (1 - L step))",
        "E F(mean of w_0, ..., w_k) - F*",
        "step <= 1 / (2 L)",
        lambda k, L, step, dist0_sq, sigma_sq: (
            sublinear(k, dist0_sq, step**2 * sigma_sq) / (2 * step * (1 - L * step))
        ),
        lambda most, L, **_: 1 / (2 * L),
    ),
    "sgd-nonconvex": _scheme(
        "2 gap0 / (step (k + 1)) + L step sigma_sq",
        "mean of E ‖∇F‖² over w_0, ..., w_k",
        "step <= 1 / L",
        lambda k, L, step, gap0, sigma_sq: (
            sublinear(k, gap0, L * step**2 * sigma_sq / 2) * 2 / step
        ),
        lambda most, L, **_: 1 / L,
    ),
    "svrg": _scheme(
        "theta^k gap0, theta = 1 / (mu step (1 - 2 L step) inner_steps) "
        "+ 2 L step / (1 - 2 L step)",
        "E F(s_k) - F*, options random and average",
        "step < 1 / (4 L)",
        _svrg,
        lambda most, L, **_: 1 / (4 * L),
    ),
    "lsvrg": _scheme(
        "max(1 - step mu, 1 - prob / 2)^k phi0",
        "E Phi_k, Phi = ‖w - w*‖² + 4 step² / prob times the mean of ‖∇f_i(s) - ∇f_i(w*)‖²",
        "step <= 1 / (6 L)",
        lambda k, L, mu, step, prob, phi0: linear(k, phi0, max(1 - step * mu, 1 - prob / 2)),
        lambda most, L, **_: 1 / (6 * L),
    ),
    "saga": _scheme(
        "(1 - min(1 / (4 n), mu / (3 L)))^k (dist0_sq + 2 n gap0 / (3 L))",
        "E " + _DISTANCE,
        "step = 1 / (3 L)",
        _saga,
        lambda most, L, **_: 1 / (3 * L),
    ),
    "sarah-nonconvex": _scheme(
        "2 gap0 / (step (k + 1))",
        "mean of E ‖∇F‖² over w_0, ..., w_k, one epoch of k steps",
        "step <= 2 / (L (1 + sqrt(1 + 4 k)))",
        lambda k, L, step, gap0: sublinear(k, gap0) * 2 / step,
        lambda most, L, **_: 2 / (L * (1 + math.sqrt(1 + 4 * most))),
    ),
}
