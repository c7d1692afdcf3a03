"""Hamiltonian trajectories: the leapfrog that samplers use, and Euler's method that they cannot.

The leapfrog preserves volume and is reversible, so its energy error stays bounded over very long
times; Euler's method is neither and drifts away.

Source: "A Conceptual Introduction to Hamiltonian Monte Carlo" (2017), arXiv 1701.02434, section 5.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_real
from thalweg.inference import _density
from thalweg.inference._chains import CHAIN, check_metric, new_chain
from thalweg.inference._density import LogDensity
from thalweg.inference._hmc_kernels import P, Q, euler_path, leapfrog_path

Floats = NDArray[np.float64]


def leapfrog(
    logdensity: LogDensity,
    q: ArrayLike,
    p: ArrayLike,
    step_size: float,
    n_steps: int,
    inverse_metric: ArrayLike | None = None,
) -> tuple[Floats, Floats, Floats]:
    """Follow Hamilton's equations by the leapfrog.

    Each step is half a kick ``p += step/2 grad log pi(q)``, a drift ``q += step M^-1 p`` and half a
    kick; the energy is ``-log pi(q) + p' M^-1 p / 2``.

    Parameters
    ----------
    logdensity : callable
        ``logdensity(x) -> (value, gradient)``, compiled by Numba or any callable.
    q, p : array_like, shape (d,)
        Position and momentum to start from.
    step_size : float
        Length of a step; negative goes backward in time.
    n_steps : int
        Number of steps, >= 0.
    inverse_metric : array_like, shape (d,) or (d, d), optional
        Inverse mass matrix; 1 if None.

    Returns
    -------
    q, p : ndarray, shape (d,)
        Where the trajectory ends.
    energy : ndarray, shape (n_steps + 1,)
        Energy along it.

    Raises
    ------
    ValueError
        If an argument is out of range or the log density is not finite at q.

    References
    ----------
    .. [1] "A Conceptual Introduction to Hamiltonian Monte Carlo" (2017), arXiv 1701.02434,
       section 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> circle = lambda x: (-0.5 * x @ x, -x)
    >>> q, p, energy = leapfrog(circle, [1.0], [0.0], 0.01, 157)
    >>> bool(abs(q[0]) < 1e-3), bool(np.ptp(energy) < 1e-4)
    (True, True)
    """
    return _follow(leapfrog_path, logdensity, q, p, step_size, n_steps, inverse_metric)


def explicit_euler(
    logdensity: LogDensity,
    q: ArrayLike,
    p: ArrayLike,
    step_size: float,
    n_steps: int,
    inverse_metric: ArrayLike | None = None,
) -> tuple[Floats, Floats, Floats]:
    """Follow Hamilton's equations by Euler's method, whose energy drifts.

    Position and momentum move at once: ``q += step M^-1 p``, ``p += step grad log pi(q)`` with the
    gradient of the old position. Parameters, results and errors are those of `leapfrog`.

    Examples
    --------
    >>> circle = lambda x: (-0.5 * x @ x, -x)
    >>> _, _, energy = explicit_euler(circle, [1.0], [0.0], 0.1, 100)
    >>> round(float(energy[-1] / energy[0]), 2)  # (1 + 0.1**2)**100
    2.7
    """
    return _follow(euler_path, logdensity, q, p, step_size, n_steps, inverse_metric)


def _follow(
    path: Any,
    logdensity: LogDensity,
    q: ArrayLike,
    p: ArrayLike,
    step_size: float,
    n_steps: int,
    inverse_metric: ArrayLike | None,
) -> tuple[Floats, Floats, Floats]:
    density = _density.prepare(
        "logdensity", logdensity, _density.DENSITY, _density.value_and_gradient
    )
    q = check_array("q", q, ndim=1)
    p = check_array("p", p, shape=q.shape)
    step_size = check_real("step_size", step_size)
    energy = np.empty(check_count("n_steps", n_steps, at_least=0) + 1)
    if inverse_metric is None:
        metric: str | Floats = "unit"
    else:
        metric = check_metric(check_array("inverse_metric", inverse_metric), q.size)
    chain = new_chain(density, q, metric)
    points = np.stack([q, p, chain.gradient, np.zeros_like(q)])[None]
    if _density.is_compiled(density):
        kernel = _density.compile_for(
            path,
            _density.DENSITY,
            CHAIN,
            numba.typeof(points),
            types.float64,
            _density.VECTOR,
        )
    else:
        kernel = _density.as_python(path)
    kernel(density, chain, points, step_size, energy)
    return points[0, Q].copy(), points[0, P].copy(), energy
