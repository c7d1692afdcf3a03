"""D, Delta, omega and E of deterministic gradient methods, measured along a run.

`recursion_terms` turns the points of a run into the terms of
D_{k+1} <= omega_k D_k - Delta_k + E_k as the method's proof has them. `check_recursion` then says
whether every step of the run kept the promise that the bound is made of.

Source: "Gradient Descent-Type Methods: Background and Simple Unified Convergence Analysis" (2022),
arXiv 2212.09413; the terms were derived again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_option, check_real

Floats = NDArray[np.float64]


class Terms(NamedTuple):
    """The terms of a run: `D` of shape (K + 1,), the others of shape (K,)."""

    D: Floats
    Delta: Floats
    omega: Floats
    E: Floats


def recursion_terms(
    scheme: str,
    points: ArrayLike,
    *,
    fun: Callable[[Floats], float],
    jac: Callable[[Floats], ArrayLike] | None = None,
    f_star: float,
    x_star: ArrayLike | None = None,
    step: float | None = None,
    L: float | None = None,
    mu: float | None = None,
    lipschitz: float | None = None,
) -> Terms:
    """Return the terms of the recursion that a method's proof sums up, along a run.

    Parameters
    ----------
    scheme : {"gd-nonconvex", "gd-convex", "gd-strong", "subgradient", "nesterov-convex", \
"nesterov-strong"}
        The method and what is assumed of F:

        - gd-nonconvex: D = F - F*, Delta = step (1 - L step / 2) ‖∇F(w_k)‖²
        - gd-convex: D = ‖w - w*‖² / (2 step), Delta = F(w_{k+1}) - F*
        - gd-strong: D = ‖w - w*‖², omega = 1 - 2 step mu L / (L + mu),
          Delta = step (2 / (L + mu) - step) ‖∇F(w_k)‖²
        - subgradient: D = ‖w - w*‖², Delta = 2 step (F(w_k) - F*), E = step² lipschitz²
        - nesterov-convex: D = lambda_k² (F(y_k) - F*) + L/2 ‖lambda_k y_k - (lambda_k - 1) y_{k-1}
          - w*‖² with lambda_0 = 0, y_{-1} = y_0, lambda_{k+1} = (1 + sqrt(1 + 4 lambda_k²)) / 2
        - nesterov-strong: D = F(y_k) - F* + mu/2 ‖v_k - w*‖², omega = 1 - sqrt(mu / L),
          v_k = y_k + (sqrt(L / mu) - 1) (y_k - y_{k-1})

    points : array_like, shape (K + 1, dim)
        The run: w_0, ..., w_K, or of Nesterov's method y_0, ..., y_K as `nesterov` returns them.
    fun, jac : callable
        F and its gradient; `jac` for the schemes whose Delta has one.
    f_star : float
        F*.
    x_star : array_like, shape (dim,), optional
        w*; for all but the first scheme.
    step, L, mu, lipschitz : float, optional
        Those that the terms ask for.

    Returns
    -------
    Terms
        ``D``, ``Delta``, ``omega`` and ``E``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed or missing.

    References
    ----------
    "Gradient Descent-Type Methods: Background and Simple Unified Convergence Analysis" (2022),
    arXiv 2212.09413.

    Examples
    --------
    >>> terms = recursion_terms("gd-strong", [[4.0], [2.0], [1.0]], fun=lambda x: x @ x / 2,
    ...                         jac=lambda x: x, f_star=0.0, x_star=[0.0], step=0.5, L=1.0, mu=1.0)
    >>> terms.D, terms.omega, terms.Delta
    (array([16.,  4.,  1.]), array([0.5, 0.5]), array([4., 1.]))
    """
    terms, needs = _TERMS[check_option("scheme", scheme, _TERMS)]
    w = check_array("points", points, ndim=2)
    given: dict[str, Any] = {"step": step, "L": L, "mu": mu, "lipschitz": lipschitz}
    values: dict[str, Any] = {}
    for name in needs:
        if name == "x_star":
            if x_star is None:
                raise ValueError(f"x_star must be given for {scheme!r}")
            values[name] = check_array("x_star", x_star, shape=(w.shape[1],))
        elif name == "jac":
            if jac is None:
                raise ValueError(f"jac must be given for {scheme!r}")
            gradients = np.array([jac(x) for x in w[:-1]], dtype=float).reshape(-1, w.shape[1])
            values["slopes"] = np.sum(gradients**2, axis=1)
        elif given[name] is None:
            raise ValueError(f"{name} must be given for {scheme!r}")
        else:
            values[name] = check_real(name, given[name], above=0)
    gaps = np.array([float(fun(x)) for x in w]) - check_real("f_star", f_star)
    D, Delta, omega, E = terms(w, gaps, **values)
    steps = len(w) - 1
    return Terms(D, *(np.broadcast_to(term, (steps,)).copy() for term in (Delta, omega, E)))


def _squares(points: Floats, x_star: Floats) -> Floats:
    squares: Floats = np.sum((points - x_star) ** 2, axis=1)
    return squares


def _gd_nonconvex(w, gaps, slopes, step, L):
    return gaps, step * (1 - L * step / 2) * slopes, 1.0, 0.0


def _gd_convex(w, gaps, x_star, step):
    return _squares(w, x_star) / (2 * step), gaps[1:], 1.0, 0.0


def _gd_strong(w, gaps, slopes, x_star, step, L, mu):
    omega = 1 - 2 * step * mu * L / (L + mu)
    return _squares(w, x_star), step * (2 / (L + mu) - step) * slopes, omega, 0.0


def _subgradient(w, gaps, x_star, step, lipschitz):
    return _squares(w, x_star), 2 * step * gaps[:-1], 1.0, (step * lipschitz) ** 2


def _nesterov_convex(w, gaps, x_star, L):
    lambdas = [0.0]
    while len(lambdas) < len(w):
        lambdas.append((1 + math.sqrt(1 + 4 * lambdas[-1] ** 2)) / 2)
    weights = np.array(lambdas)
    leading = w + (weights - 1)[:, None] * (w - _before(w))
    return weights**2 * gaps + L / 2 * _squares(leading, x_star), 0.0, 1.0, 0.0


def _nesterov_strong(w, gaps, x_star, L, mu):
    root = math.sqrt(mu / L)
    leading = w + (1 / root - 1) * (w - _before(w))
    return gaps + mu / 2 * _squares(leading, x_star), 0.0, 1 - root, 0.0


def _before(w: Floats) -> Floats:
    return np.concatenate([w[:1], w[:-1]])


_TERMS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "gd-nonconvex": (_gd_nonconvex, ("jac", "step", "L")),
    "gd-convex": (_gd_convex, ("x_star", "step")),
    "gd-strong": (_gd_strong, ("jac", "x_star", "step", "L", "mu")),
    "subgradient": (_subgradient, ("x_star", "step", "lipschitz")),
    "nesterov-convex": (_nesterov_convex, ("x_star", "L")),
    "nesterov-strong": (_nesterov_strong, ("x_star", "L", "mu")),
}
