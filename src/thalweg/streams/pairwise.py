"""Results of games between labelled players, as weighted counts of who beat whom.

`wins_matrix` makes the counts, `is_identifiable` says whether they alone fix the strengths: they do
exactly when everybody can be reached from everybody by a chain of wins (Ford 1957).

Source: "Efficient computation of rankings from pairwise comparisons" (2023), arXiv 2207.00076.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.csgraph import NegativeCycleError, bellman_ford, connected_components

from thalweg._validation import check_array
from thalweg.streams._bradley_terry_kernels import collect_games, reaches_all
from thalweg.streams._labels import check_label_pairs, encode, factorize

Floats = NDArray[np.float64]


def wins_matrix(
    X: ArrayLike,
    y: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    *,
    items: ArrayLike | None = None,
) -> tuple[NDArray[Any], sparse.csr_array, sparse.csr_array]:
    """Count wins and ties between labelled players.

    Parameters
    ----------
    X : array_like, shape (n_games, 2)
        Labels of the two players of each game: strings, numbers or hashable objects.
    y : array_like, shape (n_games,), optional
        1 where the first player won, 0 where the second did, 0.5 for a tie. By default the first
        player won every game.
    sample_weight : array_like, shape (n_games,), optional
        Weight of each game, >= 0.
    items : array_like, shape (n_items,), optional
        The players and their order. Counts of several parts of the data, made with the same
        `items`, are added to get the counts of the whole.

    Returns
    -------
    items : ndarray, shape (n_items,)
        The players, sorted where they can be.
    wins : csr_array, shape (n_items, n_items)
        ``wins[i, j]``: weight of the games that i won against j.
    ties : csr_array, shape (n_items, n_items)
        Weight of the games tied between i and j, symmetric.

    Raises
    ------
    ValueError
        If `X`, `y` or `sample_weight` are malformed, a label is missing or not among `items`, or a
        player meets itself.

    Examples
    --------
    >>> items, wins, ties = wins_matrix([["ann", "bob"], ["bob", "cat"]], [1, 0.5])
    >>> items
    array(['ann', 'bob', 'cat'], dtype='<U3')
    >>> wins.toarray()[0], ties.toarray()[1]
    (array([0., 1., 0.]), array([0., 0., 1.]))
    """
    pairs = check_label_pairs("X", X)
    if items is None:
        known, codes = factorize("X", pairs)
    else:
        known = np.asarray(items)
        if known.ndim != 1 or len(set(known.tolist())) < len(known):
            raise ValueError(f"items must be distinct labels of shape (n_items,), got {items!r}")
        codes = encode("X", pairs, known)
    won, lost, drawn = weigh_results(pairs, codes, y, sample_weight)
    first, second = codes[:, 0], codes[:, 1]
    return (
        known,
        _counts(len(known), first, second, won, lost),
        _counts(len(known), first, second, drawn, drawn),
    )


def is_identifiable(wins: ArrayLike | sparse.sparray) -> bool:
    """Whether wins alone fix all strengths: everybody reaches everybody by a chain of wins.

    Parameters
    ----------
    wins : array_like or sparse, shape (n, n)
        ``wins[i, j]``: how often i beat j.

    Returns
    -------
    bool
        True if the maximum likelihood estimate exists and is unique.

    Raises
    ------
    ValueError
        If `wins` is not square, non-negative and finite with a zero diagonal.

    References
    ----------
    L. R. Ford, "Solution of a ranking problem from binary comparisons", 1957.

    Examples
    --------
    >>> is_identifiable([[0, 1], [2, 0]]), is_identifiable([[0, 1], [0, 0]])
    (True, False)
    """
    return _is_strong(games_of_matrices(wins))


class Games(NamedTuple):
    """Games by player: row i of `opponent` and the weights is ``start[i]:start[i + 1]``."""

    start: NDArray[np.int64]
    opponent: NDArray[np.uint32]
    won: Floats
    lost: Floats
    tied: Floats

    @property
    def n_players(self) -> int:
        """Number of players."""
        return len(self.start) - 1

    def dense(self, weights: Floats) -> Floats:
        """Return one weight a row entry as a matrix (zero for an empty `weights`)."""
        n = self.n_players
        matrix = np.zeros((n, n))
        if weights.size:
            matrix[np.repeat(np.arange(n), np.diff(self.start)), self.opponent] = weights
        return matrix


def games_of_results(
    n: int, codes: NDArray[np.int64], won: Floats, lost: Floats, drawn: Floats | None = None
) -> Games:
    """Collect games given as pairs of player numbers with the weights of their results."""
    first, second = np.ascontiguousarray(codes.T)
    if drawn is None or not drawn.any():
        drawn = np.empty(0)
    return Games(*collect_games(n, first, second, won, lost, drawn))


def games_of_matrices(wins: Any, ties: Any = None) -> Games:
    """Collect games given as matrices of wins and ties.

    Raises
    ------
    TypeError, ValueError
        If a matrix is malformed; the message names it.
    """
    n, winner, loser, won = _entries("wins", wins)
    if ties is None:
        codes = np.stack([winner, loser], axis=1)
        return games_of_results(n, codes, won, np.zeros_like(won))
    n_ties, first, second, drawn = _entries("ties", ties)
    if n_ties != n:
        raise ValueError(f"ties must have the shape of wins, ({n}, {n}), got ({n_ties}, {n_ties})")
    matrix = sparse.csr_array((drawn, (first, second)), shape=(n, n))
    if abs(matrix - matrix.T).max() > 1e-10 * max(matrix.max(), 0.0):
        raise ValueError("ties must be symmetric: ties[i, j] counts the same games as ties[j, i]")
    upper = first < second
    codes = np.stack(
        [np.concatenate([winner, first[upper]]), np.concatenate([loser, second[upper]])], axis=1
    )
    none = np.zeros(int(upper.sum()))
    return games_of_results(
        n,
        codes,
        np.concatenate([won, none]),
        np.zeros(len(codes)),
        np.concatenate([np.zeros_like(won), drawn[upper]]),
    )


def weigh_results(
    pairs: NDArray[Any],
    codes: NDArray[np.int64],
    y: ArrayLike | None,
    sample_weight: ArrayLike | None,
) -> tuple[Floats, Floats, Floats]:
    """Return the weight of a first player's win, of a second's and of a tie, game by game.

    Raises
    ------
    ValueError
        If a player meets itself, or `y` or `sample_weight` do not fit the games.
    """
    n_games = len(codes)
    with_itself = codes[:, 0] == codes[:, 1]
    if with_itself.any():
        row = int(np.argmax(with_itself))
        label = pairs[row].tolist()[0]
        raise ValueError(f"X must pair different items, got {label!r} twice in row {row}")
    weight = np.ones(n_games)
    if sample_weight is not None:
        weight = check_array("sample_weight", sample_weight, shape=(n_games,))
        if (weight < 0).any():
            raise ValueError(f"sample_weight must be >= 0, got {weight.min():g}")
        if not weight.any():
            raise ValueError("sample_weight must contain at least one non-zero number, got zeros")
    if y is None:
        return weight, np.zeros(n_games), np.zeros(n_games)
    result = check_array("y", y, shape=(n_games,))
    first, second, tie = result == 1.0, result == 0.0, result == 0.5
    known = first | second | tie
    if not known.all():
        row = int(np.argmin(known))
        raise ValueError(
            f"y must hold 1 (the first won), 0 (the second won) or 0.5 (tie), "
            f"got {result[row]:g} in row {row}"
        )
    return weight * first, weight * second, weight * tie


def require_maximum(games: Games, prior: float) -> None:
    """Raise a ValueError that says what to do where the estimate would not exist."""
    has_ties = games.tied.size > 0
    if has_ties and not games.won.any():
        raise ValueError("ties need at least one game that somebody won, got ties only")
    if prior > 0:
        return
    if not _is_strong(games):
        n_components, _ = connected_components(
            _graph(games, games.won + games.tied if has_ties else games.won), connection="strong"
        )
        raise ValueError(
            f"the games do not fix the strengths: they fall into {n_components} groups without "
            f"chains of wins both ways (strongly connected components); set prior > 0"
        )
    if has_ties and _ties_outrun_wins(games):
        raise ValueError(
            "the games do not fix the tie parameter: no round of wins and ties has more wins than "
            "ties; set prior > 0"
        )


def _is_strong(games: Games) -> bool:
    won, lost = games.won, games.lost
    if games.tied.size:
        won, lost = won + games.tied, lost + games.tied
    return bool(
        reaches_all(games.start, games.opponent, won)
        and reaches_all(games.start, games.opponent, lost)
    )


def _ties_outrun_wins(games: Games) -> bool:
    """Whether strengths and tie parameter can grow together for ever without loss of likelihood.

    They can if log strengths exist that differ by at least 2 in every win and at most 2 in every
    tie; these difference constraints can be met exactly when their graph has no negative cycle.
    """
    limits = np.where(games.won > 0, -2.0, np.where(games.tied > 0, 2.0, 0.0))
    try:
        bellman_ford(_graph(games, limits), indices=0)
    except NegativeCycleError:
        return False
    return True


def _graph(games: Games, weights: Floats) -> sparse.csr_array:
    n = games.n_players
    graph = sparse.csr_array(
        (weights, games.opponent.astype(np.int32), games.start), shape=(n, n), copy=True
    )
    graph.eliminate_zeros()
    return graph


def _counts(
    n: int, first: NDArray[np.int64], second: NDArray[np.int64], forward: Floats, backward: Floats
) -> sparse.csr_array:
    weights = np.concatenate([forward, backward])
    rows, columns = np.concatenate([first, second]), np.concatenate([second, first])
    counts = sparse.csr_array((weights, (rows, columns)), shape=(n, n))
    counts.eliminate_zeros()
    return counts


def _entries(name: str, matrix: Any) -> tuple[int, NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return the size and the entries of a square matrix of weights, none on the diagonal."""
    if not sparse.issparse(matrix):
        matrix = check_array(name, matrix, ndim=2)
    entries = sparse.coo_array(matrix)
    if entries.ndim != 2 or entries.shape[0] != entries.shape[1] or entries.shape[0] == 0:
        raise ValueError(f"{name} must have shape (n, n) with n >= 1, got {entries.shape}")
    entries.sum_duplicates()
    row, column = (index.astype(np.int64) for index in entries.coords)
    weights = check_array(name, entries.data)
    if (weights < 0).any():
        raise ValueError(f"{name} must be >= 0, got {weights.min():g}")
    on_diagonal = (row == column) & (weights > 0)
    if on_diagonal.any():
        player = int(row[np.argmax(on_diagonal)])
        raise ValueError(
            f"{name} must have a zero diagonal, got {weights[on_diagonal][0]:g} at player {player}"
        )
    off = row != column
    return entries.shape[0], row[off], column[off], weights[off]
