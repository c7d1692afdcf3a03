"""Transport between Gaussians in closed form: what learned bridges and maps are measured against.

The Schrödinger bridge of two Gaussians is a Gaussian process, so that its coupling, its marginals
and the iterates of discrete-time iterative Markovian fitting are a few matrix products. With
variance `epsilon` of the reference at time 1 the coupling solves entropic optimal transport with
cost ``|x-y|^2 / 2`` and entropy weight `epsilon`.

Source: "Adversarial Schrödinger Bridge Matching" (2024), arXiv 2405.14449, appendix on the Gaussian
case.
"""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_real
from thalweg.transport.reference import check_grid

Floats: TypeAlias = NDArray[np.float64]
LEAST_SHARE = 1e-14
"""Smallest eigenvalue of a covariance, as a share of the largest, that counts as positive."""
ROUNDING = 1e-9


def gaussian_eot(
    m0: ArrayLike, S0: ArrayLike, m1: ArrayLike, S1: ArrayLike, epsilon: float
) -> tuple[Floats, Floats, Floats]:
    """Return the entropic optimal plan of two Gaussians: the ends of their Schrödinger bridge.

    Parameters
    ----------
    m0, m1 : array_like (d,)
        Means.
    S0, S1 : array_like (d, d)
        Covariances: symmetric, positive definite.
    epsilon : float
        Entropy weight, the variance of the reference at time 1; positive.

    Returns
    -------
    cross_cov : array (d, d)
        Cov(x0, x1): ``(S0^(1/2) D S0^(-1/2) - epsilon I) / 2`` with
        ``D = (4 S0^(1/2) S1 S0^(1/2) + epsilon^2 I)^(1/2)``, in a form without cancellation.
    mean : array (2d,)
        Mean of the pair.
    cov : array (2d, 2d)
        Covariance of the pair.

    Raises
    ------
    ValueError
        If shapes do not fit, a covariance is not symmetric and positive definite (the message gives
        its smallest eigenvalue), or `epsilon` is not positive.

    References
    ----------
    "Adversarial Schrödinger Bridge Matching" (2024), arXiv 2405.14449, appendix.

    Examples
    --------
    >>> C, mean, cov = gaussian_eot([0.0], [[2.0]], [1.0], [[3.0]], epsilon=1.0)
    >>> C, mean
    (array([[2.]]), array([0., 1.]))
    """
    m0, S0, m1, S1 = _pair(m0, S0, m1, S1)
    C = _cross_cov(S0, S1, check_real("epsilon", epsilon, above=0))
    return C, np.concatenate([m0, m1]), _joint(S0, S1, C)


def gaussian_bridge_marginal(
    m0: ArrayLike, S0: ArrayLike, m1: ArrayLike, S1: ArrayLike, epsilon: float, t: ArrayLike
) -> tuple[Floats, Floats]:
    """Return the law at time `t` of the Schrödinger bridge of two Gaussians.

    Parameters
    ----------
    m0, S0, m1, S1, epsilon
        As in `gaussian_eot`.
    t : float or array_like (k,)
        Times in [0, 1].

    Returns
    -------
    mean : array (d,) or (k, d)
    cov : array (d, d) or (k, d, d)

    Examples
    --------
    >>> mean, cov = gaussian_bridge_marginal([0.0], [[2.0]], [1.0], [[3.0]], epsilon=1.0, t=0.5)
    >>> mean, cov
    (array([0.5]), array([[2.5]]))
    """
    m0, S0, m1, S1 = _pair(m0, S0, m1, S1)
    epsilon = check_real("epsilon", epsilon, above=0)
    t = check_array("t", t)
    if t.size:
        check_real("t", float(t.min()), at_least=0)
        check_real("t", float(t.max()), at_most=1)
    share = t[..., None]
    C = _cross_cov(S0, S1, epsilon)
    return (1 - share) * m0 + share * m1, _process_cov(S0, S1, C, epsilon, t, t)


def gaussian_ot_map(
    m0: ArrayLike, S0: ArrayLike, m1: ArrayLike, S1: ArrayLike
) -> tuple[Floats, Floats]:
    """Return the optimal transport map ``x -> A x + b`` of two Gaussians for squared distance.

    Parameters
    ----------
    m0, S0, m1, S1
        As in `gaussian_eot`.

    Returns
    -------
    A : array (d, d)
        Symmetric and positive definite, ``A S0 A = S1``.
    b : array (d,)

    Examples
    --------
    >>> gaussian_ot_map([1.0], [[4.0]], [0.0], [[1.0]])
    (array([[0.5]]), array([-0.5]))
    """
    m0, S0, m1, S1 = _pair(m0, S0, m1, S1)
    root, inverse_root = _roots(S0)
    values, vectors = np.linalg.eigh(root @ S1 @ root)
    A = inverse_root @ (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T @ inverse_root
    A = (A + A.T) / 2
    return A, m1 - A @ m0


def gaussian_dimf(
    S0: ArrayLike,
    S1: ArrayLike,
    epsilon: float,
    *,
    n_inner: int = 10,
    n_iter: int = 50,
    times: ArrayLike | None = None,
    C0: ArrayLike | None = None,
) -> list[Floats]:
    """Iterate discrete-time Markovian fitting (D-IMF) of two Gaussians, exactly.

    An iteration fills the current coupling with Brownian bridges at the inner times and replaces
    the result by the Markov chain with the same neighbouring pairs. The means never change, so
    covariances say all.

    Parameters
    ----------
    S0, S1 : array_like (d, d)
        Covariances of the ends: symmetric, positive definite.
    epsilon : float
        Variance of the reference at time 1; positive.
    n_inner : int, default 10
        Inner times, uniform.
    n_iter : int, default 50
        Iterations.
    times : array_like, optional
        Increasing times from 0 to 1 that take the place of `n_inner`.
    C0 : array_like (d, d), optional
        Cov(x0, x1) of the first coupling; None is zero, independence.

    Returns
    -------
    list of n_iter + 1 arrays (d, d)
        Cov(x0, x1) after each iteration, `C0` first.

    Raises
    ------
    ValueError
        If a covariance is not positive definite, `C0` is no covariance of such ends, or `times` do
        not increase from 0 to 1.

    References
    ----------
    "Adversarial Schrödinger Bridge Matching" (2024), arXiv 2405.14449, appendix.

    Examples
    --------
    >>> import numpy as np
    >>> S0, S1 = np.diag([1.0, 2.0]), np.eye(2)
    >>> C = gaussian_dimf(S0, S1, epsilon=1.0, n_inner=3)[-1]
    >>> bool(np.allclose(C, gaussian_eot(np.zeros(2), S0, np.zeros(2), S1, 1.0)[0]))
    True
    """
    S0, S1 = _covariances(S0=S0, S1=S1)
    epsilon = check_real("epsilon", epsilon, above=0)
    n_iter = check_count("n_iter", n_iter, at_least=0)
    if times is None:
        grid = np.linspace(0, 1, check_count("n_inner", n_inner) + 2)
    else:
        grid = check_grid(times)
    C = np.zeros_like(S0) if C0 is None else check_array("C0", C0, shape=S0.shape)
    least = float(np.linalg.eigvalsh(_joint(S0, S1, C))[0])
    if least < -ROUNDING * max(np.trace(S0), np.trace(S1)):
        raise ValueError(
            "C0 must make the covariance of the pair positive semidefinite, got smallest "
            f"eigenvalue {least:.6g}"
        )
    path, now, later = [C], grid[:-1], grid[1:]
    for _ in range(n_iter):
        own = _process_cov(S0, S1, C, epsilon, now, now)
        pairs = _process_cov(S0, S1, C, epsilon, now, later)
        C = S0
        for transition in np.linalg.solve(own, pairs):
            C = C @ transition
        path.append(C)
    return path


def gaussian_ipf(
    S0: ArrayLike,
    S1: ArrayLike,
    epsilon: float,
    *,
    n_iter: int = 20,
    K0: ArrayLike | None = None,
) -> list[Floats]:
    """Iterate proportional fitting (IPF, Sinkhorn) of two centred Gaussians, exactly.

    A round reverses the forward process ``x1 = K x0 + noise`` started at ``N(0, S0)``, starts that
    reverse at ``N(0, S1)`` and reverses it in turn: two half-bridges.

    Parameters
    ----------
    S0, S1 : array_like (d, d)
        Covariances of the ends: symmetric, positive definite.
    epsilon : float
        Variance of the noise of the reference; positive.
    n_iter : int, default 20
        Rounds.
    K0 : array_like (d, d), optional
        Matrix K of the reference; None is the identity, Brownian motion.

    Returns
    -------
    list of n_iter arrays (d, d)
        Cov(x0, x1) of the forward process after each round. The limit is that of `gaussian_eot`
        for the identity, and ``K0^(-1) C`` with its C for covariances ``K0 S0 K0'`` and S1 else.

    Raises
    ------
    ValueError
        If a covariance is not positive definite or another argument is not as stated.

    References
    ----------
    "Simplified Diffusion Schrödinger Bridge" (2024), arXiv 2403.14623, section on IPF; the
    recursion for Gaussians is derived here.

    Examples
    --------
    >>> import numpy as np
    >>> rounds = gaussian_ipf([[2.0]], [[1.5]], epsilon=2.0, n_iter=4)
    >>> [round(float(C[0, 0]), 4) for C in rounds]
    [1.0909, 1.0099, 1.0011, 1.0001]
    """
    S0, S1 = _covariances(S0=S0, S1=S1)
    epsilon = check_real("epsilon", epsilon, above=0)
    n_iter = check_count("n_iter", n_iter)
    eye = np.eye(len(S0))
    K = eye if K0 is None else check_array("K0", K0, shape=S0.shape)
    V, path = epsilon * eye, []
    for _ in range(n_iter):
        B, W = _reverse(K, V, S0)
        K, V = _reverse(B, W, S1)
        path.append(S0 @ K.T)
    return path


def dimf_kl(S0: ArrayLike, S1: ArrayLike, C: ArrayLike, C_star: ArrayLike) -> float:
    """Return the Kullback-Leibler divergence of two Gaussian couplings of the same ends.

    Parameters
    ----------
    S0, S1 : array_like (d, d)
        Covariances of the ends.
    C, C_star : array_like (d, d)
        Cov(x0, x1) of the coupling that is judged and of the one it is judged against.

    Returns
    -------
    float
        ``KL(N(0, J(C)) || N(0, J(C_star)))`` in nats, J the covariance of the pair; infinite where
        J(C) is singular. Small values keep their relative accuracy. For couplings with the inside
        of Brownian bridges it is the divergence of the whole processes.

    Raises
    ------
    ValueError
        If J(C_star) is not positive definite or J(C) not positive semidefinite.

    Examples
    --------
    >>> import numpy as np
    >>> float(np.round(dimf_kl([[1.0]], [[1.0]], [[0.6]], [[0.0]]), 4))
    0.2231
    """
    S0, S1 = _covariances(S0=S0, S1=S1)
    C = check_array("C", C, shape=S0.shape)
    C_star = check_array("C_star", C_star, shape=S0.shape)
    try:
        L = np.linalg.cholesky(_joint(S0, S1, C_star))
    except np.linalg.LinAlgError:
        raise ValueError("C_star must make the covariance of the pair positive definite") from None
    zero = np.zeros_like(S0)
    whitened = np.linalg.solve(L, np.linalg.solve(L, _joint(zero, zero, C - C_star)).T)
    excess = np.linalg.eigvalsh((whitened + whitened.T) / 2)
    if excess[0] < -1 - ROUNDING:
        raise ValueError("C must make the covariance of the pair positive semidefinite")
    if excess[0] <= -1:
        return np.inf
    return float((excess - np.log1p(excess)).sum() / 2)


def _reverse(K: Floats, V: Floats, S: Floats) -> tuple[Floats, Floats]:
    """Return matrix and noise of the reverse of ``y = K x + N(0, V)``, x of covariance S."""
    B = cast(Floats, np.linalg.solve(K @ S @ K.T + V, K @ S).T)
    W = S - B @ K @ S
    return B, (W + W.T) / 2


def _cross_cov(S0: Floats, S1: Floats, epsilon: float) -> Floats:
    root, inverse_root = _roots(S0)
    values, vectors = np.linalg.eigh(root @ S1 @ root)
    values = np.maximum(values, 0.0)
    # (sqrt(4 v + eps^2) - eps) / 2 without the difference of nearly equal numbers
    shrunk = 2 * values / (np.sqrt(4 * values + epsilon**2) + epsilon)
    return cast(Floats, root @ (vectors * shrunk) @ vectors.T @ inverse_root)


def _process_cov(S0: Floats, S1: Floats, C: Floats, epsilon: float, s: Any, u: Any) -> Floats:
    """Return Cov(X_s, X_u), s <= u, of the coupling filled with Brownian bridges."""
    s, u = np.asarray(s)[..., None, None], np.asarray(u)[..., None, None]
    ends = (1 - s) * (1 - u) * S0 + s * u * S1 + (1 - s) * u * C + s * (1 - u) * C.T
    return cast(Floats, ends + epsilon * s * (1 - u) * np.eye(len(S0)))


def _joint(S0: Floats, S1: Floats, C: Floats) -> Floats:
    return np.block([[S0, C], [C.T, S1]])


def _roots(S: Floats) -> tuple[Floats, Floats]:
    """Return S^(1/2) and S^(-1/2)."""
    values, vectors = np.linalg.eigh(S)
    deviations = np.sqrt(values)
    return (vectors * deviations) @ vectors.T, (vectors / deviations) @ vectors.T


def _pair(
    m0: ArrayLike, S0: ArrayLike, m1: ArrayLike, S1: ArrayLike
) -> tuple[Floats, Floats, Floats, Floats]:
    S0, S1 = _covariances(S0=S0, S1=S1)
    d = len(S0)
    return check_array("m0", m0, shape=(d,)), S0, check_array("m1", m1, shape=(d,)), S1


def _covariances(**named: ArrayLike) -> list[Floats]:
    """Return symmetric positive definite matrices of one size."""
    checked: list[Floats] = []
    for name, value in named.items():
        S = check_array(name, value, ndim=2)
        d = len(checked[0]) if checked else len(S)
        if S.shape != (d, d) or not d:
            raise ValueError(f"{name} must have shape ({d or 'd'}, {d or 'd'}), got {S.shape}")
        if not np.allclose(S, S.T, rtol=1e-6, atol=ROUNDING * np.abs(S).max()):
            raise ValueError(f"{name} must be symmetric")
        S = (S + S.T) / 2
        values = np.linalg.eigvalsh(S)
        if values[0] <= LEAST_SHARE * abs(values[-1]):
            raise ValueError(
                f"{name} must be positive definite, got smallest eigenvalue {values[0]:.6g}"
            )
        checked.append(S)
    return checked
