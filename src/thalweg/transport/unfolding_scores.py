"""How far unfolded events are from the truth, observable by observable.

Source: "Improving Generative Model-based Unfolding with Schrödinger Bridges" (2023), arXiv
2308.12351, table II.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import wasserstein_distance

from thalweg._validation import check_array, check_count
from thalweg.transport.reweighting import check_weights

Floats: TypeAlias = NDArray[np.float64]


def unfolding_report(
    truth: ArrayLike,
    unfolded: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    n_boot: int = 20,
    rng: Any = None,
) -> dict[str, tuple[float, float]]:
    """Return the Wasserstein distance of each observable, with its uncertainty.

    Parameters
    ----------
    truth : array_like (n, d)
        True events.
    unfolded : array_like (m, d)
        Unfolded events.
    weights : array_like (m,), optional
        Weights of `unfolded`, such as OmniFold's; None is one each.
    names : sequence of str, optional
        Names of the columns; None is ``"column 0"`` and so on.
    n_boot : int, default 20
        Bootstrap samples of both; 0 gives uncertainties of NaN.
    rng : None, int or Generator
        Source of the bootstrap samples.

    Returns
    -------
    dict
        Name to (distance W_1, bootstrap deviation), both in standard deviations of the truth.

    Raises
    ------
    ValueError
        If shapes or names do not agree, entries are not finite, or a column of `truth` is constant.

    References
    ----------
    "Improving Generative Model-based Unfolding with Schrödinger Bridges" (2023), arXiv 2308.12351.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.random.default_rng(0).normal(0.0, 2.0, size=(4000, 1))
    >>> report = unfolding_report(truth, truth + 1.0, names=["mass"], rng=0)
    >>> round(report["mass"][0], 2), report["mass"][1] < 0.05
    (0.5, True)
    """
    truth = check_array("truth", truth, ndim=2)
    unfolded = check_array("unfolded", unfolded, shape=(None, truth.shape[1]))
    for name, rows in (("truth", truth), ("unfolded", unfolded)):
        if not len(rows):
            raise ValueError(f"{name} must have rows, got none")
    mass = check_weights("weights", weights, len(unfolded))
    names = [f"column {j}" for j in range(truth.shape[1])] if names is None else list(names)
    if len(set(names)) != truth.shape[1]:
        raise ValueError(f"names must be {truth.shape[1]} different names, got {names!r}")
    n_boot = check_count("n_boot", n_boot, at_least=0)
    spread = check_varying("truth", truth)
    rng = np.random.default_rng(rng)
    distances = column_distances(truth, unfolded, mass) / spread
    again = np.empty((n_boot, len(names)))
    for row in again:
        some, others = (
            rng.integers(len(truth), size=len(truth)),
            rng.integers(len(unfolded), size=len(unfolded)),
        )
        kept = mass[others]
        row[:] = column_distances(
            truth[some], unfolded[others], kept if kept.sum() > 0 else np.ones(len(kept))
        )
    deviations = again.std(0, ddof=1) / spread if n_boot > 1 else np.full(len(names), np.nan)
    return {
        name: (float(distance), float(deviation))
        for name, distance, deviation in zip(names, distances, deviations, strict=True)
    }


def column_distances(truth: Floats, unfolded: Floats, weights: Floats | None = None) -> Floats:
    """Return W_1 of each column, in its own unit."""
    return np.array(
        [
            wasserstein_distance(true, ours, v_weights=weights)
            for true, ours in zip(truth.T, unfolded.T, strict=True)
        ]
    )


def check_varying(name: str, events: Floats, weights: Floats | None = None) -> Floats:
    """Return the deviation of each column; ValueError naming a column that is constant."""
    mean = np.average(events, axis=0, weights=weights)
    deviation = np.sqrt(np.average((events - mean) ** 2, axis=0, weights=weights))
    constant = deviation <= 1e-12 * np.abs(events).max(axis=0, initial=0.0)
    if constant.any():
        column = int(np.argmax(constant))
        raise ValueError(f"{name} must vary in each column, column {column} is constant")
    return np.asarray(deviation)
