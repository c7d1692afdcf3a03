"""The numbers that theorems ask of a problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_real

if TYPE_CHECKING:
    from thalweg.descent.problems import FiniteSum

Floats = NDArray[np.float64]
Known = Any  # a float, or None: callers that have asked for a theorem know which


@dataclass(frozen=True)
class Constants:
    """Constants of a problem f = mean f_i, a start x0 and a minimiser x*; None where unknown.

    Attributes
    ----------
    L, L_max : float
        Smoothness of f, and the largest of any component.
    mu, mu_min : float
        Strong convexity of f, and the least of any component.
    pl : float
        Polyak-Łojasiewicz constant: ‖∇f‖² >= 2 pl (f - f*). Theorems take `mu`, which implies it,
        where it is None.
    G : float
        mean ‖g_i(x)‖² <= G² wherever a run goes.
    diameter : float
        Of the set on which a run is projected.
    n : int
        Components.
    dist0_sq, gap0 : float
        ‖x0 - x*‖² and f(x0) - f(x*).
    sigma_star_sq : float
        Variance of ∇f_i(x*): mean ‖∇f_i(x*) - ∇f(x*)‖². 0 is interpolation.
    delta_star : float
        f(x*) minus the mean of the infima of the f_i. 0 is interpolation.
    f_star : float
        f(x*), for `check_inequality`.

    Raises
    ------
    TypeError, ValueError
        If a constant is not a finite number, or negative where that cannot be.

    Examples
    --------
    >>> Constants(L=2.0, dist0_sq=1.0).L
    2.0
    """

    L: Known = None
    L_max: Known = None
    mu: Known = None
    G: Known = None
    diameter: Known = None
    n: Known = None
    dist0_sq: Known = None
    gap0: Known = None
    sigma_star_sq: Known = None
    delta_star: Known = None
    mu_min: Known = None
    pl: Known = None
    f_star: Known = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if field.name == "n":
                check_count("n", value)
            else:
                check_real(field.name, value, at_least=None if field.name == "f_star" else 0)


def constants(
    problem: FiniteSum,
    x0: ArrayLike,
    x_star: ArrayLike | None = None,
    *,
    radius: float | None = None,
    regulariser: Callable[[Floats], float] | None = None,
) -> Constants:
    """Return the constants of a problem that theorems ask for.

    They are exact for `LeastSquares`, `Logistic` and `AbsoluteRegression` (but for G inside a
    radius, which is a bound); of another `FiniteSum`, those that its methods tell.

    Parameters
    ----------
    problem : FiniteSum
        The problem.
    x0 : array_like, shape (dim,)
        Where runs start.
    x_star : array_like, shape (dim,), optional
        A minimiser: of f, of f + regulariser, or of f in the ball. None asks the problem for the
        minimiser of f; what depends on it stays None if the problem does not know.
    radius : float, optional
        Runs are projected on the ball of this radius around the origin: gives `diameter`, and `G`
        where gradients are bounded only there.
    regulariser : callable, optional
        Value of the function whose proximal operator runs use; then `gap0` and `f_star` are those
        of the sum and `delta_star` is None. Needs `x_star`.

    Returns
    -------
    Constants
        `sigma_star_sq` and `L` are None for a loss that is not smooth.

    Raises
    ------
    TypeError, ValueError
        If a shape is wrong, f(x0) is below f(x_star), x_star is outside the ball, or a regulariser
        is given without x_star.

    References
    ----------
    "Handbook of Convergence Theorems for (Stochastic) Gradient Methods" (2023), arXiv 2301.11235,
    definitions of sections 2 to 4.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> c = constants(LeastSquares([[1.0], [2.0]], [0.0, 1.0]), [1.4])
    >>> round(c.L, 9), c.L_max, round(c.dist0_sq, 9), round(c.sigma_star_sq, 9)
    (2.5, 4.0, 1.0, 0.16)
    """
    start = check_array("x0", x0, shape=(problem.dim,))
    if radius is not None:
        radius = check_real("radius", radius, above=0)
    if regulariser is not None and x_star is None:
        raise ValueError("x_star must be given with a regulariser, got None")
    known: dict[str, float | int | None] = dict(problem.curvature())
    known["n"] = problem.n
    known["G"] = problem.gradient_bound(radius)
    known["diameter"] = None if radius is None else 2 * radius
    star = problem.minimiser(start) if x_star is None else x_star
    if star is None:
        return Constants(**known)
    star = check_array("x_star", star, shape=(problem.dim,))
    if radius is not None and np.linalg.norm(star) > radius * (1 + 1e-12):
        raise ValueError(
            f"x_star must lie in the ball of radius {radius:g}, got norm {np.linalg.norm(star):g}"
        )

    def value(x: Floats) -> float:
        return float(problem.value(x)) + (0.0 if regulariser is None else float(regulariser(x)))

    first, last = value(start), value(star)
    if first < last - 1e-9 * (abs(first) + abs(last)):
        raise ValueError(
            f"x_star must be a minimiser, got f(x_star) = {last:g} > f(x0) = {first:g}"
        )
    known["f_star"] = last
    known["gap0"] = max(first - last, 0.0)
    known["dist0_sq"] = float(np.sum((start - star) ** 2))
    if "L_max" in known:
        gradients = problem.component_gradients(star)
        known["sigma_star_sq"] = float(np.sum(np.var(gradients, axis=0)))
    infima = problem.component_infima() if regulariser is None else None
    if infima is not None:
        known["delta_star"] = max(last - float(np.mean(infima)), 0.0)
    return Constants(**known)
