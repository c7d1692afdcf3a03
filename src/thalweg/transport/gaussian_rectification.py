"""Rectified flows between Gaussians without a network: what learned flows are measured against.

The pairs of a Gaussian coupling are interpolated by straight lines whose velocity, regressed on the
place, is a matrix for each time. Free matrices give the rectified flow; symmetric ones are the
gradients of potentials, and iterating them leads to the optimal map for squared distance.

Source: "Rectified Flow: A Marginal Preserving Approach to Optimal Transport" (2022), arXiv
2209.14577; the Gaussian case is worked out here.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count
from thalweg.transport.gaussian import _covariances, _joint
from thalweg.transport.integrate import odeint

Floats: TypeAlias = NDArray[np.float64]

COUPLING_TOLERANCE = 1e-6
"""How negative the least eigenvalue of the pair's covariance may be, as a share of the trace: a
coupling that an earlier flow made is singular up to the error of its integration."""
LEAST_SHARE = 1e-12
"""Smallest variance of the interpolation, as a share of the largest, that is taken as positive."""


def gaussian_rectify(
    S0: ArrayLike,
    S1: ArrayLike,
    C: ArrayLike | None = None,
    *,
    conservative: bool = True,
    n_steps: int = 400,
) -> Floats:
    """Return the linear map of the rectified flow of a Gaussian coupling.

    With ``X_t = (1-t) X0 + t X1`` and ``X' = X1 - X0`` the flow solves ``Z' = A_t Z`` from
    ``Z_0 = X0``. Its matrix minimises ``E|A X_t - X'|^2`` over all matrices,
    ``A_t = Cov(X', X_t) Cov(X_t)^-1``, or, if `conservative`, over symmetric ones:
    ``A_t S_t + S_t A_t = K_t + K_t'`` with ``S_t = Cov(X_t)``, ``K_t = Cov(X', X_t)``. The next
    coupling has ``C = S0 G'``.

    Parameters
    ----------
    S0, S1 : array_like (d, d)
        Covariances of both ends: symmetric, positive definite. Means move by a translation.
    C : array_like (d, d), optional
        Cov(X0, X1) of the coupling; None is zero, independence.
    conservative : bool, default True
        Whether the velocity is a gradient: the c-rectified flow for ``|x|^2 / 2``.
    n_steps : int, default 400
        Steps of the classical Runge-Kutta method.

    Returns
    -------
    array (d, d)
        G with ``Z_1 = G Z_0``; ``G S0 G' = S1``.

    Raises
    ------
    ValueError
        If a covariance is not positive definite, or `C` is no covariance of such ends.
    FloatingPointError
        If Cov(X_t) is singular at some t inside (0, 1), as for ``X1 = -X0``; it names the time.

    References
    ----------
    "Rectified Flow: A Marginal Preserving Approach to Optimal Transport" (2022), arXiv 2209.14577,
    sections 3 and 4.

    Examples
    --------
    >>> import numpy as np
    >>> turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    >>> np.round(gaussian_rectify(np.eye(2), np.eye(2), turn.T), 6) + 0.0
    array([[1., 0.],
           [0., 1.]])
    >>> np.round(gaussian_rectify(np.eye(2), np.eye(2), turn.T, conservative=False), 6) + 0.0
    array([[ 0., -1.],
           [ 1.,  0.]])
    """
    S0, S1, C = _coupling(S0, S1, C)
    n_steps = check_count("n_steps", n_steps)
    # The Runge-Kutta method looks at the ends and the middle of each step.
    _, _, fields = _fields(S0, S1, C, np.linspace(0, 1, 2 * n_steps + 1), conservative)

    def velocity(t: float, G: Floats) -> Floats:
        return np.asarray(fields[round(2 * n_steps * t)] @ G)

    return np.asarray(odeint(velocity, np.eye(len(S0)), n_steps=n_steps, method="rk4"))


def gaussian_matching_loss(
    S0: ArrayLike,
    S1: ArrayLike,
    C: ArrayLike | None = None,
    *,
    conservative: bool = True,
    n_nodes: int = 64,
) -> float:
    """Return the least matching loss of a Gaussian coupling, for the cost ``|x|^2 / 2``.

    It is ``int_0^1 E|A_t X_t - X'|^2 / 2 dt`` with the matrices of `gaussian_rectify`: the flow
    lowers the transport cost by at least so much.

    Parameters
    ----------
    S0, S1, C, conservative
        As in `gaussian_rectify`.
    n_nodes : int, default 64
        Nodes of the Gauss-Legendre rule over t.

    Returns
    -------
    float

    References
    ----------
    "Rectified Flow: A Marginal Preserving Approach to Optimal Transport" (2022), arXiv 2209.14577,
    section 4.

    Examples
    --------
    >>> float(np.round(gaussian_matching_loss([[1.0]], [[1.0]], [[0.5]]), 3))
    0.453
    """
    S0, S1, C = _coupling(S0, S1, C)
    nodes, weights = np.polynomial.legendre.leggauss(check_count("n_nodes", n_nodes))
    S, K, A = _fields(S0, S1, C, (1 + nodes) / 2, conservative)
    moved = np.trace(S0 + S1 - C - C.T)
    explained = 2 * np.einsum("tij,tij->t", A, K) - np.einsum("tij,tjk,tik->t", A, S, A)
    return float(weights @ (moved - explained)) / 4


def _fields(
    S0: Floats, S1: Floats, C: Floats, times: Floats, conservative: bool
) -> tuple[Floats, Floats, Floats]:
    """Return Cov(X_t), Cov(X', X_t) and the matrix of the velocity, each (times, d, d)."""
    t = times[:, None, None]
    S = (1 - t) ** 2 * S0 + t**2 * S1 + t * (1 - t) * (C + C.T)
    K = (1 - t) * (C.T - S0) + t * (S1 - C)
    values, vectors = np.linalg.eigh(S)
    singular = values[:, 0] <= LEAST_SHARE * max(np.abs(values).max(), 1e-300)
    if singular.any():
        raise FloatingPointError(
            f"the covariance of the interpolation is singular at t = {times[singular][0]:.6g}: "
            "different pairs meet there"
        )
    back = vectors.swapaxes(1, 2)
    if conservative:
        sums = values[:, :, None] + values[:, None, :]
        A = vectors @ ((back @ (K + K.swapaxes(1, 2)) @ vectors) / sums) @ back
    else:
        A = (K @ vectors / values[:, None, :]) @ back
    return S, K, A


def _coupling(S0: Any, S1: Any, C: Any) -> tuple[Floats, Floats, Floats]:
    S0, S1 = _covariances(S0=S0, S1=S1)
    C = np.zeros_like(S0) if C is None else check_array("C", C, shape=S0.shape)
    least = float(np.linalg.eigvalsh(_joint(S0, S1, C))[0])
    if least < -COUPLING_TOLERANCE * max(np.trace(S0), np.trace(S1)):
        raise ValueError(
            "C must make the covariance of the pair positive semidefinite, got smallest "
            f"eigenvalue {least:.6g}"
        )
    return S0, S1, C
