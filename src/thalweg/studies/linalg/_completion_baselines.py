"""What matrix completion is compared with: two other methods, and imputers on football results."""

from __future__ import annotations

import csv
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer

from thalweg import data
from thalweg.linalg import MatrixCompletion

HELD_OUT = 0.2
RANKS = (1, 2, 3)
RIDGES = (0.1, 0.3, 1.0)


def soft_impute(table, observed, n_iter, last=1e-4):
    """Yield tables: fill in, shrink the singular values by a falling threshold, repeat."""
    filled = np.where(observed, table, 0.0)
    values = np.linalg.svd(filled, compute_uv=False)
    for threshold in values[0] * np.geomspace(0.5, last, n_iter):
        left, values, right = np.linalg.svd(filled, full_matrices=False)
        completed = left * np.maximum(values - threshold, 0.0) @ right
        filled = np.where(observed, table, completed)
        yield completed


def factor_descent(table, observed, rank, n_iter, rate=0.5):
    """Yield tables of factors that descend the squared error from the spectral start.

    The step is `rate` over the largest singular value of the table scaled to all entries.
    """
    share = observed.mean()
    left, values, right = np.linalg.svd(np.where(observed, table, 0.0) / share, full_matrices=False)
    u = left[:, :rank] * np.sqrt(values[:rank])
    v = right[:rank].T * np.sqrt(values[:rank])
    step = rate / (share * values[0])
    for _ in range(n_iter):
        residual = np.where(observed, u @ v.T - table, 0.0)
        u, v = u - step * residual @ v, v - step * residual.T @ u
        yield u @ v.T


def football_table(min_games):
    """Return the mean goal difference of each team against each other (NaN: never met), and teams.

    Teams with fewer than `min_games` games are left out.
    """
    with data.open_text(data.fetch("football-results", download=False)) as file:
        games = [
            (row["home_team"], row["away_team"], int(row["home_score"]) - int(row["away_score"]))
            for row in csv.DictReader(file)
            if row["home_score"].isdigit() and row["away_score"].isdigit()
        ]
    names, counts = np.unique([game[:2] for game in games], return_counts=True)
    teams = names[counts >= min_games]
    number = {team: i for i, team in enumerate(teams)}
    total, met = np.zeros((2, len(teams), len(teams)))
    for home, away, difference in games:
        if home in number and away in number:
            i, j = number[home], number[away]
            total[i, j] += difference
            total[j, i] -= difference
            met[i, j] += 1
            met[j, i] += 1
    return np.where(met > 0, total / np.maximum(met, 1), np.nan), teams


def hold_out(table, rng):
    """Return the table without a share of its pairs, both directions, and what was taken."""
    i, j = np.nonzero(np.triu(~np.isnan(table), 1))
    taken = rng.random(len(i)) < HELD_OUT
    i, j = i[taken], j[taken]
    rest = table.copy()
    rest[i, j] = rest[j, i] = np.nan
    return rest, (np.concatenate([i, j]), np.concatenate([j, i]))


def football(min_games, iterative, rng):
    """Errors on held-out pairs of teams; rank and ridge chosen on pairs held out once more."""
    table, teams = football_table(min_games)
    rest, test = hold_out(table, rng)
    inner_rest, inner_test = hold_out(rest, rng)

    def error(completed, place=test):
        return float(np.sqrt(np.mean((completed[place] - table[place]) ** 2)))

    def completion(rank, alpha):
        return MatrixCompletion(rank, alpha=alpha, center=True, tol=1e-4, rng=0)

    tried = {
        (rank, alpha): error(completion(rank, alpha).fit(inner_rest).reconstruct(), inner_test)
        for rank in RANKS
        for alpha in RIDGES
    }
    rank, alpha = min(tried, key=tried.__getitem__)
    model = completion(rank, alpha).fit(rest)
    found = {
        "football_teams": len(teams),
        "football_observed": float(np.mean(~np.isnan(table))),
        "football_rank": rank,
        "football_alpha": alpha,
        "football_completion": error(model.reconstruct()),
        "football_means": error(model.row_means_[:, None] + model.col_means_),
        "football_zero": error(np.zeros_like(table)),
        "football_neighbours": error(KNNImputer(n_neighbors=10).fit_transform(rest)),
    }
    if iterative:
        imputer = IterativeImputer(max_iter=5, n_nearest_features=20, tol=1e-2, random_state=0)
        with warnings.catch_warnings():  # of its own tolerance: five rounds are enough here
            warnings.simplefilter("ignore", ConvergenceWarning)
            found["football_iterative"] = error(imputer.fit_transform(rest))
    return found
