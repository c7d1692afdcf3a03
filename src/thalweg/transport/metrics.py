"""How far apart two clouds of points, or two Gaussians, are.

Distances between samples (energy, kernel, Wasserstein, sliced Wasserstein, a classifier's accuracy)
and between Gaussians (Bures-Wasserstein, Kullback-Leibler), with the percentages that the
benchmarks of transport plans report. Sums over pairs run in blocks, so no ``n x n`` array is kept.

Source: "Light Schrödinger Bridge" (2023), arXiv 2310.01174, section 5; "A Kernel Two-Sample Test"
(2012); "Energy statistics" (2013).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from thalweg._validation import check_count, check_option, check_real, is_torch_tensor
from thalweg.transport._clouds import check_clouds, check_sizes
from thalweg.transport._gaussian_distances import bures_wasserstein2 as bures_wasserstein2
from thalweg.transport._gaussian_distances import bw2_uvp as bw2_uvp
from thalweg.transport._gaussian_distances import conditional_bw2_uvp as conditional_bw2_uvp
from thalweg.transport._gaussian_distances import gaussian_kl as gaussian_kl
from thalweg.transport._wasserstein import sliced_wasserstein as sliced_wasserstein
from thalweg.transport._wasserstein import wasserstein as wasserstein

Floats: TypeAlias = NDArray[np.float64]


def energy_distance(
    X: ArrayLike,
    Y: ArrayLike,
    *,
    squared: bool = True,
    unbiased: bool = True,
    block: int = 512,
) -> float:
    """Return the energy distance ``2 E|X-Y| - E|X-X'| - E|Y-Y'|`` of two clouds.

    Parameters
    ----------
    X, Y : array_like (n, d), (m, d)
        The clouds.
    squared : bool, default True
        False gives the square root, which is a metric; negative estimates become 0.
    unbiased : bool, default True
        Leave out the pairs of a point with itself (U-statistic), which needs two points a side and
        can be negative; False averages over all pairs (V-statistic).
    block : int, default 512
        Rows a block.

    Returns
    -------
    float
        In the unit of the data (squared), or its square root. Half of the squared distance is what
        papers on bridges of cells call MMD.

    References
    ----------
    Székely and Rizzo, "Energy statistics" (2013).

    Examples
    --------
    >>> energy_distance([[0.0], [0.0]], [[1.0], [1.0]])
    2.0
    """
    X, Y = check_clouds(X, Y, at_least=2 if unbiased else 1)
    block = check_count("block", block)
    centre = (X.mean(0) + Y.mean(0)) / 2
    X, Y = X - centre, Y - centre
    mean_xx, mean_yy, mean_xy = _pair_means(_distances, X, Y, unbiased, block)
    value = float(2 * mean_xy - mean_xx - mean_yy)
    return value if squared else float(np.sqrt(max(value, 0.0)))


def mmd(
    X: Any,
    Y: Any,
    *,
    kernel: str | Callable[[Any, Any], Any] = "rbf",
    bandwidth: float | Sequence[float] | None = None,
    unbiased: bool = True,
    squared: bool = True,
    block: int = 512,
) -> Any:
    """Return the kernel mean discrepancy (MMD) of two clouds.

    Parameters
    ----------
    X, Y : array_like or torch.Tensor (n, d), (m, d)
        The clouds. With tensors the result is a tensor that can be differentiated.
    kernel : "rbf" or callable, default "rbf"
        ``"rbf"`` is ``exp(-|x-y|^2 / (2 bandwidth^2))``; a callable gets ``(n, d)`` and
        ``(m, d)`` and returns the ``(n, m)`` values of a positive definite kernel.
    bandwidth : float or sequence of float, optional
        Width of the Gaussian, in the unit of the data; the kernel of several is their mean. None
        takes `median_distance` of the two clouds. Only for ``"rbf"``.
    unbiased : bool, default True
        Leave out the pairs of a point with itself (U-statistic), which needs two points a side and
        can be negative; False averages over all pairs (V-statistic).
    squared : bool, default True
        False gives the square root; negative estimates become 0.
    block : int, default 512
        Rows a block; tensors are not cut into blocks.

    Returns
    -------
    float or torch.Tensor
        ``mean k(X,X') + mean k(Y,Y') - 2 mean k(X,Y)`` or its square root.

    References
    ----------
    Gretton et al., "A Kernel Two-Sample Test" (2012), eqs. (3) and (5).

    Examples
    --------
    >>> import numpy as np
    >>> a, b = np.zeros((2, 1)), np.ones((2, 1))
    >>> round(mmd(a, b, bandwidth=1.0), 4)
    0.7869
    """
    least = 2 if unbiased else 1
    tensors = is_torch_tensor(X) or is_torch_tensor(Y)
    X, Y = _tensorcheck_clouds(X, Y, least) if tensors else check_clouds(X, Y, at_least=least)
    block = max(len(X), len(Y)) if tensors else check_count("block", block)
    function = _kernel_function(kernel, bandwidth, X, Y)
    mean_xx, mean_yy, mean_xy = _pair_means(function, X, Y, unbiased, block)
    value = mean_xx + mean_yy - 2 * mean_xy
    if not tensors:
        value = float(value)
    if squared:
        return value
    return value.clip(0).sqrt() if tensors else float(np.sqrt(max(value, 0.0)))


def median_distance(X: Any, Y: Any, *, max_points: int = 2000) -> float:
    """Return the median distance between distinct points of the two clouds together.

    Parameters
    ----------
    X, Y : array_like or torch.Tensor (n, d), (m, d)
        The clouds.
    max_points : int, default 2000
        A larger union is thinned to so many evenly spaced rows.

    Returns
    -------
    float
        The usual width of a Gaussian kernel; 1.0 where all points coincide.

    Examples
    --------
    >>> median_distance([[0.0], [1.0]], [[3.0]])
    2.0
    """
    if is_torch_tensor(X) or is_torch_tensor(Y):
        X, Y = (Z.detach().cpu().numpy() for Z in _tensorcheck_clouds(X, Y, 1))
    pooled = np.concatenate(check_clouds(X, Y))
    max_points = check_count("max_points", max_points, at_least=2)
    if len(pooled) > max_points:
        pooled = pooled[np.linspace(0, len(pooled) - 1, max_points).astype(np.int64)]
    pairs = cdist(pooled, pooled)[np.triu_indices(len(pooled), 1)]
    positive = pairs[pairs > 0]
    return float(np.median(positive)) if positive.size else 1.0


def classifier_two_sample(
    X: ArrayLike, Y: ArrayLike, *, model: Any = None, cv: int = 5, rng: Any = None
) -> float:
    """Return how well a classifier tells two clouds apart, as a cross-validated AUC.

    Parameters
    ----------
    X, Y : array_like (n, d), (m, d)
        The clouds, at least `cv` points each.
    model : scikit-learn classifier, optional
        None takes gradient boosting on histograms, with leaves small enough for the clouds.
    cv : int, default 5
        Folds.
    rng : None, int or Generator
        Source of the folds and of the default model's seed.

    Returns
    -------
    float
        Mean area under the ROC curve on the folds left out; 0.5 = indistinguishable, 1 = separate.

    References
    ----------
    Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests" (2016), arXiv 1610.06545.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> X = np.arange(20.0)[:, None]
    >>> classifier_two_sample(X, X + 100, model=LogisticRegression(), rng=0)
    1.0
    """
    from sklearn.base import clone
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    cv = check_count("cv", cv, at_least=2)
    X, Y = check_clouds(X, Y, at_least=cv)
    seed = int(np.random.default_rng(rng).integers(2**31))
    if model is None:
        leaf = min(20, max(2, (len(X) + len(Y)) // 20))
        estimator = HistGradientBoostingClassifier(min_samples_leaf=leaf, random_state=seed)
    else:
        estimator = clone(model)
    folds = StratifiedKFold(cv, shuffle=True, random_state=seed)
    labels = np.repeat([0, 1], [len(X), len(Y)])
    scores = cross_val_score(
        estimator, np.concatenate([X, Y]), labels, scoring="roc_auc", cv=folds, error_score="raise"
    )
    return float(scores.mean())


def _tensorcheck_clouds(X: Any, Y: Any, at_least: int) -> tuple[Any, Any]:
    if not (is_torch_tensor(X) and is_torch_tensor(Y)):
        raise TypeError("X and Y must both be arrays or both be torch tensors")
    for name, Z in (("X", X), ("Y", Y)):
        if Z.ndim != 2 or not Z.is_floating_point():
            raise ValueError(f"{name} must be a floating point tensor with 2 axes")
        if not bool(Z.isfinite().all()):
            raise ValueError(f"{name} must be finite")
    check_sizes(X, Y, at_least)
    return X, Y


def _pair_means(
    function: Callable[[Any, Any], Any], X: Any, Y: Any, unbiased: bool, block: int
) -> tuple[Any, Any, Any]:
    """Average `function` over the pairs of X, of Y, and of X with Y."""
    across = sum(function(A, B).sum() for A in _blocks(X, block) for B in _blocks(Y, block)) / (
        len(X) * len(Y)
    )
    return (
        _mean_within(function, X, unbiased, block),
        _mean_within(function, Y, unbiased, block),
        across,
    )


def _mean_within(function: Callable[[Any, Any], Any], X: Any, unbiased: bool, block: int) -> Any:
    off_diagonal, diagonal = 0.0, 0.0
    blocks = list(_blocks(X, block))
    for i, A in enumerate(blocks):
        square = function(A, A)
        own = square.diagonal().sum()
        diagonal = diagonal + own
        off_diagonal = off_diagonal + square.sum() - own
        for B in blocks[i + 1 :]:
            off_diagonal = off_diagonal + 2 * function(A, B).sum()
    n = len(X)
    return off_diagonal / (n * (n - 1)) if unbiased else (off_diagonal + diagonal) / n**2


def _blocks(X: Any, block: int) -> Iterator[Any]:
    return (X[start : start + block] for start in range(0, len(X), block))


def _squared_distances(A: Any, B: Any) -> Any:
    """Squared distances by one matrix product, for arrays and tensors."""
    squares = (A * A).sum(1)[:, None] + (B * B).sum(1)[None, :] - 2 * (A @ B.T)
    return squares.clip(0)


def _distances(A: Floats, B: Floats) -> Floats:
    """Distances: by a matrix product where that is much cheaper, with its rounding repaired."""
    if A.shape[1] < 8:
        return cdist(A, B)
    squares = A @ (-2 * B.T)
    squares += (A * A).sum(1)[:, None]
    squares += (B * B).sum(1)
    scale = (A * A).sum(1).max(initial=0.0) + (B * B).sum(1).max(initial=0.0)
    if squares.min(initial=np.inf) < 1e-8 * scale:
        rows, columns = np.nonzero(squares < 1e-8 * scale)
        squares[rows, columns] = ((A[rows] - B[columns]) ** 2).sum(1)
    return np.sqrt(squares, out=squares)


def _kernel_function(
    kernel: str | Callable[[Any, Any], Any], bandwidth: Any, X: Any, Y: Any
) -> Callable[[Any, Any], Any]:
    if callable(kernel):
        if bandwidth is not None:
            raise ValueError("bandwidth must be None where kernel is a callable")
        return kernel
    check_option("kernel", kernel, ["rbf"])
    widths = median_distance(X, Y) if bandwidth is None else bandwidth
    widths = [check_real("bandwidth", float(w), above=0) for w in np.atleast_1d(widths)]
    if not widths:
        raise ValueError("bandwidth must not be empty")

    def gaussians(A: Any, B: Any) -> Any:
        squares = _squared_distances(A, B)
        exp = np.exp if isinstance(squares, np.ndarray) else type(squares).exp
        return sum(exp(squares * (-0.5 / width**2)) for width in widths) / len(widths)

    return gaussians
