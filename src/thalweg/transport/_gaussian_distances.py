"""How far apart Gaussians, and the Gaussian fits of clouds, are: the public names of `metrics`."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array
from thalweg.transport._clouds import check_clouds

Floats: TypeAlias = NDArray[np.float64]


def bures_wasserstein2(m1: ArrayLike, C1: ArrayLike, m2: ArrayLike, C2: ArrayLike) -> Any:
    """Return the squared Wasserstein-2 distance of Gaussians.

    Parameters
    ----------
    m1, m2 : array_like (..., d)
        Means.
    C1, C2 : array_like (..., d, d)
        Covariances: symmetric, positive semidefinite. Leading axes broadcast.

    Returns
    -------
    float or array (...)
        ``|m1-m2|^2 + tr(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2))``.

    References
    ----------
    Gelbrich, "On a formula for the L2 Wasserstein metric between measures on Euclidean and Hilbert
    spaces" (1990).

    Examples
    --------
    >>> import numpy as np
    >>> bures_wasserstein2([0.0], [[1.0]], [3.0], [[4.0]])
    10.0
    """
    m1, C1, m2, C2 = _gaussians(m1, C1, m2, C2)
    products = _root("C1", C1) @ _root("C2", C2)
    overlap = np.linalg.svd(products, compute_uv=False).sum(-1)
    spread = np.trace(C1, axis1=-2, axis2=-1) + np.trace(C2, axis1=-2, axis2=-1) - 2 * overlap
    return _scalar(((m1 - m2) ** 2).sum(-1) + np.maximum(spread, 0.0))


def gaussian_kl(m1: ArrayLike, C1: ArrayLike, m2: ArrayLike, C2: ArrayLike) -> Any:
    """Return the Kullback-Leibler divergence of ``N(m1, C1)`` from ``N(m2, C2)``.

    Parameters
    ----------
    m1, m2 : array_like (..., d)
        Means.
    C1, C2 : array_like (..., d, d)
        Covariances: symmetric, positive definite. Leading axes broadcast.

    Returns
    -------
    float or array (...)
        ``(tr(C2^-1 C1) + (m2-m1)' C2^-1 (m2-m1) - d + log det C2 - log det C1) / 2``, in nats.

    Examples
    --------
    >>> gaussian_kl([0.0], [[1.0]], [1.0], [[1.0]])
    0.5
    """
    m1, C1, m2, C2 = _gaussians(m1, C1, m2, C2)
    L1, L2 = _cholesky("C1", C1), _cholesky("C2", C2)
    whitened = np.linalg.solve(L2, L1)
    shift = np.linalg.solve(L2, (m2 - m1)[..., None])
    log_det = _log_diagonal(L2) - _log_diagonal(L1)
    quadratic = (whitened**2).sum((-2, -1)) + (shift**2).sum((-2, -1))
    return _scalar((quadratic - m1.shape[-1]) / 2 + log_det)


def bw2_uvp(
    X: ArrayLike,
    Y: ArrayLike | None = None,
    *,
    mean: ArrayLike | None = None,
    cov: ArrayLike | None = None,
) -> float:
    """Return the unexplained variance percentage of the Gaussian fit of a cloud.

    Parameters
    ----------
    X : array_like (n, d)
        The cloud that is judged.
    Y : array_like (m, d), optional
        The true cloud; or give the true law's `mean` and `cov`.
    mean, cov : array_like (d,), (d, d), optional
        The true law's moments.

    Returns
    -------
    float
        Half the squared Bures-Wasserstein distance over half the true variance, in percent.

    References
    ----------
    "Light Schrödinger Bridge" (2023), arXiv 2310.01174, section 5.2.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[-1.0], [1.0]])
    >>> bw2_uvp(X, mean=[0.0], cov=[[1.0]]), bw2_uvp(X + 1, mean=[0.0], cov=[[1.0]])
    (0.0, 100.0)
    """
    if Y is not None and mean is None and cov is None:
        X, Y = check_clouds(X, Y)
        mean, cov = Y.mean(0), _covariance(Y)
    elif Y is None and mean is not None and cov is not None:
        X = check_array("X", X, ndim=2)
    else:
        raise ValueError("give either Y or both mean and cov")
    cov = check_array("cov", cov, shape=(X.shape[1], X.shape[1]))
    distance = bures_wasserstein2(X.mean(0), _covariance(X), mean, cov)
    return float(100 * distance / _total_variance("cov", cov))


def conditional_bw2_uvp(
    mean: ArrayLike,
    cov: ArrayLike,
    mean_true: ArrayLike,
    cov_true: ArrayLike,
    target_cov: ArrayLike,
) -> float:
    """Return the unexplained variance percentage of a plan's conditional laws.

    Parameters
    ----------
    mean, cov : array_like (n, d), (n, d, d)
        Moments of the conditional laws that are judged, one a source point.
    mean_true, cov_true : array_like (n, d), (n, d, d)
        Moments of the true ones.
    target_cov : array_like (d, d)
        Covariance of the target law.

    Returns
    -------
    float
        Mean over the points of half the squared Bures-Wasserstein distance, over half the target's
        variance, in percent (cBW2-UVP).

    References
    ----------
    "Light Schrödinger Bridge" (2023), arXiv 2310.01174, section 5.2.

    Examples
    --------
    >>> conditional_bw2_uvp([[1.0]], [[[1.0]]], [[0.0]], [[[1.0]]], [[4.0]])
    25.0
    """
    distances = bures_wasserstein2(
        check_array("mean", mean, ndim=2),
        cov,
        check_array("mean_true", mean_true, ndim=2),
        cov_true,
    )
    target_cov = check_array("target_cov", target_cov, ndim=2)
    return float(100 * np.mean(distances) / _total_variance("target_cov", target_cov))


def _gaussians(
    m1: ArrayLike, C1: ArrayLike, m2: ArrayLike, C2: ArrayLike
) -> tuple[Floats, Floats, Floats, Floats]:
    checked = []
    for i, (m, C) in enumerate(((m1, C1), (m2, C2)), start=1):
        m, C = check_array(f"m{i}", m), check_array(f"C{i}", C)
        if m.ndim < 1 or C.ndim < 2 or C.shape[-2:] != (m.shape[-1],) * 2:
            raise ValueError(
                f"C{i} must have shape (..., d, d) for m{i} of shape (..., d), got {C.shape} and "
                f"{m.shape}"
            )
        if not np.allclose(
            C, C.swapaxes(-1, -2), rtol=1e-6, atol=1e-9 * (1 + np.abs(C).max(initial=0))
        ):
            raise ValueError(f"C{i} must be symmetric")
        checked += [m, C]
    if checked[0].shape[-1] != checked[2].shape[-1]:
        raise ValueError(
            f"m1 and m2 must have the same last axis, got {checked[0].shape} and {checked[2].shape}"
        )
    return tuple(checked)  # type: ignore[return-value]


def _root(name: str, C: Floats) -> Floats:
    values, vectors = np.linalg.eigh(C)
    least, largest = values[..., 0], np.maximum(np.abs(values[..., -1]), np.abs(values[..., 0]))
    if (least < -1e-6 * largest).any():
        raise ValueError(f"{name} must be positive semidefinite, got eigenvalue {least.min():.6g}")
    roots = np.sqrt(np.maximum(values, 0.0))[..., None, :]
    return cast(Floats, (vectors * roots) @ vectors.swapaxes(-1, -2))


def _cholesky(name: str, C: Floats) -> Floats:
    try:
        return cast(Floats, np.linalg.cholesky(C))
    except np.linalg.LinAlgError:
        raise ValueError(f"{name} must be positive definite") from None


def _log_diagonal(L: Floats) -> Floats:
    return cast(Floats, np.log(np.diagonal(L, axis1=-2, axis2=-1)).sum(-1))


def _covariance(X: Floats) -> Floats:
    deviations = X - X.mean(0)
    return cast(Floats, deviations.T @ deviations / len(X))


def _total_variance(name: str, cov: Floats) -> float:
    total = float(np.trace(cov))
    if total <= 0:
        raise ValueError(f"{name} must have positive trace, got {total:.6g}")
    return total


def _scalar(values: Floats) -> Any:
    return float(values) if np.ndim(values) == 0 else values
