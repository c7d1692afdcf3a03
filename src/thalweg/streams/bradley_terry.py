"""Strengths and win probabilities of players from a list of who beat whom (Bradley-Terry).

Zermelo's classic iteration takes up to a hundred times more sweeps on the same games: Newman's
rearrangement of the equation of the maximum has the same fixed point and converges faster. It gives
maximum likelihood (``prior=0``) or, by default, the maximum of the posterior under a logistic
prior, which always exists; ties follow Davidson's model.

Source: "Efficient computation of rankings from pairwise comparisons" (2023), arXiv 2207.00076.
"""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.linalg import eigvals, solve_triangular
from scipy.optimize import OptimizeResult
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.streams._bradley_terry_kernels import log_likelihood, run_sweeps
from thalweg.streams._labels import check_label_pairs, encode, factorize
from thalweg.streams._newman_iteration import Callback, add_posterior, iterate
from thalweg.streams.pairwise import (
    Games,
    games_of_matrices,
    games_of_results,
    require_maximum,
    weigh_results,
)

Floats = NDArray[np.float64]

INITIAL_TIE_PARAMETER = 0.5
LARGEST_LOG_STRENGTH = 600.0  # its exponential still leaves room in floating point


def fit_bradley_terry(
    wins: ArrayLike | sparse.sparray,
    ties: ArrayLike | sparse.sparray | None = None,
    *,
    alpha: float = 0.0,
    prior: float = 1.0,
    accelerate: bool = True,
    tol: float = 1e-6,
    max_iter: int = 10_000,
    x0: ArrayLike | None = None,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Fit log strengths to a matrix of wins.

    Player i beats j with probability :math:`\pi_i / (\pi_i + \pi_j)`. With ties (Davidson) the
    three results have the weights :math:`\pi_i, \pi_j, 2 \nu \sqrt{\pi_i \pi_j}`. Each player's
    strength is updated in turn by

    .. math:: \pi_i \leftarrow
        \frac{\sum_j w_{ij} (\alpha \pi_i + \pi_j) / (\pi_i + \pi_j)}
             {\sum_j (\alpha w_{ij} + w_{ji}) / (\pi_i + \pi_j)}.

    Parameters
    ----------
    wins : array_like or sparse, shape (n, n)
        ``wins[i, j]``: how often, or with what weight, i beat j.
    ties : array_like or sparse, shape (n, n), optional
        Symmetric: how often i and j tied. None, or no tie at all, is the model without ties.
    alpha : float, default 0.0
        Member of the family of iterations: 0 is Newman's rule, 1 Zermelo's; all reach the same
        strengths.
    prior : float, default 1.0
        Strength of the logistic prior on log strengths, >= 0: the number of fictitious wins, and of
        losses, against a player of strength 1. 0 is maximum likelihood.
    accelerate : bool, default True
        With a prior, move all log strengths after each sweep by the common shift that the posterior
        likes best. False is the iteration as published.
    tol : float, default 1e-6
        Stop when the chance of beating a player of strength 1 changes in a sweep by less than this
        (root mean square over the players), and so does the tie parameter's v / (1 + v).
    max_iter : int, default 10000
        Most sweeps.
    x0 : array_like, shape (n,), optional
        Log strengths to start from; zeros by default.
    callback : callable, optional
        ``callback(state)`` after each sweep; `state` has ``x``, ``tie_parameter``, ``nit``,
        ``change`` (what `tol` is compared with) and ``shift`` (what the sweep's end added to every
        entry of ``x`` to set the scale). Raising StopIteration ends the fit.

    Returns
    -------
    OptimizeResult
        ``x`` log strengths (mean 0 if `prior` is 0), ``tie_parameter``, ``fun`` and ``jac`` the
        negative log posterior and its gradient at ``x``, ``log_likelihood``, ``nit`` sweeps,
        ``success``, ``status``, ``message``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or with ``prior=0`` the maximum does not exist: then the
        message says into how many groups the players fall.

    References
    ----------
    M. E. J. Newman, "Efficient computation of rankings from pairwise comparisons", 2023,
    arXiv 2207.00076. R. R. Davidson, "On extending the Bradley-Terry model to accommodate ties in
    paired comparison experiments", 1970.

    Examples
    --------
    >>> wins = [[0, 3, 2], [1, 0, 3], [1, 1, 0]]
    >>> fit_bradley_terry(wins, prior=0).x.round(3)
    array([ 0.658,  0.   , -0.658])
    """
    games = games_of_matrices(wins, ties)
    options = _check_options(alpha, prior, accelerate, tol, max_iter)
    strength = np.ones(games.n_players)
    if x0 is not None:
        start = check_array("x0", x0, shape=(games.n_players,))
        start = start if prior > 0 else start - start.mean()
        if np.abs(start).max() > LARGEST_LOG_STRENGTH:
            raise ValueError(
                f"x0 must lie within {LARGEST_LOG_STRENGTH:g} of 0 (of its mean if prior is 0), "
                f"got {start[np.argmax(np.abs(start))]:g}"
            )
        strength = np.exp(start)
    return _fit_games(games, strength, callback, **options)


class BradleyTerry(BaseEstimator):
    """Strengths, win probabilities and a ranking of labelled players from their games.

    Parameters
    ----------
    alpha, prior, accelerate, tol, max_iter
        As in `fit_bradley_terry`.
    ties : {"half", "drop", "davidson"}, default "half"
        A tie counts as half a win for both, or not at all, or is a result of its own with a
        probability that the tie parameter sets.

    Attributes
    ----------
    items_ : ndarray, shape (n_items,)
        The players, sorted where they can be.
    strengths_, log_strengths_ : ndarray, shape (n_items,)
        Strengths (geometric mean 1 if `prior` is 0) and their logarithms.
    tie_parameter_ : float
        Davidson's v; 0 without ties.
    log_likelihood_ : float
        Log-likelihood of the games, without the prior.
    n_iter_ : int
        Sweeps done.
    standard_errors_ : ndarray, shape (n_items,)
        Standard errors of the log strengths, from the Fisher information and the prior's; computed
        on first use with dense matrices of n_items squared numbers.

    References
    ----------
    M. E. J. Newman, "Efficient computation of rankings from pairwise comparisons", 2023,
    arXiv 2207.00076.

    Examples
    --------
    >>> games = [["ann", "bob"], ["ann", "cat"], ["ann", "bob"], ["bob", "ann"], ["bob", "cat"]]
    >>> model = BradleyTerry().fit(games)
    >>> model.ranking()
    array(['ann', 'bob', 'cat'], dtype='<U3')
    >>> model.predict_proba([["ann", "cat"]]).round(2)
    array([[0.83, 0.17]])
    """

    def __init__(
        self,
        *,
        alpha: float = 0.0,
        prior: float = 1.0,
        ties: str = "half",
        accelerate: bool = True,
        tol: float = 1e-6,
        max_iter: int = 10_000,
    ) -> None:
        self.alpha = alpha
        self.prior = prior
        self.ties = ties
        self.accelerate = accelerate
        self.tol = tol
        self.max_iter = max_iter

    def fit(
        self, X: ArrayLike, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Fit the strengths.

        Parameters
        ----------
        X : array_like, shape (n_games, 2)
            Labels of the two players of each game: strings, numbers or hashable objects; a pandas
            frame of two columns will do.
        y : array_like, shape (n_games,), optional
            1 where the first player won, 0 where the second did, 0.5 for a tie. By default the
            first player won every game.
        sample_weight : array_like, shape (n_games,), optional
            Weight of each game, >= 0.

        Returns
        -------
        BradleyTerry
            Itself.

        Raises
        ------
        TypeError, ValueError
            If an argument is malformed, or with ``prior=0`` the maximum does not exist.
        """
        options = _check_options(self.alpha, self.prior, self.accelerate, self.tol, self.max_iter)
        check_option("ties", self.ties, ("half", "drop", "davidson"))
        pairs = check_label_pairs("X", X)
        items, codes = factorize("X", pairs)
        won, lost, drawn = weigh_results(pairs, codes, y, sample_weight)
        if self.ties == "half":
            won, lost = won + 0.5 * drawn, lost + 0.5 * drawn
        games = games_of_results(
            len(items), codes, won, lost, drawn if self.ties == "davidson" else None
        )
        result = _fit_games(games, np.ones(len(items)), None, **options)
        if not result.success:
            warnings.warn(result.message, ConvergenceWarning, stacklevel=2)
        self.n_features_in_ = 2
        self.items_ = items
        self.log_strengths_ = result.x
        self.strengths_ = np.exp(result.x)
        self.tie_parameter_ = result.tie_parameter
        self.log_likelihood_ = result.log_likelihood
        self.n_iter_ = result.nit
        self._games = games
        self._fitted_prior = options["prior"]
        self._fitted_ties = self.ties
        self._standard_errors: Floats | None = None
        return self

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return the probabilities of the results of games.

        Parameters
        ----------
        X : array_like, shape (n_games, 2)
            Labels of the two players of each game.

        Returns
        -------
        ndarray, shape (n_games, 2) or, with ``ties="davidson"``, (n_games, 3)
            Columns: the first wins, (a tie,) the second wins.

        Raises
        ------
        ValueError
            If a label was not seen by `fit`.
        """
        check_is_fitted(self)
        pairs = check_label_pairs("X", X)
        strengths = self.log_strengths_[encode("X", pairs, self.items_)]
        ahead = strengths[:, 0] - strengths[:, 1]
        if self._fitted_ties != "davidson":
            return np.stack([expit(ahead), expit(-ahead)], axis=1)
        with np.errstate(divide="ignore"):
            tie = np.full_like(ahead, np.log(2.0 * self.tie_parameter_))
        return softmax(np.stack([ahead / 2, tie, -ahead / 2], axis=1), axis=1)

    def ranking(self) -> NDArray[Any]:
        """Return the players, strongest first."""
        check_is_fitted(self)
        return self.items_[np.argsort(-self.log_strengths_, kind="stable")]

    @property
    def standard_errors_(self) -> Floats:
        """Standard errors of the log strengths."""
        check_is_fitted(self)
        if self._standard_errors is None:
            self._standard_errors = _standard_errors(
                self._games, self.log_strengths_, self.tie_parameter_, self._fitted_prior
            )
        return self._standard_errors

    def __sklearn_tags__(self) -> Tags:
        """Labels may be strings, and the results are optional."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags


def convergence_rate(
    wins: ArrayLike | sparse.sparray, x: ArrayLike, *, alpha: float = 0.0, prior: float = 0.0
) -> float:
    """Return the factor by which a sweep shrinks the distance to the solution, near it.

    It is the largest eigenvalue modulus of a sweep's linearisation in the log strengths, the free
    scale left out when `prior` is 0, for the iteration as published (``accelerate=False``).

    Parameters
    ----------
    wins : array_like or sparse, shape (n, n)
        ``wins[i, j]``: how often i beat j.
    x : array_like, shape (n,)
        The solution: log strengths as `fit_bradley_terry` returns them.
    alpha, prior : float, default 0.0
        As given to the fit.

    Returns
    -------
    float
        The rate, in [0, 1) where the maximum exists.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    M. E. J. Newman, "Efficient computation of rankings from pairwise comparisons", 2023,
    arXiv 2207.00076, on the rate of convergence.

    Examples
    --------
    >>> wins = [[0, 3, 2], [1, 0, 3], [1, 1, 0]]
    >>> x = fit_bradley_terry(wins, prior=0, tol=1e-12).x
    >>> [round(convergence_rate(wins, x, alpha=alpha), 2) for alpha in (0, 1)]
    [0.11, 0.52]
    """
    games = games_of_matrices(wins)
    x = check_array("x", x, shape=(games.n_players,))
    alpha = check_real("alpha", alpha, at_least=0)
    prior = check_real("prior", prior, at_least=0)
    if games.n_players == 1:
        return 0.0
    # The update's Jacobian is I - H / N: H the Fisher information, N the update's numerator.
    chance = expit(x[:, None] - x)
    numerator = (games.dense(games.won) * (1 - (1 - alpha) * chance)).sum(1)
    numerator += prior * (1 - (1 - alpha) * expit(x))
    jacobian = np.eye(len(x)) - _information(games, x, 0.0, prior) / numerator[:, None]
    before = np.tril(jacobian, -1)
    sweep = solve_triangular(
        np.eye(len(x)) - before, jacobian - before, lower=True, unit_diagonal=True
    )
    if prior == 0:
        sweep -= sweep.mean(axis=0)
    return float(np.abs(eigvals(sweep)).max())


def _check_options(
    alpha: Any, prior: Any, accelerate: Any, tol: Any, max_iter: Any
) -> dict[str, Any]:
    return {
        "alpha": check_real("alpha", alpha, at_least=0),
        "prior": check_real("prior", prior, at_least=0),
        "accelerate": bool(check_option("accelerate", accelerate, (True, False))),
        "tol": check_real("tol", tol, above=0),
        "max_iter": check_count("max_iter", max_iter),
    }


def _fit_games(
    games: Games,
    strength: Floats,
    callback: Callback | None,
    *,
    alpha: float,
    prior: float,
    accelerate: bool,
    tol: float,
    max_iter: int,
) -> OptimizeResult:
    require_maximum(games, prior)
    tie = np.full(1, INITIAL_TIE_PARAMETER if games.tied.size else 0.0)

    def sweep(limit: int) -> tuple[int, float, float]:
        return run_sweeps(strength, tie, *games, alpha, prior, accelerate, tol, limit)

    result = iterate(sweep, strength, tie, tol, max_iter, callback)
    add_posterior(result, prior, *log_likelihood(strength, tie[0], *games))
    return result


def _information(games: Games, x: Floats, tie: float, prior: float) -> Floats:
    """Fisher information of the log strengths, the tie parameter profiled out."""
    played = games.dense(games.won + games.lost)
    if games.tied.size:
        played += games.dense(games.tied)
    half = (x[:, None] - x) / 2
    weight = np.exp(half) + np.exp(-half) + 2 * tie
    win, draw = np.exp(half) / weight, 2 * tie / weight
    # Natural statistics of a game: half its signed result, of this variance, and whether it tied.
    variance = played * (win * win.T + draw * (win + win.T) / 4)
    information = np.diag(variance.sum(1) + 2 * prior * expit(x) * expit(-x)) - variance
    if tie > 0:
        with_tie = (played * (win.T - win) * draw).sum(1) / 2
        information -= np.outer(with_tie, with_tie) / ((played * draw * (1 - draw)).sum() / 2)
    return information


def _standard_errors(games: Games, x: Floats, tie: float, prior: float) -> Floats:
    information = _information(games, x, tie, prior)
    if prior > 0:
        return np.sqrt(np.diag(np.linalg.inv(information)))
    # The information is singular along the common shift only: its pseudo-inverse.
    level = 1 / len(x)
    return np.sqrt(np.maximum(np.diag(np.linalg.inv(information + level)) - level, 0.0))
