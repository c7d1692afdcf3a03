"""Ten epochs of single-component SGD on linear models in ten dimensions, against scikit-learn.

Both take a constant step of the same length, without intercept or penalty. scikit-learn shuffles
once an epoch; ours draws every component anew. Three million steps a second are wanted of ours:
a million steps in a third of a second.
"""

from __future__ import annotations

import numpy as np
import pytest

from thalweg.descent import LeastSquares, Logistic, sgd

ROWS, DIM, EPOCHS = 100_000, 10, 10
STEP = 1e-3


def data(kind):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, DIM))
    margin = X @ np.ones(DIM)
    if kind == "least squares":
        return X, margin + 0.5 * rng.normal(size=ROWS)
    return X, np.where(margin + rng.logistic(size=ROWS) > 0, 1.0, -1.0)


def problem_of(kind, X, y):
    return LeastSquares(X, y) if kind == "least squares" else Logistic(X, y)


def scikit_learn(kind, X, y, epochs):
    from sklearn.linear_model import SGDClassifier, SGDRegressor

    options = {
        "penalty": None, "fit_intercept": False, "learning_rate": "constant", "eta0": STEP,
        "max_iter": epochs, "tol": None, "average": False, "random_state": 0,
    }  # fmt: skip
    if kind == "least squares":
        model = SGDRegressor(loss="squared_error", **options)
    else:
        model = SGDClassifier(loss="log_loss", **options)
    return lambda: np.ravel(model.fit(X, y).coef_)


@pytest.mark.parametrize("kind", ["least squares", "logistic regression"])
@pytest.mark.parametrize("entrant", ["thalweg", "scikit-learn"])
def test_single_component_steps(measure, kind, entrant):
    X, y = data(kind)
    problem = problem_of(kind, X, y)
    best = problem.value(problem.minimiser(np.zeros(DIM)))
    if entrant == "thalweg":
        n_steps = EPOCHS * ROWS
        run = lambda: sgd(problem, np.zeros(DIM), step=STEP, n_steps=n_steps, rng=0).x  # noqa: E731
    else:
        run = scikit_learn(kind, X, y, EPOCHS)
    measure(
        run,
        workload=f"SGD, {kind}, {ROWS:,} x {DIM}, {EPOCHS} epochs",
        entrant=entrant,
        accuracy=("gap", lambda x: problem.value(x) - best),
        peer="scikit-learn" if entrant == "scikit-learn" else None,
        target=0.5 if entrant == "scikit-learn" else None,
    )
