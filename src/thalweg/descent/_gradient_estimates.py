"""What variance-reduced methods know of earlier gradients, and the estimates they make of it."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

import numpy as np

from thalweg.descent._variance_reduction_runs import (
    Batches,
    Floats,
    Run,
    gradient_of,
    gradients_of,
)


class Anchor:
    """The snapshot of SVRG: a point where the gradient of the sum is known.

    For a linear model the slopes of the losses there are kept, and `mean`, the mean of slope times
    row.
    """

    def __init__(self, run: Run, executor: Executor | None = None) -> None:
        self._run, self._executor = run, executor
        self.point = self.gradient = self.mean = self.slopes = np.empty(0)

    def move(self, x: Floats) -> Floats:
        """Take `x` as the snapshot; return the gradient of the sum there."""
        run = self._run
        with np.errstate(over="ignore", invalid="ignore"):
            if run.linear:
                self.slopes, self.mean = run.slopes(x, self._executor)
                return self.mean + run.problem.l2 * x
            self.point = x.copy()
            self.gradient = run.full_gradient(x, self._executor)
            return self.gradient

    def direction(self, x: Floats, batch: Batches) -> Floats:
        """Return the estimate of the gradient at `x`."""
        problem = self._run.problem
        here, there = gradient_of(problem, x, batch), gradient_of(problem, self.point, batch)
        return here - there + self.gradient


class GradientTable:
    """SAGA's table of gradients, shape (n, dim), and their mean."""

    def __init__(self, problem: Any, x: Floats) -> None:
        self._problem = problem
        self.rows = gradients_of(problem, x, np.arange(problem.n))
        self.mean = self.rows.mean(axis=0)

    def direction(self, x: Floats, batch: Batches) -> Floats:
        """Return the estimate of the gradient at `x`, then put the batch's gradients in."""
        fresh = gradients_of(self._problem, x, batch)
        change = fresh - self.rows[batch]
        estimate = change.mean(axis=0) + self.mean
        self.mean = self.mean + change.sum(axis=0) / self._problem.n
        self.rows[batch] = fresh
        return estimate


class SlopeTable:
    """SAGA's table for a problem of linear models: a slope a component, and the mean gradient."""

    def __init__(self, problem: Any, x: Floats) -> None:
        self._problem = problem
        self.rows = np.asarray(problem.rows, dtype=float)
        self.slopes = np.array(problem.scalar_gradient(x), dtype=float)
        self.mean = self.slopes @ self.rows / problem.n

    def direction(self, x: Floats, batch: Batches) -> Floats:
        """Return the estimate of the gradient at `x`, then put the batch's slopes in."""
        fresh = np.asarray(self._problem.scalar_gradient(x, batch), dtype=float)
        change = (fresh - self.slopes[batch]) @ self.rows[batch]
        estimate = change / len(batch) + self.mean + getattr(self._problem, "l2", 0.0) * x
        self.mean = self.mean + change / self._problem.n
        self.slopes[batch] = fresh
        return estimate
