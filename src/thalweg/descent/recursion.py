r"""How fast must it converge? One recursion that the proofs of gradient methods end in.

.. math:: D_{k+1} \le \omega_k D_k - \Delta_k + E_k, \qquad
          D_k, \Delta_k \ge 0, \quad 0 \le \omega_k \le 1

with D a distance or a gap, Delta the progress of a step and E its error. Whoever has such an
inequality for a method has its rate: `sublinear_bound`, `linear_bound` and `diminishing_bound` are
its consequences, `unroll` the exact one, `check_recursion` looks whether a run obeys it, and
`recursion_rate` gives the bounds of well-known methods, which all come from it.
`thalweg.descent.recursion_instances` has D, Delta, omega and E of deterministic methods.

Source: "Gradient Descent-Type Methods: Background and Simple Unified Convergence Analysis" (2022),
arXiv 2212.09413. The consequences were derived again; the diminishing one needs k0 >= c, or
omega_0 would be negative.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.descent._recursion_schemes import SCHEMES as SCHEMES
from thalweg.descent._recursion_schemes import Scheme as Scheme
from thalweg.descent._recursion_schemes import linear

Floats = NDArray[np.float64]

ROUNDING = 1e-12


def unroll(d0: float, omega: ArrayLike, errors: ArrayLike, decrements: ArrayLike = 0.0) -> Floats:
    """Return what D can be at most after each step: d0, then d <- omega_k d - Delta_k + E_k.

    Parameters
    ----------
    d0 : float
        D_0 >= 0.
    omega : float or array_like, shape (K,)
        Factors, 0 to 1.
    errors : float or array_like, shape (K,)
        E_k. One of `omega`, `errors` and `decrements` must be an array.
    decrements : float or array_like, shape (K,), default 0.0
        Delta_k >= 0.

    Returns
    -------
    ndarray, shape (K + 1,)

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "Gradient Descent-Type Methods: Background and Simple Unified Convergence Analysis" (2022),
    arXiv 2212.09413, the general recursion.

    Examples
    --------
    >>> unroll(8.0, 0.5, [0.0, 1.0, 0.0])
    array([8. , 4. , 3. , 1.5])
    """
    d = check_real("d0", d0, at_least=0)
    w, e, less = (
        check_array(name, value)
        for name, value in (("omega", omega), ("errors", errors), ("decrements", decrements))
    )
    if max(w.ndim, e.ndim, less.ndim) != 1:
        raise ValueError("one of omega, errors and decrements must be an array of one axis")
    if ((w < 0) | (w > 1)).any():
        raise ValueError(f"omega must be between 0 and 1, got {w.min():g} to {w.max():g}")
    if (less < 0).any():
        raise ValueError(f"decrements must be >= 0, got {less.min():g}")
    try:
        w, e, less = (np.asarray(term) for term in np.broadcast_arrays(w, e, less))
    except ValueError:
        raise ValueError(
            f"omega, errors and decrements must have one length, got {w.size}, {e.size} "
            f"and {less.size}"
        ) from None
    bounds = np.empty(len(w) + 1)
    bounds[0] = d
    for k in range(len(w)):
        bounds[k + 1] = w[k] * bounds[k] - less[k] + e[k]
    return bounds


def sublinear_bound(d0: float, errors: ArrayLike) -> Floats:
    """Return what the least of Delta_0, ..., Delta_k, and their mean, are at most if omega is 1.

    That is (D_0 + E_0 + ... + E_k) / (k + 1).

    Parameters
    ----------
    d0 : float
        D_0 >= 0.
    errors : array_like, shape (K,)
        E_k; zeros where steps make no error.

    Returns
    -------
    ndarray, shape (K,)

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "Gradient Descent-Type Methods: Background and Simple Unified Convergence Analysis" (2022),
    arXiv 2212.09413, the recursion with omega = 1.

    Examples
    --------
    >>> sublinear_bound(6.0, [0.0, 0.0, 0.0])
    array([6., 3., 2.])
    """
    d0 = check_real("d0", d0, at_least=0)
    e = check_array("errors", errors, ndim=1)
    bounds: Floats = (d0 + np.cumsum(e)) / np.arange(1, len(e) + 1)
    return bounds


def linear_bound(d0: float, omega: float, error: float = 0.0, *, n: int) -> Floats:
    """Return what D_0, ..., D_n are at most for one omega < 1: omega^k D_0 + E / (1 - omega).

    Parameters
    ----------
    d0 : float
        D_0 >= 0.
    omega : float
        The factor, 0 <= omega < 1.
    error : float, default 0.0
        E >= 0, the error of every step.
    n : int
        Steps.

    Returns
    -------
    ndarray, shape (n + 1,)

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "Gradient Descent-Type Methods: Background and Simple Unified Convergence Analysis" (2022),
    arXiv 2212.09413, the recursion with a constant omega.

    Examples
    --------
    >>> linear_bound(8.0, 0.5, n=3)
    array([8., 4., 2., 1.])
    """
    d0 = check_real("d0", d0, at_least=0)
    omega = check_real("omega", omega, at_least=0, below=1)
    error = check_real("error", error, at_least=0)
    n = check_count("n", n, at_least=0)
    return np.asarray(linear(np.arange(n + 1), d0, omega)) + error / (1 - omega)


def diminishing_bound(d0: float, c: float, e: float, k0: float, n: int) -> Floats:
    """Return what D_0, ..., D_n are at most for omega_k = 1 - c / (k + k0), E_k = e / (k + k0)².

    That is max(k0 D_0, e / (c - 1)) / (k + k0).

    Parameters
    ----------
    d0 : float
        D_0 >= 0.
    c : float
        c > 1.
    e : float
        e >= 0.
    k0 : float
        k0 >= c, so that omega_0 >= 0.
    n : int
        Steps.

    Returns
    -------
    ndarray, shape (n + 1,)

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "Gradient Descent-Type Methods: Background and Simple Unified Convergence Analysis" (2022),
    arXiv 2212.09413, the recursion with diminishing steps.

    Examples
    --------
    >>> diminishing_bound(4.0, c=2.0, e=3.0, k0=2.0, n=2)
    array([4.        , 2.66666667, 2.        ])
    """
    d0 = check_real("d0", d0, at_least=0)
    c = check_real("c", c, above=1)
    e = check_real("e", e, at_least=0)
    k0 = check_real("k0", k0, at_least=c)
    n = check_count("n", n, at_least=0)
    return np.asarray(max(k0 * d0, e / (c - 1)) / (np.arange(n + 1) + k0), dtype=np.float64)


def check_recursion(D: ArrayLike, Delta: ArrayLike, omega: ArrayLike, E: ArrayLike) -> float:
    """Return by how much a run violates D_{k+1} <= omega_k D_k - Delta_k + E_k at worst.

    Parameters
    ----------
    D : array_like, shape (K + 1,)
        D_0, ..., D_K of the run.
    Delta, omega, E : float or array_like, shape (K,)
        Those of its steps.

    Returns
    -------
    float
        The largest left side less right side, over the largest D; at most rounding where the
        recursion holds, and negative where it holds with room to spare. -inf for no step.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "Gradient Descent-Type Methods: Background and Simple Unified Convergence Analysis" (2022),
    arXiv 2212.09413, the general recursion.

    Examples
    --------
    >>> check_recursion([8.0, 4.0, 2.0], 0.0, 0.5, 0.0), check_recursion([8.0, 6.0], 0.0, 0.5, 0.0)
    (0.0, 0.25)
    """
    d = check_array("D", D, ndim=1)
    if not len(d):
        raise ValueError("D must not be empty")
    steps = len(d) - 1
    terms = []
    for name, value in (("Delta", Delta), ("omega", omega), ("E", E)):
        term = check_array(name, value)
        terms.append(term if term.ndim == 0 else check_array(name, term, shape=(steps,)))
    less, w, e = terms
    excess = d[1:] - (w * d[:-1] - less + e)
    scale = float(np.abs(d).max())
    worst = float(np.max(excess, initial=-math.inf))
    return worst / scale if scale > 0 else worst


def recursion_rate(scheme: str, k: int | ArrayLike, **constants: Any) -> Any:
    """Return what the recursion promises of a method after k steps, or epochs.

    Parameters
    ----------
    scheme : str
        One of `SCHEMES`, which tells the bound, the quantity, the condition and the constants:
        "gd-nonconvex", "gd-convex", "gd-strong", "subgradient", "nesterov-convex",
        "nesterov-strong", "sgd-convex", "sgd-nonconvex", "svrg", "lsvrg", "saga",
        "sarah-nonconvex".
    k : int or array_like of int
        Steps >= 0; epochs of "svrg"; for "sarah-nonconvex" the steps of its only epoch.
    **constants
        - ``L``: smoothness, of every component for the last four; ``mu``: strong convexity, of
          every component for "saga";
        - ``step``: its length; where the scheme has its own it may be left out;
        - ``gap0``: F(w_0) - F*; ``dist0_sq``: ‖w_0 - w*‖²; ``phi0``: Phi_0 of "lsvrg";
        - ``sigma_sq``: variance of the stochastic gradients, wherever a run goes;
          ``lipschitz``: largest norm of a subgradient;
        - ``n``: components; ``inner_steps``: steps an epoch; ``prob``: of a new snapshot.

        The bound of "saga" is about components with F0 - F* - <∇F(w*), w_0 - w*> = ``gap0``.

    Returns
    -------
    float or ndarray
        The bound for each k; inf where it says nothing.

    Raises
    ------
    TypeError, ValueError
        If there is no such scheme, a constant is missing, unknown or malformed, or the step is
        outside the scheme's condition.

    References
    ----------
    "Gradient Descent-Type Methods: Background and Simple Unified Convergence Analysis" (2022),
    arXiv 2212.09413. "gd-convex" is `bound`, "nesterov-convex" and "subgradient" are `rate`.

    Examples
    --------
    >>> recursion_rate("gd-strong", [0, 1, 2], L=3.0, mu=1.0, step=0.5, dist0_sq=16.0)
    array([16.,  4.,  1.])
    """
    rule = SCHEMES[check_option("scheme", scheme, SCHEMES)]
    for given in constants:
        if given not in rule.needs + rule.may:
            raise ValueError(
                f"{given} is no constant of {scheme!r}, which needs {', '.join(rule.needs)}"
            )
    for needed in rule.needs:
        if constants.get(needed) is None:
            raise ValueError(f"{needed} must be given for {scheme!r}")
    checked = {
        name: _check_constant(name, value) for name, value in constants.items() if value is not None
    }
    if "mu" in checked:
        check_real("mu", checked["mu"], at_most=checked["L"])
    counts = check_array("k", k, dtype=None)
    if counts.dtype.kind not in "iu":
        raise TypeError(f"k must hold integers, got {k!r}")
    if (counts < 0).any():
        raise ValueError(f"k must be >= 0, got {int(counts.min())}")
    _check_step(scheme, rule, checked, int(counts.max(initial=0)))
    with np.errstate(divide="ignore", over="ignore"):
        bounds = np.asarray(rule._formula(counts, **checked), dtype=float)
    return float(bounds) if bounds.ndim == 0 else bounds


def _check_constant(name: str, value: Any) -> float:
    if name in ("n", "inner_steps"):
        return check_count(name, value)
    if name in ("gap0", "dist0_sq", "phi0", "sigma_sq"):
        return check_real(name, value, at_least=0)
    return check_real(name, value, above=0, at_most=1.0 if name == "prob" else None)


def _check_step(scheme: str, rule: Scheme, constants: dict[str, float], most: int) -> None:
    if "step" not in constants:
        return
    step, limit = constants["step"], rule._limit(most, **constants)
    fits = {
        "<": step < limit,
        "<=": step <= limit * (1 + ROUNDING),
        "=": abs(step - limit) <= ROUNDING * limit,
    }
    if not fits[rule._kind]:
        raise ValueError(f"step must be {rule._kind} {limit:g} for {scheme!r}, got {step:g}")
