"""Runs of methods on finite sums that also see curvature: their cost, their batches, their end.

`Counted` is a problem that counts what it is asked, refuses what is not finite and spreads large
means over an executor; `Batches` draws as `thalweg.descent.sgd` does; `follow` takes the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_array, check_count, check_real
from thalweg.descent import _stochastic_kernels as kernels

Floats = NDArray[np.float64]
Batch = NDArray[np.int64] | None
"""Indices of components; None is all of them."""
StepRule = float | ArrayLike | Callable[[int], float]
Callback = Callable[[OptimizeResult], object]

BLOCKS = 16
"""Pieces of a mean that an executor gets: fixed, so that the sum does not depend on the workers."""

DONE, CONVERGED, BROKEN, STOPPED = 1, 0, 2, 99


class BrokenError(Exception):
    """Raised where a run cannot go on: its last point is returned as a failure."""


class ConvergedError(Exception):
    """Raised by a step that finds the run at its end."""


class Counted:
    """A problem that counts component gradients, Hessian products and values.

    Parameters
    ----------
    problem : FiniteSum or alike
        ``n``, ``dim``, ``value``, ``gradient`` and what the method needs besides.
    needs : tuple of str
        Further methods that it must have.
    executor : Executor, optional
        Evaluates the means over more than `BLOCKS` components, in blocks.

    Attributes
    ----------
    n_grad : int
        Component gradients and products with Hessians of components so far.
    n_value : int
        Component values so far.
    """

    def __init__(
        self, problem: Any, needs: tuple[str, ...] = (), executor: Executor | None = None
    ) -> None:
        wanted = ("n", "dim", "value", "gradient", *needs)
        missing = [name for name in wanted if not hasattr(problem, name)]
        if missing:
            raise TypeError(
                f"problem must have {', '.join(wanted)}; {type(problem).__name__} lacks "
                f"{', '.join(missing)}"
            )
        self.problem, self.executor = problem, executor
        self.n, self.dim = int(problem.n), int(problem.dim)
        self.n_grad = self.n_value = 0

    def value(self, x: Floats, idx: Batch = None) -> float:
        """Return the mean value, which may be infinite or NaN."""
        self.n_value += self.size(idx)
        return float(self._mean("value", (x,), idx))

    def gradient(self, x: Floats, idx: Batch = None) -> Floats:
        """Return the mean gradient."""
        return self._vector("gradient", (x,), idx)

    def hessp(self, x: Floats, v: Floats, idx: Batch = None) -> Floats:
        """Return the product of the mean Hessian with `v`."""
        return self._vector("hessp", (x, v), idx)

    def product(self, by: Callable[..., Floats], x: Floats, v: Floats, idx: Batch) -> Floats:
        """Return ``by(problem, x, v, idx)``, counted as a Hessian product."""
        self.n_grad += self.size(idx)
        return _finite("a curvature product", self._blocks(by, (x, v), idx))

    def size(self, idx: Batch) -> int:
        """Return how many components `idx` stands for."""
        return self.n if idx is None else len(idx)

    def _vector(self, name: str, args: tuple[Floats, ...], idx: Batch) -> Floats:
        self.n_grad += self.size(idx)
        return _finite(name, self._mean(name, args, idx))

    def _mean(self, name: str, args: tuple[Floats, ...], idx: Batch) -> Any:
        if self.executor is None or self.size(idx) <= BLOCKS:
            return getattr(self.problem, name)(*args, idx)
        return self._blocks(_Method(name), args, idx)

    def _blocks(self, by: Callable[..., Any], args: tuple[Floats, ...], idx: Batch) -> Any:
        if self.executor is None or self.size(idx) <= BLOCKS:
            return by(self.problem, *args, idx)
        rows = np.arange(self.n) if idx is None else idx
        parts = np.array_split(rows, BLOCKS)
        futures = [self.executor.submit(by, self.problem, *args, part) for part in parts]
        return sum(
            (len(part) / len(rows)) * np.asarray(future.result())
            for part, future in zip(parts, futures, strict=True)
        )


class _Method:
    """Calls a method by name; process pools can pickle it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, problem: Any, *args: Any) -> Any:
        return getattr(problem, self.name)(*args)


class Batches:
    """Draws batches, one after another, by the random numbers of `thalweg.descent.sgd`."""

    def __init__(self, rng: np.random.Generator, n: int) -> None:
        self.rng, self.n, self.order = rng, n, np.arange(n)

    def draw(self, size: int | None, replace: bool = False) -> Batch:
        """Return `size` components, or None for all: if `size` is None, or n without repeats."""
        if size is None or (size == self.n and not replace):
            return None
        return kernels.draw_batches(self.rng.random((1, size)), self.n, replace, self.order)[0]


def follow(
    counted: Counted,
    start: Floats,
    step: Callable[[Floats, int], Floats],
    *,
    n_steps: int,
    record: bool,
    callback: Callback | None,
    trace: dict[str, list[Any]] | None = None,
    converges: bool = False,
) -> OptimizeResult:
    """Take steps ``x <- step(x, k)``, k = 1, 2, ..., and say how they ended.

    `trace` holds lists that the method fills as it goes, one entry a point; they join ``history``.
    With `converges`, success is to have raised ConvergedError; without, to have done all steps.
    """
    x, nit = start, 0
    status = CONVERGED if not converges else DONE
    message = f"took {n_steps} steps"
    points, costs = [x], [0]
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            for k in range(1, n_steps + 1):
                moved = step(x, k)
                if not np.isfinite(moved).all():
                    raise BrokenError(f"x left the finite numbers at step {k}; take a smaller step")
                x, nit = moved, k
                costs.append(counted.n_grad)
                if record:
                    points.append(x)
                if callback is not None:
                    callback(OptimizeResult(x=x.copy(), nit=nit, n_grad=counted.n_grad))
        except StopIteration:
            status, message = STOPPED, f"stopped by callback after {nit} steps"
        except ConvergedError as end:
            status, message = CONVERGED, str(end)
        except BrokenError as error:
            status, message = BROKEN, str(error)
        fun = float(counted.problem.value(x))
    n_grad, n_value = counted.n_grad, counted.n_value
    history: dict[str, Any] = {}
    if record:
        history = {"x": np.array(points), "n_grad": np.array(costs)}
        history |= {name: np.array(values) for name, values in (trace or {}).items()}
    return OptimizeResult(
        x=x.copy(),
        fun=fun,
        nit=nit,
        n_grad=n_grad,
        n_value=n_value,
        passes=n_grad / counted.n,
        success=status == CONVERGED,
        status=status,
        message=message,
        history=history,
    )


def check_point(counted: Counted, x0: ArrayLike) -> Floats:
    """Return the start as an array of its own."""
    return check_array("x0", x0, shape=(counted.dim,)).copy()


def check_batch(name: str, size: int | None, n: int) -> int | None:
    """Return a batch size from 1 to n; None stands for all."""
    return None if size is None else check_count(name, size, at_most=n)


def check_steps(value: Any, n_steps: int) -> Callable[[int], float]:
    """Return the step lengths, a number or a callable of k = 1, 2, ..., as a checked callable."""
    if callable(value):
        return lambda k: check_real(f"step({k})", value(k), above=0)
    if np.ndim(value) == 0:
        length = check_real("step", value, above=0)
        return lambda k: length
    lengths = check_array("step", value, shape=(n_steps,))
    if n_steps:
        check_real("step", float(lengths.min()), above=0)
    return lambda k: float(lengths[k - 1])


def check_callback(callback: Any) -> None:
    """Refuse a callback that cannot be called, before any work."""
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, got {callback!r}")


def _finite(name: str, value: Any) -> Floats:
    array = np.asarray(value, dtype=np.float64)
    if not np.isfinite(array).all():
        raise BrokenError(f"{name} returned a value that is not finite")
    return array
