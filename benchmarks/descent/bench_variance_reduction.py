"""L2-logistic regression by SAGA, 20,000 rows of 50 numbers, to a gap of 1e-8: scikit-learn.

The least number of passes that reaches the gap is found for each, and then timed. Both minimise the
same function: scikit-learn's C is 1 / (n l2), and there is no intercept. At most 1.5 times the
peer's time is wanted of ours.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from thalweg.descent import Logistic, saga

ROWS, DIM, GAP, MOST_PASSES = 20_000, 50, 1e-8, 200


def data(rows=ROWS, dim=DIM):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, dim))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    margin = 5 * X @ rng.normal(size=dim)
    return X, np.where(margin + rng.logistic(size=rows) > 0, 1.0, -1.0)


def ours(problem, passes):
    n, step = problem.n, 1 / (3 * (0.25 + problem.l2))
    return lambda: saga(
        problem, np.zeros(problem.dim), step=step, n_steps=passes * n, rng=0
    ).x  # fmt: skip


def scikit_learn(problem, X, y, passes):
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=1 / (len(y) * problem.l2), fit_intercept=False, solver="saga", tol=0.0, max_iter=passes,
        random_state=0,
    )  # fmt: skip

    def run():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of passes that the tolerance did not end
            return model.fit(X, y).coef_[0]

    return run


def passes_needed(run_with, gap, most=MOST_PASSES):
    """Return the least number of passes after which the gap is at most `GAP`."""
    low, high = 0, 1
    while gap(run_with(high)()) > GAP:
        low, high = high, 2 * high
        if low > most:
            pytest.skip(f"the gap is above {GAP:g} after {low} passes")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if gap(run_with(middle)()) > GAP else (low, middle)
    return high


@pytest.mark.parametrize("entrant", ["thalweg", "scikit-learn"])
def test_logistic_regression_by_saga(measure, entrant):
    X, y = data()
    problem = Logistic(X, y, l2=1 / len(y))
    best = problem.value(problem.minimiser(np.zeros(problem.dim)))

    def gap(x):
        return problem.value(x) - best

    def run_with(passes):
        if entrant == "thalweg":
            return ours(problem, passes)
        return scikit_learn(problem, X, y, passes)

    measure(
        run_with(passes_needed(run_with, gap)),
        workload=f"L2-logistic regression, SAGA, {ROWS:,} x {DIM}, to a gap of {GAP:g}",
        entrant=entrant,
        accuracy=("gap", gap),
        peer="scikit-learn" if entrant == "scikit-learn" else None,
        target=1 / 1.5 if entrant == "scikit-learn" else None,
    )
