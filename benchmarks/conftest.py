"""The `measure` fixture: one entrant of a comparison, timed by pytest-benchmark.

A comparison is one parametrised test. All entrants of a workload run in one session, one after
another, on the same data; `table.py` sets ours beside each peer.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def measure(benchmark: Any) -> Callable[..., Any]:
    """Time one entrant.

    ``measure(run, workload=..., entrant=..., accuracy=..., peer=..., target=..., rounds=5)``

    run : callable without arguments; what is timed. Called once before timing.
    workload : one line that says what is computed, the same for all entrants of a comparison.
    entrant : who computes it; ours begins with "thalweg".
    accuracy : callable from the result of `run` to a number, and its name: ``("error", fn)``.
    peer : distribution that must be installed ("POT"), None for ours or for our own baseline.
    target : the least ratio peer/ours that we want, None where there is none.
    rounds : how often `run` is timed; the table shows the fastest.
    setup : callable run untimed before each round; its return value is passed to `run`.
    """

    def run_entrant(
        run: Callable[..., Any],
        *,
        workload: str,
        entrant: str,
        accuracy: tuple[str, Callable[[Any], float]],
        peer: str | None = None,
        target: float | None = None,
        rounds: int = 5,
        setup: Callable[[], Any] | None = None,
    ) -> None:
        benchmark.group = workload
        benchmark.extra_info.update(
            workload=workload, entrant=entrant, peer=peer, target=target, measure=accuracy[0]
        )
        if peer is not None:
            try:
                benchmark.extra_info["version"] = importlib.metadata.version(peer)
            except importlib.metadata.PackageNotFoundError:
                pytest.skip(f"missing peer: {peer} (make bench installs it)")

        def prepare() -> tuple[tuple[Any, ...], dict[str, Any]]:
            return (() if setup is None else (setup(),)), {}

        result = run(*prepare()[0])
        benchmark.extra_info["accuracy"] = float(accuracy[1](result))
        benchmark.pedantic(run, setup=prepare, rounds=rounds, iterations=1)

    return run_entrant
