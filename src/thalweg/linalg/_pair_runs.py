"""Runs a pairwise factorisation: which pairs, when to stop, what is recorded.

A state (`thalweg.linalg._pair_states`) knows how to visit pairs and how far it has come; `run` is
the loop around it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.linalg import LinAlgWarning

from thalweg._validation import check_count, check_option, check_real
from thalweg.linalg._pair_states import Columns, Gram, Pairs
from thalweg.linalg.pair_results import PairHistory, PairProgress

PIVOTINGS = ("random", "random-sweep", "cyclic", "greedy", "matching")
SHORTFALL = 0.01  # probability of missing the tolerance that the default number of sweeps allows
SPARE_SWEEPS = 5
TINY = 1e-300


@dataclass(frozen=True)
class Options:
    """Settings of a run, checked."""

    pivoting: str
    tol: float | None
    max_sweeps: int | None
    rng: np.random.Generator
    callback: Callable[[PairProgress], Any] | None
    track: bool
    executor: Executor | None

    @classmethod
    def check(
        cls,
        pivoting: str,
        tol: float | None,
        max_sweeps: int | None,
        rng: Any,
        callback: Callable[[PairProgress], Any] | None,
        track: bool,
        executor: Executor | None = None,
    ) -> Options:
        """Read the settings that all factorisations share."""
        check_option("pivoting", pivoting, PIVOTINGS)
        if tol is not None:
            tol = check_real("tol", tol, above=0)
        if max_sweeps is not None:
            max_sweeps = check_count("max_sweeps", max_sweeps)
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable, got {callback!r}")
        if executor is not None and pivoting != "matching":
            raise ValueError(f"executor needs pivoting='matching', got pivoting={pivoting!r}")
        rng = np.random.default_rng(rng)
        return cls(pivoting, tol, max_sweeps, rng, callback, track, executor)


@dataclass(frozen=True)
class Run:
    """How a run went."""

    steps: int
    sweeps: int
    converged: bool
    potential: float
    history: PairHistory | None


def run(state: Columns | Gram, options: Options) -> Run:
    """Do sweeps until the state is diagonal to the tolerance or their number is used up."""
    tol = options.tol if options.tol is not None else state.default_tol
    limit = options.max_sweeps
    if limit is None:
        gap = math.log(max(state.start, TINY)) - 2 * math.log(tol) - math.log(SHORTFALL)
        limit = SPARE_SWEEPS + max(0, math.ceil(gap))
    draw = partial(draw_pairs, options.pivoting, state.n, options.rng)
    follow = options.track or options.callback is not None
    records: list[PairProgress] = []
    sweeps = steps = 0
    off = state.off_diagonal()
    try:
        while True:
            if follow:
                condition = state.condition()
                records.append(PairProgress(sweeps, steps, state.potential(), off, condition))
                if options.callback is not None:
                    options.callback(records[-1])
            if off <= tol or sweeps == limit:
                break
            steps += state.sweep(draw, options.executor, tol)
            sweeps += 1
            off = state.off_diagonal()
    except StopIteration:
        pass
    else:
        if off > tol:
            warnings.warn(
                f"not diagonal after max_sweeps={limit}: {off:.2g} is left, tol is {tol:.2g}",
                LinAlgWarning,
                stacklevel=3,
            )
    return Run(
        steps,
        sweeps,
        bool(off <= tol),
        state.start if state.definite else math.nan,
        history_of(records) if follow else None,
    )


def history_of(records: list[PairProgress]) -> PairHistory:
    """Turn the records of a run into arrays."""
    return PairHistory(
        np.array([r.steps for r in records], dtype=np.int64),
        np.array([r.potential for r in records]),
        np.array([r.off_diagonal for r in records]),
        np.array([r.condition for r in records]),
    )


def draw_pairs(pivoting: str, n: int, rng: np.random.Generator) -> Pairs | None:
    """Return the pairs i < j of one sweep, shape (n (n - 1) / 2, 2); None if chosen on the way."""
    if pivoting == "greedy":
        return None
    count = n * (n - 1) // 2
    if pivoting == "random":
        i, j = rng.integers(n, size=count), rng.integers(n - 1, size=count)
        j += j >= i
        return np.sort(np.stack([i, j], axis=1), axis=1)
    if pivoting == "matching":
        rounds = n - 1 if n % 2 == 0 else n
        order = rng.permuted(np.tile(np.arange(n), (rounds, 1)), axis=1)[:, : n // 2 * 2]
        return np.sort(order.reshape(-1, 2), axis=1)
    pairs = np.stack(np.triu_indices(n, 1), axis=1)
    return rng.permutation(pairs) if pivoting == "random-sweep" else pairs
