"""A million accelerated stochastic steps on linear models, against plain SGD of the same library.

Both see one component a step and follow the same random numbers. The accelerated step moves two
points and forms a third; at most 1.5 times the time of the plain step is wanted.
"""

from __future__ import annotations

import numpy as np
import pytest

from thalweg.descent import LeastSquares, Logistic, sgd, stochastic_nesterov

ROWS, DIM, STEPS = 20_000, 20, 1_000_000


def problem_of(kind, rows=ROWS, dim=DIM):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, dim)) / np.sqrt(dim)
    margin = X @ rng.normal(size=dim)
    return LeastSquares(X, margin) if kind == "least squares" else Logistic(X, np.sign(margin))


def accelerated(problem, n_steps=STEPS):
    known = problem.curvature()
    step = 1 / (2 * known["L_max"])
    return lambda: stochastic_nesterov(
        problem, np.zeros(problem.dim), step=step, n_steps=n_steps, mu=known["mu"],
        variant="stochastic", growth=50.0 * problem.dim, rng=0,
    ).x  # fmt: skip


def plain(problem, n_steps=STEPS):
    step = 1 / problem.curvature()["L_max"]
    return lambda: sgd(problem, np.zeros(problem.dim), step=step, n_steps=n_steps, rng=0).x


@pytest.mark.parametrize("kind", ["least squares", "logistic regression"])
@pytest.mark.parametrize("entrant", ["thalweg", "plain SGD"])
def test_accelerated_steps(measure, kind, entrant):
    problem = problem_of(kind)
    measure(
        (accelerated if entrant == "thalweg" else plain)(problem),
        workload=f"accelerated SGD, {kind}, {ROWS:,} x {DIM}, {STEPS:,} steps",
        entrant=entrant,
        accuracy=("value", problem.value),
        target=1 / 1.5 if entrant == "plain SGD" else None,
    )
