"""Runs of variance-reduced methods: counts, step lengths, history, callback, and when to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_count, check_real
from thalweg.descent._stochastic_kernels import draw_batches
from thalweg.descent._stochastic_runs import (
    DRAWS_AT_ONCE,
    Callback,
    check_schedule,
    check_start,
)
from thalweg.descent.problems import LinearModel

Floats = NDArray[np.float64]
Batches = NDArray[np.int64]
Schedule = float | ArrayLike | Callable[[int], float]
Advance = Callable[[Any, Floats], int]

DONE, BROKEN, STOPPED, SHORT = range(4)
CHUNK_ROWS = 1 << 14
EPOCHS = 30
PASSES_AN_EPOCH = 2


class Run:
    """A run under way.

    Attributes
    ----------
    x : ndarray
        The point, advanced in place.
    taken, nit, n_grad : int
        Steps, iterations (epochs or steps) and component gradients so far.
    left : bool
        Set by a method that ends a stretch of steps early for a reason of its own.
    """

    def __init__(
        self,
        problem: Any,
        x0: ArrayLike,
        step: Any,
        n_steps: int,
        batch_size: int,
        rng: int | np.random.Generator | None,
        record: bool,
        callback: Callback | None,
    ) -> None:
        self.problem = problem
        self.x = check_start(problem, x0)
        self.batch_size = check_count("batch_size", batch_size, at_most=problem.n)
        self.steps = _step_lengths(step, n_steps)
        self.rng = np.random.default_rng(rng)
        self.linear = isinstance(problem, LinearModel)
        self.record, self.callback = record, callback
        self.taken = self.nit = self.n_grad = 0
        self.status = DONE
        self.left = False
        self.history: dict[str, list[Any]] = {"nit": [], "n_grad": [], "fun": [], "x": []}
        self._order = np.arange(problem.n)
        self.note()

    def batches(self, uniforms: Floats, replace: bool = True) -> Batches:
        """Return component indices for uniform numbers, a row a step."""
        drawn: Batches = draw_batches(uniforms, self.problem.n, replace, self._order)
        return drawn

    def advance(self, count: int, draw: Callable[[int], Any], advance: Advance, cost: int) -> int:
        """Take up to `count` steps in stretches and return how many; `status` says if all are fine.

        ``draw(size)`` returns the random part of a stretch and ``advance(drawn, steps)`` how many
        of its steps it managed; each costs `cost` component gradients.
        """
        most = max(1, DRAWS_AT_ONCE // self.batch_size)
        done = 0
        self.left = False
        while done < count and self.status == DONE and not self.left:
            size = min(most, count - done)
            with np.errstate(over="ignore", invalid="ignore"):
                managed = advance(draw(size), self.steps(self.taken, size))
            done += managed
            self.taken += managed
            self.n_grad += cost * managed
            if managed < size and not self.left:
                self.n_grad += cost
                self.status = BROKEN
        return done

    def epoch(self, count: int, draw: Callable[[int], Any], advance: Advance, cost: int) -> bool:
        """Take the steps of an epoch; return whether they are fine."""
        self.advance(count, draw, advance, cost)
        return self.status == DONE

    def iterated(self) -> bool:
        """Count an iteration, note and tell it; return whether to go on."""
        self.nit += 1
        self.note()
        self.tell()
        return self.status == DONE

    def iterate(
        self,
        n_steps: int,
        draw: Callable[[int], Any],
        advance: Advance,
        cost: int,
        last: int | None = None,
    ) -> None:
        """Take steps that are iterations up to `n_steps` of them, of `last` in all.

        They are noted once a pass of the data and at the last, and told to the callback.
        """
        last = n_steps if last is None else last
        a_pass = -(-self.problem.n // self.batch_size)
        while self.nit < n_steps and self.status == DONE:
            until = min(n_steps, (self.nit // a_pass + 1) * a_pass)
            stretch = until - self.nit if self.callback is None else 1
            self.nit += self.advance(stretch, draw, advance, cost)
            if self.nit % a_pass == 0 or self.nit == last or self.status == BROKEN:
                self.note()
            if self.status == DONE:
                self.tell()

    def note(self) -> None:
        """Add the point to the history."""
        if self.record and self.nit not in self.history["nit"][-1:]:
            with np.errstate(over="ignore", invalid="ignore"):
                fun = float(self.problem.value(self.x))
            for name, value in (
                ("nit", self.nit), ("n_grad", self.n_grad), ("fun", fun), ("x", self.x.copy()),
            ):  # fmt: skip
                self.history[name].append(value)

    def tell(self) -> None:
        """Tell the callback; StopIteration ends the run."""
        if self.callback is not None:
            try:
                self.callback(OptimizeResult(x=self.x.copy(), nit=self.nit, n_grad=self.n_grad))
            except StopIteration:
                self.status = STOPPED

    def result(self, what: str, jac: Floats | None = None, gtol: float = 0.0) -> OptimizeResult:
        """Return the result; `what` names the iterations, `jac` is the gradient if known."""
        with np.errstate(over="ignore", invalid="ignore"):
            if jac is None:
                jac = self.full_gradient(self.x)
            fun = float(self.problem.value(self.x))
            norm = float(np.linalg.norm(jac))
        if self.status == DONE and gtol > 0 and not norm <= gtol:
            self.status = SHORT
        message = {
            DONE: f"took {self.nit} {what}"
            + (f", the gradient's norm fell to gtol = {gtol:g}" if norm <= gtol else ""),
            BROKEN: f"x left the finite numbers at step {self.taken + 1}; take a smaller step",
            STOPPED: f"stopped by callback after {self.nit} {what}",
            SHORT: f"took {self.nit} {what}, the gradient's norm is {norm:.3g} and gtol = {gtol:g}",
        }[self.status]
        return OptimizeResult(
            x=self.x,
            fun=fun,
            jac=jac,
            nit=self.nit,
            n_grad=self.n_grad,
            success=self.status == DONE,
            status=self.status,
            message=message,
            history={name: np.array(values) for name, values in self.history.items()}
            if self.record
            else {},
        )

    def full_gradient(self, x: Floats, executor: Executor | None = None) -> Floats:
        """Return the gradient of the whole sum, counted."""
        self.n_grad += self.problem.n
        if executor is None:
            return gradient_of(self.problem, x)
        total = sum(
            len(chunk) * np.asarray(gradient)
            for chunk, gradient in _over_chunks(self.problem.gradient, self.problem, x, executor)
        )
        return np.asarray(total / self.problem.n)

    def slopes(self, x: Floats, executor: Executor | None = None) -> tuple[Floats, Floats]:
        """Return a linear model's slopes and the mean of slope times row, counted as a gradient."""
        self.n_grad += self.problem.n
        if executor is None:
            slopes = self.problem.scalar_gradient(x)
        else:
            found = _over_chunks(self.problem.scalar_gradient, self.problem, x, executor)
            slopes = np.concatenate([part for _, part in found])
        return slopes, slopes @ self.problem.rows / self.problem.n

    @property
    def model(self) -> tuple[int, Floats, Floats, float]:
        """What the kernels take of a linear model."""
        return self.problem.kind, self.problem.rows, self.problem.targets, self.problem.l2


def python_steps(run: Run, direction: Callable[[Floats, Any, int], Floats]) -> Advance:
    """Return an `advance` that steps along ``direction(x, drawn, k)``, k steps after the start."""

    def advance(drawn: Iterable[Any], steps: Floats) -> int:
        for t, (one, step) in enumerate(zip(drawn, steps, strict=True)):
            moved = run.x - step * direction(run.x, one, run.taken + t)
            if not np.isfinite(moved).all():
                return t
            run.x[:] = moved
        return len(steps)

    return advance


def gradient_of(problem: Any, x: Floats, batch: Batches | None = None) -> Floats:
    """Return the mean gradient of a batch, or of all components."""
    gradient = problem.gradient(x) if batch is None else problem.gradient(x, batch)
    gradient = np.asarray(gradient, dtype=float)
    if gradient.shape != x.shape:
        raise ValueError(f"problem.gradient must return shape {x.shape}, got {gradient.shape}")
    return gradient


def gradients_of(problem: Any, x: Floats, batch: Batches) -> Floats:
    """Return the gradients of the components of a batch, a row each."""
    if hasattr(problem, "component_gradients"):
        return np.asarray(problem.component_gradients(x, batch), dtype=float)
    return np.array([gradient_of(problem, x, batch[j : j + 1]) for j in range(len(batch))])


def squared_norm(x: Floats) -> float:
    """Return ‖x‖², inf if it overflows."""
    with np.errstate(over="ignore"):
        return float(x @ x)


def check_gtol(gtol: Any) -> float:
    """Return the tolerance, once it is a number >= 0."""
    return check_real("gtol", gtol, at_least=0)


def check_inner_steps(problem: Any, inner_steps: Any) -> int:
    """Return the length of an epoch."""
    if inner_steps is None:
        return PASSES_AN_EPOCH * int(getattr(problem, "n", 1))
    return check_count("inner_steps", inner_steps)


def _step_lengths(step: Any, n_steps: int) -> Callable[[int, int], Floats]:
    """Return what gives the lengths of `size` steps from the `first` on."""
    if callable(step) or np.ndim(step):
        lengths = check_schedule("step", step, n_steps, above=0.0)
        return lambda first, size: lengths[first : first + size]
    length = check_real("step", step, above=0)
    return lambda first, size: np.full(size, length)


def _over_chunks(
    method: Callable[..., Any], problem: Any, x: Floats, executor: Executor
) -> Iterable[tuple[Batches, Any]]:
    chunks = [
        np.arange(start, min(start + CHUNK_ROWS, problem.n))
        for start in range(0, problem.n, CHUNK_ROWS)
    ]
    return zip(chunks, executor.map(partial(method, x), chunks), strict=True)
