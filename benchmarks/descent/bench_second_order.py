"""Logistic regression, 20,000 rows of 50 features, to a gap of 1e-8, against scikit-learn.

Newton-CG with full gradients and the Hessian of a tenth of the rows against the solvers newton-cg
and lbfgs with the same penalty, each with the loosest tolerance that reaches the gap. We want to be
as fast: a ratio of 1.
"""

from __future__ import annotations

import numpy as np
import pytest

from thalweg.descent import Logistic, subsampled_newton_cg

ROWS, DIM = 20_000, 50
L2 = 1e-3
GAP = 1e-8


def data(rows=ROWS, dim=DIM):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, dim)) * np.geomspace(1, 0.1, dim)
    margin = X @ rng.normal(size=dim)
    return X, np.where(margin + rng.logistic(size=rows) > 0, 1.0, -1.0)


def ours(X, y, gtol):
    problem, start = Logistic(X, y, l2=L2), np.zeros(X.shape[1])

    def run():
        return subsampled_newton_cg(problem, start, hessian_batch=len(y) // 10, gtol=gtol, rng=0).x

    return run


def scikit_learn(X, y, tol, solver):
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=1 / (len(y) * L2), fit_intercept=False, solver=solver, tol=tol, max_iter=1000
    )
    return lambda: model.fit(X, y).coef_.ravel()


def loosest(make, gap):
    """Return the run of the loosest tolerance, a power of ten, whose gap is small enough."""
    for exponent in range(2, 13):
        run = make(10.0**-exponent)
        if gap(run()) <= GAP:
            return run
    raise AssertionError(f"no tolerance reaches a gap of {GAP:g}")


@pytest.mark.parametrize("entrant", ["thalweg", "newton-cg", "lbfgs"])
def test_gap_of_one_in_a_hundred_million(measure, entrant):
    X, y = data()
    problem = Logistic(X, y, l2=L2)
    best = problem.value(problem.minimiser(np.zeros(X.shape[1])))

    def gap(x):
        return problem.value(x) - best

    if entrant == "thalweg":
        run = loosest(lambda tol: ours(X, y, tol), gap)
    else:
        run = loosest(lambda tol: scikit_learn(X, y, tol, entrant), gap)
    measure(
        run,
        workload=f"logistic regression, {ROWS:,} x {DIM}, to a gap of {GAP:g}",
        entrant=entrant if entrant == "thalweg" else f"scikit-learn {entrant}",
        accuracy=("gap", gap),
        peer=None if entrant == "thalweg" else "scikit-learn",
        target=None if entrant == "thalweg" else 1.0,
    )
