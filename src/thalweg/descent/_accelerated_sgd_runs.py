"""What a run of stochastic acceleration keeps beside the point w, and how it steps in Python."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve

from thalweg._validation import check_array, check_real
from thalweg.descent import _accelerated_sgd_kernels as kernels
from thalweg.descent._variance_reduction_runs import Batches, Floats, Run, gradient_of

Batch = NDArray[np.int64] | None
PrimalUpdate = Callable[[Any, Floats, Batch, float, Floats], tuple[ArrayLike, float]]
Preconditioner = ArrayLike | Callable[[int, Floats], ArrayLike]
Inverse = Callable[[Floats], Floats]

MOST_CALLS = 100
SYMMETRIC = 1e-12


class Scheme:
    """The parameters of all steps and the points beside w; `run` holds w and the counts.

    Attributes
    ----------
    steps, alphas, gammas : ndarray
        eta_k, alpha_k and gamma_k; those of steps to come are foreseen, which a primal update with
        other steps changes.
    other : ndarray
        v, or of the momentum form the point before w.
    """

    def __init__(
        self,
        run: Run,
        n_steps: int,
        mu: float,
        gamma0: float,
        growth: float,
        variant: str,
        primal_update: PrimalUpdate | None,
        inverse_at: Callable[[int, Floats], Inverse] | None,
        executor: Executor | None,
    ) -> None:
        self.run, self.mu, self.growth = run, mu, growth
        self.semi, self.momentum = variant == "semi-stochastic", variant == "momentum"
        self.primal_update, self.inverse_at, self.executor = primal_update, inverse_at, executor
        self.whole = run.batch_size == run.problem.n
        self.steps = run.steps(0, n_steps).copy()
        self.alphas, self.gammas = kernels.momentum_parameters(self.steps / growth, mu, gamma0)
        self.pushes = np.zeros(n_steps)
        if self.momentum:
            here, ahead = self.alphas[:-1], self.alphas[1:]
            self.pushes[1:] = (
                here * (1 - here) / (here**2 + ahead * self.steps[:-1] / self.steps[1:])
            )
        self.other = run.x.copy()

    @property
    def in_python(self) -> bool:
        """Whether the compiled loops do not do."""
        asked = (self.primal_update, self.inverse_at, self.executor)
        return not self.run.linear or self.whole or any(one is not None for one in asked)

    def iterate(self) -> None:
        """Take all steps."""
        cost = self.run.batch_size
        if self.semi and not self.in_python:
            cost += self.run.problem.n
        advance = self._in_python if self.in_python else self._compiled
        self.run.iterate(len(self.steps), self._draw, advance, cost=cost)

    def dual_point(self) -> Floats:
        """Return v."""
        if not self.momentum or self.run.taken == 0:
            return self.other
        return self.other + (self.run.x - self.other) / self.alphas[self.run.taken - 1]

    def _draw(self, count: int) -> Any:
        if self.whole:
            return [None] * count
        return self.run.batches(self.run.rng.random((count, self.run.batch_size)))

    def _compiled(self, batches: Batches, steps: Floats) -> int:
        run, first, last = self.run, self.run.taken, self.run.taken + len(steps)
        managed: int
        if self.momentum:
            managed = kernels.momentum_steps(
                *run.model, batches, steps, self.pushes[first:last], self.other, run.x
            )
        else:
            managed = kernels.three_point_steps(
                *run.model, batches, steps, self.alphas[first:last], self.gammas[first : last + 1],
                self.mu, self.semi, run.x, self.other,
            )  # fmt: skip
        return managed

    def _in_python(self, drawn: Any, steps: Floats) -> int:
        for t, batch in enumerate(drawn):
            moved = self._moved(batch, self.run.taken + t)
            if not all(np.isfinite(point).all() for point in moved):
                return t
            self.run.x[:], self.other[:] = moved
        return len(steps)

    def _moved(self, batch: Batch, k: int) -> tuple[Floats, Floats]:
        """Return the point after step k, and v or the point before."""
        run, w = self.run, self.run.x
        if self.primal_update is not None:
            y, g, ahead = self._updated(self.primal_update, batch, k)
        else:
            y = w + self.pushes[k] * (w - self.other) if self.momentum else self._extrapolated(k)
            g = gradient_of(run.problem, y, batch)
        inverse = self.inverse_at(k, y) if self.inverse_at is not None else None
        if self.primal_update is None:
            ahead = y - self.steps[k] * (g if inverse is None else inverse(g))
        if self.momentum:
            return ahead, w.copy()
        if not np.isfinite(ahead).all():
            return ahead, ahead
        if self.semi and not self.whole:
            g = run.full_gradient(y, self.executor)
        if inverse is not None:
            g = inverse(g)
        alpha, gamma = self.alphas[k], self.gammas[k]
        v = (1 - alpha) * gamma * self.other + alpha * self.mu * y - alpha * g
        return ahead, v / self.gammas[k + 1]

    def _extrapolated(self, k: int) -> Floats:
        """Return y_k."""
        alpha, gamma = self.alphas[k], self.gammas[k]
        lead = alpha * gamma / (gamma + alpha * self.mu)
        y: Floats = (1 - lead) * self.run.x + lead * self.other
        return y

    def _updated(
        self, update: PrimalUpdate, batch: Batch, k: int
    ) -> tuple[Floats, Floats, Floats]:  # fmt: skip
        """Return y_k, the batch's gradient there and what the primal update makes of them."""
        run = self.run
        for call in range(MOST_CALLS):
            eta = float(self.steps[k])
            self._assume(k, eta)
            y = self._extrapolated(k)
            g = gradient_of(run.problem, y, batch)
            run.n_grad += run.batch_size if call else 0
            if not np.isfinite(g).all():
                return y, g, g
            found, used = update(run.problem, y.copy(), batch, eta, g.copy())
            used = check_real("eta_used of primal_update", used, above=0)
            if used >= eta:
                ahead = np.asarray(found, dtype=float)
                if ahead.shape != y.shape:
                    raise ValueError(
                        f"primal_update must return shape {y.shape}, got {ahead.shape}"
                    )
                return y, g, ahead
            self.steps[k] = used
        raise ValueError(
            f"primal_update must come to promise the step it is given, got {used:g} for {eta:g} "
            f"after {MOST_CALLS} calls"
        )

    def _assume(self, k: int, step: float) -> None:
        """Form alpha_k and gamma_{k+1} for a step."""
        gamma = self.gammas[k]
        alpha = kernels.momentum_parameter(step / self.growth, self.mu, gamma)
        self.alphas[k], self.gammas[k + 1] = alpha, (1 - alpha) * gamma + alpha * self.mu


def check_preconditioner(given: Any, dim: int) -> Callable[[int, Floats], Inverse] | None:
    """Return what gives the product with D^{-1} at step k and y; None for the identity."""
    if given is None:
        return None
    if callable(given):
        return _Shrinking(given, dim)
    matrix = check_array("preconditioner", given)
    if matrix.shape == (dim,):
        diagonal = _positive(matrix, "preconditioner")
        return lambda k, y: lambda g: g / diagonal
    if matrix.shape != (dim, dim):
        raise ValueError(
            f"preconditioner must have shape ({dim},) or ({dim}, {dim}), got {matrix.shape}"
        )
    if np.abs(matrix - matrix.T).max() > SYMMETRIC * np.abs(matrix).max():
        raise ValueError("preconditioner must be symmetric")
    try:
        factor = cho_factor(matrix)
    except np.linalg.LinAlgError:
        raise ValueError("preconditioner must be positive definite") from None
    return lambda k, y: lambda g: np.asarray(cho_solve(factor, g, check_finite=False))


class _Shrinking:
    """A diagonal that the user gives at each step, none of whose entries may grow."""

    def __init__(self, given: Callable[[int, Floats], ArrayLike], dim: int) -> None:
        self._given, self._last = given, np.full(dim, np.inf)

    def __call__(self, k: int, y: Floats) -> Inverse:
        name = f"preconditioner at step {k}"
        diagonal = _positive(
            check_array(name, self._given(k, y.copy()), shape=self._last.shape).copy(), name
        )
        grown = np.flatnonzero(diagonal > self._last)
        if len(grown):
            i = grown[0]
            raise ValueError(
                f"{name} must not grow, got {diagonal[i]:g} after {self._last[i]:g} at index {i}"
            )
        self._last = diagonal
        return lambda g: g / diagonal


def _positive(diagonal: Floats, name: str) -> Floats:
    if (diagonal <= 0).any():
        raise ValueError(f"{name} must be > 0, got {diagonal.min():g}")
    return diagonal
