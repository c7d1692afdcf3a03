"""Runs many studies side by side: on the processes of one machine or on any executor."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from thalweg._optional import MissingExtraError
from thalweg.study.claims import Preset
from thalweg.study.environment import THREAD_VARIABLES, describe_environment
from thalweg.study.record import Outcome, Record
from thalweg.study.runner import run_study


def run_many(
    slugs: Iterable[str], executor: Executor, *, preset: Preset = "quick", seed: int = 0
) -> Iterator[Outcome]:
    """Run studies on an executor and yield each outcome as it ends.

    Parameters
    ----------
    slugs : iterable of str
        The papers.
    executor : concurrent.futures.Executor
        `local_executor`, `dask_executor` or any other whose workers can import thalweg.
    preset, seed
        As for `thalweg.study.run_study`.

    Yields
    ------
    Outcome
        In the order of ending; a study whose worker died gives a record in the state ``"failed"``.
    """
    futures: dict[Future[Outcome], str] = {
        executor.submit(run_study, slug, preset, seed=seed): slug for slug in slugs
    }
    try:
        for future in as_completed(futures):
            try:
                yield future.result()
            except Exception as error:
                yield Outcome(_lost(futures[future], preset, seed, error))
    finally:
        for future in futures:
            future.cancel()


@contextmanager
def local_executor(jobs: int) -> Iterator[Executor]:
    """Give a pool of `jobs` fresh processes, one thread each in numerical libraries."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context) as executor:
            yield executor
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """Give an executor on the Dask scheduler at `address`, such as ``tcp://host:8786``.

    Raises
    ------
    MissingExtraError
        If Dask is not installed.
    ValueError
        If no scheduler answers there.
    """
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise MissingExtraError("dask") from error
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--scheduler: no Dask scheduler answers at {address!r} ({type(error).__name__})"
        ) from error
    with client:
        yield client.get_executor(pure=False)


def _lost(slug: str, preset: Preset, seed: int, error: Exception) -> Record:
    empty: dict[str, Any] = {"setup": {}, "claims": [], "results": {}}
    return Record(
        paper=slug,
        preset=preset,
        seed=seed,
        state="failed",
        started=datetime.now(UTC).isoformat(timespec="microseconds").removesuffix("+00:00"),
        wall_seconds=0.0,
        cpu_seconds=0.0,
        peak_memory_mib=0.0,
        environment=describe_environment(),
        message=f"the worker was lost: {type(error).__name__}: {error}",
        **empty,
    )
