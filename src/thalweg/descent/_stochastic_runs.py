"""Runs of stochastic methods: batches, the averaged point, the history, and when to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.descent import _stochastic_kernels as kernels
from thalweg.descent.problems import FiniteSum

Floats = NDArray[np.float64]
Callback = Callable[[OptimizeResult], object]
Move = Callable[[Floats, NDArray[np.int64] | None, int], Floats]

DRAWS_AT_ONCE = 1 << 16


@dataclass
class Plan:
    """What all three methods share: batches, the mean, the history, and when to stop."""

    problem: FiniteSum
    start: Floats
    n_steps: int
    batch_size: int
    replace: bool
    weights: Floats
    rng: int | np.random.Generator | None
    record: bool
    callback: Callback | None

    def __post_init__(self) -> None:
        self.batch_size = check_count("batch_size", self.batch_size, at_most=self.problem.n)
        self.whole = self.batch_size == self.problem.n and not self.replace
        self.rng = np.random.default_rng(self.rng)

    @np.errstate(over="ignore", invalid="ignore")
    def run(self, advance: Callable[[NDArray[np.int64], slice, Any], int]) -> OptimizeResult:
        """Advance in stretches, each with its batches; `advance` returns the steps it managed."""
        assert isinstance(self.rng, np.random.Generator)
        x, mean, total = self.start.copy(), np.zeros_like(self.start), np.zeros(1)
        history = np.empty((self.n_steps + 1 if self.record else 0, x.size))
        history[:1] = x
        order = np.arange(self.problem.n)
        stretch = max(1, DRAWS_AT_ONCE // self.batch_size) if self.callback is None else 1
        done, status = 0, 0
        while done < self.n_steps and status == 0:
            now = slice(done, min(done + stretch, self.n_steps))
            count = now.stop - now.start
            if self.whole:
                batches = np.zeros((count, 1), dtype=np.int64)  # read only where n is 1
            else:
                uniforms = self.rng.random((count, self.batch_size))
                batches = kernels.draw_batches(uniforms, self.problem.n, self.replace, order)
            weights = self.weights[now] if len(self.weights) else self.weights
            rows = history[done + 1 : now.stop + 1]
            managed = advance(batches, now, (weights, x, mean, total, rows))
            done += managed
            if managed < count:
                status = 1
            elif self.callback is not None:
                try:
                    self.callback(OptimizeResult(x=x.copy(), nit=done))
                except StopIteration:
                    status = 2
        message = {
            0: f"took {done} steps",
            1: f"x left the finite numbers at step {done + 1}; take a smaller step",
            2: f"stopped by callback after {done} steps",
        }[status]
        return OptimizeResult(
            x=x,
            x_average=mean if total[0] > 0 else None,
            fun=float(self.problem.value(x)),
            nit=done,
            n_grad=done * self.batch_size,
            success=status == 0,
            status=status,
            message=message,
            history={"x": history[: done + 1]} if self.record else {},
        )

    def run_python(self, move: Move) -> OptimizeResult:
        """Step with `move(x, batch, t)`; the batch is None where it is the whole sum."""

        def advance(batches: NDArray[np.int64], now: slice, state: Any) -> int:
            weights, x, mean, total, rows = state
            for k, t in enumerate(range(now.start, now.stop)):
                if len(weights) and weights[k] > 0:
                    total[0] += weights[k]
                    mean += (weights[k] / total[0]) * (x - mean)
                moved = move(x, None if self.whole else batches[k], t)
                if moved.shape != x.shape:
                    raise ValueError(f"a step must keep the shape {x.shape}, got {moved.shape}")
                if not np.isfinite(moved).all():
                    return k
                x[:] = moved
                if len(rows):
                    rows[k] = x
            return now.stop - now.start

        return self.run(advance)


def check_start(problem: Any, x0: ArrayLike) -> Floats:
    """Return a copy of the start, once the problem has what a run asks of it."""
    missing = [name for name in ("n", "dim", "value", "gradient") if not hasattr(problem, name)]
    if missing:
        raise TypeError(
            f"problem must have n, dim, value and gradient, {type(problem).__name__} lacks "
            f"{', '.join(missing)}"
        )
    return check_array("x0", x0, shape=(problem.dim,)).copy()


def check_schedule(name: str, value: Any, n_steps: int, **bounds: float) -> Floats:
    """Return a number, an array or a callable as n_steps checked numbers."""
    if callable(value):
        value = [value(t) for t in range(n_steps)]
    elif np.ndim(value) == 0:
        return np.full(n_steps, check_real(name, value, **bounds))
    values = check_array(name, value, shape=(n_steps,))
    if n_steps:
        check_real(name, float(values.min()), **bounds)
    return np.ascontiguousarray(values)


def check_weights(average: Any, n_steps: int, steps: Floats | None) -> Floats:
    """Return the weights of an average as an array, empty for none."""
    if average is None:
        return np.empty(0)
    if isinstance(average, str):
        known = {"uniform": np.ones(n_steps), "linear": np.arange(1.0, n_steps + 1)}
        if steps is not None:
            known["step"] = steps
        return known[check_option("average", average, known)]
    weights = check_array("average", average, shape=(n_steps,))
    if (weights < 0).any():
        raise ValueError(f"average must hold weights >= 0, got {weights.min():g}")
    return np.ascontiguousarray(weights)
