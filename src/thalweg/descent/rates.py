"""What the theorems of convex optimisation promise after t steps, to draw beside a run.

``rate("nesterov-strong", t, L=..., mu=..., radius=...)`` is the bound of a method of this folder
at the entries ``t`` of its history. `known_rates` tells what each one bounds and which constants it
needs.

Here t counts steps, so that t = 0 is the start. The book counts points, beginning with x_1, in some
theorems; there its t is one more than ours.

Source: "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980. The bounds of
"subgradient_method-decreasing" and of "matrix_game" in its three ways are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_real

Floats = NDArray[np.float64]

GAP = "f(x_t) - f*"
MEAN_GAP = "f(average) - f*"
DUALITY = "duality gap of the average"


@dataclass(frozen=True)
class Rate:
    """A bound.

    Attributes
    ----------
    statement : str
        The bound as a formula in t and the constants.
    quantity : str
        What it bounds.
    constants : tuple of str
        Names of the constants that it needs.
    defaults : dict
        Constants that may be left out, and their values.
    """

    statement: str
    quantity: str
    constants: tuple[str, ...]
    defaults: dict[str, Any]
    _formula: Callable[..., Floats]


def known_rates() -> dict[str, Rate]:
    """Return all bounds by name.

    Constants are positive numbers unless stated:

    - ``L``: Lipschitz constant of the gradient (in `random_coordinate_descent` those of the
      coordinates, an array); ``mu``: strong convexity, in [0, L];
    - ``lipschitz``: largest (dual) norm of a subgradient, for noise the root of the mean square;
      ``sigma``: root of the mean squared error of a noisy gradient;
    - ``radius``: distance from the start to the minimiser, in the norm of the theorem; for mirror
      maps the root of sup Phi - Phi(x_1) or sup D(x, x_1) (log n for the simplex from its centre);
      ``diameter``: of the set; ``rho``: strong convexity of the map;
    - ``gap0``: f(x_0) - f*; ``bound``: largest absolute value of f on the set; ``inner_radius``:
      of a ball in the set; ``n``, ``m``: dimensions; ``nu``: parameter of the barrier;
      ``t0``: first weight of the cost;
    - ``radius``, ``lipschitz`` and ``smoothness`` of saddle points: (R_X, R_Y), (L_X, L_Y) and
      (b11, b12, b21, b22); ``largest``: largest absolute entry of a game's matrix.

    Returns
    -------
    dict of str to Rate

    Examples
    --------
    >>> known_rates()["fista"].statement, known_rates()["fista"].constants
    ('2 L radius² / (t + 1)²', ('L', 'radius'))
    """
    return dict(RATES)


def rate(name: str, t: int | ArrayLike, **constants: Any) -> Any:
    """Return what a theorem guarantees after t steps.

    Parameters
    ----------
    name : str
        Name of a method, followed by "-convex", "-strong" and the like where it has several
        bounds; `known_rates` lists them.
    t : int or array_like of int
        Numbers of steps, >= 0: indices into a run's history.
    **constants
        What the bound needs; `known_rates` explains them.

    Returns
    -------
    float or ndarray
        The bound for each t; inf where the theorem says nothing.

    Raises
    ------
    TypeError, ValueError
        If there is no such bound, or a constant is missing, unknown or malformed.

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980.

    Examples
    --------
    >>> rate("gradient_descent-convex", [0, 1, 4], L=2.0, radius=3.0)
    array([inf, 36.,  9.])
    """
    if name not in RATES:
        raise ValueError(f"name must be one of {', '.join(RATES)}, got {name!r}")
    rule = RATES[name]
    for given in constants:
        if given not in rule.constants:
            raise ValueError(
                f"{given} is no constant of {name!r}, which needs {', '.join(rule.constants)}"
            )
    values = rule.defaults | constants
    for needed in rule.constants:
        if needed not in values:
            raise ValueError(f"{needed} must be given for {name!r}")
    checked = {key: _check_constant(name, key, value) for key, value in values.items()}
    if "mu" in checked and "L" in checked:
        most = float(np.sum(checked["L"] ** checked.get("gamma", 1.0)))
        if checked["mu"] > most:
            raise ValueError(f"mu must be <= {most:g} for this L, got {checked['mu']!r}")
    steps = _check_steps(t)
    with np.errstate(divide="ignore"):
        bounds = np.asarray(rule._formula(steps.astype(np.float64), **checked))
    return float(bounds) if bounds.ndim == 0 else bounds


def _check_steps(t: int | ArrayLike) -> NDArray[np.int64]:
    steps = check_array("t", t, dtype=None)
    if steps.dtype.kind not in "iu":
        raise TypeError(f"t must hold integers, got {t!r}")
    if (steps < 0).any():
        raise ValueError(f"t must be >= 0, got {int(steps.min())}")
    return steps


PAIRS = {"saddle_mirror_descent", "saddle_mirror_prox"}
LENGTHS = {"radius": 2, "lipschitz": 2, "smoothness": 4}


def _check_constant(name: str, key: str, value: Any) -> Any:
    if name in PAIRS:
        array = check_array(key, value, shape=(LENGTHS[key],))
        if (array < 0).any() or not array.any():
            raise ValueError(f"{key} must be >= 0 and not all zero, got {value!r}")
        return array
    if key == "L" and name.startswith("random_coordinate_descent"):
        array = check_array(key, value, ndim=1)
        if not array.size or (array <= 0).any():
            raise ValueError(f"L must hold numbers > 0, got {value!r}")
        return array
    if key in ("n", "m"):
        return check_count(key, value)
    if key == "gamma":
        return check_real(key, value)
    return check_real(key, value, at_least=0) if key in ZERO else check_real(key, value, above=0)


ZERO = {"radius", "gap0", "sigma"}
"""Constants that may be 0."""


def _ellipsoid(t: Floats, bound: float, radius: float, inner_radius: float, n: int) -> Floats:
    """The theorem begins at 2 n² log(R / r) queries."""
    value = 2 * bound * radius / inner_radius * np.exp(-t / (2 * n**2))
    return np.where(t >= 2 * n**2 * math.log(radius / inner_radius), value, math.inf)


def _game_descent(t: Floats, largest: float, m: int, n: int) -> Floats:
    """Two regret bounds (log n) / (eta t) + eta A² / 2 at eta = sqrt(2 log(max) / t) / A."""
    both, most = math.log(m) + math.log(n), max(math.log(max(m, n)), 1e-300)
    return largest * (both / np.sqrt(2 * most * t) + np.sqrt(2 * most / t))


def _game_stochastic(t: Floats, largest: float, m: int, n: int) -> Floats:
    """Twice the start, and 5 eta A²: a second run on the noise removes what it shares with x, y."""
    both, most = math.log(m) + math.log(n), max(math.log(max(m, n)), 1e-300)
    return largest * (2 * both / np.sqrt(2 * most * t) + 5 * np.sqrt(2 * most / t))


def _rate(statement: str, quantity: str, formula: Callable[..., Floats], **defaults: Any) -> Rate:
    names = formula.__code__.co_varnames[1 : formula.__code__.co_argcount]
    return Rate(statement, quantity, names, defaults, formula)


RATES: dict[str, Rate] = {
    "gradient_descent-convex": _rate(
        "2 L radius² / t", GAP, lambda t, L, radius: 2 * L * radius**2 / t
    ),
    "gradient_descent-projected": _rate(
        "(3 L radius² + gap0) / (t + 1)",
        GAP,
        lambda t, L, radius, gap0: (3 * L * radius**2 + gap0) / (t + 1),
    ),
    "gradient_descent-strong": _rate(
        "exp(-t mu / L) radius²",
        "‖x_t - x*‖², step 1 / L, also projected",
        lambda t, L, mu, radius: np.exp(-t * mu / L) * radius**2,
    ),
    "gradient_descent-strong-long": _rate(
        "L/2 exp(-4 t / (L / mu + 1)) radius²",
        GAP + ", step 2 / (mu + L)",
        lambda t, L, mu, radius: L / 2 * np.exp(-4 * t / (L / mu + 1)) * radius**2,
    ),
    "nesterov-strong": _rate(
        "(mu + L)/2 radius² exp(-t sqrt(mu / L))",
        GAP,
        lambda t, L, mu, radius: (mu + L) / 2 * radius**2 * np.exp(-t * math.sqrt(mu / L)),
    ),
    "nesterov-convex": _rate(
        "2 L radius² / (t + 1)²", GAP, lambda t, L, radius: 2 * L * radius**2 / (t + 1) ** 2
    ),
    "geometric_descent": _rate(
        "(1 - sqrt(mu / L))^t radius²",
        "R_t², radius = R_0",
        lambda t, L, mu, radius: (1 - math.sqrt(mu / L)) ** t * radius**2,
    ),
    "subgradient_method-convex": _rate(
        "radius lipschitz / sqrt(t)",
        MEAN_GAP + " and best, fixed step for t steps",
        lambda t, radius, lipschitz: radius * lipschitz / np.sqrt(t),
    ),
    "subgradient_method-decreasing": _rate(
        "3/2 radius lipschitz / sqrt(t)",
        MEAN_GAP + " and best, radius from any point of the run",
        lambda t, radius, lipschitz: 1.5 * radius * lipschitz / np.sqrt(t),
    ),
    "subgradient_method-strong": _rate(
        "2 lipschitz² / (mu (t + 1))",
        MEAN_GAP + " and best, with noise in expectation",
        lambda t, lipschitz, mu: np.where(t > 0, 2 * lipschitz**2 / (mu * (t + 1)), math.inf),
    ),
    "conjugate_gradient": _rate(
        "2 ((sqrt(L / mu) - 1) / (sqrt(L / mu) + 1))^t radius",
        "‖x_t - x*‖ in the norm of H, radius too",
        lambda t, L, mu, radius: (
            2 * ((math.sqrt(L / mu) - 1) / (math.sqrt(L / mu) + 1)) ** t * radius
        ),
    ),
    "frank_wolfe": _rate(
        "2 L diameter² / (t + 2)",
        GAP,
        lambda t, L, diameter: np.where(t > 0, 2 * L * diameter**2 / (t + 2), math.inf),
    ),
    "proximal_gradient": _rate(
        "L radius² / (2 t)", GAP, lambda t, L, radius: L * radius**2 / (2 * t)
    ),
    "fista": _rate(
        "2 L radius² / (t + 1)²", GAP, lambda t, L, radius: 2 * L * radius**2 / (t + 1) ** 2
    ),
    "mirror_descent": _rate(
        "radius lipschitz sqrt(2 / (rho t))",
        MEAN_GAP,
        lambda t, radius, lipschitz, rho: radius * lipschitz * np.sqrt(2 / (rho * t)),
        rho=1.0,
    ),
    "mirror_descent-stochastic": _rate(
        "radius lipschitz sqrt(2 / (rho t))",
        "mean of " + MEAN_GAP,
        lambda t, radius, lipschitz, rho: radius * lipschitz * np.sqrt(2 / (rho * t)),
        rho=1.0,
    ),
    "mirror_descent-stochastic-smooth": _rate(
        "radius sigma sqrt(2 / t) + L radius² / t",
        "mean of f(x + (x_last - x0) / t) - f*, step 1 / (L + sigma sqrt(t / 2) / radius), rho 1",
        lambda t, radius, sigma, L: radius * sigma * np.sqrt(2 / t) + L * radius**2 / t,
    ),
    "dual_averaging": _rate(
        "2 radius lipschitz sqrt(2 / (rho t))",
        MEAN_GAP,
        lambda t, radius, lipschitz, rho: 2 * radius * lipschitz * np.sqrt(2 / (rho * t)),
        rho=1.0,
    ),
    "mirror_prox": _rate(
        "L radius² / (rho t)",
        MEAN_GAP,
        lambda t, L, radius, rho: L * radius**2 / (rho * t),
        rho=1.0,
    ),
    "random_coordinate_descent-convex": _rate(
        "2 radius² sum L_i^gamma / t",
        "mean of " + GAP + ", radius of the level set in the norm [1 - gamma]",
        lambda t, L, radius, gamma: 2 * radius**2 * np.sum(L**gamma) / t,
        gamma=1.0,
    ),
    "random_coordinate_descent-strong": _rate(
        "(1 - mu / sum L_i^gamma)^t gap0",
        "mean of " + GAP + ", mu in the norm [1 - gamma]",
        lambda t, L, mu, gap0, gamma: (1 - mu / np.sum(L**gamma)) ** t * gap0,
        gamma=1.0,
    ),
    "saddle_mirror_descent": _rate(
        "(R_X L_X + R_Y L_Y) sqrt(2 / t)",
        DUALITY,
        lambda t, radius, lipschitz: radius @ lipschitz * np.sqrt(2 / t),
    ),
    "saddle_mirror_prox": _rate(
        "4 max(b11 R_X², b22 R_Y², b12 R_X R_Y, b21 R_X R_Y) / t",
        DUALITY,
        lambda t, radius, smoothness: (
            # b11 with R_X R_X, b12 and b21 with R_X R_Y, b22 with R_Y R_Y
            4 * np.max(smoothness * np.outer(radius, radius).ravel()) / t
        ),
    ),
    "matrix_game-mirror-prox": _rate(
        "(log m + log n) largest / t",
        DUALITY,
        lambda t, largest, m, n: (math.log(m) + math.log(n)) * largest / t,
    ),
    "matrix_game-mirror-descent": _rate(
        "largest (log(m n) / sqrt(2 M t) + sqrt(2 M / t)), M = log max(m, n)",
        DUALITY + ", step for t steps",
        _game_descent,
    ),
    "matrix_game-stochastic": _rate(
        "largest (2 log(m n) / sqrt(2 M t) + 5 sqrt(2 M / t)), M = log max(m, n)",
        "mean of the " + DUALITY + ", step for t steps",
        _game_stochastic,
    ),
    "centre_of_gravity": _rate(
        "2 bound (1 - 1/e)^(t / n)",
        GAP + " of the best of t queries",
        lambda t, bound, n: 2 * bound * (1 - 1 / math.e) ** (t / n),
    ),
    "ellipsoid": _rate(
        "2 bound radius / inner_radius exp(-t / (2 n²))",
        GAP + " of the best of t queries",
        _ellipsoid,
    ),
    "path_following": _rate(
        "2 nu / t0 exp(-t / (1 + 13 sqrt(nu)))",
        "gap of the short steps",
        lambda t, nu, t0: 2 * nu / t0 * np.exp(-t / (1 + 13 * math.sqrt(nu))),
    ),
}
