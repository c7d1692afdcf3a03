"""Unfolding by weights: simulated events are weighted until they look like the measured data.

A classifier that tells two samples apart knows the ratio of their densities. OmniFold uses it
twice in each step: at the detector, to weight the simulation like the data, and on truths, to make
of these weights a function of the truth.

Source: "OmniFold: A Method to Simultaneously Unfold All Observables" (2019), arXiv 1911.09107,
eqs. (4) to (6); the comparison of "Improving Generative Model-based Unfolding with Schrödinger
Bridges" (2023), arXiv 2308.12351.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count

Floats: TypeAlias = NDArray[np.float64]
CLIP = (0.02, 50.0)
"""Least and largest ratio of densities that a classifier is believed."""
LEAVES, LEAF = 8, 100
"""Leaves of a tree of the default classifier, and rows of a leaf: chosen here. Small, well filled
trees follow ratios near one with less noise than scikit-learn's defaults; early stopping would end
before weak differences are seen."""


def omnifold_step(
    truth: ArrayLike,
    measured: ArrayLike,
    data: ArrayLike,
    *,
    classifier: Any = None,
    sample_weight: ArrayLike | None = None,
    rng: Any = None,
) -> Floats:
    """Return weights of simulated truths, by one step of OmniFold.

    Parameters
    ----------
    truth, measured : array_like (n, d), (n, e)
        Simulated events, row by row as they are and as they are measured.
    data : array_like (m, e)
        Measured data.
    classifier : scikit-learn classifier, optional
        With ``predict_proba`` and ``sample_weight`` in its fit; None is gradient boosting on
        histograms.
    sample_weight : array_like (n,), optional
        Weights of the simulation before the step; None is one each.
    rng : None, int or Generator
        Source of the classifiers' seeds.

    Returns
    -------
    array (n,)
        Weights with mean one, a function of the truth alone (and of `sample_weight`).

    Raises
    ------
    ValueError
        If shapes do not agree, entries are not finite, or weights are negative or all zero.

    References
    ----------
    "OmniFold: A Method to Simultaneously Unfold All Observables" (2019), arXiv 1911.09107, eqs. (4)
    to (6). Chosen here: ratios are clipped to [0.02, 50].

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(size=(2000, 1))
    >>> measured = truth + 0.1 * rng.normal(size=(2000, 1))
    >>> weights = omnifold_step(truth, measured, rng.normal(0.5, 1.0, size=(2000, 1)), rng=0)
    >>> bool(abs(np.average(truth[:, 0], weights=weights) - 0.5) < 0.1)
    True
    """
    truth, measured, data = check_simulation(truth, measured, data)
    before = check_weights("sample_weight", sample_weight, len(truth))
    rng = np.random.default_rng(rng)
    at_detector = before * density_ratio(
        data, measured, denominator_weight=before, classifier=classifier, rng=rng
    )
    weights = before * density_ratio(
        truth,
        truth,
        numerator_weight=at_detector,
        denominator_weight=before,
        classifier=classifier,
        rng=rng,
    )
    return np.asarray(weights / weights.mean())


def omnifold(
    truth: ArrayLike,
    measured: ArrayLike,
    data: ArrayLike,
    *,
    n_iterations: int = 4,
    classifier: Any = None,
    sample_weight: ArrayLike | None = None,
    rng: Any = None,
) -> Floats:
    """Return weights of simulated truths, by steps of OmniFold.

    Each step starts from the weights of the one before it, so that what the simulation believed
    before any data counts less and less, and noise counts more.

    Parameters
    ----------
    truth, measured, data, classifier, sample_weight, rng
        As in `omnifold_step`.
    n_iterations : int, default 4
        Steps.

    Returns
    -------
    array (n,)
        Weights with mean one.

    References
    ----------
    "OmniFold: A Method to Simultaneously Unfold All Observables" (2019), arXiv 1911.09107.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(size=(2000, 1))
    >>> measured = truth + rng.normal(size=(2000, 1))
    >>> data = rng.normal(1.0, 2**0.5, size=(2000, 1))
    >>> one, four = (omnifold(truth, measured, data, n_iterations=n, rng=0) for n in (1, 4))
    >>> error = [abs(np.average(truth[:, 0], weights=weights) - 1) for weights in (one, four)]
    >>> bool(error[1] < 0.5 * error[0])
    True
    """
    truth, measured, data = check_simulation(truth, measured, data)
    weights = check_weights("sample_weight", sample_weight, len(truth))
    rng = np.random.default_rng(rng)
    for _ in range(check_count("n_iterations", n_iterations)):
        weights = omnifold_step(
            truth, measured, data, classifier=classifier, sample_weight=weights, rng=rng
        )
    return weights


def density_ratio(
    numerator: Floats,
    denominator: Floats,
    *,
    numerator_weight: Floats | None = None,
    denominator_weight: Floats | None = None,
    classifier: Any = None,
    rng: Any = None,
) -> Floats:
    """Return the ratio of two densities at the rows of `denominator`, from a classifier.

    Both samples count the same in all, whatever their sizes and weights.
    """
    from sklearn.base import clone
    from sklearn.ensemble import HistGradientBoostingClassifier

    seed = int(np.random.default_rng(rng).integers(2**31))
    if classifier is None:
        leaf = min(LEAF, max(2, (len(numerator) + len(denominator)) // 20))
        model = HistGradientBoostingClassifier(
            max_leaf_nodes=LEAVES, min_samples_leaf=leaf, early_stopping=False, random_state=seed
        )
    else:
        model = clone(classifier)
        if "random_state" in model.get_params():
            model.set_params(random_state=seed)
    sides = [
        np.ones(len(rows)) if weight is None else weight
        for rows, weight in ((denominator, denominator_weight), (numerator, numerator_weight))
    ]
    rows = np.concatenate([denominator, numerator])
    weights = np.concatenate([side * (len(rows) / 2 / side.sum()) for side in sides])
    labels = np.repeat([0, 1], [len(denominator), len(numerator)])
    model.fit(rows, labels, sample_weight=weights)
    share = model.predict_proba(denominator)[:, 1]
    return np.clip(share / np.maximum(1 - share, 1e-12), *CLIP)


def check_simulation(
    truth: ArrayLike, measured: ArrayLike, data: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    """Return the arrays, checked for rows that belong together and columns that agree."""
    truth, measured = check_array("truth", truth, ndim=2), check_array("measured", measured, ndim=2)
    if len(truth) != len(measured) or len(truth) < 2:
        raise ValueError(
            "truth and measured must be pairs, at least 2 rows each, got "
            f"{len(truth)} and {len(measured)}"
        )
    data = check_array("data", data, shape=(None, measured.shape[1]))
    if len(data) < 2:
        raise ValueError(f"data must have at least 2 rows, got {len(data)}")
    return truth, measured, data


def check_weights(name: str, weights: ArrayLike | None, n: int) -> Floats:
    """Return weights with mean one; ValueError for negative ones or zeros alone."""
    if weights is None:
        return np.ones(n)
    array = check_array(name, weights, shape=(n,))
    if array.min() < 0 or array.sum() <= 0:
        raise ValueError(f"{name} must be >= 0 with a positive sum, got least {array.min():g}")
    return np.asarray(array / array.mean())
