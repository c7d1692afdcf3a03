"""Steps of model building on logistic regression, against the fall that the theory promises."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

from thalweg.descent import Logistic, constants, model_building, smb_descent_bound

L2 = 1e-2
SHARES = (0.1, 0.99)
"""Falls asked of a trial: the default, which trials of length 1 / (2L) always bring, and one that
only few bring."""
BLOCKS = 3


def descent(steps: int) -> dict[str, Any]:
    """Count the steps that fall less than the bound, in one block and several.

    Then the same for steps a tenth as long as the bound is told.
    """
    X, y = load_breast_cancer(return_X_y=True)
    rows = np.column_stack([(X - X.mean(axis=0)) / X.std(axis=0), np.ones(len(X))])
    problem = Logistic(rows, np.where(y == 1, 1.0, -1.0), l2=L2)
    L = constants(problem, np.zeros(problem.dim)).L
    alpha = 1 / (2 * L)
    blocks = np.array_split(np.arange(problem.dim), BLOCKS)
    counts = {"steps": 0, "models": 0, "violations": 0}
    smallest = np.inf
    for c in SHARES:
        for groups in (None, blocks):
            falls, norms, models = path(problem, alpha, c, groups, steps)
            bounds = smb_descent_bound(norms, alpha, L)
            counts["steps"] += len(falls)
            counts["models"] += models
            counts["violations"] += violations(falls, bounds)
            smallest = min(smallest, float(np.min(falls / bounds)))
    falls, norms, _ = path(problem, alpha / 10, SHARES[0], None, steps)
    return {
        "descent_violations": counts["violations"],
        "descent_steps": counts["steps"],
        "descent_models": counts["models"],
        "descent_smallest": smallest,
        "descent_wrong": violations(falls, smb_descent_bound(norms, alpha, L)) / len(falls),
    }


def path(
    problem: Any, alpha: float, c: float, groups: Any, steps: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Return the fall and the norm of the gradient of each step, and the number of model steps."""
    points = [np.zeros(problem.dim)]
    result = model_building(
        problem.value, points[0], jac=problem.gradient, lr=alpha, c=c, groups=groups, gtol=0,
        maxiter=steps, callback=points.append,
    )  # fmt: skip
    values = np.array([problem.value(x) for x in points])
    norms = np.array([np.linalg.norm(problem.gradient(x)) for x in points[:-1]])
    return values[:-1] - values[1:], norms, result.n_model_steps


def violations(falls: NDArray[np.float64], bounds: NDArray[np.float64]) -> int:
    """Return how many falls are smaller than their bounds by more than rounding."""
    return int(np.sum(falls < bounds - 1e-14))
