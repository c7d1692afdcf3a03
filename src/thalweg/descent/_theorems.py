"""The theorems as records: what each needs, which steps it allows, and what it bounds.

Where the derivation of a bound asks for more than the source states, `assumptions` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from thalweg.descent import _bound_formulas as formulas
from thalweg.descent._bound_formulas import Counts, Floats, Steps
from thalweg.descent._constants import Constants

DISTANCE = "E ‖x_T - x*‖²"
GAP = "E f(x_T) - f*"
AVERAGE_GAP = "E f(average of x_0, ..., x_{T-1}) - f*"
LEAST_GRADIENT = "min over t < T of E ‖∇f(x_t)‖²"

CONSTANT, ARRAY, DECREASING, SCALE, OWN, NONE = (
    "one number",
    "a number or an array",
    "a number or a non-increasing array",
    "one number gamma, for gamma / sqrt(t + 1)",
    "None: the theorem has its own",
    "None: the method chooses",
)


@dataclass(frozen=True)
class Theorem:
    """A convergence theorem in words; `bound` evaluates it.

    Attributes
    ----------
    id : str
        Its name, such as ``"sgd-strong"``.
    quantity : str
        What is bounded after T steps, and so what `check` is to be given.
    assumptions : str
        On the problem, the method and the steps.
    statement : str
        The bound.
    needs : tuple of str
        The `Constants` it asks for.
    steps : str
        What `step` may be.
    average : {"", "uniform", "step", "linear", "residual"}
        Weights of the averaged point; "residual" is gamma_t (1 - 2 gamma_t L_max).
    interpolation : bool
        Whether all components must have the minimiser in common.
    """

    id: str
    quantity: str
    assumptions: str
    statement: str
    needs: tuple[str, ...]
    steps: str = CONSTANT
    average: str = ""
    interpolation: bool = False


@dataclass(frozen=True)
class Rule:
    """A theorem with its formula, the limit of its steps and the step to take for an accuracy."""

    theorem: Theorem
    formula: Callable[[Counts, Steps, Constants], Floats]
    limit: Callable[[Constants], float] = lambda c: math.inf
    strict: bool = False
    floor_step: Callable[[Constants, float], float] = lambda c, epsilon: math.inf
    minibatch: bool = False


def own_schedule(theorem: Theorem, c: Constants, n_steps: int, scale: float) -> Floats:
    """Return the steps that a theorem prescribes."""
    t = np.arange(n_steps)
    if theorem.steps == SCALE:
        return scale / np.sqrt(t + 1)
    if theorem.id == "subgrad-strong":
        return 2 / (c.mu * (t + 2))
    late = (2 * t + 1) / ((t + 1) ** 2 * c.mu)
    return np.where(t < formulas.switch_time(c), 1 / (2 * c.L_max), late)


_SMOOTH, _EACH = "f convex and L-smooth", "each f_i convex and L_max-smooth"
_LIPSCHITZ = "each f_i convex, mean ‖g_i‖² <= G²"
_MINIBATCH = "; batches of b distinct components, constants of `minibatch_constants`"
_PROJECTED = "; f mu-strongly convex; points projected on a convex set that holds x*"
_COMPOSITE = "F = f + g, g convex; f*, gap0 of F; "


def _sgd_rules(prefix: str, extra: str, needs: tuple[str, ...]) -> list[Rule]:
    """Return the three theorems of SGD that hold for single components and for minibatches."""
    batch = prefix == "minibatch"
    return [
        Rule(
            Theorem(
                f"{prefix}-convex",
                AVERAGE_GAP,
                f"{_EACH}{extra}; gamma_t < 1/(2 L_max)",
                "(dist0_sq/2 + sigma_star_sq sum gamma_t²) / sum gamma_t (1 - 2 gamma_t L_max)",
                ("L_max", "dist0_sq", "sigma_star_sq", *needs),
                ARRAY,
                "residual",
            ),
            formulas.sgd_convex,
            lambda c: formulas.inverse(2 * c.L_max),
            strict=True,
            floor_step=lambda c, e: formulas.inverse(2 * (c.sigma_star_sq + e * c.L_max) / e),
            minibatch=batch,
        ),
        Rule(
            Theorem(
                f"{prefix}-strong",
                DISTANCE,
                f"{_EACH}, f mu-strongly convex{extra}; gamma <= 1/(2 L_max)",
                "(1 - gamma mu)^T dist0_sq + 2 gamma sigma_star_sq / mu",
                ("L_max", "mu", "dist0_sq", "sigma_star_sq", *needs),
            ),
            formulas.sgd_strong,
            lambda c: formulas.inverse(2 * c.L_max),
            floor_step=lambda c, e: formulas.floor(e, 2 * c.sigma_star_sq / c.mu),
            minibatch=batch,
        ),
        Rule(
            Theorem(
                f"{prefix}-pl",
                GAP,
                f"each f_i L_max-smooth, f L-smooth and pl-PL{extra}; gamma <= pl/(L L_max)",
                "(1 - gamma pl)^T gap0 + gamma L L_max delta_star / pl",
                ("L", "L_max", "pl", "gap0", "delta_star", *needs),
            ),
            formulas.sgd_pl,
            lambda c: formulas.pl_constant(c) * formulas.inverse(c.L * c.L_max),
            floor_step=formulas.sgd_pl_step,
            minibatch=batch,
        ),
    ]


_TABLE = [
    Rule(
        Theorem(
            "gd-convex", GAP, f"{_SMOOTH}; gamma <= 1/L", "dist0_sq / (2 gamma T)",
            ("L", "dist0_sq"),
        ),
        formulas.sublinear, lambda c: formulas.inverse(c.L),
    ),
    Rule(
        Theorem(
            "gd-strong", DISTANCE, f"{_SMOOTH}, mu-strongly convex; gamma <= 1/L",
            "(1 - gamma mu)^T dist0_sq", ("L", "mu", "dist0_sq"),
        ),
        formulas.linear, lambda c: formulas.inverse(c.L),
    ),
    Rule(
        Theorem(
            "gd-pl", GAP, "f L-smooth and pl-PL; gamma <= 1/L", "(1 - gamma pl)^T gap0",
            ("L", "pl", "gap0"),
        ),
        formulas.gd_pl, lambda c: formulas.inverse(c.L),
    ),
    Rule(
        Theorem(
            "gd-nonconvex", LEAST_GRADIENT, "f L-smooth; gamma <= 1/L", "2 gap0 / (gamma T)",
            ("L", "gap0"),
        ),
        formulas.gd_nonconvex, lambda c: formulas.inverse(c.L),
    ),
    *_sgd_rules("sgd", "", ()),
    Rule(
        Theorem(
            "sgd-strong-switch", DISTANCE,
            f"{_EACH}, f mu-strongly convex; gamma_t = 1/(2 L_max) for t < 4 ceil(kappa), then "
            "(2 t + 1)/((t + 1)² mu), kappa = L_max/mu; T >= 4 ceil(kappa)",
            "8 sigma_star_sq / (mu² T) + 16 ceil(kappa)² dist0_sq / (e T)²",
            ("L_max", "mu", "dist0_sq", "sigma_star_sq"), OWN,
        ),
        formulas.sgd_strong_switch,
    ),
    Rule(
        Theorem(
            "sgd-nonconvex", LEAST_GRADIENT, "each f_i L_max-smooth, f L-smooth; any gamma",
            "(1 + L L_max gamma²)^T gap0 / (gamma T) + L L_max gamma delta_star",
            ("L", "L_max", "gap0", "delta_star"),
        ),
        formulas.sgd_nonconvex, floor_step=formulas.nonconvex_step,
    ),
    *_sgd_rules("minibatch", _MINIBATCH, ("L", "n")),
    Rule(
        Theorem(
            "sgdm-convex", GAP,
            f"{_EACH}; gamma_t = 2 eta/(t + 3), beta_t = t/(t + 2), step = eta <= 1/(4 L_max)",
            "dist0_sq / (eta (T + 1)) + 2 eta sigma_star_sq",
            ("L_max", "dist0_sq", "sigma_star_sq"),
        ),
        formulas.sgdm_convex, lambda c: formulas.inverse(4 * c.L_max),
        floor_step=lambda c, e: formulas.floor(e, 2 * c.sigma_star_sq),
    ),
    Rule(
        Theorem(
            "subgrad-convex", AVERAGE_GAP, f"{_LIPSCHITZ}; any gamma_t",
            "(dist0_sq + G² sum gamma_t²) / (2 sum gamma_t)", ("G", "dist0_sq"), ARRAY, "step",
        ),
        formulas.subgrad_convex, floor_step=formulas.subgrad_step,
    ),
    Rule(
        Theorem(
            "subgrad-bounded", AVERAGE_GAP,
            f"{_LIPSCHITZ} on a convex set of the diameter that holds x*, on which points are "
            "projected; gamma_t = gamma/sqrt(t + 1)",
            "(diameter² / (2 gamma) + gamma G²) / sqrt(T)", ("G", "diameter"), SCALE, "uniform",
        ),
        formulas.subgrad_bounded,
        floor_step=lambda c, e: c.diameter * formulas.inverse(math.sqrt(2) * c.G),
    ),
    Rule(
        Theorem(
            "subgrad-strong", AVERAGE_GAP,
            f"{_LIPSCHITZ}{_PROJECTED}; gamma_t = 2/(mu (t + 2)), t = 0, 1, ...",
            "2 G² / (mu (T + 1))", ("G", "mu"), OWN, "linear",
        ),
        formulas.subgrad_strong,
    ),
    Rule(
        Theorem(
            "prox-convex", GAP, f"{_COMPOSITE}{_SMOOTH}; gamma <= 1/L", "dist0_sq / (2 gamma T)",
            ("L", "dist0_sq"),
        ),
        formulas.sublinear, lambda c: formulas.inverse(c.L),
    ),
    Rule(
        Theorem(
            "prox-strong", DISTANCE, f"{_COMPOSITE}{_SMOOTH}, mu-strongly convex; gamma <= 1/L",
            "(1 - gamma mu)^T dist0_sq", ("L", "mu", "dist0_sq"),
        ),
        formulas.linear, lambda c: formulas.inverse(c.L),
    ),
    Rule(
        Theorem(
            "sprox-convex", AVERAGE_GAP,
            f"{_COMPOSITE}{_EACH}; gamma_t < 1/(4 L_max), non-increasing",
            "(dist0_sq/2 + gamma_0 gap0 + 2 sigma_star_sq sum gamma_t²) "
            "/ ((1 - 4 gamma_0 L_max) sum gamma_t)",
            ("L_max", "dist0_sq", "gap0", "sigma_star_sq"), DECREASING, "step",
        ),
        formulas.sprox_convex, lambda c: formulas.inverse(4 * c.L_max), strict=True,
        floor_step=lambda c, e: formulas.inverse(4 * (c.sigma_star_sq + e * c.L_max) / e),
    ),
    Rule(
        Theorem(
            "sprox-strong", DISTANCE,
            f"{_COMPOSITE}{_EACH}, f mu-strongly convex; gamma <= 1/(2 L_max)",
            "(1 - gamma mu)^T dist0_sq + 2 gamma sigma_star_sq / mu",
            ("L_max", "mu", "dist0_sq", "sigma_star_sq"),
        ),
        formulas.sgd_strong, lambda c: formulas.inverse(2 * c.L_max),
        floor_step=lambda c, e: formulas.floor(e, 2 * c.sigma_star_sq / c.mu),
    ),
    Rule(
        Theorem(
            "sps-lipschitz", AVERAGE_GAP, f"{_LIPSCHITZ}; Polyak steps with the f_i(x*)",
            "G sqrt(dist0_sq / T)", ("G", "dist0_sq"), NONE, "uniform",
        ),
        formulas.sps_lipschitz,
    ),
    Rule(
        Theorem(
            "sps-smooth", AVERAGE_GAP, f"{_EACH}; Polyak steps with inf f_i; interpolation",
            "2 L_max dist0_sq / T", ("L_max", "dist0_sq"), NONE, "uniform", interpolation=True,
        ),
        formulas.sps_smooth,
    ),
    Rule(
        Theorem(
            "sps-strong", DISTANCE,
            f"{_EACH}, f mu-strongly convex; Polyak steps with inf f_i; interpolation",
            "(1 - mu / (4 L_max))^T dist0_sq", ("L_max", "mu", "dist0_sq"), NONE,
            interpolation=True,
        ),
        formulas.sps_strong,
    ),
    Rule(
        Theorem(
            "spp-lipschitz", AVERAGE_GAP, f"{_LIPSCHITZ}; proximal point steps, any gamma",
            "dist0_sq / (2 gamma T) + gamma G² / 2", ("G", "dist0_sq"), CONSTANT, "uniform",
        ),
        formulas.spp_lipschitz, floor_step=formulas.subgrad_step,
    ),
    Rule(
        Theorem(
            "spp-strong", DISTANCE,
            "each f_i mu_min-strongly convex; proximal point steps, any gamma; "
            "q = (1 + gamma mu_min)^-2",
            "q^T dist0_sq + gamma² sigma_star_sq q / (1 - q)",
            ("mu_min", "dist0_sq", "sigma_star_sq"),
        ),
        formulas.spp_strong, floor_step=formulas.spp_strong_step,
    ),
]  # fmt: skip

RULES = {rule.theorem.id: rule for rule in _TABLE}
