"""Iterations on the states of a feedforward computation, in NumPy arrays or torch tensors."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import is_torch_tensor

CONVERGED, MAX_ITER, NOT_FINITE, STOPPED = range(4)

Integers = NDArray[np.intp]


class Run:
    """The states under way, and the counts so far.

    A stage is a range of states that is solved on its own. It is cut into groups of `group`
    states: an iteration goes through each group in order, from the last iterate of the others.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        s: Any,
        args: tuple[Any, ...],
        group: int,
        tol: float,
        max_iter: int | None,
        shrink: bool,
        executor: Executor | None,
        callback: Callable[[OptimizeResult], Any] | None,
    ) -> None:
        self.fun, self.args, self.group = fun, args, group
        self.tol, self.max_iter, self.shrink = tol, max_iter, shrink
        self.executor, self.callback = executor, callback
        self.s, self.start = copy_of(s), s
        self.nit = self.nfev = 0
        self.history: list[float] = []
        self.block_iterations: list[int] = []
        self.status = CONVERGED
        self.bad_state: int | None = None

    def solve(self, begin: int, end: int) -> None:
        """Iterate on the states from `begin` up to `end` until they are final."""
        final = begin
        self.block_iterations.append(0)
        while final < end:
            first = final if self.shrink else begin
            calls = min(self.group, end - first)
            if self.max_iter is not None and self.nit + calls > self.max_iter:
                self.status = MAX_ITER
                return
            old = self.s[first:end]
            old = old if self.group == 1 else copy_of(old)
            new = self._iterate(first, end)
            changes = changes_of(new, old)
            self.s[first:end] = new
            self.nit += calls
            self.nfev += end - first
            self.block_iterations[-1] += 1
            largest = float(changes.max())
            self.history.append(np.inf if math.isnan(largest) else largest)
            final = self._final(begin, first, end, changes)
            if self._is_broken(first, final, changes) or self._is_stopped(final):
                return

    def _final(self, begin: int, first: int, end: int, changes: NDArray[np.float64]) -> int:
        """One past the last state known to be final.

        What comes before the first change was consistent already, and the group in which it
        happened was computed from that alone.
        """
        if changes.max() <= self.tol:
            return end
        changed = first + int(np.argmax(changes != 0))
        return min(begin + ((changed - begin) // self.group + 1) * self.group, end)

    def _is_broken(self, first: int, final: int, changes: NDArray[np.float64]) -> bool:
        if math.isfinite(self.history[-1]):
            return False
        for t in first + np.flatnonzero(~np.isfinite(changes[: final - first])):
            if not is_finite(self.s[int(t)]):
                self.status, self.bad_state = NOT_FINITE, int(t)
                self.s[t:] = self.start[t:]
                return True
        return False

    def _is_stopped(self, final: int) -> bool:
        if self.callback is None:
            return False
        state = OptimizeResult(
            x=self.s, nit=self.nit, nfev=self.nfev, change=self.history[-1], final=final
        )
        try:
            self.callback(state)
        except StopIteration:
            self.status = STOPPED
            return True
        return False

    def _iterate(self, first: int, end: int) -> Any:
        if self.group > 1:
            return self._iterate_groups(first, end)
        idx = np.arange(first, end)
        workers = 1 if self.executor is None else min(worker_count(self.executor), len(idx))
        if self.executor is None or workers == 1:
            return evaluate(self.fun, self.s, idx, self.args)
        futures = [
            self.executor.submit(evaluate, self.fun, self.s, chunk, self.args)
            for chunk in np.array_split(idx, workers)
        ]
        return joined([future.result() for future in futures])

    def _iterate_groups(self, first: int, end: int) -> Any:
        starts = range(first, end, self.group)
        ranges = [(start, min(start + self.group, end)) for start in starts]
        if self.executor is None:
            for low, high in reversed(ranges):  # no group reads those that are already new
                go_through(self.fun, self.s, low, high, self.args)
            return self.s[first:end]
        futures = [
            self.executor.submit(go_through_copy, self.fun, self.s, low, high, self.args)
            for low, high in ranges
        ]
        return joined([future.result() for future in futures])


def go_through(fun: Callable[..., Any], s: Any, low: int, high: int, args: tuple[Any, ...]) -> None:
    """Update the states from `low` up to `high` in place, one after another."""
    for t in range(low, high):
        s[t : t + 1] = evaluate(fun, s, np.array([t]), args)


def go_through_copy(
    fun: Callable[..., Any], s: Any, low: int, high: int, args: tuple[Any, ...]
) -> Any:
    """Return the states from `low` up to `high` after going through them in order."""
    s = copy_of(s)
    go_through(fun, s, low, high, args)
    return s[low:high]


def evaluate(fun: Callable[..., Any], s: Any, idx: Integers, args: tuple[Any, ...]) -> Any:
    """Return what `fun` gives for the states `idx`, checked for shape and kind."""
    values = fun(s, idx, *args)
    if is_torch_tensor(s):
        if not is_torch_tensor(values):
            raise ValueError(f"fun must return a tensor as s0 is, got {type(values).__name__}")
        values = values.detach()
        if values.untyped_storage().data_ptr() == s.untyped_storage().data_ptr():
            values = values.clone()
    else:
        values = np.asarray(values)
    wanted = (len(idx), *s.shape[1:])
    if tuple(values.shape) != wanted:
        raise ValueError(
            f"fun must return shape {wanted} for {len(idx)} states of s0's shape "
            f"{tuple(s.shape)}, got {tuple(values.shape)}"
        )
    if kind_of(values) != kind_of(s):
        raise ValueError(
            f"fun must return the kind of number of s0, {s.dtype} of shape {wanted}, "
            f"got {values.dtype} of shape {tuple(values.shape)}"
        )
    return values


def read_states(s0: Any) -> Any:
    """Return `s0` as an array or a detached tensor; TypeError or ValueError if it cannot be."""
    s = s0.detach() if is_torch_tensor(s0) else np.asarray(s0)
    if not is_torch_tensor(s) and s.dtype.kind not in "biufc":
        raise TypeError(f"s0 must be an array of numbers, got {s.dtype}")
    if len(s.shape) < 1 or 0 in s.shape:
        raise ValueError(f"s0 must have shape (T, ...) and not be empty, got {tuple(s.shape)}")
    if not is_finite(s):
        raise ValueError("s0 must be finite, got NaN or infinity")
    return s


def check_reads(fun: Callable[..., Any], s: Any, args: tuple[Any, ...]) -> None:
    """Raise ValueError if a state changes when itself and later ones are others."""
    moved = perturbed(s)
    for t in range(len(s)):
        idx = np.array([t])
        mixed = copy_of(s)
        mixed[t:] = moved[t:]
        before, after = evaluate(fun, copy_of(s), idx, args), evaluate(fun, mixed, idx, args)
        if changes_of(after, before)[0] != 0:
            raise ValueError(f"fun must compute state t from s[:t] alone, but s[{t}:] moves {t}")


def perturbed(s: Any) -> Any:
    """Return the states with each entry changed, finite, by random amounts where they can be."""
    if kind_of(s) == "b":
        return ~s
    if kind_of(s) == "i":
        return s ^ 1
    noise = 1 + np.random.default_rng(0).exponential(size=tuple(s.shape))
    if is_torch_tensor(s):
        return s + s.new_tensor(noise)
    return (s + noise).astype(s.dtype)


def changes_of(new: Any, old: Any) -> NDArray[np.float64]:
    """Return the largest change in each state; NaN or infinite where one of them is not finite."""
    if is_torch_tensor(new):
        if kind_of(new) in "bi":
            changes = (new.double() - old.double()).abs().maximum((new != old).double())
        else:
            changes = new - old
            changes = changes.abs() if changes.is_complex() else changes.abs_()
        if changes.ndim > 1:
            changes = changes.flatten(1).amax(dim=1)
        return changes.double().cpu().numpy()
    if kind_of(new) in "bi":
        changes = np.abs(new.astype(np.float64) - old.astype(np.float64))
        changes = np.maximum(changes, new != old)
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            changes = np.abs(new - old)
    return changes.reshape(len(new), -1).max(axis=1).astype(np.float64)


def kind_of(s: Any) -> str:
    """Return b, i, f or c: booleans, integers, real or complex numbers."""
    if is_torch_tensor(s):
        if s.is_complex() or s.is_floating_point():
            return "c" if s.is_complex() else "f"
        return "b" if str(s.dtype) == "torch.bool" else "i"
    return "i" if s.dtype.kind == "u" else s.dtype.kind


def is_finite(s: Any) -> bool:
    """Whether all entries are finite."""
    return bool(s.isfinite().all()) if is_torch_tensor(s) else bool(np.isfinite(s).all())


def copy_of(s: Any) -> Any:
    """Return a copy, contiguous."""
    return s.clone() if is_torch_tensor(s) else np.array(s, order="C")


def joined(parts: list[Any]) -> Any:
    """Return the parts as one array or tensor, along the first axis."""
    if is_torch_tensor(parts[0]):
        from thalweg._torch import torch

        return torch.cat(parts)
    return np.concatenate(parts)


def worker_count(executor: Executor) -> int:
    """Return how many chunks to cut work into for an executor."""
    return getattr(executor, "_max_workers", None) or os.cpu_count() or 1
