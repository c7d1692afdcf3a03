"""What the transfer is compared with, how all are judged, and multipliers of known problems."""

from __future__ import annotations

import numpy as np
from scipy.stats import wasserstein_distance
from sklearn.ensemble import HistGradientBoostingClassifier

from thalweg.descent import minimize_differential_multipliers
from thalweg.transport import diphoton_mass

FEATURES = ("log pt1", "log pt2", "eta1", "eta2", "dphi", "iso1", "iso2", "width1")
MASS_WINDOW = (100.0, 160.0)
ODDS_LIMIT = 50.0


def features(table):
    """Return the features (n, 8) and the condition (n, 1) of a table of events."""
    columns = [np.log(table["pt1"]), np.log(table["pt2"])]
    columns += [table[name] for name in FEATURES[2:]]
    return np.column_stack(columns), table["pileup"][:, None]


def masses(Z):
    """Return the invariant masses inside the window, in GeV, of rows of all eight features."""
    names = ("pt1", "pt2", "eta1", "eta2", "dphi")
    table = dict(zip(names, [*np.exp(Z[:, :2].T), *Z[:, 2:5].T], strict=True))
    mass = diphoton_mass(table)
    return mass[(mass >= MASS_WINDOW[0]) & (mass <= MASS_WINDOW[1])]


def mean_distance(X, Y):
    """Mean over columns of the Wasserstein distance, in deviations of `Y`."""
    scale = Y.std(0)
    pairs = zip((X / scale).T, (Y / scale).T, strict=True)
    return float(np.mean([wasserstein_distance(x, y) for x, y in pairs]))


def correlation_difference(X, Y):
    """Largest difference of the two correlation matrices."""
    return float(np.abs(np.corrcoef(X.T) - np.corrcoef(Y.T)).max())


def quantile_mapping(X, Y, fresh):
    """Carry each column by itself from the quantiles of `X` to those of `Y`."""
    levels = np.linspace(0, 1, min(len(X), len(Y), 2001))
    moved = np.empty_like(fresh)
    for i in range(X.shape[1]):
        from_, to = np.quantile(X[:, i], levels), np.quantile(Y[:, i], levels)
        moved[:, i] = np.interp(fresh[:, i], from_, to)
    return moved


def reweighting(X, Y, fresh, rng):
    """Draw rows of `fresh` by the odds that a boosted-tree classifier gives them to be data.

    A quarter of them, none twice: a classifier would know a repeated row again.
    """
    seed = int(rng.integers(2**31))
    model = HistGradientBoostingClassifier(max_iter=60, random_state=seed)
    model.fit(np.concatenate([X, Y]), np.repeat([0, 1], [len(X), len(Y)]))
    p = model.predict_proba(fresh)[:, 1]
    odds = np.minimum(p / (1 - p), ODDS_LIMIT)
    return rng.choice(len(fresh), size=len(fresh) // 4, replace=False, p=odds / odds.sum())


def multiplier_errors(n, rng):
    """Relative errors of multipliers against finite differences of the optimum.

    Quadratics on the sphere of radius 1, as an equality and as an active inequality.
    """
    errors = []
    for i in range(n):
        a = rng.normal(size=3)
        a *= 2.0 / np.linalg.norm(a)
        H = np.diag(rng.uniform(0.5, 1.5, size=3))

        def optimum(radius2, H=H, a=a, kind=("eq", "ineq")[i % 2]):
            limit = {"type": kind, "fun": lambda x: radius2 - x @ x, "jac": lambda x: -2 * x[None]}
            return minimize_differential_multipliers(
                lambda x: 0.5 * (x - a) @ H @ (x - a), 0.3 * a, jac=lambda x: H @ (x - a),
                constraints=limit, lr=0.2, maxiter=1500, tol=1e-6,
            )  # fmt: skip

        step = 0.02
        slope = (optimum(1 - step).fun - optimum(1 + step).fun) / (2 * step)
        errors.append(abs(optimum(1.0).multipliers[0] / slope - 1))
    return np.array(errors)


def first_below(steps, values, limit):
    """First of the steps at which a value is at most the limit; infinite where there is none."""
    below = np.flatnonzero(np.asarray(values) <= limit)
    return float(steps[below[0]]) if below.size else np.inf
