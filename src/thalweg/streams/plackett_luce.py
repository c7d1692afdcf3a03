"""Strengths of players from rankings of two or more (Plackett-Luce), by Newman's iteration.

A ranking is a series of choices: the first is chosen among all with the chance that its strength
has in the sum of theirs, the second among those left, and so on. With two players a ranking this is
the Bradley-Terry model and its iteration.

Source: "Efficient computation of rankings from pairwise comparisons" (2023), arXiv 2207.00076.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.optimize import OptimizeResult
from scipy.sparse.csgraph import connected_components

from thalweg._validation import check_array, check_count, check_real
from thalweg.streams._bradley_terry_kernels import (
    first_repeat,
    list_places,
    ranking_log_likelihood,
    run_ranking_sweeps,
)
from thalweg.streams._newman_iteration import Callback, add_posterior, iterate

Indices = NDArray[np.int64]


def fit_plackett_luce(
    rankings: Sequence[Sequence[int]] | NDArray[np.integer],
    *,
    n_items: int | None = None,
    weights: ArrayLike | None = None,
    prior: float = 1.0,
    tol: float = 1e-6,
    max_iter: int = 10_000,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Fit log strengths to rankings, each of some of the players.

    The player ranked m-th of those still to be placed is chosen with probability
    :math:`\pi_{i_m} / \sum_{k \ge m} \pi_{i_k}`.

    Parameters
    ----------
    rankings : sequence of sequences of int
        Players from 0, best first; lengths of 2 and more, which may differ.
    n_items : int, optional
        Number of players; by default one more than the largest number in `rankings`.
    weights : array_like, shape (n_rankings,), optional
        Weight of each ranking, >= 0.
    prior : float, default 1.0
        Strength of the logistic prior, >= 0, as in `fit_bradley_terry`; 0 is maximum likelihood.
    tol : float, default 1e-6
        Stop when the chance of beating a player of strength 1 changes in a sweep by less than this
        (root mean square over the players).
    max_iter : int, default 10000
        Most sweeps; one costs a number of operations that is quadratic in the rankings' lengths.
    callback : callable, optional
        As in `fit_bradley_terry`.

    Returns
    -------
    OptimizeResult
        As from `fit_bradley_terry`; ``tie_parameter`` is 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, a ranking is shorter than 2 or repeats a player, or with
        ``prior=0`` the maximum does not exist.

    References
    ----------
    M. E. J. Newman, "Efficient computation of rankings from pairwise comparisons", 2023,
    arXiv 2207.00076. D. R. Hunter, "MM algorithms for generalized Bradley-Terry models", 2004.

    Examples
    --------
    >>> fit_plackett_luce([[0, 1, 2], [1, 0, 2], [2, 0]], prior=0).x.round(3)
    array([ 0.063,  0.756, -0.819])
    """
    prior = check_real("prior", prior, at_least=0)
    tol = check_real("tol", tol, above=0)
    max_iter = check_count("max_iter", max_iter)
    items, offsets = _flatten(rankings)
    n_players = int(items.max()) + 1
    if n_items is not None:
        n_items = check_count("n_items", n_items)
        if n_players > n_items:
            raise ValueError(
                f"rankings must name players below n_items={n_items}, got {items.max()}"
            )
        n_players = n_items
    repeat = first_repeat(n_players, items, offsets)
    if repeat >= 0:
        raise ValueError(f"rankings must not repeat a player, got {rankings[repeat]!r}")
    weight = np.ones(len(offsets) - 1)
    if weights is not None:
        weight = check_array("weights", weights, shape=weight.shape)
        if (weight < 0).any():
            raise ValueError(f"weights must be >= 0, got {weight.min():g}")
    if prior == 0:
        _require_maximum(n_players, items, offsets, weight)
    strength, tie = np.ones(n_players), np.zeros(1)
    places = list_places(n_players, items, offsets)

    def sweep(limit: int) -> tuple[int, float, float]:
        return run_ranking_sweeps(strength, items, offsets, weight, *places, prior, tol, limit)

    result = iterate(sweep, strength, tie, tol, max_iter, callback)
    add_posterior(result, prior, *ranking_log_likelihood(strength, items, offsets, weight))
    return result


def _flatten(rankings: Sequence[Sequence[int]] | NDArray[np.integer]) -> tuple[Indices, Indices]:
    """Return all rankings as one array, and where each begins and the last ends."""
    try:
        lengths = np.fromiter(map(len, rankings), dtype=np.int64)
        flat = np.array(list(chain.from_iterable(rankings)))
    except TypeError as error:
        raise TypeError(f"rankings must be sequences of player numbers: {error}") from None
    if lengths.size == 0:
        raise ValueError("rankings must hold at least one ranking, got none")
    if lengths.min() < 2:
        short = int(np.argmin(lengths))
        raise ValueError(f"rankings must have 2 players or more, got {rankings[short]!r}")
    if flat.dtype.kind not in "iu" or flat.ndim != 1:
        raise TypeError(f"rankings must hold player numbers (int), got {flat.dtype}")
    if flat.min() < 0:
        raise ValueError(f"rankings must hold player numbers from 0, got {flat.min()}")
    return flat.astype(np.int64, copy=False), np.concatenate([[0], np.cumsum(lengths)])


def _require_maximum(
    n_players: int, items: Indices, offsets: Indices, weight: NDArray[np.float64]
) -> None:
    """Raise a ValueError unless wins (each over the next in its ranking) connect all both ways."""
    within = np.ones(len(items), dtype=bool)
    within[offsets[1:] - 1] = False
    counted = within & (np.repeat(weight, np.diff(offsets)) > 0)
    winner, loser = items[:-1][counted[:-1]], items[1:][counted[:-1]]
    graph = sparse.csr_array((np.ones(len(winner)), (winner, loser)), shape=(n_players, n_players))
    n_components, _ = connected_components(graph, connection="strong")
    if n_components > 1:
        raise ValueError(
            f"the rankings do not fix the strengths: players fall into {n_components} groups "
            f"without chains of wins both ways (strongly connected components); set prior > 0"
        )
